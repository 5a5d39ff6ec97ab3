"""A Region as an index part sees it: bytes and numbers instead of names and classes."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, Protocol

from batpak.coordinate import Region
from batpak.kinds import Category

__all__ = ["ALL", "Query", "name_ranges"]


class Query(NamedTuple):
    """The axes of a Region; None means any."""

    entity: bytes | None = None
    scope: bytes | None = None
    kinds: tuple[int, int] | None = None
    """First and last raw kind, inclusive."""
    clock: tuple[int, int] | None = None
    """First and last clock, inclusive."""
    exact: bool = False
    """Whether `entity` is the whole name, and not also a prefix before a colon."""

    @classmethod
    def of(cls, region: Region) -> Query:
        """The query of a region."""
        kinds: tuple[int, int] | None = None
        if isinstance(region.kind, Category):
            first = region.kind.value << 12
            kinds = (first, first | 0xFFF)
        elif region.kind is not None:
            kinds = (region.kind.raw, region.kind.raw)
        return cls(
            None if region.entity is None else region.entity.encode("utf-8", "surrogatepass"),
            None if region.scope is None else region.scope.encode("utf-8", "surrogatepass"),
            kinds,
            region.clock,
        )

    def selects(self, entity: bytes) -> bool:
        """Whether the entity axis, which is given, selects this name."""
        wanted = self.entity
        assert wanted is not None, "asked only where the axis is given"
        return entity == wanted or (not self.exact and entity.startswith(wanted + b":"))

    @property
    def is_all(self) -> bool:
        """Whether every event matches."""
        return self == ALL


ALL = Query()


class SortedNames(Protocol):
    """Names in ascending byte order."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> bytes: ...


def name_ranges(names: SortedNames, query: Query) -> list[tuple[int, int]]:
    """Index ranges of the names that `query.entity` selects, ascending."""
    prefix = query.entity
    if prefix is None:
        return [(0, len(names))] if len(names) else []
    exact = bisect_left(names, prefix)
    ranges: list[tuple[int, int]] = []
    if exact < len(names) and names[exact] == prefix:
        ranges.append((exact, exact + 1))
    if query.exact:
        return ranges
    # ";" is the byte after ":", so this is the end of everything below the prefix.
    low, high = bisect_left(names, prefix + b":"), bisect_left(names, prefix + b";")
    if low < high:
        ranges.append((low, high))
    return ranges
