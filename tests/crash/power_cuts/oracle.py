"""What has to be true of a journal after a power cut, and after one inside its recovery.

`judge` opens a state for writing and asserts: nobody refuses it; what is there is what
was written, from the beginning, in whole commits; what was promised is there; every
hash verifies; the report and the quarantine tell exactly what was cut, and nothing else
was; a second opening changes nothing but its own open event. Then it cuts the power
inside that very recovery and begins again.

`damage` is the other half: a flipped byte in an event that a witness knows to be
durable is refused or named, and never taken for a tear.

Source: docs/format.md, "Recovery".
"""

from __future__ import annotations

import random
import struct
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batpak import Store
from batpak.engine.report import OpenReport
from batpak.errors import BatpakError, Damaged, NotAJournal
from batpak.files import Files
from tests.crash.power_cuts.disk_model import PAGE, SECTOR, Survivors
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles, State
from tests.crash.power_cuts.recording import (
    CURSOR,
    JOURNAL,
    Claim,
    Judged,
    Print,
    Refused,
    bury_store,
    cursor_bytes,
    opened,
    segments_of,
)
from tests.support.checker import SYSTEM, fingerprint
from tests.support.faulty_files import DISK
from tests.support.regions import HEADER, StoredRecord, records
from tools import read_segment

__all__ = ["Expected", "Judged", "Refused", "damage", "judge", "judge_on_disk"]


@dataclass(slots=True)
class Expected:
    """What may and what must be there."""

    truth: list[Print]
    commits: frozenset[int]
    at_least: int
    cursor: int
    cursors: int
    options: dict[str, Any]
    kept: dict[str, bytes] = field(default_factory=dict[str, bytes])
    erased: dict[int, int] = field(default_factory=dict[int, int])
    claims: list[tuple[bool, Claim]] = field(default_factory=list[tuple[bool, Claim]])
    """Each with whether it was promised before the cut."""

    def prints(self, recovered: int) -> list[Print]:
        """What the first `recovered` events have to look like."""
        found = self.truth[:recovered]
        for sequence, by in self.erased.items():
            if sequence < recovered and by < recovered:
                found[sequence] = (*found[sequence][:3], None)
        return found

    def after(self, first: Judged, *, opening_returned: bool) -> Expected:
        """What holds for the next opening, once this one was seen.

        What it found is on the disk, and no crash inside recovery may take it away. Its
        open event is promised when it has returned. What it cut is kept, come what may.
        """
        shown = first.shown
        known = frozenset(bound for bound in self.commits if bound < len(shown))
        at_least = len(shown) - (not opening_returned)
        cut = first.report.cut
        kept = dict(self.kept)
        if cut is not None and cut.quarantine is not None:
            kept[cut.quarantine] = first.after.read(cut.quarantine) or b""
        # An erasure that was found gone was never asked for, as far as anybody knows.
        erased = {s: by for s, by in self.erased.items() if by < first.recovered}
        truth = [self.truth[each[0]] if each[0] in erased else each for each in shown]
        return Expected(
            truth, known | {len(shown)}, at_least, self.cursor, self.cursors, self.options, kept,
            erased, self.claims,
        )  # fmt: skip


def check_events(store: Store, expected: Expected) -> list[Print]:
    """Assert that the store holds a prefix of the truth and its own open event."""
    shown = [fingerprint(event) for event in store]
    own = store.at(len(shown) - 1)
    assert own.coordinate.entity == SYSTEM, "the last event is not the open event"
    recovered = len(shown) - 1
    assert recovered >= expected.at_least, (
        f"events that were acknowledged as durable are gone: "
        f"{recovered} of {expected.at_least} are there"
    )
    check_prints(shown[:recovered], expected.prints(recovered))
    assert recovered in expected.commits, f"{recovered} events: a part of a commit"
    report = store.verify("full")
    assert report.ok, report.findings
    assert report.events == len(shown)
    return shown


def check_prints(shown: list[Print], wanted: list[Print]) -> None:
    """Assert that these are the events, each with its payload unless that was erased."""
    for found, right in zip(shown, wanted, strict=True):
        assert found[:3] == right[:3], "these are not the events written"
        assert found[3] is not None or right[3] is None, (
            f"the payload of event {found[0]} is gone, and so is what erased it"
        )
        assert found[3] is None or right[3] is not None, (
            f"the payload of event {found[0]} is back after its erasure"
        )
        assert found[3] == right[3], "these are not the events written"


def check_files(state: State, expected: Expected) -> None:
    """Assert that files beside the log are whole and are nobody's half-done work."""
    for path, data in expected.kept.items():
        assert state.read(path) == data, f"{path} has to be kept and was changed or lost"
    for inner in ("", "/segments", "/quarantine", "/index", "/checkpoints"):
        folder = JOURNAL + inner
        left = [name for name in state.names(folder) if name.endswith(".tmp")]
        assert not left, f"temporary files stay: {left}"
    if expected.cursors:
        versions = {
            cursor_bytes(n): n for n in range(max(1, expected.cursor), expected.cursors + 1)
        }
        data = state.read(CURSOR)
        if data is not None or expected.cursor:
            assert data in versions, f"the cursor is none of {sorted(versions.values())}"


