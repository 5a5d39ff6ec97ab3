"""The tail rule, case by case, on segments in memory: what is the log, a tear, or damage.

Journals on disk meet these rules in tests/crash; here each bound of each rule is met by
bytes that a forger could write, and what recovery reads is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from batpak.event import NO_HASH, content_hash, event_hash
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.record import Chain, Invalid, Record, read_record, salt_crc
from batpak.journal.recovery import (
    Tail,
    Witness,
    first_chain,
    judge_tail,
    last_nonzero,
    look_beyond,
    walk,
)
from tests.support.records import SALT, SALT_STATE, Forged, row

HEADER = SegmentHeader.decode(
    SegmentHeader(b"j" * 16, 0, 1, SALT, NO_HASH, 1).encode(), "some file"
)
ENVELOPE = b"payload!"


@dataclass
class Built:
    """A segment: its records one after the other, and where each begins."""

    data: bytes
    places: list[int]
    ends: list[int]


def build(*records: dict[str, object]) -> Built:
    """Records that follow one another; each dict changes one, or `pad=True` makes it a pad."""
    data, places, ends = HEADER.encode(), [], []
    chain, previous, clock = first_chain(HEADER), NO_HASH, 0
    for changes in records:
        changes = dict(changes)
        forged = Forged(
            rows=(), metadata=b"", body=b"", offset=chain.offset, prev_crc=chain.prev_crc,
            sequence=chain.sequence, durable=0, epoch=chain.epoch, type=2,
        )  # fmt: skip
        if not changes.pop("pad", False):
            one = row(
                chain.sequence, envelope_len=8, clock=clock,
                prev_hash=changes.pop("prev_hash", previous),
                content_hash=changes.pop("content_hash", content_hash(0, ENVELOPE)),
            )  # fmt: skip
            forged = forged.but(rows=(one,), metadata=b"es", body=ENVELOPE, type=1)
            previous, clock = event_hash(one, b"es"), clock + 1
        forged = forged.but(**changes)
        places.append(len(data))
        data += forged.data
        ends.append(len(data))
        found = read_record(
            lambda offset, length, whole=data: whole[offset : offset + length], len(data), chain,
            SALT_STATE,
        )  # fmt: skip
        assert isinstance(found, Record), found
        chain = found.chain
    return Built(data, places, ends)


def judge(
    data: bytes,
    *witnesses: Witness,
    start: Chain | None = None,
    known: dict[bytes, bytes] | None = None,
) -> tuple[Tail, list[int]]:
    accepted: list[int] = []
    heads = dict(known or {})

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    def apply(record: Record) -> None:
        accepted.append(record.offset)
        for event in record.events(read):
            heads[event.entity] = event_hash(event.row_bytes, event.metadata)

    tail = judge_tail(
        read, len(data), HEADER, start or first_chain(HEADER), witnesses, apply,
        lambda entity: heads.get(entity, NO_HASH),
    )  # fmt: skip
    return tail, accepted


def read_from(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def test_the_state_before_the_first_record_is_the_header_s() -> None:
    assert first_chain(HEADER) == Chain(HEADER_SIZE, 0, HEADER.crc, 1)
    assert salt_crc(HEADER.salt) == SALT_STATE


def test_a_whole_log_is_accepted_and_nothing_behind_it_is_garbage() -> None:
    built = build({}, {}, {})
    tail, accepted = judge(built.data)
    assert accepted == built.places
    assert tail.end.offset == tail.garbage_end == len(built.data)
    assert tail.end.sequence == 3
    assert tail.problem == Invalid(len(built.data), "end-of-file", 64, 0)
    assert tail.durable == Witness(0, "none")
    assert not tail.lost
    assert tail.max_epoch == 1
    chain, problem = walk(read_from(built.data), len(built.data), first_chain(HEADER), SALT_STATE,
                          lambda record: None)  # fmt: skip
    assert (chain, problem) == (tail.end, tail.problem)


# --- below D, at D, past D ---------------------------------------------------------------------


def damaged_body(built: Built, which: int) -> bytes:
    data = bytearray(built.data)
    data[built.ends[which] - 1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(("durable", "kept"), [(0, 1), (1, 1), (2, 3), (3, 3)])
def test_a_bad_body_is_a_finding_below_d_and_a_tear_from_it_on(durable: int, kept: int) -> None:
    built = build({}, {}, {})
    tail, accepted = judge(damaged_body(built, 1), Witness(durable, "w"))
    assert accepted == built.places[:kept]
    assert tail.end.sequence == kept
    if kept == 1:
        assert tail.problem.reason == "body-crc"
        assert tail.problem.offset == built.places[1] == tail.end.offset
    assert tail.lost == (durable > kept)
    assert tail.garbage_end == len(built.data)


def test_a_record_behind_a_damaged_one_can_tell_that_those_before_it_were_durable() -> None:
    """What was in doubt then belongs to the log: its damage is met by whoever reads it."""
    built = build({}, {}, {}, {"durable": 2})
    data = bytearray(damaged_body(built, 1))
    data[built.places[2]] ^= 1
    tail, accepted = judge(bytes(data))
    assert tail.durable == Witness(2, f"record at {built.places[3]}")
    assert accepted == built.places[:2]
    assert tail.end.sequence == 2
    assert tail.problem.offset == built.places[2]
    assert tail.readopt_from == built.places[2]
    assert not tail.lost


@pytest.mark.parametrize("field", ["content_hash", "prev_hash"])
@pytest.mark.parametrize("durable", [1, 2])
def test_past_d_hashes_have_to_match_and_below_it_they_are_verify_s(
    field: str, durable: int
) -> None:
    wrong = b"w" * 32
    built = build({}, {field: wrong})
    tail, accepted = judge(built.data, Witness(durable, "w"))
    assert accepted == built.places[:durable]
    if durable == 1:
        good = content_hash(0, ENVELOPE).hex() if field == "content_hash" else None
        assert tail.problem.offset == built.places[1]
        assert tail.problem.reason == field.replace("_", "-")
        if good is not None:
            assert tail.problem.expected == wrong.hex()
        else:
            assert tail.problem.found == wrong.hex()
            assert tail.problem.expected != wrong.hex()
        assert tail.end.sequence == 1


def test_a_chain_is_followed_inside_of_one_record() -> None:
    first = row(0, envelope_len=8, content_hash=content_hash(0, ENVELOPE))
    link = event_hash(first, b"es")
    for prev_hash, kept in ((link, 1), (NO_HASH, 0)):
        second = row(
            1, envelope_len=8, clock=1, prev_hash=prev_hash,
            content_hash=content_hash(0, ENVELOPE),
        )  # fmt: skip
        batch = Forged(
            rows=(first, second), metadata=b"eses", body=ENVELOPE * 2, prev_crc=HEADER.crc,
            sequence=0, durable=0, epoch=1,
        )  # fmt: skip
        tail, accepted = judge(HEADER.encode() + batch.data)
        assert len(accepted) == kept
        assert tail.end.sequence == 2 * kept


def test_a_record_knows_of_those_before_it() -> None:
    built = build({}, {}, {"durable": 2})
    tail, accepted = judge(damaged_body(built, 1))
    assert tail.durable == Witness(2, f"record at {built.places[2]}")
    assert accepted == built.places
    # A lesser bound does not take the place of a greater one.
    tail, _ = judge(built.data, Witness(3, "hint"))
    assert tail.durable == Witness(3, "hint")
    assert tail.readopt_from == built.ends[2]


@pytest.mark.parametrize(("durable", "proven"), [(0, -1), (1, 0), (2, 1), (3, 2)])
def test_what_is_not_wholly_below_d_is_adopted_anew(durable: int, proven: int) -> None:
    built = build({}, {}, {})
    tail, _ = judge(built.data, Witness(durable, "w"))
    assert tail.readopt_from == ([*built.ends, HEADER_SIZE][proven])


@pytest.mark.parametrize(("durable", "proven"), [(1, 0), (2, 2)])
def test_a_pad_at_d_is_not_below_it(durable: int, proven: int) -> None:
    built = build({}, {"pad": True}, {})
    tail, accepted = judge(built.data, Witness(durable, "w"))
    assert accepted == built.places
    assert tail.readopt_from == built.ends[proven]


@pytest.mark.parametrize(("durable", "from_start"), [(0, False), (1, True), (2, True)])
def test_a_start_that_is_not_known_durable_is_adopted_from_the_header(
    durable: int, from_start: bool
) -> None:
    built = build({}, {})
    found = read_record(read_from(built.data), len(built.data), first_chain(HEADER), SALT_STATE)
    assert isinstance(found, Record)
    (event,) = found.events(read_from(built.data))
    known = {b"e": event_hash(event.row_bytes, event.metadata)}
    tail, accepted = judge(built.data, Witness(durable, "sidecar"), start=found.chain, known=known)
    assert tail.end.sequence == 2
    wanted = HEADER_SIZE if not from_start else built.ends[durable - 1]
    assert tail.readopt_from == wanted
    if durable == 2:
        assert accepted == built.places[1:]


def test_events_that_a_witness_knows_of_and_nobody_has_are_lost() -> None:
    built = build({}, {})
    for durable, lost in ((2, False), (3, True)):
        tail, accepted = judge(built.data, Witness(1, "a"), Witness(durable, "b"))
        assert (tail.lost, len(accepted)) == (lost, 2)
        assert tail.durable == Witness(durable, "b")


# --- behind the invalid position ---------------------------------------------------------------


def torn(built: Built, which: int) -> bytes:
    """The head of one record damaged: the walk ends before it."""
    data = bytearray(built.data)
    data[built.places[which] + 70] ^= 1
    return bytes(data)


def test_a_later_record_vouches_for_a_torn_one() -> None:
    built = build({}, {}, {"durable": 2})
    data = torn(built, 1)
    tail, accepted = judge(data)
    assert accepted == built.places[:1]
    assert tail.problem == Invalid(built.places[1], "head-crc")
    assert tail.durable == Witness(2, f"record at {built.places[2]}")
    assert tail.lost
    # Its head need not be intact, its own header has to be.
    headless = bytearray(data)
    headless[built.places[2] + 70] ^= 1
    assert judge(bytes(headless))[0].lost
    headerless = bytearray(data)
    headerless[built.places[2] + 20] ^= 1
    tail, _ = judge(bytes(headerless))
    assert not tail.lost
    assert tail.garbage_end == len(data)


def header_at(place: int, **changes: object) -> bytes:
    """A file with nothing but a right record header at `place`."""
    forged = Forged(rows=(), metadata=b"", body=b"", type=2, offset=place, durable=0)
    return bytes(place) + forged.but(**changes).data


FAR = 128 + 176 * 4


@pytest.mark.parametrize(
    ("place", "changes", "durable"),
    [
        (FAR, {"sequence": 12, "durable": 9}, 9),
        (FAR, {"sequence": 14, "durable": 14}, 14),
        (FAR, {"sequence": 15, "durable": 9}, 0),  # more events than bytes for rows
        (FAR, {"sequence": 10, "durable": 10}, 10),
        (FAR, {"sequence": 9, "durable": 9}, 0),  # before what is expected
        (FAR, {"sequence": 12, "durable": 13}, 0),  # vouches for itself
        (FAR - 8, {"sequence": 13, "durable": 9}, 9),
        (FAR - 8, {"sequence": 14, "durable": 9}, 0),
        (FAR + 4, {"sequence": 12, "durable": 9}, 0),  # not at a multiple of 8
        (FAR, {"sequence": 12, "durable": 9, "header_crc": 1}, 0),
        (128, {"sequence": 10, "durable": 10}, 0),  # the invalid position itself
    ],
)
def test_only_a_believable_header_is_a_witness(
    place: int, changes: dict[str, object], durable: int
) -> None:
    data = header_at(place, **changes)
    found, _ = look_beyond(read_from(data), len(data), 128, 10, SALT_STATE)
    assert found == Witness(durable, f"record at {place}" if durable else "none")


def test_the_epoch_of_any_right_header_counts_the_discarded_ones_too() -> None:
    first = header_at(256, sequence=999, durable=0, epoch=9)
    second = Forged(
        rows=(), metadata=b"", body=b"", type=2, offset=512, sequence=1, durable=0, epoch=4
    )
    data = first + bytes(512 - len(first)) + second.data
    best, epoch = look_beyond(read_from(data), len(data), 128, 1, SALT_STATE)
    assert (best.durable, epoch) == (0, 9)
    # Also that of the header at the invalid position.
    at_once = header_at(128, epoch=7)
    assert look_beyond(read_from(at_once), len(at_once), 128, 1, SALT_STATE)[1] == 7
    built = build({}, {"epoch": 3}, {"epoch": 5})
    assert judge(torn(built, 1))[0].max_epoch == 5
    assert judge(built.data)[0].max_epoch == 5
    assert judge(torn(built, 2))[0].max_epoch == 5


def test_of_several_witnesses_the_greatest_counts() -> None:
    places = (256, 512, 768)
    data = bytearray(1024)
    for place, durable in zip(places, (1, 2, 1), strict=True):
        one = Forged(
            rows=(), metadata=b"", body=b"", type=2, offset=place, sequence=2, durable=durable
        )
        data[place : place + 64] = one.data
    found, _ = look_beyond(read_from(bytes(data)), len(data), 128, 2, SALT_STATE)
    assert found == Witness(2, "record at 512")


WINDOW = 8 << 20


@pytest.mark.parametrize("place", [WINDOW + 128 - 64, WINDOW + 128 - 8, WINDOW + 128, WINDOW + 136])
def test_a_header_across_the_border_of_two_windows_is_found(place: int) -> None:
    data = header_at(place, sequence=3, durable=2)
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(offset + length)
        return data[offset : offset + length]

    assert look_beyond(read, len(data), 128, 1, SALT_STATE)[0] == Witness(2, f"record at {place}")
    assert len(asked) <= 2
    assert max(asked) == len(data), "nothing is asked for behind the end"


def test_a_file_that_shrinks_while_it_is_searched_ends_the_search() -> None:
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(offset)
        return b""

    assert look_beyond(read, 10 * WINDOW, 128, 1, SALT_STATE) == (Witness(0, "none"), 0)
    assert asked == [128]


# --- the end of what is not zero ---------------------------------------------------------------


@pytest.mark.parametrize("end", [128, 129, 1000, WINDOW, WINDOW + 127, WINDOW + 128, WINDOW + 129])
def test_the_last_byte_that_is_not_zero_is_found(end: int) -> None:
    size = 2 * WINDOW + 200
    data = bytearray(size)
    data[100] = 1  # before the offset
    if end > 128:
        data[end - 1] = 7
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return bytes(data[offset : offset + length])

    assert last_nonzero(read, size, 128) == end
    assert all(offset >= 128 for offset, _ in asked)
    assert sum(length for _, length in asked) <= size - 128, "no byte is read twice"


def test_a_file_of_no_length_has_no_last_byte() -> None:
    assert last_nonzero(lambda offset, length: b"", 128, 128) == 128
    assert last_nonzero(lambda offset, length: b"\1" * length, 129, 128) == 129


def test_more_records_than_are_held_are_read_again_and_applied_once() -> None:
    """Past 8,192 records without a bound only places are kept."""
    from batpak.journal import recovery

    built = build(*({"pad": True} for _ in range(recovery._HELD_RECORDS + 3)))  # pyright: ignore[reportPrivateUsage]  # the bound itself
    tail, accepted = judge(built.data)
    assert accepted == built.places
    assert tail.end.offset == len(built.data)
    tail, accepted = judge(built.data, Witness(1, "w"))
    assert accepted == built.places
    assert tail.readopt_from == built.ends[-1]
