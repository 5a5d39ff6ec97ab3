"""What one measurement does, in a process of its own: prepare, time, check, report.

A fresh process per measurement, so that no contender inherits another's memory, caches
or garbage. The collector runs as it does for a user; what was prepared is frozen out of
it first, for everybody. Every work checks its own result and raises where it is wrong:
a broken run gives no figure. Reads the clock only around the work that its name says.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import Log, load
from benchmarks.data import BATCH, Measurement, measurement, measurements, record_size

GETS: Final = 20_000
"""Most random reads in one measurement."""
TURN: Final = 500
"""Events that one of two takes before the other has its turn."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement. `directory` is its own, or a copy or the original of a fixture."""

    contender: str
    work: str
    directory: str
    events: int
    durable: bool = False
    threads: int = 1
    batch: int = 0
    rival: str = ""
    """The contender that takes turns with this one, in the same process."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figure, in the unit of the work, and what else was seen on the way."""

    value: float
    details: dict[str, float] = field(default_factory=dict[str, float])


def append(job: Job) -> Measured:
    """Events appended per second, the log open before and closed after the timed part."""
    log_class = load(job.contender)
    events = measurements(job.events)
    _warm_up(job, log_class)
    log = log_class(Path(job.directory), durable=job.durable)
    prepared = log.prepare(events)
    _settle()
    seconds = _in_threads(log, prepared, job) if job.threads > 1 else _alone(log, prepared, job)
    log.check_settings()
    start = time.perf_counter()
    log.close()
    closing = time.perf_counter() - start
    if job.contender != "raw":
        _check_log(job, log_class)
    return Measured(job.events / seconds, {"close_ms": 1e3 * closing})


def _alone(log: Log, prepared: Sequence[Any], job: Job) -> float:
    start = time.perf_counter()
    if job.batch:
        log.append_batches(prepared, job.batch)
    else:
        log.append_all(prepared)
    return time.perf_counter() - start


def _in_threads(log: Log, prepared: Sequence[Any], job: Job) -> float:
    shares = [prepared[number :: job.threads] for number in range(job.threads)]
    failures = list[BaseException]()
    ready = threading.Barrier(job.threads + 1)

    def work(share: Sequence[Any]) -> None:
        ready.wait()
        try:
            log.append_all(share)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    return seconds


def append_in_turns(job: Job) -> Measured:
    """As `append`, TURN events at a time, in turns with `job.rival`; its rate is "rival".

    A machine whose speed changes from one second to the next slows both alike.
    """
    events = measurements(job.events)
    sides = [_Side(name, Path(job.directory, name), job) for name in (job.contender, job.rival)]
    for side in sides:
        side.directory.mkdir()
        _warm_up(side.job, side.log_class)
        side.begin(events)
    _settle()
    for start in range(0, job.events, TURN):
        for side in sides:
            side.take(start, start + TURN)
        sides.reverse()  # so that neither always follows the other
    for side in sides:
        side.log.check_settings()
        side.log.close()
        _check_log(side.job, side.log_class)
    rates = {side.job.contender: job.events / side.seconds for side in sides}
    return Measured(rates[job.contender], {"rival": rates[job.rival]})


class _Side:
    """One of two that append in turns, and the seconds that its turns took."""

    def __init__(self, contender: str, directory: Path, job: Job) -> None:
        self.directory = directory
        self.job = replace(job, contender=contender, directory=str(directory))
        self.log_class = load(contender)
        self.seconds = 0.0

    def begin(self, events: Sequence[Measurement]) -> None:
        self.log = self.log_class(self.directory, durable=self.job.durable)
        self.prepared = self.log.prepare(events)

    def take(self, start: int, end: int) -> None:
        share = self.prepared[start:end]
        began = time.perf_counter()
        self.log.append_all(share)
        self.seconds += time.perf_counter() - began


