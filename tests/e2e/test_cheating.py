"""Every row of docs/cheating.md, tried: what catches it, and what that takes.

The forger may write the journal, knows the format and makes every checksum right; where a row
says so, he has a key as well. Where nothing in the journal helps, the row says what does.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from batpak import Coordinate, EventKind, Store
from batpak.bundle import Bundle
from batpak.engine.system import key_shredded_event
from batpak.errors import (
    BatpakError,
    Conflict,
    Damaged,
    KeyUnavailable,
    PayloadDamaged,
    PayloadShredded,
)
from batpak.keyring import FileKeyring
from batpak.keyring.files import encode_key_file
from batpak.proof.bundle import verify_bundle
from batpak.proof.notes import Key, Note, Policy
from batpak.receipt import Invalid, Reason, ReceiptKey
from batpak_cli.demo.forger import ForgedJournal
from batpak_cli.witness import Witness
from tests.support.proofs import (
    LATER,
    LOG,
    LOG_KEY,
    ORIGIN,
    POLICY,
    RECEIPTS,
    THIEF,
    WITNESS,
    open_signed,
    say,
)

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "cheating.md"
NAME = "example.net/witness"
WITNESS_KEY = Key(NAME, WITNESS.public_key, 4)
VICTIM = 20


@dataclass
class Scene:
    """A journal with a checkpoint that a witness has seen, and what others were given of it."""

    path: Path
    earlier: Path
    """A copy from before the checkpoint."""
    note: str
    bundle: Bundle
    """Of event VICTIM, signed."""
    state: Path
    """The witness's memory."""

    def witness(self) -> Witness:
        return Witness(LOG_KEY, NAME, WITNESS, str(self.state))

    def request(self, path: Path, old: int, key: object = LOG) -> str:
        """What the forger asks the witness with, after a new checkpoint of his history."""
        with open_signed(path, checkpoint_key=key) as store:
            say(store, 20)
            store.checkpoint()
            size = store.stored_checkpoint().size
            return store.prove_consistency(min(old, size)).request()

    @property
    def size(self) -> int:
        return int(self.note.split("\n")[1])


@pytest.fixture(name="scene")
def scene_of_a_witnessed_journal(tmp_path: Path) -> Scene:
    path = tmp_path / "journal"
    with open_signed(path) as store:
        for entity in ("agent:1", "agent:2"):
            say(store, 15, entity=entity)
    earlier = tmp_path / "earlier"
    shutil.copytree(path, earlier)
    with open_signed(path) as store:
        say(store, 15, entity="agent:3")
        made = store.checkpoint()
        request = store.prove_consistency(0).request()
        say(store)
        store.checkpoint()
        bundle = store.prove(store.at(VICTIM).event_id)
    scene = Scene(path, earlier, made.note, bundle, tmp_path / "seen")
    scene.witness().cosign(request)
    return scene


def verdict(path: Path, key: Key = LOG_KEY) -> set[str]:
    """By what names open and verify catch the journal as it stands."""
    try:
        with Store.open(path) as store:
            return {finding.code for finding in store.verify(keys=[key]).findings}
    except Damaged as error:
        return {str(error.facts.get("reason"))}


def forged(path: Path, change: Callable[[ForgedJournal], object], *, hashes: bool = True) -> None:
    journal = ForgedJournal(path)
    change(journal)
    if hashes:
        journal.renumber()
        journal.rehash()
    journal.write()


def forget_checkpoints(path: Path) -> None:
    """Remove every trace of checkpoints, the events that tell of them included."""
    shutil.rmtree(path / "checkpoints")
    shutil.rmtree(path / "tlog")

    def change(journal: ForgedJournal) -> None:
        while told := [event.row.sequence for event in journal if event.row.kind == 0x13]:
            journal.remove(told[-1])

    forged(path, change)


def duplicate(journal: ForgedJournal) -> None:
    records = journal.segments[0].records
    place = next(i for i, r in enumerate(records) if r.events and r.events[0].row.sequence == 9)
    twin = ForgedJournal(journal.layout.root).segments[0].records[place]
    # A copy under an id of its own, as somebody who repeats a payment would make it.
    twin.events[0].set(event_id=b"\1" * 16, correlation_id=b"\1" * 16, flags=0x100)
    records.insert(place + 1, twin)


def insert(journal: ForgedJournal) -> None:
    duplicate(journal)


