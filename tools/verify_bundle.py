"""Verify a proof bundle without batpak: a second opinion on docs/proofs.md.

Usage: python tools/verify_bundle.py BUNDLE.json --log KEY [--origin NAME]
           [--witness KEY ...] [--threshold K] [--receipt-key HEX ...]

Rules of this file: it is written from docs/proofs.md (and, for names and MessagePack,
docs/format.md) alone and imports nothing of batpak, only the standard library, `blake3`
and, for Ed25519, `cryptography`. It reads one file and changes nothing.

Keys of log and witnesses are verifier keys as text, receipt keys 64 hex digits. One line
for each check: held, failed or not shown. Exit status: 0 nothing failed, 1 something did,
2 usage.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LARGEST_BUNDLE = 67_108_864
LARGEST_NOTE = 524_288
MOST_SIGNATURES = 64
LIMIT = 1 << 63
FAR = LIMIT
NAME_OFFENCE = re.compile(rb"[\x00-\x1f\x7f/|=]|\.\.")
EXTENSION_NAME = re.compile(r"[\x00-\x2d\x2f-\x7f]+\.[\x00-\x2d\x2f-\x7f]+")
KEY_ADDED, KEY_RETIRED = 0x0015, 0x0016
SYSTEM_ENTITY = "batpak:store"

Answer = tuple[str, bool | None, int | None]
"""Name of the check; True held, False failed, None not shown; the sequence it is about."""


class Refused(Exception):
    """Something is not what the page says."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


# -- bytes ------------------------------------------------------------------------------------


def little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def from_hex(text: Any, size: int | None = None) -> bytes:
    need(isinstance(text, str) and re.fullmatch(r"([0-9a-f]{2})*", text), "not lower-case hex")
    data = bytes.fromhex(text)
    need(size is None or len(data) == size, f"hex of {len(data)} bytes")
    return data


def hashes(value: Any) -> list[bytes]:
    need(isinstance(value, list), "not a list of hashes")
    return [from_hex(item, 32) for item in value]


def from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refused("not base64") from error
    need(base64.b64encode(data).decode() == text, "base64 in another form")
    return data


def signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hash_of(data: bytes) -> bytes:
    return blake3(data).digest()


