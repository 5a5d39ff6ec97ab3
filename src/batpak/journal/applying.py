"""Make the events of a record findable, as the commit that wrote it does.

Recovery comes through here, and the resolution of an interrupted write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from batpak.event import NO_HASH, event_hash, is_foreign
from batpak.journal.commits import Committed, Head, Prepared
from batpak.journal.record import Record

__all__ = ["IndexSink", "apply_record"]


class IndexSink(Protocol):
    """Where written events are made findable. Adding one twice equals adding it once."""

    def add_many(
        self,
        row_offset: int,
        envelope_offset: int,
        events: Sequence[Prepared],
        committed: Sequence[Committed],
        /,
    ) -> None: ...

    def add(
        self,
        sequence: int,
        event_hash: bytes,
        row_offset: int,
        metadata_offset: int,
        envelope_offset: int,
        entity: bytes,
        scope: bytes,
        kind: int,
        clock: int,
        hlc: int,
        foreign_id: bytes | None,
        /,
    ) -> None: ...


def apply_record(
    record: Record,
    read: Callable[[int, int], bytes],
    index: IndexSink,
    heads: dict[bytes, Head],
) -> bytes:
    """Make a record's events findable and move the heads; returns the last event's hash.

    Sets the very values that a commit sets.
    """
    digest = NO_HASH
    for event in record.events(read):
        row = event.row
        digest = event_hash(event.row_bytes, event.metadata)
        index.add(
            row.sequence,
            digest,
            event.row_offset,
            event.metadata_offset,
            event.envelope_offset,
            event.entity,
            event.scope,
            row.kind,
            row.clock,
            row.hlc,
            row.event_id if is_foreign(row.event_id, row.hlc) else None,
        )
        heads[event.entity] = (row.clock + 1, digest)
    return digest
