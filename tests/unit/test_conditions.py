"""Conditions: a commit is written if what it expects is so, and leaves nothing if not.

A condition that was met when a decision was made, and is not any more, has to lose,
however the threads run. What a refusal leaves is compared byte by byte.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from batpak import (
    AppendReceipt,
    Coordinate,
    Durability,
    EventKind,
    Expect,
    Item,
    Region,
    Store,
    Unless,
    operation_key,
)
from batpak.engine.reading import LogReader
from batpak.errors import ConditionFailed, ExpectationFailed, InvalidInput
from batpak.index.parts import Index
from batpak.kinds import Category
from tests.support.writing import ALICE, BOB, FEW_WAYS, NOTE, OTHER, WAYS, race, unwritten
from tests.watched_files import WAIT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as opened:
        yield opened


def stream(store: Store, length: int, coordinate: Coordinate = ALICE) -> None:
    for number in range(length):
        store.append(coordinate, number, kind=NOTE)


few_ways = pytest.mark.parametrize("way", FEW_WAYS.values(), ids=FEW_WAYS)
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# --- expect ---------------------------------------------------------------------------


@pytest.mark.proves("INV-CONDITIONS-HOLD")
@every_way
@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("expect", [Expect.EMPTY, 0, 2, 3, 2**32 - 1])
def test_an_expected_clock_is_that_of_the_last_event_and_nothing_else(
    store: Store, way: Callable[..., Any], length: int, expect: int | Expect
) -> None:
    stream(store, length)
    stream(store, 2, BOB)
    item = Item(ALICE, "next", kind=NOTE)
    # An empty stream is not at clock 0: that would be one with a single event.
    if expect == (length - 1 if length else Expect.EMPTY):
        receipt = way(store, item, expect=expect)
        assert (receipt.clock, len(store)) == (length, length + 4)
        return
    with unwritten(store), pytest.raises(ExpectationFailed) as raised:
        way(store, item, expect=expect)
    error = raised.value
    assert error.code == "expectation-failed"
    assert error.entity == ALICE.entity
    assert error.expected == (None if expect is Expect.EMPTY else expect)
    assert error.actual == (length - 1 if length else None)
    wanted = "without events" if expect is Expect.EMPTY else f"at clock {expect}"
    assert error.what.startswith(f"{ALICE.entity} is not {wanted}: ")
    assert not error.retryable


def test_a_commit_may_expect_of_entities_that_it_does_not_write_to(store: Store) -> None:
    stream(store, 2)
    items = [Item(BOB, 1, kind=NOTE), Item(BOB, 2, kind=NOTE)]
    met = {ALICE.entity: 1, BOB.entity: Expect.EMPTY, "player:nobody": Expect.EMPTY}
    assert [one.clock for one in store.append_many(items, expect=met)] == [0, 1]
    with unwritten(store), pytest.raises(ExpectationFailed) as raised:
        store.append_many(items, expect={BOB.entity: 1, "player:nobody": 0})
    assert (raised.value.entity, raised.value.expected) == ("player:nobody", 0)
    assert raised.value.actual is None


def test_an_expectation_is_of_one_entity_and_not_of_its_children(store: Store) -> None:
    stream(store, 2, Coordinate("player:alice:pet", "room"))
    assert store.append(ALICE, 1, kind=NOTE, expect=Expect.EMPTY).clock == 0


def test_expectations_hold_for_streams_of_earlier_openings_and_segments(tmp_path: Path) -> None:
    options: dict[str, Any] = {"durability": Durability.OS, "segment_max_bytes": 4096}
    with Store.open(tmp_path / "journal", **options) as store:
        stream(store, 40)
        stream(store, 40, BOB)
    with Store.open(tmp_path / "journal", **options) as store:
        assert store.open_report.segments > 3
        with unwritten(store), pytest.raises(ExpectationFailed):
            store.append(ALICE, 1, kind=NOTE, expect=38)
        assert store.append(ALICE, 1, kind=NOTE, expect=39).clock == 40
        with pytest.raises(ExpectationFailed):
            store.append_many([Item(BOB, 1, kind=NOTE)], expect={ALICE.entity: 39})


# --- unless ---------------------------------------------------------------------------


@pytest.mark.proves("INV-CONDITIONS-HOLD")
@every_way
def test_a_commit_is_refused_once_something_it_rules_out_is_there(
    store: Store, way: Callable[..., Any]
) -> None:
    stream(store, 2, BOB)
    ruled_out = Region(entity=ALICE.entity, kind=NOTE)
    first = way(store, Item(ALICE, 1, kind=NOTE), unless=Unless(ruled_out))
    stream(store, 2, BOB)
    item = Item(ALICE, 2, kind=NOTE)
    with unwritten(store), pytest.raises(ConditionFailed) as raised:
        way(store, item, unless=Unless(ruled_out))
    error = raised.value
    assert (error.code, error.sequence) == ("condition-failed", first.sequence)
    assert error.region == repr(ruled_out)
    # What the decision has seen is no obstacle.
    assert way(store, item, unless=Unless(ruled_out, after=first.sequence)).clock == 1


TREE = ("a", "a:b", "a:b:c", "a;", "ab", "b")
KINDS = (EventKind(1, 0), EventKind(1, 1), EventKind(2, 0))
EVENTS = st.lists(
    st.tuples(st.sampled_from(TREE), st.sampled_from("st"), st.sampled_from(KINDS)), max_size=90
)
REGIONS = st.builds(
    Region,
    entity=st.none() | st.sampled_from((*TREE, "missing")),
    scope=st.none() | st.sampled_from(("s", "t", "missing")),
    kind=st.none() | st.sampled_from((*KINDS, Category(1))),
    clock=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 5)),
)


@pytest.mark.proves("INV-CONDITIONS-HOLD")
@given(
    events=EVENTS,
    regions=st.lists(REGIONS, min_size=1, max_size=3),
    back=st.none() | st.integers(0, 90),
    segments=st.sampled_from((4096, 1 << 20)),
)
def test_a_condition_says_what_a_scan_of_the_journal_says(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[str, str, EventKind]],
    regions: list[Region],
    back: int | None,
    segments: int,
) -> None:
    path = tmp_path_factory.mktemp("scan") / "journal"
    with Store.open(path, durability=Durability.OS, segment_max_bytes=segments) as store:
        for entity, scope, kind in events:
            store.append(Coordinate(entity, scope), None, kind=kind)
        after = None if back is None else max(0, len(store) - 1 - back)
        bad = {
            event.sequence
            for event in store
            if event.sequence > (-1 if after is None else after)
            and any(region.matches(event) for region in regions)
        }
        length = len(store)
        unless = Unless(*regions, after=after)
        if bad:
            with pytest.raises(ConditionFailed) as raised:
                store.append(BOB, 1, kind=OTHER, unless=unless)
            assert raised.value.sequence in bad
        else:
            store.append(BOB, 1, kind=OTHER, unless=unless)
        assert len(store) == length + (not bad)


def test_all_conditions_of_a_commit_have_to_hold(store: Store) -> None:
    stream(store, 1)
    seen = Unless(Region(entity=BOB.entity))
    items = [Item(BOB, 1, kind=NOTE)]
    with unwritten(store), pytest.raises(ExpectationFailed):
        store.append_many(items, expect={ALICE.entity: 5}, unless=seen)
    # `unwritten` has written to Bob meanwhile.
    with unwritten(store), pytest.raises(ConditionFailed):
        store.append_many(items, expect={ALICE.entity: 0}, unless=seen)


def test_each_region_of_a_condition_rules_out(store: Store) -> None:
    stream(store, 2)
    here, elsewhere = Region(entity=ALICE.entity), Region(entity="player:nobody")
    for regions in ((here, elsewhere), (elsewhere, here), (elsewhere, elsewhere, here)):
        with pytest.raises(ConditionFailed) as raised:
            store.append(BOB, 1, kind=NOTE, unless=Unless(*regions))
        assert (raised.value.sequence, raised.value.region) == (1, repr(here))
    assert store.append(BOB, 1, kind=NOTE, unless=Unless(elsewhere, elsewhere)).clock == 0


# --- two looks ------------------------------------------------------------------------


class Looks:
    """Each call of the index's search for a ruled-out event, with what it is asked for.

    There is no public way to see how many rows a condition costs under the lock, so the
    one function that looks at rows is wrapped: `rows` has the length of what each call
    was to go through, and `during` runs inside the first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.during: Callable[[], None] | None = None
        real = Index.first_match

        def counted(index: Index, query: Any, low: int, high: int) -> int | None:
            self.rows.append(high - low)
            during, self.during = self.during, None
            if during is not None:
                during()
            return real(index, query, low, high)

        monkeypatch.setattr(Index, "first_match", counted)


