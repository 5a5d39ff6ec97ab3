"""Log records of places where no handler may be called.

A handler is a caller's code. It may append, so it is called by a thread that holds neither
a lock of the writer nor the lead of a group, nor anything else that a call of the store
waits for (`telling_last`). A thread of ours that others wait for calls none at all: it would
wait for the handler's lock, and who holds that may wait for it (`Teller`). And a handler may
raise, which says nothing of the event whose commit had something to tell. Knows no record:
each is a call that logs it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from batpak.journal.background import Worker, gate, opened, passed

__all__ = ["Teller", "Untold", "telling_last", "told"]

T = TypeVar("T")

_reporting = logging.NullHandler()
_here = threading.local()
"""`kept`: what this thread has to tell once its work is over; None where it tells at once."""


def told(record: Callable[[], object]) -> None:
    """Log a record; what a handler or a filter raises is shown as `logging` itself shows it.

    Within `telling_last` it is logged when that ends.
    """
    kept = _kept()
    if kept is not None:
        kept.append(record)
        return
    try:
        record()
    except Exception:  # noqa: BLE001  # of a handler: no answer to whoever had this to tell
        _reporting.handleError(logging.makeLogRecord({"msg": "a log handler of batpak raised"}))


def telling_last(work: Callable[[], T], teller: Teller | None = None) -> T:
    """The result of `work`, which calls no log handler: what it has to tell is told afterwards.

    For work that holds what other calls of the store wait for; with a teller, for a thread that
    is waited for itself.
    """
    if _kept() is not None:
        return work()
    kept: list[Callable[[], object]] = []
    try:
        _here.kept = kept
        return work()
    finally:
        _here.kept = None
        if teller is None:
            for record in kept:
                told(record)
        elif kept:
            teller.take(kept)


def _kept() -> list[Callable[[], object]] | None:
    return getattr(_here, "kept", None)


class Untold(deque[Callable[[], object]]):
    """Records that wait until their thread, or another one, holds nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self._tellers: set[int] = set()
        """The threads that are telling."""

    def later(self, record: Callable[[], object]) -> None:
        """Have it told, unless it is of what a handler does, which would be told of that again
        and go on for ever. `append` is for what happens once.
        """
        if threading.get_ident() not in self._tellers:
            self.append(record)

    def tell(self) -> None:
        """Log all that waits. Within a handler nothing: whoever called that goes on. Within
        `telling_last` when that ends.
        """
        me = threading.get_ident()
        if me in self._tellers:
            return
        kept = _kept()
        if kept is not None:
            if self.tell not in kept:
                kept.append(self.tell)
            return
        try:
            self._tellers.add(me)
            while self:
                try:
                    record = self.popleft()
                except IndexError:  # another thread was faster
                    return
                told(record)
        finally:
            self._tellers.discard(me)


class Teller:
    """Logs what others hand over, in a thread that begins when there is something to tell.

    Nobody has to wait for it, whatever a handler waits for.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        # guarded by _mutex
        self._waiting = deque[Callable[[], object]]()
        self._over: threading.Lock | None = None
        """Opened when all is told; none where there is nothing to tell."""
        self._ident: int | None = None

    def take(self, records: Iterable[Callable[[], object]]) -> None:
        """Have them told soon; for a thread that no signal reaches."""
        with self._mutex:
            self._waiting.extend(records)
            if self._over is not None:
                return
            self._over = gate()
        try:
            Worker("batpak-teller", self._run).start()
        except RuntimeError:
            # No thread to be had, as at the interpreter's end.
            self._run()

    def wait(self, timeout: float) -> None:
        """Return once all is told, or the time is over; at once where a handler asks."""
        over = self._over
        if over is not None and self._ident != threading.get_ident():
            passed(over, timeout)
            opened(over)

    def _run(self) -> None:
        self._ident = threading.get_ident()
        while True:
            with self._mutex:
                if not self._waiting:
                    over, self._over, self._ident = self._over, None, None
                    break
                record = self._waiting.popleft()
            # Such as SystemExit of a handler: it must not end what others hand their records to.
            with suppress(BaseException):
                told(record)
        if over is not None:
            opened(over)
