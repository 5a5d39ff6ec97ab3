"""A note about a journal, to be kept where whoever may write the journal cannot reach.

What a signed checkpoint will say in one root, said with what there is today: how many
events, the newest event's hash, and one digest over all event hashes in order. Two
journals with the same digest say the same; to find out costs reading every row again.
"""

from __future__ import annotations

from typing import NamedTuple

from blake3 import blake3

from batpak.coordinate import Region
from batpak.store import ReadOnlyStore, Store

__all__ = ["Comparison", "Note"]


class Comparison(NamedTuple):
    """Which parts of a note a journal still agrees with."""

    size: bool
    last_hash: bool
    digest: bool


class Note(NamedTuple):
    """The first `size` events of a journal."""

    size: int
    last_hash: bytes
    """Event hash of sequence size - 1, 32 bytes: vouches for that entity's history only."""
    digest: bytes
    """BLAKE3 over all event hashes, 32 bytes: vouches for everything."""

    @classmethod
    def of(cls, store: Store | ReadOnlyStore, size: int | None = None) -> Note:
        """A note about the first `size` events, by default all that are visible.

        Raises JournalCorrupt for rows that are gone.
        """
        size = len(store) if size is None else size
        hasher, last = blake3(), bytes(32)
        for event in store.query(Region.all(), payload=False):
            if event.sequence >= size:
                break
            last = event.event_hash
            hasher.update(last)
        return cls(size, last, hasher.digest())

    def compare(self, store: Store | ReadOnlyStore) -> Comparison:
        """Hold a journal, which may have grown since, to this note."""
        if len(store) < self.size:
            return Comparison(size=False, last_hash=False, digest=False)
        now = Note.of(store, self.size)
        return Comparison(True, now.last_hash == self.last_hash, now.digest == self.digest)
