"""Damage at rest is refused, named, set aside or harmless, as docs/damage.md states beforehand.

Whatever the damage is, no answer is wrong: `observe` asserts it for each case.
"""

from __future__ import annotations

import functools
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from batpak import Store
from tests.support.checker import SYSTEM, Ledger
from tests.support.damage import (
    OPTIONS,
    STATES,
    Print,
    Tree,
    Verdict,
    fill,
    observe,
    overwrite,
    truth_of,
)
from tests.support.effort import EXHAUSTIVE, SEED, sample
from tests.support.faulty_files import DISK
from tests.support.regions import HEADER, Region, records, regions
from tests.support.table import expectations

PATTERNS = (0x01, 0xFF)


class Patient:
    """A journal in a known state, to be damaged and restored."""

    def __init__(self, state: str, folder: Path) -> None:
        self.state = state
        self.path = str(folder / "journal")
        STATES[state](self.path)
        self.truth: list[Print] = truth_of(self.path)
        self.tree = Tree(self.path)
        with Store.open(self.path, mode="r", files=DISK) as reader:
            self.own = {e.event_id.bytes for e in reader if e.coordinate.entity == SYSTEM}
        # What is not damaged is harmless, or the rest of the test says nothing.
        self.judge("harmless", "not damaged", self.near)

    @property
    def near(self) -> range | None:
        """Which events to ask for by themselves: all, but for the large journal."""
        return range(len(self.truth) - 4, len(self.truth)) if self.state == "covered" else None

    @functools.cached_property
    def regions(self) -> list[Region]:
        return regions(self.path)

    def file(self, name: str) -> Path:
        return Path(self.path, name)

    def segments(self) -> list[Path]:
        return sorted(Path(self.path, "segments").glob("*.seg"))

    def judge(self, words: str | frozenset[str], what: str, near: range | None = None) -> Verdict:
        """Observe, restore, and assert that the verdict is one of these words."""
        expected = frozenset({words}) if isinstance(words, str) else words
        try:
            verdict = observe(self.path, self.truth, near=near)
        except AssertionError as error:
            error.add_note(f"{self.state}: {what}")
            raise
        finally:
            self.tree.restore()
        assert verdict.word in expected, (
            f"{self.state}: {what}: {verdict.word}, not {' or '.join(sorted(expected))}: "
            f"{verdict.error or verdict.cut or verdict.findings}"
        )
        return verdict


@pytest.fixture(params=STATES)
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Patient:
    return Patient(request.param, tmp_path)


# --- one byte ------------------------------------------------------------------------


def by_name(patient: Patient) -> dict[str, list[Region]]:
    found: dict[str, list[Region]] = {}
    for region in patient.regions:
        found.setdefault(region.name, []).append(region)
    return found


def most(patient: Patient) -> int:
    # The large journal adds two rows only, and takes longer.
    return 2 if patient.state == "covered" else 6


