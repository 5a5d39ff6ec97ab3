"""Make the corpora: small inputs that reach the inside of each decoder.

Usage: python -m tests.fuzz.seeds      writes what is missing below tests/fuzz/corpus

From the golden vectors, which are the same each time, and from journals that the store
writes here, whose ids and salts are not: so an input is made once and then kept, and this
script never changes or deletes one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from batpak import Coordinate, Durability, EventKind, Item, Store, canonical
from batpak.outcome import Batch, Err, ErrorKind, Ok, OutcomeError
from batpak.receipt import encode_extensions
from batpak.tlog import tiles
from tests.fuzz import target
from tests.fuzz.mending import mend_sidecar
from tests.support import proof_vectors
from tests.support.faulty_files import DISK
from tests.support.small_log import POLICY
from tools import golden_vectors

ROOM = Coordinate("lamp:1", "house")
NOTE = EventKind(0xF, 1)
Seed = tuple[str, str, bytes]
"""Target, name, input."""

TEXTS = {
    "receipts": ("{}", '{"journal_id": "x"}'),
    "strict-json": (
        "{}", "[1, 2.5, -3e2, null, true]", '{"a": 1, "a": 2}', "NaN", "[" * 60, '"\\ud800"',
        "1" * 5000, '{"text": "gr\\u00fc\\u00df", "n": 18446744073709551616}', "1e999", "\ufeff{}",
    ),
    "jsonl-import": (
        '{"id": 1}\n{"id": "b"}\n', '{"id": 1}\n\n{"id": true}\r\nno\n{"id":', "\n{}\n[]\n",
        '\ufeff{"id": 7}\n' + '{"long": "' + "x" * 600 + '"}\n{"id": 8}',
    ),
    "csv-import": (
        'id,name\n1,a\n2,"b ""c"""\n', "n,m\n1,x\n,y\nz,z\n3", "a,a\n1,2\n",
        '"a\nb",c\r\n1,2\r\n3\n', "\ufeffa;b\n", 'a\n"x"y\n"open\n',
    ),
    "coordinates": (
        "lamp:1@house", "@", "a@b@c", "a/../b", "k\u00fcche@haus", "x" * 1100 + "@y",
        "..", "a|b=c", "a%2Eb", "\x7f@\x00",
    ),
    "ids": (
        "event:0123456789abcdef0123456789abcdef", "correlation:ff", "causation:+0",
        "idempotency:" + "0" * 40 + "1", "event:0x1", "event:-1", "0123456789abcdef",
    ),
    "options": (
        "0xF001", "61441", "event:ff", "1:2", ":", "0b1", "1_0", "\u0661:\u0662", "1" * 100,
    ),
    "segment-names": (f"{0:020}.seg", f"{2**63 - 1:020}.seg", f"{2**63:020}.seg", "1.seg"),
    "identity": (
        '{"format": 2}', '{"format": 1, "journal_id": "x", "created_us": 1, "origin": ""}',
        "[]", '{"format": "1"}', "{",
    ),
}  # fmt: skip
VALUES: tuple[object, ...] = (
    None, True, 0, -1, 127, 128, 2**63, -(2**63), 1.5, "", "gr\u00fc\u00df", b"raw", [], {},
    [1, [2, [3]]], {"a": 1, "b": [{"c": None}]}, {1: "x", 2: "y"}, "x" * 300, list(range(20)),
)  # fmt: skip


def golden() -> dict[str, bytes]:
    """The golden vectors by name."""
    return {name: vector.data for name, vector in golden_vectors.build().items()}


def written(directory: str) -> dict[str, bytes]:
    """Segments and sidecars of journals that the store writes, by what they are."""
    found: dict[str, bytes] = {}
    for name, count, durability in (
        ("synced", 3, Durability.SYNC),
        ("eager", 6, Durability.OS),
    ):
        path = Path(directory, name)
        with Store.open(path, files=DISK, durability=durability, preallocate=0) as store:
            for n in range(count):
                store.append(Coordinate(f"lamp:{n % 2}", "house"), {"n": n}, kind=NOTE)
            store.append_many(
                [Item(ROOM, n, kind=NOTE, extensions={"acme.n": bytes(n)}) for n in range(3)]
            )
            store.append_raw(ROOM, NOTE, b"")
        found[name] = (path / "segments" / f"{0:020}.seg").read_bytes()
    return found


