"""System calls of a real process: seen, made to fail, or the last thing that it did.

strace does the work. It is attached to a child of the nursery that waits, and the child is
let go once strace says that it is there, so calls are counted from the same place each
time: the n-th `pwrite64` of a clean run is the n-th of the next. A run says which call was
hit, by name and path, and the caller holds that against what was meant.

A kill happens on entering a call, so it takes no effect. That is also the kill after the
call before it, since no call that concerns the journal lies between.
"""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.nursery import PATIENCE, ROOT, Child, Line, Nursery

FILE_CALLS = (
    "openat", "close", "pread64", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate",
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "flock",
    "newfstatat", "fstat", "getdents64", "link", "linkat", "rmdir", "ioctl",
)  # fmt: skip
"""What batpak's one door to the file system comes to on Linux; `?` makes absent ones fine."""

_LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>.*\(INJECTED\)")
_PATH = re.compile(r'(?:AT_FDCWD(?:<[^>]*>)?, )?(?:\d+<(?P<fd>[^>]*)>|"(?P<named>[^"]*)")')
_RANDOM = re.compile(r"[0-9a-f]{16}(?=\.(?:bin|json))")


class Call(NamedTuple):
    """One system call: the `nth` of its name in its process, counted from 1."""

    name: str
    nth: int
    path: str
    text: str

    @property
    def key(self) -> tuple[str, int, str]:
        """What has to be the same in every run; names in `quarantine/` hold a hash of salts."""
        return self.name, self.nth, _RANDOM.sub("*", self.path)

    @property
    def lists(self) -> bool:
        """Whether it opens a directory to list it."""
        return self.name == "openat" and "O_DIRECTORY" in self.text

    @property
    def creates(self) -> bool:
        return self.name == "openat" and "O_CREAT" in self.text

    def __str__(self) -> str:
        return f"{self.name} number {self.nth}, {os.path.basename(self.path)}"


class Traced(NamedTuple):
    """What came of a run: what was told, how it ended, every file call, the one disturbed."""

    lines: Sequence[Line]
    status: int | None
    calls: Sequence[Call]
    injected: Sequence[Call]


def _install() -> str:
    """Ask the package manager for strace; what it complained of."""
    said = ""
    (ROOT / "build").mkdir(exist_ok=True)
    # Several processes test at once, and the package manager wants to be alone.
    with (ROOT / "build" / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arguments in (("update",), ("install", "-y", "--no-install-recommends", "strace")):
            if shutil.which("strace") is None:
                done = subprocess.run(
                    ["apt-get", "-q", *arguments], capture_output=True, text=True, check=False,
                    timeout=300, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                )  # fmt: skip
                said += done.stderr
    return said.strip()


def why_not() -> str | None:
    """Why system calls can't be traced here; None when they can.

    Installs strace where it is missing and the package manager may be asked.
    """
    if shutil.which("strace") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            return "strace is not installed, and apt-get can't be asked by this user"
        failed = _install()
        if shutil.which("strace") is None:
            return f"strace is not installed, and apt-get failed: {failed[-200:]}"
    # A container may forbid tracing; strace then says so of any program.
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"strace can't trace: {tried.stderr.strip()[-200:]}"


@contextmanager
def tracing(child: Child, log: Path, inject: str | None) -> Iterator[None]:
    """strace attached to a child, from the beginning of the block until the child's end."""
    wanted = ",".join(f"?{name}" for name in FILE_CALLS)
    command = ["strace", "-f", "-y", "-s", "16", "-o", str(log), "-e", f"trace={wanted}"]
    if inject is not None:
        command += ["-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-p", str(child.pid)], stderr=subprocess.PIPE) as strace:
        try:
            assert strace.stderr is not None
            said = b""
            with selectors.DefaultSelector() as selector:
                selector.register(strace.stderr, selectors.EVENT_READ)
                end = time.monotonic() + PATIENCE
                while b"attached" not in said:
                    assert selector.select(end - time.monotonic()), "strace does not attach"
                    more = os.read(strace.stderr.fileno(), 4096)
                    assert more, f"strace ended: {said.decode()}"
                    said += more
            yield
            strace.wait(PATIENCE)
        finally:
            # Without its tracer the child would run on; the block that made it ends it.
            if strace.poll() is None:
                strace.kill()


def run_traced(
    nursery: Nursery,
    life: str,
    path: str,
    log: Path,
    *,
    inject: str | None = None,
    number: int = 0,
    **options: object,
) -> Traced:
    """One life under strace. `inject` is an expression of strace's, such as
    `fsync:error=EIO:when=3`."""
    with nursery.child(life, path, wait=True, number=number, **options) as child:
        child.listen_for(1)
        assert child.lines == [{"ready": True}]
        with tracing(child, log, inject):
            child.go()
            child.listen_to_end()
    calls, injected = read_trace(log.read_text(errors="replace"), child.pid)
    return Traced(child.lines[1:], child.status, calls, injected)


def read_trace(text: str, pid: int) -> tuple[list[Call], list[Call]]:
    """The calls of one process in a trace of strace -f -y, and those that were disturbed.

    The last call of a process that was killed counts as disturbed.
    """
    counts: dict[str, int] = {}
    calls: list[Call] = []
    injected: list[Call] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            resumed = _RESUMED.match(line)
            if resumed is not None and int(resumed["pid"]) == pid:
                # Another thread's line came between; a thread has one call at a time.
                injected.append(calls[-1])
            if re.match(rf"{pid} +\+\+\+ killed by SIGKILL", line):
                injected.append(calls[-1])
            continue
        if int(found["pid"]) != pid or found["name"] not in FILE_CALLS:
            continue
        name = found["name"]
        counts[name] = counts.get(name, 0) + 1
        where = _PATH.match(found["rest"])
        path = "" if where is None else where["fd"] or where["named"] or ""
        calls.append(Call(name, counts[name], path, found["rest"]))
        if "(INJECTED)" in line:
            injected.append(calls[-1])
    return calls, injected
