"""An event's row, hashes and envelope, and the values that readers hold of them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from blake3 import blake3

from batpak import canonical
from batpak.coordinate import Coordinate
from batpak.errors import (
    InvalidInput,
    KindMismatch,
    PayloadDetached,
    PayloadErased,
    PayloadUnreadable,
)
from batpak.event import (
    CODEC_ENCRYPTED,
    CODEC_PLAIN,
    CODEC_SALTED,
    ROW,
    Event,
    EventSummary,
    PayloadState,
    Position,
    Row,
    content_hash,
    decode_extensions,
    event_hash,
    hlc_of_id,
    id_of_hlc,
    open_envelope,
)
from batpak.ids import CausationId, CorrelationId, EventId
from batpak.kinds import EventKind
from batpak.payloads import isolated_registry, payload
from batpak.receipt import encode_extensions
from tests.support.records import row

EXTENSIONS = encode_extensions({"acme.a": b"\1"})
METADATA = b"lamp:1house" + EXTENSIONS
VALUE = canonical.encode({"n": 1})


def event(envelope: bytes | None = b"s" * 16 + VALUE, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "entity_len": 6, "scope_len": 5, "extensions_len": len(EXTENSIONS), "codec": 1,
        "event_id": bytes(range(16)), "correlation_id": bytes(range(1, 17)), "lane": 3,
        "causation_id": bytes(range(2, 18)), "timestamp_us": 1_500_000, "hlc": 1500 << 16 | 4,
        "clock": 9, "depth": 5, "kind": 0xF001, "payload_version": 2, "flags": 0x103,
        "content_hash": b"c" * 32, "prev_hash": b"p" * 32,
    }  # fmt: skip
    return Event(row(7, **(fields | changes)), METADATA, envelope)


def test_an_event_says_what_its_row_and_metadata_say() -> None:
    found = event()
    assert found.sequence == 7
    assert found.event_id == EventId.from_bytes(bytes(range(16)))
    assert found.correlation_id == CorrelationId.from_bytes(bytes(range(1, 17)))
    assert found.causation_id == CausationId.from_bytes(bytes(range(2, 18)))
    assert found.timestamp_us == 1_500_000
    assert found.time.isoformat() == "1970-01-01T00:00:01.500000+00:00"
    assert (found.hlc, found.clock, found.lane, found.depth) == (1500 << 16 | 4, 9, 3, 5)
    assert found.kind == EventKind.from_raw(0xF001)
    assert (found.payload_version, found.flags) == (2, 0x103)
    assert found.coordinate == Coordinate("lamp:1", "house")
    assert dict(found.extensions) == {"acme.a": b"\1"}
    assert found.has_extensions
    assert not event(extensions_len=0).has_extensions
    assert (found.commitment, found.prev_hash) == (b"c" * 32, b"p" * 32)
    assert found.row_bytes == ROW.pack(*found.row)
    assert found.metadata_bytes == METADATA
    assert found.position == Position(3, 5, 9, 1500 << 16 | 4)
    assert not found.is_root
    assert not found.is_genesis
    assert event(clock=0).is_genesis
    root = event(causation_id=bytes(16))
    assert root.is_root
    assert root.causation_id is None
    assert found.caused_by(EventId.from_bytes(bytes(range(2, 18))))
    assert not found.caused_by(found.event_id)
    assert not root.caused_by(EventId.nil())


def test_hashes_cover_what_the_format_says() -> None:
    found = event()
    assert found.event_hash == event_hash(found.row_bytes, METADATA)
    assert found.event_hash == blake3(b"batpak/event/v1\0" + found.row_bytes + METADATA).digest()
    assert content_hash(1, b"abc") == blake3(b"batpak/content/v1\0\x01abc").digest()
    assert content_hash(255, b"") == blake3(b"batpak/content/v1\0\xff").digest()
    assert found.content_hash == blake3(VALUE).digest()
    assert event(None).content_hash == bytes(32)
    assert Row.decode(found.row_bytes).metadata_len == len(METADATA)


def test_positions_are_ordered_in_one_lane_and_depth_only() -> None:
    position = Position(1, 2, 5, 0)
    assert position.precedes(Position(1, 2, 6, 0))
    assert not position.precedes(Position(1, 2, 5, 9))
    assert not position.precedes(Position(1, 2, 4, 9))
    assert not position.precedes(Position(2, 2, 6, 0))
    assert not position.precedes(Position(1, 3, 6, 0))


def test_events_are_equal_when_their_bytes_are() -> None:
    one, summary = event(), event().summary()
    assert type(summary) is EventSummary
    assert one == event()
    assert one == event(None)
    assert summary == one
    assert hash(one) == hash(summary)
    assert hash(one) != hash(event(clock=8))
    assert one != event(clock=8)
    assert one != Event(one.row_bytes, METADATA[:-1] + b"\2", None)
    assert one != 7
    assert one.__eq__(7) is NotImplemented


@pytest.mark.parametrize(
    "hlc", [0, 1, 0xFFFF, 0x10000, 1_750_000_000_000 << 16 | 0xABCD, 2**64 - 1]
)
@pytest.mark.parametrize("random58", [0, 1, 2**58 - 1])
def test_an_id_of_our_own_carries_its_clock(hlc: int, random58: int) -> None:
    made = id_of_hlc(hlc, random58)
    assert hlc_of_id(made) == hlc
    high, low = struct.unpack(">QQ", made)
    assert high >> 16 == hlc >> 16
    assert high >> 12 & 0xF == 7
    assert low >> 62 == 2
    assert low & (2**58 - 1) == random58


# --- envelopes and payloads ----------------------------------------------------------------------


def test_an_envelope_is_opened_by_its_codec() -> None:
    assert (CODEC_PLAIN, CODEC_SALTED, CODEC_ENCRYPTED) == (0, 1, 2)
    assert open_envelope(0, b"abc") == b"abc"
    assert open_envelope(1, b"s" * 16 + b"abc") == b"abc"
    for codec in (2, 3, 255):
        with pytest.raises(PayloadUnreadable) as caught:
            open_envelope(codec, b"abc")
        assert caught.value.codec == codec
    plain, salted = event(VALUE, codec=0), event()
    for found in (plain, salted):
        assert found.raw == VALUE
        assert found.value == found.payload == {"n": 1}
    assert plain.envelope == VALUE
    sealed = event(codec=2)
    for read in (lambda: sealed.raw, lambda: sealed.value, lambda: sealed.payload):
        with pytest.raises(PayloadUnreadable):
            read()


def test_a_payload_that_is_gone_says_how() -> None:
    erased = event(None)
    moved = Event(erased.row_bytes, METADATA, None, PayloadState.DETACHED)
    assert erased.payload_state is PayloadState.PRESENT
    for found, error in ((erased, PayloadErased), (moved, PayloadDetached)):
        for name in ("raw", "value", "payload"):
            with pytest.raises(error) as caught:
                getattr(found, name)
            assert caught.value.sequence == 7
        assert found.envelope is None
    assert [state.value for state in PayloadState] == ["present", "erased", "shredded", "detached"]


def test_a_registered_class_reads_its_own_kind() -> None:
    with isolated_registry():

        @payload(category=0xF, type_id=1, version=2)
        class Lit:
            n: int

        @payload(category=0xF, type_id=2)
        class Other:
            n: int

        for found in (event(), event(VALUE, codec=0), event(payload_version=0)):
            assert found.payload == Lit(n=1)
            assert found.decode(Lit) == Lit(n=1)
            assert found.route(Lit) == Lit(n=1)
            assert found.route(Other) is None
            assert found.route(int) is None
        for other, expected in ((Other, 0xF002), (int, None)):
            with pytest.raises(KindMismatch) as caught:
                event().decode(other)
            assert (caught.value.kind, caught.value.expected) == (0xF001, expected)
            assert caught.value.sequence == 7


def test_no_extensions_are_an_empty_mapping() -> None:
    assert dict(decode_extensions(b"")) == {}
    assert dict(decode_extensions(EXTENSIONS)) == {"acme.a": b"\1"}
    with pytest.raises(TypeError):
        decode_extensions(b"")["a"] = b""  # type: ignore[index]  # that is the point


@pytest.mark.parametrize("given", [5, [], None, "Lamp"])
def test_what_is_no_class_or_position_is_refused_by_name(given: Any) -> None:
    found = event()
    for call in (found.route, found.decode):
        wanted = rf"^{call.__name__}\(\) takes a payload class, not "
        with pytest.raises(InvalidInput, match=wanted) as caught:
            call(given)
        assert caught.value.field == "cls"
    with pytest.raises(InvalidInput, match="takes a Position"):
        found.position.precedes(given)
