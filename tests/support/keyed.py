"""Append events under keys before `Store.append` takes them: straight to the writer.

Goes away with the keyword `key=`; what is written is what that keyword will write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batpak import Coordinate, Store
from batpak.event import CODEC_PLAIN
from batpak.journal.writer import Prepared

COORDINATE = Coordinate("keyed:one", "scope")


def prepared(key: bytes | None, payload: bytes = b"\x01") -> Prepared:
    """A raw event whose id is `key`, or one of our own making."""
    return Prepared.of(COORDINATE, 0x1007, 0, CODEC_PLAIN, payload, key=key)


def append_keyed(store: Store, keys: Iterable[bytes | None]) -> list[int]:
    """One commit with an event for each key; their sequences. Visible once this returns."""
    events = [prepared(key) for key in keys]
    sequences = [done[0] for done in store._writer.commit(events)]
    store.sync()
    # As every append does after its write: sidecars, and the key table, of sealed segments.
    store._write_sidecars()
    return sequences


def find(store: Store, key: bytes, bound: int | None = None) -> int | None:
    """The sequence of the first event below `bound` that has this id; below all by default."""
    return store._reader.find_id(key, len(store) if bound is None else bound)


def answers(store: Store, keys: Sequence[bytes]) -> list[int | None]:
    """`find` for each key."""
    return [find(store, key) for key in keys]
