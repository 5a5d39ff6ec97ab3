"""Our proofs beside Go's: each side verifies what the other makes, and fsck reads our log.

Both what the pure rooms make and what a store on the disk does: its own published folder,
its checkpoints and proofs, and the command that is our witness.

Builds tests/interop/go, whose modules are pinned in go.mod and go.sum. Needs Go, and a
network the first time. What did not run is a skip with its reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Item, SigningKey, Store
from batpak.proof.bundle import verify_bundle
from batpak.proof.notes import COSIGNATURE, Key, Policy
from batpak.tlog import trees
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


# --- what a store publishes -------------------------------------------------------------------

LOG = SigningKey.from_seed(bytes([0x71] * 32))
WHERE = Coordinate("lamp:1", "house")
SHOWN = EventKind(0xF, 1)


def grown(store: Store, size: int) -> int:
    """Append up to `size` events and make a checkpoint; gives its size."""
    for low in range(len(store), size, 1000):
        numbers = range(low, min(low + 1000, size))
        store.append_many([Item(WHERE, {"n": n}, kind=SHOWN) for n in numbers])
    return store.checkpoint().size


def opened(journal: Path) -> Store:
    return Store.open(journal, checkpoint_key=LOG, durability=Durability.OS)


def log_key(store: Store) -> Key:
    return Key(store.origin, LOG.public_key)


@pytest.mark.parametrize(
    "sizes",
    [(1,), (255, 256, 257), (300, 66_000), (65_536, 65_537, 131_100)],
    ids=lambda sizes: "-".join(map(str, sizes)),
)
def test_fsck_finds_the_folder_of_a_store_whole(
    programs: Path, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    """After each growth, through a close and an open between them."""
    for size in sizes:
        with opened(tmp_path / "journal") as store:
            made, key = grown(store, size), log_key(store)
        # An opening and a closing are events too, and so is each checkpoint.
        assert made >= size
        assert fsck(programs, tmp_path / "journal" / "tlog", key, key.name) is None


def test_fsck_finds_the_folder_whole_after_an_erasure(programs: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as store:
        grown(store, 700)
        store.erase([5, 300], reason="asked for")
        assert store.compact().payloads == 2
        grown(store, 1100)
        key = log_key(store)
    assert fsck(programs, tmp_path / "journal" / "tlog", key, key.name) is None


def test_fsck_sees_a_spoilt_tile_until_the_store_makes_it_again(
    programs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "journal" / "tlog"
    with opened(tmp_path / "journal") as store:
        grown(store, 700)
        key = log_key(store)
    tile = folder / "tile" / "0" / "001"
    data = bytearray(tile.read_bytes())
    data[100] ^= 1
    tile.write_bytes(data)
    assert fsck(programs, folder, key, key.name) is not None
    # Disposable, as docs/guide/publish.md says.
    shutil.rmtree(folder)
    with opened(tmp_path / "journal") as store:
        store.checkpoint()
    assert fsck(programs, folder, key, key.name) is None


def shown_by(store: Store, old: int, step: int) -> dict[str, Any]:
    """What Go is to verify of a store: its newest checkpoint, and proofs that it gives."""
    newest, key = store.stored_checkpoint(), str(log_key(store))
    checkpoint = {
        "note": newest.note,
        "origin": newest.origin,
        "log_key": key,
        "witness_keys": [],
        "size": newest.size,
        "root": newest.root.hex(),
        "times": {},
    }
    inclusion = [
        {
            "index": index,
            "size": newest.size,
            "leaf": interop.merkle.leaf_hash(store.at(index).event_hash).hex(),
            "root": newest.root.hex(),
            "proof": store.prove(store.at(index).event_id, withhold_payload=True).inclusion,
        }
        for index in range(0, newest.size, step)
    ]
    proof = store.prove_consistency(old)
    consistency = {
        "old": old,
        "new": newest.size,
        "old_root": proof.old_root.hex(),
        "new_root": newest.root.hex(),
        "proof": [each.hex() for each in proof.hashes],
    }
    return {
        "notes": [],
        "checkpoints": [checkpoint],
        "inclusion": inclusion,
        "consistency": [consistency],
        "tiles_size": newest.size,
        "tiles": {},
    }


def test_go_verifies_what_a_store_proves_and_reads_its_tiles(
    programs: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "journal") as store:
        old = grown(store, 1000)
        grown(store, 66_000)
        made = shown_by(store, old, 997)
    file = tmp_path / "store.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    checked = run(programs / "interop", "check", file, tmp_path / "journal" / "tlog")
    assert checked.returncode == 0, checked.stderr
    counts = json.loads(checked.stdout)
    print(counts)
    assert (counts["checkpoints"], counts["consistency"]) == (1, 1)
    assert counts["inclusion"] == len(made["inclusion"]) > 60
    assert counts["entries"] > 40


# --- witnesses across ----------------------------------------------------------------------------


def test_witnesses_of_go_cosign_a_store_and_its_bundles_count_them(
    programs: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "journal") as store:
        grown(store, 300)
        note = tmp_path / "note"
        note.write_text(store.stored_checkpoint().note, encoding="utf-8")
        made = run(programs / "interop", "make", note)
        assert made.returncode == 0, made.stderr
        theirs = json.loads(made.stdout)["checkpoints"][-1]
        witnesses = tuple(Key.parse(text) for text in theirs["witness_keys"])
        store.add_cosignatures(theirs["note"], witnesses)
        bundle = store.prove(store.at(7).event_id).to_json()
        verdict = verify_bundle(bundle, (), Policy(log_key(store), witnesses, len(witnesses)))
        key = log_key(store)
    assert len(witnesses) == 2
    assert verdict.ok
    assert [check.held for check in verdict.checks if check.name == "witnesses"] == [True]
    assert fsck(programs, tmp_path / "journal" / "tlog", key, key.name) is None


def test_our_witness_command_follows_a_log_of_go(
    programs: Path, theirs: dict[str, Any], tmp_path: Path
) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "witness.pem")
    ours = Key("witness.example", key.public_key, COSIGNATURE)

    def cosign(note: str, old: int, size: int) -> subprocess.CompletedProcess[str]:
        hashes = trees.consistency_proof(interop.subtree, old, size)
        lines = "".join(f"{b64encode(each).decode()}\n" for each in hashes)
        return run(
            sys.executable, "-m", "batpak_cli", "witness", "cosign", "-", "--log", log,
            "--name", ours.name, "--key", tmp_path / "witness.pem",
            "--state", tmp_path / "seen", input=f"old {old}\n{lines}\n{note}",
        )  # fmt: skip

    again: list[dict[str, Any]] = []
    seen = 0
    for shown in theirs["checkpoints"][:-1]:
        log = shown["log_key"]
        done = cosign(shown["note"], seen, shown["size"])
        assert done.returncode == 0, done.stderr
        seen = shown["size"]
        _, times = Policy(Key.parse(log), (ours,), 1).open(done.stdout)
        keys = [*shown["witness_keys"], str(ours)]
        again.append(
            shown
            | {
                "note": done.stdout,
                "witness_keys": keys,
                "times": shown["times"] | {ours.name: times[ours]},
            }
        )
    # Go opens what our witness gave back, and counts it beside its own.
    with opened(tmp_path / "journal") as store:
        made = shown_by(store, grown(store, 300), 100) | {"checkpoints": again}
    made["tiles_size"] = again[-1]["size"]
    interop.publish(tmp_path / "log", again[-1]["note"], again[-1]["size"])
    file = tmp_path / "again.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    checked = run(programs / "interop", "check", file, tmp_path / "log")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["cosignatures"] == 3 * len(again)
    # And it goes back for nobody.
    back = theirs["checkpoints"][1]
    refused = cosign(back["note"], back["size"], back["size"])
    assert refused.returncode != 0
    assert "rollback" in refused.stderr
