"""The writer's rarer ways: keys, references, full streams, interruptions that go on failing.

Through `open_for_writing`, for what no public call reaches yet, and through the store for
everything else. Forged segments stand in for journals that would take years to write.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventId, EventKind, Item, Region, Store
from batpak.clock import MAX_US
from batpak.config import StoreConfig
from batpak.engine.opening import Opened, open_for_writing
from batpak.errors import (
    BatchTooLarge,
    EntityClockOverflow,
    ExpectationFailed,
    Indeterminate,
    InvalidInput,
    JournalCorrupt,
    JournalPoisoned,
    NoSpace,
    ReentrantCall,
    StorageFailed,
    StoreClosed,
    StoreForked,
)
from batpak.event import CODEC_PLAIN, FLAG_KEYED, content_hash, id_of_hlc
from batpak.journal import writer as writing
from batpak.journal.commits import Prepared
from batpak.journal.header import SegmentHeader
from batpak.journal.layout import Layout
from batpak.journal.record import salt_crc, seal_commit
from batpak.journal.writer import MAX_CLOCK
from tests.fuzz.mending import mend_segment
from tests.fuzz.targets.journals import IDENTITY
from tests.support.faulty_files import DISK
from tests.support.records import row
from tests.watched_files import WAIT, WatchedFiles
from tools.golden_vectors import JOURNAL_ID

ALICE = Coordinate("player:alice", "room:dungeon")
BOB = Coordinate("player:bob", "room:dungeon")
NOTE = EventKind(1, 7)
FIRST = f"{0:020}.seg"
KEY = bytes(range(16))


def prepared(coordinate: Coordinate = ALICE, **options: Any) -> Prepared:
    return Prepared.of(coordinate, NOTE.raw, 0, CODEC_PLAIN, b"abc", **options)


def opened(path: Path, **options: Any) -> Opened:
    config = StoreConfig(**({"durability": Durability.OS, "preallocate": 0} | options))
    return open_for_writing(DISK, Layout(path), config)


# --- keys and references ---------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
def test_a_key_is_the_events_id_and_marks_it(tmp_path: Path, together: bool) -> None:
    journal = opened(tmp_path)
    writer, reader = journal.writer, journal.reader
    own_like = id_of_hlc(writer.log.hlc + (1 << 40), 5)
    events = [prepared(key=KEY), prepared(BOB, flags=3, key=own_like)]
    done = writer.commit(events) if together else [writer.commit_one(e) for e in events]
    bound = writer.log.sequence
    for one, key, flags in zip(done, (KEY, own_like), (0, 3), strict=True):
        assert one[1] == key
        found = reader.get(key, bound)
        assert found is not None
        assert (found.sequence, found.flags) == (one[0], flags | FLAG_KEYED)
        assert found.correlation_id.bytes == key
        assert found.event_hash == one[4]
    own = writer.commit_one(prepared())
    assert own[1] == id_of_hlc(own[2], int.from_bytes(own[1][8:], "big") & (2**58 - 1))
    assert reader.at(own[0]).flags == 0
    writer.abandon()
    writer.release()
    with Store.open(tmp_path) as store:
        assert store.get(EventId.from_bytes(KEY)).sequence == done[0][0]
        assert store.verify("full").ok


def test_items_of_a_batch_name_earlier_ones(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    cause = bytes([9]) * 16
    done = journal.writer.commit(
        [
            prepared(),
            prepared(causation_id=0, correlation_id=0),
            prepared(causation_id=cause, correlation_id=cause),
            prepared(BOB, causation_id=1),
        ]
    )
    ids = [one[1] for one in done]
    rows = [journal.reader.at(one[0]).row for one in done]
    assert [r.causation_id for r in rows] == [bytes(16), ids[0], cause, ids[1]]
    assert [r.correlation_id for r in rows] == [ids[0], ids[0], cause, ids[3]]
    assert [r.clock for r in rows] == [0, 1, 2, 0]
    assert [one[3] for one in done] == [0, 1, 2, 0]
    assert rows[1].prev_hash == done[0][4] == done[1][5]
    assert [r.hlc for r in rows] == list(range(rows[0].hlc, rows[0].hlc + 4))
    journal.writer.abandon()
    journal.writer.release()


# --- limits ------------------------------------------------------------------------------------


def forged(path: Path, epoch: int = 1, **fields: Any) -> None:
    """A journal of one segment with one event of `alice` whose row says anything."""
    header = SegmentHeader(JOURNAL_ID.bytes, 0, 0, bytes(16), bytes(32), epoch).encode()
    entity, scope = ALICE.entity_bytes, ALICE.scope_bytes
    one = row(
        0, entity_len=len(entity), scope_len=len(scope), content_hash=content_hash(0, b"abc"),
        **fields,
    )  # fmt: skip
    record = seal_commit(
        salt_crc(bytes(16)), 128, one + entity + scope, b"abc",
        int.from_bytes(header[124:], "little"), 0, 0, epoch, 1, 2,
    )[0]  # fmt: skip
    (path / "segments").mkdir(parents=True)
    (path / "journal.json").write_bytes(IDENTITY)
    (path / "segments" / FIRST).write_bytes(mend_segment(header + record))


@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
def test_a_stream_that_is_full_takes_no_event_and_others_do(tmp_path: Path, together: bool) -> None:
    forged(tmp_path, clock=MAX_CLOCK - 1)

    def append(store: Store, where: Coordinate) -> int:
        if together:
            return store.append_many([Item(where, 1, kind=NOTE)])[0].clock
        return store.append(where, 1, kind=NOTE).clock

    with Store.open(tmp_path) as store:
        assert append(store, ALICE) == MAX_CLOCK
        before = len(store)
        with pytest.raises(EntityClockOverflow) as caught:
            append(store, ALICE)
        assert caught.value.entity == ALICE.entity
        assert len(store) == before
        assert append(store, BOB) == 0
    with Store.open(tmp_path) as store, pytest.raises(EntityClockOverflow):
        append(store, ALICE)


def test_a_journal_whose_clock_is_used_up_is_refused_to_writers(tmp_path: Path) -> None:
    """A hybrid clock after the year 9999: no later event could have a greater one."""
    last = MAX_US // 1000
    for milliseconds in (last, last + 1, (1 << 48) - 1):
        path = tmp_path / str(milliseconds)
        forged(path, hlc=milliseconds << 16)
        if milliseconds == last:
            with Store.open(path) as store:
                assert store.append(BOB, 1, kind=NOTE).hlc > last << 16
            continue
        before = (path / "segments" / FIRST).read_bytes()
        with pytest.raises(JournalCorrupt, match="after the year 9999") as caught:
            Store.open(path)
        assert (caught.value.reason, caught.value.sequence) == ("hlc", 0)
        assert caught.value.offset == len(before)
        assert (path / "segments" / FIRST).read_bytes() == before
        with Store.open(path, mode="r") as reader:
            assert len(reader) == 1


def test_a_commit_leaves_room_for_a_later_erasures_table() -> None:
    limit = (1 << 30) - 24
    writing._check_size(limit - 4, 1)
    writing._check_size(limit - 8, 2)
    for count in (1, 2, 50):
        with pytest.raises(BatchTooLarge) as caught:
            writing._check_size(limit - 4 * count + 1, count)
        assert caught.value.limit == limit - 4 * count
        assert caught.value.advice


def test_streams_that_were_put_aside_go_on_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_WARM_HEADS", 3)
    with Store.open(tmp_path, segment_max_bytes=4096, durability=Durability.OS) as store:
        clocks = [
            store.append(Coordinate(f"player:{n % 8}", "house"), n, kind=NOTE).clock
            for n in range(200)
        ]
        assert clocks == [n // 8 for n in range(200)]
        assert len(store._writer._heads) <= 8 + 40, "those since the last rotation"
        assert store.verify("full").ok


def test_the_greatest_epoch_is_the_last_one(tmp_path: Path) -> None:
    forged(tmp_path / "full", epoch=2**32 - 1)
    before = (tmp_path / "full" / "segments" / FIRST).read_bytes()
    with pytest.raises(InvalidInput) as caught:
        Store.open(tmp_path / "full")
    assert (caught.value.field, caught.value.value) == ("epoch", 2**32)
    assert (tmp_path / "full" / "segments" / FIRST).read_bytes() == before
    forged(tmp_path / "almost", epoch=2**32 - 2)
    with Store.open(tmp_path / "almost") as store:
        assert store.open_report.epoch == 2**32 - 1


# --- what goes on failing ------------------------------------------------------------------------


def rotating(path: Path, files: WatchedFiles, **options: Any) -> Store:
    """A store whose next append rotates."""
    store = Store.open(
        path, files=files, segment_max_bytes=4096, durability=Durability.OS, **options
    )
    while store.stats().segment_bytes < 4096:
        store.append(ALICE, len(store), kind=NOTE)
    return store


@pytest.mark.parametrize("operation", ["unlink", "sync_directory"])
def test_a_rotation_that_can_be_neither_done_nor_undone_poisons(
    tmp_path: Path, operation: str
) -> None:
    files = WatchedFiles()
    store = rotating(tmp_path, files)
    written = len(store)
    files.refuse("rename", "*", errno.EIO)
    files.refuse(operation, "*", errno.EIO)
    with pytest.raises(JournalPoisoned) as caught:
        store.append(ALICE, 0, kind=NOTE)
    assert isinstance(caught.value.cause, OSError)
    files.refused.clear()
    with pytest.raises(JournalPoisoned):
        store.append(ALICE, 0, kind=NOTE)
    assert len(store) == written
    with pytest.raises(JournalPoisoned):
        store.close()
    with Store.open(tmp_path) as again:
        assert [e.sequence for e in again.query(Region(kind=NOTE))] == list(range(1, written))


def test_a_rotation_that_was_undone_is_tried_again(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = rotating(tmp_path, files)
    files.refuse("rename", "*", errno.EIO)
    for _ in range(2):
        with pytest.raises(StorageFailed):
            store.append(ALICE, 0, kind=NOTE)
        assert sorted(os.listdir(tmp_path / "segments")) == [FIRST]
    files.refused.clear()
    store.append(ALICE, 0, kind=NOTE)
    assert len([n for n in os.listdir(tmp_path / "segments") if n.endswith(".seg")]) == 2
    store.close()


class Interrupting(WatchedFiles):
    """The next write to a segment takes effect, and then Ctrl-C arrives."""

    def __init__(self, operation: str = "pwrite") -> None:
        super().__init__()
        self.operation = operation
        self.armed = False

    def _after(self, operation: str) -> None:
        if self.armed and operation == self.operation:
            self.armed = False
            raise KeyboardInterrupt

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        self._after("pwrite")
        return written

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._after("rename")

    def fstat(self, fd: int) -> os.stat_result:
        self._meet("fstat", self._names.get(fd, ""))
        return super().fstat(fd)

    def stat(self, path: str) -> os.stat_result:
        self._meet("stat", os.path.basename(path))
        return super().stat(path)


@pytest.mark.parametrize(("operation", "then"), [("pwrite", "fstat"), ("rename", "stat")])
def test_an_interruption_that_can_not_be_looked_at_poisons(
    tmp_path: Path, operation: str, then: str
) -> None:
    files = Interrupting(operation)
    store = rotating(tmp_path, files)
    if operation == "pwrite":
        store.append(ALICE, 0, kind=NOTE)
    written = len(store)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 1, kind=NOTE)
    files.refuse(then, "0*", errno.EIO)
    with pytest.raises(JournalPoisoned) as caught:
        store.append(ALICE, 2, kind=NOTE)
    assert isinstance(caught.value.cause, OSError)
    assert caught.value.cause.errno == errno.EIO
    files.refused.clear()
    with pytest.raises(JournalPoisoned):
        store.append(ALICE, 3, kind=NOTE)
    with pytest.raises(JournalPoisoned):
        store.close()
    with Store.open(tmp_path) as again:
        kept = [e.sequence for e in again.query(Region(kind=NOTE))]
        assert len(kept) >= written - 2


# --- a forked child, told by the handler itself ----------------------------------------------


def test_a_forked_writer_refuses_and_lets_go_of_its_descriptors(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.append(ALICE, 1, kind=NOTE)
    writer = store._writer
    fds = {writer._lock_fd, writer._hint_fd, writer.log.segment.fd}
    assert all(os.fstat(fd) for fd in fds)
    # The parent's thread that held the lock does not exist in the child.
    gone = threading.Thread(
        target=lambda: (writer._append_lock.acquire(), writer._sync_lock.acquire())
    )
    gone.start()
    gone.join()
    writer.forked()
    for lock in (writer._append_lock, writer._sync_lock):
        assert lock.acquire(blocking=False)
        lock.release()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert writer.is_forked
    for call in (lambda: store.append(ALICE, 2, kind=NOTE), lambda: len(store), store.sync):
        with pytest.raises(StoreForked) as caught:
            call()
        assert caught.value.advice
    store.close()
    with Store.open(tmp_path) as again:
        assert [e.payload for e in again.query(Region(kind=NOTE))] == [1]


def forget(held: list[Store]) -> None:
    held.clear()
    gc.collect()


def test_a_dropped_store_ends_the_thread_of_its_timer(tmp_path: Path) -> None:
    def running() -> int:
        return sum(thread.name == "batpak-flusher" for thread in threading.enumerate())

    before = running()
    every = Durability.EVERY(ms=3_600_000, events=1_000_000)
    store = Store.open(tmp_path, durability=every)
    store.append(ALICE, 1, kind=NOTE)
    assert running() == before + 1
    held = [store]
    del store
    with pytest.warns(ResourceWarning, match="dropped without close"):
        forget(held)
    assert running() == before
    with Store.open(tmp_path) as again:
        assert [e.payload for e in again.query(Region(kind=NOTE))] == [1]


# --- batches take the rare ways, too -------------------------------------------------------------


def two(store: Store) -> tuple[int, ...]:
    return tuple(r.sequence for r in store.append_many([Item(ALICE, 1, kind=NOTE)] * 2))


@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
def test_a_segment_that_is_full_to_the_byte_takes_no_further_commit(
    tmp_path: Path, together: bool
) -> None:
    with Store.open(
        tmp_path, segment_max_bytes=4096, codec="plain", durability=Durability.OS, preallocate=0
    ) as store:
        names = len(ALICE.entity_bytes + ALICE.scope_bytes)
        room = 4096 - store.stats().segment_bytes - 64 - (176 + names + 7 & ~7)
        store.append_raw(ALICE, NOTE, bytes(room))
        assert store.stats().segment_bytes == 4096
        if together:
            two(store)
        else:
            store.append(ALICE, 1, kind=NOTE)
        assert (tmp_path / "segments" / FIRST).stat().st_size == 4096
        assert len(list((tmp_path / "segments").glob("*.seg"))) == 2
        assert store.verify("full").ok


def test_a_batch_resolves_what_an_interrupted_batch_left(tmp_path: Path) -> None:
    files = Interrupting("pwrite")
    with Store.open(tmp_path, files=files, durability=Durability.OS) as store:
        files.armed = True
        with pytest.raises(KeyboardInterrupt):
            two(store)
        assert two(store) == (3, 4), "after the two that were written whole"
        assert [e.sequence for e in store.query(Region(kind=NOTE))] == [1, 2, 3, 4]
        assert store.verify("full").ok


class Huge(bytes):
    """A payload that only says that it is too long: nobody may copy it first."""

    def __len__(self) -> int:
        return 1 << 30


def test_a_batch_that_is_too_large_is_refused_before_it_is_put_together(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    huge = Prepared.of(BOB, NOTE.raw, 0, CODEC_PLAIN, Huge(b"abc"))
    before = journal.writer.log
    with pytest.raises(BatchTooLarge) as caught:
        journal.writer.commit([prepared(), huge])
    assert caught.value.limit == (1 << 30) - 24 - 8
    assert journal.writer.log is before
    journal.writer.commit([prepared(), prepared(BOB)])
    journal.writer.abandon()
    journal.writer.release()


# --- what is refused once, or done once --------------------------------------------------------


def test_a_segment_that_can_not_be_sealed_is_gone_on_with_later(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = rotating(tmp_path, files)
    written = len(store)
    files.refuse("truncate", FIRST, errno.EIO)
    with pytest.raises(StorageFailed, match="can't seal the segment"):
        store.append(ALICE, 0, kind=NOTE)
    assert len(store) == written
    assert os.listdir(tmp_path / "segments") == [FIRST]
    files.refused.clear()
    store.append(ALICE, 0, kind=NOTE)
    assert len([n for n in os.listdir(tmp_path / "segments") if n.endswith(".seg")]) == 2
    store.close()


def test_a_close_that_can_not_cut_the_reserved_space_poisons(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path, files=files)
    store.append(ALICE, 1, kind=NOTE)
    files.refuse("truncate", FIRST, errno.EIO)
    with pytest.raises(JournalPoisoned) as caught:
        store.close()
    assert isinstance(caught.value.cause, OSError)
    with Store.open(tmp_path) as again:
        assert [e.payload for e in again.query(Region(kind=NOTE))] == [1]


class InNewSegment(Interrupting):
    """Ctrl-C arrives when a new segment's header is written, and has no name yet."""

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        written = WatchedFiles.pwrite(self, fd, data, offset)
        if self._names[fd].endswith(".tmp"):
            self._after("pwrite")
        return written


