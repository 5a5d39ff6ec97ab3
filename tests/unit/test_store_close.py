"""close() and whom it waits for: callbacks, log handlers and threads that close as well.

Each of them is the caller's code, which may not know that somebody closes the store.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from batpak import Durability, InvalidInput, Region, SigningKey, Store
from batpak.errors import Cancelled, JournalPoisoned, StoreClosed
from batpak.keyring import FileKeyring
from tests.support.faulty_files import DISK
from tests.support.writing import ALICE, BOB, NOTE
from tests.unit.test_logging import acting, in_time
from tests.unit.test_submission import busy, done_or_waiting, put, values
from tests.watched_files import WAIT, WatchedFiles

FIRST = "0" * 20 + ".seg"


def closing(store: Store) -> tuple[threading.Thread, Future[None], int]:
    """A thread that closes the store, once it waits for another one or is over."""
    over: Future[None] = Future()

    def close() -> None:
        try:
            over.set_result(store.close())
        except BaseException as error:  # noqa: BLE001  # raised again by the future
            over.set_exception(error)

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    assert thread.ident is not None
    return thread, over, thread.ident


@pytest.mark.parametrize("call", ["close", "compact", "append", "sync"])
def test_what_a_queued_future_calls_while_the_store_closes_has_an_end(
    tmp_path: Path, call: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "close": lambda: store.close(),
        "compact": lambda: store.compact(),
        "append": lambda: store.append(BOB, "late", kind=NOTE),
        "sync": lambda: store.sync(),
    }
    store = Store.open(tmp_path / "j")
    begun, let_go, done = threading.Event(), threading.Event(), Future[object]()

    def act(_: Future[Any]) -> None:
        begun.set()
        assert let_go.wait(WAIT)
        try:
            done.set_result(calls[call]())
        except BaseException as error:  # noqa: BLE001  # raised again by the future
            done.set_exception(error)

    put(store, 1).add_done_callback(act)
    assert begun.wait(WAIT)
    _, over, ident = closing(store)
    assert not done_or_waiting(over, ident)
    let_go.set()
    done.result(WAIT)
    over.result(WAIT)
    with Store.open(tmp_path / "j") as store:
        assert values(store) == [1]
        assert values(store, BOB.entity) == (["late"] if call == "append" else [])
        assert store.open_report.cut is None


def test_a_ticket_of_a_fence_that_close_cancels_may_close(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "j")
    fence = store.fence()
    ticket = fence.append(ALICE, 1, kind=NOTE)
    seen: list[object] = []

    def close(one: Future[Any]) -> None:
        seen.append(one.exception())
        seen.append(store.close())

    ticket.add_done_callback(close)
    in_time(store.close)
    assert [type(one) for one in seen] == [Cancelled, type(None)]
    with Store.open(tmp_path / "j") as store:
        assert store.open_report.cut is None
        # Two openings and one close.
        assert len(store) == 3


def test_a_future_that_close_cancels_may_close(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files)
    begun, let_go, seen = threading.Event(), threading.Event(), list[object]()
    with busy(store, files) as first:
        first.add_done_callback(lambda _: (begun.set(), let_go.wait(WAIT)))
    assert begun.wait(WAIT)
    left = put(store, 2)

    def close(one: Future[Any]) -> None:
        seen.append(one.exception())
        seen.append(store.close())
        let_go.set()

    left.add_done_callback(close)
    in_time(lambda: store.close(timeout=0))
    assert [type(one) for one in seen] == [Cancelled, type(None)]
    with Store.open(tmp_path / "j") as store:
        assert store.open_report.cut is None


def test_a_handler_may_close_the_store_whose_close_poisons_it(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files)
    store.append(ALICE, 1, kind=NOTE)
    files.refuse("sync_data", FIRST, errno.EIO)
    with acting("poisoned", store.close) as handler, pytest.raises(JournalPoisoned):
        in_time(store.close)
    assert handler.seen == 1
    with Store.open(tmp_path / "j") as store:
        assert values(store) == [1]


@pytest.mark.parametrize("way", ["every", "queue"])
def test_a_handler_told_by_a_thread_of_the_store_may_close_what_another_closes(
    tmp_path: Path, way: str
) -> None:
    mode = Durability.EVERY(ms=1, events=10**6) if way == "every" else Durability.SYNC
    store = Store.open(tmp_path / "j", durability=mode, sync_warning=1e-9)
    begun, let_go = threading.Event(), threading.Event()

    def close() -> None:
        if begun.is_set():
            # Of the sync of a close: only the first one is held.
            return
        begun.set()
        assert let_go.wait(WAIT)
        store.close()

    with acting("slow-sync", close) as handler:
        put(store, 1) if way == "queue" else store.append(ALICE, 1, kind=NOTE)
        assert begun.wait(WAIT)
        thread, over, ident = closing(store)
        done_or_waiting(over, ident)
        let_go.set()
        over.result(WAIT)
        thread.join(WAIT)
        assert handler.acted.acquire(timeout=WAIT)
    with Store.open(tmp_path / "j") as store:
        assert values(store) == [1]


class Locked(logging.Handler):
    """Does something about the first slow sync, holding its lock as handlers do."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = act
        self.raised: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        act, self._act = self._act, None
        if act is not None and vars(record).get("code") == "slow-sync":
            try:
                act()
            except BaseException as error:  # noqa: BLE001  # looked at by the test
                self.raised.append(error)


