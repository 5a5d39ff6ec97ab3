"""What all rules of the model share: store, book, and how the two are held together.

A rule first has the book judge a commit, then makes the call, then compares. What waits in
the queue is judged in its order before anything that comes after it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant

from batpak import (
    AppendReceipt,
    Durability,
    EventKind,
    Frontier,
    Item,
    ReadOnlyStore,
    Store,
    canonical,
)
from batpak.config import Every
from batpak.engine.staging import Fence, Outbox
from batpak.errors import ConditionFailed
from batpak.kinds import SYSTEM_KEY_ADDED, SYSTEM_OPEN_COMPLETED
from tests.property.journal_model.book import Book, Commit, Kept, Outcome, Wanted
from tests.property.journal_model.drawn import KEYS, Conditions, Drawn, Keyed
from tests.support.faulty_files import FaultyFiles
from tests.support.proofs import LOG, ORIGIN, RECEIPTS
from tests.watched_files import WAIT

IDS = Bundle("ids")
"""Ids of events that were written; some may be gone after an older state was restored."""

BATCH_MAX = 40
PAYLOAD_MAX = 2000
RECEIPT_FIELDS = (
    "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment", "event_hash",
    "prev_hash", "extensions",
)  # fmt: skip


@dataclass
class Queued:
    """A commit in the queue of `submit`."""

    commit: Commit
    future: Future[Any]
    outcome: Outcome | None = None
    """None as long as what comes before it is not judged."""


@dataclass
class Staged:
    """Commits put together in memory: the fence or the outbox and what it holds."""

    holder: Fence | Outbox
    conditions: Conditions
    after: int | None
    expect: tuple[str, int] | None
    events: list[Wanted]
    tickets: list[Future[AppendReceipt]]


@dataclass
class Follower:
    """A reader of the same journal, and how much it has seen."""

    reader: ReadOnlyStore
    seen: int


class Base(RuleBasedStateMachine):
    """One journal, the book, and everything that is open around them."""

    @initialize(
        durability=st.sampled_from((Durability.SYNC, Durability.OS, Every(ms=3_600_000, events=3))),
        codec=st.sampled_from(("salted", "plain")),
        preallocate=st.sampled_from((0, 1 << 16)),
        proves=st.booleans(),
    )
    def create(
        self, durability: Durability | Every, codec: str, preallocate: int, proves: bool
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batpak-model-"))
        self.path = self.folder / "journal"
        self.options: dict[str, Any] = {
            "durability": durability,
            "codec": codec,
            "preallocate": preallocate,
            "segment_max_bytes": 4096,
            "max_open_files": 4,
            "batch_max_events": BATCH_MAX,
            "payload_max_bytes": PAYLOAD_MAX,
            "submit_capacity": 6,
        }
        self.proves = proves
        if proves:
            self.options |= {"origin": ORIGIN, "signing_keys": (RECEIPTS,), "checkpoint_key": LOG}
        self.now_us = 1_700_000_000_000_000
        self.book = Book()
        self.sure = 0
        """How many events are certainly written, whatever the queue does."""
        self.queued: list[Queued] = []
        self.fence: Staged | None = None
        self.outbox: Staged | None = None
        self.followers: list[Follower] = []
        self.snapshots: list[tuple[Path, Book]] = []
        self.places = 0
        self.open_store()
        if proves:
            self.book.keep_own(SYSTEM_KEY_ADDED)
        self.sure = len(self.book)

    def new_place(self, name: str) -> Path:
        """A path that nothing stands at."""
        self.places += 1
        return self.folder / f"{name}-{self.places}"

    def open_store(self) -> None:
        self.files = FaultyFiles()
        self.store = Store.open(
            self.path, clock=lambda: self.now_us, files=self.files, **self.options
        )
        self.book.keep_own(SYSTEM_OPEN_COMPLETED)
        self.frontier: Frontier | None = None

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.finish()
        finally:
            self.store.close()
            for follower in self.followers:
                follower.reader.close()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """What has to hold at the end."""
        raise NotImplementedError

    # --- what is asked, looked up ----------------------------------------------------

    def resolve(self, drawn: Sequence[Drawn | Keyed], first: int = 0) -> list[Wanted]:
        """Events to write; the first of them has place `first` in its commit."""
        return [self._wanted(each, place) for place, each in enumerate(drawn, first)]

    def _wanted(self, drawn: Drawn | Keyed, place: int) -> Wanted:
        if isinstance(drawn, Keyed):
            pool = [*KEYS, *(k.event_id for k in self.book.events if k.receipt and k.event_id)]
            key = pool[drawn.key % len(pool)]
            kept = self.book.known.get(key)
            if drawn.differs != "wholly" and kept is not None and kept.raw is not None:
                kind = kept.kind if drawn.differs != "kind" else EventKind(2, kept.kind.type_id)
                raw = kept.raw if drawn.differs != "payload" else kept.raw + b"!"
                return Wanted(kept.coordinate, kind, raw, raw, True, 0, 0, 0, {}, key, None)
            return self._made(drawn.drawn, key, None)
        told = [kept.event_id for kept in self.book.events if kept.receipt is not None]
        cause: bytes | int | None = None
        if drawn.cause is not None:
            if place and drawn.cause % 2:
                cause = drawn.cause % place
            elif told:
                cause = told[drawn.cause % len(told)]
        return self._made(drawn, None, cause)

    @staticmethod
    def _made(drawn: Drawn, key: bytes | None, cause: bytes | int | None) -> Wanted:
        raw = drawn.payload if drawn.is_raw else canonical.encode(drawn.payload)
        return Wanted(
            drawn.coordinate, drawn.kind, drawn.payload, raw, drawn.is_raw, drawn.lane,
            drawn.depth, drawn.flags, drawn.extensions or {}, key, cause,
        )  # fmt: skip

    def expectation(self, entity: str, conditions: Conditions) -> tuple[str, int] | None:
        """The entity and the clock that its next event has to get, right or wrong."""
        if conditions.clock is None:
            return None
        self.foresee()
        count = self.book.clocks[entity]
        clock = {"right": count, "behind": max(count - 1, 0), "ahead": count + 1, "empty": 0}
        return entity, clock[conditions.clock]

    def after(self, conditions: Conditions) -> int | None:
        """The last sequence that the decision has seen: one that is surely written."""
        if conditions.after is None or not self.sure:
            return None
        return self.sure - 1 if conditions.after < 0 else conditions.after % self.sure

    # --- the book and the store held together --------------------------------------------

    def foresee(self) -> None:
        """Have the book judge what is queued, in its order."""
        for queued in self.queued:
            if queued.outcome is None:
                queued.outcome = self.book.commit(queued.commit)

    def settle(self) -> None:
        """Wait for the queue, and hold each future to what the book says."""
        self.foresee()
        queued, self.queued = self.queued, []
        for each in queued:
            assert each.outcome is not None, "just judged"
            self.hold(each.commit, each.outcome, lambda f=each.future: f.result(WAIT))
        self.sure = len(self.book)

    def commit(self, commit: Commit, call: Callable[[], Any]) -> Outcome:
        """A commit that the calling thread makes itself: after what it has queued."""
        self.foresee()
        outcome = self.book.commit(commit)
        queued = [each.future for each in self.queued]

        def held() -> Any:
            try:
                answer = call()
            finally:
                self.settle()
            assert all(future.done() for future in queued), "it overtook the queue"
            return answer

        self.hold(commit, outcome, held)
        self.sure = len(self.book)
        return outcome

    def hold(self, commit: Commit, outcome: Outcome, call: Callable[[], Any]) -> None:
        """Make the call, and compare what comes of it with what has to."""
        if outcome.refused is not None:
            with pytest.raises(outcome.refused) as raised:
                call()
            for name, value in outcome.facts.items():
                assert getattr(raised.value, name) == value, name
            if isinstance(raised.value, ConditionFailed):
                assert raised.value.sequence in outcome.found
            return
        answer = call()
        receipts = answer if isinstance(answer, (tuple, list)) else (answer,)
        assert len(receipts) == len(commit.events)
        for kept, receipt in zip(outcome.replayed, receipts, strict=bool(outcome.replayed)):
            assert receipt.replayed
            assert receipt.event_id.bytes == kept.event_id
            assert receipt.sequence == kept.sequence
            if kept.receipt is not None:
                for name in RECEIPT_FIELDS:
                    assert getattr(receipt, name) == getattr(kept.receipt, name), name
        if outcome.written:
            self.told(outcome.written, receipts)

    def told(self, written: Sequence[Kept], receipts: Sequence[AppendReceipt]) -> None:
        """The book learns what new events got."""
        for kept, receipt in zip(written, receipts, strict=True):
            assert not receipt.replayed
            assert (receipt.sequence, receipt.clock) == (kept.sequence, kept.clock)
            assert receipt.durable or self.options["durability"] is not Durability.SYNC
            self.book.name(kept, receipt.event_id.bytes, receipt.event_hash)
            kept.receipt = receipt

    @staticmethod
    def items(commit: Commit) -> list[Item]:
        """The commit's events for `append_many` and `submit_many`."""
        return [wanted.item for wanted in commit.events]

    @invariant()
    def all_is_visible_and_nothing_goes_back(self) -> None:
        if not hasattr(self, "store"):
            return
        length = len(self.store)
        waiting = sum(len(each.commit.events) for each in self.queued)
        if self.queued:
            assert self.sure <= length <= self.sure + waiting
        else:
            assert length == len(self.book)
        now = self.store.frontier()
        points = (now.durable, now.visible, now.written, now.accepted)
        assert all(a <= b for a, b in pairwise(points)), now
        if self.frontier is not None:
            for name in ("durable", "visible", "written", "accepted", "applied"):
                assert getattr(self.frontier, name) <= getattr(now, name), name
        self.frontier = now
