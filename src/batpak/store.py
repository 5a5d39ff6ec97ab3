"""The façade that users hold: open a journal, append, read, verify, close.

Everything that runs for a caller before and after a commit stands here: judging
input, encoding, waiting, receipts. Bytes on disk are the journal's business.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self, cast, overload

import msgspec
from blake3 import blake3

from batpak import canonical, payloads
from batpak.config import Durability, StoreConfig, Watermark
from batpak.coordinate import Coordinate, Region
from batpak.engine.following import Follower
from batpak.engine.keeping import save_keys
from batpak.engine.opening import Opened, open_for_writing
from batpak.engine.reading import LogReader
from batpak.engine.report import Finding, OpenReport, VerifyReport
from batpak.engine.sealing import map_sidecar, wants_sidecar, write_sidecar
from batpak.engine.system import RESERVED_ENTITY_PREFIX, close_event
from batpak.engine.verify import verify_journal
from batpak.errors import (
    BatchTooLarge,
    BatpakError,
    EventNotFound,
    Indeterminate,
    InvalidInput,
    JournalCorrupt,
    KindCollision,
    PayloadDamaged,
    PayloadTooLarge,
    ReservedKind,
    ReservedName,
    StoreClosed,
    Unavailable,
    UnregisteredPayload,
    WaitTimeout,
)
from batpak.event import (
    CODEC_PLAIN,
    CODEC_SALTED,
    CONTENT_PREFIX,
    NO_HASH,
    NO_ID,
    ROW_CONTENT,
    ROW_VERSION,
    SALT_SIZE,
    Event,
    EventSummary,
)
from batpak.files import REAL, Files
from batpak.ids import CausationId, CorrelationId, EventId
from batpak.index.query import ALL, Query
from batpak.journal.group import Request
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout
from batpak.journal.writer import Committed, Prepared, Writer
from batpak.kinds import EventKind
from batpak.receipt import AppendReceipt, encode_extensions

if TYPE_CHECKING:
    from batpak.engine.diagnostics import Diagnostics

__all__ = [
    "Ancestry",
    "AncestryEnd",
    "Frontier",
    "Item",
    "Page",
    "Point",
    "Pressure",
    "Prior",
    "ReadOnlyStore",
    "Stats",
    "Store",
]

logger = logging.getLogger("batpak.store")

_PAGE = 1024
_U32_MAX = 0xFFFFFFFF
_CALLER_FLAGS = 0xFF
_NO_EXTENSIONS: Mapping[str, bytes] = MappingProxyType({})
_RESERVED_ENTITY = RESERVED_ENTITY_PREFIX.encode()
_binding_of = payloads.lookup_type

Id = EventId | CorrelationId | CausationId


@dataclass(frozen=True, slots=True)
class Prior:
    """Stands for the id of item `index` of the same `append_many`, which comes earlier."""

    index: int


class _Placed(msgspec.Struct, eq=False):
    """What an Item takes by position."""

    coordinate: Coordinate
    payload: object


class Item(_Placed, eq=False, kw_only=True):
    """One event of `append_many`; the keywords are those of `Store.append`."""

    kind: EventKind | type | None = None
    correlation: Id | Prior | None = None
    causation: Id | Prior | None = None
    lane: int = 0
    depth: int = 0
    flags: int = 0
    extensions: Mapping[str, bytes] | None = None
    is_raw: bool = False

    @classmethod
    def raw(cls, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any) -> Item:
        """An item whose payload is `data` as given, not parsed."""
        item = cls(coordinate, data, kind=kind, **options)
        item.is_raw = True
        return item

    def __repr__(self) -> str:
        return f"<Item {self.coordinate} {type(self.payload).__name__}>"


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


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits, at one moment."""

    waiting: int
    """Threads that wait for a group commit to take them along."""


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
    first_time: datetime | None
    last_time: datetime | None


