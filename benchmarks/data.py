"""The events that every contender writes and reads: 200-byte payloads, 100 entities, one scope.

`measurement(number)` is a pure function, so a reader checks what it got without
keeping what was written. Imports nothing of batpak.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

ENTITIES: Final = tuple(f"sensor:{number:03}" for number in range(100))
SCOPE: Final = "site:7"
PAYLOAD_SIZE: Final = 200
"""Bytes of a payload as named-field MessagePack."""

BATCH: Final = 100


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """What a sensor saw; `note` fills the encoding up to PAYLOAD_SIZE bytes."""

    number: int
    at_us: int
    quantity: str
    value: float
    valid: bool
    note: str


# Hash output as text: no contender gains from data that compress.
_TEXT: Final = "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(64))
_encode = msgspec.msgpack.Encoder().encode
_STR8_HEADER = 2
_EMPTY_STR = 1


def measurement(number: int) -> Measurement:
    """The payload of event `number`; PAYLOAD_SIZE bytes when encoded."""
    at_us = 1_750_000_000_000_000 + 1_000 * number
    value = number * 0.125
    bare = Measurement(number, at_us, "pressure", value, True, "")
    length = PAYLOAD_SIZE - len(_encode(bare)) + _EMPTY_STR - _STR8_HEADER
    start = number * 37 % (len(_TEXT) - PAYLOAD_SIZE)
    return Measurement(number, at_us, "pressure", value, True, _TEXT[start : start + length])


def measurements(count: int) -> list[Measurement]:
    """Payloads 0 … count - 1; payload `n` belongs to entity `n % 100`."""
    return [measurement(number) for number in range(count)]


def encoded(number: int) -> bytes:
    """The payload of event `number` as named-field MessagePack, PAYLOAD_SIZE bytes."""
    return _encode(measurement(number))


def entity_of(number: int) -> str:
    """The entity that payload `number` belongs to."""
    return ENTITIES[number % len(ENTITIES)]


def record_size(count: int) -> int:
    """Bytes of one record of `count` such events in a segment (docs/format.md, "Record")."""
    names = len(ENTITIES[0]) + len(SCOPE)
    envelope = 16 + PAYLOAD_SIZE
    return 64 + _padded(count * (176 + names)) + _padded(count * envelope)


def _padded(length: int) -> int:
    return -(-length // 8) * 8
