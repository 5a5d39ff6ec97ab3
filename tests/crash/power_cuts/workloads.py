"""Lives of a journal, recorded change by change, for the power to be cut in.

Each workload drives the library through its public calls and production's `Files`
protocol, on a disk in memory. A `Recording` keeps every change, what had been promised
after which of them, and what was written in the end. Workloads say what happens; what
a cut may leave, and what has to be there then, is said elsewhere.

All that is random is drawn from the generator that a workload is given: the same seed
gives the same changes, but for the bytes of ids, salts and times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from batpak import Durability, Store
from batpak.config import Every
from batpak.errors import BatpakError, Indeterminate
from batpak.files import replace_file
from batpak.receipt import AppendReceipt
from tests.crash.power_cuts.disk_model import PAGE, Survivors
from tests.crash.power_cuts.memory_files import EMPTY, Change, Disk, MemoryFiles, State
from tests.support.checker import SYSTEM, Ledger, Outcome, fingerprint
from tests.support.faulty_files import Killed
from tests.support.regions import records

__all__ = ["WORKLOADS", "Print", "Promise", "Recording", "record", "segments_of"]

Print = tuple[int, bytes, bytes, bytes | None]
JOURNAL: Final = "/in/a/journal"
BACKUP: Final = "/backup"
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


def commit_bounds(state: State) -> frozenset[int]:
    """Every sequence at which a record of an undamaged journal ends, and 0."""
    bounds = {0}
    for data in segments_of(state).values():
        bounds |= {record.base + record.count for record in records(data)}
    return frozenset(bounds)


class Machine:
    """A disk, one process at a time on it, and the promises that its stores made."""

    def __init__(self, draw: random.Random, start: State = EMPTY, **options: Any) -> None:
        self.draw = draw
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
        self._store = Store.open(JOURNAL, files=self.files, **self.options)
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
        files.bury()
        bury_store(store)
        self.check(truth, events)
        return Recording(
            workload, self.disk.start, self.disk.log, self.promises, truth, commits,
            self.cursors, self.options, self.kept,
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
        found = {
            event.value["n"] for event in events if event.coordinate.entity != SYSTEM
        }  # fmt: skip
        assert mine <= found, f"never written: {sorted(mine - found)}"


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
    numbers = [event.value["n"] for event in found if event.coordinate.entity != SYSTEM]
    machine.ledger.numbers = max(numbers, default=-1) + 1
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


# --- workloads ---------------------------------------------------------------------


def creation(draw: random.Random) -> Machine:
    """A journal comes to be, in directories that come to be with it."""
    machine = Machine(draw)
    machine.open()
    machine.commit()
    machine.commit()
    machine.close()
    return machine


def singles(draw: random.Random) -> Machine:
    """Single appends, each waiting for the disk; closed and opened in between."""
    machine = begin(draw)
    machine.open()
    for _ in range(4):
        machine.commit()
    machine.close()
    machine.open()
    machine.commit()
    return machine


def singles_unsynced(draw: random.Random) -> Machine:
    """Single appends that wait for nothing, with a sync, or one that asks for more, between."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    for _ in range(9):
        kind = draw.random()
        if kind < 0.15:
            machine.sync()
        machine.commit(durable=kind > 0.9)
    if draw.random() < 0.5:
        machine.close()
    return machine


def singles_in_intervals(draw: random.Random) -> Machine:
    """Single appends of which each third one syncs."""
    every: Every = Durability.EVERY(ms=3_600_000, events=3)
    machine = begin(draw, durability=every)
    machine.open()
    for _ in range(8):
        machine.commit()
    if draw.random() < 0.5:
        machine.close()
    return machine


