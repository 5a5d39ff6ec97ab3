"""Check with public keys and a few kilobytes what happened; docs/proofs.md."""

from batpak.proof.bundle import Check, Verdict, verify_bundle, verify_chain
from batpak.proof.notes import Checkpoint, Key, Note, Policy
from batpak.proof.receipts import verify_receipt

__all__ = [
    "Check", "Checkpoint", "Key", "Note", "Policy", "Verdict", "verify_bundle", "verify_chain",
    "verify_receipt",
]  # fmt: skip
