"""Check a journal from its segment bytes: every checksum, hash and link, in one pass.

Trusts nothing that is derived: the index is compared with the segments, not used.
Findings name file, offset, sequence and reason; nothing is raised for damage.
Source: docs/format.md, "Verifying".
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from batpak import canonical
from batpak.coordinate import Coordinate
from batpak.engine.bulk_check import KNOWN_FLAGS, Pace, Past, Run, Seal, check_run, foreign_places
from batpak.engine.checkpoints import StoredCheckpoint, checkpoints_of
from batpak.engine.erasing import is_erasure
from batpak.engine.reading import LogReader
from batpak.engine.report import Finding, VerifyReport
from batpak.engine.survey import segment_bases
from batpak.engine.system import RESERVED_ENTITY_PREFIX, erased_by
from batpak.engine.tree import RunningRoot
from batpak.engine.unsealing import check_encrypted
from batpak.errors import (
    BatpakError,
    CanonicalError,
    CoordinateError,
    JournalCorrupt,
    ProofInvalid,
    Unavailable,
)
from batpak.event import (
    CODEC_ENCRYPTED,
    CODEC_SALTED,
    CONTENT_PREFIX,
    EVENT_PREFIX,
    NO_HASH,
    NO_ID,
    SALT_SIZE,
    Event,
    EventSummary,
    is_foreign,
)
from batpak.files import Files
from batpak.index.parts import Index
from batpak.index.runs import Runs
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout
from batpak.journal.reading import SegmentReader
from batpak.journal.record import (
    MAGIC,
    RECORD_HEADER_SIZE,
    Chain,
    Invalid,
    Record,
    StoredEvent,
    check_body,
    decode_header,
    read_record,
    salt_crc,
)
from batpak.journal.recovery import first_chain, last_nonzero, walk
from batpak.kinds import SYSTEM_ERASURE
from batpak.proof.merkle import HASH_SIZE
from batpak.proof.notes import Key, Note
from batpak.receipt import MAX_EXTENSIONS_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["verify_journal"]

_ERASURE = SYSTEM_ERASURE.raw
_RESERVED = RESERVED_ENTITY_PREFIX.encode()


@dataclass(slots=True)
class _State:
    """What the checked prefix of the journal leaves behind for what follows."""

    root: str
    full: bool
    report: VerifyReport
    index: Index
    progress: Callable[[int, int], None] | None
    bound: int = 0
    total: int = 0
    done: int = 0
    sequence: int = 0
    epoch: int = 0
    past: Past = field(default_factory=Past)
    last_hash: bytes = NO_HASH
    pace: Pace = field(default_factory=Pace)
    foreign: dict[bytes, tuple[int, str]] = field(default_factory=dict[bytes, tuple[int, str]])
    """Ids that do not carry their HLC, their event and its file; the others differ by it."""
    salt: bytes = b""
    """Of the segment that is being checked."""
    erased: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Runs that the erasure events name which were met so far."""
    absent: dict[str, tuple[array[int], array[int]]] = field(
        default_factory=dict[str, "tuple[array[int], array[int]]"]
    )
    """By file: sequences of users' events without a payload, and where their rows stand."""
    encrypted: array[int] = field(default_factory=lambda: array("Q"))
    """Sequences of the events whose payload is encrypted."""
    tree: RunningRoot | None = None
    """None when no root is asked for, or the events have a gap."""
    checkpoints: list[StoredCheckpoint] = field(default_factory=list[StoredCheckpoint])
    """Those that the tree has not reached yet, the smallest last."""