def batches(draw: random.Random) -> Machine:
    """Commits of many events, over several pages each."""
    machine = begin(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    for _ in range(3):
        names = [draw.choice(ENTITIES) for _ in range(draw.choice((2, 5, 9)))]
        machine.commit(*names, padding=draw.choice((0, 300, 1500)))
        if draw.random() < 0.3:
            machine.commit()
    machine.close()
    return machine


def rotation(draw: random.Random) -> Machine:
    """Segments fill up and sidecars are written, while each append waits for the disk."""
    machine = begin(draw, segment_max_bytes=4096)
    machine.open()
    for _ in range(7):
        machine.commit(padding=draw.choice((300, 1500, 2500)))
    machine.close()
    return machine


def rotation_unsynced(draw: random.Random) -> Machine:
    """The same where appends wait for nothing, singles and batches."""
    machine = begin(draw, segment_max_bytes=4096, durability=Durability.OS)
    machine.open()
    for _ in range(6):
        names = [draw.choice(ENTITIES) for _ in range(draw.choice((1, 1, 4)))]
        machine.commit(*names, padding=draw.choice((300, 900, 2500)))
    if draw.random() < 0.5:
        machine.close()
    return machine


def sidecar_at_close(draw: random.Random) -> Machine:
    """A segment with so many events that closing writes a sidecar for it, then more events."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    machine.commit(*["player:0", "player:1"] * 512, padding=0)
    machine.close()
    machine.open()
    machine.commit()
    machine.close()
    return machine


def quarantine(draw: random.Random) -> Machine:
    """Recovery itself: a torn tail is set aside, then cut, then the journal goes on."""
    state, options = torn(draw)
    machine = resumed(draw, state, **options)
    machine.open()
    machine.commit()
    machine.close()
    return machine


def quarantine_in_small_segments(draw: random.Random) -> Machine:
    """The same where the next append begins a new segment."""
    state, options = torn(draw)
    machine = resumed(draw, state, **options, segment_max_bytes=4096)
    machine.open()
    machine.commit(padding=2500)
    machine.commit(padding=2500)
    machine.commit()
    return machine


def hard_links(draw: random.Random) -> Machine:
    """The newest segment, the hint and the lock have second names, as snapshots make them."""
    if draw.random() < 0.5:
        state, options = torn(draw)
    else:
        state, options = begin(draw).disk.start, {}
    linked = Disk(state)
    files = MemoryFiles(linked)
    files.mkdir(BACKUP)
    newest = max(segments_of(state))
    for name in (f"segments/{newest}", "tail.hint", "journal.lock"):
        linked.link(f"{JOURNAL}/{name}", f"{BACKUP}/{os.path.basename(name)}")
    machine = resumed(draw, linked.state(), **options)
    kept = machine.disk.start
    for name in (newest, "tail.hint", "journal.lock"):
        data = kept.read(f"{BACKUP}/{name}")
        assert data is not None
        machine.kept[f"{BACKUP}/{name}"] = data
    machine.open()
    machine.commit()
    machine.close()
    return machine


def cursors(draw: random.Random) -> Machine:
    """A consumer's small file is replaced again and again beside the appends."""
    first = begin(draw)
    folder = Disk(first.disk.start)
    MemoryFiles(folder).mkdir(os.path.dirname(CURSOR))
    machine = resumed(draw, folder.state())
    machine.open()
    for _ in range(4):
        machine.commit(padding=30)
        machine.save_cursor()
    machine.close()
    return machine


def sync_meets_append(draw: random.Random) -> Machine:
    """Events are appended while a sync is under way: that sync does not cover them."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()

    def append_once(path: str) -> None:
        if path.endswith(".seg"):
            machine.files.after_sync = None
            machine.ledger.commit(machine.store, "player:0", padding=padding)

    for _ in range(3):
        padding = draw.choice((30, 900, 4000))
        machine.commit()
        machine.files.after_sync = append_once
        machine.sync()
        if draw.random() < 0.5:
            machine.commit()
    return machine


def threads(draw: random.Random) -> Machine:
    """A second thread comes while the first one's sync is under way, and leads the next group."""
    machine = begin(draw)
    machine.open()

    def look(change: Change) -> bool:
        if change.name == "sync" and change.path.endswith(".seg"):
            # What a reader sees between a write and its sync must be there for ever, too.
            machine.note()
        return False

    machine.files.stop_before = look
    with ThreadPoolExecutor(1) as other:
        for _ in range(3):
            started: list[Future[None]] = []

            def meanwhile(path: str, started: list[Future[None]] = started) -> None:
                if not path.endswith(".seg"):
                    return
                machine.files.after_sync = None
                started.append(other.submit(machine.commit, "game", padding=900))
                # Until the other waits for the lead, which it gets after this sync.
                while not machine.store.pressure().waiting and not started[0].done():
                    wait(started, timeout=0.0005)

            machine.files.after_sync = meanwhile
            machine.commit("player:0")
            started[0].result()
    machine.close()
    return machine


def killed_in_rotation(draw: random.Random) -> Machine:
    """A process dies when the new segment has its name and the directory is not synced.

    The next process appends to that segment, and the power goes.
    """
    machine = begin(draw, segment_max_bytes=4096)
    machine.open()
    machine.files.stop_before = lambda change: change.name == "sync-directory"
    try:
        while True:
            machine.commit(padding=2500)
    except Killed:
        machine.die()
    machine.open()
    machine.commit(padding=30)
    machine.commit(padding=30)
    return machine


def killed_anywhere(draw: random.Random) -> Machine:
    """A process dies anywhere in a life from its beginning; the next one goes on."""
    machine = Machine(draw, segment_max_bytes=4096)
    place = draw.randrange(2, 90)
    machine.stop_before = lambda _: len(machine.disk.log) == place
    try:
        machine.open()
        for _ in range(5):
            machine.commit(padding=draw.choice((30, 1500)))
        machine.close()
    except Killed:
        pass
    machine.die()
    machine.open()
    machine.commit()
    machine.commit()
    return machine


def failed_sync(draw: random.Random) -> Machine:
    """A sync fails, so the page cache shows what the disk may lack; the next process goes on."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    for _ in range(draw.choice((1, 3))):
        machine.commit()
    machine.files.fail_sync = ".seg"
    try:
        machine.ledger.commit(machine.store, "game", padding=900, durable=True)
    except Indeterminate:
        pass
    else:
        raise AssertionError("a failed sync was not reported")
    machine.die()
    machine.open(durability=Durability.SYNC)
    machine.commit(padding=30)
    return machine


Workload = Callable[[random.Random], Machine]

WORKLOADS: dict[str, Workload] = {
    workload.__name__.replace("_", "-"): workload
    for workload in (
        creation, singles, singles_unsynced, singles_in_intervals, batches, rotation,
        rotation_unsynced, sidecar_at_close, quarantine, quarantine_in_small_segments,
        hard_links, cursors, sync_meets_append, threads, killed_in_rotation,
        killed_anywhere, failed_sync,
    )
}  # fmt: skip


def record(workload: str, draw: random.Random) -> Recording:
    """Live through one workload."""
    return WORKLOADS[workload](draw).recording(workload)
