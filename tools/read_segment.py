"""Read a journal of batpak without batpak: a second opinion on docs/format.md.

Usage: python tools/read_segment.py JOURNAL [--events]

Rules of this file: it is written from docs/format.md alone and imports nothing of batpak,
only the standard library and `blake3`; it opens files for reading and changes nothing; it
wants a journal at rest (a writer at work looks like a torn tail); it does not use sidecars
or the hint for anything but what they can prove, and recomputes every hash and checksum.

It prints a summary, or with `--events` one JSON line per event (the summary then goes to
the standard error). A *finding* is something the format does not allow: file, offset,
sequence and reason. A *note* is something the format allows for but a person may want to
know: a torn tail that was never durable, a hint or sidecar that has to be ignored, an
unfinished file. Exit status: 0 no finding, 1 findings, 2 no journal there, or unreadable.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from blake3 import blake3

SEGMENT_HEADER = struct.Struct("<8sHHHH16sQQIIII16s32sI8sI")
RECORD_HEADER = struct.Struct("<4sIIIIIQQIIBBH8sI")
ROW = struct.Struct("<Q16s16s16sqQIIIIHHHHHBBI8s32s32s")
HINT = struct.Struct("<4sI16sIIQQQ8s")
SIDECAR_HEADER = struct.Struct("<8sHHI16sQQQQ16sIIQQIQIII")
ARRAY_ENTRY = struct.Struct("<QQ16s")

SEGMENT_MAGIC = b"BATPAK\x01\n"
SIDECAR_MAGIC = b"BATPIX\x01\n"
RECORD_MAGIC = b"BPC1"
HINT_MAGIC = b"BPTH"
EVENT_DOMAIN = b"batpak/event/v1\0"
CONTENT_DOMAIN = b"batpak/content/v1\0"

ZERO_ID = bytes(16)
ZERO_HASH = bytes(32)
FIRST_RECORD = 128
COMMIT, PAD = 1, 2
SPARSE, EAGER = 1, 2
ARCHIVED = 0xFFFFFFFF
LARGEST = 1 << 30
SEQUENCE_LIMIT = 1 << 63
JSON_LIMIT = 1 << 20
NAME_LIMIT = 1024
EXTENSIONS_LIMIT = 65_536
EXTENSION_KEY_LIMIT = 256
SHORTEST_ENVELOPE = {0: 0, 1: 16, 2: 48}
ARRAYS = 20
TABLE_END = FIRST_RECORD + ARRAYS * ARRAY_ENTRY.size
ARRAY_NAMES = (
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

SEGMENT_NAME = re.compile(r"[0-9]{20}\.seg")
ORIGIN = re.compile(r"[^\s+\x00-\x1f\x7f]+")
SIDECAR_NAME = re.compile(r"[0-9]{20}\.idx")
QUARANTINE_NAME = re.compile(r"[0-9]{20}-[0-9]+-([0-9a-f]{16})\.bin")
UUID_TEXT = re.compile(
    r"[0-9A-Fa-f]{8}(-?)[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{12}"
)
NAME_OFFENCE = re.compile(rb"[\x00-\x1f\x7f/|=]|\.\.")
EXTENSION_KEY = re.compile(rb"[\x00-\x2d\x2f-\x7f]+\.[\x00-\x2d\x2f-\x7f]+")
# What each system payload has to begin with; later keys are unknown and ignored.
SYSTEM_PAYLOADS: dict[int, tuple[tuple[str, type], ...]] = {
    0x0008: (("epoch", int), ("resumed_at", int), ("cut_bytes", int)),
    0x0009: (("epoch", int), ("events", int)),
    0x0012: (("sequences", list), ("reason", str)),
    0x0013: (("size", int), ("root", bytes), ("note", bytes)),
    0x0014: (("segments", list), ("payloads", int), ("bytes", int)),
    0x0015: (("key_id", bytes), ("algorithm", str), ("public_key", bytes)),
    0x0016: (("key_id", bytes), ("reason", str)),
    0x0017: (("key_id", bytes),),
    0x0018: (("action", str), ("from_journal", bytes), ("at", int), ("until", int)),
}
OPEN = 0x0008
ERASURE = 0x0012
LIFECYCLE = (b"batpak:store", b"batpak:lifecycle")


class MalformedError(Exception):
    """Bytes that are not what the page asks for; the text says what is wrong."""


class NoJournalError(Exception):
    """There is nothing to read at the path."""


# -- small things ---------------------------------------------------------------------------


def pad8(length: int) -> int:
    return -length % 8


def salted_crc(salt: bytes, *parts: bytes | memoryview) -> int:
    value = zlib.crc32(salt)
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def runs_of(steps: list[int]) -> list[tuple[int, int]]:
    """Runs [first, end) from gaps and lengths."""
    runs: list[tuple[int, int]] = []
    end = 0
    for gap, length in zip(steps[::2], steps[1::2], strict=True):
        first = end + gap
        end = first + length
        runs.append((first, end))
    return runs


def check_runs(steps: list[Any], sequence: int) -> None:
    """Raise MalformedError unless an erasure event at `sequence` may name these runs."""
    if len(steps) % 2 or not 2 <= len(steps) <= 32_768:
        raise MalformedError(f"{len(steps)} numbers are no gaps and lengths")
    if any(type(step) is not int or step < 0 for step in steps):
        raise MalformedError("a gap or length is no unsigned number")
    if not all(steps[1:]) or runs_of(steps)[-1][1] > sequence:
        raise MalformedError("a run is empty, touches another, or reaches to the event itself")


def id_text(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def hlc_of_id(raw: bytes) -> int:
    """The hlc that an id made by a writer of this format carries."""
    high, low = struct.unpack(">QQ", raw)
    return (high >> 16) << 16 | (high & 0xFFF) << 4 | (low >> 58) & 0xF


def is_version_7(raw: bytes) -> bool:
    return raw[6] >> 4 == 7 and raw[8] >> 6 == 2


# -- canonical MessagePack, the part that the page uses -------------------------------------

Value = int | str | bytes | list[Any] | dict[Any, Any]


class Unpacker:
    """Reads one value and refuses every spelling but the shortest."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise MalformedError(f"MessagePack ends inside a value at byte {self.at}")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def number(self, size: int, above: int) -> int:
        value = int.from_bytes(self.take(size), "big")
        if value <= above:
            raise MalformedError(f"{value} is not in its shortest MessagePack form")
        return value

    def value(self, depth: int = 0) -> Value:
        if depth > 4:
            raise MalformedError("MessagePack nests too deep for a map of this format")
        lead = self.take(1)[0]
        if lead < 0x80:
            return lead
        if lead < 0x90:
            return self.map(lead - 0x80, depth)
        if lead < 0xA0:
            return self.array(lead - 0x90, depth)
        if 0xA0 <= lead < 0xC0:
            return self.text(lead - 0xA0)
        match lead:
            case 0xCC:
                return self.number(1, 0x7F)
            case 0xCD:
                return self.number(2, 0xFF)
            case 0xCE:
                return self.number(4, 0xFFFF)
            case 0xCF:
                return self.number(8, 0xFFFFFFFF)
            case 0xC4:
                return self.take(self.number(1, -1))
            case 0xC5:
                return self.take(self.number(2, 0xFF))
            case 0xC6:
                return self.take(self.number(4, 0xFFFF))
            case 0xD9:
                return self.text(self.number(1, 31))
            case 0xDA:
                return self.text(self.number(2, 0xFF))
            case 0xDB:
                return self.text(self.number(4, 0xFFFF))
            case 0xDC:
                return self.array(self.number(2, 15), depth)
            case 0xDD:
                return self.array(self.number(4, 0xFFFF), depth)
            case 0xDE:
                return self.map(self.number(2, 15), depth)
            case 0xDF:
                return self.map(self.number(4, 0xFFFF), depth)
            case _:
                raise MalformedError(f"MessagePack byte {lead:02x} has no place in this format")

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError("text is not UTF-8") from error

    def array(self, count: int, depth: int) -> list[Any]:
        if count > len(self.data):
            raise MalformedError(f"a MessagePack array of {count} items in {len(self.data)} bytes")
        return [self.value(depth + 1) for _ in range(count)]

    def map(self, size: int, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if isinstance(key, (dict, list)):
                raise MalformedError("a map or an array stands as the key of a map")
            if key in result:
                raise MalformedError(f"key {key!r} stands twice in a map")
            result[key] = self.value(depth + 1)
        return result


def unpack_map(data: bytes) -> dict[Any, Any]:
    unpacker = Unpacker(data)
    value = unpacker.value()
    if not isinstance(value, dict):
        raise MalformedError("is not a MessagePack map")
    if unpacker.at != len(data):
        raise MalformedError(f"{len(data) - unpacker.at} bytes stand after the MessagePack map")
    return value


def read_extensions(data: bytes) -> dict[str, bytes]:
    """The extensions of one event; `MalformedError` when they break a rule."""
    if not data:
        return {}
    found = unpack_map(data)
    if not found:
        raise MalformedError("an empty map is written where no bytes belong")
    last = b""
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, bytes):
            raise MalformedError("extensions map text to bytes only")
        raw = key.encode("utf-8")
        if len(raw) > EXTENSION_KEY_LIMIT:
            raise MalformedError(f"extension key of {len(raw)} bytes")
        if not EXTENSION_KEY.fullmatch(raw):
            raise MalformedError(f"extension key {key!r} is not ASCII of the form namespace.name")
        if raw <= last:
            raise MalformedError(f"extension key {key!r} is out of order")
        last = raw
    return found


