"""Names: where an event belongs (`Coordinate`), and which events are meant (`Region`).

A coordinate is an entity, whose events form one chain, and a scope. Both are
texts of 1 to 1,024 UTF-8 bytes without control characters, `/`, `..`, `|`, `=`.
A region selects by entity prefix, exact scope, kind and entity clock. Which
entities belong to the system is the store's rule, not this module's.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn, Protocol, TypeGuard, cast

from blake3 import blake3

from batpak import canonical
from batpak.errors import CoordinateError, InvalidInput
from batpak.kinds import Category, EventKind

__all__ = ["MAX_COMPONENT_BYTES", "Coordinate", "Region", "Selectable", "name_from_path"]

MAX_COMPONENT_BYTES: Final = 1024
MAX_CLOCK: Final = 2**32 - 1

_CONTROL: Final = bytes(range(0x20)) + b"\x7f"
_FORBIDDEN: Final = _CONTROL + b"/|="
_FIRST_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

_set: Final = object.__setattr__


class Coordinate:
    """An entity and a scope; `str()` is `entity@scope`. Compared and hashed by value.

    `entity_bytes` and `scope_bytes` are their UTF-8 forms.
    Raises: CoordinateError, whose `reason` names the rule: not-text, empty-entity,
    empty-scope, surrogate, entity-too-long, scope-too-long, nul-byte,
    control-char, path-traversal, forbidden-separator.
    """

    __slots__ = ("entity", "entity_bytes", "scope", "scope_bytes")
    entity: str
    scope: str
    entity_bytes: bytes
    scope_bytes: bytes

    def __init__(self, entity: str, scope: str) -> None:
        try:
            entity_bytes, scope_bytes = entity.encode(), scope.encode()
        except (AttributeError, UnicodeEncodeError):
            raise _refusal(entity, scope) from None
        # One pass over both: a name is made for each append.
        both = entity_bytes + scope_bytes
        if (
            not 0 < len(entity_bytes) <= MAX_COMPONENT_BYTES
            or not 0 < len(scope_bytes) <= MAX_COMPONENT_BYTES
            or ".." in entity
            or ".." in scope
            or len(both.translate(None, _FORBIDDEN)) != len(both)
        ):
            raise _refusal(entity, scope)
        _set_entity(self, entity)
        _set_scope(self, scope)
        _set_entity_bytes(self, entity_bytes)
        _set_scope_bytes(self, scope_bytes)

    @classmethod
    def from_stored(cls, entity_bytes: bytes, scope_bytes: bytes) -> Coordinate:
        """The coordinate of these UTF-8 bytes, checked like any other.

        Raises: CoordinateError; bytes that are not UTF-8 have reason `not-utf-8`.
        """
        try:
            return cls(str(entity_bytes, "utf-8"), str(scope_bytes, "utf-8"))
        except UnicodeDecodeError as error:
            raise CoordinateError(
                "a stored name is not UTF-8",
                advice="the bytes are not a coordinate",
                value=bytes(error.object),
                reason="not-utf-8",
            ) from error

    @classmethod
    def parse(cls, text: str) -> Coordinate:
        """The coordinate written as `entity@scope`.

        Raises: CoordinateError; without an `@` the reason is `missing-at`, with more
        than one `ambiguous-at`, since both parts may hold one.
        """
        ats = text.count("@") if isinstance(text, str) else 0
        if ats != 1:
            few = "has no '@'" if ats == 0 else "has more than one '@'"
            raise CoordinateError(
                f"{text!r} {few}",
                advice="write entity@scope, or use Coordinate(entity, scope)",
                value=text,
                reason="missing-at" if ats == 0 else "ambiguous-at",
            )
        entity, _, scope = text.partition("@")
        return cls(entity, scope)

    def __str__(self) -> str:
        return f"{self.entity}@{self.scope}"

    def __repr__(self) -> str:
        return f"Coordinate({self.entity!r}, {self.scope!r})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(other) is Coordinate and other.entity == self.entity and other.scope == self.scope
        )

    def __hash__(self) -> int:
        return hash((self.entity, self.scope))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Coordinate is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Coordinate is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Coordinate, (self.entity, self.scope))

    def __canonical__(self) -> dict[str, str]:
        return {"entity": self.entity, "scope": self.scope}

    @classmethod
    def __from_canonical__(cls, plain: object) -> Coordinate:
        if not isinstance(plain, dict):
            raise CoordinateError(
                f"{plain!r} is not a map of entity and scope",
                advice="a coordinate is stored as {entity, scope}",
                value=plain,
                reason="not-a-map",
            )
        found = cast("dict[str, Any]", plain)
        return cls(found.get("entity", ""), found.get("scope", ""))


# The slots' own setters: __setattr__ is closed, and these are the cheapest way past it.
_set_entity: Final[Any] = Coordinate.__dict__["entity"].__set__
_set_scope: Final[Any] = Coordinate.__dict__["scope"].__set__
_set_entity_bytes: Final[Any] = Coordinate.__dict__["entity_bytes"].__set__
_set_scope_bytes: Final[Any] = Coordinate.__dict__["scope_bytes"].__set__


def _refusal(entity: object, scope: object) -> CoordinateError:
    """The first rule that the pair breaks, in the order of docs/format."""
    both: list[tuple[str, bytes]] = []
    for field, text in (("entity", entity), ("scope", scope)):
        if not isinstance(text, str):
            return _broken(field, text, "not-text", f"{field} {text!r} is not text", "give a str")
    for field, text in (("entity", entity), ("scope", scope)):
        if not text:
            return _broken(field, text, f"empty-{field}", f"the {field} is empty", "name it")
    for field, text in (("entity", entity), ("scope", scope)):
        try:
            both.append((field, cast("str", text).encode()))
        except UnicodeEncodeError:
            what = f"the {field} holds half of a surrogate pair, which UTF-8 can't express"
            return _broken(field, text, "surrogate", what, "decode the text properly first")
    for field, raw in both:
        if len(raw) > MAX_COMPONENT_BYTES:
            what = f"the {field} is {len(raw)} bytes long; {MAX_COMPONENT_BYTES} are allowed"
            return _broken(field, raw.decode(), f"{field}-too-long", what, "shorten it")
    for field, raw in both:
        found = _content_fault(raw)
        if found is not None:
            reason, what = found
            return _broken(
                field,
                raw.decode(),
                reason,
                f"the {field} holds {what}",
                "use ':' between parts; name_from_path turns any file path into a name",
            )
    raise AssertionError(f"no rule refuses {entity!r}, {scope!r}")  # unreachable


def _content_fault(raw: bytes) -> tuple[str, str] | None:
    control = _FIRST_CONTROL.search(raw)
    if control is not None:
        if control[0] == b"\0":
            return "nul-byte", f"a NUL at byte {control.start()}"
        return "control-char", f"control character 0x{control[0][0]:02X} at byte {control.start()}"
    if b"/" in raw or b".." in raw:
        return "path-traversal", "'/' or '..'"
    if b"|" in raw or b"=" in raw:
        return "forbidden-separator", "'|' or '='"
    return None


def _broken(field: str, value: object, reason: str, what: str, advice: str) -> CoordinateError:
    return CoordinateError(what, advice=advice, field=field, value=value, reason=reason)


# --- regions -----------------------------------------------------------------


class Selectable(Protocol):
    """What a region looks at in an event."""

    @property
    def coordinate(self) -> Coordinate: ...
    @property
    def kind(self) -> EventKind: ...
    @property
    def clock(self) -> int: ...


class Region:
    """A choice of events; what is None selects nothing out, all that is given must hold.

    `entity` is a name and everything below it: "player" means `player` and
    `player:…`, not `player2`. `scope` is exact. `kind` is a payload class, an
    EventKind or a Category, kept as one of the latter two. `clock` is (first,
    last), both included, counted per entity from 0; first > last selects nothing.
    The texts need not be valid names. Raises: InvalidInput for other types.
    """

    __slots__ = ("_below", "clock", "entity", "kind", "scope")
    entity: str | None
    scope: str | None
    kind: EventKind | Category | None
    clock: tuple[int, int] | None
    _below: str

    def __init__(
        self,
        entity: str | None = None,
        scope: str | None = None,
        kind: EventKind | Category | type[Any] | None = None,
        clock: tuple[int, int] | None = None,
    ) -> None:
        _set(self, "entity", _text_or_none("entity", entity))
        _set(self, "scope", _text_or_none("scope", scope))
        _set(self, "kind", _kind_of(kind))
        _set(self, "clock", _clock_range(clock))
        _set(self, "_below", f"{entity}:")

    @classmethod
    def all(cls) -> Region:
        """Every event."""
        return cls()

    def matches(self, event: Selectable) -> bool:
        """True where every axis that is given holds for this event."""
        if self.entity is not None:
            entity = event.coordinate.entity
            if entity != self.entity and not entity.startswith(self._below):
                return False
        if self.scope is not None and event.coordinate.scope != self.scope:
            return False
        if self.kind is not None:
            wanted = self.kind
            if type(wanted) is Category:
                if event.kind.category != wanted.value:
                    return False
            elif event.kind != wanted:
                return False
        return self.clock is None or self.clock[0] <= event.clock <= self.clock[1]

    def replace(self, **axes: Any) -> Region:
        """A region with these axes exchanged; None removes one. Raises: InvalidInput."""
        unknown = axes.keys() - {"entity", "scope", "kind", "clock"}
        if unknown:
            raise InvalidInput(
                f"a region has no axis {sorted(unknown)}",
                advice="the axes are entity, scope, kind and clock",
                field="axes",
                value=sorted(unknown),
            )
        mine: dict[str, Any] = {
            "entity": self.entity,
            "scope": self.scope,
            "kind": self.kind,
            "clock": self.clock,
        }
        return Region(**(mine | axes))

    def digest(self) -> bytes:
        """32 bytes that stand for this choice: equal exactly where the regions are equal.

        BLAKE3 of the canonical map {entity, scope, kind, clock}: texts or nil, kind
        as {"exact": u16}, {"category": 0..15} or nil, clock as [first, last] or nil.
        """
        return blake3(canonical.encode(self)).digest()

    def __canonical__(self) -> dict[str, Any]:
        kind = self.kind
        if isinstance(kind, Category):
            chosen: dict[str, int] | None = {"category": kind.value}
        else:
            chosen = None if kind is None else {"exact": kind.raw}
        return {"entity": self.entity, "scope": self.scope, "kind": chosen, "clock": self.clock}

    def _key(self) -> tuple[object, ...]:
        return (self.entity, self.scope, self.kind, self.clock)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and other._key() == self._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        axes = zip(("entity", "scope", "kind", "clock"), self._key(), strict=True)
        given = ", ".join(f"{name}={value!r}" for name, value in axes if value is not None)
        return f"Region({given})" if given else "Region.all()"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Region is immutable: can't set {name!r}; use replace()")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Region is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Region, self._key())


def _text_or_none(axis: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            pass
    raise InvalidInput(
        f"{value!r} can't be the {axis} of a region",
        advice="give text that has a UTF-8 form, or None for any",
        field=axis,
        value=value,
    )


def _kind_of(value: object) -> EventKind | Category | None:
    if value is None or isinstance(value, (EventKind, Category)):
        return value
    if isinstance(value, type):
        # Only the class's own mark: a subclass of a payload is another type, without a kind.
        own: object = vars(value).get("__batpak_kind__")
        if isinstance(own, EventKind):
            return own
        raise InvalidInput(
            f"{value.__qualname__} is not a payload class",
            advice="decorate it with @payload, or give an EventKind",
            field="kind",
            value=value,
        )
    raise InvalidInput(
        f"{value!r} is not a kind",
        advice="give a payload class, an EventKind or a Category",
        field="kind",
        value=value,
    )


def _clock_range(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    pair: tuple[object, ...] = ()
    if isinstance(value, (tuple, list)):
        pair = tuple(cast("tuple[object, ...]", value))
    if len(pair) == 2 and _is_clock(pair[0]) and _is_clock(pair[1]):
        return (pair[0], pair[1])
    raise InvalidInput(
        f"{value!r} is not a range of entity clocks",
        advice="give (first, last), both included, integers from 0 to 2^32 - 1",
        field="clock",
        value=value,
    )


def _is_clock(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CLOCK


# --- names from paths --------------------------------------------------------

# One match is one thing to escape; ".." is matched whole and loses its second dot.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f%|=:\udc80-\udcff]|\.\.|/")
_DIGEST_SUFFIX: Final = 17


def name_from_path(path: str | bytes, prefix: str = "") -> str:
    """A valid name for a file path, so that a folder is a region: `/` becomes `:`.

    `%`, `|`, `=`, `:`, control bytes, bytes that are not UTF-8 and the second dot
    of `..` become `%` and two uppercase hexadecimal digits a byte, so different
    paths have different names. An empty path becomes a lone `%`. A name that,
    prefix included, is over 1,024 bytes is cut between characters and ends in `~`
    and the first 16 hexadecimal digits of the BLAKE3 of the whole name.
    `prefix` is put in front as it is. A `str` path may hold the surrogates that
    Python's file functions use for undecodable bytes.
    Raises: CoordinateError for a prefix that no name can start with.
    """
    if not isinstance(prefix, str):
        raise _broken("prefix", prefix, "not-text", f"prefix {prefix!r} is no str", "")
    text = _path_bytes(path).decode("utf-8", "surrogateescape")
    encoded = _UNSAFE.sub(_escape, text) or "%"
    if prefix:
        _check_prefix(prefix)
        if prefix.endswith(".") and encoded.startswith("."):
            encoded = "%2E" + encoded[1:]
    name = prefix + encoded
    raw = name.encode()
    if len(raw) <= MAX_COMPONENT_BYTES:
        return name
    return f"{_cut(raw)}~{blake3(raw).hexdigest(8)}"


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found == "/":
        return ":"
    if found == "..":
        return ".%2E"
    return f"%{ord(found) & 0xFF:02X}"


def _path_bytes(path: str | bytes) -> bytes:
    if isinstance(path, bytes):
        return path
    if not isinstance(path, str):
        raise _broken("path", path, "not-text", f"path {path!r} is neither str nor bytes", "")
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte has an encoding of its own, which is not UTF-8.
        return b"".join(
            c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "surrogatepass")
            for c in path
        )


def _check_prefix(prefix: str) -> None:
    checked = Coordinate(prefix, "prefix")
    if len(checked.entity_bytes) > MAX_COMPONENT_BYTES // 2:
        what = f"the prefix is {len(checked.entity_bytes)} bytes long"
        raise _broken("prefix", prefix, "prefix-too-long", what, "at most 512 bytes are allowed")


def _cut(raw: bytes) -> str:
    """The longest start of a name that leaves room for the digest and splits nothing."""
    end = MAX_COMPONENT_BYTES - _DIGEST_SUFFIX
    while raw[end] & 0xC0 == 0x80:
        end -= 1
    percent = raw.rfind(b"%", end - 2, end)
    if percent >= 0:
        end = percent
    return raw[:end].decode()
