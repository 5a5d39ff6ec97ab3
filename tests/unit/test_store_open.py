"""Opening and closing: what is created, what is refused and stays untouched, what is freed."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shutil
import stat
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Item, Region, Store, StoreConfig, payload
from batpak.config import Every
from batpak.errors import (
    BatpakError,
    Damaged,
    FutureFormat,
    InvalidClock,
    InvalidInput,
    JournalCorrupt,
    JournalLocked,
    JournalPoisoned,
    KindCollision,
    NoSpace,
    NotAJournal,
    StorageFailed,
    StoreClosed,
    UnsupportedFeature,
)
from batpak.keyring import FileKeyring, LocalProvider
from batpak.kinds import SYSTEM_CLOSE_COMPLETED, SYSTEM_OPEN_COMPLETED
from batpak.payloads import isolated_registry, set_collision_policy
from batpak.signing import SigningKey
from tests.support.proofs import LATER, LOG, RECEIPTS
from tests.watched_files import WatchedFiles
from tools import read_segment

ALICE = Coordinate("player:alice", "room:dungeon")
NOTE = EventKind(1, 7)
FIRST = "00000000000000000000.seg"


def fill(path: Path, count: int = 3, **options: Any) -> None:
    with Store.open(path, **options) as store:
        for number in range(count):
            store.append(ALICE, number, kind=NOTE)


def tree(root: Path) -> dict[str, bytes | None]:
    """Every name below `root` with its bytes; None for directories."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


