"""Commits that come together share a write: each is still its own record, with its own outcome.

A held sync keeps the queue's thread busy while a test lines up what it will find, so what
goes into one write is decided by the test and not by the scheduler.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Expect, Item, Region, Store, Unless
from batpak.clock import FunctionClock
from batpak.errors import (
    ConditionFailed,
    EntityClockOverflow,
    ExpectationFailed,
    IdempotencyConflict,
    Indeterminate,
    JournalPoisoned,
    NoSpace,
)
from batpak.index.growing import GrowingPart
from batpak.journal.record import RECORD_HEADER_SIZE
from batpak.journal.writer import MAX_CLOCK
from tests.support.writing import ALICE, BOB, NOTE, held, opened, sync_has_begun
from tests.unit.test_writer import forged
from tests.watched_files import WAIT, WatchedFiles
from tools.read_segment import read_journal

FIRST = "00000000000000000000.seg"


class Troubled(WatchedFiles):
    """Segment writes that are short, refused or interrupted, as often as a test says."""

    most: int | None = None
    """Bytes that one call writes at most."""
    refusals = 0
    """How many of the next calls find the disk full."""
    whole: int | None = None
    """The next call writes so many records and a half, then comes Ctrl-C."""

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if not self._names[fd].endswith(".seg"):
            return super().pwrite(fd, data, offset)
        if self.refusals:
            self.refusals -= 1
            super().pwrite(fd, data[:100], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.whole is not None:
            end = 0
            for _ in range(self.whole):
                head, body = struct.unpack_from("<II", data, end + 8)
                end += RECORD_HEADER_SIZE + head + body
            self.whole = None
            super().pwrite(fd, data[: end + 70], offset)
            raise KeyboardInterrupt
        return super().pwrite(fd, data[: self.most], offset)


@contextmanager
def lined_up(store: Store, files: WatchedFiles) -> Iterator[None]:
    """What is submitted inside is committed together, right after."""
    with held(files):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(store.submit, BOB, "first", kind=NOTE).result(WAIT)
        sync_has_begun(files)
        files.calls.clear()
        yield


def put(store: Store, value: object, to: Coordinate = ALICE, **options: Any) -> Future[Any]:
    return store.submit(to, value, kind=NOTE, **options)


def outcomes(futures: list[Future[Any]]) -> list[Any]:
    """Each one's sequence, or the class of its error."""
    done: list[Any] = []
    for future in futures:
        error = future.exception(WAIT)
        done.append(future.result().sequence if error is None else type(error))
    return done


def stored(path: Path) -> list[Any]:
    with Store.open(path) as store:
        assert not store.verify("full").findings
        return [event.value for event in store.entity(ALICE.entity)]


# --- one write, many commits ----------------------------------------------------------


def test_each_commit_of_a_shared_write_is_a_record_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with opened(path) as (store, files):
        with lined_up(store, files):
            futures = [put(store, n, BOB if n % 3 else ALICE) for n in range(30)]
        assert outcomes(futures) == list(range(2, 32))
        assert files.count("pwrite", ".seg") == 1
        receipts = [future.result() for future in futures]
        # Streams chain through the write: each link is the event before of the same entity.
        for entity in (ALICE.entity, BOB.entity):
            events = [store.at(r.sequence) for r in receipts if r.coordinate.entity == entity]
            for before, after in itertools.pairwise(events):
                assert after.prev_hash == before.event_hash
                assert after.clock == before.clock + 1
    report = read_journal(path)
    assert report.ok, report.findings
    # Opened, first, thirty submissions, closed: not one record for thirty events.
    assert report.records - report.pads == report.events == 33


def test_events_of_a_shared_write_are_a_tick_apart_where_time_stands_still(tmp_path: Path) -> None:
    clock = FunctionClock(lambda: 1_700_000_000_000_000)
    with opened(tmp_path / "journal", clock=clock) as (store, files):
        with lined_up(store, files):
            futures = [put(store, n) for n in range(5)]
        first = store.append(ALICE, 5, kind=NOTE).hlc - 5
        assert [future.result(WAIT).hlc for future in futures] == list(range(first, first + 5))
        assert futures[0].result().hlc == store.at(1).row.hlc + 1


