"""One life of a journal on a disk in memory: every change, and what was promised when.

A `Machine` drives the library through its public calls and production's `Files`
protocol. It keeps what a process was told: which events are durable, which payloads were
erased and by which event, and claims about all that stands beside the log. A `Recording`
is what is left of it: every change, every promise, and what was written in the end. What
happens in a life is the workloads' business; what has to be there after a cut, the
oracle's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from batpak import Coordinate, Durability, Item, Store
from batpak.engine.compacting import CompactionReport
from batpak.engine.report import OpenReport
from batpak.errors import BatpakError
from batpak.event import Event, PayloadState
from batpak.files import replace_file
from batpak.receipt import AppendReceipt
from tests.crash.power_cuts.disk_model import PAGE, Survivors
from tests.crash.power_cuts.memory_files import EMPTY, Change, Disk, MemoryFiles, State
from tests.support.checker import KIND, SCOPE, SYSTEM, Attempt, Ledger, Outcome, fingerprint
from tests.support.faulty_files import Killed
from tests.support.regions import records

__all__ = [
    "CURSOR",
    "ENTITIES",
    "JOURNAL",
    "Claim",
    "Judged",
    "Machine",
    "Print",
    "Promise",
    "Recording",
    "Refused",
    "begin",
    "bury_store",
    "cursor_bytes",
    "opened",
    "resumed",
    "secret_of",
    "segments_of",
    "torn",
]

Print = tuple[int, bytes, bytes, bytes | None]
JOURNAL: Final = "/in/a/journal"
CURSOR: Final = JOURNAL + "/cursors/reader.cursor"
ENTITIES: Final = ("player:0", "player:1", "game", "player:1:arm")
_CURSOR_BYTES: Final = 6000
"""More than one page, so that a torn cursor is a possible state."""


class Promise(NamedTuple):
    """From change `at` on, the first `events` events are there for ever.

    So is the cursor file of version `cursor`, or a later one; 0 is none.
    """

    at: int
    events: int
    cursor: int


@dataclass(slots=True)
class Judged:
    """An opening that passed: its events, its changes, what it left."""

    shown: list[Print]
    before: State
    after: State
    disk: Disk
    report: OpenReport

    @property
    def recovered(self) -> int:
        """How many events it found; its own open event is not among them."""
        return len(self.shown) - 1


class Claim(Protocol):
    """What a life says of more than its events, held against what recovery left.

    Some of it holds after every cut; what was promised by a call that returned, only
    where that call had returned before the cut.
    """

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Raises AssertionError. `options` open the journal."""
        ...


@dataclass(slots=True)
class Recording:
    """One life: what was done to which disk, what was promised, what was written."""

    workload: str
    start: State
    log: list[Change]
    promises: list[Promise]
    truth: list[Print]
    """Every event, the first with sequence 0."""
    commits: frozenset[int]
    """Sequences at which the log may end: each commit is there whole or not at all."""
    cursors: int
    """How many versions of the cursor file were written."""
    options: dict[str, Any]
    kept: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Files that have to be there with these bytes after every recovery: second names of
    old files, and what recovery set aside."""
    erased: dict[int, int] = field(default_factory=dict[int, int])
    """Sequences of events whose payload was erased, and of the event that erased it: where
    that one is gone the payload is there, and where it is there the payload is refused."""
    claims: list[tuple[int, Claim]] = field(default_factory=list[tuple[int, Claim]])
    """Each with the number of changes after which it was promised."""

    def promised(self, cut: int) -> Promise:
        """What holds once the first `cut` changes were made."""
        best = Promise(0, 0, 0)
        for promise in self.promises:
            if promise.at <= cut:
                best = Promise(
                    promise.at,
                    max(best.events, promise.events),
                    max(best.cursor, promise.cursor),
                )
        return best


def cursor_bytes(version: int) -> bytes:
    """The content of a cursor file, recognisable as whole."""
    return f"{version:08}".encode() * (_CURSOR_BYTES // 8)


def segments_of(state: State, root: str = JOURNAL) -> dict[str, bytes]:
    """Name and bytes of each segment, oldest first."""
    folder = f"{root}/segments"
    found = {name: state.read(f"{folder}/{name}") for name in state.names(folder)}
    return {name: data for name, data in found.items() if data is not None and name[-4:] == ".seg"}


def secret_of(number: int) -> bytes:
    """What the payload of a machine's item of that number has, and nothing else anywhere."""
    return f"<secret {number:06}>".encode()


