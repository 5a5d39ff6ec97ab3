"""Fences and outboxes: what is staged becomes one commit, or nothing at all.

Nothing of a fence is on the disk before its end, so others go on meanwhile and there is
nothing that a crash could leave, or a reader see too early.
"""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    AppendReceipt,
    CausationId,
    Coordinate,
    Durability,
    Expect,
    Indeterminate,
    InvalidInput,
    Item,
    Prior,
    Region,
    Store,
    Unless,
    operation_key,
)
from batpak.errors import (
    BatchTooLarge,
    BatpakError,
    Cancelled,
    ConditionFailed,
    ExpectationFailed,
    FenceEnded,
    FenceOpen,
    FenceTooLarge,
    JournalPoisoned,
    NoSpace,
    ReservedKind,
    StorageFailed,
    StoreClosed,
)
from batpak.kinds import SYSTEM_OPEN_COMPLETED
from tests.support.faulty_files import Fault, FaultyFiles, Killed
from tests.support.writing import (
    ALICE,
    BOB,
    NOTE,
    files_of,
    held,
    opened,
    sync_has_begun,
    unwritten,
)
from tests.watched_files import WAIT

FIRST = "00000000000000000000.seg"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(
        tmp_path / "journal", durability=Durability.OS, batch_max_events=4, payload_max_bytes=1000
    ) as one:
        yield one


def values(store: Any, entity: str = ALICE.entity) -> list[Any]:
    return [event.value for event in store.entity(entity)]


class Trouble(Exception):
    """What a block raises in these tests."""


