"""A journal beside a plain list: whatever was appended, every way of reading agrees.

The list knows nothing of segments, indexes or bounds: it holds what was appended in
commit order, the store's own open and close events included, and every question is a
scan of it. Segments are tiny, so answers come from mapped and from growing parts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from batpak import (
    AncestryEnd,
    AppendReceipt,
    CausationId,
    Coordinate,
    CorrelationId,
    Durability,
    Event,
    EventId,
    Item,
    Prior,
    ReadOnlyStore,
    Region,
    Store,
    canonical,
)
from batpak.config import Every
from batpak.event import NO_HASH, PayloadState
from batpak.kinds import (
    SYSTEM_CLOSE_COMPLETED,
    SYSTEM_OPEN_COMPLETED,
    Category,
    EventKind,
)

LIFECYCLE = Coordinate("batpak:store", "batpak:lifecycle")

# Siblings that sort around ":" and share beginnings, so that a wrong bound of a name's
# range takes in a stranger or loses a child.
TREE = ("a", "a:b", "a:b:c", "a:é", "a;", "a9", "ab", "a9:b", "é", "~:a")
NAMES = st.sampled_from(TREE)
SCOPES = st.sampled_from(("s", "t", "ß"))
COORDINATES = st.builds(Coordinate, NAMES, SCOPES)
KINDS = st.sampled_from(
    (EventKind(1, 0), EventKind(1, 1), EventKind(1, 0xFFF), EventKind(0xF, 0), EventKind(0xC, 7))
)
U32 = st.sampled_from((0, 1, 7, 2**32 - 1))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
EXTENSIONS = st.dictionaries(
    st.sampled_from(("acme.trace", "acme.a", "zoo.x")), st.binary(max_size=12), max_size=2
)

REGIONS = st.builds(
    Region,
    entity=st.none() | NAMES | st.sampled_from(("", "a:", "batpak", "batpak:store", "missing")),
    scope=st.none() | SCOPES | st.just("missing"),
    kind=st.none() | KINDS | st.sampled_from((0, 1, 0xC, 0xF)).map(Category),
    clock=st.none() | st.tuples(st.integers(0, 6), st.integers(0, 20)),
)
# Asked at the end of each journal, whatever was drawn before.
ALWAYS = [
    Region(entity, scope, kind, clock)
    for entity in (None, "a", "a:b", "a9", "batpak")
    for scope, kind, clock in (
        (None, None, None),
        ("s", None, None),
        (None, EventKind(1, 1), None),
        (None, Category(1), None),
        (None, None, (0, 0)),
        (None, None, (2, 5)),
        ("t", Category(1), (1, 9)),
    )
]


RECEIPT_FIELDS = (
    "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment", "event_hash",
    "prev_hash", "extensions",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One event as it is drawn; `cause` picks an earlier event, None for a root."""

    coordinate: Coordinate
    kind: EventKind
    payload: Any
    lane: int
    depth: int
    flags: int
    extensions: dict[str, bytes]
    cause: int | None


DRAWN = st.builds(
    Drawn,
    coordinate=COORDINATES,
    kind=KINDS,
    payload=VALUES,
    lane=U32,
    depth=U32,
    flags=st.sampled_from((0, 1, 2, 8, 255)),
    extensions=EXTENSIONS,
    cause=st.none() | st.integers(0, 30),
)


@dataclass
class Kept:
    """What the list knows of an event; `event_id` and hashes come from the receipt."""

    sequence: int
    coordinate: Coordinate
    kind: EventKind
    clock: int
    raw: bytes | None = None
    lane: int = 0
    depth: int = 0
    flags: int = 0
    extensions: dict[str, bytes] = field(default_factory=dict)
    correlation: bytes | None = None
    causation: bytes | None = None
    receipt: AppendReceipt | None = None


