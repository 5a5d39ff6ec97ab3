"""Judge a journal as a stranger would after anything that may happen to it.

`Ledger` keeps what was attempted and what the journal said of it; `check_journal`
opens the journal on healthy files and holds it to that; `check_order` goes through a
recorded run and asks whether each promise came after the syncs that it needs. None of
them uses more than public calls and the bytes on the disk.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batpak import Coordinate, EventKind, Item, Store
from batpak.errors import BatpakError, Indeterminate, NotAJournal
from batpak.event import Event, PayloadState
from batpak.ids import EventId
from batpak.receipt import AppendReceipt
from tests.support.faulty_files import DISK, SYNCS, Operation
from tools import read_segment

KIND = EventKind(0xF, 1)
SCOPE = "room:dungeon"
SYSTEM = "batpak:store"
HEADER = 128


class Outcome(enum.Enum):
    """What the caller of an append knows afterwards."""

    ACKNOWLEDGED = "there for ever"
    REFUSED = "never there"
    UNKNOWN = "there whole, or not at all"


@dataclass(slots=True)
class Attempt:
    """One commit that was asked for: entity and number of each of its events."""

    events: list[tuple[str, int]]
    outcome: Outcome = Outcome.UNKNOWN
    receipts: tuple[AppendReceipt, ...] = ()


@dataclass(slots=True)
class Ledger:
    """Attempts in order. Numbers are never used twice, so each event is recognisable."""

    attempts: list[Attempt] = field(default_factory=list[Attempt])
    numbers: int = 0
    erased: dict[EventId, Outcome] = field(default_factory=dict[EventId, Outcome])
    """Acknowledged events whose payload somebody asked to erase, and what came of it."""

    def copy(self) -> Ledger:
        """One that goes on by itself; what stands in it is not changed any more."""
        return Ledger(list(self.attempts), self.numbers, dict(self.erased))

    @property
    def receipts(self) -> list[AppendReceipt]:
        """Of every acknowledged event."""
        return [receipt for attempt in self.attempts for receipt in attempt.receipts]

    def commit(
        self, store: Store, *entities: str, padding: int = 0, durable: bool = False
    ) -> tuple[AppendReceipt, ...]:
        """Append one event to each of `entities` in one commit, and note what came of it."""
        attempt = Attempt([(entity, self.numbers + i) for i, entity in enumerate(entities)])
        self.numbers += len(entities)
        self.attempts.append(attempt)
        items = [
            Item(Coordinate(entity, SCOPE), {"n": number, "pad": bytes(padding)}, kind=KIND)
            for entity, number in attempt.events
        ]
        try:
            if len(items) == 1:
                item = items[0]
                receipts = (
                    store.append(item.coordinate, item.payload, kind=KIND, durable=durable),
                )
            else:
                receipts = store.append_many(items, durable=durable)
        except Indeterminate:
            raise
        except BatpakError:
            attempt.outcome = Outcome.REFUSED
            raise
        attempt.outcome, attempt.receipts = Outcome.ACKNOWLEDGED, receipts
        return receipts

    def erase(self, store: Store, *entities: str) -> None:
        """Erase all acknowledged events of `entities`, and note what came of it."""
        ids = [r.event_id for r in self.receipts if r.coordinate.entity in entities]
        fresh = [each for each in ids if each not in self.erased]
        self.erased |= dict.fromkeys(fresh, Outcome.UNKNOWN)
        try:
            store.erase(ids, reason="asked for")
        except Indeterminate:
            raise
        except BatpakError:
            for each in fresh:
                del self.erased[each]
            raise
        self.erased |= dict.fromkeys(ids, Outcome.ACKNOWLEDGED)

    def number_of(self, event: Event) -> tuple[str, int]:
        """As the function, also of an event whose payload was erased."""
        if event.payload_state is PayloadState.PRESENT:
            assert self.erased.get(event.event_id) is not Outcome.ACKNOWLEDGED, (
                f"{event} was erased, and its payload is there"
            )
            return number_of(event)
        assert event.event_id in self.erased, f"nobody asked to erase {event}"
        for attempt in self.attempts:
            for receipt, pair in zip(attempt.receipts, attempt.events, strict=False):
                if receipt.event_id == event.event_id:
                    return pair
        raise AssertionError(f"nobody wrote {event}")

    def explain(self, events: Iterable[Event], *, may_end_early: bool = False) -> None:
        """Assert that the users' events among `events` are what was attempted.

        Commits stand in order and whole; acknowledged ones are there, refused ones are
        not. With `may_end_early`, the journal may show less than everything.
        """
        found = [self.number_of(event) for event in events if event.coordinate.entity != SYSTEM]
        self.explain_numbers(found, may_end_early=may_end_early)

    def explain_numbers(
        self, found: Sequence[tuple[str, int]], *, may_end_early: bool = False
    ) -> None:
        """As `explain`, for the users' events by entity and number."""
        at = 0
        for attempt in self.attempts:
            part = found[at : at + len(attempt.events)]
            if part == attempt.events:
                assert attempt.outcome is not Outcome.REFUSED, f"{part} was refused and is there"
                at += len(part)
                continue
            assert not set(part[:1]) & set(attempt.events), f"a part of {attempt.events} is there"
            if may_end_early and at == len(found):
                continue
            assert attempt.outcome is not Outcome.ACKNOWLEDGED, (
                f"{attempt.events} was acknowledged and is gone: {found[at : at + 3]} in its place"
            )
        assert at == len(found), f"nobody wrote {found[at:]}"


