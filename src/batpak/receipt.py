"""Receipts: what an append answers, as plain immutable data that goes to JSON and back.

No I/O and no keys: signing and verifying live elsewhere, but what a signature covers
and how a key is called stands here. Also the grammar of extension names.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, NamedTuple
from uuid import UUID

import msgspec
from blake3 import blake3

from batpak import canonical, kinds
from batpak.coordinate import Coordinate
from batpak.errors import CanonicalError, ExtensionError, InvalidInput, ProofInvalid
from batpak.event import Event, decode_extensions
from batpak.ids import EventId
from batpak.kinds import EventKind

__all__ = [
    "MAX_EXTENSIONS_BYTES",
    "MAX_EXTENSION_KEY_BYTES",
    "RESERVED_NAMESPACES",
    "AppendReceipt",
    "DenialReceipt",
    "Invalid",
    "Namespace",
    "Reason",
    "ReceiptKey",
    "Signed",
    "UnsignedAccepted",
    "encode_extensions",
    "keys_in_force",
]

MAX_EXTENSION_KEY_BYTES = 256
MAX_EXTENSIONS_BYTES = 64 * 1024
RESERVED_NAMESPACES = frozenset({"batpak", "origin"})
"""Only batpak itself writes extensions of these namespaces."""

_SIGNED_PREFIX = b"batpak/receipt/v1\0"

_NO_EXTENSIONS: Mapping[str, bytes] = MappingProxyType({})


class Namespace:
    """A prefix for extension names: `Namespace("acme").key("trace")` is "acme.trace"."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        check_extension_key(_joined(name, "x"))
        self.name = name

    def key(self, name: str) -> str:
        """The full extension name. Raises ExtensionError."""
        full = _joined(self.name, name)
        check_extension_key(full)
        return full


def _joined(namespace: object, name: object) -> str:
    for part in (namespace, name):
        if not isinstance(part, str):
            raise _bad_key("not-text", part, "an extension name is made of texts")
    return f"{namespace}.{name}"


def check_extension_key(key: object, *, reserved_allowed: bool = False) -> None:
    """Raises ExtensionError unless `key` is a name such as "acme.trace".

    The order of checks is that of the Rust system, behind not-text: empty, non-ascii,
    too-long, bad-namespace, reserved-namespace.
    """
    if not isinstance(key, str):
        raise _bad_key("not-text", key, f"an extension name is text, not {type(key).__name__}")
    if not key:
        raise _bad_key("empty", key, "an extension name is a non-empty text")
    if not key.isascii():
        raise _bad_key("non-ascii", key, "an extension name is ASCII")
    if len(key) > MAX_EXTENSION_KEY_BYTES:
        raise _bad_key(
            "too-long", key[:40], f"an extension name has more than {MAX_EXTENSION_KEY_BYTES} bytes"
        )
    namespace, dot, name = key.partition(".")
    if not (namespace and dot and name) or "." in name:
        raise _bad_key("bad-namespace", key, 'an extension name has one dot, like "acme.trace"')
    if not reserved_allowed and namespace in RESERVED_NAMESPACES:
        raise _bad_key("reserved-namespace", key, "this extension namespace is reserved for batpak")


def _bad_key(reason: str, key: object, what: str) -> ExtensionError:
    return ExtensionError(
        what,
        field="extensions",
        reason=reason,
        value=key,
        advice='name it "acme.trace": a namespace of your own, a dot, a name, all in ASCII',
    )


def encode_extensions(extensions: Mapping[str, bytes], *, reserved_allowed: bool = False) -> bytes:
    """Canonical bytes of receipt extensions: keys ascending; empty bytes for none.

    Raises ExtensionError.
    """
    if not isinstance(extensions, Mapping):
        raise ExtensionError(
            "extensions are a mapping of names to bytes",
            field="extensions",
            reason="not-a-mapping",
            value=type(extensions).__name__,
            advice='write extensions={"acme.trace": b"…"}',
        )
    if not extensions:
        return b""
    for key, value in extensions.items():
        check_extension_key(key, reserved_allowed=reserved_allowed)
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise ExtensionError(
                "an extension's value is bytes",
                field=f"extensions[{key!r}]",
                reason="not-bytes",
                value=type(value).__name__,
                advice="encode it first, for example with batpak.canonical.encode",
            )
    data = canonical.encode({key: bytes(extensions[key]) for key in sorted(extensions)})
    if len(data) > MAX_EXTENSIONS_BYTES:
        raise ExtensionError(
            f"the extensions of an event have more than {MAX_EXTENSIONS_BYTES} bytes",
            field="extensions",
            reason="too-large",
            value=len(data),
            advice="put longer data into the payload",
        )
    return data


