"""Append commits to the newest segment; but for rewrites, the only code that writes `.seg` files.

Sees bytes and offsets, never payload types. Format: docs/format.md, "Record".

    lock order   append lock, then sync lock; never the other way
    append lock  the log's state (`_log`), heads, clock, rotation, preallocation
    sync lock    fdatasync, the tail hint, `_durable`, closing of descriptors

Both let their own thread in again, since a signal handler, a finalizer or a caller's clock
may call us in the middle of anything: `_is_changing` and `_is_syncing`, looked at when the
lock is held, say that it is held already, by this thread, and the call is refused
(docs/decisions/0075). They are cleared by `finally`, so an interruption leaves neither.

The state between two commits is one value, replaced by one assignment. `_writing` says
that a write or a rotation began; an exception such as Ctrl-C can leave it behind, and
whoever next holds the append lock looks at what stands at the log's end, with recovery's
own parser, and finishes or undoes it. Looking where nothing is does no harm, so the flag
and the state need not change at once.

What there is to log under a lock, or while leading a group, waits in `_untold` for whoever
holds neither: a handler may append.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NoReturn

import msgspec
from blake3 import blake3

from batpak.clock import Clock, SystemClock, checked_us
from batpak.config import Durability, Every, StoreConfig
from batpak.coordinate import Coordinate
from batpak.errors import (
    BatchTooLarge,
    BatpakError,
    Damaged,
    EntityClockOverflow,
    ExpectationFailed,
    IdempotencyConflict,
    Indeterminate,
    JournalPoisoned,
    ReentrantCall,
    StoreClosed,
    StoreForked,
)
from batpak.event import (
    EVENT_PREFIX,
    NO_HASH,
    ROW_PLACE,
    ROW_SIZE,
    is_foreign,
)
from batpak.files import (
    TEMPORARY_SUFFIX,
    Files,
    refusal,
    tell_not_closed,
    wall_us,
    write_all,
)
from batpak.journal.applying import IndexSink, apply_record
from batpak.journal.commits import Committed, Cut, Guard, Head, Known, Prepared
from batpak.journal.flushing import Flusher
from batpak.journal.group import GroupCommit, Request
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import encode_hint
from batpak.journal.layout import Layout
from batpak.journal.record import (
    EAGER,
    MAX_RECORD_BYTES,
    RECORD_HEADER_SIZE,
    Chain,
    Invalid,
    build_pad,
    check_body,
    read_record,
    salt_crc,
    seal_commit,
)
from batpak.journal.reentry import owns, reentered
from batpak.journal.state import Durable, Log, PendingRotation, Segment
from batpak.journal.tally import Reserving, Syncs
from batpak.journal.telling import Teller, Untold

__all__ = ["MAX_CLOCK", "Writer", "create_segment", "unexpected"]

logger = logging.getLogger("batpak.journal")

MAX_CLOCK: Final = 0xFFFFFFFF
MAX_SEQUENCE: Final = (1 << 63) - 1
_WARM_HEADS: Final = 1 << 18
_MOST_IN_A_WRITE: Final = 1 << 20
"""Bytes of the records of several requests after which no further one joins their write."""
_pack_id = struct.Struct(">QQ").pack
_RANDOM_IDS: Final = 512
_RANDOMS = struct.Struct(f">{_RANDOM_IDS}Q")
_VARIANT = bytes(0x80 | byte & 3 for byte in range(256))
"""Of the first byte of an id's low half: the variant, no counter, two random bits."""


