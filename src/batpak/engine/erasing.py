"""Which payloads are refused: fold the erasure events, and choose what a new one names.

An erasure is an event like any other, so what is erased is found by reading, and only
journals that have such events pay for it. Nothing here changes a segment; what the
segments still hold is compaction's business. Source: docs/format.md, "System events".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final, cast

from batpak.coordinate import Region
from batpak.engine.reading import LogReader
from batpak.engine.system import (
    LIFECYCLE,
    MAX_REASON_BYTES,
    MAX_RUNS,
    RESERVED_ENTITY_PREFIX,
    erased_by,
    erasure_event,
)
from batpak.errors import (
    CanonicalError,
    EventNotFound,
    InvalidInput,
    NotErasable,
    PayloadDamaged,
)
from batpak.event import CODEC_PLAIN, Event, EventSummary
from batpak.ids import EventId
from batpak.index.query import Query
from batpak.index.runs import Runs
from batpak.journal.commits import Prepared
from batpak.journal.telling import told
from batpak.kinds import SYSTEM_ERASURE, EventKind
from batpak.receipt import AppendReceipt

__all__ = [
    "ErasureReport",
    "check_reason",
    "erasure_events",
    "fold_erasures",
    "is_erasure",
    "is_own",
    "plan_erasure",
    "sequences_of",
    "system_sequences",
]

logger = logging.getLogger("batpak.journal")

EVENTS_IN_A_COMMIT: Final = 64
_RESERVED: Final = RESERVED_ENTITY_PREFIX.encode()

Where = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What an erasure names, and what it leaves alone."""

    sequences: tuple[tuple[int, int], ...]
    """First and last sequence of each run of events whose payloads it erases."""
    events: int
    """How many events these are."""
    already: int
    """Events asked for whose payloads had been erased before: nothing is done to them."""
    system: int
    """Events of the journal itself inside the region: they are kept."""
    receipts: tuple[AppendReceipt, ...] = field(default=())
    """Of the erasure events; none where nothing was to be done, or only planned."""

    @property
    def runs(self) -> Runs:
        """The same sequences as runs [first, end)."""
        return Runs([(first, last + 1) for first, last in self.sequences])


# --- what was erased --------------------------------------------------------------


def is_erasure(event: EventSummary) -> bool:
    """Whether this is an erasure event of the journal's own."""
    return is_own(event, SYSTEM_ERASURE)


def is_own(event: EventSummary, kind: EventKind) -> bool:
    """Whether this is an event of this kind that the journal wrote about itself."""
    row = event.row
    return (
        row.kind == kind.raw
        and row.codec == CODEC_PLAIN
        and event.metadata_bytes[: row.entity_len] == LIFECYCLE.entity_bytes
    )


def fold_erasures(reader: LogReader, low: int, high: int) -> None:
    """Have `reader` refuse what erasure events with sequences in [low, high) name.

    An erasure event that can't be read erases nothing; that is logged, and `verify` names
    it. Raises JournalCorrupt, StorageFailed.
    """
    found = reader.erased
    for sequence in reader.index.of_kind(SYSTEM_ERASURE.raw, low, high):
        try:
            event = reader.stored(sequence)
            if is_erasure(event):
                named = erased_by(event.raw, sequence)
                found = named if found is None else found | named
        except (PayloadDamaged, CanonicalError) as error:
            told(partial(_unreadable, sequence, str(error)))
    reader.erased = found


def _unreadable(sequence: int, reason: str) -> None:
    logger.warning(
        "the erasure event %d can't be read, so it erases nothing: %s", sequence, reason,
        extra={"code": "erasure-unreadable", "sequence": sequence, "error": reason},
    )  # fmt: skip


# --- what to erase ----------------------------------------------------------------


def check_reason(reason: str) -> None:
    """Raises InvalidInput unless this is a text that says why."""
    try:
        size = len(reason.encode()) if isinstance(reason, str) else 0
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_REASON_BYTES:
        raise InvalidInput(
            f"an erasure's reason is a text of 1 to {MAX_REASON_BYTES} bytes",
            field="reason",
            value=reason,
            advice="name the request, not the person: the reason itself stays for ever",
        )


