"""Ctrl-C at every place of every way to write, and the journal judged after each.

`tests/support/interrupting.py` says which places are real, `tests/support/trial.py` what
is judged. Each scenario runs once to count its places, then once for each of them; a
short run takes a seeded sample. An exhaustive one (`make interrupts`) adds a second
Ctrl-C, in whatever is done about the first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from batpak import (
    Coordinate,
    Durability,
    EventId,
    EventKind,
    Expect,
    Item,
    PayloadState,
    Region,
    Store,
    Unless,
    Watermark,
)
from batpak.config import Every
from batpak.errors import Indeterminate
from batpak.proof.merkle import leaf_hash
from batpak.tlog.trees import root_of
from tests.support.effort import EXHAUSTIVE, draws
from tests.support.interrupting import Interrupted
from tests.support.proofs import LOG, ORIGIN, RECEIPTS
from tests.support.trial import MINE, NOTE, PATIENCE, HeldFiles, Trial

TESTS = str(Path(__file__).resolve().parents[1])
KEY = bytes(15) + b"\1"
SAMPLE = 34
"""Points of a scenario in a short run."""
Watch = Callable[[str, str], None]


def spared(code: CodeType) -> bool:
    """What is not batpak's doing: the tests themselves, and a generator of Python's `typing`.

    That one is left half read by `isinstance` of a protocol; a Ctrl-C that meets its end is
    lost, as CPython drops what a generator raises when it is let go.
    """
    return code.co_filename.startswith(TESTS) or code.co_qualname.startswith(
        "_is_callable_members_only"
    )


def nothing(trial: Trial) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """`run` is interrupted, `before` is not; `watch` steers other threads meanwhile."""

    run: Callable[[Trial], Any]
    before: Callable[[Trial], Any] = nothing
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    watch: Callable[[Trial], Watch] | None = None
    is_held: bool = False
    """Whether the test can make a sync wait."""


# --- what is interrupted ---------------------------------------------------------


def fence(trial: Trial) -> None:
    numbers = trial.numbers(3)
    with trial.store.fence() as staged:
        for number in numbers:
            trial.tickets.append(staged.append(MINE, number, kind=NOTE))
    trial.acknowledged.update(numbers)
    assert [receipt.sequence for receipt in staged.receipts] == [
        ticket.result(0).sequence for ticket in trial.tickets
    ]


def cancelled_fence(trial: Trial) -> None:
    with trial.store.fence() as staged:
        trial.tickets.append(staged.append(MINE, -9, kind=NOTE))
        staged.cancel()


def outbox(trial: Trial) -> None:
    numbers = trial.numbers(3)
    box = trial.store.outbox()
    for number in numbers:
        box.stage(MINE, number, kind=NOTE)
    box.flush()
    trial.acknowledged.update(numbers)
    assert len(box) == 0


def submit(trial: Trial) -> None:
    trial.tickets.append(trial.submit())


def submit_and_close(trial: Trial) -> None:
    trial.tickets += [trial.submit() for _ in range(3)]
    trial.store.close()


def submit_and_give_up(trial: Trial) -> None:
    trial.tickets += [trial.submit() for _ in range(3)]
    trial.store.close(0)


def submit_many(trial: Trial) -> None:
    trial.tickets.append(trial.submit())
    numbers = trial.numbers(3)
    trial.tickets.append(trial.store.submit_many([Item(MINE, n, kind=NOTE) for n in numbers]))
    trial.append()


def submit_to_a_full_queue(trial: Trial) -> None:
    trial.tickets += [trial.submit() for _ in range(4)]
    trial.store.sync()


def submit_and_sync(trial: Trial) -> None:
    trial.tickets += [trial.submit() for _ in range(2)]
    trial.store.sync()


def retry_by_key(trial: Trial) -> None:
    receipt = trial.store.append(MINE, trial.asked[0][0], kind=NOTE, key=KEY)
    assert receipt.event_id == EventId.from_bytes(KEY)


def impatient(trial: Trial) -> None:
    try:
        trial.append(timeout=0.0)
    except Indeterminate as error:
        if error.receipt is None:
            raise
        trial.acknowledged.update(trial.asked[-1])


def keyed_batch(trial: Trial) -> None:
    numbers = trial.numbers(3)
    trial.store.append_many(
        [Item(MINE, n, kind=NOTE, key=bytes(15) + bytes([n + 1])) for n in numbers]
    )
    trial.acknowledged.update(numbers)


def batch_with_conditions(trial: Trial) -> None:
    trial.append_many(
        3, expect={MINE.entity: Expect.EMPTY}, unless=Unless(Region(entity=MINE.entity))
    )


def queued_outbox(trial: Trial) -> None:
    numbers = trial.numbers(3)
    box = trial.store.outbox()
    for number in numbers:
        box.stage(MINE, number, kind=NOTE)
    trial.tickets.append(box.submit())


def wait_for_what_is_written(trial: Trial) -> None:
    receipt = trial.store.append(MINE, trial.numbers(1)[0], kind=NOTE)
    trial.store.wait_for(Watermark.DURABLE, receipt)
    trial.acknowledged.update(trial.asked[-1])


def erase(trial: Trial, **options: Any) -> None:
    trial.store.erase(Region(entity=OLD.entity, clock=(0, 2)), reason="asked for", **options)
    trial.further.append(nothing_of_the_first_is_shown)


def compact(trial: Trial) -> None:
    assert trial.store.compact().outcome == "performed"
    trial.further.append(the_files_forgot)


def checkpoint(trial: Trial) -> None:
    made = trial.store.checkpoint()
    trial.further.append(lambda store: checkpoint_stands(store, made.size))


def snapshot(trial: Trial) -> None:
    trial.store.snapshot(trial.path / ".." / "copy")


def open_again(trial: Trial) -> None:
    trial.store = Store.open(trial.path, files=trial.files, preallocate=0, **trial.options)


# --- what precedes it, and what others do meanwhile --------------------------------


def fill(trial: Trial) -> None:
    """Up to where the next commit begins a new segment."""
    while trial.store.stats().segment_bytes < 4096:
        trial.append()


def write_old(trial: Trial) -> None:
    """Events that are there before, of which every hash has to stay; the first may be erased."""
    receipts = trial.store.append_many([Item(OLD, bytes([n]) * 100, kind=OF_OLD) for n in range(6)])
    hashes = [receipt.event_hash for receipt in receipts]

    def same(store: Store) -> None:
        events = list(store.entity(OLD.entity))
        assert [event.event_hash for event in events] == hashes
        states = [event.payload_state for event in events]
        # One commit erases the three of them.
        assert len(set(states[:3])) == 1, states
        assert [event.value for event in events[3:]] == [bytes([n]) * 100 for n in (3, 4, 5)]

    trial.further.append(same)


def write_and_erase(trial: Trial) -> None:
    """In segments of which some, the newest too, hold what was erased."""
    fill(trial)
    write_old(trial)
    erase(trial)


def nothing_of_the_first_is_shown(store: Store) -> None:
    states = [event.payload_state for event in store.entity(OLD.entity)]
    assert states[:3] == [PayloadState.ERASED] * 3


def the_files_forgot(store: Store) -> None:
    assert store.plan_compaction().payloads == 0


def checkpoint_stands(store: Store, size: int) -> None:
    assert size in store.checkpoint_sizes()


def write_and_checkpoint(trial: Trial) -> None:
    """Checkpoints before the one that is cut; every one has to fit, and more can be made."""
    trial.append()
    first = trial.store.checkpoint()
    trial.append_many(3)
    root = bytes(first.root)

    def fit(store: Store) -> None:
        assert first.size in store.checkpoint_sizes()
        for size in store.checkpoint_sizes():
            leaves = [leaf_hash(store.at(n).event_hash) for n in range(size)]
            assert store.stored_checkpoint(size).root == root_of(leaves)
        assert store.stored_checkpoint(first.size).root == root
        if store is trial.store:
            # Whatever the cut one left, the next one goes on from there.
            again = store.checkpoint()
            assert store.prove_consistency(first.size, again.size).old_root == root

    trial.further.append(fit)


def write_for_a_snapshot(trial: Trial) -> None:
    """A snapshot that was cut is not there, or whole; and then it can be taken."""
    write_old(trial)
    fill(trial)
    copy = trial.path / ".." / "copy"

    def whole_or_not_there(store: Store) -> None:
        if not copy.exists():
            store.snapshot(copy)
        with Store.open(copy, mode="r") as reader:
            assert reader.verify("full").ok
            assert [e.event_hash for e in reader] == [
                e.event_hash for e in list(store)[: len(reader)]
            ]

    trial.further.append(whole_or_not_there)


def nothing_there(trial: Trial) -> None:
    trial.store.close()
    shutil.rmtree(trial.path)


def close_in_segments(trial: Trial) -> None:
    """What the open finds: segments with sidecars and one without."""
    fill(trial)
    for _ in range(3):
        trial.append()
    trial.store.close()


def close_and_tear(trial: Trial) -> None:
    """What a killed writer leaves: bytes behind the last record, and names of its own."""
    trial.append_many(3)
    trial.store.close()
    [segment] = (trial.path / "segments").glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"torn" * 20)
    # A copy by hard links must not come to share the lock.
    (trial.path / ".." / "lock").unlink(missing_ok=True)
    (trial.path / ".." / "lock").hardlink_to(trial.path / "journal.lock")


def follow_and_go_on(trial: Trial) -> None:
    """A follower that has to go over to a further segment."""
    fill(trial)
    trial.follow()
    for _ in range(3):
        trial.append()


def while_another_syncs(trial: Trial) -> None:
    """A thread leads and stands in the middle of its sync."""
    assert isinstance(trial.files, HeldFiles)
    trial.files.hold = True
    trial.help()
    assert trial.files.held.acquire(timeout=PATIENCE)
    trial.files.hold = False


def while_the_queue_syncs(trial: Trial) -> None:
    """The queue's thread stands in the middle of its sync."""
    assert isinstance(trial.files, HeldFiles)
    trial.files.hold = True
    trial.tickets.append(trial.submit())
    assert trial.files.held.acquire(timeout=PATIENCE)
    trial.files.hold = False


