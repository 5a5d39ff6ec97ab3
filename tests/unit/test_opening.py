"""What an open does to lock, places and files, step by step; damage is met in tests/crash."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Item, Region, Store
from batpak.engine import opening
from batpak.errors import (
    Damaged,
    JournalCorrupt,
    JournalLocked,
    JournalPoisoned,
    NetworkFilesystem,
    NotAJournal,
    StorageFailed,
    UnsupportedFeature,
)
from batpak.journal.hint import Hint
from batpak.journal.sidecar import SIDECAR_PREFIX_SIZE, decode_sidecar_header
from tests.support.faulty_files import DISK
from tests.watched_files import WatchedFiles

ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
FIRST = f"{0:020}.seg"


def fill(path: Path, events: int = 3, **options: Any) -> None:
    with Store.open(path, files=DISK, **options) as store:
        for number in range(events):
            store.append(ALICE, number, kind=NOTE)


def notes(store: Any) -> list[Any]:
    return [event.payload for event in store.query(Region(kind=NOTE))]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- places ------------------------------------------------------------------------------------


def test_a_network_file_system_is_refused_unless_it_is_insisted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def nfs(path: str) -> str:
        asked.append(path)
        return "nfs4"

    monkeypatch.setattr(opening, "filesystem_type", nfs)
    path = tmp_path / "not" / "yet" / "there"
    with pytest.raises(NetworkFilesystem) as caught:
        Store.open(path)
    assert "nfs4" in str(caught.value)
    assert caught.value.file == str(path)
    assert asked == [str(tmp_path)], "the nearest folder that exists is asked for"
    assert os.listdir(tmp_path) == []
    fill(path, allow_network_filesystem=True)
    assert len(asked) == 1
    assert (path / "segments" / FIRST).exists()


def test_missing_parents_are_made_and_their_names_synced(tmp_path: Path) -> None:
    files = WatchedFiles()
    Store.open(tmp_path / "a" / "b" / "journal", files=files).close()
    made = [name for (operation, name), _ in files.calls.items() if operation == "mkdir"]
    assert sorted(made) == ["a", "b", "journal", "segments"]
    synced = Counter({n: c for (o, n), c in files.calls.items() if o == "sync_directory"})
    assert synced["a"] >= 1
    assert synced["b"] >= 1
    assert synced[tmp_path.name] >= 1
    assert synced["journal"] >= 1
    assert synced["segments"] >= 1


def test_an_open_of_a_journal_with_segments_syncs_no_parent(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    files = WatchedFiles()
    Store.open(tmp_path / "journal", files=files).close()
    assert files.calls["sync_directory", tmp_path.name] == 0
    assert files.calls["sync_directory", "journal"] >= 1
    assert files.calls["sync_directory", "segments"] >= 1


def test_a_folder_that_another_process_made_meanwhile_is_taken(tmp_path: Path) -> None:
    class Raced(WatchedFiles):
        def mkdir(self, path: str) -> None:
            super().mkdir(path)
            super().mkdir(path)

    with Store.open(tmp_path / "a" / "journal", files=Raced()) as store:
        assert not store.open_report.created or len(store) == 1


@pytest.mark.parametrize("strangers", [["x"], ["b", "a", "d", "c"]])
def test_strangers_are_named_but_not_all_of_them(tmp_path: Path, strangers: list[str]) -> None:
    for name in strangers:
        (tmp_path / name).write_text("mine")
    with pytest.raises(NotAJournal) as caught:
        Store.open(tmp_path)
    assert f"({', '.join(sorted(strangers)[:3])})" in caught.value.what
    assert sorted(os.listdir(tmp_path)) == sorted(strangers)


def test_a_half_made_journal_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / "journal.json.tmp").write_text("{")
    (tmp_path / "tail.hint").write_bytes(b"")
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / f"{FIRST}.tmp").write_bytes(b"half")
    with Store.open(tmp_path) as store:
        assert len(store) == 1
    assert not list(tmp_path.rglob("*.tmp"))


# --- the lock ----------------------------------------------------------------------------------


def test_the_lock_file_holds_the_holders_number_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "journal.lock").write_text("123456789012345678901234567890\nold\n")
    with Store.open(tmp_path):
        assert (tmp_path / "journal.lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    ("text", "pid"), [("77\n", 77), ("  78  ", 78), ("7 8", None), ("-7", None), ("", None)]
)
def test_the_holder_of_a_lock_is_named_where_its_number_can_be_read(
    tmp_path: Path, text: str, pid: int | None
) -> None:
    with Store.open(tmp_path):
        (tmp_path / "journal.lock").write_text(text)
        before = descriptors()
        with pytest.raises(JournalLocked) as caught:
            Store.open(tmp_path)
        assert caught.value.pid == pid
        assert (f"process {pid}" if pid else "another process") in caught.value.what
        assert caught.value.file == str(tmp_path / "journal.lock")
        assert descriptors() == before


class Replacing(WatchedFiles):
    """Between opening and locking, somebody replaces the lock file."""

    def __init__(self, lock: Path) -> None:
        super().__init__()
        self.path = lock

    def lock(self, fd: int) -> bool:
        locked = super().lock(fd)
        fresh = self.path.with_name("fresh")
        fresh.write_text("55\n")
        os.replace(fresh, self.path)
        return locked


def test_a_lock_on_a_file_that_lost_its_name_is_no_lock(tmp_path: Path) -> None:
    fill(tmp_path)
    before = descriptors()
    with pytest.raises(JournalLocked):
        Store.open(tmp_path, files=Replacing(tmp_path / "journal.lock"))
    assert (tmp_path / "journal.lock").read_text() == "55\n", "theirs is not touched"
    assert descriptors() == before
    fill(tmp_path)


class ReplacingLater(Replacing):
    """The lock file is replaced when the open has got as far as the hint."""

    def lock(self, fd: int) -> bool:
        return WatchedFiles.lock(self, fd)

    def sync_file(self, fd: int) -> None:
        super().sync_file(fd)
        if self._names[fd] == "tail.hint":
            Replacing.lock(self, fd)


def test_a_lock_that_is_replaced_during_the_open_begins_no_segment(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    before = descriptors()
    with pytest.raises(JournalPoisoned) as caught:
        # The newest segment is full by this measure, so the open event rotates.
        Store.open(
            tmp_path, files=ReplacingLater(tmp_path / "journal.lock"), segment_max_bytes=4096
        )
    assert isinstance(caught.value.cause, Damaged)
    assert descriptors() == before
    assert [p.name for p in (tmp_path / "segments").glob("*.seg")] == [FIRST]
    with Store.open(tmp_path) as store:
        assert notes(store) == list(range(30))


def test_a_writer_whose_lock_file_was_deleted_writes_nothing_to_close(tmp_path: Path) -> None:
    first = Store.open(tmp_path, files=DISK)
    first.append(ALICE, 1, kind=NOTE)
    (tmp_path / "journal.lock").unlink()
    with Store.open(tmp_path, files=DISK) as second:
        receipt = second.append(ALICE, 2, kind=NOTE)
        with pytest.raises(JournalPoisoned, match=r"journal\.lock was replaced"):
            first.close()
    with Store.open(tmp_path, mode="r", files=DISK) as reader:
        assert reader.get(receipt.event_id).payload == 2
        assert notes(reader) == [1, 2]
        assert reader.verify("full").ok


def test_a_lock_file_that_is_gone_is_named_when_closing(tmp_path: Path) -> None:
    store = Store.open(tmp_path, files=DISK)
    (tmp_path / "journal.lock").unlink()
    with pytest.raises(JournalPoisoned, match=r"journal\.lock was deleted"):
        store.close()
    fill(tmp_path)


class Contended(WatchedFiles):
    """The first lock is ours; the one on the fresh file is somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = 0

    def lock(self, fd: int) -> bool:
        self.locks += 1
        return super().lock(fd) and self.locks == 1


