"""The thread of `Durability.EVERY`: it syncs in time what no later write has synced."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from batpak.config import Every
from batpak.journal.background import Worker, gate, opened
from batpak.journal.reentry import owns
from batpak.journal.telling import Teller, telling_last, told

__all__ = ["Flusher"]

logger = logging.getLogger("batpak.journal")


class Synced(Protocol):
    """What is synced: a writer."""

    @property
    def is_over(self) -> bool: ...
    def sync(self) -> None: ...


class Flusher:
    """The one thread of `Durability.EVERY`: syncs what an idle writer left waiting."""

    def __init__(self, writer: Synced, every: Every, teller: Teller) -> None:
        self._writer = writer
        self._teller = teller
        self._every = every
        self._worker = Worker("batpak-flusher", self._run)
        self._wake = gate()
        """Where the thread waits for something to become due, or for it to be due."""
        # Its own thread may come in again: a signal handler that appends does no harm here.
        self._mutex = threading.RLock()
        # guarded by _mutex
        self._due: float | None = None
        self._stopped = False

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is in the middle of what others would wait for."""
        return owns(self._mutex)

    def note_write(self, waiting: int, *, is_inner: bool = False) -> None:
        """Called after each commit with the number of events that are not durable yet.

        `is_inner`: in the middle of a sync of the same thread, so that it can't do another.
        """
        is_due = waiting >= self._every.events
        if is_due and not is_inner:
            self._writer.sync()
            return
        if self._due is not None:
            return
        due = time.monotonic() + (0 if is_due else self._every.ms / 1000)
        with self._mutex:
            if self._due is None and not self._stopped:
                # Last what the thread looks for: Ctrl-C leaves none that nobody looks at.
                self._worker.start()
                opened(self._wake)
                self._due = due

    def _run(self) -> None:
        while True:
            with self._mutex:
                due, is_over = self._due, self._stopped
            if is_over:
                return
            left = None if due is None else due - time.monotonic()
            if left is None:
                self._wake.acquire()
                continue
            if left > 0:
                self._wake.acquire(timeout=left)
                continue
            with self._mutex:
                self._due = None
            # Whoever stops this thread waits for it, perhaps in a log handler.
            if not telling_last(self._sync, self._teller):
                return

    def _sync(self) -> bool:
        """Whether there will be another one."""
        try:
            self._writer.sync()
        except Exception as error:  # noqa: BLE001  # nobody else hears of it
            return self._goes_on(error)
        return True

    def _goes_on(self, error: Exception) -> bool:
        """Tell of a sync that failed; whether it is tried again, an interval later."""
        if self._stopped:
            return False
        told(
            lambda: logger.error(
                "the interval sync failed: %s", str(error),
                extra={"code": "interval-sync-failed", "error": str(error)},
            )
        )  # fmt: skip
        if self._writer.is_over:
            # The journal is poisoned: the next append says so.
            return False
        # Such as a caller's clock that failed. What is written stays due.
        with self._mutex:
            self._due = time.monotonic() + self._every.ms / 1000
        return True

    def abandon(self) -> None:
        """The thread ends when it can; nobody waits for that."""
        with self._mutex:
            self._stopped = True
            opened(self._wake)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self.abandon()
        self._worker.join()
