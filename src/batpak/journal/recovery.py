"""Judge a segment's records and its tail: what is the log, what is a tear, what is damage.

Reads one segment through a callable and decides; changes nothing. The bounds that
other files witness are passed in. Source: docs/format.md, "Recovery".

    bytes          what recovery makes of them
    --------       ---------------------------------------------------------------
    below D        the log; damage there is damage to acknowledged events: refused
    at or past D   kept when it proves itself whole, else never known durable: a tear
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from batpak.errors import BatpakError
from batpak.event import content_hash, event_hash
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.record import (
    MAGIC,
    RECORD_HEADER_SIZE,
    Chain,
    Invalid,
    Read,
    Record,
    check_body,
    decode_header,
    read_record,
    salt_crc,
)

__all__ = [
    "Tail",
    "Taken",
    "Witness",
    "first_chain",
    "judge_tail",
    "last_nonzero",
    "look_beyond",
    "walk",
]

_WINDOW: Final = 8 << 20
_HELD_RECORDS: Final = 8192
_EVERYTHING: Final = 1 << 64


class Witness(NamedTuple):
    """Something that knows the journal to have been durable up to `durable` (exclusive)."""

    durable: int
    name: str


class Taken(NamedTuple):
    """Records that were found whole and applied together, without being looked at here."""

    chain: Chain
    """State after the last of them."""
    durable: Witness
    """The greatest durable bound in their headers."""
    nexts: array[int]
    """The sequence after each of them."""
    ends: array[int]
    """Where each of them ends."""
    last_record: int
    """Where the last of them begins."""
    last_hash: bytes
    """The last event's."""


Take = Callable[[Chain, int], Taken | None]
"""Called with a state and D: applies what follows, as long as each record lies wholly below D
or proves itself; None where the next record has to be looked at by itself."""


def _take_none(_chain: Chain, _durable: int) -> Taken | None:
    return None


@dataclass(slots=True)
class Tail:
    """What recovery found at the end of the newest segment."""

    end: Chain
    """State after the last accepted record."""
    durable: Witness
    """D: the greatest bound that any witness knows."""
    problem: Invalid
    """Why the record after the last accepted one is none."""
    readopt_from: int
    """Offset after the last record wholly below D: from here on the disk may lie."""
    garbage_end: int
    """End of the last non-zero byte from `end.offset` on; equal to it when there is none."""
    max_epoch: int
    """Greatest epoch in any record header with a right checksum, discarded ones included."""

    @property
    def lost(self) -> bool:
        """Whether acknowledged, durable events are damaged or missing."""
        return self.durable.durable > self.end.sequence


def first_chain(header: SegmentHeader) -> Chain:
    """The state before a segment's first record."""
    return Chain(HEADER_SIZE, header.base_sequence, header.crc, header.epoch)


def walk(
    read: Read,
    size: int,
    chain: Chain,
    salt_state: int,
    apply: Callable[[Record], None],
    take: Take = _take_none,
) -> tuple[Chain, Invalid]:
    """Apply every record from `chain` on whose header and head are valid.

    Returns the state after the last one, and why no further one stands there.
    """
    while True:
        while (taken := take(chain, _EVERYTHING)) is not None:
            chain = taken.chain
        record = read_record(read, size, chain, salt_state)
        if isinstance(record, Invalid):
            return chain, record
        apply(record)
        chain = record.chain


