"""Bundles: what each check says, how every way of cheating ends, and what a hostile text does."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batpak import kinds
from batpak.bundle import MAX_BUNDLE_LENGTH, Bundle, ShownEvent
from batpak.errors import ProofInvalid
from batpak.event import CODEC_PLAIN, ROW, Event
from batpak.proof import Check, Policy, Verdict, verify_bundle, verify_chain
from batpak.proof.notes import Checkpoint, Note
from batpak.receipt import ReceiptKey
from batpak.signing import SigningKey
from batpak.tlog.signing import sign_note
from tests.support.small_log import (
    LATER_RECEIPTS,
    LOG,
    LOG_KEY,
    MOVED,
    ORIGIN,
    POLICY,
    RECEIPT_KEY,
    RECEIPTS,
    WITNESS_KEYS,
    SmallLog,
    example,
    public,
)
from tools import verify_bundle as second

HISTORY = example()
ROOM = Path(__file__).resolve().parents[2] / "src" / "batpak" / "proof"
Answers = dict[tuple[str, int | None], bool | None]


def verdict_of(
    text: str | bytes,
    *keys: ReceiptKey,
    policy: Policy = POLICY,
) -> Verdict:
    """The verdict, on which the second opinion agrees check by check."""
    verdict = verify_bundle(text, keys, policy)
    log, *witnesses = (second.read_key(str(key)) for key in (policy.log, *policy.witnesses))
    other = second.judge(
        text.encode() if isinstance(text, str) else text,
        log,
        origin=policy.origin,
        witnesses=witnesses,
        threshold=policy.threshold,
        keys=[second.Span(*key) for key in keys],
    )
    assert [(c.name, c.held, c.sequence) for c in verdict.checks] == list(other)
    return verdict


def answers(text: str | bytes, *keys: ReceiptKey, policy: Policy = POLICY) -> Answers:
    checks = verdict_of(text, *keys, policy=policy).checks
    return {(check.name, check.sequence): check.held for check in checks}


def failures(text: str | bytes, *keys: ReceiptKey, policy: Policy = POLICY) -> list[str]:
    found = verdict_of(text, *keys, policy=policy)
    names = sorted({check.name for check in found.checks if check.held is False})
    assert found.ok == (not names)
    return names


def edited(bundle: Bundle, edit: Callable[[dict[str, Any]], object]) -> str:
    plain = json.loads(bundle.to_json())
    edit(plain)
    return json.dumps(plain, ensure_ascii=False)


# --- what a good bundle shows -----------------------------------------------------------------


@pytest.mark.proves("INV-BUNDLE-VERIFIES")
def test_a_full_bundle_shows_everything() -> None:
    bundle = HISTORY.bundle(3, 2, earlier=5, key_events=(1, 5))
    found = answers(bundle.to_json(), RECEIPT_KEY)
    assert found == {
        ("form", None): True,
        ("checkpoint", None): True,
        ("witnesses", None): True,
        ("consistency", None): True,
        ("inclusion", None): True,
        ("chain", None): None,
        ("key-event", 1): True,
        ("key-event", 5): True,
        **{
            (name, at): True
            for at in (3, 4)
            for name in ("content", "receipt", "key-added", "key-not-retired")
        },
    }


def test_a_bare_bundle_says_what_it_does_not_show() -> None:
    bundle = HISTORY.bundle(3, private=None, withhold=True, witnesses=())
    found = answers(bundle.to_json(), policy=Policy(LOG_KEY))
    assert {name for (name, _), held in found.items() if held} == {
        "form",
        "checkpoint",
        "inclusion",
    }
    assert {name for (name, _), held in found.items() if held is None} == {
        "witnesses", "consistency", "chain", "content", "receipt",
    }  # fmt: skip


@pytest.mark.proves("INV-BUNDLE-VERIFIES")
def test_every_run_of_events_is_proved_by_one_proof() -> None:
    size = len(HISTORY.events)
    for first in range(size):
        for count in range(1, size - first + 1):
            text = HISTORY.bundle(first, count, private=None).to_json()
            found = answers(text)
            assert found["inclusion", None] is True
            assert False not in found.values()


def test_a_run_links_the_events_of_an_entity() -> None:
    assert answers(HISTORY.bundle(2, 3).to_json(), RECEIPT_KEY)["chain", None] is True
    assert verify_chain(HISTORY.events) is True
    assert verify_chain(HISTORY.events[:1]) is None
    without = [event for event in HISTORY.events if event.sequence != 4]
    assert verify_chain(without) is False


def test_the_journal_vouches_for_its_own_keys_where_none_is_given() -> None:
    text = HISTORY.bundle(3, key_events=(1,)).to_json()
    found = answers(text)
    assert found["receipt", 3] is True
    assert found["key-added", 3] is True
    assert found["key-not-retired", 3] is None  # what came between is not shown
    assert answers(HISTORY.bundle(3).to_json())["receipt", 3] is None


@pytest.mark.proves("INV-BUNDLE-ERASED")
@pytest.mark.parametrize("state", ["withheld", "erased", "shredded", "detached"])
def test_everything_but_the_content_holds_without_the_payload(state: str) -> None:
    bundle = HISTORY.bundle(2, 3, key_events=(1, 5))

    def take_away(plain: dict[str, Any]) -> None:
        for shown in plain["events"]:
            shown |= {"payload_state": state, "envelope": None}

    before = answers(bundle.to_json(), RECEIPT_KEY)
    after = answers(edited(bundle, take_away), RECEIPT_KEY)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {("content", at) for at in (2, 3, 4)}
    assert {after[key] for key in differing} == {None}


def test_the_ciphertext_of_a_shredded_payload_may_be_shown() -> None:
    bundle = HISTORY.bundle(3)
    text = edited(bundle, lambda p: p["events"][0].update(payload_state="shredded"))
    assert answers(text, RECEIPT_KEY)["content", 3] is True


def test_a_bundle_is_written_as_it_is_read() -> None:
    bundle = HISTORY.bundle(3, 2, earlier=5, key_events=(1, 5))
    assert Bundle.parse(bundle.to_json()) == bundle
    assert Bundle.parse(bundle.to_json().encode()) == bundle
    assert Bundle.parse(json.dumps(json.loads(bundle.to_json()), indent=2)) == bundle
    opened = [shown.open() for shown in bundle.events]
    assert opened == HISTORY.events[3:5]
    assert bundle.events[0].open_receipt() == HISTORY.receipt(3, RECEIPTS)


# --- cheating, by name ------------------------------------------------------------------------


def flip(text: str, at: int = 0) -> str:
    return text[:at] + f"{int(text[at], 16) ^ 1:x}" + text[at + 1 :]


def row_field(offset: int) -> Callable[[dict[str, Any]], None]:
    def edit(plain: dict[str, Any]) -> None:
        plain["events"][0]["row"] = flip(plain["events"][0]["row"], 2 * offset + 1)

    return edit


FULL = HISTORY.bundle(3, 2, earlier=5, key_events=(1, 5))


@pytest.mark.proves("INV-BUNDLE-TAMPERING")
@pytest.mark.parametrize(
    ("offset", "failed"),
    [
        (0, ["inclusion", "receipt"]),  # sequence
        (8, ["inclusion", "receipt"]),  # event_id
        (24, ["inclusion", "receipt"]),  # correlation_id
        (40, ["inclusion", "receipt"]),  # causation_id
        (56, ["inclusion", "receipt"]),  # timestamp_us
        (64, ["inclusion", "receipt"]),  # hlc
        (72, ["inclusion", "receipt"]),  # clock
        (76, ["inclusion", "receipt"]),  # lane
        (80, ["inclusion", "receipt"]),  # depth
        (84, ["form"]),  # extensions_len
        (88, ["inclusion", "receipt"]),  # kind
        (90, ["inclusion", "receipt"]),  # payload_version
        (92, ["inclusion", "receipt"]),  # flags
        (94, ["form"]),  # entity_len
        (96, ["form"]),  # scope_len
        (98, ["form"]),  # row_version
        (99, ["content", "inclusion", "receipt"]),  # codec
        (100, ["content", "inclusion", "receipt"]),  # envelope_len
        (104, ["form"]),  # zero
        (112, ["content", "inclusion", "receipt"]),  # content_hash
        (144, ["inclusion", "receipt"]),  # prev_hash
    ],
)
def test_each_field_of_a_row_is_bound(offset: int, failed: list[str]) -> None:
    assert failures(edited(FULL, row_field(offset)), RECEIPT_KEY) == failed


def swap(plain: dict[str, Any]) -> None:
    plain["events"].reverse()


def splice(plain: dict[str, Any]) -> None:
    """An event of another journal at the same sequence."""
    other = SmallLog()
    for _ in range(4):
        other.append(HISTORY.events[3].coordinate, {"forged": True})
    shown: ShownEvent = ShownEvent.of(other.events[3])
    plain["events"][0] = msgspec.to_builtins(shown)


def other_checkpoint(plain: dict[str, Any]) -> None:
    """The journal made anew, with all hashes right, and signed by another key."""
    forged = SmallLog()
    for event in HISTORY.events:
        forged.append(event.coordinate, {"forged": True}, event.kind)
    text = str(Checkpoint(ORIGIN, 14, forged.root(14)))
    plain["checkpoint"] = str(
        Note(text, (sign_note(text, ORIGIN, SigningKey.from_seed(b"\x99" * 32).private),))
    )


def entity(plain: dict[str, Any]) -> None:
    plain["events"][0]["entity"] = "player:eve"


def moved_border(plain: dict[str, Any]) -> None:
    """The same bytes, divided elsewhere into entity and scope."""
    shown = plain["events"][0]
    shown["entity"], shown["scope"] = shown["entity"] + shown["scope"][0], shown["scope"][1:]


CHEATS: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "payload": (
        lambda p: p["events"][0].update(envelope=flip(p["events"][0]["envelope"], 40)), ["content"],
    ),
    "payload, longer": (
        lambda p: p["events"][0].update(envelope=p["events"][0]["envelope"] + "00"), ["content"],
    ),
    "entity": (entity, ["inclusion", "receipt"]),
    "scope": (
        lambda p: p["events"][0].update(scope="room:kuechE"), ["inclusion", "receipt"],
    ),
    "border of entity and scope": (moved_border, ["form"]),
    "extensions": (
        lambda p: p["events"][0].update(extensions=flip(p["events"][0]["extensions"], 31)),
        ["inclusion", "receipt"],
    ),
    "reordered": (swap, ["inclusion"]),
    "left out in the middle": (lambda p: p["events"].pop(0), ["inclusion"]),
    "duplicated": (lambda p: p["events"].append(p["events"][1]), ["chain", "inclusion"]),
    "spliced from another journal": (splice, ["inclusion"]),
    "inclusion proof": (
        lambda p: p["inclusion"].__setitem__(0, flip(p["inclusion"][0])), ["inclusion"],
    ),
    "inclusion proof, shorter": (lambda p: p["inclusion"].pop(), ["inclusion"]),
    "inclusion proof, longer": (lambda p: p["inclusion"].append("00" * 32), ["inclusion"]),
    "rewritten journal": (
        other_checkpoint, ["checkpoint", "consistency", "inclusion", "key-event"],
    ),
    "checkpoint of another size": (
        lambda p: p.update(checkpoint=HISTORY.checkpoint(9, "w1.example", "w2.example")),
        ["consistency", "inclusion", "key-event"],
    ),
    "older checkpoint, truncated history": (
        lambda p: p.update(earlier=HISTORY.checkpoint(9)), ["consistency"],
    ),
    "consistency proof": (
        lambda p: p["consistency"].__setitem__(0, flip(p["consistency"][0])), ["consistency"],
    ),
    "older checkpoint, not signed": (
        lambda p: p.update(earlier=p["earlier"].replace("\n5\n", "\n4\n")), ["consistency"],
    ),
    "stripped signature": (
        lambda p: p["events"][0]["receipt"].update(signature=None), ["receipt"],
    ),
    "stripped signature and key": (
        lambda p: p["events"][0]["receipt"].update(signature=None, key_id=None), ["receipt"],
    ),
    "receipt of another event": (
        lambda p: p["events"][0].update(receipt=p["events"][1]["receipt"]), ["receipt"],
    ),
    "cosignatures stripped": (
        lambda p: p.update(checkpoint=HISTORY.checkpoint(14)), ["witnesses"],
    ),
    "one cosignature stripped": (
        lambda p: p.update(checkpoint=HISTORY.checkpoint(14, "w2.example")), ["witnesses"],
    ),
    "key event that is not in the tree": (
        lambda p: p["key_events"][0].update(inclusion=[]), ["key-event"],
    ),
    "key events out of order": (lambda p: p["key_events"].reverse(), ["form"]),
    "key event twice": (lambda p: p["key_events"].append(p["key_events"][1]), ["form"]),
    "key event of a user": (
        lambda p: p["key_events"].__setitem__(
            1, msgspec.to_builtins(HISTORY.key_event(6, 14))
        ),
        ["key-event"],
    ),
}  # fmt: skip


@pytest.mark.proves("INV-BUNDLE-TAMPERING")
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_is_caught_by_name(cheat: str) -> None:
    edit, failed = CHEATS[cheat]
    assert failures(edited(FULL, edit), RECEIPT_KEY) == failed


def test_the_bundle_that_is_cheated_with_is_good() -> None:
    assert failures(FULL.to_json(), RECEIPT_KEY) == []


def test_a_fork_that_the_log_itself_signed_is_caught_by_witnesses_only() -> None:
    fork = SmallLog()
    for event in HISTORY.events:
        fork.append(event.coordinate, {"forged": True}, MOVED)
    text = fork.bundle(3, private=None, witnesses=()).to_json()
    assert failures(text, policy=Policy(LOG_KEY)) == []
    assert failures(text) == ["witnesses"]


def test_witnesses_are_counted_by_key_and_only_yours() -> None:
    text = FULL.to_json()
    first, second_key, third = WITNESS_KEYS
    for witnesses, threshold, failed in (
        ((first, third), 2, []),
        ((first, second_key), 1, []),
        ((first, second_key), 2, ["witnesses"]),
        ((second_key,), 1, ["witnesses"]),
        ((), 0, []),
        ((), 1, ["witnesses"]),
    ):
        policy = Policy(LOG_KEY, witnesses, threshold)
        assert failures(text, RECEIPT_KEY, policy=policy) == failed


def test_a_policy_that_asks_for_less_than_no_witness_holds_nothing() -> None:
    verdict = verify_bundle(FULL.to_json(), [RECEIPT_KEY], Policy(LOG_KEY, (), -1))
    (failed, *_) = [check for check in verdict.checks if check.held is False]
    assert failed == Check("checkpoint", False, "a policy asks for 0 witnesses or more")
    assert "witnesses" not in {check.name for check in verdict.checks}


# --- cheating, byte by byte -------------------------------------------------------------------


NEXT = {"0": "1", "f": "e", "a": "b", "z": "y", "A": "B", "Z": "Y"}


def variants(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one thing in it changed to another of its sort, and what that is called."""
    if isinstance(value, dict):
        for name, inner in value.items():
            for place, other in variants(f"{path}.{name}" if path else name, inner):
                yield place, value | {name: other}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for place, other in variants(f"{path}[]", inner):
                yield place, [*value[:at], other, *value[at + 1 :]]
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int):
        yield path, value + 1
    elif path.endswith("payload_state"):
        yield from ((path, state) for state in ("withheld", "shredded", "erased"))
    elif isinstance(value, str) and value:
        text, is_note, _ = value.partition("\n\n")
        step = max(1, len(value) // (20 if is_note else 3))
        for at in {*range(0, len(value), step), len(value) - 1}:
            place = path
            if is_note and at > len(text):
                line = value[:at].rpartition("\n")[2]
                place += ": signature" if line.startswith(f"— {ORIGIN} ") else ": cosignature"
            yield place, value[:at] + NEXT.get(value[at], "0") + value[at + 1 :]


def places_that_pass(bundle: Bundle, *keys: ReceiptKey, policy: Policy) -> set[str]:
    plain = json.loads(bundle.to_json())
    assert failures(json.dumps(plain), *keys, policy=policy) == []
    return {
        place
        for place, other in variants("", plain)
        if other != plain and not failures(json.dumps(other), *keys, policy=policy)
    }


TOLD = {"events[].payload_state", "events[].receipt.durable", "events[].receipt.replayed"}
OF_THE_KEY_EVENT = {"key_events[].payload_state"}


@pytest.mark.proves("INV-BUNDLE-TAMPERING")
def test_only_what_nobody_vouches_for_can_be_changed() -> None:
    """The list is the one of docs/proofs.md, "What a bundle does not show"."""
    everybody = Policy(LOG_KEY, WITNESS_KEYS, 2)
    # Signed, cosigned, and all keys at hand: nothing but what is told.
    full = HISTORY.bundle(3, earlier=5, key_events=(1, 5))
    found = places_that_pass(full, RECEIPT_KEY, policy=everybody)
    assert found == TOLD | OF_THE_KEY_EVENT
    # Unsigned: nobody says of which journal the receipt is.
    unsigned = full_with_unsigned_receipt()
    found = places_that_pass(unsigned, policy=everybody)
    assert found == TOLD | {"events[].receipt.journal_id"}
    # Cosigned by witnesses that nobody asks for.
    found = places_that_pass(unsigned, policy=Policy(LOG_KEY))
    assert found == TOLD | {"events[].receipt.journal_id", "checkpoint: cosignature"}
    # Signed by a key that is neither given nor shown: as good as unsigned.
    found = places_that_pass(HISTORY.bundle(3), policy=everybody)
    signed = {f"events[].receipt.{name}" for name in ("journal_id", "key_id", "signature")}
    assert found == TOLD | signed


def full_with_unsigned_receipt() -> Bundle:
    bundle = HISTORY.bundle(3, private=None)
    (shown,) = bundle.events
    receipt = json.loads(HISTORY.receipt(3, None).to_json())
    return msgspec.structs.replace(bundle, events=[msgspec.structs.replace(shown, receipt=receipt)])


def test_another_origin_is_another_log() -> None:
    policy = Policy(LOG_KEY, origin="example.com/other")
    assert failures(FULL.to_json(), RECEIPT_KEY, policy=policy) == [
        "checkpoint", "consistency", "inclusion", "key-event",
    ]  # fmt: skip


@pytest.mark.proves("INV-RECEIPT-KEY-IN-FORCE")
@pytest.mark.proves("INV-RECEIPT-KEY-IN-FORCE")
def test_a_retired_key_that_was_added_again_is_good_for_nothing_new() -> None:
    log = SmallLog()
    shown = [log.add_key(RECEIPTS), log.retire_key(RECEIPTS), log.add_key(RECEIPTS)]
    at = log.append(HISTORY.events[3].coordinate, {"n": 1}).sequence
    shown.append(log.system(kinds.SYSTEM_OPEN_COMPLETED, {}))
    text = log.bundle(at, key_events=tuple([event.sequence for event in shown])).to_json()
    assert failures(text) == ["receipt"]
    assert failures(text, RECEIPT_KEY) == ["key-added"]


def test_backdating_with_a_retired_key_is_caught_by_the_key_events() -> None:
    """Retired at 8: a receipt of 10 that the old key signs is worth nothing."""
    late = HISTORY.bundle(10, private=RECEIPTS, key_events=(1, 5, 8))
    assert failures(late.to_json()) == ["receipt"]
    # Whoever trusts the key by itself learns of its retirement from the same events.
    assert failures(late.to_json(), RECEIPT_KEY) == ["key-added"]
    # Left out, the retirement is missed, and the verdict says that it may be.
    hidden = answers(HISTORY.bundle(10, private=RECEIPTS, key_events=(1, 5)).to_json())
    assert hidden["key-added", 10] is True
    assert hidden["key-not-retired", 10] is None
    gap = answers(HISTORY.bundle(10, private=RECEIPTS, key_events=(1, 5, 12)).to_json())
    assert gap["key-not-retired", 10] is None
    early = HISTORY.bundle(3, private=LATER_RECEIPTS, key_events=(9, 12))
    assert failures(early.to_json()) == ["receipt"]
    good = answers(HISTORY.bundle(10, private=LATER_RECEIPTS, key_events=(9, 12)).to_json())
    assert good["key-not-retired", 10] is True


def test_a_key_that_nobody_added_is_unknown() -> None:
    stolen = SigningKey.from_seed(b"\x55" * 32).private
    text = HISTORY.bundle(3, private=stolen, key_events=(1, 5)).to_json()
    assert failures(text) == ["receipt"]
    assert failures(text, RECEIPT_KEY) == ["receipt"]
    # The auditor who trusts it anyway is told that the journal does not know it.
    assert answers(text, ReceiptKey(public(stolen)))["key-added", 3] is None


def test_a_user_can_not_add_a_key() -> None:
    log = example()
    payload = {"public_key": RECEIPT_KEY.public_key}
    log.append(HISTORY.events[3].coordinate, payload, HISTORY.events[1].kind, codec=CODEC_PLAIN)
    text = log.bundle(3, key_events=(14,)).to_json()
    assert "key-event" in failures(text)


# --- hostile texts ----------------------------------------------------------------------------


GOOD = FULL.to_json()
PLAIN = json.loads(GOOD)


def with_member(name: str, value: Any) -> str:
    return json.dumps(PLAIN | {name: value})


HOSTILE: dict[str, str | bytes] = {
    "nothing": "",
    "no object": "[]",
    "no member": "{}",
    "null": "null",
    "cut": GOOD[:-1],
    "more behind it": GOOD + "{}",
    "not UTF-8": GOOD.encode().replace("ü".encode(), b"\xfc"),
    "UTF-16": GOOD.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "half of a surrogate pair": GOOD.replace("player:bob", "player:\\ud800"),
    "deep": "[" * 100_000,
    "deep and closed": "[" * 100_000 + "]" * 100_000,
    "deep inside": GOOD.replace('"earlier":"', '"earlier":' + "[" * 5_000 + '"'),
    "a huge integer": with_member("earlier", 1).replace(
        '"earlier": 1', f'"earlier": 1{"0" * 9999}'
    ),
    "a huge integer in a receipt": GOOD.replace('"sequence":3', f'"sequence":3{"0" * 30}'),
    "a float": GOOD.replace('"sequence":3', '"sequence":3.0'),
    "an exponent": GOOD.replace('"sequence":3', '"sequence":3e0'),
    "not a number": GOOD.replace('"sequence":3', '"sequence":NaN'),
    "true for one": GOOD.replace('"clock":0', '"clock":false'),
    "a name twice": GOOD.replace('{"format":', '{"earlier":null,"format":'),
    "a name twice, deep": GOOD.replace('"durable":true', '"durable":true,"durable":true'),
    "an unknown name": with_member("more", 1),
    "an unknown name in an event": GOOD.replace('{"row":', '{"more":1,"row":'),
    "an unknown name in a receipt": GOOD.replace('"durable":true', '"durable":true,"more":1'),
    "a name left out": json.dumps({k: v for k, v in PLAIN.items() if k != "inclusion"}),
    "no format": json.dumps({k: v for k, v in PLAIN.items() if k != "format"}),
    "another format": with_member("format", "batpak/bundle/v2"),
    "no events": with_member("events", []),
    "events that are none": with_member("events", [1]),
    "null for events": with_member("events", None),
    "a proof that is a text": with_member("inclusion", "00" * 32),
    "a hash that is too short": with_member("inclusion", ["00" * 31]),
    "a hash in capitals": with_member("inclusion", ["AB" * 32]),
    "a hash with a space": with_member("inclusion", ["ab" * 31 + "a b"]),
    "a hash with a newline": with_member("inclusion", ["ab" * 32 + "\n"]),
    "half a byte": GOOD.replace('"envelope":"', '"envelope":"0'),
    "a row of one byte": edited(FULL, lambda p: p["events"][0].update(row="00")),
    "a consistency proof from nothing": json.dumps(
        {k: v for k, v in PLAIN.items() if k != "earlier"}
    ),
    "present, and not there": edited(FULL, lambda p: p["events"][0].update(envelope=None)),
    "erased, and there": edited(FULL, lambda p: p["events"][0].update(payload_state="erased")),
    "an unknown state": edited(FULL, lambda p: p["events"][0].update(payload_state="lost")),
    "a receipt in capitals": GOOD.replace("6f1e2d3c-4b5a", "6F1E2D3C-4B5A"),
    "a receipt with spaces in hex": GOOD.replace('"prev_hash":"', '"prev_hash":" '),
    "an event id without its prefix": GOOD.replace('"event_id":"event:', '"event_id":"'),
    "a number below 0": GOOD.replace('"clock":0', '"clock":-1'),
    "a zero with a sign": GOOD.replace('"clock":0', '"clock":-0'),
    "an hlc beyond 64 bits": edited(FULL, lambda p: p["events"][0]["receipt"].update(hlc=2**64)),
    "an empty receipt of a key event": edited(
        FULL, lambda p: p["key_events"][0].update(receipt={})
    ),
    "a receipt of a key event that says more": edited(
        FULL,
        lambda p: p["key_events"][0].update(
            receipt=p["events"][0]["receipt"] | {"says": "payment approved"}
        ),
    ),
    "a receipt of a key event with half a signature": edited(
        FULL,
        lambda p: p["key_events"][0].update(
            receipt=p["events"][0]["receipt"] | {"signature": "zz"}
        ),
    ),
    "an entity with a slash": GOOD.replace("player:bob", "player/bob"),
    "a key event without its payload": edited(
        FULL, lambda p: p["key_events"][0].update(envelope=None, payload_state="withheld")
    ),
}


@pytest.mark.proves("INV-BUNDLE-HOSTILE")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_by_both_verifiers(name: str) -> None:
    assert failures(HOSTILE[name], RECEIPT_KEY) == ["form"]


@pytest.mark.proves("INV-BUNDLE-HOSTILE")
@pytest.mark.parametrize("number", ["-0", "-1", str(2**64), "9" * 20, "9" * 21])
def test_no_number_of_a_bundle_may_be_signed_or_beyond_64_bits(number: str) -> None:
    places = [match.span(1) for match in re.finditer(r'":(\d+)(?=[,}])', GOOD)]
    assert len(places) == 8
    for start, end in places:
        assert failures(GOOD[:start] + number + GOOD[end:], RECEIPT_KEY) == ["form"], GOOD[:start]


def test_the_largest_number_of_64_bits_is_one() -> None:
    text = edited(FULL, lambda p: p["events"][0]["receipt"].update(hlc=2**64 - 1))
    assert failures(text, RECEIPT_KEY) == ["receipt"]


def test_half_of_a_surrogate_pair_in_a_note_condemns_the_note() -> None:
    text = GOOD.replace("example.com", "\\udfff")
    assert failures(text, RECEIPT_KEY) == ["checkpoint", "consistency", "inclusion", "key-event"]


def test_a_text_beyond_the_limit_is_not_even_parsed() -> None:
    text = " " * MAX_BUNDLE_LENGTH + "{}"
    with pytest.raises(ProofInvalid) as caught:
        Bundle.parse(text)
    assert "longer" in caught.value.what
    assert verify_bundle(text, [], POLICY).checks == (Check("form", False, caught.value.what),)


@pytest.mark.proves("INV-BUNDLE-HOSTILE")
def test_a_tree_of_an_absurd_size_costs_no_more_than_its_proof() -> None:
    text = str(Checkpoint(ORIGIN, 2**63, bytes(32)))
    note = str(Note(text, (sign_note(text, ORIGIN, LOG),)))
    bundle = edited(FULL, lambda p: p.update(checkpoint=note, inclusion=["00" * 32] * 62))
    assert "inclusion" in failures(bundle, RECEIPT_KEY)


def test_events_whose_row_claims_gigabytes_are_refused() -> None:
    row = bytearray(HISTORY.events[3].row_bytes)
    row[84:88] = b"\xff" * 4
    text = edited(FULL, lambda p: p["events"][0].update(row=row.hex()))
    assert failures(text, RECEIPT_KEY) == ["form"]


def test_an_event_of_an_unknown_codec_is_judged_but_its_payload_not_read() -> None:
    log = example()
    event = log.events[13]
    fields = list(ROW.unpack(event.row_bytes))
    fields[16] = 200
    log.events[13] = Event(ROW.pack(*fields), event.metadata_bytes, event.envelope)
    found = answers(log.bundle(13, private=None).to_json())
    assert found["inclusion", None] is True
    assert found["content", 13] is False  # the content hash covers the codec


# --- the room ---------------------------------------------------------------------------------


@pytest.mark.proves("INV-PROOF-STANDS-ALONE")
def test_the_verifier_is_under_500_lines_and_imports_the_vocabulary_alone() -> None:
    files = sorted(ROOM.glob("*.py"))
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) < 500
    allowed = {"bundle", "errors", "event", "kinds", "proof", "receipt"}
    seen: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batpak"):
                rest = (node.module or "").split(".")[1:]
                seen |= {rest[0]} if rest else {alias.name for alias in node.names}
            elif isinstance(node, ast.Name):
                assert node.id not in ("open", "eval", "exec", "compile", "__import__")
    assert seen == allowed
