"""The thread of `Durability.EVERY` by itself, on a clock that a test moves."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from batpak.config import Every
from batpak.journal import flushing
from batpak.journal.flushing import Flusher
from batpak.journal.telling import Teller
from tests.watched_files import WAIT


class Failing:
    """A writer whose every sync fails, and not because the journal is over."""

    is_over = False

    def __init__(self) -> None:
        self.syncs = 0
        self.synced = threading.Semaphore(0)

    def sync(self) -> None:
        self.syncs += 1
        self.synced.release()
        raise OSError("not now")


class Hands:
    """A clock that stands until it is moved; a permit for each look at it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looked = threading.Semaphore(0)

    def monotonic(self) -> float:
        self.looked.release()
        return self.now

    def was_looked_at(self, times: int) -> None:
        while self.looked.acquire(blocking=False):
            pass
        for _ in range(times):
            assert self.looked.acquire(timeout=WAIT), "the thread looks no more"


def test_a_sync_that_failed_is_tried_again_an_interval_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, writer = Hands(), Failing()
    monkeypatch.setattr(flushing, "time", SimpleNamespace(monotonic=clock.monotonic))
    flusher = Flusher(writer, Every(ms=1, events=100), Teller())
    flusher.note_write(1)
    for number in range(3):
        clock.was_looked_at(4)
        assert writer.syncs == number, "before its time"
        clock.now += 0.0015
        assert writer.synced.acquire(timeout=WAIT)
    flusher.stop()