class _Reading:
    """What a reader can ask; shared by the writing and the read-only store."""

    _identity: Identity
    _layout: Layout
    _reader: LogReader
    _config: StoreConfig
    _files: Files
    _report: OpenReport

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
        hashes are checked. Raises InvalidInput, JournalCorrupt, PayloadDamaged.
        """
        low, query = _low(after), _query(region)
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
        return self._reader.count(_query(region), 0, self._bound())

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
            "run: batpak verify JOURNAL",
            expected.hex(),
            at.event_hash.hex(),
        )
        return Ancestry(tuple(events), AncestryEnd.DAMAGED, finding)

    def verify(
        self,
        level: Literal["chain", "full"] = "full",
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> VerifyReport:
        """Recompute every hash and link below the visible bound; "full": payloads too.

        `progress(done, total)` is called with bytes of log, now and then. What is wrong
        is in the report's findings; nothing is raised for it. Raises InvalidInput.
        """
        if level not in ("chain", "full"):
            raise InvalidInput('a level of verify is "chain" or "full"', field="level", value=level)
        return verify_journal(
            self._files,
            self._layout,
            self._identity,
            self._reader,
            self._verify_bound(),
            level,
            progress,
        )

    def _verify_bound(self) -> int:
        """How far the journal must reach to be whole."""
        return self._bound()

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
            self.at(0).time if bound else None,
            self.at(bound - 1).time if bound else None,
        )

    def diagnostics(self) -> Diagnostics:
        """What is seen of machine, directory, clock and syncs; tries only what writes nothing.

        Source: docs/guide/diagnostics.md. Raises StoreClosed, StoreForked.
        """
        raise NotImplementedError

    def _log_bytes(self, bases: Sequence[int]) -> int:
        return sum(self._reader.pool.get(base).size() for base in bases)

    def import_position(self, source: str) -> Any:
        """Where an import from `source` stands: what `append_imported` last recorded.

        None when nothing was imported from it. Searches backwards from the newest event.
        """
        wanted = _source_bytes(source)
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


class ReadOnlyStore(_Reading):
    """A journal opened with `mode="r"`: follows it while another process may write.

    Takes no lock and writes nothing. What it shows is what was visible at the last
    `refresh`, and only events that a power cut can't take back (or written in a mode
    that shows them at once).
    """

    def __init__(self, path: str | os.PathLike[str], config: StoreConfig, files: Files) -> None:
        self._config = config
        self._files = files
        self._layout = Layout(path)
        self._follower = Follower(files, self._layout, config)
        self._identity = self._follower.identity
        self._reader = self._follower.reader
        self._report = self._follower.report
        self._closed = False

    def _bound(self) -> int:
        if self._closed:
            raise StoreClosed("the store is closed", advice="open the journal anew")
        return self._follower.bound

    def refresh(self) -> int:
        """Pick up what became visible; returns the new bound.

        Raises JournalRewound when events that were seen are gone, JournalCorrupt when
        durable events are damaged.
        """
        self._bound()
        return self._follower.refresh()

    def diagnostics(self) -> Diagnostics:
        from batpak.engine.diagnostics import reader_diagnostics

        return reader_diagnostics(
            self._files, self._layout, str(self.journal_id), self._config, self._reader,
            self._report, self._bound(), self._follower.durable,
        )  # fmt: skip

    def _log_bytes(self, bases: Sequence[int]) -> int:
        return super()._log_bytes(bases[:-1]) + self._follower.log_end

    def _verify_bound(self) -> int:
        # Beyond what can be shown: up to what some witness knows to have been durable.
        return max(self._bound(), self._follower.promised)

    def at(self, sequence: int) -> Event:
        """As `Store.at`; reading past the end looks for new commits first."""
        if isinstance(sequence, int) and sequence >= self._bound():
            self.refresh()
        return super().at(sequence)

    def close(self) -> None:
        """Let go of the files. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._follower.bound} events"
        return f"<ReadOnlyStore {self.path!r} {state}>"


