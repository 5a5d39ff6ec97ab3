"""Receipts: plain data, there and back through JSON, equal by what they attest."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from batpak import AppendReceipt, Coordinate, EventId, EventKind, Store
from batpak.errors import BatpakError, CoordinateError, IdError, InvalidInput
from batpak.receipt import encode_extensions

HEX32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.text("abcé:;'\"\\ 😀", min_size=1, max_size=20)

PLAIN: dict[str, Any] = {
    "journal_id": "00000000-0000-0000-0000-000000000007",
    "event_id": "event:000102030405060708090a0b0c0d0e0f",
    "sequence": 5,
    "entity": "player:alice",
    "scope": "room:dungeon",
    "kind": 0xF001,
    "hlc": 1_700_000_000_000 << 16 | 3,
    "clock": 2,
    "commitment": "01" * 32,
    "event_hash": "02" * 32,
    "prev_hash": "03" * 32,
    "extensions": {"acme.trace": "ff00"},
    "durable": True,
    "replayed": False,
    "key_id": None,
    "signature": None,
}
RECEIPT = AppendReceipt.from_json(json.dumps(PLAIN))


def changed(**fields: Any) -> AppendReceipt:
    """The receipt with other values in these fields of its JSON."""
    return AppendReceipt.from_json(json.dumps(PLAIN | fields))


RECEIPTS = st.fixed_dictionaries(
    {
        "journal_id": st.uuids().map(str),
        "event_id": st.binary(min_size=16, max_size=16)
        .filter(any)
        .map(lambda raw: str(EventId.from_bytes(raw))),
        "sequence": st.integers(0, 2**63 - 1),
        "entity": NAMES,
        "scope": NAMES,
        "kind": st.integers(0, 0xFFFF),
        "hlc": st.integers(0, 2**64 - 1),
        "clock": st.integers(0, 2**32 - 1),
        "commitment": HEX32,
        "event_hash": HEX32,
        "prev_hash": HEX32,
        "extensions": st.dictionaries(
            st.sampled_from(("acme.a", "origin.source")), st.binary(max_size=20).map(bytes.hex)
        ),
        "durable": st.booleans(),
        "replayed": st.booleans(),
        "key_id": st.none() | HEX32,
        "signature": st.none() | st.binary(min_size=64, max_size=64).map(bytes.hex),
    }
)

FIELDS = (
    "journal_id", "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment",
    "event_hash", "prev_hash", "extensions", "durable", "replayed", "key_id", "signature",
)  # fmt: skip


def fields(receipt: AppendReceipt) -> dict[str, Any]:
    return {name: getattr(receipt, name) for name in FIELDS}


@given(RECEIPTS)
def test_a_receipt_comes_back_from_json_whole(plain: dict[str, Any]) -> None:
    receipt = AppendReceipt.from_json(json.dumps(plain))
    assert json.loads(receipt.to_json()) == plain
    again = AppendReceipt.from_json(receipt.to_json().encode())
    assert again == receipt
    assert fields(again) == fields(receipt)
    assert "\n" not in receipt.to_json()


def test_the_fields_of_a_receipt_are_typed() -> None:
    assert fields(RECEIPT) == {
        "journal_id": UUID(int=7),
        "event_id": EventId.from_bytes(bytes(range(16))),
        "sequence": 5,
        "coordinate": Coordinate("player:alice", "room:dungeon"),
        "kind": EventKind(0xF, 1),
        "hlc": 1_700_000_000_000 << 16 | 3,
        "clock": 2,
        "commitment": b"\x01" * 32,
        "event_hash": b"\x02" * 32,
        "prev_hash": b"\x03" * 32,
        "extensions": {"acme.trace": b"\xff\x00"},
        "durable": True,
        "replayed": False,
        "key_id": None,
        "signature": None,
    }


BROKEN: list[tuple[str, Any, type[BatpakError]]] = [
    ("journal_id", "nobody", InvalidInput),
    ("journal_id", 7, InvalidInput),
    ("event_id", "event:xyz", IdError),
    ("event_id", "correlation:000102030405060708090a0b0c0d0e0f", IdError),
    ("sequence", "5", InvalidInput),
    ("sequence", -1, InvalidInput),
    ("sequence", 2**63, InvalidInput),
    ("sequence", 1.5, InvalidInput),
    ("entity", "", CoordinateError),
    ("entity", None, InvalidInput),
    ("scope", "a/b", CoordinateError),
    ("kind", "0xF001", InvalidInput),
    ("kind", -1, InvalidInput),
    ("kind", 0x10000, InvalidInput),
    ("hlc", -1, InvalidInput),
    ("hlc", 2**64, InvalidInput),
    ("clock", -1, InvalidInput),
    ("clock", 2**32, InvalidInput),
    ("commitment", "zz" * 32, InvalidInput),
    ("commitment", "01" * 31, InvalidInput),
    ("event_hash", "02" * 33, InvalidInput),
    ("prev_hash", "", InvalidInput),
    ("extensions", {"acme.trace": "f"}, InvalidInput),
    ("extensions", ["acme.trace"], InvalidInput),
    ("durable", 1, InvalidInput),
    ("key_id", "01", InvalidInput),
    ("signature", "01" * 63, InvalidInput),
]


@pytest.mark.parametrize(("field", "value", "error"), BROKEN)
def test_what_is_no_receipt_is_refused(field: str, value: Any, error: type[BatpakError]) -> None:
    with pytest.raises(error) as caught:
        changed(**{field: value})
    assert isinstance(caught.value, InvalidInput)
    with pytest.raises(InvalidInput):
        AppendReceipt.from_json(json.dumps({k: v for k, v in PLAIN.items() if k != field}))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{", b"\xff\xfe", '{"journal_id": 1}', '{"x": "\ud800"}', '{"x":' * 2000,
        None, 5, {},
    ],
)  # fmt: skip
def test_what_is_no_json_of_a_receipt_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        AppendReceipt.from_json(text)
    assert caught.value.field == "receipt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("journal_id", "urn:uuid:{00000000-0000-0000-0000-000000000007}"),
        ("journal_id", "00000000000000000000000000000007"),
        ("journal_id", "00000000-0000-0000-0000-00000000000A"),
        ("event_id", "event:000102030405060708090A0B0C0D0E0F"),
        ("commitment", "AB" * 32),
        ("event_hash", "ab " * 32),
        ("prev_hash", " " + "ab" * 32),
        ("extensions", {"acme.trace": "FF00"}),
        ("key_id", "AB" * 32),
        ("signature", "ab\n" * 64),
    ],
)
def test_each_value_has_one_way_to_be_written(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        changed(**{field: value})
    assert caught.value.field == field
    assert "to_json" in caught.value.advice


def test_a_receipt_has_its_members_once_and_no_others() -> None:
    for text in (
        json.dumps(PLAIN | {"note": 1}),
        RECEIPT.to_json()[:-1] + ', "sequence": 5}',
        RECEIPT.to_json().replace('"acme.trace": "ff00"', '"acme.trace": "ff00", "acme.trace": ""'),
        RECEIPT.to_json().replace('"acme.trace": "ff00"', '"acme.trace": "", "acme.trace": "ff00"'),
        RECEIPT.to_json().replace('"sequence": 5', '"sequence": 5.0'),
        RECEIPT.to_json().replace('"sequence": 5', '"sequence": -0'),
        RECEIPT.to_json().replace('"sequence": 5', '"sequence": 5e0'),
    ):
        for form in (text, text.encode()):
            with pytest.raises(InvalidInput, match="not a receipt") as caught:
                AppendReceipt.from_json(form)
            assert caught.value.advice


def test_spaces_order_and_escapes_of_the_json_do_not_matter() -> None:
    backwards = json.dumps(dict(reversed(PLAIN.items())), indent=2)
    assert fields(AppendReceipt.from_json(backwards.replace("room", "r\\u006fom"))) == fields(
        RECEIPT
    )


@pytest.mark.parametrize(
    "change",
    [
        {"journal_id": str(UUID(int=8))},
        {"event_id": "event:000102030405060708090a0b0c0d0e00"},
        {"sequence": 6},
        {"entity": "player:bob"},
        {"scope": "room:tower"},
        {"kind": 0xF002},
        {"hlc": 1},
        {"clock": 3},
        {"commitment": "00" * 32},
        {"event_hash": "00" * 32},
        {"prev_hash": "00" * 32},
        {"extensions": {}},
        {"extensions": {"acme.trace": "ff01"}},
    ],
)
def test_receipts_differ_in_whatever_they_attest(change: dict[str, Any]) -> None:
    assert changed(**change) != RECEIPT


@pytest.mark.parametrize(
    "change",
    [{"durable": False}, {"replayed": True}, {"key_id": "00" * 32}, {"signature": "00" * 64}],
)
def test_how_a_copy_was_made_makes_no_difference(change: dict[str, Any]) -> None:
    assert changed(**change) == RECEIPT
    assert hash(changed(**change)) == hash(RECEIPT)
    assert len({changed(**change), RECEIPT}) == 1


def test_a_receipt_is_no_other_thing() -> None:
    assert RECEIPT.to_json() != RECEIPT
    assert RECEIPT != 5
    with pytest.raises(AttributeError):
        RECEIPT.durable = False  # type: ignore[misc]  # the refusal is the test
    assert "player:alice@room:dungeon durable" in repr(RECEIPT)
    assert RECEIPT.kind == EventKind(0xF, 1)


def test_a_receipt_travels_between_processes(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        plain = store.append(Coordinate("a", "b"), 1, kind=EventKind(1, 1))
        extended = store.append(
            Coordinate("a", "b"), 1, kind=EventKind(1, 1), extensions={"acme.a": b"1"}
        )
    for receipt in (plain, extended, RECEIPT):
        for again in (pickle.loads(pickle.dumps(receipt)), copy.deepcopy(receipt)):
            assert fields(again) == fields(receipt)


def test_extensions_are_encoded_in_the_order_of_their_names() -> None:
    one = encode_extensions({"b.x": b"2", "a.x": b"1"})
    assert one == encode_extensions({"a.x": bytearray(b"1"), "b.x": memoryview(b"2")})
    assert one == b"\x82\xa3a.x\xc4\x011\xa3b.x\xc4\x012"
    assert encode_extensions({}) == b""


@pytest.mark.parametrize("text", [5, None, {}])
def test_a_receipt_that_is_no_text_at_all_is_refused_by_name(text: Any) -> None:
    with pytest.raises(InvalidInput, match="not a receipt"):
        AppendReceipt.from_json(text)