def get(job: Job) -> Measured:
    """Microseconds per read of a random event by its id, payload decoded, file cache warm."""
    log = load(job.contender)(Path(job.directory), durable=False)
    chance = random.Random(job.events)
    numbers = [chance.randrange(job.events) for _ in range(min(GETS, job.events))]
    keys = log.keys(numbers)
    log.get_all(keys[: len(keys) // 10])
    _settle()
    start = time.perf_counter()
    found = log.get_all(keys)
    seconds = time.perf_counter() - start
    _check_equal(found, [measurement(number) for number in numbers])
    log.close()
    return Measured(1e6 * seconds / len(keys))


def scan(job: Job) -> Measured:
    """Events per second of one pass over all, payloads decoded to their class."""
    _warm_files(job)
    log = load(job.contender)(Path(job.directory), durable=False)
    _settle()
    start = time.perf_counter()
    scanned = log.scan()
    seconds = time.perf_counter() - start
    _check_scan(scanned.count, scanned.sample, job.events, in_order=True)
    log.close()
    return Measured(job.events / seconds)


def verify(job: Job) -> Measured:
    """Events verified per second and core: by wall time or processor time, the longer."""
    _warm_files(job)
    log = load(job.contender)(Path(job.directory), durable=False)
    _settle()
    busy, start = time.process_time(), time.perf_counter()
    count = log.verify()
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    if count < job.events:
        raise AssertionError(f"verify saw {count} events of {job.events}")
    log.close()
    return Measured(count / max(wall, busy), {"wall_s": wall, "busy_s": busy})


def open_log(job: Job) -> Measured:
    """Milliseconds of the process's first open; what it imports late counts too."""
    _warm_files(job)
    log_class = load(job.contender)
    _settle()
    start = time.perf_counter()
    log = log_class(Path(job.directory), durable=True)
    seconds = time.perf_counter() - start
    scanned = log.scan()
    _check_scan(scanned.count, scanned.sample, job.events, in_order=True)
    log.close()
    return Measured(1e3 * seconds)


def disk(job: Job) -> Measured:
    """Bytes per event: batpak's segments, or all of a peer's database."""
    directory = Path(job.directory)
    if job.contender != "batpak":
        return Measured(_bytes_of(directory, "events.db*") / job.events)
    segments = _bytes_of(directory, "journal/segments/*.seg")
    expected = record_size(job.batch or 1) / (job.batch or 1)
    # Headers, opens, closes and pads come on top; less, or much more, is another format.
    if not 0 <= segments - job.events * expected <= 4096 + 0.01 * segments:
        raise AssertionError(f"{segments} bytes, but records of {expected} bytes an event")
    return Measured(segments / job.events)


def disk_with_index(job: Job) -> Measured:
    """Bytes per event of segments and their sidecars."""
    directory = Path(job.directory)
    sidecars = _bytes_of(directory, "journal/segments/*.idx")
    if not sidecars:
        raise AssertionError("no sidecar was written")
    return Measured((_bytes_of(directory, "journal/segments/*.seg") + sidecars) / job.events)


_IMPORTS: Final = {
    "batpak": "from batpak import Store",
    "eventsourcing": "from eventsourcing.application import Application",
}


def import_time(job: Job) -> Measured:
    """Milliseconds of the import in a fresh interpreter whose file cache is warm."""
    code = f"import time; start = time.perf_counter(); {_IMPORTS[job.contender]}\n"
    command = [sys.executable, "-c", code + "print(time.perf_counter() - start)"]
    # The first warms the file cache and leaves compiled modules.
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Measured(1e3 * float(done.stdout))


def fixture(job: Job) -> Measured:
    """Fills a log for the works that only read, untimed."""
    log_class = load(job.contender)
    log = log_class(Path(job.directory), durable=False)
    prepared = log.prepare(measurements(job.events))
    _alone(log, prepared, job)
    log.close()
    _check_log(job, log_class)
    return Measured(0.0)


WORKS: Final[dict[str, Callable[[Job], Measured]]] = {
    work.__name__: work
    for work in (
        append,
        append_in_turns,
        get,
        scan,
        verify,
        open_log,
        disk,
        disk_with_index,
        import_time,
        fixture,
    )
}


def _warm_up(job: Job, log_class: type[Log]) -> None:
    directory = Path(job.directory, "warm-up")
    directory.mkdir()
    log = log_class(directory, durable=job.durable)
    prepared = log.prepare(measurements(2 * BATCH))
    _alone(log, prepared, job)
    log.close()


def _settle() -> None:
    gc.collect()
    gc.freeze()


def _warm_files(job: Job) -> None:
    for path in Path(job.directory).rglob("*"):
        if path.is_file():
            path.read_bytes()


def _check_log(job: Job, log_class: type[Log]) -> None:
    log = log_class(Path(job.directory), durable=False)
    scanned = log.scan()
    log.close()
    _check_scan(scanned.count, scanned.sample, job.events, in_order=job.threads == 1)


def _check_scan(count: int, sample: list[Measurement], events: int, *, in_order: bool) -> None:
    if count != events:
        raise AssertionError(f"the log holds {count} events, not {events}")
    numbers = [value.number for value in sample]
    if in_order and numbers != list(range(999, events, 1000)):
        raise AssertionError("events are out of order")
    _check_equal(sample, [measurement(number) for number in numbers])


def _check_equal(found: list[Measurement], expected: list[Measurement]) -> None:
    for got, wanted in zip(found, expected, strict=True):
        if type(got) is not Measurement or got != wanted:
            raise AssertionError(f"read {got!r}, wrote {wanted!r}")


def _bytes_of(directory: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(pattern))
