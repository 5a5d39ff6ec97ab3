"""Read the tables of docs/damage.md, which say what a test has to find.

A table is named by a comment before it: `<!-- table: NAME -->`.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "damage.md"
WORDS = frozenset({"refused", "named", "cut", "harmless", "unseen"})


def rows(name: str) -> list[list[str]]:
    """The cells of each row of a table, without its heading."""
    text = PAGE.read_text("utf-8")
    mark = f"<!-- table: {name} -->"
    assert text.count(mark) == 1, f"docs/damage.md has no table {name}"
    lines = iter(text.split(mark)[1].lstrip("\n").splitlines())
    table: list[str] = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append(line)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def expectations(name: str, column: int) -> dict[str, frozenset[str]]:
    """The words allowed for each row; the cells before `column` name the row."""
    found: dict[str, frozenset[str]] = {}
    for cells in rows(name):
        key = "; ".join(cells[:column])
        words = frozenset(cells[column].split(", "))
        assert words <= WORDS, f"{key}: {words - WORDS} are no words of the page"
        assert key not in found, f"{key} is there twice"
        found[key] = words
    return found
