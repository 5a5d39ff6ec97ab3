"""Rules of the model that read, and followers: every way of asking gives what a scan gives."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import precondition, rule

from batpak import AncestryEnd, Event, EventId, ReadOnlyStore, Region, Store
from batpak.errors import EventNotFound, PayloadErased
from batpak.event import NO_HASH, PayloadState
from batpak.kinds import SYSTEM_CLOSE_COMPLETED
from tests.property.journal_model.base import IDS, RECEIPT_FIELDS, Base, Follower
from tests.property.journal_model.book import Kept
from tests.property.journal_model.drawn import ALWAYS, NAMES, REGIONS
from tests.support.faulty_files import DISK
from tools import read_segment


class Reading(Base):
    """Questions to the writer's store and to readers of the same journal."""

    # --- what a follower sees ----------------------------------------------------

    @precondition(lambda self: len(self.followers) < 2)
    @rule()
    def follow(self) -> None:
        self.settle()
        reader = Store.open(self.path, mode="r", files=DISK, max_open_files=4)
        assert len(reader) == len(self.book)
        self.followers.append(Follower(reader, len(reader)))

    @precondition(lambda self: self.followers)
    @rule(pick=st.integers(0, 1), region=REGIONS)
    def ask_a_follower(self, pick: int, region: Region) -> None:
        """It shows what it has seen at its last look, and no more."""
        follower = self.followers[pick % len(self.followers)]
        assert len(follower.reader) == follower.seen
        self.ask(follower.reader, region, follower.seen)

    @precondition(lambda self: self.followers)
    @rule(pick=st.integers(0, 1))
    def refresh(self, pick: int) -> None:
        """It sees a prefix, never less than before; all of it when nothing is queued."""
        follower = self.followers[pick % len(self.followers)]
        seen = follower.reader.refresh()
        self.settle()
        assert follower.seen <= seen == len(follower.reader) <= len(self.book)
        assert follower.reader.refresh() == len(self.book)
        follower.seen = len(self.book)
        self.compare(follower.reader, follower.seen)

    @precondition(lambda self: self.followers)
    @rule(pick=st.integers(0, 1))
    def stop_following(self, pick: int) -> None:
        self.followers.pop(pick % len(self.followers)).reader.close()

    # --- questions ---------------------------------------------------------------

    @rule(regions=st.lists(REGIONS, min_size=1, max_size=6))
    def questions(self, regions: list[Region]) -> None:
        self.settle()
        for region in regions:
            self.ask(self.store, region, len(self.book))

    def ask(self, store: Store | ReadOnlyStore, region: Region, bound: int) -> None:
        wanted = [kept for kept in self.book.events[:bound] if region.matches(kept)]
        events = list(store.query(region))
        assert [event.sequence for event in events] == [kept.sequence for kept in wanted]
        for event, kept in zip(events, wanted, strict=True):
            self.same(event, kept, bound)
            assert region.matches(event)
        assert list(store.query(region, payload=False)) == [e.summary() for e in events]
        assert store.count(region) == len(wanted)

    @rule(region=REGIONS, limit=st.integers(1, 7), after=st.none() | st.integers(0, 40))
    def pages(self, region: Region, limit: int, after: int | None) -> None:
        self.settle()
        low = -1 if after is None else after
        wanted = [k.sequence for k in self.book.events if k.sequence > low and region.matches(k)]
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
        self.settle()
        wanted = [kept for kept in self.book.events if kept.coordinate.entity == name]
        events = list(self.store.entity(name))
        assert [event.sequence for event in events] == [kept.sequence for kept in wanted]
        assert [event.clock for event in events] == list(range(len(events)))
        newest = self.store.latest(name)
        assert newest == (events[-1] if events else None)

    @rule(event_id=IDS, limit=st.none() | st.integers(1, 5))
    def one_event(self, event_id: EventId, limit: int | None) -> None:
        self.settle()
        kept = self.book.known.get(event_id.bytes)
        if kept is None:
            # An older state was restored since.
            with pytest.raises(EventNotFound):
                self.store.get(event_id)
            return
        event = self.store.get(event_id)
        self.same(event, kept, len(self.book))
        assert self.store.at(event.sequence) == event == self.store[event_id]
        chain = [
            other.sequence
            for other in self.book.events[: event.sequence + 1]
            if other.coordinate.entity == kept.coordinate.entity
        ][::-1]
        walk = self.store.ancestors(event_id, limit=limit)
        assert [each.sequence for each in walk.events] == chain[:limit]
        cut = limit is not None and limit < len(chain)
        assert walk.end is (AncestryEnd.LIMIT if cut else AncestryEnd.GENESIS)

    @rule()
    def statistics(self) -> None:
        self.settle()
        stats = self.store.stats()
        clocks = {entity for entity, clock in self.book.clocks.items() if clock}
        assert stats.events == len(self.book)
        assert stats.entities == len(clocks)
        assert stats.scopes == len({kept.coordinate.scope for kept in self.book.events})
        assert dict(stats.kinds) == Counter(kept.kind for kept in self.book.events)
        files = list((self.path / "segments").glob("*.seg"))
        assert stats.segments == len(files)
        assert stats.segment_bytes <= sum(file.stat().st_size for file in files)

    @rule()
    def everything(self) -> None:
        self.settle()
        self.compare(self.store, len(self.book))

    def compare(self, store: Store | ReadOnlyStore, bound: int) -> None:
        """Every event, by scan and by sequence, and the chains through them."""
        heads: dict[str, bytes] = {}
        last_hlc = 0
        seen = 0
        for event, kept in zip(store, self.book.events[:bound], strict=True):
            self.same(event, kept, bound)
            assert store.at(kept.sequence) == event
            entity = kept.coordinate.entity
            assert event.prev_hash == heads.get(entity, NO_HASH)
            heads[entity] = event.event_hash
            assert event.hlc > last_hlc
            last_hlc = event.hlc
            seen += 1
        assert seen == bound

    def same(self, event: Event, kept: Kept, bound: int) -> None:
        """The event is what the book says; `bound`: how much its reader has seen."""
        assert event.sequence == kept.sequence
        assert event.coordinate == kept.coordinate
        assert event.kind == kept.kind
        assert event.clock == kept.clock
        self.book.name(kept, event.event_id.bytes, event.event_hash)
        if kept.erased_by is None:
            assert event.payload_state is PayloadState.PRESENT
        elif kept.erased_by < bound:
            assert event.payload_state is PayloadState.ERASED
            with pytest.raises(PayloadErased):
                event.raw  # noqa: B018  # that it raises is the point
            assert event.envelope is None
        if kept.raw is None:
            return
        if event.payload_state is PayloadState.PRESENT:
            assert event.raw == kept.raw
        assert (event.lane, event.depth, event.flags) == (kept.lane, kept.depth, kept.flags)
        assert event.extensions == kept.extensions
        assert event.correlation_id.bytes == (kept.cause_id or kept.event_id)
        assert (event.causation_id and event.causation_id.bytes) == kept.cause_id
        if kept.receipt is not None:
            assert kept.receipt.journal_id == self.store.journal_id
            for name in RECEIPT_FIELDS:
                assert getattr(event, name) == getattr(kept.receipt, name), name

    # --- the end -----------------------------------------------------------------

    def finish(self) -> None:
        """At the end followers have seen everything, and all proofs hold."""
        self.settle()
        report = self.store.verify("full")
        assert report.ok, report.findings
        assert report.events == len(self.book)
        for region in ALWAYS:
            self.ask(self.store, region, len(self.book))
        self.compare(self.store, len(self.book))
        self.store.close()
        self.book.keep_own(SYSTEM_CLOSE_COMPLETED)
        for follower in self.followers:
            assert follower.reader.refresh() == len(self.book)
            assert follower.reader.verify().ok
            self.compare(follower.reader, len(self.book))
        with Store.open(self.path, mode="r", files=DISK) as late:
            assert len(late) == len(self.book)
            self.compare(late, len(self.book))
            for region in ALWAYS:
                self.ask(late, region, len(self.book))
        # The second opinion, which shares no code with batpak.
        found = read_segment.read_journal(self.path)
        assert found.findings == []
