"""Real processes that write journals and tell what they did, made by the hundred.

A nursery is one Python process that has loaded all that a writer needs, and has once
written, recovered and read a journal, so that nothing is imported later. For each request
it forks a child. The child lives one of the `LIVES`, with the operating system's own
files, and tells each attempt before it makes it and each result after the call returned,
one JSON object a line, into a pipe. A life goes on after an error of batpak, as a patient
program would; any other exception is told as `raw`, which nothing here may ever do.

The parent's half is `Nursery`. It reads lines until the pipe ends or its patience does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import random
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from batpak import Coordinate, Durability, EventKind, Item, Region, Store
from batpak.config import Every
from batpak.errors import BatpakError, Indeterminate
from batpak.files import REAL, Files
from batpak.store import ReadOnlyStore
from tests.support.proofs import LOG

T = TypeVar("T")
Line = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KIND = EventKind(0xF, 1)
SCOPE = "room:dungeon"
SYSTEM = "batpak:store"
PATIENCE = 60
"""Seconds after which a process that says nothing hangs. Nothing else depends on it."""
SMALL: dict[str, Any] = {"segment_max_bytes": 4096, "preallocate": 8192}
MODES: dict[str, Durability | Every] = {
    "sync": Durability.SYNC,
    "every": Durability.EVERY(ms=3_600_000, events=3),
    "timer": Durability.EVERY(ms=1, events=50),
    "os": Durability.OS,
}
_PR_SET_PTRACER = 0x59616D61


# --- the child -------------------------------------------------------------------


class Doomed:
    """The operating system's files, until this process kills itself before operation `at`."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(REAL, name)

        def call(*arguments: Any) -> Any:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            return method(*arguments)

        return call


class Teller:
    """What a life holds: where its journal is, and the pipe into which it tells."""

    def __init__(self, out: int, request: Line) -> None:
        self.out = out
        self.path: str = request["path"]
        self.options: Line = request["options"]
        self.number: int = request["number"]
        at = self.options.get("doomed")
        self.files: Files = REAL if at is None else cast(Files, Doomed(at))

    def say(self, **facts: Any) -> None:
        os.write(self.out, (json.dumps(facts) + "\n").encode())

    def attempt(self, step: str, call: Callable[[], T]) -> T | None:
        """What the call returns; None after an error of batpak, which is told."""
        try:
            return call()
        except BatpakError as error:
            self.say(error=step, **described(error))
            return None

    def open(self, **options: Any) -> Store | None:
        """The journal open for writing; a second attempt follows a failed one."""
        config = {**SMALL, **options}
        config.setdefault("durability", MODES[self.options.get("mode", "sync")])
        for _ in range(2):
            store = self.attempt("open", lambda: Store.open(self.path, files=self.files, **config))
            if store is not None:
                self.say(opened=store.open_report.epoch)
                return store
        return None

    def commit(self, store: Store, *entities: str, padding: int = 0, durable: bool = False) -> None:
        """Append one event to each of `entities` in one commit."""
        events = [(entity, self.number + i) for i, entity in enumerate(entities)]
        self.number += len(entities)
        items = [
            Item(Coordinate(entity, SCOPE), {"n": number, "pad": bytes(padding)}, kind=KIND)
            for entity, number in events
        ]
        self.say(attempt=events)
        try:
            if len(items) == 1:
                [item] = items
                done = (store.append(item.coordinate, item.payload, kind=KIND, durable=durable),)
            else:
                done = store.append_many(items, durable=durable)
        except BatpakError as error:
            written = isinstance(error, Indeterminate)
            self.say(error="append", unknown=written, **described(error))
            return
        self.say(acknowledged=[receipt.to_json() for receipt in done])

    def keyed(self, store: Store, *entities: str, padding: int = 0) -> list[Item]:
        """As `commit`, each event under the key of its number; the items."""
        events = [(entity, self.number + i) for i, entity in enumerate(entities)]
        self.number += len(entities)
        items = [keyed_item(entity, number, padding) for entity, number in events]
        self.say(attempt=events, keyed=True)
        try:
            done = store.append_many(items)
        except BatpakError as error:
            written = isinstance(error, Indeterminate)
            self.say(error="append", unknown=written, **described(error))
        else:
            self.say(acknowledged=[receipt.to_json() for receipt in done])
        return items

    def show(self, store: Store | ReadOnlyStore) -> None:
        """Tell every event of a user that the store shows."""
        shown = self.attempt("read", lambda: list(store))
        if shown is not None:
            users = [event for event in shown if event.coordinate.entity != SYSTEM]
            values = self.attempt("read", lambda: [event.value for event in users])
            if values is not None:
                entities = [event.coordinate.entity for event in users]
                numbers = [value["n"] for value in values if isinstance(value, dict)]
                self.say(shown=list(zip(entities, numbers, strict=True)))