FIELDS = [
    "event_id",
    "correlation_id",
    "causation_id",
    "timestamp_us",
    "hlc",
    "lane",
    "depth",
    "kind",
    "payload_version",
    "flags",
]
CHANGES: dict[str, Callable[[ForgedJournal], object]] = {
    "payload": lambda j: j.change_payload(VICTIM),
    "reorder": lambda j: j.swap(10, 20),
    "delete": lambda j: j.remove(VICTIM),
    "insert": insert,
    "duplicate": duplicate,
    "truncate": lambda j: j.cut(VICTIM),
    "entity": lambda j: setattr(j.at(5), "metadata", b"agent:9" + j.at(5).metadata[7:]),
}


def set_field(name: str) -> Callable[[ForgedJournal], object]:
    def change(journal: ForgedJournal) -> None:
        event = journal.at(VICTIM)
        value = getattr(event.row, name)
        if isinstance(value, bytes):
            event.set(**{name: bytes([*value[:-1], value[-1] ^ 1])})
        else:
            event.set(**{name: value ^ 1 if name != "kind" else value + 1})

    return change


ROWS: dict[str, Callable[[Scene], None]] = {}


def row(name: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    def add(attempt: Callable[[Scene], None]) -> Callable[[Scene], None]:
        ROWS[name] = attempt
        return attempt

    return add


def _rewritten(name: str, change: Callable[[ForgedJournal], object]) -> None:
    def attempt(scene: Scene) -> None:
        forged(scene.path, change)
        assert verdict(scene.path) & {"checkpoint-root", "checkpoint-size"} or name == "truncate"
        # Gone with the checkpoints, the journal is without fault in itself: the bundle is not.
        forget_checkpoints(scene.path)
        assert verdict(scene.path) <= {"hlc", "timestamp"}
        # Who signs the forgery has two histories under one name, and the witness saw the other.
        with pytest.raises(Conflict) as caught:
            scene.witness().cosign(scene.request(scene.path, scene.size))
        assert re.search("rollback|fork|not-consistent", str(caught.value))

    ROWS[name] = attempt


for _field in FIELDS:
    _rewritten(f"any field of any event: {_field}", set_field(_field))
for _name, _change in CHANGES.items():
    _rewritten(_name, _change)


@row("splice")
def _splice(scene: Scene) -> None:
    other = scene.path.parent / "other"
    with open_signed(other) as store:
        say(store, 46)
    forged(scene.path, lambda j: j.splice(0, ForgedJournal(other).segments[0]))
    assert verdict(scene.path) & {"checkpoint-root", "checkpoint-size", "end-of-file"}


@row("a rewritten journal with recomputed hashes")
def _rewritten_with_hashes(scene: Scene) -> None:
    def change(journal: ForgedJournal) -> None:
        for event in journal:
            event.set(timestamp_us=event.row.timestamp_us - 1_000_000)

    forged(scene.path, change)
    assert verdict(scene.path) == {"checkpoint-root"}
    with open_signed(scene.path) as store, pytest.raises(Damaged, match="signed over"):
        store.checkpoint()


@row("a checkpoint signed anew over it, with another key")
def _other_key(scene: Scene) -> None:
    forged(scene.path, lambda j: j.change_payload(VICTIM))
    forget_checkpoints(scene.path)
    with open_signed(scene.path, checkpoint_key=THIEF) as store:
        store.checkpoint()
        assert store.verify().ok
    assert verdict(scene.path) == {"checkpoint-signature"}
    with Store.open(scene.path, mode="r") as reader:
        bundle = reader.prove(reader.at(VICTIM).event_id)
    assert not verify_bundle(bundle.to_json(), (), POLICY).ok


@row("fork of history shown to two parties")
def _fork(scene: Scene) -> None:
    with open_signed(scene.earlier) as store:
        while len(store) < scene.size:
            say(store)
        fork = store.checkpoint()
    assert fork.size == scene.size
    # Each is flawless for whoever sees only the one.
    assert verdict(scene.earlier) == set()
    POLICY.open(fork.note)
    with open_signed(scene.earlier) as store:
        request = store.prove_consistency(scene.size, fork.size).request()
    with pytest.raises(Conflict, match="fork"):
        scene.witness().cosign(request)
    policy = Policy(LOG_KEY, (WITNESS_KEY,), 1)
    with Store.open(scene.earlier, mode="r") as reader:
        bundle = reader.prove(reader.at(VICTIM).event_id)
    checks = {c.name: c.held for c in verify_bundle(bundle.to_json(), (), policy).checks}
    assert checks["witnesses"] is False


@row("a rollback to an older snapshot")
def _rollback(scene: Scene) -> None:
    # The copy is honest, only old: nothing in it is wrong.
    assert verdict(scene.earlier) == set()
    with open_signed(scene.earlier) as store:
        made = store.checkpoint()
        assert made.size < scene.size
        request = store.prove_consistency(made.size).request()
    with pytest.raises(Conflict, match="rollback"):
        scene.witness().cosign(request)


@row("a rollback that was then written on")
def _rollback_written_on(scene: Scene) -> None:
    with open_signed(scene.earlier) as store:
        say(store, 100)
        store.checkpoint()
        request = store.prove_consistency(scene.size).request()
    with pytest.raises(Conflict, match="not-consistent"):
        scene.witness().cosign(request)


@row("backdating with a retired key")
def _backdating(scene: Scene) -> None:
    with open_signed(scene.path, signing_keys=(RECEIPTS, LATER)) as store:
        store.retire_key(LATER.key_id, reason="a laptop was stolen")
        receipt = say(store)[0]
        late = receipt.signed_with(LATER.key_id, LATER.sign(receipt.signed_message))
        assert store.verify_receipt(late) == Invalid(Reason.NOT_IN_FORCE)
        store.checkpoint()
        bundle = store.prove(receipt.event_id, receipt=late)
    verdict = verify_bundle(bundle.to_json(), (), POLICY)
    assert {c.name for c in verdict.checks if c.held is False} >= {"receipt"}


@row("a stolen receipt key")
def _stolen_receipt_key(scene: Scene) -> None:
    # It signs anything; without a place in the tree of a signed checkpoint it proves nothing.
    liar = scene.path.parent / "liar"
    with open_signed(liar, signing_keys=(RECEIPTS,), checkpoint_key=THIEF) as store:
        receipt = say(store)[0]
        store.checkpoint()
        lie = store.prove(receipt.event_id)
    found = verify_bundle(lie.to_json(), [ReceiptKey(RECEIPTS.public_key)], POLICY)
    answers = {check.name: check.held for check in found.checks}
    assert answers["receipt"] is True
    assert answers["checkpoint"] is answers["inclusion"] is False


@row("a stolen checkpoint key")
def _stolen_checkpoint_key(scene: Scene) -> None:
    liar = scene.path.parent / "liar"
    with open_signed(liar) as store:
        receipt = say(store)[0]
        store.checkpoint()
        lie = store.prove(receipt.event_id)
    assert verify_bundle(lie.to_json(), (), POLICY).ok
    asked = verify_bundle(lie.to_json(), (), Policy(LOG_KEY, (WITNESS_KEY,), 1))
    assert {c.name for c in asked.checks if c.held is False} == {"witnesses"}
    with open_signed(liar) as store:
        request = store.prove_consistency(0).request()
    with pytest.raises(Conflict, match="rollback"):
        scene.witness().cosign(request)


@row("any byte of a bundle that is proved")
def _bytes_of_a_bundle(scene: Scene) -> None:
    text = scene.bundle.to_json()
    good = verify_bundle(text, (), POLICY)
    assert good.ok
    step = max(1, len(text) // 400)
    for at in range(0, len(text), step):
        other = "1" if text[at] != "1" else "2"
        changed = verify_bundle(text[:at] + other + text[at + 1 :], (), POLICY)
        assert changed != good, at
        assert not changed.ok, at


@row("a byte of a bundle that is only told")
def _told_in_a_bundle(scene: Scene) -> None:
    """Here everything is signed by keys at hand; tests/unit/test_proof_bundle.py has the rest."""
    text = scene.bundle.to_json()
    for told, lie in (
        ('"durable":true', '"durable":false'),
        ('"replayed":false', '"replayed":true'),
        ('"payload_state":"present"', '"payload_state":"shredded"'),
    ):
        assert told in text
        assert verify_bundle(text.replace(told, lie), (), POLICY).ok
    (journal_id,) = {shown["journal_id"] for shown in receipts_of(scene.bundle)}
    other = journal_id.replace(journal_id[0], "1" if journal_id[0] != "1" else "2")
    found = verify_bundle(text.replace(journal_id, other), (), POLICY)
    assert [check.name for check in found.checks if check.held is False] == ["receipt"]
    stripped = [{**shown, "key_id": None, "signature": None} for shown in receipts_of(scene.bundle)]
    unsigned = replace(
        scene.bundle,
        events=[
            replace(shown, receipt=receipt)
            for shown, receipt in zip(scene.bundle.events, stripped, strict=True)
        ],
    )
    assert verify_bundle(unsigned.to_json().replace(journal_id, other), (), POLICY).ok


def receipts_of(bundle: Bundle) -> list[dict[str, Any]]:
    return [shown.receipt for shown in bundle.events if shown.receipt is not None]


@row("a payload exchanged in a bundle")
def _payload_in_bundle(scene: Scene) -> None:
    text = scene.bundle.to_json()
    shown = scene.bundle.events[0].envelope
    assert shown is not None
    lie = text.replace(shown, shown[:-2] + "7f")
    found = verify_bundle(lie, (), POLICY)
    assert [check.name for check in found.checks if check.held is False] == ["content"]


@row("a checkpoint's file removed or cut")
def _checkpoint_removed(scene: Scene) -> None:
    files = sorted((scene.path / "checkpoints").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-9])
    assert "checkpoint-note" in verdict(scene.path)
    files[0].unlink()
    # Nobody misses it in the journal; whoever kept the note still shows what was signed.
    assert verdict(scene.path) == set()
    said = Note.parse(scene.note)
    assert said.verified([LOG_KEY])
    assert said.text.startswith(ORIGIN)


@dataclass
class Vaulted:
    """A journal of two encrypted events of one entity, and its keyring."""

    path: Path
    ring: FileKeyring

    @classmethod
    def made(cls, scene: Scene) -> Vaulted:
        place = scene.path.parent / "vaulted"
        ring = FileKeyring.create(place.with_name("keys"))
        with Store.open(place, codec="encrypted", keyring=ring) as store:
            for text in ("yes", "no"):
                store.append(Coordinate("person:1", "vote"), text, kind=EventKind(0xF, 1))
        return cls(place, ring)

    def read(self, sequence: int) -> object:
        with Store.open(self.path, mode="r", keyring=self.ring) as store:
            return store.at(sequence).value

    def verdict(self) -> set[str]:
        with Store.open(self.path, mode="r", keyring=self.ring) as store:
            return {finding.code for finding in store.verify().findings}


@row("a key put in another's place")
def _key_exchanged(scene: Scene) -> None:
    vaulted = Vaulted.made(scene)
    assert vaulted.read(1) == "yes"
    (file,) = Path(vaulted.ring.path).glob("*.key")
    key_id = bytes.fromhex(file.stem)
    file.write_bytes(encode_key_file(key_id, b"a key under which it says no    " * 2, 0))
    with pytest.raises(KeyUnavailable) as caught:
        vaulted.read(1)
    assert caught.value.reason == "wrong-key"
    assert vaulted.verdict() == {"wrong-key"}


@row("an encrypted payload put in another event")
def _ciphertext_moved(scene: Scene) -> None:
    vaulted = Vaulted.made(scene)

    def change(journal: ForgedJournal) -> None:
        journal.at(1).envelope = journal.at(2).envelope
        journal.at(1).set(envelope_len=len(journal.at(2).envelope))

    forged(vaulted.path, change)
    with pytest.raises(PayloadDamaged) as caught:
        vaulted.read(1)
    assert caught.value.reason == "seal"
    assert vaulted.verdict() == {"seal"}
    assert vaulted.read(2) == "no"


@row("a shredded key brought back from a backup")
def _key_restored(scene: Scene) -> None:
    vaulted = Vaulted.made(scene)
    (file,) = Path(vaulted.ring.path).glob("*.key")
    backup = file.read_bytes()
    with Store.open(vaulted.path, keyring=vaulted.ring) as store:
        store.shred([1, 2])
    file.write_bytes(backup)
    file.chmod(0o600)
    with pytest.raises(PayloadShredded):
        vaulted.read(1)
    Store.open(vaulted.path, keyring=vaulted.ring).close()
    assert not file.exists()


@row("the event removed that says a key is shredded")
def _shredding_removed(scene: Scene) -> None:
    with open_signed(scene.path) as store:
        told = store._appender.commit((key_shredded_event(key_id=b"k" * 16),), durable=True)
        say(store, 20)
        store.checkpoint()
    forged(scene.path, lambda journal: journal.remove(told[0].sequence))
    assert verdict(scene.path) & {"checkpoint-root", "checkpoint-size"}


@pytest.mark.proves("INV-CHEATING-IS-CAUGHT")
@pytest.mark.parametrize("name", ROWS)
def test_a_way_of_cheating_is_caught_as_the_page_says(name: str, scene: Scene) -> None:
    ROWS[name](scene)


def test_the_page_has_a_row_for_each() -> None:
    shown = {
        line.split("|")[1].strip() for line in PAGE.read_text("utf-8").splitlines() if "|" in line
    }
    missing = {name.partition(":")[0] for name in ROWS} - shown
    assert not missing, missing


def test_the_scene_itself_is_in_order(scene: Scene) -> None:
    assert verdict(scene.path) == set()
    assert verify_bundle(scene.bundle.to_json(), (), POLICY).ok
    with open_signed(scene.path) as store:
        request = store.prove_consistency(scene.size).request()
    assert scene.witness().cosign(request).size > scene.size
    with pytest.raises(BatpakError):
        scene.witness().cosign("old 1\n\nx")
