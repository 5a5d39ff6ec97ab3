"""What an import did, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["BadLine", "ImportReport", "Progress"]

Progress = Callable[[int, int], None]
"""Called as (done, total) after each batch: bytes of a file, commits of a history."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was skipped, or the first line of a row; counted from 1."""

    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """Counts of one run of an importer; what earlier runs did is not in them."""

    source: str
    """The name that the journal knows the source by."""
    resumed: bool = False
    """Whether an earlier run had imported from this source."""
    read: int = 0
    """Lines, rows or commits that were read."""
    events: int = 0
    batches: int = 0
    skipped: int = 0
    """Bad lines that were left out on request."""
    incomplete: bool = False
    """Whether an unfinished last line was left for the next run."""
    bad: list[BadLine] = field(default_factory=list[BadLine])
    """The first of the skipped lines, at most 20."""
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0
