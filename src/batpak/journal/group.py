"""Group commit: many threads want their events durable, one of them works for all.

Whoever comes first leads: it writes what the others have handed over, syncs once for
everything written by then, wakes those it worked for, and hands the lead to one who
came meanwhile. A thread that waits has nothing to do but sleep, on a lock of its own,
so nobody is woken for nothing and nobody fights for the append lock or the interpreter.
Before it begins, a leader gives those of the last round a moment to come back: without
that, half of the threads append while the other half waits, and each sync covers half
of what it could. Knows requests and bounds, not bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["GroupCommit", "Request"]


class Request:
    """What one thread waits for: `events` to be durable, or all below `bound`.

    `committed` is what the commit gave the events, once they are written; `error` why
    they are not, or why they are not known to be durable.
    """

    __slots__ = (
        "bound", "committed", "error", "events", "gate", "guard", "is_done", "is_written",
    )  # fmt: skip

    def __init__(self, events: Sequence[Any], bound: int = 0, guard: Any = None) -> None:
        self.events = events
        self.guard = guard
        self.bound = bound
        self.committed: Sequence[Any] = ()
        self.error: Exception | None = None
        self.gate: threading.Lock | None = None
        self.is_written = not events
        self.is_done = False

    def written_below(self, sequence: int) -> None:
        """Told after a write, or after a look at what an interrupted one left."""
        if self.committed and self.committed[-1][0] < sequence:
            self.is_written = True
            self.bound = self.committed[-1][0] + 1


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
        self._queue: list[Request] = []
        # the leader's own
        self._crowd = 0
        """How many requests the next leader may expect beside its own."""
        self._took = 0.0
        """Seconds of the last round, gathering left out."""

    @property
    def waiting(self) -> int:
        """How many requests are in the queue, beside those that are worked on."""
        return len(self._queue)

    def run(self, request: Request, timeout: float | None = None) -> bool:
        """Return once `request` is done: durable, or failed with its `error`.

        False when `timeout` seconds passed first; a request with events may then still
        succeed, unless its `is_written` stays False. An exception such as Ctrl-C leaves
        neither a lead that nobody has nor a waiter that nobody waits on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._mutex:
                if self._leader is None:
                    self._leader = request
                else:
                    request.gate = threading.Lock()
                    request.gate.acquire()
                    self._queue.append(request)
            while not request.is_done:
                if self._leader is request:
                    self._lead(request)
                elif not self._sleep(request, deadline):
                    break
        finally:
            if not request.is_done:
                self._withdraw(request)
        return request.is_done

    @staticmethod
    def _sleep(request: Request, deadline: float | None) -> bool:
        """Until somebody opens the gate; False when the time is over."""
        gate = request.gate
        assert gate is not None, "who does not lead waits at a gate"
        if deadline is None:
            return gate.acquire()
        left = deadline - time.monotonic()
        return left > 0 and gate.acquire(timeout=min(left, threading.TIMEOUT_MAX))

    def _lead(self, request: Request) -> None:
        """Gather, write, sync, wake: one round for all who are here."""
        if self._crowd:
            self._gather()
        with self._mutex:
            group = [request, *self._queue]
            self._queue = []
        try:
            began = time.monotonic()
            self._work(group)
            self._took = time.monotonic() - began
            self._crowd = len(group) - 1
        finally:
            self._resign(request, group)

    def _gather(self) -> None:
        """Wait for the last round's threads, for at most half of what that round took."""
        now = time.monotonic()
        until = now + self._took / 2
        while len(self._queue) < self._crowd and now < until:
            time.sleep(0)  # let go of the interpreter, so that others can come
            now = time.monotonic()

    def _work(self, group: list[Request]) -> None:
        self._commit(group)
        waiting = [one for one in group if one.error is None]
        try:
            if waiting:
                self._sync_once()
        except Exception as error:  # noqa: BLE001  # raised again, in its own thread
            # Whatever it is, each of them has to hear of it: it is raised in its thread.
            for one in waiting:
                one.error = error
        for one in group:
            one.is_done = True

    def _resign(self, request: Request, group: list[Request]) -> None:
        """Give up the lead, wake those who are done, and one more to lead the rest."""
        with self._mutex:
            left = [one for one in group if not one.is_done and one is not request]
            for one in group:
                if one.is_done and one.gate is not None:
                    one.gate.release()
            self._queue[:0] = left
            self._appoint()

    def _appoint(self) -> None:
        """Holding the mutex: the first in the queue leads, if there is one."""
        self._leader = self._queue.pop(0) if self._queue else None
        if self._leader is not None and self._leader.gate is not None:
            self._leader.gate.release()

    def _withdraw(self, request: Request) -> None:
        """Somebody stops waiting; if it was to lead, somebody else has to."""
        with self._mutex:
            if self._leader is request:
                self._appoint()
            elif request in self._queue:
                self._queue.remove(request)
