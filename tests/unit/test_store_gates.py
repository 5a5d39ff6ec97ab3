"""Gates asked by a store: what is denied is not written, what is bypassed says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    Bypass,
    Coordinate,
    Denial,
    DenialReceipt,
    Denied,
    Durability,
    EventKind,
    GateContext,
    GateDenied,
    GateSet,
    Item,
    Store,
    gate,
)
from batpak.errors import GatePassError, InvalidInput, PayloadTooLarge, ReservedName
from batpak.gates import DenialPayload, Gate, Passed, Verdict
from batpak.kinds import SYSTEM_DENIAL
from tests.watched_files import WAIT

ALICE = Coordinate("player:alice", "room:hall")
NOTE = EventKind(0xF, 0x51)
ITEM = Item(ALICE, 1, kind=NOTE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as opened:
        yield opened


@gate("small", "numbers stay below ten")
def small(context: GateContext) -> Denial | None:
    return small.denial("too much", code="MUCH") if context.value >= 10 else None


@gate("seen", "what is there is counted")
def seen(context: GateContext) -> Denial | None:
    full = len(context.view) >= 3
    return seen.denial("full") if full else None


@pytest.mark.parametrize("gates", [GateSet([small]), [small]], ids=["set", "list"])
def test_a_denied_event_is_not_written(store: Store, gates: GateSet[GateContext]) -> None:
    written = store.frontier().written
    with pytest.raises(GateDenied) as caught:
        store.append(ALICE, 10, kind=NOTE, gates=gates)
    assert caught.value.gate == "small"
    assert caught.value.reason == "MUCH"
    assert store.frontier().written == written
    assert store.append(ALICE, 9, kind=NOTE, gates=gates).sequence == written.sequence


def test_gates_read_the_journal_that_they_guard(store: Store) -> None:
    gates = GateSet([seen])
    for number in range(2):
        store.append(ALICE, number, kind=NOTE, gates=gates)
    with pytest.raises(GateDenied):
        store.append(ALICE, 2, kind=NOTE, gates=gates)


def test_one_denied_item_keeps_the_whole_batch_out(store: Store) -> None:
    before = len(store)
    asked = GateSet([small])
    with pytest.raises(GateDenied):
        store.append_many([Item(ALICE, n, kind=NOTE) for n in (1, 10, 2)], gates=asked)
    assert len(store) == before
    store.append_many([Item(ALICE, n, kind=NOTE) for n in (1, 2)], gates=asked)
    assert len(store) == before + 2


@pytest.mark.parametrize("many", ["append_many", "submit_many"])
@pytest.mark.parametrize("form", [iter, reversed, lambda gates: (one for one in gates)])
def test_gates_that_can_be_had_once_are_asked_about_every_item(
    store: Store, many: str, form: Callable[[list[Gate[GateContext]]], Iterator[Gate[GateContext]]]
) -> None:
    before = len(store)
    for values in ([1, 10], [1, 2, 3, 10]):
        with pytest.raises(GateDenied):
            getattr(store, many)([Item(ALICE, n, kind=NOTE) for n in values], gates=form([small]))
    assert len(store) == before
    store.append_many([Item(ALICE, n, kind=NOTE) for n in (1, 2)], gates=form([small]))
    assert len(store) == before + 2


def test_an_iterator_that_is_used_up_does_not_let_everything_through(store: Store) -> None:
    gates = iter([small])
    store.append(ALICE, 1, kind=NOTE, gates=gates)
    for append in (
        lambda: store.append(ALICE, 10, kind=NOTE, gates=gates),
        lambda: store.append_many([Item(ALICE, 10, kind=NOTE)], gates=gates),
        lambda: store.submit(ALICE, 10, kind=NOTE, gates=gates),
    ):
        with pytest.raises(InvalidInput) as caught:
            append()
        assert caught.value.field == "gates"
        assert "list" in caught.value.advice
    assert [event.value for event in store.entity("player:alice")] == [1]
    # Who writes down that there are no gates means it.
    store.append(ALICE, 10, kind=NOTE, gates=[])


@pytest.mark.parametrize(
    ("gates", "advice"),
    [
        (small, "gates=[gate]"),
        (Denied.of(Denial("g", "no")), "denied.error()"),
        (False, "leave gates= out"),
        (7, "leave gates= out"),
    ],
)
def test_what_is_neither_gates_nor_a_pass_is_refused(store: Store, gates: Any, advice: str) -> None:
    written = store.frontier().written
    item = Item(ALICE, 1, kind=NOTE)
    for append in (
        lambda: store.append(ALICE, 1, kind=NOTE, gates=gates),
        lambda: store.append_many([item], gates=gates),
        lambda: store.submit(ALICE, 1, kind=NOTE, gates=gates),
        lambda: store.submit_many([item], gates=gates),
        lambda: GateSet(gates),
    ):
        with pytest.raises(InvalidInput) as caught:
            append()
        assert caught.value.field == "gates"
        assert advice in caught.value.advice
    assert store.frontier().written == written


@pytest.mark.parametrize("way", ["submit", "try_submit", "submit_many"])
def test_gates_are_asked_before_something_is_queued(store: Store, way: str) -> None:
    def submit(value: int) -> None:
        if way == "submit_many":
            store.submit_many([Item(ALICE, value, kind=NOTE)], gates=[small]).result()
        else:
            getattr(store, way)(ALICE, value, kind=NOTE, gates=[small]).result()

    with pytest.raises(GateDenied):
        submit(10)
    submit(9)
    assert [event.value for event in store.entity("player:alice")] == [9]


def test_a_gate_that_raises_denies_and_is_the_cause(store: Store) -> None:
    @gate("broken", "always breaks")
    def broken(context: GateContext) -> Denial | None:
        raise RuntimeError("secret")

    before = len(store)
    with pytest.raises(GateDenied) as caught:
        store.append(ALICE, 1, kind=NOTE, gates=[broken])
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "secret" not in str(caught.value)
    assert len(store) == before


def test_a_gate_may_append_before_the_lock_is_taken(store: Store) -> None:
    """It should not, but it must not hang."""

    @gate("busy", "writes a note of its own")
    def busy(context: GateContext) -> Denial | None:
        store.append(Coordinate("gate:busy", "notes"), context.value, kind=NOTE)
        return None

    receipt = store.append(ALICE, 1, kind=NOTE, gates=[busy])
    assert [event.coordinate.entity for event in store][-2:] == ["gate:busy", "player:alice"]
    assert receipt.sequence == len(store) - 1


def test_a_pass_is_good_for_the_event_that_it_was_given_for(store: Store) -> None:
    def passed(value: int) -> Passed[GateContext, None]:
        answer = GateSet([small]).check(GateContext.of(ALICE, value, kind=NOTE, reader=store))
        assert isinstance(answer, Passed)
        return answer

    with pytest.raises(GatePassError) as caught:
        store.append(ALICE, 2, kind=NOTE, gates=passed(1))
    assert caught.value.reason == "other-proposal"
    once = passed(3)
    store.append(ALICE, 3, kind=NOTE, gates=once)
    with pytest.raises(GatePassError) as caught:
        store.append(ALICE, 3, kind=NOTE, gates=once)
    assert caught.value.reason == "spent"
    with pytest.raises(InvalidInput):
        store.append_many([Item(ALICE, 1, kind=NOTE)] * 2, gates=passed(1))
    assert [event.value for event in store.entity("player:alice")] == [3]


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("wait", lambda s, g: s.append(ALICE, 1, kind=NOTE, gates=g, wait="durable")),
        ("timeout", lambda s, g: s.append(ALICE, 1, kind=NOTE, gates=g, timeout=-1)),
        ("on_replay", lambda s, g: s.append(ALICE, 1, kind=NOTE, gates=g, on_replay="x")),
        ("unless", lambda s, g: s.append(ALICE, 1, kind=NOTE, gates=g, unless=5)),
        ("expect", lambda s, g: s.append(ALICE, 1, kind=NOTE, gates=g, expect="x")),
        ("on_replay", lambda s, g: s.submit(ALICE, 1, kind=NOTE, gates=g, on_replay="x")),
        ("unless", lambda s, g: s.try_submit(ALICE, 1, kind=NOTE, gates=g, unless=5)),
        ("wait", lambda s, g: s.append_many([ITEM], gates=g, wait="durable")),
        ("timeout", lambda s, g: s.append_many([ITEM], gates=g, timeout=-1)),
        ("on_replay", lambda s, g: s.append_many([ITEM], gates=g, on_replay="x")),
        ("unless", lambda s, g: s.append_many([ITEM], gates=g, unless=5)),
        ("expect", lambda s, g: s.append_many([ITEM], gates=g, expect=5)),
        ("expect", lambda s, g: s.submit_many([ITEM], gates=g, expect=5)),
        ("unless", lambda s, g: s.submit_many([ITEM], gates=g, unless=5)),
        ("on_replay", lambda s, g: s.submit_many([ITEM], gates=g, on_replay="x")),
    ],
)
def test_gates_are_asked_about_no_call_that_could_never_be_right(
    store: Store, field: str, call: Callable[[Store, Any], object]
) -> None:
    asked: list[object] = []

    @gate("asked", "notes that it was asked")
    def note_it(context: GateContext) -> Denial | None:
        asked.append(context)
        return None

    answer = GateSet([small]).check(GateContext.of(ALICE, 1, kind=NOTE))
    assert isinstance(answer, Passed)
    written = store.frontier().written
    for gates in (answer, [note_it]):
        with pytest.raises(InvalidInput) as caught:
            call(store, gates)
        assert caught.value.field == field
    assert not answer.is_spent
    assert not asked
    assert store.frontier().written == written
    store.append(ALICE, 1, kind=NOTE, gates=answer)
    assert answer.is_spent


class Counting(Mapping[str, bytes]):
    """Extensions that are others each time they are looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def __getitem__(self, name: str) -> bytes:
        self.looks += 1
        return b"%d" % self.looks

    def __iter__(self) -> Iterator[str]:
        return iter(("acme.looks",))

    def __len__(self) -> int:
        return 1