# -- what is read ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Where something is, and what is wrong with it; `offset` is in bytes of `file`."""

    file: str
    offset: int | None
    sequence: int | None
    reason: str

    def line(self) -> str:
        at = "" if self.offset is None else f" offset {self.offset}"
        of = "" if self.sequence is None else f" sequence {self.sequence}"
        return f"{self.file}{at}{of}: {self.reason}"


@dataclass(slots=True)
class Report:
    """What a journal holds; `next_sequence` and `durable` are bounds, not included."""

    journal_id: str = ""
    segments: int = 0
    records: int = 0
    pads: int = 0
    events: int = 0
    entities: int = 0
    payload_bytes: int = 0
    erased: int = 0
    archived: int = 0
    sidecars: int = 0
    next_sequence: int = 0
    durable: int = 0
    last_event_hash: str = ZERO_HASH.hex()
    findings: list[Finding] = field(default_factory=list[Finding])
    notes: list[Finding] = field(default_factory=list[Finding])

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Identity:
    journal_id: bytes
    origin: str
    lineage: tuple[tuple[bytes, int], ...]

    def owns(self, journal_id: bytes, base: int) -> bool:
        if journal_id == self.journal_id:
            return True
        return any(journal_id == ancestor and base < until for ancestor, until in self.lineage)


@dataclass(slots=True)
class Segment:
    file: str
    data: memoryview
    base: int
    journal_id: bytes
    created_us: int
    generation: int
    salt: bytes
    prev_event_hash: bytes
    epoch: int
    crc: int


@dataclass(slots=True)
class Row:
    """One event as it stands in its record's head; offsets are in the segment file."""

    at: int
    raw: bytes
    metadata_at: int
    entity: bytes
    scope: bytes
    extensions: bytes
    sequence: int
    event_id: bytes
    correlation_id: bytes
    causation_id: bytes
    timestamp_us: int
    hlc: int
    clock: int
    lane: int
    depth: int
    kind: int
    payload_version: int
    flags: int
    codec: int
    envelope_len: int
    content_hash: bytes
    prev_hash: bytes

    def event_hash(self) -> bytes:
        preimage = EVENT_DOMAIN + self.raw + self.entity + self.scope + self.extensions
        return blake3(preimage).digest()


@dataclass(slots=True)
class Record:
    offset: int
    head_crc: int
    head_len: int
    body_len: int
    body_crc: int
    base: int
    durable: int
    epoch: int
    type: int
    flags: int
    rows: list[Row]

    @property
    def body_at(self) -> int:
        return self.offset + RECORD_HEADER.size + self.head_len

    @property
    def end(self) -> int:
        return self.body_at + self.body_len

    @property
    def next_sequence(self) -> int:
        return self.base + len(self.rows)

    def below(self, durable: int) -> bool:
        return self.base < durable if self.type == PAD else self.next_sequence <= durable


@dataclass(slots=True)
class Envelope:
    """One event's envelope; `state` is present, erased, archived or damaged."""

    state: str
    at: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Opened:
    """What the body, the hashes and the chain say about one walked record."""

    body_problem: str | None
    envelopes: list[Envelope]
    hashes: list[bytes]
    content_ok: list[bool]
    expected_prev: list[bytes | None]

    def first_problem(self, record: Record) -> str | None:
        """Why a record that nothing proves durable is not taken; None: it is taken."""
        if self.body_problem:
            return self.body_problem
        for row, ok in zip(record.rows, self.content_ok, strict=True):
            if not ok:
                return f"content_hash of sequence {row.sequence} is not that of its envelope"
        for row, prev in zip(record.rows, self.expected_prev, strict=True):
            if prev is not None and prev != row.prev_hash:
                return f"prev_hash of sequence {row.sequence} is not its entity's last event hash"
        return None