@contextmanager
def unchanged(root: Path, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Nothing below `root` is changed inside, but for these names."""
    before = {name: data for name, data in tree(root).items() if name not in but}
    yield
    assert {name: data for name, data in tree(root).items() if name not in but} == before


def open_both(path: Path, error: type[BatpakError], **options: Any) -> list[Any]:
    """What a writer and a reader are told; the same class for both."""
    told: list[Any] = []
    for mode in ("rw", "r"):
        with pytest.raises(error) as caught:
            Store.open(path, mode=mode, **options)  # type: ignore[call-overload]  # both modes in turn
        assert type(caught.value) is error
        told.append(caught.value)
    return told


# --- life ------------------------------------------------------------------------


def test_a_new_journal_holds_its_open_event_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "journal"
    with Store.open(path) as store:
        assert store.open_report.created
        assert store.open_report.epoch == 1
        assert len(store) == 1
        assert store.at(0).kind == SYSTEM_OPEN_COMPLETED
        assert store.at(0).value == {"epoch": 1, "resumed_at": 0, "cut_bytes": 0}
        assert str(path) in repr(store)
        assert store
    assert sorted(p.name for p in path.iterdir()) == [
        "journal.json", "journal.lock", "segments", "tail.hint",
    ]  # fmt: skip


def test_each_open_and_close_is_an_event_of_the_journal(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        with Store.open(tmp_path / "journal") as store:
            assert store.open_report.epoch == epoch
            assert store.open_report.created == (epoch == 1)
            store.append(ALICE, epoch, kind=NOTE)
            journal_id, origin = store.journal_id, store.origin
    assert origin == f"batpak/{journal_id}"
    with Store.open(tmp_path / "journal", mode="r") as reader:
        assert (reader.journal_id, reader.origin) == (journal_id, origin)
        kinds = [event.kind for event in reader]
        assert kinds == [SYSTEM_OPEN_COMPLETED, NOTE, SYSTEM_CLOSE_COMPLETED] * 3
        opens = [e.value for e in reader.query(Region(kind=SYSTEM_OPEN_COMPLETED))]
        assert [value["resumed_at"] for value in opens] == [0, 3, 6]
        closes = [e.value for e in reader.query(Region(kind=SYSTEM_CLOSE_COMPLETED))]
        assert closes == [{"epoch": n, "events": 2} for n in (1, 2, 3)]


def test_a_closed_store_refuses_everything_by_name(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "journal")
    receipt = store.append(ALICE, 1, kind=NOTE)
    store.close()
    store.close()
    assert "closed" in repr(store)
    with unchanged(tmp_path):
        for call in (
            lambda: store.append(ALICE, 1, kind=NOTE),
            lambda: store.append_raw(ALICE, NOTE, b""),
            store.sync,
            lambda: store.get(receipt.event_id),
            lambda: store.at(0),
            lambda: list(store),
            lambda: len(store),
            lambda: store.page(Region.all()),
            lambda: store.latest(ALICE.entity),
            lambda: store.count(Region.all()),
            lambda: store.ancestors(receipt.event_id),
            store.stats,
            store.verify,
        ):
            with pytest.raises(StoreClosed):
                call()
    reader = Store.open(tmp_path / "journal", mode="r")
    reader.close()
    reader.close()
    assert "closed" in repr(reader)
    for call in (lambda: reader.at(0), lambda: list(reader), reader.refresh, reader.stats):
        with pytest.raises(StoreClosed):
            call()


def test_an_exception_in_the_block_closes_the_store_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store.open(tmp_path / "journal") as store:
        _ = len(store) / 0
    with Store.open(tmp_path / "journal", mode="r") as reader:
        assert reader.at(1).kind == SYSTEM_CLOSE_COMPLETED


def test_a_close_that_fails_does_not_hide_the_first_error(tmp_path: Path) -> None:
    files = WatchedFiles()

    def fail() -> None:
        with Store.open(tmp_path / "j", files=files):
            files.refuse("pwrite", FIRST, errno.ENOSPC)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert any("closing the store failed too" in note for note in caught.value.__notes__)
    # The lock is free, and nothing is lost.
    with Store.open(tmp_path / "j") as store:
        assert [event.kind for event in store] == [SYSTEM_OPEN_COMPLETED] * 2


@pytest.mark.proves("INV-STORE-LIFECYCLE-HONESTY")
@pytest.mark.parametrize("as_errors", [False, True])
def test_a_dropped_store_says_so_and_frees_the_lock(
    tmp_path: Path, as_errors: bool, recwarn: pytest.WarningsRecorder
) -> None:
    store = Store.open(tmp_path / "journal")
    store.append(ALICE, 1, kind=NOTE)
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("error" if as_errors else "always")
            del store
            gc.collect()
    finally:
        sys.unraisablehook = hook
    said = [each.exc_value for each in unraisable] if as_errors else [w.message for w in caught]
    assert [type(each) for each in said] == [ResourceWarning]
    assert str(tmp_path / "journal") in str(said[0])
    with Store.open(tmp_path / "journal") as again:
        assert again.at(1).payload == 1


def test_a_closed_store_is_dropped_in_silence(tmp_path: Path) -> None:
    # Warnings are errors in these tests.
    store = Store.open(tmp_path / "journal")
    store.close()
    del store
    gc.collect()


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        fill(tmp_path / "journal", 30, segment_max_bytes=4096)
        with Store.open(tmp_path / "journal", mode="r") as reader:
            assert reader.verify().ok
        # A map keeps a descriptor of its own until the last reader lets go of it.
        del reader
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_failed_open_gives_descriptors_and_lock_back(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    files = WatchedFiles()
    files.refuse("pwrite", FIRST, errno.ENOSPC)
    with pytest.raises(NoSpace):
        Store.open(tmp_path / "journal", files=files)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    fill(tmp_path / "journal")


# --- the lock --------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path) as store:
        with unchanged(tmp_path), pytest.raises(JournalLocked) as caught:
            Store.open(path)
        assert caught.value.pid == os.getpid()
        assert caught.value.file == str(path / "journal.lock")
        assert caught.value.exit_code == 4
        assert caught.value.retryable
        assert str(os.getpid()) in str(caught.value)
        # The refused open took nothing from the holder.
        assert store.append(ALICE, 1, kind=NOTE).sequence == 1
        with Store.open(path, mode="r") as reader:
            assert len(reader) == 2
    fill(path)


def test_a_lock_file_without_a_number_is_no_obstacle(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    (tmp_path / "journal" / "journal.lock").write_text("somebody\n")
    with Store.open(tmp_path / "journal"):
        (tmp_path / "journal" / "journal.lock").write_text("")
        with pytest.raises(JournalLocked) as caught:
            Store.open(tmp_path / "journal")
        assert caught.value.pid is None
        assert "another process" in str(caught.value)


@pytest.mark.proves("INV-REPLACED-LOCK-POISONS")
def test_a_replaced_lock_file_ends_writing_at_the_next_rotation(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    store = Store.open(path, segment_max_bytes=4096)
    (tmp_path / "new").write_text("")
    os.replace(tmp_path / "new", path / "journal.lock")
    while store.stats().segment_bytes < 4096:
        store.append(ALICE, len(store), kind=NOTE)
    written = len(store)
    with pytest.raises(JournalPoisoned) as caught:
        store.append(ALICE, written, kind=NOTE)
    assert isinstance(caught.value.cause, Damaged)
    assert caught.value.cause.file == str(path / "journal.lock")
    assert [p.name for p in (path / "segments").glob("*.seg")] == [FIRST]
    assert len(store) == written
    assert store.verify().ok
    with pytest.raises(JournalPoisoned):
        store.close()
    with Store.open(path) as again:
        assert [e.payload for e in again.query(Region(kind=NOTE))] == [*range(1, written)]


# --- places where no journal is ----------------------------------------------------


@pytest.mark.parametrize("path", [None, b"journal", 5, "", "jour\0nal", "\ud800"])
def test_what_is_no_path_is_refused_by_name(tmp_path: Path, path: Any) -> None:
    key = SigningKey.generate()
    with Store.open(tmp_path / "journal") as store:
        for field, ask in (
            ("path", lambda: Store.open(path)),
            ("path", lambda: Store.open(path, mode="r")),
            ("destination", lambda: store.snapshot(path)),
            ("destination", lambda: store.fork(path)),
            ("destination", lambda: Store.restore(tmp_path / "snapshot", path)),
            ("snapshot", lambda: Store.restore(path, tmp_path / "new")),
            ("path", lambda: SigningKey.load(path)),
            ("path", lambda: key.save(path)),
            ("path", lambda: FileKeyring(path)),
            ("path", lambda: FileKeyring.create(path)),
            ("path", lambda: LocalProvider(path)),
            ("path", lambda: LocalProvider.create(path)),
        ):
            with pytest.raises(InvalidInput, match=r"a path is a text|no file can have") as refused:
                ask()
            assert refused.value.field == field


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with unchanged(tmp_path):
        for error in open_both(tmp_path / "file", NotAJournal):
            assert error.file == str(tmp_path / "file")
            assert error.advice
        for error in open_both(tmp_path / "file" / "journal", NotAJournal):
            assert "a directory of this path is a file" in error.what
            assert error.file == str(tmp_path / "file" / "journal")


def test_a_path_that_can_not_be_looked_at_is_not_said_to_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(tmp_path / "there")
    (tmp_path / "there").symlink_to(tmp_path / "here")
    with unchanged(tmp_path):
        for error in open_both(tmp_path / "here", StorageFailed):
            assert error.file == str(tmp_path / "here")
            assert isinstance(error.__cause__, OSError)


def test_a_directory_of_another_program_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "main.py").write_text("print()")
    with unchanged(tmp_path):
        writer, reader = open_both(tmp_path / "other", NotAJournal)
    assert "main.py" in str(writer)
    assert "no journal" in str(reader)


def test_an_empty_directory_becomes_a_journal_but_not_for_a_reader(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    for path in (tmp_path / "journal", tmp_path / "missing"):
        with unchanged(tmp_path), pytest.raises(NotAJournal) as caught:
            Store.open(path, mode="r")
        assert caught.value.file == str(path)
    fill(tmp_path / "journal")


def test_strange_files_beside_a_journal_stay(tmp_path: Path) -> None:
    fill(tmp_path / "journal")
    (tmp_path / "journal" / "notes.txt").write_text("mine")
    (tmp_path / "journal" / "segments" / "notes.txt").write_text("mine")
    fill(tmp_path / "journal")
    assert (tmp_path / "journal" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "journal" / "segments" / "notes.txt").read_text() == "mine"


def test_segments_without_their_identity_are_not_given_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path)
    (path / "journal.json").unlink()
    with unchanged(tmp_path, but=("journal/journal.lock",)):
        for error in open_both(path, JournalCorrupt):
            assert error.reason == "no-identity"
            assert error.file == str(path / "journal.json")
            assert "restore journal.json" in error.advice


# --- formats ---------------------------------------------------------------------


def test_a_journal_of_a_newer_format_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path)
    identity = json.loads((path / "journal.json").read_text())
    # A newer format may have other fields altogether.
    (path / "journal.json").write_text(json.dumps({"format": 2, "shape": "new"}))
    with unchanged(tmp_path, but=("journal/journal.lock",)):
        for error in open_both(path, FutureFormat):
            assert (error.found, error.supported) == (2, 1)
            assert error.file == str(path / "journal.json")
            assert "upgrade" in error.advice
    (path / "journal.json").write_text(json.dumps(identity))
    fill(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": "1"}', "\x00" * 64])
def test_a_broken_identity_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal"
    fill(path)
    (path / "journal.json").write_text(text)
    with unchanged(tmp_path, but=("journal/journal.lock",)):
        for error in open_both(path, Damaged):
            assert error.file == str(path / "journal.json")


def edit_header(path: Path, edit: Callable[[bytearray], None]) -> None:
    """Change the first segment's header and make its checksum right again."""
    file = path / "segments" / FIRST
    data = bytearray(file.read_bytes())
    edit(data)
    data[124:128] = zlib.crc32(data[:124]).to_bytes(4, "little")
    file.write_bytes(data)


def put(offset: int, value: bytes) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[offset : offset + len(value)] = value

    return edit


def header_offset(field: str) -> int:
    """Where docs/format.md puts a field of the segment header."""
    page = Path(__file__).parents[2] / "docs" / "format.md"
    section = page.read_text("utf-8").split("\n## Segment\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    for cells in rows:
        if len(cells) > 4 and cells[4].strip() == field:
            return int(cells[1])
    raise AssertionError(f"no row for {field!r} in the table of the segment header")


def test_a_segment_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path)
    edit_header(path, put(6, b"\x02"))
    with unchanged(tmp_path, but=("journal/journal.lock",)):
        for error in open_both(path, FutureFormat):
            assert (error.found, error.supported) == (2, 1)
            assert error.file == str(path / "segments" / FIRST)


@pytest.mark.parametrize(
    ("field", "writer_opens", "reader_opens"),
    [("compatible", True, True), ("read_only_compatible", False, True),
     ("incompatible", False, False)],
)  # fmt: skip
def test_unknown_features_are_met_as_their_class_says(
    tmp_path: Path, field: str, writer_opens: bool, reader_opens: bool
) -> None:
    path = tmp_path / "journal"
    fill(path)
    (path / "tail.hint").unlink()
    segment = path / "segments" / FIRST
    # The first record's prev_crc is the header's crc, so the records go.
    segment.write_bytes(segment.read_bytes()[:128])
    edit_header(path, put(header_offset(field), b"\x80"))
    for mode, opens in (("r", reader_opens), ("rw", writer_opens)):
        if opens:
            Store.open(path, mode=mode).close()  # type: ignore[call-overload]  # both modes in turn
            continue
        with unchanged(tmp_path, but=("journal/journal.lock",)):
            with pytest.raises(UnsupportedFeature) as caught:
                Store.open(path, mode=mode)  # type: ignore[call-overload]  # both modes in turn
            assert caught.value.bits == 0x80
            assert caught.value.file == str(segment)


# --- permissions and space ---------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "name", "number", "error"),
    [
        ("mkdir", "journal", errno.EROFS, StorageFailed),
        ("mkdir", "journal", errno.ENOSPC, NoSpace),
        ("mkdir", "journal", errno.EACCES, StorageFailed),
        ("listdir", "journal", errno.EACCES, StorageFailed),
        ("open", "journal.lock", errno.EROFS, StorageFailed),
        ("mkdir", "segments", errno.EDQUOT, NoSpace),
        ("open-to-write", "journal.json.tmp", errno.ENOSPC, NoSpace),
        ("rename", "journal.json", errno.EIO, StorageFailed),
        ("sync_directory", "journal", errno.EIO, StorageFailed),
        ("pwrite", FIRST + ".tmp", errno.ENOSPC, NoSpace),
        ("rename", FIRST, errno.EIO, StorageFailed),
        ("sync_file", "tail.hint.tmp", errno.EIO, StorageFailed),
        ("pwrite", FIRST, errno.ENOSPC, NoSpace),
    ],
)
def test_a_journal_that_can_not_be_created_is_created_later(
    tmp_path: Path, operation: str, name: str, number: int, error: type[BatpakError]
) -> None:
    files = WatchedFiles()
    files.refuse(operation, name, number)
    with pytest.raises(error) as caught:
        Store.open(tmp_path / "journal", files=files)
    assert type(caught.value) is error
    assert os.strerror(number) in str(caught.value)
    assert str(tmp_path / "journal") in str(caught.value)
    assert caught.value.advice
    with Store.open(tmp_path / "journal") as store:
        assert store.append(ALICE, 1, kind=NOTE).durable
        assert store.verify().ok


