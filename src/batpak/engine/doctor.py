"""Say what a machine and a directory offer a journal, and what is risky there.

`examine` looks, by reading and by probes that write nothing; `judge` decides what of it
is a risk, and is pure. Takes no journal's lock and changes no byte, so it works beside a
live writer. What each risk means stands in docs/guide/diagnostics.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from batpak.config import StoreConfig
from batpak.engine.diagnostics import (
    ClockEvidence,
    EvidenceState,
    HostEvidence,
    PlaceEvidence,
    host_evidence,
    last_event_ms,
    place_evidence,
    read_clock,
)
from batpak.engine.following import Follower
from batpak.engine.opening import check_contents
from batpak.engine.report import Finding
from batpak.engine.survey import read_hint
from batpak.errors import BatpakError, Damaged, NotAJournal
from batpak.files import Files, lock_holder, read_small
from batpak.journal.layout import Layout

__all__ = [
    "RISKS",
    "Examination",
    "JournalState",
    "LockState",
    "Problem",
    "Risk",
    "examine",
    "judge",
]

RISKS: Final = {
    "not-a-directory": ("refused", "the path is a file"),
    "not-a-journal": ("refused", "the directory holds something else, or it is a snapshot"),
    "network-filesystem": ("refused", "locks and syncs can't be trusted there"),
    "read-only": ("refused", "no journal can be written there"),
    "no-space": ("refused", "the file system is full"),
    "no-directory-sync": ("refused", "names of new files can't be made durable"),
    "no-file-lock": ("refused", "nothing would keep two writers apart"),
    "unreadable": ("refused", "the journal can't be read for another reason than damage"),
    "damaged": ("damaged", "stored bytes are not what was written"),
    "low-space": ("unsafe", "less room than one segment takes"),
    "memory-filesystem": ("unsafe", "everything is gone when the machine stops"),
    "clock-behind": ("unsafe", "the clock is more than a second behind the last event"),
    "hint-missing": ("unsafe", "tail.hint is gone or can't be read"),
    "hint-stale": ("unsafe", "tail.hint is behind what else is known to be durable"),
    "unfinished-tail": ("notice", "no writer is there, and the log goes on behind what is durable"),
    "quarantine-not-empty": ("notice", "recovery set bytes aside"),
    "sidecars-missing": (
        "notice",
        "the next open has to read whole segments, and a writer writes them again",
    ),
}
"""Each risk's severity and meaning, the worst first. refused: a writer would not open here.
damaged: see `batpak repair`. unsafe: data, or the proof that none are missing, can be lost.
notice: worth looking at."""

_MEMORY_TYPES: Final = frozenset({"ramfs", "tmpfs"})
_CLOCK_TOLERANCE_MS: Final = 1000
_LOCK_TEXT: Final = 32


@dataclass(frozen=True, slots=True)
class LockState:
    """Who writes to the journal."""

    state: str
    """"held", "free" (the kernel lists no holder) or "unknown" (it lists none at all)."""
    pid: int | None
    """The process that holds the lock, where the kernel tells."""
    named: int | None
    """The process that journal.lock names: the last writer, which need not live."""


@dataclass(frozen=True, slots=True)
class JournalState:
    """A journal as a reader finds it."""

    journal_id: str
    origin: str
    events: int
    """Those that a reader can show."""
    durable: int
    """The greatest exclusive bound that a witness names."""
    segments: int
    without_sidecar: int
    """Full segments whose sidecar is missing or wrong."""
    hint_durable: int | None
    """The bound in tail.hint; None when there is no valid hint."""
    bytes_behind: int
    """Bytes after the last event known to be durable, trailing zeros left out."""
    quarantined: int
    """Things that recovery set aside, and below their size."""
    quarantined_bytes: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the journal can't be read at all, or not be written to."""

    code: str
    what: str
    advice: str
    is_damage: bool


@dataclass(frozen=True, slots=True)
class Risk:
    """One thing that is risky; `code` is a key of `RISKS`."""

    code: str
    severity: str
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was seen, and what follows from it."""

    path: str
    verdict: str
    """"good", "risky" or "damaged"."""
    host: HostEvidence
    place: PlaceEvidence
    clock: ClockEvidence
    lock: LockState
    journal: JournalState | None
    """None where there is none, or where it can't be read: then `problem` says why."""
    problem: Problem | None
    """Why it can't be read, or, where `journal` is there, not be written to."""
    would_get: Mapping[str, str]
    """What a journal there gets with the options' defaults."""
    risks: tuple[Risk, ...]


