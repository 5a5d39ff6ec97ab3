"""Import a CSV file: the first row names the columns, every further row becomes a payload.

Reads RFC 4180 strictly, in UTF-8: a field that holds a quote, a delimiter or a line end
is quoted as a whole, with its quotes doubled. What other readers mend silently is a bad
row here; where it ends is still what they would say, so that leaving a bad row out
never makes a row of its content. Values stay text but for columns with a type.

Streams: a row and a batch are in memory, never the file. Reads as far as the file
reached when the import began. A last row without line end is imported when it is whole,
and left for the next run when more text could still make it so. Guide:
docs/guide/import.md.

The position is a byte offset with the hash of what stands before it, and the hash of
the header. Of a row that had no line end yet it keeps the length, so that the next run
reads that row again and refuses it if it went on.
"""

from __future__ import annotations

import enum
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

from blake3 import blake3

from batpak import canonical
from batpak.coordinate import Coordinate
from batpak.errors import ImportSourceError, InvalidInput
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

__all__ = [
    "MAX_COLUMNS",
    "MAX_ROW_BYTES",
    "TYPES",
    "CsvMapping",
    "import_csv",
    "parse_delimiter",
    "parse_types",
]

MAX_ROW_BYTES: Final = 16 << 20
MAX_COLUMNS: Final = 4096
_USUAL_DELIMITERS: Final = ",;\t|"
_PIECE: Final = 1 << 20
"""Bytes that are read at a time of a row over the limit."""


class _NotCsv(ValueError):
    """The reason why a row can't be imported, as a phrase for an error message.

    `may_go_on` is True where more text at its end could still make it good.
    """

    def __init__(self, reason: str, *, may_go_on: bool = False) -> None:
        super().__init__(reason)
        self.may_go_on = may_go_on


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvMapping:
    """Where the events of a file go, and which columns are not text.

    `entity` is the entity of all, or with `entity_column` what stands before the value
    of that column: entity "user" and column "id" make `user:7`; with neither, it is
    `csv:<file name>`. Scope likewise; with neither, it is "import". `types` maps
    column names to one of `TYPES`, with `?` behind it where empty means null. Raises
    CoordinateError for a bad name.
    """

    entity: str | None = None
    entity_column: str | None = None
    scope: str | None = None
    scope_column: str | None = None
    kind: EventKind = DATA
    types: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        # Here, or each row of the file would be blamed for it.
        Coordinate(
            "unnamed" if self.entity is None else self.entity,
            "unnamed" if self.scope is None else self.scope,
        )

    @property
    def columns(self) -> set[str]:
        """The columns that the file has to have."""
        named = {self.entity_column, self.scope_column} - {None}
        return {name for name in named if name is not None} | set(self.types)


def parse_types(text: str) -> dict[str, str]:
    """Column to type from `name:type,…`, itself a row of CSV. Raises InvalidInput."""
    splitter = _Splitter(b",", MAX_COLUMNS)
    unfinished = splitter.feed(text.encode("utf-8", "surrogateescape"))
    parts = [part.decode("utf-8", "surrogateescape").rpartition(":") for part in splitter.fields]
    types = {name: type_name for name, _, type_name in parts}
    # A name that stands twice and parts beyond the bound leave fewer types than parts.
    if unfinished or splitter.fault or "" in types or len(types) != splitter.count:
        raise InvalidInput(
            f"{text!r} does not give each column a type",
            field="types",
            value=text,
            advice='write name:type,name:type, or "name, with comma:type"',
        )
    _converters(types)
    return types


def parse_delimiter(text: str) -> bytes:
    r"""The delimiter: one ASCII character, or `\t` for a tab. Raises InvalidInput."""
    character = "\t" if text == "\\t" else text
    if len(character) != 1 or not character.isascii() or character in '"\r\n\0':
        raise InvalidInput(
            f"{text!r} is no delimiter",
            field="delimiter",
            value=text,
            advice="give one ASCII character that is neither a quote nor a line end",
        )
    return character.encode()