def verify_journal(
    files: Files,
    layout: Layout,
    identity: Identity,
    reader: LogReader,
    bound_for: Callable[[int], int],
    level: str,
    progress: Callable[[int, int], None] | None,
    keys: Iterable[Key] = (),
) -> VerifyReport:
    """Check all events below a bound. "full" checks payload sections and content hashes too,
    and the Merkle root against every stored checkpoint, which one of `keys`, if any, signed.

    `bound_for` gives the bound once the checkpoints are read, of which the newest is over so
    many events: a writer that makes more of both meanwhile has made the events first.
    """
    began = time.perf_counter()
    report = VerifyReport(level)
    state = _State(layout.root, level == "full", report, reader.index, progress)
    newest = 0
    if state.full:
        state.tree = RunningRoot()
        state.checkpoints = _stored_checkpoints(files, layout, identity, tuple(keys), state)
        newest = max((stored.size for stored in state.checkpoints), default=0)
    state.bound = bound = bound_for(newest)
    bases = [base for base in segment_bases(files, layout) if base < bound or base == 0]
    for base in bases:
        try:
            state.total += files.stat(layout.segment(base)).st_size
        except OSError:
            continue
    for place, base in enumerate(bases):
        successor = bases[place + 1] if place + 1 < len(bases) else None
        _check_segment(files, layout, identity, base, successor, state, reader)
    _check_foreign_against_own(state, reader)
    _check_absent(files, layout, state, bases[-1] if bases else 0)
    if state.sequence < bound and not report.findings:
        _add(
            state, "missing-events", layout.segments, None, state.sequence,
            f"events {state.sequence} to {bound - 1} are missing", bound, state.sequence,
        )  # fmt: skip
    if state.tree is not None:
        report.root = state.tree.root
        _compare_beyond(layout, state)
    if state.full:
        check_encrypted(reader, bound, state.encrypted, report)
    if progress is not None:
        progress(state.total, state.total)
    report.segments = len(bases)
    report.seconds = time.perf_counter() - began
    return report


def _stored_checkpoints(
    files: Files, layout: Layout, identity: Identity, keys: tuple[Key, ...], state: _State
) -> list[StoredCheckpoint]:
    """All that are there, the smallest last; what is wrong with a note itself is reported."""

    def damaged(size: int, problem: str) -> None:
        _report_checkpoint(
            layout, state, size, "checkpoint-note", f"is no checkpoint of this journal: {problem}"
        )

    found = checkpoints_of(files, layout, identity.origin, shared=identity.shared, damaged=damaged)
    for one in found if keys else ():
        if one.origin != identity.origin and all(key.name != one.origin for key in keys):
            # An ancestor's: its events are compared, and its keys nobody gave.
            continue
        try:
            signed = Note.parse(one.note).verified(keys)
        except ProofInvalid:
            signed = {}
        if not signed:
            _report_checkpoint(
                layout, state, one.size, "checkpoint-signature", "is not signed by any key given"
            )
    return found[::-1]


def _report_checkpoint(
    layout: Layout,
    state: _State,
    size: int,
    code: str,
    problem: str,
    expected: object = None,
    found: object = None,
) -> None:
    message = (
        f"the checkpoint over {size} events {problem}; compare it with what witnesses and "
        "readers kept of it: they show which of the two was changed"
    )
    path = layout.checkpoint(size)
    state.report.findings.append(Finding(code, path, None, None, message, expected, found))


def _grow_tree(state: _State, layout: Layout, hashes: bytes) -> None:
    """Add event hashes to the tree, and look at its root wherever a checkpoint was signed."""
    tree = state.tree
    if tree is None:
        return
    waiting, at = state.checkpoints, 0
    while waiting and waiting[-1].size <= tree.size + (len(hashes) - at) // HASH_SIZE:
        stop = at + HASH_SIZE * (waiting[-1].size - tree.size)
        tree.add(hashes[at:stop])
        at = stop
        _compare_root(layout, state, waiting.pop(), tree.root)
    tree.add(hashes[at:])


def _compare_root(layout: Layout, state: _State, stored: StoredCheckpoint, root: bytes) -> None:
    if stored.root != root:
        _report_checkpoint(
            layout, state, stored.size, "checkpoint-root",
            "was signed over other events than stand in the journal now",
            stored.root.hex(), root.hex(),
        )  # fmt: skip


def _compare_beyond(layout: Layout, state: _State) -> None:
    """Report the checkpoints over more events than there are."""
    for stored in reversed(state.checkpoints):
        if stored.size > state.sequence:
            _report_checkpoint(
                layout, state, stored.size, "checkpoint-size",
                "was signed over more events than stand in the journal now",
                stored.size, state.sequence,
            )  # fmt: skip


def _add(
    state: _State,
    code: str,
    file: str,
    offset: int | None,
    sequence: int | None,
    message: str,
    expected: object = None,
    found: object = None,
) -> None:
    where = f"{message}; restore the event from a snapshot, or run: batpak repair {state.root}"
    state.report.findings.append(Finding(code, file, offset, sequence, where, expected, found))


