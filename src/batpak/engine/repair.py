"""Explain what keeps a journal from opening, and apply a choice to a copy of it.

The source is only read. A repair that accepts a loss keeps the events before the
first damage and sets everything behind it aside, so that nobody who finds a damaged
journal has to choose between losing it and not being able to go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from batpak.config import StoreConfig
from batpak.engine.building import building, publish, sync_tree
from batpak.engine.following import Follower
from batpak.engine.manifest import MANIFEST
from batpak.engine.opening import check_place, open_for_writing
from batpak.engine.progress import Meter, Progress
from batpak.engine.report import Finding
from batpak.engine.survey import (
    Survey,
    checkpoint_sizes,
    covered_chain,
    newest_checkpoint,
    read_found,
    read_identity,
    segment_bases,
    survey,
    usable_sidecar,
)
from batpak.engine.system import LIFECYCLE, close_event, repaired_event
from batpak.engine.verify import verify_journal
from batpak.errors import (
    BatpakError,
    Damaged,
    InvalidInput,
    JournalCorrupt,
    NotAJournal,
)
from batpak.event import NO_HASH, event_hash
from batpak.files import Files, closing, refusal, replace_file, wall_us, write_all
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import HINT_SIZE, Hint
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout, checkpoint_name
from batpak.journal.quarantine import quarantine
from batpak.journal.reading import SegmentPool, SegmentReader
from batpak.journal.record import Chain, Invalid, Record, salt_crc
from batpak.journal.recovery import Witness, first_chain, last_nonzero, look_beyond, walk

__all__ = ["Diagnosis", "RepairReport", "diagnose", "repair_into"]

_COPY_STEP = 1 << 20
_OPEN_FILES = 8
_NAMED = 3
"""So many findings and files are named in a sentence."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What opening for writing would meet."""

    state: str
    """"healthy", "torn" (opening cuts a tail that was never durable), "usable" (it opens, for
    writing too, and some events are damaged) or "damaged" (it does not open for writing)."""
    events: int
    """Events that a reader is shown: all, or those before what keeps it from opening."""
    file: str
    offset: int
    """Where the first damage begins that `state` is about, or the log's end."""
    reason: str
    lost_until: int
    """Exclusive bound of what is known to have been durable; `events` when nothing is lost."""
    witness: str
    bytes_behind: int
    """Non-zero bytes from `offset` on, and in all later segments."""
    explanation: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair kept and set aside."""

    destination: str
    kept: int
    lost_from: int
    lost_until: int
    quarantined: tuple[str, ...] = field(default=())


@dataclass(slots=True)
class _End:
    """Where the log of a journal ends when every byte is judged from its start."""

    base: int
    path: str
    offset: int
    sequence: int
    reason: str
    clean: bool
    passed: tuple[_End, ...] = ()
    """Damage before it that opening does not look at, since a sidecar covers it."""


def diagnose(files: Files, layout: Layout, *, progress: Progress | None = None) -> Diagnosis:
    """Walk the whole journal, changing nothing.

    `progress(done, total)` is told bytes of log; the total doubles where damage was found that
    the journal opens with, since all is looked at once more. Raises NotAJournal, Damaged,
    FutureFormat, UnsupportedFeature, Unavailable.
    """
    meter = Meter(progress)
    return meter.run(lambda: _diagnose(files, layout, meter))


def _diagnose(files: Files, layout: Layout, meter: Meter) -> Diagnosis:
    """Adds to the total what is looked at; it comes before all that is counted already."""
    check_place(files, layout, StoreConfig(allow_network_filesystem=True))
    identity = _identity_of(files, layout)
    log_bytes = 0
    if meter.tell is not None:
        log_bytes = _log_bytes(files, layout)
        meter.total += log_bytes
    end = _find_end(files, layout, identity, meter)
    best = _best_witness(files, layout, identity, end)
    is_lost = best.durable > end.sequence
    findings: list[Finding] | None = None
    if end.passed and not is_lost:
        meter.total += log_bytes
        findings = _usable_with(files, layout, identity, end.sequence, meter.from_here(log_bytes))
    if findings is None:
        # A copy that is cut has no sidecar there to pass over it.
        for first in [at for at in end.passed if at.base == end.base or not is_lost][:1]:
            end = first
            best = _best_witness(files, layout, identity, end)
    behind = _bytes_behind(files, layout, end)
    if findings is not None:
        return _usable(layout, end, best, behind, findings)
    if best.durable > end.sequence:
        lost = best.durable - end.sequence
        return Diagnosis(
            "damaged",
            end.sequence,
            end.path,
            end.offset,
            end.reason,
            best.durable,
            best.name,
            behind,
            f"{lost} acknowledged, durable events ({end.sequence} to {best.durable - 1}) are "
            f"damaged or missing: {best.name} knows of them, and at offset {end.offset} of "
            f"{os.path.basename(end.path)} there is no valid record ({end.reason}). "
            "A power cut can't do this.",
            (
                "restore the journal from a snapshot or a replica that has these events",
                *_readable(files, layout),
                f"accept the loss on a copy: batpak repair {layout.root} --into DEST",
            ),
        )
    if behind:
        return Diagnosis(
            "torn",
            end.sequence,
            end.path,
            end.offset,
            end.reason,
            end.sequence,
            best.name,
            behind,
            f"{behind} bytes after event {end.sequence - 1} were written, but never known to be "
            "durable: an interrupted write. Opening for writing moves what does not prove "
            "itself whole to quarantine/ and goes on.",
            (f"open the journal for writing, for example: batpak append {layout.root} …",),
        )
    return Diagnosis(
        "healthy",
        end.sequence,
        end.path,
        end.offset,
        "end-of-log",
        end.sequence,
        best.name,
        0,
        f"nothing to repair: {end.sequence} events, each with a valid record; "
        f"payloads are checked by: batpak verify {layout.root}",
    )


def _log_bytes(files: Files, layout: Layout) -> int:
    return sum(_size(files, layout.segment(base)) for base in segment_bases(files, layout))


def _size(files: Files, path: str) -> int:
    """A file's size; 0 where that can't be known, which shows when it is read."""
    try:
        return files.stat(path).st_size
    except OSError:
        return 0


def _readable(files: Files, layout: Layout) -> list[str]:
    """What a reader is shown, which without a hint can be less than what precedes."""
    try:
        follower = Follower(files, layout, StoreConfig(allow_network_filesystem=True))
    except BatpakError:
        return []
    follower.close()
    if not follower.bound:
        return []
    return [
        f"read what precedes: every event below {follower.bound} opens with mode r, "
        "unless verify names it"
    ]


def _usable_with(
    files: Files,
    layout: Layout,
    identity: Identity,
    bound: int,
    tell: Callable[[int], None] | None,
) -> list[Finding] | None:
    """What is damaged in a journal whose end is whole; None when it can't be written to."""
    try:
        follower = Follower(files, layout, StoreConfig(allow_network_filesystem=True))
    except Damaged:
        return None
    try:
        # The open event links to these two.
        follower.reader.summary(follower.bound - 1)
        follower.reader.head(LIFECYCLE.entity_bytes, follower.bound)
        report = verify_journal(
            files, layout, identity, follower.reader, lambda _: bound, "chain",
            None if tell is None else lambda done, _: tell(done),
        )  # fmt: skip
    except Damaged:
        return None
    finally:
        follower.close()
    return report.findings


