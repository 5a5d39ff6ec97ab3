"""Erasure against a plain model: any order of writing, erasing, compacting and opening again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, Durability, EventKind, Item, PayloadState, Region, Store
from batpak.engine.system import MAX_RUNS, erased_by, erasure_event
from batpak.index.runs import Runs
from tests.support.faulty_files import DISK
from tools import read_segment

KIND = EventKind(0xF, 1)
NUMBERS = st.integers(0, 60)
RUNS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8)


def members(runs: Iterable[tuple[int, int]]) -> set[int]:
    return {n for first, end in runs for n in range(first, end)}


@given(RUNS, RUNS, NUMBERS, NUMBERS)
def test_runs_are_sets(
    first: list[tuple[int, int]], second: list[tuple[int, int]], low: int, high: int
) -> None:
    a, b = Runs(first), Runs(second)
    mine, yours = members(first), members(second)
    for runs, wanted in ((a, mine), (a | b, mine | yours), (a - b, mine - yours)):
        assert members(runs) == wanted
        assert runs.count == len(wanted)
        assert {n for n in range(-1, 62) if n in runs} == wanted
        pairs = list(runs)
        assert all(end > begin for begin, end in pairs)
        assert all(end < begin for (_, end), (begin, _) in pairwise(pairs))
    assert members(a.between(low, high)) == {n for n in mine if low <= n < high}
    assert Runs.of(sorted(mine)) == a == Runs.of(sorted(mine, reverse=True))


@given(st.sets(st.integers(0, 1 << 62), min_size=1, max_size=200))
def test_an_erasure_event_names_what_it_was_made_of(sequences: set[int]) -> None:
    runs = Runs.of(sequences)
    assert len(runs) <= MAX_RUNS
    data = erasure_event(list(runs), "why").envelope
    assert erased_by(data, max(sequences) + 1) == runs


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4), st.integers(0, 300)),
        st.tuples(st.just("erase"), st.sets(NUMBERS, min_size=1, max_size=6)),
        st.tuples(st.just("forget"), st.sampled_from(["player:0", "player:1", "player"])),
        st.tuples(st.just("compact")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("lose sidecars")),
    ),
    max_size=25,
)


@pytest.mark.proves("INV-PROOF-SURVIVES-ERASURE")
@given(STEPS, st.sampled_from([Durability.SYNC, Durability.OS]))
def test_any_life_keeps_every_hash_and_forgets_what_it_was_told(
    steps: list[tuple[object, ...]], durability: Durability
) -> None:
    options = {"files": DISK, "durability": durability, "segment_max_bytes": 4096, "preallocate": 0}
    with TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        store = Store.open(path, **options)
        hashes: dict[int, bytes] = {}
        payloads: dict[int, bytes | None] = {}
        reader = Store.open(path, mode="r", files=DISK)
        try:
            for name, *arguments in steps:
                if name == "append":
                    number, size = arguments
                    assert isinstance(number, int)
                    assert isinstance(size, int)
                    store.append_many(
                        Item(Coordinate(f"player:{i % 2}", "room"), bytes(size), kind=KIND)
                        for i in range(number)
                    )
                elif name == "erase":
                    (chosen,) = arguments
                    assert isinstance(chosen, set)
                    own = {e.sequence for e in store if e.coordinate.entity == "batpak:store"}
                    victims = {n for n in chosen if n < len(store)} - own
                    store.erase(victims, reason="model")
                    payloads.update(dict.fromkeys(victims, None))
                elif name == "forget":
                    (entity,) = arguments
                    region = Region(entity=str(entity))
                    payloads.update(dict.fromkeys([e.sequence for e in store.query(region)], None))
                    store.erase(region, reason="model")
                elif name == "compact":
                    assert store.compact().outcome in ("performed", "skipped")
                    assert store.plan_compaction().payloads == 0
                else:
                    store.close()
                    if name == "lose sidecars":
                        for file in path.glob("segments/*.idx"):
                            file.unlink()
                    store = Store.open(path, **options)
                reader.refresh()
                for opened in (store, reader):
                    for event in opened:
                        n = event.sequence
                        assert hashes.setdefault(n, event.event_hash) == event.event_hash
                        present = event.payload_state is PayloadState.PRESENT
                        raw = event.raw if present else None
                        assert payloads.setdefault(n, raw) == raw
                    assert opened.verify("full").ok
        finally:
            reader.close()
            store.close()
        assert read_segment.read_journal(path).findings == []