def test_gates_judge_the_extensions_that_are_written(store: Store) -> None:
    judged: list[dict[str, bytes]] = []
    shared = {"acme.role": b"user"}

    @gate("judged", "notes what it judges, and changes what it can")
    def judge(context: GateContext) -> Denial | None:
        judged.append(dict(context.extensions))
        shared["acme.role"] = b"admin"
        return None

    receipts = [
        store.append(ALICE, 1, kind=NOTE, extensions=Counting(), gates=[judge]),
        store.submit(ALICE, 1, kind=NOTE, extensions=Counting(), gates=[judge]).result(WAIT),
    ]
    shared["acme.role"] = b"user"
    items = [Item(ALICE, n, kind=NOTE, extensions=shared) for n in range(2)]
    receipts += store.append_many(items, gates=[judge])
    assert judged == [dict(receipt.extensions) for receipt in receipts]
    assert judged[2:] == [{"acme.role": b"user"}] * 2


@pytest.mark.parametrize("many", [False, True])
def test_a_bypass_stands_in_the_events_that_it_let_through(store: Store, many: bool) -> None:
    bypass = Bypass("incident-7", "the gate's service is down", approved_by="carol")
    extensions = {"acme.trace": b"1"}
    if many:
        receipts = store.append_many(
            [Item(ALICE, 99, kind=NOTE, extensions=extensions) for _ in range(2)], gates=bypass
        )
    else:
        receipts = (store.append(ALICE, 99, kind=NOTE, extensions=extensions, gates=bypass),)
    for receipt in receipts:
        event = store.get(receipt.event_id)
        assert Bypass.from_extensions(event.extensions) == bypass
        assert event.extensions["acme.trace"] == b"1"
        assert receipt.extensions == event.extensions
    assert store.verify().ok