def _usable(
    layout: Layout, end: _End, best: Witness, behind: int, findings: list[Finding]
) -> Diagnosis:
    first = end.passed[0]
    named = [
        f"event {found.sequence} ({found.code}, {_place(found.file, found.offset)})"
        for found in findings
    ] or [f"no event, but a pad ({first.reason}, {_place(first.path, first.offset)})"]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    torn = f" {behind} bytes behind the last event were never durable." if behind else ""
    # An older state of the newest segment would lack events.
    sealed = {first.path, *(found.file for found in findings)} - {layout.segment(end.base)}
    names = ", ".join(os.path.basename(path) for path in sorted(sealed)[:_NAMED])
    choices = [
        "go on with the journal as it is: get and at refuse what is damaged, query may show it",
        f"name all that is damaged, payloads too: batpak verify {layout.root}",
    ]
    if names:
        back = "put back from a snapshot or a replica, while nobody has the journal open"
        choices.append(f"{back}: {names}")
    return Diagnosis(
        "usable",
        end.sequence,
        first.path,
        first.offset,
        first.reason,
        end.sequence,
        best.name,
        behind,
        f"the journal opens, for reading and for writing. Damaged in it: "
        f"{', '.join(named[:_NAMED])}{more}. All other records are valid.{torn}",
        tuple(choices),
    )


