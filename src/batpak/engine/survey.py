"""Look at a journal directory: identity, segments, sidecars, witnesses; change nothing.

What a writer's open, a follower and repair have in common.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from batpak.engine.bulk_walk import BulkWalk
from batpak.errors import JournalCorrupt, Unavailable
from batpak.event import NO_HASH
from batpak.files import Files, closing, read_small, refusal
from batpak.index.growing import GrowingPart
from batpak.index.mapped import MappedPart
from batpak.index.parts import Index
from batpak.journal.applying import apply_record
from batpak.journal.commits import Head
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import HINT_SIZE, Hint
from batpak.journal.identity import Identity
from batpak.journal.layout import (
    Layout,
    checkpoint_name,
    parse_checkpoint_name,
    parse_segment_name,
)
from batpak.journal.reading import SegmentPool
from batpak.journal.record import (
    RECORD_HEADER_SIZE,
    Chain,
    Record,
    decode_header,
    salt_crc,
)
from batpak.journal.recovery import Taken, Witness, first_chain, last_nonzero, walk
from batpak.journal.sidecar import (
    SIDECAR_PREFIX_SIZE,
    SidecarHeader,
    decode_sidecar_header,
    sidecar_bytes,
)

_READ_WHOLE = 1 << 20
"""Sidecars up to this length are read into memory, larger ones mapped."""

MAX_NOTE_BYTES: Final = 64 << 10
"""A checkpoint with its cosignatures; more is refused."""

__all__ = [
    "MAX_NOTE_BYTES",
    "Found",
    "Loaded",
    "Survey",
    "check_splice",
    "checkpoint_sizes",
    "covered_chain",
    "load_sealed",
    "newest_checkpoint",
    "read_found",
    "read_hint",
    "read_identity",
    "read_sealed",
    "renew_part",
    "segment_bases",
    "survey",
    "usable_sidecar",
]


@dataclass(frozen=True, slots=True)
class Found:
    """One segment file and what its header and its sidecar say."""

    base: int
    path: str
    header: SegmentHeader
    sidecar: SidecarHeader | None


@dataclass(frozen=True, slots=True)
class Survey:
    """A journal directory as it stands."""

    identity: Identity
    segments: tuple[Found, ...]
    hint: Hint | None
    witnesses: tuple[Witness, ...]
    damage: JournalCorrupt | None = None
    """Why `segments` ends where it does, when more were asked for than can be read."""
    end: int | None = None
    """Where the last of `segments` has to end; None for the newest, which may grow."""


def read_identity(files: Files, layout: Layout) -> Identity | None:
    """journal.json; None when there is none. Raises Damaged, FutureFormat, Unavailable."""
    try:
        data = read_small(files, layout.identity)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(error, "can't read journal.json", layout.identity) from error
    return Identity.decode(data, layout.identity)


def segment_bases(files: Files, layout: Layout) -> list[int]:
    """Base sequences of the segment files, ascending; empty without a folder."""
    try:
        names = files.listdir(layout.segments)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refusal(error, "can't list the segments", layout.segments) from error
    return sorted(base for base in map(parse_segment_name, names) if base is not None)


def read_hint(files: Files, layout: Layout, journal_id: UUID) -> Hint | None:
    """tail.hint, when it is there, valid and of this journal."""
    try:
        with closing(files, files.open(layout.hint, os.O_RDONLY)) as fd:
            hint = Hint.decode(files.pread(fd, HINT_SIZE, 0))
    except OSError:
        # A witness only: one that can't be read is one that is not there.
        return None
    return hint if hint is not None and hint.journal_id == journal_id.bytes else None


def newest_checkpoint(files: Files, layout: Layout, origin: str) -> int | None:
    """Size of the greatest stored checkpoint of this origin; None without one.

    A checkpoint is made after the sync of what it covers. Its signature is not looked at
    here, where no key need be: whoever can write a checkpoint can write a hint as well.
    """
    for size in reversed(checkpoint_sizes(files, layout)):
        try:
            note = read_small(files, layout.checkpoint(size), MAX_NOTE_BYTES)
        except OSError:
            # A witness only: one that can't be read is one that is not there.
            continue
        if note.startswith(f"{origin}\n{size}\n".encode()):
            return size
    return None


def checkpoint_sizes(files: Files, layout: Layout) -> list[int]:
    """Sizes of the stored checkpoints, by name, ascending; empty where none can be listed."""
    try:
        names = files.listdir(layout.checkpoints)
    except OSError:
        return []
    return sorted(size for size in map(parse_checkpoint_name, names) if size is not None)


def read_sidecar_header(files: Files, layout: Layout, base: int) -> SidecarHeader | None:
    """The header of a segment's sidecar, its own checksum right; None otherwise."""
    try:
        with closing(files, files.open(layout.sidecar(base), os.O_RDONLY)) as fd:
            return decode_sidecar_header(files.pread(fd, SIDECAR_PREFIX_SIZE, 0))
    except OSError:
        return None


