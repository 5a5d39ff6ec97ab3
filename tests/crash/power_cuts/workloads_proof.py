"""Lives that are about proof and its opposite: checkpoints, signing keys, erasure.

What each of them promises beyond its events is a claim; see claims.py and proof_claims.py.
"""

from __future__ import annotations

import random
from typing import Final

from batpak import AppendReceipt, Durability, Region
from batpak.proof.notes import Note
from batpak.receipt import ReceiptKey
from batpak.tlog.signing import sign_note
from tests.crash.power_cuts.claims import Gone
from tests.crash.power_cuts.memory_files import Change
from tests.crash.power_cuts.proof_claims import (
    WITNESS_KEY,
    Checkpointed,
    Checkpoints,
    Retired,
    SignedReceipt,
)
from tests.crash.power_cuts.recording import Machine, begin, resumed
from tests.support.faulty_files import Killed
from tests.support.proofs import LATER, LOG, ORIGIN, RECEIPTS, WITNESS

__all__ = ["WORKLOADS"]


def checkpoints(draw: random.Random) -> Machine:
    """Checkpoints between appends: an event, a note, tiles; a witness signs one of them."""
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode, origin=ORIGIN)
    machine.own = {"checkpoint_key": LOG}
    machine.claim(Checkpoints())
    machine.open()
    for round_ in range(3):
        machine.commit(padding=draw.choice((30, 900)))
        if draw.random() < 0.5:
            machine.commit()
        made = machine.store.checkpoint()
        assert made.is_new
        # The event that tells of it is durable, whatever the mode.
        machine.promise(events=len(machine.store))
        machine.claim(Checkpointed(made))
        if round_ == 1:
            note = Note.parse(made.note)
            line = sign_note(note.text, WITNESS_KEY.name, WITNESS.private, time=1_800_000_000)
            whole = str(Note(note.text, (*note.signatures, line)))
            kept = machine.store.add_cosignatures(whole, [WITNESS_KEY])
            machine.claim(Checkpointed(kept))
    if draw.random() < 0.5:
        machine.close()
    return machine


def full_tiles(draw: random.Random) -> Machine:
    """A log that grows past the first full tile: tiles are believed, and none is ever synced."""
    first = Machine(draw, durability=Durability.OS, origin=ORIGIN)
    first.open()
    first.write(*[first.item("player:0", padding=0) for _ in range(draw.choice((245, 252, 260)))])
    first.close()
    machine = resumed(draw, first.disk.state(), durability=Durability.OS, origin=ORIGIN)
    machine.ledger.numbers = first.ledger.numbers
    machine.own = {"checkpoint_key": LOG}
    machine.claim(Checkpoints())
    machine.open()
    for _ in range(3):
        machine.write(*[machine.item(padding=0) for _ in range(draw.choice((1, 8)))])
        machine.claim(Checkpointed(machine.store.checkpoint()))
        machine.promise(events=len(machine.store))
    return machine


def killed_in_checkpoint(draw: random.Random) -> Machine:
    """A process dies anywhere in a checkpoint; the next one makes another."""
    machine = begin(draw, durability=Durability.OS, origin=ORIGIN)
    machine.own = {"checkpoint_key": LOG}
    machine.claim(Checkpoints())
    machine.open()
    machine.commit(padding=30)
    machine.claim(Checkpointed(machine.store.checkpoint()))
    machine.promise(events=len(machine.store))
    machine.commit()
    place = len(machine.disk.log) + draw.randrange(26)
    machine.files.stop_before = lambda _: len(machine.disk.log) >= place
    try:
        machine.claim(Checkpointed(machine.store.checkpoint()))
    except Killed:
        pass
    machine.die()
    machine.open()
    machine.commit(padding=30)
    machine.claim(Checkpointed(machine.store.checkpoint()))
    machine.promise(events=len(machine.store))
    return machine


