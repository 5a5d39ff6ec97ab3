"""A part of the index that a sidecar holds: mapped, checked once, never changed.

Arrays are verified against their checksums when the part is made; after that, reads
trust them as an index only: what an event says is read from its segment.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Final

from batpak.errors import JournalCorrupt
from batpak.index.query import Query, name_ranges
from batpak.journal.sidecar import ARRAYS, SidecarHeader, array_of

__all__ = ["MappedPart"]

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batpak.index.columns import Columns, Tally
    from batpak.index.growing import Rows

_CLOCK_AT: Final = 72
_STEP: Final = 64
_OTHER: Final = frozenset(
    (
        "event_hash", "entity_text", "scope_text", "foreign_id", "kind", "kind_value", "hlc",
    )
)  # fmt: skip
"""Arrays that are not of 32-bit integers."""


class _Names:
    """A sorted table of names, read where it stands."""

    def __init__(self, starts: memoryview[int], text: memoryview) -> None:
        self._starts = starts
        self._text = text

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._text[self._starts[i] : self._starts[i + 1]])

    def __iter__(self) -> Iterator[bytes]:
        for i in range(len(self)):
            yield self[i]


class MappedPart:
    """The rows of one sidecar."""

    def __init__(
        self,
        header: SidecarHeader,
        data: mmap.mmap | bytes,
        arrays: dict[str, memoryview],
        read: Callable[[int, int], bytes],
    ) -> None:
        self.header = header
        self.first = header.base_sequence
        self.salt = header.salt
        """Of the segment file that the offsets are of."""
        self._data = data
        self._read = read
        self._arrays = arrays
        self._hashes = arrays["event_hash"]
        self._hashes_at = header.table[ARRAYS.index("event_hash")][0]
        # Item access of a memoryview gives Python integers several times faster than NumPy.
        self._places = tuple(
            arrays[name].cast("I") for name in ("row_offset", "metadata_offset", "envelope_offset")
        )
        self._hlcs = arrays["hlc"].cast("Q")
        self.first_hlc: int | None = self._hlcs[0] if header.count else None
        """HLC of the first event."""
        starts = {
            name: arrays[name].cast("I") for name in ("entity_text_start", "scope_text_start")
        }
        self._entities = _Names(starts["entity_text_start"], arrays["entity_text"])
        self._scopes = _Names(starts["scope_text_start"], arrays["scope_text"])
        self._foreign = arrays["foreign_id"]

    @classmethod
    def of(
        cls, header: SidecarHeader, data: mmap.mmap | bytes, read: Callable[[int, int], bytes]
    ) -> MappedPart | None:
        """The part in a mapped sidecar; None when an array's checksum or length is wrong."""
        view = memoryview(data)
        arrays: dict[str, memoryview] = {}
        for name in ARRAYS:
            array = array_of(header, view, name)
            if array is None:
                return None
            arrays[name] = array
        return cls(header, data, arrays, read) if _lengths_fit(header, arrays) else None

    @cached_property
    def _column(self) -> dict[str, npt.NDArray[np.uint32]]:
        """The arrays of 32-bit integers, for NumPy, which only questions about many rows need.

        Raises JournalCorrupt when numbers point outside: then the file was not made by us.
        """
        import numpy as np

        if not _numbers_fit(self.header.count, self._arrays):
            raise self._contradiction()
        return {
            name: np.frombuffer(array, np.uint32)
            for name, array in self._arrays.items()
            if name not in _OTHER
        }

    def _contradiction(self) -> JournalCorrupt:
        return JournalCorrupt(
            f"the sidecar of segment {self.first} contradicts itself",
            sequence=self.first,
            reason="sidecar",
            advice="delete the segment's .idx file and open the journal again",
        )

    @cached_property
    def _kind(self) -> npt.NDArray[np.uint16]:
        import numpy as np

        return np.frombuffer(self._arrays["kind"], np.uint16)

    @cached_property
    def _kind_value(self) -> npt.NDArray[np.uint16]:
        import numpy as np

        return np.frombuffer(self._arrays["kind_value"], np.uint16)

    @property
    def end(self) -> int:
        """Sequence after the last event."""
        return self.header.next_sequence

    def locate(self, i: int) -> tuple[bytes, int, int, int]:
        """Event hash, and offsets of row, metadata and envelope, of row `i`."""
        rows, metadata, envelopes = self._places
        at = self._hashes_at + 32 * i
        return self._data[at : at + 32], rows[i], metadata[i], envelopes[i]

    def located(self, low: int, high: int) -> tuple[bytes, bytes]:
        """Event hashes, and row offsets as u32, of rows [low, high), end to end."""
        return bytes(self._hashes[32 * low : 32 * high]), self._arrays["row_offset"][
            4 * low : 4 * high
        ].tobytes()

    def offsets(self, rows: Rows) -> tuple[list[int], list[int], list[int]]:
        """Offsets of row, metadata and envelope for each of `rows`."""
        column = self._column
        return (
            column["row_offset"][rows].tolist(),
            column["metadata_offset"][rows].tolist(),
            column["envelope_offset"][rows].tolist(),
        )

    def first_match(self, query: Query, low: int, high: int) -> int | None:
        """The first row in [low, high) that matches."""
        rows = self.select(query, low, high)
        return int(rows[0]) if len(rows) else None

    def offsets_between(self, low: int, high: int) -> tuple[list[int], list[int], list[int]]:
        """As `offsets`, of all rows in [low, high)."""
        rows, metadata, envelopes = self._places
        return (
            rows[low:high].tolist(),
            metadata[low:high].tolist(),
            envelopes[low:high].tolist(),
        )

    def select(self, query: Query, low: int, high: int) -> Rows:
        """Rows in [low, high) that match, ascending."""
        import numpy as np

        if query.is_all:
            return np.arange(low, high, dtype=np.uint32)
        if query.entity is not None or query.clock is not None:
            rows = self._rows_of_entities(query, low, high)
        elif query.scope is not None:
            rows = self._rows_of_scope(query.scope)
        else:
            assert query.kinds is not None, "a query without axes is `is_all`"
            rows = self._rows_of_kinds(query.kinds)
        rows = rows[np.searchsorted(rows, low) : np.searchsorted(rows, high)]
        if query.scope is not None:
            number = _index_of(self._scopes, query.scope)
            if number is None:
                return np.empty(0, np.uint32)
            rows = rows[self._column["scope_number"][rows] == number]
        if query.kinds is not None:
            kinds = self._kind[rows]
            rows = rows[(kinds >= query.kinds[0]) & (kinds <= query.kinds[1])]
        return rows

    def _rows_of_entities(self, query: Query, low: int, high: int) -> Rows:
        names = self._entities
        ranges = name_ranges(names, query)
        starts, postings = self._column["entity_postings_start"], self._column["entity_postings"]
        found: list[Rows] = []
        if query.clock is None:
            found = [postings[starts[a] : starts[b]] for a, b in ranges]
            return _ascending(found, alone=len(found) == 1 and ranges[0][1] - ranges[0][0] == 1)
        for number in (n for a, b in ranges for n in range(a, b)):
            rows = postings[starts[number] : starts[number + 1]]
            # Clocks of an entity are dense, so a clock range is a slice of its postings.
            base = self._row_u32(int(rows[0]), _CLOCK_AT)
            first, last = query.clock
            found.append(rows[max(first - base, 0) : max(last + 1 - base, 0)])
        return _ascending(found, alone=len(found) == 1)

    def rows_of_kind(self, kind: int, low: int, high: int) -> list[int]:
        """Rows in [low, high) of this kind, ascending, without NumPy. Raises JournalCorrupt."""
        values = self._arrays["kind_value"].cast("H")
        place = bisect_left(values, kind)
        if place == len(values) or values[place] != kind:
            return []
        starts = self._arrays["kind_postings_start"].cast("I")
        postings = self._arrays["kind_postings"].cast("I")
        start, end = starts[place], starts[place + 1]
        if not start < end <= len(postings):
            raise self._contradiction()
        return [row for row in postings[start:end].tolist() if low <= row < high]

    def _rows_of_scope(self, scope: bytes) -> Rows:
        import numpy as np

        number = _index_of(self._scopes, scope)
        if number is None:
            return np.empty(0, np.uint32)
        starts = self._column["scope_postings_start"]
        return self._column["scope_postings"][starts[number] : starts[number + 1]]

    def _rows_of_kinds(self, kinds: tuple[int, int]) -> Rows:
        import numpy as np

        values, starts = self._kind_value, self._column["kind_postings_start"]
        low = int(np.searchsorted(values, kinds[0]))
        high = int(np.searchsorted(values, kinds[1], side="right"))
        found = [self._column["kind_postings"][starts[low] : starts[high]]]
        return _ascending(found, alone=high - low <= 1)

    def _row_u32(self, i: int, at: int) -> int:
        return int.from_bytes(self._read(self._places[0][i] + at, 4), "little")

    @cached_property
    def _hlc_steps(self) -> list[int]:
        """Every 64th HLC: most of a search then needs neither the map nor new integers."""
        return self._hlcs[::_STEP].tolist()

    def find_hlc(self, hlc: int, rows: int) -> int | None:
        """The row among the first `rows` with exactly this HLC."""
        hlcs, count = self._hlcs, self.header.count
        high = bisect_right(self._hlc_steps, hlc) * _STEP
        if not high:
            return None
        i = bisect_left(hlcs, hlc, high - _STEP, high if high < count else count)
        return i if i < rows and i < count and hlcs[i] == hlc else None

    def find_foreign(self, event_id: bytes, rows: int) -> int | None:
        """The row among the first `rows` that has this id, which its HLC does not give."""
        table, low, high = self._foreign, 0, len(self._foreign) // 24
        while low < high:
            middle = (low + high) // 2
            found = bytes(table[24 * middle : 24 * middle + 16])
            if found < event_id:
                low = middle + 1
            else:
                high = middle
        if 24 * low < len(table) and bytes(table[24 * low : 24 * low + 16]) == event_id:
            i = int.from_bytes(table[24 * low + 16 : 24 * low + 20], "little")
            return i if i < rows else None
        return None

    def foreign_entries(self) -> memoryview:
        """Id and row of each foreign id, 24 bytes each, ascending by id."""
        return self._foreign

    def last_of(self, entity: bytes, rows: int) -> int | None:
        """The entity's last row among the first `rows`. Raises JournalCorrupt."""
        number = _index_of(self._entities, entity)
        if number is None:
            return None
        starts = self._arrays["entity_postings_start"].cast("I")
        postings = self._arrays["entity_postings"].cast("I")
        start, end = starts[number], starts[number + 1]
        if not start < end <= len(postings):
            raise self._contradiction()
        place = bisect_left(postings, rows, start, end)
        if place == start:
            return None
        row = postings[place - 1]
        if row >= rows:  # they do not ascend
            raise self._contradiction()
        return row

    def tally(self, rows: int) -> Tally:
        """Names and kinds; `rows` is all of them, for a part is below every bound."""
        import numpy as np

        from batpak.index.columns import Tally

        del rows
        starts = self._column["kind_postings_start"].astype(np.int64)
        numbers = np.diff(starts).tolist()
        kinds = self._kind_value.tolist()
        return Tally(
            list(self._entities), list(self._scopes), list(zip(kinds, numbers, strict=True))
        )

    def columns(self) -> Columns:
        """Everything in this part, as arrays."""
        import numpy as np

        from batpak.index.columns import Columns

        column = self._column
        table = bytes(self._foreign)
        return Columns(
            bytes(self._hashes),
            column["row_offset"],
            column["metadata_offset"],
            column["envelope_offset"],
            list(self._entities),
            column["entity_number"],
            list(self._scopes),
            column["scope_number"],
            self._kind,
            np.frombuffer(self._arrays["hlc"], np.uint64),
            [
                (table[at : at + 16], int.from_bytes(table[at + 16 : at + 20], "little"))
                for at in range(0, len(table), 24)
            ],
        )


