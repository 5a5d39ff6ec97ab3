"""The queue behind `submit`: appends that one background thread commits in their order.

The thread starts with the first submission and ends with the store. Whatever is waiting
is committed together, each submission as its own commit, with one sync for all of them.
Knows submissions and their futures, not what an event is.

Ctrl-C may come at any point of a caller's thread, so nobody waits at a condition, whose
lock it can leave held for ever: they wait at gates. Under the mutex the thread is woken
first and the submission put there last, so that none can stand there unseen. What an
interrupted `stop` leaves undone is done by the thread (docs/decisions/0043).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from batpak.engine.tickets import Ticket, told_of_callback
from batpak.errors import Backpressure, Cancelled, StoreClosed
from batpak.journal.background import Worker, gate, opened, passed
from batpak.journal.reentry import owns, reentered
from batpak.journal.telling import Teller, telling_last

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
        self.future: Ticket[Any] = Ticket()

    def begin(self) -> bool:
        """Whether it is still to be committed: its caller has not cancelled the future."""
        try:
            return self.future.set_running_or_notify_cancel()
        except RuntimeError:
            # Somebody settled what is ours to settle; nobody waits for us any more.
            return False

    def succeed(self, receipts: Any) -> None:
        """The future gives this; for the queue's thread, as `fail`."""
        self._settle(receipts, None)

    def fail(self, error: BaseException) -> None:
        """The future raises this."""
        self._settle(None, error)

    def _settle(self, receipts: Any, error: BaseException | None) -> None:
        # Each callback is called once, so this comes to an end.
        while True:
            try:
                return self.future.tell(receipts, error)
            except BaseException as raised:  # noqa: BLE001  # of a callback, in the thread
                # Such as SystemExit: it must not end the thread that others wait for, nor
                # may what a log handler does about it.
                with suppress(BaseException):
                    told_of_callback(raised)


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits, at one moment."""

    queued: int
    """Events in the queue of `submit`."""
    capacity: int
    """Events in the queue from which on `submit` waits. Only a batch that is larger than
    this, which is queued alone, and what a future's callback submits go beyond it."""
    waiting: int
    """Threads that wait for a group commit to take them along."""

    @property
    def utilization(self) -> float:
        """Share of the capacity that is taken; above 1.0 where more than it is queued."""
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
        self,
        work: Callable[[Sequence[Submission]], None],
        capacity: int,
        threshold: float,
        teller: Teller,
        check_entry: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_entry` raises in a thread that `work` may have to wait for."""
        self._work = work
        self._teller = teller
        self._check_others = check_entry
        self.capacity = capacity
        self._soft_limit = max(1, -int(-capacity * threshold // 1))
        self._worker = Worker("batpak-submit", self._run)
        self._mutex = threading.RLock()
        # guarded by _mutex
        self._waiting: deque[Submission] = deque()
        self._queued = 0
        self._accepted = 0
        """Submissions ever taken into the queue; its value then is a submission's number."""
        self._settled = 0
        """The number up to which all are settled. A future tells less: its caller may
        cancel it, and those before it are still to be written."""
        self._is_working = False
        self._given_up: Sequence[Submission] = ()
        """Those that `stop` had no time for."""
        self._full: list[threading.Lock] = []
        """The gates of those who wait for room."""
        self._patient: list[tuple[int, threading.Lock]] = []
        """The gates of those who wait until all up to a number are settled."""
        self._stopped = False
        self._cancelling = False
        self._at_end: Callable[[], None] | None = None
        self._wake = gate()
        """Where the thread waits for work."""
        self._seconds_each = 0.001
        self._mine = threading.local()

    @property
    def queued(self) -> int:
        """Events that wait."""
        return self._queued

    @property
    def serves_here(self) -> bool:
        """Whether the calling thread is the queue's, as in a callback of a future."""
        return self._worker.is_here

    def put(self, submission: Submission, *, soft: bool) -> Future[Any]:
        """Queue a submission; blocks while the queue is full.

        `soft`: refuses at the threshold instead. Raises Backpressure, StoreClosed,
        ReentrantCall, and RuntimeError where no thread can be had.
        """
        self._check_entry()
        while True:
            room = self._try_to_put(submission, soft=soft)
            if room is None:
                return submission.future
            passed(room)

    def _try_to_put(self, submission: Submission, *, soft: bool) -> threading.Lock | None:
        """Queue it, or give a gate that opens when it may be tried again."""
        size = len(submission.events)
        with self._mutex:
            if self._stopped:
                raise StoreClosed("the store is closed", advice="open the journal anew")
            if soft and self._queued + size > self._soft_limit and self._queued:
                raise Backpressure(
                    f"{self._queued} events wait in the queue of submit",
                    retry_after=self._queued * self._seconds_each,
                    advice="try again after `retry_after` seconds, or call submit(), which waits",
                )
            # The queue's own thread, in a future's callback, must not wait for itself.
            if self._queued + size > self.capacity and self._queued and not self._worker.is_here:
                room = gate()
                self._full.append(room)
                return room
            # Where no thread can be had, this raises and nothing is queued.
            self._worker.start()
            opened(self._wake)
            # No call before the last one of these, so Ctrl-C can't part them.
            self._queued += size
            self._accepted += 1
            self._mine.last = self._accepted
            self._waiting.append(submission)
        return None

    def _check_entry(self) -> None:
        """Raises ReentrantCall in a thread that is in the middle of what the queue waits for."""
        if owns(self._mutex):
            raise reentered()
        self._check_others()

    def drain_mine(self) -> None:
        """Wait for what this thread has submitted; its outcome is the futures' business.

        Raises ReentrantCall.
        """
        last: int = getattr(self._mine, "last", 0)
        if last > self._settled:
            self._wait_until(last, None)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now is settled; False when the time is over."""
        return self._wait_until(self._accepted, timeout)

    def _wait_until(self, number: int, timeout: float | None) -> bool:
        if self._worker.is_here:
            return True
        self._check_entry()
        with self._mutex:
            if self._settled >= number:
                return True
            settled = gate()
            self._patient.append((number, settled))
        return passed(settled, timeout)

    def refuse(self) -> None:
        """Take no more; whatever waits is left to the thread, which then ends."""
        with self._mutex:
            self._stopped = True
            opened(self._wake)
            self._let_in()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more, let the queue run empty for so long, cancel the rest, end the thread."""
        self.refuse()
        is_empty = self.drain(timeout)
        self._cancelling = True
        if self._worker.is_here:
            # In a callback: what waits is cancelled right after it.
            return
        if not is_empty:
            # Here, since the thread may stand in a sync. What Ctrl-C cuts short it repeats.
            with self._mutex:
                left, none = list(self._waiting), deque[Submission]()
                self._given_up, self._waiting, self._queued = left, none, 0
            for one in left:
                one.future.tell(None, _cancelled())
        self._worker.join()

    def abandon(self, release: Callable[[], None]) -> None:
        """The store is gone: cancel what waits; `release` once no commit is under way.

        For a finalizer, which runs in any thread, may wait for none, and may tell no
        future: collection may strike while its thread holds that future's lock.
        """
        self._cancelling = True
        if self._worker.is_here:
            # It may hold the mutex, and looks at these before it sleeps.
            self._at_end, self._stopped = release, True
            opened(self._wake)
            return
        with self._mutex:
            self._stopped = True
            opened(self._wake)
            is_idle = not self._is_working and not self._waiting
            if not is_idle:
                self._at_end = release
        if is_idle:
            release()

    def _let_in(self) -> None:
        """Holding the mutex: those who wait for room may try again."""
        for room in self._full:
            opened(room)
        self._full = []

    def _settled_up_to(self, number: int) -> None:
        """Those who wait for as much may go on."""
        with self._mutex:
            self._settled = number
            self._is_working = False
            for wanted, settled in self._patient:
                if wanted <= number:
                    opened(settled)
            self._patient = [one for one in self._patient if one[0] > number]

    def _run(self) -> None:
        while self._turn():
            pass
        telling_last(self._end, self._teller)

    def _end(self) -> None:
        for one in self._given_up:
            one.fail(_cancelled())
        # Those that were cancelled at the end count as settled only now, since numbers are
        # settled in their order.
        self._settled_up_to(self._accepted)
        if self._at_end is not None:
            self._at_end()

    def _turn(self) -> bool:
        """Commit what waits, or wait for submissions; False when there will be no more."""
        with self._mutex:
            count = min(_MOST_AT_ONCE, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            self._is_working = bool(taken)
            self._queued -= sum(len(one.events) for one in taken)
            self._let_in()
            is_over = self._stopped and not taken
        if is_over:
            return False
        if not taken:
            self._wake.acquire()
            return True
        # A log handler may wait for what is settled here.
        telling_last(lambda: self._settle_all(taken), self._teller)
        return True

    def _settle_all(self, taken: Sequence[Submission]) -> None:
        ours = [one for one in taken if one.begin()]
        if self._cancelling:
            for one in ours:
                one.fail(_cancelled())
        else:
            self._commit(ours)
        self._settled_up_to(self._settled + len(taken))

    def _commit(self, submissions: Sequence[Submission]) -> None:
        began = time.monotonic()
        try:
            self._work(submissions)
        except BaseException as error:  # noqa: BLE001  # raised again by the futures
            # Such as no memory. Nobody may be left waiting for an answer.
            for one in submissions:
                if not one.future.done():
                    one.fail(error)
        count = sum(len(one.events) for one in submissions)
        if count:
            self._seconds_each = (time.monotonic() - began) / count


def _cancelled() -> Cancelled:
    return Cancelled(
        "the store was closed before this was written",
        advice="append it again; nothing of it was written",
    )
