"""Names of the files of a journal directory; the only place that builds or parses them."""

from __future__ import annotations

import os
import re

from batpak.files import path_text

__all__ = [
    "Layout",
    "checkpoint_name",
    "parse_checkpoint_name",
    "parse_segment_name",
    "root_of",
    "segment_name",
    "sidecar_name",
]

_SEGMENT = re.compile(r"([0-9]{20})\.seg\Z")
_CHECKPOINT = re.compile(r"([0-9]{20})\.note\Z")
_MAX_SEQUENCE = (1 << 63) - 1


def segment_name(base: int) -> str:
    """File name of the segment whose first event is `base`."""
    return f"{base:020}.seg"


def sidecar_name(base: int) -> str:
    """File name of that segment's sidecar."""
    return f"{base:020}.idx"


def parse_segment_name(name: str) -> int | None:
    """The base of a segment's file name; None for any other name."""
    return _number(_SEGMENT.match(name))


def checkpoint_name(size: int) -> str:
    """File name of the checkpoint over the first `size` events."""
    return f"{size:020}.note"


def parse_checkpoint_name(name: str) -> int | None:
    """The size in a checkpoint's file name; None for any other name."""
    return _number(_CHECKPOINT.match(name))


def root_of(segment: str) -> str:
    """The journal's directory, of the path of one of its segments."""
    return os.path.dirname(os.path.dirname(segment))


def _number(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    number = int(match.group(1))
    return number if number <= _MAX_SEQUENCE else None


class Layout:
    """The paths of one journal directory."""

    __slots__ = (
        "checkpoints", "cursors", "hint", "identity", "index", "keys", "lock", "quarantine", "root",
        "segments", "tlog",
    )  # fmt: skip

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root: str = os.path.abspath(path_text(root, "path"))
        self.identity = os.path.join(self.root, "journal.json")
        self.lock = os.path.join(self.root, "journal.lock")
        self.segments = os.path.join(self.root, "segments")
        self.hint = os.path.join(self.root, "tail.hint")
        self.quarantine = os.path.join(self.root, "quarantine")
        self.cursors = os.path.join(self.root, "cursors")
        self.index = os.path.join(self.root, "index")
        self.checkpoints = os.path.join(self.root, "checkpoints")
        self.tlog = os.path.join(self.root, "tlog")
        self.keys = os.path.join(self.index, "keys.tbl")

    def segment(self, base: int) -> str:
        """Path of the segment whose first event is `base`."""
        return os.path.join(self.segments, segment_name(base))

    def sidecar(self, base: int) -> str:
        """Path of that segment's sidecar."""
        return os.path.join(self.segments, sidecar_name(base))

    def checkpoint(self, size: int) -> str:
        """Path of the checkpoint over the first `size` events."""
        return os.path.join(self.checkpoints, checkpoint_name(size))


KNOWN_NAMES = frozenset(
    {
        "journal.json",
        "journal.lock",
        "segments",
        "index",
        "checkpoints",
        "tlog",
        "cursors",
        "projections",
        "tail.hint",
        "quarantine",
    }
)
"""What a journal directory may hold; anything else makes it somebody else's directory."""
