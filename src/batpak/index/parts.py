"""The journal's index: parts in commit order, of which the last one grows.

Finds sequences; never reads payloads and never decides what is visible: every
question comes with the reader's bound.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from batpak.event import hlc_of_id
from batpak.index.growing import GrowingPart
from batpak.index.query import Query

if TYPE_CHECKING:
    from batpak.index.growing import Rows
    from batpak.index.mapped import MappedPart

__all__ = ["Index", "Match", "Slot"]

_first = attrgetter("first")


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
        # A thread that maps a sidecar must not undo the rotation of another one.
        self._changing = threading.Lock()

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
        with self._changing:
            self.slots = (*self.slots, Slot(part.first, segment_base, part))

    def replace(self, segment_base: int, part: MappedPart) -> None:
        """Put one mapped part in the place of all the parts of a segment."""
        with self._changing:
            slots: list[Slot] = []
            for slot in self.slots:
                if slot.segment_base != segment_base:
                    slots.append(slot)
                elif not slots or slots[-1].segment_base != segment_base:
                    slots.append(Slot(part.first, segment_base, part))
            # Readers that race see the old slots or the new ones; both name the same rows.
            self.slots = tuple(slots)

    def clear(self) -> None:
        """Let go of every part, and so of its map; readers under way keep theirs."""
        with self._changing:
            self.slots = ()

    def slot_of(self, sequence: int) -> Slot:
        """The slot that holds `sequence`, which is below the reader's bound."""
        slots = self.slots
        last = slots[-1]
        if sequence >= last.first:
            return last
        return slots[bisect_right(slots, sequence, key=_first) - 1]

    def find_own(self, event_id: bytes, bound: int) -> int | None:
        """The sequence below `bound` that an id of our own making points to.

        The caller compares the row's id: any other id points somewhere too.
        """
        hlc = hlc_of_id(event_id)
        for slot in reversed(self.slots):
            part = slot.part
            first_hlc = part.first_hlc
            if first_hlc is not None and first_hlc <= hlc:
                row = part.find_hlc(hlc, min(bound, part.end) - slot.first)
                return None if row is None else slot.first + row
        return None

    def find_foreign(self, event_id: bytes, bound: int) -> int | None:
        """The sequence below `bound` of an id that does not carry its event's HLC."""
        for slot in reversed(self.slots):
            rows = bound - slot.first
            if rows > 0:
                row = slot.part.find_foreign(event_id, rows)
                if row is not None:
                    return slot.first + row
        return None

    def last_of(self, entity: bytes, bound: int) -> int | None:
        """Sequence of the entity's last event below `bound`."""
        for slot in reversed(self.slots):
            rows = bound - slot.first
            if rows > 0:
                row = slot.part.last_of(entity, min(rows, slot.part.end - slot.first))
                if row is not None:
                    return slot.first + row
        return None

    def first_match(self, query: Query, low: int, high: int) -> int | None:
        """The first matching sequence in [low, high)."""
        for slot in self.slots:
            start = max(low - slot.first, 0)
            end = min(high, slot.part.end) - slot.first
            if start >= end:
                continue
            row = slot.part.first_match(query, start, end)
            if row is not None:
                return slot.first + row
        return None

    def runs(
        self, low: int, high: int, most: int
    ) -> Iterator[tuple[Slot, int, tuple[list[int], list[int], list[int]]]]:
        """All of [low, high) in pieces of up to `most` rows: slot, first sequence, offsets."""
        for slot in self.slots:
            start = max(low - slot.first, 0)
            end = min(high, slot.part.end) - slot.first
            for at in range(start, end, most):
                stop = min(at + most, end)
                yield slot, slot.first + at, slot.part.offsets_between(at, stop)

    def select(self, query: Query, low: int, high: int) -> Iterator[Match]:
        """Matching rows with sequences in [low, high), slot by slot, ascending."""
        for slot in self.slots:
            start = max(low - slot.first, 0)
            end = min(high, slot.part.end) - slot.first
            if start < end:
                rows = slot.part.select(query, start, end)
                if len(rows):
                    yield Match(slot, rows)
