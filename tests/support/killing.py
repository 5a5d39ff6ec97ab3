"""Kill writers without warning, as often as asked, and hold each journal to what was said.

Usage: python -m tests.support.killing [--rounds N] [--seed N]

A journal lives through some rounds: in each a child of the nursery opens it, which
recovers what the last kill left, and appends from one or several threads until it gets
SIGKILL. How many acknowledgements are awaited and how long it may then go on is drawn by
the seed; nothing is asserted of time. After each kill two readers that change nothing look
at the journal, and after its last a writer opens it:

    acknowledged    there, with the sequence, id and hash that the receipt said
    a batch         whole, its events in consecutive places
    a worker        its commits in order, none missing; at most one more than acknowledged
    a journal       every hash and link verifies

A chain is another kind of life: a torn tail, then five opens in a row, each killed at an
operation of its recovery or just after.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from batpak import EventId, Store, canonical
from batpak.store import ReadOnlyStore
from tests.support.checker import Ledger, check_journal
from tests.support.nursery import Line, Nursery
from tests.support.testimony import check_unrecovered, hear
from tools import read_segment

ROUNDS_OF_A_JOURNAL = 6
CRASHES = 5
_LONGEST = 0.03
"""Seconds that a writer may go on after the acknowledgements that were awaited."""
_OPERATIONS = 90
"""About as many as an open with a tear makes; a draw beyond them kills just after."""


class Manner(NamedTuple):
    """How a journal is written; `batch` 0 draws a size for each commit."""

    mode: str
    threads: int
    batch: int

    def __str__(self) -> str:
        size = f"batches of {self.batch}" if self.batch else "any size"
        return f"{self.mode}, threads: {self.threads}, {'singles' if self.batch == 1 else size}"


MANNERS = [
    Manner(*each) for each in itertools.product(("sync", "every", "timer", "os"), (1, 4), (1, 4, 0))
]


@dataclass(slots=True)
class Tally:
    """What was done and seen."""

    kills: int = 0
    before_open: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    events: int = 0
    chains: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.before_open} before the open was over), "
            f"{self.acknowledged} events acknowledged, {self.unacknowledged} commits there that "
            f"nobody had been told of, {self.chains} chains of {CRASHES} crashes, 0 events lost"
        )


@dataclass(slots=True)
class Claims:
    """What writers said of one journal: receipts, and the last commit of each worker."""

    receipts: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    last: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def add(self, turn: int, line: Line) -> None:
        worker = turn, line["who"]
        assert line["commit"] == self.last.get(worker, -1) + 1, "commits are told in order"
        self.last[worker] = line["commit"]
        self.receipts += [(sequence, id_, hash_) for sequence, id_, hash_ in line["acknowledged"]]


def check_commits(events: dict[int, Line], claims: Claims) -> int:
    """Hold users' payloads by sequence to the claims; the number of commits beyond them."""
    commits: dict[tuple[int, int], list[int]] = {}
    sequences = sorted(events)
    at = 0
    while at < len(sequences):
        first = events[sequences[at]]
        group = sequences[at : at + first["of"]]
        assert group == [*range(group[0], group[0] + first["of"])], f"a batch has gaps: {group}"
        for i, sequence in enumerate(group):
            assert events[sequence] == {**first, "i": i}, f"a batch is not whole: {first}"
        commits.setdefault((first["round"], first["who"]), []).append(first["commit"])
        at += len(group)
    beyond = 0
    for worker in {*commits, *claims.last}:
        told, found = claims.last.get(worker, -1), commits.get(worker, [])
        assert found == [*range(len(found))], f"worker {worker}: commits out of order or missing"
        more = len(found) - 1 - told
        assert more in (0, 1), f"worker {worker}: told of {told}, there are {len(found)}"
        beyond += more
    return beyond


def check_killed(path: str, claims: Claims) -> int:
    """Look at a journal that nobody recovered, changing nothing; as `check_commits`."""
    events: dict[int, Line] = {}
    ids: dict[int, str] = {}

    def keep(line: Line) -> None:
        ids[line["sequence"]] = line["event_id"].replace("-", "")
        if line["kind"] >> 12:
            value = canonical.decode(bytes.fromhex(line["payload"]))
            assert isinstance(value, dict)
            events[line["sequence"]] = value

    try:
        report = read_segment.read_journal(path, keep)
    except read_segment.NoJournalError:
        assert not claims.receipts, "acknowledged events and no journal"
        return 0
    assert report.ok, [finding.line() for finding in report.findings]
    for sequence, id_, _ in claims.receipts:
        assert ids.get(sequence) == id_.removeprefix("event:"), f"{sequence} is gone: {id_}"
    with Store.open(path, mode="r") as reader:
        verified = reader.verify("full")
        assert verified.ok, verified.findings
        check_receipts(reader, claims)
    return check_commits(events, claims)


