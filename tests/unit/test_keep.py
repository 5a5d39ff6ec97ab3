"""Snapshots, restores, forks: what is kept, what is refused, and who may write to what."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batpak import Coordinate, Durability, EventKind, Store
from batpak.engine.manifest import Manifest, may_hold
from batpak.engine.repair import repair_into
from batpak.errors import (
    BatpakError,
    Damaged,
    DestinationTaken,
    FutureFormat,
    InvalidInput,
    JournalCorrupt,
    JournalLocked,
    NotAJournal,
    NotASnapshot,
    SnapshotDamaged,
    StorageFailed,
    Unavailable,
)
from batpak.event import Event
from batpak.files import REAL, RealFiles
from batpak.journal.layout import Layout
from batpak.proof.bundle import verify_bundle
from batpak.proof.merkle import verify_consistency
from batpak.proof.notes import Key, Note, Policy
from batpak.receipt import Invalid, Reason, Signed, UnsignedAccepted
from batpak.tlog.signing import sign_note
from tests.support.faulty_files import UnsyncedFiles
from tests.support.proofs import LOG, LOG_KEY, ORIGIN, POLICY, THIEF, WITNESS, open_signed, say
from tools import read_segment

KIND = EventKind(0xF, 1)
SMALL: dict[str, Any] = {"segment_max_bytes": 4096, "preallocate": 8192, "files": UnsyncedFiles()}
ALICE = Coordinate("player:alice", "room")


def fill(store: Store, number: int, *, first: int = 0, padding: int = 300) -> None:
    for i in range(first, first + number):
        where = Coordinate(f"player:{i % 3}", "room")
        store.append(where, {"n": i, "pad": bytes(padding)}, kind=KIND)


def journal(path: Path, number: int = 30) -> Path:
    """A closed journal of several segments, most with a sidecar."""
    with Store.open(path, **SMALL) as store:
        fill(store, number)
    return path


def hashes(path: Path) -> list[bytes]:
    with Store.open(path, mode="r") as reader:
        return [event.event_hash for event in reader]


def tree(path: Path) -> dict[str, str]:
    """Every file below a path, with a digest of its bytes."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def inodes(path: Path) -> set[int]:
    return {file.stat().st_ino for file in path.rglob("*") if file.is_file()}


def last_system_event(path: Path, kind: int) -> dict[str, Any]:
    with Store.open(path, mode="r") as reader:
        found = [event for event in reader if event.kind.raw == kind]
    value = found[-1].value
    assert isinstance(value, dict)
    return value


# --- snapshot ---------------------------------------------------------------------------------


def test_a_snapshot_holds_the_durable_events_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        for folder, name in (("cursors", "one"), ("checkpoints", "1"), ("quarantine", "x.bin")):
            (path / folder).mkdir()
            (path / folder / name).write_bytes(b"content")
        # A snapshot never has keys: whatever is no file of a journal stays behind.
        (path / "signing.pem").write_bytes(b"secret")
        (path / "keys").mkdir()
        (path / "keys" / "0001.key").write_bytes(b"secret")
        report = store.snapshot(tmp_path / "copy")
        assert (report.events, report.last_hash) == (31, store.at(30).event_hash)
        fill(store, 3, first=30)
    found = tree(tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_bytes())
    assert {entry["path"] for entry in manifest["files"]} == found.keys() - {"manifest.json"}
    assert all(may_hold(name) for name in found.keys() - {"manifest.json"})
    assert {"cursors/one", "checkpoints/1", "journal.json", "tail.hint"} <= found.keys()
    assert not any("secret" in p.read_text("latin-1") for p in (tmp_path / "copy").rglob("*.*"))
    assert report.files == len(manifest["files"])
    assert report.bytes == sum(entry["size"] for entry in manifest["files"])
    assert report.bytes == report.cloned + report.linked + report.copied
    assert hashes(tmp_path / "copy") == hashes(path)[:31]
    assert read_segment.read_journal(tmp_path / "copy").ok
    with Store.open(tmp_path / "copy", mode="r") as reader:
        assert reader.verify().ok
    assert not (tmp_path / "copy.tmp").exists()


@pytest.mark.parametrize("durability", [Durability.SYNC, Durability.OS], ids=["sync", "os"])
def test_a_snapshot_while_four_threads_write_is_a_durable_prefix(
    tmp_path: Path, durability: Durability
) -> None:
    """All that was acknowledged before the call is in it, and it verifies."""
    path = tmp_path / "journal"
    stop = threading.Event()
    started = threading.Barrier(5)
    acknowledged: list[list[int]] = [[] for _ in range(4)]

    def write(store: Store, mine: list[int]) -> None:
        for i in range(100_000):
            receipt = store.append(ALICE, {"n": i, "pad": bytes(200)}, kind=KIND)
            mine.append(receipt.sequence)
            if i == 5:
                started.wait()
            if stop.is_set():
                return

    with Store.open(path, durability=durability, **SMALL) as store:
        threads = [threading.Thread(target=write, args=(store, mine)) for mine in acknowledged]
        for thread in threads:
            thread.start()
        started.wait()
        try:
            reports = []
            for number in range(4):
                known = max(max(mine) for mine in acknowledged)
                reports.append((known, store.snapshot(tmp_path / str(number))))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    every = hashes(path)
    for number, (known, report) in enumerate(reports):
        copy = tmp_path / str(number)
        assert report.events > known
        assert read_segment.read_journal(copy).ok
        Store.restore(copy, tmp_path / f"restored-{number}", files=UnsyncedFiles())
        with Store.open(tmp_path / f"restored-{number}", mode="r") as restored:
            assert restored.verify().ok
            assert [e.event_hash for e in restored][: report.events] == every[: report.events]


