"""What tests of writing share: stores whose disk can be held, every way to write, races.

`unwritten` is the proof that a refused call left nothing: files, frontier, and a next
append that gets the next sequence. Knows public calls only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batpak import Coordinate, EventKind, Item, Store
from batpak.errors import BatpakError, JournalPoisoned
from tests.watched_files import WAIT, WatchedFiles

ALICE = Coordinate("player:alice", "room:dungeon")
BOB = Coordinate("player:bob", "room:dungeon")
NOTE = EventKind(1, 7)
OTHER = EventKind(1, 8)


def empty(semaphore: threading.Semaphore) -> None:
    """Take every permit that is there."""
    while semaphore.acquire(blocking=False):
        pass


@contextmanager
def opened(
    path: Path, files: WatchedFiles | None = None, **options: Any
) -> Iterator[tuple[Store, WatchedFiles]]:
    """A store over files that a test can hold and refuse; let go of at the end."""
    files = WatchedFiles() if files is None else files
    store = Store.open(path, files=files, **options)
    empty(files.sync_began)
    empty(files.sync_ended)
    empty(files.segment_written)
    files.calls.clear()
    try:
        yield store, files
    finally:
        files.pass_syncs.set()
        files.refused.clear()
        try:
            store.close()
        except JournalPoisoned:
            pass


@contextmanager
def held(files: WatchedFiles) -> Iterator[None]:
    """Inside, no sync ends."""
    files.pass_syncs.clear()
    try:
        yield
    finally:
        files.pass_syncs.set()


def sync_has_begun(files: WatchedFiles) -> None:
    """Wait until a sync is under way."""
    assert files.sync_began.acquire(timeout=WAIT), "nobody began to sync"


def files_of(store: Store) -> dict[str, bytes]:
    """Every file of the journal, without the zeros that stand for space set aside."""
    root = Path(store.path)
    return {
        str(file.relative_to(root)): file.read_bytes().rstrip(b"\0")
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@contextmanager
def unwritten(store: Store) -> Iterator[None]:
    """What happens inside leaves no byte and no event, and the next append works."""
    files, frontier, length = files_of(store), store.frontier(), len(store)
    yield
    assert files_of(store) == files
    assert store.frontier() == frontier
    assert len(store) == length
    receipt = store.append(BOB, None, kind=NOTE)
    assert receipt.sequence == frontier.written.sequence


def race(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returned, or the batpak error that it raised; all begin together."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(WAIT)
        try:
            return call()
        except BatpakError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(WAIT) for future in [pool.submit(run, call) for call in calls]]


def threads_named(prefix: str) -> list[str]:
    """Names of the living threads that begin so."""
    return [one.name for one in threading.enumerate() if one.name.startswith(prefix)]


# --- every way to write two events as one commit, or one event ------------------------


def _for_batch(item: Item, conditions: dict[str, Any]) -> dict[str, Any]:
    """`expect` of one event, as a commit of several says it."""
    if "expect" in conditions:
        return {**conditions, "expect": {item.coordinate.entity: conditions["expect"]}}
    return conditions


def _options(item: Item) -> dict[str, Any]:
    return {"kind": item.kind, "key": item.key}


def by_append(store: Store, item: Item, **conditions: Any) -> Any:
    return store.append(item.coordinate, item.payload, **_options(item), **conditions)


def by_append_many(store: Store, item: Item, **conditions: Any) -> Any:
    return store.append_many([item], **_for_batch(item, conditions))[0]


def by_fence(store: Store, item: Item, **conditions: Any) -> Any:
    with store.fence(**_for_batch(item, conditions)) as fence:
        ticket = fence.append(item.coordinate, item.payload, **_options(item))
    return ticket.result(WAIT)


def by_outbox(store: Store, item: Item, **conditions: Any) -> Any:
    outbox = store.outbox(**_for_batch(item, conditions))
    outbox.stage(item.coordinate, item.payload, **_options(item))
    return outbox.flush()[0]


def by_queued_outbox(store: Store, item: Item, **conditions: Any) -> Any:
    outbox = store.outbox(**_for_batch(item, conditions))
    outbox.stage(item.coordinate, item.payload, **_options(item))
    return outbox.submit().result(WAIT)[0]


def by_submit(store: Store, item: Item, **conditions: Any) -> Any:
    return store.submit(item.coordinate, item.payload, **_options(item), **conditions).result(WAIT)


def by_try_submit(store: Store, item: Item, **conditions: Any) -> Any:
    future = store.try_submit(item.coordinate, item.payload, **_options(item), **conditions)
    return future.result(WAIT)


def by_submit_many(store: Store, item: Item, **conditions: Any) -> Any:
    return store.submit_many([item], **_for_batch(item, conditions)).result(WAIT)[0]


WAYS: dict[str, Callable[..., Any]] = {
    "append": by_append,
    "append_many": by_append_many,
    "fence": by_fence,
    "outbox": by_outbox,
    "outbox-submit": by_queued_outbox,
    "submit": by_submit,
    "try_submit": by_try_submit,
    "submit_many": by_submit_many,
}
"""Each way to write one event under conditions; returns its receipt, or raises."""
FEW_WAYS: dict[str, Callable[..., Any]] = {
    name: WAYS[name] for name in ("append", "append_many", "fence", "submit")
}
"""One of each kind, for what is judged in one place whoever asks."""
