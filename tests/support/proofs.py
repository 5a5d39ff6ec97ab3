"""Journals with keys, and a stranger who looks at what they publish.

The stranger has the published folder and the log's key, and nothing of the store: tiles are
read by the layout of C2SP, and the tree is computed from the entries alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from batpak import Coordinate, Durability, EventKind, Store
from batpak.config import StoreConfig
from batpak.engine.checkpoints import StoredCheckpoint
from batpak.proof.merkle import leaf_hash
from batpak.proof.notes import Key, Policy
from batpak.signing import SigningKey
from batpak.tlog.tiles import ENTRIES, Tile, decode_entries, tiles_for
from batpak.tlog.trees import root_of

RECEIPTS: Final = SigningKey.from_seed(bytes(range(1, 33)))
LATER: Final = SigningKey.from_seed(bytes(range(2, 34)))
LOG: Final = SigningKey.from_seed(bytes(range(3, 35)))
THIEF: Final = SigningKey.from_seed(bytes(range(4, 36)))
WITNESS: Final = SigningKey.from_seed(bytes(range(5, 37)))
ORIGIN: Final = "example.org/journal"
LOG_KEY: Final = Key(ORIGIN, LOG.public_key)
POLICY: Final = Policy(LOG_KEY)
WHERE: Final = Coordinate("agent:1", "approvals")
SAID: Final = EventKind(0xF, 1)


def open_signed(path: Path, **options: Any) -> Store:
    """A journal with a receipt key and a checkpoint key, in a mode that syncs when asked."""
    defaults: dict[str, Any] = {
        "origin": ORIGIN,
        "signing_keys": (RECEIPTS,),
        "checkpoint_key": LOG,
        "durability": Durability.OS,
        "preallocate": 0,
    }
    assert defaults.keys() <= StoreConfig.__dataclass_fields__.keys()
    return Store.open(path, **(defaults | options))


def say(store: Store, count: int = 1, *, entity: str = "agent:1") -> list[Any]:
    """Append so many events; their receipts."""
    where = Coordinate(entity, "approvals")
    return [store.append(where, {"n": n}, kind=SAID) for n in range(count)]


def published(path: Path) -> StoredCheckpoint:
    """What a stranger makes of `tlog/`: the checkpoint, its signature and the whole tree right."""
    folder = path / "tlog"
    text = (folder / "checkpoint").read_text("utf-8")
    said, _ = POLICY.open(text)
    entries: list[bytes] = []
    levels: dict[int, list[bytes]] = {}
    for tile in tiles_for(said.size):
        data = (folder / tile.path).read_bytes()
        if tile.level == ENTRIES:
            entries += decode_entries(data)
        else:
            assert len(data) == 32 * tile.width, tile.path
            levels.setdefault(tile.level, []).extend(
                data[at : at + 32] for at in range(0, len(data), 32)
            )
    leaves = [leaf_hash(entry) for entry in entries]
    assert len(entries) == said.size
    assert root_of(leaves) == said.root
    for level, hashes in levels.items():
        step = 256**level
        expected = [root_of(leaves[at * step : (at + 1) * step]) for at in range(len(hashes))]
        assert hashes == expected, level
    return StoredCheckpoint(said.origin, said.size, said.root, text)


def all_tiles(path: Path) -> list[Path]:
    """Every tile and entry bundle there is."""
    folder = path / "tlog"
    found = [file for file in folder.rglob("*") if file.is_file() and file.name != "checkpoint"]
    assert all(Tile.parse(file.relative_to(folder).as_posix()) for file in found), found
    return sorted(found)
