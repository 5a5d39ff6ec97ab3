"""Each file call of a real process fails, or is the last that it makes: nothing is lost.

A clean run under strace says which calls concern the journal. Then the same life is lived
again for each of them and each fault that fits: the call returns an error without taking
effect, or the process is killed on entering it, which is also the kill after the call
before. What is left is read by the reader that shares no code with batpak, then opened,
verified and held to all that was acknowledged. Errors that the process was given have to
be batpak's own.

The number of cases is bounded by a sample whose seed is printed: BATPAK_SEED draws
another one, BATPAK_EXHAUSTIVE=1 tries every fault at every call.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batpak import Store
from batpak.kinds import SYSTEM_LOG_CHECKPOINT
from batpak.proof.notes import Key
from tests.support import effort
from tests.support.checker import Ledger, Outcome, check_journal
from tests.support.nursery import Nursery, keyed_item
from tests.support.proofs import LOG
from tests.support.syscalls import Call, Traced, read_trace, run_traced, why_not
from tests.support.testimony import Account, check_unrecovered, hear

MOST = 150
"""Cases of one scenario; eleven of them fit in a few minutes of two cores."""


class Fault(NamedTuple):
    """What strace does at a call; `errno` is None for a kill and for a write of nothing."""

    name: str
    expression: str
    errno: int | None = None

    @property
    def kills(self) -> bool:
        return self.expression.startswith("signal=KILL")


def failing(name: str) -> Fault:
    return Fault(name, f"error={name}", getattr(errno, name))


KILL = Fault("KILL", "signal=KILL")
NOTHING_WRITTEN = Fault("0 bytes", "retval=0")
EIO, EINTR, ENOSPC, EDQUOT = map(failing, ("EIO", "EINTR", "ENOSPC", "EDQUOT"))
FULL = (EIO, ENOSPC, EDQUOT, EINTR)
FAULTS: dict[str, tuple[Fault, ...]] = {
    "openat": (EIO, EINTR, failing("EMFILE"), failing("EACCES")),
    "close": (EIO, EINTR),
    "pread64": (EIO, EINTR),
    "pwrite64": (*FULL, NOTHING_WRITTEN),
    "fdatasync": FULL,
    "fsync": FULL,
    "ftruncate": (EIO, EINTR, ENOSPC),
    "fallocate": (*FULL, failing("EOPNOTSUPP")),
    "rename": FULL,
    "unlink": (EIO, EINTR, failing("EACCES")),
    "mkdir": FULL,
    "flock": (EIO, EINTR, failing("EAGAIN"), failing("ENOLCK")),
    "newfstatat": (EIO, EINTR, failing("EACCES")),
    "fstat": (EIO, EINTR),
    "getdents64": (EIO, EINTR),
    "link": (*FULL, failing("EPERM"), failing("EXDEV")),
    "rmdir": (EIO, EINTR),
    "ioctl": (EIO, ENOSPC, failing("EOPNOTSUPP")),
}
RENAMED = {
    "renameat": "rename", "renameat2": "rename", "unlinkat": "unlink", "mkdirat": "mkdir",
    "linkat": "link",
}  # fmt: skip
"""Some machines have only the newer names."""
RETRIED = {
    "openat", "pread64", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "flock",
}  # fmt: skip
"""Python makes these calls again after EINTR, so nobody notices it."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
TOLD = (".seg", ".bin", "journal.json", ".note", "manifest.json")
"""Files without which something that was promised is not there."""


# --- scenarios ---------------------------------------------------------------------


class Scenario(NamedTuple):
    """A life, the durability that it asks for, and what stands on the disk before it."""

    before: Callable[[Nursery, Path], Ledger]
    life: str
    mode: str = "sync"
    large: bool = False


def nothing(nursery: Nursery, place: Path) -> Ledger:
    """No journal yet, nor its parent directory."""
    return Ledger()


def lived(nursery: Nursery, place: Path, life: str, before: Ledger, **options: object) -> Ledger:
    """The ledger after an undisturbed life."""
    path = place / "in" / "journal"
    with nursery.child(life, path, number=before.numbers, **options) as child:
        child.listen_to_end()
    return hear(child.lines, before).ledger


def closed(nursery: Nursery, place: Path) -> Ledger:
    """Two segments, cleanly closed."""
    return lived(nursery, place, "writes", Ledger())


