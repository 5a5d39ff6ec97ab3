"""Run every target, or some, for a while: `python -m tests.fuzz [--seconds N] [TARGET …]`.

`--seconds` is the time in all; each target gets an equal share, and at least one second.
Starts from the committed corpora and regressions and from what earlier runs gathered in
build/fuzz/gathered. Prints executions and coverage a target. A finding is saved in
build/fuzz/findings, and the exit status is 1: fix it, and commit the file below
tests/fuzz/regressions/TARGET.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz import target

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "fuzz"
MEMORY_MB: Final = 1024
"""A target that takes more is a finding: no input is over 8 KiB."""
SLOWEST_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Run:
    """What one target's run said."""

    name: str
    executions: int
    covered_before: int
    covered_after: int
    inputs: int
    findings: tuple[Path, ...]
    log: Path
    ok: bool


def run(name: str, seconds: int, seed: int) -> Run:
    """Fuzz one target; `covered` counts edges of the library's code that inputs reached."""
    gathered = BUILD / "gathered" / name
    findings = BUILD / "findings" / name
    log = BUILD / f"{name}.log"
    gathered.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    known = set(findings.iterdir())
    folders = [gathered, target.CORPUS / name, target.REGRESSIONS / name]
    command = [
        sys.executable, "-m", "tests.fuzz.engine", name,
        f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={findings}{os.sep}",
        f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOWEST_SECONDS}", "-print_final_stats=1",
        *(str(folder) for folder in folders if folder.is_dir()),
    ]  # fmt: skip
    with log.open("wb") as out:
        status = subprocess.run(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = log.read_text(encoding="utf-8", errors="replace")
    covered = [int(n) for n in re.findall(r"cov: (\d+)", text)]
    executions = re.findall(r"number_of_executed_units: +(\d+)", text) or re.findall(
        r"(?m)^#(\d+)", text
    )
    begun = re.search(r"INITED cov: (\d+)", text)
    return Run(
        name,
        int(executions[-1]) if executions else 0,
        int(begun[1]) if begun else 0,
        max(covered, default=0),
        len(list(gathered.iterdir())),
        tuple(sorted(set(findings.iterdir()) - known)),
        log,
        status == 0 and bool(executions),
    )


def main(arguments: list[str]) -> int:
    targets = target.load()
    parser = argparse.ArgumentParser(
        prog="make fuzz", description="Fuzz every decoder, or the targets that are named."
    )
    parser.add_argument("--seconds", type=int, default=60, help="in all, shared evenly")
    parser.add_argument("--seed", type=int, default=0, help="0: a random one")
    parser.add_argument("--workers", type=int, default=1, help="targets at a time")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs gathered")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets))
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(targets)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    chosen = options.targets or list(targets)
    if options.fresh:
        shutil.rmtree(BUILD / "gathered", ignore_errors=True)
    share = max(1, options.seconds * options.workers // len(chosen))
    print(f"{len(chosen)} targets, {share} s each; at most {MEMORY_MB} MiB")
    print(f"{'target':<20} executions  covered edges  new inputs")
    failed = False
    with ThreadPoolExecutor(options.workers) as pool:
        for one in pool.map(lambda name: run(name, share, options.seed), chosen):
            growth = f"{one.covered_before} → {one.covered_after}"
            print(
                f"{one.name:<20} {one.executions:>10}  {growth:>13}  {one.inputs:>10}", flush=True
            )
            if not one.ok:
                failed = True
                print(f"  failed; its last words, all of them in {one.log}:")
                print("".join(f"    {line}\n" for line in last_words(one.log)), end="")
            for path in one.findings:
                print(f"  saved {path}")
    return 1 if failed else 0


def last_words(log: Path) -> list[str]:
    """What a failed run says about its failure."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begin = next((n for n, line in enumerate(lines) if "=== Uncaught" in line), len(lines) - 12)
    return [line[:200] for line in lines[max(begin, 0) : max(begin, 0) + 30]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
