"""A whole journal of one segment, given to everything that reads or opens one."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from batpak import Coordinate, EventId, EventKind, Item, Region, Store
from batpak.errors import (
    BatpakError,
    Damaged,
    EventNotFound,
    IdempotencyConflict,
    InvalidInput,
    JournalCorrupt,
    PayloadDetached,
    PayloadErased,
    PayloadShredded,
    PayloadUnreadable,
)
from batpak.event import Event, hlc_of_id
from batpak.journal.hint import Hint
from tests.fuzz.mending import mend_key_table, mend_sidecar
from tests.fuzz.target import target
from tests.fuzz.targets.commands import shared_memory
from tests.fuzz.targets.files import mended
from tests.support.faulty_files import DISK
from tools import golden_vectors, read_segment
from tools.golden_vectors import JOURNAL_ID

IDENTITY = json.dumps(
    {"format": 1, "journal_id": str(JOURNAL_ID), "created_us": 0, "origin": "fuzz", "lineage": []}
).encode()


def write(folder: str, data: bytes) -> Path:
    """A journal directory from an input: a byte for the hint, a mode byte, a segment."""
    path = Path(folder, "journal")
    (path / "segments").mkdir(parents=True)
    (path / "journal.json").write_bytes(IDENTITY)
    segment = mended(data[1:])
    if len(segment) >= 128:
        # Of our journal and its first segment, or all else is refused for that alone.
        segment = segment[:16] + JOURNAL_ID.bytes + bytes(8) + segment[40:]
        segment = mended(bytes([data[1]]) + segment)
    (path / "segments" / f"{0:020}.seg").write_bytes(segment)
    if data[0]:
        hint = Hint(JOURNAL_ID.bytes, 0, 0, 128, data[0] - 1)
        (path / "tail.hint").write_bytes(hint.encode())
    return path


ONLY_THEIRS = re.compile(r"does not begin with an open event|^system event: ")
"""What the other reader says of the journal's own events: `verify` takes them as any event,
as docs/format.md, "Verifying", lists."""


def payload_of(event: Event) -> str | None:
    """A payload as the other reader tells it: None where it can't be read."""
    try:
        return event.raw.hex()
    except (PayloadDetached, PayloadErased, PayloadShredded, PayloadUnreadable):
        return None


@target(max_bytes=8192)
def second_opinion(data: bytes) -> None:
    """Two readers that share no code say the same of what both look at: good, or not.

    A follower shows what is known to be durable; what it shows, the other reader shows too,
    with the same hashes and payloads. What one finds wrong below that bound, so does the
    other. Neither raises anything but the errors that it documents.
    """
    if len(data) < 2:
        return
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        path = write(folder, data)
        lines: list[dict[str, Any]] = []
        report = read_segment.read_journal(path, lines.append)
        theirs = [(one["event_hash"], one["payload"]) for one in lines]
        bound, ours, refused = followed(path)
        findings = [f for f in report.findings if not ONLY_THEIRS.search(f.reason)]
        said = [f.line() for f in findings if f.sequence is None or f.sequence < bound]
        if refused and not said:
            # It may refuse what stands behind its bound, as the other does.
            said = [f.line() for f in findings]
        assert bool(refused) == bool(said), f"ours: {refused}\ntheirs: {said}"
        if not refused:
            assert ours == theirs[: len(ours)]


def followed(path: Path) -> tuple[int, list[tuple[str, str | None]], list[str]]:
    """What a follower shows of a journal: its bound, its events, and what it finds wrong."""
    try:
        with Store.open(path, mode="r") as store:
            verified = store.verify("full")
            found = [*store.open_report.findings, *verified.findings]
            refused = [f"{finding.code}: {finding.message}" for finding in found]
            if refused:
                return len(store), [], refused
            return len(store), [(e.event_hash.hex(), payload_of(e)) for e in store], []
    except BatpakError as error:
        assert isinstance(error, Damaged)
        return 0, [], [str(error)]


GOLDEN = golden_vectors.build()
SEGMENT = b"".join(
    GOLDEN[name].data
    for name in (
        "segment-header", "open-record", "single-commit", "batch-record", "close-record", "pad",
    )
)  # fmt: skip


