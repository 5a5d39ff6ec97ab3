"""An events table in SQLite, as one would write it with care: batpak's columns and hashes.

Write-ahead log, a unique id, an index by entity and one by kind, rows and payloads
hashed and chained by hand exactly as batpak does, prepared statements (the module
caches them), one connection. `durable` is `synchronous=FULL`, otherwise `OFF`.
Reads
ask for the one column that they need; `verify` reads all. Threads share the connection
under a lock: separate writers only wait for each other.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from benchmarks.contenders import Scanned
from benchmarks.data import SCOPE, Measurement, entity_of

ROW: Final = struct.Struct("<Q16s16s16sqQIIIIHHHHHBBIQ32s32s")
EVENT: Final = b"batpak/event/v1\0"
CONTENT: Final = b"batpak/content/v1\0\x01"
KIND: Final = 0xF0BE
NONE: Final = bytes(16)
ROOT: Final = bytes(32)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, event_id BLOB NOT NULL UNIQUE, correlation_id BLOB NOT NULL,
    causation_id BLOB NOT NULL, timestamp_us INTEGER NOT NULL, hlc INTEGER NOT NULL,
    clock INTEGER NOT NULL, lane INTEGER NOT NULL, depth INTEGER NOT NULL,
    kind INTEGER NOT NULL, payload_version INTEGER NOT NULL, flags INTEGER NOT NULL,
    codec INTEGER NOT NULL, entity TEXT NOT NULL, scope TEXT NOT NULL, envelope BLOB NOT NULL,
    content_hash BLOB NOT NULL, prev_hash BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_entity ON events (entity, clock);
CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind);
"""
INSERT: Final = f"INSERT INTO events VALUES ({','.join('?' * 18)})"

Values = tuple[object, ...]
Prepared = tuple[str, Measurement]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Measurement).decode


class Log:
    """See benchmarks.contenders.Log."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.durable = durable
        self.lock = threading.Lock()
        self.database = sqlite3.connect(
            directory / "events.db", isolation_level=None, check_same_thread=False
        )
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        self.database.executescript(SCHEMA)
        self.sequence: int = self.database.execute("SELECT count(*) FROM events").fetchone()[0]
        if self.sequence:
            return  # only read from: an append would need each entity's last hash
        self.hlc = 0
        self.heads: dict[str, tuple[int, bytes]] = {}

    def prepare(self, events: Sequence[Measurement]) -> list[Prepared]:
        return [(entity_of(event.number), event) for event in events]

    def append_all(self, prepared: Sequence[Prepared]) -> None:
        lock, execute, row = self.lock, self.database.execute, self._row
        for entity, event in prepared:
            raw = _encode(event)
            with lock:
                execute(INSERT, row(entity, raw))

    def append_batches(self, prepared: Sequence[Prepared], size: int) -> None:
        database, row = self.database, self._row
        for start in range(0, len(prepared), size):
            some = prepared[start : start + size]
            database.execute("BEGIN IMMEDIATE")
            database.executemany(INSERT, [row(entity, _encode(event)) for entity, event in some])
            database.execute("COMMIT")

    def _row(self, entity: str, payload: bytes) -> Values:
        sequence = self.sequence
        self.sequence = sequence + 1
        now_us = time.time_ns() // 1000
        hlc = self.hlc = max(self.hlc + 1, now_us // 1000 << 16)
        chance = os.urandom(24)
        event_id = (
            (hlc >> 16 << 16 | 0x7000 | (hlc & 0xFFFF) >> 4) << 64
            | 1 << 63
            | (hlc & 0xF) << 58
            | int.from_bytes(chance[:8]) >> 6
        ).to_bytes(16)
        envelope = chance[8:] + payload
        content = blake3(CONTENT + envelope).digest()
        clock, previous = self.heads.get(entity, (0, ROOT))
        names = (entity + SCOPE).encode()
        row = ROW.pack(
            sequence, event_id, event_id, NONE, now_us, hlc, clock, 0, 0, 0, KIND, 1, 0,
            len(names) - len(SCOPE), len(SCOPE), 1, 1, len(envelope), 0, content, previous,
        )  # fmt: skip
        self.heads[entity] = clock + 1, blake3(EVENT + row + names).digest()
        return (
            sequence, event_id, event_id, NONE, now_us, hlc, clock, 0, 0, KIND, 1, 0, 1,
            entity, SCOPE, envelope, content, previous,
        )  # fmt: skip

    def keys(self, numbers: Sequence[int]) -> list[bytes]:
        rows = self.database.execute("SELECT event_id FROM events ORDER BY sequence").fetchall()
        return [rows[number][0] for number in numbers]

    def get_all(self, keys: Sequence[bytes]) -> list[Measurement]:
        execute = self.database.execute
        found = list[Measurement]()
        for key in keys:
            row = execute("SELECT envelope FROM events WHERE event_id = ?", (key,)).fetchone()
            found.append(_decode(memoryview(row[0])[16:]))
        return found

    def scan(self) -> Scanned:
        count, sample = 0, list[Measurement]()
        for row in self.database.execute("SELECT envelope FROM events ORDER BY sequence"):
            value = _decode(memoryview(row[0])[16:])
            if type(value) is Measurement:
                count += 1
                if not count % 1000:
                    sample.append(value)
        return Scanned(count, sample)

    def verify(self) -> int:
        heads: dict[str, tuple[int, bytes]] = {}
        count = 0
        for (
            sequence, event_id, correlation, causation, at, hlc, clock, lane, depth, kind,
            version, flags, codec, entity, scope, envelope, content, previous,
        ) in self.database.execute("SELECT * FROM events ORDER BY sequence"):  # fmt: skip
            names = (entity + scope).encode()
            row = ROW.pack(
                sequence, event_id, correlation, causation, at, hlc, clock, lane, depth, 0, kind,
                version, flags, len(names) - len(scope), len(scope), 1, codec, len(envelope), 0,
                content, previous,
            )  # fmt: skip
            if (
                sequence != count
                or blake3(CONTENT + envelope).digest() != content
                or heads.get(entity, (0, ROOT)) != (clock, previous)
            ):
                raise AssertionError(f"row {sequence} doesn't verify")
            heads[entity] = clock + 1, blake3(EVENT + row + names).digest()
            count += 1
        return count

    def check_settings(self) -> None:
        mode = self.database.execute("PRAGMA journal_mode").fetchone()[0]
        level = self.database.execute("PRAGMA synchronous").fetchone()[0]
        if (mode, level) != ("wal", 2 if self.durable else 0):
            raise AssertionError(f"SQLite runs with journal_mode={mode}, synchronous={level}")

    def close(self) -> None:
        self.database.close()