def keyed_item(entity: str, number: int, padding: int = 1500) -> Item:
    """The event of that number, under its key: what a retry has to give again."""
    key = bytes([1]) + number.to_bytes(15, "big")
    return Item(Coordinate(entity, SCOPE), {"n": number, "pad": bytes(padding)}, kind=KIND, key=key)


def described(error: BatpakError) -> Line:
    """What a caller can branch on, and the system's own number beneath it."""
    number, cause = None, error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno is not None:
            number = cause.errno
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return {
        "classes": [base.__name__ for base in type(error).__mro__],
        "code": error.code,
        "advice": error.advice,
        "errno": number,
        "text": str(error),
    }


def writes(teller: Teller) -> None:
    """Open, single events and batches, a rotation, a sync, a look, a clean close."""
    store = teller.open()
    if store is None:
        return
    teller.commit(store, "player:0")
    teller.commit(store, "player:1", durable=True)
    teller.commit(store, "player:0", "player:1", "player:2")
    teller.commit(store, "player:1", padding=3500)
    # The segment has reached its limit: this one begins the next.
    teller.commit(store, "player:0")
    teller.commit(store, "player:3", "player:0")
    teller.attempt("sync", store.sync)
    teller.commit(store, "player:0")
    teller.show(store)
    teller.attempt("close", store.close)


def reopens(teller: Teller) -> None:
    """Open what is there, append once, close."""
    store = teller.open(**({"segment_max_bytes": 1 << 24} if teller.options.get("large") else {}))
    if store is None:
        return
    teller.commit(store, "player:0", "player:4")
    teller.show(store)
    teller.attempt("close", store.close)


def reads(teller: Teller) -> None:
    """Follow without the lock, twice: every event, then every hash."""
    for _ in range(2):
        reader = teller.attempt("open", lambda: Store.open(teller.path, mode="r"))
        if reader is None:
            continue
        teller.show(reader)
        report = teller.attempt("verify", partial(reader.verify, "full"))
        if report is not None:
            teller.say(findings=[finding.code for finding in report.findings])
        teller.attempt("close", reader.close)


def retries(teller: Teller) -> None:
    """Append under keys, alone and in a batch, and again after each: nothing is written twice."""
    store = teller.open()
    if store is None:
        return
    for entities in (("player:0",), ("player:1", "player:0"), ("player:2",)):
        items = teller.keyed(store, *entities, padding=1500)
        again = teller.attempt("retry", partial(store.append_many, items))
        if again is not None:
            teller.say(retried=[receipt.to_json() for receipt in again])
    teller.show(store)
    teller.attempt("close", store.close)


def forgets(teller: Teller) -> None:
    """Erase what one player did, in sealed segments and in the newest, and compact."""
    store = teller.open()
    if store is None:
        return
    teller.commit(store, "player:0")
    named = teller.attempt("read", lambda: list(store.query(Region("player:0"))))
    if named is not None:
        ids = [event.event_id for event in named]
        teller.say(erase=[str(each) for each in ids])
        if teller.attempt("erase", lambda: store.erase(ids, reason="asked for")) is not None:
            teller.say(erased=True)
        report = teller.attempt("compact", store.compact)
        if report is not None:
            teller.say(compacted=report.outcome, reason=report.reason)
    teller.commit(store, "player:3")
    teller.attempt("close", store.close)


