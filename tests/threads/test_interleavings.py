"""The races that matter, in every order of their steps: docs/durability.md, "Races".

`tests/support/turns.py` says how threads take turns. Where all orders would be too many, one
or two preemptions are allowed, and one more in an exhaustive run; of the largest races a
short run draws some orders by the seed. Bugs planted in front of a store show that orders
are found which matter.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    Coordinate,
    Durability,
    EventKind,
    Expect,
    Indeterminate,
    Item,
    Region,
    Store,
    Unless,
    Watermark,
)
from batpak.errors import (
    BatpakError,
    Cancelled,
    ConditionFailed,
    ExpectationFailed,
    FenceEnded,
    JournalLocked,
    JournalPoisoned,
    PayloadErased,
    StoreClosed,
    WaitTimeout,
)
from tests.support.effort import EXHAUSTIVE, SEED, draws
from tests.support.faulty_files import DISK
from tests.support.turns import SteppingFiles, Turns, explore, known_locks

NOTE = EventKind(1, 7)
KEY = bytes(15) + b"\1"
SYNC = {"durability": Durability.SYNC}
OS = {"durability": Durability.OS}
SMALL = {"segment_max_bytes": 4096}
WRITES = ("pwrite", "sync_data", "hint")


def at(entity: str) -> Coordinate:
    return Coordinate(entity, "s")


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch) -> None:
    known_locks(monkeypatch)


@dataclass
class Scene:
    """One journal of one run; what each actor's call came to."""

    path: Path
    options: dict[str, Any]
    files: SteppingFiles = field(default_factory=SteppingFiles)
    came: dict[str, Any] = field(default_factory=dict[str, Any])
    store: Any = None

    def open(self) -> None:
        self.store = Store.open(self.path, files=self.files, preallocate=0, **self.options)

    def doing(self, name: str, call: Callable[[], Any]) -> Callable[[], None]:
        """An actor that makes this call and keeps what came of it."""

        def act() -> None:
            try:
                self.came[name] = call()
            except BatpakError as error:
                self.came[name] = error

        return act

    def errors(self) -> list[BatpakError]:
        return [each for each in self.came.values() if isinstance(each, BatpakError)]

    def notes(self, store: Any = None) -> list[Any]:
        """The payloads of all that actors wrote, in order."""
        return [e.value for e in (self.store if store is None else store) if e.kind == NOTE]


Actors = dict[str, Callable[[], None]]


@dataclass(frozen=True)
class Race:
    """`actors` begin on the open store; `judge` looks at what came of them."""

    actors: Callable[[Scene], Actors]
    judge: Callable[[Scene], None]
    steps: tuple[str, ...]
    options: dict[str, Any]
    before: Callable[[Scene], None] = lambda scene: None
    preemptions: int | None = 2
    is_impatient: bool = False
    most: int = 0
    """Orders that a short run draws, where it can't take all of them."""
    leaves_open: bool = True
    """Whether the store goes on: no actor closes it or breaks its disk."""


# --- A, B: one key, one place ----------------------------------------------------------


def same_key(scene: Scene) -> Actors:
    def append() -> Any:
        return scene.store.append(at("a"), 1, kind=NOTE, key=KEY)

    return {name: scene.doing(name, append) for name in ("one", "two")}


def once(scene: Scene) -> None:
    one, two = scene.came["one"], scene.came["two"]
    assert one == two or one.event_hash == two.event_hash
    assert sorted((one.replayed, two.replayed)) == [False, True]
    assert scene.notes() == [1]


def same_place(scene: Scene) -> Actors:
    def append(n: int) -> Any:
        return scene.store.append(at("a"), n, kind=NOTE, expect=Expect.EMPTY)

    return {f"{n}": scene.doing(f"{n}", lambda n=n: append(n)) for n in (1, 2)}


def one_wins(scene: Scene) -> None:
    [error] = scene.errors()
    assert isinstance(error, ExpectationFailed)
    assert (error.expected, error.actual) == (None, 0)
    assert len(scene.notes()) == 1


def same_decision(scene: Scene) -> Actors:
    """Each rules out what the other writes."""

    def append(n: int) -> Any:
        return scene.store.append(
            at(f"seat:{n}"), n, kind=NOTE, unless=Unless(Region(entity="seat"))
        )

    return {f"{n}": scene.doing(f"{n}", lambda n=n: append(n)) for n in (1, 2)}


