"""The model: lists and dicts that know what a journal has to hold and to answer.

Knows nothing of segments, indexes, threads or bounds. A commit is judged by scanning all
that was written before it, in the order in which the guide names the checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from batpak import AppendReceipt, Coordinate, EventKind, Item, Prior, Region
from batpak.errors import BatpakError, ConditionFailed, ExpectationFailed, IdempotencyConflict
from batpak.event import FLAG_KEYED
from batpak.ids import CausationId, CorrelationId
from batpak.kinds import SYSTEM_LOG_CHECKPOINT

LIFECYCLE = Coordinate("batpak:store", "batpak:lifecycle")


@dataclass
class Kept:
    """An event as the model knows it; the journal's own have no `raw`."""

    sequence: int
    coordinate: Coordinate
    kind: EventKind
    clock: int
    raw: bytes | None = None
    lane: int = 0
    depth: int = 0
    flags: int = 0
    extensions: dict[str, bytes] = field(default_factory=dict[str, bytes])
    cause: bytes | Kept | None = None
    """The id of the event that caused it, or that event, of the same commit."""
    event_id: bytes | None = None
    """None as long as nobody was told."""
    event_hash: bytes | None = None
    receipt: AppendReceipt | None = None
    erased_by: int | None = None
    """Sequence of the event that erased the payload."""
    is_held: bool = True
    """Whether the segments still hold the payload."""

    @property
    def cause_id(self) -> bytes | None:
        """The id of the event that caused it."""
        return self.cause.event_id if isinstance(self.cause, Kept) else self.cause

    @property
    def is_own(self) -> bool:
        """Whether the journal wrote it about itself."""
        return self.coordinate == LIFECYCLE


@dataclass(frozen=True)
class Wanted:
    """One event to write, with everything that a rule had to look up."""

    coordinate: Coordinate
    kind: EventKind
    payload: Any
    raw: bytes
    is_raw: bool
    lane: int
    depth: int
    flags: int
    extensions: dict[str, bytes]
    key: bytes | None
    cause: bytes | int | None
    """An earlier event's id, or the place of one in the same commit."""

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `Item`, `append` and the others, but for the payload's."""
        links: dict[str, Any] = {}
        if isinstance(self.cause, int):
            links = {"correlation": Prior(self.cause), "causation": Prior(self.cause)}
        elif self.cause is not None:
            links = {
                "correlation": CorrelationId.from_bytes(self.cause),
                "causation": CausationId.from_bytes(self.cause),
            }
        return {
            "key": self.key,
            "lane": self.lane,
            "depth": self.depth,
            "flags": self.flags,
            "extensions": self.extensions,
            **links,
        }

    @property
    def item(self) -> Item:
        """The same for a batch."""
        if self.is_raw:
            return Item.raw(self.coordinate, self.kind, self.payload, **self.options)
        return Item(self.coordinate, self.payload, kind=self.kind, **self.options)


@dataclass(frozen=True)
class Commit:
    """Events to be written together, and under which conditions."""

    events: Sequence[Wanted]
    expect: tuple[str, int] | None = None
    """An entity, and the clock that its next event has to get."""
    ruled_out: tuple[Region, ...] = ()
    after: int | None = None
    is_strict: bool = True
    regions_first: bool = True
    """Whether what is ruled out is looked for before clocks are compared."""


