"""One commit, one record: build it, and judge what stands at an offset.

`seal_commit` and `read_record` are each other's inverse; recovery, readers, the
writer's own resolution of an interrupted write and `verify` all judge through
`read_record`. Bytes and offsets only, no payload types. Format: docs/format.md,
"Record" and "Row".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from batpak.event import ROW, ROW_SIZE, ROW_VERSION, Row

__all__ = [
    "COMMIT",
    "DETACHED",
    "EAGER",
    "ERASED",
    "MAGIC",
    "MAX_RECORD_BYTES",
    "PAD",
    "RECORD_HEADER_SIZE",
    "SPARSE",
    "Chain",
    "Invalid",
    "Record",
    "RecordHeader",
    "StoredEvent",
    "build_pad",
    "check_body",
    "decode_header",
    "pad8",
    "read_record",
    "salt_crc",
    "seal_commit",
]

MAGIC: Final = b"BPC1"
RECORD_HEADER_SIZE: Final = 64
VERSION: Final = 1
COMMIT: Final = 1
PAD: Final = 2
SPARSE: Final = 1
EAGER: Final = 2
KNOWN_FLAGS: Final = SPARSE | EAGER
MAX_RECORD_BYTES: Final = 1 << 30
ERASED: Final = 0
DETACHED: Final = 0xFFFFFFFF
MAX_NAME_BYTES: Final = 1024

_pack_placed = struct.Struct("<QIIIIQQIIBBH8x").pack
"""The record's offset, then bytes 8 to 59 of its header: what header_crc covers."""
_pack_start = struct.Struct("<4sI").pack
_pack_u32 = struct.Struct("<I").pack
_U64 = struct.Struct("<Q")
_HEADER = struct.Struct("<4sIIIIIQQIIBBH8sI")
_PADDING = tuple(bytes(-n & 7) for n in range(8))
"""By a length modulo 8: the zeros that fill it up."""
_crc32 = zlib.crc32

Read = Callable[[int, int], bytes]
"""`read(offset, length)`: that many bytes, fewer at the end of the file."""


def salt_crc(salt: bytes) -> int:
    """The CRC state after a segment's salt: every record checksum starts from it."""
    return _crc32(salt)


def pad8(length: int) -> bytes:
    """The zeros that bring `length` to a multiple of 8."""
    return _PADDING[length & 7]


class RecordHeader(NamedTuple):
    """The 64 bytes before a record's rows; fields as in docs/format.md."""

    magic: bytes
    head_crc: int
    head_len: int
    body_len: int
    body_crc: int
    prev_crc: int
    base_sequence: int
    durable: int
    epoch: int
    events: int
    type: int
    version: int
    flags: int
    reserved: bytes
    header_crc: int


class Chain(NamedTuple):
    """What the next record of a segment has to fit: the state between two records."""

    offset: int
    sequence: int
    prev_crc: int
    epoch: int


class Invalid(NamedTuple):
    """Why no valid record stands at an offset. `expected` and `found` are for people."""

    offset: int
    reason: str
    expected: object = None
    found: object = None


class StoredEvent(NamedTuple):
    """One event of a record: its row and where its parts stand in the file."""

    row: Row
    row_bytes: bytes
    metadata: bytes
    row_offset: int
    metadata_offset: int
    envelope_offset: int
    """0 when the envelope is absent."""
    stored_len: int
    """Bytes of the envelope in this file; ERASED or DETACHED when absent."""

    @property
    def entity(self) -> bytes:
        """UTF-8 bytes of the entity."""
        return self.metadata[: self.row.entity_len]

    @property
    def scope(self) -> bytes:
        """UTF-8 bytes of the scope."""
        start = self.row.entity_len
        return self.metadata[start : start + self.row.scope_len]


class Record(NamedTuple):
    """A record whose header and head are valid; its body is not looked at yet."""

    offset: int
    header: RecordHeader
    head: bytes
    rows: list[Row]

    @property
    def body_offset(self) -> int:
        """File offset of the payload section."""
        return self.offset + RECORD_HEADER_SIZE + self.header.head_len

    @property
    def end(self) -> int:
        """File offset just after the record."""
        return self.body_offset + self.header.body_len

    @property
    def next_sequence(self) -> int:
        """Sequence of the event after this record."""
        return self.header.base_sequence + self.header.events

    @property
    def chain(self) -> Chain:
        """What the next record has to fit."""
        header = self.header
        return Chain(self.end, self.next_sequence, header.head_crc, header.epoch)

    def events(self, read: Read) -> Iterator[StoredEvent]:
        """The record's events in order. `read` is asked only where envelopes are absent."""
        rows, head = self.rows, self.head
        count = len(rows)
        row_offset = self.offset + RECORD_HEADER_SIZE
        meta = ROW_SIZE * count
        body = self.body_offset
        stored: tuple[int, ...] | None = None
        if self.header.flags & SPARSE:
            stored = _stored_lengths(self, read(body, 4 * count))
            body += 4 * count + len(pad8(4 * count))
        for i, row in enumerate(rows):
            at = ROW_SIZE * i
            size = row.metadata_len
            length = row.envelope_len if stored is None else stored[i]
            absent = stored is not None and _is_absent(length, row.envelope_len)
            yield StoredEvent(
                row,
                head[at : at + ROW_SIZE],
                head[meta : meta + size],
                row_offset + at,
                row_offset + meta,
                0 if absent else body,
                length,
            )
            meta += size
            if not absent:
                body += length


