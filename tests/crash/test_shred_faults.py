"""Every file operation of an encrypted append, a shredding and an open may fail or be the last.

Journal and keyring stand on the same faulty disk. Afterwards both are opened on a healthy
one: what the journal says is shredded has no key any more, and what it does not say so of is
read; an acknowledged event is there with its payload; the journal verifies.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from batpak import Coordinate, Durability, EventKind, PayloadState, Region, Store
from batpak.errors import (
    BatpakError,
    Indeterminate,
    JournalPoisoned,
    KeyUnavailable,
    PayloadShredded,
    StoreClosed,
    Unavailable,
)
from batpak.files import Files
from batpak.keyring import FileKeyring
from batpak.kinds import SYSTEM_KEY_SHREDDED
from tests.support.faulty_files import DISK, Fault, FaultyFiles, Killed, Operation
from tools import read_segment

KIND = EventKind(0xF, 1)
ANN, BOB, EVE = (Coordinate(f"user:{name}", "room") for name in ("ann", "bob", "eve"))
KEPT = "kept"
"""A folder with copies of the keys, as a backup would have them."""


class Run:
    """One life of a scenario in a directory of its own."""

    def __init__(self, place: Path, files: FaultyFiles) -> None:
        self.place = place
        self.files = files
        self.began = 0
        self.fault: tuple[int, Fault] | None = None
        self.stores: list[Store] = []
        self.acknowledged: dict[int, object] = {}

    def begin(self) -> None:
        """From here on operations count."""
        self.began = len(self.files.operations)
        if self.fault is not None:
            self.files.arm(*self.fault)

    def open(self, mode: Durability = Durability.SYNC) -> Store:
        ring = FileKeyring(self.place / "keys", files=self.files)
        store = Store.open(
            self.place / "journal", codec="encrypted", keyring=ring, durability=mode,
            files=self.files, preallocate=0,
        )  # fmt: skip
        self.stores.append(store)
        return store


def history(place: Path) -> None:
    """Three events of Ann's and three of Bob's, in a journal that was closed."""
    ring = FileKeyring.create(place / "keys", files=DISK)
    with Store.open(
        place / "journal", codec="encrypted", keyring=ring, files=DISK, preallocate=0
    ) as store:
        for n in range(3):
            store.append(ANN, n, kind=KIND)
            store.append(BOB, n, kind=KIND)
    shutil.copytree(place / "keys", place / KEPT)


def shreds(run: Run) -> None:
    store = run.open(Durability.OS)
    run.begin()
    store.shred(Region(entity="user:ann"))


def shreds_all(run: Run) -> None:
    store = run.open()
    run.begin()
    store.shred(Region(entity="user"))


def appends(run: Run) -> None:
    store = run.open()
    run.begin()
    for where in (EVE, ANN):
        receipt = store.append(where, "new", kind=KIND)
        run.acknowledged[receipt.sequence] = "new"


def opens(run: Run) -> None:
    """An open that finds a shredded key which came back from a backup."""
    with Store.open(
        run.place / "journal", files=DISK, keyring=FileKeyring(run.place / "keys", files=DISK)
    ) as store:
        store.shred(Region(entity="user:ann"))
    for file in (run.place / KEPT).glob("*.key"):
        shutil.copy(file, run.place / "keys")
    run.begin()
    run.open()


SCENARIOS: dict[str, Callable[[Run], None]] = {
    "shred": shreds,
    "shred-all": shreds_all,
    "append": appends,
    "open": opens,
}


def start(name: str, base: Path, place: Path) -> Run:
    shutil.copytree(base, place)
    return Run(place, FaultyFiles())


def end(run: Run) -> None:
    for store in run.stores:
        try:
            store.close()
        except (BatpakError, Killed):
            pass


def said(store: Store) -> set[bytes]:
    """Ids of the keys that the journal says are shredded."""
    return {event.value["key_id"] for event in store.query(Region(kind=SYSTEM_KEY_SHREDDED))}


def check_keys(run: Run, files: Files, *, done: str | None) -> None:
    keys = run.place / "keys"
    with Store.open(run.place / "journal", mode="r", files=DISK) as before:
        events = list(before.query(Region(entity="user")))
        words = [e.value["key_id"] for e in before.query(Region(kind=SYSTEM_KEY_SHREDDED))]
    if done in ("shred", "shred-all", "open"):
        # It returned: so it holds before anybody opens again.
        assert len(words) == (2 if done == "shred-all" else 1)
        for word in words:
            assert FileKeyring(keys, files=DISK).load(word) is None
    ring = FileKeyring(keys, files=files)
    with Store.open(
        run.place / "journal", codec="encrypted", keyring=ring, files=files, preallocate=0
    ) as store:
        shredded = said(store)
        assert shredded >= set(words)
        for key_id in shredded:
            assert ring.load(key_id) is None, "shredded, and its key is alive after an open"
            assert not (keys / f"{key_id.hex()}.key").exists()
        for event in events:
            found = store.at(event.sequence)
            if (event.envelope or b"")[:16] in shredded:
                assert found.payload_state is PayloadState.SHREDDED
                with pytest.raises(PayloadShredded):
                    _ = found.raw
            else:
                try:
                    assert found.value in (0, 1, 2, "new")
                except KeyUnavailable as error:
                    raise AssertionError("not shredded, and its key is gone") from error
        for sequence, value in run.acknowledged.items():
            assert store.at(sequence).value == value
        for where in (ANN, BOB, EVE):
            receipt = store.append(where, "after", kind=KIND)
            assert store.at(receipt.sequence).value == "after"
        report = store.verify()
        assert report.ok, report.findings
    assert read_segment.read_journal(run.place / "journal").findings == []


def endure(name: str, base: Path, place: Path, at: int, fault: Fault) -> None:
    run = start(name, base, place)
    run.fault = at, fault
    error: BaseException | None = None
    try:
        SCENARIOS[name](run)
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
        if not fault.interrupts:
            allowed = (Unavailable, Indeterminate, JournalPoisoned, StoreClosed)
            assert error is None or isinstance(error, allowed), f"taken for {error!r}"
        end(run)
        if fault.interrupts:
            run.files.bury()
        else:
            assert not run.files.open_files, f"descriptors leak: {run.files.open_files}"
    check_keys(run, DISK, done=name if error is None else None)
    shutil.rmtree(place)


def record(name: str, base: Path, place: Path) -> list[Operation]:
    run = start(name, base, place)
    SCENARIOS[name](run)
    operations = run.files.operations[run.began :]
    end(run)
    assert not run.files.open_files
    check_keys(run, DISK, done=name)
    shutil.rmtree(place)
    return operations


@pytest.mark.proves("INV-SHREDDED-STAYS-DESTROYED")
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_operation_of_a_shredding_may_fail_or_be_the_last(
    name: str, fault: Fault, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    history(base)
    operations = record(name, base, tmp_path / "record")
    places = [at for at, operation in enumerate(operations) if fault.fits(operation)]
    assert places, "this fault fits nowhere"
    failures: list[Exception] = []
    for at in places:
        try:
            endure(name, base, tmp_path / str(at), at, fault)
        except Exception as error:  # noqa: BLE001  # each is reported below, with its place
            error.add_note(f"{name}: {fault.value} at operation {at}: {operations[at]}")
            failures.append(error)
    print(f"{name}: {fault.value}: {len(places)} of {len(operations)} operations")
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(places)} places", failures)
