"""Import a file of JSON lines: every line holds one object, every object becomes a payload.

Streams: a line and a batch are in memory, never the file. Reads as far as the file
reached when the import began. Blank lines are passed over. An object is complete
where its last brace is, so a last line without line end is imported when it holds a
whole object, and else left for the next run: its writer may be in the middle of it.
Guide: docs/guide/import.md.

The position is a byte offset, a count of line ends and the hash of what stands before
the offset, so that a file that was rewritten is refused, not read from its middle.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

from batpak import canonical
from batpak.coordinate import Coordinate
from batpak.errors import InvalidInput
from batpak.items import Item
from batpak.kinds import DATA, EventKind
from batpak.store import Store
from batpak_cli.importers.files import (
    BOM,
    WINDOW_BYTES,
    FileWork,
    default_source,
    open_source,
    source_name,
)
from batpak_cli.importers.report import ImportReport, Progress
from batpak_cli.strict_json import NotJson, parse

__all__ = ["MAX_LINE_BYTES", "JsonlMapping", "import_jsonl"]

MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlMapping:
    """Where the events of a file go.

    `entity` is the entity of all, or with `entity_field` what stands before the value
    of that field: entity "user" and field "id" make `user:7` of `{"id": 7}`. With
    neither, it is `jsonl:<file name>`. Raises CoordinateError for a bad name.
    """

    entity: str | None = None
    entity_field: str | None = None
    scope: str = "import"
    kind: EventKind = DATA

    def __post_init__(self) -> None:
        # Here, or each line of the file would be blamed for it.
        Coordinate("unnamed" if self.entity is None else self.entity, self.scope)

    def coordinate(self, value: dict[str, Any], default: str) -> Coordinate:
        """Raises NotJson for a field without a name in it, CoordinateError for a bad name."""
        if self.entity_field is None:
            return Coordinate(self.entity or default, self.scope)
        name = value.get(self.entity_field)
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            found = "is missing" if name is None else "is neither text nor a whole number"
            raise NotJson(f"the field {self.entity_field!r}, which names the entity, {found}")
        return Coordinate(f"{self.entity}:{name}" if self.entity else str(name), self.scope)


@dataclass(frozen=True, slots=True)
class _Position:
    """How far a file is imported; `hash` covers the `window` bytes before `offset`."""

    offset: int
    lines: int
    mid_line: bool
    """Whether the offset stands behind an object whose line had no end yet."""
    window: int
    hash: bytes

    def plain(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Line(NamedTuple):
    number: int
    data: bytes
    end: int
    closed: bool
    """Whether a line end was there."""
    too_long: bool


def import_jsonl(
    store: Store,
    path: str | os.PathLike[str],
    *,
    mapping: JsonlMapping | None = None,
    source: str | None = None,
    skip_bad: bool = False,
    batch_events: int = 1000,
    max_line_bytes: int = MAX_LINE_BYTES,
    progress: Progress | None = None,
) -> ImportReport:
    """Append what the file has and the journal has not; a kill leaves whole batches.

    `source` is the name by which the journal remembers the file, by default
    `jsonl:<file name>`. A bad line raises ImportSourceError with its number, and
    nothing of its batch is written; with `skip_bad` it is left out and counted.

    Raises ImportSourceError also for what is no regular file, and for a file that is
    not the one that was imported under this name. Raises as `Store.append_many`.
    """
    began = time.perf_counter()
    if batch_events < 1 or max_line_bytes < 2:
        raise InvalidInput("a batch has at least one event, a line two bytes", field="batch_events")
    name = default_source(path, "jsonl:")
    report = ImportReport(source_name(source, name))
    with open_source(path) as file:
        _Work(
            store,
            file,
            os.fspath(path),
            mapping or JsonlMapping(),
            name,
            report,
            skip_bad=skip_bad,
            batch_events=batch_events,
            max_line_bytes=max_line_bytes,
            progress=progress,
        ).run()
    report.seconds = time.perf_counter() - began
    return report


class _Work(FileWork):
    """One run over one file."""

    def __init__(
        self,
        store: Store,
        file: IO[bytes],
        path: str,
        mapping: JsonlMapping,
        name: str,
        report: ImportReport,
        *,
        skip_bad: bool,
        batch_events: int,
        max_line_bytes: int,
        progress: Progress | None,
    ) -> None:
        super().__init__(
            store,
            file,
            path,
            report,
            skip_bad=skip_bad,
            batch_events=batch_events,
            progress=progress,
        )
        self._mapping = mapping
        self._name = name
        self._max_line_bytes = max_line_bytes
        self._mid_line = False

    def run(self) -> None:
        self._resume()
        size = os.fstat(self._file.fileno()).st_size
        for line in self._read(size):
            if not line.closed and not self._text_of(line).strip():
                break  # the start of a line that is still to come
            if not self._take(line):
                self._report.incomplete = True
                break
            self._offset, self._mid_line = line.end, not line.closed
            self._lines += line.closed
            if self.full:
                self.flush(size)
        self.flush(size)

    def _take(self, line: _Line) -> bool:
        """Judge a line; False leaves it, and what follows, for the next run."""
        data = self._text_of(line)
        if not data.strip():
            return True
        self._report.read += 1
        try:
            if line.too_long:
                raise NotJson(f"longer than {self._max_line_bytes} bytes")
            if self._mid_line:
                raise NotJson("text follows the object that was imported from this line")
            item = self._item(data)
        except (NotJson, InvalidInput) as error:
            unfinished = isinstance(error, NotJson) and error.may_go_on
            if unfinished and not line.closed and _begins_an_object(data):
                self._report.read -= 1
                return False
            self.bad(line.number, error)
        else:
            self.put(line.number, item, len(data))
        return True

    @staticmethod
    def _text_of(line: _Line) -> bytes:
        at_start = line.end == len(line.data)
        return line.data.removeprefix(BOM) if at_start else line.data

    def _item(self, data: bytes) -> Item:
        value = parse(data)
        if not isinstance(value, dict):
            raise NotJson("not an object: every line has to be one, {…}")
        fields = cast("dict[str, Any]", value)
        where = self._mapping.coordinate(fields, self._name)
        # The same bytes as append() would make, so that an error is the line's own.
        return Item.raw(where, self._mapping.kind, canonical.encode(fields))

    def position(self) -> dict[str, object]:
        window = min(self._offset, WINDOW_BYTES)
        at = self._offset
        return _Position(
            at, self._lines, self._mid_line, window, self.hash_before(at, window)
        ).plain()

    def _resume(self) -> None:
        stored = self._store.import_position(self._report.source)
        if stored is None:
            return
        try:
            position = _Position(**stored)
            same = self.hash_before(position.offset, position.window) == position.hash
        except (TypeError, ValueError, OSError, OverflowError) as error:
            raise self.other_file("the journal's note about it is not a JSONL import's") from error
        if not same:
            raise self.other_file(f"what stands before its line {position.lines + 1} changed")
        self._report.resumed = True
        self._offset, self._lines = position.offset, position.lines
        self._mid_line = position.mid_line
        self._file.seek(position.offset)

    def _read(self, size: int) -> Iterator[_Line]:
        """Lines from where the file stands up to byte `size`, none over the limit in memory."""
        offset, number = self._offset, self._lines + 1
        while offset < size:
            room = size - offset
            data = self._file.readline(min(self._max_line_bytes + 1, room))
            if not data:
                return  # the file was cut short meanwhile
            offset += len(data)
            closed = data.endswith(b"\n")
            too_long = len(data) > self._max_line_bytes + closed
            while not closed and len(data) > self._max_line_bytes and offset < size:
                rest = self._file.readline(min(1 << 20, size - offset))
                if not rest:
                    break
                offset += len(rest)
                closed = rest.endswith(b"\n")
            yield _Line(number, data, offset, closed, too_long)
            number += 1


def _begins_an_object(data: bytes) -> bool:
    """Whether bytes that are no JSON can still become an object: no other kind of file."""
    if not re.match(rb"\s*\{[^\x00-\x08\x0b\x0c\x0e-\x1f]*\Z", data):
        return False
    # The end may cut a character of up to four bytes.
    return any(_is_utf8(data[: len(data) - missing]) for missing in range(4))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
