"""A bundle with one character changed fails: for each character of it.

Two verifiers that share no code judge each of these texts, and agree check by check.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import ProofInvalid
from batpak.proof import Check, verify_bundle
from batpak.proof.notes import Note
from tests.support.small_log import POLICY, RECEIPT_KEY, example
from tools import verify_bundle as second

FULL = example().bundle(3, 2, earlier=5, key_events=(1, 5))
GOOD = FULL.to_json()
LOG, *WITNESSES = (second.read_key(str(key)) for key in (POLICY.log, *POLICY.witnesses))
KEYS = [second.Span(*RECEIPT_KEY)]


def judged(text: str) -> tuple[Check, ...]:
    verdict = verify_bundle(text, [RECEIPT_KEY], POLICY)
    other = second.judge(text.encode(), LOG, witnesses=WITNESSES, threshold=2, keys=KEYS)
    assert [(c.name, c.held, c.sequence) for c in verdict.checks] == list(other)
    assert verdict.ok == all(check.held is not False for check in verdict.checks)
    return verdict.checks


@pytest.mark.proves("INV-BUNDLE-TAMPERING")
def test_each_character_is_bound() -> None:
    assert all(check.held is not False for check in judged(GOOD))
    for at, letter in enumerate(GOOD):
        new = {"0": "1", "f": "e", "A": "B"}.get(letter, "0" if letter in "123456789abcde" else "A")
        text = GOOD[:at] + new + GOOD[at + 1 :]
        assert any(check.held is False for check in judged(text)), (at, text[at - 20 : at + 20])


@pytest.mark.proves("INV-BUNDLE-TAMPERING")
def test_each_cut_of_a_bundle_is_refused() -> None:
    for end in range(len(GOOD)):
        assert [check.name for check in judged(GOOD[:end])] == ["form"]


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON value at which something stands."""
    steps: list[Any] = []
    if isinstance(value, dict):
        steps = list(value)
    elif isinstance(value, list):
        steps = list(range(len(value)))
    return [path, *(p for step in steps for p in places(value[step], (*path, step)))]


PLACES = places(json.loads(GOOD))[1:]


@pytest.mark.proves("INV-BUNDLE-HOSTILE")
@given(st.sampled_from(PLACES), _plain)
def test_any_value_in_any_place_is_judged_and_never_raises(
    path: tuple[str | int, ...], value: Any
) -> None:
    plain: Any = json.loads(GOOD)
    parent = plain
    for step in path[:-1]:
        parent = parent[step]
    was = parent[path[-1]]
    parent[path[-1]] = value
    checks = judged(json.dumps(plain))
    may_be_left_out = path in (("earlier",), ("consistency",), ("key_events",))
    label = path[-1] in ("durable", "replayed")
    if value != was and not may_be_left_out and not label:
        assert any(check.held is False for check in checks) or path[-1] in ("receipt", "envelope")


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    assert [check.name for check in verify_bundle(text, [], POLICY).checks] == ["form"]


@given(st.binary(max_size=60))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert [check.name for check in verify_bundle(data, [], POLICY).checks] == ["form"]


@given(st.text(max_size=200))
def test_any_text_is_a_note_or_refused(text: str) -> None:
    try:
        note = Note.parse(text)
    except ProofInvalid:
        return
    assert str(note) == text
