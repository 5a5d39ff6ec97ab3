"""The canonical form: the published bytes, what is refused and where, and strict reading.

The vectors are those of docs/canonical, "Vectors"; the bytes there and here are one list.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import struct
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pytest

from batpak.canonical import MAX_DEPTH, codec_for, decode, encode, sort_keys
from batpak.coordinate import Coordinate  # noqa: F401  # docs/canonical names it
from batpak.errors import CanonicalError
from batpak.ids import EventId
from batpak.kinds import EventKind


class Za(msgspec.Struct):
    z: int
    a: int


class Empty(msgspec.Struct):
    pass


class Skips(msgspec.Struct):
    a: int
    b: int | msgspec.UnsetType = msgspec.UNSET
    c: int = 3


class A(msgspec.Struct, tag_field="t", tag="A"):
    x: int


class B(msgspec.Struct, tag_field="t", tag="B"):
    pass


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 300


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


class Pair(msgspec.Struct):
    left: int
    right: str


Point = namedtuple("Point", "x y")

HEADERS = [
    (127, "7f"),
    (128, "cc80"),
    (255, "ccff"),
    (256, "cd0100"),
    (65535, "cdffff"),
    (65536, "ce00010000"),
    (4294967295, "ceffffffff"),
    (4294967296, "cf0000000100000000"),
    (2**53 - 1, "cf001fffffffffffff"),
    (2**64 - 1, "cf" + "ff" * 8),
    (-1, "ff"),
    (-32, "e0"),
    (-33, "d0df"),
    (-128, "d080"),
    (-129, "d1ff7f"),
    (-32768, "d18000"),
    (-32769, "d2ffff7fff"),
    (-(2**31), "d280000000"),
    (-(2**31) - 1, "d3ffffffff7fffffff"),
    (-(2**63), "d38000000000000000"),
    (200, "ccc8"),
    (300, "cd012c"),
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (1.0, "cb3ff0000000000000"),
    (-0.0, "cb8000000000000000"),
    (math.nan, "cb7ff8000000000000"),
    (math.inf, "cb7ff0000000000000"),
]
VALUES = [
    ({"z": 1, "a": 2}, "82a17a01a16102"),
    (Za(1, 2), "82a17a01a16102"),
    ({}, "80"),
    (Empty(), "80"),
    ([], "90"),
    ((7, "x"), "9207a178"),
    (Point(7, "x"), "9207a178"),
    ("é", "a2c3a9"),
    ([0x80, 0xFF], "92cc80ccff"),
    ([0xFF] * 32, "dc0020" + "ccff" * 32),
    (b"\x80\xff", "c40280ff"),
    (bytearray(b"\x80"), "c40180"),
    (memoryview(b"\x80"), "c40180"),
    (UUID(int=2**128 - 1), "c410" + "ff" * 16),
    (EventId(2**128 - 1), "c410" + "ff" * 16),
    ([EventId(1)], "91c410" + "00" * 15 + "01"),
    (EventKind(0xF, 1), "cdf001"),
    ({"Tu": [1, 2]}, "81a25475920102"),
    ({"NewT": 5}, "81a44e65775405"),
    ({"St": Za(1, 2)}, "81a2537482a17a01a16102"),
    ("Plain", "a5506c61696e"),
    (A(1), "82a174a141a17801"),
    (B(), "81a174a142"),
    ({"secs": 1, "nanos": 2}, "82a47365637301a56e616e6f7302"),
    (Skips(1), "82a16101a16303"),
    (Skips(1, 2), "83a16101a16202a16303"),
    ({"a": 1, "b": None}, "82a16101a162c0"),
    (Colour.RED, "a3726564"),
    (Level.HIGH, "cd012c"),
    (Bits.ONE | Bits.TWO, "03"),
    (Decimal("1.50"), "a4312e3530"),
    (datetime(1970, 1, 1, tzinfo=UTC), "00"),
    (datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC), "ce000f4245"),
    (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "00"),
    (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "ff"),
    ({1: "a", -1: "b", "1": "c"}, "8301a161ffa162a131a163"),
    ({Colour.RED: 1}, "81a372656401"),
    (OrderedDict(b=1, a=2), "82a16201a16102"),
    (defaultdict(int, a=1), "81a16101"),
]


@pytest.mark.parametrize(("value", "expected"), HEADERS + VALUES)
def test_values_have_their_published_bytes(value, expected):
    assert encode(value).hex() == expected


def test_the_vectors_of_the_page_are_the_bytes():
    page = (Path(__file__).parent.parent.parent / "docs" / "canonical.md").read_text("utf-8")
    section = page.split("\n## Vectors\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([^`]+)` \| `([0-9a-f]+)`( and the \w+)? \|$", section)
    assert len(rows) > 50
    for source, expected, more in rows:
        raw = encode(eval(source)).hex()
        assert (raw[: len(expected)] if more else raw) == expected, source


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lambda n: "x" * n, {31: "bf", 32: "d920", 255: "d9ff", 256: "da0100", 65535: "daffff",
                             65536: "db00010000"}),
        (bytes, {0: "c400", 255: "c4ff", 256: "c50100", 65536: "c600010000"}),
        (lambda n: [0] * n, {15: "9f", 16: "dc0010", 65536: "dd00010000"}),
        (lambda n: dict.fromkeys(range(n)), {15: "8f", 16: "de0010", 65536: "df00010000"}),
    ],
    ids=["str", "bin", "array", "map"],
)  # fmt: skip
def test_headers_are_the_shortest(make, sizes):
    for size, header in sizes.items():
        value = make(size)
        raw = encode(value)
        assert raw.hex().startswith(header)
        assert decode(raw, strict=True) == value


def test_nan_keeps_its_bits():
    odd = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    assert encode(odd).hex() == "cb7ff8000000000123"
    assert struct.pack(">d", decode(encode(odd), strict=True)).hex() == "7ff8000000000123"


def test_sort_keys_orders_by_utf8_bytes_at_every_level():
    value = sort_keys({"b": 1, "a": 1, "B": [{"z": 1, "y": 1}], "é": 1, "10": 1, "9": 1})
    assert list(value) == ["10", "9", "B", "a", "b", "é"]
    assert list(value["B"][0]) == ["y", "z"]
    # UTF-16 would put the first one last.
    assert list(sort_keys({"\uffff": 1, "\U00010000": 1})) == ["\uffff", "\U00010000"]
    with pytest.raises(CanonicalError):
        sort_keys({1: 2})


# --- refusals ------------------------------------------------------------------

LOOP: list[Any] = []
LOOP.append(LOOP)


@dataclasses.dataclass
class HoldsSet:
    tags: set[int]


REFUSED = [
    ({1, 2}, "set"),
    (frozenset(), "frozenset"),
    (timedelta(1), "timedelta"),
    (date(2020, 1, 1), "date"),
    (time(1), "time"),
    (1j, "complex"),
    (datetime(2020, 1, 1), "time zone"),  # noqa: DTZ001  # it is naive on purpose
    (2**64, "above 2"),
    (-(2**63) - 1, "below -2"),
    ("\ud800", "surrogate"),
    ("ok\udfff", "character 2"),
    ({1.5: 1}, "float"),
    ({b"a": 1}, "bytes"),
    ({math.nan: 1}, "NaN"),
    ({True: 1}, "bool"),
    ({None: 1}, "NoneType"),
    ({(1, 2): 1}, "tuple"),
    ({"\ud800": 1}, "surrogate"),
    ({2**64: 1}, "64"),
    ({Colour.RED: 1, "red": 2}, "one canonical form"),
    (object(), "object"),
    (Colour, "EnumType"),
    (Fraction(1, 2), "Fraction"),
    (msgspec.Raw(b"\x01"), "Raw"),
    (msgspec.msgpack.Ext(1, b"x"), "Ext"),
    (iter([1]), "iterator"),
    (HoldsSet({1}), "set"),
    (msgspec.UNSET, "UnsetType"),
]


@pytest.mark.parametrize(("value", "says"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_has_no_rule_is_refused_with_its_place(value, says):
    with pytest.raises(CanonicalError, match=says) as caught:
        encode({"a": [0, value]})
    assert caught.value.path.startswith("$['a'][1]")
    assert caught.value.advice
    with pytest.raises(CanonicalError):
        encode(value)


def test_array_like_and_default_omitting_structs_are_refused():
    class Positional(msgspec.Struct, array_like=True):
        x: int

    class Omitting(msgspec.Struct, omit_defaults=True):
        x: int = 1000

    for value in (Positional(1), Omitting()):
        with pytest.raises(CanonicalError):
            encode(value)
        with pytest.raises(CanonicalError):
            codec_for(type(value))


def nest(depth: int, value: Any = 0) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_ends_at_the_same_depth_both_ways():
    deepest = encode(nest(MAX_DEPTH))
    assert decode(deepest) == nest(MAX_DEPTH)
    assert decode(deepest, strict=True) == nest(MAX_DEPTH)
    assert decode(encode(nest(MAX_DEPTH - 1, []))) == nest(MAX_DEPTH - 1, [])
    for value in (nest(MAX_DEPTH + 1), nest(MAX_DEPTH, []), nest(MAX_DEPTH, {}), LOOP):
        with pytest.raises(CanonicalError, match="deep"):
            encode(value)
    for raw in (b"\x91" * 129 + b"\x00", b"\x91" * 128 + b"\x90", b"\x91" * 128 + b"\x80"):
        for strict in (False, True):
            with pytest.raises(CanonicalError, match="deep") as caught:
                decode(raw, strict=strict)
            assert caught.value.offset == 128
    with pytest.raises(CanonicalError, match="deep"):
        decode(b"\x91" * 100_000 + b"\x00")
    with pytest.raises(CanonicalError, match="deep"):
        decode(b"\x81\xa1x" * 100_000 + b"\x00", dict[str, Any])


def test_width_is_no_depth():
    wide = [[n] for n in range(1000)]
    assert decode(encode(wide)) == wide
    text = ["é" * 300, b"\x91" * 300]
    assert decode(encode(text)) == text


@pytest.mark.parametrize("head", ["c6ffffffff", "dbffffffff", "ddffffffff", "dfffffffff"])
def test_a_claimed_size_allocates_nothing(head):
    for wanted in (None, tuple[int, ...], dict[str, int], list[Any], bytes, str):
        with pytest.raises(CanonicalError):
            decode(bytes.fromhex(head), wanted)
    with pytest.raises(CanonicalError):
        decode(b"\x81" + bytes.fromhex(head))


# --- tolerant and strict reading --------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("cc05", 5),
        ("cf0000000000000005", 5),
        ("d005", 5),
        ("d3ffffffffffffffff", -1),
        ("d90161", "a"),
        ("da000161", "a"),
        ("dc000101", [1]),
        ("de0001a16101", {"a": 1}),
        ("ca3fc00000", 1.5),
        ("c5000161", b"a"),
        ("82a16101a16102", {"a": 2}),
    ],
)
def test_longer_forms_are_read_but_not_in_an_audit(raw, value):
    data = bytes.fromhex(raw)
    assert decode(data) == value
    assert decode(memoryview(data)) == value
    with pytest.raises(CanonicalError) as caught:
        decode(data, strict=True)
    assert caught.value.offset is not None


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        ("", 0),
        ("c1", 0),
        ("0102", 1),
        ("9101c0", 2),
        ("92", 1),
        ("9201", 2),
        ("a261", 0),
        ("91a1ff", 2),
        ("c403ffff", 0),
        ("cd01", 0),
        ("81a161", 3),
        ("d40161", 0),
        ("c7010161", 0),
        ("91d6ff", 1),
    ],
)
def test_bytes_that_are_no_value_are_refused_at_their_offset(raw, offset):
    with pytest.raises(CanonicalError) as caught:
        decode(bytes.fromhex(raw), strict=True)
    assert caught.value.offset == offset
    with pytest.raises(CanonicalError):
        decode(bytes.fromhex(raw))


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        ("82a16101a16102", 4),  # one key twice
        ("81c001", 1),  # nil as a key
        ("81c4016101", 1),  # bytes as a key
        ("81cb3ff000000000000001", 1),  # float as a key
        ("92cc0501", 1),
        ("91d90161", 1),
        ("91c5000161", 1),
        ("91d0df", None),  # the shortest form of -33: canonical
    ],
)
def test_strict_reading_points_at_the_first_fault(raw, offset):
    data = bytes.fromhex(raw)
    if offset is None:
        assert encode(decode(data, strict=True)) == data
        return
    with pytest.raises(CanonicalError) as caught:
        decode(data, strict=True)
    assert caught.value.offset == offset


def test_a_timestamp_extension_is_read_as_an_instant_but_not_in_an_audit():
    data = msgspec.msgpack.encode(datetime(2020, 1, 1, tzinfo=UTC))
    assert decode(data) == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(CanonicalError):
        decode(data, strict=True)


@pytest.mark.parametrize("data", [None, "a", 5, [1]])
def test_only_bytes_are_read(data):
    with pytest.raises(CanonicalError):
        decode(data)


# --- typed values ------------------------------------------------------------------


class Inner(msgspec.Struct, frozen=True):
    n: int


@attrs.frozen
class Attr:
    n: int
    name: str = "x"


@dataclasses.dataclass
class Plain:
    b: int
    a: str = "a"


class Typed(TypedDict):
    b: int
    a: NotRequired[str]


class Everything(msgspec.Struct, frozen=True):
    i: int
    f: float
    s: str
    flag: bool
    raw: bytes
    maybe: int | None
    when: datetime
    uid: UUID
    amount: Decimal
    colour: Colour
    level: Level
    inner: Inner
    ints: list[int]
    inners: list[Inner]
    pair: tuple[int, str]
    many: tuple[float, ...]
    by_name: dict[str, int]
    by_number: dict[int, Inner]
    by_colour: dict[Colour, int]
    literal: Literal["on", "off"]
    either: int | str | None
    event: EventId
    kind: EventKind
    plain: Plain
    attr: Attr
    typed: Typed
    tagged: A | B
    anything: Any
    array: bytearray


SAMPLE = Everything(
    i=-5,
    f=1.0,
    s="é",
    flag=True,
    raw=b"\x00\xff",
    maybe=None,
    when=datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC),
    uid=UUID(int=77),
    amount=Decimal("-1.50"),
    colour=Colour.RED,
    level=Level.HIGH,
    inner=Inner(1),
    ints=[1, 2],
    inners=[Inner(2), Inner(3)],
    pair=(1, "b"),
    many=(1.5, 2.5),
    by_name={"z": 1, "a": 2},
    by_number={5: Inner(5), -1: Inner(6)},
    by_colour={Colour.RED: 1},
    literal="off",
    either="text",
    event=EventId(9),
    kind=EventKind(1, 2),
    plain=Plain(1),
    attr=Attr(2),
    typed={"b": 1, "a": "q"},
    tagged=A(4),
    anything={"deep": [1, b"x", None]},
    array=bytearray(b"q"),
)


def test_every_field_type_comes_back_as_it_was():
    raw = encode(SAMPLE)
    assert decode(raw, Everything) == SAMPLE
    assert decode(raw, Everything, strict=True) == SAMPLE
    for field in Everything.__struct_fields__:
        back = getattr(decode(raw, Everything), field)
        assert type(back) is type(getattr(SAMPLE, field)), field


def test_a_class_is_a_map_of_its_fields_in_order():
    plain = decode(encode(SAMPLE))
    assert list(plain) == list(Everything.__struct_fields__)
    assert plain["when"] == 1714979289000010
    assert plain["uid"] == UUID(int=77).bytes
    assert plain["amount"] == "-1.50"
    assert plain["f"] == 1.0
    assert plain["tagged"] == {"t": "A", "x": 4}


def test_the_quick_way_and_the_slow_way_write_the_same_bytes():
    class Quick(msgspec.Struct):
        i: int
        f: float
        names: list[str]
        inner: Inner
        table: dict[str, int]
        maybe: str | None
        literal: Literal[1, "a"]
        ids: list[EventId]
        inners: list[Inner]
        colour: Colour
        amount: Decimal
        uid: UUID

    value = Quick(
        1, 2.0, ["a"], Inner(1), {"b": 1}, None, "a", [EventId(1)], [Inner(2)],
        Colour.RED, Decimal(1), UUID(int=1),
    )  # fmt: skip
    # `encode` walks every value; the codec leaves this one to msgspec.
    assert codec_for(Quick).encode(value) == encode(value)


@attrs.define
class Slotted:
    z: int
    b: int
    a: int = 0


@attrs.define(slots=False)
class Open:
    z: int
    _private: int
    a: int = 0


class HoldsObjects(msgspec.Struct):
    plain: Plain
    slotted: Slotted
    open: Open


def test_objects_are_written_by_their_declaration_whatever_else_they_hold():
    plain, slotted, loose = Plain(1), Slotted(1, 2), Open(1, 2)
    plain.extra = loose.extra = 5
    backwards = Open.__new__(Open)
    backwards.a, backwards._private, backwards.z = 0, 2, 1
    forms = {
        Plain: {"b": 1, "a": "a"},
        Slotted: {"z": 1, "b": 2, "a": 0},
        Open: {"z": 1, "_private": 2, "a": 0},
    }
    for value in (plain, slotted, loose, backwards):
        expected = encode(forms[type(value)])
        assert codec_for(type(value)).encode(value) == expected
        assert encode(value) == expected
    holder = HoldsObjects(plain, slotted, loose)
    expected = encode(dict(zip(("plain", "slotted", "open"), forms.values(), strict=True)))
    assert codec_for(HoldsObjects).encode(holder) == expected


class QuickFields(msgspec.Struct):
    n: int = 0
    f: float = 0.0
    s: str = ""
    items: list[int] = []
    names: dict[str, int] = {}
    inner: Inner = Inner(0)
    raw: bytes = b""
    literal: Literal["a", 1] = "a"
    many: list[Inner] = []
    number: int | float = 0


class Fields(QuickFields):
    # A datetime is never left to msgspec, and neither is a class that holds one.
    when: datetime | None = None
    pair: tuple[int, int] = (0, 0)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("n", "1", "$.n"),
        ("n", True, "$.n"),
        ("n", None, "$.n"),
        ("n", msgspec.UNSET, "$.n"),
        ("n", 1.0, "$.n"),
        ("n", 2**64, "$.n"),
        ("f", "1", "$.f"),
        ("f", True, "$.f"),
        ("f", 2**53 + 1, "$.f"),
        ("f", 10**400, "$.f"),
        ("s", b"x", "$.s"),
        ("s", "\ud800", "$.s"),
        ("s", timedelta(1), "$.s"),
        ("s", Decimal(1), "$.s"),
        ("items", {1, 2}, "$.items"),
        ("items", "12", "$.items"),
        ("items", [1, "2"], "$.items[1]"),
        ("items", [2**64], "$.items[0]"),
        ("names", {1: 1}, "$.names[1]"),
        ("names", {"a": "b"}, "$.names['a']"),
        ("names", [1], "$.names"),
        ("pair", (1, 2, 3), "$.pair"),
        ("pair", (1, "2"), "$.pair[1]"),
        ("inner", {"n": 1}, "$.inner"),
        ("inner", Inner("x"), "$.inner.n"),
        ("when", datetime(2020, 1, 1), "$.when"),  # noqa: DTZ001  # it is naive on purpose
        ("when", 5, "$.when"),
        ("raw", "x", "$.raw"),
        ("raw", [1], "$.raw"),
        ("literal", "b", "$.literal"),
        ("literal", True, "$.literal"),
        ("many", [Inner(1), Inner(None)], "$.many[1].n"),
        ("many", [Inner(1), Plain(1)], "$.many[1]"),
        ("literal", 1.0, "$.literal"),
        ("number", "1", "$.number"),
    ],
)
def test_a_value_of_another_type_than_declared_is_refused_at_its_field(field, value, path):
    for cls in (Fields, QuickFields):
        if field in cls.__struct_fields__:
            with pytest.raises(CanonicalError) as caught:
                codec_for(cls).encode(cls(**{field: value}))
            assert caught.value.path == path
            assert caught.value.advice


@pytest.mark.parametrize("cls", [Fields, QuickFields])
def test_an_integer_in_a_float_field_is_written_as_the_float_that_it_equals(cls):
    encode_one = codec_for(cls).encode
    assert encode_one(cls(f=3)) == encode_one(cls(f=3.0))
    assert encode_one(cls(number=3)) != encode_one(cls(number=3.0))


def test_a_field_without_a_value_is_refused():
    value = Plain.__new__(Plain)
    value.b = 1
    del value.b
    with pytest.raises(CanonicalError) as caught:
        codec_for(Plain).encode(value)
    assert caught.value.path == "$.b"


def test_a_codec_writes_its_own_class_only():
    class Child(Pair):
        pass

    for other in (Child(1, "a"), Za(1, 2), {"left": 1, "right": "a"}, None):
        with pytest.raises(CanonicalError):
            codec_for(Pair).encode(other)


def test_constraints_hold_when_writing_too():
    class Limited(msgspec.Struct):
        n: Annotated[int, msgspec.Meta(ge=1)]

    assert codec_for(Limited).encode(Limited(1)) == b"\x81\xa1n\x01"
    with pytest.raises(CanonicalError) as caught:
        codec_for(Limited).encode(Limited(0))
    assert caught.value.path == "$.n"


@pytest.mark.parametrize(
    "wanted",
    [
        set[int],
        frozenset[int],
        timedelta,
        date,
        time,
        complex,
        msgspec.Raw,
        memoryview,
        Point,
        Fraction,
        Bits,
        dict[float, int],
        dict[bytes, int],
        dict[bool, int],
        dict[tuple[int, int], int],
        int | datetime,
        bytes | str,
        list[int] | tuple[int, ...],
        Annotated[datetime, msgspec.Meta(tz=False)],
        list[dict[str, set[int]]],
        Plain | Inner,
        EventId | int,
    ],
    ids=str,
)
def test_types_without_a_rule_are_refused_before_any_value(wanted):
    with pytest.raises(CanonicalError):
        codec_for(wanted)
    with pytest.raises(CanonicalError):
        decode(b"\xc0", wanted)


def test_the_refusal_of_a_type_says_which_field():
    class Outer(msgspec.Struct):
        rows: list[dict[str, HoldsSet]]

    with pytest.raises(CanonicalError) as caught:
        codec_for(Outer)
    assert caught.value.path == "$.rows[][*].tags"


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


def test_classes_may_contain_themselves():
    tree = Node(1, [Node(2), Node(3, [Node(4)])])
    assert decode(encode(tree), Node) == tree
    deep = Node(0)
    for n in range(MAX_DEPTH):
        deep = Node(n, [deep])
    with pytest.raises(CanonicalError, match="deep"):
        codec_for(Node).encode(deep)
    raw = b"\x81\xa5value\x00"
    for _ in range(MAX_DEPTH):
        raw = b"\x82\xa5value\x00\xa8children\x91" + raw
    with pytest.raises(CanonicalError, match="deep"):
        decode(raw, Node)


class Reads(msgspec.Struct):
    n: int
    raw: bytes = b""
    when: datetime | None = None
    name: str = "default"


class Optionals(msgspec.Struct):
    a: int | None
    b: list[int] | None
    raw: bytes | None


def test_reading_tolerates_what_later_versions_change():
    data = encode({"later": [1, {"x": 2}], "raw": [1, 255], "n": 5})
    assert decode(data, Reads) == Reads(5, b"\x01\xff")
    assert decode(encode({}), Optionals) == Optionals(None, None, None)
    for fault, path in [
        ({"n": 1, "raw": [256]}, "$.raw"),
        ({"n": 1, "raw": "x"}, "$.raw"),
        ({"n": 1, "when": 2**63}, "$.when"),
        ({"n": 1, "when": "2020-01-01"}, "$.when"),
        ({"n": "1"}, "$.n"),
        ({"n": 1.0}, "$.n"),
        ({}, "$"),
        ([5], "$"),
    ]:
        with pytest.raises(CanonicalError) as caught:
            decode(encode(fault), Reads)
        assert caught.value.path == path, fault


def test_a_strict_typed_reading_accepts_only_what_the_class_writes():
    good = codec_for(Pair).encode(Pair(1, "a"))
    assert decode(good, Pair, strict=True) == Pair(1, "a")
    for other in ({"right": "a", "left": 1}, {"left": 1, "right": "a", "later": 1}):
        data = encode(other)
        assert decode(data, Pair) == Pair(1, "a")
        with pytest.raises(CanonicalError) as caught:
            decode(data, Pair, strict=True)
        assert caught.value.offset is not None


def test_generic_annotations_have_codecs_too():
    assert decode(encode([1, 2]), list[int]) == [1, 2]
    assert decode(encode([1, "a"]), tuple[int, str]) == (1, "a")
    assert decode(encode({"a": EventId(1)}), dict[str, EventId]) == {"a": EventId(1)}
    assert decode(encode("on"), Literal["on", "off"]) == "on"
    assert codec_for(list[int]) is codec_for(list[int])


def test_importing_needs_no_store_and_no_numpy():
    script = (
        "import sys, batpak.canonical, batpak.payloads, batpak.coordinate\n"
        "unwanted = {'numpy', 'attr', 'attrs', 'batpak.store', 'cryptography'}\n"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


class Shape:
    __canonical_family__ = True

    def __canonical__(self) -> Any:
        raise NotImplementedError

    @classmethod
    def __from_canonical__(cls, plain: Any) -> Shape:
        name, value = plain
        return {"circle": Circle, "square": Square}[name](value)


class Circle(Shape):
    def __init__(self, radius: Any) -> None:
        self.radius = radius

    def __canonical__(self) -> Any:
        return ["circle", self.radius]


class Square(Shape):
    def __init__(self, side: Any) -> None:
        self.side = side

    def __canonical__(self) -> Any:
        return ["square", self.side]


class Drawing(msgspec.Struct):
    shape: Shape
    more: list[Shape] = []


def test_a_family_is_declared_as_one_class_and_stored_as_its_variants():
    codec = codec_for(Drawing)
    raw = codec.encode(Drawing(Circle(2), [Square(3), Circle(4)]))
    assert decode(raw) == {"shape": ["circle", 2], "more": [["square", 3], ["circle", 4]]}
    back = codec.decode(raw)
    assert isinstance(back.shape, Circle)
    assert [type(one) for one in back.more] == [Square, Circle]
    assert codec.encode(back) == raw


def test_what_a_variant_holds_is_judged_like_any_value():
    codec = codec_for(Drawing)
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    assert decode(codec.encode(Drawing(Circle(moment))))["shape"] == ["circle", 1577836800000000]
    with pytest.raises(CanonicalError) as caught:
        codec.encode(Drawing(Circle(timedelta(1))))
    assert caught.value.path == "$.shape[1]"
    with pytest.raises(CanonicalError) as caught:
        codec.encode(Drawing(5))
    assert caught.value.path == "$.shape"
    deep: Any = 1
    for _ in range(126):
        deep = [deep]
    assert codec.decode(codec.encode(Drawing(Circle(deep)))).shape.radius == deep
    with pytest.raises(CanonicalError):
        codec.encode(Drawing(Circle([deep])))
    with pytest.raises(CanonicalError):
        codec.decode(msgspec.msgpack.encode({"shape": ["circle", [deep]], "more": []}))
