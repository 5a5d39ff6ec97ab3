"""Going past the gates on purpose, with a reason that stays with what is committed.

The audit is one extension, `batpak.bypass`, in a namespace that only batpak writes, so that
a program can't make up one beside its own extensions. Source: docs/guide/gates.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from batpak import canonical
from batpak.errors import CanonicalError, InvalidInput
from batpak.gates.denial import check_text

__all__ = ["BYPASS_EXTENSION", "Bypass"]

BYPASS_EXTENSION: Final = "batpak.bypass"

# An event's extensions have 64 KiB in all, and stay for ever: an audit is a few sentences.
_LIMITS: Final = {"reason": 256, "justification": 4096, "approved_by": 256}


@dataclass(frozen=True, slots=True)
class Bypass:
    """Passed in the place of gates: none is asked, and the commit says so.

    `reason` is a short name ("incident-4711"), `justification` a sentence, `approved_by`
    who allowed it, or None; at most 256, 4,096 and 256 UTF-8 bytes, none of them empty.
    They stand in an extension, which can never be erased. Raises: InvalidInput.
    """

    reason: str
    justification: str
    approved_by: str | None = None

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            value = getattr(self, field)
            if value is None and field == "approved_by":
                continue
            if not 0 < len(check_text(field, value).encode()) <= limit:
                raise InvalidInput(
                    f"{field} has from 1 to {limit} bytes",
                    field=field,
                    value=value,
                    advice="say why the gates were bypassed, and put longer texts elsewhere",
                )

    def extensions(self) -> Mapping[str, bytes]:
        """The audit, for the event that is committed: a canonical map of the three fields."""
        audit = {
            "reason": self.reason,
            "justification": self.justification,
            "approved_by": self.approved_by,
        }
        return {BYPASS_EXTENSION: canonical.encode(audit)}

    @classmethod
    def from_extensions(cls, extensions: Mapping[str, bytes]) -> Bypass | None:
        """The audit of an event or receipt; None where no gates were bypassed.

        Unknown keys are ignored. Raises: CanonicalError for bytes that are no audit,
        InvalidInput for what are no extensions.
        """
        if not isinstance(extensions, Mapping):
            raise InvalidInput(
                "extensions are a mapping of names to bytes",
                field="extensions",
                value=cast("object", extensions),
                advice="pass event.extensions or receipt.extensions",
            )
        raw = extensions.get(BYPASS_EXTENSION)
        if raw is None:
            return None
        plain = canonical.decode(raw)
        found = cast("dict[Any, Any]", plain) if isinstance(plain, dict) else {}
        try:
            return cls(*(cast("Any", found.get(field)) for field in _LIMITS))
        except InvalidInput as error:
            raise CanonicalError(
                f"the extension {BYPASS_EXTENSION} is no audit: {error.what}",
                path="$",
                advice="the event was written by something else than batpak",
            ) from error
