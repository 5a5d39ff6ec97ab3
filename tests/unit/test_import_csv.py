"""CSV: every row once, whatever interrupts; broken rows named, never mended, never written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batpak import Coordinate, EventKind, Item, Region, Store
from batpak.errors import ImportSourceError, InvalidInput
from batpak_cli.importers.csv import MAX_COLUMNS, CsvMapping, import_csv, parse_types
from batpak_cli.importers.report import ImportReport
from tests.support.importing import content, imported, killed_everywhere, opened, values

KIND = EventKind(0xF, 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "journal") as store:
        yield store


class Scratch:
    """Imports into a journal that lives for some hundred of them: opening costs syncs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "table.csv"
        self._open = contextlib.ExitStack()
        self._store: Store | None = None
        self._imports = 0

    def rows(self, data: bytes, **options: Any) -> list[list[Any]]:
        """What an import of these bytes leaves of each row."""
        if self._imports % 200 == 0 or self._store is None:
            self.close()
            path = self._folder / f"journal {self._imports}"
            self._store = self._open.enter_context(opened(path))
        self._imports += 1
        self._file.write_bytes(data)
        before = len(self._store)
        import_csv(self._store, self._file, source=f"{self._imports}", **options)
        added = self._store.query(Region.all(), after=before - 1)
        return [list(event.value.values()) for event in added]

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    scratch = Scratch(tmp_path_factory.mktemp("scratch"))
    yield scratch
    scratch.close()


# --- what is read ------------------------------------------------------------


def test_the_header_names_the_fields_and_values_stay_text(store: Store, file: Path) -> None:
    file.write_bytes(
        b'id,name,"say, ""so"""\n007, Ann ,"a\r\nb"\n,"","1,5"\n\n1e3,Z\xc3\xbcrich,""""\n'
    )
    report = import_csv(store, file)
    assert (report.events, report.read, report.batches, report.resumed) == (3, 3, 1, False)
    columns = ["id", "name", 'say, "so"']
    assert [list(value) for value in values(store)] == [columns] * 3
    assert [list(value.values()) for value in values(store)] == [
        ["007", " Ann ", "a\r\nb"],
        ["", "", "1,5"],
        ["1e3", "Zürich", '"'],
    ]
    where = imported(store)[0].coordinate
    assert (where.entity, where.scope) == ("csv:table.csv", "import")


@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.text(st.sampled_from('ab ,;"\n\r☂é')), min_size=width, max_size=width
            ).filter(lambda row: row != [""]),
            max_size=5,
        )
    ),
    ending=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    bom=st.booleans(),
    batch_events=st.integers(1, 3),
)
def test_what_pythons_own_writer_wrote_is_read_back(
    scratch: Scratch,
    table: list[list[str]],
    ending: str,
    delimiter: str,
    quoting: Any,
    bom: bool,
    batch_events: int,
) -> None:
    text = io.StringIO(newline="")
    if any("\r" in value for row in table for value in row):
        quoting = csv.QUOTE_ALL  # it leaves a carriage return bare, which reads as a line end
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    writer.writerow([f"column {number}" for number in range(len(table[0]) if table else 2)])
    writer.writerows(table)
    data = text.getvalue().encode("utf-8-sig" if bom else "utf-8")
    assert scratch.rows(data, delimiter=delimiter, batch_events=batch_events) == table


BROKEN = st.lists(
    st.sampled_from(["a", "b", ",", ",", '"', '"', '""', "\n", "\n", "x,y\n", '"'])
).map("".join)


def lenient(data: str) -> list[tuple[str, list[str]]]:
    """The rows that Python's own reader sees, each with its text."""
    lines = data.splitlines(keepends=True)
    reader = csv.reader(lines)
    found, begin = [], 0
    for row in reader:
        found.append(("".join(lines[begin : reader.line_num]), row))
        begin = reader.line_num
    return found


