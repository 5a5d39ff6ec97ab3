"""Bring events of another journal into this one: once each, and with their origin.

An event keeps its id (as its key), correlation and causation, its kind and version, its
labels and its payload's bytes; sequence, clock, times and hashes are this journal's own.
Where it stood stands in `origin.*` extensions. A commit's last event also says how far
the source was read, so commit and position are one. Events that a journal writes about
itself are counted and stay where they are. Source: docs/format.md, "Imported events".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

from batpak import canonical
from batpak.coordinate import Region
from batpak.engine.preparing import check_unique_keys
from batpak.engine.system import RESERVED_ENTITY_PREFIX
from batpak.errors import (
    CanonicalError,
    EventNotFound,
    IdempotencyConflict,
    ImportSourceError,
    InvalidInput,
)
from batpak.event import Event, PayloadState
from batpak.journal.commits import Prepared
from batpak.kinds import SYSTEM_DENIAL
from batpak.receipt import encode_extensions

__all__ = ["JournalImportReport", "Source", "Target", "check_namespace", "import_journal"]

BATCH_EVENTS: Final = 1000
BATCH_BYTES: Final = 8 << 20
_BOOKKEEPING: Final = ("origin.source", "origin.position")


@dataclass(frozen=True, slots=True)
class JournalImportReport:
    """What an import met and did."""

    from_journal: UUID
    source: str
    """Under this name the journal remembers how far the import has come."""
    began_after: int | None
    """The source's sequence after which this run began; None for its first event."""
    read: int
    """Events of the region that were looked at."""
    imported: int
    known: int
    """Were here already: imported before, or of a history that both journals share."""
    lifecycle: int
    """Events that the source wrote about itself."""
    denials: int
    """Of those that were imported."""
    without_payload: int
    """Of those that were imported: the source has their payload no more."""
    seconds: float


