"""Laws of outcomes: one form in bytes, and joins that do what the page says for every variant."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import canonical
from batpak.errors import BatpakError, CanonicalError, InvalidInput
from batpak.ids import EventId, Id128
from batpak.outcome import (
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

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ids = st.integers(0, 2**128 - 1).map(Id128)
event_ids = st.integers(0, 2**128 - 1).map(EventId)
u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
conditions = st.recursive(
    st.builds(UntilTime, u64)
    | st.builds(UntilEvent, event_ids)
    | st.builds(UntilCustom, u16, st.binary(max_size=5)),
    lambda inner: (
        st.builds(UntilAll, st.lists(inner, max_size=3))
        | st.builds(UntilAny, st.lists(inner, max_size=3))
    ),
    max_leaves=6,
)
compensations = (
    st.builds(Rollback, st.lists(event_ids, max_size=3))
    | st.builds(Notify, ids, texts)
    | st.builds(Release, st.lists(ids, max_size=3))
    | st.builds(CustomCompensation, texts, st.binary(max_size=5))
)
errors = st.builds(
    OutcomeError,
    st.sampled_from(ErrorKind) | st.builds(CustomKind, u16),
    texts,
    st.none() | compensations,
)
values = st.none() | st.integers(-(2**63), 2**64 - 1) | texts | st.binary(max_size=4)
flat = (
    st.builds(Ok, values)
    | st.builds(Err, errors)
    | st.builds(Retry, u64, u32, u32, texts)
    | st.builds(Pending, conditions, ids)
    | st.builds(Cancelled, texts)
)
outcomes = st.recursive(
    flat, lambda inner: st.builds(Batch, st.lists(inner, max_size=3)), max_leaves=8
)


@given(outcomes)
def test_an_outcome_has_one_form(outcome):
    raw = canonical.encode(outcome)
    assert canonical.decode(raw, Outcome, strict=True) == outcome
    assert canonical.encode(canonical.decode(raw)) == raw


def listed(outcome):
    """The outcome as JSON gives it back: bytes in values have become lists."""
    match outcome:
        case Ok(bytes(value)):
            return Ok(list(value))
        case Batch(items):
            return Batch([listed(one) for one in items])
    return outcome


@given(outcomes)
def test_json_brings_an_outcome_back(outcome):
    assert Outcome.from_json(outcome.to_json()) == listed(outcome)


@given(conditions, compensations)
def test_conditions_and_compensations_have_one_form(condition, compensation):
    for family, value in ((WaitCondition, condition), (Compensation, compensation)):
        raw = canonical.encode(value)
        assert canonical.decode(raw, family, strict=True) == value


NAMES = [
    "type",
    "data",
    "kind",
    "message",
    "compensation",
    "reason",
    "condition",
    "resume_token",
    "All",
    "Custom",
    "Rollback",
    "event_ids",
    "tag",
    "Timeout",
    "resume_at_ms",
    "after_ms",
]
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 2**64 - 1)
    | st.sampled_from(["Ok", "Err", "Batch", "NotFound", "Timeout", "m"])
    | st.binary(max_size=17),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "data",
                    "kind",
                    "message",
                    "compensation",
                    "reason",
                    "condition",
                    "resume_token",
                    "All",
                    "Custom",
                    "Rollback",
                    "event_ids",
                    "tag",
                    "Timeout",
                    "resume_at_ms",
                    "after_ms",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(plain | st.builds(lambda tag, data: {"type": tag, "data": data}, texts, plain))
def test_any_value_is_one_of_the_family_or_refused(value):
    raw = canonical.encode(value)
    for family in (Outcome, WaitCondition, Compensation, OutcomeError):
        try:
            found = canonical.decode(raw, family)
        except CanonicalError:
            continue
        assert isinstance(found, family)
        assert canonical.decode(canonical.encode(found), family, strict=True) == found


@given(outcomes, st.data())
def test_any_changed_byte_is_refused_or_another_outcome(outcome, data):
    raw = bytearray(canonical.encode(outcome))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = canonical.decode(bytes(raw), Outcome, strict=True)
    except CanonicalError:
        return
    assert canonical.encode(changed) == bytes(raw)


@given(st.text() | st.binary(max_size=20))
def test_any_text_is_an_outcome_or_refused(text):
    try:
        found = Outcome.from_json(text)
    except InvalidInput:
        return
    assert isinstance(found, Outcome)


# --- joins, beside what the page says of them -------------------------------------------

RANK = {Err: 0, Cancelled: 1, Retry: 2, Pending: 3}


@given(outcomes, outcomes)
def test_zip_takes_the_worse_and_of_equals_the_first(one, other):
    found = one.zip(other)
    in_the_way = [side for side in (one, other) if type(side) in RANK]
    if in_the_way:
        assert found is min(in_the_way, key=lambda side: RANK[type(side)])
        return
    match one, other:
        case Ok(a), Ok(b):
            assert found == Ok((a, b))
        case Batch(a), Batch(b) if len(a) != len(b):
            assert isinstance(found, Err)
            assert found.error.kind is ErrorKind.INTERNAL
            assert str(len(a)) in found.error.message
            assert str(len(b)) in found.error.message
        case Batch(a), Batch(b):
            assert found == Batch([x.zip(y) for x, y in zip(a, b, strict=True)])
        case Batch(a), Ok():
            assert found == Batch([x.zip(other) for x in a])
        case Ok(), Batch(b):
            assert found == Batch([one.zip(x) for x in b])
        case _:
            raise AssertionError((one, other))


def values_of(outcome):
    """All values below an outcome in order; the first that has none is raised."""
    match outcome:
        case Ok(value):
            return [value]
        case Batch(items):
            return [value for one in items for value in values_of(one)]
        case _:
            raise _Met(outcome)


class _Met(Exception):
    pass


@given(st.lists(outcomes, max_size=5))
def test_join_all_gives_every_value_or_the_first_in_the_way(every):
    try:
        expected: Any = Ok(tuple(value for one in every for value in values_of(one)))
    except _Met as met:
        expected = met.args[0]
    assert join_all(every) == expected


@given(st.lists(outcomes, max_size=5), st.integers(0, 5), st.integers(0, 5))
def test_where_the_bounds_of_batches_are_makes_no_difference_to_join_all(every, start, size):
    inside = every[start : start + size]
    grouped = [*every[:start], Batch(inside), *every[start + size :]]
    assert join_all(grouped) == join_all(every)


def first_of(every):
    """join_any as the page words it, batch by batch."""
    last = None
    for one in every:
        if isinstance(one, Batch):
            one = first_of(one.items)
        if not isinstance(one, Err):
            return one
        last = one
    return last or join_any([])


@given(st.lists(outcomes, max_size=5))
def test_join_any_gives_the_first_ok_unless_something_pends_before_it(every):
    assert join_any(every) == first_of(every)


@given(outcomes)
def test_joining_one_is_that_one(outcome):
    if not isinstance(outcome, Batch):
        assert join_any([outcome]) == outcome
        expected = Ok((outcome.value,)) if isinstance(outcome, Ok) else outcome
        assert join_all([outcome]) == expected


@given(outcomes)
def test_a_result_is_the_value_or_raises(outcome):
    if isinstance(outcome, Ok):
        assert outcome.result() == outcome.value
        return
    with pytest.raises(BatpakError) as caught:
        outcome.result()
    assert caught.value.facts["kind"]
    assert caught.value.retryable == (caught.value.facts["kind"] in ("Timeout", "StorageError"))
