"""Which receipt keys were in force when: read from the journal's own events, and nowhere else.

0x0015 begins a key's span, 0x0016 ends it; a signature counts only for sequences inside.
A retired key never comes back: whoever has it could sign for new events. Knows public keys
only. Source: docs/format.md, "System events"; docs/decisions/0053.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from batpak import canonical
from batpak.config import Signer
from batpak.engine.checkpoints import checkpoint_signed_with
from batpak.engine.reading import LogReader
from batpak.engine.system import LIFECYCLE, key_added_event
from batpak.errors import CanonicalError, InvalidInput
from batpak.event import Event
from batpak.index.query import Query
from batpak.journal.commits import Prepared
from batpak.kinds import SYSTEM_KEY_ADDED, SYSTEM_KEY_RETIRED
from batpak.proof.merkle import MAX_SIZE
from batpak.receipt import ReceiptKey

__all__ = ["KeyLedger", "KeySpan"]

_KINDS: Final = Query(
    entity=LIFECYCLE.entity_bytes,
    kinds=(SYSTEM_KEY_ADDED.raw, SYSTEM_KEY_RETIRED.raw),
    exact=True,
)


@dataclass(frozen=True, slots=True)
class KeySpan:
    """A receipt key and the sequences that its signatures count for."""

    key_id: bytes
    """BLAKE3 of the public key, 32 bytes."""
    public_key: bytes
    since: int
    """Sequence of the event that introduced it; it counts from there on."""
    until: int | None = None
    """Sequence of the event that retired it, from which on it does not count; None: in force."""

    def covers(self, sequence: int) -> bool:
        """Whether a signature for this sequence counts."""
        return self.since <= sequence and (self.until is None or sequence < self.until)

    @property
    def as_receipt_key(self) -> ReceiptKey:
        """The same for `batpak.proof`."""
        return ReceiptKey(
            self.public_key, self.since, MAX_SIZE if self.until is None else self.until
        )


class KeyLedger:
    """The spans of all keys of a journal, read on from where it stood at the last question."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._lock = threading.RLock()
        # guarded by _lock; the tuple is replaced, never changed
        self._bound = 0
        self._spans: tuple[KeySpan, ...] = ()

    def spans(self, bound: int) -> tuple[KeySpan, ...]:
        """All keys that events below `bound` introduced, in that order."""
        if bound <= self._bound:
            return self._spans
        with self._lock:
            spans = list(self._spans)
            for event in self._reader.scan(_KINDS, self._bound, bound):
                _apply(spans, event)
            self._spans, self._bound = tuple(spans), bound
            return self._spans

    def introductions(self, signers: Sequence[Signer], bound: int) -> list[Prepared]:
        """Events for keys that the journal does not know.

        Raises InvalidInput for one that was retired, or that signed a checkpoint.
        """
        known = {span.key_id: span for span in self.spans(bound)}
        events: list[Prepared] = []
        for signer in signers:
            key_id = ReceiptKey(signer.public_key).key_id
            span = known.get(key_id)
            if span is None:
                signed = checkpoint_signed_with(self._reader, signer.public_key, bound)
                if signed is not None:
                    # Whoever checks must be able to tell what a signature was made for.
                    raise InvalidInput(
                        f"this key signed the checkpoint over {signed.size} events, so it signs "
                        "no receipts of this journal",
                        field="signing_keys",
                        value=key_id.hex(),
                        advice="make a key for receipts with: batpak keys new FILE",
                    )
                events.append(key_added_event(key_id=key_id, public_key=signer.public_key))
            elif span.until is not None:
                raise InvalidInput(
                    f"the signing key {key_id.hex()[:16]} was retired by event {span.until}, "
                    "and a retired key never signs again",
                    field="signing_keys",
                    value=key_id.hex(),
                    advice="make a new one with: batpak keys new FILE",
                )
        return events


def _apply(spans: list[KeySpan], event: Event) -> None:
    """Begin or end a span. What this version can't read changes nothing."""
    try:
        told = cast("dict[str, Any]", canonical.decode(event.raw))
        key_id = bytes(told["key_id"])
    except (CanonicalError, KeyError, TypeError, ValueError):
        return
    place = next((i for i, span in enumerate(spans) if span.key_id == key_id), None)
    if event.kind == SYSTEM_KEY_RETIRED:
        if place is not None and spans[place].until is None:
            span = spans[place]
            spans[place] = KeySpan(span.key_id, span.public_key, span.since, event.sequence)
        return
    public_key = told.get("public_key")
    if (
        place is None
        and told.get("algorithm") == "ed25519"
        and isinstance(public_key, bytes)
        and len(public_key) == 32
        and ReceiptKey(public_key).key_id == key_id
    ):
        spans.append(KeySpan(key_id, public_key, event.sequence))