def examine(files: Files, layout: Layout) -> Examination:
    """Look at a path, whatever is there. Raises nothing for what it finds."""
    place = place_evidence(files, layout)
    lock = _lock_state(files, layout)
    state: JournalState | None = None
    problem: Problem | None = None
    last_ms: int | None = None
    if place.status == "directory":
        try:
            state, last_ms = _journal_state(files, layout)
            problem = _contents(files, layout)
        except NotAJournal:
            problem = _contents(files, layout)
        except BatpakError as error:
            problem = Problem(error.code, error.what, error.advice, isinstance(error, Damaged))
    clock = read_clock(None, last_ms, None)
    config = StoreConfig()
    risks = judge(place, clock, lock, state, problem, config)
    verdict = "risky" if risks else "good"
    if any(risk.severity == "damaged" for risk in risks):
        verdict = "damaged"
    return Examination(
        layout.root,
        verdict,
        host_evidence(),
        place,
        clock,
        lock,
        state,
        problem,
        _would_get(place, config),
        risks,
    )


# --- looking -----------------------------------------------------------------


def _lock_state(files: Files, layout: Layout) -> LockState:
    try:
        holder = lock_holder(files.stat(layout.lock))
    except OSError:
        return LockState("free", None, None)
    named: int | None = None
    try:
        text = read_small(files, layout.lock, _LOCK_TEXT).strip()
        named = int(text) if text.isdigit() else None
    except OSError:
        # The text is for people only; who holds the lock is known without it.
        pass
    if holder is None:
        return LockState("unknown", None, named)
    return LockState("held", holder, named) if holder else LockState("free", None, named)


def _journal_state(files: Files, layout: Layout) -> tuple[JournalState, int | None]:
    # A place that writers refuse can still be read.
    follower = Follower(files, layout, StoreConfig(allow_network_filesystem=True))
    try:
        report, identity = follower.report, follower.identity
        hint = read_hint(files, layout, identity.journal_id)
        durable, behind = follower.durable, 0
        if not report.findings:
            durable, behind = follower.beyond()
        count, size = _quarantined(files, layout)
        state = JournalState(
            str(identity.journal_id),
            identity.origin,
            follower.bound,
            durable,
            report.segments,
            report.rebuilt,
            None if hint is None else hint.durable,
            behind,
            count,
            size,
            report.findings,
        )
        return state, last_event_ms(follower.reader, follower.bound)
    finally:
        follower.close()


def _quarantined(files: Files, layout: Layout) -> tuple[int, int]:
    count = size = 0
    try:
        for name in files.listdir(layout.quarantine):
            # Beside each stands a .json that says why.
            if not name.endswith(".json"):
                size += files.stat(os.path.join(layout.quarantine, name)).st_size
                count += 1
    except OSError:
        # No quarantine, or one that changes while we look: what was counted counts.
        pass
    return count, size


def _contents(files: Files, layout: Layout) -> Problem | None:
    """None for a journal's directory, and for an empty one, in which a journal can be made."""
    try:
        check_contents(files, layout)
    except NotAJournal as error:
        return Problem(error.code, error.what, error.advice, is_damage=False)
    except BatpakError as error:
        return Problem("unreadable", error.what, error.advice, is_damage=False)
    return None


def _would_get(place: PlaceEvidence, config: StoreConfig) -> Mapping[str, str]:
    survives = "power loss"
    if place.filesystem in _MEMORY_TYPES:
        survives = "the end of the process, and no restart of the machine"
    elif place.is_network or place.directory_sync.state is EvidenceState.REFUSED:
        survives = "nothing that can be promised"
    is_mapped = place.mapping.state is not EvidenceState.REFUSED
    return {
        "acknowledged_append_survives": survives,
        "segments_of": f"{config.segment_max_bytes >> 20} MiB",
        "space_reserved_ahead": f"{config.preallocate >> 20} MiB, where the file system does it",
        "full_segments_are": "mapped" if is_mapped else "read piece by piece, which is slower",
    }


# --- judging -----------------------------------------------------------------


