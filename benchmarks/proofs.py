"""What proving and verifying cost, beside their budgets; no peers.

Usage: python -m benchmarks.proofs

In processor time of this process, which other work on the machine disturbs least; the
median of many calls. Sizes of trees in leaves. Figures are printed and never asserted.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from uuid import UUID

from batpak import canonical
from batpak.bundle import Bundle, ShownEvent
from batpak.event import NO_HASH, NO_ID, ROW, Event, content_hash, id_of_hlc
from batpak.proof import Checkpoint, Key, Note, Policy, verify_bundle
from batpak.proof.merkle import leaf_hash, node_hash, verify_inclusion
from batpak.proof.notes import COSIGNATURE
from batpak.receipt import AppendReceipt, ReceiptKey
from batpak.tlog.signing import sign_note, signing_key
from batpak.tlog.trees import inclusion_proof, tree_root

SIZE = 1 << 16
ROUNDS = 300


def milliseconds(call: Callable[[], object]) -> float:
    taken: list[float] = []
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        call()
        taken.append((time.process_time_ns() - start) / 1e6)
    return statistics.median(taken)


def event() -> Event:
    hlc = 1_750_000_000_000 << 16
    event_id = id_of_hlc(hlc, 1)
    envelope = bytes(16) + canonical.encode({"text": "x" * 200})
    row = ROW.pack(
        SIZE // 3, event_id, event_id, NO_ID, 1, hlc, 0, 0, 0, 0, 0xF001, 1, 0, 6, 5, 1, 1,
        len(envelope), 0, content_hash(1, envelope), NO_HASH,
    )  # fmt: skip
    return Event(row, b"lamp:1house", envelope)


def measured() -> Iterator[tuple[str, float, str]]:
    """What was done, its milliseconds, its budget."""
    shown = event()
    log, witness, owner = (signing_key(bytes([seed] * 32)) for seed in (1, 2, 3))

    @cache
    def subtree(level: int, index: int) -> bytes:
        if level:
            return node_hash(subtree(level - 1, 2 * index), subtree(level - 1, 2 * index + 1))
        if index == shown.sequence:
            return leaf_hash(shown.event_hash)
        return leaf_hash(sha256(index.to_bytes(8, "big")).digest())

    text = str(Checkpoint("log.example", SIZE, tree_root(subtree, SIZE)))
    lines = (sign_note(text, "log.example", log), sign_note(text, "w.example", witness, 1))
    row = shown.row
    receipt = AppendReceipt(
        UUID(int=1),
        (row.sequence, row.event_id, row.hlc, 0, shown.event_hash, row.prev_hash),
        shown.coordinate,
        row.kind,
        row.content_hash,
    )
    key = ReceiptKey(owner.public_key().public_bytes_raw())
    signature = owner.sign(receipt.signed_message)
    yield "sign a receipt", milliseconds(lambda: owner.sign(receipt.signed_message)), "0.06"
    signed = receipt.to_json().replace('"key_id": null', f'"key_id": "{key.key_id.hex()}"')
    signed = signed.replace('"signature": null', f'"signature": "{signature.hex()}"')
    proof = inclusion_proof(subtree, shown.sequence, SIZE)
    bundle = Bundle(
        events=[ShownEvent.of(shown, AppendReceipt.from_json(signed))],
        inclusion=[digest.hex() for digest in proof],
        checkpoint=str(Note(text, lines)),
    ).to_json()
    policy = Policy(
        Key("log.example", log.public_key().public_bytes_raw()),
        (Key("w.example", witness.public_key().public_bytes_raw(), COSIGNATURE),),
        1,
    )
    assert all(check.held is not False for check in verify_bundle(bundle, [key], policy).checks)
    yield (
        "make an inclusion proof, hashes at hand",
        milliseconds(lambda: inclusion_proof(subtree, shown.sequence, SIZE)),
        "1",
    )
    leaf, root = leaf_hash(shown.event_hash), tree_root(subtree, SIZE)
    yield (
        "verify an inclusion proof",
        milliseconds(lambda: verify_inclusion(leaf, shown.sequence, SIZE, proof, root)),
        "-",
    )
    yield (
        f"verify a bundle of {len(bundle)} bytes, three signatures",
        milliseconds(lambda: verify_bundle(bundle, [key], policy)),
        "2",
    )


def main() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"tree of {SIZE} leaves, median of {ROUNDS}, load {load:.1f}")
    for what, taken, budget in measured():
        print(f"{taken:8.3f} ms  (budget {budget:>4})  {what}")


if __name__ == "__main__":
    main()
