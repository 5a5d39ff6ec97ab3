"""Commands that write: init, append, import. They need the journal's lock."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import batpak
from batpak.errors import InvalidInput, ReservedKind
from batpak_cli import shapes, terminal
from batpak_cli.arguments import (
    Journal,
    JsonOption,
    KeyringOption,
    keyring_at,
    open_to_write,
    parse_id,
    parse_kind,
)

if TYPE_CHECKING:
    from batpak.kinds import EventKind
    from batpak_cli.importers.report import ImportReport

__all__ = ["append", "import_csv", "import_git", "import_jsonl", "init"]


def init(
    journal: Journal,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The journal's name in checkpoints; fixed for ever.",
            show_default="batpak/ and the journal's id",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create a journal. Where there is one already, say so and change nothing.

    In Python: Store.open. With --json: the shape "init".

    \b
    Example:
      batpak init journal
    """
    from batpak.journal.layout import Layout

    created = not os.path.lexists(Layout(journal).identity)
    if created:
        with batpak.Store.open(journal, origin=origin) as store:
            path, journal_id, name = store.path, store.journal_id, store.origin
    else:
        with batpak.Store.open(journal, mode="r") as reader:
            path, journal_id, name = reader.path, reader.journal_id, reader.origin
        if origin not in (None, name):
            raise InvalidInput(
                f"this journal's origin is {name!r} and can't be changed",
                field="origin",
                value=origin,
                advice="create another journal",
            )
    if json:
        terminal.emit(
            {"path": path, "journal_id": str(journal_id), "origin": name, "created": created}
        )
        return
    print(terminal.safe(f"{'created' if created else 'already there:'} {path} ({journal_id})"))


def append(
    journal: Journal,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="Whose event it is.")],
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="Where it happened.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="The event's kind, categories 1 to 15 but 13.")
    ] = "0x1000",
    json_payload: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The payload as JSON.", show_default="standard input"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Store standard input's bytes as given, not as JSON.")
    ] = False,
    causation: Annotated[
        str | None, typer.Option(metavar="ID", help="The event that caused this one.")
    ] = None,
    correlation: Annotated[
        str | None, typer.Option(metavar="ID", help="The conversation that it belongs to.")
    ] = None,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Append one event, durable when the command returns.

    The payload is any JSON value. Refused, since it would be changed or lost: a key
    that stands twice in an object, NaN, numbers beyond 64 bits. With --keyring the payload
    is encrypted.

    In Python: Store.append. With --json: the receipt, as AppendReceipt.to_json gives it.

    \b
    Example:
      batpak append journal player:alice room:dungeon --json-payload '{"x": 10, "y": 20}'
    """
    if raw and json_payload is not None:
        raise typer.BadParameter("--raw and --json-payload exclude each other")
    number = parse_kind(kind)
    where = batpak.Coordinate(entity, scope)
    cause = None if causation is None else batpak.CausationId.from_bytes(parse_id(causation))
    family = None
    if correlation is not None:
        family = batpak.CorrelationId.from_bytes(parse_id(correlation))
    data = _standard_input() if json_payload is None else os.fsencode(json_payload)
    value = data if raw else _json_value(data)
    with _writing(journal, keyring) as store:
        if raw:
            receipt = store.append_raw(where, number, data, causation=cause, correlation=family)
        else:
            receipt = store.append(where, value, kind=number, causation=cause, correlation=family)
    if json:
        print(receipt.to_json())
        return
    print(f"{receipt.event_id} at {receipt.sequence}, durable")


def _writing(journal: str, keyring: str | None) -> batpak.Store:
    """The journal, open; with a keyring all payloads are encrypted."""
    ring = keyring_at(keyring)
    if ring is None:
        return open_to_write(journal)
    return open_to_write(journal, codec="encrypted", keyring=ring)


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise typer.BadParameter("give --json-payload, or pipe the payload in")
    return sys.stdin.buffer.read()


def _json_value(data: bytes) -> object:
    from batpak_cli.strict_json import NotJson, parse

    try:
        return parse(data)
    except NotJson as error:
        raise InvalidInput(
            f"the payload can't be kept: {error}",
            field="payload",
            advice="give one JSON value, or bytes with --raw",
        ) from error


def import_jsonl(
    journal: Journal,
    file: Annotated[str, typer.Argument(metavar="FILE", help="One JSON object a line.")],
    entity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The entity of all events; with --entity-field, what stands before its value.",
            show_default="jsonl:<file name>",
        ),
    ] = None,
    entity_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The field that names the entity.")
    ] = None,
    scope: Annotated[str, typer.Option(metavar="NAME", help="The scope of all.")] = "import",
    kind: Annotated[str, typer.Option(metavar="KIND", help="The kind of all.")] = "0x1000",
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name by which the journal remembers the file.",
            show_default="jsonl:<file name>",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=65_536, metavar="N", help="Events in a commit.")
    ] = 1000,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Import a file of JSON lines: each object becomes an event's payload.

    Run again, also after a kill, it adds only what is new. A bad line stops the import
    by its number; nothing of its batch is written. With --keyring payloads are encrypted.

    In Python: batpak_cli.importers.jsonl.import_jsonl. With --json: the shape "import".

    \b
    Example:
      batpak init journal
      echo '{"user": "alice", "did": "login"}' > app.jsonl
      batpak import jsonl journal app.jsonl --entity user --entity-field user
    """
    number = _kind_of_all(kind)
    from batpak_cli.importers import jsonl

    mapping = jsonl.JsonlMapping(entity=entity, entity_field=entity_field, scope=scope, kind=number)
    with (
        _writing(journal, keyring) as store,
        terminal.Bar("import", unit="bytes", quiet=json) as bar,
    ):
        report = jsonl.import_jsonl(
            store,
            file,
            mapping=mapping,
            source=source,
            skip_bad=skip_bad,
            batch_events=batch,
            progress=bar,
        )
    _tell(report, "line", json)


