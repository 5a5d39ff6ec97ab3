"""What holds for every test: hypothesis profiles, and the proof of the invariants.

`--full` marks a run of everything: after the last test it adds one more result, failed
unless each test named in docs/invariants.toml ran and passed. It cannot be an ordinary
test, since with several processes no test sees what the others ran.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from tests.support import effort
from tools import docs_code, invariants

POWER_CUTS = "power cuts: "
"""Begins the names of properties in which tests say how many states they judged."""
PROOF = "docs/invariants.toml::every_invariant_is_proved"

# No deadlines anywhere: a slow machine is no failure. `ci` is the gate of a merge, so its
# examples are the same each time; `thorough` and `dev` are where new ones are found.
settings.register_profile("dev", max_examples=25, deadline=None, print_blob=True)
settings.register_profile(
    "ci", max_examples=150, deadline=None, print_blob=True, derandomize=True, database=None
)
settings.register_profile(
    "thorough",
    max_examples=5_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="this run is everything: check docs/invariants.toml"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Only the process that hears of every test can judge the run.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Controller(config), "batpak-controller")


class Controller:
    """Hears of every result, whichever process it comes from."""

    def __init__(self, config: pytest.Config) -> None:
        self.full: bool = config.getoption("--full")
        self.hook = config.hook
        self.outcomes: dict[str, str] = {}
        self.counted: Counter[str] = Counter()
        self.power_cuts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name.startswith(POWER_CUTS):
                    self.power_cuts[name.removeprefix(POWER_CUTS)] += int(str(value))
        known = self.outcomes.get(report.nodeid)
        # A test passed if all of setup, call and teardown did.
        if known in (None, "passed"):
            self.outcomes[report.nodeid] = report.outcome
        if report.when == "call":
            self.counted.update(effort.counted(report.user_properties))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.full:
            return
        problems = invariants.unproved(invariants.load(), self.outcomes)
        outcome = "failed" if problems else "passed"
        for when in ("call", "teardown"):
            self.hook.pytest_runtest_logreport(
                report=pytest.TestReport(
                    nodeid=PROOF,
                    location=("docs/invariants.toml", None, "every_invariant_is_proved"),
                    keywords={},
                    outcome=outcome if when == "call" else "passed",
                    longrepr="\n".join(problems) or None,
                    when=when,
                )
            )
        if problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.power_cuts:
            terminalreporter.section("power cuts")
            for kind, count in self.power_cuts.items():
                terminalreporter.write_line(f"{count:>9,} {kind}")
        if any("test_docs_code.py" in node for node in self.outcomes):
            terminalreporter.section("code in the docs")
            for line in docs_code.report(docs_code.all_blocks()):
                terminalreporter.write_line(line)
        if self.counted:
            terminalreporter.section("done to real processes")
            done = ", ".join(f"{number} {what}" for what, number in self.counted.items())
            terminalreporter.write_line(f"{done}; seed {effort.SEED}")
