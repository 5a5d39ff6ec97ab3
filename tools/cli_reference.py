"""Write docs/guide/command-line.md from the program itself.

Usage: python -m tools.cli_reference [--check]

Prose, options and examples come from the commands' own help, the shapes of `--json`
from batpak_cli.shapes. `--check` writes nothing and exits 1 when the page is old.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.main import get_command

from batpak_cli.app import EXIT_CODES, app
from batpak_cli.shapes import MARKS, SHAPES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guide" / "command-line.md"
WIDTH = 92

NOT_RUN = {
    "doctor": "what it finds is the machine's; tests/e2e/test_doctor.py runs it",
    "demo": "takes its time; tests/e2e/test_demo.py runs it",
    "import git": "needs a repository; tests/e2e/test_cli_reference.py runs it",
}

INTRODUCTION = """\
# Command line

This page is made by `python -m tools.cli_reference` from the program's own help.

`batpak` works on a journal, a directory that is the first argument of every command.
Commands that read open it read-only: they work beside a live writer and change nothing.
Tables and colours are for people; colour appears on a terminal only, and never when
`NO_COLOR` is set. With `--json` a command prints JSON, one object a line, and an error is
a line on standard error: `{"error": {…}}`. What goes wrong with the command line itself
is told as text in either case. A progress bar appears on standard error, when that is a
terminal, once an import, a verification, an export, a snapshot, a restore, a fork, a
compaction, a checkpoint, a proof or a repair has lasted a second.

Characters that the output's encoding lacks are written as JSON's escapes, such as
`\\u00e9`. When the output can't be written, to a full disk for example, a command ends with
exit code 5 and the error `output-failed`; what it changed in a journal is changed.

The examples below run one after the other in one directory.
"""

COMPLETION = """\
## Completion

`batpak --install-completion` teaches the shell from which it is called to complete
commands and options: it adds a file of its own and the line that reads it to the shell's
start-up file, and works in new shells. `batpak --show-completion` only prints what it
would add, to be put where you like:

```bash no-run: changes a start-up file; tests/e2e/test_completion.py asks a real bash
batpak --show-completion >> ~/.bashrc
```
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its words behind `batpak`, and the parts of its help."""

    words: str
    prose: str
    options: str
    example: str


def entries() -> list[Entry]:
    """Every command of the program, in the order of its help."""
    program = get_command(app)
    context = typer.Context(
        program, info_name="batpak", terminal_width=WIDTH, **program.context_settings
    )
    return list(_walk(program, context, ""))


def _walk(command: object, context: typer.Context, words: str) -> Iterator[Entry]:
    for name, child in getattr(command, "commands", {}).items():
        inner = typer.Context(child, info_name=name, parent=context, terminal_width=WIDTH)
        path = f"{words} {name}".strip()
        if getattr(child, "commands", None):
            yield from _walk(child, inner, path)
            continue
        prose, _, example = (child.help or "").partition("\b\nExample:\n")
        usage, _, rest = child.get_help(inner).partition("\n\n")
        headings = [at for at in map(rest.find, ("Arguments:\n", "Options:\n")) if at >= 0]
        lines = [line.strip() for line in example.strip("\n").splitlines()]
        yield Entry(
            path,
            prose.strip(),
            f"{usage}\n\n{rest[min(headings) :]}".rstrip(),
            "\n".join(line for line in lines if line),
        )


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Exit codes\n\n| Code | Meaning |\n| ---: | --- |"]
    rows = ((code, what.replace("|", "\\|")) for code, what in EXIT_CODES.items())
    parts[-1] += "".join(f"\n| {code} | {what} |" for code, what in rows)
    parts[-1] += "\n"
    parts.append(COMPLETION)
    begun = False
    for entry in entries():
        parts.append(f"## batpak {entry.words}\n\n{_prose(entry.prose)}\n")
        parts.append(f"```text\n{entry.options}\n```\n")
        if entry.words in NOT_RUN:
            tags = f" no-run: {NOT_RUN[entry.words]}"
        else:
            tags, begun = (" continue" if begun else ""), True
        parts.append(f"```bash{tags}\n{entry.example}\n```\n")
    parts.append("## Shapes of --json\n")
    for name, fields in SHAPES.items():
        rows = "".join(f"\n| `{field}` | {meaning} |" for field, meaning in fields.items())
        parts.append(f"### {name}\n\n| Field | Meaning |\n| --- | --- |{rows}\n")
    parts.append("### Marks in payloads\n\nWhat JSON has no form for is an object with one key:\n")
    rows = "".join(f"\n| `{mark}` | {meaning} |" for mark, meaning in MARKS.items())
    parts.append(f"| Mark | Stands for |\n| --- | --- |{rows}\n")
    return "\n".join(parts)


def _prose(text: str) -> str:
    """Help text as Markdown: option names as code, angle brackets kept."""
    words = [
        f"`{word.rstrip('.,:;')}`{word[len(word.rstrip('.,:;')) :]}"
        if word.startswith("--") or "<" in word
        else word
        for word in text.replace("\n\n", " \0 ").split()
    ]
    return " ".join(words).replace(" \0 ", "\n\n").replace("\0", "\n\n")


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.is_file() and PAGE.read_text("utf-8") == text:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is old; run: python -m tools.cli_reference")
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