def test_a_denial_is_an_event_at_the_denied_place(store: Store) -> None:
    with pytest.raises(GateDenied) as caught:
        store.append(ALICE, 10, kind=NOTE, gates=[small, seen])
    denied = caught.value.denied
    receipt = store.deny(ALICE, NOTE, denied, pipeline="game", extensions={"acme.trace": b"2"})
    event = store.get(receipt.event_id)
    assert receipt.kind == event.kind == SYSTEM_DENIAL
    assert event.coordinate == ALICE
    assert event.extensions == {"acme.trace": b"2"}
    found = DenialPayload.decode(event.raw)
    assert found.proposed_kind == NOTE
    assert found.proposed_content_hash is None
    assert [one.verdict for one in found.evaluations] == [Verdict.DENY, Verdict.SKIPPED]
    assert event.envelope is not None
    assert len(event.envelope) == len(event.raw) + 16, "salted as the store's other payloads"
    assert store.verify().ok


@pytest.mark.parametrize("codec", ["plain", "salted"])
def test_a_denial_has_the_limits_of_a_payload(tmp_path: Path, codec: str) -> None:
    empty = len(Denied.of(Denial("g", "")).payload(NOTE).encode())
    # The text's length takes one byte up to 31, and two up to 255.
    limit = empty + 201
    with Store.open(tmp_path / "journal", payload_max_bytes=limit, codec=codec) as store:
        written = store.frontier().written
        with pytest.raises(PayloadTooLarge) as caught:
            store.deny(ALICE, NOTE, Denial("g", "x" * 201))
        assert (caught.value.field, caught.value.limit) == ("denied", limit)
        assert store.frontier().written == written
        receipt = store.deny(ALICE, NOTE, Denial("g", "x" * 200))
        assert len(store.get(receipt.event_id).raw) == limit