def lets_the_queue_go_on(trial: Trial) -> Watch:
    """Its sync ends when somebody waits for its thread, or for the files."""

    def told(how: str, name: str) -> None:
        if name in ("Worker.join", "Store._release"):
            assert isinstance(trial.files, HeldFiles)
            trial.files.go.set()

    return told


def leads(others: int) -> Callable[[Trial], Watch]:
    """Others come while the thread begins to lead, so that it works for them too."""

    def watch(trial: Trial) -> Watch:
        def told(how: str, name: str) -> None:
            if name == "GroupCommit._lead" and not trial.helpers:
                trial.help(others)
                trial.until_waiting(others)

        return told

    return watch


def follows(others: int) -> Callable[[Trial], Watch]:
    """The thread waits for a leader, others come behind it, the leader goes on."""

    def watch(trial: Trial) -> Watch:
        def told(how: str, name: str) -> None:
            waits = how == "wait" and trial.store.pressure().waiting == 1
            if waits and len(trial.helpers) == 1:
                trial.help(others)
                trial.until_waiting(1 + others)
                assert isinstance(trial.files, HeldFiles)
                trial.files.go.set()

        return told

    return watch


def leads_for_one_that_leaves(trial: Trial) -> Watch:
    """Somebody with a timeout is taken along, and leaves before the leader is done."""

    def told(how: str, name: str) -> None:
        if name == "GroupCommit._lead" and not trial.helpers:
            trial.help_impatiently()
            trial.help()
            trial.until_waiting(2)
        elif name == "GroupCommit._work":
            trial.helpers[0].end("who has no patience")

    return told