def _check_segment(
    files: Files,
    layout: Layout,
    identity: Identity,
    base: int,
    successor: int | None,
    state: _State,
    log: LogReader,
) -> None:
    path = layout.segment(base)
    try:
        # Positional reads only: the file may be cut by its writer while we look.
        reader = SegmentReader(files, path, may_map=successor is not None)
    except OSError as error:
        _add(state, "unreadable", path, 0, base, f"the segment can't be read: {error}")
        return
    try:
        try:
            header = SegmentHeader.decode(reader.read(0, HEADER_SIZE), path)
        except BatpakError as error:
            reason = error.reason if isinstance(error, JournalCorrupt) else error.code
            _add(state, str(reason), path, 0, base, error.what)
            return
        state.salt = header.salt
        _settle_index(log, base, header.salt)
        if header.base_sequence != base or not identity.accepts(header.journal_id, base):
            _add(state, "journal-id", path, 16, base, "the segment is of another journal")
        if base != state.sequence:
            _add(
                state, "missing-events", path, 32, state.sequence,
                f"events {state.sequence} to {base - 1} are missing", state.sequence, base,
            )  # fmt: skip
            _skip_to(state, base)
        elif header.prev_event_hash != state.last_hash and not state.past.after_gap:
            _add(
                state, "splice", path, 80, base, "the segment continues another history",
                state.last_hash.hex(), header.prev_event_hash.hex(),
            )  # fmt: skip
        _check_records(layout, reader, header, successor, state)
    except Unavailable as error:
        _add(state, "unreadable", path, None, state.sequence, f"reading failed: {error}")
    finally:
        reader.close()


def _settle_index(log: LogReader, base: int, salt: bytes) -> None:
    """Have the index know the file that is checked, where that was rewritten meanwhile."""
    if any(slot.part.salt != salt for slot in log.index.slots_of(base)):
        try:
            log.renew(base)
        except (BatpakError, OSError):
            # What is wrong with the segment is found below, and named.
            return


def _skip_to(state: _State, sequence: int) -> None:
    state.sequence = sequence
    state.past.heads.clear()
    state.past.after_gap = True
    # What a root would have to be over is not there.
    state.tree = None


def _check_records(
    layout: Layout,
    reader: SegmentReader,
    header: SegmentHeader,
    successor: int | None,
    state: _State,
) -> None:
    salt_state = salt_crc(header.salt)
    size = reader.size()
    state.report.bytes += size
    chain = first_chain(header)
    if header.epoch < state.epoch:
        _add(
            state, "epoch", reader.path, 112, chain.sequence, "the segment's epoch went back",
            state.epoch, header.epoch,
        )  # fmt: skip
    read, begun = reader.read, state.done
    end = min(state.bound, successor) if successor is not None else state.bound
    seal, pace = Seal(salt_state), state.pace
    pace.closely = 0
    while True:
        if not pace.closely:
            chain = _check_ordinary_records(layout, reader, size, chain, seal, end, begun, state)
        # What was left is damaged, unusual or behind the end.
        record = read_record(read, size, chain, salt_state)
        if isinstance(record, Invalid):
            if chain.sequence >= end:
                break
            resumed = _report_gap(reader, header, salt_state, size, record, chain, end, state)
            if resumed is None:
                break
            chain = resumed
            continue
        if record.rows and record.header.base_sequence >= state.bound:
            break
        _check_record(layout, reader, record, salt_state, state)
        pace.closely = max(pace.closely - 1, 0)
        chain = record.chain
        state.sequence = chain.sequence
    state.done = begun + size
    state.epoch = max(state.epoch, chain.epoch)
    state.sequence = chain.sequence
    sealed = successor is not None and chain.sequence == successor
    if sealed and last_nonzero(read, size, chain.offset) != chain.offset:
        _add(
            state, "trailing-bytes", reader.path, chain.offset, None,
            "bytes after the last record of a sealed segment",
        )  # fmt: skip


