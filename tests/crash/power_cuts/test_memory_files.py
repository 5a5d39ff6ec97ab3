"""The file system in memory answers as the real one does, call by call.

Random calls go to both; results and error numbers have to agree. So most power cuts may
be judged in memory.
"""

from __future__ import annotations

import inspect
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batpak import Coordinate, EventKind, Store
from batpak.files import REAL, Files
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles, State
from tests.support.faulty_files import Killed

NAMES = ("/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a", "/a/x", "/missing/x")
READ = os.O_RDONLY
FLAGS = (READ, os.O_RDWR, os.O_CREAT | os.O_RDWR, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)

paths = st.sampled_from(NAMES)
slots = st.integers(0, 3)
lengths = st.integers(0, 40)
calls = st.one_of(
    st.tuples(st.just("open"), paths, st.sampled_from(FLAGS)),
    st.tuples(st.just("open"), paths, st.just(os.O_CREAT | os.O_RDWR)),
    st.tuples(st.sampled_from(("close", "sync_data", "sync_file", "fstat", "lock")), slots),
    st.tuples(st.just("pread"), slots, lengths, lengths),
    st.tuples(st.just("pwrite"), slots, st.binary(max_size=30), lengths),
    st.tuples(st.just("truncate"), slots, lengths),
    st.tuples(st.just("allocate"), slots, lengths, lengths),
    st.tuples(st.just("map"), slots, lengths),
    st.tuples(st.sampled_from(("stat", "unlink", "mkdir", "listdir", "sync_directory")), paths),
    st.tuples(st.just("rename"), paths, paths),
)