def log_end(data: bytes, recovered: int) -> int:
    """Offset at which the log ended when the open event, of sequence `recovered`, was written.

    `data` is the segment that was the newest one then; the event may stand in the next.
    """
    found = records(data)
    for record in found:
        if record.base == recovered and record.count:
            return record.offset
    return found[-1].end if found else HEADER


def check_cut(before: State, after: State, report: OpenReport, recovered: int) -> None:
    """Assert that the report and the quarantine tell what was cut, byte for byte."""
    old, new = segments_of(before), segments_of(after)
    if not old:
        assert report.cut is None
        return
    name = max(old)
    end = log_end(new[name], recovered)
    assert old[name][:end] == new[name][:end], "recovery changed accepted bytes"
    for sealed in sorted(old)[:-1]:
        assert new[sealed] == old[sealed], "recovery changed a sealed segment"
    garbage = old[name][end:].rstrip(b"\0")
    cut = report.cut
    if not garbage:
        assert cut is None, f"nothing stood behind the log, and the report tells of {cut}"
        return
    assert cut is not None, f"{len(garbage)} bytes were cut and the report does not say so"
    assert (cut.bytes, cut.offset, cut.sequence) == (len(garbage), end, recovered), cut
    assert cut.file == f"{JOURNAL}/segments/{name}"
    assert cut.quarantine is not None
    assert after.read(cut.quarantine) == garbage, "the quarantine holds other bytes"
    assert after.read(cut.quarantine[:-4] + ".json"), "nothing says why it was set aside"


def check_follower(state: State, expected: Expected) -> list[Print]:
    """What a reader sees that comes before any writer; it changes nothing."""
    disk = Disk(state)
    try:
        reader = Store.open(JOURNAL, mode="r", files=MemoryFiles(disk))
    except NotAJournal:
        return []
    except BatpakError as error:
        raise Refused(f"an ordinary power cut is refused to a reader: {error!r}") from error
    with reader:
        shown = [fingerprint(event) for event in reader]
    assert not disk.log, "a reader wrote"
    for found, written in zip(shown, expected.truth, strict=False):
        # A rewritten segment may be there before the reader knows of what erased its payloads.
        lacks = found[0] in expected.erased and found == (*written[:3], None)
        assert found == written or lacks, "a reader sees what was not written"
    return shown


def open_once(state: State, expected: Expected) -> Judged:
    """Open a state for writing, assert everything, and kill the process."""
    disk = Disk(state)
    with opened(MemoryFiles(disk), expected.options) as store:
        shown = check_events(store, expected)
        report = store.open_report
    after = disk.state()
    check_files(after, expected)
    check_cut(state, after, report, len(shown) - 1)
    return Judged(shown, state, after, disk, report)


def check_again(first: Judged, expected: Expected) -> None:
    """Assert that opening once more changes nothing but its own open event."""
    again = Disk(first.after)
    with opened(MemoryFiles(again), expected.options) as store:
        assert store.open_report.cut is None, "the second opening cuts something"
        assert store.open_report.epoch > first.report.epoch, "an epoch is used twice"
        shown = [fingerprint(event) for event in store]
    assert shown[:-1] == first.shown, "the second opening changed events"
    after = again.state()
    old, new = first.after.tree(), after.tree()
    ends = {name: records(data) for name, data in segments_of(first.after).items()}
    for path, data in old.items():
        name = path.rpartition("/")[2]
        if name in ends:
            end = ends[name][-1].end if ends[name] else HEADER
            assert new[path][:end] == data[:end], f"{name} was changed by the second opening"
        elif name not in ("tail.hint", "journal.lock"):
            assert new.get(path) == data, f"{path} was changed by the second opening"


