"""The harness's own tests: a bug of each class, planted in the library, turns it red.

Each bug is one that somebody could write. The states that show it are drawn like all
others, from a workload that reaches the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batpak.engine import opening
from batpak.journal import recovery, writer
from batpak.journal.group import Request
from batpak.journal.writer import Durable, Writer
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