# -- one file at a time ---------------------------------------------------------------------


def read_identity(path: Path) -> Identity:
    raw = path.read_bytes()
    if len(raw) > JSON_LIMIT:
        raise MalformedError(f"is {len(raw)} bytes long, more than 1 MiB")
    try:
        value: Any = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"is not UTF-8 JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError("is not one JSON object")
    found = cast("dict[str, Any]", value)
    number = found.get("format")
    if type(number) is int and number > 1:
        raise MalformedError(f"format {number} is newer than this reader")
    if type(number) is not int or number != 1:
        raise MalformedError(f"format is {number!r}, not 1")
    created = found.get("created_us")
    if type(created) is not int or created < 0:
        raise MalformedError(f"created_us is {created!r}")
    origin = found.get("origin")
    if not isinstance(origin, str):
        raise MalformedError("origin is missing or no text")
    if not ORIGIN.fullmatch(origin) or len(origin.encode("utf-8", "surrogatepass")) > 255:
        raise MalformedError(f"origin is {origin!r}, which no checkpoint can carry")
    ancestors = found.get("lineage", [])
    if not isinstance(ancestors, list):
        raise MalformedError("lineage is not an array")
    lineage: list[tuple[bytes, int]] = []
    for one in cast("list[Any]", ancestors):
        if not isinstance(one, dict):
            raise MalformedError("a lineage entry is not an object")
        entry = cast("dict[str, Any]", one)
        until: Any = entry.get("until")
        if type(until) is not int or until < 0:
            raise MalformedError(f"until of a lineage entry is {until!r}")
        lineage.append((parse_uuid(entry.get("journal_id")), until))
    return Identity(parse_uuid(found.get("journal_id")), origin, tuple(lineage))


def parse_uuid(value: Any) -> bytes:
    if not isinstance(value, str) or not UUID_TEXT.fullmatch(value):
        raise MalformedError(f"journal_id {value!r} is not a UUID")
    return bytes.fromhex(value.replace("-", ""))


def read_segment_header(path: Path, file: str, identity: Identity) -> Segment:
    data = path.read_bytes()
    if len(data) < FIRST_RECORD:
        raise MalformedError(f"is {len(data)} bytes long, shorter than a segment header")
    (
        magic, version, header_size, row_size, record_size, journal_id, base, created_us,
        compatible, read_only, incompatible, generation, salt, prev, epoch, zero, crc,
    ) = SEGMENT_HEADER.unpack_from(data)  # fmt: skip
    del compatible, read_only  # bits there may be ignored by one that only reads
    if magic[:6] == SEGMENT_MAGIC[:6] and magic[7:] == b"\n" and magic[6] > 1:
        raise MalformedError(f"magic says format {magic[6]}, newer than this reader")
    if magic != SEGMENT_MAGIC:
        raise MalformedError(f"magic is {magic.hex()}")
    if zlib.crc32(data[:124]) != crc:
        raise MalformedError("crc of the segment header is wrong")
    if version != 1:
        raise MalformedError(f"version {version} is not known to this reader")
    if (header_size, row_size, record_size) != (128, 176, 64):
        raise MalformedError(f"sizes {header_size}, {row_size}, {record_size} are not 128, 176, 64")
    if incompatible:
        raise MalformedError(f"incompatible feature bits {incompatible:#x} are unknown")
    if base >= SEQUENCE_LIMIT:
        raise MalformedError(f"base_sequence {base} is not below 2^63")
    if base != int(path.name[:20]):
        raise MalformedError(f"base_sequence {base} is not the number in the file's name")
    if any(zero):
        raise MalformedError("bytes 116 to 123 are not zero")
    if not identity.owns(journal_id, base):
        raise MalformedError(f"belongs to journal {id_text(journal_id)}")
    return Segment(
        file=file, data=memoryview(data), base=base, journal_id=journal_id,
        created_us=created_us, generation=generation, salt=salt, prev_event_hash=prev,
        epoch=epoch, crc=crc,
    )  # fmt: skip


def judge_record(segment: Segment, at: int, expected: int, prev_crc: int, epoch: int) -> Record:
    """Header and head of the record at `at`, every rule; the body is not looked at."""
    data, salt = segment.data, segment.salt
    if at + RECORD_HEADER.size > len(data):
        raise MalformedError("too few bytes for a record header")
    (
        magic, head_crc, head_len, body_len, body_crc, previous, base, durable, of_epoch, count,
        kind, version, flags, zero, header_crc,
    ) = RECORD_HEADER.unpack_from(data, at)  # fmt: skip
    if magic != RECORD_MAGIC:
        raise MalformedError("no record magic")
    if salted_crc(salt, struct.pack("<Q", at), data[at + 8 : at + 60]) != header_crc:
        raise MalformedError("header_crc is wrong")
    if kind not in (COMMIT, PAD):
        raise MalformedError(f"record type {kind}")
    if version != 1:
        raise MalformedError(f"record version {version}")
    if flags & ~(SPARSE | EAGER) or (kind == PAD and flags):
        raise MalformedError(f"record flags {flags:#06x}")
    if any(zero):
        raise MalformedError("reserved bytes of the record header are not zero")
    if (count == 0) != (kind == PAD):
        raise MalformedError(f"count {count} in a record of type {kind}")
    if base != expected:
        raise MalformedError(f"base_sequence {base} where {expected} is expected")
    if durable > base:
        raise MalformedError(f"durable {durable} is above base_sequence {base}")
    if of_epoch < epoch:
        raise MalformedError(f"epoch {of_epoch} after epoch {epoch}")
    if previous != prev_crc:
        raise MalformedError("prev_crc is not the checksum of what stands before")
    if head_len % 8 or body_len % 8:
        raise MalformedError("a section's length is not a multiple of 8")
    if kind == PAD and head_len:
        raise MalformedError("a pad has a head")
    limit = LARGEST if flags & SPARSE else LARGEST - 8 - 4 * count
    if head_len + body_len > limit:
        raise MalformedError(f"head and body have {head_len + body_len} bytes, more than {limit}")
    head_at = at + RECORD_HEADER.size
    if head_at + head_len + body_len > len(data):
        raise MalformedError("the record goes beyond the end of the file")
    if salted_crc(salt, data[at + 8 : head_at + head_len]) != head_crc:
        raise MalformedError("head_crc is wrong")
    rows = read_rows(data, head_at, head_len, base, count)
    if kind == COMMIT and not flags & SPARSE:
        total = sum(row.envelope_len for row in rows)
        if body_len != total + pad8(total):
            raise MalformedError("body_len is not what the rows add up to")
    return Record(
        offset=at, head_crc=head_crc, head_len=head_len, body_len=body_len, body_crc=body_crc,
        base=base, durable=durable, epoch=of_epoch, type=kind, flags=flags, rows=rows,
    )  # fmt: skip


