"""`make crash` counts what it judges, repeats itself by its seed, and fails when it should."""

from __future__ import annotations

from collections import Counter

import pytest

from batpak.journal.state import Durable
from batpak.journal.writer import Writer
from tests.crash.power_cuts.campaign import Tally, run
from tests.crash.power_cuts.workloads import WORKLOADS
from tools import crash


def test_one_recording_is_judged_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert crash.main(["--only", "creation:2", "--seed", "5", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tally = Tally()
    run("creation", 5, 2, crash.BUDGET, tally)
    assert tally.states > 100
    crashes = tally.counts["second crashes"]
    assert lines[-1] == (
        f"{tally.states:,} states, {crashes:,} crashes inside recovery, "
        "0 ordinary power cuts refused, 0 broken promises"
    )
    assert [line.split("|")[0].strip() for line in lines[-5:-2]] == ["workload", "creation", "all"]


@pytest.mark.parametrize("workload", ["quarantine", "rotation-unsynced", "failed-sync"])
def test_the_same_seed_judges_the_same_states(workload: str) -> None:
    first, again, other = Tally(), Tally(), Tally()
    run(workload, 3, 0, 40, first)
    run(workload, 3, 0, 40, again)
    run(workload, 4, 0, 40, other)
    assert first.counts == again.counts
    assert first.counts != other.counts


def test_a_broken_promise_is_told_with_the_way_back_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sync_once(self: Writer, **_: bool) -> None:
        self._durable = Durable(self._log.sequence, self._log.hlc)

    monkeypatch.setattr(Writer, "_sync_once", sync_once)
    done = crash.judge_recording("singles", 1, 0)
    assert done.failure is not None
    assert "are gone" in done.failure
    assert "after" in done.failure
    assert "again: python -m tools.crash --seed 1 --only singles:0" in done.failure
    totals: dict[str, Counter[str]] = {"singles": done.counts}
    assert crash.conclude(1, totals, [done]) == 1
    assert capsys.readouterr().out.rstrip().endswith("1 broken promises")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nothing"],
        ["--only", "singles:x"],
        ["--states", "0"],
        ["--states", "-5"],
        ["--workers", "1000"],
        ["--seed", "9" * 40],
        ["--seed", "²"],
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        crash.main(arguments)
    assert caught.value.code not in (0, None)


def test_every_workload_can_be_asked_for() -> None:
    for workload in WORKLOADS:
        assert crash.chosen(f"{workload}:12") == ([workload], 12)
    assert crash.chosen(None) == (list(WORKLOADS), None)
