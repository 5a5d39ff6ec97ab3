"""What the demo prints: headings, sentences, tables, and the last screen of proofs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batpak_cli.terminal import safe

__all__ = ["Proofs", "console", "heading", "say", "table"]

_WIDTH = 100
_NUMBERS = frozenset(
    {
        "event",
        "acknowledged",
        "of these missing",
        "written, not yet said",
        "torn",
        "held",
        "failed",
    }
)


def console() -> Console:
    """Standard output; of 100 columns where it is no terminal."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(
        width=_WIDTH if piped else None, markup=False, highlight=False, emoji=False, soft_wrap=False
    )


def heading(number: int, text: str) -> None:
    """The beginning of a part."""
    console().print(Text(f"\n{number}. {text}", style="bold"))


def say(*lines: str) -> None:
    """Sentences, a line each."""
    out = console()
    for line in lines:
        out.print(Text(safe(line)))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows of text; a cell that begins with NOT is shown as an alarm, numbers to the right."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        numbers = name in _NUMBERS
        shown.add_column(name, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        shown.add_row(
            *(Text(safe(cell), style="red" if cell.startswith("NOT") else "") for cell in row)
        )
    console().print(shown)


class Proofs:
    """Claims with their numbers, and whether each held."""

    def __init__(self) -> None:
        self._claims: list[tuple[bool, str]] = []

    def add(self, held: bool, claim: str) -> None:
        """Put a claim on record. Its text has the numbers that were measured."""
        self._claims.append((held, claim))
        if not held:
            console().print(Text(f"FAILED: {safe(claim)}", style="bold red"))

    @property
    def failed(self) -> list[str]:
        """The claims that did not hold."""
        return [claim for held, claim in self._claims if not held]

    def show(self, seconds: float) -> None:
        """The last screen: one line a claim."""
        out = console()
        out.print(Text(f"\nWhat this run proved, in {seconds:.1f} s", style="bold"))
        for held, claim in self._claims:
            mark = (
                Text("  ok      ", style="green") if held else Text("  FAILED  ", style="bold red")
            )
            out.print(mark + Text(safe(claim)))
        count = len(self._claims)
        if self.failed:
            out.print(Text(f"{len(self.failed)} of {count} did not hold.", style="bold red"))
        else:
            out.print(Text(f"All {count} held.", style="bold green"))