class Writer:
    """The one writer of a journal. Made by opening, after recovery, under the lock."""

    def __init__(
        self,
        files: Files,
        layout: Layout,
        config: StoreConfig,
        *,
        journal_id: bytes,
        epoch: int,
        log: Log,
        lock_fd: int,
        hint_fd: int,
        index: IndexSink,
        heads: dict[bytes, Head],
        cold_head: Callable[[bytes, int], Head | None],
        find: Callable[[bytes, int], int | None],
        on_rotated: Callable[[Log, SegmentHeader], IndexSink],
        timestamp_us: int,
    ) -> None:
        self._files = files
        self._pwrite = files.pwrite
        self._sync_log = files.sync_file if config.sync_mode == "full" else files.sync_data
        self._layout = layout
        self._config = config
        self._segment_max_bytes = config.segment_max_bytes
        self._clock: Clock = config.clock or SystemClock()
        self._system_clock = isinstance(self._clock, SystemClock)
        self._ticks = time.monotonic_ns if self._system_clock else self._clock.monotonic_ns
        self._journal_id = journal_id
        self.epoch = epoch
        self._cold_head = cold_head
        self._find = find
        self._on_rotated = on_rotated
        self._lock_fd = lock_fd
        self._hint_fd = hint_fd
        self._left_open: list[int] = []
        """Descriptors that `release` has still to close."""
        self._untold = Untold()
        self._flags = 0 if config.durability is Durability.SYNC else EAGER
        self._append_lock = threading.RLock()
        # guarded by the append lock
        self._is_changing = False
        """Whether its thread is in the middle of what no other commit may come into."""
        self._log = log
        self._index = index
        self._heads = heads
        self._timestamp_us = timestamp_us
        self._randoms: Iterator[int] = iter(())
        hasher = blake3()
        self._hash = hasher.reset, hasher.update, hasher.digest
        self._closed = False
        self._forked = False
        self._poison: BaseException | None = None
        self._ended = False
        """Whether any of the three above holds: the one thing that a commit looks at."""
        self._writing = False
        """Whether a write or a rotation began that was not finished or undone."""
        self._in_flight: Sequence[Request] = ()
        """The requests whose write began last; they hear what became of that write."""
        self.reserving = Reserving()
        # guarded by the sync lock
        self._sync_lock = threading.RLock()
        self._is_syncing = False
        self._durable = Durable(log.sequence, log.hlc)
        self.syncs = Syncs()
        self._group = GroupCommit(self.commit_together, self._sync_once)
        every = config.durability
        self.teller = Teller()
        """For the threads of the store that others wait for."""
        self._flusher = Flusher(self, every, self.teller) if isinstance(every, Every) else None

    # --- what readers and callers ask ---------------------------------------

    @property
    def log(self) -> Log:
        """The state after the last commit."""
        return self._log

    @property
    def durable(self) -> Durable:
        """What is known to survive power loss."""
        return self._durable

    @property
    def visible(self) -> int:
        """The readers' bound: durable events in SYNC, written ones in the other modes."""
        return self._log.sequence if self._flags else self._durable.sequence

    @property
    def waiting(self) -> int:
        """How many threads wait for the next group commit."""
        return self._group.waiting

    @property
    def poison(self) -> BaseException | None:
        """Why writing is over; None while it is not."""
        return self._poison

    @property
    def timestamp_us(self) -> int:
        """The timestamp of the last event written; 0 before the first of this open."""
        return self._timestamp_us

    def readable(self) -> int:
        """`visible`, where reading is allowed: a poisoned journal can still be read.

        Raises StoreClosed, StoreForked. Written out, since every read comes through here.
        """
        if self._closed or self._forked:
            self._check_present()
        return self._log.sequence if self._flags else self._durable.sequence

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one that opened the journal."""
        return self._forked

    @property
    def is_over(self) -> bool:
        """Whether nothing can be written any more: `check` says why."""
        return self._ended

    @property
    def is_closed(self) -> bool:
        """Whether the writer was closed."""
        return self._closed

    def check(self) -> None:
        """Raises StoreClosed, StoreForked or JournalPoisoned when writing is over."""
        self._check_present(closed=False)
        if self._poison is not None:
            cause = self._poison
            raise JournalPoisoned(
                f"an earlier failure left the journal in doubt: {cause}",
                file=self._log.segment.path,
                cause=cause,
                advice="close this store and open the journal anew; reading still works",
            ) from cause
        self._check_present()

    def _check_present(self, *, closed: bool = True) -> None:
        if self._forked:
            raise StoreForked(
                "this store was opened by the parent process",
                advice="open the journal anew in the child, after the parent closed it",
            )
        if closed and self._closed:
            raise StoreClosed("the store is closed", advice="open the journal anew")

    def check_entry(self) -> None:
        """Raises ReentrantCall in a thread that is in the middle of a write, sync or close.

        For what waits for others before it comes to a lock here: they may wait for us.
        """
        if (
            (self._is_changing and owns(self._append_lock))
            or (self._is_syncing and owns(self._sync_lock))
            or self._group.is_here
            or (self._flusher is not None and self._flusher.is_here)
        ):
            raise reentered()

    def tell(self) -> None:
        """Log what had to wait for it; for whoever holds no lock here and leads no group."""
        self._untold.tell()

    # --- commit --------------------------------------------------------------

    def commit(self, events: Sequence[Prepared], guard: Guard | None = None) -> list[Committed]:
        """Write events as one record: all of them, or none and an exception.

        Returns before durability. Raises Known when the keys are known, Conflict when
        the guard or an expectation refuses, IdempotencyConflict, EntityClockOverflow,
        BatchTooLarge, NoSpace, StorageFailed, JournalPoisoned, StoreClosed, StoreForked,
        ReentrantCall; and Cut, where it is written all the same.
        """
        try:
            if len(events) == 1:
                return [self.commit_one(events[0], None, guard)]
            request = Request(events)
            with self._append_lock:
                if self._is_changing:
                    raise reentered()
                self._is_changing = True
                log = self._log
                try:
                    committed = self._commit_locked(events, request, guard)
                    # Nobody asks any more: the events, which may be large, are let go.
                    self._in_flight = ()
                    return committed
                except ReentrantCall as error:
                    raise self._cut(log, request.committed, error) from error
                finally:
                    self._is_changing = False
        except (BatpakError, Cut):
            self.tell()
            raise

    def commit_durably(self, events: Sequence[Prepared], guard: Guard | None = None) -> Request:
        """As `commit`, with one write and one sync for all threads that come together.

        The request tells what became of the events, `error` included; nothing of that
        is raised, since events may be written and not be known to be durable.
        """
        request = Request(events, 0, guard)
        try:
            self._group.run(request)
        except ReentrantCall as error:
            # Of what came in our middle: what it says of itself is not true of us.
            request.error = self._told(request, error)
        if self._untold:
            self.tell()
        return request

    def commit_together(self, requests: Sequence[Request]) -> None:
        """Commit each request for itself, in order; each tells what became of it.

        Those that nothing can refuse share writes, a record for each. Returns before
        durability, and without having told anything.
        """
        with self._append_lock:
            if self._is_changing:
                raise reentered()
            self._is_changing = True
            try:
                if self._writing:
                    self._look_back()
                if len(requests) == 1:
                    self._commit_alone(requests[0])
                else:
                    self._commit_each(requests)
            except ReentrantCall:
                if self._writing:
                    self._look_back()
                raise
            finally:
                self._is_changing = False

    def _commit_each(self, requests: Sequence[Request]) -> None:
        plain: list[Request] = []
        for request in requests:
            if request.is_written or request.error is not None:
                continue
            if _is_plain(request):
                plain.append(request)
                continue
            self._commit_plain(plain)
            self._commit_alone(request)
            plain = []
        self._commit_plain(plain)

    def _commit_alone(self, request: Request) -> None:
        if request.is_written or request.error is not None:
            return
        events = request.events
        try:
            if len(events) == 1:
                # It marks that for itself; between the two, nothing here is under way.
                self._is_changing = False
                try:
                    request.committed = (self.commit_one(events[0], request, request.guard),)
                finally:
                    self._is_changing = True
            else:
                request.committed = self._commit_locked(events, request, request.guard)
        except ReentrantCall:
            # Of a signal handler, say: it is for this thread, whose request ever this is.
            raise
        except Exception as error:  # noqa: BLE001  # raised again, in its own thread
            # It is raised in the thread whose events they are.
            request.error = self._told(request, error)

    def _commit_plain(self, requests: Sequence[Request]) -> None:
        """Commit these with as few writes as may be; where one fails, each goes alone."""
        while requests:
            done = 0
            if len(requests) > 1:
                try:
                    done = self._commit_run(requests)
                except ReentrantCall:
                    raise
                except Exception:  # noqa: BLE001  # met again, by those whom it concerns
                    # Nothing of it stands, or all, or that is in doubt.
                    if self._writing:
                        self._look_back()
                    for request in requests:
                        self._commit_alone(request)
                    return
            if not done:
                self._commit_alone(requests[0])
                done = 1
            requests = requests[done:]

    def _commit_run(self, requests: Sequence[Request]) -> int:
        """Write the first of these with one write, a record for each; how many, or 0.

        None of them is written yet. It ends before what a commit alone has to meet: a full
        segment, a stream that is at its end, more bytes than one write should have.
        """
        log = self._log
        if self._ended or self._writing or log.end >= self._segment_max_bytes:
            log = self._ready()
            if any(request.is_written for request in requests):
                return 0
        segment, first, last_crc = log.segment, log.sequence, log.prev_crc
        end, sequence, hlc = log.end, first, log.hlc
        most = min(self._segment_max_bytes, end + _MOST_IN_A_WRITE)
        now = self._now()
        hlc = max(hlc + 1, now // 1000 << 16)
        warm, fresh = self._heads, dict[bytes, Head]()
        reset, update, digest = self._hash
        salt_state, durable = segment.salt_state, self._durable.sequence
        records: list[bytes] = []
        places: list[tuple[int, int]] = []
        for request in requests:
            if end >= most:
                break
            event = request.events[0]
            entity = event.coordinate.entity_bytes
            clock, previous = fresh.get(entity) or warm.get(entity) or self._head(entity, first)
            if clock > MAX_CLOCK:
                break
            low = next(self._randoms, None) or self._new_randoms()
            event_id = _pack_id(hlc & ~0xFFFF | 0x7000 | hlc >> 4 & 0xFFF, low | (hlc & 0xF) << 58)
            correlation = event.correlation_id
            head = (
                _pack_place(
                    sequence, event_id, event_id if correlation is None else correlation,
                    event.causation_id, now, hlc, clock,
                )
                + event.content
                + previous
                + event.metadata
            )  # fmt: skip
            reset()
            update(EVENT_PREFIX + head)
            event_hash = digest()
            record, last_crc, body_at = seal_commit(
                salt_state, end, head, event.envelope, last_crc, sequence, durable, self.epoch, 1,
                self._flags,
            )  # fmt: skip
            request.committed = ((sequence, event_id, hlc, clock, event_hash, previous),)
            fresh[entity] = (clock + 1, event_hash)
            records.append(record)
            places.append((end, body_at))
            end += len(record)
            sequence += 1
            hlc += 1
        count = len(records)
        if count < 2:
            return 0
        written = self._in_flight = requests[:count]

        self._write(segment, b"".join(records), log.end, end)

        add = self._index.add
        for request, (start, body_at) in zip(written, places, strict=True):
            event, done = request.events[0], request.committed[0]
            coordinate = event.coordinate
            add(
                done[0], done[4], start + _FIRST_ROW, start + _FIRST_METADATA, body_at,
                coordinate.entity_bytes, coordinate.scope_bytes, event.kind, done[3], done[2], None,
            )  # fmt: skip
        warm.update(fresh)
        self._timestamp_us = now
        self._log = Log(
            segment, end, sequence, last_crc, hlc - 1, places[-1][0], log.records + count,
            written[-1].committed[0][4], self.epoch,
        )  # fmt: skip
        for bound, request in enumerate(written, first + 1):
            request.bound = bound
            request.is_written = True
        self._writing = False
        return count

    def _look_back(self) -> None:
        """Learn what became of a request whose leader was interrupted: it may be written."""
        if not self._ended:
            try:
                self._resolve(self._log)
            except ReentrantCall:
                raise
            except Exception:  # noqa: BLE001  # met again, by somebody who can be told of it
                # That is whoever writes next.
                pass

    def _cut(self, log: Log, committed: Sequence[Committed], error: ReentrantCall) -> Exception:
        """What to raise where a call that was refused let its error out into this commit."""
        if not self._writing:
            return error
        self._look_back()
        if self._log.sequence > log.sequence:
            return Cut(committed, error)
        return error if not self._writing else _in_doubt(error)

    def _told(self, request: Request, error: Exception) -> Exception:
        """What the request's thread hears; a write in doubt is no plain refusal."""
        if (
            self._writing
            and request in self._in_flight
            and isinstance(error, (JournalPoisoned, ReentrantCall))
        ):
            return _in_doubt(error)
        return error

    def _commit_locked(
        self, events: Sequence[Prepared], request: Request | None, guard: Guard | None
    ) -> list[Committed]:
        # 1. May we write at all, and where?
        log = self._log
        if self._ended or self._writing or log.end >= self._segment_max_bytes:
            log = self._ready()
            if request is not None and request.is_written:
                return list(request.committed)

        # 2. Keys before conditions, so that a retry succeeds. 3. Conditions.
        if events[0].key is not None:
            self._look_up_keys(events, log.sequence)
        if guard is not None:
            guard(log.sequence)

        # 4. Sequence, id, HLC, clock and prev_hash for each event. Nothing is
        # remembered before the write succeeded.
        segment, end, first = log.segment, log.end, log.sequence
        sequence, last_hlc = first, log.hlc
        now = self._now()
        hlc = now // 1000 << 16
        if hlc <= last_hlc:
            hlc = last_hlc + 1
        warm, fresh = self._heads, dict[bytes, Head]()
        place, new_id = _pack_place, self._new_id
        reset, update, digest = self._hash
        rows: list[bytes] = []
        committed: list[Committed] = []
        for event in events:
            coordinate, event_id = event.coordinate, event.key
            entity = coordinate.entity_bytes
            clock, previous = fresh.get(entity) or warm.get(entity) or self._head(entity, first)
            if clock > MAX_CLOCK:
                raise _stream_full(coordinate)
            if event_id is None:
                event_id = new_id(hlc)
            if event.sealing is not None:
                event.seal(event_id)
            correlation, causation = event.correlation_id, event.causation_id
            if correlation is None:
                correlation = event_id
            elif type(correlation) is int:
                correlation = committed[correlation][1]
            if type(causation) is int:
                causation = committed[causation][1]
            row = (
                place(sequence, event_id, correlation, causation, now, hlc, clock)
                + event.content
                + previous
            )
            reset()
            update(EVENT_PREFIX + row + event.metadata)
            event_hash = digest()
            fresh[entity] = (clock + 1, event_hash)
            rows.append(row)
            committed.append((sequence, event_id, hlc, clock, event_hash, previous))
            sequence += 1
            hlc += 1
        rows.extend([event.metadata for event in events])
        envelopes = [event.envelope for event in events]
        _check_size(sum(map(len, rows)) + sum(map(len, envelopes)), len(committed))
        record, head_crc, body_at = seal_commit(
            segment.salt_state, end, b"".join(rows), b"".join(envelopes), log.prev_crc, first,
            self._durable.sequence, self.epoch, len(committed), self._flags,
        )  # fmt: skip
        after = end + len(record)
        if request is not None:
            request.committed = committed
        self._in_flight = () if request is None else (request,)

        self._write(segment, record, end, after)

        # 6. Findable, then published by one assignment.
        self._index.add_many(end + RECORD_HEADER_SIZE, body_at, events, committed)
        warm.update(fresh)
        self._timestamp_us = now
        self._log = Log(
            segment, after, sequence, head_crc, hlc - 1, end, log.records + 1, committed[-1][4],
            self.epoch,
        )  # fmt: skip
        if request is not None:
            request.written_below(sequence)
        self._writing = False
        return committed

    def commit_one(
        self, event: Prepared, request: Request | None = None, guard: Guard | None = None
    ) -> Committed:
        """As `commit`, for the one event that most commits have: the same steps and the
        same bytes, without a list for each thing, and with its parts written out, since
        a call costs as much as a hash. Raises as `commit`, and leaves what is to be told.
        """
        committed: Committed | None = None
        with self._append_lock:
            if self._is_changing:
                raise reentered()
            self._is_changing = True
            log = self._log
            try:
                if self._ended or self._writing or log.end >= self._segment_max_bytes:
                    log = self._ready()
                    if request is not None and request.is_written:
                        return request.committed[0]

                segment, end, sequence = log.segment, log.end, log.sequence
                coordinate, event_id, correlation = (
                    event.coordinate,
                    event.key,
                    event.correlation_id,
                )
                now = _time_ns() // 1000 if self._system_clock else checked_us(self._clock)
                if now < self._timestamp_us:
                    now = self._timestamp_us
                hlc = now // 1000 << 16
                if hlc <= log.hlc:
                    hlc = log.hlc + 1
                entity = coordinate.entity_bytes
                foreign_id = None
                if event_id is not None:
                    known = self._find(event_id, sequence)
                    if known is not None:
                        raise Known((known,))
                    if is_foreign(event_id, hlc):
                        foreign_id = event_id
                if guard is not None:
                    guard(sequence)
                clock, previous = self._heads.get(entity) or self._head(entity, sequence)
                if event.expect is not None and clock != event.expect:
                    raise unexpected(coordinate.entity, clock, event.expect)
                if clock > MAX_CLOCK:
                    raise _stream_full(coordinate)
                if event_id is None:
                    low = next(self._randoms, None) or self._new_randoms()
                    event_id = _pack_id(
                        hlc & ~0xFFFF | 0x7000 | hlc >> 4 & 0xFFF, low | (hlc & 0xF) << 58
                    )
                if event.sealing is not None:
                    event.seal(event_id)
                head = (
                    _pack_place(
                        sequence, event_id, event_id if correlation is None else correlation,
                        event.causation_id, now, hlc, clock,
                    )
                    + event.content
                    + previous
                    + event.metadata
                )  # fmt: skip
                reset, update, digest = self._hash
                reset()
                update(EVENT_PREFIX + head)
                event_hash = digest()
                record, head_crc, body_at = seal_commit(
                    segment.salt_state, end, head, event.envelope, log.prev_crc, sequence,
                    self._durable.sequence, self.epoch, 1, self._flags,
                )  # fmt: skip
                after = end + len(record)
                committed = sequence, event_id, hlc, clock, event_hash, previous
                if request is not None:
                    request.committed = (committed,)
                self._in_flight = () if request is None else (request,)

                if after > segment.allocated:
                    self._allocate(segment, after)
                self._writing = True
                try:
                    if self._pwrite(segment.fd, record, end) != after - end:
                        self._write(segment, record, end, after)
                except OSError as error:
                    self._cut_back(segment, end, error)

                self._index.add(
                    sequence, event_hash, end + _FIRST_ROW, end + _FIRST_METADATA, body_at, entity,
                    coordinate.scope_bytes, event.kind, clock, hlc, foreign_id,
                )  # fmt: skip
                self._heads[entity] = (clock + 1, event_hash)
                self._timestamp_us = now
                self._log = Log(
                    segment, after, sequence + 1, head_crc, hlc, end, log.records + 1, event_hash,
                    self.epoch,
                )  # fmt: skip
                if request is not None:
                    request.written_below(sequence + 1)
                self._writing = False
            except ReentrantCall as error:
                if request is not None or committed is None:
                    raise
                raise self._cut(log, (committed,), error) from error
            finally:
                self._is_changing = False
        return committed

    def _look_up_keys(self, events: Sequence[Prepared], written: int) -> None:
        """Raises Known when all keys are ids of events, IdempotencyConflict when some are.

        Events without a key go with the others: they are written when those are.
        """
        known: list[int] = []
        keys = 0
        for index, event in enumerate(events):
            if event.key is None:
                continue
            keys += 1
            sequence = self._find(event.key, written)
            if sequence is not None:
                known.append(sequence)
            if len(known) not in (0, keys):
                raise IdempotencyConflict(
                    "some keys of the commit are known, others are not",
                    reason="partial-replay",
                    index=index,
                    key=event.key.hex(),
                    advice="retry a commit with the same items, or leave the known ones out",
                )
        if known:
            raise Known(known)

    def head(self, entity: bytes) -> Head:
        """Where the entity's stream ends; the caller holds the append lock (a Guard does)."""
        return self._heads.get(entity) or self._head(entity, self._log.sequence)

    def _ready(self) -> Log:
        """The rare ways to begin a commit: refuse, resolve an interruption, rotate."""
        self.check()
        if self._is_syncing and owns(self._sync_lock):
            # A rotation would close the descriptor under our own sync.
            raise reentered()
        log = self._resolve(self._log) if self._writing else self._log
        if len(self._heads) > _WARM_HEADS:
            self._heads.clear()
        return self._rotate(log) if log.end >= self._segment_max_bytes else log

    def _now(self) -> int:
        """The clock's reading in microseconds; it never goes back."""
        now = _time_ns() // 1000 if self._system_clock else checked_us(self._clock)
        return now if now >= self._timestamp_us else self._timestamp_us

    def _new_id(self, hlc: int) -> bytes:
        """An id of our own making that carries `hlc` (docs/format.md, "Event ids")."""
        low = next(self._randoms, None) or self._new_randoms()
        return _pack_id(hlc & ~0xFFFF | 0x7000 | hlc >> 4 & 0xFFF, low | (hlc & 0xF) << 58)

    def _new_randoms(self) -> int:
        # A block at a time: a system call an event would be slow.
        block = bytearray(os.urandom(_RANDOMS.size))
        block[::8] = block[::8].translate(_VARIANT)
        self._randoms = iter(_RANDOMS.unpack(block))
        return next(self._randoms)

    def _write(self, segment: Segment, record: bytes, end: int, after: int) -> None:
        """5. One write at the known end. Crash inside: a tear after the end."""
        if after > segment.allocated:
            self._allocate(segment, after)
        # Ctrl-C arrives on the return from pwrite: then `_writing` stays behind, and
        # whoever commits next looks at what stands at the end.
        self._writing = True
        try:
            written = self._pwrite(segment.fd, record, end)
            if written != after - end:
                write_all(self._files, segment.fd, memoryview(record)[written:], end + written)
        except OSError as error:
            self._cut_back(segment, end, error)

    def _head(self, entity: bytes, sequence: int) -> Head:
        """The head of an entity that is not warm."""
        return self._cold_head(entity, sequence) or (0, NO_HASH)

    def _cut_back(self, segment: Segment, end: int, error: OSError) -> NoReturn:
        """After a refused write: nothing of the record may stay behind the log's end."""
        try:
            self._files.truncate(segment.fd, end)
        except OSError as second:
            self._poison_with(second)
            raise Indeterminate(
                f"a write failed and could not be undone: {error}",
                receipts=(),
                cause=second,
                advice="open the journal anew and look for the event before writing it again",
            ) from error
        segment.allocated = end
        self._in_flight = ()
        self._writing = False
        raise refusal(error, "nothing was written", segment.path) from error

    @property
    def flushes(self) -> bool:
        """Whether writing calls for `flush_in_time`: in EVERY only."""
        return self._flusher is not None

    def flush_in_time(self, bound: int) -> bool:
        """In EVERY, after a commit: sync if it is time; whether `bound` is durable now."""
        if self._flusher is not None:
            self._flusher.note_write(bound - self._durable.sequence, is_inner=self._group.is_here)
        return self._durable.sequence >= bound

    def _allocate(self, segment: Segment, needed: int) -> None:
        """Reserve space ahead; where that is refused, the file just grows."""
        step = self._config.preallocate
        if not step:
            return
        try:
            self._files.allocate(
                segment.fd, segment.allocated, max(needed - segment.allocated, 0) + step
            )
        except OSError as error:
            self.reserving = Reserving(self.reserving.done, reason := str(error))
            self._untold.later(
                lambda: logger.debug(
                    "no space reserved ahead in %r: %s", segment.path, reason,
                    extra={"code": "not-reserved", "file": segment.path, "error": reason},
                )
            )  # fmt: skip
            # Not asked again until the log has grown by as much.
            segment.allocated = needed + step
        else:
            self.reserving = Reserving(self.reserving.done + 1, self.reserving.refused)
            segment.allocated = max(needed, segment.allocated) + step

    def _poison_with(self, cause: BaseException) -> None:
        if self._poison is None:
            self._poison, self._ended = cause, True
            root = self._layout.root
            self._untold.append(
                lambda: logger.error(
                    "journal %r is poisoned: %s", root, cause,
                    extra={"code": "poisoned", "journal": root, "error": str(cause)},
                )
            )  # fmt: skip

    # --- what an interruption left behind ------------------------------------

    def _resolve(self, log: Log) -> Log:
        """Finish or undo a write or a rotation that an exception interrupted."""
        if log.pending is not None:
            return self._resolve_rotation(log, log.pending)
        segment = log.segment
        files = self._files

        def read(offset: int, length: int) -> bytes:
            return files.pread(segment.fd, length, offset)

        chain = Chain(log.end, log.sequence, log.prev_crc, self.epoch)
        try:
            size = files.fstat(segment.fd).st_size
            # One write may have had several records.
            while True:
                record = read_record(read, size, chain, segment.salt_state)
                if isinstance(record, Invalid) or not record.rows:
                    break
                body = read(record.body_offset, record.header.body_len)
                if check_body(record, body, segment.salt_state):
                    break
                last = apply_record(record, read, self._index, self._heads)
                self._timestamp_us = max(self._timestamp_us, record.rows[-1].timestamp_us)
                self._log = log = Log(
                    segment,
                    record.end,
                    record.next_sequence,
                    record.header.head_crc,
                    record.rows[-1].hlc,
                    record.offset,
                    log.records + 1,
                    last,
                    self.epoch,
                )
                chain = record.chain
            if size > log.end:
                files.truncate(segment.fd, log.end)
                segment.allocated = log.end
        except OSError as error:
            self._poison_with(error)
            self.check()
        for request in self._in_flight:
            request.written_below(log.sequence)
        self._writing = False
        return log

    # --- rotation ------------------------------------------------------------

    def rotate(self) -> None:
        """Begin a new segment, unless the newest has no event: all written ones are sealed then.

        Raises NoSpace, StorageFailed, JournalPoisoned, StoreClosed, StoreForked, ReentrantCall.
        """
        try:
            with self._append_lock:
                if self._is_changing:
                    raise reentered()
                self._is_changing = True
                try:
                    log = self._ready()
                    if log.sequence > log.segment.header.base_sequence:
                        self._rotate(log)
                finally:
                    self._is_changing = False
        finally:
            self.tell()

    def check_lock_file(self) -> None:
        """Raises JournalPoisoned where the lock is somebody else's: then nothing may be changed."""
        try:
            with self._append_lock:
                if self._is_changing:
                    raise reentered()
                self.check()
                self._check_lock_file()
        finally:
            self.tell()

    def _rotate(self, log: Log) -> Log:
        """Begin a new segment; the append lock is held."""
        self._check_lock_file()
        if log.sequence >= MAX_SEQUENCE:
            raise BatchTooLarge("the journal is full: 2^63 events", limit=MAX_SEQUENCE)
        # The old segment ends where its log ends, durably, before the new one exists:
        # so only the newest segment can have a torn tail.
        try:
            self._files.truncate(log.segment.fd, log.end)
            log.segment.allocated = log.end
        except OSError as error:
            raise refusal(error, "can't seal the segment", log.segment.path) from error
        self._sync_once(whole_file=True)
        header = SegmentHeader(
            self._journal_id,
            log.sequence,
            wall_us(),
            os.urandom(16),
            log.last_hash,
            self.epoch,
        )
        self._log = msgspec.structs.replace(log, pending=PendingRotation(header))
        self._writing = True
        try:
            create_segment(self._files, self._layout, header)
            return self._switch(log, header)
        except OSError as error:
            self._undo_rotation(log, header)
            raise refusal(error, "can't begin a new segment", log.segment.path) from error

    def _switch(self, log: Log, header: SegmentHeader) -> Log:
        """Make the new segment, whose name is durable, the one that grows."""
        path = self._layout.segment(header.base_sequence)
        fd = self._files.open(path, os.O_RDWR)
        encoded = SegmentHeader.decode(header.encode(), path)
        segment = Segment(encoded, fd, salt_crc(header.salt), path, HEADER_SIZE)
        fresh = Log(
            segment,
            HEADER_SIZE,
            log.sequence,
            encoded.crc,
            log.hlc,
            0,
            0,
            log.last_hash,
            self.epoch,
        )
        self._index = self._on_rotated(msgspec.structs.replace(log, pending=None), encoded)
        with self._sync_lock:
            # Nobody syncs the old descriptor any more once the state names the new one.
            self._log = fresh
            self._writing = False
            try:
                self._files.close(log.segment.fd)
            except OSError as error:
                self._untold.later(partial(tell_not_closed, error))
        return fresh

    def _undo_rotation(self, log: Log, header: SegmentHeader) -> None:
        """After a refused rotation: no new segment may stand. The old one goes on."""
        path = self._layout.segment(header.base_sequence)
        try:
            for name in (path + TEMPORARY_SUFFIX, path):
                try:
                    self._files.unlink(name)
                except FileNotFoundError:
                    pass
            self._files.sync_directory(self._layout.segments)
        except OSError as error:
            self._poison_with(error)
            self.check()
        self._log = log
        self._writing = False

    def _resolve_rotation(self, log: Log, pending: PendingRotation) -> Log:
        path = self._layout.segment(pending.header.base_sequence)
        clean = msgspec.structs.replace(log, pending=None)
        try:
            self._files.stat(path)
            self._files.sync_directory(self._layout.segments)
            return self._switch(clean, pending.header)
        except FileNotFoundError:
            self._undo_rotation(clean, pending.header)
        except OSError as error:
            self._poison_with(error)
            self.check()
        return clean

    def _check_lock_file(self) -> None:
        """Poison when the lock file is gone or replaced: somebody else may hold another one."""
        lock = self._layout.lock
        try:
            ours = self._files.fstat(self._lock_fd)
            named = self._files.stat(lock)
            if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
                self._poison_with(Damaged("journal.lock was replaced by another file", file=lock))
        except FileNotFoundError:
            self._poison_with(Damaged("journal.lock was deleted while it was held", file=lock))
        except OSError as error:
            self._poison_with(error)
        self.check()

    # --- durability ----------------------------------------------------------

    def sync(self) -> None:
        """Make everything written so far durable. Raises JournalPoisoned, ReentrantCall, …"""
        self.wait_durable(self._log.sequence)

    def wait_durable(self, bound: int, timeout: float | None = None) -> bool:
        """Return True once all below `bound` is durable; False when the time is over."""
        if self._durable.sequence >= bound:
            return True
        request = Request.below(bound)
        is_done = self._group.run(request, timeout)
        if self._untold:
            self.tell()
        if not is_done:
            return self._durable.sequence >= bound
        if request.error is not None and self._durable.sequence < bound:
            self.check()
            raise request.error
        return True

    def _sync_once(self, *, whole_file: bool = False) -> None:
        """One fdatasync for all that is published now, then one hint."""
        with self._sync_lock:
            if self._is_syncing:
                raise reentered()
            self._is_syncing = True
            try:
                log = self._log
                if log.sequence <= self._durable.sequence and not whole_file:
                    # Also when a close has done it, and the store is closed by now.
                    return
                if self._ended:
                    self.check()
                self._sync(log, whole_file=whole_file)
            finally:
                self._is_syncing = False

    def _sync(self, log: Log, *, whole_file: bool) -> None:
        began = self._ticks()
        try:
            if whole_file:
                self._files.sync_file(log.segment.fd)
            else:
                self._sync_log(log.segment.fd)
        except OSError as error:
            # Never retried: after a failed fsync the page cache may show bytes
            # that the disk does not hold.
            self._poison_with(error)
            self.check()
        # First, so that a caller's clock that fails leaves what is true.
        self._durable = Durable(log.sequence, log.hlc)
        took = (self._ticks() - began) / 1e9
        self._write_hint(log)
        bound = self._config.sync_warning
        is_slow = took > bound
        self.syncs = self.syncs.with_one(took, is_slow=is_slow)
        if is_slow:
            self._was_slow(log.segment.path, took, bound)

    def _was_slow(self, path: str, took: float, bound: float) -> None:
        self._untold.later(
            lambda: logger.warning(
                "a sync of %r took %.3f s", path, took,
                extra={"code": "slow-sync", "file": path, "seconds": took, "bound_seconds": bound},
            )
        )  # fmt: skip

    def _write_hint(self, log: Log) -> None:
        """Tell how far we are durable; only ever after the sync it tells of."""
        hint = encode_hint(
            self._journal_id, self.epoch, log.segment.header.base_sequence, log.end,
            self._durable.sequence,
        )  # fmt: skip
        try:
            self._pwrite(self._hint_fd, hint, 0)
        except OSError as error:
            # A witness only: without it the data are as durable as with it.
            self._hint_failed(str(error))

    def _hint_failed(self, reason: str) -> None:
        path = self._layout.hint
        self._untold.later(
            lambda: logger.warning(
                "tail.hint not written: %s", reason,
                extra={"code": "hint-not-written", "file": path, "error": reason},
            )
        )  # fmt: skip

    # --- the end -------------------------------------------------------------

    def close(self, last_events: Callable[[], Sequence[Prepared]]) -> Log:
        """Write the closing events, sync, pad, sync. Returns the final state.

        Raises as `commit`, before it waits for anything where that is ReentrantCall.

        Descriptors stay open until `release`, which the caller owes in every case.
        """
        self.check_entry()
        if self._flusher is not None:
            self._flusher.stop()
        try:
            return self._close(last_events)
        finally:
            self.tell()

    def _close(self, last_events: Callable[[], Sequence[Prepared]]) -> Log:
        with self._append_lock:
            if self._is_changing:
                raise reentered()
            self._is_changing = True
            try:
                final = self._closing(last_events)
            finally:
                self._is_changing = False
        try:
            self._files.sync_file(self._hint_fd)
        except OSError as error:
            path, reason = self._layout.hint, str(error)
            self._untold.later(
                lambda: logger.warning(
                    "tail.hint not synced: %s", reason,
                    extra={"code": "hint-not-synced", "file": path, "error": reason},
                )
            )  # fmt: skip
        return final

    def _closing(self, last_events: Callable[[], Sequence[Prepared]]) -> Log:
        """Up to the pad and its sync; the append lock is held."""
        self.check()
        # Before a byte is written or cut: what stands at our end may be somebody else's.
        self._check_lock_file()
        self._ready()
        self._commit_locked(last_events(), None, None)
        self._sync_once()
        log = self._log
        chain = Chain(log.end, log.sequence, log.prev_crc, self.epoch)
        pad, head_crc = build_pad(log.segment.salt_state, chain, self._durable.sequence, self.epoch)
        # Crash before the pad: the next open finds the bound in tail.hint instead.
        self._write(log.segment, pad, log.end, log.end + len(pad))
        try:
            self._files.truncate(log.segment.fd, log.end + len(pad))
        except OSError as error:
            self._poison_with(error)
            self.check()
        final = msgspec.structs.replace(
            log,
            end=log.end + len(pad),
            prev_crc=head_crc,
            record_offset=log.end,
            records=log.records + 1,
        )
        self._log = final
        self._writing = False
        self._sync_once(whole_file=True)
        self._closed = self._ended = True
        return final

    def abandon(self) -> None:
        """No more writes from now on; nothing is written. Then `release`."""
        if self._flusher is not None:
            self._flusher.stop()
        self._closed = self._ended = True

    def release(self) -> None:
        """Close the descriptors, which frees the lock. Waits for a commit or sync under way.

        After an interruption it can be called again, and goes on. Raises ReentrantCall.
        """
        self.check_entry()
        self._closed = self._ended = True
        if self._flusher is not None and not self._forked:
            self._flusher.abandon()
        try:
            self._release()
        finally:
            self.tell()

    def _release(self) -> None:
        with self._append_lock, self._sync_lock:
            segment, left = self._log.segment, self._left_open
            # No call among these, nor between the taking of one and its closing: Ctrl-C
            # loses none, and none is closed twice, when its number is somebody else's.
            left += [segment.fd, self._hint_fd, self._lock_fd]
            segment.fd = self._hint_fd = self._lock_fd = -1
            while left:
                fd = left[-1]
                del left[-1]
                if fd < 0:
                    continue
                try:
                    self._files.close(fd)
                except OSError as error:
                    # Everything was synced, or is in doubt anyway.
                    self._untold.later(partial(tell_not_closed, error))

    def forked(self) -> None:
        """In a forked child: never write again, and drop the parent's descriptors.

        The lock belongs to the open file that parent and child share, so closing the
        child's descriptor leaves it held; unlocking would take it from the parent.
        """
        self._forked = self._ended = True
        # Threads of the parent may have held these; they do not exist here.
        self._append_lock = threading.RLock()
        self._sync_lock = threading.RLock()
        self._is_changing = self._is_syncing = False
        self._group = GroupCommit(self.commit_together, self._sync_once)
        self._untold = Untold()
        self.teller = Teller()
        for fd in (self._log.segment.fd, self._hint_fd, self._lock_fd):
            if fd >= 0:
                try:
                    self._files.close(fd)
                except OSError as error:
                    logger.debug(
                        "closing a descriptor after fork: %s", str(error),
                        extra={"code": "descriptor-not-closed", "error": str(error)},
                    )  # fmt: skip
        self._log.segment.fd = self._hint_fd = self._lock_fd = -1


