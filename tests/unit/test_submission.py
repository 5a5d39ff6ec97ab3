"""The queue of `submit`: its order, its bounds, its thread, and that every future is answered.

The disk is real and its syncs can be held, so that the queue's thread stands where a
test wants it: "full" and "not yet written" are states, and not races to be won.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    Coordinate,
    Durability,
    EventId,
    Expect,
    Indeterminate,
    InvalidInput,
    Item,
    Prior,
    Region,
    SigningKey,
    Store,
    Unless,
    operation_key,
    payload,
)
from batpak.errors import (
    Backpressure,
    BatchTooLarge,
    BatpakError,
    Cancelled,
    ConditionFailed,
    ExpectationFailed,
    IdempotencyConflict,
    JournalLocked,
    JournalPoisoned,
    NoSpace,
    ReservedKind,
    StoreClosed,
    StoreForked,
    UnregisteredPayload,
)
from batpak.journal import background
from batpak.journal.background import Worker, passed
from batpak.kinds import SYSTEM_OPEN_COMPLETED
from batpak.payloads import isolated_registry
from batpak.receipt import ReceiptKey
from tests.support.writing import (
    ALICE,
    BOB,
    NOTE,
    held,
    opened,
    sync_has_begun,
    threads_named,
    unwritten,
)
from tests.watched_files import WAIT, WatchedFiles

FIRST = "00000000000000000000.seg"
THREAD = "batpak-submit"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as one:
        yield one


def put(store: Store, value: object, **options: Any) -> Future[Any]:
    return store.submit(ALICE, value, kind=NOTE, **options)


def values(store: Any, entity: str = ALICE.entity) -> list[Any]:
    return [event.value for event in store.entity(entity)]


@contextmanager
def busy(store: Store, files: WatchedFiles, **options: Any) -> Iterator[Future[Any]]:
    """Inside, the queue's thread waits for a sync, and what is submitted stays queued.

    Another thread has submitted what is under way: the test's own may append directly.
    """
    with held(files):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(store.submit, BOB, "first", kind=NOTE, **options).result(WAIT)
        sync_has_begun(files)
        yield first


# --- what a submission is -------------------------------------------------------------


def test_a_submitted_event_is_what_an_appended_one_is(store: Store) -> None:
    cause = store.append(BOB, 0, kind=NOTE)
    options: dict[str, Any] = {
        "lane": 3, "depth": 4, "flags": 2, "extensions": {"acme.trace": b"1"},
        "causation": cause.event_id, "correlation": cause.event_id,
    }  # fmt: skip
    appended = store.append(ALICE, {"n": 1}, kind=NOTE, **options)
    key = operation_key("test", "submitted")
    receipt = put(store, {"n": 1}, key=key, **options).result(WAIT)
    assert receipt.event_id == EventId.from_bytes(key.bytes)
    one, other = store.get(appended.event_id), store.get(receipt.event_id)
    for name in (
        "coordinate", "kind", "value", "lane", "depth", "extensions", "causation_id",
        "correlation_id",
    ):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name
    assert one.flags & 0xFF == other.flags & 0xFF == 2
    assert receipt.prev_hash == appended.event_hash
    assert (receipt.event_hash, receipt.clock) == (other.event_hash, 1)
    with isolated_registry():

        @payload(category=0xF, type_id=1)
        class Moved:
            x: int

        typed = store.submit(ALICE, Moved(x=1)).result(WAIT)
        assert store.get(typed.event_id).payload == Moved(x=1)


def test_a_submitted_batch_is_one_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        items = [Item(ALICE, 0, kind=NOTE), Item(ALICE, 1, kind=NOTE, causation=Prior(0))]
        receipts = store.submit_many(items).result(WAIT)
        assert files.count("pwrite", ".seg") == 1
        assert [one.sequence for one in receipts] == [1, 2]
        cause = store.get(receipts[1].event_id).causation_id
        assert cause is not None
        assert cause.bytes == receipts[0].event_id.bytes


def test_many_submissions_share_a_sync_and_each_is_its_own_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files) as first:
            futures = [put(store, number) for number in range(20)]
            assert not any(future.done() for future in (first, *futures))
        receipts = [future.result(WAIT) for future in futures]
        assert files.count("pwrite", ".seg") == files.count("sync_data") == 2
        assert all(one.durable for one in receipts)
        assert [one.sequence for one in receipts] == list(range(2, 22))


@pytest.mark.parametrize(
    ("durability", "durable", "syncs"),
    [
        (Durability.OS, False, 0),
        (Durability.OS, True, 1),
        (Durability.SYNC, False, 1),
        (Durability.EVERY(ms=3_600_000, events=1), False, 1),
        (Durability.EVERY(ms=3_600_000, events=1000), False, 0),
        (Durability.EVERY(ms=3_600_000, events=1000), True, 1),
    ],
    ids=str,
)
def test_a_submission_is_as_durable_as_mode_and_call_ask(
    tmp_path: Path, durability: Any, durable: bool, syncs: int
) -> None:
    with opened(tmp_path / "journal", durability=durability) as (store, files):
        receipt = put(store, 1, durable=durable).result(WAIT)
        assert receipt.durable is (syncs == 1)
        assert files.count("sync_data") == syncs


# --- order ----------------------------------------------------------------------------

DIRECT: dict[str, Callable[[Store], Any]] = {
    "append": lambda store: store.append(ALICE, "direct", kind=NOTE),
    "keyed": lambda store: store.append(ALICE, "direct", kind=NOTE, key=operation_key("a", "b")),
    "raw": lambda store: store.append_raw(ALICE, NOTE, b"\xa6direct"),
    "many": lambda store: store.append_many([Item(ALICE, "direct", kind=NOTE)]),
    "imported": lambda store: store.append_imported("x", 1, [Item(ALICE, "direct", kind=NOTE)]),
    "fence": lambda store: _by_fence(store),
    "outbox": lambda store: _by_outbox(store),
}


def _by_fence(store: Store) -> None:
    with store.fence() as fence:
        fence.append(ALICE, "direct", kind=NOTE)


def _by_outbox(store: Store) -> None:
    outbox = store.outbox()
    outbox.stage(ALICE, "direct", kind=NOTE)
    outbox.flush()


def done_or_waiting(future: Future[Any], thread: int) -> bool:
    """Watch a call until it is over, or its thread waits for another; True for over."""
    while not future.done():
        frame = sys._current_frames().get(thread)
        while frame is not None:
            if frame.f_code in (passed.__code__, Worker.join.__code__):
                return False
            frame = frame.f_back
    return True


@pytest.mark.proves("INV-QUEUE-ORDER")
@pytest.mark.parametrize("direct", DIRECT.values(), ids=DIRECT)
@pytest.mark.parametrize("cancelled", [False, True], ids=["all", "last-given-up"])
def test_a_direct_append_comes_after_what_its_thread_has_submitted(
    tmp_path: Path, direct: Callable[[Store], Any], cancelled: bool
) -> None:
    options: dict[str, Any] = {"durability": Durability.OS}
    with opened(tmp_path / "journal", **options) as (store, files), ThreadPoolExecutor(1) as pool:

        def work() -> None:
            for number in range(3):
                put(store, number)
            if cancelled:
                # That the last one is given up does not make the others any earlier.
                assert put(store, "given up").cancel()
            direct(store)

        with busy(store, files, durable=True):
            thread = pool.submit(threading.get_ident).result(WAIT)
            working = pool.submit(work)
            assert not done_or_waiting(working, thread), "it overtook what waits"
            # Another thread's append does not wait for submissions that are not its own.
            store.append(ALICE, "other", kind=NOTE)
            assert values(store) == ["other"]
        working.result(WAIT)
        assert values(store) == ["other", 0, 1, 2, "direct"]


@pytest.mark.proves("INV-QUEUE-ORDER")
@pytest.mark.proves("INV-QUEUE-ORDER")
@pytest.mark.parametrize("way", ["retire_key", "compact"])
def test_what_the_journal_says_of_itself_comes_after_what_its_thread_has_submitted(
    tmp_path: Path, way: str
) -> None:
    key = SigningKey.generate()
    options: dict[str, Any] = {"durability": Durability.OS, "signing_keys": [key]}
    with opened(tmp_path / "journal", **options) as (store, files), ThreadPoolExecutor(1) as pool:
        # What a compaction would take out.
        store.erase(store.append(ALICE, "gone", kind=NOTE).sequence, reason="asked for")

        def work() -> list[Future[Any]]:
            futures = [put(store, number) for number in range(3)]
            if way == "compact":
                assert store.compact().outcome == "performed"
            else:
                store.retire_key(ReceiptKey(key.public_key).key_id)
            return futures

        with busy(store, files, durable=True):
            thread = pool.submit(threading.get_ident).result(WAIT)
            working = pool.submit(work)
            assert not done_or_waiting(working, thread)
        last = working.result(WAIT)[-1].result(0)
        assert last.sequence == len(store) - 2


def test_submissions_of_each_thread_keep_their_order(store: Store) -> None:
    def work(who: Coordinate) -> None:
        for number in range(60):
            if number % 7 == 6:
                store.append(who, number, kind=NOTE)
            elif number % 5 == 4:
                store.submit_many([Item(who, number, kind=NOTE)])
            else:
                store.submit(who, number, kind=NOTE)

    entities = [Coordinate(f"player:{n}", "room") for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, who) for who in entities]:
            done.result(WAIT)
    store.sync()
    for who in entities:
        assert values(store, who.entity) == list(range(60))
    assert store.verify().ok


@pytest.mark.proves("INV-QUEUE-ORDER")
@pytest.mark.parametrize("cancelled", [False, True], ids=["all", "last-given-up"])
def test_sync_covers_the_queue(tmp_path: Path, cancelled: bool) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def clock() -> int:
        # The queue's thread stands where it is about to write; no sync is under way.
        if threading.current_thread().name == THREAD:
            reading.set()
            assert go_on.wait(WAIT)
        return 1_700_000_000_000_000

    options: dict[str, Any] = {"durability": Durability.OS, "clock": clock}
    with opened(tmp_path / "journal", **options) as (store, _), ThreadPoolExecutor(1) as pool:
        try:
            futures = [pool.submit(put, store, "first").result(WAIT)]
            assert reading.wait(WAIT)
            futures += [put(store, number) for number in range(5)]
            if cancelled:
                assert put(store, "given up").cancel()
            thread = pool.submit(threading.get_ident).result(WAIT)
            syncing = pool.submit(store.sync)
            assert not done_or_waiting(syncing, thread), "the queue was not empty"
        finally:
            go_on.set()
        syncing.result(WAIT)
        assert all(future.done() for future in futures)
        assert store.frontier().durable.sequence == 7
        assert values(store) == ["first", 0, 1, 2, 3, 4]


def test_a_future_that_its_caller_cancelled_is_not_written(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files) as first:
            futures = [put(store, number) for number in range(4)]
            assert futures[1].cancel()
            assert futures[3].cancel()
            # What is under way can't be called back.
            assert not first.cancel()
        store.sync()
        with pytest.raises(CancelledError):
            futures[1].result(WAIT)
        assert values(store) == [0, 2]
        assert [futures[0].result(0).sequence, futures[2].result(0).sequence] == [2, 3]


# --- bounds ---------------------------------------------------------------------------


@pytest.mark.proves("INV-QUEUE-BOUNDED")
def test_try_submit_refuses_from_the_threshold_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"submit_capacity": 8, "submit_threshold": 0.5}
    with opened(tmp_path / "journal", **options) as (store, files):
        assert store.pressure().is_idle
        assert (store.pressure().capacity, store.pressure().headroom) == (8, 8)
        with busy(store, files):
            taken = [store.try_submit(ALICE, number, kind=NOTE) for number in range(4)]
            pressure = store.pressure()
            assert (pressure.queued, pressure.headroom, pressure.utilization) == (4, 4, 0.5)
            assert not pressure.is_idle
            for _ in range(3):
                with pytest.raises(Backpressure) as raised:
                    store.try_submit(ALICE, "refused", kind=NOTE)
                error = raised.value
                assert (error.code, error.retryable) == ("backpressure", True)
                assert error.retry_after > 0
            # What is wrong with the call comes first: it would never be taken.
            with pytest.raises(ReservedKind):
                store.try_submit(ALICE, 1, kind=SYSTEM_OPEN_COMPLETED)
            # The threshold is for those who ask for it.
            taken.append(put(store, 4))
            assert store.pressure().queued == 5
        for future in taken:
            future.result(WAIT)
        assert store.pressure().queued == 0
        assert store.try_submit(ALICE, 5, kind=NOTE).result(WAIT).clock == 5
        assert values(store) == [0, 1, 2, 3, 4, 5]


@pytest.mark.proves("INV-QUEUE-BOUNDED")
def test_a_batch_larger_than_the_queue_is_queued_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"submit_capacity": 4}
    with opened(tmp_path / "journal", **options) as (store, files):
        with busy(store, files):
            future = store.submit_many([Item(ALICE, n, kind=NOTE) for n in range(10)])
            pressure = store.pressure()
            assert (pressure.queued, pressure.headroom, pressure.utilization) == (10, 0, 2.5)
            with pytest.raises(Backpressure):
                store.try_submit(ALICE, 10, kind=NOTE)
        assert [receipt.clock for receipt in future.result(WAIT)] == list(range(10))


@pytest.mark.proves("INV-QUEUE-BOUNDED")
def test_submit_waits_while_the_queue_is_full_and_then_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"submit_capacity": 4}
    with opened(tmp_path / "journal", **options) as (store, files), ThreadPoolExecutor(2) as pool:
        with busy(store, files):
            futures = [put(store, number) for number in range(4)]
            assert store.pressure().headroom == 0
            full = threading.Event()

            def one_more(*numbers: int) -> Future[Any]:
                full.set()
                return store.submit_many([Item(ALICE, n, kind=NOTE) for n in numbers])

            waiting = pool.submit(one_more, 4)
            assert full.wait(WAIT)
            assert store.pressure().queued == 4
            assert not waiting.done()
            most = store.pressure().queued
        assert waiting.result(WAIT).result(WAIT)[0].sequence == 6
        assert most <= 4
        assert [future.result(WAIT).clock for future in futures] == [0, 1, 2, 3]
        assert values(store) == [0, 1, 2, 3, 4]


def test_a_batch_larger_than_the_queue_is_taken_when_nothing_else_waits(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", submit_capacity=4) as (store, _):
        receipts = store.submit_many([Item(ALICE, n, kind=NOTE) for n in range(9)]).result(WAIT)
        assert len(receipts) == 9


def test_many_producers_never_have_more_than_the_capacity_queued(tmp_path: Path) -> None:
    options: dict[str, Any] = {"submit_capacity": 8, "durability": Durability.OS}
    with opened(tmp_path / "journal", **options) as (store, _), ThreadPoolExecutor(4) as pool:
        most: list[int] = []

        def work(who: Coordinate) -> None:
            for number in range(100):
                store.submit(who, number, kind=NOTE)
                most.append(store.pressure().queued)

        entities = [Coordinate(f"player:{n}", "room") for n in range(4)]
        for done in [pool.submit(work, who) for who in entities]:
            done.result(WAIT)
        store.sync()
        assert max(most) <= 8
        assert store.count(Region(kind=NOTE)) == 400


# --- the thread -----------------------------------------------------------------------


@pytest.mark.proves("INV-NO-HIDDEN-THREAD")
def test_the_queue_has_a_thread_from_the_first_submission_until_close(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        store.append(ALICE, 1, kind=NOTE)
        store.append_many([Item(ALICE, 2, kind=NOTE)])
        with store.fence() as fence:
            fence.append(ALICE, 3, kind=NOTE)
        store.outbox().flush()
        store.pressure()
        store.sync()
        with pytest.raises(InvalidInput):
            store.submit(ALICE, {1}, kind=NOTE)
        assert threads_named(THREAD) == []
        put(store, 4).result(WAIT)
        put(store, 5)
        assert threads_named(THREAD) == [THREAD]
    assert threads_named(THREAD) == []


def test_where_no_thread_can_be_had_nothing_is_queued(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(background._thread, "start_new_thread", refuse)
        with pytest.raises(RuntimeError):
            put(store, "never")
    assert store.pressure().is_idle
    store.append(ALICE, 0, kind=NOTE)
    store.sync()
    assert put(store, 1).result(WAIT).clock == 1
    assert values(store) == [0, 1]


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_close_runs_the_queue_empty(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "journal", durability=Durability.OS)
    futures = [put(store, number) for number in range(2000)]
    store.close()
    assert [future.result(0).clock for future in futures] == list(range(2000))
    assert threads_named(THREAD) == []
    for late in (
        lambda: put(store, 1),
        lambda: store.try_submit(ALICE, 1, kind=NOTE),
        lambda: store.submit_many([Item(ALICE, 1, kind=NOTE)]),
        lambda: put(store, 1, unless=Unless(Region.all())),
    ):
        with pytest.raises(StoreClosed):
            late()
    with Store.open(store.path) as store:
        assert values(store) == list(range(2000))


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_what_close_had_no_time_for_is_cancelled_and_not_written(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", submit_capacity=3) as (store, files):
        with ThreadPoolExecutor(2) as pool, busy(store, files) as first:
            futures = [put(store, number) for number in range(3)]
            gone = threading.Event()
            futures[-1].add_done_callback(lambda _: gone.set())
            blocked = pool.submit(put, store, "blocked")
            closing = pool.submit(store.close, 0)
            # While a sync is held nothing is written; what waits is given up all the same.
            assert gone.wait(WAIT)
            with pytest.raises(StoreClosed):
                blocked.result(WAIT)
            with pytest.raises(StoreClosed):
                put(store, "late")
        closing.result(WAIT)
        assert first.result(0).durable
        for future in futures:
            error = future.exception(0)
            assert isinstance(error, Cancelled)
            assert error.code == "cancelled"
        assert threads_named(THREAD) == []
    with Store.open(store.path) as store:
        assert values(store) == []
        assert values(store, BOB.entity) == ["first"]


def test_close_leaves_no_thread_behind_that_a_callback_holds(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(1) as pool:
        holding, let_go = threading.Event(), threading.Event()

        def hold(_: Future[Any]) -> None:
            holding.set()
            assert let_go.wait(WAIT)

        try:
            with busy(store, files) as first:
                first.add_done_callback(hold)
            assert holding.wait(WAIT)
            closer = pool.submit(threading.get_ident).result(WAIT)
            closing = pool.submit(store.close, 0)
            assert not done_or_waiting(closing, closer), "the thread was left behind"
        finally:
            let_go.set()
        closing.result(WAIT)
        assert threads_named(THREAD) == []


def test_a_time_that_close_needs_not_is_not_spent(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "journal", durability=Durability.OS)
    future = put(store, 1)
    store.close(1e300)
    assert future.result(0).clock == 0


def test_a_store_dropped_after_submitting_frees_the_lock(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "journal", durability=Durability.OS)
    [thread] = [put(store, n).result(WAIT) and _queue_thread() for n in range(1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        gc.collect()
    assert [one.category for one in caught] == [ResourceWarning]
    thread.join(WAIT)
    assert not thread.is_alive()
    with Store.open(tmp_path / "journal") as store:
        assert values(store) == [0]


def test_a_store_dropped_while_it_writes_is_let_go_of_afterwards(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "journal", files=files)
    while files.sync_began.acquire(blocking=False):
        pass
    with held(files):
        first = put(store, 0)
        sync_has_begun(files)
        second = put(store, 1)
        thread = _queue_thread()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # Waits for nobody, since whoever drops a store has not asked for a wait.
            del store
            gc.collect()
        assert [one.category for one in caught] == [ResourceWarning]
        assert not first.done()
        with pytest.raises(JournalLocked):
            Store.open(tmp_path / "journal")
    thread.join(WAIT)
    assert not thread.is_alive()
    assert first.done()
    assert isinstance(second.exception(0), Cancelled)
    with Store.open(tmp_path / "journal") as store:
        assert values(store) == [0]


def _queue_thread() -> threading.Thread:
    [thread] = [one for one in threading.enumerate() if one.name == THREAD]
    return thread


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_does_not_wait_for_its_parent_s_queue(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files):
            future = put(store, 1)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for call in (
                        lambda: store.append(ALICE, 2, kind=NOTE),
                        lambda: put(store, 2),
                        lambda: store.append_many([Item(ALICE, 2, kind=NOTE)]),
                        store.sync,
                    ):
                        with pytest.raises(StoreForked):
                            call()
                    store.close()
                    status = 0
                finally:
                    os._exit(status)
            # A child that waits is ended, so that the test fails and does not hang.
            timer = threading.Timer(WAIT, os.kill, (child, 9))
            timer.start()
            _, status = os.waitpid(child, 0)
            timer.cancel()
            assert status == 0
        assert future.result(WAIT).clock == 0


# --- callbacks ------------------------------------------------------------------------


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_callbacks_may_write_in_every_way(tmp_path: Path) -> None:
    options: dict[str, Any] = {"submit_capacity": 2}
    with opened(tmp_path / "journal", **options) as (store, files):
        made: list[Any] = []
        done = threading.Event()

        def go_on(future: Future[Any]) -> None:
            try:
                made.append(threading.current_thread().name)
                made.append(store.append(BOB, "append", kind=NOTE).clock)
                _by_fence(store)
                _by_outbox(store)
                store.sync()
                # More than the queue holds: its own thread must not wait for itself.
                made.extend(put(store, n) for n in range(5))
                try:
                    store.try_submit(ALICE, 5, kind=NOTE)
                except Backpressure as error:
                    made.append(error)
            finally:
                done.set()

        with busy(store, files) as first:
            first.add_done_callback(go_on)
            put(store, "next")
        assert done.wait(WAIT)
        store.sync()
        name, clock, *futures, refused = made
        assert (name, clock) == (THREAD, 1)
        assert isinstance(refused, Backpressure)
        assert all(future.done() for future in futures)
        assert values(store) == ["direct", "direct", "next", 0, 1, 2, 3, 4]


@pytest.mark.proves("INV-QUEUE-ANSWERS")
@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_stops_nobody(
    tmp_path: Path, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def raise_it(future: Future[Any]) -> None:
        raise raised("of a callback")

    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files):
            futures = [put(store, number) for number in range(3)]
            futures[0].add_done_callback(raise_it)
        with caplog.at_level(logging.ERROR):
            assert [future.result(WAIT).clock for future in futures] == [0, 1, 2]
            assert put(store, 3).result(WAIT).clock == 3
            store.sync()
    ours = [one for one in caplog.records if one.name == "batpak.store"]
    codes = [getattr(one, "code", None) for one in ours]
    assert codes == ["callback-failed"]


class Refuses(logging.Handler):
    """A handler that raises."""

    def __init__(self, raised: type[BaseException]) -> None:
        super().__init__()
        self._raised = raised

    def emit(self, record: logging.LogRecord) -> None:
        raise self._raised("of a log handler")


@pytest.mark.proves("INV-QUEUE-ANSWERS")
@pytest.mark.parametrize("of_callback", [ValueError, SystemExit])
@pytest.mark.parametrize("of_handler", [RuntimeError, SystemExit])
def test_a_log_handler_that_raises_over_a_callback_stops_nobody(
    tmp_path: Path, of_callback: type[BaseException], of_handler: type[BaseException]
) -> None:
    def raise_it(future: Future[Any]) -> None:
        raise of_callback("of a callback")

    log = logging.getLogger("batpak.store")
    handler = Refuses(of_handler)
    log.addHandler(handler)
    try:
        with opened(tmp_path / "journal") as (store, files):
            with busy(store, files):
                futures = [put(store, number) for number in range(4)]
                futures[0].add_done_callback(raise_it)
                futures[2].add_done_callback(raise_it)
            assert [future.result(WAIT).clock for future in futures] == [0, 1, 2, 3]
            assert put(store, 4).result(WAIT).clock == 4
            store.sync()
    finally:
        log.removeHandler(handler)


def test_a_log_handler_that_raises_does_not_keep_a_fences_tickets_from_their_receipts(
    tmp_path: Path,
) -> None:
    def raise_it(future: Future[Any]) -> None:
        raise ValueError("of a callback")

    log = logging.getLogger("batpak.store")
    handler = Refuses(RuntimeError)
    log.addHandler(handler)
    try:
        with opened(tmp_path / "journal") as (store, _):
            with store.fence() as fence:
                tickets = [fence.append(ALICE, number, kind=NOTE) for number in range(3)]
                for ticket in tickets:
                    ticket.add_done_callback(raise_it)
            assert [ticket.result(0).clock for ticket in tickets] == [0, 1, 2]
    finally:
        log.removeHandler(handler)


def test_a_callback_may_close_the_store(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        closed = threading.Event()
        refusals: list[BaseException] = []

        def close(_: Future[Any]) -> None:
            try:
                store.close()
            except BaseException as error:
                refusals.append(error)
                raise
            finally:
                closed.set()

        with busy(store, files) as first:
            first.add_done_callback(close)
            left = [put(store, number) for number in range(3)]
            thread = _queue_thread()
        assert closed.wait(WAIT)
        assert refusals == []
        thread.join(WAIT)
        assert not thread.is_alive()
        assert {type(future.exception(WAIT)) for future in left} == {Cancelled}
    with Store.open(store.path) as store:
        assert values(store) == []


def test_a_future_that_a_stranger_settled_stops_nobody(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files):
            strange, fine = put(store, "strange"), put(store, "fine")
            strange.set_result(None)
        assert fine.result(WAIT).clock == 0
        assert values(store) == ["fine"]


# --- errors ---------------------------------------------------------------------------


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_what_the_journal_s_state_refuses_is_told_by_the_future(store: Store) -> None:
    key = operation_key("test", "queue")
    put(store, 1, key=key).result(WAIT)
    refused: list[tuple[Future[Any], type[BatpakError]]] = [
        (put(store, 2, expect=Expect.EMPTY), ExpectationFailed),
        (put(store, 2, expect=7), ExpectationFailed),
        (put(store, 2, unless=Unless(Region(entity=ALICE.entity))), ConditionFailed),
        (put(store, 2, key=key), IdempotencyConflict),
        (store.submit_many([Item(BOB, 2, kind=NOTE)], expect={BOB.entity: 0}), ExpectationFailed),
        (store.try_submit(ALICE, 2, kind=NOTE, unless=Unless(Region.all())), ConditionFailed),
    ]
    outbox = store.outbox(unless=Unless(Region(entity=ALICE.entity)))
    outbox.stage(ALICE, 2, kind=NOTE)
    refused.append((outbox.submit(), ConditionFailed))
    between = put(store, "between")
    for future, error in refused:
        assert type(future.exception(WAIT)) is error
    assert between.result(WAIT).clock == 1
    assert len(store) == 3
    assert values(store) == [1, "between"]
    again = put(store, 2, key=key, on_replay="return").result(WAIT)
    assert (again.replayed, again.sequence) == (True, 1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda store: put(store, {1}), InvalidInput),
        (lambda store: store.submit(ALICE, 1), UnregisteredPayload),
        (lambda store: store.submit("alice", 1, kind=NOTE), InvalidInput),
        (lambda store: store.submit(ALICE, 1, kind=SYSTEM_OPEN_COMPLETED), ReservedKind),
        (lambda store: put(store, 1, causation=Prior(0)), InvalidInput),
        (lambda store: put(store, 1, lane=-1), InvalidInput),
        (lambda store: store.submit_many([]), InvalidInput),
        (lambda store: store.submit_many([Item(ALICE, 1, kind=NOTE)] * 9), BatchTooLarge),
        (lambda store: store.submit_many([Item(ALICE, 1, kind=NOTE), 2]), InvalidInput),
        (lambda store: put(store, 1, wait=1), TypeError),
        (lambda store: put(store, 1, timeout=1), TypeError),
    ],
)
def test_what_is_wrong_with_the_call_is_raised_by_it(
    tmp_path: Path, call: Callable[[Store], Any], error: type[Exception]
) -> None:
    with opened(tmp_path / "journal", batch_max_events=8) as (store, _):
        with unwritten(store), pytest.raises(error) as raised:
            call(store)
        if isinstance(raised.value, InvalidInput) and raised.value.index is not None:
            assert raised.value.index == 1
        assert threads_named(THREAD) == []


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_a_full_disk_is_told_and_the_queue_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        files.refuse("pwrite", FIRST, errno.ENOSPC)
        futures = [put(store, number) for number in range(3)]
        assert {type(future.exception(WAIT)) for future in futures} == {NoSpace}
        files.refused.clear()
        assert put(store, 3).result(WAIT).clock == 0


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_a_failed_sync_is_told_to_each_with_its_receipt(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        with busy(store, files) as first:
            futures = [put(store, number) for number in range(3)]
            batch = store.submit_many([Item(ALICE, n, kind=NOTE) for n in (3, 4)])
            files.refuse("sync_data", FIRST, errno.EIO)
        error = first.exception(WAIT)
        assert isinstance(error, Indeterminate)
        assert isinstance(error.cause, JournalPoisoned)
        assert error.receipt.sequence == 1
        # Nothing was written after it.
        assert {type(future.exception(WAIT)) for future in (*futures, batch)} == {JournalPoisoned}
        with pytest.raises(JournalPoisoned):
            put(store, 5)


def test_a_failed_sync_concerns_those_who_asked_for_it(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        with held(files):
            put(store, "first", durable=True)
            sync_has_begun(files)
            plain, asked = put(store, 1), put(store, 2, durable=True)
            batch = store.submit_many([Item(ALICE, n, kind=NOTE) for n in (3, 4)], durable=True)
            files.refuse("sync_data", FIRST, errno.EIO, after=1)
        assert plain.result(WAIT).sequence == 2
        error = asked.exception(WAIT)
        assert isinstance(error, Indeterminate)
        assert [one.sequence for one in error.receipts] == [3]
        error = batch.exception(WAIT)
        assert isinstance(error, Indeterminate)
        assert [one.sequence for one in error.receipts] == [4, 5]


def test_out_of_memory_is_told_and_the_queue_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batpak.journal.writer import Writer

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit_together", fail)
        lost = put(store, 1)
        assert isinstance(lost.exception(WAIT), MemoryError)
    assert put(store, 2).result(WAIT).clock == 0
    assert values(store) == [2]


@pytest.mark.proves("INV-QUEUE-ANSWERS")
def test_whoever_submits_while_the_store_is_closed_gets_an_answer(tmp_path: Path) -> None:
    for turn in range(10):
        store = Store.open(tmp_path / f"journal-{turn}", durability=Durability.OS)
        start = threading.Barrier(5)

        def work(store: Store = store, start: threading.Barrier = start) -> list[Future[Any]]:
            futures: list[Future[Any]] = []
            start.wait(WAIT)
            try:
                for number in range(10_000):
                    futures.append(put(store, number))
            except StoreClosed:
                pass
            return futures

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work) for _ in range(4)]
            start.wait(WAIT)
            store.close()
            futures = [future for one in working for future in one.result(WAIT)]
        assert threads_named(THREAD) == []
        written = sum(future.exception(WAIT) is None for future in futures)
        assert all(
            isinstance(future.exception(0), (Cancelled, StoreClosed, type(None)))
            for future in futures
        )
        with Store.open(store.path, mode="r") as reader:
            assert reader.count(Region(kind=NOTE)) == written
