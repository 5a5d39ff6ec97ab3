"""A call in the middle of a call of the same thread: nothing is lost, and nobody sleeps for ever.

A signal handler is run at each place of each way to write where CPython could run it, as
`tests/support/interrupting.py` finds them, and uses the store itself: it appends, submits,
syncs or closes, and keeps the answer to itself or lets it out into the call that it came
into. What was acknowledged has to be there, what was refused has not, and the journal is
judged as after a Ctrl-C. Clocks and finalizers are the other callers of that kind.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from batpak import (
    AppendReceipt,
    Coordinate,
    Durability,
    EventId,
    Item,
    Region,
    Store,
    Unless,
    Watermark,
)
from batpak.config import Every
from batpak.errors import BatpakError, Indeterminate, InvalidInput, ReentrantCall, StoreClosed
from batpak.ids import new_event_id
from batpak.keyring import FileKeyring
from batpak.testing import RecordingFiles
from tests.support.effort import EXHAUSTIVE, draws
from tests.support.faulty_files import UnsyncedFiles
from tests.support.interrupting import Interrupted
from tests.support.trial import MINE, NOTE, PATIENCE, Helper, Trial

TESTS = str(Path(__file__).resolve().parents[1])
INNER = Coordinate("player:inner", "s")
FIRST_INNER = 2_000_000
SAMPLE = 6
"""Points of a case in a short run."""
KEY = bytes(15) + b"\1"


class Inner:
    """What the handler does with the store, and what it was told."""

    def __init__(self, trial: Trial, call: Callable[[Inner], object], *, is_quiet: bool) -> None:
        self.trial = trial
        self.call = call
        self.is_quiet = is_quiet
        self.count = 0
        self.refused: set[int] = set()

    def run(self) -> None:
        try:
            self.call(self)
        except (ReentrantCall, StoreClosed):
            if not self.is_quiet:
                raise

    def _asked(self, write: Callable[[int], object]) -> None:
        number = FIRST_INNER + self.count
        self.count += 1
        try:
            write(number)
        except (ReentrantCall, StoreClosed):
            self.refused.add(number)
            raise
        self.trial.theirs.add(number)

    def append(self, **options: Any) -> None:
        self._asked(lambda n: self.trial.store.append(INNER, n, kind=NOTE, **options))

    def append_many(self) -> None:
        self._asked(lambda n: self.trial.store.append_many([Item(INNER, n, kind=NOTE)] * 1))

    def submit(self) -> None:
        self._asked(lambda n: self.trial.tickets.append(self.submitted(n)))

    def submit_and_append(self) -> None:
        self.submit()
        self.append()

    def submitted(self, number: int) -> Any:
        return self.trial.store.submit(INNER, number, kind=NOTE)

    def sync(self) -> None:
        self.trial.store.sync()

    def close(self) -> None:
        self.trial.store.close()


CALLS: dict[str, Callable[[Inner], object]] = {
    "append": Inner.append,
    "append durably": lambda inner: inner.append(durable=True),
    "append_many": Inner.append_many,
    "submit and append": Inner.submit_and_append,
    "sync": Inner.sync,
    "close": Inner.close,
}


def fill(trial: Trial) -> None:
    """Up to where the next commit begins a new segment."""
    while trial.store.stats().segment_bytes < 4096:
        trial.append()


def submit(trial: Trial) -> None:
    # Without a callback: a future's own methods hold its lock, which its settling waits for.
    [number] = trial.numbers(1)
    trial.queued.add(number)
    trial.tickets.append(trial.store.submit(MINE, number, kind=NOTE))


def submit_and_append(trial: Trial) -> None:
    submit(trial)
    trial.append()


def two_others_wait(trial: Trial) -> Callable[[str, str], None]:
    def told(how: str, name: str) -> None:
        if name == "GroupCommit._lead" and not trial.helpers:
            trial.help(2)
            trial.until_waiting(2)

    return told


def nobody(trial: Trial) -> None:
    return None


SYNC = {"durability": Durability.SYNC}
OS = {"durability": Durability.OS}
AT_ONCE = {"durability": Every(ms=3_600_000, events=1)}
SOON = {"durability": Every(ms=1, events=1_000_000)}
SMALL = {"segment_max_bytes": 4096}

OUTER: dict[str, tuple[Callable[[Trial], object], Callable[[Trial], object], dict[str, Any]]] = {
    "append in SYNC": (Trial.append, nobody, SYNC),
    "append in OS": (Trial.append, nobody, OS),
    "append in EVERY, which syncs": (Trial.append, nobody, AT_ONCE),
    "append in EVERY, which starts its thread": (Trial.append, nobody, SOON),
    "append durably in OS": (lambda t: t.append(durable=True), nobody, OS),
    "append with a key and a condition": (
        lambda t: t.append(key=KEY, unless=Unless(Region(entity="player:nobody"))), nobody, OS,
    ),
    "append_many in SYNC": (lambda t: t.append_many(4), nobody, SYNC),
    "append_many in OS": (lambda t: t.append_many(4), nobody, OS),
    "rotation": (Trial.append, fill, SMALL | SYNC),
    "rotation in OS": (Trial.append, fill, SMALL | OS),
    "submit": (submit, nobody, SYNC),
    "submit and append": (submit_and_append, nobody, OS),
    "sync": (lambda t: t.store.sync(), Trial.append, OS),
    "close": (lambda t: t.store.close(), Trial.append, SYNC),
}  # fmt: skip


def spared(code: CodeType) -> bool:
    return code.co_filename.startswith(TESTS)


def tried(
    path: Path,
    outer: str,
    call: Callable[[Inner], object],
    targets: tuple[int, ...],
    *,
    is_quiet: bool,
    watched: Callable[[Trial], Callable[[str, str], None]] | None = None,
) -> Interrupted:
    """One run with the handler at these points, in a thread of its own; judged."""
    run, before, options = OUTER[outer]
    trial = Trial(path, UnsyncedFiles(), **options)
    before(trial)
    inner = Inner(trial, call, is_quiet=is_quiet)
    ours: list[tuple[BatpakError, list[int]]] = []
    seen = Interrupted(
        targets,
        spared=spared,
        handler=inner.run,
        watch=None if watched is None else watched(trial),
    )

    def work() -> None:
        begun = len(trial.asked)
        try:
            with seen:
                run(trial)
        except (ReentrantCall, Indeterminate, StoreClosed) as error:
            asked = [n for numbers in trial.asked[begun:] for n in numbers]
            answered = trial.acknowledged | trial.queued
            ours.append((error, [n for n in asked if n not in answered]))

    Helper(work).end(f"{outer}, with a call at {[str(p) for p in seen.points]}")

    def told_the_truth(store: Store) -> None:
        there = {event.payload for event in store if event.kind == NOTE}
        assert not inner.refused & there, "it was refused, and is there"
        for error, numbers in ours:
            where = [str(point) for point in seen.points]
            if isinstance(error, Indeterminate):
                assert set(numbers) <= there, (where, error)
                assert len(error.receipts) == len(numbers), (where, error)
            else:
                assert not set(numbers) & there, (where, error)

    trial.further.append(told_the_truth)
    try:
        trial.judge()
    except BaseException as error:
        error.add_note(f"the call came at {[str(point) for point in seen.points]}: {ours}")
        raise
    return seen


def sampled(what: str, count: int) -> list[int]:
    if EXHAUSTIVE or count <= SAMPLE:
        return list(range(count))
    return sorted(draws(what).sample(range(count), SAMPLE))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("outer", OUTER)
def test_a_signal_handler_that_uses_the_store_loses_nothing(
    tmp_path: Path, outer: str, call: str
) -> None:
    count = tried(tmp_path / "none", outer, CALLS[call], (), is_quiet=True).count
    for number in sampled(f"{outer} {call}", count):
        for is_quiet in (True, False) if EXHAUSTIVE else (number % 2 == 0,):
            path = tmp_path / f"{number}-{is_quiet}"
            tried(path, outer, CALLS[call], (number,), is_quiet=is_quiet)


@pytest.mark.parametrize("call", ["append", "append durably", "sync"])
def test_those_whom_the_thread_leads_hear_nothing_of_it(tmp_path: Path, call: str) -> None:
    made = CALLS[call]
    count = tried(
        tmp_path / "none", "append in SYNC", made, (), is_quiet=True, watched=two_others_wait
    ).count
    for number in sampled(f"leading {call}", count):
        for is_quiet in (True, False):
            tried(
                tmp_path / f"{number}-{is_quiet}", "append in SYNC", made, (number,),
                is_quiet=is_quiet, watched=two_others_wait,
            )  # fmt: skip


def journal_of(path: Path) -> list[Any]:
    with Store.open(path) as store:
        report = store.verify("full")
        assert report.ok, report.findings
        return [event.payload for event in store if event.kind == NOTE]


def in_a_fence(store: Store) -> None:
    with store.fence() as fence:
        fence.append(MINE, "never", kind=NOTE)


WAYS: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append(MINE, "never", kind=NOTE),
    "append_many": lambda store: store.append_many([Item(MINE, "never", kind=NOTE)] * 2),
    "submit": lambda store: store.submit(MINE, "never", kind=NOTE).result(PATIENCE),
    "fence": in_a_fence,
}


@pytest.mark.parametrize("mode", [SYNC, OS, AT_ONCE])
@pytest.mark.parametrize("way", WAYS)
def test_a_clock_that_appends_is_refused_and_nothing_is_written(
    tmp_path: Path, way: str, mode: dict[str, Any]
) -> None:
    stores: list[Store] = []

    def now_us() -> int:
        if stores:
            stores.pop().append(INNER, "ntp is off", kind=NOTE)
        return time.time_ns() // 1000

    with Store.open(tmp_path / "journal", clock=now_us, files=UnsyncedFiles(), **mode) as store:
        store.append(MINE, 0, kind=NOTE)
        stores.append(store)
        with pytest.raises(ReentrantCall) as refused:
            WAYS[way](store)
        assert refused.value.code == "reentrant-call"
        assert "set a flag" in refused.value.advice
        store.append(MINE, 1, kind=NOTE)
        assert store.submit(MINE, 2, kind=NOTE).result(PATIENCE).clock == 2
    assert journal_of(tmp_path / "journal") == [0, 1, 2]


def test_of_what_is_queued_only_the_one_is_refused_whose_clock_appends(tmp_path: Path) -> None:
    stores: list[Store] = []
    readings = 0

    def now_us() -> int:
        nonlocal readings
        readings += bool(stores)
        if readings == 2:
            stores[0].append(INNER, "ntp is off", kind=NOTE)
        return time.time_ns() // 1000

    with Store.open(tmp_path / "journal", clock=now_us, files=UnsyncedFiles()) as store:
        stores.append(store)
        later: list[Future[AppendReceipt]] = []

        def submit_more(done: object) -> None:
            # While this runs nothing is written, so that these are taken together. With keys
            # none of them shares a write.
            keys = [bytes(15) + bytes([n + 1]) for n in range(3)]
            later.extend(store.submit(MINE, n, kind=NOTE, key=key) for n, key in enumerate(keys))

        first = store.submit(MINE, "first", kind=NOTE)
        first.add_done_callback(submit_more)
        first.result(PATIENCE)
        store.sync()
        errors = [future.exception(PATIENCE) for future in later]
    assert [type(error) for error in errors] == [ReentrantCall, type(None), type(None)]
    assert journal_of(tmp_path / "journal") == ["first", 1, 2]


class Session:
    """Says goodbye when it is collected: an append by a finalizer."""

    def __init__(self, store: Store, said: list[int], refused: list[int], number: int) -> None:
        self.me = self
        self.store, self.said, self.refused, self.number = store, said, refused, number

    def __del__(self) -> None:
        try:
            self.store.append(INNER, self.number, kind=NOTE)
        except ReentrantCall:
            self.refused.append(self.number)
        else:
            self.said.append(self.number)


class CollectingFiles(RecordingFiles):
    """The collector runs in the middle of each write."""

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        gc.collect(1)
        return super().pwrite(fd, data, offset)


@pytest.mark.parametrize("way", ["append", "append_many", "submit"])
@pytest.mark.parametrize("mode", [SYNC, OS, AT_ONCE])
def test_a_finalizer_that_appends_in_the_middle_of_a_write_is_refused(
    tmp_path: Path, mode: dict[str, Any], way: str
) -> None:
    said: list[int] = []
    refused: list[int] = []
    files = CollectingFiles(UnsyncedFiles())
    with Store.open(tmp_path / "journal", files=files, **mode) as store:
        for number in range(5):
            Session(store, said, refused, FIRST_INNER + number)
            if way == "append":
                store.append(MINE, number, kind=NOTE)
            elif way == "append_many":
                store.append_many([Item(MINE, number, kind=NOTE), Item(MINE, -number, kind=NOTE)])
            else:
                store.submit(MINE, number, kind=NOTE).result(PATIENCE)
        gc.collect()
    there = journal_of(tmp_path / "journal")
    assert {n for n in there if n >= FIRST_INNER} == set(said)
    assert sorted(said + refused) == [FIRST_INNER + n for n in range(5)]
    assert refused
    assert {n for n in there if 0 <= n < FIRST_INNER} == set(range(5))


@pytest.mark.parametrize("mode", [SYNC, OS, AT_ONCE])
def test_a_real_signal_in_the_middle_of_a_write(tmp_path: Path, mode: dict[str, Any]) -> None:
    """The signal is sent on the way into the write, so its handler runs before that returns."""
    refused: list[InvalidInput] = []

    class SignallingFiles(UnsyncedFiles):
        def pwrite(self, fd: int, data: Any, offset: int) -> int:
            if armed:
                armed.clear()
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().pwrite(fd, data, offset)

    armed: list[bool] = []
    with Store.open(tmp_path / "journal", files=SignallingFiles(), **mode) as store:

        def terminating(*_: object) -> None:
            try:
                store.append(INNER, "terminating", kind=NOTE)
            except ReentrantCall as error:
                refused.append(error)

        before = signal.signal(signal.SIGUSR1, terminating)
        try:
            armed.append(True)
            store.append(MINE, 1, kind=NOTE)
            store.append(MINE, 2, kind=NOTE)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1
    assert journal_of(tmp_path / "journal") == [1, 2]


def test_what_a_handler_lets_out_of_a_durable_append_names_the_event_that_is_written(
    tmp_path: Path,
) -> None:
    class CallingFiles(UnsyncedFiles):
        def sync_data(self, fd: int) -> None:
            super().sync_data(fd)
            if armed:
                armed.clear()
                store.append(INNER, "no", kind=NOTE)

    armed: list[bool] = []
    with Store.open(tmp_path / "journal", files=CallingFiles()) as store:
        armed.append(True)
        with pytest.raises(Indeterminate) as raised:
            store.append(MINE, 1, kind=NOTE)
        assert isinstance(raised.value.cause, ReentrantCall)
        store.wait_for(Watermark.DURABLE, raised.value.receipt)
        assert store.get(raised.value.receipt.event_id).payload == 1
    assert journal_of(tmp_path / "journal") == [1]


@pytest.mark.parametrize("call", [Store.close, Store.sync])
def test_an_inner_call_is_refused_before_it_waits_or_changes_anything(
    tmp_path: Path, call: Callable[[Store], object]
) -> None:
    refused: list[ReentrantCall] = []

    class CallingFiles(UnsyncedFiles):
        def pwrite(self, fd: int, data: Any, offset: int) -> int:
            if armed:
                armed.clear()
                try:
                    call(store)
                except ReentrantCall as error:
                    refused.append(error)
            return super().pwrite(fd, data, offset)

    armed: list[bool] = []
    with Store.open(tmp_path / "journal", files=CallingFiles()) as store:
        store.submit(MINE, 0, kind=NOTE).result(PATIENCE)
        armed.append(True)
        store.append(MINE, 1, kind=NOTE)
        store.append(MINE, 2, kind=NOTE)
    assert len(refused) == 1
    assert journal_of(tmp_path / "journal") == [0, 1, 2]


class OpeningFiles(UnsyncedFiles):
    """Calls `within`, once, in the middle of the opening of a file of this kind."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.within: Callable[[], object] | None = None
        self.came: list[object] = []

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        if path.endswith(self.suffix) and self.within is not None:
            call, self.within = self.within, None
            try:
                self.came.append(call())
            except ReentrantCall as error:
                self.came.append(error)
        return super().open(path, flags, mode)


