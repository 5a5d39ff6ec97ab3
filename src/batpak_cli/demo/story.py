"""The demo from beginning to end: real input in, out again, killed, forged, proved, erased.

Writes into one directory of its own, a temporary one unless the caller names it. Each
part puts its claims on record with the numbers it measured; the exit code says whether
all of them held. A part that can't go on is a claim that did not hold.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batpak.coordinate import Region
from batpak.errors import BatpakError, InvalidInput
from batpak.kinds import DATA
from batpak.store import ReadOnlyStore, Store
from batpak_cli import terminal
from batpak_cli.demo.forger import ForgedJournal
from batpak_cli.demo.killing import Killed, kill_a_writer
from batpak_cli.demo.notes import Note
from batpak_cli.demo.proving import tell_proof
from batpak_cli.demo.screen import Proofs, heading, say, table
from batpak_cli.demo.sources import (
    MachineLog,
    Repository,
    find_repository,
    machine_log,
    write_jsonl,
)
from batpak_cli.demo.tampering import CASES, Outcome, Surroundings, Targets, try_case
from batpak_cli.importers.git import FileChanged, GitCommit, import_git
from batpak_cli.importers.jsonl import JsonlMapping, import_jsonl

__all__ = ["tell"]

_KILLS = (25, 60, 40)
"""After how many acknowledgements each writer is killed."""
_NAME = "batpak"
_SHOWN = 8
_STRANGER = Path(__file__).resolve().parents[3] / "tools" / "read_segment.py"
"""The reader that imports nothing of ours; only a checkout has it."""


def tell(keep: str | None) -> int:
    """Run all parts; 0 when every claim held, else 1.

    Raises InvalidInput when `keep` holds something already, StorageFailed when it can't
    be made.
    """
    began = time.perf_counter()
    folder = _folder(keep)
    proofs = Proofs()
    try:
        _Story(folder, proofs, keep_copies=keep is not None).run()
    except (BatpakError, LookupError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        proofs.add(False, f"the demo could not go on: {type(error).__name__}: {error}")
    except BaseException:
        if keep is None:
            shutil.rmtree(folder)
        raise
    proofs.show(time.perf_counter() - began)
    if proofs.failed:
        say(f"What was made is in {folder}")
        return 1
    if keep is None:
        shutil.rmtree(folder)
    else:
        say(f"Kept: {folder}; try: batpak verify {folder / 'tampered' / 'row-field'}")
    return 0


def _folder(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="batpak-demo-"))
    folder = Path(os.path.abspath(keep))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not os.listdir(folder)
    except OSError as error:
        raise InvalidInput(
            f"the directory can't be made: {error.strerror}",
            field="keep",
            value=str(folder),
            advice="name another one",
        ) from error
    if not empty:
        raise InvalidInput(
            "the directory is not empty, and the demo changes nothing that was there before",
            field="keep",
            value=str(folder),
            advice="name a new one",
        )
    return folder


@dataclass(frozen=True, slots=True)
class _Input:
    """What gets imported, and with segments of what size."""

    repository: Repository
    log: MachineLog
    jsonl: Path
    segment_bytes: int
    batch_events: int


class _Story:
    def __init__(self, folder: Path, proofs: Proofs, *, keep_copies: bool) -> None:
        self._folder = folder
        self._proofs = proofs
        self._keep_copies = keep_copies
        self._journal = folder / "journal"

    def run(self) -> None:
        source = self._find()
        self._import(source)
        note = self._read(source)
        self._kill()
        self._tamper(source, note)
        tell_proof(self._journal, self._folder, self._proofs)

    # --- real input ------------------------------------------------------------------

    def _find(self) -> _Input:
        heading(1, "Real input goes into a journal")
        repository = find_repository(self._folder / "source")
        say(f"git: {repository.title}, {repository.path}")
        log = machine_log()
        jsonl = self._folder / "machine.jsonl"
        write_jsonl(jsonl, log.objects)
        say(f"JSONL: made on the spot from {log.title}: {len(log.objects):,} lines")
        # Small enough for several segments whatever the machine's log is like.
        return _Input(
            repository,
            log,
            jsonl,
            min(max(jsonl.stat().st_size // 2, 8192), 8 << 20),
            max(len(log.objects) // 20, 8),
        )

    def _import(self, source: _Input) -> None:
        began = time.perf_counter()
        git_events = self._import_git(self._journal, source)
        # Kept for a forger who puts the whole folder back.
        shutil.copytree(self._journal, self._folder / "earlier")
        jsonl_events = self._import_jsonl(self._journal, source)
        seconds = time.perf_counter() - began
        again = self._import_git(self._journal, source) + self._import_jsonl(self._journal, source)
        say(f"{git_events + jsonl_events:,} events in {seconds:.2f} s, every commit synced")
        self._proofs.add(
            again == 0,
            f"{git_events + jsonl_events:,} events imported; importing again added {again}",
        )

    def _import_git(self, journal: Path, source: _Input) -> int:
        with (
            Store.open(journal, segment_max_bytes=source.segment_bytes) as store,
            terminal.Bar("git", unit="commits") as bar,
        ):
            report = import_git(
                store,
                source.repository.path,
                name=_NAME,
                batch_events=source.batch_events,
                progress=bar,
            )
        return report.events

    def _import_jsonl(self, journal: Path, source: _Input) -> int:
        mapping = JsonlMapping(entity=source.log.entity, entity_field=source.log.field, kind=DATA)
        with (
            Store.open(journal, segment_max_bytes=source.segment_bytes) as store,
            terminal.Bar("JSONL", unit="bytes") as bar,
        ):
            report = import_jsonl(
                store,
                source.jsonl,
                mapping=mapping,
                batch_events=source.batch_events,
                progress=bar,
            )
        return report.events

    # --- and out again ---------------------------------------------------------------

    def _read(self, source: _Input) -> Note:
        heading(2, "It comes back, and every hash is right")
        with Store.open(self._journal, mode="r") as store:
            self._show_counts(store)
            self._check_git(store, source)
            self._check_jsonl(store, source)
            began = time.perf_counter()
            report = store.verify("full")
            seconds = time.perf_counter() - began
            self._proofs.add(
                report.ok and report.events == len(store),
                f"verify: {len(report.findings)} findings in {report.events:,} events, every hash"
                f" recomputed in {seconds:.2f} s",
            )
            note = Note.of(store)
        if _STRANGER.is_file():
            self._ask_the_stranger(note)
        return note

    def _ask_the_stranger(self, note: Note) -> None:
        done = subprocess.run(
            [sys.executable, str(_STRANGER), str(self._journal)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = {
            line.split("  ")[0]: line.split("  ")[-1].split()[0]
            for line in done.stdout.splitlines()
        }
        agrees = said.get("events") == str(note.size) and said.get("last hash") == (
            note.last_hash.hex()
        )
        self._proofs.add(
            agrees and done.returncode == 0,
            "tools/read_segment.py, which shares no code with batpak, comes to the same hashes",
        )

    def _show_counts(self, store: ReadOnlyStore) -> None:
        stats = store.stats()
        terminal.pairs(
            [
                ("events", stats.events),
                ("entities", stats.entities),
                ("segments", stats.segments),
                ("bytes of log", stats.segment_bytes),
                ("of these commits", store.count(Region(kind=GitCommit))),
                ("changed files", store.count(Region(kind=FileChanged))),
                ("lines of the log", store.count(Region(kind=DATA))),
                ("files under src/", store.count(Region(entity="file:src"))),
            ]
        )
        say("", "The last events, but for those that the journal writes about itself:")
        last = deque((e for e in store if not e.kind.is_reserved), maxlen=_SHOWN)
        terminal.event_table(last)

    def _check_git(self, store: ReadOnlyStore, source: _Input) -> None:
        commits: dict[bytes, str] = {}
        files = caused = 0
        for event in store.query(Region(kind=GitCommit)):
            commits[event.event_id.bytes] = event.decode(GitCommit).hash
        for event in store.query(Region(kind=FileChanged)):
            files += 1
            cause = event.causation_id
            caused += cause is not None and commits.get(cause.bytes) == event.payload.commit
        self._proofs.add(
            len(set(commits.values())) == source.repository.commits and files == caused > 0,
            f"{len(commits):,} of git's {source.repository.commits:,} commits are there;"
            f" {caused:,} of {files:,} changed files link to theirs",
        )

    def _check_jsonl(self, store: ReadOnlyStore, source: _Input) -> None:
        stored = [event.value for event in store.query(Region(kind=DATA))]
        lines: list[Any] = [json.loads(line) for line in source.jsonl.open(encoding="utf-8")]
        same = sum(one == other for one, other in zip(stored, lines, strict=False))
        self._proofs.add(
            same == len(lines) == len(stored),
            f"{same:,} of {len(lines):,} JSON lines came back equal and in order",
        )

    # --- killed ----------------------------------------------------------------------

    def _kill(self) -> None:
        heading(3, "A writer is killed with SIGKILL in the middle of its appends")
        journal = self._folder / "killed"
        rounds = [kill_a_writer(journal, n, after) for n, after in enumerate(_KILLS)]
        table(
            ("round", "acknowledged", "of these missing", "written, not yet said", "torn"),
            [
                (
                    str(number),
                    str(killed.acknowledged),
                    str(killed.missing),
                    str(killed.unacknowledged),
                    str(killed.cut_bytes),
                )
                for number, killed in enumerate(rounds, 1)
            ],
        )
        say("A kill is not a power cut; for that, SYNC waits for the disk before it answers.")
        self._proofs.add(all(killed.held for killed in rounds), _killed_claim(rounds))

    # --- forged ----------------------------------------------------------------------

    def _tamper(self, source: _Input, note: Note) -> None:
        heading(4, "Copies are forged; every checksum of every forgery is right")
        foreign = self._folder / "another"
        self._import_git(foreign, source)
        self._import_jsonl(foreign, source)
        self._import_git(foreign, source)
        targets = Targets.choose(ForgedJournal(self._journal))
        around = Surroundings(foreign, self._folder / "earlier", note)
        tampered = self._folder / "tampered"
        tampered.mkdir()
        outcomes: list[Outcome] = []
        for case in CASES:
            copy = tampered / case.name
            outcomes.append(try_case(case, self._journal, copy, targets, around))
            if not self._keep_copies:
                shutil.rmtree(copy)
        alone = [outcome for outcome in outcomes if not outcome.case.needs_note]
        noted = [outcome for outcome in outcomes if outcome.case.needs_note]
        table(("forgery", "by", "code", "reason", "event", "segment:offset"), map(_row, alone))
        say(
            "Whoever may write the whole folder can make every hash anew as well. What shows that",
            f"is a note kept where he can't write: here the number of events ({note.size:,}), the",
            "newest event's hash, and a digest over all event hashes, as a checkpoint will have.",
        )
        columns = ("forgery", "the journal alone", "number", "newest hash", "digest")
        table(columns, map(_note_row, noted))
        self._claim(alone, "forgeries with right checksums were caught by the journal itself")
        self._claim(noted, "without a trace in the journal were caught by the note, and only by it")

    def _claim(self, outcomes: list[Outcome], what: str) -> None:
        held = [outcome for outcome in outcomes if outcome.held]
        missed = [outcome.case.name for outcome in outcomes if not outcome.held]
        names = f"; not as foretold: {', '.join(missed)}" if missed else ""
        self._proofs.add(not missed, f"{len(held)} of {len(outcomes)} {what}{names}")


def _killed_claim(rounds: list[Killed]) -> str:
    acknowledged = sum(killed.acknowledged for killed in rounds)
    there = acknowledged - sum(killed.missing for killed in rounds)
    return (
        f"{there:,} of {acknowledged:,} acknowledged events survived {len(rounds)} kills,"
        " all verified"
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    seen = outcome.caught
    if seen is None:
        others = ", ".join(f"{s.by} {s.code}" for s in outcome.sightings) or "nothing"
        return (outcome.case.title, "NOT as foretold", others, "", "", "")
    event = "" if seen.sequence is None else str(seen.sequence)
    return (outcome.case.title, seen.by, seen.code, seen.reason, event, seen.where)


def _note_row(outcome: Outcome) -> tuple[str, ...]:
    found = {seen.by for seen in outcome.sightings}
    alone = sorted(by for by in found if not by.startswith("note"))
    if "note: size" in found:
        shown = ("caught", "–", "–")
    else:
        last, digest = "note: last hash" in found, "note: digest" in found
        shown = ("same", "caught" if last else "same", "caught" if digest else "same")
    return (outcome.case.title, ", ".join(alone) or "sees nothing", *shown)