class Side:
    """One of the two file systems, and what was opened on it."""

    def __init__(self, files: Files, root: str) -> None:
        self.files = files
        self.root = root
        self.fds: list[int] = []
        self.numbers: dict[int, int] = {}

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The result in terms that do not depend on the file system, or the error."""
        try:
            return self._call(name, arguments)
        except OSError as error:
            return type(error), error.errno
        except ValueError:
            return ValueError

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        method: Callable[..., Any] = getattr(self.files, name)
        first, *rest = arguments
        if isinstance(first, int):
            if first >= len(self.fds):
                return "not open"
            result = method(self.fds[first], *rest)
            if name == "close":
                del self.fds[first]
        else:
            names = [self.root + part if isinstance(part, str) else part for part in rest]
            result = method(self.root + first, *names)
        if name == "open":
            self.fds.append(result)
            return "opened"
        if name == "listdir":
            return sorted(result)
        if name == "map":
            data = result[:]
            # A map holds a descriptor of its own, and with it the file's lock.
            result.close()
            return data
        return self._plain(result) if isinstance(result, os.stat_result) else result

    def _plain(self, found: os.stat_result) -> Any:
        same = self.numbers.setdefault(found.st_ino, len(self.numbers))
        if stat.S_ISDIR(found.st_mode):
            return "directory", same
        return "file", same, found.st_size, found.st_nlink

    def tree(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        left = ["/"]
        while left:
            path = left.pop()
            for name in self.files.listdir(self.root + path):
                inner = path.rstrip("/") + "/" + name
                if stat.S_ISDIR(self.files.stat(self.root + inner).st_mode):
                    found[inner] = None
                    left.append(inner)
                else:
                    fd = self.files.open(self.root + inner, READ)
                    found[inner] = self.files.pread(fd, 1000, 0)
                    self.files.close(fd)
        return found


PREPARED: tuple[tuple[Any, ...], ...] = (
    ("mkdir", "/d"),
    ("open", "/a", os.O_CREAT | os.O_RDWR),
    ("pwrite", 0, b"content of a, once", 0),
    ("open", "/d/a", os.O_CREAT | os.O_RDWR),
    ("lock", 1),
    ("open", "/d/a", os.O_RDWR),
)
"""So that calls find something to work on: three descriptors, two of them of one file."""


@example([("lock", 2), ("close", 1), ("lock", 1)])
@example([("rename", "/a", "/d/a"), ("fstat", 0), ("fstat", 1)])
@example([("unlink", "/d/a"), ("pread", 1, 10, 0), ("fstat", 2), ("open", "/d/a", READ)])
@given(st.lists(calls, max_size=40))
def test_every_call_answers_as_the_real_file_system_does(steps: list[tuple[Any, ...]]) -> None:
    root = tempfile.mkdtemp()
    real, memory = Side(REAL, root), Side(MemoryFiles(Disk()), "")
    try:
        for name, *arguments in (*PREPARED, *steps):
            expected = real.call(name, tuple(arguments))
            assert memory.call(name, tuple(arguments)) == expected, (name, arguments)
        assert memory.tree() == real.tree()
    finally:
        for fd in real.fds:
            REAL.close(fd)
        shutil.rmtree(root)


def test_it_has_every_call_of_the_protocol() -> None:
    methods = {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(Files, inspect.isfunction)
        if name[0] != "_"
    }
    assert len(methods) >= 17
    for name, signature in methods.items():
        assert inspect.signature(getattr(MemoryFiles, name)) == signature, name


def test_a_map_shows_later_writes() -> None:
    files = MemoryFiles(Disk())
    fd = files.open("/a", os.O_CREAT | os.O_RDWR)
    files.pwrite(fd, b"0123456789", 0)
    mapped = files.map(fd, 6)
    files.pwrite(fd, b"abcdefg", 3)
    assert mapped[:] == b"012abc"


def test_the_dead_do_nothing_and_hold_no_lock() -> None:
    disk = Disk()
    files = MemoryFiles(disk)
    fd = files.open("/a", os.O_CREAT | os.O_RDWR)
    assert files.lock(fd)
    files.stop_before = lambda change: change.name == "write"
    with pytest.raises(Killed):
        files.pwrite(fd, b"x", 0)
    with pytest.raises(Killed):
        files.stat("/a")
    files.close(fd)
    following = MemoryFiles(disk)
    again = following.open("/a", os.O_RDWR)
    assert not following.lock(again), "its process has died, and nobody was told yet"
    files.bury()
    assert following.lock(again)
    assert following.fstat(again).st_size == 0


def test_a_state_on_the_real_file_system_is_the_same_tree(tmp_path: Path) -> None:
    state = State({1: {"d": 2, "f": 3}, 2: {"g": 3, "h": 4}}, {3: b"linked", 4: b""})
    state.write_to(str(tmp_path))
    found = {
        str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }
    assert found == {"f": b"linked", "d/g": b"linked", "d/h": b""}
    assert {f"/{name}": data for name, data in found.items()} == state.tree()
    assert os.path.samefile(tmp_path / "f", tmp_path / "d" / "g")
    moved = State({1: {"d": 9, "f": 8}, 9: {"g": 8, "h": 5}}, {8: b"linked", 5: b""})
    assert moved.digest() == state.digest(), "numbers of inodes do not count"
    for other in (b"linkec", b"linke", b"linked\0"):
        assert State(state.directories, {3: other, 4: b""}).digest() != state.digest()


def test_a_journal_in_memory_touches_nothing_else(tmp_path: Path) -> None:
    """Its directory exists nowhere but behind the door that `files` is."""
    disk, path = Disk(), str(tmp_path / "journal")
    files = MemoryFiles(disk)
    for folder in reversed(Path(path).parents[:-1]):
        files.mkdir(str(folder))
    kind = EventKind(0xF, 1)
    with Store.open(path, files=files, segment_max_bytes=4096) as store:
        for number in range(20):
            store.append(Coordinate("player:0", "room"), {"n": number, "p": bytes(300)}, kind=kind)
    with Store.open(path, mode="r", files=files) as reader:
        assert [event.value["n"] for event in reader.entity("player:0")] == list(range(20))
        assert reader.verify("full").ok
    assert not os.path.exists(path)
    assert not files.open_paths, "descriptors leak"