def test_a_rotation_interrupted_before_its_name_stood_leaves_nothing(tmp_path: Path) -> None:
    files = InNewSegment("pwrite")
    store = rotating(tmp_path, files)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 0, kind=NOTE)
    assert any(name.endswith(".tmp") for name in os.listdir(tmp_path / "segments"))
    store.sync()
    store.append(ALICE, 1, kind=NOTE)
    names = os.listdir(tmp_path / "segments")
    assert not [name for name in names if name.endswith(".tmp")]
    assert len([name for name in names if name.endswith(".seg")]) == 2
    store.close()


def test_where_the_newest_segment_is_empty_time_goes_on_from_the_one_before(
    tmp_path: Path,
) -> None:
    ahead, behind = 2_000_000_000_000_000, 1_000_000_000_000_000
    files = Interrupting("rename")
    store = rotating(tmp_path / "j", files, clock=lambda: ahead)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 0, kind=NOTE)
    last = store.at(len(store) - 1)
    shutil.copytree(tmp_path / "j", tmp_path / "killed")
    store.close()
    with Store.open(tmp_path / "killed", clock=lambda: behind) as opened:
        assert len(os.listdir(tmp_path / "killed" / "segments")) >= 2
        first = opened.at(last.sequence + 1)
        assert first.hlc > last.hlc


