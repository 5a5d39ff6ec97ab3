"""Which events may have a given foreign id: a hash table of 8 bytes a slot.

An id's place comes from a multiplication by a random number of the table's own, so
nobody who chooses ids can make them meet. A slot holds a piece of the hash and a
sequence, never the id: what it names is a candidate, which the caller compares with the
row. Entries are only ever added, into empty slots, so readers need no lock. Knows
nothing of files, parts and bounds. Layout: docs/format.md, "Key table".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "ENTRY",
    "MAX_END",
    "KeyTable",
    "capacity_for",
    "count_below",
    "new_multiplier",
    "slots_of",
]

ENTRY: Final = struct.Struct("<16sII")
"""A foreign id, its row number within its part, zero."""

MAX_END: Final = (1 << 40) - 1
"""Events from this sequence on have no place in a slot."""

_HASH_BITS: Final = 61
_SEQUENCE_BITS: Final = 40
_SEQUENCE_MASK: Final = (1 << _SEQUENCE_BITS) - 1
_TAG_MASK: Final = (1 << 64 - _SEQUENCE_BITS) - 1
_MASK64: Final = (1 << 64) - 1
_MASK128: Final = (1 << 128) - 1
_FEW: Final = 4096
"""Up to so many entries are added one by one: less work than loading NumPy."""
_MIN_CAPACITY: Final = 8

_number = int.from_bytes


def capacity_for(count: int) -> int:
    """Homes for `count` entries: the least 4 … 7 times a power of two that is twice as many."""
    wanted = max(2 * count, _MIN_CAPACITY)
    power = wanted.bit_length() - 3
    return -(-wanted >> power) << power


def slots_of(capacity: int) -> int | None:
    """Slots of a table with so many homes, the last always empty; None for no such number.

    Beyond the homes there is room for entries that were pushed on: with it no search wraps.
    """
    power = capacity.bit_length() - 3
    if capacity < _MIN_CAPACITY or capacity >> power << power != capacity:
        return None
    return capacity + 8 * capacity.bit_length()


def new_multiplier() -> int:
    """A random odd number of 128 bits."""
    return _number(os.urandom(16), "little") | 1


class KeyTable:
    """Sequences by foreign id. One thread adds at a time; any thread may look up meanwhile."""

    __slots__ = ("_shift", "_slots", "_units", "capacity", "count", "data", "multiplier")

    def __init__(
        self, capacity: int, multiplier: int, *, data: bytearray | None = None, count: int = 0
    ) -> None:
        """`data`: the slots as bytes, of the right length; empty ones by default."""
        size = slots_of(capacity)
        assert size is not None, "a capacity comes from capacity_for, or was checked"
        self.capacity = capacity
        self.multiplier = multiplier
        self.count = count
        """Foreign ids that were added; of one id twice in a batch only the first has a slot."""
        self.data = bytearray(8 * size) if data is None else data
        # Item access of a memoryview gives Python integers several times faster than NumPy.
        self._slots: Any = memoryview(self.data).cast("Q")
        power = capacity.bit_length() - 3
        self._units = capacity >> power
        self._shift = _HASH_BITS - power

    @classmethod
    def for_count(cls, count: int) -> KeyTable:
        """An empty table that `count` entries fill by half."""
        return cls(capacity_for(count), new_multiplier())

    def has_room(self, more: int) -> bool:
        """Whether at most six of ten homes are taken with `more` entries."""
        return 10 * (self.count + more) <= 6 * self.capacity

    def find(self, event_id: bytes) -> Sequence[int]:
        """Sequences that may have this id, ascending; none when no row added has it."""
        if not self.count:
            # Until a first segment is sealed, which many journals never do.
            return ()
        hashed = (_number(event_id, "big") * self.multiplier & _MASK128) >> 67
        slots = self._slots
        at = hashed * self._units >> self._shift
        slot = slots[at]
        if not slot:
            return ()
        tag = hashed & _TAG_MASK
        found: list[int] = []
        while slot:
            if slot >> _SEQUENCE_BITS == tag:
                found.append((slot & _SEQUENCE_MASK) - 1)
            at += 1
            slot = slots[at]
        found.sort()
        return found

    def add(self, entries: bytes | memoryview, first: int, low: int) -> bool:
        """Add the entries (see ENTRY) whose row is `low` or later, of a part from `first` on.

        Adding some again changes nothing. False: the ids crowd so much that another
        multiplier is better; then some are in and some are not.
        """
        if len(entries) <= _FEW * ENTRY.size:
            rows = _first_rows(ENTRY.iter_unpack(entries), low)
            added, number = self._add_few(rows, first), len(rows)
        else:
            added, number = self._add_many(entries, first, low)
        if added:
            self.count += number
        return added

    def _add_few(self, rows: Sequence[tuple[bytes, int]], first: int) -> bool:
        slots, last = self._slots, len(self._slots) - 1
        patience = _patience(len(rows))
        for event_id, row in rows:
            hashed = (_number(event_id, "big") * self.multiplier & _MASK128) >> 67
            at = hashed * self._units >> self._shift
            value = (hashed & _TAG_MASK) << _SEQUENCE_BITS | first + row + 1
            while slots[at] not in (0, value):
                at += 1
                patience -= 1
            if at >= last or patience < 0:
                return False
            slots[at] = value
        return True

    def _add_many(self, entries: bytes | memoryview, first: int, low: int) -> tuple[bool, int]:
        """As `_add_few`, all at once; also how many they were."""
        import numpy as np

        table = np.frombuffer(self.data, np.uint64)
        hashed, rows = self._hashed(entries, low)
        number = len(rows)
        values = hashed & np.uint64(_TAG_MASK)
        values <<= np.uint64(_SEQUENCE_BITS)
        values |= rows + np.uint64(first + 1)
        hashed *= np.uint64(self._units)
        at = (hashed >> np.uint64(self._shift)).astype(np.intp)
        last, patience = len(table) - 1, _patience(number)
        while len(at):
            free = table[at] == 0
            # Where several want one slot, the last of them has it; the others see that below.
            table[at[free]] = values[free]
            pushed = table[at] != values
            at, values = at[pushed] + 1, values[pushed]
            patience -= len(at) + 64
            if patience < 0 or (len(at) and int(at.max()) >= last):
                return False, number
        return True, number

    def _hashed(
        self, entries: bytes | memoryview, low: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Hash and row of each entry from row `low` on, ascending by hash, no id twice."""
        import numpy as np

        names = [("high", ">u8"), ("low", ">u8"), ("row", "<u4"), ("zero", "<u4")]
        table = np.frombuffer(entries, np.dtype(names))
        if low:
            table = table[table["row"] >= low]
        high, lower = table["high"].astype(np.uint64), table["low"].astype(np.uint64)
        rows = table["row"].astype(np.uint64)
        m_high, m_low = self.multiplier >> 64, self.multiplier & _MASK64
        product = high * np.uint64(m_low)
        product += lower * np.uint64(m_high)
        product += _upper_half(lower, m_low)
        product >>= np.uint64(3)
        order = np.lexsort((rows, product))
        product, rows, high, lower = product[order], rows[order], high[order], lower[order]
        again = (product[1:] == product[:-1]) & (high[1:] == high[:-1])
        again &= lower[1:] == lower[:-1]
        if again.any():
            kept = np.concatenate([[True], ~again])
            product, rows = product[kept], rows[kept]
        return product, rows


def count_below(entries: bytes | memoryview, rows: int) -> int:
    """How many of the entries (see ENTRY) have a row below `rows`."""
    every: list[int] = memoryview(entries).cast("I")[4::6].tolist()
    return sum(row < rows for row in every)


def _upper_half(numbers: npt.NDArray[np.uint64], factor: int) -> npt.NDArray[np.uint64]:
    """Bits 64 to 127 of each product with `factor`, which has 64 bits."""
    import numpy as np

    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_low, a_high = numbers & mask, numbers >> half
    b_low, b_high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    middle = a_high * b_low + (a_low * b_low >> half)
    carried = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (carried >> half)


def _first_rows(entries: Iterable[tuple[bytes, int, int]], low: int) -> Sequence[tuple[bytes, int]]:
    """Id and row of each entry from row `low` on; of an id that comes twice, the first row."""
    rows: dict[bytes, int] = {}
    for event_id, row, _ in entries:
        if row >= low and row < rows.get(event_id, row + 1):
            rows[event_id] = row
    return list(rows.items())


def _patience(number: int) -> int:
    """How many steps past taken slots adding so many may take: several times the usual."""
    return 8 * number + (1 << 14)