def check_receipts(store: Store | ReadOnlyStore, claims: Claims) -> None:
    """Assert that each acknowledged event is what its receipt said."""
    for sequence, id_, hash_ in claims.receipts:
        event = store.get(EventId.parse(id_))
        assert (event.sequence, event.event_hash.hex()) == (sequence, hash_)


def live_and_be_killed(
    nursery: Nursery, path: str, manner: Manner, chance: random.Random, rounds: int, tally: Tally
) -> None:
    """One journal, and so many writers that are killed."""
    claims = Claims()
    seed = chance.getrandbits(32)
    for turn in range(rounds):
        with nursery.child("works", path, round=turn, seed=seed, **manner._asdict()) as child:
            child.listen_for(chance.choice((0, 1, 2, 5, 20)))
            child.listen(time.monotonic() + chance.random() * _LONGEST)
            child.kill()
            child.listen_to_end()
        assert child.status == -signal.SIGKILL, child.lines[-1:]
        opened = [line for line in child.lines if "opened" in line]
        tally.kills += 1
        tally.before_open += not opened
        for line in child.lines:
            if "opened" not in line:
                claims.add(turn, line)
        beyond = check_killed(path, claims)
    tally.unacknowledged += beyond
    tally.acknowledged += len(claims.receipts)
    with Store.open(path) as store:
        verified = store.verify("full")
        assert verified.ok, verified.findings
        check_receipts(store, claims)
        events: dict[int, Line] = {}
        for event in store:
            if event.kind.category:
                assert isinstance(event.value, dict)
                events[event.sequence] = event.value
        tally.events += len(events)
        assert check_commits(events, claims) == beyond, "the open lost or made a commit"


def crash_in_a_row(nursery: Nursery, path: str, chance: random.Random, tally: Tally) -> None:
    """A torn tail, five opens that are killed one after the other, then one that lives."""
    ledger = Ledger()
    for life, options in (
        ("writes", {}),
        (
            "outgrows",
            {"extra": chance.randrange(1, 350), "dies": True, "entities": ["player:0", "player:1"]},
        ),
    ):
        with nursery.child(life, path, number=ledger.numbers, mode="os", **options) as child:
            child.listen_to_end()
        ledger = hear(child.lines, ledger).ledger
    assert child.status == -signal.SIGXFSZ, child.lines[-1:]
    for _ in range(CRASHES):
        doomed = chance.randrange(_OPERATIONS)
        mode = chance.choice(("sync", "every", "os"))
        with nursery.child(
            "reopens", path, number=ledger.numbers, mode=mode, doomed=doomed
        ) as child:
            child.listen_to_end()
        assert child.status == -signal.SIGKILL, child.lines[-1:]
        told = hear(child.lines, ledger)
        assert not told.complaints, told.complaints[0]
        ledger = told.ledger
        tally.kills += 1
        tally.before_open += not told.opened
        check_unrecovered(path, ledger)
    check_journal(path, ledger)
    tally.chains += 1


def places(root: Path) -> Iterator[str]:
    """One fresh directory after the other; each is gone when the next is asked for."""
    for number in itertools.count():
        place = root / str(number)
        yield str(place / "journal")
        shutil.rmtree(place, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill writers and look for what is missing.")
    parser.add_argument("--rounds", type=int, default=3000, help="kills, at least")
    parser.add_argument("--seed", type=int, default=1, help="another one, other moments")
    options = parser.parse_args(arguments)
    tally, began = Tally(), time.monotonic()
    chance = random.Random(f"kills {options.seed}")
    with Nursery() as nursery, tempfile.TemporaryDirectory(prefix="batpak-kills-") as root:
        for turn, path in enumerate(places(Path(root))):
            manner = MANNERS[turn % len(MANNERS)]
            try:
                live_and_be_killed(nursery, path, manner, chance, ROUNDS_OF_A_JOURNAL, tally)
            except BaseException:
                kept = Path(tempfile.mkdtemp(prefix="batpak-lost-"), "journal")
                shutil.copytree(path, kept, dirs_exist_ok=True)
                print(f"seed {options.seed}, {manner}: kept at {kept}; {tally}", file=sys.stderr)
                raise
            if turn % 4 == 0:
                crash_in_a_row(nursery, path + "-chain", chance, tally)
            if tally.kills >= options.rounds:
                break
    print(f"seed {options.seed}: {tally}; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
