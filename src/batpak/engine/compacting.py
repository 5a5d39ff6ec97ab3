"""Take erased payloads out of the segments: copy, prove the copy, put it in the old one's place.

    1  every erasure is durable before a byte goes, in every mode: else a power cut could
       keep the rewrite and lose the event that gives its reason
    2  the newest segment is rotated away when it holds an erased payload
    3  copy to a temporary name, fsync; read the copy, compare every event hash with the index
    4  rename over the segment, fsync the directory
    5  a new sidecar, then an event that says what was done

A crash up to the rename leaves the old file, after it the new one; both hold every event,
and a temporary file is deleted by the next writer's open. Rows stay, so no hash, receipt or
proof changes. Readers keep the file that they have open and pair up anew by its salt.
Source: docs/format.md, "Rewriting".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from batpak.engine.reading import LogReader
from batpak.engine.sealing import map_sidecar, save_sidecar, tell_not_used
from batpak.engine.system import RESERVED_ENTITY_PREFIX
from batpak.errors import JournalCorrupt, Unavailable
from batpak.event import Row
from batpak.files import TEMPORARY_SUFFIX, Files, refusal
from batpak.index.growing import GrowingPart
from batpak.index.parts import Slot
from batpak.index.runs import Runs
from batpak.journal.applying import apply_record
from batpak.journal.commits import Head
from batpak.journal.header import SegmentHeader
from batpak.journal.layout import Layout, root_of
from batpak.journal.reading import SegmentReader
from batpak.journal.record import Record, check_body, salt_crc
from batpak.journal.recovery import first_chain, walk
from batpak.journal.rewriting import rewrite_segment
from batpak.journal.sidecar import SidecarHeader
from batpak.journal.telling import told
from batpak.journal.writer import Writer
from batpak.receipt import AppendReceipt

__all__ = [
    "CompactionPlan",
    "CompactionReport",
    "RemainingCopy",
    "Rewrite",
    "plan_compaction",
    "remaining_copies",
    "rewrite",
]

logger = logging.getLogger("batpak.journal")

_RESERVED: Final = RESERVED_ENTITY_PREFIX.encode()
_ENVELOPE_LEN_AT: Final = 100
_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class RemainingCopy:
    """A place outside of the log where an erased payload may still stand."""

    kind: Literal["hard-link", "quarantine"]
    """hard-link: the replaced file has other names, as in a snapshot. quarantine: bytes that
    recovery set aside."""
    file: str
    """The segment, whose old file lives on under names that nobody here knows; or the file."""
    links: int
    """Other names of the file; 0 in quarantine."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One segment that was, or would be, rewritten."""

    base: int
    generation: int
    """Of the file that is, or would be, replaced, plus one."""
    payloads: int
    bytes: int
    """Length of the envelopes left out."""
    shorter: int = 0
    """By how much the file became shorter; less than 0 where its tables take more."""


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What a compaction would do now."""

    segments: tuple[Rewrite, ...]
    copies: tuple[RemainingCopy, ...]

    @property
    def payloads(self) -> int:
        """How many erased payloads the segments still hold."""
        return sum(each.payloads for each in self.segments)

    @property
    def bytes(self) -> int:
        """Their length."""
        return sum(each.bytes for each in self.segments)


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did."""

    outcome: Literal["performed", "skipped", "failed"]
    """failed: what is in `segments` was done, and the rest was left as it was."""
    reason: str | None
    """Why it was skipped or failed."""
    segments: tuple[Rewrite, ...]
    copies: tuple[RemainingCopy, ...]
    """Where payloads that were left out may still stand."""
    receipt: AppendReceipt | None
    """Of the last event that says so."""
    seconds: float

    @property
    def payloads(self) -> int:
        """How many payloads were left out."""
        return sum(each.payloads for each in self.segments)

    @property
    def bytes_reclaimed(self) -> int:
        """How much shorter the log's files are; readers that have old files open keep those.

        Less than 0 where few small payloads went out of large batches: a record that lacks
        one has a table of 4 bytes an event.
        """
        return sum(each.shorter for each in self.segments)


# --- what is to be done -------------------------------------------------------------