def number_of(event: Event) -> tuple[str, int]:
    """The entity and number of one of the ledger's events."""
    value = event.value
    assert isinstance(value, dict), f"event {event.sequence} has lost its payload"
    return event.coordinate.entity, value["n"]


def fingerprint(event: Event) -> tuple[int, bytes, bytes, bytes | None]:
    """All of an event: its hash covers row and names, `raw` is the payload; None once erased."""
    raw = event.raw if event.payload_state is PayloadState.PRESENT else None
    return event.sequence, event.event_id.bytes, event.event_hash, raw


def segment_bytes(path: str) -> dict[str, bytes]:
    """Each segment file's content by name."""
    return {file.name: file.read_bytes() for file in sorted(Path(path, "segments").glob("*.seg"))}


def follow(path: str) -> list[tuple[int, bytes, bytes, bytes | None]]:
    """What a reader without the lock sees; nothing where no journal came to be."""
    try:
        reader = Store.open(path, mode="r", files=DISK)
    except NotAJournal:
        return []
    with reader:
        return [fingerprint(event) for event in reader]


def check_journal(path: str | os.PathLike[str], ledger: Ledger) -> list[Event]:
    """Hold the journal at `path` to the ledger; returns all its events.

    In turn: a reader before recovery sees nothing that recovery takes back; a writer
    opens; commits are whole, in order and as promised; receipts agree with what is
    stored; every hash verifies; a live reader agrees; opening once more changes nothing.
    """
    path = os.fspath(path)
    before = follow(path)
    with Store.open(path, files=DISK, preallocate=4096) as store:
        events = list(store)
        shown = [fingerprint(event) for event in events]
        for early, late in zip(before, shown, strict=False):
            # Recovery may adopt an erasure that the reader could not see yet.
            assert early == late or (*early[:3], None) == late, "recovery changed an event"
        assert len(before) <= len(shown), "recovery took back what a reader was shown"
        ledger.explain(events)
        for receipt in ledger.receipts:
            check_receipt(store, receipt)
        report = store.verify("full")
        assert report.ok, report.findings
        assert report.events == len(events)
        assert [event.sequence for event in events] == list(range(len(events)))
        with Store.open(path, mode="r", files=DISK) as reader:
            assert [fingerprint(event) for event in reader] == shown
        left = [
            name
            for folder in (path, os.path.join(path, "segments"))
            for name in os.listdir(folder)
            if name.endswith(".tmp")
        ]
        assert not left, f"temporary files stay: {left}"
    # A reader that shares no code with the library comes to the same hashes.
    stranger = read_segment.read_journal(Path(path))
    assert not stranger.findings, stranger.findings
    assert stranger.events == len(shown) + 1, "the close"
    kept = segment_bytes(path)
    with Store.open(path, files=DISK, preallocate=4096) as again:
        assert again.open_report.cut is None, again.open_report.cut
        assert [fingerprint(event) for event in again][: len(shown)] == shown
        assert len(again) == len(shown) + 2, "the close before, the open now"
    for name, data in segment_bytes(path).items():
        assert data.startswith(kept.get(name, b"")), f"{name} was changed by a second opening"
    return events


