"""The demo's last part: what a stranger says to bundles, and what an erasure leaves.

On a small journal whose events are known here, by the functions that the demo calls; the
stranger is a process, as in the demo.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from batpak import Coordinate, Durability, Store
from batpak.errors import PayloadErased
from batpak.proof.notes import Key
from batpak.signing import SigningKey
from batpak_cli.demo.proving import (
    Answer,
    Erased,
    Proved,
    Strangers,
    erase_it,
    prove_it,
    tell_proof,
    with_a_bit_flipped,
)
from batpak_cli.demo.screen import Proofs
from batpak_cli.importers.git import GitCommit

SECRET = "what nobody else wrote: 8f3a"
COMMIT = GitCommit("ab" * 20, [], "ann", None, 1, 1, SECRET, "")
SEGMENT = 16_384


def fill(path: Path, codec: str = "salted") -> None:
    """Event 1 holds the secret; 200 others, so that it does not stand in the newest segment."""
    with Store.open(
        path, durability=Durability.OS, segment_max_bytes=SEGMENT, codec=codec
    ) as store:
        store.append(Coordinate("repo:test", "import"), COMMIT)
        for number in range(200):
            subject = f"commit {number}"
            store.append(Coordinate("repo:test", "import"), replace_subject(subject))


def replace_subject(subject: str) -> GitCommit:
    return GitCommit("cd" * 20, [], "ann", None, 1, 1, subject, "")


@pytest.fixture
def proved(tmp_path: Path) -> Proved:
    fill(tmp_path / "journal")
    with Store.open(tmp_path / "journal", mode="r") as store:
        event = store.at(1)
    return prove_it(tmp_path / "journal", event, tmp_path / "key.pem")


def asked(folder: Path, key: Key, *bundles: str) -> list[Answer]:
    with Strangers(folder, key) as strangers:
        for number, bundle in enumerate(bundles):
            strangers.ask(str(number), bundle)
        return strangers.answers()


def test_a_stranger_verifies_with_a_bundle_and_a_key_alone(proved: Proved, tmp_path: Path) -> None:
    # The journal is out of reach: nothing of it can have helped.
    (tmp_path / "journal").rename(tmp_path / "elsewhere")
    forged = with_a_bit_flipped(proved.bundle)
    good, bad = asked(tmp_path / "strangers", proved.key, proved.bundle, forged)
    assert good.is_proof
    assert good.files == ("bundle.json", "log.key")
    assert good.named("held") == ["form", "checkpoint", "inclusion", "content"]
    assert (bad.code, bad.named("failed")) == (1, ["content"])
    assert not bad.is_proof


def test_another_log_s_key_proves_nothing(proved: Proved, tmp_path: Path) -> None:
    key = Key(proved.key.name, SigningKey.generate().public_key)
    [answer] = asked(tmp_path / "strangers", key, proved.bundle)
    assert not answer.is_proof
    assert "checkpoint" in answer.named("failed")


def test_what_is_erased_is_gone_from_every_file_and_still_proved(
    proved: Proved, tmp_path: Path
) -> None:
    erased = erase_it(tmp_path / "journal", proved, tmp_path / "key.pem")
    assert erased.held
    assert len(erased.before) == 1
    assert not [
        path
        for path in (tmp_path / "journal").rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    [shown] = json.loads(erased.bundle)["events"]
    assert (shown["payload_state"], shown["envelope"]) == ("erased", None)
    old, new = asked(tmp_path / "strangers", proved.key, proved.bundle, erased.bundle)
    assert old.is_proof
    assert new.is_proof
    assert new.named("held") == ["form", "checkpoint", "consistency", "inclusion"]
    with Store.open(tmp_path / "journal", mode="r") as store:
        assert store.verify("full").ok
        with pytest.raises(PayloadErased):
            _ = store.at(1).raw


def test_a_file_that_still_holds_the_payload_is_found(proved: Proved, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    (journal / "quarantine").mkdir(exist_ok=True)
    [first, *_] = sorted((journal / "segments").glob("*.seg"))
    shutil.copyfile(first, journal / "quarantine" / "left")
    erased = erase_it(journal, proved, tmp_path / "key.pem")
    assert erased.after == ("quarantine/left",)
    assert not erased.held


def test_any_part_that_fails_is_no_proof(proved: Proved, tmp_path: Path) -> None:
    good = Answer(
        ("bundle.json", "log.key"),
        ("held      form", "held      checkpoint: 9 events", "held      inclusion: 1 from 1 on"),
        0,
    )
    assert good.is_proof
    for other in (
        replace(good, files=(*good.files, "journal")),
        replace(good, lines=good.lines[:2]),
        replace(good, lines=(*good.lines, "failed    content of event 1")),
        replace(good, code=1),
    ):
        assert not other.is_proof
    whole = Erased(True, ("a.seg",), (), 9, 0, True, "")
    assert whole.held
    for worse in (
        replace(whole, refused=False),
        replace(whole, before=()),
        replace(whole, after=("a.seg",)),
        replace(whole, findings=1),
        replace(whole, same_hash=False),
    ):
        assert not worse.held


def test_a_payload_without_salt_is_not_what_is_shown(tmp_path: Path) -> None:
    fill(tmp_path / "journal", "plain")
    with Store.open(tmp_path / "journal", mode="r") as store:
        event = store.at(1)
    with pytest.raises(ValueError, match="no salted payload"):
        prove_it(tmp_path / "journal", event, tmp_path / "key.pem")
    assert not (tmp_path / "key.pem").exists()


def test_a_journal_without_a_commit_has_nothing_to_prove(tmp_path: Path) -> None:
    Store.open(tmp_path / "journal").close()
    with pytest.raises(LookupError, match="no commit"):
        tell_proof(tmp_path / "journal", tmp_path, Proofs())


def test_the_part_tells_four_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "journal")
    proofs = Proofs()
    tell_proof(tmp_path / "journal", tmp_path, proofs)
    proofs.show(0)
    said = capsys.readouterr().out
    assert "All 4 held." in said
    assert "$ batpak verify bundle.json --key log.key" in said
    assert "1 of the journal's files held the payload, 0 of" in said
