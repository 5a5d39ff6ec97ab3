"""What has to hold of proofs after a power cut: checkpoints, tiles, receipts and their keys.

A checkpoint stands or not: a note that is in its place is whole, signed, and of events
that recovery has, one of which tells of it. What a stranger could have fetched before the
cut the journal must never forget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batpak import AppendReceipt, Store, canonical
from batpak.engine.checkpoints import StoredCheckpoint
from batpak.errors import BatpakError, InvalidInput
from batpak.ids import EventId
from batpak.kinds import SYSTEM_LOG_CHECKPOINT
from batpak.proof.bundle import verify_bundle
from batpak.proof.merkle import leaf_hash
from batpak.proof.notes import Checkpoint, Key, Note
from batpak.receipt import ReceiptKey, Signed
from batpak.signing import SigningKey
from batpak.tlog.trees import root_of
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles, State
from tests.crash.power_cuts.recording import JOURNAL, Judged, opened
from tests.support.proofs import LOG, LOG_KEY, ORIGIN, POLICY, WITNESS

__all__ = ["WITNESS_KEY", "Checkpointed", "Checkpoints", "Retired", "SignedReceipt"]

WITNESS_KEY = Key("example.net/witness", WITNESS.public_key, 4)
FOLDER = f"{JOURNAL}/checkpoints"
PUBLISHED = f"{JOURNAL}/tlog/checkpoint"


def notes_in(state: State) -> dict[int, bytes]:
    """The notes that have their names, by the size that the name says."""
    found: dict[int, bytes] = {}
    for name in state.names(FOLDER):
        if name.endswith(".note"):
            data = state.read(f"{FOLDER}/{name}")
            assert data is not None
            found[int(name.removesuffix(".note"))] = data
    return found


def opened_note(data: bytes) -> Checkpoint:
    """What a note says. Asserts that it is whole and that the log's key signed it."""
    try:
        note = Note.parse(data.decode())
        assert note.verified([LOG_KEY]), "a checkpoint is not signed by its log"
        said = Checkpoint.parse(note.text)
    except (BatpakError, UnicodeDecodeError) as error:
        raise AssertionError(f"a checkpoint's note is torn: {error!r}") from error
    assert said.origin == ORIGIN
    return said


class Checkpoints:
    """Every note in its place is true, and the next checkpoint can be made on what is there."""

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Judge all notes as the cut left them and after recovery; then make one more."""
        shown = judged.shown[: judged.recovered]
        leaves = [leaf_hash(each[2]) for each in shown]
        with opened(MemoryFiles(Disk(judged.after)), options) as store:
            told: dict[int, str] = {}
            for event in store:
                if event.kind == SYSTEM_LOG_CHECKPOINT:
                    payload: Any = canonical.decode(event.raw)
                    told[payload["size"]] = Note.parse(bytes(payload["note"]).decode()).text
        for state in (judged.before, judged.after):
            published = state.read(PUBLISHED)
            notes = notes_in(state)
            for size, data in (*notes.items(), *([] if published is None else [(-1, published)])):
                said = opened_note(data)
                assert size in (-1, said.size), "a note has another's name"
                assert said.size <= len(leaves), (
                    f"a checkpoint says more than is there: {said.size} events of {len(leaves)}"
                )
                assert said.root == root_of(leaves[: said.size]), "a checkpoint of other events"
                assert told.get(said.size) == Note.parse(data.decode()).text, (
                    "a checkpoint was published and no event tells of it"
                )
        disk = Disk(judged.after)
        with opened(MemoryFiles(disk), {**options, "checkpoint_key": LOG}) as store:
            newest = store.checkpoint()
            assert set(told) <= set(store.checkpoint_sizes()), "a checkpoint stays unpublished"
            report = store.verify("full", keys=[LOG_KEY])
            assert report.ok, report.findings
            # Tiles are not synced: a cut may have left anything in them.
            bundle = store.prove(
                EventId.from_bytes(shown[-1][1]) if shown else store.at(0).event_id
            )
            assert verify_bundle(bundle.to_json(), [], POLICY).ok, "a tile is believed as it is"
        published = disk.state().read(PUBLISHED)
        assert published is not None
        assert published.decode() == newest.note


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint that was given to somebody: its note stays, with all its signatures."""

    checkpoint: StoredCheckpoint

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Read its file as the cut left it."""
        if not promised:
            return
        data = notes_in(judged.before).get(self.checkpoint.size)
        assert data is not None, "a checkpoint that was given away is gone"
        kept = Note.parse(data.decode())
        given = Note.parse(self.checkpoint.note)
        assert kept.text == given.text
        assert set(given.signatures) <= set(kept.signatures), "a cosignature is gone"


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A signed receipt promises that its event is durable, and its key known."""

    receipt: AppendReceipt

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Have the recovered journal judge it."""
        if promised:
            with opened(MemoryFiles(Disk(judged.after)), options) as store:
                verdict = store.verify_receipt(self.receipt, require_signed=True)
                assert isinstance(verdict, Signed), f"a signed receipt is worthless: {verdict}"


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that was retired never signs again."""

    key: SigningKey

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Open with it."""
        if not promised:
            return
        key_id = ReceiptKey(self.key.public_key).key_id
        with opened(MemoryFiles(Disk(judged.after)), options) as store:
            [span] = [span for span in store.signing_keys() if span.key_id == key_id]
            assert span.until is not None, "a retired key is in force again"
        files = MemoryFiles(Disk(judged.after))
        try:
            Store.open(JOURNAL, files=files, **options, signing_keys=(self.key,))
        except InvalidInput:
            return
        finally:
            files.bury()
        raise AssertionError("a retired key signs again")
