"""`verify` has two forms of one rule, in columns and record by record: they must agree.

Whatever is done to a segment, by chance or by a forger who makes every checksum right
again, both must name the same things. The segment has each shape of record: single
events, batches, extensions, other codecs, erased payloads.
"""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, Durability, EventKind, Item, Store
from batpak.engine import verify as verify_room
from batpak.journal.record import MAX_NAME_BYTES, Record
from batpak_cli.demo.forger import ForgedEvent, ForgedJournal
from tests.support.faulty_files import DISK

NOTED = EventKind(0xF, 1)
HEADER, RECORD_HEADER, SALT = 128, 64, slice(64, 80)
FIELDS = struct.Struct("<4sIIIIIQQIIBBH8sIQ16s16s16sqQIIIIHHHHHBBIQ32s32s")
"""Of a record's header, then of its first row."""
Level = Literal["chain", "full"]
LEVELS: tuple[Level, Level] = ("chain", "full")


def place(i: int) -> Coordinate:
    return Coordinate(f"thing:{i % 5}", "shelf" if i % 3 else "box:1")


def opened(path: Path) -> Store:
    return Store.open(path, files=DISK, durability=Durability.OS, preallocate=0)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "journal"
    with opened(path) as store:
        for i in range(24):
            store.append_raw(place(i), NOTED, b"\xa1n" + bytes([i]) * (i % 7 == 0))
        store.append_many([Item(place(i), {"n": i}, kind=NOTED) for i in range(6)])
        for i in range(8):
            store.append(place(i), {"n": i}, kind=NOTED, extensions={f"note.n{i}": b"\x01"})
        gone = store.append(place(1), {"name": "Ada"}, kind=NOTED)
        store.erase([gone.sequence], reason="asked for")
        for i in range(12):
            store.append(place(i), {"n": i}, kind=NOTED)
    return path


