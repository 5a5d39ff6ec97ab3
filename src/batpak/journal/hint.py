"""`tail.hint`: 64 bytes that say how far the journal was last known to be durable.

A witness: losing it costs no data, but the proof that data are missing. It is
written only after the sync that it tells of, so it can't run ahead of the data.
Format: docs/format.md, "Tail hint".
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

__all__ = ["HINT_SIZE", "Hint", "encode_hint"]

HINT_SIZE = 64
MAGIC = b"BPTH"
_BODY = struct.Struct("<16sIIQQQ8x")
_CRC = struct.Struct("<I")


def encode_hint(journal_id: bytes, epoch: int, base: int, end: int, durable: int) -> bytes:
    """The 64 bytes of a hint, checksum included; fields in the order of `Hint`."""
    body = _BODY.pack(journal_id, epoch, 0, base, end, durable)
    return MAGIC + _CRC.pack(zlib.crc32(body)) + body


class Hint(NamedTuple):
    """What a tail hint says."""

    journal_id: bytes
    epoch: int
    segment_base: int
    log_end: int
    durable: int

    def encode(self) -> bytes:
        """The 64 bytes, checksum included."""
        return encode_hint(*self)

    @classmethod
    def decode(cls, data: bytes) -> Hint | None:
        """The hint in `data`; None for anything that is not a valid one."""
        if len(data) < HINT_SIZE or data[:4] != MAGIC:
            return None
        body = data[8:HINT_SIZE]
        if _CRC.unpack_from(data, 4)[0] != zlib.crc32(body) or body[-8:] != bytes(8):
            return None
        journal_id, epoch, zero, base, end, durable = _BODY.unpack(body)
        return None if zero else cls(journal_id, epoch, base, end, durable)
