"""docs/guide/options.md says what the code says: each option once, generated."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from batpak import StoreConfig
from tools import options_table


def test_the_page_is_what_the_generator_writes() -> None:
    assert options_table.PAGE.read_text("utf-8") == options_table.page(), (
        "run: python -m tools.options_table"
    )


def test_the_check_notices_an_old_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "options.md"
    assert options_table.main(["--check"], page) == 1
    assert "tools.options_table" in capsys.readouterr().out
    assert options_table.main([], page) == 0
    assert options_table.main(["--check"], page) == 0
    page.write_text("old", "utf-8")
    assert options_table.main(["--check"], page) == 1


def test_every_option_has_a_row_with_bounds_and_meaning() -> None:
    rows = {
        cells[1].strip(" `"): cells
        for line in options_table.page().splitlines()
        if line.startswith("| `") and len(cells := line.split("|")) == 6
    }
    assert set(rows) == {field.name for field in fields(StoreConfig)}
    for name, (_, _, default, bounds, meaning, _) in rows.items():
        assert default.strip(), name
        assert bounds.strip(), name
        assert len(meaning.split()) >= 2, name