def read_rows(data: memoryview, head_at: int, head_len: int, base: int, count: int) -> list[Row]:
    if count * ROW.size > head_len:
        raise MalformedError("the head is too short for its rows")
    rows: list[Row] = []
    metadata_at = head_at + count * ROW.size
    end = head_at + head_len
    for index in range(count):
        at = head_at + index * ROW.size
        (
            sequence, event_id, correlation_id, causation_id, timestamp_us, hlc, clock, lane,
            depth, extensions_len, kind, payload_version, flags, entity_len, scope_len,
            row_version, codec, envelope_len, zero, content_hash, prev_hash,
        ) = ROW.unpack_from(data, at)  # fmt: skip
        if sequence != base + index:
            raise MalformedError(f"row {index} has sequence {sequence}, not {base + index}")
        if row_version != 1:
            raise MalformedError(f"row version {row_version}")
        if any(zero):
            raise MalformedError("reserved bytes of a row are not zero")
        if not 0 < entity_len <= NAME_LIMIT or not 0 < scope_len <= NAME_LIMIT:
            raise MalformedError(f"names of {entity_len} and {scope_len} bytes")
        scope_at = metadata_at + entity_len
        extensions_at = scope_at + scope_len
        next_at = extensions_at + extensions_len
        if next_at > end:
            raise MalformedError("the rows' lengths go beyond the head")
        rows.append(
            Row(
                at=at, raw=bytes(data[at : at + ROW.size]), metadata_at=metadata_at,
                entity=bytes(data[metadata_at:scope_at]),
                scope=bytes(data[scope_at:extensions_at]),
                extensions=bytes(data[extensions_at:next_at]),
                sequence=sequence, event_id=event_id, correlation_id=correlation_id,
                causation_id=causation_id, timestamp_us=timestamp_us, hlc=hlc, clock=clock,
                lane=lane, depth=depth, kind=kind, payload_version=payload_version, flags=flags,
                codec=codec, envelope_len=envelope_len, content_hash=content_hash,
                prev_hash=prev_hash,
            )
        )  # fmt: skip
        metadata_at = next_at
    used = metadata_at - head_at
    if head_len != used + pad8(used):
        raise MalformedError("head_len is not what the rows add up to")
    if any(data[metadata_at:end]):
        raise MalformedError("padding of the head is not zero")
    return rows


def read_body(segment: Segment, record: Record) -> tuple[str | None, list[Envelope]]:
    """What is wrong with the body, if anything, and its envelopes as far as they have places."""
    data = segment.data
    body = data[record.body_at : record.end]
    problem = None
    if salted_crc(segment.salt, body) != record.body_crc:
        problem = "body_crc is wrong"
    if record.type == PAD:
        if problem is None and any(body):
            problem = "the body of a pad is not zero"
        return problem, []
    lost = [Envelope("damaged") for _ in record.rows]
    at = 0
    stored = [row.envelope_len for row in record.rows]
    if record.flags & SPARSE:
        count = len(record.rows)
        at = 4 * count
        if at + pad8(at) > record.body_len:
            return problem or "the body is too short for its table of stored lengths", lost
        stored = list(struct.unpack_from(f"<{count}I", body))
        if any(body[at : at + pad8(at)]):
            problem = problem or "padding of the table of stored lengths is not zero"
        at += pad8(at)
    envelopes: list[Envelope] = []
    for row, length in zip(record.rows, stored, strict=True):
        if length == row.envelope_len:
            data_at = record.body_at + at
            envelopes.append(Envelope("present", data_at, bytes(data[data_at : data_at + length])))
            at += length
        elif length == 0:
            envelopes.append(Envelope("erased"))
        elif length == ARCHIVED:
            envelopes.append(Envelope("archived"))
        else:
            return problem or f"stored length {length} of sequence {row.sequence}", lost
        if at > record.body_len:
            return problem or "the envelopes go beyond the body", lost
    if at + pad8(at) != record.body_len:
        return problem or "body_len is not what the stored lengths add up to", lost
    if any(body[at:]):
        problem = problem or "padding of the body is not zero"
    return problem, envelopes


def read_hint(path: Path, journal_id: bytes) -> int:
    """The durable bound of a tail hint; `MalformedError` when the hint is to be ignored."""
    raw = path.read_bytes()
    if len(raw) < HINT.size:
        raise MalformedError(f"is {len(raw)} bytes long, not 64")
    magic, crc, owner, epoch, zero, base, log_end, durable, rest = HINT.unpack_from(raw)
    del epoch, base, log_end  # for people only
    if magic != HINT_MAGIC:
        raise MalformedError(f"magic is {magic.hex()}")
    if zlib.crc32(raw[8:64]) != crc:
        raise MalformedError("crc is wrong")
    if owner != journal_id:
        raise MalformedError(f"belongs to journal {id_text(owner)}")
    if zero or any(rest):
        raise MalformedError("reserved bytes are not zero")
    return durable


@dataclass(slots=True)
class Sidecar:
    file: str
    raw: bytes
    owner: tuple[bytes, int, bytes, int]
    n: int
    covered: int
    durable: int


def read_sidecar(path: Path, file: str) -> Sidecar:
    """What a sidecar says as a witness: its arrays are not looked at."""
    raw = path.read_bytes()
    if len(raw) < TABLE_END:
        raise MalformedError(f"is {len(raw)} bytes long, shorter than header and array table")
    (
        magic, version, header_size, array_count, journal_id, base, n, covered, durable, salt,
        generation, _head_crc, _last_at, _last_hlc, _epoch, next_sequence, _records, zero, crc,
    ) = SIDECAR_HEADER.unpack_from(raw)  # fmt: skip
    if magic != SIDECAR_MAGIC:
        raise MalformedError(f"magic is {magic.hex()}")
    if zlib.crc32(raw[:124] + raw[FIRST_RECORD:TABLE_END]) != crc:
        raise MalformedError("crc is wrong")
    if (version, header_size, array_count, zero) != (1, FIRST_RECORD, ARRAYS, 0):
        raise MalformedError("version, header_size, array_count or the zero field is wrong")
    if next_sequence != base + n:
        raise MalformedError("next_sequence is not base_sequence + n")
    if base != int(path.name[:20]):
        raise MalformedError(f"base_sequence {base} is not the number in the file's name")
    owner = (journal_id, base, salt, generation)
    return Sidecar(file, raw, owner, n, covered, durable)


