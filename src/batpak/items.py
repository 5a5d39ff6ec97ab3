"""What a caller hands to an append: items of a batch, and the conditions of a commit.

Plain data; judged and encoded elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from batpak.coordinate import Coordinate, Region
from batpak.errors import InvalidInput
from batpak.ids import CausationId, CorrelationId, EventId, Id128
from batpak.kinds import EventKind

__all__ = ["Expect", "Id", "Item", "Key", "Prior", "Unless"]

_set: Final = object.__setattr__
Id = EventId | CorrelationId | CausationId
Key = Id128 | UUID | bytes
"""An idempotency key: any 128-bit value but zero."""


class Expect(enum.Enum):
    """What a stream must be like, where no clock can say it."""

    EMPTY = "empty"
    """The entity has no event yet; `expect=0` means that it has exactly one."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Stands for the id of item `index` of the same commit, which comes earlier."""

    index: int


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Unless:
    """The commit is refused if an event that matches a region came after a sequence.

    `Unless(region, …, after=n)`: n is the last sequence that the decision has seen;
    None for a decision that saw nothing. A dynamic consistency boundary. Raises
    InvalidInput.
    """

    regions: tuple[Region, ...]
    after: int | None

    def __init__(self, *regions: Region, after: int | None = None) -> None:
        for region in regions:
            if not isinstance(region, Region):
                raise InvalidInput(
                    "Unless takes Regions", field="unless", value=region,
                    advice='write Unless(Region(entity="course:1"), after=event.sequence)',
                )  # fmt: skip
        if not regions:
            raise InvalidInput(
                "Unless takes at least one Region", field="unless", advice="leave unless= out"
            )
        if after is not None and (
            isinstance(after, bool) or not isinstance(after, int) or after < 0
        ):
            raise InvalidInput(
                "after= is a sequence from 0 on",
                field="unless",
                value=after,
                advice="pass the sequence of the last event that the decision has seen, an int",
            )
        _set(self, "regions", regions)
        _set(self, "after", after)

    def __repr__(self) -> str:
        return f"Unless({', '.join(map(repr, self.regions))}, after={self.after})"


class _Placed(msgspec.Struct, eq=False):
    """What an Item takes by position."""

    coordinate: Coordinate
    payload: object


class Item(_Placed, eq=False, kw_only=True):
    """One event of `append_many`; the keywords are those of `Store.append`."""

    kind: EventKind | type | None = None
    key: Key | None = None
    correlation: Id | Prior | None = None
    causation: Id | Prior | None = None
    lane: int = 0
    depth: int = 0
    flags: int = 0
    extensions: Mapping[str, bytes] | None = None
    is_raw: bool = False

    @classmethod
    def raw(cls, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any) -> Item:
        """An item whose payload is `data` as given, not parsed."""
        return cls(coordinate, data, kind=kind, is_raw=True, **options)

    def __repr__(self) -> str:
        return f"<Item {self.coordinate} {type(self.payload).__name__}>"
