"""The queue behind `submit`: appends that one background thread commits in their order.

The thread starts with the first submission and ends with the store. Whatever is waiting
is committed together, each submission as its own commit, with one sync for all of them.
Knows submissions and their futures, not what an event is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batpak.errors import Backpressure, Cancelled, StoreClosed

__all__ = ["Pressure", "Submission", "SubmitQueue"]

_MOST_AT_ONCE = 512


class Submission:
    """What is to be committed, and the future that tells what came of it."""

    __slots__ = ("durable", "events", "future", "guard", "is_single", "on_replay")

    def __init__(
        self, events: Sequence[Any], guard: Any, *, is_single: bool, durable: bool, on_replay: Any
    ) -> None:
        self.events = events
        self.guard = guard
        self.is_single = is_single
        self.durable = durable
        self.on_replay = on_replay
        self.future: Future[Any] = Future()


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
        self._changed = threading.Condition()
        # guarded by _changed
        self._waiting: deque[Submission] = deque()
        self._queued = 0
        self._working: Sequence[Submission] = ()
        self._thread: threading.Thread | None = None
        self._stopped = False
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
        size = len(submission.events)
        with self._changed:
            if soft and self._queued + size > self._soft_limit and self._queued:
                raise Backpressure(
                    f"{self._queued} events wait in the queue of submit",
                    retry_after=self._queued * self._seconds_each,
                    advice="try again after `retry_after` seconds, or call submit(), which waits",
                )
            # The queue's own thread, in a future's callback, must not wait for itself.
            while (
                self._queued + size > self.capacity
                and self._queued
                and not self._stopped
                and threading.current_thread() is not self._thread
            ):
                self._changed.wait()
            if self._stopped:
                raise StoreClosed("the store is closed", advice="open the journal anew")
            self._waiting.append(submission)
            self._queued += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batpak-submit", daemon=True)
                self._thread.start()
            elif len(self._waiting) == 1:
                self._changed.notify_all()
        self._mine.last = submission.future
        return submission.future

    def drain_mine(self) -> None:
        """Wait for what this thread has submitted; its outcome is the futures' business."""
        last: Future[Any] | None = getattr(self._mine, "last", None)
        if last is not None and threading.current_thread() is not self._thread:
            if not last.done():
                _wait_for(last, None)
            self._mine.last = None

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is settled; False when the time is over."""
        with self._changed:
            pending = [*self._working, *self._waiting]
        if not pending or threading.current_thread() is self._thread:
            return True
        return _wait_for(pending[-1].future, timeout)

    def stop(self, timeout: float | None = None) -> None:
        """Take no more, let the queue run empty for so long, cancel the rest, end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self.drain(timeout)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            self._queued = 0
            self._changed.notify_all()
        for submission in left:
            if submission.future.set_running_or_notify_cancel():
                submission.future.set_exception(
                    Cancelled(
                        "the store was closed before this was written",
                        advice="append it again; nothing of it was written",
                    )
                )
        thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if not self._waiting:
                    return
                taken = [
                    self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))
                ]
                self._working = taken
                self._queued -= sum(len(one.events) for one in taken)
                self._changed.notify_all()
            began = time.monotonic()
            ours = [one for one in taken if one.future.set_running_or_notify_cancel()]
            self._work(ours)
            count = sum(len(one.events) for one in ours)
            if count:
                self._seconds_each = (time.monotonic() - began) / count
            with self._changed:
                self._working = ()


def _wait_for(future: Future[Any], timeout: float | None) -> bool:
    """Until a future is settled, whatever its outcome; False when the time is over."""
    settled = threading.Event()
    future.add_done_callback(lambda _: settled.set())
    return settled.wait(timeout)
