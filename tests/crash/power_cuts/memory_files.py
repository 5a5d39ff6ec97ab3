"""A file system in memory that keeps a list of every change made to it.

`MemoryFiles` is a whole implementation of the `Files` protocol, held to the real one by
test_memory_files.py: journals in it open, write and recover without a system call, some
thousand times a second. Knows inodes, names and bytes; what a power cut leaves of them
is the business of disk_model.py.

`Disk` is what the machine holds, page cache included; a process opens it through one
`MemoryFiles`. A process that is killed leaves its disk as it stands: the next
`MemoryFiles` on it sees everything, synced or not.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3

from tests.support.faulty_files import Killed

ROOT = 1
"""Inode number of "/"."""
_DEVICE = 7
_descriptors = itertools.count(1 << 20)
"""Never used twice, so that a lock knows its holder; beyond what the system gives out, so
that a descriptor that leaves this module fails there."""


class Change(NamedTuple):
    """One thing that was done to a disk. `name` says which fields it uses.

    write: inode, at, data · resize: inode, at (the new length) · sync, failed-sync: inode
    sync-directory: inode · create, mkdir, link: place, inode · unlink: place
    rename: place, target
    """

    name: str
    inode: int = 0
    at: int = 0
    data: bytes = b""
    place: tuple[int, str] = (0, "")
    target: tuple[int, str] = (0, "")
    path: str = ""

    def __str__(self) -> str:
        what = f" of {len(self.data)} bytes" if self.data else ""
        where = f" at {self.at}" if self.name in ("write", "resize") else ""
        to = f" to {self.target[1]}" if self.target[0] else ""
        return f"{self.name}{what} {os.path.basename(self.path) or '/'}{where}{to}"


class State(NamedTuple):
    """What a disk holds at one moment: entries of each directory, bytes of each file."""

    directories: dict[int, dict[str, int]]
    files: dict[int, bytes]

    def walk(self) -> Iterable[tuple[str, int]]:
        """Every path and its inode, a directory before what is in it."""
        left = [("", ROOT)]
        while left:
            path, number = left.pop()
            yield path, number
            for name, inner in self.directories.get(number, {}).items():
                left.append((f"{path}/{name}", inner))

    def find(self, path: str) -> int | None:
        """The inode at a path."""
        number = ROOT
        for part in path.strip("/").split("/"):
            inner = self.directories.get(number, {}).get(part)
            if inner is None:
                return None
            number = inner
        return number

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None where no file stands."""
        number = self.find(path)
        return None if number is None else self.files.get(number)

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted; nothing where there is none."""
        number = self.find(path)
        return sorted(self.directories.get(number or 0, ()))

    def tree(self) -> dict[str, bytes]:
        """Every file's path and bytes."""
        return {path: self.files[n] for path, n in self.walk() if n in self.files}

    def digest(self) -> bytes:
        """Equal for states that look the same, whatever their inode numbers."""
        hasher = blake3()
        for path, number in sorted(self.walk()):
            data = self.files.get(number)
            hasher.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
            hasher.update(data or b"")
        return hasher.digest(16)

    def write_to(self, folder: str) -> None:
        """Make the same tree, hard links included, in a real directory."""
        made: dict[int, str] = {}
        for path, number in self.walk():
            real = folder + path
            if number in self.directories:
                os.makedirs(real, exist_ok=True)
            elif number in made:
                os.link(made[number], real)
            else:
                made[number] = real
                with open(real, "wb") as file:
                    file.write(self.files[number])


EMPTY = State({ROOT: {}}, {})


@dataclass(slots=True)
class Inode:
    """A file or a directory: exactly one of `data` and `entries` is set."""

    number: int
    data: bytearray | None = None
    entries: dict[str, int] | None = None
    links: int = 0
    holder: int | None = None
    """The descriptor that has the lock."""
    maps: list[weakref.ref[mmap.mmap]] = field(default_factory=list[weakref.ref[mmap.mmap]])

    @property
    def status(self) -> os.stat_result:
        """What stat says of it."""
        kind = stat.S_IFREG | 0o644 if self.entries is None else stat.S_IFDIR | 0o755
        links = self.links if self.entries is None else 2
        size = 0 if self.data is None else len(self.data)
        return os.stat_result((kind, self.number, _DEVICE, links, 0, 0, size, 0, 0, 0))


