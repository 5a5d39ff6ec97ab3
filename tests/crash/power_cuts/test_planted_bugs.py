"""The harness's own tests: a bug of each class, planted in the library, turns it red.

Each bug is one that somebody could write. The states that show it are drawn like all
others, from a workload that reaches the place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from batpak import Store, store
from batpak.engine import (
    building,
    checkpoints,
    compacting,
    crossing,
    keeping,
    opening,
    snapshot,
)
from batpak.engine.appending import Appender
from batpak.engine.checkpoints import CheckpointMaker, StoredCheckpoint
from batpak.engine.compacting import CompactionReport
from batpak.engine.sharing import Sharer
from batpak.engine.staging import Fence
from batpak.engine.tree import Tree
from batpak.files import closing
from batpak.index.keytable import KeyTable, slots_of
from batpak.index.parts import Keys
from batpak.journal import recovery, writer
from batpak.journal.group import Request
from batpak.journal.keyfile import KEY_HEADER_SIZE, KeyHeader
from batpak.journal.state import Durable
from batpak.journal.writer import Writer
from tests.crash.power_cuts.campaign import Tally, run_until
from tests.crash.power_cuts.memory_files import MemoryFiles

STATES = 1200
"""So many states have to be enough."""
GONE, REFUSED = "are gone", "is refused"


class Without:
    """Files under a part of the library that leaves out one kind of operation."""

    def __init__(self, files: Any, *names: str) -> None:
        self._files = files
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name in self._names else getattr(self._files, name)


def leave_out(patch: pytest.MonkeyPatch, place: Any, function: str, *names: str) -> None:
    """Let `place.function(files, …)` work without some operations."""
    whole: Callable[..., Any] = getattr(place, function)
    patch.setattr(place, function, lambda files, *a, **k: whole(Without(files, *names), *a, **k))


def no_sync(patch: pytest.MonkeyPatch) -> None:
    """Appends are not synced at all."""
    whole = MemoryFiles.sync_data

    def sync_data(self: MemoryFiles, fd: int) -> None:
        if not self.path_of(fd).endswith(".seg"):
            whole(self, fd)

    patch.setattr(MemoryFiles, "sync_data", sync_data)


def no_directory_sync_at_rotation(patch: pytest.MonkeyPatch) -> None:
    """A new segment's name is not made durable."""
    leave_out(patch, writer, "create_segment", "sync_directory")


def no_directory_sync_at_open(patch: pytest.MonkeyPatch) -> None:
    """An open takes the names it finds for durable."""
    leave_out(patch, opening, "_settle_directories", "sync_directory")


def rename_before_sync(patch: pytest.MonkeyPatch) -> None:
    """A file gets its name, and is synced then."""
    sync_file, rename = MemoryFiles.sync_file, MemoryFiles.rename
    held: list[str] = []

    def late_sync(self: MemoryFiles, fd: int) -> None:
        path = self.path_of(fd)
        held.append(path) if path.endswith(".tmp") else sync_file(self, fd)

    def early_rename(self: MemoryFiles, source: str, target: str) -> None:
        rename(self, source, target)
        if source in held:
            held.remove(source)
            # Syncing the path of a file syncs the file.
            self.sync_directory(target)

    patch.setattr(MemoryFiles, "sync_file", late_sync)
    patch.setattr(MemoryFiles, "rename", early_rename)


def acknowledged_before_sync(patch: pytest.MonkeyPatch) -> None:
    """An append waits for the sync of the one before it only."""

    def commit_durably(self: Writer, events: Any, guard: Any = None) -> Request:
        request = Request(events, guard=guard)
        self.wait_durable(self.log.sequence)
        self.commit_together([request])
        return request

    patch.setattr(Writer, "commit_durably", commit_durably)