class Reason(enum.Enum):
    """Why a receipt is invalid. Values are stable; most are shared with the Rust system."""

    MISSING = "missing_committed_event"
    ROW = "cover_build_failed"
    DENIAL_KIND = "denial_kind_mismatch"
    EVENT_ID = "event_id_mismatch"
    SEQUENCE = "sequence_mismatch"
    CONTENT_HASH = "content_hash_mismatch"
    EXTENSIONS = "extensions_mismatch"
    EVENT = "event_mismatch"
    UNSIGNED = "unsigned_receipt_rejected"
    NO_SIGNATURE = "missing_signature"
    NO_KEY = "zero_key_with_signature"
    UNKNOWN_KEY = "unknown_signing_key"
    SIGNATURE = "invalid_signature"
    NOT_IN_FORCE = "key_not_in_force"


@dataclass(frozen=True, slots=True)
class Signed:
    """A receipt is signed by a key that was in force: its event was durable then.

    `key_id`: 32 bytes.
    """

    key_id: bytes
    is_valid: ClassVar[bool] = True
    is_signed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class UnsignedAccepted:
    """A receipt fits its event; nobody signed it, and no key was asked for."""

    is_valid: ClassVar[bool] = True
    is_signed: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Invalid:
    """A receipt proves nothing."""

    reason: Reason
    is_valid: ClassVar[bool] = False
    is_signed: ClassVar[bool] = False


class ReceiptKey(NamedTuple):
    """A public key of 32 bytes, in force for sequences since <= sequence < until."""

    public_key: bytes
    since: int = 0
    until: int = 2**63

    @property
    def key_id(self) -> bytes:
        """What receipts call it: BLAKE3 of the public key, 32 bytes."""
        return blake3(self.public_key).digest()


def keys_in_force(events: Iterable[Event]) -> list[ReceiptKey]:
    """The keys that system events, oldest first, add and retire; others are passed over.

    A key that was retired is never added again. Raises ProofInvalid for events out of order
    and for a key event without its key, and what `Event.raw` raises.
    """
    added: dict[bytes, ReceiptKey] = {}
    retired: dict[bytes, ReceiptKey] = {}
    newest = -1
    for event in events:
        if event.sequence <= newest:
            raise ProofInvalid("key events stand in the order of sequences", reason="key-event")
        newest = event.sequence
        if event.kind == kinds.SYSTEM_KEY_ADDED:
            key = ReceiptKey(_bytes_in(event, "public_key"), event.sequence)
            if key.key_id not in retired and _is_said_of(key, event):
                added.setdefault(key.key_id, key)
        elif event.kind == kinds.SYSTEM_KEY_RETIRED:
            old = added.pop(_bytes_in(event, "key_id"), None)
            if old is not None:
                retired[old.key_id] = old._replace(until=event.sequence)
    return [*retired.values(), *added.values()]


def _is_said_of(key: ReceiptKey, event: Event) -> bool:
    """Whether the rest of a key event's payload, as far as it is there, is that of this key."""
    told = _told(event)
    said = told.get("key_id", key.key_id), told.get("algorithm", "ed25519")
    return said == (key.key_id, "ed25519")


def _told(event: Event) -> dict[str, Any]:
    """A key event's payload; empty for what is no map."""
    try:
        return canonical.decode(event.raw, dict[str, Any])
    except CanonicalError:
        return {}


def _bytes_in(event: Event, name: str) -> bytes:
    """32 bytes of a key event's payload, a map whose other keys are passed over."""
    value = _told(event).get(name)
    if isinstance(value, bytes) and len(value) == 32:
        return value
    raise ProofInvalid(f"the {name} of a key event is 32 bytes", reason="key-event")


