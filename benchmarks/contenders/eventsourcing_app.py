"""The `eventsourcing` package as its guide shows it: an application, aggregates, its SQLite tables.

An entity is an aggregate, an event a call of its method, a commit one `save`. Payloads
are stored as its JSON. It keeps no hashes and no salt, so it does less per event than
the others. Its SQLite connection has no durability option and syncs each commit;
for the runs without a sync its connection is told `synchronous=OFF`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, cast
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.sqlite import SQLiteApplicationRecorder

from benchmarks.contenders import Scanned
from benchmarks.data import ENTITIES, Measurement

PAGE: Final = 1000
MEASURED: Final = "Measured"


class Sensor(Aggregate):
    """One entity; remembers its last value."""

    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.value = 0.0

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid5(NAMESPACE_URL, name)

    @event(MEASURED)
    def measure(
        self, number: int, at_us: int, quantity: str, value: float, valid: bool, note: str
    ) -> None:
        self.value = value


class Sensors(Application[UUID]):
    """Aggregates are kept by the caller, as a long-lived service would."""

    env: ClassVar[dict[str, str]] = {"PERSISTENCE_MODULE": "eventsourcing.sqlite"}
    log_section_size = PAGE


Prepared = tuple[Sensor, Measurement]


class Log:
    """See benchmarks.contenders.Log."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.durable = durable
        self.app = Sensors(env={"SQLITE_DBNAME": str(directory / "events.db")})
        self.recorder = cast("SQLiteApplicationRecorder", self.app.recorder)
        if not durable:
            self._pragma("PRAGMA synchronous=OFF")

    def _pragma(self, statement: str) -> Any:
        # A pool with one user hands out the same connection again and again.
        with self.recorder.datastore.get_connection(commit=True) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchone()

    def prepare(self, events: Sequence[Measurement]) -> list[Prepared]:
        sensors = [Sensor(name=entity) for entity in ENTITIES]
        self.app.save(*sensors)
        return [(sensors[event.number % len(sensors)], event) for event in events]

    def append_all(self, prepared: Sequence[Prepared]) -> None:
        save = self.app.save
        for sensor, m in prepared:
            sensor.measure(m.number, m.at_us, m.quantity, m.value, m.valid, m.note)
            save(sensor)

    def append_batches(self, prepared: Sequence[Prepared], size: int) -> None:
        save = self.app.save
        for start in range(0, len(prepared), size):
            changed = dict[int, Sensor]()
            for sensor, m in prepared[start : start + size]:
                sensor.measure(m.number, m.at_us, m.quantity, m.value, m.valid, m.note)
                changed[id(sensor)] = sensor
            save(*changed.values())

    def keys(self, numbers: Sequence[int]) -> list[tuple[UUID, int]]:
        """An aggregate's id and a version: the package has no other address of an event."""
        ids = [Sensor.create_id(entity) for entity in ENTITIES]
        return [(ids[number % len(ids)], number // len(ids) + 2) for number in numbers]

    def get_all(self, keys: Sequence[tuple[UUID, int]]) -> list[Measurement]:
        get = self.app.events.get
        found = list[Measurement]()
        for aggregate, version in keys:
            (stored,) = get(aggregate, gt=version - 1, lte=version)
            found.append(_measurement(stored))
        return found

    def scan(self) -> Scanned:
        count, sample = 0, list[Measurement]()
        select, decode = self.app.notification_log.select, self.app.mapper.to_domain_event
        measured: type = getattr(Sensor, MEASURED)  # made by the decorator
        start: int | None = 1
        while start is not None:
            page = select(start=start, limit=PAGE)
            for notification in page:
                value: Any = decode(notification)
                if type(value) is measured:
                    count += 1
                    if not count % 1000:
                        sample.append(_measurement(value))
            start = page[-1].id + 1 if len(page) == PAGE else None
        return Scanned(count, sample)

    def check_settings(self) -> None:
        mode = self._pragma("PRAGMA journal_mode")[0]
        level = self._pragma("PRAGMA synchronous")[0]
        if (mode, level) != ("wal", 2 if self.durable else 0):
            raise AssertionError(f"its SQLite runs with journal_mode={mode}, synchronous={level}")

    def close(self) -> None:
        self.app.close()


def _measurement(stored: Any) -> Measurement:
    return Measurement(
        stored.number, stored.at_us, stored.quantity, stored.value, stored.valid, stored.note
    )
