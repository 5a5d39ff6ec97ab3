"""Payload classes: what can be one, what versions do, and what the registry refuses."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import pickle
import sys
import threading
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest

from batpak import canonical
from batpak.errors import (
    CanonicalError,
    DecodeError,
    DecodeFailed,
    FutureVersion,
    KindCollision,
    KindError,
    PayloadDefinitionError,
    ReservedKind,
    UpcastError,
    UpcastGap,
)
from batpak.kinds import EventKind
from batpak.payloads import (
    binding_of,
    check_registry,
    collisions,
    isolated_registry,
    lookup_kind,
    lookup_type,
    payload,
    set_collision_policy,
    upcast,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "core" / "payloads"


@pytest.fixture(autouse=True)
def empty_registry():
    with isolated_registry():
        yield


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


# --- accepted classes ---------------------------------------------------------


def plain_class() -> type[Any]:
    @payload(category=0xE, type_id=0x300)
    class Moved:
        x: int
        y: int = 0

    return Moved


def struct_class() -> type[Any]:
    @payload(category=0xE, type_id=0x300)
    class Moved(msgspec.Struct):
        x: int
        y: int = 0

    return Moved


def data_class() -> type[Any]:
    @payload(category=0xE, type_id=0x300)
    @dataclasses.dataclass
    class Moved:
        x: int
        y: int = 0

    return Moved


def slotted_data_class() -> type[Any]:
    @payload(category=0xE, type_id=0x300)
    @dataclasses.dataclass(frozen=True, slots=True)
    class Moved:
        x: int
        y: int = 0

    return Moved


def attrs_class() -> type[Any]:
    @payload(category=0xE, type_id=0x300)
    @attrs.define
    class Moved:
        x: int
        y: int = 0

    return Moved


@pytest.mark.parametrize(
    "define", [plain_class, struct_class, data_class, slotted_data_class, attrs_class]
)
def test_classes_of_every_style_have_one_form(define):
    cls = define()
    binding = binding_of(cls)
    assert binding is not None
    assert binding is lookup_type(cls) is binding_of(cls(x=1)) is lookup_kind(0xE300)
    assert (binding.cls, binding.kind, binding.version) == (cls, EventKind(0xE, 0x300), 1)
    assert (cls.__batpak_kind__, cls.__batpak_version__) == (EventKind(0xE, 0x300), 1)
    raw = binding.encode(cls(x=10, y=20))
    assert raw.hex() == "82a1780aa17914"
    assert binding.decode(raw, 1) == cls(x=10, y=20)
    assert binding.decode(raw, 0) == cls(x=10, y=20)
    assert binding.decode(memoryview(raw), 1) == cls(x=10, y=20)


def test_a_plain_class_becomes_a_frozen_value_that_keeps_what_it_had():
    @payload(category=0xE, type_id=0x301)
    class Moved:
        """Where somebody went."""

        x: int
        y: int = 7
        LIMIT = 5

        @property
        def total(self) -> int:
            return self.x + self.y

        @classmethod
        def origin(cls) -> Any:
            return cls(x=0, y=0)

    value = Moved(x=1)
    assert (value.x, value.y, value.total, Moved.LIMIT) == (1, 7, 8, 5)
    assert Moved.origin() == Moved(x=0, y=0)
    assert value != Moved(x=2)
    assert len({value, Moved(x=1)}) == 1
    assert repr(value) == "Moved(x=1, y=7)"
    assert Moved.__doc__ == "Where somebody went."
    assert Moved.__module__ == __name__
    with pytest.raises(AttributeError):
        value.x = 2


@payload(category=0xE, type_id=0x3FF)
class AtModuleLevel:
    x: int


def test_values_of_plain_classes_can_be_pickled():
    assert pickle.loads(pickle.dumps(AtModuleLevel(x=3))) == AtModuleLevel(x=3)


def test_an_empty_class_is_an_empty_map():
    @payload(category=0xE, type_id=0x302)
    class Ping:
        pass

    binding = binding_of(Ping)
    assert binding.encode(Ping()) == b"\x80"
    assert binding.decode(b"\x80", 1) == Ping()


def test_fields_of_a_base_come_first():
    class Base(msgspec.Struct, frozen=True):
        first: int

    @payload(category=0xE, type_id=0x303)
    class Derived(Base, frozen=True):
        second: int

    assert list(canonical.decode(binding_of(Derived).encode(Derived(1, 2)))) == ["first", "second"]


# --- golden bytes ---------------------------------------------------------------


def test_the_frozen_payload_of_version_1_still_reads():
    @payload(category=0xE, type_id=0xC01)
    class Paid:
        amount: int
        note: str

    raw = golden("e_c01__v1.hex")
    binding = binding_of(Paid)
    assert binding.encode(Paid(amount=100, note="hello")) == raw
    assert binding.decode(raw, 1) == Paid(amount=100, note="hello")
    assert len(raw) == 20


def test_the_frozen_payload_of_version_1_becomes_version_2():
    @payload(category=0xE, type_id=0xC02, version=2)
    class Counted:
        total: int
        label: str

    @upcast(Counted, from_version=1)
    def rename(value: dict[str, Any]) -> dict[str, Any]:
        return {"total": value["count"], "label": "legacy"}

    raw = golden("e_c02__v1.hex")
    assert binding_of(Counted).decode(raw, 1) == Counted(total=7, label="legacy")
    check_registry()


# --- refusals at definition ------------------------------------------------------


class MixedEnum(enum.Enum):
    NUMBER = 1
    TEXT = "text"


class SomeEnum(enum.Enum):
    A = 1


class SomeTuple(NamedTuple):
    x: int


class SomeDict(TypedDict):
    x: int


V = TypeVar("V")


class SomeGeneric(msgspec.Struct, Generic[V]):
    x: V


class PlainGeneric(Generic[V]):
    x: int


class WithInit:
    def __init__(self, x: int) -> None:
        self.x = x


class HoldsSet:
    tags: set[int]


class HoldsNaive:
    rows: dict[str, list[complex]]


class Forbids(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class HoldsForbids:
    inner: Forbids


class Positional(msgspec.Struct, array_like=True):
    x: int


class Omits(msgspec.Struct, omit_defaults=True):
    x: int = 1


@dataclasses.dataclass
class SomeDataclass:
    x: int


class NotDecorated(SomeDataclass):
    y: int


class SomeModel:
    __pydantic_fields__ = ()
    x: int


class HoldsMixed:
    mixed: MixedEnum


class HoldsTextOrBytes:
    either: str | bytes


class MutableDefault:
    x: list[int] = [1]  # noqa: RUF012  # it is the mistake that is refused


def a_function() -> None: ...


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (SomeEnum, "named fields"),
        (SomeTuple, "named fields"),
        (SomeDict, "named fields"),
        (ValueError, "named fields"),
        (int, "named fields"),
        (SomeGeneric, "generic"),
        (PlainGeneric, "generic"),
        (a_function, "no class"),
        (WithInit, "__init__"),
        (HoldsSet, r"set.*\$\.tags"),
        (HoldsNaive, r"complex.*\$\.rows\[\*\]\[\]"),
        (Forbids, "unknown fields"),
        (HoldsForbids, "unknown fields"),
        (Positional, "array_like"),
        (Omits, "omits defaults"),
        (NotDecorated, "only a base"),
        (SomeModel, "pydantic"),
        (MutableDefault, "mutable"),
        (HoldsMixed, r"either all str or all int values at \$ "),
        (HoldsTextOrBytes, r"more than one str-like type.* at \$ "),
    ],
)
def test_a_class_that_can_be_no_payload_is_refused_and_not_registered(cls, says):
    with pytest.raises(PayloadDefinitionError, match=says) as caught:
        payload(category=0xE, type_id=0x310)(cls)
    assert caught.value.advice
    assert lookup_kind(0xE310) is None
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("category", "type_id", "error"),
    [
        (0, 1, ReservedKind),
        (0xD, 1, ReservedKind),
        (16, 1, KindError),
        (1, 0x1000, KindError),
        ("1", 1, KindError),
    ],
)
def test_a_kind_that_no_program_can_have_is_refused(category, type_id, error):
    with pytest.raises(error):
        payload(category=category, type_id=type_id)


@pytest.mark.parametrize("version", [0, -1, 65536, "1", 1.0, True, None])
def test_a_version_is_an_integer_from_1_to_65535(version):
    with pytest.raises(PayloadDefinitionError, match="version"):

        @payload(category=0xE, type_id=0x311, version=version)
        class Moved:
            x: int


def test_a_class_has_one_kind():
    moved = plain_class()
    with pytest.raises(PayloadDefinitionError, match="kind already"):
        payload(category=0xE, type_id=0x312)(moved)
    assert lookup_kind(0xE312) is None


def test_the_kind_of_untyped_data_belongs_to_no_class():
    with pytest.raises(KindCollision):

        @payload(category=1, type_id=0)
        class Moved:
            x: int


def test_a_class_may_name_one_that_is_defined_below_it():
    module = define_module(
        "forward_names",
        """
        from __future__ import annotations
        from batpak.payloads import payload

        @payload(category=0xE, type_id=0x320)
        class Tree:
            value: int
            branches: list[Tree] = []
            leaf: Leaf | None = None

        @payload(category=0xE, type_id=0x321)
        class Lost:
            what: Nowhere

        class Leaf:
            pass
        """,
    )
    tree = module.Tree
    module.Leaf = msgspec.defstruct("Leaf", [("n", int)])
    value = tree(value=1, branches=[tree(value=2)], leaf=module.Leaf(3))
    binding = binding_of(tree)
    assert binding.decode(binding.encode(value), 1) == value
    lost = binding_of(module.Lost)
    for use in (lambda: lost.encode(module.Lost(what=1)), lambda: lost.decode(b"\x80", 1)):
        with pytest.raises(PayloadDefinitionError, match="Nowhere"):
            use()
    with pytest.raises(PayloadDefinitionError, match="Nowhere"):
        check_registry()


def define_module(name: str, source: str) -> Any:
    """A module of this source, imported under this name as if from a file."""
    lines = source.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader=None))
    sys.modules[name] = module
    exec("\n".join(line[indent:] for line in lines), module.__dict__)
    return module


# --- collisions -------------------------------------------------------------------

COLLIDING = """
    from batpak.payloads import payload

    @payload(category=0xE, type_id=0x777)
    class {name}:
        {field}: int
