"""Read the platform profiles that batpak 0.8 for Rust wrote: what a machine offered once.

Bytes in, a value or the first problem out; the order of the checks is the reference's.
Nothing compares a machine with a profile (docs/decisions/0036); this is for whoever finds
such a file beside an old store. Knows no machine and writes no profiles.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = ["MAX_PROFILE_BYTES", "PlatformProfile", "ProfileProblem", "decode_profile"]

MAX_PROFILE_BYTES: Final = 1 << 16
SCHEMA_VERSION: Final = 1

_SYNC: Final = frozenset({"UnixFsync", "RenameOnly"})
_LOCK: Final = frozenset({"AtomicNoFollow", "BestEffortCheckThenOpen"})
_MAP: Final = frozenset({"FileBacked"})
_FAILED: Final = frozenset({"Unknown", "ProbeFailed"})
_NO: Final = frozenset({"ObservedUnsupported"})
_REJECTED: Final = frozenset({"Rejected"})
_STATUS: Final = frozenset(
    {"ObservedDirectory", "UnknownMissing", "ObservedUnsupportedNotDirectory"}
)

_HOST: Final = {"monotonic_clock": frozenset({"ProcessLocalInstantAnchor"}) | _FAILED}
_STORE_PATH: Final = {
    "path_status": _STATUS,
    "parent_dir_sync": _SYNC | _FAILED,
    "lock_leaf_symlink_protection": _LOCK | _FAILED | _NO,
    "mmap_index": _MAP | _FAILED | _NO,
    "sealed_segment_mmap": _MAP | _FAILED | _NO,
    "active_segment_read": frozenset({"UnixReadAt", "LockedSeekRead"}) | _FAILED,
}
_ADMISSION: Final = {
    "store_lock": _LOCK | _REJECTED,
    "parent_dir_sync": _SYNC | _REJECTED,
    "mmap_index": _MAP | _REJECTED,
    "sealed_segment_mmap": _MAP | _REJECTED,
}
"""The words of each part, in the order of its keys."""

_MMAP_FIELDS: Final = ("mmap_index", "sealed_segment_mmap")
_FORCED: Final = {
    "UnknownMissing": "Unknown",
    "ObservedUnsupportedNotDirectory": "ObservedUnsupported",
    "ProbeFailed": "ProbeFailed",
}
"""What a map can only be where the path is no directory."""


@dataclass(frozen=True, slots=True)
class PlatformProfile:
    """A valid profile: each part maps its fields to the reference's words."""

    monotonic_clock: str
    store_path: Mapping[str, str]
    """`path_status` is "ProbeFailed" where a probe failed, whatever the reason."""
    path_failure: str | None
    """The reason of a failed probe of the path."""
    admission: Mapping[str, str]
    fingerprint_crc32: int


@dataclass(frozen=True, slots=True)
class ProfileProblem:
    """Why bytes are no valid profile. `kind` is stable."""

    kind: str
    """"decode-json", "unsupported-schema-version", "fingerprint-mismatch",
    "inconsistent-lock-admission", "inconsistent-parent-dir-sync-admission",
    "inconsistent-mmap-path" or "inconsistent-mmap-admission"."""
    field: str | None = None
    expected: str | int | None = None
    found: str | int | None = None


def decode_profile(data: bytes) -> PlatformProfile | ProfileProblem:
    """The profile in `data`, JSON of at most `MAX_PROFILE_BYTES`, or its first problem.

    Unknown keys are ignored, doubled and missing ones refused.
    """
    try:
        version, parts, path_failure, compact, fingerprint = _parts(data)
    except (_NoProfile, ValueError, RecursionError) as error:
        return ProfileProblem("decode-json", found=str(error))
    if version != SCHEMA_VERSION:
        return ProfileProblem("unsupported-schema-version", None, SCHEMA_VERSION, version)
    computed = zlib.crc32(compact)
    if computed != fingerprint:
        return ProfileProblem("fingerprint-mismatch", None, computed, fingerprint)
    host, path, admission = parts
    return _contradiction(path, admission) or PlatformProfile(
        host["monotonic_clock"], path, path_failure, admission, fingerprint
    )