def _index_of(names: _Names, name: bytes) -> int | None:
    i = bisect_left(names, name)
    return i if i < len(names) and names[i] == name else None


def _ascending(found: list[Rows], *, alone: bool) -> Rows:
    import numpy as np

    if not found:
        return np.empty(0, np.uint32)
    rows = found[0] if len(found) == 1 else np.concatenate(found)
    return rows if alone else np.sort(rows)


def _lengths_fit(header: SidecarHeader, arrays: dict[str, memoryview]) -> bool:
    """Whether the arrays' lengths fit each other."""
    n = header.count
    size = {name: len(array) for name, array in arrays.items()}
    four = (
        "row_offset", "metadata_offset", "envelope_offset", "entity_number", "scope_number",
        "entity_postings", "scope_postings", "kind_postings",
    )  # fmt: skip
    if n == 0 or size["event_hash"] != 32 * n or size["kind"] != 2 * n or size["hlc"] != 8 * n:
        return False
    if any(size[name] != 4 * n for name in four) or size["foreign_id"] % 24:
        return False
    if any(size[name] % 4 or size[name] < 8 for name in arrays if name.endswith("_start")):
        return False
    if size["kind_value"] != 2 * (size["kind_postings_start"] // 4 - 1):
        return False
    for axis in ("entity", "scope"):
        if size[f"{axis}_text_start"] != size[f"{axis}_postings_start"]:
            return False
        if arrays[f"{axis}_text_start"].cast("I")[-1] != size[f"{axis}_text"]:
            return False
    return True


def _numbers_fit(n: int, arrays: dict[str, memoryview]) -> bool:
    """Whether every number stays inside of what it points into."""
    import numpy as np

    def of(name: str) -> npt.NDArray[np.int64]:
        return np.frombuffer(arrays[name], "<u4").astype(np.int64)

    for axis in ("entity", "scope", "kind"):
        starts = of(f"{axis}_postings_start")
        # A name or kind that stands in the table has rows.
        if starts[0] != 0 or starts[-1] != n or np.any(np.diff(starts) <= 0):
            return False
        if of(f"{axis}_postings").max() >= n:
            return False
        if axis != "kind":
            texts = of(f"{axis}_text_start")
            if texts[0] != 0 or np.any(np.diff(texts) <= 0):
                return False
            if of(f"{axis}_number").max() >= len(starts) - 1:
                return False
    return True
