"""Shell completion: a real bash, taught by the program itself, is asked what it offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cli_reference import ROOT, entries

# What bash does when somebody presses the tabulator, without a terminal.
ASK = """
source "$1"
complete -p batpak | grep -q -- '-o default'
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
"$(complete -p batpak | sed -E 's/.*-F ([^ ]+) .*/\\1/')" batpak
printf '%s\\n' "${COMPREPLY[@]}"
"""
NAMES = {entry.words for entry in entries()}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin" / "batpak"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batpak_cli "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path),
        "SHELL": "/bin/bash",
    }


def bash(environment: dict[str, str], script: str, *arguments: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script, "bash", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], {name.partition(" ")[0] for name in NAMES}),
        (["ver"], {"verify"}),
        (
            ["import", ""],
            {name.removeprefix("import ") for name in NAMES if name.startswith("import ")},
        ),
        (["import", "csv", "--del"], {"--delimiter"}),
        (["log", "journal", "--j"], {"--json"}),
        (["import", "csv", "journal", "tab"], {""}),  # so bash offers files
    ],
)
def test_bash_completes_commands_and_options(
    environment: dict[str, str], tmp_path: Path, words: list[str], offered: set[str]
) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(bash(environment, "batpak --show-completion bash"))
    answer = bash(environment, ASK, str(script), "batpak", *words)
    assert set(answer.removesuffix("\n").split("\n")) == offered


def test_completion_can_be_installed_and_touches_nothing_but_its_file_and_the_start_up_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    said = bash(environment, "batpak --install-completion bash")
    added = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    [script] = added - {tmp_path / ".bashrc"}
    assert str(script) in said
    assert str(script) in (tmp_path / ".bashrc").read_text()
    answer = bash(environment, ASK, str(script), "batpak", "repa")
    assert answer == "repair\n"
