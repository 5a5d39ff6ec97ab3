"""Events that the journal writes about itself: their coordinate, payloads and encoding.

Payload keys, types and order are fixed by golden vectors; see docs/format.md,
"System events".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, cast

from batpak import canonical, kinds
from batpak.coordinate import Coordinate
from batpak.errors import CanonicalError
from batpak.event import CODEC_PLAIN
from batpak.index.runs import Runs
from batpak.journal.commits import Prepared
from batpak.kinds import EventKind

__all__ = [
    "LIFECYCLE",
    "MAX_REASON_BYTES",
    "MAX_RUNS",
    "MAX_SEGMENTS",
    "RESERVED_ENTITY_PREFIX",
    "checkpoint_event",
    "close_event",
    "compaction_event",
    "erased_by",
    "erasure_event",
    "history_event",
    "key_added_event",
    "key_retired_event",
    "key_shredded_event",
    "open_event",
    "repaired_event",
    "shredded_by",
]

LIFECYCLE = Coordinate("batpak:store", "batpak:lifecycle")
RESERVED_ENTITY_PREFIX = "batpak:"
MAX_RUNS: Final = 16_384
"""Most runs of sequences that one erasure event names; more need several events."""
MAX_REASON_BYTES: Final = 1024
MAX_SEGMENTS: Final = 4096
"""Most segments that one compaction event lists."""
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


def key_shredded_event(*, key_id: bytes) -> Prepared:
    """0x0017: what is encrypted with this key is refused from here on; the key is destroyed."""
    return _system_event(kinds.SYSTEM_KEY_SHREDDED, {"key_id": key_id})


def shredded_by(payload: bytes) -> bytes:
    """The id of the key that a 0x0017 event names, 16 bytes. Raises CanonicalError."""
    entry: object = canonical.decode(payload)
    fields = cast("dict[Any, Any]", entry) if isinstance(entry, dict) else {}
    key_id = fields.get("key_id")
    if not isinstance(key_id, bytes) or len(key_id) != 16:
        raise CanonicalError("a key-shredded event's payload: key_id is not there, or no 16 bytes")
    return key_id


def history_event(
    action: Literal["repaired", "restored", "forked"], *, from_journal: bytes, at: int, until: int
) -> Prepared:
    """0x0018: this history goes its own way from `at` on; its source reached to `until`."""
    return _system_event(
        kinds.SYSTEM_RESTORED,
        {"action": action, "from_journal": from_journal, "at": at, "until": until},
    )


def erasure_event(runs: Sequence[tuple[int, int]], reason: str) -> Prepared:
    """0x0012: the payloads of these runs [first, end), at most MAX_RUNS, are refused from here on.

    Each run is two numbers: the gap since the end of the run before, and its length. So
    what ascends takes few bytes, and what does not ascend can't be written down.
    """
    steps: list[int] = []
    last = 0
    for first, end in runs:
        steps += (first - last, end - first)
        last = end
    return _system_event(kinds.SYSTEM_ERASURE, {"sequences": steps, "reason": reason})


def erased_by(payload: bytes, sequence: int) -> Runs:
    """The sequences that the erasure event at `sequence` names. Raises CanonicalError.

    Hostile like everything that is read: a run is empty, touches the one before, or
    reaches to the event itself only where no writer made it.
    """
    entry: object = canonical.decode(payload)
    fields = cast("dict[Any, Any]", entry) if isinstance(entry, dict) else {}
    steps: Any = fields.get("sequences")
    if not isinstance(steps, list):
        raise _malformed("sequences is not there, or no list")
    steps = cast("list[Any]", steps)
    if len(steps) % 2 or not 2 <= len(steps) <= 2 * MAX_RUNS:
        raise _malformed("sequences is not a list of gaps and lengths")
    runs: list[tuple[int, int]] = []
    last = 0
    for gap, length in zip(steps[::2], steps[1::2], strict=True):
        if type(gap) is not int or type(length) is not int:
            raise _malformed("a gap or a length is not a whole number")
        first = last + gap
        last = first + length
        if gap < 0 or length < 1 or last > sequence or (runs and not gap):
            raise _malformed(f"{first} to {last - 1} is no run that it can name")
        runs.append((first, last))
    return Runs(runs)


def _malformed(what: str) -> CanonicalError:
    return CanonicalError(f"an erasure event's payload: {what}")


def compaction_event(segments: Iterable[tuple[int, int]], *, payloads: int, size: int) -> Prepared:
    """0x0014: these segments, base and generation, at most MAX_SEGMENTS, were rewritten.

    `payloads` were left out, whose envelopes had `size` bytes.
    """
    return _system_event(
        kinds.SYSTEM_COMPACTION,
        {"segments": [list(each) for each in segments], "payloads": payloads, "bytes": size},
    )


def repaired_event(*, from_journal: bytes, at: int, until: int) -> Prepared:
    """0x0018: a repair kept the events below `at`; a witness had known of `until`."""
    return history_event("repaired", from_journal=from_journal, at=at, until=until)
