"""batpak through its public calls, with its default options but for durability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batpak import Coordinate, Durability, EventId, Item, Region, Store, payload
from benchmarks.contenders import Scanned
from benchmarks.data import ENTITIES, SCOPE, Measurement

payload(category=0xF, type_id=0x0BE)(Measurement)

Prepared = tuple[Coordinate, Measurement]


class Log:
    """See benchmarks.contenders.Log."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.durability = Durability.SYNC if durable else Durability.OS
        self.store = Store.open(directory / "journal", durability=self.durability)

    def prepare(self, events: Sequence[Measurement]) -> list[Prepared]:
        places = [Coordinate(entity, SCOPE) for entity in ENTITIES]
        return [(places[event.number % len(places)], event) for event in events]

    def append_all(self, prepared: Sequence[Prepared]) -> None:
        append = self.store.append
        for coordinate, event in prepared:
            append(coordinate, event)

    def append_batches(self, prepared: Sequence[Prepared], size: int) -> None:
        append_many = self.store.append_many
        for start in range(0, len(prepared), size):
            append_many([Item(place, event) for place, event in prepared[start : start + size]])

    def keys(self, numbers: Sequence[int]) -> list[EventId]:
        found = {
            event.payload.number: event.event_id
            for event in self.store.query(Region(kind=Measurement))
        }
        return [found[number] for number in numbers]

    def get_all(self, keys: Sequence[EventId]) -> list[Measurement]:
        get = self.store.get
        return [get(key).payload for key in keys]

    def scan(self) -> Scanned:
        count, sample = 0, list[Measurement]()
        for event in self.store.query(Region.all()):
            value = event.payload
            if type(value) is Measurement:  # the journal's own opens and closes are events too
                count += 1
                if not count % 1000:
                    sample.append(value)
        return Scanned(count, sample)

    def verify(self) -> int:
        report = self.store.verify("full")
        if not report.ok:
            raise AssertionError(f"verify found {report.findings[:3]}")
        return report.events

    def check_settings(self) -> None:
        frontier = self.store.frontier()
        is_durable = frontier.durable.sequence == frontier.written.sequence
        if is_durable != (self.durability is Durability.SYNC):
            raise AssertionError(f"asked for {self.durability}, but the frontier is {frontier}")

    def close(self) -> None:
        self.store.close()
