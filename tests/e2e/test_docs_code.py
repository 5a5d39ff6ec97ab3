"""Each code block of README.md and docs/ does what the page shows.

The rules for writing blocks are in tools/docs_code.py. Commands run through the command
line's own entry point, in a fresh directory, with a plain terminal of 100 columns.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docs_code import ROOT, Block, all_blocks, blocks, chains, commands, matches

# A page must not reach outside its directory; whatever else it shows is `no-run`.
PROGRAMS = {"batpak", "python", "cat", "cp", "echo", "head", "ls", "mkdir", "printf", "sed", "wc"}

EVERY = all_blocks()
CHAINS = chains(EVERY)


@pytest.fixture
def run_in(tmp_path: Path):
    """Run an argument list in `tmp_path/work` and return what it printed; it must exit 0."""
    work, programs = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    python = sys.executable
    for name, body in {
        "batpak": f'exec {python} -c "from batpak_cli.app import main; main()" "$@"',
        "python": f'exec {python} "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(work),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }

    def run(arguments: list[str], where: str) -> str:
        done = subprocess.run(
            arguments,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def run_block(block: Block, run, script: Path) -> None:
    """Run one block and compare what it prints with what the page shows."""
    if block.language in ("python", "pycon"):
        script.write_text(block.text)
        doctest = ["-m", "doctest", "-o", "ELLIPSIS"] if block.language == "pycon" else []
        steps = [([sys.executable, *doctest, str(script)], block.expected)]
    else:
        for line in re.sub(r"\\\n", " ", "".join(c for c, _ in commands(block))).splitlines():
            program = line.split("#")[0].split()[:1]
            assert not program or program[0] in PROGRAMS, (
                f"{block.where}: {program[0]} is not run here; tag the block no-run: because ..."
            )
        steps = [(["bash", "-euc", text], shown) for text, shown in commands(block)]
    for arguments, shown in steps:
        printed = run(arguments, block.where)
        if shown is not None:
            assert matches(shown, printed), (
                f"{block.where}: the page shows\n{shown}\nbut this was printed\n{printed}"
            )


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0].where)
def test_code_in_the_docs_does_what_the_page_shows(
    chain: tuple[Block, ...], run_in, tmp_path: Path
) -> None:
    for number, block in enumerate(chain):
        suffix = "txt" if block.language == "pycon" else "py"
        run_block(block, run_in, tmp_path / f"block_{number}.{suffix}")


def test_every_block_has_a_known_language_and_known_tags() -> None:
    assert [mistake for block in EVERY for mistake in block.mistakes()] == []


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text("utf-8")
        in_code = re.findall(r"`[^`\n]+`", text) + [b.text for b in blocks(page.name, text)]
        named = {t for code in in_code for t in re.findall(r"\bmake ([a-z-]+)", code)}
        assert named <= targets, page


# The runner itself: what it must not let through.

FENCE = "`" * 3


def page(*parts: str) -> list[Block]:
    return blocks("page.md", "".join(part.replace("~~~", FENCE) for part in parts))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("~~~\nx\n~~~\n", "language"),
        ("~~~cobol\nx\n~~~\n", "language"),
        ("~~~bash no-run\nx\n~~~\n", "needs a reason"),
        ("~~~python norun: typo\nx\n~~~\n", "unknown tag"),
    ],
)
def test_a_block_that_would_silently_not_run_is_a_mistake(text: str, complaint: str) -> None:
    [block] = page(text)
    [mistake] = block.mistakes()
    assert complaint in mistake


def test_an_unclosed_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match="never closed"):
        page("~~~python\nx\n")


def test_output_belongs_to_the_code_before_it_but_a_later_picture_does_not() -> None:
    shown, apart, picture = page(
        "~~~python\na\n~~~\n\n~~~text\n1\n~~~\n",
        "~~~python\nb\n~~~\n\nAnd this is how it looks.\n\n~~~text\n+--+\n~~~\n",
    )
    assert (shown.expected, apart.expected, picture.language) == ("1\n", None, "text")


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("~~~python\nprint(1)\n~~~\n~~~text\n1\n~~~\n", False),
        ("~~~python\nprint(1)\n~~~\n~~~text\n2\n~~~\n", True),
        ("~~~python\nraise SystemExit(1)\n~~~\n", True),
        ("~~~console\n$ echo a; echo b\na\n$ echo c\nc\n~~~\n", True),
        ("~~~console\n$ echo a; echo b\na\nb\n$ echo c\nc\n~~~\n", False),
        ("~~~bash\nmake demo\n~~~\n", True),
        ("~~~bash\ncat nothing-here\necho\n~~~\n", True),
        ("~~~pycon\n>>> 1 + 1\n3\n~~~\n", True),
        ("~~~pycon\n>>> 1 + 1\n2\n~~~\n", False),
    ],
)
def test_the_runner_sees_a_page_that_is_wrong(
    text: str, fails: bool, run_in, tmp_path: Path
) -> None:
    def run() -> None:
        for block in page(text):
            if block.runs:
                run_block(block, run_in, tmp_path / "block")

    if fails:
        with pytest.raises(AssertionError):
            run()
    else:
        run()


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a\nb\n", "a  \nb\n", True),
        ("a\nb\n", "a\nb\nc\n", False),
        ("a\n...\nc\n", "a\nc\n", True),
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\n...\nc\n", "a\nb\nd\n", False),
        ("id ... at 3\n", "id event:00ff at 3\n", True),
        ("id ... at 3\n", "id event:00ff at 4\n", False),
        ("1.5\n", "1x5\n", False),
        ("", "\n", True),
        ("", "a\n", False),
    ],
)
def test_shown_output_is_exact_but_for_dots(expected: str, actual: str, same: bool) -> None:
    assert matches(expected, actual) is same
