"""Recovery reads a segment in two forms, many records at a time and one by one: they must agree.

Whatever was cut, changed or forged, both must keep the same events, cut the same bytes,
refuse for the same reason, and leave the same files behind.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, Durability, Event, EventId, EventKind, Item, Region, Store
from batpak.engine import bulk_check, bulk_walk, verify
from batpak.engine.following import Follower
from batpak.engine.reading import LogReader
from batpak.engine.report import OpenReport
from batpak.errors import BatpakError
from batpak.journal import recovery
from batpak.journal.hint import Hint
from batpak.store import ReadOnlyStore, Stats
from tests.property.test_verify_forms import fields, looked_at, records, resealed
from tests.support.faulty_files import DISK

NOTED = EventKind(0xF, 1)
OTHER = EventKind(0xF, 2)
NEVER = 1 << 62
SOON = 4096
"""Bytes from which on records are taken many at a time, in these tests."""


def place(i: int) -> Coordinate:
    return Coordinate(f"thing:{i % 5}", "shelf" if i % 3 else "box:1")


def opened(path: Path, **options: Any) -> Store:
    few = {"durability": Durability.OS, "preallocate": 1 << 16, "segment_max_bytes": 1 << 16}
    return Store.open(path, files=DISK, **{**few, **options})


def fill(store: Store, first: int, count: int) -> None:
    for i in range(first, first + count):
        match i % 11:
            case 3:
                items = [Item(place(i + k), {"n": i, "k": k}, kind=NOTED) for k in range(4)]
                store.append_many(items)
            case 5:
                store.append(place(i), {"n": i}, kind=OTHER, key=i.to_bytes(16, "big"))
            case 7:
                store.append(place(i), {"n": i}, kind=NOTED, extensions={f"note.n{i}": b"\x01"})
            case 8:
                store.append_raw(place(i), NOTED, b"")
            case _:
                store.append(Coordinate(f"one:{i}", "shelf"), {"n": i}, kind=NOTED, lane=i)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments: the first one sealed, the second as a writer that was killed left it."""
    folder = tmp_path_factory.mktemp("forms")
    with opened(folder / "live") as store:
        fill(store, 0, 150)
        gone = store.append(place(1), {"name": "Ada"}, kind=NOTED)
        store.erase([gone.sequence], reason="asked for")
        fill(store, 150, 30)
        # From here on nothing is known to be durable.
        store.sync()
        fill(store, 180, 60)
        shutil.copytree(folder / "live", folder / "killed")
    journal = folder / "killed"
    for file in journal.rglob("*.idx"):
        file.unlink()
    assert len(list(journal.glob("segments/*.seg"))) == 2
    return journal


def told(question: Callable[[], Any]) -> Any:
    """The answer, or how it was refused: what is damaged below D is met by readers."""
    try:
        return question()
    except BatpakError as error:
        return type(error), error.what, {**error.facts, "file": None}


def parts(event: Event) -> Any:
    return event.row_bytes, event.metadata_bytes, event.payload_state, event.envelope


def everything(store: Store | ReadOnlyStore) -> list[Any]:
    """All that an index is asked for, but for the last event: it may be this open's."""
    last = len(store) - 1
    shown = [told(lambda i=i: parts(store.at(i))) for i in range(last)]
    for at in range(last):
        event_id = EventId.from_bytes(shown[at][0][8:24]) if type(shown[at][0]) is bytes else None
        shown.append(event_id and told(lambda one=event_id: parts(store.get(one))))
    for i in range(6):
        shown.append(told(lambda i=i: str(store.latest(f"thing:{i}"))))
    regions = (
        Region(scope="box:1"), Region(kind=OTHER), Region(entity="one"),
        Region(entity="thing:2", clock=(3, 9)),
    )  # fmt: skip
    for region in regions:
        shown.append(told(lambda region=region: store.count(region)))
        found = told(lambda region=region: [e.sequence for e in store.query(region)])
        shown.append(found)
    stats = told(store.stats)
    if isinstance(stats, Stats):
        shown.append((stats.events, stats.entities, stats.scopes, dict(stats.kinds)))
    else:
        shown.append(stats)
    return shown


def relative(report: OpenReport, into: Path) -> str:
    return re.sub(r"-\d{10,}\S*", "", str(report)).replace(str(into), "")


