"""Commits that are put together in memory: fence and outbox.

Events are judged and encoded when they are staged, and get their place when all of them
are written as one record: readers see all or nothing, other writers go on meanwhile, and
nothing is left of what was not committed. Knows how to stage, not how to commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self

from batpak.coordinate import Coordinate
from batpak.engine.preparing import Preparer, check_unique_keys
from batpak.errors import BatpakError, Cancelled, FenceEnded, FenceTooLarge, InvalidInput
from batpak.event import ROW_SIZE
from batpak.items import Id, Item, Key, Prior
from batpak.journal.record import MAX_RECORD_BYTES
from batpak.journal.writer import Prepared
from batpak.kinds import EventKind
from batpak.receipt import AppendReceipt

__all__ = ["Fence", "Outbox"]

Ticket = Future[AppendReceipt]
_RECORD_ROOM: Final = MAX_RECORD_BYTES - 64


class _Stage:
    """Events that wait for their commit; Prior(i) names the i-th of them."""

    def __init__(self, preparer: Preparer, most: int) -> None:
        self._preparer = preparer
        self._most = most
        self.lock = threading.RLock()
        # guarded by the lock
        self.events: list[Prepared] = []
        self._bytes = 0

    def add(self, item: Item) -> int:
        """Stage one event; its number. Raises InvalidInput, FenceTooLarge."""
        with self.lock:
            number = len(self.events)
            event = self._preparer.one(
                item.coordinate, item.payload, item.kind, item.correlation, item.causation,
                item.lane, item.depth, item.flags, item.extensions, item.key, None, number,
                item.is_raw,
            )  # fmt: skip
            size = ROW_SIZE + 4 + len(event.metadata) + len(event.envelope)
            if number >= self._most or self._bytes + size > _RECORD_ROOM:
                raise FenceTooLarge(
                    f"{number} events with {self._bytes} bytes are staged; one more is too much",
                    limit=self._most if number >= self._most else _RECORD_ROOM,
                    advice="commit what is staged, or raise batch_max_events",
                )
            self.events.append(event)
            self._bytes += size
            return number

    def take(self) -> list[Prepared]:
        """All that is staged, without forgetting it."""
        with self.lock:
            events = list(self.events)
        check_unique_keys(events)
        return events

    def forget(self, count: int) -> None:
        """The first `count` events are written, or given up."""
        with self.lock:
            gone = self.events[:count]
            del self.events[:count]
            self._bytes -= sum(ROW_SIZE + 4 + len(one.metadata) + len(one.envelope) for one in gone)


def _item(
    coordinate: Coordinate,
    payload: object,
    *,
    kind: EventKind | type | None = None,
    key: Key | None = None,
    correlation: Id | Prior | None = None,
    causation: Id | Prior | None = None,
    lane: int = 0,
    depth: int = 0,
    flags: int = 0,
    extensions: Mapping[str, bytes] | None = None,
) -> Item:
    return Item(
        coordinate, payload, kind=kind, key=key, correlation=correlation, causation=causation,
        lane=lane, depth=depth, flags=flags, extensions=extensions,
    )  # fmt: skip


class Fence:
    """Appends that become one commit at the end of a `with` block; made by `Store.fence`.

    `cancel()`, an exception in the block, or a crash leave nothing of them. Tickets
    resolve at the end. Threads may share a fence.
    """

    def __init__(
        self,
        stage: Preparer,
        most: int,
        commit: Callable[[Sequence[Prepared]], tuple[AppendReceipt, ...]],
        on_enter: Callable[[Fence], None],
        on_end: Callable[[Fence], None],
    ) -> None:
        self._stage = _Stage(stage, most)
        self._commit = commit
        self._on_enter = on_enter
        self._on_end = on_end
        self._tickets: list[Ticket] = []
        self._ended: str | None = None
        self.receipts: tuple[AppendReceipt, ...] = ()
        """Of all events, once the block has ended well."""

    def append(self, coordinate: Coordinate, payload: object, **options: Any) -> Ticket:
        """Stage one event; keywords as for `Item`. The ticket resolves with the commit.

        Raises InvalidInput, FenceTooLarge, FenceEnded; what was staged before stays so.
        """
        return self._add(_item(coordinate, payload, **options))

    def append_raw(
        self, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any
    ) -> Ticket:
        """As `append`, for bytes as given."""
        return self._add(Item.raw(coordinate, kind, data, **options))

    def append_many(self, items: Iterable[Item]) -> list[Ticket]:
        """Stage items one by one. Raises as `append`, naming the item by its index in
        `items`; those before it are staged.
        """
        tickets: list[Ticket] = []
        for index, item in enumerate(items):
            try:
                tickets.append(self._add(item))
            except InvalidInput as error:
                error.index = error.facts["index"] = index
                raise
        return tickets

    def _add(self, item: Item) -> Ticket:
        if not isinstance(item, Item):
            raise InvalidInput("a fence takes Items", field="items", value=type(item).__name__)
        with self._stage.lock:
            self._check()
            self._stage.add(item)
            ticket: Ticket = Future()
            self._tickets.append(ticket)
        return ticket

    def __len__(self) -> int:
        return len(self._stage.events)

    def cancel(self) -> None:
        """Give up all that is staged; the block may be left without an error."""
        self._give_up("the fence was cancelled", "cancelled")

    def close(self) -> None:
        """The store closes: as `cancel`."""
        self._give_up("the store was closed before the fence ended", "closed with its store")

    def _give_up(self, what: str, ended: str) -> None:
        with self._stage.lock:
            if self._ended is not None:
                return
            self._ended = ended
            self._stage.forget(len(self._stage.events))
        self._on_end(self)
        self._fail(Cancelled(what, advice="append again; nothing of it was written"))

    def _fail(self, error: BatpakError) -> None:
        for ticket in self._tickets:
            if ticket.set_running_or_notify_cancel():
                ticket.set_exception(error)

    def _check(self) -> None:
        if self._ended is not None:
            raise FenceEnded(
                f"the fence is {self._ended}", advice="begin another one with store.fence()"
            )

    def __enter__(self) -> Self:
        self._check()
        self._on_enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._give_up("the fence's block raised", "cancelled by an exception")
            return
        with self._stage.lock:
            if self._ended == "cancelled":
                return
            self._check()
            self._ended = "committed"
        self._on_end(self)
        try:
            events = self._stage.take()
            self.receipts = self._commit(events) if events else ()
        except BatpakError as failure:
            self._fail(failure)
            raise
        except BaseException:
            self._fail(Cancelled("the commit of the fence was interrupted"))
            raise
        for ticket, receipt in zip(self._tickets, self.receipts, strict=True):
            if ticket.set_running_or_notify_cancel():
                ticket.set_result(receipt)


class Outbox:
    """Events that are staged now and written together by `flush`; made by `Store.outbox`.

    After a failed flush everything is still staged. What is never flushed is never
    written, and nothing tells.
    """

    def __init__(
        self,
        stage: Preparer,
        most: int,
        commit: Callable[[Sequence[Prepared]], tuple[AppendReceipt, ...]],
        submit: Callable[[Sequence[Prepared]], Future[tuple[AppendReceipt, ...]]],
    ) -> None:
        self._stage = _Stage(stage, most)
        self._commit = commit
        self._submit = submit

    def stage(self, coordinate: Coordinate, payload: object, **options: Any) -> int:
        """Stage one event; keywords as for `Item`. Its number: Prior(n) names it.

        Raises InvalidInput, FenceTooLarge.
        """
        return self._stage.add(_item(coordinate, payload, **options))

    def stage_raw(
        self, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any
    ) -> int:
        """As `stage`, for bytes as given."""
        return self._stage.add(Item.raw(coordinate, kind, data, **options))

    def __len__(self) -> int:
        return len(self._stage.events)

    def flush(self) -> tuple[AppendReceipt, ...]:
        """Write all that is staged as one commit. Raises as `Store.append_many`.

        After Indeterminate the events are written, and no longer staged.
        """
        with self._stage.lock:
            events = self._stage.take()
            if not events:
                return ()
            try:
                receipts = self._commit(events)
            except BatpakError as error:
                if getattr(error, "receipts", ()):
                    self._stage.forget(len(events))
                raise
            self._stage.forget(len(events))
            return receipts

    def submit(self) -> Future[tuple[AppendReceipt, ...]]:
        """Queue all that is staged as one commit; it is no longer staged then.

        Raises StoreClosed, JournalPoisoned; then it still is.
        """
        with self._stage.lock:
            events = self._stage.take()
            if not events:
                done: Future[tuple[AppendReceipt, ...]] = Future()
                done.set_result(())
                return done
            future = self._submit(events)
            self._stage.forget(len(events))
            return future

    def discard(self) -> None:
        """Forget all that is staged."""
        self._stage.forget(len(self._stage.events))