def test_a_reader_takes_snapshots_beside_a_live_writer(tmp_path: Path) -> None:
    """What is written and not durable is visible in OS, and in no snapshot."""
    path = tmp_path / "journal"
    with Store.open(path, durability=Durability.OS, **SMALL) as store:
        fill(store, 30)
        store.sync()
        fill(store, 2, first=30, padding=1)
        assert store.frontier().durable.sequence == 31
        with Store.open(path, mode="r") as reader:
            assert len(reader) == 33
            assert reader.snapshot(tmp_path / "copy").events == 31
            assert reader.fork(tmp_path / "fork").events == 31
    assert hashes(tmp_path / "copy") == hashes(path)[:31]
    assert hashes(tmp_path / "fork")[:31] == hashes(path)[:31]


class During(RealFiles):
    """Files that do something else just before a file is linked for the first time."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then: Callable[[], None] | None = then

    def link(self, source: str, target: str) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()
        os.link(source, target)

    def clone(self, source_fd: int, target_fd: int) -> None:
        raise OSError(95, "not here")


def test_what_is_sealed_meanwhile_is_no_part_of_a_snapshot(tmp_path: Path) -> None:
    """A sidecar that is written after the bound was taken would say that events are missing."""
    path = tmp_path / "journal"
    store = Store.open(path, **SMALL | {"files": During(lambda: fill(store, 40, first=100))})
    fill(store, 10)
    before = len(list((path / "segments").glob("*.idx")))
    report = store.snapshot(tmp_path / "copy")
    assert len(list((path / "segments").glob("*.idx"))) > before + 3
    assert report.events == 11
    store.close()
    Store.restore(tmp_path / "copy", tmp_path / "restored")
    with Store.open(tmp_path / "restored", **SMALL) as copy:
        assert copy.open_report.cut is None
        # Its own open, "restored", close and open.
        assert len(copy) == 11 + 4
        assert copy.verify().ok


def test_the_writer_and_a_snapshot_of_links_do_not_touch_each_other(tmp_path: Path) -> None:
    """Whoever writes truncates and grows only files of its own."""
    path = journal(tmp_path / "journal")
    with Store.open(path, **SMALL) as store:
        report = store.snapshot(tmp_path / "copy")
        kept = tree(tmp_path / "copy")
        fill(store, 40, first=30)
    with Store.open(path, **SMALL) as store:
        fill(store, 1, first=70)
    assert report.linked or report.cloned
    assert tree(tmp_path / "copy") == kept
    mine = {file.name: file.read_bytes() for file in (path / "segments").glob("*.seg")}
    # What a program makes of links that knows nothing of manifests.
    (tmp_path / "copy" / "manifest.json").unlink()
    with Store.open(tmp_path / "copy", **SMALL) as copy:
        fill(copy, 40, first=500)
        assert copy.verify().ok
    assert {f.name: f.read_bytes() for f in (path / "segments").glob("*.seg")} == mine
    with Store.open(path, mode="r") as store:
        assert store.verify().ok


def test_a_snapshot_is_read_and_never_written_to(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    with Store.open(path, **SMALL) as store:
        store.snapshot(tmp_path / "copy")
    kept = tree(tmp_path / "copy")
    with pytest.raises(NotAJournal) as refused:
        Store.open(tmp_path / "copy", **SMALL)
    assert "batpak restore" in refused.value.advice
    assert refused.value.file == str(tmp_path / "copy")
    assert tree(tmp_path / "copy") == kept
    with Store.open(tmp_path / "copy", mode="r") as reader:
        assert reader.verify("full").ok
        reader.fork(tmp_path / "fork")
        reader.snapshot(tmp_path / "again")
    Store.restore(tmp_path / "copy", tmp_path / "restored")
    Store.restore(tmp_path / "again", tmp_path / "resumed", resume=True)
    for name in ("fork", "restored", "resumed"):
        with Store.open(tmp_path / name, **SMALL) as store:
            fill(store, 1, first=500)
            assert store.verify("full").ok
    assert tree(tmp_path / "copy") == kept


def test_a_repaired_copy_of_a_snapshot_is_a_journal(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    with Store.open(path, **SMALL) as store:
        store.snapshot(tmp_path / "copy")
    newest = max((tmp_path / "copy" / "segments").glob("*.seg"))
    os.truncate(newest, newest.stat().st_size - 10)
    repair_into(REAL, Layout(tmp_path / "copy"), str(tmp_path / "repaired"))
    with Store.open(tmp_path / "repaired", **SMALL) as store:
        fill(store, 1, first=500)
        assert store.verify("full").ok


# --- places that are refused ------------------------------------------------------------------


def occupied(path: Path) -> str:
    path.mkdir()
    (path / "note.txt").write_text("mine")
    return str(path)


def a_file(path: Path) -> str:
    path.write_text("mine")
    return str(path)


def a_link(path: Path) -> str:
    (path.parent / "real").mkdir()
    path.symlink_to(path.parent / "real")
    return str(path)


def a_dangling_link(path: Path) -> str:
    path.symlink_to(path.parent / "nowhere")
    return str(path)


def inside(path: Path) -> str:
    return str(path.parent / "journal" / "segments" / "copy")


def inside_by_a_link(path: Path) -> str:
    (path.parent / "way").symlink_to(path.parent / "journal")
    return str(path.parent / "way" / "copy")


def itself(path: Path) -> str:
    return str(path.parent / "journal")


def without_a_parent(path: Path) -> str:
    return str(path / "deep" / "copy")


def a_strange_building_place(path: Path) -> str:
    (path.parent / f"{path.name}.tmp").mkdir()
    (path.parent / f"{path.name}.tmp" / "journal.json").write_text("somebody's journal")
    return str(path)


PLACES = (
    occupied, a_file, a_link, a_dangling_link, inside, inside_by_a_link, itself,
    without_a_parent, a_strange_building_place,
)  # fmt: skip


@pytest.mark.parametrize("what", ["snapshot", "fork", "restore"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_copy_is_never_made_over_something(
    tmp_path: Path, place: Callable[[Path], str], what: str
) -> None:
    path = tmp_path / "journal"
    if what == "restore":
        # The snapshot stands where the other two have the journal.
        journal(tmp_path / "other")
        with Store.open(tmp_path / "other", mode="r") as reader:
            reader.snapshot(path)
    else:
        journal(path)
    destination = place(tmp_path / "copy")
    before = tree(tmp_path)

    def make() -> None:
        if what == "restore":
            Store.restore(path, destination)
            return
        with Store.open(path, mode="r") as reader:
            getattr(reader, what)(destination)

    with pytest.raises(DestinationTaken) as refused:
        make()
    assert refused.value.advice
    assert tree(tmp_path) == before


def test_an_empty_directory_is_as_good_as_none(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    for name in ("copy", "restored"):
        (tmp_path / name).mkdir()
    with Store.open(path, mode="r") as reader:
        reader.snapshot(tmp_path / "copy")
    Store.restore(tmp_path / "copy", tmp_path / "restored")
    assert hashes(tmp_path / "restored")[:32] == hashes(path)


def test_two_builders_of_one_name_do_not_meet(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    seen: list[BatpakError] = []

    def too() -> None:
        with Store.open(path, mode="r") as other, pytest.raises(JournalLocked) as refused:
            other.snapshot(tmp_path / "copy")
        seen.append(refused.value)

    with Store.open(path, mode="r", files=During(too)) as reader:
        reader.snapshot(tmp_path / "copy")
    assert len(seen) == 1
    assert hashes(tmp_path / "copy") == hashes(path)


def test_a_journal_without_durable_events_has_no_snapshot(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal", 1)
    for file in (path / "segments").iterdir():
        file.unlink()
    (path / "tail.hint").unlink()
    with Store.open(path, mode="r") as reader, pytest.raises(InvalidInput):
        reader.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["cursors", "cursors/one", "checkpoints"])
def test_a_link_among_the_journal_s_files_leads_no_key_into_a_snapshot(
    tmp_path: Path, name: str
) -> None:
    path = journal(tmp_path / "journal")
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "key").write_bytes(b"secret")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).symlink_to(tmp_path / "ring" / ("key" if "/" in name else ""))
    with Store.open(path, mode="r") as reader, pytest.raises(StorageFailed):
        reader.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.tmp").exists()


@pytest.mark.parametrize("folder", ["cursors", "checkpoints"])
def test_a_directory_among_the_journal_s_files_is_named_and_nothing_is_made(
    tmp_path: Path, folder: str
) -> None:
    path = journal(tmp_path / "journal")
    stray = path / folder / "notes"
    stray.mkdir(parents=True)
    (stray / "mine").write_text("not the journal's")
    with Store.open(path, mode="r") as reader:
        with pytest.raises(StorageFailed, match=f"a directory stands in {folder}/") as caught:
            reader.snapshot(tmp_path / "copy")
        assert caught.value.file == str(stray)
        assert "move it elsewhere" in str(caught.value)
        assert not (tmp_path / "copy").exists()
        assert not (tmp_path / "copy.tmp").exists()
        stray.rename(tmp_path / "notes")
        assert reader.snapshot(tmp_path / "copy").events == len(reader)


def test_a_damaged_journal_has_no_snapshot(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    newest = sorted((path / "segments").glob("*.seg"))[-1]
    data = bytearray(newest.read_bytes())
    data[140] ^= 1
    newest.write_bytes(data)
    with Store.open(path, mode="r") as reader, pytest.raises(JournalCorrupt):
        reader.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.tmp").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems know no other names")
@pytest.mark.parametrize("folder", ["cursors", "checkpoints"])
@pytest.mark.parametrize("what", ["snapshot", "fork"])
def test_a_name_that_is_no_utf_8_is_named_and_nothing_is_made(
    tmp_path: Path, what: str, folder: str
) -> None:
    path = journal(tmp_path / "journal")
    stray = path / folder / os.fsdecode(b"mine\xff")
    stray.parent.mkdir()
    stray.write_text("not the journal's")
    if what == "fork" and folder == "cursors":
        folder = "nothing: a fork takes no cursors"
    with Store.open(path, mode="r") as reader:
        if folder in ("cursors", "checkpoints"):
            with pytest.raises(StorageFailed, match=f"a file in {folder}/") as caught:
                getattr(reader, what)(tmp_path / "copy")
            assert caught.value.file == str(stray)
            assert "move it elsewhere" in str(caught.value)
            assert sorted(each.name for each in tmp_path.iterdir()) == ["journal"]
            stray.unlink()
        assert getattr(reader, what)(tmp_path / "copy").events == len(reader)


@pytest.mark.parametrize("operation", ["open", "lock"])
def test_a_place_to_build_in_that_can_not_be_claimed_is_left_by_nobody(
    tmp_path: Path, operation: str
) -> None:
    """A disk that is full of inodes, or a file system that has run out of locks."""

    class Refusing(UnsyncedFiles):
        def open(self, path: str, flags: int, mode: int = 0o644) -> int:
            if operation == "open" and path.endswith("unfinished"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().open(path, flags, mode)

        def lock(self, fd: int) -> bool:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = journal(tmp_path / "journal", 3)
    with Store.open(path, mode="r", files=Refusing()) as reader, pytest.raises(Unavailable):
        reader.snapshot(tmp_path / "copy")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["journal"]


def test_damage_that_a_copy_brings_is_named_where_it_stands(tmp_path: Path) -> None:
    """What was built is gone when the error is read: it speaks of the journal or the snapshot."""
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        store.sync()
        sealed = sorted((path / "segments").glob("*.seg"))[1]
        data = bytearray(sealed.read_bytes())
        data[140] ^= 1
        sealed.write_bytes(data)
        for sidecar in (path / "segments").glob("*.idx"):
            sidecar.unlink()
        store.snapshot(tmp_path / "copy")
        kept = tmp_path / "copy" / "segments" / sealed.name
        for make, file, root in (
            (lambda: store.fork(tmp_path / "made"), sealed, path),
            (lambda: Store.restore(tmp_path / "copy", tmp_path / "made"), kept, tmp_path / "copy"),
        ):
            with pytest.raises(JournalCorrupt) as caught:
                make()
            assert caught.value.file == str(file)
            assert caught.value.offset == 128
            assert str(caught.value.advice).endswith(f"batpak repair {root}")
            assert ".tmp" not in str(caught.value)
            assert not (tmp_path / "made").exists()


def test_damage_that_a_snapshot_was_taken_with_is_found_by_verify_alone(tmp_path: Path) -> None:
    """As the guide says: hashes of a manifest are of what stood there, right or wrong."""
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        sealed = sorted((path / "segments").glob("*.seg"))[1]
        data = bytearray(sealed.read_bytes())
        data[128 + 64 + 70] ^= 1
        with sealed.open("r+b") as file:
            file.write(data)
        store.snapshot(tmp_path / "copy")
    Store.restore(tmp_path / "copy", tmp_path / "restored")
    for each in (path, tmp_path / "copy", tmp_path / "restored"):
        with Store.open(each, mode="r") as reader:
            assert reader.verify().findings


# --- beside a compaction ----------------------------------------------------------------------


class Meanwhile(UnsyncedFiles):
    """Files that do something else before the first segment is copied, or `always`, before each.

    By then, the bound of the copy was taken.
    """

    def __init__(self, *, always: bool = False, links: bool = True) -> None:
        self.then: Callable[[], object] | None = None
        self.times = 0
        self._always = always
        self._links = links

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        # Only what copies refuses links.
        if self.then is not None and path.endswith(".seg") and flags & os.O_NOFOLLOW:
            then, self.then = self.then, None
            self.times += 1
            then()
            if self._always:
                self.then = then
        return super().open(path, flags, mode)

    def clone(self, source_fd: int, target_fd: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    def link(self, source: str, target: str) -> None:
        if not self._links:
            raise OSError(errno.EXDEV, "not here")
        os.link(source, target)


def compact(store: Store, which: int) -> None:
    """Take an event's payload out of the segments, which rewrites the one it stands in."""
    store.erase([which], reason="asked for")
    # Another thread's compaction may have taken this one in.
    assert store.compact().outcome in ("performed", "skipped")


