"""Foreign ids in a real journal: found for ever, whatever becomes of `index/keys.tbl`.

The file is disposable. Lost, late, damaged or of another journal, it costs time and
never an answer.
"""

from __future__ import annotations

import dis
import errno
import logging
import os
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from batpak import Durability, EventId, EventKind, EventNotFound, Item, Store
from batpak.engine import keeping
from batpak.engine.keeping import load_keys, save_keys
from batpak.event import hlc_of_id, id_of_hlc
from batpak.files import REAL
from batpak.index.keytable import capacity_for, slots_of
from batpak.index.mapped import MappedPart
from batpak.index.parts import Index
from batpak.journal.keyfile import KEY_HEADER_SIZE, KeyHeader
from tests.support.effort import draws, sample
from tests.support.faulty_files import DISK, RecordingFiles
from tests.support.keyed import COORDINATE, answers, append_keyed, find, prepared
from tests.watched_files import WatchedFiles

MISSING = [n.to_bytes(16, "little") for n in range(1 << 20, (1 << 20) + 50)]


def keys_of(count: int, first: int = 1) -> list[bytes]:
    return [n.to_bytes(16, "big") for n in range(first, first + count)]


def filled(path: Path, batches: list[list[bytes]], **options: Any) -> dict[bytes, int]:
    """A closed journal with a commit, in a segment of its own, for each list; where each key is."""
    options = {"durability": Durability.OS, "segment_max_bytes": 4096, **options}
    where: dict[bytes, int] = {}
    with Store.open(path, **options) as store:
        for batch in batches:
            where.update(zip(batch, append_keyed(store, batch), strict=True))
        assert find(store, MISSING[0]) is None
    return where


def test_keyed_events_are_counted(tmp_path: Path) -> None:
    batches = [keys_of(30), keys_of(3, 100), keys_of(1, 200)]
    filled(tmp_path / "j", batches)
    with Store.open(tmp_path / "j", mode="r") as reader:
        assert reader.stats().keyed_events == 34
    with Store.open(tmp_path / "j") as store:
        store.append(COORDINATE, 1, kind=EventKind(0xE, 1))
        assert store.stats().keyed_events == 34
        append_keyed(store, keys_of(2, 300))
        assert store.stats().keyed_events == 36


def table_file(path: Path) -> Path:
    return path / "index" / "keys.tbl"


def check(path: Path, where: dict[bytes, int], **options: Any) -> None:
    """A writer and a reader answer for every key, and for none that is not there."""
    for mode in ("r", "rw"):
        with Store.open(path, mode=mode, **options) as store:
            assert answers(store, list(where)) == list(where.values())
            assert answers(store, MISSING) == [None] * len(MISSING)


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Path, dict[bytes, int]]:
    """Three segments with 1 200 keys, whose table is kept."""
    path = tmp_path / "journal"
    where = filled(path, [keys_of(400), keys_of(400, 401), keys_of(400, 801)])
    assert table_file(path).exists()
    return path, where


# --- what is found -------------------------------------------------------------


@pytest.mark.proves("INV-FOREIGN-ID-FOUND")
def test_keys_outlive_rotation_and_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    where: dict[bytes, int] = {}
    for round_ in range(4):
        with Store.open(path, durability=Durability.OS, segment_max_bytes=4096) as store:
            assert answers(store, list(where)) == list(where.values())
            for batch in range(5):
                keys = keys_of(90, 1 + 1000 * round_ + 100 * batch)
                where.update(zip(keys, append_keyed(store, keys), strict=True))
                # The newest, the one before the rotation, and an old one.
                for key in (keys[0], keys[-1], *random.Random(batch).sample(list(where), 5)):
                    assert find(store, key) == where[key]
            assert answers(store, MISSING) == [None] * len(MISSING)
    check(path, where)


@pytest.mark.proves("INV-FOREIGN-ID-FOUND")
def test_keys_outlive_a_writer_that_was_killed(tmp_path: Path) -> None:
    """What stands on the disk after each commit is a journal that finds them."""
    path = tmp_path / "journal"
    where: dict[bytes, int] = {}
    with Store.open(path, segment_max_bytes=4096) as store:
        for n in range(6):
            keys = keys_of(500, 1 + 1000 * n)
            where.update(zip(keys, append_keyed(store, keys), strict=True))
            assert find(store, keys[0]) == where[keys[0]]
            left = tmp_path / f"killed after {n}"
            shutil.copytree(path, left)
            check(left, where)
    assert table_file(tmp_path / "killed after 5").exists()


