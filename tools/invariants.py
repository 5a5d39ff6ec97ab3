"""Read docs/invariants.toml and judge whether a test run proved what it says.

An invariant is an id that never changes, one statement, and the tests that prove it. A
test proves only if it ran and passed: skipped, failed and absent are all "unproved".
Knows nothing of pytest but the form of its node ids.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = ROOT / "docs" / "invariants.toml"


@dataclass(frozen=True, slots=True)
class Invariant:
    """One row: `proved_by` holds node ids, `file::test` or `file::Class::test`, without
    parameters: every case of a parametrised test is part of the proof."""

    id: str
    statement: str
    proved_by: tuple[str, ...]


def load(path: Path = REGISTRY) -> list[Invariant]:
    """The rows in file order, ids not yet checked for uniqueness.

    Raises KeyError or TypeError for a row with a missing, unknown or mistyped field.
    """
    rows = tomllib.loads(path.read_text("utf-8"))["invariant"]
    return [Invariant(row.pop("id"), row.pop("statement"), _ids(row)) for row in rows]


def _ids(row: dict[str, object]) -> tuple[str, ...]:
    proved_by = row.pop("proved_by")
    if row or not isinstance(proved_by, list) or not all(isinstance(n, str) for n in proved_by):
        raise TypeError(f"a row holds id, statement, proved_by (strings) and no more: {row}")
    return tuple(proved_by)


def belongs(node_id: str, entry: str) -> bool:
    """Whether a collected node id is the entry's test, a case of it, or a test of its class."""
    return node_id == entry or node_id.startswith((entry + "[", entry + "::"))


def unproved(invariants: Iterable[Invariant], outcomes: Mapping[str, str]) -> list[str]:
    """One line for each entry whose test did not run or did not pass.

    outcomes: node id to "passed", "failed" or "skipped".
    """
    problems: list[str] = []
    for invariant in invariants:
        for entry in invariant.proved_by:
            cases = {node: how for node, how in outcomes.items() if belongs(node, entry)}
            if not cases:
                problems.append(f"{invariant.id}: {entry} did not run")
            problems += [
                f"{invariant.id}: {node} {how}" for node, how in cases.items() if how != "passed"
            ]
        if not invariant.proved_by:
            problems.append(f"{invariant.id}: no test is named")
    return problems


def missing_tests(entries: Sequence[str], root: Path = ROOT) -> list[str]:
    """The entries whose file or function is not there, found without running anything."""
    return [entry for entry in entries if not _defined(entry.split("::"), root)]


def _defined(parts: list[str], root: Path) -> bool:
    file, *names = parts
    if not names or not (root / file).is_file():
        return False
    scope: Sequence[ast.stmt] = ast.parse((root / file).read_text("utf-8")).body
    for name in names:
        found = [
            node
            for node in scope
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
        ]
        if not found:
            return _assigned(scope, name) and name == names[-1]
        scope = found[0].body
    return True


def _assigned(scope: Sequence[ast.stmt], name: str) -> bool:
    """State machines become tests by assignment: `TestJournal = JournalMachine.TestCase`."""
    return any(
        isinstance(target, ast.Name) and target.id == name
        for node in scope
        if isinstance(node, ast.Assign)
        for target in node.targets
    )