def test_a_shared_lock_file_is_made_anew_and_a_lost_race_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    lock = tmp_path / "journal" / "journal.lock"
    os.link(lock, tmp_path / "copy")
    before, descriptors_before = (tmp_path / "copy").read_text(), descriptors()
    with pytest.raises(JournalLocked):
        Store.open(tmp_path / "journal", files=Contended())
    assert descriptors() == descriptors_before
    assert lock.samefile(tmp_path / "copy"), "nothing was renamed"
    lock.write_text("1\n")
    with Store.open(tmp_path / "journal"):
        assert not lock.samefile(tmp_path / "copy")
        assert lock.read_text() == f"{os.getpid()}\n"
        assert (tmp_path / "copy").read_text() == "1\n" != before
        with pytest.raises(JournalLocked):
            Store.open(tmp_path / "journal")


class Interrupted(WatchedFiles):
    """Ctrl-C at one call of one operation."""

    def __init__(self, operation: str, call: int = 1) -> None:
        super().__init__()
        self.operation, self.left = operation, call

    def _meet(self, operation: str, name: str) -> None:
        super()._meet(operation, name)
        if operation == self.operation:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def lock(self, fd: int) -> bool:
        self._meet("lock", self._names[fd])
        return super().lock(fd)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("lock", 1), ("truncate", 1), ("pwrite", 1), ("mkdir", 1), ("listdir", 2),
        ("sync_directory", 1), ("sync_file", 1), ("pwrite", 2), ("sync_data", 1),
    ],
)  # fmt: skip
def test_ctrl_c_at_any_step_gives_lock_and_descriptors_back(
    tmp_path: Path, operation: str, call: int
) -> None:
    fill(tmp_path)
    before = descriptors()
    files = Interrupted(operation, call)
    with pytest.raises(KeyboardInterrupt):
        Store.open(tmp_path, files=files)
    assert descriptors() == before
    with Store.open(tmp_path) as store:
        assert notes(store) == [0, 1, 2]


