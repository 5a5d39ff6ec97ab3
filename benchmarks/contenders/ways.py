"""batpak's other ways to write, each beside a plain append: by key, on conditions, queued."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from batpak import Coordinate, EventKind, Expect, Item, Region, Unless, operation_key
from benchmarks.contenders import ours
from benchmarks.data import BATCH, ENTITIES, Measurement

OLD: int = 100_000
"""Events that a condition looks at and that its decision has seen."""
WINDOW: int = 1_000
"""Tickets that whoever submits keeps at once."""
_NOTE = EventKind(0xF, 0x0BF)


class Keyed(ours.Log):
    """Every event under an idempotency key that is new."""

    def prepare(self, events: Sequence[Measurement]) -> list[Any]:
        return [
            (place, event, operation_key("measurement", str(event.number)))
            for place, event in super().prepare(events)
        ]

    def append_all(self, prepared: Sequence[Any]) -> None:
        append = self.store.append
        for place, event, key in prepared:
            append(place, event, key=key)


class Expecting(ours.Log):
    """Every event on the condition that its entity is where the caller saw it."""

    def prepare(self, events: Sequence[Measurement]) -> list[Any]:
        seen: dict[Coordinate, int | Expect] = {}
        prepared: list[Any] = []
        for place, event in super().prepare(events):
            last = seen.get(place, Expect.EMPTY)
            prepared.append((place, event, last))
            seen[place] = 0 if isinstance(last, Expect) else last + 1
        return prepared

    def append_all(self, prepared: Sequence[Any]) -> None:
        append = self.store.append
        for place, event, last in prepared:
            append(place, event, expect=last)


class Conditional(ours.Log):
    """Every event on the condition that nothing new came into a region of OLD events."""

    def prepare(self, events: Sequence[Measurement]) -> list[Any]:
        prepared = super().prepare(events)
        for start in range(0, OLD, BATCH):
            self.store.append_many(
                [
                    Item(prepared[number % len(ENTITIES)][0], {"n": number}, kind=_NOTE)
                    for number in range(start, start + BATCH)
                ]
            )
        return prepared

    def append_all(self, prepared: Sequence[Any]) -> None:
        append = self.store.append
        region = Region(entity=ENTITIES[0].partition(":")[0])
        seen = self.store.frontier().visible.sequence - 1
        for place, event in prepared:
            seen = append(place, event, unless=Unless(region, after=seen)).sequence


class Submitting(ours.Log):
    """Every event queued, and every ticket looked at, the last WINDOW of them at a time."""

    def append_all(self, prepared: Sequence[Any]) -> None:
        submit = self.store.submit
        tickets = deque[Any]()
        for place, event in prepared:
            if len(tickets) == WINDOW:
                tickets.popleft().result()
            tickets.append(submit(place, event))
        for ticket in tickets:
            ticket.result()
