"""The log contract: logger, level, code and fields of every record, as the guide lists them."""

from __future__ import annotations

import ast
import errno
import gc
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batpak import Coordinate, Durability, EventKind, Indeterminate, Store, payload
from batpak.errors import JournalPoisoned
from batpak.payloads import isolated_registry, set_collision_policy
from tests.support.faulty_files import Fault, FaultyFiles
from tests.watched_files import WAIT, WatchedFiles

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "batpak"
GUIDE = ROOT / "docs" / "guide" / "logging.md"

ALICE = Coordinate("player:alice", "room:1")
NOTE = EventKind(0xF, 1)
SEGMENT = "0" * 20 + ".seg"
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")

# Attributes that every record has; what a call adds is not among them.
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Row(NamedTuple):
    """One kind of record."""

    logger: str
    level: str
    code: str
    fields: tuple[str, ...]


def documented() -> list[Row]:
    """The rows of the guide's table."""
    rows: list[Row] = []
    for line in GUIDE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 7 and cells[1].startswith("`batpak"):
            ticked = [re.findall(r"`([^`]+)`", cell) for cell in cells[1:5]]
            assert cells[5], "every row says when"
            rows.append(Row(ticked[0][0], cells[2], ticked[2][0], tuple(ticked[3])))
    return rows


def calls(source: str) -> list[tuple[int, Row]]:
    """Every call of a module's `logger` with its line. Raises AssertionError for an odd one."""
    tree = ast.parse(source)
    names = [
        node.value.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "logging.getLogger"
        and isinstance(node.value.args[0], ast.Constant)
    ]
    found: list[tuple[int, Row]] = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if ast.unparse(node.func.value) not in ("logger", "logging", "self.logger"):
            continue
        if node.func.attr not in LEVELS:
            continue
        extra = next((word.value for word in node.keywords if word.arg == "extra"), None)
        assert isinstance(extra, ast.Dict), f"line {node.lineno}: a record needs its fields"
        keys = [key.value for key in extra.keys if isinstance(key, ast.Constant)]
        assert keys[0] == "code", f"line {node.lineno}: the code stands first"
        code = extra.values[0]
        assert isinstance(code, ast.Constant), f"line {node.lineno}: a code is a literal"
        [name] = names
        row = Row(name, node.func.attr.upper(), code.value, tuple(map(str, keys[1:])))
        found.append((node.lineno, row))
    return found


@pytest.mark.proves("INV-LOG-CONTRACT")
def test_the_guide_lists_every_record_that_the_code_can_write() -> None:
    written = {row for path in SOURCE.rglob("*.py") for _, row in calls(path.read_text("utf-8"))}
    rows = documented()
    assert sorted(rows) == sorted(written)
    assert len(rows) == len(set(rows))


def test_codes_and_fields_are_what_programs_can_rely_on() -> None:
    for row in documented():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+|opened|poisoned|dropped", row.code)
        assert not USUAL & set(row.fields), "logging refuses to overwrite its own"
        assert row.logger.split(".")[0] == "batpak"


@pytest.mark.parametrize(
    "call",
    [
        'logger.warning("x")',
        'logger.error("x", extra={"error": "e", "code": "c"})',
        'logger.error("x", extra=facts)',
        'logger.error("x", extra={"code": name})',
        'logging.warning("x")',
    ],
)
def test_the_search_for_records_sees_odd_ones(call: str) -> None:
    with pytest.raises(AssertionError):
        calls(f'logger = logging.getLogger("batpak.x")\n{call}\n')


# --- the records themselves ------------------------------------------------------------


