"""The search for dead code sees it, and its list of exceptions can't grow stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.dead_code import complaints, unused


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project: `used` by the code, `tried` by a test, `dead` by nobody."""
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "src" / "room.py").write_text(
        "def used(): ...\ndef tried(): ...\ndef dead(): ...\nused()\n"
    )
    (tmp_path / "tests" / "test_room.py").write_text("from room import tried\ntried()\ngone = 1\n")
    return tmp_path


def test_what_nothing_uses_is_found_and_named_with_its_line(tree: Path) -> None:
    found = unused(tree)
    assert list(found) == ["src/room.py:dead"]
    [said] = complaints(found, {})
    assert said.startswith("src/room.py:3: unused function 'dead'")


def test_a_reason_silences_a_finding(tree: Path) -> None:
    assert list(complaints(unused(tree), {"src/room.py:dead": "called by name"})) == []


@pytest.mark.parametrize(
    ("key", "reason", "said"),
    [
        ("src/room.py:used", "called by name", "is used, or gone"),
        ("src/gone.py:dead", "called by name", "is used, or gone"),
        ("src/room.py:dead", "", "needs a reason"),
        ("src/room.py:dead", "todo", "needs a reason"),
    ],
)
def test_an_entry_that_is_not_needed_or_gives_no_reason_is_an_error(
    tree: Path, key: str, reason: str, said: str
) -> None:
    explained = {"src/room.py:dead": "called by name", key: reason}
    [complaint] = complaints(unused(tree), explained)
    assert key in complaint
    assert said in complaint
