"""Threads that run one at a time and stop at named steps, in every order that there is.

An actor is a thread of a race. It runs until it comes to a step or to a lock that somebody
holds; there it is decided who goes on. `explore` takes each decision in each way, depth
first, with at most so many preemptions: changes of the thread where the running one could
have gone on (None for any number). So what is found is found every time, and no test waits
for luck or for a clock.

A step is a call through the door of the `Files` protocol ("pwrite", "sync_data", …; writes
to `tail.hint` are "hint"), or the beginning of a function, by its qualified name. Locks are
real ones whose waiting is known here; time passes only where nothing else can happen, or,
for `is_impatient`, at every step of a wait. When no actor can go on, that is a deadlock and
raised. Threads that batpak starts become actors of their own.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.support.faulty_files import UnsyncedFiles
from tests.support.trial import PATIENCE

_LOCKING = (
    "batpak.journal.group", "batpak.journal.background", "batpak.journal.writer",
    "batpak.journal.flushing", "batpak.journal.telling",
    "batpak.journal.reading", "batpak.engine.submission", "batpak.engine.staging",
    "batpak.engine.sealing", "batpak.engine.reading", "batpak.engine.following",
    "batpak.engine.keys", "batpak.engine.checkpoints", "batpak.engine.tree",
    "batpak.index.parts", "batpak.index.growing", "batpak.index.mapped", "batpak.store",
)  # fmt: skip


class Deadlock(AssertionError):
    """No actor can go on."""


@dataclass(eq=False)
class _Actor:
    name: str
    is_ours: bool
    """Whether the test made it; the others are threads of batpak, which may sleep at the end."""
    wants: Lock | None = None
    is_timed: bool = False
    is_over: bool = False
    error: BaseException | None = None
    at: str = "its beginning"


@dataclass(eq=False)
class Turns:
    """One run of a race: the decisions in `prefix` are given, further ones are the first choice."""

    prefix: list[int]
    preemptions: int | None
    is_impatient: bool = False
    steps: frozenset[str] = frozenset()
    chance: random.Random | None = None
    """Draws what comes after the prefix."""
    decisions: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Of each decision: which choice was taken, and how many there were."""
    trace: list[str] = field(default_factory=list[str])

    current: ClassVar[Turns | None] = None

    def __post_init__(self) -> None:
        self._change = threading.Condition()
        # guarded by _change
        self._actors: list[_Actor] = []
        self._running: _Actor | None = None
        self._is_active = False
        self._mine = threading.local()
        self._failure: BaseException | None = None

    @property
    def me(self) -> _Actor | None:
        """The calling thread's actor, while turns are taken."""
        return getattr(self._mine, "actor", None) if self._is_active else None

    def run(self, actors: Mapping[str, Callable[[], Any]]) -> None:
        """Let the actors take turns until all of them are over; raises what one of them did."""
        ours = [_Actor(name, True) for name in actors]
        self._actors += ours
        self._is_active = True
        threads = [
            threading.Thread(target=self._play, args=(actor, work), daemon=True)
            for actor, work in zip(ours, actors.values(), strict=True)
        ]
        for thread in threads:
            thread.start()
        with self._change:
            self._decide()
            finished = self._change.wait_for(
                lambda: self._failure is not None or all(actor.is_over for actor in ours), PATIENCE
            )
            self._is_active = False
            self._change.notify_all()
        if self._failure is not None:
            raise self._failure
        assert finished, f"asleep outside of any lock known here: {self._where()}"
        for thread in threads:
            thread.join(PATIENCE)
        for actor in ours:
            if actor.error is not None:
                raise actor.error

    def _play(self, actor: _Actor, work: Callable[[], Any]) -> None:
        try:
            self.enter(actor)
            work()
        except BaseException as error:  # noqa: BLE001  # raised again by `run`
            actor.error = error
        finally:
            self.leave(actor)

    def enter(self, actor: _Actor) -> None:
        """The calling thread is this actor from now on; returns at its first turn."""
        self._mine.actor = actor
        with self._change:
            if actor not in self._actors:
                self._actors.append(actor)
                self._change.notify_all()
            self._wait(actor)
        if any("." in step for step in self.steps):
            sys.setprofile(self._profile)

    def leave(self, actor: _Actor) -> None:
        """The calling thread is no actor any more."""
        sys.setprofile(None)
        self._mine.actor = None
        with self._change:
            actor.is_over = True
            if self._is_active:
                self._decide()
            self._change.notify_all()

    def step(self, name: str) -> None:
        """The calling actor stops here, and goes on when it has the turn."""
        actor = self.me
        if actor is not None and name in self.steps:
            self._stop(actor, name)

    def _stop(self, actor: _Actor, where: str) -> None:
        with self._change:
            actor.at = where
            self._decide()
            self._wait(actor)

    def _wait(self, actor: _Actor) -> None:
        done = self._change.wait_for(
            lambda: self._running is actor or not self._is_active, 2 * PATIENCE
        )
        assert done, f"nobody gave {actor.name} its turn"

    def wait_for_lock(self, actor: _Actor, lock: Lock, *, is_timed: bool) -> None:
        """Stop until the lock is free, or the time is over, and it is this actor's turn."""
        actor.wants, actor.is_timed = lock, is_timed
        try:
            self._stop(actor, "a lock")
        finally:
            actor.wants, actor.is_timed = None, False

    def _decide(self) -> None:
        """Holding `_change`: whose turn it is."""
        before = self._running
        choices = [one for one in self._actors if self._can_run(one)]
        if not choices:
            choices = [one for one in self._actors if one.is_timed and not one.is_over]
        if not choices:
            self._running = None
            if not all(actor.is_over for actor in self._actors if actor.is_ours):
                self._failure = Deadlock(self._where())
            self._change.notify_all()
            return
        if before in choices:
            choices.remove(before)
            choices.insert(0, before)
            if self.preemptions is not None and self._preempted() >= self.preemptions:
                choices = [before]
        place = len(self.decisions)
        if place < len(self.prefix):
            taken = self.prefix[place]
        else:
            taken = 0 if self.chance is None else self.chance.randrange(len(choices))
        assert taken < len(choices), "the same decisions led elsewhere"
        self.decisions.append((taken, len(choices)))
        self._running = choices[taken]
        self.trace.append(f"{self._running.name} from {self._running.at}")
        if before in choices and self._running is not before:
            self._spent = self._preempted() + 1
        self._change.notify_all()

    def _preempted(self) -> int:
        return getattr(self, "_spent", 0)

    def _can_run(self, actor: _Actor) -> bool:
        if actor.is_over:
            return False
        return actor.wants is None or not actor.wants.locked() or (
            actor.is_timed and self.is_impatient
        )  # fmt: skip

    def _where(self) -> str:
        frames = sys._current_frames()
        by_name = {thread.name: frames.get(thread.ident or 0) for thread in threading.enumerate()}
        stacks = "".join(
            f"\n{name}:\n" + "".join(traceback.format_stack(frame)[-6:])
            for name, frame in by_name.items()
            if frame is not None
        )
        left = ", ".join(f"{a.name} at {a.at}" for a in self._actors if not a.is_over)
        return f"{left}; turns: {self.trace}{stacks}"

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_qualname in self.steps:
            self.step(frame.f_code.co_qualname)


