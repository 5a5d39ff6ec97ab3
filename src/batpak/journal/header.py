"""The 128-byte header of a segment. Format: docs/format.md, "Segment"."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field

from batpak.errors import FutureFormat, JournalCorrupt, UnsupportedFeature

__all__ = ["HEADER_SIZE", "MAGIC", "SegmentHeader"]

MAGIC = b"BATPAK\x01\n"
HEADER_SIZE = 128
VERSION = 1
ROW_SIZE = 176
RECORD_HEADER_SIZE = 64
_HEADER = struct.Struct("<8sHHHH16sQQIIII16s32sI8s")
_CRC = struct.Struct("<I")

KNOWN_READ_ONLY_COMPATIBLE = 0
KNOWN_INCOMPATIBLE = 0
MAX_SEQUENCE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Identity of one segment file."""

    journal_id: bytes
    base_sequence: int
    created_us: int
    salt: bytes
    prev_event_hash: bytes
    epoch: int
    generation: int = 0
    compatible: int = 0
    read_only_compatible: int = 0
    incompatible: int = 0
    crc: int = field(default=0, compare=False)

    def encode(self) -> bytes:
        """The 128 bytes, checksum included."""
        data = _HEADER.pack(
            MAGIC,
            VERSION,
            HEADER_SIZE,
            ROW_SIZE,
            RECORD_HEADER_SIZE,
            self.journal_id,
            self.base_sequence,
            self.created_us,
            self.compatible,
            self.read_only_compatible,
            self.incompatible,
            self.generation,
            self.salt,
            self.prev_event_hash,
            self.epoch,
            bytes(8),
        )
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def decode(cls, data: bytes, file: str) -> SegmentHeader:
        """Read a header. Raises JournalCorrupt, FutureFormat, UnsupportedFeature."""
        if len(data) < HEADER_SIZE:
            raise _corrupt(file, "short-header", f"the segment ends after {len(data)} bytes")
        if data[:6] == MAGIC[:6] and data[6] > VERSION:
            raise FutureFormat(
                "this segment was written by a newer version of batpak",
                file=file,
                found=data[6],
                supported=VERSION,
                advice="upgrade batpak to read it",
            )
        if data[:8] != MAGIC:
            raise _corrupt(file, "magic", "this is not a batpak segment, or its header is damaged")
        (crc,) = _CRC.unpack_from(data, 124)
        if crc != zlib.crc32(data[:124]):
            raise _corrupt(file, "header-crc", "the segment header's checksum is wrong")
        (
            _,
            version,
            header_size,
            row_size,
            record_size,
            journal_id,
            base,
            created_us,
            compatible,
            read_only_compatible,
            incompatible,
            generation,
            salt,
            prev_event_hash,
            epoch,
            zero,
        ) = _HEADER.unpack_from(data)
        if version != VERSION:
            raise FutureFormat(
                f"this segment has format version {version}",
                file=file,
                found=version,
                supported=VERSION,
                advice="upgrade batpak to read it",
            )
        unknown = incompatible & ~KNOWN_INCOMPATIBLE
        if unknown:
            raise UnsupportedFeature(
                f"this segment uses features that this version does not know: bits {unknown:#x}",
                file=file,
                bits=unknown,
                advice="upgrade batpak to read it",
            )
        sizes = (header_size, row_size, record_size)
        if sizes != (HEADER_SIZE, ROW_SIZE, RECORD_HEADER_SIZE) or zero != bytes(8):
            raise _corrupt(file, "header-fields", f"the header's sizes {sizes} can't be")
        if base > MAX_SEQUENCE:
            raise _corrupt(file, "header-fields", f"base sequence {base} can't be")
        return cls(
            journal_id,
            base,
            created_us,
            salt,
            prev_event_hash,
            epoch,
            generation,
            compatible,
            read_only_compatible,
            incompatible,
            crc,
        )

    def refuses_writing(self) -> int:
        """Feature bits that forbid writing to this segment; 0 for none."""
        return self.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE


def _corrupt(file: str, reason: str, what: str) -> JournalCorrupt:
    journal = os.path.dirname(os.path.dirname(file))
    return JournalCorrupt(
        what, file=file, offset=0, reason=reason, advice=f"run: batpak repair {journal}"
    )
