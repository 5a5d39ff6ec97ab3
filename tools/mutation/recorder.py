"""A pytest plugin with two uses: which test runs which line, and how a mutant's run ended.

BATPAK_MUTATION_RECORD names a file for the first: a coverage context a test, setup and
teardown included, and each test's seconds; BATPAK_MUTATION_SHARE, such as 0/2, takes every
second test only, beginning with the first. BATPAK_MUTATION_RESULT names one for the
second: JSON lines of what began, what failed and whether the run ended by itself. A test
over its bound ends the process: a mutant may well loop for ever.
Imports nothing of what is mutated.
"""

from __future__ import annotations

import faulthandler
import json
import os
import time
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

# The same examples in each run, none remembered, and no search for a smaller failure:
# one failing example is all that is asked for.
settings.register_profile(
    "mutation",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_configure(config: pytest.Config) -> None:
    record = os.environ.get("BATPAK_MUTATION_RECORD")
    result = os.environ.get("BATPAK_MUTATION_RESULT")
    if record:
        config.pluginmanager.register(_Record(record))
    if result:
        config.pluginmanager.register(_Result(result))


class _Record:
    """Writes seconds by test, tests by file and line, and the tests that failed, at the end."""

    def __init__(self, path: str) -> None:
        import coverage

        self.path = path
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.coverage = coverage.Coverage(
            data_file=None, source_pkgs=["batpak"], config_file=False, concurrency=["thread"]
        )
        self.coverage.start()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        at, count = os.environ.get("BATPAK_MUTATION_SHARE", "0/1").split("/")
        items[:] = items[int(at) :: int(count)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.coverage.switch_context(item.nodeid)
        began = time.perf_counter()
        answer = yield
        self.seconds[item.nodeid] = time.perf_counter() - began
        self.coverage.switch_context("")
        return answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {
            file: data.contexts_by_lineno(file) for file in data.measured_files()
        }
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump({"seconds": self.seconds, "lines": lines, "failed": self.failed}, file)


class _Result:
    """Notes each test before it begins, so that a run that dies tells where."""

    def __init__(self, path: str) -> None:
        # Unbuffered: nothing is flushed by a process that is ended.
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with open(os.environ["BATPAK_MUTATION_BOUNDS"], encoding="utf-8") as bounds:
            self.bounds: dict[str, float] = json.load(bounds)

    def note(self, **facts: object) -> None:
        os.write(self.file, (json.dumps(facts) + "\n").encode())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        bound = self.bounds.get(item.nodeid, max(self.bounds.values()))
        self.note(began=item.nodeid, bound=bound)
        faulthandler.dump_traceback_later(bound, exit=True, file=self.file)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.note(failed=report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.note(failed=report.nodeid)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.note(ended=int(exitstatus))
