"""Make the golden vectors of the journal format, and show them in docs/format.md.

Usage: python -m tools.golden_vectors            show what differs; exit 1 if anything does
       BATPAK_GOLDEN=write python -m tools.golden_vectors    the same, then write it

A vector is a file `NAME.hex` under tests/golden/journal with the bytes, and `NAME.json`
that describes each of them: offset, size, field, value. The bytes come from the library's
own encoders, with fixed ids, salts and times; the descriptions come from the tables of
this file. A vector that changes is a change of the format: nothing here may be written
again to make a test pass.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import struct
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from blake3 import blake3

from batpak import canonical
from batpak.coordinate import Coordinate
from batpak.encryption import Vault
from batpak.engine import system
from batpak.engine.manifest import FileEntry, Manifest
from batpak.event import (
    CODEC_PLAIN,
    CODEC_SALTED,
    FLAG_KEYED,
    NO_HASH,
    NO_ID,
    ROW,
    content_hash,
    event_hash,
    id_of_hlc,
)
from batpak.gates import Denial, DenialPayload, Evaluation, Verdict
from batpak.index.growing import GrowingPart
from batpak.index.keytable import KeyTable, capacity_for
from batpak.journal.applying import apply_record
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.identity import Ancestor, Identity
from batpak.journal.keyfile import KEY_HEADER_SIZE, KeyHeader
from batpak.journal.record import (
    EAGER,
    RECORD_HEADER_SIZE,
    SPARSE,
    Chain,
    Record,
    build_pad,
    pad8,
    read_record,
    salt_crc,
    seal_commit,
)
from batpak.journal.sidecar import ARRAYS, SIDECAR_PREFIX_SIZE, SidecarHeader, encode_sidecar
from batpak.keyring.files import encode_key_file
from batpak.kinds import EventKind
from batpak.receipt import encode_extensions

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "journal"
PAGE = ROOT / "docs" / "format.md"
VARIABLE = "BATPAK_GOLDEN"

JOURNAL_ID = UUID("6f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0")
ANCESTOR_ID = UUID("0a1b2c3d-4e5f-4a6b-9c7d-8e9fa0b1c2d3")
START_US = 1_750_000_000_000_000
SALT = bytes(range(0xA0, 0xB0))
REWRITTEN_SALT = bytes(range(0xB0, 0xC0))
LATER_SALT = bytes(range(0xC0, 0xD0))
RANDOM = 0x123456789ABCDE0
MULTIPLIER = 0x9E3779B97F4A7C15F39CC0605CEDC835
KEY = bytes.fromhex("c0ffee00000000000000000000000001")
# Of the seed 01…01, whose public key and id are the Rust system's vectors, too.
PUBLIC_KEY = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")
KEY_ID = blake3(PUBLIC_KEY).digest()
SEALING_KEY = bytes(range(0x80, 0xC0))
SEALING_KEY_ID = bytes(range(0x10, 0x20))
CHECKPOINT_ROOT = bytes(range(0x40, 0x60))
CHECKPOINT_NOTE = (
    "example.org/journal\n9\nQEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=\n\n"
    "— example.org/journal AAAAAA==\n"
).encode()
# The id that sequence 5 would get, but for the version: 4 instead of 7.
LOOKALIKE_KEY = bytearray(id_of_hlc(((START_US // 1000 + 3) << 16) + 3, RANDOM))
LOOKALIKE_KEY[6] ^= 0x30


@dataclass(frozen=True, slots=True)
class Field:
    """Some bytes of a vector and what they say; `offset` and `size` in bytes."""

    offset: int
    size: int
    part: str
    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Vector:
    """One golden vector. `results` are hashes that a reader computes from it."""

    name: str
    about: str
    data: bytes
    fields: tuple[Field, ...]
    results: Mapping[str, str] = field(default_factory=dict[str, str])

    def hex_text(self) -> str:
        lines = [self.data[at : at + 32].hex() for at in range(0, len(self.data), 32)]
        return "".join(f"{line}\n" for line in lines)

    def json_text(self) -> str:
        rows = [
            {"offset": f.offset, "size": f.size, "part": f.part, "field": f.field, "value": f.value}
            for f in self.fields
        ]
        head = {"name": self.name, "about": self.about, "size": len(self.data)}
        text = json.dumps({**head, "results": self.results}, ensure_ascii=False, indent=2)
        fields = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows)
        return f'{text[:-2]},\n  "fields": [\n{fields}\n  ]\n}}\n'

    def page_text(self) -> str:
        """The vector as a fenced dump: offset, bytes, field, value."""
        lines = ["```hex"]
        part = ""
        for one in self.fields:
            if one.part != part:
                part = one.part
                lines.append(f"# {part}")
            raw = self.data[one.offset : one.offset + one.size]
            for at in range(0, one.size, 16):
                label = f"{one.field}: {one.value}" if not at else ""
                line = f"{one.offset + at:4}  {raw[at : at + 16].hex(' '):47}  {label}"
                lines.append(line.rstrip())
        lines.extend(f"# {name} = {value}" for name, value in self.results.items())
        return "\n".join([*lines, "```"])


# -- describing bytes -------------------------------------------------------------------------

SEGMENT_FIELDS = (
    "magic 8 text · version 2 number · header_size 2 number · row_size 2 number · "
    "record_header_size 2 number · journal_id 16 id · base_sequence 8 number · "
    "created_us 8 number · compatible 4 number · read_only_compatible 4 number · "
    "incompatible 4 number · generation 4 number · salt 16 bytes · prev_event_hash 32 hash · "
    "epoch 4 number · zero 8 bytes · crc 4 check"
)
RECORD_FIELDS = (
    "magic 4 text · head_crc 4 check · head_len 4 number · body_len 4 number · "
    "body_crc 4 check · prev_crc 4 check · base_sequence 8 number · durable 8 number · "
    "epoch 4 number · count 4 number · type 1 number · version 1 number · flags 2 bits · "
    "zero 8 bytes · header_crc 4 check"
)
ROW_FIELDS = (
    "sequence 8 number · event_id 16 id · correlation_id 16 id · causation_id 16 id · "
    "timestamp_us 8 number · hlc 8 number · clock 4 number · lane 4 number · depth 4 number · "
    "extensions_len 4 number · kind 2 bits · payload_version 2 number · flags 2 bits · "
    "entity_len 2 number · scope_len 2 number · row_version 1 number · codec 1 number · "
    "envelope_len 4 number · zero 8 bytes · content_hash 32 hash · prev_hash 32 hash"
)
HINT_FIELDS = (
    "magic 4 text · crc 4 check · journal_id 16 id · epoch 4 number · zero 4 bytes · "
    "segment_base 8 number · log_end 8 number · durable 8 number · zero 8 bytes"
)
SIDECAR_FIELDS = (
    "magic 8 text · version 2 number · header_size 2 number · array_count 4 number · "
    "journal_id 16 id · base_sequence 8 number · n 8 number · covered 8 number · "
    "durable 8 number · salt 16 bytes · generation 4 number · last_head_crc 4 check · "
    "last_record_offset 8 number · last_hlc 8 number · max_epoch 4 number · "
    "next_sequence 8 number · records 4 number · zero 4 bytes · crc 4 check"
)
KEY_FIELDS = (
    "magic 8 text · version 2 number · header_size 2 number · zero 4 bytes · journal_id 16 id · "
    "bound 8 number · count 8 number · capacity 8 number · multiplier 16 factor · "
    "event_hash 32 hash · digest 16 bytes · zero 4 bytes · crc 4 check"
)


class Describer:
    """Goes through bytes from the first to the last and names each."""

    def __init__(self, data: bytes, hashes: Sequence[bytes] = ()) -> None:
        self.data = data
        self.known = {digest: f"event hash of sequence {n}" for n, digest in enumerate(hashes)}
        self.at = 0
        self.fields: list[Field] = []

    def take(self, size: int, part: str, name: str, value: str) -> bytes:
        raw = self.data[self.at : self.at + size]
        assert len(raw) == size, f"{part} {name} goes beyond the end"
        if size:
            self.fields.append(Field(self.at, size, part, name, value))
            self.at += size
        return raw

    def table(self, part: str, table: str) -> dict[str, int]:
        """Describe a fixed table; returns its numbers."""
        numbers: dict[str, int] = {}
        for entry in table.split(" · "):
            name, size, form = entry.split()
            raw = self.data[self.at : self.at + int(size)]
            numbers[name] = int.from_bytes(raw, "little")
            self.take(int(size), part, name, self.known.get(raw) or _shown(raw, form))
        return numbers

    def done(self) -> tuple[Field, ...]:
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes have no description"
        return tuple(self.fields)


def _shown(raw: bytes, form: str) -> str:
    number = int.from_bytes(raw, "little")
    match form:
        case "number":
            return str(number)
        case "bits":
            return f"{number:#06x}"
        case "check":
            return f"{number:#010x}"
        case "factor":
            return hex(number)
        case "id":
            return str(UUID(bytes=raw)) if any(raw) else "none"
        case "text":
            return ascii(raw.decode("latin-1"))
        case _:
            shown = "hash of the envelope" if form == "hash" else f"{len(raw)} bytes"
            return shown if any(raw) else "zeros"


def describe_record(data: bytes, out: Describer, first: int = 0) -> None:
    """Describe one record that ends where the bytes of `out` may go on."""
    begin = out.at
    header = out.table("header", RECORD_FIELDS)
    count = header["count"]
    rows = [out.table(f"row {first + i}", ROW_FIELDS) for i in range(count)]
    for i, row in enumerate(rows):
        part = f"metadata {first + i}"
        for name in ("entity", "scope"):
            size = row[f"{name}_len"]
            out.take(size, part, name, out.data[out.at : out.at + size].decode())
        describe_map(out, row["extensions_len"], part)
    head_end = begin + RECORD_HEADER_SIZE + header["head_len"]
    out.take(head_end - out.at, "end of the head", "padding", "zeros")
    stored = [row["envelope_len"] for row in rows]
    if header["flags"] & SPARSE:
        for i, row in enumerate(rows):
            (length,) = struct.unpack_from("<I", out.data, out.at)
            state = {0: "erased", 0xFFFFFFFF: "archived"}.get(length, "present")
            if length == row["envelope_len"]:
                state = "present"
            else:
                stored[i] = 0
            out.take(4, "stored lengths", f"stored_len {first + i}", f"{length:#x}, {state}")
        table = 4 * count
        out.take(len(pad8(table)), "stored lengths", "padding", "zeros")
    for i, row in enumerate(rows):
        part, size = f"envelope {first + i}", stored[i]
        if row["codec"] == CODEC_SALTED and size:
            out.take(16, part, "salt", "16 bytes")
            size -= 16
        out.take(size, part, "payload", f"{size} bytes")
    end = head_end + header["body_len"]
    out.take(end - out.at, "end of the body", "padding", "zeros")
    assert len(data) >= end - begin, "the record is longer than its bytes"


def describe_map(out: Describer, size: int, part: str) -> None:
    """Describe a small MessagePack map: its head, each key, each value."""
    if not size:
        return
    end = out.at + size
    entries = canonical.decode(out.data[out.at : end])
    out.take(1, part, "map", f"{len(entries)} entries")
    for key, value in entries.items():
        out.take(len(canonical.encode(key)), part, "key", key)
        shown = value.hex() if isinstance(value, bytes) else str(value)
        out.take(len(canonical.encode(value)), part, "value", shown)
    assert out.at == end, "the map is not what was decoded"


def describe_tree(out: Describer, value: object, part: str, name: str = "value") -> None:
    """Describe a value of canonical MessagePack, each head and each leaf by its own line."""
    size = len(canonical.encode(value))
    match value:
        case dict():
            assert len(value) < 16, "the map has a longer head"
            out.take(1, part, name, f"map, {len(value)} entries")
            for key, inner in value.items():
                out.take(len(canonical.encode(key)), part, "key", str(key))
                describe_tree(out, inner, part, str(key))
        case list() if all(type(inner) is int for inner in value) and len(value) == 32:
            out.take(size, part, name, "array, 32 items: a hash")
        case list():
            assert len(value) < 16, "the array has a longer head"
            out.take(1, part, name, f"array, {len(value)} items")
            for place, inner in enumerate(value):
                describe_tree(out, inner, part, f"{name}[{place}]")
        case _:
            out.take(size, part, name, "nil" if value is None else str(value))


# -- building bytes ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """What is chosen about an event; the rest follows from where it stands."""

    entity: str
    scope: str
    kind: int
    payload_version: int
    codec: int
    payload: bytes
    flags: int = 0
    lane: int = 0
    depth: int = 0
    extensions: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    key: bytes | None = None
    caused_by: int | None = None


class Journal:
    """Events in commits, as rows and hashes; then any number of segments from them."""

    def __init__(self) -> None:
        self.sequence = 0
        self.ms = START_US // 1000
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.ids: list[bytes] = []
        self.correlations: list[bytes] = []
        self.hashes: list[bytes] = []
        self.commits: list[tuple[int, int, list[bytes], list[bytes], list[bytes]]] = []

    def commit(self, durable: int, flags: int, drafts: Sequence[Draft]) -> None:
        self.ms += 1
        rows: list[bytes] = []
        metadata: list[bytes] = []
        envelopes: list[bytes] = []
        for place, draft in enumerate(drafts):
            where = Coordinate(draft.entity, draft.scope)
            entity, scope = where.entity_bytes, where.scope_bytes
            extensions = encode_extensions(draft.extensions)
            salt = bytes(range(16 * self.sequence, 16 * self.sequence + 16))
            envelope = (salt if draft.codec == CODEC_SALTED else b"") + draft.payload
            hlc = (self.ms << 16) + place
            clock, previous = self.heads.get(entity, (0, NO_HASH))
            event_id = draft.key or id_of_hlc(hlc, RANDOM + self.sequence)
            cause = draft.caused_by
            correlation = event_id if cause is None else self.correlations[cause]
            row = ROW.pack(
                self.sequence, event_id, correlation, NO_ID if cause is None else self.ids[cause],
                self.ms * 1000, hlc, clock, draft.lane, draft.depth, len(extensions), draft.kind,
                draft.payload_version, draft.flags | (FLAG_KEYED if draft.key else 0),
                len(entity), len(scope), 1, draft.codec, len(envelope), 0,
                content_hash(draft.codec, envelope), previous,
            )  # fmt: skip
            digest = event_hash(row, entity + scope + extensions)
            self.heads[entity] = (clock + 1, digest)
            self.ids.append(event_id)
            self.correlations.append(correlation)
            self.hashes.append(digest)
            rows.append(row)
            metadata.append(entity + scope + extensions)
            envelopes.append(envelope)
            self.sequence += 1
        self.commits.append((durable, flags, rows, metadata, envelopes))

    def records(self, header: SegmentHeader, gone: Mapping[int, int]) -> tuple[list[bytes], Chain]:
        """All commits as the records of one segment, and where they end.

        `gone` maps a sequence to the stored length that says why its envelope is absent.
        """
        state = salt_crc(header.salt)
        chain = Chain(HEADER_SIZE, header.base_sequence, crc_of(header), header.epoch)
        result: list[bytes] = []
        for durable, flags, rows, metadata, envelopes in self.commits:
            numbers = range(chain.sequence, chain.sequence + len(rows))
            body = envelopes
            if gone.keys() & set(numbers):
                lengths = [gone.get(n, len(e)) for n, e in zip(numbers, envelopes, strict=True)]
                table = struct.pack(f"<{len(rows)}I", *lengths)
                kept = [e for n, e in zip(numbers, envelopes, strict=True) if n not in gone]
                body, flags = [table + pad8(len(table)), *kept], flags | SPARSE
            data, head_crc, _ = seal_commit(
                state, chain.offset, b"".join(rows + metadata), b"".join(body), chain.prev_crc,
                chain.sequence, durable, header.epoch, len(rows), flags,
            )  # fmt: skip
            chain = Chain(chain.offset + len(data), numbers.stop, head_crc, header.epoch)
            result.append(data)
        pad, head_crc = build_pad(state, chain, chain.sequence, header.epoch)
        chain = Chain(chain.offset + len(pad), chain.sequence, head_crc, header.epoch)
        return [*result, pad], chain


def crc_of(header: SegmentHeader) -> int:
    return int.from_bytes(header.encode()[124:], "little")


def example() -> Journal:
    """An open, one event, a batch of four, a close."""
    journal = Journal()
    store, scope = system.LIFECYCLE.entity, system.LIFECYCLE.scope

    def lifecycle(durable: int, prepared: Any) -> None:
        draft = Draft(store, scope, prepared.kind, 1, CODEC_PLAIN, prepared.envelope)
        journal.commit(durable, 0, [draft])

    lifecycle(0, system.open_event(epoch=1, resumed_at=0, cut_bytes=0))
    payload = canonical.encode({"open": True})
    journal.commit(1, 0, [Draft("door:1", "house", 0xF001, 1, CODEC_SALTED, payload)])
    journal.commit(2, EAGER, [
        Draft("door:1", "house", 0xF001, 1, CODEC_SALTED, canonical.encode({"open": False}),
              flags=1, extensions={"acme.trace": b"\x01\x02\x03"}),
        Draft("lamp:küche", "house", 0xE002, 0, CODEC_PLAIN, b"\x00raw", lane=3, depth=2,
              key=KEY, caused_by=2),
        Draft("lamp:küche", "garden", 0xE002, 0, CODEC_PLAIN, b"",
              extensions={"acme.b": b"", "acme.a": b"\xff"}),
        Draft("door:2", "house", 0xF001, 1, CODEC_SALTED, canonical.encode({"open": True}),
              key=bytes(LOOKALIKE_KEY)),
    ])  # fmt: skip
    lifecycle(2, system.close_event(epoch=1, events=6))
    return journal


def build() -> dict[str, Vector]:
    """All vectors, by name. The first six, joined in this order, are a whole segment."""
    journal = example()
    header = SegmentHeader(JOURNAL_ID.bytes, 0, START_US, SALT, NO_HASH, 1)
    records, end = journal.records(header, {})
    made: list[Vector] = [
        _header("segment-header", "The header of a journal's first segment.", header, journal)
    ]
    first = 0
    places: list[int] = []
    offset = HEADER_SIZE
    for name, about, data in zip(
        ("open-record", "single-commit", "batch-record", "close-record", "pad"),
        (
            "The record of the open event, the first in the segment: one event, codec 0.",
            "A commit of one event with a salted payload, not EAGER: durable is 1 when it is made.",
            "A commit of four events, EAGER: two entities with two events or names beside ASCII, "
            "extensions, flags, an empty payload, codecs 0 and 1, and two idempotency keys; the "
            "second gives the hlc of its own row, but its version is not 7.",
            "The record of the close event.",
            "The pad that ends a clean close.",
        ),
        records,
        strict=True,
    ):
        made.append(_record(name, f"{about} It stands at offset {offset}.", data, first, journal))
        places.append(offset)
        offset += len(data)
        first += struct.unpack_from("<I", data, 44)[0]
    later = SegmentHeader(
        JOURNAL_ID.bytes, journal.sequence, START_US + 60_000_000, LATER_SALT, journal.hashes[-1], 2
    )
    made.append(
        _header(
            "later-segment-header", "The segment after it, of the second epoch.", later, journal
        )
    )
    rewritten = SegmentHeader(
        JOURNAL_ID.bytes, 0, START_US, REWRITTEN_SALT, NO_HASH, 1, generation=1
    )
    sparse, _ = journal.records(rewritten, {2: 0, 3: 0xFFFFFFFF})
    made.append(
        _header(
            "rewritten-header",
            "The first segment rewritten: generation and salt.",
            rewritten,
            journal,
        )
    )
    for name, about, data, begins in zip(
        ("rewritten-open-record", "rewritten-single-commit", "sparse-record",
         "rewritten-close-record", "rewritten-pad"),
        (
            "The open event's record in the rewritten segment: only checksums differ.",
            "The single event's record in the rewritten segment: only checksums differ.",
            "The batch in the rewritten segment, SPARSE and EAGER: 2 is erased, 3 moved to "
            "an archive, 4 present and empty, 5 present. The head is the same byte for byte.",
            "The close event's record in the rewritten segment.",
            "The last pad in the rewritten segment.",
        ),
        sparse,
        (0, 1, 2, 6, 7),
        strict=True,
    ):  # fmt: skip
        made.append(_record(name, about, data, begins, journal))
    hint = Hint(JOURNAL_ID.bytes, 1, 0, end.offset, end.sequence).encode()
    out = Describer(hint)
    out.table("hint", HINT_FIELDS)
    made.append(Vector("tail-hint", "The hint after the clean close.", hint, out.done()))
    segment = b"".join([header.encode(), *records])
    made.append(_sidecar(segment, header, journal.sequence))
    made.append(_key_table(segment, header, journal))
    made += _identities()
    made += [
        _payload("open-payload", "An open event's payload.",
                 system.open_event(epoch=1, resumed_at=0, cut_bytes=0).envelope),
        _payload("open-payload-after-cut", "The payload of an open that cut a torn tail.",
                 system.open_event(epoch=300, resumed_at=70_000, cut_bytes=5_000_000_000).envelope),
        _payload("close-payload", "A close event's payload.",
                 system.close_event(epoch=1, events=6).envelope),
        _payload("repaired-payload", "The payload of 0x0018 after a repair.",
                 system.repaired_event(from_journal=JOURNAL_ID.bytes, at=5, until=7).envelope),
        _payload("restored-payload", "The payload of 0x0018 in a journal made from a snapshot.",
                 system.history_event("restored", from_journal=ANCESTOR_ID.bytes, at=7, until=7)
                 .envelope),
        _payload("forked-payload", "The payload of 0x0018 in a fork.",
                 system.history_event("forked", from_journal=ANCESTOR_ID.bytes, at=7, until=7)
                 .envelope),
        _manifest(segment, hint, journal),

        _payload("checkpoint-payload", "The payload of 0x0013.",
                 system.checkpoint_event(size=9, root=CHECKPOINT_ROOT, note=CHECKPOINT_NOTE)
                 .envelope),
        _payload("key-added-payload", "The payload of 0x0015.",
                 system.key_added_event(key_id=KEY_ID, public_key=PUBLIC_KEY).envelope),
        _payload("key-retired-payload", "The payload of 0x0016.",
                 system.key_retired_event(key_id=KEY_ID, reason="lost").envelope),
    ]  # fmt: skip
    made += _denials()
    made += _erasures()
    made += _encryption()
    return {vector.name: vector for vector in made}


def _header(name: str, about: str, header: SegmentHeader, journal: Journal) -> Vector:
    data = header.encode()
    out = Describer(data, journal.hashes)
    out.table("header", SEGMENT_FIELDS)
    return Vector(name, about, data, out.done())


def _record(name: str, about: str, data: bytes, first: int, journal: Journal) -> Vector:
    out = Describer(data, journal.hashes)
    describe_record(data, out, first)
    count = struct.unpack_from("<I", data, 44)[0]
    results = {f"event_hash {n}": journal.hashes[n].hex() for n in range(first, first + count)}
    return Vector(name, about, data, out.done(), results)


def _payload(name: str, about: str, data: bytes) -> Vector:
    out = Describer(data)
    describe_map(out, len(data), "payload")
    return Vector(name, about, data, out.done())


def _denials() -> list[Vector]:
    """Payloads of denial events: as of a named pipeline, and with all that may be there."""
    blocked = Denial("deny_gate", "blocked", code="BLOCKED", context={"reason": "test"})
    large = Denial("size limit", "zu groß", context=[("bytes", "5000"), ("bytes", "9")])
    digest = bytes(range(0x70, 0x90))
    made: list[Vector] = []
    for name, about, payload in (
        (
            "denial-payload",
            "The payload of a denial: of three gates the second denied, so the third was not "
            "asked. The proposal was of kind 0xA009.",
            DenialPayload(
                (
                    Evaluation("allow_all", Verdict.PERMIT),
                    Evaluation("deny_gate", Verdict.DENY, blocked),
                    Evaluation("z", Verdict.SKIPPED),
                ),
                EventKind(0xA, 9),
                "pipeline:test",
            ),
        ),
        (
            "denial-payload-with-hash",
            "The payload of a denial without a code and without a pipeline, with text beside "
            "ASCII, a key that comes twice, and the hash of what was proposed.",
            DenialPayload(
                (Evaluation(large.gate, Verdict.DENY, large),),
                EventKind(0xF, 1),
                proposed_content_hash=digest,
            ),
        ),
    ):
        out = Describer(payload.encode())
        describe_tree(out, canonical.decode(out.data), "payload", "payload")
        made.append(Vector(name, about, out.data, out.done()))
    return made


def _erasures() -> list[Vector]:
    """Payloads of an erasure and of the compaction after it."""
    made: list[Vector] = []
    for name, about, prepared in (
        (
            "erasure-payload",
            "The payload of an erasure: event 2, events 5 to 7 and event 70 000.",
            system.erasure_event([(2, 3), (5, 8), (70_000, 70_001)], "request 17"),
        ),
        (
            "compaction-payload",
            "The payload of a compaction: the segments 0 and 300 in generations 1 and 2.",
            system.compaction_event([(0, 1), (300, 2)], payloads=5, size=4096),
        ),
    ):
        out = Describer(prepared.envelope)
        describe_tree(out, canonical.decode(out.data), "payload", "payload")
        made.append(Vector(name, about, out.data, out.done()))
    return made


class _OneKey:
    """A keyring with the one key of the vectors."""

    places = ()

    def key_for(self, coordinate: Coordinate, kind: int, key: bytes | None) -> bytes:
        return SEALING_KEY_ID

    def load(self, key_id: bytes) -> bytes:
        return SEALING_KEY

    def destroy(self, key_id: bytes) -> bool:
        return False


def _encryption() -> list[Vector]:
    """The envelope of codec 2, the event that shreds its key, and a keyring's file."""
    where, payload = Coordinate("door:1", "house"), canonical.encode({"open": True})
    sealing = Vault(_OneKey()).sealing(where, 0xF001, 1, payload, KEY)
    envelope, digest = sealing.sealed(KEY)
    out = Describer(envelope)
    for size, name in ((16, "key_id"), (16, "key_commit"), (16, "V")):
        out.take(size, "envelope", name, f"{size} bytes")
    out.take(len(payload), "envelope", "ciphertext", f"{len(payload)} bytes")
    results = {
        "key": SEALING_KEY.hex(),
        "associated data": (KEY + sealing.names).hex(),
        "payload": payload.hex(),
        "content_hash": digest.hex(),
    }
    about = (
        "The envelope of codec 2 of an event with an idempotency key: entity door:1, scope house, "
        "kind 0xf001, payload version 1."
    )
    vector = Vector("encrypted-envelope", about, envelope, out.done(), results)
    file = encode_key_file(SEALING_KEY_ID, SEALING_KEY, START_US)
    out = Describer(file)
    for size, name, value in (
        (8, "magic", "BATPKY, 01, 0a"), (16, "key_id", SEALING_KEY_ID.hex()),
        (8, "created_us", str(START_US)), (4, "length", "64"), (4, "crc", "of all but itself"),
        (64, "key", "64 bytes"),
    ):  # fmt: skip
        out.take(size, "file", name, value)
    return [
        vector,
        _payload(
            "key-shredded-payload",
            "The payload of 0x0017.",
            system.key_shredded_event(key_id=SEALING_KEY_ID).envelope,
        ),
        Vector("key-file", "The file of that key in a keyring.", file, out.done()),
    ]