def test_what_can_be_refused_is_committed_alone_and_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with opened(path) as (store, files):
        with lined_up(store, files):
            futures = [
                put(store, 0),
                put(store, 1),
                put(store, 2, expect=1),
                put(store, 3, expect=Expect.EMPTY),
                put(store, 4),
                put(store, 5),
                put(store, 6, unless=Unless(Region(entity=ALICE.entity), after=1)),
                put(store, 7, key=b"k" * 16),
                put(store, 8, key=b"k" * 16),
                put(store, 9),
            ]
        assert outcomes(futures) == [
            2, 3, 4, ExpectationFailed, 5, 6, ConditionFailed, 7, IdempotencyConflict, 8,
        ]  # fmt: skip
    assert stored(path) == [0, 1, 2, 4, 5, 7, 9]


def test_a_shared_write_ends_where_its_segment_is_full(tmp_path: Path) -> None:
    """The segments are those that single appends would have made."""
    names: list[list[tuple[str, int]]] = []
    for together in (True, False):
        path = tmp_path / str(together)
        with opened(path, segment_max_bytes=1 << 16, preallocate=0) as (store, files):
            with lined_up(store, files):
                futures = [put(store, "x" * 3000) for _ in range(60 if together else 0)]
            assert outcomes(futures) == list(range(2, 2 + len(futures)))
            for _ in range(60 - len(futures)):
                store.append(ALICE, "x" * 3000, kind=NOTE)
            segments = sorted((path / "segments").glob("*.seg"))
            names.append([(one.name, one.stat().st_size) for one in segments])
        assert stored(path) == ["x" * 3000] * 60
    assert names[0] == names[1]
    assert len(names[0]) > 2


def test_a_shared_write_has_no_more_than_about_a_mebibyte(tmp_path: Path) -> None:
    large = b"x" * 300_000
    with opened(tmp_path / "journal") as (store, files):
        with lined_up(store, files):
            futures = [put(store, large) for _ in range(10)]
        assert outcomes(futures) == list(range(2, 12))
        # Four of them pass the mebibyte, so ten take three writes.
        assert files.count("pwrite", ".seg") == 3


def test_a_shared_write_ends_before_a_stream_that_is_full(tmp_path: Path) -> None:
    forged(tmp_path, clock=MAX_CLOCK - 2)
    with opened(tmp_path) as (store, files):
        with lined_up(store, files):
            futures = [put(store, n, to) for n, to in enumerate((BOB, ALICE, ALICE, ALICE, BOB))]
        told = outcomes(futures)
        assert told[3] is EntityClockOverflow
        assert told[:3] + told[4:] == list(range(told[0], told[0] + 4))
        assert futures[2].result().clock == MAX_CLOCK


# --- where the write fails --------------------------------------------------------------


def test_where_a_shared_write_is_refused_each_is_tried_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    files = Troubled()
    with opened(path, files) as (store, _):
        with lined_up(store, files):
            futures = [put(store, n) for n in range(5)]
            # The shared write, and the first two of those that are alone.
            files.refusals = 3
        assert outcomes(futures) == [NoSpace, NoSpace, 2, 3, 4]
        assert files.count("truncate", ".seg") == 3
    assert stored(path) == [2, 3, 4]


def test_the_rest_of_a_short_shared_write_is_written_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    files = Troubled()
    with opened(path, files) as (store, _):
        with lined_up(store, files):
            futures = [put(store, n) for n in range(8)]
            files.most = 1000
        assert outcomes(futures) == list(range(2, 10))
        assert files.count("pwrite", ".seg") > 2
        files.most = None
    assert stored(path) == list(range(8))


def test_what_is_in_doubt_after_a_shared_write_is_said_of_each(tmp_path: Path) -> None:
    """The write fails and can't be undone: any of them may stand, and the journal is poisoned."""
    with opened(tmp_path / "journal") as (store, files):
        with lined_up(store, files):
            futures = [put(store, n) for n in range(4)]
            last = put(store, 9, expect=7)
            files.refuse("pwrite", FIRST, errno.EIO)
            files.refuse("truncate", FIRST, errno.EIO)
        assert outcomes([*futures, last]) == [Indeterminate] * 4 + [JournalPoisoned]


class Broken(RuntimeError):
    """What a caller's own code may raise."""


