"""Prove one event to somebody who has nothing, erase what it says, and see what still holds.

The stranger is a process of its own in a directory that holds a bundle and the log's public
key, and runs the command that anybody would type. What a bundle shows: docs/proofs.md; what an
erasure leaves: docs/guide/forget.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batpak.coordinate import Region
from batpak.errors import PayloadErased
from batpak.event import SALT_SIZE, Event
from batpak.ids import EventId
from batpak.proof.notes import Key
from batpak.signing import SigningKey
from batpak.store import Store
from batpak_cli.demo.screen import Proofs, heading, say, table
from batpak_cli.importers.git import GitCommit

__all__ = [
    "Answer",
    "Erased",
    "Proved",
    "Strangers",
    "erase_it",
    "prove_it",
    "tell_proof",
    "with_a_bit_flipped",
]

_BUNDLE, _KEY = "bundle.json", "log.key"
COMMAND: Final = ("verify", _BUNDLE, "--key", _KEY)
"""What the stranger types after `batpak`."""


_ANSWERS: Final = ("held", "failed", "not shown")
_TITLES: Final = (
    "the bundle",
    "the same, one bit of the payload flipped",
    "the bundle, once the payload is erased",
    "a new bundle of the erased event",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What `batpak verify` said to a stranger about a bundle."""

    files: tuple[str, ...]
    """All that the stranger's directory held."""
    lines: tuple[str, ...]
    code: int

    def named(self, answer: str) -> list[str]:
        """The checks with this answer: held, failed or not shown."""
        return [
            line[len(answer) :].split()[0].rstrip(":")
            for line in self.lines
            if line.startswith(answer)
        ]

    @property
    def is_proof(self) -> bool:
        """Whether every check that was made held, those of the tree among them."""
        held = self.named("held")
        return (
            self.code == 0
            and not self.named("failed")
            and {"form", "checkpoint", "inclusion"} <= set(held)
            and self.files == (_BUNDLE, _KEY)
        )


@dataclass(frozen=True, slots=True)
class Proved:
    """An event, the checkpoint that covers it, and the bundle that shows both."""

    event_id: EventId
    sequence: int
    size: int
    """Events that the checkpoint covers."""
    bundle: str
    key: Key
    """What the stranger got beforehand."""
    payload: bytes
    salt: bytes
    """16 random bytes that stand before the payload and nowhere else."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure and a compaction left."""

    refused: bool
    """Whether the payload is refused by name, in a store opened afterwards."""
    before: tuple[str, ...]
    """Files of the journal that held the payload or its salt."""
    after: tuple[str, ...]
    files: int
    findings: int
    same_hash: bool
    """Whether the event hash is what it was."""
    bundle: str
    """A new one, by a newer checkpoint, with the growth since the old one."""

    @property
    def held(self) -> bool:
        """Whether the bytes are gone and the journal is whole."""
        return (
            self.refused
            and bool(self.before)
            and not self.after
            and not self.findings
            and self.same_hash
        )


def prove_it(journal: Path, event: Event, key_file: Path) -> Proved:
    """Make a checkpoint key, sign the journal's size and root, and prove `event`.

    Raises ValueError for an event whose payload is not there and salted.
    """
    if event.envelope is None or event.row.codec != 1:
        raise ValueError(f"event {event.sequence} has no salted payload to erase")
    SigningKey.generate().save(key_file)
    # As anybody else would, from the file.
    signing = SigningKey.load(key_file)
    with Store.open(journal, checkpoint_key=signing) as store:
        made = store.checkpoint()
        return Proved(
            event.event_id,
            event.sequence,
            made.size,
            store.prove(event.event_id).to_json(),
            Key(store.origin, signing.public_key),
            event.envelope[SALT_SIZE:],
            event.envelope[:SALT_SIZE],
        )


def erase_it(journal: Path, proved: Proved, key_file: Path) -> Erased:
    """Erase the payload, take its bytes out of the segments, and prove the event again."""
    before = tuple(_files_with(journal, proved))
    signing = SigningKey.load(key_file)
    with Store.open(journal, checkpoint_key=signing) as store:
        old = store.get(proved.event_id).event_hash
        store.erase(proved.event_id, reason="the demo's request")
        store.compact()
    # Opened again: what is asked now is what stands on the disk.
    with Store.open(journal, checkpoint_key=signing) as store:
        event = store.get(proved.event_id)
        store.checkpoint()
        bundle = store.prove_range(proved.sequence, proved.sequence + 1, since=proved.size)
        findings = len(store.verify("full").findings)
        refused = _is_refused(event)
    # Closed: every file is as it will stay.
    return Erased(
        refused,
        before,
        tuple(_files_with(journal, proved)),
        sum(1 for _ in _files_of(journal)),
        findings,
        event.event_hash == old,
        bundle.to_json(),
    )


