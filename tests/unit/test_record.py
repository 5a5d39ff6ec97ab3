"""The rules of a record, each met by bytes that break it and no other.

Every checksum is right unless the rule is about it: damage is found by checksums, but a
forger computes them.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from batpak.journal.record import (
    MAX_RECORD_BYTES,
    Chain,
    Invalid,
    Record,
    build_pad,
    check_body,
    decode_header,
    read_record,
    salt_crc,
    seal_commit,
)
from tests.support.records import SALT, SALT_STATE, Forged, row

GOOD = Forged()
PAD = GOOD.but(type=2, rows=(), metadata=b"", body=b"")
TWO = GOOD.but(rows=(row(7), row(8, envelope_len=2)), metadata=b"esfs", body=b"abcde")


class File:
    """A file that notes what is asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return self.data[offset : offset + length]


def judge(forged: Forged, *, chain: Chain | None = None, size: int | None = None) -> Any:
    file = forged.file
    return read_record(
        File(file).read, len(file) if size is None else size, chain or forged.chain, SALT_STATE
    )


def accepted(forged: Forged, **options: Any) -> Record:
    record = judge(forged, **options)
    assert isinstance(record, Record), record
    return record


# --- what is good ------------------------------------------------------------------------------


@pytest.mark.parametrize("forged", [GOOD, TWO, PAD], ids=["one", "two", "pad"])
def test_a_record_is_what_the_encoder_makes_and_names_its_parts(forged: Forged) -> None:
    record = accepted(forged)
    head_len, body_len = len(forged.head), len(forged.padded_body)
    assert record.offset == 128
    assert record.header.events == len(record.rows) == len(forged.rows)
    assert record.body_offset == 128 + 64 + head_len
    assert record.end == len(forged.file) == record.body_offset + body_len
    assert record.next_sequence == 7 + len(forged.rows)
    assert record.chain == Chain(record.end, record.next_sequence, record.header.head_crc, 3)
    assert check_body(record, forged.padded_body, SALT_STATE) is None
    made, head_crc, body_at = seal_commit(
        SALT_STATE, 128, b"".join(forged.rows) + forged.metadata, forged.body, 0x1234, 7, 7, 3,
        len(forged.rows), 0, forged.type,
    )  # fmt: skip
    assert made == forged.data
    assert head_crc == record.header.head_crc
    assert body_at == record.body_offset
    assert decode_header(forged.data, 128, SALT_STATE) == record.header


def test_a_pad_is_sealed_like_a_commit() -> None:
    pad, head_crc = build_pad(SALT_STATE, Chain(128, 7, 0x1234, 3), 7, 3)
    assert pad == PAD.data
    assert accepted(PAD).header.head_crc == head_crc
    roomy, _ = build_pad(SALT_STATE, Chain(128, 7, 0x1234, 3), 5, 4, body_len=24)
    assert roomy == PAD.but(body=bytes(24), durable=5, epoch=4).data
    assert salt_crc(SALT) == SALT_STATE


def test_the_events_of_a_record_stand_one_after_the_other() -> None:
    first, second = accepted(TWO).events(File(TWO.file).read)
    rows_at, metadata_at, body_at = 192, 192 + 352, 192 + 360
    assert (first.row_bytes, second.row_bytes) == TWO.rows
    assert (first.row_offset, second.row_offset) == (rows_at, rows_at + 176)
    assert (first.metadata, second.metadata) == (b"es", b"fs")
    assert (first.metadata_offset, second.metadata_offset) == (metadata_at, metadata_at + 2)
    assert (first.envelope_offset, second.envelope_offset) == (body_at, body_at + 3)
    assert (first.stored_len, second.stored_len) == (3, 2)
    assert (first.entity, first.scope, second.entity, second.scope) == (b"e", b"s", b"f", b"s")


def test_names_and_extensions_are_told_apart_by_their_lengths() -> None:
    forged = GOOD.but(
        rows=(row(7, entity_len=3, scope_len=4, extensions_len=2),), metadata=b"entgrouxx"
    )
    (event,) = accepted(forged).events(File(forged.file).read)
    assert (event.entity, event.scope, event.metadata) == (b"ent", b"grou", b"entgrouxx")
    assert event.row.metadata_len == 9


