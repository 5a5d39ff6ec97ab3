"""A journal of many segments does not use up the process's file descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
from batpak import Coordinate, Durability, EventKind, Store

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
options = {"segment_max_bytes": 4096, "max_open_files": 8}
with Store.open(sys.argv[1], durability=Durability.OS, **options) as store:
    for number in range(2500):
        store.append(Coordinate(f"entity:{number % 9}", "s"), number, kind=EventKind(1, 2))
    print(store.stats().segments > 100, store.verify().ok)
with Store.open(sys.argv[1], mode="r", max_open_files=8) as reader:
    print(sum(1 for event in reader if event.kind == EventKind(1, 2)))
"""


def test_segments_and_sidecars_stay_within_the_limit_of_descriptors(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "journal")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "True", "2500"], done.stderr
