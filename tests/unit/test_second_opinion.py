"""Two readers that share no code agree on every journal that the store writes.

The other one is tools/read_segment.py, written from docs/format.md and importing nothing
of batpak. Where both accept a journal they agree on every field and hash; where bytes
were changed both say so.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from blake3 import blake3

from batpak import Coordinate, Durability, EventKind, Store
from batpak.errors import BatpakError
from batpak.items import Item, Prior
from tools import read_segment

NOTE = EventKind(0xF, 1)
OTHER = EventKind(0xE, 2)
ROOM = Coordinate("room:1", "house")
Build = Callable[[Path], None]


# --- journals as the store writes them -------------------------------------------------------


def single_events(path: Path) -> None:
    with Store.open(path) as store:
        before = None
        for number in range(5):
            receipt = store.append(
                ROOM, {"n": number}, kind=NOTE, causation=before, lane=number, depth=7
            )
            before = receipt.event_id


def batches(path: Path) -> None:
    with Store.open(path) as store:
        items = [
            Item(Coordinate(f"room:{number % 3}", f"floor {number % 2}"), [number], kind=NOTE,
                 flags=number, causation=Prior(0) if number else None,
                 extensions={"acme.trace": bytes(number), "acme.a": b"x"} if number % 2 else None)
            for number in range(7)
        ]  # fmt: skip
        for _ in range(3):
            store.append_many(items)
        store.append_imported("a source", {"line": 12}, items[:2])


def rotated(path: Path) -> None:
    with Store.open(path, segment_max_bytes=4096, durability=Durability.OS) as store:
        for number in range(60):
            store.append(Coordinate(f"room:{number % 5}", "house"), {"n": number}, kind=NOTE)


def reopened(path: Path) -> None:
    for _ in range(4):
        single_events(path)


def every_interval(path: Path) -> None:
    with Store.open(path, durability=Durability.EVERY(ms=1000, events=3)) as store:
        for number in range(10):
            store.append(ROOM, number, kind=NOTE, durable=number == 4)


def raw_payloads(path: Path) -> None:
    with Store.open(path, durability=Durability.OS) as store:
        for data in (b"", b"\xc1", bytes(100_000), b"BPC1" * 40):
            store.append_raw(ROOM, OTHER, data)
        store.append_many([Item.raw(ROOM, OTHER, b""), Item.raw(ROOM, NOTE, b"BPC1")])


def plain_codec(path: Path) -> None:
    with Store.open(path, codec="plain", preallocate=0) as store:
        for data in (b"", b"1234567", b"12345678"):
            store.append_raw(ROOM, OTHER, data)
        store.append(ROOM, {"text": "Grüße"}, kind=NOTE)


def sidecar_at_close(path: Path) -> None:
    with Store.open(path, durability=Durability.OS) as store:
        for number in range(1030):
            store.append(Coordinate(f"room:{number % 7}", "house"), number, kind=NOTE)
    with Store.open(path) as store:
        store.append(ROOM, "beyond the sidecar", kind=NOTE)


def left_open(path: Path) -> None:
    """As a kill leaves it: no close event, no pad, reserved zeros after the log's end."""
    working = path.with_name("working")
    with Store.open(working) as store:
        store.append_many([Item(ROOM, number, kind=NOTE) for number in range(3)])
        store.append(ROOM, "acknowledged", kind=NOTE)
        shutil.copytree(working, path)


JOURNALS = (
    single_events, batches, rotated, reopened, every_interval, raw_payloads, plain_codec,
    sidecar_at_close, left_open,
)  # fmt: skip


