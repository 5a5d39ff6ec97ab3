"""The decoders of a journal's files, each by itself: bytes in memory, no directory."""

from __future__ import annotations

from batpak.engine.manifest import Manifest
from batpak.errors import Damaged, FutureFormat, JournalCorrupt, UnsupportedFeature
from batpak.event import NO_HASH, event_hash
from batpak.index.mapped import MappedPart
from batpak.index.query import Query
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.hint import HINT_SIZE, Hint
from batpak.journal.identity import Identity
from batpak.journal.keyfile import KEY_HEADER_SIZE, KeyHeader
from batpak.journal.layout import parse_segment_name, segment_name
from batpak.journal.record import (
    RECORD_HEADER_SIZE,
    Chain,
    Invalid,
    Record,
    check_body,
    decode_header,
    read_record,
    salt_crc,
    seal_commit,
)
from batpak.journal.recovery import (
    Tail,
    Witness,
    first_chain,
    judge_tail,
    last_nonzero,
    look_beyond,
    walk,
)
from batpak.journal.sidecar import (
    ARRAYS,
    array_of,
    decode_sidecar_header,
    encode_sidecar,
    sidecar_bytes,
)
from tests.fuzz.mending import (
    mend_hint,
    mend_key_table,
    mend_manifest,
    mend_segment,
    mend_segment_header,
    mend_sidecar,
)
from tests.fuzz.target import target


class Bytes:
    """A file in memory that counts what is asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0, "nothing stands before a file"
        assert length >= 0, "no length is negative"
        self.asked += length
        return self.data[offset : offset + length]


def mended(data: bytes) -> bytes:
    """A segment after the first byte of an input, which says how much of it is mended."""
    mode, segment = data[0] & 3, data[1:]
    if mode == 0:
        return segment
    return mend_segment(segment, links=mode > 1, hashes=mode > 2)


def rebuilt(record: Record, body: bytes, state: int) -> bytes:
    """The record's bytes as the encoder makes them from what was decoded."""
    header = record.header
    return seal_commit(
        state, record.offset, record.head, body, header.prev_crc, header.base_sequence,
        header.durable, header.epoch, header.events, header.flags, header.type,
    )[0]  # fmt: skip


@target(max_bytes=8192)
def records(data: bytes) -> None:
    """Each record of a segment is refused with a reason, or encodes back to its own bytes.

    Its events lie inside of it, in order, and name their parts; it ends inside of the
    file, the walk moves on, and no more than the file is ever asked for. No exception.
    """
    if len(data) < 1 + HEADER_SIZE:
        return
    segment = mended(data)
    state = salt_crc(segment[64:80])
    chain = Chain(
        HEADER_SIZE,
        int.from_bytes(segment[32:40], "little"),
        int.from_bytes(segment[124:128], "little"),
        int.from_bytes(segment[112:116], "little"),
    )
    while True:
        file = Bytes(segment)
        record = read_record(file.read, len(segment), chain, state)
        assert file.asked <= max(4096, len(segment)), "more is asked for than there is"
        if isinstance(record, Invalid):
            assert record.offset == chain.offset
            assert record.reason
            return
        assert chain.offset < record.end <= len(segment)
        assert len(record.rows) == record.header.events == record.next_sequence - chain.sequence
        header = decode_header(
            segment[record.offset : record.offset + RECORD_HEADER_SIZE], record.offset, state
        )
        assert header == record.header
        body = segment[record.body_offset : record.end]
        if check_body(record, body, state) is None:
            assert rebuilt(record, body, state) == segment[record.offset : record.end]
            inside(record, segment)
        chain = record.chain


def inside(record: Record, segment: bytes) -> None:
    """Every part of every event stands in its section, after the one before it."""
    envelope_at = record.body_offset
    metadata_at = record.offset + RECORD_HEADER_SIZE + 176 * len(record.rows)
    events = list(record.events(Bytes(segment).read))
    assert [e.row for e in events] == record.rows
    for event in events:
        assert event.row_bytes == segment[event.row_offset : event.row_offset + 176]
        assert event.metadata_offset == metadata_at
        metadata_at += len(event.metadata)
        assert event.metadata == segment[event.metadata_offset : metadata_at]
        assert (event.entity + event.scope) == event.metadata[: len(event.entity + event.scope)]
        assert len(event.entity) == event.row.entity_len
        if event.envelope_offset:
            assert event.envelope_offset >= envelope_at
            assert event.stored_len == event.row.envelope_len
            envelope_at = event.envelope_offset + event.stored_len
    assert metadata_at <= record.body_offset
    assert envelope_at <= record.end


