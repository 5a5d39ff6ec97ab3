"""Real input for the demo: this repository's history, and a log of this very machine.

Whatever is used is named, and why nothing better was there. Reads only.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import batpak
from batpak.coordinate import name_from_path

__all__ = ["DPKG_LOG", "MachineLog", "Repository", "find_repository", "machine_log", "write_jsonl"]

DPKG_LOG: Final = Path("/var/log/dpkg.log")
FEWEST: Final = 40
"""With fewer lines than this the tampering would find no room."""
MOST: Final = 3_000
"""Of a longer log the end is taken: the demo stays a matter of seconds."""

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class MachineLog:
    """Objects for a JSONL file; `field` of each names the entity below `entity`."""

    title: str
    entity: str
    field: str
    objects: tuple[Json, ...]


def machine_log(dpkg_log: Path = DPKG_LOG) -> MachineLog:
    """The package manager's log; else what pip installed here; else the files of Python."""
    sources: tuple[tuple[str, Callable[[], Iterable[Json]]], ...] = (
        (f"the package manager's log, {dpkg_log}", lambda: _dpkg(dpkg_log)),
        ("pip's records of what it installed for this Python", _pip_records),
        ("the files of this Python's standard library", _standard_library),
    )
    for title, read in sources:
        objects = tuple(itertools.islice(read(), MOST))
        if len(objects) >= FEWEST:
            return MachineLog(title, "package", "package", objects)
    raise LookupError("this machine has no package log, no pip records and no standard library")


_DPKG = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d) (?P<time>\d\d:\d\d:\d\d) (?P<action>\S+) (?P<rest>.+)"
)


def _dpkg(path: Path) -> Iterator[Json]:
    """Lines about packages; those about dpkg's own phases name none."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return
    # Not every line is about a package, so this may come to fewer.
    for line in text.splitlines()[-MOST:]:
        match = _DPKG.fullmatch(line)
        if match is None:
            continue
        words = match["rest"].split()
        value: Json = {"time": f"{match['day']}T{match['time']}", "action": match["action"]}
        if match["action"] == "status" and len(words) == 3:
            value["state"] = words.pop(0)
        if ":" not in words[0]:
            continue
        package, _, value["architecture"] = words[0].rpartition(":")
        yield value | {"package": name_from_path(package), "versions": words[1:]}


def _pip_records() -> Iterator[Json]:
    for distribution in metadata.distributions():
        # Each look at these parses a file.
        name, version = name_from_path(distribution.name), distribution.version
        for file in distribution.files or ():
            if file.hash is not None:
                yield {
                    "package": name,
                    "version": version,
                    "file": str(file),
                    "bytes": file.size,
                    file.hash.mode: file.hash.value,
                }


def _standard_library() -> Iterator[Json]:
    top = sysconfig.get_path("stdlib")
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), top)
            if path.isprintable():
                yield {
                    "package": name_from_path(path.split(os.sep)[0]),
                    "file": path,
                    "bytes": os.lstat(os.path.join(folder, name)).st_size,
                }


def write_jsonl(path: Path, objects: Iterable[Json]) -> None:
    """One object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in objects)


# --- git -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repository:
    """A git repository, and what to tell people about it."""

    path: Path
    title: str
    commits: int
    """What git itself counts."""


def find_repository(scratch: Path, start: Path | None = None) -> Repository:
    """The repository that this program runs from; without one, a new one of its source.

    `start` is where the search for a checkout begins, upwards. Raises LookupError
    without git.
    """
    if shutil.which("git") is None:
        raise LookupError("git is not installed, and the demo imports a git history")
    start = start or Path(__file__).resolve().parent
    for folder in (start, *start.parents):
        # A package in somebody's environment stands below a repository that is not ours to read.
        if os.path.lexists(folder / ".git") and (folder / "src" / "batpak").is_dir():
            commits = _commits(folder)
            if commits:
                return Repository(folder, "this repository's history", commits)
            why = "git can't read the history of this checkout"
            break
    else:
        why = "this is no git checkout"
    made = _make_repository(scratch)
    title = f"{why}, so a repository made on the spot of batpak's source"
    return Repository(made, title, _commits(made))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # GIT_DIR and its like, set inside of hooks, would lead to another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _commits(folder: Path) -> int:
    """How many commits git counts from HEAD; 0 when it can't."""
    done = _git(folder, "rev-list", "--count", "HEAD")
    return int(done.stdout) if done.returncode == 0 else 0


def _make_repository(scratch: Path) -> Path:
    """A commit for each top folder of our packages."""
    target = scratch / "batpak"
    target.mkdir(parents=True)
    options = ("user.name=batpak demo", "user.email=demo@localhost", "core.hooksPath=/dev/null")
    configured = [word for option in options for word in ("-c", option)]
    _ran(_git(target, "init", "--quiet"))
    for source in (Path(batpak.__file__).parent, Path(__file__).resolve().parent.parent):
        by_folder = itertools.groupby(
            sorted(source.rglob("*.py"), key=lambda path: (path.parent, path.name)),
            key=lambda path: path.parent,
        )
        for folder, files in by_folder:
            inside = folder.relative_to(source.parent)
            (target / inside).mkdir(parents=True)
            for file in files:
                shutil.copyfile(file, target / inside / file.name)
            _ran(_git(target, "add", "--all"))
            message = f"Add {inside.as_posix()}"
            _ran(_git(target, *configured, "commit", "--quiet", "--no-gpg-sign", "-m", message))
    return target


def _ran(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise LookupError(f"git failed: {done.stderr.strip()}")
