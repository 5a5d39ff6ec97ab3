"""Check runs of ordinary records at once, and stop before the first that is not ordinary.

The rules are those of `batpak.journal.record` and `batpak.engine.verify`, which name what
is wrong; here it only matters whether anything is. Checksums and hashes are computed one
by one, everything that can be compared is compared in columns. Nothing of a record that
is not accepted is remembered. Source: docs/format.md, "Verifying".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from blake3 import blake3

from batpak.event import (
    CODEC_ENCRYPTED,
    CODEC_SALTED,
    CONTENT_PREFIX,
    EVENT_PREFIX,
    NO_HASH,
    ROW_SIZE,
    ROW_VERSION,
    SALT_SIZE,
)
from batpak.journal.record import (
    COMMIT,
    EAGER,
    MAGIC,
    MAX_NAME_BYTES,
    MAX_RECORD_BYTES,
    RECORD_HEADER_SIZE,
    VERSION,
    Chain,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from batpak.index.columns import Columns

    Words = NDArray[np.uint64]
    Numbers = NDArray[np.int64]
    Marks = NDArray[np.bool_]

__all__ = ["KNOWN_FLAGS", "Heads", "Pace", "Past", "Run", "Seal", "check_run", "foreign_places"]

KNOWN_FLAGS: Final = 0x1FF
"""Every flag that a row may have."""

_HEADER: Final = np.dtype(
    [
        ("magic", "<u4"), ("head_crc", "<u4"), ("head_len", "<u4"), ("body_len", "<u4"),
        ("body_crc", "<u4"), ("prev_crc", "<u4"), ("base", "<u8"), ("durable", "<u8"),
        ("epoch", "<u4"), ("count", "<u4"), ("type", "u1"), ("version", "u1"),
        ("flags", "<u2"), ("reserved", "<u8"), ("header_crc", "<u4"),
    ]
)  # fmt: skip
_ROW: Final = np.dtype(
    [
        ("sequence", "<u8"), ("event_id", "<u8", 2), ("correlation", "<u8", 2),
        ("causation", "<u8", 2), ("timestamp_us", "<i8"), ("hlc", "<u8"), ("clock", "<u4"),
        ("lane", "<u4"), ("depth", "<u4"), ("extensions_len", "<u4"), ("kind", "<u2"),
        ("payload_version", "<u2"), ("flags", "<u2"), ("entity_len", "<u2"),
        ("scope_len", "<u2"), ("row_version", "u1"), ("codec", "u1"), ("envelope_len", "<u4"),
        ("reserved", "<u8"), ("content_hash", "<u8", 4), ("prev_hash", "<u8", 4),
    ]
)  # fmt: skip
_WORD: Final = 8
_HEADER_WORDS: Final = np.arange(RECORD_HEADER_SIZE // _WORD)
_ROW_WORDS: Final = np.arange(ROW_SIZE // _WORD)
_MAGIC: Final = int.from_bytes(MAGIC, "little")
_MAX_OFFSET: Final = 1 << 32
_MIN_WINDOW: Final = 1 << 15
_MAX_WINDOW: Final = 1 << 20
_FEW: Final = 64
"""A try that accepts fewer records than these does not pay."""
_MANY: Final = 256
"""Most records that are looked at one by one between two tries."""
_lengths: Final = struct.Struct("<II").unpack_from
"""Of a record header from its byte 8 on: head_len, body_len."""
_crc32 = zlib.crc32


class Heads(Protocol):
    """By entity: the clock and the prev_hash that its next event must have. A dict is one."""

    def get(self, entity: bytes, /) -> tuple[int, bytes] | None: ...
    def __contains__(self, entity: object, /) -> bool: ...
    def __setitem__(self, entity: bytes, head: tuple[int, bytes], /) -> None: ...
    def clear(self) -> None: ...


@dataclass(slots=True)
class Past:
    """What the checked prefix of a journal leaves behind for the events that follow."""

    heads: Heads = field(default_factory=dict[bytes, tuple[int, bytes]])
    hlc: int = 0
    timestamp_us: int = 0
    timestamp_epoch: int = -1
    after_gap: bool = False
    """After a gap an entity's first event can't be checked against its predecessor."""


@cache
def _by_byte_of_offset() -> list[NDArray[np.uint32]]:
    """For each of an offset's four low bytes, what each value of it does to a header's CRC."""
    zero = _crc32(bytes(60))
    return [
        np.array(
            [_crc32((b << 8 * k).to_bytes(8, "little") + bytes(52)) ^ zero for b in range(256)],
            np.uint32,
        )
        for k in range(4)
    ]


class Seal:
    """What the checksums of one segment start from."""

    def __init__(self, salt_state: int) -> None:
        self.salt_state = salt_state
        # CRC-32 is linear: that of `offset || header` differs from that of `header` alone,
        # which is needed for the head as well, by something that no header changes.
        self._base = _crc32(bytes(60), salt_state) ^ _crc32(bytes(52), salt_state)

    def placed(self, bare: NDArray[np.uint32], offsets: Numbers) -> NDArray[np.uint32]:
        """header_crc of headers at offsets below 2^32, given the CRC of their bytes 8 to 59."""
        crc = bare ^ np.uint32(self._base)
        for k, table in enumerate(_by_byte_of_offset()):
            crc ^= table[(offsets >> 8 * k) & 0xFF]
        return crc


class Run(NamedTuple):
    """Records that were accepted, and what is compared elsewhere of their events."""

    records: int
    is_whole: bool
    """Whether these are all whole records of the window."""
    chain: Chain
    hashes: bytes
    """Event hashes, 32 bytes each, end to end."""
    ids: Words
    """(events, 2): event ids as they stand in the rows, little-endian words."""
    hlcs: Words
    places: NDArray[np.uint32]
    """Where the events' rows stand in the file."""
    encrypted: list[int]
    """Which of the events have an encrypted payload."""
    durable: tuple[int, int]
    """The greatest durable bound that the records name, and where the first that does begins."""
    record_ends: Numbers
    """Where each record ends in the file."""
    record_nexts: Numbers
    """The sequence after each record."""
    last_record: int
    """Where the last record begins in the file."""
    clocks: NDArray[np.uint32]
    columns: Callable[[], Columns]
    """What an index holds of the events, beside their clocks."""

    @property
    def events(self) -> int:
        """How many events the records hold."""
        return len(self.hlcs)


