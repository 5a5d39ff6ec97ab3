"""Payload classes: which class stands for which kind and version, and how it is stored.

`@payload` binds a class to a kind, checks at definition that its fields have a
canonical form, and refuses a kind that another class holds. `@upcast` adds a hop
from one version's plain value to the next. The registry is one per process and
holds the last definition of a name, so that reloading a module replaces its
classes. Reads no journal and knows no event. Source: docs/canonical, "Classes".
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar, cast, dataclass_transform

import msgspec

from batpak import canonical
from batpak.errors import (
    CanonicalError,
    DecodeFailed,
    FutureVersion,
    KindCollision,
    PayloadDefinitionError,
    UpcastError,
    UpcastGap,
)
from batpak.kinds import DATA, EventKind

__all__ = [
    "Binding",
    "Collision",
    "binding_of",
    "check_registry",
    "collisions",
    "isolated_registry",
    "lookup_kind",
    "lookup_type",
    "payload",
    "set_collision_policy",
    "upcast",
]

T = TypeVar("T")
UpcastStep = Callable[[Any], Any]
_Step = TypeVar("_Step", bound=UpcastStep)

MAX_VERSION: Final = 0xFFFF


@dataclasses.dataclass(frozen=True, slots=True)
class Collision:
    """Two classes that claim one kind, by qualified name, in the order of definition."""

    kind: EventKind
    classes: tuple[str, str]

    def error(self) -> KindCollision:
        return KindCollision(
            f"kind {self.kind} is claimed by {self.classes[0]} and by {self.classes[1]}",
            advice="give one of them another type_id",
            kind=self.kind.raw,
            classes=self.classes,
        )


class Binding(Generic[T]):
    """A payload class, its kind and version, and its two functions.

    `encode(value)` gives the canonical bytes. Raises: CanonicalError.
    `decode(raw, stored_version)` gives a value of `cls`: directly for its own
    version and for 0 (untyped), through the upcast hops for an older one.
    Raises: FutureVersion, UpcastError, DecodeFailed.
    """

    __slots__ = (
        "_codec", "cls", "decode", "direct", "encode", "kind", "name", "raw_kind", "version",
    )  # fmt: skip
    cls: type[T]
    kind: EventKind
    raw_kind: int
    version: int
    name: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes | memoryview, int], T]
    direct: Callable[[bytes | memoryview], T] | None
    """Decodes the class's own version; any exception means: ask `decode`."""

    def __init__(self, cls: type[T], kind: EventKind, version: int) -> None:
        self.cls = cls
        self.kind = kind
        self.raw_kind = kind.raw
        self.version = version
        self.name = _qualified(cls)
        self._codec: canonical.Codec[T] | None = None
        self.encode = self._encode_first
        self.decode = self._decode_first
        self.direct = None

    def resolve(self) -> canonical.Codec[T]:
        """The class's codec, its annotations resolved and checked.

        Done at definition, unless an annotation names a class that is defined
        later: then at first use. Raises: PayloadDefinitionError.
        """
        if self._codec is None:
            try:
                self._finish(canonical.codec_for(self.cls))
            except NameError as error:
                raise _undefined(
                    self.cls, f"its annotation names {error.name!r}, which is not defined"
                ) from error
        return cast("canonical.Codec[T]", self._codec)

    def _finish(self, codec: canonical.Codec[T]) -> None:
        if codec.forbids_unknown:
            names = ", ".join(cls.__qualname__ for cls in codec.forbids_unknown)
            raise _undefined(
                self.cls, f"{names} forbids unknown fields, so a later version could not be read"
            )
        self._codec = codec
        self.encode = codec.encode
        self.decode = self._decoder(codec.decode)
        self.direct = codec.direct

    def _encode_first(self, value: T) -> bytes:
        return self.resolve().encode(value)

    def _decode_first(self, raw: bytes | memoryview, stored_version: int) -> T:
        self.resolve()
        return self.decode(raw, stored_version)

    def _decoder(
        self, read: Callable[[bytes | memoryview], T]
    ) -> Callable[[bytes | memoryview, int], T]:
        version, upcasting = self.version, self._upcast

        def decode(raw: bytes | memoryview, stored_version: int) -> T:
            if stored_version != version and stored_version != 0:
                return upcasting(raw, stored_version)
            try:
                return read(raw)
            except CanonicalError as error:
                raise self._failed(error) from error

        return decode

    def _failed(self, error: CanonicalError) -> DecodeFailed:
        where = f" at {error.path}" if error.path else f" at byte {error.offset}"
        return DecodeFailed(
            f"a payload of kind {self.kind} is no {self.cls.__qualname__}: {error.what}{where}",
            advice="read `value` or `raw`; a changed field needs a new version and an @upcast",
            kind=self.kind.raw,
        )

    def _upcast(self, raw: bytes | memoryview, stored: int) -> T:
        if stored > self.version:
            raise FutureVersion(
                f"a payload of {self.cls.__qualname__} has version {stored}; "
                f"this program knows {self.version}",
                advice="read it with the program's newer version, or read `value`",
                kind=self.kind.raw,
                stored=stored,
                current=self.version,
            )
        try:
            value = canonical.decode(raw)
        except CanonicalError as error:
            raise self._failed(error) from error
        for version in range(stored, self.version):
            value = self._hop(version, stored, value)
        try:
            return self.resolve().decode(canonical.encode(value))
        except CanonicalError as error:
            raise self._upcast_error(
                stored, f"gave no {self.cls.__qualname__}: {error.what} at {error.path}"
            ) from error

    def _hop(self, version: int, stored: int, value: Any) -> Any:
        step = _registry.steps.get((self.kind.raw, version))
        if step is None:
            raise self._upcast_error(stored, f"has no hop from version {version}")
        try:
            return step(value)
        except Exception as error:
            # A program's own function may raise anything.
            raise self._upcast_error(
                stored, f"failed in the hop from version {version}: {error!r}"
            ) from error

    def _upcast_error(self, stored: int, what: str) -> UpcastError:
        return UpcastError(
            f"the way of a {self.cls.__qualname__} from version {stored} to {self.version} {what}",
            advice=f"see @upcast({self.cls.__qualname__}, from_version=…); read `value` meanwhile",
            kind=self.kind.raw,
            stored=stored,
            current=self.version,
        )

    def __repr__(self) -> str:
        return f"Binding({self.cls.__qualname__}, {self.kind}, version={self.version})"


