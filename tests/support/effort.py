"""How much of a large space of cases a run tries: a seeded sample, or all of it.

BATPAK_EXHAUSTIVE=1 tries everything, BATPAK_SEED=n draws another sample.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

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
