"""`manifest.json`: what a snapshot holds, file by file, written last.

Bytes to values and back, and the rule of which names may stand in a snapshot; opens no
file. Every byte of the file counts: `check` covers all that stands before it, and only
the bytes that this module would write are taken. Format: docs/format.md, "Snapshot".
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import msgspec
from blake3 import blake3

from batpak.errors import FutureFormat, SnapshotDamaged

__all__ = ["MANIFEST", "MANIFEST_MAX_BYTES", "FileEntry", "Manifest", "may_hold"]

MANIFEST: Final = "manifest.json"
MANIFEST_MAX_BYTES: Final = 64 << 20
VERSION: Final = 1
_MAX_BOUND: Final = (1 << 63) - 1
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(
    r"journal\.json\Z|tail\.hint\Z|segments/[0-9]{20}\.(?:seg|idx)\Z"
    r"|(?:cursors|checkpoints)/[^/\0]{1,255}\Z"
)


def may_hold(path: str) -> bool:
    """Whether a file of this name, "/" between its parts, belongs into a snapshot."""
    return _NAME.match(path) is not None and path.rpartition("/")[2] not in (".", "..")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its path from the snapshot's root, its length in bytes, its BLAKE3 as hex."""

    path: str
    size: int
    blake3: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a snapshot holds."""

    manifest: int
    journal_id: UUID
    origin: str
    created_us: int
    events: int
    """Exclusive bound: the events 0 to `events` − 1 are here."""
    last_hash: str
    """Event hash of the last of them, as hex."""
    files: tuple[FileEntry, ...]
    """Ascending by path."""
    check: str = ""
    """BLAKE3, as hex, of this file with an empty text in this place."""

    @classmethod
    def of(
        cls,
        journal_id: UUID,
        origin: str,
        created_us: int,
        events: int,
        last_hash: bytes,
        files: list[FileEntry],
    ) -> Manifest:
        """A manifest of these files, its `check` made."""
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        bare = cls(VERSION, journal_id, origin, created_us, events, last_hash.hex(), ordered)
        return msgspec.structs.replace(bare, check=blake3(bare.encode()).hexdigest())

    def encode(self) -> bytes:
        """The file's bytes: JSON, two spaces deep, with a line end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def decode(cls, data: bytes, file: str) -> Manifest:
        """Read the file's bytes. Raises FutureFormat, SnapshotDamaged."""
        try:
            found = msgspec.json.decode(data, type=_VersionOnly).manifest
            if found > VERSION:
                raise FutureFormat(
                    f"this snapshot has a manifest of version {found}",
                    file=file,
                    found=found,
                    supported=VERSION,
                    advice="upgrade batpak to restore it",
                )
            manifest = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _damaged(file, f"it can't be read: {error}") from error
        bare = msgspec.structs.replace(manifest, check="")
        if manifest.encode() != data or blake3(bare.encode()).hexdigest() != manifest.check:
            raise _damaged(file, "its bytes are not those that were written")
        paths = [entry.path for entry in manifest.files]
        if (
            manifest.manifest != VERSION
            or not 1 <= manifest.events <= _MAX_BOUND
            or manifest.created_us < 0
            or not _HASH.match(manifest.last_hash)
            or not all(may_hold(path) for path in paths)
            or not all(e.size >= 0 and _HASH.match(e.blake3) for e in manifest.files)
            or paths != sorted(set(paths))
            or not {"journal.json", "tail.hint"} <= set(paths)
        ):
            raise _damaged(file, "it says what no manifest can say")
        return manifest


class _VersionOnly(msgspec.Struct):
    manifest: int


def _damaged(file: str, what: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"the manifest is damaged: {what}",
        file=file,
        reason="manifest",
        findings=(f"manifest.json: {what}",),
        advice="take another snapshot of this journal, if there is one",
    )