def read(path: Path) -> tuple[read_segment.Report, list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    return read_segment.read_journal(path, lines.append), lines


def seen_by_store(path: Path) -> list[dict[str, Any]]:
    """The same lines as the other reader's, as far as the public calls give them."""
    with Store.open(path, mode="r") as store:
        report = store.verify("full")
        assert report.ok, report.findings
        return [
            {
                "sequence": event.sequence,
                "event_id": str(UUID(bytes=event.event_id.bytes)),
                "correlation_id": str(UUID(bytes=event.correlation_id.bytes)),
                "causation_id": cause and str(UUID(bytes=cause.bytes)),
                "timestamp_us": event.row.timestamp_us,
                "hlc": event.row.hlc,
                "clock": event.clock,
                "lane": event.position.lane,
                "depth": event.position.depth,
                "kind": event.kind.raw,
                "payload_version": event.payload_version,
                "flags": event.row.flags,
                "codec": event.row.codec,
                "entity": event.coordinate.entity,
                "scope": event.coordinate.scope,
                "envelope": event.payload_state.value,
                "envelope_len": event.row.envelope_len,
                "payload": event.raw.hex(),
                "content_hash": event.commitment.hex(),
                "prev_hash": event.prev_hash.hex(),
                "event_hash": event.event_hash.hex(),
                "extensions": {key: value.hex() for key, value in event.extensions.items()},
            }
            for event in store
            for cause in (event.causation_id,)
        ]


@pytest.mark.parametrize("build", JOURNALS, ids=lambda build: build.__name__)
def test_both_readers_agree_on_every_field_and_hash(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    build(path)
    report, lines = read(path)
    assert report.findings == []
    assert report.notes == []
    mine = seen_by_store(path)
    assert len(mine) == report.events == len(lines) > 3
    assert [{key: line[key] for key in mine[0]} for line in lines] == mine
    assert report.next_sequence == report.durable == len(mine)
    assert report.last_event_hash == mine[-1]["event_hash"]


def test_every_sidecar_is_what_the_other_reader_computes(tmp_path: Path) -> None:
    rotated(tmp_path / "rotated")
    sidecar_at_close(tmp_path / "closed")
    report, _ = read(tmp_path / "rotated")
    assert report.ok
    assert report.sidecars == report.segments - 1 > 3
    report, _ = read(tmp_path / "closed")
    assert report.ok
    assert report.sidecars == 1


def test_the_program_prints_events_and_its_exit_status_tells(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    batches(path)
    run = [sys.executable, "-I", read_segment.__file__, str(path)]
    told = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert "findings      0" in told.stdout
    shown = subprocess.run([*run, "--events"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert [json.loads(line) for line in shown.stdout.splitlines()] == read(path)[1]
    flip(path / "segments" / f"{0:020}.seg", 300)
    damaged = subprocess.run(run, capture_output=True, text=True, check=False)
    assert damaged.returncode == 1
    assert f"finding       segments/{0:020}.seg offset 128 sequence 0: " in damaged.stdout
    missing = subprocess.run([*run[:-1], str(tmp_path)], capture_output=True, check=False)
    assert missing.returncode == 2


def test_the_other_reader_imports_nothing_of_ours() -> None:
    program = "import sys; import tools.read_segment; print(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        cwd=Path(read_segment.__file__).parent.parent,
    )  # fmt: skip
    names = {name.partition(".")[0] for name in run.stdout.split()}
    assert "blake3" in names
    assert names - {"tools", "blake3", "__main__", "__mp_main__"} <= {
        *sys.stdlib_module_names,
        "sitecustomize",
        *(name for name in names if name.startswith("_")),
    }


# --- damage: bytes change, checksums do not ---------------------------------------------------


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def first_of_store(path: Path) -> tuple[int | None, int | None] | None:
    """Offset and sequence of the first thing that the store finds wrong; None for nothing."""
    try:
        with Store.open(path, mode="r") as store:
            findings = [*store.open_report.findings, *store.verify("full").findings]
    except BatpakError as error:
        return error.facts.get("offset"), error.facts.get("sequence")
    return (findings[0].offset, findings[0].sequence) if findings else None


def small_journal(path: Path) -> Path:
    with Store.open(path, preallocate=0) as store:
        store.append(ROOM, "one", kind=NOTE, extensions={"acme.k": b"v", "acme.l": b"v"})
        store.append_many([Item(ROOM, "two", kind=NOTE), Item(ROOM, "three", kind=NOTE)])
    return path / "segments" / f"{0:020}.seg"


def test_both_readers_find_any_byte_of_a_segment_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    segment = small_journal(path)
    good = segment.read_bytes()
    pad = len(good) - 64
    # Coprime to every width in the format, so that all fields have their turn.
    for at in range(0, pad, 11):
        flip(segment, at)
        report, _ = read(path)
        assert not report.ok, at
        found = first_of_store(path)
        assert found is not None, at
        if at >= 128:
            assert found[1] in {finding.sequence for finding in report.findings}, at
        segment.write_bytes(good)
    assert read(path)[0].ok
    assert first_of_store(path) is None
    # The pad after the close event holds nothing: without it the log just ends before it.
    flip(segment, pad + 30)
    report, _ = read(path)
    assert report.ok
    assert [(note.offset, note.sequence) for note in report.notes] == [(pad, 5)]
    with Store.open(path) as store:
        cut = store.open_report.cut
    assert cut is not None
    assert (cut.offset, cut.sequence) == (pad, 5)


def test_both_readers_find_any_cut_of_a_closed_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    segment = small_journal(path)
    good = segment.read_bytes()
    for length in range(0, len(good) - 64, 37):
        segment.write_bytes(good[:length])
        assert not read(path)[0].ok, length
        assert first_of_store(path) is not None, length


@pytest.mark.parametrize("name", [f"{0:020}.seg", "the newest", "one between"])
def test_both_readers_miss_a_segment_that_is_gone(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rotated(path)
    segments = sorted((path / "segments").glob("*.seg"))
    places = {"the newest": -1, "one between": 2}
    segments[places.get(name, 0)].unlink()
    assert not read(path)[0].ok
    assert first_of_store(path) is not None


def test_an_orphaned_sidecar_proves_that_events_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rotated(path)
    (path / "tail.hint").unlink()
    segments = sorted((path / "segments").glob("*.seg"))
    for segment in segments[-2:]:
        segment.unlink()
    report, _ = read(path)
    assert not report.ok
    assert report.next_sequence < report.durable
    with pytest.raises(BatpakError):
        Store.open(path)


def test_a_byte_of_a_hint_or_sidecar_is_noted_and_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rotated(path)
    sidecar = sorted((path / "segments").glob("*.idx"))[0]
    for file, at in ((path / "tail.hint", 50), (sidecar, 60), (sidecar, 800)):
        good = file.read_bytes()
        flip(file, at)
        report, _ = read(path)
        assert report.ok
        assert [note.file for note in report.notes] == [str(file.relative_to(path))]
        assert first_of_store(path) is None
        file.write_bytes(good)


def test_a_sidecar_with_right_checksums_and_wrong_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rotated(path)
    file = sorted((path / "segments").glob("*.idx"))[0]
    data = bytearray(file.read_bytes())
    entry = 128 + 32 * 6
    at, length, _ = struct.unpack_from("<QQ16s", data, entry)
    data[at] ^= 1
    data[entry + 16 : entry + 32] = blake3(data[at : at + length]).digest(16)
    data[124:128] = struct.pack("<I", zlib.crc32(data[:124] + data[128:768]))
    file.write_bytes(data)
    (finding,) = read(path)[0].findings
    assert finding.file == f"segments/{file.name}"
    assert finding.offset == at
    assert "array 6 (kind)" in finding.reason


def test_a_torn_tail_is_no_finding_and_both_end_it_at_the_same_place(tmp_path: Path) -> None:
    path, torn = tmp_path / "journal", tmp_path / "torn"
    with Store.open(path, durability=Durability.OS, preallocate=0) as store:
        for number in range(4):
            store.append(ROOM, number, kind=NOTE)
        shutil.copytree(path, torn)
    segment = torn / "segments" / f"{0:020}.seg"
    good = segment.read_bytes()
    for missing in (1, 9, 150, 250):
        segment.write_bytes(good[:-missing])
        report, lines = read(torn)
        assert report.ok
        assert report.events == len(lines) == 4
        (note,) = report.notes
        shutil.copytree(torn, tmp_path / f"{missing}")
        with Store.open(tmp_path / f"{missing}") as store:
            cut = store.open_report.cut
        assert cut is not None
        assert (cut.offset, cut.sequence) == (note.offset, note.sequence)
        again, _ = read(tmp_path / f"{missing}")
        assert again.ok
        assert [note.file.partition("/")[0] for note in again.notes] == ["quarantine"]


# --- forgery: every checksum is right, what they guard is not ---------------------------------


Change = Callable[[bytearray, list[int]], None]


def nothing(data: bytearray, rows: list[int]) -> None:
    del data, rows


def reseal(segment: Path, change: Change, header: tuple[int, int, bytes] | None = None) -> None:
    """Change a segment and make all of its checksums right again.

    `change` gets the bytes and the offsets of the rows; it keeps all lengths. `header` puts
    bytes into a record's header before that is sealed: number of the record, offset, bytes.
    """
    data = bytearray(segment.read_bytes())
    records: list[int] = []
    rows: list[int] = []
    at = 128
    while at < len(data) and data.startswith(b"BPC1", at):
        head_len, body_len = struct.unpack_from("<II", data, at + 8)
        count = struct.unpack_from("<I", data, at + 44)[0]
        records.append(at)
        rows += [at + 64 + 176 * number for number in range(count)]
        at += 64 + head_len + body_len
    change(data, rows)
    struct.pack_into("<I", data, 124, zlib.crc32(data[:124]))
    salt = zlib.crc32(data[64:80])
    before = struct.unpack_from("<I", data, 124)[0]
    for number, at in enumerate(records):
        head_len, body_len = struct.unpack_from("<II", data, at + 8)
        body = at + 64 + head_len
        struct.pack_into(
            "<II", data, at + 16, zlib.crc32(data[body : body + body_len], salt), before
        )
        if header is not None and header[0] == number:
            offset, value = at + header[1], header[2]
            data[offset : offset + len(value)] = value
        place = struct.pack("<Q", at)
        struct.pack_into("<I", data, at + 60, zlib.crc32(place + data[at + 8 : at + 60], salt))
        before = zlib.crc32(data[at + 8 : body], salt)
        struct.pack_into("<I", data, at + 4, before)
    segment.write_bytes(data)


def put(row: int, offset: int, value: bytes) -> Change:
    def change(data: bytearray, rows: list[int]) -> None:
        data[rows[row] + offset : rows[row] + offset + len(value)] = value

    return change


def swap_names(data: bytearray, rows: list[int]) -> None:
    at = data.index(b"room:1", rows[1])
    data[at : at + 6] = b"ro/m:1"


def change_payload(data: bytearray, rows: list[int]) -> None:
    del rows
    at = data.index(b"three")
    data[at : at + 5] = b"THREE"


def spell_extension(data: bytearray, rows: list[int]) -> None:
    at = data.index(b"acme.k", rows[1])
    data[at : at + 6] = b"acmeXk"


def swap_extensions(data: bytearray, rows: list[int]) -> None:
    at = data.index(b"acme.k", rows[1])
    data[at + 5] = ord("l")
    data[data.index(b"acme.l", at + 6) + 5] = ord("k")


def repeat_id(data: bytearray, rows: list[int]) -> None:
    data[rows[2] + 8 : rows[2] + 24] = data[rows[1] + 8 : rows[1] + 24]


NEWEST = -2  # the row before the close event: nothing links to it
FORGERIES = {
    "payload": (change_payload, 3, "content_hash", True),
    "event_id zero": (put(NEWEST, 8, bytes(16)), 3, "event_id is zero", True),
    "event_id again": (repeat_id, 2, "was used before", False),
    "correlation_id zero": (put(NEWEST, 24, bytes(16)), 3, "correlation_id", True),
    "timestamp negative": (put(NEWEST, 56, b"\xff" * 8), 3, "is negative", False),
    "timestamp goes back": (put(NEWEST, 56, bytes(8)), 3, "below that of an earlier", False),
    "hlc": (put(NEWEST, 64, bytes(8)), 3, "hlc 0 is not above", True),
    "clock": (put(NEWEST, 72, b"\x07"), 3, "clock is 7 where 2", True),
    "reserved flag": (put(NEWEST, 93, b"\x02"), 3, "reserved flags", True),
    "envelope too short": (put(NEWEST, 99, b"\x02"), 3, "too short for its codec", True),
    "content_hash": (put(NEWEST, 112, bytes(32)), 3, "content_hash", True),
    "prev_hash": (put(NEWEST, 144, bytes(32)), 3, "prev_hash", True),
    "an older row": (put(1, 76, b"\x09"), 2, "prev_hash", True),
    "name": (swap_names, 1, "holds what a name may not hold", True),
    "extension": (spell_extension, 1, "is not ASCII of the form", True),
    "order of extensions": (swap_extensions, 1, "is out of order", True),
}
HEADERS = {
    "body_crc": (16, bytes(4), "body_crc is wrong"),
    "prev_crc": (20, bytes(4), "prev_crc is not"),
    "base_sequence": (24, b"\x03", "base_sequence 3 where 2 is expected"),
    "durable": (32, b"\x03", "durable 3 is above base_sequence 2"),
    "epoch": (40, b"\x00", "epoch 0 after epoch 1"),
    "count": (44, b"\x01", "head_len is not what the rows add up to"),
    "type": (48, b"\x03", "record type 3"),
    "version": (49, b"\x02", "record version 2"),
    "flags": (50, b"\x04", "record flags 0x0004"),
    "zero": (55, b"\x01", "reserved bytes of the record header"),
}
ROWS = {
    "sequence": (0, b"\x07", "has sequence 7, not 2"),
    "extensions_len": (84, b"\xff", "lengths go beyond the head"),
    "entity_len": (94, bytes(2), "names of 0 and 5 bytes"),
    "row_version": (98, b"\x02", "row version 2"),
    "envelope_len": (101, b"\x01", "body_len is not what the rows add up to"),
    "zero": (110, b"\x01", "reserved bytes of a row"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forger_who_repairs_all_checksums_is_caught(name: str, tmp_path: Path) -> None:
    change, sequence, reason, by_store = FORGERIES[name]
    path = tmp_path / "journal"
    segment = small_journal(path)
    reseal(segment, nothing)
    assert read(path)[0].ok, "resealing alone changes nothing"
    reseal(segment, change)
    findings = read(path)[0].findings
    assert any(reason in found.reason and found.sequence == sequence for found in findings), (
        findings
    )
    if by_store:
        assert first_of_store(path) is not None


@pytest.mark.parametrize("name", HEADERS)
def test_a_record_header_that_breaks_a_rule_is_named(name: str, tmp_path: Path) -> None:
    offset, value, reason = HEADERS[name]
    path = tmp_path / "journal"
    segment = small_journal(path)
    reseal(segment, nothing, (2, offset, value))
    findings = read(path)[0].findings
    assert any(reason in found.reason and found.sequence == 2 for found in findings), findings
    assert first_of_store(path) is not None


def test_a_pad_at_the_durable_bound_proves_itself_or_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    segment = small_journal(path)
    reseal(segment, nothing, (4, 16, bytes(4)))
    report, _ = read(path)
    assert report.ok
    (note,) = report.notes
    assert "body_crc is wrong" in note.reason
    with Store.open(path) as store:
        cut = store.open_report.cut
    assert cut is not None
    assert (cut.offset, cut.sequence) == (note.offset, note.sequence)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_breaks_a_rule_ends_the_log(name: str, tmp_path: Path) -> None:
    offset, value, reason = ROWS[name]
    path = tmp_path / "journal"
    segment = small_journal(path)
    reseal(segment, put(2, offset, value))
    (finding,) = read(path)[0].findings
    assert reason in finding.reason
    assert "sequences 2 to 4 were durable" in finding.reason
    assert first_of_store(path) == (finding.offset, 2)


def test_a_system_payload_that_lies_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    segment = small_journal(path)

    def claim(data: bytearray, rows: list[int]) -> None:
        at = data.index(b"\xa6events", rows[-1])
        data[at + 7] += 1
        envelope = data.index(b"\x82\xa5epoch", rows[-1])
        length = struct.unpack_from("<I", data, rows[-1] + 100)[0]
        content = b"batpak/content/v1\0\0" + data[envelope : envelope + length]
        data[rows[-1] + 112 : rows[-1] + 144] = blake3(content).digest()

    reseal(segment, claim)
    (finding,) = read(path)[0].findings
    assert finding.sequence == 4
    assert "events is 5 where 4 were written" in finding.reason
