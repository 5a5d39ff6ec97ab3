"""What the harness found in the library, each as the shortest life that shows it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from batpak import Store
from tests.crash.power_cuts.campaign import enumerated, newest, oldest
from tests.crash.power_cuts.disk_model import Survivors
from tests.crash.power_cuts.memory_files import Change, Disk, MemoryFiles
from tests.crash.power_cuts.recording import JOURNAL, begin, bury_store, opened, segments_of
from tests.support.faulty_files import Killed
from tests.watched_files import WatchedFiles


def bare(disk: Disk) -> dict[str, bytes]:
    """Segments that are there when nothing survives that was not synced."""
    survivors = Survivors(disk.start)
    for change in disk.log:
        survivors.advance(change)
    assert survivors.draw(newest).digest() == disk.state().digest()
    return segments_of(survivors.draw(oldest))


def open_and_die(disk: Disk) -> None:
    """Open, which makes the open event durable, and end the process as a kill does."""
    files = MemoryFiles(disk)
    store = Store.open(JOURNAL, files=files, allow_network_filesystem=True)
    assert store.frontier().durable.sequence == 1
    files.bury()
    bury_store(store)


@pytest.mark.parametrize("place", range(1, 14))
def test_directories_made_by_a_killed_process_are_durable_once_the_next_one_is_open(
    place: int,
) -> None:
    """The journal's grandparents had no durable name: a power cut took all of it."""
    disk = Disk()
    files = MemoryFiles(disk)

    def stop(_: Change) -> bool:
        return len(disk.log) == place

    files.stop_before = stop
    with pytest.raises(Killed):
        Store.open(JOURNAL, files=files, allow_network_filesystem=True)
    files.bury()
    open_and_die(disk)
    assert bare(disk), "acknowledged events are gone"


def test_directories_made_by_somebody_else_are_durable_once_the_journal_is_open() -> None:
    disk = Disk()
    for path in ("/in", "/in/a", JOURNAL):
        MemoryFiles(disk).mkdir(path)
    open_and_die(disk)
    assert bare(disk), "acknowledged events are gone"


def test_an_ancestor_that_may_not_be_looked_into_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    files = WatchedFiles()
    files.refuse("sync_directory", "in", errno.EACCES)
    with Store.open(folder / "journal", files=files) as store:
        assert store.open_report.created
    assert ("sync_directory", "in") in files.calls
    assert ("sync_directory", os.path.basename(tmp_path)) in files.calls, "it goes on above"


def test_an_ancestor_whose_sync_fails_refuses_the_journal(tmp_path: Path) -> None:
    from batpak.errors import StorageFailed

    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    files = WatchedFiles()
    files.refuse("sync_directory", "in", errno.EIO)
    with pytest.raises(StorageFailed):
        Store.open(folder / "journal", files=files)
    assert not list(Path(folder, "journal", "segments").iterdir())


def test_what_a_power_cut_leaves_of_a_builder_is_in_nobodys_way() -> None:
    """`<name>.tmp` came back without the marker that tells whose it is, and stayed for ever."""
    machine = begin(random.Random(1), preallocate=0)
    machine.open()
    machine.store.snapshot("/in/a/snapshot")
    survivors = Survivors(machine.disk.start)
    tried = 0
    for change in machine.disk.log:
        survivors.advance(change)
        for state in enumerated(survivors, 64) or ():
            if state.find("/in/a/snapshot.tmp") is not None:
                tried += 1
                with opened(MemoryFiles(Disk(state)), machine.options) as store:
                    if state.find("/in/a/snapshot") is None:
                        store.snapshot("/in/a/snapshot")
                    store.snapshot("/in/a/other")
    machine.die()
    assert tried > 10
