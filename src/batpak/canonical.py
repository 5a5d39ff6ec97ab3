"""The canonical form of Python values: MessagePack with one way to write each value.

Fields and dict entries keep their order, names are text, headers are the shortest,
integers are 64 bits, bytes are bin. What has no rule is refused by name and place,
never guessed. Writing is strict, reading tolerant, `strict=True` reads as an
auditor. Values are walked; classes are analysed once, and a class whose values
msgspec writes canonically by itself pays only for a check of its fields' types.
Knows nothing of kinds, versions or journals. Source: docs/canonical.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar, cast, get_origin, overload
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec import inspect as mi

from batpak.errors import CanonicalError

__all__ = ["MAX_DEPTH", "Codec", "codec_for", "decode", "encode", "sort_keys"]

T = TypeVar("T")

MAX_DEPTH: Final = 128
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


# --- hooks by which a class says its own plain form ----------------------------


def _enc_hook(value: Any) -> Any:
    return value.__canonical__()


def _dec_hook(wanted: Any, plain: Any) -> Any:
    if type(plain) is wanted or wanted is object:
        return plain
    # A generic class is asked for with its parameters, which do not pass dunder names on.
    return getattr(wanted, "__origin__", wanted).__from_canonical__(plain)


def _ext_hook(code: int, _data: memoryview) -> Any:
    raise ValueError(f"extension type {code} has no meaning here")


_write: Final = msgspec.msgpack.Encoder(
    enc_hook=_enc_hook, uuid_format="bytes", decimal_format="string"
).encode
_read: Final = msgspec.msgpack.Decoder(ext_hook=_ext_hook).decode
# What the plain tree may hold besides JSON's types; text is then never taken for these.
_BUILTIN: Final = (bytes, datetime)
# What msgspec raises about a value that it can't write or bytes that it can't read.
FAULTS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, AttributeError)


class _Refused(Exception):
    """A value without canonical form; the steps to it are collected on the way out."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.steps: list[str] = []

    def error(self) -> CanonicalError:
        path = "$" + "".join(reversed(self.steps))
        return CanonicalError(self.what, advice=self.advice, path=path)


_TOO_DEEP: Final = f"containers are nested more than {MAX_DEPTH} deep"