def import_csv(
    store: Store,
    path: str | os.PathLike[str],
    *,
    mapping: CsvMapping | None = None,
    delimiter: str = ",",
    source: str | None = None,
    skip_bad: bool = False,
    batch_events: int = 1000,
    max_row_bytes: int = MAX_ROW_BYTES,
    progress: Progress | None = None,
) -> ImportReport:
    """Append what the file has and the journal has not; a kill leaves whole batches.

    `source` is the name by which the journal remembers the file, by default
    `csv:<file name>`. A bad row raises ImportSourceError with the number of its first
    line, and nothing of its batch is written; with `skip_bad` it is left out and
    counted. A row has at most `max_row_bytes`, its line end included.

    Raises ImportSourceError also for a header that names no columns, some twice, or
    not those of `mapping`, for what is no regular file, and for a file that is not the
    one that was imported under this name. Raises as `Store.append_many`.
    """
    began = time.perf_counter()
    if batch_events < 1 or max_row_bytes < 2:
        raise InvalidInput("a batch has at least one event, a row two bytes", field="batch_events")
    chosen = mapping or CsvMapping()
    by_name = _converters(chosen.types)
    mark = parse_delimiter(delimiter)
    name = default_source(path, "csv:")
    report = ImportReport(source_name(source, name))
    with open_source(path) as file:
        _Work(
            store,
            file,
            os.fspath(path),
            report,
            reader=_Reader(file, mark, max_row_bytes),
            mapping=chosen,
            converters=by_name,
            name=name,
            skip_bad=skip_bad,
            batch_events=batch_events,
            progress=progress,
        ).run()
    report.seconds = time.perf_counter() - began
    return report


# --- rows --------------------------------------------------------------------


class _Row(NamedTuple):
    """A row as it stands in the file; places and lengths in bytes."""

    line: int
    """Its first line, from 1."""
    start: int
    end: int
    """Behind its line end."""
    length: int
    """Without its line end."""
    line_ends: int
    closed: bool
    """Whether a line end was there."""
    fault: _NotCsv | None
    split: _Splitter


class _Splitter:
    """The fields of one row, fed a line at a time, since quoted fields may hold line ends."""

    __slots__ = (
        "_delimiter",
        "_most",
        "_open",
        "count",
        "end_bytes",
        "fault",
        "fields",
        "quoted",
    )

    def __init__(self, delimiter: bytes, most: int) -> None:
        self._delimiter = delimiter
        self._most = most
        self._open: bytearray | None = None
        """What was read of a quoted field that is not closed yet."""
        self.fields: list[bytes] = []
        """The first of them, as many as were asked for."""
        self.count = 0
        self.end_bytes = 0
        """Bytes of the row's line end."""
        self.fault: str | None = None
        """The first rule that was broken; reading goes on as lenient readers do."""
        self.quoted = False

    @property
    def is_open(self) -> bool:
        """Whether the row ends inside a quoted field so far."""
        return self._open is not None

    def feed(self, line: bytes) -> bool:
        """Whether the row goes on behind this line, which may have a line end."""
        stop = len(line) - line.endswith(b"\n")
        stop -= line.endswith(b"\r", 0, stop)
        if self._open is None and b'"' not in line and line.find(b"\r", 0, stop) < 0:
            self.fields = line[:stop].split(self._delimiter, self._most)[: self._most]
            self.count = line.count(self._delimiter, 0, stop) + 1
            self.end_bytes = len(line) - stop
            return False
        at = 0
        while True:
            if self._open is None and line.startswith(b'"', at, stop):
                self._open, self.quoted = bytearray(), True
                at += 1
            if self._open is None:
                at = self._plain(line, at, stop, b"")
            else:
                at = self._in_quotes(line, at, self._open)
                if at < 0:
                    return True
                whole, self._open = bytes(self._open), None
                if at == stop or line.startswith(self._delimiter, at):
                    self._add(whole)
                else:
                    self._broken("text follows the closing quote of field {}")
                    at = self._plain(line, at, stop, whole)
            if at == stop:
                self.end_bytes = len(line) - stop
                return False
            at += 1

    def _plain(self, line: bytes, at: int, stop: int, before: bytes) -> int:
        end = line.find(self._delimiter, at, stop)
        end = stop if end < 0 else end
        text = line[at:end]
        if b'"' in text:
            self._broken("a quote stands inside field {}, which is not quoted")
        if b"\r" in text:
            self._broken("a carriage return stands in field {}, which is not quoted")
        self._add(before + text)
        return end

    @staticmethod
    def _in_quotes(line: bytes, at: int, value: bytearray) -> int:
        """Where the text behind the closing quote begins; -1 when there is none."""
        while True:
            quote = line.find(b'"', at)
            if quote < 0:
                value += line[at:]
                return -1
            value += line[at:quote]
            if not line.startswith(b'"', quote + 1):
                return quote + 1
            value += b'"'
            at = quote + 2

    def _add(self, value: bytes) -> None:
        self.count += 1
        if self.count <= self._most:
            self.fields.append(value)

    def _broken(self, rule: str) -> None:
        if self.fault is None:
            self.fault = rule.format(self.count + 1)


