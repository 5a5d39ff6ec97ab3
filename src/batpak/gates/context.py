"""What a gate is told: the proposal as it would be stored, and a view of the journal to read.

The payload is kept as bytes and decoded for each gate that asks: what is judged is what
would be written, and no gate, thread or caller can change it between the two. The view has
no call that writes. Knows no store, only what one can be asked. Source: docs/guide/gates.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, final

from batpak import canonical, payloads
from batpak.coordinate import Coordinate, Region
from batpak.errors import InvalidInput, UnregisteredPayload
from batpak.event import Event, decode_extensions
from batpak.ids import EventId
from batpak.kinds import EventKind
from batpak.receipt import encode_extensions

__all__ = ["GateContext", "ReadView", "Readable"]

_set: Final = object.__setattr__


class Readable(Protocol):
    """What a view asks of a store; `Store` and `ReadOnlyStore` have it."""

    def get(self, event_id: EventId, /) -> Event: ...
    def at(self, sequence: int, /) -> Event: ...
    def query(self, region: Region, /, *, after: int | None = None) -> Iterator[Event]: ...
    def entity(self, name: str, /) -> Iterator[Event]: ...
    def latest(self, entity: str, /) -> Event | None: ...
    def count(self, region: Region, /) -> int: ...
    def __len__(self) -> int: ...


@final
class ReadView:
    """A journal as a gate sees it: reading only, at the moment of each call.

    What it shows may be old by the time of the commit. Each call raises as the store's.
    """

    __slots__ = ("_reader",)
    _reader: Readable

    def __init__(self, reader: Readable) -> None:
        self._reader = reader

    def get(self, event_id: EventId) -> Event:
        """The event with this id. Raises: EventNotFound."""
        return self._reader.get(event_id)

    def at(self, sequence: int) -> Event:
        """The event at this sequence. Raises: EventNotFound."""
        return self._reader.at(sequence)

    def query(self, region: Region, *, after: int | None = None) -> Iterator[Event]:
        """Matching events in commit order, only sequences above `after`."""
        return self._reader.query(region, after=after)

    def entity(self, name: str) -> Iterator[Event]:
        """The events of exactly this entity, in order."""
        return self._reader.entity(name)

    def latest(self, entity: str) -> Event | None:
        """The entity's newest event; None when it has none."""
        return self._reader.latest(entity)

    def count(self, region: Region) -> int:
        """How many events match."""
        return self._reader.count(region)

    def __len__(self) -> int:
        return len(self._reader)

    def __bool__(self) -> bool:
        # The view of an empty journal is a view.
        return True


@final
class GateContext:
    """A proposed event, frozen: `coordinate`, `kind`, `payload_version`, `raw`, `extensions`.

    `raw` is the payload's canonical bytes (without salt or encryption), or, for what is
    appended raw, any bytes. `payload` and `value` decode it anew at each call, so that gates
    share nothing they could change. Made by `of`, or by who has the bytes already.
    """

    __slots__ = ("_extensions", "_view", "coordinate", "kind", "payload_version", "raw")
    coordinate: Coordinate
    kind: EventKind
    payload_version: int
    raw: bytes
    _extensions: bytes
    _view: ReadView | None

    def __init__(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        raw: bytes,
        *,
        payload_version: int = 0,
        extensions: Mapping[str, bytes] | None = None,
        reader: Readable | None = None,
    ) -> None:
        """Raises: InvalidInput for other types, ExtensionError."""
        for field, value, wanted in (
            ("coordinate", coordinate, Coordinate),
            ("kind", kind, EventKind),
            ("raw", raw, bytes),
        ):
            if not isinstance(value, wanted):
                raise InvalidInput(
                    f"{field} must be of class {wanted.__name__}", field=field, value=value
                )
        if type(payload_version) is not int or not 0 <= payload_version <= payloads.MAX_VERSION:
            raise InvalidInput(
                "payload_version is a whole number of 16 bits",
                field="payload_version",
                value=payload_version,
            )
        _set(self, "coordinate", coordinate)
        _set(self, "kind", kind)
        _set(self, "payload_version", payload_version)
        _set(self, "raw", raw)
        _set(self, "_extensions", encode_extensions({} if extensions is None else extensions))
        _set(self, "_view", None if reader is None else ReadView(reader))

    @classmethod
    def of(
        cls,
        coordinate: Coordinate,
        payload: object,
        *,
        kind: EventKind | None = None,
        extensions: Mapping[str, bytes] | None = None,
        reader: Readable | None = None,
    ) -> GateContext:
        """The context of a payload object, or of a plain value under a kind.

        Raises: UnregisteredPayload, CanonicalError, InvalidInput where `kind` is not the
        class's own.
        """
        binding = payloads.lookup_type(type(payload))
        if binding is None:
            if kind is None:
                raise UnregisteredPayload(
                    f"{type(payload).__qualname__} is not a registered payload class",
                    field="payload",
                    advice="decorate the class with @payload, or pass kind=EventKind(…)",
                )
            raw = canonical.encode(payload)
            return cls(coordinate, kind, raw, extensions=extensions, reader=reader)
        if kind is not None and kind != binding.kind:
            raise InvalidInput(
                f"{type(payload).__qualname__} is of kind {binding.kind}, not {kind}",
                field="kind",
                value=kind,
                advice="leave kind= out for payload classes",
            )
        return cls(
            coordinate,
            binding.kind,
            binding.encode(payload),
            payload_version=binding.version,
            extensions=extensions,
            reader=reader,
        )

    @property
    def payload(self) -> Any:
        """The payload as its registered class; plain values where none is registered.

        Raises: DecodeError, CanonicalError.
        """
        binding = payloads.lookup_kind(self.kind.raw)
        return self.value if binding is None else binding.decode(self.raw, self.payload_version)

    @property
    def value(self) -> Any:
        """The payload as plain values. Raises: CanonicalError for raw bytes that are none."""
        return canonical.decode(self.raw)

    @property
    def extensions(self) -> Mapping[str, bytes]:
        """The proposed receipt extensions, name to bytes."""
        return MappingProxyType(dict(decode_extensions(self._extensions)))

    @property
    def view(self) -> ReadView:
        """The journal, to read. Raises: InvalidInput where the context was made without one."""
        if self._view is None:
            raise InvalidInput(
                "this context has no journal to read",
                field="view",
                advice="pass reader=store where the context is made",
            )
        return self._view

    def proposes_the_same(self, other: GateContext) -> bool:
        """Whether the same event would be written: coordinate, kind, version, bytes, extensions."""
        return self._proposal() == other._proposal()

    def _proposal(self) -> tuple[Any, ...]:
        return (self.coordinate, self.kind, self.payload_version, self.raw, self._extensions)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"GateContext is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"GateContext is immutable: can't delete {name!r}")

    def __repr__(self) -> str:
        return f"<GateContext {self.kind} {self.coordinate} {len(self.raw)} bytes>"
