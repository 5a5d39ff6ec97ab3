"""What can be asked of a journal, by whoever holds it: the writing store and its readers.

Every question is judged and answered below one bound; who may see how far is the store's
business.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

from batpak import canonical
from batpak.config import StoreConfig
from batpak.coordinate import Region
from batpak.engine.appending import receipt_of_stored
from batpak.engine.checkpoints import StoredCheckpoint, load_checkpoint
from batpak.engine.compacting import CompactionPlan, plan_compaction
from batpak.engine.erasing import ErasureReport, plan_erasure
from batpak.engine.history import Place
from batpak.engine.keys import KeyLedger, KeySpan
from batpak.engine.progress import Meter
from batpak.engine.proving import MAX_RANGE, ConsistencyProof, Prover, check_length
from batpak.engine.reading import LogReader
from batpak.engine.report import Finding, OpenReport, VerifyReport
from batpak.engine.shredding import ShredReport, plan_shredding
from batpak.engine.survey import checkpoint_sizes
from batpak.engine.tree import Tree
from batpak.errors import (
    EventNotFound,
    InvalidInput,
    JournalCorrupt,
    NotCheckpointed,
    PayloadDamaged,
)
from batpak.event import NO_HASH, Event, EventSummary
from batpak.files import Files, path_text
from batpak.ids import EventId
from batpak.index.query import ALL, Query
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout
from batpak.kinds import EventKind
from batpak.receipt import AppendReceipt, Invalid, Reason, Signed, UnsignedAccepted

if TYPE_CHECKING:
    from batpak.bundle import Bundle
    from batpak.engine.diagnostics import Diagnostics
    from batpak.engine.forking import ForkReport
    from batpak.engine.snapshot import SnapshotReport
    from batpak.proof.notes import Key as NoteKey

__all__ = [
    "Ancestry",
    "AncestryEnd",
    "Frontier",
    "Page",
    "Point",
    "Reading",
    "Stats",
    "query_of",
    "source_bytes",
]

_PAGE = 1024


class Point(NamedTuple):
    """An exclusive bound and the HLC of the last event below it; 0 for none."""

    sequence: int
    hlc: int

    @property
    def wall_ms(self) -> int:
        """Milliseconds since the epoch, of the HLC."""
        return self.hlc >> 16


@dataclass(frozen=True, slots=True)
class Frontier:
    """All watermarks, read at once: accepted ≥ written ≥ durable, visible ≥ applied."""

    accepted: Point
    written: Point
    durable: Point
    visible: Point
    applied: Point
    unsynced_since_us: int | None = None
    """`timestamp_us` of the oldest written event that is not durable; None if all are."""

    @property
    def emitted(self) -> Point:
        """What readers are given: the same as visible."""
        return self.visible

    @property
    def unsynced_visible(self) -> int:
        """How many events readers see that a power cut could still take; 0 in SYNC."""
        return self.visible.sequence - self.durable.sequence

    def unsynced_age(self, now_us: int) -> float:
        """For how many seconds, by a clock that reads `now_us`, an event waits for its sync."""
        since = self.unsynced_since_us
        return 0.0 if since is None else max(0, now_us - since) / 1e6


@dataclass(frozen=True, slots=True)
class Page:
    """Events in commit order. `next_after` is what to pass as `after` for the next page."""

    events: tuple[Event, ...]
    next_after: int | None
    exhausted: bool


class AncestryEnd(enum.Enum):
    """Why a walk along an entity's chain ended."""

    GENESIS = "genesis"
    LIMIT = "limit"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Ancestry:
    """An entity's chain, newest first, each link verified."""

    events: tuple[Event, ...]
    end: AncestryEnd
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers about what a reader sees."""

    events: int
    segments: int
    segment_bytes: int
    """Bytes of log, without space reserved ahead."""
    entities: int
    scopes: int
    kinds: Mapping[EventKind, int]
    keyed_events: int
    """Events under an idempotency key, imported ones among them: keys that are remembered."""
    first_time: datetime | None
    last_time: datetime | None


class Reading:
    """What a reader can ask; shared by the writing and the read-only store."""

    _identity: Identity
    _layout: Layout
    _reader: LogReader
    _config: StoreConfig
    _files: Files
    _report: OpenReport
    _tree: Tree | None = None
    _key_ledger: KeyLedger | None = None

    def _bound(self) -> int:
        """The exclusive bound of what is visible now. Raises StoreClosed, StoreForked."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """The journal's directory."""
        return self._layout.root

    @property
    def journal_id(self) -> Any:
        """The journal's UUID."""
        return self._identity.journal_id

    @property
    def origin(self) -> str:
        """The journal's name in checkpoints."""
        return self._identity.origin

    @property
    def open_report(self) -> OpenReport:
        """What opening met and did."""
        return self._report

    def get(self, event_id: EventId) -> Event:
        """The event with this id, checked. Raises EventNotFound, JournalCorrupt, PayloadDamaged."""
        if not isinstance(event_id, EventId):
            raise InvalidInput(
                "get() takes an EventId",
                field="event_id",
                value=event_id,
                advice="parse a text with EventId.parse",
            )
        event = self._reader.get(
            event_id.bytes, self._bound(), event_hash=self._config.verify == "always"
        )
        if event is None:
            raise EventNotFound(
                f"no event has the id {event_id}",
                field="event_id",
                value=str(event_id),
                advice="check the journal's path and the id",
            )
        return event

    def at(self, sequence: int) -> Event:
        """The event at this sequence, checked. Raises as `get`."""
        bound = self._bound()
        if isinstance(sequence, bool) or not isinstance(sequence, int):
            raise InvalidInput("at() takes a whole number", field="sequence", value=sequence)
        if not 0 <= sequence < bound:
            raise EventNotFound(
                f"no event has the sequence {sequence}: visible are 0 to {bound - 1}",
                field="sequence",
                sequence=sequence,
            )
        return self._reader.at(sequence, event_hash=self._config.verify == "always")

    def __getitem__(self, key: EventId | int) -> Event:
        return self.get(key) if isinstance(key, EventId) else self.at(key)

    def __len__(self) -> int:
        return self._bound()

    def __bool__(self) -> bool:
        # A store with no event is still a store.
        return True

    def __iter__(self) -> Iterator[Event]:
        return self.query(Region.all())

    @overload
    def query(
        self, region: Region, *, after: int | None = None, payload: Literal[True] = True
    ) -> Iterator[Event]: ...
    @overload
    def query(
        self, region: Region, *, after: int | None = None, payload: Literal[False]
    ) -> Iterator[EventSummary]: ...
    def query(
        self, region: Region, *, after: int | None = None, payload: bool = True
    ) -> Iterator[Event] | Iterator[EventSummary]:
        """Matching events in commit order, from what is visible at the call.

        `after`: only sequences above it. `payload=False` gives summaries. Content
        hashes are checked. Raises InvalidInput, JournalCorrupt, PayloadDamaged; StoreClosed
        where the store was closed before the iterator's first event, or when it reads on.
        """
        low, query = _low(after), query_of(region)
        high = self._bound()
        if payload:
            return self._reader.scan(query, low, high)
        return self._reader.scan_summaries(query, low, high)

    def page(self, region: Region, *, after: int | None = None, limit: int = 100) -> Page:
        """Up to `limit` matching events after sequence `after`, and where to go on.

        Raises InvalidInput, JournalCorrupt, PayloadDamaged.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1 << 20:
            raise InvalidInput(
                "a page's limit is a whole number from 1 to 1 048 576", field="limit", value=limit
            )
        events: list[Event] = []
        for event in self.query(region, after=after):
            if len(events) == limit:
                return Page(tuple(events), events[-1].sequence, exhausted=False)
            events.append(event)
        return Page(tuple(events), events[-1].sequence if events else after, exhausted=True)

    def entity(self, name: str) -> Iterator[Event]:
        """The events of exactly this entity, in order. Raises as `query`."""
        return self._reader.scan(_exactly(name), 0, self._bound())

    def latest(self, entity: str) -> Event | None:
        """The entity's newest event; None when it has none. Raises as `get`."""
        query = _exactly(entity)
        assert query.entity is not None, "made from a name"
        sequence = self._reader.index.last_of(query.entity, self._bound())
        return None if sequence is None else self.at(sequence)

    def count(self, region: Region) -> int:
        """How many visible events match, counted in the index."""
        return self._reader.count(query_of(region), 0, self._bound())

    def ancestors(self, event_id: EventId, *, limit: int | None = None) -> Ancestry:
        """The event and its predecessors by link, newest first; each hop verified.

        How the walk ended is part of the result. Raises EventNotFound, InvalidInput.
        """
        if not isinstance(event_id, EventId):
            raise InvalidInput(
                "ancestors() takes an EventId",
                field="event_id",
                value=event_id,
                advice="parse a text with EventId.parse",
            )
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or limit < 1
        ):
            raise InvalidInput("a walk's limit is at least 1", field="limit", value=limit)
        bound = self._bound()
        start = self._reader.find_id(event_id.bytes, bound)
        if start is None:
            raise EventNotFound(
                f"no event has the id {event_id}", field="event_id", value=str(event_id)
            )
        events: list[Event] = []
        expected: bytes | None = None
        for sequence in self._stream_backwards(start):
            if limit is not None and len(events) == limit:
                return Ancestry(tuple(events), AncestryEnd.LIMIT)
            try:
                event = self._reader.at(sequence)
            except (JournalCorrupt, PayloadDamaged) as error:
                return Ancestry(tuple(events), AncestryEnd.DAMAGED, _finding_of(error))
            if expected is not None and event.event_hash != expected:
                return self._broken_link(events, event, expected)
            events.append(event)
            expected = event.prev_hash
            if expected == NO_HASH:
                return Ancestry(tuple(events), AncestryEnd.GENESIS)
        return self._broken_link(events, events[-1], expected or NO_HASH)

    def _stream_backwards(self, start: int) -> Iterator[int]:
        name = self._reader.summary(start).coordinate.entity
        yield start
        matches = list(self._reader.index.select(_exactly(name), 0, start))
        for slot, rows in reversed(matches):
            for row in rows[::-1].tolist():
                yield slot.first + row

    def _broken_link(self, events: list[Event], at: Event, expected: bytes) -> Ancestry:
        finding = Finding(
            "chain-link",
            self.path,
            None,
            at.sequence,
            f"the entity's chain is broken before event {events[-1].sequence}: "
            f"run: batpak verify {self.path}",
            expected.hex(),
            at.event_hash.hex(),
        )
        return Ancestry(tuple(events), AncestryEnd.DAMAGED, finding)

    def verify(
        self,
        level: Literal["chain", "full"] = "full",
        *,
        progress: Callable[[int, int], None] | None = None,
        keys: Iterable[NoteKey] = (),
    ) -> VerifyReport:
        """Recompute every hash and link below the visible bound; "full": payloads too.

        "full" also gives the Merkle root and compares every stored checkpoint with the
        events that it was signed over; with `keys` (of `batpak.proof.notes`), one of them
        has to have signed each. A reader that meets one over more than it has read looks for
        new commits first. `progress(done, total)` is called with bytes of log, now
        and then. What is wrong is in the report's findings; nothing is raised for it.
        Raises InvalidInput, StorageFailed.
        """
        if level not in ("chain", "full"):
            raise InvalidInput('a level of verify is "chain" or "full"', field="level", value=level)
        meter = Meter(progress)
        trusted = _note_keys(keys)
        # Brings NumPy, which few processes need.
        from batpak.engine.verify import verify_journal

        return meter.run(
            lambda: verify_journal(
                self._files,
                self._layout,
                self._identity,
                self._reader,
                self._verify_bound,
                level,
                meter.step,
                trusted,
            )
        )

    def _verify_bound(self, checkpointed: int) -> int:
        """How far the journal must reach to be whole, where a checkpoint is over so much of it."""
        return self._bound()

    def plan_erasure(
        self,
        what: Region | Iterable[EventId | int] | EventId | int,
        *,
        where: Callable[[Event], bool] | None = None,
    ) -> ErasureReport:
        """What `erase` would name now; writes nothing. Raises as `erase`, but for writing."""
        return plan_erasure(self._reader, what, where, self._bound())

    def plan_shredding(
        self, what: Region | Iterable[EventId | int | bytes] | EventId | int | bytes
    ) -> ShredReport:
        """What `shred` would do now, other events of the same keys included; writes nothing.

        Raises as `shred`, but for writing.
        """
        return plan_shredding(self._reader, what, self._bound())

    def plan_compaction(self) -> CompactionPlan:
        """Which segments hold erased payloads, and where copies of them may stand.

        Writes nothing. Raises JournalCorrupt, StorageFailed, StoreClosed.
        """
        return plan_compaction(self._files, self._layout, self._reader, self._bound())

    # --- proving -------------------------------------------------------------

    def _tree_here(self) -> Tree:
        if self._tree is None:
            self._tree = Tree(self._files, self._layout, self._reader)
        return self._tree

    def _prover(self, meter: Meter) -> Prover:
        return Prover(self._layout, self._reader, self._tree_here(), may_write=False, meter=meter)

    def _ledger(self) -> KeyLedger:
        if self._key_ledger is None:
            self._key_ledger = KeyLedger(self._reader)
        return self._key_ledger

    def signing_keys(self) -> tuple[KeySpan, ...]:
        """The receipt keys that the journal itself names, and the sequences they count for."""
        return self._ledger().spans(self._bound())

    def checkpoint_sizes(self) -> tuple[int, ...]:
        """Over how many events each stored checkpoint is, ascending."""
        self._bound()
        return tuple(checkpoint_sizes(self._files, self._layout))

    def stored_checkpoint(self, size: int | None = None) -> StoredCheckpoint:
        """The stored checkpoint over `size` events, or the newest; its signature is not judged.

        Raises NotCheckpointed, Damaged for a file that is no such checkpoint, StorageFailed.
        """
        self._bound()
        if size is None:
            sizes = self.checkpoint_sizes()
            if not sizes:
                raise _no_checkpoint("the journal has no checkpoint yet", self._layout)
            size = sizes[-1]
        elif isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
            raise InvalidInput(
                "a checkpoint's size is a whole number below 2^63",
                field="size",
                value=size,
                advice="checkpoint_sizes() lists those that are there; without one: the newest",
            )
        return load_checkpoint(self._files, self._layout, self.origin, size, self._identity.shared)

    def prove(
        self,
        event_id: EventId,
        *,
        withhold_payload: bool = False,
        receipt: AppendReceipt | None = None,
        size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Bundle:
        """A proof bundle of one event, by the checkpoint over `size` events or the newest.

        `to_json()` gives the file that `batpak verify` reads and that needs no journal.
        `receipt`: a signed one to show; without it a store with signing keys signs, if one of
        them is in force for the event, and shows an unsigned one else: `sign` says so first.
        `withhold_payload` leaves out what the event says and proves all else.
        `progress(done, total)` is told events of the checkpoint's tree: the end only where its
        tiles are good, and how far the tree is where it has to be made of the log. Raises
        EventNotFound, NotCheckpointed, InvalidInput (also for what takes more than the 64 MiB that
        verifiers read), Damaged (JournalCorrupt where events are not those of the checkpoint),
        StorageFailed.
        """
        meter = Meter(progress)
        event = self.get(event_id)
        check_length([event], withhold_payload=withhold_payload)
        receipts = self._receipts_to_show([event], receipt)
        return meter.run(
            lambda: self._bundle([event], receipts, size, None, withhold_payload, meter)
        )

    def prove_range(
        self,
        first: int,
        end: int,
        *,
        withhold_payload: bool = False,
        since: int | None = None,
        size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Bundle:
        """A bundle of the events [first, end), at most 65 536, with one proof for all of them.

        `since`: the size of an older stored checkpoint; the bundle then also shows that the
        journal grew out of that one. `progress` is told what `prove` tells. Raises as `prove`.
        """
        meter = Meter(progress)
        bound = self._bound()
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (first, end))
        if not whole or not 0 <= first < end <= min(bound, first + MAX_RANGE):
            raise InvalidInput(
                f"a range is from 0 to {bound}, and of 1 to {MAX_RANGE} events",
                field="first",
                value=(first, end),
            )
        events = list(self._reader.scan(ALL, first, end))
        check_length(events, withhold_payload=withhold_payload)
        earlier = None if since is None else self.stored_checkpoint(since)
        receipts = self._receipts_to_show(events, None)
        return meter.run(
            lambda: self._bundle(events, receipts, size, earlier, withhold_payload, meter)
        )

    def prove_consistency(
        self,
        old: int,
        new: int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> ConsistencyProof:
        """Proof that the journal of the checkpoint over `new` events, or of the newest one,
        begins with its first `old` events, and their root. `progress` is told what `prove`
        tells. Raises as `prove`.
        """
        meter = Meter(progress)
        checkpoint = self._checkpoint_within(new)
        return meter.run(lambda: self._prover(meter).consistency(old, checkpoint))

    def _checkpoint_within(self, size: int | None) -> StoredCheckpoint:
        """As `stored_checkpoint`, of events that are all here; looks for new ones where needed."""
        checkpoint = self.stored_checkpoint(size)
        bound = self._bound()
        if checkpoint.size > bound:
            # It may be newer than the last look.
            bound = self._reach()
        if checkpoint.size > bound:
            path = self._layout.checkpoint(checkpoint.size)
            raise JournalCorrupt(
                f"the checkpoint is over {checkpoint.size} events, and the journal has {bound}",
                file=path,
                reason="checkpoint-size",
                first=bound,
                last=checkpoint.size - 1,
                witness=f"checkpoints/{os.path.basename(path)}",
                advice=f"run: batpak verify {self.path}; "
                "checkpoint_sizes() lists older ones, which prove what they are over",
            )
        return checkpoint

    def _reach(self) -> int:
        """The bound, further where events came since the last look."""
        return self._bound()

    def _bundle(
        self,
        events: list[Event],
        receipts: list[AppendReceipt],
        size: int | None,
        since: StoredCheckpoint | None,
        withhold_payload: bool,
        meter: Meter,
    ) -> Bundle:
        checkpoint = self._checkpoint_within(size)
        if checkpoint.size <= events[-1].sequence:
            raise _no_checkpoint(
                f"the checkpoint over {checkpoint.size} events does not cover "
                f"event {events[-1].sequence}",
                self._layout,
            )
        if since is not None and since.size > checkpoint.size:
            raise InvalidInput("`since` is newer than the checkpoint", field="since")
        if since is not None and since.origin != checkpoint.origin:
            # A bundle is judged by one log's key, so nobody could accept this one.
            raise InvalidInput(
                f"the checkpoint over {since.size} events is of the log {since.origin}, which "
                f"this journal was forked from, and that over {checkpoint.size} is its own",
                field="since",
                value=since.size,
                advice=f"leave it out, or prove by that one alone, with size={since.size}",
            )
        return self._prover(meter).bundle(
            events, receipts, checkpoint, self.signing_keys(),
            withhold_payload=withhold_payload, since=since,
        )  # fmt: skip

    def _receipts_to_show(
        self, events: list[Event], given: AppendReceipt | None
    ) -> list[AppendReceipt]:
        """A receipt for each event; `given` for the only one."""
        if given is None:
            return [self._receipt_of(event) for event in events]
        if not isinstance(given, AppendReceipt) or not self._is_of(given, events[0]):
            raise InvalidInput("the receipt is not that of the event", field="receipt")
        return [given]

    def _receipt_of(self, event: Event | EventSummary) -> AppendReceipt:
        return receipt_of_stored(self._identity.journal_id, event)

    def _is_of(self, receipt: AppendReceipt, event: Event) -> bool:
        """Whether a receipt is the event's, by this journal or by one that shares the event."""
        return self._identity.accepts(
            receipt.journal_id.bytes, event.sequence
        ) and receipt == receipt_of_stored(receipt.journal_id, event)

    def verify_receipt(
        self,
        receipt: AppendReceipt,
        *,
        require_signed: bool | None = None,
        denial: bool = False,
    ) -> Signed | UnsignedAccepted | Invalid:
        """Judge a receipt by the event that it speaks of and the keys that the journal names.

        A fork knows those that its ancestors gave for events of the shared past.
        `require_signed` (default: the option `require_signing`) refuses one without a
        signature; `denial`: it has to be a denial's. Reasons: `batpak.receipt.Reason`.
        Raises InvalidInput, JournalCorrupt.
        """
        if not isinstance(receipt, AppendReceipt):
            raise InvalidInput("verify_receipt() takes a receipt", field="receipt", value=receipt)
        found = self._reader.find_id(receipt.event_id.bytes, self._bound())
        event = None
        if found is not None and self._identity.accepts(receipt.journal_id.bytes, found):
            event = self._reader.summary(found)
        return self._verdict(receipt, event, require_signed, denial)

    def verify_receipt_fields(
        self,
        *,
        event_id: EventId,
        sequence: int,
        content_hash: bytes,
        extensions: Mapping[str, bytes] | None = None,
        key_id: bytes | None = None,
        signature: bytes | None = None,
        require_signed: bool | None = None,
        denial: bool = False,
    ) -> Signed | UnsignedAccepted | Invalid:
        """As `verify_receipt`, of a receipt that came as the plain fields of a wire.

        `content_hash`: BLAKE3 of the payload's bytes, zeros once that is gone; `key_id` of 32
        bytes (zeros or None for none) and `signature` of 64. What such a receipt leaves out is
        taken from the event. Raises as `verify_receipt`, and KeyUnavailable where an encrypted
        payload can't be read.
        """
        if not isinstance(event_id, EventId):
            raise InvalidInput(
                "event_id= takes an EventId",
                field="event_id",
                value=event_id,
                advice="parse a text with EventId.parse",
            )
        if isinstance(sequence, bool) or not isinstance(sequence, int):
            raise InvalidInput("sequence= takes a whole number", field="sequence", value=sequence)
        for field, given, size in (
            ("content_hash", content_hash, 32),
            ("key_id", NO_HASH if key_id is None else key_id, 32),
            ("signature", bytes(64) if signature is None else signature, 64),
        ):
            if not isinstance(given, bytes) or len(given) != size:
                raise InvalidInput(f"{field}= takes {size} bytes", field=field, value=given)
        found = self._reader.find_id(event_id.bytes, self._bound())
        if found is None:
            return Invalid(Reason.MISSING)
        event = self._reader.at(found)
        # Any other commitment fails in the place where the content hash is looked at.
        commitment = event.commitment if event.content_hash == content_hash else None
        verdicts = [
            self._verdict(
                receipt_of_stored(journal_id, event).with_fields(
                    sequence, commitment, extensions or {}, key_id, signature
                ),
                event,
                require_signed,
                denial,
            )
            # Which journal it is of only the signature says.
            for journal_id in self._identity.names_at(found)
        ]
        return next((each for each in verdicts if each.is_valid), verdicts[0])

    def _verdict(
        self,
        receipt: AppendReceipt,
        event: EventSummary | None,
        require_signed: bool | None,
        denial: bool,
    ) -> Signed | UnsignedAccepted | Invalid:
        from batpak.proof.receipts import verify_receipt

        row, metadata = None, b""
        if event is not None:
            row, metadata = event.row_bytes, event.metadata_bytes
        is_signed = receipt.signature is not None
        keys = [span.as_receipt_key for span in self.signing_keys()] if is_signed else []
        verdict = verify_receipt(receipt, row, metadata, keys, denial=denial)
        if require_signed is None:
            require_signed = self._config.require_signing
        if require_signed and isinstance(verdict, UnsignedAccepted):
            return Invalid(Reason.UNSIGNED)
        return verdict

    def stats(self) -> Stats:
        """Numbers about what is visible."""
        bound = self._bound()
        index = self._reader.index
        entities: set[bytes] = set()
        scopes: set[bytes] = set()
        kinds: dict[EventKind, int] = {}
        for slot in index.slots:
            rows = min(bound, slot.part.end) - slot.first
            if rows <= 0:
                continue
            tally = slot.part.tally(rows)
            entities.update(tally.entities)
            scopes.update(tally.scopes)
            for raw, number in tally.kinds:
                kind = EventKind.from_raw(raw)
                kinds[kind] = kinds.get(kind, 0) + number
        bases = {slot.segment_base for slot in index.slots}
        return Stats(
            bound,
            len(bases),
            self._log_bytes(sorted(bases)),
            len(entities),
            len(scopes),
            MappingProxyType(dict(sorted(kinds.items()))),
            index.count_foreign(bound),
            self._reader.summary(0).time if bound else None,
            self._reader.summary(bound - 1).time if bound else None,
        )

    def diagnostics(self) -> Diagnostics:
        """What is seen of machine, directory, clock and syncs; tries only what writes nothing.

        Source: docs/guide/diagnostics.md. Raises StoreClosed, StoreForked.
        """
        raise NotImplementedError

    def snapshot(
        self,
        destination: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> SnapshotReport:
        """Copy what is durable to a new directory that proves itself whole; writing goes on.

        Files that nobody writes to any more are shared by reference or hard link where the
        file system can. `progress(done, total)` is told bytes. A crash leaves nothing of
        that name. Source: docs/guide/keep.md. Raises DestinationTaken, JournalLocked
        (somebody else builds there), InvalidInput (nothing is durable), JournalCorrupt,
        StoreClosed, Unavailable.
        """
        from batpak.engine.snapshot import take_snapshot

        meter, path = Meter(progress), path_text(destination, "destination")
        return meter.run(
            lambda: take_snapshot(
                self._files, self._layout, self._identity, path, self._settle,
                self._compacting(), meter.step,
            )
        )  # fmt: skip

    def fork(
        self,
        destination: str | os.PathLike[str],
        *,
        origin: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ForkReport:
        """Begin another journal there, with this one's durable events and an id of its own.

        The two share old segments, never a file that one of them writes to. `origin` is its
        name in checkpoints, and none that an ancestor has. Source: docs/guide/keep.md. Raises as
        `snapshot`.
        """
        from batpak.engine.forking import fork_journal

        meter, path = Meter(progress), path_text(destination, "destination")
        return meter.run(
            lambda: fork_journal(
                self._files, self._layout, self._identity, path, self._settle,
                self._compacting(), origin=origin, progress=meter.step,
            )
        )  # fmt: skip

    def _settle(self) -> Place:
        """Where the log stands at what is durable now, all that was acknowledged included."""
        raise NotImplementedError

    def _compacting(self) -> AbstractContextManager[object]:
        """What keeps this store, while it is held, from rewriting segments."""
        return nullcontext()

    def _log_bytes(self, bases: Sequence[int]) -> int:
        return sum(self._reader.pool.get(base).size() for base in bases)

    def import_position(self, source: str) -> Any:
        """Where an import from `source` stands: what `append_imported` last recorded.

        None when nothing was imported from it. Searches backwards from the newest event.
        """
        wanted = source_bytes(source)
        high = self._bound()
        while high > 0:
            low = max(0, high - _PAGE)
            for event in reversed(list(self._reader.scan_summaries(ALL, low, high))):
                if not event.has_extensions:
                    continue
                position = event.extensions.get("origin.position")
                if position is not None and event.extensions.get("origin.source") == wanted:
                    return canonical.decode(position)
            high = low
        return None


def _no_checkpoint(what: str, layout: Layout) -> NotCheckpointed:
    return NotCheckpointed(
        what,
        advice=f"make one with Store.checkpoint(), or: batpak checkpoint {layout.root} --key FILE",
    )


def _low(after: int | None) -> int:
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidInput("`after` is a sequence from 0 on", field="after", value=after)
    return after + 1


def query_of(region: Region) -> Query:
    """What an index is asked for a region. Raises InvalidInput."""
    if not isinstance(region, Region):
        raise InvalidInput(
            "a query takes a Region",
            field="region",
            value=region,
            advice='write Region(entity="player") or Region.all()',
        )
    return Query.of(region)


def _note_keys(keys: Iterable[NoteKey]) -> tuple[NoteKey, ...]:
    """The keys, all of them log keys. Raises InvalidInput."""
    if keys == ():
        # Proofs bring libraries that few processes need.
        return ()
    from batpak.proof.notes import Key

    try:
        found = cast("tuple[object, ...]", tuple(keys))
    except TypeError:
        found = (keys,)
    if not all(isinstance(key, Key) for key in found):
        raise InvalidInput(
            "keys is an iterable of log keys",
            field="keys",
            value=keys,
            advice="give a list of batpak.proof.notes.Key",
        )
    return cast("tuple[NoteKey, ...]", found)


def _exactly(name: str) -> Query:
    if not isinstance(name, str):
        raise InvalidInput("an entity is named by a text", field="entity", value=name)
    return Query(entity=name.encode("utf-8", "surrogatepass"), exact=True)


def source_bytes(source: str) -> bytes:
    """How extensions name an import's source. Raises InvalidInput."""
    try:
        return source.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise InvalidInput(
            "an import's source is named by text that has a UTF-8 form",
            field="source",
            value=source,
            advice='name it like "jsonl:app.jsonl"',
        ) from error


def _finding_of(error: JournalCorrupt | PayloadDamaged) -> Finding:
    return Finding(
        error.code, error.file or "", error.offset, error.sequence, error.what, None, error.reason
    )
