"""docs/invariants.toml keeps its form, and its check sees what was not proved.

That each named test ran and passed is judged at the end of a full run, in conftest.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.invariants import Invariant, load, missing_tests, unproved

REGISTERED = load()


def test_every_invariant_has_an_id_a_sentence_and_a_test() -> None:
    assert REGISTERED
    for invariant in REGISTERED:
        assert re.fullmatch(r"INV(-[A-Z0-9]+)+", invariant.id)
        assert re.fullmatch(r"[A-Z0-9`].*[^.]\.", invariant.statement, re.DOTALL), invariant.id
        assert invariant.proved_by, f"{invariant.id}: what is not proved is not an invariant"
        assert len(set(invariant.proved_by)) == len(invariant.proved_by), invariant.id


def test_ids_are_unique() -> None:
    ids = [invariant.id for invariant in REGISTERED]
    assert sorted(ids) == sorted(set(ids))


def test_every_proof_names_a_test_that_exists() -> None:
    assert missing_tests([entry for row in REGISTERED for entry in row.proved_by]) == []


def test_every_proves_marker_names_a_known_id(request: pytest.FixtureRequest) -> None:
    known = {invariant.id for invariant in REGISTERED}
    for item in request.session.items:
        for marker in item.iter_markers("proves"):
            assert marker.args, f"{item.nodeid}: proves() names no invariant"
            assert set(marker.args) <= known, item.nodeid


ROW = Invariant("INV-X", "X holds.", ("tests/t.py::test_x",))


@pytest.mark.parametrize(
    ("outcomes", "problems"),
    [
        ({"tests/t.py::test_x": "passed"}, []),
        ({"tests/t.py::test_x[1]": "passed", "tests/t.py::test_x[2]": "passed"}, []),
        ({}, ["INV-X: tests/t.py::test_x did not run"]),
        ({"tests/t.py::test_xy": "passed"}, ["INV-X: tests/t.py::test_x did not run"]),
        ({"tests/t.py::test_x": "skipped"}, ["INV-X: tests/t.py::test_x skipped"]),
        (
            {"tests/t.py::test_x[1]": "passed", "tests/t.py::test_x[2]": "failed"},
            ["INV-X: tests/t.py::test_x[2] failed"],
        ),
    ],
)
def test_only_tests_that_passed_prove(outcomes: dict[str, str], problems: list[str]) -> None:
    assert unproved([ROW], outcomes) == problems


def test_an_invariant_without_a_test_is_unproved() -> None:
    assert unproved([Invariant("INV-Y", "Y holds.", ())], {}) == ["INV-Y: no test is named"]


def test_a_test_that_was_renamed_or_moved_is_missed(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(
        "def test_x(): ...\nclass TestY:\n    def test_z(self): ...\nTestM = object\n"
    )
    there = ["t.py::test_x", "t.py::TestY::test_z", "t.py::TestM"]
    gone = ["t.py::test_w", "t.py::TestY::test_x", "u.py::test_x", "t.py"]
    assert missing_tests(there + gone, tmp_path) == gone


@pytest.mark.parametrize(
    "row",
    [
        'id = "INV-X"\nstatement = "X."',
        'id = "INV-X"\nstatement = "X."\nproved_by = "one"',
        'id = "INV-X"\nstatement = "X."\nproved_by = []\nproven_by = []',
    ],
)
def test_a_row_of_another_shape_is_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "i.toml").write_text(f"[[invariant]]\n{row}\n")
    with pytest.raises((KeyError, TypeError)):
        load(tmp_path / "i.toml")
