"""`journal.json`: who a journal is. Written once, before its first segment.

Format: docs/format.md, "journal.json".
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import msgspec

from batpak.errors import Damaged, FutureFormat

__all__ = ["FORMAT", "Ancestor", "Identity"]

FORMAT = 1
_ORIGIN: Final = re.compile(r"[^\s+\x00-\x1f\x7f]+")
"""What can be the name in a signed note. Not what new journals may be called: that depends on
the version of Unicode.
"""
_MAX_ORIGIN: Final = 255


class Ancestor(msgspec.Struct, frozen=True):
    """A journal that this one was forked from: its segments are valid below `until`."""

    journal_id: UUID
    until: int


class Identity(msgspec.Struct, frozen=True):
    """The content of journal.json."""

    format: int
    journal_id: UUID
    created_us: int
    origin: str
    lineage: tuple[Ancestor, ...] = ()

    @property
    def shared(self) -> int:
        """How many events are also an ancestor's; 0 for a journal that is no fork."""
        return self.lineage[-1].until if self.lineage else 0

    def encode(self) -> bytes:
        """The file's bytes: JSON with a line end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def decode(cls, data: bytes, file: str) -> Identity:
        """Read the file's bytes. Raises FutureFormat, Damaged."""
        try:
            found = msgspec.json.decode(data, type=_FormatOnly).format
            if found > FORMAT:
                raise FutureFormat(
                    f"this journal has format {found}",
                    file=file,
                    found=found,
                    supported=FORMAT,
                    advice="upgrade batpak to open it",
                )
            identity = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Damaged(
                f"journal.json can't be read: {error}",
                file=file,
                advice="restore it from a snapshot; never make a new one beside old segments",
            ) from error
        if identity.format != FORMAT or identity.created_us < 0:
            raise Damaged(
                "journal.json has impossible fields",
                file=file,
                advice="restore it from a snapshot",
            )
        if not _ORIGIN.fullmatch(identity.origin) or len(identity.origin.encode()) > _MAX_ORIGIN:
            raise Damaged(
                f"journal.json has an origin that no checkpoint can carry: {identity.origin!r}",
                file=file,
                advice="restore it from a snapshot, or write the origin that the journal's "
                "checkpoints show",
            )
        return identity

    def accepts(self, journal_id: bytes, sequence: int) -> bool:
        """Whether what `journal_id` says of a sequence is said of this journal as well.

        A segment that begins there, or a receipt of the event: its own, or of the shared past.
        """
        # No generator: a Ctrl-C that meets the end of one half read is lost.
        return journal_id in [each.bytes for each in self.names_at(sequence)]

    def names_at(self, sequence: int) -> tuple[UUID, ...]:
        """The ids of the journals that the event at a sequence is of, this one's first."""
        ancestors = (each.journal_id for each in self.lineage if sequence < each.until)
        return (self.journal_id, *ancestors)


class _FormatOnly(msgspec.Struct):
    format: int