def _actor() -> tuple[Turns, _Actor] | None:
    turns = Turns.current
    actor = None if turns is None else turns.me
    return None if turns is None or actor is None else (turns, actor)


class Lock:
    """A lock for which an actor waits by giving up its turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        found = _actor()
        if found is None:
            return self._lock.acquire(timeout=timeout)
        turns, actor = found
        turns.wait_for_lock(actor, self, is_timed=timeout >= 0)
        if self._lock.acquire(blocking=False):
            return True
        # The turns are over, and this thread goes on by itself; or its time is.
        return turns.me is None and self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock(Lock):
    """The same, for a thread that takes it again."""

    def __init__(self) -> None:
        super().__init__()
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        here = threading.get_ident()
        if self._owner != here:
            if not super().acquire(blocking, timeout):
                return False
            self._owner = here
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            super().release()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()


class _Thread(threading.Thread):
    """A thread of batpak: an actor."""

    def run(self) -> None:
        turns = Turns.current
        if turns is None or not turns._is_active:
            super().run()
            return
        actor = _Actor(self.name, False)
        turns.enter(actor)
        try:
            super().run()
        finally:
            turns.leave(actor)


def _start_new_thread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Return once the thread has come to take turns, so that it is there at each decision."""
    turns = Turns.current
    before = 0 if turns is None else len(turns._actors)
    ident = threading._start_new_thread(function, arguments)  # type: ignore[attr-defined]  # not public, but the real one
    if turns is not None and turns._is_active:
        with turns._change:
            # Or the race has ended meanwhile, and nobody takes turns any more.
            assert turns._change.wait_for(
                lambda: len(turns._actors) > before or not turns._is_active, PATIENCE
            )
    return ident