def hint_before_sync(patch: pytest.MonkeyPatch) -> None:
    """The hint tells of a sync that is still to come."""
    sync_data, pwrite = MemoryFiles.sync_data, MemoryFiles.pwrite
    held: list[int] = []

    def late_sync(self: MemoryFiles, fd: int) -> None:
        held.append(fd) if self.path_of(fd).endswith(".seg") else sync_data(self, fd)

    def early_hint(self: MemoryFiles, fd: int, data: Any, offset: int) -> int:
        written = pwrite(self, fd, data, offset)
        if self.path_of(fd).endswith("tail.hint"):
            while held:
                sync_data(self, held.pop())
        return written

    patch.setattr(MemoryFiles, "sync_data", late_sync)
    patch.setattr(MemoryFiles, "pwrite", early_hint)


def bound_after_sync(patch: pytest.MonkeyPatch) -> None:
    """The durable bound is what is written when the sync is over, not when it began."""
    whole = Writer._sync_once

    def sync_once(self: Writer, *, whole_file: bool = False) -> None:
        whole(self, whole_file=whole_file)
        self._durable = Durable(self._log.sequence, self._log.hlc)

    patch.setattr(Writer, "_sync_once", sync_once)


def bodies_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Recovery believes the payloads of a record whose head is right.

    It asks body_crc and then each content hash; either is enough, so both are left out.
    """
    patch.setattr(recovery, "check_body", lambda *_: None)
    patch.setattr(recovery, "content_hash", lambda *_: ANYTHING)


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]  # equal to all, so of no use in a set


ANYTHING = _Anything()


def no_readoption(patch: pytest.MonkeyPatch) -> None:
    """Recovery takes for durable what it reads."""
    patch.setattr(opening, "_readopt", lambda *_: None)


def quarantine_not_synced(patch: pytest.MonkeyPatch) -> None:
    """The tail is cut before what it held is safe."""
    leave_out(patch, opening, "quarantine", "sync_file", "sync_directory")


def hard_link_written_through(patch: pytest.MonkeyPatch) -> None:
    """A segment that a snapshot shares is written to in place."""
    patch.setattr(
        opening, "_own_file", lambda files, _, newest, *__: files.open(newest.path, 2)
    )  # fmt: skip


def tear_not_told(patch: pytest.MonkeyPatch) -> None:
    """The open report is silent about what was cut."""
    whole = opening._cut_tail
    patch.setattr(opening, "_cut_tail", lambda *a: whole(*a) and None)


def witnesses_ignored(patch: pytest.MonkeyPatch) -> None:
    """Whatever recovery can't accept is taken for a tear."""
    patch.setattr(recovery.Tail, "lost", False)


def shown_too_early(patch: pytest.MonkeyPatch) -> None:
    """In SYNC, events are visible as soon as they are written."""
    patch.setattr(Writer, "visible", property(lambda self: self.log.sequence))
    patch.setattr(Writer, "readable", lambda self: self.log.sequence)


def erasure_rewritten_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """A compaction begins without making the erasures durable."""
    compact, sync = Store.compact, Writer.sync
    compacting: list[Store] = []

    def early(self: Store, *, min_bytes: int = 0) -> CompactionReport:
        compacting.append(self)
        try:
            return compact(self, min_bytes=min_bytes)
        finally:
            compacting.clear()

    patch.setattr(Store, "compact", early)
    patch.setattr(Writer, "sync", lambda self: None if compacting else sync(self))


def rewrite_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A rewritten segment gets its name before its bytes are safe."""
    leave_out(patch, compacting, "rewrite_segment", "sync_file")


def rename_of_rewrite_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A compaction returns before the new file's name is durable."""
    leave_out(patch, store, "rewrite", "sync_directory")