# --- a fence is one commit ------------------------------------------------------------


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
@pytest.mark.parametrize("durability", [Durability.OS, Durability.SYNC])
def test_a_fence_is_one_commit_at_its_end(tmp_path: Path, durability: Durability) -> None:
    with opened(tmp_path / "journal", durability=durability) as (store, files):
        before, written = files_of(store), files.count("pwrite", ".seg")
        with Store.open(store.path, mode="r") as reader:
            with store.fence() as fence:
                tickets = [fence.append(ALICE, number, kind=NOTE) for number in range(3)]
                tickets.append(fence.append_raw(ALICE, NOTE, b"\x03"))
                tickets += fence.append_many([Item(ALICE, n, kind=NOTE) for n in (4, 5)])
                assert len(fence) == 6
                assert files_of(store) == before
                assert files.count("pwrite", ".seg") == written
                assert not any(ticket.done() for ticket in tickets)
                assert (values(store), len(store), reader.refresh()) == ([], 1, 1)
            assert files.count("pwrite", ".seg") == written + 1
            assert reader.refresh() == 7
            assert values(reader) == values(store) == list(range(6))
        receipts = [ticket.result(0) for ticket in tickets]
        assert tuple(receipts) == fence.receipts
        assert [one.sequence for one in receipts] == list(range(1, 7))
        assert [one.clock for one in receipts] == list(range(6))
        assert {one.durable for one in receipts} == {durability is Durability.SYNC}
        assert all(store.get(one.event_id).event_hash == one.event_hash for one in receipts)
        assert store.verify().ok


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
def test_others_go_on_while_a_fence_is_open(store: Store) -> None:
    with store.fence() as fence, ThreadPoolExecutor(1) as pool:
        first = fence.append(ALICE, "fenced", kind=NOTE)
        # This thread, another one, the queue, and another thread's fence.
        own = store.append(ALICE, "own", kind=NOTE)
        other = pool.submit(store.append, ALICE, "other", kind=NOTE).result(WAIT)
        queued = store.submit(ALICE, "queued", kind=NOTE).result(WAIT)

        def another_fence() -> AppendReceipt:
            with store.fence() as theirs:
                ticket = theirs.append(ALICE, "theirs", kind=NOTE)
            return ticket.result(0)

        theirs = pool.submit(another_fence).result(WAIT)
        assert [one.sequence for one in (own, other, queued, theirs)] == [1, 2, 3, 4]
        assert values(store) == ["own", "other", "queued", "theirs"]
    assert first.result(0).clock == 4
    assert first.result(0).prev_hash == theirs.event_hash


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
def test_readers_see_all_of_a_fence_or_none(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        done, seen = threading.Event(), set[int]()

        def read() -> None:
            while True:
                last = done.is_set()
                with Store.open(store.path, mode="r") as reader:
                    seen.add(reader.count(Region(entity=ALICE.entity)))
                seen.add(store.count(Region(entity=ALICE.entity)))
                if last:
                    return

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            try:
                for _ in range(40):
                    with store.fence() as fence:
                        for number in range(7):
                            fence.append(ALICE, number, kind=NOTE)
            finally:
                done.set()
            reading.result(WAIT)
        assert 280 in seen
        assert {count % 7 for count in seen} == {0}


def test_events_of_a_fence_may_name_each_other(store: Store) -> None:
    with store.fence() as fence:
        fence.append(ALICE, 0, kind=NOTE)
        fence.append(BOB, 1, kind=NOTE, causation=Prior(0), correlation=Prior(0))
        fence.append(ALICE, 2, kind=NOTE, causation=Prior(1), flags=2, lane=3, depth=4)
        with pytest.raises(InvalidInput):
            fence.append(ALICE, 3, kind=NOTE, causation=Prior(3))
        with pytest.raises(InvalidInput):
            fence.append(ALICE, 3, kind=NOTE, causation=Prior(True))
    first, second, third = (store.get(one.event_id) for one in fence.receipts)
    assert second.causation_id == CausationId.from_bytes(first.event_id.bytes)
    assert second.correlation_id.bytes == first.event_id.bytes
    assert third.causation_id == CausationId.from_bytes(second.event_id.bytes)
    assert (third.flags, third.lane, third.depth) == (2, 3, 4)


def test_a_fence_with_nothing_in_it_writes_nothing(store: Store) -> None:
    with unwritten(store), store.fence() as fence:
        pass
    assert fence.receipts == ()


def test_what_a_fence_asks_for_is_judged_at_its_end(store: Store) -> None:
    with store.fence(expect={ALICE.entity: 0}) as fence:
        fence.append(BOB, 1, kind=NOTE)
        # Not so when the fence began, but when it ends.
        store.append(ALICE, 1, kind=NOTE)
    assert fence.receipts[0].sequence == 2
    for conditions, error in (
        ({"expect": {BOB.entity: 0}}, ExpectationFailed),
        ({"unless": Unless(Region(entity=BOB.entity), after=2)}, ConditionFailed),
    ):
        with pytest.raises(error) as raised, store.fence(**conditions) as fence:  # noqa: PT012  # a fence is a block
            tickets = fence.append_many([Item(ALICE, 1, kind=NOTE)] * 2)
            store.append(BOB, 2, kind=NOTE)
        assert [ticket.exception(0) for ticket in tickets] == [raised.value] * 2
        assert fence.receipts == ()
    assert values(store) == [1]


# --- fences that come to nothing ------------------------------------------------------


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
@pytest.mark.parametrize("raised", [Trouble, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_leaves_nothing_of_a_fence(store: Store, raised: type[BaseException]) -> None:
    keyed = operation_key("test", "fence")
    tickets: list[Future[AppendReceipt]] = []
    with unwritten(store):
        with pytest.raises(raised), store.fence() as fence:  # noqa: PT012  # a fence is a block
            tickets.append(fence.append(ALICE, 1, kind=NOTE, key=keyed))
            raise raised
        assert isinstance(tickets[0].exception(0), Cancelled)
        assert fence.receipts == ()
        with pytest.raises(FenceEnded) as ended:
            fence.append(ALICE, 1, kind=NOTE)
        assert ended.value.code == "fence-ended"
    # Its key is free, and so is this thread.
    with store.fence() as fence:
        ticket = fence.append(ALICE, 2, kind=NOTE, key=keyed)
    assert not ticket.result(0).replayed


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
def test_a_cancelled_fence_leaves_nothing_and_its_block_goes_on(store: Store) -> None:
    keyed = operation_key("test", "fence")
    with unwritten(store):
        with store.fence() as fence:
            ticket = fence.append(ALICE, 1, kind=NOTE, key=keyed)
            fence.cancel()
            fence.cancel()
            error = ticket.exception(0)
            assert isinstance(error, Cancelled)
            assert (error.code, error.retryable) == ("cancelled", True)
            with pytest.raises(FenceEnded):
                fence.append(ALICE, 1, kind=NOTE)
            assert len(fence) == 0
        assert fence.receipts == ()
    assert not store.append(ALICE, 2, kind=NOTE, key=keyed).replayed


@pytest.mark.proves("INV-FENCE-ALL-OR-NOTHING")
@pytest.mark.parametrize(
    ("fault", "survives"),
    [(Fault.KILL, False), (Fault.KILL_TORN, False), (Fault.KILL_AFTER, True)],
)
def test_a_crash_leaves_all_of_a_fence_or_nothing(
    tmp_path: Path, fault: Fault, survives: bool
) -> None:
    path = tmp_path / "journal"
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=Durability.OS, preallocate=0)
    store.append(BOB, 1, kind=NOTE)
    with pytest.raises(Killed), store.fence() as fence:  # noqa: PT012  # a fence is a block
        for number in range(3):
            fence.append(ALICE, number, kind=NOTE)
        store.append(BOB, 2, kind=NOTE)
        files.arm(0, fault)
    files.bury()
    store._finalizer.detach()  # the dead run no finalizers
    with Store.open(path) as store:
        assert values(store, BOB.entity) == [1, 2]
        assert values(store) == ([0, 1, 2] if survives else [])
        assert store.verify().ok


def test_a_fence_that_the_disk_refuses_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        files.refuse("pwrite", FIRST, errno.ENOSPC)
        with pytest.raises(NoSpace) as raised, store.fence() as fence:
            ticket = fence.append(ALICE, 1, kind=NOTE)
        assert ticket.exception(0) is raised.value
        files.refused.clear()
        assert store.append(ALICE, 2, kind=NOTE).clock == 0


def test_tickets_say_what_the_block_raised_whatever_that_is(tmp_path: Path) -> None:
    unit = 1
    with opened(tmp_path / "journal", clock=lambda: 1_000_000 // unit) as (store, _):
        fence = store.fence()
        unit = 0
        with pytest.raises(ZeroDivisionError) as raised, fence:
            ticket = fence.append(ALICE, 1, kind=NOTE)
        assert ticket.exception(0) is raised.value
        unit = 1
        assert store.append(ALICE, 1, kind=NOTE).clock == 0


def test_a_fence_that_is_not_known_to_be_durable_says_so_with_its_receipts(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        files.refuse("sync_data", FIRST, errno.EIO)
        with pytest.raises(Indeterminate) as raised, store.fence() as fence:
            tickets = fence.append_many([Item(ALICE, n, kind=NOTE) for n in range(2)])
        assert [one.sequence for one in raised.value.receipts] == [1, 2]
        assert [ticket.exception(0) for ticket in tickets] == [raised.value] * 2


# --- misuse ---------------------------------------------------------------------------


def test_a_fence_inside_a_fence_is_refused(store: Store) -> None:
    with store.fence() as fence:
        fence.append(ALICE, 1, kind=NOTE)
        for again in (store.fence, fence.__enter__):
            with pytest.raises(FenceOpen) as raised:
                again()
            assert (raised.value.code, raised.value.field) == ("fence-open", "fence")
        fence.append(ALICE, 2, kind=NOTE)
    # The outer one is none the worse, and the next is welcome.
    assert values(store) == [1, 2]
    with store.fence() as fence:
        fence.cancel()
        with store.fence() as inner:
            inner.append(ALICE, 3, kind=NOTE)
    assert values(store) == [1, 2, 3]


def test_a_fence_that_was_never_entered_is_in_nobody_s_way(store: Store) -> None:
    unused = store.fence()
    store.fence()
    with store.fence() as fence:
        fence.append(ALICE, 1, kind=NOTE)
        with pytest.raises(FenceOpen):
            unused.__enter__()
    with unused:
        unused.append(ALICE, 2, kind=NOTE)
    assert values(store) == [1, 2]


def test_a_fence_may_be_made_in_one_thread_and_entered_in_another(store: Store) -> None:
    fence = store.fence()
    with ThreadPoolExecutor(1) as pool:

        def use() -> None:
            with fence:
                fence.append(ALICE, 1, kind=NOTE)
                with pytest.raises(FenceOpen):
                    store.fence()

        pool.submit(use).result(WAIT)
    assert values(store) == [1]


def test_a_fence_is_not_used_after_its_end(store: Store) -> None:
    with store.fence() as fence:
        fence.append(ALICE, 1, kind=NOTE)
    with unwritten(store):
        for use in (
            lambda: fence.append(ALICE, 2, kind=NOTE),
            lambda: fence.append_raw(ALICE, NOTE, b""),
            lambda: fence.append_many([Item(ALICE, 2, kind=NOTE)]),
            fence.__enter__,
        ):
            with pytest.raises(FenceEnded):
                use()
        fence.cancel()
    assert values(store) == [1]
    assert fence.receipts[0].sequence == 1


@pytest.mark.parametrize("ending", ["commit", "cancel"])
def test_threads_may_share_a_fence(tmp_path: Path, ending: str) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        with store.fence() as fence, ThreadPoolExecutor(4) as pool:
            entities = [Coordinate(f"player:{n}", "room") for n in range(4)]
            staged = [
                pool.submit(lambda who=who: [fence.append(who, n, kind=NOTE) for n in range(50)])
                for who in entities
            ]
            tickets = [ticket for one in staged for ticket in one.result(WAIT)]
            if ending == "cancel":
                fence.cancel()
        if ending == "cancel":
            assert {type(ticket.exception(0)) for ticket in tickets} == {Cancelled}
            assert len(store) == 1
        else:
            for who in entities:
                assert values(store, who.entity) == list(range(50))
            sequences = sorted(ticket.result(0).sequence for ticket in tickets)
            assert sequences == list(range(1, 201))


def test_a_fence_whose_end_is_under_way_takes_nothing_more(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(1) as pool:
        entered, go = threading.Event(), threading.Event()
        fences: list[Any] = []

        def use() -> None:
            with store.fence() as fence:
                fences.append(fence)
                fence.append(ALICE, 1, kind=NOTE)
                entered.set()
                assert go.wait(WAIT)

        using = pool.submit(use)
        assert entered.wait(WAIT)
        late = fences[0].append(ALICE, 2, kind=NOTE)
        with held(files):
            go.set()
            sync_has_begun(files)
            with pytest.raises(FenceEnded):
                fences[0].append(ALICE, 3, kind=NOTE)
            fences[0].cancel()
            assert not late.done()
        using.result(WAIT)
        assert late.result(0).clock == 1
        assert values(store) == [1, 2]


def test_a_second_block_of_a_fence_leaves_the_first_one_s_tickets_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(1) as pool:
        fence = store.fence()
        entered, go = threading.Event(), threading.Event()

        def use() -> AppendReceipt:
            with fence:
                ticket = fence.append(ALICE, 1, kind=NOTE)
                entered.set()
                assert go.wait(WAIT)
            return ticket.result(0)

        using = pool.submit(use)
        assert entered.wait(WAIT)
        with held(files):
            with pytest.raises(FenceEnded), fence:  # noqa: PT012  # a fence is a block
                late = fence.append(ALICE, 2, kind=NOTE)
                go.set()
                sync_has_begun(files)
            assert not late.done()
        assert using.result(WAIT).clock == 0
        assert late.result(0).clock == 1
        assert fence.receipts == (using.result(0), late.result(0))


def test_more_than_a_commit_can_hold_is_refused_and_the_rest_is_kept(store: Store) -> None:
    with store.fence() as fence:
        for number in range(4):
            fence.append(ALICE, number, kind=NOTE)
        for more in (
            lambda: fence.append(ALICE, 4, kind=NOTE),
            lambda: fence.append_raw(ALICE, NOTE, b""),
        ):
            with pytest.raises(FenceTooLarge) as raised:
                more()
            assert (raised.value.code, raised.value.limit) == ("fence-too-large", 4)
            assert isinstance(raised.value, BatchTooLarge)
        with pytest.raises(FenceTooLarge) as raised:
            fence.append_many([Item(ALICE, 4, kind=NOTE)])
        assert raised.value.index == 0
        assert len(fence) == 4
    assert values(store) == [0, 1, 2, 3]
    outbox = store.outbox()
    for number in range(4):
        assert outbox.stage(BOB, number, kind=NOTE) == number
    with pytest.raises(FenceTooLarge):
        outbox.stage(BOB, 4, kind=NOTE)
    assert len(outbox.flush()) == 4


def test_more_bytes_than_a_record_can_hold_are_refused_when_staged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real bound is a GiB; what is tested is that it is held, not how large it is.
    from batpak.engine import staging

    monkeypatch.setattr(staging, "_RECORD_ROOM", 1500)
    with store.fence() as fence:
        fence.append_raw(ALICE, NOTE, bytes(900))
        with pytest.raises(FenceTooLarge) as raised:
            fence.append_raw(ALICE, NOTE, bytes(900))
        assert raised.value.limit == 1500
        fence.append_raw(ALICE, NOTE, b"")
    assert [len(event.raw) for event in store.entity(ALICE.entity)] == [900, 0]


def test_a_batch_with_more_bytes_than_a_record_can_hold_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batpak.journal import writer

    items = [Item.raw(ALICE, NOTE, bytes(900)), Item.raw(ALICE, NOTE, bytes(900))]
    for call in (
        lambda: store.append_many(items),
        lambda: store.submit_many(items).result(WAIT),
    ):
        with unwritten(store):
            with monkeypatch.context() as patch:
                # As above: the real bound is a GiB.
                patch.setattr(writer, "MAX_RECORD_BYTES", 2000)
                with pytest.raises(BatchTooLarge) as raised:
                    call()
            assert raised.value.code == "batch-too-large"
            assert raised.value.limit is not None
            assert 1900 < raised.value.limit < 2000
    assert len(store.append_many(items)) == 2


def test_a_bad_item_is_named_by_its_index_and_the_fence_goes_on(store: Store) -> None:
    with store.fence() as fence:
        fence.append(ALICE, 0, kind=NOTE)
        bad = [Item(ALICE, 1, kind=NOTE), Item(ALICE, 2, kind=SYSTEM_OPEN_COMPLETED)]
        with pytest.raises(ReservedKind) as raised:
            fence.append_many(bad)
        assert raised.value.index == 1
        with pytest.raises(InvalidInput) as raised_too:
            fence.append_many(["no item"])
        assert raised_too.value.index == 0
        with pytest.raises(InvalidInput):
            fence.append("player:alice", 1, kind=NOTE)
    assert values(store) == [0, 1]


def test_a_fence_left_open_at_close_is_cancelled(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "journal", durability=Durability.OS)
    unused = store.fence()
    tickets = [unused.append(ALICE, 1, kind=NOTE)]
    with pytest.raises(FenceEnded), store.fence() as fence:  # noqa: PT012  # a fence is a block
        tickets.append(fence.append(ALICE, 2, kind=NOTE))
        store.close()
        # Who waits for a ticket after close is told, and does not wait for ever.
        for ticket in tickets:
            error = ticket.exception(0)
            assert isinstance(error, Cancelled)
            assert "closed" in error.what
        with pytest.raises(FenceEnded):
            fence.append(ALICE, 3, kind=NOTE)
    with pytest.raises(StoreClosed):
        store.fence()
    with pytest.raises(StoreClosed):
        store.outbox()
    with Store.open(store.path) as store:
        assert values(store) == []


def test_who_waits_for_a_fence_that_was_dropped_is_told(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        tickets = [store.fence().append(ALICE, 1, kind=NOTE)]
        gc.collect()
        # Not by whoever collects it, who may hold any lock; by the next that comes along.
        assert not tickets[0].done()
        with store.fence() as fence:
            tickets.append(fence.append(ALICE, 2, kind=NOTE))
            error = tickets[0].exception(0)
            assert isinstance(error, Cancelled)
            assert "dropped" in error.what
        tickets.append(store.fence().append(ALICE, 3, kind=NOTE))
        gc.collect()
    assert isinstance(tickets[2].exception(0), Cancelled)
    assert tickets[1].result(0).clock == 0


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_who_waits_for_a_fence_that_went_with_its_store_is_told(
    tmp_path: Path, in_a_cycle: bool
) -> None:
    store = Store.open(tmp_path / "journal", durability=Durability.OS)
    fence = store.fence()
    first, second = fence.append_many([Item(ALICE, n, kind=NOTE) for n in range(2)])
    told_in: list[int] = []

    def leave(_: object) -> None:
        told_in.append(threading.get_ident())
        raise SystemExit

    first.add_done_callback(leave)
    kept: list[Any] = [fence, store]
    if in_a_cycle:
        kept.append(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del kept, fence, store
        gc.collect()
    for ticket in (first, second):
        error = ticket.exception(WAIT)
        assert isinstance(error, Cancelled)
        assert "dropped" in error.what
    # Not by whoever collects it, who may hold any lock.
    assert len(told_in) == 1
    assert threading.get_ident() not in told_in
    with Store.open(tmp_path / "journal") as store:
        assert values(store) == []


def test_a_fence_that_ended_before_close_keeps_its_receipts(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store, store.fence() as fence:
        ticket = fence.append(ALICE, 1, kind=NOTE)
    assert ticket.result(0) == fence.receipts[0]


def test_a_ticket_that_its_caller_cancelled_does_not_stop_the_fence(store: Store) -> None:
    with store.fence() as fence:
        first, second = fence.append_many([Item(ALICE, n, kind=NOTE) for n in range(2)])
        assert first.cancel()
    with pytest.raises(CancelledError):
        first.result(0)
    assert second.result(0).clock == 1
    assert values(store) == [0, 1]


# --- outbox ---------------------------------------------------------------------------


@pytest.mark.proves("INV-OUTBOX-KEEPS")
@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, StorageFailed)],
)
def test_an_outbox_keeps_what_failed_to_flush_and_flushes_it_later(
    tmp_path: Path, number: int, error: type[BatpakError]
) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        outbox = store.outbox()
        for n in range(3):
            assert outbox.stage(ALICE, n, kind=NOTE) == n
        files.refuse("pwrite", FIRST, number)
        for _ in range(2):
            with pytest.raises(error):
                outbox.flush()
            assert len(outbox) == 3
        assert values(store) == []
        files.refused.clear()
        outbox.stage(ALICE, 3, kind=NOTE, causation=Prior(0))
        receipts = outbox.flush()
        assert [one.clock for one in receipts] == [0, 1, 2, 3]
        assert len(outbox) == 0
        assert outbox.flush() == ()
        assert values(store) == [0, 1, 2, 3]


@pytest.mark.proves("INV-OUTBOX-KEEPS")
def test_an_outbox_keeps_what_a_condition_refused(store: Store) -> None:
    outbox = store.outbox(expect={BOB.entity: 0})
    outbox.stage(ALICE, 1, kind=NOTE)
    with unwritten(store), pytest.raises(ExpectationFailed):
        outbox.flush()
    assert len(outbox) == 1
    # `unwritten` has written Bob's first event.
    assert outbox.flush()[0].clock == 0


def test_an_outbox_writes_when_it_is_flushed_and_not_before(store: Store) -> None:
    with unwritten(store):
        outbox = store.outbox()
        outbox.stage(ALICE, 1, kind=NOTE)
        outbox.stage_raw(ALICE, NOTE, b"\x02")
        assert len(outbox) == 2
        outbox.discard()
        assert len(outbox) == 0
        assert outbox.flush() == ()
        assert outbox.submit().result(0) == ()
        del outbox
    outbox = store.outbox()
    outbox.stage(ALICE, 1, kind=NOTE)
    store.append(ALICE, 0, kind=NOTE)
    first = outbox.flush()
    outbox.stage(ALICE, 2, kind=NOTE)
    second = outbox.flush()
    assert [one.clock for one in (*first, *second)] == [1, 2]


def test_an_outbox_that_was_written_though_not_known_durable_is_empty(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files):
        outbox = store.outbox()
        outbox.stage(ALICE, 1, kind=NOTE)
        files.refuse("sync_data", FIRST, errno.EIO)
        with pytest.raises(Indeterminate) as raised:
            outbox.flush()
        assert [one.sequence for one in raised.value.receipts] == [1]
        assert len(outbox) == 0
        outbox.stage(ALICE, 2, kind=NOTE)
        with pytest.raises(JournalPoisoned):
            outbox.flush()
        assert len(outbox) == 1


def test_an_outbox_outlives_its_store_without_writing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        outbox = store.outbox()
        outbox.stage(ALICE, 1, kind=NOTE)
    for flush in (outbox.flush, outbox.submit):
        with pytest.raises(StoreClosed):
            flush()
        assert len(outbox) == 1


def test_a_queued_outbox_is_one_commit(store: Store) -> None:
    outbox = store.outbox()
    for number in range(3):
        outbox.stage(ALICE, number, kind=NOTE)
    receipts = outbox.submit().result(WAIT)
    assert len(outbox) == 0
    assert [one.clock for one in receipts] == [0, 1, 2]


@pytest.mark.parametrize(
    "stage",
    [
        lambda outbox: outbox.stage(ALICE, {1}, kind=NOTE),
        lambda outbox: outbox.stage(ALICE, 1, kind=SYSTEM_OPEN_COMPLETED),
        lambda outbox: outbox.stage(ALICE, 1),
        lambda outbox: outbox.stage("alice", 1, kind=NOTE),
        lambda outbox: outbox.stage_raw(ALICE, NOTE, "text"),
        lambda outbox: outbox.stage(ALICE, 1, kind=NOTE, causation=Prior(1)),
        lambda outbox: outbox.stage(ALICE, 1, kind=NOTE, causation=Prior(False)),
        lambda outbox: outbox.stage(ALICE, 1, kind=NOTE, correlation=Prior(0.0)),
        lambda outbox: outbox.stage(ALICE, 1, kind=NOTE, extensions={"batpak.x": b""}),
        lambda outbox: outbox.stage(ALICE, bytes(2000), kind=NOTE),
    ],
)
def test_what_can_not_be_an_event_is_not_staged(store: Store, stage: Callable[[Any], int]) -> None:
    outbox = store.outbox(expect={ALICE.entity: Expect.EMPTY})
    outbox.stage(ALICE, 1, kind=NOTE)
    with unwritten(store), pytest.raises(InvalidInput):
        stage(outbox)
    assert len(outbox) == 1
    assert len(outbox.flush()) == 1


# --- an outbox that is used while it is written ---------------------------------------


def until(holds: Callable[[], object]) -> None:
    """Come back when this is so; for what no file operation tells."""
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        os.sched_yield()


def stands_at(store: Any, gates: str) -> bool:
    """Whether a thread waits for the queue: for its room, or for what is settled."""
    queue = store._queue
    return queue is not None and bool(vars(queue)[gates])


def test_events_are_staged_while_an_outbox_is_flushed(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(2) as pool:
        outbox = store.outbox()
        assert outbox.stage(ALICE, 0, kind=NOTE) == 0
        with held(files):
            flushing = pool.submit(outbox.flush)
            sync_has_begun(files)
            # Its number stays its own, and that of what is being written is nobody else's.
            assert pool.submit(outbox.stage, ALICE, 1, kind=NOTE).result(WAIT) == 1
            with pytest.raises(InvalidInput) as refused:
                outbox.stage(ALICE, 2, kind=NOTE, causation=Prior(0))
            assert (refused.value.field, refused.value.facts["value"]) == ("causation", 0)
            assert outbox.stage(ALICE, 2, kind=NOTE, causation=Prior(1)) == 2
            assert len(outbox) == 3
            # What another flush writes is not written twice.
            assert not flushing.done()
        [first] = flushing.result(WAIT)
        second, third = outbox.flush()
        assert store.get(third.event_id).caused_by(second.event_id)
        assert [one.clock for one in (first, second, third)] == [0, 1, 2]
        assert values(store) == [0, 1, 2]
        assert outbox.stage(ALICE, 3, kind=NOTE) == 0


def test_what_another_flush_is_writing_is_not_written_again(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(1) as pool:
        outbox = store.outbox()
        outbox.stage(ALICE, 0, kind=NOTE)
        with held(files):
            flushing = pool.submit(outbox.flush)
            sync_has_begun(files)
            assert outbox.flush() == ()
            assert outbox.submit().result(0) == ()
            outbox.discard()
        assert len(flushing.result(WAIT)) == 1
        assert (values(store), len(outbox)) == ([0], 0)


def test_a_callback_may_stage_and_flush_while_its_thread_flushes(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, _):
        outbox = store.outbox()
        go = threading.Event()

        def again(_: object) -> None:
            assert go.wait(WAIT)
            outbox.stage(BOB, "staged by a callback", kind=NOTE)
            outbox.flush()

        def use() -> None:
            outbox.stage(ALICE, 0, kind=NOTE)
            store.submit(ALICE, "queued", kind=NOTE).add_done_callback(again)
            outbox.flush()

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        # It waits for what it has submitted, whose thread waits for us.
        until(lambda: stands_at(store, "_patient"))
        go.set()
        thread.join(WAIT)
        assert not thread.is_alive(), "the flush and the callback wait for each other"
        assert values(store) == ["queued", 0]
        assert values(store, BOB.entity) == ["staged by a callback"]


def test_a_callback_may_stage_while_an_outbox_waits_for_room_in_the_queue(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", submit_capacity=1) as (store, _):
        outbox = store.outbox()
        began, go = threading.Event(), threading.Event()

        def again(_: object) -> None:
            began.set()
            assert go.wait(WAIT)
            outbox.stage(BOB, "staged by a callback", kind=NOTE)

        store.submit(ALICE, "first", kind=NOTE).add_done_callback(again)
        assert began.wait(WAIT)
        store.submit(ALICE, "second", kind=NOTE)
        outbox.stage(ALICE, "third", kind=NOTE)
        futures: list[Future[Any]] = []
        thread = threading.Thread(target=lambda: futures.append(outbox.submit()), daemon=True)
        thread.start()
        until(lambda: stands_at(store, "_full"))
        go.set()
        thread.join(WAIT)
        assert not thread.is_alive(), "the outbox and the callback wait for each other"
        assert futures[0].result(WAIT)[0].clock == 2
        assert len(outbox.flush()) == 1
        assert values(store, BOB.entity) == ["staged by a callback"]


def test_what_was_staged_while_a_flush_failed_is_a_commit_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        outbox = store.outbox()
        outbox.stage(ALICE, 0, kind=NOTE)
        go, began = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            began.set()
            assert go.wait(WAIT)

        def flush() -> None:
            store.submit(BOB, "queued", kind=NOTE).add_done_callback(hold)
            with pytest.raises(NoSpace):
                outbox.flush()

        with ThreadPoolExecutor(1) as pool:
            flushing = pool.submit(flush)
            assert began.wait(WAIT)
            until(lambda: stands_at(store, "_patient"))
            outbox.stage(ALICE, 1, kind=NOTE)
            files.refuse("pwrite", FIRST, errno.ENOSPC)
            go.set()
            flushing.result(WAIT)
        assert len(outbox) == 2
        outbox.stage(ALICE, 2, kind=NOTE, causation=Prior(1))
        written = files.count("pwrite", FIRST)
        files.refused.clear()
        first, second, third = outbox.flush()
        assert files.count("pwrite", FIRST) == written + 2
        assert [one.clock for one in (first, second, third)] == [0, 1, 2]
        assert store.get(third.event_id).caused_by(second.event_id)


@pytest.mark.parametrize("keyed", [True, False])
def test_an_interrupted_flush_is_tried_again_by_itself(tmp_path: Path, keyed: bool) -> None:
    files = FaultyFiles()
    with Store.open(tmp_path / "journal", files=files) as store:

        def stage(value: int, **options: Any) -> int:
            key = operation_key("outbox", str(value)) if keyed else None
            return outbox.stage(ALICE, value, kind=NOTE, key=key, **options)

        outbox = store.outbox()
        stage(0)
        files.arm(1 if keyed else 0, Fault.INTERRUPT)
        with pytest.raises(KeyboardInterrupt):
            outbox.flush()
        assert files.fired[-1].name == "pwrite"
        assert stage(1) == 1
        with pytest.raises(InvalidInput):
            stage(2, causation=Prior(0))
        assert len(outbox) == 2
        receipts = outbox.flush()
        assert [one.replayed for one in receipts] == [keyed, False]
        assert values(store) == ([0, 1] if keyed else [0, 0, 1])
        assert len(outbox) == 0


def test_a_submitted_outbox_has_what_was_interrupted_before_written_first(tmp_path: Path) -> None:
    files = FaultyFiles()
    with Store.open(tmp_path / "journal", files=files) as store:
        outbox = store.outbox()
        outbox.stage(ALICE, 0, kind=NOTE, key=operation_key("outbox", "0"))
        files.arm(1, Fault.INTERRUPT)
        with pytest.raises(KeyboardInterrupt):
            outbox.flush()
        outbox.stage(ALICE, 1, kind=NOTE)
        assert [one.clock for one in outbox.submit().result(WAIT)] == [1]
        assert len(outbox) == 0
        assert values(store) == [0, 1]


def test_a_flush_that_fails_says_what_was_written_before(tmp_path: Path) -> None:
    files = FaultyFiles()
    with Store.open(tmp_path / "journal", files=files) as store:
        outbox = store.outbox(unless=Unless(Region(entity=BOB.entity)))
        outbox.stage(ALICE, 0, kind=NOTE, key=operation_key("outbox", "0"))
        files.arm(1, Fault.INTERRUPT)
        with pytest.raises(KeyboardInterrupt):
            outbox.flush()
        store.append(BOB, 1, kind=NOTE)
        outbox.stage(ALICE, 1, kind=NOTE, key=operation_key("outbox", "1"))
        with pytest.raises(ConditionFailed) as raised:
            outbox.flush()
        assert raised.value.__notes__ == ["written before that, and no longer staged: event 1"]
        assert len(outbox) == 1