def _check_ordinary_records(
    layout: Layout, reader: SegmentReader, size: int, chain: Chain, seal: Seal, end: int,
    begun: int, state: _State,
) -> Chain:  # fmt: skip
    """Check records in bulk for as long as nothing at all is wrong with them.

    `read_record` and `_check_record` look closely at the record that this stops before,
    and at as many more as `state.pace` says.
    """
    report, pace = state.report, state.pace
    while chain.sequence < end and size - chain.offset >= RECORD_HEADER_SIZE:
        window = reader.read(chain.offset, min(pace.window, size - chain.offset))
        run = check_run(
            window, chain, end, seal, state.past,
            full=state.full, is_name=_is_name, are_extensions=_are_extensions,
            odd_kind=_ERASURE,
        )  # fmt: skip
        pace.tried(run, 0 if run is None else run.chain.offset - chain.offset)
        if run is not None:
            _take_in(layout, reader.path, chain.sequence, run, state)
            chain = run.chain
            report.events += run.events
            report.records += run.records
            state.sequence = chain.sequence
        if state.progress is not None:
            state.progress(begun + chain.offset, state.total)
        if run is None or not run.is_whole:
            break
    return chain


def _take_in(layout: Layout, path: str, first: int, run: Run, state: _State) -> None:
    """Compare what was accepted with what other files say of it, and remember it."""
    _compare_with_index(state, path, first, run.hashes, run.places)
    state.last_hash = run.hashes[-32:]
    state.encrypted.extend([first + place for place in run.encrypted])
    for place in foreign_places(run.ids, run.hlcs):
        _check_foreign(state, path, first + place, run.ids[place].tobytes())
    _grow_tree(state, layout, run.hashes)


def _is_name(name: bytes) -> bool:
    """Whether a coordinate may have this entity or scope."""
    try:
        Coordinate.from_stored(name, name)
    except CoordinateError:
        return False
    return True


def _check_foreign(state: _State, path: str, sequence: int, event_id: bytes) -> None:
    earlier = state.foreign.setdefault(event_id, (sequence, path))[0]
    if earlier != sequence:
        _report_twice(state, path, earlier, sequence)


def _report_twice(state: _State, path: str, first: int, second: int) -> None:
    _add(
        state, "duplicate-id", path, None, second,
        f"events {first} and {second} have the same id", first, second,
    )  # fmt: skip


def _check_foreign_against_own(state: _State, reader: LogReader) -> None:
    """An id that points to another event by its HLC may be that event's id as well."""
    for event_id, (sequence, path) in state.foreign.items():
        other = reader.index.find_own(event_id, state.bound)
        if other is None or other == sequence:
            continue
        if reader.has_id(other, event_id):
            _report_twice(state, path, other, sequence)


def _compare_with_index(
    state: _State, path: str, first: int, hashes: bytes, places: NDArray[np.uint32]
) -> None:
    """Report each event from `first` on that the index knows otherwise."""
    end = first + len(places)
    for slot in state.index.slots:
        low, high = max(first, slot.first), min(end, slot.part.end)
        # After a rewrite that the index has not seen, its offsets are another file's.
        if low >= high or slot.part.salt != state.salt:
            continue
        mine = hashes[HASH_SIZE * (low - first) : HASH_SIZE * (high - first)]
        at = places[low - first : high - first]
        if slot.part.located(low - slot.first, high - slot.first) == (mine, at.tobytes()):
            continue
        for place, row_offset in enumerate(at.tolist()):
            digest = mine[HASH_SIZE * place : HASH_SIZE * (place + 1)]
            _compare_index(state.index, row_offset, digest, low + place, path, state)


def _report_gap(
    reader: SegmentReader,
    header: SegmentHeader,
    salt_state: int,
    size: int,
    problem: Invalid,
    chain: Chain,
    end: int,
    state: _State,
) -> Chain | None:
    """Name an invalid position, and find the next record behind it."""
    _add(
        state, problem.reason, reader.path, problem.offset, chain.sequence,
        f"no valid record where event {chain.sequence} must stand: {problem.reason}",
        problem.expected, problem.found,
    )  # fmt: skip
    position = problem.offset + 8
    while position + RECORD_HEADER_SIZE <= size:
        window = reader.read(position, min(1 << 20, size - position))
        at = window.find(MAGIC)
        while at >= 0:
            place = position + at
            found = None
            if place % 8 == 0:
                found = decode_header(reader.read(place, RECORD_HEADER_SIZE), place, salt_state)
            if found is not None and chain.sequence < found.base_sequence <= end:
                _skip_to(state, found.base_sequence)
                return Chain(place, found.base_sequence, found.prev_crc, 0)
            at = window.find(MAGIC, at + 1)
        position += max(len(window) - RECORD_HEADER_SIZE, 8) & ~7
    return None


