"""batpak doctor: each risk is seen when it is there and only then, and nothing is changed."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Store, StoreConfig
from batpak.engine.diagnostics import Evidence, EvidenceState, place_evidence, read_clock
from batpak.engine.doctor import RISKS, JournalState, LockState, Problem, examine, judge
from batpak.engine.report import Finding
from batpak.files import REAL, Space
from batpak.journal.header import HEADER_SIZE
from batpak.journal.layout import Layout
from batpak.journal.record import RECORD_HEADER_SIZE
from batpak_cli.shapes import SHAPES
from tests.e2e.test_cli_commands import batpak, flip, program
from tests.support.faulty_files import Fault, FaultyFiles, Killed
from tests.watched_files import WatchedFiles

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "diagnostics.md"
KIND = EventKind(0xF, 1)
ALICE = Coordinate("player:alice", "room:1")
CONFIG = StoreConfig()


def fill(path: Path, number: int = 30, **options: Any) -> None:
    with Store.open(path, **options) as store:
        for each in range(number):
            store.append(ALICE, {"n": each, "text": "x" * 300}, kind=KIND)


def codes(path: Path) -> set[str]:
    """The risks that doctor sees at a path."""
    return {risk.code for risk in examine(REAL, Layout(path)).risks}


def of_the_machine(path: Path) -> set[str]:
    """What is risky about the file system of the tests themselves: tmpfs, a full disk."""
    return codes(path / "nothing-is-here")


# --- judging ---------------------------------------------------------------------------

NO = Evidence(EvidenceState.REFUSED, "the system said no")
GOOD_PLACE = replace(
    place_evidence(REAL, Layout("/")),
    status="directory", filesystem="ext4", is_network=False,
    space=Space(1 << 40, 1 << 30, read_only=False),
    **dict.fromkeys(
        ("writing", "directory_sync", "file_lock", "mapping"), Evidence(EvidenceState.SEEN, "seen")
    ),
)  # fmt: skip
GOOD_CLOCK = replace(read_clock(None, None, None), behind_ms=0)
FREE = LockState("free", None, 7)
GOOD_JOURNAL = JournalState("id", "origin", 9, 9, 3, 0, 9, 0, 0, 0, ())
FINDING = Finding("journal-corrupt", "0.seg", 128, 3, "an event is damaged")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("not-a-directory", {"place": replace(GOOD_PLACE, status="other")}),
    ("not-a-journal", {"problem": Problem("not-a-journal", "w", "a", is_damage=False)}),
    ("network-filesystem", {"place": replace(GOOD_PLACE, filesystem="nfs", is_network=True)}),
    ("read-only", {"place": replace(GOOD_PLACE, space=Space(9, 0, read_only=True))}),
    ("read-only", {"place": replace(GOOD_PLACE, writing=NO)}),
    ("no-space", {"place": replace(GOOD_PLACE, space=Space(9, 0, read_only=False))}),
    ("no-directory-sync", {"place": replace(GOOD_PLACE, directory_sync=NO)}),
    ("no-file-lock", {"place": replace(GOOD_PLACE, file_lock=NO)}),
    ("unreadable", {"problem": Problem("storage-failed", "w", "a", is_damage=False)}),
    ("damaged", {"problem": Problem("damaged", "w", "a", is_damage=True)}),
    ("damaged", {"journal": replace(GOOD_JOURNAL, findings=(FINDING,))}),
    ("low-space", {"place": replace(GOOD_PLACE, space=Space(1 << 40, 1, read_only=False))}),
    ("memory-filesystem", {"place": replace(GOOD_PLACE, filesystem="tmpfs")}),
    ("clock-behind", {"clock": replace(GOOD_CLOCK, behind_ms=1001)}),
    ("hint-missing", {"journal": replace(GOOD_JOURNAL, hint_durable=None)}),
    ("hint-stale", {"journal": replace(GOOD_JOURNAL, hint_durable=8)}),
    ("unfinished-tail", {"journal": replace(GOOD_JOURNAL, bytes_behind=1)}),
    ("quarantine-not-empty", {"journal": replace(GOOD_JOURNAL, quarantined=1)}),
    ("sidecars-missing", {"journal": replace(GOOD_JOURNAL, without_sidecar=1)}),
]
HARMLESS: list[dict[str, Any]] = [
    {},
    {"journal": None},
    {"lock": LockState("held", 5, 5)},
    {"lock": LockState("unknown", None, None)},
    {"place": replace(GOOD_PLACE, space=None, filesystem=None)},
    {"place": replace(GOOD_PLACE, space=Space(1 << 40, 64 << 20, read_only=False))},
    {"place": replace(GOOD_PLACE, mapping=NO)},
    {"clock": replace(GOOD_CLOCK, behind_ms=1000)},
    {"journal": replace(GOOD_JOURNAL, hint_durable=10)},
    # A live writer's bytes are under way.
    {"journal": replace(GOOD_JOURNAL, bytes_behind=1), "lock": LockState("held", 5, 5)},
]


def judged(**different: Any) -> list[Any]:
    facts: dict[str, Any] = {
        "place": GOOD_PLACE, "clock": GOOD_CLOCK, "lock": FREE, "journal": GOOD_JOURNAL,
        "problem": None, "config": CONFIG,
    }  # fmt: skip
    return list(judge(**facts | different))


@pytest.mark.parametrize(("code", "different"), CASES)
def test_each_risk_comes_of_its_cause_alone(code: str, different: dict[str, Any]) -> None:
    [risk] = judged(**different)
    assert (risk.code, risk.severity) == (code, RISKS[code][0])
    assert risk.what
    assert risk.advice


@pytest.mark.parametrize("different", HARMLESS)
def test_what_is_in_order_is_no_risk(different: dict[str, Any]) -> None:
    assert judged(**different) == []


def test_every_risk_is_tried_and_stands_in_the_guide() -> None:
    assert {code for code, _ in CASES} == set(RISKS)
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+) \|$", GUIDE.read_text("utf-8"), re.M)
    assert [(code, (severity, meaning)) for code, severity, meaning in rows] == list(RISKS.items())


def test_all_risks_at_once_are_told_the_worst_first() -> None:
    place = replace(
        GOOD_PLACE, filesystem="tmpfs", is_network=True, directory_sync=NO, file_lock=NO, space=None
    )
    journal = replace(GOOD_JOURNAL, hint_durable=None, quarantined=2, findings=(FINDING,) * 2)
    found = judged(place=place, journal=journal, clock=replace(GOOD_CLOCK, behind_ms=9999))
    told = [risk.code for risk in found]
    assert told == [code for code in RISKS if code in set(told)]
    assert len(told) == len(set(told)) == 8


# --- looking ---------------------------------------------------------------------------


def newest(path: Path) -> Path:
    return max((path / "segments").glob("*.seg"))


def damage_newest(path: Path) -> None:
    # In the first row of the segment: what follows it is durable.
    flip(newest(path), HEADER_SIZE + RECORD_HEADER_SIZE)


def killed(path: Path) -> None:
    # A writer of the mode SYNC dies between write and sync: whole, and not known to be durable.
    files = FaultyFiles()
    store = Store.open(path, files=files)
    done = len(files.operations)
    store.append(ALICE, 1, kind=KIND)
    [sync] = [n for n, each in enumerate(files.operations[done:]) if each.name == "sync_data"]
    files.arm(sync, Fault.KILL)
    with pytest.raises(Killed):
        store.append(ALICE, 2, kind=KIND)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files.bury()
        del store
        gc.collect()


def killed_without_hint(path: Path) -> None:
    killed(path)
    (path / "tail.hint").unlink()


def old_hint(path: Path) -> None:
    hint = (path / "tail.hint").read_bytes()
    fill(path, 3)
    (path / "tail.hint").write_bytes(hint)


def with_tear(path: Path) -> None:
    with newest(path).open("ab") as file:
        file.write(b"torn")


def with_quarantine(path: Path) -> None:
    with_tear(path)
    Store.open(path).close()


def without_sidecars(path: Path) -> None:
    for sidecar in (path / "segments").glob("*.idx"):
        sidecar.unlink()


def newer_format(path: Path) -> None:
    text = (path / "journal.json").read_text()
    (path / "journal.json").write_text(text.replace('"format": 1', '"format": 99'))


def from_the_future(path: Path) -> None:
    fill(path, 1, clock=lambda: 4_000_000_000_000_000)


STATES: list[tuple[str, Callable[[Path], object], set[str], int]] = [
    ("good", lambda path: None, set(), 0),
    ("no lock file", lambda path: (path / "journal.lock").unlink(), set(), 0),
    ("no hint", lambda path: (path / "tail.hint").unlink(), {"hint-missing"}, 1),
    ("bad hint", lambda path: flip(path / "tail.hint", 40), {"hint-missing"}, 1),
    ("old hint", old_hint, {"hint-stale"}, 1),
    ("torn", with_tear, {"unfinished-tail"}, 1),
    ("cut", with_quarantine, {"quarantine-not-empty"}, 1),
    ("no sidecars", without_sidecars, {"sidecars-missing"}, 1),
    ("future", from_the_future, {"clock-behind"}, 1),
    ("newer", newer_format, {"damaged"}, 3),
    ("no identity", lambda path: (path / "journal.json").unlink(), {"damaged"}, 3),
    ("damaged", damage_newest, {"damaged"}, 3),
    ("bad identity", lambda path: (path / "journal.json").write_text("{"), {"damaged"}, 3),
    ("killed", killed, {"unfinished-tail"}, 1),
    ("killed, no hint", killed_without_hint, {"unfinished-tail", "hint-missing"}, 1),
]


@pytest.mark.proves("INV-DOCTOR-CHANGES-NOTHING")
@pytest.mark.parametrize(
    ("make", "expected", "code"), [row[1:] for row in STATES], ids=[row[0] for row in STATES]
)
def test_the_state_of_a_journal_is_seen_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], expected: set[str], code: int
) -> None:
    path = tmp_path / "j"
    fill(path, segment_max_bytes=4096)
    make(path)
    before = snapshot(path)
    machine = of_the_machine(tmp_path)
    done = batpak("doctor", path, "--json", code=code or int(bool(machine)))
    found = done.json
    assert found.keys() == SHAPES["doctor"].keys()
    assert {risk["code"] for risk in found["risks"]} == expected | machine
    text = batpak("doctor", path, code=code or int(bool(machine))).out
    for risk in found["risks"]:
        assert (
            f"{risk['severity']}: {risk['code']}: ".replace("damaged: damaged", "damaged") in text
        )
    assert "damaged: damaged" not in text
    assert text.splitlines()[-1].startswith(found["verdict"])
    assert snapshot(path) == before


def test_a_snapshot_can_be_read_and_a_writer_would_refuse_it(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    batpak("snapshot", tmp_path / "j", tmp_path / "copy")
    found = batpak("doctor", tmp_path / "copy", "--json", code=1).json
    refused = [risk for risk in found["risks"] if risk["severity"] == "refused"]
    assert [risk["code"] for risk in refused] == ["not-a-journal"]
    assert "batpak restore" in refused[0]["advice"]
    assert found["journal"]["events"]


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(each): (each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else b"")
        for each in (path, *path.rglob("*"))
    }


def test_what_recovery_set_aside_is_counted_without_its_notes(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    for number in (1, 2):
        with_quarantine(tmp_path / "j")
        state = examine(REAL, Layout(tmp_path / "j")).journal
        assert state is not None
        assert (state.quarantined, state.quarantined_bytes) == (number, 4 * number)
        assert state.events == state.durable == state.hint_durable


def test_the_parts_of_the_shape_are_documented(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    machine = of_the_machine(tmp_path)
    found = batpak("doctor", tmp_path / "j", "--json", code=int(bool(machine))).json
    for part in ("host", "lock", "journal"):
        text = SHAPES["doctor"][part]
        assert set(found[part]) <= set(re.findall(r"`(\w+)`", text)), part
    store = Store.open(tmp_path / "j", mode="r")
    seen = json.loads(store.diagnostics().to_json())
    store.close()
    for part in ("place", "clock", "host"):
        assert found[part].keys() == seen[part].keys()


def test_a_journal_of_one_segment_needs_no_sidecar(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    without_sidecars(tmp_path / "j")
    assert codes(tmp_path / "j") == of_the_machine(tmp_path)


@pytest.mark.parametrize("mode", [Durability.SYNC, Durability.OS])
def test_a_live_writer_is_named_and_not_disturbed(tmp_path: Path, mode: Durability) -> None:
    with Store.open(tmp_path / "j", durability=mode) as store:
        store.append(ALICE, 1, kind=KIND)
        machine = of_the_machine(tmp_path)
        found = program("doctor", tmp_path / "j", "--json", code=int(bool(machine))).json
        assert found["lock"] == {"state": "held", "pid": os.getpid(), "named": os.getpid()}
        assert (
            f"process {os.getpid()}" in batpak("doctor", tmp_path / "j", code=found_code(found)).out
        )
        store.append(ALICE, 2, kind=KIND, durable=True)
    found = examine(REAL, Layout(tmp_path / "j"))
    assert found.lock == LockState("free", None, os.getpid())


def found_code(found: Any) -> int:
    return int(found["verdict"] != "good")


def test_a_place_without_a_journal_is_judged_for_one(tmp_path: Path) -> None:
    machine = of_the_machine(tmp_path)
    code = int(bool(machine))
    (tmp_path / "empty").mkdir()
    for name in ("missing/below", "empty"):
        found = batpak("doctor", tmp_path / name, "--json", code=code).json
        assert (found["journal"], found["problem"]) == (None, None)
        assert found["would_get"]["segments_of"] == "64 MiB"
        assert "none yet" in batpak("doctor", tmp_path / name, code=code).out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    assert codes(tmp_path / "full") == machine | {"not-a-journal"}
    assert codes(tmp_path / "full" / "letter") == machine | {"not-a-directory"}
    assert "refused: not-a-journal: " in batpak("doctor", tmp_path / "full", code=1).out


def test_a_place_that_survives_nothing_says_so(tmp_path: Path) -> None:
    if "memory-filesystem" not in codes(Path("/dev/shm")):
        pytest.skip("this system has no file system in memory at /dev/shm")
    found = examine(REAL, Layout("/dev/shm/nothing-is-here"))
    assert found.verdict == "risky"
    assert "no restart" in found.would_get["acknowledged_append_survives"]
    assert "no-directory-sync" in codes(Path("/proc/self"))


def test_a_journal_that_can_not_be_read_is_no_damage(tmp_path: Path) -> None:
    fill(tmp_path / "j", 1)
    files = WatchedFiles()
    files.refuse("open", "journal.json", errno.EACCES)
    found = examine(files, Layout(tmp_path / "j"))
    assert found.problem is not None
    assert (found.problem.code, found.problem.is_damage) == ("storage-failed", False)
    assert "unreadable" in {risk.code for risk in found.risks}
    assert "damaged" not in {risk.code for risk in found.risks}


def test_a_copy_without_a_lock_list_knows_only_the_last_writer(tmp_path: Path) -> None:
    fill(tmp_path / "j", 1)
    (tmp_path / "j" / "journal.lock").write_bytes(b"\xff not a number" * 9)
    assert examine(REAL, Layout(tmp_path / "j")).lock == LockState("free", None, None)


def test_the_directory_one_is_in_is_what_doctor_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "j", 1)
    monkeypatch.chdir(tmp_path / "j")
    code = int(bool(of_the_machine(tmp_path)))
    assert batpak("doctor", "--json", code=code).json["path"] == str(tmp_path / "j")
    monkeypatch.chdir(tmp_path)
    # The example of the help.
    shutil.move("j", "journal")
    assert "batpak/" in program("doctor", tmp_path / "journal", code=code).out