def torn(nursery: Nursery, place: Path) -> Ledger:
    """A finished segment, and a newest one whose last record was written in part."""
    before = closed(nursery, place)
    entities = ["player:0", "player:5"]
    return lived(nursery, place, "outgrows", before, extra=300, dies=True, entities=entities)


def linked(nursery: Nursery, place: Path) -> Ledger:
    """Files that a snapshot of hard links shares, and a torn tail in them."""
    ledger = torn(nursery, place)
    journal, snapshot = place / "in" / "journal", place / "in" / "snapshot"
    snapshot.mkdir()
    newest = max((journal / "segments").glob("*.seg"))
    for file in (newest, journal / "tail.hint", journal / "journal.lock"):
        os.link(file, snapshot / file.name)
    return ledger


def many(nursery: Nursery, place: Path) -> Ledger:
    """More records than a close leaves without a sidecar, after a kill."""
    return lived(nursery, place, "hoards", Ledger(), count=1030, mode="os")


def attested(nursery: Nursery, place: Path) -> Ledger:
    """As `closed`, with two checkpoints."""
    return lived(nursery, place, "attests", closed(nursery, place))


SCENARIOS = {
    "write": Scenario(nothing, "writes"),
    "write in intervals": Scenario(nothing, "writes", "every"),
    "reopen": Scenario(closed, "reopens", "os"),
    "recover a tear": Scenario(torn, "reopens"),
    "recover shared files": Scenario(linked, "reopens"),
    "close with a sidecar": Scenario(many, "reopens", "os", large=True),
    "follow": Scenario(closed, "reads"),
    "append under keys": Scenario(closed, "retries"),
    "erase and compact": Scenario(closed, "forgets", "os"),
    "checkpoint": Scenario(attested, "attests", "os"),
    "snapshot": Scenario(closed, "copies"),
}


class Stage:
    """One scenario: what it starts from, made once, and copied to one place for each run."""

    def __init__(self, name: str, nursery: Nursery, place: Path) -> None:
        self.scenario = SCENARIOS[name]
        self._nursery = nursery
        self._base, self._run, self._log = place / "base", place / "run", place / "log"
        self._base.mkdir()
        self.ledger = self.scenario.before(nursery, self._base)
        self.path = str(self._run / "in" / "journal")

    def run(self, inject: str | None = None) -> Traced:
        """The life on a fresh copy; its path is always the same, and so are its calls."""
        shutil.rmtree(self._run, ignore_errors=True)
        # With the links, which `copytree` would make separate files.
        subprocess.run(["cp", "-a", self._base, self._run], check=True)
        return run_traced(
            self._nursery,
            self.scenario.life,
            self.path,
            self._log,
            inject=inject,
            number=self.ledger.numbers,
            mode=self.scenario.mode,
            large=self.scenario.large,
        )

    def concerns(self, call: Call) -> bool:
        """Whether a call is one of ours: on the journal, or on what its path leads through."""
        return call.path.startswith(str(self._run))


@pytest.fixture(scope="session")
def _strace() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no fault was injected into a real process: {reason}")


@pytest.fixture(scope="module")
def nursery(_strace: None) -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


# --- judging -----------------------------------------------------------------------


def faults_of(call: Call) -> tuple[Fault, ...]:
    more = (ENOSPC, EDQUOT) if call.creates else ()
    return (*FAULTS[RENAMED.get(call.name, call.name)], *more, KILL)


def unnoticed(call: Call, fault: Fault) -> bool:
    """Whether Python deals with this fault, so that nobody may hear of it."""
    return fault is EINTR and call.name in RETRIED and not call.lists


def must_be_told(call: Call, fault: Fault) -> bool:
    """Whether the caller has to hear of this fault, since a promise depends on the call."""
    if fault.errno is None or unnoticed(call, fault):
        return False
    name = os.path.basename(call.path)
    if call.name in ("fsync", "fdatasync", "pwrite64", "rename"):
        # A sidecar and the bound in the hint cost time when they are missing, not events.
        return name.removesuffix(".tmp").endswith(TOLD)
    return call.name == "ftruncate" and name.endswith(".seg")