# --- what an open reports and leaves -----------------------------------------------------------


def test_the_report_counts_segments_records_and_witnesses(tmp_path: Path) -> None:
    fill(tmp_path, 60, segment_max_bytes=4096, durability=Durability.OS)
    with Store.open(tmp_path, files=DISK) as store:
        report = store.open_report
    segments = len(list((tmp_path / "segments").glob("*.seg")))
    assert segments > 3
    assert (report.segments, report.created, report.cut, report.epoch) == (segments, False, None, 2)
    assert report.mapped + report.rebuilt >= segments - 1
    assert set(report.seconds) == {"lock", "identity", "index", "tail", "repair", "begin"}
    assert all(seconds >= 0 for seconds in report.seconds.values())
    assert ("tail.hint", 62) in report.witnesses
    for sidecar in (tmp_path / "segments").glob("*.idx"):
        sidecar.unlink()
    with Store.open(tmp_path, files=DISK) as store:
        report = store.open_report
        assert (report.mapped, report.rebuilt) == (0, segments - 1)
        # Each note a record, one open and one close an epoch, and a pad for each close.
        assert report.walked == 60 + 2 + 2 + 2
        assert notes(store) == list(range(60))


def sidecars(path: Path) -> dict[str, bytes]:
    """What they hold, behind the header that says what was durable when they were written."""
    return {
        file.name: file.read_bytes()[SIDECAR_PREFIX_SIZE:] for file in path.glob("segments/*.idx")
    }


def test_lost_sidecars_are_written_again_by_the_next_open_and_by_no_reader(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 7000, segment_max_bytes=1 << 19, durability=Durability.OS)
    whole = sidecars(path)
    with Store.open(path, mode="r") as reader:
        hashes = [event.event_hash for event in reader]
    newest = max(path.glob("segments/*.seg")).stem + ".idx"
    sealed = {name: data for name, data in whole.items() if name != newest}
    assert len(sealed) >= 3
    for file in path.glob("segments/*.idx"):
        file.unlink()
    with Store.open(path, mode="r") as reader:
        assert reader.open_report.rebuilt >= len(sealed)
    assert sidecars(path) == {}
    before = len(hashes)
    for rebuilt in (len(sealed), 0):
        with Store.open(path, files=DISK, segment_max_bytes=1 << 19) as store:
            assert store.open_report.rebuilt == rebuilt
            assert [event.event_hash for event in store][: len(hashes)] == hashes
            assert store.verify("full").ok
        found = sidecars(path)
        assert {name: found[name] for name in sealed} == sealed
    # Each vouches for all that was durable, as the one that is lost may have done.
    for name in sealed:
        header = decode_sidecar_header((path / "segments" / name).read_bytes())
        assert header is not None
        assert header.durable > before


