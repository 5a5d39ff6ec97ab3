"""Rules of the model that erase, compact, prove, copy and refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import precondition, rule

from batpak import Coordinate, EventKind, Expect, Item, Prior, Region, Store, Unless
from batpak.errors import (
    BatchTooLarge,
    CanonicalError,
    DestinationTaken,
    EventNotFound,
    ExtensionError,
    FenceTooLarge,
    InvalidInput,
    KeyInvalid,
    NotCheckpointed,
    NotErasable,
    PayloadTooLarge,
    ReservedKind,
    ReservedName,
    UnregisteredPayload,
)
from batpak.kinds import SYSTEM_COMPACTION, SYSTEM_ERASURE, SYSTEM_LOG_CHECKPOINT
from batpak.proof import verify_bundle
from batpak.proof.merkle import leaf_hash, verify_consistency
from batpak.tlog.trees import root_of
from tests.property.journal_model.base import BATCH_MAX, PAYLOAD_MAX, Base
from tests.property.journal_model.book import Kept
from tests.property.journal_model.drawn import NAMES, REGIONS
from tests.support.faulty_files import DISK
from tests.support.proofs import LOG_KEY, POLICY

A = Coordinate("a", "s")
KIND = EventKind(1, 0)
FAR = 1 << 40


def _nothing(store: Store) -> list[Item]:
    return []


def _item(**options: Any) -> Item:
    return Item(A, 0, kind=KIND, **options)


def _overfill(store: Store) -> None:
    box = store.outbox()
    for _ in range(BATCH_MAX + 1):
        box.stage(A, 0, kind=KIND)


Call = Callable[[Store], Any]

BAD: dict[str, tuple[type[Exception], Call]] = {
    "no coordinate": (InvalidInput, lambda s: s.append("a", 0, kind=KIND)),  # type: ignore[arg-type]  # the point
    "our name": (ReservedName, lambda s: s.append(Coordinate("batpak:x", "s"), 0, kind=KIND)),
    "our kind": (ReservedKind, lambda s: s.append(A, 0, kind=EventKind.from_raw(8))),
    "no kind": (UnregisteredPayload, lambda s: s.append(A, 0)),
    "no value": (CanonicalError, lambda s: s.append(A, object(), kind=KIND)),
    "too long": (PayloadTooLarge, lambda s: s.append_raw(A, KIND, bytes(PAYLOAD_MAX + 1))),
    "no bytes": (InvalidInput, lambda s: s.append_raw(A, KIND, "text")),  # type: ignore[arg-type]  # the point
    "lane": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, lane=-1)),
    "depth": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, depth=1 << 32)),
    "flags": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, flags=256)),
    "our extension": (
        ExtensionError,
        lambda s: s.append(A, 0, kind=KIND, extensions={"batpak.x": b""}),
    ),
    "zero key": (KeyInvalid, lambda s: s.append(A, 0, kind=KIND, key=bytes(16))),
    "short key": (KeyInvalid, lambda s: s.submit(A, 0, kind=KIND, key=bytes(15))),
    "expect": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, expect=-1)),
    "a future condition": (
        InvalidInput,
        lambda s: s.append(A, 0, kind=KIND, unless=Unless(Region(), after=FAR)),
    ),
    "on_replay": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, on_replay="maybe")),  # type: ignore[arg-type]  # the point
    "timeout": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, timeout=-1)),
    "wait": (InvalidInput, lambda s: s.append(A, 0, kind=KIND, wait="durable")),  # type: ignore[arg-type]  # the point
    "no items": (InvalidInput, lambda s: s.append_many([])),
    "too many items": (BatchTooLarge, lambda s: s.append_many([_item()] * (BATCH_MAX + 1))),
    "a bad item": (CanonicalError, lambda s: s.append_many([_item(), Item(A, {1}, kind=KIND)])),
    "a later item": (InvalidInput, lambda s: s.append_many([_item(causation=Prior(0))])),
    "a batch's expect": (
        InvalidInput,
        lambda s: s.append_many([_item()], expect=Expect.EMPTY),  # type: ignore[arg-type]  # the point
    ),
    "too many staged": (FenceTooLarge, _overfill),
    "queued, no value": (CanonicalError, lambda s: s.submit(A, object(), kind=KIND)),
    "queued, a bad item": (InvalidInput, lambda s: s.submit_many([_item(), 1])),  # type: ignore[list-item]  # the point
    "erase the future": (EventNotFound, lambda s: s.erase(FAR, reason="asked for")),
    "erase our own": (NotErasable, lambda s: s.erase([0], reason="asked for")),
    "erase without a reason": (InvalidInput, lambda s: s.erase(Region(), reason="")),
    "compact by less than none": (InvalidInput, lambda s: s.compact(min_bytes=-1)),
    "copy over itself": (DestinationTaken, lambda s: s.snapshot(s.path)),
    "prove the future": (InvalidInput, lambda s: s.prove_range(0, FAR)),
    "a checkpoint of no such size": (NotCheckpointed, lambda s: s.stored_checkpoint(FAR)),
}


class Keeping(Base):
    """What happens to events after they are written."""

    @rule(name=st.sampled_from(sorted(BAD)))
    def bad_call(self, name: str) -> None:
        self.settle()
        error, call = BAD[name]
        before = self.store.frontier()
        size = self.written_bytes()
        with pytest.raises(error) as raised:
            call(self.store)
        assert self.store.frontier() == before
        assert self.written_bytes() == size
        if name.endswith("a bad item"):
            assert isinstance(raised.value, InvalidInput)
            assert raised.value.index == 1

    def written_bytes(self) -> int:
        return self.store.stats().segment_bytes

    # --- erasing ------------------------------------------------------------------------

    @rule(
        what=st.sets(st.integers(0, 200), min_size=1, max_size=5)
        | REGIONS
        | st.builds(Region, entity=NAMES),
        durable=st.booleans(),
    )
    def erase(self, what: set[int] | Region, durable: bool) -> None:
        self.settle()
        events = self.book.events
        if isinstance(what, set):
            what = {pick % len(events) for pick in what}
        if isinstance(what, Region):
            chosen = [kept for kept in events if what.matches(kept)]
            own = sum(kept.is_own for kept in chosen)
            named: Any = what
        else:
            chosen = [kept for kept in events if kept.sequence in what and not kept.is_own]
            own, named = 0, [kept.sequence for kept in chosen]
        new = {k.sequence for k in chosen if not k.is_own and k.erased_by is None}
        plan = self.store.plan_erasure(named)
        report = self.store.erase(named, reason="asked for", durable=durable)
        assert plan.sequences == report.sequences
        told = {n for first, last in report.sequences for n in range(first, last + 1)}
        assert told == new
        assert (report.events, report.system) == (len(new), own)
        assert report.already == len(chosen) - own - len(new)
        assert len(report.receipts) == bool(new)
        if new:
            self.book.erase(new, self.book.keep_own(SYSTEM_ERASURE).sequence)
            assert report.receipts[0].durable or not durable
        self.sure = len(self.book)

    @rule()
    def compact(self) -> None:
        """Everything but erased payloads stays, byte by byte."""
        self.settle()
        held = [k for k in self.book.events if k.erased_by is not None and self.is_held(k)]
        assert self.store.plan_compaction().payloads == len(held)
        report = self.store.compact()
        assert (report.outcome, report.payloads) == (
            ("performed", len(held)) if held else ("skipped", 0)
        )
        for kept in held:
            kept.is_held = False
        if held:
            self.book.keep_own(SYSTEM_COMPACTION)
        assert self.store.plan_compaction().payloads == 0
        self.sure = len(self.book)

    def is_held(self, kept: Kept) -> bool:
        """An empty plain payload takes no room, so none can go."""
        return kept.is_held and (self.options["codec"] == "salted" or bool(kept.raw))

    # --- proving ------------------------------------------------------------------------

    def root(self, size: int) -> bytes:
        """What the tree over the first events has to come to."""
        for kept in self.book.events[:size]:
            if kept.event_hash is None:
                event = self.store.at(kept.sequence)
                self.book.name(kept, event.event_id.bytes, event.event_hash)
        return root_of([leaf_hash(kept.event_hash or b"") for kept in self.book.events[:size]])

    @precondition(lambda self: self.proves)
    @rule(pick=st.integers(0, 60), withhold=st.booleans())
    def checkpoint(self, pick: int, withhold: bool) -> None:
        self.settle()
        book, store = self.book, self.store
        is_new, size = not book.only_checkpoints_are_new, len(book)
        made = store.checkpoint()
        assert made.is_new == is_new
        if is_new:
            assert (made.size, made.root) == (size, self.root(size))
            book.checkpoints[size] = made.root
            book.keep_own(SYSTEM_LOG_CHECKPOINT)
            assert store.frontier().durable.sequence == len(book)
        newest = max(book.checkpoints)
        assert (made.size, made.root) == (newest, book.checkpoints[newest])
        for old, root in book.checkpoints.items():
            proof = store.prove_consistency(old)
            assert proof.old_root == root
            assert verify_consistency(old, root, newest, made.root, proof.hashes)
        event = store.at(pick % newest)
        bundle = store.prove(event.event_id, withhold_payload=withhold)
        verdict = verify_bundle(bundle.to_json(), (), POLICY)
        assert verdict.ok, verdict
        # The key itself is introduced by event 1, and signs for nothing before it.
        wanted = {"checkpoint", "inclusion"} | ({"receipt"} if event.sequence else set())
        assert wanted <= {check.name for check in verdict.checks if check.held}
        self.sure = len(book)

    @precondition(lambda self: not self.proves)
    @rule()
    def checkpoint_without_a_key(self) -> None:
        self.settle()
        before = self.store.frontier()
        with pytest.raises(InvalidInput):
            self.store.checkpoint()
        assert self.store.frontier() == before

    @rule(level=st.sampled_from(("chain", "full")))
    def verify(self, level: Any) -> None:
        self.settle()
        report = self.store.verify(level, keys=[LOG_KEY] if self.proves else ())
        assert report.ok, report.findings
        assert report.events == len(self.book)
        if level == "full":
            assert report.root == self.root(len(self.book))

    # --- copying ------------------------------------------------------------------------

    @rule()
    def snapshot(self) -> None:
        self.settle()
        place = self.new_place("snapshot")
        report = self.store.snapshot(place)
        self.root(len(self.book))
        assert report.events == len(self.book)
        assert report.last_hash == self.book.events[-1].event_hash
        self.snapshots = [*self.snapshots[-1:], (place, self.book.copy())]
        with Store.open(place, mode="r", files=DISK) as reader:
            assert [e.event_hash for e in reader] == [k.event_hash for k in self.book.events]

    @precondition(lambda self: self.snapshots)
    @rule(pick=st.integers(0, 3))
    def fork(self, pick: int) -> None:
        """Another journal with the same past, which then goes its own way."""
        source, book = self.snapshots[pick % len(self.snapshots)]
        place = self.new_place("fork")
        report = Store.restore(source, place, files=DISK)
        assert report.journal_id != self.store.journal_id
        with Store.open(place, files=DISK, preallocate=0) as fork:
            hashes = [event.event_hash for event in fork]
            assert hashes[: len(book)] == [kept.event_hash for kept in book.events]
            fork.append(A, 0, kind=KIND)
            report = fork.verify("full")
            assert report.ok, report.findings
        shutil.rmtree(place)
