"""What the figures depend on: processor, system, file system, versions, the disk's sync.

Names no host and no path.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_PACKAGES: Final = ("batpak", "blake3", "msgspec", "numpy", "eventsourcing")


def describe(directory: Path) -> dict[str, str | int | float | None]:
    """Facts for the head of the results, measured and read now."""
    return {
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory),
        "fsync_per_second": round(fsync_rate(directory)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        **{name: _version(name) for name in _PACKAGES},
        "commit": commit(),
    }


def cpu() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def file_system(directory: Path) -> str:
    """Type of the file system that holds `directory`; "unknown" where nothing tells."""
    here = str(directory.resolve())
    best, kind = "", "unknown"
    try:
        table = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return kind
    for line in table.splitlines():
        fields, _, source = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, source.split()[0]
    return kind


def fsync_rate(directory: Path) -> float:
    """1 / median time to create a file, write 64 bytes and fsync it; 16 files."""
    times = list[float]()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        for number in range(16):
            start = time.perf_counter()
            file = os.open(Path(folder, str(number)), os.O_CREAT | os.O_WRONLY)
            os.write(file, b"\xab" * 64)
            os.fsync(file)
            times.append(time.perf_counter() - start)
            os.close(file)
    return 1 / median(times)


def creation_us(directory: Path) -> float:
    """Median microseconds to create an empty file and close it; 256 files.

    ext4 passes over the numbers of files that were deleted within the last minutes, one by one:
    after a run that deleted thousands it takes ten times as long in the same folder.
    """
    times = list[float]()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        for number in range(256):
            start = time.perf_counter()
            os.close(os.open(Path(folder, str(number)), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            times.append(time.perf_counter() - start)
    return 1e6 * median(times)


def commit() -> str | None:
    """The commit that is checked out, with "+" where files differ from it."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        sources = (":/", ":(top,exclude)benchmarks/results")
        changed = git("status", "--porcelain", "--untracked-files=no", *sources)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
