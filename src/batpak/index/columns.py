"""The index of a run of events as plain arrays: what a sidecar is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Columns", "Tally"]

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

_FOREIGN = np.dtype([("id", "V16"), ("row", "<u4"), ("zero", "<u4")])


class Tally(NamedTuple):
    """What occurs in a run of events."""

    entities: list[bytes]
    scopes: list[bytes]
    kinds: list[tuple[int, int]]
    """Raw kind and how often."""


@dataclass(frozen=True, slots=True)
class Columns:
    """One entry a row, but for the names and the foreign ids."""

    event_hash: bytes
    row_offset: U32
    metadata_offset: U32
    envelope_offset: U32
    entity_names: list[bytes]
    entity_number: U32
    scope_names: list[bytes]
    scope_number: U32
    kind: U16
    hlc: U64
    foreign: list[tuple[bytes, int]]

    def __len__(self) -> int:
        return len(self.row_offset)

    def followed_by(self, other: Columns) -> Columns:
        """The columns of this run and the one after it."""
        n = len(self)
        entities, second_entities = _united(self.entity_names, other.entity_names)
        scopes, second_scopes = _united(self.scope_names, other.scope_names)
        return Columns(
            self.event_hash + other.event_hash,
            np.concatenate([self.row_offset, other.row_offset]),
            np.concatenate([self.metadata_offset, other.metadata_offset]),
            np.concatenate([self.envelope_offset, other.envelope_offset]),
            entities,
            np.concatenate([self.entity_number, second_entities[other.entity_number]]),
            scopes,
            np.concatenate([self.scope_number, second_scopes[other.scope_number]]),
            np.concatenate([self.kind, other.kind]),
            np.concatenate([self.hlc, other.hlc]),
            self.foreign + [(key, n + i) for key, i in other.foreign],
        )

    def arrays(self) -> dict[str, bytes]:
        """The arrays of a sidecar, by name. Format: docs/format.md, "Sidecar"."""
        entity_names, entity_number = _sorted_names(self.entity_names, self.entity_number)
        scope_names, scope_number = _sorted_names(self.scope_names, self.scope_number)
        kinds, kind_number = np.unique(self.kind, return_inverse=True)
        foreign = np.zeros(len(self.foreign), _FOREIGN)
        for place, (key, row) in enumerate(sorted(self.foreign)):
            foreign[place] = (key, row, 0)
        entity_starts, entity_rows = _postings(entity_number, len(entity_names))
        scope_starts, scope_rows = _postings(scope_number, len(scope_names))
        kind_starts, kind_rows = _postings(kind_number.astype(np.uint32), len(kinds))
        return {
            "event_hash": self.event_hash,
            "row_offset": self.row_offset.tobytes(),
            "metadata_offset": self.metadata_offset.tobytes(),
            "envelope_offset": self.envelope_offset.tobytes(),
            "entity_number": entity_number.tobytes(),
            "scope_number": scope_number.tobytes(),
            "kind": self.kind.tobytes(),
            "hlc": self.hlc.tobytes(),
            "entity_postings_start": entity_starts.tobytes(),
            "entity_postings": entity_rows.tobytes(),
            "scope_postings_start": scope_starts.tobytes(),
            "scope_postings": scope_rows.tobytes(),
            "kind_value": kinds.astype(np.uint16).tobytes(),
            "kind_postings_start": kind_starts.tobytes(),
            "kind_postings": kind_rows.tobytes(),
            "entity_text_start": _starts(entity_names).tobytes(),
            "entity_text": b"".join(entity_names),
            "scope_text_start": _starts(scope_names).tobytes(),
            "scope_text": b"".join(scope_names),
            "foreign_id": foreign.tobytes(),
        }


def _united(first: list[bytes], second: list[bytes]) -> tuple[list[bytes], U32]:
    """All names, and for each number of `second` its number among them."""
    numbers = {name: i for i, name in enumerate(first)}
    translated = [numbers.setdefault(name, len(numbers)) for name in second]
    return list(numbers), np.array(translated, np.uint32)


def _sorted_names(names: list[bytes], numbers: U32) -> tuple[list[bytes], U32]:
    """The names that occur, ascending, and the numbers translated to that order."""
    used = np.unique(numbers).tolist()
    order = sorted(used, key=names.__getitem__)
    translation = np.zeros(len(names), np.uint32)
    translation[order] = np.arange(len(order), dtype=np.uint32)
    return [names[i] for i in order], translation[numbers]


def _postings(numbers: U32, count: int) -> tuple[U32, U32]:
    """Start of each number's postings, and row numbers grouped by number, ascending."""
    rows = np.argsort(numbers, kind="stable").astype(np.uint32)
    starts = np.zeros(count + 1, np.uint32)
    np.cumsum(np.bincount(numbers, minlength=count), out=starts[1:])
    return starts, rows


def _starts(names: list[bytes]) -> U32:
    starts = np.zeros(len(names) + 1, np.uint32)
    if names:
        np.cumsum([len(name) for name in names], out=starts[1:])
    return starts
