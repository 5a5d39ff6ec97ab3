"""The scenarios, their contenders and their budgets: a table, nothing that runs.

A budget is either a bound on batpak's median, or a bound on its ratio to a rival: how
many times better it was in the same round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.contenders import LABELS
from benchmarks.data import BATCH

Better = Literal["higher", "lower"]

ROUNDS: Final = 5
RUST_ROUNDS: Final = 9
"""It hands each append to a writer thread, so that its rate swings with the scheduler."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who does the work, and how: `threads` at once, from a `fixture` ("single", "batch")."""

    name: str
    threads: int = 1
    fixture: str = ""
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or LABELS[self.name]

    @property
    def rounds(self) -> int:
        """How many it takes where nobody asked for a number."""
        return RUST_ROUNDS if self.name in ("rust", "rust-gate") else ROUNDS


@dataclass(frozen=True, slots=True)
class Budget:
    """`bound` on the ratio to the contender titled `rival`, or on the median without one."""

    bound: float
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`contenders[0]` is batpak, in one of its ways.

    Events: `share` of those asked for, within `least` … `cap`.
    """

    name: str
    title: str
    work: str
    unit: str
    better: Better
    contenders: tuple[Contender, ...]
    budget: Budget | None = None
    durable: bool = False
    batch: int = 0
    least: int = BATCH
    cap: int | None = None
    share: float = 1.0
    copy_fixture: bool = False
    once: bool = False
    """Counted, not timed: one round says it all."""

    @property
    def together(self) -> bool:
        """Whether one process measures both: two ways of batpak that differ in an argument."""
        return self.work == "append_in_turns"

    def events(self, asked: int) -> int:
        """How many events a measurement handles when `asked` are asked for."""
        count = min(round(asked * self.share), self.cap or asked)
        return max(count - count % BATCH, self.least)


def turns(wanted: Sequence[int]) -> list[list[int]]:
    """Round by round, the places of those who run, in order; `wanted` rounds by place.

    Every round starts with another contender (A B C, B C A, …), so that none always runs
    after the same one. Whoever wants more rounds than the others has the company of the
    first, batpak, so that each of its figures has one of the same round beside it.
    """
    places = list(range(len(wanted)))
    rounds = list[list[int]]()
    for number in range(max(wanted)):
        start = number % len(places)
        order = places[start:] + places[:start]
        rounds.append([place for place in order if number < wanted[place] or place == 0])
    return rounds


SYNC_EVENTS: Final = 3_000
THREADS: Final = 16
THREADED_EVENTS: Final = THREADS * 600
INDEXED_BATCHES: Final = 1_200 * BATCH
"""A close writes a sidecar for 1,024 records or more: so many batches have one."""

_OURS = Contender("batpak")
_SQLITE = Contender("sqlite")
_PACKAGE = Contender("eventsourcing")
_RAW = Contender("raw")
_RUST = Contender("rust")
_RUST_GATE = Contender("rust-gate")
_PLAIN = "batpak, plain append"


def _stored(*names: str) -> tuple[Contender, ...]:
    return tuple(Contender(name, fixture="single") for name in names)


SCENARIOS: Final = (
    Scenario(
        "append-os", "append, OS, one event per commit", "append", "events/s", "higher",
        (_OURS, _SQLITE, _PACKAGE, _RUST), Budget(4.0, "SQLite"),
    ),
    Scenario(
        "append-encrypted", "append, OS, encrypted (AES-SIV, a key for each of 100 entities)",
        "append_in_turns", "events/s", "higher",
        (Contender("encrypted"), Contender("batpak", label="batpak, salted")),
        Budget(0.7, "batpak, salted"),
    ),
    Scenario(
        "append-keyed", "append, OS, under an idempotency key",
        "append_in_turns", "events/s", "higher",
        (Contender("keyed"), Contender("batpak", label=_PLAIN)), Budget(0.8, _PLAIN),
    ),
    Scenario(
        "append-expect", "append, OS, on its entity's clock",
        "append_in_turns", "events/s", "higher",
        (Contender("expecting"), Contender("batpak", label=_PLAIN)), Budget(0.9, _PLAIN),
    ),
    Scenario(
        "append-unless", "append, OS, unless a region of 100 000 old events has new ones",
        "append_in_turns", "events/s", "higher",
        (Contender("conditional"), Contender("batpak", label=_PLAIN)), Budget(0.5, _PLAIN),
        share=0.2,
    ),
    Scenario(
        "submit-os", "submit, OS, 1 thread", "append", "events/s", "higher",
        (Contender("submitting"), Contender("batpak", label=_PLAIN)), Budget(0.45, _PLAIN),
    ),
    Scenario(
        "submit-sync", "submit, SYNC, 1 thread", "append", "events/s", "higher",
        (Contender("submitting"), Contender("batpak", label=_PLAIN)), Budget(0.7, _PLAIN),
        durable=True, cap=SYNC_EVENTS,
    ),
    Scenario(
        "append-sync", "append, SYNC, 1 thread", "append", "events/s", "higher",
        (_OURS, _RAW, _SQLITE, _PACKAGE, _RUST, _RUST_GATE),
        Budget(1.0, "raw write + fdatasync"),
        durable=True, cap=SYNC_EVENTS,
    ),
    Scenario(
        "append-sync-16", "append, SYNC, 16 threads", "append", "events/s", "higher",
        (
            Contender("batpak", threads=THREADS),
            Contender("batpak", label="batpak, 1 thread"),
            Contender("sqlite", threads=THREADS),
            Contender("rust-gate", threads=THREADS),
        ),
        Budget(2.5, "batpak, 1 thread"), durable=True, cap=THREADED_EVENTS,
    ),
    Scenario(
        "batch-os", "batches of 100, OS", "append", "events/s", "higher",
        (_OURS, _SQLITE, _PACKAGE), Budget(4.0, "SQLite"), batch=BATCH,
    ),
    Scenario(
        "batch-sync", "batches of 100, SYNC", "append", "events/s", "higher",
        (_OURS, _RAW, _SQLITE, _PACKAGE, _RUST), Budget(2.0, "Rust"),
        durable=True, batch=BATCH, share=0.5,
    ),
    Scenario(
        "get", "get by id, random, decoded (batpak: verified)", "get", "µs", "lower",
        _stored("batpak", "sqlite", "eventsourcing", "rust"), Budget(6.0),
    ),
    Scenario(
        "scan", "scan all, decoded (batpak: content hashes checked)", "scan", "events/s", "higher",
        _stored("batpak", "sqlite", "eventsourcing", "rust"), Budget(700_000),
    ),
    Scenario(
        "verify", "verify chain and payloads, per core", "verify", "events/s", "higher",
        _stored("batpak", "sqlite"), Budget(400_000),
    ),
    Scenario(
        "open", "open after a clean close", "open_log", "ms", "lower",
        _stored("batpak", "rust"), Budget(30.0), copy_fixture=True,
    ),
    Scenario(
        "disk-segment", "disk: segment (SQL peers: all)", "disk", "B/event", "lower",
        _stored("batpak", "sqlite", "eventsourcing", "rust"), Budget(490), once=True,
    ),
    Scenario(
        "disk-indexed", "disk: segment and sidecar (Rust: and index files)", "disk_with_index",
        "B/event", "lower",
        _stored("batpak", "rust"), Budget(560), once=True,
    ),
    Scenario(
        "disk-batch-segment", "disk: segment, batches of 100", "disk", "B/event", "lower",
        (Contender("batpak", fixture="batch"),), Budget(420),
        batch=BATCH, once=True, least=INDEXED_BATCHES,
    ),
    Scenario(
        "disk-batch-indexed", "disk: segment and sidecar, batches of 100", "disk_with_index",
        "B/event", "lower",
        (Contender("batpak", fixture="batch"),), Budget(490),
        batch=BATCH, once=True, least=INDEXED_BATCHES,
    ),
    Scenario(
        "import", "import (batpak: from batpak import Store)", "import_time", "ms", "lower",
        (_OURS, _PACKAGE), Budget(150),
    ),
)  # fmt: skip
