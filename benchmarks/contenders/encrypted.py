"""batpak with encrypted payloads: a key for each entity, in a keyring of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batpak import Durability, Store
from batpak.keyring import FileKeyring
from benchmarks.contenders import ours
from benchmarks.data import Measurement


class Log(ours.Log):
    """See benchmarks.contenders.Log."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        keys = directory / "keys"
        self.keyring = FileKeyring(keys) if keys.exists() else FileKeyring.create(keys)
        self.durability = Durability.SYNC if durable else Durability.OS
        self.store = Store.open(
            directory / "journal", durability=self.durability, codec="encrypted",
            keyring=self.keyring,
        )  # fmt: skip

    def prepare(self, events: Sequence[Measurement]) -> list[ours.Prepared]:
        prepared = super().prepare(events)
        # A new key is synced to the disk: once for each entity, and not what is measured here.
        for coordinate in {coordinate for coordinate, _ in prepared}:
            self.keyring.key_for(coordinate, 0xF0BE, None)
        return prepared