def encryption(vectors: dict[str, bytes]) -> Iterator[Seed]:
    """Keys of other lengths, payloads that name none, and an envelope in another's place."""
    for length in (0, 63, 64, 4096, 4097):
        yield "key-files", f"length-{length}", b"\x01" + bytes(40) + b"k" * length
    yield "shredding-payloads", "golden", vectors["key-shredded-payload"]
    for name, value in (("short", {"key_id": b"x"}), ("none", {}), ("list", [1])):
        yield "shredding-payloads", name, canonical.encode(value)
    row, envelope = bytes(176), vectors["encrypted-envelope"]
    for name, key in (("right", bytes(range(0x80, 0xC0))), ("zeros", bytes(64))):
        yield "encrypted-envelopes", name, b"\x00" + key + row + envelope
        yield "encrypted-envelopes", f"{name}-known", b"\x01" + key + row + b"n" + envelope[16:]


def proofs() -> Iterator[Seed]:
    """Proofs from their golden vectors, and texts beside them."""
    made = proof_vectors.build()
    for name, text in made.items():
        if name.startswith("bundle"):
            yield "bundles", name.removesuffix(".json"), text.encode()
    yield "bundles", "empty", b'{"format":"batpak/bundle/v1"}'
    note = made["checkpoint.txt"]
    yield "notes", "checkpoint", note.encode()
    yield "notes", "extended", note.replace("\n\n", "\nmore\n\n", 1).encode()
    yield "notes", "no-signature", note.partition("—")[0].encode()
    for number, key in enumerate((POLICY.log, *POLICY.witnesses)):
        yield "verifier-keys", str(number), str(key).encode()
    for number, path in enumerate(("tile/0/x001/x234/067", "tile/63/000.p/1", "tile/entries/999")):
        yield "tile-paths", str(number), path.encode()
    for count in (1, 3, 256):
        yield "entry-bundles", str(count), tiles.encode_entries([bytes(32)] * count)


def signers() -> Iterator[Seed]:
    """Key files of every kind, and requests to a witness."""
    secret = bytes(range(40, 72))
    key = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    other = ec.derive_private_key(7, ec.SECP256R1())
    pem, pkcs8, der = Encoding.PEM, PrivateFormat.PKCS8, Encoding.DER
    yield "signing-keys", "seed", secret
    yield "signing-keys", "zeros", bytes(32)
    yield "signing-keys", "short", secret[:31]
    plain = key.private_bytes(pem, pkcs8, NoEncryption())
    yield "signing-keys", "pem", plain
    yield "signing-keys", "pem-cut", plain[:-40]
    yield "signing-keys", "der", key.private_bytes(der, pkcs8, NoEncryption())
    yield "signing-keys", "password", key.private_bytes(pem, pkcs8, BestAvailableEncryption(b"p"))
    yield "signing-keys", "curve", other.private_bytes(pem, pkcs8, NoEncryption())
    public = key.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo)
    yield "signing-keys", "public", public
    note = proof_vectors.build()["checkpoint.txt"]
    hash_ = b64encode(secret).decode()
    for name, head in (
        ("first", "old 0"), ("later", f"old 3\n{hash_}\n{hash_}"), ("number", "old 00"),
        ("word", "new 0"), ("hash", "old 1\nAAAA"), ("spelling", f"old 1\n{hash_[:-2]}H="),
        ("many", "old 1" + f"\n{hash_}" * 64), ("large", "old " + "9" * 19),
    ):  # fmt: skip
        yield "witness-requests", name, f"{head}\n\n{note}".encode()
    yield "witness-requests", "no-note", b"old 0\n\n"
    yield "witness-requests", "unsigned", f"old 0\n\n{note.partition('—')[0]}".encode()


