"""Asking gates: the protocol, functions as gates, ordered sets, and the pass that a set gives.

A gate that raises, or that answers with anything but None or its own denial, denies: its
exception's type is told, its text is not, since it may hold what nobody should store.
KeyboardInterrupt, SystemExit and whatever else is no Exception pass through. A gate that
never returns is never given up. Source: docs/guide/gates.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar, cast, final

from batpak.errors import GatePassError, InvalidInput
from batpak.gates.context import GateContext
from batpak.gates.denial import (
    GATE_DEFECT,
    Context,
    Denial,
    Denied,
    Evaluation,
    Verdict,
    check_name,
    check_text,
)

__all__ = ["FunctionGate", "Gate", "GateSet", "Passed", "gate"]

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
P = TypeVar("P")

_set: Final = object.__setattr__


class Gate(Protocol[C_contra]):
    """A predicate with a name: pure, quick, and with no say in what is committed.

    `decide` returns None to permit, or a Denial in the gate's own name. It may be called
    from any thread, and is never called under a lock.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    def decide(self, context: C_contra, /) -> Denial | None: ...


@final
@dataclass(frozen=True, slots=True)
class FunctionGate(Generic[C]):
    """A function as a gate; made by `@gate`. Raises: InvalidInput."""

    name: str
    description: str
    function: Callable[[C], Denial | None]

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_text("description", self.description)
        if not callable(self.function) or iscoroutinefunction(self.function):
            raise InvalidInput(
                "a gate is a function that blocks and returns",
                field="function",
                value=cast("object", self.function),
            )

    def decide(self, context: C, /) -> Denial | None:
        return self.function(context)

    def denial(self, message: str, *, code: str = "", context: Context = ()) -> Denial:
        """A denial in this gate's name. Raises: InvalidInput."""
        return Denial(self.name, message, code=code, context=context)

    def __call__(self, context: C, /) -> Denial | None:
        return self.function(context)


def gate(
    name: str, description: str = ""
) -> Callable[[Callable[[C], Denial | None]], FunctionGate[C]]:
    """Make a gate of a function: `@gate("size_limit", "payloads of at most 4 KiB")`.

    `name` is 1 to 256 printable ASCII characters. Raises: InvalidInput.
    """

    def decorate(function: Callable[[C], Denial | None]) -> FunctionGate[C]:
        return FunctionGate(name, description, function)

    return decorate


# --- passing -----------------------------------------------------------------------------

_SEAL: Final = object()


