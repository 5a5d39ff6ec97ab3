"""Group commit by itself: who writes and syncs for whom, and what a failure leaves behind.

The sync is a function that a test holds, so "while somebody syncs" is a state and no race.
Nothing is timed; waits of zero seconds are the only ones.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from batpak.journal import group
from batpak.journal.group import GroupCommit, Request
from tests.watched_files import WAIT


class Disk:
    """Gives each event a sequence; a sync can be held, and writes and syncs can fail."""

    def __init__(self) -> None:
        self.written = self.durable = self.syncs = 0
        self.rounds: list[int] = []
        """How many requests each call of `commit` was given."""
        self.fails: BaseException | None = None
        self.interrupted_at = 0
        """The number of the sync at which Ctrl-C arrives."""
        self.refuses: set[str] = set()
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.group = GroupCommit(self.commit, self.sync_once)

    def commit(self, requests: Sequence[Request]) -> None:
        self.rounds.append(len(requests))
        for request in requests:
            if request.is_written or request.error is not None:
                continue
            if self.refuses & set(request.events):
                request.error = ValueError("refused")
                continue
            first = self.written
            self.written += len(request.events)
            request.committed = tuple((n,) for n in range(first, self.written))
            request.written_below(self.written)

    def sync_once(self) -> None:
        written = self.written
        self.syncs += 1
        self.begun.release()
        assert self.go.wait(WAIT), "nobody let the sync pass"
        if self.fails is not None:
            raise self.fails
        if self.syncs == self.interrupted_at:
            raise KeyboardInterrupt
        self.durable = max(self.durable, written)

    def run(self, *events: str, bound: int = 0) -> Request:
        request = Request(events, bound, is_written=not events)
        self.group.run(request)
        return request


def until_waiting(disk: Disk, count: int) -> None:
    """Return once so many requests wait beside those that are worked on."""
    until(lambda: disk.group.waiting == count)


def until(is_so: Callable[[], bool]) -> None:
    """Return once it is so; other threads bring it about."""
    for _ in range(10_000_000):
        if is_so():
            return
        threading.Event().wait(0)
    raise AssertionError("it never came about")


def held(disk: Disk, pool: ThreadPoolExecutor, *events: str) -> Future[Request]:
    """A leader in the middle of its sync."""
    disk.go.clear()
    leader = pool.submit(disk.run, *events)
    assert disk.begun.acquire(timeout=WAIT)
    return leader


def idle(disk: Disk) -> bool:
    """Whether nobody leads and nobody waits."""
    return disk.group._leader is None and disk.group.waiting == 0


def test_alone_a_request_is_written_and_synced_at_once() -> None:
    disk = Disk()
    request = disk.run("a", "b")
    assert (request.is_done, request.is_written, request.error) == (True, True, None)
    assert [one[0] for one in request.committed] == [0, 1]
    assert request.bound == 2
    assert (disk.rounds, disk.syncs, disk.durable) == ([1], 1, 2)
    assert idle(disk)


def test_a_request_without_events_waits_for_what_is_written() -> None:
    disk = Disk()
    disk.run("a")
    request = disk.run(bound=1)
    assert request.is_written
    assert request.is_done
    assert request.committed == ()
    assert disk.syncs == 2


def test_what_a_request_says_of_its_events() -> None:
    request = Request(["a", "b"])
    assert not request.is_written
    request.written_below(9)
    assert not request.is_written, "nothing was committed yet"
    request.committed = ((4,), (5,))
    request.written_below(5)
    assert not request.is_written
    request.written_below(6)
    assert request.is_written
    assert request.bound == 6


def test_those_who_come_during_a_sync_share_the_next() -> None:
    disk = Disk()
    with ThreadPoolExecutor(8) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.run, f"{n}a", f"{n}b") for n in range(5)]
        until_waiting(disk, 5)
        assert not any(future.done() for future in (leader, *others))
        disk.go.set()
        assert leader.result(WAIT).bound == 1
        done = [future.result(WAIT) for future in others]
    assert (disk.rounds, disk.syncs, disk.durable) == ([1, 5], 2, 11)
    assert all(request.is_done and request.error is None for request in done)
    numbers = [one[0] for request in done for one in request.committed]
    assert sorted(numbers) == list(range(1, 11))
    assert idle(disk)


def test_a_request_that_is_refused_takes_nobody_with_it() -> None:
    disk = Disk()
    disk.refuses = {"bad"}
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        good = [pool.submit(disk.run, name) for name in ("good", "fine")]
        bad = pool.submit(disk.run, "bad")
        until_waiting(disk, 3)
        disk.go.set()
        assert isinstance(bad.result(WAIT).error, ValueError)
        assert all(future.result(WAIT).error is None for future in (leader, *good))
    assert disk.durable == 3
    assert isinstance(disk.run("bad").error, ValueError)
    assert disk.syncs == 2, "for a refusal alone nothing is synced"
    assert idle(disk)


def test_a_failed_sync_is_told_to_all_that_it_was_for() -> None:
    disk = Disk()
    failure = OSError("the sync failed")
    disk.refuses = {"bad"}
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.run, name) for name in ("a", "b", "bad")]
        until_waiting(disk, 3)
        disk.fails = failure
        disk.go.set()
        assert leader.result(WAIT).error is failure
        a, b, bad = (future.result(WAIT) for future in others)
    assert a.error is b.error is failure
    assert isinstance(bad.error, ValueError), "its own error, not the sync's"
    assert a.is_written
    assert disk.syncs == 2
    assert idle(disk)


def test_a_wait_whose_time_is_over_leaves_the_room() -> None:
    disk = Disk()
    with ThreadPoolExecutor(2) as pool:
        leader = held(disk, pool, "first")
        late = Request(["late"])
        assert disk.group.run(late, timeout=0) is False
        assert not late.is_written
        assert disk.group.waiting == 0
        patient = Request(["patient"])
        other = pool.submit(disk.group.run, patient, WAIT)
        until_waiting(disk, 1)
        disk.go.set()
        assert leader.result(WAIT).is_done
        assert other.result(WAIT) is True
    assert [one[0] for one in patient.committed] == [1]
    assert late.committed == ()
    assert idle(disk)


def test_an_interrupted_leader_leaves_the_work_to_the_next() -> None:
    disk = Disk()
    with ThreadPoolExecutor(3) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.run, name) for name in ("a", "b")]
        until_waiting(disk, 2)
        disk.fails = KeyboardInterrupt()
        disk.go.set()
        assert isinstance(leader.exception(WAIT), KeyboardInterrupt)
        # The first of them led and met the same; the other one's turn came after it.
        assert [type(future.exception(WAIT)) for future in others] == [KeyboardInterrupt] * 2
    assert idle(disk)
    disk.fails = None
    assert disk.run("again").error is None
    assert disk.durable == disk.written == 4


def test_what_an_interrupted_leader_wrote_for_others_is_not_written_again() -> None:
    disk = Disk()
    disk.interrupted_at = 2
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.run, name) for name in ("a", "b", "c")]
        until_waiting(disk, 3)
        disk.go.set()
        assert leader.result(WAIT).is_done
        ends = [future.exception(WAIT) for future in others]
    assert [type(end) for end in ends].count(KeyboardInterrupt) == 1, "it led the second round"
    for future, end in zip(others, ends, strict=True):
        assert end is not None or future.result().error is None
    assert disk.rounds == [1, 3, 2]
    assert disk.written == disk.durable == 4
    assert idle(disk)


class WatchedLock:
    """A lock that tells of each thread that comes for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.wanted.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_whoever_is_woken_to_lead_waits_until_the_lead_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, mutex = Disk(), WatchedLock()
    monkeypatch.setattr(disk.group, "_mutex", mutex)
    wake = Request.wake

    def wake_early(request: Request) -> None:
        while mutex.wanted.acquire(blocking=False):
            pass
        wake(request)
        # Awake before anybody has made it the leader, it must not go to sleep again.
        assert mutex.wanted.acquire(timeout=WAIT), "it does not wait for what is published"

    monkeypatch.setattr(Request, "wake", wake_early)
    with ThreadPoolExecutor(2) as pool:
        leader = held(disk, pool, "first")
        other = pool.submit(disk.run, "a")
        until_waiting(disk, 1)
        disk.go.set()
        assert leader.result(WAIT).is_done
        assert other.result(WAIT).is_done
    assert disk.rounds == [1, 1]
    assert idle(disk)


