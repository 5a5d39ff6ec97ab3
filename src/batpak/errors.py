"""Every error that batpak raises: one base, five groups, one stable code a class.

An error says what happened (`what`), where (its typed fields) and what to do
(`advice`). A caller branches on the class or on `code`; neither changes between
releases. Fields that are not known are None. Imports nothing of ours.
"""

from __future__ import annotations

from inspect import get_annotations
from typing import Any, ClassVar

__all__ = [
    "Backpressure",
    "BatchTooLarge",
    "BatpakError",
    "Cancelled",
    "CanonicalError",
    "ConditionFailed",
    "Conflict",
    "CoordinateError",
    "Damaged",
    "DecodeError",
    "DecodeFailed",
    "DestinationTaken",
    "EntityClockOverflow",
    "EventNotFound",
    "ExpectationFailed",
    "ExtensionError",
    "FenceEnded",
    "FenceOpen",
    "FenceTooLarge",
    "FutureFormat",
    "FutureVersion",
    "GateDenied",
    "GatePassError",
    "IdError",
    "IdempotencyConflict",
    "ImportSourceError",
    "Indeterminate",
    "InvalidClock",
    "InvalidInput",
    "JournalCorrupt",
    "JournalLocked",
    "JournalPoisoned",
    "JournalRewound",
    "KeyFileRefused",
    "KeyInvalid",
    "KeyNotDestroyed",
    "KeyNotInForce",
    "KeyShredded",
    "KeyUnavailable",
    "KeyringFailed",
    "KeyringRefused",
    "KindCollision",
    "KindError",
    "KindMismatch",
    "NetworkFilesystem",
    "NoSpace",
    "NotAJournal",
    "NotASnapshot",
    "NotCheckpointed",
    "NotErasable",
    "NotShreddable",
    "OutcomeFailed",
    "OutcomeUnavailable",
    "PayloadDamaged",
    "PayloadDefinitionError",
    "PayloadDetached",
    "PayloadErased",
    "PayloadShredded",
    "PayloadTooLarge",
    "PayloadUnreadable",
    "PlatformUnsupported",
    "ProofInvalid",
    "ReentrantCall",
    "ReservedKind",
    "ReservedName",
    "SnapshotDamaged",
    "StorageFailed",
    "StoreClosed",
    "StoreForked",
    "TransitionRefused",
    "Unavailable",
    "UnregisteredPayload",
    "UnsupportedFeature",
    "UpcastError",
    "UpcastGap",
    "WaitTimeout",
]


class BatpakError(Exception):
    """Base of all errors of this library.

    `code` is stable and kebab-case; `what` says what happened; `advice` says
    what to do next; `retryable` is True where the same call may succeed later.
    """

    code: ClassVar[str] = "batpak-error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, advice: str = "", **facts: Any) -> None:
        self.what = what
        self.advice = advice
        self.facts = facts
        known = self._field_names()
        for name in known:
            setattr(self, name, facts.get(name))
        unknown = facts.keys() - known
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {sorted(unknown)}")
        super().__init__(what)

    @classmethod
    def _field_names(cls) -> set[str]:
        names: set[str] = set()
        for base in cls.__mro__:
            if base is not BatpakError and issubclass(base, BatpakError):
                names.update(n for n in get_annotations(base) if n[0] != "_")
        return names - {"code", "retryable", "exit_code"}

    def __str__(self) -> str:
        where = ", ".join(f"{k}={_shown(v)}" for k, v in self.facts.items() if v is not None)
        text = f"{self.what} ({where})" if where else self.what
        text = f"{text}; {self.advice}" if self.advice else text
        # A lone surrogate, say of a name that was refused for it, can't be printed.
        return text.encode("utf-8", "backslashreplace").decode()

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {name: _portable(value) for name, value in self.facts.items()}
        return (_rebuild, (type(self), self.what, self.advice, facts))


_MOST_SHOWN = 500
"""Characters of a fact in an error's text; the fact itself is whole."""


def _shown(value: Any) -> str:
    """A fact as text, whatever it is: it may be the very value that was refused."""
    try:
        # Bytes have no text of their own: under `python -bb` asking for it raises.
        text = repr(value) if isinstance(value, (bytes, bytearray)) else str(value)
    except Exception:  # noqa: BLE001  # a value of the program's own may raise anything
        return f"<{type(value).__name__} that can't be shown>"
    if len(text) > _MOST_SHOWN:
        return f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"
    return text


