"""Checkpoints and tiles of a journal, looked at by a stranger who has only what is published."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batpak import Durability, EventKind, Item, Store
from batpak.config import Signer
from batpak.engine.tree import RunningRoot, event_hashes
from batpak.errors import Damaged, InvalidInput, JournalCorrupt, NotCheckpointed
from batpak.proof import verify_bundle
from batpak.proof.merkle import leaf_hash
from batpak.proof.notes import MAX_SIGNATURES, Checkpoint, Key, Note
from batpak.tlog.signing import sign_note
from batpak.tlog.tiles import Tile
from batpak.tlog.trees import root_of
from batpak_cli.demo.forger import ForgedJournal
from tests.support.faulty_files import RecordingFiles, UnsyncedFiles
from tests.support.proofs import (
    LATER,
    LOG,
    LOG_KEY,
    ORIGIN,
    POLICY,
    RECEIPTS,
    SAID,
    THIEF,
    WHERE,
    WITNESS,
    all_tiles,
    open_signed,
    published,
    say,
)
from tests.watched_files import WatchedFiles

WITNESS_KEY = Key("example.net/witness", WITNESS.public_key, 4)


def cosigned(note: str, *, time: int = 1_800_000_000) -> str:
    parsed = Note.parse(note)
    line = sign_note(parsed.text, WITNESS_KEY.name, WITNESS.private, time=time)
    return str(Note(parsed.text, (*parsed.signatures, line)))


def _spoiled(note: str) -> str:
    """The same note with a bit of its last signature changed."""
    parsed = Note.parse(note)
    *others, last = parsed.signatures
    wrong = bytes([*last.signature[:-1], last.signature[-1] ^ 1])
    return str(Note(parsed.text, (*others, last._replace(signature=wrong))))


def _place(path: Path, file: Path) -> tuple[int, int, int]:
    tile = Tile.parse(file.relative_to(path / "tlog").as_posix())
    assert tile is not None
    return tile.level, tile.index, tile.width


@given(st.lists(st.integers(0, 600), max_size=5))
def test_a_running_root_is_the_root_of_the_whole(steps: list[int]) -> None:
    running, entries = RunningRoot(), list[bytes]()
    for step in steps:
        new = [n.to_bytes(32, "big") for n in range(len(entries), len(entries) + step)]
        running.add(b"".join(new))
        entries += new
        assert running.size == len(entries)
        assert running.root == root_of([leaf_hash(entry) for entry in entries])


@pytest.mark.proves("INV-CHECKPOINT-COVERS-DURABLE")
def test_a_checkpoint_covers_what_is_durable_and_its_event_lies_outside(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipts = say(store, 5)
        made = store.checkpoint()
        assert made.is_new
        assert made.size == receipts[-1].sequence + 1
        told = store.at(made.size)
        assert str(told.kind) == "0x0013"
        assert told.value == {"size": made.size, "root": made.root, "note": made.note.encode()}
        assert store.frontier().durable.sequence > told.sequence
        hashes = [leaf_hash(store.at(n).event_hash) for n in range(made.size)]
        assert made.root == root_of(hashes)
        assert Note.parse(made.note).verified([LOG_KEY]) == {LOG_KEY: 0}
        assert store.stored_checkpoint().note == made.note
        assert store.checkpoint_sizes() == (made.size,)
    assert published(tmp_path / "j").note == made.note


def test_nothing_new_but_checkpoints_makes_no_new_one(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        say(store)
        first = store.checkpoint()
        events = len(store)
        for _ in range(3):
            again = store.checkpoint()
            assert (again.note, again.is_new) == (first.note, False)
        assert len(store) == events
        say(store)
        assert store.checkpoint().size == events + 1


@pytest.mark.proves("INV-TILES-ARE-DISPOSABLE")
# Each example is several journals, opened anew and again.
@settings(max_examples=8)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_tiles_grow_to_what_a_stranger_computes_whatever_is_lost(
    steps: list[int], chance: random.Random
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        for step in steps:
            # A new process each time: nothing is remembered but what stands on the disk.
            with open_signed(path, segment_max_bytes=1 << 16) as store:
                store.append_many([Item(WHERE, {"n": n}, kind=SAID) for n in range(step)])
                made = store.checkpoint()
                assert published(path).note == made.note
            lost = chance.choice(["nothing", "all", "one", "cut", "changed"])
            tiles = all_tiles(path)
            tile = chance.choice(tiles)
            if lost == "all":
                shutil.rmtree(path / "tlog")
            elif lost == "one":
                tile.unlink()
            elif lost == "cut":
                tile.write_bytes(tile.read_bytes()[:-1])
            elif lost == "changed":
                # On the right edge, where growing begins: a hash of the highest level.
                edge = max(tiles, key=lambda each: _place(path, each))
                edge.write_bytes(edge.read_bytes()[:-1] + b"\xff")
        with open_signed(path) as store:
            shutil.rmtree(path / "tlog", ignore_errors=True)
            say(store)
            store.checkpoint()
        published(path)
        with Store.open(path, mode="r") as reader:
            assert reader.verify().ok


def test_the_second_checkpoint_writes_only_what_grew(tmp_path: Path) -> None:
    files = RecordingFiles()
    with open_signed(tmp_path / "j", files=files) as store:
        store.append_many([Item(WHERE, {"n": n}, kind=SAID) for n in range(3000)])
        begun = len(files.operations)
        store.checkpoint()
        whole = sum(o.name == "pwrite" and "tlog" in o.path for o in files.operations[begun:])
        begun = len(files.operations)
        say(store)
        store.checkpoint()
        operations = files.operations[begun:]
        grown = [o.path for o in operations if o.name == "pwrite" and "tile" in o.path]
        assert whole > 24
        # The last tile of leaves and its entries; the level above has no full tile more.
        assert len(grown) == 2
        read = [o.length or 0 for o in operations if o.name == "pread" and "segments" in o.path]
        assert sum(read) < 4096


@pytest.mark.proves("INV-TILES-ARE-DISPOSABLE")
def test_partial_tiles_go_when_their_place_is_full_at_every_level_and_not_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j"

    def grow(store: Store, to: int) -> None:
        while (left := to - len(store)) > 0:
            items = [Item(WHERE, None, kind=SAID) for _ in range(min(left, 60))]
            store.append_many(items)

    def judged(store: Store) -> None:
        size = store.checkpoint().size
        assert published(path).size == size
        for file in all_tiles(path):
            tile = Tile.parse(file.relative_to(path / "tlog").as_posix())
            assert tile is not None
            there = size >> 8 * max(tile.level, 0)
            assert tile.width == 256 or there < 256 * (tile.index + 1), tile

    with open_signed(path) as store:
        for size in (1_000, 40_000):
            grow(store, size)
            judged(store)
        grow(store, 65_700)
    # From here on the hashes of before come from the sidecar.
    files = WatchedFiles()
    with open_signed(path, files=files) as store:
        judged(store)
        for size in (66_200, 66_600):
            grow(store, size)
            files.opened_to_write.clear()
            judged(store)
            assert len(files.opened_to_write) < 20, "tiles of before are made again"


def test_the_folder_of_notes_has_its_name_on_the_disk_before_a_note_is_there(
    tmp_path: Path,
) -> None:
    files = RecordingFiles()
    path = tmp_path / "j"
    with open_signed(path, files=files) as store:
        say(store)
        begun = len(files.operations)
        store.checkpoint()
    done = [(o.name, o.path) for o in files.operations[begun:]]
    made = done.index(("mkdir", str(path / "checkpoints")))
    named = done.index(("sync_directory", str(path)), made)
    first = next(at for at, (_, where) in enumerate(done) if ".note" in where)
    assert made < named < first


def test_a_proof_of_what_has_its_tiles_writes_none(tmp_path: Path) -> None:
    files = WatchedFiles()
    with open_signed(tmp_path / "j", files=files) as store:
        receipts = say(store, 300)
        store.checkpoint()
        files.opened_to_write.clear()
        for receipt in receipts[::100]:
            store.prove(receipt.event_id)
        assert files.opened_to_write == []


def test_a_tile_that_is_there_is_replaced_and_a_new_one_is_written_in_its_place(
    tmp_path: Path,
) -> None:
    files = RecordingFiles()
    path = tmp_path / "j"
    torn = path / "tlog" / "tile" / "0" / "000"
    with open_signed(path, files=files) as store:
        say(store, 300)
        # As a kill may leave it: begun, and not known to any checkpoint.
        torn.parent.mkdir(parents=True)
        torn.write_bytes(b"half a tile")
        made = store.checkpoint()
        assert len(torn.read_bytes()) == 8192
        assert not list((path / "tlog").rglob("*.tmp"))
    replaced = {o.target for o in files.operations if o.name == "rename"}
    assert str(torn) in replaced
    assert str(path / "tlog" / "tile" / "entries" / "000") not in replaced
    assert made.size > 256


def _all(path: Path) -> None:
    shutil.rmtree(path / "tlog")


def _entries(path: Path) -> None:
    shutil.rmtree(path / "tlog" / "tile" / "entries")


def _files_only(path: Path) -> None:
    for tile in all_tiles(path):
        tile.unlink()


@pytest.mark.proves("INV-TILES-ARE-DISPOSABLE")
@pytest.mark.parametrize("lose", [_all, _entries, _files_only])
@pytest.mark.parametrize("new", [0, 1, 300])
def test_the_folder_may_be_deleted_under_an_open_store(
    tmp_path: Path, lose: Callable[[Path], None], new: int
) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        receipts = say(store, 300)
        store.checkpoint()
        for _ in range(2):
            lose(path)
            say(store, new)
            assert store.checkpoint().is_new == bool(new)
            # Neither tiles without a checkpoint nor one whose tiles are missing.
            published(path)
        lose(path)
        for receipt in receipts[::50]:
            assert verify_bundle(store.prove(receipt.event_id).to_json(), [], POLICY).ok
        assert store.verify().ok


class FilesThatLoseTiles(UnsyncedFiles):
    """Deletes `tlog/` when a tile is opened, after so many others."""

    def __init__(self) -> None:
        self.spare: int | None = None

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        folder, inside, _ = path.partition("/tlog/tile/")
        if inside and self.spare is not None:
            self.spare -= 1
            if self.spare < 0:
                self.spare = None
                shutil.rmtree(f"{folder}/tlog")
        return super().open(path, flags, mode)


@pytest.mark.parametrize("spare", range(6))
def test_the_folder_may_be_deleted_while_a_checkpoint_is_made(tmp_path: Path, spare: int) -> None:
    path = tmp_path / "j"
    files = FilesThatLoseTiles()
    with open_signed(path, files=files) as store:
        say(store, 300)
        store.checkpoint()
        say(store, 300)
        # Four tiles that grew, one that is read to grow the level above, and that.
        files.spare = spare
        made = store.checkpoint()
        assert made.is_new
        assert files.spare is None
    assert published(path).note == made.note


def test_appends_and_close_touch_no_tile(tmp_path: Path) -> None:
    files = RecordingFiles()
    with open_signed(tmp_path / "j", files=files) as store:
        say(store, 300)
        store.checkpoint()
        begun = len(files.operations)
        say(store, 300)
        store.sync()
    assert not [o for o in files.operations[begun:] if "tlog" in o.path or "checkpoints" in o.path]


def test_a_checkpoint_needs_a_key(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        with pytest.raises(InvalidInput) as caught:
            store.checkpoint()
        assert caught.value.field == "checkpoint_key"
        with pytest.raises(NotCheckpointed):
            store.stored_checkpoint()
        with pytest.raises(NotCheckpointed):
            store.stored_checkpoint(3)
    assert not (tmp_path / "j" / "checkpoints").exists()


@pytest.mark.proves("INV-CHECKPOINT-IS-A-WITNESS")
def test_a_checkpoint_is_a_witness_when_all_others_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store, 20)
        made = store.checkpoint()
    journal = ForgedJournal(path)
    journal.cut(10)
    journal.write(hint=False)
    with pytest.raises(JournalCorrupt) as caught:
        open_signed(path)
    assert caught.value.witness == f"checkpoints/{made.size:020}.note"
    assert (caught.value.first, caught.value.last) == (10, made.size - 1)
    with Store.open(path, mode="r") as reader:
        found = {finding.code for finding in reader.verify().findings}
        assert "checkpoint-size" in found


def test_a_repaired_copy_sets_the_checkpoints_of_what_is_lost_aside(tmp_path: Path) -> None:
    from batpak.engine.repair import diagnose, repair_into
    from batpak.files import REAL
    from batpak.journal.layout import Layout

    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store, 3)
        kept = store.checkpoint()
        say(store, 20)
        lost = store.checkpoint()
    journal = ForgedJournal(path)
    journal.cut(kept.size + 5)
    journal.write(hint=False)
    assert diagnose(REAL, Layout(path)).witness == f"checkpoints/{lost.size:020}.note"
    done = repair_into(REAL, Layout(path), str(tmp_path / "repaired"))
    assert any(file.endswith(f"repair-{lost.size:020}.note") for file in done.quarantined)
    with open_signed(tmp_path / "repaired") as store:
        assert store.checkpoint_sizes() == (kept.size,)
        assert store.verify().ok
        assert store.checkpoint().size > kept.size
    assert (path / "checkpoints" / f"{lost.size:020}.note").exists()


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"other/log\n999\n", f"{ORIGIN}\n998\nx\n".encode(), b"x" * (1 << 17)],
    ids=["empty", "no text", "another log's", "another size", "too long"],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_no_witness(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store)
        made = store.checkpoint()
    (path / "checkpoints" / f"{999:020}.note").write_bytes(text)
    with open_signed(path) as store:
        assert (f"checkpoints/{made.size:020}.note", made.size) in store.open_report.witnesses
        assert [f.code for f in store.verify().findings] == ["checkpoint-note"]
        say(store)
        assert store.checkpoint().is_new


@pytest.mark.proves("INV-REWRITTEN-HISTORY-IS-NOT-SIGNED")
def test_no_checkpoint_is_signed_over_a_history_that_an_earlier_one_contradicts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        receipts = say(store, 300)
        made = store.checkpoint()
    journal = ForgedJournal(path)
    journal.change_payload(receipts[20].sequence)
    journal.rehash()
    journal.write()
    with open_signed(path) as store:
        events = len(store)
        shutil.rmtree(path / "tlog")
        with pytest.raises(JournalCorrupt) as caught:
            store.checkpoint()
        assert caught.value.reason == "checkpoint-root"
        assert caught.value.file == str(path / "checkpoints" / f"{made.size:020}.note")
        assert len(store) == events
        finding = store.verify().findings[0]
        assert (finding.code, finding.expected) == ("checkpoint-root", made.root.hex())
        with pytest.raises(JournalCorrupt):
            store.prove(store.at(5).event_id)


def test_a_hash_of_the_index_is_not_signed_unless_the_segment_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batpak.index.mapped import MappedPart

    path = tmp_path / "j"
    with open_signed(path, segment_max_bytes=1 << 14) as store:
        for entity in ("agent:1", "agent:2", "agent:3"):
            say(store, 40, entity=entity)
    with open_signed(path) as store:
        slot = next(s for s in store._reader.index.slots if isinstance(s.part, MappedPart))
        part = slot.part
        assert isinstance(part, MappedPart)
        whole = b"".join(event_hashes(store._reader, 0, len(store)))
        assert whole == b"".join(event.event_hash for event in store)
        good = part.located
        for row in range(part.end - part.first):

            def lying(low: int, high: int, row: int = row) -> tuple[bytes, bytes]:
                hashes, places = good(low, high)
                at = 32 * (row - low)
                changed = bytes([hashes[at] ^ 1])
                return hashes[:at] + changed + hashes[at + 1 :], places

            monkeypatch.setattr(part, "located", lying)
            with pytest.raises(JournalCorrupt) as caught:
                list(event_hashes(store._reader, 0, len(store)))
            assert caught.value.sequence == slot.first + row
        monkeypatch.undo()


def test_an_index_that_leads_to_another_row_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batpak.index.mapped import MappedPart

    path = tmp_path / "j"
    with open_signed(path, segment_max_bytes=1 << 14) as store:
        say(store, 60)
    with open_signed(path) as store:
        slot = next(s for s in store._reader.index.slots if isinstance(s.part, MappedPart))
        part = slot.part
        assert isinstance(part, MappedPart)
        good = part.columns()
        for row in range(part.end - part.first - 1):
            offsets = good.row_offset.copy()
            offsets[[row, row + 1]] = offsets[[row + 1, row]]
            monkeypatch.setattr(part, "columns", lambda: replace(good, row_offset=offsets))  # noqa: B023  # called in this turn only
            with pytest.raises(JournalCorrupt) as caught:
                list(event_hashes(store._reader, 0, len(store)))
            assert caught.value.sequence == slot.first + row
        monkeypatch.undo()


class Rewriting(UnsyncedFiles):
    """Files that do something else each time that a tile is written."""

    def __init__(self) -> None:
        self.then: Callable[[], object] | None = None

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        then, self.then = self.then, None
        if then is not None:
            if flags & os.O_CREAT and f"{os.sep}tile{os.sep}" in path:
                then()
            self.then = then
        return super().open(path, flags, mode)


def test_a_compaction_in_the_middle_of_a_checkpoint_is_no_damage(tmp_path: Path) -> None:
    path, files = tmp_path / "j", Rewriting()
    small: dict[str, Any] = {"segment_max_bytes": 1 << 14, "files": files, "max_open_files": 4}
    with open_signed(path, **small) as store:
        say(store, 2000)
    with open_signed(path, **small) as store:
        parts = [slot.part for slot in store._reader.index.slots]
        which = iter(range(5, 2000, 100))
        done: list[int] = []

        def rewrite() -> None:
            begun = next(which)
            store.erase([begun, 2000 - begun], reason="asked for")
            assert store.compact().outcome == "performed"
            done.append(begun)

        files.then = rewrite
        made = store.checkpoint()
        files.then = None
        assert len(done) > 5
        assert [slot.part for slot in store._reader.index.slots] != parts
        assert published(path).root == made.root
        assert store.verify().ok


def test_a_lost_note_is_published_again_from_its_event(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store)
        made = store.checkpoint()
        (path / "checkpoints" / f"{made.size:020}.note").unlink()
        (path / "tlog" / "checkpoint").unlink()
        again = store.checkpoint()
        assert again.note == made.note
    assert published(path).note == made.note


@pytest.mark.parametrize(
    "text",
    [b"junk", b"\xff\xfe", b"x" * (1 << 17), f"{ORIGIN}\n998\nx\n".encode()],
    ids=["no note", "no text", "too long", "no root"],
)
def test_a_damaged_note_is_damage_by_name_and_is_made_anew(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        event = say(store)[0]
        made = store.checkpoint()
        file = path / "checkpoints" / f"{made.size:020}.note"
        file.write_bytes(text)
        note = cosigned(made.note)
        for call in (
            store.stored_checkpoint,
            lambda: store.prove(event.event_id),
            lambda: store.prove_range(0, 1),
            lambda: store.prove_consistency(1),
            lambda: store.add_cosignatures(note, [WITNESS_KEY]),
        ):
            with pytest.raises(Damaged) as caught:
                call()
            assert caught.value.file == str(file)
            assert "make a checkpoint" in caught.value.advice
        # The journal has its text still.
        assert store.checkpoint().note == made.note == file.read_text()
        (aside,) = (path / "quarantine").glob("*.note")
        assert aside.read_bytes() == text
        with pytest.raises(NotCheckpointed, match=f"there are those over {made.size}"):
            store.stored_checkpoint(1)


def test_a_damaged_note_is_set_aside_with_its_cosignatures_before_it_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j"
    files = RecordingFiles()
    with open_signed(path, files=files) as store:
        say(store)
        made = store.checkpoint()
        kept = store.add_cosignatures(cosigned(made.note), [WITNESS_KEY])
        file = path / "checkpoints" / f"{made.size:020}.note"
        aside: list[Path] = []
        # Twice the same damage, and then another one: each file is kept, and none twice.
        for spoiled in ("—example", "—example", "-example"):
            damaged = kept.note.replace("— example", spoiled)
            file.write_text(damaged, "utf-8")
            caplog.clear()
            begun = len(files.operations)
            assert store.checkpoint().note == made.note == file.read_text("utf-8")
            (record,) = caplog.records
            assert record.__dict__["code"] == "checkpoint-set-aside"
            assert record.__dict__["file"] == str(file)
            aside.append(Path(record.__dict__["quarantine"]))
            assert aside[-1].read_text("utf-8") == damaged
            why = json.loads(aside[-1].with_suffix(".json").read_text("utf-8"))
            assert why["file"] == f"checkpoints/{file.name}"
            # What is set aside is durable before its place is taken.
            operations = files.operations[begun:]
            taken = next(n for n, o in enumerate(operations) if o.target == str(file))
            synced = [
                n
                for n, o in enumerate(operations)
                if o.name == "sync_directory" and o.path == str(path / "quarantine")
            ]
            assert synced
            assert max(synced) < taken
        assert aside[0] == aside[1] != aside[2]
        assert store.verify().ok
        assert store.add_cosignatures(cosigned(made.note), [WITNESS_KEY]).note == kept.note


def test_a_listing_that_fails_costs_no_cosignature(tmp_path: Path) -> None:
    path = tmp_path / "j"
    files = WatchedFiles()
    with open_signed(path, files=files) as store:
        say(store)
        kept = store.add_cosignatures(cosigned(store.checkpoint().note), [WITNESS_KEY])
        files.refuse("listdir", "checkpoints", errno.EIO)
        assert store.checkpoint().note == kept.note
        files.refused.clear()
        assert store.stored_checkpoint().note == kept.note
        assert store.verify().ok
    assert not (path / "quarantine").exists()


def test_a_broken_signature_of_the_log_is_healed_from_its_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        event = say(store)[0]
        made = store.checkpoint()
        kept = store.add_cosignatures(cosigned(made.note), [WITNESS_KEY])
        own, *others = Note.parse(kept.note).signatures
        broken = own._replace(signature=bytes([own.signature[0] ^ 1, *own.signature[1:]]))
        damaged = str(Note(Note.parse(kept.note).text, (broken, *others)))
        file = path / "checkpoints" / f"{made.size:020}.note"
        file.write_text(damaged, "utf-8")
        caplog.clear()
        again = store.checkpoint()
        assert not again.is_new
        assert again.note == kept.note == file.read_text("utf-8")
        assert [record.__dict__["code"] for record in caplog.records] == ["checkpoint-set-aside"]
        (aside,) = (path / "quarantine").glob("*.note")
        assert aside.read_text("utf-8") == damaged
        assert verify_bundle(store.prove(event.event_id).to_json(), [], POLICY).ok
    assert published(path).note == kept.note


def test_a_key_signs_receipts_or_checkpoints_of_a_journal_and_never_both(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store)
        store.checkpoint()
        store.retire_key(RECEIPTS.key_id)
    for key in (RECEIPTS, LATER):
        # One at a time, as `batpak checkpoint` and `batpak keys add` give them.
        with open_signed(path, signing_keys=(LATER,), checkpoint_key=None):
            pass
        with (
            open_signed(path, signing_keys=(), checkpoint_key=key) as store,
            pytest.raises(InvalidInput, match="signs receipts"),
        ):
            store.checkpoint()
    before = (tmp_path / "j" / "tlog" / "checkpoint").read_bytes()
    with pytest.raises(InvalidInput, match="signed the checkpoint over"):
        open_signed(path, signing_keys=(LOG,), checkpoint_key=None)
    with Store.open(path, mode="r") as reader:
        assert [span.key_id for span in reader.signing_keys()] == [RECEIPTS.key_id, LATER.key_id]
    assert (tmp_path / "j" / "tlog" / "checkpoint").read_bytes() == before


def test_another_checkpoint_key_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    for key, codes in ((LOG, []), (LOG, []), (THIEF, ["checkpoint-key-changed"])):
        with open_signed(path, checkpoint_key=key) as store:
            say(store)
            caplog.clear()
            store.checkpoint()
            assert [record.__dict__["code"] for record in caplog.records] == codes


def test_cosignatures_are_kept_and_published_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store)
        made = store.checkpoint()
        note = cosigned(made.note)
        kept = store.add_cosignatures(note, [WITNESS_KEY])
        assert kept.note == note
        assert store.add_cosignatures(note, [WITNESS_KEY]).note == note
        assert store.stored_checkpoint().note == note
        assert published(path).note == note
        other = Key("example.net/other", THIEF.public_key, 4)
        for bad, keys, problem in (
            (note, [other], "none of these witnesses"),
            (_spoiled(note), [WITNESS_KEY], "is wrong"),
            ("no note", [WITNESS_KEY], "note"),
            (note, [LOG_KEY, WITNESS_KEY], "own key"),
            (note, [], "none of these witnesses"),
        ):
            with pytest.raises(InvalidInput, match=problem):
                store.add_cosignatures(bad, keys)
        forked = str(Checkpoint(ORIGIN, made.size, b"\1" * 32))
        line = sign_note(forked, WITNESS_KEY.name, WITNESS.private, time=1)
        with pytest.raises(InvalidInput, match="another checkpoint"):
            store.add_cosignatures(str(Note(forked, (line,))), [WITNESS_KEY])
        assert store.stored_checkpoint().note == note


def test_of_each_witness_the_newest_cosignature_is_kept(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        event = say(store)[0]
        made = store.checkpoint()
        # As many as witness it hourly for days: more than the lines that a note may have.
        for hour in range(100):
            store.add_cosignatures(cosigned(made.note, time=hour), [WITNESS_KEY])
        newest = store.stored_checkpoint()
        assert newest.note == cosigned(made.note, time=99)
        # One that comes late takes nothing away; of several in one note the newest counts.
        late = store.add_cosignatures(cosigned(made.note, time=98), [WITNESS_KEY])
        assert late.note == newest.note
        both = cosigned(cosigned(made.note, time=101), time=100)
        newest = store.add_cosignatures(both, [WITNESS_KEY])
        assert newest.note == cosigned(made.note, time=101)
        assert store.prove(event.event_id).checkpoint == newest.note
        assert store.verify().ok
    assert published(tmp_path / "j").note == newest.note


def test_no_checkpoint_gets_more_signatures_than_a_note_may_have(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store)
        note = Note.parse(store.checkpoint().note)
        for number in range(MAX_SIGNATURES):
            witness = WITNESS_KEY._replace(name=f"example.net/{number}")
            line = sign_note(note.text, witness.name, WITNESS.private, time=number)
            whole = str(Note(note.text, (*note.signatures, line)))
            if number < MAX_SIGNATURES - 1:
                kept = store.add_cosignatures(whole, [witness])
                continue
            with pytest.raises(InvalidInput) as refused:
                store.add_cosignatures(whole, [witness])
            assert refused.value.field == "note"
            assert "new checkpoint" in refused.value.advice
        assert len(Note.parse(kept.note).signatures) == MAX_SIGNATURES
        assert store.stored_checkpoint().note == kept.note
    assert published(path).note == kept.note


@pytest.mark.parametrize("name", [ORIGIN, WITNESS_KEY.name])
@pytest.mark.parametrize("algorithm", [1, 4])
def test_no_log_is_its_own_witness(tmp_path: Path, name: str, algorithm: int) -> None:
    own = Key(name, LOG.public_key, algorithm)
    with open_signed(tmp_path / "j") as store:
        say(store)
        made = store.checkpoint()
        note = Note.parse(made.note)
        line = sign_note(note.text, name, LOG.private, time=1 if algorithm == 4 else None)
        with pytest.raises(InvalidInput, match="own key") as refused:
            store.add_cosignatures(str(Note(note.text, (*note.signatures, line))), [own])
        assert refused.value.field == "witnesses"
        assert store.stored_checkpoint().note == made.note


@pytest.mark.parametrize(
    ("note", "witnesses", "field"),
    [(None, [], "note"), (b"a note", [], "note"), ("a note", ["k"], "witnesses"),
     ("a note", 5, "witnesses"), ("a note", WITNESS_KEY, "witnesses")],
)  # fmt: skip
def test_what_is_no_note_and_no_key_is_refused(
    tmp_path: Path, note: object, witnesses: object, field: str
) -> None:
    with open_signed(tmp_path / "j") as store:
        with pytest.raises(InvalidInput) as refused:
            store.add_cosignatures(note, witnesses)  # type: ignore[arg-type]  # ill-typed on purpose
        assert refused.value.field == field


def test_verify_compares_the_root_of_every_checkpoint_and_its_signature(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path, segment_max_bytes=1 << 15) as store:
        made = []
        for count in (1, 300, 2, 255):
            say(store, count)
            made.append(store.checkpoint())
        report = store.verify(keys=[LOG_KEY])
        assert report.ok
        hashes = [leaf_hash(event.event_hash) for event in store]
        assert report.root == root_of(hashes)
        assert store.verify("chain").root is None
        stranger = store.verify(keys=[Key(ORIGIN, THIEF.public_key)])
        assert [f.code for f in stranger.findings] == ["checkpoint-signature"] * 4
    for one in made:
        file = path / "checkpoints" / f"{one.size:020}.note"
        forged = str(Checkpoint(ORIGIN, one.size, b"\7" * 32))
        whole = file.read_bytes()
        file.write_text(str(Note(forged, (sign_note(forged, ORIGIN, LOG.private),))), "utf-8")
        with Store.open(path, mode="r") as reader:
            found = [(f.code, f.file) for f in reader.verify(keys=[LOG_KEY]).findings]
        assert found == [("checkpoint-root", str(file))]
        file.write_bytes(whole)


@pytest.mark.parametrize("durability", list(Durability))
def test_a_checkpoint_that_a_live_writer_makes_is_no_sign_of_tampering(
    tmp_path: Path, durability: Durability
) -> None:
    path = tmp_path / "j"

    def grow() -> None:
        say(store)
        made.append(store.checkpoint())

    def grow_once(done: int, total: int) -> None:
        if grown_at != len(made):
            return
        grow()

    made: list[object] = []
    with (
        open_signed(path, durability=durability, segment_max_bytes=1 << 14) as store,
        Store.open(path, mode="r") as reader,
    ):
        say(store, 50)
        # Made since the reader looked: read together with the events that it is over.
        grow()
        assert reader.verify("chain").events == 2
        report = reader.verify(keys=[LOG_KEY])
        assert report.findings == []
        assert len(reader) == len(store)
        # Made while either of them reads.
        for one in (reader, store):
            grow()
            grown_at = len(made)
            assert one.verify(progress=grow_once).findings == []
            assert len(made) == grown_at + 1


def test_a_checkpoint_over_events_that_are_gone_is_found_by_a_reader_too(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store, 20)
        with Store.open(path, mode="r") as reader:
            say(store, 5)
            made = store.checkpoint()
            forged = str(Checkpoint(ORIGIN, 999, b"\7" * 32))
            note = str(Note(forged, (sign_note(forged, ORIGIN, LOG.private),)))
            (path / "checkpoints" / f"{999:020}.note").write_text(note, "utf-8")
            found = [(f.code, f.expected, f.found) for f in reader.verify().findings]
            assert found == [("checkpoint-size", 999, len(store))]
            segment = next((path / "segments").glob("*.seg"))
            journal = segment.read_bytes()
            segment.write_bytes(journal[: journal.index(b"BPC1", 1000)])
            # A reader that lost what it read says so, and raises nothing.
            found = {f.code for f in reader.verify().findings}
            assert found == {"end-of-file", "checkpoint-size"}
            segment.write_bytes(journal)
    assert made.size < 999


def test_a_device_may_sign(tmp_path: Path) -> None:
    class Device:
        public_key = LOG.public_key

        def sign(self, message: bytes) -> bytes:
            return LOG.sign(message)

    device = Device()
    assert isinstance(device, Signer)
    with open_signed(tmp_path / "j", checkpoint_key=device, durability=Durability.SYNC) as store:
        store.append(WHERE, {}, kind=EventKind(0xF, 2))
        store.checkpoint()
    published(tmp_path / "j")
