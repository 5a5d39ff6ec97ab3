"""Records with any field set to anything, their checksums right: what a forger can write.

Built with `struct` from docs/format.md, without the library's encoders, so that a rule is
met by bytes that break it and no other.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from batpak.journal.record import Chain

__all__ = ["SALT_STATE", "Forged", "row"]

SALT = bytes(range(16))
SALT_STATE = zlib.crc32(SALT)
HEADER_SIZE, ROW_SIZE = 64, 176
_ROW = struct.Struct("<Q16s16s16sqQIIIIHHHHHBBIQ32s32s")


def row(sequence: int, **changes: Any) -> bytes:
    """176 bytes of a row that fits `metadata` b"es" and an envelope of 3 bytes."""
    fields: dict[str, Any] = {
        "sequence": sequence, "event_id": bytes([1]) * 16, "correlation_id": bytes([1]) * 16,
        "causation_id": bytes(16), "timestamp_us": 5, "hlc": 1 + sequence, "clock": 0, "lane": 0,
        "depth": 0, "extensions_len": 0, "kind": 0xF001, "payload_version": 0, "flags": 0,
        "entity_len": 1, "scope_len": 1, "row_version": 1, "codec": 0, "envelope_len": 3,
        "reserved": 0, "content_hash": bytes(32), "prev_hash": bytes(32),
    }  # fmt: skip
    assert changes.keys() <= fields.keys(), changes
    return _ROW.pack(*(fields | changes).values())


@dataclass(frozen=True)
class Forged:
    """A record at `offset`; lengths and count are what its parts give, unless set."""

    rows: tuple[bytes, ...] = (row(7),)
    metadata: bytes = b"es"
    body: bytes = b"abc"
    offset: int = 128
    prev_crc: int = 0x1234
    sequence: int = 7
    durable: int = 7
    epoch: int = 3
    type: int = 1
    version: int = 1
    flags: int = 0
    reserved: bytes = bytes(8)
    count: int | None = None
    head_len: int | None = None
    body_len: int | None = None
    head_crc: int | None = None
    body_crc: int | None = None
    header_crc: int | None = None
    padding: bytes = b""
    """Instead of zeros, behind head and body: eight bytes or fewer."""
    chain: Chain = field(default=Chain(128, 7, 0x1234, 3))

    def but(self, **changes: Any) -> Forged:
        """The same record with some things changed."""
        return replace(self, **changes)

    @property
    def head(self) -> bytes:
        """Rows and metadata, padded."""
        return self._padded(b"".join(self.rows) + self.metadata)

    @property
    def padded_body(self) -> bytes:
        """The payload section, padded."""
        return self._padded(self.body)

    def _padded(self, data: bytes) -> bytes:
        missing = -len(data) % 8
        return data + (self.padding + bytes(8))[:missing]

    @property
    def data(self) -> bytes:
        """The record's bytes."""
        head, body = self.head, self.padded_body
        fields = struct.pack(
            "<IIIIQQIIBBH8s",
            len(head) if self.head_len is None else self.head_len,
            len(body) if self.body_len is None else self.body_len,
            zlib.crc32(body, SALT_STATE) if self.body_crc is None else self.body_crc,
            self.prev_crc,
            self.sequence,
            self.durable,
            self.epoch,
            len(self.rows) if self.count is None else self.count,
            self.type,
            self.version,
            self.flags,
            self.reserved,
        )
        place = struct.pack("<Q", self.offset)
        header_crc = zlib.crc32(place + fields, SALT_STATE)
        if self.header_crc is not None:
            header_crc = self.header_crc
        covered = fields + struct.pack("<I", header_crc) + head
        head_crc = zlib.crc32(covered, SALT_STATE) if self.head_crc is None else self.head_crc
        return b"BPC1" + struct.pack("<I", head_crc) + covered + body

    @property
    def file(self) -> bytes:
        """A segment's bytes up to the end of this record."""
        return bytes(self.offset) + self.data