def plan_compaction(files: Files, layout: Layout, reader: LogReader, bound: int) -> CompactionPlan:
    """The segments that still hold erased payloads of events below `bound`.

    Raises JournalCorrupt, StorageFailed.
    """
    erased = reader.erased
    if erased is None:
        return CompactionPlan((), ())
    rewrites: list[Rewrite] = []
    for base in sorted({slot.segment_base for slot in reader.index.slots}):
        number = size = 0
        for slot in reader.index.slots_of(base):
            for first, end in erased.between(slot.first, min(slot.part.end, bound)):
                for sequence in range(first, end):
                    length = _held(reader, sequence)
                    number += length > 0
                    size += length
        if number:
            rewrites.append(Rewrite(base, _generation(reader, base) + 1, number, size))
    copies = remaining_copies(files, layout, [each.base for each in rewrites])
    return CompactionPlan(tuple(rewrites), copies)


def _held(reader: LogReader, sequence: int) -> int:
    """Bytes that the segment holds of an erased event's envelope; 0 for the journal's own."""
    slot, segment = reader.pair(sequence)
    _, row_at, metadata_at, envelope_at = slot.part.locate(sequence - slot.first)
    if not envelope_at or segment.read(metadata_at, len(_RESERVED)) == _RESERVED:
        return 0
    return int.from_bytes(segment.read(row_at + _ENVELOPE_LEN_AT, 4), "little")


def _generation(reader: LogReader, base: int) -> int:
    _, segment = reader.pair(base)
    return SegmentHeader.decode(segment.read(0, 128), segment.path).generation


def remaining_copies(
    files: Files, layout: Layout, bases: Sequence[int]
) -> tuple[RemainingCopy, ...]:
    """Other names of these segments' files, and what recovery set aside. Raises Unavailable."""
    try:
        return tuple(_copies(files, layout, bases))
    except OSError as error:
        raise refusal(error, "can't look for copies", layout.root) from error


def _copies(files: Files, layout: Layout, bases: Sequence[int]) -> Iterator[RemainingCopy]:
    for base in bases:
        path = layout.segment(base)
        status = files.stat(path)
        if status.st_nlink > 1:
            yield RemainingCopy("hard-link", path, status.st_nlink - 1, status.st_size)
    try:
        names = files.listdir(layout.quarantine)
    except FileNotFoundError:
        return
    for name in sorted(names):
        if name.endswith(".bin"):
            path = os.path.join(layout.quarantine, name)
            yield RemainingCopy("quarantine", path, 0, files.stat(path).st_size)


# --- one segment --------------------------------------------------------------------


class _Proof:
    """The part of a copy, made by reading it back, and what its sidecar has to say."""

    def __init__(self, header: SegmentHeader) -> None:
        self.part = GrowingPart(header.base_sequence, header.salt)
        self.records = self.last_record = self.hlc = self.epoch = self.head_crc = 0
        self._heads: dict[bytes, Head] = {}
        self._state = salt_crc(header.salt)

    def take(self, record: Record, segment: SegmentReader) -> None:
        """Raises JournalCorrupt where the copy's payload section does not read as written."""
        body = segment.read(record.body_offset, record.header.body_len)
        wrong = check_body(record, body, self._state)
        if wrong is not None:
            raise _unlike(segment.path, wrong.offset, record.header.base_sequence, wrong.reason)
        if record.rows:
            apply_record(record, segment.read, self.part, self._heads)
            self._heads.clear()
            self.hlc = record.rows[-1].hlc
        self.records += 1
        self.last_record, self.head_crc = record.offset, record.header.head_crc
        self.epoch = record.header.epoch


