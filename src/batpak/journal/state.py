"""Where a journal that is being written stands between two commits.

A `Log` or a `Durable` is never changed but replaced, by one assignment, so that whoever
looks without a lock sees one state whole.
"""

from __future__ import annotations

import msgspec

from batpak.journal.header import SegmentHeader

__all__ = ["Durable", "Log", "PendingRotation", "Segment"]


class Segment(msgspec.Struct, gc=False):
    """The newest segment, open for writing. `allocated` is where its reserved space ends."""

    header: SegmentHeader
    fd: int
    salt_state: int
    path: str
    allocated: int


class PendingRotation(msgspec.Struct, frozen=True, gc=False):
    """A segment with this header may stand under its temporary or its final name."""

    header: SegmentHeader


class Log(msgspec.Struct, frozen=True, gc=False):
    """The state between two commits: where the next record goes and what it has to fit."""

    segment: Segment
    end: int
    sequence: int
    prev_crc: int
    hlc: int
    record_offset: int
    records: int
    last_hash: bytes
    epoch: int
    pending: PendingRotation | None = None


class Durable(msgspec.Struct, frozen=True, gc=False):
    """A bound that is known to be synced, and the HLC of its last event."""

    sequence: int
    hlc: int