def commit_bounds(state: State) -> frozenset[int]:
    """Every sequence at which a record of an undamaged journal ends, and 0."""
    bounds = {0}
    for data in segments_of(state).values():
        bounds |= {record.base + record.count for record in records(data)}
    return frozenset(bounds)


class Machine:
    """A disk, one process at a time on it, and the promises that its stores made."""

    def __init__(
        self, draw: random.Random, start: State = EMPTY, *, path: str = JOURNAL, **options: Any
    ) -> None:
        self.draw = draw
        self.path = path
        self.disk = Disk(start)
        self.files = MemoryFiles(self.disk)
        self.options: dict[str, Any] = {
            "segment_max_bytes": 1 << 20,
            "preallocate": draw.choice((0, 2048, 8192)),
            "allow_network_filesystem": True,
            **options,
        }
        self.ledger = Ledger()
        self.promises: list[Promise] = []
        self.cursors = 0
        self.kept: dict[str, bytes] = {}
        self.own: dict[str, Any] = {}
        """Options of this machine's processes alone, such as private keys."""
        self.raws: dict[int, bytes] = {}
        self.erased: dict[int, int] = {}
        self.claims: list[tuple[int, Claim]] = []
        self.stop_before: Callable[[Change], bool] | None = None
        """Where the processes that are started from now on are killed."""
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store that is open now."""
        assert self._store is not None, "no store is open"
        return self._store

    def open(self, **options: Any) -> None:
        """Start a process and open the journal in it."""
        self.options.update(options)
        self.files.bury()
        self.files = MemoryFiles(self.disk)
        self.files.stop_before = self.stop_before
        self._store = Store.open(self.path, files=self.files, **self.options, **self.own)
        self.note()

    def note(self, receipts: Sequence[AppendReceipt] = ()) -> None:
        """Take down what the store says is durable by now, in whatever way it says so."""
        bound = self.store.frontier().durable.sequence
        if self.options.get("durability", Durability.SYNC) is Durability.SYNC:
            # What is visible in this mode is what no power cut can take back.
            bound = max(bound, len(self.store))
            assert all(receipt.durable for receipt in receipts), "SYNC waits for the disk"
        for receipt in receipts:
            if receipt.durable:
                bound = max(bound, receipt.sequence + 1)
        self.promise(events=bound)

    def promise(self, *, events: int = 0, cursor: int = 0) -> None:
        """Something is there for ever, from the next change on."""
        self.promises.append(Promise(len(self.disk.log), events, cursor))

    def commit(self, *entities: str, padding: int | None = None, durable: bool = False) -> None:
        """Append one commit, of one event where no entities are named."""
        if padding is None:
            padding = self.draw.choice((0, 30, 400, 900, 3000))
        names = entities or (self.draw.choice(ENTITIES),)
        self.note(self.ledger.commit(self.store, *names, padding=padding, durable=durable))

    def claim(self, claim: Claim) -> None:
        """Something beside the log holds for ever, from the next change on."""
        self.claims.append((len(self.disk.log), claim))

    def item(
        self, entity: str | None = None, *, padding: int = 30, key: bytes | None = None
    ) -> Item:
        """An event to write, recognisable by its number and by its payload's bytes."""
        number = self.ledger.numbers
        self.ledger.numbers += 1
        where = Coordinate(entity or self.draw.choice(ENTITIES), SCOPE)
        payload = {"n": number, "pad": secret_of(number) + bytes(padding)}
        return Item(where, payload, kind=KIND, key=key)

    def wrote(self, items: Sequence[Item], receipts: Sequence[AppendReceipt]) -> None:
        """Take down one commit that was acknowledged, and what is durable by now."""
        events = [(item.coordinate.entity, number_in(item)) for item in items]
        self.ledger.attempts.append(Attempt(events, Outcome.ACKNOWLEDGED, tuple(receipts)))
        self.note(receipts)

    def write(self, *items: Item) -> tuple[AppendReceipt, ...]:
        """Append these items as one commit."""
        receipts = append(self.store, items)
        self.wrote(items, receipts)
        return receipts

    def erase(self, what: Any) -> list[int]:
        """Erase payloads; their sequences."""
        planned = self.store.plan_erasure(what)
        named = [s for first, last in planned.sequences for s in range(first, last + 1)]
        self.raws |= {sequence: self.store.at(sequence).raw for sequence in named}
        report = self.store.erase(what, reason="asked for")
        assert report.sequences == planned.sequences, "somebody else erases"
        [receipt] = report.receipts
        self.erased |= dict.fromkeys(named, receipt.sequence)
        self.note(report.receipts)
        return named

    def compact(self) -> CompactionReport:
        """Take erased payloads out of the files; the caller claims that they are gone."""
        report = self.store.compact()
        assert report.outcome == "performed", report
        self.note()
        return report

    def sync(self) -> None:
        """Make all of it durable."""
        self.store.sync()
        self.note()

    def close(self) -> None:
        """Close cleanly: everything is durable then, the close event too."""
        written = self.store.frontier().written.sequence
        self.store.close()
        self.promise(events=written + 1)

    def die(self) -> None:
        """Kill the process; what the page cache has, the next one sees."""
        self.files.bury()
        self.stop_before = None
        if self._store is not None:
            bury_store(self._store)
            self._store = None

    def save_cursor(self) -> None:
        """Save a small file as cursors are saved; what was saved is there for ever."""
        self.cursors += 1
        replace_file(self.files, CURSOR, cursor_bytes(self.cursors))
        self.promise(cursor=self.cursors)

    def recording(self, workload: str) -> Recording:
        """What happened; the last process is killed where it still lives."""
        self.die()
        final = self.disk.state()
        reader = Disk(final)
        files = MemoryFiles(reader)
        store = Store.open(JOURNAL, files=files, **self.options)
        # All but the open event of this very look.
        events = list(store)[:-1]
        truth = [fingerprint(event) for event in events]
        commits = commit_bounds(reader.state()) - {len(events) + 1}
        # What was asked for as one commit is one, whatever records it became.
        for attempt in self.ledger.attempts:
            commits -= {receipt.sequence for receipt in attempt.receipts[1:]}
        files.bury()
        bury_store(store)
        self.check(truth, events)
        for sequence in self.erased:
            assert truth[sequence][3] is None, f"{sequence} was erased, and its payload is there"
            truth[sequence] = (*truth[sequence][:3], self.raws[sequence])
        return Recording(
            workload, self.disk.start, self.disk.log, self.promises, truth, commits,
            self.cursors, self.options, self.kept, self.erased, self.claims,
        )  # fmt: skip

    def check(self, truth: Sequence[Print], events: Sequence[Any]) -> None:
        """A life without a cut keeps all that was acknowledged, or the rest shows nothing."""
        for receipt in self.ledger.receipts:
            sequence, event_id, digest, _ = truth[receipt.sequence]
            assert (sequence, event_id) == (receipt.sequence, receipt.event_id.bytes)
            assert digest == receipt.event_hash
        mine = {
            number
            for attempt in self.ledger.attempts
            if attempt.outcome is Outcome.ACKNOWLEDGED
            for _, number in attempt.events
        }
        found = numbers_of(events) | {
            number
            for attempt in self.ledger.attempts
            for receipt, (_, number) in zip(attempt.receipts, attempt.events, strict=False)
            if receipt.sequence in self.erased
        }
        assert mine <= found, f"never written: {sorted(mine - found)}"