def test_what_was_resolved_is_not_looked_at_again(tmp_path: Path) -> None:
    files = Interrupting("pwrite")
    store = Store.open(tmp_path, files=files, durability=Durability.OS)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 0, kind=NOTE)
    store.append(ALICE, 1, kind=NOTE)
    before = files.count("fstat", ".seg")
    for number in range(3):
        store.append(ALICE, number, kind=NOTE)
    assert files.count("fstat", ".seg") == before
    store.close()


def test_a_writer_that_is_let_go_without_an_end_leaves_no_thread(tmp_path: Path) -> None:
    """As an interrupted close does, which never came to stop it."""
    store = Store.open(tmp_path, durability=Durability.EVERY(ms=3_600_000, events=1_000_000))
    store.append(ALICE, 0, kind=NOTE)
    [flusher] = [each for each in threading.enumerate() if each.name == "batpak-flusher"]
    store._opened.writer.release()
    flusher.join(WAIT)
    assert not flusher.is_alive()
    with pytest.raises(StoreClosed):
        store.append(ALICE, 1, kind=NOTE)
    store.close()


def test_only_so_many_ends_of_streams_are_kept_and_the_others_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_WARM_HEADS", 10)
    with Store.open(tmp_path, durability=Durability.OS, segment_max_bytes=4096) as store:
        for turn in range(2):
            for number in range(100):
                receipt = store.append(Coordinate(f"player:{number}", "r"), number, kind=NOTE)
                assert receipt.clock == turn
                # They are counted where a segment begins, which has some fourteen events here.
                assert len(store._opened.writer._heads) <= 10 + 20
        assert store.verify("chain").ok


