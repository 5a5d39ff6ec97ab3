"""Power cuts in an encrypted append, a shredding, and the open that repeats it.

Journal and keyring stand on one disk in memory. At each change, what the disk may hold by
then is opened: an acknowledged event is there with its payload, what the journal says is
shredded has no key after the open, and no key is gone that it does not say so of. Then the
power is cut once more at the end, with nothing unsynced surviving, and it all holds again.
"""

from __future__ import annotations

import os
import random

import pytest

from batpak import Coordinate, Durability, EventKind, PayloadState, Region, Store
from batpak.keyring import FileKeyring
from batpak.kinds import SYSTEM_KEY_SHREDDED
from tests.crash.power_cuts.campaign import enumerated, oldest, states
from tests.crash.power_cuts.disk_model import SECTOR, Survivors
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles, State
from tests.crash.power_cuts.recording import bury_store

JOURNAL, KEYS = "/journal", "/keys"
KIND = EventKind(0xF, 1)
ANN, BOB, EVE = (Coordinate(f"user:{name}", "room") for name in ("ann", "bob", "eve"))
STATES = 24
"""Judged for each cut, where the disk may hold more."""


class PrivateFiles(MemoryFiles):
    """Files that only their owner may read."""

    def fstat(self, fd: int) -> os.stat_result:
        found = super().fstat(fd)
        return os.stat_result((found.st_mode & ~0o077, *found[1:10]))


def opened(files: MemoryFiles, mode: Durability = Durability.SYNC) -> Store:
    return Store.open(
        JOURNAL, codec="encrypted", keyring=FileKeyring(KEYS, files=files), files=files,
        durability=mode, preallocate=0, allow_network_filesystem=True,
    )  # fmt: skip


def history() -> State:
    disk = Disk()
    files = PrivateFiles(disk)
    FileKeyring.create(KEYS, files=files)
    with opened(files) as store:
        for n in range(2):
            store.append(ANN, n, kind=KIND)
            store.append(BOB, n, kind=KIND)
    return disk.state()


def said(store: Store) -> set[bytes]:
    return {event.value["key_id"] for event in store.query(Region(kind=SYSTEM_KEY_SHREDDED))}


def judge(state: State, promised: int, shredded_by_now: int) -> State:
    """Open what the power cut left; what is on the disk for sure afterwards."""
    disk = Disk(state)
    survivors = Survivors(state, SECTOR)
    files = PrivateFiles(disk)
    store = opened(files)
    words = said(store)
    assert len(words) >= shredded_by_now, "it was told, and is not said"
    ring = FileKeyring(KEYS, files=files)
    for key_id in words:
        assert ring.load(key_id) is None, "shredded, and its key is alive after an open"
    assert len(store) > promised, "an acknowledged event is gone"
    for event in store.query(Region(entity="user")):
        if (event.envelope or b"")[:16] in words:
            assert event.payload_state is PayloadState.SHREDDED
        else:
            assert event.value in (0, 1, "new")
    assert store.verify().ok
    for where in (ANN, BOB, EVE):
        assert store.at(store.append(where, "new", kind=KIND).sequence).value == "new"
    store.close()
    for change in disk.log:
        survivors.advance(change)
    return survivors.draw(oldest)


def shreds(store: Store) -> tuple[int, int]:
    store.shred(Region(entity="user:ann"))
    return len(store) - 1, 1


def appends(store: Store) -> tuple[int, int]:
    return store.append(EVE, "new", kind=KIND).sequence, 0


def shreds_and_appends(store: Store) -> tuple[int, int]:
    store.shred(Region(entity="user"))
    return store.append(ANN, "new", kind=KIND).sequence, 2


@pytest.mark.proves("INV-SHREDDED-STAYS-DESTROYED")
@pytest.mark.parametrize("mode", [Durability.SYNC, Durability.OS], ids=["sync", "os"])
@pytest.mark.parametrize("work", [appends, shreds, shreds_and_appends])
def test_no_power_cut_brings_a_key_back_or_loses_one(work: object, mode: Durability) -> None:
    start = history()
    disk = Disk(start)
    files = PrivateFiles(disk)
    store = opened(files, mode)
    promised, number = work(store)
    told_at = len(disk.log)
    if mode is Durability.OS:
        # Nothing but the shreddings is promised to survive here.
        promised = 0
    files.bury()
    bury_store(store)
    survivors = Survivors(start, SECTOR)
    draw = random.Random(5)
    judged = 0
    for cut in range(len(disk.log) + 1):
        if cut:
            survivors.advance(disk.log[cut - 1])
        found = enumerated(survivors, STATES) or list(states(survivors, STATES, draw))[:STATES]
        for state in found:
            is_told = cut >= told_at
            try:
                after = judge(state, promised if is_told else 0, number if is_told else 0)
                judge(after, promised if is_told else 0, number if is_told else 0)
            except Exception as error:
                error.add_note(f"power cut after {cut} of {len(disk.log)} changes, told {is_told}")
                raise
            judged += 1
    assert judged > len(disk.log)
