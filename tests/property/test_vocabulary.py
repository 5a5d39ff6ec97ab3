"""Properties of names, ids, kinds and the canonical form."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batpak.canonical import MAX_DEPTH, codec_for, decode, encode
from batpak.coordinate import MAX_COMPONENT_BYTES, Coordinate, Region, name_from_path
from batpak.errors import CanonicalError, CoordinateError, IdError
from batpak.ids import EventId, operation_key
from batpak.kinds import EventKind

texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.one_of(texts, st.integers(-(2**63), 2**64 - 1))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    texts,
    st.binary(),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=30
)


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, order of keys, and bits of floats."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return one == other


@given(values)
def test_values_come_back_and_have_one_form(value):
    raw = encode(value)
    assert same(decode(raw), value)
    assert same(decode(raw, strict=True), value)
    # msgspec alone writes plain values so too: the reference encoder's bytes.
    assert raw == msgspec.msgpack.encode(value)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_refused(data):
    for strict in (False, True):
        try:
            value = decode(data, strict=strict)
        except CanonicalError:
            continue
        if strict:
            assert encode(value) == data


@given(values, st.data())
def test_any_changed_byte_is_refused_or_another_canonical_value(value, data):
    raw = bytearray(encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(raw), strict=True)
    except CanonicalError:
        return
    assert encode(changed) == bytes(raw)
    assert not same(changed, value)


@given(values)
def test_every_truncation_and_every_longer_input_is_refused(value):
    raw = encode(value)
    for end in range(len(raw)):
        for strict in (False, True):
            with pytest.raises(CanonicalError):
                decode(raw[:end], strict=strict)
    with pytest.raises(CanonicalError):
        decode(raw + b"\x00")


@given(st.integers(0, 2 * MAX_DEPTH), values)
def test_depth_is_judged_alike_in_both_directions(depth, value):
    for _ in range(depth):
        value = {"k": value}
    try:
        raw = encode(value)
    except CanonicalError:
        raw = msgspec.msgpack.encode(value)
        for strict in (False, True):
            with pytest.raises(CanonicalError):
                decode(raw, strict=strict)
    else:
        assert same(decode(raw), value)


class Row(msgspec.Struct, frozen=True):
    n: int
    f: float
    s: str
    raw: bytes
    maybe: int | str | None
    items: list[int | None]
    table: dict[str, float]
    nested: list[list[str]]


rows = st.builds(
    Row,
    n=st.integers(-(2**63), 2**64 - 1),
    f=st.floats() | st.integers(-(2**53), 2**53),
    s=texts,
    raw=st.binary(),
    maybe=st.none() | st.integers(-(2**63), 2**64 - 1) | texts,
    items=st.lists(st.none() | st.integers(-(2**63), 2**64 - 1)),
    table=st.dictionaries(texts, st.floats() | st.integers(-100, 100)),
    nested=st.lists(st.lists(texts)),
)


@given(rows)
def test_classes_write_what_a_walk_writes_and_read_it_back(row):
    codec = codec_for(Row)
    raw = codec.encode(row)
    assert raw == encode(row)
    back = codec.decode(raw)
    assert codec.encode(back) == raw
    if not any(map(math.isnan, [row.f, *row.table.values()])):
        assert back == row


@given(rows, st.sampled_from(Row.__struct_fields__), leaves | st.lists(leaves, max_size=3))
def test_what_a_class_accepts_it_can_read_back(row, field, value):
    changed = msgspec.structs.replace(row, **{field: value})
    codec = codec_for(Row)
    try:
        raw = codec.encode(changed)
    except CanonicalError as refused:
        error = refused
    else:
        error = None
    if error is not None:
        assert error.path.startswith(f"$.{field}")
        return
    assert codec.encode(codec.decode(raw)) == raw
    assert decode(raw, Row, strict=True)


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_instants_are_microseconds(when):
    micros = decode(encode(when))
    # Compared in UTC: a time that its zone skips or has twice equals none of another zone.
    instant = when.astimezone(UTC)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros) == instant


# --- names ---------------------------------------------------------------------


def valid_name(text: str) -> bool:
    """The rules once more, as the format page words them."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return False
    return (
        0 < len(raw) <= 1024
        and not any(c < 0x20 or c == 0x7F for c in raw)
        and not any(part in text for part in ("/", "..", "|", "="))
    )


