"""Judge and encode what is to be appended: everything that needs no lock and no disk.

Takes what callers hand over, gives `Prepared` events, and refuses what can't be one.
Knows payload classes and options, not where an event will stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast
from uuid import UUID

from blake3 import blake3

from batpak import canonical, payloads
from batpak.config import StoreConfig
from batpak.coordinate import Coordinate
from batpak.encryption import Sealing, Vault
from batpak.engine.system import RESERVED_ENTITY_PREFIX
from batpak.errors import (
    BatchTooLarge,
    IdempotencyConflict,
    InvalidInput,
    KeyInvalid,
    PayloadTooLarge,
    ReservedKind,
    ReservedName,
    UnregisteredPayload,
)
from batpak.event import (
    CODEC_ENCRYPTED,
    CODEC_PLAIN,
    CODEC_SALTED,
    CONTENT_PREFIX,
    FLAG_KEYED,
    NO_HASH,
    NO_ID,
    ROW_CONTENT,
    ROW_VERSION,
    SALT_SIZE,
    SEALED_OVERHEAD,
    Event,
)
from batpak.ids import CausationId, CorrelationId, EventId, Id128
from batpak.items import Expect, Id, Item, Key, Prior
from batpak.journal.commits import Prepared
from batpak.kinds import DATA, SYSTEM_DENIAL, EventKind
from batpak.receipt import encode_extensions

__all__ = ["Preparer", "check_unique_keys", "expected_clock", "iterated"]

_CODECS = {"plain": CODEC_PLAIN, "salted": CODEC_SALTED, "encrypted": CODEC_ENCRYPTED}
_U32_MAX = 0xFFFFFFFF
_CALLER_FLAGS = 0xFF
_RESERVED_ENTITY = RESERVED_ENTITY_PREFIX.encode()
_binding_of = payloads.lookup_type


def iterated(items: Iterable[Item]) -> Iterator[Item]:
    """The items of one commit, one by one. Raises InvalidInput where they are none."""
    try:
        return iter(items)
    except TypeError as error:
        raise InvalidInput(
            "the items of a commit are an iterable of Items, such as a list",
            field="items",
            value=type(items).__name__,
            advice="write append_many([Item(…), Item(…)])",
        ) from error


class Preparer:
    """Makes events of one store's codec and limits; threads may share it."""

    def __init__(self, config: StoreConfig, vault: Vault | None = None) -> None:
        """`vault` is what encrypts, where the codec is "encrypted"."""
        self._salted = config.codec == "salted"
        self._codec = _CODECS[config.codec]
        self._vault = vault if config.codec == "encrypted" else None
        self._judge = self
        if self._vault is not None:
            # What is only judged must not make a key.
            self._judge = Preparer(replace(config, codec="plain"))
        self._payload_max = config.payload_max_bytes
        self._batch_max = config.batch_max_events
        self._salts: Iterator[bytes] = iter(())
        self._hashers: list[Any] = []
        self._content_prefix = CONTENT_PREFIX[self._codec]

    def batch(self, items: Iterable[Item]) -> list[Item]:
        """What a caller gives as the items of one commit. Raises InvalidInput, BatchTooLarge."""
        given = iterated(items)
        # One more than there may be, for what never ends.
        batch = list(islice(given, self._batch_max + 1))
        if not batch:
            raise InvalidInput(
                "a batch has at least one item", field="items", advice="skip the call when empty"
            )
        if len(batch) > self._batch_max:
            raise BatchTooLarge(
                f"a batch has at most {self._batch_max} events, and this one has more",
                limit=self._batch_max,
                advice="split it, or raise batch_max_events",
            )
        return batch

    def many(
        self,
        items: Iterable[Item],
        correlation: Id | None = None,
        causation: Id | None = None,
        marks: Mapping[str, bytes] | None = None,
        *,
        marks_all: bool = False,
    ) -> list[Prepared]:
        """The events of one commit; what is wrong is named by its index.

        `marks` are reserved extensions of the last one, or of all. Raises InvalidInput,
        BatchTooLarge, IdempotencyConflict.
        """
        batch = self.batch(items)
        events: list[Prepared] = []
        one = self.one
        last = len(batch) - 1
        for index, item in enumerate(batch):
            try:
                if not isinstance(item, Item):
                    raise InvalidInput(
                        "append_many takes Items",
                        field="items",
                        value=type(item).__name__,
                        advice="write Item(coordinate, payload)",
                    )
                events.append(
                    one(
                        item.coordinate, item.payload, item.kind,
                        correlation if item.correlation is None else item.correlation,
                        causation if item.causation is None else item.causation,
                        item.lane, item.depth, item.flags,
                        item.extensions, item.key, None, index, item.is_raw,
                        marks if marks_all or index == last else None,
                    )
                )  # fmt: skip
            except InvalidInput as error:
                error.index = index
                error.facts.setdefault("index", index)
                raise
        check_unique_keys(events)
        return events

    def one(
        self,
        coordinate: Coordinate,
        payload: object,
        kind: EventKind | type | None,
        correlation: Id | Prior | None,
        causation: Id | Prior | None,
        lane: int,
        depth: int,
        flags: int,
        extensions: Mapping[str, bytes] | None,
        key: Key | None = None,
        expect: int | Expect | None = None,
        index: int = 0,
        is_raw: bool = False,
        marks: Mapping[str, bytes] | None = None,
    ) -> Prepared:
        """One event, its payload encoded and hashed. Raises InvalidInput."""
        if type(coordinate) is not Coordinate:
            raise InvalidInput(
                "an event needs a Coordinate",
                field="coordinate",
                value=coordinate,
                advice='write Coordinate("player:alice", "room:dungeon")',
            )
        entity = coordinate.entity_bytes
        if entity.startswith(_RESERVED_ENTITY):
            raise ReservedName(
                "entities that begin with batpak: belong to the journal itself",
                field="coordinate",
                value=coordinate.entity,
                advice="choose another name for the entity",
            )
        binding = None if kind is not None or is_raw else _binding_of(type(payload))
        if binding is not None:
            raw_kind, version, data = binding.raw_kind, binding.version, binding.encode(payload)
        else:
            raw_kind, version, data = _encode_under(kind, payload, is_raw)
        if len(data) > self._payload_max:
            raise PayloadTooLarge(
                f"the payload has {len(data)} bytes",
                field="payload",
                limit=self._payload_max,
                advice="store large content elsewhere and append its hash",
            )
        try:
            labelled = lane | depth | flags
        except Exception:  # noqa: BLE001  # such as of arrays that don't go together
            labelled = -1
        # By identity: what is false may be something else, such as an empty set.
        if labelled is not _NO_LABELS:
            _check_labels(lane, depth, flags)
        if self._salted:
            data = (next(self._salts, None) or self._new_salts()) + data
        packed = b""
        if extensions is not None or marks:
            packed = encode_extensions({} if extensions is None else extensions)
            if marks:
                packed = encode_extensions({**(extensions or {}), **marks}, reserved_allowed=True)
        if key is not None:
            key = _key_bytes(key)
            flags |= FLAG_KEYED
        scope = coordinate.scope_bytes
        sealing = None
        if self._vault is None:
            # Taken and given back: two threads must not share one.
            hasher = self._hashers.pop() if self._hashers else blake3()
            hasher.reset()
            hasher.update(self._content_prefix + data)
            digest = hasher.digest()
            self._hashers.append(hasher)
        else:
            sealing = self._vault.sealing(coordinate, raw_kind, version, data, key)
            data, digest = bytes(len(data) + SEALED_OVERHEAD), NO_HASH
        content = ROW_CONTENT.pack(
            lane, depth, len(packed), raw_kind, version, flags, len(entity), len(scope),
            ROW_VERSION, self._codec, len(data), 0, digest,
        )  # fmt: skip
        return Prepared(
            coordinate,
            raw_kind,
            content,
            data,
            entity + scope + packed,
            None if correlation is None else _reference("correlation", correlation, index),
            NO_ID if causation is None else _reference("causation", causation, index),
            key,
            packed,
            None if expect is None else expected_clock(expect),
            sealing,
        )

    def denial(
        self,
        coordinate: Coordinate,
        payload_version: int,
        data: bytes,
        correlation: Id | None,
        causation: Id | None,
        extensions: Mapping[str, bytes] | None,
    ) -> Prepared:
        """A denial event at the denied coordinate. Raises InvalidInput, PayloadTooLarge."""
        if len(data) > self._payload_max:
            raise PayloadTooLarge(
                f"the denial has {len(data)} bytes",
                field="denied",
                limit=self._payload_max,
                advice="shorten its messages and contexts, or raise payload_max_bytes",
            )
        # The reserved kind is ours to give; everything else is judged as ever.
        self._judge.one(
            coordinate, b"", DATA, correlation, causation, 0, 0, 0, extensions, is_raw=True
        )
        kind = SYSTEM_DENIAL.raw
        envelope, sealing = self._wrapped(coordinate, kind, payload_version, data, None)
        return Prepared.of(
            coordinate,
            kind,
            payload_version,
            self._codec,
            envelope,
            sealing=sealing,
            extensions=encode_extensions({} if extensions is None else extensions),
            correlation_id=None if correlation is None else correlation.bytes,
            causation_id=NO_ID if causation is None else causation.bytes,
        )

    def imported(self, event: Event, payload: bytes, extensions: bytes) -> Prepared:
        """An event of another journal, under its own id. Raises PayloadTooLarge."""
        if len(payload) > self._payload_max:
            raise PayloadTooLarge(
                f"the payload of the source's event {event.sequence} has {len(payload)} bytes",
                field="payload",
                limit=self._payload_max,
                advice="raise payload_max_bytes of the journal that imports",
            )
        key = event.event_id.bytes
        envelope, sealing = self._wrapped(
            event.coordinate, event.kind.raw, event.payload_version, payload, key
        )
        return Prepared.of(
            event.coordinate,
            event.kind.raw,
            event.payload_version,
            self._codec,
            envelope,
            sealing=sealing,
            extensions=extensions,
            flags=event.row.flags & _CALLER_FLAGS,
            lane=event.lane,
            depth=event.depth,
            correlation_id=event.row.correlation_id,
            causation_id=event.row.causation_id,
            key=key,
        )

    def _wrapped(
        self, coordinate: Coordinate, kind: int, version: int, payload: bytes, key: bytes | None
    ) -> tuple[bytes, Sealing | None]:
        """A payload in the codec's envelope, or zeros of its length and what will seal it."""
        if self._vault is not None:
            sealing = self._vault.sealing(coordinate, kind, version, payload, key)
            return bytes(len(payload) + SEALED_OVERHEAD), sealing
        if self._salted:
            return (next(self._salts, None) or self._new_salts()) + payload, None
        return payload, None

    def renew(self, events: Sequence[Prepared]) -> None:
        """Have events that were prepared a while ago sealed under keys that still are.

        Raises as `one`, for a keyring's reasons.
        """
        if self._vault is None:
            return
        for event in events:
            sealing = event.sealing
            if isinstance(sealing, Sealing):
                event.sealing = self._vault.renewed(sealing, event.coordinate, event.key)

    def payload_of(self, event: Prepared) -> bytes:
        """The payload's bytes of an event that this made."""
        if event.sealing is not None:
            return event.sealing.payload
        return event.envelope[SALT_SIZE:] if self._salted else event.envelope

    def _new_salts(self) -> bytes:
        block = os.urandom(SALT_SIZE * 256)
        salts = iter([block[i : i + SALT_SIZE] for i in range(0, len(block), SALT_SIZE)])
        first = next(salts)
        self._salts = salts
        return first


