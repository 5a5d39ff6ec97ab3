"""Gates: a program's own predicates, asked before something is committed.

Pure: decides and records, writes nothing, knows no store. What a gate sees may change
before the commit; what must be atomic is a condition of the append. Source: docs/guide/gates.md.
"""

from batpak.gates.bypass import BYPASS_EXTENSION, Bypass
from batpak.gates.context import GateContext, Readable, ReadView
from batpak.gates.deciding import FunctionGate, Gate, GateSet, Passed, gate
from batpak.gates.denial import (
    DENIAL_VERSION,
    GATE_DEFECT,
    Denial,
    DenialPayload,
    Denied,
    Evaluation,
    Verdict,
)
from batpak.gates.pipeline import Pipeline

__all__ = [
    "BYPASS_EXTENSION",
    "DENIAL_VERSION",
    "GATE_DEFECT",
    "Bypass",
    "Denial",
    "DenialPayload",
    "Denied",
    "Evaluation",
    "FunctionGate",
    "Gate",
    "GateContext",
    "GateSet",
    "Passed",
    "Pipeline",
    "ReadView",
    "Readable",
    "Verdict",
    "gate",
]
