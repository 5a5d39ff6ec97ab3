"""Events that the journal writes about itself: their coordinate, payloads and encoding.

Payload keys, types and order are fixed by golden vectors; see docs/format.md,
"System events".
"""

from __future__ import annotations

from typing import Any

from batpak import canonical, kinds
from batpak.coordinate import Coordinate
from batpak.event import CODEC_PLAIN
from batpak.journal.writer import Prepared
from batpak.kinds import EventKind

__all__ = [
    "LIFECYCLE",
    "RESERVED_ENTITY_PREFIX",
    "checkpoint_event",
    "close_event",
    "key_added_event",
    "key_retired_event",
    "open_event",
    "repaired_event",
]

LIFECYCLE = Coordinate("batpak:store", "batpak:lifecycle")
RESERVED_ENTITY_PREFIX = "batpak:"
_VERSION = 1


def _system_event(kind: EventKind, payload: dict[str, Any]) -> Prepared:
    data = canonical.encode(payload)
    return Prepared.of(LIFECYCLE, kind.raw, _VERSION, CODEC_PLAIN, data)


def open_event(*, epoch: int, resumed_at: int, cut_bytes: int) -> Prepared:
    """0x0008: a writer opened the journal."""
    return _system_event(
        kinds.SYSTEM_OPEN_COMPLETED,
        {"epoch": epoch, "resumed_at": resumed_at, "cut_bytes": cut_bytes},
    )


def close_event(*, epoch: int, events: int) -> Prepared:
    """0x0009: the writer closed it cleanly after `events` events of its epoch."""
    return _system_event(kinds.SYSTEM_CLOSE_COMPLETED, {"epoch": epoch, "events": events})


def checkpoint_event(*, size: int, root: bytes, note: bytes) -> Prepared:
    """0x0013: a checkpoint over the first `size` events; its own leaf lies outside that tree."""
    return _system_event(kinds.SYSTEM_LOG_CHECKPOINT, {"size": size, "root": root, "note": note})


def key_added_event(*, key_id: bytes, public_key: bytes) -> Prepared:
    """0x0015: from this event on, signatures by this Ed25519 key count."""
    return _system_event(
        kinds.SYSTEM_KEY_ADDED,
        {"key_id": key_id, "algorithm": "ed25519", "public_key": public_key},
    )


def key_retired_event(*, key_id: bytes, reason: str) -> Prepared:
    """0x0016: from this event on, signatures by this key count no more."""
    return _system_event(kinds.SYSTEM_KEY_RETIRED, {"key_id": key_id, "reason": reason})


def repaired_event(*, from_journal: bytes, at: int, until: int) -> Prepared:
    """0x0018: a repair kept the events below `at`; a witness had known of `until`."""
    return _system_event(
        kinds.SYSTEM_RESTORED,
        {"action": "repaired", "from_journal": from_journal, "at": at, "until": until},
    )