class _Place(enum.Enum):
    """Where in a row that is passed over the reader stands."""

    START = "at the start of a field"
    PLAIN = "in a field without quotes"
    QUOTED = "in a quoted field"
    QUOTE = "behind a quote in a quoted field: its end, or the first of two"


_AFTER_QUOTE: Final = {
    _Place.START: _Place.QUOTED,
    _Place.PLAIN: _Place.PLAIN,
    _Place.QUOTED: _Place.QUOTE,
    _Place.QUOTE: _Place.QUOTED,
}
_AFTER_TEXT: Final = {
    _Place.START: _Place.PLAIN,
    _Place.PLAIN: _Place.PLAIN,
    _Place.QUOTED: _Place.QUOTED,
    _Place.QUOTE: _Place.PLAIN,
}
_AFTER_DELIMITER: Final = {
    place: _Place.QUOTED if place is _Place.QUOTED else _Place.START for place in _Place
}


class _Reader:
    """Rows of a file up to byte `size`; no more of it in memory than a row may have."""

    def __init__(self, file: IO[bytes], delimiter: bytes, max_row_bytes: int) -> None:
        self._file = file
        self._max_row_bytes = max_row_bytes
        self.delimiter = delimiter
        self.size = os.fstat(file.fileno()).st_size

    def rows(self, offset: int, line: int, most: int) -> Iterator[_Row]:
        """Rows from `offset` on, where `line` begins, each with at most `most` fields kept."""
        self._file.seek(offset)
        while offset < self.size:
            row = self._next(offset, line, most)
            if row.end == offset:
                return  # the file was cut short meanwhile
            yield row
            offset = row.end
            line += row.line_ends

    def _next(self, start: int, line: int, most: int) -> _Row:
        split = _Splitter(self.delimiter, most)
        offset, line_ends, goes_on, data = start, 0, True, b""
        while goes_on and offset < self.size:
            room = self._max_row_bytes - (offset - start)
            data = self._file.readline(min(room + 1, self.size - offset))
            if not data:
                break
            if len(data) > room:
                return self._too_long(start, line, offset, line_ends, data, split)
            goes_on = split.feed(data if offset else data.removeprefix(BOM))
            offset += len(data)
            line_ends += data.endswith(b"\n")
        fault = None
        if split.fault is not None:
            fault = _NotCsv(split.fault)
        elif goes_on:
            fault = _NotCsv(f"field {split.count + 1} has no closing quote", may_go_on=True)
        length = offset - start - split.end_bytes
        closed = not goes_on and data.endswith(b"\n")
        return _Row(line, start, offset, length, line_ends, closed, fault, split)

    def _too_long(
        self, start: int, line: int, offset: int, line_ends: int, data: bytes, split: _Splitter
    ) -> _Row:
        """Pass over a row to where it ends, and keep nothing of it."""
        tokens = re.compile(b'["\n%b]|[^"\n%b]+' % ((re.escape(self.delimiter),) * 2))
        after = {b'"': _AFTER_QUOTE, self.delimiter: _AFTER_DELIMITER}
        place = _Place.QUOTED if split.is_open else _Place.START
        closed = False
        while data and not closed:
            offset += len(data)
            line_ends += data.endswith(b"\n")
            for found in tokens.finditer(data):
                token = found[0]
                # A piece has at most one line end, its last byte.
                closed = token == b"\n" and place is not _Place.QUOTED
                place = after.get(token, _AFTER_TEXT)[place]
            if not closed:
                data = self._file.readline(min(_PIECE, self.size - offset))
        fault = _NotCsv(f"longer than {self._max_row_bytes} bytes")
        return _Row(line, start, offset, offset - start, line_ends, closed, fault, split)


# --- values ------------------------------------------------------------------

_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,19}")
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_FLOAT_BEGUN: Final = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.|(?:\.[0-9]+)?[eE][+-]?))?")
_BOOLS: Final = {"true": True, "false": False}

_Converter = Callable[[str], Any]


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise _NotCsv(
            f"{text[:40]!r} is not a whole number as JSON writes it, of at most 64 bits",
            may_go_on=text in ("", "-"),
        )
    return int(text)


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise _NotCsv(
            f"{text[:40]!r} is not a number as JSON writes it",
            may_go_on=_FLOAT_BEGUN.fullmatch(text) is not None,
        )
    value = float(text)
    if math.isinf(value):
        raise _NotCsv(f"{text[:40]} is too large for 64-bit floating point")
    return value


