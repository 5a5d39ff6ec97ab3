"""Open a journal directory for writing: lock, identity, index, tail rule, re-adoption.

Each step says what a crash there leaves. Nothing is written before the whole journal
was judged, but the lock file. Source: docs/format.md, "Recovery".
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from batpak.clock import MAX_US, checked_us
from batpak.config import StoreConfig
from batpak.encryption import Vault
from batpak.engine.bulk_walk import BulkWalk
from batpak.engine.erasing import fold_erasures
from batpak.engine.keeping import load_keys
from batpak.engine.keys import KeyLedger
from batpak.engine.manifest import MANIFEST
from batpak.engine.reading import LogReader
from batpak.engine.report import Cut, OpenReport
from batpak.engine.sealing import MIN_UNCOVERED, remake_sidecar
from batpak.engine.shredding import fold_shredded
from batpak.engine.survey import (
    Found,
    Loaded,
    Survey,
    check_splice,
    covered_chain,
    load_sealed,
    read_identity,
    renew_part,
    segment_bases,
    survey,
    usable_sidecar,
)
from batpak.engine.system import LIFECYCLE, open_event
from batpak.errors import (
    Indeterminate,
    InvalidInput,
    JournalCorrupt,
    JournalLocked,
    JournalPoisoned,
    NetworkFilesystem,
    NotAJournal,
    UnsupportedFeature,
)
from batpak.event import NO_HASH
from batpak.files import (
    TEMPORARY_SUFFIX,
    Files,
    closing,
    filesystem_type,
    is_directory,
    is_network_filesystem,
    let_go,
    refusal,
    replace_file,
    tell_not_closed,
    wall_us,
    write_all,
)
from batpak.index.growing import GrowingPart
from batpak.index.parts import Index
from batpak.journal.applying import apply_record
from batpak.journal.commits import Head
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.identity import FORMAT, Identity
from batpak.journal.layout import KNOWN_NAMES, Layout
from batpak.journal.quarantine import quarantine
from batpak.journal.reading import SegmentPool
from batpak.journal.record import Chain, Record, salt_crc
from batpak.journal.recovery import Tail, Taken, Witness, first_chain, judge_tail
from batpak.journal.state import Log, Segment
from batpak.journal.tally import Written
from batpak.journal.writer import Writer, create_segment

__all__ = [
    "Opened",
    "check_contents",
    "check_place",
    "nothing_left",
    "open_for_writing",
    "settle_ancestors",
    "tell_opened",
]

logger = logging.getLogger("batpak.open")

MAX_EPOCH = 0xFFFFFFFF


@dataclass(slots=True)
class Opened:
    """A journal open for writing."""

    identity: Identity
    layout: Layout
    index: Index
    pool: SegmentPool
    reader: LogReader
    ledger: KeyLedger
    writer: Writer
    report: OpenReport
    written: Written
    sealed: list[tuple[Log, SegmentHeader]] = field(default_factory=list[tuple[Log, SegmentHeader]])
    """Segments that were rotated away and have no sidecar yet."""

    def release(self) -> None:
        """Let go of it all; after an interruption it can be called again, and goes on."""
        self.writer.release()
        self.pool.close()
        self.index.clear()

    def begin_part(self, sealed: Log, header: SegmentHeader) -> GrowingPart:
        """The part for a new segment; after an interruption it may exist already."""
        base = header.base_sequence
        if self.index.slots[-1].segment_base != base:
            self.pool.set_growing(base, may_map=True)
            self.index.append(base, GrowingPart(base, header.salt))
        if self.written.base != base:
            # Twice at worst, where Ctrl-C comes between: then its sidecar is written twice.
            self.sealed.append((sealed, sealed.segment.header))
            self.written = self.written.rotated(base, sealed.records, sealed.end - HEADER_SIZE)
        return self.index.growing


class _Held:
    """What an open under way has got hold of, to be given back where nothing comes of it."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.fds: list[int] = []
        """The lock's, then those of the newest segment and the hint, as far as it got."""
        self.pool: SegmentPool | None = None
        self.writer: Writer | None = None

    def close_from(self, first: int) -> None:
        """Close the descriptors from this place on."""
        while len(self.fds) > first:
            # No call between the taking and the closing, so Ctrl-C can't part them.
            fd = self.fds[-1]
            del self.fds[-1]
            try:
                self._files.close(fd)
            except OSError as error:
                # What counts was synced, or is in doubt anyway.
                tell_not_closed(error)

    def release(self) -> None:
        """Give it all back; after an interruption it can be called again, and goes on."""
        if self.writer is not None:
            self.writer.release()
        self.close_from(0)
        if self.pool is not None:
            self.pool.close()