def _place(file: str, offset: int | None) -> str:
    name = os.path.basename(file)
    return name if offset is None else f"at offset {offset} of {name}"


def repair_into(
    files: Files, layout: Layout, destination: str, *, progress: Progress | None = None
) -> RepairReport:
    """Copy the journal to `destination` and accept there the loss that keeps it from opening.

    Same journal_id; the copy ends with a system event that tells what was lost. It appears
    whole, or not at all. `progress(done, total)` is told bytes: of log that is looked at, then
    of files that are copied. Raises InvalidInput when there is nothing to repair,
    DestinationTaken, JournalLocked (somebody else builds there), Unavailable.
    """
    meter = Meter(progress)
    return meter.run(lambda: _repair_into(files, layout, destination, meter))


def _repair_into(files: Files, layout: Layout, destination: str, meter: Meter) -> RepairReport:
    copied = 0
    if meter.tell is not None:
        copied = meter.total = _bytes_to_copy(files, layout.root)
    diagnosis = _diagnose(files, layout, meter)
    if diagnosis.state != "damaged":
        raise InvalidInput(
            f"there is no loss to accept: {diagnosis.explanation}",
            field="journal",
            value=layout.root,
            advice="go on with the journal as it is; for a copy, run: "
            f"batpak snapshot {layout.root} DEST",
        )
    set_aside: list[str] = []
    with building(files, destination, layout.root) as whole:
        target = Layout(whole)
        try:
            _copy_tree(files, layout.root, whole, _Copied(meter, meter.total - copied))
            _cut_copy(files, target, diagnosis, set_aside)
        except OSError as error:
            raise refusal(
                error, "the repair stopped; the source is untouched", destination
            ) from error
        _say_repaired(files, target, diagnosis)
        sync_tree(files, whole)
        publish(files, whole, destination)
    return RepairReport(
        destination,
        diagnosis.events,
        diagnosis.events,
        diagnosis.lost_until,
        tuple([os.path.join(destination, os.path.relpath(path, whole)) for path in set_aside]),
    )


def _say_repaired(files: Files, target: Layout, diagnosis: Diagnosis) -> None:
    """Write into the copy what it lost."""
    identity = _identity_of(files, target)
    opened = open_for_writing(files, target, StoreConfig())
    try:
        event = repaired_event(
            from_journal=identity.journal_id.bytes,
            at=diagnosis.events,
            until=diagnosis.lost_until,
        )
        opened.writer.commit([event])
        opened.writer.close(lambda: [close_event(epoch=opened.writer.epoch, events=2)])
    finally:
        opened.writer.release()
        opened.pool.close()


def _identity_of(files: Files, layout: Layout) -> Identity:
    identity = read_identity(files, layout)
    if identity is not None:
        return identity
    if segment_bases(files, layout):
        raise JournalCorrupt(
            "segments without journal.json: whose they are is not known",
            file=layout.identity,
            reason="no-identity",
            advice="restore journal.json from a snapshot; its journal_id is in every segment",
        )
    raise NotAJournal("there is no journal here", file=layout.root, advice="check the path")


def _find_end(files: Files, layout: Layout, identity: Identity, meter: Meter) -> _End:
    """Walk segment after segment until one does not continue the log, as opening does.

    Where opening would take a sidecar's word, the walk goes on behind what that covers.
    """
    begun = 0
    bases = segment_bases(files, layout)
    end = _End(0, layout.segment(0), 0, 0, "no-segment", clean=False)
    last_hash = NO_HASH
    pool = SegmentPool(files, layout, _OPEN_FILES)
    try:
        for place, base in enumerate(bases):
            successor = bases[place + 1] if place + 1 < len(bases) else None
            if base != end.sequence:
                return end
            path = layout.segment(base)
            end = _End(base, path, 0, base, "splice", clean=False, passed=end.passed)
            try:
                found = read_found(files, layout, identity, base)
            except JournalCorrupt as error:
                end.reason = error.reason or error.code
                return end
            if found.header.prev_event_hash != last_hash:
                return end
            reader, state = pool.get(base), salt_crc(found.header.salt)
            tell = meter.from_here(begun)
            begun += reader.size()
            chain = first_chain(found.header)
            chain, problem, last_hash = _walk(reader, chain, state, last_hash, tell)
            part, sidecar = usable_sidecar(files, layout, found, pool), found.sidecar
            if (
                part is not None
                and sidecar is not None
                and chain.offset < sidecar.covered
                and successor in (None, sidecar.next_sequence)
            ):
                at = chain.offset, chain.sequence, problem.reason
                end.passed += (_End(base, end.path, *at, clean=False, passed=end.passed),)
                chain, last_hash = covered_chain(sidecar), part.locate(sidecar.count - 1)[0]
                chain, problem, last_hash = _walk(reader, chain, state, last_hash, tell)
            end.offset, end.sequence, end.reason = chain.offset, chain.sequence, problem.reason
            end.clean = last_nonzero(reader.read, reader.size(), chain.offset) == chain.offset
            if successor is not None and not (end.clean and successor == end.sequence):
                return end
        return end
    finally:
        pool.close()