def one_is_decided(scene: Scene) -> None:
    [error] = scene.errors()
    assert isinstance(error, ConditionFailed)
    assert len(scene.notes()) == 1


# --- C, H: failures and waits -----------------------------------------------------------


def break_syncs(scene: Scene) -> None:
    scene.files.failing["sync_data"] = OSError(errno.EIO, "planted")
    scene.files.calls.clear()


def two_append(scene: Scene) -> Actors:
    return {
        f"{n}": scene.doing(f"{n}", lambda n=n: scene.store.append(at("a"), n, kind=NOTE))
        for n in (1, 2)
    }


def both_are_told(scene: Scene) -> None:
    """One sync fails and no second is tried; what may be there is told as such."""
    written = {1, 2}
    for n in (1, 2):
        error = scene.came[str(n)]
        if isinstance(error, JournalPoisoned):
            written.discard(n)
        else:
            assert isinstance(error, Indeterminate)
            assert error.receipt is not None
    assert scene.files.calls.count("sync_data") == 1
    with pytest.raises(JournalPoisoned):
        scene.store.append(at("a"), 3, kind=NOTE)
    scene.files.failing.clear()
    with suppress(JournalPoisoned):
        scene.store.close()
    with Store.open(scene.path, files=DISK) as again:
        assert set(scene.notes(again)) == written


def write_one(scene: Scene) -> None:
    scene.came["first"] = scene.store.append(at("a"), 0, kind=NOTE)


def waiters(scene: Scene) -> Actors:
    """One that waits, one that waits as well, one that writes and waits."""
    store, receipt = scene.store, scene.came["first"]
    return {
        "waits": scene.doing("waits", lambda: store.wait_for(Watermark.DURABLE, receipt)),
        "syncs": scene.doing("syncs", store.sync),
        "writes": scene.doing("writes", lambda: store.append(at("b"), 1, kind=NOTE, durable=True)),
    }


def all_woke(scene: Scene) -> None:
    assert scene.errors() == []
    assert scene.store.pressure().is_idle
    assert scene.store.frontier().durable.sequence == len(scene.store)


def waiters_in_vain(scene: Scene) -> None:
    write_one(scene)
    break_syncs(scene)


def all_woke_to_the_failure(scene: Scene) -> None:
    assert len(scene.errors()) == 3
    assert scene.files.calls.count("sync_data") == 1
    assert scene.store.frontier().durable.sequence == 1


def impatient(scene: Scene) -> Actors:
    store, receipt = scene.store, scene.came["first"]
    return {
        "waits": scene.doing(
            "waits", lambda: store.wait_for(Watermark.DURABLE, receipt, timeout=1)
        ),
        "syncs": scene.doing("syncs", store.sync),
        "third": scene.doing("third", store.sync),
    }


def only_the_impatient_left(scene: Scene) -> None:
    waited = scene.came["waits"]
    assert waited is None or isinstance(waited, WaitTimeout)
    assert scene.came["syncs"] is scene.came["third"] is None
    assert scene.store.pressure().is_idle


# --- E, G, K: what readers see ------------------------------------------------------------


def batch_and_reader(scene: Scene) -> Actors:
    def write() -> Any:
        return scene.store.append_many([Item(at("a"), n, kind=NOTE) for n in range(3)])

    return {"writes": scene.doing("writes", write), "reads": scene.doing("reads", look(scene, 3))}


def look(scene: Scene, size: int) -> Callable[[], list[int]]:
    """Look twice: numbers of events, by several ways of asking, each for itself."""

    def reads() -> list[int]:
        seen: list[int] = []
        for _ in range(2):
            seen.append(len(scene.store))
            found = list(scene.store)
            assert [event.sequence for event in found] == list(range(len(found)))
            seen.append(len(found))
            seen.append(1 + scene.store.count(Region(entity="a")))
            for event in found:
                # What is visible is found, by whatever leads to it.
                assert scene.store.get(event.event_id) == event
                assert scene.store.latest(event.coordinate.entity).sequence >= event.sequence
        assert seen == sorted(seen), "what was seen is gone"
        return seen

    return reads


def none_or_all(scene: Scene) -> None:
    assert set(scene.came["reads"]) <= {1, 4}


def follow(scene: Scene) -> None:
    scene.came["reader"] = Store.open(scene.path, mode="r", files=DISK)


