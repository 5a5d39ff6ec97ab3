"""The Rust batpak as a contender: builds its program once and says how to run it.

The program (`benchmarks/peers/rust`) takes the same job and prints the same line as
`benchmarks.child`. Where there is no cargo the contender is absent; where the build
fails, or where the program makes other payloads than `benchmarks.data`, it has a failure
to show. Neither ever becomes a figure. Imports nothing of batpak.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.data import encoded
from benchmarks.work import Job

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = REPOSITORY / "benchmarks" / "peers" / "rust"
TARGET: Final = REPOSITORY / "build" / "peers" / "rust"
CONTENDERS: Final = frozenset({"rust", "rust-gate"})
"""The same program; the second lets each answer wait for its sync."""

CRATE: Final = "batpak"
BUILD_TIMEOUT_S: Final = 900
CHECKED_EVENTS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Peer:
    """The built program, or why there is none; `facts` are versions for the report's head."""

    program: Path | None = None
    failure: str = ""
    absent: bool = False
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    def command(self, job: Job) -> tuple[str, ...]:
        """The command line that does `job`. Raises ValueError without a program."""
        if self.program is None:
            raise ValueError(self.failure)
        return str(self.program), json.dumps(asdict(job))


def build(say: Callable[[str], None]) -> Peer:
    """Compiles the program unless it is there already. Needs the crates' registry once."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return Peer(failure="absent: there is no cargo on the path", absent=True)
    say("building the Rust batpak")
    # The manifest's folder is the working directory, so that its toolchain choice holds.
    command = (cargo, "build", "--release", "--quiet", "--target-dir", str(TARGET))
    try:
        _run(command)
        facts = {"rustc": _run(("rustc", "--version")).split()[1], "rust_batpak": _version()}
        peer = Peer(program=TARGET / "release" / "batpak-peer", facts=facts)
        _check_data(peer)
    except _NotBuiltError as error:
        return Peer(failure=f"not built: {error}")
    return peer


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            command, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NotBuiltError(f"{Path(command[0]).name}: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("error")]
        raise _NotBuiltError((errors or lines)[0])
    return done.stdout


def _version() -> str:
    """The version of the crate that cargo resolved and compiled."""
    lock = tomllib.loads((SOURCE / "Cargo.lock").read_text("utf-8"))
    (version,) = [each["version"] for each in lock["package"] if each["name"] == CRATE]
    return version


def _check_data(peer: Peer) -> None:
    """Both sides hash the first payloads as they store them: other data, no comparison."""
    job = Job("rust", "data", str(TARGET), CHECKED_EVENTS)
    theirs = json.loads(_run(peer.command(job)))["value"]
    digest = hashlib.sha256(b"".join(encoded(number) for number in range(CHECKED_EVENTS)))
    ours = int.from_bytes(digest.digest()[:6], "big")
    if theirs != ours:
        raise _NotBuiltError(f"its payloads have the digest {theirs:.0f}, ours {ours}")


class _NotBuiltError(Exception):
    """The program cannot be used; the text says why."""