def survey(
    files: Files, layout: Layout, identity: Identity, *, serve_prefix: bool = False
) -> Survey:
    """Read every header. Raises JournalCorrupt, FutureFormat, UnsupportedFeature, Unavailable.

    `serve_prefix`: for JournalCorrupt, give the segments before it and say so instead.
    """
    found: list[Found] = []
    damage: JournalCorrupt | None = None
    end: int | None = None
    witnesses: list[Witness] = []
    hint = read_hint(files, layout, identity.journal_id)
    if hint is not None:
        witnesses.append(Witness(hint.durable, "tail.hint"))
    checkpoint = newest_checkpoint(files, layout, identity.origin)
    if checkpoint is not None:
        witnesses.append(Witness(checkpoint, f"checkpoints/{checkpoint_name(checkpoint)}"))
    bases = segment_bases(files, layout)
    for base in bases:
        try:
            segment = read_found(files, layout, identity, base, is_newest=base == bases[-1])
        except JournalCorrupt as error:
            if not serve_prefix:
                raise
            if damage is None:
                damage, end = error, base
            continue
        if segment.sidecar is not None:
            name = os.path.basename(layout.sidecar(base))
            witnesses.append(Witness(segment.sidecar.durable, name))
        if damage is None:
            found.append(segment)
    witnesses += _orphans(files, layout, identity)
    if bases and bases[0] != 0:
        path = layout.segment(bases[0])
        damage = _corrupt(path, 32, "first-segment", "the journal's first segment is missing", 0)
        if not serve_prefix:
            raise damage
        found.clear()
    return Survey(identity, tuple(found), hint, tuple(witnesses), damage, end)


def _belongs(sidecar: SidecarHeader, header: SegmentHeader) -> bool:
    return (sidecar.journal_id, sidecar.base_sequence, sidecar.salt, sidecar.generation) == (
        header.journal_id, header.base_sequence, header.salt, header.generation,
    )  # fmt: skip


def _orphans(files: Files, layout: Layout, identity: Identity) -> list[Witness]:
    """Sidecars of ours whose segment is gone: segments never go by themselves."""
    found: list[Witness] = []
    try:
        names = files.listdir(layout.segments)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refusal(error, "can't list the segments", layout.segments) from error
    for name in sorted(names):
        segment = name.removesuffix(".idx") + ".seg"
        base = parse_segment_name(segment)
        if not name.endswith(".idx") or base is None or segment in names:
            continue
        sidecar = read_sidecar_header(files, layout, base)
        if sidecar is None or sidecar.base_sequence != base:
            continue
        if sidecar.journal_id == identity.journal_id.bytes:
            found.append(Witness(sidecar.durable, name))
    return found