def _manifest(segment: bytes, hint: bytes, journal: Journal) -> Vector:
    """The manifest of a snapshot of the first segment, with a cursor beside it."""
    identity = Identity(1, JOURNAL_ID, START_US, "example.org/doors")
    contents = {
        "segments/00000000000000000000.seg": segment,
        "journal.json": identity.encode(),
        "tail.hint": hint,
        "cursors/mailer": b"progress",
    }
    entries = [FileEntry(n, len(d), blake3(d).hexdigest()) for n, d in contents.items()]
    data = Manifest.of(
        JOURNAL_ID, identity.origin, START_US + 90_000_000, journal.sequence, journal.hashes[-1],
        entries,
    ).encode()  # fmt: skip
    out = Describer(data)
    for line in data.splitlines(keepends=True):
        out.take(len(line), "file", "line", line.decode().strip())
    about = "manifest.json of a snapshot of the journal that the vectors above make."
    return Vector("manifest", about, data, out.done())


def _identities() -> list[Vector]:
    own = Identity(1, JOURNAL_ID, START_US, "example.org/doors")
    fork = Identity(1, JOURNAL_ID, START_US, "example.org/fork", (Ancestor(ANCESTOR_ID, 7),))
    made: list[Vector] = []
    for name, about, identity in (
        ("journal-json", "journal.json as this library writes it.", own),
        ("journal-json-fork", "journal.json of a fork.", fork),
    ):
        data = identity.encode()
        out = Describer(data)
        for line in data.splitlines(keepends=True):
            out.take(len(line), "file", "line", line.decode().strip())
        made.append(Vector(name, about, data, out.done()))
    return made


