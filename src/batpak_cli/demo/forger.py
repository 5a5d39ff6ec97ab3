"""A forger: takes a journal's segments apart, changes them, and makes every checksum right.

Works on the bytes of a directory that nobody has open, without the store. `write` gives
each record a right header_crc, head_crc, body_crc and prev_crc, so that whatever finds
the forgery finds it by a hash, by a link or by a witness; `rehash` makes those right too,
as somebody would who may rewrite the whole directory. For copies only, never for a
journal that is needed. Format: docs/format.md; what finds what: docs/tampering.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from batpak.event import NO_HASH, ROW, SALT_SIZE, Row, content_hash, event_hash
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.layout import Layout, parse_segment_name
from batpak.journal.record import (
    COMMIT,
    MAGIC,
    PAD,
    SPARSE,
    Chain,
    Invalid,
    read_record,
    salt_crc,
)

__all__ = ["ForgedEvent", "ForgedJournal", "ForgedRecord", "ForgedSegment"]

_FIELDS: Final = struct.Struct("<IIIIQQIIBBH8x")
"""Bytes 8 to 59 of a record's header."""


@dataclass(slots=True, eq=False)
class ForgedEvent:
    """One event, all of it open to change. The row's lengths are not made to follow."""

    row: Row
    metadata: bytes
    envelope: bytes

    @property
    def entity(self) -> bytes:
        """UTF-8 bytes of the entity."""
        return self.metadata[: self.row.entity_len]

    @property
    def hash(self) -> bytes:
        """The event hash of what now stands here, 32 bytes."""
        return event_hash(self.row_bytes, self.metadata)

    @property
    def row_bytes(self) -> bytes:
        """The row's 176 bytes."""
        return ROW.pack(*self.row)

    def set(self, **fields: Any) -> None:
        """Change fields of the row and nothing else: every hash stays as it was."""
        self.row = self.row._replace(**fields)


@dataclass(slots=True, eq=False)
class ForgedRecord:
    """One commit, or a pad, which has no events."""

    durable: int
    epoch: int
    flags: int
    events: list[ForgedEvent]
    pad_bytes: int = 0


@dataclass(slots=True, eq=False)
class ForgedSegment:
    """One segment file in parts. Space reserved after its last record is left out."""

    header: SegmentHeader
    records: list[ForgedRecord] = field(default_factory=list[ForgedRecord])

    @property
    def events(self) -> list[ForgedEvent]:
        """Its events in order; the same objects, to be changed."""
        return [event for record in self.records for event in record.events]

    @classmethod
    def parse(cls, data: bytes, name: str) -> ForgedSegment:
        """Take a whole segment file apart.

        Raises JournalCorrupt for a damaged header, ValueError for records without all
        their payloads, which this forger has no use for.
        """
        header = SegmentHeader.decode(data[:HEADER_SIZE], name)
        segment = cls(header)
        chain = Chain(HEADER_SIZE, header.base_sequence, header.crc, header.epoch)

        def read(offset: int, length: int) -> bytes:
            return data[offset : offset + length]

        while True:
            record = read_record(read, len(data), chain, salt_crc(header.salt))
            if isinstance(record, Invalid):
                return segment
            if record.header.flags & SPARSE:
                raise ValueError(f"{name}: the record at {record.offset} lacks payloads")
            events = [
                ForgedEvent(
                    event.row,
                    event.metadata,
                    read(event.envelope_offset, event.stored_len),
                )
                for event in record.events(read)
            ]
            segment.records.append(
                ForgedRecord(
                    record.header.durable,
                    record.header.epoch,
                    record.header.flags,
                    events,
                    record.header.body_len if record.header.type == PAD else 0,
                )
            )
            chain = record.chain

    def encode(self) -> bytes:
        """The file, every checksum and every record's place and length as the content asks."""
        head = self.header.encode()
        # The checksum that the first record continues is that of the header as it is now.
        crc = int.from_bytes(head[-4:], "little")
        state = salt_crc(self.header.salt)
        parts, chain = [head], Chain(HEADER_SIZE, self.header.base_sequence, crc, 0)
        for record in self.records:
            data, head_crc = _seal(record, chain, state)
            parts.append(data)
            chain = Chain(
                chain.offset + len(data), chain.sequence + len(record.events), head_crc, 0
            )
        return b"".join(parts)


def _seal(record: ForgedRecord, chain: Chain, state: int) -> tuple[bytes, int]:
    """A record's bytes for this place, all checksums right, and its head_crc.

    The writer's own packing stays out of this: it may change its ways, the format not.
    """
    events = record.events
    head = _pad8(b"".join([e.row_bytes for e in events] + [e.metadata for e in events]))
    body = _pad8(b"".join(e.envelope for e in events)) + bytes(record.pad_bytes)
    fields = _FIELDS.pack(
        len(head),
        len(body),
        crc32(body, state),
        chain.prev_crc,
        chain.sequence,
        min(record.durable, chain.sequence),
        record.epoch,
        len(events),
        COMMIT if events else PAD,
        1,
        record.flags,
    )
    header_crc = crc32(chain.offset.to_bytes(8, "little") + fields, state)
    covered = fields + header_crc.to_bytes(4, "little") + head
    head_crc = crc32(covered, state)
    return MAGIC + head_crc.to_bytes(4, "little") + covered + body, head_crc