def in_another_thread(call: Callable[[], Any]) -> Callable[[], None]:
    """A call that is over when another thread has made it; a test that hangs has failed."""

    def run() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive(), "the other thread was held up"

    return run


@pytest.mark.proves("INV-CONDITIONS-LOOK-TWICE")
@pytest.mark.parametrize("way", [WAYS["append"], WAYS["submit_many"]], ids=["append", "queue"])
def test_a_long_past_is_looked_through_before_the_lock(
    store: Store, way: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        store.append_many([Item(BOB, None, kind=NOTE)] * 50_000)
    looks = Looks(monkeypatch)
    # Whoever held the append lock would keep this other append from ending.
    looks.during = in_another_thread(lambda: store.append(BOB, None, kind=NOTE))
    receipt = way(store, Item(ALICE, 1, kind=NOTE), unless=Unless(Region(kind=OTHER)))
    assert receipt.sequence == 100_002
    # The past once, then under the lock the one event that came since.
    assert looks.rows == [100_001, 1]


@pytest.mark.proves("INV-CONDITIONS-LOOK-TWICE")
@every_way
def test_what_comes_between_the_two_looks_is_seen(
    store: Store, way: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    looks.during = in_another_thread(lambda: store.append(ALICE, "other", kind=NOTE))
    with pytest.raises(ConditionFailed) as raised:
        way(store, Item(ALICE, 1, kind=NOTE), unless=Unless(Region(entity=ALICE.entity)))
    assert raised.value.sequence == 1
    assert [event.value for event in store.entity(ALICE.entity)] == ["other"]


def test_nothing_is_looked_at_twice_when_nothing_came(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream(store, 5)
    looks = Looks(monkeypatch)
    store.append(ALICE, 1, kind=NOTE, unless=Unless(Region(kind=OTHER), after=3))
    assert looks.rows == [2]


@pytest.mark.parametrize("key", [None, operation_key("test", "refused")], ids=["plain", "keyed"])
@pytest.mark.parametrize("way", [WAYS["append"], WAYS["submit_many"]], ids=["append", "queue"])
def test_what_was_refused_is_not_looked_for_again(
    store: Store, way: Callable[..., Any], key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream(store, 5)
    looks = Looks(monkeypatch)
    with pytest.raises(ConditionFailed):
        way(store, Item(ALICE, 1, kind=NOTE, key=key), unless=Unless(Region(kind=NOTE)))
    assert looks.rows == [6]


# --- races ----------------------------------------------------------------------------

DURABILITIES = pytest.mark.parametrize("durability", [Durability.OS, Durability.SYNC])


def winners(outcomes: list[Any]) -> list[AppendReceipt]:
    return [one for one in outcomes if isinstance(one, AppendReceipt)]


@pytest.mark.proves("INV-CONDITIONS-HOLD")
@DURABILITIES
def test_of_many_who_create_an_entity_one_does(tmp_path: Path, durability: Durability) -> None:
    with Store.open(tmp_path / "journal", durability=durability) as store:
        for turn in range(6):
            who = Coordinate(f"player:{turn}", "room")

            def create(who: Coordinate = who) -> AppendReceipt:
                return store.append(who, None, kind=NOTE, expect=Expect.EMPTY)

            outcomes = race(*[create] * 8)
            assert len(winners(outcomes)) == 1
            refused = [one for one in outcomes if isinstance(one, ExpectationFailed)]
            assert [(one.expected, one.actual) for one in refused] == [(None, 0)] * 7
            assert len(list(store.entity(who.entity))) == 1


@pytest.mark.proves("INV-CONDITIONS-HOLD")
@DURABILITIES
def test_of_many_who_decide_on_the_same_past_one_writes(
    tmp_path: Path, durability: Durability
) -> None:
    ways = list(WAYS.values())
    with Store.open(tmp_path / "journal", durability=durability) as store:
        for turn in range(6):
            region = Region(entity=f"course:{turn}")
            seat = Item(Coordinate(f"course:{turn}", "school"), None, kind=NOTE)
            unless = Unless(region, after=len(store) - 1)

            def enrol(way: Callable[..., Any], seat: Item = seat, unless: Unless = unless) -> Any:
                return way(store, seat, unless=unless)

            outcomes = race(*[lambda way=way: enrol(way) for way in ways])
            [winner] = winners(outcomes)
            refused = [one for one in outcomes if isinstance(one, ConditionFailed)]
            assert [one.sequence for one in refused] == [winner.sequence] * (len(ways) - 1)
            assert store.count(region) == 1


# --- keys come first ------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    "condition",
    [{"expect": Expect.EMPTY}, {"unless": Unless(Region(entity=ALICE.entity))}],
    ids=["expect", "unless"],
)
def test_a_retry_succeeds_though_its_own_event_fails_its_condition(
    store: Store, way: Callable[..., Any], condition: dict[str, Any]
) -> None:
    item = Item(ALICE, 1, kind=NOTE, key=operation_key("test", "conditional"))
    first = way(store, item, **condition)
    with unwritten(store):
        assert way(store, item, **condition) == first


@every_way
def test_a_retry_that_overlaps_its_first_attempt_succeeds_too(
    store: Store, way: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item(ALICE, 1, kind=NOTE, key=operation_key("test", "overlap"))
    unless = Unless(Region(entity=ALICE.entity))
    first: list[AppendReceipt] = []
    real = LogReader.find_id

    def late(reader: LogReader, event_id: bytes, bound: int) -> int | None:
        # The retry asks for its key, is told that it is not known, and is overtaken by
        # the first attempt before it looks at its condition.
        monkeypatch.setattr(LogReader, "find_id", real)
        answer = real(reader, event_id, bound)
        in_another_thread(
            lambda: first.append(store.append(ALICE, 1, kind=NOTE, key=item.key, unless=unless))
        )()
        return answer

    monkeypatch.setattr(LogReader, "find_id", late)
    assert way(store, item, unless=unless) == first[0]
    assert len(store) == 2


def test_a_batch_that_overlaps_its_first_attempt_succeeds_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        Item(ALICE, number, kind=NOTE, key=operation_key("test", str(number))) for number in (1, 2)
    ]
    unless, expect = Unless(Region(entity=ALICE.entity)), {ALICE.entity: Expect.EMPTY}
    first: list[tuple[AppendReceipt, ...]] = []
    looks = Looks(monkeypatch)
    # Its own keys are not known yet, and its condition holds, when it is overtaken.
    looks.during = in_another_thread(
        lambda: first.append(store.append_many(items, unless=unless, expect=expect))
    )
    assert store.append_many(items, unless=unless, expect=expect) == first[0]
    assert len(store) == 3


def test_racing_retries_of_one_conditional_append_all_get_its_receipt(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        for turn in range(20):
            who = Coordinate(f"player:{turn}", "room")
            item = Item(who, None, kind=NOTE, key=operation_key("test", str(turn)))
            unless = Unless(Region(entity=who.entity))
            calls = [
                lambda way=way, item=item, unless=unless: way(store, item, unless=unless)
                for way in WAYS.values()
            ]
            assert len(set(map(repr, race(*calls)))) == 1, turn
            assert store.count(Region(entity=who.entity)) == 1


# --- bad input ------------------------------------------------------------------------


@few_ways
@pytest.mark.parametrize("expect", [-1, 2**32, True, 1.0, "0"], ids=repr)
def test_what_is_no_clock_is_refused(store: Store, way: Callable[..., Any], expect: Any) -> None:
    with unwritten(store), pytest.raises(InvalidInput) as raised:
        way(store, Item(ALICE, 1, kind=NOTE), expect=expect)
    assert (raised.value.code, raised.value.field) == ("invalid-input", "expect")
    assert raised.value.value == expect


@pytest.mark.parametrize("expect", [3, Expect.EMPTY, [("a", 1)], "a", {7: 1}, {b"a": 1}], ids=repr)
def test_a_commit_s_expectations_map_entities_to_clocks(store: Store, expect: Any) -> None:
    item = Item(ALICE, 1, kind=NOTE)
    for call in (
        lambda: store.append_many([item], expect=expect),
        lambda: store.submit_many([item], expect=expect).result(WAIT),
        lambda: store.outbox(expect=expect),
        lambda: store.fence(expect=expect),
    ):
        with unwritten(store), pytest.raises(InvalidInput) as raised:
            call()
        assert raised.value.field == "expect"
        assert raised.value.advice


@few_ways
@pytest.mark.parametrize("unless", [Region.all(), "all", 3, [Region.all()], ()], ids=repr)
def test_what_is_no_condition_is_refused(
    store: Store, way: Callable[..., Any], unless: Any
) -> None:
    with unwritten(store), pytest.raises(InvalidInput) as raised:
        way(store, Item(ALICE, 1, kind=NOTE), unless=unless)
    assert raised.value.field == "unless"


def test_what_is_no_condition_is_refused_before_something_is_staged(store: Store) -> None:
    for staged in (store.fence, store.outbox):
        with pytest.raises(InvalidInput) as raised:
            staged(unless="all")
        assert raised.value.field == "unless"


@every_way
def test_what_is_no_condition_is_refused_for_a_known_key_too(
    store: Store, way: Callable[..., Any]
) -> None:
    item = Item(ALICE, 1, kind=NOTE, key=operation_key("test", "known"))
    first = way(store, item)
    for bad in ({"expect": "x"}, {"unless": "x"}):
        with unwritten(store), pytest.raises(InvalidInput) as raised:
            way(store, item, **bad)
        assert raised.value.field in bad
    # A condition that is one no longer counts: what it guarded is written.
    replayed = way(store, item, expect=7, unless=Unless(Region.all()))
    assert (replayed.sequence, replayed.replayed) == (first.sequence, True)


def test_an_entity_is_named_by_its_text_and_the_refusal_says_so(store: Store) -> None:
    with pytest.raises(InvalidInput) as raised:
        store.append_many([Item(ALICE, 1, kind=NOTE)], expect={ALICE: 0})  # type: ignore[dict-item]  # the refusal is the test
    assert "coordinate.entity" in raised.value.advice


def test_a_condition_is_a_value(store: Store) -> None:
    unless = Unless(Region(entity="a"), Region.all(), after=3)
    for name in ("after", "regions"):
        with pytest.raises(AttributeError):
            setattr(unless, name, None)
    assert (unless.after, unless.regions) == (3, (Region(entity="a"), Region.all()))
    again = pickle.loads(pickle.dumps(unless))
    assert again == unless
    assert hash(again) == hash(unless)
    assert repr(again) == repr(unless)
    assert again != Unless(Region.all(), after=3)


@few_ways
@pytest.mark.parametrize("ahead", [0, 1, 1000, 2**63, 2**64], ids=repr)
def test_a_condition_after_an_event_that_is_not_there_is_refused(
    store: Store, way: Callable[..., Any], ahead: int
) -> None:
    stream(store, 2)
    after = len(store) + ahead
    with unwritten(store), pytest.raises(InvalidInput) as raised:
        way(store, Item(ALICE, 1, kind=NOTE), unless=Unless(Region.all(), after=after))
    assert (raised.value.field, raised.value.value) == ("unless", after)
    last = len(store) - 1
    assert way(store, Item(ALICE, 1, kind=NOTE), unless=Unless(Region.all(), after=last))


@pytest.mark.parametrize(
    ("regions", "after"),
    [
        ((), None),
        ((), 3),
        (("player",), None),
        ((Region.all(), None), None),
        ((Region.all(),), -1),
        ((Region.all(),), True),
        ((Region.all(),), "3"),
        ((Region.all(),), 1.0),
    ],
    ids=repr,
)
def test_a_condition_names_regions_and_a_sequence(regions: Any, after: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        Unless(*regions, after=after)
    assert raised.value.field == "unless"