def _part(segment: bytes, header: SegmentHeader) -> tuple[GrowingPart, Chain, int, int, int]:
    """The index of a segment, where its records end, and what a sidecar says of the last."""
    part = GrowingPart(0)
    chain = Chain(HEADER_SIZE, 0, crc_of(header), header.epoch)
    last = hlc = records = 0
    heads: dict[bytes, tuple[int, bytes]] = {}

    def read(offset: int, length: int) -> bytes:
        return segment[offset : offset + length]

    while chain.offset < len(segment):
        record = read_record(read, len(segment), chain, salt_crc(header.salt))
        assert isinstance(record, Record), record
        if record.rows:
            apply_record(record, read, part, heads)
            hlc = record.rows[-1].hlc
        last, chain, records = record.offset, record.chain, records + 1
    return part, chain, last, hlc, records


def _sidecar(segment: bytes, header: SegmentHeader, durable: int) -> Vector:
    part, chain, last, hlc, records = _part(segment, header)
    arrays = part.columns(chain.sequence).arrays()
    sidecar = SidecarHeader(
        header.journal_id, 0, chain.sequence, chain.offset, durable, header.salt, 0,
        chain.prev_crc, last, hlc, header.epoch, records,
    )  # fmt: skip
    data = encode_sidecar(sidecar, arrays)
    out = Describer(data)
    out.table("header", SIDECAR_FIELDS)
    for number, name in enumerate(ARRAYS):
        for what, size in (("offset", 8), ("length", 8)):
            value = int.from_bytes(data[out.at : out.at + size], "little")
            out.take(size, f"table {number}: {name}", what, str(value))
        out.take(16, f"table {number}: {name}", "hash", "first 16 of BLAKE3 of the array")
    assert out.at == SIDECAR_PREFIX_SIZE
    for number, name in enumerate(ARRAYS):
        array = arrays[name]
        out.take(len(array), f"array {number}", name, _elements(name, array))
        out.take(len(pad8(len(array))), f"array {number}", "space", "zeros")
    about = "The sidecar of the segment that the records above make."
    return Vector("sidecar", about, data, out.done())


