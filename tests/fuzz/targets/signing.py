"""What signers read: key files, and the requests that a witness is given."""

from __future__ import annotations

import os
import tempfile
from typing import Final

from batpak.errors import Conflict, InvalidInput, KeyFileRefused
from batpak.proof import Key, Note
from batpak.proof.notes import verify_ed25519
from batpak.signing import SigningKey
from batpak_cli.witness import Witness, parse_request
from tests.fuzz.target import target
from tests.fuzz.targets.commands import shared_memory
from tests.support.proofs import WITNESS
from tests.support.small_log import POLICY

NAME: Final = "example.net/witness"
COSIGNER: Final = Key(NAME, WITNESS.public_key, 4)


@target(max_bytes=4608)
def signing_keys(data: bytes) -> None:
    """KeyFileRefused, or a key that signs, and that is the same when it is saved and loaded.

    Neither an error nor the key's `repr` shows what is in the file.
    """
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        path = os.path.join(folder, "key")
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
        try:
            key = SigningKey.load(path)
        except KeyFileRefused as error:
            told = str(error)
        else:
            told = repr(key)
            assert verify_ed25519(key.public_key, key.sign(b"message"), b"message")
            key.save(path + ".again")
            assert SigningKey.load(path + ".again") == key
            assert key.private.private_bytes_raw().hex() not in told
        assert len(data) < 16 or data.hex() not in told
        assert len(data) < 16 or data.decode("latin-1") not in told


@target(max_bytes=8192)
def witness_requests(data: bytes) -> None:
    """InvalidInput, Conflict, or a cosigned note; what was cosigned is what is remembered.

    A refused request leaves no memory. After a cosignature the same request changes nothing.
    """
    text = data.decode("utf-8", "surrogateescape")
    try:
        size, hashes, note = parse_request(text)
    except InvalidInput:
        return
    assert 0 <= size < 10**19
    assert len(hashes) <= 63
    assert all(len(each) == 32 for each in hashes)
    assert text.endswith("\n\n" + note)
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        state = os.path.join(folder, "state")
        witness = Witness(POLICY.log, NAME, WITNESS, state)
        try:
            made = witness.cosign(text, now=1_800_000_000)
        except (Conflict, InvalidInput):
            assert not os.path.exists(state)
            return
        parsed = Note.parse(made.note)
        assert {POLICY.log, COSIGNER} <= set(parsed.verified([POLICY.log, COSIGNER]))
        assert os.path.exists(state), "it was cosigned, and nothing is remembered"
        with open(state, encoding="utf-8") as file:
            kept = file.read()
        assert kept == parsed.text
        try:
            witness.cosign(text, now=1_800_000_001)
        except Conflict:
            pass
        with open(state, encoding="utf-8") as file:
            assert file.read() == kept