def fill_segments(path: Path) -> None:
    with Store.open(path, segment_max_bytes=4096, preallocate=0, files=UnsyncedFiles()) as store:
        for number in range(60):
            store.append(MINE, number, kind=NOTE, key=(number + 1).to_bytes(16, "big"))


def in_time(call: Callable[[], object]) -> None:
    """In a thread that may hang without taking the test with it."""
    helper = Helper(call)
    helper.end("who came within")


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_read_within_a_read_is_answered(tmp_path: Path, mode: Any) -> None:
    """As a handler that asks for an event while its thread opens a segment."""
    fill_segments(tmp_path / "j")
    files = OpeningFiles(".seg")
    # Closed only where all is well: a close would wait for whoever sleeps for ever.
    store = Store.open(tmp_path / "j", mode=mode, files=files, max_open_files=4)
    whole = [event.event_hash for event in store]

    def read_all() -> None:
        for sequence, event_hash in enumerate(whole):
            inner = len(whole) - 1 - sequence
            files.within = lambda at=inner: store.at(at).event_hash == whole[at]
            assert store.at(sequence).event_hash == event_hash

    in_time(read_all)
    files.within = None
    assert files.came
    assert set(files.came) == {True}
    assert [event.event_hash for event in store] == whole
    store.close()


def test_a_key_within_a_read_of_keys_is_looked_up(tmp_path: Path) -> None:
    fill_segments(tmp_path / "j")
    files = OpeningFiles(".seg")
    store = Store.open(tmp_path / "j", files=files, max_open_files=4)

    def retry(number: int) -> Any:
        return store.append(MINE, number, kind=NOTE, key=(number + 1).to_bytes(16, "big"))

    def retry_all() -> None:
        for number in range(60):
            files.within = lambda n=59 - number: store.get(retry(n).event_id).payload == n
            store.get(retry(number).event_id)

    length = len(store)
    in_time(retry_all)
    files.within = None
    assert set(map(type, files.came)) <= {bool, ReentrantCall}
    assert False not in files.came
    assert len(store) == length
    store.close()


