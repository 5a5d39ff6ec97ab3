"""Event kinds: 16 bits, of which the high 4 are a category and the low 12 a type id.

`EventKind` is the integer that the journal stores, with names for its parts. Any
u16 can be read (`from_raw`); what a program may define for itself leaves out
categories 0x0 (system) and 0xD (effects), which `EventKind(category, type_id)`
refuses. Knows nothing of payload classes. Source: docs/format, "System events".
"""

from __future__ import annotations

from enum import IntFlag
from functools import total_ordering
from typing import Any, Final, NoReturn

from batpak.errors import KindError, ReservedKind

__all__ = [
    "DATA",
    "EFFECT_ACK",
    "EFFECT_BACKPRESSURE",
    "EFFECT_CANCEL",
    "EFFECT_CATEGORY",
    "EFFECT_CONFLICT",
    "EFFECT_ERROR",
    "EFFECT_RETRY",
    "MAX_CATEGORY",
    "MAX_TYPE_ID",
    "SYSTEM_BATCH_BEGIN",
    "SYSTEM_BATCH_COMMIT",
    "SYSTEM_CATEGORY",
    "SYSTEM_CHECKPOINT",
    "SYSTEM_CLOSE_COMPLETED",
    "SYSTEM_COMPACTION",
    "SYSTEM_CONFIG_CHANGE",
    "SYSTEM_DENIAL",
    "SYSTEM_ERASURE",
    "SYSTEM_FENCE_CANCELLED",
    "SYSTEM_HEARTBEAT",
    "SYSTEM_HEARTBEAT_ACK",
    "SYSTEM_HEARTBEAT_REQUEST",
    "SYSTEM_INIT",
    "SYSTEM_KEY_ADDED",
    "SYSTEM_KEY_RETIRED",
    "SYSTEM_KEY_SHREDDED",
    "SYSTEM_LOG_CHECKPOINT",
    "SYSTEM_OPEN_COMPLETED",
    "SYSTEM_RESTORED",
    "SYSTEM_SHUTDOWN",
    "TOMBSTONE",
    "Category",
    "EventFlag",
    "EventKind",
]

MAX_CATEGORY: Final = 0xF
MAX_TYPE_ID: Final = 0xFFF
SYSTEM_CATEGORY: Final = 0x0
EFFECT_CATEGORY: Final = 0xD


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class EventKind(int):
    """A kind: equal to, hashed and ordered as the integer that the journal stores.

    `raw` 0..0xFFFF, `category` 0..15, `type_id` 0..0xFFF. One instance a value.
    """

    raw: int
    category: int
    type_id: int

    def __new__(cls, category: int, type_id: int) -> EventKind:
        """The kind that a program defines for itself.

        Raises: KindError for a category over 15 or a type id over 0xFFF;
        ReservedKind for categories 0x0 and 0xD.
        """
        if not _is_int(category) or not 0 <= category <= MAX_CATEGORY:
            raise KindError(
                f"category {category!r} is not an integer from 0 to 15",
                advice="choose 0x1 to 0xC, 0xE or 0xF",
                field="category",
                value=category,
            )
        if category in (SYSTEM_CATEGORY, EFFECT_CATEGORY):
            owner = "system events" if category == SYSTEM_CATEGORY else "effects"
            raise ReservedKind(
                f"category 0x{category:X} belongs to {owner}",
                advice="choose 0x1 to 0xC, 0xE or 0xF",
                field="category",
                value=category,
            )
        if not _is_int(type_id) or not 0 <= type_id <= MAX_TYPE_ID:
            raise KindError(
                f"type id {type_id!r} is not an integer from 0 to 0xFFF",
                advice="use the low 12 bits only",
                field="type_id",
                value=type_id,
            )
        return cls.from_raw(category << 12 | type_id)

    @classmethod
    def from_raw(cls, raw: int) -> EventKind:
        """The kind that is stored as `raw`, reserved or not. Raises: KindError if no u16."""
        known = _KINDS.get(raw) if type(raw) is int else None
        if known is not None:
            return known
        if not _is_int(raw) or not 0 <= raw <= 0xFFFF:
            raise KindError(
                f"{raw!r} is not a kind",
                advice="a kind is an integer from 0 to 0xFFFF",
                field="kind",
                value=raw,
            )
        kind = int.__new__(cls, raw)
        kind.__dict__.update(raw=int(raw), category=raw >> 12, type_id=raw & MAX_TYPE_ID)
        return _KINDS.setdefault(kind.raw, kind)

    @property
    def is_system(self) -> bool:
        return self.category == SYSTEM_CATEGORY

    @property
    def is_effect(self) -> bool:
        return self.category == EFFECT_CATEGORY

    @property
    def is_reserved(self) -> bool:
        """True where public appends refuse the kind."""
        return self.category in (SYSTEM_CATEGORY, EFFECT_CATEGORY)

    def __str__(self) -> str:
        return f"0x{self.raw:04X}"

    def __format__(self, spec: str) -> str:
        return format(self.raw, spec) if spec else str(self)

    def __repr__(self) -> str:
        return f"EventKind(0x{self.category:X}, 0x{self.type_id:03X})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"EventKind is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"EventKind is immutable: can't delete {name!r}")

    def __copy__(self) -> EventKind:
        return self

    def __deepcopy__(self, memo: object) -> EventKind:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (EventKind.from_raw, (self.raw,))

    def __canonical__(self) -> int:
        return self.raw

    @classmethod
    def __from_canonical__(cls, plain: object) -> EventKind:
        return cls.from_raw(plain)  # type: ignore[arg-type]  # from_raw refuses what is no int


