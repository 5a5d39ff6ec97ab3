"""Header, hint and sidecar header: what stands at which byte, and what makes each invalid."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from blake3 import blake3

from batpak.errors import BatpakError, FutureFormat, JournalCorrupt, UnsupportedFeature
from batpak.index.mapped import MappedPart
from batpak.journal.header import SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.sidecar import (
    ARRAYS,
    SIDECAR_PREFIX_SIZE,
    array_of,
    decode_sidecar_header,
    encode_sidecar,
    sidecar_bytes,
)
from tests.unit.test_golden import stored

HEADER = SegmentHeader(
    journal_id=b"j" * 16, base_sequence=5, created_us=6, salt=b"s" * 16, prev_event_hash=b"p" * 32,
    epoch=7, generation=8, compatible=1, read_only_compatible=2,
)  # fmt: skip


def sealed(data: bytes, **fields: tuple[int, bytes]) -> bytes:
    """The header with bytes exchanged and its crc computed anew."""
    changed = bytearray(data)
    for at, value in fields.values():
        changed[at : at + len(value)] = value
    changed[124:128] = struct.pack("<I", zlib.crc32(bytes(changed[:124])))
    return bytes(changed)


def test_a_segment_header_comes_back_whole_with_its_checksum() -> None:
    data = HEADER.encode()
    found = SegmentHeader.decode(data + b"records", "a file")
    assert found == HEADER
    assert found.crc == zlib.crc32(data[:124])
    assert found.refuses_writing() == 2
    assert SegmentHeader.decode(sealed(data, ro=(52, bytes(4))), "a file").refuses_writing() == 0
    for bit in range(32):
        one = sealed(data, ro=(52, struct.pack("<I", 1 << bit)))
        assert SegmentHeader.decode(one, "a file").refuses_writing() == 1 << bit


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEADER.encode()[:127], "short-header"),
        (b"", "short-header"),
        (b"X" + HEADER.encode()[1:], "magic"),
        (HEADER.encode()[:7] + b"\r" + HEADER.encode()[8:], "magic"),
        (HEADER.encode()[:6] + b"\0" + HEADER.encode()[7:], "magic"),
        (HEADER.encode()[:123] + b"\1" + HEADER.encode()[124:], "header-crc"),
        (HEADER.encode()[:127] + b"\0", "header-crc"),
        (sealed(HEADER.encode(), size=(10, b"\x81\0")), "header-fields"),
        (sealed(HEADER.encode(), rows=(12, b"\xb1\0")), "header-fields"),
        (sealed(HEADER.encode(), record=(14, b"\x41\0")), "header-fields"),
        (sealed(HEADER.encode(), zero=(123, b"\1")), "header-fields"),
        (sealed(HEADER.encode(), base=(32, struct.pack("<Q", 1 << 63))), "header-fields"),
    ],
)
def test_a_segment_header_that_can_not_be_is_corrupt_and_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(JournalCorrupt) as caught:
        SegmentHeader.decode(data, "a file")
    error = caught.value
    assert (error.file, error.offset, error.reason) == ("a file", 0, reason)
    assert "batpak repair" in error.advice


def test_the_greatest_base_is_taken() -> None:
    data = sealed(HEADER.encode(), base=(32, struct.pack("<Q", (1 << 63) - 1)))
    assert SegmentHeader.decode(data, "a file").base_sequence == (1 << 63) - 1


@pytest.mark.parametrize(
    ("data", "error", "facts"),
    [
        (
            HEADER.encode()[:6] + b"\2" + HEADER.encode()[7:], FutureFormat,
            {"found": 2, "supported": 1, "file": "a file"},
        ),
        (
            sealed(HEADER.encode(), version=(8, b"\2\0")), FutureFormat,
            {"found": 2, "supported": 1, "file": "a file"},
        ),
        (
            sealed(HEADER.encode(), bits=(56, b"\x05\0\0\0")), UnsupportedFeature,
            {"bits": 5, "file": "a file"},
        ),
    ],
)  # fmt: skip
def test_what_a_newer_version_wrote_is_named_as_such(
    data: bytes, error: type[BatpakError], facts: dict[str, object]
) -> None:
    with pytest.raises(error) as caught:
        SegmentHeader.decode(data, "a file")
    assert caught.value.facts == facts
    assert "upgrade" in caught.value.advice


# --- tail.hint -------------------------------------------------------------------------------

HINT = Hint(b"j" * 16, 3, 4, 5, 6)


def hint_but(at: int, value: bytes) -> bytes:
    data = bytearray(HINT.encode())
    data[at : at + len(value)] = value
    data[4:8] = struct.pack("<I", zlib.crc32(bytes(data[8:64])))
    return bytes(data)


def test_a_hint_comes_back_whole_and_may_have_bytes_behind_it() -> None:
    assert Hint.decode(HINT.encode()) == HINT
    assert Hint.decode(HINT.encode() + b"more") == HINT
    assert len(HINT.encode()) == 64


@pytest.mark.parametrize(
    "data",
    [
        HINT.encode()[:63],
        b"",
        b"BPTX" + HINT.encode()[4:],
        HINT.encode()[:63] + b"\1",
        HINT.encode()[:8] + b"k" + HINT.encode()[9:],
        hint_but(28, b"\1"),
        hint_but(31, b"\1"),
        hint_but(56, b"\1"),
        hint_but(63, b"\1"),
    ],
)
def test_a_hint_that_is_not_whole_is_none(data: bytes) -> None:
    assert Hint.decode(data) is None


# --- sidecars ----------------------------------------------------------------------------------

SIDECAR = stored("sidecar")


def sidecar_but(at: int, value: bytes) -> bytes:
    data = bytearray(SIDECAR)
    data[at : at + len(value)] = value
    crc = zlib.crc32(bytes(data[128:SIDECAR_PREFIX_SIZE]), zlib.crc32(bytes(data[:124])))
    data[124:128] = struct.pack("<I", crc)
    return bytes(data)


def test_a_sidecar_is_written_as_it_was_read() -> None:
    header = decode_sidecar_header(SIDECAR)
    assert header is not None
    view = memoryview(SIDECAR)
    arrays = {name: array_of(header, view, name) for name in ARRAYS}
    assert None not in arrays.values()
    written = encode_sidecar(header, {name: bytes(array or b"") for name, array in arrays.items()})
    assert written == SIDECAR
    assert header.next_sequence == header.base_sequence + header.count == 7
    assert len(SIDECAR) - 8 < sidecar_bytes(header) <= len(SIDECAR)
    assert decode_sidecar_header(SIDECAR[:SIDECAR_PREFIX_SIZE]) == header
    assert MappedPart.of(header, SIDECAR, lambda offset, length: bytes(length)) is not None


@pytest.mark.parametrize(
    "data",
    [
        SIDECAR[: SIDECAR_PREFIX_SIZE - 1],
        b"",
        b"X" + SIDECAR[1:],
        sidecar_but(0, b"X"),
        SIDECAR[:20] + b"?" + SIDECAR[21:],
        SIDECAR[:130] + b"?" + SIDECAR[131:],
        SIDECAR[:127] + bytes([SIDECAR[127] ^ 1]) + SIDECAR[128:],
        sidecar_but(8, b"\2\0"),
        sidecar_but(10, b"\x81\0"),
        sidecar_but(12, b"\x15\0\0\0"),
        sidecar_but(40, struct.pack("<Q", 8)),
        sidecar_but(32, struct.pack("<Q", 1)),
        sidecar_but(120, b"\1"),
    ],
)
def test_a_sidecar_header_that_is_not_whole_is_none(data: bytes) -> None:
    assert decode_sidecar_header(data) is None


def entry(name: str, at: int, length: int, data: bytes | None = None) -> bytes:
    """The golden sidecar with one entry of its table pointing elsewhere, checksum right."""
    place = 128 + 32 * ARRAYS.index(name)
    digest = blake3(SIDECAR[at : at + length] if data is None else data).digest(16)
    return sidecar_but(place, struct.pack("<QQ16s", at, length, digest))


def taken(data: bytes, name: str) -> memoryview | None:
    header = decode_sidecar_header(data)
    assert header is not None
    return array_of(header, memoryview(data), name)


def test_an_array_is_inside_of_the_file_at_a_multiple_of_8_and_has_its_checksum() -> None:
    whole = len(SIDECAR)
    last = taken(entry("foreign_id", whole - 24, 24), "foreign_id")
    assert last is not None
    assert bytes(last) == SIDECAR[-24:]
    assert taken(entry("foreign_id", whole - 16, 24), "foreign_id") is None
    assert taken(entry("foreign_id", whole - 20, 8), "foreign_id") is None
    assert taken(entry("foreign_id", whole - 24, 24, b"other"), "foreign_id") is None


def test_the_length_that_a_file_must_have_is_where_its_last_array_ends() -> None:
    data = entry("hlc", 10_000, 40, b"")
    header = decode_sidecar_header(data)
    assert header is not None
    assert sidecar_bytes(header) == 10_040


def damaged_array(name: str) -> Any:
    header = decode_sidecar_header(SIDECAR)
    assert header is not None
    at, length, _ = header.table[ARRAYS.index(name)]
    data = bytearray(SIDECAR)
    data[at + length - 1] ^= 1
    return MappedPart.of(header, bytes(data), lambda offset, length: bytes(length))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_makes_the_whole_sidecar_unusable(name: str) -> None:
    assert damaged_array(name) is None
