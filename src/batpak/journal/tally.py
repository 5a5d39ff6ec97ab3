"""Counts that diagnostics show: of syncs and of rotations, never of single appends.

Each is one value, replaced by one assignment under the lock of whoever counts, so a
reader that takes it without a lock gets one moment. What a commit would have to count
is taken from the log's state instead. Knows numbers, no files and no clocks.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

__all__ = ["Reserving", "Syncs", "Written"]


class Syncs(msgspec.Struct, frozen=True, gc=False):
    """Syncs of the log that have succeeded since the open."""

    done: int = 0
    seconds: float = 0.0
    """Seconds of all of them together."""
    slowest: float = 0.0
    slow: int = 0
    """How many took longer than the option `sync_warning`."""

    def with_one(self, took: float, *, is_slow: bool) -> Syncs:
        """The counts after one more sync, of `took` seconds."""
        slowest = self.slowest
        return Syncs(
            self.done + 1, self.seconds + took, took if took > slowest else slowest,
            self.slow + is_slow,
        )  # fmt: skip


class Reserving(NamedTuple):
    """How reserving space ahead of the log's end went since the open."""

    done: int = 0
    refused: str | None = None
    """The last refusal, in the system's words."""


class Written(NamedTuple):
    """What has to be added to the numbers of segment `base` to count from the open on."""

    base: int
    records: int
    bytes: int
    rotations: int = 0
    before: Written | None = None
    """The same for the segment before: the log's state is replaced after this value is."""

    def rotated(self, base: int, records: int, length: int) -> Written:
        """Once a segment of `records` records in `length` bytes has `base` for successor."""
        return Written(
            base,
            self.records + records,
            self.bytes + length,
            self.rotations + 1,
            self._replace(before=None),
        )

    def of(self, base: int) -> Written:
        """The value for the segment that the log's state names."""
        return self if self.base == base or self.before is None else self.before
