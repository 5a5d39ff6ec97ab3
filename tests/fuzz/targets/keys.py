"""What a keyring and an encrypted payload are made of: files of keys, envelopes, shreddings."""

from __future__ import annotations

import zlib

from batpak.encryption import Vault
from batpak.engine.system import key_shredded_event, shredded_by
from batpak.errors import (
    CanonicalError,
    KeyringRefused,
    KeyUnavailable,
    PayloadDamaged,
    PayloadUnreadable,
)
from batpak.event import ROW_SIZE, Event, PayloadState
from batpak.keyring.files import MAX_KEPT, decode_key_file, encode_key_file
from tests.fuzz.target import target

KEY_ID = bytes(range(16))


class OneKey:
    """A keyring with whatever bytes an input has for a key."""

    places = ()

    def __init__(self, key: bytes) -> None:
        self.key = key

    def key_for(self, coordinate: object, kind: int, key: bytes | None) -> bytes:
        return KEY_ID

    def load(self, key_id: bytes) -> bytes | None:
        return self.key if key_id == KEY_ID else None

    def destroy(self, key_id: bytes) -> bool:
        return False


@target(max_bytes=5000)
def key_files(data: bytes) -> None:
    """None, or what is kept of a key, which is written again as the same bytes."""
    if not data:
        return
    file = data[1:]
    if data[0] & 1 and len(file) >= 40:
        # Made right, so that what is behind the checksum is looked at.
        file = (
            b"BATPKY\x01\n"
            + KEY_ID
            + file[24:32]
            + (len(file) - 40).to_bytes(4, "little")
            + (bytes(4) + file[40:])
        )
        crc = zlib.crc32(file[:36] + file[40:])
        file = file[:36] + crc.to_bytes(4, "little") + file[40:]
    kept = decode_key_file(file, KEY_ID)
    if kept is not None:
        assert len(kept) <= MAX_KEPT
        assert encode_key_file(KEY_ID, kept, int.from_bytes(file[24:32], "little")) == file


@target()
def shredding_payloads(data: bytes) -> None:
    """CanonicalError, or the id of a key that a writer can name as well."""
    try:
        key_id = shredded_by(data)
    except CanonicalError as error:
        assert error.what
        return
    assert shredded_by(key_shredded_event(key_id=key_id).envelope) == key_id


@target()
def encrypted_envelopes(data: bytes) -> None:
    """Refused by name, for any key, row, names and envelope: nobody sealed them."""
    if len(data) < 65 + ROW_SIZE:
        return
    key, row, rest = data[1:65], data[65 : 65 + ROW_SIZE], data[65 + ROW_SIZE :]
    row = row[:99] + b"\x02" + row[100:]
    cut = data[0] % (len(rest) + 1)
    names, envelope = rest[:cut], rest[cut:]
    if data[0] & 1:
        envelope = KEY_ID + envelope
    vault = Vault(OneKey(key))
    event = Event(row, names, envelope, PayloadState.PRESENT, vault)
    try:
        raw = event.raw
    except (KeyUnavailable, KeyringRefused, PayloadDamaged, PayloadUnreadable) as error:
        assert error.what
        return
    raise AssertionError(f"opened to {raw!r}")
