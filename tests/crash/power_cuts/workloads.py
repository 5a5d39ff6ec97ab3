"""Lives of a journal, recorded change by change, for the power to be cut in.

Each workload is one life. Those here are about the log itself; lives that use more of
the library stand in the files whose names begin with `workloads_`. Workloads say what
happens; what a cut may leave, and what has to be there then, is said elsewhere.

All that is random is drawn from the generator that a workload is given: the same seed
gives the same changes, but for the bytes of ids, salts and times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from batpak import Durability
from batpak.config import Every
from batpak.errors import Indeterminate
from tests.crash.power_cuts import workloads_keeping, workloads_proof, workloads_writing
from tests.crash.power_cuts.memory_files import Change, Disk, MemoryFiles
from tests.crash.power_cuts.recording import (
    CURSOR,
    ENTITIES,
    JOURNAL,
    Machine,
    Recording,
    begin,
    resumed,
    segments_of,
    torn,
)
from tests.support.faulty_files import Killed

__all__ = ["HEAVY", "WORKLOADS", "record"]

BACKUP: Final = "/backup"


def creation(draw: random.Random) -> Machine:
    """A journal comes to be, in directories that come to be with it."""
    machine = Machine(draw)
    machine.open()
    machine.commit()
    machine.commit()
    machine.close()
    return machine


def singles(draw: random.Random) -> Machine:
    """Single appends, each waiting for the disk; closed and opened in between."""
    machine = begin(draw)
    machine.open()
    for _ in range(4):
        machine.commit()
    machine.close()
    machine.open()
    machine.commit()
    return machine


def singles_unsynced(draw: random.Random) -> Machine:
    """Single appends that wait for nothing, with a sync, or one that asks for more, between."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    for _ in range(9):
        kind = draw.random()
        if kind < 0.15:
            machine.sync()
        machine.commit(durable=kind > 0.9)
    if draw.random() < 0.5:
        machine.close()
    return machine


def singles_in_intervals(draw: random.Random) -> Machine:
    """Single appends of which each third one syncs."""
    every: Every = Durability.EVERY(ms=3_600_000, events=3)
    machine = begin(draw, durability=every)
    machine.open()
    for _ in range(8):
        machine.commit()
    if draw.random() < 0.5:
        machine.close()
    return machine


