"""The futures that queue and fence hand out, made so that Ctrl-C leaves nobody waiting.

The standard library's Future takes the lock of a condition by a method written in Python,
in which Ctrl-C can strike while the lock is held; it stays held, and whoever settles the
future later sleeps for ever. Here `with` takes the lock itself. What stays: a thread that
stands in `concurrent.futures.wait` leaves by Ctrl-C as the library lets it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, Final, TypeVar

from batpak.journal.telling import told

__all__ = ["Ticket", "told_of_callback"]

logger = logging.getLogger("batpak.store")

T = TypeVar("T")

_OPEN: Final = (PENDING, RUNNING)


class _Condition(threading.Condition):
    """A condition whose lock `with` takes in one step.

    `with` looks both methods up before it takes the lock, and these are written in C.
    """

    def __init__(self, whole: Any) -> None:
        self._whole = whole
        super().__init__(whole)

    @property
    def __enter__(self) -> Callable[..., bool]:  # type: ignore[override]  # what `with` calls
        return self._whole.__enter__

    @property
    def __exit__(self) -> Callable[..., None]:  # type: ignore[override]  # what `with` calls
        return self._whole.__exit__


class Ticket(Future[T]):
    """A Future that can be settled again where settling was cut short.

    Its condition is made for the first one who waits or asks: most futures are settled
    before, and a condition costs more than all the rest of one.
    """

    def __init__(self) -> None:
        # Instead of the library's, which makes a condition; its fields are these.
        self._lock = threading.RLock()
        self._made: _Condition | None = None
        self._state = PENDING
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Future[T]], object]] = []

    @property
    def _condition(self) -> _Condition:  # type: ignore[override]  # the library's field
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = _Condition(self._lock)
        return self._made

    def set_running_or_notify_cancel(self) -> bool:
        """As the library's. Raises RuntimeError where it is settled."""
        with self._lock:
            if self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def tell(self, result: T | None, error: BaseException | None) -> None:
        """Settle it, unless it is settled or cancelled, and see that everybody hears of it.

        May be called again after an interruption, and by several threads at once.
        """
        with self._lock:
            if self._state in _OPEN:
                # No call among these, so Ctrl-C comes before them all or after.
                self._result = result
                self._exception = error
                self._state = FINISHED
            for waiter in list(self._waiters):
                if self not in waiter.finished_futures:
                    self._tell_waiter(waiter)
            if self._made is not None:
                self._made.notify_all()
        if self._done_callbacks:
            self._invoke_callbacks()

    def _tell_waiter(self, waiter: Any) -> None:
        if self.cancelled():
            waiter.add_cancelled(self)
        elif self._exception is not None:
            waiter.add_exception(self)
        else:
            waiter.add_result(self)

    def _invoke_callbacks(self) -> None:
        # As the library does, but each of them once, however often this is called.
        callbacks = self._done_callbacks
        while callbacks:
            with self._lock:
                if not callbacks:
                    return
                callback = callbacks[0]
                del callbacks[0]
            try:
                callback(self)
            except Exception as error:  # noqa: BLE001  # the caller's code, run for it
                told_of_callback(error)


def told_of_callback(error: BaseException) -> None:
    """Say in the log what a callback raised; for use where it is caught."""
    told(
        lambda: logger.error(
            "a callback of a ticket raised %r", error, exc_info=error,
            extra={"code": "callback-failed", "error": str(error)},
        )
    )  # fmt: skip
