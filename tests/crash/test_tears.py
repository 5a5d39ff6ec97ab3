"""What stands behind the log is set aside once, byte for byte, and zeros are not mentioned.

A tear is what a power cut or a kill leaves of a write. The journal keeps all before it,
moves the rest to quarantine/, and says so in its open report.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from batpak import Store
from tests.support.checker import Ledger
from tests.support.damage import STATES, Tree, observe, truth_of
from tests.support.effort import draws
from tests.support.faulty_files import DISK
from tests.support.regions import StoredRecord, records

Tail = Callable[[bytes, list[StoredRecord], bytes], bytes]


def of_record(data: bytes, record: StoredRecord) -> bytes:
    return data[record.offset : record.end]


TAILS: dict[str, Tail] = {
    "one byte": lambda *_: b"\x01",
    "the magic of a record": lambda *_: b"BPC1",
    "random bytes": lambda *_: draws("tail").randbytes(3000),
    "a header of zeros behind the magic": lambda *_: b"BPC1" + bytes(59) + b"\x01",
    "an earlier record again": lambda data, found, _: of_record(data, found[0]),
    "the last record again": lambda data, found, _: of_record(data, found[-1]),
    "a record of another journal": lambda *a: of_record(a[2], records(a[2])[0]),
    "all records of another journal": lambda *a: a[2][128 : records(a[2])[-1].end],
    "a whole other segment": lambda *a: a[2],
    "zeros, then bytes": lambda *_: bytes(5000) + b"later",
    "bytes, then zeros": lambda *_: b"sooner" + bytes(5000),
    "bytes that end in zeros of their own": lambda *_: b"BPC1\0\0\0",
    "a length beyond everything": lambda *_: b"BPC1" + b"\xff" * 60,
}


def newest(path: str) -> Path:
    return sorted(Path(path, "segments").glob("*.seg"))[-1]


def put_behind(path: str, make: Tail, other: bytes) -> tuple[int, bytes]:
    """Put a tail right behind the log; returns where, and its bytes without trailing zeros."""
    segment = newest(path)
    data = segment.read_bytes()
    found = records(data)
    end = found[-1].end
    tail = make(data, found, other)
    segment.write_bytes(data[:end] + tail + data[end + len(tail) :])
    return end, tail.rstrip(b"\0")


@pytest.mark.parametrize("state", ["closed", "killed", "unsynced", "closed, bare", "killed, bare"])
def test_a_torn_tail_is_quarantined_once(state: str, tmp_path: Path) -> None:
    path, other = str(tmp_path / "journal"), str(tmp_path / "other")
    STATES[state](path)
    STATES["unsynced"](other)
    truth, tree = truth_of(path), Tree(path)
    for name, make in TAILS.items():
        end, garbage = put_behind(path, make, newest(other).read_bytes())
        verdict = observe(path, truth)
        assert verdict.word == "cut", name
        assert verdict.events == len(truth), name
        cut = verdict.cut
        assert (cut.bytes, cut.offset, cut.sequence) == (len(garbage), end, len(truth)), name
        assert cut.file == str(newest(path))

        kept = sorted(Path(path, "quarantine").iterdir())
        assert [file.suffix for file in kept] == [".bin", ".json"], name
        assert str(kept[0]) == cut.quarantine
        assert kept[0].read_bytes() == garbage, name
        assert kept[0].name.startswith(f"{newest(path).stem}-{end}-")
        note = json.loads(kept[1].read_text())
        assert (note["segment"], note["offset"]) == (newest(path).name, end)
        assert (note["length"], note["expected_sequence"]) == (len(garbage), len(truth))
        assert note["reason"] == cut.reason

        with Store.open(path, files=DISK) as again:
            assert again.open_report.cut is None, f"{name}: cut twice"
        assert sorted(Path(path, "quarantine").iterdir()) == kept
        tree.restore()
    print(f"{state}: {len(TAILS)} tails")


@pytest.mark.parametrize("state", ["closed", "killed", "unsynced"])
@pytest.mark.parametrize("zeros", [1, 7, 64, 4096, 100_000])
def test_zeros_behind_the_log_are_cut_and_not_quarantined(
    zeros: int, state: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "journal")
    STATES[state](path)
    truth = truth_of(path)
    put_behind(path, lambda *_: bytes(zeros), b"")
    assert observe(path, truth).word == "harmless"
    assert not Path(path, "quarantine").exists()
    assert newest(path).read_bytes()[-64:].strip(b"\0"), "the space is given back"


def test_the_same_tear_twice_leaves_one_copy(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    STATES["killed"](path)
    truth, tree = truth_of(path), Tree(path)
    for _ in range(3):
        put_behind(path, TAILS["random bytes"], b"")
        assert observe(path, truth).word == "cut"
        kept = {file.name: file.read_bytes() for file in Path(path, "quarantine").iterdir()}
        tree.restore()
        Path(path, "quarantine").mkdir()
        for name, data in kept.items():
            Path(path, "quarantine", name).write_bytes(data)
    assert len(kept) == 2


# --- pages that the power cut took ---------------------------------------------------


def blank(path: str, number: int) -> int:
    """Overwrite record `number` of the newest segment with zeros; returns its base."""
    segment = newest(path)
    data = segment.read_bytes()
    record = records(data)[number]
    size = record.end - record.offset
    segment.write_bytes(data[: record.offset] + bytes(size) + data[record.end :])
    return record.base


def test_records_behind_a_lost_page_were_never_promised_and_go_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    STATES["unsynced"](path)
    truth, tree = truth_of(path), Tree(path)
    count = len(records(newest(path).read_bytes()))
    assert count == 4
    for number in range(1, count - 1):
        data = newest(path).read_bytes()
        later = data[records(data)[number + 1].offset : records(data)[-1].end].rstrip(b"\0")
        base = blank(path, number)
        verdict = observe(path, truth)
        assert verdict.word == "cut"
        assert verdict.events == base
        assert Path(verdict.cut.quarantine).read_bytes().endswith(later)
        tree.restore()


@pytest.mark.parametrize("state", ["killed, bare", "closed, bare"])
def test_a_later_record_that_knows_of_a_lost_one_makes_it_damage(
    state: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "journal")
    STATES[state](path)
    truth, tree = truth_of(path), Tree(path)
    found = records(newest(path).read_bytes())
    # A close knows of all before it; without one, nobody knows of the very last record.
    for number in range(len(found) - 1):
        base = blank(path, number)
        verdict = observe(path, truth)
        assert verdict.word == "refused"
        error = verdict.error
        assert error is not None
        assert error.facts["offset"] == found[number].offset
        assert error.facts["first"] == base
        assert error.facts["last"] >= base
        assert "record at" in error.facts["witness"]
        tree.restore()


def test_a_reader_beside_a_refused_journal_is_served_what_precedes(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    STATES["killed"](path)
    truth, tree = truth_of(path), Tree(path)
    found = records(newest(path).read_bytes())
    for number in range(len(found)):
        base = blank(path, number)
        verdict = observe(path, truth)
        assert verdict.word == "refused"
        assert verdict.shown == base, "all that precedes, and no more"
        with Store.open(path, mode="r", files=DISK) as reader:
            assert [finding.code for finding in reader.open_report.findings] == ["journal-corrupt"]
        tree.restore()


# --- a damaged journal is not written to ---------------------------------------------


def test_a_refused_journal_opens_again_once_the_bytes_are_back(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    STATES["killed"](path)
    truth, tree = truth_of(path), Tree(path)
    blank(path, 0)
    for _ in range(3):
        assert observe(path, truth).word == "refused"
    tree.restore()
    assert observe(path, truth).word == "harmless"
    with Store.open(path, files=DISK) as store:
        ledger = Ledger(numbers=900)
        ledger.commit(store, "player:alice")
        assert store.verify("full").ok
