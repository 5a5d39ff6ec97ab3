"""Readers beside a writer: what `refresh` picks up, what it refuses, and that it only reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from batpak import Coordinate, Durability, EventKind, EventNotFound, Item, Region, Store
from batpak.errors import JournalCorrupt, JournalRewound, NotAJournal
from batpak.store import ReadOnlyStore
from tests.watched_files import WatchedFiles

ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
FIRST = "00000000000000000000.seg"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, segment_max_bytes=4096) as opened:
        yield opened


def note(store: Store, number: int = 0) -> None:
    store.append(ALICE, number, kind=NOTE)


@pytest.mark.proves("INV-READER-HAS-NO-WRITES")
def test_a_reader_has_no_way_to_write() -> None:
    public = {name for name in dir(ReadOnlyStore) if not name.startswith("_")}
    assert public == {
        "ancestors", "at", "checkpoint_sizes", "close", "count", "diagnostics", "entity", "fork",
        "get", "import_position", "journal_id", "latest", "open_report", "origin", "page", "path",
        "plan_compaction", "plan_erasure", "plan_shredding", "prove", "prove_consistency",
        "prove_range", "query", "refresh", "signing_keys", "snapshot", "stats",
        "stored_checkpoint", "verify", "verify_receipt", "verify_receipt_fields",
    }  # fmt: skip


@pytest.mark.proves("INV-READER-HAS-NO-WRITES")
def test_a_reader_writes_nothing_and_takes_no_lock(store: Store, path: Path) -> None:
    files = WatchedFiles()
    for number in range(30):
        note(store, number)
    with Store.open(path, mode="r", files=files) as reader:
        for number in range(30):
            note(store, number)
            reader.refresh()
        assert list(reader) == list(store)
        assert reader.verify().ok
        assert "61 events" in repr(reader)
    assert not files.opened_to_write
    assert {operation for operation, _ in files.calls} <= {"open", "pread", "listdir"}
    assert not files.count("open", "journal.lock")


def test_a_reader_stands_still_until_it_is_asked(store: Store, path: Path) -> None:
    note(store)
    with Store.open(path, mode="r") as reader:
        note(store, 1)
        store.append_many([Item(ALICE, n, kind=NOTE) for n in (2, 3)])
        assert len(reader) == 2
        assert [event.sequence for event in reader] == [0, 1]
        assert reader.refresh() == 5
        assert reader.refresh() == 5
        assert [event.payload for event in reader.query(Region(kind=NOTE))] == [0, 1, 2, 3]


def test_reading_past_the_end_looks_once_for_more(store: Store, path: Path) -> None:
    with Store.open(path, mode="r") as reader:
        note(store)
        assert reader.at(1).payload == 0
        assert len(reader) == 2
        with pytest.raises(EventNotFound) as caught:
            reader.at(2)
        assert caught.value.sequence == 2
        note(store, 1)
        assert reader[2].payload == 1


@pytest.mark.parametrize("refreshes", [1, 7, 200])
def test_a_reader_follows_over_rotations(store: Store, path: Path, refreshes: int) -> None:
    with Store.open(path, mode="r") as reader:
        for number in range(200):
            note(store, number)
            if number % (200 // refreshes) == 0:
                assert reader.refresh() == len(store)
        assert store.stats().segments > 10
        assert reader.refresh() == len(store)
        assert list(reader) == list(store)
        assert [event.payload for event in reader.query(Region(kind=NOTE))] == [*range(200)]
        assert reader.stats() == store.stats()
        assert reader.verify().ok


def test_a_reader_follows_over_close_and_reopen(path: Path) -> None:
    Store.open(path).close()
    with Store.open(path, mode="r") as reader:
        for epoch in range(2, 6):
            with Store.open(path) as store:
                note(store, epoch)
                assert reader.refresh() == len(store)
            assert reader.refresh() == 2 + 3 * (epoch - 1)
        assert reader.verify().ok
        assert [event.payload for event in reader.query(Region(kind=NOTE))] == [2, 3, 4, 5]


def test_several_readers_and_a_writer_share_a_journal(store: Store, path: Path) -> None:
    readers = [Store.open(path, mode="r") for _ in range(4)]
    for number in range(10):
        note(store, number)
        assert {reader.refresh() for reader in readers} == {len(store)}
    for reader in readers:
        reader.close()
    note(store)


def test_a_written_event_of_a_weaker_mode_is_shown_at_once(path: Path) -> None:
    with (
        Store.open(path, durability=Durability.OS) as store,
        Store.open(path, mode="r") as reader,
    ):
        note(store)
        assert store.frontier().durable.sequence == 1
        assert reader.refresh() == 2


def test_a_torn_tail_means_not_yet(path: Path) -> None:
    with Store.open(path, durability=Durability.OS, preallocate=0) as store:
        note(store)
        segment = path / "segments" / FIRST
        before = segment.read_bytes()
        note(store, 1)
        whole = segment.read_bytes()
        with Store.open(path, mode="r") as reader:
            pass
        # What a reader can meet while the writer is in the middle of its write.
        for end in (len(before) + 1, len(before) + 63, len(before) + 64, len(whole) - 1):
            segment.write_bytes(whole[:end])
            with Store.open(path, mode="r") as reader:
                assert len(reader) == 2
                assert reader.refresh() == 2
                segment.write_bytes(whole)
                assert reader.refresh() == 3
                assert reader.at(2).payload == 1


def closed_journal(path: Path, count: int = 5) -> None:
    with Store.open(path) as store:
        for number in range(count):
            note(store, number)


@pytest.mark.proves("INV-REWOUND-DETECTED")
@pytest.mark.parametrize("how", ["cut", "replaced", "other-tail", "gone", "emptied", "header"])
def test_a_journal_that_lost_what_was_read_is_refused(path: Path, tmp_path: Path, how: str) -> None:
    closed_journal(path)
    shutil.copytree(path, tmp_path / "older")
    with Store.open(path) as store:
        note(store, 99)
    segment = path / "segments" / FIRST
    with Store.open(path, mode="r") as reader:
        seen = len(reader)
        older = (tmp_path / "older" / "segments" / FIRST).read_bytes()
        if how == "cut":
            segment.write_bytes(segment.read_bytes()[: len(older)])
        elif how == "replaced":
            other = tmp_path / "other"
            closed_journal(other, 20)
            shutil.copy(other / "segments" / FIRST, segment)
        elif how == "other-tail":
            # The older state, and then another history of at least the same length.
            with Store.open(tmp_path / "older") as store:
                for number in range(9):
                    note(store, 50 + number)
            shutil.copy(tmp_path / "older" / "segments" / FIRST, segment)
        elif how == "gone":
            segment.unlink()
        elif how == "header":
            # Every record is as it was, but this is not the file that was read.
            data = bytearray(segment.read_bytes())
            data[40] ^= 1
            segment.write_bytes(data)
        else:
            segment.write_bytes(b"")
        with pytest.raises(JournalRewound) as caught:
            reader.refresh()
        error = caught.value
        assert error.file == str(segment)
        assert error.sequence == seen
        assert error.offset is not None
        assert "open the journal anew" in error.advice
        with pytest.raises(JournalRewound):
            reader.at(seen)


@pytest.mark.proves("INV-REWOUND-DETECTED")
def test_a_last_event_that_lost_its_end_is_missed(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with Store.open(path, preallocate=0) as store:
        note(store, 1)
        shutil.copytree(path, copy)
    segment = copy / "segments" / FIRST
    with Store.open(copy, mode="r") as reader:
        assert len(reader) == 2
        # The record's header stays, the end of its payload goes.
        segment.write_bytes(segment.read_bytes()[:-8])
        with pytest.raises(JournalRewound):
            reader.refresh()


def test_damage_below_the_durable_bound_is_named_and_what_precedes_is_served(path: Path) -> None:
    closed_journal(path)
    segment = path / "segments" / FIRST
    with Store.open(path, mode="r") as reader:
        offset = next(
            place
            for place in range(128, segment.stat().st_size, 8)
            if segment.read_bytes()[place : place + 4] == b"BPC1"
            and int.from_bytes(segment.read_bytes()[place + 24 : place + 32], "little") == 3
        )
        assert len(reader) == 7
    data = bytearray(segment.read_bytes())
    data[offset + 70] ^= 1
    segment.write_bytes(data)
    with Store.open(path, mode="r") as reader:
        assert len(reader) == 3
        assert [event.payload for event in reader.query(Region(kind=NOTE))] == [0, 1]
        (finding,) = reader.open_report.findings
        assert (finding.code, finding.file, finding.offset, finding.sequence) == (
            "journal-corrupt", str(segment), offset, 3,
        )  # fmt: skip
        with pytest.raises(JournalCorrupt) as caught:
            reader.refresh()
        assert (caught.value.first, caught.value.last) == (3, 6)
        assert caught.value.witness
    with pytest.raises(JournalCorrupt) as caught:
        Store.open(path)
    assert (caught.value.first, caught.value.last) == (3, 6)
    assert caught.value.offset == offset


def test_a_reader_needs_a_journal(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotAJournal):
            Store.open(place, mode="r")
    assert not list(tmp_path.iterdir())
