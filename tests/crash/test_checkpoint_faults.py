"""Every file operation of `checkpoint()` may fail or be the last: the checkpoint stands, or not.

Afterwards the journal opens, holds what was acknowledged, and either has the checkpoint, with
its event and its note, or has none of it; what a stranger fetches is a checkpoint whose tree is
whole. Then the next checkpoint is made on it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batpak import Store
from batpak.engine.checkpoints import load_checkpoint
from batpak.errors import BatpakError
from batpak.files import REAL
from batpak.journal.layout import Layout
from batpak.proof.notes import Note, Signature
from tests.support.faulty_files import Fault, FaultyFiles, Killed
from tests.support.proofs import LOG_KEY, ORIGIN, open_signed, published, say


def _prepare(path: Path) -> None:
    """Three hundred events, an older checkpoint, and some events more."""
    with open_signed(path) as store:
        say(store, 270)
        store.checkpoint()
        say(store, 5)


def _run(path: Path, files: FaultyFiles, place: int | None, fault: Fault) -> tuple[int, bool]:
    """Make a checkpoint with a fault at one of its operations; how many it had, and if it was
    acknowledged."""
    store = open_signed(path, files=files)
    made = False
    begun = len(files.operations)
    if place is not None:
        files.arm(place, fault)
    try:
        store.checkpoint()
        made = True
        count = len(files.operations) - begun
    except (BatpakError, Killed, KeyboardInterrupt):
        count = 0
    if files.dead or place is None:
        files.bury()
        _drop(store)
    else:
        _go_on(store)
    return count, made


def _drop(store: Store) -> None:
    store._finalizer.detach()
    store._release()


def _go_on(store: Store) -> None:
    """Whoever lives has to be able to close, whatever happened."""
    try:
        store.close()
    except BatpakError:
        pass


def _check(path: Path, acknowledged: bool) -> None:
    with open_signed(path) as store:
        sizes = store.checkpoint_sizes()
        told = [e.value["size"] for e in store if str(e.kind) == "0x0013"]
        # A note is published after its event is durable, never before.
        assert set(sizes) <= set(told)
        assert not acknowledged or len(sizes) == 2
        for size in sizes:
            stored = load_checkpoint(REAL, Layout(path), ORIGIN, size)
            assert Note.parse(stored.note).verified([LOG_KEY])
        report = store.verify(keys=[LOG_KEY])
        assert report.ok, report.findings
        # What was served before a crash and after it is a whole log.
        if all(size == sizes[-1] for size in told[-1:]):
            published_size = published(path).size
            assert published_size in told
        say(store)
        newest = store.checkpoint()
        assert set(told) <= set(store.checkpoint_sizes())
        assert published(path).note == newest.note
    with Store.open(path, mode="r") as reader:
        assert reader.verify(keys=[LOG_KEY]).ok


@pytest.mark.proves("INV-CHECKPOINT-STANDS-OR-NOT")
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_a_checkpoint_stands_or_not_whatever_fails(tmp_path: Path, fault: Fault) -> None:
    base = tmp_path / "base"
    _prepare(base)
    shutil.copytree(base, tmp_path / "record")
    files = FaultyFiles()
    count, _ = _run(tmp_path / "record", files, None, fault)
    operations = files.operations[-count:] if count else []
    assert {"pwrite", "rename", "sync_directory", "sync_data"} <= {o.name for o in operations}
    places = [at for at, operation in enumerate(operations) if fault.fits(operation)]
    assert places
    failures: list[Exception] = []
    for at in places:
        path = tmp_path / str(at)
        shutil.copytree(base, path)
        faulty = FaultyFiles()
        try:
            _, made = _run(path, faulty, at, fault)
            _check(path, made)
        except Exception as error:  # noqa: BLE001  # each is reported below, with its place
            error.add_note(f"{fault.value} at operation {at}: {operations[at]}")
            failures.append(error)
        shutil.rmtree(path)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(places)} places", failures)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("is_note", [True, False], ids=["own signature", "no note"])
def test_a_damaged_checkpoint_is_lost_by_no_failure(
    tmp_path: Path, fault: Fault, is_note: bool
) -> None:
    """What stood in its place, cosignatures included, is there or in quarantine."""
    base = tmp_path / "base"
    with open_signed(base) as store:
        say(store, 5)
        made = store.checkpoint()
    name = f"{made.size:020}.note"
    note = Note.parse(made.note)
    own, witness = note.signatures[0], Signature("example.net/witness", b"key.", bytes(72))
    broken = own._replace(signature=bytes(64))
    whole = str(Note(note.text, (broken, witness)))
    damaged = whole.encode() if is_note else whole.replace("— ", "—").encode()
    (base / "checkpoints" / name).write_bytes(damaged)
    shutil.copytree(base, tmp_path / "record")
    files = FaultyFiles()
    count, _ = _run(tmp_path / "record", files, None, fault)
    operations = files.operations[-count:]
    for at, operation in enumerate(operations):
        if not fault.fits(operation):
            continue
        path = tmp_path / str(at)
        shutil.copytree(base, path)
        _run(path, FaultyFiles(), at, fault)
        kept = [path / "checkpoints" / name, *(path / "quarantine").glob("*.note")]
        told = f"{fault.value} at operation {at}: {operation}"
        assert damaged in [each.read_bytes() for each in kept if each.exists()], told
        with open_signed(path) as store:
            store.checkpoint()
            (aside,) = (path / "quarantine").glob("*.note")
            assert aside.read_bytes() == damaged, told
            stored = store.stored_checkpoint(made.size)
            assert Note.parse(stored.note).verified([LOG_KEY]), told
            assert store.verify(keys=[LOG_KEY]).ok, told
        shutil.rmtree(path)
