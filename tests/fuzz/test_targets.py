"""Every fuzz target holds its invariant on every committed input, without a fuzzer.

The corpora are small; regressions hold one file for each finding there ever was.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batpak import canonical
from batpak.engine import manifest
from batpak.errors import StorageFailed
from batpak.ids import EventId
from batpak.journal.header import SegmentHeader
from batpak.journal.hint import Hint
from batpak.journal.identity import Identity
from batpak.journal.keyfile import KeyHeader
from batpak_cli import witness
from tests.fuzz import target
from tests.fuzz.targets import commands, files, journals, keys, proofs, signing, values

TARGETS = target.load()
INPUTS = [(name, path) for name in TARGETS for path in target.stored(name)]
WHOLE_JOURNALS = {
    "csv-import",
    "disposable-key-table",
    "disposable-sidecar",
    "opening",
    "second-opinion",
    "jsonl-import",
}


@pytest.mark.proves("INV-HOSTILE-BYTES-ARE-REFUSED-OR-READ")
@pytest.mark.parametrize(
    ("name", "path"), INPUTS, ids=[f"{name}/{path.name}" for name, path in INPUTS]
)
def test_a_stored_input_keeps_its_targets_invariant(name: str, path: Path) -> None:
    data = path.read_bytes()
    assert len(data) <= TARGETS[name].max_bytes, "longer inputs are never made"
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_what_holds_and_has_inputs(name: str) -> None:
    assert TARGETS[name].invariant.strip()
    assert (target.CORPUS / name).is_dir()
    assert len(target.stored(name)) >= 2


def test_no_input_lies_about_without_a_target() -> None:
    folders = [*target.CORPUS.iterdir(), *target.REGRESSIONS.iterdir()]
    assert {folder.name for folder in folders if folder.is_dir()} <= set(TARGETS)


# What a decoder may take for an input: room for its values, never what a length claims.
ROOM_BYTES, ROOM_TIMES = 256 << 10, 400


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - WHOLE_JOURNALS))
def test_memory_stays_in_proportion_to_the_input(name: str) -> None:
    run = TARGETS[name].run
    for path in target.stored(name):
        data = path.read_bytes()
        run(data)  # what is imported and remembered once is no input's fault
        tracemalloc.start()
        try:
            run(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= ROOM_BYTES + ROOM_TIMES * len(data), path.name


# --- the targets notice what they are there for -------------------------------------------------


class WrongHeader(SegmentHeader):
    def encode(self) -> bytes:
        return super().encode()[:-1] + b"?"


def wrongly(result: Any) -> Callable[..., Any]:
    return lambda *_, **__: result


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> Any:
        raise error

    return function


PLANTED: dict[str, tuple[object, str, Any]] = {
    "bundles": (proofs.second, "judge", wrongly([])),
    "canonical-lenient": (canonical, "encode", lambda value: repr(value).encode()),
    "canonical-strict": (canonical, "decode", wrongly(None)),
    "canonical-typed": (canonical, "decode", raising(RecursionError())),
    "coordinates": (values, "name_from_path", wrongly("same")),
    "csv-import": (commands, "import_csv", raising(KeyError("row"))),
    "denials": (values.DenialPayload, "encode", wrongly(b"")),
    "disposable-key-table": (journals.Store, "get", raising(IndexError())),
    "disposable-sidecar": (journals.Store, "append_many", raising(IndexError())),
    "encrypted-envelopes": (keys.Vault, "open", wrongly(b"opened")),
    "entry-bundles": (proofs.tiles, "encode_entries", wrongly(b"")),
    "erasure-payloads": (values, "MAX_RUNS", 0),
    "extensions": (values, "decode_extensions", wrongly({1: "a"})),
    "identity": (Identity, "accepts", wrongly(False)),
    "ids": (EventId, "__str__", wrongly("event:1")),
    "jsonl-import": (commands, "import_jsonl", raising(KeyError("line"))),
    "key-files": (keys, "encode_key_file", wrongly(b"")),
    "key-header": (KeyHeader, "encode", wrongly(b"")),
    "kinds": (values.EventKind, "__str__", wrongly("0x0")),
    "manifest": (manifest, "may_hold", wrongly(True)),
    "notes": (proofs.Note, "__str__", wrongly("note")),
    "opening": (journals.Store, "query", raising(IndexError())),
    "options": (commands, "parse_id", wrongly(b"short")),
    "outcomes": (values.Outcome, "to_json", wrongly("{}")),
    "receipts": (values.AppendReceipt, "to_json", wrongly("{}\n")),
    "records": (files, "check_body", raising(IndexError())),
    "recovery": (files, "last_nonzero", wrongly(0)),
    "second-opinion": (journals.read_segment, "read_journal", raising(StorageFailed("no"))),
    "segment-header": (files, "SegmentHeader", WrongHeader),
    "segment-names": (files, "parse_segment_name", wrongly(7)),
    "shredding-payloads": (keys, "key_shredded_event", raising(ValueError())),
    "sidecar": (files.MappedPart, "tally", raising(IndexError())),
    "signing-keys": (
        signing.SigningKey,
        "__repr__",
        lambda key: key.private.private_bytes_raw().hex(),
    ),
    "strict-json": (commands, "parse", wrongly({"not": "that"})),
    "tail-hint": (Hint, "encode", wrongly(b"")),
    "tile-paths": (proofs.tiles.Tile, "parse", wrongly(proofs.tiles.Tile.parse("tile/0/000"))),
    "verifier-keys": (proofs.Key, "__str__", wrongly("key")),
    "witness-requests": (witness, "replace_file", wrongly(None)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_planted_fault_is_found_in_the_corpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLANTED[name])
    found = 0
    for path in target.stored(name):
        try:
            TARGETS[name].run(path.read_bytes())
        except (AssertionError, LookupError, ValueError, RuntimeError, StorageFailed):
            found += 1
    assert found > 0


def test_an_unknown_target_is_refused_before_anything_runs() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "no-such-target"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.returncode == 2
    assert "no such target: no-such-target" in run.stderr


def test_seeds_of_the_golden_vectors_reach_the_inside() -> None:
    """Among the seeds are logs of several events, and torn ones."""
    accepted = refused = 0
    for path in target.stored("recovery"):
        segment = files.mended(path.read_bytes()[2:])
        header = SegmentHeader.decode(segment, "some file")
        tail, rows = files.judged(segment, header, [])
        accepted += len(rows) > 3
        refused += tail.garbage_end > tail.end.offset
    assert accepted >= 4
    assert refused >= 1