def judge(
    state: State, expected: Expected, draw: random.Random, tally: Counter[str], *, depth: int = 1
) -> Judged:
    """Hold one state to everything above; then `depth` times a power cut inside recovery."""
    before = check_follower(state, expected) if draw.random() < 0.2 else None
    first = open_once(state, expected)
    if before is not None:
        tally["readers before recovery"] += 1
        assert len(before) <= len(first.shown), "recovery took back what a reader was shown"
        for early, late in zip(before, first.shown, strict=False):
            changed = early != late and (*early[:3], None) != late
            assert not changed, "recovery changed what a reader was shown"
    tally["tails set aside"] += first.report.cut is not None
    check_again(first, expected)
    # Claims open the journal more often than all else: after a second crash a share of them.
    if depth or draw.random() < 0.25:
        for promised, claim in expected.claims:
            claim.check(first, expected.options, promised=promised)
            tally["claims"] += 1
    if depth:
        tally["second crashes"] += 1
        changes = first.disk.log
        cut = draw.randrange(len(changes) + 1)
        survivors = Survivors(state, draw.choice((PAGE, PAGE, SECTOR)))
        for change in changes[:cut]:
            survivors.advance(change)
        following = expected.after(first, opening_returned=cut == len(changes))
        try:
            judge(survivors.draw(leaning(draw)), following, draw, tally, depth=depth - 1)
        except AssertionError as error:
            last = changes[cut - 1] if cut else "nothing"
            error.add_note(f"cut again inside recovery after {cut} changes, the last: {last}")
            raise
    return first


def leaning(draw: random.Random) -> Any:
    """Answers to the disk model's questions that lean to the new, to the old, or to neither."""
    lean = draw.choice((0.0, 0.0, 0.7, 0.9))
    to_new = draw.random() < 0.5

    def pick(n: int) -> int:
        if lean and draw.random() < lean:
            return n - 1 if to_new else 0
        return draw.randrange(n)

    return pick


# --- the same on the real file system ------------------------------------------------


def judge_on_disk(state: State, expected: Expected, folder: str) -> None:
    """Put a state on the real file system; open, close, and let a stranger read it."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="batpak-power-cut-") as place:
        state.write_to(place)
        path = place + JOURNAL
        files: Files = DISK
        try:
            store = Store.open(path, files=files, **expected.options)
        except BatpakError as error:
            raise Refused(f"an ordinary power cut is refused: {error!r}") from error
        with store:
            shown = check_events(store, expected)
        stranger = read_segment.read_journal(Path(path))
        assert not stranger.findings, stranger.findings
        assert stranger.events == len(shown) + 1, "the close"
        for name, data in expected.kept.items():
            assert Path(place + name).read_bytes() == data, f"{name} was changed"


# --- damage to what is durable -------------------------------------------------------


def witnessed(before: State, found: list[StoredRecord], newest: str) -> int:
    """The bound that hint, sidecars and the newest segment's records know, read by hand."""
    bounds = [int(newest.split(".")[0])]
    hint = before.read(f"{JOURNAL}/tail.hint") or b""
    if len(hint) >= 64 and zlib.crc32(hint[8:64]) == struct.unpack_from("<I", hint, 4)[0]:
        bounds.append(struct.unpack_from("<Q", hint, 48)[0])
    return max([*bounds, *(record.durable for record in found)])


def damage(first: Judged, expected: Expected, draw: random.Random, tally: Counter[str]) -> None:
    """Flip a byte of an event that is known to be durable: refused or named, never cut."""
    before = first.before
    segments = segments_of(before)
    if not segments:
        return
    newest = max(segments)
    in_newest = _accepted(first, newest)
    victims: list[tuple[str, StoredRecord]] = []
    for name in segments:
        for record in _accepted(first, name):
            others = [other for other in in_newest if other is not record]
            if record.count and record.base + record.count <= witnessed(before, others, newest):
                victims.append((name, record))
    if not victims:
        return
    name, record = draw.choice(victims)
    at = draw.randrange(record.offset, record.end)
    bit = 1 << draw.randrange(8)
    number = before.find(f"{JOURNAL}/segments/{name}")
    assert number is not None
    data = bytearray(before.files[number])
    data[at] ^= bit
    damaged = State(before.directories, {**before.files, number: bytes(data)})
    where = f"bit {bit:#x} of byte {at} of {name}, record {record.offset} to {record.end}"
    disk = Disk(damaged)
    files = MemoryFiles(disk)
    try:
        store = Store.open(JOURNAL, files=files, **expected.options)
    except Damaged:
        tally["damage refused"] += 1
        assert segments_of(disk.state()) == segments_of(damaged), f"{where}: refused and changed"
        kept = f"{JOURNAL}/quarantine"
        assert disk.state().names(kept) == before.names(kept), f"{where}: refused and set aside"
        return
    except BatpakError as error:
        raise AssertionError(f"{where}: damage is taken for {error!r}") from error
    finally:
        if not files.open_paths:
            files.bury()
    try:
        recovered = len(store) - 1
        assert recovered >= first.recovered, (
            f"{where}: damage to acknowledged events is taken for a tear: "
            f"{recovered} of {first.recovered} are left"
        )
        assert not store.verify("full").ok, f"{where}: nobody names the damage"
        tally["damage named"] += 1
    finally:
        files.bury()
        bury_store(store)


def _accepted(first: Judged, name: str) -> list[StoredRecord]:
    """Records of a segment that the undamaged recovery accepted."""
    data = segments_of(first.after).get(name, b"")
    return [r for r in records(data) if r.base + r.count <= first.recovered]
