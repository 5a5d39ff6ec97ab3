"""Writers that are killed, or whose files may not grow: nothing acknowledged is missing.

Real processes and real signals; `tests/support/killing.py` says what is asked of each
journal, and `make kills` asks it thousands of times.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import effort, killing
from tests.support.checker import Ledger, check_journal
from tests.support.killing import MANNERS, Claims, Manner, Tally
from tests.support.nursery import Line, Nursery
from tests.support.testimony import check_unrecovered, hear


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@pytest.mark.proves("INV-ACKNOWLEDGED-SURVIVES-KILL")
@pytest.mark.parametrize("manner", MANNERS, ids=str)
def test_killed_writers_lose_nothing_in_any_mode(
    manner: Manner, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Single events and batches, of one thread and of four, in each durability mode."""
    tally, chance = Tally(), effort.draws(f"kills {manner}")
    path = str(tmp_path / "in" / "journal")
    killing.live_and_be_killed(nursery, path, manner, chance, 3, tally)
    effort.note(request, kills=tally.kills, acknowledged_events=tally.acknowledged)
    assert tally.kills == 3


@pytest.mark.proves("INV-CRASHES-IN-A-ROW")
@pytest.mark.parametrize("turn", range(6))
def test_five_opens_killed_in_a_row_lose_nothing(
    turn: int, nursery: Nursery, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tally = Tally()
    killing.crash_in_a_row(
        nursery, str(tmp_path / "journal"), effort.draws(f"crashes {turn}"), tally
    )
    effort.note(request, kills=tally.kills)
    assert tally.kills == killing.CRASHES


@pytest.mark.proves("INV-FULL-DISK-RECOVERS")
@pytest.mark.parametrize("entities", [["player:0"], ["player:0", "player:1"]], ids=len)
def test_a_write_that_the_system_cuts_short_leaves_nothing(
    entities: list[str], nursery: Nursery, tmp_path: Path
) -> None:
    """The kernel itself writes a part and refuses the rest, at any byte of a record."""
    for extra in effort.sample("short writes", range(300), 12):
        path = tmp_path / str(extra)
        with nursery.child(
            "outgrows", path, mode="os", extra=extra, dies=False, entities=entities
        ) as child:
            child.listen_to_end()
        assert child.status == 0, child.lines[-1:]
        told = hear(child.lines, Ledger())
        [complaint] = told.complaints
        assert (complaint.step, complaint.code) == ("append", "storage-failed")
        assert complaint.errno == errno.EFBIG
        check_unrecovered(path, told.ledger)
        events = check_journal(path, told.ledger)
        assert len(events) == 1 + 1 + 1 + 2 + 1 + 1, "open, three commits, close, open"


@pytest.mark.proves("INV-ACKNOWLEDGED-SURVIVES-KILL")
def test_a_writer_that_dies_within_a_write_tears_nothing_else(
    nursery: Nursery, tmp_path: Path
) -> None:
    torn = 0
    for extra in effort.sample("torn writes", range(300), 16):
        path = tmp_path / str(extra)
        with nursery.child(
            "outgrows", path, mode="sync", extra=extra, dies=True, entities=["player:0"]
        ) as child:
            child.listen_to_end()
        assert child.status == -signal.SIGXFSZ, child.lines[-1:]
        told = hear(child.lines, Ledger())
        check_unrecovered(path, told.ledger)
        check_journal(path, told.ledger)
        torn += os.path.isdir(path / "quarantine")
    assert torn >= 10, "a record that was written in part is set aside"


# --- the checks themselves -----------------------------------------------------------


@pytest.fixture(scope="module")
def killed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Claims]:
    """A journal whose writer was killed, in batches of four, and what it had said."""
    path = tmp_path_factory.mktemp("killed") / "journal"
    claims = Claims()
    options = {"round": 0, "seed": 1, "mode": "os", "threads": 1, "batch": 4}
    with nursery.child("works", path, **options) as child:
        child.listen_for(8)
        child.kill()
        child.listen_to_end()
    for line in child.lines[1:]:
        claims.add(0, line)
    killing.check_killed(str(path), claims)
    return path, claims


def test_a_missing_acknowledged_event_is_seen(killed: tuple[Path, Claims], tmp_path: Path) -> None:
    path, claims = killed
    copy = tmp_path / "journal"
    shutil.copytree(path, copy)
    newest = max((copy / "segments").glob("*.seg"))
    data = newest.read_bytes()
    # Nobody synced, so the log without its last two records is a journal like any other.
    os.truncate(newest, data.rindex(b"BPC1", 0, data.rindex(b"BPC1")))
    with pytest.raises(AssertionError, match="is gone"):
        killing.check_killed(str(copy), claims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda events: events.pop(max(events)), "gaps"),
        (lambda events: events.pop(min(events)), "whole"),
        (lambda events: events.update({min(events): {**events[min(events)], "i": 1}}), "whole"),
        (lambda events: [events.pop(key) for key in sorted(events)[:4]], "order or missing"),
        (lambda events: [events.pop(key) for key in sorted(events)[-8:]], "told of"),
        (lambda events: events.clear(), "told of"),
    ],
)
def test_a_commit_in_part_or_out_of_order_is_seen(
    change: Callable[[dict[int, Line]], object], message: str
) -> None:
    def events(commits: int) -> dict[int, Line]:
        return {
            10 + 4 * commit + i: {"who": 0, "round": 0, "commit": commit, "i": i, "of": 4}
            for commit in range(commits)
            for i in range(4)
        }

    claims = Claims(last={(0, 0): 2})
    assert killing.check_commits(events(3), claims) == 0
    assert killing.check_commits(events(4), claims) == 1
    changed = events(3)
    change(changed)
    with pytest.raises(AssertionError, match=message):
        killing.check_commits(changed, claims)