@pytest.mark.proves("INV-IMPORT-NO-FORGED-ROWS")
@given(BROKEN)
@example('"a"b,"\nx,y\n"')
@example('a"b,"\nx,y\n"')
@example('"a""\nx,y\n"b,c')
def test_rows_are_never_made_of_the_content_of_bad_ones(scratch: Scratch, body: str) -> None:
    body += "\n"
    strict = [
        row
        for text, row in lenient(body)
        # A row is good if a writer would write it so; a stray quote has no such form.
        if len(row) == 2 and is_strict(text)
    ]
    assert scratch.rows(f"one,two\n{body}".encode(), skip_bad=True) == strict


def is_strict(text: str) -> bool:
    """Whether a row's quotes are where RFC 4180 wants them, decided by rewriting the row."""
    field = r'(?:"(?:[^"]|"")*"|[^",\n]*)'
    return re.fullmatch(f"{field}(?:,{field})*\n", text) is not None


@pytest.mark.proves("INV-IMPORT-NO-FORGED-ROWS")
@given(BROKEN, st.integers(9, 30))
@example('aaaaaaaaaaa,"\nx,y\n"', 9)
@example('"aaaaaaaaa"b,"\nx,y\n"', 9)
@example('"aaaaaaaa""\nx,y\n"', 9)
def test_a_row_over_the_limit_ends_where_it_would_end_below_it(
    scratch: Scratch, body: str, limit: int
) -> None:
    body += "\n"
    kept = [
        row
        for text, row in lenient(body)
        if len(text) <= limit and len(row) == 2 and is_strict(text)
    ]
    assert scratch.rows(f"one,two\n{body}".encode(), skip_bad=True, max_row_bytes=limit) == kept


@pytest.mark.parametrize(
    ("mapping", "entity", "scope"),
    [
        (CsvMapping(entity="log"), "log", "import"),
        (CsvMapping(entity_column="user"), "alice:7", "import"),
        (CsvMapping(entity="user", entity_column="user", scope="app"), "user:alice:7", "app"),
        (CsvMapping(scope_column="where"), "csv:table.csv", "hall"),
        (CsvMapping(entity_column="id", scope="room", scope_column="where"), "042", "room:hall"),
        (CsvMapping(entity_column="id", types={"id": "text?"}), "042", "import"),
    ],
)
def test_the_mapping_says_where_events_go(
    store: Store, file: Path, mapping: CsvMapping, entity: str, scope: str
) -> None:
    file.write_text("user,id,where\nalice:7,042,hall\n")
    import_csv(store, file, mapping=mapping)
    [event] = imported(store)
    assert (event.coordinate.entity, event.coordinate.scope) == (entity, scope)
    assert event.value == {"user": "alice:7", "id": "042", "where": "hall"}


GOOD_VALUES = [
    ("int", "0", 0),
    ("int", "-9223372036854775808", -(2**63)),
    ("int", "18446744073709551615", 2**64 - 1),
    ("int?", "", None),
    ("int?", "5", 5),
    ("float", "3", 3.0),
    ("float", "-0.5e-3", -0.0005),
    ("float?", "", None),
    ("bool", "true", True),
    ("bool", "false", False),
    ("bool?", "", None),
    ("text", "", ""),
    ("text?", "", None),
    ("text?", "x", "x"),
]
BAD_VALUES = [
    ("int", text) for text in ("", " 1", "+1", "007", "1_0", "1.0", "-0", "١", "1e3", "9" * 5000)
]
BAD_VALUES += [("int", "18446744073709551616"), ("int?", "x"), ("int", "-9223372036854775809")]
BAD_VALUES += [("float", text) for text in ("", "nan", "inf", "1e999", ".5", "5.", "0x1", "1,5")]
BAD_VALUES += [("bool", text) for text in ("", "True", "1", "yes")]


@pytest.mark.parametrize(("type_name", "text", "value"), GOOD_VALUES)
def test_a_typed_column_is_converted(
    store: Store, file: Path, type_name: str, text: str, value: object
) -> None:
    file.write_text(f"a,b\n{text},{text}\n")
    import_csv(store, file, mapping=CsvMapping(types={"b": type_name}))
    assert values(store) == [{"a": text, "b": value}]
    assert type(values(store)[0]["b"]) is type(value)