@pytest.fixture(scope="module")
def copy(journal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms-copy") / "journal"
    shutil.copytree(journal, path)
    return path


def segment_of(path: Path) -> Path:
    (found,) = path.glob("segments/*.seg")
    return found


def records(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Where each record, its payload section and the next record begin, as far as they fit."""
    at = HEADER
    while at + RECORD_HEADER <= len(data):
        head_len, body_len = struct.unpack_from("<II", data, at + 8)
        body = at + RECORD_HEADER + head_len
        if not data[at] or body + body_len > len(data):
            return
        yield at, body, body + body_len
        at = body + body_len


def fields() -> Iterator[tuple[int, int]]:
    """Where each field begins and ends, from the record's beginning on."""
    at = 0
    for one in re.findall(r"\d*[a-zA-Z]", FIELDS.format):
        end = at + struct.calcsize("<" + one)
        yield at, end
        at = end


def resealed(data: bytearray) -> bytes:
    """The segment with every checksum made right, as a forger would."""
    salt, previous = zlib.crc32(data[SALT]), struct.unpack_from("<I", data, HEADER + 20)[0]
    for at, body, after in list(records(data)):
        struct.pack_into("<II", data, at + 16, zlib.crc32(data[body:after], salt), previous)
        placed = struct.pack("<Q", at) + data[at + 8 : at + 60]
        struct.pack_into("<I", data, at + 60, zlib.crc32(placed, salt))
        previous = zlib.crc32(data[at + 8 : body], salt)
        struct.pack_into("<I", data, at + 4, previous)
    return bytes(data)


def findings(path: Path, level: Level) -> list[tuple[Any, ...]]:
    with Store.open(path, mode="r") as store:
        report = store.verify(level)
    return [
        (report.events, report.records, report.root),
        *((f.code, f.offset, f.sequence, f.found) for f in report.findings),
    ]


def one_by_one(*_: object, **__: object) -> None:
    """In the place of the form in columns: accept nothing."""


def both(path: Path, level: Level) -> list[tuple[Any, ...]]:
    in_columns = findings(path, level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_room, "check_run", one_by_one)
        assert findings(path, level) == in_columns
    return in_columns


@pytest.mark.parametrize("level", LEVELS)
def test_they_agree_on_a_whole_journal(journal: Path, level: Level) -> None:
    (totals,) = both(journal, level)
    assert totals[0] >= 54


@given(data=st.data(), flip=st.integers(1, 255), seal=st.booleans())
def test_they_agree_on_a_changed_byte(
    journal: Path, copy: Path, data: st.DataObject, flip: int, seal: bool
) -> None:
    whole = bytearray(segment_of(journal).read_bytes())
    at, _, after = data.draw(st.sampled_from(list(records(whole))))
    # Each field of the format is as likely as all names and payloads together.
    places = [place for place in fields() if place[1] <= after - at]
    start, end = data.draw(st.sampled_from([*places, (0, after - at)]))
    whole[at + data.draw(st.integers(start, end - 1))] ^= flip
    segment_of(copy).write_bytes(resealed(whole) if seal else bytes(whole))
    both(copy, data.draw(st.sampled_from(LEVELS)))


def named(event: ForgedEvent, name: bytes, *, scope: bool = False) -> None:
    """Give an event's entity or scope the bytes of another name, of the same length."""
    at = event.row.entity_len if scope else 0
    event.metadata = event.metadata[:at] + name + event.metadata[at + len(name) :]


FORGERIES: dict[str, Callable[[ForgedEvent, ForgedEvent], None]] = {
    "hlc of the one before": lambda it, before: it.set(hlc=before.row.hlc),
    "hlc before the one before": lambda it, before: it.set(hlc=before.row.hlc - 1),
    "time before the one before": lambda it, before: it.set(
        timestamp_us=before.row.timestamp_us - 1
    ),
    "entity with a control character": lambda it, _: named(it, b"\x01"),
    "entity of no UTF-8": lambda it, _: named(it, b"\xff"),
    "scope with a control character": lambda it, _: named(it, b"\x7f", scope=True),
    "no entity": lambda it, _: it.set(entity_len=0, scope_len=it.row.scope_len + it.row.entity_len),
    "no scope": lambda it, _: it.set(scope_len=0, entity_len=it.row.scope_len + it.row.entity_len),
    "no id": lambda it, _: it.set(event_id=bytes(16)),
    "no correlation": lambda it, _: it.set(correlation_id=bytes(16)),
    "row of another version": lambda it, _: it.set(row_version=2),
    "reserved bytes": lambda it, _: it.set(reserved=1),
    "flags that nobody knows": lambda it, _: it.set(flags=0x4000),
    "number of another event": lambda it, _: it.set(sequence=it.row.sequence + 1),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forger_who_makes_every_hash_right_is_found_by_what_no_writer_writes(
    journal: Path, tmp_path: Path, forgery: str, level: Level
) -> None:
    # Alone, in a batch that begins with 25, with extensions.
    for sequence, first in ((5, 5), (27, 25), (34, 34)):
        path = tmp_path / str(sequence)
        shutil.copytree(journal, path)
        forged = ForgedJournal(path)
        FORGERIES[forgery](forged.at(sequence), forged.at(sequence - 1))
        forged.rehash()
        forged.write()
        _, *found = both(path, level)
        # What makes a row unreadable is said of its record.
        assert {sequence, first} & {each[2] for each in found}, found


@pytest.mark.parametrize("section", ["names", "payloads"])
def test_what_fills_a_section_up_is_zeros(journal: Path, copy: Path, section: str) -> None:
    """A forger changes the last byte of each record in turn: padding, or what is hashed."""
    whole = segment_of(journal).read_bytes()
    for at, body, after in records(whole):
        begin, end = (at + RECORD_HEADER, body) if section == "names" else (body, after)
        if begin == end:
            continue
        changed = bytearray(whole)
        changed[end - 1] ^= 0x40
        segment_of(copy).write_bytes(resealed(changed))
        assert both(copy, "full")[1:], f"the record at {at} is believed"


def test_a_long_journal_is_named_to_the_event(tmp_path: Path) -> None:
    """More than one step of the form in columns, odd records between ordinary ones."""
    path = tmp_path / "journal"
    with opened(path) as store:
        for i in range(4000):
            extensions = {"note.n": b"\x01"} if i % 900 == 0 else None
            store.append(place(i), {"n": i, "pad": "x" * 200}, kind=NOTED, extensions=extensions)
    (totals,) = both(path, "full")
    segment = segment_of(path)
    whole = bytearray(segment.read_bytes())
    third = list(records(whole))[3456]
    whole[third[2] - 24] ^= 1
    segment.write_bytes(whole)
    damaged = both(path, "full")
    assert damaged[0][:2] == totals[:2]
    (found,) = damaged[1:]
    assert found[0] == "content-hash"
    assert third[1] <= found[1] < third[2]


def looked_at(monkeypatch: pytest.MonkeyPatch, room: Any) -> list[int]:
    """Where the records with events stand that this room looks at by themselves, from now on."""
    seen = list[int]()
    read_record = room.read_record

    def looked(*args: Any) -> Any:
        record = read_record(*args)
        if isinstance(record, Record) and record.rows:
            seen.append(record.offset)
        return record

    monkeypatch.setattr(room, "read_record", looked)
    return seen


@pytest.mark.parametrize("level", LEVELS)
def test_of_an_ordinary_journal_no_record_is_looked_at_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    """The shortest and longest names, empty payloads, batches: all but a pad are ordinary."""
    path = tmp_path / "journal"
    names = ("a", "b" * MAX_NAME_BYTES)
    with opened(path) as store:
        for i in range(300):
            spot = Coordinate(names[i % 2], names[i // 2 % 2])
            store.append_raw(spot, NOTED, bytes(i))
            store.append_many([Item(spot, {"n": n}, kind=NOTED) for n in range(i % 3 + 1)])
    # As a writer leaves it that was killed: the last record ends where the file ends.
    with opened(path) as store:
        seen = looked_at(monkeypatch, verify_room)
        assert store.verify(level).ok
    assert seen == []
