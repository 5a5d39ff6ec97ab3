"""Clocks: four readings, from the machine or from a function.

A clock reads and nothing else: clamping time that runs backwards is the work of
whoever writes events. `checked_us` is the one place that decides which reading
can be stored. Deadlines never use these clocks' wall time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from batpak.errors import InvalidClock

__all__ = ["SYSTEM_CLOCK", "Clock", "FunctionClock", "SystemClock", "as_clock", "checked_us"]

MAX_US: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999: the last that a datetime can name. The hybrid
clock has 48 bits of milliseconds, which end in the year 10889."""


@runtime_checkable
class Clock(Protocol):
    """What a journal asks of a clock."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an unknown point: only differences mean something."""
        ...

    def boot_marker(self) -> str:
        """Names the point that `monotonic_ns` counts from: compare readings of one marker only."""
        ...


# Taken once, so that every clock of this process gives one marker.
_STARTED_NS: Final = time.time_ns()


class SystemClock:
    """The machine's clock. A time before 1970 reads as 0."""

    __slots__ = ()

    def now_us(self) -> int:
        return max(0, time.time_ns()) // 1000

    def now_ns(self) -> int:
        return max(0, time.time_ns())

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def boot_marker(self) -> str:
        return f"{os.getpid()}-{_STARTED_NS}"

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK: Final = SystemClock()


class FunctionClock:
    """Wall time from a function that returns microseconds; the rest from the machine."""

    __slots__ = ("_now_us",)

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us()

    def now_ns(self) -> int:
        return self._now_us() * 1000

    def monotonic_ns(self) -> int:
        return SYSTEM_CLOCK.monotonic_ns()

    def boot_marker(self) -> str:
        return SYSTEM_CLOCK.boot_marker()

    def __repr__(self) -> str:
        return f"FunctionClock({self._now_us!r})"


def as_clock(value: Clock | Callable[[], int] | None) -> Clock:
    """The machine's clock for None, a clock as it is, a function of microseconds wrapped.

    Raises: InvalidClock for anything else. Nothing is read here.
    """
    if value is None:
        return SYSTEM_CLOCK
    if isinstance(value, Clock) and not isinstance(value, type):
        return value
    if callable(value) and not isinstance(value, type):
        return FunctionClock(value)
    raise InvalidClock(
        f"{value!r} is not a clock",
        advice="give None, a function that returns microseconds, or an object with "
        "now_us, now_ns, monotonic_ns and boot_marker",
        field="clock",
        value=value,
    )


def checked_us(clock: Clock) -> int:
    """One reading of `now_us`, from 0 to MAX_US. Raises: InvalidClock for any other."""
    now_us: object = clock.now_us()
    if type(now_us) is int and 0 <= now_us <= MAX_US:
        return now_us
    if not isinstance(now_us, int) or isinstance(now_us, bool):
        what = f"the clock read {now_us!r}, which is no integer"
    elif now_us < 0:
        what = f"the clock read {now_us} µs, which is before 1970"
    elif now_us > MAX_US:
        what = f"the clock read {now_us} µs, which is after the year 9999"
    else:
        return int(now_us)
    raise InvalidClock(
        what,
        advice="now_us() must return whole microseconds since 1970-01-01 UTC",
        field="now_us",
        value=now_us,
    )