def test_whoever_completes_the_crowd_ends_the_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = SimpleNamespace(monotonic=itertools.count(0.0, 4 * WAIT).__next__)
    monkeypatch.setattr(group, "time", hurried)
    disk = Disk()
    with ThreadPoolExecutor(3) as pool:
        leader = held(disk, pool, "first")
        two = [pool.submit(disk.run, name) for name in ("a", "b")]
        until_waiting(disk, 2)
        disk.go.set()
        for future in (leader, *two):
            future.result(WAIT)
        # That round took very long, as clocks go: the next one may wait for the other thread.
        third = pool.submit(disk.run, "c")
        until(lambda: disk.group._gathering is not None)
        fourth = pool.submit(disk.run, "d")
        assert third.result(WAIT).is_done
        assert fourth.result(WAIT).is_done
    assert disk.rounds == [1, 2, 2]
    assert idle(disk)


@pytest.mark.parametrize("count", [2, 8])
def test_many_threads_get_every_event_through_once(count: int) -> None:
    disk = Disk()

    def work(thread: int) -> list[int]:
        numbers: list[int] = []
        for n in range(40):
            request = disk.run(f"{thread}:{n}")
            assert request.error is None
            numbers.append(request.committed[0][0])
            assert disk.durable > numbers[-1]
        assert numbers == sorted(numbers)
        return numbers

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, thread) for thread in range(count)]
        every = [n for future in futures for n in future.result(WAIT)]
    assert sorted(every) == list(range(40 * count))
    assert disk.syncs <= 40 * count
    assert idle(disk)
