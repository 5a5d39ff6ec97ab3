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
from batpak.engine.tickets import Ticket
from batpak.errors import (
    BatpakError,
    Cancelled,
    FenceEnded,
    FenceTooLarge,
    Indeterminate,
    InvalidInput,
)
from batpak.event import ROW_SIZE
from batpak.items import Id, Item, Key, Prior
from batpak.journal.commits import Prepared
from batpak.journal.record import MAX_RECORD_BYTES
from batpak.kinds import EventKind
from batpak.receipt import AppendReceipt

__all__ = ["Fence", "Outbox"]

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
    resolve at the end. Threads may share a fence. After Ctrl-C at its end the block's
    events are there all or not at all, and tickets say that nobody knows which.
    """

    def __init__(
        self,
        stage: Preparer,
        most: int,
        commit: Callable[[Sequence[Prepared]], tuple[AppendReceipt, ...]],
        on_enter: Callable[[Fence], None],
        on_end: Callable[[Fence], None],
        on_loss: Callable[[Callable[[], None]], None],
    ) -> None:
        self._stage = _Stage(stage, most)
        self._commit = commit
        self._on_enter = on_enter
        self._on_end = on_end
        self._on_loss = on_loss
        self._ended: str | None = None
        self._error: Exception | None = None
        self._is_told = False
        self._tickets: list[tuple[int, Ticket[AppendReceipt]]] = []
        self.receipts: tuple[AppendReceipt, ...] = ()
        """Of all events, once the block has ended well."""

    def append(
        self, coordinate: Coordinate, payload: object, **options: Any
    ) -> Future[AppendReceipt]:
        """Stage one event; keywords as for `Item`. The ticket resolves with the commit.

        Raises InvalidInput, FenceTooLarge, FenceEnded; what was staged before stays so.
        """
        return self._add(_item(coordinate, payload, **options))

    def append_raw(
        self, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any
    ) -> Future[AppendReceipt]:
        """As `append`, for bytes as given."""
        return self._add(Item.raw(coordinate, kind, data, **options))

    def append_many(self, items: Iterable[Item]) -> list[Future[AppendReceipt]]:
        """Stage items one by one. Raises as `append`, naming the item by its index in
        `items`; those before it are staged.
        """
        tickets: list[Future[AppendReceipt]] = []
        for index, item in enumerate(items):
            try:
                tickets.append(self._add(item))
            except InvalidInput as error:
                error.index = error.facts["index"] = index
                raise
        return tickets

    def _add(self, item: Item) -> Ticket[AppendReceipt]:
        if not isinstance(item, Item):
            raise InvalidInput("a fence takes Items", field="items", value=type(item).__name__)
        with self._stage.lock:
            self._check()
            ticket = Ticket[AppendReceipt]()
            # With its number: Ctrl-C can leave an event without its ticket.
            self._tickets.append((self._stage.add(item), ticket))
        return ticket

    def __len__(self) -> int:
        return len(self._stage.events)

    @property
    def is_open(self) -> bool:
        """Whether it takes further events."""
        return self._ended is None

    def cancel(self) -> None:
        """Give up all that is staged; the block may be left without an error."""
        self._give_up("the fence was cancelled", "cancelled")

    def close(self) -> None:
        """The store closes: as `cancel`."""
        self._give_up("the store was closed before the fence ended", "closed with its store")

    def _give_up(self, what: str, ended: str) -> None:
        error = Cancelled(what, advice="append again; nothing of it was written")
        with self._stage.lock:
            if self._ended is None:
                self._ended, self._error = ended, error
        if self._ended != "committed":
            self._stage.forget(len(self._stage.events))
            self._settle()

    def _settle(self) -> None:
        """Tell all tickets what became of them; may be called again."""
        if self._is_told:
            return
        if self._error is None and not self.receipts and self._tickets:
            self._error = Indeterminate(
                "the fence's end was interrupted: whether it was written is not known",
                receipts=(),
                cause=None,
                advice="look for its events before writing them again",
            )
        for number, ticket in self._tickets:
            ticket.tell(None if self._error else self.receipts[number], self._error)
        # Last: as long as the store has this fence, its close does what is left undone.
        self._on_end(self)
        self._is_told = True

    def __del__(self) -> None:
        # Ctrl-C can come before the end of the block is told of it: nobody has this fence
        # any more. No ticket is told here, where collection may strike in any lock's hold.
        if getattr(self, "_tickets", None) and not self._is_told:
            self._on_loss(_lost(self._tickets, self._error))

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
        try:
            self._commit_all()
        finally:
            # Three times, as in GroupCommit.run: Ctrl-C can cut it and cut that again.
            try:
                self._finish()
            finally:
                try:
                    self._finish()
                finally:
                    self._finish()

    def _commit_all(self) -> None:
        try:
            with self._stage.lock:
                if self._ended == "cancelled":
                    return
                self._check()
                self._ended = "committed"
            events = self._stage.take()
            self.receipts = self._commit(events) if events else ()
        except Exception as failure:
            # Its tickets say what the block raises, whatever that is.
            self._error = self._error or failure
            raise

    def _finish(self) -> None:
        """The end of the block, whatever came of it; may be called again."""
        if self._ended is None:
            self._give_up("the fence's end was interrupted", "cancelled by an exception")
        else:
            self._settle()


def _lost(
    tickets: Sequence[tuple[int, Ticket[AppendReceipt]]], error: Exception | None
) -> Callable[[], None]:
    """What tells the tickets of a fence that nobody has any more."""

    def tell() -> None:
        why = error or Cancelled(
            "the fence was dropped", advice="append again; nothing was written"
        )
        for _, ticket in tickets:
            ticket.tell(None, why)

    return tell


class Outbox:
    """Events that are staged now and written together by `flush`; made by `Store.outbox`.

    After a failed flush everything is still staged; after Ctrl-C too, though it may be
    written by then: give the events keys, and flushing again is safe. What is never
    flushed is never written, and nothing tells.
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