def outcome(path: Path, into: Path, worth: int) -> Any:
    """What an open of a copy comes to, and the files that it leaves behind."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(path, into)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_walk, "WORTH", worth)
        with Store.open(into, mode="r") as reader:
            report = relative(replace(reader.open_report, seconds={}), into)
            seen = everything(reader), report, reader.diagnostics().durable
        try:
            store = opened(into)
        except BatpakError as error:
            return seen, type(error), error.what, {**error.facts, "file": None, "advice": None}
        with store:
            report = replace(store.open_report, seconds={}, clock_behind_ms=0)
            shown = everything(store)
        kept = [file.read_bytes() for file in sorted(into.glob("quarantine/*"))]
        kept = [re.sub(rb'"quarantined_us": \d+', b"", data) for data in kept]
        return seen, shown, relative(report, into), kept


def both(path: Path) -> Any:
    many = outcome(path, path.parent / "many", SOON)
    one = outcome(path, path.parent / "one", NEVER)
    assert many == one
    return many


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("segments/*.seg"))


@pytest.fixture
def copy(journal: Path, tmp_path: Path) -> Path:
    shutil.copytree(journal, tmp_path / "journal")
    return tmp_path / "journal"


@pytest.mark.parametrize("hint", [True, False])
def test_they_agree_on_what_a_killed_writer_left(copy: Path, hint: bool) -> None:
    if not hint:
        (copy / "tail.hint").unlink()
    _, shown, report, _ = both(copy)
    assert len(shown) > 300
    # Both were used: most of this is beyond what the hint knows of.
    assert "rebuilt=1" in report


def test_they_agree_on_a_journal_that_was_closed_and_rewritten(tmp_path: Path) -> None:
    """Rewritten records have tables of stored lengths: they are looked at one by one."""
    path = tmp_path / "journal"
    with opened(path) as store:
        fill(store, 0, 150)
        store.erase([20, 21, 90], reason="asked for")
        store.compact()
        fill(store, 150, 90)
    for file in path.rglob("*.idx"):
        file.unlink()
    both(path)


@given(
    data=st.data(), flip=st.integers(1, 255), seal=st.booleans(), hint=st.booleans(),
    which=st.sampled_from([0, 1]),
)  # fmt: skip
def test_they_agree_on_a_changed_byte(
    journal: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, flip: int,
    seal: bool, hint: bool, which: int,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("changed") / "journal"
    shutil.copytree(journal, path)
    if not hint:
        (path / "tail.hint").unlink()
    segment = segments(path)[which]
    whole = bytearray(segment.read_bytes())
    at, _, after = data.draw(st.sampled_from(list(records(whole))))
    places = [place for place in fields() if place[1] <= after - at]
    start, end = data.draw(st.sampled_from([*places, (0, after - at)]))
    whole[at + data.draw(st.integers(start, end - 1))] ^= flip
    segment.write_bytes(resealed(whole) if seal else bytes(whole))
    both(path)
    shutil.rmtree(path.parent)


@given(data=st.data(), hint=st.booleans(), zeros=st.booleans())
def test_they_agree_on_a_cut_or_a_hole(
    journal: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, hint: bool,
    zeros: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("cut") / "journal"
    shutil.copytree(journal, path)
    if not hint:
        (path / "tail.hint").unlink()
    segment = segments(path)[-1]
    whole = bytearray(segment.read_bytes())
    at = data.draw(st.integers(128, len(whole.rstrip(b"\0"))))
    if zeros:
        length = min(data.draw(st.sampled_from([1, 64, 512, 4096])), len(whole) - at)
        whole[at : at + length] = bytes(length)
    else:
        del whole[at:]
    segment.write_bytes(whole)
    both(path)
    shutil.rmtree(path.parent)


def rows_of(whole: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Record, its end, how many events, and the first one's entity."""
    for at, _, after in records(whole):
        count = struct.unpack_from("<I", whole, at + 44)[0]
        names = at + 64 + 176 * count
        length = struct.unpack_from("<H", whole, at + 64 + 94)[0]
        yield at, after, count, whole[names : names + length]


@pytest.mark.parametrize("stream", [b"thing:", b"one:"])
def test_the_first_event_of_a_stream_in_a_segment_has_to_prove_its_link(
    copy: Path, stream: bytes
) -> None:
    """Beyond what is known to be durable; it links to the segment before, or to nothing."""
    (copy / "tail.hint").unlink()
    segment = segments(copy)[1]
    whole = bytearray(segment.read_bytes())
    at = next(at for at, _, _, entity in rows_of(whole) if entity.startswith(stream))
    whole[at + 64 + 144] ^= 1
    segment.write_bytes(resealed(whole))
    _, _, report, _ = both(copy)
    assert "reason='prev-hash'" in report


def test_a_commit_that_only_begins_below_what_is_durable_has_to_prove_itself(copy: Path) -> None:
    segment = segments(copy)[1]
    whole = bytearray(segment.read_bytes())
    sequence = int(segment.stem)
    ends = list[int]()
    for _, after, count, _ in rows_of(whole):
        ends.append(after)
        if count > 1:
            break
        sequence += count
    hint = Hint.decode((copy / "tail.hint").read_bytes())
    assert hint is not None
    (copy / "tail.hint").write_bytes(hint._replace(durable=sequence + 1).encode())
    # Zeros at its end are padding.
    whole[len(whole[: ends[-1]].rstrip(b"\0")) - 1] ^= 1
    segment.write_bytes(whole)
    both(copy)


