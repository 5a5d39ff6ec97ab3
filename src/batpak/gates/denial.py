"""What gates said: a denial, what each gate of a set did, and the payload of a denial event.

The payload's bytes are those of the Rust system. Reading them ignores unknown keys and
keeps gate names as they stand; what this module makes itself has checked names.
Source: docs/format, "Denials".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from batpak import canonical
from batpak.errors import CanonicalError, GateDenied, InvalidInput
from batpak.kinds import EventKind

__all__ = [
    "DENIAL_VERSION",
    "GATE_DEFECT",
    "MAX_NAME_BYTES",
    "Denial",
    "DenialPayload",
    "Denied",
    "Evaluation",
    "Verdict",
    "check_name",
    "check_text",
]

DENIAL_VERSION: Final = 1
"""Payload version of a denial event, 0x000F."""

GATE_DEFECT: Final = "GATE_DEFECT"
"""Code of the denial that stands for a gate which did not decide."""

MAX_NAME_BYTES: Final = 256
_NAME: Final = re.compile(r"[\x20-\x7e]{1,256}")
_HASH_BYTES: Final = 32

_set: Final = object.__setattr__


def check_name(field: str, value: object) -> str:
    """The name of a gate: 1 to 256 printable ASCII characters. Raises: InvalidInput."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{field} must be 1 to {MAX_NAME_BYTES} printable ASCII characters",
            field=field,
            value=value,
            advice='name a gate like a function: "size_limit"',
        )
    return value