def test_a_lost_sidecar_of_few_large_commits_is_written_again_too(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, files=DISK, segment_max_bytes=1 << 18) as store:
        for _ in range(3):
            store.append_many([Item(ALICE, n, kind=NOTE) for n in range(1500)])
    for file in path.glob("segments/*.idx"):
        file.unlink()
    for rebuilt in (3, 0):
        with Store.open(path, files=DISK, segment_max_bytes=1 << 18) as store:
            assert store.open_report.rebuilt == rebuilt
            assert notes(store) == [*range(1500)] * 3


def test_a_sidecar_that_can_not_be_written_again_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    fill(path, 3000, segment_max_bytes=1 << 19, durability=Durability.OS)
    for file in path.glob("segments/*.idx"):
        file.unlink()
    files = WatchedFiles()
    files.refuse("rename", "0*", errno.EIO)
    with Store.open(path, files=files) as store:
        assert store.open_report.rebuilt == 1
        assert notes(store) == list(range(3000))
    assert "sidecar-not-written" in [vars(record).get("code") for record in caplog.records]


def test_a_new_journal_says_that_it_is_new_and_which_epoch_it_is(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        assert store.open_report.created
        assert (store.open_report.epoch, store.open_report.segments) == (1, 1)
        identity = json.loads((tmp_path / "journal" / "journal.json").read_text())
        assert identity["origin"] == f"batpak/{identity['journal_id']}"
        assert identity["format"] == 1
        hint = Hint.decode((tmp_path / "journal" / "tail.hint").read_bytes())
        assert hint is not None
        assert (hint.epoch, hint.segment_base, hint.durable) == (1, 0, 1)
    with Store.open(tmp_path / "journal") as store:
        assert (store.open_report.created, store.open_report.epoch) == (False, 2)


def test_creation_that_was_cut_short_goes_on_with_the_next_epoch(tmp_path: Path) -> None:
    fill(tmp_path)
    hint = Hint.decode((tmp_path / "tail.hint").read_bytes())
    assert hint is not None
    (tmp_path / "segments" / FIRST).unlink()
    for sidecar in (tmp_path / "segments").glob("*.idx"):
        sidecar.unlink()
    with pytest.raises(JournalCorrupt) as caught:
        Store.open(tmp_path)
    error = caught.value
    assert (error.reason, error.first, error.last) == ("no-segment", 0, hint.durable - 1)
    assert (error.witness, error.sequence) == ("tail.hint", 0)
    assert error.file == str(tmp_path / "segments")
    # A hint of a journal that never had a durable event tells of nothing that is missing.
    (tmp_path / "tail.hint").write_bytes(hint._replace(durable=0, epoch=5).encode())
    with Store.open(tmp_path) as store:
        assert store.open_report.epoch == 6
        assert len(store) == 1


def test_a_hard_linked_hint_is_made_anew(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    os.link(tmp_path / "journal" / "tail.hint", tmp_path / "copy")
    before = (tmp_path / "copy").read_bytes()
    fill(tmp_path / "journal")
    assert (tmp_path / "copy").read_bytes() == before
    assert (tmp_path / "journal" / "tail.hint").read_bytes() != before


def test_a_hard_linked_segment_is_copied_before_it_changes(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    segment = tmp_path / "journal" / "segments" / FIRST
    # Longer than a step of the copy, with a tail that will be cut.
    with Store.open(tmp_path / "journal") as store:
        store.append_raw(ALICE, NOTE, bytes(range(256)) * 6000)
    torn = segment.read_bytes() + b"torn" + bytes(100)
    segment.write_bytes(torn)
    os.link(segment, tmp_path / "copy")
    with Store.open(tmp_path / "journal") as store:
        assert store.open_report.cut is not None
        assert store.open_report.cut.bytes == 4
        assert store.verify("full").ok
        assert [e.raw for e in store.query(Region(kind=NOTE))][-1] == bytes(range(256)) * 6000
        assert os.stat(segment).st_nlink == 1
    assert (tmp_path / "copy").read_bytes() == torn
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_tail_longer_than_a_step_is_set_aside_whole(tmp_path: Path) -> None:
    fill(tmp_path)
    segment = tmp_path / "segments" / FIRST
    whole = segment.read_bytes()
    garbage = bytes(range(1, 252)) * 140_000  # beyond two steps of 16 MiB
    segment.write_bytes(whole + garbage + bytes(5000))
    with Store.open(tmp_path, files=DISK) as store:
        cut = store.open_report.cut
        assert cut is not None
        assert (cut.bytes, cut.offset, cut.sequence) == (len(garbage), len(whole), 5)
        assert cut.reason == "magic"
        assert cut.file == str(segment)
        assert cut.quarantine is not None
        assert Path(cut.quarantine).read_bytes() == garbage
    assert segment.read_bytes()[: len(whole)] == whole


@pytest.mark.parametrize(
    ("operation", "name", "what"),
    [
        ("listdir", "journal", "can't read the journal's directory"),
        ("open-to-write", "journal.lock", "can't open journal.lock"),
        ("truncate", "journal.lock", "can't lock the journal"),
        ("pwrite", "journal.lock", "can't lock the journal"),
        ("mkdir", "segments", "can't prepare the journal's directory"),
        ("sync_directory", "segments", "can't prepare the journal's directory"),
        ("sync_directory", "journal", "can't prepare the journal's directory"),
        ("open-to-write", FIRST, "can't open the newest segment for writing"),
        ("open-to-write", "tail.hint", "can't write tail.hint"),
        ("pwrite", "tail.hint", "can't write tail.hint"),
        ("sync_file", "tail.hint", "can't write tail.hint"),
        ("pwrite", FIRST, "can't"),
        ("sync_data", FIRST, "can't write the open event"),
    ],
)
def test_a_step_that_the_disk_refuses_is_named_and_nothing_is_held(
    tmp_path: Path, operation: str, name: str, what: str
) -> None:
    path = tmp_path / "journal"
    fill(path)
    before, open_before = (path / "segments" / FIRST).read_bytes(), descriptors()
    files = WatchedFiles()
    files.refuse(operation, name, errno.EIO)
    with pytest.raises(StorageFailed) as caught:
        Store.open(path, files=files)
    assert caught.value.what.startswith(what)
    assert caught.value.file is not None
    assert os.path.basename(caught.value.file) in (name, "journal", "segments", FIRST)
    assert descriptors() == open_before
    assert (path / "segments" / FIRST).read_bytes().startswith(before)
    with Store.open(path) as store:
        assert notes(store) == [0, 1, 2]


def test_a_segment_that_may_only_be_read_is_not_written(tmp_path: Path) -> None:
    from tests.fuzz.mending import mend_segment

    fill(tmp_path)
    segment = tmp_path / "segments" / FIRST
    data = bytearray(segment.read_bytes())
    data[52] = 6
    changed = mend_segment(bytes(data), links=True)
    segment.write_bytes(changed)
    with pytest.raises(UnsupportedFeature) as caught:
        Store.open(tmp_path)
    assert caught.value.bits == 6
    assert caught.value.file == str(segment)
    assert segment.read_bytes() == changed
    with Store.open(tmp_path, mode="r") as reader:
        assert notes(reader) == [0, 1, 2]


class Overwriting(WatchedFiles):
    """Notes which bytes of segments are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, int]] = []

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        if self._names[fd] == FIRST:
            self.written.append((offset, offset + written))
        return written


def test_every_byte_that_may_not_be_on_the_disk_is_written_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path, files=DISK, durability=Durability.OS, preallocate=0)
    start = store.stats().segment_bytes
    for _ in range(3):
        store.append_raw(ALICE, NOTE, bytes(range(256)) * 5000)
    end = store.stats().segment_bytes
    store._writer.abandon()
    store._writer.release()
    files = Overwriting()
    with Store.open(tmp_path, files=files) as again:
        assert len(list(again.query(Region(kind=NOTE)))) == 3
        at = start
        for first, after in files.written:
            if first == at < end:
                at = after
        assert at >= end > start + (3 << 20)
    store.close()