"""


def test_a_second_class_on_one_kind_is_refused_where_it_is_defined():
    first = define_module("package_a", COLLIDING.format(name="CollisionA", field="a"))
    with pytest.raises(KindCollision) as caught:
        define_module("package_b", COLLIDING.format(name="CollisionB", field="b"))
    assert caught.value.kind == 0xE777
    assert caught.value.classes == ("package_a.CollisionA", "package_b.CollisionB")
    assert lookup_kind(0xE777).cls is first.CollisionA
    assert collisions() == ()
    check_registry()


def test_deferred_collisions_wait_for_the_check():
    set_collision_policy("defer")
    first = define_module("package_a", COLLIDING.format(name="CollisionA", field="a"))
    second = define_module("package_b", COLLIDING.format(name="CollisionB", field="b"))
    third = define_module("package_c", COLLIDING.format(name="CollisionC", field="c"))
    assert [found.classes for found in collisions()] == [
        ("package_a.CollisionA", "package_b.CollisionB"),
        ("package_a.CollisionA", "package_c.CollisionC"),
    ]
    for cls in (first.CollisionA, second.CollisionB, third.CollisionC):
        assert lookup_type(cls).kind == 0xE777
    assert lookup_kind(0xE777).cls is first.CollisionA
    with pytest.raises(KindCollision) as caught:
        check_registry()
    assert caught.value.classes == ("package_a.CollisionA", "package_b.CollisionB")


def test_reloading_a_module_replaces_its_classes():
    old = define_module("package_a", COLLIDING.format(name="CollisionA", field="a")).CollisionA
    new = define_module("package_a", COLLIDING.format(name="CollisionA", field="b")).CollisionA
    assert lookup_kind(0xE777).cls is new
    assert collisions() == ()
    # Values that were made before the reload can still be appended.
    assert binding_of(old(a=1)).encode(old(a=1)) == b"\x81\xa1a\x01"


def test_a_policy_is_refuse_or_defer():
    with pytest.raises(PayloadDefinitionError):
        set_collision_policy("ignore")


def test_isolation_puts_everything_back():
    outer = plain_class()
    set_collision_policy("defer")
    with isolated_registry():
        assert lookup_type(outer) is None
        inner = plain_class()
        with pytest.raises(KindCollision):

            @payload(category=0xE, type_id=0x300)
            class Other:
                x: int

    assert lookup_type(outer) is lookup_kind(0xE300)
    assert lookup_type(inner) is None


def test_threads_that_define_at_once_agree_on_one_holder():
    barrier = threading.Barrier(8)
    errors: list[Exception] = []

    def define(n: int) -> None:
        cls = type(f"Racing{n}", (), {"__annotations__": {"x": int}, "__module__": __name__})
        barrier.wait()
        try:
            payload(category=0xE, type_id=0x330)(cls)
        except KindCollision as error:
            errors.append(error)

    threads = [threading.Thread(target=define, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    assert lookup_kind(0xE330) is not None


# --- versions ----------------------------------------------------------------------


def versioned(version: int) -> Any:
    @payload(category=0xE, type_id=0x340, version=version)
    class Counted:
        total: int
        label: str = "none"

    return Counted


def test_a_newer_version_is_refused_even_if_its_bytes_would_fit():
    binding = binding_of(versioned(2))
    raw = binding.encode(binding.cls(total=1))
    with pytest.raises(FutureVersion) as caught:
        binding.decode(raw, 3)
    assert (caught.value.stored, caught.value.current) == (3, 2)
    assert caught.value.kind == 0xE340


def test_hops_are_made_in_order():
    counted = versioned(3)

    @upcast(counted, from_version=2)
    def add_label(value: Any) -> Any:
        return value | {"label": value["label"] + "+2"}

    @upcast(EventKind(0xE, 0x340), from_version=1)
    def rename(value: Any) -> Any:
        value["total"] = value.pop("count")
        return value | {"label": "1"}

    binding = binding_of(counted)
    assert binding.decode(canonical.encode({"count": 5}), 1) == counted(total=5, label="1+2")
    assert binding.decode(canonical.encode({"total": 5, "label": "x"}), 2) == counted(
        total=5, label="x+2"
    )
    # Version 0 is untyped: read as it is, through no hop.
    assert binding.decode(canonical.encode({"total": 5, "label": "x"}), 0).label == "x"
    with pytest.raises(DecodeFailed):
        binding.decode(canonical.encode({"count": 5}), 0)
    check_registry()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (None, "no hop from version 1"),
        (lambda value: value["missing"], "KeyError"),
        (lambda value: {"total": "text"}, r"\$\.total"),
        (lambda value: {"total": {1, 2}}, "set"),
    ],
)
def test_a_way_that_fails_says_where(step, says):
    counted = versioned(2)
    if step is not None:
        upcast(counted, from_version=1)(step)
    with pytest.raises(UpcastError, match=says) as caught:
        binding_of(counted).decode(canonical.encode({"count": 5}), 1)
    assert (caught.value.stored, caught.value.current, caught.value.kind) == (1, 2, 0xE340)
    assert isinstance(caught.value, DecodeError)


def test_an_old_payload_that_is_no_value_fails_as_bytes():
    counted = versioned(2)
    upcast(counted, from_version=1)(lambda value: value)
    for raw in (b"", b"\x80\x00", b"\xc1"):
        with pytest.raises(DecodeFailed):
            binding_of(counted).decode(raw, 1)


def test_the_registry_check_names_the_missing_hop():
    counted = versioned(3)
    with pytest.raises(UpcastGap) as caught:
        check_registry()
    assert (caught.value.kind, caught.value.version) == (0xE340, 1)
    upcast(counted, from_version=1)(lambda value: value)
    with pytest.raises(UpcastGap) as caught:
        check_registry()
    assert caught.value.version == 2


def test_one_function_makes_a_hop():
    counted = versioned(2)

    def one(value: Any) -> Any:
        return value

    def two(value: Any) -> Any:
        return value

    assert upcast(counted, from_version=1)(one) is one
    # A reload defines the same name again.
    upcast(counted, from_version=1)(one)
    with pytest.raises(UpcastGap) as caught:
        upcast(counted, from_version=1)(two)
    assert caught.value.version == 1


def test_hops_start_from_an_earlier_version_of_a_payload():
    counted = versioned(2)
    for target, version in [(counted, 2), (counted, 0), (counted, "1"), (int, 1), (5, 1)]:
        with pytest.raises(PayloadDefinitionError):
            upcast(target, from_version=version)


# --- values ---------------------------------------------------------------------------


def test_reading_tolerates_unknown_reordered_and_defaulted_fields():
    binding = binding_of(versioned(1))
    raw = canonical.encode({"later": [1], "total": 5})
    assert binding.decode(raw, 1) == binding.cls(total=5, label="none")


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x80", b"\x81\xa5total\xa11", b"\x81\xa5total\x01\x00", b"\x91\x01"]
)
def test_bytes_that_are_no_such_payload_fail_to_decode(raw):
    binding = binding_of(versioned(1))
    with pytest.raises(DecodeFailed) as caught:
        binding.decode(raw, 1)
    assert caught.value.kind == 0xE340
    assert caught.value.advice


def test_a_value_that_does_not_fit_its_class_is_refused_before_it_is_stored():
    binding = binding_of(versioned(1))
    for value, path in [
        (binding.cls(total="5"), "$.total"),
        (binding.cls(total=2**64), "$.total"),
        (binding.cls(total=1, label="\ud800"), "$.label"),
        (binding.cls(total={1}), "$.total"),
    ]:
        with pytest.raises(CanonicalError) as caught:
            binding.encode(value)
        assert caught.value.path == path


def test_a_subclass_is_another_type():
    class Sub(versioned(1)):
        pass

    assert lookup_type(Sub) is None
    assert binding_of(Sub(total=1)) is None
    assert binding_of(5) is None


class Pair(msgspec.Struct, Generic[TypeVar("T")]):
    first: Any


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (object, 1),
        (object, {"a": [1, None]}),
        (list[object], [1, "x"]),
        (dict[str, object], {"a": 1}),
        (tuple[object, ...], (1, "x")),
        (Pair[int], Pair(1)),
        (list[Pair[str]], [Pair("x")]),
    ],
)
def test_what_a_definition_accepts_can_be_read_back(declared: Any, value: Any) -> None:
    made = type("Held", (), {"__annotations__": {"x": declared}, "__module__": __name__})
    cls: Any = payload(category=1, type_id=1)(made)
    binding = binding_of(cls)
    assert binding is not None
    assert binding.decode(binding.encode(cls(x=value)), 1) == cls(x=value)


def test_a_hop_that_is_no_function_is_refused_where_it_is_registered() -> None:
    @payload(category=1, type_id=1, version=2)
    class Held:
        x: int

    with pytest.raises(PayloadDefinitionError, match="its hop from version 1 is 5"):
        upcast(Held, from_version=1)(5)