def _key_table(segment: bytes, header: SegmentHeader, journal: Journal) -> Vector:
    part, *_ = _part(segment, header)
    table = KeyTable(capacity_for(2), MULTIPLIER)
    assert table.add(part.foreign_entries(), 0, 0)
    digest = blake3(table.data).digest()[:16]
    data = KeyHeader(
        header.journal_id, journal.sequence, table.count, table.capacity, MULTIPLIER,
        journal.hashes[-1], digest,
    ).encode() + bytes(table.data)  # fmt: skip
    out = Describer(data, journal.hashes)
    out.table("header", KEY_FIELDS)
    assert out.at == KEY_HEADER_SIZE
    while out.at < len(data):
        first = (out.at - KEY_HEADER_SIZE) // 8
        (slot,) = struct.unpack_from("<Q", data, out.at)
        if slot:
            tag, sequence = slot >> 40, (slot & 0xFFFFFFFFFF) - 1
            out.take(8, "slots", f"slot {first}", f"tag {tag:#08x}, sequence {sequence}")
            continue
        empty = (len(data[out.at :]) - len(data[out.at :].lstrip(b"\0"))) // 8
        name = f"slot {first}" if empty == 1 else f"slots {first} to {first + empty - 1}"
        out.take(8 * empty, "slots", name, "empty")
    about = "The key table of the journal that the records above make, with two foreign ids."
    return Vector("key-table", about, data, out.done())


