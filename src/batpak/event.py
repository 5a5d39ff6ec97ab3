"""One event: its 176-byte row, its hashes, its envelope, and the value that readers hold.

Bytes in, values out; no I/O. Every width, offset and preimage of a row stands here
once. Format: docs/format.md, "Row" and "Envelope".
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from blake3 import blake3

from batpak import canonical, payloads
from batpak.coordinate import Coordinate
from batpak.errors import (
    InvalidInput,
    JournalCorrupt,
    KeyUnavailable,
    KindMismatch,
    PayloadDetached,
    PayloadErased,
    PayloadShredded,
    PayloadUnreadable,
)
from batpak.ids import CausationId, CorrelationId, EventId
from batpak.kinds import EventKind

__all__ = [
    "CODEC_ENCRYPTED",
    "CODEC_PLAIN",
    "CODEC_SALTED",
    "CONTENT_PREFIX",
    "EVENT_PREFIX",
    "FLAG_KEYED",
    "NO_HASH",
    "NO_ID",
    "ROW",
    "ROW_CONTENT",
    "ROW_PLACE",
    "ROW_SIZE",
    "SALT_SIZE",
    "SEALED_OVERHEAD",
    "Event",
    "EventSummary",
    "PayloadState",
    "Position",
    "Row",
    "content_hash",
    "decode_extensions",
    "event_hash",
    "hlc_of_id",
    "id_of_hlc",
    "is_foreign",
    "open_envelope",
]

T = TypeVar("T")

ROW_SIZE: Final = 176
_PLACE = "Q16s16s16sqQI"
_CONTENT = "IIIHHHHHBBIQ32s"
ROW: Final = struct.Struct(f"<{_PLACE}{_CONTENT}32s")
ROW_PLACE: Final = struct.Struct(f"<{_PLACE}")
"""Where an event stands: sequence to clock, the row's first 76 bytes."""
ROW_CONTENT: Final = struct.Struct(f"<{_CONTENT}")
"""What it says whatever its place: lane to content_hash, 68 bytes. Then prev_hash."""
ROW_VERSION: Final = 1
SALT_SIZE: Final = 16
NO_HASH: Final = bytes(32)
NO_ID: Final = bytes(16)
FLAG_KEYED: Final = 0x100

CODEC_PLAIN: Final = 0
CODEC_SALTED: Final = 1
CODEC_ENCRYPTED: Final = 2
SEALED_OVERHEAD: Final = 48
"""What encryption adds to a payload: key id, commitment to the key, synthetic IV."""

EVENT_PREFIX: Final = b"batpak/event/v1\0"
CONTENT_PREFIX: Final[dict[int, bytes]] = {
    codec: b"batpak/content/v1\0" + bytes([codec]) for codec in range(256)
}
"""Content-hash preimage prefix by codec: append the envelope, then hash."""


class Row(NamedTuple):
    """A decoded row; fields as in docs/format.md, ids and hashes as bytes."""

    sequence: int
    event_id: bytes
    correlation_id: bytes
    causation_id: bytes
    timestamp_us: int
    hlc: int
    clock: int
    lane: int
    depth: int
    extensions_len: int
    kind: int
    payload_version: int
    flags: int
    entity_len: int
    scope_len: int
    row_version: int
    codec: int
    envelope_len: int
    reserved: int
    content_hash: bytes
    prev_hash: bytes

    @property
    def metadata_len(self) -> int:
        """Bytes of entity, scope and extensions together."""
        return self.entity_len + self.scope_len + self.extensions_len

    @classmethod
    def decode(cls, data: bytes) -> Row:
        """Decode the 176 bytes of a row; judges nothing."""
        return cls._make(ROW.unpack(data))


def event_hash(row: bytes, metadata: bytes) -> bytes:
    """BLAKE3 over prefix, row, entity, scope and extensions: 32 bytes."""
    return blake3(EVENT_PREFIX + row + metadata).digest()


def content_hash(codec: int, envelope: bytes) -> bytes:
    """BLAKE3 over prefix, codec and envelope: 32 bytes."""
    return blake3(CONTENT_PREFIX[codec] + envelope).digest()


_ID: Final[Callable[[bytes], tuple[int, int]]] = struct.Struct(">QB7x").unpack