def _portable(value: Any) -> Any:
    """A fact for another process; what can't go there, such as a function, as its repr."""
    import pickle

    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # noqa: BLE001  # a value of the program's own may raise anything
        pass
    else:
        return value
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # as above
        return _shown(value)


def _rebuild(cls: type[BatpakError], what: str, advice: str, facts: dict[str, Any]) -> BatpakError:
    return cls(what, advice=advice, **facts)


# --- the five groups ---------------------------------------------------------


class InvalidInput(BatpakError, ValueError):
    """The caller's fault; nothing was written."""

    code = "invalid-input"
    exit_code = 5
    field: str | None
    value: object
    index: int | None


class Conflict(BatpakError):
    """The journal's state, or a rule of the program, disagrees; nothing was written."""

    code = "conflict"
    exit_code = 5
    sequence: int | None


class Unavailable(BatpakError):
    """Try again later or elsewhere; nothing was written."""

    code = "unavailable"
    retryable = True
    exit_code = 5
    file: str | None


class Indeterminate(BatpakError):
    """The events are written, but not known to be durable: `receipts` names them.

    `receipts` is empty where a write failed and could not be undone: then nobody knows
    whether they are written, all or none, before the journal is opened anew. `cause` is
    the error that got in the way. Retrying by idempotency key is safe.
    """

    code = "indeterminate"
    retryable = True
    receipts: tuple[Any, ...]
    cause: BaseException | None

    @property
    def receipt(self) -> Any:
        """The receipt of a single append, or the last one of a batch."""
        return self.receipts[-1] if self.receipts else None


class Damaged(BatpakError):
    """Stored bytes are not what was written, or this handle may not be trusted."""

    code = "damaged"
    exit_code = 3
    file: str | None
    offset: int | None
    sequence: int | None


# --- InvalidInput ------------------------------------------------------------


class CoordinateError(InvalidInput):
    """An entity, scope or coordinate text breaks a naming rule; `reason` says which."""

    code = "coordinate"
    reason: str | None


class KindError(InvalidInput):
    """A category or type id is out of range."""

    code = "kind"


class ReservedKind(KindError):
    """Categories 0x0 and 0xD belong to the system."""

    code = "reserved-kind"


class ReservedName(InvalidInput):
    """Entities `batpak:*` and some extension names belong to the system."""

    code = "reserved-name"


class IdError(InvalidInput):
    """A text or value is not an id of the expected type."""

    code = "id"


class CanonicalError(InvalidInput):
    """A value has no canonical form, or bytes are not canonical; `path` says where."""

    code = "canonical"
    path: str | None
    offset: int | None


class PayloadDefinitionError(InvalidInput, TypeError):
    """A payload class can't be registered."""

    code = "payload-definition"


class UnregisteredPayload(InvalidInput):
    """The value's class is not a registered payload and no `kind=` was given."""

    code = "unregistered-payload"


class KindCollision(InvalidInput):
    """Two payload classes claim one kind; `classes` names both."""

    code = "kind-collision"
    kind: int | None
    classes: tuple[str, ...] | None


class UpcastGap(InvalidInput):
    """A hop between two payload versions is missing or doubled."""

    code = "upcast-gap"
    kind: int | None
    version: int | None


class PayloadTooLarge(InvalidInput):
    """A payload is over the limit of this store."""

    code = "payload-too-large"
    limit: int | None


class BatchTooLarge(InvalidInput):
    """A commit has too many events or bytes."""

    code = "batch-too-large"
    limit: int | None


class FenceTooLarge(BatchTooLarge):
    """What a fence or outbox has staged would no longer fit one commit."""

    code = "fence-too-large"


class FenceOpen(InvalidInput):
    """A fence inside a fence of the same thread."""

    code = "fence-open"


class ReentrantCall(InvalidInput):
    """A write, sync or close in the middle of one of the same thread, as of a signal handler."""

    code = "reentrant-call"


class KeyInvalid(InvalidInput):
    """A value that can't be an idempotency key."""

    code = "key"


class KeyFileRefused(InvalidInput):
    """A key, or the file that holds it, is not one to sign with: `reason` says why."""

    code = "key-file-refused"
    file: str | None
    reason: str | None


class KeyringRefused(InvalidInput):
    """A keyring, or a key in it, is not one to encrypt with: `reason` says why."""

    code = "keyring-refused"
    file: str | None
    reason: str | None