OLD = Coordinate("player:old", "s")
OF_OLD = EventKind(1, 8)
SYNC = {"durability": Durability.SYNC}
OS = {"durability": Durability.OS}
SOON = {"durability": Every(ms=1, events=1_000_000)}
AT_ONCE = {"durability": Every(ms=3_600_000, events=1)}
SMALL = {"segment_max_bytes": 4096}
PROVING = {"origin": ORIGIN, "signing_keys": (RECEIPTS,), "checkpoint_key": LOG}

SCENARIOS = {
    "append": Scenario(Trial.append),
    "append in OS": Scenario(Trial.append, options=OS),
    "append in EVERY, which starts its thread": Scenario(Trial.append, options=SOON),
    "append in EVERY, which syncs": Scenario(Trial.append, options=AT_ONCE),
    "append durably in OS": Scenario(lambda t: t.append(durable=True), options=OS),
    "append with a key": Scenario(lambda t: t.append(key=KEY)),
    "retry by key": Scenario(retry_by_key, lambda t: t.append(key=KEY)),
    "append with conditions": Scenario(
        lambda t: t.append(expect=Expect.EMPTY, unless=Unless(Region(entity="player:mine")))
    ),
    "append_many": Scenario(lambda t: t.append_many(5)),
    "append_many in OS": Scenario(lambda t: t.append_many(5), options=OS),
    "fence": Scenario(fence),
    "fence in OS": Scenario(fence, options=OS),
    "cancelled fence": Scenario(cancelled_fence),
    "outbox": Scenario(outbox),
    "submit, which starts its thread": Scenario(submit),
    "submit to a full queue": Scenario(submit_to_a_full_queue, options={"submit_capacity": 1}),
    "submit and close": Scenario(submit_and_close),
    "submit and close at once": Scenario(
        submit_and_give_up, while_the_queue_syncs, watch=lets_the_queue_go_on, is_held=True
    ),
    "submit_many, and an append after it": Scenario(submit_many),
    "submit and sync": Scenario(submit_and_sync, options=OS),
    "rotation": Scenario(Trial.append, fill, SMALL),
    "rotation in OS": Scenario(Trial.append, fill, SMALL | OS),
    "rotation by a batch": Scenario(lambda t: t.append_many(5), fill, SMALL),
    "sync": Scenario(lambda t: t.store.sync(), Trial.append, OS),
    "close": Scenario(lambda t: t.store.close(), Trial.append),
    "close in EVERY": Scenario(lambda t: t.store.close(), Trial.append, SOON),
    "close with a fence open": Scenario(lambda t: t.store.close(), Trial.stay_in_a_fence, OS),
    "leads for two others": Scenario(Trial.append, watch=leads(2)),
    "leads for three others with a batch": Scenario(lambda t: t.append_many(3), watch=leads(3)),
    "leads for others and rotates": Scenario(Trial.append, fill, SMALL, leads(2)),
    "leads for one that leaves": Scenario(Trial.append, watch=leads_for_one_that_leaves),
    "waits for a leader": Scenario(
        Trial.append, while_another_syncs, watch=follows(0), is_held=True
    ),
    "waits, then leads for others": Scenario(
        Trial.append, while_another_syncs, watch=follows(2), is_held=True
    ),
    "waits for a leader without patience": Scenario(impatient, while_another_syncs, is_held=True),
    "append_many with keys": Scenario(keyed_batch),
    "append_many with conditions": Scenario(batch_with_conditions),
    "outbox, queued": Scenario(queued_outbox),
    "wait_for": Scenario(wait_for_what_is_written, options=OS),
    "erase": Scenario(erase, write_old),
    "erase durably in OS": Scenario(lambda t: erase(t, durable=True), write_old, OS),
    "compact": Scenario(compact, write_and_erase, SMALL),
    "checkpoint": Scenario(checkpoint, write_and_checkpoint, PROVING),
    "snapshot": Scenario(snapshot, write_for_a_snapshot, SMALL),
    "open": Scenario(open_again, close_in_segments, SMALL),
    "open a new journal": Scenario(open_again, nothing_there),
    "open a new journal, which takes up a key": Scenario(open_again, nothing_there, PROVING),
    "open after a torn write, beside a linked lock": Scenario(open_again, close_and_tear, SMALL),
    "a follower's refresh over a rotation": Scenario(
        lambda t: t.refresh(), follow_and_go_on, SMALL
    ),
}


