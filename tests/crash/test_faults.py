"""Every operation on files may fail, be cut short or be the last: nothing promised is lost.

Each scenario is a short piece of a journal's life. It is recorded once on healthy files;
then it runs again for each operation in it and each fault that fits the operation, and
what is left on the disk goes through `check_journal`. A process that was not killed has
to go on: its store reads, and either appends or says that it is poisoned.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from batpak import Durability, Store
from batpak.errors import (
    BatpakError,
    Indeterminate,
    JournalPoisoned,
    StoreClosed,
    Unavailable,
)
from tests.support.checker import Ledger, check_journal, fingerprint
from tests.support.faulty_files import DISK, Fault, FaultyFiles, Killed, Operation

SMALL = {"segment_max_bytes": 4096, "preallocate": 8192}


class Run:
    """One life of a scenario: where it happens, on which files, and what it attempted."""

    def __init__(self, path: str, ledger: Ledger, files: FaultyFiles) -> None:
        self.path = path
        self.ledger = ledger
        self.files = files
        self.store: Store | None = None
        self.began = 0
        self.place: tuple[int, Fault] | None = None

    def begin(self) -> None:
        """From here on operations count; what comes before is never disturbed."""
        self.began = len(self.files.operations)
        if self.place is not None:
            self.files.arm(*self.place)

    def open(self, **options: object) -> Store:
        self.store = Store.open(self.path, files=self.files, **SMALL, **options)
        return self.store

    def commit(self, *entities: str, padding: int = 0, durable: bool = False) -> None:
        assert self.store is not None
        self.ledger.commit(self.store, *entities, padding=padding, durable=durable)


# --- what stands on the disk before a scenario ---------------------------------


def nothing(path: str, ledger: Ledger) -> None:
    """No journal yet, nor its parent directory."""


def closed(path: str, ledger: Ledger) -> None:
    """Two segments, cleanly closed."""
    with Store.open(path, files=DISK, **SMALL) as store:
        for i in range(4):
            ledger.commit(store, f"player:{i % 2}", padding=1000)
        ledger.commit(store, "player:0", "player:1", "player:2")


def die(path: str, ledger: Ledger, *, tear: float, durability: Durability, appends: int) -> None:
    """A writer that appended, and was killed within its last write."""
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=durability, **SMALL)
    for i in range(appends):
        ledger.commit(store, f"player:{i % 2}")
    while not files.dead:
        files.arm(0, Fault.KILL_TORN, part=tear)
        try:
            ledger.commit(store, "player:0", "player:3")
        except Killed:
            break
        # The write was no segment's: an allocation came first.
    files.bury()
    drop(store)


def torn(path: str, ledger: Ledger) -> None:
    """Killed in the middle of a write: a torn tail, with a finished segment before it."""
    closed(path, ledger)
    die(path, ledger, tear=0.6, durability=Durability.SYNC, appends=2)


def unproven(path: str, ledger: Ledger) -> None:
    """Killed without a sync: whole records that no witness knows, then a tear."""
    die(path, ledger, tear=0.6, durability=Durability.OS, appends=4)


def linked(path: str, ledger: Ledger) -> None:
    """Files that a snapshot of hard links shares, and a torn tail in them."""
    torn(path, ledger)
    snapshot = os.path.join(os.path.dirname(path), "snapshot")
    os.makedirs(snapshot, exist_ok=True)
    newest = sorted(os.listdir(os.path.join(path, "segments")))[-1]
    for name in (os.path.join("segments", newest), "tail.hint", "journal.lock"):
        os.link(os.path.join(path, name), os.path.join(snapshot, os.path.basename(name)))


def nearly_full(path: str, ledger: Ledger) -> None:
    """One large append is missing until the segment has reached its limit."""
    with Store.open(path, files=DISK, **SMALL) as store:
        for i in range(2):
            ledger.commit(store, f"player:{i % 2}", padding=800)


def many(path: str, ledger: Ledger) -> None:
    """More records than a close leaves without a sidecar, after a kill."""
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=Durability.OS)
    for i in range(1100):
        ledger.commit(store, f"player:{i % 7}")
    store.sync()
    files.bury()
    drop(store)
    for attempt in ledger.attempts[:-20]:
        # They stay acknowledged; comparing every receipt each time would take long.
        attempt.receipts = ()


# --- scenarios -------------------------------------------------------------------


def opens(run: Run) -> None:
    """Open, and no more."""
    run.begin()
    run.open()


def appends_and_waits(run: Run) -> None:
    """Appends that are durable when they return."""
    run.open()
    run.begin()
    for entity in ("player:0", "player:9", "player:0"):
        run.commit(entity)


def appends_only(run: Run) -> None:
    """Appends that only reach the system, the last of them asking for more."""
    run.open(durability=Durability.OS)
    run.begin()
    for entity in ("player:0", "player:9"):
        run.commit(entity)
    run.commit("player:0", durable=True)


def appends_batches(run: Run) -> None:
    """Two batches, one beyond the reserved space."""
    run.open()
    run.begin()
    run.commit("player:0", "player:1", "player:0", "player:5")
    run.commit(*["player:1"] * 30)


def rotates(run: Run) -> None:
    """A commit that begins a new segment, and one after it."""
    run.open()
    run.commit("player:1", padding=1000)
    run.begin()
    run.commit("player:0")
    run.commit("player:1")


def syncs(run: Run) -> None:
    """One sync for several appends."""
    store = run.open(durability=Durability.OS)
    for _ in range(3):
        run.commit("player:0")
    run.begin()
    store.sync()


def closes(run: Run) -> None:
    """A clean close; here it has no sidecar to write."""
    store = run.open(durability=Durability.OS)
    run.commit("player:0")
    run.begin()
    store.close()


def erases(run: Run) -> None:
    """An erasure by itself."""
    run.open()
    run.begin()
    assert run.store is not None
    run.ledger.erase(run.store, "player:0")


def compacts(run: Run) -> None:
    """An erasure that is not durable yet, then the rewriting of what it names."""
    store = run.open(durability=Durability.OS)
    run.ledger.erase(store, "player:0", "player:2")
    run.begin()
    report = store.compact()
    assert report.outcome == "performed" or run.files.fired


def reads(run: Run) -> None:
    """Every way to read an event, and the full verification."""
    store = run.open()
    run.begin()
    for event in list(store):
        assert store.get(event.event_id) == event
        assert store.at(event.sequence).raw == event.raw
    report = store.verify("full")
    assert report.ok or {finding.code for finding in report.findings} <= {
        "unreadable", "storage-failed", "missing-events"
    }  # fmt: skip


SCENARIOS: dict[str, tuple[Callable[[str, Ledger], None], Callable[[Run], None]]] = {
    "create": (nothing, opens),
    "reopen": (closed, opens),
    "recover a tear": (torn, opens),
    "recover what nobody knows": (unproven, opens),
    "recover shared files": (linked, opens),
    "append": (closed, appends_and_waits),
    "append without sync": (closed, appends_only),
    "append many": (closed, appends_batches),
    "rotate": (nearly_full, rotates),
    "sync": (closed, syncs),
    "close": (closed, closes),
    "close with a sidecar": (many, closes),
    "erase": (closed, erases),
    "compact": (closed, compacts),
    "read": (closed, reads),
}


def drop(store: Store | None) -> None:
    """Let go of a store whose process is dead: its files do nothing any more."""
    if store is None:
        return
    try:
        store.close()
    except (BatpakError, Killed):
        pass


def prepared(name: str, tmp_path: Path) -> tuple[str, Ledger]:
    """The directory that a scenario starts from, made once, and its ledger."""
    base = tmp_path / "before"
    base.mkdir()
    ledger = Ledger()
    SCENARIOS[name][0](str(base / "in" / "journal"), ledger)
    return str(base), ledger


def run_once(
    name: str, base: str, place: Path, ledger: Ledger, fault: tuple[int, Fault] | None
) -> Run:
    """The scenario on a copy of what it starts from; raises what the journal raises."""
    # With their links, which `copytree` would make separate files.
    os.makedirs(place)
    inodes: dict[int, str] = {}
    for folder, _, names in os.walk(base):
        target = os.path.join(place, os.path.relpath(folder, base))
        os.makedirs(target, exist_ok=True)
        for each in names:
            source = os.path.join(folder, each)
            inode = os.stat(source).st_ino
            if inode in inodes:
                os.link(inodes[inode], os.path.join(target, each))
            else:
                inodes[inode] = shutil.copyfile(source, os.path.join(target, each))
    run = Run(str(place / "in" / "journal"), ledger.copy(), FaultyFiles())
    run.place = fault
    return run


def record(name: str, base: str, ledger: Ledger, place: Path) -> list[Operation]:
    """The operations of an undisturbed run."""
    run = run_once(name, base, place, ledger, None)
    SCENARIOS[name][1](run)
    operations = run.files.operations[run.began :]
    assert run.store is not None
    run.store.close()
    check_journal(run.path, run.ledger)
    assert not run.files.open_files, "a closed store holds no descriptor"
    shutil.rmtree(place)
    return operations


def endure(name: str, base: str, ledger: Ledger, place: Path, at: int, fault: Fault) -> None:
    """One run with one fault, then everything that has to hold after it."""
    run = run_once(name, base, place, ledger, (at, fault))
    error: BaseException | None = None
    try:
        SCENARIOS[name][1](run)
    except (BatpakError, Killed, KeyboardInterrupt) as raised:
        error = raised
    if error is not None:
        # The frames of its traceback would keep descriptors open.
        traceback.clear_frames(error.__traceback__)
    assert run.files.fired, "the fault never happened: the run differs from its record"
    if fault.kills:
        assert isinstance(error, Killed), f"a dead process went on: {error!r}"
        run.files.bury()
        drop(run.store)
    else:
        live_on(run, fault, error)
    check_journal(run.path, run.ledger)
    shutil.rmtree(place)


def live_on(run: Run, fault: Fault, error: BaseException | None) -> None:
    """What a process that met `error` may expect of its store, up to its close."""
    if isinstance(error, KeyboardInterrupt):
        assert fault.interrupts
    elif error is not None:
        allowed = (Unavailable, Indeterminate, JournalPoisoned)
        assert isinstance(error, allowed), f"a failing disk is taken for {error!r}"
        assert not fault.interrupts, f"Ctrl-C became {error!r}"
    store = run.store
    if store is None and not fault.interrupts:
        assert isinstance(error, Unavailable), f"opening a failing disk gives {error!r}"
    if store is not None:
        try:
            run.commit("player:0")
        except (JournalPoisoned, StoreClosed):
            pass
        try:
            shown = list(store)
        except StoreClosed:
            pass
        else:
            run.ledger.explain(shown, may_end_early=True)
            for event in shown:
                assert fingerprint(store.get(event.event_id)) == fingerprint(event)
        try:
            store.close()
        except (JournalPoisoned, Indeterminate):
            pass
    if fault.interrupts:
        # Python may have lost a descriptor between the system call and its assignment.
        run.files.bury()
    else:
        assert not run.files.open_files, f"descriptors leak: {run.files.open_files}"


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_operation_loses_nothing_promised(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    base, ledger = prepared(name, tmp_path)
    operations = record(name, base, ledger, tmp_path / "record")
    places = [at for at, operation in enumerate(operations) if fault.fits(operation)]
    failures: list[Exception] = []
    for at in places:
        try:
            endure(name, base, ledger, tmp_path / str(at), at, fault)
        except Exception as error:  # noqa: BLE001  # each is reported below, with its place
            error.add_note(f"{name}: {fault.value} at operation {at}: {operations[at]}")
            failures.append(error)
    print(f"{name}: {fault.value}: {len(places)} of {len(operations)} operations")
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(places)} places", failures)