def attests(teller: Teller) -> None:
    """Make a checkpoint, append, make another."""
    store = teller.open(checkpoint_key=LOG)
    if store is None:
        return
    for _ in range(2):
        teller.commit(store, "player:0")
        made = teller.attempt("checkpoint", store.checkpoint)
        if made is not None:
            teller.say(made=made.size)
    teller.attempt("close", store.close)


def copies(teller: Teller) -> None:
    """Append, and take a snapshot, which shares the segments that are sealed."""
    store = teller.open()
    if store is None:
        return
    teller.commit(store, "player:0")
    place = os.path.join(os.path.dirname(teller.path), "snapshot")
    report = teller.attempt("snapshot", lambda: store.snapshot(place))
    if report is not None:
        teller.say(made=report.events)
    teller.attempt("close", store.close)


def outgrows(teller: Teller) -> None:
    """Append while no file may grow more than `extra` bytes beyond the log, then freely.

    The kernel writes up to the limit and reports a short write; the next one is refused,
    or with `dies` it ends the process, which leaves a torn record.
    """
    store = teller.open(segment_max_bytes=1 << 20, preallocate=0)
    assert store is not None
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    teller.commit(store, "player:0")
    if teller.options["dies"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    newest = max(Path(teller.path, "segments").glob("*.seg"))
    limit = newest.stat().st_size + teller.options["extra"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    teller.commit(store, *teller.options["entities"], padding=100)
    teller.show(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    teller.commit(store, "player:1")
    teller.commit(store, "player:0", "player:1", padding=100)
    teller.attempt("close", store.close)


def hoards(teller: Teller) -> None:
    """Append `count` events in one segment, then die without a close."""
    store = teller.open(segment_max_bytes=1 << 24)
    assert store is not None
    for i in range(teller.options["count"]):
        teller.commit(store, f"player:{i % 7}")
    os.kill(os.getpid(), signal.SIGKILL)


def works(teller: Teller) -> None:
    """Threads that append for ever: `threads`, `batch` (0: sizes vary), `round`.

    Each worker has an entity of its own; batches also go to one that all share.
    """
    store = teller.open(segment_max_bytes=1 << 15)
    assert store is not None
    threads, batch, turn = (teller.options[name] for name in ("threads", "batch", "round"))

    def work(worker: int) -> None:
        chance = random.Random(f"{teller.options['seed']} {turn} {worker}")
        own, shared = Coordinate(f"worker:{worker}", SCOPE), Coordinate("shared", SCOPE)
        commit = 0
        while True:
            size = batch or chance.choice((1, 1, 2, 5))
            items = [
                Item(
                    shared if i % 3 == 2 else own,
                    {"who": worker, "round": turn, "commit": commit, "i": i, "of": size},
                    kind=KIND,
                )
                for i in range(size)
            ]
            if size == 1:
                done = (store.append(own, items[0].payload, kind=KIND),)
            else:
                done = store.append_many(items)
            teller.say(
                who=worker,
                commit=commit,
                acknowledged=[[r.sequence, str(r.event_id), r.event_hash.hex()] for r in done],
            )
            commit += 1

    for worker in range(1, threads):
        threading.Thread(target=work, args=(worker,), daemon=True).start()
    work(0)


LIVES: dict[str, Callable[[Teller], None]] = {
    life.__name__: life
    for life in (
        writes, reopens, reads, retries, forgets, attests, copies, outgrows, hoards, works,
    )
}  # fmt: skip


def live(out: int, request: Line) -> None:
    """The whole of a child's life; never returns."""
    status = 70
    teller = Teller(out, request)
    try:
        if request["wait"]:
            # Some systems let only parents trace, and the tracer is no parent of ours.
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
            teller.say(ready=True)
            signal.sigwait({signal.SIGUSR1})
        LIVES[request["life"]](teller)
        if "doomed" in request["options"]:
            # It came further than its last operation: then this is just after.
            os.kill(os.getpid(), signal.SIGKILL)
        status = 0
    except BaseException as error:  # noqa: BLE001  # told to the parent, which fails the test
        teller.say(raw=repr(error))
    finally:
        os._exit(status)


def warm_up() -> None:
    """Do once all that a life does, so that children load nothing and find it the same."""
    with tempfile.TemporaryDirectory() as place:
        out = os.open(os.devnull, os.O_WRONLY)
        path = os.path.join(place, "journal")
        base: Line = {"path": path, "options": {"mode": "every"}, "number": 0}
        for life in (writes, reopens, reads, retries, forgets, attests, copies):
            life(Teller(out, base))
        os.close(out)


def serve(channel: socket.socket) -> None:
    """Fork a child for each request until the other end is closed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    # Faults are many here and meant; what counts is what callers are told.
    logging.getLogger("batpak").addHandler(logging.NullHandler())
    warm_up()
    # What is left of it must not be collected, and its files closed, in some child.
    gc.collect()
    gc.freeze()
    channel.send(b"{}")
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 16, 1)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            channel.close()
            live(fds[0], json.loads(data))
        os.close(fds[0])
        channel.send(json.dumps({"pid": pid}).encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        channel.send(json.dumps({"status": status}).encode())


# --- the parent ------------------------------------------------------------------


class Child:
    """A child of a nursery: its process id, and what it tells."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.lines: list[Line] = []
        self._pipe = pipe
        self._rest = b""
        self.ended = False
        self.status: int | None = None
        """Exit status once the block is over; negative: the signal that ended it."""

    def go(self) -> None:
        """Let a child that waits begin."""
        os.kill(self.pid, signal.SIGUSR1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def listen(self, until: float) -> bool:
        """Read what is told until that moment of the monotonic clock; False at the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while not self.ended and (left := until - time.monotonic()) > 0:
                if selector.select(left):
                    self._take()
        return not self.ended

    def listen_for(self, count: int) -> None:
        """Read until so many lines were told, or the end."""
        end = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while len(self.lines) < count and not self.ended:
                if not selector.select(end - time.monotonic()):
                    raise AssertionError(f"process {self.pid} hangs after {self.lines[-1:]}")
                self._take()

    def listen_to_end(self) -> None:
        """Read to the end of the child; it is killed and the test fails if that hangs."""
        if self.listen(time.monotonic() + PATIENCE):
            self.kill()
            raise AssertionError(f"process {self.pid} hangs after {self.lines[-1:]}")

    def _take(self) -> None:
        data = os.read(self._pipe, 1 << 16)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines += [json.loads(line) for line in whole]
        self.ended = not data

    def close(self) -> None:
        os.close(self._pipe)


class Nursery:
    """A process that forks warm children, one at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = ours
        self._channel.settimeout(2 * PATIENCE)
        # One thread, so that a fork copies no lock that somebody holds.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )
        self._receive()

    def _receive(self) -> Line:
        data = self._channel.recv(1 << 16)
        assert data, f"the nursery ended: {self._process.wait(PATIENCE)}"
        return json.loads(data)

    @contextmanager
    def child(
        self, life: str, path: str | Path, *, wait: bool = False, number: int = 0, **options: Any
    ) -> Iterator[Child]:
        """A child that lives `life`; gone at the end of the block, whatever happens."""
        request = {
            "life": life, "path": str(path), "wait": wait, "number": number, "options": options,
        }  # fmt: skip
        read, write = os.pipe()
        socket.send_fds(self._channel, [json.dumps(request).encode()], [write])
        os.close(write)
        child = Child(self._receive()["pid"], read)
        try:
            yield child
        finally:
            if not child.ended:
                child.kill()
            child.status = self._receive()["status"]
            child.close()

    def close(self) -> None:
        self._channel.close()
        self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