def check_text(field: str, value: object) -> str:
    """Text that can be stored. Raises: InvalidInput."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return str(value)
    raise InvalidInput(f"{field} must be text that has a UTF-8 form", field=field, value=value)


Context = Mapping[str, str | int] | Iterable[tuple[str, str | int]]


def _pairs(context: Context) -> tuple[tuple[str, str], ...]:
    given = cast("Any", context)
    try:
        pairs = [(key, value) for key, value in getattr(given, "items", lambda: given)()]
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            "the context of a denial is a dict, or pairs of texts", field="context", value=context
        ) from error
    return tuple([(check_text("context", key), _shown(value)) for key, value in pairs])


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(int(value))
        except ValueError as error:
            raise InvalidInput(
                "a number in the context of a denial has too many digits",
                field="context",
                value=value,
                advice="give it as a text, such as hex(number)",
            ) from error
    return check_text("context", value)


@dataclass(frozen=True, slots=True, init=False)
class Denial:
    """A gate's no: who, why in a sentence, a stable code, and facts as pairs of texts.

    `context` is given as a dict or pairs, and numbers in it become their decimal text.
    All of it may be stored and shown: no secrets. Raises: InvalidInput.
    """

    gate: str
    message: str
    code: str
    context: tuple[tuple[str, str], ...]

    def __init__(self, gate: str, message: str, *, code: str = "", context: Context = ()) -> None:
        _set(self, "gate", check_name("gate", gate))
        _set(self, "message", check_text("message", message))
        _set(self, "code", check_text("code", code))
        _set(self, "context", _pairs(context))

    def __str__(self) -> str:
        return f"[{self.gate}] {self.message}"


class Verdict(enum.Enum):
    """What a gate of a set did."""

    PERMIT = "Permit"
    DENY = "Deny"
    SKIPPED = "Skipped"
    """It was not asked, since one before it had denied."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One gate's part in a check. `denial` is there exactly where the verdict is DENY.

    `evidence_hash` has a place in the stored form and is None in all that is written here.
    Raises: InvalidInput.
    """

    gate: str
    verdict: Verdict
    denial: Denial | None = None
    evidence_hash: bytes | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.verdict, Verdict):
            raise InvalidInput(
                "verdict must be a Verdict", field="verdict", value=cast("object", self.verdict)
            )
        if (self.verdict is Verdict.DENY) != isinstance(self.denial, Denial):
            raise InvalidInput(
                "an evaluation has a denial exactly where its verdict is DENY",
                field="denial",
                value=self.denial,
            )
        if self.denial is not None and self.denial.gate != self.gate:
            raise InvalidInput(
                f"the denial is one of {self.denial.gate}, not of {self.gate}",
                field="denial",
                value=self.denial,
            )
        _check_hash("evidence_hash", self.evidence_hash)

    def __str__(self) -> str:
        return f"{self.gate} {self.verdict.name.lower()}"


def _check_hash(field: str, value: object) -> None:
    if value is not None and not (isinstance(value, bytes) and len(value) == _HASH_BYTES):
        raise InvalidInput(
            f"{field} must be {_HASH_BYTES} bytes, or None", field=field, value=value
        )


def _evaluations(given: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    for one in found:
        if not isinstance(one, Evaluation):
            raise InvalidInput(
                "evaluations are a list of Evaluation values",
                field="evaluations",
                value=cast("object", one),
                advice="Denied.of(denial) makes a Denied of a single Denial",
            )
    return found


class Denied:
    """The answer of gates of which at least one denied; false, as `Passed` is true.

    `evaluations` is what each gate did, in the set's order, recorded while it was asked.
    `cause` is what a defective gate raised, for this process only: it is neither stored
    nor compared nor pickled. Raises: InvalidInput where nothing denies.
    """

    __slots__ = ("cause", "evaluations")
    evaluations: tuple[Evaluation, ...]
    cause: Exception | None

    def __init__(
        self, evaluations: Iterable[Evaluation], *, cause: Exception | None = None
    ) -> None:
        found = _evaluations(evaluations)
        if not any(one.denial is not None for one in found):
            raise InvalidInput("no evaluation denies", field="evaluations", value=found)
        _set(self, "evaluations", found)
        _set(self, "cause", cause)

    @classmethod
    def of(cls, denial: Denial) -> Denied:
        """A denial that was made without a set: the one gate that is known to have spoken.

        Raises: InvalidInput.
        """
        if not isinstance(denial, Denial):
            raise InvalidInput(
                "a Denied is made of a Denial",
                field="denial",
                value=cast("object", denial),
                advice='write Denied.of(Denial("gate", "message"))',
            )
        return cls([Evaluation(denial.gate, Verdict.DENY, denial)])

    @property
    def denials(self) -> tuple[Denial, ...]:
        """All denials, in order."""
        return tuple([one.denial for one in self.evaluations if one.denial is not None])

    @property
    def denial(self) -> Denial:
        """The first denial."""
        return self.denials[0]

    def error(self) -> GateDenied:
        """What to raise: names the first denial, carries all. Raise it `from denied.cause`."""
        first = self.denial
        return GateDenied(
            f"gate {first.gate} denied it: {first.message}",
            gate=first.gate,
            reason=first.code or None,
            denied=self,
            advice="change what is proposed, or what the gate looks at"
            if first.code != GATE_DEFECT
            else "correct the gate; nothing is committed past a gate that can't decide",
        )

    def payload(
        self,
        kind: EventKind,
        *,
        content_hash: bytes | None = None,
        pipeline_id: str | None = None,
    ) -> DenialPayload:
        """What a denial event stores. `kind` and `content_hash` (BLAKE3 of the payload's
        bytes, 32) are those of the proposal. A hash lets others test what they guess was
        proposed: leave it out where that must not be. Raises: InvalidInput.
        """
        _check_hash("content_hash", content_hash)
        return DenialPayload(self.evaluations, kind, pipeline_id, content_hash)

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Denied) and other.evaluations == self.evaluations

    def __hash__(self) -> int:
        return hash(self.evaluations)

    def __repr__(self) -> str:
        return f"<Denied {self}>"

    def __str__(self) -> str:
        return ", ".join(map(str, self.evaluations))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Denied is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Denied is immutable: can't delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Denied, (self.evaluations,))


# --- the denial event ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DenialPayload:
    """The payload of event 0x000F, which stands at the coordinate that was denied.

    `proposed_kind` is any kind, `proposed_content_hash` 32 bytes or None.
    Raises: InvalidInput.
    """

    evaluations: tuple[Evaluation, ...]
    proposed_kind: EventKind
    pipeline_id: str | None = None
    proposed_content_hash: bytes | None = None

    def __post_init__(self) -> None:
        _set(self, "evaluations", _evaluations(self.evaluations))
        if not isinstance(self.proposed_kind, EventKind):
            raise InvalidInput(
                "proposed_kind must be an EventKind",
                field="proposed_kind",
                value=cast("object", self.proposed_kind),
            )
        if self.pipeline_id is not None:
            check_text("pipeline_id", self.pipeline_id)
        _check_hash("proposed_content_hash", self.proposed_content_hash)

    @property
    def denials(self) -> tuple[Denial, ...]:
        """All denials, in order."""
        return tuple([one.denial for one in self.evaluations if one.denial is not None])

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode(self)

    def __canonical__(self) -> dict[str, Any]:
        return {
            "evaluations": [_evaluation(one) for one in self.evaluations],
            "pipeline_id": self.pipeline_id,
            "proposed_kind": self.proposed_kind.raw,
            "proposed_content_hash": _hash(self.proposed_content_hash),
        }

    @classmethod
    def decode(cls, raw: bytes | memoryview) -> DenialPayload:
        """Read the bytes of a denial event. Raises: CanonicalError saying where."""
        found = _Reader(canonical.decode(raw), "$")
        path = "$.evaluations"
        evaluations = [
            _read_evaluation(_Reader(one, f"{path}[{n}]"))
            for n, one in enumerate(found.list("evaluations"))
        ]
        return cls(
            tuple(evaluations),
            found.kind("proposed_kind"),
            found.text_or_none("pipeline_id"),
            found.hash_or_none("proposed_content_hash"),
        )


def _hash(value: bytes | None) -> list[int] | None:
    # The Rust system writes hashes as arrays of integers, and these bytes are shared.
    return None if value is None else list(value)


def _evaluation(one: Evaluation) -> dict[str, Any]:
    verdict: Any = one.verdict.value
    if one.denial is not None:
        verdict = {
            verdict: {
                "code": one.denial.code,
                "message": one.denial.message,
                "context": one.denial.context,
            }
        }
    return {
        "gate_id": one.gate,
        "verdict": verdict,
        "evidence_hash": _hash(one.evidence_hash),
    }


class _Reader:
    """A stored map and where it stands; asks for a value by key and type."""

    def __init__(self, plain: object, path: str) -> None:
        if not isinstance(plain, dict):
            raise _unfit(path, "a map", plain)
        self.map = cast("dict[Any, Any]", plain)
        self.path = path

    def get(self, key: str) -> Any:
        if key not in self.map:
            raise CanonicalError(
                f"the map has no {key!r}",
                path=self.path,
                advice="the bytes are not a denial's payload",
            )
        return self.map[key]

    def list(self, key: str) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise _unfit(f"{self.path}.{key}", "an array", value)
        return cast("list[Any]", value)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise _unfit(f"{self.path}.{key}", "text", value)
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.map.get(key) is None else self.text(key)

    def kind(self, key: str) -> EventKind:
        value = self.get(key)
        if type(value) is not int or not 0 <= value <= 0xFFFF:
            raise _unfit(f"{self.path}.{key}", "a kind", value)
        return EventKind.from_raw(value)

    def hash_or_none(self, key: str) -> bytes | None:
        value = self.map.get(key)
        if value is None:
            return None
        if isinstance(value, (bytes, list)):
            try:
                found = bytes(cast("bytes | list[int]", value))
            except (TypeError, ValueError):
                found = b""
            if len(found) == _HASH_BYTES:
                return found
        raise _unfit(f"{self.path}.{key}", "nil or a hash of 32 bytes", cast("object", value))


def _unfit(path: str, wanted: str, value: object) -> CanonicalError:
    return CanonicalError(
        f"{wanted} was expected, not a {type(value).__name__}",
        path=path,
        advice="the bytes are not a denial's payload",
    )


def _read_evaluation(found: _Reader) -> Evaluation:
    gate = found.text("gate_id")
    evidence = found.hash_or_none("evidence_hash")
    stored = found.get("verdict")
    path = f"{found.path}.verdict"
    if isinstance(stored, dict):
        variants = cast("dict[Any, Any]", stored)
        if list(variants) != [Verdict.DENY.value]:
            raise _unfit(path, "a map of Deny alone", variants)
        denial = _read_denial(gate, _Reader(variants[Verdict.DENY.value], f"{path}.Deny"))
        return Evaluation(gate, Verdict.DENY, denial, evidence)
    for verdict in (Verdict.PERMIT, Verdict.SKIPPED):
        if stored == verdict.value:
            return Evaluation(gate, verdict, None, evidence)
    raise _unfit(path, "Permit, Skipped or a map of Deny", stored)


def _read_denial(gate: str, found: _Reader) -> Denial:
    context: list[tuple[str, str]] = []
    for n, pair in enumerate(found.list("context")):
        parts = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise _unfit(f"{found.path}.context[{n}]", "a pair of texts", cast("object", pair))
        context.append((parts[0], parts[1]))
    denial = object.__new__(Denial)
    # As stored: the rule for names is for those who write, and old bytes stay readable.
    for name, value in (
        ("gate", gate),
        ("message", found.text("message")),
        ("code", found.text("code")),
        ("context", tuple(context)),
    ):
        _set(denial, name, value)
    return denial
