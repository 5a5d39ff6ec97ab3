"""Keys in the operating system's keyring: Secret Service, KWallet, macOS Keychain, Windows.

Through the library `keyring`, which `batpak[keyring]` brings and which is imported here
only. Entries stand under one service name: a key under its id, and under `for-<label>`
the id that a group of events uses now. Source: docs/guide/shred.md.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final, TypeVar

from batpak.encryption import KEY_ID_SIZE, check_key
from batpak.errors import BatpakError, KeyringFailed, KeyringRefused
from batpak.keyring.policies import KeyringBase, Policy

__all__ = ["SystemKeyring"]

T = TypeVar("T")

_MAX_NAME: Final = 255


class SystemKeyring(KeyringBase):
    """Keys in the keyring that the user's session unlocks.

    Durable and destroyed as far as that keyring makes things so; what it keeps in backups,
    or syncs to other machines, is not seen from here.
    """

    def __init__(
        self, service: str, *, policy: Policy = Policy.ENTITY, backend: Any = None
    ) -> None:
        """`service`: the name of the entries. `backend`: one of the library's, not its default.

        Raises KeyringRefused without the library, or without a keyring that it can use.
        """
        if not isinstance(service, str) or not service.isprintable():
            raise _refused("service= is a printable name", "service", "")
        if not 0 < len(service) <= _MAX_NAME:
            raise _refused(f"service= has 1 to {_MAX_NAME} characters", "service", "")
        if not isinstance(policy, Policy):
            raise _refused("policy= is a Policy", "policy", "write policy=Policy.ENTITY")
        super().__init__(policy)
        self.service: Final[str] = service
        self._backend = _default_backend() if backend is None else backend

    def load(self, key_id: bytes) -> bytes | None:
        """The 64 bytes of a key; None when it is not there. Raises KeyringFailed, KeyringRefused"""
        text = self._ask(lambda: self._backend.get_password(self.service, key_id.hex()))
        if text is None:
            return None
        try:
            key = b64decode(text, validate=True)
        except (ValueError, TypeError):
            key = b""
        return check_key(key, key_id)

    def _keep(self, key_id: bytes, key: bytes) -> None:
        text = b64encode(key).decode()
        self._ask(lambda: self._backend.set_password(self.service, key_id.hex(), text))
        if self.load(key_id) != key:
            # Some keyrings cut long entries, or forget: better now than with the payload.
            raise KeyringFailed(
                "the system's keyring does not give back what it was given",
                advice="use another keyring: FileKeyring",
            )

    def _name(self, label: bytes | None, key_id: bytes) -> None:
        if label is not None:
            name = f"for-{label.hex()}"
            self._ask(lambda: self._backend.set_password(self.service, name, key_id.hex()))

    def _named(self, label: bytes) -> bytes | None:
        text = self._ask(lambda: self._backend.get_password(self.service, f"for-{label.hex()}"))
        try:
            key_id = bytes.fromhex(text or "")
        except ValueError:
            key_id = b""
        # Anything else is as good as nothing: a new key is made, the old ones stay.
        return key_id if len(key_id) == KEY_ID_SIZE else None

    def _remove(self, key_id: bytes) -> bool:
        name = key_id.hex()
        if self._ask(lambda: self._backend.get_password(self.service, name)) is None:
            return False
        self._ask(lambda: self._backend.delete_password(self.service, name))
        if self._ask(lambda: self._backend.get_password(self.service, name)) is not None:
            raise KeyringFailed(
                f"the system's keyring still has the key {name} that it was to delete",
                advice="delete it by hand, then shred it again",
            )
        return True

    @staticmethod
    def _ask(question: Callable[[], T]) -> T:
        try:
            return question()
        except BatpakError:
            raise
        except Exception as error:  # backends raise errors of their own beside the library's
            raise KeyringFailed(
                f"the system's keyring gave an error: {error!r}",
                advice="unlock it, and try again",
            ) from error

    def __repr__(self) -> str:
        return f"<SystemKeyring {self.service!r}, a key for each {self.policy.value}>"


def _default_backend() -> Any:
    try:
        import keyring
    except ImportError as error:
        raise _refused(
            "the library `keyring` is not installed",
            "no-library",
            "run: pip install 'batpak[keyring]'",
        ) from error
    backend: Any = keyring.get_keyring()
    if getattr(backend, "priority", 0) <= 0:
        raise _refused(
            "this machine has no keyring that the library `keyring` can use", "no-backend",
            "start one, as gnome-keyring or KWallet, or use FileKeyring",
        )  # fmt: skip
    return backend


def _refused(what: str, reason: str, advice: str) -> KeyringRefused:
    return KeyringRefused(what, field="keyring", reason=reason, advice=advice)
