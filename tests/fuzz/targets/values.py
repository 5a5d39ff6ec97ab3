"""The decoders of values: canonical MessagePack, extensions, names, ids, kinds, receipts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec

from batpak import canonical, receipt
from batpak.coordinate import Coordinate, name_from_path
from batpak.engine.system import MAX_RUNS, erased_by, erasure_event
from batpak.errors import (
    CanonicalError,
    CoordinateError,
    ExtensionError,
    IdError,
    InvalidInput,
    KindError,
)
from batpak.event import decode_extensions
from batpak.gates import DenialPayload
from batpak.ids import CausationId, CorrelationId, EventId, Id128, IdempotencyKey
from batpak.kinds import EventKind
from batpak.outcome import Outcome
from batpak.receipt import AppendReceipt, encode_extensions
from tests.fuzz.target import target


def named(error: CanonicalError) -> None:
    """A refusal says what is wrong."""
    assert error.what
    assert error.code == "canonical"


@target()
def canonical_lenient(data: bytes) -> None:
    """CanonicalError, or a value; a value is written again as bytes that read as the same.

    Where it can't be written (a key that no writer of ours would use), that is a
    CanonicalError too. Never another exception.
    """
    try:
        value = canonical.decode(data)
    except CanonicalError as error:
        named(error)
        return
    try:
        again = canonical.encode(value)
    except CanonicalError as error:
        named(error)
        return
    # Compared as bytes: a NaN is not equal to itself.
    assert canonical.encode(canonical.decode(again)) == again
    assert canonical.encode(canonical.decode(again, strict=True)) == again


@target()
def canonical_strict(data: bytes) -> None:
    """CanonicalError, or a value whose canonical bytes are exactly the input.

    What strict reading accepts, tolerant reading accepts as the same value.
    """
    try:
        value = canonical.decode(data, strict=True)
    except CanonicalError as error:
        named(error)
        return
    assert canonical.encode(value) == data
    assert canonical.encode(canonical.decode(data)) == data


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Everything(msgspec.Struct, frozen=True):
    text: str
    number: int
    real: float
    flag: bool
    raw: bytes
    moment: datetime
    name: UUID
    price: Decimal
    colour: Colour
    place: Coordinate
    event: EventId
    point: Point
    many: list[Point]
    table: dict[str, int]
    pair: tuple[int, str]
    choice: Literal["a", "b", 3] = "a"
    either: int | str | None = None
    anything: Any = None


@dataclass(frozen=True)
class Tree:
    name: str
    children: "list[Tree]"  # noqa: UP037  # the class that is being defined


TYPES: tuple[Any, ...] = (
    Everything,
    Tree,
    Point,
    dict[str, bytes],
    dict[int, list[str]],
    list[Point | None],
    datetime,
    bytes,
    float,
    Coordinate,
    EventKind,
    Any,
)


@target()
def canonical_typed(data: bytes) -> None:
    """CanonicalError, or a value of the type; it is written as bytes that read as the same.

    A value that has no canonical form is refused by CanonicalError. An error of a class
    that reads itself (a coordinate, an id) may come through as InvalidInput.
    """
    if not data:
        return
    wanted, raw = TYPES[data[0] % len(TYPES)], data[1:]
    try:
        value: Any = canonical.decode(raw, wanted)
        again = canonical.codec_for(wanted).encode(value)
    except CanonicalError as error:
        named(error)
        return
    other: Any = canonical.decode(again, wanted)
    assert canonical.codec_for(wanted).encode(other) == again


@target()
def extensions(data: bytes) -> None:
    """CanonicalError, or names with their bytes; where every name keeps the rules, writing
    them gives bytes that read as the same, and the very input if that was canonical.
    """
    try:
        found = decode_extensions(data)
    except CanonicalError as error:
        named(error)
        return
    assert all(type(k) is str and type(v) is bytes for k, v in found.items())
    try:
        again = encode_extensions(found, reserved_allowed=True)
    except (ExtensionError, CanonicalError):
        return
    assert dict(decode_extensions(again)) == dict(found)
    assert len(again) <= receipt.MAX_EXTENSIONS_BYTES


IDS: tuple[type[Id128], ...] = (EventId, CorrelationId, CausationId, IdempotencyKey)


@target(max_bytes=128)
def ids(data: bytes) -> None:
    """IdError, or an id that its own text and its own bytes give again.

    A text is an id of one type at most; other lengths than 16 bytes are no id.
    """
    text = data.decode("utf-8", "surrogateescape")
    taken = 0
    for kind in IDS:
        try:
            found = kind.parse(text)
        except IdError as error:
            assert error.field == kind.name
            continue
        taken += 1
        assert kind.parse(str(found)) == found
        assert kind.from_bytes(found.bytes) == found
        assert kind(found.value) == found
    assert taken <= 1
    try:
        raw = EventId.from_bytes(data)
    except IdError:
        assert len(data) != 16
        return
    assert raw.bytes == data
    assert EventId.parse(str(raw)) == raw


@target(max_bytes=4096)
def coordinates(data: bytes) -> None:
    """CoordinateError with a reason, or names that are themselves again from text and bytes.

    Any path has a name, and the name is a valid entity; two paths, two names.
    """
    name = name_from_path(data)
    assert Coordinate(name, "scope").entity == name
    assert name_from_path(data[:-1] + b"\x01\x02") != name or data.endswith(b"\x01\x02")
    text = data.decode("utf-8", "surrogateescape")
    entity, _, scope = data.partition(b"@")
    for parsed in (lambda: Coordinate.parse(text), lambda: Coordinate.from_stored(entity, scope)):
        try:
            found = parsed()
        except CoordinateError as error:
            assert error.reason
            continue
        assert Coordinate.from_stored(found.entity_bytes, found.scope_bytes) == found
        assert 0 < len(found.entity_bytes) <= 1024
        assert 0 < len(found.scope_bytes) <= 1024
        assert not set(b"/|=\x00\n\x7f") & set(found.entity_bytes + found.scope_bytes)
        if str(found).count("@") == 1:
            assert Coordinate.parse(str(found)) == found


@target(max_bytes=16)
def kinds(data: bytes) -> None:
    """KindError, or a kind that its number, its parts and its text give again."""
    number = int.from_bytes(data, "little", signed=True)
    try:
        kind = EventKind.from_raw(number)
    except KindError:
        assert not 0 <= number <= 0xFFFF
        return
    assert kind.raw == number == kind.category << 12 | kind.type_id
    assert int(str(kind), 16) == number
    try:
        assert EventKind(kind.category, kind.type_id) is kind
    except KindError:
        assert kind.is_reserved


@target(max_bytes=8192)
def receipts(data: bytes) -> None:
    """InvalidInput naming a field, or a receipt that is itself again after being written.

    The written text is one line, and stays the same when it is read and written again.
    """
    for text in (data, data.decode("utf-8", "replace"), data.decode("utf-8", "surrogateescape")):
        try:
            found = AppendReceipt.from_json(text)
        except InvalidInput as error:
            assert error.what
            continue
        line = found.to_json()
        again = AppendReceipt.from_json(line)
        assert again == found
        assert again.to_json() == line
        assert "\n" not in line
        assert 0 <= found.sequence < 2**63
        assert len(found.event_hash) == len(found.prev_hash) == len(found.commitment) == 32


@target()
def erasure_payloads(data: bytes) -> None:
    """CanonicalError, or runs below the event that a writer can name with the same payload."""
    sequence = int.from_bytes(data[:8], "big")
    try:
        runs = erased_by(data[8:], sequence)
    except CanonicalError as error:
        named(error)
        return
    pairs = list(runs)
    assert 1 <= len(pairs) <= MAX_RUNS
    assert 0 <= pairs[0][0] < pairs[-1][1] <= sequence
    assert erased_by(erasure_event(pairs, "again").envelope, sequence) == runs


@target()
def denials(data: bytes) -> None:
    """CanonicalError, or a denial that is itself again after being written."""
    try:
        found = DenialPayload.decode(data)
    except CanonicalError as error:
        named(error)
        return
    assert DenialPayload.decode(found.encode()) == found


@target(max_bytes=8192)
def outcomes(data: bytes) -> None:
    """CanonicalError or InvalidInput, or an outcome that is itself again, in both forms.

    What has no JSON form (a NaN) is refused by InvalidInput.
    """
    found: Any = None
    try:
        found = canonical.decode(data, Outcome)
    except CanonicalError as error:
        named(error)
    if found is not None:
        again: Any = canonical.decode(canonical.encode(found), Outcome)
        assert canonical.encode(again) == canonical.encode(found)
    for text in (data, data.decode("utf-8", "replace"), data.decode("utf-8", "surrogateescape")):
        try:
            read = Outcome.from_json(text)
            line = read.to_json()
        except InvalidInput:
            continue
        assert Outcome.from_json(line).to_json() == line