def _check_record(
    layout: Layout, reader: SegmentReader, record: Record, salt_state: int, state: _State
) -> None:
    path, report = reader.path, state.report
    body, wrong = b"", None
    if state.full:
        body = reader.read(record.body_offset, record.header.body_len)
        wrong = check_body(record, body, salt_state)
    heads, index = state.past.heads, state.index
    body_at = record.body_offset
    for event in record.events(reader.read):
        row = event.row
        sequence = row.sequence
        digest = blake3(EVENT_PREFIX + event.row_bytes + event.metadata).digest()
        entity = event.entity
        head = heads.get(entity)
        if head is None and state.past.after_gap:
            head = (row.clock, row.prev_hash)
        clock, previous = head or (0, NO_HASH)
        if row.prev_hash != previous:
            _add(
                state, "chain-link", path, event.row_offset, sequence,
                f"event {sequence} does not link to its entity's previous event",
                previous.hex(), row.prev_hash.hex(),
            )  # fmt: skip
        if row.clock != clock:
            _add(
                state, "clock", path, event.row_offset, sequence,
                f"event {sequence} has the wrong place in its entity's stream", clock, row.clock,
            )  # fmt: skip
        heads[entity] = (row.clock + 1, digest)
        if row.hlc <= state.past.hlc and sequence:
            _add(
                state, "hlc", path, event.row_offset, sequence,
                f"the hybrid clock of event {sequence} does not increase", state.past.hlc, row.hlc,
            )  # fmt: skip
        state.past.hlc = row.hlc
        state.last_hash = digest
        same_epoch = record.header.epoch == state.past.timestamp_epoch
        if same_epoch and row.timestamp_us < state.past.timestamp_us:
            _add(
                state, "timestamp", path, event.row_offset, sequence,
                f"event {sequence} is earlier than the one before it, of the same writer",
                state.past.timestamp_us, row.timestamp_us,
            )  # fmt: skip
        state.past.timestamp_us, state.past.timestamp_epoch = row.timestamp_us, record.header.epoch
        _check_names(state, path, event)
        if is_foreign(row.event_id, row.hlc):
            _check_foreign(state, path, sequence, row.event_id)
        if row.codec == CODEC_ENCRYPTED:
            state.encrypted.append(sequence)
        if row.codec == CODEC_SALTED and row.envelope_len < SALT_SIZE:
            _add(
                state, "envelope-length", path, event.row_offset, sequence,
                f"the envelope of event {sequence} is shorter than its salt",
                SALT_SIZE, row.envelope_len,
            )  # fmt: skip
        if row.flags & ~KNOWN_FLAGS or row.event_id == NO_ID or row.correlation_id == NO_ID:
            _add(
                state, "row-field", path, event.row_offset, sequence,
                f"event {sequence} has a flag or an id that can't be",
            )  # fmt: skip
        if state.full and event.envelope_offset:
            start = event.envelope_offset - body_at
            envelope = body[start : start + event.stored_len]
            if blake3(CONTENT_PREFIX[row.codec] + envelope).digest() != row.content_hash:
                # More exact than the checksum of the whole section.
                wrong = None
                _add(
                    state, "content-hash", path, event.envelope_offset, sequence,
                    f"the payload of event {sequence} is not what was written",
                )  # fmt: skip
            elif row.kind == _ERASURE:
                _take_erasure(state, path, event, envelope)
        elif state.full and entity.startswith(_RESERVED):
            _add(
                state, "payload-missing", path, event.row_offset, sequence,
                f"the payload of event {sequence} is missing, and none of the journal's own may be",
            )  # fmt: skip
        elif state.full:
            sequences, places = state.absent.setdefault(path, (array("Q"), array("Q")))
            sequences.append(sequence)
            places.append(event.row_offset)
        _grow_tree(state, layout, digest)
        _compare_index(index, event.row_offset, digest, sequence, path, state)
    if wrong is not None:
        _add(
            state, wrong.reason, path, body_at, record.header.base_sequence,
            f"the payload section is damaged: {wrong.reason}", wrong.expected, wrong.found,
        )  # fmt: skip
    report.events += len(record.rows)
    report.records += 1


def _take_erasure(state: _State, path: str, event: StoredEvent, payload: bytes) -> None:
    """Remember what an erasure event names, or say that it names nothing."""
    summary = EventSummary(event.row_bytes, event.metadata)
    if not is_erasure(summary):
        return
    sequence = summary.sequence
    try:
        state.erased.extend(erased_by(payload, sequence))
    except CanonicalError as error:
        _add(
            state, "erasure", path, event.envelope_offset, sequence,
            f"the erasure event {sequence} erases nothing: {error.what}",
        )  # fmt: skip


