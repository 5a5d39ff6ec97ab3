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
from typing import Any, TypeVar, cast

from batpak.errors import BatpakError

__all__ = ["Ticket"]

logger = logging.getLogger("batpak.store")

T = TypeVar("T")


class _Condition(threading.Condition):
    """A condition whose lock `with` takes in one step.

    `with` looks both methods up before it takes the lock, and these are written in C.
    """

    def __init__(self) -> None:
        self._whole = threading.RLock()
        super().__init__(self._whole)

    @property
    def __enter__(self) -> Callable[..., bool]:  # type: ignore[override]  # what `with` calls
        return self._whole.__enter__

    @property
    def __exit__(self) -> Callable[..., None]:  # type: ignore[override]  # what `with` calls
        return self._whole.__exit__


class Ticket(Future[T]):
    """A Future that can be settled again where settling was cut short."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = _Condition()

    def tell(self, result: T | None, error: BatpakError | None) -> None:
        """Settle it; after an interruption, see that everybody hears of it."""
        if not self.done():
            if not self.running() and not self.set_running_or_notify_cancel():
                return
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]  # no error, so a result
            else:
                self.set_exception(error)
            return
        with self._condition:
            waiters: list[Any] = list(self._waiters)
            for waiter in waiters:
                if self not in waiter.finished_futures:
                    waiter.add_result(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        # As the library does, but each of them once, however often this is called.
        undeclared: Any = self
        callbacks = cast("list[Callable[[Future[T]], object]]", undeclared._done_callbacks)
        while callbacks:
            callback = callbacks[0]
            del callbacks[0]
            try:
                callback(self)
            except Exception as error:  # the caller's code, run for it
                logger.error(
                    "a callback of a ticket raised %r", error, exc_info=True,
                    extra={"code": "callback-failed", "error": str(error)},
                )  # fmt: skip
