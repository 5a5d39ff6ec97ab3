"""Clocks: what may be one, and which readings can be stored."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from batpak.clock import (
    MAX_US,
    SYSTEM_CLOCK,
    Clock,
    FunctionClock,
    SystemClock,
    as_clock,
    checked_us,
)
from batpak.errors import InvalidClock


def test_the_system_clock_reads_the_machine():
    before = time.time_ns()
    clock = SystemClock()
    ns, us = clock.now_ns(), clock.now_us()
    after = time.time_ns()
    assert before <= ns <= after
    assert before // 1000 <= us <= after // 1000
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert isinstance(clock, Clock)


def test_one_process_has_one_marker():
    assert SystemClock().boot_marker() == FunctionClock(lambda: 0).boot_marker() != ""


def test_a_function_is_a_clock_of_microseconds():
    ticks = iter([5, 6])
    clock = as_clock(lambda: next(ticks))
    assert clock.now_us() == 5
    assert clock.now_ns() == 6000
    assert clock.monotonic_ns() > 0
    assert isinstance(clock, Clock)


def test_none_is_the_machine_and_a_clock_stays_itself():
    assert as_clock(None) is SYSTEM_CLOCK
    clock = SystemClock()
    assert as_clock(clock) is clock


@pytest.mark.parametrize("value", [5, "now", object(), SystemClock, int])
def test_what_is_no_clock_is_refused(value):
    with pytest.raises(InvalidClock) as caught:
        as_clock(value)
    assert caught.value.field == "clock"


@pytest.mark.parametrize("reading", [0, 1, MAX_US])
def test_readings_up_to_the_year_9999_are_stored(reading):
    assert checked_us(FunctionClock(lambda: reading)) == reading


def test_the_last_reading_can_be_named_and_fits_the_hybrid_clock():
    last = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=MAX_US)
    assert (last.year, last.microsecond) == (9999, 999_999)
    with pytest.raises(OverflowError):
        last + timedelta(microseconds=1)
    assert MAX_US // 1000 << 16 < 2**64


@pytest.mark.parametrize(
    ("reading", "says"),
    [
        (-1, "before 1970"),
        (MAX_US + 1, "9999"),
        (2**63, "9999"),
        (1.5, "no integer"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_other_readings_are_refused(reading, says):
    with pytest.raises(InvalidClock, match=says) as caught:
        checked_us(FunctionClock(lambda: reading))
    assert caught.value.value is reading


def test_an_integer_subclass_is_stored_as_an_integer():
    class Ticks(int):
        pass

    assert type(checked_us(FunctionClock(lambda: Ticks(7)))) is int
