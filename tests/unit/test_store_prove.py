"""Bundles and consistency proofs out of a journal, judged without it."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batpak import Coordinate, EventId, Item, Region, Store, canonical
from batpak.bundle import MAX_BUNDLE_LENGTH, Bundle
from batpak.engine.proving import MAX_KEY_EVENTS
from batpak.errors import EventNotFound, InvalidInput, JournalCorrupt, NotCheckpointed
from batpak.proof.bundle import Verdict, verify_bundle
from batpak.proof.merkle import verify_consistency
from batpak.receipt import ReceiptKey
from tests.support.faulty_files import RecordingFiles
from tests.support.proofs import (
    LATER,
    POLICY,
    RECEIPTS,
    SAID,
    WHERE,
    all_tiles,
    open_signed,
    say,
)
from tests.watched_files import WatchedFiles

DOCS = Path(__file__).resolve().parents[2] / "docs"


def judge(bundle: Bundle, *keys: ReceiptKey) -> Verdict:
    return verify_bundle(bundle.to_json(), keys, POLICY)


def answers(verdict: Verdict) -> dict[str, set[bool | None]]:
    found: dict[str, set[bool | None]] = {}
    for check in verdict.checks:
        found.setdefault(check.name, set()).add(check.held)
    return found


@pytest.mark.proves("INV-EVERY-EVENT-CAN-BE-PROVEN")
@pytest.mark.parametrize("count", [1, 2, 253, 254, 255, 300])
def test_every_event_is_proven_by_a_bundle_alone(tmp_path: Path, count: int) -> None:
    path = tmp_path / "j"
    with open_signed(path, segment_max_bytes=1 << 15) as store:
        store.append_many([Item(WHERE, {"n": n}, kind=SAID) for n in range(count)])
        size = store.checkpoint().size
        say(store)
        store.checkpoint()
    with Store.open(path, mode="r") as reader:
        for event in list(reader)[:size]:
            verdict = judge(reader.prove(event.event_id, size=size))
            assert verdict.ok, verdict
            assert answers(verdict)["inclusion"] == {True}
            assert answers(verdict)["content"] == {True}


def test_a_signed_bundle_shows_its_key_in_force(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = say(store, 3)[1]
        store.checkpoint()
        say(store)
        store.checkpoint()
        bundle = store.prove(receipt.event_id)
        # By the key that the bundle shows, and by one that the reader brings along.
        for verdict in (judge(bundle), judge(bundle, ReceiptKey(RECEIPTS.public_key))):
            found = answers(verdict)
            assert verdict.ok
            for name in ("receipt", "key-event", "key-added", "key-not-retired"):
                assert found[name] == {True}, name
        other = judge(bundle, ReceiptKey(LATER.public_key))
        assert answers(other)["receipt"] == {False}
        assert not other.ok


def test_a_key_retired_before_the_event_shows_in_its_bundle(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j", signing_keys=(RECEIPTS, LATER)) as store:
        store.retire_key(LATER.key_id)
        receipt = say(store)[0]
        forged = receipt.signed_with(LATER.key_id, LATER.sign(receipt.signed_message))
        store.checkpoint()
        say(store)
        store.checkpoint()
        verdict = judge(store.prove(receipt.event_id, receipt=forged))
        assert not verdict.ok
        assert answers(verdict)["receipt"] == {False}


def test_where_they_are_not_all_carried_a_retirement_is(tmp_path: Path) -> None:
    path = tmp_path / "j"
    open_signed(path, signing_keys=(RECEIPTS, LATER)).close()
    for _ in range(MAX_KEY_EVENTS // 2 + 1):
        open_signed(path).close()
    with open_signed(path) as store:
        receipt = say(store)[0]
        store.retire_key(LATER.key_id)
        store.checkpoint()
        signed = receipt.signed_with(LATER.key_id, LATER.sign(receipt.signed_message))
        bundle = store.prove(receipt.event_id, receipt=signed)
        kinds = [event.open().kind.raw for event in bundle.key_events]
        assert kinds == [0x0015, 0x0016]
        assert judge(bundle).ok


def test_many_events_of_the_journal_itself_are_not_all_carried(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for _ in range(MAX_KEY_EVENTS // 2 + 1):
        with open_signed(path) as store:
            receipt = say(store)[0]
    with open_signed(path) as store:
        store.checkpoint()
        bundle = store.prove(receipt.event_id, receipt=store.sign(receipt))
        assert len(bundle.key_events) == 1
        verdict = judge(bundle)
        assert verdict.ok
        assert answers(verdict)["key-added"] == {True}
        assert answers(verdict)["key-not-retired"] == {None}
    for page in ("proofs.md", "guide/prove.md"):
        assert f" {MAX_KEY_EVENTS} " in (DOCS / page).read_text("utf-8"), page
    # With a new key the count begins anew.
    with open_signed(path, signing_keys=(RECEIPTS, LATER)) as store:
        receipt = say(store)[0]
        for _ in range(2):
            say(store)
            store.checkpoint()
        verdict = judge(store.prove(receipt.event_id))
        assert answers(verdict)["key-not-retired"] == {True}


def test_a_withheld_payload_is_nowhere_in_the_bundle(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = store.append(WHERE, {"secret": "the moon is made"}, kind=SAID)
        store.checkpoint()
        shown, withheld = (
            store.prove(receipt.event_id, withhold_payload=flag) for flag in (False, True)
        )
    said = b"the moon is made".hex()
    assert said in shown.to_json()
    assert said not in withheld.to_json()
    assert withheld.events[0].payload_state == "withheld"
    verdict = judge(withheld)
    assert verdict.ok
    assert answers(verdict)["content"] == {None}


def test_a_range_has_one_proof_and_grows_out_of_an_older_checkpoint(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        say(store, 100)
        old = store.checkpoint()
        say(store, 300)
        store.checkpoint()
        bundle = store.prove_range(50, 70, since=old.size)
        assert len(bundle.events) == 20
        found = answers(judge(bundle))
        assert found["inclusion"] == found["chain"] == found["consistency"] == {True}
        for first, end in ((5, 5), (7, 5), (-1, 3), (0, len(store) + 1), (0, True)):
            with pytest.raises(InvalidInput) as caught:
                store.prove_range(first, end)
            assert caught.value.field == "first"
        with pytest.raises(NotCheckpointed):
            store.prove_range(len(store) - 1, len(store))


def test_consistency_is_proven_from_any_size_to_any_checkpoint(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        roots: dict[int, bytes] = {}
        for count in (1, 5, 250, 30):
            say(store, count)
            made = store.checkpoint()
            roots[made.size] = made.root
        for new, root in roots.items():
            for old in range(new + 1):
                proof = store.prove_consistency(old, new)
                assert verify_consistency(old, proof.old_root, new, root, proof.hashes)
                assert proof.old_root == roots.get(old, proof.old_root)
        for old in (-1, new + 1, True):
            with pytest.raises(InvalidInput):
                store.prove_consistency(old)


@pytest.mark.parametrize("mode", ["r", "rw"])
@pytest.mark.parametrize("lost", ["all", "each changed", "each cut", "each gone"])
def test_proofs_are_right_without_right_tiles(tmp_path: Path, lost: str, mode: str) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        receipts = say(store, 600)
        store.checkpoint()
    if lost == "all":
        shutil.rmtree(path / "tlog")
    else:
        for tile in all_tiles(path):
            data = tile.read_bytes()
            if lost == "each gone":
                tile.unlink()
            else:
                tile.write_bytes(data[:-1] + (b"\xff" if lost == "each changed" else b""))
    files = WatchedFiles()
    options = {"mode": "r"} if mode == "r" else {}
    with Store.open(path, files=files, **options) as store:
        for receipt in (receipts[0], receipts[299], receipts[-1]):
            assert judge(store.prove(receipt.event_id)).ok
    if mode == "r":
        assert not files.opened_to_write


def test_a_tile_that_goes_bad_under_an_open_store_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        receipts = say(store, 600)
        store.checkpoint()
        for tile in all_tiles(path):
            tile.write_bytes(bytes(tile.stat().st_size))
        for receipt in receipts[::60]:
            assert judge(store.prove(receipt.event_id)).ok


def test_what_is_not_covered_or_not_there_is_named(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = say(store)[0]
        with pytest.raises(NotCheckpointed, match="no checkpoint yet"):
            store.prove(receipt.event_id)
        made = store.checkpoint()
        late = say(store)[0]
        with pytest.raises(NotCheckpointed, match="does not cover"):
            store.prove(late.event_id)
        with pytest.raises(NotCheckpointed) as caught:
            store.prove(receipt.event_id, size=made.size - 1)
        assert caught.value.size == made.size - 1
        with pytest.raises(EventNotFound):
            store.prove(EventId.from_bytes(b"x" * 16))
        with pytest.raises(InvalidInput, match="not that of the event"):
            store.prove(receipt.event_id, receipt=late)


def test_a_bundle_is_one_line_of_json_and_comes_back(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = say(store)[0]
        store.checkpoint()
        bundle = store.prove(receipt.event_id)
    text = bundle.to_json()
    assert "\n" not in text
    assert Bundle.parse(text) == bundle
    shown = json.loads(text)["events"][0]
    assert shown["receipt"]["signature"] == bundle.events[0].receipt["signature"]
    assert shown["receipt"]["replayed"] is False


def test_proofs_are_made_while_the_tree_grows_and_nothing_is_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "j"
    files = RecordingFiles()
    with open_signed(path, files=files) as store:
        receipts = say(store, 300)
        store.checkpoint()
        stop = threading.Event()

        def prove() -> int:
            count = 0
            while not stop.is_set() or count < 5:
                assert judge(store.prove(receipts[count % 300].event_id)).ok
                count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            provers = [pool.submit(prove) for _ in range(2)]
            try:
                for _ in range(8):
                    store.append_many([Item(WHERE, {"n": n}, kind=SAID) for n in range(60)])
                    store.checkpoint()
            finally:
                stop.set()
            assert all(prover.result() >= 5 for prover in provers)
    written = [o.path for o in files.operations if o.name == "pwrite" and "entries/000" in o.path]
    assert len([path for path in written if ".p/" not in path]) == 1


@pytest.mark.proves("INV-BUNDLE-VERIFIES")
def test_a_bundle_that_nobody_would_read_is_refused_when_it_is_made(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j", signing_keys=()) as store:
        receipts = [
            store.append_raw(WHERE, SAID, canonical.encode(bytes(11 << 20))) for _ in range(3)
        ]
        store.checkpoint()
        first = receipts[0].sequence
        assert judge(store.prove_range(first, first + 2)).ok
        with pytest.raises(InvalidInput) as caught:
            store.prove_range(first, first + 3)
        assert str(MAX_BUNDLE_LENGTH) in caught.value.what
        assert (caught.value.field, caught.value.value) == ("end", first + 3)
        assert "withhold_payload" in caught.value.advice
        assert "fewer events" in caught.value.advice
        assert judge(store.prove_range(first, first + 3, withhold_payload=True)).ok


def test_a_bundle_of_too_many_small_events_is_refused_by_its_real_size(tmp_path: Path) -> None:
    number = 50_000
    with open_signed(tmp_path / "j", signing_keys=()) as store:
        where = Coordinate("e" * 250, "s" * 250)
        told = store.append_many([Item(where, None, kind=SAID) for _ in range(number)])
        store.checkpoint()
        first = told[0].sequence
        with pytest.raises(InvalidInput) as caught:
            store.prove_range(first, first + number, withhold_payload=True)
        assert "fewer events" in caught.value.advice
        assert "withhold" not in caught.value.advice


@pytest.mark.parametrize("tiles", [True, False], ids=["tiles", "no-tiles"])
@pytest.mark.parametrize("most", [4, 64])
def test_a_reader_proves_on_through_compactions(tmp_path: Path, tiles: bool, most: int) -> None:
    """Its parts of the index are of files that are gone: each is paired anew, once."""
    path = tmp_path / "j"
    with open_signed(path, segment_max_bytes=4096) as store:
        for n in range(60):
            say(store, entity=f"agent:{n % 5}")
        store.checkpoint()
    with open_signed(path, segment_max_bytes=4096) as store:
        if not tiles:
            shutil.rmtree(path / "tlog")
        with Store.open(path, mode="r", max_open_files=most) as reader:
            for number in (1, 2):
                assert [event.sequence for event in reader] == list(range(len(reader)))
                store.erase(Region(entity=f"agent:{number}"), reason="asked for")
                assert store.compact().outcome == "performed"
                for _ in range(2):
                    assert judge(reader.prove_range(3, 5)).ok
                    proof = reader.prove_consistency(50)
                    assert verify_consistency(
                        50, proof.old_root, proof.checkpoint.size, proof.checkpoint.root,
                        proof.hashes,
                    )  # fmt: skip
                reader.refresh()


def test_a_reader_behind_the_newest_checkpoint_proves_by_it(tmp_path: Path) -> None:
    """With tiles or without: what the checkpoint is over is looked for first."""
    path = tmp_path / "j"

    def grown() -> int:
        with open_signed(path) as store:
            say(store, 300)
            size = store.checkpoint().size
        shutil.rmtree(path / "tlog")
        return size

    grown()
    with Store.open(path, mode="r") as reader:
        size = grown()
        assert size > len(reader)
        assert judge(reader.prove_range(3, 5)).ok
        assert len(reader) >= size
        size = grown()
        assert reader.prove_consistency(50).checkpoint.size == size
        size = grown()
        assert judge(reader.prove(reader.at(7).event_id, size=size)).ok


def test_a_checkpoint_over_more_than_there_is_proves_nothing_and_is_named(tmp_path: Path) -> None:
    """One of a longer history, as after a restore with the checkpoints of the original."""
    path = tmp_path / "j"
    with open_signed(path) as store:
        say(store, 20)
        store.snapshot(tmp_path / "early")
        say(store, 20)
        made = store.checkpoint()
    Store.restore(tmp_path / "early", tmp_path / "back", resume=True)
    folder = tmp_path / "back" / "checkpoints"
    folder.mkdir()
    with Store.open(tmp_path / "back", mode="r") as reader:
        note = path / "checkpoints" / f"{made.size:020}.note"
        shutil.copy(note, folder / note.name)
        with pytest.raises(JournalCorrupt) as caught:
            reader.prove_range(3, 5)
        with pytest.raises(JournalCorrupt):
            reader.prove_consistency(5)
        assert caught.value.file == str(folder / note.name)
        assert caught.value.reason == "checkpoint-size"
        assert (caught.value.first, caught.value.last) == (len(reader), made.size - 1)