def _walk(
    reader: SegmentReader,
    chain: Chain,
    salt_state: int,
    last_hash: bytes,
    tell: Callable[[int], None] | None,
) -> tuple[Chain, Invalid, bytes]:
    """As `walk`, with the hash of the last event; the records are judged on the way."""
    last: list[Record] = []

    def keep(record: Record) -> None:
        if record.rows:
            last[:] = [record]
        if tell is not None:
            tell(record.end)

    end, problem = walk(reader.read, reader.size(), chain, salt_state, keep)
    for record in last:
        for event in record.events(reader.read):
            last_hash = event_hash(event.row_bytes, event.metadata)
    return end, problem, last_hash


def _best_witness(files: Files, layout: Layout, identity: Identity, end: _End) -> Witness:
    """The greatest bound that anything in the directory knows."""
    best = Witness(0, "none")
    try:
        found: Survey | None = survey(files, layout, identity)
    except BatpakError:
        # A damaged header: the names of the segments and the hint still know something.
        found = None
    if found is not None:
        best = max(found.witnesses, default=best)
    bases = segment_bases(files, layout)
    later = [base for base in bases if base > end.base]
    if later:
        best = max(best, Witness(later[-1], f"segment {later[-1]}"))
    if end.base in bases and end.offset == 0:
        best = max(best, Witness(end.base + 1, f"segment {end.base}"))
    try:
        with closing(files, files.open(layout.hint, os.O_RDONLY)) as fd:
            hint = Hint.decode(files.pread(fd, HINT_SIZE, 0))
    except OSError:
        hint = None
    if hint is not None and hint.journal_id == identity.journal_id.bytes:
        best = max(best, Witness(hint.durable, "tail.hint"))
    checkpoint = newest_checkpoint(files, layout, identity.origin)
    if checkpoint is not None:
        best = max(best, Witness(checkpoint, f"checkpoints/{checkpoint_name(checkpoint)}"))
    return max(best, _witness_in_tail(files, end))


def _witness_in_tail(files: Files, end: _End) -> Witness:
    """What records behind the first damage of the newest segment know."""
    try:
        reader = SegmentReader(files, end.path, may_map=False)
    except OSError:
        return Witness(0, "none")
    try:
        header = SegmentHeader.decode(reader.read(0, HEADER_SIZE), end.path)
        state = salt_crc(header.salt)
        offset = max(end.offset, HEADER_SIZE)
        return look_beyond(reader.read, reader.size(), offset, end.sequence, state)[0]
    except BatpakError:
        return Witness(0, "none")
    finally:
        reader.close()


def _bytes_behind(files: Files, layout: Layout, end: _End) -> int:
    behind = 0
    for base in segment_bases(files, layout):
        path = layout.segment(base)
        if base < end.base:
            continue
        reader = SegmentReader(files, path, may_map=False)
        try:
            size = reader.size()
            start = end.offset if base == end.base else 0
            behind += last_nonzero(reader.read, size, start) - start
        finally:
            reader.close()
    return behind


class _Copied:
    """Bytes of files that were copied, as the part of a work that begins at `begun`."""

    def __init__(self, meter: Meter, begun: int) -> None:
        self._meter, self._done = meter, begun

    def __call__(self, number: int) -> None:
        self._done += number
        self._meter.reach(self._done)


def _names_to_copy(files: Files, folder: str) -> list[str]:
    """The lock stays behind, and a snapshot's manifest: what is made is a journal."""
    left = ("journal.lock", MANIFEST)
    return [name for name in sorted(files.listdir(folder)) if name not in left]


