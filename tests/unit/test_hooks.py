"""Pre-commit hooks: local ones only, of what the locks bring; they stop a bad commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pre_commit.clientlib import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / ".pre-commit-config.yaml"
HOOKS: list[dict[str, Any]] = [
    hook for repo in load_config(str(CONFIG))["repos"] for hook in repo["hooks"]
]


def test_every_hook_is_local_and_installs_nothing() -> None:
    assert [repo["repo"] for repo in load_config(str(CONFIG))["repos"]] == ["local"]
    assert HOOKS
    for hook in HOOKS:
        assert hook["language"] == "unsupported", "which is: run what is there"
        assert not hook.get("additional_dependencies")


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_calls_a_make_target_or_ruff_of_the_environment(hook: dict[str, Any]) -> None:
    program, *arguments = hook["entry"].split()
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert next(a for a in arguments if not a.startswith("-")) in targets
        assert hook["pass_filenames"] is False
    else:
        assert program == ".venv/bin/ruff"
        assert "--fix" not in arguments, "a hook tells, it does not write"


def test_an_installed_hook_stops_a_bad_commit_and_lets_a_good_one_pass(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    clone = tmp_path / "clone"
    clone.mkdir()

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            arguments,
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    run("git", "init", "-q")
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / "Makefile").write_text("dead-code layers types:\n\t@echo ran $@\n")
    run(sys.executable, "-m", "pre_commit", "install")
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    for source, code in (('"""A room."""\n\nimport os\n', 1), ('"""A room."""\n', 0)):
        (clone / "room.py").write_text(source)
        run("git", "add", "room.py", "pyproject.toml", ".pre-commit-config.yaml")
        said = run("git", *identity, "commit", "-q", "-m", "Begin", code=code)
        assert ("`os` imported but unused" in said) == bool(code)
        assert said.count("Passed") == len(HOOKS) - code