@pytest.mark.parametrize(("type_name", "text"), BAD_VALUES)
def test_a_value_that_is_not_of_its_columns_type_is_bad(
    store: Store, file: Path, type_name: str, text: str
) -> None:
    file.write_text(f'b,a\n"{text}",x\n')
    with pytest.raises(ImportSourceError, match=r"line 2 .*'b'") as caught:
        import_csv(store, file, mapping=CsvMapping(types={"b": type_name}))
    assert caught.value.line == 2
    assert values(store) == []


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_numbers_are_read_as_json_reads_them(scratch: Scratch, value: Any) -> None:
    name = {int: "int", float: "float", bool: "bool"}[type(value)]
    data = f"v\n{json.dumps(value)}\n".encode()
    fits = type(value) is not int or -(2**63) <= value < 2**64
    found = scratch.rows(data, mapping=CsvMapping(types={"v": name}), skip_bad=True)
    assert found == ([[value]] if fits else [])
    if isinstance(value, float):
        assert math.copysign(1, found[0][0]) == math.copysign(1, value)


def test_types_are_written_as_a_row_of_csv() -> None:
    assert parse_types('a:int,b:c:float?,"d, e:bool"') == {
        "a": "int",
        "b:c": "float?",
        "d, e": "bool",
    }
    for text in ("a", "", "a:", "a:number", "a:int,", "a:int,a:int", '"a:int', 'a":int', "a:??"):
        with pytest.raises(InvalidInput) as caught:
            parse_types(text)
        assert (caught.value.field, bool(caught.value.advice)) == ("types", True)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r", "\0", "é", "tab"])
def test_what_can_be_no_delimiter_is_refused(store: Store, file: Path, delimiter: str) -> None:
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput) as caught:
        import_csv(store, file, delimiter=delimiter)
    assert caught.value.field == "delimiter"


@pytest.mark.parametrize("delimiter", ["\\t", "\t"])
def test_a_tab_can_be_written_in_two_ways(store: Store, file: Path, delimiter: str) -> None:
    file.write_text("a\tb\n1\t2\n")
    import_csv(store, file, delimiter=delimiter)
    assert values(store) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("delimiter", ["^", "]", "-", "a", " ", "\\", "."])
def test_any_other_character_delimits_also_in_rows_that_are_passed_over(
    store: Store, file: Path, delimiter: str
) -> None:
    long = 'X"' + "Y" * 50 + delimiter + '"Z\n"\n'
    file.write_text(f"N{delimiter}M\n{long}1{delimiter}2\n")
    report = import_csv(store, file, delimiter=delimiter, max_row_bytes=40, skip_bad=True)
    assert values(store) == [{"N": "1", "M": "2"}]
    assert [(bad.line, "longer" in bad.reason) for bad in report.bad] == [(2, True)]


# --- bad files ---------------------------------------------------------------

BAD_HEADERS = {
    "a name twice": (b"a,b,a\n1,2,3\n", "columns 1 and 3 are both named 'a'"),
    "no name": (b"a,,c\n1,2,3\n", "column 2 has no name"),
    "no last name": (b"a,b,\n1,2,3\n", "column 3 has no name"),
    "a blank first line": (b"\na,b\n1,2\n", "column 1 has no name"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "byte 0x89 at 0"),
    "a picture without line ends": (b"\x89PNG", "byte 0x89 at 0"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "byte 0xFF at 0"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), "NUL"),
    "zeros": (bytes(100), "NUL"),
    "another delimiter": (b"a;b\n1;2\n", "--delimiter"),
    "old line ends": (b"a,b\r1,2\r", "carriage return"),
    "a stray quote": (b'a"b,c\n1,2\n', "field 1, which is not quoted"),
    "text after quotes": (b'"a"b,c\n1,2\n', "closing quote of field 1"),
    "too long": (b"a" * 300 + b"\n1\n", "longer than 200 bytes"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_header_that_names_no_columns_is_refused(store: Store, file: Path, case: str) -> None:
    data, reason = BAD_HEADERS[case]
    file.write_bytes(data)
    before = len(store)
    for skip_bad in (False, True):
        with pytest.raises(ImportSourceError) as caught:
            import_csv(store, file, skip_bad=skip_bad, max_row_bytes=200)
        assert (caught.value.line, caught.value.file) == (1, str(file))
        assert reason in caught.value.what
    assert len(store) == before


def test_columns_are_bounded(store: Store, file: Path) -> None:
    names = [f"c{number}" for number in range(MAX_COLUMNS + 1)]
    file.write_text(",".join(names[:-1]) + "\n" + "," * (MAX_COLUMNS - 1) + "\n")
    import_csv(store, file)
    assert len(values(store)[0]) == MAX_COLUMNS
    file.write_text(",".join(names) + "\n")
    with pytest.raises(ImportSourceError, match="4097 columns"):
        import_csv(store, file, source="more")


@pytest.mark.parametrize(
    "mapping",
    [
        CsvMapping(entity_column="c"),
        CsvMapping(scope_column="c"),
        CsvMapping(types={"c": "int"}),
    ],
)
def test_a_column_that_is_not_there_is_refused(
    store: Store, file: Path, mapping: CsvMapping
) -> None:
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ImportSourceError, match="no column 'c'") as caught:
        import_csv(store, file, mapping=mapping, skip_bad=True)
    assert "'a', 'b'" in caught.value.advice
    with pytest.raises(InvalidInput, match="not a type"):
        import_csv(store, file, mapping=CsvMapping(types={"a": "number"}))


