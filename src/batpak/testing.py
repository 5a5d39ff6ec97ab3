"""Files that record what is asked of them, and files that fail at a chosen operation.

For tests of what stands on a journal: `Store.open(path, files=FaultyFiles())`. Both stand
in front of other files, by default the operating system's, and do the real work there, so
what a test finds on the disk afterwards is what the faulty run left. A commit is one
`pwrite` and, where it is durable, one `sync_data`: to fail one of these is to fail a step of a
commit. They pass the `Files` protocol and know nothing of journals.

A killed process does nothing more: after `Killed` every operation raises it again,
nothing reaches the disk, and closing a descriptor is silent, since a dead process runs
no cleanup. `bury` then does what the system does for the dead: it closes descriptors,
which frees locks.
"""

from __future__ import annotations

import enum
import errno
import mmap
import os
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from batpak.files import REAL, Files

__all__ = ["CHANGES", "SYNCS", "Fault", "FaultyFiles", "Killed", "Operation", "RecordingFiles"]

T = TypeVar("T")


class Operation(NamedTuple):
    """One call of the protocol. `data` is what a `pwrite` was given."""

    name: str
    path: str
    offset: int | None = None
    length: int | None = None
    data: bytes = b""
    target: str = ""

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at {self.offset}"
        size = "" if self.length is None else f", {self.length} bytes"
        to = f" to {os.path.basename(self.target)}" if self.target else ""
        return f"{self.name} {os.path.basename(self.path)}{to}{where}{size}"


CHANGES: Final = frozenset(
    {"create", "pwrite", "sync_data", "sync_file", "sync_directory", "truncate", "allocate"}
    | {"rename", "unlink", "link", "clone", "mkdir", "rmdir", "lock"}
)
"""Operations that change something; `open` with O_CREAT is recorded as `create`."""
_NEEDS_ROOM: Final = frozenset(
    {"create", "pwrite", "allocate", "rename", "link", "clone", "mkdir", "truncate"}
)
SYNCS: Final = frozenset({"sync_data", "sync_file", "sync_directory"})


class RecordingFiles:
    """Other files, by default the operating system's, with a list of every operation."""

    def __init__(self, files: Files = REAL) -> None:
        self._files = files
        self.operations: list[Operation] = []
        self.open_files: dict[int, str] = {}

    def mark(self, label: str) -> None:
        """Put a note between the operations: what was promised by now."""
        self.operations.append(Operation("mark", label))

    def of(self, *names: str, path: str = "") -> list[Operation]:
        """Operations with one of these names whose path ends with `path`."""
        return [o for o in self.operations if o.name in names and o.path.endswith(path)]

    def _run(self, operation: Operation, effect: Callable[[], T]) -> T:
        self.operations.append(operation)
        return effect()

    def _path(self, fd: int) -> str:
        return self.open_files.get(fd, f"descriptor {fd}")

    def _opened(self, path: str, flags: int, mode: int) -> int:
        fd = self._files.open(path, flags, mode)
        self.open_files[fd] = path
        return fd

    def _closed(self, fd: int) -> None:
        self.open_files.pop(fd, None)
        self._files.close(fd)

    def _renamed(self, source: str, target: str) -> None:
        self._files.rename(source, target)
        for fd, path in list(self.open_files.items()):
            if path == source:
                self.open_files[fd] = target

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        name = "create" if flags & os.O_CREAT else "open"
        return self._run(Operation(name, path), lambda: self._opened(path, flags, mode))

    def close(self, fd: int) -> None:
        self._run(Operation("close", self._path(fd)), lambda: self._closed(fd))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        operation = Operation("pread", self._path(fd), offset, length)
        return self._run(operation, lambda: self._files.pread(fd, length, offset))

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        operation = Operation("pwrite", self._path(fd), offset, len(data), bytes(data))
        return self._run(operation, lambda: self._files.pwrite(fd, data, offset))

    def sync_data(self, fd: int) -> None:
        self._run(Operation("sync_data", self._path(fd)), lambda: self._files.sync_data(fd))

    def sync_file(self, fd: int) -> None:
        self._run(Operation("sync_file", self._path(fd)), lambda: self._files.sync_file(fd))

    def sync_directory(self, path: str) -> None:
        self._run(Operation("sync_directory", path), lambda: self._files.sync_directory(path))

    def truncate(self, fd: int, length: int) -> None:
        operation = Operation("truncate", self._path(fd), length)
        self._run(operation, lambda: self._files.truncate(fd, length))

    def allocate(self, fd: int, offset: int, length: int) -> None:
        operation = Operation("allocate", self._path(fd), offset, length)
        self._run(operation, lambda: self._files.allocate(fd, offset, length))

    def stat(self, path: str) -> os.stat_result:
        return self._run(Operation("stat", path), lambda: self._files.stat(path))

    def fstat(self, fd: int) -> os.stat_result:
        return self._run(Operation("fstat", self._path(fd)), lambda: self._files.fstat(fd))

    def rename(self, source: str, target: str) -> None:
        operation = Operation("rename", source, target=target)
        self._run(operation, lambda: self._renamed(source, target))

    def unlink(self, path: str) -> None:
        self._run(Operation("unlink", path), lambda: self._files.unlink(path))

    def link(self, source: str, target: str) -> None:
        operation = Operation("link", source, target=target)
        self._run(operation, lambda: self._files.link(source, target))

    def clone(self, source_fd: int, target_fd: int) -> None:
        operation = Operation("clone", self._path(source_fd), target=self._path(target_fd))
        self._run(operation, lambda: self._files.clone(source_fd, target_fd))

    def mkdir(self, path: str) -> None:
        self._run(Operation("mkdir", path), lambda: self._files.mkdir(path))

    def rmdir(self, path: str) -> None:
        self._run(Operation("rmdir", path), lambda: self._files.rmdir(path))

    def listdir(self, path: str) -> list[str]:
        return self._run(Operation("listdir", path), lambda: self._files.listdir(path))

    def lock(self, fd: int) -> bool:
        return self._run(Operation("lock", self._path(fd)), lambda: self._files.lock(fd))

    def map(self, fd: int, length: int) -> mmap.mmap:
        operation = Operation("map", self._path(fd), 0, length)
        return self._run(operation, lambda: self._files.map(fd, length))


