"""Group commit by itself: who leads, for whom it works, and what a failure leaves behind.

Commit and sync are functions that a test holds, so "while somebody leads" is a state and no
race. Nothing is timed; waits of zero seconds are the only ones.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from batpak.journal.group import GroupCommit, Request
from tests.watched_files import WAIT


class Disk:
    """A log of events and how much of it is durable; a sync can be held and can fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.durable = 0
        self.groups: list[int] = []
        self.syncs = 0
        self.fails: BaseException | None = None
        self.interrupts: BaseException | None = None
        """Raised by the commit once, after its first write: as Ctrl-C would be."""
        self.refused: set[str] = set()
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.group = GroupCommit(self.commit, self.sync_once)

    def commit(self, requests: Sequence[Request]) -> None:
        self.groups.append(len(requests))
        for request in requests:
            if request.is_written or request.error is not None:
                continue
            if self.refused & set(request.events):
                request.error = ValueError(request.events[0])
                continue
            first = len(self.log)
            request.committed = [(first + i,) for i in range(len(request.events))]
            self.log += request.events
            request.written_below(len(self.log))
            if self.interrupts is not None:
                interrupts, self.interrupts = self.interrupts, None
                raise interrupts

    def sync_once(self) -> None:
        written = len(self.log)
        self.syncs += 1
        self.begun.release()
        assert self.go.wait(WAIT), "nobody let the sync pass"
        if self.fails is not None:
            raise self.fails
        self.durable = max(self.durable, written)

    def append(self, *events: str) -> Request:
        request = Request(events)
        assert self.group.run(request) is True
        return request


def until_waiting(disk: Disk, count: int) -> None:
    """Return once so many requests are in the queue."""
    while disk.group.waiting < count:
        os.sched_yield()


def held(disk: Disk, pool: ThreadPoolExecutor, *events: str) -> Future[Request]:
    """A leader in the middle of its sync."""
    disk.go.clear()
    leader = pool.submit(disk.append, *events)
    assert disk.begun.acquire(timeout=WAIT)
    return leader


def is_idle(disk: Disk) -> bool:
    return disk.group.waiting == 0 and disk.group._leader is None


def test_who_comes_alone_writes_and_syncs_at_once() -> None:
    disk = Disk()
    request = disk.append("a", "b")
    assert (disk.log, disk.durable, disk.syncs, disk.groups) == (["a", "b"], 2, 1, [1])
    assert request.is_written
    assert request.error is None
    assert request.bound == 2
    assert is_idle(disk)


def test_one_of_those_who_came_meanwhile_works_for_all_of_them() -> None:
    disk = Disk()
    with ThreadPoolExecutor(8) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.append, name) for name in "abcde"]
        until_waiting(disk, 5)
        assert not any(f.done() for f in (leader, *others))
        assert disk.log == ["first"], "nobody writes while somebody syncs"
        disk.go.set()
        requests = [f.result(WAIT) for f in (leader, *others)]
    assert disk.groups == [1, 5]
    assert (disk.syncs, disk.durable) == (2, 6)
    assert sorted(request.committed[0][0] for request in requests) == list(range(6))
    assert is_idle(disk)


def test_each_request_has_an_outcome_of_its_own() -> None:
    disk = Disk()
    disk.refused = {"bad"}
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        others = {name: pool.submit(disk.append, name) for name in ("good", "bad", "fine")}
        until_waiting(disk, 3)
        disk.go.set()
        assert leader.result(WAIT).error is None
        outcomes = {name: f.result(WAIT) for name, f in others.items()}
    assert isinstance(outcomes["bad"].error, ValueError)
    assert not outcomes["bad"].is_written
    assert outcomes["good"].is_written
    assert outcomes["fine"].is_written
    assert sorted(disk.log) == ["fine", "first", "good"]
    assert disk.durable == 3


def test_a_failed_sync_is_heard_of_by_all_whose_events_it_was_for() -> None:
    disk = Disk()
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.append, name) for name in "ab"]
        until_waiting(disk, 2)
        failure = OSError("the sync failed")
        disk.fails = failure
        disk.go.set()
        for request in [leader.result(WAIT), *(f.result(WAIT) for f in others)]:
            assert request.error is failure
            assert request.is_written
    assert disk.durable == 0
    assert is_idle(disk)


def test_a_wait_whose_time_is_over_leaves_nothing_behind() -> None:
    disk = Disk()
    with ThreadPoolExecutor(2) as pool:
        leader = held(disk, pool, "first")
        late = Request(("late",))
        assert disk.group.run(late, timeout=0) is False
        assert not late.is_written
        assert disk.group.waiting == 0
        waiting = Request((), bound=1)
        assert disk.group.run(waiting, timeout=0) is False
        disk.go.set()
        assert leader.result(WAIT).error is None
    assert disk.log == ["first"]
    assert disk.group.run(Request((), bound=1), timeout=WAIT) is True
    assert is_idle(disk)


@pytest.mark.parametrize("where", ["commit", "sync"])
def test_an_interrupted_leader_leaves_the_lead_and_nobody_asleep(where: str) -> None:
    disk = Disk()
    with ThreadPoolExecutor(4) as pool:
        leader = held(disk, pool, "first")
        others = [pool.submit(disk.append, name) for name in "abc"]
        until_waiting(disk, 3)
        if where == "commit":
            # The next leader: it has written its own events and not yet the others'.
            disk.interrupts = KeyboardInterrupt()
        else:
            disk.fails = KeyboardInterrupt()
        disk.go.set()
        outcomes = [f.exception(WAIT) for f in (leader, *others)]
    if where == "commit":
        assert [type(one) for one in outcomes].count(KeyboardInterrupt) == 1
        assert sorted(disk.log) == ["a", "b", "c", "first"], "each once, whoever wrote it"
        assert disk.durable == 4
    else:
        assert all(isinstance(one, KeyboardInterrupt) for one in outcomes)
        assert len(disk.log) == len(set(disk.log)), "nothing twice"
    assert is_idle(disk)
    disk.fails = None
    disk.append("after")
    assert disk.durable == len(disk.log)


def test_many_threads_lose_and_double_nothing() -> None:
    disk = Disk()

    def append_many(name: str) -> bool:
        for n in range(50):
            request = disk.append(f"{name}{n}")
            assert request.error is None
            assert disk.durable >= request.bound
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(f.result(WAIT) for f in [pool.submit(append_many, c) for c in "abcdefgh"])
    assert sorted(disk.log) == sorted(f"{c}{n}" for c in "abcdefgh" for n in range(50))
    assert disk.durable == 400
    assert disk.syncs <= 400
    assert is_idle(disk)
