"""The door to the file system: whole writes, safe replacement, named refusals."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from batpak import Coordinate, EventKind, SigningKey, Store
from batpak.engine.doctor import examine
from batpak.errors import (
    BatpakError,
    KeyFileRefused,
    NoSpace,
    PlatformUnsupported,
    StorageFailed,
    Unavailable,
)
from batpak.files import (
    MAX_SMALL_FILE,
    REAL,
    Files,
    closing,
    filesystem_type,
    is_network_filesystem,
    read_small,
    refusal,
    replace_file,
    write_all,
)
from batpak.journal.layout import Layout
from batpak.keyring import FileKeyring, LocalProvider
from tests.support.faulty_files import DISK
from tests.watched_files import WatchedFiles


class ShortFiles(WatchedFiles):
    """Writes at most `most` bytes a call."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return super().pwrite(fd, data[: self.most], offset)


@pytest.mark.parametrize("most", [1, 3, 9, 10, 11])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_short_writes_go_on_where_they_stopped(tmp_path: Path, most: int, kind: type) -> None:
    files = ShortFiles(most)
    fd = files.open(str(tmp_path / "file"), os.O_CREAT | os.O_RDWR)
    with closing(files, fd):
        write_all(files, fd, kind(b"0123456789"), 2)
    assert (tmp_path / "file").read_bytes() == b"\0\x000123456789"
    assert files.count("pwrite") == -(-10 // most)


def test_a_disk_that_takes_no_bytes_ends_the_write(tmp_path: Path) -> None:
    files = ShortFiles(0)
    fd = files.open(str(tmp_path / "file"), os.O_CREAT | os.O_RDWR)
    with closing(files, fd), pytest.raises(OSError, match="no bytes") as caught:
        write_all(files, fd, b"x", 0)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("open", "file.tmp"),
        ("pwrite", "file.tmp"),
        ("sync_file", "file.tmp"),
        ("rename", "file"),
    ],
)
def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, operation: str, name: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    files = WatchedFiles()
    files.refuse(operation, name, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(files, str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    files.refused.clear()
    replace_file(files, str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_replacement_is_synced_before_and_after_it_gets_its_name(tmp_path: Path) -> None:
    files = WatchedFiles()
    replace_file(files, str(tmp_path / "file"), b"new")
    order = [operation for operation, _ in files.calls if operation != "open-to-write"]
    assert order == ["open", "pwrite", "sync_file", "rename", "sync_directory"]


def test_a_small_file_is_read_whole_and_a_large_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MAX_SMALL_FILE)
    assert read_small(REAL, str(path)) == b"x" * MAX_SMALL_FILE
    assert read_small(REAL, str(path), MAX_SMALL_FILE) == b"x" * MAX_SMALL_FILE
    path.write_bytes(b"x" * (MAX_SMALL_FILE + 1))
    with pytest.raises(OSError, match="larger") as caught:
        read_small(REAL, str(path))
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(FileNotFoundError):
        read_small(REAL, str(tmp_path / "missing"))


def test_a_platform_without_locks_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(PlatformUnsupported) as caught:
        Store.open(tmp_path / "journal")
    assert (caught.value.capability, caught.value.reason) == ("flock", "no-flock")
    assert caught.value.advice.startswith('open journals with mode="r" to read')


def test_a_lock_is_held_by_one_open_file(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = REAL.open(path, os.O_CREAT | os.O_RDWR)
    second = REAL.open(path, os.O_RDWR)
    try:
        assert REAL.lock(first)
        assert not REAL.lock(second)
    finally:
        REAL.close(first)
    assert REAL.lock(second)
    REAL.close(second)


def test_descriptors_are_not_inherited(tmp_path: Path) -> None:
    fd = REAL.open(str(tmp_path / "file"), os.O_CREAT | os.O_RDWR)
    with closing(REAL, fd):
        assert not os.get_inheritable(fd)


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.ENOSPC, NoSpace, "free some space"),
        (errno.EDQUOT, NoSpace, "free some space"),
        (errno.EROFS, StorageFailed, 'mode="r"'),
        (errno.EACCES, StorageFailed, "who may read and write it"),
        (errno.ENOENT, StorageFailed, "is not there"),
        (errno.ENOTDIR, StorageFailed, "is a file"),
        (errno.EIO, StorageFailed, "disk"),
        (errno.EMFILE, StorageFailed, "max_open_files"),
        (errno.EBUSY, StorageFailed, "permissions"),
    ],
)
def test_a_refusal_of_the_system_says_what_where_and_what_next(
    number: int, error: type[Unavailable], advice: str
) -> None:
    found = refusal(OSError(number, "told by the system"), "can't write the thing", "/j/thing")
    assert type(found) is error
    assert found.file == "/j/thing"
    assert found.what == f"can't write the thing: {os.strerror(number)}"
    assert advice in found.advice
    assert found.retryable


