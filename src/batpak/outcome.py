"""How a piece of work ended, as data: ok, error, retry, pending, cancelled, or a batch of these.

For programs that store or send an ending instead of raising it. One frozen class for
each variant, made for `match`; waiting and compensation are descriptions that nobody
here evaluates. The canonical form is that of the Rust system: an outcome is a map of
`type` and `data`, the rest a map of one entry or a text, ids in lists and byte strings
arrays of integers. `canonical.encode(outcome)` writes it, `canonical.decode(raw, Outcome)`
reads it. Knows nothing of stores and gates. Source: docs/guide/outcomes.md.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Generic, Never, NoReturn, Self, TypeVar, cast

import msgspec

from batpak import canonical
from batpak.errors import CanonicalError, InvalidInput, OutcomeFailed, OutcomeUnavailable
from batpak.ids import EventId, Id128

__all__ = [
    "MAX_NESTING",
    "Batch",
    "Cancelled",
    "Compensation",
    "CustomCompensation",
    "CustomKind",
    "Err",
    "ErrorKind",
    "Notify",
    "Ok",
    "Outcome",
    "OutcomeError",
    "Pending",
    "Release",
    "Retry",
    "Rollback",
    "UntilAll",
    "UntilAny",
    "UntilCustom",
    "UntilEvent",
    "UntilTime",
    "WaitCondition",
    "join_all",
    "join_any",
]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
IdT = TypeVar("IdT", bound=Id128)

MAX_NESTING: Final = 30
"""Batches in batches, and conditions in conditions: two containers each, of 128 in all."""

_U16: Final = 2**16 - 1
_U32: Final = 2**32 - 1
_U64: Final = 2**64 - 1
_set: Final = object.__setattr__


# --- values ----------------------------------------------------------------------


class _Value:
    """A frozen value, equal to others of its class with equal fields."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and cast("_Value", other)._values() == self._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        pairs = zip(self.__match_args__, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._values())


def _refused(field: str, value: object, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"{field} must be {wanted}", field=field, value=value, advice="docs/guide/outcomes.md"
    )


