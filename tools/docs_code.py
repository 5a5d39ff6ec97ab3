"""Find the code blocks of README.md and docs/, and say which of them are run.

Usage: python -m tools.docs_code     lists what is not run, with the reason

A fence names its language and may carry tags:

    ```python                      a program, run in a fresh process and directory
    ```python continue             the same directory as the runnable block before it
    ```bash no-run: needs a clone  not run; the reason is required, and listed

`console` holds commands behind `$ ` with their output below each; `bash` holds commands
only; `pycon` holds `>>>` examples. An `output` block is the expected output of the code
block before it on the page; a `text` block is, if only blank lines stand between them.
In expected output `...` stands for anything, on a line of its own for any lines.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = frozenset({"python", "pycon", "console", "bash"})
SHOWN = frozenset(
    {"output", "text", "json", "jsonl", "toml", "ini", "hex", "make", "mermaid", "yaml", "diff"}
)

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[\w+-]*) *(?P<tags>.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its fence, counted from 1."""

    page: str
    line: int
    language: str
    tags: str
    text: str
    expected: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def skipped(self) -> bool:
        return self.language in RUN and self.tags.startswith("no-run")

    @property
    def reason(self) -> str:
        return self.tags.removeprefix("no-run").lstrip(": ")

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.skipped

    @property
    def continues(self) -> bool:
        return self.tags == "continue"

    def mistakes(self) -> list[str]:
        """What keeps the block from being understood; empty when nothing does."""
        if self.language not in RUN | SHOWN:
            return [f"{self.where}: language {self.language or '(none)'!r} is not one of ours"]
        if self.skipped and not self.reason:
            return [f"{self.where}: no-run needs a reason: ```{self.language} no-run: because"]
        if self.runs and self.tags not in ("", "continue"):
            return [f"{self.where}: unknown tag {self.tags!r}"]
        return []


def blocks(page: str, text: str) -> list[Block]:
    """The blocks of one page in order, each runnable one with its expected output.

    Raises ValueError for a fence that is never closed.
    """
    found: list[Block] = []
    last_end = -1  # line index after the closing fence of the block before
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        at += 1
        if not fence:
            continue
        start, indent = at, len(fence["indent"])
        while at < len(lines) and lines[at].strip() != fence["ticks"]:
            at += 1
        if at == len(lines):
            raise ValueError(f"{page}:{start}: a fence is never closed")
        body = "".join(re.sub(f"^ {{0,{indent}}}", "", line) + "\n" for line in lines[start:at])
        at += 1
        block = Block(page, start, fence["language"], fence["tags"].strip(), body)
        apart = any(line.strip() for line in lines[max(last_end, 0) : start - 1])
        last_end = at
        before = found[-1] if found else None
        if (
            before is not None
            and before.language in ("python", "bash")
            and before.expected is None
            and (block.language == "output" or (block.language == "text" and not apart))
        ):
            found[-1] = Block(
                before.page, before.line, before.language, before.tags, before.text, body
            )
        else:
            found.append(block)
    return found


def all_blocks(root: Path = ROOT) -> list[Block]:
    """Every block of README.md and docs/**/*.md, pages in order of name."""
    pages = [p for p in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if p.is_file()]
    return [
        block
        for page in pages
        for block in blocks(page.relative_to(root).as_posix(), page.read_text("utf-8"))
    ]


def chains(every: Iterable[Block]) -> list[tuple[Block, ...]]:
    """Runnable blocks, those that continue each other together."""
    result: list[tuple[Block, ...]] = []
    for block in every:
        if not block.runs:
            continue
        if block.continues and result and result[-1][0].page == block.page:
            result[-1] = (*result[-1], block)
        else:
            result.append((block,))
    return result


def commands(block: Block) -> list[tuple[str, str | None]]:
    """The commands of a `bash` or `console` block, each with its expected output, if any."""
    if block.language == "bash":
        return [(block.text, block.expected)]
    result: list[tuple[str, str | None]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            result.append((line[2:] + "\n", ""))
        elif result and result[-1][0].endswith("\\\n"):
            result[-1] = (result[-1][0] + line + "\n", "")
        elif result:
            command, output = result[-1]
            result[-1] = (command, f"{output}{line}\n")
        else:
            raise ValueError(f"{block.where}: a console block begins with '$ '")
    return result


def matches(expected: str, actual: str) -> bool:
    """Whether output is as shown: equal line by line but for trailing spaces and `...`."""
    pattern = ""
    for line in expected.strip("\n").splitlines():
        line = line.rstrip()
        if line == "...":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += ".*".join(map(re.escape, line.split("..."))) + r"\n"
    lines = [line.rstrip() for line in actual.strip("\n").splitlines()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def report(every: Iterable[Block]) -> list[str]:
    """One line of counts, then one for each block that is not run."""
    every = list(every)
    skipped = [block for block in every if block.skipped]
    counts = f"{sum(block.runs for block in every)} blocks run, {len(skipped)} not run"
    return [counts, *(f"  {b.where}: {b.language}, {b.reason}" for b in skipped)]


if __name__ == "__main__":
    found = all_blocks()
    print("\n".join(report(found)))
    mistakes = [mistake for block in found for mistake in block.mistakes()]
    print("\n".join(mistakes), file=sys.stderr, end="\n" if mistakes else "")
    sys.exit(1 if mistakes else 0)
