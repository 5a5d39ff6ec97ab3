"""What a store does after a fault: poison, room that comes back, Ctrl-C, failing reads.

The exhaustive runs of test_faults.py ask that nothing is lost; here each promise about
going on is named.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, Store, testing
from batpak.errors import (
    BatpakError,
    Indeterminate,
    JournalPoisoned,
    NoSpace,
    StorageFailed,
)
from batpak.files import Files
from tests.support.checker import (
    HEADER,
    KIND,
    Ledger,
    check_journal,
    fingerprint,
    follow,
    segment_bytes,
    synced,
)
from tests.support.faulty_files import (
    CHANGES,
    DISK,
    Fault,
    FaultyFiles,
    FullDisk,
    Killed,
    Operation,
    RecordingFiles,
)

SMALL: dict[str, Any] = {"segment_max_bytes": 4096, "preallocate": 8192}


class Life:
    """An open store on files that will fail, one event in it."""

    def __init__(self, path: Path, durability: Durability = Durability.SYNC) -> None:
        self.path = str(path / "journal")
        self.files = FaultyFiles()
        self.ledger = Ledger()
        self.store = Store.open(self.path, files=self.files, durability=durability, **SMALL)
        self.ledger.commit(self.store, "player:0")

    def commit(self, *entities: str, **options: Any) -> None:
        self.ledger.commit(self.store, *(entities or ("player:0",)), **options)

    def since(self, place: int) -> list[Operation]:
        return self.files.operations[place:]

    def bury(self) -> None:
        """End the process as a kill does."""
        self.files.bury()
        with pytest.raises((Killed, BatpakError)):
            self.store.close()

    def fill(self) -> None:
        """Append until the next commit has to rotate."""
        self.commit(padding=1800)
        self.commit(padding=1800)


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def test_the_recorder_stands_before_every_operation_of_the_protocol() -> None:
    methods = {name for name, _ in inspect.getmembers(Files, inspect.isfunction) if name[0] != "_"}
    assert methods <= set(vars(testing.RecordingFiles))


# --- poison ----------------------------------------------------------------------


def test_a_failed_sync_poisons_and_is_never_tried_again(life: Life) -> None:
    life.files.arm(1, Fault.ERROR)
    with pytest.raises(Indeterminate) as caught:
        life.commit()
    assert [operation.name for operation in life.files.fired] == ["sync_data"]
    assert [receipt.sequence for receipt in caught.value.receipts] == [2]
    assert isinstance(caught.value.cause, JournalPoisoned)

    place = len(life.files.operations)
    for _ in range(2):
        with pytest.raises(JournalPoisoned) as poisoned:
            life.commit()
        assert isinstance(poisoned.value.cause, OSError)
    with pytest.raises(JournalPoisoned):
        life.store.sync()
    assert life.store.at(1).sequence == 1, "reading goes on"
    with pytest.raises(JournalPoisoned):
        life.store.close()
    after = life.since(place)
    assert synced(after, ".seg") == 0, "the sync was tried again"
    assert [o for o in after if o.name in CHANGES] == [], "something was written after poison"
    check_journal(life.path, life.ledger)


def test_an_event_that_a_failed_sync_left_is_written_anew_by_the_next_open(life: Life) -> None:
    before = life.store.frontier().durable.sequence
    life.files.arm(1, Fault.ERROR)
    with pytest.raises(Indeterminate):
        life.commit()
    with pytest.raises(JournalPoisoned):
        life.store.close()
    (log,) = segment_bytes(life.path).values()
    assert before == 2

    files = RecordingFiles()
    with Store.open(life.path, files=files) as store:
        assert len(store) == before + 2, "the doubtful event, and the open event"
    writes = [
        (place, operation)
        for place, operation in enumerate(files.operations)
        if operation.path.endswith(".seg") and operation.name in (*CHANGES, "sync_file")
    ]
    again = [(place, o) for place, o in writes if o.name == "pwrite"]
    place, first = again[0]
    assert first.offset is not None
    assert log[first.offset : first.offset + len(first.data)] == first.data
    assert first.data.startswith(b"BPC1"), "from the first record that nobody vouches for"
    following = [o.name for at, o in writes if place < at < again[1][0]]
    assert "sync_file" in following, "a new record stands before the old one is synced"


@pytest.mark.parametrize("fault", [Fault.TORN, Fault.ERROR_AFTER], ids=["part", "whole"])
@pytest.mark.parametrize("undo", [Fault.ERROR, Fault.ERROR_AFTER], ids=["no-undo", "undone"])
def test_a_write_that_can_not_be_undone_poisons(fault: Fault, undo: Fault, life: Life) -> None:
    life.files.arm(0, fault)
    life.files.arm(1, undo)
    with pytest.raises((JournalPoisoned, Indeterminate)):
        life.commit()
    assert [operation.name for operation in life.files.fired] == ["pwrite", "truncate"]
    with pytest.raises(JournalPoisoned):
        life.commit()
    with pytest.raises(JournalPoisoned):
        life.store.close()
    # An append that left its event behind said so: only `Indeterminate` may.
    check_journal(life.path, life.ledger)


def test_a_lock_file_that_was_replaced_poisons_at_the_next_rotation(life: Life) -> None:
    life.fill()
    lock = Path(life.path, "journal.lock")
    lock.unlink()
    lock.touch()
    with pytest.raises(JournalPoisoned):
        life.commit()
    with pytest.raises(JournalPoisoned):
        life.store.close()
    check_journal(life.path, life.ledger)


# --- room ------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 63, 64, 300])
@pytest.mark.parametrize("rotating", [False, True], ids=["append", "rotation"])
def test_a_full_disk_refuses_and_works_again_with_room(
    room: int, rotating: bool, tmp_path: Path
) -> None:
    files, ledger = FullDisk(), Ledger()
    path = str(tmp_path / "journal")
    with Store.open(path, files=files, segment_max_bytes=4096, preallocate=0) as store:
        ledger.commit(store, "player:0", padding=4000 if rotating else 0)
        before, size = len(store), segment_bytes(path)
        for _ in range(3):
            files.room = room
            with pytest.raises(NoSpace) as caught:
                ledger.commit(store, "player:0", padding=500)
            assert caught.value.file is not None
            assert len(store) == before
            left = segment_bytes(path)
            empty = {name: data for name, data in left.items() if len(data) == HEADER}
            # Where the next segment's header fitted, rotating is done already.
            assert left == size | empty, "a refused append left bytes behind"
        files.room = None
        (receipt,) = ledger.commit(store, "player:0", padding=500)
        assert receipt.sequence == before, "refused appends use no sequence"
    check_journal(path, ledger)


def test_no_room_for_the_quarantine_refuses_the_open_and_changes_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.files.arm(0, Fault.KILL_TORN)
    with pytest.raises(Killed):
        life.commit()
    life.bury()
    torn, files = segment_bytes(life.path), FullDisk()
    files.room = 20
    with pytest.raises(NoSpace):
        Store.open(life.path, files=files)
    assert segment_bytes(life.path) == torn
    assert len(follow(life.path)) == 2, "reading still works"
    check_journal(life.path, life.ledger)


# --- Ctrl-C ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7])
def test_a_whole_record_that_ctrl_c_left_is_adopted_by_the_next_append(
    size: int, life: Life
) -> None:
    entities = [f"player:{i}" for i in range(size)]
    before = len(life.store)
    life.files.arm(0, Fault.INTERRUPT)
    with pytest.raises(KeyboardInterrupt):
        life.commit(*entities)
    assert len(life.store) == before, "not visible before it is durable"
    life.commit()
    found = [event.coordinate.entity for event in life.store][before:]
    assert found == [*entities, "player:0"]
    for event in life.store:
        assert life.store.get(event.event_id) == event
    assert life.store.verify("full").ok
    life.store.close()
    check_journal(life.path, life.ledger)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_partial_record_that_ctrl_c_left_is_cut_by_the_next_append(
    part: float, life: Life
) -> None:
    before = len(life.store)
    life.files.arm(0, Fault.INTERRUPT_TORN, part=part)
    with pytest.raises(KeyboardInterrupt):
        life.commit("player:7", "player:8")
    place = len(life.files.operations)
    life.commit()
    names = [o.name for o in life.since(place) if o.name in CHANGES and o.path.endswith(".seg")]
    assert names.index("truncate") < names.index("pwrite"), "written over the rest of another"
    assert [event.coordinate.entity for event in life.store][before:] == ["player:0"]
    life.store.close()
    check_journal(life.path, life.ledger)


@pytest.mark.parametrize("ending", ["append", "sync", "close", "kill"])
@pytest.mark.parametrize("fault", [Fault.INTERRUPT, Fault.INTERRUPT_TORN])
def test_what_ctrl_c_left_is_resolved_whatever_comes_next(
    fault: Fault, ending: str, life: Life
) -> None:
    life.files.arm(0, fault)
    with pytest.raises(KeyboardInterrupt):
        life.commit()
    if ending == "append":
        life.commit()
    elif ending == "sync":
        life.store.sync()
    if ending == "kill":
        life.bury()
    else:
        life.store.close()
        with Store.open(life.path, files=DISK) as store:
            assert store.open_report.cut is None, "a clean close leaves nothing to cut"
    check_journal(life.path, life.ledger)


def rotation_steps(tmp_path: Path) -> list[Operation]:
    life = Life(tmp_path / "recorded")
    life.fill()
    place = len(life.files.operations)
    life.commit()
    operations = life.since(place)
    life.store.close()
    return operations


def test_a_rotation_that_ctrl_c_interrupted_is_finished_or_undone(tmp_path: Path) -> None:
    steps = rotation_steps(tmp_path)
    assert "rename" in [step.name for step in steps]
    for place, step in enumerate(steps):
        if not Fault.INTERRUPT.fits(step):
            continue
        life = Life(tmp_path / str(place))
        life.fill()
        life.files.arm(place, Fault.INTERRUPT)
        with pytest.raises(KeyboardInterrupt):
            life.commit()
        assert [str(fired) for fired in life.files.fired] == [str(step)]
        life.commit()
        assert len(segment_bytes(life.path)) == 2, f"one rotation, not two: {step}"
        assert life.store.verify("full").ok
        life.store.close()
        life.files.bury()
        check_journal(life.path, life.ledger)


def test_ctrl_c_in_a_sync_leaves_the_event_and_no_poison(life: Life) -> None:
    life.files.arm(1, Fault.INTERRUPT)
    with pytest.raises(KeyboardInterrupt):
        life.commit()
    assert [operation.name for operation in life.files.fired] == ["sync_data"]
    assert len(life.store) == 2, "nobody knows yet that the event is durable"
    life.store.sync()
    assert len(life.store) == 3
    life.commit()
    life.store.close()
    check_journal(life.path, life.ledger)


# --- reading -----------------------------------------------------------------------


def test_a_disk_that_fails_under_a_reader_is_no_damage(tmp_path: Path) -> None:
    path, ledger = str(tmp_path / "journal"), Ledger()
    with Store.open(path, files=DISK, **SMALL) as store:
        for i in range(6):
            ledger.commit(store, f"player:{i % 2}", padding=900)
        truth = [fingerprint(event) for event in store]
        state = segment_bytes(path)

        def look(files: FaultyFiles) -> list[tuple[int, bytes, bytes, bytes | None]]:
            with Store.open(path, mode="r", files=files) as reader:
                reader.refresh()
                return [fingerprint(event) for event in reader]

        recorded = FaultyFiles()
        assert look(recorded) == truth
        assert not [o for o in recorded.operations if o.name in CHANGES], "a reader writes"
        refused = 0
        for place, operation in enumerate(recorded.operations):
            if operation.name == "close":
                continue
            files = FaultyFiles()
            files.arm(place, Fault.ERROR)
            try:
                shown = look(files)
            except StorageFailed:
                refused += 1
            else:
                assert shown == truth[: len(shown)], operation
            assert not files.open_files, f"descriptors leak after {operation}"
        assert refused, "some of these operations have to matter"
        assert segment_bytes(path) == state


def test_an_append_is_refused_by_name_when_its_entity_can_not_be_read(tmp_path: Path) -> None:
    path, ledger = str(tmp_path / "journal"), Ledger()
    with Store.open(path, files=DISK, **SMALL) as store:
        for i in range(6):
            ledger.commit(store, f"player:{i}", padding=900)
    files = FaultyFiles()
    with Store.open(path, files=files, **SMALL) as store:
        files.arm(0, Fault.ERROR)
        # Its head stands in an older segment, which is read for the first time.
        with pytest.raises(BatpakError) as caught:
            store.append(Coordinate("player:0", "room:dungeon"), {"n": 99}, kind=KIND)
        assert isinstance(caught.value, StorageFailed)
        ledger.commit(store, "player:0")
    check_journal(path, ledger)
