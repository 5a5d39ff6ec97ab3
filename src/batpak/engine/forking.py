"""Begin a journal of its own from the history of another one.

A fork has a new journal_id and keeps its ancestor's segments below the bound, which are
valid by its lineage and are never written to: its own first segment stands behind them,
linked to their last event hash. Consumers of the ancestor have no cursors in it.
Source: docs/format.md, "Lineage".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

from batpak.config import StoreConfig
from batpak.engine.building import building, publish, sync_tree
from batpak.engine.checkpoints import checkpoints_of
from batpak.engine.history import Copies, Place, copy_folder, copy_history, write_new
from batpak.engine.opening import open_for_writing
from batpak.engine.progress import Progress
from batpak.engine.sharing import Sharer, Way
from batpak.engine.system import close_event, history_event
from batpak.errors import Damaged, InvalidInput, SnapshotDamaged
from batpak.files import Files, wall_us
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.identity import FORMAT, Ancestor, Identity
from batpak.journal.layout import Layout
from batpak.journal.writer import create_segment

__all__ = ["ForkReport", "begin_fork", "check_origin", "fork_journal", "sign_in"]


@dataclass(frozen=True, slots=True)
class ForkReport:
    """A fork, and what it shares with its ancestor."""

    destination: str
    journal_id: UUID
    origin: str
    from_journal: UUID
    events: int
    """Exclusive bound: the events 0 to `events` − 1 are the ancestor's."""
    bytes: int
    cloned: int
    linked: int
    copied: int
    seconds: float


def fork_journal(
    files: Files,
    layout: Layout,
    identity: Identity,
    destination: str,
    settle: Callable[[], Place],
    compacting: AbstractContextManager[object],
    *,
    origin: str | None = None,
    progress: Progress | None = None,
) -> ForkReport:
    """Make a fork at `destination`, which may be an empty directory or nothing.

    `settle` and `compacting` as for a snapshot. Raises DestinationTaken, JournalLocked (somebody
    else builds there), InvalidInput, also for an ancestor's origin, JournalCorrupt, Unavailable.
    """
    began = time.perf_counter()
    destination = os.path.abspath(destination)
    config = StoreConfig(origin=origin)
    check_origin(files, layout, identity, config.origin)
    copies = Copies()
    with building(files, destination, layout.root) as whole:
        target = Layout(whole)
        copy_folder(files, Sharer(files, may_link=False), layout, target, "checkpoints", copies)
        place = copy_history(files, layout, target, settle, compacting, copies, progress)
        fork = begin_fork(
            files, target, identity, config.origin, place.bound, place.last_hash, place.epoch
        )
        sign_in(files, layout, target, "forked", identity.journal_id, place.bound, place.last_hash)
        sync_tree(files, whole)
        publish(files, whole, destination)
    return ForkReport(
        destination,
        fork.journal_id,
        fork.origin,
        identity.journal_id,
        place.bound,
        copies.bytes,
        copies.ways[Way.CLONED],
        copies.ways[Way.LINKED],
        copies.ways[Way.COPIED],
        time.perf_counter() - began,
    )


def check_origin(files: Files, source: Layout, ancestor: Identity, origin: str | None) -> None:
    """Raises InvalidInput for the name of a journal that the fork would come from.

    Older ancestors' names are known by the checkpoints that came along, or are the default.
    """
    if origin is None:
        return
    if origin == ancestor.origin:
        whose = "the journal that it comes from"
    elif origin in {f"batpak/{each.journal_id}" for each in ancestor.lineage} or any(
        stored.origin == origin
        for stored in checkpoints_of(files, source, ancestor.origin, shared=ancestor.shared)
    ):
        whose = "an ancestor of the journal that it comes from"
    else:
        return
    raise InvalidInput(
        f"this origin is that of {whose}: two histories under one name, which whoever witnesses "
        "them both takes for proof that the log lied",
        field="origin",
        value=origin,
        advice="choose a name that no other journal has, or leave origin out for a new one",
    )


def begin_fork(
    files: Files,
    target: Layout,
    ancestor: Identity,
    origin: str | None,
    bound: int,
    last_hash: bytes,
    epoch: int,
) -> Identity:
    """Give the history in `target` an identity and a first segment of its own. Raises OSError."""
    journal_id = uuid4()
    identity = Identity(
        FORMAT,
        journal_id,
        wall_us(),
        origin or f"batpak/{journal_id}",
        (*ancestor.lineage, Ancestor(ancestor.journal_id, bound)),
    )
    write_new(files, target.identity, identity.encode())
    header = SegmentHeader(journal_id.bytes, bound, wall_us(), os.urandom(16), last_hash, epoch)
    create_segment(files, target, header)
    hint = Hint(journal_id.bytes, epoch, bound, HEADER_SIZE, bound)
    write_new(files, target.hint, hint.encode())
    return identity


def sign_in(
    files: Files,
    source: Layout,
    target: Layout,
    action: Literal["restored", "forked"],
    from_journal: UUID,
    bound: int,
    last_hash: bytes,
) -> None:
    """Open what was built, say in an event where it comes from, and close it.

    Opening judges it as any journal: what is not whole gets no name. Raises as an open,
    and SnapshotDamaged when the log ends elsewhere than at `bound`, or in another event.
    Damage is told of the file in `source` that it came from: the copy is gone by then.
    """
    try:
        _sign_in(files, target, action, from_journal, bound, last_hash)
    except Damaged as error:
        raise _at_its_source(error, target.root, source.root) from error


def _at_its_source(error: Damaged, copy: str, source: str) -> Damaged:
    file = None if error.file is None else error.file.replace(copy, source)
    what, advice = (text.replace(copy, source) for text in (error.what, error.advice))
    return type(error)(what, advice=advice, **(error.facts | {"file": file}))


def _sign_in(
    files: Files,
    target: Layout,
    action: Literal["restored", "forked"],
    from_journal: UUID,
    bound: int,
    last_hash: bytes,
) -> None:
    opened = open_for_writing(files, target, StoreConfig())
    writer = opened.writer
    try:
        found = writer.log.sequence - 1
        if found != bound or opened.reader.summary(bound - 1).event_hash != last_hash:
            raise SnapshotDamaged(
                f"the log has {found} events, and not the {bound} that were promised",
                file=target.root,
                reason="events",
                advice="restore from another snapshot"
                if action == "restored"
                else f"run: batpak verify {target.root}",
            )
        writer.commit(
            [history_event(action, from_journal=from_journal.bytes, at=bound, until=bound)]
        )
        writer.close(lambda: [close_event(epoch=writer.epoch, events=2)])
    finally:
        writer.release()
        opened.pool.close()
        opened.index.clear()
