"""`segments/<base>.idx`: the arrays of an index part for one segment, as a file.

Disposable as an index, a witness as a bound. Bytes to arrays and back; who uses
which array is the index's business. Format: docs/format.md, "Sidecar".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

__all__ = ["ARRAYS", "SidecarHeader", "decode_sidecar_header", "encode_sidecar", "sidecar_bytes"]

MAGIC: Final = b"BATPIX\x01\n"
VERSION: Final = 1
SIDECAR_HEADER_SIZE: Final = 128
ARRAYS: Final = (
    "event_hash",
    "row_offset",
    "metadata_offset",
    "envelope_offset",
    "entity_number",
    "scope_number",
    "kind",
    "hlc",
    "entity_postings_start",
    "entity_postings",
    "scope_postings_start",
    "scope_postings",
    "kind_value",
    "kind_postings_start",
    "kind_postings",
    "entity_text_start",
    "entity_text",
    "scope_text_start",
    "scope_text",
    "foreign_id",
)

_HEADER = struct.Struct("<8sHHI16sQQQQ16sIIQQIQII")
_ENTRY = struct.Struct("<QQ16s")
_CRC = struct.Struct("<I")
SIDECAR_PREFIX_SIZE: Final = SIDECAR_HEADER_SIZE + _ENTRY.size * len(ARRAYS)
"""Bytes of header and array table: what a witness is read from."""


@dataclass(frozen=True, slots=True)
class SidecarHeader:
    """What a sidecar says of the records it covers, and where its arrays stand."""

    journal_id: bytes
    base_sequence: int
    count: int
    covered: int
    durable: int
    salt: bytes
    generation: int
    last_head_crc: int
    last_record_offset: int
    last_hlc: int
    max_epoch: int
    records: int
    table: tuple[tuple[int, int, bytes], ...] = ()

    @property
    def next_sequence(self) -> int:
        """Sequence of the first event that is not covered."""
        return self.base_sequence + self.count


def encode_sidecar(header: SidecarHeader, arrays: dict[str, bytes]) -> bytes:
    """A sidecar's bytes. `arrays` has one entry for each name of ARRAYS."""
    chunks: list[bytes] = []
    table: list[bytes] = []
    position = SIDECAR_PREFIX_SIZE
    for name in ARRAYS:
        data = arrays[name]
        digest = blake3(data).digest()[:16]
        table.append(_ENTRY.pack(position, len(data), digest))
        padding = -len(data) & 7
        chunks += [data, bytes(padding)]
        position += len(data) + padding
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        SIDECAR_HEADER_SIZE,
        len(ARRAYS),
        header.journal_id,
        header.base_sequence,
        header.count,
        header.covered,
        header.durable,
        header.salt,
        header.generation,
        header.last_head_crc,
        header.last_record_offset,
        header.last_hlc,
        header.max_epoch,
        header.next_sequence,
        header.records,
        0,
    )
    directory = b"".join(table)
    crc = zlib.crc32(directory, zlib.crc32(fixed))
    return b"".join([fixed, _CRC.pack(crc), directory, *chunks])


def decode_sidecar_header(data: bytes) -> SidecarHeader | None:
    """The header in a sidecar's first bytes; None for anything but a valid one."""
    if len(data) < SIDECAR_PREFIX_SIZE or data[:8] != MAGIC:
        return None
    fixed, directory = data[:124], data[SIDECAR_HEADER_SIZE:SIDECAR_PREFIX_SIZE]
    if zlib.crc32(directory, zlib.crc32(fixed)) != _CRC.unpack_from(data, 124)[0]:
        return None
    (
        _, version, header_size, arrays, journal_id, base, count, covered, durable, salt,
        generation, last_head_crc, last_record_offset, last_hlc, max_epoch, next_sequence,
        records, zero,
    ) = _HEADER.unpack(fixed)  # fmt: skip
    if (version, header_size, arrays) != (VERSION, SIDECAR_HEADER_SIZE, len(ARRAYS)):
        return None
    if next_sequence != base + count or zero:
        return None
    return SidecarHeader(
        journal_id, base, count, covered, durable, salt, generation, last_head_crc,
        last_record_offset, last_hlc, max_epoch, records, tuple(_ENTRY.iter_unpack(directory)),
    )  # fmt: skip


def sidecar_bytes(header: SidecarHeader) -> int:
    """Length that the file must have at least."""
    return max((offset + length for offset, length, _ in header.table), default=0)


def array_of(header: SidecarHeader, data: memoryview, name: str) -> memoryview | None:
    """One array's bytes inside the mapped file, its checksum verified; None when wrong."""
    offset, length, digest = header.table[ARRAYS.index(name)]
    if offset % 8 or offset + length > len(data):
        return None
    array = data[offset : offset + length]
    return array if blake3(array).digest()[:16] == digest else None
