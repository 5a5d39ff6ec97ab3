"""Proofs out of a journal: that events are in a checkpoint's tree, and that trees only grew.

Reads tiles where they are good and the log where they are not, and gives away no proof that
it has not verified against the checkpoint's root. A reader that may not write makes none of
them again. What verifies these: batpak.proof; forms: docs/proofs.md, "Bundles".
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from batpak.bundle import MAX_BUNDLE_LENGTH, Bundle, KeyEvent, ShownEvent
from batpak.engine.checkpoints import StoredCheckpoint
from batpak.engine.keys import KeySpan
from batpak.engine.progress import Meter
from batpak.engine.reading import LogReader
from batpak.engine.system import LIFECYCLE
from batpak.engine.tree import Tree, subtrees_of_log
from batpak.errors import InvalidInput, JournalCorrupt, ProofInvalid
from batpak.event import Event
from batpak.index.query import Query
from batpak.journal.layout import Layout
from batpak.proof.merkle import leaf_hash, verify_consistency, verify_range
from batpak.receipt import AppendReceipt
from batpak.tlog.trees import Subtree, consistency_proof, inclusion_proof, tree_root

__all__ = ["MAX_KEY_EVENTS", "MAX_RANGE", "ConsistencyProof", "Prover", "check_length"]

T = TypeVar("T")

MAX_RANGE: Final = 65_536
"""Most events in one bundle."""
_LEAST: Final = 800
"""Bytes that an event takes in a bundle at least, beside its names and its payload."""
MAX_KEY_EVENTS: Final = 64
"""Most of the journal's own events that a bundle carries to show that a key was not retired."""
_LIFECYCLE: Final = Query(entity=LIFECYCLE.entity_bytes, exact=True)


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the first `old_size` events of a checkpoint's journal have the root `old_root`."""

    old_size: int
    old_root: bytes
    checkpoint: StoredCheckpoint
    hashes: tuple[bytes, ...]
    """RFC 9162 consistency proof, 32 bytes each."""

    def request(self) -> str:
        """What a witness is asked with: the old size, the proof, an empty line, the note."""
        lines = "".join(f"{b64encode(each).decode()}\n" for each in self.hashes)
        return f"old {self.old_size}\n{lines}\n{self.checkpoint.note}"


def check_length(events: Sequence[Event], *, withhold_payload: bool) -> None:
    """Raises InvalidInput where a bundle of these events is too long by their bytes alone.

    Before anything is signed: what comes out is measured once more.
    """
    least = 0
    for event in events:
        envelope = b"" if withhold_payload else event.envelope or b""
        least += _LEAST + 2 * (len(event.metadata_bytes) + len(envelope))
    _check_length(least, events, withhold_payload)


def _check_length(length: int, events: Sequence[Event], withhold_payload: bool) -> None:
    # A file of it ends in a newline.
    if length < MAX_BUNDLE_LENGTH:
        return
    advice = ["prove fewer events at once"] if len(events) > 1 else []
    if not withhold_payload:
        advice.append("leave payloads out: withhold_payload=True, or --withhold-payload")
    raise InvalidInput(
        f"the bundle would have {length} bytes or more, and no verifier reads one of more than "
        f"{MAX_BUNDLE_LENGTH}",
        field="end" if len(events) > 1 else "event_id",
        value=events[-1].sequence + 1 if len(events) > 1 else events[0].event_id,
        advice=", or ".join(advice),
    )


