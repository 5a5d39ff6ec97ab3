"""A journal without a store: events, receipts, checkpoints and bundles, made in memory.

Uses the pure rooms alone, with fixed keys and times, so that the same calls give the same
bytes every time. What a store would refuse can be made here, for verifiers to refuse.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batpak import canonical, kinds
from batpak.bundle import Bundle, KeyEvent, ShownEvent
from batpak.coordinate import Coordinate
from batpak.event import (
    CODEC_PLAIN,
    CODEC_SALTED,
    NO_HASH,
    NO_ID,
    ROW,
    ROW_VERSION,
    Event,
    content_hash,
    id_of_hlc,
)
from batpak.kinds import EventKind
from batpak.proof.merkle import leaf_hash
from batpak.proof.notes import COSIGNATURE, Checkpoint, Key, Note, Policy
from batpak.receipt import AppendReceipt, ReceiptKey, encode_extensions
from batpak.signing import SigningKey
from batpak.tlog.signing import sign_note
from batpak.tlog.trees import consistency_proof, inclusion_proof, subtrees_of, tree_root

JOURNAL_ID = UUID("6f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0")
ORIGIN = "example.com/journal"
START_MS = 1_750_000_000_000
MOVED = EventKind(0xF, 1)
LIFECYCLE = Coordinate("batpak:store", "batpak:lifecycle")

LOG = SigningKey.from_seed(bytes([0x11] * 32)).private
RECEIPTS = SigningKey.from_seed(bytes([0x22] * 32)).private
LATER_RECEIPTS = SigningKey.from_seed(bytes([0x33] * 32)).private
WITNESSES = {
    name: SigningKey.from_seed(bytes([seed] * 32)).private
    for name, seed in (("w1.example", 0x41), ("w2.example", 0x42), ("w3.example", 0x43))
}
COSIGNED_AT = 1_750_000_123


def public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


LOG_KEY = Key(ORIGIN, public(LOG))
WITNESS_KEYS = tuple(Key(name, public(key), COSIGNATURE) for name, key in WITNESSES.items())
POLICY = Policy(LOG_KEY, WITNESS_KEYS, 2)
RECEIPT_KEY = ReceiptKey(public(RECEIPTS))


class SmallLog:
    """Events in the order of their sequences, as a store would have written them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._newest: dict[str, Event] = {}

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_hash(event.event_hash) for event in self.events]

    def append(
        self,
        coordinate: Coordinate,
        payload: object,
        kind: EventKind = MOVED,
        *,
        codec: int = CODEC_SALTED,
        **extensions: bytes,
    ) -> Event:
        sequence = len(self.events)
        hlc = (START_MS + sequence) << 16
        event_id = id_of_hlc(hlc, 0x123456789ABCDE0 + sequence)
        before = self._newest.get(coordinate.entity)
        entity, scope = coordinate.entity.encode(), coordinate.scope.encode()
        more = encode_extensions({k.replace("_", "."): v for k, v in extensions.items()})
        salt = bytes([sequence % 256] * 16) if codec == CODEC_SALTED else b""
        envelope = salt + canonical.encode(payload)
        row = ROW.pack(
            sequence, event_id, event_id, NO_ID, (START_MS + sequence) * 1000, hlc,
            0 if before is None else before.clock + 1, 0, 0, len(more), kind.raw, 1, 0,
            len(entity), len(scope), ROW_VERSION, codec, len(envelope), 0,
            content_hash(codec, envelope), NO_HASH if before is None else before.event_hash,
        )  # fmt: skip
        event = Event(row, entity + scope + more, envelope)
        self.events.append(event)
        self._newest[coordinate.entity] = event
        return event

    def system(self, kind: EventKind, payload: dict[str, Any]) -> Event:
        return self.append(LIFECYCLE, payload, kind, codec=CODEC_PLAIN)

    def add_key(self, private: Ed25519PrivateKey) -> Event:
        return self.system(kinds.SYSTEM_KEY_ADDED, {"public_key": public(private)})

    def retire_key(self, private: Ed25519PrivateKey) -> Event:
        key_id = ReceiptKey(public(private)).key_id
        return self.system(kinds.SYSTEM_KEY_RETIRED, {"key_id": key_id})

    def receipt(self, sequence: int, private: Ed25519PrivateKey | None) -> AppendReceipt:
        event = self.events[sequence]
        row = event.row
        unsigned = AppendReceipt(
            JOURNAL_ID,
            (sequence, row.event_id, row.hlc, row.clock, event.event_hash, row.prev_hash),
            event.coordinate,
            row.kind,
            row.content_hash,
            encode_extensions(event.extensions),
            durable=True,
        )
        return unsigned if private is None else signed(unsigned, private)

    def root(self, size: int) -> bytes:
        return tree_root(subtrees_of(self.leaves), size)

    def checkpoint(self, size: int, *witnesses: str, origin: str = ORIGIN) -> str:
        text = str(Checkpoint(origin, size, self.root(size)))
        lines = [sign_note(text, origin, LOG)]
        lines += [sign_note(text, name, WITNESSES[name], COSIGNED_AT) for name in witnesses]
        return str(Note(text, tuple(lines)))

    def inclusion(self, first: int, size: int, count: int = 1) -> list[str]:
        proof = inclusion_proof(subtrees_of(self.leaves), first, size, count)
        return [digest.hex() for digest in proof]

    def key_event(self, sequence: int, size: int) -> KeyEvent:
        shown: KeyEvent = KeyEvent.of(
            self.events[sequence], inclusion=self.inclusion(sequence, size)
        )
        return shown

    def bundle(
        self,
        first: int,
        count: int = 1,
        *,
        size: int | None = None,
        earlier: int | None = None,
        private: Ed25519PrivateKey | None = RECEIPTS,
        key_events: tuple[int, ...] = (),
        withhold: bool = False,
        witnesses: tuple[str, ...] = ("w1.example", "w3.example"),
    ) -> Bundle:
        size = len(self.events) if size is None else size
        proof = consistency_proof(subtrees_of(self.leaves), earlier or 0, size)
        return Bundle(
            events=[
                ShownEvent.of(
                    self.events[at],
                    None if private is None else self.receipt(at, private),
                    withhold=withhold,
                )
                for at in range(first, first + count)
            ],
            inclusion=self.inclusion(first, size, count),
            checkpoint=self.checkpoint(size, *witnesses),
            earlier=None if earlier is None else self.checkpoint(earlier),
            consistency=[] if earlier is None else [digest.hex() for digest in proof],
            key_events=[self.key_event(at, size) for at in key_events],
        )


