"""Follow a journal that another process may be writing: no lock, and not a byte written.

Shows records below what is known to be durable, and eager ones at once. An invalid
tail means "not yet". Source: docs/format.md, "Followers".
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from batpak.config import StoreConfig
from batpak.encryption import Vault
from batpak.engine.bulk_walk import BulkWalk
from batpak.engine.erasing import fold_erasures
from batpak.engine.history import Place, place_of
from batpak.engine.keeping import load_keys
from batpak.engine.opening import check_place, nothing_left, tell_opened
from batpak.engine.reading import LogReader
from batpak.engine.report import Finding, OpenReport
from batpak.engine.shredding import fold_shredded
from batpak.engine.survey import (
    Found,
    check_splice,
    covered_chain,
    load_sealed,
    read_hint,
    read_identity,
    renew_part,
    segment_bases,
    survey,
    usable_sidecar,
)
from batpak.errors import Damaged, JournalCorrupt, JournalRewound, NotAJournal
from batpak.event import NO_HASH
from batpak.files import Files, closing, is_directory, refusal
from batpak.index.growing import GrowingPart
from batpak.index.parts import Index
from batpak.journal.applying import apply_record
from batpak.journal.commits import Head
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.layout import Layout
from batpak.journal.reading import SegmentPool, SegmentReader, SegmentReplaced
from batpak.journal.record import (
    EAGER,
    RECORD_HEADER_SIZE,
    Chain,
    Invalid,
    Record,
    check_body,
    read_record,
    salt_crc,
)
from batpak.journal.recovery import Witness, first_chain, last_nonzero, walk
from batpak.journal.reentry import owns, reentered

if TYPE_CHECKING:
    from batpak.index.mapped import MappedPart

__all__ = ["Follower"]

_ATTEMPTS = 3
"""So often a journal is looked at anew whose segments are rewritten while it is opened."""


class Follower:
    """One reader's view of a journal, moved forward by `refresh` only."""

    def __init__(self, files: Files, layout: Layout, config: StoreConfig) -> None:
        began = time.perf_counter()
        self._files = files
        self._layout = layout
        check_place(files, layout, config)
        identity = read_identity(files, layout)
        if identity is None:
            raise self._no_journal()
        self.identity = identity
        self._lock = threading.RLock()
        # guarded by _lock
        self._index = Index(lambda index: load_keys(files, layout, identity, index))
        self._pool = SegmentPool(files, layout, config.max_open_files)
        self._heads: dict[bytes, Head] = {}
        self._bulk: BulkWalk | None = None
        self._durable = 0
        self._last_hash = NO_HASH
        self._last_record: tuple[int, int] | None = None
        self._chain = Chain(0, 0, 0, 0)
        self.reader = LogReader(self._index, self._pool, Vault(config.keyring))
        self.reader.renew_part = self._renew_part
        self.bound = 0
        self._folded = 0
        try:
            self.report = self._settle(began)
        except BaseException:
            self._pool.close()
            raise
        tell_opened(layout, "r", self.report, self.bound)

    def _no_journal(self) -> NotAJournal | Damaged:
        if is_directory(self._files, self._layout.segments) and self._files.listdir(
            self._layout.segments
        ):
            return JournalCorrupt(
                "segments without journal.json: whose they are is not known",
                file=self._layout.identity,
                reason="no-identity",
                advice="restore journal.json from a snapshot",
            )
        return NotAJournal(
            "there is no journal here",
            file=self._layout.root,
            advice="check the path, or create one with: batpak init PATH",
        )

    def _settle(self, began: float) -> OpenReport:
        """Open, once more where a segment was rewritten between two looks at it."""
        for _ in range(_ATTEMPTS):
            try:
                return self._open(began)
            except SegmentReplaced:
                self._index.clear()
                self._last_hash, self.bound, self._folded = NO_HASH, 0, 0
                self.reader.erased = None
                self.reader.vault.shredded = frozenset()
        raise JournalCorrupt(
            "the journal's segments are replaced faster than they can be read",
            file=self._layout.segments,
            reason="salt",
            advice="try again when the compaction is over",
        )

    def _show(self, bound: int) -> None:
        """Show the events below `bound`, but what erasures and shreddings among them name."""
        self._fold(bound)
        self._folded = max(self._folded, bound)
        self.bound = max(self.bound, bound)

    def _fold(self, bound: int) -> None:
        """Refuse what erasures and shreddings below `bound` name that were not read yet."""
        fold_erasures(self.reader, self._folded, bound)
        fold_shredded(self.reader, self._folded, bound)

    def _renew_part(self, base: int) -> None:
        renew_part(self._files, self._layout, self.identity, self._pool, self._index, base)

    def _open(self, began: float) -> OpenReport:
        found = survey(self._files, self._layout, self.identity, serve_prefix=True)
        self._witnesses = found.witnesses
        self._durable = max([self._durable, *(w.durable for w in found.witnesses)])
        mapped = walked = rebuilt = 0
        bases = [segment.base for segment in found.segments]
        ends = bases[1:] if found.end is None else [*bases[1:], found.end]
        self._damage: JournalCorrupt | None = None
        try:
            for segment, end in zip(found.segments, ends, strict=False):
                self._pool.set_growing(found.segments[-1].base, may_map=False)
                check_splice(segment, self._last_hash)
                loaded = load_sealed(
                    self._files, self._layout, self._pool, self._index, segment, end
                )
                mapped, walked = mapped + loaded.mapped, walked + loaded.records
                rebuilt += not loaded.mapped
                self._last_hash = loaded.last_hash
                self._show(loaded.next_sequence)
        except JournalCorrupt as error:
            # What precedes the damage is served; refresh() says what is wrong.
            self._show(self._index.end)
            self._damage = error
        else:
            if found.damage is not None:
                self._damage = found.damage
            elif found.segments:
                newest = found.segments[-1]
                before = self._index.end
                try:
                    check_splice(newest, self._last_hash)
                    mapped += self._begin(newest)
                    before = self._index.end
                    self._advance()
                except JournalCorrupt as error:
                    self._damage = error
                walked += self._index.end - before
            elif self._durable:
                self._damage = nothing_left(self._layout, max(found.witnesses))
        if self._damage is not None:
            # All before the newest segment was durable when that got its name.
            self._durable = max([self._durable, *segment_bases(self._files, self._layout)])
            if not self._index.slots:
                # Damage before the first event: nothing is shown, and verify() can compare.
                self._index.append(0, GrowingPart(0))
        epoch = max((segment.header.epoch for segment in found.segments), default=0)
        return OpenReport(
            False,
            epoch,
            len(found.segments),
            mapped,
            walked,
            rebuilt,
            None,
            tuple((w.name, w.durable) for w in found.witnesses),
            {"total": time.perf_counter() - began},
            () if self._damage is None else (_finding(self._damage),),
        )

    def _begin(self, newest: Found) -> bool:
        """Make `newest` the segment that grows; whether its sidecar gave a start.

        Nothing has changed before the assignments at the end: an interrupted refresh is
        simply done again by the next one.
        """
        self._pool.set_growing(newest.base, may_map=False)
        header, state, chain = newest.header, salt_crc(newest.header.salt), None
        last_record, last_hash = None, self._last_hash
        durable, bound = self._durable, self.bound
        parts: list[MappedPart | GrowingPart] = []
        part = usable_sidecar(self._files, self._layout, newest, self._pool)
        sidecar = newest.sidecar
        if part is not None and sidecar is not None:
            parts.append(part)
            chain = covered_chain(sidecar)
            last_record = (sidecar.last_record_offset, sidecar.last_head_crc)
            last_hash = part.locate(sidecar.count - 1)[0]
            durable, bound = max(durable, sidecar.durable), max(bound, chain.sequence)
        chain = chain or first_chain(header)
        growing = GrowingPart(chain.sequence, header.salt)
        parts.append(growing)
        self._index.begin(newest.base, parts)
        # What is erased is known before it can be seen; again, if it was cut short.
        self._fold(bound)
        # No call among these, so Ctrl-C comes before them all or after.
        self._growing_header, self._state, self._chain = header, state, chain
        self._last_record, self._last_hash, self._part = last_record, last_hash, growing
        self._durable, self.bound, self._folded = durable, bound, bound
        return part is not None

    @property
    def durable(self) -> int:
        """The greatest durable bound that some witness names; 0 when there is none."""
        return self._durable

    @property
    def promised(self) -> int:
        """The greatest durable bound that anything in the directory knows of."""
        last = -1 if self._damage is None or self._damage.last is None else self._damage.last
        return max(self._durable, last + 1, self.bound)

    @property
    def log_end(self) -> int:
        """Offset after the last record accepted from the newest segment; 0 before any."""
        return self._chain.offset

    def _check_entry(self) -> None:
        if owns(self._lock):
            raise reentered("reader")

    def place(self) -> Place:
        """Where the log stands at what is durable and was read. Raises InvalidInput, Damaged."""
        self._check_entry()
        with self._lock:
            chain = self._chain
            return place_of(
                self.reader,
                min(self.bound, self._durable),
                written=chain.sequence,
                written_end=chain.offset,
                epoch=max(self.report.epoch, chain.epoch),
            )

    def beyond(self) -> tuple[int, int]:
        """What a reader can't show: the greatest durable bound that records behind its position
        name, and the bytes behind all that is durable by then, trailing zeros left out.

        Moves nothing. Raises Unavailable.
        """
        self._check_entry()
        with self._lock:
            durable, end = self._durable, self._chain.offset
            if not self._index.slots:
                return durable, 0
            reader = self._pool.get(self._growing_header.base_sequence)

            def learn(record: Record) -> None:
                nonlocal durable
                durable = max(durable, record.header.durable)

            def pass_by(record: Record) -> None:
                nonlocal end
                if record.next_sequence <= durable:
                    end = record.end

            # Twice: a later record may prove an earlier one.
            for apply in (learn, pass_by):
                walk(reader.read, reader.size(), self._chain, self._state, apply)
            return durable, last_nonzero(reader.read, reader.size(), end) - end

    def refresh(self) -> int:
        """Pick up what became visible. Raises JournalRewound, JournalCorrupt, Damaged."""
        self._check_entry()
        with self._lock:
            if self._damage is not None:
                raise self._damage
            for _ in range(_ATTEMPTS):
                try:
                    if not self._index.slots:
                        found = survey(self._files, self._layout, self.identity)
                        if not found.segments:
                            best = max(found.witnesses, default=Witness(0, "none"))
                            if best.durable:
                                raise nothing_left(self._layout, best)
                            return self.bound
                        self._begin(found.segments[0])
                    self._check_position()
                    self._advance()
                    break
                except SegmentReplaced:
                    # Rewritten between two looks: look again, from the position reached.
                    continue
            return self.bound

    def _check_position(self) -> None:
        """Raises JournalRewound unless the last accepted record still stands."""
        base = self._growing_header.base_sequence
        path = self._layout.segment(base)
        reader = self._pool.get(base)
        try:
            status = self._files.stat(path)
        except FileNotFoundError as error:
            raise self._rewound("the segment is gone") from error
        except OSError as error:
            raise refusal(error, "can't look at a segment", path) from error
        # Readers that meet the new file with the old part wait until both are new.
        with self.reader.renewing:
            if (status.st_dev, status.st_ino) != reader.identity():
                self._pool.forget(base)
                reader = self._pool.get(base)
            header = reader.read(0, HEADER_SIZE)
            if header != self._growing_header.encode() and not self._follow_rewrite(header):
                raise self._rewound("the segment was replaced")
        if self._last_record is not None:
            offset, head_crc = self._last_record
            data = reader.read(offset, RECORD_HEADER_SIZE)
            if len(data) < RECORD_HEADER_SIZE or int.from_bytes(data[4:8], "little") != head_crc:
                raise self._rewound("the last record that was read is gone")
        if reader.size() < self._chain.offset:
            raise self._rewound("the segment is shorter than what was read")

    def _follow_rewrite(self, data: bytes) -> bool:
        """Go on in a segment that its writer has left behind, and that was rewritten since.

        False for anything but the same segment in a later generation. The same events
        stand there, in other places. Raises JournalCorrupt.
        """
        old = self._growing_header
        try:
            header = SegmentHeader.decode(data, self._layout.segment(old.base_sequence))
        except Damaged:
            return False
        fields = ("journal_id", "base_sequence", "created_us", "prev_event_hash", "epoch")
        if header.generation <= old.generation or any(
            getattr(header, name) != getattr(old, name) for name in fields
        ):
            return False
        base, reached = old.base_sequence, self._chain.sequence
        reader = self._pool.get(base)
        state, size = salt_crc(header.salt), reader.size()
        part, chain = GrowingPart(base, header.salt), first_chain(header)
        last_record, last_hash = None, header.prev_event_hash
        while chain.sequence < reached:
            record = read_record(reader.read, size, chain, state)
            if isinstance(record, Invalid):
                return False
            if record.rows:
                last_hash = apply_record(record, reader.read, part, {})
            chain, last_record = record.chain, (record.offset, record.header.head_crc)
        if chain.sequence != reached or last_hash != self._last_hash:
            return False
        self._index.replace(base, part)
        self._growing_header, self._state = header, state
        self._chain, self._last_record, self._part = chain, last_record, part
        return True

    def _rewound(self, what: str) -> JournalRewound:
        return JournalRewound(
            f"the journal lost events that were already read: {what}",
            file=self._layout.segment(self._growing_header.base_sequence),
            offset=self._chain.offset,
            sequence=self._chain.sequence,
            advice="open the journal anew; compare it with your copy of what you have read",
        )

    def _advance(self) -> None:
        """Accept every further record that a reader may see."""
        hint = read_hint(self._files, self._layout, self.identity.journal_id)
        if hint is not None:
            self._durable = max(self._durable, hint.durable)
        again = True
        while True:
            reader = self._growing_reader()
            size = reader.size()
            if self._take(size):
                again = True
                continue
            record = read_record(reader.read, size, self._chain, self._state)
            if isinstance(record, Record):
                if not self._visible(record):
                    return
                self._accept(record)
                again = True
                continue
            if self._next_segment():
                continue
            if self._durable <= self._chain.sequence:
                return
            if not again:
                raise self._corrupt(record)
            # The hint was read before the file: a record below it must be complete.
            again = False

    def _take(self, size: int) -> bool:
        """Accept what is ordinary and may be seen, many records at a time; whether any was."""
        bulk = self._bulk
        if bulk is None or bulk.growing is not self._part:
            self._bulk = bulk = BulkWalk(
                lambda offset, length: self._growing_reader().read(offset, length),
                size, self._growing_header, self._part, self._heads, eager=True,
            )  # fmt: skip
        bulk.size = size
        taken = bulk.take(self._chain, self._durable)
        self._heads.clear()
        if taken is None:
            return False
        self._durable = max(self._durable, taken.durable.durable)
        self._last_hash = taken.last_hash
        self._moved(taken.chain, (taken.last_record, taken.chain.prev_crc))
        return True

    def _growing_reader(self) -> SegmentReader:
        """The file that the position reached is of. Raises SegmentReplaced, Unavailable."""
        header = self._growing_header
        return self._pool.get(header.base_sequence, header.salt)

    def _visible(self, record: Record) -> bool:
        self._durable = max(self._durable, record.header.durable)
        if record.next_sequence <= self._durable:
            return True
        if not record.header.flags & EAGER:
            return False
        # Written in one call, but this reader may be faster than the writer.
        reader = self._growing_reader()
        body = reader.read(record.body_offset, record.header.body_len)
        return check_body(record, body, self._state) is None

    def _accept(self, record: Record) -> None:
        reader = self._growing_reader()
        if record.rows:
            self._last_hash = apply_record(record, reader.read, self._part, self._heads)
            self._heads.clear()
        self._moved(record.chain, (record.offset, record.header.head_crc))

    def _moved(self, chain: Chain, last: tuple[int, int]) -> None:
        """Show what was accepted up to `chain`; `last` is its last record."""
        self._fold(chain.sequence)
        # No call among these, so Ctrl-C comes before them all or after.
        self._chain, self._last_record = chain, last
        self.bound = self._folded = chain.sequence

    def _next_segment(self) -> bool:
        """Go on to the segment whose name the sequence gives, once it exists."""
        base = self._chain.sequence
        if base == self._growing_header.base_sequence:
            return False
        path = self._layout.segment(base)
        try:
            with closing(self._files, self._files.open(path, os.O_RDONLY)) as fd:
                data = self._files.pread(fd, HEADER_SIZE, 0)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refusal(error, "can't read a segment", path) from error
        header = SegmentHeader.decode(data, path)
        reader = self._growing_reader()
        size, end = reader.size(), self._chain.offset
        if last_nonzero(reader.read, size, end) != end:
            # The successor appeared while we looked: these bytes are complete now.
            record = read_record(reader.read, reader.size(), self._chain, self._state)
            if isinstance(record, Record):
                return True
            raise self._corrupt(record)
        found = Found(base, path, header, None)
        check_splice(found, self._last_hash)
        # All of a segment that has a successor is durable.
        self._durable = max(self._durable, base)
        self._pool.forget(self._growing_header.base_sequence)
        self._begin(found)
        return True

    def _corrupt(self, problem: Invalid) -> JournalCorrupt:
        error = JournalCorrupt(
            f"acknowledged, durable events are damaged or missing: {problem.reason}",
            file=self._layout.segment(self._growing_header.base_sequence),
            offset=problem.offset,
            sequence=self._chain.sequence,
            reason=problem.reason,
            first=self._chain.sequence,
            last=self._durable - 1,
            witness=self._who_knows(),
            advice=f"what precedes can be read; run: batpak repair {self._layout.root}",
        )
        self._damage = error
        return error

    def _who_knows(self) -> str:
        """Who says that all below `_durable` was durable."""
        for witness in self._witnesses:
            if witness.durable == self._durable:
                return witness.name
        return "tail.hint, or a record before"

    def close(self) -> None:
        """Let go of the files."""
        self._pool.close()
        self._index.clear()


def _finding(error: JournalCorrupt) -> Finding:
    return Finding(
        error.code, error.file or "", error.offset, error.sequence, error.what, None, error.reason
    )
