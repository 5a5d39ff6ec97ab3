"""Keys: the vector of RFC 8032, files that nobody else may read, and secrets that stay secret."""

from __future__ import annotations

import errno
import os
import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from batpak import StoreConfig
from batpak.errors import InvalidInput, KeyFileRefused, NoSpace, StorageFailed
from batpak.signing import SigningKey
from tests.support.faulty_files import Fault, FaultyFiles
from tests.support.proofs import LATER, LOG, RECEIPTS

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


def test_a_seed_gives_the_key_and_the_signature_of_rfc_8032() -> None:
    key = SigningKey.from_seed(SEED)
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.public_key.hex() == public
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974")


def test_the_key_id_of_the_rust_system_is_ours() -> None:
    # Its vector: BLAKE3 of the public key of a seed of ones.
    key = SigningKey.from_seed(b"\1" * 32)
    assert key.key_id.hex() == "83561adb398fd87f8e7ed8331bff2fcb945733cc3012879cb9fab07928667062"


@given(st.binary(max_size=80), st.binary(min_size=32, max_size=32).filter(any))
def test_what_a_key_signs_its_public_key_verifies(message: bytes, seed: bytes) -> None:
    key = SigningKey.from_seed(seed)
    Ed25519PublicKey.from_public_bytes(key.public_key).verify(key.sign(message), message)
    assert key == SigningKey.from_seed(seed)


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33, bytes(32), "x" * 32])
def test_a_seed_of_another_size_or_of_zeros_is_refused(seed: bytes) -> None:
    with pytest.raises(KeyFileRefused) as caught:
        SigningKey.from_seed(seed)
    assert caught.value.reason == ("zero-seed" if seed == bytes(32) else "seed-size")


def test_a_saved_key_is_its_owners_alone_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    before = os.umask(0)
    try:
        RECEIPTS.save(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SigningKey.load(file) == RECEIPTS
    with pytest.raises(KeyFileRefused) as caught:
        LATER.save(file)
    assert caught.value.reason == "exists"
    assert SigningKey.load(file) == RECEIPTS


def test_a_raw_seed_is_a_key_file(tmp_path: Path) -> None:
    file = tmp_path / "seed"
    file.write_bytes(SEED)
    file.chmod(0o600)
    assert SigningKey.load(file) == SigningKey.from_seed(SEED)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601, 0o644, 0o666])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key.pem"
    RECEIPTS.save(file)
    file.chmod(mode)
    with pytest.raises(KeyFileRefused) as caught:
        SigningKey.load(file)
    assert caught.value.reason == "readable-by-others"
    assert caught.value.file == str(file)
    assert "chmod 600" in str(caught.value)


def _locked() -> bytes:
    return RECEIPTS.private.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )


BAD_FILES = {
    "nothing": (b"", "format"),
    "text": (b"secret", "format"),
    "zeros": (bytes(32), "zero-seed"),
    "too long": (b"-----BEGIN PRIVATE KEY-----" + b"x" * 5000, "format"),
    "broken PEM": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "format"),
    "with a password": (_locked(), "format"),
    "another algorithm": (
        X25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "algorithm",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_key_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, reason = BAD_FILES[name]
    file = tmp_path / "key"
    file.write_bytes(data)
    file.chmod(0o600)
    with pytest.raises(KeyFileRefused) as caught:
        SigningKey.load(file)
    assert caught.value.reason == reason
    if data:
        assert data[:20].decode("latin-1") not in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="No such file"):
        SigningKey.load(tmp_path / "none")
    with pytest.raises(KeyFileRefused) as caught:
        SigningKey.load(tmp_path)
    assert caught.value.reason == "not-a-file"


def test_a_full_disk_is_named_when_a_key_is_saved(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.arm(1, Fault.NO_SPACE)
    with pytest.raises(NoSpace):
        RECEIPTS.save(tmp_path / "key.pem", files=files)
    assert [operation.name for operation in files.fired] == ["pwrite"]
    assert not files.open_files


def test_a_key_shows_its_secret_to_nobody() -> None:
    key = SigningKey.from_seed(SEED)
    for text in (repr(key), str(key), f"{[key]}"):
        assert SEED.hex() not in text
        assert key.key_id.hex()[:16] in text
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(key)
    assert SEED.hex() not in repr(StoreConfig(signing_keys=(key,)))


def test_the_checkpoint_key_signs_no_receipts() -> None:
    with pytest.raises(InvalidInput) as caught:
        StoreConfig(signing_keys=(RECEIPTS, LOG), checkpoint_key=LOG)
    assert caught.value.field == "checkpoint_key"
    with pytest.raises(InvalidInput) as caught:
        StoreConfig(signing_keys=(RECEIPTS, RECEIPTS))
    assert caught.value.field == "signing_keys"
    with pytest.raises(InvalidInput) as caught:
        StoreConfig(require_signing=True)
    assert caught.value.field == "signing_keys"


def test_errno_of_an_unreadable_file_is_told(tmp_path: Path) -> None:
    files = FaultyFiles()
    file = tmp_path / "key.pem"
    RECEIPTS.save(file)
    files.arm(0, Fault.ERROR)
    with pytest.raises(StorageFailed, match=os.strerror(errno.EIO)):
        SigningKey.load(file, files=files)