def test_a_key_is_there_below_the_bound_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    where = filled(path, [keys_of(30), keys_of(30, 31)])
    with Store.open(path) as store:
        where.update(zip(keys_of(30, 61), append_keyed(store, keys_of(30, 61)), strict=True))
        for key, sequence in where.items():
            assert find(store, key, sequence) is None
            assert find(store, key, sequence + 1) == sequence


def test_a_key_may_be_the_id_of_any_event(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal", durability=Durability.OS) as store:
        own, *_ = append_keyed(store, [None, None])
        event_id = store.at(own).event_id.bytes
        assert find(store, event_id) == own
        # It looks like one of ours, and is not that of the event whose HLC it carries.
        neighbour = id_of_hlc(hlc_of_id(event_id), 12345)
        elsewhere = id_of_hlc(1 << 40, 7)
        assert answers(store, [neighbour, elsewhere]) == [None, None]
        sequences = append_keyed(store, [neighbour, elsewhere])
        assert answers(store, [neighbour, elsewhere]) == sequences
        assert find(store, event_id) == own
        for sequence in sequences:
            assert store.get(store.at(sequence).event_id).sequence == sequence


def test_of_events_with_one_id_the_first_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    key = MISSING[0]
    options = {"durability": Durability.OS, "segment_max_bytes": 4096}
    with Store.open(path, **options) as store:
        sequences = [
            append_keyed(store, [key, *keys_of(40, 1 + 100 * n)], again=True)[0] for n in range(5)
        ]
        assert find(store, key) == sequences[0]
    with Store.open(path, **options) as store:
        assert find(store, key) == sequences[0]
        assert find(store, key, sequences[0]) is None


def test_a_miss_looks_into_one_part_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    looked: list[MappedPart] = []
    real = MappedPart.find_foreign

    def counted(part: MappedPart, event_id: bytes, rows: int) -> int | None:
        looked.append(part)
        return real(part, event_id, rows)

    filled(path, [keys_of(30, 1 + 100 * n) for n in range(40)])
    monkeypatch.setattr(MappedPart, "find_foreign", counted)
    with Store.open(path) as store:
        assert store.stats().segments == 41
        looked.clear()
        assert answers(store, MISSING) == [None] * len(MISSING)
    assert len(looked) <= 1


def test_readers_find_every_key_while_a_writer_adds_and_rotates(tmp_path: Path) -> None:
    known: list[tuple[bytes, int]] = []
    done = threading.Event()
    interval = sys.getswitchinterval()
    options: dict[str, Any] = {"durability": Durability.OS, "segment_max_bytes": 4096}
    with Store.open(tmp_path / "journal", files=DISK, **options) as store:

        def read(seed: int) -> int:
            rng, asked = random.Random(seed), 0
            while not done.is_set():
                for key, sequence in known and rng.sample(known, 1):
                    assert find(store, key) == sequence
                    assert find(store, key, sequence) is None
                    asked += 1
            return asked

        def write() -> None:
            try:
                for n in range(60):
                    keys = keys_of(25, 1 + 100 * n)
                    known.extend(zip(keys, append_keyed(store, keys), strict=True))
            finally:
                done.set()

        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(4) as pool:
                readers = [pool.submit(read, seed) for seed in range(3)]
                pool.submit(write).result()
                assert all(reader.result() > 0 for reader in readers)
        finally:
            sys.setswitchinterval(interval)
        assert store.stats().segments > 25


# --- what is kept --------------------------------------------------------------


def test_who_asks_for_no_key_pays_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path, [keys_of(1500)])
    files = WatchedFiles()
    with Store.open(path, files=files) as store:
        store.append_many([Item(COORDINATE, n, kind=EventKind(1, 7)) for n in range(1500)])
        assert store.at(1).event_id.bytes == keys_of(1)[0]
    assert not [name for _, name in files.calls if "keys.tbl" in name]