odd_texts = st.text(st.sampled_from("a./|=:\0\x1f\x7f@é\u0080日\ud800~%"), max_size=12) | st.text()


@given(odd_texts, odd_texts)
def test_a_coordinate_exists_exactly_where_the_rules_hold(entity, scope):
    try:
        made = Coordinate(entity, scope)
    except CoordinateError:
        assert not (valid_name(entity) and valid_name(scope))
        return
    assert valid_name(entity)
    assert valid_name(scope)
    assert Coordinate.from_stored(made.entity_bytes, made.scope_bytes) == made
    assert decode(encode(made), Coordinate) == made
    if "@" not in entity + scope:
        assert Coordinate.parse(str(made)) == made


paths = st.binary(max_size=40) | st.text(
    st.sampled_from("a.%/|=:~\0\x7fé日\udc80\udcff"), max_size=40
)


@given(paths)
def test_every_path_has_a_valid_name(path):
    assert valid_name(name_from_path(path))
    assert valid_name(name_from_path(path, prefix="file:"))


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_different_paths_have_different_names(one, other):
    assume(one != other)
    assert name_from_path(one) != name_from_path(other)


@given(st.binary(min_size=1, max_size=40))
def test_a_short_name_gives_its_path_back(path):
    parts = name_from_path(path).replace(":", "/").split("%")
    raw = parts[0].encode() + b"".join(
        bytes.fromhex(part[:2]) + part[2:].encode() for part in parts[1:]
    )
    assert raw == path


@given(st.binary(min_size=1, max_size=8), st.integers(100, 2000))
def test_no_name_is_over_the_limit(unit, count):
    name = name_from_path(unit * count, prefix="file:")
    assert len(name.encode()) <= MAX_COMPONENT_BYTES
    Coordinate(name, "s")


@given(texts, texts, st.integers(0, 9), st.none() | texts, st.none() | texts)
def test_regions_that_are_equal_have_equal_digests_and_only_they(a, b, n, c, d):
    one = Region(entity=a, scope=c, clock=(n, 9))
    other = Region(entity=b, scope=d, clock=(n, 9))
    assert (one == other) == (one.digest() == other.digest())
    assert (one == other) == ((a, c) == (b, d))


# --- ids and kinds ----------------------------------------------------------------


@given(st.integers(0, 2**128 - 1))
def test_ids_round_trip_through_every_form(number):
    made = EventId(number)
    assert made.value == number
    assert EventId.parse(str(made)) == made
    assert EventId.from_bytes(made.bytes) == made
    assert len(str(made)) == len("event:") + 32


@given(st.text(st.sampled_from("0123456789abcdefABCDEFgx_+- ٣"), max_size=40))
def test_digits_are_an_id_exactly_where_they_are_hexadecimal(digits):
    bare = digits.removeprefix("+")
    fits = bare and all(c in "0123456789abcdefABCDEF" for c in bare) and int(bare, 16) < 2**128
    try:
        made = EventId.parse(f"event:{digits}")
    except IdError:
        assert not fits
        return
    assert fits
    assert made.value == int(bare, 16)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_operations_that_differ_have_different_keys(one, other):
    assert (operation_key("d", *one) == operation_key("d", *other)) == (one == other)


@given(st.integers(0, 0xFFFF))
def test_kinds_round_trip(raw):
    kind = EventKind.from_raw(raw)
    assert (kind.category << 12 | kind.type_id) == kind.raw == raw
    assert int(str(kind), 16) == raw
    assert decode(encode(kind), EventKind) is kind
