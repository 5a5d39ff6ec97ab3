"""Outcomes: their stored form is the Rust system's, hostile bytes are refused, results raise."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batpak import canonical
from batpak.errors import (
    BatpakError,
    CanonicalError,
    InvalidInput,
    OutcomeFailed,
    OutcomeUnavailable,
)
from batpak.ids import EventId, Id128, IdempotencyKey
from batpak.outcome import (
    MAX_NESTING,
    Batch,
    Cancelled,
    Compensation,
    CustomCompensation,
    CustomKind,
    Err,
    ErrorKind,
    Notify,
    Ok,
    Outcome,
    OutcomeError,
    Pending,
    Release,
    Retry,
    Rollback,
    UntilAll,
    UntilAny,
    UntilCustom,
    UntilEvent,
    UntilTime,
    WaitCondition,
    join_all,
    join_any,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "core"

# Bytes of the Rust system, and what they mean.
VECTORS: dict[str, tuple[Any, str]] = {
    "ok": (Ok(42), "82a474797065a24f6ba4646174612a"),
    "ok-nothing": (Ok(None), "82a474797065a24f6ba464617461c0"),
    "err": (
        Err(OutcomeError(ErrorKind.NOT_FOUND, "nope")),
        "82a474797065a3457272a46461746183a46b696e64a84e6f74466f756e64a76d657373616765a46e6f7065"
        "ac636f6d70656e736174696f6ec0",
    ),
    "retry": (
        Retry(100, 1, 3, "wait"),
        "82a474797065a55265747279a46461746184a861667465725f6d7364a7617474656d707401"
        "ac6d61785f617474656d70747303a6726561736f6ea477616974",
    ),
    "pending": (
        Pending(UntilTime(9999), Id128(42)),
        "82a474797065a750656e64696e67a46461746182a9636f6e646974696f6e81a754696d656f757481"
        "ac726573756d655f61745f6d73cd270fac726573756d655f746f6b656ec410"
        "0000000000000000000000000000002a",
    ),
    "cancelled": (
        Cancelled("nope"),
        "82a474797065a943616e63656c6c6564a46461746181a6726561736f6ea46e6f7065",
    ),
    "batch": (
        Batch([Ok(1), Cancelled("c")]),
        "82a474797065a54261746368a4646174619282a474797065a24f6ba46461746101"
        "82a474797065a943616e63656c6c6564a46461746181a6726561736f6ea163",
    ),
}


@pytest.mark.proves("INV-OUTCOME-BYTES")
@pytest.mark.parametrize("name", VECTORS)
def test_outcomes_have_the_bytes_of_the_rust_system(name: str) -> None:
    outcome, text = VECTORS[name]
    assert canonical.encode(outcome).hex() == text
    assert canonical.decode(bytes.fromhex(text), Outcome, strict=True) == outcome


@pytest.mark.proves("INV-OUTCOME-BYTES")
@pytest.mark.parametrize(
    ("file", "family", "value"),
    [
        (
            "wait_condition_v1",
            WaitCondition,
            UntilEvent(EventId(0xDEADBEEFCAFEBABE1234567890ABCDEF)),
        ),
        (
            "compensation_action_v1",
            Compensation,
            Rollback(
                [
                    EventId(0x11111111111111112222222222222222),
                    EventId(0x33333333333333334444444444444444),
                ]
            ),
        ),
    ],
)
def test_the_golden_files_are_read_and_written_byte_for_byte(
    file: str, family: type[Any], value: Any
) -> None:
    raw = bytes.fromhex((GOLDEN / f"{file}.hex").read_text().strip())
    assert canonical.decode(raw, family, strict=True) == value
    assert canonical.encode(value) == raw


def test_ids_and_bytes_are_stored_as_the_rust_system_does() -> None:
    one, many = EventId(1), [0] * 15 + [1]
    assert canonical.decode(canonical.encode(Notify(one, "m"))) == {
        "Notify": {"target_id": one.bytes, "message": "m"}
    }
    assert canonical.decode(canonical.encode(Release([one]))) == {
        "Release": {"resource_ids": [many]}
    }
    assert canonical.decode(canonical.encode(UntilCustom(7, b"\x01\xff"))) == {
        "Custom": {"tag": 7, "data": [1, 255]}
    }
    assert canonical.decode(canonical.encode(CustomCompensation("call", b"\x02"))) == {
        "Custom": {"action_type": "call", "data": [2]}
    }
    error = OutcomeError(CustomKind(7), "m", Rollback([]))
    assert canonical.decode(canonical.encode(error)) == {
        "kind": {"Custom": 7},
        "message": "m",
        "compensation": {"Rollback": {"event_ids": []}},
    }
    assert canonical.decode(canonical.encode(UntilAll([UntilAny([])]))) == {"All": [{"Any": []}]}


def test_reading_takes_ids_in_either_form_and_ignores_unknown_keys() -> None:
    id_bytes = EventId(5).bytes
    for stored in (id_bytes, list(id_bytes)):
        raw = canonical.encode({"Event": {"event_id": stored, "later": 1}})
        assert canonical.decode(raw, WaitCondition) == UntilEvent(EventId(5))
    raw = canonical.encode({"later": 1, "data": None, "type": "Ok"})
    assert canonical.decode(raw, Outcome) == Ok(None)
    raw = canonical.encode({"type": "Err", "data": {"kind": "Timeout", "message": "m"}})
    assert canonical.decode(raw, Outcome) == Err(OutcomeError(ErrorKind.TIMEOUT, "m"))
    with pytest.raises(CanonicalError):
        canonical.decode(raw, Outcome, strict=True)


RETRY = {"after_ms": 1, "attempt": 1, "max_attempts": 1, "reason": "r"}


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        {"type": "Ok"},
        {"data": 1},
        {"type": "Fine", "data": 1},
        {"type": ["Ok"], "data": 1},
        {"type": "Err", "data": {"kind": "NotFound"}},
        {"type": "Err", "data": {"kind": "Broken", "message": "m"}},
        {"type": "Err", "data": {"kind": {"Custom": 65536}, "message": "m"}},
        {"type": "Err", "data": {"kind": {"Other": 1}, "message": "m"}},
        {"type": "Err", "data": {"kind": "NotFound", "message": 5}},
        {"type": "Err", "data": {"kind": "NotFound", "message": "m", "compensation": {}}},
        {"type": "Err", "data": {"kind": "NotFound", "message": "m", "compensation": {"X": 1}}},
        {"type": "Retry", "data": RETRY | {"after_ms": -1}},
        {"type": "Retry", "data": RETRY | {"attempt": 2**32}},
        {"type": "Retry", "data": RETRY | {"attempt": True}},
        {"type": "Retry", "data": RETRY | {"max_attempts": 1.0}},
        {"type": "Retry", "data": {"after_ms": 1}},
        {"type": "Cancelled", "data": {"reason": b"r"}},
        {"type": "Cancelled", "data": {}},
        {"type": "Batch", "data": {}},
        {"type": "Batch", "data": [1]},
        {"type": "Pending", "data": {"condition": {"All": []}}},
        {"type": "Pending", "data": {"condition": {"All": []}, "resume_token": b"short"}},
        {"type": "Pending", "data": {"condition": {"All": [1]}, "resume_token": bytes(16)}},
        {"type": "Pending", "data": {"condition": {"None": 1}, "resume_token": bytes(16)}},
        {"type": "Pending", "data": {"condition": {"All": [], "Any": []}, "resume_token": b""}},
    ],
)
def test_what_is_no_outcome_is_refused(plain: Any) -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(canonical.encode(plain), Outcome)


@pytest.mark.parametrize(
    "plain",
    [
        {"Rollback": {"event_ids": [[0] * 15]}},
        {"Rollback": {"event_ids": [[256] * 16]}},
        {"Rollback": {"event_ids": 5}},
        {"Rollback": {}},
        {"Notify": {"target_id": bytes(16)}},
        {"Notify": {"target_id": bytes(16), "message": None}},
        {"Custom": {"action_type": "a", "data": [-1]}},
        {"Custom": {"action_type": "a", "data": 3}},
        {"Custom": {"action_type": 1, "data": []}},
        {"Undo": {}},
        "Rollback",
    ],
)
def test_what_is_no_compensation_is_refused(plain: Any) -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(canonical.encode(plain), Compensation)


def nested(depth: int) -> Outcome[int]:
    made: Outcome[int] = Ok(1)
    for _ in range(depth):
        made = Batch([made])
    return made


def test_nesting_is_bounded_alike_in_memory_and_in_bytes() -> None:
    conditions: WaitCondition = UntilTime(1)
    for _ in range(MAX_NESTING):
        conditions = UntilAny([conditions])
    deepest: Outcome[Any] = Pending(conditions, Id128(1))
    for _ in range(MAX_NESTING):
        deepest = Batch([deepest])
    raw = canonical.encode(deepest)
    assert canonical.decode(raw, Outcome, strict=True) == deepest
    with pytest.raises(InvalidInput):
        Batch([deepest])
    with pytest.raises(InvalidInput):
        UntilAll([conditions])
    plain: Any = {"type": "Ok", "data": 1}
    for _ in range(MAX_NESTING + 1):
        plain = {"type": "Batch", "data": [plain]}
    with pytest.raises(CanonicalError):
        canonical.decode(canonical.encode(plain), Outcome)
    text = '{"type": "Batch", "data": [' * 300 + "]}" * 300
    with pytest.raises(InvalidInput):
        Outcome.from_json(text)
    with pytest.raises(InvalidInput):
        Outcome.from_json("[" * 100_000)


def test_a_field_of_a_class_can_be_an_outcome() -> None:
    class Report(msgspec.Struct, frozen=True):
        ended: Outcome[int]
        waits: WaitCondition | None = None
        undo: Compensation | None = None

    report = Report(Err(OutcomeError(ErrorKind.TIMEOUT, "late")), UntilTime(5), Release([]))
    codec = canonical.codec_for(Report)
    raw = codec.encode(report)
    assert raw == canonical.encode(report)
    assert codec.decode(raw) == report
    assert canonical.decode(raw, Report, strict=True) == report
    # The value of an Ok is judged like any other: nothing slips through unconverted.
    with pytest.raises(CanonicalError) as caught:
        codec.encode(Report(Ok({1, 2})))  # type: ignore[arg-type]  # the mistake under test
    assert caught.value.path == "$.ended['data']"
    with pytest.raises(CanonicalError):
        codec.encode(Report(5))  # type: ignore[arg-type]  # the mistake under test


def test_a_variant_is_not_read_as_another() -> None:
    raw = canonical.encode(Cancelled("c"))
    assert canonical.decode(raw, Cancelled) == Cancelled("c")
    with pytest.raises(CanonicalError):
        canonical.decode(raw, Ok)
    text = Cancelled("c").to_json()
    assert Cancelled.from_json(text) == Cancelled("c")
    with pytest.raises(CanonicalError) as caught:
        Ok.from_json(text)
    assert caught.value.path == "$"
    for plain, family in (({"None": 1}, WaitCondition), ({"None": 1}, Compensation)):
        with pytest.raises(CanonicalError, match="'None' is no"):
            canonical.decode(canonical.encode(plain), family)


# --- values ------------------------------------------------------------------------

EVERY: list[Any] = [
    *(outcome for outcome, _ in VECTORS.values()),
    UntilEvent(EventId(1)),
    UntilAll([UntilTime(1)]),
    UntilAny([]),
    UntilCustom(1, b"x"),
    Rollback([EventId(1)]),
    Notify(Id128(1), "m"),
    Release([Id128(1)]),
    CustomCompensation("a", b"x"),
    OutcomeError(CustomKind(1), "m", Release([])),
    CustomKind(3),
]


@pytest.mark.parametrize("value", EVERY, ids=lambda value: type(value).__name__)
def test_values_are_frozen_and_travel_whole(value: Any) -> None:
    for name in value.__match_args__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
        with pytest.raises(AttributeError):
            delattr(value, name)
    for other in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value)):
        assert other == value
        assert type(other) is type(value)
        assert hash(other) == hash(value)
    assert repr(value).startswith(f"{type(value).__name__}({value.__match_args__[0]}=")


def test_values_of_different_variants_are_never_equal() -> None:
    assert UntilAll([]) != UntilAny([])
    assert Ok("x") != Cancelled("x")
    assert Batch([]) != Ok(())
    assert len({UntilAll([]), UntilAny([]), UntilAll([])}) == 2


def test_an_outcome_matches_by_position() -> None:
    match Batch([Retry(5, 1, 2, "busy"), Pending(UntilTime(7), Id128(9))]):
        case Batch((Retry(after, 1, 2, why), Pending(UntilTime(at), token))):
            assert (after, why, at, token) == (5, "busy", 7, Id128(9))
        case _:
            pytest.fail("the pattern did not match")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(-1, 1, 1, "r"),
        lambda: Retry(1, 2**32, 1, "r"),
        lambda: Retry(1, 1, True, "r"),
        lambda: Retry(1, 1, 1, "\ud800"),
        lambda: Cancelled(5),  # type: ignore[arg-type]  # the mistake under test
        lambda: Err("no"),  # type: ignore[arg-type]  # the mistake under test
        lambda: OutcomeError("NotFound", "m"),  # type: ignore[arg-type]  # the mistake under test
        lambda: OutcomeError(ErrorKind.TIMEOUT, "m", "undo"),  # type: ignore[arg-type]  # the mistake under test
        lambda: Pending(5, Id128(1)),  # type: ignore[arg-type]  # the mistake under test
        lambda: Pending(UntilTime(1), 42),  # type: ignore[arg-type]  # the mistake under test
        lambda: Batch([1]),  # type: ignore[list-item]  # the mistake under test
        lambda: Batch("ab"),  # type: ignore[arg-type]  # the mistake under test
        lambda: UntilAll([Ok(1)]),  # type: ignore[list-item]  # the mistake under test
        lambda: UntilTime(2**64),
        lambda: UntilCustom(2**16, b""),
        lambda: UntilCustom(1, "text"),  # type: ignore[arg-type]  # the mistake under test
        lambda: Rollback([1]),  # type: ignore[list-item]  # the mistake under test
        lambda: Rollback(EventId(1)),  # type: ignore[arg-type]  # the mistake under test
        lambda: CustomKind(-1),
    ],
)
def test_values_that_could_not_be_stored_are_refused(make: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field


@pytest.mark.parametrize("family", [Outcome, WaitCondition, Compensation])
def test_a_family_has_no_members_but_its_variants(family: Any) -> None:
    with pytest.raises(TypeError):
        family()


def test_ids_lose_their_type_since_it_is_not_stored() -> None:
    assert Notify(IdempotencyKey(3), "m") == Notify(Id128(3), "m")
    assert Rollback([Id128(3)]).event_ids == (EventId(3),)


# --- results -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Retry(100, 1, 3, "wait"), "Timeout"),
        (Pending(UntilTime(9999), Id128(42)), "Pending"),
        (Cancelled("nope"), "Cancelled"),
        (Batch([Ok(1), Ok(2)]), "BatchCollapse"),
        *((Err(OutcomeError(kind, "m")), kind.value) for kind in ErrorKind),
        (Err(OutcomeError(CustomKind(7), "m")), "Custom(7)"),
    ],
)
def test_a_result_that_is_none_raises_its_kind(outcome: Outcome[int], kind: str) -> None:
    retryable = kind in ("Timeout", "StorageError")
    with pytest.raises(BatpakError) as caught:
        outcome.result()
    error = caught.value
    assert type(error) is (OutcomeUnavailable if retryable else OutcomeFailed)
    assert error.retryable is retryable
    assert error.facts["kind"] == kind


def test_a_result_that_is_none_says_what_there_was() -> None:
    compensation = Release([Id128(1)])
    with pytest.raises(OutcomeFailed) as caught:
        Err(OutcomeError(ErrorKind.CONFLICT, "taken", compensation)).result()
    assert caught.value.compensation == compensation
    assert caught.value.what == "taken"
    with pytest.raises(OutcomeUnavailable, match=r"100 ms: wait \(attempt 1 of 3\)"):
        Retry(100, 1, 3, "wait").result()
    with pytest.raises(OutcomeFailed, match="cancelled: nope"):
        Cancelled("nope").result()
    with pytest.raises(OutcomeFailed, match=r"UntilTime.*0000002a"):
        Pending(UntilTime(1), Id128(42)).result()
    with pytest.raises(OutcomeFailed, match="2 items"):
        Batch([Ok(1), Ok(2)]).result()
    assert Ok(5).result() == 5


def test_kinds_of_errors_are_of_the_domain_or_operational() -> None:
    domain = {kind.name for kind in ErrorKind if kind.is_domain}
    operational = {kind.name for kind in ErrorKind if kind.is_operational}
    retryable = {kind.name for kind in ErrorKind if kind.retryable}
    assert domain == {"NOT_FOUND", "CONFLICT", "VALIDATION", "POLICY_REJECTION", "CANCELLED"}
    assert operational == {
        "STORAGE_ERROR", "TIMEOUT", "PENDING", "SERIALIZATION", "INTERNAL", "BATCH_COLLAPSE",
    }  # fmt: skip
    assert retryable == {"STORAGE_ERROR", "TIMEOUT"}
    own = CustomKind(7)
    assert (own.is_domain, own.is_operational, own.retryable) == (False, False, False)
    assert str(OutcomeError(own, "m")) == "[Custom(7)] m"
    assert str(OutcomeError(ErrorKind.NOT_FOUND, "m")) == "[NotFound] m"


def test_only_an_end_is_terminal() -> None:
    ended = {name: outcome.is_terminal for name, (outcome, _) in VECTORS.items()}
    assert ended == {
        "ok": True, "ok-nothing": True, "err": True, "cancelled": True,
        "retry": False, "pending": False, "batch": False,
    }  # fmt: skip


def test_joins_of_nothing() -> None:
    assert join_all([]) == Ok(())
    assert join_all([Batch([])]) == Ok(())
    for nothing in ([], [Batch([])], [Batch([Batch([])])]):
        found = join_any(nothing)
        assert isinstance(found, Err)
        assert found.error.kind is ErrorKind.INTERNAL


@pytest.mark.parametrize(
    "call",
    [
        lambda: join_all([5]),
        lambda: join_any([5]),
        lambda: join_all([Ok(1), None]),
        lambda: join_any([Err(OutcomeError(ErrorKind.TIMEOUT, "m")), "Ok"]),
        lambda: join_all(Ok(1)),
        lambda: join_any(None),
        lambda: join_all("ab"),
        lambda: Ok(1).zip(5),
        lambda: Err(OutcomeError(ErrorKind.TIMEOUT, "m")).zip(None),
        lambda: Batch([]).zip([]),
    ],
)
def test_what_is_no_outcome_is_neither_joined_nor_paired(call: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.field in ("outcomes", "other")


# --- JSON --------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_json_has_the_same_shape(name: str) -> None:
    outcome, _ = VECTORS[name]
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert list(json.loads(outcome.to_json())) == ["type", "data"]


def test_json_writes_ids_as_integers() -> None:
    assert "grün" in Cancelled("grün").to_json()
    plain = json.loads(Pending(UntilEvent(EventId(1)), Id128(42)).to_json())
    assert plain["data"]["resume_token"] == [0] * 15 + [42]
    assert plain["data"]["condition"]["Event"]["event_id"] == [0] * 15 + [1]


def test_json_refuses_what_it_can_not_say() -> None:
    with pytest.raises(InvalidInput):
        Ok(float("nan")).to_json()
    with pytest.raises(CanonicalError):
        Ok({1}).to_json()
    for text in ("", "{", "[]", '{"type": "Ok"}', b"\xff", None, 5, ["{}"]):
        with pytest.raises(InvalidInput) as caught:
            Outcome.from_json(text)  # type: ignore[arg-type]  # the mistake under test
        assert caught.value.advice
