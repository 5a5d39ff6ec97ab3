"""The header of `index/keys.tbl`: which journal's foreign ids the table holds, and how far.

Disposable. Bytes to fields and back; whether a table may be used is the engine's
business. Format: docs/format.md, "Key table".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = ["KEY_HEADER_SIZE", "KeyHeader"]

KEY_HEADER_SIZE: Final = 128
MAGIC: Final = b"BATPKT\x01\n"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHI16sQQQ16s32s16sI")
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class KeyHeader:
    """What a key table's file says of itself. `bound`: events below it are covered."""

    journal_id: bytes
    bound: int
    count: int
    capacity: int
    multiplier: int
    event_hash: bytes
    digest: bytes

    def encode(self) -> bytes:
        """The 128 bytes, checksum included."""
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            KEY_HEADER_SIZE,
            0,
            self.journal_id,
            self.bound,
            self.count,
            self.capacity,
            self.multiplier.to_bytes(16, "little"),
            self.event_hash,
            self.digest,
            0,
        )
        return fixed + _CRC.pack(zlib.crc32(fixed))

    @classmethod
    def decode(cls, data: bytes) -> KeyHeader | None:
        """The header in a file's first bytes; None for anything but a valid one."""
        if len(data) < KEY_HEADER_SIZE or data[:8] != MAGIC:
            return None
        if _CRC.unpack_from(data, 124)[0] != zlib.crc32(data[:124]):
            return None
        (
            _, version, size, zero, journal_id, bound, count, capacity, multiplier, event_hash,
            digest, other_zero,
        ) = _HEADER.unpack_from(data)  # fmt: skip
        if (version, size, zero, other_zero) != (VERSION, KEY_HEADER_SIZE, 0, 0):
            return None
        factor = int.from_bytes(multiplier, "little")
        if not factor & 1:
            return None
        return cls(journal_id, bound, count, capacity, factor, event_hash, digest)
