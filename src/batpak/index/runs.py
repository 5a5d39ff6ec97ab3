"""A set of sequences as runs: what erasures name, and what a region comes to.

Disjoint, ascending, never adjacent; a value that nobody changes. Sizes are those of the
runs, never of the sequences in them: a run that claims 2^60 events costs two integers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

__all__ = ["Runs"]


class Runs:
    """Sequences as runs [first, end). Iterating gives the runs, ascending."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """The union of `runs`, in any order; an empty run adds nothing."""
        firsts: list[int] = []
        ends: list[int] = []
        for first, end in sorted(runs):
            if first >= end:
                continue
            if ends and first <= ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                firsts.append(first)
                ends.append(end)
        self._firsts = firsts
        self._ends = ends

    @classmethod
    def of(cls, sequences: Iterable[int]) -> Runs:
        """The runs of single sequences, in any order."""
        return cls(_joined(sequences))

    @property
    def count(self) -> int:
        """How many sequences there are."""
        return sum(self._ends) - sum(self._firsts)

    def __contains__(self, sequence: int) -> bool:
        place = bisect_right(self._firsts, sequence) - 1
        return place >= 0 and sequence < self._ends[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)

    def __or__(self, other: Runs) -> Runs:
        return Runs([*self, *other])

    def __sub__(self, other: Runs) -> Runs:
        return Runs(self._without(other))

    def _without(self, other: Runs) -> Iterator[tuple[int, int]]:
        for first, end in self:
            for cut_first, cut_end in other.between(first, end):
                yield first, cut_first
                first = cut_end
            yield first, end

    def between(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The parts of the runs inside [low, high)."""
        place = max(bisect_right(self._firsts, low) - 1, 0)
        while place < len(self._firsts) and self._firsts[place] < high:
            first, end = max(self._firsts[place], low), min(self._ends[place], high)
            if first < end:
                yield first, end
            place += 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Runs):
            return NotImplemented
        return self._firsts == other._firsts and self._ends == other._ends

    def __hash__(self) -> int:
        return hash((tuple(self._firsts), tuple(self._ends)))

    def __repr__(self) -> str:
        shown = ", ".join(
            str(first) if end == first + 1 else f"{first} to {end - 1}" for first, end in self
        )
        return f"<Runs {shown or 'empty'}>"


def _joined(sequences: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Neighbours that come one after the other as one run: most sequences do."""
    first = end = -1
    for sequence in sequences:
        if sequence == end:
            end += 1
            continue
        if first >= 0:
            yield first, end
        first, end = sequence, sequence + 1
    if first >= 0:
        yield first, end
