"""Commits that are put together in memory: fence and outbox.

Events are judged and encoded when they are staged, and get their place when all of them
are written as one record: readers see all or nothing, other writers go on meanwhile, and
nothing is left of what was not committed. Knows how to stage, not how to commit.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from batpak.coordinate import Coordinate
from batpak.engine.preparing import Preparer, check_unique_keys, iterated
from batpak.engine.tickets import Ticket, told_of_callback
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

__all__ = ["Fence", "LostFences", "Outbox"]

R = TypeVar("R")
T = TypeVar("T")

_RECORD_ROOM: Final = MAX_RECORD_BYTES - 64


class _Stage:
    """Events of one commit that wait for it; Prior(i) names the one whose number is i."""

    def __init__(
        self, preparer: Preparer, most: int, lock: threading.RLock, first: int = 0
    ) -> None:
        """`first` is the number of its first event; `lock` guards it."""
        self._preparer = preparer
        self._most = most
        self._lock = lock
        self._first = first
        # guarded by the lock
        self.events: list[Prepared] = []
        self._bytes = 0
        self.attempt: object = None
        """Who is writing it now."""
        self.is_unsure = False
        """Whether an attempt to write it ended so that nobody knows what came of it."""

    @property
    def next(self) -> int:
        """The number of the next event."""
        return self._first + len(self.events)

    def add(self, item: Item) -> int:
        """Stage one event; its number. Raises InvalidInput, FenceTooLarge."""
        with self._lock:
            number = self.next
            event = self._preparer.one(
                item.coordinate, item.payload, item.kind, item.correlation, item.causation,
                item.lane, item.depth, item.flags, item.extensions, item.key, None, number,
                item.is_raw,
            )  # fmt: skip
            event.correlation_id = self._within("correlation", event.correlation_id)
            event.causation_id = self._within("causation", event.causation_id)
            size = ROW_SIZE + 4 + len(event.metadata) + len(event.envelope)
            count = len(self.events)
            if count >= self._most or self._bytes + size > _RECORD_ROOM:
                raise FenceTooLarge(
                    f"{count} events with {self._bytes} bytes are staged; one more is too much",
                    limit=self._most if count >= self._most else _RECORD_ROOM,
                    advice="commit what is staged, or raise batch_max_events",
                )
            self.events.append(event)
            self._bytes += size
            return number

    def _within(self, field: str, reference: T) -> T | int:
        """A number as the commit counts its events; an id is left alone. Raises InvalidInput."""
        if not isinstance(reference, int):
            return reference
        if reference < self._first:
            raise InvalidInput(
                f"Prior({reference}) names an event of an earlier commit, which a flush has begun",
                field=field,
                value=reference,
                advice="pass the event_id of its receipt",
            )
        return reference - self._first

    def take(self) -> list[Prepared]:
        """All that is staged, without forgetting it. Raises IdempotencyConflict."""
        with self._lock:
            events = list(self.events)
        check_unique_keys(events)
        return events

    def forget(self) -> None:
        """Give up all that is staged."""
        with self._lock:
            self.events.clear()
            self._bytes = 0


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
        self._lock = threading.RLock()
        self._stage = _Stage(stage, most, self._lock)
        self._commit = commit
        self._on_enter = on_enter
        self._on_end = on_end
        self._on_loss = on_loss
        self._ended: str | None = None
        self._ending: object = None
        """The end of a block that commits; that of another block tells no ticket."""
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
        for index, item in enumerate(iterated(items)):
            try:
                tickets.append(self._add(item))
            except InvalidInput as error:
                error.index = error.facts["index"] = index
                raise
        return tickets

    def _add(self, item: Item) -> Ticket[AppendReceipt]:
        if not isinstance(item, Item):
            raise InvalidInput("a fence takes Items", field="items", value=type(item).__name__)
        with self._lock:
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
        with self._lock:
            if self._ended is None:
                self._ended, self._error = ended, error
        if self._ended != "committed":
            self._stage.forget()
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
        ending = object()
        try:
            self._commit_all(ending)
        finally:
            # Three times, as in GroupCommit.run: Ctrl-C can cut it and cut that again.
            try:
                self._finish(ending)
            finally:
                try:
                    self._finish(ending)
                finally:
                    self._finish(ending)

    def _commit_all(self, ending: object) -> None:
        with self._lock:
            if self._ended == "cancelled":
                return
            self._check()
            # No call between the two, which Ctrl-C could part.
            self._ended, self._ending = "committed", ending
        try:
            events = self._stage.take()
            self.receipts = self._commit(events) if events else ()
        except Exception as failure:
            # Its tickets say what the block raises, whatever that is.
            self._error = self._error or failure
            raise

    def _finish(self, ending: object) -> None:
        """The end of the block, whatever came of it; may be called again."""
        if self._ended is None:
            self._give_up("the fence's end was interrupted", "cancelled by an exception")
        elif self._ending is ending or self._ended != "committed":
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


class LostFences:
    """What tells the tickets of fences that nobody has any more; `add` may come from anywhere.

    Such a fence is found by collection, which may strike in any lock's hold: its tickets are
    told by who comes along next, and once the store is gone too, by a thread for it.
    """

    def __init__(self) -> None:
        self._untold: list[Callable[[], None]] = []
        self._is_orphan = False

    def add(self, tell: Callable[[], None]) -> None:
        """One more; `tell` may be called again after an interruption."""
        self._untold.append(tell)
        if self._is_orphan:
            self._begin()

    def tell(self) -> None:
        """Tell all that wait; callbacks of their tickets are run."""
        for tell in list(self._untold):
            tell()
            with suppress(ValueError):  # another thread has told it too
                self._untold.remove(tell)

    def orphan(self) -> None:
        """The store is gone: nobody will come along. For a finalizer, as `add`."""
        self._is_orphan = True
        if self._untold:
            self._begin()

    def _begin(self) -> None:
        # A bare thread: to start another one waits. Where none can be had, as at the end of
        # the process, there is nobody left to tell either.
        with suppress(RuntimeError):
            _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        # Each callback is called once, so this comes to an end.
        while self._untold:
            try:
                self.tell()
            except BaseException as raised:  # noqa: BLE001  # of a callback, in a thread of ours
                with suppress(BaseException):
                    told_of_callback(raised)


class Outbox:
    """Events that are staged now and written together by `flush`; made by `Store.outbox`.

    After a failed flush everything is still staged; after Ctrl-C too, though it may be
    written by then: give the events keys, and flushing again is safe. What is staged while
    a flush is under way, or after Ctrl-C in one, becomes a commit of its own. Threads may
    share an outbox. What is never flushed is never written, and nothing tells.
    """

    def __init__(
        self,
        stage: Preparer,
        most: int,
        commit: Callable[[Sequence[Prepared]], tuple[AppendReceipt, ...]],
        submit: Callable[[Sequence[Prepared]], Future[tuple[AppendReceipt, ...]]],
    ) -> None:
        self._preparer = stage
        self._most = most
        self._commit = commit
        self._submit = submit
        self._lock = threading.RLock()
        # guarded by the lock, which nobody holds while a commit is made: that waits for
        # the queue, whose callbacks may stage, and it calls log handlers, which may flush
        self._stages: list[_Stage] = []
        """What is not known to be written, in order; only the last one takes further events."""

    def stage(self, coordinate: Coordinate, payload: object, **options: Any) -> int:
        """Stage one event; keywords as for `Item`. Its number: Prior(n) names it.

        Numbers go on from those of what is still staged or being written. Raises
        InvalidInput, also for a Prior of what a flush has begun to write, FenceTooLarge.
        """
        return self._add(_item(coordinate, payload, **options))

    def stage_raw(
        self, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any
    ) -> int:
        """As `stage`, for bytes as given."""
        return self._add(Item.raw(coordinate, kind, data, **options))

    def _add(self, item: Item) -> int:
        with self._lock:
            last = self._stages[-1] if self._stages else None
            if last is not None and last.attempt is None and not last.is_unsure:
                return last.add(item)
            fresh = _Stage(self._preparer, self._most, self._lock, 0 if last is None else last.next)
            number = fresh.add(item)
            self._stages.append(fresh)
            return number

    def __len__(self) -> int:
        """Events that are not known to be written, those of a flush under way among them."""
        return sum([len(stage.events) for stage in list(self._stages)])

    def flush(self) -> tuple[AppendReceipt, ...]:
        """Write all that is staged as one commit. Raises as `Store.append_many`.

        After Indeterminate the events are written, and no longer staged. What another
        thread's flush is writing is left to that one, and not waited for. What an
        interrupted flush has left goes first, as a commit of its own, as does what was
        staged before a flush that failed, where more came meanwhile: the error of a later
        commit has a note that says which events are written.
        """
        with self._lock:
            stages = list(self._stages)
        return self._write(stages)

    def submit(self) -> Future[tuple[AppendReceipt, ...]]:
        """Queue all that is staged as one commit; it is no longer staged then.

        What `flush` would write before the last of several commits is written at once, and
        not the future's. Raises StoreClosed, JournalPoisoned, and then as `flush`; what was
        not queued is still staged.
        """
        with self._lock:
            stages = list(self._stages)
        self._write(stages[:-1])
        queued = self._attempt(stages[-1], self._submit) if stages else None
        if queued is not None:
            return queued
        done: Future[tuple[AppendReceipt, ...]] = Future()
        done.set_result(())
        return done

    def discard(self) -> None:
        """Forget all that is staged; what a flush has begun is still written, or given up."""
        with self._lock:
            self._stages.clear()

    def _write(self, stages: Sequence[_Stage]) -> tuple[AppendReceipt, ...]:
        receipts: tuple[AppendReceipt, ...] = ()
        for stage in stages:
            try:
                receipts += self._attempt(stage, self._commit) or ()
            except BatpakError as error:
                if receipts:
                    numbers = ", ".join([str(one.sequence) for one in receipts])
                    error.add_note(f"written before that, and no longer staged: event {numbers}")
                raise
        return receipts

    def _attempt(self, stage: _Stage, write: Callable[[Sequence[Prepared]], R]) -> R | None:
        """Write a stage and forget it; None if another attempt has it, or it is gone."""
        mine = object()
        is_over, is_unsure = False, True
        try:
            with self._lock:
                if stage.attempt is not None or stage not in self._stages:
                    return None
                stage.attempt = mine
            result = write(stage.take())
            is_over = True
            return result
        except BatpakError as error:
            is_over, is_unsure = bool(getattr(error, "receipts", ())), False
            raise
        finally:
            # Three times, as in GroupCommit.run: Ctrl-C can cut it and cut that again.
            try:
                self._end(stage, mine, is_over, is_unsure)
            finally:
                try:
                    self._end(stage, mine, is_over, is_unsure)
                finally:
                    self._end(stage, mine, is_over, is_unsure)

    def _end(self, stage: _Stage, attempt: object, is_over: bool, is_unsure: bool) -> None:
        """The attempt is over; may be called again, and for one that did not get the stage."""
        with self._lock:
            if stage.attempt is not attempt:
                return
            if is_over and stage in self._stages:
                self._stages.remove(stage)
            stage.is_unsure |= is_unsure
            stage.attempt = None