def usable_sidecar(
    files: Files, layout: Layout, found: Found, pool: SegmentPool
) -> MappedPart | None:
    """The segment's sidecar as an index part; None unless it agrees with the segment."""
    sidecar = found.sidecar
    if sidecar is None or sidecar.durable < sidecar.next_sequence or not sidecar.count:
        return None
    chain = Chain(sidecar.last_record_offset, 0, 0, 0)
    try:
        reader = pool.get(found.base, found.header.salt)
        if not HEADER_SIZE <= chain.offset < sidecar.covered <= reader.size():
            return None
        data = reader.read(chain.offset, RECORD_HEADER_SIZE)
        if data[4:8] != sidecar.last_head_crc.to_bytes(4, "little"):
            return None
        # The next record goes by what the last one covered says, so the two have to agree. A
        # damaged header is for `verify` to name: it costs no open.
        last = decode_header(data, chain.offset, salt_crc(sidecar.salt))
        if last is not None and (
            last.epoch,
            last.base_sequence + last.events,
            chain.offset + RECORD_HEADER_SIZE + last.head_len + last.body_len,
        ) != (sidecar.max_epoch, sidecar.next_sequence, sidecar.covered):
            return None
        fd = files.open(layout.sidecar(found.base), os.O_RDONLY)
        with closing(files, fd):
            size = files.fstat(fd).st_size
            if size < sidecar_bytes(sidecar):
                return None
            # A map keeps a descriptor of its own: many small sidecars must not use them up.
            small = size <= _READ_WHOLE
            data_of = files.pread(fd, size, 0) if small else files.map(fd, size)
            if len(data_of) < size:
                return None
    except (OSError, ValueError, Unavailable):
        return None

    def read(offset: int, length: int) -> bytes:
        # Through the pool each time: a part must not keep its segment open.
        return pool.get(found.base, found.header.salt).read(offset, length)

    return MappedPart.of(sidecar, data_of, read)


def covered_chain(sidecar: SidecarHeader) -> Chain:
    """The state after the last record that a sidecar covers."""
    return Chain(sidecar.covered, sidecar.next_sequence, sidecar.last_head_crc, sidecar.max_epoch)


@dataclass(slots=True)
class Loaded:
    """What was learned about a sealed segment while it was read."""

    next_sequence: int
    last_hash: bytes
    max_epoch: int
    mapped: bool
    records: int
    """Those that were walked."""
    end: Chain
    last_record: int = 0
    """Where the last of them begins."""
    damage: JournalCorrupt | None = None
    """Why it ends before it should; what was read precedes that."""


def load_sealed(
    files: Files, layout: Layout, pool: SegmentPool, index: Index, found: Found, next_base: int
) -> Loaded:
    """Put a segment that has a successor into the index, from its sidecar or by walking.

    Raises JournalCorrupt: in such a segment an invalid position is damage, and what precedes
    it is in the index. Raises SegmentReplaced when it was rewritten since it was found.
    """
    part, state = read_sealed(files, layout, pool, found, next_base)
    index.append(found.base, part)
    if state.damage is not None:
        raise state.damage
    return state


