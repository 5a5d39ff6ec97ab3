"""Small journals to damage, and what the library says of a damaged one.

`observe` opens a journal in every way, asks it everything, and puts the answer in one
word. Whatever the damage is, it asserts that no answer is wrong: an event that is shown
is the one that was written, a refusal changes nothing, a reader writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batpak import Durability, EventId, Region, Store
from batpak.engine.repair import Diagnosis, diagnose
from batpak.errors import BatpakError, Damaged, EventNotFound, JournalCorrupt, NotAJournal
from batpak.event import Event
from batpak.journal.layout import Layout
from batpak.store import ReadOnlyStore
from tests.support.checker import Ledger, fingerprint
from tests.support.faulty_files import DISK, FaultyFiles, Killed

Print = tuple[int, bytes, bytes, bytes | None]
OPTIONS: dict[str, Any] = {"segment_max_bytes": 4096, "preallocate": 2048}


# --- journals ----------------------------------------------------------------------


def fill(store: Store, ledger: Ledger) -> None:
    """Two segments: single events and one batch, small payloads and one large."""
    ledger.commit(store, "player:alice", padding=3500)
    ledger.commit(store, "player:bob")
    ledger.commit(store, "player:alice", "game", "player:bob")
    ledger.commit(store, "player:alice")


def closed(path: str) -> None:
    """Two segments, closed cleanly."""
    with Store.open(path, files=DISK, **OPTIONS) as store:
        fill(store, Ledger())


def killed(path: str) -> None:
    """Two segments; the writer, which waited for each sync, was killed."""
    _die(path, Durability.SYNC)


def unsynced(path: str) -> None:
    """One segment that was never synced after its open event; the writer was killed."""
    files, ledger = FaultyFiles(), Ledger()
    store = Store.open(path, files=files, durability=Durability.OS, preallocate=2048)
    for entity in ("player:alice", "player:bob"):
        ledger.commit(store, entity)
    ledger.commit(store, "player:alice", "game")
    _bury(files, store)


def covered(path: str) -> None:
    """One segment, closed cleanly with a sidecar that covers it."""
    with Store.open(path, files=DISK, durability=Durability.OS, preallocate=2048) as store:
        ledger = Ledger()
        for i in range(1030):
            ledger.commit(store, f"player:{i % 3}")


def _die(path: str, durability: Durability) -> None:
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=durability, **OPTIONS)
    fill(store, Ledger())
    _bury(files, store)


def _bury(files: FaultyFiles, store: Store) -> None:
    files.bury()
    try:
        store.close()
    except Killed:
        pass


def bare(make: Callable[[str], None]) -> Callable[[str], None]:
    """The same journal without hint and sidecars."""

    def build(path: str) -> None:
        make(path)
        for file in (*Path(path).glob("segments/*.idx"), Path(path, "tail.hint")):
            file.unlink()

    return build


STATES: dict[str, Callable[[str], None]] = {
    "closed": closed,
    "closed, bare": bare(closed),
    "killed": killed,
    "killed, bare": bare(killed),
    "unsynced": unsynced,
    "covered": covered,
}


class Tree:
    """The files of a journal as bytes, so that it can be damaged again and again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.files = tree(path)

    def restore(self) -> None:
        """Put back every byte and remove what was added."""
        for name in tree_names(self.path):
            if name not in self.files:
                os.unlink(os.path.join(self.path, name))
        quarantine = os.path.join(self.path, "quarantine")
        if os.path.isdir(quarantine):
            os.rmdir(quarantine)
        for name, data in self.files.items():
            overwrite(Path(self.path, name), data)


def overwrite(file: Path, data: bytes) -> None:
    """Give a file this content, in place: ext4 would sync one that was emptied first."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        if os.pread(fd, len(data) + 1, 0) != data:
            os.ftruncate(fd, len(data))
            os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def tree_names(path: str) -> list[str]:
    """Names of all files below `path`, relative to it."""
    return [
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        for name in names
    ]


def tree(path: str) -> dict[str, bytes]:
    """Every file below `path` and its bytes."""
    return {name: Path(path, name).read_bytes() for name in tree_names(path)}


# --- judging -----------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    """What the library makes of a journal.

    `word` is one of: refused (no writer may open it), cut (bytes are set aside and
    reported), named (it opens; reading or verifying names the damage), unseen (events
    are gone and nothing says so), harmless (every event as written, nothing to report).
    """

    word: str
    error: BatpakError | None = None
    events: int = 0
    """Events of the original journal that the writer's view still has."""
    shown: int = 0
    """The same for a reader without the lock; it never has more."""
    told: bool = False
    """Whether the reader was told that something is missing, when it opened or later."""
    refused_events: set[int] = field(default_factory=set[int])
    wrong_in_query: set[int] = field(default_factory=set[int])
    """Events that `query` gave although they are not what was written."""
    findings: list[Any] = field(default_factory=list[Any])
    cut: Any = None


def truth_of(path: str) -> list[Print]:
    """Every event of an undamaged journal, found without changing it."""
    before = Tree(path)
    with Store.open(path, files=DISK, preallocate=0) as store:
        # All but the open event of this very look.
        events = [fingerprint(event) for event in store][:-1]
    before.restore()
    return events