def build_sidecar(
    segment: Segment, records: list[Record], opened: list[Opened], durable: int
) -> bytes:
    """What a sidecar over these records has to be, byte for byte."""
    rows = [row for record in records for row in record.rows]
    envelopes = [envelope for one in opened for envelope in one.envelopes]
    hashes = [digest for one in opened for digest in one.hashes]
    n = len(rows)

    def u32(values: list[int]) -> bytes:
        return struct.pack(f"<{len(values)}I", *values)

    def group(keys: list[Any], distinct: list[Any]) -> tuple[list[int], bytes, bytes]:
        number = {key: place for place, key in enumerate(distinct)}
        numbers = [number[key] for key in keys]
        members: list[list[int]] = [[] for _ in distinct]
        for place, which in enumerate(numbers):
            members[which].append(place)
        starts = [0]
        for one in members:
            starts.append(starts[-1] + len(one))
        return numbers, u32(starts), u32([place for one in members for place in one])

    def texts(distinct: list[bytes]) -> tuple[bytes, bytes]:
        starts = [0]
        for one in distinct:
            starts.append(starts[-1] + len(one))
        return u32(starts), b"".join(distinct)

    entities = sorted({row.entity for row in rows})
    scopes = sorted({row.scope for row in rows})
    kinds = sorted({row.kind for row in rows})
    entity_numbers, entity_starts, entity_postings = group([row.entity for row in rows], entities)
    scope_numbers, scope_starts, scope_postings = group([row.scope for row in rows], scopes)
    _, kind_starts, kind_postings = group([row.kind for row in rows], kinds)
    foreign = sorted((row.event_id, place) for place, row in enumerate(rows) if is_foreign(row))
    arrays = [
        b"".join(hashes),
        u32([row.at for row in rows]),
        u32([row.metadata_at for row in rows]),
        u32([envelope.at for envelope in envelopes]),
        u32(entity_numbers),
        u32(scope_numbers),
        struct.pack(f"<{n}H", *(row.kind for row in rows)),
        struct.pack(f"<{n}Q", *(row.hlc for row in rows)),
        entity_starts,
        entity_postings,
        scope_starts,
        scope_postings,
        struct.pack(f"<{len(kinds)}H", *kinds),
        kind_starts,
        kind_postings,
        *texts(entities),
        *texts(scopes),
        b"".join(raw + struct.pack("<II", place, 0) for raw, place in foreign),
    ]
    table = body = b""
    for array in arrays:
        table += ARRAY_ENTRY.pack(TABLE_END + len(body), len(array), blake3(array).digest(16))
        body += array + bytes(pad8(len(array)))
    last = records[-1] if records else None
    head = SIDECAR_HEADER.pack(
        SIDECAR_MAGIC, 1, FIRST_RECORD, ARRAYS, segment.journal_id, segment.base, n,
        last.end if last else FIRST_RECORD, durable, segment.salt, segment.generation,
        last.head_crc if last else segment.crc, last.offset if last else 0,
        rows[-1].hlc if rows else 0,
        max([segment.epoch, *(record.epoch for record in records)]), segment.base + n,
        len(records), 0, 0,
    )  # fmt: skip
    return head[:124] + struct.pack("<I", zlib.crc32(head[:124] + table)) + table + body


# -- the journal as a whole -----------------------------------------------------------------

EventLine = dict[str, Any]


