"""The journal format stands still: bytes that were once written are written and read today.

The vectors are made by tools/golden_vectors.py, which alone may write them, and only when
told to by a variable: a failure here means that the format changed.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from batpak import Store
from batpak.engine.system import shredded_by
from batpak.errors import PayloadDetached, PayloadErased
from batpak.keyring.files import decode_key_file, encode_key_file
from tests.support.siv import siv_encrypt
from tools import golden_vectors, read_segment

FOLDER = Path(__file__).parent.parent / "golden" / "journal"
NAMES = sorted(path.stem for path in FOLDER.glob("*.hex"))
SEGMENT = (
    "segment-header", "open-record", "single-commit", "batch-record", "close-record", "pad",
)  # fmt: skip
REWRITTEN = (
    "rewritten-header", "rewritten-open-record", "rewritten-single-commit", "sparse-record",
    "rewritten-close-record", "rewritten-pad",
)  # fmt: skip


def stored(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


def described(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def event_hashes() -> list[str]:
    return [digest for name in SEGMENT for digest in described(name)["results"].values()]


def journal_of(path: Path, records: tuple[str, ...] = SEGMENT) -> Path:
    """A journal directory made of stored bytes only."""
    segments = path / "segments"
    segments.mkdir(parents=True)
    (path / "journal.json").write_bytes(stored("journal-json"))
    (path / "tail.hint").write_bytes(stored("tail-hint"))
    (segments / f"{0:020}.seg").write_bytes(b"".join(map(stored, records)))
    if records == SEGMENT:
        (segments / f"{0:020}.idx").write_bytes(stored("sidecar"))
    return path


# --- the same bytes today ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def rebuilt() -> dict[str, golden_vectors.Vector]:
    return golden_vectors.build()


@pytest.mark.parametrize("name", NAMES)
def test_the_library_makes_the_stored_bytes(
    name: str, rebuilt: dict[str, golden_vectors.Vector]
) -> None:
    assert rebuilt[name].data.hex(" ") == stored(name).hex(" ")


def test_every_vector_is_stored_and_the_page_shows_the_stored_ones() -> None:
    assert golden_vectors.differences(golden_vectors.wanted()) == []


def test_the_page_shows_each_thing_that_the_format_has() -> None:
    page = golden_vectors.PAGE.read_text(encoding="utf-8")
    for name in (*SEGMENT, "sparse-record", "tail-hint", "sidecar", "key-table", "journal-json"):
        (shown,) = page.split(f"<!-- golden:{name} -->")[1:]
        (dump,) = shown.partition(f"<!-- end of {name} -->")[0].split("```hex")[1:]
        lines = [line for line in dump.splitlines() if line[:4].strip().isdigit()]
        assert bytes.fromhex("".join(line[6:53] for line in lines)) == stored(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_description_names_each_byte_once(name: str) -> None:
    description = described(name)
    at = 0
    for entry in description["fields"]:
        assert entry["offset"] == at
        assert entry["size"] > 0
        assert entry["field"]
        at += entry["size"]
    assert at == description["size"] == len(stored(name))


def test_vectors_are_written_only_when_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    should = {tmp_path / "one.hex": "00\n", tmp_path / "two.hex": "01\n"}
    (tmp_path / "two.hex").write_text("02\n")
    (tmp_path / "three.hex").write_text("03\n")
    assert golden_vectors.settle(should, write=False) == 1
    shown = capsys.readouterr().out
    assert "-02\n+01\n" in shown
    assert "three.hex: no vector has this name" in shown
    assert not (tmp_path / "one.hex").exists()
    assert (tmp_path / "two.hex").read_text() == "02\n"
    assert golden_vectors.settle(should, write=True) == 0
    (tmp_path / "three.hex").unlink()
    assert golden_vectors.settle(should, write=False) == 0


# --- the stored bytes are a journal -----------------------------------------------------------


def test_both_readers_read_the_stored_journal(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal")
    report = read_segment.read_journal(path)
    assert (report.findings, report.notes) == ([], [])
    assert (report.events, report.records, report.pads, report.sidecars) == (7, 5, 1, 1)
    assert report.last_event_hash == event_hashes()[-1]
    with Store.open(path, mode="r") as store:
        assert store.open_report.mapped == 1
        assert store.verify("full").ok
        assert [event.event_hash.hex() for event in store] == event_hashes()
        assert [store.at(n).value for n in (1, 2, 5)] == [
            {"open": True}, {"open": False}, {"open": True},
        ]  # fmt: skip
        keyed, empty = store.at(3), store.at(4)
        assert (keyed.raw, empty.raw) == (b"\x00raw", b"")
        assert keyed.event_id.bytes == golden_vectors.KEY
        assert store.get(keyed.event_id) == keyed
        assert store.at(5).event_id.bytes == bytes(golden_vectors.LOOKALIKE_KEY)
        assert store.get(store.at(5).event_id) == store.at(5)
        assert keyed.caused_by(store.at(2).event_id)
        assert keyed.coordinate.entity == "lamp:küche"
        assert (keyed.position.lane, keyed.position.depth) == (3, 2)
        assert dict(empty.extensions) == {"acme.a": b"\xff", "acme.b": b""}


def test_the_stored_key_table_is_read_as_the_page_says_and_used(tmp_path: Path) -> None:
    data = stored("key-table")
    capacity = int.from_bytes(data[48:56], "little")
    k = capacity.bit_length() - 3
    slots = [number for (number,) in struct.iter_unpack("<Q", data[128:])]
    for event_id, sequence in ((golden_vectors.KEY, 3), (golden_vectors.LOOKALIKE_KEY, 5)):
        product = int.from_bytes(event_id, "big") * int.from_bytes(data[56:72], "little")
        h = product % 2**128 >> 67
        at, candidates = h * (capacity >> k) >> (61 - k), []
        while slots[at]:
            if slots[at] >> 40 == h & 0xFFFFFF:
                candidates.append(slots[at] % 2**40 - 1)
            at += 1
        assert candidates == [sequence]
    path = journal_of(tmp_path / "journal")
    (path / "index").mkdir()
    (path / "index" / "keys.tbl").write_bytes(data)
    with Store.open(path, mode="r") as store:
        assert store._reader.find_id(golden_vectors.KEY, 7) == 3
        assert store._reader.find_id(golden_vectors.KEY, 3) is None
        keys = store._reader.index.keys
        assert keys is not None
        assert (bytes(keys.table.data), keys.covered) == (data[128:], 7)


def test_a_writer_goes_on_with_the_stored_journal(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal")
    with Store.open(path) as store:
        assert store.open_report.cut is None
        assert store.open_report.epoch == 2
        again = store.at(1)
        receipt = store.append_raw(again.coordinate, again.kind, b"more")
        assert (receipt.sequence, receipt.clock) == (8, 2)
        assert receipt.prev_hash.hex() == event_hashes()[2]
    assert read_segment.read_journal(path).ok


def test_a_rewritten_segment_keeps_every_hash_and_tells_what_is_absent(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal", REWRITTEN)
    lines: list[dict[str, Any]] = []
    report = read_segment.read_journal(path, lines.append)
    assert [line["event_hash"] for line in lines] == event_hashes()
    states = [line["envelope"] for line in lines]
    assert states == ["present", "present", "erased", "archived", "present", "present", "present"]
    absent = [(2, "erased"), (3, "archived")]
    assert [(f.sequence, f.reason.split()[3].rstrip(",")) for f in report.findings] == absent
    with Store.open(path, mode="r") as store:
        assert [event.event_hash.hex() for event in store] == event_hashes()
        with pytest.raises(PayloadErased):
            _ = store.at(2).raw
        assert (store.at(4).raw, store.at(5).value) == (b"", {"open": True})
        assert [finding.sequence for finding in store.verify("full").findings] == [2, 3]


def test_a_payload_that_was_moved_to_an_archive_is_not_called_erased(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal", REWRITTEN)
    with Store.open(path, mode="r") as store:
        with pytest.raises(PayloadDetached):
            _ = store.at(3).raw
        with pytest.raises(PayloadDetached):
            _ = list(store)[3].raw


def test_the_stored_header_of_the_next_segment_goes_on(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal")
    later = path / "segments" / f"{7:020}.seg"
    later.write_bytes(stored("later-segment-header"))
    report = read_segment.read_journal(path)
    assert (report.findings, report.segments, report.next_sequence) == ([], 2, 7)
    shutil.copytree(path, tmp_path / "other")
    with Store.open(path) as store:
        assert (store.open_report.segments, len(store)) == (2, 8)
    # With one byte of its link to the past changed, it is the segment of another history.
    data = bytearray(stored("later-segment-header"))
    data[80] ^= 1
    data[124:128] = zlib.crc32(data[:124]).to_bytes(4, "little")
    (tmp_path / "other" / "segments" / later.name).write_bytes(data)
    (finding,) = read_segment.read_journal(tmp_path / "other").findings
    assert (finding.offset, finding.sequence) == (80, 7)


def test_segments_of_an_ancestor_are_accepted_up_to_the_fork(tmp_path: Path) -> None:
    """The stored fork has the ancestor's events below 7."""
    path = journal_of(tmp_path / "journal")
    fork = json.loads(stored("journal-json-fork"))
    fork["lineage"][0]["journal_id"], fork["journal_id"] = (
        fork["journal_id"], fork["lineage"][0]["journal_id"],
    )  # fmt: skip
    (path / "journal.json").write_text(json.dumps(fork))
    (path / "tail.hint").unlink()
    assert read_segment.read_journal(path).ok
    with Store.open(path, mode="r") as store:
        assert len(store) == 7
        assert store.origin == "example.org/fork"
    fork["lineage"][0]["until"] = 0
    (path / "journal.json").write_text(json.dumps(fork))
    assert not read_segment.read_journal(path).ok


# --- encryption -----------------------------------------------------------------------------


def test_the_encrypted_envelope_is_what_rfc_5297_makes_of_its_parts() -> None:
    envelope, results = stored("encrypted-envelope"), described("encrypted-envelope")["results"]
    key, names, payload = (
        bytes.fromhex(results[name]) for name in ("key", "associated data", "payload")
    )
    commitment = blake3(b"batpak/key/v1\0" + key).digest()[:16]
    assert envelope == bytes(range(16, 32)) + commitment + siv_encrypt(key, [names], payload)
    digest = blake3(b"batpak/content/v1\0\x02" + envelope).hexdigest()
    assert digest == results["content_hash"]


def test_the_frozen_key_file_is_read_today() -> None:
    key = bytes.fromhex(described("encrypted-envelope")["results"]["key"])
    key_id = stored("encrypted-envelope")[:16]
    assert decode_key_file(stored("key-file"), key_id) == key
    assert encode_key_file(key_id, key, golden_vectors.START_US) == stored("key-file")


def test_the_frozen_shredding_names_its_key() -> None:
    assert shredded_by(stored("key-shredded-payload")) == stored("encrypted-envelope")[:16]
