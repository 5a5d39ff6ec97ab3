"""Group commit by itself: who syncs, who is woken, and what a failure leaves behind.

The sync is a function that a test holds, so "while somebody syncs" is a state and no race.
Nothing is timed; waits of zero seconds are the only ones.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from batpak.journal.group import GroupCommit
from tests.watched_files import WAIT


class Disk:
    """What is written and what is durable; a sync can be held and can fail."""

    def __init__(self, written: int = 0) -> None:
        self.written = written
        self.durable = 0
        self.syncs = 0
        self.checks = 0
        self.fails: BaseException | None = None
        self.over: Exception | None = None
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.group = GroupCommit(self.sync_once, lambda: self.durable, self.check)

    def sync_once(self) -> None:
        written = self.written
        self.syncs += 1
        self.begun.release()
        assert self.go.wait(WAIT), "nobody let the sync pass"
        if self.fails is not None:
            raise self.fails
        self.durable = max(self.durable, written)

    def check(self) -> None:
        self.checks += 1
        if self.over is not None:
            raise self.over


def until_waiting(disk: Disk, count: int) -> None:
    """Return once so many threads wait for the sync under way."""
    for _ in range(10_000_000):
        if len(disk.group._waiters) == count:
            return
        threading.Event().wait(0)
    raise AssertionError("the threads never came to wait")


def held(disk: Disk, pool: ThreadPoolExecutor, bound: int) -> Future[bool]:
    """A leader in the middle of its sync."""
    disk.go.clear()
    leader = pool.submit(disk.group.wait, bound)
    assert disk.begun.acquire(timeout=WAIT)
    return leader


def test_what_is_durable_already_asks_nobody() -> None:
    disk = Disk(5)
    disk.durable = 3
    assert disk.group.wait(3) is True
    assert (disk.syncs, disk.checks) == (0, 0)
    assert disk.group.wait(4) is True
    assert (disk.syncs, disk.durable) == (1, 5)


def test_one_sync_serves_all_that_it_covers_and_one_of_the_others_leads_next() -> None:
    disk = Disk(3)
    with ThreadPoolExecutor(8) as pool:
        leader = held(disk, pool, 1)
        covered = [pool.submit(disk.group.wait, bound) for bound in (1, 2, 3)]
        beyond = [pool.submit(disk.group.wait, bound) for bound in (4, 5, 5)]
        until_waiting(disk, 6)
        disk.written = 5
        assert not any(f.done() for f in (leader, *covered, *beyond))
        disk.go.set()
        assert all(f.result(WAIT) is True for f in (leader, *covered, *beyond))
    assert (disk.syncs, disk.durable) == (2, 5)
    assert disk.group._waiters == []
    assert disk.group._leader is None


def test_a_wait_whose_time_is_over_says_whether_it_came_true() -> None:
    disk = Disk(2)
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, 2)
        assert disk.group.wait(2, timeout=0) is False
        assert disk.group._waiters == [], "it does not stay in the room"
        other = pool.submit(disk.group.wait, 3)
        until_waiting(disk, 1)
        disk.written = 3
        disk.go.set()
        assert leader.result(WAIT) is True
        assert other.result(WAIT) is True
    assert disk.group.wait(3, timeout=0) is True
    assert disk.syncs == 2


def test_a_wait_with_time_left_is_served() -> None:
    disk = Disk(1)
    with ThreadPoolExecutor(2) as pool:
        leader = held(disk, pool, 1)
        waiting = pool.submit(disk.group.wait, 1, WAIT)
        until_waiting(disk, 1)
        disk.go.set()
        assert waiting.result(WAIT) is True
        assert leader.result(WAIT) is True
    assert disk.syncs == 1


def test_an_error_reaches_the_leader_and_the_others_hear_of_it_themselves() -> None:
    disk = Disk(3)
    failure, poison = OSError("the sync failed"), RuntimeError("poisoned")
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, 1)
        others = [pool.submit(disk.group.wait, 2) for _ in range(3)]
        until_waiting(disk, 3)
        disk.fails, disk.over = failure, poison
        disk.go.set()
        assert leader.exception(WAIT) is failure
        assert [f.exception(WAIT) for f in others] == [poison] * 3
    assert disk.syncs == 1, "nobody tries again"
    assert disk.group._leader is None
    with pytest.raises(RuntimeError, match="poisoned"):
        disk.group.wait(2)


def test_an_interrupted_leader_leaves_the_lead_to_the_next() -> None:
    disk = Disk(2)
    with ThreadPoolExecutor(2) as pool:
        leader = held(disk, pool, 1)
        other = pool.submit(disk.group.wait, 2)
        until_waiting(disk, 1)
        disk.fails = KeyboardInterrupt()
        disk.go.set()
        assert isinstance(leader.exception(WAIT), KeyboardInterrupt)
        assert isinstance(other.exception(WAIT), KeyboardInterrupt), "it led, and met the same"
    disk.fails = None
    assert disk.group.wait(2) is True
    assert disk.syncs == 3


def test_nobody_waits_for_what_nobody_syncs() -> None:
    """Threads that all want something else, on syncs that cover a little each."""
    disk = Disk()
    lock = threading.Lock()

    def append_and_wait() -> bool:
        for _ in range(50):
            with lock:
                disk.written += 1
                bound = disk.written
            assert disk.group.wait(bound) is True
            assert disk.durable >= bound
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(f.result(WAIT) for f in [pool.submit(append_and_wait) for _ in range(8)])
    assert disk.durable == 400
    assert disk.syncs <= 400
    assert disk.group._waiters == []