def test_a_record_is_read_once_and_never_beyond_the_file() -> None:
    small = File(GOOD.file)
    read_record(small.read, len(small.data), GOOD.chain, SALT_STATE)
    assert small.asked == [(128, len(GOOD.data))]
    exact = File(GOOD.but(rows=(row(7, envelope_len=0),), body=b"").file)
    read_record(exact.read, len(exact.data), GOOD.chain, SALT_STATE)
    assert exact.asked == [(128, 64 + 184)], "nothing is left to read"
    behind = File(GOOD.file)
    size = len(behind.data)
    read_record(behind.read, size, Chain(size, 8, 0, 3), SALT_STATE)
    assert sum(length for _, length in behind.asked) == 0
    # A head longer than one page is read in two pieces, the body not at all.
    rows = tuple(row(7 + n, envelope_len=100) for n in range(30))
    large = GOOD.but(rows=rows, metadata=b"es" * 30, body=bytes(3000))
    file = File(large.file)
    assert isinstance(read_record(file.read, len(file.data), large.chain, SALT_STATE), Record)
    assert file.asked == [(128, 4096), (128 + 4096, 64 + len(large.head) - 4096)]


# --- what is not -------------------------------------------------------------------------------

SPARSE = 1
LIMIT = MAX_RECORD_BYTES - 8 - 4
SIZE = len(GOOD.file)
HEADERS: list[tuple[str, dict[str, Any], object, object]] = [
    ("record-version", {"version": 0}, 1, 0),
    ("record-version", {"version": 2}, 1, 2),
    ("record-type", {"type": 0}, "1 or 2", 0),
    ("record-type", {"type": 3}, "1 or 2", 3),
    ("record-flags", {"flags": 4}, 3, 4),
    ("record-flags", {"flags": 0x8000}, 3, 0x8000),
    ("record-flags", {"reserved": b"\0\0\0\0\0\0\0\1"}, 3, 0),
    ("record-length", {"head_len": 180}, "multiples of 8", 188),
    ("record-length", {"body_len": 4}, "multiples of 8", 188),
    ("record-length", {"head_len": 184, "body_len": LIMIT - 184 + 4}, LIMIT, LIMIT + 4),
    ("record-length", {"body_len": MAX_RECORD_BYTES, "flags": SPARSE}, 1 << 30, (1 << 30) + 184),
    ("end-of-file", {"body_len": LIMIT - 188}, 192 + LIMIT - 4, SIZE),
    ("end-of-file", {"body_len": (1 << 30) - 184, "flags": SPARSE}, 192 + (1 << 30), SIZE),
    ("end-of-file", {"body_len": 16}, SIZE + 8, SIZE),
    ("prev-crc", {"prev_crc": 0x1235}, 0x1234, 0x1235),
    ("sequence", {"sequence": 8, "durable": 0}, 7, 8),
    ("sequence", {"sequence": 6, "durable": 0}, 7, 6),
    ("epoch", {"epoch": 2}, 3, 2),
    ("durable", {"durable": 8}, 7, 8),
    ("count", {"count": 0}, 1, 0),
    ("count", {"count": 2}, 1, 2),
    ("count", {"rows": (), "metadata": b""}, 0, 0),
    ("head-crc", {"head_crc": 5}, None, None),
    ("header-crc", {"header_crc": 5}, None, None),
]


@pytest.mark.parametrize(("reason", "changes", "expected", "found"), HEADERS)
def test_a_header_that_breaks_a_rule_is_refused_by_its_name(
    reason: str, changes: dict[str, Any], expected: object, found: object
) -> None:
    assert judge(GOOD.but(**changes)) == Invalid(128, reason, expected, found)


PADS: list[tuple[dict[str, Any], int]] = [
    ({"count": 1}, 1),
    ({"metadata": bytes(8)}, 8),
    ({"flags": 2}, 2),
    ({"flags": SPARSE}, SPARSE),
]


@pytest.mark.parametrize(("changes", "found"), PADS)
def test_a_pad_has_nothing_but_room(changes: dict[str, Any], found: int) -> None:
    assert judge(PAD.but(**changes)) == Invalid(128, "pad", 0, found)


@pytest.mark.parametrize(
    "changes",
    [{"epoch": 4}, {"durable": 0}, {"flags": 2}, {"epoch": 2**32 - 1, "durable": 6}],
    ids=str,
)
def test_what_may_vary_varies(changes: dict[str, Any]) -> None:
    assert accepted(GOOD.but(**changes)).rows[0].sequence == 7


