"""The contenders: batpak, in each of its ways, and what people use instead.

Each offers the same class `Log`, whose methods hold the loops themselves, so that no
wrapper stands between the clock and the work. The Rust batpak is no module but a program
that takes the same jobs: see benchmarks.rust.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from benchmarks.data import Measurement

MODULES: Final = {
    "batpak": "benchmarks.contenders.ours",
    "encrypted": "benchmarks.contenders.encrypted",
    "keyed": "benchmarks.contenders.ways:Keyed",
    "expecting": "benchmarks.contenders.ways:Expecting",
    "conditional": "benchmarks.contenders.ways:Conditional",
    "submitting": "benchmarks.contenders.ways:Submitting",
    "sqlite": "benchmarks.contenders.sqlite_table",
    "eventsourcing": "benchmarks.contenders.eventsourcing_app",
    "raw": "benchmarks.contenders.raw_disk",
}
LABELS: Final = {
    "batpak": "batpak",
    "encrypted": "batpak, encrypted",
    "keyed": "batpak, with a key",
    "expecting": "batpak, with expect=",
    "conditional": "batpak, with unless=",
    "submitting": "batpak, submitted",
    "sqlite": "SQLite",
    "eventsourcing": "eventsourcing",
    "raw": "raw write + fdatasync",
    "rust": "Rust",
    "rust-gate": "Rust, durable gate",
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a pass over the whole log saw: how many, and every thousandth payload."""

    count: int
    sample: list[Measurement]


class Log(Protocol):
    """A log in a directory, opened or created; `durable` asks for a sync per commit.

    A contender without a method for some work leaves it out; the plan doesn't ask for it.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None: ...

    def prepare(self, events: Sequence[Measurement]) -> Sequence[Any]:
        """Untimed: the events as the append loops take them. No encoding, no hashing."""
        ...

    def append_all(self, prepared: Sequence[Any]) -> None:
        """One commit per event. May be called by several threads at once."""
        ...

    def append_batches(self, prepared: Sequence[Any], size: int) -> None:
        """One commit per `size` events."""
        ...

    def keys(self, numbers: Sequence[int]) -> Sequence[Any]:
        """Untimed: what `get_all` finds these events by."""
        ...

    def get_all(self, keys: Sequence[Any]) -> list[Measurement]:
        """Each event read by its key and its payload decoded."""
        ...

    def scan(self) -> Scanned:
        """Every event in order of commit, its payload decoded."""
        ...

    def verify(self) -> int:
        """Every hash and link recomputed: how many events. Raises if one is wrong."""
        ...

    def check_settings(self) -> None:
        """Raises unless the durability asked for is the one in force."""
        ...

    def close(self) -> None: ...


def load(contender: str) -> type[Log]:
    """The contender's `Log`. Raises ImportError where its package is absent."""
    module, _, name = MODULES[contender].partition(":")
    return cast("type[Log]", getattr(importlib.import_module(module), name or "Log"))
