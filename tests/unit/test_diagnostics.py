"""What diagnostics says of a store: counted, seen or said to be unknown, and never by writing."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, Diagnostics, Durability, EventKind, Item, Store, StoreConfig
from batpak.engine import diagnostics
from batpak.engine.diagnostics import EvidenceState, PlaceEvidence, place_evidence
from batpak.errors import JournalPoisoned, StoreClosed
from batpak.files import REAL, Space, filesystem_space, lock_holder, may_write
from batpak.journal.header import HEADER_SIZE
from batpak.journal.layout import Layout
from batpak.journal.tally import Syncs, Written
from tests.support.faulty_files import CHANGES, FaultyFiles, RecordingFiles
from tests.watched_files import WatchedFiles

ALICE = Coordinate("player:alice", "room:1")
NOTE = EventKind(0xF, 1)
SECOND = 1_000_000_000


class SteeredClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, wall_us: int = 1_700_000_000_000_000) -> None:
        self.wall_us: Any = wall_us
        self.now = 0

    def now_us(self) -> int:
        return self.wall_us

    def now_ns(self) -> int:
        return self.wall_us * 1000

    def monotonic_ns(self) -> int:
        return self.now

    def boot_marker(self) -> str:
        return "steered"


class SlowDisk(WatchedFiles):
    """A disk whose syncs of the log take as long, by a steered clock, as the test says."""

    def __init__(self, clock: SteeredClock) -> None:
        super().__init__()
        self.clock = clock
        self.sync_takes = 0

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self.clock.now += self.sync_takes


def note(store: Store, number: int = 0, **options: Any) -> Any:
    return store.append(ALICE, number, kind=NOTE, **options)


def states(place: PlaceEvidence) -> dict[str, EvidenceState]:
    return {
        each.name: value.state
        for each in fields(place)
        if isinstance(value := getattr(place, each.name), diagnostics.Evidence)
    }


def log_bytes(path: Path) -> int:
    """Bytes of records in all segments of a journal that was closed."""
    return sum(each.stat().st_size - HEADER_SIZE for each in (path / "segments").glob("*.seg"))


# --- counts ------------------------------------------------------------------------


@given(sizes=st.lists(st.lists(st.integers(1, 3), max_size=12), min_size=1, max_size=3))
def test_what_was_written_since_the_open_is_counted(
    sizes: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("counts") / "journal"
    before = segments = 0
    for batches in sizes:
        # Segments so small that most opens rotate more than once.
        with Store.open(path, segment_max_bytes=4096, durability=Durability.OS) as store:
            # Right after the open: its own event, one commit of one event.
            writes = store.diagnostics().writes
            assert writes is not None
            assert (writes.commits, writes.events) == (1, 1)
            for batch in batches:
                store.append_many([Item(ALICE, "x" * 500, kind=NOTE)] * batch)
            seen = store.diagnostics()
            names = sorted((path / "segments").glob("*.seg"))
            log = store.stats().segment_bytes - HEADER_SIZE * len(names)
        assert seen.writes is not None
        assert seen.writes.commits == 1 + len(batches)
        assert seen.writes.events == 1 + sum(batches)
        assert seen.writes.bytes == log - before
        assert seen.writes.rotations == len(names) - max(segments, 1)
        before, segments = log_bytes(path), len(list((path / "segments").glob("*.seg")))


def test_between_two_assignments_of_a_rotation_the_old_count_is_found() -> None:
    first = Written(0, -3, -1000)
    second = first.rotated(10, 5, 4000)
    assert second.of(10) == second
    assert second.of(10)[:4] == (10, 2, 3000, 1)
    # The log's state still names the old segment.
    assert second.of(0) == first
    third = second.rotated(20, 7, 4100)
    assert third.of(20)[:4] == (20, 9, 7100, 2)
    assert third.of(10)[:4] == second[:4]
    assert third.before is not None
    assert third.before.before is None, "a chain of all rotations would grow for ever"


@given(st.lists(st.floats(0, 1e6), max_size=20), st.floats(0.001, 1e3))
def test_syncs_are_summed_up(took: list[float], bound: float) -> None:
    syncs = Syncs()
    for each in took:
        syncs = syncs.with_one(each, is_slow=each > bound)
    assert syncs.done == len(took)
    assert syncs.slowest == max(took, default=0.0)
    assert syncs.seconds == pytest.approx(sum(took))
    assert syncs.slow == sum(each > bound for each in took)


def test_syncs_are_counted_with_their_seconds(tmp_path: Path) -> None:
    clock = SteeredClock()
    files = SlowDisk(clock)
    with Store.open(tmp_path / "j", clock=clock, files=files, sync_warning=2) as store:
        at_open = store.diagnostics().syncs
        assert at_open is not None
        assert (at_open.count, at_open.slow, at_open.slowest) == (1, 0, 0.0)
        for seconds in (1, 2, 3, 4):
            files.sync_takes = seconds * SECOND
            note(store)
        syncs = store.diagnostics().syncs
        files.sync_takes = 0
    assert syncs is not None
    assert syncs.count == 5 == files.count("sync_data") - 1  # the close's own
    assert (syncs.mean, syncs.slowest) == (2.0, 4.0)
    assert (syncs.slow, syncs.warning) == (2, 2)


def test_a_sync_slower_than_the_bound_is_logged_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SteeredClock()
    files = SlowDisk(clock)
    with (
        caplog.at_level(logging.WARNING),
        Store.open(tmp_path / "j", clock=clock, files=files, sync_warning=0.5) as store,
    ):
        files.sync_takes = SECOND // 2
        note(store)
        assert not caplog.records, "just the bound is not over it"
        files.sync_takes = SECOND // 2 + 1
        note(store)
        files.sync_takes = 0
    [record] = caplog.records
    assert (record.name, record.levelname) == ("batpak.journal", "WARNING")
    facts: Any = record
    assert facts.code == "slow-sync"
    assert facts.seconds == pytest.approx(0.500000001)
    assert facts.bound_seconds == 0.5
    assert facts.file.endswith("00000000000000000000.seg")


def test_a_store_that_only_reads_counts_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        note(store)
        with Store.open(tmp_path / "j", mode="r") as reader:
            seen = reader.diagnostics()
            assert (seen.writes, seen.syncs, seen.mode) == (None, None, "r")
            assert (seen.visible, seen.durable, seen.written) == (2, 2, 2)
            assert seen.journal_id == str(store.journal_id)
            assert seen.open_report == reader.open_report
            assert seen.clock.behind_at_open_ms is None
            assert seen.clock.last_event_ms == store.at(1).hlc >> 16


# --- bounds, poison, the end ---------------------------------------------------------


def test_bounds_are_those_of_the_frontier(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j", durability=Durability.OS) as store:
        for number in range(3):
            note(store, number)
        seen, frontier = store.diagnostics(), store.frontier()
        assert (seen.visible, seen.durable, seen.written) == (
            frontier.visible.sequence, frontier.durable.sequence, frontier.written.sequence,
        )  # fmt: skip
        assert (seen.visible, seen.durable) == (4, 1)


def test_a_poisoned_store_says_why(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files, durability=Durability.OS)
    assert store.diagnostics().poisoned is None
    note(store)
    files.refuse("sync_data", "0" * 20 + ".seg", errno.EIO)
    with pytest.raises(JournalPoisoned):
        store.sync()
    assert "Input/output error" in str(store.diagnostics().poisoned)
    with pytest.raises(JournalPoisoned):
        store.close()
    with pytest.raises(StoreClosed):
        store.diagnostics()


# --- evidence ------------------------------------------------------------------------


def test_a_writer_has_seen_what_its_open_needed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        place = store.diagnostics().place
    assert states(place) == {
        "writing": EvidenceState.SEEN,
        "directory_sync": EvidenceState.SEEN,
        "file_lock": EvidenceState.SEEN,
        "reserving": EvidenceState.SEEN,
        "mapping": EvidenceState.SEEN,
        "hard_links": EvidenceState.UNKNOWN,
        "reflinks": EvidenceState.UNKNOWN,
    }
    assert (place.path, place.directory, place.status) == (
        str(tmp_path / "j"), str(tmp_path / "j"), "directory",
    )  # fmt: skip
    assert place.filesystem
    assert not place.is_network


@pytest.mark.parametrize(
    ("refuse", "preallocate", "state", "words"),
    [
        (errno.EOPNOTSUPP, 1 << 20, EvidenceState.REFUSED, "not supported"),
        (None, 0, EvidenceState.UNKNOWN, "preallocate is 0"),
        (None, 1 << 20, EvidenceState.SEEN, "reserved"),
    ],
)
def test_reserving_is_known_from_what_the_writer_met(
    tmp_path: Path, refuse: int | None, preallocate: int, state: EvidenceState, words: str
) -> None:
    files = WatchedFiles()
    if refuse is not None:
        files.refuse("allocate", "0" * 20 + ".seg", refuse)
    with Store.open(tmp_path / "j", files=files, preallocate=preallocate) as store:
        found = store.diagnostics().place.reserving
    assert found.state is state
    assert words in found.how
    assert words in str(found)


class RefusingFiles(RecordingFiles):
    """Files of which some operations are refused."""

    def __init__(self, **refused: int) -> None:
        super().__init__()
        self.refused = refused

    def _run(self, operation: Any, effect: Any) -> Any:
        if operation.name in self.refused:
            raise OSError(self.refused[operation.name], os.strerror(self.refused[operation.name]))
        return super()._run(operation, effect)


@pytest.mark.parametrize(
    ("field", "operation"),
    [("directory_sync", "sync_directory"), ("file_lock", "lock"), ("mapping", "map")],
)
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EACCES, errno.ENOTSUP])
def test_what_the_system_refuses_is_refused_and_the_rest_seen(
    tmp_path: Path, field: str, operation: str, number: int
) -> None:
    Store.open(tmp_path / "j").close()
    layout = Layout(tmp_path / "j")
    tried = ("directory_sync", "file_lock", "mapping")
    usual = states(place_evidence(RecordingFiles(), layout))
    assert {usual[name] for name in tried} == {EvidenceState.SEEN}
    place = place_evidence(RefusingFiles(**{operation: number}), layout)
    assert states(place) == usual | {field: EvidenceState.REFUSED}
    assert getattr(place, field).how == os.strerror(number)


@pytest.mark.proves("INV-PROBING-WRITES-NOTHING")
def test_a_probe_writes_nothing_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        note(store)
        before = {path: path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file()}
        files = RecordingFiles()
        place_evidence(files, Layout(tmp_path / "j"))
        changes = [(o.name, os.path.basename(o.path)) for o in files.operations]
        changes = [each for each in changes if each[0] in CHANGES]
        assert changes == [("sync_directory", "j"), ("lock", "journal.json")]
        assert not files.open_files
        after = {path: path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file()}
        assert after == before
        note(store)


@pytest.mark.proves("INV-PROBING-WRITES-NOTHING")
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_diagnostics_of_a_store_change_nothing_at_all(tmp_path: Path, mode: Any) -> None:
    Store.open(tmp_path / "j").close()
    files = RecordingFiles()
    with Store.open(tmp_path / "j", mode=mode, files=files) as store:
        done = len(files.operations)
        store.diagnostics()
        asked = [o.name for o in files.operations[done:]]
    assert "map" in asked
    assert not CHANGES & set(asked)


@pytest.mark.parametrize("place", range(12))
def test_a_probe_that_meets_an_error_anywhere_goes_on(tmp_path: Path, place: int) -> None:
    from tests.support.faulty_files import Fault

    Store.open(tmp_path / "j").close()
    files = FaultyFiles()
    files.arm(place, Fault.ERROR)
    found = place_evidence(files, Layout(tmp_path / "j"))
    assert set(states(found).values()) <= set(EvidenceState)
    assert not files.open_files


def test_where_there_is_no_journal_the_directory_above_is_looked_at(tmp_path: Path) -> None:
    place = place_evidence(REAL, Layout(tmp_path / "a" / "b" / "c"))
    assert (place.status, place.directory) == ("missing", str(tmp_path))
    assert place.mapping == diagnostics.Evidence(EvidenceState.UNKNOWN, "there is no file to map")
    assert place.file_lock.state is EvidenceState.SEEN
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    place = place_evidence(REAL, Layout(tmp_path / "file"))
    assert (place.status, place.directory) == ("other", str(tmp_path))
    # A journal.json of no bytes is nothing to map, and no reason to fail.
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "journal.json").touch()
    assert place_evidence(REAL, Layout(tmp_path / "j")).mapping.state is EvidenceState.UNKNOWN


def test_hard_links_are_seen_where_there_are_some(tmp_path: Path) -> None:
    Store.open(tmp_path / "j").close()
    segment = tmp_path / "j" / "segments" / ("0" * 20 + ".seg")
    os.link(segment, tmp_path / "copy")
    place = place_evidence(REAL, Layout(tmp_path / "j"))
    assert place.hard_links == diagnostics.Evidence(
        EvidenceState.SEEN, f"{segment.name} has 2 names"
    )


def test_permissions_are_asked_for_and_not_tried(tmp_path: Path) -> None:
    assert may_write(str(tmp_path))
    assert not may_write(str(tmp_path / "missing"))
    assert not list(tmp_path.iterdir())


def test_the_room_is_what_the_system_says(tmp_path: Path) -> None:
    space = filesystem_space(str(tmp_path))
    assert isinstance(space, Space)
    assert 0 < space.free <= space.total
    assert not space.read_only
    assert filesystem_space(str(tmp_path / "missing")) is None
    sysfs = filesystem_space("/proc")
    assert sysfs is not None
    assert sysfs.free == 0


# --- who holds a lock ----------------------------------------------------------------

HOLD = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="only Linux lists its locks")
def test_the_holder_of_a_lock_is_found_without_taking_it(tmp_path: Path) -> None:
    for name in ("held", "free"):
        (tmp_path / name).touch()
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "held"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert lock_holder(os.stat(tmp_path / "held")) == child.pid
        assert lock_holder(os.stat(tmp_path / "free")) == 0
        child.communicate()
    assert lock_holder(os.stat(tmp_path / "held")) == 0


# --- clocks --------------------------------------------------------------------------


@pytest.mark.proves("INV-CLOCK-REGRESSION-REPORTED")
@pytest.mark.parametrize("behind_ms", [0, 1, 86_400_000])
def test_a_clock_behind_the_journal_is_reported_and_stops_nobody(
    tmp_path: Path, behind_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SteeredClock()
    with Store.open(tmp_path / "j", clock=clock) as store:
        last = note(store)
    clock.wall_us -= behind_ms * 1000
    with caplog.at_level(logging.WARNING), Store.open(tmp_path / "j", clock=clock) as store:
        assert store.open_report.clock_behind_ms == behind_ms
        seen = store.diagnostics().clock
        assert (seen.source, seen.wall_us, seen.problem) == ("SteeredClock", clock.wall_us, None)
        assert (seen.behind_at_open_ms, seen.behind_ms) == (behind_ms, behind_ms)
        assert (seen.wall_resolution, seen.boot_marker) == (None, "steered")
        assert note(store).hlc > last.hlc
        clock.wall_us += 2 * 86_400_000_000
        assert store.diagnostics().clock.behind_ms == 0
        assert store.diagnostics().clock.behind_at_open_ms == behind_ms
    codes = [(r.name, getattr(r, "code", None)) for r in caplog.records]
    assert codes == ([("batpak.open", "clock-behind")] if behind_ms else [])
    assert [getattr(r, "behind_ms", None) for r in caplog.records] == [behind_ms] * len(codes)


def test_a_reading_that_can_not_be_stored_is_told_and_not_raised(tmp_path: Path) -> None:
    clock = SteeredClock()
    with Store.open(tmp_path / "j", clock=clock) as store:
        for bad in (-1, 1.5, None):
            clock.wall_us = bad
            seen = store.diagnostics().clock
            assert seen.wall_us is None
            assert seen.problem
            assert seen.behind_ms == 0
        clock.wall_us = 1_700_000_000_000_000


def test_the_systems_clock_tells_its_resolution(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        first, second = store.diagnostics().clock, store.diagnostics().clock
    assert first.source == "SystemClock"
    assert first.boot_marker == second.boot_marker
    assert first.monotonic_ns <= second.monotonic_ns
    for resolution in (first.wall_resolution, first.monotonic_resolution):
        assert resolution is not None
        assert 0 < resolution <= 1
    assert first.behind_at_open_ms == 0


def test_a_journal_whose_last_event_is_damaged_still_has_diagnostics(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j", durability=Durability.OS) as store:
        for number in range(1100):
            note(store, number)
    segment = tmp_path / "j" / "segments" / ("0" * 20 + ".seg")
    with Store.open(tmp_path / "j", mode="r") as reader:
        assert reader.diagnostics().clock.last_event_ms is not None
        with segment.open("r+b") as file:
            file.truncate(HEADER_SIZE)
        assert reader.diagnostics().clock.last_event_ms is None


# --- the whole -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_all_of_it_has_a_form_in_json(tmp_path: Path, mode: Any) -> None:
    name = os.fsdecode(b"j\xff")
    options: dict[str, Any] = {"sync_warning": float("inf"), "clock": lambda: 5_000_000}
    options["durability"] = Durability.EVERY(ms=7, events=9)
    Store.open(tmp_path / name).close()
    with Store.open(tmp_path / name, mode=mode, **options) as store:
        seen = store.diagnostics()
    found = json.loads(seen.to_json(), parse_constant=pytest.fail)
    assert set(found) == {each.name for each in fields(Diagnostics)}
    assert set(found["options"]) == {each.name for each in fields(StoreConfig)}
    assert found["options"]["durability"] == {"ms": 7, "events": 9}
    assert found["options"]["clock"] == "FunctionClock"
    assert found["options"]["sync_warning"] == "inf"
    assert found["path"] == str(tmp_path / name)
    assert found["place"]["mapping"]["state"] == "seen"
    assert found["open_report"] == json.loads(seen.open_report.to_json())
    assert found["host"]["packages"].keys() == set(diagnostics.PACKAGES)
    assert found["host"]["packages"]["blake3"]
    assert (found["clock"]["wall_us"], found["clock"]["behind_ms"] > 0) == (5_000_000, True)


def test_the_open_report_tells_a_cut_in_json(tmp_path: Path) -> None:
    Store.open(tmp_path / "j").close()
    segment = tmp_path / "j" / "segments" / ("0" * 20 + ".seg")
    with segment.open("ab") as file:
        file.write(b"torn")
    with Store.open(tmp_path / "j") as store:
        cut = json.loads(store.open_report.to_json())["cut"]
    assert (cut["bytes"], cut["file"]) == (4, str(segment))
    assert cut["quarantine"].endswith(".bin")
