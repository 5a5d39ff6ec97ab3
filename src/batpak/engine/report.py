"""What opening and checking have found, as plain values for people and programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, cast

__all__ = ["Cut", "Finding", "OpenReport", "VerifyReport", "plain"]


def plain(value: Any) -> Any:
    """A report as maps, lists, texts and numbers: what JSON has a form for.

    Bytes become hex, enums their value, and whatever is unknown here its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # JSON has no form for infinity.
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return plain(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return {str(key): plain(item) for key, item in entries.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in cast("tuple[Any, ...]", value)]
    return str(value)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a journal."""

    code: str
    file: str
    offset: int | None
    sequence: int | None
    message: str
    expected: object = None
    found: object = None


@dataclass(frozen=True, slots=True)
class Cut:
    """What recovery cut from the tail: it was never known to be durable."""

    bytes: int
    """Length of what was cut, zeros left out."""
    sequence: int
    """The sequence that the cut bytes would have begun with."""
    file: str
    offset: int
    reason: str
    quarantine: str | None
    """Where the bytes are now; None when all were zero."""


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What `Store.open` met and did."""

    created: bool
    epoch: int
    segments: int
    mapped: int
    """Segments whose index came from a sidecar."""
    walked: int
    """Records decoded because no sidecar covered them."""
    rebuilt: int
    """Segments whose sidecar was missing or wrong."""
    cut: Cut | None
    witnesses: tuple[tuple[str, int], ...]
    """Who knew of a durable bound, and which."""
    seconds: dict[str, float]
    findings: tuple[Finding, ...] = ()
    clock_behind_ms: int = 0
    """How far the clock was behind the journal's last event; its HLC goes on from there."""

    def to_json(self) -> str:
        """The report as one line of JSON."""
        return json.dumps(plain(self))


@dataclass(slots=True)
class VerifyReport:
    """What `verify` checked and found."""

    level: str
    events: int = 0
    records: int = 0
    segments: int = 0
    bytes: int = 0
    seconds: float = 0.0
    root: bytes | None = None
    """RFC 9162 root over the event hashes; None at level "chain", and where events are missing."""
    findings: list[Finding] = field(default_factory=list[Finding])

    encrypted: int = 0
    """Events with an encrypted payload; 0 at level "chain", which looks at none."""
    closed: dict[str, int] = field(default_factory=dict[str, int])
    """Of these, how many payloads were not opened, by reason: `no-keyring`, `unknown-key`,
    `shredded`, `gone` (erased), `wrong-key`, `damaged`, or the code of the keyring's error.
    `not-looked-at`: the index is damaged or old, so that the others were not even counted."""

    @property
    def unopened(self) -> int:
        """Encrypted payloads of which all was checked but what they say."""
        return sum(self.closed.values())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
