"""Receipts judged offline: every reason by name, and no field that can be changed unnoticed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from blake3 import blake3

from batpak import kinds
from batpak.coordinate import Coordinate
from batpak.errors import BatpakError, ProofInvalid
from batpak.event import Event
from batpak.proof import verify_receipt
from batpak.receipt import (
    AppendReceipt,
    Invalid,
    Reason,
    ReceiptKey,
    Signed,
    UnsignedAccepted,
    keys_in_force,
)
from tests.support.small_log import (
    JOURNAL_ID,
    LATER_RECEIPTS,
    LIFECYCLE,
    RECEIPT_KEY,
    RECEIPTS,
    SmallLog,
    example,
    public,
    signed,
)

LOG = example()
AT = 3
EVENT = LOG.events[AT]
RECEIPT = LOG.receipt(AT, RECEIPTS)
UNSIGNED = LOG.receipt(AT, None)
LATER_KEY = ReceiptKey(public(LATER_RECEIPTS))


def judged(
    receipt: AppendReceipt,
    *keys: ReceiptKey,
    event: Event = EVENT,
    denial: bool = False,
) -> str:
    verdict = verify_receipt(receipt, event.row_bytes, event.metadata_bytes, keys, denial=denial)
    match verdict:
        case Signed(key_id):
            return key_id.hex()
        case UnsignedAccepted():
            return "unsigned"
        case Invalid(reason):
            return reason.value


def changed(receipt: AppendReceipt, **fields: Any) -> AppendReceipt:
    return AppendReceipt.from_json(json.dumps(json.loads(receipt.to_json()) | fields))


def test_the_signed_bytes_are_those_of_the_page() -> None:
    assert RECEIPT.signed_message == (
        b"batpak/receipt/v1\0" + JOURNAL_ID.bytes + (3).to_bytes(8, "little") + EVENT.event_hash
    )
    assert len(RECEIPT.signed_message) == 74
    assert RECEIPT_KEY.key_id == blake3(RECEIPT_KEY.public_key).digest()


@pytest.mark.proves("INV-RECEIPT-OFFLINE")
def test_a_signed_receipt_names_its_key() -> None:
    assert judged(RECEIPT, RECEIPT_KEY) == RECEIPT_KEY.key_id.hex()
    assert judged(RECEIPT, LATER_KEY, RECEIPT_KEY) == RECEIPT_KEY.key_id.hex()


def test_an_unsigned_receipt_is_accepted_where_no_key_is_asked_for() -> None:
    assert judged(UNSIGNED) == "unsigned"
    zero = changed(UNSIGNED, key_id="00" * 32)
    assert judged(zero) == "unsigned"


OTHER = "11" * 32


@pytest.mark.proves("INV-RECEIPT-OFFLINE")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": f"event:{'12' * 16}"}, Reason.EVENT_ID),
        ({"sequence": 4}, Reason.SEQUENCE),
        ({"commitment": OTHER}, Reason.CONTENT_HASH),
        ({"extensions": {}}, Reason.EXTENSIONS),
        ({"extensions": {"acme.trace": "02ff"}}, Reason.EXTENSIONS),
        ({"event_hash": OTHER}, Reason.EVENT),
        ({"prev_hash": OTHER}, Reason.EVENT),
        ({"entity": "player:eve"}, Reason.EVENT),
        ({"scope": "room:bath"}, Reason.EVENT),
        ({"kind": 0xF002}, Reason.EVENT),
        ({"hlc": 7}, Reason.EVENT),
        ({"clock": 7}, Reason.EVENT),
        ({"signature": None, "key_id": None}, Reason.UNSIGNED),
        ({"signature": None}, Reason.NO_SIGNATURE),
        ({"key_id": None}, Reason.NO_KEY),
        ({"key_id": "00" * 32}, Reason.NO_KEY),
        ({"key_id": OTHER}, Reason.UNKNOWN_KEY),
        ({"signature": "11" * 64}, Reason.SIGNATURE),
        ({"journal_id": str(uuid4())}, Reason.SIGNATURE),
    ],
)
def test_each_field_is_bound(fields: dict[str, Any], reason: Reason) -> None:
    assert judged(changed(RECEIPT, **fields), RECEIPT_KEY) == reason.value


def test_labels_that_nobody_signs_change_nothing() -> None:
    relabelled = changed(RECEIPT, durable=False, replayed=True)
    assert judged(relabelled, RECEIPT_KEY) == RECEIPT_KEY.key_id.hex()


def test_the_first_reason_in_the_order_of_the_page_is_given() -> None:
    broken = changed(
        RECEIPT, event_id=f"event:{'12' * 16}", sequence=4, commitment=OTHER, signature="11" * 64
    )
    order = [Reason.EVENT_ID, Reason.SEQUENCE, Reason.CONTENT_HASH, Reason.SIGNATURE]
    repairs: list[dict[str, Any]] = [
        {"event_id": str(RECEIPT.event_id)}, {"sequence": 3},
        {"commitment": RECEIPT.commitment.hex()}, {},
    ]  # fmt: skip
    for reason, repair in zip(order, repairs, strict=True):
        assert judged(broken, RECEIPT_KEY) == reason.value
        broken = changed(broken, **repair)


def test_codes_are_those_that_hosts_know() -> None:
    assert [reason.value for reason in Reason] == [
        "missing_committed_event", "cover_build_failed", "denial_kind_mismatch",
        "event_id_mismatch", "sequence_mismatch", "content_hash_mismatch", "extensions_mismatch",
        "event_mismatch", "unsigned_receipt_rejected", "missing_signature",
        "zero_key_with_signature", "unknown_signing_key", "invalid_signature", "key_not_in_force",
    ]  # fmt: skip


def test_an_event_that_is_not_there() -> None:
    assert verify_receipt(RECEIPT, None, b"", [RECEIPT_KEY]) == Invalid(Reason.MISSING)


@pytest.mark.parametrize(
    ("row", "metadata"),
    [
        (b"", b""),
        (EVENT.row_bytes[:-1], EVENT.metadata_bytes),
        (EVENT.row_bytes + b"\0", EVENT.metadata_bytes),
        (EVENT.row_bytes, EVENT.metadata_bytes[:-1]),
        (EVENT.row_bytes, EVENT.metadata_bytes + b"\0"),
        (EVENT.row_bytes[:98] + b"\2" + EVENT.row_bytes[99:], EVENT.metadata_bytes),
        (EVENT.row_bytes[:104] + b"\1" + EVENT.row_bytes[105:], EVENT.metadata_bytes),
        (b"\xff" * 8 + EVENT.row_bytes[8:], EVENT.metadata_bytes),
        (EVENT.row_bytes, b"\xff" + EVENT.metadata_bytes[1:]),
        (EVENT.row_bytes, b"/" + EVENT.metadata_bytes[1:]),
        (EVENT.row_bytes, EVENT.metadata_bytes[:-1] + b"\0"),
        (EVENT.row_bytes, EVENT.metadata_bytes[:-17] + b"\x81" + bytes(16)),
    ],
)
def test_bytes_that_are_no_event(row: bytes, metadata: bytes) -> None:
    verdict = verify_receipt(RECEIPT, row, metadata, [RECEIPT_KEY])
    if metadata[:-1] == EVENT.metadata_bytes[:-1] and len(metadata) == len(EVENT.metadata_bytes):
        # Another value in the extensions is an event, but not this one.
        assert verdict in (Invalid(Reason.ROW), Invalid(Reason.EXTENSIONS))
    else:
        assert verdict == Invalid(Reason.ROW)


def test_a_denials_receipt_needs_a_denial() -> None:
    log = SmallLog()
    log.append(Coordinate("door:1", "house"), {"n": 1}, kinds.SYSTEM_DENIAL)
    receipt = log.receipt(0, RECEIPTS)
    for_it = {"event": log.events[0], "denial": True}
    assert judged(receipt, RECEIPT_KEY, **for_it) == RECEIPT_KEY.key_id.hex()
    assert judged(RECEIPT, RECEIPT_KEY, denial=True) == Reason.DENIAL_KIND.value


# --- keys in force ----------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    since: int
    until: int
    holds: bool


@pytest.mark.proves("INV-RECEIPT-KEY-IN-FORCE")
@pytest.mark.parametrize(
    "at", [At(0, 4, True), At(3, 4, True), At(4, 9, False), At(0, 3, False), At(0, 0, False)]
)
def test_a_signature_counts_only_while_its_key_is_in_force(at: At) -> None:
    key = RECEIPT_KEY._replace(since=at.since, until=at.until)
    wanted = key.key_id.hex() if at.holds else Reason.NOT_IN_FORCE.value
    assert judged(RECEIPT, key) == wanted
    # A second span of the same key helps; a wrong signature is named first.
    assert judged(RECEIPT, key, RECEIPT_KEY) == key.key_id.hex()
    assert judged(changed(RECEIPT, signature="11" * 64), key) == Reason.SIGNATURE.value


@pytest.mark.proves("INV-RECEIPT-KEY-IN-FORCE")
def test_system_events_say_which_keys_are_in_force() -> None:
    assert keys_in_force(LOG.events) == [
        RECEIPT_KEY._replace(since=1, until=8),
        LATER_KEY._replace(since=9),
    ]


@pytest.mark.proves("INV-RECEIPT-KEY-IN-FORCE")
def test_a_retired_key_never_comes_again_and_a_key_is_retired_once() -> None:
    log = SmallLog()
    for call in (
        log.retire_key, log.add_key, log.add_key, log.retire_key, log.retire_key, log.add_key,
    ):  # fmt: skip
        call(RECEIPTS)
    assert keys_in_force(log.events) == [
        RECEIPT_KEY._replace(since=1, until=3),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"public_key": None}, {"public_key": "x" * 32}, {"public_key": bytes(31)},
        {"public_key": list(range(32))}, {"key_id": bytes(32)}, [1], "public_key", 7,
    ],
)  # fmt: skip
def test_a_key_event_without_its_key_is_refused(payload: Any) -> None:
    log = SmallLog()
    log.append(LIFECYCLE, payload, kinds.SYSTEM_KEY_ADDED, codec=0)
    with pytest.raises(ProofInvalid) as caught:
        keys_in_force(log.events)
    assert caught.value.reason == "key-event"


def test_key_events_out_of_order_or_without_payload_are_refused() -> None:
    with pytest.raises(ProofInvalid):
        keys_in_force(LOG.events[::-1])
    with pytest.raises(ProofInvalid):
        keys_in_force([LOG.events[1], LOG.events[1]])
    gone = Event(LOG.events[1].row_bytes, LOG.events[1].metadata_bytes, None)
    with pytest.raises(BatpakError):
        keys_in_force([gone])


def test_unknown_members_of_a_key_event_are_passed_over() -> None:
    log = SmallLog()
    log.system(
        kinds.SYSTEM_KEY_ADDED, {"label": {"a": [1, None]}, "public_key": RECEIPT_KEY.public_key}
    )
    assert keys_in_force(log.events) == [RECEIPT_KEY]


@pytest.mark.parametrize(
    "said", [{"algorithm": "ml-dsa-44"}, {"key_id": bytes(32)}, {"algorithm": None}]
)
def test_a_key_event_that_says_otherwise_of_its_key_adds_none(said: dict[str, Any]) -> None:
    log = SmallLog()
    log.system(kinds.SYSTEM_KEY_ADDED, {"public_key": RECEIPT_KEY.public_key} | said)
    assert keys_in_force(log.events) == []
    own = {"algorithm": "ed25519", "key_id": RECEIPT_KEY.key_id}
    log.system(kinds.SYSTEM_KEY_ADDED, {"public_key": RECEIPT_KEY.public_key} | own)
    assert keys_in_force(log.events) == [RECEIPT_KEY._replace(since=1)]


def test_a_receipt_signed_again_by_a_retired_key_is_no_longer_good() -> None:
    late = signed(LOG.receipt(10, None), RECEIPTS)
    keys = keys_in_force(LOG.events)
    assert judged(late, *keys, event=LOG.events[10]) == Reason.NOT_IN_FORCE.value
    assert judged(LOG.receipt(10, LATER_RECEIPTS), *keys, event=LOG.events[10]) == (
        LATER_KEY.key_id.hex()
    )
