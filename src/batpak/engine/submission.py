"""The queue behind `submit`: appends that one background thread commits in their order.

The thread starts with the first submission and ends with the store. Whatever is waiting
is committed together, each submission as its own commit, with one sync for all of them.
Knows submissions and their futures, not what an event is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batpak.errors import Backpressure, Cancelled, StoreClosed

__all__ = ["Pressure", "Submission", "SubmitQueue"]

logger = logging.getLogger("batpak.store")

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

    def begin(self) -> bool:
        """Whether it is still to be committed: its caller has not cancelled the future."""
        try:
            return self.future.set_running_or_notify_cancel()
        except RuntimeError:
            # Somebody settled what is ours to settle; nobody waits for us any more.
            return False

    def succeed(self, receipts: Any) -> None:
        """The future gives this."""
        self._settle(self.future.set_result, receipts)

    def fail(self, error: BaseException) -> None:
        """The future raises this."""
        self._settle(self.future.set_exception, error)

    @staticmethod
    def _settle(tell: Callable[[Any], None], outcome: Any) -> None:
        try:
            tell(outcome)
        except BaseException as error:  # noqa: BLE001  # of a callback, in the queue's thread
            # An Exception is the future's to log. What else a callback raises, such as
            # SystemExit, must not end the thread that others wait for.
            logger.error(
                "a callback of a submitted append raised: %r", error,
                extra={"code": "callback-raised", "error": repr(error)},
            )  # fmt: skip


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
        self._accepted = 0
        """Submissions ever taken into the queue; its value then is a submission's number."""
        self._settled = 0
        """The number up to which all are settled. A future tells less: its caller may
        cancel it, and those before it are still to be written."""
        self._is_working = False
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._at_end: Callable[[], None] | None = None
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
            if self._thread is None:
                # Where no thread can be had, this raises and nothing is queued.
                thread = threading.Thread(target=self._run, name="batpak-submit", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting.append(submission)
            self._queued += size
            self._accepted += 1
            self._mine.last = self._accepted
            if len(self._waiting) == 1:
                self._changed.notify_all()
        return submission.future

    def drain_mine(self) -> None:
        """Wait for what this thread has submitted; its outcome is the futures' business."""
        last: int = getattr(self._mine, "last", 0)
        if last > self._settled:
            self._wait_until(last, None)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is settled; False when the time is over."""
        return self._wait_until(self._accepted, timeout)

    def _wait_until(self, number: int, timeout: float | None) -> bool:
        if threading.current_thread() is self._thread:
            return True
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        with self._changed:
            return self._changed.wait_for(lambda: self._settled >= number, timeout)

    def stop(self, timeout: float | None = None) -> None:
        """Take no more, let the queue run empty for so long, cancel the rest, end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return
        self.drain(timeout)
        with self._changed:
            left = self._take_all()
        _cancel(left)
        if thread is not threading.current_thread():
            thread.join()

    def abandon(self, release: Callable[[], None]) -> None:
        """The store is gone: cancel what waits; `release` once no commit is under way.

        For a finalizer, which runs in any thread and may wait for none.
        """
        with self._changed:
            self._stopped = True
            left = self._take_all()
            is_working = self._is_working
            if is_working:
                self._at_end = release
        _cancel(left)
        if not is_working:
            release()

    def _take_all(self) -> list[Submission]:
        left = list(self._waiting)
        self._waiting.clear()
        self._queued = 0
        self._changed.notify_all()
        return left

    def _run(self) -> None:
        while self._turn():
            pass
        if self._at_end is not None:
            self._at_end()

    def _turn(self) -> bool:
        """Wait for submissions and commit them; False when there will be no more."""
        with self._changed:
            while not self._waiting and not self._stopped:
                self._changed.wait()
            if not self._waiting:
                # Those that were cancelled at the end count as settled only now, since
                # numbers are settled in their order.
                self._settled = self._accepted
                self._changed.notify_all()
                return False
            taken = [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]
            self._is_working = True
            self._queued -= sum(len(one.events) for one in taken)
            self._changed.notify_all()
        began = time.monotonic()
        ours = [one for one in taken if one.begin()]
        try:
            self._work(ours)
        except BaseException as error:  # noqa: BLE001  # raised again by the futures
            # Such as no memory. Nobody may be left waiting for an answer.
            for one in ours:
                if not one.future.done():
                    one.fail(error)
        count = sum(len(one.events) for one in ours)
        if count:
            self._seconds_each = (time.monotonic() - began) / count
        with self._changed:
            self._settled += len(taken)
            self._is_working = False
            self._changed.notify_all()
        return True


def _cancel(submissions: Sequence[Submission]) -> None:
    for submission in submissions:
        if submission.begin():
            submission.fail(
                Cancelled(
                    "the store was closed before this was written",
                    advice="append it again; nothing of it was written",
                )
            )