def _bytes_to_copy(files: Files, folder: str) -> int:
    """What can't be listed counts nothing: copying it says what is wrong."""
    try:
        paths = [os.path.join(folder, name) for name in _names_to_copy(files, folder)]
    except OSError:
        return 0
    return sum(
        _bytes_to_copy(files, path) if os.path.isdir(path) else _size(files, path) for path in paths
    )


def _copy_tree(files: Files, source: str, target: str, tell: _Copied) -> None:
    """Copy a directory of regular files, each synced."""
    if not os.path.isdir(target):
        files.mkdir(target)
    for name in _names_to_copy(files, source):
        here, there = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(here):
            _copy_tree(files, here, there, tell)
            continue
        with (
            closing(files, files.open(here, os.O_RDONLY)) as old,
            closing(files, files.open(there, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) as new,
        ):
            position = 0
            while data := files.pread(old, _COPY_STEP, position):
                write_all(files, new, data, position)
                position += len(data)
                tell(len(data))
            files.sync_file(new)
    files.sync_directory(target)
    files.sync_directory(os.path.dirname(target))


def _cut_copy(files: Files, target: Layout, diagnosis: Diagnosis, set_aside: list[str]) -> None:
    """In the copy: keep what precedes the damage, move the rest and its witnesses aside."""
    base = max((b for b in segment_bases(files, target) if b <= diagnosis.events), default=0)
    for other in segment_bases(files, target):
        path = target.segment(other)
        if other < base or (other == base and diagnosis.offset == 0 and other < diagnosis.events):
            continue
        if other == base and diagnosis.offset:
            set_aside += _cut_segment(files, target, other, diagnosis)
        else:
            set_aside.append(_move_aside(files, target, path, diagnosis))
        sidecar = target.sidecar(other)
        if os.path.exists(sidecar):
            set_aside.append(_move_aside(files, target, sidecar, diagnosis))
    for name in sorted(files.listdir(target.segments)):
        if name.endswith(".idx") and not os.path.exists(
            os.path.join(target.segments, name[:-4] + ".seg")
        ):
            path = os.path.join(target.segments, name)
            set_aside.append(_move_aside(files, target, path, diagnosis))
    if os.path.exists(target.hint):
        set_aside.append(_move_aside(files, target, target.hint, diagnosis))
    for size in checkpoint_sizes(files, target):
        if size > diagnosis.events:
            set_aside.append(_move_aside(files, target, target.checkpoint(size), diagnosis))
    files.sync_directory(target.segments)
    if os.path.isdir(target.checkpoints):
        files.sync_directory(target.checkpoints)
    files.sync_directory(target.root)


def _cut_segment(files: Files, target: Layout, base: int, diagnosis: Diagnosis) -> list[str]:
    path = target.segment(base)
    with closing(files, files.open(path, os.O_RDWR)) as fd:
        size = files.fstat(fd).st_size
        data = b"".join(
            files.pread(fd, min(_COPY_STEP, size - at), at)
            for at in range(diagnosis.offset, size, _COPY_STEP)
        ).rstrip(b"\0")
        kept: list[str] = []
        if data:
            kept.append(
                quarantine(
                    files,
                    target,
                    base=base,
                    offset=diagnosis.offset,
                    data=data,
                    expected_sequence=diagnosis.events,
                    durable=diagnosis.lost_until,
                    reason=f"repair: {diagnosis.reason}",
                )
            )
        files.truncate(fd, diagnosis.offset)
        files.sync_file(fd)
    return kept


def _move_aside(files: Files, target: Layout, path: str, diagnosis: Diagnosis) -> str:
    """Move a file into quarantine/ with a note that says why."""
    try:
        files.mkdir(target.quarantine)
    except FileExistsError:
        pass
    new = os.path.join(target.quarantine, "repair-" + os.path.basename(path))
    note = {
        "segment": os.path.basename(path),
        "offset": 0,
        "length": files.stat(path).st_size,
        "expected_sequence": diagnosis.events,
        "durable": diagnosis.lost_until,
        "reason": f"repair: {diagnosis.reason}",
        "quarantined_us": wall_us(),
    }
    replace_file(files, new + ".json", (json.dumps(note, indent=2) + "\n").encode())
    files.rename(path, new)
    files.sync_directory(target.quarantine)
    return new