def seeds() -> Iterator[Seed]:
    """Every input that this script makes."""
    vectors = golden()
    with tempfile.TemporaryDirectory() as directory:
        segments = written(directory)
    plain = (
        "segment-header", "open-record", "single-commit", "batch-record", "close-record", "pad",
    )  # fmt: skip
    sparse = (
        "rewritten-header", "rewritten-open-record", "rewritten-single-commit", "sparse-record",
        "rewritten-close-record", "rewritten-pad",
    )  # fmt: skip
    segments["golden"] = b"".join(vectors[name] for name in plain)
    segments["golden-sparse"] = b"".join(vectors[name] for name in sparse)
    segments["golden-start"] = b"".join(vectors[name] for name in plain[:3])
    segments["golden-torn"] = segments["golden"][:-100]
    segments["golden-zeros"] = segments["golden"] + bytes(300)
    for name, data in segments.items():
        for mode in (0, 3):
            yield "records", f"{name}-{mode}", bytes([mode]) + data
            yield "recovery", f"{name}-{mode}", bytes([0, 0, mode]) + data
            for journal in ("opening", "second-opinion"):
                yield journal, f"{name}-{mode}", bytes([0, mode]) + data
        yield "recovery", f"{name}-witness", bytes([5, 0, 1]) + data
        yield "opening", f"{name}-witness", bytes([6, 1]) + data
        yield "second-opinion", f"{name}-witness", bytes([6, 1]) + data
    for name in ("segment-header", "later-segment-header", "rewritten-header"):
        for mode in (0, 1):
            yield "segment-header", f"{name}-{mode}", bytes([mode]) + vectors[name]
    for mode in (0, 1):
        yield "tail-hint", f"golden-{mode}", bytes([mode]) + vectors["tail-hint"]
        yield "sidecar", f"golden-{mode}", bytes([mode]) + vectors["sidecar"]
        yield "key-header", f"golden-{mode}", bytes([mode]) + vectors["key-table"]
        yield "key-files", f"golden-{mode}", bytes([mode]) + vectors["key-file"]
        yield "disposable-key-table", f"golden-{mode}", bytes([mode]) + vectors["key-table"]
        yield "disposable-sidecar", f"golden-{mode}", bytes([mode]) + vectors["sidecar"]
    yield from encryption(vectors)
    yield from proofs()
    yield from signers()
    for name, at, value in (
        ("hlc", 96, b"\xff" * 8), ("hlc-low", 96, bytes(8)), ("epoch", 104, b"\x09"),
        ("no-epoch", 104, b"\x00"), ("count", 40, b"\x05"), ("covered", 48, b"\x88"),
        ("durable", 56, b"\x0f"), ("hash", 768 + 6 * 32, b"?"),
    ):  # fmt: skip
        bent = bytearray(vectors["sidecar"])
        bent[at : at + len(value)] = value
        if name == "count":
            bent[108:116] = bent[40:48]
        yield "disposable-sidecar", name, b"\x01" + bytes(bent)
    damaged = bytearray(vectors["sidecar"])
    for at in range(800, len(damaged), 97):
        damaged[at] ^= 0x40
    yield "sidecar", "bent", b"\x01" + mend_sidecar(bytes(damaged))
    for name in ("journal-json", "journal-json-fork"):
        yield "identity", name, vectors[name]
    whole = vectors["manifest"]
    for number, (old, new) in enumerate((
        (b"", b""), (b'"manifest": 1', b'"manifest": 2'), (b'"events": 7', b'"events": 0'),
        (b"cursors/mailer", b"../../mailer"), (b"cursors/mailer", b"cursors/../x"),
        (b"journal.json", b"tail.hint"), (b'"size": 8', b'"size": -8'), (b'"origin"', b'"origim"'),
    )):  # fmt: skip
        bent = whole.replace(old, new) if old else whole
        yield "manifest", f"manifest-{number}", b"\x00" + bent
        yield "manifest", f"forged-{number}", b"\x01" + bent
    for name, texts in TEXTS.items():
        for number, text in enumerate(texts):
            yield name, f"text-{number}", text.encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as directory, Store.open(directory, files=DISK) as store:
        receipt = store.append(ROOM, {"n": 1}, kind=NOTE, extensions={"acme.trace": b"\x01"})
        yield "receipts", "one", receipt.to_json().encode()
    for number, value in enumerate(VALUES):
        data = canonical.encode(value)
        yield "canonical-lenient", f"value-{number}", data
        yield "canonical-strict", f"value-{number}", data
    for number, data in enumerate(
        (b"\xcd\x00\x01", b"\xd9\x01a", b"\xdc\x00\x00", b"\xca\x00\x00\x00\x00",
         b"\x82\xa1a\x01\xa1a\x02", b"\xd6\xff\x00\x00\x00\x01", b"\xc1", b"\xdd\xff\xff\xff\xff",
         b"\x91" * 130 + b"\xc0", b"\xa1\xff", b"\x81\xc0\x01", b"\x81\x90\x01")
    ):  # fmt: skip
        yield "canonical-lenient", f"bytes-{number}", data
        yield "canonical-strict", f"bytes-{number}", data
    for number, data in enumerate(typed()):
        yield "canonical-typed", f"typed-{number}", data
    for name, at, value in (
        ("bound", 32, b"\x05"), ("count", 40, b"\x03"), ("slots", 128, b"\xff" * 40),
        ("multiplier", 56, b"\x05"), ("last-slot", -8, b"\x01"),
    ):  # fmt: skip
        bent = bytearray(vectors["key-table"])
        at %= len(bent)
        bent[at : at + len(value)] = value
        yield "disposable-key-table", name, b"\x01" + bytes(bent)
    for number, data in enumerate(others()):
        yield "outcomes", f"outcome-{number}", data
    denial = {
        "evaluations": [
            {"gate_id": "a", "verdict": "Permit", "evidence_hash": None},
            {"gate_id": "b", "verdict": {"Deny": {"code": "c", "message": "m", "context": []}},
             "evidence_hash": list(range(32))},
        ],
        "pipeline_id": None, "proposed_kind": 0xF001, "proposed_content_hash": [0] * 32,
    }  # fmt: skip
    yield "denials", "plain", canonical.encode(denial)
    for path in sorted((golden_vectors.ROOT / "tests" / "golden").rglob("*denial*.hex")):
        yield "denials", path.stem, bytes.fromhex(path.read_text())
    for number, found in enumerate(
        ({"acme.a": b""}, {"acme.a": b"\x00" * 40, "acme.b": b"x"}, {"batpak.x": b"1"})
    ):
        yield "extensions", f"map-{number}", encode_extensions(found, reserved_allowed=True)
    for name in ("erasure-payload", "compaction-payload"):
        yield "erasure-payloads", name, (1 << 40).to_bytes(8, "big") + vectors[name]
        yield "erasure-payloads", f"{name}-early", (70_000).to_bytes(8, "big") + vectors[name]
    for number, steps in enumerate(([], [1], [0, 1, 0, 1], [1 << 63, 1], [0, 1 << 62], [True, 1])):
        payload = canonical.encode({"sequences": steps, "reason": "x"})
        yield "erasure-payloads", f"steps-{number}", bytes([0x7F] * 8) + payload
    yield "extensions", "unordered", canonical.encode({"b.b": b"", "a.a": b""})
    yield "extensions", "empty-map", b"\x80"
    yield "extensions", "no-names", canonical.encode({"a": b"", "": b"1"})
    for number in (0, 0x0008, 0xD001, 0xF001, 0xFFFF, 0x10000):
        yield "kinds", f"{number:x}", number.to_bytes(4, "little")