class Reader:
    """Goes through one journal from its first byte to its last."""

    def __init__(self, directory: Path, on_event: Callable[[EventLine], None] | None) -> None:
        self.directory = directory
        self.on_event = on_event
        self.report = Report()
        self.expected = 0
        self.last_hash: bytes | None = ZERO_HASH
        self.last_hlc = -1
        self.last_epoch = 0
        self.last_time = 0
        self.in_epoch = 0
        self.entities: dict[bytes, tuple[int, bytes]] = {}
        self.every_entity: set[bytes] = set()
        self.ids: set[bytes] = set()
        # After lost records an entity may go on from an event that was not seen.
        self.lost = False
        self.absent: list[tuple[str, Row, str]] = []
        self.erased: list[tuple[int, int]] = []
        self.sidecars: dict[int, Sidecar] = {}
        self.witnesses: list[tuple[str, int]] = []

    def finding(self, file: str, offset: int | None, sequence: int | None, reason: str) -> None:
        self.report.findings.append(Finding(file, offset, sequence, reason))

    def note(self, file: str, offset: int | None, sequence: int | None, reason: str) -> None:
        self.report.notes.append(Finding(file, offset, sequence, reason))

    def run(self) -> Report:
        self.read_all()
        self.report.next_sequence = self.expected
        self.report.entities = len(self.every_entity)
        if self.last_hash is not None:
            self.report.last_event_hash = self.last_hash.hex()
        for file, row, state in self.absent:
            named = any(first <= row.sequence < end for first, end in self.erased)
            named = named and not row.entity.startswith(b"batpak:")
            text = f"the envelope was {state}"
            say = self.note if named else self.finding
            say(file, row.at, row.sequence, text if named else f"{text}, no event says so")
        return self.report

    def read_all(self) -> None:
        if not self.directory.is_dir():
            raise NoJournalError(f"{self.directory} is not a directory")
        folder = self.directory / "segments"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        segments = [name for name in names if SEGMENT_NAME.fullmatch(name)]
        identity_path = self.directory / "journal.json"
        if not identity_path.exists():
            if segments:
                self.finding("journal.json", None, None, "is missing, but there are segments")
                return
            raise NoJournalError(f"{self.directory} holds no journal")
        self.look_around(names)
        try:
            identity = read_identity(identity_path)
        except MalformedError as error:
            self.finding("journal.json", None, None, str(error))
            return
        self.report.journal_id = id_text(identity.journal_id)
        self.witnesses.append(("tail.hint", self.hint(identity)))
        headers: list[Segment | None] = []
        for name in segments:
            file = f"segments/{name}"
            try:
                headers.append(read_segment_header(folder / name, file, identity))
            except MalformedError as error:
                headers.append(None)
                self.finding(file, 0, None, str(error))
        owners = {int(name[:20]): one for name, one in zip(segments, headers, strict=True)}
        self.find_sidecars(names, owners, identity.journal_id)
        if not segments:
            who, durable = max(self.witnesses, key=lambda one: one[1])
            if durable:
                reason = f"no segment, but {who} knows of {durable} durable events"
                self.finding("segments", None, 0, reason)
            self.report.durable = durable
            return
        if headers[0] is not None and headers[0].base != 0:
            reason = f"the first segment begins with {headers[0].base}"
            self.finding(headers[0].file, 32, 0, reason)
            self.skip_to(headers[0].base)
        for place, segment in enumerate(headers):
            following = int(segments[place + 1][:20]) if place + 1 < len(headers) else None
            if segment is None:
                self.skip_to(following)
            else:
                self.read_one(segment, following)
            headers[place] = None  # let go of the file's bytes

    def look_around(self, names: list[str]) -> None:
        for name in names:
            if name.endswith(".tmp"):
                self.note(f"segments/{name}", None, None, "unfinished file, not read")
        for path in sorted(self.directory.glob("*.tmp")):
            self.note(path.name, None, None, "unfinished file, not read")
        folder = self.directory / "quarantine"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = QUARANTINE_NAME.fullmatch(path.name)
            if match:
                right = blake3(path.read_bytes()).hexdigest()[:16] == match[1]
                reason = "bytes that a recovery set aside" if right else "is not what its name says"
                self.note(f"quarantine/{path.name}", None, None, reason)

    def hint(self, identity: Identity) -> int:
        path = self.directory / "tail.hint"
        if not path.exists():
            self.note("tail.hint", None, None, "is missing: one witness less")
            return 0
        try:
            return read_hint(path, identity.journal_id)
        except MalformedError as error:
            self.note("tail.hint", 0, None, f"is ignored: {error}")
            return 0

    def skip_to(self, sequence: int | None) -> None:
        """Go on after events that cannot be read; nothing is known of what they held."""
        if sequence is not None:
            self.expected = sequence
        self.last_hash = None
        self.entities.clear()
        self.lost = True

    def read_one(self, segment: Segment, following: int | None) -> None:
        self.report.segments += 1
        if segment.base != self.expected:
            reason = f"base_sequence is {segment.base} where {self.expected} is expected"
            self.finding(segment.file, 32, self.expected, reason)
            self.skip_to(segment.base)
        if self.last_hash is not None and segment.prev_event_hash != self.last_hash:
            reason = "prev_event_hash is not the event hash of the event before the segment"
            self.finding(segment.file, 80, segment.base, reason)
        if segment.epoch < self.last_epoch:
            reason = f"epoch {segment.epoch} after epoch {self.last_epoch}"
            self.finding(segment.file, 112, segment.base, reason)
        records, end, expected, reason = self.walk(segment)
        sidecar = self.sidecars.get(segment.base)
        if following is not None:
            opened = [self.take(segment, record) for record in records]
            if any(segment.data[end:]) or expected != following:
                text = f"{reason}; the next segment begins with {following}"
                self.finding(segment.file, end, expected, text)
                if expected != following:
                    self.skip_to(following)
        else:
            records, opened = self.newest(segment, records, end, reason)
        if sidecar is not None:
            self.check_sidecar(segment, sidecar, records, opened)

    def walk(self, segment: Segment) -> tuple[list[Record], int, int, str]:
        """All records up to the first position that is not valid: records, X, S, why."""
        records: list[Record] = []
        at, expected, prev_crc, epoch = FIRST_RECORD, segment.base, segment.crc, segment.epoch
        while True:
            try:
                record = judge_record(segment, at, expected, prev_crc, epoch)
            except MalformedError as error:
                return records, at, expected, str(error)
            records.append(record)
            at, expected = record.end, record.next_sequence
            prev_crc, epoch = record.head_crc, record.epoch

    def newest(
        self, segment: Segment, records: list[Record], end: int, reason: str
    ) -> tuple[list[Record], list[Opened]]:
        """Tell a torn tail from damage, by the witnesses, and take what stands."""
        expected = records[-1].next_sequence if records else segment.base
        walked = max([0, *(record.durable for record in records)])
        beyond = later_headers(segment, end, expected)
        witnesses = [("a record", walked), ("a header behind it", beyond), *self.witnesses]
        who, durable = max(witnesses, key=lambda one: one[1])
        self.report.durable = durable
        kept: list[Record] = []
        opened: list[Opened] = []
        for record in records:
            proven = record.below(durable)
            one = self.open_record(segment, record)
            problem = None if proven else one.first_problem(record)
            if problem is not None:
                end, expected, reason = record.offset, record.base, problem
                break
            kept.append(record)
            opened.append(self.take(segment, record, one))
        if durable > expected:
            text = f"{reason}; sequences {expected} to {durable - 1} were durable, says {who}"
            self.finding(segment.file, end, expected, text)
        else:
            rest = len(bytes(segment.data[end:]).rstrip(b"\0"))
            if rest:
                text = f"torn tail of {rest} bytes, never known to be durable: {reason}"
                self.note(segment.file, end, expected, text)
        return kept, opened

    def open_record(self, segment: Segment, record: Record) -> Opened:
        problem, envelopes = read_body(segment, record)
        seen: dict[bytes, bytes] = {}
        hashes: list[bytes] = []
        content_ok: list[bool] = []
        expected_prev: list[bytes | None] = []
        for row, envelope in zip(record.rows, envelopes, strict=True):
            before = self.entities.get(row.entity)
            unknown = None if self.lost else ZERO_HASH
            expected_prev.append(seen.get(row.entity, before[1] if before else unknown))
            hashes.append(row.event_hash())
            seen[row.entity] = hashes[-1]
            content = blake3(CONTENT_DOMAIN + bytes([row.codec]) + envelope.data).digest()
            content_ok.append(envelope.state != "present" or content == row.content_hash)
        return Opened(problem, envelopes, hashes, content_ok, expected_prev)

    def take(self, segment: Segment, record: Record, opened: Opened | None = None) -> Opened:
        """Count a record in, and report what a verifier has to report about it."""
        if opened is None:
            opened = self.open_record(segment, record)
        if record.type == PAD:
            self.report.pads += 1
        self.report.records += 1
        if opened.body_problem:
            self.finding(segment.file, record.body_at, record.base, opened.body_problem)
        if record.flags & SPARSE and segment.generation == 0:
            reason = "a record is SPARSE in a segment that was never rewritten"
            self.note(segment.file, record.offset, record.base, reason)
        if record.epoch != self.last_epoch:
            self.last_epoch, self.last_time, self.in_epoch = record.epoch, 0, 0
        for place, row in enumerate(record.rows):
            self.take_event(segment, record, opened, place, row)
        self.expected = record.next_sequence
        return opened

    def take_event(
        self, segment: Segment, record: Record, opened: Opened, place: int, row: Row
    ) -> None:
        envelope, digest = opened.envelopes[place], opened.hashes[place]
        reasons: list[str] = []
        if row.event_id == ZERO_ID:
            reasons.append("event_id is zero")
        elif row.event_id in self.ids:
            reasons.append(f"event_id {id_text(row.event_id)} was used before")
        self.ids.add(row.event_id)
        if row.correlation_id == ZERO_ID:
            reasons.append("correlation_id is zero")
        if row.timestamp_us < 0:
            reasons.append(f"timestamp_us {row.timestamp_us} is negative")
        elif row.timestamp_us < self.last_time:
            reasons.append(f"timestamp_us {row.timestamp_us} is below that of an earlier event")
        self.last_time = max(self.last_time, row.timestamp_us)
        if row.hlc <= self.last_hlc:
            reasons.append(f"hlc {row.hlc} is not above {self.last_hlc}")
        self.last_hlc = max(self.last_hlc, row.hlc)
        before = self.entities.get(row.entity)
        if before is not None or not self.lost:
            clock = before[0] + 1 if before else 0
            if row.clock != clock:
                reasons.append(f"clock is {row.clock} where {clock} is expected")
        prev = opened.expected_prev[place]
        if prev is not None and prev != row.prev_hash:
            reasons.append("prev_hash is not the event hash of the entity's previous event")
        self.entities[row.entity] = (row.clock, digest)
        self.every_entity.add(row.entity)
        if not opened.content_ok[place]:
            reasons.append("content_hash is not that of the envelope")
        if row.envelope_len < SHORTEST_ENVELOPE.get(row.codec, 0):
            reasons.append(f"envelope of {row.envelope_len} bytes is too short for its codec")
        if len(row.extensions) > EXTENSIONS_LIMIT:
            reasons.append(f"extensions of {len(row.extensions)} bytes")
        if row.flags >> 9:
            reasons.append(f"reserved flags are set: {row.flags:#06x}")
        reasons.extend(name_offences(row))
        extensions: dict[str, bytes] = {}
        try:
            extensions = read_extensions(row.extensions)
        except MalformedError as error:
            reasons.append(f"extensions: {error}")
        payload = payload_of(row, envelope) if opened.content_ok[place] else None
        system: dict[Any, Any] | None = None
        if row.kind in SYSTEM_PAYLOADS and row.entity == LIFECYCLE[0]:
            try:
                system = self.system_event(record, row, payload)
            except MalformedError as error:
                reasons.append(f"system event: {error}")
        if row.kind == ERASURE and system:
            self.erased += runs_of(system["sequences"])
        begins = self.in_epoch == 0 and not self.lost
        if begins and (row.kind, row.entity) != (OPEN, LIFECYCLE[0]):
            reasons.append(f"epoch {record.epoch} does not begin with an open event")
        for reason in reasons:
            self.finding(segment.file, row.at, row.sequence, reason)
        if envelope.state in ("erased", "archived"):
            self.absent.append((segment.file, row, envelope.state))
            self.report.erased += envelope.state == "erased"
            self.report.archived += envelope.state == "archived"
        elif payload is None and row.codec not in SHORTEST_ENVELOPE:
            self.note(segment.file, row.at, row.sequence, f"codec {row.codec} is unknown")
        self.in_epoch += 1
        self.last_hash = digest
        self.report.events += 1
        self.report.payload_bytes += len(payload or b"")
        if self.on_event is not None:
            state = envelope.state if opened.content_ok[place] else "damaged"
            line = event_line(segment, record, row, state, payload)
            line["event_hash"] = digest.hex()
            line["extensions"] = {key: value.hex() for key, value in extensions.items()}
            if system is not None:
                line["system"] = {
                    key: value.hex() if isinstance(value, bytes) else value
                    for key, value in system.items()
                }
            self.on_event(line)

    def system_event(self, record: Record, row: Row, payload: bytes | None) -> dict[Any, Any]:
        """The payload of a lifecycle event, checked against what the page fixes for it."""
        fixed = (row.codec, row.payload_version, row.flags, row.lane, row.depth)
        if fixed != (0, 1, 0, 0, 0) or row.extensions or row.scope != LIFECYCLE[1]:
            raise MalformedError(
                "codec, version, flags, lane, depth, extensions or scope is not fixed"
            )
        if row.causation_id != ZERO_ID or row.correlation_id != row.event_id:
            raise MalformedError("has a cause, or a correlation that is not itself")
        if payload is None:
            return {}
        found = unpack_map(payload)
        wanted = SYSTEM_PAYLOADS[row.kind]
        if [*found][: len(wanted)] != [key for key, _ in wanted]:
            raise MalformedError(f"payload has the keys {[*found]}")
        for key, kind in wanted:
            if type(found[key]) is not kind:
                raise MalformedError(f"{key} of the payload is {found[key]!r}")
        if "epoch" in found and found["epoch"] != record.epoch:
            raise MalformedError(f"epoch {found['epoch']} in a record of epoch {record.epoch}")
        if row.kind == OPEN and found["resumed_at"] != row.sequence:
            raise MalformedError(f"resumed_at is {found['resumed_at']}")
        if row.kind == 0x0009 and not self.lost and found["events"] != self.in_epoch:
            raise MalformedError(f"events is {found['events']} where {self.in_epoch} were written")
        if row.kind == ERASURE:
            check_runs(found["sequences"], row.sequence)
        if row.kind == 0x0017 and len(found["key_id"]) != 16:
            raise MalformedError("key_id has not 16 bytes")
        if row.kind == 0x0018:
            if found["action"] not in ("repaired", "restored", "forked"):
                raise MalformedError(f"action is {found['action']!r}")
            if len(found["from_journal"]) != 16:
                raise MalformedError("from_journal is not an id")
        return found

    def find_sidecars(
        self, names: list[str], owners: dict[int, Segment | None], own: bytes
    ) -> None:
        """Keep the sidecars that count: of segments that are there, or of ours that are gone."""
        for name in names:
            if not SIDECAR_NAME.fullmatch(name):
                continue
            file, base = f"segments/{name}", int(name[:20])
            try:
                sidecar = read_sidecar(self.directory / file, file)
            except MalformedError as error:
                self.note(file, 0, None, f"is ignored: {error}")
                continue
            segment = owners.get(base)
            if segment is None:
                ours = sidecar.owner[0] == own and base not in owners
                self.note(file, None, base, "sidecar of a segment that is gone or unreadable")
            else:
                whose = (segment.journal_id, segment.base, segment.salt, segment.generation)
                ours = sidecar.owner == whose
                if not ours:
                    self.note(file, 0, base, "is ignored: it is that of another segment")
            if ours:
                self.witnesses.append((file, sidecar.durable))
                if segment is not None:
                    self.sidecars[base] = sidecar

    def check_sidecar(
        self, segment: Segment, sidecar: Sidecar, records: list[Record], opened: list[Opened]
    ) -> None:
        """Compare a sidecar with the one that the segment's own bytes give."""
        self.report.sidecars += 1
        raw = sidecar.raw
        found = [array_of(raw, number) for number in range(ARRAYS)]
        for number, (at, _, intact) in enumerate(found):
            if not intact:
                reason = f"array {number} ({ARRAY_NAMES[number]}) is damaged, so ignored"
                self.note(sidecar.file, at, None, reason)
                return
        ends = [FIRST_RECORD, *(record.end for record in records)]
        if sidecar.covered not in ends:
            reason = f"covers {sidecar.covered} bytes, where no record ends, so it is ignored"
            self.note(sidecar.file, 48, None, reason)
            return
        number = ends.index(sidecar.covered)
        right = build_sidecar(segment, records[:number], opened[:number], sidecar.durable)
        if right == raw:
            return
        for number, (at, array, _) in enumerate(found):
            if array != array_of(right, number)[1]:
                reason = f"array {number} ({ARRAY_NAMES[number]}) is not what its segment gives"
                self.finding(sidecar.file, at, None, reason)
                return
        differing = (at for at, (a, b) in enumerate(zip(right, raw, strict=False)) if a != b)
        at = next(differing, min(len(right), len(raw)))
        self.finding(sidecar.file, at, None, "is not what its segment gives")


