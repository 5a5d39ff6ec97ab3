"""Outcomes as a table for people and as JSON for programs.

A cell is a median with its least and greatest value. The ratio is the median of the
rounds' ratios, not the ratio of the medians: what slows a whole round slows both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from benchmarks.contenders import LABELS
from benchmarks.runner import Outcome, Series
from benchmarks.work import TURN

HEADINGS: Final = ("Work", "Unit", "batpak", "Peers", "Ratio", "Budget", "Met")
NOTES: Final = (
    "Cells: median (least – greatest) over the rounds. Ratio: how many times better than the "
    "peer named, median over the rounds. Each measurement ran in a process of its own, "
    "contenders in turns. Append rates leave out opening and closing; closing times: {closing}."
)
TOGETHER_NOTES: Final = (
    "In {names} the two sides differ in an argument: they shared a process, in turns of "
    f"{TURN} events."
)
RUST_NOTES: Final = (
    "Rust: the published Rust batpak, rounds: {rounds}. It answers a single append before its "
    "fsync; with the durable gate it answers after it. A batch has an fsync always. Its reads "
    "check a CRC, no hash."
)


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """One row per outcome under HEADINGS; a cell of several lines separates them by newline."""
    return [_row(outcome) for outcome in outcomes]


def _row(outcome: Outcome) -> tuple[str, ...]:
    scenario, (ours, *peers) = outcome.scenario, outcome.series
    met = outcome.met()
    return (
        scenario.title,
        scenario.unit,
        _cell(ours),
        "\n".join(f"{peer.title}: {_cell(peer)}" for peer in peers) or "–",
        "\n".join(_ratio(outcome, peer) for peer in peers) or "–",
        _budget(outcome),
        {True: "yes", False: "NO", None: "–"}[met],
    )


def _cell(series: Series) -> str:
    if series.failure:
        if series.absent:
            return "absent"
        return "not installed" if series.failure.startswith("not installed") else "failed"
    low, high = min(series.values), max(series.values)
    if low == high:
        return _figure(low)
    return f"{_figure(series.median)} ({_figure(low)} – {_figure(high)})"


def _ratio(outcome: Outcome, peer: Series) -> str:
    ratios = outcome.ratios(peer)
    if not ratios:
        return "–"
    text = f"{median(ratios):.2f} ×"
    if len(ratios) > 1:
        text += f" ({min(ratios):.2f} – {max(ratios):.2f})"
    return text


def _budget(outcome: Outcome) -> str:
    scenario = outcome.scenario
    budget = scenario.budget
    if budget is None:
        return "–"
    if budget.rival:
        return f"≥ {budget.bound:g} × {budget.rival}"
    return f"{'≥' if scenario.better == 'higher' else '≤'} {_figure(budget.bound)} {scenario.unit}"


def _figure(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k"
    if value >= 1e3:
        return f"{value / 1e3:.1f} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def terminal(outcomes: Sequence[Outcome]) -> str:
    """The table with columns aligned by spaces."""
    table = [[cell.split("\n") for cell in row] for row in [HEADINGS, *rows(outcomes)]]
    widths = [max(len(line) for row in table for line in row[n]) for n in range(len(HEADINGS))]
    lines = list[str]()
    for row in table:
        for n in range(max(len(cell) for cell in row)):
            parts = [cell[n] if n < len(cell) else "" for cell in row]
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def facts(machine: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Machine and parameters in one paragraph."""
    told = {**parameters, **machine}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())


def notes(outcomes: Sequence[Outcome]) -> str:
    """How to read the table, with what the append rates leave out."""
    closing = [
        f"{outcome.scenario.name} {series.title} {median(times):.0f} ms"
        for outcome in outcomes
        for series in outcome.series
        if (times := [seen["close_ms"] for seen in series.details if "close_ms" in seen])
        and not series.failure
    ]
    told = [NOTES.format(closing=", ".join(closing) or "none")]
    shared = [outcome.scenario.name for outcome in outcomes if outcome.scenario.together]
    if shared:
        told.append(TOGETHER_NOTES.format(names=", ".join(shared)))
    rounds = {
        len(series.values)
        for outcome in outcomes
        for series in outcome.series
        if series.title.startswith(LABELS["rust"]) and series.values and not outcome.scenario.once
    }
    if rounds:
        told.append(RUST_NOTES.format(rounds=max(rounds)))
    return " ".join(told)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for each contender that should have given figures and gave none."""
    return [
        f"{outcome.scenario.name}: {series.title}: {series.failure}"
        for outcome in outcomes
        for series in outcome.series
        if series.failure and not series.absent
    ]


def absences(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for each contender that this machine cannot run; no fault of anybody."""
    lines = [
        f"{series.title}: {series.failure}"
        for outcome in outcomes
        for series in outcome.series
        if series.absent
    ]
    return list(dict.fromkeys(lines))


def markdown(
    outcomes: Sequence[Outcome], machine: Mapping[str, Any], parameters: Mapping[str, Any]
) -> str:
    """The table as a page."""
    lines = ["# Benchmark results", "", facts(machine, parameters) + ".", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "| " + " | ".join("---" for _ in HEADINGS) + " |"]
    for row in rows(outcomes):
        lines.append("| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |")
    lines += ["", notes(outcomes)]
    unmeasured = [*failures(outcomes), *absences(outcomes)]
    return "\n".join([*lines, *(f"\nNo figure: {line}" for line in unmeasured), ""])


def document(
    outcomes: Sequence[Outcome], machine: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything measured, every round, for JSON."""
    return {
        "format": 1,
        "machine": dict(machine),
        "parameters": dict(parameters),
        "scenarios": [_entry(outcome) for outcome in outcomes],
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    scenario = outcome.scenario
    budget = scenario.budget
    return {
        "name": scenario.name,
        "title": scenario.title,
        "unit": scenario.unit,
        "better": scenario.better,
        "events": outcome.events,
        "budget": budget and {"bound": budget.bound, "rival": budget.rival or None},
        "met": outcome.met(),
        "contenders": [
            {
                "title": series.title,
                "failure": series.failure or None,
                "absent": series.absent,
                "values": series.values,
                "median": series.median if series.values else None,
                "min": min(series.values, default=None),
                "max": max(series.values, default=None),
                "details": series.details,
                "ratio": median(ratios) if ratios else None,
                "ratios": ratios,
            }
            for number, series in enumerate(outcome.series)
            for ratios in [outcome.ratios(series) if number else []]
        ],
    }
