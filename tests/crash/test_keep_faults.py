"""Every file operation of a snapshot, restore, fork and import may fail or be the last.

Each scenario runs once undisturbed, then for each of its operations and each fault that
fits. Afterwards the journal that was read is what it was, what was made is whole under
its name or not there, a second try works, and the checker goes through both sides.
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
from batpak.files import Files
from tests.support.checker import (
    Ledger,
    Outcome,
    check_journal,
    check_order,
    number_of,
    segment_bytes,
)
from tests.support.faulty_files import DISK, Fault, FaultyFiles, Killed, Operation

SMALL = {"segment_max_bytes": 4096, "preallocate": 8192}


class Run:
    """One life of a scenario in a directory of its own."""

    def __init__(self, place: Path, ledger: Ledger, files: FaultyFiles) -> None:
        self.source = str(place / "source")
        self.made = str(place / "made")
        self.place = place
        self.ledger = ledger
        self.files = files
        self.began = 0
        self.fault: tuple[int, Fault] | None = None
        self.stores: list[Store] = []

    def begin(self) -> None:
        """From here on operations count."""
        self.began = len(self.files.operations)
        if self.fault is not None:
            self.files.arm(*self.fault)

    def open(self, path: str, **options: object) -> Store:
        store = Store.open(path, files=self.files, **SMALL, **options)
        self.stores.append(store)
        return store


def history(path: str, ledger: Ledger) -> None:
    """A sealed segment with its sidecar, a second that grows, a cursor and a checkpoint."""
    with Store.open(path, files=DISK, **SMALL) as store:
        for i in range(6):
            ledger.commit(store, f"player:{i % 2}", padding=500)
        ledger.commit(store, "player:0", "player:1", "player:2")
    for folder in ("cursors", "checkpoints"):
        os.mkdir(os.path.join(path, folder))
        Path(path, folder, "one").write_bytes(folder.encode())


def snapshots(run: Run) -> None:
    store = run.open(run.source, durability=Durability.OS)
    run.ledger.commit(store, "player:0")
    run.begin()
    store.snapshot(run.made)


def forks(run: Run) -> None:
    store = run.open(run.source)
    run.ledger.commit(store, "player:0")
    run.begin()
    store.fork(run.made)


def restores(run: Run) -> None:
    taken(run)
    run.begin()
    Store.restore(run.place / "snapshot", run.made, files=run.files)


def resumes(run: Run) -> None:
    taken(run)
    run.begin()
    Store.restore(run.place / "snapshot", run.made, files=run.files, resume=True)


def taken(run: Run) -> None:
    """A snapshot, made undisturbed."""
    with Store.open(run.source, files=DISK, mode="r") as reader:
        reader.snapshot(run.place / "snapshot")


def imports(run: Run) -> None:
    """Four commits of three events each, from a reader on the same disk."""
    target = run.open(run.made, batch_max_events=3)
    with Store.open(run.source, files=run.files, mode="r") as reader:
        run.begin()
        target.import_events(reader, namespace="main")


def check_snapshot(run: Run, again: Files) -> None:
    restored = str(run.place / "restored")
    Store.restore(run.made, restored, files=again)
    check_journal(restored, run.ledger)


def check_made(run: Run, again: Files) -> None:
    check_journal(run.made, run.ledger)


def nothing(run: Run, again: Files) -> None:
    """What an import left is looked at by `check_import`."""


SCENARIOS: dict[str, tuple[Callable[[Run], None], Callable[[Run, Files], None]]] = {
    "snapshot": (snapshots, check_snapshot),
    "fork": (forks, check_made),
    "restore": (restores, check_made),
    "resume": (resumes, check_made),
    "import": (imports, nothing),
}


def start(name: str, base: Path, place: Path, ledger: Ledger) -> Run:
    shutil.copytree(base, place)
    return Run(place, ledger.copy(), FaultyFiles())


def end(run: Run) -> None:
    for store in run.stores:
        try:
            store.close()
        except (BatpakError, Killed):
            pass


def check_import(run: Run) -> None:
    """Whole commits of the source's events, in order; a second run brings the rest, once."""
    ledger = run.ledger.copy()
    with Store.open(run.source, files=DISK, mode="r") as reader:
        wanted = [number_of(e) for e in reader if not e.coordinate.entity.startswith("batpak:")]
        with Store.open(run.made, files=DISK, **SMALL) as target:
            found = [number_of(e) for e in target if not e.coordinate.entity.startswith("batpak:")]
            assert found == wanted[: len(found)]
            assert len(found) in (0, 3, 6, 9)
            report = target.import_events(reader, namespace="main")
            # What was written with its position is not even looked at again.
            assert (report.imported, report.known) == (9 - len(found), 0)
            assert target.import_events(reader, namespace="main").imported == 0
    for attempt in ledger.attempts:
        attempt.receipts = ()
    assert {attempt.outcome for attempt in ledger.attempts} == {Outcome.ACKNOWLEDGED}
    check_journal(run.made, ledger)