def test_a_refresh_within_a_refresh_is_refused_and_the_reader_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    files = OpeningFiles(".seg")
    with Store.open(path, segment_max_bytes=4096, preallocate=0, files=UnsyncedFiles()) as store:
        reader = Store.open(path, mode="r", files=files)
        for number in range(60):
            store.append(MINE, number, kind=NOTE)
        files.within = reader.refresh
        in_time(reader.refresh)
        assert [type(each) for each in files.came] == [ReentrantCall]
        assert [event.event_hash for event in reader] == [event.event_hash for event in store]
        reader.close()


@pytest.mark.parametrize("call", ["key_for", "destroy"])
def test_a_key_within_the_making_of_a_key_is_refused_and_that_one_is_made(
    tmp_path: Path, call: str
) -> None:
    FileKeyring.create(tmp_path / "keys")
    files = OpeningFiles(".for.tmp")
    ring = FileKeyring(tmp_path / "keys", files=files)
    files.within = {
        "key_for": lambda: ring.key_for(MINE, NOTE.raw, None),
        "destroy": lambda: ring.destroy(bytes(16)),
    }[call]
    made: list[bytes] = []
    in_time(lambda: made.append(ring.key_for(MINE, NOTE.raw, None)))
    assert [type(each) for each in files.came] == [ReentrantCall]
    assert FileKeyring(tmp_path / "keys").key_for(MINE, NOTE.raw, None) == made[0]
    assert ring.load(made[0]) is not None


def test_an_id_within_the_making_of_an_id_is_another_one() -> None:
    ids: list[EventId] = []

    def make(_signal: int = 0, _frame: object = None) -> None:
        ids.append(new_event_id())

    def make_many() -> None:
        for _ in range(2000):
            make()
        sys.setprofile(None)

    def within(frame: Any, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "tail":
            sys.setprofile(None)
            make()
            sys.setprofile(within)

    def run() -> None:
        sys.setprofile(within)
        make_many()

    in_time(run)
    assert len(ids) == 4000
    assert len(set(ids)) == 4000