def check_copies(path: Path) -> None:
    """A copy holds what it should: a snapshot is restored first."""
    if (path / "manifest.json").exists():
        assert read_segment.read_journal(path).ok
        with Store.open(path, mode="r") as reader:
            assert reader.open_report.findings == ()
        restored = path.with_name(path.name + "-restored")
        Store.restore(path, restored, files=SMALL["files"])
        path = restored
    with Store.open(path, mode="r") as reader:
        report = reader.verify()
        assert report.ok, report.findings


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
@pytest.mark.parametrize("who", ["writer", "reader"])
@pytest.mark.parametrize("what", ["snapshot", "fork"])
@pytest.mark.parametrize(
    ("number", "padding", "which"),
    [
        pytest.param(30, 300, 5, id="sealed"),
        pytest.param(30, 300, 30, id="growing"),
        # Small payloads of a batch: what was rewritten is the longer one.
        pytest.param(5, 1, 3, id="growing-and-longer"),
    ],
)
def test_a_copy_beside_a_compaction_is_whole(
    tmp_path: Path, number: int, padding: int, which: int, what: str, who: str, links: bool
) -> None:
    """A segment that was rewritten since the bound was taken is no part of that bound's copy."""
    path, files = tmp_path / "journal", Meanwhile(links=links)
    with Store.open(path, **SMALL | {"files": files}) as store:
        fill(store, number, padding=padding)
        files.then = lambda: compact(store, which)
        if who == "writer":
            report = getattr(store, what)(tmp_path / "copy")
        else:
            with Store.open(path, mode="r", files=files) as reader:
                report = getattr(reader, what)(tmp_path / "copy")
        assert files.times == 1
        every = [event.event_hash for event in store]
    check_copies(tmp_path / "copy")
    assert hashes(tmp_path / "copy")[: report.events] == every[: report.events]