@pytest.mark.parametrize("length", [0, 1, 63])
def test_a_header_that_is_cut_is_the_end_of_the_file(length: int) -> None:
    cut = GOOD.file[: 128 + length]
    assert read_record(File(cut).read, len(cut), GOOD.chain, SALT_STATE) == Invalid(
        128, "end-of-file", 64, length
    )
    assert decode_header(GOOD.data[:length], 128, SALT_STATE) is None


def test_a_file_that_shrank_meanwhile_is_no_error() -> None:
    rows = tuple(row(7 + n, envelope_len=0) for n in range(30))
    large = GOOD.but(rows=rows, metadata=b"es" * 30, body=b"")
    shorter = File(large.file[:5000])
    assert read_record(shorter.read, len(large.file), large.chain, SALT_STATE) == Invalid(
        128, "end-of-file", 64 + len(large.head), 5000 - 128
    )


def test_a_record_elsewhere_is_none() -> None:
    data = GOOD.data
    other = bytearray(data)
    other[3] ^= 1
    assert judge(GOOD).offset == 128
    moved = bytes(136) + data
    chain = Chain(136, 7, 0x1234, 3)
    assert read_record(File(moved).read, len(moved), chain, SALT_STATE).reason == "header-crc"
    assert decode_header(data, 136, SALT_STATE) is None
    assert decode_header(data, 128, SALT_STATE + 1) is None
    assert decode_header(bytes(other), 128, SALT_STATE) is None
    file = bytes(128) + bytes(other)
    found = read_record(File(file).read, len(file), GOOD.chain, SALT_STATE)
    assert found == Invalid(128, "magic", b"BPC1".hex(), bytes(other[:4]).hex())


ROWS: list[tuple[str, dict[str, Any], object, object]] = [
    ("row-sequence", {"rows": (row(8),)}, 7, 8),
    ("row-sequence", {"rows": (row(7), row(7)), "metadata": b"esfs", "body": b"abcdef"}, 8, 7),
    ("row-version", {"rows": (row(7, row_version=2),)}, 1, 2),
    ("row-version", {"rows": (row(7, row_version=0),)}, 1, 0),
    ("row-version", {"rows": (row(7, reserved=1),)}, 1, 1),
    ("name-length", {"rows": (row(7, entity_len=0),)}, 1024, (0, 1)),
    ("name-length", {"rows": (row(7, scope_len=0),)}, 1024, (1, 0)),
    (
        "name-length", {"rows": (row(7, entity_len=1025),), "metadata": bytes(1026)}, 1024,
        (1025, 1),
    ),
    (
        "name-length", {"rows": (row(7, scope_len=1025),), "metadata": bytes(1026)}, 1024,
        (1, 1025),
    ),
    ("head-length", {"metadata": b"e" * 9}, 184, 192),
    ("head-length", {"rows": (row(7, extensions_len=7),)}, 192, 184),
    ("head-length", {"rows": (row(7, entity_len=8),)}, 192, 184),
    ("padding", {"padding": b"\0\0\0\0\0x"}, 0, "000000000078"),
    ("body-length", {"body": b"x" * 9}, 8, 16),
    ("body-length", {"rows": (row(7, envelope_len=9),)}, 16, 8),
    ("body-length", {"body": b""}, 8, 0),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "changes", "expected", "found"), ROWS)
def test_rows_that_break_a_rule_are_refused_by_its_name(
    reason: str, changes: dict[str, Any], expected: object, found: object
) -> None:
    assert judge(GOOD.but(**changes)) == Invalid(128, reason, expected, found)


@pytest.mark.parametrize("name", ["entity_len", "scope_len"])
def test_the_longest_name_is_accepted(name: str) -> None:
    forged = GOOD.but(rows=(row(7, **{name: 1024}),), metadata=b"x" * 1025)
    assert accepted(forged).rows[0].metadata_len == 1025


# --- the payload section -------------------------------------------------------------------------


def checked(forged: Forged, body: bytes | None = None) -> Invalid | None:
    return check_body(accepted(forged), forged.padded_body if body is None else body, SALT_STATE)


def test_a_body_has_its_length_and_its_checksum() -> None:
    record = accepted(GOOD)
    assert checked(GOOD, b"abc") == Invalid(128, "body-length", 8, 3)
    wrong = checked(GOOD, b"abd\0\0\0\0\0")
    assert wrong is not None
    assert (wrong.offset, wrong.reason) == (128, "body-crc")
    assert wrong.expected == record.header.body_crc != wrong.found
    assert checked(GOOD.but(body_crc=1)) == Invalid(128, "body-crc", 1, record.header.body_crc)