def erasure_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An open does not read the erasures."""
    patch.setattr(opening, "fold_erasures", lambda *_: None)


def key_table_not_synced(patch: pytest.MonkeyPatch) -> None:
    """The key table is renamed without a sync: no bug, since it is disposable."""
    leave_out(patch, keeping, "replace_file", "sync_file")


def key_table_believed(patch: pytest.MonkeyPatch) -> None:
    """As that, and a table whose header is right is believed without a look at its rows."""
    key_table_not_synced(patch)

    def read_keys(files: Any, layout: Any, _: Any, index: Any) -> Any:
        with closing(files, files.open(layout.keys, os.O_RDONLY)) as fd:
            header = KeyHeader.decode(files.pread(fd, KEY_HEADER_SIZE, 0))
            if header is None or header.bound > index.end:
                return None
            data = keeping._read_slots(files, fd, 8 * (slots_of(header.capacity) or 0))
        table = KeyTable(header.capacity, header.multiplier, data=data, count=header.count)
        return Keys(table, header.bound)

    patch.setattr(keeping, "_read_keys", read_keys)


def fence_in_several_records(patch: pytest.MonkeyPatch) -> None:
    """A fence's events are written one after the other."""
    whole = Fence.__init__

    def init(self: Fence, stage: Any, most: int, commit: Any, *others: Any) -> None:
        whole(self, stage, most, lambda events: sum((commit([e]) for e in events), ()), *others)

    patch.setattr(Fence, "__init__", init)


def waiting_left_out(patch: pytest.MonkeyPatch, place: Any, function: str) -> None:
    """Let a method work without waiting for the disk."""
    whole, wait = getattr(place, function), Writer.wait_durable
    inside: list[bool] = []

    def hasty(*arguments: Any, **options: Any) -> Any:
        inside.append(True)
        try:
            return whole(*arguments, **options)
        finally:
            inside.clear()

    def wait_durable(self: Writer, *arguments: Any) -> bool:
        return bool(inside) or wait(self, *arguments)

    patch.setattr(place, function, hasty)
    patch.setattr(Writer, "wait_durable", wait_durable)


def submissions_settled_early(patch: pytest.MonkeyPatch) -> None:
    """A submission's future says that it is durable when it is written."""
    waiting_left_out(patch, Appender, "work")
    whole = Appender.receipts

    def receipts(self: Appender, events: Any, committed: Any, is_durable: bool) -> Any:
        return whole(self, events, committed, is_durable=True)

    patch.setattr(Appender, "receipts", receipts)