def _bool(text: str) -> bool:
    if text not in _BOOLS:
        raise _NotCsv(
            f"{text[:40]!r} is neither true nor false",
            may_go_on=any(word.startswith(text) for word in _BOOLS),
        )
    return _BOOLS[text]


_READS: Final[Mapping[str, _Converter | None]] = {
    "text": None,
    "int": _int,
    "float": _float,
    "bool": _bool,
}
TYPES: Final = tuple(_READS)
"""What a column can be; with a `?` behind it, an empty value is null."""


def _optional(converter: _Converter | None) -> _Converter:
    if converter is None:
        return lambda text: text or None
    return lambda text: converter(text) if text else None


def _converters(types: Mapping[str, str]) -> dict[str, _Converter]:
    """What reads each column that is not plain text. Raises InvalidInput."""
    found: dict[str, _Converter] = {}
    for column, type_name in types.items():
        plain = type_name.removesuffix("?")
        if plain not in _READS:
            raise InvalidInput(
                f"{type_name!r} is not a type that a column can have",
                field="types",
                value=type_name,
                advice=f"the types are {', '.join(TYPES)}; with ? behind it, empty is null",
            )
        converter = _READS[plain]
        if plain != type_name:
            converter = _optional(converter)
        if converter is not None:
            found[column] = converter
    return found


def _decoded(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02X} at {error.start}"
        begun = error.reason == "unexpected end of data"
        raise _NotCsv(f"not UTF-8 text: {found}", may_go_on=begun) from error
    if "\0" in text:
        raise _NotCsv("a NUL stands in it, which no text file has")
    return text