class Disk:
    """A disk and the page cache before it. `log` has every change since the beginning."""

    def __init__(self, state: State = EMPTY) -> None:
        self.start = state
        self.log: list[Change] = []
        self.inodes: dict[int, Inode] = {}
        for number, entries in state.directories.items():
            self.inodes[number] = Inode(number, entries=dict(entries))
        for number, data in state.files.items():
            self.inodes[number] = Inode(number, data=bytearray(data))
        for entries in state.directories.values():
            for number in entries.values():
                self.inodes[number].links += 1
        self.next_number = max(self.inodes) + 1

    def state(self) -> State:
        """What a process sees now, synced or not; files without a name are left out."""
        directories = {n: dict(i.entries) for n, i in self.inodes.items() if i.entries is not None}
        files = {n: bytes(i.data) for n, i in self.inodes.items() if i.data is not None and i.links}
        return State(directories, files)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, as `ln` does; no part of the protocol."""
        files = MemoryFiles(self)
        inode = files.look_up(source)
        assert inode.data is not None, "directories have one name"
        files.add_name(target, inode)


class MemoryFiles:
    """One process's view of a `Disk`; the `Files` protocol.

    `stop_before` is asked before each change whether the process is killed here.
    `fail_sync` names the end of a path whose next sync fails. `after_sync` is called
    when a sync of file content has taken effect, with the path, before it returns.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.dead = False
        self.stop_before: Callable[[Change], bool] | None = None
        self.fail_sync: str | None = None
        self.after_sync: Callable[[str], None] | None = None
        self._open: dict[int, tuple[Inode, str, int]] = {}

    # --- names -------------------------------------------------------------------

    def look_up(self, path: str) -> Inode:
        """The inode at a path. Raises OSError."""
        self._alive()
        inodes = self.disk.inodes
        inode = inodes[ROOT]
        for part in path.split("/"):
            if not part:
                continue
            if inode.entries is None:
                raise _error(errno.ENOTDIR, path)
            number = inode.entries.get(part)
            if number is None:
                raise _error(errno.ENOENT, path)
            inode = inodes[number]
        if path.endswith("/") and inode.entries is None:
            raise _error(errno.ENOTDIR, path)
        return inode

    def _parent(self, path: str) -> tuple[Inode, str]:
        folder, _, name = path.rpartition("/")
        inode = self.look_up(folder)
        if inode.entries is None:
            raise _error(errno.ENOTDIR, path)
        return inode, name

    def add_name(self, path: str, inode: Inode, how: str = "link") -> None:
        """Put an inode under a new name. Raises FileExistsError."""
        parent, name = self._parent(path)
        assert parent.entries is not None
        if name in parent.entries:
            raise _error(errno.EEXIST, path)
        self._log(Change(how, inode.number, place=(parent.number, name), path=path))
        parent.entries[name] = inode.number
        inode.links += 1

    def _new(self, path: str, *, directory: bool) -> Inode:
        number = self.disk.next_number
        inode = Inode(number, None if directory else bytearray(), {} if directory else None)
        self.disk.inodes[number] = inode
        self.disk.next_number += 1
        try:
            self.add_name(path, inode, "mkdir" if directory else "create")
        except BaseException:
            del self.disk.inodes[number]
            raise
        return inode

    def _drop_name(self, parent: Inode, name: str) -> None:
        assert parent.entries is not None
        self.disk.inodes[parent.entries.pop(name)].links -= 1

    # --- the protocol ----------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        del mode
        try:
            inode = self.look_up(path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            inode = self._new(path, directory=False)
        if inode.data is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise _error(errno.EISDIR, path)
        if flags & os.O_TRUNC and inode.data:
            self._resize(inode, 0, path)
        fd = next(_descriptors)
        self._open[fd] = inode, path, flags & (os.O_WRONLY | os.O_RDWR)
        return fd

    def close(self, fd: int) -> None:
        if self.dead:
            # A dead process runs no cleanup.
            return
        inode, _, _ = self._of(fd)
        del self._open[fd]
        if inode.holder == fd:
            inode.holder = None

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        inode, _, access = self._of(fd)
        if inode.data is None:
            raise _error(errno.EISDIR)
        if access == os.O_WRONLY:
            raise _error(errno.EBADF)
        if offset < 0 or length < 0:
            raise _error(errno.EINVAL)
        return bytes(inode.data[offset : offset + length])

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        inode, path = self._writable(fd)
        if offset < 0:
            raise _error(errno.EINVAL)
        content = bytes(data)
        if not content:
            return 0
        self._log(Change("write", inode.number, offset, content, path=path))
        held = inode.data
        assert held is not None
        if offset > len(held):
            held.extend(bytes(offset - len(held)))
        held[offset : offset + len(content)] = content
        for mapped in inode.maps:
            view = mapped()
            if view is not None and not view.closed and offset < len(view):
                end = min(len(view), offset + len(content))
                view[offset:end] = content[: end - offset]
        return len(content)

    def sync_data(self, fd: int) -> None:
        self._sync(fd)

    def sync_file(self, fd: int) -> None:
        self._sync(fd)

    def _sync(self, fd: int) -> None:
        inode, path, _ = self._of(fd)
        if self.fail_sync is not None and path.endswith(self.fail_sync):
            self.fail_sync = None
            self._log(Change("failed-sync", inode.number, path=path))
            raise _error(errno.EIO, path)
        self._settle(inode, path)
        if self.after_sync is not None:
            self.after_sync(path)

    def clone(self, source_fd: int, target_fd: int) -> None:
        # Like a file system whose files can't share blocks: whoever asks has to copy.
        raise _error(errno.EOPNOTSUPP, self.path_of(target_fd))

    def sync_directory(self, path: str) -> None:
        # As with the real door, which opens and syncs whatever stands there.
        self._settle(self.look_up(path), path)

    def _settle(self, inode: Inode, path: str) -> None:
        name = "sync" if inode.entries is None else "sync-directory"
        self._log(Change(name, inode.number, path=path))

    def truncate(self, fd: int, length: int) -> None:
        inode, path = self._writable(fd, errno.EINVAL)
        if length < 0:
            raise _error(errno.EINVAL)
        self._resize(inode, length, path)

    def _resize(self, inode: Inode, length: int, path: str) -> None:
        held = inode.data
        assert held is not None
        if length == len(held):
            return
        self._log(Change("resize", inode.number, length, path=path))
        if length < len(held):
            # A map that lives on past the end of its file is for nobody to read.
            del held[length:]
        else:
            held.extend(bytes(length - len(held)))

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            raise _error(errno.EINVAL)
        inode, path = self._writable(fd)
        assert inode.data is not None
        if offset + length > len(inode.data):
            self._resize(inode, offset + length, path)

    def stat(self, path: str) -> os.stat_result:
        return self.look_up(path).status

    def fstat(self, fd: int) -> os.stat_result:
        return self._of(fd)[0].status

    def rename(self, source: str, target: str) -> None:
        old, old_name = self._parent(source)
        new, new_name = self._parent(target)
        inode = self.look_up(source)
        assert old.entries is not None
        assert new.entries is not None
        if inode.entries is not None and _is_inside(target, source):
            raise _error(errno.EINVAL, target)
        if _is_inside(source, target):
            raise _error(errno.ENOTEMPTY, target)
        replaced = new.entries.get(new_name)
        if replaced is not None:
            there = self.disk.inodes[replaced]
            if there is inode:
                return
            if (there.entries is None) != (inode.entries is None):
                raise _error(errno.ENOTDIR if there.entries is None else errno.EISDIR, target)
            if there.entries:
                raise _error(errno.ENOTEMPTY, target)
        place, to = (old.number, old_name), (new.number, new_name)
        self._log(Change("rename", inode.number, place=place, target=to, path=source))
        if replaced is not None:
            self._drop_name(new, new_name)
        del old.entries[old_name]
        new.entries[new_name] = inode.number

    def unlink(self, path: str) -> None:
        inode = self.look_up(path)
        if inode.entries is not None:
            raise _error(errno.EISDIR, path)
        parent, name = self._parent(path)
        self._log(Change("unlink", inode.number, place=(parent.number, name), path=path))
        self._drop_name(parent, name)

    def link(self, source: str, target: str) -> None:
        inode = self.look_up(source)
        if inode.entries is not None:
            raise _error(errno.EPERM, source)
        self.add_name(target, inode)

    def mkdir(self, path: str) -> None:
        self._new(path, directory=True)

    def rmdir(self, path: str) -> None:
        inode = self.look_up(path)
        if inode.entries is None:
            raise _error(errno.ENOTDIR, path)
        if inode.entries:
            raise _error(errno.ENOTEMPTY, path)
        parent, name = self._parent(path)
        self._log(Change("unlink", inode.number, place=(parent.number, name), path=path))
        self._drop_name(parent, name)

    def listdir(self, path: str) -> list[str]:
        inode = self.look_up(path)
        if inode.entries is None:
            raise _error(errno.ENOTDIR, path)
        return list(inode.entries)

    def lock(self, fd: int) -> bool:
        inode, _, _ = self._of(fd)
        if inode.holder is None:
            inode.holder = fd
        return inode.holder == fd

    def map(self, fd: int, length: int) -> mmap.mmap:
        inode, _, access = self._of(fd)
        if inode.data is None:
            raise _error(errno.ENODEV if length else errno.EINVAL)
        length = length or len(inode.data)
        if not 0 < length <= len(inode.data):
            raise ValueError("a map is not empty and ends where its file does")
        if access == os.O_WRONLY:
            raise _error(errno.EACCES)
        view = mmap.mmap(-1, length)
        view[:] = bytes(inode.data[:length])
        inode.maps = [known for known in inode.maps if known() is not None]
        inode.maps.append(weakref.ref(view))
        return view

    # --- death -----------------------------------------------------------------------

    def bury(self) -> None:
        """The process is gone: nothing of it works any more, and its locks are free."""
        self.dead = True
        for fd, (inode, _, _) in self._open.items():
            if inode.holder == fd:
                inode.holder = None
        self._open.clear()

    def path_of(self, fd: int) -> str:
        """The path under which a descriptor was opened."""
        return self._of(fd)[1]

    @property
    def open_paths(self) -> list[str]:
        """Paths of the descriptors that are open."""
        return [path for _, path, _ in self._open.values()]

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _of(self, fd: int) -> tuple[Inode, str, int]:
        self._alive()
        found = self._open.get(fd)
        if found is None:
            raise _error(errno.EBADF)
        return found

    def _writable(self, fd: int, otherwise: int = errno.EBADF) -> tuple[Inode, str]:
        inode, path, access = self._of(fd)
        if not access:
            raise _error(otherwise)
        return inode, path

    def _log(self, change: Change) -> None:
        self._alive()
        if self.stop_before is not None and self.stop_before(change):
            self.dead = True
            raise Killed
        self.disk.log.append(change)


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)
