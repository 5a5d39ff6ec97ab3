"""Signed receipts: made when asked, for durable events, by keys that the journal names."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from batpak import AppendReceipt, Denial, DenialReceipt, Durability, EventKind, Store, canonical
from batpak.engine.system import LIFECYCLE
from batpak.errors import InvalidInput, KeyNotInForce, StoreClosed
from batpak.ids import EventId
from batpak.journal.commits import Prepared
from batpak.kinds import SYSTEM_KEY_ADDED
from batpak.receipt import Invalid, Reason, ReceiptKey, Signed, UnsignedAccepted
from batpak.signing import SigningKey
from tests.support.proofs import LATER, LOG, RECEIPTS, SAID, THIEF, WHERE, open_signed, say


class CountingKey:
    """A signer as a device would be one, which counts."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.signed = 0
        self.before_sync: list[int] = []

    @property
    def public_key(self) -> bytes:
        return self._key.public_key

    def sign(self, message: bytes) -> bytes:
        self.signed += 1
        return self._key.sign(message)


def changed(receipt: AppendReceipt, **fields: Any) -> AppendReceipt:
    import json

    return AppendReceipt.from_json(json.dumps(json.loads(receipt.to_json()) | fields))


@pytest.mark.proves("INV-NO-SIGNATURE-IN-APPEND")
def test_no_append_makes_a_signature(tmp_path: Path) -> None:
    key, log = CountingKey(RECEIPTS), CountingKey(LOG)
    with open_signed(tmp_path / "j", signing_keys=(key,), checkpoint_key=log) as store:
        receipts = say(store, 50)
        store.append(WHERE, {"n": 1}, kind=SAID, durable=True)
        with store.fence() as fence:
            fence.append(WHERE, {"n": 2}, kind=SAID)
        store.submit(WHERE, {"n": 3}, kind=SAID).result()
        store.sync()
        assert (key.signed, log.signed) == (0, 0)
        store.sign(receipts[0])
        assert (key.signed, log.signed) == (1, 0)
        store.checkpoint()
        assert (key.signed, log.signed) == (1, 1)


@pytest.mark.proves("INV-SIGNATURE-MEANS-DURABLE")
def test_a_signature_is_made_for_a_durable_event_only(tmp_path: Path) -> None:
    class Watching(CountingKey):
        def sign(self, message: bytes) -> bytes:
            self.before_sync.append(store.frontier().durable.sequence)
            return super().sign(message)

    key = Watching(RECEIPTS)
    with open_signed(tmp_path / "j", signing_keys=(key,)) as store:
        receipt = say(store, 3)[-1]
        assert not receipt.durable
        signed = store.sign(receipt)
    assert signed.durable
    assert key.before_sync == [receipt.sequence + 1]


