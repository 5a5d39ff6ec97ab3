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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batpak import (
    Coordinate,
    Durability,
    EventKind,
    Indeterminate,
    Item,
    Region,
    Store,
    Watermark,
    payload,
)
from batpak.clock import SYSTEM_CLOCK
from batpak.errors import JournalPoisoned
from batpak.keyring import FileKeyring
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


# --- handlers that write, and handlers that raise ---------------------------------------

AUDIT = Coordinate("audit:log", "room:1")
MODES = {
    "sync": Durability.SYNC,
    "every": Durability.EVERY(ms=3_600_000, events=1),
    "os": Durability.OS,
}
ALWAYS_SLOW = 1e-9
"""A bound for the option `sync_warning` that no sync keeps."""


class Acting(logging.Handler):
    """Does something about each record of a code."""

    def __init__(self, code: str, act: Callable[[], object]) -> None:
        super().__init__(logging.DEBUG)
        self.code = code
        self.act = act
        self.seen = 0
        self.acted = threading.Semaphore(0)
        """One permit for each record that was acted on."""

    def handle(self, record: logging.LogRecord) -> Any:
        # Without the handler's lock, as a handler of its own make may be.
        if vars(record).get("code") == self.code:
            self.seen += 1
            self.act()
            self.acted.release()