@target(max_bytes=512)
def segment_header(data: bytes) -> None:
    """JournalCorrupt, FutureFormat or UnsupportedFeature, each naming the file, or a header
    that encodes back to the same 128 bytes.
    """
    if not data:
        return
    header = mend_segment_header(data[1:]) if data[0] & 1 else data[1:]
    try:
        found = SegmentHeader.decode(header, "some file")
    except (JournalCorrupt, FutureFormat, UnsupportedFeature) as error:
        assert error.file == "some file"
        return
    assert found.encode() == header[:HEADER_SIZE]
    assert found.refuses_writing() == found.read_only_compatible


@target(max_bytes=256)
def tail_hint(data: bytes) -> None:
    """None, or a hint that encodes back to the same 64 bytes. No exception."""
    if not data:
        return
    hint = mend_hint(data[1:]) if data[0] & 1 else data[1:]
    found = Hint.decode(hint)
    if found is not None:
        assert found.encode() == hint[:HINT_SIZE]


@target(max_bytes=1024)
def key_header(data: bytes) -> None:
    """None, or the header of a key table that encodes back to the same 128 bytes."""
    if not data:
        return
    file = mend_key_table(data[1:]) if data[0] & 1 else data[1:]
    found = KeyHeader.decode(file)
    if found is not None:
        assert found.encode() == file[:KEY_HEADER_SIZE]


@target(max_bytes=8192)
def identity(data: bytes) -> None:
    """FutureFormat or Damaged, naming the file, or an identity that is itself again after
    being written and read, and that accepts its own segments and its ancestors'.
    """
    try:
        found = Identity.decode(data, "journal.json")
    except Damaged as error:
        assert error.file == "journal.json"
        return
    assert Identity.decode(found.encode(), "journal.json") == found
    assert found.accepts(found.journal_id.bytes, 2**63 - 1)
    for ancestor in found.lineage:
        assert ancestor.until < 1 or found.accepts(ancestor.journal_id.bytes, ancestor.until - 1)


@target(max_bytes=8192)
def manifest(data: bytes) -> None:
    """FutureFormat or SnapshotDamaged, naming the file, or a manifest that encodes back to the
    very bytes and names only files that a snapshot may hold. The first byte says whether its
    check is mended, which a forger would do.
    """
    if not data:
        return
    text = mend_manifest(data[1:]) if data[0] & 1 else data[1:]
    try:
        found = Manifest.decode(text, "manifest.json")
    except Damaged as error:
        assert error.file == "manifest.json"
        return
    assert found.encode() == text
    assert found.events > 0
    for entry in found.files:
        assert entry.size >= 0
        parts = entry.path.split("/")
        assert ".." not in parts
        assert len(parts) <= 2
        assert not entry.path.startswith("/")


@target(max_bytes=64)
def segment_names(data: bytes) -> None:
    """None, or a base whose file name is the very text. No exception."""
    text = data.decode("utf-8", "surrogateescape")
    base = parse_segment_name(text)
    if base is not None:
        assert segment_name(base) == text


