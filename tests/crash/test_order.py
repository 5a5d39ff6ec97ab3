"""Promises are given when the disk has what they need, at a known number of calls.

Kills leave what the system holds in memory, so they can't show a missing sync. The
order of the recorded operations can. The second half are the harness's own tests: files
with a planted bug have to be caught.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, Store
from batpak.config import StoreConfig
from tests.support.checker import KIND, Ledger, check_journal, check_order, segment_bytes
from tests.support.faulty_files import (
    DISK,
    Fault,
    FaultyFiles,
    Killed,
    Operation,
    RecordingFiles,
)
from tests.support.proofs import LOG

SMALL: dict[str, Any] = {"segment_max_bytes": 4096, "preallocate": 8192}


def live(path: str, files: RecordingFiles) -> Ledger:
    """A life with everything in it: creation, appends, rotations, a tear, a recovery, a close."""
    ledger = Ledger()

    def commit(store: Store, *entities: str, **options: Any) -> None:
        ledger.commit(store, *entities, **options)
        files.mark("durable")

    store = Store.open(path, files=files, **SMALL)
    files.mark("durable")
    for i in range(8):
        commit(store, f"player:{i % 3}", padding=900)
    commit(store, *["player:0"] * 5)
    store.close()
    files.mark("durable")

    store = Store.open(path, files=files, durability=Durability.OS, **SMALL)
    files.mark("durable")
    for _ in range(4):
        ledger.commit(store, "player:1", padding=300)
    commit(store, "player:2", durable=True)
    ledger.commit(store, "player:1")
    store.sync()
    files.mark("durable")
    store.close()
    files.mark("durable")

    tear(path)
    with Store.open(path, files=files, **SMALL) as store:
        assert store.open_report.cut is not None
        files.mark("durable")
        commit(store, "player:0")
    files.mark("durable")
    return ledger


def tear(path: str) -> None:
    """Put behind the log what a power cut leaves there."""
    newest = sorted(Path(path, "segments").glob("*.seg"))[-1]
    with newest.open("ab") as file:
        file.write(b"BPC1" + bytes(60) + b"torn")


def test_every_promise_comes_after_the_syncs_that_it_needs(tmp_path: Path) -> None:
    files, path = RecordingFiles(), str(tmp_path / "in" / "a" / "journal")
    ledger = live(path, files)
    assert check_order(files.operations, path) == 18
    check_journal(path, ledger)
    # The life has to contain what it is there to show.
    names = Counter((o.name, os.path.splitext(o.path)[1]) for o in files.operations)
    assert len(segment_bytes(path)) >= 3
    assert names["rename", ".tmp"] >= 6
    assert names["pwrite", ".hint"] >= 10


def test_a_rewritten_segment_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    files, path = RecordingFiles(), str(tmp_path / "journal")
    with Store.open(path, files=files, **SMALL) as store:
        for _ in range(12):
            store.append(Coordinate("player:0", "room"), "x" * 900, kind=KIND)
        store.erase([2, 7], reason="asked for")
        place = len(files.operations)
        report = store.compact()
        closing = len(files.operations)
    done = [(o.name, o.path, o.target) for o in files.operations[place:closing]]
    assert len(report.segments) == 2
    for rewritten in report.segments:
        segment = f"{path}/segments/{rewritten.base:020}.seg"
        temporary = segment + ".tmp"
        named = done.index(("rename", temporary, segment))
        written = max(i for i, one in enumerate(done) if one[:2] == ("pwrite", temporary))
        assert written < done.index(("sync_file", temporary, "")) < named
        assert "sync_directory" in [name for name, path, _ in done[named:] if path in segment]


def test_an_opening_makes_the_names_of_checkpoints_durable(tmp_path: Path) -> None:
    """Its predecessor may have been killed between the rename and the sync."""
    path = tmp_path / "journal"
    with Store.open(path, files=DISK, checkpoint_key=LOG) as store:
        store.checkpoint()
    (path / "checkpoints" / "begun.tmp").write_text("half")
    files = RecordingFiles()
    with Store.open(path, files=files):
        assert not (path / "checkpoints" / "begun.tmp").exists()
        opening = list(files.operations)
    of_folder = [o.name for o in opening if o.path.startswith(str(path / "checkpoints"))]
    assert "unlink" in of_folder
    assert "sync_directory" in of_folder[of_folder.index("unlink") :]


# --- planted bugs ------------------------------------------------------------------


class Leaving(RecordingFiles):
    """Files under a store that leaves out one kind of sync."""

    def __init__(self, name: str, ending: str, root: str) -> None:
        super().__init__()
        self._leaves = name
        self._ending = root if ending == "ROOT" else ending

    def _leaves_out(self, name: str, path: str) -> bool:
        return name == self._leaves and path.endswith(self._ending)

    def sync_data(self, fd: int) -> None:
        if not self._leaves_out("sync_data", self._path(fd)):
            super().sync_data(fd)

    def sync_file(self, fd: int) -> None:
        if not self._leaves_out("sync_file", self._path(fd)):
            super().sync_file(fd)

    def sync_directory(self, path: str) -> None:
        if not self._leaves_out("sync_directory", path):
            super().sync_directory(path)


class Hasty(RecordingFiles):
    """Files under a store that does one thing just before the sync that has to precede it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._held: list[Operation] = []

    def _run(self, operation: Operation, effect: Callable[[], Any]) -> Any:
        name, path = operation.name, operation.path
        if name in ("sync_data", "sync_file") and self._holds(path):
            self._held.append(operation)
            return effect()
        result = super()._run(operation, effect)
        if self._held and self._is_overtaking(operation):
            self.operations += self._held
            self._held.clear()
        return result

    def _holds(self, path: str) -> bool:
        if self._what == "hint":
            return path.endswith(".seg")
        if self._what == "acknowledge":
            return path.endswith(".seg") and not self._held
        return path.endswith(self._what + ".tmp")

    def _is_overtaking(self, operation: Operation) -> bool:
        if self._what == "hint":
            return operation.name == "pwrite" and operation.path.endswith(".hint")
        return operation.name == "rename"

    def mark(self, label: str) -> None:
        super().mark(label)
        if self._what == "acknowledge":
            self.operations += self._held
            self._held.clear()