def _kind_of_all(text: str) -> EventKind:
    kind = parse_kind(text)
    if kind.is_reserved:
        # As the journal itself says it, also for a file without a single event.
        raise ReservedKind(
            f"kind {kind} belongs to the system",
            field="kind",
            value=kind.raw,
            advice="use a category from 1 to 15, but not 13",
        )
    return kind


def import_csv(
    journal: Journal,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV in UTF-8; its first row names the columns.")
    ],
    entity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The entity of all events; with --entity-column, what stands before its value.",
            show_default="csv:<file name>",
        ),
    ] = None,
    entity_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column that names the entity.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The scope of all events; with --scope-column, what stands before its value.",
            show_default="import",
        ),
    ] = None,
    scope_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column that names the scope.")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN:TYPE,…",
            help="Columns that are not text: int, float or bool; with ? behind it, also for "
            "text, an empty value is null.",
        ),
    ] = None,
    delimiter: Annotated[
        str, typer.Option(metavar="CHARACTER", help="What stands between fields; \\t is a tab.")
    ] = ",",
    kind: Annotated[str, typer.Option(metavar="KIND", help="The kind of all.")] = "0x1000",
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name by which the journal remembers the file.",
            show_default="csv:<file name>",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out and count them.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=65_536, metavar="N", help="Events in a commit.")
    ] = 1000,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Import a CSV file: each row becomes an event's payload, its fields under the header's names.

    Values stay text but for columns with a type. Run again, also after a kill, it adds
    only what is new. A bad row stops the import by its line's number; nothing of its
    batch is written. With --keyring payloads are encrypted.

    In Python: batpak_cli.importers.csv.import_csv. With --json: the shape "import".

    \b
    Example:
      batpak init journal
      printf 'user,score\\nalice,7\\n' > scores.csv
      batpak import csv journal scores.csv --entity-column user --types score:int
    """
    number = _kind_of_all(kind)
    from batpak_cli.importers import csv

    try:
        by_column = {} if types is None else csv.parse_types(types)
        csv.parse_delimiter(delimiter)
    except InvalidInput as error:
        option = f"--{error.field}"
        raise typer.BadParameter(f"{error.what}; {error.advice}", param_hint=option) from error
    mapping = csv.CsvMapping(
        entity=entity,
        entity_column=entity_column,
        scope=scope,
        scope_column=scope_column,
        kind=number,
        types=by_column,
    )
    with (
        _writing(journal, keyring) as store,
        terminal.Bar("import", unit="bytes", quiet=json) as bar,
    ):
        report = csv.import_csv(
            store,
            file,
            mapping=mapping,
            delimiter=delimiter,
            source=source,
            skip_bad=skip_bad,
            batch_events=batch,
            progress=bar,
        )
    _tell(report, "row", json)


def import_git(
    journal: Journal,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="A repository's top folder.")],
    branch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A branch or tag.", show_default="what is checked out"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The repository's name.", show_default="its folder's"),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The scope of all.", show_default="repo:<name>"),
    ] = None,
    with_email: Annotated[
        bool, typer.Option("--with-email", help="Keep the authors' addresses too.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=65_536, metavar="N", help="Events in a commit, about.")
    ] = 1000,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Import a git history: each commit and each file that it changed is an event.

    Commits go to entity repo:<name>:<branch>, files to file:<path>, where / becomes :,
    so that --entity file:src is a folder. Run again, it adds only what is new. With
    --keyring payloads are encrypted.

    In Python: batpak_cli.importers.git.import_git. With --json: the shape "import".

    \b
    Example:
      batpak import git journal repo
    """
    from batpak_cli.importers import git

    with (
        _writing(journal, keyring) as store,
        terminal.Bar("import", unit="commits", quiet=json) as bar,
    ):
        report = git.import_git(
            store,
            repo,
            branch=branch,
            name=name,
            scope=scope,
            with_email=with_email,
            batch_events=batch,
            progress=bar,
        )
    _tell(report, "commit", json)


def _tell(report: ImportReport, read: str, json: bool) -> None:
    if json:
        terminal.emit(shapes.imported(report))
        return
    if report.events:
        print(
            terminal.safe(
                f"{report.source}: {terminal.counted(report.events, 'event')} "
                f"from {terminal.counted(report.read, read)} "
                f"in {report.seconds:.2f} s, {report.per_second:,.0f} events/s"
            )
        )
    else:
        print(terminal.safe(f"{report.source}: nothing new"))
    for bad in report.bad:
        terminal.note(f"left out: line {bad.line}: {bad.reason}")
    if report.skipped:
        terminal.note(f"left out: {terminal.counted(report.skipped, 'bad line')}")
    if report.incomplete:
        terminal.note("the last line is unfinished: left for the next run")