@target(max_bytes=8192)
def recovery(data: bytes) -> None:
    """The tail rule judges any bytes: a log that ends inside of the file, and why there.

    What it accepts is dense and proves itself; cutting the file there and judging again
    accepts the same, finds no more to cut and loses nothing; a plain walk accepts no less.
    No exception, and never more memory than the file.
    """
    if len(data) < 3 + HEADER_SIZE:
        return
    bound = int.from_bytes(data[:2], "little")
    segment = mended(data[2:])
    try:
        header = SegmentHeader.decode(segment, "some file")
    except Damaged:
        return
    witnesses = [Witness(bound, "input")] if bound else []
    first = judged(segment, header, witnesses)
    tail, accepted = first
    assert HEADER_SIZE <= tail.end.offset <= tail.garbage_end <= len(segment)
    assert HEADER_SIZE <= tail.readopt_from <= max(tail.end.offset, HEADER_SIZE)
    assert tail.end.sequence == header.base_sequence + len(accepted)
    assert tail.durable.durable >= bound
    assert tail.problem.offset >= tail.end.offset
    assert segment[: tail.garbage_end].rstrip(b"\0")[tail.end.offset :] == segment[
        tail.end.offset :
    ].rstrip(b"\0"), "what is not zero is garbage"

    whole: list[bytes] = []
    state = salt_crc(header.salt)
    walked, _ = walk(
        Bytes(segment).read,
        len(segment),
        first_chain(header),
        state,
        lambda record: whole.extend(e.row_bytes for e in record.events(Bytes(segment).read)),
    )
    assert walked.offset >= tail.end.offset
    assert whole[: len(accepted)] == accepted
    assert last_nonzero(Bytes(segment).read, len(segment), 0) == len(segment.rstrip(b"\0"))
    beyond, _ = look_beyond(
        Bytes(segment).read, len(segment), walked.offset, walked.sequence, state
    )
    assert beyond.durable <= tail.durable.durable

    if not tail.lost:
        cut = segment[: tail.end.offset]
        again, kept = judged(cut, header, [Witness(tail.durable.durable, "before")])
        assert kept == accepted
        assert again.end == tail.end
        assert again.garbage_end == again.end.offset
        assert not again.lost


def judged(
    segment: bytes, header: SegmentHeader, witnesses: list[Witness]
) -> tuple[Tail, list[bytes]]:
    """judge_tail over bytes: what it says, and the rows it accepted."""
    accepted: list[bytes] = []
    heads: dict[bytes, bytes] = {}
    file = Bytes(segment)

    def apply(record: Record) -> None:
        for event in record.events(file.read):
            accepted.append(event.row_bytes)
            heads[event.entity] = event_hash(event.row_bytes, event.metadata)

    tail = judge_tail(
        file.read,
        len(segment),
        header,
        first_chain(header),
        witnesses,
        apply,
        lambda entity: heads.get(entity, NO_HASH),
    )
    return tail, accepted


QUERIES = (
    Query(),
    Query(entity=b"lamp"),
    Query(scope=b"house"),
    Query(kinds=(0, 0xFFFF)),
    Query(entity=b"lamp:k\xc3\xbcche", clock=(0, 3)),
    Query(clock=(1, 2)),
)


@target(max_bytes=8192)
def sidecar(data: bytes) -> None:
    """A sidecar is none, or contradicts itself by JournalCorrupt, or answers every question.

    Its header encodes back to the same bytes. No question about a row of it, a name, an id
    or a region raises anything else, answers with a row that it does not have, or takes
    memory out of proportion to the file.
    """
    if not data:
        return
    file = mend_sidecar(data[1:]) if data[0] & 1 else data[1:]
    header = decode_sidecar_header(file)
    if header is None or len(file) < sidecar_bytes(header):
        return
    view = memoryview(file)
    arrays = {name: array_of(header, view, name) for name in ARRAYS}
    if all(array is not None for array in arrays.values()):
        again = encode_sidecar(
            header, {name: bytes(a) for name, a in arrays.items() if a is not None}
        )
        assert again[:124] == file[:124]
    part = MappedPart.of(header, file, lambda offset, length: bytes(length))
    if part is None:
        return
    n = header.count
    try:
        for i in {0, n - 1}:
            digest, *offsets = part.locate(i)
            assert len(digest) == 32
            assert all(0 <= offset < 2**32 for offset in offsets)
            assert part.find_hlc(i, n) in (None, *range(n))
        assert len(part.located(0, n)[0]) == 32 * n
        assert part.first_hlc is not None
        assert part.find_hlc(part.first_hlc, n) in (None, *range(n))
        assert len(part.foreign_entries()) % 24 == 0
        for event_id in (bytes(16), b"\xff" * 16, bytes(range(16))):
            assert part.find_foreign(event_id, n) in (None, *range(n))
        for entity in (b"", b"lamp:1", b"\xff", b"batpak:store"):
            assert part.last_of(entity, n) in (None, *range(n))
        for query in QUERIES:
            rows = part.select(query, 0, n).tolist()
            assert all(0 <= row < n for row in rows)
            assert all(
                len(column) == len(rows) for column in part.offsets(part.select(query, 0, n))
            )
        part.tally(n)
        part.columns()
    except JournalCorrupt as error:
        assert error.reason == "sidecar"
