"""`make demo` does what it claims, and says so when it does not; each forgery is named.

The forgeries run on a small journal with known places, so that file and sequence of each
answer are known here, apart from what the demo itself foretells.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from batpak import Coordinate, Durability, EventKind, Store
from batpak.journal.layout import segment_name
from batpak_cli.demo.forger import ForgedJournal
from batpak_cli.demo.killing import is_there, kill_a_writer
from batpak_cli.demo.notes import Comparison, Note
from batpak_cli.demo.sources import FEWEST, find_repository, machine_log, write_jsonl
from batpak_cli.demo.tampering import (
    CASES,
    Case,
    Expected,
    Outcome,
    Sighting,
    Surroundings,
    Targets,
    examine,
    try_case,
)
from batpak_cli.demo.writer import WHERE
from batpak_cli.importers.jsonl import JsonlMapping, import_jsonl
from tools import read_segment
from tools.docs_code import ROOT

KIND = EventKind(0xF, 1)
EVENTS = 120
ENTITIES = 3

# The journal of the fixture: event 0 is its opening, user event i has sequence i + 1 and is of
# entity i % 3, then a close, an open and five more. A test below checks what follows from it.
BASES = (0, 50, 100)
SIZE = 129


def fill(path: Path, count: int = EVENTS, *, first: int = 0) -> None:
    with Store.open(path, durability=Durability.OS, segment_max_bytes=16_384) as store:
        for number in range(first, first + count):
            # Payloads of one length, so that every journal has its segments at the same places.
            where = Coordinate(f"counter:{number % ENTITIES}", "test")
            value = {"n": 1000 + number, "fill": "x" * 28}
            store.append(where, value, kind=KIND, extensions={"app.note": b"x"})


@dataclass(frozen=True)
class Bench:
    """A journal with what its owner and a forger have beside it."""

    journal: Path
    around: Surroundings
    targets: Targets


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    journal, foreign, earlier = folder / "journal", folder / "foreign", folder / "earlier"
    fill(journal)
    fill(foreign)
    fill(earlier, 10)
    shutil.rmtree(earlier)
    shutil.copytree(journal, earlier)
    fill(journal, 5, first=EVENTS)
    fill(foreign, 5, first=EVENTS)
    with Store.open(journal, mode="r") as store:
        note = Note.of(store)
    targets = Targets(
        chained=60,
        successor=63,
        pair=(60, 63),
        newest=127,
        cut=110,
        place=1,
        following=100,
        after_place=100,
    )
    return Bench(journal, Surroundings(foreign, earlier, note), targets)


def forge(bench: Bench, tmp_path: Path, name: str, targets: Targets | None = None) -> Outcome:
    [case] = [case for case in CASES if case.name == name]
    return try_case(case, bench.journal, tmp_path / name, targets or bench.targets, bench.around)


def copy_of(bench: Bench, tmp_path: Path) -> ForgedJournal:
    shutil.copytree(bench.journal, tmp_path / "copy")
    return ForgedJournal(tmp_path / "copy")


def seen_in(bench: Bench, forged: ForgedJournal) -> list[Sighting]:
    forged.write()
    return list(examine(Path(forged.layout.root), bench.around.note))


# --- the forger ------------------------------------------------------------------------


def test_the_journal_of_these_tests_has_its_events_where_they_say(bench: Bench) -> None:
    journal = ForgedJournal(bench.journal)
    assert tuple(segment.header.base_sequence for segment in journal.segments) == BASES
    assert [event.row.sequence for event in journal] == list(range(SIZE))
    assert journal.at(60).entity == journal.at(63).entity == journal.at(105).entity
    assert not any(e.entity == journal.at(127).entity for e in list(journal)[128:])


def test_a_forger_who_changes_nothing_writes_the_same_bytes(bench: Bench) -> None:
    journal = ForgedJournal(bench.journal)
    for segment in journal.segments:
        stored = Path(journal.layout.segment(segment.header.base_sequence)).read_bytes()
        # Only a segment that is being written has space reserved after its records.
        assert segment.encode() == stored


def test_rehashing_a_good_journal_changes_nothing(bench: Bench) -> None:
    journal, again = ForgedJournal(bench.journal), ForgedJournal(bench.journal)
    again.rehash()
    assert [s.encode() for s in again.segments] == [s.encode() for s in journal.segments]


def test_a_journal_that_nobody_touched_shows_nothing(bench: Bench, tmp_path: Path) -> None:
    assert seen_in(bench, copy_of(bench, tmp_path)) == []


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "foreign"], ids=lambda c: c.name)
def test_every_checksum_of_a_forgery_is_right(case: Case, bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.journal, tmp_path / "copy")
    case.forge(tmp_path / "copy", bench.targets, bench.around)
    # The stranger checks each checksum by itself, and says which one is wrong.
    report = read_segment.read_journal(tmp_path / "copy")
    assert not [found for found in report.findings if "crc" in found.reason]
    # A wrong checksum would end the walk early.
    journal = ForgedJournal(tmp_path / "copy")
    assert [e.row.sequence for e in journal] == list(range(len(list(journal))))
    assert len(list(journal)) == {
        "removed": SIZE - 1,
        "removed-relinked": SIZE - 1,
        "cut": 110,
        "cut-unwitnessed": 110,
        "earlier-copy": 122,
    }.get(case.name, SIZE)


# --- what catches it ---------------------------------------------------------------------

CAUGHT = {
    "payload-byte": ("read", "payload-damaged", "content-hash", 60, 50),
    "payload-and-hash": ("verify", "chain-link", "", 63, 50),
    "row-field": ("verify", "chain-link", "", 63, 50),
    "swapped": ("verify", "chain-link", "", 63, 50),
    "removed": ("open", "journal-corrupt", "splice", 99, 99),
    "removed-relinked": ("verify", "clock", "", 62, 50),
    "cut": ("open", "journal-corrupt", "end-of-file", 110, 100),
    "foreign": ("open", "journal-corrupt", "journal-id", 50, 50),
    "foreign-fitted": ("open", "journal-corrupt", "splice", 100, 100),
}
NEEDS_A_NOTE = {
    "cut-unwitnessed": ["note: size"],
    "earlier-copy": ["note: size"],
    "newest-event": ["note: digest"],
    "all-anew": ["note: last hash", "note: digest"],
}


def test_every_case_is_either_caught_by_the_journal_or_needs_a_note() -> None:
    assert {case.name for case in CASES} == CAUGHT.keys() | NEEDS_A_NOTE.keys()
    assert {case.name for case in CASES if case.needs_note} == NEEDS_A_NOTE.keys()


@pytest.mark.parametrize("name", CAUGHT)
def test_a_forgery_is_caught_and_named(name: str, bench: Bench, tmp_path: Path) -> None:
    by, code, reason, sequence, base = CAUGHT[name]
    outcome = forge(bench, tmp_path, name)
    assert outcome.held
    assert outcome.caught in outcome.sightings
    [seen] = [s for s in outcome.sightings if (s.by, s.code, s.sequence) == (by, code, sequence)]
    assert (seen.reason, seen.file) == (reason, segment_name(base))
    assert seen.offset is not None
    if by == "verify":
        # The offset leads to the row of the event that is named.
        data = (tmp_path / name / "segments" / seen.file).read_bytes()
        assert int.from_bytes(data[seen.offset : seen.offset + 8], "little") == sequence


@pytest.mark.parametrize("name", CAUGHT)
def test_the_stranger_catches_it_too(name: str, bench: Bench, tmp_path: Path) -> None:
    [case] = [case for case in CASES if case.name == name]
    shutil.copytree(bench.journal, tmp_path / "copy")
    case.forge(tmp_path / "copy", bench.targets, bench.around)
    assert read_segment.read_journal(tmp_path / "copy").findings


@pytest.mark.parametrize("name", NEEDS_A_NOTE)
def test_what_leaves_no_trace_in_the_journal_is_caught_by_the_note_alone(
    name: str, bench: Bench, tmp_path: Path
) -> None:
    outcome = forge(bench, tmp_path, name)
    assert outcome.held
    assert [seen.by for seen in outcome.sightings] == NEEDS_A_NOTE[name]
    assert read_segment.read_journal(tmp_path / name).findings == []


@pytest.mark.parametrize(
    ("name", "sequence"), [("removed", 107), ("foreign-fitted", 100)], ids=["removed", "fitted"]
)
def test_in_the_newest_segment_no_header_tells_but_the_entities_chains_do(
    name: str, sequence: int, bench: Bench, tmp_path: Path
) -> None:
    targets = replace(
        bench.targets, chained=105, successor=108, following=None, place=2, after_place=None
    )
    outcome = forge(bench, tmp_path, name, targets)
    assert outcome.held
    found = [s for s in outcome.sightings if s.by == "verify" and s.code == "chain-link"]
    assert found[0].sequence == sequence
    assert not [s for s in outcome.sightings if s.by == "open"]


OTHER_VALUES = {
    "event_id": bytes(range(16)),
    "correlation_id": bytes(range(16)),
    "causation_id": bytes(range(16)),
    "timestamp_us": 1,
    "hlc": 1,
    "clock": 7,
    "lane": 7,
    "depth": 7,
    "kind": 0xF002,
    "payload_version": 7,
    "flags": 1,
    "codec": 0,
    "content_hash": bytes(32),
    "prev_hash": bytes(32),
}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_no_field_of_a_row_can_be_changed_unseen(field: str, bench: Bench, tmp_path: Path) -> None:
    forged = copy_of(bench, tmp_path)
    before = forged.at(60).row
    forged.at(60).set(**{field: OTHER_VALUES[field]})
    assert forged.at(60).row != before
    seen = seen_in(bench, forged)
    # Whatever else is noticed, the entity's next event no longer follows from this one.
    assert ("verify", "chain-link", 63) in [(s.by, s.code, s.sequence) for s in seen]


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"counter:2", b"counter:9"), (b"test", b"tess"), (b"app.note", b"app.nose")],
    ids=["entity", "scope", "extension"],
)
def test_an_event_cannot_be_given_other_names_unseen(
    old: bytes, new: bytes, bench: Bench, tmp_path: Path
) -> None:
    forged = copy_of(bench, tmp_path)
    event = forged.at(60)
    assert old in event.metadata
    event.metadata = event.metadata.replace(old, new)
    seen = seen_in(bench, forged)
    assert ("verify", "chain-link", 63) in [(s.by, s.code, s.sequence) for s in seen]


def test_events_of_two_entities_cannot_be_swapped_unseen(bench: Bench, tmp_path: Path) -> None:
    forged = copy_of(bench, tmp_path)
    forged.swap(60, 61)
    seen = [(s.by, s.code, s.sequence) for s in seen_in(bench, forged)]
    assert ("verify", "chain-link", 63) in seen
    assert ("verify", "chain-link", 64) in seen


def test_a_gap_in_the_numbers_refuses_to_open(bench: Bench, tmp_path: Path) -> None:
    forged = copy_of(bench, tmp_path)
    for event in forged.segments[1].events[10:]:
        event.set(sequence=event.row.sequence + 1)
    [seen] = seen_in(bench, forged)
    assert (seen.by, seen.code, seen.reason) == ("open", "journal-corrupt", "row-sequence")
    assert (seen.file, seen.sequence) == (segment_name(50), 60)


def test_an_answer_that_was_not_foretold_is_no_proof(bench: Bench, tmp_path: Path) -> None:
    outcome = forge(bench, tmp_path, "payload-byte")
    assert outcome.held
    for wrong in (
        Expected("read", "payload-damaged", "content-hash", 61),
        Expected("read", "journal-corrupt", "content-hash", 60),
        Expected("open", "payload-damaged", "content-hash", 60),
    ):
        assert not replace(outcome, expected=wrong).held
    # A case said to need a note, that the journal itself notices, is told wrongly.
    noted = replace(outcome, case=replace(outcome.case, needs_note=True))
    assert noted.caught is not None
    assert not noted.held


def test_a_note_stays_good_while_the_journal_grows(bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.journal, tmp_path / "copy")
    fill(tmp_path / "copy", 5)
    with Store.open(tmp_path / "copy", mode="r") as store:
        assert len(store) > bench.around.note.size
        assert bench.around.note.compare(store) == Comparison(True, True, True)


@pytest.mark.parametrize("count", [30, 60, 61, 100])
def test_targets_suit_journals_of_any_size(count: int, tmp_path: Path) -> None:
    paths = tmp_path / "journal", tmp_path / "foreign", tmp_path / "earlier"
    for path in paths[:2]:
        with Store.open(path, durability=Durability.OS, segment_max_bytes=4096) as store:
            for number in range(count):
                where = Coordinate(f"counter:{number % 7}", "test")
                store.append(where, {"n": 1000 + number}, kind=KIND)
    shutil.copytree(paths[0], paths[2])
    fill(paths[0], 1)
    with Store.open(paths[0], mode="r") as store:
        around = Surroundings(paths[1], paths[2], Note.of(store))
    targets = Targets.choose(ForgedJournal(paths[0]))
    for case in CASES:
        assert try_case(case, paths[0], tmp_path / f"copy-{case.name}", targets, around).held, (
            case.name
        )


def test_a_journal_without_room_for_forgeries_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "journal", 3)
    with pytest.raises(LookupError, match="too small"):
        Targets.choose(ForgedJournal(tmp_path / "journal"))


# --- the kill ------------------------------------------------------------------------------


def test_what_a_killed_writer_acknowledged_is_there(tmp_path: Path) -> None:
    for attempt, after in enumerate((1, 20)):
        killed = kill_a_writer(tmp_path / "journal", attempt, after)
        assert killed.held
        assert killed.acknowledged >= after
        assert killed.missing == 0


def test_an_acknowledged_event_that_is_missing_is_no_proof(tmp_path: Path) -> None:
    killed = kill_a_writer(tmp_path / "journal", 0, 5)
    assert not replace(killed, missing=1).held
    assert not replace(killed, verified=False).held
    assert not replace(killed, acknowledged=0).held
    assert not replace(killed, unacknowledged=2).held


def test_only_what_was_acknowledged_counts_as_there(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        receipt = store.append(WHERE, {"round": 4, "number": 2}, kind=KIND)
        other = store.append(WHERE, {"round": 4, "number": 3}, kind=KIND)
        assert is_there(store, 4, f"{receipt.sequence} {receipt.event_id} 2\n")
        for attempt, line in (
            (4, f"{receipt.sequence} {receipt.event_id} 3"),
            (4, f"{receipt.sequence} {other.event_id} 2"),
            (4, f"{receipt.sequence + 9} {receipt.event_id} 2"),
            (4, f"{receipt.sequence} event:{'0' * 31}1 2"),
            (5, f"{receipt.sequence} {receipt.event_id} 2"),
        ):
            assert not is_there(store, attempt, line)


def test_a_writer_that_ends_by_itself_was_not_killed(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("not a directory")
    with pytest.raises(RuntimeError, match="a journal is a directory"):
        kill_a_writer(tmp_path / "journal", 0, 5)


# --- real input ------------------------------------------------------------------------------

DPKG = """\
2026-01-02 03:04:05 startup archives unpack
2026-01-02 03:04:06 install libc6:amd64 <none> 2.36-9
2026-01-02 03:04:07 status half-installed libc6:amd64 2.36-9
2026-01-02 03:04:08 conffile /etc/ld.so.conf keep
not a line of this log
"""


def test_the_package_managers_log_becomes_objects(tmp_path: Path) -> None:
    (tmp_path / "dpkg.log").write_text(DPKG * FEWEST)
    log = machine_log(tmp_path / "dpkg.log")
    assert str(tmp_path / "dpkg.log") in log.title
    assert len(log.objects) == 2 * FEWEST
    assert log.objects[:2] == (
        {
            "time": "2026-01-02T03:04:06",
            "action": "install",
            "architecture": "amd64",
            "package": "libc6",
            "versions": ["<none>", "2.36-9"],
        },
        {
            "time": "2026-01-02T03:04:07",
            "action": "status",
            "state": "half-installed",
            "architecture": "amd64",
            "package": "libc6",
            "versions": ["2.36-9"],
        },
    )


@pytest.mark.parametrize("text", [None, "", DPKG], ids=["missing", "empty", "short"])
def test_without_a_package_log_what_pip_installed_is_used(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "dpkg.log").write_text(text)
    log = machine_log(tmp_path / "dpkg.log")
    assert "pip" in log.title
    assert len(log.objects) >= FEWEST
    write_jsonl(tmp_path / "log.jsonl", log.objects)
    mapping = JsonlMapping(entity=log.entity, entity_field=log.field)
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        report = import_jsonl(store, tmp_path / "log.jsonl", mapping=mapping)
        assert report.events == len(log.objects)


def git(folder: Path, *arguments: str) -> None:
    options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *options, "-C", folder, *arguments], check=True, capture_output=True)


def test_a_shallow_clone_is_a_repository_too(tmp_path: Path) -> None:
    (tmp_path / "origin" / "src" / "batpak").mkdir(parents=True)
    git(tmp_path / "origin", "init")
    for name in ("one", "two", "three"):
        (tmp_path / "origin" / "src" / "batpak" / name).write_text(name)
        git(tmp_path / "origin", "add", "--all")
        git(tmp_path / "origin", "commit", "-m", name)
    git(tmp_path, "clone", "--depth", "1", f"file://{tmp_path}/origin", "clone")
    found = find_repository(tmp_path / "scratch", tmp_path / "clone" / "src" / "batpak")
    assert (found.path, found.commits) == (tmp_path / "clone", 1)
    assert not (tmp_path / "scratch").exists()


def test_without_a_checkout_a_repository_of_the_source_is_made(tmp_path: Path) -> None:
    found = find_repository(tmp_path / "scratch", tmp_path)
    assert "no git checkout" in found.title
    assert found.commits >= 4
    assert (found.path / "batpak" / "store.py").is_file()


def test_a_foreign_repository_around_us_is_left_alone(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "private")
    (tmp_path / "site-packages").mkdir()
    found = find_repository(tmp_path / "scratch", tmp_path / "site-packages")
    assert found.path == tmp_path / "scratch" / "batpak"


# --- the whole ---------------------------------------------------------------------------------


def demo(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "batpak_cli", "demo", *arguments],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT / "src"),
            "TMPDIR": str(tmp_path / "tmp"),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
        }
        | environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # bounds a hang; says nothing of speed
    )


def test_the_demo_proves_all_it_claims_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    claims = done.stdout.partition("What this run proved")[2]
    held = re.findall(r"^  ok  (.*)$", claims, re.MULTILINE)
    assert f"All {len(held)} held." in claims
    assert len(claims.splitlines()) <= 24, "the end fits one screen"
    text = "\n".join(held)
    for part in ("imported", "commits", "JSON lines", "verify", "kills", "9 of 9", "4 of 4"):
        assert part in text
    for part in ("alone in an empty directory", "is refused", "erased:", "still proves"):
        assert part in text
    for case in CASES:
        assert case.title in done.stdout, "each forgery has its line"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_the_demo_keeps_can_be_looked_at(tmp_path: Path) -> None:
    done = demo(tmp_path, "--keep", "kept")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = tmp_path / "kept"
    assert {path.name for path in (kept / "tampered").iterdir()} == {c.name for c in CASES}
    lines = (kept / "machine.jsonl").read_text("utf-8").splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert read_segment.read_journal(kept / "journal").findings == []
    again = demo(tmp_path, "--keep", "kept")
    assert again.returncode == 5
    assert "not empty" in again.stderr


def test_a_proof_that_fails_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    done = demo(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    claims = done.stdout.partition("What this run proved")[2]
    assert re.search(r"^  FAILED  .*git is not installed", claims, re.MULTILINE)
    assert "1 of 1 did not hold." in claims
    [left] = (tmp_path / "tmp").iterdir()
    assert str(left) in done.stdout.replace("\n", ""), "what was made stays, for a look at it"
