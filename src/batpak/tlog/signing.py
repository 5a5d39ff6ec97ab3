"""What holders of private keys do with notes: a log signs, a witness checks and cosigns.

No clock and no files: the time and what a witness saw last are the caller's, who must keep
the new checkpoint durably before it gives the cosignature away. Source: docs/proofs.md,
"Notes" and "Witnesses".
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batpak.errors import InvalidInput, ProofInvalid
from batpak.proof.merkle import verify_consistency
from batpak.proof.notes import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    Key,
    Policy,
    Signature,
    cosigned_message,
)

__all__ = ["cosign", "sign_note"]


def sign_note(
    text: str, name: str, private: Ed25519PrivateKey, time: int | None = None
) -> Signature:
    """Sign the text of a note; with a time in seconds since 1970, as a cosignature.

    Raises InvalidInput.
    """
    algorithm = ED25519 if time is None else COSIGNATURE
    key = Key.parse(str(Key(name, private.public_key().public_bytes_raw(), algorithm)))
    if time is None:
        return Signature(name, key.key_id, private.sign(text.encode()))
    if not 0 <= time < 2**63:
        raise InvalidInput("a cosignature's time is in seconds since 1970", field="time")
    signature = private.sign(cosigned_message(text, time))
    return Signature(name, key.key_id, time.to_bytes(8, "big") + signature)


def cosign(
    note: str,
    log: Policy,
    seen: Checkpoint | None,
    proof: Sequence[bytes],
    name: str,
    private: Ed25519PrivateKey,
    time: int,
) -> tuple[Checkpoint, Signature]:
    """The checkpoint of a note, to be kept as the last one seen, and a witness's cosignature.

    `proof` leads from `seen` to it. Raises ProofInvalid, whose reason is `unknown-log`, for
    another log or without its signature; `rollback`, for a smaller size; `fork`, for
    another root at the same size; `not-consistent`, where the proof does not lead there;
    or one of `notes`.
    """
    checkpoint, _ = log.open(note)
    if seen is not None:
        if seen.origin != checkpoint.origin:
            raise ProofInvalid("what was seen last is of another log", reason="unknown-log")
        if checkpoint.size < seen.size:
            raise ProofInvalid(
                f"{checkpoint.size} leaves were shown after {seen.size}", reason="rollback"
            )
        if checkpoint.size == seen.size and checkpoint.root != seen.root:
            raise ProofInvalid(f"there are two roots of size {seen.size}", reason="fork")
        if not verify_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof):
            raise ProofInvalid(
                "the proof does not lead from what was seen last to this checkpoint",
                reason="not-consistent",
            )
    return checkpoint, sign_note(str(checkpoint), name, private, time)