def test_one_column_may_hold_another_delimiter_when_it_is_quoted(store: Store, file: Path) -> None:
    file.write_text('"a;b"\n1\n')
    import_csv(store, file)
    assert values(store) == [{"a;b": "1"}]


@pytest.mark.parametrize(
    ("data", "incomplete"),
    [
        (b"", False),
        (b"\xef\xbb\xbf", False),
        (b"a,b\n", False),
        (b"a,b", False),
        (b"a,b\r\n\r\n\n", False),
        (b"a,", True),
        (b'a,"b', True),
        (b"a,a", True),
        (b"a,b\xc3", True),
        (b"a,b\n1", True),
        (b'a,b\n1,"2', True),
        (b"a,b\n1,2\xc3", True),
    ],
)
def test_where_nothing_is_to_import_nothing_is_written(
    store: Store, file: Path, data: bytes, incomplete: bool
) -> None:
    file.write_bytes(data)
    before = len(store)
    report = import_csv(store, file)
    assert (report.events, report.read, len(store)) == (0, 0, before)
    assert report.incomplete == incomplete


@pytest.mark.parametrize(
    ("type_name", "begun", "whole"),
    [
        ("int", "", "5"),
        ("int", "-", "-5"),
        ("float", "-", "-5"),
        ("float", "1.", "1.5"),
        ("float", "1e", "1e5"),
        ("float", "1.5E+", "1.5E+5"),
        ("bool", "", "true"),
        ("bool", "tru", "true"),
        ("bool", "f", "false"),
    ],
)
def test_a_value_that_may_be_unfinished_is_waited_for(
    store: Store, file: Path, type_name: str, begun: str, whole: str
) -> None:
    mapping = CsvMapping(types={"b": type_name})
    file.write_text(f"a,b\nx,{begun}")
    report = import_csv(store, file, mapping=mapping)
    assert (report.events, report.incomplete) == (0, True)
    file.write_text(f"a,b\nx,{whole}\n")
    assert import_csv(store, file, mapping=mapping).events == 1


# --- bad rows ----------------------------------------------------------------

