"""batpak: an embedded, append-only journal that proves what it holds.

    from batpak import Coordinate, Store, payload

Names resolve when they are first used, so `import batpak.proof` loads no store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batpak.config import Durability as Durability
    from batpak.config import StoreConfig as StoreConfig
    from batpak.config import Watermark as Watermark
    from batpak.coordinate import Coordinate as Coordinate
    from batpak.coordinate import Region as Region
    from batpak.engine.checkpoints import StoredCheckpoint as StoredCheckpoint
    from batpak.engine.compacting import CompactionPlan as CompactionPlan
    from batpak.engine.compacting import CompactionReport as CompactionReport
    from batpak.engine.crossing import JournalImportReport as JournalImportReport
    from batpak.engine.diagnostics import Diagnostics as Diagnostics
    from batpak.engine.erasing import ErasureReport as ErasureReport
    from batpak.engine.forking import ForkReport as ForkReport
    from batpak.engine.keys import KeySpan as KeySpan
    from batpak.engine.proving import ConsistencyProof as ConsistencyProof
    from batpak.engine.report import Cut as Cut
    from batpak.engine.report import Finding as Finding
    from batpak.engine.report import OpenReport as OpenReport
    from batpak.engine.report import VerifyReport as VerifyReport
    from batpak.engine.restoring import RestoreReport as RestoreReport
    from batpak.engine.shredding import ShredReport as ShredReport
    from batpak.engine.snapshot import SnapshotReport as SnapshotReport
    from batpak.errors import BatpakError as BatpakError
    from batpak.errors import Conflict as Conflict
    from batpak.errors import Damaged as Damaged
    from batpak.errors import EventNotFound as EventNotFound
    from batpak.errors import GateDenied as GateDenied
    from batpak.errors import Indeterminate as Indeterminate
    from batpak.errors import InvalidInput as InvalidInput
    from batpak.errors import Unavailable as Unavailable
    from batpak.event import Event as Event
    from batpak.event import EventSummary as EventSummary
    from batpak.event import PayloadState as PayloadState
    from batpak.gates import Bypass as Bypass
    from batpak.gates import Denial as Denial
    from batpak.gates import Denied as Denied
    from batpak.gates import GateContext as GateContext
    from batpak.gates import GateSet as GateSet
    from batpak.gates import Passed as Passed
    from batpak.gates import gate as gate
    from batpak.ids import CausationId as CausationId
    from batpak.ids import CorrelationId as CorrelationId
    from batpak.ids import EventId as EventId
    from batpak.ids import define_id as define_id
    from batpak.ids import operation_key as operation_key
    from batpak.items import Expect as Expect
    from batpak.items import Item as Item
    from batpak.items import Prior as Prior
    from batpak.items import Unless as Unless
    from batpak.kinds import Category as Category
    from batpak.kinds import EventFlag as EventFlag
    from batpak.kinds import EventKind as EventKind
    from batpak.machine import StateMachine as StateMachine
    from batpak.outcome import Outcome as Outcome
    from batpak.payloads import payload as payload
    from batpak.payloads import upcast as upcast
    from batpak.receipt import AppendReceipt as AppendReceipt
    from batpak.receipt import DenialReceipt as DenialReceipt
    from batpak.receipt import Namespace as Namespace
    from batpak.signing import SigningKey as SigningKey
    from batpak.store import Ancestry as Ancestry
    from batpak.store import AncestryEnd as AncestryEnd
    from batpak.store import Frontier as Frontier
    from batpak.store import Page as Page
    from batpak.store import Point as Point
    from batpak.store import ReadOnlyStore as ReadOnlyStore
    from batpak.store import Stats as Stats
    from batpak.store import Store as Store

_HOMES = {
    "batpak.config": ("Durability", "StoreConfig", "Watermark"),
    "batpak.coordinate": ("Coordinate", "Region"),
    "batpak.engine.compacting": ("CompactionPlan", "CompactionReport"),
    "batpak.engine.diagnostics": ("Diagnostics",),
    "batpak.engine.erasing": ("ErasureReport",),
    "batpak.engine.crossing": ("JournalImportReport",),
    "batpak.engine.forking": ("ForkReport",),
    "batpak.engine.checkpoints": ("StoredCheckpoint",),
    "batpak.engine.keys": ("KeySpan",),
    "batpak.engine.proving": ("ConsistencyProof",),
    "batpak.engine.report": ("Cut", "Finding", "OpenReport", "VerifyReport"),
    "batpak.engine.restoring": ("RestoreReport",),
    "batpak.engine.shredding": ("ShredReport",),
    "batpak.engine.snapshot": ("SnapshotReport",),
    "batpak.errors": (
        "BatpakError", "Conflict", "Damaged", "EventNotFound", "GateDenied", "Indeterminate",
        "InvalidInput", "Unavailable",
    ),
    "batpak.event": ("Event", "EventSummary", "PayloadState"),
    "batpak.gates": (
        "Bypass", "Denial", "Denied", "GateContext", "GateSet", "Passed", "gate",
    ),
    "batpak.ids": ("CausationId", "CorrelationId", "EventId", "define_id", "operation_key"),
    "batpak.items": ("Expect", "Item", "Prior", "Unless"),
    "batpak.kinds": ("Category", "EventFlag", "EventKind"),
    "batpak.machine": ("StateMachine",),
    "batpak.outcome": ("Outcome",),
    "batpak.payloads": ("payload", "upcast"),
    "batpak.receipt": ("AppendReceipt", "DenialReceipt", "Namespace"),
    "batpak.signing": ("SigningKey",),
    "batpak.store": (
        "Ancestry", "AncestryEnd", "Frontier", "Page", "Point", "ReadOnlyStore", "Stats", "Store",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]  # resolved below


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'batpak' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
