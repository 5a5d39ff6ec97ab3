"""What people see: tables, colours, one line for an error, a bar over what takes long.

Results go to standard output, everything said beside them to standard error. Text from
a journal is never trusted to be kind to a terminal: control characters are escaped,
and nothing in it is markup. Colour only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from batpak import errors
from batpak_cli import shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.progress import Progress, TaskID

    from batpak import Event, Finding

__all__ = [
    "Bar",
    "counted",
    "emit",
    "event_line",
    "event_table",
    "failure_line",
    "note",
    "pairs",
    "safe",
    "say_finding",
]

_PIPED_WIDTH = 200
_WIDE = 110


class _Column(NamedTuple):
    """A column of the table of events; `place` is that of its text in `event_cells`."""

    heading: str
    place: int
    style: str = ""
    always: bool = True
    is_number: bool = False
    folds: bool = False


_COLUMNS = (
    _Column("sequence", 0, "cyan", is_number=True),
    _Column("time (UTC)", 1, "dim"),
    _Column("entity", 2, "bold", folds=True),
    _Column("scope", 3, always=False, folds=True),
    _Column("kind", 4, "magenta"),
    _Column("clock", 5, always=False, is_number=True),
    _Column("payload", 6),
)
_LEAST_PAYLOAD = 16
_BESIDE_CELLS = 2
"""Columns of the terminal that a cell's padding and divider take."""
_BAR_AFTER = 1.0
"""Seconds of work before a bar is worth looking at."""


def emit(value: Any) -> None:
    """One JSON line on standard output, at once, so that a pipe's reader can follow."""
    sys.stdout.write(shapes.line(value) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line beside the result, on standard error."""
    print(safe(text), file=sys.stderr)


def safe(text: str) -> str:
    """The text with everything escaped that a terminal might obey or hide."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _console() -> Console:
    from rich.console import Console

    # Without a terminal there is nothing to fit into: a pipe gets the whole cells.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(
        width=_PIPED_WIDTH if piped else None, markup=False, highlight=False, emoji=False
    )


def counted(number: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """A table of names and values."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        shown = f"{value:,}" if isinstance(value, int) else safe(str(value))
        table.add_row(name, Text(shown))
    _console().print(table)


def event_table(events: Iterable[Event]) -> None:
    """Events as a table, one row each; payloads are cut to what the width leaves.

    A narrow terminal gets fewer columns: `batpak show` has them all.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    columns = [c for c in _COLUMNS if c.always or console.width >= _WIDE]
    rows = [[cells[c.place] for c in columns] for cells in map(event_cells, events)]
    widest = [
        max(map(len, cells)) for cells in zip([c.heading for c in columns], *rows, strict=True)
    ]
    # Left to itself, the table takes the room for a long payload from every other column.
    room = max(console.width - sum(widest[:-1]) - _BESIDE_CELLS * len(widest), _LEAST_PAYLOAD)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column.heading,
            style=column.style,
            justify="right" if column.is_number else "left",
            no_wrap=not column.folds,
            overflow="fold" if column.folds else "ellipsis",
        )
    for *cells, payload in rows:
        cut = payload if len(payload) <= room else payload[: room - 1] + "…"
        table.add_row(*(Text(cell) for cell in (*cells, cut)))
    console.print(table)


def event_cells(event: Event) -> tuple[str, ...]:
    """Sequence, time, entity, scope, kind, clock and payload of one event, for people."""
    shape = shapes.event(event)
    payload = f"({shape['payload_state']})"
    if shape["payload_state"] == "present":
        is_sealed = isinstance(shape["payload"], dict) and "$sealed" in shape["payload"]
        payload = "(encrypted)" if is_sealed else shapes.line(shape["payload"])
    return (
        str(event.sequence),
        event.time.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
        safe(shape["entity"]),
        safe(shape["scope"]),
        shape["kind"],
        str(event.clock),
        safe(payload if len(payload) <= 400 else payload[:399] + "…"),
    )


def event_line(event: Event) -> str:
    """One event as one line, for a tail that goes on."""
    sequence, when, entity, scope, kind, clock, payload = event_cells(event)
    text = f"{sequence:>8}  {when}  {entity} @ {scope}  {kind} #{clock}  {payload}"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(text)
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"


def say_finding(found: Finding) -> None:
    """A finding in one line: code, place, message."""
    place = found.file
    if place and found.offset is not None:
        place += f" at {found.offset}"
    if found.sequence is not None:
        place += f", event {found.sequence}" if place else f"event {found.sequence}"
    print(safe(f"finding: {found.code}: {place}: {found.message}"))


_GROUPS = (
    (errors.JournalLocked, "locked"),
    (errors.EventNotFound, "not found"),
    (errors.InvalidInput, "refused"),
    (errors.Conflict, "refused"),
    (errors.Unavailable, "unavailable"),
    (errors.Indeterminate, "indeterminate"),
)


def failure_line(failure: errors.BatpakError) -> str:
    """`damaged: FILE at OFFSET: what; advice (exit 3)`."""
    group = next((name for kind, name in _GROUPS if isinstance(failure, kind)), "damaged")
    facts = failure.facts
    place = facts.get("file")
    if place and facts.get("offset") is not None:
        place = f"{place} at {facts['offset']}"
    what = f"{place}: {failure.what}" if place else failure.what
    advice = f"; {failure.advice}" if failure.advice else ""
    return safe(f"{group}: {what}{advice} (exit {failure.exit_code})")


class Bar:
    """A progress bar on standard error, once the work has lasted a second.

    Call it with (done, total). Shows nothing for programs and off a terminal.
    """

    def __init__(self, what: str, *, unit: str, quiet: bool = False) -> None:
        self._what = what
        self._bytes = unit == "bytes"
        self._quiet = quiet or not sys.stderr.isatty()
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._bar is None or self._task is None:
            if time.monotonic() - self._began < _BAR_AFTER:
                return
            self._bar = self._start()
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def _start(self) -> Progress:
        from rich import progress
        from rich.console import Console

        count = progress.DownloadColumn() if self._bytes else progress.MofNCompleteColumn()
        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            count,
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        bar.start()
        return bar

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