def number_in(item: Item) -> int:
    """The number of a machine's item."""
    payload: Any = item.payload
    return payload["n"]


def numbers_of(events: Sequence[Event]) -> set[int]:
    """The numbers of users' events that still have a payload."""
    users = [event for event in events if event.coordinate.entity != SYSTEM]
    values: list[Any] = [e.value for e in users if e.payload_state is PayloadState.PRESENT]
    return {value["n"] for value in values}


def append(store: Store, items: Sequence[Item]) -> tuple[AppendReceipt, ...]:
    """Append items as one commit, one alone as a single event."""
    if len(items) > 1:
        return store.append_many(items)
    [item] = items
    return (store.append(item.coordinate, item.payload, kind=item.kind, key=item.key),)


class Refused(AssertionError):
    """An ordinary power cut was taken for damage."""


@contextmanager
def opened(files: MemoryFiles, options: dict[str, Any], path: str = JOURNAL) -> Iterator[Store]:
    """A store whose process is killed at the end of the block."""
    try:
        store = Store.open(path, files=files, **options)
    except BatpakError as error:
        files.bury()
        raise Refused(f"an ordinary power cut is refused: {error!r}") from error
    try:
        yield store
    except BatpakError as error:
        raise AssertionError(f"what has to work after recovery fails: {error!r}") from error
    finally:
        files.bury()
        bury_store(store)