class AppendReceipt(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Proof that an event was accepted, and where it stands. Plain data.

    Equal when journal and event hash are equal: `durable`, `replayed`, `key_id`
    and `signature` say how this copy was made, not what it attests.
    """

    journal_id: UUID
    _place: tuple[int, bytes, int, int, bytes, bytes]
    """Sequence, id, HLC, clock, event hash, prev_hash: what the commit gave the event."""
    coordinate: Coordinate
    _kind: int
    _content: bytes
    """Ends in the row's content hash."""
    _extensions: bytes = b""
    """Canonical."""
    durable: bool = False
    replayed: bool = False
    key_id: bytes | None = None
    signature: bytes | None = None

    @property
    def is_denial(self) -> bool:
        """Whether it is good for a denial only: for a DenialReceipt."""
        return False

    @property
    def event_id(self) -> EventId:
        """The event's id, or its idempotency key."""
        return EventId.from_bytes(self._place[1])

    @property
    def sequence(self) -> int:
        """The event's place in the journal."""
        return self._place[0]

    @property
    def hlc(self) -> int:
        """The event's hybrid logical clock."""
        return self._place[2]

    @property
    def clock(self) -> int:
        """The event's place in its entity's stream."""
        return self._place[3]

    @property
    def event_hash(self) -> bytes:
        """The hash that binds the event to everything it says: 32 bytes."""
        return self._place[4]

    @property
    def prev_hash(self) -> bytes:
        """Event hash of the entity's previous event; zeros for its first."""
        return self._place[5]

    @property
    def commitment(self) -> bytes:
        """The row's content hash: 32 bytes."""
        return self._content[-32:]

    @property
    def signed_message(self) -> bytes:
        """What its Ed25519 signature covers: 74 bytes."""
        place = self.sequence.to_bytes(8, "little")
        return _SIGNED_PREFIX + self.journal_id.bytes + place + self.event_hash

    @property
    def extensions(self) -> Mapping[str, bytes]:
        """Receipt extensions, name to bytes."""
        return decode_extensions(self._extensions)

    @property
    def kind(self) -> EventKind:
        """What kind of event was appended."""
        return EventKind.from_raw(self._kind)

    def signed_with(self, key_id: bytes, signature: bytes) -> AppendReceipt:
        """A copy that carries a signature, and so says that the event is durable."""
        return msgspec.structs.replace(self, durable=True, key_id=key_id, signature=signature)

    def with_fields(
        self,
        sequence: int,
        commitment: bytes | None,
        extensions: Mapping[str, bytes],
        key_id: bytes | None,
        signature: bytes | None,
    ) -> AppendReceipt:
        """A copy that claims this, to be judged; `commitment` None is one that nothing has."""
        return msgspec.structs.replace(
            self,
            _place=(sequence, *self._place[1:]),
            _content=self._content[:-32] + (commitment or bytes(32)),
            _extensions=encode_extensions(extensions, reserved_allowed=True),
            key_id=key_id,
            signature=signature,
        )

    def __ne__(self, other: object) -> bool:
        # The one that msgspec.Struct brings compares identity.
        return not self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AppendReceipt):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self.event_hash)

    def __reduce__(self) -> tuple[Any, ...]:
        return (AppendReceipt.from_json, (self.to_json(),))

    def __repr__(self) -> str:
        state = "durable" if self.durable else "written"
        return f"<{type(self).__name__} {self.sequence} {self.event_id} {self.coordinate} {state}>"

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.journal_id, self._place, self.coordinate, self._kind, self.commitment,
            self._extensions,
        )  # fmt: skip

    def to_json(self) -> str:
        """The receipt as one line of JSON; hashes and bytes as lower-case hex."""
        return json.dumps(
            {
                "journal_id": str(self.journal_id),
                "event_id": str(self.event_id),
                "sequence": self.sequence,
                "entity": self.coordinate.entity,
                "scope": self.coordinate.scope,
                "kind": self._kind,
                "hlc": self.hlc,
                "clock": self.clock,
                "commitment": self.commitment.hex(),
                "event_hash": self.event_hash.hex(),
                "prev_hash": self.prev_hash.hex(),
                "extensions": {k: bytes(v).hex() for k, v in self.extensions.items()},
                "durable": self.durable,
                "replayed": self.replayed,
                "key_id": None if self.key_id is None else self.key_id.hex(),
                "signature": None if self.signature is None else self.signature.hex(),
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> AppendReceipt:
        """Read what `to_json` wrote; of a denial, a DenialReceipt.

        Each value has one way to be written, and each member stands once. Raises InvalidInput
        naming the field.
        """
        try:
            plain = msgspec.json.decode(text, type=_ReceiptJson)
            members = json.loads(
                text if isinstance(text, str) else str(text, "utf-8"),
                object_pairs_hook=_unique, parse_int=_integer, parse_float=_integer,
            )  # fmt: skip
        except (msgspec.DecodeError, ValueError, RecursionError, TypeError) as error:
            # Text in a field that is no UTF-8, nesting without end, and what is neither text
            # nor bytes are not DecodeErrors.
            raise InvalidInput(
                f"not a receipt: {error}", field="receipt", advice="give what to_json() wrote"
            ) from error
        try:
            journal_id = UUID(plain.journal_id)
        except ValueError as error:
            raise InvalidInput(
                "not a receipt: bad journal id", field="journal_id", value=plain.journal_id
            ) from error
        if plain.hlc >= 1 << 64:
            raise InvalidInput(
                "not a receipt: hlc has more than 64 bits", field="hlc", value=plain.hlc
            )
        made = DenialReceipt if plain.kind == kinds.SYSTEM_DENIAL.raw else AppendReceipt
        if not issubclass(made, cls):
            raise _no_denial(plain.kind)
        receipt = made(
            journal_id,
            (
                plain.sequence,
                EventId.parse(plain.event_id).bytes,
                plain.hlc,
                plain.clock,
                _unhex("event_hash", plain.event_hash, 32),
                _unhex("prev_hash", plain.prev_hash, 32),
            ),
            Coordinate(plain.entity, plain.scope),
            plain.kind,
            _unhex("commitment", plain.commitment, 32),
            encode_extensions(
                {k: _unhex(k, v, None) for k, v in plain.extensions.items()}, reserved_allowed=True
            ),
            plain.durable,
            plain.replayed,
            None if plain.key_id is None else _unhex("key_id", plain.key_id, 32),
            None if plain.signature is None else _unhex("signature", plain.signature, 64),
        )
        for name, value in json.loads(receipt.to_json()).items():
            if members[name] != value:
                raise InvalidInput(
                    f"not a receipt: {name} is written in another way than receipts are",
                    field=name,
                    value=members[name],
                    advice="give what to_json() wrote: hex and ids in lower case, without spaces",
                )
        return receipt


def _no_denial(kind: int) -> InvalidInput:
    return InvalidInput(
        f"this is the receipt of an event of kind {kind:#06x}, not of a denial",
        field="kind",
        value=kind,
        advice="use it as an AppendReceipt",
    )


class DenialReceipt(AppendReceipt, frozen=True, gc=False, eq=False):
    """The receipt of a denial: verifying it asks that the event is one. Made by `Store.deny`."""

    @property
    def is_denial(self) -> bool:
        """Whether it is good for a denial only."""
        return True

    @classmethod
    def of(cls, receipt: AppendReceipt) -> DenialReceipt:
        """The same receipt, known to be a denial's. Raises InvalidInput for any other's."""
        if not isinstance(receipt, AppendReceipt):
            raise InvalidInput(
                "a DenialReceipt is made of a receipt",
                field="receipt",
                value=receipt,
                advice="pass what store.deny() gave",
            )
        if receipt._kind != kinds.SYSTEM_DENIAL.raw:
            raise _no_denial(receipt._kind)
        return cls(*(getattr(receipt, name) for name in receipt.__struct_fields__))


_Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Hlc = Annotated[int, msgspec.Meta(ge=0)]
"""Below 2^64, which msgspec can't say."""
_MAX_DIGITS: Final = 20
"""Of 2^64 - 1."""
_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_U16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]


class _ReceiptJson(msgspec.Struct, forbid_unknown_fields=True):
    journal_id: str
    event_id: str
    sequence: _Sequence
    entity: str
    scope: str
    kind: _U16
    hlc: _Hlc
    clock: _U32
    commitment: str
    event_hash: str
    prev_hash: str
    extensions: dict[str, str]
    durable: bool
    replayed: bool
    key_id: str | None
    signature: str | None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _integer(text: str) -> int:
    number = int(text) if len(text) <= _MAX_DIGITS else -1
    if str(number) != text:
        raise ValueError(f"{text[:20]} is not written as a whole number is")
    return number


def _unhex(field: str, text: str, size: int | None) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInput(f"not a receipt: {field} is not hex", field=field, value=text) from error
    if size is not None and len(data) != size:
        raise InvalidInput(
            f"not a receipt: {field} has {len(data)} bytes, not {size}", field=field, value=text
        )
    return data