@final
class Passed(Generic[C, P]):
    """All gates of a set permit this context and proposal; good for one commit of just that.

    Made by a GateSet only; it can be neither copied nor pickled.
    """

    __slots__ = ("_gates", "_proposal", "_unspent", "context")
    context: C
    _proposal: P
    _gates: GateSet[C]
    _unspent: list[object]

    def __init__(self, seal: object, gates: GateSet[C], context: C, proposal: P) -> None:
        if seal is not _SEAL:
            raise _no_pass("forged", "a pass is made by gates, not by hand")
        _set(self, "_gates", gates)
        _set(self, "context", context)
        _set(self, "_proposal", proposal)
        _set(self, "_unspent", [seal])

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates that permitted, in order."""
        return self._gates.names

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """What each gate did: it permitted."""
        return tuple([Evaluation(name, Verdict.PERMIT) for name in self.gates])

    @property
    def is_spent(self) -> bool:
        """Whether it was used."""
        return not self._unspent

    def made_by(self, gates: GateSet[Any]) -> bool:
        """Whether it is this set that permitted."""
        return self._gates is gates

    def spend(self) -> P:
        """Use it up, for the proposal that it holds. Raises: GatePassError, the second time."""
        unspent = getattr(self, "_unspent", None)
        if unspent is None:
            raise _no_pass("forged", "a pass is made by gates, not by hand")
        try:
            # One step for the interpreter: of two threads, one gets it.
            unspent.pop()
        except IndexError:
            raise _no_pass("spent", "the pass was used already") from None
        return self._proposal

    def spend_on(self, context: object) -> None:
        """Use it up for what `context` proposes.

        A GateContext must propose the same event; any other context must be the very
        object that was checked. Raises: GatePassError; the pass is not used up where the
        proposal is another.
        """
        checked = getattr(self, "context", None)
        if isinstance(checked, GateContext) and isinstance(context, GateContext):
            same = checked.proposes_the_same(context)
        else:
            same = checked is context
        if not same:
            raise _no_pass("other-proposal", "the pass is for another proposal")
        self.spend()

    def __repr__(self) -> str:
        return f"<Passed {', '.join(self.gates)}{' (spent)' if self.is_spent else ''}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Passed is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Passed is immutable: can't delete {name!r}")

    def __reduce__(self) -> NoReturn:
        raise _no_pass("copied", "a pass can be neither copied nor pickled")


def _no_pass(reason: str, what: str) -> GatePassError:
    return GatePassError(
        what, field="passed", reason=reason, advice="check the gates again for what is committed"
    )


# --- sets --------------------------------------------------------------------------------


@final
class GateSet(Generic[C]):
    """Gates in the order in which they are asked. One without gates permits everything.

    Names are read once, here; two gates may share one. Raises: InvalidInput for what is
    no gate.
    """

    __slots__ = ("_gates", "names")
    names: tuple[str, ...]
    _gates: tuple[Gate[C], ...]

    def __init__(self, gates: Iterable[Gate[C]] = ()) -> None:
        try:
            given = iter(gates)
        except TypeError as error:
            raise _no_gates(gates) from error
        found = tuple(given)
        names: list[str] = []
        for index, one in enumerate(found):
            decide, name = _look_at(one, index)
            if not callable(decide) or iscoroutinefunction(decide):
                raise InvalidInput(
                    f"gate {index} has no method decide() that blocks and returns",
                    field="gates",
                    value=cast("object", one),
                    index=index,
                    advice='make one of a function: @gate("name", "description")',
                )
            names.append(check_name("name", name))
        _set(self, "_gates", found)
        _set(self, "names", tuple(names))

    def check(self, context: C, proposal: P = None) -> Passed[C, P] | Denied:
        """Ask the gates in order until one denies. Raises nothing of a gate's own.

        The answer is true where all permit and false where one denied. `proposal` is what
        the pass will hand out; gates are not shown it.
        """
        return self._ask(context, proposal, every=False)

    def check_all(self, context: C, proposal: P = None) -> Passed[C, P] | Denied:
        """As `check`, but ask every gate and collect all denials."""
        return self._ask(context, proposal, every=True)

    def _ask(self, context: C, proposal: P, *, every: bool) -> Passed[C, P] | Denied:
        denials: dict[int, Denial] = {}
        cause: Exception | None = None
        asked = 0
        for asked, (name, one) in enumerate(zip(self.names, self._gates, strict=True), 1):
            denial, raised = _decide(name, one, context)
            if denial is not None:
                denials[asked - 1] = denial
                cause = cause or raised
                if not every:
                    break
        if not denials:
            return Passed(_SEAL, self, context, proposal)
        trace = [
            Evaluation(name, _verdict(place, asked, denials), denials.get(place))
            for place, name in enumerate(self.names)
        ]
        return Denied(trace, cause=cause)

    def __iter__(self) -> Iterator[Gate[C]]:
        return iter(self._gates)

    def __len__(self) -> int:
        return len(self._gates)

    def __bool__(self) -> bool:
        # A set without gates is still a set.
        return True

    def __repr__(self) -> str:
        return f"<GateSet {', '.join(self.names)}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"GateSet is immutable: can't set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"GateSet is immutable: can't delete {name!r}")


def _no_gates(value: object) -> InvalidInput:
    """What to raise where gates are due and none can be had."""
    if isinstance(value, Denied):
        what, advice = (
            "a Denied is no pass",
            "raise denied.error(): what was denied is not committed",
        )
    elif callable(getattr(value, "decide", None)):
        what, advice = "a gate comes in a list", "write gates=[gate], or GateSet([gate])"
    else:
        what, advice = "gates are a list of gates, or a GateSet", "leave gates= out for none"
    return InvalidInput(what, field="gates", value=value, advice=advice)


def _look_at(one: object, index: int) -> tuple[object, object]:
    """The method and the name of what should be a gate. Raises InvalidInput."""
    try:
        return getattr(one, "decide", None), getattr(one, "name", None)
    except Exception as error:  # a property of the program's own may raise anything
        raise InvalidInput(
            f"gate {index} can't be asked for its name: it raised {_type_name(error)}",
            field="gates",
            index=index,
            advice="correct the gate; its name and decide() are read when the set is made",
        ) from error


def _verdict(place: int, asked: int, denials: Mapping[int, Denial]) -> Verdict:
    """What the gate at `place` did, where the first `asked` gates were asked."""
    if place in denials:
        return Verdict.DENY
    return Verdict.PERMIT if place < asked else Verdict.SKIPPED


def _decide(name: str, one: Gate[C], context: C) -> tuple[Denial | None, Exception | None]:
    """A gate's denial or None, and what it raised if that is why."""
    try:
        answer: object = one.decide(context)
    except Exception as error:  # noqa: BLE001  # a program's own gate may raise anything
        return _defect(name, f"it raised {_type_name(error)}"), error
    if answer is None:
        return None, None
    if not isinstance(answer, Denial):
        return _defect(name, f"it gave a {_type_name(answer)}, neither None nor a Denial"), None
    if answer.gate != name:
        return _defect(name, f"it gave a denial in the name of {answer.gate}"), None
    return answer, None


def _defect(name: str, what: str) -> Denial:
    return Denial(name, f"the gate did not decide: {what}", code=GATE_DEFECT)


def _type_name(value: object) -> str:
    # A class made at run time may have any name.
    return type(value).__name__[:100].encode("ascii", "backslashreplace").decode()
