"""Several processes and one journal: locks, forks, followers, and writers that are killed.

Everything here is real: processes of their own, their signals, the machine's files. What
a child acknowledges is a line on its standard output, written after the call returned.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from batpak import Coordinate, EventId, EventKind, Region, Store
from batpak.errors import JournalLocked
from batpak.kinds import SYSTEM_CLOSE_COMPLETED, SYSTEM_OPEN_COMPLETED
from batpak.store import ReadOnlyStore

ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
WAIT = 60

PRELUDE = """
import os, sys, threading
from batpak import Coordinate, EventKind, Item, Store
path = sys.argv[1]
ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

APPENDS_FOR_EVER = """
store = Store.open(path, segment_max_bytes=1 << 16)
def run(name):
    number = 0
    while True:
        coordinate = Coordinate(f"worker:{name}", "s")
        if name % 2:
            items = [Item(coordinate, number + n, kind=NOTE) for n in range(3)]
            receipts = store.append_many(items)
        else:
            receipts = [store.append(coordinate, number, kind=NOTE)]
        say(*(f"{r.sequence}:{r.event_id}:{r.event_hash.hex()}:{number + n}"
              for n, r in enumerate(receipts)))
        number += len(receipts)
for name in range(1, int(sys.argv[2])):
    threading.Thread(target=run, args=(name,), daemon=True).start()
run(0)
"""

HOLDS = """
store = Store.open(path)
say(os.getpid())
sys.stdin.read()
store.close()
"""


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `script`; gone at the end of the block, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def run(script: str, *arguments: object) -> str:
    """What a child that ends by itself prints; its errors are the test's failure."""
    with child(script, *arguments) as process:
        out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    return out


# --- locks -----------------------------------------------------------------------


@pytest.mark.proves("INV-JOURNAL-SINGLE-LIVE-OWNER")
def test_a_second_writer_is_told_the_process_that_holds_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with child(HOLDS, path) as holder:
        assert int(pipe(holder.stdout).readline()) == holder.pid
        with pytest.raises(JournalLocked) as caught:
            Store.open(path)
        assert caught.value.pid == holder.pid
        with Store.open(path, mode="r") as reader:
            assert len(reader) == 1
        pipe(holder.stdin).close()
        assert holder.wait(WAIT) == 0
    with Store.open(path) as store:
        assert [event.kind for event in store] == [
            SYSTEM_OPEN_COMPLETED, SYSTEM_CLOSE_COMPLETED, SYSTEM_OPEN_COMPLETED,
        ]  # fmt: skip


@pytest.mark.proves("INV-JOURNAL-SINGLE-LIVE-OWNER")
def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with child(HOLDS, path) as holder:
        pipe(holder.stdout).readline()
        holder.kill()
        holder.wait(WAIT)
    with Store.open(path) as store:
        assert store.open_report.epoch == 2
        assert store.open_report.cut is None


def test_of_many_that_open_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = """
from batpak.errors import JournalLocked
sys.stdin.readline()
try:
    store = Store.open(path)
except JournalLocked:
    say("locked")
else:
    say("open")
    sys.stdin.read()
    store.close()
"""
    with child(script, path) as a, child(script, path) as b, child(script, path) as c:
        children = (a, b, c)
        for process in children:
            pipe(process.stdin).write("go\n")
            pipe(process.stdin).flush()
        said = sorted(pipe(process.stdout).readline().strip() for process in children)
        assert said == ["locked", "locked", "open"]
        for process in children:
            pipe(process.stdin).close()
            assert process.wait(WAIT) == 0, pipe(process.stderr).read()
    with Store.open(path, mode="r") as reader:
        assert len(reader) == 2


# --- forks -----------------------------------------------------------------------