PLANTED: dict[str, tuple[Callable[[str], RecordingFiles], str]] = {
    "append not synced": (lambda root: Leaving("sync_data", ".seg", root), "hint runs ahead"),
    "sealed segment not synced": (lambda root: Leaving("sync_file", ".seg", root), "ahead"),
    "new header not synced": (lambda root: Leaving("sync_file", ".seg.tmp", root), "renamed"),
    "identity not synced": (lambda root: Leaving("sync_file", ".json.tmp", root), "renamed"),
    "quarantine not synced": (lambda root: Leaving("sync_file", ".bin.tmp", root), "renamed"),
    "quarantine name not synced": (
        lambda root: Leaving("sync_directory", "quarantine", root), "cut before kept"
    ),
    "segments folder not synced": (
        lambda root: Leaving("sync_directory", "segments", root), "name not synced"
    ),
    "journal folder not synced": (
        lambda root: Leaving("sync_directory", "ROOT", root), "name not synced"
    ),
    "parent folder not synced": (lambda root: Leaving("sync_directory", "/a", root), "name not"),
    "grandparent folder not synced": (
        lambda root: Leaving("sync_directory", "/in", root), "name not synced"
    ),
    "hint before the sync": (lambda _: Hasty("hint"), "hint runs ahead"),
    "acknowledged before the sync": (lambda _: Hasty("acknowledge"), "runs ahead|before it was"),
    "rename before the sync": (lambda _: Hasty(".seg"), "renamed before"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, tmp_path: Path) -> None:
    path = str(tmp_path / "in" / "a" / "journal")
    make, complaint = PLANTED[bug]
    files = make(path)
    live(path, files)
    with pytest.raises(AssertionError, match=complaint):
        check_order(files.operations, path)


# --- what things cost --------------------------------------------------------------


def names_since(files: RecordingFiles, place: int) -> list[tuple[str, str]]:
    return [
        (o.name, os.path.splitext(o.path)[1].lstrip("."))
        for o in files.operations[place:]
        if o.name != "mark"
    ]


WRITE, SYNC, HINT = ("pwrite", "seg"), ("sync_data", "seg"), ("pwrite", "hint")


@pytest.mark.parametrize("events", [1, 100])
@pytest.mark.parametrize("durability", [Durability.SYNC, Durability.OS])
def test_a_commit_is_one_write_and_its_sync_one_sync_and_one_hint(
    durability: Durability, events: int, tmp_path: Path
) -> None:
    files, ledger = RecordingFiles(), Ledger()
    with Store.open(tmp_path / "journal", files=files, durability=durability) as store:
        ledger.commit(store, "player:0")
        for _ in range(3):
            place = len(files.operations)
            ledger.commit(store, *["player:0"] * events)
            waits = durability is Durability.SYNC
            assert names_since(files, place) == ([WRITE, SYNC, HINT] if waits else [WRITE])
            hint = [o for o in files.operations[place:] if o.path.endswith("tail.hint")]
            assert [o.length for o in hint] == ([64] if waits else [])
        place = len(files.operations)
        store.sync()
        # Nothing is waiting in SYNC, so there is nothing to sync.
        expected = [] if durability is Durability.SYNC else [SYNC, HINT]
        assert names_since(files, place) == expected


def test_space_is_reserved_once_in_many_commits(tmp_path: Path) -> None:
    files, ledger = RecordingFiles(), Ledger()
    with Store.open(
        tmp_path / "journal", files=files, durability=Durability.OS, preallocate=1 << 20
    ) as store:
        place = len(files.operations)
        for _ in range(1000):
            ledger.commit(store, "player:0")
        assert Counter(names_since(files, place)) == {WRITE: 1000}
        assert len(files.of("allocate")) == 1


def test_a_group_of_threads_shares_one_sync_and_one_hint(tmp_path: Path) -> None:
    """Fifteen writers come while the first one syncs: one of them works for all."""
    threads = 16

    class Held(RecordingFiles):
        def __init__(self) -> None:
            super().__init__()
            self.entered = threading.Event()
            self.go_on = threading.Event()
            self.holds = False

        def sync_data(self, fd: int) -> None:
            if self.holds:
                self.holds = False
                self.entered.set()
                assert self.go_on.wait(60)
            super().sync_data(fd)

    files = Held()
    coordinates = [Coordinate(f"player:{i}", "room:dungeon") for i in range(threads)]
    path = tmp_path / "journal"
    with Store.open(path, files=files) as store:
        place = len(files.operations)
        files.holds = True
        workers = [
            threading.Thread(
                target=store.append, args=(coordinate, {"n": 1}), kwargs={"kind": KIND}
            )
            for coordinate in coordinates
        ]
        workers[0].start()
        assert files.entered.wait(60)
        for worker in workers[1:]:
            worker.start()
        while store.pressure().waiting < threads - 1:
            os.sched_yield()
        files.go_on.set()
        for worker in workers:
            worker.join()
        counted = Counter(name for name in names_since(files, place) if name[0] != "allocate")
        # The fifteen are fifteen commits, in one write.
        assert counted == {WRITE: 2, SYNC: 2, HINT: 2}
        assert len(store) == threads + 1
    assert check_order(files.operations, str(path)) == 0


# --- what an open reads ------------------------------------------------------------


def test_an_open_after_a_clean_close_decodes_fewer_than_1024_records(tmp_path: Path) -> None:
    path, ledger = str(tmp_path / "journal"), Ledger()
    walked: list[int] = []
    for appends in (0, 1000, 15, 500, 1100):
        with Store.open(path, files=DISK, durability=Durability.OS) as store:
            walked.append(store.open_report.walked)
            assert store.open_report.mapped == (1 if len(walked) > 3 else 0)
            for _ in range(appends):
                ledger.commit(store, "player:0")
    with Store.open(path, files=DISK) as store:
        walked.append(store.open_report.walked)
    # Each open and close adds an event and a pad; beyond 1023 records a sidecar covers all.
    assert walked[:3] == [0, 3, 1006]
    assert max(walked) < 1024
    assert walked[3] == 0, "nothing is decoded right after a sidecar"
    assert walked[5] == 0


def test_an_open_reads_no_more_of_sealed_segments_than_their_ends(tmp_path: Path) -> None:
    path, ledger = str(tmp_path / "journal"), Ledger()
    with Store.open(path, files=DISK, durability=Durability.OS, **SMALL) as store:
        for _ in range(60):
            ledger.commit(store, "player:0", padding=300)
    sealed = sorted(segment_bytes(path))[:-1]
    files = RecordingFiles()
    with Store.open(path, files=files) as store:
        assert store.open_report.mapped == len(sealed) >= 5
        assert store.open_report.rebuilt == 0
    for name in sealed:
        read = sum(o.length or 0 for o in files.of("pread", path=name))
        assert read < 1024, f"{read} bytes of {name} were read"


# --- re-adoption -------------------------------------------------------------------


class Forgetful(RecordingFiles):
    """Files under a store that leaves out writing an unproven tail over itself."""

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        old = DISK.pread(fd, len(data), offset)
        if self._path(fd).endswith(".seg") and old == bytes(data):
            return len(data)
        return super().pwrite(fd, data, offset)


def readopted(path: str, files: RecordingFiles) -> tuple[int, int] | None:
    """From where to where the newest segment was written over itself and synced, before more."""
    (log,) = segment_bytes(path).values()
    with Store.open(path, files=files):
        pass
    changes = [
        o
        for o in files.operations
        if o.path.endswith(".seg") and o.name in ("pwrite", "sync_file", "sync_data")
    ]
    low, high = len(log), 0
    for operation in changes:
        if operation.name != "pwrite":
            return (low, high) if high else None
        assert operation.offset is not None
        end = operation.offset + len(operation.data)
        if log[operation.offset : end] != operation.data:
            return None
        low, high = min(low, operation.offset), max(high, end)
    return None


@pytest.mark.parametrize(("make", "happens"), [(RecordingFiles, True), (Forgetful, False)])
def test_the_unproven_tail_is_written_over_itself(
    make: type[RecordingFiles], happens: bool, tmp_path: Path
) -> None:
    path, ledger, files = str(tmp_path / "journal"), Ledger(), FaultyFiles()
    store = Store.open(path, files=files, durability=Durability.OS, preallocate=0)
    for _ in range(3):
        ledger.commit(store, "player:0")
    proven = files.of("pwrite", path=".seg")[0]
    assert proven.offset is not None
    first_unproven = proven.offset + len(proven.data)
    end = os.path.getsize(Path(path, "segments", "0" * 20 + ".seg"))
    files.arm(0, Fault.KILL)
    with pytest.raises(Killed):
        store.sync()
    files.bury()
    with pytest.raises(Killed):
        store.close()
    assert readopted(path, make()) == ((first_unproven, end) if happens else None)
    check_journal(path, ledger)


def test_defaults_are_what_these_counts_assume() -> None:
    config = StoreConfig()
    assert config.durability is Durability.SYNC
    assert config.preallocate == 4 << 20
