"""What is seen of the machine, the directory, the clock and the disk that a journal lives with.

Nothing here decides anything, and nothing here writes: a capability is `seen` when it
was used or tried on a file that exists, `refused` when the system said no, and else
`unknown`, each time with the words how that is known. Source: docs/guide/diagnostics.md;
decision 0036 says why there are no stored profiles.
"""

from __future__ import annotations

import enum
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from batpak.clock import SYSTEM_CLOCK, Clock, SystemClock, checked_us
from batpak.engine.report import OpenReport, plain
from batpak.errors import BatpakError, InvalidClock, PlatformUnsupported
from batpak.files import (
    Files,
    Space,
    closing,
    filesystem_space,
    filesystem_type,
    is_network_filesystem,
    may_write,
)
from batpak.journal.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Generator

    from batpak.config import StoreConfig
    from batpak.engine.opening import Opened
    from batpak.engine.reading import LogReader
    from batpak.journal.writer import Writer

__all__ = [
    "ClockEvidence",
    "Diagnostics",
    "Evidence",
    "EvidenceState",
    "HostEvidence",
    "PlaceEvidence",
    "SyncEvidence",
    "WriteCounts",
    "host_evidence",
    "place_evidence",
    "read_clock",
    "reader_diagnostics",
    "writer_diagnostics",
]

PACKAGES: Final = ("batpak", "blake3", "msgspec", "numpy", "cryptography")
_CLONING: Final = frozenset({"apfs", "bcachefs", "btrfs", "ocfs2", "xfs"})


class EvidenceState(enum.Enum):
    """Whether something was seen to work."""

    SEEN = "seen"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One capability: its state, and how that is known, in words."""

    state: EvidenceState
    how: str

    def __str__(self) -> str:
        return f"{self.state.value}: {self.how}"


def _seen(how: str) -> Evidence:
    return Evidence(EvidenceState.SEEN, how)


def _refused(how: str) -> Evidence:
    return Evidence(EvidenceState.REFUSED, how)


def _unknown(how: str) -> Evidence:
    return Evidence(EvidenceState.UNKNOWN, how)


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """The machine and the programs on it."""

    system: str
    release: str
    machine: str
    python: str
    """Implementation and version."""
    packages: Mapping[str, str | None]
    """Version of each core dependency; None where none is installed as a package."""


@dataclass(frozen=True, slots=True)
class PlaceEvidence:
    """The directory, or the nearest one above it that exists, and its file system."""

    path: str
    directory: str
    status: str
    """"directory", "missing" or "other" (something that is no directory)."""
    filesystem: str | None
    """Its type, as the kernel names it; None where the platform does not tell."""
    is_network: bool
    space: Space | None
    """Bytes, and whether the mount is read-only; None where the platform does not tell."""
    writing: Evidence
    directory_sync: Evidence
    file_lock: Evidence
    reserving: Evidence
    """posix_fallocate: space ahead of the log's end."""
    mapping: Evidence
    hard_links: Evidence
    reflinks: Evidence


@dataclass(frozen=True, slots=True)
class ClockEvidence:
    """Where time comes from, beside the last event that is visible here."""

    source: str
    wall_us: int | None
    """Microseconds since 1970 UTC; None when the clock gave what can't be stored."""
    problem: str | None
    monotonic_ns: int
    boot_marker: str
    wall_resolution: float | None
    """Seconds, as the system states it; None for a clock that was passed in."""
    monotonic_resolution: float | None
    last_event_ms: int | None
    """Milliseconds of the HLC of the last event; None when there is none."""
    behind_ms: int
    """How far the clock is behind that, now; 0 when it is not."""
    behind_at_open_ms: int | None
    """The same when a writer opened the journal; None for a reader, which writes no event."""


@dataclass(frozen=True, slots=True)
class SyncEvidence:
    """Syncs of the log since the open, in seconds of the clock's monotonic reading."""

    count: int
    mean: float | None
    slowest: float | None
    slow: int
    """How many took longer than `warning`, the option `sync_warning`."""
    warning: float