def expected_clock(expect: int | Expect) -> int:
    """The clock that the entity's next event has to get. Raises InvalidInput."""
    if type(expect) is int and 0 <= expect <= _U32_MAX:
        return expect + 1
    if expect is Expect.EMPTY:
        return 0
    raise InvalidInput(
        "expect= is the clock of the entity's last event, or Expect.EMPTY",
        field="expect",
        value=expect,
        advice="pass latest(entity).clock, an int; Expect.EMPTY where there is no event yet",
    )


def check_unique_keys(events: list[Prepared]) -> None:
    """All events of a commit have keys, or none; no key twice. Raises IdempotencyConflict."""
    keys = [event.key for event in events if event.key is not None]
    if not keys:
        return
    if len(keys) != len(events):
        index = next(i for i, event in enumerate(events) if event.key is None)
        raise IdempotencyConflict(
            f"item {index} has no key, but others of the commit have one",
            reason="mixed-keys",
            index=index,
            advice="give a key to all items or to none",
        )
    seen: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        if seen.setdefault(key, index) != index:
            raise IdempotencyConflict(
                f"items {seen[key]} and {index} have the same key",
                reason="duplicate-key",
                index=index,
                key=key.hex(),
                advice="give each event of a commit a key of its own",
            )


def _key_bytes(key: object) -> bytes:
    raw = key.bytes if isinstance(key, (Id128, UUID)) else key
    if not isinstance(raw, bytes) or len(raw) != 16:
        raise KeyInvalid(
            "an idempotency key has 128 bits: an id, a UUID or 16 bytes",
            field="key",
            value=key,
            advice='derive one: operation_key("invoice", "42", "paid")',
        )
    if raw == NO_ID:
        raise KeyInvalid(
            "an idempotency key is not zero",
            field="key",
            value=key,
            advice='derive one: operation_key("invoice", "42", "paid")',
        )
    return raw


