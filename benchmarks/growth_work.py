"""What one measurement of `make bench-growth` does, in a process of its own.

One journal grows from size to size, one event per commit, mode OS. Every work checks what
it read and raises where it is wrong. Payloads come from a pool made beforehand, so that
nothing but the journal takes memory while it grows; event `n` has payload `n % POOL`. The
job's contender says whether each event is written under a key: event `n` under the key `n + 1`.

Memory is what the process has resident and unmapped, RssAnon of Linux: mapped files belong
to the page cache, and tracing allocations would slow what is measured. It is the growth
since just before the journal was opened.
"""

from __future__ import annotations

import gc
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from batpak import EventId, Region, Store
from benchmarks.contenders.ours import Log, Prepared
from benchmarks.data import BATCH, ENTITIES, Measurement, entity_of, measurement, measurements
from benchmarks.work import Job, Measured

POOL: Final = 10_000
TIMED_EVENTS: Final = POOL
"""The appends that are timed: the last ones before the size is reached."""

GETS: Final = 20_000
RETRIES: Final = 20_000
PAGES: Final = 500
PAGE: Final = 100
SYSTEM_EVENTS: Final = 200
"""Opens and closes lie between the entities' events; a journal here has fewer than this."""

_DISPOSABLE_FILES: Final = ("segments/*.idx", "tail.hint")
_DISPOSABLE_FOLDERS: Final = ("index", "tlog", "projections")


class KeyedLog(Log):
    """Every event under a key of its own, which is also its id."""

    def append_all(self, prepared: Sequence[Prepared]) -> None:
        append = self.store.append
        for number, (place, event) in enumerate(prepared, start=_size(self.store)):
            append(place, event, key=_key(number))


def _key(number: int) -> bytes:
    return (number + 1).to_bytes(16, "big")


def _log(job: Job) -> Log:
    log = KeyedLog if job.contender == "keyed" else Log
    return log(Path(job.directory), durable=False)


