"""Stores that importers fill: what an import left, and imports that a kill ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batpak import Durability, Event, Store

SOURCE = Path(__file__).resolve().parents[2] / "src"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    with Store.open(path, durability=Durability.OS) as store:
        yield store


def imported(store: Store) -> list[Event]:
    return [event for event in store if not event.kind.is_system]


def values(store: Store) -> list[Any]:
    return [event.value for event in imported(store)]


def content(path: Path) -> list[tuple[str, str, int, Any, str | None]]:
    """What an import left, but for ids and times: causes as the hash of their commit."""
    with Store.open(path, mode="r") as store:
        found: list[tuple[str, str, int, Any, str | None]] = []
        commits = {event.event_id.bytes: event.value.get("hash") for event in store}
        for event in store:
            if not event.kind.is_system:
                cause = event.causation_id
                found.append(
                    (
                        event.coordinate.entity,
                        event.coordinate.scope,
                        event.kind.raw,
                        event.value,
                        None if cause is None else commits[cause.bytes],
                    )
                )
        assert store.verify().ok
        return found


KILLED = """
import os, signal, sys
from batpak import Durability, Store
from batpak.files import RealFiles
from batpak_cli.importers.csv import import_csv
from batpak_cli.importers.git import import_git
from batpak_cli.importers.jsonl import import_jsonl

kind, source, root, size = sys.argv[1:]

class Killing(RealFiles):
    def __init__(self, left):
        self.left = left

    def pwrite(self, fd, data, offset):
        self.left -= 1
        if not self.left:
            os.pwrite(fd, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return os.pwrite(fd, data, offset)

for point in range(1, 1000):
    child = os.fork()
    if not child:
        with Store.open(f"{root}/{point}", files=Killing(point), durability=Durability.OS) as store:
            importers = {"csv": import_csv, "git": import_git, "jsonl": import_jsonl}
            importers[kind](store, source, batch_events=int(size))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def killed_everywhere(kind: str, source: Path, root: Path, batch_events: int) -> list[Path]:
    """Journals of an import that SIGKILL ended in the middle of its first, second … write."""
    root.mkdir()
    subprocess.run(
        [sys.executable, "-c", KILLED, kind, str(source), str(root), str(batch_events)],
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
        check=True,
    )
    return sorted(root.iterdir(), key=lambda path: int(path.name))
