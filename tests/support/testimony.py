"""What a process told of itself, held against what its journal shows afterwards.

`hear` turns the lines of a child of the nursery into a ledger of attempts and a list of
its errors; `check_unrecovered` reads a journal as the crash left it, with the reader that
shares no code with batpak. What comes after a recovery is `checker.check_journal`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from batpak import AppendReceipt
from batpak.ids import EventId
from tests.support.checker import Attempt, Ledger, Outcome
from tools import read_segment

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error of batpak that a process was given."""

    step: str
    classes: tuple[str, ...]
    code: str
    errno: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.step}: {self.classes[0]} [{self.code}] {self.text}"

    def is_a(self, *names: str) -> bool:
        """Whether its class is, or descends from, one of these."""
        return not set(names).isdisjoint(self.classes)


@dataclass(slots=True)
class Account:
    """All that a process told."""

    ledger: Ledger
    complaints: list[Complaint] = field(default_factory=list[Complaint])
    opened: int = 0
    keyed: list[Attempt] = field(default_factory=list[Attempt])
    """Attempts whose events are under the keys of their numbers."""
    made: list[int] = field(default_factory=list[int])
    """Sizes of checkpoints, or of snapshots, that were reported as made."""
    compacted: str | None = None
    """What came of a compaction."""
    reason: str = ""
    """Why that failed."""
    findings: set[str] = field(default_factory=set[str])


def hear(lines: Sequence[Line], before: Ledger) -> Account:
    """Attempts added to a copy of `before`, and errors.

    Asserts that no exception but batpak's came up, that each error carries a code and an
    advice, and that what the process was shown is what it had attempted by then.
    """
    told = Account(before.copy())
    ledger = told.ledger
    for line in lines:
        assert "raw" not in line, f"not an error of ours: {line['raw']}"
        if "attempt" in line:
            events = [(entity, number) for entity, number in line["attempt"]]
            ledger.attempts.append(Attempt(events))
            ledger.numbers = events[-1][1] + 1
            if line.get("keyed"):
                told.keyed.append(ledger.attempts[-1])
        elif "acknowledged" in line:
            attempt = ledger.attempts[-1]
            attempt.outcome = Outcome.ACKNOWLEDGED
            attempt.receipts = tuple(map(AppendReceipt.from_json, line["acknowledged"]))
        elif "error" in line:
            complaint = Complaint(
                line["error"], tuple(line["classes"]), line["code"], line["errno"], line["text"]
            )
            assert "BatpakError" in complaint.classes, complaint
            assert line["advice"], f"says nothing of what to do: {complaint}"
            told.complaints.append(complaint)
            if complaint.step == "append" and not line["unknown"]:
                ledger.attempts[-1].outcome = Outcome.REFUSED
            if complaint.step == "erase" and not complaint.is_a("Indeterminate"):
                ledger.erased.clear()
        elif "retried" in line:
            again = tuple(map(AppendReceipt.from_json, line["retried"]))
            attempt = ledger.attempts[-1]
            # A retry of what was refused is a first attempt.
            assert again == (attempt.receipts or again), "a retry has another receipt"
            attempt.outcome, attempt.receipts = Outcome.ACKNOWLEDGED, again
        elif "erase" in line:
            ledger.erased = dict.fromkeys(map(EventId.parse, line["erase"]), Outcome.UNKNOWN)
        elif "erased" in line:
            ledger.erased = dict.fromkeys(ledger.erased, Outcome.ACKNOWLEDGED)
        elif "compacted" in line:
            told.compacted, told.reason = line["compacted"], line["reason"] or ""
        elif "made" in line:
            told.made.append(line["made"])
        elif "shown" in line:
            ledger.explain_numbers(
                [(entity, number) for entity, number in line["shown"]], may_end_early=True
            )
        elif "findings" in line:
            told.findings.update(line["findings"])
        else:
            assert line.keys() == {"opened"}, line
            told.opened += 1
    return told


def check_unrecovered(path: str | Path, ledger: Ledger) -> None:
    """Assert, before anybody recovers the journal, that every acknowledged event is there.

    A torn tail is a note of the reader; a finding would say that the format was broken.
    """
    events: dict[int, Line] = {}

    def keep(line: Line) -> None:
        events[line["sequence"]] = line

    try:
        report = read_segment.read_journal(path, keep)
    except read_segment.NoJournalError:
        assert not ledger.receipts, "acknowledged events and no journal"
        return
    assert report.ok, [finding.line() for finding in report.findings]
    for receipt in ledger.receipts:
        event = events.get(receipt.sequence)
        assert event is not None, f"acknowledged and gone: {receipt!r}"
        stored = event["event_id"], event["content_hash"], event["prev_hash"]
        said = (
            str(UUID(bytes=receipt.event_id.bytes)),
            receipt.commitment.hex(),
            receipt.prev_hash.hex(),
        )
        assert stored == said, f"acknowledged and changed: {receipt!r}"