class Prover:
    """Makes proofs of one journal."""

    def __init__(
        self,
        layout: Layout,
        reader: LogReader,
        tree: Tree,
        *,
        may_write: bool,
        meter: Meter | None = None,
    ) -> None:
        """`meter` is told events of the checkpoint's tree, where the tree has to be made."""
        self._layout = layout
        self._reader = reader
        self._tree = tree
        self._may_write = may_write
        self._meter = meter or Meter(None)
        self._of_log: Subtree | None = None

    def consistency(self, old_size: int, checkpoint: StoredCheckpoint) -> ConsistencyProof:
        """Raises InvalidInput, JournalCorrupt, StorageFailed."""
        new = checkpoint.size
        if isinstance(old_size, bool) or not isinstance(old_size, int) or not 0 <= old_size <= new:
            raise InvalidInput(
                f"the checkpoint over {new} events did not grow out of one of this size",
                field="old",
                value=old_size,
                advice=f"give a size from 0 to {new}: what was seen of this journal last",
            )

        def attempt(subtree: Subtree) -> tuple[bytes, list[bytes]] | None:
            old_root = tree_root(subtree, old_size)
            hashes = consistency_proof(subtree, old_size, new)
            good = verify_consistency(old_size, old_root, new, checkpoint.root, hashes)
            return (old_root, hashes) if good else None

        old_root, hashes = self._proved(checkpoint, attempt)
        return ConsistencyProof(old_size, old_root, checkpoint, tuple(hashes))

    def inclusion(
        self, first: int, event_hashes: Sequence[bytes], checkpoint: StoredCheckpoint
    ) -> list[bytes]:
        """Proof that these are the events from `first` on. Raises JournalCorrupt, StorageFailed."""
        leaves = [leaf_hash(each) for each in event_hashes]

        def attempt(subtree: Subtree) -> list[bytes] | None:
            hashes = inclusion_proof(subtree, first, checkpoint.size, len(leaves))
            good = verify_range(leaves, first, checkpoint.size, hashes, checkpoint.root)
            return hashes if good else None

        return self._proved(checkpoint, attempt)

    def _proved(self, checkpoint: StoredCheckpoint, attempt: Callable[[Subtree], T | None]) -> T:
        """The first attempt that verifies: from tiles, from new tiles, or from the log."""
        size, tree = checkpoint.size, self._tree
        self._meter.total = size
        # Twice: a checkpoint that was made meanwhile took partial tiles away.
        for _ in range(2):
            if not tree.trust(size, checkpoint.root):
                break
            try:
                found = attempt(tree.subtrees())
            except ProofInvalid:
                continue
            if found is not None:
                return found
        # Tiles are missing or not what they were: they are made of the log.
        tree.forget()
        if self._may_write:
            tree.grow(size, self._meter.tell)
            found = attempt(tree.subtrees())
        else:
            if self._of_log is None:
                self._of_log = subtrees_of_log(self._reader, self._meter.tell)
            found = attempt(self._of_log)
        if found is None:
            tree.forget()
            raise JournalCorrupt(
                f"the first {size} events are not those that their checkpoint was signed over, "
                "so it proves nothing about them",
                file=self._layout.checkpoint(size),
                reason="checkpoint-root",
                first=0,
                last=size - 1,
                advice="the journal was rewritten, or the checkpoint: "
                f"run: batpak verify {self._layout.root}",
            )
        return found

    def bundle(
        self,
        events: Sequence[Event],
        receipts: Sequence[AppendReceipt],
        checkpoint: StoredCheckpoint,
        spans: Sequence[KeySpan],
        *,
        withhold_payload: bool,
        since: StoredCheckpoint | None = None,
    ) -> Bundle:
        """One JSON file that shows events whose sequences follow each other.

        The events that show the keys of signed receipts in force come with it. Raises
        InvalidInput for one that is too long to be read, JournalCorrupt, StorageFailed.
        """
        shown: list[ShownEvent] = [
            ShownEvent.of(event, receipt, withhold=withhold_payload)
            for event, receipt in zip(events, receipts, strict=True)
        ]
        first = events[0].sequence
        inclusion = self.inclusion(first, [event.event_hash for event in events], checkpoint)
        consistency: list[str] = []
        if since is not None:
            consistency = _hexes(self.consistency(since.size, checkpoint).hashes)
        key_events = [
            self._key_event(place, checkpoint)
            for place in self._key_places(receipts, spans, checkpoint.size)
        ]
        made = Bundle(
            events=shown,
            inclusion=_hexes(inclusion),
            checkpoint=checkpoint.note,
            earlier=None if since is None else since.note,
            consistency=consistency,
            key_events=key_events,
        )
        _check_length(len(made.to_json().encode()), events, withhold_payload)
        return made

    def _key_places(
        self, receipts: Sequence[AppendReceipt], spans: Sequence[KeySpan], size: int
    ) -> list[int]:
        """Which events show the keys of signed receipts in force.

        All that the journal wrote about itself from a key's introduction to the first after
        the last event shown: as the clocks of these follow each other, no retirement can have
        been left out. Where they are too many, those of the keys themselves.
        """
        signed = [receipt for receipt in receipts if receipt.signature is not None]
        used = {receipt.key_id for receipt in signed}
        own = [span for span in spans if span.key_id in used]
        if not own:
            return []
        first, last = min(span.since for span in own), max(r.sequence for r in signed)
        places: list[int] = []
        for event in self._reader.scan_summaries(_LIFECYCLE, first, size):
            places.append(event.sequence)
            if event.sequence > last:
                return places
            if len(places) == MAX_KEY_EVENTS:
                break
        else:
            return places
        ends = [span.until for span in own if span.until is not None and span.until < size]
        return sorted([*(span.since for span in own), *ends])

    def _key_event(self, sequence: int, checkpoint: StoredCheckpoint) -> KeyEvent:
        event = self._reader.at(sequence)
        inclusion = _hexes(self.inclusion(sequence, [event.event_hash], checkpoint))
        return KeyEvent.of(event, inclusion=inclusion)


def _hexes(values: Sequence[bytes]) -> list[str]:
    return [value.hex() for value in values]