@contextmanager
def acting(code: str, act: Callable[[], object]) -> Iterator[Acting]:
    logger = logging.getLogger("batpak")
    handler, level = Acting(code, act), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def in_time(call: Callable[[], object]) -> None:
    """In a thread that may hang without taking the test with it."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive(), "it waits for itself"
    if raised:
        raise raised[0]


def values(store: Store, entity: str) -> list[Any]:
    return [event.value for event in store.entity(entity)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", ["slow-sync", "hint-not-written"])
@pytest.mark.parametrize("way", ["append", "submit", "sync"])
def test_a_handler_may_write_to_the_store_that_it_is_told_of(
    tmp_path: Path, mode: str, code: str, way: str
) -> None:
    files = WatchedFiles()
    slow = ALWAYS_SLOW if code == "slow-sync" else 3600
    store = Store.open(tmp_path / "j", files=files, durability=MODES[mode], sync_warning=slow)
    if code == "hint-not-written":
        files.refuse("pwrite", "tail.hint", errno.EIO)

    def write() -> None:
        if way == "append":
            store.append(ALICE, 1, kind=NOTE, durable=True)
        elif way == "submit":
            store.submit(ALICE, 1, kind=NOTE, durable=True).result(WAIT)
        else:
            store.append(ALICE, 1, kind=NOTE)
            store.sync()

    with acting(code, lambda: store.append(AUDIT, "told", kind=NOTE, durable=True)) as handler:
        in_time(write)
        # What a queued event had to tell is told after its future.
        assert handler.acted.acquire(timeout=WAIT)
    files.refused.clear()
    assert values(store, ALICE.entity) == [1]
    # One each: what the handler's own append would have logged is not.
    assert values(store, AUDIT.entity) == ["told"] * handler.seen
    assert handler.seen == 1
    in_time(store.close)


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_may_ask_the_store_that_is_poisoned(tmp_path: Path, mode: str) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files, durability=MODES[mode])
    answers: list[str] = []

    def ask() -> None:
        for call in (lambda: note(store), store.sync):
            try:
                call()
            except JournalPoisoned as error:
                answers.append(error.code)

    files.refuse("sync_data", SEGMENT, errno.EIO)
    with acting("poisoned", ask) as handler, pytest.raises(Indeterminate):
        in_time(lambda: note(store, durable=True))
    assert (handler.seen, answers) == (1, ["journal-poisoned"] * 2)
    with pytest.raises(JournalPoisoned):
        store.close()


def test_a_write_that_poisons_in_os_is_told_at_once(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files, durability=Durability.OS)
    files.refuse("pwrite", SEGMENT, errno.EIO)
    files.refuse("truncate", SEGMENT, errno.EIO)
    with listening() as kept:
        with pytest.raises(Indeterminate):
            note(store)
        assert len(kept.of("poisoned")) == 1
    with pytest.raises(JournalPoisoned):
        store.close()


@pytest.mark.parametrize("mode", MODES)
def test_an_append_of_a_handler_does_not_write_over_another(tmp_path: Path, mode: str) -> None:
    """The record comes in the middle of a commit that has its place already."""
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files, durability=MODES[mode], preallocate=4096)
    files.refuse("allocate", SEGMENT, errno.EOPNOTSUPP)
    with acting("not-reserved", lambda: store.append(AUDIT, "told", kind=NOTE)) as handler:
        in_time(lambda: [note(store) for _ in range(12)])
        in_time(store.sync)
    assert handler.seen > 0
    assert values(store, ALICE.entity) == ["x" * 600] * 12
    assert values(store, AUDIT.entity) == ["told"] * handler.seen
    assert store.verify("full").ok
    store.close()


def raising() -> None:
    raise RuntimeError("a handler")


WAYS: dict[str, Callable[[Store], object]] = {
    "append": lambda s: s.append(ALICE, 1, kind=NOTE),
    "append, durable": lambda s: s.append(ALICE, 1, kind=NOTE, durable=True),
    "append with a timeout": lambda s: s.append(ALICE, 1, kind=NOTE, durable=True, timeout=WAIT),
    "append_many": lambda s: s.append_many([Item(ALICE, 1, kind=NOTE)], durable=True),
    "submit": lambda s: s.submit(ALICE, 1, kind=NOTE, durable=True).result(WAIT),
    "fence": lambda s: fenced(s),
    "outbox": lambda s: flushed(s),
}


def fenced(store: Store) -> None:
    with store.fence(durable=True) as fence:
        ticket = fence.append(ALICE, 1, kind=NOTE)
    assert ticket.result(0).durable


def flushed(store: Store) -> None:
    outbox = store.outbox()
    outbox.stage(ALICE, 1, kind=NOTE)
    outbox.flush()
    assert len(outbox) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", ["slow-sync", "hint-not-written"])
@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_raises_takes_nothing_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, code: str, way: str
) -> None:
    files = WatchedFiles()
    slow = ALWAYS_SLOW if code == "slow-sync" else 3600
    store = Store.open(tmp_path / "j", files=files, durability=MODES[mode], sync_warning=slow)
    if code == "hint-not-written":
        files.refuse("pwrite", "tail.hint", errno.EIO)
    with acting(code, raising) as handler:
        WAYS[way](store)
        assert values(store, ALICE.entity) == [1]
        store.close()
    assert capsys.readouterr().err.count("RuntimeError: a handler") == handler.seen > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_sidecar_that_fails_is_tried_once_whatever_a_handler_says(
    tmp_path: Path, mode: str
) -> None:
    files = WatchedFiles()
    files.refuse("rename", "0" * 20 + ".idx", errno.EACCES)
    options: dict[str, Any] = {"segment_max_bytes": 4096, "durability": MODES[mode]}
    with (
        acting("sidecar-not-written", raising) as handler,
        Store.open(tmp_path / "j", files=files, **options) as store,
    ):
        for _ in range(12):
            note(store)
        assert len(values(store, ALICE.entity)) == 12
    assert handler.seen == 1


def test_a_handler_may_append_where_a_sidecar_fails(tmp_path: Path) -> None:
    files = WatchedFiles()
    files.refuse("rename", "0" * 20 + ".idx", errno.EACCES)
    with Store.open(tmp_path / "j", files=files, segment_max_bytes=4096) as store:
        with acting("sidecar-not-written", lambda: store.append(AUDIT, 1, kind=NOTE)) as handler:
            in_time(lambda: [note(store) for _ in range(12)])
        assert values(store, AUDIT.entity) == [1] == [1] * handler.seen
        assert len(values(store, ALICE.entity)) == 12


def test_a_handler_that_raises_over_a_destroyed_key_says_nothing_of_the_keyring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = FileKeyring.create(tmp_path / "keys")
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring) as store:
        note(store)
        with acting("key-destroyed", raising) as handler:
            [key] = store.shred(Region(entity=ALICE.entity)).keys
        assert handler.seen == 1
        assert ring.load(key.key_id) is None
        assert capsys.readouterr().err.count("RuntimeError: a handler") == 1


@pytest.mark.parametrize("code", ["segment-rewritten", "copy-not-removed"])
def test_a_compaction_is_done_whatever_a_handler_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    files = WatchedFiles()
    with Store.open(tmp_path / "j", files=files) as store:
        note(store)
        store.erase(1, reason="asked for")
        if code == "copy-not-removed":
            files.refuse("unlink", SEGMENT + ".tmp", errno.EIO)
        with acting(code, raising) as handler:
            report = store.compact()
        files.refused.clear()
        assert handler.seen == 1
        assert capsys.readouterr().err.count("RuntimeError: a handler") == 1
        assert (report.outcome, report.payloads) == ("performed", 1)
        # It stands in the journal, too.
        assert report.receipt is not None
        assert store.at(len(store) - 1).sequence == report.receipt.sequence
        assert store.verify("full").ok


def test_a_rewritten_segment_and_a_copy_that_stays_are_told_by_their_files(tmp_path: Path) -> None:
    files = WatchedFiles()
    segment = tmp_path / "j" / "segments" / SEGMENT
    with Store.open(tmp_path / "j", files=files) as store, listening() as kept:
        note(store)
        store.erase(1, reason="asked for")
        files.refuse("unlink", SEGMENT + ".tmp", errno.EIO)
        store.compact()
        files.refused.clear()
        rewritten, stays = kept.one("segment-rewritten"), kept.one("copy-not-removed")
    assert (rewritten.file, rewritten.generation, rewritten.payloads) == (str(segment), 1, 1)
    assert rewritten.bytes > 600
    assert (stays.file, os.strerror(errno.EIO) in stays.error) == (f"{segment}.tmp", True)


class Stumbling:
    """The machine's clock, whose `monotonic_ns` raises while a test says so."""

    def __init__(self) -> None:
        self.failures = 0

    def now_us(self) -> int:
        return SYSTEM_CLOCK.now_us()

    def now_ns(self) -> int:
        return SYSTEM_CLOCK.now_ns()

    def monotonic_ns(self) -> int:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("a clock")
        return SYSTEM_CLOCK.monotonic_ns()

    def boot_marker(self) -> str:
        return SYSTEM_CLOCK.boot_marker()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_clock_that_raises_in_a_sync_leaves_a_written_event_known_as_such(
    tmp_path: Path, mode: str, way: str
) -> None:
    clock = Stumbling()
    with Store.open(tmp_path / "j", clock=clock, durability=MODES[mode]) as store:
        clock.failures = 1
        if mode == "os" and way in ("append", "outbox"):
            WAYS[way](store)
            with pytest.raises(ZeroDivisionError):
                store.sync()
        else:
            with pytest.raises(Indeterminate) as caught:
                WAYS[way](store)
            error = caught.value
            assert isinstance(error.cause, ZeroDivisionError)
            assert error.advice is not None
            assert "wait_for" in error.advice
            assert "anew" not in error.advice
            store.wait_for(Watermark.DURABLE, error.receipt, timeout=0)
        assert values(store, ALICE.entity) == [1]