def writer_and_follower(scene: Scene) -> Actors:
    """Whatever the follower sees is on the disk by then."""
    reader, files = scene.came["reader"], scene.files
    segment = "00000000000000000000.seg"

    def reads() -> list[int]:
        seen: list[int] = []
        for _ in range(2):
            seen.append(reader.refresh())
            if seen[-1] > 1:
                assert files.synced.get(segment, 0) == files.written[segment]
            assert len(list(reader)) == seen[-1]
        return seen

    def write() -> Any:
        return scene.store.append_many([Item(at("a"), n, kind=NOTE) for n in range(3)])

    return {"writes": scene.doing("writes", write), "reads": scene.doing("reads", reads)}


def followed(scene: Scene) -> None:
    assert set(scene.came["reads"]) <= {1, 4}
    assert scene.came["reader"].refresh() == 4
    scene.came["reader"].close()


# --- F, J, L: queue, fence, the end ----------------------------------------------------------


def senders_and_drainer(scene: Scene) -> Actors:
    futures: list[Any] = []
    scene.came["futures"] = futures

    def send(n: int) -> None:
        futures.append(scene.store.submit(at("a"), n, kind=NOTE))

    def drain() -> None:
        sent = list(futures)
        scene.store.sync()
        assert all(future.done() for future in sent), "it drained too little"
        durable = scene.store.frontier().durable.sequence
        assert all(future.result(0).sequence < durable for future in sent)

    return {
        "one": scene.doing("one", lambda: send(1)),
        "two": scene.doing("two", lambda: send(2)),
        "drains": scene.doing("drains", drain),
    }


def each_once(scene: Scene) -> None:
    assert scene.errors() == []
    scene.store.sync()
    assert all(future.done() for future in scene.came["futures"])
    assert sorted(scene.notes()) == [1, 2]


def fence_and_closer(scene: Scene) -> Actors:
    def fenced() -> Any:
        with scene.store.fence() as fence:
            scene.came["tickets"] = fence.append_many([Item(at("a"), n, kind=NOTE) for n in (1, 2)])
        return fence.receipts

    def send() -> Any:
        return scene.store.submit(at("b"), 3, kind=NOTE)

    return {
        "fenced": scene.doing("fenced", fenced),
        "sends": scene.doing("sends", send),
        "closes": scene.doing("closes", scene.store.close),
    }


def all_or_nothing(scene: Scene) -> None:
    assert scene.came["closes"] is None
    with Store.open(scene.path, files=DISK) as again:
        found = scene.notes(again)
    fenced = scene.came["fenced"]
    if isinstance(fenced, BatpakError):
        assert isinstance(fenced, (FenceEnded, StoreClosed))
        assert not {1, 2} & set(found)
    else:
        assert [n for n in found if n != 3] == [1, 2]
    for ticket in scene.came.get("tickets", ()):
        assert ticket.done()
        assert (ticket.exception(0) is None) == (1 in found)
    answered(scene.came["sends"], 3, found)


def answered(future: Any, number: int, found: list[Any]) -> None:
    """A submission gets one answer, and the answer is true."""
    if isinstance(future, BatpakError):
        assert isinstance(future, StoreClosed)
        assert number not in found
        return
    assert future.done(), "nobody answered"
    error = future.exception(0)
    assert error is None or isinstance(error, (Cancelled, StoreClosed))
    assert (error is None) == (number in found)


def senders_and_closer(scene: Scene, timeout: float | None) -> Actors:
    def send(n: int) -> Any:
        return scene.store.submit(at("a"), n, kind=NOTE)

    return {
        "one": scene.doing("one", lambda: send(1)),
        "two": scene.doing("two", lambda: send(2)),
        "closes": scene.doing("closes", lambda: scene.store.close(timeout)),
    }


def everybody_is_answered(scene: Scene) -> None:
    assert scene.came["closes"] is None
    with Store.open(scene.path, files=DISK) as again:
        found = scene.notes(again)
    answered(scene.came["one"], 1, found)
    answered(scene.came["two"], 2, found)
    assert len(found) == len(set(found))


def appender_and_closer(scene: Scene) -> Actors:
    return {
        "appends": scene.doing("appends", lambda: scene.store.append(at("a"), 1, kind=NOTE)),
        "closes": scene.doing("closes", scene.store.close),
    }


