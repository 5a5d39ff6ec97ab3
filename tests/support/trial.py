"""One journal, one thread that is interrupted in the middle of an operation, and a judge.

A `Trial` keeps what was asked for and what was acknowledged. `judge` then holds the
journal to it: another thread can append, nobody hangs, nothing acknowledged is missing,
what was interrupted is there wholly or not at all and once at most, every hash verifies,
and a close and an open later all of it is still so.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from batpak import Coordinate, EventKind, Item, Store
from batpak.engine.staging import Fence
from batpak.errors import Indeterminate, StoreClosed
from batpak.event import Event
from batpak.files import Files
from batpak.store import ReadOnlyStore
from tests.support.faulty_files import DISK, UnsyncedFiles

NOTE = EventKind(1, 7)
MINE = Coordinate("player:mine", "s")
THEIRS = Coordinate("player:theirs", "s")
PATIENCE = 30.0
"""Seconds after which a thread counts as one that sleeps for ever."""


class HeldFiles(UnsyncedFiles):
    """Files whose `sync_data` can be made to wait until the test lets it go on."""

    def __init__(self) -> None:
        self.hold = False
        self.held = threading.Semaphore(0)
        """One permit for each sync that came to wait."""
        self.go = threading.Event()

    def sync_data(self, fd: int) -> None:
        if self.hold:
            self.held.release()
            assert self.go.wait(PATIENCE), "nobody let the sync go on"
        super().sync_data(fd)


class Helper:
    """A thread of the test; what it raises is kept for the judge."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # raised again by `end`
            self.error = error

    def end(self, what: str) -> None:
        """Assert that it ends, and without an error."""
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            frame = sys._current_frames().get(self.thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame else "nowhere"
            raise AssertionError(f"{what}: asleep for ever in\n{where}")
        if self.error is not None:
            raise AssertionError(f"{what}: {self.error!r}") from self.error


class Trial:
    """A journal at `path`, and what was asked of it and acknowledged."""

    def __init__(self, path: Path, files: Files = DISK, **options: Any) -> None:
        self.path = path
        self.files = files
        self.options = options
        self.threads = threading.active_count()
        self.store = Store.open(path, files=files, preallocate=0, **options)
        self.asked: list[list[int]] = []
        """Commits of the thread that is interrupted, in order."""
        self.acknowledged: set[int] = set()
        self.helpers: list[Helper] = []
        self.theirs: set[int] = set()
        """Acknowledged to helpers."""
        self.tickets: list[Future[Any]] = []
        """Futures that somebody waits for."""
        self.queued: set[int] = set()
        """Numbers whose future says what became of them, and nobody else."""
        self.kept: Fence | None = None
        self.reader: ReadOnlyStore | None = None
        self.further: list[Callable[[Store], None]] = []
        """What else has to hold, of the store as it goes on and of the next one."""
        self._next = 0

    # --- what the thread asks that is interrupted ----------------------------------

    def numbers(self, count: int) -> list[int]:
        """Numbers of a further commit, never used twice."""
        given = list(range(self._next, self._next + count))
        self._next += count
        self.asked.append(given)
        return given

    def append(self, **options: Any) -> None:
        """One event of a commit of its own."""
        [number] = self.numbers(1)
        self.store.append(MINE, number, kind=NOTE, **options)
        self.acknowledged.add(number)

    def append_many(self, count: int, **options: Any) -> None:
        """One commit of several events."""
        numbers = self.numbers(count)
        self.store.append_many([Item(MINE, n, kind=NOTE) for n in numbers], **options)
        self.acknowledged.update(numbers)

    def submit(self, **options: Any) -> Future[Any]:
        """One event in the queue."""
        [number] = self.numbers(1)
        future = self.store.submit(MINE, number, kind=NOTE, **options)
        future.add_done_callback(lambda done: self._note(done, [number]))
        return future

    def stay_in_a_fence(self) -> None:
        """Begin a fence that is still open at the end."""
        fence = self.store.fence()
        self.tickets.append(fence.__enter__().append(MINE, -9, kind=NOTE))
        self.kept = fence

    def _note(self, done: Future[Any], numbers: list[int]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.acknowledged.update(numbers)

    def follow(self) -> None:
        """A reader of the same journal."""
        self.reader = Store.open(self.path, mode="r", files=DISK)

    def refresh(self) -> None:
        """What it does to see more."""
        assert self.reader is not None
        self.reader.refresh()

    # --- what others ask -----------------------------------------------------------

    def help(self, count: int = 1, **options: Any) -> list[Helper]:
        """So many further threads that append one event each."""

        def append(number: int) -> None:
            self.store.append(THEIRS, number, kind=NOTE, **options)
            self.theirs.add(number)

        given = [1_000_000 + len(self.helpers) + i for i in range(count)]
        helpers = [Helper(lambda n=number: append(n)) for number in given]
        self.helpers += helpers
        return helpers

    def help_impatiently(self) -> None:
        """A further thread, which appends and does not wait long for durability."""
        number = 1_000_000 + len(self.helpers)

        def append() -> None:
            try:
                self.store.append(THEIRS, number, kind=NOTE, timeout=0.02)
            except Indeterminate as error:
                if error.receipt is None:
                    raise
            self.theirs.add(number)

        self.helpers.append(Helper(append))

    def until_waiting(self, count: int) -> None:
        """Return once so many requests are in the queue of the group commit.

        One that waits without patience may have left it again.
        """
        end = time.monotonic() + PATIENCE
        while (
            self.store.pressure().waiting
            + sum(not helper.thread.is_alive() for helper in self.helpers)
            < count
        ):
            assert time.monotonic() < end, f"{count} threads never came to wait"
            time.sleep(0)

    # --- the judge -----------------------------------------------------------------

    def judge(self) -> None:
        """Everything that has to hold after the operation, interrupted or not."""
        if isinstance(self.files, HeldFiles):
            self.files.hold = False
            self.files.go.set()
        for helper in self.helpers:
            helper.end("a thread that appended meanwhile")
        if self.kept is None:
            try:
                self.store.fence().cancel()
            except StoreClosed:
                pass
        # Each look is in a thread of its own: a lock that was left held stops it there.
        Helper(self._use).end("another thread after it")
        Helper(self._close).end("closing after it")
        for ticket in self.tickets:
            Helper(lambda t=ticket: wait([t])).end("who waits for a ticket")
        # Not by joining them: one that Ctrl-C left behind may not have begun, and has no work.
        end = time.monotonic() + PATIENCE
        while left := [t for t in threading.enumerate() if t.name.startswith("batpak")]:
            assert time.monotonic() < end, f"{left} outlive the store"
            time.sleep(0)
        with Store.open(self.path, files=DISK, preallocate=0) as again:
            self._check(list(again))
            for check in self.further:
                check(again)
            assert again.verify("full").ok
            again.append(THEIRS, -2, kind=NOTE)

    def _use(self) -> None:
        store = self.store
        try:
            store.append(THEIRS, -1, kind=NOTE)
        except StoreClosed:
            return
        self.theirs.add(-1)
        store.sync()
        assert store.frontier().durable.sequence == store.frontier().written.sequence
        assert store.submit(THEIRS, -3, kind=NOTE).result(PATIENCE).sequence
        self.theirs.add(-3)
        with store.fence() as fence:
            fence.append(THEIRS, -4, kind=NOTE)
        self.theirs.add(-4)
        if self.reader is not None:
            assert self.reader.refresh() == len(store)
            assert [e.event_hash for e in self.reader] == [e.event_hash for e in store]
            self.reader.close()
        store.sync()
        pressure = store.pressure()
        assert pressure.is_idle, pressure
        assert pressure.queued == 0, pressure
        self._check(list(store))
        for check in self.further:
            check(store)
        report = store.verify("full")
        assert report.ok, report.findings

    def _close(self) -> None:
        self.store.close()

    def _check(self, events: list[Event]) -> None:
        numbers = [event.payload for event in events if event.kind == NOTE]
        place = {number: at for at, number in enumerate(numbers)}
        assert len(place) == len(numbers), f"an event is there twice: {numbers}"
        missing = (self.acknowledged | self.theirs) - set(numbers)
        assert not missing, f"{missing} was acknowledged and is gone"
        for commit in self.asked:
            found = [place[number] for number in commit if number in place]
            assert len(found) in (0, len(commit)), f"a part of {commit} is there: {numbers}"
            if found:
                assert found == list(range(found[0], found[0] + len(commit))), numbers
        mine = [number for number in numbers if 0 <= number < 1_000_000]
        assert mine == sorted(mine), f"out of order: {mine}"
        assert set(mine) <= {number for commit in self.asked for number in commit}