def array_of(sidecar: bytes, number: int) -> tuple[int, bytes, bool]:
    """Where an array of a sidecar stands, its bytes, and whether its checksum is right."""
    at, length, digest = ARRAY_ENTRY.unpack_from(sidecar, FIRST_RECORD + 32 * number)
    array = sidecar[at : at + length]
    return at, array, len(array) == length and blake3(array).digest(16) == digest


def later_headers(segment: Segment, end: int, expected: int) -> int:
    """The greatest durable bound in record headers after the position that is not valid."""
    data = bytes(segment.data)
    greatest = 0
    at = data.find(RECORD_MAGIC, end + 1)
    while at >= 0:
        if at % 8 == 0 and at + RECORD_HEADER.size <= len(data):
            fields = RECORD_HEADER.unpack_from(data, at)
            base, durable, crc = fields[6], fields[7], fields[14]
            possible = durable <= base and expected <= base <= expected + (at - end) // ROW.size
            place = struct.pack("<Q", at)
            if possible and salted_crc(segment.salt, place, data[at + 8 : at + 60]) == crc:
                greatest = max(greatest, durable)
        at = data.find(RECORD_MAGIC, at + 1)
    return greatest


def is_foreign(row: Row) -> bool:
    """Whether an id says nothing about where its event stands."""
    return not is_version_7(row.event_id) or hlc_of_id(row.event_id) != row.hlc


