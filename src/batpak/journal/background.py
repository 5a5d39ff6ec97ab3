"""A thread that serves others, started when it is first needed, of which there is one.

Ctrl-C may come at any point of starting and ending it, and leaves neither a thread that
never runs nor two of them. `threading.Thread.start` can't promise that: it waits for the
new thread at a condition, whose lock Ctrl-C can leave held for ever. So a bare thread,
which no signal reaches, does the starting. Knows nothing of what the thread works on.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

__all__ = ["Worker", "gate", "opened", "passed"]


def gate() -> threading.Lock:
    """A lock that is held: who acquires it sleeps until somebody opens it."""
    closed = threading.Lock()
    closed.acquire()
    return closed


def opened(closed: threading.Lock) -> None:
    """Let one sleeper through the gate, now or later.

    Doing it twice does no harm, so it can be done again after an interruption, and by
    somebody else. Where what the sleeper looks for is published afterwards, both have to
    be under a lock that it takes before it looks.
    """
    if closed.locked():
        try:
            closed.release()
        except RuntimeError:
            # Somebody else opened it since the line before.
            return


def passed(closed: threading.Lock, timeout: float | None = None) -> bool:
    """Sleep until the gate is opened; False when `timeout` seconds are over first."""
    if timeout is None:
        return closed.acquire()
    return closed.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))


class Worker:
    """One daemon thread that runs `work` once, to its end."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name = name
        self._work = work
        self._claiming = threading.Lock()
        self._begun = gate()
        self._over = gate()
        # guarded by _claiming
        self._ident: int | None = None
        self._threads: list[threading.Thread] = []
        """The one that does the work; none where a bare thread does."""

    def start(self) -> None:
        """Return once the work has begun; nothing if it had. Raises RuntimeError."""
        if self._ident is None:
            mine: list[threading.Thread] = []
            thread = threading.Thread(target=self._run, args=(mine,), name=self._name, daemon=True)
            mine.append(thread)
            _thread.start_new_thread(_launch, (thread,))
            with self._begun:  # it is open from the beginning of the work on
                pass

    def join(self) -> None:
        """Return once the work is over; if nobody had begun, it is done here and now."""
        if not self._run([]) and not self.is_here:
            with self._over:
                pass
            for thread in self._threads:
                # Nothing is left to it but to vanish from the list of living threads.
                if thread.is_alive():
                    thread.join()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that does the work."""
        return self._ident == threading.get_ident()

    def _run(self, threads: list[threading.Thread]) -> bool:
        """Do the work unless somebody has begun it; whether it was done here."""
        claimed = False
        try:
            with self._claiming:
                if self._ident is not None:
                    return False
                self._ident = threading.get_ident()
                self._threads = threads
                claimed = True
                self._begun.release()
            self._work()
        finally:
            if claimed:
                self._over.release()
        return True


def _launch(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError:
        # No second thread to be had: this one serves as well.
        thread.run()
