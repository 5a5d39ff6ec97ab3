"""Commands that read: log, show, tail, query, stats, export.

They open read-only, so they work beside a live writer and on a read-only disk. Where
the journal is damaged, they show what precedes the damage and end with exit 3.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

import batpak
from batpak.errors import InvalidInput, JournalCorrupt
from batpak_cli import shapes, terminal
from batpak_cli.arguments import (
    AfterOption,
    CategoryOption,
    ClockOption,
    EntityOption,
    Journal,
    JsonOption,
    KeyringOption,
    KindOption,
    ScopeOption,
    keyring_at,
    parse_event,
    parse_region,
)

if TYPE_CHECKING:
    from batpak import Event, ReadOnlyStore

__all__ = ["export", "log", "query", "show", "stats", "tail"]


@contextmanager
def _reading(journal: str, keyring: str | None = None) -> Generator[ReadOnlyStore]:
    """The journal, read-only; what opening met is raised once its readable part is shown."""
    with batpak.Store.open(journal, mode="r", keyring=keyring_at(keyring)) as store:
        yield store
        for finding in store.open_report.findings:
            raise JournalCorrupt(
                finding.message,
                file=finding.file,
                offset=finding.offset,
                sequence=finding.sequence,
                reason=finding.code,
                advice=f"shown is what precedes; run: batpak repair {journal}",
            )


def _show(events: Iterator[Event], json: bool) -> None:
    if json:
        for event in events:
            terminal.emit(shapes.event(event))
    else:
        terminal.event_table(events)


def _newest(store: ReadOnlyStore, number: int) -> Iterator[Event]:
    start = len(store) - number - 1
    return store.query(batpak.Region.all(), after=start if start >= 0 else None)


def log(
    journal: Journal,
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, metavar="N", help="How many events.")
    ] = 20,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest events as a table, oldest first.

    In Python: Store.query. With --json: a line of the shape "event" for each.

    \b
    Example:
      batpak log journal -n 5
    """
    with _reading(journal, keyring) as store:
        _show(_newest(store, number), json)


def show(
    journal: Journal,
    event: Annotated[
        str, typer.Argument(metavar="EVENT", help="A sequence, or an id: event:<32 hex digits>.")
    ],
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Show all that is known of one event, its hashes checked.

    In Python: Store.get and Store.at. With --json: the shape "event".

    \b
    Example:
      batpak show journal 0
    """
    with batpak.Store.open(journal, mode="r", keyring=keyring_at(keyring)) as store:
        found = parse_event(store, event)
    shape = shapes.event(found)
    if json:
        terminal.emit(shape)
        return
    terminal.pairs(
        (name, shapes.line(value) if name in ("payload", "extensions") else _plain(value))
        for name, value in shape.items()
        if value is not None
    )


def _plain(value: object) -> object:
    # Numbers here are names and labels, which nobody wants grouped by thousands.
    return str(value)


def tail(
    journal: Journal,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", min=0, metavar="N", help="How many to begin with.")
    ] = 10,
    interval: Annotated[
        float,
        typer.Option(min=0.001, max=3600, metavar="SECONDS", help="How often to look for more."),
    ] = 0.2,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest events, one a line; -f follows a live journal.

    Shows only what a power cut can't take back, or what its writer shows at once.

    In Python: ReadOnlyStore.refresh. With --json: a line of the shape "event" for each.

    \b
    Example:
      batpak tail journal -n 3
    """
    with _reading(journal, keyring) as store:
        try:
            shown = len(store)
            if number:
                _lines(_newest(store, number), json)
            while follow:
                if store.refresh() > shown:
                    after = shown - 1 if shown else None
                    shown = len(store)
                    _lines(store.query(batpak.Region.all(), after=after), json)
                else:
                    time.sleep(interval)
        except KeyboardInterrupt:
            # The usual way to end it.
            return


def _lines(events: Iterator[Event], json: bool) -> None:
    for event in events:
        if json:
            terminal.emit(shapes.event(event))
        else:
            print(terminal.event_line(event), flush=True)


def query(
    journal: Journal,
    entity: EntityOption = None,
    scope: ScopeOption = None,
    kind: KindOption = None,
    category: CategoryOption = None,
    clock: ClockOption = None,
    after: AfterOption = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="At most this many; 0 for all.")
    ] = 100,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Show the events for which every option holds, in order.

    When there are more than --limit, the sequence to go on with is named.

    In Python: Store.query and Store.page. With --json: a line of the shape "event" for
    each; to go on, give the last line's sequence as --after.

    \b
    Example:
      batpak query journal --entity player --clock 0:9
    """
    region = parse_region(entity, scope, kind, category, clock)
    with _reading(journal, keyring) as store:
        events = store.query(region, after=after)
        last: list[Event] = []
        shown = islice(events, min(limit, sys.maxsize)) if limit else events
        _show(_noting_last(shown, last), json)
        if limit and last and next(events, None) is not None:
            terminal.note(f"there are more: --after {last[0].sequence}")


def _noting_last(events: Iterator[Event], last: list[Event]) -> Iterator[Event]:
    for event in events:
        last[:] = [event]
        yield event


def stats(journal: Journal, json: JsonOption = False) -> None:
    """Count what the journal holds.

    In Python: Store.stats. With --json: the shape "stats".

    \b
    Example:
      batpak stats journal
    """
    with _reading(journal) as store:
        numbers = store.stats()
        shape = shapes.stats(store.path, store.journal_id, store.origin, numbers)
        if json:
            terminal.emit(shape)
            return
        kinds = shape.pop("kinds")
        rows = [
            (name.replace("_", " "), "none" if value is None else value)
            for name, value in shape.items()
        ]
        terminal.pairs(rows + [(f"kind {kind}", number) for kind, number in kinds.items()])


def export(
    journal: Journal,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write here.", show_default="standard output"),
    ] = None,
    entity: EntityOption = None,
    scope: ScopeOption = None,
    kind: KindOption = None,
    category: CategoryOption = None,
    clock: ClockOption = None,
    after: AfterOption = None,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Write events as JSON lines, with payloads, labels and hashes.

    FILE gets its name when it is complete, in place of a file that had it; an export that
    failed leaves no half file. A device or a pipe is no FILE: redirect the output there.

    In Python: Store.query. Every line has the shape "event". With --json: the summary,
    on standard error, has the shape "export".

    \b
    Example:
      batpak export journal --out events.jsonl
    """
    region = parse_region(entity, scope, kind, category, clock)
    began = time.perf_counter()
    with (
        _reading(journal, keyring) as store,
        terminal.Bar(
            "export", unit="events", quiet=json or (out is None and sys.stdout.isatty())
        ) as bar,
    ):
        target = None if out is None else _check_out(out, journal)
        total = store.count(region)
        lines = _export_lines(store.query(region, after=after), bar, total)
        if target is None:
            number = sum(sys.stdout.write(text) > 0 for text in lines)
            sys.stdout.flush()
        else:
            number = _write_whole(target, lines)
    seconds = time.perf_counter() - began
    if json:
        summary = {"events": number, "file": out, "seconds": round(seconds, 6)}
        terminal.note(shapes.line(summary))
    else:
        place = f" to {out}" if out else ""
        terminal.note(f"{terminal.counted(number, 'event')} exported{place} in {seconds:.2f} s")


