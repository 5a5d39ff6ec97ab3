"""Run the tests that may notice a mutant, in a copy of the project, within bounds.

The copy is made once for each worker; a mutant is one file written there and put back.
Its `src` comes first on the path, so the installed project is never imported. Tests run
fastest first and stop at the first failure.

    a test fails, or the module can't be imported     killed
    a test is over its bound, or the process dies     killed (counted apart)
    all tests pass                                    survived
    no test runs the line                             survived (counted apart)
"""

from __future__ import annotations

import enum
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.mutation.operators import Mutant
from tools.mutation.targets import LEFT_OUT, MODULES, TESTS

__all__ = ["Covering", "Outcome", "Verdict", "Workshop", "record"]

ROOT: Final = Path(__file__).resolve().parents[2]
_NOT_COPIED: Final = frozenset(
    (".git", ".venv", "build", "dist", "site", ".hypothesis", ".pytest_cache", ".ruff_cache")
)
_LEAST_SECONDS: Final = 20.0
_TIMES: Final = 20.0
_SPARE_SECONDS: Final = 60.0
_FEW_TIMES: Final = 4.0
_OUTPUT: Final = 4000
_FEW: Final = 40
_COSTLY_SECONDS: Final = 3.0


class Outcome(enum.Enum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    SURVIVED = "survived"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A mutant, its outcome, and the test that noticed it."""

    mutant: Mutant
    outcome: Outcome
    by: str = ""
    tests: int = 0


class Covering:
    """Which tests run which lines, fastest first, and how long each may take."""

    def __init__(self, found: dict[str, Any], cases: int = 0) -> None:
        self.cases = cases
        self.seconds: dict[str, float] = found["seconds"]
        self.lines: dict[str, dict[int, list[str]]] = {
            module: {int(line): tests for line, tests in lines.items()}
            for module, lines in found["lines"].items()
        }

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run any line of this mutant.

        What runs at import only (tables, constants, defaults) can show in any test that
        runs the module at all.
        """
        lines = self.lines.get(mutant.module, {})
        span = {mutant.statement, *range(mutant.line, mutant.end_line + 1)}
        here = [lines.get(n) for n in sorted(span)]
        tests = {test for at in here if at for test in at if test}
        at_import = any(at and "" in at for at in here)
        if at_import and not (mutant.where and tests):
            tests |= {test for at in lines.values() for test in at if test}
        return sorted(
            _spread(tests, self.seconds, self.cases), key=lambda test: (self.seconds[test], test)
        )

    def bound(self, test: str) -> float:
        """Seconds that a test may take: far more than it ever did, coverage recorded."""
        took = self.seconds[test]
        return max(_LEAST_SECONDS, min(_TIMES * took, _SPARE_SECONDS + _FEW_TIMES * took))


def _spread(tests: set[str], seconds: dict[str, float], most: int) -> list[str]:
    """At most `most` of the cases of a costly test function, from all over its table; 0: all.

    Hundreds of cases of one test cost a survivor minutes; what is left out can only make
    the result look worse than it is.
    """
    families: dict[str, list[str]] = {}
    for test in sorted(tests):
        families.setdefault(test.partition("[")[0], []).append(test)
    chosen: list[str] = []
    for cases in families.values():
        costly = most and sum(seconds[case] for case in cases) > _COSTLY_SECONDS
        step = -(-len(cases) // most) if costly else 1
        chosen += cases[::step]
    return chosen


def record(directory: Path, tests: Sequence[str] = TESTS, workers: int = 1) -> dict[str, Any]:
    """Run these tests once on unchanged code, in copies: what Covering is made from.

    Each worker runs its share. Tests that fail without any mutant are named, and no mutant
    is given to them. Raises RuntimeError where a run itself fails.
    """

    def run_share(at: int) -> dict[str, Any]:
        return _record_share(directory / str(at), tests, at, workers)

    with ThreadPoolExecutor(workers) as pool:
        shares = list(pool.map(run_share, range(workers)))
    failed = {test for share in shares for test in share["failed"]}
    seconds = {test: taken for share in shares for test, taken in share["seconds"].items()}
    lines: dict[str, dict[str, set[str]]] = {}
    for share in shares:
        for module, by_line in share["lines"].items():
            known = lines.setdefault(module, {})
            for line, found in by_line.items():
                known.setdefault(line, set()).update(found)
    covering = {
        "failed": sorted(failed),
        "seconds": {test: taken for test, taken in seconds.items() if test not in failed},
        "lines": {
            module: {line: sorted(found - failed) for line, found in by_line.items()}
            for module, by_line in lines.items()
        },
    }
    (directory / "covering.json").write_text(json.dumps(covering), encoding="utf-8")
    return covering


def _record_share(directory: Path, tests: Sequence[str], at: int, workers: int) -> dict[str, Any]:
    """Every `workers`-th test, beginning with the one at `at`; modules below `src`."""
    shop = Workshop(directory)
    out = directory / "covering.json"
    run = subprocess.run(
        [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            *shop.arguments[1:],
            *tests,
            *(f"--ignore={path}" for path in LEFT_OUT),
        ],
        cwd=shop.place,
        env=shop.environment(
            BATPAK_MUTATION_RECORD=str(out), BATPAK_MUTATION_SHARE=f"{at}/{workers}"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode not in (0, 1) or not out.exists():
        raise RuntimeError(f"the tests can't be run:\n{run.stdout[-_OUTPUT:]}")
    found = json.loads(out.read_text(encoding="utf-8"))
    source = str(shop.place / "src") + os.sep
    # Whoever reads this later must not find paths of a folder that is gone.
    found["lines"] = {
        file.removeprefix(source): lines
        for file, lines in found["lines"].items()
        if file.removeprefix(source) in MODULES
    }
    return found


class Workshop:
    """One copy of the project, in which one mutant at a time lives."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "copy"
        if self.place.exists():
            shutil.rmtree(self.place)
        self.place.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for source in ROOT.iterdir():
            if source.name in _NOT_COPIED:
                continue
            if source.is_dir():
                shutil.copytree(source, self.place / source.name, ignore=ignored)
            else:
                shutil.copy2(source, self.place / source.name)
        self.temporary = directory / "tmp"
        self._server: subprocess.Popen[str] | None = None

    @property
    def arguments(self) -> list[str]:
        """pytest's, before the tests: our plugin, and nothing from the cache."""
        return [
            "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist",
            "-p", "tools.mutation.recorder", "--hypothesis-profile=mutation",
            # The server has imported what pytest would have rewritten.
            "-W", "ignore::pytest.PytestAssertRewriteWarning",
            f"--basetemp={self.temporary}",
        ]  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        """Our copy first on the path; nothing written beside sources."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        return kept | {"PYTHONPATH": f"{self.place / 'src'}{os.pathsep}{self.place}"} | more

    def source(self, module: str) -> bytes:
        """The unchanged source of a module."""
        return (self.place / "src" / module).read_bytes()

    def check(self, tests: list[str], covering: Covering) -> None:
        """Raises RuntimeError unless these tests pass here without any mutant.

        Else a fault of ours would kill every mutant.
        """
        outcome, by = self._run(tests, covering)
        if outcome is not Outcome.SURVIVED:
            raise RuntimeError(f"without any mutant: {outcome.value} by {by or 'nothing'}")

    def judge(self, mutant: Mutant, covering: Covering) -> Verdict:
        """Write the mutant, run its tests, put the module back."""
        tests = covering.of(mutant)
        if not tests:
            return Verdict(mutant, Outcome.UNCOVERED)
        path = self.place / "src" / mutant.module
        before = path.read_bytes()
        path.write_bytes(mutant.apply(before))
        try:
            outcome, by = self._run(tests, covering)
        finally:
            path.write_bytes(before)
        return Verdict(mutant, outcome, by, len(tests))

    def _run(self, tests: list[str], covering: Covering) -> tuple[Outcome, str]:
        """A few fast tests first: most mutants need no more, and most files stay unread."""
        for part in (tests[:_FEW], tests[_FEW:]):
            if part:
                outcome, by = self._run_part(part, covering)
                if outcome is not Outcome.SURVIVED:
                    return outcome, by
        return Outcome.SURVIVED, ""

    def _run_part(self, tests: list[str], covering: Covering) -> tuple[Outcome, str]:
        bounds = {test: covering.bound(test) for test in tests}
        result, limits = self.place / "result.jsonl", self.place / "bounds.json"
        listed = self.place / "tests.txt"
        result.unlink(missing_ok=True)
        limits.write_text(json.dumps(bounds), encoding="utf-8")
        listed.write_text("\n".join(tests), encoding="utf-8")
        asked = {
            "tests": [f"@{listed}"],
            "environment": {
                "BATPAK_MUTATION_RESULT": str(result),
                "BATPAK_MUTATION_BOUNDS": str(limits),
            },
        }
        status = self._ask(asked, 60 + sum(bounds.values()))
        began, failed = "", ""
        lines = result.read_text(encoding="utf-8").splitlines() if result.exists() else []
        for line in lines:
            if line.startswith("{"):
                facts = json.loads(line)
                began = facts.get("began", began)
                failed = failed or facts.get("failed", "")
                if "ended" in facts and status is not None:
                    if status == 0:
                        return Outcome.SURVIVED, ""
                    return Outcome.KILLED, failed or "import"
        if not began:
            # The plugin or conftest could not even begin: the mutant breaks an import.
            return Outcome.KILLED, "import"
        return Outcome.TIMEOUT, began

    def _ask(self, asked: dict[str, Any], seconds: float) -> int | None:
        """The exit status of one run; None where it was ended from outside."""
        server = self._server
        if server is None or server.poll() is not None:
            server = self._server = subprocess.Popen(
                [sys.executable, "-B", "-m", "tools.mutation.server", *self.arguments],
                cwd=self.place,
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert server.stdin is not None, "it is a pipe"
        assert server.stdout is not None, "it is a pipe"
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        pid = json.loads(server.stdout.readline())["pid"]
        watch = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
        watch.start()
        try:
            return json.loads(server.stdout.readline())["status"]
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the server of this copy."""
        if self._server is not None:
            self._server.communicate()
            self._server = None
