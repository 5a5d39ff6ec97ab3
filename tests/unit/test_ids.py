"""Ids: their texts, their types, UUIDv7 and operation keys."""

from __future__ import annotations

import os
import pickle
import uuid

import pytest

from batpak import canonical
from batpak.clock import FunctionClock
from batpak.errors import IdError, InvalidClock
from batpak.ids import (
    CausationId,
    CorrelationId,
    EventId,
    IdempotencyKey,
    define_id,
    new_event_id,
    operation_key,
)

HEX = "0123456789abcdef0123456789abcdef"


def test_an_id_is_128_bits_with_a_text():
    made = EventId(0x0123456789ABCDEF0123456789ABCDEF)
    assert made.bytes == bytes.fromhex(HEX)
    assert made.value == 0x0123456789ABCDEF0123456789ABCDEF
    assert str(made) == f"event:{HEX}"
    assert repr(made) == "EventId(01234567…89abcdef)"
    assert EventId.from_bytes(made.bytes) == made
    assert EventId.from_bytes(memoryview(made.bytes)) == made
    assert str(EventId(1)) == "event:" + "0" * 31 + "1"


def test_each_type_has_its_name():
    types = (EventId, CorrelationId, CausationId, IdempotencyKey)
    assert [str(t(0)).split(":")[0] for t in types] == [
        "event",
        "correlation",
        "causation",
        "idempotency",
    ]


@pytest.mark.parametrize("value", [-1, 2**128, "1", 1.0, True, None, b"\0" * 16])
def test_only_128_bits_are_an_id(value):
    with pytest.raises(IdError):
        EventId(value)


@pytest.mark.parametrize("raw", [b"", b"\0" * 15, b"\0" * 17, "0" * 16, 16, [256] * 16, None])
def test_only_16_bytes_are_an_id(raw):
    with pytest.raises(IdError):
        EventId.from_bytes(raw)


@pytest.mark.parametrize(
    "digits", [HEX, HEX.upper(), "+" + HEX, "0" * 40 + HEX, "1", "0", "+0", "f" * 32]
)
def test_parse_takes_hexadecimal_of_either_case(digits):
    assert EventId.parse(f"event:{digits}") == EventId(int(digits, 16))


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        f"correlation:{HEX}",
        f"Event:{HEX}",
        f" event:{HEX}",
        "event:",
        "event:+",
        "event:0x1",
        "event:-1",
        "event:1_0",
        "event: 1",
        "event:1 ",
        "event:1\n",
        "event:١",
        "event:g",
        "event:++1",
        "event:1" + "0" * 32,
        None,
        7,
    ],
)
def test_parse_refuses_everything_else(text):
    with pytest.raises(IdError) as caught:
        EventId.parse(text)
    assert caught.value.field == "event"


def test_ids_of_different_types_are_never_equal_and_do_not_compare():
    assert EventId(5) == EventId(5)
    assert EventId(5) != CorrelationId(5)
    assert EventId(5) != 5
    assert len({EventId(5), EventId(5), CorrelationId(5)}) == 2
    assert EventId(5) < EventId(6) <= EventId(6)
    assert EventId(2**127) > EventId(1) >= EventId(1)
    with pytest.raises(TypeError):
        _ = EventId(5) < CorrelationId(6)
    for compare in ("__le__", "__gt__", "__ge__"):
        assert getattr(EventId(5), compare)(CorrelationId(6)) is NotImplemented


def test_nil_is_all_zeros():
    assert EventId.nil() == EventId(0)
    assert EventId.nil().is_nil
    assert not EventId(1).is_nil