def judge(
    place: PlaceEvidence,
    clock: ClockEvidence,
    lock: LockState,
    journal: JournalState | None,
    problem: Problem | None,
    config: StoreConfig,
) -> tuple[Risk, ...]:
    """What is risky, the worst first. Pure."""
    found = {
        code: (what, advice)
        for code, what, advice in (
            *_of_place(place, config),
            *_of_problem(place, problem),
            *(() if journal is None else _of_journal(place, clock, lock, journal)),
        )
    }
    return tuple(
        Risk(code, severity, *found[code]) for code, (severity, _) in RISKS.items() if code in found
    )


_Told = tuple[str, str, str]


def _of_place(place: PlaceEvidence, config: StoreConfig) -> Iterator[_Told]:
    if place.status == "other":
        yield "not-a-directory", f"{place.path} is no directory", "name another path"
        return
    kind = place.filesystem
    if place.is_network:
        yield (
            "network-filesystem",
            f"the file system is on a network ({kind}): its locks and syncs can't be trusted",
            "use a local disk; allow_network_filesystem=True opens all the same",
        )
    space = place.space
    if (space is not None and space.read_only) or place.writing.state is EvidenceState.REFUSED:
        yield (
            "read-only",
            f"{place.directory} can't be written to by this user",
            'reading works: mode="r"; to write, change the permissions or the mount',
        )
    elif space is not None and space.free < config.segment_max_bytes:
        code = "low-space" if space.free else "no-space"
        yield code, f"{space.free} bytes are free", "free some space, or use another disk"
    for code, evidence, what in (
        ("no-directory-sync", place.directory_sync, "the directory can't be synced"),
        ("no-file-lock", place.file_lock, "files can't be locked"),
    ):
        if evidence.state is EvidenceState.REFUSED:
            yield code, f"{what}: {evidence.how}", "use another file system"
    if kind in _MEMORY_TYPES:
        yield "memory-filesystem", f"{kind} keeps files in memory only", "use a disk"


def _of_problem(place: PlaceEvidence, problem: Problem | None) -> Iterator[_Told]:
    if problem is None or place.status == "other":
        return
    if problem.is_damage:
        what = problem.what
        if problem.code != Damaged.code:
            what = f"{problem.code}: {what}"
        yield "damaged", what, problem.advice
    elif problem.code == NotAJournal.code:
        yield "not-a-journal", problem.what, problem.advice
    else:
        yield "unreadable", problem.what, problem.advice


def _of_journal(
    place: PlaceEvidence, clock: ClockEvidence, lock: LockState, journal: JournalState
) -> Iterator[_Told]:
    for finding in journal.findings:
        yield (
            "damaged",
            f"{finding.message}: {finding.file} at {finding.offset}",
            f"run: batpak repair {place.path}",
        )
    if clock.behind_ms > _CLOCK_TOLERANCE_MS:
        yield (
            "clock-behind",
            f"the clock is {clock.behind_ms / 1000:.1f} s behind the last event",
            "set the clock; until then new events get earlier times than those before them",
        )
    if journal.hint_durable is None:
        yield (
            "hint-missing",
            "tail.hint is missing or not valid: readers see less than is there, and a loss of "
            "the newest events could go unnoticed",
            "the next writer makes a new one",
        )
    elif journal.hint_durable < journal.durable:
        yield (
            "hint-stale",
            f"tail.hint knows of {journal.hint_durable} durable events, the log of "
            f"{journal.durable}: it is an old copy, or could not be written",
            "the next writer makes it right; until then readers may see less",
        )
    if journal.bytes_behind and lock.state == "free":
        yield (
            "unfinished-tail",
            f"{journal.bytes_behind} bytes behind event {journal.durable - 1} are not known to be "
            "durable: a writer was interrupted",
            "the next writer keeps what is whole and sets the rest aside",
        )
    if journal.quarantined:
        yield (
            "quarantine-not-empty",
            f"recovery set {journal.quarantined_bytes} bytes aside in {journal.quarantined} files",
            "read the .json beside each; nobody but you deletes them",
        )
    if journal.without_sidecar:
        yield (
            "sidecars-missing",
            f"{journal.without_sidecar} of {journal.segments} segments have no index file, or a "
            "wrong one: each open reads them whole",
            "nothing is lost",
        )