def test_an_outbox_that_was_written_before_a_clock_failed_is_empty(tmp_path: Path) -> None:
    clock = Stumbling()
    with Store.open(tmp_path / "j", clock=clock, durability=MODES["every"]) as store:
        outbox = store.outbox()
        outbox.stage(ALICE, 1, kind=NOTE)
        clock.failures = 1
        with pytest.raises(Indeterminate):
            outbox.flush()
        assert outbox.flush() == ()
        assert values(store, ALICE.entity) == [1]


def test_a_log_handler_that_flushes_the_outbox_writes_nothing_twice(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j", sync_warning=ALWAYS_SLOW) as store:
        outbox = store.outbox()

        def flush() -> None:
            if handler.seen == 1:
                outbox.stage(AUDIT, "slow", kind=NOTE)
                assert len(outbox.flush()) == 1

        for value in ("A", "B"):
            outbox.stage(ALICE, value, kind=NOTE)
        with acting("slow-sync", flush) as handler:
            assert len(outbox.flush()) == 2
        assert handler.seen
        assert len(outbox) == 0
        assert values(store, ALICE.entity) == ["A", "B"]
        assert values(store, AUDIT.entity) == ["slow"]


def test_the_thread_of_every_goes_on_after_a_sync_that_failed(tmp_path: Path) -> None:
    clock, files = Stumbling(), WatchedFiles()
    options: dict[str, Any] = {
        "clock": clock,
        "files": files,
        "durability": Durability.EVERY(ms=1, events=1_000_000),
        "sync_warning": ALWAYS_SLOW,
    }
    with Store.open(tmp_path / "j", **options) as store:
        while files.sync_ended.acquire(blocking=False):
            pass
        with listening() as kept:
            clock.failures = 1
            note(store)
            assert kept.wait_for("interval-sync-failed").error == "a clock"
            # The same tail, which nobody appended to.
            assert files.sync_ended.acquire(timeout=WAIT)
        with acting("slow-sync", raising):
            note(store)
            assert files.sync_ended.acquire(timeout=WAIT)
            note(store)
            assert files.sync_ended.acquire(timeout=WAIT)
