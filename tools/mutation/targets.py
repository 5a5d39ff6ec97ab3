"""What is mutated, and which tests may notice: the one place to add a module.

A module goes in when damage to it would break a promise of docs/durability or of the
format. Tests that only start other processes find no mutants: they run another copy.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LEFT_OUT", "MODULES", "TESTS"]

MODULES: Final = (
    "batpak/event.py",
    "batpak/encryption.py",
    "batpak/keyring/files.py",
    "batpak/journal/record.py",
    "batpak/journal/header.py",
    "batpak/journal/hint.py",
    "batpak/journal/recovery.py",
    "batpak/journal/sidecar.py",
    "batpak/journal/writer.py",
    "batpak/journal/commits.py",
    "batpak/journal/applying.py",
    "batpak/journal/flushing.py",
    "batpak/journal/group.py",
    "batpak/journal/keyfile.py",
    "batpak/journal/rewriting.py",
    "batpak/index/keytable.py",
    "batpak/engine/opening.py",
    "batpak/engine/bulk_check.py",
    "batpak/engine/bulk_walk.py",
    "batpak/engine/checkpoints.py",
    "batpak/engine/tree.py",
    "batpak/engine/proving.py",
    "batpak/engine/keys.py",
    "batpak/engine/erasing.py",
    "batpak/engine/compacting.py",
    "batpak/tlog/signing.py",
    "batpak/tlog/tiles.py",
    "batpak/tlog/trees.py",
    "batpak/bundle.py",
    "batpak/proof/bundle.py",
    "batpak/proof/merkle.py",
    "batpak/proof/notes.py",
    "batpak/proof/receipts.py",
)
"""Files below src."""

TESTS: Final = ("tests/unit", "tests/property", "tests/crash", "tests/fuzz")
"""Where the tests are."""

LEFT_OUT: Final = ("tests/crash/power_cuts",)
"""Harnesses of thousands of states: a survivor would cost minutes. It can only lower the score."""
