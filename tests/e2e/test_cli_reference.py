"""The command-line reference: generated, complete, and every example of it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import cli_reference

ENTRIES = {entry.words: entry for entry in cli_reference.entries()}
COMMANDS = {
    "demo", "init", "append", "import jsonl", "import csv", "import git", "log", "show",
    "tail", "query", "checkpoint", "prove", "verify", "stats", "export", "repair", "doctor",
    "keys new", "keys show", "keys add", "keys list", "keys retire", "witness request",
    "witness cosign", "erase", "compact", "shred", "keyring new", "snapshot", "restore", "fork",
}  # fmt: skip


def test_the_page_is_what_the_program_says() -> None:
    found = cli_reference.PAGE.read_text("utf-8")
    assert found == cli_reference.page(), "run: python -m tools.cli_reference"


def test_every_command_is_there() -> None:
    assert ENTRIES.keys() == COMMANDS


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_is_documented(words: str) -> None:
    entry = ENTRIES[words]
    assert f"batpak {words}" in entry.example
    assert f"## batpak {words}\n" in cli_reference.PAGE.read_text("utf-8")
    if words != "demo":
        assert "With --json:" in entry.prose
        assert "--json" in entry.options
    for line in entry.options.partition("Options:\n")[2].splitlines():
        # An option without help would stand alone on its line.
        assert len(line.split("  ")) > 2 or line.startswith(" " * 8), line


def test_the_example_of_import_git_works(tmp_path: Path) -> None:
    # All others run with the pages, in tests/e2e/test_docs_code.py.
    assert set(cli_reference.NOT_RUN) == {"demo", "doctor", "import git"}
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "batpak"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batpak_cli "$@"\n')
    program.chmod(0o755)
    identity = "-c user.name=Ann -c user.email=ann@example.org"
    script = (
        f"git init -q repo && git -C repo {identity} commit -q --allow-empty -m Begin\n"
        f"{ENTRIES['init'].example}\n{ENTRIES['import git'].example}\n"
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(cli_reference.ROOT / "src"),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ": 1 event from 1 commit in " in done.stdout