BAD = {
    "too few fields": (b"1", "1 field; the header has 2"),
    "too many fields": (b"1,2,3", "3 fields; the header has 2"),
    "very many fields": (b"," * 10_000, "10001 fields; the header has 2"),
    "an unquoted quote": (b'5" disk,2', "a quote stands inside field 1"),
    "text after quotes": (b'1,"2"x', "text follows the closing quote of field 2"),
    "a space before quotes": (b'1, "2"', "a quote stands inside field 2"),
    "a lone carriage return": (b"1,a\rb", "a carriage return stands in field 2"),
    "not UTF-8": (b"1,\xff", "column 'n': not UTF-8 text: byte 0xFF at 0"),
    "half a character": (b"\xc3,1", "column 'user': not UTF-8"),
    "a NUL": (b"1,\0", "a NUL"),
    "a NUL in quotes": (b'1,"\0"', "a NUL"),
    "surrogates": (b"1,\xed\xa0\x80", "not UTF-8"),
    "no name": (b",2", "column 'user': empty"),
    "a name that can't be": (b"a/b,2", "'/'"),
    "a long name": (b"x" * 1025 + b",2", "1025 bytes long"),
    "too long": (b"1," + b"x" * 200_000, "longer than 150000 bytes"),
    "too long in quotes": (b'1,"' + b"x\n" * 100_000 + b'"', "longer than 150000 bytes"),
}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_nothing_of_its_batch_written(
    store: Store, file: Path, case: str, ending: bytes
) -> None:
    data, reason = BAD[case]
    good = b'u,"%d"' + ending
    file.write_bytes(b"user,n" + ending + good % 1 + good % 2 + good % 3 + data + ending + good % 5)
    options: dict[str, Any] = {
        "mapping": CsvMapping(entity_column="user"),
        "batch_events": 2,
        "max_row_bytes": 150_000,
    }
    with pytest.raises(ImportSourceError) as caught:
        import_csv(store, file, **options)
    assert (caught.value.line, caught.value.file) == (5, str(file))
    assert reason in caught.value.what
    assert [value["n"] for value in values(store)] == ["1", "2"]

    report = import_csv(store, file, skip_bad=True, **options)
    assert [value["n"] for value in values(store)] == ["1", "2", "3", "5"]
    assert (report.skipped, report.bad[0].line, report.events) == (1, 5, 2)
    assert reason in report.bad[0].reason


def test_lines_are_counted_through_quoted_fields(store: Store, file: Path) -> None:
    file.write_text('a,b\n3,4\n\n1,"x\ny\n"\nbad\n')
    for batch_events in (1, 1000):  # the second time the count comes out of the journal
        with pytest.raises(ImportSourceError, match="line 7") as caught:
            import_csv(store, file, batch_events=batch_events)
        assert caught.value.line == 7
    assert len(values(store)) == 2


def test_a_mended_row_lets_the_import_go_on(store: Store, file: Path) -> None:
    file.write_text("a,b\n1,1\n2\n3,3\n")
    with pytest.raises(ImportSourceError):
        import_csv(store, file, batch_events=1)
    file.write_text("a,b\n1,1\n2,2\n3,3\n")
    import_csv(store, file)
    assert [value["a"] for value in values(store)] == ["1", "2", "3"]


def test_a_payload_over_the_journals_limit_names_its_line(tmp_path: Path, file: Path) -> None:
    file.write_text("n\n1\n%s\n3\n" % ("x" * 100))
    with Store.open(tmp_path / "journal", payload_max_bytes=50) as store:
        with pytest.raises(ImportSourceError, match="line 3") as caught:
            import_csv(store, file)
        assert caught.value.line == 3
        assert values(store) == []
        assert import_csv(store, file, skip_bad=True).skipped == 1
        assert [value["n"] for value in values(store)] == ["1", "3"]


@pytest.mark.parametrize(
    "end",
    [b"1,2,3", b"-,1", b'1,"2"x', b"\xff,1", b"1,x\0", b"x,1", b'1"', b"1," + b"9" * 100],
)
def test_a_last_row_that_can_never_be_good_is_not_waited_for(
    store: Store, file: Path, end: bytes
) -> None:
    file.write_bytes(b"a,b\n1,2\n" + end)
    options: dict[str, Any] = {"mapping": CsvMapping(types={"a": "int"}), "max_row_bytes": 50}
    with pytest.raises(ImportSourceError, match="line 3"):
        import_csv(store, file, **options)
    report = import_csv(store, file, skip_bad=True, **options)
    assert (report.skipped, report.incomplete) == (1, False)
    # Its end is not known, so the next run begins with it again.
    with file.open("ab") as more:
        more.write(b"\n5,6\n")
    report = import_csv(store, file, skip_bad=True, **options)
    assert (report.skipped, values(store)) == (1, [{"a": 1, "b": "2"}, {"a": 5, "b": "6"}])


# --- again -------------------------------------------------------------------


