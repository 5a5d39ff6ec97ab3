"""The journal's index: parts in commit order, of which the last one grows.

Finds sequences; never reads payloads and never decides what is visible: every
question comes with the reader's bound.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from batpak.event import hlc_of_id
from batpak.index.growing import GrowingPart
from batpak.index.query import Query

if TYPE_CHECKING:
    from batpak.index.growing import Rows
    from batpak.index.mapped import MappedPart

__all__ = ["Index", "Match", "Slot"]


class Slot(NamedTuple):
    """A part and the segment that holds its rows."""

    first: int
    segment_base: int
    part: MappedPart | GrowingPart


class Match(NamedTuple):
    """Rows of one slot, ascending."""

    slot: Slot
    rows: Rows


class Index:
    """All parts of a journal. One writer changes it; any thread may read below its bound."""

    def __init__(self) -> None:
        self.slots: tuple[Slot, ...] = ()
        self._firsts: list[int] = []

    @property
    def end(self) -> int:
        """Sequence after the last event added."""
        return self.slots[-1].part.end if self.slots else 0

    @property
    def growing(self) -> GrowingPart:
        """The part that takes new events."""
        part = self.slots[-1].part
        assert isinstance(part, GrowingPart), "begin() puts a growing part last"
        return part

    def append(self, segment_base: int, part: MappedPart | GrowingPart) -> None:
        """Put a part at the end; it begins where the last one ends."""
        self._set((*self.slots, Slot(part.first, segment_base, part)))

    def replace(self, segment_base: int, part: MappedPart) -> None:
        """Put one mapped part in the place of all the parts of a segment."""
        slots: list[Slot] = []
        for slot in self.slots:
            if slot.segment_base != segment_base:
                slots.append(slot)
            elif not slots or slots[-1].segment_base != segment_base:
                slots.append(Slot(part.first, segment_base, part))
        self._set(tuple(slots))

    def drop_last(self) -> None:
        """Remove the last part, which got no event."""
        self._set(self.slots[:-1])

    def _set(self, slots: tuple[Slot, ...]) -> None:
        # Readers that race see the old list or the new one; both name the same rows.
        self.slots = slots
        self._firsts = [slot.first for slot in slots]

    def slot_of(self, sequence: int) -> Slot:
        """The slot that holds `sequence`, which is below the reader's bound."""
        slots = self.slots
        last = slots[-1]
        if sequence >= last.first:
            return last
        return slots[bisect_right([slot.first for slot in slots], sequence) - 1]

    def find(self, event_id: bytes, bound: int) -> Iterator[int]:
        """Sequences below `bound` that may have this id; the caller compares the row.

        An id of our own carries its HLC; all others stand in the tables of foreign ids.
        """
        hlc = hlc_of_id(event_id)
        for slot in reversed(self.slots):
            first_hlc = slot.part.first_hlc
            rows = bound - slot.first
            if first_hlc is not None and first_hlc <= hlc and rows > 0:
                row = slot.part.find_hlc(hlc, min(rows, slot.part.end - slot.first))
                if row is not None:
                    yield slot.first + row
                break
        for slot in reversed(self.slots):
            rows = bound - slot.first
            if rows > 0:
                row = slot.part.find_foreign(event_id, rows)
                if row is not None:
                    yield slot.first + row

    def last_of(self, entity: bytes, bound: int) -> int | None:
        """Sequence of the entity's last event below `bound`."""
        for slot in reversed(self.slots):
            rows = bound - slot.first
            if rows > 0:
                row = slot.part.last_of(entity, min(rows, slot.part.end - slot.first))
                if row is not None:
                    return slot.first + row
        return None

    def select(self, query: Query, low: int, high: int) -> Iterator[Match]:
        """Matching rows with sequences in [low, high), slot by slot, ascending."""
        for slot in self.slots:
            start = max(low - slot.first, 0)
            end = min(high, slot.part.end) - slot.first
            if start < end:
                rows = slot.part.select(query, start, end)
                if len(rows):
                    yield Match(slot, rows)