def _encode_under(
    kind: EventKind | type | None, payload: object, is_raw: bool
) -> tuple[int, int, bytes]:
    """Raw kind, payload version and bytes of a payload whose kind the caller names."""
    version = 0
    if kind is None and not is_raw:
        raise UnregisteredPayload(
            f"{type(payload).__qualname__} is not a registered payload class",
            field="payload",
            advice="decorate the class with @payload, or pass kind=EventKind(…)",
        )
    binding = _binding_of(kind) if isinstance(kind, type) else None
    if binding is not None:
        kind, version = binding.kind, binding.version
    if not isinstance(kind, EventKind):
        raise InvalidInput(
            "kind= takes an EventKind or a payload class",
            field="kind",
            value=kind,
            advice="write kind=EventKind(0xE, 1)",
        )
    if kind.is_reserved:
        raise ReservedKind(
            f"kind {kind} belongs to the system",
            field="kind",
            value=kind.raw,
            advice="use a category from 1 to 15, but not 13",
        )
    if is_raw:
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise InvalidInput(
                "append_raw takes bytes",
                field="payload",
                value=type(payload).__name__,
                advice="encode it first, or append the value itself with kind=",
            )
        return kind.raw, 0, bytes(cast("bytes", payload))
    own = _binding_of(type(payload))
    if own is not None:
        if own.kind != kind:
            raise InvalidInput(
                f"{type(payload).__qualname__} is of kind {own.kind}, not {kind}",
                field="kind",
                value=kind.raw,
                advice="leave kind= out for payload classes",
            )
        return own.kind.raw, own.version, own.encode(payload)
    if binding is not None:
        raise InvalidInput(
            f"kind= names the class {binding.cls.__qualname__}, but the payload is none of it",
            field="payload",
            value=type(payload).__name__,
            advice="pass an instance of the class, or an EventKind as kind=",
        )
    return kind.raw, version, canonical.encode(payload)