_time_ns = time.time_ns
_pack_place = ROW_PLACE.pack
_FIRST_ROW: Final = RECORD_HEADER_SIZE
_FIRST_METADATA: Final = RECORD_HEADER_SIZE + ROW_SIZE


def _stream_full(coordinate: Coordinate) -> EntityClockOverflow:
    return EntityClockOverflow(
        "the entity's stream is full: no further event fits",
        entity=coordinate.entity,
        advice="continue under a new entity name",
    )


def _in_doubt(error: BatpakError) -> Indeterminate:
    return Indeterminate(
        f"a write was interrupted, and can't be looked at: {error.what}",
        receipts=(),
        cause=error,
        advice="open the journal anew and look for the event before writing it again",
    )


def unexpected(entity: str, actual: int, expected: int) -> ExpectationFailed:
    """What to raise where an entity's next clock is not the one that was expected."""
    stands = f"its last event has clock {actual - 1}" if actual else "it has no event"
    wanted = f"at clock {expected - 1}" if expected else "without events"
    return ExpectationFailed(
        f"{entity} is not {wanted}: {stands}",
        entity=entity,
        expected=expected - 1 if expected else None,
        actual=actual - 1 if actual else None,
        advice="read the entity again and decide anew",
    )


def _is_plain(request: Request) -> bool:
    """Whether nothing about its one event depends on what is written before it."""
    if request.guard is not None or len(request.events) != 1:
        return False
    event = request.events[0]
    return event.key is None and event.expect is None and event.sealing is None


def _check_size(size: int, count: int) -> None:
    """Raises BatchTooLarge unless the events fit one record."""
    # Reserved room keeps a later erasure's table of stored lengths inside the limit.
    limit = MAX_RECORD_BYTES - 24 - 4 * count
    if size > limit:
        raise BatchTooLarge(
            f"the commit has {size} bytes", limit=limit, advice="split it into several"
        )


def create_segment(files: Files, layout: Layout, header: SegmentHeader) -> None:
    """A new segment with nothing but its header, durable under its name. Raises OSError."""
    path = layout.segment(header.base_sequence)
    temporary = path + TEMPORARY_SUFFIX
    fd = files.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
    try:
        write_all(files, fd, header.encode(), 0)
        files.sync_file(fd)
    finally:
        files.close(fd)
    # Crash before this: a temporary file, which the next open deletes.
    files.rename(temporary, path)
    # Crash before this: the name may be lost; nothing in the segment was acknowledged.
    files.sync_directory(layout.segments)