@dataclass(slots=True)
class _Rows:
    """The events of some records: row fields, and where in the window their parts stand."""

    fields: Any
    record: Numbers
    """Which of the records each event is of."""
    row_at: Numbers
    meta_at: Numbers
    meta_end: Numbers
    envelope_at: Numbers
    envelope_end: Numbers


@dataclass(slots=True)
class Pace:
    """How much is tried at once, and how many records are looked at closely between two tries.

    A try costs what its window has in it, whatever comes of it.
    """

    window: int = _MAX_WINDOW
    """Bytes of the next try; what is read of them should stay in a cache."""
    closely: int = 0
    """How many records are looked at one by one before it."""
    _step: int = 1

    def tried(self, run: Run | None, used: int) -> None:
        """Told what became of a try, and how many bytes the accepted records have."""
        if run is not None and run.is_whole:
            self.window = min(2 * self.window, _MAX_WINDOW)
            return
        # Where ordinary records are rare, a try costs more than it brings.
        pays = run is not None and run.records >= _FEW
        self._step = 1 if pays else min(2 * self._step, _MANY)
        self.closely = self._step
        wanted = 2 * self.window if run is None else 2 * used
        self.window = min(max(wanted, _MIN_WINDOW), _MAX_WINDOW)


def check_run(
    window: bytes,
    chain: Chain,
    end: int,
    seal: Seal,
    past: Past,
    *,
    full: bool,
    is_name: Callable[[bytes], bool],
    are_extensions: Callable[[bytes], bool],
    within: bool = False,
    eager: bool = False,
    odd_kind: int | None = None,
) -> Run | None:
    """Accept the records at the beginning of `window` with which nothing at all is wrong.

    `window`: bytes of a segment from `chain.offset` on; `end`: exclusive sequence bound at
    which records may begin no more, and with `within` beyond which none may end. `full`
    looks at payload sections too; with `eager` only records that readers may see before
    they are durable are ordinary; events of `odd_kind` never are. Changes `past` by what was
    accepted only. None when the first record is not ordinary, or not whole.
    """
    if chain.offset + len(window) > _MAX_OFFSET or chain.sequence >= end:
        return None
    starts = _walk(window)
    words = np.frombuffer(window, "<u8", len(window) // _WORD)
    at = np.array(starts, np.int64)
    at = at[: _first(at % _WORD != 0)]
    headers = _take(words, at // _WORD, _HEADER_WORDS).view(_HEADER)[:, 0]
    if eager:
        headers = headers[: _first(headers["flags"] & EAGER == 0)]
        at = at[: len(headers)]
    good = _judge_headers(headers, at, chain, end, len(window), within=within)
    if not good:
        return None
    headers, at = headers[:good], at[:good]
    body_at = at + RECORD_HEADER_SIZE + headers["head_len"]
    after = body_at + headers["body_len"]
    good = _judge_checksums(window, headers, at, body_at, after, chain.offset, seal, full=full)
    rows = _rows_of(words, headers[:good], at[:good])
    good = _judge_lengths(words, headers[:good], rows, body_at, after, full=full)
    if not good:
        return None
    kept = int(np.searchsorted(rows.record, good))
    rows = _cut(rows, kept)
    digests = _event_hashes(window, rows)
    wrong = _judge_rows(rows, chain, headers["epoch"], past)
    if odd_kind is not None:
        wrong |= rows.fields["kind"] == odd_kind
    if full:
        wrong |= _differs(rows.fields["content_hash"], _content_hashes(window, rows))
    wrong |= _judge_extensions(window, rows, are_extensions)
    entities = _Entities(window, rows, past, is_name)
    wrong |= entities.judge(digests)
    kept = _first(wrong)
    if kept < len(wrong):
        # A record stands whole or not at all.
        good = int(rows.record[kept])
        kept = int(np.searchsorted(rows.record, good))
        if not good:
            return None
        rows = _cut(rows, kept)
    hashes = digests[:kept].tobytes()
    entities.keep(kept, hashes)
    headers = headers[:good]
    fields, last = rows.fields, headers[-1]
    past.hlc = int(fields["hlc"][-1])
    past.timestamp_us = int(fields["timestamp_us"][-1])
    past.timestamp_epoch = int(last["epoch"])
    return Run(
        good,
        good == len(starts),
        Chain(
            chain.offset + int(after[good - 1]),
            chain.sequence + kept,
            int(last["head_crc"]),
            int(last["epoch"]),
        ),
        hashes,
        np.ascontiguousarray(fields["event_id"]),
        np.ascontiguousarray(fields["hlc"]),
        (rows.row_at + chain.offset).astype(np.uint32),
        np.flatnonzero(fields["codec"] == CODEC_ENCRYPTED).tolist(),
        (int(headers["durable"].max()), chain.offset + int(at[headers["durable"].argmax()])),
        after[:good] + chain.offset,
        chain.sequence + np.cumsum(headers["count"].astype(np.int64)),
        chain.offset + int(at[good - 1]),
        np.ascontiguousarray(fields["clock"]),
        lambda: _columns(rows, entities, hashes, chain.offset),
    )


def _columns(rows: _Rows, entities: _Entities, hashes: bytes, offset: int) -> Columns:
    from batpak.index.columns import Columns

    fields = rows.fields
    hlcs = np.ascontiguousarray(fields["hlc"])
    ids = np.ascontiguousarray(fields["event_id"])
    entity_number, scope_number = entities.numbers(len(fields))
    return Columns(
        hashes,
        (rows.row_at + offset).astype(np.uint32),
        (rows.meta_at + offset).astype(np.uint32),
        (rows.envelope_at + offset).astype(np.uint32),
        entities.names,
        entity_number,
        entities.scopes,
        scope_number,
        np.ascontiguousarray(fields["kind"]),
        hlcs,
        [(ids[place].tobytes(), place) for place in foreign_places(ids, hlcs)],
    )


# --- records -------------------------------------------------------------------


def _walk(window: bytes) -> list[int]:
    """Where records would begin if each header's lengths were right."""
    starts: list[int] = []
    add, at, stop = starts.append, 0, len(window) - RECORD_HEADER_SIZE
    while at <= stop:
        head_len, body_len = _lengths(window, at + 8)
        add(at)
        at += RECORD_HEADER_SIZE + head_len + body_len
    if at > len(window):
        starts.pop()
    return starts


def _first(wrong: Marks) -> int:
    """How many stand before the first that is wrong."""
    place = int(wrong.argmax()) if len(wrong) else 0
    return place if len(wrong) and wrong[place] else len(wrong)


def _take(words: Words, at: Numbers, shape: Numbers) -> Words:
    return words[at[:, None] + shape]


def _judge_headers(
    headers: Any, at: Numbers, chain: Chain, end: int, size: int, *, within: bool
) -> int:
    """How many headers say what an ordinary commit may say, one after the other."""
    head_len = headers["head_len"].astype(np.int64)
    body_len = headers["body_len"].astype(np.int64)
    count = headers["count"].astype(np.int64)
    epoch, base = headers["epoch"], headers["base"]
    wrong = headers["magic"] != _MAGIC
    wrong |= headers["type"] != COMMIT
    wrong |= headers["version"] != VERSION
    wrong |= (headers["flags"] & ~np.uint16(EAGER)) != 0
    wrong |= headers["reserved"] != 0
    wrong |= (head_len | body_len) % 8 != 0
    wrong |= (count < 1) | (ROW_SIZE * count > head_len)
    wrong |= head_len + body_len > MAX_RECORD_BYTES - 8 - 4 * count
    wrong |= headers["durable"] > base
    wrong |= headers["prev_crc"] != np.append(np.uint32(chain.prev_crc), headers["head_crc"][:-1])
    wrong |= epoch < np.append(np.uint32(chain.epoch), epoch[:-1])
    wrong |= at + RECORD_HEADER_SIZE + head_len + body_len > size
    # Only as far as all counts are right does their sum mean anything.
    good = _first(wrong)
    after = chain.sequence + np.cumsum(count[:good])
    sequences = after - count[:good]
    is_beyond = after > end if within else sequences >= end
    return _first((base[:good] != sequences.astype(np.uint64)) | is_beyond)


def _judge_checksums(
    window: bytes,
    headers: Any,
    at: Numbers,
    body_at: Numbers,
    after: Numbers,
    offset: int,
    seal: Seal,
    *,
    full: bool,
) -> int:
    """How many records have the checksums that they say."""
    crc32, salt_state = _crc32, seal.salt_state
    starts, bodies = at.tolist(), body_at.tolist()
    bare = [crc32(window[a + 8 : a + 60], salt_state) for a in starts]
    heads = [crc32(window[a + 60 : b], crc) for a, b, crc in zip(starts, bodies, bare, strict=True)]
    wrong = headers["head_crc"] != np.array(heads, np.uint32)
    wrong |= headers["header_crc"] != seal.placed(np.array(bare, np.uint32), at + offset)
    if full:
        found = [
            crc32(window[a:b], salt_state) for a, b in zip(bodies, after.tolist(), strict=True)
        ]
        wrong |= headers["body_crc"] != np.array(found, np.uint32)
    return _first(wrong)


def _rows_of(words: Words, headers: Any, at: Numbers) -> _Rows:
    """The rows of records, and where in the window their metadata and envelopes stand."""
    count = headers["count"].astype(np.int64)
    record = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    rows_at = at + RECORD_HEADER_SIZE
    row_at = rows_at[record] + ROW_SIZE * (np.arange(len(record)) - first[record])
    fields = _take(words, row_at // _WORD, _ROW_WORDS).view(_ROW)[:, 0]
    meta = fields["entity_len"].astype(np.int64) + fields["scope_len"] + fields["extensions_len"]
    envelope = fields["envelope_len"].astype(np.int64)
    meta_end = _places(rows_at + ROW_SIZE * count, meta, record, first)
    envelope_end = _places(rows_at + headers["head_len"], envelope, record, first)
    return _Rows(
        fields, record, row_at, meta_end - meta, meta_end, envelope_end - envelope, envelope_end
    )


def _places(begin: Numbers, lengths: Numbers, record: Numbers, first: Numbers) -> Numbers:
    """Where each of some parts ends that stand end to end from their record's `begin` on."""
    ends = np.cumsum(lengths)
    before = (ends - lengths)[first] if len(first) else ends
    return ends + (begin - before)[record]


def _judge_lengths(
    words: Words, headers: Any, rows: _Rows, body_at: Numbers, after: Numbers, *, full: bool
) -> int:
    """How many records are filled by their parts, but for a padding of zeros."""
    if not len(headers):
        return 0
    last = np.cumsum(headers["count"].astype(np.int64)) - 1
    wrong = _is_ragged(words, rows.meta_end[last], body_at[: len(headers)])
    envelope_end, after = rows.envelope_end[last], after[: len(headers)]
    if full:
        wrong |= _is_ragged(words, envelope_end, after)
    else:
        wrong |= (envelope_end + 7) // 8 * 8 != after
    return _first(wrong)


def _is_ragged(words: Words, end: Numbers, padded: Numbers) -> Marks:
    """Which parts are not filled up from `end` to `padded` by fewer than 8 zeros."""
    missing = padded - end
    wrong = (missing < 0) | (missing > 7)
    used = 8 - np.where(wrong, 0, missing)
    # A shift by all 64 bits is none at all: where nothing is missing, nothing is looked at.
    rest = words[padded // _WORD - 1] >> (8 * (used % 8)).astype(np.uint64)
    return wrong | ((missing != 0) & (rest != 0))


def _cut(rows: _Rows, count: int) -> _Rows:
    if count == len(rows.record):
        return rows
    return _Rows(
        rows.fields[:count], rows.record[:count], rows.row_at[:count], rows.meta_at[:count],
        rows.meta_end[:count], rows.envelope_at[:count], rows.envelope_end[:count],
    )  # fmt: skip


# --- events --------------------------------------------------------------------


def _event_hashes(window: bytes, rows: _Rows) -> Words:
    """(events, 4): each event's hash."""
    hasher, prefix = blake3(), EVENT_PREFIX
    reset, update, digest = hasher.reset, hasher.update, hasher.digest
    found: list[bytes] = []
    add = found.append
    row_at, meta_at, meta_end = rows.row_at, rows.meta_at, rows.meta_end
    if (row_at + ROW_SIZE == meta_at).all():
        for a, b in zip(row_at.tolist(), meta_end.tolist(), strict=True):
            reset()
            update(prefix + window[a:b])
            add(digest())
    else:
        parts = zip(row_at.tolist(), meta_at.tolist(), meta_end.tolist(), strict=True)
        for row, a, b in parts:
            reset()
            update(prefix + window[row : row + 176] + window[a:b])
            add(digest())
    return _words(found)


def _content_hashes(window: bytes, rows: _Rows) -> Words:
    """(events, 4): the hash of each event's codec and envelope."""
    hasher = blake3()
    reset, update, digest = hasher.reset, hasher.update, hasher.digest
    found: list[bytes] = []
    add = found.append
    prefixes = map(CONTENT_PREFIX.__getitem__, rows.fields["codec"].tolist())
    for prefix, a, b in zip(
        prefixes, rows.envelope_at.tolist(), rows.envelope_end.tolist(), strict=True
    ):
        reset()
        update(prefix + window[a:b])
        add(digest())
    return _words(found)


def _words(hashes: list[bytes]) -> Words:
    return np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 4)


def _differs(one: Words, other: Words) -> Marks:
    """Which hashes are not the same."""
    return (one != other).any(axis=1)


def _judge_rows(rows: _Rows, chain: Chain, epochs: Any, past: Past) -> Marks:
    """Which events have a field that no ordinary event has in this place."""
    fields = rows.fields
    events = len(fields)
    entity_len, scope_len = fields["entity_len"], fields["scope_len"]
    hlc, time = fields["hlc"], fields["timestamp_us"]
    epoch = epochs[rows.record].astype(np.int64)
    wrong = fields["sequence"] != np.arange(chain.sequence, chain.sequence + events).astype("<u8")
    wrong |= hlc <= np.append(np.uint64(past.hlc), hlc[:-1])
    if not chain.sequence and not fields["sequence"][0]:
        # The journal's first event has none before it.
        wrong[0] = False
    wrong |= (time < np.append(np.int64(past.timestamp_us), time[:-1])) & (
        epoch == np.append(np.int64(past.timestamp_epoch), epoch[:-1])
    )
    wrong |= fields["row_version"] != ROW_VERSION
    wrong |= fields["reserved"] != 0
    wrong |= fields["flags"] > KNOWN_FLAGS
    wrong |= (entity_len == 0) | (entity_len > MAX_NAME_BYTES)
    wrong |= (scope_len == 0) | (scope_len > MAX_NAME_BYTES)
    wrong |= ~fields["event_id"].any(axis=1) | ~fields["correlation"].any(axis=1)
    wrong |= (fields["codec"] == CODEC_SALTED) & (fields["envelope_len"] < SALT_SIZE)
    return wrong


def _judge_extensions(window: bytes, rows: _Rows, are_extensions: Callable[[bytes], bool]) -> Marks:
    wrong = rows.fields["extensions_len"] != 0
    for place in np.flatnonzero(wrong).tolist():
        end = int(rows.meta_end[place])
        length = int(rows.fields["extensions_len"][place])
        wrong[place] = not are_extensions(window[end - length : end])
    return wrong


class _Entities:
    """Which entity each of some events is of, and how they link to each other."""

    def __init__(
        self, window: bytes, rows: _Rows, past: Past, is_name: Callable[[bytes], bool]
    ) -> None:
        self._rows = rows
        self._past = past
        numbers: dict[bytes, int] = {}
        number_of = numbers.setdefault
        fields = rows.fields
        names_end = rows.meta_end - fields["extensions_len"]
        both = [
            number_of(window[a:b], len(numbers))
            for a, b in zip(rows.meta_at.tolist(), names_end.tolist(), strict=True)
        ]
        # Two entities may have the same bytes together with their scopes: what the first
        # event with these bytes says of them counts here, the others are left.
        places = np.array(both, np.int64)
        first = _last_places(places[::-1], len(numbers))
        first = len(places) - 1 - first
        lengths = fields["entity_len"].astype(np.int64)
        length_of = lengths[first]
        self._odd = lengths != length_of[places]
        entities: dict[bytes, int] = {}
        scopes: dict[bytes, int] = {}
        entity_of: list[int] = []
        scope_of: list[int] = []
        bad: list[bool] = []
        for name, length in zip(numbers, length_of.tolist(), strict=True):
            entity, scope = name[:length], name[length:]
            if entity not in entities:
                entities[entity] = len(entities)
            known = entity in past.heads
            right = (known or is_name(entity)) and (scope in scopes or is_name(scope))
            scope_of.append(scopes.setdefault(scope, len(scopes)))
            entity_of.append(entities[entity])
            bad.append(not right)
        self.names: list[bytes] = list(entities)
        self.scopes: list[bytes] = list(scopes)
        self._pairs = places
        self._scope_of = np.array(scope_of, np.uint32)
        self._odd |= np.array(bad, np.bool_)[places]
        self._entity = np.array(entity_of, np.int64)[places]
        if len(entities) <= 1 << 16:
            # Short numbers are sorted by their digits.
            self._entity = self._entity.astype(np.uint16)

    def numbers(self, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Of the first `count` events: which of `names` and of `scopes` they have."""
        return self._entity[:count].astype(np.uint32), self._scope_of[self._pairs[:count]]

    def judge(self, digests: Words) -> Marks:
        """Which events do not link to their entity's previous event, or have a bad name."""
        wrong = self._odd
        past, fields = self._past, self._rows.fields
        order = np.argsort(self._entity, kind="stable")
        in_order = self._entity[order]
        follows = np.append(False, in_order[1:] == in_order[:-1])
        mine, before = order[follows], order[:-1][follows[1:]]
        clock = fields["clock"].astype(np.int64)
        links = fields["prev_hash"]
        wrong[mine] |= _differs(links[mine], digests[before])
        wrong[mine] |= clock[mine] != clock[before] + 1
        for place in order[~follows].tolist():
            head = past.heads.get(self.names[self._entity[place]])
            if head is None:
                if past.after_gap:
                    continue
                head = (0, NO_HASH)
            link = links[place].tobytes()
            wrong[place] |= clock[place] != head[0] or link != head[1]
        return wrong

    def keep(self, count: int, hashes: bytes) -> None:
        """Remember where the streams of the first `count` events end."""
        heads, clocks = self._past.heads, self._rows.fields["clock"]
        places = _last_places(self._entity[:count], len(self.names))
        for name, place in zip(self.names, places.tolist(), strict=True):
            if place >= 0:
                link = hashes[32 * place : 32 * place + 32]
                heads[name] = int(clocks[place]) + 1, link


def _last_places(numbers: NDArray[Any], count: int) -> Numbers:
    """Where each of the numbers below `count` stands last; -1 for nowhere."""
    places = np.full(count, -1, np.int64)
    # Of several values for one place the last one stays.
    places[numbers] = np.arange(len(numbers))
    return places


def foreign_places(ids: Words, hlcs: Words) -> list[int]:
    """Which of some events have an id that is not one of ours for their HLC."""
    pairs = ids.byteswap()
    low16 = hlcs & np.uint64(0xFFFF)
    high = (hlcs & np.uint64(0xFFFFFFFFFFFF0000)) | np.uint64(0x7000) | (low16 >> np.uint64(4))
    top = np.uint64(0x20) | (hlcs & np.uint64(0xF))
    own = (pairs[:, 0] == high) & (pairs[:, 1] >> np.uint64(58) == top)
    return np.flatnonzero(~own).tolist()
