"""Crash after crash after crash: recovery is interrupted too, and nothing promised goes.

The runs are drawn by a seed; `BATPAK_SEED` draws others, `BATPAK_EXHAUSTIVE` many more.
"""

from __future__ import annotations

import random
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest

from batpak import Durability, Store
from batpak.errors import BatpakError, Indeterminate, JournalPoisoned, Unavailable
from tests.support.checker import Ledger, check_journal
from tests.support.effort import EXHAUSTIVE, SEED, draws
from tests.support.faulty_files import DISK, Fault, FaultyFiles, Killed

RUNS = 400 if EXHAUSTIVE else 12
KILLS = tuple(fault for fault in Fault if fault.kills)
TROUBLES = tuple(fault for fault in Fault if not fault.kills and not fault.interrupts)
ENTITIES = ("player:0", "player:1", "game", "player:1:arm")


def options(draw: random.Random) -> dict[str, Any]:
    return {
        "segment_max_bytes": draw.choice((4096, 4096, 1 << 20)),
        "preallocate": draw.choice((0, 2048, 8192)),
        "durability": draw.choice((Durability.SYNC, Durability.OS)),
    }


def work(store: Store, ledger: Ledger, draw: random.Random, *, tolerant: bool) -> None:
    """Some appends, batches and syncs; with `tolerant`, a refused one is not the end."""
    for _ in range(draw.randrange(1, 12)):
        try:
            if draw.random() < 0.15:
                store.sync()
            else:
                size = draw.choice((1, 1, 1, 2, 9))
                padding = draw.choice((0, 0, 30, 900))
                durable = draw.random() < 0.2
                entities = [draw.choice(ENTITIES) for _ in range(size)]
                ledger.commit(store, *entities, padding=padding, durable=durable)
        except (Unavailable, Indeterminate, JournalPoisoned):
            if not tolerant:
                raise


def bury(files: FaultyFiles, store: Store | None) -> None:
    files.bury()
    if store is not None:
        try:
            store.close()
        except (Killed, BatpakError):
            pass


def check_copy(path: str, ledger: Ledger) -> None:
    """Check what a crash left, without repairing it: the next round meets it as it is."""
    copy = path + ".copy"
    shutil.copytree(path, copy)
    check_journal(copy, ledger)
    shutil.rmtree(copy)


@pytest.mark.parametrize("run", range(RUNS))
def test_five_crashes_in_a_row_lose_nothing_promised(run: int, tmp_path: Path) -> None:
    draw = draws(f"crashes {run}")
    path, ledger = str(tmp_path / "journal"), Ledger()
    story: list[str] = []
    for _ in range(5):
        files, store = FaultyFiles(), None
        # Places beyond the end of the round are crashes after a clean close.
        files.arm(draw.randrange(140), draw.choice(KILLS), part=draw.random())
        try:
            store = Store.open(path, files=files, **options(draw))
            work(store, ledger, draw, tolerant=False)
            store.close()
        except Killed as killed:
            traceback.clear_frames(killed.__traceback__)
        story.append(str(files.fired[0]) if files.fired else "closed cleanly")
        bury(files, store)
        try:
            check_copy(path, ledger) if Path(path).exists() else None
        except Exception as error:
            error.add_note(f"seed {SEED}, run {run}: killed at {story}")
            raise
    check_journal(path, ledger)
    print(f"seed {SEED}, run {run}: {story}")


@pytest.mark.parametrize("run", range(RUNS))
def test_a_disk_with_many_troubles_loses_nothing_promised(run: int, tmp_path: Path) -> None:
    draw = draws(f"troubles {run}")
    path, ledger = str(tmp_path / "journal"), Ledger()
    with Store.open(path, files=DISK):
        pass
    fired: list[str] = []
    for _ in range(4):
        files, store = FaultyFiles(), None
        for _ in range(draw.randrange(1, 9)):
            files.arm(draw.randrange(120), draw.choice(TROUBLES), part=draw.random())
        try:
            store = Store.open(path, files=files, **options(draw))
            work(store, ledger, draw, tolerant=True)
            ledger.explain(store, may_end_early=True)
        except Unavailable as refused:
            traceback.clear_frames(refused.__traceback__)
        if store is not None:
            try:
                store.close()
            except (Unavailable, Indeterminate, JournalPoisoned):
                pass
        fired += map(str, files.fired)
        assert not files.open_files, f"descriptors leak: {files.open_files}"
        try:
            check_copy(path, ledger)
        except Exception as error:
            error.add_note(f"seed {SEED}, run {run}: trouble at {fired}")
            raise
    check_journal(path, ledger)
    print(f"seed {SEED}, run {run}: {fired}")


def test_a_crash_in_recovery_leaves_one_copy_of_the_tear(tmp_path: Path) -> None:
    base, ledger = str(tmp_path / "torn"), Ledger()
    with Store.open(base, files=DISK) as store:
        ledger.commit(store, "player:0")
    segment = sorted(Path(base, "segments").glob("*.seg"))[-1]
    tear = b"BPC1" + draws("tear").randbytes(700)
    with segment.open("ab") as file:
        file.write(tear)

    recorded = FaultyFiles()
    shutil.copytree(base, tmp_path / "recorded")
    Store.open(tmp_path / "recorded", files=recorded).close()
    tried = 0
    for fault in KILLS:
        for place, operation in enumerate(recorded.operations):
            if not fault.fits(operation):
                continue
            path = str(tmp_path / f"{fault.name}-{place}")
            shutil.copytree(base, path)
            files, store = FaultyFiles(), None
            files.arm(place, fault)
            try:
                store = Store.open(path, files=files)
                store.close()
            except Killed as killed:
                traceback.clear_frames(killed.__traceback__)
            bury(files, store)
            check_journal(path, ledger)
            kept = sorted(Path(path, "quarantine").iterdir())
            copies = [file for file in kept if file.read_bytes() == tear]
            assert len(copies) == 1, (operation, kept)
            # The open event may be torn as well, once the first tear is gone.
            assert {file.suffix for file in kept} == {".bin", ".json"}, (operation, kept)
            tried += 1
    print(f"{tried} crashes in one recovery")


def test_an_epoch_is_not_used_again_though_its_only_record_was_torn(tmp_path: Path) -> None:
    path, ledger = str(tmp_path / "journal"), Ledger()
    with Store.open(path, files=DISK, preallocate=0) as store:
        ledger.commit(store, "player:0")
        assert store.open_report.epoch == 1
    for crashes in range(1, 4):
        copy, recorded = str(tmp_path / f"copy{crashes}"), FaultyFiles()
        shutil.copytree(path, copy)
        Store.open(copy, files=recorded, preallocate=0).close()
        writes = [
            place
            for place, operation in enumerate(recorded.operations)
            if operation.name == "pwrite" and operation.path.endswith(".seg")
        ]
        # The open event, the close event and the pad are the last three writes to the log.
        files = FaultyFiles()
        files.arm(writes[-3], Fault.KILL_TORN)
        with pytest.raises(Killed):
            Store.open(path, files=files, preallocate=0)
        files.bury()
        assert files.fired[0].data.startswith(b"BPC1"), "its header got to the disk"
    with Store.open(path, files=DISK) as store:
        assert store.open_report.cut is not None
        assert store.open_report.epoch == 5, "1, three crashes, this one"
    check_journal(path, ledger)