def signing_keys(draw: random.Random) -> Machine:
    """Keys come into force, sign receipts, and are retired."""
    machine = begin(draw, durability=draw.choice((Durability.SYNC, Durability.OS)))
    receipts: list[AppendReceipt] = []

    def sign_some() -> None:
        for _ in range(2):
            receipts.extend(machine.write(machine.item(padding=draw.choice((30, 900)))))
        signed = machine.store.sign(draw.choice(receipts[-2:]))
        machine.promise(events=signed.sequence + 1)
        machine.claim(SignedReceipt(signed))

    machine.own = {"signing_keys": (RECEIPTS,)}
    machine.open()
    sign_some()
    machine.close()
    machine.own = {"signing_keys": (RECEIPTS, LATER)}
    machine.open()
    # Introducing a key is durable, whatever the mode.
    machine.promise(events=len(machine.store))
    sign_some()
    machine.store.retire_key(ReceiptKey(RECEIPTS.public_key).key_id, reason="its time is over")
    machine.promise(events=len(machine.store))
    machine.claim(Retired(RECEIPTS))
    sign_some()
    return machine


def erasure(draw: random.Random) -> Machine:
    """Payloads are erased, and taken out of segments of which some are sealed."""
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode, segment_max_bytes=4096)
    machine.open()
    gone: list[int] = []
    for _ in range(2):
        for _ in range(3):
            names = [draw.choice(("player:0", "player:1")) for _ in range(draw.choice((1, 1, 3)))]
            machine.write(*[machine.item(name, padding=draw.choice((30, 1300))) for name in names])
        machine.write(machine.item("player:0", padding=900))
        machine.commit("game", padding=draw.choice((30, 2500)))
        gone += erase(machine, draw.choice((Region("player:0"), Region("player"))))
        if draw.random() < 0.5:
            machine.commit("game", padding=30)
        machine.compact()
        machine.claim(Gone(tuple(gone)))
    machine.commit()
    if draw.random() < 0.5:
        machine.close()
    return machine


def erasure_in_one_segment(draw: random.Random) -> Machine:
    """The segment that is written to holds what is erased: it is rotated away and rewritten."""
    mode = draw.choice((Durability.SYNC, Durability.OS))
    machine = begin(draw, durability=mode)
    machine.open()
    machine.write(*[machine.item("player:0", padding=draw.choice((30, 3000))) for _ in range(3)])
    machine.commit("game")
    gone = erase(machine, Region("player:0"))
    machine.compact()
    machine.claim(Gone(gone))
    machine.commit()
    if draw.random() < 0.5:
        machine.close()
        machine.open()
    machine.write(machine.item("player:0", padding=900))
    gone = gone + erase(machine, Region("player:0"))
    machine.compact()
    machine.claim(Gone(gone))
    return machine


def killed_in_compaction(draw: random.Random) -> Machine:
    """A process dies anywhere in a compaction; the next one goes on, and may finish it."""
    first = begin(draw, durability=Durability.OS, segment_max_bytes=4096)
    first.open()
    for _ in range(4):
        first.write(first.item("player:0", padding=1500), first.item("game", padding=30))
    first.close()
    numbers = first.ledger.numbers
    machine = resumed(draw, first.disk.state(), durability=Durability.OS, segment_max_bytes=4096)
    machine.ledger.numbers = numbers
    machine.open()
    gone = erase(machine, Region("player:0"))
    place = len(machine.disk.log) + draw.randrange(60)

    def stop(_: Change) -> bool:
        return len(machine.disk.log) >= place

    machine.files.stop_before = stop
    try:
        machine.compact()
        machine.claim(Gone(gone))
    except Killed:
        pass
    machine.die()
    machine.open()
    machine.commit(padding=30)
    if draw.random() < 0.6 and machine.store.plan_compaction().segments:
        machine.compact()
        machine.claim(Gone(gone))
        machine.commit(padding=30)
    return machine


def erase(machine: Machine, what: Region) -> list[int]:
    """Erase, and say of which numbers the payloads are."""
    numbers: dict[int, int] = {}
    for event in machine.store.query(what):
        value: object = event.value if event.payload_state.value == "present" else None
        if isinstance(value, dict):
            numbers[event.sequence] = value["n"]
    return [numbers[sequence] for sequence in machine.erase(what)]


WORKLOADS: Final = (
    checkpoints, full_tiles, killed_in_checkpoint, signing_keys, erasure, erasure_in_one_segment,
    killed_in_compaction,
)  # fmt: skip
