"""Keys: an operation that is tried again happens once, whatever came between.

Retries come after a restart, a rotation, a crash, the loss of every file that can be
rebuilt, from many threads at once, and after an answer that was not known to be durable.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from batpak import (
    AppendReceipt,
    CausationId,
    Coordinate,
    CorrelationId,
    Durability,
    EventId,
    Indeterminate,
    InvalidInput,
    Item,
    Region,
    Store,
    Watermark,
    define_id,
    operation_key,
    payload,
)
from batpak.errors import IdempotencyConflict, JournalPoisoned, KeyInvalid, WaitTimeout
from batpak.payloads import isolated_registry
from tests.support.faulty_files import Fault, FaultyFiles, Killed
from tests.support.writing import (
    ALICE,
    BOB,
    FEW_WAYS,
    NOTE,
    OTHER,
    WAYS,
    held,
    opened,
    race,
    sync_has_begun,
    unwritten,
)
from tests.watched_files import WAIT

FIRST = "00000000000000000000.seg"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as one:
        yield one


few_ways = pytest.mark.parametrize("way", FEW_WAYS.values(), ids=FEW_WAYS)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def key(number: int | str) -> EventId:
    return EventId.from_bytes(operation_key("test", str(number)).bytes)


def note(store: Store, number: int, **options: Any) -> AppendReceipt:
    return store.append(ALICE, number, kind=NOTE, key=key(number), **options)


FIELDS = (
    "journal_id", "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment",
    "event_hash", "prev_hash", "extensions",
)  # fmt: skip


def same(one: AppendReceipt, other: AppendReceipt) -> bool:
    """Whether they tell the same of an event; how durable it is, each tells for itself."""
    return one == other and all(getattr(one, name) == getattr(other, name) for name in FIELDS)


# --- a key is an id -------------------------------------------------------------------

RAW = bytes(range(1, 17))
InvoiceId = define_id("invoice")


@pytest.mark.parametrize(
    "given",
    [
        EventId.from_bytes(RAW),
        CorrelationId.from_bytes(RAW),
        CausationId.from_bytes(RAW),
        InvoiceId.from_bytes(RAW),
        UUID(bytes=RAW),
        RAW,
        b"\xff" * 16,
        bytes(15) + b"\x01",
        # The version that our own ids have does not make a key one of ours.
        bytes.fromhex("0190a0b0c0d07e0f8a1b2c3d4e5f6071"),
    ],
    ids=repr,
)
def test_a_key_of_any_form_becomes_the_event_s_id(store: Store, given: Any) -> None:
    raw = given if isinstance(given, bytes) else given.bytes
    receipt = store.append(ALICE, 1, kind=NOTE, key=given)
    assert receipt.event_id == EventId.from_bytes(raw)
    assert not receipt.replayed
    stored = store.get(EventId.from_bytes(raw))
    assert (stored.sequence, stored.correlation_id.bytes) == (receipt.sequence, raw)
    again = store.append(ALICE, 1, kind=NOTE, key=raw)
    assert again.replayed
    assert same(again, receipt)


# --- retries --------------------------------------------------------------------------


@pytest.mark.proves("INV-IDEMPOTENCY-FOREVER")
@every_way
@pytest.mark.parametrize("codec", ["salted", "plain"])
def test_a_retry_writes_nothing_and_gives_the_first_receipt(
    tmp_path: Path, way: Callable[..., Any], codec: str
) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS, codec=codec) as store:
        item = Item(ALICE, {"n": 1}, kind=NOTE, key=key(1))
        first = way(store, item)
        store.append(ALICE, 2, kind=NOTE)
        for again in WAYS.values():
            with unwritten(store):
                receipt = again(store, item)
            assert same(receipt, first)
            assert (receipt.replayed, first.replayed) == (True, False)


def test_what_does_not_say_what_is_done_may_differ_in_a_retry(store: Store) -> None:
    cause = store.append(BOB, 0, kind=NOTE).event_id
    first = note(store, 1, lane=1, flags=1, extensions={"acme.trace": b"1"})
    with unwritten(store):
        again = note(
            store, 1, lane=2, depth=3, flags=2, causation=CausationId.from_bytes(cause.bytes),
            extensions={"acme.trace": b"2", "acme.more": b""},
        )  # fmt: skip
    assert same(again, first)
    assert again.extensions == {"acme.trace": b"1"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"coordinate": BOB}, "coordinate"),
        ({"coordinate": Coordinate(ALICE.entity, "room:tower")}, "coordinate"),
        ({"kind": OTHER}, "kind"),
        ({"payload": {"n": 2}}, "payload"),
        ({"payload": None}, "payload"),
        ({"payload": {"n": 2}, "kind": OTHER, "coordinate": BOB}, "coordinate"),
    ],
    ids=repr,
)
@few_ways
def test_a_key_reused_for_something_else_is_refused_unless_asked_otherwise(
    store: Store, way: Callable[..., Any], changed: dict[str, Any], reason: str
) -> None:
    usual: dict[str, Any] = {"coordinate": ALICE, "payload": {"n": 1}, "kind": NOTE}
    store.append(BOB, None, kind=NOTE)
    first = way(store, Item(**usual, key=key(1)))
    other = Item(**(usual | changed), key=key(1))
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, other)
    error = raised.value
    assert (error.code, error.reason) == ("idempotency-conflict", reason)
    assert (error.key, error.sequence) == (key(1).bytes.hex(), first.sequence)
    with unwritten(store):
        receipt = way(store, other, on_replay="return")
    assert receipt.replayed
    assert same(receipt, first)


@pytest.mark.proves("INV-IDEMPOTENCY-FOREVER")
@every_way
def test_the_id_of_an_ordinary_event_is_a_used_key(store: Store, way: Callable[..., Any]) -> None:
    ordinary = store.append(ALICE, 1, kind=NOTE)
    with unwritten(store):
        receipt = way(store, Item(ALICE, 1, kind=NOTE, key=ordinary.event_id))
    assert same(receipt, ordinary)
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, Item(ALICE, 2, kind=NOTE, key=ordinary.event_id))
    assert (raised.value.reason, raised.value.sequence) == ("payload", ordinary.sequence)
    # The journal's own events are no exception.
    opening = store.at(0)
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, Item(ALICE, 1, kind=NOTE, key=opening.event_id))
    assert (raised.value.reason, raised.value.sequence) == ("coordinate", 0)


def test_typed_payloads_and_raw_bytes_are_compared_by_their_bytes(store: Store) -> None:
    with isolated_registry():

        @payload(category=0xF, type_id=1)
        class Moved:
            x: int
            y: int = 0

        first = store.append(ALICE, Moved(x=1), key=key(1))
        assert same(store.append(ALICE, Moved(x=1, y=0), key=key(1)), first)
        with pytest.raises(IdempotencyConflict):
            store.append(ALICE, Moved(x=1, y=1), key=key(1))
        raw = store.append_raw(ALICE, NOTE, b"\xc0\xc1", key=key(2))
        assert same(store.append_raw(ALICE, NOTE, b"\xc0\xc1", key=key(2)), raw)
        with pytest.raises(IdempotencyConflict):
            store.append_raw(ALICE, NOTE, b"\xc0", key=key(2))


# --- batches --------------------------------------------------------------------------


def items_of(*numbers: int) -> list[Item]:
    return [Item(ALICE, number, kind=NOTE, key=key(number)) for number in numbers]


def several_by_fence(store: Store, items: list[Item]) -> Any:
    with store.fence() as fence:
        fence.append_many(items)
    return fence.receipts


def several_by_outbox(store: Store, items: list[Item]) -> Any:
    outbox = store.outbox()
    for one in items:
        outbox.stage(one.coordinate, one.payload, kind=one.kind, key=one.key)
    return outbox.flush()


SEVERAL: dict[str, Callable[[Store, list[Item]], Any]] = {
    "append_many": Store.append_many,
    "fence": several_by_fence,
    "outbox": several_by_outbox,
    "submit_many": lambda store, items: store.submit_many(items).result(WAIT),
}
several_ways = pytest.mark.parametrize("way", SEVERAL.values(), ids=SEVERAL)


@several_ways
def test_a_batch_that_is_known_gives_its_receipts_item_by_item(
    store: Store, way: Callable[..., Any]
) -> None:
    first = way(store, items_of(1, 2, 3))
    single = note(store, 4)
    assert [one.sequence for one in first] == [1, 2, 3]
    # Also in another order, in part, and from several commits.
    for numbers in ([1, 2, 3], [3, 1, 2], [2], [4, 2]):
        with unwritten(store):
            receipts = way(store, items_of(*numbers))
        assert [one.sequence for one in receipts] == numbers
        assert all(one.replayed for one in receipts)
        assert all(
            same(one, (*first, single)[number - 1])
            for one, number in zip(receipts, numbers, strict=True)
        )


@several_ways
@pytest.mark.parametrize(("numbers", "index"), [((1, 9), 1), ((9, 1), 1), ((8, 9, 2), 2)])
def test_a_batch_of_which_some_is_known_is_refused(
    store: Store, way: Callable[..., Any], numbers: tuple[int, ...], index: int
) -> None:
    way(store, items_of(1, 2))
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, items_of(*numbers))
    assert (raised.value.reason, raised.value.index) == ("partial-replay", index)
    assert raised.value.key == key(numbers[index]).bytes.hex()
    # A key that was refused is free.
    assert way(store, items_of(9))[0].replayed is False


@several_ways
def test_a_batch_has_keys_for_all_or_for_none(store: Store, way: Callable[..., Any]) -> None:
    for items, index in (
        ([*items_of(1), Item(ALICE, 2, kind=NOTE)], 1),
        ([Item(ALICE, 2, kind=NOTE), *items_of(1)], 0),
    ):
        with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
            way(store, items)
        assert (raised.value.reason, raised.value.index) == ("mixed-keys", index)


@several_ways
def test_a_key_that_stands_twice_in_a_batch_is_refused(
    store: Store, way: Callable[..., Any]
) -> None:
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, items_of(1, 2, 1))
    assert (raised.value.reason, raised.value.index) == ("duplicate-key", 2)
    assert raised.value.key == key(1).bytes.hex()


@several_ways
def test_a_batch_retried_with_other_content_names_the_item(
    store: Store, way: Callable[..., Any]
) -> None:
    way(store, items_of(1, 2))
    changed = [*items_of(1), Item(ALICE, "other", kind=NOTE, key=key(2))]
    with unwritten(store), pytest.raises(IdempotencyConflict) as raised:
        way(store, changed)
    assert (raised.value.reason, raised.value.index) == ("payload", 1)
    assert (raised.value.sequence, raised.value.key) == (2, key(2).bytes.hex())


# --- what a key survives --------------------------------------------------------------


def lose_disposable_files(path: Path) -> int:
    """Delete whatever can be rebuilt; tail.hint is a witness and stays. How many files."""
    lost = [*path.rglob("*.idx"), *path.glob("index/*"), *path.rglob("*.keys")]
    for file in lost:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return len(lost)


def check_all_known(store: Store, first: dict[int, AppendReceipt]) -> None:
    length = len(store)
    for number, receipt in first.items():
        again = note(store, number)
        assert again.replayed
        assert same(again, receipt)
    if first:
        assert all(one.replayed for one in store.append_many(items_of(*first)))
    assert len(store) == length


@pytest.mark.proves("INV-IDEMPOTENCY-FOREVER")
@pytest.mark.parametrize("loses", [False, True], ids=["whole", "lost-files"])
@pytest.mark.parametrize("ends", ["close", "crash"])
def test_keys_survive_restarts_rotations_crashes_and_lost_files(
    tmp_path: Path, ends: str, loses: bool
) -> None:
    path = tmp_path / "journal"
    options: dict[str, Any] = {"durability": Durability.OS, "segment_max_bytes": 4096}
    first: dict[int, AppendReceipt] = {}
    lost = 0
    for turn in range(4):
        files = FaultyFiles()
        store = Store.open(path, files=files, **options)
        check_all_known(store, first)
        for number in range(turn * 30, turn * 30 + 15):
            first[number] = note(store, number)
            store.append(BOB, None, kind=NOTE)
        batch = range(turn * 30 + 15, turn * 30 + 30)
        first.update(zip(batch, store.append_many(items_of(*batch)), strict=True))
        check_all_known(store, first)
        if ends == "close":
            store.close()
        else:
            files.arm(0, Fault.KILL)
            with pytest.raises(Killed):
                store.append(BOB, "never", kind=NOTE)
            files.bury()
            store._finalizer.detach()  # the dead run no finalizers
        if loses:
            lost += lose_disposable_files(path)
    assert (lost > 0) is loses
    with Store.open(path, **options) as store:
        assert store.open_report.segments > 8
        check_all_known(store, first)
        assert store.count(Region(kind=NOTE)) == 4 * 45
        assert store.verify().ok


def test_a_key_whose_write_was_torn_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=Durability.OS, preallocate=0)
    note(store, 1)
    files.arm(0, Fault.KILL_TORN)
    with pytest.raises(Killed):
        note(store, 2)
    files.bury()
    store._finalizer.detach()  # the dead run no finalizers
    with Store.open(path) as store:
        assert note(store, 1).replayed
        assert not note(store, 2).replayed
        assert [event.value for event in store.entity(ALICE.entity)] == [1, 2]


def test_a_key_whose_write_was_refused_is_free_again(tmp_path: Path) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        files.refuse("pwrite", FIRST, errno.EIO)
        with pytest.raises(Exception, match="write"):
            note(store, 1)
        files.refused.clear()
        assert not note(store, 1).replayed
        assert note(store, 1).replayed


# --- races ----------------------------------------------------------------------------


@pytest.mark.proves("INV-IDEMPOTENCY-FOREVER")
@pytest.mark.parametrize("durability", [Durability.OS, Durability.SYNC])
def test_of_many_who_do_the_same_at_once_one_writes(tmp_path: Path, durability: Durability) -> None:
    with Store.open(tmp_path / "journal", durability=durability) as store:
        for turn in range(8):
            item = Item(ALICE, turn, kind=NOTE, key=key(turn))
            calls = [lambda way=way, item=item: way(store, item) for way in WAYS.values()]
            receipts = race(*calls)
            assert all(same(one, receipts[0]) for one in receipts)
            assert [one.replayed for one in receipts].count(False) == 1
        assert store.count(Region(entity=ALICE.entity)) == 8
        assert store.verify().ok


# --- durability -----------------------------------------------------------------------


@pytest.mark.proves("INV-IDEMPOTENCY-WAITS")
@every_way
def test_a_hit_is_as_durable_as_an_append(tmp_path: Path, way: Callable[..., Any]) -> None:
    item = Item(ALICE, 1, kind=NOTE, key=key(1))
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(2) as pool:
        with held(files):
            first = pool.submit(by_first := WAYS["append"], store, item)
            sync_has_begun(files)
            hit = pool.submit(way, store, item)
            # It can't be over: nothing that it could answer is durable. That it is under
            # way shows when another append, which times out, has been behind it.
            with pytest.raises(Indeterminate):
                by_first(store, Item(BOB, 1, kind=NOTE), timeout=0)
            assert not first.done()
            assert not hit.done()
            assert store.frontier().durable.sequence == 1
        receipts = first.result(WAIT), hit.result(WAIT)
        assert same(*receipts)
        assert [one.durable for one in receipts] == [True, True]
        assert store.frontier().durable.sequence > first.result().sequence


@pytest.mark.parametrize("ask", [{"durable": True}, {"wait": Watermark.DURABLE}], ids=repr)
def test_a_hit_may_ask_for_more_than_its_first_attempt(tmp_path: Path, ask: Any) -> None:
    with opened(tmp_path / "journal", durability=Durability.OS) as (store, files):
        first = note(store, 1)
        assert not note(store, 1).durable
        assert files.count("sync_data") == 0
        again = note(store, 1, **ask)
        assert again.durable
        assert same(again, first)
        assert files.count("sync_data") == 1
        assert note(store, 1).durable


@pytest.mark.proves("INV-INDETERMINATE-NAMES-EVENTS")
def test_an_answer_that_came_too_late_carries_the_receipts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with opened(path) as (store, files), ThreadPoolExecutor(1) as pool:
        with held(files):
            pool.submit(store.append, BOB, 1, kind=NOTE)
            sync_has_begun(files)
            late: list[AppendReceipt] = []
            for attempt in range(3):
                with pytest.raises(Indeterminate) as raised:
                    # A retry that is late as well tells of the event that is stored.
                    note(store, 1, timeout=0, lane=attempt, extensions={"acme.n": bytes(attempt)})
                error = raised.value
                assert (error.code, error.retryable) == ("indeterminate", True)
                assert isinstance(error.cause, WaitTimeout)
                # Opening the journal anew would meet this very store's lock.
                assert error.advice is not None
                assert "wait_for(" in error.advice
                assert "anew" not in error.advice
                assert error.receipts == (error.receipt,)
                late.append(error.receipt)
            assert all(same(one, late[0]) for one in late)
            assert not any(one.durable for one in late)
            with pytest.raises(Indeterminate) as raised:
                store.append_many(items_of(2, 3), timeout=0)
            batch = raised.value.receipts
            assert [one.event_id for one in batch] == [key(2), key(3)]
            with pytest.raises(Indeterminate) as raised:
                store.append(BOB, "other", kind=OTHER, key=key(1), on_replay="return", timeout=0)
            assert same(raised.value.receipt, late[0])
        store.wait_for(Watermark.DURABLE, late[0])
        again = note(store, 1)
        assert again.durable
        assert same(again, late[0])
        stored = store.get(key(1))
        assert (stored.lane, stored.commitment) == (0, late[0].commitment)
    with Store.open(path) as store:
        assert same(note(store, 1), late[0])
        assert all(map(same, store.append_many(items_of(2, 3)), batch))
        assert store.count(Region(kind=NOTE)) == 4


@pytest.mark.proves("INV-INDETERMINATE-NAMES-EVENTS")
@every_way
def test_after_a_failed_sync_a_retry_by_key_is_safe(
    tmp_path: Path, way: Callable[..., Any]
) -> None:
    path = tmp_path / "journal"
    item = Item(ALICE, 1, kind=NOTE, key=key(1))
    with opened(path) as (store, files):
        files.refuse("sync_data", FIRST, errno.EIO)
        with pytest.raises(Indeterminate) as raised:
            way(store, item)
        assert isinstance(raised.value.cause, JournalPoisoned)
        told = raised.value.receipt
        assert (told.event_id, told.durable, told.sequence) == (key(1), False, 1)
        # This handle is done for, also for those who retry.
        with pytest.raises((JournalPoisoned, Indeterminate)):
            way(store, item)
        assert store.frontier().written.sequence == 2
    with Store.open(path) as store:
        # The process lived on, so the system still had the bytes: the event is there.
        with unwritten(store):
            again = way(store, item)
        assert again.replayed
        assert same(again, told)


def test_waiting_for_ever_may_be_written_as_a_number(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as (store, files), ThreadPoolExecutor(4) as pool:
        with held(files):
            pool.submit(store.append, BOB, 1, kind=NOTE)
            sync_has_begun(files)
            waits = [pool.submit(note, store, n, timeout=t) for n, t in ((1, 1e300), (2, 1e10))]
            while store.pressure().waiting < 2:
                # Neither may end before the sync does.
                assert not any(one.done() for one in waits), [one.exception() for one in waits]
        assert all(one.result(WAIT).durable for one in waits)


# --- bad input ------------------------------------------------------------------------


@few_ways
@pytest.mark.parametrize(
    "bad",
    [b"", RAW[:15], RAW + b"\0", bytes(16), bytearray(RAW), RAW.hex(), 7, True, object(), [RAW]],
    ids=lambda bad: type(bad).__name__ + str(len(bad) if hasattr(bad, "__len__") else ""),
)
def test_what_is_no_key_is_refused(store: Store, way: Callable[..., Any], bad: Any) -> None:
    with unwritten(store), pytest.raises(KeyInvalid) as raised:
        way(store, Item(ALICE, 1, kind=NOTE, key=bad))
    assert (raised.value.code, raised.value.field) == ("key", "key")
    assert raised.value.value is bad


@pytest.mark.parametrize("on_replay", ["Return", None, True], ids=repr)
@every_way
def test_what_is_no_answer_to_a_replay_is_refused(
    store: Store, way: Callable[..., Any], on_replay: Any
) -> None:
    with unwritten(store), pytest.raises(InvalidInput) as raised:
        way(store, Item(ALICE, 1, kind=NOTE, key=key(1)), on_replay=on_replay)
    assert (raised.value.field, raised.value.value) == ("on_replay", on_replay)
    assert raised.value.advice


@pytest.mark.parametrize(
    "timeout", [-1, -0.1, float("nan"), True, "1", 10**400], ids=lambda t: repr(t)[:9]
)
def test_what_is_no_time_is_refused(store: Store, timeout: Any) -> None:
    receipt = store.append(BOB, 1, kind=NOTE)
    with unwritten(store), pytest.raises(InvalidInput) as raised:
        note(store, 1, timeout=timeout)
    assert raised.value.field == "timeout"
    assert raised.value.advice
    for call in (
        lambda: note(store, 1, timeout=timeout, durable=True),
        lambda: store.wait_for(Watermark.DURABLE, receipt, timeout=timeout),
        lambda: store.close(timeout),
    ):
        with unwritten(store), pytest.raises(InvalidInput) as raised:
            call()
        assert raised.value.field == "timeout"
