"""Ids: 128 bits with a type, a text form `name:<32 hex digits>`, and where they come from.

An id holds its 16 bytes, big-endian, which is what every format stores. Ids of
different types are never equal and do not compare. Source: RFC 9562 for UUIDv7.
"""

from __future__ import annotations

import builtins
import os
import re
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, Final, NoReturn, Self

from blake3 import blake3

from batpak.clock import SYSTEM_CLOCK, Clock, checked_us
from batpak.errors import IdError

__all__ = [
    "CausationId",
    "CorrelationId",
    "EventId",
    "Id128",
    "IdempotencyKey",
    "define_id",
    "new_event_id",
    "operation_key",
]

_MAX: Final = 2**128 - 1
# int(text, 16) alone would also take 0x, _, spaces and a minus sign.
_HEX: Final = re.compile(r"\+?[0-9A-Fa-f]+", re.ASCII)
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)


class Id128:
    """Base of all id types: 128 bits. Use a subclass, or `define_id`.

    `bytes` is the 16 bytes, `value` the integer; `str()` gives the full text.
    """

    __slots__ = ("bytes",)
    bytes: builtins.bytes
    name: ClassVar[str] = "id"

    def __init__(self, value: int) -> None:
        """Raises: IdError unless `value` is an integer from 0 to 2^128 - 1."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX:
            raise IdError(
                f"{value!r} is not an integer from 0 to 2^128 - 1",
                advice=f"for text use {type(self).__name__}.parse, for bytes from_bytes",
                field=self.name,
                value=value,
            )
        _set_bytes(self, value.to_bytes(16, "big"))

    @classmethod
    def from_bytes(cls, raw: builtins.bytes) -> Self:
        """The id whose 16 big-endian bytes are `raw`. Raises: IdError for other lengths."""
        if type(raw) is not _bytes or len(raw) != 16:
            raw = _sixteen(cls.name, raw)
        new = _new(cls)
        _set_bytes(new, raw)
        return new

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id written as `name:` and hexadecimal digits, of either case.

        Leading zeros may be left out or added. Raises: IdError for a missing or
        foreign prefix, for what is no hexadecimal digit (`0x`, `_`, `-`, spaces),
        and for more than 128 bits.
        """
        prefix = cls.name + ":"
        if not isinstance(text, str) or not text.startswith(prefix):
            raise IdError(
                f"{text!r} does not start with {prefix!r}",
                advice=f"the text form is {prefix} and 32 hexadecimal digits",
                field=cls.name,
                value=text,
            )
        digits = text[len(prefix) :]
        if not _HEX.fullmatch(digits) or len(significant := digits.lstrip("+0")) > 32:
            raise IdError(
                f"{text!r} does not hold 128 bits in hexadecimal digits",
                advice=f"the text form is {prefix} and 32 hexadecimal digits",
                field=cls.name,
                value=text,
            )
        return cls(int(significant or "0", 16))

    @classmethod
    def nil(cls) -> Self:
        """The id that is all zeros."""
        return cls.from_bytes(_bytes(16))

    @property
    def value(self) -> int:
        return int.from_bytes(self.bytes, "big")

    @property
    def is_nil(self) -> bool:
        return not any(self.bytes)

    def __str__(self) -> str:
        return f"{self.name}:{self.bytes.hex()}"

    def __repr__(self) -> str:
        text = self.bytes.hex()
        return f"{type(self).__name__}({text[:8]}…{text[-8:]})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.bytes == self.bytes

    def __hash__(self) -> int:
        return hash(self.bytes)

    def __lt__(self, other: Self) -> bool:
        return self.bytes < other.bytes if type(other) is type(self) else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self.bytes <= other.bytes if type(other) is type(self) else NotImplemented

    def __gt__(self, other: Self) -> bool:
        return self.bytes > other.bytes if type(other) is type(self) else NotImplemented

    def __ge__(self, other: Self) -> bool:
        return self.bytes >= other.bytes if type(other) is type(self) else NotImplemented

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.bytes,))

    def __canonical__(self) -> builtins.bytes:
        return self.bytes

    @classmethod
    def __from_canonical__(cls, plain: object) -> Self:
        return cls.from_bytes(_sixteen(cls.name, plain))


_bytes: Final = bytes
_new: Final[Any] = object.__new__
# The slot's own setter: __setattr__ is closed, and this is the cheapest way past it.
_set_bytes: Final[Any] = Id128.__dict__["bytes"].__set__


def _sixteen(name: str, raw: object) -> bytes:
    """16 bytes from a buffer or from 16 integers of 0 to 255. Raises: IdError."""
    if isinstance(raw, (bytes, bytearray, memoryview, list)):
        try:
            found = _bytes(raw)  # pyright: ignore[reportUnknownArgumentType]  # judged inside
        except (TypeError, ValueError):
            found = b""
        if len(found) == 16:
            return found
    raise IdError(
        f"{raw!r} is not 16 bytes",
        advice="an id is 16 bytes, big-endian",
        field=name,
        value=raw,
    )


