"""What a commit takes and what it gives: events before they have a place, and their place.

Bytes and numbers, made without a lock. Format: docs/format.md, "Row".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from blake3 import blake3

from batpak.coordinate import Coordinate
from batpak.event import CONTENT_PREFIX, FLAG_KEYED, NO_ID, ROW_CONTENT, ROW_VERSION

__all__ = ["Committed", "Cut", "Guard", "Head", "Known", "Prepared", "Sealing"]


class Sealing(Protocol):
    """What makes an envelope that depends on the event's id, and its content hash."""

    @property
    def payload(self) -> bytes: ...
    def sealed(self, event_id: bytes, /) -> tuple[bytes, bytes]: ...


class Prepared(msgspec.Struct, gc=False):
    """One event before it has a place: everything that is known without the lock.

    Of an encrypted one, envelope and content hash are made when its id is known, each time
    that it is committed anew; nothing else is ever changed.
    """

    coordinate: Coordinate
    kind: int
    content: bytes
    """The part of the row that does not depend on the event's place (ROW_CONTENT)."""
    envelope: bytes
    metadata: bytes
    correlation_id: bytes | int | None
    """None: its own id. An integer names an earlier event of the commit, here and below."""
    causation_id: bytes | int
    key: bytes | None
    extensions: bytes
    expect: int | None = None
    """The clock that the event has to get, if it was asked for."""
    sealing: Sealing | None = None
    """Set for an encrypted payload. Until it is sealed, the envelope is zeros, of its length."""

    def seal(self, event_id: bytes) -> None:
        """Make the envelope for this id; under the append lock. Raises KeyShredded."""
        assert self.sealing is not None, "asked before"
        self.envelope, digest = self.sealing.sealed(event_id)
        self.content = self.content[:-32] + digest

    @property
    def content_hash(self) -> bytes:
        """The row's content hash."""
        return self.content[-32:]

    @property
    def payload_version(self) -> int:
        """The row's payload version."""
        return ROW_CONTENT.unpack(self.content)[4]

    @classmethod
    def of(
        cls,
        coordinate: Coordinate,
        kind: int,
        payload_version: int,
        codec: int,
        envelope: bytes,
        *,
        extensions: bytes = b"",
        flags: int = 0,
        lane: int = 0,
        depth: int = 0,
        correlation_id: bytes | int | None = None,
        causation_id: bytes | int = NO_ID,
        key: bytes | None = None,
        sealing: Sealing | None = None,
    ) -> Prepared:
        """An event with this payload, its envelope hashed here."""
        entity, scope = coordinate.entity_bytes, coordinate.scope_bytes
        content = ROW_CONTENT.pack(
            lane, depth, len(extensions), kind, payload_version,
            flags if key is None else flags | FLAG_KEYED,
            len(entity), len(scope), ROW_VERSION, codec, len(envelope), 0,
            blake3(CONTENT_PREFIX[codec] + envelope).digest(),
        )  # fmt: skip
        return cls(
            coordinate, kind, content, envelope, entity + scope + extensions, correlation_id,
            causation_id, key, extensions, None, sealing,
        )  # fmt: skip


Head = tuple[int, bytes]
"""Where an entity's stream ends: the clock of its next event, the hash of its last."""

Committed = tuple[int, bytes, int, int, bytes, bytes]
"""What a commit gave one event: sequence, id, HLC, clock, event hash, prev_hash."""


class Known(Exception):  # no failure: how a commit says that there was none
    """All keys of a commit are ids of events: nothing is written. `sequences` has them."""

    def __init__(self, sequences: Sequence[int]) -> None:
        super().__init__()
        self.sequences = sequences


class Cut(Exception):  # as Known
    """A commit is written, and an exception of what came in its middle has left it."""

    def __init__(self, committed: Sequence[Committed], error: Exception) -> None:
        super().__init__()
        self.committed = committed
        self.error = error


Guard = Callable[[int], None]
"""Called under the append lock with the written bound; raises Conflict to refuse a commit."""