def _check_room(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _Refused(_TOO_DEEP, "flatten the value; a value that contains itself has no end")


# --- untyped values: a walk ----------------------------------------------------


def _lower(value: Any, depth: int) -> Any:
    """The plain tree (None, bool, int, float, str, bytes, list, dict) of any value."""
    kind = cast("type[Any]", type(value))
    if kind in _AS_IS:
        return value
    if kind is str:
        return value if value.isascii() else _lower_text(value)
    if kind is int:
        return _lower_int(value)
    if kind is dict:
        return _lower_map(value, depth)
    if kind is list or kind is tuple:
        return _lower_items(value, depth)
    return _lower_other(value, depth)


_AS_IS: Final = frozenset((type(None), bool, float, bytes))


def _lower_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Refused(
            f"half of a surrogate pair at character {error.start} has no UTF-8 form",
            "decode the text properly first",
        ) from error
    return str(value)


def _lower_int(value: int) -> int:
    if not _INT_MIN <= value <= _INT_MAX:
        bound = "below -2^63" if value < 0 else "above 2^64 - 1"
        raise _Refused(
            f"an integer of {value.bit_length()} bits is {bound}",
            "store it as text or bytes; integers reach from -2^63 to 2^64 - 1",
        )
    return int(value)


def _lower_key(key: Any) -> str | int:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return _lower_text(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return _lower_int(key)
    shown = "NaN" if key != key else repr(key)
    raise _Refused(
        f"a {type(key).__name__} can't be the key of a map: {shown}", "use text or an integer"
    )


def _lower_map(value: Mapping[Any, Any], depth: int) -> dict[str | int, Any]:
    _check_room(depth)
    plain: dict[str | int, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                plain[_lower_key(key)] = _lower(item, depth + 1)
            else:
                plain[key] = _lower(item, depth + 1)
    except _Refused as refused:
        refused.steps.append(f"[{key!r}]")
        raise
    return _unique(plain, value)


def _unique(plain: dict[Any, Any], source: Mapping[Any, Any]) -> dict[Any, Any]:
    if len(plain) != len(source):
        raise _Refused("two keys of a map have one canonical form", "keep one of them")
    return plain


def _lower_items(value: Iterable[Any], depth: int) -> list[Any]:
    _check_room(depth)
    plain: list[Any] = []
    try:
        for item in value:
            plain.append(_lower(item, depth + 1))
    except _Refused as refused:
        refused.steps.append(f"[{len(plain)}]")
        raise
    return plain


def _lower_datetime(value: datetime) -> int:
    if value.utcoffset() is None:
        raise _Refused(
            "a datetime without a time zone names no instant",
            "give it one: datetime.now(timezone.utc)",
        )
    return (value - _EPOCH) // _MICROSECOND


def _lower_other(value: Any, depth: int) -> Any:
    """Everything that is not exactly one of the plain types."""
    kind = cast("type[Any]", type(value))
    if isinstance(value, enum.Enum):
        return _lower(value.value, depth)
    if isinstance(value, datetime):
        return _lower_datetime(value)
    if isinstance(value, UUID):
        return value.bytes
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (bytearray, memoryview, bytes)):
        return bytes(cast("bytes", value))
    if hasattr(kind, "__canonical__"):
        return _lower(value.__canonical__(), depth)
    if _has_fields(kind):
        try:
            codec = codec_for(kind)
        except CanonicalError as error:
            raise _Refused(f"{kind.__qualname__}: {error.what}", error.advice) from error
        return codec.lower(value, depth)
    if isinstance(value, str):
        return _lower_text(value)
    if isinstance(value, int):
        return _lower_int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        return _lower_map(cast("dict[Any, Any]", value), depth)
    if isinstance(value, (list, tuple)):
        return _lower_items(cast("list[Any]", value), depth)
    raise _no_rule(kind)


def _no_rule(kind: type[Any]) -> _Refused:
    return _Refused(f"a {kind.__qualname__} has no canonical form", _ADVICE.get(kind, _ADVICE_ANY))


_ADVICE_ANY: Final = "turn it into text, numbers, bytes, lists or dicts first"
_ADVICE: Final[dict[type[Any], str]] = {
    set: "a set has no order: use sorted(...)",
    frozenset: "a set has no order: use sorted(...)",
    timedelta: "store a number of microseconds, and say so in the field's name",
    date: "store an aware datetime, or the text of isoformat()",
    time: "store an aware datetime, or the text of isoformat()",
    complex: "store a list of two numbers",
    msgspec.Raw: "append prepared bytes with append_raw",
}


def _has_fields(kind: type[Any]) -> bool:
    return (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
    )


def sort_keys(value: Any) -> Any:
    """A copy of dicts and lists in which each dict's text keys ascend by their UTF-8 bytes.

    For data whose order carries no meaning and must not change the bytes.
    Raises: CanonicalError for a key that is no text.
    """
    if isinstance(value, dict):
        found = cast("dict[Any, Any]", value)
        for key in found:
            if not isinstance(key, str):
                raise CanonicalError(
                    f"key {key!r} is no text, so it has no place in the order of texts",
                    advice="use text keys",
                )
        ordered = sorted(found, key=lambda key: key.encode("utf-8", "surrogatepass"))
        return {key: sort_keys(found[key]) for key in ordered}
    if isinstance(value, (list, tuple)):
        return [sort_keys(item) for item in cast("list[Any]", value)]
    return value


# --- types: one node for each annotation ----------------------------------------


class _Node:
    """What is known of one annotation: how its values are written and read."""

    # False where msgspec's own decoder can't give the value back, so `lift` must.
    readable = True
    # True where the annotation alone does not bound the nesting of a value.
    unbounded = False

    def lower(self, value: Any, depth: int) -> Any:
        """The plain tree of a value. Raises: _Refused for values of other types."""
        raise NotImplementedError

    def lift(self, plain: Any) -> Any:
        """The plain tree in the shape that msgspec.convert expects; wrong shapes pass through."""
        return plain

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        """Source that is true where msgspec by itself writes `value` (source too) canonically.

        Objects it names go into `names`. None where there is no such test.
        """
        return None

    def takes(self, plain: Any) -> bool:
        """True where a stored value of this shape can be meant for this member of a union."""
        raise NotImplementedError

    def owns(self, value: Any) -> bool:
        """True where a Python value belongs to this member of a union."""
        raise NotImplementedError


def _mismatch(wanted: str, value: Any) -> _Refused:
    found = cast("type[Any]", type(value))
    advice = _ADVICE.get(found, "give a value of the declared type, or change the declaration")
    return _Refused(f"the field is declared {wanted} and holds a {found.__qualname__}", advice)


def _name(names: dict[str, Any], thing: Any) -> str:
    name = f"n{len(names)}"
    names[name] = thing
    return name


class _Leaf(_Node):
    """A type without parts. `direct` are the exact types that msgspec writes canonically."""

    def __init__(
        self,
        name: str,
        python: type[Any] | tuple[type[Any], ...],
        stored: type[Any] | tuple[type[Any], ...],
        direct: type[Any] | None = None,
    ) -> None:
        self.name = name
        self.python = python
        self.stored = stored
        self.direct = direct

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        return None if self.direct is None else f"type({value}) is {_name(names, self.direct)}"

    def owns(self, value: Any) -> bool:
        if isinstance(value, bool):
            return self.python is bool
        return isinstance(value, self.python)

    def takes(self, plain: Any) -> bool:
        if isinstance(plain, bool):
            return self.stored is bool
        return isinstance(plain, self.stored)

    def lower(self, value: Any, depth: int) -> Any:
        if not self.owns(value):
            raise _mismatch(self.name, value)
        return _lower(value, depth)


class _Float(_Leaf):
    """Written as 64 bits always: an int in a float field becomes one, if it is exact."""

    def lower(self, value: Any, depth: int) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                exact = float(value)
            except OverflowError:
                exact = float("inf")
            if exact != value:
                raise _Refused(f"{value} is not exact as a float", "declare the field int")
            return exact
        return super().lower(value, depth)


class _Bytes(_Leaf):
    """Written as bin; read from bin, and from an array of integers of 0 to 255."""

    def takes(self, plain: Any) -> bool:
        return isinstance(plain, (bytes, list))

    def lift(self, plain: Any) -> Any:
        if isinstance(plain, list):
            try:
                return bytes(cast("list[int]", plain))
            except (TypeError, ValueError):
                return cast("Any", plain)
        return plain


class _Datetime(_Leaf):
    """Written as integer microseconds since 1970 UTC; read from them."""

    readable = False

    def lift(self, plain: Any) -> Any:
        if isinstance(plain, int) and not isinstance(plain, bool):
            try:
                return _EPOCH + timedelta(microseconds=plain)
            except OverflowError:
                return plain
        return plain


class _Any(_Node):
    """An annotation that says nothing: values are walked, and read as plain values."""

    unbounded = True

    def owns(self, value: Any) -> bool:
        return True

    def takes(self, plain: Any) -> bool:
        return True

    def lower(self, value: Any, depth: int) -> Any:
        return _lower(value, depth)


class _Literal(_Node):
    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values

    def owns(self, value: Any) -> bool:
        return any(value == known and type(value) is type(known) for known in self.values)

    def takes(self, plain: Any) -> bool:
        return self.owns(plain)

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        types = _name(names, frozenset(map(type, self.values)))
        return f"type({value}) in {types} and {value} in {_name(names, frozenset(self.values))}"

    def lower(self, value: Any, depth: int) -> Any:
        if not self.owns(value):
            shown = ", ".join(map(repr, self.values))
            raise _Refused(f"{value!r} is not one of {shown}", "give one of them")
        return _lower(value, depth)


class _Enum(_Leaf):
    def __init__(self, cls: type[enum.Enum]) -> None:
        integers = all(isinstance(member.value, int) for member in cls)
        super().__init__(cls.__qualname__, cls, int if integers else str, cls)


class _Custom(_Node):
    """A class with `__canonical__` and `__from_canonical__`.

    With `__canonical_family__` its subclasses are its variants: the base is declared, a
    variant stored, and the plain form says which. Variants hold values of any type, so
    that they are walked, never left to msgspec.
    """

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.unbounded = self.family = getattr(cls, "__canonical_family__", False)

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        return None if self.family else f"type({value}) is {_name(names, self.cls)}"

    def owns(self, value: Any) -> bool:
        return isinstance(value, self.cls) if self.family else type(value) is self.cls

    def takes(self, plain: Any) -> bool:
        return plain is not None

    def lower(self, value: Any, depth: int) -> Any:
        if not self.owns(value):
            raise _mismatch(self.cls.__qualname__, value)
        return _lower(value.__canonical__(), depth)


class _Items(_Node):
    """list[X], tuple[X, ...], tuple[X, Y]: an array."""

    def __init__(self, first: _Node | None, fixed: tuple[_Node, ...] | None) -> None:
        self.item = first
        self.fixed = fixed
        parts = fixed if fixed is not None else (first,)
        self.readable = all(part.readable for part in parts if part is not None)

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        if self.item is None:
            return None
        each = _check_each(self.item, value, names)
        return each and f"type({value}) in {_name(names, (list, tuple))} and {each}"

    def owns(self, value: Any) -> bool:
        return isinstance(value, (list, tuple))

    def takes(self, plain: Any) -> bool:
        return isinstance(plain, list)

    def _nodes(self, count: int) -> Iterable[_Node]:
        if self.fixed is not None:
            return self.fixed
        return (cast("_Node", self.item),) * count

    def lower(self, value: Any, depth: int) -> Any:
        if not self.owns(value):
            raise _mismatch("a list or tuple", value)
        _check_room(depth)
        if self.fixed is not None and len(value) != len(self.fixed):
            raise _Refused(
                f"the field is declared with {len(self.fixed)} items and has {len(value)}",
                "give as many items as declared",
            )
        plain: list[Any] = []
        try:
            for node, item in zip(self._nodes(len(value)), value, strict=True):
                plain.append(node.lower(item, depth + 1))
        except _Refused as refused:
            refused.steps.append(f"[{len(plain)}]")
            raise
        return plain

    def lift(self, plain: Any) -> Any:
        if not isinstance(plain, list):
            return plain
        found = cast("list[Any]", plain)
        if self.fixed is not None and len(found) != len(self.fixed):
            return found
        return [node.lift(item) for node, item in zip(self._nodes(len(found)), found, strict=True)]


class _Map(_Node):
    """dict[K, V], where K is text, an integer, or an Enum of either."""

    def __init__(self, key: _Node, value: _Node) -> None:
        self.key = key
        self.item = value
        self.readable = value.readable

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        keys = _check_each(self.key, value, names)
        items = _check_each(self.item, f"{value}.values()", names)
        return keys and items and f"type({value}) is dict and {keys} and {items}"

    def owns(self, value: Any) -> bool:
        return isinstance(value, dict)

    def takes(self, plain: Any) -> bool:
        return isinstance(plain, dict)

    def lower(self, value: Any, depth: int) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("a dict", value)
        _check_room(depth)
        found = cast("dict[Any, Any]", value)
        plain: dict[Any, Any] = {}
        key: Any = None
        try:
            for key, item in found.items():
                plain[_lower_key(self.key.lower(key, depth + 1))] = self.item.lower(item, depth + 1)
        except _Refused as refused:
            refused.steps.append(f"[{key!r}]")
            raise
        return _unique(plain, found)

    def lift(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        found = cast("dict[Any, Any]", plain)
        return {key: self.item.lift(item) for key, item in found.items()}


def _check_each(node: _Node, values: str, names: dict[str, Any]) -> str | None:
    """Source that is true where `check` of the node is, for each of the iterable's values."""
    if isinstance(node, _Leaf) and node.direct is not None:
        # One pass in C for the common case: a list of values of one type.
        return f"{_name(names, frozenset((node.direct,)))}.issuperset(map(type, {values}))"
    each = f"v{len(names)}"
    names[each] = None
    found = node.check(each, names)
    return found and f"all(({found}) for {each} in {values})"


@dataclasses.dataclass(slots=True)
class _Field:
    name: str
    key: str
    node: _Node
    required: bool
    # The field may be absent: its default is UNSET, or a TypedDict does not require it.
    omittable: bool


class _Record(_Node):
    """A class with named fields, or a TypedDict: a map in the order of declaration."""

    def __init__(self, cls: type[Any], fields: tuple[_Field, ...], tag: tuple[str, Any] | None):
        self.cls = cls
        self.fields = fields
        self.tag = tag
        self.is_struct = issubclass(cls, msgspec.Struct)
        self.is_dict = issubclass(cls, dict)
        self.readable = all(field.node.readable for field in fields)

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        # Of attrs objects msgspec writes the attributes that it finds, in an order of its own.
        return self.check_fields(value, names) if self.is_struct else None

    def check_fields(self, value: str, names: dict[str, Any]) -> str | None:
        parts = [f"type({value}) is {_name(names, self.cls)}"]
        for field in self.fields:
            part = field.node.check(f"{value}.{field.name}", names)
            if part is None:
                return None
            if field.omittable and self.is_struct:
                part = f"{value}.{field.name} is {_name(names, UNSET)} or {part}"
            parts.append(f"({part})")
        return " and ".join(parts)

    def owns(self, value: Any) -> bool:
        return type(value) is (dict if self.is_dict else self.cls)

    def takes(self, plain: Any) -> bool:
        if not isinstance(plain, dict):
            return False
        found = cast("dict[Any, Any]", plain)
        return self.tag is None or found.get(self.tag[0]) == self.tag[1]

    def _get(self, value: Any, field: _Field) -> Any:
        if self.is_dict:
            return value[field.key] if field.required or field.key in value else UNSET
        return getattr(value, field.name)

    def lower(self, value: Any, depth: int) -> Any:
        if not self.owns(value):
            raise _mismatch(self.cls.__qualname__, value)
        _check_room(depth)
        plain: dict[str, Any] = {} if self.tag is None else dict((self.tag,))
        name = ""
        try:
            for field in self.fields:
                name = field.name
                item = self._get(value, field)
                if item is UNSET and field.omittable:
                    continue
                plain[field.key] = field.node.lower(item, depth + 1)
        except _Refused as refused:
            refused.steps.append(f".{name}")
            raise
        except (AttributeError, KeyError) as error:
            refused = _Refused("the field has no value", "give it one")
            refused.steps.append(f".{name}")
            raise refused from error
        return plain

    def lift(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        found = cast("dict[Any, Any]", plain)
        lifted: dict[Any, Any] = {}
        if self.tag is not None and self.tag[0] in found:
            lifted[self.tag[0]] = found[self.tag[0]]
        for field in self.fields:
            if field.key in found:
                lifted[field.key] = field.node.lift(found[field.key])
            elif field.required and field.node.takes(None) and not self.is_dict:
                lifted[field.key] = None
        return lifted


class _Union(_Node):
    def __init__(self, members: tuple[_Node, ...]) -> None:
        self.members = members
        self.readable = all(member.readable for member in members)

    def check(self, value: str, names: dict[str, Any]) -> str | None:
        parts = [member.check(value, names) for member in self.members]
        return None if None in parts else " or ".join(f"({part})" for part in parts)

    def owns(self, value: Any) -> bool:
        return any(member.owns(value) for member in self.members)

    def takes(self, plain: Any) -> bool:
        return any(member.takes(plain) for member in self.members)

    def lower(self, value: Any, depth: int) -> Any:
        for member in self.members:
            if member.owns(value):
                return member.lower(value, depth)
        for member in self.members:
            if isinstance(member, _Float):
                return member.lower(value, depth)
        raise _mismatch("a union of other types", value)

    def lift(self, plain: Any) -> Any:
        for member in self.members:
            if member.takes(plain):
                return member.lift(plain)
        return plain


# --- from annotations to nodes ---------------------------------------------------


class _Later(_Node):
    """A type inside its own declaration; the node is filled in when it is done."""

    unbounded = True
    node: _Node

    def owns(self, value: Any) -> bool:
        return self.node.owns(value)

    def takes(self, plain: Any) -> bool:
        return self.node.takes(plain)

    def lower(self, value: Any, depth: int) -> Any:
        return self.node.lower(value, depth)

    def lift(self, plain: Any) -> Any:
        return self.node.lift(plain)


class _Builder:
    """Turns msgspec's description of a type into nodes, refusing what has no rule."""

    def __init__(self) -> None:
        self.open: dict[int, _Later] = {}
        self.unbounded = False
        # A constraint that msgspec checks when it reads, so a write must read back.
        self.constrained = False
        self.forbids_unknown: list[type[Any]] = []
        self.recursive = False

    def build(self, info: mi.Type) -> _Node:
        known = self.open.get(id(info))
        if known is not None:
            self.unbounded = self.recursive = True
            return known
        later = self.open[id(info)] = _Later()
        node = self._build(info)
        later.node = node
        del self.open[id(info)]
        return node

    def _build(self, info: mi.Type) -> _Node:
        make = _LEAVES.get(type(info))
        if make is not None:
            self._note_constraints(info)
            return make()
        match info:
            case mi.AnyType():
                self.unbounded = True
                return _Any()
            case mi.DateTimeType():
                if info.tz is False:
                    raise _Refused("a naive datetime names no instant", "declare it aware")
                return _Datetime("datetime", datetime, (int, datetime))
            case mi.EnumType():
                return self._enum(info.cls)
            case mi.LiteralType():
                return _Literal(info.values)
            case mi.ListType() | mi.VarTupleType():
                self._note_constraints(info)
                return _Items(self._step(info.item_type, "[]"), None)
            case mi.TupleType():
                items = (self._step(part, f"[{n}]") for n, part in enumerate(info.item_types))
                return _Items(None, tuple(items))
            case mi.DictType():
                self._note_constraints(info)
                return _Map(self._key(info.key_type), self._step(info.value_type, "[*]"))
            case mi.UnionType():
                return self._union(info)
            case mi.StructType():
                return self._struct(info)
            case mi.DataclassType() | mi.TypedDictType():
                cls = get_origin(info.cls) or info.cls
                return _Record(cls, self._fields(info.fields), None)
            case mi.CustomType():
                return self._custom(info.cls)
            case _:
                name, python = _REFUSED.get(type(info), (type(info).__name__, object))
                advice = _ADVICE.get(python, "use a type that docs/canonical lists")
                raise _Refused(f"a {name} has no canonical form", advice)

    def _step(self, info: mi.Type, step: str) -> _Node:
        try:
            return self.build(info)
        except _Refused as refused:
            refused.steps.append(step)
            raise

    def _fields(self, fields: Iterable[mi.Field]) -> tuple[_Field, ...]:
        return tuple(
            _Field(
                name=field.name,
                key=_lower_text(field.encode_name),
                node=self._step(field.type, f".{field.name}"),
                required=field.required,
                omittable=field.default is UNSET
                or (not field.required and field.default is field.default_factory),
            )
            for field in fields
        )

    def _struct(self, info: mi.StructType) -> _Node:
        # A generic class with its parameters; its objects are of the class itself.
        cls = get_origin(info.cls) or info.cls
        config = cls.__struct_config__
        name = cls.__qualname__
        if info.array_like:
            raise _Refused(f"{name} is array_like, and fields are stored by name", "leave it out")
        if config.omit_defaults:
            # msgspec compares defaults by identity, so equal values would give different bytes.
            raise _Refused(f"{name} omits defaults, and every field is stored", "leave it out")
        if info.forbid_unknown_fields:
            self.forbids_unknown.append(cls)
        tag = None if info.tag_field is None else (info.tag_field, info.tag)
        return _Record(cls, self._fields(info.fields), tag)

    def _enum(self, cls: type[enum.Enum]) -> _Node:
        if issubclass(cls, enum.Flag):
            raise _Refused(f"{cls.__qualname__} is a set of flags", "declare the field int")
        for member in cls:
            _lower(member.value, 0)
        return _Enum(cls)

    def _key(self, info: mi.Type) -> _Node:
        self._note_constraints(info)
        match info:
            case mi.StrType() | mi.IntType() | mi.AnyType():
                return _KEYS[type(info)]()
            case mi.EnumType():
                return self._enum(info.cls)
            case mi.LiteralType() if all(type(v) in (str, int) for v in info.values):
                return _Literal(info.values)
            case _:
                raise _Refused("keys of a map are text or integers", "declare them str or int")

    def _union(self, info: mi.UnionType) -> _Node:
        members = tuple(self.build(part) for part in info.types)
        stored = [type(part) for part in info.types]
        if mi.DateTimeType in stored and (mi.IntType in stored or mi.EnumType in stored):
            raise _Refused(
                "a datetime is stored as an integer, so the two could not be told apart",
                "declare one of them",
            )
        return _Union(members)

    def _custom(self, cls: type[Any]) -> _Node:
        if cls is object:
            self.unbounded = True
            return _Any()
        if hasattr(cls, "__canonical__") and hasattr(cls, "__from_canonical__"):
            node = _Custom(cls)
            self.unbounded = self.unbounded or node.unbounded
            return node
        raise _no_rule(cls)

    def _note_constraints(self, info: mi.Type) -> None:
        for name in _CONSTRAINTS:
            if getattr(info, name, None) is not None:
                self.constrained = True


_CONSTRAINTS: Final = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_LEAVES: Final[dict[type[Any], Callable[[], _Node]]] = {
    mi.NoneType: lambda: _Leaf("None", type(None), type(None), type(None)),
    mi.BoolType: lambda: _Leaf("bool", bool, bool, bool),
    mi.IntType: lambda: _Leaf("int", int, int, int),
    mi.FloatType: lambda: _Float("float", float, (float, int), float),
    mi.StrType: lambda: _Leaf("str", str, str, str),
    mi.BytesType: lambda: _Bytes("bytes", (bytes, bytearray, memoryview), bytes, bytes),
    mi.ByteArrayType: lambda: _Bytes("bytearray", (bytes, bytearray), bytes, bytearray),
    mi.UUIDType: lambda: _Leaf("UUID", UUID, (bytes, str), UUID),
    mi.DecimalType: lambda: _Leaf("Decimal", Decimal, (str, int, float), Decimal),
}
_KEYS: Final[dict[type[Any], Callable[[], _Node]]] = {
    mi.StrType: _LEAVES[mi.StrType],
    mi.IntType: _LEAVES[mi.IntType],
    mi.AnyType: _Any,
}
_REFUSED: Final[dict[type[Any], tuple[str, type[Any]]]] = {
    mi.SetType: ("set", set),
    mi.FrozenSetType: ("frozenset", frozenset),
    mi.TimeDeltaType: ("timedelta", timedelta),
    mi.DateType: ("date", date),
    mi.TimeType: ("time", time),
    mi.RawType: ("Raw", msgspec.Raw),
    mi.ExtType: ("Ext", msgspec.msgpack.Ext),
    mi.NamedTupleType: ("NamedTuple", tuple),
    mi.MemoryViewType: ("memoryview", memoryview),
}


# --- codecs ------------------------------------------------------------------------


class Codec(Generic[T]):
    """Writes and reads values of one type; made by `codec_for`, once for each.

    `encode(value)` gives canonical bytes, `decode(raw)` a value: the two that are
    on every append's and every read's way. Both raise CanonicalError.
    """

    __slots__ = ("_build", "_node", "decode", "direct", "encode", "forbids_unknown", "type")
    type: Any
    encode: Callable[[T], bytes]
    decode: Callable[[bytes | memoryview], T]
    direct: Callable[[bytes | memoryview], T]
    """As `decode` where nothing is unusual; any exception means: ask `decode`."""
    forbids_unknown: tuple[type[Any], ...]

    def __init__(self, wanted: Any) -> None:
        """Raises: CanonicalError for a type that has no rule, or can't be resolved."""
        builder = _Builder()
        try:
            self._node = builder.build(mi.type_info(wanted))
            read = msgspec.msgpack.Decoder(wanted, dec_hook=_dec_hook, ext_hook=_ext_hook).decode
        except _Refused as refused:
            raise refused.error() from refused.__cause__
        except NameError:
            raise
        except (TypeError, ValueError) as error:
            name = getattr(wanted, "__qualname__", repr(wanted))
            # Behind the dash msgspec names the type, and says that it does not support it.
            reason = str(error).partition(" - type `")[0]
            raise CanonicalError(
                f"{name} can't be stored: {reason}",
                advice="use types that docs/canonical lists",
                path="$",
            ) from error
        self.type = wanted
        self.forbids_unknown = tuple(builder.forbids_unknown)
        self.decode = self._reader(read, builder)
        self.direct = read if self._node.readable and not builder.unbounded else self.decode
        self.encode = self._writer(builder)

    def lower(self, value: Any, depth: int) -> Any:
        """The plain tree of a value that stands `depth` containers deep."""
        return self._node.lower(value, depth)

    def _writer(self, builder: _Builder) -> Callable[[T], bytes]:
        node, decode = self._node, self.decode

        def encode_slowly(value: T) -> bytes:
            try:
                raw = _write(node.lower(value, 0))
            except _Refused as refused:
                raise refused.error() from refused.__cause__
            if builder.constrained:
                decode(raw)
            return raw

        if isinstance(node, _Record) and not builder.constrained:
            return _compile(node, encode_slowly)
        return encode_slowly

    def _reader(
        self, read: Callable[[Any], T], builder: _Builder
    ) -> Callable[[bytes | memoryview], T]:
        node, wanted = self._node, self.type

        def decode_slowly(raw: bytes | memoryview) -> T:
            plain = _plain(raw)
            try:
                return msgspec.convert(
                    node.lift(plain), wanted, dec_hook=_dec_hook, builtin_types=_BUILTIN
                )
            except FAULTS as error:
                raise _unfit(error, wanted) from error

        if not node.readable:
            return decode_slowly

        def decode_deep(raw: bytes | memoryview) -> T:
            _check_depth(raw)
            try:
                return read(raw)
            except (*FAULTS, RecursionError):
                return decode_slowly(raw)

        if builder.unbounded:
            return decode_deep

        def decode(raw: bytes | memoryview) -> T:
            try:
                return read(raw)
            except (*FAULTS, RecursionError):
                # Other shapes that are tolerated, or else an error that says where.
                return decode_slowly(raw)

        return decode


def _compile(node: _Record, slowly: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Encode by msgspec alone where each field's exact type says that it writes it right.

    Compiled, since this is the one thing that every append pays for: for a class of
    two integers `type(v) is C and type(v.x) is int and type(v.y) is int`. Field
    names are Python identifiers; nothing else goes into the source.
    """
    names: dict[str, Any] = {"write": _write, "slowly": slowly, "faults": FAULTS}
    check = node.check_fields("v", names)
    if check is None or not all(field.name.isidentifier() for field in node.fields):
        return slowly
    plain = "v"
    if not node.is_struct:
        plain = ", ".join(f"{field.key!r}: v.{field.name}" for field in node.fields).join("{}")
    source = (
        "def encode(v):\n"
        "    try:\n"
        f"        if {check}:\n"
        f"            return write({plain})\n"
        "    except faults:\n"
        "        pass\n"
        "    return slowly(v)\n"
    )
    exec(compile(source, f"<canonical {node.cls.__qualname__}>", "exec"), names)
    return cast("Callable[[Any], bytes]", names["encode"])


def codec_for(wanted: type[T]) -> Codec[T]:
    """The codec of a type or annotation.

    Raises: CanonicalError for types without a rule; NameError where an annotation
    names something that does not exist yet.
    """
    try:
        return _codec_for(wanted)
    except NameError:
        raise
    except TypeError:
        # An annotation that can't be hashed can't be remembered either.
        return Codec(wanted)


@lru_cache(maxsize=4096)
def _codec_for(wanted: Any) -> Codec[Any]:
    return Codec(wanted)


# --- reading -------------------------------------------------------------------------

# Deleting every byte but those that can head an array or map bounds the depth from above.
_NO_CONTAINER: Final = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


def _check_depth(raw: bytes | memoryview) -> None:
    if len(raw) > MAX_DEPTH:
        data = bytes(raw)
        if len(data.translate(None, _NO_CONTAINER)) > MAX_DEPTH:
            _scan(data, strict=False)


def _plain(raw: bytes | memoryview) -> Any:
    """The value that the bytes hold, without a type. Raises: CanonicalError."""
    _check_depth(raw)
    try:
        return _read(raw)
    except FAULTS as error:
        _scan(bytes(raw), strict=False)
        raise CanonicalError(
            f"the bytes can't be read: {error}", advice="they are not canonical MessagePack"
        ) from error


_AT: Final = re.compile(r"(?s)(.*?)(?: - at `(?:key in )?(\$[^`]*)`)?")


def _unfit(error: Exception, wanted: Any) -> CanonicalError:
    """msgspec's message, its path apart from its text."""
    found = _AT.fullmatch(str(error))
    what, path = (found[1], found[2]) if found else (str(error), None)
    name = getattr(wanted, "__qualname__", repr(wanted))
    return CanonicalError(
        f"the bytes do not hold a {name}: {what}",
        advice="read them without a type to see what they hold",
        path=path or "$",
    )


def encode(value: object) -> bytes:
    """The canonical bytes of a value.

    Raises: CanonicalError with `path` (like `$.items[3]`) for what has no rule.
    """
    try:
        return _write(_lower(value, 0))
    except _Refused as refused:
        raise refused.error() from refused.__cause__


@overload
def decode(data: bytes | memoryview, type: type[T], strict: bool = False) -> T: ...
@overload
def decode(data: bytes | memoryview, type: None = None, strict: bool = False) -> Any: ...
def decode(data: bytes | memoryview, type: Any = None, strict: bool = False) -> Any:
    """The value of canonical bytes: plain, or of `type`.

    Tolerated: longer headers than needed, unknown and reordered fields, absent
    fields with a default or that may be None, arrays of integers for bytes. With
    `strict` nothing is: the bytes must be exactly those that `encode` gives.
    Raises: CanonicalError with `offset` for the bytes, `path` for the value.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise CanonicalError(
            f"a {data.__class__.__qualname__} can't be decoded", advice="give bytes"
        )
    if strict:
        _scan(bytes(data), strict=True)
    codec = None if type is None else codec_for(type)
    value = _plain(data) if codec is None else codec.decode(data)
    if strict:
        again = encode(value) if codec is None else codec.encode(value)
        if again != data:
            raise CanonicalError(
                "the bytes are not those that this value is written as",
                advice="the writer was not canonical, or the bytes are of another type",
                offset=_first_difference(again, bytes(data)),
            )
    return value


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _family(head: int) -> tuple[str, int]:
    """What a head byte opens: its family, and how many bytes of size or value follow."""
    if head < 0x80 or head >= 0xE0:
        return "fixint", 0
    if head < 0x90:
        return "map", 0
    if head < 0xA0:
        return "array", 0
    if head < 0xC0:
        return "str", 0
    return _HEADS[head - 0xC0]


_HEADS: Final = (
    *[("nil", 0), ("unused", 0), ("bool", 0), ("bool", 0)],
    *[("bin", 1), ("bin", 2), ("bin", 4), ("ext", 1), ("ext", 2), ("ext", 4)],
    *[("f32", 4), ("f64", 8)],
    *[("uint", 1), ("uint", 2), ("uint", 4), ("uint", 8)],
    *[("int", 1), ("int", 2), ("int", 4), ("int", 8)],
    *[("fixext", 1), ("fixext", 2), ("fixext", 4), ("fixext", 8), ("fixext", 16)],
    *[("str", 1), ("str", 2), ("str", 4), ("array", 2), ("array", 4), ("map", 2), ("map", 4)],
)
# The smallest number that needs a header of so many bytes.
_LEAST: Final = {
    "uint": {1: 128, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32},
    "str": {1: 32, 2: 1 << 8, 4: 1 << 16},
    "bin": {1: 0, 2: 1 << 8, 4: 1 << 16},
    "array": {2: 16, 4: 1 << 16},
    "map": {2: 16, 4: 1 << 16},
}
# The largest (closest to zero) negative number that needs so many bytes.
_MOST: Final = {1: -33, 2: -129, 4: -(1 << 15) - 1, 8: -(1 << 31) - 1}


def _bad(what: str, offset: int, advice: str = "") -> CanonicalError:
    advice = advice or "the bytes are not canonical MessagePack"
    return CanonicalError(what, advice=advice, offset=offset)


def _scan(data: bytes, *, strict: bool) -> None:
    """Walk the structure of one value, building nothing. Raises: CanonicalError with `offset`.

    Always refused: truncation, trailing bytes, 0xC1, over-deep nesting, text that
    is not UTF-8. With `strict` also what `encode` never writes.
    """
    # Per open container: entries still to come, and for a strict map its keys so far.
    stack: list[tuple[int, set[bytes] | None]] = []
    at = 0
    while True:
        start = at
        left, keys = stack[-1] if stack else (1, None)
        is_key = keys is not None and left % 2 == 0
        at, inside, is_map = _scan_token(data, start, strict=strict, is_key=is_key)
        if keys is not None and is_key:
            token = data[start:at]
            if token in keys:
                raise _bad("a map has one key twice", start)
            keys.add(token)
        if stack:
            stack[-1] = (left - 1, keys)
        if inside:
            if len(stack) >= MAX_DEPTH:
                raise _bad(_TOO_DEEP, start, "flatten the value")
            # Entries are counted singly: key, value, key, value.
            stack.append((inside, set() if strict and is_map else None))
        elif len(stack) >= MAX_DEPTH and _is_empty_container(data, start):
            raise _bad(_TOO_DEEP, start, "flatten the value")
        while stack and stack[-1][0] == 0:
            stack.pop()
        if not stack:
            break
    if at != len(data):
        raise _bad(f"{len(data) - at} bytes follow the value", at)


def _is_empty_container(data: bytes, at: int) -> bool:
    return _family(data[at])[0] in ("array", "map")


def _scan_token(data: bytes, start: int, *, strict: bool, is_key: bool) -> tuple[int, int, bool]:
    """One token: the offset after it, how many tokens it contains, and whether it is a map."""
    if start >= len(data):
        raise _bad("the bytes end inside the value", start)
    head = data[start]
    family, width = _family(head)
    at = start + 1 + (0 if family == "fixext" else width)
    if at > len(data):
        raise _bad("the bytes end inside the value", start)
    number = int.from_bytes(data[start + 1 : at], "big", signed=family == "int")
    if strict:
        _check_strict(family, width, number, start, is_key=is_key)
    if family in ("array", "map"):
        count = number if width else head & 0x0F
        return at, count * 2 if family == "map" else count, family == "map"
    if family == "unused":
        raise _bad("byte 0xC1 means nothing", start)
    if family in ("str", "bin", "ext", "fixext"):
        size = number if width and family != "fixext" else head & 0x1F
        if family == "fixext":
            size = width
        end = at + size + (1 if family in ("ext", "fixext") else 0)
        if end > len(data):
            raise _bad("the bytes end inside the value", start)
        if family == "str":
            try:
                data[at:end].decode()
            except UnicodeDecodeError as error:
                raise _bad("text is not UTF-8", at + error.start) from error
        at = end
    return at, 0, False


def _check_strict(family: str, width: int, number: int, start: int, *, is_key: bool) -> None:
    if family in ("ext", "fixext", "f32"):
        kind = "a 32-bit float" if family == "f32" else "an extension"
        raise _bad(f"{kind} is never written", start)
    if is_key and family not in ("str", "fixint", "uint", "int"):
        raise _bad("the key of a map is neither text nor an integer", start)
    if family == "int":
        if number > _MOST[width]:
            raise _bad(f"{number} has a shorter form", start)
    elif width and family in _LEAST and number < _LEAST[family][width]:
        raise _bad(f"{number} has a shorter form", start)
