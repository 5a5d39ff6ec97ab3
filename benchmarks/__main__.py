"""The command line: `python -m benchmarks`, from the repository's root.

Exit codes: 0 measured, 1 something gave no figure (or, with --strict, missed its
budget), 2 usage. A contender whose language is not on this machine is reported as absent
and changes no exit code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import machine, report, rust
from benchmarks.plan import ROUNDS, RUST_ROUNDS, SCENARIOS, Scenario
from benchmarks.runner import REPOSITORY, Outcome, Runner

RESULTS: Final = REPOSITORY / "benchmarks" / "results"
LEAST_EVENTS: Final = 2_000
"""Fewer leave a journal without a sidecar, and rates that say nothing."""


def main() -> int:
    arguments = _arguments()
    chosen = [one for one in SCENARIOS if not arguments.only or one.name in arguments.only]
    directory: Path = arguments.dir
    directory.mkdir(parents=True, exist_ok=True)
    kind = machine.file_system(directory)
    if kind in machine.MEMORY_FILE_SYSTEMS:
        print(
            f"the work directory is on {kind}, where a sync costs nothing and means nothing: "
            "choose one on a disk with --dir",
            file=sys.stderr,
        )
        return 2
    peer = _rust(chosen)
    facts = {**machine.describe(directory), **peer.facts}
    parameters = {"rounds": arguments.rounds or ROUNDS, "events": arguments.events}
    print(report.facts(facts, parameters), flush=True)
    start = time.monotonic()
    runner = Runner(directory, arguments.events, arguments.rounds, _say, peer)
    try:
        outcomes = [runner.run(scenario) for scenario in chosen]
    finally:
        runner.close()
    parameters["seconds"] = round(time.monotonic() - start)
    return _finish(arguments, outcomes, facts, parameters)


def _rust(chosen: list[Scenario]) -> rust.Peer:
    """Built before anything is measured, and only if something chosen asks for it."""
    names = {contender.name for scenario in chosen for contender in scenario.contenders}
    return rust.build(_say) if names & rust.CONTENDERS else rust.Peer()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _finish(
    arguments: argparse.Namespace,
    outcomes: list[Outcome],
    facts: dict[str, str | int | float | None],
    parameters: dict[str, int],
) -> int:
    print(f"\n{report.terminal(outcomes)}\n\n{report.notes(outcomes)}")
    failures = report.failures(outcomes)
    for line in [*failures, *report.absences(outcomes)]:
        print(f"no figure: {line}", file=sys.stderr)
    text = json.dumps(report.document(outcomes, facts, parameters), indent=2, ensure_ascii=False)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if not arguments.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "latest.json").write_text(text + "\n", encoding="utf-8")
        page = report.markdown(outcomes, facts, parameters)
        (RESULTS / "latest.md").write_text(page, encoding="utf-8")
    missed = [outcome.scenario.name for outcome in outcomes if outcome.met() is False]
    held = sum(outcome.met() is True for outcome in outcomes)
    print(
        f"\n{held} budgets met, {len(missed)} missed, {len(failures)} without a figure, "
        f"{parameters['seconds']} s"
    )
    return 1 if failures or (arguments.strict and missed) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure batpak beside its peers and print ratios.",
        epilog="example: python -m benchmarks --only append-sync --rounds 9",
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--rounds",
        type=_at_least(1),
        help=f"rounds of each contender (default {ROUNDS}, of the Rust batpak {RUST_ROUNDS})",
    )
    parser.add_argument(
        "--events",
        type=_at_least(LEAST_EVENTS),
        default=100_000,
        help=f"events in a log, {LEAST_EVENTS} or more (default 100000; fewer where each syncs)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"this scenario, repeatable; leaves results/ alone. One of: {', '.join(names)}",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures there too")
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "build" / "bench",
        help="where logs are made; must be on a disk (default build/bench)",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 on a missed budget")
    return parser.parse_args()


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
