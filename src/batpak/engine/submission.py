"""The queue behind `submit`: appends that one background thread commits in their order.

The thread starts with the first submission and ends with the store. Whatever is waiting
is committed together, each submission as its own commit, with one sync for all of them.
Knows submissions and their futures, not what an event is.

Ctrl-C may come at any point of a caller's thread, so nobody waits at a condition, whose
lock it can leave held for ever: they wait at gates. Under the mutex the thread is woken
first and the submission put there last, so that none can stand there unseen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batpak.engine.tickets import Ticket
from batpak.errors import Backpressure, Cancelled, StoreClosed
from batpak.journal.background import Worker, gate, opened

__all__ = ["Pressure", "Submission", "SubmitQueue"]

_MOST_AT_ONCE = 512


class Submission:
    """What is to be committed, and the future that tells what came of it."""

    __slots__ = (
        "durable", "events", "future", "gates", "guard", "is_settled", "is_single", "on_replay",
    )  # fmt: skip

    def __init__(
        self, events: Sequence[Any], guard: Any, *, is_single: bool, durable: bool, on_replay: Any
    ) -> None:
        self.events = events
        self.guard = guard
        self.is_single = is_single
        self.durable = durable
        self.on_replay = on_replay
        self.future: Ticket[Any] = Ticket()
        # guarded by the queue's mutex
        self.is_settled = False
        self.gates: list[threading.Lock] = []
        """Of those who wait until it is settled."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits, at one moment."""

    queued: int
    """Events in the queue of `submit`."""
    capacity: int
    """Most events that the queue holds."""
    waiting: int
    """Threads that wait for a group commit to take them along."""

    @property
    def utilization(self) -> float:
        """Share of the queue that is filled, from 0.0 to 1.0."""
        return self.queued / self.capacity

    @property
    def headroom(self) -> int:
        """Events that the queue takes before `submit` blocks."""
        return max(self.capacity - self.queued, 0)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self.queued and not self.waiting


class SubmitQueue:
    """Submissions in order; `work(submissions)` commits them and settles their futures."""

    def __init__(
        self, work: Callable[[Sequence[Submission]], None], capacity: int, threshold: float
    ) -> None:
        self._work = work
        self.capacity = capacity
        self._soft_limit = max(1, -int(-capacity * threshold // 1))
        self._worker = Worker("batpak-submit", self._run)
        self._mutex = threading.Lock()
        # guarded by _mutex
        self._waiting: deque[Submission] = deque()
        self._queued = 0
        self._working: Sequence[Submission] = ()
        self._full: list[threading.Lock] = []
        """The gates of those who wait for room."""
        self._stopped = False
        self._cancelling = False
        self._wake = gate()
        """Where the thread waits for work."""
        self._seconds_each = 0.001
        self._mine = threading.local()

    @property
    def queued(self) -> int:
        """Events that wait."""
        return self._queued

    def put(self, submission: Submission, *, soft: bool) -> Future[Any]:
        """Queue a submission; blocks while the queue is full.

        `soft`: refuses at the threshold instead. Raises Backpressure, StoreClosed.
        """
        while True:
            room = self._try_to_put(submission, soft=soft)
            if room is None:
                break
            room.acquire()
        self._mine.last = submission
        return submission.future

    def _try_to_put(self, submission: Submission, *, soft: bool) -> threading.Lock | None:
        """Queue it, or give a gate that opens when it may be tried again."""
        size = len(submission.events)
        with self._mutex:
            if soft and self._queued + size > self._soft_limit and self._queued:
                raise Backpressure(
                    f"{self._queued} events wait in the queue of submit",
                    retry_after=self._queued * self._seconds_each,
                    advice="try again after `retry_after` seconds, or call submit(), which waits",
                )
            if self._stopped:
                raise StoreClosed("the store is closed", advice="open the journal anew")
            # The queue's own thread, in a future's callback, must not wait for itself.
            if self._queued + size > self.capacity and self._queued and not self._worker.is_here:
                room = gate()
                self._full.append(room)
                return room
            self._worker.start()
            opened(self._wake)
            # No call before the last one of these, so Ctrl-C can't part them.
            self._queued += size
            self._waiting.append(submission)
        return None

    def drain_mine(self) -> None:
        """Wait for what this thread has submitted; its outcome is the futures' business."""
        last: Submission | None = getattr(self._mine, "last", None)
        if last is not None and not self._worker.is_here:
            self._settled(last, None)
            self._mine.last = None

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is settled; False when the time is over."""
        with self._mutex:
            pending = [*self._working, *self._waiting]
        if not pending or self._worker.is_here:
            return True
        return self._settled(pending[-1], timeout)

    def _settled(self, submission: Submission, timeout: float | None) -> bool:
        """Until it is, whatever its outcome; False when the time is over."""
        with self._mutex:
            if submission.is_settled:
                return True
            settled = gate()
            submission.gates.append(settled)
        if timeout is None:
            return settled.acquire()
        return settled.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))

    def abandon(self) -> None:
        """Take no more; whatever waits is left to the thread, which then ends."""
        with self._mutex:
            self._stopped = True
            opened(self._wake)
            self._let_in()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more, let the queue run empty for so long, cancel the rest, end the thread."""
        self.abandon()
        if self._worker.is_here:
            return
        self.drain(timeout)
        # By the thread, which Ctrl-C does not reach.
        self._cancelling = True
        self._worker.join()

    def _let_in(self) -> None:
        """Holding the mutex: those who wait for room may try again."""
        for room in self._full:
            opened(room)
        self._full = []

    def _run(self) -> None:
        while True:
            with self._mutex:
                count = min(_MOST_AT_ONCE, len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(count)]
                self._working = taken
                # Ctrl-C between the two steps of a submission would leave a trace for ever.
                left = self._queued - sum(len(one.events) for one in taken)
                self._queued = left if self._waiting else 0
                self._let_in()
                is_over = self._stopped and not taken
            if is_over:
                return
            if not taken:
                self._wake.acquire()
                continue
            ours = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if self._cancelling:
                self._cancel(ours)
            else:
                began = time.monotonic()
                self._work(ours)
                count = sum(len(one.events) for one in ours)
                if count:
                    self._seconds_each = (time.monotonic() - began) / count
            with self._mutex:
                self._working = ()
                for one in taken:
                    one.is_settled = True
                    for settled in one.gates:
                        opened(settled)

    @staticmethod
    def _cancel(submissions: Sequence[Submission]) -> None:
        for one in submissions:
            one.future.set_exception(
                Cancelled(
                    "the store was closed before this was written",
                    advice="append it again; nothing of it was written",
                )
            )