def test_a_signed_receipt_goes_through_json_and_verifies_in_every_store(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        signed = store.sign(say(store)[0])
        back = AppendReceipt.from_json(signed.to_json())
        assert back == signed
        assert (back != signed) is False
        assert (back.key_id, back.signature) == (RECEIPTS.key_id, signed.signature)
        assert store.verify_receipt(back) == Signed(RECEIPTS.key_id)
    with Store.open(tmp_path / "j", mode="r") as reader:
        assert reader.verify_receipt(back, require_signed=True) == Signed(RECEIPTS.key_id)
    with Store.open(tmp_path / "j") as store:
        assert store.verify_receipt(back) == Signed(RECEIPTS.key_id)


def test_an_unsigned_receipt_is_taken_unless_signatures_are_asked_for(tmp_path: Path) -> None:
    refused = Invalid(Reason.UNSIGNED)
    with Store.open(tmp_path / "plain") as store:
        receipt = say(store)[0]
        assert store.verify_receipt(receipt) == UnsignedAccepted()
        assert store.verify_receipt(receipt, require_signed=True) == refused
    with open_signed(tmp_path / "j", require_signing=True) as store:
        receipt = say(store)[0]
        assert store.verify_receipt(receipt) == refused
        assert store.verify_receipt(receipt, require_signed=False) == UnsignedAccepted()


REASONS: dict[str, tuple[dict[str, Any], Reason]] = {
    "an id that is not there": ({"event_id": str(EventId.from_bytes(b"x" * 16))}, Reason.MISSING),
    "another sequence": ({"sequence": 0}, Reason.SEQUENCE),
    "another content": ({"commitment": "00" * 32}, Reason.CONTENT_HASH),
    "another extension": ({"extensions": {"acme.x": "00"}}, Reason.EXTENSIONS),
    "another entity": ({"entity": "agent:2"}, Reason.EVENT),
    "another kind": ({"kind": 0xF002}, Reason.EVENT),
    "another hash": ({"event_hash": "00" * 32}, Reason.EVENT),
    "another predecessor": ({"prev_hash": "00" * 32}, Reason.EVENT),
    "another journal": ({"journal_id": "00000000-0000-4000-8000-000000000000"}, Reason.MISSING),
    "no signature": ({"signature": None}, Reason.NO_SIGNATURE),
    "no key": ({"key_id": None}, Reason.NO_KEY),
    "an unknown key": ({"key_id": THIEF.key_id.hex()}, Reason.UNKNOWN_KEY),
    "another signature": ({"signature": "00" * 64}, Reason.SIGNATURE),
}


@pytest.mark.parametrize("name", REASONS)
def test_each_lie_of_a_receipt_has_its_reason(tmp_path: Path, name: str) -> None:
    fields, reason = REASONS[name]
    with open_signed(tmp_path / "j") as store:
        signed = store.sign(say(store, 2)[1])
        assert store.verify_receipt(changed(signed, **fields)) == Invalid(reason)
        assert store.verify_receipt(signed) == Signed(RECEIPTS.key_id)


def wire(receipt: AppendReceipt, payload: bytes, **others: Any) -> dict[str, Any]:
    """A receipt as the plain fields that a wire carries."""
    fields = {
        "event_id": receipt.event_id,
        "sequence": receipt.sequence,
        "content_hash": blake3(payload).digest(),
        "extensions": dict(receipt.extensions),
        "key_id": receipt.key_id,
        "signature": receipt.signature,
    }
    return {**fields, **others}


WIRE_REASONS: dict[str, tuple[dict[str, Any], Reason]] = {
    "an id that is not there": ({"event_id": EventId.from_bytes(b"x" * 16)}, Reason.MISSING),
    "another sequence": ({"sequence": 0}, Reason.SEQUENCE),
    "another content": ({"content_hash": bytes(32)}, Reason.CONTENT_HASH),
    "an extension more": ({"extensions": {"acme.x": b""}}, Reason.EXTENSIONS),
    "no signature": ({"signature": None}, Reason.NO_SIGNATURE),
    "no key": ({"key_id": bytes(32)}, Reason.NO_KEY),
    "an unknown key": ({"key_id": THIEF.key_id}, Reason.UNKNOWN_KEY),
    "another signature": ({"signature": bytes(64)}, Reason.SIGNATURE),
}


def test_plain_fields_of_a_receipt_are_judged_like_it(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        signed = store.sign(say(store, 2)[1])
        payload = store.get(signed.event_id).raw
        verdict = store.verify_receipt_fields(**wire(signed, payload))
        assert verdict == Signed(RECEIPTS.key_id)
        assert (verdict.is_valid, verdict.is_signed) == (True, True)
        for name, (lie, reason) in WIRE_REASONS.items():
            verdict = store.verify_receipt_fields(**wire(signed, payload, **lie))
            assert verdict == Invalid(reason), name
            assert (verdict.is_valid, verdict.is_signed) == (False, False)
        unsigned = wire(signed, payload, key_id=bytes(32), signature=None)
        verdict = store.verify_receipt_fields(**unsigned)
        assert verdict == UnsignedAccepted()
        assert (verdict.is_valid, verdict.is_signed) == (True, False)
        refused = store.verify_receipt_fields(**unsigned, require_signed=True)
        assert refused == Invalid(Reason.UNSIGNED)
        denied = store.verify_receipt_fields(**wire(signed, payload), denial=True)
        assert denied == Invalid(Reason.DENIAL_KIND)
        # Erased, the payload's hash is zeros on every wire; the receipt is as good as before.
        store.erase([signed.event_id], reason="asked for")
        gone = wire(signed, payload, content_hash=bytes(32))
        assert store.verify_receipt_fields(**gone) == Signed(RECEIPTS.key_id)
        assert store.verify_receipt_fields(**wire(signed, payload)) == Invalid(Reason.CONTENT_HASH)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "x"), ("sequence", True), ("sequence", "1"), ("content_hash", b"short"),
        ("content_hash", None), ("key_id", b""), ("signature", bytes(63)), ("signature", "00"),
    ],
)  # fmt: skip
def test_fields_that_no_receipt_can_have_are_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    with open_signed(tmp_path / "j") as store:
        fields = wire(say(store)[0], b"", **{field: value})
        with pytest.raises(InvalidInput) as caught:
            store.verify_receipt_fields(**fields)
        assert caught.value.field == field