@pytest.mark.proves("INV-IMPORT-ONCE")
@pytest.mark.parametrize("batch_events", [1, 2, 1000])
def test_running_again_adds_only_what_is_new(tmp_path: Path, file: Path, batch_events: int) -> None:
    def run() -> ImportReport:
        with opened(tmp_path / "journal") as store:
            return import_csv(store, file, batch_events=batch_events)

    file.write_text("n\n" + "".join(f"{n}\n" for n in range(5)))
    assert run().events == 5
    again = run()
    assert (again.events, again.read, again.resumed) == (0, 0, True)
    with file.open("a") as more:
        more.write('\n5\n"6"\n')
    assert run().events == 2
    assert [value["n"] for *_, value, _ in content(tmp_path / "journal")] == list("0123456")


def test_a_file_may_be_cut_at_any_byte_and_grow_again(tmp_path: Path, file: Path) -> None:
    header = "n,é\r\n"
    whole = (header + '1,"☂\n""x"",y"\r\n\n2,z\n3,"ü"').encode()
    expected: list[Any] = [["1", '☂\n"x",y'], ["2", "z"], ["3", "ü"]]
    refused = 0
    with opened(tmp_path / "journal") as store:
        for cut in range(len(whole) + 1):
            before = len(store)
            file.write_bytes(whole[:cut])
            taken = import_csv(store, file, source=f"cut {cut}").events
            file.write_bytes(whole + b"\n4,5\n")
            report = import_csv(store, file, source=f"cut {cut}", skip_bad=True)
            added = [list(e.value.values()) for e in store.query(Region.all(), after=before - 1)]
            if report.bad:
                # A row that was whole where the cut was, and is another one now.
                assert "went on after it was imported" in report.bad[0].reason
                assert added[taken - 1] != expected[taken - 1]
                added[taken - 1] = expected[taken - 1]
                refused += 1
            assert added == [*expected, ["4", "5"]], cut
    # Three last fields that are empty so far, and two that a doubled quote seems to end.
    assert refused == 5


def test_a_last_row_without_line_end_is_imported_once(store: Store, file: Path) -> None:
    file.write_text("a,b\n1,2")
    assert import_csv(store, file).events == 1
    assert import_csv(store, file).events == 0
    with file.open("a") as more:
        more.write("\r\n3,4\n")
    assert import_csv(store, file).events == 1
    assert values(store) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.proves("INV-IMPORT-NO-FORGED-ROWS")
@pytest.mark.parametrize("more", ["2\n", " \n", '""\n', ',"\nrow,x\n"\n', '"\nrow,x\n"\n'])
def test_a_row_that_went_on_after_it_was_imported_is_bad_to_its_end(
    store: Store, file: Path, more: str
) -> None:
    file.write_text('a,b\n0,0\n1,"2"')
    assert import_csv(store, file).events == 2
    with file.open("a") as growing:
        growing.write(more + "3,4\n")
    with pytest.raises(ImportSourceError, match=r"line 3 .*went on") as caught:
        import_csv(store, file)
    assert caught.value.line == 3
    report = import_csv(store, file, skip_bad=True)
    assert (report.skipped, report.bad[0].line) == (1, 3)
    assert [value["a"] for value in values(store)] == ["0", "1", "3"]


def test_rows_added_during_an_import_are_for_the_next(store: Store, file: Path) -> None:
    file.write_text("n\n" + "".join(f"{n}\n" for n in range(4)))

    def grow(done: int, total: int) -> None:
        with file.open("a") as more:
            more.write("4\n" if done == total else "")

    assert import_csv(store, file, batch_events=3, progress=grow).events == 4
    assert import_csv(store, file).events == 1
    assert [value["n"] for value in values(store)] == list("01234")