def test_padding_behind_the_envelopes_is_zero() -> None:
    head_is_whole = GOOD.but(
        rows=(row(7, entity_len=4, scope_len=4),), metadata=b"entiscop", padding=b"\0\0\0\0\1"
    )
    assert checked(head_is_whole) == Invalid(128, "padding", 3, 8)
    assert checked(PAD.but(body=bytes(16))) is None
    assert checked(PAD.but(body=bytes(15) + b"\1")) == Invalid(128, "padding", 0, 16)


def table(*lengths: int) -> bytes:
    data = struct.pack(f"<{len(lengths)}I", *lengths)
    return data + bytes(-len(data) % 8)


def sparse(*stored: int, lengths: tuple[int, ...] | None = None, body: bytes = b"") -> Forged:
    """Events with envelopes of 3, 0 and 5 bytes as written, of which some are absent."""
    lengths = lengths or (3, 0, 5)[: len(stored)]
    rows = tuple(row(7 + n, envelope_len=length) for n, length in enumerate(lengths))
    return GOOD.but(rows=rows, metadata=b"es" * len(rows), body=table(*stored) + body, flags=SPARSE)


ABSENT = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("stored", "body", "offsets"),
    [
        ((3, 0, 5), b"abcdefgh", (16, 19, 19)),
        ((0, 0, 5), b"defgh", (0, 16, 16)),
        ((3, 0, 0), b"abc", (16, 19, 0)),
        ((ABSENT, 0, 5), b"defgh", (0, 16, 16)),
        ((3, ABSENT, 5), b"abcdefgh", (16, 0, 19)),
        ((0, ABSENT, 0), b"", (0, 0, 0)),
        ((3, 0), b"abc", (8, 11)),
    ],
    ids=str,
)
def test_absent_envelopes_take_no_room_and_have_no_place(
    stored: tuple[int, ...], body: bytes, offsets: tuple[int, ...]
) -> None:
    forged = sparse(*stored, body=body)
    record = accepted(forged)
    assert checked(forged) is None
    events = list(record.events(File(forged.file).read))
    at = record.body_offset
    assert tuple(e.envelope_offset and e.envelope_offset - at for e in events) == offsets
    assert tuple(e.stored_len for e in events) == stored


@pytest.mark.parametrize(
    ("forged", "expected"),
    [
        (sparse(2, body=b"ab"), Invalid(128, "stored-length", 3, 2)),
        (sparse(4, body=b"abcd"), Invalid(128, "stored-length", 3, 4)),
        (sparse(1, lengths=(0,), body=b"a"), Invalid(128, "stored-length", 0, 1)),
        (sparse(3, body=b""), Invalid(128, "padding", 11, 8)),
        (sparse(3, body=b"abc").but(padding=b"\0\0\0\0\1"), Invalid(128, "padding", 11, 16)),
        (sparse(3, body=b"abc" + bytes(8)), Invalid(128, "padding", 11, 24)),
        (sparse(0, body=bytes(8)), Invalid(128, "padding", 8, 16)),
        (sparse(3).but(body=b""), Invalid(128, "sparse-table", 8, 0)),
        (
            sparse(3).but(body=struct.pack("<II", 3, 1) + b"abc"),
            Invalid(128, "sparse-table", 8, 16),
        ),
        (sparse(3, 0, 5).but(body=table(3, 0)), Invalid(128, "sparse-table", 16, 8)),
    ],
    ids=str,
)
def test_a_table_of_stored_lengths_keeps_its_rules(forged: Forged, expected: Invalid) -> None:
    if forged.padding:
        # Only behind the body: the head is made whole first.
        forged = forged.but(rows=(row(7, entity_len=4, scope_len=4),), metadata=b"entiscop")
    assert checked(forged) == expected


def test_a_table_that_the_file_no_longer_holds_reads_as_erased() -> None:
    forged = sparse(3, 0, 5, body=b"abcdefgh")
    record = accepted(forged)
    cut = File(forged.file[: record.body_offset + 4])
    first, second, third = record.events(cut.read)
    assert (first.stored_len, second.stored_len, third.stored_len) == (3, 0, 0)
    assert (first.envelope_offset, third.envelope_offset) == (record.body_offset + 16, 0)