def test_a_read_only_file_system_is_named_and_still_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 30, segment_max_bytes=4096)
    files = WatchedFiles()
    writing = (
        "open-to-write", "pwrite", "sync_data", "sync_file", "sync_directory", "truncate",
        "allocate", "rename", "unlink", "mkdir",
    )  # fmt: skip
    for operation in writing:
        files.refuse(operation, "*", errno.EROFS)
    with unchanged(tmp_path):
        with pytest.raises(StorageFailed) as caught:
            Store.open(path, files=files)
        assert 'mode="r"' in caught.value.advice
        attempts = len(files.opened_to_write)
        with Store.open(path, mode="r", files=files) as reader:
            assert [e.payload for e in reader.query(Region(kind=NOTE))] == [*range(30)]
            assert reader.verify().ok
            assert reader.refresh() == len(reader)
        # Not even tried.
        assert len(files.opened_to_write) == attempts
        assert not any(operation in writing[1:] for operation, _ in files.calls)


@pytest.mark.parametrize("name", ["journal.json", FIRST])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "journal"
    fill(path)
    files = WatchedFiles()
    files.refuse("open", name, errno.EACCES)
    with unchanged(tmp_path, but=("journal/journal.lock",)):
        for error in open_both(path, StorageFailed, files=files):
            assert error.file is not None
            assert error.file.endswith(name)
            assert os.strerror(errno.EACCES) in str(error)


