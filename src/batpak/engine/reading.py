"""Read events below a bound: one at a time, in pages, in streams; every read is checked.

The bound is the reader's: taken once, it fixes the prefix that the reader sees. Knows
index and segments, not who may see what; of an erased payload, nothing is read.

A part of the index and the file that its offsets are of belong together by the file's
salt. Where compaction put another file in its place, the part is made anew, once, by
`renew_part`, and the reading goes on with the new pair.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from blake3 import blake3

from batpak.encryption import Vault
from batpak.errors import JournalCorrupt, PayloadDamaged
from batpak.event import (
    CODEC_ENCRYPTED,
    CONTENT_PREFIX,
    EVENT_PREFIX,
    ROW_SIZE,
    Event,
    EventSummary,
    PayloadState,
)
from batpak.index.parts import Index, Slot
from batpak.index.query import Query
from batpak.index.runs import Runs
from batpak.journal.commits import Head
from batpak.journal.header import HEADER_SIZE
from batpak.journal.reading import Positional, SegmentPool, SegmentReader, SegmentReplaced
from batpak.journal.record import DETACHED, RECORD_HEADER_SIZE, decode_header, salt_crc

__all__ = ["LogReader"]

_needed: Final[Callable[[bytes], tuple[int, int, int, int, int, int, int, bytes]]] = struct.Struct(
    "<Q76xI6xHHBBI8x32s32x"
).unpack
"""Of a row: sequence, extensions_len, entity_len, scope_len, row_version, codec,
envelope_len, content_hash."""
_CHUNK: Final = 1024
_MAX_WINDOW: Final = 1 << 20
"""Bytes of a segment that are read at once for a chunk of rows."""
_RESERVED: Final = b"batpak:"
T = TypeVar("T")


class LogReader:
    """Events of one journal, by sequence, id or region."""

    def __init__(self, index: Index, pool: SegmentPool, vault: Vault | None = None) -> None:
        self.index = index
        self.pool = pool
        self.vault = vault or Vault()
        """What opens encrypted payloads, and knows which keys are shredded."""
        self.erased: Runs | None = None
        """Events whose payload is refused, whatever the segments still hold; None for none."""
        self.renew_part: Callable[[int], None] | None = None
        """Makes the part of a segment anew whose file was replaced, and puts it in the index."""
        self._hashers: list[blake3] = []
        """Ready to be used again, as many as threads read at once: a new one costs more."""
        self.renewing = threading.RLock()
        """Held while a segment's file and its part are two generations."""

    def renew(self, base: int) -> None:
        """Wait for a replacement under way, then pair the segment with its part again."""
        with self.renewing:
            if self.renew_part is not None:
                self.renew_part(base)

    def pair(self, sequence: int) -> tuple[Slot, SegmentReader]:
        """The part that holds a sequence and the file that its offsets are of."""
        slot = self.index.slot_of(sequence)
        try:
            return slot, self.pool.get(slot.segment_base, slot.part.salt)
        except SegmentReplaced as replaced:
            self.renew(replaced.base)
        slot = self.index.slot_of(sequence)
        try:
            return slot, self.pool.get(slot.segment_base, slot.part.salt)
        except SegmentReplaced as again:
            raise self._unsettled(slot) from again

    def _asked(self, question: Callable[[], T]) -> T:
        """The index's answer, where that may look into segments."""
        try:
            return question()
        except SegmentReplaced as replaced:
            self.renew(replaced.base)
        try:
            return question()
        except SegmentReplaced as again:
            raise self._unsettled(self.index.slots_of(again.base)[0]) from again

    def _unsettled(self, slot: Slot) -> JournalCorrupt:
        return JournalCorrupt(
            "a segment's file is not the one that its index was made from, twice in a row",
            file=self._file(slot),
            offset=64,
            sequence=slot.first,
            reason="salt",
            first=slot.first,
            last=slot.part.end - 1,
            advice="open the journal again",
        )

    def at(self, sequence: int, *, event_hash: bool = True) -> Event:
        """The event at `sequence`, below the caller's bound; its content hash checked.

        With `event_hash`, the row's hash is recomputed too. Raises JournalCorrupt,
        PayloadDamaged.
        """
        return self._at(self.index.slot_of(sequence), sequence, event_hash, self.erased)

    def stored(self, sequence: int) -> Event:
        """As `at`, whether or not the payload was erased: for what reads erasures."""
        return self._at(self.index.slot_of(sequence), sequence, True, None)

    def _at(self, slot: Slot, sequence: int, event_hash: bool, erased: Runs | None) -> Event:
        try:
            reader = self.pool.get(slot.segment_base, slot.part.salt)
        except SegmentReplaced:
            slot, reader = self.pair(sequence)
        digest, row_at, metadata_at, envelope_at = slot.part.locate(sequence - slot.first)
        view = reader.view(row_at + 176)
        row = view[row_at : row_at + 176]
        if len(row) < 176:
            raise self._lost_row(slot, sequence, row_at)
        found, ext, entity, scope, _, codec, size, content = _needed(row)
        if not envelope_at:
            size = 0
        metadata_end, end = metadata_at + entity + scope + ext, envelope_at + size
        metadata, envelope = view[metadata_at:metadata_end], view[envelope_at:end]
        if len(envelope) < size or len(metadata) < metadata_end - metadata_at:
            # The row stood at the end of the map.
            view = reader.view(max(end, metadata_end))
            metadata, envelope = view[metadata_at:metadata_end], view[envelope_at:end]
        if found != sequence:
            raise self._lost_row(slot, sequence, row_at)
        try:
            hasher = self._hashers.pop()
        except IndexError:
            hasher = blake3()
        if event_hash:
            hasher.reset()
            hasher.update(EVENT_PREFIX + row + metadata)
            if hasher.digest() != digest:
                raise JournalCorrupt(
                    f"event {sequence} is not what was written: its event hash is wrong",
                    file=self._file(slot),
                    offset=row_at,
                    sequence=sequence,
                    reason="event-hash",
                    first=sequence,
                    last=sequence,
                    advice=f"run: batpak verify {self.pool.root}",
                )
        if erased is not None and sequence in erased and not metadata.startswith(_RESERVED):
            return Event(row, metadata, None, PayloadState.ERASED)
        if not envelope_at:
            return Event(row, metadata, None, _absence(reader, sequence, row_at))
        hasher.reset()
        hasher.update(CONTENT_PREFIX[codec] + envelope)
        if hasher.digest() != content:
            raise self._damaged_payload(slot, sequence, envelope_at)
        self._hashers.append(hasher)
        if codec == CODEC_ENCRYPTED:
            return self._encrypted(row, metadata, envelope)
        return Event(row, metadata, envelope)

    def _encrypted(self, row: bytes, metadata: bytes, envelope: bytes) -> Event:
        """An event that is opened when its payload is asked for."""
        state = PayloadState.PRESENT
        if self.vault.is_shredded(envelope):
            state = PayloadState.SHREDDED
        return Event(row, metadata, envelope, state, self.vault)

    def get(self, event_id: bytes, bound: int, *, event_hash: bool = True) -> Event | None:
        """The event below `bound` with this id; checked as by `at`."""
        place = self.index.place_of_own(event_id, bound)
        if place is not None:
            event = self._at(*place, event_hash, self.erased)
            if event.row_bytes[8:24] == event_id:
                return event
        for candidate in self.index.find_foreign(event_id, bound):
            if self.has_id(candidate, event_id):
                return self.at(candidate, event_hash=event_hash)
        return None

    def find_id(self, event_id: bytes, bound: int) -> int | None:
        """The sequence below `bound` of the event with this id, ours or foreign.

        A miss costs the same however many events there are. Raises Damaged, StorageFailed.
        """
        index = self.index
        # Only a UUIDv7 can carry an HLC.
        if event_id[6] >> 4 == 7 and event_id[8] >> 6 == 2:
            own = index.find_own(event_id, bound)
            if own is not None and self.has_id(own, event_id):
                return own
        for candidate in index.find_foreign(event_id, bound):
            if self.has_id(candidate, event_id):
                return candidate
        return None

    def has_id(self, sequence: int, event_id: bytes) -> bool:
        """Whether the row says so: what any index gives is a candidate only."""
        slot, reader = self.pair(sequence)
        row_at = slot.part.locate(sequence - slot.first)[1]
        return reader.read(row_at + 8, 16) == event_id

    def head(self, entity: bytes, bound: int) -> Head | None:
        """Where the entity's stream ends, recomputed from segment bytes. Raises JournalCorrupt."""
        sequence = self.index.last_of(entity, bound)
        if sequence is None:
            return None
        event = self.summary(sequence)
        if event.metadata_bytes[: event.row.entity_len] != entity:
            slot = self.index.slot_of(sequence)
            raise self._lost_row(slot, sequence, slot.part.locate(sequence - slot.first)[1])
        return event.clock + 1, event.event_hash

    def summary(self, sequence: int) -> EventSummary:
        """The event at `sequence` without its payload, its event hash checked."""
        slot, reader = self.pair(sequence)
        digest, row_at, metadata_at, _ = slot.part.locate(sequence - slot.first)
        read = reader.read
        row = read(row_at, ROW_SIZE)
        if len(row) == ROW_SIZE:
            found, ext, entity, scope, *_ = _needed(row)
            event = EventSummary(row, read(metadata_at, entity + scope + ext))
            if found == sequence and event.event_hash == digest:
                return event
        raise self._lost_row(slot, sequence, row_at)

    def scan(self, query: Query, low: int, high: int) -> Iterator[Event]:
        """Matching events with sequences in [low, high), ascending; content hashes checked.

        Raises JournalCorrupt, PayloadDamaged.
        """
        hasher = blake3()
        # Bound once: the loop below runs for each event of a journal.
        reset, update, digest = hasher.reset, hasher.update, hasher.digest
        needed, make, prefixes = _needed, Event, CONTENT_PREFIX
        for slot, reader, sequences, offsets in self._runs(query, low, high):
            view, start = self._window(reader, offsets)
            for sequence, row_at, metadata_at, envelope_at in zip(sequences, *offsets, strict=True):
                row_at -= start
                metadata_at -= start
                row = view[row_at : row_at + 176]
                if len(row) < 176:
                    raise self._lost_row(slot, sequence, row_at + start)
                found, ext, entity, scope, _, codec, size, content = needed(row)
                if found != sequence:
                    raise self._lost_row(slot, sequence, row_at + start)
                metadata = view[metadata_at : metadata_at + entity + scope + ext]
                # Asked for each event: an erasure counts for readers under way as well.
                erased = self.erased
                if erased is not None and found in erased and not metadata.startswith(_RESERVED):
                    yield make(row, metadata, None, PayloadState.ERASED)
                    continue
                if not envelope_at:
                    yield make(row, metadata, None, _absence(reader, found, row_at + start))
                    continue
                envelope_at -= start
                envelope = view[envelope_at : envelope_at + size]
                reset()
                update(prefixes[codec] + envelope)
                if digest() != content:
                    raise self._damaged_payload(slot, found, envelope_at + start)
                if codec == CODEC_ENCRYPTED:
                    yield self._encrypted(row, metadata, envelope)
                    continue
                yield make(row, metadata, envelope)

    def _runs(
        self, query: Query, low: int, high: int
    ) -> Iterator[
        tuple[Slot, SegmentReader, Sequence[int], tuple[list[int], list[int], list[int]]]
    ]:
        """Matching rows in pieces: their slot, its file, sequences and offsets.

        Raises StoreClosed: the index of a closed store is empty, and nothing would seem to match.
        """
        self.pool.check_open()
        renewed = -1
        while True:
            try:
                for slot, sequences, offsets in self._pieces(query, low, high):
                    reader = self.pool.get(slot.segment_base, slot.part.salt)
                    yield slot, reader, sequences, offsets
                    low = sequences[-1] + 1
                return
            except SegmentReplaced as replaced:
                # All before `low` was given; from there on the index has other offsets.
                if renewed == low:
                    raise self._unsettled(self.index.slots_of(replaced.base)[0]) from replaced
                renewed = low
                self.renew(replaced.base)

    def _pieces(
        self, query: Query, low: int, high: int
    ) -> Iterator[tuple[Slot, Sequence[int], tuple[list[int], list[int], list[int]]]]:
        if query.is_all:
            for slot, first, offsets in self.index.runs(low, high, _CHUNK):
                yield slot, range(first, first + len(offsets[0])), offsets
            return
        for slot, rows in self.index.select(query, low, high):
            first = slot.first
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                sequences = [first + row for row in chunk.tolist()]
                yield slot, sequences, slot.part.offsets(chunk)

    @staticmethod
    def _window(
        reader: SegmentReader, offsets: tuple[list[int], list[int], list[int]]
    ) -> tuple[mmap.mmap | Positional | bytes, int]:
        """Something to slice that has some rows and their parts, and where in the file it begins.

        Rows that stand close together are read at once: many small reads cost more, most of
        all where the file is not mapped.
        """
        rows, metadata, envelopes = offsets
        # Parts follow rows in the file, in the same order; but an envelope may be absent,
        # and the one before it of the same record then stands last.
        last = len(rows) - 1
        while last and not envelopes[last]:
            last -= 1
        end = 0
        for place in {last, len(rows) - 1}:
            row = reader.read(rows[place], ROW_SIZE)
            if len(row) < ROW_SIZE:
                return b"", 0
            _, ext, entity, scope, _, _, size, _ = _needed(row)
            end = max(end, metadata[place] + entity + scope + ext)
            if envelopes[place]:
                end = max(end, envelopes[place] + size)
        start = offsets[0][0]
        if 0 < end - start <= _MAX_WINDOW:
            return reader.read(start, end - start), start
        return reader.view(end), 0

    def scan_summaries(self, query: Query, low: int, high: int) -> Iterator[EventSummary]:
        """As `scan`, without reading payloads. Raises JournalCorrupt."""
        for slot, reader, sequences, offsets in self._runs(query, low, high):
            view, start = self._window(reader, offsets)
            for sequence, row_at, metadata_at in zip(sequences, *offsets[:2], strict=True):
                place = row_at - start
                row = view[place : place + 176]
                if len(row) < 176 or _sequence(row) != sequence:
                    raise self._lost_row(slot, sequence, row_at)
                _, ext, entity, scope, *_ = _needed(row)
                place = metadata_at - start
                yield EventSummary(row, view[place : place + entity + scope + ext])

    def count(self, query: Query, low: int, high: int) -> int:
        """How many events match in [low, high), from the index alone."""
        if query.is_all:
            return max(high - low, 0)
        return self._asked(
            lambda: sum(len(match.rows) for match in self.index.select(query, low, high))
        )

    def sequences(self, query: Query, low: int, high: int) -> Iterator[int]:
        """Sequences in [low, high) that match, ascending, from the index alone."""
        if query.is_all:
            yield from range(low, high)
            return
        for match in self._asked(lambda: list(self.index.select(query, low, high))):
            first = match.slot.first
            for row in match.rows.tolist():
                yield first + row

    def of_codec(self, codec: int, low: int, high: int) -> Iterator[int]:
        """Sequences in [low, high) of events of one codec, ascending, read from the rows."""
        wanted = bytes((codec,))
        for _, reader, sequences, (rows, _, _) in self._runs(Query(), low, high):
            view = reader.view(rows[-1] + ROW_SIZE)
            for sequence, row_at in zip(sequences, rows, strict=True):
                if view[row_at + 99 : row_at + 100] == wanted:
                    yield sequence

    def first_match(self, query: Query, low: int, high: int) -> int | None:
        """The first matching sequence in [low, high)."""
        return self._asked(lambda: self.index.first_match(query, low, high))

    def _file(self, slot: Slot) -> str:
        return self.pool.path(slot.segment_base)

    def _lost_row(self, slot: Slot, sequence: int, offset: int) -> JournalCorrupt:
        return JournalCorrupt(
            f"event {sequence} is not where the index says: the segment or its sidecar is damaged",
            file=self._file(slot),
            offset=offset,
            sequence=sequence,
            reason="row",
            first=sequence,
            last=sequence,
            advice=f"run: batpak verify {self.pool.root}; "
            "delete the .idx file if the segment is good",
        )

    def _damaged_payload(self, slot: Slot, sequence: int, offset: int) -> PayloadDamaged:
        return PayloadDamaged(
            f"the payload of event {sequence} is not what was written",
            file=self._file(slot),
            offset=offset,
            sequence=sequence,
            reason="content-hash",
            advice=f"restore it from a snapshot; run: batpak verify {self.pool.root}",
        )


def _absence(reader: SegmentReader, sequence: int, row_at: int) -> PayloadState:
    """Why an event has no envelope: its record's table of stored lengths says it.

    The index keeps rows, not records, so the record's header is looked for backwards.
    """
    salt_state = salt_crc(reader.read(64, 16))
    place, at = 0, row_at - RECORD_HEADER_SIZE
    while at >= HEADER_SIZE:
        header = decode_header(reader.read(at, RECORD_HEADER_SIZE), at, salt_state)
        if header is not None and header.base_sequence + place == sequence:
            table = at + RECORD_HEADER_SIZE + header.head_len
            stored = int.from_bytes(reader.read(table + 4 * place, 4), "little")
            return PayloadState.DETACHED if stored == DETACHED else PayloadState.ERASED
        place, at = place + 1, at - ROW_SIZE
    return PayloadState.ERASED


def _sequence(row: bytes) -> int:
    return int.from_bytes(row[:8], "little")
