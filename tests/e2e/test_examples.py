"""The programs in examples/ do what they show, and their rules hold when threads race."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batpak import Durability, Store
from batpak.payloads import isolated_registry

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT = 60.0

OUTPUT = {
    "course_enrolment.py": """\
algebra: 5 of 5 seats, 5 students
botany: 8 of 8 seats, 8 students
chess: 12 of 12 seats, 12 students
drama: 12 of 12 seats, 12 students
no student has more than 3 courses: True
journal verified: True
""",
}


@pytest.mark.proves("INV-EXAMPLES-OBSERVABLE-OUTPUT")
def test_every_example_prints_what_is_written_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OUTPUT)
    for name, expected in OUTPUT.items():
        done = subprocess.run(
            [sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout == expected, name


@pytest.fixture
def enrolment() -> Iterator[dict[str, Any]]:
    with isolated_registry():
        yield runpy.run_path(str(EXAMPLES / "course_enrolment.py"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as one:
        yield one


def test_of_many_students_one_gets_the_last_seat(store: Store, enrolment: dict[str, Any]) -> None:
    for turn in range(10):
        course = f"c{turn}"
        enrolment["offer"](store, course, 1)
        start = threading.Barrier(6)

        def go(student: str, course: str = course, start: threading.Barrier = start) -> bool:
            start.wait(WAIT)
            try:
                enrolment["enrol"](store, course, student)
            except enrolment["Refused"]:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(go, [f"{course}-s{n}" for n in range(6)]))
        assert won.count(True) == 1
        assert store.count(enrolment["course_of"](course)) == 2


def test_a_student_who_enrols_everywhere_at_once_gets_three_courses(
    store: Store, enrolment: dict[str, Any]
) -> None:
    for course in "abcdef":
        enrolment["offer"](store, course, 10)
    start = threading.Barrier(6)

    def go(course: str) -> bool:
        start.wait(WAIT)
        try:
            enrolment["enrol"](store, course, "sam")
        except enrolment["Refused"]:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(go, "abcdef")).count(True) == 3
    assert store.count(enrolment["student_of"]("sam")) == 3


def test_who_was_overtaken_decides_anew(
    store: Store, enrolment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol, look = enrolment["enrol"], enrolment["look"]
    enrolment["offer"](store, "algebra", 2)

    def overtaken(*arguments: Any) -> Any:
        decision = look(*arguments)
        monkeypatch.setitem(enrol.__globals__, "look", look)
        assert enrol(store, "algebra", "quick") == 0
        return decision

    monkeypatch.setitem(enrol.__globals__, "look", overtaken)
    assert enrol(store, "algebra", "slow") == 1
    assert store.count(enrolment["course_of"]("algebra")) == 3
    with pytest.raises(enrolment["Refused"], match="full"):
        enrol(store, "algebra", "late")
    with pytest.raises(enrolment["Refused"], match="already"):
        enrol(store, "algebra", "quick")