def nothing_follows_the_end(scene: Scene) -> None:
    assert scene.came["closes"] is None
    appended = scene.came["appends"]
    with Store.open(scene.path, files=DISK, mode="r") as again:
        *_, last = again
        assert last.kind.raw == 0x0009, "the close event is the last one"
        assert last.value["events"] == last.sequence
        assert again.verify("full").ok
        if isinstance(appended, BatpakError):
            assert isinstance(appended, StoreClosed)
            assert scene.notes(again) == []
        else:
            assert again.at(appended.sequence).event_hash == appended.event_hash
            assert scene.notes(again) == [1]


# --- D, M, N: segments -------------------------------------------------------------------


def fill_and_erase(scene: Scene) -> None:
    number = itertools.count(100)
    while len(list((scene.path / "segments").glob("*.seg"))) < 2:
        scene.store.append(at("old"), next(number), kind=NOTE)
    scene.store.erase([3, 4], reason="asked for")
    scene.came["hashes"] = [event.event_hash for event in scene.store]


def compactors_and_appender(scene: Scene) -> Actors:
    store = scene.store
    return {
        "one": scene.doing("one", store.compact),
        "two": scene.doing("two", store.compact),
        "appends": scene.doing("appends", lambda: store.append(at("new"), 1, kind=NOTE)),
    }


def compacted_once(scene: Scene) -> None:
    assert sorted(scene.came[name].outcome for name in ("one", "two")) == ["performed", "skipped"]
    receipt, before = scene.came["appends"], scene.came["hashes"]
    assert [event.event_hash for event in scene.store][: len(before)] == before
    assert scene.store.get(receipt.event_id).value == 1
    assert scene.store.latest("new").sequence == receipt.sequence
    assert scene.store.plan_compaction().payloads == 0


def eraser_and_reader(scene: Scene) -> Actors:
    """What was erased before a read began is refused to it."""
    store = scene.store
    told: list[bool] = []

    def erase() -> None:
        store.erase([5], reason="asked for")
        told.append(True)
        store.compact()

    def reads() -> None:
        for _ in range(3):
            is_told = bool(told)
            try:
                shown = store.at(5).raw
            except PayloadErased:
                continue
            assert shown
            assert not is_told, "an erased payload is shown"

    return {"erases": scene.doing("erases", erase), "reads": scene.doing("reads", reads)}


def erased(scene: Scene) -> None:
    assert scene.errors() == []
    with pytest.raises(PayloadErased):
        scene.store.at(5).raw  # noqa: B018  # that it raises is the point


def appender_and_snapshot(scene: Scene) -> Actors:
    def write() -> None:
        for n in (1, 2):
            scene.came["acknowledged"] = scene.store.append(at("a"), n, kind=NOTE).sequence + 1

    def copy() -> Any:
        known = scene.came.get("acknowledged", 0)
        return known, scene.store.snapshot(scene.path.with_name("copy"))

    return {"writes": scene.doing("writes", write), "copies": scene.doing("copies", copy)}


def copied_a_prefix(scene: Scene) -> None:
    known, report = scene.came["copies"]
    copy = scene.path.with_name("copy")
    with Store.open(copy, mode="r", files=DISK) as reader:
        assert len(reader) == report.events >= known
        assert [e.event_hash for e in reader] == [e.event_hash for e in scene.store][: len(reader)]
        assert reader.verify("full").ok
    shutil.rmtree(copy)


def fill(scene: Scene) -> None:
    """Up to where the next commit begins a new segment."""
    number = itertools.count(100)
    while scene.store.stats().segment_bytes < 4096:
        scene.store.append(at("old"), next(number), kind=NOTE)


def rotation(scene: Scene) -> Actors:
    store, files = scene.store, scene.files

    def write() -> None:
        receipt = store.append(at("a"), 1, kind=NOTE)
        # It is the first of its segment.
        name = f"{receipt.sequence:020}.seg"
        end = files.written[name]
        store.wait_for(Watermark.DURABLE, receipt)
        assert files.synced.get(name, 0) >= end, "it was told durable, and no sync was made"

    def sample() -> None:
        last = None
        for _ in range(3):
            now = store.frontier()
            assert now.durable <= now.visible <= now.written <= now.accepted
            assert last is None or (last.durable <= now.durable and last.written <= now.written)
            last = now

    return {
        "writes": scene.doing("writes", write),
        "syncs": scene.doing("syncs", store.sync),
        "samples": scene.doing("samples", sample),
    }


def rotated(scene: Scene) -> None:
    assert scene.errors() == []
    assert scene.store.stats().segments == 2


