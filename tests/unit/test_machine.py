"""State machines: the table decides every pair of state and payload, and draws itself."""

from __future__ import annotations

import enum
import itertools
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, EventKind, StateMachine, Store, payload, payloads
from batpak.errors import BatpakError, InvalidInput, TransitionRefused, UnregisteredPayload


class Door(enum.Enum):
    OPEN = 1
    CLOSED = 2
    LOCKED = 3
    GONE = 4


@payload(category=0xA, type_id=0xD01)
class Opened:
    by: str = ""


@payload(category=0xA, type_id=0xD02)
class Closed:
    pass


@payload(category=0xA, type_id=0xD03)
class Locked:
    pass


@payload(category=0xA, type_id=0xD04)
class Unlocked:
    pass


@payload(category=0xA, type_id=0xD05)
class Removed:
    pass


@payload(category=0xA, type_id=0xD06)
class Painted:
    colour: str = "red"


TABLE = (
    (Door.CLOSED, Opened, Door.OPEN),
    (Door.OPEN, Closed, Door.CLOSED),
    (Door.CLOSED, Locked, Door.LOCKED),
    (Door.LOCKED, Unlocked, Door.CLOSED),
    (Door.OPEN, Removed, Door.GONE),
)
DOOR = StateMachine("door", Door.CLOSED, TABLE)
CLASSES = (Opened, Closed, Locked, Unlocked, Removed)


@pytest.mark.proves("INV-MACHINE-TABLE")
@pytest.mark.parametrize(("state", "cls"), list(itertools.product(Door, CLASSES)))
def test_every_pair_is_allowed_exactly_where_the_table_has_it(state: Door, cls: Any) -> None:
    value = cls()
    wanted = {(source, made): target for source, made, target in TABLE}.get((state, cls))
    if wanted is not None:
        assert DOOR.step(state, value) is value
        assert DOOR.after(state, value) is wanted
        return
    for call in (DOOR.step, DOOR.after):
        with pytest.raises(TransitionRefused) as caught:
            call(state, value)
        error = caught.value
        there = tuple(made.__qualname__ for source, made, _ in TABLE if source is state)
        assert (error.machine, error.state, error.payload) == ("door", state.name, cls.__qualname__)
        assert error.allowed == there
        assert all(name in str(error) for name in there)


def test_what_is_allowed_is_listed_in_the_order_of_the_table() -> None:
    assert DOOR.allowed(Door.CLOSED) == (Opened, Locked)
    assert DOOR.allowed(Door.GONE) == ()
    assert DOOR.states == (Door.CLOSED, Door.OPEN, Door.LOCKED, Door.GONE)
    with pytest.raises(TransitionRefused, match="last state"):
        DOOR.step(Door.GONE, Opened())


def test_a_fold_passes_over_what_the_table_does_not_name() -> None:
    assert DOOR.fold([]) is Door.CLOSED
    assert DOOR.fold([Opened(), Painted(), {"plain": 1}, Closed(), Locked()]) is Door.LOCKED
    assert DOOR.fold([Unlocked()], start=Door.LOCKED) is Door.CLOSED
    with pytest.raises(TransitionRefused):
        DOOR.fold([Opened(), Opened()])
    with pytest.raises(TransitionRefused):
        DOOR.step(Door.CLOSED, Painted())


def test_a_machine_over_a_journal(tmp_path: Path) -> None:
    front = Coordinate("door:front", "house")
    with Store.open(tmp_path / "journal") as store:
        for made in (Opened("alice"), Closed(), Locked()):
            state = DOOR.fold(event.payload for event in store.entity("door:front"))
            store.append(front, DOOR.step(state, made))
        store.append(front, "a note", kind=EventKind(0xA, 0xDFF))
        state = DOOR.fold(event.payload for event in store.entity("door:front"))
        assert state is Door.LOCKED
        before = len(store)
        with pytest.raises(TransitionRefused):
            store.append(front, DOOR.step(state, Opened("bob")))
        assert len(store) == before
        versions = [event.payload_version for event in store.entity("door:front")]
        assert versions == [1, 1, 1, 0]


def test_a_class_that_was_defined_again_is_the_same_transition() -> None:
    with payloads.isolated_registry():

        def define() -> Any:
            @payload(category=0xA, type_id=0xD0F)
            class Again:
                pass

            return Again

        machine = StateMachine("again", "a", [("a", define(), "b")])
        assert machine.after("a", define()()) == "b"