def unpack_map(data: bytes, *, exact: bool = True) -> dict[str, Any]:
    """A MessagePack map of text to values; `exact`: bin alone, in its shortest form."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        need(at + size <= len(data), "MessagePack ends inside a value")
        at += size
        return data[at - size : at]

    def number(size: int, above: int) -> int:
        value = int.from_bytes(take(size), "big")
        need(value > above or not exact, "MessagePack in a longer form")
        return value

    def text(lead: int) -> str:
        if 0xA0 <= lead < 0xC0:
            size = lead - 0xA0
        else:
            need(lead in (0xD9, 0xDA, 0xDB), "the key of a map is no text")
            size = number(*{0xD9: (1, 31), 0xDA: (2, 0xFF), 0xDB: (4, 0xFFFF)}[lead])
        try:
            return take(size).decode()
        except UnicodeDecodeError as error:
            raise Refused("text is not UTF-8") from error

    def value(lead: int) -> Any:
        if lead in (0xC4, 0xC5, 0xC6):
            return take(number(*{0xC4: (1, -1), 0xC5: (2, 0xFF), 0xC6: (4, 0xFFFF)}[lead]))
        need(not exact, "the value of an extension is no bin")
        if lead < 0x80 or lead >= 0xE0 or lead in (0xC0, 0xC2, 0xC3):
            return lead
        if lead in range(0xCA, 0xD4):
            return take({0: 4, 1: 8}.get(lead - 0xCA, 1 << (lead - 0xCC) % 4))
        if 0xA0 <= lead < 0xC0 or lead in (0xD9, 0xDA, 0xDB):
            return text(lead)
        raise Refused("a MessagePack value that this program does not read")

    lead = take(1)[0]
    if 0x80 <= lead < 0x90:
        count = lead - 0x80
    else:
        need(lead in (0xDE, 0xDF), "no MessagePack map")
        count = number(*((2, 15) if lead == 0xDE else (4, 0xFFFF)))
    found: dict[str, Any] = {}
    for _ in range(count):
        key = text(take(1)[0])
        need(key not in found, "a key stands twice in a map")
        found[key] = value(take(1)[0])
    need(at == len(data), "bytes behind the MessagePack map")
    return found


# -- events and receipts ----------------------------------------------------------------------


@dataclass
class Event:
    row: bytes
    entity: bytes
    scope: bytes
    extensions: bytes
    envelope: bytes | None
    extension_map: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        row = self.row
        need(len(row) == 176, "a row has 176 bytes")
        self.sequence, self.clock = little(row, 0, 8), little(row, 72, 4)
        self.kind, self.codec = little(row, 88, 2), row[99]
        need(self.sequence < LIMIT and row[98] == 1 and not any(row[104:112]), "no row")
        lengths = (little(row, 94, 2), little(row, 96, 2), little(row, 84, 4))
        real = (len(self.entity), len(self.scope), len(self.extensions))
        need(lengths == real, "lengths of names")
        for name in (self.entity, self.scope):
            need(0 < len(name) <= 1024 and not NAME_OFFENCE.search(name), "an offending name")
        if self.extensions:
            self.extension_map = unpack_map(self.extensions)
            names = list(self.extension_map)
            need(names and names == sorted(names), "extensions are out of order, or empty")
            for name in names:
                need(len(name) <= 256 and EXTENSION_NAME.fullmatch(name), "an extension's name")
        need(len(self.extensions) <= 65_536, "too many extensions")
        preimage = b"batpak/event/v1\0" + row + self.entity + self.scope + self.extensions
        self.event_hash = hash_of(preimage)
        self.content_hash, self.prev_hash = row[112:144], row[144:176]

    def has_content(self) -> bool | None:
        if self.envelope is None:
            return None
        digest = hash_of(b"batpak/content/v1\0" + bytes([self.codec]) + self.envelope)
        return digest == self.content_hash and little(self.row, 100, 4) == len(self.envelope)

    def payload(self) -> bytes:
        need(self.envelope is not None and self.codec in (0, 1), "a key event without payload")
        envelope = self.envelope or b""
        return envelope[16:] if self.codec == 1 else envelope


EVENT_MEMBERS = {
    "row", "entity", "scope", "extensions", "payload_state", "envelope", "receipt",
}  # fmt: skip
RECEIPT_MEMBERS: dict[str, Callable[[Any], bool]] = {
    "journal_id": lambda v: isinstance(v, str) and str(uuid.UUID(v)) == v,
    "event_id": lambda v: isinstance(v, str) and bool(re.fullmatch(r"event:[0-9a-f]{32}", v)),
    "sequence": lambda v: type(v) is int and 0 <= v < LIMIT,
    "kind": lambda v: type(v) is int and 0 <= v < 1 << 16,
    "hlc": lambda v: type(v) is int and 0 <= v < 1 << 64,
    "clock": lambda v: type(v) is int and 0 <= v < 1 << 32,
    "entity": lambda v: isinstance(v, str),
    "scope": lambda v: isinstance(v, str),
    "commitment": lambda v: len(from_hex(v)) == 32,
    "event_hash": lambda v: len(from_hex(v)) == 32,
    "prev_hash": lambda v: len(from_hex(v)) == 32,
    "extensions": lambda v: (
        isinstance(v, dict) and all(from_hex(x) is not None for x in v.values())
    ),
    "durable": lambda v: isinstance(v, bool),
    "replayed": lambda v: isinstance(v, bool),
    "key_id": lambda v: v is None or len(from_hex(v)) == 32,
    "signature": lambda v: v is None or len(from_hex(v)) == 64,
}


def read_receipt(receipt: Any) -> dict[str, Any] | None:
    if receipt is None:
        return None
    need(isinstance(receipt, dict) and receipt.keys() == RECEIPT_MEMBERS.keys(), "no receipt")
    for name, is_good in RECEIPT_MEMBERS.items():
        try:
            need(is_good(receipt[name]), f"{name} of a receipt")
        except ValueError as error:
            raise Refused(f"{name} of a receipt") from error
    for name in receipt["extensions"]:
        need(len(name) <= 256 and EXTENSION_NAME.fullmatch(name), "an extension of a receipt")
    for name in ("entity", "scope"):
        raw = encoded(receipt[name])
        need(0 < len(raw) <= 1024 and not NAME_OFFENCE.search(raw), "a name in a receipt")
    return receipt


def encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Refused("half of a surrogate pair") from error


def read_event(shown: Any, *more: str) -> tuple[Event, dict[str, Any] | None]:
    need(isinstance(shown, dict) and shown.keys() == EVENT_MEMBERS | set(more), "no shown event")
    need(isinstance(shown["entity"], str) and isinstance(shown["scope"], str), "names are text")
    envelope = None if shown["envelope"] is None else from_hex(shown["envelope"])
    state = shown["payload_state"]
    need(state in ("present", "withheld", "erased", "shredded", "detached"), "payload_state")
    need(state == "shredded" or (state == "present") == (envelope is not None), "envelope")
    event = Event(
        from_hex(shown["row"]), encoded(shown["entity"]), encoded(shown["scope"]),
        from_hex(shown["extensions"]), envelope,
    )  # fmt: skip
    return event, read_receipt(shown["receipt"])


@dataclass(frozen=True)
class Span:
    public_key: bytes
    since: int = 0
    until: int = FAR

    @property
    def key_id(self) -> bytes:
        return hash_of(self.public_key)


def spans_of(events: Sequence[Event]) -> list[Span]:
    added: dict[bytes, Span] = {}
    retired: dict[bytes, Span] = {}
    order = [event.sequence for event in events]
    need(order == sorted(set(order)), "key events out of order")
    for event in events:
        if event.kind not in (KEY_ADDED, KEY_RETIRED):
            continue
        name = "public_key" if event.kind == KEY_ADDED else "key_id"
        told = unpack_map(event.payload(), exact=False)
        value = told.get(name)
        need(isinstance(value, bytes) and len(value) == 32, "a key event without its key")
        if event.kind == KEY_ADDED:
            key_id = hash_of(value)
            said = told.get("key_id", key_id), told.get("algorithm", "ed25519")
            if key_id not in retired and said == (key_id, "ed25519"):
                added.setdefault(key_id, Span(value, event.sequence))
        elif value in added:
            old = added.pop(value)
            retired[value] = Span(old.public_key, old.since, event.sequence)
    return [*retired.values(), *added.values()]


def judge_receipt(
    receipt: dict[str, Any], event: Event, keys: Sequence[Span]
) -> str | bytes | None:
    """A code; the id of the key that signed it; None: unsigned, accepted."""
    row = event.row
    same = {
        "event_id": ("event_id_mismatch", f"event:{row[8:24].hex()}"),
        "sequence": ("sequence_mismatch", event.sequence),
        "commitment": ("content_hash_mismatch", event.content_hash.hex()),
        "extensions": (
            "extensions_mismatch", {k: v.hex() for k, v in event.extension_map.items()},
        ),
        "event_hash": ("event_mismatch", event.event_hash.hex()),
        "entity": ("event_mismatch", event.entity.decode()),
        "scope": ("event_mismatch", event.scope.decode()),
        "kind": ("event_mismatch", event.kind),
        "hlc": ("event_mismatch", little(row, 64, 8)),
        "clock": ("event_mismatch", event.clock),
        "prev_hash": ("event_mismatch", event.prev_hash.hex()),
    }  # fmt: skip
    for name, (code, wanted) in same.items():
        if receipt[name] != wanted:
            return code
    key_id = from_hex(receipt["key_id"] or "")
    has_key, signature = any(key_id), receipt["signature"]
    if signature is None and not has_key:
        return "unsigned_receipt_rejected" if keys else None
    if signature is None:
        return "missing_signature"
    if not has_key:
        return "zero_key_with_signature"
    own = [span for span in keys if span.key_id == key_id]
    if not own:
        return "unknown_signing_key"
    message = (
        b"batpak/receipt/v1\0"
        + uuid.UUID(receipt["journal_id"]).bytes
        + event.sequence.to_bytes(8, "little")
        + event.event_hash
    )
    if not signed(own[0].public_key, from_hex(signature), message):
        return "invalid_signature"
    if not any(span.since <= event.sequence < span.until for span in own):
        return "key_not_in_force"
    return key_id


# -- the tree ---------------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def middle_of(start: int, stop: int) -> int:
    k = 1
    while k * 2 < stop - start:
        k *= 2
    return start + k


def is_run_included(
    events: Sequence[Event], proof: Sequence[bytes], size: int, root: bytes
) -> bool:
    first, rest = events[0].sequence, list(proof)
    end = first + len(events)
    if [event.sequence for event in events] != list(range(first, end)) or end > size:
        return False

    def walk(start: int, stop: int) -> bytes:
        if stop - start == 1:
            return sha256(b"\x00" + events[start - first].event_hash)
        middle = middle_of(start, stop)
        left = walk(start, middle) if first < middle else b""
        right = walk(middle, stop) if end > middle else rest.pop(0)
        return node(left or rest.pop(0), right)

    try:
        return walk(0, size) == root and not rest
    except IndexError:
        return False


def is_consistent(m: int, old_root: bytes, n: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    rest = list(proof)
    if m > n:
        return False
    if m == 0:
        return old_root == sha256(b"") and not rest and (n > 0 or new_root == old_root)

    def walk(start: int, stop: int, whole: bool) -> tuple[bytes, bytes]:
        if stop == m:
            both = old_root if whole else rest.pop(0)
            return both, both
        middle = middle_of(start, stop)
        if m <= middle:
            old, new = walk(start, middle, whole)
            return old, node(new, rest.pop(0))
        old, new = walk(middle, stop, False)
        left = rest.pop(0)
        return node(left, old), node(left, new)

    try:
        return walk(0, n, True) == (old_root, new_root) and not rest
    except IndexError:
        return False


# -- notes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    name: str
    algorithm: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        typed = bytes([self.algorithm]) + self.public_key
        return sha256(encoded(self.name) + b"\n" + typed)[:4]

    def accepts(self, text: str, signature: bytes) -> bool:
        if self.algorithm == 1:
            return signed(self.public_key, signature, text.encode())
        time = int.from_bytes(signature[:8], "big")
        message = f"cosignature/v1\ntime {time}\n{text}".encode()
        return time < LIMIT and signed(self.public_key, signature[8:], message)


def is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(letter.isspace() for letter in name)


def read_key(text: str) -> Key:
    name, _, rest = text.partition("+")
    key_id, _, encoding = rest.partition("+")
    raw = from_base64(encoding)
    need(is_name(name) and len(raw) == 33 and raw[0] in (1, 4), "no verifier key")
    key = Key(name, raw[0], raw[1:])
    need(key.key_id.hex() == key_id, "a verifier key with the id of another")
    return key


def open_checkpoint(
    note: Any, log: Key, origin: str, witnesses: Sequence[Key]
) -> tuple[int, bytes, int]:
    """Size, root, and how many of the witnesses cosigned."""
    need(isinstance(note, str) and len(note) <= LARGEST_NOTE, "no note")
    need(all(letter == "\n" or letter >= " " for letter in note), "a control character")
    encoded(note)
    text, blank, tail = note.rpartition("\n\n")
    need(blank and tail.endswith("\n"), "no note")
    lines = tail[:-1].split("\n")
    need(1 <= len(lines) <= MOST_SIGNATURES, "too many signatures, or none")
    text += "\n"
    good: set[Key] = set()
    for line in lines:
        parts = line.split(" ")
        need(len(parts) == 3 and parts[0] == "—" and is_name(parts[1]), "no signature line")
        raw = from_base64(parts[2])
        need(len(raw) > 4, "an empty signature")
        for key in (log, *witnesses):
            if (key.name, key.key_id) == (parts[1], raw[:4]):
                need(key.accepts(text, raw[4:]), "a wrong signature")
                good.add(key)
    body = text[:-1].split("\n")
    need(len(body) >= 3 and all(body), "no checkpoint")
    need(re.fullmatch(r"0|[1-9][0-9]{0,18}", body[1]), "no size")
    size, root = int(body[1]), from_base64(body[2])
    need(size <= LIMIT and len(root) == 32, "no size or root")
    need(log in good and body[0] == origin, "not of this log")
    counted = {key.public_key for key in witnesses if key in good}
    return size, root, len(counted)


# -- the bundle -------------------------------------------------------------------------------

MEMBERS = {"format", "events", "inclusion", "checkpoint"}
DEFAULTS: dict[str, Any] = {"earlier": None, "consistency": [], "key_events": []}


def read_json(data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a name stands twice")
        return dict(pairs)

    def refuse(text: str) -> None:
        raise Refused(f"{text[:20]} is no integer")

    def small(text: str) -> int:
        unsigned = len(text) <= 20 and not text.startswith("-") and int(text) < 1 << 64
        need(unsigned, "no unsigned number of 64 bits")
        return int(text)

    need(len(data) <= LARGEST_BUNDLE, "too long")
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=unique, parse_int=small, parse_float=refuse,
            parse_constant=refuse,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise Refused("no JSON") from error
    need(isinstance(value, dict), "no JSON object")
    value = DEFAULTS | value
    need(value.keys() == MEMBERS | DEFAULTS.keys(), "missing or unknown members")
    need(value["format"] == "batpak/bundle/v1", "another format")
    need(isinstance(value["events"], list) and value["events"], "no event")
    need(isinstance(value["key_events"], list), "no key events")
    need(isinstance(value["checkpoint"], str), "no note")
    need(value["earlier"] is None or isinstance(value["earlier"], str), "no note")
    need(value["earlier"] is not None or value["consistency"] == [], "a proof from nothing")
    return value


def judge(
    data: bytes,
    log: Key,
    *,
    origin: str | None = None,
    witnesses: Sequence[Key] = (),
    threshold: int = 0,
    keys: Sequence[Span] = (),
) -> Iterator[Answer]:
    """Every check of docs/proofs.md, in its order."""
    origin = origin or log.name
    try:
        bundle = read_json(data)
        read = [read_event(shown) for shown in bundle["events"]]
        # Form only: the receipts of key events are not judged.
        system = [read_event(shown, "inclusion")[0] for shown in bundle["key_events"]]
        system_proofs = [hashes(shown["inclusion"]) for shown in bundle["key_events"]]
        proof, consistency = hashes(bundle["inclusion"]), hashes(bundle["consistency"])
        spans = spans_of(system)
    except Refused:
        yield "form", False, None
        return
    yield "form", True, None
    size, root = 0, b""
    try:
        size, root, count = open_checkpoint(bundle["checkpoint"], log, origin, witnesses)
        yield "checkpoint", True, None
        yield "witnesses", count >= threshold if threshold else None, None
    except Refused:
        yield "checkpoint", False, None
    yield (
        "consistency",
        later_than(bundle["earlier"], consistency, size, root, log, origin, witnesses),
        None,
    )
    events = [event for event, _ in read]
    yield "inclusion", is_run_included(events, proof, size, root), None
    yield "chain", is_chained(events), None
    for event, own_proof in zip(system, system_proofs, strict=True):
        good = event.entity.decode() == SYSTEM_ENTITY and event.has_content() is True
        yield "key-event", good and is_run_included([event], own_proof, size, root), event.sequence
    for event, receipt in read:
        yield "content", event.has_content(), event.sequence
        yield from about_receipt(event, receipt, keys, spans, system)


def later_than(
    earlier: str | None, proof: Sequence[bytes], size: int, root: bytes, log: Key, origin: str,
    witnesses: Sequence[Key],
) -> bool | None:  # fmt: skip
    if earlier is None:
        return None
    try:
        old_size, old_root, _ = open_checkpoint(earlier, log, origin, witnesses)
    except Refused:
        return False
    return is_consistent(old_size, old_root, size, root, proof)


def is_chained(events: Sequence[Event]) -> bool | None:
    newest: dict[bytes, Event] = {}
    links: list[bool] = []
    for event in events:
        before = newest.get(event.entity)
        if before is not None:
            links.append(event.prev_hash == before.event_hash and event.clock == before.clock + 1)
        newest[event.entity] = event
    return all(links) if links else None


def about_receipt(
    event: Event,
    receipt: dict[str, Any] | None,
    keys: Sequence[Span],
    spans: Sequence[Span],
    system: Sequence[Event],
) -> Iterator[Answer]:
    at = event.sequence
    if receipt is None:
        yield "receipt", None, at
        return
    known = keys or (spans if receipt["signature"] is not None else ())
    verdict = judge_receipt(receipt, event, known)
    if verdict is None or (verdict == "unknown_signing_key" and not known):
        yield "receipt", None, at
    elif isinstance(verdict, str):
        yield "receipt", False, at
    else:
        yield "receipt", True, at
        own = [span for span in spans if span.key_id == verdict]
        current = [span for span in own if span.since <= at < span.until]
        yield "key-added", True if current else False if own else None, at
        yield "key-not-retired", (is_gapless(system, current[0].since, at) if current else None), at


def is_gapless(system: Sequence[Event], since: int, at: int) -> bool | None:
    clocks: list[int] = []
    for event in system:
        if event.sequence >= since:
            clocks.append(event.clock)
            if event.sequence > at:
                return True if clocks == list(range(clocks[0], clocks[0] + len(clocks))) else None
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify a proof bundle without batpak.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--log", required=True)
    parser.add_argument("--origin")
    parser.add_argument("--witness", action="append", default=[])
    parser.add_argument("--threshold", type=int, default=0)
    parser.add_argument("--receipt-key", action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        log, witnesses = read_key(given.log), [read_key(text) for text in given.witness]
        keys = [Span(from_hex(text, 32)) for text in given.receipt_key]
        need(given.threshold >= 0, "--threshold is a number of witnesses")
        with given.bundle.open("rb") as file:
            data = file.read(LARGEST_BUNDLE + 1)
    except (Refused, OSError) as error:
        print(f"can't begin: {error}", file=sys.stderr)
        return 2
    answers = list(
        judge(data, log, origin=given.origin, witnesses=witnesses, threshold=given.threshold,
              keys=keys)
    )  # fmt: skip
    words = {True: "held", False: "failed", None: "not shown"}
    for name, answer, sequence in answers:
        where = "" if sequence is None else f"  (sequence {sequence})"
        print(f"{words[answer]:10}{name}{where}")
    return 1 if any(answer is False for _, answer, _ in answers) else 0


if __name__ == "__main__":
    sys.exit(main())
