"""Group commit: many threads want their events durable, one of them works for all.

Whoever comes first leads: it writes what the others have handed over, syncs once for
everything written by then, wakes those it worked for, and hands the lead to one who
came meanwhile. A thread that waits has nothing to do but sleep, at a gate of its own,
so nobody is woken for nothing and nobody fights for the append lock or the interpreter.
Those whose work is done are woken by each other, a few at a time: if all woke at once, most
of them would only wait for the interpreter (docs/decisions/0009).
Before it begins, a leader gives those of the last round a moment to come back: without
that, half of the threads append while the other half waits, and each sync covers half
of what it could. Knows requests and bounds, not bytes.

Ctrl-C may come at any point. The lead and the queue change by plain assignments under
the mutex, which nothing can part; what comes before them (opening gates) may be done
twice. Giving up the lead is done again where it was cut, and so is waking the next one;
whoever wakes early looks again once the mutex is free (docs/decisions/0044).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from batpak.errors import ReentrantCall
from batpak.journal.background import gate, opened, passed
from batpak.journal.reentry import reentered

__all__ = ["GroupCommit", "Request"]


class Request(msgspec.Struct, eq=False):
    """What one thread waits for: `events` to be durable, or all below `bound`.

    `committed` is what the commit gave the events, once they are written; `error` why
    they are not, or why they are not known to be durable.
    """

    events: Sequence[Any]
    bound: int = 0
    guard: Any = None
    is_written: bool = False
    """Where there are no events, from the beginning."""
    committed: Sequence[Any] = ()
    error: Exception | None = None
    gate: Any = None
    """A `threading.Lock`: where its thread sleeps."""
    is_done: bool = False
    is_gone: bool = False
    """Nobody waits for it any more, so it can't lead, and waking it wakes nobody."""
    after: Request | None = None
    """Whose thread this one's has to wake when it leaves."""
    has_left: bool = False
    """Its thread has done all that it owes the others."""

    @classmethod
    def below(cls, bound: int) -> Request:
        """To wait for all below `bound`, which others write."""
        return cls((), bound, None, True)

    def written_below(self, sequence: int) -> None:
        """Told after a write, or after a look at what an interrupted one left."""
        if self.committed and self.committed[-1][0] < sequence:
            self.bound = self.committed[-1][0] + 1
            self.is_written = True

    def wake(self) -> None:
        """Let its thread look again, now or when it goes to sleep."""
        if self.gate is not None:
            opened(self.gate)

    def wake_chain(self) -> None:
        """Let its thread look again; where that is gone, the next one of its chain."""
        one: Request | None = self
        while one is not None:
            one.wake()
            if not one.is_gone:
                return
            one = one.after