HIDDEN = re.compile(
    r"^clock is \d+ where \d+ is expected|^prev_hash is not the event hash of the entity"
)


@target(max_bytes=4096)
def disposable_sidecar(data: bytes) -> None:
    """Whatever a sidecar says, no value of it goes into the log.

    A good segment with this sidecar beside it is refused by JournalCorrupt, or goes on:
    then, without any sidecar, both readers accept it, with every event that was there. Only
    forged tables of names and rows can hide an entity or its latest events, so that its next
    event begins a new chain, or goes on from an earlier event: both readers name that event.
    """
    if not data:
        return
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        path = Path(folder, "journal")
        (path / "segments").mkdir(parents=True)
        (path / "journal.json").write_bytes(IDENTITY)
        (path / "segments" / f"{0:020}.seg").write_bytes(SEGMENT)
        sidecar = path / "segments" / f"{0:020}.idx"
        sidecar.write_bytes(mend_sidecar(data[1:]) if data[0] & 1 else data[1:])
        try:
            with Store.open(path, files=DISK) as store:
                where = Coordinate("lamp:1", "house")
                store.append_many([Item(where, n, kind=EventKind(0xF, 1)) for n in range(2)])
        except JournalCorrupt:
            assert (path / "segments" / f"{0:020}.seg").read_bytes().startswith(SEGMENT)
            return
        sidecar.unlink(missing_ok=True)
        report = read_segment.read_journal(path)
        assert [f.line() for f in report.findings if not HIDDEN.search(f.reason)] == []
        assert report.events == 7 + 4
        with Store.open(path, mode="r") as store:
            assert store.verify("full").ok == report.ok


@target(max_bytes=2048)
def disposable_key_table(data: bytes) -> None:
    """Whatever a key table says, an id leads to the event that has it, or to none.

    A good journal with this table opens; looking up ids of all kinds and a keyed append raise
    nothing but EventNotFound and IdempotencyConflict, and both readers accept what is left.
    """
    if not data:
        return
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        path = Path(folder, "journal")
        (path / "segments").mkdir(parents=True)
        (path / "index").mkdir()
        (path / "journal.json").write_bytes(IDENTITY)
        (path / "segments" / f"{0:020}.seg").write_bytes(SEGMENT)
        table = mend_key_table(data[1:]) if data[0] & 1 else data[1:]
        (path / "index" / "keys.tbl").write_bytes(table)
        with Store.open(path, files=DISK) as store:
            ids = {event.event_id: event.sequence for event in store}
            for event_id in (*ids, EventId.from_bytes(bytes(15) + b"\x07")):
                try:
                    assert store.get(event_id).sequence == ids[event_id]
                except EventNotFound:
                    assert event_id.bytes not in [one.bytes for one in ids if own(store, one)]
            try:
                where = Coordinate("lamp:1", "house")
                store.append(where, 1, kind=EventKind(0xF, 1), key=golden_vectors.KEY)
            except IdempotencyConflict:
                pass
        (path / "index" / "keys.tbl").unlink(missing_ok=True)
        assert read_segment.read_journal(path).events >= 9


def own(store: Store, event_id: EventId) -> bool:
    """Whether the id carries its event's clock, so that no table is asked."""
    return any(e.event_id == event_id and hlc_of_id(event_id.bytes) == e.hlc for e in store)


@target(max_bytes=8192)
def opening(data: bytes) -> None:
    """A writer's open refuses any segment by an error of ours, or makes a good journal of it.

    A refusal changes no byte of the segment. After an open and a close, opening again cuts
    nothing and finds every event that was there. Nothing else is raised.
    """
    if len(data) < 2:
        return
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        path = write(folder, data)
        segment = path / "segments" / f"{0:020}.seg"
        before = segment.read_bytes()
        try:
            with Store.open(path, files=DISK) as store:
                kept = [event.event_hash for event in store.query(Region.all(), payload=False)]
        except (Damaged, InvalidInput):
            assert segment.read_bytes() == before
            return
        with Store.open(path, files=DISK) as store:
            assert store.open_report.cut is None
            assert [event.event_hash for event in store.query(Region.all(), payload=False)][
                : len(kept)
            ] == kept
