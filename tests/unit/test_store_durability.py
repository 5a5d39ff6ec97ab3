"""Durability: what each mode syncs, when events become visible, what a failed sync means.

The disk is real; `WatchedFiles` holds a sync until the test says so, so that "not yet"
is a state that the test is in, and not a race that it hopes to win.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    AppendReceipt,
    BatpakError,
    Coordinate,
    Durability,
    EventKind,
    EventNotFound,
    Indeterminate,
    InvalidInput,
    Item,
    Region,
    Store,
    Watermark,
)
from batpak.errors import JournalPoisoned, NoSpace, StorageFailed, StoreClosed, WaitTimeout
from tests.watched_files import WAIT, WatchedFiles

ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
FIRST = "00000000000000000000.seg"
HOUR_MS = 3_600_000

MODES = {
    "sync": Durability.SYNC,
    "every": Durability.EVERY(ms=HOUR_MS, events=1_000_000),
    "os": Durability.OS,
}


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[tuple[Store, WatchedFiles]]:
    files = WatchedFiles()
    store = Store.open(path / "journal", files=files, **options)
    drain(files.sync_began)
    drain(files.sync_ended)
    drain(files.segment_written)
    files.calls.clear()
    try:
        yield store, files
    finally:
        files.pass_syncs.set()
        files.refused.clear()
        try:
            store.close()
        except JournalPoisoned:
            pass


def drain(semaphore: threading.Semaphore) -> None:
    while semaphore.acquire(blocking=False):
        pass


@contextmanager
def threads(files: WatchedFiles, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are let go whatever the test finds: a held sync would hang its end."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        finally:
            files.pass_syncs.set()


def note(store: Store, number: int = 0, **options: Any) -> AppendReceipt:
    return store.append(ALICE, number, kind=NOTE, **options)


def bounds(store: Store) -> tuple[int, int, int]:
    frontier = store.frontier()
    return frontier.written.sequence, frontier.durable.sequence, frontier.visible.sequence


# --- modes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "syncs", "receipt_durable"), [("sync", 3, True), ("every", 0, False), ("os", 0, False)]
)
def test_what_three_appends_sync(
    tmp_path: Path, mode: str, syncs: int, receipt_durable: bool
) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files):
        receipts = [note(store, n) for n in range(3)]
        assert files.count("sync_data") == syncs
        assert {receipt.durable for receipt in receipts} == {receipt_durable}
        assert bounds(store) == (4, 4 if receipt_durable else 1, 4)
        # Visible in every mode, to this process and to a follower.
        assert len(list(store.query(Region(kind=NOTE)))) == 3
        with Store.open(store.path, mode="r") as reader:
            assert len(reader) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_durable_append_is_synced_in_any_mode(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files):
        assert note(store, durable=True).durable
        assert files.count("sync_data") == 1
        receipts = store.append_many([Item(ALICE, 1, kind=NOTE)] * 3, durable=True)
        assert all(receipt.durable for receipt in receipts)
        assert store.append_raw(ALICE, NOTE, b"", durable=True).durable
        assert files.count("sync_data") == 3
        assert bounds(store) == (6, 6, 6)


@pytest.mark.parametrize(
    ("sync_mode", "asked"),
    [("data", ("sync_data", "sync_file")), ("full", ("sync_file", "sync_data"))],
)
def test_the_log_is_synced_as_the_option_says(
    tmp_path: Path, sync_mode: str, asked: tuple[str, str]
) -> None:
    with opened(tmp_path, sync_mode=sync_mode) as (store, files):
        before = [files.count(name, FIRST) for name in asked]
        for number in range(3):
            assert note(store, number).durable
        assert [files.count(name, FIRST) for name in asked] == [before[0] + 3, before[1]]
        assert bounds(store) == (4, 4, 4)


@pytest.mark.parametrize("mode", MODES)
def test_sync_covers_everything_and_then_has_nothing_to_do(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files):
        for number in range(3):
            note(store, number)
        store.sync()
        assert bounds(store) == (4, 4, 4)
        before = files.count("sync_data")
        store.sync()
        assert files.count("sync_data") == before


@pytest.mark.parametrize("mode", MODES)
def test_close_makes_everything_durable(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files):
        note(store)
        files.calls.clear()
        store.close()
        assert files.count("sync_file", FIRST) + files.count("sync_data", FIRST) >= 1
        with Store.open(store.path, mode="r") as reader:
            assert ("tail.hint", 3) in reader.open_report.witnesses


def test_every_syncs_when_the_count_is_reached(tmp_path: Path) -> None:
    every = Durability.EVERY(ms=HOUR_MS, events=3)
    with opened(tmp_path, durability=every) as (store, files):
        durable = [note(store, number).durable for number in range(7)]
        assert durable == [False, False, True, False, False, True, False]
        assert files.count("sync_data") == 2
        assert bounds(store) == (8, 7, 8)
        # A batch counts its events, not its commit.
        assert store.append_many([Item(ALICE, 1, kind=NOTE)] * 2)[-1].durable


def test_every_syncs_an_idle_tail_by_its_timer(tmp_path: Path) -> None:
    every = Durability.EVERY(ms=1, events=1_000_000)
    with opened(tmp_path, durability=every) as (store, files):
        for number in range(3):
            receipt = note(store, number)
            assert files.sync_ended.acquire(timeout=WAIT), "the timer never came"
            drain(files.sync_ended)
            store.wait_for(Watermark.DURABLE, receipt, timeout=WAIT)


def flushers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "batpak-flusher"]


@pytest.mark.proves("INV-NO-HIDDEN-THREAD")
@pytest.mark.parametrize(("mode", "count"), [("sync", 0), ("every", 1), ("os", 0)])
def test_a_thread_exists_only_where_a_timer_asks_for_it(
    tmp_path: Path, mode: str, count: int
) -> None:
    before = threading.active_count()
    with opened(tmp_path, durability=MODES[mode]) as (store, _):
        assert not flushers()
        note(store)
        note(store)
        assert len(flushers()) == count
        assert threading.active_count() == before + count
    assert not flushers()


# --- visibility ------------------------------------------------------------------


@pytest.mark.proves("INV-VISIBLE-IS-DURABLE")
def test_nobody_sees_what_a_power_cut_can_take_back(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, files), threads(files, 1) as pool:
        note(store)
        drain(files.sync_began)
        with Store.open(store.path, mode="r") as reader:
            files.pass_syncs.clear()
            waiting = pool.submit(note, store, 1)
            assert files.sync_began.acquire(timeout=WAIT)
            # Written, and its sync has not returned: every way of reading ends before it.
            assert bounds(store) == (3, 2, 2)
            assert len(store) == 2
            assert [event.sequence for event in store] == [0, 1]
            assert store.count(Region(kind=NOTE)) == 1
            assert [event.clock for event in store.entity(ALICE.entity)] == [0]
            newest = store.latest(ALICE.entity)
            assert newest is not None
            assert newest.sequence == 1
            assert store.stats().events == 2
            assert store.verify().events == 2
            assert len(store.page(Region.all()).events) == 2
            with pytest.raises(EventNotFound):
                store.at(2)
            assert reader.refresh() == 2
            with pytest.raises(EventNotFound):
                reader.at(2)
            assert not waiting.done()
            files.pass_syncs.set()
            receipt = waiting.result(WAIT)
            assert receipt.durable
            assert store.get(receipt.event_id).payload == 1
            assert reader.refresh() == 3
            assert reader.get(receipt.event_id).payload == 1


@pytest.mark.parametrize("mode", ["every", "os"])
def test_in_the_weaker_modes_written_is_visible(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files), threads(files, 1) as pool:
        files.pass_syncs.clear()
        waiting = pool.submit(note, store, 1, durable=True)
        assert files.sync_began.acquire(timeout=WAIT)
        assert bounds(store) == (2, 1, 2)
        assert store.at(1).payload == 1
        assert not waiting.done()


def test_a_query_sees_the_prefix_of_the_moment_it_was_asked(tmp_path: Path) -> None:
    with opened(tmp_path, durability=Durability.OS) as (store, _):
        for number in range(5):
            note(store, number)
        events = store.query(Region(kind=NOTE))
        first = next(events)
        for number in range(5, 9):
            note(store, number)
        assert [first.payload, *(event.payload for event in events)] == [0, 1, 2, 3, 4]


@pytest.mark.proves("INV-FRONTIER-MONOTONIC", "INV-FRONTIER-ORDERING")
def test_watermarks_never_go_back_and_keep_their_order(tmp_path: Path) -> None:
    seen: list[Any] = []
    done = threading.Event()
    with opened(tmp_path, segment_max_bytes=4096) as (store, files), threads(files, 4) as pool:

        def watch() -> None:
            while not done.is_set():
                seen.append(store.frontier())

        watcher = pool.submit(watch)
        for job in [pool.submit(lambda: [note(store, n) for n in range(25)]) for _ in range(3)]:
            job.result(WAIT)
        done.set()
        watcher.result(WAIT)
        seen.append(store.frontier())
    for frontier in seen:
        assert frontier.accepted >= frontier.written >= frontier.durable
        assert frontier.written >= frontier.visible >= frontier.applied
    for name in ("accepted", "written", "durable", "visible", "applied"):
        points = [getattr(frontier, name) for frontier in seen]
        assert all(a <= b for a, b in itertools.pairwise(points)), name
    assert seen[-1].durable.sequence == 76
    assert seen[-1].durable.wall_ms == seen[-1].durable.hlc >> 16


def test_the_frontier_says_what_a_power_cut_could_take_and_since_when(tmp_path: Path) -> None:
    now = 1_700_000_000_000_000
    with opened(tmp_path, durability=Durability.OS, clock=lambda: now) as (store, _):
        store.sync()
        all_safe = store.frontier()
        assert (all_safe.unsynced_since_us, all_safe.unsynced_visible) == (None, 0)
        assert all_safe.unsynced_age(now) == 0.0
        assert all_safe.emitted == all_safe.visible
        note(store, 1)
        since = now
        now += 2_500_000
        note(store, 2)
        frontier = store.frontier()
        assert (frontier.unsynced_since_us, frontier.unsynced_visible) == (since, 2)
        assert frontier.unsynced_age(since + 3_000_000) == 3.0
        assert frontier.unsynced_age(since - 1) == 0.0, "a clock that went back is no age"
        store.sync()
        assert store.frontier().unsynced_since_us is None


# --- group commit ----------------------------------------------------------------


@pytest.mark.proves("INV-GROUP-COMMIT")
def test_one_sync_serves_many_waiting_commits(tmp_path: Path) -> None:
    others = 15
    with opened(tmp_path) as (store, files), threads(files, others + 1) as pool:
        files.pass_syncs.clear()
        leader = pool.submit(note, store)
        assert files.sync_began.acquire(timeout=WAIT)
        followers = [pool.submit(note, store, n) for n in range(others)]
        while store.pressure().waiting < others:
            os.sched_yield()
        files.pass_syncs.set()
        receipts = [job.result(WAIT) for job in (leader, *followers)]
        assert sorted(r.sequence for r in receipts) == list(range(1, others + 2))
        assert all(receipt.durable for receipt in receipts)
        # One for the leader, one for all who came while it synced.
        assert files.count("sync_data") == files.count("pwrite", "tail.hint") == 2
        assert files.count("pwrite", FIRST) == 2


def test_waiting_for_many_written_events_takes_one_sync(tmp_path: Path) -> None:
    with opened(tmp_path, durability=Durability.OS) as (store, files), threads(files, 8) as pool:
        receipts = [note(store, number) for number in range(8)]
        files.pass_syncs.clear()
        jobs = [pool.submit(store.wait_for, Watermark.DURABLE, receipt) for receipt in receipts]
        assert files.sync_began.acquire(timeout=WAIT)
        files.pass_syncs.set()
        for job in jobs:
            job.result(WAIT)
        assert files.count("sync_data") == 1


# --- waiting ---------------------------------------------------------------------


def test_waiting_for_durability_causes_the_sync(tmp_path: Path) -> None:
    with opened(tmp_path, durability=Durability.OS) as (store, files):
        receipt = note(store)
        for watermark in (Watermark.ACCEPTED, Watermark.WRITTEN, Watermark.VISIBLE):
            store.wait_for(watermark, receipt, timeout=0)
        store.wait_for(Watermark.APPLIED, receipt, timeout=0)
        assert files.count("sync_data") == 0
        store.wait_for(Watermark.DURABLE, receipt)
        assert files.count("sync_data") == 1
        store.wait_for(Watermark.DURABLE, receipt)
        assert files.count("sync_data") == 1


@pytest.mark.parametrize("watermark", [Watermark.DURABLE, Watermark.VISIBLE, Watermark.APPLIED])
def test_a_wait_that_is_over_says_how_far_it_came(tmp_path: Path, watermark: Watermark) -> None:
    with opened(tmp_path) as (store, files), threads(files, 1) as pool:
        receipt = note(store)
        drain(files.sync_began)
        files.pass_syncs.clear()
        pool.submit(note, store, 1)
        assert files.sync_began.acquire(timeout=WAIT)
        later = AppendReceipt.from_json(
            receipt.to_json().replace(f'"sequence": {receipt.sequence}', '"sequence": 2')
        )
        with pytest.raises(WaitTimeout) as caught:
            store.wait_for(watermark, later, timeout=0)
        error = caught.value
        assert (error.watermark, error.target) == (watermark.value, 3)
        assert error.waited is not None
        assert error.waited >= 0
        assert error.retryable
        store.wait_for(watermark, receipt, timeout=0)
        store.wait_for(Watermark.WRITTEN, later, timeout=0)
        files.pass_syncs.set()
        store.wait_for(watermark, later, timeout=WAIT)


def test_a_wait_is_refused_for_what_is_not_in_the_journal(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as (one, _), opened(tmp_path / "b") as (two, _):
        receipt = note(one)
        note(two)
        for watermark in Watermark:
            with pytest.raises(InvalidInput, match="another journal") as caught:
                two.wait_for(watermark, receipt)
            assert caught.value.field == "receipt"
        unknown = AppendReceipt.from_json(
            receipt.to_json().replace('"sequence": 1', '"sequence": 9')
        )
        with pytest.raises(InvalidInput) as caught:
            one.wait_for(Watermark.DURABLE, unknown)
        assert (caught.value.field, caught.value.value) == ("receipt", 9)
        with pytest.raises(InvalidInput) as caught:
            one.wait_for("durable", receipt)  # type: ignore[arg-type]  # the refusal is the test
        assert caught.value.field == "watermark"
        assert caught.value.advice
        with pytest.raises(InvalidInput) as caught:
            one.wait_for(Watermark.DURABLE, 1)  # type: ignore[arg-type]  # the refusal is the test
        assert caught.value.field == "receipt"
        assert caught.value.advice


# --- failures --------------------------------------------------------------------


@pytest.mark.proves("INV-FAILED-SYNC-POISONS")
def test_a_failed_sync_tells_every_waiter_and_ends_writing(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, files), threads(files, 4) as pool:
        kept = note(store)
        drain(files.sync_began)
        files.pass_syncs.clear()
        first = pool.submit(note, store, 100)
        assert files.sync_began.acquire(timeout=WAIT)
        jobs: list[Future[Any]] = [pool.submit(note, store, number) for number in (101, 102)]
        jobs.append(pool.submit(store.append_many, [Item(ALICE, 103, kind=NOTE)] * 2))
        while store.pressure().waiting < len(jobs):
            os.sched_yield()
        syncs = files.count("sync_data")
        # The sync that is under way succeeds; the one of those who came meanwhile fails.
        files.refuse("sync_data", FIRST, errno.EIO, after=syncs + 1)
        files.pass_syncs.set()

        assert first.result(WAIT).durable
        receipts: list[AppendReceipt] = []
        for job in jobs:
            with pytest.raises(Indeterminate) as caught:
                job.result(WAIT)
            error = caught.value
            assert isinstance(error.cause, JournalPoisoned)
            assert isinstance(error.cause.cause, OSError)
            assert error.cause.cause.errno == errno.EIO
            assert error.receipt == error.receipts[-1]
            assert error.retryable
            receipts += error.receipts
        assert sorted(receipt.sequence for receipt in receipts) == [3, 4, 5, 6]
        assert not any(receipt.durable for receipt in receipts)
        # Never tried again, whatever the disk would answer now.
        assert files.count("sync_data") == syncs + 2
        files.refused.clear()
        for call in (
            lambda: note(store),
            lambda: store.append_many([Item(ALICE, 1, kind=NOTE)]),
            store.sync,
            lambda: store.wait_for(Watermark.DURABLE, receipts[0]),
        ):
            with pytest.raises(JournalPoisoned) as poisoned:
                call()
            assert isinstance(poisoned.value.cause, OSError)
            assert poisoned.value.file == str(Path(store.path) / "segments" / FIRST)
        assert files.count("sync_data") == syncs + 2
        # Reading goes on, up to what is known to be durable.
        assert len(store) == 3
        assert store.get(kept.event_id).payload == 0
        assert store.verify().ok
        with pytest.raises(JournalPoisoned):
            store.close()
        # Closed all the same: once is enough.
        store.close()
        with pytest.raises(StoreClosed):
            store.at(0)
    # Only a new open clears it. The bytes are there, so the receipts are found again.
    with Store.open(tmp_path / "journal") as again:
        for receipt in (kept, *receipts):
            assert again.get(receipt.event_id).event_hash == receipt.event_hash
        assert again.verify().ok


@pytest.mark.parametrize("mode", ["every", "os"])
def test_a_failed_sync_in_a_weaker_mode_poisons_too(tmp_path: Path, mode: str) -> None:
    with opened(tmp_path, durability=MODES[mode]) as (store, files):
        note(store)
        files.refuse("sync_data", FIRST, errno.EIO)
        with pytest.raises(JournalPoisoned):
            store.sync()
        files.refused.clear()
        with pytest.raises(JournalPoisoned):
            note(store)
        assert store.at(1).payload == 0


def test_the_timer_s_failed_sync_poisons(tmp_path: Path) -> None:
    every = Durability.EVERY(ms=1, events=1_000_000)
    with opened(tmp_path, durability=every) as (store, files):
        files.pass_syncs.clear()
        note(store)
        assert files.sync_began.acquire(timeout=WAIT)
        files.refuse("sync_data", FIRST, errno.EIO)
        files.pass_syncs.set()
        flusher = next(t for t in threading.enumerate() if t.name == "batpak-flusher")
        flusher.join(WAIT)
        with pytest.raises(JournalPoisoned):
            note(store)


@pytest.mark.proves("INV-FULL-DISK-RECOVERS")
@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, StorageFailed)],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_refused_write_leaves_nothing_and_the_next_works(
    tmp_path: Path, mode: str, number: int, error: type[BatpakError]
) -> None:
    with opened(tmp_path, durability=MODES[mode], preallocate=0) as (store, files):
        note(store)
        segment = Path(store.path) / "segments" / FIRST
        before = segment.read_bytes()
        files.refuse("pwrite", FIRST, number)
        for call in (
            lambda: note(store),
            lambda: store.append_many([Item(ALICE, 1, kind=NOTE)] * 3),
        ):
            with pytest.raises(error) as caught:
                call()
            assert caught.value.file == str(segment)  # type: ignore[attr-defined]  # a field of every Unavailable
            assert caught.value.advice
        assert segment.read_bytes() == before
        assert bounds(store)[0] == 2
        files.refused.clear()
        assert note(store, 7).sequence == 2
        assert store.verify().ok
    with Store.open(tmp_path / "journal", mode="r") as reader:
        assert [e.payload for e in reader.query(Region(kind=NOTE))] == [0, 7]


def test_a_write_that_can_not_be_taken_back_poisons(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, files):
        files.refuse("pwrite", FIRST, errno.ENOSPC)
        files.refuse("truncate", FIRST, errno.EIO)
        # Part of the record may stand in the file, so "nothing was written" can't be said.
        with pytest.raises(Indeterminate) as caught:
            note(store)
        assert isinstance(caught.value.cause, OSError)
        assert caught.value.receipt is None
        files.refused.clear()
        with pytest.raises(JournalPoisoned):
            note(store)
        assert len(store) == 1


def test_space_that_can_not_be_set_aside_is_no_failure(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, files):
        files.refuse("allocate", FIRST, errno.EOPNOTSUPP)
        assert note(store).durable
        files.refuse("pwrite", "tail.hint", errno.EIO)
        assert note(store).durable


def test_a_full_disk_at_rotation_is_overcome(tmp_path: Path) -> None:
    with opened(tmp_path, segment_max_bytes=4096, durability=Durability.OS) as (store, files):
        segment = Path(store.path) / "segments" / FIRST
        number = 0
        while store.stats().segment_bytes < 4096:
            number += 1
            note(store, number)
        files.refuse("open-to-write", "*", errno.ENOSPC)
        with pytest.raises(NoSpace):
            note(store)
        assert [file.name for file in segment.parent.glob("*.seg")] == [FIRST]
        files.refused.clear()
        assert note(store, number + 1).sequence == number + 1
        assert store.stats().segments == 2
        assert store.verify().ok
        assert [e.payload for e in store.query(Region(kind=NOTE))] == [*range(1, number + 2)]
