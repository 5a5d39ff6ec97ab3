"""What we and the Go program of tests/interop/go make for each other, and how it is verified.

One JSON object goes each way: `notes` (text, verifier keys, names of the signers), `checkpoints`
(note, origin, log_key, witness_keys, size, root, times by witness), `inclusion` and
`consistency` proofs, and the tree of `tiles_size` leaves with `tiles`: path to SHA-256 of the
content. Hashes are hex. Leaf n holds the SHA-256 of the text "entry n".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from batpak.proof import merkle
from batpak.proof.notes import Checkpoint, Key, Note, Policy
from batpak.tlog import tiles, trees
from batpak.tlog.signing import cosign, sign_note
from tests.support.small_log import (
    COSIGNED_AT,
    LOG,
    LOG_KEY,
    ORIGIN,
    WITNESS_KEYS,
    WITNESSES,
    example,
)

TILES_SIZE = 66_000
OURS_FOR_THEM = example().checkpoint(14, "w1.example")
"""The checkpoint that Go's witnesses cosign."""


def entry(number: int) -> bytes:
    return sha256(f"entry {number}".encode()).digest()


@cache
def subtree(level: int, index: int) -> bytes:
    """Of the tree whose leaves are these entries."""
    if level == 0:
        return merkle.leaf_hash(entry(index))
    return merkle.node_hash(subtree(level - 1, 2 * index), subtree(level - 1, 2 * index + 1))


def raw(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def publish(folder: Path, note: str, size: int = TILES_SIZE) -> dict[str, str]:
    """Write the tree as any static server can show it; path to SHA-256 of the hash tiles."""
    written: dict[str, str] = {}
    for tile in tiles.tiles_for(size):
        if tile.level == tiles.ENTRIES:
            first = tile.index * tiles.TILE_WIDTH
            data = tiles.encode_entries(entry(n) for n in range(first, first + tile.width))
        else:
            data = tiles.tile_bytes(tile, subtree)
            written[tile.path] = sha256(data).hexdigest()
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "checkpoint").write_text(note, encoding="utf-8")
    return written


# --- what they made ---------------------------------------------------------------------------


def verify_theirs(made: dict[str, Any]) -> Counter[str]:
    """Verify all that Go made; what was verified, counted. Raises AssertionError."""
    counts: Counter[str] = Counter()
    for shown in made["notes"]:
        note = Note.parse(shown["note"])
        assert str(note) == shown["note"]
        signed = note.verified([Key.parse(key) for key in shown["keys"]])
        assert [key.name for key in signed] == shown["signers"]
        counts["notes"] += 1
    *own, of_ours = made["checkpoints"]
    for shown in own:
        policy = policy_of(shown)
        checkpoint, cosigned = policy.open(shown["note"])
        assert checkpoint == Checkpoint(
            shown["origin"], shown["size"], bytes.fromhex(shown["root"])
        )
        assert {key.name: time for key, time in cosigned.items()} == shown["times"]
        # One more has signed, in a way that we do not know.
        assert len(Note.parse(shown["note"]).signatures) == 2 + len(cosigned)
        counts["checkpoints"] += 1
        counts["cosignatures"] += len(cosigned)
    policy = Policy(LOG_KEY, tuple(Key.parse(key) for key in of_ours["witness_keys"]), 2)
    checkpoint, cosigned = policy.open(of_ours["note"])
    assert (checkpoint.size, len(cosigned)) == (14, 2)
    counts["cosignatures of ours"] += len(cosigned)
    for shown in made["inclusion"]:
        leaf, root, proof = (
            bytes.fromhex(shown["leaf"]),
            bytes.fromhex(shown["root"]),
            shown["proof"],
        )
        index, size = shown["index"], shown["size"]
        assert merkle.verify_inclusion(leaf, index, size, raw(proof), root)
        assert raw(proof) == trees.inclusion_proof(subtree, index, size)
        assert not merkle.verify_inclusion(leaf, index, size, raw(proof), bytes(32))
        counts["inclusion"] += 1
    for shown in made["consistency"]:
        old, new, proof = shown["old"], shown["new"], shown["proof"]
        roots = raw([shown["old_root"], shown["new_root"]])
        assert merkle.verify_consistency(old, roots[0], new, roots[1], raw(proof))
        assert raw(proof) == trees.consistency_proof(subtree, old, new)
        assert not merkle.verify_consistency(old, roots[0], new, bytes(32), raw(proof))
        counts["consistency"] += 1
    for tile in tiles.tiles_for(made["tiles_size"]):
        if tile.level != tiles.ENTRIES:
            data = tiles.tile_bytes(tile, subtree)
            assert made["tiles"][tile.path] == sha256(data).hexdigest()
            counts["tiles"] += 1
    assert counts["tiles"] == len(made["tiles"])
    return counts


