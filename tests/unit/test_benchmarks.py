"""The harness of the benchmarks: who runs when, and that what gave no figure shows none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import growth, report, rust
from benchmarks.plan import SCENARIOS, Contender, turns
from benchmarks.runner import Outcome, Runner, Series, child_command, measure
from benchmarks.work import Job, Measured

SCENARIO = next(one for one in SCENARIOS if one.name == "batch-sync")
JOB = Job("rust", "append", "nowhere", 100)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_everybody_takes_the_first_rounds_and_batpak_keeps_company(wanted: list[int]) -> None:
    rounds = turns(wanted)
    assert len(rounds) == max(wanted)
    for place, count in enumerate(wanted):
        taken = [number for number, turn in enumerate(rounds) if place in turn]
        assert taken == list(range(count if place else max(wanted)))
    assert all(len(set(turn)) == len(turn) for turn in rounds)


def test_no_contender_always_follows_the_same_one() -> None:
    assert [turn[0] for turn in turns([4, 4, 4])] == [0, 1, 2, 0]


def outcome(**peers: Series) -> Outcome:
    ours = Series("batpak", values=[90.0, 80.0, 70.0])
    return Outcome(SCENARIO, 100, [ours, *peers.values()])


def test_a_ratio_is_of_the_rounds_that_both_took_part_in() -> None:
    sqlite = Series("SQLite", values=[30.0, 10.0])
    rival = Series("Rust", values=[45.0, 20.0, 35.0])
    found = outcome(sqlite=sqlite, rust=rival)
    assert found.ratios(sqlite) == [3.0, 8.0]
    assert found.ratios(rival) == [2.0, 4.0, 2.0]
    assert found.met() is True  # the median against the rival that the budget names
    rival.values[:] = [80.0, 75.0, 35.0]
    assert found.met() is False


def test_what_is_absent_has_a_reason_and_no_figure_and_is_no_failure() -> None:
    rival = Series("Rust", failure="absent: there is no cargo on the path", absent=True)
    found = outcome(rust=rival)
    assert report.failures([found]) == []
    assert report.absences([found, found]) == ["Rust: absent: there is no cargo on the path"]
    (row,) = report.rows([found])
    assert row[3:] == ("Rust: absent", "–", "≥ 2 × Rust", "–")
    assert found.met() is None
    entry = report.document([found], {}, {})["scenarios"][0]["contenders"][1]
    assert (entry["values"], entry["median"], entry["absent"]) == ([], None, True)


def test_what_was_not_built_is_a_failure_with_its_text() -> None:
    found = outcome(rust=Series("Rust", failure="not built: error: no such crate"))
    assert report.failures([found]) == ["batch-sync: Rust: not built: error: no such crate"]
    assert report.absences([found]) == []
    assert report.rows([found])[0][3] == "Rust: failed"


def test_without_cargo_the_rust_peer_is_absent_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = list[str]()
    peer = rust.build(said.append)
    assert peer.absent
    assert peer.failure == "absent: there is no cargo on the path"
    assert not peer.facts
    assert said == []
    with pytest.raises(ValueError, match="no cargo"):
        peer.command(JOB)


def test_a_run_with_an_absent_rival_measures_the_others(tmp_path: Path) -> None:
    absent = rust.Peer(failure="absent: there is no cargo on the path", absent=True)
    scenario = next(one for one in SCENARIOS if one.name == "disk-segment")
    said = list[str]()
    runner = Runner(tmp_path, 200, None, said.append, absent)
    try:
        found = runner.run(scenario)
    finally:
        runner.close()
    assert [bool(series.values) for series in found.series if series.absent] == [False]
    assert found.series[0].values
    assert list(tmp_path.iterdir()) == []


def test_two_ways_of_batpak_are_measured_in_turns_of_one_process(tmp_path: Path) -> None:
    scenario = next(one for one in SCENARIOS if one.name == "append-keyed")
    assert scenario.together
    runner = Runner(tmp_path, 1_100, 2, lambda _: None, rust.Peer())
    try:
        found = runner.run(scenario)
    finally:
        runner.close()
    ours, rival = found.series
    assert (ours.failure, rival.failure) == ("", "")
    assert len(ours.values) == len(rival.values) == 2
    assert len(found.ratios(rival)) == 2
    assert set(ours.values).isdisjoint(rival.values)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_in_turns_leaves_no_figure_on_either_side(tmp_path: Path) -> None:
    keyed = next(one for one in SCENARIOS if one.name == "append-keyed")
    scenario = replace(keyed, contenders=(keyed.contenders[0], Contender("nobody", label="none")))
    runner = Runner(tmp_path, 200, 2, lambda _: None, rust.Peer())
    try:
        found = runner.run(scenario)
    finally:
        runner.close()
    assert [(one.failure, one.values) for one in found.series] == [("KeyError: 'nobody'", [])] * 2
    assert found.met() is None


def test_growth_shows_each_cost_with_its_ratio_to_the_first_size() -> None:
    sizes = (10_000, 100_000)
    seen = {
        ("grow", 10_000): Measured(8.0, {"anonymous_bytes": 2_000_000}),
        ("grow", 100_000): Measured(10.0, {"anonymous_bytes": 9_000_000}),
        ("open_bare", 10_000): Measured(40.0, {"busy": 30.0}),
        ("open_bare", 100_000): Measured(600.0, {"busy": 240.0}),
    }
    table = growth.rows(sizes, seen)
    cells = {row.title: row.cells() for row in table}
    assert cells["append, one event per commit, OS"] == ["8", "10 (1.25 ×)"]
    assert cells["memory, appending"] == ["200", "90 (0.45 ×)"]
    assert cells["open without disposable files"] == ["40", "600 (15.00 ×)"]
    assert cells["open without disposable files, per event"] == ["4", "6 (1.50 ×)"]
    titles = [row.title for row in table]
    below = table[titles.index("open without disposable files") + 1]
    assert (below.title, below.cells()) == ("  processor time", ["30", "240 (8.00 ×)"])


def test_growth_under_keys_shows_what_a_retry_costs_and_says_so() -> None:
    seen = {("retry", 10_000): Measured(40.0, {"busy": 30.0}), ("retry", 100_000): Measured(44.0)}
    table = growth.rows((10_000, 100_000), seen)
    cells = {row.title: row.cells() for row in table}
    assert cells["retry under a known key"] == ["40", "44 (1.10 ×)"]
    assert growth.KEYS_NOTE in growth.markdown((10_000, 100_000), table, {}, {}, [])
    plain = growth.rows((10_000,), {("grow", 10_000): Measured(8.0)})
    assert "retry under a known key" not in [row.title for row in plain]
    assert growth.KEYS_NOTE not in growth.markdown((10_000,), plain, {}, {}, [])


def test_a_retry_is_measured_on_keys_that_are_known(tmp_path: Path) -> None:
    for work in ("grow", "retry"):
        job = Job("keyed", f"growth-{work}", str(tmp_path), growth.SIZES[0])
        assert measure(child_command(job), 60).value > 0


def test_the_costs_of_proofs_are_measured(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks.proof", "--rounds", "1")
    small = ("--events", "2000", "--leaves", "2000", "--dir", str(tmp_path))
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "checkpoint over 2,000 new events" in done.stdout


def test_growth_has_no_ratio_where_a_figure_is_missing() -> None:
    seen = {("get", 100_000): Measured(7.0, {"anonymous_bytes": 5_000_000})}
    table = growth.rows((10_000, 100_000), seen)
    cells = {row.title: row.cells() for row in table}
    assert cells["get by id"] == ["–", "7"]
    assert cells["page of 100 for one entity"] == ["–", "–"]
    assert cells["memory, opened and read"] == ["–", "50"]
    page = growth.markdown((10_000, 100_000), table, {}, {}, ["get at 10,000: it was damaged"])
    assert "No figure: get at 10,000: it was damaged" in page
