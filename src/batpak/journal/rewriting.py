"""Copy a segment without some of its envelopes: the other code that writes `.seg` files.

Rows and metadata stay byte for byte, so every hash stays; salt, generation and checksums
are new, and a record that lacks an envelope is SPARSE. Writes to a temporary name only:
whether the copy takes the segment's place is for the caller to judge, who has to read it
first. Format: docs/format.md, "Segment" and "Record".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from batpak.errors import JournalCorrupt
from batpak.event import Row
from batpak.files import Files, closing, write_all
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.layout import root_of
from batpak.journal.reading import SegmentReader
from batpak.journal.record import (
    ERASED,
    SPARSE,
    Chain,
    Invalid,
    Record,
    build_pad,
    check_body,
    pad8,
    read_record,
    salt_crc,
    seal_commit,
)
from batpak.journal.recovery import first_chain, last_nonzero

__all__ = ["Gone", "rewrite_segment"]

Gone = Callable[[Row, bytes], bool]
"""Whether the envelope of the event with this row and metadata is to be left out."""

_STEP: Final = 1 << 20


def rewrite_segment(
    files: Files,
    source: SegmentReader,
    target: str,
    next_base: int,
    gone: Gone,
    tell: Callable[[int], None] | None = None,
) -> SegmentHeader:
    """Write the segment that ends before `next_base` to `target` anew; returns its header.

    `tell` is told after each record how many bytes of the source are done.

    The copy is synced when this returns; its name is not. Raises OSError, StorageFailed,
    and JournalCorrupt where the source is not whole; a payload that is not what was
    written is copied as it is, and stays the finding that it was.
    """
    old = SegmentHeader.decode(source.read(0, HEADER_SIZE), source.path)
    fresh = replace(old, generation=old.generation + 1, salt=os.urandom(16))
    # Decoded again for its checksum, which the first record continues.
    header = SegmentHeader.decode(fresh.encode(), target)
    old_state, state = salt_crc(old.salt), salt_crc(header.salt)
    before, offset, prev_crc = first_chain(old), HEADER_SIZE, header.crc
    size = source.size()
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
    with closing(files, files.open(target, flags)) as fd:
        at, waiting = 0, [header.encode()]
        while True:
            record = read_record(source.read, size, before, old_state)
            if isinstance(record, Invalid):
                break
            data, prev_crc = _rewritten(source, record, old_state, state, offset, prev_crc, gone)
            waiting.append(data)
            before, offset = record.chain, offset + len(data)
            if offset - at >= _STEP:
                at = _flush(files, fd, waiting, at)
            if tell is not None:
                tell(before.offset)
        if before.sequence != next_base or last_nonzero(source.read, size, before.offset) != (
            before.offset
        ):
            raise _not_whole(source, record, before.sequence)
        _flush(files, fd, waiting, at)
        files.sync_file(fd)
    return header


def _flush(files: Files, fd: int, waiting: list[bytes], at: int) -> int:
    data = b"".join(waiting)
    waiting.clear()
    write_all(files, fd, data, at)
    return at + len(data)


def _not_whole(source: SegmentReader, problem: Invalid, sequence: int) -> JournalCorrupt:
    return JournalCorrupt(
        f"the segment is damaged and can't be rewritten: {problem.reason}",
        file=source.path,
        offset=problem.offset,
        sequence=sequence,
        reason=problem.reason,
        first=sequence,
        advice=f"run: batpak verify {root_of(source.path)}",
    )


def _rewritten(
    source: SegmentReader,
    record: Record,
    old_state: int,
    state: int,
    offset: int,
    prev_crc: int,
    gone: Gone,
) -> tuple[bytes, int]:
    """The record for `offset` of the copy, and its head_crc."""
    header = record.header
    if not record.rows:
        chain = Chain(offset, header.base_sequence, prev_crc, header.epoch)
        return build_pad(state, chain, header.durable, header.epoch, header.body_len)
    body = source.read(record.body_offset, header.body_len)
    wrong = check_body(record, body, old_state)
    # Without a table the rows say where each envelope stands, and each has its own hash.
    if wrong is not None and (header.flags & SPARSE or len(body) != header.body_len):
        raise _not_whole(source, wrong, header.base_sequence)
    envelopes: list[bytes] = []
    stored: list[int] = []
    for event in record.events(source.read):
        row = event.row
        if row.envelope_len and gone(row, event.metadata):
            stored.append(ERASED)
        elif not event.envelope_offset:
            stored.append(event.stored_len)
        else:
            start = event.envelope_offset - record.body_offset
            envelopes.append(body[start : start + row.envelope_len])
            stored.append(row.envelope_len)
    lacks = stored != [row.envelope_len for row in record.rows]
    if lacks:
        table = struct.pack(f"<{len(stored)}I", *stored)
        envelopes.insert(0, table + pad8(len(table)))
    data, head_crc, _ = seal_commit(
        state, offset, record.head, b"".join(envelopes), prev_crc, header.base_sequence,
        header.durable, header.epoch, header.events, header.flags & ~SPARSE | SPARSE * lacks,
    )  # fmt: skip
    return data, head_crc