def test_disposable_files_that_can_not_be_read_cost_nothing_but_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 30, segment_max_bytes=4096)
    files = WatchedFiles()
    for sidecar in (path / "segments").glob("*.idx"):
        files.refuse("open", sidecar.name, errno.EACCES)
    assert files.refused
    with Store.open(path, mode="r", files=files) as reader:
        assert reader.open_report.mapped == 0
        assert [e.payload for e in reader.query(Region(kind=NOTE))] == [*range(30)]


def test_files_are_not_writable_for_others(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        fill(tmp_path / "journal", 30, segment_max_bytes=4096)
    finally:
        os.umask(mask)
    for path in (tmp_path / "journal").rglob("*"):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


# --- rotation --------------------------------------------------------------------


def test_a_full_segment_is_followed_by_one_named_by_its_first_sequence(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, segment_max_bytes=4096) as store:
        for number in range(60):
            store.append_raw(ALICE, NOTE, bytes([number]) * 50)
        segments = sorted((path / "segments").glob("*.seg"))
        assert len(segments) == store.stats().segments > 3
        bases = [int(file.stem) for file in segments]
        assert bases[0] == 0
        assert all(file.name == f"{int(file.stem):020}.seg" for file in segments)
        # A sealed segment is at most one record over the limit, and has no space set aside.
        for file in segments[:-1]:
            assert 4096 <= file.stat().st_size < 4096 + 500
            assert file.with_suffix(".idx").exists()
        assert [event.raw[0] for event in store.query(Region(kind=NOTE))] == [*range(60)]
        # However large, a batch stays whole.
        before = store.stats().segments
        store.append_many([Item.raw(ALICE, NOTE, bytes(1000))] * 50)
        assert store.stats().segments <= before + 1
        store.append_raw(ALICE, NOTE, b"")
        assert store.stats().segments > before
    with Store.open(path, segment_max_bytes=4096) as again:
        report = again.open_report
        assert report.mapped == report.segments - 1
        assert report.rebuilt == 0
        assert again.verify().ok
        assert len(list(again.query(Region(kind=NOTE)))) == 111


def test_without_sidecars_a_journal_opens_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fill(path, 60, segment_max_bytes=4096)
    with Store.open(path, mode="r") as reader:
        expected = list(reader)
        mapped = reader.open_report.mapped
    assert mapped > 1
    for sidecar in (path / "segments").glob("*.idx"):
        sidecar.unlink()
    with Store.open(path, mode="r") as reader:
        assert reader.open_report.mapped == 0
        assert reader.open_report.rebuilt == mapped
        assert list(reader) == expected
    with Store.open(path) as store:
        assert store.open_report.rebuilt == mapped
        assert list(store)[: len(expected)] == expected


# --- options ---------------------------------------------------------------------

BAD_OPTIONS: list[tuple[str, list[Any]]] = [
    ("durability", ["sync", None, 1, Durability]),
    ("segment_max_bytes", [4095, (1 << 31) + 1, 4096.0, "4096", None, True]),
    ("preallocate", [-1, (1 << 30) + 1, 1.5, None]),
    ("payload_max_bytes", [0, (256 << 20) + 1, "1"]),
    ("batch_max_events", [0, (1 << 20) + 1, 1.0]),
    ("codec", ["zip", None, 1, "encrypted"]),
    ("keyring", ["keys", 1, True]),
    ("origin", ["", "x" * 256, "ü" * 128, "a b", "a+b", "a\n", "a\tb", 5, b"x"]),
    ("verify", ["never", None, True]),
    ("submit_capacity", [0, (1 << 20) + 1, 1.0, True]),
    ("submit_threshold", [0, -0.1, 1.001, float("inf"), "1", None, True]),
    ("max_open_files", [3, 65_537, None]),
    ("sync_mode", ["", "DATA", None, 1]),
    ("sync_warning", [0, -1.0, "1", None, True]),
    ("require_signing", [1, "yes", None]),
    ("on_kind_collision", ["raise", None]),
    ("allow_network_filesystem", [1, "yes", None]),
]

KEY_OPTIONS = {"signing_keys", "checkpoint_key"}
"""Their values go into no error: a seed may be among them."""

GOOD_OPTIONS: list[tuple[str, list[Any]]] = [
    ("durability", [Durability.SYNC, Durability.OS, Durability.EVERY(ms=1, events=1)]),
    ("segment_max_bytes", [4096, 1 << 31]),
    ("preallocate", [0, 1 << 20]),
    ("payload_max_bytes", [1, 256 << 20]),
    ("batch_max_events", [1, 1 << 20]),
    ("codec", ["salted", "plain"]),
    ("keyring", [None]),
    ("origin", [None, "x" * 255, "ü" * 127, "example.org/journal"]),
    ("verify", ["always", "content"]),
    ("submit_capacity", [1, 1 << 20]),
    ("submit_threshold", [0.001, 1]),
    ("max_open_files", [4, 65_536]),
    ("sync_mode", ["data", "full"]),
    ("sync_warning", [0.001, 5]),
    ("signing_keys", [(), [RECEIPTS], (RECEIPTS, LATER)]),
    ("require_signing", [False]),
    ("checkpoint_key", [None, LOG]),
    ("on_kind_collision", ["refuse", "warn", "ignore"]),
    ("allow_network_filesystem", [True, False]),
    ("clock", [None, lambda: 1_000_000]),
]


@pytest.mark.parametrize(
    ("option", "value"), [(name, value) for name, values in BAD_OPTIONS for value in values]
)
def test_an_option_out_of_bounds_is_refused_before_anything_is_made(
    tmp_path: Path, option: str, value: Any
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store.open(tmp_path / "journal", **{option: value})
    assert caught.value.field == option
    assert caught.value.value == value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"), [(name, value) for name, values in GOOD_OPTIONS for value in values]
)
def test_an_option_at_its_bounds_is_taken(tmp_path: Path, option: str, value: Any) -> None:
    with Store.open(tmp_path / "journal", **{option: value}) as store:
        first = 1 + len(store.signing_keys())
        assert store.append_raw(ALICE, NOTE, b"x").sequence == first


def test_an_older_segment_of_another_history_is_refused(tmp_path: Path) -> None:
    """Both are journals of one id: a copy went on by itself."""
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    Store.open(ours, segment_max_bytes=4096).close()
    shutil.copytree(ours, copy)
    for path, text in ((ours, "a"), (copy, "b")):
        with Store.open(path, segment_max_bytes=4096) as store:
            for _ in range(9):
                store.append(ALICE, text * 1000, kind=NOTE)
            assert store.stats().segments >= 3
    first = f"segments/{0:020}.seg"
    shutil.copy(copy / first, ours / first)
    with pytest.raises(JournalCorrupt) as caught:
        Store.open(ours)
    assert (caught.value.reason, caught.value.file) == (
        "splice", str(sorted((ours / "segments").glob("*.seg"))[1]),
    )  # fmt: skip


def test_every_option_has_been_tried() -> None:
    names = {field.name for field in fields(StoreConfig)}
    assert {name for name, _ in GOOD_OPTIONS} == names
    assert {name for name, _ in BAD_OPTIONS} | {"clock", *KEY_OPTIONS} == names


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("signing_keys", bad) for bad in (b"x" * 32, RECEIPTS, None, ("x" * 32,), [b"x" * 32])),
        *(("checkpoint_key", bad) for bad in (b"x" * 32, "x", (LOG,))),
    ],
)
def test_what_is_no_key_is_refused_and_appears_in_no_error(
    tmp_path: Path, option: str, value: Any
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store.open(tmp_path / "journal", **{option: value})
    assert caught.value.field == option
    assert "x" * 32 not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ms", "events"), [(0, 1), (3_600_001, 1), (1, 0), (1, (1 << 31) + 1), (1.5, 1), (1, True)]
)
def test_an_interval_out_of_bounds_is_refused(ms: Any, events: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        Durability.EVERY(ms=ms, events=events)
    assert caught.value.field in ("ms", "events")
    assert Durability.EVERY(ms=3_600_000, events=1 << 31) == Every(3_600_000, 1 << 31)


def test_a_clock_that_is_none_is_refused(tmp_path: Path) -> None:
    for value in (5, "now", int):
        with pytest.raises(InvalidClock):
            Store.open(tmp_path / "journal", clock=value)
    assert not list(tmp_path.iterdir())


def test_unknown_options_and_modes_are_named(tmp_path: Path) -> None:
    for options, field in (
        ({"durable": True}, "durable"),
        ({"mode": "w"}, "mode"),
        ({"config": StoreConfig(), "codec": "plain"}, "codec"),
        ({"config": {"codec": "plain"}}, "config"),
    ):
        with pytest.raises(InvalidInput) as caught:
            Store.open(tmp_path / "journal", **options)  # type: ignore[call-overload]  # the refusal is the test
        assert caught.value.field == field
    assert not list(tmp_path.iterdir())


def test_an_option_that_was_decided_against_says_what_to_use_instead(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store.open(tmp_path / "journal", platform_profile="linux.profile")
    assert caught.value.field == "platform_profile"
    assert "diagnostics()" in caught.value.advice
    assert "batpak doctor" in caught.value.advice
    assert "platform_profile" not in {each.name for each in fields(StoreConfig)}


def test_a_whole_config_opens_like_its_options(tmp_path: Path) -> None:
    config = StoreConfig(codec="plain", segment_max_bytes=4096)
    for path in (tmp_path / "a", str(tmp_path / "b")):
        with Store.open(path, config=config) as store:
            store.append(ALICE, 1, kind=NOTE)
            assert store.at(1).envelope == b"\x01"


def test_the_origin_is_fixed_at_creation(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", origin="example.org/log") as store:
        assert store.origin == "example.org/log"
    for origin in (None, "example.org/log"):
        with Store.open(tmp_path / "journal", origin=origin) as store:
            assert store.origin == "example.org/log"
    with unchanged(tmp_path), pytest.raises(InvalidInput) as caught:
        Store.open(tmp_path / "journal", origin="example.org/other")
    assert (caught.value.field, caught.value.value) == ("origin", "example.org/other")
    assert "fork" in caught.value.advice


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u2028b", "a\x00b", "é" * 128])
def test_an_origin_that_no_checkpoint_can_carry_is_damage(tmp_path: Path, origin: str) -> None:
    path = tmp_path / "journal"
    Store.open(path).close()
    identity = json.loads((path / "journal.json").read_text())
    (path / "journal.json").write_text(json.dumps(identity | {"origin": origin}))
    assert not read_segment.read_journal(path).ok
    with unchanged(tmp_path):
        for error in open_both(path, Damaged):
            assert error.file == str(path / "journal.json")
            assert "origin" in error.what
            assert error.advice


@pytest.mark.parametrize("path", [None, b"journal", "", 5, ["journal"]])
def test_a_path_that_names_no_directory_is_refused(
    tmp_path: Path, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for error in open_both(path, InvalidInput):
        assert (error.field, error.value) == ("path", path)
        assert error.advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reading", [None, -1, 1.5, 1 << 62])
def test_a_clock_that_can_not_be_used_leaves_nothing_behind(tmp_path: Path, reading: Any) -> None:
    with pytest.raises(InvalidClock):
        Store.open(tmp_path / "new", clock=lambda: reading)
    assert not list(tmp_path.iterdir())
    fill(tmp_path / "journal")
    with unchanged(tmp_path), pytest.raises(InvalidClock):
        Store.open(tmp_path / "journal", clock=lambda: reading)


class Refuses(logging.Handler):
    """A handler that raises over records of one code."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "code", None) == self._code:
            raise RuntimeError("of a log handler")


@pytest.mark.parametrize("code", ["opened", "clock-behind"])
def test_an_open_that_a_log_handler_breaks_keeps_no_lock(tmp_path: Path, code: str) -> None:
    path = tmp_path / "journal"
    fill(path, clock=lambda: 4_000_000_000_000_000)
    log, handler = logging.getLogger("batpak.open"), Refuses(code)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(RuntimeError, match="of a log handler") as raised:
            Store.open(path)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    # Whoever keeps the error does not keep the lock with it.
    assert raised.value.__traceback__ is not None
    with Store.open(path) as store:
        assert store.verify("full").ok


def test_codecs_may_change_between_opens(tmp_path: Path) -> None:
    for codec in ("salted", "plain", "salted"):
        with Store.open(tmp_path / "journal", codec=codec) as store:
            store.append(ALICE, codec, kind=NOTE)
    with Store.open(tmp_path / "journal", mode="r") as reader:
        events = list(reader.query(Region(kind=NOTE)))
        assert [event.payload for event in events] == ["salted", "plain", "salted"]
        assert [event.row.codec for event in events] == [1, 0, 1]
        assert reader.verify().ok


def test_colliding_kinds_are_met_as_the_option_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with isolated_registry():
        set_collision_policy("defer")

        @payload(category=1, type_id=1)
        class One:
            x: int

        @payload(category=1, type_id=1)
        class Two:
            x: int

        with pytest.raises(KindCollision) as caught:
            Store.open(tmp_path / "journal")
        assert caught.value.kind == 0x1001
        assert caught.value.classes is not None
        assert len(caught.value.classes) == 2
        assert not list(tmp_path.iterdir())
        with caplog.at_level(logging.WARNING):
            Store.open(tmp_path / "journal", on_kind_collision="ignore").close()
            assert not caplog.records
            with Store.open(tmp_path / "journal", on_kind_collision="warn") as store:
                assert [record.name for record in caplog.records] == ["batpak.store"]
                store.append(ALICE, One(x=1))
                store.append(ALICE, Two(x=2))
                assert [e.value for e in store.query(Region(kind=EventKind(1, 1)))] == [
                    {"x": 1}, {"x": 2},
                ]  # fmt: skip
