"""The reference's platform profiles: the golden ones decode, and any other change is found."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.engine.profile import (
    MAX_PROFILE_BYTES,
    PlatformProfile,
    ProfileProblem,
    decode_profile,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "core" / "platform"
FINGERPRINTS = {
    "linux_basic": 198181094,
    "mmap_unavailable": 1810418857,
    "non_unix_best_effort_lock": 352735033,
    "profile_mismatch": 2024719236,
}
BASIC = (GOLDEN / "linux_basic.profile").read_bytes()
PARTS = ("schema_version", "host", "store_path", "admission")


def sealed(plain: dict[str, Any]) -> bytes:
    """A profile with the fingerprint that its content has."""
    compact = json.dumps(
        {name: plain[name] for name in PARTS}, separators=(",", ":"), ensure_ascii=False
    )
    return json.dumps(plain | {"fingerprint_crc32": zlib.crc32(compact.encode())}).encode()


def changed(**parts: dict[str, Any]) -> bytes:
    """The basic profile with other words in some parts, its fingerprint right."""
    plain = json.loads(BASIC)
    for name, words in parts.items():
        plain[name] |= words
    return sealed(plain)


def kind_of(data: bytes) -> str:
    found = decode_profile(data)
    assert isinstance(found, ProfileProblem), found
    return found.kind


def test_every_golden_profile_is_listed() -> None:
    assert {path.stem for path in GOLDEN.glob("*.profile")} == set(FINGERPRINTS)


@pytest.mark.parametrize(("name", "fingerprint"), FINGERPRINTS.items())
def test_a_golden_profile_decodes(name: str, fingerprint: int) -> None:
    data = (GOLDEN / f"{name}.profile").read_bytes()
    found = decode_profile(data)
    assert isinstance(found, PlatformProfile), found
    plain = json.loads(data)
    assert found.fingerprint_crc32 == fingerprint == plain["fingerprint_crc32"]
    assert found.monotonic_clock == plain["host"]["monotonic_clock"]
    assert dict(found.store_path) == plain["store_path"]
    assert dict(found.admission) == plain["admission"]
    assert found.path_failure is None
    # White space and strange keys are not under the fingerprint.
    assert decode_profile(json.dumps(plain | {"comment": [1, None]}).encode()) == found


@pytest.mark.parametrize("part", ["host", "store_path", "admission"])
def test_a_changed_word_is_found_by_the_fingerprint(part: str) -> None:
    words = {
        "host": {"monotonic_clock": "Unknown"},
        "store_path": {"active_segment_read": "LockedSeekRead"},
        "admission": {"mmap_index": "Rejected"},
    }
    plain = json.loads(BASIC)
    plain[part] |= words[part]
    assert kind_of(json.dumps(plain).encode()) == "fingerprint-mismatch"


MISSING = {"path_status": "UnknownMissing"}
NOT_DIRECTORY = {"path_status": "ObservedUnsupportedNotDirectory"}
FAILED = {"path_status": {"ProbeFailed": {"reason": 'böse "Pfad"\n'}}}
NO_MAPS = {"mmap_index": "Rejected", "sealed_segment_mmap": "Rejected"}


@pytest.mark.parametrize(
    ("parts", "kind", "field"),
    [
        ({"admission": {"store_lock": "Rejected"}}, "inconsistent-lock-admission", "store_lock"),
        (
            {"store_path": {"lock_leaf_symlink_protection": "Unknown"}},
            "inconsistent-lock-admission",
            "store_lock",
        ),
        (
            {"admission": {"parent_dir_sync": "RenameOnly"}},
            "inconsistent-parent-dir-sync-admission",
            "parent_dir_sync",
        ),
        ({"store_path": MISSING}, "inconsistent-mmap-path", "mmap_index"),
        (
            {"store_path": MISSING | {"mmap_index": "Unknown"}},
            "inconsistent-mmap-path",
            "sealed_segment_mmap",
        ),
        ({"store_path": NOT_DIRECTORY}, "inconsistent-mmap-path", "mmap_index"),
        ({"store_path": FAILED}, "inconsistent-mmap-path", "mmap_index"),
        (
            {"store_path": {"mmap_index": "ProbeFailed"}},
            "inconsistent-mmap-admission",
            "mmap_index",
        ),
        (
            {"admission": {"sealed_segment_mmap": "Rejected"}},
            "inconsistent-mmap-admission",
            "sealed_segment_mmap",
        ),
        # Of several contradictions the first in the reference's order is told.
        (
            {"admission": dict.fromkeys(("store_lock", "parent_dir_sync"), "Rejected") | NO_MAPS},
            "inconsistent-lock-admission",
            "store_lock",
        ),
    ],
)
def test_words_that_contradict_each_other_are_named(
    parts: dict[str, Any], kind: str, field: str
) -> None:
    found = decode_profile(changed(**parts))
    assert isinstance(found, ProfileProblem)
    assert (found.kind, found.field) == (kind, field)
    assert found.expected != found.found


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (MISSING, "Unknown"),
        (NOT_DIRECTORY, "ObservedUnsupported"),
        (FAILED, "ProbeFailed"),
    ],
)
def test_a_path_that_is_no_directory_maps_nothing(status: dict[str, Any], word: str) -> None:
    maps = dict.fromkeys(("mmap_index", "sealed_segment_mmap"), word)
    found = decode_profile(changed(store_path=status | maps, admission=NO_MAPS))
    assert isinstance(found, PlatformProfile), found
    assert found.path_failure == ('böse "Pfad"\n' if status is FAILED else None)
    told = status["path_status"]
    assert found.store_path["path_status"] == (told if isinstance(told, str) else "ProbeFailed")


@pytest.mark.parametrize("version", [0, 2, (1 << 32) - 1])
def test_another_version_is_refused_by_number(version: int) -> None:
    found = decode_profile(sealed(json.loads(BASIC) | {"schema_version": version}))
    assert found == ProfileProblem("unsupported-schema-version", None, 1, version)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff" + BASIC,
        BASIC[:-1],
        BASIC + b"x",
        BASIC.replace(b'"schema_version": 1', b'"schema_version": true'),
        BASIC.replace(b'"schema_version": 1', b'"schema_version": 1.0'),
        BASIC.replace(b'"schema_version": 1', b'"schema_version": 1, "schema_version": 1'),
        BASIC.replace(b'"schema_version": 1', b'"schema_version": 4294967296'),
        BASIC.replace(b'"mmap_index": "FileBacked",\n    "sealed', b'"sealed', 1),
        BASIC.replace(b'"UnixReadAt"', b'"unixreadat"'),
        BASIC.replace(b'"UnixReadAt"', b"7"),
        BASIC.replace(b'"UnixReadAt"', b'{"ProbeFailed": {"reason": "only the path has one"}}'),
        BASIC.replace(b'"ObservedDirectory"', b'{"ProbeFailed": {}}'),
        BASIC.replace(b'"ObservedDirectory"', b'{"ProbeFailed": {"reason": "\\ud800"}}'),
        BASIC.replace(b"198181094", b"-1"),
        BASIC.replace(b"198181094", b"NaN"),
        b"[" * 60_000,
        b" " * (MAX_PROFILE_BYTES + 1 - len(BASIC)) + BASIC,
    ],
)
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    assert data != BASIC
    assert kind_of(data) == "decode-json"


def test_the_largest_profile_is_read() -> None:
    assert decode_profile(b" " * (MAX_PROFILE_BYTES - len(BASIC)) + BASIC) == decode_profile(BASIC)


@given(at=st.integers(0, len(BASIC) - 1), byte=st.integers(0, 255))
def test_no_single_byte_can_be_changed_unseen(at: int, byte: int) -> None:
    data = BASIC[:at] + bytes([byte]) + BASIC[at + 1 :]
    found = decode_profile(data)
    # What is left must say the same: another kind of white space is all that may differ.
    assert isinstance(found, ProfileProblem) or json.loads(data) == json.loads(BASIC)


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    assert isinstance(decode_profile(data), ProfileProblem)