class Store(_Reading):
    """A journal open for writing. Made by `Store.open`; safe to share between threads."""

    def __init__(self, opened: Opened, config: StoreConfig, files: Files) -> None:
        self._files = files
        self._config = config
        self._opened = opened
        self._identity = opened.identity
        self._layout = opened.layout
        self._reader = opened.reader
        self._report = opened.report
        self._writer = opened.writer
        self._journal_id = opened.identity.journal_id
        self._salted = config.codec == "salted"
        self._codec = CODEC_SALTED if self._salted else CODEC_PLAIN
        self._payload_max = config.payload_max_bytes
        self._waits = config.durability is Durability.SYNC
        self._flushes = opened.writer.flushes
        self._commit_one = opened.writer.commit_one
        self._salts: Iterator[bytes] = iter(())
        self._hashers: list[Any] = []
        self._content_prefix = CONTENT_PREFIX[self._codec]
        self._sealed = opened.sealed
        self._sealing = threading.Lock()
        self._first_of_epoch = opened.report.epoch and opened.writer.log.sequence - 1
        _live.add(opened.writer)
        self._finalizer = weakref.finalize(self, _dropped, opened.writer, self._layout.root)
        self._finalizer.atexit = False

    @overload
    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mode: Literal["rw"] = "rw", **options: Any
    ) -> Store: ...
    @overload
    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mode: Literal["r"], **options: Any
    ) -> ReadOnlyStore: ...
    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mode: Literal["rw", "r"] = "rw", **options: Any
    ) -> Store | ReadOnlyStore:
        """Open the journal at `path`, creating it; `mode="r"` follows it without writing.

        Options are the fields of `StoreConfig`, or `config=` for a whole one. Raises
        InvalidInput, NotAJournal, NetworkFilesystem, JournalLocked, JournalCorrupt,
        Damaged, FutureFormat, UnsupportedFeature, NoSpace, StorageFailed, KindCollision.
        """
        files: Files = options.pop("files", None) or REAL
        config = options.pop("config", None)
        if config is None:
            config = StoreConfig.from_options(options)
        elif options:
            raise InvalidInput(
                "pass config= or single options, not both", field=next(iter(options))
            )
        elif not isinstance(config, StoreConfig):
            raise InvalidInput("config= takes a StoreConfig", field="config", value=config)
        if mode == "r":
            return ReadOnlyStore(path, config, files)
        if mode != "rw":
            raise InvalidInput('a mode is "rw" or "r"', field="mode", value=mode)
        _check_kinds(config)
        return cls(open_for_writing(files, Layout(path), config), config, files)

    # --- writing -------------------------------------------------------------

    def append(
        self,
        coordinate: Coordinate,
        payload: object,
        *,
        kind: EventKind | type | None = None,
        correlation: Id | None = None,
        causation: Id | None = None,
        lane: int = 0,
        depth: int = 0,
        flags: int = 0,
        extensions: Mapping[str, bytes] | None = None,
        durable: bool = False,
    ) -> AppendReceipt:
        """Append one event and return its receipt, once it is as durable as the mode says.

        `payload` is an instance of a `@payload` class, or any plain value with `kind=`.
        `durable=True` waits for power-loss safety in any mode. Raises InvalidInput (bad
        coordinate, kind, payload …), EntityClockOverflow, NoSpace, StorageFailed,
        JournalPoisoned; then nothing was written. Raises Indeterminate when the event is
        written and could not be made durable.
        """
        event = self._prepare(
            coordinate, payload, kind, correlation, causation, lane, depth, flags, extensions
        )
        if durable or self._waits:
            return self._commit_durably((event,))[0]
        done = self._commit_one(event)
        is_durable = False
        if self._sealed or self._flushes:
            is_durable = self._after_write((event,), (done,))
        return AppendReceipt(
            self._journal_id, done, coordinate, event.kind, event.content, event.extensions,
            is_durable,
        )  # fmt: skip

    def append_raw(
        self, coordinate: Coordinate, kind: EventKind, data: bytes, **options: Any
    ) -> AppendReceipt:
        """Append `data` as given, not parsed, under `kind`; keywords as for `append`."""
        durable = bool(options.pop("durable", False))
        items = (Item.raw(coordinate, kind, data, **options),)
        return self._commit(self._prepare_items(items, None, None, None), durable)[0]

    def append_many(
        self,
        items: Iterable[Item],
        *,
        correlation: Id | None = None,
        causation: Id | None = None,
        durable: bool = False,
    ) -> tuple[AppendReceipt, ...]:
        """Append all items as one commit: readers see all of them or none.

        `correlation` and `causation` apply to items that have none of their own. A bad
        item is named by its index and nothing is written. Raises as `append`, and
        BatchTooLarge.
        """
        events = self._prepare_items(items, correlation, causation, None)
        return self._commit(events, durable)

    def append_imported(
        self, source: str, position: object, items: Iterable[Item], *, durable: bool = False
    ) -> tuple[AppendReceipt, ...]:
        """Append a batch from a foreign source and remember in it how far the source was read.

        `position` is any canonical value; `import_position(source)` gives it back. It
        stands in the batch's last event, so batch and position are one commit.
        """
        marks = {
            "origin.source": _source_bytes(source),
            "origin.position": canonical.encode(position),
        }
        return self._commit(self._prepare_items(items, None, None, marks), durable)

    def _prepare_items(
        self,
        items: Iterable[Item],
        correlation: Id | None,
        causation: Id | None,
        marks: Mapping[str, bytes] | None,
    ) -> list[Prepared]:
        batch = list(items)
        most = self._config.batch_max_events
        if not batch:
            raise InvalidInput(
                "a batch has at least one item", field="items", advice="skip the call when empty"
            )
        if len(batch) > most:
            raise BatchTooLarge(
                f"a batch has at most {most} events, not {len(batch)}",
                limit=most,
                advice="split it, or raise batch_max_events",
            )
        events: list[Prepared] = []
        prepare = self._prepare
        last = len(batch) - 1
        for index, item in enumerate(batch):
            try:
                if not isinstance(item, Item):
                    raise InvalidInput(
                        "append_many takes Items", field="items", value=type(item).__name__
                    )
                events.append(
                    prepare(
                        item.coordinate, item.payload, item.kind, item.correlation or correlation,
                        item.causation or causation, item.lane, item.depth, item.flags,
                        item.extensions, index, item.is_raw, marks if index == last else None,
                    )
                )  # fmt: skip
            except InvalidInput as error:
                error.index = index
                error.facts.setdefault("index", index)
                raise
        return events

    def _prepare(
        self,
        coordinate: Coordinate,
        payload: object,
        kind: EventKind | type | None,
        correlation: Id | Prior | None,
        causation: Id | Prior | None,
        lane: int,
        depth: int,
        flags: int,
        extensions: Mapping[str, bytes] | None,
        index: int = 0,
        is_raw: bool = False,
        marks: Mapping[str, bytes] | None = None,
    ) -> Prepared:
        """Judge and encode one event: everything that needs no lock. Raises InvalidInput."""
        if type(coordinate) is not Coordinate:
            raise InvalidInput(
                "an event needs a Coordinate",
                field="coordinate",
                value=coordinate,
                advice='write Coordinate("player:alice", "room:dungeon")',
            )
        entity = coordinate.entity_bytes
        if entity.startswith(_RESERVED_ENTITY):
            raise ReservedName(
                "entities that begin with batpak: belong to the journal itself",
                field="coordinate",
                value=coordinate.entity,
            )
        binding = None if kind is not None or is_raw else _binding_of(type(payload))
        if binding is not None:
            raw_kind, version, data = binding.raw_kind, binding.version, binding.encode(payload)
        else:
            raw_kind, version, data = _encode_under(kind, payload, is_raw)
        if len(data) > self._payload_max:
            raise PayloadTooLarge(
                f"the payload has {len(data)} bytes",
                field="payload",
                limit=self._payload_max,
                advice="store large content elsewhere and append its hash",
            )
        try:
            labelled = lane | depth | flags
        except TypeError:
            labelled = -1
        if labelled:
            _check_labels(lane, depth, flags)
        if self._salted:
            data = (next(self._salts, None) or self._new_salts()) + data
        packed = b""
        if extensions or marks:
            packed = encode_extensions(extensions or {})
            if marks:
                packed = encode_extensions({**(extensions or {}), **marks}, reserved_allowed=True)
        scope = coordinate.scope_bytes
        # Taken and given back: two threads must not share one.
        hasher = self._hashers.pop() if self._hashers else blake3()
        hasher.reset()
        hasher.update(self._content_prefix + data)
        content = ROW_CONTENT.pack(
            lane, depth, len(packed), raw_kind, version, flags, len(entity), len(scope),
            ROW_VERSION, self._codec, len(data), 0, hasher.digest(),
        )  # fmt: skip
        self._hashers.append(hasher)
        return Prepared(
            coordinate,
            raw_kind,
            content,
            data,
            entity + scope + packed,
            None if correlation is None else _reference("correlation", correlation, index),
            NO_ID if causation is None else _reference("causation", causation, index),
            None,
            packed,
        )

    def _new_salts(self) -> bytes:
        block = os.urandom(SALT_SIZE * 256)
        salts = iter([block[i : i + SALT_SIZE] for i in range(0, len(block), SALT_SIZE)])
        first = next(salts)
        self._salts = salts
        return first

    def _commit(self, events: Sequence[Prepared], durable: bool) -> tuple[AppendReceipt, ...]:
        if durable or self._waits:
            return self._commit_durably(events)
        committed = self._writer.commit(events)
        return self._receipts(events, committed, self._after_write(events, committed))

    def _after_write(self, events: Sequence[Prepared], committed: Sequence[Committed]) -> bool:
        """Sidecars of what was sealed; in EVERY, sync if it is time. Whether all is durable."""
        if self._sealed:
            self._write_sidecars()
        if not self._flushes:
            return False
        try:
            return self._writer.flush_in_time(committed[-1][0] + 1)
        except BatpakError as error:
            raise self._indeterminate(events, committed, error) from error

    def _commit_durably(self, events: Sequence[Prepared]) -> tuple[AppendReceipt, ...]:
        request = self._writer.commit_durably(events)
        if request.error is not None:
            self._raise(request)
        if self._sealed:
            self._write_sidecars()
        return self._receipts(events, request.committed, is_durable=True)

    def _raise(self, request: Request) -> NoReturn:
        """What a commit came to that was refused, or is not known to be durable."""
        error = request.error
        assert error is not None, "asked only then"
        if not request.is_written:
            raise error
        raise self._indeterminate(request.events, request.committed, error) from error

    def _indeterminate(
        self, events: Sequence[Prepared], committed: Sequence[Committed], error: Exception
    ) -> Indeterminate:
        what = error.what if isinstance(error, BatpakError) else repr(error)
        return Indeterminate(
            f"written, but not known to be durable: {what}",
            receipts=self._receipts(events, committed, is_durable=False),
            cause=error,
            advice="open the journal anew and look for the event before writing it again",
        )

    def _receipts(
        self, events: Sequence[Prepared], committed: Sequence[Committed], is_durable: bool
    ) -> tuple[AppendReceipt, ...]:
        journal_id = self._journal_id
        return tuple(
            [
                AppendReceipt(
                    journal_id, done, event.coordinate, event.kind, event.content,
                    event.extensions, is_durable,
                )
                for event, done in zip(events, committed, strict=True)
            ]
        )  # fmt: skip

    def _write_sidecars(self) -> None:
        """Write the sidecars of segments that were sealed, outside the append lock."""
        if not self._sealing.acquire(blocking=False):
            return
        try:
            while self._sealed:
                log, header = self._sealed[0]
                opened = self._opened
                sidecar = write_sidecar(
                    self._files, self._layout, opened.index, log, header,
                    self._writer.durable.sequence,
                )  # fmt: skip
                if sidecar is not None:
                    try:
                        map_sidecar(
                            self._files, self._layout, opened.pool, opened.index, header, sidecar
                        )
                    except Unavailable as error:
                        # The part in memory serves as well; whose append this is was written.
                        logger.warning(
                            "a new sidecar is not used: %s", str(error),
                            extra={"code": "sidecar-not-used", "error": str(error)},
                        )  # fmt: skip
                self._sealed.pop(0)
                save_keys(self._files, self._layout, self._opened.identity, opened.index)
        finally:
            self._sealing.release()

    # --- durability ----------------------------------------------------------

    def sync(self) -> None:
        """Make everything appended so far durable. Raises JournalPoisoned, StoreClosed."""
        self._writer.check()
        self._writer.sync()

    def wait_for(
        self, watermark: Watermark, receipt: AppendReceipt, *, timeout: float | None = None
    ) -> None:
        """Return once `receipt`'s event has reached `watermark`, syncing if that is needed.

        Raises WaitTimeout after `timeout` seconds, JournalPoisoned, StoreClosed.
        """
        if not isinstance(watermark, Watermark):
            raise InvalidInput("wait_for() takes a Watermark", field="watermark", value=watermark)
        if not isinstance(receipt, AppendReceipt):
            raise InvalidInput("wait_for() takes a receipt", field="receipt", value=receipt)
        if receipt.journal_id != self._journal_id:
            raise InvalidInput(
                "the receipt is of another journal",
                field="receipt",
                value=str(receipt.journal_id),
            )
        target = receipt.sequence + 1
        if target > self._writer.log.sequence:
            raise InvalidInput(
                f"the journal has no event {receipt.sequence}", field="receipt", value=target - 1
            )
        began = time.monotonic()
        if watermark in (Watermark.ACCEPTED, Watermark.WRITTEN):
            return
        if watermark is not Watermark.DURABLE and self._writer.visible >= target:
            return
        self._writer.check()
        if not self._writer.wait_durable(target, timeout):
            raise WaitTimeout(
                f"event {receipt.sequence} is not {watermark.value} yet",
                watermark=watermark.value,
                target=target,
                waited=time.monotonic() - began,
                advice="wait again; the event is written",
            )

    def frontier(self) -> Frontier:
        """All watermarks at one moment; they never go back."""
        # Durable first: what is read later can only be further.
        durable = self._writer.durable
        log = self._writer.log
        written = Point(log.sequence, log.hlc)
        bound = Point(durable.sequence, durable.hlc)
        visible = bound if self._config.durability is Durability.SYNC else written
        # Nobody consumes yet, so nobody lags behind what is visible.
        return Frontier(written, written, bound, visible, visible)

    def pressure(self) -> Pressure:
        """How much is waiting to be written or synced now."""
        return Pressure(waiting=self._writer.waiting)

    def _bound(self) -> int:
        writer = self._writer
        writer.check_readable()
        return writer.visible

    def diagnostics(self) -> Diagnostics:
        from batpak.engine.diagnostics import writer_diagnostics

        return writer_diagnostics(
            self._files, self._opened, self._config, self._bound(), self._first_of_epoch
        )

    def _log_bytes(self, bases: Sequence[int]) -> int:
        log = self._writer.log
        return super()._log_bytes(bases[:-1]) + log.end

    # --- the end -------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Write the close event, sync, free the lock. Closing twice is fine.

        After a failure the lock and the files are free all the same, and the next open
        recovers. `timeout` bounds the drain of queued work. Raises JournalPoisoned,
        NoSpace, StorageFailed.
        """
        del timeout  # nothing is queued yet
        writer = self._writer
        if writer.is_closed or writer.is_forked:
            # In a forked child there is nothing to write: the store is the parent's.
            self._release()
            return
        try:
            if self._sealed:
                self._write_sidecars()
            first = self._first_of_epoch
            epoch = writer.epoch
            log = writer.close(
                lambda: [close_event(epoch=epoch, events=writer.log.sequence - first)]
            )
            header = log.segment.header
            if wants_sidecar(self._opened.index, log):
                write_sidecar(
                    self._files, self._layout, self._opened.index, log, header, log.sequence
                )
            save_keys(self._files, self._layout, self._identity, self._opened.index, closed=True)
        finally:
            self._release()

    def _release(self) -> None:
        if self._finalizer.detach():
            _live.discard(self._writer)
            self._writer.release()
            self._opened.pool.close()
            self._opened.index.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BatpakError as failure:
            if error is None:
                raise
            # The first error is the one to look at; this one is its consequence.
            error.add_note(f"closing the store failed too: {failure}")

    def __repr__(self) -> str:
        if self._writer.is_closed:
            return f"<Store {self.path!r} closed>"
        return f"<Store {self.path!r} {self._writer.visible} events>"


_live: weakref.WeakSet[Writer] = weakref.WeakSet()


def _forget_parent() -> None:
    for writer in list(_live):
        writer.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_parent)


def _dropped(writer: Writer, path: str) -> None:
    """A store was garbage-collected without close: free the lock and say so."""
    # First the lock: where warnings are errors, nothing after the warning runs.
    writer.abandon()
    writer.release()
    # ResourceWarning is off by default; a log is where a program in production would look.
    logger.warning(
        "the store at %r was dropped without close(); its lock is freed now", path,
        extra={"code": "dropped", "journal": path},
    )  # fmt: skip
    warnings.warn(
        f"the store at {path!r} was dropped without close(); its lock is freed now",
        ResourceWarning,
        stacklevel=2,
    )


def _check_kinds(config: StoreConfig) -> None:
    if config.on_kind_collision == "ignore":
        return
    try:
        payloads.check_registry()
    except KindCollision as error:
        if config.on_kind_collision == "refuse":
            raise
        logger.warning("%s", str(error), extra={"code": "kind-collision", "error": str(error)})


def _low(after: int | None) -> int:
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidInput("`after` is a sequence from 0 on", field="after", value=after)
    return after + 1


def _query(region: Region) -> Query:
    if not isinstance(region, Region):
        raise InvalidInput(
            "a query takes a Region",
            field="region",
            value=region,
            advice='write Region(entity="player") or Region.all()',
        )
    return Query.of(region)


def _exactly(name: str) -> Query:
    if not isinstance(name, str):
        raise InvalidInput("an entity is named by a text", field="entity", value=name)
    return Query(entity=name.encode("utf-8", "surrogatepass"), exact=True)


def _encode_under(
    kind: EventKind | type | None, payload: object, is_raw: bool
) -> tuple[int, int, bytes]:
    """Raw kind, payload version and bytes of a payload whose kind the caller names."""
    version = 0
    binding = None if kind is None or isinstance(kind, EventKind) else payloads.lookup_type(kind)
    if binding is not None:
        kind, version = binding.kind, binding.version
    if kind is None and not is_raw:
        raise UnregisteredPayload(
            f"{type(payload).__qualname__} is not a registered payload class",
            field="payload",
            advice="decorate the class with @payload, or pass kind=EventKind(…)",
        )
    if not isinstance(kind, EventKind):
        raise InvalidInput("kind= takes an EventKind or a payload class", field="kind", value=kind)
    if kind.is_reserved:
        raise ReservedKind(
            f"kind {kind} belongs to the system",
            field="kind",
            value=kind.raw,
            advice="use a category from 1 to 15, but not 13",
        )
    if is_raw:
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise InvalidInput(
                "append_raw takes bytes", field="payload", value=type(payload).__name__
            )
        return kind.raw, 0, bytes(cast("bytes", payload))
    own = payloads.lookup_type(type(payload))
    if own is not None:
        if own.kind != kind:
            raise InvalidInput(
                f"{type(payload).__qualname__} is of kind {own.kind}, not {kind}",
                field="kind",
                value=kind.raw,
                advice="leave kind= out for payload classes",
            )
        return own.kind.raw, own.version, own.encode(payload)
    if binding is not None:
        raise InvalidInput(
            f"kind= names the class {binding.cls.__qualname__}, but the payload is none of it",
            field="payload",
            value=type(payload).__name__,
        )
    return kind.raw, version, canonical.encode(payload)


def _reference(field: str, value: Id | Prior, index: int) -> Any:
    if isinstance(value, Prior):
        if not 0 <= value.index < index:
            raise InvalidInput(
                f"Prior({value.index}) has to name an earlier item of the batch",
                field=field,
                value=value.index,
            )
        return value.index
    if not isinstance(value, (EventId, CorrelationId, CausationId)):
        raise InvalidInput(f"{field}= takes an id", field=field, value=value)
    return value.bytes


def _source_bytes(source: str) -> bytes:
    try:
        return source.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise InvalidInput(
            "an import's source is named by text that has a UTF-8 form",
            field="source",
            value=source,
        ) from error


def _check_labels(lane: int, depth: int, flags: int) -> None:
    for name, value in (("lane", lane), ("depth", depth)):
        if not isinstance(value, int) or not 0 <= value <= _U32_MAX:
            raise InvalidInput(f"{name} is from 0 to 2^32 - 1", field=name, value=value)
    if not isinstance(flags, int) or flags & ~_CALLER_FLAGS:
        raise InvalidInput("flags has only the bits 0 to 7", field="flags", value=flags)


def _finding_of(error: JournalCorrupt | PayloadDamaged) -> Finding:
    return Finding(
        error.code, error.file or "", error.offset, error.sequence, error.what, None, error.reason
    )