def hlc_of_id(event_id: bytes) -> int:
    """The HLC that an id of our own making carries; any other id gives some number.

    Layout: 48 bits of milliseconds, version nibble, 12 counter bits, variant,
    4 counter bits, 58 random bits.
    """
    high, low = _ID(event_id)
    return (high >> 16) << 16 | (high & 0xFFF) << 4 | (low >> 2) & 0xF


def is_foreign(event_id: bytes, hlc: int) -> bool:
    """Whether an id is not one of ours for this HLC (docs/format.md, "Event ids")."""
    return event_id[6] >> 4 != 7 or event_id[8] >> 6 != 2 or hlc_of_id(event_id) != hlc


def id_of_hlc(hlc: int, random58: int) -> bytes:
    """A UUIDv7 (RFC 9562, fixed counter of 16 bits) that carries `hlc` and 58 random bits."""
    high = (hlc >> 16) << 16 | 0x7000 | (hlc & 0xFFFF) >> 4
    low = 0x8000000000000000 | (hlc & 0xF) << 58 | random58
    return (high << 64 | low).to_bytes(16, "big")


def open_envelope(codec: int, envelope: bytes) -> bytes:
    """The payload inside an envelope. Raises PayloadUnreadable for a codec without a key."""
    if codec == CODEC_SALTED:
        return envelope[SALT_SIZE:]
    if codec == CODEC_PLAIN:
        return envelope
    if codec == CODEC_ENCRYPTED:
        raise KeyUnavailable(
            "the payload is encrypted, and no keyring is at hand here",
            codec=codec,
            key_id=envelope[:16].hex(),
            reason="no-keyring",
            advice="read the event from a store that was opened with keyring=",
        )
    raise PayloadUnreadable(
        f"codec {codec} can't be read by this version of batpak",
        codec=codec,
        advice="install a newer version; chain and receipts still verify",
    )


_EMPTY: Mapping[str, bytes] = MappingProxyType({})


def decode_extensions(data: bytes) -> Mapping[str, bytes]:
    """Receipt extensions from their canonical bytes; empty bytes are an empty mapping."""
    if not data:
        return _EMPTY
    return MappingProxyType(canonical.decode(data, dict[str, bytes]))


class PayloadState(enum.Enum):
    """Whether a payload can be read, and if not, why."""

    PRESENT = "present"
    ERASED = "erased"
    SHREDDED = "shredded"
    DETACHED = "detached"


class Position(NamedTuple):
    """Where an event stands: lane and depth are the caller's labels."""

    lane: int
    depth: int
    clock: int
    hlc: int

    def precedes(self, other: Position) -> bool:
        """Same lane and depth, and a smaller clock; else the two are not ordered.

        Raises InvalidInput.
        """
        if not isinstance(other, Position):
            raise InvalidInput("precedes() takes a Position", field="other", value=other)
        return (self.lane, self.depth) == (other.lane, other.depth) and self.clock < other.clock


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEQUENCE = struct.Struct("<Q").unpack_from
_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_CODEC = 99
_NONE = bytes(4)
_KIND_VERSION = struct.Struct("<HH").unpack_from
_binding_of = payloads.lookup_kind