def test_a_clock_that_fails_is_told_to_those_whose_commits_were_not_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fails = -1

    def clock() -> int:
        nonlocal fails
        fails -= 1
        if fails == 0:
            raise Broken
        return 1_700_000_000_000_000

    with opened(path, clock=FunctionClock(clock)) as (store, files):
        with lined_up(store, files):
            # Committed alone, and before the write that two and three share.
            first = put(store, 0, key=b"k" * 16)
            futures = [put(store, 1), put(store, 2), put(store, 3, key=b"l" * 16)]
            fails = 2
        assert outcomes([first, *futures]) == [2, 3, 4, 5]
    assert stored(path) == [0, 1, 2, 3]


def test_what_stands_when_a_shared_write_is_broken_off_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory ends after the write: all of them stand, and each hears of its own event."""
    path = tmp_path / "journal"
    add, calls = GrowingPart.add, 0

    def no_memory(self: GrowingPart, *event: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        add(self, *event)

    with opened(path) as (store, files):
        with lined_up(store, files):
            futures = [put(store, n) for n in range(5)]
            monkeypatch.setattr(GrowingPart, "add", no_memory)
        assert outcomes(futures) == [2, 3, 4, 5, 6]
        assert [store.at(future.result().sequence).value for future in futures] == list(range(5))
    assert stored(path) == list(range(5))


@pytest.mark.parametrize("whole", [0, 1, 3, 5])
def test_of_an_interrupted_shared_write_what_stands_is_kept_and_the_rest_written(
    tmp_path: Path, whole: int
) -> None:
    """Ctrl-C meets the thread that works for five: the others have their events, once each."""
    path = tmp_path / "journal"
    files = Troubled()
    with opened(path, files) as (store, _):
        caught: list[BaseException] = []
        receipts: dict[int, Any] = {}

        def append(number: int) -> None:
            try:
                receipts[number] = store.append(ALICE, number, kind=NOTE)
            except KeyboardInterrupt as error:
                caught.append(error)

        threads = [threading.Thread(target=append, args=(n,)) for n in range(6)]
        with held(files):
            threads[0].start()
            sync_has_begun(files)
            for waiting, thread in enumerate(threads[1:], 1):
                thread.start()
                while store.pressure().waiting < waiting:
                    os.sched_yield()
            files.whole = whole
        for thread in threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        # The second one led the five; what it wrote before the signal may stand or not.
        assert len(caught) == 1
        assert sorted(receipts) == [0, 2, 3, 4, 5]
        assert all(receipt.durable for receipt in receipts.values())
        assert {store.at(r.sequence).value: n for n, r in receipts.items()} == {
            n: n for n in receipts
        }
    values = stored(path)
    assert sorted(values) == [0, *([1] if whole else []), 2, 3, 4, 5]


# --- what a commit leaves behind for the next ----------------------------------------------


def by_append(store: Store, files: WatchedFiles) -> list[int]:
    del files
    return [store.append(ALICE, 1, kind=NOTE).sequence]


def by_append_many(store: Store, files: WatchedFiles) -> list[int]:
    del files
    items = [Item(ALICE, n, kind=NOTE) for n in range(2)]
    return [receipt.sequence for receipt in store.append_many(items)]


def by_shared_write(store: Store, files: WatchedFiles) -> list[int]:
    with lined_up(store, files):
        futures = [put(store, n) for n in range(3)]
    return outcomes(futures)


@pytest.mark.parametrize("way", [by_append, by_append_many, by_shared_write])
def test_time_never_goes_back_whatever_was_committed_last(
    tmp_path: Path, way: Callable[[Store, WatchedFiles], list[int]]
) -> None:
    now = 1_700_000_000_000_000
    steered = FunctionClock(lambda: now)
    with opened(tmp_path / "journal", clock=steered) as (store, files):
        for step in (0, 5_000_000):
            now = latest = 1_700_000_000_000_000 + step
            way(store, files)
            now -= 60_000_000
            for sequence in (*way(store, files), *by_append(store, files)):
                assert store.at(sequence).timestamp_us == latest
        events = list(store)
        assert sorted(event.hlc for event in events) == [event.hlc for event in events]
        assert len({event.hlc for event in events}) == len(events)
        assert all(event.hlc >> 16 >= event.timestamp_us // 1000 for event in events)