def _is_absent(stored: int, envelope_len: int) -> bool:
    return stored == DETACHED or (stored == ERASED and envelope_len > 0)


def _stored_lengths(record: Record, table: bytes) -> tuple[int, ...]:
    count = record.header.events
    if len(table) < 4 * count:
        table = table.ljust(4 * count, b"\0")
    return struct.unpack(f"<{count}I", table)


def seal_commit(
    salt_state: int,
    offset: int,
    head: bytes,
    body: bytes,
    prev_crc: int,
    base_sequence: int,
    durable: int,
    epoch: int,
    count: int,
    flags: int,
    record_type: int = COMMIT,
) -> tuple[bytes, int, int]:
    """The record for `offset`, its head_crc, and where its payload section begins.

    `head`: rows, already hashed, then metadata; `body`: the payload section; neither
    padded yet.
    """
    head += _PADDING[len(head) & 7]
    body += _PADDING[len(body) & 7]
    placed = _pack_placed(
        offset, len(head), len(body), _crc32(body, salt_state), prev_crc, base_sequence, durable,
        epoch, count, record_type, VERSION, flags,
    )  # fmt: skip
    covered = placed[8:] + _pack_u32(_crc32(placed, salt_state)) + head
    head_crc = _crc32(covered, salt_state)
    return _pack_start(MAGIC, head_crc) + covered + body, head_crc, offset + 8 + len(covered)


def build_pad(
    salt_state: int, chain: Chain, durable: int, epoch: int, body_len: int = 0
) -> tuple[bytes, int]:
    """A record without events that carries a durable bound, and its head_crc."""
    record, head_crc, _ = seal_commit(
        salt_state, chain.offset, b"", bytes(body_len), chain.prev_crc, chain.sequence, durable,
        epoch, 0, 0, PAD,
    )  # fmt: skip
    return record, head_crc


def decode_header(data: bytes, offset: int, salt_state: int) -> RecordHeader | None:
    """The record header in `data[:64]` when magic and header_crc are right for `offset`."""
    if len(data) < RECORD_HEADER_SIZE or data[:4] != MAGIC:
        return None
    header = RecordHeader._make(_HEADER.unpack_from(data))
    if _crc32(_U64.pack(offset) + data[8:60], salt_state) != header.header_crc:
        return None
    return header


def read_record(read: Read, size: int, chain: Chain, salt_state: int) -> Record | Invalid:
    """The record that continues `chain`, or why there is none. Does not read the body.

    `size` is the file's length: nothing is allocated for a record that can't fit.
    """
    offset = chain.offset
    data = read(offset, min(4096, size - offset) if size > offset else 0)
    if len(data) < RECORD_HEADER_SIZE:
        return Invalid(offset, "end-of-file", RECORD_HEADER_SIZE, len(data))
    if data[:4] != MAGIC:
        return Invalid(offset, "magic", MAGIC.hex(), data[:4].hex())
    header = RecordHeader._make(_HEADER.unpack_from(data))
    if _crc32(_U64.pack(offset) + data[8:60], salt_state) != header.header_crc:
        return Invalid(offset, "header-crc")
    problem = _judge_header(header, chain, size)
    if problem is not None:
        return problem
    end = RECORD_HEADER_SIZE + header.head_len
    if len(data) < end:
        data += read(offset + len(data), end - len(data))
        if len(data) < end:
            return Invalid(offset, "end-of-file", end, len(data))
    if _crc32(data[8:end], salt_state) != header.head_crc:
        return Invalid(offset, "head-crc")
    head = data[RECORD_HEADER_SIZE:end]
    rows = [Row._make(fields) for fields in ROW.iter_unpack(head[: ROW_SIZE * header.events])]
    return _judge_rows(offset, header, head, rows) or Record(offset, header, head, rows)