# --- the run -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Position:
    """How far a file is imported; `hash` covers the `window` bytes before `offset`."""

    offset: int
    lines: int
    """Line ends before the row that begins at `offset - open_row`."""
    open_row: int
    """Bytes of an imported row that had no line end yet; 0 where there was one."""
    window: int
    hash: bytes
    header: bytes
    """BLAKE3 of the header as it stands in the file, without its line end."""

    def plain(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Work(FileWork):
    """One run over one file."""

    def __init__(
        self,
        store: Store,
        file: IO[bytes],
        path: str,
        report: ImportReport,
        *,
        reader: _Reader,
        mapping: CsvMapping,
        converters: Mapping[str, _Converter],
        name: str,
        skip_bad: bool,
        batch_events: int,
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
        self._reader = reader
        self._mapping = mapping
        self._converters = converters
        self._name = name
        self._columns: list[str] = []
        self._header = b""
        self._open_row = 0

    def run(self) -> None:
        stored = self._stored()
        if not self._read_header():
            return
        if stored is not None:
            if stored.header != self._header:
                raise self.other_file("its header changed")
            self._report.resumed = True
            self._offset, self._lines = stored.offset, stored.lines
            self._open_row = stored.open_row
        begin, size = self._offset - self._open_row, self._reader.size
        for row in self._reader.rows(begin, self._lines + 1, len(self._columns)):
            if self._open_row:
                self._see_again(row)
            elif row.length:
                self._take(row)
            if row.closed:
                self._offset, self._open_row = row.end, 0
                self._lines = row.line - 1 + row.line_ends
            if self.full:
                self.flush(size)
        self.flush(size)

    def position(self) -> dict[str, object]:
        at = self._offset
        window = min(at, WINDOW_BYTES)
        return _Position(
            at, self._lines, self._open_row, window, self.hash_before(at, window), self._header
        ).plain()

    def _stored(self) -> _Position | None:
        """The journal's note of how far the file was imported, if it is this file."""
        stored = self._store.import_position(self._report.source)
        if stored is None:
            return None
        try:
            position = _Position(**stored)
            if not 0 <= position.open_row <= position.offset:
                raise ValueError("an unfinished row that begins before the file")
            same = self.hash_before(position.offset, position.window) == position.hash
        except (TypeError, ValueError, OSError, OverflowError) as error:
            raise self.other_file("the journal's note about it is not a CSV import's") from error
        if not same:
            raise self.other_file(f"what stands before its line {position.lines + 1} changed")
        return position

    # --- the header

    def _read_header(self) -> bool:
        """Learn the columns; False when there is no whole header, so no rows either."""
        row = next(self._reader.rows(0, 1, MAX_COLUMNS), None)
        if row is None or (row.split.fields == [b""] and not row.closed):
            return False
        try:
            self._columns = self._names(row)
        except _NotCsv as error:
            if error.may_go_on and not row.closed:
                self._report.incomplete = True
                return False
            raise ImportSourceError(
                f"line 1 names no columns: {error}",
                file=self._path,
                line=1,
                advice="a CSV file begins with a row of column names, each of them once, in UTF-8",
            ) from error
        self._header = blake3(os.pread(self._file.fileno(), row.length, 0)).digest()
        self._offset, self._lines = row.end, row.line_ends
        missing = self._mapping.columns.difference(self._columns)
        if missing and row.closed:
            raise ImportSourceError(
                f"the header has no column {min(missing)!r}",
                file=self._path,
                line=1,
                advice=f"its columns are {', '.join(map(repr, self._columns[:20]))}",
            )
        return row.closed

    def _names(self, row: _Row) -> list[str]:
        if row.fault is not None:
            raise row.fault
        split = row.split
        if split.count > MAX_COLUMNS:
            raise _NotCsv(f"{split.count} columns; at most {MAX_COLUMNS} are read")
        names: list[str] = []
        for number, raw in enumerate(split.fields, 1):
            is_last = number == split.count
            try:
                name = _decoded(raw)
            except _NotCsv as error:
                reason, may_go_on = f"column {number}: {error}", error.may_go_on and is_last
                raise _NotCsv(reason, may_go_on=may_go_on) from error
            if not name:
                raise _NotCsv(f"column {number} has no name", may_go_on=is_last)
            names.append(name)
        seen: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            first = seen.setdefault(name, number)
            if first != number:
                raise _NotCsv(
                    f"columns {first} and {number} are both named {name[:80]!r}",
                    may_go_on=number == split.count,
                )
        if len(names) == 1 and not split.quoted:
            self._refuse_other_delimiter(names[0])
        return names

    def _refuse_other_delimiter(self, name: str) -> None:
        for other in _USUAL_DELIMITERS:
            if other in name:
                raise _NotCsv(
                    f"one column only, {name[:80]!r}; if {other!r} is the delimiter, say so with "
                    "--delimiter, and else put the name into quotes"
                )

    # --- the rows

    def _see_again(self, row: _Row) -> None:
        """Look at the row that was the last one and had no line end when it was imported."""
        if row.length != self._open_row:
            went_on = _NotCsv("it went on after it was imported as a whole row")
            self._report.read += 1
            self.bad(row.line, went_on)

    def _take(self, row: _Row) -> None:
        """Judge a row; of one without line end, remember how much was imported."""
        self._report.read += 1
        try:
            item = self._item(row)
        except (_NotCsv, InvalidInput) as error:
            if not row.closed and getattr(error, "may_go_on", False):
                self._report.read -= 1
                self._report.incomplete = True
                return
            self.bad(row.line, error)
        else:
            self.put(row.line, item, row.length)
            if not row.closed:
                self._offset, self._open_row = row.start + row.length, row.length

    def _item(self, row: _Row) -> Item:
        if row.fault is not None:
            raise row.fault
        count, wanted = row.split.count, len(self._columns)
        if count != wanted:
            fields = "1 field" if count == 1 else f"{count} fields"
            raise _NotCsv(f"{fields}; the header has {wanted}", may_go_on=count < wanted)
        texts: dict[str, str] = {}
        values: dict[str, Any] = {}
        for column, raw in zip(self._columns, row.split.fields, strict=True):
            try:
                texts[column] = values[column] = _decoded(raw)
                if column in self._converters:
                    values[column] = self._converters[column](texts[column])
            except _NotCsv as error:
                may_go_on = error.may_go_on and column == self._columns[-1]
                raise _NotCsv(f"column {column!r}: {error}", may_go_on=may_go_on) from error
        chosen = self._mapping
        where = Coordinate(
            self._place(texts, chosen.entity, chosen.entity_column, self._name),
            self._place(texts, chosen.scope, chosen.scope_column, "import"),
        )
        # The same bytes as append() would make, so that an error is the row's own.
        return Item.raw(where, chosen.kind, canonical.encode(values))

    def _place(
        self, texts: dict[str, str], fixed: str | None, column: str | None, default: str
    ) -> str:
        if column is None:
            return fixed or default
        name = texts[column]
        if not name:
            is_last = column == self._columns[-1]
            raise _NotCsv(f"column {column!r}: empty, but names the place", may_go_on=is_last)
        return f"{fixed}:{name}" if fixed else name