def _number(field: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _refused(field, value, f"a whole number from 0 to {most}")
    return int(value)


def _text(field: str, value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    raise _refused(field, value, "text that has a UTF-8 form")


def _bytes(field: str, value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value))
    raise _refused(field, type(value).__name__, "bytes")


def _id(cls: type[IdT], field: str, value: object) -> IdT:
    """The same 128 bits as `cls`: what is stored does not say of which type an id was."""
    if isinstance(value, Id128):
        return cls.from_bytes(value.bytes)
    raise _refused(field, value, f"an id, as {cls.__name__}")


def _ids(cls: type[IdT], field: str, value: Iterable[Id128]) -> tuple[IdT, ...]:
    return tuple([_id(cls, field, one) for one in _items(field, value)])


def _items(field: str, value: object) -> Iterable[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _refused(field, type(cast("object", value)).__name__, "a list")
    return cast("Iterable[Any]", value)


def _one_of(cls: type[T], field: str, value: object) -> T:
    if isinstance(value, cls):
        return value
    raise _refused(field, value, f"one of the variants of {cls.__name__}")


def _nesting(field: str, parts: Iterable[Any]) -> int:
    found = 1 + max((getattr(part, "_nesting", 0) for part in parts), default=0)
    if found > MAX_NESTING:
        raise _refused(field, found, f"nested at most {MAX_NESTING} deep")
    return found


# --- reading plain values ----------------------------------------------------------


def _unfit(what: str, path: str) -> CanonicalError:
    return CanonicalError(what, path=path, advice="docs/guide/outcomes.md says what is stored")


def _map(plain: object, path: str, *keys: str) -> dict[str, Any]:
    """A stored map, unknown keys ignored. Raises: CanonicalError for a missing key."""
    if not isinstance(plain, dict):
        raise _unfit(f"a map was expected, not a {type(plain).__name__}", path)
    found = cast("dict[str, Any]", plain)
    for key in keys:
        if key not in found:
            raise _unfit(f"the map has no {key!r}", path)
    return found


def _list(plain: object, path: str) -> list[Any]:
    if not isinstance(plain, list):
        raise _unfit(f"an array was expected, not a {type(plain).__name__}", path)
    return cast("list[Any]", plain)


def _tagged(plain: object, path: str) -> tuple[str, Any]:
    """The tag and the content of a map of one entry."""
    found = _map(plain, path)
    if len(found) != 1:
        raise _unfit(f"the map of a variant has one entry, not {len(found)}", path)
    return next(iter(found.items()))


def _read_id(plain: object, path: str) -> Id128:
    try:
        return Id128.__from_canonical__(plain)
    except InvalidInput as error:
        raise _unfit(error.what, path) from error


def _read_bytes(plain: object, path: str) -> bytes:
    if isinstance(plain, (bytes, list)):
        try:
            return bytes(cast("bytes | list[int]", plain))
        except (TypeError, ValueError):
            pass
    raise _unfit("bytes were expected, as an array of integers from 0 to 255", path)


def _check_room(path: str, nesting: int) -> None:
    if nesting > MAX_NESTING:
        raise _unfit(f"nested more than {MAX_NESTING} deep", path)


def _made(cls: type[T], plain: object, read: Callable[[], object]) -> T:
    """What `read` gives, if it is a `cls`. Raises: CanonicalError."""
    try:
        found = read()
    except CanonicalError:
        raise
    except InvalidInput as error:
        raise _unfit(error.what, "$") from error
    if not isinstance(found, cls):
        raise _unfit(f"a {cls.__name__} was expected, not a {type(found).__name__}", "$")
    return found


# --- waiting -----------------------------------------------------------------------


class WaitCondition(_Value):
    """What has to happen before work can go on: data only, evaluated by nobody here."""

    __slots__ = ()
    __canonical_family__: ClassVar[bool] = True

    def __init__(self) -> None:
        raise TypeError("a condition is one of UntilTime, UntilEvent, UntilAll, UntilAny, …")

    def __canonical__(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def __from_canonical__(cls, plain: object) -> Self:
        return _made(cls, plain, lambda: _read_condition(plain, "$", 0))


class UntilTime(WaitCondition):
    """Until a moment: `resume_at_ms` is Unix milliseconds. Raises: InvalidInput."""

    __slots__ = ("resume_at_ms",)
    __match_args__ = ("resume_at_ms",)
    resume_at_ms: int

    def __init__(self, resume_at_ms: int) -> None:
        _set(self, "resume_at_ms", _number("resume_at_ms", resume_at_ms, _U64))

    def __canonical__(self) -> dict[str, Any]:
        return {"Timeout": {"resume_at_ms": self.resume_at_ms}}


class UntilEvent(WaitCondition):
    """Until the event with this id is there. Raises: InvalidInput."""

    __slots__ = ("event_id",)
    __match_args__ = ("event_id",)
    event_id: EventId

    def __init__(self, event_id: Id128) -> None:
        _set(self, "event_id", _id(EventId, "event_id", event_id))

    def __canonical__(self) -> dict[str, Any]:
        return {"Event": {"event_id": self.event_id.bytes}}


class _Several(WaitCondition):
    __slots__ = ("_nesting", "conditions")
    __match_args__ = ("conditions",)
    _tag: ClassVar[str]
    conditions: tuple[WaitCondition, ...]

    def __init__(self, conditions: Iterable[WaitCondition]) -> None:
        found = tuple(
            [_one_of(WaitCondition, "conditions", one) for one in _items("conditions", conditions)]
        )
        _set(self, "_nesting", _nesting("conditions", found))
        _set(self, "conditions", found)

    def __canonical__(self) -> dict[str, Any]:
        return {self._tag: [one.__canonical__() for one in self.conditions]}


class UntilAll(_Several):
    """Until all of these hold. Raises: InvalidInput."""

    __slots__ = ()
    _tag = "All"


class UntilAny(_Several):
    """Until one of these holds. Raises: InvalidInput."""

    __slots__ = ()
    _tag = "Any"


class UntilCustom(WaitCondition):
    """A condition of the program's own: a number of 16 bits and bytes. Raises: InvalidInput."""

    __slots__ = ("data", "tag")
    __match_args__ = ("tag", "data")
    tag: int
    data: bytes

    def __init__(self, tag: int, data: bytes) -> None:
        _set(self, "tag", _number("tag", tag, _U16))
        _set(self, "data", _bytes("data", data))

    def __canonical__(self) -> dict[str, Any]:
        return {"Custom": {"tag": self.tag, "data": list(self.data)}}


def _read_condition(plain: object, path: str, nesting: int) -> WaitCondition:
    _check_room(path, nesting)
    tag, content = _tagged(plain, path)
    path = f"{path}.{tag}"
    match tag:
        case "Timeout":
            return UntilTime(_map(content, path, "resume_at_ms")["resume_at_ms"])
        case "Event":
            return UntilEvent(_read_id(_map(content, path, "event_id")["event_id"], path))
        case "All" | "Any":
            parts = [_read_condition(one, path, nesting + 1) for one in _list(content, path)]
            return UntilAll(parts) if tag == "All" else UntilAny(parts)
        case "Custom":
            found = _map(content, path, "tag", "data")
            return UntilCustom(found["tag"], _read_bytes(found["data"], path))
        case _:
            raise _unfit(f"{tag!r} is no condition", path)


# --- compensation --------------------------------------------------------------------


class Compensation(_Value):
    """What would undo or soften what was done: data only, carried out by nobody here."""

    __slots__ = ()
    __canonical_family__: ClassVar[bool] = True

    def __init__(self) -> None:
        raise TypeError("a compensation is one of Rollback, Notify, Release, CustomCompensation")

    def __canonical__(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def __from_canonical__(cls, plain: object) -> Self:
        return _made(cls, plain, lambda: _read_compensation(plain, "$"))


class Rollback(Compensation):
    """Undo these events, in this order. Raises: InvalidInput."""

    __slots__ = ("event_ids",)
    __match_args__ = ("event_ids",)
    event_ids: tuple[EventId, ...]

    def __init__(self, event_ids: Iterable[Id128]) -> None:
        _set(self, "event_ids", _ids(EventId, "event_ids", event_ids))

    def __canonical__(self) -> dict[str, Any]:
        return {"Rollback": {"event_ids": [list(one.bytes) for one in self.event_ids]}}


class Notify(Compensation):
    """Tell somebody, who has an id, something. Raises: InvalidInput."""

    __slots__ = ("message", "target_id")
    __match_args__ = ("target_id", "message")
    target_id: Id128
    message: str

    def __init__(self, target_id: Id128, message: str) -> None:
        _set(self, "target_id", _id(Id128, "target_id", target_id))
        _set(self, "message", _text("message", message))

    def __canonical__(self) -> dict[str, Any]:
        return {"Notify": {"target_id": self.target_id.bytes, "message": self.message}}


class Release(Compensation):
    """Let go of these resources. Raises: InvalidInput."""

    __slots__ = ("resource_ids",)
    __match_args__ = ("resource_ids",)
    resource_ids: tuple[Id128, ...]

    def __init__(self, resource_ids: Iterable[Id128]) -> None:
        _set(self, "resource_ids", _ids(Id128, "resource_ids", resource_ids))

    def __canonical__(self) -> dict[str, Any]:
        return {"Release": {"resource_ids": [list(one.bytes) for one in self.resource_ids]}}


class CustomCompensation(Compensation):
    """An action of the program's own: a name and bytes. Raises: InvalidInput."""

    __slots__ = ("action_type", "data")
    __match_args__ = ("action_type", "data")
    action_type: str
    data: bytes

    def __init__(self, action_type: str, data: bytes) -> None:
        _set(self, "action_type", _text("action_type", action_type))
        _set(self, "data", _bytes("data", data))

    def __canonical__(self) -> dict[str, Any]:
        return {"Custom": {"action_type": self.action_type, "data": list(self.data)}}


def _read_compensation(plain: object, path: str) -> Compensation:
    tag, content = _tagged(plain, path)
    path = f"{path}.{tag}"
    match tag:
        case "Rollback":
            ids = _list(_map(content, path, "event_ids")["event_ids"], path)
            return Rollback([_read_id(one, path) for one in ids])
        case "Notify":
            found = _map(content, path, "target_id", "message")
            return Notify(_read_id(found["target_id"], path), found["message"])
        case "Release":
            ids = _list(_map(content, path, "resource_ids")["resource_ids"], path)
            return Release([_read_id(one, path) for one in ids])
        case "Custom":
            found = _map(content, path, "action_type", "data")
            return CustomCompensation(found["action_type"], _read_bytes(found["data"], path))
        case _:
            raise _unfit(f"{tag!r} is no compensation", path)


# --- errors --------------------------------------------------------------------------


class ErrorKind(enum.Enum):
    """Why work failed. Each kind is of the domain or operational; two may pass by themselves."""

    NOT_FOUND = "NotFound"
    CONFLICT = "Conflict"
    VALIDATION = "Validation"
    POLICY_REJECTION = "PolicyRejection"
    CANCELLED = "Cancelled"
    STORAGE_ERROR = "StorageError"
    TIMEOUT = "Timeout"
    PENDING = "Pending"
    SERIALIZATION = "Serialization"
    INTERNAL = "Internal"
    BATCH_COLLAPSE = "BatchCollapse"

    @property
    def retryable(self) -> bool:
        """Whether the same work may succeed later."""
        return self in (ErrorKind.STORAGE_ERROR, ErrorKind.TIMEOUT)

    @property
    def is_domain(self) -> bool:
        """Whether the request itself was turned down."""
        return self in _DOMAIN

    @property
    def is_operational(self) -> bool:
        """Whether the machinery failed, whatever the request was."""
        return self not in _DOMAIN


_DOMAIN: Final = frozenset(
    {
        ErrorKind.NOT_FOUND,
        ErrorKind.CONFLICT,
        ErrorKind.VALIDATION,
        ErrorKind.POLICY_REJECTION,
        ErrorKind.CANCELLED,
    }
)


class CustomKind(_Value):
    """A kind of the program's own, by a number of 16 bits: in none of the three classes.

    Raises: InvalidInput.
    """

    __slots__ = ("number",)
    __match_args__ = ("number",)
    number: int
    retryable: ClassVar[bool] = False
    is_domain: ClassVar[bool] = False
    is_operational: ClassVar[bool] = False

    def __init__(self, number: int) -> None:
        _set(self, "number", _number("number", number, _U16))

    @property
    def value(self) -> str:
        """The kind as text, as `ErrorKind.value` is."""
        return f"Custom({self.number})"


def _read_kind(plain: object, path: str) -> ErrorKind | CustomKind:
    if isinstance(plain, str):
        try:
            return ErrorKind(plain)
        except ValueError:
            raise _unfit(f"{plain!r} is no kind of error", path) from None
    tag, content = _tagged(plain, path)
    if tag != "Custom":
        raise _unfit(f"{tag!r} is no kind of error", path)
    return CustomKind(content)


class OutcomeError(_Value):
    """What `Err` holds: a kind, a sentence for people, and what would compensate, or None.

    Raises: InvalidInput.
    """

    __slots__ = ("compensation", "kind", "message")
    __match_args__ = ("kind", "message", "compensation")
    kind: ErrorKind | CustomKind
    message: str
    compensation: Compensation | None

    def __init__(
        self,
        kind: ErrorKind | CustomKind,
        message: str,
        compensation: Compensation | None = None,
    ) -> None:
        if not isinstance(kind, (ErrorKind, CustomKind)):
            raise _refused("kind", kind, "an ErrorKind or a CustomKind")
        _set(self, "kind", kind)
        _set(self, "message", _text("message", message))
        if compensation is not None:
            _one_of(Compensation, "compensation", compensation)
        _set(self, "compensation", compensation)

    @property
    def retryable(self) -> bool:
        """Whether the same work may succeed later."""
        return self.kind.retryable

    def __str__(self) -> str:
        return f"[{self.kind.value}] {self.message}"

    def exception(self) -> OutcomeFailed | OutcomeUnavailable:
        """What `result()` raises for it."""
        raised = OutcomeUnavailable if self.retryable else OutcomeFailed
        return raised(
            self.message,
            kind=self.kind.value,
            compensation=self.compensation,
            advice="try again later" if self.retryable else "match the outcome to see what it is",
        )

    def __canonical__(self) -> dict[str, Any]:
        kind = self.kind
        return {
            "kind": {"Custom": kind.number} if isinstance(kind, CustomKind) else kind.value,
            "message": self.message,
            "compensation": self.compensation and self.compensation.__canonical__(),
        }

    @classmethod
    def __from_canonical__(cls, plain: object) -> Self:
        return _made(cls, plain, lambda: _read_error(plain, "$"))


def _read_error(plain: object, path: str) -> OutcomeError:
    found = _map(plain, path, "kind", "message")
    compensation = found.get("compensation")
    return OutcomeError(
        _read_kind(found["kind"], f"{path}.kind"),
        found["message"],
        None if compensation is None else _read_compensation(compensation, f"{path}.compensation"),
    )


# --- outcomes ------------------------------------------------------------------------


class Outcome(_Value, Generic[T_co]):
    """How work ended: one of `Ok`, `Err`, `Retry`, `Pending`, `Cancelled`, `Batch`."""

    __slots__ = ()
    __canonical_family__: ClassVar[bool] = True

    def __init__(self) -> None:
        raise TypeError("an outcome is one of Ok, Err, Retry, Pending, Cancelled, Batch")

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will come of it: Ok, Err, Cancelled. A batch never says so."""
        return isinstance(self, (Ok, Err, Cancelled))

    def result(self) -> T_co:
        """The value of an Ok. Raises: OutcomeUnavailable, OutcomeFailed for what has none.

        Whether to try again is the class's `retryable`: True for Retry, and for Err of a
        kind that is.
        """
        raise self._error().exception()

    def _error(self) -> OutcomeError:
        raise NotImplementedError

    def zip(self, other: Outcome[U]) -> Outcome[tuple[T_co, U]]:
        """Both values as a pair, or what stands in the way.

        The first that applies: either is Err, Cancelled, Retry, Pending (this one before
        the other); two batches pair up item by item and must be of one length; the value
        of an Ok goes to each item of a batch. Raises: InvalidInput for what is no outcome.
        """
        _one_of(cast("type[Any]", Outcome), "other", other)
        for variant in (Err, Cancelled, Retry, Pending):
            for side in (self, other):
                if isinstance(side, variant):
                    return side
        if isinstance(self, Batch):
            ours = cast("Batch[T_co]", self).items
            if not isinstance(other, Batch):
                return Batch([one.zip(other) for one in ours])
            theirs = other.items
            if len(ours) != len(theirs):
                return Err(
                    OutcomeError(
                        ErrorKind.INTERNAL,
                        f"batches of {len(ours)} and {len(theirs)} items do not pair up",
                    )
                )
            return Batch([one.zip(another) for one, another in zip(ours, theirs, strict=True)])
        if isinstance(other, Batch):
            return Batch([self.zip(another) for another in other.items])
        return Ok((self.result(), other.result()))

    def __canonical__(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def __from_canonical__(cls, plain: object) -> Self:
        return _made(cls, plain, lambda: _read_outcome(plain, "$", 0))

    def to_json(self) -> str:
        """The same shape as one line of JSON, bytes and ids as arrays of integers.

        Raises: CanonicalError for a value without canonical form, InvalidInput for NaN and
        the infinities.
        """
        plain = _without_bytes(canonical.decode(canonical.encode(self)))
        try:
            return json.dumps(plain, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise _refused("value", str(error), "finite, to have a JSON form") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote. Raises: InvalidInput."""
        try:
            plain = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as error:
            # What is neither text nor bytes is a TypeError.
            raise InvalidInput(
                f"not an outcome: {error}", field="text", advice="give what to_json() wrote"
            ) from error
        return cls.__from_canonical__(plain)


def _without_bytes(plain: Any) -> Any:
    match plain:
        case bytes():
            return list(plain)
        case list():
            return [_without_bytes(one) for one in cast("list[Any]", plain)]
        case dict():
            found = cast("dict[Any, Any]", plain)
            return {key: _without_bytes(value) for key, value in found.items()}
        case _:
            return plain


class Ok(Outcome[T_co]):
    """Done, with a value."""

    __slots__ = ("value",)
    __match_args__ = ("value",)
    value: T_co

    def __init__(self, value: T_co) -> None:
        _set(self, "value", value)

    def result(self) -> T_co:
        return self.value

    def __canonical__(self) -> dict[str, Any]:
        return {"type": "Ok", "data": self.value}


class Err(Outcome[Never]):
    """Failed. Raises: InvalidInput."""

    __slots__ = ("error",)
    __match_args__ = ("error",)
    error: OutcomeError

    def __init__(self, error: OutcomeError) -> None:
        _set(self, "error", _one_of(OutcomeError, "error", error))

    def _error(self) -> OutcomeError:
        return self.error

    def __canonical__(self) -> dict[str, Any]:
        return {"type": "Err", "data": self.error.__canonical__()}


class Retry(Outcome[Never]):
    """Not done; to be tried again after `after_ms` milliseconds. Raises: InvalidInput."""

    __slots__ = ("after_ms", "attempt", "max_attempts", "reason")
    __match_args__ = ("after_ms", "attempt", "max_attempts", "reason")
    after_ms: int
    attempt: int
    max_attempts: int
    reason: str

    def __init__(self, after_ms: int, attempt: int, max_attempts: int, reason: str) -> None:
        _set(self, "after_ms", _number("after_ms", after_ms, _U64))
        _set(self, "attempt", _number("attempt", attempt, _U32))
        _set(self, "max_attempts", _number("max_attempts", max_attempts, _U32))
        _set(self, "reason", _text("reason", reason))

    def _error(self) -> OutcomeError:
        return OutcomeError(
            ErrorKind.TIMEOUT,
            f"try again after {self.after_ms} ms: {self.reason} "
            f"(attempt {self.attempt} of {self.max_attempts})",
        )

    def __canonical__(self) -> dict[str, Any]:
        data = dict(zip(self.__match_args__, self._values(), strict=True))
        return {"type": "Retry", "data": data}


class Pending(Outcome[Never]):
    """Waits for `condition`; `resume_token` names the work then. Raises: InvalidInput."""

    __slots__ = ("condition", "resume_token")
    __match_args__ = ("condition", "resume_token")
    condition: WaitCondition
    resume_token: Id128

    def __init__(self, condition: WaitCondition, resume_token: Id128) -> None:
        _set(self, "condition", _one_of(WaitCondition, "condition", condition))
        _set(self, "resume_token", _id(Id128, "resume_token", resume_token))

    def _error(self) -> OutcomeError:
        token = self.resume_token.bytes.hex()
        return OutcomeError(ErrorKind.PENDING, f"still waits for {self.condition!r}, token {token}")

    def __canonical__(self) -> dict[str, Any]:
        data = {
            "condition": self.condition.__canonical__(),
            "resume_token": self.resume_token.bytes,
        }
        return {"type": "Pending", "data": data}


class Cancelled(Outcome[Never]):
    """Given up on purpose. Raises: InvalidInput."""

    __slots__ = ("reason",)
    __match_args__ = ("reason",)
    reason: str

    def __init__(self, reason: str) -> None:
        _set(self, "reason", _text("reason", reason))

    def _error(self) -> OutcomeError:
        return OutcomeError(ErrorKind.CANCELLED, f"cancelled: {self.reason}")

    def __canonical__(self) -> dict[str, Any]:
        return {"type": "Cancelled", "data": {"reason": self.reason}}


class Batch(Outcome[T_co]):
    """One outcome for each item of a batch, nested at most MAX_NESTING deep.

    Raises: InvalidInput.
    """

    __slots__ = ("_nesting", "items")
    __match_args__ = ("items",)
    items: tuple[Outcome[T_co], ...]

    def __init__(self, items: Iterable[Outcome[T_co]]) -> None:
        found: tuple[Any, ...] = tuple(_items("items", items))
        for one in found:
            _one_of(cast("type[Any]", Outcome), "items", one)
        _set(self, "_nesting", _nesting("items", found))
        _set(self, "items", found)

    def _error(self) -> OutcomeError:
        return OutcomeError(
            ErrorKind.BATCH_COLLAPSE,
            f"a batch of {len(self.items)} items has no single result: join_all joins them",
        )

    def __canonical__(self) -> dict[str, Any]:
        return {"type": "Batch", "data": [one.__canonical__() for one in self.items]}


def _read_outcome(plain: object, path: str, nesting: int) -> Outcome[Any]:
    _check_room(path, nesting)
    found = _map(plain, path, "type", "data")
    tag, data = found["type"], found["data"]
    path = f"{path}.data"
    match tag:
        case "Ok":
            return Ok(data)
        case "Err":
            return Err(_read_error(data, path))
        case "Retry":
            fields = _map(data, path, *Retry.__match_args__)
            return Retry(**{name: fields[name] for name in Retry.__match_args__})
        case "Pending":
            fields = _map(data, path, "condition", "resume_token")
            condition = _read_condition(fields["condition"], f"{path}.condition", 0)
            return Pending(condition, _read_id(fields["resume_token"], f"{path}.resume_token"))
        case "Cancelled":
            return Cancelled(_map(data, path, "reason")["reason"])
        case "Batch":
            items = enumerate(_list(data, path))
            return Batch([_read_outcome(one, f"{path}[{n}]", nesting + 1) for n, one in items])
        case _:
            raise _unfit(f"{tag!r} is no type of outcome", path)


# --- joining -------------------------------------------------------------------------


def _leaves(outcomes: Iterable[Outcome[T]]) -> Iterator[Outcome[T]]:
    """The outcomes in order, batches replaced by what they hold; an empty one stays."""
    for one in cast("Iterable[Outcome[T]]", _items("outcomes", outcomes)):
        _one_of(cast("type[Any]", Outcome), "outcomes", one)
        if isinstance(one, Batch) and one.items:
            yield from _leaves(one.items)
        else:
            yield one


def join_all(outcomes: Iterable[Outcome[T]]) -> Outcome[tuple[T, ...]]:
    """All values in order, those of batches among them; or the first that is not Ok.

    Raises: InvalidInput where it comes to what is no outcome.
    """
    values: list[T] = []
    for one in _leaves(outcomes):
        match one:
            case Ok(value):
                values.append(value)
            case Batch():
                pass
            case _:
                return cast("Outcome[Never]", one)
    return Ok(tuple(values))


def join_any(outcomes: Iterable[Outcome[T]]) -> Outcome[T]:
    """The first Ok, batches searched in their place; else the last Err.

    A Retry, Pending or Cancelled that comes first is the answer: what follows it is not
    looked at. Nothing to choose from, also in a batch, counts as an Err of kind Internal.
    Raises: InvalidInput where it comes to what is no outcome.
    """
    last: Outcome[T] | None = None
    for one in _leaves(outcomes):
        match one:
            case Err():
                last = one
            case Batch():
                last = _NOTHING
            case _:
                return one
    return last or _NOTHING


_NOTHING: Final = Err(OutcomeError(ErrorKind.INTERNAL, "there is no outcome to choose from"))