class EventSummary(msgspec.Struct, frozen=True, gc=False, eq=False, repr_omit_defaults=True):
    """An event without its payload: everything that the row and the metadata say.

    Decoded when asked for. Immutable; equal when journal bytes are equal.
    """

    _row: bytes
    _metadata: bytes

    @property
    def row(self) -> Row:
        """The decoded row, integers and bytes."""
        return Row.decode(self._row)

    @property
    def row_bytes(self) -> bytes:
        """The 176 bytes that the event hash covers first."""
        return self._row

    @property
    def metadata_bytes(self) -> bytes:
        """Entity, scope and extensions: what the event hash covers after the row."""
        return self._metadata

    @property
    def sequence(self) -> int:
        """Place in the journal, from 0, dense."""
        return _SEQUENCE(self._row)[0]

    @property
    def event_id(self) -> EventId:
        """The event's id, or its idempotency key."""
        return EventId.from_bytes(self._row[8:24])

    @property
    def correlation_id(self) -> CorrelationId:
        """Id shared by a conversation; the event's own id for a root."""
        return CorrelationId.from_bytes(self._row[24:40])

    @property
    def causation_id(self) -> CausationId | None:
        """Id of the event that caused this one."""
        raw = self._row[40:56]
        return None if raw == NO_ID else CausationId.from_bytes(raw)

    @property
    def timestamp_us(self) -> int:
        """The clock's reading in microseconds since the epoch."""
        return self.row.timestamp_us

    @property
    def time(self) -> datetime:
        """`timestamp_us` as an aware datetime in UTC."""
        return _EPOCH + timedelta(microseconds=self.timestamp_us)

    @property
    def hlc(self) -> int:
        """Hybrid logical clock: milliseconds << 16 | counter; strictly increasing."""
        return _SEQUENCE(self._row, 64)[0]

    @property
    def clock(self) -> int:
        """Position in the entity's stream, from 0."""
        return _U32(self._row, 72)[0]

    @property
    def lane(self) -> int:
        """The caller's lane label."""
        return _U32(self._row, 76)[0]

    @property
    def depth(self) -> int:
        """The caller's depth label."""
        return _U32(self._row, 80)[0]

    @property
    def flags(self) -> int:
        """Flag bits; bit 8 says that the id is an idempotency key."""
        return _U16(self._row, 92)[0]

    @property
    def kind(self) -> EventKind:
        """What kind of event this is."""
        return EventKind.from_raw(_U16(self._row, 88)[0])

    @property
    def payload_version(self) -> int:
        """Version of the payload class that wrote it; 0 for untyped."""
        return _U16(self._row, 90)[0]

    @property
    def coordinate(self) -> Coordinate:
        """Entity and scope."""
        entity = _U16(self._row, 94)[0]
        scope = entity + _U16(self._row, 96)[0]
        return Coordinate.from_stored(self._metadata[:entity], self._metadata[entity:scope])

    @property
    def extensions(self) -> Mapping[str, bytes]:
        """Receipt extensions, name to bytes."""
        start = _U16(self._row, 94)[0] + _U16(self._row, 96)[0]
        return decode_extensions(self._metadata[start:])

    @property
    def has_extensions(self) -> bool:
        """Whether there is any receipt extension."""
        return self._row[84:88] != _NONE

    @property
    def commitment(self) -> bytes:
        """The row's content hash: BLAKE3 over the envelope, salt included."""
        return self._row[112:144]

    @property
    def prev_hash(self) -> bytes:
        """Event hash of the entity's previous event; 32 zero bytes for its first."""
        return self._row[144:176]

    @property
    def event_hash(self) -> bytes:
        """Recomputed from the row, entity, scope and extensions."""
        return event_hash(self._row, self._metadata)

    @property
    def position(self) -> Position:
        """Lane, depth, clock and HLC together."""
        row = self.row
        return Position(row.lane, row.depth, row.clock, row.hlc)

    @property
    def is_root(self) -> bool:
        """Whether nothing caused this event."""
        return self._row[40:56] == NO_ID

    @property
    def is_genesis(self) -> bool:
        """Whether this is its entity's first event."""
        return self.clock == 0

    def caused_by(self, other: EventId | CausationId) -> bool:
        """Whether `other` is this event's cause."""
        return not self.is_root and self._row[40:56] == other.bytes

    def __ne__(self, other: object) -> bool:
        # The one that msgspec.Struct brings compares identity.
        return not self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventSummary):
            return NotImplemented
        return self._row == other._row and self._metadata == other._metadata

    def __hash__(self) -> int:
        return hash(self._row)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.sequence} {self.kind} {self.coordinate} "
            f"clock={self.clock} at {self.time.isoformat(timespec='milliseconds')}>"
        )


class Opener(Protocol):
    """What has the keys of encrypted payloads: a `batpak.encryption.Vault`."""

    def open(self, row: bytes, metadata: bytes, envelope: bytes) -> bytes: ...


