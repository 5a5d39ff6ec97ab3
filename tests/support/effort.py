"""How much of a large space of cases a run tries: a seeded sample, or all of it.

What a test did to how many real processes it notes with `note`; a run adds that up and
prints it at its end.

BATPAK_EXHAUSTIVE=1 tries everything, BATPAK_SEED=n draws another sample.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

EXHAUSTIVE = os.environ.get("BATPAK_EXHAUSTIVE", "") not in ("", "0")
SEED = int(os.environ.get("BATPAK_SEED", "1"))


def draws(what: str) -> random.Random:
    """The generator for one purpose; the same seed gives the same cases."""
    return random.Random(f"{SEED} {what}")


def sample(what: str, cases: Sequence[T], most: int) -> list[T]:
    """All of `cases` in an exhaustive run, else the first, the last and some between."""
    if EXHAUSTIVE or len(cases) <= most:
        return list(cases)
    inner = draws(what).sample(range(1, len(cases) - 1), most - 2)
    return [cases[i] for i in sorted({0, len(cases) - 1, *inner})]


_NOTED = "done: "


def note(request: pytest.FixtureRequest, **numbers: int) -> None:
    """Add numbers to the sums of the run, each under its name, `_` being a space."""
    for name, number in numbers.items():
        request.node.user_properties.append((_NOTED + name.replace("_", " "), number))


def counted(properties: Iterable[tuple[str, object]]) -> dict[str, int]:
    """What one test noted."""
    return {
        name.removeprefix(_NOTED): number
        for name, number in properties
        if name.startswith(_NOTED) and isinstance(number, int)
    }
