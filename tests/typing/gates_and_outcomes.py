"""Read by the type checker, not run: what gates, outcomes and machines tell it."""

from __future__ import annotations

from typing import Literal, assert_type

from batpak import (
    Coordinate,
    Denial,
    Denied,
    GateContext,
    GateSet,
    Outcome,
    Passed,
    ReadOnlyStore,
    StateMachine,
    Store,
    gate,
    payload,
)
from batpak.gates import FunctionGate, Pipeline
from batpak.outcome import Batch, Cancelled, Err, Ok, Pending, Retry, join_all, join_any


@payload(category=0xF, type_id=0xA11)
class Opened:
    by: str


@gate("named", "who opens has a name")
def named(context: GateContext) -> Denial | None:
    return None if context.payload.by else named.denial("nobody", context={"bytes": 5})


assert_type(named, FunctionGate[GateContext])


class Closed:
    """Any object with these three is a gate."""

    name = "closed"
    description = "nothing passes"

    def decide(self, context: GateContext, /) -> Denial | None:
        return Denial(self.name, "no")


class Unnamed:
    def decide(self, context: GateContext, /) -> Denial | None:
        return None


gates = GateSet([named, Closed()])
GateSet[GateContext]([Unnamed()])  # pyright: ignore[reportArgumentType]  # the error that must be seen


def ask(store: Store, reader: ReadOnlyStore, here: Coordinate) -> None:
    context = GateContext.of(here, Opened("alice"), reader=store)
    GateContext.of(here, Opened("alice"), reader=reader)
    answer = gates.check(context, 5)
    assert_type(answer, Passed[GateContext, int] | Denied)
    if isinstance(answer, Passed):
        assert_type(answer.spend(), int)
    else:
        assert_type(answer.denial, Denial)
    gates.check("text")  # pyright: ignore[reportArgumentType]  # the error that must be seen


pipeline = Pipeline(gates)


def send(context: GateContext) -> None:
    assert_type(pipeline.run(context, "mail", len), int)


door = StateMachine("door", "closed", [("closed", Opened, "open")])
assert_type(door.step("closed", Opened("alice")), Opened)
assert_type(door.after("closed", Opened("alice")), Literal["closed", "open"])
door.step("opne", Opened("alice"))  # pyright: ignore[reportArgumentType]  # the error that must be seen
door.step(5, Opened("alice"))  # pyright: ignore[reportArgumentType]  # the error that must be seen


def joined(one: Outcome[int], other: Outcome[str]) -> None:
    assert_type(one.result(), int)
    assert_type(one.zip(other), Outcome[tuple[int, str]])
    assert_type(join_all([one, one]), Outcome[tuple[int, ...]])
    assert_type(join_any([one, one]), Outcome[int])
    match one:
        case Ok(value):
            assert_type(value, int)
        case Batch(items):
            assert_type(items, tuple[Outcome[int], ...])
        case Err() | Retry() | Pending() | Cancelled():
            pass
        case _:
            pass