def note_before_its_sync(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint's note is published before its bytes are safe."""
    leave_out(patch, checkpoints, "replace_file", "sync_file")


def note_before_its_event(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint's note is published before the event that tells of it is durable."""
    publish, make = CheckpointMaker._publish, CheckpointMaker.make

    def early_make(self: CheckpointMaker, *arguments: Any) -> StoredCheckpoint:
        held: list[Any] = []
        append = self._append

        def late(checkpoint: StoredCheckpoint, *, is_stored: bool = False) -> None:
            publish(self, checkpoint, is_stored=is_stored)
            while held:
                append(held.pop())

        patch.setattr(self, "_append", held.append)
        patch.setattr(self, "_publish", late)
        try:
            return make(self, *arguments)
        finally:
            self._append, self._publish = append, publish.__get__(self)

    patch.setattr(CheckpointMaker, "make", early_make)


def tiles_believed(patch: pytest.MonkeyPatch) -> None:
    """Tiles that are there are taken for right."""

    def trust(self: Tree, size: int, _: bytes) -> bool:
        self.size = max(self.size, size)
        return True

    patch.setattr(Tree, "trust", trust)


def snapshot_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A snapshot's manifest is written before the files that it names are durable."""
    whole = Sharer.copy

    def copy(self: Sharer, *arguments: Any) -> Any:
        self._files = cast("Any", Without(self._files, "sync_file"))
        return whole(self, *arguments)

    patch.setattr(Sharer, "copy", copy)


def snapshot_names_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A snapshot gets its name before the names in it are durable."""
    patch.setattr(snapshot, "sync_tree", lambda *_: None)


def building_place_not_marked(patch: pytest.MonkeyPatch) -> None:
    """What a builder leaves can't be told from what somebody else put there."""
    leave_out(patch, building, "_claim", "sync_directory")


def import_forgets_its_position(patch: pytest.MonkeyPatch) -> None:
    """An import writes events one by one, and its position with the last of them only."""
    flush = crossing._Run.flush

    def flush_one_by_one(self: crossing._Run) -> None:
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._waiting = [event]
            flush(self)

    def prepare(self: crossing._Run, event: Any, *, is_last: bool) -> Any:
        return whole(self, event, is_last=False)

    whole = crossing._Run._prepare
    patch.setattr(crossing._Run, "flush", flush_one_by_one)
    patch.setattr(crossing._Run, "_prepare", prepare)


def signed_before_durable(patch: pytest.MonkeyPatch) -> None:
    """A receipt is signed before its event is durable."""
    waiting_left_out(patch, Store, "sign")


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTED: list[tuple[Plant, str, str]] = [
    (no_sync, "singles", f"{GONE}|{REFUSED}"),
    (no_sync, "batches", f"{GONE}|{REFUSED}"),
    (no_directory_sync_at_rotation, "rotation", f"{GONE}|{REFUSED}"),
    (no_directory_sync_at_rotation, "rotation-unsynced", f"{GONE}|{REFUSED}"),
    (no_directory_sync_at_open, "killed-in-rotation", f"{GONE}|{REFUSED}"),
    (rename_before_sync, "rotation", f"{GONE}|{REFUSED}"),
    (rename_before_sync, "creation", REFUSED),
    (rename_before_sync, "cursors", "the cursor is none of"),
    (acknowledged_before_sync, "singles", GONE),
    (hint_before_sync, "singles", REFUSED),
    (bound_after_sync, "sync-meets-append", f"{GONE}|{REFUSED}"),
    (bodies_unchecked, "batches", "PayloadDamaged"),
    (no_readoption, "failed-sync", f"{GONE}|{REFUSED}"),
    (quarantine_not_synced, "quarantine", "has to be kept"),
    (hard_link_written_through, "hard-links", "has to be kept"),
    (tear_not_told, "singles-unsynced", "the report does not say so"),
    (witnesses_ignored, "singles", "taken for a tear"),
    (shown_too_early, "threads", GONE),
    (erasure_rewritten_before_it_is_durable, "erasure", "so is what erased it"),
    (rewrite_not_synced, "erasure", REFUSED),
    (rename_of_rewrite_not_synced, "erasure-in-one-segment", "has an erased payload again"),
    (erasure_forgotten, "erasure", "back after its erasure"),
    (key_table_believed, "key-table", "a key is there twice"),
    (fence_in_several_records, "fences", "a part of a commit"),
    (submissions_settled_early, "queue", GONE),
    (note_before_its_sync, "checkpoints", "checkpoint-note|note is torn"),
    (note_before_its_event, "checkpoints", "no event tells of it|more than is there"),
    (tiles_believed, "full-tiles", "not those that their checkpoint was signed over"),
    (snapshot_not_synced, "snapshot", "is not whole"),
    (snapshot_names_not_synced, "snapshot", "is not whole"),
    (building_place_not_marked, "killed-in-copying", "is taken by something else"),
    (import_forgets_its_position, "imports", "forgotten how far it came"),
    (signed_before_durable, "signing-keys", GONE),
]


@pytest.mark.parametrize(
    ("plant", "workload", "complaint"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in PLANTED],
)
def test_a_planted_bug_turns_the_harness_red(
    plant: Plant, workload: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    tally = Tally()
    with pytest.raises(AssertionError, match=complaint):
        run_until(workload, 1, STATES, tally, each=200)
    assert tally.states, "no state was judged"
    print(f"red after {tally.states} states")


def test_what_is_disposable_needs_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half of `key_table_believed`: what is looked at may be torn."""
    key_table_not_synced(monkeypatch)
    tally = Tally()
    run_until("key-table", 1, 40, tally, each=40)
    assert tally.states == 40
