"""Threads that write, retry, refuse and read at once: each call happened at one moment.

The histories are recorded from a real store with the interpreter switching threads as
often as it can; `tests/support/history.py` judges them. The checker itself is shown to
see what it has to: histories made up by hand, and stores with a bug planted in front.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Expect, Item, Region, Store, Unless
from batpak.config import Every
from batpak.errors import ConditionFailed, ExpectationFailed, IdempotencyConflict
from batpak.event import FLAG_KEYED
from batpak.receipt import AppendReceipt
from tests.support.effort import EXHAUSTIVE, SEED
from tests.support.faulty_files import UnsyncedFiles
from tests.support.history import Call, Fact, History, check

NOTE = EventKind(1, 7)
ENTITIES = ("a", "b", "c")
MODES = {
    "sync": Durability.SYNC,
    "os": Durability.OS,
    "every": Every(ms=3_600_000, events=3),
}
ROUNDS = 40 if EXHAUSTIVE else 6
THREADS = 4
STEPS = 40


@pytest.fixture(autouse=True)
def impatient_interpreter() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class YieldingFiles(UnsyncedFiles):
    """A disk during whose work other threads get on with theirs, up to the next lock.

    So what is decided before a lock is often old by the time that the lock is there.
    """

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        for _ in range(8):
            time.sleep(0)
        return os.pwrite(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        for _ in range(8):
            time.sleep(0)
        super().sync_data(fd)


class Actor:
    """One thread's calls; what it has seen is what its conditions are made of."""

    def __init__(self, store: Any, history: History, name: int, seed: str) -> None:
        self.store = store
        self.history = history
        self.chance = random.Random(seed)
        self.name = name
        self.number = 0
        self.seen: dict[str, tuple[int, int]] = {}
        """Of each entity: how many events it had, and the last one's sequence."""

    def run(self) -> None:
        calls = (
            self.expecting, self.expecting, self.keyed, self.keyed, self.unless, self.unless,
            self.batch, self.fenced, self.fenced, self.submitted, self.submitted_many,
            self.in_a_row, self.latest, self.latest, self.length,
        )  # fmt: skip
        for _ in range(STEPS):
            self.chance.choice(calls)()

    # --- parts ---------------------------------------------------------------------

    def entity(self) -> str:
        return self.chance.choice(ENTITIES)

    def content(self) -> list[int]:
        self.number += 1
        return [self.name, self.number]

    def believed(self, entity: str) -> int:
        """How many events the entity has, as far as this thread knows; at times wrong."""
        count = self.seen.get(entity, (0, -1))[0]
        return max(0, count + self.chance.choice((0, 0, 0, 1, -1)))

    def learn(self, receipts: Any) -> None:
        for receipt in receipts:
            self.seen[receipt.coordinate.entity] = receipt.clock + 1, receipt.sequence

    def write(self, call: Callable[[], Any], **known: Any) -> None:
        """Record a write: its receipts, or why it was refused."""

        def run(made: Call) -> None:
            try:
                answer = call()
            except ExpectationFailed as error:
                made.refused = "expect", 0 if error.actual is None else error.actual + 1
            except ConditionFailed as error:
                made.refused = "unless", error.sequence
            except IdempotencyConflict as error:
                made.refused = "key", error.sequence
            else:
                receipts = answer if isinstance(answer, tuple) else (answer,)
                sequences = [receipt.sequence for receipt in receipts]
                if receipts[0].replayed:
                    made.replayed = sequences
                else:
                    made.written = sequences
                self.learn(receipts)

        self.history.run(run, **known)

    # --- calls ---------------------------------------------------------------------

    def expecting(self) -> None:
        entity, content = self.entity(), self.content()
        count = self.believed(entity)
        expect = count - 1 if count else Expect.EMPTY
        self.write(
            lambda: self.store.append(at(entity), content, kind=NOTE, expect=expect),
            facts=[(entity, content, None)],
            expect=(entity, count),
        )

    def keyed(self) -> None:
        """Few keys, and two contents for each: new, retried, or in conflict."""
        key = self.chance.randrange(1, 13)
        entity, content = ENTITIES[key % 3], [0, self.chance.choice((0, 0, 1))]
        on_replay = "return" if self.chance.random() < 0.3 else "raise"
        options: dict[str, Any] = {"kind": NOTE, "key": key.to_bytes(16, "big")}
        asked = options | {"on_replay": on_replay}

        def fenced() -> Any:
            with self.store.fence(on_replay=on_replay) as fence:
                fence.append(at(entity), content, **options)
            return fence.receipts

        calls = (
            lambda: self.store.append(at(entity), content, **asked),
            lambda: self.store.submit(at(entity), content, **asked).result(60),
            fenced,
        )
        # The first twice as often: bugs are planted in front of it.
        self.write(self.chance.choice((calls[0], *calls)), facts=[(entity, content, key)])

    def unless(self) -> None:
        entity, content = self.entity(), self.content()
        ruled_out = self.entity()
        after = self.seen.get(ruled_out, (0, -1))[1]
        condition = Unless(Region(entity=ruled_out), after=None if after < 0 else after)
        self.write(
            lambda: self.store.append(at(entity), content, kind=NOTE, unless=condition),
            facts=[(entity, content, None)],
            unless=(ruled_out, after),
        )

    def batch(self) -> None:
        facts = [(self.entity(), self.content(), None) for _ in range(3)]
        count = self.believed(facts[0][0])
        self.write(
            lambda: self.store.append_many(
                [Item(at(entity), content, kind=NOTE) for entity, content, _ in facts],
                expect={facts[0][0]: count - 1 if count else Expect.EMPTY},
            ),
            facts=facts,
            expect=(facts[0][0], count),
        )

    def fenced(self) -> None:
        facts = [(self.entity(), self.content(), None) for _ in range(2)]
        expected, ruled_out = facts[0][0], self.entity()
        count, after = self.believed(expected), self.seen.get(ruled_out, (0, -1))[1]
        known: dict[str, Any] = {}
        asked: dict[str, Any] = {}
        if self.chance.random() < 0.5:
            known["expect"] = expected, count
            asked["expect"] = {expected: count - 1 if count else Expect.EMPTY}
        else:
            known["unless"] = ruled_out, after
            asked["unless"] = Unless(Region(entity=ruled_out), after=None if after < 0 else after)

        def call() -> tuple[AppendReceipt, ...]:
            with self.store.fence(**asked) as fence:
                for entity, content, _ in facts:
                    fence.append(at(entity), content, kind=NOTE)
            return fence.receipts

        self.write(call, facts=facts, **known)

    def submitted(self) -> None:
        entity, content = self.entity(), self.content()
        count = self.believed(entity)
        expect = count - 1 if count else Expect.EMPTY
        self.write(
            lambda: self.store.submit(at(entity), content, kind=NOTE, expect=expect).result(60),
            facts=[(entity, content, None)],
            expect=(entity, count),
        )

    def submitted_many(self) -> None:
        facts = [(self.entity(), self.content(), None) for _ in range(2)]
        ruled_out = self.entity()
        after = self.seen.get(ruled_out, (0, -1))[1]
        condition = Unless(Region(entity=ruled_out), after=None if after < 0 else after)
        items = [Item(at(entity), content, kind=NOTE) for entity, content, _ in facts]
        self.write(
            lambda: self.store.submit_many(items, unless=condition).result(60),
            facts=facts,
            unless=(ruled_out, after),
        )

    def in_a_row(self) -> None:
        """Submissions that nobody waits for until all of them are queued."""
        waiting: list[tuple[Call, Any]] = []
        for _ in range(3):
            entity, content = self.entity(), self.content()
            made = self.history.begin(facts=[(entity, content, None)])
            waiting.append((made, self.store.submit(at(entity), content, kind=NOTE)))
        receipts = [future.result(60) for _, future in waiting]
        for (made, _), receipt in zip(waiting, receipts, strict=True):
            made.written = [receipt.sequence]
            self.history.end(made)
        self.learn(receipts)
        order = [receipt.sequence for receipt in receipts]
        assert order == sorted(order), "a thread's submissions changed their order"

    def latest(self) -> None:
        entity = self.entity()

        def run(made: Call) -> None:
            event = self.store.latest(entity)
            made.read = "latest", entity, None if event is None else event.sequence
            if event is not None:
                self.seen[entity] = event.clock + 1, event.sequence

        self.history.run(run)

    def length(self) -> None:
        def run(made: Call) -> None:
            made.read = "len", len(self.store)

        self.history.run(run)