def test_a_denial_is_asked_for_by_kind(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = say(store)[0]
        assert store.verify_receipt(receipt, denial=True) == Invalid(Reason.DENIAL_KIND)


def test_the_receipt_of_a_denial_is_good_for_a_denial_only(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        receipt = store.deny(WHERE, EventKind(0xF, 1), Denial("gate", "no"))
        assert isinstance(receipt, DenialReceipt)
        signed = store.sign(receipt)
        assert isinstance(signed, DenialReceipt)
        assert store.verify_receipt(signed, denial=True) == Signed(RECEIPTS.key_id)
        # From its JSON, pickled, and shown in a bundle it is one again.
        for again in (
            AppendReceipt.from_json(signed.to_json()),
            DenialReceipt.from_json(signed.to_json()),
            pickle.loads(pickle.dumps(signed)),
        ):
            assert type(again) is DenialReceipt
            assert again == signed
            assert store.verify_receipt(again) == Signed(RECEIPTS.key_id)
        assert repr(signed).startswith("<DenialReceipt ")
        # An append's receipt that is passed off as a denial's is caught by its type alone.
        other = say(store)[0]
        assert type(other) is AppendReceipt
        forged = DenialReceipt(*(getattr(other, name) for name in other.__struct_fields__))
        assert store.verify_receipt(forged) == Invalid(Reason.DENIAL_KIND)
        with pytest.raises(InvalidInput) as caught:
            DenialReceipt.from_json(other.to_json())
        assert caught.value.field == "kind"


def test_the_last_key_signs_and_all_verify(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path) as store:
        first = store.sign(say(store)[0])
    with open_signed(path, signing_keys=(RECEIPTS, LATER)) as store:
        second = store.sign(say(store)[0])
        # The later key was not in force for the older event, the earlier one was.
        again = store.sign(store.verify_receipt(first) and first)
        assert (first.key_id, second.key_id) == (RECEIPTS.key_id, LATER.key_id)
        assert again.key_id == RECEIPTS.key_id
        for receipt in (first, second, again):
            assert store.verify_receipt(receipt) == Signed(receipt.key_id or b"")
        spans = store.signing_keys()
        assert [span.key_id for span in spans] == [RECEIPTS.key_id, LATER.key_id]
        assert spans[0].since < spans[1].since


def test_keys_are_introduced_once_by_an_event_each(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for _ in range(3):
        with open_signed(path, signing_keys=(RECEIPTS, LATER)) as store:
            kinds = [str(event.kind) for event in store]
    assert kinds.count("0x0015") == 2
    with Store.open(path) as store:
        added = [event for event in store if str(event.kind) == "0x0015"]
        assert [event.value["key_id"] for event in added] == [RECEIPTS.key_id, LATER.key_id]
        assert [event.value["public_key"] for event in added] == [
            RECEIPTS.public_key, LATER.public_key,
        ]  # fmt: skip
        assert not store.open_report.cut


@pytest.mark.proves("INV-RETIRED-KEY-STAYS-RETIRED")
def test_a_retired_key_counts_for_what_came_before_and_never_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path, signing_keys=(RECEIPTS, LATER)) as store:
        before = say(store)[0]
        signed = store.sign(before)
        store.retire_key(LATER.key_id, reason="lost")
        after = say(store)[0]
        assert store.verify_receipt(signed) == Signed(LATER.key_id)
        assert store.sign(after).key_id == RECEIPTS.key_id
        # Whoever has the key makes a right signature, which does not count.
        stolen = after.signed_with(LATER.key_id, LATER.sign(after.signed_message))
        assert store.verify_receipt(stolen) == Invalid(Reason.NOT_IN_FORCE)
        span = store.signing_keys()[1]
        assert span.until is not None
        assert before.sequence < span.until < after.sequence
        assert span.as_receipt_key == ReceiptKey(LATER.public_key, span.since, span.until)
        with pytest.raises(InvalidInput, match="already") as told:
            store.retire_key(LATER.key_id)
        assert f"batpak keys list {path}" in told.value.advice
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(InvalidInput, match="retired") as refused:
        open_signed(path, signing_keys=(RECEIPTS, LATER))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert (refused.value.field, refused.value.value) == ("signing_keys", LATER.key_id.hex())
    with open_signed(path) as store:
        assert store.verify_receipt(stolen) == Invalid(Reason.NOT_IN_FORCE)
        assert store.verify().ok


@pytest.mark.parametrize("key_id", [LATER.key_id.hex(), None, 5, [1], bytearray(LATER.key_id)])
def test_a_key_is_retired_by_the_bytes_of_its_id(tmp_path: Path, key_id: object) -> None:
    with open_signed(tmp_path / "j") as store:
        before = len(store)
        with pytest.raises(InvalidInput, match="a key id is 32 bytes") as refused:
            store.retire_key(key_id)  # type: ignore[arg-type]  # ill-typed on purpose
        assert "fromhex" in (refused.value.advice or "")
        assert len(store) == before


@pytest.mark.parametrize(
    "told",
    [
        {"key_id": RECEIPTS.key_id, "algorithm": "ed25519", "public_key": RECEIPTS.public_key},
        {"key_id": THIEF.key_id, "algorithm": "ed448", "public_key": THIEF.public_key},
        {"key_id": THIEF.key_id, "public_key": THIEF.public_key},
        {"key_id": LATER.key_id, "algorithm": "ed25519", "public_key": THIEF.public_key},
        {"key_id": THIEF.key_id, "algorithm": "ed25519", "public_key": THIEF.public_key[:31]},
        {"key_id": THIEF.key_id, "algorithm": "ed25519", "public_key": "x" * 32},
        {"key_id": THIEF.key_id, "algorithm": "ed25519"},
    ],
    ids=["known", "algorithm", "no algorithm", "other key's id", "short", "text", "no key"],
)
def test_an_event_that_adds_no_key_this_version_can_read_changes_nothing(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    event = Prepared.of(LIFECYCLE, SYSTEM_KEY_ADDED.raw, 1, 0, canonical.encode(told))
    with open_signed(tmp_path / "j") as store:
        before = store.signing_keys()
        store._writer.commit([event])
        assert store.signing_keys() == before


def test_events_from_before_a_key_can_not_be_signed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Store.open(path) as store:
        old = say(store)[0]
        with pytest.raises(KeyNotInForce) as caught:
            store.sign(old)
        assert caught.value.sequence == old.sequence
    with Store.open(path, signing_keys=(RECEIPTS,)) as store:
        with pytest.raises(KeyNotInForce):
            store.sign(old)
        forged = old.signed_with(RECEIPTS.key_id, RECEIPTS.sign(old.signed_message))
        assert store.verify_receipt(forged) == Invalid(Reason.NOT_IN_FORCE)


def test_a_receipt_of_something_else_is_not_signed(tmp_path: Path) -> None:
    with open_signed(tmp_path / "a") as one, open_signed(tmp_path / "b") as other:
        mine, foreign = say(one)[0], say(other)[0]
        lies = [
            foreign,
            changed(mine, event_hash="00" * 32),
            changed(mine, entity="agent:9"),
            changed(mine, sequence=0),
            changed(mine, sequence=1 << 40),
        ]
        for lie in lies:
            with pytest.raises(InvalidInput) as caught:
                one.sign(lie)
            assert caught.value.field == "receipt"
    with pytest.raises(StoreClosed):
        one.sign(mine)


def test_a_store_that_can_not_write_its_keys_does_not_stay_open(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with open_signed(path, signing_keys=(RECEIPTS, LATER)) as store:
        store.retire_key(LATER.key_id)
    with pytest.raises(InvalidInput):
        open_signed(path, signing_keys=(LATER,))
    # The lock is free, which it would not be if that store still lived.
    with open_signed(path, durability=Durability.SYNC) as store:
        assert len(store.signing_keys()) == 2


def test_spans_are_plain_values(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        span = store.signing_keys()[0]
    assert span.covers(span.since)
    assert not span.covers(span.since - 1)
    ended = dataclasses.replace(span, until=span.since + 5)
    assert ended.covers(span.since + 4)
    assert not ended.covers(span.since + 5)
