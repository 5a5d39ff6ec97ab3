"""Runs the plan: rounds that take the contenders in turns, each job in a fresh process.

Who runs when is the plan's to say (benchmarks.plan, `turns`). Failures are kept as text
beside the figures, never as a figure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import rust
from benchmarks.contenders import load
from benchmarks.data import BATCH
from benchmarks.plan import Budget, Contender, Scenario, turns
from benchmarks.work import Job, Measured

REPOSITORY: Final = Path(__file__).resolve().parent.parent
TIMEOUT_S: Final = 900


@dataclass(slots=True)
class Series:
    """One contender's figures in one scenario, by round; `failure` empties them.

    `absent` tells a failure that is none: what the contender needs is not on this machine.
    """

    title: str
    values: list[float] = field(default_factory=list[float])
    details: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    failure: str = ""
    absent: bool = False

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(slots=True)
class Outcome:
    """A scenario's series, batpak's first."""

    scenario: Scenario
    events: int
    series: list[Series]

    def ratios(self, rival: Series) -> list[float]:
        """How many times better batpak was, in each round that both took part in.

        Empty where one has no figures. Whoever takes fewer rounds takes the first ones.
        """
        ours = self.series[0]
        if ours.failure or rival.failure:
            return []
        higher = self.scenario.better == "higher"
        pairs = zip(ours.values, rival.values, strict=False)
        return [mine / other if higher else other / mine for mine, other in pairs]

    def rival(self) -> Series | None:
        """The series that the budget names, else the first peer."""
        budget = self.scenario.budget
        for series in self.series[1:]:
            if budget is None or budget.rival in ("", series.title):
                return series
        return None

    def met(self) -> bool | None:
        """Whether the budget is met; None without a budget or without figures."""
        budget: Budget | None = self.scenario.budget
        if budget is None or self.series[0].failure:
            return None
        if not budget.rival:
            value = self.series[0].median
            higher = self.scenario.better == "higher"
            return value >= budget.bound if higher else value <= budget.bound
        rival = self.rival()
        ratios = self.ratios(rival) if rival else []
        return median(ratios) >= budget.bound if ratios else None

    @property
    def failed(self) -> bool:
        return any(series.failure for series in self.series)


class Runner:
    """Measures scenarios in directories of its own under `parent`, and removes them."""

    def __init__(
        self,
        parent: Path,
        events: int,
        rounds: int | None,
        say: Callable[[str], None],
        peer: rust.Peer,
    ) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
        self.events = events
        self.rounds = rounds
        self.say = say
        self.peer = peer
        self._fixtures: dict[tuple[str, str], str] = {}
        self._absent: dict[str, str] = {}

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, scenario: Scenario) -> Outcome:
        events = scenario.events(self.events)
        series = [Series(contender.title) for contender in scenario.contenders]
        outcome = Outcome(scenario, events, series)
        wanted = [
            1 if scenario.once else self.rounds or each.rounds for each in scenario.contenders
        ]
        for number, turn in enumerate(turns(wanted), start=1):
            places = [place for place in turn if not series[place].failure]
            if number > wanted[0] and places == [0]:
                break  # the rival whose company it kept gives no figures
            if not scenario.together:
                for place in places:
                    self._measure(scenario, scenario.contenders[place], events, series[place])
            elif places:
                self._measure_both(scenario, events, series)
            figures = ", ".join(
                f"{series[place].title} {series[place].values[-1]:,.6g}"
                for place in sorted(places)
                if not series[place].failure
            )
            self.say(f"{scenario.name} {number}: {figures} {scenario.unit}")
        return outcome

    def _measure_both(self, scenario: Scenario, events: int, series: list[Series]) -> None:
        ours, rival = series
        self._measure(
            scenario, scenario.contenders[0], events, ours, rival=scenario.contenders[1].name
        )
        rival.failure = ours.failure
        rival.values = [seen["rival"] for seen in ours.details if not ours.failure]

    def _measure(
        self,
        scenario: Scenario,
        contender: Contender,
        events: int,
        series: Series,
        rival: str = "",
    ) -> None:
        try:
            self._present(contender.name, series)
            directory, own = self._directory(scenario, contender, events)
            # A copied fixture and what earlier measurements wrote: else the first sync of this
            # one waits for it, and the figure is the disk's.
            os.sync()
            try:
                measured = self._child(
                    Job(
                        contender=contender.name,
                        work=scenario.work,
                        directory=str(directory),
                        events=events,
                        durable=scenario.durable,
                        threads=contender.threads,
                        batch=scenario.batch,
                        rival=rival,
                    )
                )
            finally:
                if own:
                    shutil.rmtree(directory)
        except NoFigureError as error:
            series.failure = str(error)
            series.values.clear()
            self.say(f"{scenario.name}: {series.title} gives no figure: {error}")
        else:
            series.values.append(measured.value)
            series.details.append(measured.details)

    def _directory(
        self, scenario: Scenario, contender: Contender, events: int
    ) -> tuple[Path, bool]:
        if not contender.fixture:
            return Path(tempfile.mkdtemp(dir=self.root)), True
        stored = self._fixture(contender, events)
        if not scenario.copy_fixture:
            return stored, False
        directory = Path(tempfile.mkdtemp(dir=self.root))
        shutil.copytree(stored, directory, dirs_exist_ok=True)
        return directory, True

    def _fixture(self, contender: Contender, events: int) -> Path:
        path = self.root / f"fixture-{contender.name}-{contender.fixture}"
        failure = self._fixtures.get((contender.name, contender.fixture))
        if failure is None:
            path.mkdir()
            # Both batpaks' sizes depend on how events were grouped; other peers fill up
            # faster so.
            single = contender.name in ("batpak", "rust") and contender.fixture == "single"
            job = Job(contender.name, "fixture", str(path), events, batch=0 if single else BATCH)
            self.say(f"filling {contender.title} with {events:,} events")
            try:
                self._child(job)
                failure = ""
            except NoFigureError as error:
                failure = str(error)
            self._fixtures[contender.name, contender.fixture] = failure
        if failure:
            raise NoFigureError(failure)
        return path

    def _present(self, contender: str, series: Series) -> None:
        if contender in rust.CONTENDERS:
            series.absent = self.peer.absent
            if self.peer.program is None:
                raise NoFigureError(self.peer.failure)
            return
        if contender not in self._absent:
            try:
                load(contender)
                self._absent[contender] = ""
            except ImportError as error:
                self._absent[contender] = f"not installed: {error}"
        if self._absent[contender]:
            raise NoFigureError(self._absent[contender])

    def _child(self, job: Job) -> Measured:
        if job.contender in rust.CONTENDERS:
            return measure(self.peer.command(job), TIMEOUT_S)
        return measure(child_command(job), TIMEOUT_S)


def child_command(job: Job) -> tuple[str, ...]:
    """The command line that does `job` in a fresh interpreter."""
    return sys.executable, "-m", "benchmarks.child", json.dumps(asdict(job))


def measure(command: tuple[str, ...], timeout_s: int) -> Measured:
    """The one JSON line that `command` prints. Raises NoFigureError where it prints none."""
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise NoFigureError(f"took more than {timeout_s} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoFigureError(lines[-1])
    return Measured(**json.loads(done.stdout))


class NoFigureError(Exception):
    """A job gave no figure; the text says why."""
