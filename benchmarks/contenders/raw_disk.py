"""The floor: records of batpak's size written to a growing file, fdatasync after each.

Nothing is encoded, hashed or indexed. Space isn't allocated ahead, so each sync also
commits a longer file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data import Measurement, record_size


class Log:
    """See benchmarks.contenders.Log; only the two append loops, always durable."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        if not durable:
            raise ValueError("the raw contender syncs each record")
        self.file = os.open(directory / "raw.log", os.O_CREAT | os.O_RDWR)
        self.end = 0

    def prepare(self, events: Sequence[Measurement]) -> Sequence[Measurement]:
        return events

    def append_all(self, prepared: Sequence[Measurement]) -> None:
        self._write(len(prepared), os.urandom(record_size(1)))

    def append_batches(self, prepared: Sequence[Measurement], size: int) -> None:
        self._write(len(prepared) // size, os.urandom(record_size(size)))

    def _write(self, times: int, record: bytes) -> None:
        file, end, length = self.file, self.end, len(record)
        sync = getattr(os, "fdatasync", os.fsync)
        for _ in range(times):
            os.pwrite(file, record, end)
            sync(file)
            end += length
        self.end = end

    def check_settings(self) -> None:
        size = os.fstat(self.file).st_size
        if not size == self.end > 0:
            raise AssertionError(f"the raw file has {size} bytes, not {self.end}")

    def close(self) -> None:
        os.close(self.file)