def test_ids_do_not_change_and_survive_pickling():
    made = EventId(7)
    with pytest.raises(AttributeError):
        made.bytes = bytes(16)
    with pytest.raises(AttributeError):
        del made.bytes
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_program_defines_id_types_of_its_own():
    invoice = define_id("invoice")
    assert str(invoice(1)).startswith("invoice:000")
    assert invoice.parse(str(invoice(9))) == invoice(9)
    assert invoice(1) != define_id("receipt")(1)
    assert repr(define_id("line-item")(0)).startswith("LineItemId(")
    for bad in ("", "Invoice", "in voice", "a:b", "é", "1a", None, "a" * 65):
        with pytest.raises(IdError):
            define_id(bad)


def test_an_id_is_stored_as_bin_of_16_and_read_from_integers_too():
    assert canonical.encode(EventId(5)) == b"\xc4\x10" + bytes(15) + b"\x05"
    assert canonical.decode(canonical.encode(EventId(5)), EventId) == EventId(5)
    assert canonical.decode(canonical.encode([0] * 15 + [5]), EventId) == EventId(5)


# --- UUIDv7 ------------------------------------------------------------------


def test_a_uuid7_of_a_clock_holds_its_milliseconds():
    made = uuid.UUID(bytes=new_event_id(FunctionClock(lambda: 1_700_000_000_123_999)).bytes)
    assert made.int >> 80 == 1_700_000_000_123
    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_uuid7_of_the_machine_ascend_though_made_in_one_millisecond():
    made = [new_event_id() for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {uuid.UUID(bytes=one.bytes).version for one in made} == {7}
    assert {uuid.UUID(bytes=one.bytes).variant for one in made} == {uuid.RFC_4122}


def test_uuid7_of_one_reading_differ_in_all_their_random_bits():
    still = FunctionClock(lambda: 0)
    made = [new_event_id(still).value for _ in range(2000)]
    assert len(set(made)) == 2000
    ever_set, always_set = 0, 2**128 - 1
    for one in made:
        ever_set |= one
        always_set &= one
    # 48 bits of time are zero; of the rest only version 7 and variant 10 are fixed.
    assert ever_set == (0x7FFF << 64) | (0xBFFF << 48) | (2**48 - 1)
    assert always_set == (0x7000 << 64) | (0x8000 << 48)


def test_a_clock_that_reads_nonsense_makes_no_id():
    with pytest.raises(InvalidClock):
        new_event_id(FunctionClock(lambda: -1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_repeat_its_parents_ids():
    still = FunctionClock(lambda: 0)
    new_event_id(still)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(new_event_id(still).bytes for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    raw = os.read(reading, 1600)
    os.close(reading)
    theirs = {raw[at : at + 16] for at in range(0, len(raw), 16)}
    ours = {new_event_id(still).bytes for _ in range(100)}
    assert len(theirs) == 100
    assert not ours & theirs


# --- operation keys -----------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "components", "digits"),
    [
        ("transfer", ["acct:1", "acct:2", "req:42"], "778a4035d27f90aa9ebe02decb3aafdf"),
        ("transfer", [], "28cc77a6d66bf33120023278c69287d0"),
        ("", [], "e572dff82304700b856a555ac3a4558d"),
        ("account.credit", ["account:alice", "req-2026-0001"], "eb0cd03beef0a0a4bc2ecb4e3ae3a7dd"),
        ("d", ["ab", "c"], "4fda80be6a8961758ded5336e2b80016"),
        ("d", ["a", "bc"], "72c5d7418089f1d37f8d887ba0f9e813"),
    ],
)
def test_operation_keys_are_the_published_ones(domain, components, digits):
    assert str(operation_key(domain, *components)) == f"idempotency:{digits}"


def test_lengths_count_utf8_bytes_and_empty_components_count():
    assert operation_key("é") != operation_key("e")
    assert operation_key("d", "") != operation_key("d")
    assert operation_key("d", "a", "b") != operation_key("d", "b", "a")


@pytest.mark.parametrize("part", [5, None, b"x", "\ud800"])
def test_operations_are_named_by_text(part):
    with pytest.raises(IdError):
        operation_key("d", part)
    with pytest.raises(IdError):
        operation_key(part)