def at(entity: str) -> Coordinate:
    return Coordinate(entity, "s")


def recorded(
    path: Path, mode: str, seed: str, planted: Callable[[Store], Any] = lambda store: store
) -> tuple[list[Fact], list[Call]]:
    """The final log and the history of some threads on one store."""
    options = {"durability": MODES[mode], "segment_max_bytes": 1 << 14, "preallocate": 0}
    with Store.open(path, files=YieldingFiles(), **options) as store:
        history = History()
        front = planted(store)
        actors = [Actor(front, history, name, f"{seed} {name}") for name in range(1, THREADS + 1)]
        threads = [threading.Thread(target=actor.run, daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a thread sleeps for ever"
        assert store.verify("full").ok
        log = [
            Fact(
                event.coordinate.entity,
                event.clock,
                event.payload if event.kind == NOTE else None,
                int.from_bytes(event.event_id.bytes, "big")
                if event.row.flags & FLAG_KEYED
                else None,
            )
            for event in store
        ]
    return log, history.calls


@pytest.mark.proves("INV-LINEARISABLE")
@pytest.mark.parametrize("mode", MODES)
def test_every_call_happened_at_one_moment(mode: str, tmp_path: Path) -> None:
    kinds: dict[str, int] = {}
    for turn in range(ROUNDS):
        log, calls = recorded(tmp_path / str(turn), mode, f"{SEED} {mode} {turn}")
        assert len(calls) >= THREADS * STEPS
        assert check(log, calls) == []
        for call in calls:
            kind = "written" if call.written else "replayed" if call.replayed else ""
            kind = kind or "refused: " + call.refused[0] if call.refused else kind or "read"
            kinds[kind] = kinds.get(kind, 0) + 1
    print(f"{mode}: {sum(kinds.values())} calls: {kinds}")
    # A history in which nothing was refused or retried would show nothing.
    assert {
        "written",
        "replayed",
        "read",
        "refused: expect",
        "refused: unless",
        "refused: key",
    } <= set(kinds)


# --- the checker sees what it has to -----------------------------------------------


class Front:
    """A store with a bug in front of it; what is not overridden is the store's."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.first: dict[bytes, AppendReceipt] = {}
        self.shown: dict[str, Any] = {}
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def __len__(self) -> int:
        return len(self.store)

    def until_it_grows(self) -> None:
        """Let others in where a lock should be held."""
        length = len(self.store)
        for _ in range(2000):
            if len(self.store) > length:
                return
            time.sleep(0)


class UnlessBeforeTheLock(Front):
    def append(self, coordinate: Coordinate, payload: Any, **options: Any) -> AppendReceipt:
        unless = options.pop("unless", None)
        if unless is not None:
            for region in unless.regions:
                for event in self.store.query(region, after=unless.after):
                    raise ConditionFailed("there", sequence=event.sequence, region=repr(region))
            self.until_it_grows()
        return self.store.append(coordinate, payload, **options)


class ExpectBeforeTheLock(Front):
    def append(self, coordinate: Coordinate, payload: Any, **options: Any) -> AppendReceipt:
        expect = options.pop("expect", None)
        if expect is not None:
            last = self.store.latest(coordinate.entity)
            wanted = None if expect is Expect.EMPTY else expect
            actual = None if last is None else last.clock
            if actual != wanted:
                raise ExpectationFailed(
                    "other", entity=coordinate.entity, expected=wanted, actual=actual
                )
            self.until_it_grows()
        return self.store.append(coordinate, payload, **options)


class StaleReceipt(Front):
    """A retry gets the receipt that the last keyed append got, whatever its key was."""

    def append(self, coordinate: Coordinate, payload: Any, **options: Any) -> AppendReceipt:
        receipt = self.store.append(coordinate, payload, **options)
        if "key" not in options:
            return receipt
        with self.lock:
            stale = next(reversed(self.first.values()), receipt)
            self.first.setdefault(options["key"], receipt)
        return Retried(stale) if receipt.replayed else receipt  # type: ignore[return-value]  # has what is asked of a receipt


class Retried:
    """A receipt that says of itself that it is a retry's."""

    replayed = True

    def __init__(self, receipt: AppendReceipt) -> None:
        self.sequence = receipt.sequence
        self.clock = receipt.clock
        self.coordinate = receipt.coordinate


class ForgetfulKeys(Front):
    """Keys are looked up before the lock, in what this front has seen itself."""

    def append(self, coordinate: Coordinate, payload: Any, **options: Any) -> AppendReceipt:
        key = options.pop("key", None)
        if key is not None and key in self.first:
            return self.first[key]
        receipt = self.store.append(coordinate, payload, **options)
        if key is not None:
            self.first[key] = receipt
        return receipt


class StaleReads(Front):
    """Remembers what it showed first."""

    def latest(self, entity: str) -> Any:
        event = self.shown.get(entity)
        if event is None:
            event = self.shown[entity] = self.store.latest(entity)
        return event


class LengthBeforeItIsThere(Front):
    def __len__(self) -> int:
        return len(self.store) + 1


class AnsweredTooEarly(Front):
    """Says "refused" of an entity's clock as it was at the beginning."""

    def append(self, coordinate: Coordinate, payload: Any, **options: Any) -> AppendReceipt:
        try:
            return self.store.append(coordinate, payload, **options)
        except ExpectationFailed as error:
            error.actual = None
            raise


@pytest.mark.parametrize(
    "planted",
    [
        UnlessBeforeTheLock, ExpectBeforeTheLock, StaleReceipt, ForgetfulKeys, StaleReads,
        LengthBeforeItIsThere, AnsweredTooEarly,
    ],
)  # fmt: skip
def test_a_planted_bug_is_seen(planted: type[Front], tmp_path: Path) -> None:
    found: list[str] = []
    for turn in range(10):
        log, calls = recorded(tmp_path / str(turn), "os", f"planted {turn}", planted)
        found = check(log, calls)
        if found:
            break
    assert found, "ten histories, and nothing is wrong with them"


GOOD_LOG = [Fact("x", 0, None), Fact("a", 0, 1), Fact("b", 0, 2, 9), Fact("a", 1, 3)]
GOOD = [
    Call(0, 1, [("a", 1, None)], expect=("a", 0), written=[1]),
    Call(2, 5, [("b", 2, 9)], written=[2]),
    Call(3, 4, read=("len", 2)),
    Call(6, 9, [("a", 3, None)], expect=("a", 1), unless=("b", 2), written=[3]),
    Call(7, 8, [("b", 2, 9)], replayed=[2]),
    Call(10, 11, [("a", 4, None)], expect=("a", 1), refused=("expect", 2)),
    Call(12, 13, [("a", 4, None)], unless=("a", 1), refused=("unless", 3)),
    Call(14, 15, [("b", 7, 9)], refused=("key", 2)),
    Call(16, 17, read=("latest", "a", 3)),
    Call(18, 19, read=("latest", "c", None)),
]
BAD: dict[str, tuple[int, dict[str, Any]]] = {
    "acknowledged and not there": (0, {"written": [4]}),
    "acknowledged at another's place": (0, {"written": [3]}),
    "behind what began after it ended": (2, {"read": ("len", 4), "begin": 3}),
    "a length that shrinks": (8, {"read": ("len", 3)}),
    "expect on another length": (3, {"expect": ("a", 2)}),
    "unless on another length": (3, {"unless": ("b", 1)}),
    "a stranger's receipt": (4, {"replayed": [1]}),
    "known before it was there": (0, {"facts": [("b", 2, 9)], "written": (), "replayed": [2]}),
    "refused for a length that never was": (5, {"refused": ("expect", 0)}),
    "refused for the length that was expected": (5, {"expect": ("a", 2)}),
    "refused for what is not after": (6, {"refused": ("unless", 1)}),
    "refused for another entity": (6, {"refused": ("unless", 2)}),
    "in conflict with itself": (7, {"facts": [("b", 2, 9)]}),
    "in conflict with another key": (7, {"refused": ("key", 3)}),
    "not the latest": (8, {"read": ("latest", "a", 1)}),
    "another entity's latest": (8, {"read": ("latest", "a", 2)}),
    "none where there is one": (9, {"read": ("latest", "b", None)}),
    "nothing came of it": (0, {"written": ()}),
}


def test_a_history_that_could_have_happened_is_let_through() -> None:
    assert check(GOOD_LOG, GOOD) == []


@pytest.mark.parametrize("what", BAD)
def test_a_history_that_could_not_have_happened_is_named(what: str) -> None:
    place, changes = BAD[what]
    calls = [replace(call) for call in GOOD]
    calls[place] = replace(calls[place], **changes)
    assert check(GOOD_LOG, calls) != []


def test_events_that_nobody_was_told_of_are_named() -> None:
    assert check([*GOOD_LOG, Fact("a", 2, 5)], GOOD) == ["there are events that nobody was told of"]
    assert "one place was given to two events" in check(GOOD_LOG, [*GOOD, replace(GOOD[0])])
    twice = [*GOOD_LOG, Fact("b", 1, 2, 9)]
    assert "key 9 stands for two events" in check(twice, GOOD)