def test_the_kept_table_is_used(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    with Store.open(path, mode="r") as store:
        assert find(store, MISSING[0]) is None
        keys = store._reader.index.keys
        assert keys is not None
        assert (keys.table.count, store._reader.index.keys_saved) == (1200, 1200)
        header = KeyHeader.decode(table_file(path).read_bytes())
        assert header is not None
        assert keys.table.multiplier == header.multiplier
        assert answers(store, list(where)) == list(where.values())


def test_it_is_written_when_an_eighth_and_1024_are_new(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def count() -> int:
        header = KeyHeader.decode(table_file(path).read_bytes())
        assert header is not None
        return header.count

    where = filled(path, [keys_of(1023)])
    assert not table_file(path).exists()
    where |= filled(path, [keys_of(1, 2000)])
    assert count() == 1024
    where |= filled(path, [keys_of(1023, 3000)])
    assert count() == 1024
    where |= filled(path, [keys_of(9000, 10_000)])
    assert count() == 11_047
    where |= filled(path, [keys_of(1500, 20_000)])
    assert count() == 11_047, "1 500 of 12 547 are less than an eighth"
    where |= filled(path, [keys_of(300, 30_000)])
    assert count() == 12_847
    check(path, where)


def test_it_is_written_after_a_rotation_and_covers_what_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, durability=Durability.OS, segment_max_bytes=4096) as store:
        assert find(store, MISSING[0]) is None
        append_keyed(store, keys_of(1100))
        assert not table_file(path).exists()
        (sequence,) = append_keyed(store, keys_of(1, 5000))
        header = KeyHeader.decode(table_file(path).read_bytes())
        assert header is not None
        assert (header.bound, header.count) == (sequence, 1100)
        assert header.bound <= store.frontier().durable.sequence
        written = table_file(path).stat().st_ino
        for n in range(4):
            append_keyed(store, keys_of(30, 6000 + 100 * n))
        assert table_file(path).stat().st_ino == written, "too little is new"


def test_each_step_of_writing_it_is_durable_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    files = RecordingFiles()
    filled(path, [keys_of(1100)], files=files)
    steps = [
        (o.name, os.path.basename(o.path))
        for o in files.operations
        if "index" in o.path and o.name not in ("open", "close", "stat")
    ]
    at = steps.index(("mkdir", "index"))
    written = [step for step in steps[at:] if step[0] != "pwrite"]
    assert written == [
        ("mkdir", "index"),
        ("create", "keys.tbl.tmp"),
        ("sync_file", "keys.tbl.tmp"),
        ("rename", "keys.tbl.tmp"),
        ("sync_directory", "index"),
    ]
    after = files.operations[files.operations.index(files.of("mkdir", path="index")[0]) + 1]
    assert (after.name, after.path) == ("sync_directory", str(path))
    # The last write and sync of the log come before it.
    places = [n for n, o in enumerate(files.operations) if o.path.endswith("keys.tbl.tmp")]
    assert not [o for o in files.operations[places[0] :] if o.path.endswith(".seg") and o.data]
    assert files.open_files == {}


def test_a_reader_uses_it_and_never_writes_it(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    before = table_file(path).read_bytes()
    files = WatchedFiles()
    with Store.open(path, mode="r", files=files) as store:
        assert answers(store, list(where)) == list(where.values())
    assert files.count("open", "keys.tbl") == 1
    table_file(path).unlink()
    with Store.open(path, mode="r", files=files) as store:
        assert answers(store, list(where)) == list(where.values())
    assert files.opened_to_write == []
    assert not table_file(path).exists()
    table_file(path).write_bytes(before)


def test_a_follower_finds_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    where = filled(path, [keys_of(30)])
    with Store.open(path, segment_max_bytes=4096) as store, Store.open(path, mode="r") as reader:
        assert find(reader, MISSING[0]) is None
        for n in range(12):
            keys = keys_of(30, 100 * n + 100)
            found = append_keyed(store, keys)
            assert find(reader, keys[0]) is None
            reader.refresh()
            assert answers(reader, keys) == found
            where.update(zip(keys, found, strict=True))
        assert answers(reader, list(where)) == list(where.values())


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("mkdir", "index"),
        ("sync_directory", "index"),
        ("open-to-write", "keys.tbl.tmp"),
        ("pwrite", "keys.tbl.tmp"),
        ("sync_file", "keys.tbl.tmp"),
        ("rename", "keys.tbl"),
    ],
)
def test_a_table_that_can_not_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str, name: str
) -> None:
    path = tmp_path / "journal"
    files = WatchedFiles()
    files.refuse(operation, name, errno.ENOSPC)
    with caplog.at_level(logging.WARNING, "batpak.journal"):
        where = filled(path, [keys_of(1200), keys_of(10, 3000)], files=files)
    assert "the key table is not written" in caplog.text
    assert files.calls[operation, name] > 0
    check(path, where)
    assert table_file(path).exists()


