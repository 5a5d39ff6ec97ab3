"""Kill a writer in the middle of appends, open the journal again, and count.

A kill shows what the death of a process leaves; a power cut is another matter, which
tests/crash looks at by leaving out what was not synced.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from batpak.errors import BatpakError
from batpak.ids import EventId
from batpak.store import Store
from batpak_cli.demo.writer import WHERE

__all__ = ["Killed", "is_there", "kill_a_writer"]


@dataclass(frozen=True, slots=True)
class Killed:
    """One round."""

    acknowledged: int
    missing: int
    """Acknowledged events that are not there, or not what was acknowledged."""
    unacknowledged: int
    """Events that are there though their writer died before it could say so."""
    cut_bytes: int
    """What opening took off the tail: a record that the kill tore."""
    verified: bool

    @property
    def held(self) -> bool:
        """Whether the promise was kept; a writer without company has one append under way."""
        return (
            self.acknowledged > 0
            and not self.missing
            and self.verified
            and (0 <= self.unacknowledged <= 1)
        )


def kill_a_writer(journal: Path, attempt: int, after: int) -> Killed:
    """Let a child append, SIGKILL it once `after` appends are acknowledged, and look.

    Raises RuntimeError when the child ends by itself.
    """
    acknowledged = _run_and_kill(journal, attempt, after)
    with Store.open(journal) as store:
        missing = sum(not is_there(store, attempt, line) for line in acknowledged)
        there = sum(event.depth == attempt for event in store.entity(WHERE.entity))
        cut = store.open_report.cut
        return Killed(
            len(acknowledged),
            missing,
            there - (len(acknowledged) - missing),
            0 if cut is None else cut.bytes,
            store.verify("full").ok,
        )


def is_there(store: Store, attempt: int, line: str) -> bool:
    """Whether what a line of the writer acknowledges is what the journal holds."""
    sequence, event_id, number = line.split()
    try:
        event = store.get(EventId.parse(event_id))
    except BatpakError:
        return False
    return event.sequence == int(sequence) and event.value == {
        "round": attempt,
        "number": int(number),
    }


def _run_and_kill(journal: Path, attempt: int, after: int) -> list[str]:
    """What the child acknowledged, up to its last whole line."""
    lines: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "batpak_cli.demo.writer", str(journal), str(attempt)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None, "it was asked for"
        try:
            for line in child.stdout:
                if line.endswith("\n"):
                    lines.append(line)
                if len(lines) == after:
                    child.send_signal(signal.SIGKILL)
        finally:
            child.kill()
        if child.wait() != -signal.SIGKILL or len(lines) < after:
            complaints.seek(0)
            raise RuntimeError(f"the writer ended by itself: {complaints.read().strip()}")
    return lines
