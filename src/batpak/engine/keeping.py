"""Keep the key table in `index/keys.tbl` from one opening to the next.

Disposable: a table that is missing, late, damaged or of another journal costs the time
to make it from the parts again, and one that can't be written costs that time later. So
nothing here raises. A kept table is used only after everything that it says of itself was
compared with the parts; what it then finds is compared with the rows.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from blake3 import blake3

from batpak.files import Files, closing, replace_file
from batpak.index.keytable import MAX_END, KeyTable, capacity_for, slots_of
from batpak.index.parts import Index, Keys
from batpak.journal.identity import Identity
from batpak.journal.keyfile import KEY_HEADER_SIZE, KeyHeader
from batpak.journal.layout import Layout
from batpak.journal.telling import told

__all__ = ["load_keys", "save_keys"]

logger = logging.getLogger("batpak.journal")

MIN_UNCOVERED: Final = 1024
"""A table is not written again for fewer foreign ids than this."""
_STEP: Final = 1 << 24


def load_keys(files: Files, layout: Layout, identity: Identity, index: Index) -> Keys | None:
    """The table that was kept; None unless it agrees with what `index` holds."""
    try:
        keys = _read_keys(files, layout, identity, index)
        reason = "it is damaged, or does not fit the journal"
    except FileNotFoundError:
        return None
    except OSError as error:
        keys, reason = None, str(error)
    if keys is None:
        logger.info(
            "%s is not used, its table is made anew: %s",
            layout.keys,
            reason,
            extra={"code": "key-table-not-used", "file": layout.keys, "reason": reason},
        )
        return None
    index.keys_saved = keys.table.count
    return keys


def _read_keys(files: Files, layout: Layout, identity: Identity, index: Index) -> Keys | None:
    """The table in the file; None unless all of it is right. Raises OSError."""
    with closing(files, files.open(layout.keys, os.O_RDONLY)) as fd:
        header = KeyHeader.decode(files.pread(fd, KEY_HEADER_SIZE, 0))
        size = files.fstat(fd).st_size
        if header is None or not _agrees(header, size, identity, index):
            return None
        data = _read_slots(files, fd, size - KEY_HEADER_SIZE)
    # The last slot ends every search.
    if blake3(data).digest()[:16] != header.digest or any(data[-8:]):
        return None
    table = KeyTable(header.capacity, header.multiplier, data=data, count=header.count)
    return Keys(table, header.bound)


def _agrees(header: KeyHeader, size: int, identity: Identity, index: Index) -> bool:
    """Whether a table's header fits its file and the parts; nothing large was read yet."""
    bound, slots = header.bound, slots_of(header.capacity)
    if header.journal_id != identity.journal_id.bytes or slots is None:
        return False
    if size != KEY_HEADER_SIZE + 8 * slots or header.capacity > capacity_for(header.count):
        return False
    if not 0 < bound <= min(index.end, MAX_END):
        return False
    slot = index.slot_of(bound - 1)
    if slot.part.locate(bound - 1 - slot.first)[0] != header.event_hash:
        return False
    return header.count == index.count_foreign(bound)


def _read_slots(files: Files, fd: int, length: int) -> bytearray:
    """The file after its header; shorter than `length` where it ends early. Raises OSError."""
    # Read and not mapped: whoever cuts a mapped file short kills the process that looks.
    data = bytearray(length)
    at = 0
    while at < length:
        part = files.pread(fd, min(_STEP, length - at), KEY_HEADER_SIZE + at)
        if not part:
            break
        data[at : at + len(part)] = part
        at += len(part)
    return data


def save_keys(
    files: Files, layout: Layout, identity: Identity, index: Index, *, closed: bool = False
) -> None:
    """Take sealed parts into the key table, and write it when enough of it is new.

    Enough: 1 024 ids, and an eighth of all, so that what is written in the life of a
    journal stays in proportion to its ids. `closed`: the last part is final, too. Does
    nothing in a process that asked for no foreign id. Below the bound all is durable.
    """
    with index.keys_lock:
        if index.keys is None:
            return
        table, bound = index.fill_keys(last=closed)
        if table.count - index.keys_saved < max(MIN_UNCOVERED, table.count // 8):
            return
        slot = index.slot_of(bound - 1)
        header = KeyHeader(
            identity.journal_id.bytes,
            bound,
            table.count,
            table.capacity,
            table.multiplier,
            slot.part.locate(bound - 1 - slot.first)[0],
            blake3(table.data).digest()[:16],
        )
        try:
            _make_index(files, layout)
            replace_file(files, layout.keys, header.encode(), table.data)
        except OSError as error:
            reason = str(error)
            told(
                lambda: logger.warning(
                    "the key table is not written: %s", reason,
                    extra={"code": "key-table-not-written", "file": layout.keys, "error": reason},
                )
            )  # fmt: skip
            return
        index.keys_saved = table.count


def _make_index(files: Files, layout: Layout) -> None:
    try:
        files.mkdir(layout.index)
    except FileExistsError:
        return
    files.sync_directory(layout.root)