def policy_of(shown: dict[str, Any]) -> Policy:
    witnesses = tuple(Key.parse(key) for key in shown["witness_keys"])
    return Policy(Key.parse(shown["log_key"]), witnesses, 2, shown["origin"])


# --- what we make -----------------------------------------------------------------------------


def cosign_theirs(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints of Go's log which a witness of ours saw one after the other and cosigned."""
    seen: Checkpoint | None = None
    shown_again: list[dict[str, Any]] = []
    key = WITNESS_KEYS[0]
    for shown in made["checkpoints"][:-1]:
        start = 0 if seen is None else seen.size
        proof = trees.consistency_proof(subtree, start, shown["size"])
        seen, line = cosign(
            shown["note"], policy_of(shown), seen, proof, key.name, WITNESSES[key.name], COSIGNED_AT
        )
        shown_again.append(
            shown
            | {
                "note": shown["note"] + str(line),
                "witness_keys": [*shown["witness_keys"], str(key)],
                "times": shown["times"] | {key.name: COSIGNED_AT},
            }
        )
    return shown_again


def our_checkpoint(size: int) -> dict[str, Any]:
    root = trees.tree_root(subtree, size)
    text = str(Checkpoint(ORIGIN, size, root))
    lines = [sign_note(text, ORIGIN, LOG)]
    lines += [sign_note(text, key.name, WITNESSES[key.name], COSIGNED_AT) for key in WITNESS_KEYS]
    return {
        "note": str(Note(text, tuple(lines))),
        "origin": ORIGIN,
        "log_key": str(LOG_KEY),
        "witness_keys": [str(key) for key in WITNESS_KEYS],
        "size": size,
        "root": root.hex(),
        "times": {key.name: COSIGNED_AT for key in WITNESS_KEYS},
    }


def make_ours(folder: Path, theirs: dict[str, Any], largest: int = 300) -> dict[str, Any]:
    """Write a published tree into `folder`; all else that Go is to verify."""
    newest = our_checkpoint(TILES_SIZE)
    notes: list[dict[str, Any]] = []
    for text in ("one line\n", "with\n\nan empty line\n", "\n", "ünïcode — and a dash\n"):
        note = Note(text, (sign_note(text, ORIGIN, LOG),))
        notes.append({"note": str(note), "keys": [str(LOG_KEY)], "signers": [ORIGIN]})
    inclusion: list[dict[str, Any]] = []
    consistency: list[dict[str, Any]] = []
    for size in (*range(1, largest + 1), TILES_SIZE):
        root = trees.tree_root(subtree, size).hex()
        for index in range(size % 7, size, 7 if size <= largest else 997):
            proof = trees.inclusion_proof(subtree, index, size)
            inclusion.append(
                {
                    "index": index,
                    "size": size,
                    "leaf": subtree(0, index).hex(),
                    "root": root,
                    "proof": [digest.hex() for digest in proof],
                }
            )
        for old in range(1 + size % 5, size + 1, 5 if size <= largest else 997):
            proof = trees.consistency_proof(subtree, old, size)
            consistency.append(
                {
                    "old": old,
                    "new": size,
                    "old_root": trees.tree_root(subtree, old).hex(),
                    "new_root": root,
                    "proof": [digest.hex() for digest in proof],
                }
            )
    return {
        "notes": notes,
        "checkpoints": [*map(our_checkpoint, (0, 1, 300)), newest, *cosign_theirs(theirs)],
        "inclusion": inclusion,
        "consistency": consistency,
        "tiles_size": TILES_SIZE,
        "tiles": publish(folder, newest["note"]),
    }