def others() -> Iterator[bytes]:
    """Outcomes of each variant, canonical and as JSON."""
    error = OutcomeError(ErrorKind.INTERNAL, "text")
    for outcome in (Ok({"a": 1}), Ok(b"raw"), Err(error), Batch([Ok(1), Err(error), Batch([])])):
        yield canonical.encode(outcome)
        yield outcome.to_json().encode()
    yield b'"\\ud800"'
    yield b'{"Ok": NaN}'


def typed() -> Iterator[bytes]:
    """Values of the types that the typed target knows, after the number of the type."""
    everything = {
        "text": "t", "number": 1, "real": 1.5, "flag": True, "raw": b"r", "moment": 1_750_000,
        "name": bytes(16), "price": "1.50", "colour": "red",
        "place": {"entity": "lamp:1", "scope": "house"}, "event": bytes(16),
        "point": {"x": 1, "y": 2.0}, "many": [{"x": 1}], "table": {"a": 1}, "pair": [1, "x"],
    }  # fmt: skip
    values: tuple[object, ...] = (
        everything,
        {"name": "a", "children": [{"name": "b", "children": []}]},
        {"x": 1, "y": 2.0, "z": "unknown"},
        {"k": b"v"},
        {1: ["a"]},
        [{"x": 1}, None],
        1_750_000_000_000_000,
        [1, 2, 255],
        1,
        {"entity": "a", "scope": "b"},
        0xF001,
        {"any": [1, {"thing": b"x"}]},
    )
    for number, value in enumerate(values):
        yield bytes([number]) + canonical.encode(value)


def main() -> int:
    known = target.load()
    made = 0
    for name, seed, data in seeds():
        assert name in known, f"no target is called {name}"
        path = target.CORPUS / name / seed
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: known[name].max_bytes])
            made += 1
    print(f"made {made} inputs", json.dumps({n: len(target.stored(n)) for n in known}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
