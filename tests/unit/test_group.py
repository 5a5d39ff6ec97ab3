"""Group commit by itself: who works for whom, who is woken, and what a failure leaves behind.

Commit and sync are functions that a test holds, so "while somebody syncs" is a state and
no race. Nothing is timed; the only wait with a bound is one of zero seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from batpak.journal.group import GroupCommit, Request
from tests.watched_files import WAIT


class Disk:
    """Commits into a list, and syncs that can be held and can fail."""

    def __init__(self) -> None:
        self.written: list[object] = []
        self.durable = 0
        self.rounds: list[int] = []
        """How many requests each commit was given."""
        self.fails: BaseException | None = None
        self.refuses: dict[object, Exception] = {}
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.group = GroupCommit(self.commit, self.sync_once)

    def commit(self, requests: Sequence[Request]) -> None:
        self.rounds.append(len(requests))
        for one in requests:
            if one.is_written or one.error is not None:
                continue
            [event] = one.events
            if event in self.refuses:
                one.error = self.refuses[event]
                continue
            one.committed = [(len(self.written),)]
            self.written.append(event)
            one.written_below(len(self.written))

    def sync_once(self) -> None:
        written = len(self.written)
        self.begun.release()
        assert self.go.wait(WAIT), "nobody let the sync pass"
        if self.fails is not None:
            raise self.fails
        self.durable = written


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def pool(disk: Disk) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as threads:
        yield threads
        # Whatever a test asserted: nobody may be left in the room.
        disk.go.set()


def run(disk: Disk, event: object, timeout: float | None = None) -> Request:
    request = Request([event])
    disk.group.run(request, timeout)
    return request


def until_waiting(disk: Disk, count: int) -> None:
    """Return once so many requests are in the queue."""
    for _ in range(10_000_000):
        if disk.group.waiting == count:
            return
        threading.Event().wait(0)
    raise AssertionError("the threads never came to wait")


def held(disk: Disk, pool: ThreadPoolExecutor, event: object = "first") -> Future[Request]:
    """A leader in the middle of its sync."""
    disk.go.clear()
    leader = pool.submit(run, disk, event)
    assert disk.begun.acquire(timeout=WAIT)
    return leader


def test_who_comes_alone_works_for_itself(disk: Disk) -> None:
    request = run(disk, "a")
    assert (request.is_done, request.is_written, request.bound) == (True, True, 1)
    assert (disk.written, disk.durable, disk.rounds) == (["a"], 1, [1])


def test_one_round_serves_all_who_came_during_the_last(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    leader = held(disk, pool)
    others = [pool.submit(run, disk, n) for n in range(6)]
    until_waiting(disk, 6)
    assert not any(future.done() for future in (leader, *others))
    disk.go.set()
    assert all(future.result(WAIT).is_done for future in (leader, *others))
    assert disk.rounds == [1, 6]
    assert disk.durable == 7
    assert sorted(disk.written[1:]) == list(range(6))
    assert disk.group.waiting == 0


def test_a_request_without_events_waits_for_the_sync_and_writes_nothing(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    leader = held(disk, pool)
    bare = Request((), 1)
    waiting = pool.submit(disk.group.run, bare)
    until_waiting(disk, 1)
    disk.go.set()
    assert waiting.result(WAIT) is True
    assert leader.result(WAIT).is_done
    assert disk.written == ["first"]


def test_what_is_refused_to_one_is_not_refused_to_others(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    disk.refuses["bad"] = ValueError("bad")
    leader = held(disk, pool)
    bad, good = pool.submit(run, disk, "bad"), pool.submit(run, disk, "good")
    until_waiting(disk, 2)
    disk.go.set()
    assert bad.result(WAIT).error is disk.refuses["bad"]
    assert bad.result(WAIT).is_written is False
    assert good.result(WAIT).error is None
    assert leader.result(WAIT).error is None
    assert disk.written == ["first", "good"]


def test_a_failed_sync_is_told_to_each_whose_events_it_was_to_cover(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    leader = held(disk, pool)
    others = [pool.submit(run, disk, n) for n in range(3)]
    until_waiting(disk, 3)
    disk.fails = OSError("the disk is gone")
    disk.go.set()
    for future in (leader, *others):
        request = future.result(WAIT)
        assert (request.error, request.is_written) == (disk.fails, True)
    assert disk.rounds == [1, 3], "nobody tries again"


def test_a_wait_whose_time_is_over_leaves_the_room(disk: Disk, pool: ThreadPoolExecutor) -> None:
    leader = held(disk, pool)
    request = run(disk, "late", timeout=0.0)
    assert (request.is_done, request.is_written) == (False, False)
    assert disk.group.waiting == 0
    disk.go.set()
    assert leader.result(WAIT).is_done
    assert disk.written == ["first"], "nobody writes for who has gone"


class Gone(BaseException):
    """Stands for Ctrl-C."""


def test_an_interrupted_leader_leaves_the_lead_and_what_is_written_stays(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    first = held(disk, pool)
    others = [pool.submit(run, disk, n) for n in range(3)]
    until_waiting(disk, 3)
    disk.fails = Gone()
    disk.go.set()
    # Each of them led in turn, and met the same; what the first had written for the
    # others was not written again.
    assert all(isinstance(f.exception(WAIT), Gone) for f in (first, *others))
    assert sorted(disk.written[1:]) == [0, 1, 2]
    disk.fails = None
    assert run(disk, "next").is_done
    assert disk.durable == 5


def test_who_left_while_a_leader_worked_for_it_is_never_appointed(
    disk: Disk, pool: ThreadPoolExecutor
) -> None:
    """A leader takes a request along, its thread gives up, the leader is interrupted."""
    first = held(disk, pool)
    leader = pool.submit(run, disk, "leader")
    until_waiting(disk, 1)
    impatient = Request(["impatient"])
    leaving = pool.submit(disk.group.run, impatient, 0.05)
    until_waiting(disk, 2)
    disk.go.set()
    assert first.result(WAIT).is_done
    disk.go.clear()
    # The second round begins at once; hold it, if it is not over already.
    assert disk.begun.acquire(timeout=WAIT)
    leaving.result(WAIT)
    disk.fails = Gone()
    disk.go.set()
    leader.exception(WAIT)
    disk.fails = None
    assert run(disk, "next").is_done, "the lead went to somebody who is there"


def test_threads_that_come_and_come_again_are_all_served(disk: Disk) -> None:
    def appends() -> None:
        for _ in range(50):
            request = run(disk, object())
            assert request.is_done
            assert disk.durable >= request.bound

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(appends) for _ in range(8)]:
            future.result(WAIT)
    assert len(disk.written) == disk.durable == 400
    assert len(disk.rounds) <= 400
    assert disk.group.waiting == 0
