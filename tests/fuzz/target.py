"""What a fuzz target is: a function of bytes whose docstring is the invariant it holds.

A target returns for input that its decoder accepts or refuses as documented, and raises
for anything else. It neither prints nor keeps anything between two inputs. The same
functions run under `make fuzz` with random input, and in `make test` over the corpora.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CORPUS", "REGRESSIONS", "TARGETS", "Target", "load", "stored", "target"]

CORPUS: Final = Path(__file__).parent / "corpus"
REGRESSIONS: Final = Path(__file__).parent / "regressions"


@dataclass(frozen=True, slots=True)
class Target:
    """One target: its name, what it runs, and how long its inputs may get."""

    name: str
    run: Callable[[bytes], None]
    max_bytes: int

    @property
    def invariant(self) -> str:
        """In words, what holds for every input."""
        return self.run.__doc__ or ""


TARGETS: Final[dict[str, Target]] = {}


def target(
    *, max_bytes: int = 4096
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function as the target of its own name."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__.replace("_", "-")
        assert name not in TARGETS, f"two targets are called {name}"
        TARGETS[name] = Target(name, run, max_bytes)
        return run

    return register


def load() -> dict[str, Target]:
    """Every target, by name."""
    package = importlib.import_module("tests.fuzz.targets")
    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"tests.fuzz.targets.{module}")
    return dict(sorted(TARGETS.items()))


def stored(name: str) -> list[Path]:
    """The committed inputs of a target: corpus first, then one file a finding."""
    return [
        path
        for folder in (CORPUS / name, REGRESSIONS / name)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
    ]
