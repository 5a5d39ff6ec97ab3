"""Log records of places where no handler may be called.

A handler is a caller's code. It may append, so it is called by a thread that holds neither
a lock of the writer nor the lead of a group; and it may raise, which says nothing of the
event whose commit had something to tell. Knows no record: each is a call that logs it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Untold", "told"]

_reporting = logging.NullHandler()


def told(record: Callable[[], object]) -> None:
    """Log a record; what a handler or a filter raises is shown as `logging` itself shows it."""
    try:
        record()
    except Exception:  # noqa: BLE001  # of a handler: no answer to whoever had this to tell
        _reporting.handleError(logging.makeLogRecord({"msg": "a log handler of batpak raised"}))


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
        """Log all that waits. Within a handler nothing: whoever called that goes on."""
        me = threading.get_ident()
        if me in self._tellers:
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
