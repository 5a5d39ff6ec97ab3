"""Make random bytes pass checksums, so that what stands behind them is tried too.

A checksum refuses all but one of four billion changed inputs; somebody who changes a
file on purpose computes it anew. These functions do that, from docs/format.md, without
the library's encoders: they change checksums, links and hashes, and nothing else.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from blake3 import blake3

__all__ = [
    "mend_hint",
    "mend_key_table",
    "mend_manifest",
    "mend_segment",
    "mend_segment_header",
    "mend_sidecar",
]

HEADER: Final = 128
RECORD: Final = 64
ROW: Final = 176
SIDECAR_ARRAYS: Final = 20


def _put(data: bytearray, at: int, value: int) -> None:
    data[at : at + 4] = struct.pack("<I", value & 0xFFFFFFFF)


def _u32(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def mend_segment_header(data: bytes) -> bytes:
    """A segment whose header has the right crc."""
    if len(data) < HEADER:
        return data
    mended = bytearray(data)
    _put(mended, 124, zlib.crc32(mended[:124]))
    return bytes(mended)


def mend_hint(data: bytes) -> bytes:
    """A tail hint with the right crc."""
    if len(data) < RECORD:
        return data
    mended = bytearray(data)
    _put(mended, 4, zlib.crc32(mended[8:64]))
    return bytes(mended)


def mend_segment(data: bytes, *, links: bool = False, hashes: bool = False) -> bytes:
    """A segment whose records have right checksums, as far as they follow one another.

    `links`: prev_crc, base_sequence and the rows' sequences are those that the place asks
    for; `hashes`: content_hash, prev_hash and clock are right as well.
    """
    data = mend_segment_header(data)
    if len(data) < HEADER:
        return data
    out = bytearray(data)
    state = zlib.crc32(out[64:80])
    at, previous = HEADER, _u32(out, 124)
    sequence = int.from_bytes(out[32:40], "little")
    heads: dict[bytes, tuple[int, bytes]] = {}
    while at + RECORD <= len(out) and out[at : at + 4] == b"BPC1":
        head_len, body_len = _u32(out, at + 8), _u32(out, at + 12)
        count = _u32(out, at + 44)
        body = at + RECORD + head_len
        end = body + body_len
        if end > len(out) or count * ROW > head_len:
            break
        if links:
            _put(out, at + 20, previous)
            out[at + 24 : at + 32] = struct.pack("<Q", sequence & (2**64 - 1))
        if links or hashes:
            _mend_rows(out, at, count, body, end, sequence, heads if hashes else None)
        _put(out, at + 16, zlib.crc32(out[body:end], state))
        place = struct.pack("<Q", at)
        _put(out, at + 60, zlib.crc32(place + out[at + 8 : at + 60], state))
        previous = zlib.crc32(out[at + 8 : body], state)
        _put(out, at + 4, previous)
        sequence += count
        at = end
    return bytes(out)


def _mend_rows(
    out: bytearray,
    at: int,
    count: int,
    body: int,
    end: int,
    sequence: int,
    heads: dict[bytes, tuple[int, bytes]] | None,
) -> None:
    metadata = at + RECORD + ROW * count
    for place in range(count):
        row = at + RECORD + ROW * place
        out[row : row + 8] = struct.pack("<Q", (sequence + place) & (2**64 - 1))
        entity_len, scope_len = struct.unpack_from("<HH", out, row + 94)
        extensions_len, envelope_len = _u32(out, row + 84), _u32(out, row + 100)
        if metadata + entity_len + scope_len + extensions_len > body or body + envelope_len > end:
            return
        if heads is not None:
            entity = bytes(out[metadata : metadata + entity_len])
            clock, before = heads.get(entity, (0, bytes(32)))
            out[row + 72 : row + 76] = struct.pack("<I", clock & 0xFFFFFFFF)
            envelope = bytes(out[body : body + envelope_len])
            content = blake3(b"batpak/content/v1\0" + bytes([out[row + 99]]) + envelope).digest()
            out[row + 112 : row + 176] = content + before
            stop = metadata + entity_len + scope_len + extensions_len
            preimage = bytes(out[row : row + ROW]) + bytes(out[metadata:stop])
            heads[entity] = (clock + 1, blake3(b"batpak/event/v1\0" + preimage).digest())
        metadata += entity_len + scope_len + extensions_len
        body += envelope_len


def mend_sidecar(data: bytes) -> bytes:
    """A sidecar with right checksums of its arrays and of its header."""
    table_end = HEADER + 32 * SIDECAR_ARRAYS
    if len(data) < table_end:
        return data
    out = bytearray(data)
    for number in range(SIDECAR_ARRAYS):
        entry = HEADER + 32 * number
        at, length = struct.unpack_from("<QQ", out, entry)
        if at + length <= len(out):
            out[entry + 16 : entry + 32] = blake3(bytes(out[at : at + length])).digest(16)
    _put(out, 124, zlib.crc32(out[HEADER:table_end], zlib.crc32(out[:124])))
    return bytes(out)


def mend_key_table(data: bytes) -> bytes:
    """A key table with the right digest of its slots and the right crc."""
    if len(data) < HEADER:
        return data
    out = bytearray(data)
    out[104:120] = blake3(bytes(out[HEADER:])).digest(16)
    _put(out, 124, zlib.crc32(out[:124]))
    return bytes(out)


def mend_manifest(data: bytes) -> bytes:
    """A snapshot's manifest whose check is that of the rest, where it ends like one."""
    begin = data.rfind(b'"check": "')
    end = data.rfind(b'"\n}\n')
    if begin < 0 or end < begin + 10:
        return data
    head, tail = data[: begin + 10], data[end:]
    return head + blake3(head + tail).hexdigest().encode() + tail
