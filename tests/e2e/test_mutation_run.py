"""A mutant is tried in a copy: the working tree stays, and each way of ending is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.mutation.operators import Mutant, mutants_of
from tools.mutation.trial import ROOT, Covering, Outcome, Workshop

MODULE = "batpak/journal/hint.py"
TEST = (
    "tests/unit/test_segment_header.py::test_a_hint_comes_back_whole_and_may_have_bytes_behind_it"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("mutation"))
    yield shop
    shop.close()


def covering(*lines: int, seconds: float = 1.0) -> Covering:
    return Covering(
        {"seconds": {TEST: seconds}, "lines": {MODULE: {str(n): [TEST] for n in lines}}}
    )


class Hasty(Covering):
    def bound(self, test: str) -> float:
        return 5.0


def planted(shop: Workshop, old: str, new: str) -> Mutant:
    source = shop.source(MODULE).decode()
    start = len(source[: source.index(old)].encode())
    line = source[: source.index(old)].count("\n") + 1
    return Mutant(MODULE, line, line, start, start + len(old.encode()), old, new, "Hint", 0)


def in_tree() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (ROOT / "src").rglob("*.py")}


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("HINT_SIZE = 64", "HINT_SIZE = 65", Outcome.KILLED),
        ("HINT_SIZE = 64", "HINT_SIZE = nowhere", Outcome.KILLED),
        ("HINT_SIZE = 64", "HINT_SIZE = 32 * 2", Outcome.SURVIVED),
        ("return None if zero else", "return None if zero and 0 else", Outcome.SURVIVED),
    ],
)
def test_a_mutant_is_killed_or_survives_and_is_taken_back(
    shop: Workshop, old: str, new: str, outcome: Outcome
) -> None:
    before, copy = in_tree(), shop.source(MODULE)
    mutant = planted(shop, old, new)
    verdict = shop.judge(mutant, covering(mutant.line))
    assert verdict.outcome is outcome
    assert verdict.tests == 1
    assert (verdict.by == "") == (outcome is Outcome.SURVIVED)
    assert shop.source(MODULE) == copy
    assert in_tree() == before


def test_a_copy_that_fails_by_itself_is_noticed_before_any_mutant(shop: Workshop) -> None:
    known = Hasty({"seconds": {}, "lines": {}})
    shop.check([TEST], known)
    with pytest.raises(RuntimeError, match="without any mutant: killed"):
        shop.check([f"{TEST}_no_more"], known)


def test_a_mutant_that_no_test_runs_is_not_tried(shop: Workshop) -> None:
    mutant = planted(shop, "HINT_SIZE = 64", "HINT_SIZE = 65")
    lonely = Mutant(MODULE, 999, 999, mutant.start, mutant.end, "", "", "Hint.decode", 0)
    assert shop.judge(lonely, covering(1)).outcome is Outcome.UNCOVERED


def test_a_mutant_that_never_ends_is_ended(shop: Workshop) -> None:
    mutant = planted(shop, "body = data[8:HINT_SIZE]", "while True: pass")
    hasty = Hasty({"seconds": {TEST: 1.0}, "lines": {MODULE: {str(mutant.line): [TEST]}}})
    verdict = shop.judge(mutant, hasty)
    assert (verdict.outcome, verdict.by) == (Outcome.TIMEOUT, TEST)


def test_the_copy_is_what_its_tests_import(shop: Workshop) -> None:
    """Else every mutant would survive."""
    found = mutants_of(shop.source(MODULE).decode(), MODULE)
    assert len(found) > 20
    magic = next(m for m in found if m.old == 'b"BPTH"')
    assert Path(shop.place) != ROOT
    golden = "tests/unit/test_golden.py::test_the_library_makes_the_stored_bytes[tail-hint]"
    lines = {str(magic.line): ["", golden]}
    known = Covering({"seconds": {golden: 1.0}, "lines": {MODULE: lines}})
    assert shop.judge(magic, known).outcome is Outcome.KILLED