def _contradiction(path: Mapping[str, str], admission: Mapping[str, str]) -> ProfileProblem | None:
    """Where evidence and admission, or evidence and path, exclude each other."""
    for kind, admitted, seen in (
        ("inconsistent-lock-admission", "store_lock", "lock_leaf_symlink_protection"),
        ("inconsistent-parent-dir-sync-admission", "parent_dir_sync", "parent_dir_sync"),
    ):
        expected = _admitted(path[seen], _ADMISSION[admitted])
        if admission[admitted] != expected:
            return ProfileProblem(kind, admitted, expected, admission[admitted])
    forced = _FORCED.get(path["path_status"])
    for name in _MMAP_FIELDS:
        if forced is not None and path[name] != forced:
            return ProfileProblem("inconsistent-mmap-path", name, forced, path[name])
    for name in _MMAP_FIELDS:
        expected = _admitted(path[name], _ADMISSION[name])
        if admission[name] != expected:
            return ProfileProblem("inconsistent-mmap-admission", name, expected, admission[name])
    return None


def _admitted(evidence: str, words: frozenset[str]) -> str:
    return evidence if evidence in words else "Rejected"


# --- JSON --------------------------------------------------------------------


class _NoProfile(Exception):
    """The JSON is not that of a profile; the text says why."""


_Parts = tuple[dict[str, str], dict[str, str], dict[str, str]]


def _parts(data: bytes) -> tuple[int, _Parts, str | None, bytes, int]:
    """Version, parts, reason of a failed path, bytes under the fingerprint, fingerprint."""
    if len(data) > MAX_PROFILE_BYTES:
        raise _NoProfile(f"over {MAX_PROFILE_BYTES} bytes")
    whole = _object(json.loads(data.decode("utf-8"), object_pairs_hook=_once))
    version = _u32(whole, "schema_version")
    host, _ = _words(whole, "host", _HOST)
    path, failure = _words(whole, "store_path", _STORE_PATH)
    admission, _ = _words(whole, "admission", _ADMISSION)
    fingerprint = _u32(whole, "fingerprint_crc32")
    hashed: dict[str, Any] = {
        "schema_version": version, "host": host, "store_path": path, "admission": admission,
    }  # fmt: skip
    if failure is not None:
        status = {"ProbeFailed": {"reason": failure}}
        hashed["store_path"] = path | {"path_status": status}
    compact = json.dumps(hashed, ensure_ascii=False, separators=(",", ":")).encode()
    return version, (host, path, admission), failure, compact, fingerprint


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NoProfile("a key stands there twice")
    return found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _NoProfile("an object is missing")
    return cast("dict[str, Any]", value)


def _u32(whole: dict[str, Any], name: str) -> int:
    value = whole.get(name)
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise _NoProfile(f"{name} is no 32-bit number")
    return value


def _words(
    whole: dict[str, Any], name: str, known: Mapping[str, frozenset[str]]
) -> tuple[dict[str, str], str | None]:
    """One part in its fixed order, and the reason where its path_status is a failed probe."""
    part = _object(whole.get(name))
    words: dict[str, str] = {}
    failure: str | None = None
    for key, allowed in known.items():
        word = part.get(key)
        if key == "path_status" and isinstance(word, dict):
            failed = cast("dict[str, Any]", word)
            reason = _object(failed.get("ProbeFailed")).get("reason")
            if len(failed) != 1 or not isinstance(reason, str):
                raise _NoProfile("a failed probe of the path has one reason")
            word, failure = "ProbeFailed", reason
        elif not isinstance(word, str) or word not in allowed:
            raise _NoProfile(f"{name}.{key} is none of its words")
        words[key] = word
    return words, failure
