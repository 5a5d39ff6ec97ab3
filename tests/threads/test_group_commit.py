"""Who waits for a group commit is woken, whoever else leaves at the wrong moment."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from batpak import Durability, Store
from batpak.config import Every
from batpak.journal.background import opened
from batpak.journal.group import GroupCommit, Request
from tests.support.faulty_files import UnsyncedFiles
from tests.support.interrupting import Interrupted
from tests.support.trial import MINE, NOTE, Helper

HANG = 30
"""Seconds that bound a hang; nothing is measured by them."""


class Leaving(Request, eq=False):
    """Its thread runs out of patience just after another one saw it waiting."""

    thread: threading.Thread | None = None
    gone: bool = False

    @property
    def is_gone(self) -> bool:  # type: ignore[override]  # a field whose reading can be staged
        was = self.gone
        thread = self.thread
        is_others = thread is not None and threading.current_thread() is not thread
        if is_others and not was and self.is_done and thread and self.gate:
            opened(self.gate)
            thread.join(HANG)
        return was

    @is_gone.setter
    def is_gone(self, value: bool) -> None:
        self.gone = value


def test_a_waiter_that_leaves_while_others_are_lined_up_behind_it_strands_none() -> None:
    """It is looked at, leaves, and only then is told whom it should have woken."""
    syncs: list[int] = []
    all_wait = threading.Event()

    def sync_once() -> None:
        syncs.append(len(syncs))
        if len(syncs) == 1:
            assert all_wait.wait(HANG)

    group = GroupCommit(lambda _: None, sync_once)
    requests = [Request.below(n) for n in range(5)]
    leaving = Leaving.below(2)
    # The first leads alone; the others wait, and the second leads them: of those whom it
    # has to wake, the one that leaves is first, and has the last one but one behind it.
    requests[2] = leaving
    threads: list[threading.Thread] = []
    for place, request in enumerate(requests):
        thread = threading.Thread(target=group.run, args=(request,), daemon=True)
        threads.append(thread)
        if request is leaving:
            leaving.thread = thread
        thread.start()
        while group.waiting < place or not syncs:
            assert thread.is_alive()
    all_wait.set()
    for thread in threads:
        thread.join(HANG)
    assert [thread.is_alive() for thread in threads] == [False] * 5
    assert len(syncs) == 2
    assert leaving.has_left


@pytest.mark.parametrize("mode", [Durability.SYNC, Every(ms=3_600_000, events=1)])
def test_what_a_close_has_made_durable_is_no_failure_of_the_append(
    tmp_path: Path, mode: Any
) -> None:
    """Another thread closes between the append's write and its sync."""
    store = Store.open(tmp_path / "journal", durability=mode, files=UnsyncedFiles())

    def closed(how: str, name: str) -> None:
        if name == "Writer._sync_once" and not store._writer.is_closed:
            Helper(store.close).end("the close")

    with Interrupted(watch=closed):
        receipt = store.append(MINE, 1, kind=NOTE)
    assert receipt.durable
    with Store.open(tmp_path / "journal") as again:
        assert again.get(receipt.event_id).payload == 1