def _reference(field: str, value: Id | Prior, index: int) -> bytes | int:
    if isinstance(value, Prior):
        # No bool, and no number of another library: what it names is looked up by its type.
        if type(value.index) is not int or not 0 <= value.index < index:
            raise InvalidInput(
                f"{value!r} has to name an earlier item of the batch",
                field=field,
                value=value.index,
                advice="Prior takes an int: the item's index, counted from 0",
            )
        return value.index
    if not isinstance(value, (EventId, CorrelationId, CausationId)):
        raise InvalidInput(
            f"{field}= takes an id",
            field=field,
            value=value,
            advice="pass an event_id; EventId.from_bytes(uuid.bytes) makes an id of a UUID, "
            "EventId.parse one of its text",
        )
    return value.bytes


_NO_LABELS = 0


def _check_labels(lane: int, depth: int, flags: int) -> None:
    for name, value in (("lane", lane), ("depth", depth)):
        if not isinstance(value, int) or not 0 <= value <= _U32_MAX:
            raise InvalidInput(
                f"{name} is from 0 to 2^32 - 1", field=name, value=value, advice="pass an int"
            )
    if not isinstance(flags, int) or flags & ~_CALLER_FLAGS:
        raise InvalidInput(
            "flags has only the bits 0 to 7",
            field="flags",
            value=flags,
            advice="pass an int from 0 to 255; the other bits are the journal's",
        )