class EventId(Id128):
    """The identity of one event."""

    __slots__ = ()
    name = "event"


class CorrelationId(Id128):
    """What a group of events has in common: the id of its root event, unless given."""

    __slots__ = ()
    name = "correlation"


class CausationId(Id128):
    """The id of the event that caused this one."""

    __slots__ = ()
    name = "causation"


class IdempotencyKey(Id128):
    """The identity of an operation: a second append under it returns the first's receipt."""

    __slots__ = ()
    name = "idempotency"


def define_id(name: str) -> type[Id128]:
    """A new id type whose text form starts with `name:`.

    `name` is lowercase ASCII: a letter, then letters, digits, `_`, `-`, `.`;
    at most 64. Raises: IdError for any other name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise IdError(
            f"{name!r} can't be the name of an id type",
            advice="use a lowercase letter, then letters, digits, '_', '-' or '.'",
            field="name",
            value=name,
        )
    title = "".join(part[:1].upper() + part[1:] for part in re.split(r"[_.-]", name))
    return type(f"{title}Id", (Id128,), {"__slots__": (), "name": name})


# --- where ids come from -----------------------------------------------------

_POOL_IDS: Final = 256


# Version 7 and variant 10, set in the bytes of a pool that hold them.
_VERSION: Final = bytes(0x70 | n & 0x0F for n in range(256))
_VARIANT: Final = bytes(0x80 | n & 0x3F for n in range(256))


def _tails() -> Iterator[bytes]:
    """Random last 10 bytes of UUIDv7, one pool's worth."""
    pool = bytearray(os.urandom(10 * _POOL_IDS))
    pool[0::10] = pool[0::10].translate(_VERSION)
    pool[2::10] = pool[2::10].translate(_VARIANT)
    raw = bytes(pool)
    return iter([raw[at : at + 10] for at in range(0, len(raw), 10)])


class _Source:
    """Random tails in pools: one system call for many ids. `next` on a list iterator is atomic."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        # A forked child that went on with its parent's pool would repeat the parent's ids.
        self.pool: Iterator[bytes] = iter(())
        # A signal handler may ask for an id in the middle of another one of its thread.
        self.lock = threading.RLock()
        self.last = bytes(16)

    def tail(self) -> bytes:
        found = next(self.pool, None)
        while found is None:
            self.pool = pool = _tails()
            found = next(pool, None)
        return found

    def ascending(self, ms: int) -> bytes:
        """An id above every earlier one of this process, though time stands still or goes back."""
        with self.lock:
            fresh = ms.to_bytes(6, "big") + self.tail()
            if fresh <= self.last:
                step = 1 + int.from_bytes(fresh[-4:], "big")
                fresh = _spread(_squeeze(self.last) + step)
            # A handler's own may have come in between.
            self.last = max(self.last, fresh)
        return fresh


def _squeeze(uuid7: bytes) -> int:
    """The 122 bits of a UUIDv7 that are not version and variant, as a number."""
    number = int.from_bytes(uuid7, "big")
    return (number >> 80) << 74 | (number >> 64 & 0xFFF) << 62 | number & 2**62 - 1


def _spread(number: int) -> bytes:
    """The UUIDv7 of such a number."""
    time, high, low = number >> 74, number >> 62 & 0xFFF, number & 2**62 - 1
    return (time << 80 | 7 << 76 | high << 64 | 2 << 62 | low).to_bytes(16, "big")


_source: Final = _Source()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_source.forget)


def new_event_id(clock: Clock | None = None) -> EventId:
    """A UUIDv7: 48 bits of milliseconds, 74 random bits.

    Without a clock: the machine's time, each id above the last of this process.
    With one: its reading, and ids of one millisecond have no order.
    Raises: InvalidClock for a reading that can't be stored.
    """
    if clock is None:
        return EventId.from_bytes(_source.ascending(SYSTEM_CLOCK.now_us() // 1000))
    ms = checked_us(clock) // 1000
    return EventId.from_bytes((ms & 2**48 - 1).to_bytes(6, "big") + _source.tail())


def operation_key(domain: str, *components: str) -> IdempotencyKey:
    """The key of an operation that is named by its domain and components, in order.

    The first 16 bytes of BLAKE3 over u64 little-endian lengths and UTF-8 texts:
    len(domain), domain, number of components, then each one's length and text.
    Raises: IdError for what is no text, or has no UTF-8 form.
    """
    try:
        parts = [part.encode() for part in (domain, *components)]
    except (AttributeError, UnicodeEncodeError) as error:
        raise IdError(
            "an operation is named by texts that have a UTF-8 form",
            advice="turn numbers and ids into text first",
            field="components",
            value=(domain, *components),
        ) from error
    sized = [len(part).to_bytes(8, "little") + part for part in parts]
    sized.insert(1, len(components).to_bytes(8, "little"))
    return IdempotencyKey.from_bytes(blake3(b"".join(sized)).digest(16))