def read_sealed(
    files: Files, layout: Layout, pool: SegmentPool, found: Found, next_base: int
) -> tuple[MappedPart | GrowingPart, Loaded]:
    """The part of a segment that ends before `next_base`, or before its damage.

    Raises SegmentReplaced when it was rewritten since it was found.
    """
    reader = pool.get(found.base, found.header.salt)
    part = usable_sidecar(files, layout, found, pool)
    sidecar = found.sidecar
    if part is not None and sidecar is not None and sidecar.next_sequence == next_base:
        last_hash = part.locate(sidecar.count - 1)[0]
        return part, Loaded(
            next_base, last_hash, sidecar.max_epoch, True, 0, covered_chain(sidecar)
        )
    growing = GrowingPart(found.base, found.header.salt)
    state = Loaded(found.base, NO_HASH, found.header.epoch, False, 0, first_chain(found.header))
    heads: dict[bytes, Head] = {}

    def apply(record: Record) -> None:
        if record.rows:
            state.last_hash = apply_record(record, reader.read, growing, heads)
        state.records += 1
        state.last_record = record.offset

    size = reader.size()
    bulk = BulkWalk(reader.read, size, found.header, growing, heads)

    def take(chain: Chain, durable: int) -> Taken | None:
        taken = bulk.take(chain, durable)
        if taken is not None:
            state.last_hash, state.last_record = taken.last_hash, taken.last_record
            state.records += len(taken.ends)
        return taken

    salt_state = salt_crc(found.header.salt)
    end, problem = walk(reader.read, size, state.end, salt_state, apply, take)
    state.end, state.next_sequence, state.max_epoch = end, end.sequence, end.epoch
    zeros = last_nonzero(reader.read, size, end.offset) == end.offset
    if end.sequence != next_base or not zeros:
        state.damage = JournalCorrupt(
            f"acknowledged events are damaged or missing: {problem.reason}",
            file=found.path,
            offset=problem.offset,
            sequence=end.sequence,
            reason=problem.reason,
            first=end.sequence,
            last=next_base - 1,
            witness=f"segment {next_base}",
            advice=f"run: batpak repair {layout.root}",
        )
    return growing, state


def renew_part(
    files: Files, layout: Layout, identity: Identity, pool: SegmentPool, index: Index, base: int
) -> None:
    """Make the part of a segment anew whose file was rewritten, and put it into the index.

    The same events stand there, in other places. Raises JournalCorrupt when they do not,
    Damaged, StorageFailed.
    """
    slots = index.slots_of(base)
    found = read_found(files, layout, identity, base)
    if all(slot.part.salt == found.header.salt for slot in slots):
        return
    end = slots[-1].part.end
    part, state = read_sealed(files, layout, pool, found, end)
    if state.damage is not None:
        raise state.damage
    for slot in slots:
        low, high = slot.first - base, slot.part.end - base
        if part.located(low, high)[0] != slot.part.located(0, high - low)[0]:
            raise _corrupt(
                found.path, 64, "rewrite", "the segment was rewritten to other events", base
            )
    index.replace(base, part)
    pool.forget(base)


def read_found(
    files: Files, layout: Layout, identity: Identity, base: int, *, is_newest: bool = False
) -> Found:
    """One segment and its sidecar as they stand. Raises JournalCorrupt, Unavailable, …"""
    path = layout.segment(base)
    try:
        with closing(files, files.open(path, os.O_RDONLY)) as fd:
            data = files.pread(fd, HEADER_SIZE, 0)
    except OSError as error:
        raise refusal(error, "can't read a segment", path) from error
    try:
        header = SegmentHeader.decode(data, path)
    except JournalCorrupt as error:
        if is_newest and not data.strip(b"\0"):
            error.facts["reason"] = error.reason = "empty-segment"
        raise
    if header.base_sequence != base:
        raise _corrupt(path, 16, "base", "the segment's name and header disagree", base)
    if not identity.accepts(header.journal_id, base):
        raise _corrupt(path, 16, "journal-id", "the segment belongs to another journal", base)
    sidecar = read_sidecar_header(files, layout, base)
    if sidecar is not None and not _belongs(sidecar, header):
        sidecar = None
    return Found(base, path, header, sidecar)


def check_splice(found: Found, last_hash: bytes) -> None:
    """Raises JournalCorrupt when a segment continues another history."""
    if found.header.prev_event_hash != last_hash:
        raise _corrupt(
            found.path, 80, "splice", "the segment continues another history", found.base
        )


def _corrupt(path: str, offset: int, reason: str, what: str, sequence: int) -> JournalCorrupt:
    return JournalCorrupt(
        what,
        file=path,
        offset=offset,
        sequence=sequence,
        reason=reason,
        first=sequence,
        advice=f"run: batpak repair {os.path.dirname(os.path.dirname(path))}",
    )