def judge_errors(call: Call, fault: Fault, told: Account) -> None:
    """Assert that what the process was told is ours, fits the fault and names its cause."""
    for complaint in told.complaints:
        assert complaint.is_a("Unavailable", "Indeterminate", "JournalPoisoned"), complaint
    if fault.kills:
        assert not told.complaints, told.complaints[0]
        return
    if not told.complaints:
        # What a compaction could not do is in its report.
        failed = told.compacted == "failed"
        assert failed or not must_be_told(call, fault), "nobody was told"
        return
    first = told.complaints[0]
    assert fault.errno is not None, f"a write that goes on is an error: {first}"
    assert not unnoticed(call, fault), first
    if first.is_a("JournalLocked"):
        # strace leaves the call out, so a lock whose descriptor was not closed is held.
        assert call.name in ("flock", "close"), first
        return
    assert first.errno == fault.errno, f"{first} has lost its cause"
    if first.is_a("Unavailable"):
        assert first.code == ("no-space" if fault.errno in NO_ROOM else "storage-failed"), first
    else:
        assert first.code in ("indeterminate", "journal-poisoned"), first


def judge(stage: Stage, call: Call, fault: Fault) -> None:
    """One run with one fault, then everything that has to hold after it."""
    run = stage.run(f"{call.name}:{fault.expression}:when={call.nth}")
    assert [each.key for each in run.injected] == [call.key], "another call was hit than was meant"
    assert run.status == (-signal.SIGKILL if fault.kills else 0), run.lines[-1:]
    told = hear(run.lines, stage.ledger)
    judge_errors(call, fault, told)
    if stage.scenario.life == "reads":
        assert told.findings <= {"unreadable", "storage-failed", "missing-events"}, told.findings
    check_unrecovered(stage.path, told.ledger)
    check_journal(stage.path, told.ledger)
    AFTER.get(stage.scenario.life, lambda *_: None)(stage, told)


def check_keys(stage: Stage, told: Account) -> None:
    """Assert that a retry of every commit writes what is missing, once, and nothing else."""
    for _ in range(2):
        with Store.open(stage.path) as store:
            for attempt in told.keyed:
                items = [keyed_item(entity, number) for entity, number in attempt.events]
                receipts = store.append_many(items)
                assert receipts == (attempt.receipts or receipts), "a retry has another receipt"
                attempt.receipts, attempt.outcome = receipts, Outcome.ACKNOWLEDGED
            ids = [event.event_id for event in store]
            assert len(ids) == len(set(ids)), "a key is there twice"


def check_compaction(stage: Stage, told: Account) -> None:
    """Assert that what was reported as compacted is, and that the rest can be compacted."""
    with Store.open(stage.path) as store:
        left = store.plan_compaction().segments
        assert told.compacted != "performed" or not left, "an erased payload is in its file"
        report = store.compact()
        assert report.outcome == ("performed" if left else "skipped"), report
        assert not store.plan_compaction().segments
    check_journal(stage.path, told.ledger)


def check_checkpoints(stage: Stage, told: Account) -> None:
    """Assert that each checkpoint stands or does not, and that the next one can be made."""
    with Store.open(stage.path, checkpoint_key=LOG) as store:
        key = Key(store.origin, LOG.public_key)
        values: list[Any] = [e.value for e in store if e.kind == SYSTEM_LOG_CHECKPOINT]
        known = {value["size"] for value in values}
        assert set(told.made) <= set(store.checkpoint_sizes()) <= known
        report = store.verify(keys=[key])
        assert report.ok, report.findings
        newest = store.checkpoint()
        assert known <= set(store.checkpoint_sizes())
    assert Path(stage.path, "tlog", "checkpoint").read_text() == newest.note


def check_snapshot(stage: Stage, told: Account) -> None:
    """Assert that a snapshot is whole under its name or not there, and can be made then."""
    made = Path(stage.path).with_name("snapshot")
    if not made.exists():
        assert not told.made, "a snapshot was reported as made and is not there"
        with Store.open(stage.path, mode="r") as reader:
            reader.snapshot(made)
        assert not made.with_name("snapshot.tmp").exists()
    restored = made.with_name("restored")
    Store.restore(made, restored)
    check_journal(restored, told.ledger)


AFTER: dict[str, Callable[[Stage, Account], None]] = {
    "retries": check_keys,
    "forgets": check_compaction,
    "attests": check_checkpoints,
    "copies": check_snapshot,
}
"""What is looked at besides, after a life of that name."""


def sampled(name: str, cases: list[tuple[Call, Fault]]) -> list[tuple[Call, Fault]]:
    """A part of the cases: among them, of each kind of call that a promise depends on, one."""
    chosen = effort.sample(f"system calls {name}", cases, MOST)
    kinds = {(call.name, told_suffix(call)) for call, fault in chosen if must_be_told(call, fault)}
    left = [case for case in cases if must_be_told(*case)]
    effort.draws(f"kinds of system calls {name}").shuffle(left)
    for call, fault in left:
        kind = call.name, told_suffix(call)
        if kind not in kinds:
            kinds.add(kind)
            chosen.append((call, fault))
    return chosen


