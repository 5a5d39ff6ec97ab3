"""Lives that take a journal elsewhere: snapshot, restore, fork, import, while it is written.

What each of them promises beyond its events is a claim; see claims.py.
"""

from __future__ import annotations

import random
from typing import Any, Final, Literal

from batpak import Durability, Region, Store
from tests.crash.power_cuts.claims import Copied, Gone, Imported
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles
from tests.crash.power_cuts.recording import Machine, begin, resumed
from tests.support.checker import number_of
from tests.support.faulty_files import Killed

__all__ = ["WORKLOADS"]

SNAPSHOT: Final = "/in/a/snapshot"
MADE: Final = "/in/b/made"
SOURCE: Final = "/in/a/source"
NEVER: Final = 1 << 60
"""No life has so many changes."""


def grown(draw: random.Random, **options: Any) -> Machine:
    """A machine whose disk has a journal of some sealed segments with sidecars."""
    first = begin(draw, segment_max_bytes=4096, **options)
    first.open()
    for _ in range(3):
        first.write(first.item("player:0", padding=1800), first.item("game"))
    first.close()
    disk = Disk(first.disk.state())
    MemoryFiles(disk).mkdir("/in/b")
    machine = resumed(draw, disk.state(), segment_max_bytes=4096, **options)
    machine.ledger.numbers = first.ledger.numbers
    return machine


class Meanwhile:
    """Appends to the journal while a copy of it is made: whoever copies says how far it is."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._left = machine.draw.choice((0, 1, 3))

    def __call__(self, done: int, total: int) -> None:
        if self._left:
            self._left -= 1
            self._machine.commit(padding=self._machine.draw.choice((30, 1500)))


def snapshot(draw: random.Random) -> Machine:
    """Two snapshots while events are written; then what one of them shares is compacted."""
    machine = grown(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    machine.commit()
    machine.store.snapshot(SNAPSHOT, progress=Meanwhile(machine))
    machine.claim(Copied("snapshot", SNAPSHOT))
    machine.commit(padding=1800)
    if draw.random() < 0.5:
        chosen = list(machine.store.query(Region("player:0")))
        numbers: list[int] = [number_of(event)[1] for event in chosen]
        machine.erase([event.sequence for event in chosen])
        machine.compact()
        # In the journal; a snapshot keeps its own.
        machine.claim(Gone(numbers))
    machine.store.snapshot(MADE, progress=Meanwhile(machine))
    machine.claim(Copied("snapshot", MADE))
    machine.commit(padding=30)
    return machine


def fork(draw: random.Random) -> Machine:
    """A fork while events are written."""
    machine = grown(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    machine.open()
    machine.commit()
    machine.store.fork(MADE, progress=Meanwhile(machine))
    machine.claim(Copied("fork", MADE))
    machine.commit(padding=draw.choice((30, 1800)))
    return machine


def restored(draw: random.Random) -> Machine:
    """A snapshot becomes a journal, new or resumed, while the old one is written to."""
    first = grown(draw)
    first.open()
    first.store.snapshot(SNAPSHOT)
    first.close()
    machine = resumed(draw, first.disk.state(), segment_max_bytes=4096)
    machine.ledger.numbers = first.ledger.numbers
    machine.open()
    kind: Literal["restore", "resume"] = draw.choice(("restore", "resume"))
    meanwhile = Meanwhile(machine)
    resume = kind == "resume"
    Store.restore(SNAPSHOT, MADE, files=machine.files, resume=resume, progress=meanwhile)
    machine.claim(Copied(kind, MADE, SNAPSHOT))
    machine.commit(padding=30)
    return machine


def imports(draw: random.Random) -> Machine:
    """Another journal's events are brought in, commit by commit, between appends."""
    other = Machine(draw, path=SOURCE)
    other.ledger.numbers = 1000
    other.open()
    for _ in range(draw.choice((4, 9))):
        other.write(other.item(padding=draw.choice((30, 900))))
    other.close()
    mode = draw.choice((Durability.SYNC, Durability.OS))
    options = {"durability": mode, "segment_max_bytes": 4096, "batch_max_events": 3}
    first = Machine(draw, other.disk.state(), **options)
    first.open()
    first.commit(padding=100)
    first.close()
    machine = resumed(draw, first.disk.state(), **options)
    machine.open()
    machine.commit()
    with Store.open(SOURCE, mode="r", files=machine.files) as reader:
        report = machine.store.import_events(reader)
        assert report.imported > 3, report
        machine.note()
        if mode is Durability.OS:
            machine.sync()
        machine.claim(Imported(SOURCE))
        machine.commit()
        assert machine.store.import_events(reader).imported == 0
    if draw.random() < 0.5:
        machine.close()
    return machine


def killed_in_copying(draw: random.Random) -> Machine:
    """A process dies anywhere in a snapshot or a fork; the next one makes it."""
    machine = grown(draw)
    machine.open()
    kind: Literal["snapshot", "fork"] = draw.choice(("snapshot", "fork"))
    place = len(machine.disk.log) + draw.randrange(40)
    machine.files.stop_before = lambda _: len(machine.disk.log) >= place
    try:
        copy(machine, kind, MADE)
    except Killed:
        pass
    machine.die()
    machine.open()
    machine.commit(padding=30)
    if not machine.disk.state().find(MADE):
        copy(machine, kind, MADE)
        machine.claim(Copied(kind, MADE))
        machine.commit(padding=30)
    else:
        # Nobody was told of it, so nobody was promised anything.
        machine.claims.append((NEVER, Copied(kind, MADE)))
    return machine


def copy(machine: Machine, kind: Literal["snapshot", "fork"], path: str) -> None:
    """Make one of the two."""
    if kind == "snapshot":
        machine.store.snapshot(path)
    else:
        machine.store.fork(path)


WORKLOADS: Final = (snapshot, fork, restored, imports, killed_in_copying)