class ExtensionError(InvalidInput):
    """A receipt extension breaks a rule; `reason` says which."""

    code = "extension"
    reason: str | None


class InvalidClock(InvalidInput):
    """The clock gave a value that can't be stored."""

    code = "invalid-clock"


class EventNotFound(InvalidInput, KeyError):
    """No visible event has this id or sequence."""

    code = "event-not-found"
    sequence: int | None

    __str__ = BatpakError.__str__


class NotErasable(InvalidInput):
    """The event is one of those that the journal writes about itself: it stays."""

    code = "not-erasable"
    sequence: int | None


class NotShreddable(InvalidInput):
    """What was named can't be shredded, or not without more; `reason` says why."""

    code = "not-shreddable"
    sequence: int | None
    reason: str | None


class NotAJournal(InvalidInput):
    """The path holds something else than a journal; nothing was touched."""

    code = "not-a-journal"
    file: str | None


class NotASnapshot(InvalidInput):
    """The path holds no finished snapshot."""

    code = "not-a-snapshot"
    file: str | None


class DestinationTaken(InvalidInput):
    """A snapshot, restore or fork needs a path where nothing is, outside of its source."""

    code = "destination-taken"


class NetworkFilesystem(InvalidInput):
    """The path is on a network file system, whose locks and syncs can't be trusted."""

    code = "network-filesystem"
    file: str | None


class PlatformUnsupported(InvalidInput):
    """This platform lacks what the call needs.

    `capability` names it (flock, pwrite), `reason` says how that was found.
    """

    code = "platform-unsupported"
    capability: str | None
    reason: str | None


class ProofInvalid(InvalidInput):
    """A note, tile, event or bundle is not well formed, or does not prove what it should.

    `reason` says which rule of docs/proofs.md it breaks.
    """

    code = "proof-invalid"
    reason: str | None


class StoreClosed(InvalidInput):
    """The store was closed."""

    code = "store-closed"


class StoreForked(InvalidInput):
    """The store belongs to the parent process; a forked child can't use it."""

    code = "store-forked"


class GatePassError(InvalidInput):
    """A pass of gates is not good for this commit; `reason` says why."""

    code = "gate-pass"
    reason: str | None


class ImportSourceError(InvalidInput):
    """An import source can't be read, or is not what it was; `line` counts from 1."""

    code = "import-source"
    file: str | None
    line: int | None


# --- Conflict ----------------------------------------------------------------


class KeyNotInForce(Conflict):
    """No signing key of the store is in force for the event: introduced later, or retired."""

    code = "key-not-in-force"
    key_id: str | None


class NotCheckpointed(Conflict):
    """No checkpoint covers the event, or none has this size: nothing to prove it by."""

    code = "not-checkpointed"
    size: int | None


class EntityClockOverflow(Conflict):
    """An entity's stream is full: its clock is at 2^32 - 1."""

    code = "entity-clock-overflow"
    entity: str | None


class ExpectationFailed(Conflict):
    """An entity's stream is not where `expect` says; nothing was written."""

    code = "expectation-failed"
    entity: str | None
    expected: int | None
    """The clock that was asked for; None for an empty stream."""
    actual: int | None
    """The clock of the entity's last event; None for an empty stream."""


class ConditionFailed(Conflict):
    """An event that `unless` rules out is there, at `sequence`; nothing was written."""

    code = "condition-failed"
    region: str | None


class IdempotencyConflict(Conflict):
    """A key is known, but stands for another event; `reason` says what differs.

    For batches `reason` is `mixed-keys`, `duplicate-key` or `partial-replay`.
    """

    code = "idempotency-conflict"
    reason: str | None
    key: str | None
    index: int | None


class FenceEnded(Conflict):
    """A fence was used after it ended, or was cancelled."""

    code = "fence-ended"


class DecodeError(Conflict):
    """A stored payload does not fit the class it is read as."""

    code = "decode"
    kind: int | None


class KindMismatch(DecodeError):
    """The event is of another kind than the class."""

    code = "kind-mismatch"
    expected: int | None


class DecodeFailed(DecodeError):
    """The bytes do not fit the class."""

    code = "decode-failed"


class FutureVersion(DecodeError):
    """The payload was written by a newer version of its class."""

    code = "future-version"
    stored: int | None
    current: int | None


class UpcastError(DecodeError):
    """A hop between payload versions failed or is missing."""

    code = "upcast"
    stored: int | None
    current: int | None