def rewrite(
    files: Files,
    layout: Layout,
    reader: LogReader,
    writer: Writer,
    planned: Rewrite,
    erased: Runs,
    tell: Callable[[int], None] | None = None,
) -> Rewrite:
    """Rewrite one sealed segment without the payloads in `erased`, all of which are durable.

    `tell` is told bytes of the segment, each of them twice: copied, and read back. What it
    raises leaves the segment as it was.

    Raises JournalCorrupt when the segment or its copy is not what it has to be, then
    nothing was changed; NoSpace, StorageFailed, JournalPoisoned, then either file stands.
    """
    base = planned.base
    path = layout.segment(base)
    temporary = path + TEMPORARY_SUFFIX
    slots = reader.index.slots_of(base)
    end = slots[-1].part.end
    try:
        source = SegmentReader(files, path, may_map=False)
    except OSError as error:
        raise refusal(error, "can't open a segment", path) from error
    try:
        before = source.size()
        header = rewrite_segment(
            files, source, temporary, end, lambda row, metadata: _goes(row, metadata, erased), tell
        )
        proof, size = _prove(
            files, temporary, header, slots, end,
            # The copy may be longer than what it is a copy of.
            None if tell is None else lambda done: tell(before + min(done, before)),
        )  # fmt: skip
        # Crash before this: a temporary file, which the next open deletes.
        writer.check_lock_file()
        with reader.renewing:
            files.rename(temporary, path)
            # Crash before this: the old or the new name, both complete.
            reader.index.replace(base, proof.part)
            reader.pool.forget(base)
        files.sync_directory(layout.segments)
    except OSError as error:
        raise refusal(error, "can't rewrite a segment", path) from error
    finally:
        source.close()
        _remove(files, temporary)
    _write_sidecar(files, layout, reader, header, proof, size, end)
    told(
        lambda: logger.info(
            "rewrote %r without %d payloads", path, planned.payloads,
            extra={
                "code": "segment-rewritten", "file": path, "generation": header.generation,
                "payloads": planned.payloads, "bytes": before - size,
            },
        )
    )  # fmt: skip
    return Rewrite(base, header.generation, planned.payloads, planned.bytes, before - size)


def _goes(row: Row, metadata: bytes, erased: Runs) -> bool:
    return row.sequence in erased and not metadata.startswith(_RESERVED)


def _remove(files: Files, temporary: str) -> None:
    """Take an unfinished copy away; what can't be removed now goes at the next open."""
    try:
        files.unlink(temporary)
    except FileNotFoundError:
        pass
    except OSError as error:
        reason = str(error)
        told(
            lambda: logger.warning(
                "an unfinished copy stays: %s", reason,
                extra={"code": "copy-not-removed", "file": temporary, "error": reason},
            )
        )  # fmt: skip


def _prove(
    files: Files,
    temporary: str,
    header: SegmentHeader,
    slots: Sequence[Slot],
    end: int,
    tell: Callable[[int], None] | None,
) -> tuple[_Proof, int]:
    """Read a copy back: the events that the index knows, each with its hash, and no more."""
    proof = _Proof(header)
    segment = SegmentReader(files, temporary, may_map=False)

    def take(record: Record) -> None:
        proof.take(record, segment)
        if tell is not None:
            tell(record.end)

    try:
        size = segment.size()
        chain, problem = walk(segment.read, size, first_chain(header), salt_crc(header.salt), take)
        if chain.sequence != end or chain.offset != size:
            raise _unlike(temporary, problem.offset, chain.sequence, problem.reason)
    finally:
        segment.close()
    for slot in slots:
        for low in range(slot.first, slot.part.end, _ROWS):
            high = min(low + _ROWS, slot.part.end)
            here = proof.part.located(low - header.base_sequence, high - header.base_sequence)
            if here[0] != slot.part.located(low - slot.first, high - slot.first)[0]:
                raise _unlike(temporary, 0, low, "event-hash")
    return proof, size


def _unlike(path: str, offset: int, sequence: int, reason: str) -> JournalCorrupt:
    return JournalCorrupt(
        "the copy of a segment does not hold what the index knows; the segment stays as it is",
        file=path,
        offset=offset,
        sequence=sequence,
        reason=reason,
        first=sequence,
        advice=f"run: batpak verify {root_of(path)}",
    )


def _write_sidecar(
    files: Files,
    layout: Layout,
    reader: LogReader,
    header: SegmentHeader,
    proof: _Proof,
    size: int,
    end: int,
) -> None:
    """The rewritten segment's sidecar; without one, its part in memory serves as well."""
    base = header.base_sequence
    sidecar = SidecarHeader(
        header.journal_id, base, end - base, size, end, header.salt, header.generation,
        proof.head_crc, proof.last_record, proof.hlc, proof.epoch, proof.records,
    )  # fmt: skip
    saved = save_sidecar(files, layout, sidecar, proof.part.columns(end - base))
    if saved is None:
        return
    try:
        map_sidecar(files, layout, reader.pool, reader.index, header, saved)
    except Unavailable as error:
        tell_not_used(str(error))
