"""Ed25519 keys: made, kept in files that nobody else may read, and used to sign bytes.

Knows neither receipts nor notes, only messages; what is signed is said in batpak.proof.
A key file holds a PEM private key or a raw 32-byte seed; one that others may read, or
that holds a seed of zeros, is refused. Source: docs/guide/prove.md, "Keys".
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NoReturn

from blake3 import blake3

from batpak.errors import KeyFileRefused
from batpak.files import REAL, Files, closing, path_text, refusal, write_new

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["SEED_SIZE", "SigningKey"]

SEED_SIZE: Final = 32
_MAX_FILE: Final = 4096
"""A PEM file with an Ed25519 key has about 120 bytes."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PEM_MARK: Final = b"-----BEGIN"


class SigningKey:
    """A private Ed25519 key. Its `repr`, and errors about it, never show the secret."""

    __slots__ = ("key_id", "private", "public_key")

    private: Ed25519PrivateKey
    """The same key for `cryptography`."""
    public_key: bytes
    """32 bytes; give it to whoever is to verify."""
    key_id: bytes
    """BLAKE3 of the public key, 32 bytes."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        """Use `SigningKey.generate`, `from_seed` or `load`."""
        self.private = private
        self.public_key = private.public_key().public_bytes_raw()
        self.key_id = blake3(self.public_key).digest()

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the system's source of randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed. Raises KeyFileRefused for another size, or all zeros."""
        if not isinstance(seed, (bytes, bytearray)) or len(seed) != SEED_SIZE:
            raise KeyFileRefused("a seed has 32 bytes", field="seed", reason="seed-size")
        if not any(seed):
            raise KeyFileRefused(
                "the seed is all zeros: anybody has this key",
                field="seed",
                reason="zero-seed",
                advice="make a new key: SigningKey.generate(), or batpak keys new FILE",
            )
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.from_private_bytes(bytes(seed)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, files: Files = REAL) -> SigningKey:
        """The key in a file: a PEM private key without a password, or a raw seed.

        Raises KeyFileRefused (readable by others, no Ed25519 key …), StorageFailed.
        """
        name: str = path_text(path, "path")
        try:
            with closing(files, files.open(name, os.O_RDONLY)) as fd:
                status = files.fstat(fd)
                _check_status(status, name)
                data = files.pread(fd, _MAX_FILE + 1, 0)
        except OSError as error:
            raise refusal(error, "can't read the key file", name) from error
        return cls._decoded(data, name)

    @classmethod
    def _decoded(cls, data: bytes, name: str) -> SigningKey:
        if len(data) == SEED_SIZE:
            return cls._of_seed(data, name)
        if len(data) > _MAX_FILE or not data.startswith(_PEM_MARK):
            raise _refused("this is no key file", name, "format")
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # TypeError: a password is asked for.
            raise _refused("the key file can't be read", name, "format") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise _refused("the key is no Ed25519 key", name, "algorithm")
        return cls._of_seed(private.private_bytes_raw(), name)

    @classmethod
    def _of_seed(cls, seed: bytes, name: str) -> SigningKey:
        try:
            return cls.from_seed(seed)
        except KeyFileRefused as error:
            raise _refused(error.what, name, str(error.reason), error.advice) from error

    def save(self, path: str | os.PathLike[str], *, files: Files = REAL) -> None:
        """Write the key as PEM to a new file that only its owner may read, durably.

        Raises KeyFileRefused when the file is there already, StorageFailed, NoSpace.
        """
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        data = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        name: str = os.path.abspath(path_text(path, "path"))
        try:
            write_new(files, name, data, 0o600, sync_name=True)
        except FileExistsError as error:
            raise _refused(
                "there is a file already, and keys are never written over", name, "exists",
                "name a new file",
            ) from error  # fmt: skip
        except OSError as error:
            raise refusal(error, "can't write the key file", name) from error

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of RFC 8032: the same for the same message."""
        return self.private.sign(message)

    def __eq__(self, other: object) -> bool:
        return (
            self.public_key == other.public_key if isinstance(other, SigningKey) else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id.hex()[:16]}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey is not pickled: its secret would go with it")


def _check_status(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused("a key file is a regular file", name, "not-a-file")
    # Windows has no such bits; who may read a file is not seen from here.
    if os.name == "posix" and status.st_mode & _OTHERS:
        raise _refused(
            f"others may read the key file: its mode is {stat.S_IMODE(status.st_mode):04o}",
            name,
            "readable-by-others",
            f"run: chmod 600 {name}; if others may have read it, make a new key",
        )


def _refused(what: str, file: str, reason: str, advice: str = "") -> KeyFileRefused:
    return KeyFileRefused(
        what, field="key", file=file, reason=reason,
        advice=advice or "make a key file with: batpak keys new FILE",
    )  # fmt: skip
