"""The part of the index that grows: the newest segment's events that no sidecar covers.

`add` is the one way in, for appends and for recovery; it sets absolute places, so
adding an event twice is the same as adding it once. A reader takes its bound first
and never looks beyond it; what stands below a bound is never changed. NumPy is loaded
by the first question that needs it, so that writing alone starts fast.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from batpak.event import ROW_SIZE, is_foreign
from batpak.index.keytable import ENTRY
from batpak.index.query import Query, name_ranges

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batpak.index.columns import Columns, Tally
    from batpak.journal.commits import Committed, Prepared

    Rows = npt.NDArray[np.uint32]
    """Row numbers within a part, ascending."""

__all__ = ["GrowingPart", "Rows"]

_CHUNK_BITS: Final = 12
_CHUNK: Final = 1 << _CHUNK_BITS
_CHUNK_MASK: Final = _CHUNK - 1
_ENTRY: Final = struct.Struct("<32sIIIIIIHH")
_SIZE: Final = _ENTRY.size
_pack_entry: Final = _ENTRY.pack_into
_OFFSETS: Final = struct.Struct("<32sIII")
_AXES: Final = struct.Struct("<44xIIIH")
"""Of an entry: entity number, scope number, clock, kind."""
_KIND_AT: Final = 56
"""Where an entry has the kind."""
_FEW: Final = 64


@cache
def _dtype() -> np.dtype[np.void]:
    """The layout of _ENTRY, for NumPy."""
    import numpy as np

    names = ("row_offset", "metadata_offset", "envelope_offset", "entity_number", "scope_number")
    fields: list[Any] = [("event_hash", "V32"), *((name, "<u4") for name in (*names, "clock"))]
    return np.dtype([*fields, ("kind", "<u2"), ("spare", "<u2")])


def _last_rows(numbers: Rows) -> tuple[list[int], list[int]]:
    """The numbers that occur, ascending, and the last row of each."""
    import numpy as np

    used, last = np.unique(numbers[::-1], return_index=True)
    return used.tolist(), (len(numbers) - 1 - last).tolist()


class GrowingPart:
    """Rows `first` … `first + len`; memory about 64 bytes an event, and its names."""

    def __init__(self, first: int, salt: bytes = b"") -> None:
        """`salt`: of the segment file that the offsets are of."""
        self.first = first
        self.salt = salt
        self._chunks: list[bytearray] = []
        self._room = 0
        self._hlcs = array("Q")
        self._entities: dict[bytes, int] = {}
        self._names: list[bytes] = []
        """The entities' names by number."""
        self._scopes: dict[bytes, int] = {}
        self._last = array("I")
        self._foreign: dict[bytes, int] = {}
        self._sorted: tuple[int, list[bytes]] = (0, [])

    @property
    def end(self) -> int:
        """Sequence after the last event added; readers use their own bound."""
        return self.first + len(self._hlcs)

    @property
    def first_hlc(self) -> int | None:
        """HLC of the first event."""
        return self._hlcs[0] if self._hlcs else None

    # --- the one way in ------------------------------------------------------

    def add(
        self,
        sequence: int,
        event_hash: bytes,
        row_offset: int,
        metadata_offset: int,
        envelope_offset: int,
        entity: bytes,
        scope: bytes,
        kind: int,
        clock: int,
        hlc: int,
        foreign_id: bytes | None,
    ) -> None:
        """Put one event at its place. `foreign_id`: its id, where the HLC does not give it."""
        hlcs = self._hlcs
        i = len(hlcs)
        if i != sequence - self.first:
            i = self._again(sequence, hlc)
        elif i == self._room:
            self._make_room()
        number = self._entities.get(entity)
        if number is None:
            number = self._new_entity(entity, i)
        scope_number = self._scopes.get(scope)
        if scope_number is None:
            scope_number = self._scopes[scope] = len(self._scopes)
        _pack_entry(
            self._chunks[i >> _CHUNK_BITS], (i & _CHUNK_MASK) * _SIZE, event_hash, row_offset,
            metadata_offset, envelope_offset, number, scope_number, clock, kind, 0,
        )  # fmt: skip
        self._last[number] = i
        if foreign_id is not None:
            self._foreign[foreign_id] = i
        if i == len(hlcs):
            hlcs.append(hlc)

    def _again(self, sequence: int, hlc: int) -> int:
        """The row of an event that was added before, by a write that was interrupted."""
        i = sequence - self.first
        assert 0 <= i < len(self._hlcs), "events are added in their order"
        self._hlcs[i] = hlc
        return i

    def add_many(
        self,
        row_offset: int,
        envelope_offset: int,
        events: Sequence[Prepared],
        committed: Sequence[Committed],
    ) -> None:
        """As `add`, for the events of one record, whose rows begin at `row_offset`."""
        if committed[0][0] - self.first != len(self._hlcs):
            # Once more after an interruption: a list of hybrid clocks can be cut again.
            del self._hlcs[committed[0][0] - self.first :]
        first, i = len(self._hlcs), len(self._hlcs)
        entities, scopes, last, chunks = self._entities, self._scopes, self._last, self._chunks
        metadata_offset = row_offset + ROW_SIZE * len(events)
        pack = _pack_entry
        for event, (_, event_id, hlc, clock, event_hash, _) in zip(events, committed, strict=True):
            coordinate = event.coordinate
            if i == self._room:
                self._make_room()
            number = entities.get(coordinate.entity_bytes)
            if number is None:
                number = self._new_entity(coordinate.entity_bytes, i)
            scope = scopes.get(coordinate.scope_bytes)
            if scope is None:
                scope = scopes[coordinate.scope_bytes] = len(scopes)
            pack(
                chunks[i >> _CHUNK_BITS], (i & _CHUNK_MASK) * _SIZE, event_hash, row_offset,
                metadata_offset, envelope_offset, number, scope, clock, event.kind, 0,
            )  # fmt: skip
            last[number] = i
            if event.key is not None and is_foreign(event_id, hlc):
                self._foreign[event_id] = i
            i += 1
            row_offset += ROW_SIZE
            metadata_offset += len(event.metadata)
            envelope_offset += len(event.envelope)
        self._hlcs.extend(range(committed[0][2], committed[0][2] + i - first))

    def extend(self, sequence: int, columns: Columns, clocks: Rows) -> None:
        """As `add`, for many events from `sequence` on."""
        import numpy as np

        first = sequence - self.first
        # Once more after an interruption: nobody was shown what stands there.
        del self._hlcs[first:]
        entries = np.zeros(len(columns), _dtype())
        entries["event_hash"] = np.frombuffer(columns.event_hash, "V32")
        entries["row_offset"] = columns.row_offset
        entries["metadata_offset"] = columns.metadata_offset
        entries["envelope_offset"] = columns.envelope_offset
        entries["clock"] = clocks
        entries["kind"] = columns.kind
        used, _ = _last_rows(columns.scope_number)
        numbers = np.zeros(len(columns.scope_names), np.uint32)
        for name in used:
            scope = columns.scope_names[name]
            numbers[name] = self._scopes.setdefault(scope, len(self._scopes))
        entries["scope_number"] = numbers[columns.scope_number]
        used, last = _last_rows(columns.entity_number)
        numbers = np.zeros(len(columns.entity_names), np.uint32)
        for name, row in zip(used, last, strict=True):
            entity = columns.entity_names[name]
            number = self._entities.get(entity)
            if number is None:
                number = self._new_entity(entity, first + row)
            numbers[name] = number
            self._last[number] = first + row
        entries["entity_number"] = numbers[columns.entity_number]
        self._put(first, entries.tobytes())
        self._foreign.update({key: first + row for key, row in columns.foreign})
        self._hlcs.frombytes(columns.hlc.tobytes())

    def _put(self, i: int, entries: bytes) -> None:
        """Write packed entries from row `i` on."""
        at = 0
        while at < len(entries):
            if i == self._room:
                self._make_room()
            place = (i & _CHUNK_MASK) * _SIZE
            piece = entries[at : at + _CHUNK * _SIZE - place]
            self._chunks[i >> _CHUNK_BITS][place : place + len(piece)] = piece
            at += len(piece)
            i += len(piece) // _SIZE

    def _make_room(self) -> None:
        self._chunks.append(bytearray(_CHUNK * _SIZE))
        self._room += _CHUNK

    def _new_entity(self, entity: bytes, i: int) -> int:
        number = len(self._entities)
        if number == len(self._last):
            self._last.append(i)
        self._names[number:] = [entity]
        self._entities[entity] = number
        return number

    # --- readers -------------------------------------------------------------

    def locate(self, i: int) -> tuple[bytes, int, int, int]:
        """Event hash, and offsets of row, metadata and envelope, of row `i`."""
        return _OFFSETS.unpack_from(self._chunks[i // _CHUNK], i % _CHUNK * _SIZE)

    def located(self, low: int, high: int) -> tuple[bytes, bytes]:
        """Event hashes, and row offsets as u32, of rows [low, high), end to end."""
        if high - low <= _FEW:
            places = [self.locate(i) for i in range(low, high)]
            return b"".join([p[0] for p in places]), array("I", [p[1] for p in places]).tobytes()
        hashes: list[bytes] = []
        offsets: list[bytes] = []
        for chunk in range(low >> _CHUNK_BITS, ((high - 1) >> _CHUNK_BITS) + 1):
            start = chunk << _CHUNK_BITS
            entries = self._table(chunk)[max(low - start, 0) : high - start]
            hashes.append(entries["event_hash"].tobytes())
            offsets.append(entries["row_offset"].tobytes())
        return b"".join(hashes), b"".join(offsets)

    def offsets(self, rows: Rows) -> tuple[list[int], list[int], list[int]]:
        """Offsets of row, metadata and envelope for each of `rows`."""
        columns = ("row_offset", "metadata_offset", "envelope_offset")
        a, b, c = (self._gather(name, rows).tolist() for name in columns)
        return a, b, c

    def first_match(self, query: Query, low: int, high: int) -> int | None:
        """The first row in [low, high) that matches.

        A few rows are looked at one by one: a condition asks for what came since.
        """
        if high - low > _FEW:
            rows = self.select(query, low, high)
            return int(rows[0]) if len(rows) else None
        scope = None if query.scope is None else self._scopes.get(query.scope, -1)
        for i in range(low, high):
            axes: tuple[int, int, int, int] = _AXES.unpack_from(
                self._chunks[i >> _CHUNK_BITS], (i & _CHUNK_MASK) * _SIZE
            )
            entity, found_scope, clock, kind = axes
            if (
                (scope is None or scope == found_scope)
                and (query.kinds is None or query.kinds[0] <= kind <= query.kinds[1])
                and (query.clock is None or query.clock[0] <= clock <= query.clock[1])
                and (query.entity is None or query.selects(self._names[entity]))
            ):
                return i
        return None

    def rows_of_kind(self, kind: int, low: int, high: int) -> list[int]:
        """Rows in [low, high) of this kind, ascending, without NumPy."""
        found: list[int] = []
        wanted = kind.to_bytes(2, "little")
        for c in range(low >> _CHUNK_BITS, -(-high // _CHUNK)):
            chunk, start = self._chunks[c], max(low - c * _CHUNK, 0)
            # The kinds' low bytes by themselves: a search in them is one call for a chunk.
            lows = chunk[start * _SIZE + _KIND_AT : (high - c * _CHUNK) * _SIZE : _SIZE]
            at = lows.find(wanted[:1])
            while at >= 0:
                if chunk[(start + at) * _SIZE + _KIND_AT + 1] == wanted[1]:
                    found.append(c * _CHUNK + start + at)
                at = lows.find(wanted[:1], at + 1)
        return found

    def offsets_between(self, low: int, high: int) -> tuple[list[int], list[int], list[int]]:
        """As `offsets`, of all rows in [low, high)."""
        rows, metadata, envelopes = list[int](), list[int](), list[int]()
        for i in range(low, high):
            _, row, meta, envelope = self.locate(i)
            rows.append(row)
            metadata.append(meta)
            envelopes.append(envelope)
        return rows, metadata, envelopes

    def _table(self, chunk: int) -> npt.NDArray[np.void]:
        """The entries of a chunk, where they stand."""
        import numpy as np

        return np.frombuffer(self._chunks[chunk], _dtype())

    def _gather(self, name: str, rows: Rows) -> npt.NDArray[np.uint32]:
        import numpy as np

        if not len(rows):
            return np.empty(0, np.uint32)
        low, high = int(rows[0]) // _CHUNK, int(rows[-1]) // _CHUNK
        if low == high:
            return self._table(low)[name][rows - np.uint32(low * _CHUNK)]
        column = np.concatenate([self._table(c)[name] for c in range(low, high + 1)])
        return column[rows - np.uint32(low * _CHUNK)]

    def select(self, query: Query, low: int, high: int) -> Rows:
        """Rows in [low, high) that match, ascending."""
        import numpy as np

        if query.is_all:
            return np.arange(low, high, dtype=np.uint32)
        entities = None if query.entity is None else self._numbers_of(query)
        scope = None if query.scope is None else self._scopes.get(query.scope)
        if query.scope is not None and scope is None:
            return np.empty(0, np.uint32)
        if entities is not None and not len(entities):
            return np.empty(0, np.uint32)
        found: list[Rows] = []
        for c in range(low // _CHUNK, -(-high // _CHUNK)):
            start = max(low - c * _CHUNK, 0)
            columns = self._table(c)[start : high - c * _CHUNK]
            mask = np.ones(len(columns), dtype=bool)
            if entities is not None:
                column = columns["entity_number"]
                one = len(entities) == 1
                mask &= column == entities[0] if one else np.isin(column, entities)
            if scope is not None:
                mask &= columns["scope_number"] == scope
            if query.kinds is not None:
                column = columns["kind"]
                mask &= (column >= query.kinds[0]) & (column <= query.kinds[1])
            if query.clock is not None:
                column = columns["clock"]
                mask &= (column >= query.clock[0]) & (column <= query.clock[1])
            found.append((np.flatnonzero(mask) + (c * _CHUNK + start)).astype(np.uint32))
        return np.concatenate(found) if found else np.empty(0, np.uint32)

    def _numbers_of(self, query: Query) -> npt.NDArray[np.uint32]:
        import numpy as np

        count, names = self._sorted
        if count != len(self._entities):
            # A copy at once: a writer may add names meanwhile.
            names = list(self._entities)
            names.sort()
            self._sorted = (len(names), names)
        numbers = [
            self._entities[name]
            for low, high in name_ranges(names, query)
            for name in names[low:high]
        ]
        return np.array(numbers, np.uint32)

    def find_hlc(self, hlc: int, rows: int) -> int | None:
        """The row among the first `rows` with exactly this HLC."""
        hlcs = self._hlcs
        rows = min(rows, len(hlcs))
        i = bisect_left(hlcs, hlc, 0, rows)
        return i if i < rows and hlcs[i] == hlc else None

    def find_foreign(self, event_id: bytes, rows: int) -> int | None:
        """The row among the first `rows` that has this id, which its HLC does not give."""
        i = self._foreign.get(event_id)
        return i if i is not None and i < rows else None

    def foreign_entries(self) -> bytes:
        """Id and row of each foreign id, 24 bytes each, in no order."""
        pack = ENTRY.pack
        return b"".join([pack(key, i, 0) for key, i in list(self._foreign.items())])

    def last_of(self, entity: bytes, rows: int) -> int | None:
        """The entity's last row among the first `rows`."""
        number = self._entities.get(entity)
        if number is None:
            return None
        i = self._last[number]
        if i < rows:
            return i
        matches = self.select(Query(entity=entity, exact=True), 0, rows)
        return int(matches[-1]) if len(matches) else None

    def tally(self, rows: int) -> Tally:
        """Names and kinds among the first `rows`."""
        import numpy as np

        from batpak.index.columns import Tally

        column = self._gather("kind", np.arange(rows, dtype=np.uint32))
        kinds, numbers = np.unique(column, return_counts=True)
        entities, scopes = list(self._entities), list(self._scopes)
        if rows < len(self._hlcs):
            every = np.arange(rows, dtype=np.uint32)
            used: list[int] = np.unique(self._gather("entity_number", every)).tolist()
            entities = [entities[n] for n in used]
            used = np.unique(self._gather("scope_number", every)).tolist()
            scopes = [scopes[n] for n in used]
        return Tally(entities, scopes, list(zip(kinds.tolist(), numbers.tolist(), strict=True)))

    # --- into a sidecar ------------------------------------------------------

    def columns(self, rows: int) -> Columns:
        """Everything about the first `rows` events, as arrays of its own."""
        import numpy as np

        from batpak.index.columns import Columns

        entries = (
            np.concatenate([self._table(c) for c in range(len(self._chunks))])[:rows]
            if self._chunks
            else np.empty(0, _dtype())
        )
        return Columns(
            entries["event_hash"].tobytes(),
            np.ascontiguousarray(entries["row_offset"]),
            np.ascontiguousarray(entries["metadata_offset"]),
            np.ascontiguousarray(entries["envelope_offset"]),
            list(self._entities),
            np.ascontiguousarray(entries["entity_number"]),
            list(self._scopes),
            np.ascontiguousarray(entries["scope_number"]),
            np.ascontiguousarray(entries["kind"]),
            np.array(self._hlcs[:rows], np.uint64),
            [(key, i) for key, i in list(self._foreign.items()) if i < rows],
        )