@pytest.mark.parametrize("closes", [False, True], ids=["goes on", "closes"])
def test_a_handler_may_wait_for_threads_that_have_something_to_tell_it(
    tmp_path: Path, closes: bool
) -> None:
    store = Store.open(tmp_path / "j", sync_warning=1e-9)

    def act() -> None:
        for number in range(3):
            store.submit(BOB, number, kind=NOTE).result(WAIT)
        store.append(BOB, 3, kind=NOTE)
        if closes:
            store.close()

    logger = logging.getLogger("batpak.journal")
    handler = Locked(act)
    logger.addHandler(handler)
    try:
        in_time(lambda: store.append(ALICE, 1, kind=NOTE))
    finally:
        logger.removeHandler(handler)
    assert handler.raised == []
    in_time(store.close)
    with Store.open(tmp_path / "j") as store:
        assert values(store) == [1]
        assert values(store, BOB.entity) == [0, 1, 2, 3]


def test_a_store_that_closes_takes_no_submission_and_says_so(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store.open(tmp_path / "j", files=files, submit_capacity=2)
    begun, let_go = threading.Event(), threading.Event()
    with busy(store, files) as first:
        first.add_done_callback(lambda _: (begun.set(), let_go.wait(WAIT)))
    assert begun.wait(WAIT)
    queued = [put(store, number) for number in range(2)]
    _, over, ident = closing(store)
    assert not done_or_waiting(over, ident)
    try:
        # No Backpressure: it says that it may be tried again.
        for submit in (store.submit, store.try_submit):
            with pytest.raises(StoreClosed):
                submit(ALICE, 9, kind=NOTE)
    finally:
        let_go.set()
    over.result(WAIT)
    assert [future.result(0).clock for future in queued] == [0, 1]


# --- what a handler may call in the midst of something else -----------------------------


def full(tmp_path: Path) -> Store:
    """Each entity with two events, Ann's and Bob's in the first segment, and every sync slow."""
    keyring = FileKeyring.create(tmp_path / "keys")
    options: dict[str, Any] = {"checkpoint_key": SigningKey.generate(), "sync_warning": 1e-9}
    store = Store.open(
        tmp_path / "j", codec="encrypted", keyring=keyring, durability=Durability.OS,
        segment_max_bytes=4096, files=DISK, **options,
    )  # fmt: skip
    for number in range(2):
        store.append(ALICE, {"n": number, "pad": bytes(3000)}, kind=NOTE)
        store.append(BOB, number, kind=NOTE)
    return store


WORK: dict[str, Callable[[Store], object]] = {
    "erase": lambda s: s.erase(Region(entity=ALICE.entity), reason="asked for", durable=True),
    "shred": lambda s: s.shred(Region(entity=ALICE.entity)),
    "compact": lambda s: (s.erase(1, reason="asked for"), s.compact()),
    "checkpoint": lambda s: s.checkpoint(),
    "sync": lambda s: s.sync(),
}


@pytest.mark.parametrize("act", [*WORK, "append", "submit", "fence", "close"])
@pytest.mark.parametrize("work", WORK)
def test_a_handler_may_call_what_it_was_told_of(tmp_path: Path, work: str, act: str) -> None:
    def fenced() -> None:
        with store.fence() as fence:
            fence.append(ALICE, "fenced", kind=NOTE)

    acts: dict[str, Callable[[], object]] = {
        "append": lambda: store.append(ALICE, "told", kind=NOTE, durable=True),
        "submit": lambda: store.submit(ALICE, "told", kind=NOTE).result(WAIT),
        "fence": fenced,
        "close": lambda: store.close(),
    }
    raised: list[BaseException] = []

    def once() -> None:
        handler.act = lambda: None
        try:
            acts[act]() if act in acts else WORK[act](store)
        except BaseException as error:  # noqa: BLE001  # looked at below
            raised.append(error)

    store = full(tmp_path)
    with acting("slow-sync", once) as handler:
        in_time(lambda: WORK[work](store))
        assert handler.acted.acquire(timeout=WAIT)
    in_time(store.close)
    assert raised == []
    with Store.open(tmp_path / "j") as store:
        assert store.verify("full").ok


@pytest.mark.parametrize("act", ["erase", "shred", "compact", "close"])
@pytest.mark.parametrize("work", ["erase", "shred"])
def test_what_chooses_payloads_and_what_destroys_keys_can_not_begin_it_anew(
    tmp_path: Path, work: str, act: str
) -> None:
    """It would wait for itself: a condition of erase(), a keyring in shred()."""
    raised: list[BaseException] = []

    def call(*_: object) -> bool:
        try:
            store.close() if act == "close" else WORK[act](store)
        except BaseException as error:  # noqa: BLE001  # looked at below
            raised.append(error)
        return True

    class Calling(FileKeyring):
        def destroy(self, key_id: bytes) -> bool:
            call()
            return super().destroy(key_id)

    FileKeyring.create(tmp_path / "keys")
    options: dict[str, Any] = {"codec": "encrypted", "keyring": Calling(tmp_path / "keys")}
    store = Store.open(tmp_path / "j", **options)
    store.append(ALICE, 1, kind=NOTE)
    region = Region(entity=ALICE.entity)
    if work == "erase":
        in_time(lambda: store.erase(region, reason="asked for", where=call))
    else:
        in_time(lambda: store.shred(region))
    [error] = raised
    assert isinstance(error, InvalidInput)
    assert (error.field, error.code) == ("where", "invalid-input")
    in_time(store.close)


def test_a_condition_may_append_and_an_erasure_ends_with_its_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "j")
    for number in range(2):
        store.append(ALICE, number, kind=NOTE)
    everything = Region(entity=ALICE.entity)
    asked: list[int] = []

    def noted(event: Any) -> bool:
        asked.append(store.append(BOB, event.sequence, kind=NOTE).sequence)
        return event.sequence == 1

    assert store.erase(everything, reason="asked for", where=noted).events == 1
    assert asked == [3, 4]
    with pytest.raises(StoreClosed):
        store.erase(everything, reason="asked for", where=lambda _: bool(in_time(store.close)))
    with Store.open(tmp_path / "j") as store:
        assert store.count(Region(entity=ALICE.entity)) == 2
        assert store.plan_erasure(everything).events == 1