def _pad8(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


class ForgedJournal:
    """A journal directory's log in memory. Nothing reaches the disk before `write`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.layout = Layout(path)
        names = sorted(os.listdir(self.layout.segments))
        self.segments = [
            ForgedSegment.parse(Path(self.layout.segments, name).read_bytes(), name)
            for name in names
            if parse_segment_name(name) is not None
        ]

    def __iter__(self) -> Iterator[ForgedEvent]:
        for segment in self.segments:
            yield from segment.events

    def at(self, sequence: int) -> ForgedEvent:
        """The event whose row says `sequence`. Raises KeyError."""
        for event in self:
            if event.row.sequence == sequence:
                return event
        raise KeyError(sequence)

    # --- what a forger may want ------------------------------------------------

    def change_payload(self, sequence: int, *, at: int = -1, commit: bool = False) -> None:
        """Flip the lowest bit of one payload byte; with `commit`, the row's hash of it follows."""
        event = self.at(sequence)
        salt = SALT_SIZE if event.row.codec == 1 else 0
        payload = bytearray(event.envelope[salt:])
        payload[at] ^= 1
        event.envelope = event.envelope[:salt] + bytes(payload)
        if commit:
            event.set(content_hash=content_hash(event.row.codec, event.envelope))

    def swap(self, first: int, second: int) -> None:
        """Exchange what two events say.

        What belongs to the places stays: number, times, predecessor, and within one
        entity the place in its stream.
        """
        one, other = self.at(first), self.at(second)
        place_of_one, place_of_other = one.row, other.row
        same = one.entity == other.entity
        one.row, other.row = other.row, one.row
        one.metadata, other.metadata = other.metadata, one.metadata
        one.envelope, other.envelope = other.envelope, one.envelope
        for event, place in ((one, place_of_one), (other, place_of_other)):
            event.set(sequence=place.sequence, timestamp_us=place.timestamp_us, hlc=place.hlc)
            if same:
                event.set(clock=place.clock, prev_hash=place.prev_hash)

    def remove(self, sequence: int) -> None:
        """Take one event out and number all that follow anew."""
        event = self.at(sequence)
        for segment in self.segments:
            for record in [r for r in segment.records if event in r.events]:
                record.events.remove(event)
                if not record.events:
                    segment.records.remove(record)
        self.renumber()

    def cut(self, sequence: int) -> None:
        """Leave out `sequence`, which is not 0, and everything after it."""
        self.segments = [s for s in self.segments if s.header.base_sequence < sequence]
        records = self.segments[-1].records
        for place, record in enumerate(records):
            events = [event for event in record.events if event.row.sequence < sequence]
            if len(events) < len(record.events):
                record.events = events
                del records[place + bool(events) :]
                return

    def splice(self, place: int, foreign: ForgedSegment) -> None:
        """Put another journal's segment in the place of ours, its header made to fit."""
        ours = self.segments[place].header
        foreign.header = replace(
            foreign.header,
            journal_id=ours.journal_id,
            base_sequence=ours.base_sequence,
            prev_event_hash=ours.prev_event_hash,
            epoch=ours.epoch,
        )
        for record in foreign.records:
            record.epoch = ours.epoch
        self.segments[place] = foreign
        self.renumber()

    def renumber(self) -> None:
        """Give every event, and so every segment, the number that its place asks."""
        sequence = 0
        for segment in self.segments:
            segment.header = replace(segment.header, base_sequence=sequence)
            for event in segment.events:
                event.set(sequence=sequence)
                sequence += 1

    def relink(self) -> None:
        """Make each segment header name the hash of the event before it, as it now is."""
        last = NO_HASH
        for segment in self.segments:
            segment.header = replace(segment.header, prev_event_hash=last)
            last = segment.events[-1].hash

    def rehash(self) -> None:
        """Make every hash, link and clock right again, as the journal's owner could.

        After this the journal is without fault in itself.
        """
        heads: dict[bytes, tuple[int, bytes]] = {}
        last = NO_HASH
        for segment in self.segments:
            segment.header = replace(segment.header, prev_event_hash=last)
            for event in segment.events:
                clock, previous = heads.get(event.entity, (0, NO_HASH))
                event.set(
                    content_hash=content_hash(event.row.codec, event.envelope),
                    clock=clock,
                    prev_hash=previous,
                )
                last = event.hash
                heads[event.entity] = (clock + 1, last)

    # --- to the disk -------------------------------------------------------------

    def write(self, *, hint: bool = True) -> None:
        """Replace the directory's segments and drop every sidecar, which would bear witness.

        The tail hint is made to match, or removed when `hint` is false.
        """
        self.drop_sidecars()
        folder = Path(self.layout.segments)
        for name in os.listdir(folder):
            if parse_segment_name(name) is not None:
                (folder / name).unlink()
        end = sequence = epoch = 0
        for segment in self.segments:
            data = segment.encode()
            Path(self.layout.segment(segment.header.base_sequence)).write_bytes(data)
            end, sequence = len(data), segment.header.base_sequence + len(segment.events)
            epoch = max([epoch, *(record.epoch for record in segment.records)])
        last = self.segments[-1].header
        self.drop_hint()
        if hint:
            forged = Hint(last.journal_id, epoch, last.base_sequence, end, sequence)
            Path(self.layout.hint).write_bytes(forged.encode())

    def drop_sidecars(self) -> None:
        """Delete every sidecar."""
        for name in os.listdir(self.layout.segments):
            if name.endswith(".idx"):
                Path(self.layout.segments, name).unlink()

    def drop_hint(self) -> None:
        """Delete the tail hint."""
        Path(self.layout.hint).unlink(missing_ok=True)
