"""Say for each byte of a journal what it belongs to, by docs/format.md alone.

`regions` names every byte of every file; the names are the rows of the tables in
docs/damage.md. A record's name begins with what vouches for it:

    covered    a usable sidecar spares the open from looking at it
    sealed     no sidecar, but its segment has a successor
    proven     in the newest segment, below the durable bound that some witness knows
    unproven   in the newest segment, at or past that bound
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HEADER = 128
RECORD = struct.Struct("<4sIIIIIQQIIBBH8xI")
ROW = 176
SIDECAR_TABLE = 768


class Region(NamedTuple):
    """Bytes [start, end) of `file`, and what they are.

    `keeps` is how many events precede them: what is left when a record is cut here.
    `events` are the sequences whose record holds them.
    """

    file: str
    start: int
    end: int
    name: str
    keeps: int = 0
    events: range = range(0)


@dataclass(slots=True)
class StoredRecord:
    """A record and where its parts stand."""

    offset: int
    head_end: int
    end: int
    base: int
    count: int
    durable: int
    parts: list[tuple[int, int, str]]


def records(data: bytes) -> list[StoredRecord]:
    """The records of an undamaged segment, in order."""
    found: list[StoredRecord] = []
    at = HEADER
    while data[at : at + 4] == b"BPC1":
        fields = RECORD.unpack_from(data, at)
        head_len, body_len = fields[2], fields[3]
        base, durable, count, kind = fields[6], fields[7], fields[9], fields[10]
        head, body = at + 64, at + 64 + head_len
        record = StoredRecord(at, body, body + body_len, base, count, durable, [])
        what = "record header" if kind == 1 else "pad"
        record.parts += [(at, at + 4, what), (at + 4, at + 8, f"{what}, head_crc")]
        record.parts.append((at + 8, head, what))
        names, envelopes = head + ROW * count, body
        for i in range(count):
            row = head + ROW * i
            record.parts.append((row, row + ROW, "row"))
            (extensions,) = struct.unpack_from("<I", data, row + 84)
            entity, scope = struct.unpack_from("<HH", data, row + 94)
            record.parts.append((names, names + entity + scope + extensions, "names"))
            names += entity + scope + extensions
            (envelope,) = struct.unpack_from("<I", data, row + 100)
            record.parts.append((envelopes, envelopes + envelope, "envelope"))
            envelopes += envelope
        record.parts.append((names, body, "head padding"))
        record.parts.append((envelopes, record.end, "body padding"))
        found.append(record)
        at = record.end
    return found


def durable_bound(path: Path, newest: bytes) -> int:
    """D: the greatest bound that hint, sidecars and the newest segment's records know."""
    bounds = [record.durable for record in records(newest)]
    hint = path / "tail.hint"
    if hint.exists():
        bounds.append(struct.unpack_from("<Q", hint.read_bytes(), 48)[0])
    for sidecar in path.glob("segments/*.idx"):
        bounds.append(struct.unpack_from("<Q", sidecar.read_bytes(), 56)[0])
    return max(bounds, default=0)


def regions(path: str | os.PathLike[str]) -> list[Region]:
    """Every byte of the journal at `path`, which is undamaged and not open."""
    root = Path(path)
    found: list[Region] = []
    segments = sorted(root.glob("segments/*.seg"))
    bound = durable_bound(root, segments[-1].read_bytes())
    for segment in segments:
        found += segment_regions(root, segment, bound, newest=segment == segments[-1])
    for sidecar in sorted(root.glob("segments/*.idx")):
        found += sidecar_regions(root, sidecar)
    found += identity_regions(root)
    for name, what in (("tail.hint", "hint"), ("journal.lock", "lock")):
        file = root / name
        if file.exists():
            found.append(Region(name, 0, file.stat().st_size, what))
    _check_whole(root, found)
    return [region for region in found if region.start < region.end]


def _check_whole(root: Path, found: list[Region]) -> None:
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(file.relative_to(root))
        at = 0
        for region in sorted(r for r in found if r.file == name and r.start < r.end):
            assert region.start == at, f"{name}: bytes {at} to {region.start} have no name"
            at = region.end
        assert at == file.stat().st_size, f"{name}: bytes from {at} on have no name"


def segment_regions(root: Path, file: Path, bound: int, *, newest: bool) -> Iterator[Region]:
    name, data = str(file.relative_to(root)), file.read_bytes()
    sidecar = file.with_suffix(".idx")
    covered = last = 0
    if sidecar.exists():
        head = sidecar.read_bytes()
        (covered,) = struct.unpack_from("<Q", head, 48)
        (last,) = struct.unpack_from("<Q", head, 88)
    yield Region(name, 0, HEADER, "segment header", int(file.stem))
    at, keeps = HEADER, 0
    for record in records(data):
        until = record.base + record.count
        below = record.base < bound if record.count == 0 else until <= bound
        place = "proven" if below else "unproven"
        if record.end <= covered:
            place = "last covered" if record.offset == last else "covered"
        elif not newest:
            place = "sealed"
        for start, end, part in record.parts:
            if place != "last covered" and part.endswith("head_crc"):
                part = part.removesuffix(", head_crc")
            yield Region(
                name, start, end, f"{place} {part}", record.base, range(record.base, until)
            )
        at, keeps = record.end, until
    yield Region(name, at, len(data), "reserved space", keeps)


def sidecar_regions(root: Path, file: Path) -> Iterator[Region]:
    name, data = str(file.relative_to(root)), file.read_bytes()
    yield Region(name, 0, SIDECAR_TABLE, "sidecar header and table")
    at = SIDECAR_TABLE
    for entry in range(HEADER, SIDECAR_TABLE, 32):
        start, length = struct.unpack_from("<QQ", data, entry)
        yield Region(name, at, start, "sidecar gap")
        yield Region(name, start, start + length, "sidecar array")
        at = start + length
    yield Region(name, at, len(data), "sidecar gap")


def identity_regions(root: Path) -> Iterator[Region]:
    name = "journal.json"
    data = (root / name).read_bytes()
    values = {
        rb'"created_us": (\d+)': "identity, created_us",
        rb'"origin": "([^"]*)"': "identity, origin",
        rb'"(lineage)"': "identity, name of lineage",
    }
    cuts = sorted((match.span(1), what) for pattern, what in values.items()
                  for match in re.finditer(pattern, data))  # fmt: skip
    assert len(cuts) == len(values), "journal.json has another shape"
    at = 0
    for (start, end), what in cuts:
        yield Region(name, at, start, "identity, the rest")
        yield Region(name, start, end, what)
        at = end
    yield Region(name, at, len(data), "identity, the rest")
