"""State machines as tables: which payload is allowed in which state, and where it leads.

A row is (state, payload class, next state). `step` gives the payload back where the table
has a row, to be appended; else it says what the table has. States are texts or enum members
and are stored nowhere: the payloads tell them, folded in order. Judges one step as of the
state that the caller names; that no other step came between is a condition of the append.
Writes nothing. Source: docs/guide/state-machines.md.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, NoReturn, TypeVar, cast, final

from batpak import payloads
from batpak.errors import InvalidInput, TransitionRefused, UnregisteredPayload
from batpak.kinds import EventKind

__all__ = ["StateMachine"]

S = TypeVar("S", bound=str | enum.Enum)
P = TypeVar("P")

Transition = tuple[S, type[Any], S]
_set: Final = object.__setattr__


@final
class StateMachine(Generic[S]):
    """A name, a first state, and a table of (state, payload class, next state).

    A pair of state and class stands in one row at most; every state can be reached from
    `initial`. Payload classes count by their kind. Raises: InvalidInput for a table that is
    none, UnregisteredPayload for a class without `@payload`.
    """

    __slots__ = ("_classes", "_next", "initial", "name", "states", "transitions")
    name: str
    initial: S
    transitions: tuple[Transition[S], ...]
    states: tuple[S, ...]
    """In the order in which the table names them, `initial` first."""
    _next: Mapping[tuple[S, int], S]
    _classes: Mapping[int, type[Any]]

    def __init__(self, name: str, initial: S, transitions: Iterable[Transition[S]]) -> None:
        _set(self, "name", _checked_name("name", name))
        if not isinstance(initial, (str, enum.Enum)):
            raise InvalidInput(
                "a state is a text or an enum member",
                field="initial",
                value=cast("object", initial),
            )
        _set(self, "initial", initial)
        rows = tuple([_checked_row(index, row) for index, row in enumerate(transitions)])
        following: dict[tuple[S, int], S] = {}
        classes: dict[int, type[Any]] = {}
        states: dict[S, None] = {initial: None}
        for index, (source, cls, target) in enumerate(rows):
            raw = _kind_of(cls, index).raw
            if (source, raw) in following:
                raise InvalidInput(
                    f"row {index}: {cls.__qualname__} in state {_label(source)} has a row already",
                    field="transitions",
                    value=cls.__qualname__,
                    index=index,
                    advice="a payload leads from a state to one state: use two classes",
                )
            following[source, raw] = target
            classes[raw] = cls
            states[source] = states[target] = None
        _set(self, "transitions", rows)
        _set(self, "states", tuple(states))
        _set(self, "_next", MappingProxyType(following))
        _set(self, "_classes", MappingProxyType(classes))
        self._check_states()

    def _check_states(self) -> None:
        labels = [_checked_name("state", _label(state)) for state in self.states]
        if len(set(labels)) != len(labels):
            raise InvalidInput(
                "two states have one name", field="transitions", value=sorted(labels)
            )
        reached = {self.initial}
        todo = [self.initial]
        while todo:
            here = todo.pop()
            for (source, _), target in self._next.items():
                if source == here and target not in reached:
                    reached.add(target)
                    todo.append(target)
        lost = [_label(state) for state in self.states if state not in reached]
        if lost:
            raise InvalidInput(
                f"no transition leads from {_label(self.initial)} to {', '.join(lost)}",
                field="transitions",
                value=lost,
                advice="a state that can't be reached is misspelled, or its row is missing",
            )

    def step(self, state: S, payload: P) -> P:
        """The payload, where the table allows it in this state: what to append.

        Raises: TransitionRefused naming what is allowed; UnregisteredPayload; InvalidInput
        for a state that the table does not have.
        """
        self.after(state, payload)
        return payload

    def after(self, state: S, payload: object) -> S:
        """The state that this payload leads to. Raises: as `step`."""
        self._check_state(state)
        raw = _kind_of_value(payload).raw
        target = self._next.get((state, raw))
        if target is None:
            name = type(payload).__qualname__
            allowed = tuple([cls.__qualname__ for cls in self.allowed(state)])
            raise TransitionRefused(
                f"{name} is not allowed in state {_label(state)}",
                machine=self.name,
                state=_label(state),
                payload=name,
                allowed=allowed,
                advice=f"allowed there: {', '.join(allowed)}"
                if allowed
                else "nothing is allowed there: it is a last state",
            )
        return target

    def allowed(self, state: S) -> tuple[type[Any], ...]:
        """The payload classes that the table allows in this state, in its order.

        Raises: InvalidInput for a state that the table does not have.
        """
        self._check_state(state)
        return tuple([cls for source, cls, _ in self.transitions if source == state])

    def fold(self, values: Iterable[object], *, start: S | None = None) -> S:
        """The state after these payloads, from `initial` or from `start`.

        Values of classes that the table does not name are passed over: an entity may have
        other events. Raises: TransitionRefused for one that the table does not allow.
        """
        state = self.initial if start is None else start
        self._check_state(state)
        for value in values:
            binding = payloads.lookup_type(cast("type[Any]", type(value)))
            if binding is not None and binding.kind.raw in self._classes:
                state = self.after(state, value)
        return state

    def _check_state(self, state: S) -> None:
        if state not in self.states:
            raise InvalidInput(
                f"the machine {self.name} has no state {_label(state)}",
                field="state",
                value=state,
                advice=f"its states are {', '.join(map(_label, self.states))}",
            )

    def table(self) -> str:
        """The transitions as a Markdown table."""
        rows = [("State", "Payload", "Kind", "Next state"), ("---",) * 4]
        rows += [
            (_label(source), f"`{cls.__name__}`", str(_kind_of(cls, 0)), _label(target))
            for source, cls, target in self.transitions
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def diagram(self) -> str:
        """The transitions as a Mermaid state diagram."""
        ids = {state: f"s{number}" for number, state in enumerate(self.states)}
        lines = ["stateDiagram-v2"]
        lines += [f'    state "{_label(state)}" as {key}' for state, key in ids.items()]
        lines.append(f"    [*] --> {ids[self.initial]}")
        lines += [
            f"    {ids[source]} --> {ids[target]}: {cls.__name__}"
            for source, cls, target in self.transitions
        ]
        lines += [f"    {ids[state]} --> [*]" for state in self.states if not self.allowed(state)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<StateMachine {self.name}: {', '.join(map(_label, self.states))}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"StateMachine is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"StateMachine is immutable: can't delete {name!r}")


def _label(state: object) -> str:
    return state.name if isinstance(state, enum.Enum) else str(state)


def _checked_name(field: str, name: object) -> str:
    """A name that can stand in a table and a diagram. Raises: InvalidInput."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or not name.isprintable()
        or any(mark in name for mark in '|"`')
    ):
        raise InvalidInput(f'{field} must be printable text without | " `', field=field, value=name)
    return name


def _checked_row(index: int, row: object) -> tuple[Any, type[Any], Any]:
    parts = cast("tuple[Any, ...]", row) if isinstance(row, tuple) else ()
    if (
        len(parts) != 3
        or not isinstance(parts[1], type)
        or not all(isinstance(state, (str, enum.Enum)) for state in (parts[0], parts[2]))
    ):
        raise InvalidInput(
            f"row {index} is not (state, payload class, next state)",
            field="transitions",
            value=row,
            index=index,
            advice="states are texts or enum members",
        )
    return (parts[0], cast("type[Any]", parts[1]), parts[2])


def _kind_of(cls: type[Any], index: int) -> EventKind:
    binding = payloads.lookup_type(cls)
    if binding is None:
        raise UnregisteredPayload(
            f"row {index}: {cls.__qualname__} is not a registered payload class",
            field="transitions",
            index=index,
            advice="decorate the class with @payload",
        )
    return binding.kind


def _kind_of_value(payload: object) -> EventKind:
    binding = payloads.lookup_type(cast("type[Any]", type(payload)))
    if binding is None:
        raise UnregisteredPayload(
            f"{type(payload).__qualname__} is not a registered payload class",
            field="payload",
            advice="decorate the class with @payload",
        )
    return binding.kind
