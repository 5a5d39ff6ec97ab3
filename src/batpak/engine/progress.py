"""Tell a caller how far a long work is.

A `progress=` function is the caller's code, run in the middle of ours and by the thread that
called: it may be slow, raise, or use the store. So it is called a bounded number of times,
never under the append lock, and what it raises is not taken for a failure of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from batpak.errors import InvalidInput

__all__ = ["Meter", "Progress"]

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Told what is done, and what there is in all, now and then; at the end that they are equal."""
_CALLS: Final = 1000
"""About how often a function is called at most, however long the work is."""


def _check(progress: Progress | None) -> None:
    """Raises InvalidInput for what can't be called."""
    if progress is not None and not callable(progress):
        raise InvalidInput(
            "progress= takes a function of what is done and the total",
            field="progress",
            value=progress,
            advice="give a function of two integers",
        )


class _Raised(BaseException):
    """Carries what the caller's function raised past the handlers of the work's own failures.

    An OSError of a terminal that is gone, for one, says nothing of the journal's disk.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Meter:
    """How far one work is. `done` never goes back, and is the total once: when all is done."""

    def __init__(self, progress: Progress | None) -> None:
        _check(progress)
        self._progress = progress
        self._next = 1
        self.total = 0
        """Set it before the first step is told."""

    @property
    def tell(self) -> Callable[[int], None] | None:
        """`reach`, or None where nobody listens, so that nothing has to be counted."""
        return None if self._progress is None else self.reach

    def reach(self, done: int) -> None:
        """So much of the total is done; what raises leaves `run` as it was raised."""
        if self._progress is None or not self._next <= done < self.total:
            return
        self._next = done + max(1, self.total // _CALLS)
        try:
            self._progress(done, self.total)
        except Exception as error:  # noqa: BLE001  # it is raised again by `run`
            raise _Raised(error) from None

    def step(self, done: int, total: int) -> None:
        """As `reach`, for a work that learns on its way what there is in all."""
        self.total = total
        self.reach(done)

    def from_here(self, begun: int) -> Callable[[int], None] | None:
        """As `tell`, for a part of the work that begins when so much of the total is done."""
        return None if self._progress is None else lambda done: self.reach(begun + done)

    def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which tells its steps, once the end is told as well.

        The end is told when the work holds nothing any more: whatever is raised then, it is done.
        """
        try:
            result = work()
        except _Raised as carried:
            raised = carried.error
        else:
            if self._progress is not None:
                self._progress(self.total, self.total)
            return result
        try:
            # Here, where no exception is being handled: it says no more than it said.
            raise raised
        finally:
            del raised