def _is_refused(event: Event) -> bool:
    try:
        _ = event.raw
    except PayloadErased:
        return True
    return False


def _files_of(journal: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(journal):
        for name in sorted(names):
            yield Path(folder, name)


def _files_with(journal: Path, proved: Proved) -> Iterator[str]:
    """Files of the journal, whatever they are for, that hold the payload or its salt."""
    for path in _files_of(journal):
        data = path.read_bytes()
        if proved.payload in data or proved.salt in data:
            yield str(path.relative_to(journal))


# --- told ------------------------------------------------------------------------------


def tell_proof(journal: Path, folder: Path, proofs: Proofs) -> None:
    """The demo's last part, about the oldest commit; `folder` is where the stranger works.

    Raises LookupError for a journal without a commit.
    """
    heading(5, "An event is proved to a stranger, and then what it says is erased")
    with Store.open(journal, mode="r") as store:
        event = next(store.query(Region(kind=GitCommit)), None)
    if event is None:
        raise LookupError("no commit was imported, so there is none to prove")
    key_file = folder / "checkpoints.pem"
    proved = prove_it(journal, event, key_file)
    with Strangers(folder / "strangers", proved.key) as strangers:
        strangers.ask("bundle", proved.bundle)
        strangers.ask("forged", with_a_bit_flipped(proved.bundle))
        erased = erase_it(journal, proved, key_file)
        strangers.ask("later", proved.bundle)
        strangers.ask("erased", erased.bundle)
        answers = strangers.answers()
    say(
        f"Event {proved.sequence}, a commit in {event.coordinate.entity}. The stranger has"
        f" {' and '.join(answers[0].files)}, no journal:",
        f"$ batpak {' '.join(COMMAND)}",
        *answers[0].lines,
    )
    columns = ("to the same stranger", "held", "failed", "what it says")
    table(columns, [_answer_row(*each) for each in zip(_TITLES, answers, strict=True)])
    _claim_proofs(proofs, proved, erased, answers)


def _answer_row(title: str, answer: Answer) -> tuple[str, ...]:
    held, failed = answer.named("held"), answer.named("failed")
    [content] = [name for name in _ANSWERS if "content" in answer.named(name)] or ["–"]
    return (title, str(len(held)), str(len(failed)), content)


def _claim_proofs(proofs: Proofs, proved: Proved, erased: Erased, answers: list[Answer]) -> None:
    first, forged, later, anew = answers
    proofs.add(
        first.is_proof and "content" in first.named("held"),
        f"a bundle of {len(proved.bundle):,} bytes and a key, alone in an empty directory, prove"
        f" event {proved.sequence} of {proved.size:,}",
    )
    proofs.add(
        forged.code == 1 and forged.named("failed") == ["content"],
        "the same bundle with one bit of the payload flipped is refused",
    )
    proofs.add(
        erased.held,
        f"erased: {len(erased.before)} of the journal's files held the payload,"
        f" {len(erased.after)} of {erased.files} do; {erased.findings} findings",
    )
    proofs.add(
        later.is_proof
        and later.named("held") == first.named("held")
        and anew.is_proof
        and "consistency" in anew.named("held")
        and "content" in anew.named("not shown"),
        "the bundle still proves the event, and so does a new one without the payload",
    )


# --- the stranger ----------------------------------------------------------------------


class Strangers:
    """Processes that verify bundles, each alone in a new directory; all at the same time.

    A context: whoever is still at work at its end is ended.
    """

    def __init__(self, folder: Path, key: Key) -> None:
        """`folder` is made; `key` is what all of them were given beforehand."""
        self._folder = folder
        self._key = key
        self._asked: list[tuple[subprocess.Popen[str], tuple[str, ...]]] = []

    def ask(self, name: str, bundle: str) -> None:
        """Give a bundle to one more of them, in a directory of this name."""
        folder = self._folder / name
        folder.mkdir(parents=True)
        (folder / _BUNDLE).write_text(bundle, encoding="utf-8")
        (folder / _KEY).write_text(f"{self._key}\n", encoding="utf-8")
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "batpak_cli", *COMMAND],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self._asked.append((child, tuple(sorted(os.listdir(folder)))))

    def answers(self) -> list[Answer]:
        """What they said, in the order in which they were asked."""
        return [
            Answer(files, tuple(child.communicate()[0].splitlines()), child.returncode)
            for child, files in self._asked
        ]

    def __enter__(self) -> Strangers:
        return self

    def __exit__(self, *_: object) -> None:
        for child, _files in self._asked:
            with child:
                child.kill()


def with_a_bit_flipped(bundle: str) -> str:
    """The same bundle, but for one bit of what its event says."""
    plain = json.loads(bundle)
    shown = plain["events"][0]
    envelope = bytearray.fromhex(shown["envelope"])
    envelope[-1] ^= 1
    shown["envelope"] = envelope.hex()
    return json.dumps(plain)
