"""Appending: what is stored, what a receipt says, and that a refusal leaves no trace.

Every refused call runs inside `untouched`, which compares the journal's own files and
the store's answers before and after it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from batpak import (
    AppendReceipt,
    CausationId,
    Coordinate,
    CorrelationId,
    Denial,
    Durability,
    EventFlag,
    EventId,
    EventKind,
    Item,
    Namespace,
    Prior,
    Region,
    Store,
    canonical,
    kinds,
    payload,
    upcast,
)
from batpak.errors import (
    BatchTooLarge,
    BatpakError,
    CanonicalError,
    ExtensionError,
    FutureVersion,
    InvalidClock,
    InvalidInput,
    KindMismatch,
    PayloadTooLarge,
    ReservedKind,
    ReservedName,
    UnregisteredPayload,
)
from batpak.event import NO_HASH
from batpak.payloads import isolated_registry

ALICE = Coordinate("player:alice", "room:dungeon")
BOB = Coordinate("player:bob", "room:dungeon")
NOTE = EventKind(1, 7)


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    with isolated_registry():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", payload_max_bytes=1000, batch_max_events=8) as opened:
        yield opened


def moved_class() -> Any:
    @payload(category=0xF, type_id=1)
    class Moved:
        x: int
        y: int = 0

    return Moved


def files_of(store: Store) -> dict[str, bytes]:
    """Every file of the journal, without the zeros that stand for space set aside."""
    root = Path(store.path)
    return {
        str(file.relative_to(root)): file.read_bytes().rstrip(b"\0")
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@contextmanager
def untouched(store: Store) -> Iterator[None]:
    """What happens inside leaves no byte and no event, and the next append works."""
    files, frontier = files_of(store), store.frontier()
    yield
    assert files_of(store) == files
    assert store.frontier() == frontier
    receipt = store.append(BOB, None, kind=NOTE)
    assert receipt.sequence == frontier.written.sequence
    assert store.verify().ok


# --- what is stored ------------------------------------------------------------


@pytest.mark.proves("INV-JOURNAL-WRITER-SERIALIZES-COMMITS")
def test_sequences_are_dense_and_the_first_event_of_a_user_has_one(store: Store) -> None:
    assert store.at(0).kind == kinds.SYSTEM_OPEN_COMPLETED
    receipts = [store.append(ALICE, n, kind=NOTE) for n in range(3)]
    assert [receipt.sequence for receipt in receipts] == [1, 2, 3]
    assert [receipt.clock for receipt in receipts] == [0, 1, 2]
    assert store.append(BOB, 0, kind=NOTE).clock == 0


def test_an_entity_has_one_chain_over_all_its_scopes_and_lanes(store: Store) -> None:
    first = store.append(ALICE, 1, kind=NOTE)
    store.append(BOB, 1, kind=NOTE)
    second = store.append(Coordinate(ALICE.entity, "room:tower"), 2, kind=NOTE, lane=9)
    assert first.prev_hash == NO_HASH
    assert (second.clock, second.prev_hash) == (1, first.event_hash)


def test_a_typed_event_comes_back_as_its_class(store: Store) -> None:
    moved = moved_class()
    receipt = store.append(ALICE, moved(x=10, y=20))
    event = store.get(receipt.event_id)
    assert event.payload == moved(x=10, y=20)
    assert event.value == {"x": 10, "y": 20}
    assert event.raw == canonical.encode({"x": 10, "y": 20})
    assert event.payload_version == 1
    assert event.kind == EventKind(0xF, 1)
    assert event.content_hash == blake3(event.raw).digest()
    assert event.decode(moved) == event.route(moved) == moved(x=10, y=20)


def test_an_untyped_event_has_version_zero_and_a_plain_payload(store: Store) -> None:
    event = store.at(store.append(ALICE, {"a": [1, None]}, kind=NOTE).sequence)
    assert event.payload_version == 0
    assert event.payload == event.value == {"a": [1, None]}
    moved = moved_class()
    assert event.route(moved) is None
    with pytest.raises(KindMismatch) as caught:
        event.decode(moved)
    assert (caught.value.kind, caught.value.expected) == (NOTE.raw, 0xF001)
    assert caught.value.sequence == event.sequence


def test_raw_bytes_are_not_parsed(store: Store) -> None:
    data = b"\xc1 never MessagePack"
    event = store.get(store.append_raw(ALICE, NOTE, data).event_id)
    assert event.raw == data
    assert event.payload_version == 0
    with pytest.raises(CanonicalError):
        _ = event.value
    # A payload that can't be decoded spoils no listing.
    assert [e.sequence for e in store.query(Region(kind=NOTE))] == [event.sequence]


@pytest.mark.parametrize("given", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_raw_bytes_may_be_any_buffer(store: Store, given: Any) -> None:
    assert store.at(store.append_raw(ALICE, NOTE, given).sequence).raw == b"ab"


def test_old_versions_are_lifted_and_stored_bytes_stay(tmp_path: Path) -> None:
    moved = moved_class()
    with Store.open(tmp_path / "journal") as store:
        event_id = store.append(ALICE, moved(x=3)).event_id
    with isolated_registry():

        @payload(category=0xF, type_id=1, version=2)
        class Moved:
            x: int
            y: int
            z: int

        @upcast(Moved, from_version=1)
        def add_height(old: Any) -> Any:
            return {**old, "z": -1}

        del add_height
        with Store.open(tmp_path / "journal") as store:
            event = store.get(event_id)
            assert event.payload == Moved(x=3, y=0, z=-1)
            assert event.payload_version == 1
            assert event.value == {"x": 3, "y": 0}
            assert store.append(ALICE, Moved(x=1, y=2, z=3)).kind == event.kind
            newest = store.latest(ALICE.entity)
            assert newest is not None
            assert newest.payload_version == 2
    # Back to the older program: the newer event is named, its plain value still read.
    with Store.open(tmp_path / "journal", mode="r") as reader:
        newer = next(e for e in reader.entity(ALICE.entity) if e.payload_version == 2)
        with pytest.raises(FutureVersion) as caught:
            _ = newer.payload
        assert (caught.value.stored, caught.value.current) == (2, 1)
        assert newer.value == {"x": 1, "y": 2, "z": 3}


def test_labels_and_links_are_kept(store: Store) -> None:
    cause = store.append(ALICE, 1, kind=NOTE)
    assert store.at(1).is_root
    assert store.at(1).correlation_id.bytes == cause.event_id.bytes
    receipt = store.append(
        BOB,
        2,
        kind=NOTE,
        lane=2**32 - 1,
        depth=7,
        flags=EventFlag.REQUIRES_ACK | EventFlag.REPLAY,
        correlation=CorrelationId.from_bytes(cause.event_id.bytes),
        causation=cause.event_id,
        extensions={"zoo.b": b"2", "acme.a": b"1"},
    )
    event = store.get(receipt.event_id)
    assert (event.lane, event.depth, event.flags) == (2**32 - 1, 7, 9)
    assert event.correlation_id.bytes == cause.event_id.bytes
    assert event.caused_by(cause.event_id)
    assert not event.is_root
    assert event.extensions == receipt.extensions == {"acme.a": b"1", "zoo.b": b"2"}
    assert list(event.extensions) == ["acme.a", "zoo.b"]


def test_a_receipt_says_what_is_stored(store: Store) -> None:
    receipt = store.append(ALICE, {"n": 1}, kind=NOTE, extensions={"acme.a": b"x"})
    event = store.get(receipt.event_id)
    assert receipt.durable
    assert not receipt.replayed
    assert receipt.journal_id == store.journal_id
    for field in (
        "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment",
        "event_hash", "prev_hash", "extensions",
    ):  # fmt: skip
        assert getattr(receipt, field) == getattr(event, field), field
    assert AppendReceipt.from_json(receipt.to_json()) == receipt


def test_equal_payloads_have_different_commitments(store: Store) -> None:
    one, two = (store.append(ALICE, "approved", kind=NOTE) for _ in range(2))
    assert one.commitment != two.commitment
    assert store.at(one.sequence).content_hash == store.at(two.sequence).content_hash


def test_without_salt_the_commitment_can_be_recomputed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", codec="plain") as store:
        one, two = (store.append(ALICE, "approved", kind=NOTE) for _ in range(2))
        assert one.commitment == two.commitment
        expected = blake3(b"batpak/content/v1\0\0" + canonical.encode("approved")).digest()
        assert one.commitment == expected


# --- time ------------------------------------------------------------------------


@pytest.mark.proves("INV-FRONTIER-OPEN-MONOTONIC")
def test_time_never_runs_backwards_for_any_entity(tmp_path: Path) -> None:
    # An open looks at the clock once before it writes.
    readings = iter([2_000_000, 2_000_000, 5_000_000, 3_000_000, 1, 5_000_001, 6_000_000])
    now = [1_000_000]

    def clock() -> int:
        now[0] = next(readings, now[0])
        return now[0]

    with Store.open(tmp_path / "journal", clock=clock) as store:
        for turn in range(5):
            store.append((ALICE, BOB)[turn % 2], turn, kind=NOTE)
        events = list(store)
        assert [event.timestamp_us for event in events] == [
            2_000_000, 5_000_000, 5_000_000, 5_000_000, 5_000_001, 6_000_000,
        ]  # fmt: skip
        hlcs = [event.hlc for event in events]
        assert hlcs == sorted(set(hlcs))
        last = hlcs[-1]
    # A clock set back over a restart: the HLC goes on from the highest.
    with Store.open(tmp_path / "journal", clock=lambda: 1_000) as store:
        assert store.append(ALICE, 9, kind=NOTE).hlc > last


@pytest.mark.parametrize("reading", [-1, 2**63, "soon", 1.5, True, None])
def test_a_clock_that_can_not_be_stored_is_refused(tmp_path: Path, reading: Any) -> None:
    now: list[Any] = [1_000_000]
    with Store.open(tmp_path / "journal", clock=lambda: now[0]) as store, untouched(store):
        now[0] = reading
        with pytest.raises(InvalidClock) as caught:
            store.append(ALICE, 1, kind=NOTE)
        assert caught.value.value == reading
        now[0] = 2_000_000


# --- batches -------------------------------------------------------------------


def test_a_batch_is_one_commit_with_one_time(store: Store) -> None:
    receipts = store.append_many(
        [
            Item(ALICE, 1, kind=NOTE),
            Item(BOB, 2, kind=EventKind(2, 2), lane=3, extensions={"acme.a": b"1"}),
            Item.raw(ALICE, NOTE, b"\xff"),
        ]
    )
    events = list(store.query(Region.all(), after=0))
    assert [event.sequence for event in events] == [1, 2, 3]
    assert len({event.timestamp_us for event in events}) == 1
    assert [event.clock for event in events] == [0, 0, 1]
    assert events[2].prev_hash == events[0].event_hash == receipts[0].event_hash
    assert [event.raw for event in events] == [b"\x01", b"\x02", b"\xff"]
    assert (events[1].lane, events[1].kind, events[1].extensions) == (
        3, EventKind(2, 2), {"acme.a": b"1"},
    )  # fmt: skip
    assert all(receipt.durable for receipt in receipts)


def test_a_batch_may_point_to_its_own_earlier_items(store: Store) -> None:
    cause, middle, leaf, own = store.append_many(
        [
            Item(ALICE, 1, kind=NOTE),
            Item(BOB, 2, kind=NOTE, causation=Prior(0), correlation=Prior(0)),
            Item(BOB, 3, kind=NOTE, causation=Prior(1), correlation=Prior(0)),
            Item(BOB, 4, kind=NOTE),
        ]
    )
    events = [store.get(receipt.event_id) for receipt in (cause, middle, leaf, own)]
    assert events[0].is_root
    assert events[1].caused_by(cause.event_id)
    assert events[2].caused_by(middle.event_id)
    assert [event.correlation_id.bytes for event in events] == [
        cause.event_id.bytes, cause.event_id.bytes, cause.event_id.bytes, own.event_id.bytes,
    ]  # fmt: skip


def test_links_of_the_batch_hold_for_items_without_their_own(store: Store) -> None:
    source = store.append(ALICE, 0, kind=NOTE)
    other = store.append(ALICE, 0, kind=NOTE)
    one, two = store.append_many(
        [Item(ALICE, 1, kind=NOTE), Item(ALICE, 2, kind=NOTE, causation=other.event_id)],
        correlation=source.event_id,
        causation=source.event_id,
    )
    assert store.get(one.event_id).caused_by(source.event_id)
    assert store.get(two.event_id).caused_by(other.event_id)
    for receipt in (one, two):
        assert store.get(receipt.event_id).correlation_id.bytes == source.event_id.bytes


@pytest.mark.proves("INV-BATCH-ATOMIC-VISIBILITY")
def test_readers_see_all_of_a_batch_or_none(tmp_path: Path) -> None:
    with Store.open(
        tmp_path / "journal", durability=Durability.OS, segment_max_bytes=4096
    ) as store:
        seen: set[int] = set()
        done = threading.Event()

        def read() -> None:
            while True:
                last = done.is_set()
                seen.add(len(store) % 4)
                seen.add((1 + store.count(Region(kind=NOTE))) % 4)
                seen.add((1 + len(list(store.entity(ALICE.entity)))) % 4)
                if last:
                    return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for turn in range(200):
                # With the open event, every whole batch ends at one more than a multiple of 4.
                store.append_many([Item(ALICE, turn, kind=NOTE)] * 4)
        finally:
            done.set()
            reader.join()
        assert seen == {1}


@pytest.mark.parametrize("count", [1, 8])
def test_a_batch_up_to_the_limit_is_taken(store: Store, count: int) -> None:
    assert len(store.append_many(Item(ALICE, n, kind=NOTE) for n in range(count))) == count


# --- refusals --------------------------------------------------------------------


def other_class() -> Any:
    @payload(category=0xE, type_id=2)
    class Other:
        x: int

    return Other


def wrong_field() -> Any:
    return moved_class()(x="text")


class Unregistered:
    pass


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


REFUSED: list[tuple[str, Callable[[Store], Any], type[BatpakError], dict[str, Any]]] = [
    ("text coordinate", lambda s: s.append("a@b", 1, kind=NOTE), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "coordinate"}),
    ("entity of the journal", lambda s: s.append(Coordinate("batpak:store", "x"), 1, kind=NOTE),
     ReservedName, {"field": "coordinate", "value": "batpak:store"}),
    ("entity below it", lambda s: s.append(Coordinate("batpak:a:b", "x"), 1, kind=NOTE),
     ReservedName, {}),
    ("raw to the journal's entity",
     lambda s: s.append_raw(Coordinate("batpak:store", "x"), NOTE, b""), ReservedName, {}),
    ("system kind", lambda s: s.append(ALICE, 1, kind=kinds.SYSTEM_DENIAL), ReservedKind,
     {"field": "kind", "value": 0x000F}),
    ("tombstone", lambda s: s.append(ALICE, 1, kind=kinds.TOMBSTONE), ReservedKind, {}),
    ("effect kind", lambda s: s.append_raw(ALICE, kinds.EFFECT_ACK, b""), ReservedKind,
     {"value": 0xD004}),
    ("kind as number", lambda s: s.append(ALICE, 1, kind=0x1001), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "kind"}),
    ("kind as list", lambda s: s.append(ALICE, 1, kind=[]), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "kind"}),
    ("kind as list in a batch", lambda s: s.append_many([Item(ALICE, 1, kind=[])]), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "kind", "index": 0}),
    ("raw without kind", lambda s: s.append_raw(ALICE, None, b""), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "kind"}),
    ("plain value without kind", lambda s: s.append(ALICE, {"x": 1}), UnregisteredPayload,
     {"field": "payload"}),
    ("unregistered class", lambda s: s.append(ALICE, Unregistered()), UnregisteredPayload, {}),
    ("the class itself", lambda s: s.append(ALICE, moved_class()), UnregisteredPayload, {}),
    ("class under another kind", lambda s: s.append(ALICE, moved_class()(x=1), kind=NOTE),
     InvalidInput, {"field": "kind"}),
    ("another class's kind", lambda s: s.append(ALICE, moved_class()(x=1), kind=other_class()),
     InvalidInput, {"field": "kind"}),
    ("value under a class's kind", lambda s: s.append(ALICE, {"x": 1}, kind=moved_class()),
     InvalidInput, {"field": "payload"}),
    ("wrong field", lambda s: s.append(ALICE, wrong_field()), CanonicalError, {"path": "$.x"}),
    ("unregistered under a kind", lambda s: s.append(ALICE, Unregistered(), kind=NOTE),
     CanonicalError, {}),
    ("raw text", lambda s: s.append_raw(ALICE, NOTE, "text"), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "payload", "value": "str"}),
    ("payload over the limit", lambda s: s.append_raw(ALICE, NOTE, bytes(1001)), PayloadTooLarge,
     {"field": "payload", "limit": 1000}),
    ("nan key", lambda s: s.append(ALICE, {math.nan: 1}, kind=NOTE), CanonicalError, {}),
    ("set", lambda s: s.append(ALICE, {"a": {1}}, kind=NOTE), CanonicalError, {"path": "$['a']"}),
    ("surrogate", lambda s: s.append(ALICE, ["\ud800"], kind=NOTE), CanonicalError,
     {"path": "$[0]"}),
    ("65 bits", lambda s: s.append(ALICE, 2**64, kind=NOTE), CanonicalError, {}),
    ("65 negative bits", lambda s: s.append(ALICE, -(2**63) - 1, kind=NOTE), CanonicalError, {}),
    ("bytes as key", lambda s: s.append(ALICE, {b"k": 1}, kind=NOTE), CanonicalError, {}),
    ("complex", lambda s: s.append(ALICE, 1j, kind=NOTE), CanonicalError, {}),
    ("deep nest", lambda s: s.append(ALICE, nested(100_000), kind=NOTE), CanonicalError, {}),
    ("lane below 0", lambda s: s.append(ALICE, 1, kind=NOTE, lane=-1), InvalidInput,
     {"field": "lane", "value": -1}),
    ("lane over 32 bits", lambda s: s.append(ALICE, 1, kind=NOTE, lane=2**32), InvalidInput,
     {"field": "lane", "value": 2**32}),
    ("depth over 32 bits", lambda s: s.append(ALICE, 1, kind=NOTE, depth=2**32), InvalidInput,
     {"field": "depth", "value": 2**32}),
    ("lane as text", lambda s: s.append(ALICE, 1, kind=NOTE, lane="1"), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "lane", "value": "1"}),
    ("depth as fraction", lambda s: s.append(ALICE, 1, kind=NOTE, depth=1.0), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "depth", "value": 1.0}),
    ("flags as text", lambda s: s.append(ALICE, 1, kind=NOTE, flags="1"), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "flags"}),
    ("the journal's flag", lambda s: s.append(ALICE, 1, kind=NOTE, flags=EventFlag.KEYED),
     InvalidInput, {"field": "flags", "value": 0x100}),
    ("negative flags", lambda s: s.append(ALICE, 1, kind=NOTE, flags=-1), InvalidInput,
     {"field": "flags"}),
    ("correlation as text", lambda s: s.append(ALICE, 1, kind=NOTE, correlation="x"),  # type: ignore[arg-type]  # the refusal is the test
     InvalidInput, {"field": "correlation"}),
    ("causation as bytes", lambda s: s.append(ALICE, 1, kind=NOTE, causation=bytes(16)),  # type: ignore[arg-type]  # the refusal is the test
     InvalidInput, {"field": "causation"}),
    ("prior of a single append", lambda s: s.append(ALICE, 1, kind=NOTE, causation=Prior(0)),  # type: ignore[arg-type]  # the refusal is the test
     InvalidInput, {"field": "causation"}),
    ("prior of a raw append",
     lambda s: s.append_raw(ALICE, NOTE, b"", correlation=Prior(0)), InvalidInput, {}),
    ("prior of itself",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE, causation=Prior(0))]), InvalidInput,
     {"index": 0}),
    ("prior of a later item",
     lambda s: s.append_many(
         [Item(ALICE, 1, kind=NOTE), Item(ALICE, 1, kind=NOTE, correlation=Prior(2)),
          Item(ALICE, 1, kind=NOTE)]),
     InvalidInput, {"index": 1, "value": 2}),
    ("negative prior",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE)] * 2
                             + [Item(ALICE, 1, kind=NOTE, causation=Prior(-1))]),
     InvalidInput, {"index": 2}),
    *[(f"prior {bad!r}",
       lambda s, bad=bad: s.append_many([Item(ALICE, 1, kind=NOTE)] * 2
                                        + [Item(ALICE, 1, kind=NOTE, causation=Prior(bad))]),
       InvalidInput, {"field": "causation", "index": 2})
      for bad in (True, False, 1.0, "1", None, np.int64(1))],
    ("prior for the whole batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE)] * 2, causation=Prior(0)),  # type: ignore[arg-type]  # the refusal is the test
     InvalidInput, {"index": 0}),
    ("empty batch", lambda s: s.append_many([]), InvalidInput, {"field": "items"}),
    ("batch over the limit", lambda s: s.append_many([Item(ALICE, 1, kind=NOTE)] * 9),
     BatchTooLarge, {"limit": 8}),
    ("a batch that never ends", lambda s: s.append_many(repeat(Item(ALICE, 1, kind=NOTE))),
     BatchTooLarge, {"limit": 8}),
    ("a batch that never ends, with gates",
     lambda s: s.append_many(repeat(Item(ALICE, 1, kind=NOTE)), gates=[]),
     BatchTooLarge, {"limit": 8}),
    ("an import that never ends",
     lambda s: s.append_imported("src", 1, repeat(Item(ALICE, 1, kind=NOTE))),
     BatchTooLarge, {"limit": 8}),
    ("no items", lambda s: s.append_many(None), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "items", "value": "NoneType"}),
    ("one item that is no batch", lambda s: s.append_many(Item(ALICE, 1, kind=NOTE)), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "items", "value": "Item"}),
    ("no items, with gates", lambda s: s.append_many(None, gates=[]), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "items"}),
    *[(f"{field} of an item is {bad!r}",
       lambda s, field=field, bad=bad: s.append_many(
           [Item(ALICE, 1, kind=NOTE, **{field: bad})], **{field: CorrelationId(9)}),
       InvalidInput, {"field": field, "index": 0})
      for field in ("correlation", "causation") for bad in (0, "", b"")],
    ("no item", lambda s: s.append_many([Item(ALICE, 1, kind=NOTE), 5]), InvalidInput,  # type: ignore[list-item]  # the refusal is the test
     {"field": "items", "index": 1, "value": "int"}),
    ("bad kind in a batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE)] * 3
                             + [Item(ALICE, 1, kind=kinds.SYSTEM_INIT)]),
     ReservedKind, {"index": 3, "value": 1}),
    ("bad entity in a batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE),
                              Item(Coordinate("batpak:x", "y"), 1, kind=NOTE)]),
     ReservedName, {"index": 1}),
    ("bad value in a batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE), Item(ALICE, {1, 2}, kind=NOTE)]),
     CanonicalError, {"index": 1}),
    ("large payload in a batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE), Item.raw(ALICE, NOTE, bytes(1001))]),
     PayloadTooLarge, {"index": 1, "limit": 1000}),
    ("bad extension in a batch",
     lambda s: s.append_many([Item(ALICE, 1, kind=NOTE, extensions={"nodot": b""})]),
     ExtensionError, {"index": 0, "reason": "bad-namespace"}),
    ("import without items", lambda s: s.append_imported("src", 1, []), InvalidInput, {}),
    ("import position without a form",
     lambda s: s.append_imported("src", {1}, [Item(ALICE, 1, kind=NOTE)]), CanonicalError, {}),
    ("import source that is no text",
     lambda s: s.append_imported(5, 1, [Item(ALICE, 1, kind=NOTE)]), InvalidInput,  # type: ignore[arg-type]  # the refusal is the test
     {"field": "source"}),
    ("import source without UTF-8",
     lambda s: s.append_imported("\ud800", 1, [Item(ALICE, 1, kind=NOTE)]), InvalidInput,
     {"field": "source"}),
    ("import source over the limit",
     lambda s: s.append_imported("s" * 70_000, 1, [Item(ALICE, 1, kind=NOTE)]), ExtensionError,
     {"reason": "too-large"}),
]  # fmt: skip


@pytest.mark.proves("INV-REFUSED-WRITES-NOTHING")
@pytest.mark.parametrize(
    ("call", "error", "fields"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_refused_append_names_the_fault_and_leaves_no_trace(
    store: Store,
    call: Callable[[Store], Any],
    error: type[BatpakError],
    fields: dict[str, Any],
) -> None:
    with untouched(store):
        with pytest.raises(error) as caught:
            call(store)
        assert type(caught.value) is error
        assert {name: getattr(caught.value, name) for name in fields} == fields
        assert isinstance(caught.value, InvalidInput)
        assert caught.value.advice
        if "index" in fields:
            assert f"index={fields['index']}" in str(caught.value)


def test_at_the_limits_everything_is_taken(store: Store) -> None:
    longest = Coordinate("e" * 1024, "s" * 1024)
    receipt = store.append_raw(longest, EventKind(1, 0xFFF), bytes(1000), lane=2**32 - 1, flags=255)
    assert store.get(receipt.event_id).raw == bytes(1000)
    for value in (2**64 - 1, -(2**63), math.inf, "", [], {}, Decimal("1.50")):
        store.append(ALICE, value, kind=NOTE)
    # Only the prefix with the colon is the journal's own.
    store.append(Coordinate("batpak", "x"), 1, kind=NOTE)
    store.append(Coordinate("batpaks:x", "batpak:lifecycle"), 1, kind=NOTE)
    assert store.verify().ok


# --- extensions ------------------------------------------------------------------

LONG = "a." + "x" * 254

EXTENSION_KEYS: list[tuple[Any, str | None]] = [
    ("acme.trace", None),
    (LONG, None),
    ("A.b-c_d", None),
    ("batpaks.x", None),
    ("", "empty"),
    (5, "not-text"),
    (b"acme.trace", "not-text"),
    ("ä.x", "non-ascii"),
    # Each rule comes before those behind it.
    ("ä" * 300, "non-ascii"),
    (LONG + "x", "too-long"),
    ("x" * 300, "too-long"),
    ("nodot", "bad-namespace"),
    (".x", "bad-namespace"),
    ("x.", "bad-namespace"),
    (".", "bad-namespace"),
    ("batpak.a.b", "bad-namespace"),
    ("batpak.x", "reserved-namespace"),
    ("origin.source", "reserved-namespace"),
]


@pytest.mark.parametrize(("key", "reason"), EXTENSION_KEYS)
def test_extension_names_follow_the_rules_in_order(
    store: Store, key: Any, reason: str | None
) -> None:
    if reason is None:
        event = store.at(store.append(ALICE, 1, kind=NOTE, extensions={key: b"v"}).sequence)
        assert event.extensions == {key: b"v"}
        return
    with untouched(store):
        with pytest.raises(ExtensionError) as caught:
            store.append(ALICE, 1, kind=NOTE, extensions={key: b"v"})
        assert caught.value.reason == reason
        assert "acme.trace" in caught.value.advice


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ({"acme.a": "text"}, "not-bytes"),
        ({"acme.a": None}, "not-bytes"),
        ({"acme.a": bytes(65_536)}, "too-large"),
        ([("acme.a", b"")], "not-a-mapping"),
        ("acme.a", "not-a-mapping"),
        # What is empty and no mapping is not taken for none.
        (0, "not-a-mapping"),
        ([], "not-a-mapping"),
        ("", "not-a-mapping"),
        (b"", "not-a-mapping"),
        (False, "not-a-mapping"),
    ],
)
def test_extension_values_are_bytes_within_bounds(
    store: Store, extensions: Any, reason: str
) -> None:
    for append in (
        lambda: store.append(ALICE, 1, kind=NOTE, extensions=extensions),
        lambda: store.append_many([Item(ALICE, 1, kind=NOTE, extensions=extensions)]),
        lambda: store.append(ALICE, 1, kind=NOTE, extensions=extensions, gates=[]),
        lambda: store.deny(ALICE, NOTE, Denial("gate", "no"), extensions=extensions),
    ):
        with untouched(store):
            with pytest.raises(ExtensionError) as caught:
                append()
            assert caught.value.reason == reason
            assert caught.value.advice


def test_the_largest_extensions_are_taken(store: Store) -> None:
    # The map costs 1 byte, the name 1 + 6, the value's head 3 for up to 65 535 bytes.
    room = 65_536 - 1 - 7 - 3
    receipt = store.append(ALICE, 1, kind=NOTE, extensions={"acme.a": bytes(room)})
    assert len(store.get(receipt.event_id).extensions["acme.a"]) == room
    with untouched(store), pytest.raises(ExtensionError):
        store.append(ALICE, 1, kind=NOTE, extensions={"acme.a": bytes(room + 1)})


def test_a_namespace_makes_names(store: Store) -> None:
    acme = Namespace("acme")
    store.append(ALICE, 1, kind=NOTE, extensions={acme.key("trace"): b"t"})
    assert store.at(1).extensions == {"acme.trace": b"t"}
    names: list[Any] = ["batpak", "origin", "a.b", "", "ä", 5, None, b"acme"]
    for name in names:
        with pytest.raises(ExtensionError) as caught:
            Namespace(name)
        assert caught.value.advice
    for name in ("", "a.b", "ä", 5, None, b"trace"):
        with pytest.raises(ExtensionError):
            acme.key(name)  # type: ignore[arg-type]  # the refusal is the test


# --- imports ---------------------------------------------------------------------


def test_an_import_remembers_its_position_in_the_commit_itself(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        assert store.import_position("log") is None
        store.append_imported("log", {"line": 2}, [Item(ALICE, n, kind=NOTE) for n in range(2)])
        store.append_imported("other", [9], [Item(ALICE, 9, kind=NOTE)])
        store.append_imported("log", {"line": 3}, [Item(BOB, 3, kind=NOTE)])
        store.append(ALICE, "later", kind=NOTE)
        first, last = store.at(1), store.at(2)
        assert first.extensions == {}
        assert last.extensions["origin.source"] == b"log"
        assert canonical.decode(last.extensions["origin.position"]) == {"line": 2}
    for mode in ("rw", "r"):
        with Store.open(tmp_path / "journal", mode=mode) as again:  # type: ignore[call-overload]  # both modes in turn
            assert again.import_position("log") == {"line": 3}
            assert again.import_position("other") == [9]
            assert again.import_position("lo") is None


def test_an_import_keeps_the_items_own_extensions(store: Store) -> None:
    store.append_imported("log", 1, [Item(ALICE, 1, kind=NOTE, extensions={"acme.a": b"1"})])
    assert sorted(store.at(1).extensions) == ["acme.a", "origin.position", "origin.source"]


def test_an_import_far_back_is_still_found(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        store.append_imported("log", 7, [Item(ALICE, 1, kind=NOTE)])
        store.append_many([Item(ALICE, n, kind=NOTE) for n in range(3000)])
        assert store.import_position("log") == 7


# --- ids -------------------------------------------------------------------------


def test_ids_are_found_by_every_kind_of_id_and_no_other(store: Store) -> None:
    receipts = [store.append(ALICE, n, kind=NOTE) for n in range(5)]
    for receipt in receipts:
        assert store[receipt.event_id].sequence == receipt.sequence
        # One bit away is another id: of the random part, of the time, of the version.
        for bit in (0, 60, 70, 79, 127):
            near = (int.from_bytes(receipt.event_id.bytes) ^ 1 << bit).to_bytes(16)
            with pytest.raises(KeyError):
                store.get(EventId.from_bytes(near))


def test_a_causation_may_name_an_event_of_another_journal(store: Store) -> None:
    foreign = CausationId.from_bytes(bytes(range(16)))
    receipt = store.append(ALICE, 1, kind=NOTE, causation=foreign)
    assert store.get(receipt.event_id).causation_id == foreign


@pytest.mark.parametrize("items", [None, 5])
def test_a_batch_that_is_no_iterable_is_refused_by_name(tmp_path: Path, items: Any) -> None:
    with Store.open(tmp_path) as store:
        for call in (store.append_many, lambda given: store.append_imported("s", 1, given)):
            with pytest.raises(InvalidInput, match="an iterable of Items"):
                call(items)
        assert len(store) == 1