def test_one_flipped_byte_is_answered_as_the_table_says(patient: Patient) -> None:
    table = expectations("bytes", 1)
    tried = 0
    for name, found in by_name(patient).items():
        places = [(r, at) for r in found for at in range(r.start, r.end)]
        if patient.state == "covered" and len(places) > 2000:
            places = places[:: len(places) // 2000]
        for region, at in sample(f"{patient.state} {name}", places, most(patient)):
            for pattern in PATTERNS:
                flip(patient, table, region, at, pattern)
                tried += 1
    print(f"{patient.state}: {tried} flips, seed {SEED}, exhaustive: {EXHAUSTIVE}")


def flip(
    patient: Patient, table: dict[str, frozenset[str]], region: Region, at: int, pattern: int
) -> None:
    file = patient.file(region.file)
    data = bytearray(file.read_bytes())
    data[at] ^= pattern
    overwrite(file, data)
    what = f"{region.file} at {at} ^ {pattern:#x}, {region.name}"
    verdict = patient.judge(table[region.name], what, patient.near and region.events)

    if verdict.word == "refused":
        assert verdict.error is not None
        assert str(getattr(verdict.error, "file", "")).endswith(file.name) or (
            # An identity that was changed into another valid one: the segments object.
            region.file == "journal.json"
        ), what
        if region.name.startswith("covered"):
            assert patient.truth[region.events[0]][1] in patient.own, what
        else:
            assert verdict.shown <= region.keeps, what
    elif verdict.word == "cut":
        assert verdict.events == region.keeps, what
        assert patient.file(region.file).name in verdict.cut.file
    elif verdict.word == "named":
        told = {f.sequence for f in verdict.findings if f.file.endswith(file.name)}
        assert told & set(region.events) or (told and not region.events), f"{what}: {told}"
        assert verdict.refused_events <= set(region.events), what
        assert verdict.events == len(patient.truth), what
    unchecked = region.name.endswith(("row", "names")) and "covered" in region.name
    assert unchecked or not verdict.wrong_in_query, f"{what}: query gives {verdict.wrong_in_query}"
    assert verdict.wrong_in_query <= set(region.events), what


def test_every_row_of_the_table_is_met(tmp_path: Path) -> None:
    met: set[str] = set()
    for state, make in STATES.items():
        path = str(tmp_path / state / "journal")
        os.makedirs(os.path.dirname(path))
        make(path)
        met |= {region.name for region in regions(path)}
    # Whether padding is needed at these places depends on names and lengths by chance.
    assert set(expectations("bytes", 1)) - met <= {
        "last covered head padding", "last covered record header, head_crc", "last covered envelope"
    }, "rows that no journal here has"  # fmt: skip
    assert met <= set(expectations("bytes", 1))


# --- lengths -------------------------------------------------------------------------


def length_row(patient: Patient, segment: Path, length: int) -> str:
    """The row of the table for a segment that is cut to `length`."""
    data = patient.tree.files[f"segments/{segment.name}"]
    if length < HEADER:
        return "inside the header; anybody or nobody"
    if segment != patient.segments()[-1]:
        return "anywhere; a later segment"
    whole = records(data)
    gone = [record for record in whole if record.end > length]
    if not any(record.count for record in gone):
        pad = any(record.offset < length < record.end for record in gone)
        where = "inside a pad" if pad else "before a pad, or in reserved space"
        return f"{where}; nothing is gone"
    inside = any(record.offset < length < record.end for record in gone)
    left = sum(record.count for record in whole if record.end <= length) + whole[0].base
    where = "inside a record" if inside else "between two records"
    return f"{where}; {'a hint or a sidecar' if outside_bound(patient) > left else 'nobody'}"


def outside_bound(patient: Patient) -> int:
    """The durable bound that hint and sidecars know."""
    places = {"tail.hint": 48}
    places |= {name: 56 for name in patient.tree.files if name.endswith(".idx")}
    return max(
        (
            int.from_bytes(patient.tree.files[name][at : at + 8], "little")
            for name, at in places.items()
            if name in patient.tree.files
        ),
        default=0,
    )


def test_every_length_of_a_segment_is_answered_as_the_table_says(patient: Patient) -> None:
    table = expectations("lengths", 2)
    tried = 0
    met: dict[str, int] = {}
    for segment in patient.segments():
        size = segment.stat().st_size
        lengths = list(range(size))
        borders = {record.end for record in records(segment.read_bytes())}
        if patient.state == "covered":
            lengths = [*range(0, 700, 61), *range(size - 700, size)]
        chosen = sample(f"{patient.state} {segment.name}", lengths, 10 * most(patient))
        near = {b + d for b in sorted(borders)[-4:] for d in (-1, 0, 1) if 0 <= b + d < size}
        for length in sorted({*chosen, *near}):
            row = length_row(patient, segment, length)
            os.truncate(segment, length)
            what = f"{segment.name} cut to {length}: {row}"
            verdict = patient.judge(table[row], what, patient.near)
            left = sum(r.count for r in records(patient.tree.files[f"segments/{segment.name}"])
                       if r.end <= length)  # fmt: skip
            if verdict.word in ("cut", "unseen"):
                assert verdict.events == left + int(segment.stem), row
            met[row] = met.get(row, 0) + 1
            tried += 1
    print(f"{patient.state}: {tried} lengths, seed {SEED}, exhaustive: {EXHAUSTIVE}: {met}")


def test_every_row_of_lengths_is_met(tmp_path: Path) -> None:
    met: set[str] = set()
    for state in STATES:
        (tmp_path / state).mkdir()
        patient = Patient(state, tmp_path / state)
        for segment in patient.segments():
            borders = [HEADER, *(r.end for r in records(segment.read_bytes()))]
            size = segment.stat().st_size
            met |= {
                length_row(patient, segment, length)
                for border in (0, *borders[:4], *borders[-4:])
                for length in (border, border + 5)
                if length < size
            }
    assert met == set(expectations("lengths", 2))


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_every_length_of_the_other_files_is_harmless_but_for_the_identity(
    state: str, tmp_path: Path
) -> None:
    patient = Patient(state, tmp_path)
    tried = 0
    for name, data in patient.tree.files.items():
        if name.endswith(".seg"):
            continue
        for length in sample(f"{state} {name}", range(len(data)), 40):
            os.truncate(patient.file(name), length)
            is_identity = name == "journal.json" and length < len(data) - 1
            patient.judge("refused" if is_identity else "harmless", f"{name} cut to {length}")
            tried += 1
    print(f"{state}: {tried} lengths, seed {SEED}, exhaustive: {EXHAUSTIVE}")


# --- moves ---------------------------------------------------------------------------


def witnesses(patient: Patient) -> list[Path]:
    folder = Path(patient.path)
    return [
        file for file in (*folder.glob("segments/*.idx"), folder / "tail.hint") if file.exists()
    ]


def forget(patient: Patient) -> None:
    for file in witnesses(patient):
        file.unlink()


def other_journal(patient: Patient) -> Path:
    """Another journal of the same shape."""
    path = Path(patient.path).parent / "other"
    if not path.exists():
        STATES[patient.state](str(path))
    return path


def delete(patient: Patient, *places: int) -> None:
    for place in places:
        patient.segments()[place].unlink()


def swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def replace_newest(patient: Patient, data: bytes) -> None:
    patient.segments()[-1].write_bytes(data)


def older_state(patient: Patient) -> None:
    newest = patient.segments()[-1]
    data = newest.read_bytes()
    replace_newest(patient, data[: records(data)[1].end])


def splice(patient: Patient, order: Callable[[list[bytes]], list[bytes]], place: int) -> None:
    """Put the records of the newest segment from `place` on into another order."""
    newest = patient.segments()[-1]
    data = newest.read_bytes()
    found = records(data)[place : place + 2]
    parts = [data[record.offset : record.end] for record in found]
    start, end = found[0].offset, found[-1].end
    newest.write_bytes(data[:start] + b"".join(order(parts)) + data[end:])


def foreign_sidecar(patient: Patient, source: Path) -> None:
    sidecar = patient.segments()[0].with_suffix(".idx")
    assert sidecar.exists()
    sidecar.write_bytes(source.read_bytes())


def older_hint(patient: Patient) -> None:
    """A valid hint that this very journal had when it was two events old."""
    data = bytearray(patient.file("tail.hint").read_bytes())
    data[40:56] = (0).to_bytes(8, "little") + (2).to_bytes(8, "little")
    data[4:8] = zlib.crc32(data[8:]).to_bytes(4, "little")
    patient.file("tail.hint").write_bytes(data)


def another_way(patient: Patient) -> None:
    """Two writers went on from copies of one journal; put a segment of one into the other."""
    shutil.rmtree(patient.path)
    with Store.open(patient.path, files=DISK, **OPTIONS):
        pass
    copy = patient.path + ".copy"
    shutil.copytree(patient.path, copy)
    for path in (copy, patient.path):
        with Store.open(path, files=DISK, **OPTIONS) as store:
            fill(store, Ledger())
    patient.truth = truth_of(patient.path)
    ours, theirs = (
        sorted(Path(path, "segments").glob("*.seg"))[-1] for path in (patient.path, copy)
    )
    assert ours.name == theirs.name
    shutil.copy(theirs, ours)


def lie_about(patient: Patient) -> None:
    for name in ("journal.json.tmp", "segments/00000000000000000099.seg.tmp", "tail.hint.tmp"):
        patient.file(name).write_bytes(b"BATPAK\x01\nhalf a file")


MOVES: dict[str, tuple[str, Callable[[Patient], object]]] = {
    "an older segment is deleted": ("closed", lambda p: delete(p, 0)),
    "the newest segment is deleted": ("closed", lambda p: delete(p, -1)),
    "the newest segment is deleted, with all witnesses": (
        "closed", lambda p: (forget(p), delete(p, -1))
    ),
    "all segments are deleted": ("closed", lambda p: delete(p, 0, -1)),
    "all segments are deleted, with all witnesses": (
        "closed", lambda p: (forget(p), delete(p, 0, -1))
    ),
    "two segments are swapped": ("closed", lambda p: swap(p.segments()[0], p.segments()[1])),
    "a segment is there twice, under a second name": (
        "closed",
        lambda p: shutil.copy(p.segments()[1], p.segments()[1].with_name(f"{99:020}.seg")),
    ),
    "a segment comes from a copy of this journal that went another way": (
        "closed", another_way
    ),
    "the newest segment is deleted, with the hint, and its sidecar is left": (
        "covered", lambda p: (p.file("tail.hint").unlink(), delete(p, -1))
    ),
    "the newest segment loses its end, and only its sidecar knows": (
        "covered", lambda p: (p.file("tail.hint").unlink(), os.truncate(p.segments()[-1], 9000))
    ),
    "a segment comes from another journal": (
        "closed",
        lambda p: shutil.copy(
            other_journal(p) / "segments" / p.segments()[-1].name, p.segments()[-1]
        ),
    ),
    "the newest segment is an older state of itself": ("closed", older_state),
    "the newest segment is all zeros": (
        "closed", lambda p: replace_newest(p, bytes(p.segments()[-1].stat().st_size))
    ),
    "the newest segment is empty": ("closed", lambda p: replace_newest(p, b"")),
    "a proven record is deleted": ("closed", lambda p: splice(p, lambda parts: parts[1:], 0)),
    "a proven record is there twice": (
        "closed", lambda p: splice(p, lambda parts: [parts[0], *parts], 0)
    ),
    "two proven records are swapped": ("closed", lambda p: splice(p, lambda q: q[::-1], 0)),
    "an unproven record is deleted": ("unsynced", lambda p: splice(p, lambda q: q[1:], 1)),
    "an unproven record is there twice": (
        "unsynced", lambda p: splice(p, lambda q: [q[0], *q], 1)
    ),
    "two unproven records are swapped": ("unsynced", lambda p: splice(p, lambda q: q[::-1], 1)),
    "the sidecar belongs to another segment": (
        "closed",
        lambda p: shutil.copy(
            p.segments()[0].with_suffix(".idx"), p.segments()[1].with_suffix(".idx")
        ),
    ),
    "the sidecar belongs to another journal": (
        "closed",
        lambda p: foreign_sidecar(
            p, other_journal(p) / "segments" / p.segments()[0].with_suffix(".idx").name
        ),
    ),
    "the hint is older than the log": ("closed", older_hint),
    "the hint belongs to another journal": (
        "closed", lambda p: shutil.copy(other_journal(p) / "tail.hint", p.file("tail.hint"))
    ),
    "everything disposable is deleted": (
        "closed", lambda p: [file.unlink() for file in witnesses(p) if file.suffix == ".idx"]
    ),
    "all witnesses are deleted": ("closed", forget),
    "journal.json is deleted": ("closed", lambda p: p.file("journal.json").unlink()),
    "journal.json belongs to another journal": (
        "closed", lambda p: shutil.copy(other_journal(p) / "journal.json", p.file("journal.json"))
    ),
    "the lock file is deleted": ("closed", lambda p: p.file("journal.lock").unlink()),
    "unfinished files lie about": ("closed", lie_about),
    "a file that is none of ours lies in segments/": (
        "closed", lambda p: p.file("segments/00000000000000000001.seg~").write_bytes(b"mine")
    ),
}  # fmt: skip
ELSEWHERE = {"the sidecar is older than its segment"}


@pytest.mark.parametrize("what", MOVES)
def test_a_move_is_answered_as_the_table_says(what: str, tmp_path: Path) -> None:
    state, move = MOVES[what]
    patient = Patient(state, tmp_path)
    move(patient)
    verdict = patient.judge(expectations("moves", 1)[what], what, patient.near)
    if verdict.word == "cut":
        # The open event, and what stood in its right place before the first record that does not.
        assert verdict.events == (2 if "twice" in what else 1)


def test_every_row_of_moves_is_tried() -> None:
    assert set(expectations("moves", 1)) == set(MOVES) | ELSEWHERE


def test_a_sidecar_that_is_older_than_its_segment_is_used_as_far_as_it_goes(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "journal")
    STATES["covered"](path)
    old = Path(path, "segments", "0" * 20 + ".idx").read_bytes()
    with Store.open(path, files=DISK) as store:
        ledger = Ledger(numbers=5000)
        for i in range(1100):
            ledger.commit(store, f"player:{i % 3}")
    truth = truth_of(path)
    sidecar = Path(path, "segments", "0" * 20 + ".idx")
    assert sidecar.read_bytes() != old, "this test needs a newer one"
    sidecar.write_bytes(old)
    verdict = observe(path, truth, near=range(1030, 1040))
    assert verdict.word in expectations("moves", 1)["the sidecar is older than its segment"]
    sidecar.write_bytes(old)
    with Store.open(path, files=DISK) as store:
        assert store.open_report.mapped == 1
        assert store.open_report.walked >= 1100


def test_deleting_what_is_disposable_between_all_opens_changes_nothing(tmp_path: Path) -> None:
    kept, stripped = str(tmp_path / "kept"), str(tmp_path / "stripped")
    for path in (kept, stripped):
        ledger = Ledger()
        for _ in range(3):
            with Store.open(path, files=DISK, **OPTIONS) as store:
                fill(store, ledger)
                shown = [(e.sequence, e.coordinate, e.raw) for e in store if e.kind.raw >> 12]
            if path == stripped:
                for file in Path(path, "segments").glob("*.idx"):
                    file.unlink()
        if path == kept:
            expected = shown
    assert shown == expected