def plan_erasure(reader: LogReader, what: object, where: Where | None, bound: int) -> ErasureReport:
    """What an erasure of `what` would name, below `bound`.

    Raises InvalidInput, EventNotFound, NotErasable; JournalCorrupt, PayloadDamaged.
    """
    if where is not None and not callable(where):
        raise InvalidInput("where= takes a function of an event", field="where", value=where)
    if isinstance(what, Region):
        return _of_region(reader, what, where, bound)
    if where is not None:
        raise InvalidInput(
            "where= chooses among the events of a region",
            field="where",
            advice="pass a Region, or Region.all()",
        )
    asked = Runs.of(sequences_of(reader, what, bound))
    erased = reader.erased or Runs()
    for sequence in system_sequences(reader, 0, bound):
        if sequence in asked:
            raise NotErasable(
                f"event {sequence} is the journal's own: what it says of itself stays",
                field="what",
                sequence=sequence,
                advice="leave it out, or erase by Region, which leaves such events alone",
            )
    return _report(asked - erased, asked.count - (asked - erased).count, 0)


def _report(runs: Runs, already: int, system: int) -> ErasureReport:
    return ErasureReport(
        tuple([(first, end - 1) for first, end in runs]), runs.count, already, system
    )


def _of_region(reader: LogReader, region: Region, where: Where | None, bound: int) -> ErasureReport:
    query = Query.of(region)
    kept = set(system_sequences(reader, 0, bound))
    erased = reader.erased or Runs()
    already = system = 0

    def chosen() -> Iterator[int]:
        nonlocal already, system
        for sequence in reader.sequences(query, 0, bound):
            if sequence in kept:
                system += 1
            elif sequence in erased:
                already += 1
            elif where is None or where(reader.at(sequence)):
                yield sequence

    runs = Runs.of(chosen())
    return _report(runs, already, system)


def system_sequences(reader: LogReader, low: int, high: int) -> Iterator[int]:
    """Events at the journal's own entities: there are a few for each opening."""
    name = _RESERVED.rstrip(b":")
    for sequence in reader.sequences(Query(entity=name), low, high):
        if reader.summary(sequence).metadata_bytes.startswith(_RESERVED):
            yield sequence


def sequences_of(
    reader: LogReader, what: object, bound: int, *, verb: str = "erase"
) -> Iterator[int]:
    """Sequences that are named one by one. Raises InvalidInput, EventNotFound."""
    if isinstance(what, (int, EventId)):
        what = (what,)
    named = cast("Any", what)
    if isinstance(named, (str, bytes, dict)) or not isinstance(named, Iterable):
        name = type(cast("object", named)).__name__
        raise InvalidInput(
            f"{verb}() takes a Region, EventIds or sequences", field="what", value=name
        )
    for each in cast("Iterable[Any]", named):
        if isinstance(each, EventId):
            sequence = reader.find_id(each.bytes, bound)
            if sequence is None:
                raise EventNotFound(f"no event has the id {each}", field="what", value=str(each))
        elif isinstance(each, int) and not isinstance(each, bool):
            sequence = each
            if not 0 <= sequence < bound:
                raise EventNotFound(
                    f"no event has the sequence {sequence}: visible are 0 to {bound - 1}",
                    field="what",
                    sequence=sequence,
                )
        else:
            raise InvalidInput(
                f"{verb}() takes a Region, EventIds or sequences", field="what", value=each
            )
        yield sequence


def erasure_events(report: ErasureReport, reason: str) -> Iterator[tuple[Sequence[Prepared], Runs]]:
    """The events of an erasure, commit by commit, and what each commit names."""
    runs = iter(report.runs)
    while True:
        events: list[Prepared] = []
        named: list[tuple[int, int]] = []
        while len(events) < EVENTS_IN_A_COMMIT and (part := list(islice(runs, MAX_RUNS))):
            events.append(erasure_event(part, reason))
            named += part
        if not events:
            return
        yield events, Runs(named)