def test_only_the_receipt_of_a_denial_becomes_one(store: Store) -> None:
    receipt = store.append(ALICE, 1, kind=NOTE)
    for bad in (receipt, receipt.signed_with(bytes(32), bytes(64)), None, 5):
        with pytest.raises(InvalidInput) as caught:
            DenialReceipt.of(bad)  # type: ignore[arg-type]  # the refusal is the test
        assert caught.value.advice
    denial = store.deny(ALICE, NOTE, Denial("g", "no"))
    assert DenialReceipt.of(denial).signed_message == denial.signed_message


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("content_hash", {"content_hash": b"short"}),
        ("content_hash", {"content_hash": "00" * 32}),
        ("pipeline", {"pipeline": 5}),
        ("pipeline", {"pipeline": "\ud800"}),
    ],
)
def test_a_denial_names_what_was_wrong_with_the_call(
    store: Store, field: str, options: dict[str, Any]
) -> None:
    written = store.frontier().written
    with pytest.raises(InvalidInput) as refused:
        store.deny(ALICE, NOTE, Denial("g", "no"), **options)
    assert refused.value.field == field
    assert field in refused.value.what
    assert store.frontier().written == written


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.deny(ALICE, NOTE, "no"), InvalidInput),
        (lambda s: s.deny("alice", NOTE, Denial("g", "no")), InvalidInput),
        (lambda s: s.deny(ALICE, 7, Denial("g", "no")), InvalidInput),
        (lambda s: s.deny(ALICE, [], Denial("g", "no")), InvalidInput),
        (lambda s: s.deny(ALICE, NOTE, Denied.of(Denial("g", "no")).error()), InvalidInput),
        (lambda s: s.deny(Coordinate("batpak:store", "x"), NOTE, Denial("g", "no")), ReservedName),
        (lambda s: s.append(ALICE, 1, kind=NOTE, gates=[1]), InvalidInput),
        (lambda s: s.append(ALICE, 1, kind=SYSTEM_DENIAL), InvalidInput),
    ],
)
def test_bad_input_writes_nothing(
    store: Store, call: Callable[[Store], object], error: type[Exception]
) -> None:
    written = store.frontier().written
    with pytest.raises(error):
        call(store)
    assert store.frontier().written == written