class PayloadErased(Conflict):
    """The payload was erased; the event, its hashes and proofs remain."""

    code = "payload-erased"


class PayloadDetached(Conflict):
    """The payload was archived elsewhere."""

    code = "payload-detached"


class PayloadShredded(Conflict):
    """The key of the payload was destroyed; the event, its hashes and proofs remain."""

    code = "payload-shredded"
    key_id: str | None


class PayloadUnreadable(Conflict):
    """The payload's codec is not known to this version, or its key is not at hand."""

    code = "payload-unreadable"
    codec: int | None


class KeyUnavailable(PayloadUnreadable):
    """The key of an encrypted payload is not at hand: `reason` says why."""

    code = "key-unavailable"
    key_id: str | None
    reason: str | None


class GateDenied(Conflict):
    """A gate denied the proposal: `gate` and `reason` (its code) are the first denial's.

    `denied` has all denials and what each gate of the set did.
    """

    code = "gate-denied"
    gate: str | None
    reason: str | None
    denied: Any


class TransitionRefused(Conflict):
    """A machine's table does not allow this payload in this state; `allowed` says which it does."""

    code = "transition-refused"
    machine: str | None
    state: str | None
    payload: str | None
    allowed: tuple[str, ...] | None


class OutcomeFailed(Conflict):
    """An outcome holds no value and trying again will not help; `kind` says why."""

    code = "outcome-failed"
    kind: str | None
    compensation: Any


# --- Unavailable -------------------------------------------------------------


class Backpressure(Unavailable):
    """The queue of `submit` is filled to its threshold; nothing was queued."""

    code = "backpressure"
    retry_after: float
    """Seconds after which there should be room."""


class Cancelled(Unavailable):
    """What waited was given up before it was written: a fence, or a queue at close."""

    code = "cancelled"


class JournalLocked(Unavailable):
    """Another writer holds the journal; `pid` is its process, where known."""

    code = "journal-locked"
    pid: int | None
    exit_code = 4


class KeyShredded(Unavailable):
    """The key that an event was to be encrypted with is shredded; nothing was written."""

    code = "key-shredded"
    key_id: str | None


class KeyNotDestroyed(Unavailable):
    """Keys are shredded in the journal and may still stand in the keyring; `key_ids` are they.

    Opening with that keyring, or shredding again, destroys them.
    """

    code = "key-not-destroyed"
    key_ids: tuple[str, ...] | None


class KeyringFailed(Unavailable):
    """A keyring that is a service, or its library, gave an error instead of an answer."""

    code = "keyring-failed"


class NoSpace(Unavailable):
    """The disk or the quota is full; the journal works again when there is room."""

    code = "no-space"


class StorageFailed(Unavailable):
    """The operating system refused a file operation; nothing was written."""

    code = "storage-failed"


class WaitTimeout(Unavailable):
    """A watermark was not reached in time."""

    code = "wait-timeout"
    watermark: str | None
    target: int | None
    waited: float | None


class OutcomeUnavailable(Unavailable):
    """An outcome holds no value yet, and trying again may give one; `kind` says why."""

    code = "outcome-unavailable"
    kind: str | None
    compensation: Any


# --- Damaged -----------------------------------------------------------------


class JournalCorrupt(Damaged):
    """Acknowledged events are damaged or missing: sequences `first` to `last`."""

    code = "journal-corrupt"
    reason: str | None
    first: int | None
    last: int | None
    witness: str | None


class PayloadDamaged(Damaged):
    """A payload's bytes are not those that were written."""

    code = "payload-damaged"
    reason: str | None


class SnapshotDamaged(Damaged):
    """A snapshot's files are not those of its manifest; `findings` names each."""

    code = "snapshot-damaged"
    reason: str | None
    findings: tuple[str, ...] | None


class JournalPoisoned(Damaged):
    """A write or sync failed in a way that this handle can't repair: open the journal anew."""

    code = "journal-poisoned"
    cause: BaseException | None


class JournalRewound(Damaged):
    """The journal lost events that this reader had already seen."""

    code = "journal-rewound"


class FutureFormat(Damaged):
    """The file was written by a newer version of batpak."""

    code = "future-format"
    found: int | None
    supported: int | None


class UnsupportedFeature(Damaged):
    """A segment uses features that this version does not know; `bits` names them."""

    code = "unsupported-feature"
    bits: int | None
