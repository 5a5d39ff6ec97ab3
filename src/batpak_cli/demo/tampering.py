"""Forgeries, each on a copy of a journal, and who notices: open, read, verify, or a note.

A case says beforehand by whom and under which name it has to be caught, with the
sequence; another answer, or one answer too many where nothing was to be found, is a
failure. Every checksum of every forgery is right. The table: docs/tampering.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from batpak.coordinate import Region
from batpak.errors import Damaged
from batpak.store import Store
from batpak_cli.demo.forger import ForgedJournal
from batpak_cli.demo.notes import Note

__all__ = ["CASES", "Case", "Expected", "Outcome", "Sighting", "Targets", "examine", "try_case"]

By = Literal["open", "read", "verify", "note: size", "note: last hash", "note: digest"]

_SYSTEM = b"batpak:"
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something noticed: by whom, under which name, and where."""

    by: By
    code: str
    reason: str = ""
    file: str = ""
    offset: int | None = None
    sequence: int | None = None

    @property
    def where(self) -> str:
        """File and offset, for people: most of a segment's twenty digits are zeros."""
        digits, dot, suffix = self.file.partition(".")
        name = f"{digits.lstrip('0') or digits[:1]}{dot}{suffix}"
        return name if self.offset is None else f"{name}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Expected:
    """By whom, by which name and at which sequence a forgery has to be caught."""

    by: By
    code: str
    reason: str = ""
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case."""

    case: Case
    expected: Expected
    sightings: tuple[Sighting, ...]

    @property
    def caught(self) -> Sighting | None:
        """The sighting that was asked for; None when it is missing."""
        for seen in self.sightings:
            if Expected(seen.by, seen.code, seen.reason, seen.sequence) == self.expected:
                return seen
        return None

    @property
    def held(self) -> bool:
        """Whether it was caught as foretold; a case for notes, by nothing but notes."""
        alone = [seen for seen in self.sightings if not seen.by.startswith("note")]
        return self.caught is not None and (not self.case.needs_note or not alone)


@dataclass(frozen=True, slots=True)
class Targets:
    """Places in a journal where each forgery makes sense. Raises LookupError for too small ones."""

    chained: int
    """An event whose entity has a later one, not the last of its segment."""
    successor: int
    """That later event."""
    pair: tuple[int, int]
    """Two events of one entity, one after the other, in one segment and not its last."""
    newest: int
    """The newest event of its entity, not the last of its segment."""
    cut: int
    """Near the end, with at least three events from it on."""
    place: int
    """Which segment to replace."""
    following: int | None
    """First event of the segment after the one that holds `chained`; None: no later one."""
    after_place: int | None
    """The same for the segment at `place`."""

    @classmethod
    def choose(cls, journal: ForgedJournal) -> Targets:
        """Targets from the middle of the journal, users' events only."""
        bases = [segment.header.base_sequence for segment in journal.segments]
        lasts = {base - 1 for base in bases}
        size = sum(1 for _ in journal)
        lasts.add(size - 1)
        streams: dict[bytes, list[int]] = {}
        for event in journal:
            if not event.entity.startswith(_SYSTEM):
                streams.setdefault(event.entity, []).append(event.row.sequence)
        links = [pair for stream in streams.values() for pair in pairwise(stream)]
        chained = [link for link in links if link[0] not in lasts]
        pairs = [
            (one, other)
            for one, other in links
            if other not in lasts and _segment(bases, one) == _segment(bases, other)
        ]
        heads = [stream[-1] for stream in streams.values() if stream[-1] not in lasts]
        cut = size - max(3, size // 40)
        if not (chained and pairs and heads and cut > 0 and len(bases) > 1):
            raise LookupError("the journal is too small to try every forgery on it")
        middle = size // 2
        event, successor = min(chained, key=lambda link: (abs(link[0] - middle), link))
        place = len(bases) // 2
        return cls(
            event,
            successor,
            min(pairs, key=lambda pair: (abs(pair[0] - middle), pair)),
            min(heads, key=lambda head: (abs(head - middle), head)),
            cut,
            place,
            _base_after(bases, _segment(bases, event)),
            _base_after(bases, place),
        )


def _segment(bases: list[int], sequence: int) -> int:
    return sum(base <= sequence for base in bases) - 1


def _base_after(bases: list[int], place: int) -> int | None:
    return bases[place + 1] if place + 1 < len(bases) else None


@dataclass(frozen=True, slots=True)
class Case:
    """One forgery. `forge` changes the copy on the disk and says what has to notice."""

    name: str
    title: str
    forge: Callable[[Path, Targets, Surroundings], Expected]
    needs_note: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else a forger has at hand, and what the owner keeps."""

    foreign: Path
    """Another journal, with segments like ours."""
    earlier: Path
    """A copy of ours from an earlier day."""
    note: Note
    """What was noted, elsewhere, about the journal before anybody touched it."""


# --- caught by the journal itself ------------------------------------------------


def _payload_byte(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.change_payload(at.chained)
    journal.write()
    return Expected("read", "payload-damaged", "content-hash", at.chained)


def _payload_and_its_hash(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.change_payload(at.chained, commit=True)
    journal.write()
    return Expected("verify", "chain-link", "", at.successor)


def _row_field(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    event = journal.at(at.chained)
    event.set(timestamp_us=event.row.timestamp_us - 1)
    journal.write()
    return Expected("verify", "chain-link", "", at.successor)


def _swapped(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.swap(*at.pair)
    journal.write()
    return Expected("verify", "chain-link", "", at.pair[1])


def _removed(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.remove(at.chained)
    journal.write()
    if at.following is None:
        return Expected("verify", "chain-link", "", at.successor - 1)
    return Expected("open", "journal-corrupt", "splice", at.following - 1)


def _removed_with_headers(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.remove(at.chained)
    journal.relink()
    journal.write()
    return Expected("verify", "clock", "", at.successor - 1)


def _cut(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.cut(at.cut)
    hint = Path(journal.layout.hint).read_bytes()
    journal.write()
    # The one thing that this forger forgets.
    Path(journal.layout.hint).write_bytes(hint)
    return Expected("open", "journal-corrupt", "end-of-file", at.cut)


def _foreign_as_it_is(path: Path, at: Targets, around: Surroundings) -> Expected:
    journal, foreign = ForgedJournal(path), ForgedJournal(around.foreign)
    base = journal.segments[at.place].header.base_sequence
    other = foreign.segments[at.place].header.base_sequence
    shutil.copyfile(foreign.layout.segment(other), journal.layout.segment(base))
    return Expected("open", "journal-corrupt", "journal-id" if base == other else "base", base)


def _foreign_made_to_fit(path: Path, at: Targets, around: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.splice(at.place, ForgedJournal(around.foreign).segments[at.place])
    journal.write()
    if at.after_place is None:
        return Expected("verify", "chain-link", "", _first_stranger(journal, at.place))
    base = journal.segments[at.place + 1].header.base_sequence
    return Expected("open", "journal-corrupt", "splice", base)


def _first_stranger(journal: ForgedJournal, place: int) -> int:
    """The first event of a segment whose entity has a past that it does not link to."""
    heads: dict[bytes, bytes] = {}
    for number, segment in enumerate(journal.segments):
        for event in segment.events:
            if number == place and event.row.prev_hash != heads.get(event.entity, bytes(32)):
                return event.row.sequence
            heads[event.entity] = event.hash
    raise LookupError("the foreign segment shares no entity with ours")


# --- caught only with a note -------------------------------------------------------


def _cut_without_witness(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.cut(at.cut)
    journal.write(hint=False)
    return Expected("note: size", "fewer-events")


def _earlier_copy(path: Path, _: Targets, around: Surroundings) -> Expected:
    shutil.rmtree(path)
    shutil.copytree(around.earlier, path)
    return Expected("note: size", "fewer-events")


def _newest_of_its_entity(path: Path, at: Targets, _: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    journal.change_payload(at.newest)
    journal.rehash()
    journal.write()
    return Expected("note: digest", "other-history")


def _all_made_anew(path: Path, _: Targets, __: Surroundings) -> Expected:
    journal = ForgedJournal(path)
    for event in journal:
        event.set(timestamp_us=max(0, event.row.timestamp_us - _HOUR_US))
    journal.rehash()
    journal.write()
    return Expected("note: last hash", "other-history")


CASES: tuple[Case, ...] = (
    Case("payload-byte", "one payload byte", _payload_byte),
    Case("payload-and-hash", "one payload byte and its hash", _payload_and_its_hash),
    Case("row-field", "one row field: time, 1 µs less", _row_field),
    Case("swapped", "two events swapped", _swapped),
    Case("removed", "an event out, rest renumbered", _removed),
    Case("removed-relinked", "the same, segments relinked", _removed_with_headers),
    Case("cut", "the tail cut off", _cut),
    Case("foreign", "another journal's segment", _foreign_as_it_is),
    Case("foreign-fitted", "the same, made to fit", _foreign_made_to_fit),
    Case("cut-unwitnessed", "the tail cut off, tail.hint as well", _cut_without_witness, True),
    Case("earlier-copy", "an old copy of the folder put back", _earlier_copy, True),
    Case("newest-event", "an entity's newest event, hashes anew", _newest_of_its_entity, True),
    Case("all-anew", "every time an hour less, hashes anew", _all_made_anew, True),
)


# --- looking -------------------------------------------------------------------------


def try_case(
    case: Case, journal: Path, copy: Path, targets: Targets, around: Surroundings
) -> Outcome:
    """Forge a fresh copy of `journal` at `copy`, and look at it as its owner would."""
    shutil.copytree(journal, copy)
    expected = case.forge(copy, targets, around)
    return Outcome(case, expected, tuple(examine(copy, around.note)))


def examine(path: Path, note: Note) -> Iterator[Sighting]:
    """All that open, reading every event, verify, and comparing with the note bring to light."""
    try:
        store = Store.open(path, preallocate=0)
    except Damaged as error:
        yield _sighting("open", error)
        return
    with store:
        if store.open_report.cut is not None:
            cut = store.open_report.cut
            yield Sighting(
                "open", "cut", cut.reason, os.path.basename(cut.file), cut.offset, cut.sequence
            )
        yield from _read_all(store)
        for found in store.verify("full").findings:
            yield Sighting(
                "verify", found.code, "", os.path.basename(found.file), found.offset, found.sequence
            )
        # Opening wrote an event of its own: what was there before is what counts.
        before = len(store) - 1
        if before < note.size:
            yield Sighting("note: size", "fewer-events")
            return
        same = note.compare(store)
        if not same.last_hash:
            yield Sighting("note: last hash", "other-history")
        if not same.digest:
            yield Sighting("note: digest", "other-history")


def _read_all(store: Store) -> Iterator[Sighting]:
    """What reading every event brings to light; goes on behind each that can't be read."""
    after: int | None = None
    while True:
        try:
            for event in store.query(Region.all(), after=after):
                after = event.sequence
        except Damaged as error:
            yield _sighting("read", error)
            behind = 0 if after is None else after + 1
            after = behind if error.sequence is None else max(behind, error.sequence)
        else:
            return


def _sighting(by: By, error: Damaged) -> Sighting:
    file = os.path.basename(error.file or "")
    reason = error.facts.get("reason") or ""
    return Sighting(by, error.code, reason, file, error.offset, error.sequence)