def check_after(name: str, run: Run, *, must_be_there: bool, before: dict[str, bytes]) -> None:
    if name in ("restore", "resume"):
        # They know of the snapshot only, so there is nothing to be judged but that.
        assert segment_bytes(run.source) == before
    else:
        check_journal(run.source, run.ledger)
    for segment, data in before.items():
        now = segment_bytes(run.source)[segment]
        assert now.startswith(data.rstrip(b"\0")), f"{segment} of the source was changed"
    if name == "import":
        check_import(run)
        return
    there = os.path.lexists(run.made)
    assert there or not must_be_there, "it was reported as made and is not there"
    if not there:
        # A second try is not in the way of what the first one left.
        if name == "snapshot":
            with Store.open(run.source, files=DISK, mode="r") as reader:
                reader.snapshot(run.made)
        elif name == "fork":
            with Store.open(run.source, files=DISK, mode="r") as reader:
                reader.fork(run.made)
        else:
            Store.restore(run.place / "snapshot", run.made, files=DISK, resume=name == "resume")
        assert not os.path.lexists(run.made + ".tmp")
    SCENARIOS[name][1](run, DISK)


def endure(name: str, base: Path, place: Path, ledger: Ledger, at: int, fault: Fault) -> None:
    run = start(name, base, place, ledger)
    before = segment_bytes(run.source)
    run.fault = at, fault
    error: BaseException | None = None
    try:
        SCENARIOS[name][0](run)
    except (BatpakError, Killed, KeyboardInterrupt) as raised:
        error = raised
    if error is not None:
        traceback.clear_frames(error.__traceback__)
    assert run.files.fired, "the fault never happened: the run differs from its record"
    if fault.kills:
        assert isinstance(error, Killed), f"a dead process went on: {error!r}"
        run.files.bury()
        end(run)
    else:
        allowed = (Unavailable, Indeterminate, JournalPoisoned, StoreClosed)
        if fault.interrupts:
            # What the system refused anyway has no return for Ctrl-C to come upon.
            refuses = ("clone", "link", "mkdir", "open")
            assert isinstance(error, KeyboardInterrupt) or (
                error is None and run.files.fired[0].name in refuses
            ), f"Ctrl-C became {error!r}"
        else:
            assert error is None or isinstance(error, allowed), f"taken for {error!r}"
        end(run)
        if fault.interrupts:
            run.files.bury()
        else:
            assert not run.files.open_files, f"descriptors leak: {run.files.open_files}"
            place_to_build = run.made + ".tmp"
            claims = (place_to_build, os.path.join(place_to_build, "unfinished"))
            if error is not None and run.files.fired[0].path not in claims:
                assert not os.path.lexists(place_to_build), "what failed is not tidied up"
    check_after(name, run, must_be_there=error is None, before=before)
    shutil.rmtree(place)


def record(name: str, base: Path, place: Path, ledger: Ledger) -> list[Operation]:
    run = start(name, base, place, ledger)
    before = segment_bytes(run.source)
    SCENARIOS[name][0](run)
    operations = run.files.operations[run.began :]
    end(run)
    assert not run.files.open_files
    check_after(name, run, must_be_there=True, before=before)
    shutil.rmtree(place)
    return operations


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_operation_leaves_both_sides_whole(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    ledger = Ledger()
    base = tmp_path / "base"
    base.mkdir()
    history(str(base / "source"), ledger)
    operations = record(name, base, tmp_path / "record", ledger)
    places = [at for at, operation in enumerate(operations) if fault.fits(operation)]
    assert places, "this fault fits nowhere"
    failures: list[Exception] = []
    for at in places:
        try:
            endure(name, base, tmp_path / str(at), ledger, at, fault)
        except Exception as error:  # noqa: BLE001  # each is reported below, with its place
            error.add_note(f"{name}: {fault.value} at operation {at}: {operations[at]}")
            failures.append(error)
    print(f"{name}: {fault.value}: {len(places)} of {len(operations)} operations")
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(places)} places", failures)


@pytest.mark.parametrize("name", ["snapshot", "fork", "restore", "resume"])
def test_what_is_reported_as_made_is_durable_before_it_has_its_name(
    name: str, tmp_path: Path
) -> None:
    ledger = Ledger()
    base = tmp_path / "base"
    base.mkdir()
    history(str(base / "source"), ledger)
    run = start(name, base, tmp_path / "run", ledger)
    SCENARIOS[name][0](run)
    run.files.mark("made")
    operations = run.files.operations[run.began :]
    assert check_order(operations, run.made) == 1
    # The one rename that gives the name comes after every write but the tidying.
    (named,) = [i for i, o in enumerate(operations) if o.target == run.made]
    after = {operation.name for operation in operations[named:]}
    assert not after & {"pwrite", "create", "link", "clone", "truncate"}
    end(run)
