"""Test the tests: a seeded sample of mutants, and how many of them any test notices.

Usage: python -m tools.mutation [--seed N] [--sample N] [--only MODULE] [--id ID …]
                                [--tests PATH …] [--cases N] [--workers N] [--least PERCENT]
                                [--reuse]

Prints the seed, a line for each mutant that no test noticed, with its difference, and
what became of the rest. Survivors whose id stands in docs/mutation.md are explained there;
they count as survivors all the same. Exit status 1 below --least percent. All that it
writes is in build/mutation.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
import shutil
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tools.mutation.operators import Mutant, mutants_of
from tools.mutation.targets import MODULES, TESTS
from tools.mutation.trial import ROOT, Covering, Outcome, Verdict, Workshop, record

BUILD: Final = ROOT / "build" / "mutation"
PAGE: Final = ROOT / "docs" / "mutation.md"
NOTICED: Final = (Outcome.KILLED, Outcome.TIMEOUT)


def all_mutants(root: Path = ROOT) -> list[Mutant]:
    """Every mutant of every module, in order."""
    return [
        mutant
        for module in MODULES
        for mutant in mutants_of((root / "src" / module).read_text(encoding="utf-8"), module)
    ]


def explained(page: str) -> dict[str, str]:
    """Id to reason, from the table rows of docs/mutation.md: | `id` | change | reason |."""
    rows = re.findall(r"(?m)^\| `([0-9a-f]{8})` \|.*\| (.+) \|$", page)
    return dict(rows)


def difference(mutant: Mutant, source: bytes) -> str:
    """The change as a unified difference without its head, one line of context."""
    old = source.decode().splitlines()
    new = mutant.apply(source).decode().splitlines()
    lines = list(difflib.unified_diff(old, new, lineterm="", n=1))[3:]
    return "\n".join(f"    {line}" for line in lines)


def judge_all(chosen: list[Mutant], covering: Covering, workers: int) -> list[Verdict]:
    """The verdicts in the order of `chosen`; each worker has its own copy of the project."""
    shops: SimpleQueue[Workshop] = SimpleQueue()
    fast = sorted(covering.seconds, key=covering.seconds.__getitem__)[::20]
    for number in range(workers):
        shop = Workshop(BUILD / f"worker-{number}")
        shop.check(fast, covering)
        shops.put(shop)
    began = time.monotonic()
    done = 0

    def judge(mutant: Mutant) -> Verdict:
        nonlocal done
        shop = shops.get()
        try:
            verdict = shop.judge(mutant, covering)
        finally:
            shops.put(shop)
        done += 1
        if verdict.outcome not in NOTICED:
            print(f"{verdict.outcome.value}: {place(mutant)}", flush=True)
            print(difference(mutant, shop.source(mutant.module)), flush=True)
        elif done % 25 == 0:
            print(f"… {done} of {len(chosen)} in {time.monotonic() - began:.0f} s", flush=True)
        return verdict

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(judge, chosen))
    finally:
        while not shops.empty():
            shops.get().close()


def place(mutant: Mutant) -> str:
    """Where a mutant is, for people, and its id."""
    return f"src/{mutant.module}:{mutant.line} {mutant.where} `{mutant.id}`"


def summary(verdicts: list[Verdict], reasons: dict[str, str]) -> tuple[str, float]:
    """The closing table, and the percentage that was noticed."""
    lines = [f"{'module':<34} mutants  killed  timeout  survived  uncovered"]
    total: Counter[Outcome] = Counter(v.outcome for v in verdicts)
    for module in MODULES:
        counts = Counter(v.outcome for v in verdicts if v.mutant.module == module)
        if counts:
            lines.append(_row(module, counts))
    lines.append(_row("all", total))
    left = [v for v in verdicts if v.outcome not in NOTICED]
    known = [v for v in left if v.mutant.id in reasons]
    score = 100 * sum(total[o] for o in NOTICED) / len(verdicts) if verdicts else 0.0
    lines.append(f"noticed {score:.1f} %; of the {len(left)} left, {len(known)} are explained")
    return "\n".join(lines), score


def _row(name: str, counts: Counter[Outcome]) -> str:
    numbers = (counts[o] for o in Outcome)
    widths = (7, 8, 9, 10)
    shown = "".join(f"{n:>{w}}" for n, w in zip(numbers, widths, strict=True))
    return f"{name:<34} {counts.total():>7}{shown}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="make mutation ARGS=…", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--sample", type=int, default=300, help="mutants to try (300); 0: all")
    parser.add_argument("--only", choices=MODULES, action="append", help="of these modules only")
    parser.add_argument("--id", action="append", help="exactly these mutants")
    parser.add_argument("--workers", type=int, default=2, help="at a time (2)")
    parser.add_argument("--least", type=float, default=90.0, help="percent that must be noticed")
    parser.add_argument(
        "--cases", type=int, default=6, help="of a costly test's table, at most (6); 0: all"
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files or folders of tests")
    parser.add_argument(
        "--reuse", action="store_true", help="take which test runs which line from the last run"
    )
    options = parser.parse_args(arguments)
    mutants = all_mutants()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    pool = [m for m in mutants if options.only is None or m.module in options.only]
    if options.id:
        pool = [m for m in mutants if m.id in options.id]
    if options.sample and not options.id and options.sample < len(pool):
        chosen = sorted(
            random.Random(seed).sample(pool, options.sample),
            key=lambda m: (MODULES.index(m.module), m.start),
        )
    else:
        chosen = pool
    print(f"seed {seed}: {len(chosen)} of {len(mutants)} mutants, {options.workers} at a time")
    known = BUILD / "record" / "covering.json"
    if options.reuse and known.exists():
        found = json.loads(known.read_text(encoding="utf-8"))
    else:
        print("recording which test runs which line …", flush=True)
        found = record(BUILD / "record", options.tests, options.workers)
        for test in found["failed"]:
            print(f"left out, since it fails without any mutant: {test}")
    covering = Covering(found, options.cases)
    verdicts = judge_all(chosen, covering, options.workers)
    table, score = summary(verdicts, explained(PAGE.read_text(encoding="utf-8")))
    print(f"\nseed {seed}\n{table}")
    (BUILD / "verdicts.json").write_text(
        json.dumps(
            {v.mutant.id: [place(v.mutant), v.outcome.value, v.by, v.tests] for v in verdicts},
            indent=1,
        ),
        encoding="utf-8",
    )
    for number in range(options.workers):
        shutil.rmtree(BUILD / f"worker-{number}", ignore_errors=True)
    return 0 if score >= options.least else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