@dataclass
class Outcome:
    """What a commit has to come to: one of the three."""

    written: list[Kept] = field(default_factory=list[Kept])
    replayed: list[Kept] = field(default_factory=list[Kept])
    refused: type[BatpakError] | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the refusal says."""
    found: Sequence[int] = ()
    """Sequences one of which a ConditionFailed names."""


@dataclass
class Book:
    """All events in order, and what follows from them."""

    events: list[Kept] = field(default_factory=list[Kept])
    known: dict[bytes, Kept] = field(default_factory=dict[bytes, Kept])
    """Events of writers by id; keys are ids."""
    clocks: Counter[str] = field(default_factory=Counter[str])
    checkpoints: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Size and root."""

    def __len__(self) -> int:
        return len(self.events)

    def copy(self) -> Book:
        """As it is now, for a snapshot."""
        events = [replace(kept) for kept in self.events]
        known = {event_id: events[kept.sequence] for event_id, kept in self.known.items()}
        return Book(events, known, Counter(self.clocks), dict(self.checkpoints))

    # --- writing ---------------------------------------------------------------------

    def keep(self, coordinate: Coordinate, kind: EventKind, **known: Any) -> Kept:
        """One more event."""
        kept = Kept(len(self.events), coordinate, kind, self.clocks[coordinate.entity], **known)
        self.clocks[coordinate.entity] += 1
        self.events.append(kept)
        return kept

    def keep_own(self, kind: EventKind) -> Kept:
        """One more event that the journal writes about itself."""
        return self.keep(LIFECYCLE, kind)

    def name(self, kept: Kept, event_id: bytes, event_hash: bytes) -> None:
        """Somebody was told what an event got."""
        assert kept.event_id in (None, event_id)
        assert kept.event_hash in (None, event_hash)
        kept.event_id, kept.event_hash = event_id, event_hash
        if not kept.is_own:
            self.known[event_id] = kept

    def shape(self, commit: Commit) -> Outcome | None:
        """The refusal of keys that can't be together, whatever the journal holds."""
        keys = [wanted.key for wanted in commit.events]
        keyed = [key is not None for key in keys]
        if any(keyed) and not all(keyed):
            return _conflict("mixed-keys", keyed.index(False))
        for index, key in enumerate(keys):
            if key is not None and key in keys[:index]:
                return _conflict("duplicate-key", index)
        return None

    def commit(self, commit: Commit) -> Outcome:
        """Write it if it may be written; what has to come of it."""
        refusal = self.shape(commit)
        if refusal is not None:
            return refusal
        if commit.events[0].key is not None:
            hits = [wanted.key in self.known for wanted in commit.events]
            if len(set(hits)) > 1:
                return _conflict("partial-replay", hits.index(not hits[0]))
            if hits[0]:
                return self._replay(commit)
        refusals = [self._ruled_out(commit), self._unexpected(commit)]
        if not commit.regions_first:
            refusals.reverse()
        for refusal in refusals:
            if refusal is not None:
                return refusal
        written: list[Kept] = []
        for wanted in commit.events:
            kept = self.keep(
                wanted.coordinate, wanted.kind, raw=wanted.raw, lane=wanted.lane,
                depth=wanted.depth, extensions=wanted.extensions, event_id=wanted.key,
                flags=wanted.flags | (0 if wanted.key is None else FLAG_KEYED),
                cause=written[wanted.cause] if isinstance(wanted.cause, int) else wanted.cause,
            )  # fmt: skip
            if wanted.key is not None:
                self.known[wanted.key] = kept
            written.append(kept)
        return Outcome(written=written)

    def _replay(self, commit: Commit) -> Outcome:
        first = [self.known[wanted.key] for wanted in commit.events if wanted.key is not None]
        for index, (wanted, kept) in enumerate(zip(commit.events, first, strict=True)):
            if commit.is_strict:
                for name in ("coordinate", "kind", "raw"):
                    is_lost = name == "raw" and kept.erased_by is not None
                    if not is_lost and getattr(wanted, name) != getattr(kept, name):
                        return _conflict({"raw": "payload"}.get(name, name), index)
        return Outcome(replayed=first)

    def _ruled_out(self, commit: Commit) -> Outcome | None:
        low = 0 if commit.after is None else commit.after + 1
        found = [
            kept.sequence
            for kept in self.events[low:]
            if any(region.matches(kept) for region in commit.ruled_out)
        ]
        return Outcome(refused=ConditionFailed, found=found) if found else None

    def _unexpected(self, commit: Commit) -> Outcome | None:
        if commit.expect is None:
            return None
        entity, clock = commit.expect
        actual = self.clocks[entity]
        if actual == clock:
            return None
        facts = {
            "entity": entity,
            "actual": actual - 1 if actual else None,
            "expected": clock - 1 if clock else None,
        }
        return Outcome(refused=ExpectationFailed, facts=facts)

    # --- erasing and proving -----------------------------------------------------------

    def erase(self, sequences: set[int], by: int) -> None:
        """The erasure event `by` names these."""
        for sequence in sequences:
            self.events[sequence].erased_by = by

    @property
    def only_checkpoints_are_new(self) -> bool:
        """Whether there is nothing that a further checkpoint would say."""
        if not self.checkpoints:
            return False
        newer = self.events[max(self.checkpoints) :]
        return all(kept.is_own and kept.kind == SYSTEM_LOG_CHECKPOINT for kept in newer)


def _conflict(reason: str, index: int) -> Outcome:
    return Outcome(refused=IdempotencyConflict, facts={"reason": reason, "index": index})