RACES = {
    "A: two retries of one key": Race(same_key, once, (*WRITES, "Writer.commit_one"), SYNC),
    "A: two retries of one key, in OS": Race(
        same_key, once, ("pwrite", "Writer.commit", "Writer.commit_one"), OS, preemptions=None
    ),
    "B: two that expect an empty stream": Race(
        same_place, one_wins, ("pwrite", "Writer.commit_one"), OS, preemptions=None
    ),
    "B: two that expect an empty stream, in SYNC": Race(
        same_place, one_wins, (*WRITES, "Writer.commit_one"), SYNC
    ),
    "B: two decisions over one region": Race(
        same_decision, one_is_decided, ("pwrite", "Guard.look", "Guard.__call__"), OS,
        preemptions=None,
    ),
    "C: a sync fails under two": Race(
        two_append, both_are_told, (*WRITES, "GroupCommit._lead"), SYNC, break_syncs,
        leaves_open=False,
    ),
    "D: two compactions and an append": Race(
        compactors_and_appender, compacted_once, ("pwrite", "rename", "Index.replace"),
        OS | SMALL, fill_and_erase, preemptions=1,
    ),
    "D: an erasure, a compaction and a reader": Race(
        eraser_and_reader, erased, ("pwrite", "rename", "LogReader._at"), OS | SMALL,
        fill_and_erase,
    ),
    "E: a batch and a reader": Race(
        batch_and_reader, none_or_all,
        (*WRITES, "GrowingPart.add_many", "_Reading.__iter__", "_Reading.count"), SYNC,
    ),
    "E: a batch and a reader, in OS": Race(
        batch_and_reader, none_or_all,
        ("pwrite", "GrowingPart.add_many", "_Reading.__iter__", "_Reading.count", "_Reading.get"),
        OS,
    ),
    "F: two submissions and a sync": Race(
        senders_and_drainer, each_once,
        ("pwrite", "SubmitQueue._try_to_put", "SubmitQueue._turn", "SubmitQueue.drain"), OS,
        preemptions=1, most=80,
    ),
    "H: three that wait": Race(
        waiters, all_woke, (*WRITES, "GroupCommit._lead", "GroupCommit._hand_over"), OS, write_one,
        preemptions=1,
    ),
    "H: three that wait in vain": Race(
        waiters, all_woke_to_the_failure, (*WRITES, "GroupCommit._lead", "GroupCommit._hand_over"),
        OS, waiters_in_vain, leaves_open=False,
        preemptions=1,
    ),
    "H: one that has no patience": Race(
        impatient, only_the_impatient_left,
        (*WRITES, "GroupCommit._lead", "GroupCommit._hand_over"), OS, write_one, is_impatient=True,
        preemptions=1,
    ),
    "J: a fence, a submission and the end": Race(
        fence_and_closer, all_or_nothing,
        ("pwrite", "Fence._commit_all", "SubmitQueue._turn", "Store._close"), OS,
        leaves_open=False,
        preemptions=1, most=80,
    ),
    "K: a commit and a follower": Race(
        writer_and_follower, followed, (*WRITES, "Follower._advance", "Follower._accept"), SYNC,
        follow,
    ),
    "L: two submissions and the end": Race(
        lambda scene: senders_and_closer(scene, None), everybody_is_answered,
        ("pwrite", "SubmitQueue._try_to_put", "SubmitQueue._turn", "SubmitQueue.stop"), OS,
        leaves_open=False,
        preemptions=1, most=80,
    ),
    "L: two submissions and an end without patience": Race(
        lambda scene: senders_and_closer(scene, 0), everybody_is_answered,
        ("pwrite", "SubmitQueue._turn", "SubmitQueue.stop"), OS, is_impatient=True,
        leaves_open=False,
        preemptions=1, most=80,
    ),
    "M: appends and a snapshot": Race(
        appender_and_snapshot, copied_a_prefix, ("pwrite", "sync_data", "create"), OS,
        preemptions=1,
    ),
    "N: a rotation, a sync and a sample": Race(
        rotation, rotated, ("pwrite", "sync_data", "sync_file", "rename", "Store.frontier"),
        OS | SMALL, fill,
        preemptions=1,
    ),
    "Q: an append and the end": Race(
        appender_and_closer, nothing_follows_the_end,
        ("pwrite", "Writer.commit_one", "Writer._closing", "Writer.release"), OS,
        leaves_open=False,
    ),
    "Q: an append and the end in SYNC": Race(
        appender_and_closer, nothing_follows_the_end,
        (*WRITES, "GroupCommit._lead", "Writer._closing", "Writer.release"), SYNC,
        leaves_open=False,
    ),
}  # fmt: skip