class Kept(logging.Handler):
    """Keeps what was logged, and wakes who waits for a code."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.arrived = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.arrived:
            self.records.append(record)
            self.arrived.notify_all()

    def of(self, code: str) -> list[Any]:
        return [record for record in self.records if vars(record).get("code") == code]

    def wait_for(self, code: str) -> Any:
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.of(code), WAIT), f"nobody logged {code}"
        return self.of(code)[0]

    def one(self, code: str) -> Any:
        [record] = self.of(code)
        return record


@contextmanager
def listening() -> Iterator[Kept]:
    """All that batpak logs in the block; each record must be as the guide says."""
    logger = logging.getLogger("batpak")
    kept, level = Kept(), logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.DEBUG)
    try:
        yield kept
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
    rows = set(documented())
    for record in kept.records:
        facts = [name for name in vars(record) if name not in USUAL]
        assert facts[0] == "code"
        row = Row(record.name, record.levelname, vars(record)["code"], tuple(facts[1:]))
        assert row in rows
        # A path need not be UTF-8, and a log file is.
        assert record.getMessage().encode()


def note(store: Store, **options: Any) -> None:
    store.append(ALICE, "x" * 600, kind=NOTE, **options)


@pytest.mark.proves("INV-LOG-CONTRACT")
def test_the_report_of_an_open_comes_with_its_record(tmp_path: Path) -> None:
    with listening() as kept:
        for epoch in (1, 2):
            with Store.open(tmp_path / "j") as store:
                assert [r.report for r in kept.of("opened")][-1] is store.open_report
                assert kept.of("opened")[-1].epoch == epoch
        with Store.open(tmp_path / "j", mode="r") as reader:
            assert kept.of("opened")[-1].report is reader.open_report
    assert [(r.mode, r.events, r.segments) for r in kept.of("opened")] == [
        ("rw", 0, 1), ("rw", 2, 1), ("r", 4, 1),
    ]  # fmt: skip
    assert {r.journal for r in kept.of("opened")} == {str(tmp_path / "j")}
    assert [r.code for r in kept.records if r.levelno > logging.INFO] == []  # type: ignore[attr-defined]  # every record has one


def test_an_open_that_fails_reports_no_open(tmp_path: Path) -> None:
    Store.open(tmp_path / "j").close()
    files = WatchedFiles()
    files.refuse("sync_data", SEGMENT, errno.EIO)
    with listening() as kept, pytest.raises(Exception, match="open event"):
        Store.open(tmp_path / "j", files=files)
    assert not kept.of("opened")
    assert kept.one("poisoned").journal == str(tmp_path / "j")


def test_a_cut_tail_is_told_with_the_place_of_its_bytes(tmp_path: Path) -> None:
    Store.open(tmp_path / "j").close()
    segment = tmp_path / "j" / "segments" / SEGMENT
    end = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b"torn")
    with listening() as kept:
        Store.open(tmp_path / "j").close()
    record = kept.one("tail-cut")
    assert (record.file, record.offset, record.bytes) == (str(segment), end, 4)
    assert Path(record.quarantine).read_bytes() == b"torn"
    assert record.reason


def test_a_poisoned_store_is_told_once(tmp_path: Path) -> None:
    files = WatchedFiles()
    with listening() as kept:
        store = Store.open(tmp_path / "j", files=files)
        files.refuse("sync_data", SEGMENT, errno.EIO)
        with pytest.raises(Indeterminate):
            note(store)
        with pytest.raises(JournalPoisoned):
            note(store)
        with pytest.raises(JournalPoisoned):
            store.close()
    record = kept.one("poisoned")
    assert record.journal == str(tmp_path / "j")
    assert os.strerror(errno.EIO) in record.error


def test_a_background_sync_that_fails_is_told(tmp_path: Path) -> None:
    files = WatchedFiles()
    with listening() as kept:
        store = Store.open(tmp_path / "j", files=files, durability=Durability.EVERY(ms=1))
        files.refuse("sync_data", SEGMENT, errno.EIO)
        note(store)
        assert os.strerror(errno.EIO) in kept.wait_for("interval-sync-failed").error
        with pytest.raises(JournalPoisoned):
            store.close()
    assert len(kept.of("poisoned")) == 1


@pytest.mark.parametrize(
    ("operation", "code"), [("pwrite", "hint-not-written"), ("sync_file", "hint-not-synced")]
)
def test_a_hint_that_fails_is_told_and_stops_nobody(
    tmp_path: Path, operation: str, code: str
) -> None:
    files = WatchedFiles()
    with listening() as kept:
        with Store.open(tmp_path / "j", files=files) as store:
            files.refuse(operation, "tail.hint", errno.EIO)
            note(store)
        with Store.open(tmp_path / "j") as store:
            assert store.open_report.cut is None
            assert len(store) == 4
    found = kept.of(code)
    assert found
    assert {record.file for record in found} == {str(tmp_path / "j" / "tail.hint")}
    assert {record.error for record in found} == {str(OSError(errno.EIO, os.strerror(errno.EIO)))}


def test_a_sidecar_that_fails_is_told_and_stops_nobody(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.refuse("rename", "0" * 20 + ".idx", errno.EACCES)
    with listening() as kept, Store.open(tmp_path / "j", files=files, segment_max_bytes=4096) as s:
        for _ in range(8):
            note(s)
    record = kept.one("sidecar-not-written")
    assert record.file == str(tmp_path / "j" / "segments" / ("0" * 20 + ".idx"))
    assert os.strerror(errno.EACCES) in record.error


def test_space_that_can_not_be_reserved_is_for_debugging_only(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.refuse("allocate", SEGMENT, errno.EOPNOTSUPP)
    with listening() as kept, Store.open(tmp_path / "j", files=files) as store:
        note(store)
    record = kept.one("not-reserved")
    assert record.levelno == logging.DEBUG
    assert record.file.endswith(SEGMENT)


def test_a_descriptor_that_reports_an_error_at_its_end_is_told(tmp_path: Path) -> None:
    class Closing(FaultyFiles):
        """Files whose next close reports an error, once armed."""

        armed = False

        def close(self, fd: int) -> None:
            if self.armed:
                self.armed = False
                self.arm(0, Fault.ERROR_AFTER)
            super().close(fd)

    files = Closing()
    with listening() as kept:
        store = Store.open(tmp_path / "j", files=files)
        note(store)
        files.armed = True
        store.close()
    assert os.strerror(errno.EIO) in kept.one("descriptor-not-closed").error


def test_a_dropped_store_is_told_where_warnings_are_off(tmp_path: Path) -> None:
    with listening() as kept:
        store = Store.open(tmp_path / "j")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del store
            gc.collect()
        assert kept.one("dropped").journal == str(tmp_path / "j")
        # The lock was freed before it was told.
        Store.open(tmp_path / "j").close()
        gc.collect()
    assert len(kept.of("dropped")) == 1


def test_colliding_kinds_are_told_where_the_option_says_so(tmp_path: Path) -> None:
    with isolated_registry():
        set_collision_policy("defer")

        @payload(category=1, type_id=1)
        class One:
            x: int

        @payload(category=1, type_id=1)
        class Two:
            x: int

        with listening() as kept:
            Store.open(tmp_path / "j", on_kind_collision="warn").close()
    error = kept.one("kind-collision").error
    assert One.__qualname__ in error
    assert Two.__qualname__ in error


def test_a_path_that_is_no_text_can_still_be_logged(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"j\xff")
    files = WatchedFiles()
    files.refuse("allocate", SEGMENT, errno.EOPNOTSUPP)
    with listening() as kept:
        store = Store.open(path, files=files, clock=lambda: 9_000_000)
        note(store)
        files.refuse("sync_data", SEGMENT, errno.EIO)
        with pytest.raises(Indeterminate):
            note(store)
        with pytest.raises(JournalPoisoned):
            store.close()
        with (path / "segments" / SEGMENT).open("ab") as file:
            file.write(b"torn")
        with Store.open(path, clock=lambda: 5_000_000):
            pass
    told = {record.code for record in kept.records}  # type: ignore[attr-defined]  # every record has one
    assert told == {"opened", "not-reserved", "poisoned", "tail-cut", "clock-behind"}
    assert kept.one("tail-cut").file == str(path / "segments" / SEGMENT)


def test_nothing_is_said_when_all_is_well(tmp_path: Path) -> None:
    options: dict[str, Any] = {"segment_max_bytes": 4096, "sync_warning": 3600}
    with listening() as kept, Store.open(tmp_path / "j", **options) as store:
        for _ in range(20):
            note(store)
        with Store.open(tmp_path / "j", mode="r") as reader:
            reader.refresh()
            reader.verify()
    assert {record.code for record in kept.records} <= {"opened", "not-reserved"}  # type: ignore[attr-defined]  # every record has one
