"""Write the sidecar of a segment: its part of the index, for the next open.

Always after the sync that covers its bytes. A sidecar that can't be written costs
time at the next open and nothing else, so failures are logged, not raised.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batpak.engine.keeping import save_keys
from batpak.engine.survey import Found, Loaded, usable_sidecar
from batpak.errors import Unavailable
from batpak.files import Files, replace_file
from batpak.index.growing import GrowingPart
from batpak.index.parts import Index
from batpak.journal.header import SegmentHeader
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout
from batpak.journal.reading import SegmentPool
from batpak.journal.sidecar import SidecarHeader, decode_sidecar_header, encode_sidecar
from batpak.journal.state import Log
from batpak.journal.telling import told
from batpak.journal.writer import Writer

if TYPE_CHECKING:
    from batpak.index.columns import Columns

__all__ = [
    "MIN_UNCOVERED", "Sealer", "map_sidecar", "remake_sidecar", "save_sidecar", "tell_not_used",
    "wants_sidecar", "write_sidecar",
]  # fmt: skip

logger = logging.getLogger("batpak.journal")

MIN_UNCOVERED = 1024
"""At a clean close, or for a sealed segment that has none, a sidecar is written when so many
events or pads are not covered."""


def wants_sidecar(index: Index, log: Log) -> bool:
    """Whether enough of the newest segment is in no sidecar for one to be worth writing.

    Records bound what the next open decodes, events how long that takes.
    """
    base = log.segment.header.base_sequence
    records, events = log.records, log.sequence - base
    for slot in index.slots:
        if slot.segment_base == base and not isinstance(slot.part, GrowingPart):
            records -= slot.part.header.records
            events -= slot.part.header.count
    return max(records, events) >= MIN_UNCOVERED


def write_sidecar(
    files: Files, layout: Layout, index: Index, log: Log, header: SegmentHeader, durable: int
) -> SidecarHeader | None:
    """The sidecar for everything up to the end of `log`; None when it was not written."""
    base = header.base_sequence
    columns: Columns | None = None
    for slot in index.slots:
        if slot.segment_base != base:
            continue
        if isinstance(slot.part, GrowingPart):
            more = slot.part.columns(log.sequence - slot.first)
        else:
            more = slot.part.columns()
        columns = more if columns is None else columns.followed_by(more)
    if columns is None or not len(columns):
        return None
    sidecar = SidecarHeader(
        header.journal_id,
        base,
        len(columns),
        log.end,
        durable,
        header.salt,
        header.generation,
        log.prev_crc,
        log.record_offset,
        log.hlc,
        log.epoch,
        log.records,
    )
    return save_sidecar(files, layout, sidecar, columns)


def save_sidecar(
    files: Files, layout: Layout, sidecar: SidecarHeader, columns: Columns
) -> SidecarHeader | None:
    """Put a sidecar into its file; None when it was not written, which is logged."""
    base = sidecar.base_sequence
    data = encode_sidecar(sidecar, columns.arrays())
    try:
        replace_file(files, layout.sidecar(base), data)
    except OSError as error:
        path, reason = layout.sidecar(base), str(error)
        told(
            lambda: logger.warning(
                "sidecar of segment %d not written: %s", base, reason,
                extra={"code": "sidecar-not-written", "file": path, "error": reason},
            )
        )  # fmt: skip
        return None
    return decode_sidecar_header(data)


def map_sidecar(
    files: Files,
    layout: Layout,
    pool: SegmentPool,
    index: Index,
    header: SegmentHeader,
    sidecar: SidecarHeader,
) -> bool:
    """Put a sealed segment's new sidecar in the place of its parts in memory."""
    base = header.base_sequence
    pool.forget(base)
    found = Found(base, layout.segment(base), header, sidecar)
    part = usable_sidecar(files, layout, found, pool)
    if part is None:
        return False
    index.replace(base, part)
    return True


def tell_not_used(reason: str) -> None:
    """The part in memory serves as well."""
    told(
        lambda: logger.warning(
            "a new sidecar is not used: %s", reason,
            extra={"code": "sidecar-not-used", "error": reason},
        )
    )  # fmt: skip


def remake_sidecar(
    files: Files,
    layout: Layout,
    pool: SegmentPool,
    index: Index,
    found: Found,
    loaded: Loaded,
    durable: int,
) -> None:
    """Write the sidecar of a sealed segment that had none to be used, and was walked for that.

    `durable`, all of the journal that is: what it replaces may have been a witness of as much.
    """
    header = found.header
    [part] = [slot.part for slot in index.slots if slot.segment_base == found.base]
    assert isinstance(part, GrowingPart), "it was walked"
    columns = part.columns(loaded.next_sequence - found.base)
    end = loaded.end
    sidecar = SidecarHeader(
        header.journal_id, found.base, len(columns), end.offset, durable, header.salt,
        header.generation, end.prev_crc, loaded.last_record, int(columns.hlc[-1]), end.epoch,
        loaded.records,
    )  # fmt: skip
    saved = save_sidecar(files, layout, sidecar, columns)
    if saved is None:
        return
    try:
        map_sidecar(files, layout, pool, index, header, saved)
    except Unavailable as error:
        tell_not_used(str(error))


class Sealer:
    """Writes the sidecars of segments that a writer has sealed, outside the append lock.

    `sealed` is what the writer puts them into. Any thread may call; one of them works.
    """

    def __init__(
        self,
        files: Files,
        layout: Layout,
        identity: Identity,
        index: Index,
        pool: SegmentPool,
        writer: Writer,
        sealed: list[tuple[Log, SegmentHeader]],
    ) -> None:
        self._files = files
        self._layout = layout
        self._identity = identity
        self._index = index
        self._pool = pool
        self._writer = writer
        self._sealed = sealed
        self._working = threading.RLock()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Nobody writes a sidecar inside the block; what was due before is written first."""
        self.write_sidecars()
        with self._working:
            yield
        self.write_sidecars()

    def write_sidecars(self) -> None:
        """Write and map what is due; a failure costs the next open time, and is logged."""
        self._writer.tell()
        try:
            if not self._working.acquire(blocking=False):
                return
            while self._sealed:
                # Taken off before: a log handler that appends comes here within.
                log, header = self._sealed.pop(0)
                try:
                    self._write(log, header)
                except Exception as error:  # noqa: BLE001  # whose append this is was written
                    # The part in memory serves as well.
                    tell_not_used(str(error))
        finally:
            # Ctrl-C can come on the return from `acquire`: whether it is ours, the lock knows.
            try:
                self._working.release()
            except RuntimeError:
                pass

    def _write(self, log: Log, header: SegmentHeader) -> None:
        files, layout, index = self._files, self._layout, self._index
        durable = self._writer.durable.sequence
        sidecar = write_sidecar(files, layout, index, log, header, durable)
        if sidecar is not None:
            map_sidecar(files, layout, self._pool, index, header, sidecar)
        save_keys(files, layout, self._identity, index)