def test_the_close_event_counts_what_an_interrupted_append_has_written(tmp_path: Path) -> None:
    files = Interrupting("pwrite")
    store = Store.open(tmp_path, files=files, durability=Durability.OS)
    store.append(ALICE, 0, kind=NOTE)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 1, kind=NOTE)
    store.close()
    with Store.open(tmp_path, mode="r") as reader:
        *_, last = reader
        assert [event.payload for event in reader.query(Region(kind=NOTE))] == [0, 1]
        # The open event and the two: as many as come before it.
        assert last.value["events"] == last.sequence  # type: ignore[index]  # as docs/format.md says


def test_what_a_refused_commit_has_resolved_is_not_looked_at_again(tmp_path: Path) -> None:
    files = Interrupting("pwrite")
    store = Store.open(tmp_path, files=files, durability=Durability.OS)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 0, kind=NOTE)
    with pytest.raises(ExpectationFailed):
        store.append(ALICE, 1, kind=NOTE, expect=7)
    before = files.count("fstat", ".seg")
    assert before
    store.append(ALICE, 1, kind=NOTE)
    assert files.count("fstat", ".seg") == before
    store.close()


def test_where_a_refused_write_was_undone_nothing_is_looked_at(tmp_path: Path) -> None:
    files = WatchedFiles()
    with Store.open(tmp_path, files=files, durability=Durability.OS) as store:
        files.refuse("pwrite", FIRST, errno.ENOSPC)
        with pytest.raises(NoSpace):
            store.append(ALICE, 0, kind=NOTE)
        files.refused.clear()
        before = files.count("pread", ".seg")
        store.append(ALICE, 1, kind=NOTE)
        assert files.count("pread", ".seg") == before


