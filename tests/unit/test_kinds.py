"""Kinds: the bits, the order of refusals, and values that behave like the integers they are."""

from __future__ import annotations

import copy
import pickle

import pytest

from batpak import kinds
from batpak.errors import KindError, ReservedKind
from batpak.kinds import Category, EventFlag, EventKind

CONSTANTS = {
    "DATA": 0x1000,
    "SYSTEM_INIT": 0x0001,
    "SYSTEM_SHUTDOWN": 0x0002,
    "SYSTEM_HEARTBEAT": 0x0003,
    "SYSTEM_CONFIG_CHANGE": 0x0004,
    "SYSTEM_CHECKPOINT": 0x0005,
    "SYSTEM_BATCH_BEGIN": 0x0006,
    "SYSTEM_BATCH_COMMIT": 0x0007,
    "SYSTEM_OPEN_COMPLETED": 0x0008,
    "SYSTEM_CLOSE_COMPLETED": 0x0009,
    "SYSTEM_DENIAL": 0x000F,
    "SYSTEM_FENCE_CANCELLED": 0x0011,
    "SYSTEM_ERASURE": 0x0012,
    "SYSTEM_LOG_CHECKPOINT": 0x0013,
    "SYSTEM_COMPACTION": 0x0014,
    "SYSTEM_KEY_ADDED": 0x0015,
    "SYSTEM_KEY_RETIRED": 0x0016,
    "SYSTEM_KEY_SHREDDED": 0x0017,
    "SYSTEM_RESTORED": 0x0018,
    "TOMBSTONE": 0x0FFE,
    "EFFECT_ERROR": 0xD001,
    "EFFECT_RETRY": 0xD002,
    "EFFECT_ACK": 0xD004,
    "EFFECT_BACKPRESSURE": 0xD005,
    "EFFECT_CANCEL": 0xD006,
    "EFFECT_CONFLICT": 0xD007,
    "SYSTEM_HEARTBEAT_REQUEST": 0xFA01,
    "SYSTEM_HEARTBEAT_ACK": 0xFA02,
}


def test_named_kinds_have_their_published_numbers():
    named = {
        name: value.raw
        for name in kinds.__all__
        if type(value := getattr(kinds, name)) is EventKind
    }
    assert named == CONSTANTS


def test_a_kind_is_its_category_and_type_id():
    kind = EventKind(0xF, 0x123)
    assert (kind.raw, kind.category, kind.type_id) == (0xF123, 0xF, 0x123)
    assert str(kind) == "0xF123"
    assert str(EventKind.from_raw(7)) == "0x0007"
    assert f"{kind}" == "0xF123"
    assert repr(kind) == "EventKind(0xF, 0x123)"


@pytest.mark.parametrize(
    ("category", "type_id", "error", "field"),
    [
        (16, 0x1000, KindError, "category"),
        (-1, 0, KindError, "category"),
        (True, 0, KindError, "category"),
        ("1", 0, KindError, "category"),
        (0, 0x1000, ReservedKind, "category"),
        (0xD, 0x1000, ReservedKind, "category"),
        (1, 0x1000, KindError, "type_id"),
        (1, -1, KindError, "type_id"),
        (1, True, KindError, "type_id"),
    ],
)
def test_the_first_broken_rule_is_named(category, type_id, error, field):
    with pytest.raises(error) as caught:
        EventKind(category, type_id)
    assert type(caught.value) is error
    assert caught.value.field == field
    assert caught.value.advice


@pytest.mark.parametrize("raw", [-1, 0x10000, "1", True, None, 1.0])
def test_only_a_u16_is_a_stored_kind(raw):
    with pytest.raises(KindError):
        EventKind.from_raw(raw)


def test_reserved_is_system_or_effect_and_nothing_else():
    for raw in range(0, 0x10000, 0x101):
        kind = EventKind.from_raw(raw)
        assert kind.is_system == (raw >> 12 == 0)
        assert kind.is_effect == (raw >> 12 == 0xD)
        assert kind.is_reserved == (kind.is_system or kind.is_effect)


def test_kinds_are_equal_hashed_and_ordered_by_their_number():
    low, high = EventKind(1, 0xFFF), EventKind(2, 0)
    assert low < high
    assert low == 0x1FFF
    assert {low: "found"}[0x1FFF] == "found"
    assert EventKind(1, 0xFFF) is low
    assert len({EventKind.from_raw(5), EventKind.from_raw(5), EventKind.from_raw(6)}) == 2


def test_kinds_survive_pickling_and_copying_and_refuse_change():
    kind = EventKind(0xE, 0x777)
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert copy.deepcopy(kind) is kind
    with pytest.raises(AttributeError):
        kind.raw = 3
    with pytest.raises(AttributeError):
        del kind.raw


def test_a_category_is_a_number_of_four_bits_and_no_kind():
    category = Category(0xF)
    assert (category.value, repr(category)) == (15, "Category(0xF)")
    assert EventKind(0xF, 1) in category
    assert EventKind(0xE, 1) not in category
    # 0x000F as a kind is something else than category 0xF.
    assert Category(0xF) != EventKind.from_raw(0x000F)
    assert Category(1) < Category(2)
    assert len({Category(1), Category(1), Category(2)}) == 2
    assert pickle.loads(pickle.dumps(category)) == category
    with pytest.raises(AttributeError):
        category.value = 2
    for bad in (16, -1, True, "1"):
        with pytest.raises(KindError):
            Category(bad)


def test_flags_have_their_published_bits():
    assert [flag.value for flag in EventFlag] == [1, 2, 8, 0x100]
    assert EventFlag(0x103) == EventFlag.KEYED | EventFlag.TRANSACTIONAL | EventFlag.REQUIRES_ACK