def _judge_header(header: RecordHeader, chain: Chain, size: int) -> Invalid | None:
    """Everything that a header alone can be wrong about, its checksum being right."""
    offset = chain.offset
    length = header.head_len + header.body_len
    if header.version != VERSION:
        return Invalid(offset, "record-version", VERSION, header.version)
    if header.type not in (COMMIT, PAD):
        return Invalid(offset, "record-type", "1 or 2", header.type)
    if header.flags & ~KNOWN_FLAGS or header.reserved != bytes(8):
        return Invalid(offset, "record-flags", KNOWN_FLAGS, header.flags)
    if header.head_len % 8 or header.body_len % 8:
        return Invalid(offset, "record-length", "multiples of 8", length)
    limit = MAX_RECORD_BYTES
    if not header.flags & SPARSE:
        # Room that a later erasure needs for its table of stored lengths.
        limit = MAX_RECORD_BYTES - 8 - 4 * header.events
    if length > limit:
        return Invalid(offset, "record-length", limit, length)
    if offset + RECORD_HEADER_SIZE + length > size:
        return Invalid(offset, "end-of-file", offset + RECORD_HEADER_SIZE + length, size)
    if header.prev_crc != chain.prev_crc:
        return Invalid(offset, "prev-crc", chain.prev_crc, header.prev_crc)
    if header.base_sequence != chain.sequence:
        return Invalid(offset, "sequence", chain.sequence, header.base_sequence)
    if header.epoch < chain.epoch:
        return Invalid(offset, "epoch", chain.epoch, header.epoch)
    if header.durable > header.base_sequence:
        return Invalid(offset, "durable", header.base_sequence, header.durable)
    if header.type == PAD and (header.events or header.head_len or header.flags):
        return Invalid(offset, "pad", 0, header.events or header.head_len or header.flags)
    if header.type == COMMIT and not 1 <= header.events <= header.head_len // ROW_SIZE:
        return Invalid(offset, "count", header.head_len // ROW_SIZE, header.events)
    return None


def _judge_rows(offset: int, header: RecordHeader, head: bytes, rows: list[Row]) -> Invalid | None:
    """Rows against header: sequences, reserved fields, and the lengths they add up to."""
    sequence = header.base_sequence
    metadata = envelopes = 0
    for row in rows:
        if row.sequence != sequence:
            return Invalid(offset, "row-sequence", sequence, row.sequence)
        if row.row_version != ROW_VERSION or row.reserved:
            return Invalid(offset, "row-version", ROW_VERSION, row.row_version)
        if not (0 < row.entity_len <= MAX_NAME_BYTES and 0 < row.scope_len <= MAX_NAME_BYTES):
            return Invalid(offset, "name-length", MAX_NAME_BYTES, (row.entity_len, row.scope_len))
        metadata += row.entity_len + row.scope_len + row.extensions_len
        envelopes += row.envelope_len
        sequence += 1
    used = ROW_SIZE * len(rows) + metadata
    if used + (-used & 7) != header.head_len:
        return Invalid(offset, "head-length", used + (-used & 7), header.head_len)
    if head[used:].strip(b"\0"):
        return Invalid(offset, "padding", 0, head[used:].hex())
    if rows and not header.flags & SPARSE and envelopes + (-envelopes & 7) != header.body_len:
        return Invalid(offset, "body-length", envelopes + (-envelopes & 7), header.body_len)
    return None


def check_body(record: Record, body: bytes, salt_state: int) -> Invalid | None:
    """What is wrong with a record's payload section; None when nothing is."""
    header = record.header
    if len(body) != header.body_len:
        return Invalid(record.offset, "body-length", header.body_len, len(body))
    if _crc32(body, salt_state) != header.body_crc:
        return Invalid(record.offset, "body-crc", header.body_crc, _crc32(body, salt_state))
    used = 0
    if header.flags & SPARSE:
        table = 4 * header.events
        used = table + len(pad8(table))
        if used > len(body) or body[table:used].strip(b"\0"):
            return Invalid(record.offset, "sparse-table", used, len(body))
        for row, stored in zip(record.rows, _stored_lengths(record, body[:table]), strict=True):
            if _is_absent(stored, row.envelope_len):
                continue
            if stored != row.envelope_len:
                return Invalid(record.offset, "stored-length", row.envelope_len, stored)
            used += stored
    elif record.rows:
        used = sum(row.envelope_len for row in record.rows)
    if used > len(body) or (len(body) - used >= 8 and record.rows) or body[used:].strip(b"\0"):
        return Invalid(record.offset, "padding", used, len(body))
    return None
