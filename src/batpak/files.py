"""The one door to the file system: everything that batpak does to a disk goes through here.

`Files` is the contract, `REAL` the operating system. Tests put a recorder or a
fault injector in its place, so an operation that is not in this protocol can't be
crash-tested and must not be used elsewhere. Knows paths and bytes, no formats.

Errors of the operating system leave here as OSError; `refusal` turns one into
`NoSpace` or `StorageFailed` at the place that knows what was being done.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from batpak.errors import (
    InvalidInput,
    NoSpace,
    PlatformUnsupported,
    StorageFailed,
    Unavailable,
)

__all__ = [
    "MAX_SMALL_FILE",
    "REAL",
    "TEMPORARY_SUFFIX",
    "Files",
    "RealFiles",
    "Space",
    "closing",
    "filesystem_space",
    "filesystem_type",
    "is_directory",
    "is_network_filesystem",
    "let_go",
    "lock_holder",
    "may_write",
    "path_text",
    "read_small",
    "refusal",
    "replace_file",
    "tell_not_closed",
    "write_all",
    "write_new",
]

logger = logging.getLogger("batpak.files")

TEMPORARY_SUFFIX = ".tmp"
MAX_SMALL_FILE = 1 << 20
"""Files read whole (journal.json, hints) are refused beyond this many bytes."""

_FICLONE = 0x40049409
"""ioctl of Linux: the whole of one file into another, by reference."""
_WRITES = hasattr(os, "pwrite")
"""Windows has no such call: there batpak reads, and refuses to open anything for writing."""
_O_BINARY = getattr(os, "O_BINARY", 0)
_O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
"""Opening a named pipe waits for its other end without it; for files it changes nothing."""


class Files(Protocol):
    """What batpak asks of a file system. `fd` is a descriptor that `open` returned.

    Contract: `pwrite` may write less than asked and says how much; after `sync_data`
    or `sync_file` returns, the file's content and length survive power loss; after
    `sync_directory`, so do the names in that directory. Every method may raise
    OSError. A write that raised may have taken effect in part.
    """

    def open(self, path: str, flags: int, mode: int = 0o644) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, length: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int: ...
    def sync_data(self, fd: int) -> None: ...
    def sync_file(self, fd: int) -> None: ...
    def sync_directory(self, path: str) -> None: ...
    def truncate(self, fd: int, length: int) -> None: ...
    def allocate(self, fd: int, offset: int, length: int) -> None: ...
    def stat(self, path: str) -> os.stat_result: ...
    def fstat(self, fd: int) -> os.stat_result: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def link(self, source: str, target: str) -> None: ...
    def clone(self, source_fd: int, target_fd: int) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def listdir(self, path: str) -> list[str]: ...
    def lock(self, fd: int) -> bool: ...
    def map(self, fd: int, length: int) -> mmap.mmap: ...


def _full_sync(fd: int) -> None:
    # macOS: fsync leaves the data in the drive's cache; only F_FULLFSYNC empties it.
    import fcntl

    fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined]  # exists on macOS only


def _seek_read(fd: int, length: int, offset: int) -> bytes:
    # Windows has no pread; read-only use there is single-threaded per descriptor.
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def _reads_only(missing: str) -> PlatformUnsupported:
    return PlatformUnsupported(
        f"this platform has no {missing}: nothing of batpak's can be written here",
        capability=missing,
        reason=f"no-{missing}",
        advice='open journals with mode="r" to read; write on Linux or macOS',
    )


class RealFiles:
    """The operating system's files."""

    close = staticmethod(os.close)
    stat = staticmethod(os.stat)
    fstat = staticmethod(os.fstat)
    unlink = staticmethod(os.unlink)
    listdir = staticmethod(os.listdir)
    truncate = staticmethod(os.ftruncate)
    rename = staticmethod(os.replace)
    link = staticmethod(os.link)
    rmdir = staticmethod(os.rmdir)

    if _WRITES:
        pread = staticmethod(os.pread)
        pwrite = staticmethod(os.pwrite)
    else:
        pread = staticmethod(_seek_read)
    if sys.platform == "darwin":
        sync_data = staticmethod(_full_sync)
        sync_file = staticmethod(_full_sync)
    else:
        sync_data = staticmethod(getattr(os, "fdatasync", os.fsync))
        sync_file = staticmethod(os.fsync)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        """Never waits. What is no regular file can be opened, and then neither read nor written
        at a position: ESPIPE.
        """
        if not _WRITES and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise _reads_only("pwrite")
        return os.open(path, flags | _O_BINARY | _O_CLOEXEC | _O_NONBLOCK, mode)

    def mkdir(self, path: str) -> None:
        if not _WRITES:
            raise _reads_only("pwrite")
        os.mkdir(path, 0o755)

    def clone(self, source_fd: int, target_fd: int) -> None:
        """Let an empty file share the other's blocks until one of them is written to.

        Raises OSError (EOPNOTSUPP) where that can't be done; then copy.
        """
        if sys.platform != "linux":
            raise OSError(errno.EOPNOTSUPP, "no way to share blocks on this platform")
        import fcntl

        fcntl.ioctl(target_fd, _FICLONE, source_fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | _O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Reserve space beyond the end. Raises OSError (EOPNOTSUPP) where that can't be done."""
        allocate = getattr(os, "posix_fallocate", None)
        if allocate is None:
            raise OSError(errno.EOPNOTSUPP, "no posix_fallocate on this platform")
        allocate(fd, offset, length)

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file without waiting; False when it is held."""
        try:
            import fcntl
        except ImportError as error:
            raise _reads_only("flock") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def map(self, fd: int, length: int) -> mmap.mmap:
        return mmap.mmap(fd, length, access=mmap.ACCESS_READ)


REAL: Files = RealFiles()  # type: ignore[assignment]  # Windows lacks pwrite, and nothing opens for writing there


def path_text(path: str | os.PathLike[str], field: str) -> str:
    """A path as text. Raises InvalidInput for what is none, such as bytes, or names nothing."""
    try:
        text: object = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise InvalidInput(
            "a path is a text or a Path, and not empty", field=field, value=path,
            advice='"." is the current directory; os.fsdecode() makes a text of bytes',
        )  # fmt: skip
    try:
        is_name = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise InvalidInput(
            "no file can have this name: it has a character that no system takes",
            field=field,
            value=path,
            advice="check where the path comes from",
        )
    return text


@contextmanager
def closing(files: Files, fd: int) -> Generator[int]:
    """Close `fd` at the end of the block."""
    try:
        yield fd
    finally:
        files.close(fd)


def let_go(files: Files, fd: int) -> None:
    """Close a descriptor whose bytes are synced or were only read: no error counts any more.

    The system gives the descriptor back even when closing reports an error.
    """
    try:
        files.close(fd)
    except OSError as error:
        tell_not_closed(error)


def tell_not_closed(error: OSError) -> None:
    """Log what closing a descriptor reported, where it no longer matters."""
    logger.warning(
        "closing a descriptor: %s", str(error),
        extra={"code": "descriptor-not-closed", "error": str(error)},
    )  # fmt: skip


def write_all(files: Files, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write every byte, going on after short writes. Raises OSError."""
    written = files.pwrite(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        more = files.pwrite(fd, view[written:], offset + written)
        if more <= 0:
            # POSIX leaves a zero-byte write unexplained; going on would loop for ever.
            raise OSError(errno.ENOSPC, "the file system accepted no bytes")
        written += more


def replace_file(files: Files, path: str, *data: bytes | bytearray) -> None:
    """Put `data`, end to end, at `path`: a crash leaves the old file or the new one, no mix.

    Raises OSError; then the old file stands and the temporary one may remain.
    """
    temporary = path + TEMPORARY_SUFFIX
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
    with closing(files, files.open(temporary, flags)) as fd:
        at = 0
        for part in data:
            write_all(files, fd, part, at)
            at += len(part)
        # Crash before this: the temporary name is deleted by the next writer's open.
        files.sync_file(fd)
    files.rename(temporary, path)
    # Crash before this: the old or the new name, both complete.
    files.sync_directory(os.path.dirname(path))


def write_new(
    files: Files, path: str, data: bytes, mode: int = 0o644, *, sync_name: bool = False
) -> None:
    """Write a new file, synced, and its name too where asked for: whole, or none is there.

    Raises OSError; FileExistsError where something stands there already.
    """
    fd = files.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with closing(files, fd):
            write_all(files, fd, data, 0)
            # Crash before this: a file of which anything may be missing.
            files.sync_file(fd)
        if sync_name:
            files.sync_directory(os.path.dirname(path))
    except BaseException:
        # What is left of it would refuse the next try, and might pass for what it was to be.
        with suppress(OSError):
            files.unlink(path)
        raise


def read_small(files: Files, path: str, limit: int = MAX_SMALL_FILE) -> bytes:
    """The whole of a small file. Raises OSError; EFBIG beyond `limit` bytes."""
    with closing(files, files.open(path, os.O_RDONLY)) as fd:
        data = files.pread(fd, limit + 1, 0)
    if len(data) > limit:
        raise OSError(errno.EFBIG, "file is larger than such a file can be", path)
    return data


def is_directory(files: Files, path: str) -> bool:
    """Whether a directory stands there; False also where that can't be found out."""
    try:
        return stat.S_ISDIR(files.stat(path).st_mode)
    except OSError:
        return False


_ADVICE: Final = {
    errno.EROFS: 'the file system is read-only: open with mode="r", or remount it',
    errno.ENOENT: "a part of the path is not there: check it, then try again",
    errno.ENOTDIR: "a part of the path is a file: check it, then try again",
    errno.EACCES: "check who may read and write it, then try again",
    errno.EPERM: "check who may read and write it, then try again",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower max_open_files",
    errno.ENFILE: "the whole system has too many files open: end what is not needed",
    errno.EIO: "the disk or its connection fails: see the system's log, and copy what can be read",
}
_ANY_ADVICE: Final = "check the permissions and the disk, then try again"


def refusal(error: OSError, what: str, path: str) -> Unavailable:
    """The batpak error for a file operation that the system refused."""
    detail = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return NoSpace(
            f"{what}: {detail}",
            file=path,
            advice="free some space, then try again; what was written before is intact",
        )
    if error.errno in (errno.ESPIPE, errno.ENXIO):
        return StorageFailed(
            f"{what}: it is no file, but a pipe, a socket or a device",
            file=path,
            advice="find out who put it there, move it away, and restore the file",
        )
    advice = _ADVICE.get(error.errno or 0, _ANY_ADVICE)
    return StorageFailed(f"{what}: {detail}", file=path, advice=advice)


_NETWORK_TYPES = frozenset(
    (
        "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs",
        "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
        "orangefs", "smb2", "smb3", "smbfs", "virtiofs", "webdav",
    )
)  # fmt: skip


def filesystem_type(path: str) -> str | None:
    """The type of the file system that holds `path`, as the kernel names it.

    None where the platform does not tell (all but Linux).
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            mounts = table.read(4 << 20).splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, found = -1, None
    for line in mounts:
        head, _, tail = line.partition(" - ")
        fields, after = head.split(), tail.split()
        if len(fields) < 5 or not after:
            continue
        point = fields[4].encode("latin-1", "replace").decode("unicode_escape", "replace")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Later lines of one mount point cover earlier ones.
        if inside and len(point) >= best:
            best, found = len(point), after[0]
    return found


def is_network_filesystem(kind: str | None) -> bool:
    """Whether a type of `filesystem_type` names a network file system."""
    return kind in _NETWORK_TYPES


@dataclass(frozen=True, slots=True)
class Space:
    """Room on a file system, in bytes."""

    total: int
    free: int
    """What this user may still fill."""
    read_only: bool


def filesystem_space(path: str) -> Space | None:
    """The room on the file system that holds `path`; None where the system does not tell."""
    ask = getattr(os, "statvfs", None)
    if ask is None:
        return None
    try:
        found: os.statvfs_result = ask(path)
    except OSError:
        return None
    unit = found.f_frsize
    return Space(found.f_blocks * unit, found.f_bavail * unit, bool(found.f_flag & os.ST_RDONLY))


def may_write(directory: str) -> bool:
    """Whether this process could make files in a directory: asks for it, never tries."""
    return os.access(directory, os.W_OK | os.X_OK)


def lock_holder(status: os.stat_result) -> int | None:
    """The process that holds a lock of this file, as the kernel lists it; 0 for nobody.

    None where that can't be seen: only Linux has the list, and in a container it shows
    the container's own processes, and not every file system's files under the device
    that `stat` names. Takes no lock, so it is in nobody's way.
    """
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as table:
            lines = table.read(4 << 20).splitlines()
    except OSError:
        return None
    inode = str(status.st_ino)
    for line in lines:
        # A waiting process stands behind "->", which moves the columns.
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK" or not fields[4].isdigit():
            continue
        major, minor, number = (*fields[5].split(":"), "", "", "")[:3]
        if number != inode:
            continue
        try:
            device = os.makedev(int(major, 16), int(minor, 16))
        except ValueError:
            continue
        return int(fields[4]) if device == status.st_dev else None
    return 0


def wall_us() -> int:
    """Microseconds since the epoch, for the names and notes of files."""
    return time.time_ns() // 1000