_KINDS: dict[int, EventKind] = {}


@total_ordering
class Category:
    """A whole category of kinds, to select by: `Region(kind=Category(0xF))`.

    `value` is 0..15. Raises: KindError for anything else.
    """

    __slots__ = ("value",)
    value: int

    def __init__(self, value: int) -> None:
        if not _is_int(value) or not 0 <= value <= MAX_CATEGORY:
            raise KindError(
                f"category {value!r} is not an integer from 0 to 15",
                advice="a category is the high 4 bits of a kind",
                field="category",
                value=value,
            )
        object.__setattr__(self, "value", int(value))

    def __contains__(self, kind: EventKind) -> bool:
        return kind.category == self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Category) and other.value == self.value

    def __lt__(self, other: Category) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash((Category, self.value))

    def __repr__(self) -> str:
        return f"Category(0x{self.value:X})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Category is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Category is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Category, (self.value,))


class EventFlag(IntFlag):
    """Bits of an event's flags: the low byte is the caller's, KEYED is the journal's."""

    REQUIRES_ACK = 0x001
    TRANSACTIONAL = 0x002
    REPLAY = 0x008
    KEYED = 0x100


_kind = EventKind.from_raw

DATA: Final = _kind(0x1000)
TOMBSTONE: Final = _kind(0x0FFE)

SYSTEM_INIT: Final = _kind(0x0001)
SYSTEM_SHUTDOWN: Final = _kind(0x0002)
SYSTEM_HEARTBEAT: Final = _kind(0x0003)
SYSTEM_CONFIG_CHANGE: Final = _kind(0x0004)
SYSTEM_CHECKPOINT: Final = _kind(0x0005)
SYSTEM_BATCH_BEGIN: Final = _kind(0x0006)
SYSTEM_BATCH_COMMIT: Final = _kind(0x0007)
SYSTEM_OPEN_COMPLETED: Final = _kind(0x0008)
SYSTEM_CLOSE_COMPLETED: Final = _kind(0x0009)
SYSTEM_DENIAL: Final = _kind(0x000F)
SYSTEM_FENCE_CANCELLED: Final = _kind(0x0011)
SYSTEM_ERASURE: Final = _kind(0x0012)
SYSTEM_LOG_CHECKPOINT: Final = _kind(0x0013)
SYSTEM_COMPACTION: Final = _kind(0x0014)
SYSTEM_KEY_ADDED: Final = _kind(0x0015)
SYSTEM_KEY_RETIRED: Final = _kind(0x0016)
SYSTEM_KEY_SHREDDED: Final = _kind(0x0017)
SYSTEM_RESTORED: Final = _kind(0x0018)

EFFECT_ERROR: Final = _kind(0xD001)
EFFECT_RETRY: Final = _kind(0xD002)
EFFECT_ACK: Final = _kind(0xD004)
EFFECT_BACKPRESSURE: Final = _kind(0xD005)
EFFECT_CANCEL: Final = _kind(0xD006)
EFFECT_CONFLICT: Final = _kind(0xD007)

# Ordinary kinds of category 0xF, named because hosts and clients share them.
SYSTEM_HEARTBEAT_REQUEST: Final = _kind(0xFA01)
SYSTEM_HEARTBEAT_ACK: Final = _kind(0xFA02)