@pytest.mark.parametrize("durability", [Durability.OS, Durability.SYNC])
def test_a_follower_sees_the_same_at_every_step(tmp_path: Path, durability: Durability) -> None:
    path = tmp_path / "journal"
    readers: list[ReadOnlyStore] = []
    with pytest.MonkeyPatch.context() as patch, opened(path, durability=durability) as store:
        for worth in (SOON, 64, NEVER):
            patch.setattr(bulk_walk, "WORTH", worth)
            readers.append(Store.open(path, mode="r"))
        for step, count in enumerate((40, 1, 3, 90, 2, 60)):
            fill(store, 100 * step, count)
            if step == 2:
                store.erase([3, 5], reason="asked for")
            for reader, worth in zip(readers, (SOON, 64, NEVER), strict=True):
                patch.setattr(bulk_walk, "WORTH", worth)
                assert reader.refresh() == len(store)
                assert everything(reader) == everything(store)
        assert len(list(path.glob("segments/*.seg"))) > 1
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("then", [SOON, NEVER])
def test_a_refresh_that_was_cut_short_is_simply_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: int
) -> None:
    """Ctrl-C comes when many events are in the index, and before they are shown."""
    path = tmp_path / "journal"
    moved = Follower._moved

    def interrupted(self: Follower, chain: Any, last: Any) -> None:
        if chain.sequence < self.bound + 20:
            return moved(self, chain, last)
        monkeypatch.setattr(Follower, "_moved", moved)
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk_walk, "WORTH", SOON)
    monkeypatch.setattr(bulk_walk, "_LATER", 1)
    with opened(path, segment_max_bytes=1 << 20) as store, Store.open(path, mode="r") as reader:
        fill(store, 0, 90)
        monkeypatch.setattr(Follower, "_moved", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.refresh()
        monkeypatch.setattr(bulk_walk, "WORTH", then)
        fill(store, 90, 20)
        assert reader.refresh() == len(store)
        assert everything(reader) == everything(store)


def test_what_is_neither_durable_nor_for_all_to_see_is_not_taken_by_a_reader(
    tmp_path: Path,
) -> None:
    """A writer in SYNC was killed before its sync: a reader may not show what it wrote."""
    path = tmp_path / "journal"
    with opened(path, durability=Durability.SYNC) as store:
        fill(store, 0, 60)
        shutil.copytree(path, tmp_path / "killed")
    (tmp_path / "killed" / "tail.hint").unlink()
    seen, shown, _, _ = both(tmp_path / "killed")
    assert len(shown) > len(seen[0])


# --- work, counted --------------------------------------------------------------------------


def test_below_what_is_durable_no_older_segment_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream that is new in the segment would be looked for in all that precede it."""
    path = tmp_path / "journal"
    with opened(path) as store:
        fill(store, 0, 300)
    for file in path.rglob("*.idx"):
        file.unlink()
    asked: list[bytes] = []
    head = LogReader.head

    def counted(self: LogReader, entity: bytes, bound: int) -> Any:
        asked.append(entity)
        return head(self, entity, bound)

    monkeypatch.setattr(bulk_walk, "WORTH", SOON)
    monkeypatch.setattr(LogReader, "head", counted)
    with opened(path) as store:
        assert len(store) > 300
    assert set(asked) <= {b"batpak:store"}


def test_where_odd_records_are_frequent_no_byte_is_tried_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    with Store.open(path, files=DISK, durability=Durability.OS) as store:
        for i in range(3000):
            store.append(place(i), {"n": i}, kind=NOTED)
            if i % 70 == 0:
                store.erase([len(store) - 1], reason="asked for")
    for file in path.rglob("*.idx"):
        file.unlink()
    (segment,) = segments(path)
    size = len(segment.read_bytes().rstrip(b"\0"))
    tried = 0
    check_run = bulk_check.check_run

    def counted(window: bytes, *args: Any, **options: Any) -> Any:
        nonlocal tried
        tried += len(window.rstrip(b"\0"))
        return check_run(window, *args, **options)

    monkeypatch.setattr(bulk_walk, "WORTH", SOON)
    monkeypatch.setattr(bulk_check, "check_run", counted)
    monkeypatch.setattr(verify, "check_run", counted)
    with opened(path, segment_max_bytes=1 << 26) as store:
        assert size / 2 < tried < 4 * size
        tried = 0
        assert store.verify("chain").ok
        assert size / 2 < tried < 4 * size


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_of_an_ordinary_tail_records_are_not_looked_at_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Below what is durable and behind it; all but the pad of a close."""
    path = tmp_path / "journal"
    with opened(path, segment_max_bytes=1 << 26, preallocate=0) as store:
        for i in range(2000):
            store.append(place(i), {"n": i}, kind=NOTED)
            if i == 1000:
                store.sync()
        shutil.copytree(path, tmp_path / "killed")
    if end == "killed":
        path = tmp_path / "killed"
    for file in path.rglob("*.idx"):
        file.unlink()
    monkeypatch.setattr(bulk_walk, "WORTH", SOON)
    seen = looked_at(monkeypatch, recovery)
    with opened(path, segment_max_bytes=1 << 26) as store:
        assert store.open_report.walked >= 2000
        # Where what is durable ends in the middle of what was tried, one try ends too.
        assert len(seen) == (end == "killed")