class Source(Protocol):
    """The journal that is read."""

    @property
    def journal_id(self) -> Any: ...
    def query(self, region: Region, *, after: int | None = None) -> Iterator[Event]: ...
    def at(self, sequence: int) -> Event: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of the journal that is written to."""

    batch_max: int
    position: Callable[[str], Any]
    """What the last import from a source of this name recorded."""
    find: Callable[[bytes], Event | None]
    """The event with this id, visible or not."""
    prepare: Callable[[Event, bytes, bytes], Prepared]
    """An event to write, from one that was read, its payload and its extensions."""
    commit: Callable[[list[Prepared]], object]


def check_namespace(namespace: object) -> str:
    """The name that the caller gives the source; empty for none. Raises InvalidInput."""
    if namespace is None:
        return ""
    if isinstance(namespace, str) and namespace.isprintable():
        try:
            if 1 <= len(namespace.encode()) <= 255:
                return namespace
        except UnicodeEncodeError:
            pass
    raise InvalidInput(
        "a namespace is a printable text of 1 to 255 bytes", field="namespace", value=namespace
    )


def import_journal(
    source: Source,
    target: Target,
    region: Region,
    namespace: str,
    progress: Callable[[int], None] | None = None,
) -> JournalImportReport:
    """Append what `region` selects of `source` and `target` has not.

    Raises ImportSourceError when the source is not what an earlier run has read,
    IdempotencyConflict when an id names something else here, and as an append.
    """
    if progress is not None and not callable(progress):
        raise InvalidInput("progress= takes a function", field="progress", value=progress)
    began = time.perf_counter()
    run = _Run(source, target, region, namespace)
    after = run.resume()
    for event in source.query(region, after=after):
        run.take(event)
        if progress is not None and run.read % BATCH_EVENTS == 0:
            progress(run.read)
    run.flush()
    if progress is not None:
        progress(run.read)
    return JournalImportReport(
        source.journal_id, run.name, after, run.read, run.imported, run.known, run.lifecycle,
        run.denials, run.without_payload, time.perf_counter() - began,
    )  # fmt: skip


class _Run:
    """One import under way: what waits to be written, and the numbers."""

    def __init__(self, source: Source, target: Target, region: Region, namespace: str) -> None:
        self._source = source
        self._target = target
        self._namespace = namespace
        self._journal: bytes = source.journal_id.bytes
        # Another region or namespace of the same journal has a position of its own.
        selector = "" if region == Region.all() else f"/{region.digest().hex()[:32]}"
        label = f"/{namespace}" if namespace else ""
        self.name = f"journal:{source.journal_id}{selector}{label}"
        self._waiting: list[Event] = []
        self._bytes = 0
        self.read = self.imported = self.known = 0
        self.lifecycle = self.denials = self.without_payload = 0

    def resume(self) -> int | None:
        """The source's sequence that an earlier run came to. Raises ImportSourceError."""
        position = self._target.position(self.name)
        if position is None:
            return None
        sequence = None
        try:
            sequence = position["sequence"]
            stands = self._source.at(sequence).event_hash == position["event_hash"]
        except (EventNotFound, KeyError, TypeError):
            stands = False
        if not stands:
            raise ImportSourceError(
                "the source's history is not the one that was imported before",
                field="source",
                value=str(self._source.journal_id),
                advice="refresh() a source that was opened for reading before; a snapshot that was "
                "resumed can lose events: import it with a namespace of its own, if both histories "
                "are wanted",
            )
        return sequence

    def take(self, event: Event) -> None:
        """Count an event, and write what waits when it is enough for a commit."""
        self.read += 1
        if _is_lifecycle(event):
            self.lifecycle += 1
            return
        size = event.row.envelope_len
        if self._waiting and (
            self._bytes + size > BATCH_BYTES
            or len(self._waiting) >= min(BATCH_EVENTS, self._target.batch_max)
        ):
            self.flush()
        self._waiting.append(event)
        self._bytes += size

    def flush(self) -> None:
        """Write what waits as one commit, its position with it."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        fresh = waiting
        while True:
            fresh = [event for event in fresh if not self._is_known(event)]
            if not fresh:
                return
            last = fresh[-1]
            events = [self._prepare(event, is_last=event is last) for event in fresh]
            check_unique_keys(events)
            try:
                self._target.commit(events)
            except IdempotencyConflict:
                # Somebody else brought some of them in between: those are known now.
                if not any(self._is_known(event, count=False) for event in fresh):
                    raise
                continue
            break
        self.imported += len(fresh)
        self.denials += sum(event.kind == SYSTEM_DENIAL for event in fresh)
        self.without_payload += sum(not _has_payload(event) for event in fresh)

    def _is_known(self, event: Event, *, count: bool = True) -> bool:
        """Whether the event is here. Raises IdempotencyConflict when another has its id."""
        found = self._target.find(event.event_id.bytes)
        if found is None:
            return False
        if not _is_same(found, event):
            raise IdempotencyConflict(
                f"event {event.sequence} of the source has the id of another event here",
                sequence=found.sequence,
                reason="different-content",
                key=event.event_id.bytes.hex(),
                advice="one of the two journals gave this id to something else, or a payload that "
                "would tell is erased: compare them, and import a region without this event",
            )
        self.known += count
        return True

    def _prepare(self, event: Event, *, is_last: bool) -> Prepared:
        marks: dict[str, bytes] = {
            "origin.journal_id": self._journal,
            "origin.sequence": canonical.encode(event.sequence),
            "origin.event_hash": event.event_hash,
            "origin.timestamp_us": canonical.encode(event.timestamp_us),
        }
        if self._namespace:
            marks["origin.namespace"] = self._namespace.encode()
        earlier = _origin_of(event)
        if earlier:
            # It came from somewhere before: the whole way is kept, the last place outermost.
            marks["origin.earlier"] = canonical.encode(dict(sorted(earlier.items())))
        payload = b""
        if event.payload_state is PayloadState.PRESENT:
            payload = event.raw
        else:
            marks["origin.payload"] = event.payload_state.value.encode()
        if "payload" in earlier:
            # What stands there is no payload either, but what was put in the place of one.
            marks["origin.payload"] = earlier["payload"]
        if is_last:
            marks["origin.source"] = self.name.encode()
            marks["origin.position"] = canonical.encode(
                {"event_hash": event.event_hash, "sequence": event.sequence}
            )
        return self._target.prepare(event, payload, _extensions(event.extensions, marks))


def _is_same(found: Event, event: Event) -> bool:
    """Whether both are one event: one descends from the other, both from a third, or they agree."""
    if (found.coordinate, found.kind) != (event.coordinate, event.kind):
        return False
    if not _places_of(found).isdisjoint(_places_of(event)):
        return True
    return _has_payload(found) and _has_payload(event) and found.raw == event.raw


def _places_of(event: Event) -> set[bytes]:
    """The event's hash here, and in every journal that it came through."""
    hashes = {event.event_hash}
    origin = _origin_of(event)
    while "event_hash" in origin:
        hashes.add(origin["event_hash"])
        try:
            origin = canonical.decode(origin.get("earlier", b"\x80"), dict[str, bytes])
        except CanonicalError:
            break  # No import wrote this, so what it tells of earlier places counts for nothing.
    return hashes


def _origin_of(event: Event) -> dict[str, bytes]:
    """Where an imported event stood: its `origin` extensions, without their prefix."""
    return {
        name.removeprefix("origin."): value
        for name, value in event.extensions.items()
        if name.startswith("origin.") and name not in _BOOKKEEPING
    }


def _has_payload(event: Event) -> bool:
    return event.payload_state is PayloadState.PRESENT and "origin.payload" not in event.extensions


def _extensions(own: Mapping[str, bytes], marks: Mapping[str, bytes]) -> bytes:
    kept = {name: value for name, value in own.items() if not name.startswith("origin.")}
    return encode_extensions({**kept, **marks}, reserved_allowed=True)


def _is_lifecycle(event: Event) -> bool:
    """Whether a journal wrote it about itself. A denial is about a user's event."""
    if event.coordinate.entity.startswith(RESERVED_ENTITY_PREFIX):
        return True
    return event.kind.raw >> 12 == 0 and event.kind != SYSTEM_DENIAL