def name_offences(row: Row) -> list[str]:
    result: list[str] = []
    for what, raw in (("entity", row.entity), ("scope", row.scope)):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            result.append(f"{what} is not UTF-8")
        if NAME_OFFENCE.search(raw):
            result.append(f"{what} {raw!r} holds what a name may not hold")
    return result


def payload_of(row: Row, envelope: Envelope) -> bytes | None:
    """The payload, or None when it is not here or cannot be read without a key."""
    if envelope.state != "present" or len(envelope.data) < SHORTEST_ENVELOPE.get(row.codec, 0):
        return None
    if row.codec == 0:
        return envelope.data
    return envelope.data[16:] if row.codec == 1 else None


def event_line(
    segment: Segment, record: Record, row: Row, state: str, payload: bytes | None
) -> EventLine:
    none = row.causation_id == ZERO_ID
    return {
        "sequence": row.sequence,
        "event_id": id_text(row.event_id),
        "correlation_id": id_text(row.correlation_id),
        "causation_id": None if none else id_text(row.causation_id),
        "timestamp_us": row.timestamp_us,
        "hlc": row.hlc,
        "clock": row.clock,
        "lane": row.lane,
        "depth": row.depth,
        "kind": row.kind,
        "payload_version": row.payload_version,
        "flags": row.flags,
        "codec": row.codec,
        "entity": row.entity.decode("utf-8", "backslashreplace"),
        "scope": row.scope.decode("utf-8", "backslashreplace"),
        "envelope": state,
        "envelope_len": row.envelope_len,
        "payload": None if payload is None else payload.hex(),
        "content_hash": row.content_hash.hex(),
        "prev_hash": row.prev_hash.hex(),
        "file": segment.file,
        "record_offset": record.offset,
        "row_offset": row.at,
        "epoch": record.epoch,
        "durable": record.durable,
        "eager": bool(record.flags & EAGER),
    }


def read_journal(
    directory: str | Path, on_event: Callable[[EventLine], None] | None = None
) -> Report:
    """Read the whole journal in `directory`, checking all of it.

    `on_event` is called with one JSON-ready dict for each event that stands, in order.
    Raises `NoJournalError` when there is none there, and `OSError` when it cannot be read.
    """
    return Reader(Path(directory), on_event).run()


def summary(report: Report) -> str:
    lines = [
        f"journal       {report.journal_id or 'unknown'}",
        f"segments      {report.segments} ({report.sidecars} sidecars checked)",
        f"records       {report.records}, {report.pads} of them pads",
        f"events        {report.events} of {report.entities} entities",
        f"payloads      {report.payload_bytes} bytes"
        f", {report.erased} erased, {report.archived} archived",
        f"next sequence {report.next_sequence}, durable {report.durable}",
        f"last hash     {report.last_event_hash}",
    ]
    lines += [f"note          {note.line()}" for note in report.notes]
    lines += [f"finding       {finding.line()}" for finding in report.findings]
    lines.append(f"findings      {len(report.findings)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Read and check a batpak journal at rest.")
    parser.add_argument("journal", type=Path, help="the directory that holds journal.json")
    parser.add_argument("--events", action="store_true", help="one JSON line for each event")
    options = parser.parse_args(arguments)

    def show(line: EventLine) -> None:
        print(json.dumps(line, ensure_ascii=False))

    try:
        report = read_journal(options.journal, show if options.events else None)
    except (NoJournalError, OSError) as error:
        print(f"read_segment: {error}", file=sys.stderr)
        return 2
    print(summary(report), file=sys.stderr if options.events else sys.stdout)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