class Event(EventSummary, frozen=True, gc=False, eq=False):
    """A stored event with its payload, decoded only when asked for."""

    _envelope: bytes | None
    payload_state: PayloadState = PayloadState.PRESENT
    _vault: Opener | None = None
    """For an encrypted payload."""

    @property
    def raw(self) -> bytes:
        """The payload's bytes.

        Raises PayloadErased, PayloadDetached, PayloadUnreadable; of an encrypted payload
        PayloadShredded, KeyUnavailable, PayloadDamaged and what its keyring raises.
        """
        envelope = self._envelope
        if envelope is None:
            raise self._gone()
        codec = self._row[_CODEC]
        if codec == CODEC_SALTED:
            return envelope[SALT_SIZE:]
        if codec == CODEC_ENCRYPTED and self._vault is not None:
            return self._vault.open(self._row, self._metadata, envelope)
        return open_envelope(codec, envelope)

    @property
    def envelope(self) -> bytes | None:
        """What stands in the segment for this payload; None once it is gone.

        Of an encrypted payload the ciphertext, which stays when its key is shredded.
        """
        return self._envelope

    @property
    def value(self) -> Any:
        """The payload as plain values, whatever its class. Raises as `raw`, or CanonicalError."""
        return canonical.decode(self.raw)

    @property
    def payload(self) -> Any:
        """The payload as its registered class, upcast; plain values where none is registered.

        Raises as `raw`, and DecodeError.
        """
        # The one property that runs for each event of a scan: raw and version inline.
        row, envelope = self._row, self._envelope
        kind, version = _KIND_VERSION(row, 88)
        binding = _binding_of(kind)
        if envelope is not None and row[_CODEC] == CODEC_SALTED:
            raw = envelope[SALT_SIZE:]
        else:
            raw = self.raw
        if binding is None:
            return canonical.decode(raw)
        if binding.direct is not None and version == binding.version:
            try:
                return binding.direct(raw)
            except (*canonical.FAULTS, RecursionError):
                # Tolerated in another shape, or an error that says where: decode() knows.
                pass
        return binding.decode(raw, version)

    @property
    def content_hash(self) -> bytes:
        """BLAKE3 of the payload's bytes; 32 zero bytes once the payload is gone.

        Raises KeyUnavailable where an encrypted payload can't be read.
        """
        try:
            return blake3(self.raw).digest()
        except (PayloadErased, PayloadDetached, PayloadShredded):
            return NO_HASH

    def route(self, cls: type[T]) -> T | None:
        """The payload as `cls`, or None when the event is of another kind.

        Raises InvalidInput for what is no class.
        """
        try:
            binding = payloads.lookup_type(cls)
        except TypeError as error:
            raise _no_class("route", cls) from error
        if binding is None or binding.kind.raw != _U16(self._row, 88)[0]:
            if binding is None and not isinstance(cls, type):
                raise _no_class("route", cls)
            return None
        return binding.decode(self.raw, self.payload_version)

    def decode(self, cls: type[T]) -> T:
        """The payload as `cls`. Raises KindMismatch when the event is of another kind.

        Raises InvalidInput for what is no class.
        """
        try:
            binding = payloads.lookup_type(cls)
        except TypeError as error:
            raise _no_class("decode", cls) from error
        if binding is None or binding.kind.raw != self.kind.raw:
            if not isinstance(cls, type):
                raise _no_class("decode", cls)
            raise KindMismatch(
                f"event {self.sequence} is of kind {self.kind}, not of {cls.__qualname__}",
                sequence=self.sequence,
                kind=self.kind.raw,
                expected=None if binding is None else binding.kind.raw,
                advice="use route() where other kinds are expected",
            )
        return binding.decode(self.raw, self.payload_version)

    def summary(self) -> EventSummary:
        """The same event without its payload."""
        return EventSummary(self._row, self._metadata)

    def _gone(self) -> PayloadErased | PayloadDetached | JournalCorrupt:
        if self.payload_state is PayloadState.DETACHED:
            return PayloadDetached(
                f"the payload of event {self.sequence} was archived",
                sequence=self.sequence,
                advice="restore it from the archive that holds it",
            )
        return PayloadErased(
            f"the payload of event {self.sequence} was erased",
            sequence=self.sequence,
            advice="the event, its hashes and its proofs remain valid",
        )


def _no_class(call: str, given: object) -> InvalidInput:
    return InvalidInput(
        f"{call}() takes a payload class, not {given!r}",
        field="cls",
        value=given,
        advice="give a class that @payload was put above",
    )