@pytest.mark.parametrize(
    ("initial", "rows", "error"),
    [
        ("a", [("a", Opened, "b"), ("a", Opened, "c")], InvalidInput),
        ("a", [("a", Opened, "b"), ("a", Opened, "b")], InvalidInput),
        ("a", [("a", Opened, "b"), ("c", Closed, "a")], InvalidInput),
        ("a", [("a", Opened, "b"), ("x", Closed, "y"), ("y", Closed, "x")], InvalidInput),
        ("a", [("a", dict, "b")], UnregisteredPayload),
        ("a", [("a", Opened)], InvalidInput),
        ("a", [["a", Opened, "b"]], InvalidInput),
        ("a", [("a", Opened(), "b")], InvalidInput),
        ("a", [("a", Opened, 5)], InvalidInput),
        ("a", [("a", Opened, "b|c")], InvalidInput),
        ("a", [("a", Opened, "")], InvalidInput),
        ("a", [("a", Opened, "new\nline")], InvalidInput),
        ("OPEN", [("OPEN", Opened, Door.OPEN)], InvalidInput),
        (5, [], InvalidInput),
        ([], [], InvalidInput),
    ],
)
def test_a_table_that_is_none_is_refused(initial: Any, rows: Any, error: type[BatpakError]) -> None:
    with pytest.raises(error) as caught:
        StateMachine("m", initial, rows)
    assert caught.value.field in ("transitions", "initial", "state")


@pytest.mark.parametrize("name", ["", " ", "a|b", 'a"b', "a`b", "a\nb", None, 5])
def test_a_machine_and_its_states_have_names_that_can_be_drawn(name: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        StateMachine(name, "a", [])
    assert caught.value.field == "name"
    if isinstance(name, str):
        with pytest.raises(InvalidInput) as caught:
            StateMachine("m", name, [])
        assert caught.value.field == "state"


def test_a_state_that_can_not_be_reached_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        StateMachine("m", "a", [("a", Opened, "b"), ("lokced", Closed, "a")])
    assert caught.value.value == ["lokced"]


@pytest.mark.parametrize("state", ["open", None, 5, ["a"], "Door.OPEN"])
def test_a_state_of_another_machine_is_refused(state: Any) -> None:
    for call in (
        lambda: DOOR.step(state, Opened()),
        lambda: DOOR.allowed(state),
        lambda: DOOR.fold([], start=state or "none"),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.field == "state"


def test_a_value_without_a_kind_is_no_step() -> None:
    with pytest.raises(UnregisteredPayload) as caught:
        DOOR.step(Door.CLOSED, {"by": "alice"})
    assert caught.value.field == "payload"


def test_the_table_is_drawn_from_what_decides() -> None:
    assert DOOR.table().splitlines() == [
        "| State | Payload | Kind | Next state |",
        "| --- | --- | --- | --- |",
        "| CLOSED | `Opened` | 0xAD01 | OPEN |",
        "| OPEN | `Closed` | 0xAD02 | CLOSED |",
        "| CLOSED | `Locked` | 0xAD03 | LOCKED |",
        "| LOCKED | `Unlocked` | 0xAD04 | CLOSED |",
        "| OPEN | `Removed` | 0xAD05 | GONE |",
    ]
    assert DOOR.diagram().splitlines() == [
        "stateDiagram-v2",
        '    state "CLOSED" as s0',
        '    state "OPEN" as s1',
        '    state "LOCKED" as s2',
        '    state "GONE" as s3',
        "    [*] --> s0",
        "    s0 --> s1: Opened",
        "    s1 --> s0: Closed",
        "    s0 --> s2: Locked",
        "    s2 --> s0: Unlocked",
        "    s1 --> s3: Removed",
        "    s3 --> [*]",
    ]


def test_a_machine_can_not_be_changed() -> None:
    for name in ("initial", "transitions", "_next", "new"):
        with pytest.raises(AttributeError):
            setattr(DOOR, name, None)
    with pytest.raises(AttributeError):
        del DOOR.name
    with pytest.raises(TypeError):
        DOOR._next[Door.GONE, 1] = Door.OPEN  # type: ignore[index]  # the refusal is the test
