"""Keys beside a dict: whatever is tried again, in whatever way, the dict knows the answer.

The dict maps each id to what was done under it and to the receipt that was given. Commits
of one or several events, keyed or not, come by every way to write; between them the store
is closed, killed, and loses each file that can be rebuilt. Segments are tiny.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batpak import AppendReceipt, Coordinate, Durability, EventId, Item, Store
from batpak.errors import Cancelled, IdempotencyConflict
from batpak.kinds import EventKind
from tests.support.faulty_files import Fault, FaultyFiles, Killed, die
from tests.watched_files import WAIT

COORDINATES = (Coordinate("a", "s"), Coordinate("a", "t"), Coordinate("b", "s"))
KINDS = (EventKind(1, 0), EventKind(1, 1))
# Few, so that they meet; the last two are as our own ids, and as far from them as can be.
KEYS = (
    *(number.to_bytes(16, "big") for number in (1, 2, 3, 2**64)),
    bytes.fromhex("0190a0b0c0d07e0f8a1b2c3d4e5f6071"),
    b"\xff" * 16,
)
FIELDS = (
    "event_id", "sequence", "coordinate", "kind", "hlc", "clock", "commitment", "event_hash",
    "prev_hash", "extensions",
)  # fmt: skip


@dataclass(frozen=True)
class Deed:
    """What says whether two events are one operation."""

    coordinate: Coordinate
    kind: EventKind
    payload: int


@dataclass(frozen=True)
class Drawn:
    """An event to write. `key`: None, one of KEYS, or the id of some earlier event."""

    deed: Deed
    key: int | None
    repeats: bool
    """Whether it is to be what is already known under the key."""


DEEDS = st.builds(Deed, st.sampled_from(COORDINATES), st.sampled_from(KINDS), st.integers(0, 1))
DRAWN = st.builds(
    Drawn, DEEDS, st.none() | st.integers(0, len(KEYS) + 40), st.sampled_from((True, True, False))
)
KEYED = st.builds(Drawn, DEEDS, st.integers(0, len(KEYS) + 40), st.just(True))


def by_append_many(store: Store, items: list[Item], on_replay: Any) -> Any:
    return store.append_many(items, on_replay=on_replay)


def by_single(store: Store, items: list[Item], on_replay: Any) -> Any:
    """As `append` where there is one item."""
    if len(items) > 1:
        return by_append_many(store, items, on_replay)
    [item] = items
    receipt = store.append(
        item.coordinate, item.payload, kind=item.kind, key=item.key, on_replay=on_replay
    )
    return (receipt,)


def by_fence(store: Store, items: list[Item], on_replay: Any) -> Any:
    with store.fence(on_replay=on_replay) as fence:
        tickets = fence.append_many(items)
    return tuple(ticket.result(0) for ticket in tickets)


def by_outbox(store: Store, items: list[Item], on_replay: Any) -> Any:
    outbox = store.outbox(on_replay=on_replay)
    for one in items:
        outbox.stage(one.coordinate, one.payload, kind=one.kind, key=one.key)
    return outbox.flush()


def by_queue(store: Store, items: list[Item], on_replay: Any) -> Any:
    return store.submit_many(items, on_replay=on_replay).result(WAIT)


WAYS = st.sampled_from((by_single, by_append_many, by_fence, by_outbox, by_queue))


class KeysBesideADict(RuleBasedStateMachine):
    """Commits, retries, restarts, crashes and losses in any order."""

    @initialize(codec=st.sampled_from(("salted", "plain")))
    def create(self, codec: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batpak-keys-"))
        self.codec = codec
        self.known: dict[bytes, tuple[Deed, AppendReceipt]] = {}
        self.ids: list[bytes] = []
        self.length = 0
        self.open_store()

    def open_store(self) -> None:
        self.files = FaultyFiles()
        self.store = Store.open(
            self.folder / "journal", files=self.files, durability=Durability.OS,
            segment_max_bytes=4096, codec=self.codec, preallocate=0,
        )  # fmt: skip
        self.length += 1

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            try:
                self.retry_everything()
                assert self.store.verify().ok
            finally:
                self.store.close()
                shutil.rmtree(self.folder)

    # --- what the dict says ---------------------------------------------------------

    def resolve(self, drawn: Drawn) -> tuple[bytes | None, Deed]:
        if drawn.key is None:
            return None, drawn.deed
        pool = [*KEYS, *self.ids]
        key = pool[drawn.key % len(pool)]
        if drawn.repeats and key in self.known:
            return key, self.known[key][0]
        return key, drawn.deed

    def refusal(self, wanted: list[tuple[bytes | None, Deed]], strict: bool) -> tuple[str, int]:
        """Reason and index of the conflict; ("", 0) for none."""
        keys = [key for key, _ in wanted]
        keyed = [key is not None for key in keys]
        if any(keyed) and not all(keyed):
            return "mixed-keys", keyed.index(False)
        if not any(keyed):
            return "", 0
        for index, key in enumerate(keys):
            if key in keys[:index]:
                return "duplicate-key", index
        hits = [key in self.known for key in keys]
        if len(set(hits)) > 1:
            return "partial-replay", hits.index(not hits[0])
        if hits[0] and strict:
            for index, (key, deed) in enumerate(wanted):
                assert key is not None
                first = self.known[key][0]
                for name in ("coordinate", "kind", "payload"):
                    if getattr(first, name) != getattr(deed, name):
                        return name, index
        return "", 0

    def check_same(self, receipt: AppendReceipt, first: AppendReceipt) -> None:
        for name in FIELDS:
            assert getattr(receipt, name) == getattr(first, name), name

    # --- rules ----------------------------------------------------------------------

    @rule(
        drawn=st.lists(DRAWN, min_size=1, max_size=3) | st.lists(KEYED, min_size=1, max_size=4),
        way=WAYS,
        on_replay=st.sampled_from(("raise", "raise", "return")),
    )
    def commit(self, drawn: list[Drawn], way: Callable[..., Any], on_replay: str) -> None:
        wanted = [self.resolve(one) for one in drawn]
        items = [
            Item(deed.coordinate, deed.payload, kind=deed.kind, key=key) for key, deed in wanted
        ]
        reason, index = self.refusal(wanted, on_replay == "raise")
        if reason:
            with pytest.raises(IdempotencyConflict) as raised:
                way(self.store, items, on_replay)
            assert (raised.value.reason, raised.value.index) == (reason, index)
            return
        receipts = way(self.store, items, on_replay)
        assert len(receipts) == len(items)
        if wanted[0][0] in self.known:
            for (key, _), receipt in zip(wanted, receipts, strict=True):
                assert key is not None
                assert receipt.replayed
                self.check_same(receipt, self.known[key][1])
            return
        for (key, deed), receipt in zip(wanted, receipts, strict=True):
            assert not receipt.replayed
            assert receipt.sequence == self.length
            assert key is None or receipt.event_id.bytes == key
            self.length += 1
            self.known[receipt.event_id.bytes] = deed, receipt
            if key is None:
                self.ids.append(receipt.event_id.bytes)

    @rule(drawn=st.lists(KEYED, min_size=1, max_size=3))
    def give_up(self, drawn: list[Drawn]) -> None:
        """A fence that is cancelled uses up no key."""
        with self.store.fence() as fence:
            tickets = []
            for key, deed in map(self.resolve, drawn):
                tickets.append(fence.append(deed.coordinate, deed.payload, kind=deed.kind, key=key))
            fence.cancel()
        assert all(isinstance(ticket.exception(0), Cancelled) for ticket in tickets)

    @rule(loses=st.booleans())
    def restart(self, loses: bool) -> None:
        self.store.close()
        self.length += 1
        self.come_back(loses)

    @rule(loses=st.booleans(), fault=st.sampled_from((Fault.KILL, Fault.KILL_TORN)))
    def crash(self, loses: bool, fault: Fault) -> None:
        self.store.sync()
        self.files.arm(0, fault)
        try:
            self.store.append(COORDINATES[0], 0, kind=KINDS[0])
        except Killed:
            pass
        else:
            # Only a write can be torn, and this began with a rotation.
            assert fault is Fault.KILL_TORN
            self.length += 1
            self.files.arm(0, Fault.KILL)
            with pytest.raises(Killed):
                self.store.append(COORDINATES[0], 0, kind=KINDS[0])
        die(self.store, self.files)
        self.come_back(loses)

    def come_back(self, loses: bool) -> None:
        if loses:
            root = self.folder / "journal"
            for file in (*root.rglob("*.idx"), *root.glob("index/*")):
                file.unlink()
        self.open_store()

    @rule()
    def retry_everything(self) -> None:
        for key, (deed, first) in self.known.items():
            receipt = self.store.append(
                deed.coordinate, deed.payload, kind=deed.kind, key=EventId.from_bytes(key)
            )
            assert receipt.replayed
            self.check_same(receipt, first)

    @invariant()
    def nothing_but_what_the_dict_knows(self) -> None:
        if hasattr(self, "store"):
            assert len(self.store) == self.length


TestKeysBesideADict = pytest.mark.proves("INV-IDEMPOTENCY-FOREVER")(KeysBesideADict.TestCase)
TestKeysBesideADict.settings = settings(stateful_step_count=30)
