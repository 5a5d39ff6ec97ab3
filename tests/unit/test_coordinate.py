"""Coordinates and regions: which names are valid, which events a region means."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from batpak import canonical
from batpak.coordinate import MAX_COMPONENT_BYTES, Coordinate, Region, name_from_path
from batpak.errors import CanonicalError, CoordinateError, InvalidInput
from batpak.kinds import Category, EventKind
from batpak.payloads import isolated_registry, payload

GOLDEN = Path(__file__).parent.parent / "golden" / "core"
LONG = "x" * 1025


def test_a_coordinate_is_an_entity_and_a_scope():
    here = Coordinate("player:alice", "room:dungeon")
    assert (here.entity, here.scope) == ("player:alice", "room:dungeon")
    assert (here.entity_bytes, here.scope_bytes) == (b"player:alice", b"room:dungeon")
    assert str(here) == "player:alice@room:dungeon"
    assert repr(here) == "Coordinate('player:alice', 'room:dungeon')"
    assert here == Coordinate("player:alice", "room:dungeon")
    assert here != Coordinate("room:dungeon", "player:alice")
    assert here != ("player:alice", "room:dungeon")
    assert len({here, Coordinate("player:alice", "room:dungeon")}) == 1
    assert pickle.loads(pickle.dumps(here)) == here
    for name in ("entity", "entity_bytes", "other"):
        with pytest.raises(AttributeError):
            setattr(here, name, "x")
    with pytest.raises(AttributeError):
        del here.entity


# Each row breaks the rule it names and every later one, so the order is pinned too.
@pytest.mark.parametrize(
    ("entity", "scope", "reason", "field"),
    [
        (None, None, "not-text", "entity"),
        ("", b"s", "not-text", "scope"),
        ("", "", "empty-entity", "entity"),
        (LONG, "", "empty-scope", "scope"),
        (LONG, LONG, "entity-too-long", "entity"),
        ("a\0", LONG, "scope-too-long", "scope"),
        ("a\0\1/|", "s\0", "nul-byte", "entity"),
        ("a\1\0/|", "s\0", "control-char", "entity"),
        ("a\x7f/|", "s\0", "control-char", "entity"),
        ("a/|", "s\0", "path-traversal", "entity"),
        ("a..|", "s\0", "path-traversal", "entity"),
        ("a|", "s\0", "forbidden-separator", "entity"),
        ("a=", "s\0", "forbidden-separator", "entity"),
        ("a", "s\0\1/|", "nul-byte", "scope"),
        ("a", "s\1/|", "control-char", "scope"),
        ("a", "s/|", "path-traversal", "scope"),
        ("a", "..", "path-traversal", "scope"),
        ("a", "s|", "forbidden-separator", "scope"),
        ("a\ud800", "s", "surrogate", "entity"),
        ("a", "s\udfff", "surrogate", "scope"),
    ],
)
def test_the_first_broken_rule_is_named(entity, scope, reason, field):
    with pytest.raises(CoordinateError) as caught:
        Coordinate(entity, scope)
    assert caught.value.reason == reason
    assert caught.value.field == field
    assert caught.value.code == "coordinate"


def test_a_component_has_1024_bytes_of_utf8_at_most():
    assert MAX_COMPONENT_BYTES == 1024
    assert Coordinate("x" * 1024, "é" * 512).scope_bytes == "é".encode() * 512
    with pytest.raises(CoordinateError) as caught:
        Coordinate("x", "é" * 512 + "x")
    assert caught.value.reason == "scope-too-long"


@pytest.mark.parametrize("text", ["a b", "a@b", "*", "é\u0085日本", "a.b.", ".", "a:b::", "~%"])
def test_these_characters_are_allowed_on_purpose(text):
    assert Coordinate(text, text).entity == text


def test_every_byte_below_0x80_is_allowed_or_refused_as_written():
    refused = {chr(n) for n in (*range(0x20), 0x7F)} | set("/|=")
    for n in range(0x80):
        text = f"a{chr(n)}b"
        if chr(n) in refused:
            with pytest.raises(CoordinateError):
                Coordinate(text, "s")
        else:
            assert Coordinate(text, "s").entity == text


def test_dots_on_both_sides_of_the_two_parts_are_not_two_dots():
    assert str(Coordinate("a.", ".b")) == "a.@.b"


def test_parse_is_the_inverse_of_str_where_that_is_unambiguous():
    assert Coordinate.parse("a:b@c") == Coordinate("a:b", "c")
    for text, reason in [
        ("ab", "missing-at"),
        ("a@b@c", "ambiguous-at"),
        (None, "missing-at"),
        ("@b", "empty-entity"),
        ("a@", "empty-scope"),
        ("a/@b", "path-traversal"),
    ]:
        with pytest.raises(CoordinateError) as caught:
            Coordinate.parse(text)
        assert caught.value.reason == reason


def test_stored_bytes_are_checked_like_any_other():
    assert Coordinate.from_stored(b"a", "é".encode()) == Coordinate("a", "é")
    assert Coordinate.from_stored(memoryview(b"a"), bytearray(b"b")) == Coordinate("a", "b")
    for entity, reason in [
        (b"\xff", "not-utf-8"),
        (b"", "empty-entity"),
        (b"a/", "path-traversal"),
    ]:
        with pytest.raises(CoordinateError) as caught:
            Coordinate.from_stored(entity, b"s")
        assert caught.value.reason == reason


def test_the_canonical_form_is_the_published_one():
    golden = bytes.fromhex((GOLDEN / "coordinate_v1.hex").read_text())
    here = Coordinate("entity:test", "scope:test")
    assert canonical.encode(here) == golden
    assert canonical.decode(golden, Coordinate) == here
    assert canonical.decode(golden, Coordinate, strict=True) == here
    for plain in ({"entity": "a/b", "scope": "s"}, {"entity": "a"}, ["a", "s"], {}):
        with pytest.raises(CanonicalError):
            canonical.decode(canonical.encode(plain), Coordinate)


# --- regions -----------------------------------------------------------------


@dataclass
class Seen:
    entity: str = "player:alice"
    scope: str = "room"
    kind: EventKind = EventKind(1, 2)  # noqa: RUF009  # it is immutable
    clock: int = 5

    @property
    def coordinate(self) -> Coordinate:
        return Coordinate(self.entity, self.scope)


@pytest.mark.parametrize(
    ("prefix", "name", "expected"),
    [
        ("alice", "alice", True),
        ("alice", "alice:x", True),
        ("alice", "alice:x:y", True),
        ("alice", "alice2", False),
        ("alice", "alice-prod", False),
        ("alice", "alic", False),
        ("alice", "аlice", False),
        ("alice", "Alice", False),
        ("alpha:a", "alpha:a:child", True),
        ("alpha:a", "alpha:aa", False),
        ("order:*", "order:1", False),
        ("", "x", False),
        ("", ":x", True),
        ("a:", "a:b", False),
        ("a:", "a::b", True),
        ("a:", "a:", True),
    ],
)
def test_an_entity_means_itself_and_everything_below(prefix, name, expected):
    assert Region(entity=prefix).matches(Seen(entity=name)) is expected


def test_a_scope_is_exact():
    assert Region(scope="room").matches(Seen())
    assert not Region(scope="roo").matches(Seen())
    assert not Region(scope="room").matches(Seen(scope="room:x"))


def test_a_kind_is_exact_or_a_category():
    assert Region(kind=EventKind(1, 2)).matches(Seen())
    assert not Region(kind=EventKind(1, 3)).matches(Seen())
    assert Region(kind=Category(1)).matches(Seen())
    assert not Region(kind=Category(2)).matches(Seen())
    # 0x000F is a kind of category 0, not category 15.
    assert not Region(kind=Category(0xF)).matches(Seen(kind=EventKind.from_raw(0xF)))


def test_a_payload_class_stands_for_its_kind():
    with isolated_registry():

        @payload(category=0xE, type_id=0x301)
        class Moved:
            x: int

        assert Region(kind=Moved).kind == EventKind(0xE, 0x301)

        class Sub(Moved):
            pass

        with pytest.raises(InvalidInput) as caught:
            Region(kind=Sub)
        assert caught.value.field == "kind"


def test_a_clock_range_includes_both_ends():
    assert [n for n in range(10) if Region(clock=(3, 5)).matches(Seen(clock=n))] == [3, 4, 5]
    assert not Region(clock=(5, 3)).matches(Seen(clock=4))
    assert Region(clock=[0, 2**32 - 1]).clock == (0, 2**32 - 1)


def test_all_axes_must_hold():
    region = Region("player", "room", EventKind(1, 2), (5, 5))
    assert region.matches(Seen())
    for other in (Seen(entity="p"), Seen(scope="r"), Seen(kind=EventKind(1, 3)), Seen(clock=6)):
        assert not region.matches(other)
        assert Region.all().matches(other)


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("entity", 5),
        ("entity", b"a"),
        ("entity", "\ud800"),
        ("scope", 5),
        ("scope", "\udfff"),
        ("kind", 0x1000),
        ("kind", int),
        ("kind", "DATA"),
        ("clock", 5),
        ("clock", (1,)),
        ("clock", (1, 2, 3)),
        ("clock", (-1, 2)),
        ("clock", (0, 2**32)),
        ("clock", (0, 1.0)),
        ("clock", (False, True)),
        ("clock", "01"),
    ],
)
def test_axes_of_other_types_are_refused(axis, value):
    with pytest.raises(InvalidInput) as caught:
        Region(**{axis: value})
    assert caught.value.field == axis


def test_replace_exchanges_and_removes_axes():
    region = Region(entity="a", scope="s", clock=(1, 2))
    assert region.replace(scope=None, kind=Category(3)) == Region(
        entity="a", kind=Category(3), clock=(1, 2)
    )
    with pytest.raises(InvalidInput):
        region.replace(lane=1)
    with pytest.raises(AttributeError):
        region.entity = "b"
    assert pickle.loads(pickle.dumps(region)) == region
    assert repr(region) == "Region(entity='a', scope='s', clock=(1, 2))"
    assert repr(Region()) == "Region.all()"


def test_digests_differ_wherever_regions_do():
    regions = [
        Region(),
        Region(entity="*"),
        Region(scope="*"),
        Region(entity=""),
        Region(entity="a|scope=b"),
        Region(entity="a", scope="b"),
        Region(kind=Category(0xF)),
        Region(kind=EventKind.from_raw(0xF)),
        Region(kind=EventKind(1, 2)),
        Region(clock=(0, 9)),
        Region(clock=(9, 0)),
    ]
    assert len({region.digest() for region in regions}) == len(set(regions)) == len(regions)
    assert Region(entity="a").digest() == Region(entity="a").digest()


def test_the_digest_is_the_hash_of_a_map_that_anybody_can_write():
    region = Region(entity="player", kind=EventKind(0xF, 1), clock=(0, 9))
    entity = b"\xa6entity\xa6player"
    scope = b"\xa5scope\xc0"
    kind = b"\xa4kind\x81\xa5exact\xcd\xf0\x01"
    clock = b"\xa5clock\x92\x00\x09"
    assert region.digest() == blake3(b"\x84" + entity + scope + kind + clock).digest()


# --- names from paths ----------------------------------------------------------

VECTORS = [
    ("src/batpak/ids.py", "src:batpak:ids.py"),
    ("a b@c", "a b@c"),
    ("100%", "100%25"),
    ("a|b=c:d", "a%7Cb%3Dc%3Ad"),
    ("a\tb\x7f\0", "a%09b%7F%00"),
    ("é/日本", "é:日本"),
    ("a..b", "a.%2Eb"),
    ("../x", ".%2E:x"),
    ("...", ".%2E."),
    ("....", ".%2E.%2E"),
    (".", "."),
    ("/", ":"),
    ("", "%"),
    (b"caf\xe9", "caf%E9"),
    (b"caf\xc3\xa9", "café"),
    (b"\xf0\x9f\x98", "%F0%9F%98"),
    (b"\xed\xa0\x80", "%ED%A0%80"),
    ("caf\udce9", "caf%E9"),
    ("\ud800", "%ED%A0%80"),
    ("\ud800\udce9", "%ED%A0%80%E9"),
    ("c1\u0085", "c1\u0085"),
]


@pytest.mark.parametrize(("path", "name"), VECTORS)
def test_paths_become_these_names(path, name):
    assert name_from_path(path) == name
    assert name_from_path(path, prefix="file:") == f"file:{name}"
    assert Coordinate(name, "s").entity == name


def test_a_folder_is_a_region():
    inside = name_from_path("src/batpak/ids.py", prefix="file:")
    beside = name_from_path("src2/x", prefix="file:")
    folder = Region(entity="file:src")
    assert folder.matches(Seen(entity=inside))
    assert not folder.matches(Seen(entity=beside))


def test_long_names_end_in_a_digest_of_the_whole():
    longest = name_from_path("x" * 1024)
    assert longest == "x" * 1024
    whole = "x" * 1025
    digest = blake3(whole.encode()).hexdigest()[:16]
    assert name_from_path(whole) == "x" * 1007 + "~" + digest


def test_the_limit_counts_the_prefix():
    assert name_from_path("x" * 1019, prefix="file:") == "file:" + "x" * 1019
    whole = "file:" + "x" * 1020
    digest = blake3(whole.encode()).hexdigest()[:16]
    assert name_from_path("x" * 1020, prefix="file:") == whole[:1007] + "~" + digest


@pytest.mark.parametrize("unit", ["é", "日", "😀", "%", "a%", "aa%", "é%"])
@pytest.mark.parametrize("shift", range(5))
def test_no_character_and_no_escape_is_cut_in_two(unit, shift):
    path = "y" * shift + unit * 1024
    name = name_from_path(path)
    raw = name.encode()
    assert 1024 - 3 <= len(raw) <= 1024
    assert raw[-17:-16] == b"~"
    start = name[:-17]
    assert ("y" * shift + unit.replace("%", "%25") * 1024).startswith(start)
    assert start.count("%") == start.count("%25")
    Coordinate(name, "s")


def test_long_names_that_differ_late_are_different():
    assert name_from_path("x" * 2000 + "a") != name_from_path("x" * 2000 + "b")


def test_a_prefix_that_no_name_can_have_is_refused():
    for prefix, reason in [("a/", "path-traversal"), ("x" * 513, "prefix-too-long")]:
        with pytest.raises(CoordinateError) as caught:
            name_from_path("x", prefix=prefix)
        assert caught.value.reason == reason
    assert name_from_path(".x", prefix="a.") == "a.%2Ex"
    with pytest.raises(CoordinateError):
        name_from_path(5)


@pytest.mark.parametrize("prefix", [None, 5, b"a:"])
def test_a_prefix_that_is_no_text_is_refused_by_name(prefix):
    with pytest.raises(CoordinateError) as caught:
        name_from_path("x", prefix)
    assert caught.value.facts["field"] == "prefix"
