"""Sets of gates beside a loop that words the rules, and denials beside their bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batpak import Denial, Denied, EventKind, GateSet, Passed, canonical
from batpak.errors import CanonicalError
from batpak.gates import (
    GATE_DEFECT,
    Bypass,
    DenialPayload,
    Evaluation,
    FunctionGate,
    Verdict,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text("abc_ ~", min_size=1, max_size=3)
answers = st.sampled_from(["permit", "deny", "raise", "true", "foreign"])


def made(place: int, name: str, answer: str) -> FunctionGate[list[int]]:
    """A gate that notes its place in the context and answers as told."""

    def decide(asked: list[int]) -> Any:
        asked.append(place)
        match answer:
            case "deny":
                return Denial(name, "no", code="NO")
            case "raise":
                raise LookupError(name)
            case "true":
                return True
            case "foreign":
                return Denial(name + "!", "no")
        return None

    return FunctionGate(name, "", decide)


@given(st.lists(st.tuples(names, answers), max_size=6), st.booleans())
def test_a_set_permits_exactly_where_every_gate_does(gates, every):
    asked: list[int] = []
    gate_set = GateSet([made(place, *gate) for place, gate in enumerate(gates)])
    answer = (gate_set.check_all if every else gate_set.check)(asked)
    against = [place for place, (_, told) in enumerate(gates) if told != "permit"]
    until = len(gates) if every or not against else against[0] + 1
    assert asked == list(range(until))
    assert bool(answer) == (not against)
    assert isinstance(answer, Denied if against else Passed)
    expected = ["Permit" if told == "permit" else "Deny" for _, told in gates[:until]] + [
        "Skipped"
    ] * (len(gates) - until)
    assert [one.verdict.value for one in answer.evaluations] == expected
    assert [one.gate for one in answer.evaluations] == [name for name, _ in gates]
    if isinstance(answer, Denied):
        codes = ["NO" if gates[place][1] == "deny" else GATE_DEFECT for place in against]
        assert [denial.code for denial in answer.denials] == codes[: None if every else 1]
        stored = answer.payload(EventKind(1, 1))
        assert DenialPayload.decode(stored.encode()) == stored


pairs = st.lists(st.tuples(texts, texts), max_size=3)
hashes = st.none() | st.binary(min_size=32, max_size=32)


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    name, verdict = draw(names), draw(st.sampled_from(Verdict))
    denial = None
    if verdict is Verdict.DENY:
        denial = Denial(name, draw(texts), code=draw(texts), context=draw(pairs))
    return Evaluation(name, verdict, denial, draw(hashes))


payloads = st.builds(
    DenialPayload,
    st.lists(evaluations(), max_size=4).map(tuple),
    st.integers(0, 0xFFFF).map(EventKind.from_raw),
    st.none() | texts,
    hashes,
)


@given(payloads)
def test_a_denial_event_comes_back_from_its_bytes(stored):
    raw = stored.encode()
    assert DenialPayload.decode(raw) == stored
    assert canonical.encode(canonical.decode(raw, strict=True)) == raw
    assert list(canonical.decode(raw)) == [
        "evaluations", "pipeline_id", "proposed_kind", "proposed_content_hash",
    ]  # fmt: skip


@given(payloads, st.data())
def test_any_changed_byte_is_refused_or_another_denial(stored, data):
    raw = bytearray(stored.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = DenialPayload.decode(bytes(raw))
    except CanonicalError:
        return
    # What is tolerated once is canonical from then on.
    assert DenialPayload.decode(changed.encode()) == changed


@given(st.binary(max_size=60))
def test_any_bytes_are_a_denial_or_refused(raw):
    try:
        found = DenialPayload.decode(raw)
    except CanonicalError:
        return
    assert DenialPayload.decode(found.encode()) == found


@given(
    st.text("aü", min_size=1, max_size=128),
    st.text("aü", min_size=1, max_size=99),
    st.none() | st.text("aü", min_size=1, max_size=128),
)
def test_an_audit_comes_back_from_its_extension(reason, justification, approved_by):
    bypass = Bypass(reason, justification, approved_by)
    assert Bypass.from_extensions(bypass.extensions()) == bypass
