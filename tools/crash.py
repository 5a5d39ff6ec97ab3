"""Cut the power in recorded lives of a journal, again and again, and judge what is left.

Usage: python -m tools.crash [--states N] [--seed N] [--workers N] [--only WORKLOAD[:ROUND]]

Prints a line for each workload: disk states judged, power cuts inside recovery, damage
tried, and how many ordinary power cuts were refused (a failure, like any other broken
promise). The same seed gives the same states. Exit code 1 if a promise was broken.
What is judged, and how, is in tests/crash/power_cuts/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.crash.power_cuts.campaign import KINDS, Tally, run
from tests.crash.power_cuts.workloads import HEAVY, WORKLOADS

BUDGET = 250
"""States of one recording, spread over all its cuts."""
SHOWN = 5
"""Failures that are printed whole."""
GIVE_UP = 100
"""So many failures say enough."""


class Done(NamedTuple):
    """One recording judged, and what went wrong with it."""

    workload: str
    counts: Counter[str]
    failure: str | None


def judge_recording(workload: str, seed: int, number: int) -> Done:
    """Runs in a worker process."""
    tally = Tally()
    failure = None
    try:
        run(workload, seed, number, HEAVY.get(workload, BUDGET), tally)
    except Exception:  # noqa: BLE001  # whatever it is, it is the finding that we are here for
        failure = traceback.format_exc(limit=-4)
    return Done(workload, tally.counts, failure)


def table(totals: dict[str, Counter[str]]) -> list[str]:
    """A line for each workload, and one for all."""
    width = max(map(len, WORKLOADS))
    heads = ("recordings", *KINDS)
    lines = [" | ".join(["workload".ljust(width), *heads])]
    overall: Counter[str] = Counter()
    for workload, counts in totals.items():
        overall += counts
        lines.append(_line(workload.ljust(width), counts, heads))
    lines.append(_line("all".ljust(width), overall, heads))
    return lines


def _line(name: str, counts: Counter[str], heads: tuple[str, ...]) -> str:
    return " | ".join([name, *(f"{counts[head]:,}".rjust(len(head)) for head in heads)])


def chosen(only: str | None) -> tuple[list[str], int | None]:
    """The workloads that were asked for, and the one round of them, if one was."""
    if only is None:
        return list(WORKLOADS), None
    name, _, round_ = only.partition(":")
    if name not in WORKLOADS or (round_ and not (round_.isascii() and round_.isdigit())):
        raise SystemExit(f"--only takes one of: {', '.join(WORKLOADS)}; a round may follow a colon")
    return [name], int(round_) if round_ else None


def number(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers within bounds, for the command line."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number")
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to {most}")
        return value

    return read


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.crash", description="Power cuts in every place: see make crash."
    )
    parser.add_argument(
        "--states", type=number(1, 10**9), default=100_000, help="disk states to judge"
    )
    parser.add_argument(
        "--seed", type=number(0, 10**9), default=1, help="another one draws other states"
    )
    parser.add_argument("--workers", type=number(1, 64), default=2, help="processes")
    parser.add_argument("--only", metavar="WORKLOAD[:ROUND]", help="one workload, one recording")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    options = arguments_of(arguments)
    workloads, single = chosen(options.only)
    totals: dict[str, Counter[str]] = {name: Counter() for name in workloads}
    failures: list[Done] = []
    began = time.monotonic()
    round_number = single or 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        while True:
            tasks = [
                pool.submit(judge_recording, name, options.seed, round_number) for name in workloads
            ]
            for task in tasks:
                done = task.result()
                totals[done.workload] += done.counts
                if done.failure is not None:
                    failures.append(done)
                    if len(failures) <= SHOWN:
                        print(f"\n{done.workload}:\n{done.failure}", flush=True)
            round_number += 1
            states = sum(counts["states"] for counts in totals.values())
            print(
                f"round {round_number}: {states:,} states, {len(failures)} broken promises, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            if states >= options.states or single is not None or len(failures) >= GIVE_UP:
                break
    return conclude(options.seed, totals, failures)


def conclude(seed: int, totals: dict[str, Counter[str]], failures: list[Done]) -> int:
    """Print what was tried and seen; the exit code."""
    print(f"\nseed {seed}", *table(totals), sep="\n")
    overall = sum(totals.values(), Counter[str]())
    print(
        f"\n{overall['states']:,} states, {overall['second crashes']:,} crashes inside recovery, "
        f"{overall['power cuts refused']} ordinary power cuts refused, "
        f"{len(failures)} broken promises"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
