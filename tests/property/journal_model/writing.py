"""Rules of the model that write: directly, by batch, by fence, by outbox, by the queue."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import multiple, precondition, rule

from batpak import Coordinate, EventId, EventKind, Expect, Unless, Watermark
from batpak.errors import Backpressure, Cancelled, FenceEnded, FenceOpen
from tests.property.journal_model.base import IDS, Base, Queued, Staged
from tests.property.journal_model.book import Commit, Kept, Wanted
from tests.property.journal_model.drawn import (
    CONDITIONS,
    COORDINATES,
    DRAWN,
    EVENTS,
    KEYED,
    KINDS,
    RAW,
    RETRIED,
    Conditions,
    Drawn,
    Keyed,
)

ONE = DRAWN | RAW | KEYED | RETRIED


def ids_of(written: list[Kept]) -> Any:
    """For the bundle: ids that somebody was told."""
    return multiple(*(EventId.from_bytes(k.event_id) for k in written if k.event_id is not None))


class Writing(Base):
    """Every way to write."""

    # --- what is said of a commit -----------------------------------------------------

    def conditions_of(
        self, conditions: Conditions, after: int | None, expect: tuple[str, int] | None
    ) -> dict[str, Any]:
        """Keywords of a batch."""
        asked: dict[str, Any] = {
            "on_replay": "raise" if conditions.is_strict else "return",
            "durable": conditions.durable,
        }
        if expect is not None:
            entity, clock = expect
            asked["expect"] = {entity: clock - 1 if clock else Expect.EMPTY}
        if conditions.ruled_out:
            asked["unless"] = Unless(*conditions.ruled_out, after=after)
        return asked

    def single(self, wanted: Wanted, conditions: Conditions, **more: Any) -> Any:
        """The arguments of `append` or `append_raw`, and the commit that they ask for."""
        expect = self.expectation(wanted.coordinate.entity, conditions)
        after = self.after(conditions)
        options = self.conditions_of(conditions, after, expect) | wanted.options | more
        if expect is not None:
            options["expect"] = options["expect"][expect[0]]
        commit = Commit([wanted], expect, conditions.ruled_out, after, conditions.is_strict)
        return commit, options

    def batch(self, events: list[Wanted], conditions: Conditions, *, queued: bool) -> Any:
        """The keywords of `append_many` or `submit_many`, and the commit."""
        expect = self.expectation(events[0].coordinate.entity, conditions)
        after = self.after(conditions)
        commit = Commit(
            events, expect, conditions.ruled_out, after, conditions.is_strict,
            # What has keys is only looked at under the lock, where clocks come first.
            regions_first=events[0].key is None and not queued,
        )  # fmt: skip
        return commit, self.conditions_of(conditions, after, expect)

    # --- by the calling thread ----------------------------------------------------------

    @rule(target=IDS, drawn=ONE, conditions=CONDITIONS, wait=st.sampled_from((None, *Watermark)))
    def append(self, drawn: Drawn | Keyed, conditions: Conditions, wait: Watermark | None) -> Any:
        # What a single event's Prior could name there is not.
        [wanted] = self.resolve([drawn])
        if wait is Watermark.APPLIED:
            wait = None
        commit, options = self.single(wanted, conditions, wait=wait)
        store, where = self.store, wanted.coordinate

        def call() -> Any:
            if wanted.is_raw:
                return store.append_raw(where, wanted.kind, wanted.payload, **options)
            return store.append(where, wanted.payload, kind=wanted.kind, **options)

        outcome = self.commit(commit, call)
        durable = conditions.durable or wait is Watermark.DURABLE
        for kept in (*outcome.written, *outcome.replayed):
            if durable:
                assert store.frontier().durable.sequence > kept.sequence
        return ids_of(outcome.written)

    @rule(target=IDS, drawn=EVENTS, conditions=CONDITIONS)
    def append_many(self, drawn: list[Drawn | Keyed], conditions: Conditions) -> Any:
        commit, options = self.batch(self.resolve(drawn), conditions, queued=False)
        items = self.items(commit)
        outcome = self.commit(commit, lambda: self.store.append_many(items, **options))
        return ids_of(outcome.written)

    @rule(
        target=IDS,
        names=st.lists(st.tuples(COORDINATES, KINDS), min_size=1, max_size=6),
        times=st.integers(1, 5),
    )
    def fill_segments(self, names: list[tuple[Coordinate, EventKind]], times: int) -> Any:
        """Enough single commits to reach into a further segment."""
        written: list[Kept] = []
        for turn in range(times):
            for name, kind in names:
                [wanted] = self.resolve([Drawn(name, kind, turn)])
                commit = Commit([wanted])
                append = self.store.append
                outcome = self.commit(
                    commit, lambda n=name, t=turn, k=kind, a=append: a(n, t, kind=k)
                )
                written += outcome.written
        return ids_of(written[-2:])

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.settle()
        assert self.store.frontier().durable.sequence == len(self.book)

    @precondition(lambda self: any(kept.receipt for kept in self.book.events))
    @rule(pick=st.integers(0, 60), watermark=st.sampled_from(tuple(Watermark)))
    def wait_for(self, pick: int, watermark: Watermark) -> None:
        told = [kept.receipt for kept in self.book.events if kept.receipt is not None]
        receipt = told[pick % len(told)]
        self.store.wait_for(watermark, receipt)
        if watermark is Watermark.DURABLE:
            assert self.store.frontier().durable.sequence > receipt.sequence

    # --- by the queue -----------------------------------------------------------------

    @rule(drawn=ONE, conditions=CONDITIONS, tries=st.booleans())
    def submit(self, drawn: Drawn | Keyed, conditions: Conditions, tries: bool) -> None:
        [wanted] = self.resolve([drawn])
        commit, options = self.single(wanted, conditions)
        submit = self.store.try_submit if tries else self.store.submit
        options["is_raw"] = wanted.is_raw
        try:
            future = submit(wanted.coordinate, wanted.payload, kind=wanted.kind, **options)
        except Backpressure:
            assert tries
            return
        self.queued.append(Queued(commit, future))

    @rule(drawn=EVENTS, conditions=CONDITIONS)
    def submit_many(self, drawn: list[Drawn | Keyed], conditions: Conditions) -> None:
        commit, options = self.batch(self.resolve(drawn), conditions, queued=True)
        shape = self.book.shape(commit)
        if shape is not None:
            # Keys that can't be together are seen at once.
            items = self.items(commit)
            self.hold(commit, shape, lambda: self.store.submit_many(items, **options))
            return
        future = self.store.submit_many(self.items(commit), **options)
        self.queued.append(Queued(commit, future))

    @precondition(lambda self: self.queued)
    @rule()
    def drain(self) -> None:
        self.settle()
        assert self.store.pressure().queued == 0

    # --- by a fence -------------------------------------------------------------------

    def staged(self, holder: Any, entity: str, conditions: Conditions) -> Staged:
        return Staged(
            holder, conditions, self.after(conditions), self.expectation(entity, conditions), [], []
        )

    def commit_of(self, staged: Staged, *, queued: bool = False) -> Commit:
        conditions = staged.conditions
        return Commit(
            list(staged.events), staged.expect, conditions.ruled_out, staged.after,
            conditions.is_strict,
            regions_first=bool(staged.events) and staged.events[0].key is None and not queued,
        )  # fmt: skip

    @precondition(lambda self: self.fence is None)
    @rule(where=COORDINATES, conditions=CONDITIONS, drawn=EVENTS)
    def begin_fence(
        self, where: Coordinate, conditions: Conditions, drawn: list[Drawn | Keyed]
    ) -> None:
        staged = self.staged(None, where.entity, conditions)
        fence = self.store.fence(**self.conditions_of(conditions, staged.after, staged.expect))
        staged.holder = fence.__enter__()
        self.fence = staged
        self.put_into_the_fence(drawn, True)

    @precondition(lambda self: self.fence is not None)
    @rule(drawn=EVENTS, one_by_one=st.booleans())
    def stage_in_the_fence(self, drawn: list[Drawn | Keyed], one_by_one: bool) -> None:
        self.put_into_the_fence(drawn, one_by_one)

    def put_into_the_fence(self, drawn: list[Drawn | Keyed], one_by_one: bool) -> None:
        assert self.fence is not None
        fence: Any = self.fence.holder
        if len(fence) + len(drawn) > 30:
            return
        length = len(self.store)
        events = self.resolve(drawn, len(fence))
        if one_by_one:
            for wanted in events:
                append = fence.append_raw if wanted.is_raw else fence.append
                known = (
                    (wanted.coordinate, wanted.kind, wanted.payload)
                    if wanted.is_raw
                    else (wanted.coordinate, wanted.payload)
                )
                more = {} if wanted.is_raw else {"kind": wanted.kind}
                self.fence.tickets.append(append(*known, **more, **wanted.options))
        else:
            self.fence.tickets += fence.append_many([wanted.item for wanted in events])
        self.fence.events += events
        assert self.queued or len(self.store) == length, "what is staged is not written"

    @precondition(lambda self: self.fence is not None)
    @rule(target=IDS, how=st.sampled_from(("well", "well", "cancelled", "raised")))
    def end_fence(self, how: str) -> Any:
        assert self.fence is not None
        staged, self.fence = self.fence, None
        fence: Any = staged.holder
        if how == "well" and staged.events:
            commit = self.commit_of(staged)

            def end() -> Any:
                fence.__exit__(None, None, None)
                assert [ticket.result(0) for ticket in staged.tickets] == list(fence.receipts)
                return fence.receipts

            outcome = self.commit(commit, end)
            if outcome.refused is not None:
                for ticket in staged.tickets:
                    assert isinstance(ticket.exception(0), outcome.refused)
            written = outcome.written
        else:
            if how == "cancelled":
                fence.cancel()
            error = ValueError("in the block") if how == "raised" else None
            fence.__exit__(None if error is None else ValueError, error, None)
            if how != "well":
                self.are_cancelled(staged)
            written = []
        with pytest.raises(FenceEnded):
            fence.append(Coordinate("a", "s"), 0, kind=EventKind(1, 0))
        return ids_of(written)

    @staticmethod
    def are_cancelled(staged: Staged) -> None:
        """All tickets say so."""
        for ticket in staged.tickets:
            assert isinstance(ticket.exception(0), Cancelled)

    @precondition(lambda self: self.fence is not None)
    @rule()
    def fence_in_a_fence(self) -> None:
        with pytest.raises(FenceOpen):
            self.store.fence()

    # --- by an outbox -----------------------------------------------------------------

    @precondition(lambda self: self.outbox is None)
    @rule(target=IDS, where=COORDINATES, conditions=CONDITIONS, drawn=EVENTS, flushes=st.booleans())
    def begin_outbox(
        self,
        where: Coordinate,
        conditions: Conditions,
        drawn: list[Drawn | Keyed],
        flushes: bool,
    ) -> Any:
        staged = self.staged(None, where.entity, conditions)
        staged.holder = self.store.outbox(
            **self.conditions_of(conditions, staged.after, staged.expect)
        )
        self.outbox = staged
        self.put_into_the_outbox(drawn)
        return self.flush() if flushes else multiple()

    @precondition(lambda self: self.outbox is not None)
    @rule(drawn=EVENTS)
    def stage_in_the_outbox(self, drawn: list[Drawn | Keyed]) -> None:
        self.put_into_the_outbox(drawn)

    def put_into_the_outbox(self, drawn: list[Drawn | Keyed]) -> None:
        assert self.outbox is not None
        box: Any = self.outbox.holder
        if len(box) + len(drawn) > 30:
            return
        for wanted in self.resolve(drawn, len(box)):
            if wanted.is_raw:
                number = box.stage_raw(
                    wanted.coordinate, wanted.kind, wanted.payload, **wanted.options
                )
            else:
                number = box.stage(
                    wanted.coordinate, wanted.payload, kind=wanted.kind, **wanted.options
                )
            assert number == len(self.outbox.events)
            self.outbox.events.append(wanted)

    @precondition(lambda self: self.outbox is not None)
    @rule(target=IDS)
    def flush_outbox(self) -> Any:
        return self.flush()

    def flush(self) -> Any:
        """What can't be written stays staged, and may be given up."""
        assert self.outbox is not None
        staged, box = self.outbox, self.outbox.holder
        if not staged.events:
            assert box.flush() == ()  # type: ignore[union-attr]  # an outbox
            return multiple()
        outcome = self.commit(self.commit_of(staged), box.flush)  # type: ignore[union-attr]  # an outbox
        if outcome.refused is None:
            assert len(box) == 0
            self.outbox = None
        else:
            assert len(box) == len(staged.events)
        return ids_of(outcome.written)

    @precondition(lambda self: self.outbox is not None)
    @rule()
    def submit_outbox(self) -> None:
        assert self.outbox is not None
        staged, box = self.outbox, self.outbox.holder
        commit = self.commit_of(staged, queued=True)
        if not staged.events:
            return
        shape = self.book.shape(commit)
        if shape is not None:
            self.hold(commit, shape, box.submit)  # type: ignore[union-attr]  # an outbox
            assert len(box) == len(staged.events)
            return
        self.queued.append(Queued(commit, box.submit()))  # type: ignore[union-attr]  # an outbox
        assert len(box) == 0
        self.outbox = None

    @precondition(lambda self: self.outbox is not None)
    @rule()
    def discard_outbox(self) -> None:
        assert self.outbox is not None
        self.outbox.holder.discard()  # type: ignore[union-attr]  # an outbox
        assert len(self.outbox.holder) == 0
        self.outbox = None
