"""The key table beside a dict: what was added is always found, at a cost that stays the same.

A candidate may be wrong, since the caller compares rows; a missing one may not be.
"""

from __future__ import annotations

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batpak.event import NO_HASH, id_of_hlc
from batpak.index import keytable
from batpak.index.growing import GrowingPart
from batpak.index.keytable import ENTRY, MAX_END, KeyTable, capacity_for, slots_of
from batpak.index.parts import Index

M128 = 1 << 128
# Few different ids, so that they repeat, beside many.
IDS = st.one_of(
    st.integers(1, 12).map(lambda n: n.to_bytes(16, "big")),
    st.integers(1, 12).map(lambda n: n.to_bytes(16, "little")),
    st.binary(min_size=16, max_size=16),
)


@pytest.fixture(params=["one by one", "all at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of adding, whatever the number."""
    monkeypatch.setattr(keytable, "_FEW", 1 << 40 if request.param == "one by one" else -1)
    return request.param


def entries(ids: list[bytes]) -> bytes:
    """The ids in rows 0, 1, … as a part gives them: in an order of its own."""
    rows = list(range(len(ids)))
    random.Random(len(ids)).shuffle(rows)
    return b"".join(ENTRY.pack(ids[row], row, 0) for row in rows)


def meeting(table: KeyTable, number: int) -> list[bytes]:
    """Ids whose hashes are the same: what only somebody who knows the multiplier can make."""
    inverse = pow(table.multiplier, -1, M128)
    # The hash is the upper 61 bits of the product.
    return [((5 << 67 | n) * inverse % M128).to_bytes(16, "big") for n in range(number)]


class Counted:
    """Slots that count how often one is looked at."""

    def __init__(self, slots: Any) -> None:
        self.slots = slots
        self.looks = 0

    def __getitem__(self, at: int) -> int:
        self.looks += 1
        return self.slots[at]


# --- the table -----------------------------------------------------------------


@given(batches=st.lists(st.tuples(st.lists(IDS, max_size=40), st.integers(0, 8)), max_size=6))
@pytest.mark.usefixtures("way")
def test_what_was_added_is_found(batches: list[tuple[list[bytes], int]]) -> None:
    table = KeyTable.for_count(sum(len(ids) for ids, _ in batches))
    model: dict[bytes, int] = {}
    first = 0
    for ids, low in batches:
        assert table.add(entries(ids), first, low)
        for row, event_id in enumerate(ids):
            if row >= low:
                model.setdefault(event_id, first + row)
        first += len(ids)
    before = bytes(table.data)
    first = 0
    for ids, low in batches:
        assert table.add(memoryview(entries(ids)), first, low), "again"
        first += len(ids)
    assert table.data == before, "adding again changed something"
    for event_id, sequence in model.items():
        found = list(table.find(event_id))
        assert sequence in found
        assert found == sorted(found)
    assert not any(table.data[-8:]), "the last slot ends every search"


@pytest.mark.usefixtures("way")
def test_an_id_that_stands_often_in_a_part_takes_one_slot() -> None:
    """Else a journal made for it would make every look-up near that id slow."""
    table = KeyTable.for_count(5001)
    often, once = b"sixteen bytes ab", b"sixteen bytes ac"
    assert table.add(entries([once, *[often] * 5000]), 7, 0)
    assert list(table.find(often)) == [8]
    assert list(table.find(once)) == [7]
    assert sum(slot != 0 for slot in memoryview(table.data).cast("Q")) == 2


@pytest.mark.usefixtures("way")
def test_ids_that_meet_are_all_found() -> None:
    table = KeyTable.for_count(100)
    ids = meeting(table, 100)
    assert table.add(entries(ids), 7, 0)
    for event_id in ids:
        assert list(table.find(event_id)) == list(range(7, 107))


@pytest.mark.usefixtures("way")
def test_a_table_in_which_ids_crowd_says_so() -> None:
    # Drawn once: of all multipliers some spread these ids badly, too.
    rng = random.Random(5)
    table, other = (KeyTable(capacity_for(3000), rng.getrandbits(128) | 1) for _ in range(2))
    assert not table.add(entries(meeting(table, 3000)), 0, 0)
    assert other.add(entries(meeting(table, 3000)), 0, 0)


@pytest.mark.usefixtures("way")
def test_the_end_of_the_table_is_not_run_over() -> None:
    """Ids that all want the last home: behind it is room for some, and then it is full."""
    table = KeyTable.for_count(4)
    inverse = pow(table.multiplier, -1, M128)
    last = [((M128 - 1 - n) * inverse % M128).to_bytes(16, "big") for n in range(64)]
    room = (slots_of(table.capacity) or 0) - table.capacity
    assert table.add(entries(last[:room]), 0, 0)
    assert list(table.find(last[room - 1])) == list(range(room))
    assert not table.add(entries(last[room : room + 1]), room, 0)
    assert list(table.find(last[room])) == list(range(room))


def test_both_ways_of_adding_put_ids_where_both_find_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    ids = [rng.randbytes(16) for _ in range(5000)]
    multiplier = rng.getrandbits(128) | 1
    tables = [KeyTable(capacity_for(5000), multiplier) for _ in range(2)]
    for table, few in zip(tables, (1 << 40, -1), strict=True):
        monkeypatch.setattr(keytable, "_FEW", few)
        assert table.add(entries(ids), 3, 0)
    one, many = tables
    for row, event_id in enumerate(ids):
        assert 3 + row in one.find(event_id)
        assert 3 + row in many.find(event_id)
    # They may differ in who stands first of those that were pushed on, in nothing else.
    assert sorted(memoryview(one.data).cast("Q")) == sorted(memoryview(many.data).cast("Q"))


@given(count=st.integers(0, 1 << 42))
@example(count=0)
def test_a_table_is_filled_by_two_fifths_to_a_half(count: int) -> None:
    capacity = capacity_for(count)
    assert capacity == 8 or 2 * count <= capacity <= 2.5 * count + 1
    assert slots_of(capacity) is not None


@pytest.mark.parametrize("capacity", [-8, 0, 7, 9, 17, (1 << 40) + 1])
def test_a_number_that_is_no_capacity_has_no_slots(capacity: int) -> None:
    assert slots_of(capacity) is None


# --- what it costs -------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    ["random", "counted", "counted backwards in the upper half"],
    ids=["random", "low", "high"],
)
def test_a_miss_costs_the_same_in_small_and_large_tables(ids: str) -> None:
    costs: list[float] = []
    rng = random.Random(2)
    for count in (1_000, 30_000, 1_000_000):
        table = KeyTable(capacity_for(count), rng.getrandbits(128) | 1)
        if ids == "random":
            raw = rng.randbytes(16 * count)
            made = [raw[at : at + 16] for at in range(0, len(raw), 16)]
        elif ids == "counted":
            made = [n.to_bytes(16, "big") for n in range(1, count + 1)]
        else:
            made = [(2**64 - 1 - n).to_bytes(8, "big") + b"12345678" for n in range(count)]
        data = b"".join([ENTRY.pack(key, row, 0) for row, key in enumerate(made)])
        assert table.add(data, 0, 0)
        assert list(table.find(made[-1])).count(count - 1) == 1
        counted = table._slots = Counted(table._slots)
        for _ in range(2000):
            table.find(rng.randbytes(16))
        costs.append(counted.looks / 2000)
    # Half full: two and a half slots by theory, where ids spread as if drawn by lot. Ids with
    # a pattern spread better with most multipliers, worse with a few.
    assert max(costs) < (3 if ids == "random" else 8), costs
    assert costs[-1] < 3, costs


def test_a_key_takes_at_most_24_bytes() -> None:
    ids = random.Random(3).randbytes(1_600_000)
    data = b"".join([ids[16 * n : 16 * n + 16] + bytes(8) for n in range(100_000)])
    KeyTable.for_count(10_000).add(data[: 24 * 10_000], 0, 0)  # loads NumPy
    tracemalloc.start()
    try:
        table = KeyTable.for_count(100_000)
        assert table.add(data, 0, 0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 100_000 <= 24
    assert held / 100_000 >= 8, "the measure sees the table"


# --- the index -----------------------------------------------------------------


class Journal:
    """Parts of an index, and a list of what stands in their rows."""

    def __init__(self, first: int = 0) -> None:
        self.index = Index()
        self.first = first
        self.ids: list[bytes] = []
        self.rotate()

    def rotate(self) -> None:
        end = self.first + len(self.ids)
        self.index.append(end, GrowingPart(end))

    def add(self, event_id: bytes | None) -> None:
        n = len(self.ids)
        hlc = n + 1
        self.ids.append(id_of_hlc(hlc, n) if event_id is None else event_id)
        self.index.growing.add(
            self.first + n, NO_HASH, 128, 304, 320, b"e", b"s", 1, n, hlc, event_id
        )

    def find(self, event_id: bytes, bound: int) -> int | None:
        """As a reader does: the first candidate whose row has the id."""
        for candidate in self.index.find_foreign(event_id, bound):
            assert candidate < bound
            if self.ids[candidate - self.first] == event_id:
                return candidate
        return None

    def check(self, ids: list[bytes]) -> None:
        end = self.first + len(self.ids)
        for event_id in ids:
            place = self.ids.index(event_id) if event_id in self.ids else None
            sequence = None if place is None else self.first + place
            assert self.find(event_id, end) == sequence
            if sequence is not None:
                assert self.find(event_id, sequence) is None, "at the bound is not below it"
                assert self.find(event_id, sequence + 1) == sequence


STEPS = st.lists(
    st.one_of(
        st.just("rotate"),
        st.just("ask"),
        st.just("own"),
        st.integers(1, 60),
    ),
    max_size=60,
)


@given(steps=STEPS)
@example(steps=[3, "rotate"] * 8 + ["ask", 1])
@example(steps=["ask", *[40, "rotate"] * 12])
@pytest.mark.usefixtures("way")
def test_the_index_finds_what_its_parts_hold(steps: list[str | int]) -> None:
    journal = Journal()
    known: list[bytes] = [b"never was there!"]
    for step in steps:
        if step == "rotate":
            journal.rotate()
        elif step == "own":
            journal.add(None)
        elif step == "ask":
            journal.check(known[-3:] + known[:3])
        else:
            for _ in range(int(step)):
                known.append(len(known).to_bytes(16, "little"))
                journal.add(known[-1])
    journal.check(known)
    keys = journal.index.keys
    assert keys is not None
    assert keys.table.count == journal.index.count_foreign(keys.covered)


def test_look_ups_take_in_the_parts_that_wait() -> None:
    """A reader of a growing journal writes no sidecars, where a writer would see to it."""
    journal = Journal()
    for n in range(1, 60):
        journal.add(n.to_bytes(16, "big"))
        journal.rotate()
        journal.check([b"never was there!"])
        keys = journal.index.keys
        assert keys is not None
        waiting = [slot for slot in journal.index.slots if slot.part.end > keys.covered]
        assert len(waiting) <= 5


def test_of_an_id_that_stands_twice_the_first_event_is_found() -> None:
    journal = Journal()
    for _ in range(3):
        journal.add(b"sixteen bytes ab")
        journal.rotate()
    assert journal.find(b"sixteen bytes ab", 3) == 0
    with journal.index.keys_lock:
        journal.index.fill_keys()
    assert journal.find(b"sixteen bytes ab", 3) == 0
    assert journal.find(b"sixteen bytes ab", 0) is None


@pytest.mark.parametrize("number", [3, 5000])
def test_ids_that_stand_twice_in_what_is_added_have_one_slot_each(number: int) -> None:
    """A journal has none of these; a forged sidecar may."""
    ids = [random.Random(n).randbytes(16) for n in range(number)]
    entries = b"".join([ENTRY.pack(each, row, 0) for row, each in enumerate(ids * 2)])
    table = KeyTable.for_count(2 * number)
    assert table.add(entries, 0, 0)
    assert table.count == number
    assert [list(table.find(each)) for each in ids] == [[row] for row in range(number)]


def test_what_is_no_sequence_below_the_bound_is_no_candidate() -> None:
    journal = Journal()
    journal.add(b"sixteen bytes ab")
    journal.rotate()
    journal.check([b"sixteen bytes ab"])
    keys = journal.index.keys
    assert keys is not None
    slots = memoryview(keys.table.data).cast("Q")
    (at,) = (n for n, slot in enumerate(slots) if slot)
    tag = slots[at] >> 40 << 40
    for number, candidates in ((0, []), (1, [0]), (2, []), ((1 << 40) - 1, [])):
        slots[at] = tag | number
        if slots[at]:
            assert list(journal.index.find_foreign(b"sixteen bytes ab", 1)) == candidates


def test_ids_that_crowd_get_another_multiplier() -> None:
    journal = Journal()
    journal.add(b"sixteen bytes ab")
    journal.check([b"sixteen bytes ab"])
    for _ in range(5000):
        journal.add(random.Random(len(journal.ids)).randbytes(16))
    journal.rotate()
    with journal.index.keys_lock:
        first = journal.index.fill_keys().table
    # There is room for them, and each of them wants the same home.
    crowd = meeting(first, 800)
    assert first.has_room(len(crowd))
    for event_id in crowd:
        journal.add(event_id)
    journal.rotate()
    with journal.index.keys_lock:
        second, covered = journal.index.fill_keys()
    assert covered == len(journal.ids)
    assert second.multiplier != first.multiplier
    journal.check([b"sixteen bytes ab", *crowd[:50], *crowd[-50:]])


def test_ids_for_which_no_table_has_room_are_found_in_their_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KeyTable, "add", lambda *_: False)
    journal = Journal()
    ids = [n.to_bytes(16, "big") for n in range(1, 40)]
    for event_id in ids:
        journal.add(event_id)
        journal.rotate()
    journal.check([*ids, b"never was there!"])


@pytest.mark.parametrize("before", [0, 1, 2, 3, 8])
def test_sequences_that_fit_no_slot_are_found_in_their_parts(before: int) -> None:
    journal = Journal(MAX_END - before)
    ids = [n.to_bytes(16, "big") for n in range(1, 15)]
    for event_id in ids:
        journal.add(event_id)
        if event_id[-1] % 2:
            journal.rotate()
    journal.check([*ids, b"never was there!"])
    keys = journal.index.keys
    assert keys is not None
    assert keys.covered <= MAX_END
    assert (keys.covered > 0) == (before > 0)


def test_a_look_up_waits_for_nobody_who_fills_the_table() -> None:
    journal = Journal()
    ids = [n.to_bytes(16, "big") for n in range(1, 20)]
    for event_id in ids:
        journal.add(event_id)
        journal.rotate()
    with ThreadPoolExecutor(1) as pool:
        # Held by another thread: this one could take it again.
        pool.submit(journal.index.keys_lock.acquire).result()
        journal.check(ids)
        assert journal.index.keys is None
        pool.submit(journal.index.keys_lock.release).result()
    journal.check(ids)
    assert journal.index.keys is not None
