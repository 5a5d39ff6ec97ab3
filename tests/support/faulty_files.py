"""The recording and the faulty files of `batpak.testing`, on a disk that need not sync."""

from __future__ import annotations

import errno
import os

from batpak import testing
from batpak.files import REAL, RealFiles
from batpak.store import Store
from batpak.testing import CHANGES, SYNCS, Fault, Killed, Operation

__all__ = [
    "CHANGES", "DISK", "SYNCS", "Fault", "FaultyFiles", "FullDisk", "Killed", "Operation",
    "RecordingFiles", "UnsyncedFiles", "die",
]  # fmt: skip


class UnsyncedFiles(RealFiles):
    """The operating system's files, whose syncs are left out.

    Here no power is ever cut, so waiting for the disk proves nothing and takes most of
    the time. What asks for syncs is held to them by the recorded operations.
    """

    def sync_data(self, fd: int) -> None:
        REAL.fstat(fd)

    def sync_file(self, fd: int) -> None:
        REAL.fstat(fd)

    def sync_directory(self, path: str) -> None:
        REAL.stat(path)


DISK = UnsyncedFiles()


class RecordingFiles(testing.RecordingFiles):
    """See batpak.testing.RecordingFiles."""

    def __init__(self) -> None:
        super().__init__(DISK)


class FaultyFiles(testing.FaultyFiles):
    """See batpak.testing.FaultyFiles."""

    def __init__(self) -> None:
        super().__init__(DISK)


def die(store: Store, files: FaultyFiles) -> None:
    """The process that had this store open ends here: nothing is written any more, no lock held."""
    files.dead = True
    # The dead run no finalizers, and their threads are gone with them.
    store._finalizer.detach()
    if store._queue is not None:
        store._queue.abandon(lambda: None)
    store._writer.abandon()
    files.bury()


class FullDisk(RecordingFiles):
    """Files on a disk that has room for so many more bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.room: int | None = None

    def _refuse(self, path: str) -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        new = max(0, offset + len(data) - DISK.fstat(fd).st_size)
        if self.room is not None and new > self.room:
            if self.room == 0:
                raise self._refuse(self._path(fd))
            # As disks do: what fits is written, the next write is refused.
            data = bytes(data)[: len(data) - new + self.room]
            new = self.room
        if self.room is not None:
            self.room -= new
        return super().pwrite(fd, data, offset)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if self.room is not None:
            raise self._refuse(self._path(fd))
        super().allocate(fd, offset, length)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        if self.room == 0 and flags & os.O_CREAT and not os.path.exists(path):
            raise self._refuse(path)
        return super().open(path, flags, mode)