def _elements(name: str, array: bytes) -> str:
    if name == "event_hash":
        return f"{len(array) // 32} hashes"
    if name == "foreign_id":
        ids = [f"{UUID(bytes=raw)} row {row}" for raw, row in struct.iter_unpack("<16sI4x", array)]
        return ", ".join(ids)
    if name.endswith("_text"):
        return array.decode()
    form = {"kind": "H", "kind_value": "H", "hlc": "Q"}.get(name, "I")
    numbers = [number for (number,) in struct.iter_unpack(f"<{form}", array)]
    return ", ".join(f"{number:#x}" if form == "H" else str(number) for number in numbers)


# -- files ------------------------------------------------------------------------------------


def files(vectors: Mapping[str, Vector]) -> dict[Path, str]:
    """What should stand in tests/golden/journal."""
    result: dict[Path, str] = {}
    for vector in vectors.values():
        result[FOLDER / f"{vector.name}.hex"] = vector.hex_text()
        result[FOLDER / f"{vector.name}.json"] = vector.json_text()
    return result


def page(text: str, vectors: Mapping[str, Vector]) -> str:
    """docs/format.md with a dump below each of its marks `<!-- golden:NAME -->`."""

    def dump(match: re.Match[str]) -> str:
        vector = vectors[match[1]]
        mark = f"<!-- golden:{vector.name} -->"
        about = textwrap.fill(vector.about, 92)
        return f"{mark}\n\n{about}\n\n{vector.page_text()}\n\n<!-- end of {vector.name} -->"

    marks = r"<!-- golden:([a-z-]+) -->(?:\n(?:(?!<!-- golden:).*\n)*?<!-- end of \1 -->)?"
    return re.sub(marks, dump, text)