def judge_tail(
    read: Read,
    size: int,
    header: SegmentHeader,
    start: Chain,
    witnesses: Sequence[Witness],
    apply: Callable[[Record], None],
    previous_hash: Callable[[bytes], bytes],
    take: Take = _take_none,
) -> Tail:
    """Walk the newest segment from `start`, apply what belongs to the log, name the rest.

    `apply` sees each accepted record once, in order, but for those that `take` applies;
    `previous_hash(entity)` gives the event hash of the entity's last applied event, zeros
    for none.
    """
    state = salt_crc(header.salt)
    best = max(witnesses, default=Witness(0, "none"))
    begin = start.offset if start.sequence <= best.durable else HEADER_SIZE
    nexts, ends = array("Q"), array("Q")
    """Of each applied record: from which D on it lies wholly below D, and where it ends."""
    held: deque[tuple[Chain, Record | None]] = deque()

    def settle(record: Record) -> None:
        apply(record)
        nexts.append(_reach(record))
        ends.append(record.end)

    def release() -> None:
        """Apply what is now known to lie wholly below D."""
        while held:
            before, kept = held[0]
            record = kept or _again(read, size, before, state)
            if _reach(record) > best.durable:
                return
            settle(record)
            held.popleft()

    chain = start
    while True:
        while not held and (taken := take(chain, best.durable)) is not None:
            chain = taken.chain
            nexts += taken.nexts
            ends += taken.ends
            if taken.durable.durable > best.durable:
                best = taken.durable
        record = read_record(read, size, chain, state)
        if isinstance(record, Invalid):
            problem = record
            break
        if record.header.durable > best.durable:
            best = Witness(record.header.durable, f"record at {record.offset}")
        # Beyond this many, only the place is kept and the record is read again later.
        held.append((chain, record if len(held) < _HELD_RECORDS else None))
        chain = record.chain
        release()
        if len(held) == 1 and _is_whole(record, read, state, previous_hash):
            # Whatever D turns out to be, it belongs to the log, and the next ones may too.
            settle(record)
            held.popleft()

    beyond, max_epoch = look_beyond(read, size, problem.offset, chain.sequence, state)
    best = max(best, beyond)
    max_epoch = max(max_epoch, chain.epoch)
    release()

    # At or past D nothing is known to be on the disk: every byte has to prove itself.
    end = chain
    while held:
        end, kept = held.popleft()
        record = kept or _again(read, size, end, state)
        wrong = _prove(record, read, state, previous_hash)
        if wrong is not None:
            problem = wrong
            break
        settle(record)
        end = record.chain
    below = bisect_right(nexts, best.durable)
    readopt_from = ends[below - 1] if below else begin
    garbage_end = last_nonzero(read, size, end.offset)
    return Tail(end, best, problem, readopt_from, garbage_end, max_epoch)


def _reach(record: Record) -> int:
    """The least D below which a record lies wholly.

    A pad at D is not below it: its own bytes may be in the page cache only.
    """
    return max(record.next_sequence, record.header.base_sequence + 1)


def _again(read: Read, size: int, chain: Chain, state: int) -> Record:
    record = read_record(read, size, chain, state)
    assert isinstance(record, Record), "a record that was valid a moment ago"
    return record


def _prove(
    record: Record, read: Read, state: int, previous_hash: Callable[[bytes], bytes]
) -> Invalid | None:
    """What a record at or past D fails to prove; None when it is whole."""
    body = read(record.body_offset, record.header.body_len)
    wrong = check_body(record, body, state)
    if wrong is not None:
        return wrong
    heads: dict[bytes, bytes] = {}
    for event in record.events(read):
        row = event.row
        if event.envelope_offset:
            start = event.envelope_offset - record.body_offset
            if content_hash(row.codec, body[start : start + event.stored_len]) != row.content_hash:
                return Invalid(record.offset, "content-hash", row.content_hash.hex())
        entity = event.entity
        previous = heads.get(entity)
        if previous is None:
            previous = previous_hash(entity)
        if row.prev_hash != previous:
            return Invalid(record.offset, "prev-hash", previous.hex(), row.prev_hash.hex())
        heads[entity] = event_hash(event.row_bytes, event.metadata)
    return None


def _is_whole(
    record: Record, read: Read, state: int, previous_hash: Callable[[bytes], bytes]
) -> bool:
    """Whether a record proves itself; what keeps it from that may be no reason to refuse it."""
    try:
        return _prove(record, read, state, previous_hash) is None
    except BatpakError:
        return False


def look_beyond(
    read: Read, size: int, offset: int, sequence: int, state: int
) -> tuple[Witness, int]:
    """The greatest durable bound in a believable record header after an invalid position.

    Also the greatest epoch in any header with a right checksum from there on.

    Believable: right checksum for its place, and a sequence that the bytes between
    could hold. Their heads need not be intact.
    """
    best, epoch = Witness(0, "none"), 0
    position = offset
    while position < size:
        window = read(position, min(_WINDOW + RECORD_HEADER_SIZE, size - position))
        if not window:
            break
        at = window.find(MAGIC)
        while at >= 0:
            place = position + at
            if place % 8 == 0:
                header = decode_header(window[at : at + RECORD_HEADER_SIZE], place, state)
                epoch = epoch if header is None else max(epoch, header.epoch)
                if (
                    header is not None
                    and place > offset
                    and header.durable <= header.base_sequence
                    and sequence <= header.base_sequence <= sequence + (place - offset) // 176
                ):
                    best = max(best, Witness(header.durable, f"record at {place}"))
            at = window.find(MAGIC, at + 1)
        position += _WINDOW
    return best, epoch


def last_nonzero(read: Read, size: int, offset: int) -> int:
    """End of the last non-zero byte in [offset, size); `offset` when all are zero."""
    end = size
    while end > offset:
        start = max(offset, end - _WINDOW)
        stripped = read(start, end - start).rstrip(b"\0")
        if stripped:
            return start + len(stripped)
        end = start
    return offset