def left_open(path: Path) -> list[str]:
    """Files of the journal that this process has open, where the system tells."""
    names: list[str] = []
    if not os.path.isdir("/proc/self/fd"):
        return names
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            # The listing's own.
            pass
    return [name for name in names if name.startswith(str(path))]


def tried(scenario: Scenario, path: Path, targets: tuple[int, ...]) -> Interrupted:
    """One run with Ctrl-C at these points; judged."""
    files = {"files": HeldFiles()} if scenario.is_held else {}
    trial = Trial(path, **files, **scenario.options)
    scenario.before(trial)
    watch = None if scenario.watch is None else scenario.watch(trial)
    interruption = Interrupted(targets, spared=spared, watch=watch)
    try:
        with interruption:
            scenario.run(trial)
    except KeyboardInterrupt:
        # Its frames, and what they held, are gone with it: nobody keeps the exception.
        pass
    try:
        trial.judge()
        # What `os.open` gave is lost where Ctrl-C meets its return; nothing else may stay open.
        assert len(left_open(path)) <= len(interruption.points), left_open(path)
    except AssertionError as error:
        error.add_note("Ctrl-C at " + ", and at ".join(map(str, interruption.points)))
        raise
    shutil.rmtree(path)
    shutil.rmtree(path.parent / "copy", ignore_errors=True)
    return interruption


