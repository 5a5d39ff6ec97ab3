"""Group commit: many threads wait for durability, one of them syncs for all.

Whoever comes first leads: it syncs what is written by then, wakes those whose
events are covered, and hands the lead to one of the rest. Each waiter sleeps on a
lock of its own, so nobody is woken for nothing. Before it syncs, a leader gives those
of the last round a moment to come back: without that, half of the threads append
while the other half waits, and each sync covers half of what it could. Knows bounds,
not bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["GroupCommit"]


class _Waiter:
    __slots__ = ("bound", "gate")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.gate = threading.Lock()
        self.gate.acquire()


class GroupCommit:
    """The waiting room before `sync_once`, which makes all that is written durable.

    `durable()` is the bound that is known now; `check()` raises when no sync will
    ever succeed again.
    """

    def __init__(
        self,
        sync_once: Callable[[], None],
        durable: Callable[[], int],
        check: Callable[[], None],
    ) -> None:
        self._sync_once = sync_once
        self._durable = durable
        self._check = check
        self._mutex = threading.Lock()
        # guarded by _mutex
        self._leader: object | None = None
        self._waiters: list[_Waiter] = []
        self._crowd = 0
        """How many waiters the next leader may expect beside itself."""
        self._took = 0.0
        """Seconds of the last sync."""

    def wait(self, bound: int, timeout: float | None = None) -> bool:
        """Return True once everything below `bound` is durable, syncing if need be.

        False when `timeout` seconds passed first. Raises what `sync_once` or `check`
        raises, in every thread that waits.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._durable() < bound:
            self._check()
            waiter: _Waiter | None = None
            token: object | None = None
            try:
                with self._mutex:
                    if self._leader is None:
                        self._leader = token = object()
                    else:
                        waiter = _Waiter(bound)
                        self._waiters.append(waiter)
                if token is not None:
                    self._lead()
                elif waiter is not None and not self._sleep(waiter, deadline):
                    return self._durable() >= bound
            finally:
                # An exception such as Ctrl-C must leave neither a lead that nobody
                # has nor a waiter that nobody waits on.
                if token is not None:
                    self._resign(token)
                elif waiter is not None:
                    self._withdraw(waiter)
        return True

    def _lead(self) -> None:
        """Gather, then sync; gathering costs at most half of what the last sync took."""
        began = time.monotonic()
        if self._crowd:
            until = began + self._took / 2
            while len(self._waiters) < self._crowd and began < until:
                time.sleep(0)  # let go of the interpreter, so that others can append
                began = time.monotonic()
        self._sync_once()
        self._took = time.monotonic() - began

    @staticmethod
    def _sleep(waiter: _Waiter, deadline: float | None) -> bool:
        if deadline is None:
            return waiter.gate.acquire()
        left = deadline - time.monotonic()
        return left > 0 and waiter.gate.acquire(timeout=left)

    def _resign(self, token: object) -> None:
        """Give up the lead, wake who is covered, and one more to lead for the rest."""
        with self._mutex:
            if self._leader is not token:
                return
            self._leader = None
            self._wake()

    def _withdraw(self, waiter: _Waiter) -> None:
        with self._mutex:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif self._leader is None:
                # Woken, perhaps to lead, and leaving: somebody else has to.
                self._wake()

    def _wake(self) -> None:
        """Holding the mutex: wake the covered, and the first uncovered one if nobody leads."""
        durable = self._durable()
        left: list[_Waiter] = []
        for waiter in self._waiters:
            if waiter.bound <= durable:
                waiter.gate.release()
            else:
                left.append(waiter)
        self._crowd = len(self._waiters)
        if left and self._leader is None:
            left.pop(0).gate.release()
        self._waiters = left
