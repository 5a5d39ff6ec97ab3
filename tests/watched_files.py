"""Real files that a test can watch, hold and refuse: what a store asks of the disk.

Counts each operation, keeps a sync waiting until the test says so, and makes an
operation fail before it takes effect. Everything that is not held or refused reaches
the operating system. Knows names and operations, no formats.
"""

from __future__ import annotations

import os
import threading
from collections import Counter

from batpak.files import RealFiles

WAIT = 60.0
"""Seconds after which a wait is a failed test; nothing comes near it when all is well."""


class WatchedFiles(RealFiles):
    """`calls` counts (operation, file name); `refused` maps such a pair to what is raised.

    A name ending in "*" stands for every file that begins with what precedes it.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.refused: dict[tuple[str, str], OSError] = {}
        self._spared: dict[tuple[str, str], int] = {}
        self.opened_to_write: list[str] = []
        self.pass_syncs = threading.Event()
        self.pass_syncs.set()
        self.sync_began = threading.Semaphore(0)
        """One permit for each sync_data that has begun."""
        self.sync_ended = threading.Semaphore(0)
        """One permit for each sync_data that has succeeded."""
        self.segment_written = threading.Semaphore(0)
        """One permit for each pwrite to a segment."""
        self._names: dict[int, str] = {}

    def count(self, operation: str, suffix: str = "") -> int:
        """How often `operation` was asked for, of files whose name ends in `suffix`."""
        return sum(
            number
            for (done, name), number in self.calls.items()
            if done == operation and name.endswith(suffix)
        )

    def refuse(self, operation: str, name: str, error: int, *, after: int = 0) -> None:
        """From now on `operation` on `name` fails with this errno, but for its first `after`."""
        self.refused[operation, name] = OSError(error, os.strerror(error))
        self._spared[operation, name] = after

    def _meet(self, operation: str, name: str) -> None:
        self.calls[operation, name] += 1
        for (refused, pattern), error in self.refused.items():
            fits = name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
            spared = self._spared.get((refused, pattern), 0)
            if refused == operation and fits and self.calls[operation, name] > spared:
                raise OSError(error.errno, error.strerror)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        name = os.path.basename(path)
        self._meet("open", name)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            self.opened_to_write.append(name)
            self._meet("open-to-write", name)
        fd = super().open(path, flags, mode)
        self._names[fd] = name
        return fd

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._meet("pread", self._names[fd])
        return os.pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        name = self._names[fd]
        self._meet("pwrite", name)
        written = os.pwrite(fd, data, offset)
        if name.endswith(".seg"):
            self.segment_written.release()
        return written

    def sync_data(self, fd: int) -> None:
        name = self._names[fd]
        self.sync_began.release()
        assert self.pass_syncs.wait(WAIT), "nobody let the sync pass"
        self._meet("sync_data", name)
        super().sync_data(fd)
        self.sync_ended.release()

    def sync_file(self, fd: int) -> None:
        self._meet("sync_file", self._names[fd])
        super().sync_file(fd)

    def sync_directory(self, path: str) -> None:
        self._meet("sync_directory", os.path.basename(path))
        super().sync_directory(path)

    def truncate(self, fd: int, length: int) -> None:
        self._meet("truncate", self._names[fd])
        os.ftruncate(fd, length)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._meet("allocate", self._names[fd])
        super().allocate(fd, offset, length)

    def rename(self, source: str, target: str) -> None:
        self._meet("rename", os.path.basename(target))
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        self._meet("unlink", os.path.basename(path))
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        self._meet("mkdir", os.path.basename(path))
        super().mkdir(path)

    def listdir(self, path: str) -> list[str]:
        self._meet("listdir", os.path.basename(path))
        return os.listdir(path)