def test_descriptors_are_given_back(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    files = RecordingFiles()
    with Store.open(path, files=files, segment_max_bytes=4096) as store:
        assert answers(store, list(where)) == list(where.values())
        assert not [p for p in files.open_files.values() if "keys.tbl" in p]
        append_keyed(store, keys_of(1200, 5000))
    assert files.open_files == {}
    assert store._reader.index.keys is None, "the table's memory goes with the store"


def test_an_unfinished_table_is_cleared_away(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    unfinished = table_file(path).with_name("keys.tbl.tmp")
    unfinished.write_bytes(b"half")
    check(path, where)
    assert not unfinished.exists()


def test_a_file_in_the_place_of_the_folder_is_in_nobodys_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    where = filled(path, [keys_of(10)])
    (path / "index").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        where |= filled(path, [keys_of(1200, 50)])
        check(path, where)
    assert (path / "index").read_bytes() == b""


# --- what becomes of the file --------------------------------------------------


class Kept:
    """A journal open for reading, whose kept table is loaded as it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: Any = Store.open(path, mode="r")
        self.data = table_file(path).read_bytes()
        header = KeyHeader.decode(self.data)
        assert header is not None
        self.header = header
        assert self.loads(self.data), "what is not changed is used, or the rest says nothing"

    def loads(self, data: bytes) -> bool:
        table_file(self.path).write_bytes(data)
        return self.is_used()

    def is_used(self) -> bool:
        store = self.store
        identity, index = store._identity, store._reader.index
        return load_keys(REAL, store._layout, identity, index) is not None

    def with_header(self, **changes: Any) -> bytes:
        """The file with a right checksum over another header."""
        return replace(self.header, **changes).encode() + self.data[KEY_HEADER_SIZE:]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """A table so small that each of its bytes can be damaged."""
    monkeypatch.setattr(keeping, "MIN_UNCOVERED", 20)
    filled(tmp_path / "small", [keys_of(12), keys_of(12, 13)])
    one = Kept(tmp_path / "small")
    yield one
    one.store.close()


def test_a_table_with_a_wrong_byte_is_not_used(kept: Kept) -> None:
    with table_file(kept.path).open("r+b", buffering=0) as file:
        for at, byte in enumerate(kept.data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            assert not kept.is_used(), f"byte {at}"
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert kept.is_used(), "every byte was put back"


def test_a_table_of_another_length_is_not_used(kept: Kept) -> None:
    size = len(kept.data)
    for length in range(size):
        assert not kept.loads(kept.data[:length]), f"{length} of {size} bytes"
    assert not kept.loads(kept.data + b"\0")
    assert not kept.loads(kept.data + bytes(8 * 1024))


def test_a_table_that_says_something_else_is_not_used(kept: Kept) -> None:
    header = kept.header
    changed: dict[str, list[Any]] = {
        "journal_id": [bytes(16)],
        "bound": [0, header.bound - 1, header.bound + 1, 1 << 40, (1 << 64) - 1],
        "count": [0, header.count - 1, header.count + 1, (1 << 64) - 1],
        "capacity": [0, 7, 8, 2 * header.capacity, 1 << 40, (1 << 64) - 1],
        "multiplier": [header.multiplier + 1],
        "event_hash": [bytes(32)],
        "digest": [bytes(16)],
    }
    for name, values in changed.items():
        for value in values:
            assert not kept.loads(kept.with_header(**{name: value})), f"{name} {value}"
    assert kept.loads(kept.with_header()), "an unchanged header is used"


def test_a_length_that_is_not_there_is_refused_before_memory_is_set_aside(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with holes may be of any length at no cost."""
    capacity = capacity_for(1 << 33)
    slots = slots_of(capacity)
    assert slots is not None
    huge = kept.with_header(capacity=capacity, count=1 << 33)
    table_file(kept.path).write_bytes(huge[:KEY_HEADER_SIZE])
    os.truncate(table_file(kept.path), KEY_HEADER_SIZE + 8 * slots)
    read: list[int] = []
    files = WatchedFiles()
    monkeypatch.setattr(
        files, "pread", lambda fd, length, at: read.append(length) or os.pread(fd, length, at)
    )
    store = kept.store
    assert load_keys(files, store._layout, store._identity, store._reader.index) is None
    assert read == [KEY_HEADER_SIZE]


def test_a_table_too_large_for_its_ids_is_not_used(kept: Kept) -> None:
    """Else a file of holes, with every checksum right, would cost its length in memory."""
    capacity = 2 * kept.header.capacity
    slots = bytes(8 * (slots_of(capacity) or 0))
    digest = blake3(slots).digest()[:16]
    assert not kept.loads(replace(kept.header, capacity=capacity, digest=digest).encode() + slots)


def test_a_table_without_an_end_is_not_used(kept: Kept) -> None:
    """Whoever makes the checksums right can't make a search run beyond the table."""
    slots = bytearray(kept.data[KEY_HEADER_SIZE:])
    slots[-8:] = b"\xff" * 8
    digest = blake3(slots).digest()[:16]
    assert not kept.loads(replace(kept.header, digest=digest).encode() + slots)


def test_slots_that_name_no_event_are_never_answers(
    journal: tuple[Path, dict[bytes, int]],
) -> None:
    """A forger who makes every checksum right: what he puts in is compared with the rows."""
    path, where = journal
    data = table_file(path).read_bytes()
    header = KeyHeader.decode(data)
    assert header is not None
    rng = draws("forged slots")
    slots = bytearray(data[KEY_HEADER_SIZE:])
    for at in range(0, len(slots) - 8, 8):
        # The tag stays, so that it is a candidate; in place of none any tag will do.
        tag = int.from_bytes(slots[at : at + 8], "little") >> 40 or rng.getrandbits(24)
        number = rng.choice([0, 1, rng.randrange(1200), (1 << 40) - 1, rng.getrandbits(40)])
        slots[at : at + 8] = (tag << 40 | number).to_bytes(8, "little")
    digest = blake3(slots).digest()[:16]
    table_file(path).write_bytes(replace(header, digest=digest).encode() + slots)
    with Store.open(path, mode="r") as store:
        for key in [*list(where)[::20], *MISSING[:10]]:
            assert find(store, key) in (None, where.get(key))
            try:
                assert store.get(EventId.from_bytes(key)).event_id.bytes == key
            except EventNotFound:
                pass
        keys = store._reader.index.keys
        assert keys is not None
        assert bytes(keys.table.data[:-8]) == bytes(slots[:-8]), "it was used"


@pytest.mark.proves("INV-FOREIGN-ID-FOUND")
def test_a_damaged_table_costs_no_answer(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    data = table_file(path).read_bytes()
    for at in sample("bytes of keys.tbl", range(len(data)), 12):
        table_file(path).write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        check(path, where)
    for replacement in (b"", b"\0" * len(data), data[:-9], data[: len(data) // 2]):
        table_file(path).write_bytes(replacement)
        check(path, where)
    header = KeyHeader.decode(table_file(path).read_bytes())
    assert header is not None, "it was written anew"


@pytest.mark.proves("INV-FOREIGN-ID-FOUND")
def test_a_lost_table_costs_no_answer(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    shutil.rmtree(path / "index")
    check(path, where)
    for sidecar in (path / "segments").glob("*.idx"):
        sidecar.unlink()
    shutil.rmtree(path / "index", ignore_errors=True)
    check(path, where)


def test_a_late_table_is_used_and_caught_up(journal: tuple[Path, dict[bytes, int]]) -> None:
    path, where = journal
    late = table_file(path).read_bytes()
    where |= filled(path, [keys_of(700, 3000), keys_of(700, 4000)])
    assert table_file(path).read_bytes() != late
    table_file(path).write_bytes(late)
    with Store.open(path, mode="r") as store:
        assert answers(store, list(where)) == list(where.values())
        assert store._reader.index.keys_saved == 1200
    check(path, where)


def test_a_table_whose_bound_is_inside_a_segment_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    where = filled(path, [keys_of(1000), keys_of(108, 2000)])
    with Store.open(path, segment_max_bytes=4096) as store:
        index = store._reader.index
        assert find(store, MISSING[0]) is None

        assert index.keys_saved == 1108
        for n in range(6):
            keys = keys_of(5, 3000 + 10 * n)
            where.update(zip(keys, append_keyed(store, keys), strict=True))
        assert index.keys is not None
        table, covered = index.keys
        # What stood below the bound already is neither added nor counted again.
        header = KeyHeader.decode(table_file(path).read_bytes())
        assert header is not None
        assert [slot for slot in index.slots if slot.first < header.bound < slot.part.end]
        assert covered > header.bound
        assert table.count == index.count_foreign(covered) > 1108
        assert answers(store, list(where)) == list(where.values())
    check(path, where)


def test_a_table_of_another_history_is_not_used(journal: tuple[Path, dict[bytes, int]]) -> None:
    """The same journal, copied, and gone on with differently: as many events, other keys."""
    path, where = journal
    other = path.with_name("other")
    shutil.copytree(path, other)
    ours = {**where, **filled(path, [keys_of(1200, 5000)])}
    theirs = {**where, **filled(other, [keys_of(1200, 7000)])}
    shutil.copyfile(table_file(other), table_file(path))
    check(path, ours)
    table_file(path).unlink()
    shutil.copytree(path / "segments", other / "segments", dirs_exist_ok=True)
    assert set(theirs) != set(ours)


def test_a_table_of_another_journal_is_not_used(
    journal: tuple[Path, dict[bytes, int]], tmp_path: Path
) -> None:
    path, where = journal
    other = tmp_path / "other"
    filled(other, [keys_of(400, 5000), keys_of(400, 6000), keys_of(400, 7000)])
    shutil.copyfile(table_file(other), table_file(path))
    check(path, where)


def test_a_table_from_a_future_that_was_lost_is_not_used(tmp_path: Path) -> None:
    """Its file survives a copy put back: other events have those sequences now."""
    path = tmp_path / "journal"
    where = filled(path, [keys_of(20)])
    earlier = tmp_path / "earlier"
    shutil.copytree(path, earlier)
    filled(path, [keys_of(1200, 1000)])
    future = table_file(path).read_bytes()
    (earlier / "index").mkdir()
    table_file(earlier).write_bytes(future)
    check(earlier, where)
    table_file(earlier).write_bytes(future)
    where |= filled(earlier, [keys_of(1300, 5000)])
    table_file(earlier).write_bytes(future)
    check(earlier, where)
    with Store.open(earlier, mode="r") as store:
        assert answers(store, keys_of(5, 1000)) == [None] * 5


def test_a_table_is_not_saved_twice_for_the_same_keys(
    journal: tuple[Path, dict[bytes, int]],
) -> None:
    path, _ = journal
    files = WatchedFiles()
    with Store.open(path, files=files) as store:
        assert find(store, MISSING[0]) is None
        save_keys(files, store._layout, store._identity, store._reader.index)
    assert "keys.tbl.tmp" not in files.opened_to_write


def test_the_helper_writes_what_a_reader_calls_keyed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        (sequence,) = append_keyed(store, [MISSING[0]])
        event = store.at(sequence)
        assert event.event_id.bytes == MISSING[0] == prepared(MISSING[0]).key
        assert event.coordinate == COORDINATE
        assert store.verify().ok


def test_ctrl_c_on_the_way_into_filling_the_table_leaves_it_to_others(tmp_path: Path) -> None:
    """It comes on the return from taking the lock: nobody, a close least of all, waits for ever."""
    code = Index._caught_up.__code__
    steps = list(dis.get_instructions(code))
    loaded = next(i for i, one in enumerate(steps) if one.argval == "acquire")
    called = next(i for i in range(loaded, len(steps)) if steps[i].opname.startswith("CALL"))
    arrives = steps[called + 1].offset

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti == arrives:
            raise KeyboardInterrupt
        return trace

    store = Store.open(tmp_path / "journal", files=DISK)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            append_keyed(store, [b"k" * 16])
    finally:
        sys.settrace(before)
    append_keyed(store, [b"l" * 16])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.close).result(30)


def test_a_log_handler_may_append_under_a_key_while_the_table_is_loaded(tmp_path: Path) -> None:
    """The record comes while the table is made: its handler must not wait for that."""
    path = tmp_path / "journal"
    with Store.open(path, files=DISK) as store:
        store.append(COORDINATE, 1, kind=EventKind(1, 7), key=b"k" * 16)
    (path / "index").mkdir(exist_ok=True)
    (path / "index" / "keys.tbl").write_bytes(b"no table")
    told: list[int] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "code", "") == "key-table-not-used" and len(told) < 5:
                told.append(record.lineno)
                store.append(COORDINATE, 2, kind=EventKind(1, 7), key=b"l" * 16)

    logger, handler = logging.getLogger("batpak"), Keeping()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with Store.open(path, files=DISK) as store:
            with ThreadPoolExecutor(1) as pool:
                append = partial(store.append, COORDINATE, 3, kind=EventKind(1, 7), key=b"m" * 16)
                assert pool.submit(append).result(30).sequence
            assert [event.value for event in store.entity(COORDINATE.entity)] == [1, 2, 3]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(told) == 1
