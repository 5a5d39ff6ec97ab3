"""What the model's rules are given: events, regions, conditions, keys, as hypothesis draws them.

Few names, kinds and keys, so that they meet. A drawn thing may say "the entity's last
clock" or "some earlier event"; what that is, a rule finds out when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import hypothesis.strategies as st

from batpak import Coordinate, Region
from batpak.kinds import Category, EventKind

# Siblings that sort around ":" and share beginnings, so that a wrong bound of a name's
# range takes in a stranger or loses a child.
TREE = ("a", "a:b", "a:b:c", "a:é", "a;", "a9", "ab", "a9:b", "é", "~:a")
NAMES = st.sampled_from(TREE)
SCOPES = st.sampled_from(("s", "t", "ß"))
COORDINATES = st.builds(Coordinate, NAMES, SCOPES)
KINDS = st.sampled_from(
    (EventKind(1, 0), EventKind(1, 1), EventKind(1, 0xFFF), EventKind(0xF, 0), EventKind(0xC, 7))
)
U32 = st.sampled_from((0, 1, 7, 2**32 - 1))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
EXTENSIONS = st.dictionaries(
    st.sampled_from(("acme.trace", "acme.a", "zoo.x")), st.binary(max_size=12), max_size=2
)

REGIONS = st.builds(
    Region,
    entity=st.none() | NAMES | st.sampled_from(("", "a:", "batpak", "batpak:store", "missing")),
    scope=st.none() | SCOPES | st.just("missing"),
    kind=st.none() | KINDS | st.sampled_from((0, 1, 0xC, 0xF)).map(Category),
    clock=st.none() | st.tuples(st.integers(0, 6), st.integers(0, 20)),
)
# Asked at the end of each journal, whatever was drawn before.
ALWAYS = [
    Region(entity, scope, kind, clock)
    for entity in (None, "a", "a:b", "a9", "batpak")
    for scope, kind, clock in (
        (None, None, None),
        ("s", None, None),
        (None, EventKind(1, 1), None),
        (None, Category(1), None),
        (None, None, (0, 0)),
        (None, None, (2, 5)),
        ("t", Category(1), (1, 9)),
    )
]

# The last two are as our own ids, and as far from them as can be.
KEYS = (
    *(number.to_bytes(16, "big") for number in (1, 2, 3, 2**64)),
    bytes.fromhex("0190a0b0c0d07e0f8a1b2c3d4e5f6071"),
    b"\xff" * 16,
)


@dataclass(frozen=True)
class Drawn:
    """One event; `cause` picks an earlier event or one of the same commit, None for a root."""

    coordinate: Coordinate
    kind: EventKind
    payload: Any
    lane: int = 0
    depth: int = 0
    flags: int = 0
    extensions: dict[str, bytes] | None = None
    cause: int | None = None
    is_raw: bool = False
    """Whether the payload is bytes, to be written as given."""


@dataclass(frozen=True)
class Keyed:
    """An event with an id of its writer's choice: one of KEYS, or that of an earlier event."""

    drawn: Drawn
    key: int
    differs: Literal["nowhere", "kind", "payload", "wholly"]
    """From what is already known under the key."""


Clock = Literal["right", "behind", "ahead", "empty"]


@dataclass(frozen=True)
class Conditions:
    """What a commit asks for beside its events."""

    clock: Clock | None = None
    """Of the first event's entity."""
    ruled_out: tuple[Region, ...] = ()
    after: int | None = None
    """None for the decision that saw nothing, -1 for one that saw all, else any event's."""
    is_strict: bool = True
    durable: bool = False


def _labelled(payloads: st.SearchStrategy[Any], *, is_raw: bool) -> st.SearchStrategy[Drawn]:
    return st.builds(
        Drawn,
        coordinate=COORDINATES,
        kind=KINDS,
        payload=payloads,
        lane=U32,
        depth=U32,
        flags=st.sampled_from((0, 1, 2, 8, 255)),
        extensions=EXTENSIONS,
        cause=st.none() | st.integers(0, 30),
        is_raw=st.just(is_raw),
    )


DRAWN = _labelled(VALUES, is_raw=False)
RAW = _labelled(st.binary(max_size=200), is_raw=True)
PLAIN = st.builds(Drawn, COORDINATES, KINDS, st.integers(0, 1))
KEYED = st.builds(
    Keyed,
    PLAIN,
    st.integers(0, len(KEYS) + 40),
    st.sampled_from(("nowhere", "nowhere", "nowhere", "kind", "payload", "wholly")),
)
RETRIED = st.builds(
    Keyed, PLAIN, st.integers(0, len(KEYS) + 40), st.sampled_from(("nowhere",) * 4 + ("kind",))
)
EVENTS = (
    st.lists(DRAWN | RAW, min_size=1, max_size=5)
    | st.lists(KEYED, min_size=1, max_size=3)
    | st.lists(RETRIED, min_size=1, max_size=3)
    | st.lists(KEYED | PLAIN, min_size=2, max_size=3)
)
"""The events of a commit: without keys, with keys, known ones, and some of both."""

UNCONDITIONAL = st.builds(
    Conditions, is_strict=st.sampled_from((True, True, False)), durable=st.booleans()
)
CONDITIONS = UNCONDITIONAL | st.builds(
    Conditions,
    clock=st.sampled_from((None, "right", "right", "right", "behind", "ahead", "empty")),
    ruled_out=st.lists(
        st.builds(Region, entity=NAMES, kind=st.none() | KINDS) | REGIONS, max_size=2
    ).map(tuple),
    after=st.none() | st.just(-1) | st.just(-1) | st.integers(0, 60),
    is_strict=st.sampled_from((True, True, False)),
    durable=st.booleans(),
)