class SteppingFiles(UnsyncedFiles):
    """Files whose operations are steps; what was written and what was synced is counted."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.written: dict[str, int] = {}
        """Of each segment: the end of what was written to it."""
        self.synced: dict[str, int] = {}
        self.failing: dict[str, OSError] = {}
        """Operations that are refused."""
        self.calls: list[str] = []

    def _step(self, name: str) -> None:
        if Turns.current is not None:
            Turns.current.step(name)
        self.calls.append(name)
        if name in self.failing:
            raise self.failing[name]

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        self._step("create" if flags & os.O_CREAT else "open")
        fd = super().open(path, flags, mode)
        self.names[fd] = os.path.basename(path)
        return fd

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._step("pread")
        return super().pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        name = self.names.get(fd, "")
        self._step("hint" if name == "tail.hint" else "pwrite")
        written = super().pwrite(fd, data, offset)
        self.written[name] = max(self.written.get(name, 0), offset + written)
        return written

    def sync_data(self, fd: int) -> None:
        self._sync("sync_data", fd)

    def sync_file(self, fd: int) -> None:
        self._sync("sync_file", fd)

    def _sync(self, operation: str, fd: int) -> None:
        name = self.names.get(fd, "")
        reached = self.written.get(name, 0)
        self._step(operation)
        super().sync_data(fd)
        self.synced[name] = max(self.synced.get(name, 0), reached)

    def rename(self, source: str, target: str) -> None:
        self._step("rename")
        super().rename(source, target)
        for fd, name in self.names.items():
            if name == os.path.basename(source):
                self.names[fd] = os.path.basename(target)

    def lock(self, fd: int) -> bool:
        self._step("lock")
        return super().lock(fd)


def known_locks(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone, batpak's locks and threads are those of this module."""
    ours = SimpleNamespace(**vars(threading))
    ours.Lock, ours.RLock, ours.Thread = Lock, RLock, _Thread
    for name in _LOCKING:
        module = importlib.import_module(name)
        if hasattr(module, "threading"):
            patch.setattr(module, "threading", ours)
    starting = SimpleNamespace(start_new_thread=_start_new_thread)
    patch.setattr(importlib.import_module("batpak.journal.background"), "_thread", starting)
    # A leader waits for others for a share of its last round's seconds: here nobody can come.
    standing = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda seconds: None)
    patch.setattr(importlib.import_module("batpak.journal.group"), "time", standing)


def explore(
    race: Callable[[Turns], None],
    steps: Iterable[str],
    *,
    preemptions: int | None,
    is_impatient: bool = False,
    chance: random.Random | None = None,
    most: int = 0,
) -> int:
    """Run `race`, which calls `run` once, in every order; how many there are.

    With `chance`, in `most` orders that it draws. An error of a run gets a note of its turns.
    """
    prefix: list[int] = []
    count = 0
    while True:
        turns = Turns(prefix, preemptions, is_impatient, frozenset(steps), chance)
        Turns.current = turns
        try:
            race(turns)
        except BaseException as error:
            error.add_note("turns: " + "; ".join(turns.trace))
            raise
        finally:
            Turns.current = None
        count += 1
        if chance is not None:
            if count == most:
                return count
            continue
        decisions = turns.decisions
        while decisions and decisions[-1][0] + 1 == decisions[-1][1]:
            decisions.pop()
        if not decisions:
            return count
        prefix = [taken for taken, _ in decisions]
        prefix[-1] += 1
