"""Keys that only a key service can open: envelope encryption, as clouds offer it.

The service has a master key that never leaves it. It wraps each key of ours when that is
made and unwraps it when it is needed; what it made of a key is kept in a file. Destroying a
key is deleting that file; taking the master key away locks all of them at once. Source:
docs/guide/shred.md, "A key service".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import ClassVar, Final, Protocol, Self, runtime_checkable

from batpak.errors import BatpakError, KeyringFailed, KeyringRefused
from batpak.files import REAL, Files, closing, path_text, refusal, write_new
from batpak.keyring.files import MAX_KEPT, FileKeyring, check_outside_journals
from batpak.keyring.policies import Policy

__all__ = ["EnvelopeKeyring", "KeyProvider", "LocalProvider"]

_MASTER_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@runtime_checkable
class KeyProvider(Protocol):
    """A key service. `context` is bound to what it wraps, as clouds' encryption context is.

    Raises whatever it likes where it can't answer; that is told as KeyringFailed.
    """

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The key encrypted under the master key, at most 4096 bytes."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key again. Raises unless `wrap` made this for the same context."""
        ...


class EnvelopeKeyring(FileKeyring):
    """A `FileKeyring` whose files hold wrapped keys, which a provider opens."""

    _KEPT_AS: ClassVar[str] = "wrapped"

    def __init__(
        self, path: str | os.PathLike[str], provider: KeyProvider, *, files: Files = REAL
    ) -> None:
        """Open a keyring. Raises KeyringRefused (missing, no keyring …), StorageFailed."""
        if not isinstance(provider, KeyProvider):
            raise KeyringRefused(
                "provider= is a KeyProvider: an object with wrap() and unwrap()",
                field="provider",
                reason="provider",
            )
        self.provider: Final[KeyProvider] = provider
        super().__init__(path, files=files)

    @classmethod
    def create(  # type: ignore[override]  # a provider is needed here, and only here
        cls,
        path: str | os.PathLike[str],
        provider: KeyProvider,
        *,
        policy: Policy = Policy.ENTITY,
        files: Files = REAL,
    ) -> Self:
        """Make a keyring in a directory that is new or empty, and open it. Raises as above."""
        return super().create(path, policy=policy, files=files, provider=provider)

    @property
    def places(self) -> Sequence[str]:
        own = getattr(self.provider, "path", None)
        return (self.path, own) if isinstance(own, str) else (self.path,)

    def _closed(self, key: bytes, key_id: bytes) -> bytes:
        try:
            wrapped = self.provider.wrap(key, key_id)
        except BatpakError:
            raise
        except Exception as error:  # a service's own errors, which are nobody's to list
            raise _failed("wrap a new key", error) from error
        if not isinstance(wrapped, bytes) or not 0 < len(wrapped) <= MAX_KEPT or key in wrapped:
            raise KeyringRefused(
                f"a wrapped key is 1 to {MAX_KEPT} bytes in which the key does not stand",
                field="provider",
                reason="wrapped",
                advice="look at the provider's wrap()",
            )
        return wrapped

    def _opened(self, kept: bytes, key_id: bytes) -> bytes:
        try:
            return self.provider.unwrap(kept, key_id)
        except BatpakError:
            raise
        except Exception as error:  # as above
            raise _failed(f"unwrap the key {key_id.hex()}", error) from error


class LocalProvider:
    """A key service in this process: AES-256-GCM under a master key in a file.

    For machines without a service, and for tests of what uses one: the master key can be
    kept apart from the keyring, on another medium or machine.
    """

    def __init__(self, path: str | os.PathLike[str], *, files: Files = REAL) -> None:
        """Use the master key in a file. Raises KeyringRefused, StorageFailed."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.path: Final[str] = os.path.abspath(path_text(path, "path"))
        try:
            with closing(files, files.open(self.path, os.O_RDONLY)) as fd:
                mode = files.fstat(fd).st_mode
                master = files.pread(fd, _MASTER_SIZE + 1, 0)
        except FileNotFoundError as error:
            raise self._refused("there is no master key here", "missing") from error
        except OSError as error:
            raise refusal(error, "can't read the master key", self.path) from error
        if os.name == "posix" and mode & _OTHERS:
            raise self._refused("others may read the master key", "readable-by-others")
        if len(master) != _MASTER_SIZE:
            raise self._refused(f"a master key has {_MASTER_SIZE} bytes", "key-size")
        if not any(master):
            raise self._refused("the master key is all zeros: anybody has this key", "zero-key")
        self._cipher = AESGCM(master)

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, files: Files = REAL) -> LocalProvider:
        """Make a master key in a new file.

        Raises KeyringRefused when it is there already, or inside a journal, StorageFailed.
        """
        name: str = os.path.abspath(path_text(path, "path"))
        check_outside_journals(name, files)
        try:
            write_new(files, name, os.urandom(_MASTER_SIZE), 0o600, sync_name=True)
        except FileExistsError as error:
            raise KeyringRefused(
                "there is a file already, and keys are never written over",
                field="keyring", file=name, reason="exists", advice="name a new file",
            ) from error  # fmt: skip
        except OSError as error:
            raise refusal(error, "can't write the master key", name) from error
        return cls(name, files=files)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Nonce (12), ciphertext and tag (16)."""
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key again. Raises KeyringRefused unless this master key wrapped it so."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], context)
        except (InvalidTag, ValueError) as error:
            raise self._refused(
                "this master key did not wrap the key, or not for this id", "wrapped"
            ) from error

    def _refused(self, what: str, reason: str) -> KeyringRefused:
        return KeyringRefused(
            what, field="keyring", file=self.path, reason=reason,
            advice="use the master key that the keyring was made with; LocalProvider.create makes "
            "a new one",
        )  # fmt: skip


def _failed(what: str, error: Exception) -> KeyringFailed:
    return KeyringFailed(
        f"the key service could not {what}: {error}", advice="see to the service, and try again"
    )
