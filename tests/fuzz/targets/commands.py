"""What the command line reads from outside: JSON, lines of JSON, numbers and ids in options."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import typer

from batpak import Durability, Store
from batpak.errors import ImportSourceError, InvalidInput
from batpak_cli.arguments import parse_id, parse_kind, parse_region
from batpak_cli.importers.csv import CsvMapping, import_csv
from batpak_cli.importers.jsonl import JsonlMapping, import_jsonl
from batpak_cli.strict_json import NotJson, parse
from tests.fuzz.target import target
from tests.support.faulty_files import DISK


@target()
def strict_json(data: bytes) -> None:
    """NotJson with a reason, or the value that Python's own reader gives.

    What is accepted names no key twice and no number that is none, so it can be written as
    JSON and read again as the same.
    """
    try:
        value = parse(data)
    except NotJson as error:
        assert str(error)
        return
    assert json.loads(data) == value
    assert parse(json.dumps(value, allow_nan=False).encode()) == value


@target(max_bytes=2048)
def jsonl_import(data: bytes) -> None:
    """A file of any bytes is imported, or refused by ImportSourceError with a line number.

    With bad lines left out nothing is refused; each line is an event or is counted. A
    second import of the same file adds nothing, and a verified journal is left behind.
    """
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        source = Path(folder, "lines.jsonl")
        source.write_bytes(data)
        mapping = JsonlMapping(entity="e", entity_field="id" if data[:1] == b"\n" else None)
        with Store.open(Path(folder, "j"), files=DISK, durability=Durability.OS) as store:
            before = len(store)
            try:
                import_jsonl(store, source, mapping=mapping, max_line_bytes=512, batch_events=3)
            except ImportSourceError as error:
                assert error.line is not None
                assert error.line >= 1
            report = import_jsonl(
                store, source, mapping=mapping, max_line_bytes=512, skip_bad=True, batch_events=3
            )
            events = [e for e in store if e.coordinate.entity.startswith("e")]
            assert all(isinstance(event.value, dict) for event in events)
            count = len(store)
            again = import_jsonl(store, source, mapping=mapping, max_line_bytes=512, skip_bad=True)
            assert (again.events, len(store)) == (0, count)
            assert report.read >= report.events + report.skipped
            assert len(store) >= before
            assert store.verify("full").ok


@target(max_bytes=2048)
def csv_import(data: bytes) -> None:
    """A file of any bytes is imported, or refused by ImportSourceError.

    With bad rows left out only a header can be refused; each row is an event or is counted.
    A second import of the same file adds nothing, and a verified journal is left behind.
    """
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        source = Path(folder, "rows.csv")
        source.write_bytes(data)
        mapping = CsvMapping(entity="e", types={"n": "int?"} if data[:2] == b"n," else {})
        with Store.open(Path(folder, "j"), files=DISK, durability=Durability.OS) as store:
            try:
                import_csv(store, source, mapping=mapping, max_row_bytes=512, batch_events=3)
            except ImportSourceError:
                pass
            try:
                report = import_csv(
                    store, source, mapping=mapping, max_row_bytes=512, skip_bad=True, batch_events=3
                )
            except ImportSourceError:
                return
            assert report.read >= report.events + report.skipped
            assert all(isinstance(e.value, dict) for e in store if e.coordinate.entity == "e")
            count = len(store)
            again = import_csv(store, source, mapping=mapping, max_row_bytes=512, skip_bad=True)
            assert (again.events, len(store)) == (0, count)
            assert store.verify("full").ok


def shared_memory() -> str | None:
    """A folder in memory, where there is one: no disk is worn by small files."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@target(max_bytes=128)
def options(data: bytes) -> None:
    """BadParameter or an error of ours, or what the text says: a kind, an id, a region."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        kind = parse_kind(text)
    except typer.BadParameter:
        pass
    else:
        assert parse_kind(str(kind)) == kind
    try:
        assert len(parse_id(text)) == 16
    except InvalidInput:
        pass
    for clock in (text, None):
        try:
            region = parse_region(text or None, None, None, None, clock)
        except (typer.BadParameter, InvalidInput):
            continue
        if region.clock is not None:
            assert all(0 <= bound < 2**32 for bound in region.clock)
        assert len(region.digest()) == 32