def test_what_a_torn_write_left_is_cut_off_before_anybody_writes(tmp_path: Path) -> None:
    class Torn(Interrupting):
        def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
            return super().pwrite(fd, data[: len(data) // 2] if self.armed else data, offset)

    files = Torn("pwrite")
    store = Store.open(tmp_path, files=files, durability=Durability.OS, preallocate=0)
    size = os.path.getsize(tmp_path / "segments" / FIRST)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, "long" * 100, kind=NOTE)
    assert os.path.getsize(tmp_path / "segments" / FIRST) > size
    with pytest.raises(ExpectationFailed):
        store.append(ALICE, 1, kind=NOTE, expect=7)
    assert os.path.getsize(tmp_path / "segments" / FIRST) == size
    store.close()


def test_a_write_that_a_refused_call_cut_and_that_can_not_be_looked_at_is_in_doubt(
    tmp_path: Path,
) -> None:
    class Calling(Interrupting):
        def _after(self, operation: str) -> None:
            if self.armed and operation == "pwrite":
                self.armed = False
                self.refuse("fstat", "0*", errno.EIO)
                store.append(ALICE, "from within", kind=NOTE)

    files = Calling()
    store = Store.open(tmp_path, files=files, durability=Durability.OS)
    files.armed = True
    with pytest.raises(Indeterminate) as caught:
        store.append(ALICE, 0, kind=NOTE)
    assert isinstance(caught.value.cause, ReentrantCall)
    assert caught.value.receipts == ()
    files.refused.clear()
    with pytest.raises(JournalPoisoned):
        store.append(ALICE, 1, kind=NOTE)
    with pytest.raises(JournalPoisoned):
        store.close()


def test_a_torn_write_that_was_cut_is_not_looked_at_again(tmp_path: Path) -> None:
    class Torn(Interrupting):
        def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
            return super().pwrite(fd, data[: len(data) // 2] if self.armed else data, offset)

    files = Torn("pwrite")
    store = Store.open(tmp_path, files=files, durability=Durability.OS)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        store.append(ALICE, 0, kind=NOTE)
    store.append(ALICE, 1, kind=NOTE)
    before = files.count("fstat", ".seg"), files.count("truncate", ".seg")
    for number in range(3):
        store.append(ALICE, number, kind=NOTE)
    assert (files.count("fstat", ".seg"), files.count("truncate", ".seg")) == before
    assert [e.payload for e in store.query(Region(kind=NOTE))] == [1, 0, 1, 2]
    store.close()


def test_a_rotation_that_was_undone_is_not_looked_at_again(tmp_path: Path) -> None:
    files = Interrupting("rename")
    store = rotating(tmp_path, files)
    files.refuse("rename", "*", errno.EIO)
    with pytest.raises(StorageFailed):
        store.append(ALICE, 0, kind=NOTE)
    assert store._writer._writing is False
    files.refused.clear()
    store.append(ALICE, 0, kind=NOTE)
    store.close()


def test_refused_space_is_not_asked_for_at_every_append(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.refuse("allocate", "*", errno.ENOSPC)
    with Store.open(tmp_path, files=files, durability=Durability.OS, preallocate=1 << 16) as store:
        before = files.count("allocate", ".seg")
        for number in range(20):
            store.append(ALICE, number, kind=NOTE)
        assert before == 1
        assert files.count("allocate", ".seg") == 1