@dataclass(frozen=True, slots=True)
class WriteCounts:
    """What this store wrote since it was opened, its open event included."""

    commits: int
    events: int
    bytes: int
    """Of log records; neither headers of segments nor space reserved ahead."""
    rotations: int


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What `Store.diagnostics` saw at one moment."""

    path: str
    journal_id: str
    mode: str
    """"rw" or "r"."""
    options: Mapping[str, Any]
    """Every option of the store, as plain values."""
    visible: int
    """Exclusive bounds, as in `Frontier`."""
    durable: int
    written: int
    poisoned: str | None
    """Why every later write is refused; None when it is not."""
    writes: WriteCounts | None
    """None for a reader, here and below."""
    syncs: SyncEvidence | None
    clock: ClockEvidence
    host: HostEvidence
    place: PlaceEvidence
    open_report: OpenReport

    def to_json(self) -> str:
        """All of it as one line of JSON; the field names are those of the values."""
        return json.dumps(plain(self))


# --- a store's own -----------------------------------------------------------


def writer_diagnostics(
    files: Files, opened: Opened, config: StoreConfig, visible: int, first: int
) -> Diagnostics:
    """Of a store open for writing whose open event is `first`."""
    writer = opened.writer
    # Durable first, as in frontier(): what is read later can only be further.
    durable, log = writer.durable.sequence, writer.log
    counted = opened.written.of(log.segment.header.base_sequence)
    syncs = writer.syncs
    count = syncs.done
    known = {
        "writing": _seen("the open wrote here"),
        "directory_sync": _seen("the open synced the directory"),
        "file_lock": _seen("this store holds the lock of journal.lock"),
        "reserving": _reserving(writer, config),
    }
    return Diagnostics(
        opened.layout.root,
        str(opened.identity.journal_id),
        "rw",
        _options(config),
        min(visible, log.sequence),
        durable,
        log.sequence,
        None if writer.poison is None else str(writer.poison),
        WriteCounts(
            counted.records + log.records,
            log.sequence - first,
            counted.bytes + log.end,
            counted.rotations,
        ),
        SyncEvidence(
            count,
            syncs.seconds / count if count else None,
            syncs.slowest if count else None,
            syncs.slow,
            config.sync_warning,
        ),
        read_clock(config.clock, log.hlc >> 16, opened.report.clock_behind_ms),
        host_evidence(),
        place_evidence(files, opened.layout, known),
        opened.report,
    )


def reader_diagnostics(
    files: Files,
    layout: Layout,
    journal_id: str,
    config: StoreConfig,
    reader: LogReader,
    report: OpenReport,
    visible: int,
    durable: int,
) -> Diagnostics:
    """Of a store open for reading, which neither locks nor syncs, here as elsewhere."""
    known = {
        "directory_sync": _unknown("a reader syncs nothing"),
        "file_lock": _unknown("a reader takes no lock"),
        "reserving": _unknown("a reader reserves nothing"),
    }
    return Diagnostics(
        layout.root,
        journal_id,
        "r",
        _options(config),
        visible,
        min(durable, visible),
        visible,
        None,
        None,
        None,
        read_clock(config.clock, last_event_ms(reader, visible), None),
        host_evidence(),
        place_evidence(files, layout, known),
        report,
    )


def last_event_ms(reader: LogReader, bound: int) -> int | None:
    """Milliseconds of the HLC of the last event below `bound`; None when that is unreadable."""
    if not bound:
        return None
    try:
        return reader.summary(bound - 1).hlc >> 16
    except BatpakError:
        # Damage is the finding of whoever reads events; here it only leaves a question open.
        return None


def _options(config: StoreConfig) -> Mapping[str, Any]:
    options = {each.name: plain(getattr(config, each.name)) for each in fields(config)}
    clock = config.clock
    return options | {"clock": None if clock is None else type(clock).__name__}


def _reserving(writer: Writer, config: StoreConfig) -> Evidence:
    done, refused = writer.reserving
    if done:
        return _seen("space was reserved since the open")
    if refused is not None:
        return _refused(refused)
    if not config.preallocate:
        return _unknown("the option preallocate is 0")
    return _unknown("not asked for since the open")


# --- clock and host ----------------------------------------------------------


def read_clock(
    clock: Clock | None, last_ms: int | None, behind_at_open_ms: int | None
) -> ClockEvidence:
    """One reading of a clock, beside the time of a last event."""
    source = clock or SYSTEM_CLOCK
    wall_us: int | None = None
    problem: str | None = None
    try:
        wall_us = checked_us(source)
    except InvalidClock as error:
        problem = error.what
    behind = 0 if wall_us is None or last_ms is None else max(0, last_ms - wall_us // 1000)
    is_system = isinstance(source, SystemClock)
    return ClockEvidence(
        type(source).__name__,
        wall_us,
        problem,
        source.monotonic_ns(),
        source.boot_marker(),
        time.get_clock_info("time").resolution if is_system else None,
        time.get_clock_info("monotonic").resolution if is_system else None,
        last_ms,
        behind,
        behind_at_open_ms,
    )


def host_evidence() -> HostEvidence:
    """This machine, this Python, and what batpak stands on."""
    return HostEvidence(
        platform.system(),
        platform.release(),
        platform.machine(),
        f"{platform.python_implementation()} {platform.python_version()}",
        {name: _version(name) for name in PACKAGES},
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# --- the directory -----------------------------------------------------------


def place_evidence(
    files: Files, layout: Layout, known: Mapping[str, Evidence] | None = None
) -> PlaceEvidence:
    """What the directory of a journal offers; where it is missing, the one above it.

    `known` is what the caller has seen already, by field: it is not tried again. What is
    tried is a lock of journal.json (which nobody else locks; of the directory, where there
    is none), a sync of the directory, and a map of journal.json: no byte is written.
    """
    root = layout.root
    status = "directory" if os.path.isdir(root) else "other" if os.path.lexists(root) else "missing"
    directory = root
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    is_there = status == "directory" and os.path.isfile(layout.identity)
    kind = filesystem_type(directory)
    tried: dict[str, Callable[[], Evidence]] = {
        "writing": lambda: _writing(directory),
        "directory_sync": lambda: _try_sync(files, directory),
        "file_lock": lambda: _try_lock(files, layout.identity if is_there else directory),
        "reserving": lambda: _unknown("reserving space would be a write"),
        "mapping": lambda: _try_map(files, layout.identity if is_there else None),
        "hard_links": lambda: _links(files, layout),
        "reflinks": lambda: _clones(kind),
    }
    given = known or {}
    evidence = {name: given[name] if name in given else tell() for name, tell in tried.items()}
    return PlaceEvidence(
        root,
        directory,
        status,
        kind,
        is_network_filesystem(kind),
        filesystem_space(directory),
        **evidence,
    )


def _writing(directory: str) -> Evidence:
    if may_write(directory):
        return _unknown("the permissions allow it; not tried")
    return _refused("the permissions or the mount forbid it")


def _try_sync(files: Files, directory: str) -> Evidence:
    try:
        files.sync_directory(directory)
    except OSError as error:
        return _refused(_words(error))
    return _seen("the directory was synced")


@contextmanager
def _opened(files: Files, path: str) -> Generator[int]:
    with closing(files, files.open(path, os.O_RDONLY)) as fd:
        yield fd


def _try_lock(files: Files, path: str) -> Evidence:
    name = os.path.basename(path) or path
    try:
        with _opened(files, path) as fd:
            # Held by somebody who tries the same at this moment: that shows it works, too.
            files.lock(fd)
    except OSError as error:
        return _refused(_words(error))
    except PlatformUnsupported as error:
        return _refused(error.what)
    return _seen(f"{name} was locked and let go")


def _try_map(files: Files, path: str | None) -> Evidence:
    if path is None:
        return _unknown("there is no file to map")
    try:
        with _opened(files, path) as fd:
            files.map(fd, 1).close()
    except ValueError:
        return _unknown("there is no file with content to map")
    except OSError as error:
        return _refused(_words(error))
    return _seen(f"{os.path.basename(path)} was mapped")


def _links(files: Files, layout: Layout) -> Evidence:
    try:
        names = sorted(files.listdir(layout.segments), reverse=True)
        for name in names:
            links = files.stat(os.path.join(layout.segments, name)).st_nlink
            if links > 1:
                return _seen(f"{name} has {links} names")
    except OSError:
        # A journal that is not there, or changes while we look, shows nothing.
        pass
    return _unknown("making one would be a write")


def _clones(kind: str | None) -> Evidence:
    if kind in _CLONING:
        return _unknown(f"{kind} can have them; making one would be a write")
    return _unknown(f"{kind or 'this file system'} is not known to have them")


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
