"""Go through a workload's cuts and through the states that each may leave.

The states of a cut are enumerated where they are few; where they are many, the newest,
the oldest and a seeded sample stand for them. States that look the same and promise the
same are judged once.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from batpak.engine import bulk_walk, opening
from tests.crash.power_cuts.disk_model import PAGE, SECTOR, Pick, Survivors
from tests.crash.power_cuts.memory_files import State
from tests.crash.power_cuts.oracle import Expected, damage, judge, judge_on_disk, leaning
from tests.crash.power_cuts.recording import Recording, Refused
from tests.crash.power_cuts.workloads import record

__all__ = ["KINDS", "Tally", "enumerated", "examine", "run", "run_until"]

_ON_DISK_EVERY = 40
_DAMAGE_SHARE = 0.2
_DEEPER_SHARE = 0.1


KINDS = (
    "states",
    "cuts",
    "cuts enumerated",
    "second crashes",
    "claims",
    "tails set aside",
    "readers before recovery",
    "on the real file system",
    "damage refused",
    "damage named",
    "power cuts refused",
)
"""What is counted: `cuts enumerated` are those whose every state was judged."""


@dataclass(slots=True)
class Tally:
    """What was tried and seen."""

    counts: Counter[str] = field(default_factory=Counter[str])

    @property
    def states(self) -> int:
        """Disk states that were judged."""
        return self.counts["states"]

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[kind]} {kind}" for kind in KINDS)


def enumerated(survivors: Survivors, most: int) -> list[State] | None:
    """Every state that the disk may hold; None when there are more than `most`."""
    found: list[State] = []
    prefix: list[int] = []
    while len(found) <= most:
        taken: list[tuple[int, int]] = []

        def pick(n: int, prefix: list[int] = prefix, taken: list[tuple[int, int]] = taken) -> int:
            chosen = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((chosen, n))
            return chosen

        found.append(survivors.draw(pick))
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return found
        prefix = [chosen for chosen, _ in taken]
        prefix[-1] += 1
    return None


def oldest(n: int) -> int:
    """The pick that lets nothing unsynced survive."""
    del n
    return 0


def newest(n: int) -> int:
    """The pick that lets everything survive."""
    return n - 1


def states(survivors: Survivors, most: int, draw: random.Random) -> Iterator[State]:
    """The extremes, then a sample with a few more tries than are wanted."""
    picks: list[Pick] = [newest, oldest]
    for pick in picks:
        yield survivors.draw(pick)
    for _ in range(2 * most):
        yield survivors.draw(leaning(draw))


def examine(
    recording: Recording, budget: int, draw: random.Random, tally: Tally, *, unit: int = PAGE
) -> None:
    """Judge about `budget` states of one recording, spread over all its cuts.

    Raises AssertionError with notes that say where the power was cut.
    """
    counts = tally.counts
    survivors = Survivors(recording.start, unit)
    seen: set[tuple[bytes, int, int, int]] = set()
    left = budget
    cuts = len(recording.log) + 1
    for cut in range(cuts):
        if cut:
            survivors.advance(recording.log[cut - 1])
        want = -(-left // (cuts - cut))
        if want <= 0:
            continue
        counts["cuts"] += 1
        promise = recording.promised(cut)
        expected = Expected(
            recording.truth, recording.commits, promise.events, promise.cursor,
            recording.cursors, recording.options, recording.kept, recording.erased,
            [(at <= cut, claim) for at, claim in recording.claims],
        )  # fmt: skip
        every = enumerated(survivors, want)
        counts["cuts enumerated"] += every is not None
        done = 0
        for state in every if every is not None else states(survivors, want, draw):
            claims = sum(promised for promised, _ in expected.claims)
            key = (state.digest(), promise.events, promise.cursor, claims)
            if key in seen:
                continue
            seen.add(key)
            done += 1
            counts["states"] += 1
            try:
                _judge_one(state, expected, draw, counts)
            except Exception as error:
                counts["power cuts refused"] += isinstance(error, Refused)
                last = recording.log[cut - 1] if cut else "nothing"
                error.add_note(
                    f"workload {recording.workload}, power cut after {cut} changes, the last:"
                    f" {last}; pages of {unit} bytes; promised: {promise.events} events"
                )
                raise
            if done == want:
                break
        left -= done


def _judge_one(state: State, expected: Expected, draw: random.Random, counts: Counter[str]) -> None:
    depth = 1 if draw.random() >= _DEEPER_SHARE else draw.choice((2, 3))
    with _reading_in_bulk(counts["states"] % 2 == 0):
        first = judge(state, expected, draw, counts, depth=depth)
        if draw.random() < _DAMAGE_SHARE:
            damage(first, expected, draw, counts)
    if counts["states"] % _ON_DISK_EVERY == 0:
        judge_on_disk(state, expected, _folder())
        counts["on the real file system"] += 1


@contextmanager
def _reading_in_bulk(yes: bool) -> Iterator[None]:
    """Inside, recovery takes whatever it can many records at a time, or nothing.

    In bulk it also writes each sidecar again that is lost, of however few records.
    """
    before = bulk_walk.WORTH, opening.MIN_UNCOVERED
    bulk_walk.WORTH, opening.MIN_UNCOVERED = (64, 1) if yes else (1 << 62, 1 << 62)
    try:
        yield
    finally:
        bulk_walk.WORTH, opening.MIN_UNCOVERED = before


def _folder() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def run(workload: str, seed: int, number: int, budget: int, tally: Tally) -> None:
    """Record a workload anew, as `seed` and `number` say, and judge states of it.

    Raises what `examine` raises; a note says how to get the same states again.
    """
    draw = random.Random(f"{seed} {workload} {number}")
    # A third of the recordings is cut to sectors: more states, and smaller tears.
    unit = SECTOR if number % 3 == 2 else PAGE
    tally.counts["recordings"] += 1
    try:
        with _without_logging():
            examine(record(workload, draw), budget, draw, tally, unit=unit)
    except Exception as error:
        error.add_note(f"again: python -m tools.crash --seed {seed} --only {workload}:{number}")
        raise


def run_until(workload: str, seed: int, wanted: int, tally: Tally, *, each: int = 64) -> None:
    """Record and judge again and again until `wanted` states were judged.

    Raises as `run`; AssertionError when the workload has no more states to offer.
    """
    for number in range(wanted):
        before = tally.states
        if before >= wanted:
            return
        run(workload, seed, number, min(each, wanted - before), tally)
        assert tally.states > before, f"{workload} has no states left"


@contextmanager
def _without_logging() -> Iterator[None]:
    """Each recovery here logs what it cut; that would be most of the time and all of the text."""
    logger = logging.getLogger("batpak")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