def bury_store(store: Store) -> None:
    """Let go of a store whose process is dead."""
    try:
        store.close()
    except (Killed, BatpakError):
        pass


# --- where workloads begin ---------------------------------------------------------


def begin(draw: random.Random, **options: Any) -> Machine:
    """A machine whose disk has a small journal, closed cleanly; nothing is pending."""
    first = Machine(draw, **options)
    first.open()
    first.commit(padding=100)
    first.close()
    return resumed(draw, first.disk.state(), **options)


def resumed(draw: random.Random, state: State, **options: Any) -> Machine:
    """A machine that was switched on with this on its disk."""
    machine = Machine(draw, state, **options)
    files = MemoryFiles(Disk(state))
    store = Store.open(JOURNAL, files=files, **machine.options)
    found = list(store)[:-1]
    cut = store.open_report.cut
    if cut is not None and cut.quarantine is not None:
        machine.kept[cut.quarantine] = files.disk.state().read(cut.quarantine) or b""
    files.bury()
    bury_store(store)
    # The numbers of new events must not be those of old ones.
    machine.ledger.numbers = max(numbers_of(found), default=-1) + 1
    # What recovery finds on the disk is on the disk: no later crash may take it away.
    machine.promise(events=len(found))
    return machine


def torn(draw: random.Random) -> tuple[State, dict[str, Any]]:
    """What a power cut left of unsynced appends: a log, a hole, and something behind it."""
    for _ in range(100):
        machine = begin(draw, durability=Durability.OS, preallocate=draw.choice((0, 8192)))
        machine.open()
        for _ in range(5):
            machine.commit(padding=draw.choice((900, 2500)))
        survivors = Survivors(machine.disk.start, PAGE)
        for change in machine.disk.log:
            survivors.advance(change)
        options = machine.options
        machine.die()
        for _ in range(20):
            state = survivors.draw(draw.randrange)
            files = MemoryFiles(Disk(state))
            store = Store.open(JOURNAL, files=files, **options)
            is_torn = store.open_report.cut is not None
            files.bury()
            bury_store(store)
            if is_torn:
                return state, {"durability": Durability.SYNC}
    raise AssertionError("no power cut leaves a torn tail")
