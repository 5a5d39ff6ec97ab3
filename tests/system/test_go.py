"""Our proofs beside Go's: each side verifies what the other makes, and fsck reads our log.

Builds tests/interop/go, whose modules are pinned in go.mod and go.sum. Needs Go, and a
network the first time. What did not run is a skip with its reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batpak.proof.notes import Key
from tests.support import interop
from tests.support.small_log import LOG_KEY

MODULE = Path(__file__).parents[1] / "interop" / "go"
FSCK = "github.com/transparency-dev/tessera/cmd/fsck"
GO = shutil.which("go")
pytestmark = pytest.mark.skipif(GO is None, reason="there is no Go here: interoperation not tried")


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **more)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs `interop` and `fsck`."""
    folder = tmp_path_factory.mktemp("go")
    for name, package in (("interop", "."), ("fsck", FSCK)):
        built = subprocess.run(
            [str(GO), "build", "-mod=readonly", "-o", str(folder / name), package],
            cwd=MODULE,
            capture_output=True,
            text=True,
            check=False,
            timeout=570,
        )
        assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def theirs(programs: Path) -> dict[str, Any]:
    note = programs / "note"
    note.write_text(interop.OURS_FOR_THEM, encoding="utf-8")
    made = run(programs / "interop", "make", note)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def ours(programs: Path, theirs: dict[str, Any]) -> dict[str, Any]:
    """What we made for Go, with the tree published in the folder `log`."""
    return interop.make_ours(programs / "log", theirs)


def test_the_kept_vectors_have_what_go_makes_today(theirs: dict[str, Any]) -> None:
    """But for the times of cosignatures, and what is signed at random."""
    kept = json.loads((MODULE.parents[1] / "golden" / "interop" / "go.json").read_text("utf-8"))
    for name in ("notes", "inclusion", "consistency", "tiles_size", "tiles"):
        assert theirs[name] == kept[name]


def test_we_verify_what_go_makes(theirs: dict[str, Any]) -> None:
    counts = interop.verify_theirs(theirs)
    print(dict(counts))
    assert min(counts.values()) > 0


def test_go_verifies_what_we_make(programs: Path, ours: dict[str, Any]) -> None:
    file = programs / "ours.json"
    file.write_text(json.dumps(ours), encoding="utf-8")
    checked = run(programs / "interop", "check", file, programs / "log")
    assert checked.returncode == 0, checked.stderr
    counts = json.loads(checked.stdout)
    print(counts)
    assert counts["inclusion"] == len(ours["inclusion"])
    assert counts["consistency"] == len(ours["consistency"])
    assert counts["checkpoints"] == len(ours["checkpoints"])
    assert counts["tiles"] > 0
    assert counts["entries"] > 0


@pytest.mark.parametrize("what", ["note", "root", "proof", "tile"])
def test_go_refuses_what_we_spoil(
    programs: Path, ours: dict[str, Any], tmp_path: Path, what: str
) -> None:
    spoilt = json.loads(json.dumps(ours))
    folder = programs / "log"
    match what:
        case "note":
            spoilt["notes"][0]["note"] = spoilt["notes"][0]["note"].replace("one", "two")
        case "root":
            spoilt["checkpoints"][-1]["root"] = "00" * 32
        case "proof":
            spoilt["inclusion"][-1]["proof"][0] = "00" * 32
        case _:
            folder = tmp_path / "log"
            shutil.copytree(programs / "log", folder)
            (folder / "tile" / "1" / "000").write_bytes(bytes(8192))
    file = tmp_path / "spoilt.json"
    file.write_text(json.dumps(spoilt), encoding="utf-8")
    checked = run(programs / "interop", "check", file, folder)
    assert checked.returncode == 1
    assert checked.stderr.startswith("interop: ")


# --- fsck over a published folder -------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a log of requests here."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static file server on loopback that shows the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def fsck(programs: Path, folder: Path, key: Key, origin: str) -> str | None:
    """What tessera's fsck has against a published log; None: nothing.

    It tells failures in its log alone, and ends with status 0 in any case. A worker of it
    that finds something stops, and once none is left it waits for ever: hence so many.
    """
    file = programs / "log-key"
    file.write_text(str(key), encoding="utf-8")
    with served(folder) as address:
        done = run(
            programs / "fsck", "-ui=false", "-v=1", "-N=16", f"-storage_url={address}",
            f"-public_key={file}", f"-origin={origin}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Completed ranges" in done.stderr
    _, failed, why = done.stderr.partition("fsck failed: ")
    return why.partition("\n")[0] if failed else None


def test_fsck_finds_our_published_log_whole(programs: Path, ours: dict[str, Any]) -> None:
    assert ours["tiles_size"] == interop.TILES_SIZE
    assert fsck(programs, programs / "log", LOG_KEY, LOG_KEY.name) is None


@pytest.mark.parametrize("size", [1, 255, 256, 257, 14_000])
def test_fsck_finds_logs_of_other_sizes_whole(programs: Path, tmp_path: Path, size: int) -> None:
    interop.publish(tmp_path, interop.our_checkpoint(size)["note"], size)
    assert fsck(programs, tmp_path, LOG_KEY, LOG_KEY.name) is None


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000.p/1", "tile/entries/000", "checkpoint"])
def test_fsck_sees_what_we_spoil(programs: Path, tmp_path: Path, path: str) -> None:
    interop.publish(tmp_path, interop.our_checkpoint(300)["note"], 300)
    data = bytearray((tmp_path / path).read_bytes())
    data[2 if path == "checkpoint" else -5] ^= 1
    (tmp_path / path).write_bytes(data)
    assert fsck(programs, tmp_path, LOG_KEY, LOG_KEY.name) is not None