class _Registry:
    """Everything that definitions add to. `lock` orders definitions; look-ups need none."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_type: dict[type[Any], Binding[Any]] = {}
        self.by_kind: dict[int, Binding[Any]] = {}
        self.steps: dict[tuple[int, int], UpcastStep] = {}
        self.collisions: dict[tuple[int, str], Collision] = {}
        self.policy: Literal["refuse", "defer"] = "refuse"


_registry: Final = _Registry()

lookup_type: Final[Callable[[type[Any]], Binding[Any] | None]] = _registry.by_type.get
"""The binding of exactly this class, or None."""

lookup_kind: Final[Callable[[int], Binding[Any] | None]] = _registry.by_kind.get
"""The binding that reads this kind (an EventKind or its raw value), or None."""


def binding_of(cls_or_value: type[Any] | object) -> Binding[Any] | None:
    """The binding of a payload class, or of a value's class; None where it has none."""
    if isinstance(cls_or_value, type):
        return lookup_type(cast("type[Any]", cls_or_value))
    return lookup_type(cast("type[Any]", type(cls_or_value)))


# --- defining ------------------------------------------------------------------


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
def payload(*, category: int, type_id: int, version: int = 1) -> Callable[[type[T]], type[T]]:
    """Bind a class to the kind (category, type_id) and a version from 1 to 65,535.

    Takes a plain annotated class, which becomes a frozen msgspec.Struct of the same
    name; or a msgspec.Struct, dataclass or attrs class, which stays as it is. Field
    types must have a canonical form. Raises: PayloadDefinitionError; KindError and
    ReservedKind for the kind; KindCollision where another class holds it.
    """
    kind = EventKind(category, type_id)

    def decorate(cls: type[T]) -> type[T]:
        if not isinstance(cls, type):
            raise _undefined(cls, "it is no class")
        _check_version(cls, version)
        _check_class(cls)
        if kind == DATA:
            raise Collision(kind, ("batpak.kinds.DATA", _qualified(cls))).error()
        defined = cls if _is_record(cls) else _as_struct(cls)
        binding = Binding(defined, kind, version)
        try:
            binding._finish(canonical.codec_for(defined))  # pyright: ignore[reportPrivateUsage]  # same module
        except NameError:
            # A class that is defined further down: resolved at first use.
            pass
        except CanonicalError as error:
            raise _undefined(cls, f"{error.what} at {error.path}", error.advice) from error
        _register(binding)
        return defined

    return decorate


