"""Commit prepared events and answer with receipts, as durable as mode and call ask.

What a retry by key finds, what a failed sync leaves, and how long a caller waits are
decided here. Knows writer and reader, not how events are made.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NoReturn
from uuid import UUID

from batpak.config import Durability, Watermark
from batpak.engine.preparing import Preparer
from batpak.engine.reading import LogReader
from batpak.engine.submission import Submission
from batpak.errors import (
    BatpakError,
    IdempotencyConflict,
    Indeterminate,
    InvalidInput,
    KeyUnavailable,
    PayloadShredded,
    ReentrantCall,
    WaitTimeout,
)
from batpak.event import Event, EventSummary, PayloadState
from batpak.journal.commits import Committed, Cut, Guard, Known, Prepared
from batpak.journal.group import Request
from batpak.journal.writer import Writer
from batpak.kinds import SYSTEM_DENIAL
from batpak.receipt import AppendReceipt, DenialReceipt

__all__ = [
    "RAISE",
    "Appender",
    "OnReplay",
    "check_on_replay",
    "check_timeout",
    "check_wait",
    "receipt_of_stored",
]

OnReplay = Literal["raise", "return"]
RAISE: Final = "raise"
"""To compare by identity: another equal text is judged at length, as anything else."""


class Appender:
    """Appends for one store. `after_seal` is called when segments were sealed."""

    def __init__(
        self,
        writer: Writer,
        reader: LogReader,
        preparer: Preparer,
        journal_id: UUID,
        durability: Any,
        sealed: Sequence[Any],
        after_seal: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._preparer = preparer
        self._journal_id = journal_id
        self.waits = durability is Durability.SYNC
        self.flushes = writer.flushes
        self._sealed = sealed
        self._after_seal = after_seal

    def commit(
        self,
        events: Sequence[Prepared],
        *,
        durable: bool = False,
        guard: Guard | None = None,
        on_replay: OnReplay = "raise",
        timeout: float | None = None,
    ) -> tuple[AppendReceipt, ...]:
        """Write events as one record and wait as asked; receipts in the events' order.

        With a timeout the wait for others' syncs ends after so many seconds. Raises what
        `Writer.commit` raises but Known, IdempotencyConflict, Indeterminate.
        """
        waits = durable or self.waits
        if waits and timeout is None:
            return self.commit_durably(events, guard, on_replay)
        began = time.monotonic()
        try:
            committed = self._writer.commit(events, guard)
        except Known as known:
            return self.replay(events, known.sequences, on_replay, waits, timeout)
        except Cut as cut:
            raise self.cut(events, cut) from cut.error
        if not waits:
            return self.receipts(events, committed, self.after_write(events, committed))
        if self._sealed:
            self._after_seal()
        bound = committed[-1][0] + 1
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        self._wait(lambda: self.receipts(events, committed, False), bound, left)
        return self.receipts(events, committed, is_durable=True)

    def commit_durably(
        self,
        events: Sequence[Prepared],
        guard: Guard | None = None,
        on_replay: OnReplay = "raise",
    ) -> tuple[AppendReceipt, ...]:
        """As `commit` of what has to wait for its sync, however long that takes."""
        request = self._writer.commit_durably(events, guard)
        if request.error is not None:
            if isinstance(request.error, Known):
                return self.replay(events, request.error.sequences, on_replay, True, None)
            self._raise(request)
        if self._sealed:
            self._after_seal()
        return self.receipts(events, request.committed, is_durable=True)

    def work(self, submissions: Sequence[Submission]) -> None:
        """Commit what was queued, each for itself, with one sync; settle the futures.

        What is to be told of it is told within `telling_last`, where the caller says so.
        """
        requests = [Request(one.events, guard=one.guard) for one in submissions]
        self._commit_together(requests)
        if self._sealed:
            self._after_seal()
        failure: Exception | None = None
        bound = max((request.bound for request in requests), default=0)
        waits = self.waits or any(one.durable for one in submissions)
        try:
            if bound and waits:
                self._writer.wait_durable(bound)
            elif bound and self.flushes:
                self._writer.flush_in_time(bound)
        except Exception as error:  # noqa: BLE001  # raised again by the futures
            failure = error
        for one, request in zip(submissions, requests, strict=True):
            # Who did not ask for the sync that failed has what was promised.
            if request.error is None and (not waits or self.waits or one.durable):
                request.error = failure
            try:
                receipts = self._outcome(request, one)
            except Exception as error:  # noqa: BLE001  # raised again by the future
                one.fail(error)
            else:
                one.succeed(receipts[0] if one.is_single else receipts)
        self._writer.tell()

    def _commit_together(self, requests: Sequence[Request]) -> None:
        while True:
            try:
                self._writer.commit_together(requests)
                return
            except ReentrantCall as error:
                # Of a clock, say, as no signal comes here: of the one that was to be written.
                for request in requests:
                    if request.error is None and not request.is_written:
                        request.error = error
                        break

    def _outcome(self, request: Request, one: Submission) -> tuple[AppendReceipt, ...]:
        waits = self.waits or one.durable
        if isinstance(request.error, Known):
            return self.replay(one.events, request.error.sequences, one.on_replay, waits, None)
        if request.error is not None:
            self._raise(request)
        is_durable = self._writer.durable.sequence >= request.bound
        return self.receipts(one.events, request.committed, is_durable)

    def after_write(self, events: Sequence[Prepared], committed: Sequence[Committed]) -> bool:
        """Sidecars of what was sealed; in EVERY, sync if it is time. Whether all is durable."""
        if self._sealed:
            self._after_seal()
        if not self.flushes:
            return False
        try:
            return self._writer.flush_in_time(committed[-1][0] + 1)
        except Exception as error:  # whatever it is: the events are written
            raise self._indeterminate(self.receipts(events, committed, False), error) from error

    def _wait(
        self, written: Callable[[], tuple[AppendReceipt, ...]], bound: int, timeout: float | None
    ) -> None:
        """Until all below `bound` is durable; Indeterminate has the receipts of `written`."""
        try:
            if not self._writer.wait_durable(bound, timeout):
                raise WaitTimeout(
                    f"event {bound - 1} is not durable yet",
                    watermark=Watermark.DURABLE.value,
                    target=bound,
                    waited=timeout,
                )
        except Exception as error:  # whatever it is: the events are written
            raise self._indeterminate(written(), error) from error

    def replay(
        self,
        events: Sequence[Prepared],
        sequences: Sequence[int],
        on_replay: OnReplay,
        waits: bool,
        timeout: float | None,
    ) -> tuple[AppendReceipt, ...]:
        """The receipts that the first attempt got, once they are as durable as asked."""
        stored = [self._reader.at(sequence) for sequence in sequences]
        if on_replay == "raise":
            for index, (event, found) in enumerate(zip(events, stored, strict=True)):
                self._check_same(event, found, index)
        bound = max(sequences) + 1
        if waits:
            # What is told of a wait in vain is the stored events, not this attempt's.
            self._wait(
                lambda: self._again(stored, is_durable=False), bound, timeout,
            )  # fmt: skip
        is_durable = self._writer.durable.sequence >= bound
        return self._again(stored, is_durable=is_durable)

    def _again(self, stored: Sequence[Event], *, is_durable: bool) -> tuple[AppendReceipt, ...]:
        """The receipts of events that an earlier attempt wrote."""
        return tuple(
            [
                receipt_of_stored(self._journal_id, found, is_durable=is_durable, replayed=True)
                for found in stored
            ]
        )

    def _check_same(self, event: Prepared, found: Event, index: int) -> None:
        """Raises IdempotencyConflict unless the stored event is what was asked for."""
        reason = None
        if found.coordinate != event.coordinate:
            reason = "coordinate"
        elif found.kind.raw != event.kind:
            reason = "kind"
        elif _payload_of(found) not in (None, self._preparer.payload_of(event)):
            reason = "payload"
        if reason is None:
            return
        assert event.key is not None, "found by its key"
        raise IdempotencyConflict(
            f"the key stands for event {found.sequence}, which has another {reason}",
            reason=reason,
            sequence=found.sequence,
            key=event.key.hex(),
            index=index,
            advice='use a key for one operation only, or pass on_replay="return"',
        )

    def _raise(self, request: Request) -> NoReturn:
        """What a commit came to that was refused, or is not known to be durable."""
        error = request.error
        assert error is not None, "asked only then"
        if not request.is_written:
            raise error
        receipts = self.receipts(request.events, request.committed, False)
        raise self._indeterminate(receipts, error) from error

    def cut(self, events: Sequence[Prepared], cut: Cut) -> Indeterminate:
        """What to raise for events that are written, and the writing of which was cut short."""
        return self._indeterminate(self.receipts(events, cut.committed, False), cut.error)

    def _indeterminate(
        self, receipts: tuple[AppendReceipt, ...], error: Exception
    ) -> Indeterminate:
        what = error.what if isinstance(error, BatpakError) else repr(error)
        return Indeterminate(
            f"written, but not known to be durable: {what}",
            receipts=receipts,
            cause=error,
            advice="open the journal anew and look for the event before writing it again"
            if self._writer.is_over
            else "it stays written, do not write it again: wait_for(Watermark.DURABLE, "
            "error.receipt) goes on waiting, and a retry with its key gives its receipt",
        )

    def receipts(
        self, events: Sequence[Prepared], committed: Sequence[Committed], is_durable: bool
    ) -> tuple[AppendReceipt, ...]:
        """A receipt for each event."""
        journal_id = self._journal_id
        if len(events) == 1:
            event = events[0]
            return (
                AppendReceipt(
                    journal_id, committed[0], event.coordinate, event.kind, event.content,
                    event.extensions, is_durable,
                ),
            )  # fmt: skip
        return tuple(
            [
                AppendReceipt(
                    journal_id, done, event.coordinate, event.kind, event.content,
                    event.extensions, is_durable,
                )
                for event, done in zip(events, committed, strict=True)
            ]
        )  # fmt: skip


def _payload_of(found: Event) -> bytes | None:
    """The stored payload to compare a retry with; None where it is gone, or its key is.

    Comparing it is comparing envelopes: under its key, id and names the same payload gives
    the same ciphertext.
    """
    if found.payload_state is not PayloadState.PRESENT:
        return None
    try:
        return found.raw
    except (KeyUnavailable, PayloadShredded):
        return None


def receipt_of_stored(
    journal_id: UUID,
    found: Event | EventSummary,
    *,
    is_durable: bool = True,
    replayed: bool = False,
) -> AppendReceipt:
    """The receipt of a stored event."""
    row = found.row
    made = DenialReceipt if row.kind == SYSTEM_DENIAL.raw else AppendReceipt
    return made(
        journal_id, _committed_of(found), found.coordinate, row.kind, row.content_hash,
        found.metadata_bytes[row.entity_len + row.scope_len :], is_durable, replayed,
    )  # fmt: skip


def _committed_of(found: Event | EventSummary) -> Committed:
    row = found.row
    return row.sequence, row.event_id, row.hlc, row.clock, found.event_hash, row.prev_hash


def check_on_replay(on_replay: object) -> None:
    """Raises InvalidInput unless this is an OnReplay."""
    if not isinstance(on_replay, str) or on_replay not in ("raise", "return"):
        raise InvalidInput(
            'on_replay is "raise" or "return"',
            field="on_replay",
            value=on_replay,
            advice='leave it out, or pass "return" for the first receipt whatever it was for',
        )


def check_wait(wait: Watermark | None) -> bool:
    """Whether an append has to wait for durability. Raises InvalidInput."""
    if wait is None:
        return False
    if not isinstance(wait, Watermark):
        raise InvalidInput(
            "wait= takes a Watermark",
            field="wait",
            value=wait,
            advice="pass Watermark.DURABLE, or another one of batpak.Watermark",
        )
    return wait is Watermark.DURABLE


def check_timeout(timeout: float | None) -> None:
    """Raises InvalidInput unless this is a number of seconds, or None."""
    if timeout is not None and (
        isinstance(timeout, bool)
        or not isinstance(timeout, (int, float))
        or not timeout >= 0
        or sys.float_info.max < timeout < math.inf
    ):
        raise InvalidInput(
            "timeout= is seconds from 0 on",
            field="timeout",
            value=timeout,
            advice="pass seconds, such as 2 or 0.5, or leave it out to wait without a limit",
        )
