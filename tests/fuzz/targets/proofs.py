"""The decoders of proofs: bundles, notes, verifier keys, tile paths and entry bundles."""

from __future__ import annotations

from batpak.errors import ProofInvalid
from batpak.proof import Checkpoint, Key, Note, verify_bundle
from batpak.tlog import tiles
from tests.fuzz.target import target
from tests.support.small_log import POLICY
from tools import verify_bundle as second

LOG, *WITNESSES = (second.read_key(str(key)) for key in (POLICY.log, *POLICY.witnesses))


@target(max_bytes=8192)
def bundles(data: bytes) -> None:
    """A verdict whatever the text, and the same as that of a verifier that shares no code."""
    verdict = verify_bundle(data, [], POLICY)
    other = second.judge(data, LOG, witnesses=WITNESSES, threshold=2)
    assert [(c.name, c.held, c.sequence) for c in verdict.checks] == list(other)
    assert verdict.ok == all(check.held is not False for check in verdict.checks)


@target(max_bytes=4096)
def notes(data: bytes) -> None:
    """ProofInvalid, or a note that is written as it was read; so for its checkpoint."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        note = Note.parse(text)
    except ProofInvalid:
        return
    assert str(note) == text
    try:
        note.verified((POLICY.log, *POLICY.witnesses))
    except ProofInvalid as error:
        assert error.reason == "signature"
    try:
        checkpoint = Checkpoint.parse(note.text)
    except ProofInvalid:
        return
    assert str(checkpoint) == note.text


@target(max_bytes=256)
def verifier_keys(data: bytes) -> None:
    """ProofInvalid, or a key that is written as it was read, which both verifiers accept."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        key = Key.parse(text)
    except ProofInvalid:
        try:
            second.read_key(text)
        except second.Refused:
            return
        raise AssertionError("only the second verifier accepts this key") from None
    assert str(key) == text
    assert second.read_key(text).key_id == key.key_id


@target(max_bytes=256)
def tile_paths(data: bytes) -> None:
    """None, or the tile whose path this is."""
    text = data.decode("utf-8", "surrogateescape")
    tile = tiles.Tile.parse(text)
    assert tile is None or tile.path == text


@target(max_bytes=8704)
def entry_bundles(data: bytes) -> None:
    """ProofInvalid, or entries that are written as they were read."""
    try:
        entries = tiles.decode_entries(data)
    except ProofInvalid:
        return
    assert tiles.encode_entries(entries) == data
