"""What signing and proving cost: `python -m benchmarks.proof [--events N] [--dir DIR]`.

Ours only, for no peer does the same work. Each line names its budget from the design and says
seconds of this process's CPU beside the wall clock, since others may use the machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from batpak import Coordinate, Durability, EventKind, Item, SigningKey, Store
from batpak.proof.bundle import verify_bundle
from batpak.proof.notes import Key, Policy

KIND: Final = EventKind(0xF, 1)
ENTITIES: Final = [Coordinate(f"entity:{n}", "bench") for n in range(100)]
SAMPLE: Final = 200


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--dir", type=Path, default=None)
    given = arguments.parse_args()
    if not 2_000 <= given.events <= 100_000_000:
        print("--events is from 2000 to 100 000 000", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        _run(Path(folder, "journal"), given.events)
    return 0


def _run(path: Path, events: int) -> None:
    receipts, checkpoints = SigningKey.generate(), SigningKey.generate()
    with Store.open(
        path, signing_keys=(receipts,), checkpoint_key=checkpoints, durability=Durability.OS
    ) as store:
        for low in range(0, events, 1000):
            store.append_many(
                [
                    Item(ENTITIES[n % 100], {"n": n, "text": "x" * 180}, kind=KIND)
                    for n in range(low, min(low + 1000, events))
                ]
            )
        store.sync()
        budget = f"≤ {max(2e-6 * events, 0.01):.2g} s"
        _once(f"checkpoint over {events:,} new events", store.checkpoint, budget)
        store.append(ENTITIES[0], {}, kind=KIND)
        _once("the next checkpoint, over 2", store.checkpoint, "")
        _each_of(store, receipts, checkpoints)
        seconds = _once("verify, with the root", store.verify, "")
        print(f"{'':44} {events / seconds / 1e6:8.2f} M events/s of CPU   budget ≥ 0.3")


def _each_of(store: Store, receipts: SigningKey, checkpoints: SigningKey) -> None:
    chance = random.Random(1)  # which events, not secrets
    chosen = [store.at(chance.randrange(len(store) - 8)) for _ in range(SAMPLE)]
    plain = [store.prove_range(event.sequence, event.sequence + 1) for event in chosen[:1]]
    assert plain[0].inclusion, "a tree of one leaf proves nothing"
    checkpoint, prover = store.stored_checkpoint(), store._prover()
    _each(
        "an inclusion proof, from tiles",
        [lambda e=e: prover.inclusion(e.sequence, [e.event_hash], checkpoint) for e in chosen],
        "≤ 1 ms",
    )
    unsigned = [store._receipt_of(event) for event in chosen]
    _each("signing a receipt", [lambda r=r: store.sign(r) for r in unsigned], "≤ 60 µs")
    _each("a bundle, signed", [lambda e=e: store.prove(e.event_id) for e in chosen], "")
    texts = [store.prove(event.event_id).to_json() for event in chosen]
    policy = Policy(Key(store.origin, checkpoints.public_key))
    assert all(verify_bundle(text, (), policy).ok for text in texts)
    assert receipts.key_id.hex() in texts[0]
    _each(
        "verifying a bundle",
        [lambda t=t: verify_bundle(t, (), policy) for t in texts],
        "≤ 2 ms",
    )


def _once(name: str, work: Callable[[], object], budget: str) -> float:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:44} {wall:8.3f} s wall, {cpu:8.3f} s CPU   {budget and f'budget {budget}'}")
    return cpu


def _each(name: str, works: list[Callable[[], object]], budget: str) -> None:
    taken: list[float] = []
    for work in works:
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1e6)
    print(
        f"{name:44} {statistics.median(taken):8.0f} µs median, {max(taken):8.0f} µs worst   "
        f"{budget and f'budget {budget}'}"
    )


if __name__ == "__main__":
    sys.exit(main())