def told_suffix(call: Call) -> str:
    """Of what kind the call's file is."""
    name = os.path.basename(call.path).removesuffix(".tmp")
    return next((suffix for suffix in TOLD if name.endswith(suffix)), "")


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_at_any_file_call(
    name: str, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stage = Stage(name, nursery, tmp_path)
    clean, again = stage.run(), stage.run()
    calls = [call for call in clean.calls if stage.concerns(call)]
    assert [c.key for c in calls] == [c.key for c in again.calls if stage.concerns(c)]
    told = hear(again.lines, stage.ledger)
    assert not told.complaints, told.complaints[0]
    check_journal(stage.path, told.ledger)
    AFTER.get(stage.scenario.life, lambda *_: None)(stage, told)

    cases = [(call, fault) for call in calls for fault in faults_of(call)]
    chosen = sampled(name, cases)
    failures: list[Exception] = []
    for call, fault in chosen:
        try:
            judge(stage, call, fault)
        except Exception as error:  # noqa: BLE001  # each is reported below, with its place
            error.add_note(f"{name}: {fault.name} at {call}: {call.text[:120]}")
            failures.append(error)
    kills = sum(fault.kills for _, fault in chosen)
    effort.note(request, faults_injected_into_system_calls=len(chosen) - kills, kills=kills)
    print(
        f"{name}: {len(calls)} file calls, seed {effort.SEED}: {len(chosen)} of {len(cases)} "
        f"cases, {len(chosen) - kills} faults injected, {kills} kills; "
        + ", ".join(f"{n} {what}" for what, n in sorted(Counter(c.name for c, _ in chosen).items()))
    )
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(chosen)} cases", failures)


# --- the harness itself --------------------------------------------------------------


def test_a_kill_at_a_call_comes_before_its_effect(nursery: Nursery, tmp_path: Path) -> None:
    stage = Stage("write", nursery, tmp_path)
    [named] = [
        call
        for call in stage.run().calls
        if call.name.startswith("rename") and call.path.endswith("journal.json.tmp")
    ]
    stage.run(f"{named.name}:signal=KILL:when={named.nth}")
    assert os.listdir(stage.path).count("journal.json.tmp") == 1
    assert "journal.json" not in os.listdir(stage.path)


def test_an_acknowledged_event_that_is_gone_is_seen(nursery: Nursery, tmp_path: Path) -> None:
    stage = Stage("reopen", nursery, tmp_path)
    writes = [c for c in stage.run().calls if c.name == "pwrite64" and c.path.endswith(".seg")]
    # The last two are the close: its event, and the pad after it.
    run = stage.run(f"pwrite64:signal=KILL:when={writes[-2].nth}")
    told = hear(run.lines, stage.ledger)
    assert told.ledger.receipts
    check_unrecovered(stage.path, told.ledger)
    [newest] = sorted(Path(stage.path, "segments").glob("*.seg"))[-1:]
    last = newest.read_bytes().rindex(b"BPC1")
    os.truncate(newest, last)
    with pytest.raises(AssertionError, match="acknowledged and gone"):
        check_unrecovered(stage.path, told.ledger)


def test_a_trace_is_read_by_process_name_and_number() -> None:
    text = """\
7 openat(AT_FDCWD</w>, "/j/journal.lock", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3</j/journal.lock>
8 pwrite64(9</other>, "x", 1, 0) = 1
7 pwrite64(3</j/journal.lock>, "7"..., 2, 0) = 2
7 pwrite64(3</j/journal.lock>, "7"..., 2, 0) = -1 EIO (Input/output error) (INJECTED)
7 fsync(3</j/journal.lock> <unfinished ...>
8 fsync(9</other>) = 0
7 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)
7 rename("/j/a.tmp", "/j/a") = ?
7     +++ killed by SIGKILL +++
"""
    calls, injected = read_trace(text, 7)
    assert [call.key for call in calls] == [
        ("openat", 1, "/j/journal.lock"),
        ("pwrite64", 1, "/j/journal.lock"),
        ("pwrite64", 2, "/j/journal.lock"),
        ("fsync", 1, "/j/journal.lock"),
        ("rename", 1, "/j/a.tmp"),
    ]
    assert [call.creates for call in calls] == [True, False, False, False, False]
    assert injected == calls[2:]
