"""What opening and checking have found, as plain values for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Cut", "Finding", "OpenReport", "VerifyReport"]


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
    """Merkle root over the event hashes; None in this version, which has no log of them yet."""
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
