"""What signing and proving cost: `make bench-proof`, beside the budgets of the design.

Usage: python -m benchmarks.proof [--events N] [--rounds R] [--leaves N] [--dir DIR]

Ours only, for no peer does the same work. A store grows R times by N events, with a checkpoint
over each; then a tree of more leaves than a store of that size would be appended in reasonable
time is written by the store's own `Tree`, of hashes made up here, and proofs come from its
tiles through the store's own `Prover`. Beside the wall clock stands this process's CPU time,
which other work on the machine disturbs less. Figures are printed and never asserted.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from batpak import Coordinate, Durability, EventKind, Item, SigningKey, Store
from batpak.engine.checkpoints import StoredCheckpoint
from batpak.engine.progress import Meter
from batpak.engine.proving import Prover
from batpak.engine.tree import Tree
from batpak.files import REAL
from batpak.journal.layout import Layout
from batpak.proof.bundle import verify_bundle
from batpak.proof.merkle import leaf_hash, verify_inclusion
from batpak.proof.notes import COSIGNATURE, Key, Note, Policy
from batpak.tlog.signing import sign_note
from benchmarks.machine import creation_us

KIND: Final = EventKind(0xF, 1)
ENTITIES: Final = [Coordinate(f"entity:{n}", "bench") for n in range(100)]
BATCH: Final = 1000
SAMPLE: Final = 500
RECEIPTS, LOG, WITNESS = (SigningKey.from_seed(bytes([seed] * 32)) for seed in (1, 2, 3))
WITNESS_KEY: Final = Key("witness.example", WITNESS.public_key, COSIGNATURE)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--leaves", type=int, default=10_000_000)
    arguments.add_argument("--dir", type=Path, default=None)
    given = arguments.parse_args()
    most = 100_000_000
    sizes = 2_000 <= given.events <= most and 2_000 <= given.leaves <= most
    if not sizes or not 1 <= given.rounds <= 100:
        print(
            "--events and --leaves are from 2000 to 100 000 000, --rounds to 100", file=sys.stderr
        )
        return 2
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{os.cpu_count()} cores, load at the beginning {load:.1f}")
    print("wall: least / median / most, of many calls the ninth of ten; CPU: median")
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        # A checkpoint over a million events makes 7 800 files.
        print(f"creating a file here takes {creation_us(Path(folder)):.0f} µs")
        _store(Path(folder, "journal"), given.events, given.rounds)
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        _large_tree(folder, given.leaves)
    return 0


# --- a store ---------------------------------------------------------------------------


def _store(path: Path, events: int, rounds: int) -> None:
    with Store.open(
        path, signing_keys=(RECEIPTS,), checkpoint_key=LOG, durability=Durability.OS
    ) as store:
        whole: list[tuple[float, float]] = []
        next_one: list[tuple[float, float]] = []
        for _ in range(rounds):
            _append(store, events)
            store.sync()
            whole.append(_taken(store.checkpoint))
            store.append(ENTITIES[0], {}, kind=KIND)
            next_one.append(_taken(store.checkpoint))
        _row(f"checkpoint over {events:,} new events", whole, 1, "s", f"{2e-6 * events:.2g}")
        _row("the next checkpoint, over 2 events", next_one, 1e3, "ms")
        _each_of(store)
        verified = [_taken(store.verify) for _ in range(rounds)]
        _row(f"verify {len(store):,} events, with the root", verified, 1, "s")
        rates = sorted(len(store) / cpu / 1e6 for _, cpu in verified)
        print(f"    {statistics.median(rates):.2f} M events/s of CPU (budget: 0.3 or more)")


def _append(store: Store, events: int) -> None:
    for low in range(0, events, BATCH):
        store.append_many(
            [
                Item(ENTITIES[n % len(ENTITIES)], {"n": n, "text": "x" * 180}, kind=KIND)
                for n in range(low, min(low + BATCH, events))
            ]
        )


def _each_of(store: Store) -> None:
    chance = random.Random(1)  # which events, not secrets
    # Those at the end were written after the newest checkpoint.
    chosen = [store.at(chance.randrange(len(store) - 8)) for _ in range(SAMPLE)]
    checkpoint, prover = store.stored_checkpoint(), store._prover(Meter(None))
    _each(
        f"inclusion proof from tiles, {checkpoint.size:,} events",
        [lambda e=e: prover.inclusion(e.sequence, [e.event_hash], checkpoint) for e in chosen],
        1e3, "ms", "1",
    )  # fmt: skip
    unsigned = [store._receipt_of(event) for event in chosen]
    _each("sign a receipt", [lambda r=r: store.sign(r) for r in unsigned], 1e6, "µs", "60")
    line = sign_note(Note.parse(checkpoint.note).text, WITNESS_KEY.name, WITNESS.private, 1)
    store.add_cosignatures(checkpoint.note + str(line), [WITNESS_KEY])
    _each("make a bundle", [lambda e=e: store.prove(e.event_id) for e in chosen], 1e3, "ms")
    texts = [store.prove(event.event_id).to_json() for event in chosen]
    policy = Policy(Key(store.origin, LOG.public_key), (WITNESS_KEY,), 1)
    verdict = verify_bundle(texts[0], (), policy)
    held = {check.name for check in verdict.checks if check.held}
    assert verdict.ok, verdict
    assert held >= {"inclusion", "witnesses", "receipt", "key-added"}, held
    size = statistics.median(map(len, texts))
    _each(
        f"verify a bundle of {size:,.0f} bytes, three signatures",
        [lambda t=t: verify_bundle(t, (), policy) for t in texts],
        1e3, "ms", "2",
    )  # fmt: skip


# --- a larger tree -----------------------------------------------------------------------


class _MadeUp:
    """As much of a part of the index as `Tree` asks for: its events' hashes, made here."""

    def __init__(self, end: int) -> None:
        self.end = end

    @staticmethod
    def hash_of(sequence: int) -> bytes:
        return sha256(sequence.to_bytes(8, "little")).digest()

    def located(self, low: int, high: int) -> tuple[bytes, None]:
        return b"".join(map(self.hash_of, range(low, high))), None