class JournalBesideAList(RuleBasedStateMachine):
    """Appends, reopens and refreshes in any order; questions between them."""

    ids = Bundle("ids")

    @initialize(
        durability=st.sampled_from((Durability.SYNC, Durability.OS, Every(ms=3_600_000, events=3))),
        codec=st.sampled_from(("salted", "plain")),
        preallocate=st.sampled_from((0, 1 << 16)),
    )
    def create(self, durability: Durability | Every, codec: str, preallocate: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batpak-model-"))
        self.options = {
            "durability": durability,
            "codec": codec,
            "preallocate": preallocate,
            "segment_max_bytes": 4096,
            "max_open_files": 4,
        }
        self.now_us = 1_700_000_000_000_000
        self.model: list[Kept] = []
        self.clocks: Counter[str] = Counter()
        self.follower: ReadOnlyStore | None = None
        self.followed = 0
        self.open_store()

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.finish()
        finally:
            self.store.close()
            if self.follower is not None:
                self.follower.close()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """At the end a follower has seen everything, and all proofs hold."""
        report = self.store.verify()
        assert report.ok, report.findings
        assert report.events == len(self.model)
        for region in ALWAYS:
            self.ask(self.store, region, len(self.model))
        self.store.close()
        self.keep(LIFECYCLE, SYSTEM_CLOSE_COMPLETED)
        if self.follower is not None:
            assert self.follower.refresh() == len(self.model)
            assert self.follower.verify().ok
            self.compare(self.follower, len(self.model))
        with Store.open(self.folder / "journal", mode="r") as late:
            assert len(late) == len(self.model)
            self.compare(late, len(self.model))
            for region in ALWAYS:
                self.ask(late, region, len(self.model))

    # --- the model ---------------------------------------------------------------

    def keep(self, coordinate: Coordinate, kind: EventKind, **known: Any) -> Kept:
        kept = Kept(len(self.model), coordinate, kind, self.clocks[coordinate.entity], **known)
        self.clocks[coordinate.entity] += 1
        self.model.append(kept)
        return kept

    def keep_drawn(
        self, drawn: Drawn, raw: bytes, receipt: AppendReceipt, cause: AppendReceipt | None
    ) -> None:
        kept = self.keep(
            drawn.coordinate,
            drawn.kind,
            raw=raw,
            lane=drawn.lane,
            depth=drawn.depth,
            flags=drawn.flags,
            extensions=drawn.extensions,
            correlation=receipt.event_id.bytes if cause is None else cause.event_id.bytes,
            causation=None if cause is None else cause.event_id.bytes,
            receipt=receipt,
        )
        assert (receipt.sequence, receipt.clock) == (kept.sequence, kept.clock)

    def earlier(self, pick: int | None) -> AppendReceipt | None:
        written = [kept.receipt for kept in self.model if kept.receipt is not None]
        return written[pick % len(written)] if written and pick is not None else None

    @staticmethod
    def links(cause: AppendReceipt | None) -> dict[str, Any]:
        if cause is None:
            return {}
        raw = cause.event_id.bytes
        return {
            "correlation": CorrelationId.from_bytes(raw),
            "causation": CausationId.from_bytes(raw),
        }

    @staticmethod
    def labels(drawn: Drawn) -> dict[str, Any]:
        return {
            "kind": drawn.kind,
            "lane": drawn.lane,
            "depth": drawn.depth,
            "flags": drawn.flags,
            "extensions": drawn.extensions,
        }

    # --- what a writer does ------------------------------------------------------

    def open_store(self) -> None:
        self.store = Store.open(self.folder / "journal", clock=lambda: self.now_us, **self.options)
        self.keep(LIFECYCLE, SYSTEM_OPEN_COMPLETED)

    @rule(target=ids, drawn=DRAWN, durable=st.booleans())
    def append(self, drawn: Drawn, durable: bool) -> EventId:
        cause = self.earlier(drawn.cause)
        receipt = self.store.append(
            drawn.coordinate,
            drawn.payload,
            durable=durable,
            **self.labels(drawn),
            **self.links(cause),
        )
        self.keep_drawn(drawn, canonical.encode(drawn.payload), receipt, cause)
        assert receipt.durable or not durable
        return receipt.event_id

    @rule(target=ids, drawn=DRAWN, data=st.binary(max_size=200))
    def append_raw(self, drawn: Drawn, data: bytes) -> EventId:
        labels = self.labels(drawn)
        receipt = self.store.append_raw(drawn.coordinate, labels.pop("kind"), data, **labels)
        self.keep_drawn(drawn, data, receipt, None)
        return receipt.event_id

    @rule(target=ids, batch=st.lists(DRAWN, min_size=1, max_size=12))
    def append_many(self, batch: list[Drawn]) -> Any:
        """A cause inside the batch is an item before; else an earlier event, or none."""
        before = [self.earlier(drawn.cause) for drawn in batch]
        inside = [
            drawn.cause % index if index and drawn.cause is not None and drawn.cause % 2 else None
            for index, drawn in enumerate(batch)
        ]
        items = [
            Item(
                drawn.coordinate,
                drawn.payload,
                **self.labels(drawn),
                **(
                    self.links(cause)
                    if prior is None
                    else {"correlation": Prior(prior), "causation": Prior(prior)}
                ),
            )
            for drawn, cause, prior in zip(batch, before, inside, strict=True)
        ]
        receipts = self.store.append_many(items)
        for drawn, cause, prior, receipt in zip(batch, before, inside, receipts, strict=True):
            source = cause if prior is None else receipts[prior]
            self.keep_drawn(drawn, canonical.encode(drawn.payload), receipt, source)
        return multiple(*(receipt.event_id for receipt in receipts))

    @rule(
        target=ids,
        names=st.lists(st.tuples(COORDINATES, KINDS), min_size=1, max_size=6),
        times=st.integers(1, 5),
    )
    def fill_segments(self, names: list[tuple[Coordinate, EventKind]], times: int) -> Any:
        """Enough single commits to reach into a further segment."""
        given = [
            self.append(Drawn(name, kind, turn, 0, 0, 0, {}, None), False)
            for turn in range(times)
            for name, kind in names
        ]
        return multiple(*given[-2:])

    @rule(step=st.sampled_from((-5_000_000, 0, 1, 999, 60_000_000)))
    def time_goes_on_or_back(self, step: int) -> None:
        self.now_us += step

    @rule()
    def sync(self) -> None:
        self.store.sync()
        assert self.store.frontier().durable.sequence == len(self.model)

    @rule(without_sidecars=st.booleans())
    def reopen(self, without_sidecars: bool) -> None:
        self.store.close()
        self.keep(LIFECYCLE, SYSTEM_CLOSE_COMPLETED)
        if without_sidecars:
            for sidecar in (self.folder / "journal" / "segments").glob("*.idx"):
                sidecar.unlink()
        self.open_store()

    # --- what a follower sees ----------------------------------------------------

    @precondition(lambda self: self.follower is None)
    @rule()
    def follow(self) -> None:
        self.follower = Store.open(self.folder / "journal", mode="r", max_open_files=4)
        self.followed = len(self.follower)
        assert self.followed == len(self.store)

    @precondition(lambda self: self.follower is not None)
    @rule(region=REGIONS)
    def follow_without_refresh(self, region: Region) -> None:
        assert self.follower is not None
        assert len(self.follower) == self.followed
        self.ask(self.follower, region, self.followed)

    @precondition(lambda self: self.follower is not None)
    @rule()
    def refresh(self) -> None:
        assert self.follower is not None
        seen = self.follower.refresh()
        assert self.followed <= seen == len(self.follower) == len(self.store)
        self.followed = seen

    @precondition(lambda self: self.follower is not None)
    @rule()
    def stop_following(self) -> None:
        assert self.follower is not None
        self.follower.close()
        self.follower = None

    # --- questions ---------------------------------------------------------------

    @invariant()
    def all_is_visible(self) -> None:
        if hasattr(self, "folder"):
            assert len(self.store) == len(self.model)

    @rule(regions=st.lists(REGIONS, min_size=1, max_size=6))
    def questions(self, regions: list[Region]) -> None:
        for region in regions:
            self.ask(self.store, region, len(self.model))

    def ask(self, store: Store | ReadOnlyStore, region: Region, bound: int) -> None:
        wanted = [kept for kept in self.model[:bound] if region.matches(kept)]
        events = list(store.query(region))
        assert [event.sequence for event in events] == [kept.sequence for kept in wanted]
        for event, kept in zip(events, wanted, strict=True):
            self.same(event, kept)
            assert region.matches(event)
        assert list(store.query(region, payload=False)) == [e.summary() for e in events]
        assert store.count(region) == len(wanted)

    @rule(region=REGIONS, limit=st.integers(1, 7), after=st.none() | st.integers(0, 40))
    def pages(self, region: Region, limit: int, after: int | None) -> None:
        low = -1 if after is None else after
        wanted = [k.sequence for k in self.model if k.sequence > low and region.matches(k)]
        assert [e.sequence for e in self.store.query(region, after=after)] == wanted
        walked: list[int] = []
        while True:
            page = self.store.page(region, after=after, limit=limit)
            walked += [event.sequence for event in page.events]
            if page.exhausted:
                break
            assert len(page.events) == limit
            assert page.next_after == page.events[-1].sequence
            after = page.next_after
        assert walked == wanted

    @rule(name=NAMES | st.sampled_from(("batpak:store", "missing", "a:")))
    def one_entity(self, name: str) -> None:
        wanted = [kept for kept in self.model if kept.coordinate.entity == name]
        events = list(self.store.entity(name))
        assert [event.sequence for event in events] == [kept.sequence for kept in wanted]
        assert [event.clock for event in events] == list(range(len(events)))
        newest = self.store.latest(name)
        assert newest == (events[-1] if events else None)

    @rule(event_id=ids, limit=st.none() | st.integers(1, 5))
    def one_event(self, event_id: EventId, limit: int | None) -> None:
        event = self.store.get(event_id)
        kept = self.model[event.sequence]
        self.same(event, kept)
        assert self.store.at(event.sequence) == event == self.store[event_id]
        chain = [
            other.sequence
            for other in self.model[: event.sequence + 1]
            if other.coordinate.entity == kept.coordinate.entity
        ][::-1]
        walk = self.store.ancestors(event_id, limit=limit)
        assert [each.sequence for each in walk.events] == chain[:limit]
        cut = limit is not None and limit < len(chain)
        assert walk.end is (AncestryEnd.LIMIT if cut else AncestryEnd.GENESIS)

    @rule()
    def statistics(self) -> None:
        stats = self.store.stats()
        assert stats.events == len(self.model)
        assert stats.entities == len(self.clocks)
        assert stats.scopes == len({kept.coordinate.scope for kept in self.model})
        assert dict(stats.kinds) == Counter(kept.kind for kept in self.model)
        files = list((self.folder / "journal" / "segments").glob("*.seg"))
        assert stats.segments == len(files)
        assert stats.segment_bytes <= sum(file.stat().st_size for file in files)

    @rule()
    def everything(self) -> None:
        self.compare(self.store, len(self.model))

    def compare(self, store: Store | ReadOnlyStore, bound: int) -> None:
        """Every event, by scan and by sequence, and the chains through them."""
        heads: dict[str, bytes] = {}
        last_hlc = 0
        seen = 0
        for event, kept in zip(store, self.model[:bound], strict=True):
            self.same(event, kept)
            assert store.at(kept.sequence) == event
            entity = kept.coordinate.entity
            assert event.prev_hash == heads.get(entity, NO_HASH)
            heads[entity] = event.event_hash
            assert event.hlc > last_hlc
            last_hlc = event.hlc
            seen += 1
        assert seen == bound

    def same(self, event: Event, kept: Kept) -> None:
        assert event.sequence == kept.sequence
        assert event.coordinate == kept.coordinate
        assert event.kind == kept.kind
        assert event.clock == kept.clock
        assert event.payload_state is PayloadState.PRESENT
        receipt = kept.receipt
        if receipt is None:
            return
        assert event.raw == kept.raw
        assert (event.lane, event.depth, event.flags) == (kept.lane, kept.depth, kept.flags)
        assert event.extensions == kept.extensions
        assert event.correlation_id.bytes == kept.correlation
        assert (event.causation_id and event.causation_id.bytes) == kept.causation
        assert receipt.journal_id == self.store.journal_id
        for name in RECEIPT_FIELDS:
            assert getattr(event, name) == getattr(receipt, name), name


TestJournalBesideAList = JournalBesideAList.TestCase
TestJournalBesideAList.settings = settings(stateful_step_count=30)