def _undefined(cls: object, what: str, advice: str = "") -> PayloadDefinitionError:
    name = getattr(cls, "__qualname__", repr(cls))
    return PayloadDefinitionError(
        f"{name} can't be a payload: {what}",
        advice=advice or "docs/canonical, 'Classes', lists what a payload can be",
        field="class",
        value=cls,
    )


def _check_version(cls: object, version: object) -> None:
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise _undefined(
            cls,
            f"version {version!r} is not an integer from 1 to {MAX_VERSION}",
            "start at 1; 0 marks values that were appended without a class",
        )


_SHAPELESS: Final[tuple[type[Any], ...]] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    int,
    float,
    Enum,
    BaseException,
)


def _is_shapeless(cls: type[Any]) -> bool:
    return issubclass(cls, _SHAPELESS)


def _check_class(cls: type[Any]) -> None:
    if "__batpak_kind__" in vars(cls):
        raise _undefined(cls, "it has a kind already", "decorate it once")
    if getattr(cls, "__parameters__", ()):
        raise _undefined(cls, "it is generic", "decorate a class for each of its types")
    if _is_shapeless(cls):
        raise _undefined(cls, "it has no named fields", "use a class with annotated fields")
    if hasattr(cls, "__pydantic_fields__"):
        raise _undefined(
            cls, "it is a pydantic model", "declare the same fields in a plain annotated class"
        )
    if dataclasses.is_dataclass(cls) and "__dataclass_fields__" not in vars(cls):
        raise _undefined(cls, "only a base of it is a dataclass", "put @dataclass below @payload")


def _is_record(cls: type[Any]) -> bool:
    return (
        issubclass(cls, msgspec.Struct)
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
    )


def _as_struct(cls: type[T]) -> type[T]:
    """The frozen Struct of a plain annotated class, its methods and defaults kept."""
    body = dict(vars(cls))
    if "__init__" in body or "__new__" in body:
        raise _undefined(
            cls, "it has its own __init__", "annotate fields instead, or make it a dataclass"
        )
    for name in ("__dict__", "__weakref__", "__slots__"):
        body.pop(name, None)
    bases = tuple(base for base in cls.__bases__ if base is not object)
    make = cast("Any", type(msgspec.Struct))
    try:
        made = make(cls.__name__, (*bases, msgspec.Struct), body, frozen=True)
    except (TypeError, ValueError) as error:
        raise _undefined(cls, str(error)) from error
    return cast("type[T]", made)