def _large_tree(folder: str, leaves: int) -> None:
    part = _MadeUp(leaves)
    slot = SimpleNamespace(first=0, part=part, segment_base=0)
    reader: Any = SimpleNamespace(index=SimpleNamespace(slots=[slot], slot_of=lambda _at: slot))
    layout = Layout(folder)
    tree = Tree(REAL, layout, reader)
    root = b""

    def grow() -> None:
        nonlocal root
        root = tree.grow(leaves)

    _row(f"write the tiles of {leaves:,} made-up hashes", [_taken(grow)], 1, "s")
    checkpoint = StoredCheckpoint("bench.example", leaves, root, "")
    # A process that comes to a journal: it looks at the tiles first, once.
    anew = Tree(REAL, layout, reader)
    _row(
        f"trust the tiles of {leaves:,} leaves, once",
        [_taken(lambda: anew.trust(leaves, root))],
        1,
        "s",
    )
    prover = Prover(layout, reader, anew, may_write=False)
    chance = random.Random(1)
    places = [chance.randrange(leaves) for _ in range(SAMPLE)]
    hashes = [part.hash_of(place) for place in places]
    _each(
        f"inclusion proof from tiles, {leaves:,} leaves",
        [
            lambda at=at, h=h: prover.inclusion(at, [h], checkpoint)
            for at, h in zip(places, hashes, strict=True)
        ],
        1e3, "ms", "1",
    )  # fmt: skip
    shown = [
        (leaf_hash(h), at, prover.inclusion(at, [h], checkpoint))
        for at, h in zip(places, hashes, strict=True)
    ]
    assert all(verify_inclusion(leaf, at, leaves, proof, root) for leaf, at, proof in shown)
    _each(
        f"verify an inclusion proof of {len(shown[0][2])} hashes",
        [lambda s=s: verify_inclusion(s[0], s[1], leaves, s[2], root) for s in shown],
        1e3, "ms",
    )  # fmt: skip


# --- measured ------------------------------------------------------------------------------


def _taken(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall clock and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _each(
    name: str, works: Sequence[Callable[[], object]], factor: float, unit: str, budget: str = ""
) -> None:
    works[0]()  # what is imported or read only once
    _row(name, [_taken(work) for work in works], factor, unit, budget)


def _row(
    name: str, taken: list[tuple[float, float]], factor: float, unit: str, budget: str = ""
) -> None:
    """Least, median and most of the wall clock, and the median of CPU."""
    walls = sorted(factor * wall for wall, _ in taken)
    # Nine of ten: one pause of the machine says nothing about the work.
    most = walls[int(0.9 * (len(walls) - 1))] if len(walls) >= 100 else walls[-1]
    cpu = statistics.median(factor * cpu for _, cpu in taken)
    spread = f"{walls[0]:.3g} / {statistics.median(walls):.3g} / {most:.3g}"
    limit = f"budget {budget} {unit}" if budget else ""
    print(f"{name:52} {spread:>22} {unit} wall, {cpu:8.3g} {unit} CPU  {limit}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