def grow(job: Job) -> Measured:
    """Appends up to `events`; microseconds an event of the last TIMED_EVENTS."""
    pool = measurements(POOL)
    _warm_up(job)
    before = anonymous_bytes()
    log = _log(job)
    prepared = log.prepare(pool)
    present = _size(log.store)
    rest = job.events - present - TIMED_EVENTS
    if rest < 0 or present % POOL or job.events % POOL:
        raise AssertionError(f"cannot grow from {present} to {job.events} events")
    for _ in range(rest // POOL):
        log.append_all(prepared)
    gc.collect()
    watch = Stopwatch()
    log.append_all(prepared)
    watch.stop()
    memory = _memory_since(before)
    _check_size(log.store, job.events)
    log.close()
    return watch.measured(1e6 / TIMED_EVENTS, memory)


def get(job: Job) -> Measured:
    """Microseconds per read of a random event by its id, decoded, file cache warm."""
    _warm_files(job)
    before = anonymous_bytes()
    store = _open(job)
    chance = random.Random(job.events)
    bound = store.frontier().visible.sequence
    keys, numbers = list[EventId](), list[int]()
    while len(keys) < GETS:
        event = store.at(chance.randrange(bound))
        if type(value := event.payload) is Measurement:
            keys.append(event.event_id)
            numbers.append(value.number)
    gc.collect()
    read = store.get
    watch = Stopwatch()
    found = [read(key).payload for key in keys]
    watch.stop()
    if found != [measurement(number) for number in numbers]:
        raise AssertionError("a read gave another payload than was written")
    del found, keys, numbers
    memory = _memory_since(before)
    store.close()
    return watch.measured(1e6 / GETS, memory)


def retry(job: Job) -> Measured:
    """Microseconds per append under a random key that is known: a look-up, nothing is written."""
    _warm_files(job)
    log = _log(job)
    prepared = log.prepare(measurements(POOL))
    chance = random.Random(job.events)
    numbers = [chance.randrange(job.events) for _ in range(RETRIES)]
    tries = [(*prepared[number % POOL], _key(number)) for number in numbers]
    append = log.store.append
    append(tries[0][0], tries[0][1], key=tries[0][2])
    length = len(log.store)
    gc.collect()
    watch = Stopwatch()
    receipts = [append(place, event, key=key) for place, event, key in tries]
    watch.stop()
    if len(log.store) != length:
        raise AssertionError("a retry was written again")
    for receipt, (_, _, key) in zip(receipts, tries, strict=True):
        if not receipt.replayed or receipt.event_id.bytes != key:
            raise AssertionError(f"another receipt than that of the key: {receipt!r}")
    log.close()
    return watch.measured(1e6 / RETRIES)


def page(job: Job) -> Measured:
    """Microseconds per page of PAGE events of one entity, from a random place, decoded."""
    _warm_files(job)
    store = _open(job)
    chance = random.Random(job.events)
    # So far from the end that a whole page of the entity follows.
    last = store.frontier().visible.sequence - PAGE * len(ENTITIES) - SYSTEM_EVENTS
    places = [chance.randrange(last) if last > 0 else None for _ in range(PAGES)]
    regions = [Region(entity=chance.choice(ENTITIES)) for _ in range(PAGES)]
    store.page(regions[0], after=places[0], limit=PAGE)
    gc.collect()
    watch = Stopwatch()
    pages = [
        [(event, event.payload) for event in store.page(region, after=after, limit=PAGE).events]
        for region, after in zip(regions, places, strict=True)
    ]
    watch.stop()
    for region, found in zip(regions, pages, strict=True):
        clocks = [event.clock for event, _ in found]
        if clocks != list(range(clocks[0], clocks[0] + PAGE)):
            raise AssertionError(f"a page has the clocks {clocks[0]} to {clocks[-1]}")
        for event, payload in found:
            if not event.coordinate.entity == region.entity == entity_of(payload.number):
                raise AssertionError(f"a page of {region.entity} holds {event!r}")
    store.close()
    return watch.measured(1e6 / PAGES)


def snapshot(job: Job) -> Measured:
    """Milliseconds of a snapshot beside the journal, every byte of it read and hashed."""
    _warm_files(job)
    store = _open(job)
    place = Path(job.directory, "snapshot")
    gc.collect()
    watch = Stopwatch()
    report = store.snapshot(place)
    watch.stop()
    bound = store.frontier().durable.sequence
    if report.events != bound or report.last_hash != store.at(bound - 1).event_hash:
        raise AssertionError(f"a snapshot has {report.events} of {bound} events")
    store.close()
    shutil.rmtree(place)
    return watch.measured(1e3, {"copied_bytes": report.copied})


def open_clean(job: Job) -> Measured:
    """Milliseconds of the process's first open after a clean close."""
    _warm_files(job)
    return _timed_open(job)


def open_bare(job: Job) -> Measured:
    """Milliseconds of an open that finds the authority alone: nothing disposable is left."""
    journal = Path(job.directory, "journal")
    for pattern in _DISPOSABLE_FILES:
        for path in journal.glob(pattern):
            path.unlink()
    for folder in _DISPOSABLE_FOLDERS:
        shutil.rmtree(journal / folder, ignore_errors=True)
    _warm_files(job)
    return _timed_open(job)


WORKS: Final[dict[str, Callable[[Job], Measured]]] = {
    f"growth-{work.__name__}": work
    for work in (grow, get, retry, page, snapshot, open_clean, open_bare)
}


class Stopwatch:
    """Wall time and this process's processor time, from its making to `stop`.

    On a busy machine the second tells growth from other programs' work.
    """

    def __init__(self) -> None:
        self.busy_s = time.process_time()
        self.wall_s = time.perf_counter()

    def stop(self) -> None:
        self.wall_s = time.perf_counter() - self.wall_s
        self.busy_s = time.process_time() - self.busy_s

    def measured(self, scale: float, details: dict[str, float] | None = None) -> Measured:
        """Both times multiplied by `scale`: wall as the value, processor as "busy"."""
        busy = {"busy": scale * self.busy_s}
        return Measured(scale * self.wall_s, {**busy, **(details or {})})


def anonymous_bytes() -> int | None:
    """Resident memory of this process that no file backs; None where the system won't say."""
    gc.collect()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return None


def _memory_since(before: int | None) -> dict[str, float]:
    now = anonymous_bytes()
    return {} if before is None or now is None else {"anonymous_bytes": now - before}


def _timed_open(job: Job) -> Measured:
    gc.collect()
    watch = Stopwatch()
    store = _open(job)
    watch.stop()
    _check_size(store, job.events)
    store.close()
    return watch.measured(1e3)


def _open(job: Job) -> Store:
    return Store.open(Path(job.directory, "journal"))


def _size(store: Store) -> int:
    """How many events the entities have, which take turns, so that all have equally many."""
    last = store.latest(ENTITIES[-1])
    return 0 if last is None else len(ENTITIES) * (last.clock + 1)


def _check_size(store: Store, events: int) -> None:
    if _size(store) != events:
        raise AssertionError(f"the journal holds {_size(store)} events, not {events}")


def _warm_up(job: Job) -> None:
    directory = Path(job.directory, "warm-up")
    directory.mkdir()
    log = Log(directory, durable=False)
    log.append_all(log.prepare(measurements(2 * BATCH)))
    log.close()
    shutil.rmtree(directory)


def _warm_files(job: Job) -> None:
    for path in Path(job.directory).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
