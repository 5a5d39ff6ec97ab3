"""Make the golden vectors of proofs, and show what differs from the stored ones.

Usage: python -m tests.support.proof_vectors           exit 1 if anything differs
       BATPAK_GOLDEN=write python -m tests.support.proof_vectors    the same, then write it

Fixed keys and times, so the same bytes each time. A vector that changes is a change of the
format: nothing here may be written again to make a test pass.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from batpak.proof.merkle import leaf_hash
from batpak.proof.notes import COSIGNATURE, Key
from batpak.tlog import tiles
from batpak.tlog.trees import consistency_proof, inclusion_proof, subtrees_of
from tests.support.small_log import (
    LOG_KEY,
    RECEIPT_KEY,
    RECEIPTS,
    WITNESS_KEYS,
    example,
    public,
)

FOLDER = Path(__file__).parents[1] / "golden" / "proof"


def build() -> dict[str, str]:
    """File name to content."""
    log = example()
    leaves = log.leaves
    tree = subtrees_of(leaves)
    receipt = log.receipt(3, RECEIPTS)
    full = log.bundle(3, 2, earlier=5, key_events=(1, 5))
    facts: dict[str, Any] = {
        "receipt": {
            "json": json.loads(receipt.to_json()),
            "signed_message": receipt.signed_message.hex(),
            "public_key": RECEIPT_KEY.public_key.hex(),
            "key_id": RECEIPT_KEY.key_id.hex(),
        },
        "keys": {
            str(key): {"name": key.name, "type": key.algorithm, "public_key": key.public_key.hex()}
            for key in (LOG_KEY, *WITNESS_KEYS, Key("a.example/ü", public(RECEIPTS), COSIGNATURE))
        },
        "event_hashes": [event.event_hash.hex() for event in log.events],
        "leaf_hashes": [leaf_hash(event.event_hash).hex() for event in log.events],
        "roots": [log.root(size).hex() for size in range(len(leaves) + 1)],
        "inclusion of 3 in 14": [h.hex() for h in inclusion_proof(tree, 3, 14)],
        "inclusion of 3 to 6 in 14": [h.hex() for h in inclusion_proof(tree, 3, 14, 4)],
        "consistency of 5 and 14": [h.hex() for h in consistency_proof(tree, 5, 14)],
        "entry bundle of 2": tiles.encode_entries(e.event_hash for e in log.events[:2]).hex(),
        "tile of 2": tiles.tile_bytes(tiles.Tile(0, 0, 2), tree).hex(),
        "paths": {
            tiles.Tile(level, index, width).path: [level, index, width]
            for level, index, width in (
                (0, 0, 256), (0, 1_234_067, 112), (2, 999, 1), (-1, 1000, 255),
            )
        },
    }  # fmt: skip
    return {
        "facts.json": json.dumps(facts, ensure_ascii=False, indent=1) + "\n",
        "checkpoint.txt": log.checkpoint(14, "w1.example", "w3.example"),
        "bundle-run.json": full.to_json() + "\n",
        "bundle-withheld.json": log.bundle(3, withhold=True, key_events=(1,)).to_json() + "\n",
        "bundle-retired-key.json": log.bundle(10, key_events=(1, 5, 8)).to_json() + "\n",
    }


def stored(name: str) -> str | None:
    path = FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def main() -> int:
    different = [name for name, text in build().items() if stored(name) != text]
    for name in different:
        print(f"{name} differs")
    if different and os.environ.get("BATPAK_GOLDEN") == "write":
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in different:
            (FOLDER / name).write_text(build()[name], encoding="utf-8")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