def _qualified(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(binding: Binding[Any]) -> None:
    raw = binding.kind.raw
    with _registry.lock:
        holder = _registry.by_kind.get(raw)
        if holder is not None and holder.name != binding.name:
            collision = Collision(binding.kind, (holder.name, binding.name))
            if _registry.policy == "refuse":
                raise collision.error()
            _registry.collisions[raw, binding.name] = collision
        else:
            _registry.by_kind[raw] = binding
        cls = binding.cls
        # Marks before the registration: whoever finds the class finds them.
        cls.__batpak_kind__ = binding.kind
        cls.__batpak_version__ = binding.version
        _registry.by_type[cls] = binding


def upcast(target: type[Any] | EventKind, *, from_version: int) -> Callable[[_Step], _Step]:
    """Register a function from the plain value of `from_version` to that of the next.

    `target` is the payload class or its kind. The function gets what
    `canonical.decode` gives, may change it, and returns the value; stored bytes
    never change. Raises: UpcastGap where another function makes this hop;
    PayloadDefinitionError for a class without a kind, or a version that is none.
    """
    if isinstance(target, EventKind):
        kind = target
    else:
        found: object = vars(target).get("__batpak_kind__") if isinstance(target, type) else None
        if not isinstance(found, EventKind):
            raise _undefined(target, "it has no kind", "decorate it with @payload first")
        kind = found
        current = vars(target)["__batpak_version__"]
        if type(from_version) is int and from_version >= current:
            raise _undefined(
                target,
                f"it is at version {current}, so there is no hop from {from_version}",
                "raise its version first",
            )
    _check_version(target, from_version)

    def register(step: _Step) -> _Step:
        if not callable(step):
            raise _undefined(
                target, f"its hop from version {from_version} is {step!r}", "give a function"
            )
        key = (kind.raw, from_version)
        with _registry.lock:
            known = _registry.steps.get(key)
            if known is not None and _step_name(known) != _step_name(step):
                raise UpcastGap(
                    f"{_step_name(known)} and {_step_name(step)} both make the hop "
                    f"from version {from_version} of kind {kind}",
                    advice="remove one of them",
                    kind=kind.raw,
                    version=from_version,
                )
            _registry.steps[key] = step
        return step

    return register


def _step_name(step: UpcastStep) -> str:
    return f"{step.__module__}.{getattr(step, '__qualname__', repr(step))}"


# --- checking --------------------------------------------------------------------


def collisions() -> tuple[Collision, ...]:
    """Kinds claimed by two classes; only under the policy "defer" can there be any."""
    with _registry.lock:
        return tuple(_registry.collisions.values())


def check_registry() -> None:
    """Check every payload class of this process.

    Raises: PayloadDefinitionError for an annotation that can't be resolved;
    KindCollision for the first of `collisions()`; UpcastGap where a class of
    version n lacks a hop from one of 1 … n - 1.
    """
    with _registry.lock:
        bindings = list(_registry.by_kind.values())
        steps = set(_registry.steps)
    for found in collisions():
        raise found.error()
    for binding in bindings:
        binding.resolve()
        for version in range(1, binding.version):
            if (binding.kind.raw, version) not in steps:
                raise UpcastGap(
                    f"{binding.name} is at version {binding.version} "
                    f"and has no hop from version {version}",
                    advice=f"add @upcast({binding.cls.__qualname__}, from_version={version})",
                    kind=binding.kind.raw,
                    version=version,
                )


def set_collision_policy(policy: Literal["refuse", "defer"]) -> None:
    """What a definition does whose kind another class holds.

    "refuse" (at first) raises KindCollision there. "defer" registers both: appends
    work for either, reading gives the one that was first, and `collisions()` names
    them for `Store.open(on_kind_collision=…)`.
    """
    if policy not in ("refuse", "defer"):
        raise PayloadDefinitionError(
            f"{policy!r} is no collision policy",
            advice='use "refuse" or "defer"',
            field="policy",
            value=policy,
        )
    _registry.policy = policy


@contextmanager
def isolated_registry() -> Generator[None]:
    """Within it, definitions add to an empty registry, which is gone afterwards. For tests.

    Not for use while other threads append or read.
    """
    kept = (
        dict(_registry.by_type),
        dict(_registry.by_kind),
        dict(_registry.steps),
        dict(_registry.collisions),
        _registry.policy,
    )
    # The dicts stay the same objects: look-ups hold their methods.
    held = (_registry.by_type, _registry.by_kind, _registry.steps, _registry.collisions)
    for registered in held:
        registered.clear()
    _registry.policy = "refuse"
    try:
        yield
    finally:
        for registered, before in zip(held, kept, strict=False):
            registered.clear()
            registered.update(cast("Any", before))
        _registry.policy = kept[4]