def test_a_segment_rewritten_before_its_erasure_can_be_seen_waits_for_it(tmp_path: Path) -> None:
    """A reader whose bound lies before an erasure takes no segment that was rewritten for it."""
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 12)
        with Store.open(path, mode="r", files=SMALL["files"]) as reader:
            steps = iter(range(1000))

            def also(done: int, total: int) -> None:
                reader.snapshot(tmp_path / f"copy{next(steps)}")

            for which in (3, 12):
                store.erase([which], reason="asked for")
            assert store.compact(progress=also).outcome == "performed"
    for number in range(next(steps)):
        check_copies(tmp_path / f"copy{number}")


@pytest.mark.parametrize("what", ["snapshot", "fork"])
def test_a_compaction_of_the_same_store_waits_for_a_copy_it_was_in_the_way_of(
    tmp_path: Path, what: str
) -> None:
    path, files = tmp_path / "journal", Meanwhile(always=True, links=False)
    threads: list[threading.Thread] = []
    with Store.open(path, **SMALL | {"files": files}) as store:
        fill(store, 40)

        def rewrite() -> None:
            thread = threading.Thread(target=compact, args=(store, 1 + len(threads)))
            threads.append(thread)
            thread.start()
            if len(threads) == 1:
                # The first is not waited for by anybody.
                thread.join()

        files.then = rewrite
        getattr(store, what)(tmp_path / "copy")
        files.then = None
        assert len(threads) > 3
        for thread in threads:
            thread.join()
        assert store.plan_compaction().payloads == 0
    check_copies(tmp_path / "copy")