def _export_lines(events: Iterator[Event], bar: terminal.Bar, total: int) -> Iterator[str]:
    for done, event in enumerate(events):
        if done % 1024 == 0:
            bar(done, total)
        yield shapes.line(shapes.event(event)) + "\n"


def _check_out(path: str, journal: str) -> str:
    """Where an export to `path` is to stand, links followed. Raises InvalidInput.

    A whole file takes the name only at the end, so it must be one that a file may take.
    """
    target = os.path.realpath(path)
    root = os.path.realpath(journal)
    folder = os.path.dirname(target)
    if not path:
        what, advice = "--out names no file", "name a file for --out"
    elif os.path.isdir(target):
        what, advice = f"{path} is a directory", "name a file for --out"
    elif target.startswith(os.path.join(root, "")):
        what, advice = f"{path} is inside of the journal", "name a file outside of it"
    elif not os.path.isdir(folder):
        what, advice = f"there is no directory {folder}", "create it first, or name another file"
    elif os.path.exists(target) and not _is_replaceable(target):
        what = f"{path} is a device, a pipe or standard output itself, not a file of its own"
        advice = "leave --out away and redirect: batpak export JOURNAL > PLACE"
    else:
        return target
    raise InvalidInput(what, field="out", value=path, advice=advice)


def _is_replaceable(path: str) -> bool:
    status = os.stat(path)
    try:
        is_output = os.path.samestat(status, os.fstat(sys.stdout.fileno()))
    except OSError:
        is_output = False
    return stat.S_ISREG(status.st_mode) and not is_output


def _write_whole(target: str, lines: Iterator[str]) -> int:
    """Write lines to a new file beside `target`, then give it the name; returns how many."""
    from batpak.files import TEMPORARY_SUFFIX, refusal

    # A name that nobody else takes; "x" refuses it where somebody has all the same.
    name = f"batpak-export-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    temporary = os.path.join(os.path.dirname(target), name)
    number = 0
    try:
        # Apart from the `with`: only a file that was made here is removed, and closed before that.
        file = open(temporary, "x", encoding="utf-8", newline="\n")  # noqa: SIM115  # as said above
        try:
            with file:
                if os.path.exists(target):
                    # Who may read what stands there may read what replaces it, and nobody else.
                    os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
                for text in lines:
                    file.write(text)
                    number += 1
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise refusal(error, "the export can't be written", target) from error
    return number
