"""Evaluate, then commit, where what is committed is not an event of a journal.

A journal's own append asks gates by itself; this is for a mail that is sent, a row that is
written elsewhere. Commits nothing itself: it calls who does. Source: docs/guide/gates.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from batpak.errors import GatePassError, InvalidInput
from batpak.gates.bypass import Bypass
from batpak.gates.deciding import GateSet, Passed
from batpak.gates.denial import Denied, check_text

__all__ = ["Pipeline"]

C = TypeVar("C")
P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Pipeline(Generic[C]):
    """A set of gates before a commit. `pipeline_id` names it in denial events, or is None.

    Raises: InvalidInput.
    """

    gates: GateSet[C]
    pipeline_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.gates, GateSet):
            raise InvalidInput("gates must be a GateSet", field="gates", value=self.gates)
        if self.pipeline_id is not None:
            check_text("pipeline_id", self.pipeline_id)

    def evaluate(self, context: C, proposal: P) -> Passed[C, P] | Denied:
        """Ask the gates about `context`; a pass holds `proposal`."""
        return self.gates.check(context, proposal)

    def commit(self, passed: Passed[C, P], write: Callable[[P], R]) -> R:
        """Use up the pass and return what `write(proposal)` returns.

        What `write` raises passes through, and the pass stays used: who knows what was
        written. Raises: GatePassError for a pass that is spent or another set's.
        """
        if not isinstance(passed, Passed) or not passed.made_by(self.gates):
            raise GatePassError(
                "the pass is not one of this pipeline's gates",
                field="passed",
                reason="other-gates",
                advice="evaluate with this pipeline first; a Denied is no pass",
            )
        return write(passed.spend())

    def run(self, context: C, proposal: P, write: Callable[[P], R]) -> R:
        """Evaluate and commit. Raises: GateDenied, then nothing was written."""
        answer = self.evaluate(context, proposal)
        if isinstance(answer, Denied):
            raise answer.error() from answer.cause
        return self.commit(answer, write)

    def bypass(self, bypass: Bypass, proposal: P, write: Callable[[P, Bypass], R]) -> R:
        """Commit without asking: `write(proposal, bypass)` has to keep the audit with it.

        Raises: InvalidInput where there is no Bypass.
        """
        if not isinstance(bypass, Bypass):
            raise InvalidInput("bypass must be a Bypass", field="bypass", value=bypass)
        return write(proposal, bypass)
