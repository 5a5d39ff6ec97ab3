"""The command line of `make bench-growth`: does the cost of an event grow with the journal?

One journal of batpak grows to 10^4, 10^5, … events; at each size every work is measured
once, in a process of its own. The table shows each cost beside its ratio to the cost at
the first size. No peers, no budgets: `python -m benchmarks` has those. With --keys each event
is written under an idempotency key of its own.

Exit codes: 0 measured, 1 something gave no figure, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import machine, report
from benchmarks.runner import REPOSITORY, NoFigureError, child_command, measure
from benchmarks.work import Job, Measured

RESULTS: Final = REPOSITORY / "benchmarks" / "results"
SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
DEFAULT_SIZE: Final = 1_000_000
TIMEOUT_S: Final = 4 * 3600
BYTES_PER_EVENT: Final = 800
"""Room that is asked for: segment, sidecar, and what a rebuild writes anew."""

NOTES: Final = (
    "One journal, one round, batpak only; in brackets the ratio to the first size. Append: the "
    "last 10 000 events before the size was reached, mode OS. Get and page: random places, "
    "payloads decoded, file cache warm. Processor time is the process's own, for runs beside "
    "other work. Memory: resident and not mapped (RssAnon), the growth since before the open; "
    "one process appended all since the size before, another opened and read."
)


KEYS_NOTE: Final = (
    " Each event has a key of its own, by which it is read. Retry: an append under a random key "
    "that is known, whose first receipt comes back."
)
WORKS: Final = ("grow", "get", "retry", "page", "snapshot", "open_clean", "open_bare")
"""In order: the last one takes the others' index files away. A retry needs keys."""

Figures = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A cost at each size, in `unit`; None where there is no figure."""

    title: str
    unit: str
    values: Figures

    def cells(self) -> list[str]:
        """The figures, from the second on with the ratio to the first."""
        first = self.values[0]
        cells = list[str]()
        for number, value in enumerate(self.values):
            if value is None:
                cells.append("–")
            elif number and first:
                cells.append(f"{_figure(value)} ({value / first:.2f} ×)")
            else:
                cells.append(_figure(value))
        return cells


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


Seen = Mapping[tuple[str, int], Measured]


def rows(sizes: Sequence[int], seen: Seen) -> list[Row]:
    """The table of what was measured, by work and size."""

    def figures(work: str, of: Callable[[Measured, int], float | None]) -> Figures:
        return tuple(of(seen[work, size], size) if (work, size) in seen else None for size in sizes)

    def times(title: str, unit: str, work: str) -> list[Row]:
        wall = figures(work, lambda found, _: found.value)
        busy = figures(work, lambda found, _: found.details.get("busy"))
        return [Row(title, unit, wall), Row("  processor time", unit, busy)]

    def each(found: Measured, size: int) -> float:
        return 1e3 * found.value / size

    def memory(found: Measured, size: int) -> float | None:
        total = found.details.get("anonymous_bytes")
        return None if total is None else total / size

    has_keys = any(work == "retry" for work, _ in seen)
    return [
        *times("append, one event per commit, OS", "µs", "grow"),
        *times("get by id", "µs", "get"),
        *(times("retry under a known key", "µs", "retry") if has_keys else ()),
        *times("page of 100 for one entity", "µs", "page"),
        *times("snapshot, beside it on one disk", "ms", "snapshot"),
        *times("open after a clean close", "ms", "open_clean"),
        *times("open without disposable files", "ms", "open_bare"),
        Row("open without disposable files, per event", "µs", figures("open_bare", each)),
        Row("memory, appending", "B/event", figures("grow", memory)),
        Row("memory, opened and read", "B/event", figures("get", memory)),
    ]


def markdown(
    sizes: Sequence[int],
    table: Sequence[Row],
    facts: Mapping[str, str | int | float | None],
    parameters: Mapping[str, int],
    failures: Sequence[str],
) -> str:
    """The table as a page, for people to read in a terminal too."""
    lines = [["Cost", "Unit", *(f"{size:,}" for size in sizes)]]
    lines += [[row.title, row.unit, *row.cells()] for row in table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["# Growth", "", report.facts(facts, parameters) + ".", ""]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        text.append(f"| {' | '.join(padded)} |")
    text += ["", NOTES + (KEYS_NOTE if any("key" in row.title for row in table) else "")]
    return "\n".join([*text, *(f"\nNo figure: {line}" for line in failures), ""])


def main() -> int:
    arguments = _arguments()
    directory: Path = arguments.dir
    directory.mkdir(parents=True, exist_ok=True)
    kind = machine.file_system(directory)
    if kind in machine.MEMORY_FILE_SYSTEMS:
        return _refuse(f"the work directory is on {kind}: choose one on a disk with --dir")
    free, needed = shutil.disk_usage(directory).free, BYTES_PER_EVENT * arguments.to
    if free < needed:
        return _refuse(
            f"{arguments.to:,} events need {needed >> 20:,} MiB and {free >> 20:,} MiB are free: "
            "choose another disk with --dir, or fewer with --to"
        )
    sizes = [size for size in SIZES if size <= arguments.to]
    facts = machine.describe(directory)
    start = time.monotonic()
    seen, failures = _measure_all(sizes, directory, keys=arguments.keys)
    parameters = {"events": arguments.to, "seconds": round(time.monotonic() - start)}
    name = "growth-keys" if arguments.keys else "growth"
    table = rows(sizes, seen)
    page = markdown(sizes, table, facts, parameters, failures)
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    document = {
        "format": 1,
        "machine": facts,
        "parameters": parameters,
        "sizes": sizes,
        "costs": [{"title": r.title, "unit": r.unit, "values": r.values} for r in table],
        "failures": failures,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    return 1 if failures else 0


def _measure_all(
    sizes: Sequence[int], parent: Path, *, keys: bool
) -> tuple[dict[tuple[str, int], Measured], list[str]]:
    """Every work at every size. A journal that did not grow leaves no further figures."""
    seen, failures = dict[tuple[str, int], Measured](), list[str]()
    root = Path(tempfile.mkdtemp(prefix="growth-", dir=parent))
    try:
        for size in sizes:
            for work in WORKS:
                if work == "retry" and not keys:
                    continue
                contender = "keyed" if keys else "batpak"
                job = Job(contender, f"growth-{work}", str(root), size)
                try:
                    seen[work, size] = found = measure(child_command(job), TIMEOUT_S)
                except NoFigureError as error:
                    failures.append(f"{work} at {size:,}: {error}")
                    print(failures[-1], file=sys.stderr)
                    if work == "grow":
                        return seen, failures
                else:
                    print(f"{work} at {size:,}: {found.value:,.6g}", file=sys.stderr)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return seen, failures


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description="Measure what an event costs in journals of growing size.",
        epilog="example: python -m benchmarks.growth --to 10000000",
    )
    parser.add_argument(
        "--to",
        type=int,
        choices=SIZES,
        default=DEFAULT_SIZE,
        metavar="EVENTS",
        help=f"the largest size, one of {', '.join(map(str, SIZES))} (default {DEFAULT_SIZE})",
    )
    parser.add_argument(
        "--keys", action="store_true", help="write each event under an idempotency key of its own"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "build" / "bench",
        help="where the journal is made; must be on a disk (default build/bench)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