def check_receipt(store: Store, receipt: AppendReceipt) -> None:
    """Assert that what a receipt says is what stands in the journal."""
    event = store.get(receipt.event_id)
    assert event.sequence == receipt.sequence
    assert event.event_hash == receipt.event_hash
    assert event.prev_hash == receipt.prev_hash
    assert event.commitment == receipt.commitment
    assert event.coordinate == receipt.coordinate
    assert fingerprint(store.at(receipt.sequence)) == fingerprint(event)


def check_order(operations: Sequence[Operation], root: str) -> int:
    """Assert that a recorded run kept its promises in order; returns how many there were.

    A `mark` says that something was acknowledged as durable. By then every byte of
    the log, every file that was renamed and every new name must have been synced. A
    rename needs the content synced before it, the tail hint needs the log synced
    before it, and a shortened log needs its quarantine synced before it.
    """
    unsynced: dict[str, int] = {}
    names: dict[str, int] = {}
    promises = 0

    def pending(of: Iterable[str], why: str) -> None:
        left = sorted(os.path.relpath(path, os.path.dirname(root)) for path in of)
        assert not left, f"operation {place}, {operation}: {why}: {left}"

    for place, operation in enumerate(operations):
        name, path = operation.name, operation.path
        if name in ("pwrite", "truncate") and not path.endswith("journal.lock"):
            if path.endswith("tail.hint"):
                logs = [p for p in unsynced if p.endswith(".seg")]
                pending(logs, "the hint runs ahead of the log")
            elif name == "truncate" and path.endswith(".seg"):
                pending((p for p in {*unsynced, *names} if "quarantine" in p), "cut before kept")
            unsynced[path] = place
        elif name in ("sync_data", "sync_file"):
            unsynced.pop(path, None)
        elif name in ("create", "mkdir"):
            names.setdefault(path, place)
        elif name == "rename":
            pending([path] if path in unsynced else [], "renamed before its content was synced")
            covered = operation.target.removesuffix(".idx") + ".seg"
            pending([covered] if covered in unsynced else [], "a sidecar runs ahead of its log")
            if operation.target.endswith(".seg"):
                # It may leave out payloads, by what an event in the log says.
                logs = [p for p in unsynced if p.endswith(".seg") and p != path]
                pending(logs, "a segment is replaced before the log is durable")
            names.pop(path, None)
            names[operation.target] = place
        elif name == "unlink":
            names.pop(path, None)
            unsynced.pop(path, None)
        elif name == "sync_directory":
            for known in [p for p in names if os.path.dirname(p) == path]:
                del names[known]
        elif name == "mark":
            promises += 1
            pending((p for p in unsynced if _counts(p)), "acknowledged before it was synced")
            pending((p for p in names if _counts(p)), "acknowledged under a name not synced")
    return promises


def _counts(path: str) -> bool:
    """Whether a file's bytes and name are part of what an acknowledgement promises."""
    name = os.path.basename(path)
    # The hint is a witness that may be late; the lock is nobody's data; indexes are disposable.
    late = ("tail.hint", "journal.lock", "index")
    return not name.endswith((".idx", ".tbl", ".tmp")) and name not in late


def synced(operations: Iterable[Operation], suffix: str) -> int:
    """How many syncs there were of files or folders whose name ends so."""
    return sum(o.name in SYNCS and o.path.endswith(suffix) for o in operations)
