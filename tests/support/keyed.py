"""Append events under keys straight through the writer, which judges less than `Store.append`.

Commits may mix keyed and unkeyed events, as imports may, and `again=True` writes a known
key once more, as no writer of ours does: a reader has to cope with what others wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batpak import Coordinate, Store
from batpak.event import CODEC_PLAIN
from batpak.journal.commits import Prepared

COORDINATE = Coordinate("keyed:one", "scope")


def prepared(key: bytes | None, payload: bytes = b"\x01") -> Prepared:
    """A raw event whose id is `key`, or one of our own making."""
    return Prepared.of(COORDINATE, 0x1007, 0, CODEC_PLAIN, payload, key=key)


def append_keyed(store: Store, keys: Iterable[bytes | None], *, again: bool = False) -> list[int]:
    """One commit with an event for each key; their sequences. Visible once this returns."""
    events = [prepared(key) for key in keys]
    writer = store._writer
    find_known = writer._find
    if again:
        writer._find = lambda _key, _written: None
    try:
        sequences = [done[0] for done in writer.commit(events)]
    finally:
        writer._find = find_known
    store.sync()
    # As every append does after its write: sidecars, and the key table, of sealed segments.
    store._sealer.write_sidecars()
    return sequences


def find(store: Store, key: bytes, bound: int | None = None) -> int | None:
    """The sequence of the first event below `bound` that has this id; below all by default."""
    return store._reader.find_id(key, len(store) if bound is None else bound)


def answers(store: Store, keys: Sequence[bytes]) -> list[int | None]:
    """`find` for each key."""
    return [find(store, key) for key in keys]