@pytest.mark.proves("INV-RACES-IN-EVERY-ORDER")
@pytest.mark.parametrize("name", RACES)
def test_every_order_of_the_steps_of_a_race(name: str, tmp_path: Path) -> None:
    race = RACES[name]
    runs = itertools.count()

    def once(turns: Turns) -> None:
        scene = Scene(tmp_path / str(next(runs)) / "journal", race.options)
        scene.path.parent.mkdir()
        scene.open()
        race.before(scene)
        try:
            turns.run(race.actors(scene))
            race.judge(scene)
            if race.leaves_open:
                assert scene.store.verify("full").ok
        finally:
            with suppress(JournalPoisoned):
                scene.store.close()
        shutil.rmtree(scene.path.parent)

    preemptions = race.preemptions
    if EXHAUSTIVE and preemptions is not None and not race.most:
        preemptions += 1
    chance = draws(name) if race.most and not EXHAUSTIVE else None
    count = explore(
        once, race.steps, preemptions=preemptions, is_impatient=race.is_impatient, chance=chance,
        most=race.most,
    )  # fmt: skip
    share = f"drawn, seed {SEED}" if chance else "all"
    bound = "any number of" if preemptions is None else str(preemptions)
    print(f"{name}: {count} orders, {share} with {bound} preemptions")
    assert count > 1


@pytest.mark.proves("INV-RACES-IN-EVERY-ORDER")
def test_of_two_that_open_one_owns_the_journal_in_every_order(tmp_path: Path) -> None:
    """Race P, with two stores instead of two processes: the lock is of the open file."""
    runs = itertools.count()

    def once(turns: Turns) -> None:
        path = tmp_path / str(next(runs))
        files = SteppingFiles()
        came: dict[str, Any] = {}

        def opening(name: str) -> Callable[[], None]:
            def act() -> None:
                try:
                    came[name] = Store.open(path, files=files, preallocate=0)
                except JournalLocked as error:
                    came[name] = error

            return act

        turns.run({name: opening(name) for name in ("one", "two")})
        [store] = [each for each in came.values() if isinstance(each, Store)]
        assert store.verify("full").ok
        store.close()
        Store.open(path, files=DISK).close()
        shutil.rmtree(path)

    count = explore(once, ("lock", "create", "rename"), preemptions=2 + EXHAUSTIVE)
    print(f"P: two that open: {count} orders")


# --- the orders reach what they have to ------------------------------------------------------


def planted_batch(scene: Scene) -> Actors:
    """A batch that is three commits."""
    actors = batch_and_reader(scene)

    def write() -> None:
        for n in range(3):
            scene.store.append(at("a"), n, kind=NOTE)

    return actors | {"writes": scene.doing("writes", write)}


def planted_expectation(scene: Scene) -> Actors:
    """An expectation that is looked at before the lock."""

    def append(n: int) -> Any:
        if scene.store.latest("a") is not None:
            raise ExpectationFailed("there", entity="a", expected=None, actual=0)
        return scene.store.append(at("a"), n, kind=NOTE)

    return {f"{n}": scene.doing(f"{n}", lambda n=n: append(n)) for n in (1, 2)}


def planted_sync(scene: Scene) -> Actors:
    """A wait that believes what the frontier will say."""
    actors = rotation(scene)
    scene.store.wait_for = lambda *_: None
    return actors


@pytest.mark.parametrize(
    ("name", "actors"),
    [
        ("E: a batch and a reader, in OS", planted_batch),
        ("B: two that expect an empty stream", planted_expectation),
        ("N: a rotation, a sync and a sample", planted_sync),
    ],
)
def test_an_order_is_found_that_shows_a_planted_bug(
    name: str, actors: Callable[[Scene], Actors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = RACES[name]
    monkeypatch.setitem(
        RACES, name, Race(actors, race.judge, race.steps, race.options, race.before)
    )
    with pytest.raises((AssertionError, ValueError)) as raised:
        test_every_order_of_the_steps_of_a_race(name, tmp_path)
    assert any(note.startswith("turns: ") for note in raised.value.__notes__)
