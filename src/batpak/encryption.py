"""Codec 2: seal payloads under keys that a keyring holds, and open them again.

Bytes in, bytes out: knows keyrings by their protocol, no file and no journal. A payload is
bound to its event (id, kind, version, entity, scope), so it can't be moved to another one,
and to its key, so no other key opens it to something else. The cipher is loaded at the
first use. Source: docs/format.md, "Envelope"; RFC 5297.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from hmac import compare_digest
from struct import Struct
from typing import Any, Final

import msgspec
from blake3 import blake3

from batpak.config import Keyring
from batpak.coordinate import Coordinate
from batpak.errors import (
    KeyringRefused,
    KeyShredded,
    KeyUnavailable,
    PayloadDamaged,
    PayloadShredded,
    PayloadUnreadable,
)
from batpak.event import CODEC_ENCRYPTED, CONTENT_PREFIX, SEALED_OVERHEAD

__all__ = ["KEY_ID_SIZE", "KEY_SIZE", "Sealing", "Vault", "check_key", "key_commitment"]

KEY_SIZE: Final = 64
KEY_ID_SIZE: Final = 16
_COMMIT_END: Final = 32
_COMMIT_PREFIX: Final = b"batpak/key/v1\0"
_MOST_KEYS: Final = 4096
"""Ciphers kept ready at once; more are made anew when they are needed."""
_CONTENT: Final = CONTENT_PREFIX[CODEC_ENCRYPTED]
_names = Struct("<HHH").pack
_lengths = Struct("<HH").unpack_from


def key_commitment(key: bytes) -> bytes:
    """16 bytes that only this key has: an envelope is opened with no other."""
    return blake3(_COMMIT_PREFIX + key).digest()[:16]


def check_key(key: object, key_id: bytes) -> bytes:
    """The 64 bytes of a key as a keyring gave them. Raises KeyringRefused."""
    if not isinstance(key, (bytes, bytearray)) or len(key) != KEY_SIZE:
        raise KeyringRefused(
            f"the key {key_id.hex()} has not {KEY_SIZE} bytes",
            field="keyring",
            reason="key-size",
            advice="restore the keyring from a copy of it",
        )
    if not any(key):
        raise KeyringRefused(
            f"the key {key_id.hex()} is all zeros: anybody has this key",
            field="keyring",
            reason="zero-key",
            advice="restore the keyring from a copy of it",
        )
    return bytes(key)


class _Cipher:
    """One key, ready to use; its `repr` shows nothing of it."""

    __slots__ = ("decrypt", "encrypt", "forged", "key_id", "prefix")

    def __init__(self, key_id: bytes, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        cipher = AESSIV(key)
        self.key_id = key_id
        self.prefix = key_id + key_commitment(key)
        self.encrypt: Callable[[bytes, list[bytes]], bytes] = cipher.encrypt
        self.decrypt: Callable[[bytes, list[bytes]], bytes] = cipher.decrypt
        self.forged = InvalidTag


class Sealing(msgspec.Struct, frozen=True, gc=False):
    """A payload that is encrypted once its event has an id: the id is part of the cipher's input.

    The same event under the same key gives the same bytes.
    """

    vault: Vault
    cipher: _Cipher
    payload: bytes
    names: bytes
    """What the payload is bound to beside the id: kind, version, entity and scope."""

    def sealed(self, event_id: bytes) -> tuple[bytes, bytes]:
        """The envelope of codec 2, and its content hash. One thread at a time for a store.

        Raises KeyShredded when its key was shredded meanwhile.
        """
        cipher, vault = self.cipher, self.vault
        if cipher.key_id in vault.shredded:
            raise _shredded_meanwhile(cipher.key_id)
        envelope = cipher.prefix + cipher.encrypt(self.payload, [event_id + self.names])
        reset, update, digest = vault.hash
        reset()
        update(_CONTENT + envelope)
        return envelope, digest()


class Vault:
    """The keys of one store: what its keyring holds, less what the journal says was shredded."""

    def __init__(self, keyring: Keyring | None = None) -> None:
        self.keyring = keyring
        self.shredded: frozenset[bytes] = frozenset()
        """Ids of keys that are shredded: no payload of theirs is sealed or opened any more."""
        self.shredding = threading.RLock()
        """Held while keys are being shredded, until they are destroyed."""
        self._ciphers: dict[bytes, _Cipher] = {}
        """Never one of a key in `shredded`, but for the moment in which that grows."""
        hasher = blake3()
        self.hash: Final = hasher.reset, hasher.update, hasher.digest
        """For the one thread that holds the append lock."""

    def __reduce__(self) -> Any:
        # An event can be pickled; keys never are.
        return Vault, ()

    # --- sealing -------------------------------------------------------------

    def sealing(
        self,
        coordinate: Coordinate,
        kind: int,
        payload_version: int,
        payload: bytes,
        key: bytes | None,
    ) -> Sealing:
        """A payload on its way to be sealed, under the key that the keyring's policy names.

        `key`: the event's idempotency key. Not to be called under the append lock: a
        keyring is the caller's code. Raises KeyringRefused, KeyringFailed, Unavailable.
        """
        assert self.keyring is not None, "the option keyring= goes with the codec"
        key_id = self.keyring.key_for(coordinate, kind, key)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            cipher = self._settled(key_id, coordinate, kind, key)
        entity = coordinate.entity_bytes
        names = _names(kind, payload_version, len(entity)) + entity + coordinate.scope_bytes
        return Sealing(self, cipher, payload, names)

    def _settled(
        self, key_id: bytes, coordinate: Coordinate, kind: int, key: bytes | None
    ) -> _Cipher:
        """A cipher to seal with that is not about to be shredded."""
        if key_id in self.shredded:
            # Once it is destroyed, the keyring names another one.
            with self.shredding:
                assert self.keyring is not None, "asked before"
                key_id = self.keyring.key_for(coordinate, kind, key)
            if key_id in self.shredded:
                raise _shredded_meanwhile(key_id)
        try:
            return self._cipher(key_id)
        except KeyUnavailable:
            if key_id not in self.shredded:
                raise
        # It was shredded, and destroyed, since it was looked at above.
        return self._settled(key_id, coordinate, kind, key)

    def renewed(self, sealing: Sealing, coordinate: Coordinate, key: bytes | None) -> Sealing:
        """The same payload under a key that is not shredded. Raises as `sealing`."""
        if sealing.cipher.key_id not in self.shredded:
            return sealing
        kind, version = _lengths(sealing.names)
        return self.sealing(coordinate, kind, version, sealing.payload, key)

    # --- opening -------------------------------------------------------------

    def is_shredded(self, envelope: bytes) -> bool:
        """Whether the key that this envelope of codec 2 was sealed under is shredded."""
        return envelope[:KEY_ID_SIZE] in self.shredded

    def open(self, row: bytes, metadata: bytes, envelope: bytes) -> bytes:
        """The payload in the envelope of an event of codec 2.

        Raises PayloadShredded, KeyUnavailable (no keyring, key not in it, another key in its
        place), PayloadUnreadable, PayloadDamaged; KeyringRefused, KeyringFailed, Unavailable.
        """
        key_id = envelope[:KEY_ID_SIZE]
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(envelope) < SEALED_OVERHEAD:
            cipher = self._cipher_to_open(_sequence(row), key_id, envelope)
        if not compare_digest(envelope[KEY_ID_SIZE:_COMMIT_END], cipher.prefix[KEY_ID_SIZE:]):
            raise unavailable(
                _sequence(row), key_id, "wrong-key",
                "the keyring has another key under this id than the payload was sealed with",
                "restore the keyring from a copy of it",
            )  # fmt: skip
        entity_len, scope_len = _lengths(row, 94)
        names = row[88:92] + row[94:96] + metadata[: entity_len + scope_len]
        try:
            return cipher.decrypt(envelope[_COMMIT_END:], [row[8:24] + names])
        except cipher.forged as error:
            sequence = _sequence(row)
            raise PayloadDamaged(
                f"the payload of event {sequence} was not sealed for this event",
                sequence=sequence,
                reason="seal",
                advice="its ciphertext is another event's, or forged: run: batpak verify JOURNAL",
            ) from error

    def _cipher_to_open(self, sequence: int, key_id: bytes, envelope: bytes) -> _Cipher:
        """A key's cipher when it is first needed. Raises as `open`."""
        if len(envelope) < SEALED_OVERHEAD:
            raise PayloadUnreadable(
                f"the envelope of event {sequence} is shorter than its codec allows",
                sequence=sequence,
                codec=CODEC_ENCRYPTED,
                advice="run: batpak verify JOURNAL",
            )
        if key_id in self.shredded:
            raise shredded(sequence, key_id)
        return self._cipher(key_id, sequence)

    def _cipher(self, key_id: bytes, sequence: int | None = None) -> _Cipher:
        """The key's cipher, made ready. Raises KeyUnavailable, KeyringRefused."""
        if self.keyring is None:
            raise unavailable(
                sequence, key_id, "no-keyring",
                "the payload is encrypted, and the store was opened without a keyring",
                "open it with keyring=, or on the command line with --keyring",
            )  # fmt: skip
        key = self.keyring.load(key_id)
        if key is None:
            raise unavailable(
                sequence, key_id, "unknown-key",
                "the payload is encrypted under a key that the keyring has not",
                "open the store with the keyring that it was written with, or a copy of that",
            )  # fmt: skip
        cipher = _Cipher(key_id, check_key(key, key_id))
        if len(self._ciphers) >= _MOST_KEYS:
            self._ciphers = {}
        self._ciphers[key_id] = cipher
        if key_id in self.shredded:
            # Shredded while it was loaded: not to be kept.
            self._ciphers.pop(key_id, None)
        return cipher

    # --- shredding -----------------------------------------------------------

    def shred(self, key_ids: Iterable[bytes]) -> None:
        """From now on these keys seal and open nothing; what is destroyed is not seen here."""
        named = frozenset(key_ids)
        self.shredded |= named
        for key_id in named:
            self._ciphers.pop(key_id, None)


def _sequence(row: bytes) -> int:
    return int.from_bytes(row[:8], "little")


def shredded(sequence: int, key_id: bytes) -> PayloadShredded:
    """The error for a payload whose key is shredded."""
    return PayloadShredded(
        f"the key of the payload of event {sequence} was shredded",
        sequence=sequence,
        key_id=key_id.hex(),
        advice="the event, its hashes and its proofs remain valid",
    )


def unavailable(
    sequence: int | None, key_id: bytes, reason: str, what: str, advice: str
) -> KeyUnavailable:
    """The error for a payload whose key is not at hand."""
    return KeyUnavailable(
        what, sequence=sequence, codec=CODEC_ENCRYPTED, key_id=key_id.hex(), reason=reason,
        advice=advice,
    )  # fmt: skip


def _shredded_meanwhile(key_id: bytes) -> KeyShredded:
    return KeyShredded(
        "the key that the payload was to be sealed under is shredded; nothing was written",
        key_id=key_id.hex(),
        advice="append again: the keyring then names another key",
    )