def _check_absent(files: Files, layout: Layout, state: _State, last_base: int) -> None:
    """Report each payload that is missing though no erasure event names it."""
    if not state.absent:
        return
    erased = Runs(state.erased)
    if any(n not in erased for sequences, _ in state.absent.values() for n in sequences):
        # A compaction that is newer than the bound goes by an erasure that is, too.
        state.erased.extend(_later_erasures(files, layout, last_base, state.bound))
        erased = Runs(state.erased)
    for path, (sequences, places) in state.absent.items():
        for sequence, place in zip(sequences, places, strict=True):
            if sequence not in erased:
                _add(
                    state, "payload-missing", path, place, sequence,
                    f"the payload of event {sequence} is missing and no erasure names it",
                )  # fmt: skip


def _later_erasures(
    files: Files, layout: Layout, base: int, bound: int
) -> Iterator[tuple[int, int]]:
    """What whole erasure events at or past `bound` name, from the segment `base` on."""
    found: list[Record] = []

    def keep(record: Record) -> None:
        if record.next_sequence > bound and any(row.kind == _ERASURE for row in record.rows):
            found.append(record)

    for each in segment_bases(files, layout):
        if each < base:
            continue
        found.clear()
        try:
            reader = SegmentReader(files, layout.segment(each), may_map=False)
        except OSError:
            return
        try:
            header = SegmentHeader.decode(reader.read(0, HEADER_SIZE), reader.path)
            state = salt_crc(header.salt)
            walk(reader.read, reader.size(), first_chain(header), state, keep)
            for record in found:
                yield from _erasures_in(record, reader, bound)
        except (BatpakError, OSError):
            return
        finally:
            reader.close()


def _erasures_in(record: Record, reader: SegmentReader, bound: int) -> Iterator[tuple[int, int]]:
    for event in record.events(reader.read):
        row = event.row
        if row.kind != _ERASURE or row.sequence < bound or not event.envelope_offset:
            continue
        payload = reader.read(event.envelope_offset, event.stored_len)
        whole = Event(event.row_bytes, event.metadata, payload)
        right = blake3(CONTENT_PREFIX[row.codec] + payload).digest() == row.content_hash
        if right and is_erasure(whole):
            try:
                yield from erased_by(payload, row.sequence)
            except CanonicalError:
                continue


def _check_names(state: _State, path: str, event: StoredEvent) -> None:
    """Entity, scope and extensions as a writer may have written them."""
    row = event.row
    if not (_is_name(event.entity) and _is_name(event.scope)):
        _add(
            state, "name", path, event.metadata_offset, row.sequence,
            f"event {row.sequence} has an entity or scope that no coordinate may have",
        )  # fmt: skip
    data = event.metadata[row.entity_len + row.scope_len :]
    if data and not _are_extensions(data):
        _add(
            state, "extensions", path, event.metadata_offset, row.sequence,
            f"the extensions of event {row.sequence} are not in their canonical form",
        )  # fmt: skip


def _are_extensions(data: bytes) -> bool:
    """Whether these bytes are what a writer makes of some extensions."""
    if len(data) > MAX_EXTENSIONS_BYTES:
        return False
    try:
        found = canonical.decode(data, dict[str, bytes], strict=True)
    except CanonicalError:
        return False
    return bool(found) and list(found) == sorted(found, key=str.encode)


def _compare_index(
    index: Index, row_offset: int, digest: bytes, sequence: int, path: str, state: _State
) -> None:
    slot = index.slot_of(sequence)
    number = sequence - slot.first
    if slot.part.salt != state.salt:
        return
    if not 0 <= number < slot.part.end - slot.first:
        return
    known, offset, _, _ = slot.part.locate(number)
    if offset != row_offset or known != digest:
        _report_index(state, path, sequence, digest, known)


def _report_index(state: _State, path: str, sequence: int, digest: bytes, known: bytes) -> None:
    _add(
        state, "index", os.path.splitext(path)[0] + ".idx", None, sequence,
        f"the index disagrees with the segment about event {sequence}: "
        "delete the .idx file and open the journal again",
        digest.hex(), known.hex(),
    )  # fmt: skip