def test_a_refusal_without_a_number_keeps_its_words() -> None:
    assert "strange" in str(refusal(OSError("strange"), "can't do it", "/j"))


# --- network file systems ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"])
def test_file_systems_over_a_network_are_known(kind: str) -> None:
    assert is_network_filesystem(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "fuse", "", None]
)
def test_local_and_unknown_file_systems_are_not_refused(kind: str | None) -> None:
    assert not is_network_filesystem(kind)


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="Linux tells, others not")
def test_the_kernel_names_the_file_system_of_a_path(tmp_path: Path) -> None:
    assert filesystem_type("/proc") == "proc"
    assert filesystem_type("/proc/self/net") == "proc"
    assert filesystem_type("/sys") == "sysfs"
    here = filesystem_type(str(tmp_path))
    assert here is not None
    assert here not in ("proc", "sysfs")
    # A name that only begins like a mount point is not inside it.
    assert filesystem_type("/process-that-is-not") == filesystem_type("/")
    (tmp_path / "link").symlink_to("/proc")
    assert filesystem_type(str(tmp_path / "link")) == "proc"
    assert filesystem_type(str(tmp_path / "missing")) == here


def _pipe_at(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("place", ["journal.json", "segment", "tail.hint", "journal.lock", "note"])
def test_a_pipe_in_the_place_of_a_journals_file_holds_up_nobody(tmp_path: Path, place: str) -> None:
    path = tmp_path / "journal"
    with Store.open(path, checkpoint_key=SigningKey.generate(), files=DISK) as store:
        store.append(Coordinate("a", "b"), 1, kind=EventKind(0xF, 1))
        store.checkpoint()
    names = {
        "segment": next((path / "segments").glob("*.seg")),
        "note": next((path / "checkpoints").glob("*.note")),
    }
    _pipe_at(names.get(place, path / place))
    examine(REAL, Layout(str(path)))
    refused: list[BatpakError] = []
    read, write = partial(Store.open, mode="r"), partial(Store.open, mode="rw")
    for opened in (read, write):
        # Refused by name, or passed over as a file that can be made again: each returns.
        try:
            with opened(path, files=DISK) as store:
                store.verify()
        except BatpakError as error:
            refused.append(error)
    assert all(error.advice and str(path) in str(error) for error in refused)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_key_no_keyring_and_no_small_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(KeyFileRefused) as caught:
        SigningKey.load(pipe)
    assert caught.value.reason == "not-a-file"
    with pytest.raises(StorageFailed, match="no file"):
        LocalProvider(pipe)
    ring = FileKeyring.create(tmp_path / "ring")
    _pipe_at(Path(ring.path, "keyring.json"))
    with pytest.raises(StorageFailed, match="no file"):
        FileKeyring(ring.path)
    with pytest.raises(OSError, match="seek"):
        read_small(REAL, str(pipe))


def _make_key(place: Path, files: Files) -> None:
    SigningKey.generate().save(place, files=files)


def _make_ring(place: Path, files: Files) -> None:
    FileKeyring.create(place, files=files)


def _make_master(place: Path, files: Files) -> None:
    LocalProvider.create(place, files=files)


@pytest.mark.parametrize("operation", ["pwrite", "sync_file", "sync_directory"])
@pytest.mark.parametrize("make", [_make_key, _make_ring, _make_master])
def test_what_could_not_be_written_does_not_stand_in_the_way_of_the_next_try(
    tmp_path: Path, make: Callable[[Path, Files], None], operation: str
) -> None:
    place = tmp_path / "new"
    files = WatchedFiles()
    for name in ("new", "keyring.json", tmp_path.name):
        files.refused[operation, name] = OSError(errno.ENOSPC, "no room")
    with pytest.raises(NoSpace) as caught:
        make(place, files)
    files.refused.clear()
    make(place, files)
    assert place.exists()
    assert "try again" in caught.value.advice
