"""Lives that write in every other way: keys, fences, outboxes, the queue, conditions.

What each of them promises beyond its events is a claim; see claims.py.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from typing import Any, Final

from batpak import Durability, Expect, Item, Region, Unless
from batpak.errors import ConditionFailed, ExpectationFailed
from tests.crash.power_cuts.claims import Conditional, Keyed
from tests.crash.power_cuts.memory_files import Change, Disk, MemoryFiles
from tests.crash.power_cuts.recording import ENTITIES, JOURNAL, Machine, begin, resumed
from tests.support.checker import KIND

__all__ = ["WORKLOADS"]

KEYS: Final = 1100
"""More foreign ids than a key table may leave out."""


def key(draw: random.Random) -> bytes:
    """A key of no pattern, which is not zero."""
    return b"\x01" + draw.randbytes(15)


def keyed(draw: random.Random) -> Machine:
    """Appends and batches under keys, retried in the same process and in the next."""
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode, segment_max_bytes=4096)
    machine.open()
    commits: list[list[Item]] = []

    def retry() -> None:
        for items in draw.sample(commits, min(2, len(commits))):
            before = len(machine.store)
            receipts = machine.store.append_many(items)
            assert len(machine.store) == before, "a retry was written"
            assert receipts[0].event_id.bytes == items[0].key
            machine.note(receipts)

    for round_ in range(6):
        count = draw.choice((1, 1, 3))
        padding = draw.choice((30, 900))
        commits.append([machine.item(padding=padding, key=key(draw)) for _ in range(count)])
        machine.write(*commits[-1])
        if draw.random() < 0.4:
            retry()
        if draw.random() < 0.3:
            machine.commit(padding=300)
        if round_ == 3:
            machine.close()
            machine.open()
    if draw.random() < 0.5:
        machine.close()
    machine.claim(Keyed(commits))
    return machine


def key_table(draw: random.Random) -> Machine:
    """More keys than are kept in memory alone: the table is written at a rotation or a close.

    The next process believes it, and asks it about keys that are there and that are not.
    """
    first = Machine(draw, durability=Durability.OS)
    first.open()
    old = [first.item("player:0", padding=0, key=key(draw)) for _ in range(KEYS)]
    first.write(*old)
    first.close()
    disk = Disk(first.disk.state())
    # Disposable: with it, nothing would be written before there are as many keys again.
    MemoryFiles(disk).unlink(f"{JOURNAL}/index/keys.tbl")
    machine = resumed(draw, disk.state(), segment_max_bytes=draw.choice((4096, 1 << 20)))
    machine.open()
    commits = [[item] for item in draw.sample(old, 24)]
    for _ in range(2):
        commits.append([machine.item(key=key(draw))])
        machine.write(*commits[-1])
    machine.close()
    assert machine.disk.state().read(f"{JOURNAL}/index/keys.tbl"), "no table was written"
    machine.open()
    machine.note([machine.store.append_many(commits[0])[0]])
    commits.append([machine.item(key=key(draw))])
    machine.write(*commits[-1])
    machine.claim(Keyed(commits))
    return machine


def fences(draw: random.Random) -> Machine:
    """Commits that are put together while others write; some are given up."""
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode, segment_max_bytes=draw.choice((4096, 1 << 20)))
    machine.open()
    commits: list[list[Item]] = []
    for round_ in range(4):
        items = [
            machine.item(padding=draw.choice((30, 900, 1800)), key=key(draw))
            for _ in range(draw.choice((2, 3, 5)))
        ]
        given_up = draw.random() < 0.25
        with machine.store.fence() as fence:
            tickets: list[Future[Any]] = []
            for item in items:
                tickets.append(fence.append(item.coordinate, item.payload, kind=KIND, key=item.key))
            if round_ % 2:
                machine.commit(padding=30)
            if given_up:
                fence.cancel()
        if not given_up:
            machine.wrote(items, fence.receipts)
            assert [ticket.result() for ticket in tickets] == list(fence.receipts)
            commits.append(items)
    if draw.random() < 0.5:
        machine.close()
    machine.claim(Keyed(commits))
    return machine


def outboxes(draw: random.Random) -> Machine:
    """Staged events, written by one flush; what is never flushed is never written."""
    machine = begin(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    for _ in range(3):
        outbox, lost = machine.store.outbox(), machine.store.outbox()
        items = [machine.item(padding=draw.choice((30, 1800))) for _ in range(draw.choice((2, 4)))]
        for item in items:
            outbox.stage(item.coordinate, item.payload, kind=KIND)
            lost.stage(item.coordinate, "never flushed", kind=KIND)
        if draw.random() < 0.5:
            machine.commit(padding=30)
        machine.wrote(items, outbox.flush())
    if draw.random() < 0.5:
        machine.close()
    return machine


def queue(draw: random.Random) -> Machine:
    """Submissions, single and of many, of which the last are written by the close.

    The queue's thread is held at its first write until all are queued, so what is written
    together does not depend on the scheduler.
    """
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode, segment_max_bytes=draw.choice((4096, 1 << 20)))
    machine.open()
    here, reached, go_on = threading.get_ident(), threading.Event(), threading.Event()

    def hold(_: Change) -> bool:
        if threading.get_ident() != here and not go_on.is_set():
            reached.set()
            go_on.wait(60)
        return False

    machine.files.stop_before = hold
    futures: list[Future[Any]] = []
    problems: list[BaseException] = []

    def submit(*items: Item) -> None:
        def settled(future: Future[Any]) -> None:
            # In the queue's thread, before it changes the disk again; it swallows errors.
            try:
                result = future.result()
                machine.wrote(items, result if isinstance(result, tuple) else (result,))
            except BaseException as error:  # noqa: BLE001  # raised below, in the main thread
                problems.append(error)

        store, [item, *more] = machine.store, items
        if more:
            future: Future[Any] = store.submit_many(items)
        else:
            future = store.submit(item.coordinate, item.payload, kind=KIND)
        future.add_done_callback(settled)
        futures.append(future)

    submit(machine.item())
    assert reached.wait(60), "the queue's thread does not write"
    for _ in range(6):
        count = draw.choice((1, 1, 3))
        submit(*[machine.item(padding=draw.choice((30, 900))) for _ in range(count)])
    go_on.set()
    machine.close()
    assert all(future.done() for future in futures)
    assert not problems, problems[0]
    return machine


def conditions(draw: random.Random) -> Machine:
    """Appends that expect a clock, or that nobody came in between; some are refused."""
    machine = begin(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    for _ in range(7):
        item = machine.item(draw.choice(ENTITIES[:3]), padding=draw.choice((30, 1800)))
        entity = item.coordinate.entity
        seen = len(machine.store) - 1
        is_right = draw.random() < 0.7
        try:
            if draw.random() < 0.5:
                latest = machine.store.latest(entity)
                clock = -1 if latest is None else latest.clock
                expect = Expect.EMPTY if clock < 0 else clock
                wrong = 0 if clock < 0 else Expect.EMPTY
                receipt = machine.store.append(
                    item.coordinate, item.payload, kind=KIND, expect=expect if is_right else wrong
                )
            else:
                after = seen if is_right else None
                receipt = machine.store.append(
                    item.coordinate, item.payload, kind=KIND,
                    unless=Unless(Region.all(), after=after),
                )  # fmt: skip
        except (ConditionFailed, ExpectationFailed):
            assert not is_right, "a condition that holds was refused"
            continue
        assert is_right, "a condition that does not hold was taken for fulfilled"
        machine.wrote([item], [receipt])
    if draw.random() < 0.5:
        machine.close()
    machine.claim(Conditional())
    return machine


WORKLOADS: Final = (keyed, key_table, fences, outboxes, queue, conditions)