def test_a_reader_that_is_overtaken_again_and_again_says_so_and_makes_nothing(
    tmp_path: Path,
) -> None:
    path, files = tmp_path / "journal", Meanwhile(always=True, links=False)
    with Store.open(path, **SMALL) as store:
        fill(store, 40)
        which = iter(range(1, 40))
        files.then = lambda: compact(store, next(which))
        with Store.open(path, mode="r", files=files) as reader:
            with pytest.raises(Unavailable, match="rewritten") as caught:
                reader.snapshot(tmp_path / "copy")
            assert Path(caught.value.file or "").parent == path / "segments"
            assert "compaction" in str(caught.value.advice)
            assert sorted(p.name for p in tmp_path.iterdir()) == ["journal"]
            # What was copied once is not copied again: three rewrites cost three rounds.
            rounds = iter(range(3))
            files.then = lambda: compact(store, next(which)) if next(rounds, None) else None
            report = reader.snapshot(tmp_path / "copy")
            files.then = None
        assert report.events <= len(store)
    check_copies(tmp_path / "copy")


def test_a_log_that_ends_before_its_bound_is_damage_and_no_copy(tmp_path: Path) -> None:
    path, files = tmp_path / "journal", Meanwhile()
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        newest = sorted((path / "segments").glob("*.seg"))[-1]
        with Store.open(path, mode="r", files=files) as reader:
            files.then = lambda: os.truncate(newest, 200)
            with pytest.raises(JournalCorrupt) as caught:
                reader.snapshot(tmp_path / "copy")
    assert (caught.value.file, caught.value.offset) == (str(newest), 200)
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.tmp").exists()


