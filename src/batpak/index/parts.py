"""The journal's index: parts in commit order, of which the last one grows.

Finds sequences; never reads payloads and never decides what is visible: every
question comes with the reader's bound.

Foreign ids of all parts but the last stand in one key table, made at the first question
about one. Whoever fills it publishes table and bound together, afterwards: a reader that
comes earlier searches the parts that the bound leaves out.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from batpak.event import hlc_of_id
from batpak.index.growing import GrowingPart
from batpak.index.keytable import ENTRY, MAX_END, KeyTable, count_below
from batpak.index.query import Query
from batpak.journal.reentry import reentered

if TYPE_CHECKING:
    from batpak.index.growing import Rows
    from batpak.index.mapped import MappedPart

__all__ = ["Index", "Keys", "Match", "Slot"]

_first = attrgetter("first")
_BEHIND: Final = 4
"""So many parts may wait beside the key table before a look-up takes them in."""
_ATTEMPTS: Final = 8
"""Multipliers that a key table may try before the parts are searched instead."""


class Slot(NamedTuple):
    """A part and the segment that holds its rows."""

    first: int
    segment_base: int
    part: MappedPart | GrowingPart


class Match(NamedTuple):
    """Rows of one slot, ascending."""

    slot: Slot
    rows: Rows


class Keys(NamedTuple):
    """The key table, and the bound below which every foreign id stands in it."""

    table: KeyTable
    covered: int


_NO_KEYS: Final = Keys(KeyTable.for_count(0), 0)


class Index:
    """All parts of a journal. One writer changes it; any thread may read below its bound."""

    def __init__(self, load_keys: Callable[[Index], Keys | None] | None = None) -> None:
        """`load_keys` gives the key table that was kept, when the first look-up needs it."""
        self.slots: tuple[Slot, ...] = ()
        # A thread that maps a sidecar must not undo the rotation of another one, nor its own:
        # a signal handler may append in the middle of `replace`.
        self._changing = threading.RLock()
        self._is_replacing = False
        self._load_keys = load_keys
        self.keys_lock = threading.RLock()
        """Held by whoever fills or saves the key table; look-ups need no lock."""
        # guarded by keys_lock
        self._is_filling = False
        self.keys: Keys | None = None
        """None until somebody asked for a foreign id."""
        self.keys_saved = 0
        """Foreign ids in the table that is kept on the disk."""
        self._crowded = False
        """Whether the ids fit no table: then parts that are not in it are searched for ever."""

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

    def begin(self, segment_base: int, parts: Sequence[MappedPart | GrowingPart]) -> None:
        """Put all the parts of a further segment at the end; twice is as good as once.

        Raises ReentrantCall in the middle of a `replace` of the same thread.
        """
        with self._changing:
            if self._is_replacing:
                raise reentered()
            kept = [slot for slot in self.slots if slot.segment_base != segment_base]
            self.slots = (*kept, *[Slot(part.first, segment_base, part) for part in parts])

    def replace(self, segment_base: int, part: MappedPart | GrowingPart) -> None:
        """Put one part in the place of all the parts of a segment."""
        with self._changing:
            self._is_replacing = True
            try:
                slots: list[Slot] = []
                for slot in self.slots:
                    if slot.segment_base != segment_base:
                        slots.append(slot)
                    elif not slots or slots[-1].segment_base != segment_base:
                        slots.append(Slot(part.first, segment_base, part))
                # Readers that race see the old slots or the new ones; both name the same rows.
                self.slots = tuple(slots)
            finally:
                self._is_replacing = False

    def clear(self) -> None:
        """Let go of every part, and so of its map; readers under way keep theirs."""
        with self._changing:
            self.slots, self.keys = (), None

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
        place = self.place_of_own(event_id, bound)
        return None if place is None else place[1]

    def place_of_own(self, event_id: bytes, bound: int) -> tuple[Slot, int] | None:
        """As `find_own`, with the slot that holds the sequence."""
        hlc = hlc_of_id(event_id)
        for slot in reversed(self.slots):
            first, _, part = slot
            first_hlc = part.first_hlc
            if first_hlc is not None and first_hlc <= hlc:
                row = part.find_hlc(hlc, bound - first)
                return None if row is None else (slot, first + row)
        return None

    def find_foreign(self, event_id: bytes, bound: int) -> Sequence[int]:
        """Sequences below `bound`, ascending, where an id that is not its HLC's may stand.

        The caller compares the rows' ids; where none has it, no event below `bound` does.
        """
        table, covered = self.keys or self._caught_up()
        found = table.find(event_id)
        slots = self.slots
        if not slots:
            return ()
        first, _, part = slots[-1]
        if first > covered:
            return self._find_beside(event_id, bound, slots)
        row = part.find_foreign(event_id, bound - first)
        if not found:
            return () if row is None else (first + row,)
        return _below(bound, found, () if row is None else (first + row,))

    def _find_beside(self, event_id: bytes, bound: int, slots: tuple[Slot, ...]) -> Sequence[int]:
        """As `find_foreign`, where parts before the last are not in the table."""
        table, covered = self.keys or _NO_KEYS
        if len(slots) - _place(slots, covered) > 1 + _BEHIND:
            table, covered = self._caught_up()
        beside: list[int] = []
        for slot in slots[_place(slots, covered) :]:
            row = slot.part.find_foreign(event_id, bound - slot.first)
            if row is not None:
                beside.append(slot.first + row)
        return _below(bound, table.find(event_id), beside)

    def _caught_up(self) -> Keys:
        """The key table with all that it can take, unless somebody is filling it just now."""
        try:
            if not self.keys_lock.acquire(blocking=False):
                return self.keys or _NO_KEYS
            return self.fill_keys()
        finally:
            # Ctrl-C can come on the return from `acquire`: whether it is ours, the lock knows.
            try:
                self.keys_lock.release()
            except RuntimeError:
                pass

    def fill_keys(self, *, last: bool = False) -> Keys:
        """Take the parts into the key table; the caller holds `keys_lock`.

        `last`: the last part, too, which nobody may add to any more.
        """
        if self._is_filling:
            # A log handler that asks the journal something while the table is loaded.
            return self.keys or _NO_KEYS
        self._is_filling = True
        try:
            keys = self.keys
            if keys is None:
                loaded = None if self._load_keys is None else self._load_keys(self)
                keys = loaded or Keys(KeyTable.for_count(0), 0)
            if not self._crowded:
                slots = self.slots if last else self.slots[:-1]
                keys = self._filled(keys, list(takewhile(_fits_a_slot, slots)))
            self.keys = keys
            return keys
        finally:
            self._is_filling = False

    def _filled(self, keys: Keys, slots: list[Slot]) -> Keys:
        """The table with the foreign ids of these parts, which are all from the first on."""
        table, covered = keys
        if not slots or slots[-1].part.end <= covered:
            return keys
        more = 0
        batches: list[tuple[bytes | memoryview, int, int]] = []
        for slot in slots[_place(slots, covered) :]:
            entries, low = slot.part.foreign_entries(), max(covered - slot.first, 0)
            more += len(entries) // ENTRY.size - (count_below(entries, low) if low else 0)
            batches.append((entries, slot.first, low))
        if not (table.has_room(more) and all(table.add(*batch) for batch in batches)):
            larger = _table_of(slots)
            if larger is None:
                self._crowded = True
                return keys
            table = larger
        return Keys(table, slots[-1].part.end)

    def count_foreign(self, bound: int) -> int:
        """How many foreign ids the parts have below `bound`."""
        number = 0
        for slot in self.slots:
            if slot.first < bound:
                entries = slot.part.foreign_entries()
                whole = slot.part.end <= bound
                number += (
                    len(entries) // ENTRY.size
                    if whole
                    else count_below(entries, bound - slot.first)
                )
        return number

    def last_of(self, entity: bytes, bound: int) -> int | None:
        """Sequence of the entity's last event below `bound`."""
        for slot in reversed(self.slots):
            rows = bound - slot.first
            if rows > 0:
                row = slot.part.last_of(entity, min(rows, slot.part.end - slot.first))
                if row is not None:
                    return slot.first + row
        return None

    def slots_of(self, segment_base: int) -> list[Slot]:
        """The parts of one segment, in order."""
        return [slot for slot in self.slots if slot.segment_base == segment_base]

    def of_kind(self, kind: int, low: int, high: int) -> Iterator[int]:
        """Sequences in [low, high) of events of one raw kind, ascending. Needs no NumPy."""
        for slot in self.slots:
            start = max(low - slot.first, 0)
            end = min(high, slot.part.end) - slot.first
            if start < end:
                for row in slot.part.rows_of_kind(kind, start, end):
                    yield slot.first + row

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


def _place(slots: Sequence[Slot], sequence: int) -> int:
    """Place of the slot that holds `sequence`, or of the last one before it."""
    return max(bisect_right(slots, sequence, key=_first) - 1, 0)


def _fits_a_slot(slot: Slot) -> bool:
    return slot.part.end <= MAX_END


def _below(bound: int, found: Sequence[int], beside: Sequence[int]) -> list[int]:
    # The file of a key table may be forged: what is no sequence of the reader's is not there.
    return [n for n in (*found, *beside) if 0 <= n < bound]


def _table_of(slots: Sequence[Slot]) -> KeyTable | None:
    """A new table with the foreign ids of these parts; None when they crowd in each one tried."""
    count = sum(len(slot.part.foreign_entries()) // ENTRY.size for slot in slots)
    for _ in range(_ATTEMPTS):
        table = KeyTable.for_count(count)
        if all(table.add(slot.part.foreign_entries(), slot.first, 0) for slot in slots):
            return table
    return None
