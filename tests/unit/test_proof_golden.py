"""Proofs stand still: bytes that were once made are made and verified today, and documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from batpak.proof import verify_bundle
from tests.support import proof_vectors
from tests.support.small_log import POLICY
from tools import verify_bundle as second

PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
VECTORS = proof_vectors.build()


@pytest.mark.parametrize("name", VECTORS)
def test_the_stored_bytes_are_made_today(name: str) -> None:
    assert proof_vectors.stored(name) == VECTORS[name]


def test_every_stored_vector_is_made() -> None:
    assert {path.name for path in proof_vectors.FOLDER.iterdir()} == {*VECTORS, "README.md"}


@pytest.mark.parametrize(
    ("name", "failed", "not_shown"),
    [
        ("bundle-run.json", set(), {"chain"}),
        ("bundle-withheld.json", set(), {"content", "key-not-retired", "chain", "consistency"}),
        ("bundle-retired-key.json", {"receipt"}, {"chain", "consistency"}),
    ],
)
def test_stored_bundles_are_judged_as_their_description_says(
    name: str, failed: set[str], not_shown: set[str]
) -> None:
    text = proof_vectors.stored(name) or ""
    verdict = verify_bundle(text, [], POLICY)
    assert {check.name for check in verdict.checks if check.held is False} == failed
    assert {check.name for check in verdict.checks if check.held is None} == not_shown


def test_the_page_shows_the_stored_checkpoint() -> None:
    assert f"```text\n{proof_vectors.stored('checkpoint.txt')}```\n" in PAGE.read_text("utf-8")


def test_the_second_opinion_is_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--log", str(POLICY.log), "--threshold", "2"]
    for key in POLICY.witnesses:
        arguments += ["--witness", str(key)]
    good = str(proof_vectors.FOLDER / "bundle-run.json")
    assert second.main([good, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "held      inclusion" in lines
    assert "not shown chain" in lines
    assert "held      receipt  (sequence 3)" in lines
    bad = str(proof_vectors.FOLDER / "bundle-retired-key.json")
    assert second.main([bad, *arguments]) == 1
    assert "failed    receipt  (sequence 10)" in capsys.readouterr().out.splitlines()
    assert second.main([str(tmp_path / "none"), *arguments]) == 2
    assert second.main([good, "--log", "nonsense"]) == 2
    assert capsys.readouterr().err.count("can't begin") == 2