def test_progress_is_told_in_bytes_up_to_the_files_end(store: Store, file: Path) -> None:
    file.write_text("n\n1\n2\n3\n")
    told: list[tuple[int, int]] = []
    import_csv(store, file, batch_events=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(6, 8), (8, 8)]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"1", b"7"),  # the same length
        lambda data: data[:-4],
        lambda data: b"",
        lambda data: data.replace(b"a,b", b"b,a"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"b\n", b"b\n0,0\n"),
    ],
    ids=["rewritten", "cut", "emptied", "renamed", "marked", "shifted"],
)
@pytest.mark.parametrize("long", [False, True])
def test_a_file_that_is_another_one_now_is_refused(
    store: Store, file: Path, change: Callable[[bytes], bytes], long: bool
) -> None:
    # The long one has its header further back than the hash of the position reaches.
    data = b"a,b\n" + b"x,y\n" * (20_000 if long else 0) + b"1,1\n2,2\n3,3\n"
    file.write_bytes(data)
    import_csv(store, file)
    file.write_bytes(change(data))
    before = len(store)
    with pytest.raises(ImportSourceError, match="not the file that was imported") as caught:
        import_csv(store, file)
    assert "--source" in caught.value.advice
    assert len(store) == before
    import_csv(store, file, source="again")
    assert store.import_position("again") is not None or not change(data)


@pytest.mark.parametrize(
    "position",
    [
        {"page": 3},
        7,
        {"offset": 4, "lines": 1, "mid_line": False, "window": 4, "hash": b""},
        {"offset": 2, "lines": 0, "open_row": 5, "window": 0, "hash": b"", "header": b""},
        {"offset": 2, "lines": 0, "open_row": -1, "window": 0, "hash": b"", "header": b""},
        {"offset": 2, "lines": 0, "open_row": 0, "window": 1 << 40, "hash": b"", "header": b""},
        {"offset": "2", "lines": 0, "open_row": 0, "window": 0, "hash": b"", "header": b""},
        {"offset": 2, "lines": 0, "open_row": 0, "window": 5, "hash": b"", "header": b""},
    ],
)
def test_a_position_of_another_importer_is_refused(
    store: Store, file: Path, position: object
) -> None:
    file.write_text("n\n1\n")
    store.append_imported("x", position, [Item(Coordinate("a", "b"), 1, kind=KIND)])
    with pytest.raises(ImportSourceError, match="not a CSV import's"):
        import_csv(store, file, source="x")


def test_what_is_no_file_is_refused(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none", "can't be read"), (".", "regular"), ("pipe", "regular")):
        with pytest.raises(ImportSourceError, match=reason):
            import_csv(store, tmp_path / name)
    for options in ({"batch_events": 0}, {"max_row_bytes": 1}, {"source": "a\nb"}):
        with pytest.raises(InvalidInput):
            import_csv(store, tmp_path / "none", **options)


def test_a_file_is_streamed(tmp_path: Path, file: Path) -> None:
    with file.open("w") as data:
        data.write("n,text\n")
        for number in range(600):
            data.write(f'{number},"{"x" * 99_999}\n"\n')
    with opened(tmp_path / "journal") as store:
        tracemalloc.start()
        try:
            import_csv(store, file)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert store.count(Region(kind=EventKind.from_raw(0x1000))) == 600
    assert peak < file.stat().st_size // 2


def test_a_row_that_never_ends_is_passed_over_in_little_memory(store: Store, file: Path) -> None:
    with file.open("w") as data:
        data.write('n\n1\n"')
        for _ in range(300):
            data.write(("x" * 999 + "\n") * 100)
    tracemalloc.start()
    try:
        report = import_csv(store, file, skip_bad=True, max_row_bytes=1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.events, report.skipped, values(store)) == (1, 1, [{"n": "1"}])
    assert peak < file.stat().st_size // 3


@pytest.mark.proves("INV-IMPORT-ONCE")
def test_a_killed_import_loses_nothing_and_doubles_nothing(tmp_path: Path, file: Path) -> None:
    file.write_text("n\n" + "".join(f'"{n}\n"\n' for n in range(23)))
    journals = killed_everywhere("csv", file, tmp_path / "killed", 5)
    begun = 0
    for path in journals:
        with opened(path) as store:
            begun += 0 < len(imported(store)) < 23
            import_csv(store, file, batch_events=5)
        found = [value["n"] for *_, value, _ in content(path)]
        assert found == [f"{n}\n" for n in range(23)], path
    assert begun >= 4, "every batch was once the last"