def differences(should: Mapping[Path, str]) -> list[str]:
    """A unified diff from what is there to what should be; empty when they are the same."""
    lines: list[str] = []
    for path, text in should.items():
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        lines += difflib.unified_diff(
            there.splitlines(True), text.splitlines(True), str(path), "rebuilt", n=1
        )
    for folder in sorted({path.parent for path in should if path.suffix == ".hex"}):
        for path in sorted(folder.glob("*")):
            if path not in should:
                lines.append(f"{path}: no vector has this name\n")
    return lines


def wanted() -> dict[Path, str]:
    """Every file that this program keeps, with the text that it should have."""
    vectors = build()
    return {**files(vectors), PAGE: page(PAGE.read_text(encoding="utf-8"), vectors)}


def settle(should: Mapping[Path, str], *, write: bool) -> int:
    """Show what differs, and write it only when told to. Returns the exit status."""
    lines = differences(should)
    sys.stdout.writelines(lines)
    if not lines:
        print(f"{len(should)} files are up to date")
        return 0
    if not write:
        print(f"\nnothing was written; if the format is meant to change: {VARIABLE}=write")
        return 1
    for path, text in should.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"\n{len(should)} files were written")
    return 0


if __name__ == "__main__":
    sys.exit(settle(wanted(), write=os.environ.get(VARIABLE) == "write"))