@pytest.mark.proves("INV-CTRL-C-SAFE")
# A file object that Python's `open` had just made is closed as it is dropped.
@pytest.mark.filterwarnings("ignore:unclosed file .*/proc/self/mountinfo:ResourceWarning")
@pytest.mark.parametrize("name", SCENARIOS)
def test_ctrl_c_at_any_point_of_an_operation(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    # The first run imports what is needed for the first time: those points are not ours.
    tried(scenario, tmp_path / "warm", ())
    count = tried(scenario, tmp_path / "counted", ()).count
    chance = draws(name)
    points = range(count) if EXHAUSTIVE else sorted(chance.sample(range(count), SAMPLE))
    targets: list[tuple[int, ...]] = [(at,) for at in points]
    if EXHAUSTIVE:
        # A second one soon after: in the handlers that the first one started.
        targets += [(at, at + chance.randrange(1, 12)) for at in points]
    failures: list[AssertionError] = []
    done = 0
    for turn, target in enumerate(targets):
        try:
            met = tried(scenario, tmp_path / str(turn), target)
            if not met.points:
                # Another thread took over a part of the work, such as a sealed segment's index.
                met = tried(scenario, tmp_path / f"{turn}b", (chance.randrange(met.count),))
            done += len(met.points)
        except AssertionError as error:
            failures.append(error)
    print(f"{name}: {done} interruptions in {len(targets)} runs, at {count} points")
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(targets)} runs", failures)
    # Threads make the number of points vary; a run that meets none proves nothing.
    assert done >= len(targets) * 0.9


# --- real signals ----------------------------------------------------------------

STORM = """
import itertools, signal, sys, threading
from collections import Counter
from batpak import Coordinate, EventKind, Store
from batpak.config import Durability, Every
MODES = {"sync": Durability.SYNC, "os": Durability.OS, "every": Every(ms=1, events=7)}
NOTE = EventKind(1, 7)
path, mode, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store.open(path, durability=MODES[mode], segment_max_bytes=1 << 15)
acknowledged, theirs, stop = [], [], threading.Event()
def others(name):
    for number in itertools.count():
        store.append(Coordinate(f"worker:{name}", "s"), number, kind=NOTE)
        theirs.append((f"worker:{name}", number))
        if stop.is_set():
            return
threads = [threading.Thread(target=others, args=(name,)) for name in range(3)]
for thread in threads:
    thread.start()
allowed = hits = 0
def interrupt(*_):
    global allowed, hits
    if allowed:
        allowed -= 1
        hits += 1
        raise KeyboardInterrupt
def operate(number):
    mine = Coordinate("worker:main", "s")
    turn = number % 5
    if turn == 0:
        with store.fence() as fence:
            ticket = fence.append(mine, number, kind=NOTE)
        ticket.result(0)
    elif turn == 1:
        future = store.submit(mine, number, kind=NOTE)
        store.sync()
        future.result(0)
    elif turn == 2:
        store.append(mine, number, kind=NOTE, key=number.to_bytes(16, "big"))
    elif turn == 3:
        store.append(mine, number, kind=NOTE, durable=True)
    else:
        store.append(mine, number, kind=NOTE)
def round_of(number):
    global allowed
    try:
        try:
            # Some get through, however slow the disk is.
            allowed = 0 if number % 7 == 0 else 1 + (number % 4 == 0)
            operate(number)
            allowed = 0
            acknowledged.append(number)
        except KeyboardInterrupt:
            allowed = 0
    except KeyboardInterrupt:
        pass
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0007)
number = 0
while hits < rounds:
    number += 1
    round_of(number)
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for thread in threads:
    thread.join(30)
    assert not thread.is_alive(), "asleep for ever"
last = threading.Thread(target=store.append, args=(Coordinate("a", "s"), 0), kwargs={"kind": NOTE})
last.start()
last.join(30)
assert not last.is_alive(), "a lock is left held"
store.sync()
assert store.pressure().is_idle, store.pressure()
report = store.verify("full")
assert report.ok, report.findings
store.close()
with Store.open(path) as store:
    assert store.open_report.cut is None, store.open_report.cut
    assert store.verify("full").ok
    there = Counter((e.coordinate.entity, e.payload) for e in store if e.kind == NOTE)
assert set(there.values()) == {1}, "an event is there twice"
missing = {("worker:main", n) for n in acknowledged} | set(theirs)
missing -= set(there)
assert not missing, missing
assert not {n for name, n in there if name == "worker:main"} - set(range(1, number + 1))
print(hits, len(acknowledged), len(theirs))
"""


@pytest.mark.proves("INV-CTRL-C-SAFE")
@pytest.mark.parametrize("mode", ["sync", "os", "every"])
def test_a_storm_of_real_signals_while_other_threads_append(mode: str, tmp_path: Path) -> None:
    rounds = 3000 if EXHAUSTIVE else 150
    done = subprocess.run(
        [sys.executable, "-c", STORM, tmp_path / "journal", mode, str(rounds)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    hits, acknowledged, theirs = map(int, done.stdout.split())
    print(f"{mode}: {hits} signals, {acknowledged} operations went through, {theirs} of others")
    assert hits >= rounds
    assert acknowledged
    assert theirs