# --- restore ----------------------------------------------------------------------------------


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        (path / "cursors").mkdir()
        (path / "cursors" / "one").write_bytes(b"progress")
        store.snapshot(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_restored_journal_is_a_fork(snapshot: Path, tmp_path: Path) -> None:
    kept = tree(snapshot)
    report = Store.restore(snapshot, tmp_path / "new", origin="example.org/new")
    old = json.loads((snapshot / "journal.json").read_bytes())
    new = json.loads((tmp_path / "new" / "journal.json").read_bytes())
    assert new["journal_id"] == str(report.journal_id) != old["journal_id"]
    assert new["lineage"] == [{"journal_id": old["journal_id"], "until": 31}]
    assert (new["origin"], report.origin) == ("example.org/new", "example.org/new")
    assert (report.events, report.resumed, str(report.from_journal)) == (
        31, False, old["journal_id"],
    )  # fmt: skip
    assert last_system_event(tmp_path / "new", 0x18) == {
        "action": "restored", "from_journal": report.from_journal.bytes, "at": 31, "until": 31,
    }  # fmt: skip
    # A backup is not a file that somebody writes to.
    assert not inodes(snapshot) & inodes(tmp_path / "new")
    # The ancestor's consumers have no progress in it.
    assert not (tmp_path / "new" / "cursors").exists()
    with Store.open(tmp_path / "new", **SMALL) as store:
        assert store.journal_id == report.journal_id
        fill(store, 20, first=100)
        assert store.verify().ok
    assert tree(snapshot) == kept, "a snapshot changes with what was restored from it"
    assert read_segment.read_journal(tmp_path / "new").ok


def test_a_resumed_journal_is_the_same_one(snapshot: Path, tmp_path: Path) -> None:
    report = Store.restore(snapshot, tmp_path / "new", resume=True)
    assert report.resumed
    assert report.journal_id == report.from_journal
    assert (tmp_path / "new" / "journal.json").read_bytes() == (
        snapshot / "journal.json"
    ).read_bytes()
    assert (tmp_path / "new" / "cursors" / "one").read_bytes() == b"progress"
    assert last_system_event(tmp_path / "new", 0x18)["action"] == "restored"
    kept = tree(snapshot)
    with Store.open(tmp_path / "new", **SMALL) as store:
        fill(store, 20, first=100)
        assert store.verify().ok
    assert tree(snapshot) == kept
    with pytest.raises(InvalidInput):
        Store.restore(snapshot, tmp_path / "other", resume=True, origin="example.org/x")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def as_a_link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def doubled(path: Path) -> None:
    shutil.copy(path, path.with_name(path.name + ".old"))


DAMAGES = (cut, longer, flipped, Path.unlink, as_a_link, as_a_folder, doubled)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_file_of_a_snapshot_is_compared(
    snapshot: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Damaged, missing and extra files are named, and nothing is made."""
    for number, name in enumerate(sorted(tree(snapshot).keys() - {"manifest.json"})):
        broken = tmp_path / f"{number}"
        shutil.copytree(snapshot, broken / "copy")
        # Files are links to the journal's: give the damage one of its own.
        damage(broken / "copy" / name)
        with pytest.raises(SnapshotDamaged) as refused:
            Store.restore(broken / "copy", broken / "new")
        assert refused.value.findings is not None
        assert any(finding.startswith(name) for finding in refused.value.findings)
        assert not (broken / "new").exists()
        shutil.rmtree(broken)


def test_a_refused_snapshot_says_all_that_is_wrong_with_it(snapshot: Path, tmp_path: Path) -> None:
    """A missing segment does not hide behind an extra file."""
    names = sorted(tree(snapshot).keys() - {"manifest.json"})
    for name in names:
        (snapshot / name).unlink()
    (snapshot / "extra").write_text("mine")
    with pytest.raises(SnapshotDamaged) as refused:
        Store.restore(snapshot, tmp_path / "new")
    for name in names:
        assert f"{name}: it is missing" in refused.value.what
    assert "extra: it is not in the manifest" in refused.value.what
    assert refused.value.findings is not None
    assert len(refused.value.findings) == len(names) + 1


def test_every_byte_of_a_manifest_counts(snapshot: Path, tmp_path: Path) -> None:
    path = snapshot / "manifest.json"
    whole = path.read_bytes()
    assert Manifest.decode(whole, "here").encode() == whole
    for at in range(len(whole)):
        for bit in (1, 0x20):
            data = bytearray(whole)
            data[at] ^= bit
            with pytest.raises((SnapshotDamaged, FutureFormat)):
                Manifest.decode(bytes(data), "here")
    for end in range(0, len(whole), 7):
        with pytest.raises(SnapshotDamaged):
            Manifest.decode(whole[:end], "here")
    path.write_bytes(whole.replace(b'"events": 31', b'"events": 30'))
    with pytest.raises(SnapshotDamaged):
        Store.restore(snapshot, tmp_path / "new")


@pytest.mark.parametrize(
    "name",
    ["../out", "segments/../x.seg", "/etc/passwd", "journal.lock", "cursors/", "cursors/..",
     "segments/1.seg", "keys/a", "segments/00000000000000000000.seg\n", "cursors/a/b", ""],
)  # fmt: skip
def test_a_manifest_names_only_files_of_a_snapshot(snapshot: Path, name: str) -> None:
    """Even one that was made with care, its check recomputed."""
    manifest = Manifest.decode((snapshot / "manifest.json").read_bytes(), "here")
    first = manifest.files[0]
    forged = Manifest.of(
        manifest.journal_id, manifest.origin, 0, manifest.events, bytes(32),
        [*manifest.files, type(first)(name, 0, "0" * 64)],
    )  # fmt: skip
    with pytest.raises(SnapshotDamaged):
        Manifest.decode(forged.encode(), "here")


def test_a_manifest_and_its_journal_have_one_origin(snapshot: Path, tmp_path: Path) -> None:
    manifest = Manifest.decode((snapshot / "manifest.json").read_bytes(), "here")
    forged = Manifest.of(
        manifest.journal_id, "example.org/other", 0, manifest.events,
        bytes.fromhex(manifest.last_hash), list(manifest.files),
    )  # fmt: skip
    (snapshot / "manifest.json").write_bytes(forged.encode())
    for resume in (False, True):
        with pytest.raises(SnapshotDamaged, match="origin"):
            Store.restore(snapshot, tmp_path / "new", resume=resume)
        assert not (tmp_path / "new").exists()


def test_a_manifest_can_not_promise_what_the_log_has_not(snapshot: Path, tmp_path: Path) -> None:
    """A forger who recomputes the check gets no journal of another length or end."""
    manifest = Manifest.decode((snapshot / "manifest.json").read_bytes(), "here")
    for events, last_hash in ((30, manifest.last_hash), (32, manifest.last_hash), (31, "ab" * 32)):
        forged = Manifest.of(
            manifest.journal_id, manifest.origin, 0, events, bytes.fromhex(last_hash),
            list(manifest.files),
        )  # fmt: skip
        (snapshot / "manifest.json").write_bytes(forged.encode())
        for resume in (False, True):
            with pytest.raises((SnapshotDamaged, JournalCorrupt)):
                Store.restore(snapshot, tmp_path / "new", resume=resume)
            assert not (tmp_path / "new").exists()


def test_what_is_no_finished_snapshot_is_refused(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal")
    for place in (path, tmp_path / "nothing", tmp_path, path / "journal.json"):
        with pytest.raises(NotASnapshot):
            Store.restore(place, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- fork -------------------------------------------------------------------------------------


def test_a_fork_shares_its_past_and_goes_its_own_way(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        fill(store, 30)
        report = store.fork(tmp_path / "fork", origin="example.org/fork")
        past = tree(tmp_path / "fork" / "segments")
        fill(store, 30, first=30)
        with Store.open(tmp_path / "fork", **SMALL) as fork:
            assert (fork.journal_id, fork.origin) == (report.journal_id, "example.org/fork")
            fill(fork, 30, first=500)
            assert fork.verify().ok
            assert store.verify().ok
            shared = [event.event_hash for event in fork][:31]
            assert shared == [event.event_hash for event in store][:31]
            assert fork.at(31).event_hash != store.at(31).event_hash
            second = fork.fork(tmp_path / "second")
    after = tree(tmp_path / "fork" / "segments")
    assert {name: after[name] for name in past if name.endswith(".seg")}.items() >= {
        name: digest for name, digest in past.items() if int(name[:20]) < 31 and ".seg" in name
    }.items()
    lineage = json.loads((tmp_path / "second" / "journal.json").read_bytes())["lineage"]
    assert [entry["until"] for entry in lineage] == [31, second.events]
    assert lineage[1]["journal_id"] == str(report.journal_id)
    for name in ("fork", "second"):
        assert read_segment.read_journal(tmp_path / name).ok
        assert last_system_event(tmp_path / name, 0x18)["action"] == "forked"
    with Store.open(tmp_path / "second", **SMALL) as again:
        fill(again, 5)
        assert again.verify().ok


def test_a_fork_never_writes_to_a_segment_of_its_ancestor(tmp_path: Path) -> None:
    """Without segments of its own it is refused, whatever witnesses are gone."""
    path = journal(tmp_path / "journal")
    with Store.open(path, mode="r") as reader:
        reader.fork(tmp_path / "fork")
    for file in (tmp_path / "fork" / "segments").iterdir():
        if int(file.name[:20]) >= 32:
            file.unlink()
    (tmp_path / "fork" / "tail.hint").unlink()
    before = tree(tmp_path / "fork" / "segments")
    with pytest.raises(JournalCorrupt) as refused:
        Store.open(tmp_path / "fork", **SMALL)
    assert (refused.value.reason, refused.value.offset) == ("no-own-segment", 16)
    assert refused.value.first == 32
    assert tree(tmp_path / "fork" / "segments") == before


def test_a_fork_and_a_snapshot_of_a_store_with_nothing_new_agree(tmp_path: Path) -> None:
    """At the end of a segment, too: the bound may be where the next one begins."""
    path = tmp_path / "journal"
    with Store.open(path, **SMALL) as store:
        for i in range(40):
            fill(store, 1, first=i, padding=700)
            report = store.snapshot(tmp_path / f"s{i}")
            assert report.events == i + 2
            found: list[Event] = []
            with Store.open(tmp_path / f"s{i}", mode="r") as reader:
                found = list(reader)
                assert reader.verify().ok
            assert [e.event_hash for e in found] == [e.event_hash for e in store]


@pytest.mark.parametrize("by", ["fork", "restore"])
def test_checkpoints_come_along_into_a_fork_and_prove_the_shared_past(
    tmp_path: Path, by: str
) -> None:
    path, fork_path = tmp_path / "journal", tmp_path / "fork"
    with open_signed(path) as store:
        receipts = say(store, 5)
        old = store.checkpoint()
        if by == "fork":
            store.fork(fork_path, origin="example.org/fork")
        else:
            store.snapshot(tmp_path / "copy")
            Store.restore(tmp_path / "copy", fork_path, origin="example.org/fork")
    with open_signed(fork_path, origin=None) as fork:
        assert fork.origin == "example.org/fork"
        assert fork.stored_checkpoint() == dataclasses.replace(old, is_new=False)
        proved = fork.prove(receipts[2].event_id).to_json()
        assert verify_bundle(proved, [], POLICY).ok
        own = Key("example.org/fork", LOG.public_key)
        assert fork.verify(keys=[own]).ok
        new = fork.checkpoint()
        assert (new.origin, fork.checkpoint_sizes()) == (own.name, (old.size, new.size))
        proof = fork.prove_consistency(old.size)
        assert verify_consistency(old.size, old.root, new.size, new.root, proof.hashes)
        assert fork.verify(keys=[own, LOG_KEY]).ok
        # Where a key for the ancestor's name is given, it has to have signed.
        stranger = Key(ORIGIN, THIEF.public_key)
        found = fork.verify(keys=[own, stranger]).findings
        assert [finding.code for finding in found] == ["checkpoint-signature"]
    # Beyond the shared past an ancestor says nothing about a fork.
    name = f"checkpoints/{new.size:020}.note"
    shutil.copy(fork_path / name, tmp_path / "note")
    with open_signed(path) as store:
        say(store, new.size - len(store))
        other = store.checkpoint()
    assert other.size == new.size
    shutil.copy(path / name, fork_path / name)
    with Store.open(fork_path, mode="r") as reader:
        assert [finding.code for finding in reader.verify().findings] == ["checkpoint-note"]
        with pytest.raises(Damaged, match="another size or journal"):
            reader.stored_checkpoint(new.size)


@pytest.mark.parametrize("by", ["fork", "restore"])
def test_a_fork_takes_no_name_of_an_ancestor(tmp_path: Path, by: str) -> None:
    def derive(path: Path, new: Path, origin: str | None) -> None:
        with Store.open(path, mode="r") as store:
            if by == "fork":
                store.fork(new, origin=origin)
                return
            copy = tmp_path / f"copy {len(os.listdir(tmp_path))}"
            store.snapshot(copy)
        Store.restore(copy, new, origin=origin)

    with open_signed(tmp_path / "a") as store:
        say(store, 5)
        store.checkpoint()
    derive(tmp_path / "a", tmp_path / "b", None)
    derive(tmp_path / "b", tmp_path / "c", "example.org/c")
    with Store.open(tmp_path / "b", mode="r") as store:
        default = store.origin
    # Its own, the one that its ancestor got without asking, and the one in their checkpoint.
    for origin in ("example.org/c", default, ORIGIN):
        with pytest.raises(InvalidInput, match="two histories under one name") as refused:
            derive(tmp_path / "c", tmp_path / "d", origin)
        assert (refused.value.field, refused.value.value) == ("origin", origin)
        assert not list(tmp_path.glob("d*"))
    derive(tmp_path / "c", tmp_path / "d", "example.org/d")


def test_an_ancestor_s_checkpoint_takes_cosignatures_in_a_fork(tmp_path: Path) -> None:
    witness = Key("example.net/witness", WITNESS.public_key, 4)
    path = tmp_path / "fork"
    with open_signed(tmp_path / "journal") as store:
        receipts = say(store, 5)
        old = store.checkpoint()
        store.fork(path, origin="example.org/fork")
    note = Note.parse(old.note)
    line = sign_note(note.text, witness.name, WITNESS.private, time=1_800_000_000)
    whole = str(Note(note.text, (*note.signatures, line)))
    with open_signed(path, origin=None) as fork:
        kept = fork.add_cosignatures(whole, [witness])
        assert (kept.origin, kept.note) == (ORIGIN, whole)
        assert fork.stored_checkpoint() == kept
        # What the fork publishes is a log of its own.
        assert not (path / "tlog").exists()
        with pytest.raises(InvalidInput, match="own key"):
            fork.add_cosignatures(whole, [Key("example.org/x", LOG.public_key, 4)])
        policy = Policy(LOG_KEY, (witness,), 1)
        assert verify_bundle(fork.prove(receipts[2].event_id).to_json(), [], policy).ok
        new = fork.checkpoint()
        fork.add_cosignatures(whole, [witness])
        assert (path / "tlog" / "checkpoint").read_text("utf-8") == new.note


def test_no_bundle_is_made_that_would_need_the_keys_of_two_logs(tmp_path: Path) -> None:
    with open_signed(tmp_path / "journal") as store:
        say(store, 5)
        old = store.checkpoint()
        say(store, 2)
        later = store.checkpoint()
        store.fork(tmp_path / "fork", origin="example.org/fork")
    with open_signed(tmp_path / "fork", origin=None) as fork:
        new = fork.checkpoint()
        with pytest.raises(InvalidInput, match="forked from") as refused:
            fork.prove_range(1, 3, since=old.size)
        assert (refused.value.field, refused.value.value) == ("since", old.size)
        # Two checkpoints of one log, the ancestor's or the fork's own, are judged by one key.
        shown = fork.prove_range(1, 3, since=old.size, size=later.size)
        assert verify_bundle(shown.to_json(), [], POLICY).ok
        say(fork)
        fork.checkpoint()
        shown = fork.prove_range(1, 3, since=new.size)
        own = Policy(Key("example.org/fork", LOG.public_key))
        assert verify_bundle(shown.to_json(), [], own).ok


@pytest.mark.parametrize("by", ["fork", "restore"])
def test_receipts_of_the_shared_past_hold_in_a_fork_and_in_its_forks(
    tmp_path: Path, by: str
) -> None:
    path = tmp_path / "journal"

    def begin(source: Store, name: str) -> Path:
        if by == "fork":
            source.fork(tmp_path / name)
        else:
            source.snapshot(tmp_path / f"{name}.copy")
            Store.restore(tmp_path / f"{name}.copy", tmp_path / name)
        return tmp_path / name

    with open_signed(path) as store:
        plain = say(store, 3)
        signed = [store.sign(receipt) for receipt in plain]
        fork_path = begin(store, "fork")
        beyond = store.sign(say(store)[0])
    with open_signed(fork_path, origin=None) as fork:
        own = fork.sign(say(fork)[0])
        grandchild = begin(fork, "grandchild")
    for each in (fork_path, grandchild):
        with open_signed(each, origin=None) as here:
            here.checkpoint()
            key = Key(here.origin, LOG.public_key)
            for receipt in signed:
                assert here.verify_receipt(receipt) == Signed(receipt.key_id or b"")
                fields: dict[str, Any] = {
                    "event_id": receipt.event_id,
                    "sequence": receipt.sequence,
                    "content_hash": here.get(receipt.event_id).content_hash,
                    "key_id": receipt.key_id,
                    "extensions": receipt.extensions,
                }
                found = here.verify_receipt_fields(**fields, signature=receipt.signature)
                assert found.is_signed
                found = here.verify_receipt_fields(**fields, signature=beyond.signature)
                assert found == Invalid(Reason.SIGNATURE)
                bundle = here.prove(receipt.event_id, receipt=receipt)
                assert verify_bundle(bundle.to_json(), [], Policy(key)).ok
            assert isinstance(here.verify_receipt(plain[0]), UnsignedAccepted)
            assert here.verify_receipt(own).is_signed
            # What an ancestor wrote after the fork is no event of it.
            assert here.verify_receipt(beyond) == Invalid(Reason.MISSING)
            # Nor does an ancestor speak of what the fork wrote itself.
            forged = msgspec.structs.replace(own, journal_id=signed[0].journal_id)
            assert here.verify_receipt(forged) == Invalid(Reason.MISSING)
            with pytest.raises(InvalidInput, match="not that of the event"):
                here.prove(own.event_id, receipt=forged)
