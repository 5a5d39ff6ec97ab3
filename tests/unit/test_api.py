"""The public surface is written down, and no change of it goes unseen."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tools import api_snapshot


@pytest.mark.proves("INV-API-CHANGES-SEEN")
def test_the_public_surface_is_the_one_that_is_written_down() -> None:
    changes = api_snapshot.difference(api_snapshot.PAGE.read_text("utf-8"), api_snapshot.snapshot())
    assert not changes, f"the public surface changed:\n{changes}\n{api_snapshot.ACCEPT}"


SOURCE = {
    "__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from batpak.engine.report import Report as Report
            from batpak.room import Shape as Shape
        """,
    "room.py": """
        from typing import NamedTuple, overload
        __all__ = ["LIMIT", "Shape", "area"]
        LIMIT = 7
        class _Base:
            def inherited(self) -> int: ...
            def _secret(self) -> int: ...
        class Shape(_Base):
            side: int = 1
            other: str
            def __len__(self) -> int: ...
            @property
            def name(self) -> str: ...
            @classmethod
            def make(cls, side: int) -> "Shape": ...
        @overload
        def area(shape: Shape) -> int: ...
        @overload
        def area(shape: None) -> None: ...
        def area(shape): ...
        def unlisted(): ...
        """,
    "engine/__init__.py": "",
    "engine/report.py": """
        __all__ = ["Report", "inside"]
        class Report:
            ok: bool
        def inside(): ...
        """,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in SOURCE.items():
        path = tmp_path / "batpak" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def test_the_snapshot_has_what_users_can_call_and_nothing_else(source: Path) -> None:
    found = api_snapshot.snapshot(source, ["Shape", "Report"])
    assert found.partition("\n\n")[2] == (
        "[batpak]\n"
        "Report = batpak.engine.report.Report\n"
        "Shape = batpak.room.Shape\n"
        "\n"
        "[batpak.engine.report]\n"
        "class Report()\n"
        "    ok: bool\n"
        "\n"
        "[batpak.room]\n"
        "LIMIT = 7\n"
        "class Shape()\n"
        "    side: int = 1\n"
        "    other: str\n"
        "    property name: str\n"
        "    def __len__() -> int\n"
        "    def inherited() -> int\n"
        "    classmethod def make(side: int) -> Shape\n"
        "def area(shape: Shape) -> int\n"
        "def area(shape: None) -> None\n"
    )


@pytest.mark.proves("INV-API-CHANGES-SEEN")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("side: int = 1", "side: int = 2"),
        ("def make(cls, side: int)", "def make(cls, side: int, *, unit: str = 'm')"),
        ("def make(cls, side: int)", "def made(cls, side: int)"),
        ("def inherited(self) -> int", "def inherited(self) -> str"),
        ('"LIMIT", ', ""),
        ("class Shape(_Base)", "class Shape(_Base, Exception)"),
        ("def area(shape: None) -> None", "def area(shape: None) -> int"),
        ("    @classmethod\n", ""),
        ("other: str", "another: str"),
    ],
)
def test_a_change_for_users_is_a_difference(source: Path, old: str, new: str) -> None:
    before = api_snapshot.snapshot(source, ["Shape", "Report"])
    room = source / "batpak" / "room.py"
    text = SOURCE["room.py"]
    assert old in textwrap.dedent(text)
    room.write_text(textwrap.dedent(text).replace(old, new))
    changes = api_snapshot.difference(before, api_snapshot.snapshot(source, ["Shape", "Report"]))
    assert [line for line in changes.splitlines() if line[:1] in "+-"][2:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def unlisted()", "def renamed()"),
        ("_secret", "_hidden"),
        ("def area(shape):", "def area(x):"),
    ],
)
def test_a_change_that_users_cannot_see_is_none(source: Path, old: str, new: str) -> None:
    before = api_snapshot.snapshot(source, ["Shape", "Report"])
    room = source / "batpak" / "room.py"
    assert old in room.read_text()
    room.write_text(room.read_text().replace(old, new))
    after = api_snapshot.snapshot(source, ["Shape", "Report"])
    assert api_snapshot.difference(before, after) == ""


def test_the_command_shows_and_accepts_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "api.txt"
    page.write_text(api_snapshot.snapshot().replace("MAX_DEPTH", "LEAST_DEPTH"))
    assert api_snapshot.main(["--check"], page) == 1
    said = capsys.readouterr().out
    assert "-LEAST_DEPTH" in said
    assert "+MAX_DEPTH" in said
    assert "make api" in said
    assert api_snapshot.main([], page) == 0
    assert page.read_text() == api_snapshot.snapshot()
    assert api_snapshot.main(["--check"], page) == 0