@pytest.mark.proves("INV-FORK-SAFE")
def test_a_forked_child_can_not_write_and_the_parent_goes_on(tmp_path: Path) -> None:
    script = """
from batpak.errors import JournalLocked, StoreForked
store = Store.open(path, segment_max_bytes=4096)
store.append(ALICE, 0, kind=NOTE)
pid = os.fork()
if pid == 0:
    calls = (
        lambda: store.append(ALICE, 1, kind=NOTE),
        lambda: store.append_many([Item(ALICE, 1, kind=NOTE)] * 50),
        store.sync,
        lambda: list(store),
    )
    for call in calls:
        try:
            call()
        except StoreForked as error:
            say("child", error.code)
        else:
            say("child", "did it")
    # Letting go of the handle is fine: that frees nothing and writes nothing.
    store.close()
    try:
        Store.open(path)
    except JournalLocked as error:
        # The child's closed descriptors did not free the parent's lock.
        say("child", error.pid == os.getppid())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
for number in range(1, 40):
    store.append(ALICE, number, kind=NOTE)
try:
    Store.open(path)
except JournalLocked:
    say("parent still holds it")
store.close()
"""
    path = tmp_path / "journal"
    assert run(script, path).splitlines() == [
        *["child store-forked"] * 4, "child True", "parent still holds it",
    ]  # fmt: skip
    with Store.open(path) as store:
        assert [event.payload for event in store.query(Region(kind=NOTE))] == [*range(40)]
        assert store.verify().ok


@pytest.mark.proves("INV-FORK-SAFE")
def test_a_fork_in_the_middle_of_appends_does_not_hang_the_child(tmp_path: Path) -> None:
    script = """
from batpak.errors import StoreForked
store = Store.open(path)
stop = threading.Event()
def run():
    while not stop.is_set():
        store.append(ALICE, 1, kind=NOTE)
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            store.append(ALICE, 2, kind=NOTE)
        except StoreForked:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert store.verify().ok
store.close()
say("done")
"""
    path = tmp_path / "journal"
    assert run(script, path) == "done\n"
    with Store.open(path) as store:
        assert {event.payload for event in store.query(Region(kind=NOTE))} == {1}
        assert store.verify().ok


def test_an_interpreter_that_ends_without_close_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    run("store = Store.open(path)\nstore.append(ALICE, 7, kind=NOTE)\n", path)
    with Store.open(path) as store:
        assert [event.payload for event in store.query(Region(kind=NOTE))] == [7]


# --- followers -------------------------------------------------------------------


def test_a_reader_follows_a_writer_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with child(APPENDS_FOR_EVER, path, 2) as writer:
        acknowledged = [pipe(writer.stdout).readline() for _ in range(20)]
        with Store.open(path, mode="r") as reader:
            for turn in range(200):
                acknowledged.append(pipe(writer.stdout).readline())
                if turn % 20 == 0:
                    seen = reader.refresh()
                    # Whatever was acknowledged before the refresh is there after it.
                    for line in acknowledged:
                        check(reader, line)
                    assert len(list(reader)) == seen
            assert reader.verify().ok


# --- kills -----------------------------------------------------------------------


def check(store: Store | ReadOnlyStore, line: str) -> list[int]:
    """The acknowledged events of a line are in the journal; their sequences."""
    sequences: list[int] = []
    for word in line.split():
        sequence, prefix, digits, event_hash, number = word.split(":")
        event = store.get(EventId.parse(f"{prefix}:{digits}"))
        assert event.sequence == int(sequence)
        assert event.event_hash.hex() == event_hash
        assert event.payload == int(number)
        sequences.append(event.sequence)
    return sequences


@pytest.mark.proves("INV-ACKNOWLEDGED-SURVIVES-KILL")
@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_acknowledged_is_missing_after_a_kill(tmp_path: Path, threads: int) -> None:
    """A dozen writers of one journal, each killed after a random number of acknowledgements."""
    path = tmp_path / "journal"
    chance = random.Random(threads)
    lines: list[str] = []
    for _ in range(12):
        with child(APPENDS_FOR_EVER, path, threads) as writer:
            for _ in range(chance.randrange(1, 80)):
                lines.append(pipe(writer.stdout).readline())
            os.kill(writer.pid, signal.SIGKILL)
            # What was acknowledged between the last line read and the kill counts too.
            lines += pipe(writer.stdout).readlines()
            assert writer.wait(WAIT) == -signal.SIGKILL
    with Store.open(path) as store:
        assert store.open_report.epoch == 13
        assert store.verify().ok
        sequences = [sequence for line in lines for sequence in check(store, line)]
        assert len(set(sequences)) == len(sequences) >= 12
        for worker in range(threads):
            # Each worker counts from 0 in each round: a gap or a repetition would show.
            numbers = [event.payload for event in store.entity(f"worker:{worker}")]
            for before, after in zip([-1, *numbers], numbers, strict=False):
                assert after in (before + 1, 0)