class GroupCommit:
    """The waiting room before `commit`, which writes, and `sync_once`, which syncs.

    `commit(requests)` writes the events of each request that has unwritten ones, and
    tells the outcome in the request.
    """

    def __init__(
        self, commit: Callable[[Sequence[Request]], None], sync_once: Callable[[], None]
    ) -> None:
        self._commit = commit
        self._sync_once = sync_once
        self._mutex = threading.Lock()
        # guarded by _mutex
        self._leader: Request | None = None
        self._group: list[Request] = []
        """Those that the leader works for, itself among them."""
        self._queue: list[Request] = []
        self._gathering: Request | None = None
        """The leader while it waits for others to come."""
        # the leader's own
        self._crowd = 0
        """How many requests the next leader may expect beside its own."""
        self._took = 0.0
        """Seconds of the last round, gathering left out."""
        self._here: dict[int, Request] = {}
        """Which threads are in `run`. A second call of one would wait for what the first has
        to do: the lead, or the mutex."""

    @property
    def waiting(self) -> int:
        """How many requests are in the queue, beside those that are worked on."""
        return len(self._queue)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is in the middle of `run`."""
        return threading.get_ident() in self._here

    def run(self, request: Request, timeout: float | None = None) -> bool:
        """Return once `request` is done: durable, or failed with its `error`.

        False when `timeout` seconds passed first; a request with events may then still
        succeed, unless its `is_written` stays False. An exception such as Ctrl-C leaves
        neither a lead that nobody has nor a waiter that nobody waits on. Raises ReentrantCall,
        also where a call was refused that came in the middle of this one.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        me = threading.get_ident()
        if me in self._here:
            raise reentered()
        try:
            self._here[me] = request
            with self._mutex:
                if self._leader is None:
                    self._leader = request
                else:
                    request.gate = gate()
                    self._queue.append(request)
                    if self._gathering is not None and len(self._queue) >= self._crowd:
                        self._gathering.wake()
            while not request.is_done:
                if self._leader is request:
                    self._lead(request)
                elif not self._sleep(request, deadline):
                    break
        finally:
            # Three times: Ctrl-C can cut it and cut that again, and a loop would be one more
            # place for that.
            try:
                try:
                    self._leave(request)
                finally:
                    if not request.has_left:
                        try:
                            self._leave(request)
                        finally:
                            self._leave(request)
            finally:
                self._here.pop(me, None)
        return request.is_done

    def _sleep(self, request: Request, deadline: float | None) -> bool:
        """Until somebody opens the gate; False when the time is over."""
        closed = request.gate
        assert closed is not None, "made before it came in"
        if deadline is None:
            closed.acquire()
        else:
            left = deadline - time.monotonic()
            if left <= 0 or not closed.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                return False
        if not request.is_done and self._leader is not request:
            with self._mutex:  # who opened the gate may not have finished
                pass
        return True

    def _lead(self, request: Request) -> None:
        """Gather, write, sync: one round for all who are here."""
        if not (self._crowd or self._queue):
            # Nobody is waited for, so nobody asks how long this takes; who comes now stays
            # in the queue.
            self._group = group = [request]
            self._work(group)
            return
        if self._crowd:
            self._gather(request)
        with self._mutex:
            self._group = [request, *self._queue]
            self._queue = []
        group = self._group
        self._crowd = len(group) - 1
        began = time.monotonic()
        self._work(group)
        self._took = time.monotonic() - began

    def _gather(self, request: Request) -> None:
        """Wait for the last round's threads, for at most half of what that round took."""
        if request.gate is None:
            request.gate = gate()
        self._gathering = request
        # Who came before that line is counted here, who came after it opens the gate.
        if len(self._queue) < self._crowd:
            passed(request.gate, self._took / 2)
        self._gathering = None

    def _work(self, group: list[Request]) -> None:
        self._commit(group)
        waiting = [one for one in group if one.error is None]
        try:
            if waiting:
                self._sync_once()
        except ReentrantCall:
            # As Ctrl-C: it is for this thread, and the others are worked for by the next leader.
            raise
        except Exception as error:  # noqa: BLE001  # raised again, in its own thread
            # Whatever it is, each of them has to hear of it: it is raised in its thread.
            for one in waiting:
                one.error = error
        for one in group:
            one.is_done = True

    def _leave(self, request: Request) -> None:
        """The thread goes: it hands the lead over, and wakes one who sleeps. Repeatable."""
        if self._leader is request or not (request.is_done or request.is_gone):
            with self._mutex:
                if self._leader is request:
                    self._hand_over(request)
                elif request in self._queue:
                    self._queue.remove(request)
                request.is_gone = True
        # First this, then a look at who comes next: whoever would have woken this thread
        # sees the one, or this thread sees the other.
        request.is_gone = True
        if request.after is not None:
            request.after.wake_chain()
        request.has_left = True

    def _hand_over(self, request: Request) -> None:
        """Holding the mutex: begin to wake those who are done, and one to lead the rest."""
        if len(self._group) < 2 and not self._queue:
            # No call among these, so Ctrl-C comes before them all or after; so below.
            self._group, self._leader, self._gathering = [], None, None
            return
        done: list[Request] = [request]
        left: list[Request] = []
        for one in self._group:
            if one.is_gone or one is request:
                continue
            if one.is_done:
                done.append(one)
            else:
                left.append(one)
        left += self._queue
        # Each wakes the next but one: two chains, which this thread and its neighbour begin.
        for one, after in zip(done, done[2:], strict=False):
            one.after = after
        if len(done) > 1:
            done[1].wake_chain()
        successor = left[0] if left else None
        if successor is not None:
            successor.wake()
        self._group, self._queue, self._leader = [], left[1:], successor
        self._gathering = None