class Killed(BaseException):
    """The process died here; nothing of it may run on."""


class Fault(enum.Enum):
    """What happens at the chosen operation."""

    ERROR = "EIO, and nothing happened"
    ERROR_AFTER = "EIO, and it took effect"
    NO_SPACE = "ENOSPC, and nothing happened"
    SHORT = "a short write"
    SHORT_NO_SPACE = "a short write, then ENOSPC"
    TORN = "EIO, and a part was written"
    KILL = "killed before it"
    KILL_AFTER = "killed after it"
    KILL_TORN = "killed when a part was written"
    INTERRUPT = "Ctrl-C upon its return"
    INTERRUPT_TORN = "Ctrl-C when a part was written"

    @property
    def kills(self) -> bool:
        """Whether the process is dead afterwards."""
        return self in (Fault.KILL, Fault.KILL_AFTER, Fault.KILL_TORN)

    @property
    def interrupts(self) -> bool:
        """Whether it is an asynchronous exception."""
        return self in (Fault.INTERRUPT, Fault.INTERRUPT_TORN)

    def applies(self, operation: Operation) -> bool:
        """Whether it can happen to this operation at all."""
        if self in _OF_WRITES:
            return operation.name == "pwrite"
        # A close that reports an error has closed the descriptor all the same. Some are done
        # by finalisers, from which Python lets nothing escape.
        return operation.name != "close" or self is Fault.ERROR_AFTER

    def fits(self, operation: Operation) -> bool:
        """Whether it can happen to this operation, and differs from what others cover."""
        name = operation.name
        if name == "mark":
            return False
        if self in _OF_WRITES:
            return name == "pwrite" and (operation.length or 0) > 1
        if self is Fault.NO_SPACE:
            return name in _NEEDS_ROOM or name in SYNCS
        if self is Fault.ERROR:
            return self.applies(operation)
        if self is Fault.ERROR_AFTER:
            return name in CHANGES or name == "close"
        # Elsewhere a kill or Ctrl-C finds what it finds at the next change.
        return name in CHANGES or (self.interrupts and name == "open")


_OF_WRITES = frozenset(
    {Fault.SHORT, Fault.SHORT_NO_SPACE, Fault.TORN, Fault.KILL_TORN, Fault.INTERRUPT_TORN}
)


class FaultyFiles(RecordingFiles):
    """Files of which some operations go wrong: those that `arm` names."""

    def __init__(self, files: Files = REAL) -> None:
        super().__init__(files)
        self.fired: list[Operation] = []
        self.dead = False
        self._count = 0
        self._plan: dict[int, tuple[Fault, float]] = {}
        self._rest: tuple[str, int] | None = None

    def arm(self, place: int, fault: Fault, *, part: float = 0.5) -> None:
        """Let operation `place`, counted from 0 from now on, suffer `fault`.

        `part` says how much of a torn or short write gets to the file.
        """
        self._plan[self._count + place] = fault, part

    def bury(self) -> None:
        """Close what the dead, or somebody interrupted, left open; nothing works after it."""
        self.dead = True
        left, self.open_files = self.open_files, {}
        for fd in left:
            self._files.close(fd)

    def _run(self, operation: Operation, effect: Callable[[], T]) -> T:
        if self.dead:
            raise Killed
        fault, _ = self._plan.pop(self._count, (None, 0.0))
        self._count += 1
        if fault is not None and not fault.applies(operation):
            fault = None
        if self._rest is not None and operation.name == "pwrite":
            rest, self._rest = self._rest, None
            if rest == (operation.path, operation.offset):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)
        if fault is None:
            return super()._run(operation, effect)
        self.fired.append(operation)
        return self._suffer(fault, operation, effect)

    def _suffer(self, fault: Fault, operation: Operation, effect: Callable[[], T]) -> T:
        if fault is Fault.ERROR:
            raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)
        if fault is Fault.NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)
        if fault is Fault.KILL:
            self.dead = True
            raise Killed
        if fault.kills:
            self.dead = True
            try:
                super()._run(operation, effect)
            except OSError:
                # It would have failed by itself; the process did not live to see it.
                pass
            raise Killed
        result = super()._run(operation, effect)
        if fault is Fault.SHORT_NO_SPACE:
            assert operation.offset is not None
            assert operation.length is not None
            self._rest = operation.path, operation.offset + operation.length
        if fault in (Fault.SHORT, Fault.SHORT_NO_SPACE):
            return result
        if fault.interrupts:
            # A descriptor that was just opened is lost to the program here, as it would be.
            raise KeyboardInterrupt
        if operation.name in ("open", "create"):
            assert isinstance(result, int)
            self._closed(result)
        raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        fault, part = self._plan.get(self._count, (None, 0.0))
        if fault in _OF_WRITES and not self.dead:
            data = bytes(data)[: max(1, min(int(len(data) * part), len(data) - 1))]
        return super().pwrite(fd, data, offset)

    def close(self, fd: int) -> None:
        if not self.dead:
            super().close(fd)
