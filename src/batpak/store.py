"""The façade that users hold: open a journal, append, erase, sign, close.

Everything that runs for a caller before and after a commit stands here: judging
input, encoding, waiting, receipts. What can be asked is in `batpak.reading`; bytes on
disk are the journal's business.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast, overload

from batpak import canonical, payloads
from batpak.config import Durability, Keyring, StoreConfig, Watermark
from batpak.coordinate import Coordinate, Region
from batpak.engine.appending import (
    RAISE,
    Appender,
    OnReplay,
    check_on_replay,
    check_timeout,
    check_wait,
)
from batpak.engine.checkpoints import CheckpointMaker, StoredCheckpoint
from batpak.engine.compacting import CompactionPlan, CompactionReport, Rewrite, rewrite
from batpak.engine.conditions import Guard, check_conditions, guard_of
from batpak.engine.erasing import (
    ErasureReport,
    check_reason,
    erasure_events,
    fold_erasures,
    plan_erasure,
)
from batpak.engine.following import Follower
from batpak.engine.history import Place, place_of
from batpak.engine.keeping import save_keys
from batpak.engine.keys import KeySpan
from batpak.engine.opening import Opened, open_for_writing
from batpak.engine.preparing import Preparer
from batpak.engine.progress import Meter
from batpak.engine.proving import Prover
from batpak.engine.sealing import Sealer, wants_sidecar, write_sidecar
from batpak.engine.shredding import (
    KEYS_IN_A_COMMIT,
    ShredReport,
    check_held,
    check_keyring,
    destroy_keys,
    fold_shredded,
    plan_shredding,
)
from batpak.engine.staging import Fence, LostFences, Outbox
from batpak.engine.submission import Pressure, Submission, SubmitQueue
from batpak.engine.system import (
    MAX_SEGMENTS,
    close_event,
    compaction_event,
    key_retired_event,
    key_shredded_event,
)
from batpak.errors import (
    BatpakError,
    Damaged,
    FenceOpen,
    Indeterminate,
    InvalidInput,
    JournalCorrupt,
    JournalPoisoned,
    KeyNotInForce,
    KeyringRefused,
    KindCollision,
    StoreClosed,
    Unavailable,
    WaitTimeout,
)
from batpak.event import Event, decode_extensions
from batpak.files import REAL, Files, path_text
from batpak.ids import EventId
from batpak.index.runs import Runs
from batpak.items import Expect, Id, Item, Key, Unless
from batpak.journal.commits import Cut, Known, Prepared
from batpak.journal.layout import Layout
from batpak.journal.telling import telling_last
from batpak.journal.writer import Writer
from batpak.kinds import EventKind
from batpak.reading import (
    Ancestry,
    AncestryEnd,
    Frontier,
    Page,
    Point,
    Reading,
    Stats,
    query_of,
    source_bytes,
)
from batpak.receipt import AppendReceipt, DenialReceipt, ReceiptKey

if TYPE_CHECKING:
    from batpak.gates import Bypass, Denial, Denied, Gate, GateContext, GateSet, Passed

    Gates = GateSet[GateContext] | Iterable[Gate[GateContext]] | Passed[Any, Any] | Bypass
    from batpak.engine.crossing import JournalImportReport
    from batpak.engine.diagnostics import Diagnostics
    from batpak.engine.restoring import RestoreReport
    from batpak.proof.notes import Key as NoteKey

__all__ = [
    "Ancestry",
    "AncestryEnd",
    "CompactionPlan",
    "CompactionReport",
    "ErasureReport",
    "Frontier",
    "Page",
    "Point",
    "ReadOnlyStore",
    "ShredReport",
    "Stats",
    "Store",
]

logger = logging.getLogger("batpak.store")

_TELLING = 1.0
"""Seconds that `close` waits for log handlers which other threads call."""


class ReadOnlyStore(Reading):
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

    def _reach(self) -> int:
        return self.refresh()

    def diagnostics(self) -> Diagnostics:
        from batpak.engine.diagnostics import reader_diagnostics

        return reader_diagnostics(
            self._files, self._layout, str(self.journal_id), self._config, self._reader,
            self._report, self._bound(), self._follower.durable,
        )  # fmt: skip

    def _log_bytes(self, bases: Sequence[int]) -> int:
        return super()._log_bytes(bases[:-1]) + self._follower.log_end

    def _settle(self) -> Place:
        # A copy of what is damaged would look whole: refresh raises it.
        self.refresh()
        return self._follower.place()

    def _verify_bound(self, checkpointed: int) -> int:
        if checkpointed > self._bound():
            try:
                self.refresh()
            except Damaged:
                # What is wrong, verify finds in the bytes, as it finds all else.
                pass
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


class Store(Reading):
    """A journal open for writing. Made by `Store.open`; safe to share between threads."""

    def __init__(self, opened: Opened, config: StoreConfig, files: Files) -> None:
        self._files = files
        self._config = config
        self._opened = opened
        self._identity = opened.identity
        self._layout = opened.layout
        self._reader = opened.reader
        self._report = opened.report
        self._key_ledger = opened.ledger
        self._writer = opened.writer
        self._journal_id = opened.identity.journal_id
        self._sealed = opened.sealed
        self._sealer = Sealer(
            files, self._layout, opened.identity, opened.index, opened.pool, opened.writer,
            opened.sealed,
        )  # fmt: skip
        self._preparer = Preparer(config, opened.reader.vault)
        self._appender = Appender(
            opened.writer, opened.reader, self._preparer, self._journal_id, config.durability,
            opened.sealed, self._sealer.write_sidecars,
        )  # fmt: skip
        # What every append passes, looked up once.
        self._prepare = self._preparer.one
        self._commit_one = opened.writer.commit_one
        self._waits = self._appender.waits
        self._flushes = self._appender.flushes
        self._keys_ready = False
        self._queue: SubmitQueue | None = None
        self._maker: CheckpointMaker | None = None
        self._spans: Mapping[bytes, KeySpan] = {}
        self._queues: list[SubmitQueue] = []
        """The queue, once there is one, for whoever outlives the store."""
        self._starting = threading.RLock()
        # guarded by _starting
        self._ending = False
        self._fences: dict[int, weakref.ref[Fence]] = {}
        """Those that have not ended, by id. Weakly: Ctrl-C can leave one that nobody could
        end. No WeakSet: Ctrl-C would be swallowed in the Python code of its callbacks."""
        self._lost = LostFences()
        self._fence_here = threading.local()
        self._erasing = threading.Lock()
        # guarded by _erasing
        self._folded = opened.writer.log.sequence
        self._eraser: int | None = None
        """The thread that holds `_erasing`."""
        self._rewriting = threading.RLock()
        """Held while segments are replaced; the end of the store waits for it."""
        # guarded by _rewriting
        self._rewriter: int | None = None
        """The thread that rewrites segments."""
        self._closing = threading.RLock()
        """Held by `close`, which waits for others: whom it waits for never waits for it."""
        # guarded by _closing
        self._is_closing = False
        self._first_of_epoch = opened.report.epoch and opened.writer.log.sequence - 1
        _live.add(opened.writer)
        self._finalizer = weakref.finalize(
            self, _dropped, opened.writer, self._layout.root, self._queues, self._lost
        )
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
        layout = Layout(path_text(path, "path"))
        if config.keyring is not None:
            check_keyring(config.keyring, layout.root)
        if mode == "r":
            return ReadOnlyStore(path, config, files)
        if mode != "rw":
            raise InvalidInput('a mode is "rw" or "r"', field="mode", value=mode)
        _check_kinds(config)
        opened = open_for_writing(files, layout, config)
        try:
            store = cls(opened, config, files)
            if config.keyring is not None:
                store._destroy_again()
            if config.signing_keys:
                store._introduce_keys()
        except BaseException:
            # As in open_for_writing.
            try:
                opened.release()
            finally:
                try:
                    opened.release()
                finally:
                    opened.release()
            raise
        return store

    @classmethod
    def restore(
        cls,
        snapshot: str | os.PathLike[str],
        destination: str | os.PathLike[str],
        *,
        resume: bool = False,
        origin: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        files: Files | None = None,
    ) -> RestoreReport:
        """Make a journal from a snapshot, every byte of which is compared first.

        The result is a fork: a new journal_id, a new origin, the snapshot's events as its
        past. `resume=True` keeps the journal_id, and says that the original is gone for
        ever: two journals of one id would be two histories under one name. Nothing is ever
        overwritten. Source: docs/guide/keep.md. Raises NotASnapshot, SnapshotDamaged (its
        `findings` name each file), DestinationTaken, JournalLocked, InvalidInput for the origin
        of an ancestor, Damaged, Unavailable.
        """
        from batpak.engine.restoring import restore_snapshot

        meter, source = Meter(progress), path_text(snapshot, "snapshot")
        path = path_text(destination, "destination")
        return meter.run(
            lambda: restore_snapshot(
                files or REAL, source, path, resume=resume, origin=origin, progress=meter.step
            )
        )

    # --- writing -------------------------------------------------------------

    def append(
        self,
        coordinate: Coordinate,
        payload: object,
        *,
        kind: EventKind | type | None = None,
        key: Key | None = None,
        expect: int | Expect | None = None,
        unless: Unless | None = None,
        correlation: Id | None = None,
        causation: Id | None = None,
        lane: int = 0,
        depth: int = 0,
        flags: int = 0,
        extensions: Mapping[str, bytes] | None = None,
        gates: Gates | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
        wait: Watermark | None = None,
        timeout: float | None = None,
    ) -> AppendReceipt:
        """Append one event and return its receipt, once it is as durable as the mode says.

        `payload` is an instance of a `@payload` class, or any plain value with `kind=`.
        `key`: an idempotency key, which becomes the event's id. A known key writes
        nothing and gives the first receipt; for another coordinate, kind or payload it
        is an IdempotencyConflict, unless `on_replay="return"`.
        `expect`: the clock of the entity's last event, or Expect.EMPTY; otherwise
        ExpectationFailed. `unless`: refuses if what it names is there (ConditionFailed).
        `gates`: a GateSet, or gates, that are asked before anything else (GateDenied); or
        a Passed that they gave, or a Bypass, which is recorded with the event.
        `durable=True` or `wait=Watermark.DURABLE` waits for power-loss safety in any
        mode, for the syncs of other threads at most `timeout` seconds; a sync that this
        thread does itself has no limit. Raises InvalidInput (bad coordinate, kind,
        payload …), Conflict, NoSpace, StorageFailed, JournalPoisoned; then nothing was
        written. Raises Indeterminate when the event is written and could not be made
        durable (in time): the error carries the receipt.
        """
        event = self._prepare(
            coordinate, payload, kind, correlation, causation, lane, depth, flags, extensions,
            key, expect, 0, False, None if gates is None else self._marks_of(gates),
        )  # fmt: skip
        if gates is not None:
            _check_asked(None, unless, on_replay, wait, timeout)
            self._ask_gates(gates, event)
        if (
            unless is not None or wait is not None or timeout is not None or on_replay is not RAISE
            or (key is not None and not self._keys_ready)
        ):  # fmt: skip
            return self._append((event,), None, unless, durable, on_replay, wait, timeout)[0]
        if self._queue is not None:
            self._drain_mine()
        if durable or self._waits:
            return self._appender.commit_durably((event,))[0]
        try:
            done = self._commit_one(event)
        except Known as known:
            return self._appender.replay((event,), known.sequences, on_replay, False, None)[0]
        except Cut as cut:
            raise self._appender.cut((event,), cut) from cut.error
        except BatpakError:
            self._writer.tell()
            raise
        is_durable = False
        if self._sealed or self._flushes:
            is_durable = self._appender.after_write((event,), (done,))
        return AppendReceipt(
            self._journal_id, done, coordinate, event.kind, event.content, event.extensions,
            is_durable,
        )  # fmt: skip

    def append_raw(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        data: bytes,
        *,
        expect: int | Expect | None = None,
        unless: Unless | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
        wait: Watermark | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> AppendReceipt:
        """Append `data` as given, not parsed, under `kind`; keywords as for `append`.

        But for `gates`, which judge values: bytes that nobody parsed have none to judge.
        """
        item = Item.raw(coordinate, kind, data, **options)
        event = self._prepare(
            item.coordinate, item.payload, item.kind, item.correlation, item.causation, item.lane,
            item.depth, item.flags, item.extensions, item.key, expect, 0, True,
        )  # fmt: skip
        return self._append((event,), None, unless, durable, on_replay, wait, timeout)[0]

    def append_many(
        self,
        items: Iterable[Item],
        *,
        expect: Mapping[str, int | Expect] | None = None,
        unless: Unless | None = None,
        correlation: Id | None = None,
        causation: Id | None = None,
        gates: Gates | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
        wait: Watermark | None = None,
        timeout: float | None = None,
    ) -> tuple[AppendReceipt, ...]:
        """Append all items as one commit: readers see all of them or none.

        `correlation` and `causation` apply to items that have none of their own;
        `expect` maps entities to clocks, `unless` holds for the whole commit. Keys: all
        items have one or none; all known give the first receipts, some known are an
        IdempotencyConflict. `gates` are asked about each item; a Passed is for one event,
        and refused for several. A bad item is named by its index and nothing is written.
        Raises as `append`, and BatchTooLarge.
        """
        if gates is not None:
            _check_asked(expect, unless, on_replay, wait, timeout)
        events = self._judged(items, correlation, causation, gates)
        return self._append(events, expect, unless, durable, on_replay, wait, timeout)

    def _judged(
        self,
        items: Iterable[Item],
        correlation: Id | None,
        causation: Id | None,
        gates: Gates | None,
    ) -> list[Prepared]:
        """The events of one commit, each of which the gates have let through."""
        if gates is None:
            return self._preparer.many(items, correlation, causation)
        batch = self._preparer.batch(items)
        marks = self._marks_of(gates)
        events = self._preparer.many(batch, correlation, causation, marks, marks_all=True)
        # Once for all items: an iterator gives its gates only once.
        asked = self._asked(gates)
        for event in events:
            self._ask_gates(asked, event, is_one_of=len(batch))
        return events

    def append_imported(
        self, source: str, position: object, items: Iterable[Item], *, durable: bool = False
    ) -> tuple[AppendReceipt, ...]:
        """Append a batch from a foreign source and remember in it how far the source was read.

        `position` is any canonical value; `import_position(source)` gives it back. It
        stands in the batch's last event, so batch and position are one commit.
        """
        marks = {
            "origin.source": source_bytes(source),
            "origin.position": canonical.encode(position),
        }
        events = self._preparer.many(items, marks=marks)
        self._drain_mine()
        return self._appender.commit(events, durable=durable)

    def _drain_mine(self) -> None:
        """A direct append comes after what its thread has submitted. Raises as `check`."""
        if self._queue is not None:
            if self._writer.is_over:
                # In a forked child nobody would ever empty the queue.
                self._writer.check()
            self._queue.drain_mine()

    def import_events(
        self,
        source: Store | ReadOnlyStore,
        region: Region | None = None,
        *,
        namespace: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> JournalImportReport:
        """Append what `region` selects of another journal, each event once.

        Ids, correlation, causation, kinds, labels and payload bytes stay; `origin.*`
        extensions say where each stood, `namespace` what you call that journal. Run it
        again, after a kill too, and it adds only what is new. `progress(read)` is told
        events, now and then and at the end. Source: docs/guide/keep.md. Raises InvalidInput,
        ImportSourceError, IdempotencyConflict, and as `append_many`.
        """
        from batpak.engine.crossing import Target, check_namespace, import_journal

        if not isinstance(source, Reading):
            raise InvalidInput("events are imported from a store", field="source", value=source)
        if source.journal_id == self._journal_id:
            raise InvalidInput(
                "a journal can't be imported into itself",
                field="source",
                value=str(self._journal_id),
            )
        chosen = Region.all() if region is None else region
        query_of(chosen)
        label = check_namespace(namespace)
        if self._queue is not None:
            self._queue.drain_mine()
        target = Target(
            self._config.batch_max_events,
            self.import_position,
            lambda event_id: self._reader.get(event_id, self._writer.log.sequence),
            self._preparer.imported,
            lambda events: self._append(events, None, None, False, "raise", None, None),
        )
        return import_journal(source, target, chosen, label, progress)

    def deny(
        self,
        coordinate: Coordinate,
        kind: EventKind | type,
        denied: Denied | Denial,
        *,
        content_hash: bytes | None = None,
        pipeline: str | None = None,
        correlation: Id | None = None,
        causation: Id | None = None,
        extensions: Mapping[str, bytes] | None = None,
        durable: bool = False,
    ) -> DenialReceipt:
        """Record that an event of `kind` was proposed here and denied: kind 0x000F.

        `denied` is what gates answered (`GateDenied.denied`), or a Denial made by hand.
        `content_hash` (BLAKE3 of the proposed payload) lets others test what they guess
        was proposed, so it is stored only when given. Raises as `append`.
        """
        from batpak.gates import DENIAL_VERSION, Denial, Denied
        from batpak.gates.denial import check_text

        if isinstance(denied, Denial):
            denied = Denied.of(denied)
        if not isinstance(denied, Denied):
            raise InvalidInput(
                "deny() takes a Denied or a Denial",
                field="denied",
                value=denied,
                advice="pass error.denied of the GateDenied",
            )
        binding = payloads.lookup_type(kind) if isinstance(kind, type) else None
        proposed = kind if binding is None else binding.kind
        if not isinstance(proposed, EventKind):
            raise InvalidInput(
                "kind= takes an EventKind or a payload class",
                field="kind",
                value=kind,
                advice="pass the kind of the event that was denied",
            )
        if pipeline is not None:
            check_text("pipeline", pipeline)
        data = denied.payload(proposed, content_hash=content_hash, pipeline_id=pipeline).encode()
        event = self._preparer.denial(
            coordinate, DENIAL_VERSION, data, correlation, causation, extensions
        )
        self._drain_mine()
        return DenialReceipt.of(self._appender.commit((event,), durable=durable)[0])

    @staticmethod
    def _marks_of(gates: Gates) -> Mapping[str, bytes] | None:
        """The audit of a bypass, for the event's extensions."""
        from batpak.gates import Bypass

        return gates.extensions() if isinstance(gates, Bypass) else None

    @staticmethod
    def _asked(gates: Gates) -> GateSet[GateContext] | Passed[Any, Any] | Bypass:
        """What `gates=` stands for; single gates become a set. Raises InvalidInput."""
        from batpak.gates import Bypass, GateSet, Passed

        if isinstance(gates, (Bypass, Passed)):
            return gates
        if isinstance(gates, GateSet):
            return cast("GateSet[GateContext]", gates)
        asked = GateSet(gates)
        if not len(asked) and isinstance(gates, Iterator):
            # Most likely used up by an earlier call: it must not come to permit everything.
            raise InvalidInput(
                "gates= is an iterator that has no gates left",
                field="gates",
                value=gates,
                advice="pass a list or a GateSet: an iterator gives its gates only once",
            )
        return asked

    def _ask_gates(self, gates: Gates, event: Prepared, *, is_one_of: int = 1) -> None:
        """Raises GateDenied, GatePassError unless the event may be committed."""
        from batpak.gates import Bypass, Denied, GateContext, Passed

        gates = self._asked(gates)
        if isinstance(gates, Bypass):
            return
        context = GateContext(
            event.coordinate,
            EventKind.from_raw(event.kind),
            self._preparer.payload_of(event),
            payload_version=event.payload_version,
            # From the bytes: what the caller gave may be another mapping by now.
            extensions=decode_extensions(event.extensions),
            reader=self,
        )
        if isinstance(gates, Passed):
            if is_one_of > 1:
                raise InvalidInput(
                    "a Passed is good for one event, not for a batch",
                    field="gates",
                    advice="pass the GateSet: it is asked about each item",
                )
            gates.spend_on(context)
            return
        answer = gates.check(context)
        if isinstance(answer, Denied):
            raise answer.error() from answer.cause

    def _append(
        self,
        events: Sequence[Prepared],
        expect: Mapping[str, int | Expect] | None,
        unless: Unless | None,
        durable: bool,
        on_replay: OnReplay,
        wait: Watermark | None,
        timeout: float | None,
    ) -> tuple[AppendReceipt, ...]:
        """Everything that an append may ask for beside its events."""
        if wait is not None and check_wait(wait):
            durable = True
        if timeout is not None:
            check_timeout(timeout)
        check_on_replay(on_replay)
        self._drain_mine()
        self._preparer.renew(events)
        if events[0].key is not None and not self._keys_ready:
            # Once, and not under the append lock: a look-up by key finds its table there.
            with self._reader.index.keys_lock:
                self._reader.index.fill_keys()
            self._keys_ready = True
        guard = None
        if expect is not None or unless is not None:
            self._writer.check()
            guard = self._guard(events, expect, unless)
            if guard is not None and guard.refusal is not None and events[0].key is None:
                raise guard.refusal
        return self._appender.commit(
            events, durable=durable, guard=guard, on_replay=on_replay, timeout=timeout
        )

    def _guard(
        self,
        events: Sequence[Prepared],
        expect: Mapping[str, int | Expect] | None,
        unless: Unless | None,
    ) -> Guard | None:
        """The commit's guard; none where its keys are known, so that a retry succeeds.

        A retry may overlap its first attempt, which can be written between this look for
        the keys and the guard's at the conditions: so what the guard refuses is only
        final under the append lock, where the keys are looked up first.
        """
        if expect is None and unless is None:
            return None
        expected = check_conditions(expect, unless)
        if events[0].key is not None and self._are_written(events):
            return None
        return guard_of(self._reader, self._writer, expected, unless)

    def _are_written(self, events: Sequence[Prepared]) -> bool:
        """Whether the key of each is known."""
        written = self._writer.log.sequence
        # No generator: Ctrl-C while all() drops it half-way would be swallowed.
        for event in events:
            if event.key is None or self._reader.find_id(event.key, written) is None:
                return False
        return True

    # --- commits put together in memory, and queued ones -----------------------

    def fence(
        self,
        *,
        expect: Mapping[str, int | Expect] | None = None,
        unless: Unless | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
    ) -> Fence:
        """A `with` block whose appends become one commit at its end, or nothing at all.

        Others keep writing meanwhile; keys and conditions are checked at the end.
        Raises InvalidInput, FenceOpen inside another fence of this thread, StoreClosed.
        """
        self._writer.check()
        check_conditions(expect, unless)
        check_on_replay(on_replay)
        self._lost.tell()
        self._check_no_fence()
        fence = Fence(
            self._preparer,
            self._config.batch_max_events,
            lambda events: self._append(events, expect, unless, durable, on_replay, None, None),
            self._fence_entered,
            self._fence_ended,
            self._lost.add,
        )
        here = id(fence)
        self._fences[here] = weakref.ref(fence, partial(self._fences.pop, here))
        return fence

    def _check_no_fence(self) -> None:
        kept: weakref.ref[Fence] | None = getattr(self._fence_here, "fence", None)
        here = None if kept is None else kept()
        if here is not None and here.is_open:
            raise FenceOpen(
                "a fence is already open in this thread",
                field="fence",
                advice="append to that one, or end it first",
            )

    def _fence_entered(self, fence: Fence) -> None:
        self._check_no_fence()
        # Weakly: what is open must not keep a dropped store alive. No call after this one,
        # so whoever has it here is in its block.
        self._fence_here.fence = weakref.ref(fence)

    def _fence_ended(self, fence: Fence) -> None:
        self._fences.pop(id(fence), None)

    def _end_fences(self) -> None:
        for kept in list(self._fences.values()):
            fence = kept()
            if fence is not None:
                fence.close()

    def outbox(
        self,
        *,
        expect: Mapping[str, int | Expect] | None = None,
        unless: Unless | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
    ) -> Outbox:
        """Events that are staged now and written as one commit by `flush()`.

        Raises InvalidInput, StoreClosed.
        """
        self._writer.check()
        check_conditions(expect, unless)
        check_on_replay(on_replay)
        return Outbox(
            self._preparer,
            self._config.batch_max_events,
            lambda events: self._append(events, expect, unless, durable, on_replay, None, None),
            lambda events: self._submit(
                events, self._guard(events, expect, unless), durable, on_replay, is_single=False
            ),
        )

    def submit(
        self, coordinate: Coordinate, payload: object, **options: Any
    ) -> Future[AppendReceipt]:
        """Queue one event for the background writer; keywords as for `append`, but for waits.

        The future gives the receipt, or raises what `append` would. Blocks while the
        queue is full. Submissions of a thread, and its appends after them, keep their
        order. Raises InvalidInput, StoreClosed, JournalPoisoned.
        """
        return self._submit_one(coordinate, payload, options, soft=False)

    def try_submit(
        self, coordinate: Coordinate, payload: object, **options: Any
    ) -> Future[AppendReceipt]:
        """As `submit`, but raises Backpressure where the queue is filled to its threshold."""
        return self._submit_one(coordinate, payload, options, soft=True)

    def submit_many(
        self,
        items: Iterable[Item],
        *,
        expect: Mapping[str, int | Expect] | None = None,
        unless: Unless | None = None,
        correlation: Id | None = None,
        causation: Id | None = None,
        gates: Gates | None = None,
        durable: bool = False,
        on_replay: OnReplay = "raise",
    ) -> Future[tuple[AppendReceipt, ...]]:
        """Queue one commit of several events, as `append_many` would write it."""
        if gates is not None:
            _check_asked(expect, unless, on_replay)
        events = self._judged(items, correlation, causation, gates)
        guard = self._guard(events, expect, unless)
        return self._submit(events, guard, durable, on_replay, is_single=False)

    def _submit_one(
        self, coordinate: Coordinate, payload: object, options: dict[str, Any], *, soft: bool
    ) -> Future[AppendReceipt]:
        unless = options.pop("unless", None)
        expect = options.pop("expect", None)
        durable, on_replay = options.pop("durable", False), options.pop("on_replay", "raise")
        gates = options.pop("gates", None)
        if options or gates is not None:
            item = Item(coordinate, payload, **options)
            event = self._prepare(
                item.coordinate, item.payload, item.kind, item.correlation, item.causation,
                item.lane, item.depth, item.flags, item.extensions, item.key, expect, 0,
                item.is_raw, None if gates is None else self._marks_of(gates),
            )  # fmt: skip
            if gates is not None:
                _check_asked(None, unless, on_replay)
                self._ask_gates(gates, event)
        else:
            event = self._prepare(
                coordinate, payload, None, None, None, 0, 0, 0, None, None, expect
            )
        guard = None if unless is None else self._guard((event,), None, unless)
        return self._submit((event,), guard, durable, on_replay, is_single=True, soft=soft)

    def _submit(
        self,
        events: Sequence[Prepared],
        guard: Guard | None,
        durable: bool,
        on_replay: OnReplay,
        *,
        is_single: bool,
        soft: bool = False,
    ) -> Future[Any]:
        check_on_replay(on_replay)
        if self._writer.is_over:
            # Before any lock of ours, which in a forked child nobody may ever free.
            self._writer.check()
        self._preparer.renew(events)
        queue = self._queue or self._start_queue()
        submission = Submission(
            events, guard, is_single=is_single, durable=durable, on_replay=on_replay
        )
        return queue.put(submission, soft=soft)

    def _start_queue(self) -> SubmitQueue:
        with self._starting:
            if self._ending:
                raise StoreClosed("the store is closed", advice="open the journal anew")
            config = self._config
            queue = SubmitQueue(
                self._appender.work, config.submit_capacity, config.submit_threshold,
                self._writer.teller, self._writer.check_entry,
            )  # fmt: skip
            # Only now: a signal handler may have begun one in the meantime.
            if self._queue is None:
                # No call between the two, which Ctrl-C could part.
                self._queues[:] = (queue,)
                self._queue = queue
            return self._queue

    def _last_queue(self) -> SubmitQueue | None:
        """From here on nobody starts a queue, whose thread would stay behind."""
        with self._starting:
            self._ending = True
        return self._queue

    def pressure(self) -> Pressure:
        """How much is waiting to be written or synced now."""
        queue = self._queue
        queued = 0 if queue is None else queue.queued
        return Pressure(queued, self._config.submit_capacity, self._writer.waiting)

    # --- erasure --------------------------------------------------------------

    def erase(
        self,
        what: Region | Iterable[EventId | int] | EventId | int,
        *,
        reason: str,
        where: Callable[[Event], bool] | None = None,
        durable: bool = False,
    ) -> ErasureReport:
        """Refuse the payloads of these events from now on, in every way to read them.

        `what`: a Region (its events but the journal's own, and of these where `where` is
        true), or ids or sequences. The events, their hashes, receipts and proofs stay;
        entity, scope and extensions can never be erased. `reason` stays as well. What was
        erased before is left alone; where nothing is left, nothing is written. The bytes
        go with `compact`. Waits for durability as `append` does. `where` may append; it can't
        erase, shred, compact or close. Raises InvalidInput, EventNotFound, NotErasable, and as
        `append`.
        """
        check_reason(reason)
        self._check_not_erasing()
        self._writer.check()
        self._drain_mine()
        return telling_last(lambda: self._erase(what, reason, where, durable))

    def _erase(
        self,
        what: Region | Iterable[EventId | int] | EventId | int,
        reason: str,
        where: Callable[[Event], bool] | None,
        durable: bool,
    ) -> ErasureReport:
        def chosen(event: Event) -> bool:
            assert where is not None, "asked below"
            answer = where(event)
            # It may have closed the store that is read here.
            self._writer.check()
            return answer

        with self._erasing:
            try:
                self._eraser = threading.get_ident()
                self._fold_written()
                choose = chosen if callable(where) else where
                plan = plan_erasure(self._reader, what, choose, self._bound())
                receipts = self._record_erasure(plan, reason, durable)
            finally:
                self._eraser = None
        return replace(plan, receipts=tuple(receipts))

    def _record_erasure(
        self, plan: ErasureReport, reason: str, durable: bool
    ) -> list[AppendReceipt]:
        receipts: list[AppendReceipt] = []
        try:
            for events, runs in erasure_events(plan, reason):
                receipts += self._appender.commit(events, durable=durable)
                erased = self._reader.erased
                self._reader.erased = runs if erased is None else erased | runs
                self._folded = receipts[-1].sequence + 1
        except BaseException:
            # Whatever it was, what is written counts; if it can't be read now, the next
            # erasure, compaction or open reads it.
            with suppress(BatpakError):
                self._fold_written()
            raise
        return receipts

    def _check_not_erasing(self) -> None:
        """Raises InvalidInput in the thread that erases or shreds, which would wait for itself."""
        if self._eraser == threading.get_ident():
            raise InvalidInput(
                "payloads are being erased or shredded: what is called for it, such as where=, "
                "can't erase, shred, compact or close the store",
                field="where",
                advice="do it when erase() or shred() has returned",
            )

    def _fold_written(self) -> None:
        """Refuse what erasure events name that were written since; `_erasing` is held."""
        written = self._writer.log.sequence
        if written > self._folded:
            fold_erasures(self._reader, self._folded, written)
            fold_shredded(self._reader, self._folded, written)
            self._folded = written

    def shred(
        self,
        what: Region | Iterable[EventId | int | bytes] | EventId | int | bytes,
        *,
        also_others: bool = False,
        also_missing: bool = False,
    ) -> ShredReport:
        """Destroy the keys of these events' payloads: nobody reads them again, in no copy.

        `what`: a Region (its encrypted events), ids or sequences, or ids of keys (16 bytes).
        First the journal says, durably, which keys are shredded; then the keyring destroys
        them. Events, hashes, receipts and proofs stay. A key covers what the keyring's policy
        says: where it covers more events than `what` does, nothing is done unless
        `also_others`. Where the keyring has not one of the keys, it may be the wrong one, and
        nothing is done unless `also_missing`; the report then names them. What was shredded
        before is destroyed again, in case it still stands.
        Raises InvalidInput, EventNotFound, NotShreddable, KeyringRefused without a keyring,
        PayloadDamaged, as `append`; KeyNotDestroyed when the journal says so and the keyring
        failed: repeat it, or open the journal again.
        """
        keyring = self._config.keyring
        if keyring is None:
            raise KeyringRefused(
                "shredding destroys keys, and the store was opened without a keyring",
                field="keyring",
                reason="missing",
                advice="open it with keyring=, or on the command line with --keyring",
            )
        self._check_not_erasing()
        self._writer.check()
        self._drain_mine()
        return telling_last(
            lambda: self._shred(keyring, what, also_others=also_others, also_missing=also_missing)
        )

    def _shred(
        self,
        keyring: Keyring,
        what: Region | Iterable[EventId | int | bytes] | EventId | int | bytes,
        *,
        also_others: bool,
        also_missing: bool,
    ) -> ShredReport:
        with self._erasing, self._reader.vault.shredding:
            try:
                self._eraser = threading.get_ident()
                self._fold_written()
                plan = plan_shredding(self._reader, what, self._bound())
                if not also_others:
                    plan.check_no_others()
                key_ids = [key.key_id for key in plan.keys]
                if not also_missing:
                    check_held(keyring, key_ids)
                receipts = self._record_shredding(key_ids)
                # Crash before this: the next open destroys them.
                gone = destroy_keys(keyring, [*key_ids, *(key.key_id for key in plan.before)])
            finally:
                self._eraser = None
        missing = tuple([key_id for key_id in key_ids if key_id in gone])
        return replace(plan, receipts=tuple(receipts), missing=missing)

    def _record_shredding(self, key_ids: Sequence[bytes]) -> list[AppendReceipt]:
        """Say durably which keys are shredded; from then on nothing is sealed under them."""
        vault = self._reader.vault
        receipts: list[AppendReceipt] = []
        for at in range(0, len(key_ids), KEYS_IN_A_COMMIT):
            part = key_ids[at : at + KEYS_IN_A_COMMIT]
            events = [key_shredded_event(key_id=key_id) for key_id in part]
            before = vault.shredded
            try:
                # Under the append lock: no event comes after it that was sealed with them.
                receipts += self._appender.commit(
                    events, durable=True, guard=lambda _, part=part: vault.shred(part)
                )
                self._folded = receipts[-1].sequence + 1
            except BaseException:
                # As in `erase`: what is written counts.
                vault.shredded = before
                with suppress(BatpakError):
                    self._fold_written()
                raise
        return receipts

    def _destroy_again(self) -> None:
        """Destroy what the journal says is shredded; the open fails if that does."""
        keyring, shredded = self._config.keyring, self._reader.vault.shredded
        if keyring is not None and shredded:
            destroy_keys(keyring, sorted(shredded))

    def compact(
        self,
        *,
        min_bytes: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> CompactionReport:
        """Rewrite the segments that hold erased payloads without them; all else stays.

        Skipped while less than `min_bytes` would go. Every erasure is made durable first,
        in every mode. Appends and reads go on meanwhile. A segment that can't be rewritten
        (disk full, damaged) stays as it is, and the report says so. `progress(done, total)` is
        told bytes of those segments, each of them twice: copied, and read back. It may append;
        where it raises, the segment under way stays as it was. Raises InvalidInput,
        JournalCorrupt, StorageFailed, JournalPoisoned, StoreClosed.
        """
        if isinstance(min_bytes, bool) or not isinstance(min_bytes, int) or min_bytes < 0:
            raise InvalidInput(
                "min_bytes= is a whole number from 0 on", field="min_bytes", value=min_bytes
            )
        meter = Meter(progress)
        self._check_not_rewriting()
        self._check_not_erasing()
        self._drain_mine()
        return meter.run(lambda: telling_last(lambda: self._compact(min_bytes, meter)))

    def _compact(self, min_bytes: int, meter: Meter) -> CompactionReport:
        with self._rewriting:
            try:
                self._rewriter = threading.get_ident()
                return self._compact_alone(min_bytes, meter)
            finally:
                self._rewriter = None

    def _compact_alone(self, min_bytes: int, meter: Meter) -> CompactionReport:
        """`_rewriting` is held."""
        began = time.perf_counter()
        self._writer.check()
        with self._erasing:
            self._fold_written()
        erased = self._reader.erased
        plan = self.plan_compaction()
        if erased is None or not plan.segments or plan.bytes < min_bytes:
            reason = f"{plan.bytes} bytes would go" if plan.segments else "nothing to do"
            seconds = time.perf_counter() - began
            return CompactionReport("skipped", reason, (), plan.copies, None, seconds)
        # Before a byte goes: else a power cut could keep the rewrite and lose its reason.
        self._writer.sync()
        done: list[Rewrite] = []
        problems: list[BatpakError] = []
        try:
            if plan.segments[-1].base == self._writer.log.segment.header.base_sequence:
                self._writer.rotate()
            with self._sealer.paused():
                problems += self._rewrite_all(plan.segments, erased, done, meter)
        except (Unavailable, JournalPoisoned) as error:
            problems.append(error)
        except BaseException:
            # Whatever it was, what was rewritten is said.
            with suppress(BatpakError):
                self._record_compaction(done)
            raise
        receipt = None
        try:
            receipt = self._record_compaction(done)
        except (Unavailable, JournalPoisoned, Indeterminate) as error:
            problems.append(error)
        return CompactionReport(
            "failed" if problems else "performed",
            str(problems[0]) if problems else None,
            tuple(done),
            plan.copies,
            receipt,
            time.perf_counter() - began,
        )

    def _rewrite_all(
        self, planned: Sequence[Rewrite], erased: Runs, done: list[Rewrite], meter: Meter
    ) -> list[BatpakError]:
        """Rewrite these segments, sealed all of them, and add to `done`; what was damaged."""
        problems: list[BatpakError] = []
        sizes = [self._reader.pool.get(each.base).size() for each in planned]
        begun, meter.total = 0, 2 * sum(sizes)
        for each, size in zip(planned, sizes, strict=True):
            try:
                done.append(self._rewrite(each, erased, meter.from_here(begun)))
            except JournalCorrupt as error:
                # It stays as it is; the others do not have to wait for it.
                problems.append(error)
            begun += 2 * size
        return problems

    def _check_not_rewriting(self) -> None:
        """Raises InvalidInput in the thread that rewrites segments, which would wait for itself."""
        if self._rewriter == threading.get_ident():
            raise InvalidInput(
                "segments are being rewritten: what is told of it can't compact or close the store",
                field="progress",
                advice="do it when compact() has returned",
            )

    def _rewrite(
        self, planned: Rewrite, erased: Runs, tell: Callable[[int], None] | None
    ) -> Rewrite:
        return rewrite(self._files, self._layout, self._reader, self._writer, planned, erased, tell)

    def _record_compaction(self, done: Sequence[Rewrite]) -> AppendReceipt | None:
        receipt = None
        for at in range(0, len(done), MAX_SEGMENTS):
            part = done[at : at + MAX_SEGMENTS]
            event = compaction_event(
                [(each.base, each.generation) for each in part],
                payloads=sum(each.payloads for each in part),
                size=sum(each.bytes for each in part),
            )
            receipt = self._appender.commit((event,))[0]
        return receipt

    # --- signing and checkpoints ---------------------------------------------

    def _introduce_keys(self) -> None:
        """Write down the keys that the journal does not know yet; the open fails if it can't."""
        bound = self._writer.log.sequence
        events = self._ledger().introductions(self._config.signing_keys, bound)
        if events:
            self._appender.commit(events, durable=True)
        self._read_spans()

    def _read_spans(self) -> None:
        # Only this store writes, so nobody else's keys can come in between.
        spans = self._ledger().spans(self._writer.log.sequence)
        self._spans = {span.key_id: span for span in spans}

    def sign(self, receipt: AppendReceipt) -> AppendReceipt:
        """Make the receipt's event durable, and return the receipt with a signature that says so.

        The last of `signing_keys` that is in force for the event signs. No append makes a
        signature. Raises InvalidInput for a receipt that is not this journal's,
        KeyNotInForce, JournalPoisoned, StoreClosed.
        """
        if not isinstance(receipt, AppendReceipt) or receipt.journal_id != self._journal_id:
            raise InvalidInput(
                "sign() takes a receipt of this journal", field="receipt", value=receipt
            )
        self._writer.check()
        sequence = receipt.sequence
        if sequence >= self._writer.log.sequence or receipt != self._receipt_of(
            self._reader.summary(sequence)
        ):
            raise InvalidInput(
                f"the receipt does not fit event {sequence} of this journal",
                field="receipt",
                value=sequence,
                advice="take it from the append, or read it from what to_json() wrote",
            )
        for key in reversed(self._config.signing_keys):
            key_id = ReceiptKey(key.public_key).key_id
            span = self._spans.get(key_id)
            if span is not None and span.covers(sequence):
                self._writer.wait_durable(sequence + 1)
                return receipt.signed_with(key_id, key.sign(receipt.signed_message))
        raise KeyNotInForce(
            f"no signing key of this store is in force for event {sequence}",
            sequence=sequence,
            advice="open the store with signing_keys=; a key counts from its introduction on"
            if not self._config.signing_keys
            else "keys count from the event that introduced them until the one that retired them",
        )

    def _receipts_to_show(
        self, events: list[Event], given: AppendReceipt | None
    ) -> list[AppendReceipt]:
        receipts = super()._receipts_to_show(events, given)
        if given is not None or not self._config.signing_keys:
            return receipts
        return [self._signed_if_possible(receipt) for receipt in receipts]

    def _signed_if_possible(self, receipt: AppendReceipt) -> AppendReceipt:
        try:
            return self.sign(receipt)
        except KeyNotInForce:
            # An event from before the keys: the bundle shows its receipt unsigned.
            return receipt

    def retire_key(self, key_id: bytes, *, reason: str = "") -> None:
        """Say in the journal, durably, that a receipt key's signatures count no more.

        What it signed for earlier events stays good. Raises InvalidInput for a key that
        the journal does not know or that was retired before.
        """
        if not isinstance(key_id, bytes):
            raise InvalidInput(
                "a key id is 32 bytes",
                field="key_id",
                value=type(key_id).__name__,
                advice="make them of hex text with bytes.fromhex(); signing_keys() lists the keys",
            )
        self._read_spans()
        span = self._spans.get(key_id)
        if span is None or span.until is not None:
            raise InvalidInput(
                "the journal does not know this key"
                if span is None
                else f"event {span.until} retired this key already",
                field="key_id",
                value=key_id.hex(),
                advice="signing_keys() lists them; on the command line: "
                f"batpak keys list {self.path}",
            )
        if not isinstance(reason, str) or len(reason.encode("utf-8", "replace")) > 1024:
            raise InvalidInput("a reason is text of up to 1024 bytes", field="reason")
        self._drain_mine()
        self._appender.commit([key_retired_event(key_id=key_id, reason=reason)], durable=True)
        self._read_spans()

    def checkpoint(self, *, progress: Callable[[int, int], None] | None = None) -> StoredCheckpoint:
        """Make all durable and sign its size and Merkle root with `checkpoint_key`.

        The note stands in `checkpoints/`, in an event, and as `tlog/checkpoint` beside the
        tiles, so that `tlog/` can be published as it is. When only checkpoints are new,
        gives the last one again. `progress(done, total)` is told events of the tree, those in
        good tiles from the beginning; it may append, and where it raises before the end, no
        checkpoint is made. A damaged note that it makes anew from its event goes to
        `quarantine/`. Raises InvalidInput without a key, or for one that the journal knows
        as a receipt key; JournalCorrupt when the events of an earlier checkpoint were changed,
        NoSpace, StorageFailed, JournalPoisoned.
        """
        meter = Meter(progress)
        key = self._config.checkpoint_key
        if key is None:
            raise InvalidInput(
                "a checkpoint needs a key to sign it",
                field="checkpoint_key",
                advice="open the store with checkpoint_key=SigningKey.load(FILE)",
            )
        self._writer.check()
        if any(span.public_key == key.public_key for span in self.signing_keys()):
            raise InvalidInput(
                "this key signs receipts of this journal, so it signs no checkpoints",
                field="checkpoint_key",
                advice="make a key for checkpoints with: batpak keys new FILE",
            )
        if self._queue is not None:
            self._queue.drain()
        return meter.run(lambda: telling_last(lambda: self._checkpoints().make(key, meter)))

    def add_cosignatures(self, note: str, witnesses: Iterable[NoteKey]) -> StoredCheckpoint:
        """Keep what these witnesses signed of a stored checkpoint, beside its own signature.

        Of each witness the newest cosignature is kept, since that is the one that counts. In a
        fork, an ancestor's checkpoint takes them as well. Raises InvalidInput, NotCheckpointed,
        Damaged for a damaged note, StorageFailed.
        """
        from batpak.proof.notes import Key

        if not isinstance(note, str):
            raise InvalidInput("a note is text", field="note", value=type(note).__name__)
        keys = tuple(witnesses) if isinstance(witnesses, Iterable) else (witnesses,)
        for key in keys:
            if not isinstance(key, Key):
                raise InvalidInput(
                    "witnesses= takes keys of witnesses",
                    field="witnesses",
                    value=type(key).__name__,
                    advice="batpak.proof.Key.parse() makes one of its text",
                )
        self._writer.check()
        return self._checkpoints().add_cosignatures(note, keys)

    def _checkpoints(self) -> CheckpointMaker:
        if self._maker is None:
            with self._starting:
                if self._maker is None:
                    self._maker = CheckpointMaker(
                        self._files, self._layout, self.origin, self._reader, self._tree_here(),
                        self._synced, lambda event: self._appender.commit([event], durable=True),
                        self._identity.shared,
                    )  # fmt: skip
        return self._maker

    def _synced(self) -> int:
        self._writer.sync()
        return self._writer.durable.sequence

    def _prover(self, meter: Meter) -> Prover:
        return Prover(self._layout, self._reader, self._tree_here(), may_write=True, meter=meter)

    # --- durability ----------------------------------------------------------

    def sync(self) -> None:
        """Make everything appended or submitted so far durable.

        Raises JournalPoisoned, StoreClosed.
        """
        self._writer.check()
        if self._queue is not None:
            self._queue.drain()
        self._writer.sync()

    def wait_for(
        self, watermark: Watermark, receipt: AppendReceipt, *, timeout: float | None = None
    ) -> None:
        """Return once `receipt`'s event has reached `watermark`, syncing if that is needed.

        Raises WaitTimeout after `timeout` seconds of waiting for other threads' syncs (its
        own has no limit), InvalidInput, JournalPoisoned, StoreClosed, StoreForked.
        """
        self._writer.readable()
        check_timeout(timeout)
        if not isinstance(watermark, Watermark):
            raise InvalidInput(
                "wait_for() takes a Watermark",
                field="watermark",
                value=watermark,
                advice="pass Watermark.DURABLE, or another one of batpak.Watermark",
            )
        if not isinstance(receipt, AppendReceipt):
            raise InvalidInput(
                "wait_for() takes a receipt",
                field="receipt",
                value=receipt,
                advice="pass what append() returned, or the receipt of an Indeterminate",
            )
        if receipt.journal_id != self._journal_id:
            raise InvalidInput(
                "the receipt is of another journal",
                field="receipt",
                value=str(receipt.journal_id),
                advice="ask the store that wrote the event",
            )
        target = receipt.sequence + 1
        if target > self._writer.log.sequence:
            raise InvalidInput(
                f"the journal has no event {receipt.sequence}",
                field="receipt",
                value=target - 1,
                advice="the journal lost it, or this is an older copy; run verify",
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
        """All watermarks at one moment; they never go back.

        The row of the oldest event that is not durable is read for its time. Raises StoreClosed,
        StoreForked; StorageFailed and JournalCorrupt where that row can't be read.
        """
        self._writer.readable()
        # Durable first: what is read later can only be further.
        durable = self._writer.durable
        log = self._writer.log
        written = Point(log.sequence, log.hlc)
        bound = Point(durable.sequence, durable.hlc)
        visible = bound if self._config.durability is Durability.SYNC else written
        since = None
        if durable.sequence < log.sequence:
            since = self._reader.summary(durable.sequence).timestamp_us
        # Nobody consumes yet, so nobody lags behind what is visible.
        return Frontier(written, written, bound, visible, visible, since)

    def _bound(self) -> int:
        return self._writer.readable()

    def _settle(self) -> Place:
        writer = self._writer
        writer.readable()
        if writer.poison is None:
            self.sync()
        # Durable first: the log read later can only be further.
        durable = writer.durable.sequence
        log = writer.log
        return place_of(
            self._reader, durable, written=log.sequence, written_end=log.end, epoch=writer.epoch
        )

    def _compacting(self) -> AbstractContextManager[object]:
        return self._rewriting

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

        Open fences are cancelled; the queue of `submit` is run empty for up to `timeout`
        seconds, and what is left of it fails with Cancelled. After a failure the lock
        and the files are free all the same, and the next open recovers. Where several threads
        close, one does it and the others wait for it; what that one waits for or calls, such as
        a future's callback or a log handler, goes on at once. Raises JournalPoisoned, NoSpace,
        StorageFailed, InvalidInput for a timeout that is none, or in what compact() calls; and
        ReentrantCall in the middle of a write of the same thread, with nothing done.
        """
        check_timeout(timeout)
        if self._writer.is_forked:
            # In a forked child there is nothing to write: the store is the parent's.
            self._release()
            return
        self._writer.check_entry()
        self._check_not_rewriting()
        self._check_not_erasing()
        telling_last(lambda: self._close_once(timeout))
        # Bounded: a handler that waits for this thread must not stop it.
        self._writer.teller.wait(_TELLING)

    def _close_once(self, timeout: float | None) -> None:
        queue = self._queue
        if queue is not None and queue.serves_here:
            # Whoever is closing the store waits for this thread.
            if self._closing.acquire(blocking=False):
                try:
                    self._close_first(timeout)
                finally:
                    self._closing.release()
            return
        with self._closing:
            self._close_first(timeout)

    def _close_first(self, timeout: float | None) -> None:
        """Close, unless this is what closing calls; `_closing` is held."""
        if self._is_closing:
            return
        try:
            self._is_closing = True
            self._close(timeout)
        finally:
            self._is_closing = False

    def _close(self, timeout: float | None) -> None:
        try:
            if self._writer.is_closed:
                return
            self._end_fences()
            queue = self._last_queue()
            if queue is not None:
                queue.stop(timeout)
            # Not before: callbacks of futures may compact.
            with self._rewriting:
                self._write_end()
        finally:
            # Three times, as in GroupCommit.run: Ctrl-C can cut it and cut that again.
            try:
                self._release()
            finally:
                try:
                    self._release()
                finally:
                    self._release()

    def _write_end(self) -> None:
        writer = self._writer
        if self._sealed:
            self._sealer.write_sidecars()
        first = self._first_of_epoch
        epoch = writer.epoch
        log = writer.close(lambda: [close_event(epoch=epoch, events=writer.log.sequence - first)])
        header = log.segment.header
        if wants_sidecar(self._opened.index, log):
            write_sidecar(self._files, self._layout, self._opened.index, log, header, log.sequence)
        save_keys(self._files, self._layout, self._identity, self._opened.index, closed=True)

    def _release(self) -> None:
        """Let go of everything; after an interruption it can be called again, and goes on."""
        writer = self._writer
        if writer.is_forked:
            # A thread of the parent may have held `_rewriting`, which nobody here would free.
            self._opened.release()
        else:
            self._end_fences()
            self._lost.tell()
            queue = self._last_queue()
            if queue is not None:
                queue.refuse()
            with self._rewriting:
                self._opened.release()
        _live.discard(writer)
        # Last: until here, dropping the store would do the rest.
        self._finalizer.detach()

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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def _dropped(writer: Writer, path: str, queues: list[SubmitQueue], lost: LostFences) -> None:
    """A store was garbage-collected without close: free the lock and say so."""
    is_open = not writer.is_closed
    # First the lock: where warnings are errors, nothing after the warning runs.
    writer.abandon()
    if queues:
        queues[0].abandon(writer.release)
    else:
        writer.release()
    lost.orphan()
    if not is_open:
        # Its open failed, or its close was cut short: nobody forgot anything.
        return
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


def _check_asked(
    expect: Mapping[str, int | Expect] | None,
    unless: Unless | None,
    on_replay: OnReplay,
    wait: Watermark | None = None,
    timeout: float | None = None,
) -> None:
    """Refuse a call that can never be right before gates are asked, and a pass is used up.

    Raises InvalidInput.
    """
    check_conditions(expect, unless)
    check_on_replay(on_replay)
    check_wait(wait)
    check_timeout(timeout)


def _check_kinds(config: StoreConfig) -> None:
    if config.on_kind_collision == "ignore":
        return
    try:
        payloads.check_registry()
    except KindCollision as error:
        if config.on_kind_collision == "refuse":
            raise
        logger.warning("%s", str(error), extra={"code": "kind-collision", "error": str(error)})