def batches(draw: random.Random) -> Machine:
    """Commits of many events, over several pages each."""
    machine = begin(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    for _ in range(3):
        names = [draw.choice(ENTITIES) for _ in range(draw.choice((2, 5, 9)))]
        machine.commit(*names, padding=draw.choice((0, 300, 1500)))
        if draw.random() < 0.3:
            machine.commit()
    machine.close()
    return machine


def rotation(draw: random.Random) -> Machine:
    """Segments fill up and sidecars are written, while each append waits for the disk."""
    machine = begin(draw, segment_max_bytes=4096)
    machine.open()
    for _ in range(7):
        machine.commit(padding=draw.choice((300, 1500, 2500)))
    machine.close()
    return machine


def rotation_unsynced(draw: random.Random) -> Machine:
    """The same where appends wait for nothing, singles and batches."""
    machine = begin(draw, segment_max_bytes=4096, durability=Durability.OS)
    machine.open()
    for _ in range(6):
        names = [draw.choice(ENTITIES) for _ in range(draw.choice((1, 1, 4)))]
        machine.commit(*names, padding=draw.choice((300, 900, 2500)))
    if draw.random() < 0.5:
        machine.close()
    return machine


def sidecar_at_close(draw: random.Random) -> Machine:
    """A segment with so many events that closing writes a sidecar for it, then more events."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    machine.commit(*["player:0", "player:1"] * 512, padding=0)
    machine.close()
    machine.open()
    machine.commit()
    machine.close()
    return machine


def quarantine(draw: random.Random) -> Machine:
    """Recovery itself: a torn tail is set aside, then cut, then the journal goes on."""
    state, options = torn(draw)
    machine = resumed(draw, state, **options)
    machine.open()
    machine.commit()
    machine.close()
    return machine


def quarantine_in_small_segments(draw: random.Random) -> Machine:
    """The same where the next append begins a new segment."""
    state, options = torn(draw)
    machine = resumed(draw, state, **options, segment_max_bytes=4096)
    machine.open()
    machine.commit(padding=2500)
    machine.commit(padding=2500)
    machine.commit()
    return machine


def hard_links(draw: random.Random) -> Machine:
    """The newest segment, the hint and the lock have second names, as snapshots make them."""
    if draw.random() < 0.5:
        state, options = torn(draw)
    else:
        state, options = begin(draw).disk.start, {}
    linked = Disk(state)
    files = MemoryFiles(linked)
    files.mkdir(BACKUP)
    newest = max(segments_of(state))
    for name in (f"segments/{newest}", "tail.hint", "journal.lock"):
        linked.link(f"{JOURNAL}/{name}", f"{BACKUP}/{os.path.basename(name)}")
    machine = resumed(draw, linked.state(), **options)
    kept = machine.disk.start
    for name in (newest, "tail.hint", "journal.lock"):
        data = kept.read(f"{BACKUP}/{name}")
        assert data is not None
        machine.kept[f"{BACKUP}/{name}"] = data
    machine.open()
    machine.commit()
    machine.close()
    return machine


def cursors(draw: random.Random) -> Machine:
    """A consumer's small file is replaced again and again beside the appends."""
    first = begin(draw)
    folder = Disk(first.disk.start)
    MemoryFiles(folder).mkdir(os.path.dirname(CURSOR))
    machine = resumed(draw, folder.state())
    machine.open()
    for _ in range(4):
        machine.commit(padding=30)
        machine.save_cursor()
    machine.close()
    return machine


def sync_meets_append(draw: random.Random) -> Machine:
    """Events are appended while a sync is under way: that sync does not cover them."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()

    def append_once(path: str) -> None:
        if path.endswith(".seg"):
            machine.files.after_sync = None
            machine.ledger.commit(machine.store, "player:0", padding=padding)

    for _ in range(3):
        padding = draw.choice((30, 900, 4000))
        machine.commit()
        machine.files.after_sync = append_once
        machine.sync()
        if draw.random() < 0.5:
            machine.commit()
    return machine


def threads(draw: random.Random) -> Machine:
    """A second thread comes while the first one's sync is under way, and leads the next group."""
    machine = begin(draw)
    machine.open()

    def look(change: Change) -> bool:
        if change.name == "sync" and change.path.endswith(".seg"):
            # What a reader sees between a write and its sync must be there for ever, too.
            machine.note()
        return False

    machine.files.stop_before = look
    with ThreadPoolExecutor(1) as other:
        for _ in range(3):
            started: list[Future[None]] = []

            def meanwhile(path: str, started: list[Future[None]] = started) -> None:
                if not path.endswith(".seg"):
                    return
                machine.files.after_sync = None
                started.append(other.submit(machine.commit, "game", padding=900))
                # Until the other waits for the lead, which it gets after this sync.
                while not machine.store.pressure().waiting and not started[0].done():
                    wait(started, timeout=0.0005)

            machine.files.after_sync = meanwhile
            machine.commit("player:0")
            started[0].result()
    machine.close()
    return machine


def killed_in_rotation(draw: random.Random) -> Machine:
    """A process dies when the new segment has its name and the directory is not synced.

    The next process appends to that segment, and the power goes.
    """
    machine = begin(draw, segment_max_bytes=4096)
    machine.open()
    machine.files.stop_before = lambda change: change.name == "sync-directory"
    try:
        while True:
            machine.commit(padding=2500)
    except Killed:
        machine.die()
    machine.open()
    machine.commit(padding=30)
    machine.commit(padding=30)
    return machine


def killed_anywhere(draw: random.Random) -> Machine:
    """A process dies anywhere in a life from its beginning; the next one goes on."""
    machine = Machine(draw, segment_max_bytes=4096)
    place = draw.randrange(2, 90)
    machine.stop_before = lambda _: len(machine.disk.log) == place
    try:
        machine.open()
        for _ in range(5):
            machine.commit(padding=draw.choice((30, 1500)))
        machine.close()
    except Killed:
        pass
    machine.die()
    machine.open()
    machine.commit()
    machine.commit()
    return machine


def failed_sync(draw: random.Random) -> Machine:
    """A sync fails, so the page cache shows what the disk may lack; the next process goes on."""
    machine = begin(draw, durability=Durability.OS)
    machine.open()
    for _ in range(draw.choice((1, 3))):
        machine.commit()
    machine.files.fail_sync = ".seg"
    try:
        machine.ledger.commit(machine.store, "game", padding=900, durable=True)
    except Indeterminate:
        pass
    else:
        raise AssertionError("a failed sync was not reported")
    machine.die()
    machine.open(durability=Durability.SYNC)
    machine.commit(padding=30)
    return machine


Workload = Callable[[random.Random], Machine]

WORKLOADS: dict[str, Workload] = {
    workload.__name__.replace("_", "-"): workload
    for workload in (
        creation, singles, singles_unsynced, singles_in_intervals, batches, rotation,
        rotation_unsynced, sidecar_at_close, quarantine, quarantine_in_small_segments,
        hard_links, cursors, sync_meets_append, threads, killed_in_rotation,
        killed_anywhere, failed_sync, *workloads_writing.WORKLOADS, *workloads_proof.WORKLOADS,
        *workloads_keeping.WORKLOADS,
    )
}  # fmt: skip
HEAVY: Final = {
    "sidecar-at-close": 40, "key-table": 20, "full-tiles": 40, "snapshot": 70, "fork": 70,
    "restored": 70, "killed-in-copying": 70, "checkpoints": 70, "killed-in-checkpoint": 100,
    "keyed": 120, "fences": 120, "conditions": 120, "imports": 120,
}  # fmt: skip
"""Workloads whose states take longer, and how many of them one recording is good for."""


def record(workload: str, draw: random.Random) -> Recording:
    """Live through one workload."""
    return WORKLOADS[workload](draw).recording(workload)