def observe(path: str, truth: list[Print], *, near: range | None = None) -> Verdict:
    """Open the journal at `path` in every way and ask for everything.

    With `near`, single events are asked for around these sequences and here and there.
    """
    before = tree(path)
    verdict = Verdict("")
    asked = None if near is None else _asked(near, len(truth))
    verdict.shown, verdict.told = _read_only(path, truth, asked)
    diagnosis = _diagnosis(path)
    assert tree(path) == before, "a reader changed something"
    try:
        store = Store.open(path, files=DISK, preallocate=0)
    except BatpakError as error:
        verdict.word, verdict.error = "refused", error
    if verdict.error is not None:
        assert isinstance(verdict.error, Damaged), f"damage is taken for {verdict.error!r}"
        assert verdict.error.advice, "an error says what to do"
        _check_explained(diagnosis, verdict)
        after = {**tree(path), "journal.lock": b""}
        assert after == {**before, "journal.lock": b""}, "a refusal changed something"
        return verdict
    with store:
        verdict.cut = store.open_report.cut
        total = len(store) - 1
        assert total <= len(truth), "events that nobody wrote"
        verdict.events = total
        verdict.refused_events = _check_events(store, truth[:total], asked)
        verdict.wrong_in_query = _check_query(store, truth[:total])
        report = store.verify("full")
        verdict.findings = report.findings
        assert not (report.ok and verdict.refused_events), "reading fails, verify is content"
    verdict.word = _word(verdict, len(truth))
    _check_usable(diagnosis, verdict)
    assert verdict.shown <= verdict.events, "a reader was shown what the writer took back"
    return verdict


def _diagnosis(path: str) -> Diagnosis | None:
    """What `batpak repair` says; None without journal.json, or when a newer version is needed."""
    try:
        return diagnose(DISK, Layout(path))
    except Damaged:
        return None


def _check_usable(found: Diagnosis | None, verdict: Verdict) -> None:
    """Of a journal that opens, repair says so, and names what is damaged in it."""
    assert found is not None
    assert found.state in ("healthy", "torn", "usable"), f"it opens, and is called {found.state}"
    # The payloads and the index are for verify to judge.
    records = {f.sequence for f in verdict.findings if f.code in ("header-crc", "head-crc")}
    if records:
        # A damaged pad has the place of the next event, and none is in it.
        records.discard(found.events)
        assert found.state == "usable"
        assert found.events == verdict.events
        assert all(f"event {sequence} " in found.explanation for sequence in records)
        assert found.choices[0].startswith("go on with the journal as it is")


def _check_explained(found: Diagnosis | None, verdict: Verdict) -> None:
    """A reader of a journal that is refused has all that repair promises, and is told."""
    if found is None:
        assert verdict.shown == 0
        return
    assert found.state == "damaged"
    if verdict.shown:
        assert f"every event below {verdict.shown} opens" in " ".join(found.choices)
    error = verdict.error
    assert isinstance(error, JournalCorrupt)
    if "record at" in str(error.witness):
        # What only a later record of the same file knows to be durable, a reader waits for.
        assert verdict.shown <= found.events
    elif error.reason == "row":
        # The writer meets its own newest event; a reader shows all until it is asked for it.
        assert verdict.shown >= found.events
    else:
        assert verdict.told, "the reader is told that events are missing"
        assert verdict.shown == found.events, "the reader is served all that precedes"


def _word(verdict: Verdict, total: int) -> str:
    if verdict.findings:
        return "named"
    if verdict.cut is not None:
        return "cut"
    return "unseen" if verdict.events < total else "harmless"


def _asked(near: range, total: int) -> set[int]:
    here = range(max(0, near.start - 2), near.stop + 2)
    return {*here, *range(0, total, 97), *range(total - 3, total)}


def _read_only(path: str, truth: list[Print], asked: set[int] | None) -> tuple[int, bool]:
    """How many events a reader without the lock is shown; all of them have to be right.

    Also whether it is told that there should be more, or is refused.
    """
    try:
        reader = Store.open(path, mode="r", files=DISK)
    except (Damaged, NotAJournal):
        return 0, True
    with reader:
        shown = len(reader)
        assert shown <= len(truth)
        _check_events(reader, truth[:shown], asked)
        _check_query(reader, truth[:shown])
        if reader.open_report.findings:
            assert not reader.verify("full").ok or shown < len(truth)
        told = bool(reader.open_report.findings)
        try:
            reader.refresh()
            assert not told, "what was found when opening is raised by refresh()"
        except JournalCorrupt:
            assert told, "what refresh() raises was found when opening"
    return shown, told


def _same(event: Event, expected: Print) -> bool:
    return fingerprint(event) == expected


def _check_events(
    store: Store | ReadOnlyStore, truth: Iterable[Print], asked: set[int] | None
) -> set[int]:
    """Sequences that `at` refuses; what it and `get` give is what was written."""
    refused: set[int] = set()
    for expected in truth:
        sequence, raw_id = expected[0], expected[1]
        if asked is not None and sequence not in asked:
            continue
        try:
            assert _same(store.at(sequence), expected), f"at({sequence}) gives another event"
        except Damaged:
            refused.add(sequence)
        try:
            found = store.get(EventId.from_bytes(raw_id))
            assert _same(found, expected), f"get() of event {sequence} gives another event"
            assert sequence not in refused, "get() and at() disagree"
        except Damaged:
            assert sequence in refused, "get() and at() disagree"
        except EventNotFound as error:
            raise AssertionError(f"get() denies event {sequence}") from error
    return refused


def _check_query(store: Store | ReadOnlyStore, truth: list[Print]) -> set[int]:
    """Sequences that `query` gives wrongly; a refusal ends it."""
    wrong: set[int] = set()
    try:
        for event in store.query(Region.all()):
            if event.sequence < len(truth) and not _same(event, truth[event.sequence]):
                wrong.add(event.sequence)
    except Damaged:
        pass
    return wrong
