"""Reading: points, pages, chains, counts, bounds, damage met on the way, refused questions.

That every answer equals a scan of what was appended is the property test's business;
here are the edges, and journals too large for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    AncestryEnd,
    Coordinate,
    Durability,
    EventId,
    EventKind,
    EventNotFound,
    EventSummary,
    InvalidInput,
    Item,
    Region,
    Store,
    Watermark,
)
from batpak.errors import JournalCorrupt, PayloadDamaged, StoreClosed
from batpak.event import NO_HASH
from batpak.kinds import SYSTEM_OPEN_COMPLETED, Category

ALICE = Coordinate("player:alice", "room:dungeon")
BOB = Coordinate("player:bob", "room:tower")
NOTE = EventKind(1, 7)
MARK = EventKind(2, 8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Ten events: Alice 0 to 4 at odd sequences, Bob at even ones."""
    with Store.open(tmp_path / "journal", durability=Durability.OS) as opened:
        for number in range(10):
            opened.append((ALICE, BOB)[number % 2], number // 2, kind=(NOTE, MARK)[number % 2])
        yield opened


def numbers(events: Any) -> list[int]:
    return [event.sequence for event in events]


# --- points ----------------------------------------------------------------------


def test_an_event_is_read_by_id_and_by_sequence(store: Store) -> None:
    for sequence in range(len(store)):
        event = store.at(sequence)
        assert event.sequence == sequence
        assert store.get(event.event_id) == store[event.event_id] == store[sequence] == event
    assert len(store) == 11


@pytest.mark.parametrize("sequence", [11, 12, -1, 2**70])
def test_a_sequence_that_is_not_there_is_a_key_error(store: Store, sequence: int) -> None:
    for ask in (store.at, store.__getitem__):
        with pytest.raises(EventNotFound) as caught:
            ask(sequence)
        assert isinstance(caught.value, KeyError)
        assert caught.value.sequence == sequence
        assert "0 to 10" in str(caught.value)
        assert caught.value.exit_code == 5


def test_an_unknown_id_is_named_in_full(store: Store) -> None:
    unknown = EventId.from_bytes(bytes(range(16)))
    with pytest.raises(EventNotFound) as caught:
        store.get(unknown)
    assert caught.value.value == str(unknown)  # type: ignore[attr-defined]  # a field of InvalidInput
    with pytest.raises(EventNotFound):
        store.ancestors(unknown)


def test_a_position_precedes_later_ones_of_its_lane_and_depth_only(store: Store) -> None:
    first, second = (event.position for event in list(store.entity(ALICE.entity))[:2])
    assert first.precedes(second)
    assert not second.precedes(first)
    assert not first.precedes(first)
    assert not first.precedes(second._replace(lane=1))
    assert not first.precedes(second._replace(depth=1))


def test_an_event_tells_a_person_what_it_is(store: Store) -> None:
    text = repr(store.at(1))
    for part in ("1", "player:alice@room:dungeon", "0x1007", "clock=0"):
        assert part in text
    assert "11 events" in repr(store)


@pytest.mark.parametrize("verify", ["always", "content"])
def test_both_levels_of_checking_give_the_same_events(tmp_path: Path, verify: str) -> None:
    with Store.open(tmp_path / "journal", verify=verify) as store:
        receipt = store.append(ALICE, {"n": 1}, kind=NOTE)
        assert store.get(receipt.event_id).payload == {"n": 1}


# --- questions -------------------------------------------------------------------


def test_a_region_takes_a_name_with_all_below_it(store: Store) -> None:
    assert numbers(store.query(Region(entity="player"))) == [*range(1, 11)]
    assert numbers(store.query(Region(entity="player:alice"))) == [1, 3, 5, 7, 9]
    assert numbers(store.query(Region(entity="player:"))) == []
    assert numbers(store.query(Region(entity="play"))) == []
    assert numbers(store.query(Region(scope="room"))) == []
    assert numbers(store.query(Region(kind=MARK, clock=(1, 2)))) == [4, 6]
    assert numbers(store.query(Region(kind=Category(0)))) == [0]
    assert numbers(store.query(Region(clock=(3, 2)))) == []
    assert numbers(store.entity("player")) == []


def test_an_entity_named_like_a_pattern_is_only_itself(store: Store) -> None:
    for name in ("", "*", "player:alice:", "\ud800", "x" * 5000):
        assert numbers(store.entity(name)) == []
        assert store.latest(name) is None


def test_pages_resume_where_they_ended(store: Store) -> None:
    region = Region(entity="player:alice")
    first = store.page(region, limit=2)
    assert (numbers(first.events), first.next_after, first.exhausted) == ([1, 3], 3, False)
    second = store.page(region, after=first.next_after, limit=2)
    assert (numbers(second.events), second.next_after, second.exhausted) == ([5, 7], 7, False)
    third = store.page(region, after=second.next_after, limit=2)
    assert (numbers(third.events), third.next_after, third.exhausted) == ([9], 9, True)
    end = store.page(region, after=third.next_after, limit=2)
    assert (numbers(end.events), end.next_after, end.exhausted) == ([], 9, True)
    # What comes later is found from there.
    store.append(ALICE, "later", kind=NOTE)
    assert numbers(store.page(region, after=end.next_after).events) == [11]


def test_a_page_that_just_holds_everything_is_the_last(store: Store) -> None:
    page = store.page(Region(entity="player:alice"), limit=5)
    assert (len(page.events), page.exhausted) == (5, True)
    empty = store.page(Region(entity="nobody"))
    assert (empty.events, empty.next_after, empty.exhausted) == ((), None, True)
    # Nothing and zero are different places to start from.
    assert numbers(store.page(Region.all(), limit=1).events) == [0]
    assert numbers(store.page(Region.all(), after=0, limit=1).events) == [1]


def test_summaries_are_events_without_payloads(store: Store) -> None:
    for summary, event in zip(store.query(Region.all(), payload=False), store, strict=True):
        assert type(summary) is EventSummary
        assert summary == event.summary()
        assert not hasattr(summary, "payload")


def test_iteration_is_lazy_and_repeatable(store: Store) -> None:
    assert next(iter(store)).kind == SYSTEM_OPEN_COMPLETED
    assert list(store) == list(store)


REFUSED: list[tuple[str, Callable[[Store], Any], str]] = [
    ("get", lambda s: s.get("event:00"), "event_id"),  # type: ignore[arg-type]  # the refusal is the test
    ("get bytes", lambda s: s.get(bytes(16)), "event_id"),  # type: ignore[arg-type]  # the refusal is the test
    ("at text", lambda s: s.at("1"), "sequence"),  # type: ignore[arg-type]  # the refusal is the test
    ("at truth", lambda s: s.at(True), "sequence"),
    ("at fraction", lambda s: s.at(1.0), "sequence"),  # type: ignore[arg-type]  # the refusal is the test
    ("query text", lambda s: s.query("player"), "region"),  # type: ignore[call-overload]  # the refusal is the test
    ("count text", lambda s: s.count("player"), "region"),  # type: ignore[arg-type]  # the refusal is the test
    ("query after", lambda s: s.query(Region.all(), after=-1), "after"),
    ("query after text", lambda s: s.query(Region.all(), after="1"), "after"),  # type: ignore[call-overload]  # the refusal is the test
    ("page after", lambda s: s.page(Region.all(), after=True), "after"),
    ("page limit 0", lambda s: s.page(Region.all(), limit=0), "limit"),
    ("page limit", lambda s: s.page(Region.all(), limit=(1 << 20) + 1), "limit"),
    ("page limit text", lambda s: s.page(Region.all(), limit="9"), "limit"),  # type: ignore[arg-type]  # the refusal is the test
    ("entity", lambda s: s.entity(5), "entity"),  # type: ignore[arg-type]  # the refusal is the test
    ("latest", lambda s: s.latest(None), "entity"),  # type: ignore[arg-type]  # the refusal is the test
    ("ancestors", lambda s: s.ancestors(5), "event_id"),  # type: ignore[arg-type]  # the refusal is the test
    ("ancestors limit 0", lambda s: s.ancestors(s.at(1).event_id, limit=0), "limit"),
    ("ancestors limit", lambda s: s.ancestors(s.at(1).event_id, limit="2"), "limit"),  # type: ignore[arg-type]  # the refusal is the test
    ("ancestors truth", lambda s: s.ancestors(s.at(1).event_id, limit=True), "limit"),
    ("verify", lambda s: s.verify("deep"), "level"),  # type: ignore[arg-type]  # the refusal is the test
    ("import position", lambda s: s.import_position(5), "source"),  # type: ignore[arg-type]  # the refusal is the test
]


@pytest.mark.parametrize(("ask", "field"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_question_of_the_wrong_shape_is_refused_at_the_call(
    store: Store, ask: Callable[[Store], Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(store)
    assert not isinstance(caught.value, EventNotFound)
    assert caught.value.field == field


# --- chains ----------------------------------------------------------------------


def test_a_chain_is_walked_back_to_its_genesis(store: Store) -> None:
    newest = store.latest(ALICE.entity)
    assert newest is not None
    walk = store.ancestors(newest.event_id)
    assert numbers(walk.events) == [9, 7, 5, 3, 1]
    assert (walk.end, walk.finding) == (AncestryEnd.GENESIS, None)
    for event, before in zip(walk.events, walk.events[1:], strict=False):
        assert event.prev_hash == before.event_hash
    assert walk.events[-1].prev_hash == NO_HASH
    assert walk.events[-1].is_genesis


@pytest.mark.parametrize(
    ("limit", "count", "end"),
    [(1, 1, "LIMIT"), (4, 4, "LIMIT"), (5, 5, "GENESIS"), (6, 5, "GENESIS")],
)
def test_a_walk_says_whether_it_was_cut(store: Store, limit: int, count: int, end: str) -> None:
    walk = store.ancestors(store.at(9).event_id, limit=limit)
    assert (len(walk.events), walk.end) == (count, AncestryEnd[end])


def test_a_walk_from_the_middle_sees_nothing_later(store: Store) -> None:
    assert numbers(store.ancestors(store.at(5).event_id).events) == [5, 3, 1]


def damaged(tmp_path: Path, needle: bytes, offset: int = 0) -> Path:
    """A closed journal in which the byte at `offset` from `needle` was changed."""
    path = tmp_path / "journal"
    with Store.open(path, codec="plain") as store:
        for word in ("first-word", "second-word", "third-word"):
            store.append_raw(ALICE, NOTE, word.encode())
        store.append_raw(BOB, NOTE, b"bystander")
    (segment,) = (path / "segments").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.index(needle) + offset] ^= 0x20
    segment.write_bytes(data)
    return path


@pytest.mark.proves("INV-READ-VERIFIED")
@pytest.mark.parametrize("verify", ["always", "content"])
def test_a_changed_payload_is_never_handed_out(tmp_path: Path, verify: str) -> None:
    path = damaged(tmp_path, b"second-word")
    with Store.open(path, mode="r", verify=verify) as reader:
        event_id = next(reader.query(Region(entity=BOB.entity))).event_id
        assert reader.get(event_id).raw == b"bystander"
        with pytest.raises(PayloadDamaged) as caught:
            reader.at(2)
        assert caught.value.sequence == 2
        assert caught.value.offset is not None
        assert caught.value.file is not None
        with open(caught.value.file, "rb") as segment:
            segment.seek(caught.value.offset)
            assert segment.read(11) == b"Second-word"
        got: list[bytes] = []
        with pytest.raises(PayloadDamaged):
            got.extend(event.raw for event in reader.entity(ALICE.entity))
        assert got == [b"first-word"]
        # The rows are good: listing without payloads goes on.
        rows = list(reader.query(Region(entity="player"), payload=False))
        assert numbers(rows) == [1, 2, 3, 4]
        walk = reader.ancestors(rows[2].event_id)
        assert numbers(walk.events) == [3]
        assert walk.end is AncestryEnd.DAMAGED
        assert walk.finding is not None
        assert (walk.finding.code, walk.finding.sequence) == ("payload-damaged", 2)
        report = reader.verify()
        assert not report.ok
        assert [finding.sequence for finding in report.findings] == [2]
        assert reader.verify("chain").ok


def test_a_changed_row_is_found_by_its_hash(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", codec="plain") as store:
        for word in ("first-word", "second-word"):
            store.append_raw(ALICE, NOTE, word.encode(), lane=0x01020304)
        # A live change under an open store, as a bad disk would make it.
        (segment,) = (tmp_path / "journal" / "segments").glob("*.seg")
        data = bytearray(segment.read_bytes())
        at = data.index(b"\x04\x03\x02\x01")
        data[at] ^= 1
        segment.write_bytes(data)
        with pytest.raises(JournalCorrupt) as caught:
            store.at(1)
        assert caught.value.sequence == 1
        assert caught.value.reason == "event-hash"
        assert caught.value.first == caught.value.last == 1
        assert store.at(2).raw == b"second-word"
        walk = store.ancestors(store.at(2).event_id)
        assert (numbers(walk.events), walk.end) == ([2], AncestryEnd.DAMAGED)
        assert not store.verify("chain").ok
        data[at] ^= 1
        segment.write_bytes(data)


# --- verify and numbers ------------------------------------------------------------


def test_verify_says_how_far_it_is_and_what_it_saw(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    with Store.open(tmp_path / "journal", segment_max_bytes=4096) as store:
        for number in range(40):
            store.append(ALICE, number, kind=NOTE)
        report = store.verify(progress=lambda done, total: steps.append((done, total)))
        assert report.ok
        assert (report.level, report.events, report.segments) == (
            "full",
            41,
            store.stats().segments,
        )
        files = list((tmp_path / "journal" / "segments").glob("*.seg"))
        assert report.bytes == sum(file.stat().st_size for file in files)
        assert steps
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert {total for _, total in steps} == {report.bytes}
        assert steps[-1][0] == report.bytes
        assert store.verify("chain").events == 41
        store.append(ALICE, 41, kind=NOTE)
        assert store.verify().events == 42


def test_statistics_count_what_is_visible(store: Store) -> None:
    stats = store.stats()
    assert (stats.events, stats.entities, stats.scopes, stats.segments) == (11, 3, 3, 1)
    assert dict(stats.kinds) == {SYSTEM_OPEN_COMPLETED: 1, NOTE: 5, MARK: 5}
    assert stats.first_time == store.at(0).time
    assert stats.last_time == store.at(10).time
    (segment,) = (Path(store.path) / "segments").glob("*.seg")
    assert stats.segment_bytes == len(segment.read_bytes().rstrip(b"\0")) + 7 & ~7


# --- journals larger than one part ---------------------------------------------------


def expected(count: int) -> list[tuple[int, Coordinate, EventKind, int]]:
    """Sequence, coordinate, kind and clock of the events that `large` appends."""
    made: list[tuple[int, Coordinate, EventKind, int]] = []
    for number in range(count):
        name = Coordinate(f"e:{number % 7}", f"s{number % 3}")
        made.append((number + 1, name, EventKind(1, number % 5), number // 7))
    return made


REGIONS = [
    Region.all(),
    Region(entity="e"),
    Region(entity="e:3"),
    Region(entity="e:3", clock=(100, 400)),
    Region(scope="s1"),
    Region(scope="s1", kind=EventKind(1, 4)),
    Region(kind=Category(1), clock=(630, 640)),
    Region(entity="e:6", scope="s2", kind=EventKind(1, 0), clock=(0, 600)),
]


def check_large(reader: Any, made: list[tuple[int, Coordinate, EventKind, int]]) -> None:
    for region in REGIONS[1:]:
        wanted = [
            sequence
            for sequence, name, kind, clock in made
            if (region.entity is None or (name.entity + ":").startswith(region.entity + ":"))
            and region.scope in (None, name.scope)
            and (not isinstance(region.kind, EventKind) or region.kind == kind)
            and (region.clock is None or region.clock[0] <= clock <= region.clock[1])
        ]
        found = list(reader.query(region.replace(entity=region.entity or "e")))
        assert numbers(found) == wanted, region
        assert reader.count(region.replace(entity=region.entity or "e")) == len(wanted)
    for sequence in (1, 1023, 1024, 4095, 4096, 4097, len(made)):
        event = reader.at(sequence)
        assert (event.sequence, event.coordinate, event.kind, event.clock) == made[sequence - 1]
        assert event.payload == sequence - 1
        assert reader.get(event.event_id) == event
    for number in range(7):
        newest = reader.latest(f"e:{number}")
        assert newest is not None
        assert newest.clock == max(c for _, n, _, c in made if n.entity == f"e:{number}")


@pytest.mark.parametrize("size", [1, 100])
def test_a_journal_of_several_thousand_events_answers_alike_before_and_after(
    tmp_path: Path, size: int
) -> None:
    """Above 4,096 events in one segment, and, opened anew, a sidecar with a growing tail."""
    made = expected(4500)
    path = tmp_path / "journal"
    with Store.open(path, durability=Durability.OS) as store:
        for start in range(0, len(made), size):
            store.append_many(
                Item(name, number, kind=kind)
                for number, (_, name, kind, _) in enumerate(made[start : start + size], start=start)
            )
        check_large(store, made)
    with Store.open(path, mode="r") as reader:
        assert reader.open_report.mapped == 1
        assert reader.open_report.walked < 1024
        check_large(reader, made)
    # Two more of the journal's own events stand between the old and the new.
    late = [(place + 2, *rest) for place, *rest in expected(4510)[4500:]]
    with Store.open(path, durability=Durability.OS) as store:
        for place, name, kind, _ in late:
            assert store.append(name, place, kind=kind).sequence == place
        found = list(store.query(Region(entity="e"), after=4501))
        assert [(e.sequence, e.coordinate, e.kind, e.clock) for e in found] == late
        clocks = store.query(Region(entity="e:5", clock=(640, 645)))
        assert [event.clock for event in clocks] == [640, 641, 642, 643]
        walk = store.ancestors(found[-1].event_id, limit=3)
        assert [event.clock for event in walk.events] == [644, 643, 642]
        assert store.verify().ok


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"progress": 5}, "progress"), ({"keys": 5}, "keys"), ({"keys": ["key"]}, "keys")],
)
def test_verify_refuses_what_it_can_not_use_before_it_begins(
    tmp_path: Path, wrong: Any, field: str
) -> None:
    with Store.open(tmp_path) as store:
        for level in ("chain", "full"):
            with pytest.raises(InvalidInput) as caught:
                store.verify(level, **wrong)
            assert caught.value.field == field


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_an_iterator_of_a_closed_store_does_not_pass_for_an_empty_one(
    tmp_path: Path, mode: Any
) -> None:
    Store.open(tmp_path).close()
    store = Store.open(tmp_path, mode=mode)
    before = [store.query(Region.all()), store.query(Region.all(), payload=False), iter(store)]
    store.close()
    for events in before:
        with pytest.raises(StoreClosed):
            next(events)


def test_an_iterator_ends_with_the_store_when_it_reads_on(tmp_path: Path) -> None:
    with Store.open(tmp_path, segment_max_bytes=4096) as store:
        for number in range(40):
            store.append(Coordinate("a", "b"), number, kind=EventKind(1, 1))
        assert len(list((tmp_path / "segments").glob("*.seg"))) > 1
        events = store.query(Region.all())
        next(events)
    with pytest.raises(StoreClosed):
        list(events)


def test_a_closed_store_has_no_watermarks(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    receipt = store.append(Coordinate("a", "b"), 1, kind=EventKind(1, 1))
    store.close()
    with pytest.raises(StoreClosed):
        store.frontier()
    for watermark in (Watermark.ACCEPTED, Watermark.VISIBLE, Watermark.DURABLE):
        with pytest.raises(StoreClosed):
            store.wait_for(watermark, receipt)