def signed(receipt: AppendReceipt, private: Ed25519PrivateKey) -> AppendReceipt:
    plain = receipt.to_json()
    signature = private.sign(receipt.signed_message).hex()
    key_id = ReceiptKey(public(private)).key_id.hex()
    plain = plain.replace('"key_id": null', f'"key_id": "{key_id}"')
    return AppendReceipt.from_json(
        plain.replace('"signature": null', f'"signature": "{signature}"')
    )


def example() -> SmallLog:
    """Fourteen events: two entities, system events, a key that is retired and one after it."""
    log = SmallLog()
    alice, bob = Coordinate("player:alice", "room:dungeon"), Coordinate("player:bob", "room:küche")
    log.system(kinds.SYSTEM_OPEN_COMPLETED, {"epoch": 1, "resumed_at": 0, "cut_bytes": 0})
    log.add_key(RECEIPTS)
    log.append(alice, {"x": 1, "y": 2})
    log.append(bob, {"x": 3, "y": 4}, acme_trace=b"\x01\xff")
    log.append(alice, {"x": 5, "y": 6})
    log.system(kinds.SYSTEM_LOG_CHECKPOINT, {"size": 5, "root": log.root(5), "note": "…"})
    log.append(alice, {"x": 7, "y": 8})
    log.append(bob, "", codec=CODEC_PLAIN)
    log.retire_key(RECEIPTS)
    log.add_key(LATER_RECEIPTS)
    log.append(bob, {"x": 9, "y": 10})
    log.append(alice, {"x": 11, "y": 12})
    log.system(kinds.SYSTEM_CLOSE_COMPLETED, {"epoch": 1, "events": 12})
    log.append(alice, {"x": 13, "y": 14})
    return log