class _Phases:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def check_place(files: Files, layout: Layout, config: StoreConfig) -> None:
    """Raises NotAJournal or NetworkFilesystem where no journal may be opened.

    StorageFailed where the path can't be looked at: that says nothing of what it is.
    """
    root = layout.root
    if _is_something_else(files, root):
        raise NotAJournal(
            "a journal is a directory, and this is a file", file=root, advice="name another path"
        )
    if config.allow_network_filesystem:
        return
    existing = root
    while not is_directory(files, existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    kind = filesystem_type(existing)
    if is_network_filesystem(kind):
        raise NetworkFilesystem(
            f"the path is on a network file system ({kind}): its locks and syncs can't be trusted",
            file=root,
            advice="use a local disk, or pass allow_network_filesystem=True",
        )


def _is_something_else(files: Files, path: str) -> bool:
    """Whether a file, or a link that leads nowhere, has the journal's name."""
    try:
        return not stat.S_ISDIR(files.stat(path).st_mode)
    except FileNotFoundError:
        # A link to nothing has a name all the same.
        return os.path.islink(path)
    except NotADirectoryError as error:
        raise NotAJournal(
            "a directory of this path is a file", file=path, advice="check the path"
        ) from error
    except OSError as error:
        raise refusal(error, "can't look at the journal's directory", path) from error


def open_for_writing(files: Files, layout: Layout, config: StoreConfig) -> Opened:
    """Lock, recover, index and begin an epoch; the open event is durable on return.

    Raises NotAJournal, NetworkFilesystem, JournalLocked, JournalCorrupt, Damaged,
    FutureFormat, UnsupportedFeature, NoSpace, StorageFailed, InvalidInput.
    """
    phases = _Phases()
    if config.clock is not None:
        # A clock that can't be used shows before there is anything to clear away.
        checked_us(config.clock)
    check_place(files, layout, config)
    held = _Held(files)
    try:
        with phases("lock"):
            created_parents = _make_root(files, layout)
            check_contents(files, layout)
            _take_lock(files, layout, held)
        return _open_locked(files, layout, config, phases, created_parents, held)
    except BaseException:
        # Three times, as in GroupCommit.run: Ctrl-C can cut it and cut that again, and a lock
        # that stays held would keep this process from ever opening the journal.
        try:
            held.release()
        finally:
            try:
                held.release()
            finally:
                held.release()
        raise


def _open_locked(
    files: Files,
    layout: Layout,
    config: StoreConfig,
    phases: _Phases,
    created_parents: list[str],
    held: _Held,
) -> Opened:
    with phases("identity"):
        created = _settle_directories(files, layout, created_parents)
        identity = read_identity(files, layout)
        bases = segment_bases(files, layout)
        if identity is None:
            if bases:
                raise JournalCorrupt(
                    "segments without journal.json: whose they are is not known",
                    file=layout.identity,
                    reason="no-identity",
                    advice="restore journal.json from a snapshot; no new one was made",
                )
            identity = _create_identity(files, layout, config)
            created = True
        elif config.origin is not None and config.origin != identity.origin:
            raise InvalidInput(
                f"this journal's origin is {identity.origin!r} and can't be changed",
                field="origin",
                value=config.origin,
                advice="leave origin= out; a fork gets an origin of its own: "
                f"batpak fork {layout.root} DEST --origin NAME",
            )
        found = survey(files, layout, identity)
    for segment in found.segments:
        bits = segment.header.refuses_writing()
        if bits:
            raise UnsupportedFeature(
                f"this segment uses features that this version can't write: bits {bits:#x}",
                file=segment.path,
                bits=bits,
                advice='upgrade batpak, or open with mode="r"',
            )
    _check_ours(found)
    best = max(found.witnesses, default=Witness(0, "none"))
    epoch = found.hint.epoch if found.hint is not None else 0
    begun = False
    if not found.segments:
        if best.durable:
            raise nothing_left(layout, best)
        # Crash before this: creation was cut short and goes on here.
        first = SegmentHeader(
            identity.journal_id.bytes, 0, wall_us(), os.urandom(16), NO_HASH, epoch + 1
        )
        try:
            create_segment(files, layout, first)
        except OSError as error:
            raise refusal(error, "can't create the first segment", layout.segments) from error
        found = survey(files, layout, identity)
        begun = True

    index = Index(lambda index: load_keys(files, layout, identity, index))
    pool = held.pool = SegmentPool(files, layout, config.max_open_files)
    newest = found.segments[-1]
    pool.set_growing(newest.base, may_map=True)
    reader = LogReader(index, pool, Vault(config.keyring))
    reader.renew_part = lambda base: renew_part(files, layout, identity, pool, index, base)
    mapped = rebuilt = walked = 0
    last_hash, bare = NO_HASH, list[tuple[Found, Loaded]]()
    with phases("index"):
        for segment, successor in zip(found.segments, found.segments[1:], strict=False):
            check_splice(segment, last_hash)
            loaded = load_sealed(files, layout, pool, index, segment, successor.base)
            mapped += loaded.mapped
            rebuilt += not loaded.mapped
            walked += loaded.records
            # Records and events, as at a close: the one or the other takes the time.
            much = max(loaded.records, loaded.next_sequence - segment.base) >= MIN_UNCOVERED
            if much and not loaded.mapped:
                bare.append((segment, loaded))
            last_hash = loaded.last_hash
            epoch = max(epoch, loaded.max_epoch)
        check_splice(newest, last_hash)

    with phases("tail"):
        heads: dict[bytes, Head] = {}
        start = _start(files, layout, pool, index, newest)
        records = 0
        if start is not None:
            mapped += 1
            assert newest.sidecar is not None, "it gave the start"
            records = newest.sidecar.records
        else:
            start = first_chain(newest.header)
        growing = GrowingPart(start.sequence, newest.header.salt)
        index.append(newest.base, growing)
        segment_reader = pool.get(newest.base)
        last_record = newest.sidecar.last_record_offset if records and newest.sidecar else 0

        def apply(record: Record) -> None:
            nonlocal walked, records, last_record
            if record.rows:
                apply_record(record, segment_reader.read, growing, heads)
            walked += 1
            records += 1
            last_record = record.offset

        def cold_head(entity: bytes) -> Head | None:
            return reader.head(entity, index.end)

        def previous_hash(entity: bytes) -> bytes:
            head = heads.get(entity) or cold_head(entity)
            return NO_HASH if head is None else head[1]

        size = segment_reader.size()
        bulk = BulkWalk(segment_reader.read, size, newest.header, growing, heads, cold_head)

        def take(chain: Chain, durable: int) -> Taken | None:
            nonlocal walked, records, last_record
            taken = bulk.take(chain, durable)
            if taken is not None:
                walked += len(taken.ends)
                records += len(taken.ends)
                last_record = taken.last_record
            return taken

        tail = judge_tail(
            segment_reader.read,
            size,
            newest.header,
            start,
            found.witnesses,
            apply,
            previous_hash,
            take,
        )
        if tail.lost:
            raise _lost(layout, newest, tail)
        last_hlc = 0
        if tail.end.sequence:
            # From the segment itself: no value of a disposable file goes into a record.
            last = reader.summary(tail.end.sequence - 1)
            last_hash, last_hlc = last.event_hash, last.hlc
        if last_hlc >> 16 > MAX_US // 1000:
            raise _no_time_left(newest, tail, last_hlc)
        # The open event needs it; if it is damaged, that shows before anything is changed.
        previous_hash(LIFECYCLE.entity_bytes)
        # The header of a segment that this very open made carries the new epoch already.
        epoch = max(epoch, tail.max_epoch, *(s.header.epoch for s in found.segments)) + (not begun)
        if epoch > MAX_EPOCH:
            raise InvalidInput("the journal was opened 2^32 times", field="epoch", value=epoch)

    with phases("index"):
        fold_erasures(reader, 0, index.end)
        fold_shredded(reader, 0, index.end)
    ledger = KeyLedger(reader)
    if config.signing_keys:
        # A key that was retired is refused before an event says that the journal was opened.
        ledger.introductions(config.signing_keys, index.end)

    with phases("repair"):
        newest_fd = _own_file(files, layout, newest, tail, pool)
        held.fds.append(newest_fd)
        cut = _cut_tail(files, layout, newest, tail, newest_fd)
        _readopt(files, newest, tail, newest_fd)

    with phases("begin"):
        hint_fd = _open_hint(files, layout, identity, newest, tail, epoch)
        held.fds.append(hint_fd)
        state = salt_crc(newest.header.salt)
        segment = Segment(newest.header, newest_fd, state, newest.path, tail.end.offset)
        end = tail.end
        log = Log(
            segment, end.offset, end.sequence, end.prev_crc, last_hlc, last_record, records,
            last_hash, end.epoch,
        )  # fmt: skip
        opened: Opened
        writer = Writer(
            files,
            layout,
            config,
            journal_id=identity.journal_id.bytes,
            epoch=epoch,
            log=log,
            lock_fd=held.fds[0],
            hint_fd=hint_fd,
            index=growing,
            heads=heads,
            cold_head=reader.head,
            find=reader.find_id,
            on_rotated=lambda sealed, header: opened.begin_part(sealed, header),
            timestamp_us=0,
        )
        # They are the writer's now: a rotation closes one of them and opens another.
        held.writer = writer
        held.fds = []
        report = OpenReport(
            created,
            epoch,
            len(found.segments),
            mapped,
            walked,
            rebuilt,
            cut,
            tuple((w.name, w.durable) for w in (*found.witnesses, tail.durable)),
            phases.seconds,
        )
        written = Written(newest.base, -records, -end.offset)
        opened = Opened(identity, layout, index, pool, reader, ledger, writer, report, written)
        event = open_event(
            epoch=epoch, resumed_at=end.sequence, cut_bytes=0 if cut is None else cut.bytes
        )
        try:
            writer.commit([event])
            writer.sync()
        except (JournalPoisoned, Indeterminate) as error:
            # There is no store to be poisoned: opening failed, and the next one recovers.
            if isinstance(error.cause, OSError):
                what = "can't write the open event"
                raise refusal(error.cause, what, newest.path) from error
            raise
    with phases("index"):
        # Once, so that the next open takes no longer than it would have. After the open event:
        # a disk that is nearly full has room for what counts first.
        for segment, loaded in bare:
            durable = writer.durable.sequence
            remake_sidecar(files, layout, pool, index, segment, loaded, durable)
    _report_clock(opened, last_hlc >> 16)
    tell_opened(layout, "rw", opened.report, end.sequence)
    return opened


def _check_ours(found: Survey) -> None:
    """Raises JournalCorrupt where a fork has its ancestor's segments and none of its own.

    A fork begins its first segment before its first event; an ancestor's is never written to.
    """
    if (
        not found.segments
        or found.segments[-1].header.journal_id == found.identity.journal_id.bytes
    ):
        return
    newest = found.segments[-1]
    raise JournalCorrupt(
        "this journal is a fork, and all segments of its own are gone",
        file=newest.path,
        offset=16,
        reason="no-own-segment",
        first=max(ancestor.until for ancestor in found.identity.lineage),
        advice='restore it from a snapshot, or read what it was forked from with mode="r"',
    )


def _report_clock(opened: Opened, last_ms: int) -> None:
    """Say so when the clock is behind the journal; that stops nobody: the HLC never goes back."""
    behind = last_ms - opened.writer.timestamp_us // 1000
    if behind > 0:
        opened.report = replace(opened.report, clock_behind_ms=behind)
        root = opened.layout.root
        logger.warning(
            "the clock is %d ms behind the last event of %r", behind, root,
            extra={"code": "clock-behind", "journal": root, "behind_ms": behind},
        )  # fmt: skip


def tell_opened(layout: Layout, mode: str, report: OpenReport, events: int) -> None:
    """The log record of an open; whoever wants the report at once takes it from there.

    `events` is the sequence that the open found to be the next.
    """
    root = layout.root
    logger.info(
        "opened %r: epoch %d, %d segments, %d events", root, report.epoch, report.segments, events,
        extra={
            "code": "opened", "journal": root, "mode": mode, "epoch": report.epoch,
            "segments": report.segments, "events": events, "report": report,
        },
    )  # fmt: skip


# --- steps -------------------------------------------------------------------


def _make_root(files: Files, layout: Layout) -> list[str]:
    """Create the directory and its parents; returns those that got a new name in them."""
    missing: list[str] = []
    path = layout.root
    while not is_directory(files, path) and path != os.path.dirname(path):
        missing.append(path)
        path = os.path.dirname(path)
    parents: list[str] = []
    for directory in reversed(missing):
        try:
            files.mkdir(directory)
        except FileExistsError:
            pass
        except OSError as error:
            raise refusal(error, "can't create the journal's directory", directory) from error
        parents.append(os.path.dirname(directory))
    return parents


def check_contents(files: Files, layout: Layout) -> None:
    """Raises NotAJournal when the directory holds something else, or is a snapshot."""
    if MANIFEST in _names(files, layout):
        raise NotAJournal(
            "this is a snapshot: what is written to it would make it one no more, and begin a "
            "second history under the journal's id",
            file=layout.root,
            advice="restore it, and write to what that makes: batpak restore SNAPSHOT DEST; "
            'to read it, open it with mode="r"',
        )


def _names(files: Files, layout: Layout) -> list[str]:
    """The names in the directory. Raises NotAJournal when it holds something else."""
    try:
        names = files.listdir(layout.root)
    except OSError as error:
        raise refusal(error, "can't read the journal's directory", layout.root) from error
    strangers = sorted(
        name for name in names if name.removesuffix(TEMPORARY_SUFFIX) not in KNOWN_NAMES
    )
    if strangers and "journal.json" not in names:
        raise NotAJournal(
            f"this directory holds other files ({', '.join(strangers[:3])}) and no journal",
            file=layout.root,
            advice="name an empty or a new directory",
        )
    return names


def _take_lock(files: Files, layout: Layout, held: _Held) -> None:
    """Lock the lock file; its descriptor is held. Raises JournalLocked, Unavailable."""
    try:
        fd = files.open(layout.lock, os.O_CREAT | os.O_RDWR)
        held.fds.append(fd)
    except OSError as error:
        raise refusal(error, "can't open journal.lock", layout.lock) from error
    try:
        if not files.lock(fd):
            raise _locked(files, layout, fd)
        ours, named = files.fstat(fd), files.stat(layout.lock)
        if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
            raise _locked(files, layout, fd)
        if ours.st_nlink > 1:
            # A hard-linked copy would share our lock, and we its file: make our own.
            fd = _fresh_lock(files, layout, held)
            held.close_from(1)
        files.truncate(fd, 0)
        write_all(files, fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise refusal(error, "can't lock the journal", layout.lock) from error


def _fresh_lock(files: Files, layout: Layout, held: _Held) -> int:
    """The locked descriptor of a new lock file; it is the first one held."""
    temporary = layout.lock + TEMPORARY_SUFFIX
    fd = files.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
    held.fds.insert(0, fd)
    if not files.lock(fd):
        raise _locked(files, layout, fd)
    files.rename(temporary, layout.lock)
    return fd


def _locked(files: Files, layout: Layout, fd: int) -> JournalLocked:
    text = files.pread(fd, 32, 0).strip()
    pid = int(text) if text.isdigit() else None
    holder = "another process" if pid is None else f"process {pid}"
    return JournalLocked(
        f"the journal is open for writing in {holder}",
        file=layout.lock,
        pid=pid,
        advice='wait for it to close; reading works meanwhile, in Python with mode="r"',
    )


def _settle_directories(files: Files, layout: Layout, created_parents: list[str]) -> bool:
    """Make every name durable that a killed predecessor may have left unsynced."""
    try:
        try:
            files.mkdir(layout.segments)
            created = True
        except FileExistsError:
            created = False
        for directory in (layout.root, layout.segments):
            for name in files.listdir(directory):
                if name.endswith(TEMPORARY_SUFFIX):
                    files.unlink(os.path.join(directory, name))
        _clear_index(files, layout)
        _settle_checkpoints(files, layout)
        files.sync_directory(layout.segments)
        files.sync_directory(layout.root)
        if not segment_bases(files, layout):
            made = {*created_parents, os.path.dirname(layout.root)}
            for parent in made:
                files.sync_directory(parent)
            settle_ancestors(files, layout.root, made)
    except OSError as error:
        raise refusal(error, "can't prepare the journal's directory", layout.root) from error
    return created


def settle_ancestors(files: Files, root: str, settled: set[str]) -> None:
    """Make the names of all directories above the journal durable, but those in `settled`.

    A predecessor that was killed, or `mkdir -p`, may have made any of them and synced none.
    A new directory is on its parent's device, so names beyond a mount are old.
    """
    device = files.stat(root).st_dev
    above = os.path.dirname(root)
    while files.stat(above).st_dev == device:
        try:
            if above not in settled:
                files.sync_directory(above)
        except PermissionError:
            # Somebody else's directory, that one may pass through and not look into.
            pass
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def _settle_checkpoints(files: Files, layout: Layout) -> None:
    """Make checkpoints durable that a killed predecessor renamed and did not sync."""
    if "checkpoints" not in files.listdir(layout.root):
        return
    for name in files.listdir(layout.checkpoints):
        if name.endswith(TEMPORARY_SUFFIX):
            files.unlink(os.path.join(layout.checkpoints, name))
    files.sync_directory(layout.checkpoints)


def _clear_index(files: Files, layout: Layout) -> None:
    """Delete unfinished files of `index/`; nothing there may keep a journal from opening."""
    try:
        if "index" in files.listdir(layout.root):
            for name in files.listdir(layout.index):
                if name.endswith(TEMPORARY_SUFFIX):
                    files.unlink(os.path.join(layout.index, name))
    except OSError as error:
        logger.warning(
            "unfinished files in %s stay: %s",
            layout.index,
            str(error),
            extra={"code": "index-not-cleared", "file": layout.index, "error": str(error)},
        )


def _create_identity(files: Files, layout: Layout, config: StoreConfig) -> Identity:
    journal_id: UUID = uuid4()
    identity = Identity(FORMAT, journal_id, wall_us(), config.origin or f"batpak/{journal_id}", ())
    try:
        replace_file(files, layout.identity, identity.encode())
    except OSError as error:
        raise refusal(error, "can't write journal.json", layout.identity) from error
    return identity


def _start(
    files: Files, layout: Layout, pool: SegmentPool, index: Index, newest: Found
) -> Chain | None:
    """Where the walk of the newest segment may begin, its sidecar being in the index."""
    part = usable_sidecar(files, layout, newest, pool)
    if part is None or newest.sidecar is None:
        return None
    index.append(newest.base, part)
    return covered_chain(newest.sidecar)


def nothing_left(layout: Layout, best: Witness) -> JournalCorrupt:
    """What a journal without segments is, of which `best` knows events."""
    return JournalCorrupt(
        f"all segments are gone: {best.durable} durable events are missing",
        file=layout.segments,
        sequence=0,
        reason="no-segment",
        first=0,
        last=best.durable - 1,
        witness=best.name,
        advice="restore the journal from a snapshot",
    )


def _lost(layout: Layout, newest: Found, tail: Tail) -> JournalCorrupt:
    return JournalCorrupt(
        f"acknowledged, durable events are damaged or missing: {tail.problem.reason}",
        file=newest.path,
        offset=tail.end.offset,
        sequence=tail.end.sequence,
        reason=tail.problem.reason,
        first=tail.end.sequence,
        last=tail.durable.durable - 1,
        witness=tail.durable.name,
        advice=f'run: batpak repair {layout.root}; reading with mode="r" serves what precedes',
    )


def _no_time_left(newest: Found, tail: Tail, last_hlc: int) -> JournalCorrupt:
    # It has to go up with each event, so one forged event could use it up for ever.
    return JournalCorrupt(
        f"the last event's hybrid clock {last_hlc} is after the year 9999: no writer made it",
        file=newest.path,
        offset=tail.end.offset,
        sequence=tail.end.sequence - 1,
        reason="hlc",
        advice='restore the journal from a snapshot; reading with mode="r" works',
    )


def _own_file(files: Files, layout: Layout, newest: Found, tail: Tail, pool: SegmentPool) -> int:
    """The newest segment opened for writing, as a file that no other name shares."""
    try:
        fd = files.open(newest.path, os.O_RDWR)
        is_ours = False
        try:
            is_ours = files.fstat(fd).st_nlink == 1
            if is_ours:
                return fd
            # A snapshot made of hard links must not change under our feet: write a copy.
            temporary = newest.path + TEMPORARY_SUFFIX
            flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR
            with closing(files, files.open(temporary, flags)) as copy:
                _copy(files, fd, copy, max(tail.garbage_end, tail.end.offset))
                files.sync_file(copy)
        finally:
            if not is_ours:
                let_go(files, fd)
        files.rename(temporary, newest.path)
        files.sync_directory(layout.segments)
        pool.forget(newest.base)
        return files.open(newest.path, os.O_RDWR)
    except OSError as error:
        raise refusal(error, "can't open the newest segment for writing", newest.path) from error


def _copy(files: Files, source: int, target: int, length: int) -> None:
    position = 0
    while position < length:
        data = files.pread(source, min(1 << 20, length - position), position)
        if not data:
            return
        write_all(files, target, data, position)
        position += len(data)


def _cut_tail(files: Files, layout: Layout, newest: Found, tail: Tail, fd: int) -> Cut | None:
    """Set aside what was never known to be durable, then cut it; the order matters."""
    end = tail.end.offset
    length = tail.garbage_end - end
    path: str | None = None
    try:
        if length:
            data = b"".join(
                files.pread(fd, min(1 << 24, tail.garbage_end - at), at)
                for at in range(end, tail.garbage_end, 1 << 24)
            )
            path = quarantine(
                files,
                layout,
                base=newest.base,
                offset=end,
                data=data,
                expected_sequence=tail.end.sequence,
                durable=tail.durable.durable,
                reason=tail.problem.reason,
            )
        # Crash before this: the same bytes are found again and kept under the same name.
        if files.fstat(fd).st_size != end:
            files.truncate(fd, end)
            files.sync_file(fd)
    except OSError as error:
        raise refusal(
            error, "can't set the torn tail aside; nothing was changed", newest.path
        ) from error  # one sentence
    if not length:
        return None
    logger.warning(
        "cut %d bytes from %r at %d: %s", length, newest.path, end, tail.problem.reason,
        extra={
            "code": "tail-cut", "file": newest.path, "offset": end, "bytes": length,
            "reason": tail.problem.reason, "quarantine": path,
        },
    )  # fmt: skip
    return Cut(length, tail.end.sequence, newest.path, end, tail.problem.reason, path)


def _readopt(files: Files, newest: Found, tail: Tail, fd: int) -> None:
    """Write what is not proven to be on the disk over itself, and sync it.

    After a failed fsync the page cache can show bytes that the disk does not hold.
    """
    start, end = max(tail.readopt_from, HEADER_SIZE), tail.end.offset
    if start >= end:
        return
    try:
        for at in range(start, end, 1 << 20):
            write_all(files, fd, files.pread(fd, min(1 << 20, end - at), at), at)
        files.sync_file(fd)
    except OSError as error:
        raise refusal(error, "can't make the log's end durable again", newest.path) from error


def _open_hint(
    files: Files, layout: Layout, identity: Identity, newest: Found, tail: Tail, epoch: int
) -> int:
    """tail.hint, saying what is durable now, synced."""
    hint = Hint(identity.journal_id.bytes, epoch, newest.base, tail.end.offset, tail.end.sequence)
    try:
        try:
            if files.stat(layout.hint).st_nlink > 1:
                replace_file(files, layout.hint, hint.encode())
        except FileNotFoundError:
            replace_file(files, layout.hint, hint.encode())
        fd = files.open(layout.hint, os.O_RDWR)
        try:
            write_all(files, fd, hint.encode(), 0)
            files.sync_file(fd)
        except BaseException:
            let_go(files, fd)
            raise
        return fd
    except OSError as error:
        raise refusal(error, "can't write tail.hint", layout.hint) from error
