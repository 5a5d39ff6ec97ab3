"""A small real file system that fills up: a refused write leaves nothing, room brings it back.

Two kinds, each mounted for the module and taken away after it: a tmpfs, and an ext4 image
on a loop device. Both need root. Ballast files take the room that is left, so what is
refused is what the journal asks for next.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batpak import Coordinate, Durability, Store
from batpak.config import Every
from batpak.errors import BatpakError, NoSpace, Unavailable
from tests.support.checker import KIND, Ledger, Outcome, check_journal, segment_bytes
from tests.support.nursery import Nursery
from tests.support.testimony import check_unrecovered, hear

SIZE = 4 << 20
PLAIN: dict[str, object] = {"preallocate": 0, "codec": "plain"}


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=60)


def mount(kind: str, place: Path) -> Path:
    """A file system of about `SIZE` bytes; raises what mounting it raises."""
    point = place / "mounted"
    point.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", point)
    else:
        image = place / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image)
        run("mount", "-o", "loop", image, point)
    return point


@pytest.fixture(scope="module", params=["tmpfs", "ext4"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip(f"no {request.param} was filled: mounting one needs root")
    place = tmp_path_factory.mktemp(request.param)
    try:
        point = mount(request.param, place)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        pytest.skip(f"no {request.param} was filled: {said.decode().strip()}")
    print(f"{request.param} mounted, {os.statvfs(point).f_bavail} blocks free")
    try:
        yield point
    finally:
        run("umount", point)


@pytest.fixture
def room(disk: Path) -> Iterator[Path]:
    """The file system with nothing on it, before and after."""
    yield disk
    for child in disk.iterdir():
        if child.name != "lost+found":
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def fill(disk: Path) -> Path:
    """Take every byte that is left; the file that holds them."""
    ballast = disk / "ballast"
    fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        for step in (1 << 16, 1 << 10, 1):
            while True:
                try:
                    os.write(fd, bytes(step))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
        # Some file systems find out only now where the bytes go.
        os.fsync(fd)
    finally:
        os.close(fd)
    return ballast


def until_refused(ledger: Ledger, store: Store, *entities: str, padding: int) -> NoSpace:
    """Append until there is no room."""
    while True:
        try:
            ledger.commit(store, *entities, padding=padding)
        except NoSpace as error:
            return error


MODES = [Durability.SYNC, Durability.EVERY(ms=3_600_000, events=5), Durability.OS]


@pytest.mark.parametrize("entities", [["player:0"], ["player:0", "player:1", "player:0"]], ids=len)
@pytest.mark.parametrize("mode", MODES, ids=["sync", "every", "os"])
def test_a_full_disk_refuses_an_append_and_keeps_nothing_of_it(
    room: Path, mode: Durability | Every, entities: list[str]
) -> None:
    path, ledger = room / "journal", Ledger()
    (room / "ballast").write_bytes(bytes(1 << 20))
    with Store.open(path, durability=mode) as store:
        error = until_refused(ledger, store, *entities, padding=3000)
        assert (error.code, error.retryable) == ("no-space", True)
        assert error.file is not None
        assert error.advice
        written = len(store)
        before = segment_bytes(str(path))
        for _ in range(3):
            with pytest.raises(NoSpace):
                ledger.commit(store, *entities, padding=30_000)
        assert segment_bytes(str(path)) == before, "a refused append left bytes"
        assert len(store) == written, "a refused append is seen"
        ledger.explain(store)
        assert store.verify("full").ok
        assert sum(a.outcome is Outcome.REFUSED for a in ledger.attempts) == 4

        (room / "ballast").unlink()
        for _ in range(5):
            ledger.commit(store, *entities, padding=3000)
        ledger.explain(store)
        assert store.verify("full").ok
    check_journal(path, ledger)


def test_a_full_disk_at_rotation_keeps_the_old_segment(room: Path) -> None:
    path, ledger = room / "journal", Ledger()
    with Store.open(path, segment_max_bytes=1 << 16, **PLAIN) as store:
        while store.stats().segment_bytes < 1 << 16:
            ledger.commit(store, "player:0", padding=3000)
        ballast = fill(room)
        before = segment_bytes(str(path))
        for _ in range(2):
            with pytest.raises(NoSpace) as caught:
                ledger.commit(store, "player:0", padding=10)
            assert caught.value.code == "no-space"
            assert segment_bytes(str(path)) == before
            assert not [*(path / "segments").glob("*.tmp")]
        assert store.verify("full").ok
        ballast.unlink()
        ledger.commit(store, "player:0", padding=10)
        assert store.stats().segments == 2
    check_journal(path, ledger)


def test_an_open_without_room_for_the_quarantine_changes_nothing(room: Path) -> None:
    path = room / "journal"
    with Nursery() as nursery:
        ledger = Ledger()
        for life, options in (
            ("writes", {}),
            ("outgrows", {"extra": 9000, "dies": True, "entities": ["player:0"] * 60}),
        ):
            with nursery.child(life, path, number=ledger.numbers, **options) as child:
                child.listen_to_end()
            ledger = hear(child.lines, ledger).ledger
    ballast = fill(room)
    before = segment_bytes(str(path))
    authority = {name: (path / name).read_bytes() for name in ("journal.json", "tail.hint")}
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            Store.open(path)
        assert isinstance(caught.value, NoSpace), caught.value
        assert segment_bytes(str(path)) == before
        assert {name: (path / name).read_bytes() for name in authority} == authority
        assert not [*path.glob("quarantine/*.bin")], "it would be said to be kept"
        # Reading works, and shows all that was acknowledged.
        with Store.open(path, mode="r") as reader:
            ledger.explain(reader)
            assert reader.verify("full").ok
        check_unrecovered(path, ledger)
    ballast.unlink()
    with Store.open(path) as store:
        cut = store.open_report.cut
        assert cut is not None
        assert cut.file is not None
        assert cut.quarantine is not None
        kept = Path(cut.quarantine).read_bytes()
        assert kept == before[os.path.basename(cut.file)][cut.offset : cut.offset + cut.bytes]
        ledger.commit(store, "player:0")
    check_journal(path, ledger)


def test_a_close_without_room_says_so_and_loses_nothing(room: Path) -> None:
    path, ledger = room / "journal", Ledger()
    store = Store.open(path, **PLAIN)
    ledger.commit(store, "player:0", padding=2000)
    ballast = fill(room)
    shortest = Coordinate("a", "s")
    appended = 0
    while True:
        # The last block of the file has room of its own: use that up, too.
        try:
            store.append_raw(shortest, KIND, b"")
        except NoSpace:
            break
        appended += 1
    with pytest.raises(NoSpace) as caught:
        store.close()
    assert caught.value.code == "no-space"
    with Store.open(path, mode="r") as reader:
        assert sum(event.coordinate == shortest for event in reader) == appended
        assert reader.verify("full").ok
    # The lock is free, and an open without room says so, too.
    with pytest.raises(BatpakError) as refused:
        Store.open(path, **PLAIN)
    assert isinstance(refused.value, NoSpace)
    ballast.unlink()
    with Store.open(path) as again:
        assert again.open_report.cut is None
        assert sum(event.coordinate == shortest for event in again) == appended
        ledger.explain(event for event in again if event.coordinate != shortest)
        assert again.verify("full").ok


@pytest.mark.parametrize(
    "make", [lambda path: path, lambda path: path / "deeper"], ids=["", "deep"]
)
def test_a_journal_can_not_begin_without_room_and_begins_with_it(
    room: Path, make: Callable[[Path], Path]
) -> None:
    path = make(room / "journal")
    ballast = fill(room)
    with pytest.raises(NoSpace):
        Store.open(path)
    ballast.unlink()
    ledger = Ledger()
    with Store.open(path) as store:
        ledger.commit(store, "player:0")
    check_journal(path, ledger)
