"""What has to hold beside the events after a power cut: keys, conditions, copies, imports.

Each claim is made in a life by whoever lives it, and held against a state that recovery
has passed. Some of it is true after every cut: a retry under a key writes at most once, a
snapshot of that name is whole. Some was promised by a call that returned, and is asked
for only where the call came before the cut. What claims write they write on a copy of the
disk. Those about proofs stand in proof_claims.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from batpak import Coordinate, Expect, Item, Region, Store, Unless
from batpak.errors import (
    BatpakError,
    ConditionFailed,
    ExpectationFailed,
    IdempotencyConflict,
    NotASnapshot,
    SnapshotDamaged,
)
from batpak.event import Event
from batpak.kinds import SYSTEM_RESTORED
from tests.crash.power_cuts.memory_files import Disk, MemoryFiles, State
from tests.crash.power_cuts.recording import (
    JOURNAL,
    Judged,
    Print,
    append,
    opened,
    secret_of,
    segments_of,
)
from tests.support.checker import KIND, SCOPE, SYSTEM, fingerprint

__all__ = ["Conditional", "Copied", "Gone", "Imported", "Keyed"]

RESTORED: Final = "/in/a/restored"
AGAIN: Final = "/in/a/again"


def check_ids(shown: Sequence[Print]) -> dict[bytes, Print]:
    """Every event by its id; asserts that none stands twice."""
    found = {each[1]: each for each in shown}
    assert len(found) == len(shown), "a key is there twice"
    return found


def is_users(event: Event) -> bool:
    """Whether somebody but the journal wrote it."""
    return event.coordinate.entity != SYSTEM


@dataclass(frozen=True, slots=True)
class Keyed:
    """Commits under keys: after the cut a retry gives the first receipt, or writes once."""

    commits: Sequence[Sequence[Item]]

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Retry each commit twice, and one key for something else."""
        there = check_ids(judged.shown)
        with opened(MemoryFiles(Disk(judged.after)), options) as store:
            for items in self.commits:
                known = [there.get(key_of(item)) for item in items]
                before = written(store)
                receipts = append(store, items)
                assert append(store, items) == receipts, "a second retry has another answer"
                if any(known):
                    said = [(r.sequence, r.event_id.bytes, r.event_hash) for r in receipts]
                    assert said == [each and each[:3] for each in known], "a key is there twice"
                    assert written(store) == before, "a retry of what is there was written"
                    self._conflict(store, items[0])
                else:
                    assert written(store) == before + len(items), "a retry was not written once"
            check_ids([fingerprint(event) for event in store])
            report = store.verify("full")
            assert report.ok, report.findings

    def _conflict(self, store: Store, item: Item) -> None:
        try:
            store.append(item.coordinate, {"other": 1}, kind=KIND, key=item.key)
        except IdempotencyConflict:
            return
        raise AssertionError("a key was taken for something else")


def key_of(item: Item) -> bytes:
    """The key of a machine's item."""
    assert isinstance(item.key, bytes)
    return item.key


def written(store: Store) -> int:
    """How many events the journal has, visible or not."""
    return store.frontier().written.sequence


class Conditional:
    """Conditions are judged by the events that survived, and by no others."""

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Ask for what is so, and for what is not, of each entity."""
        with opened(MemoryFiles(Disk(judged.after)), options) as store:
            clocks: dict[str, int] = {"nobody": -1}
            newest: dict[str, int] = {}
            for event in filter(is_users, store):
                entity = event.coordinate.entity
                clocks[entity] = clocks.get(entity, -1) + 1
                newest[entity] = event.sequence
            for entity, clock in clocks.items():
                where = Coordinate(entity, SCOPE)
                right = clock if clock >= 0 else Expect.EMPTY
                wrong = Expect.EMPTY if clock >= 0 else 0
                seen = newest.get(entity)
                region = Region(entity)
                before = written(store)
                if seen is not None:
                    refused(store, where, unless=Unless(region, after=seen - 1 if seen else None))
                refused(store, where, expect=wrong)
                assert written(store) == before, "what was refused was written"
                # Entities below this one are of its region, and may have newer events.
                below = [s for name, s in newest.items() if name.startswith(entity)]
                until = Unless(region, after=max(below, default=None))
                store.append(where, 1, kind=KIND, expect=right, unless=until)
                newest[entity] = before


def refused(store: Store, where: Coordinate, **condition: Any) -> None:
    """Assert that an append is refused by its condition."""
    try:
        store.append(where, 1, kind=KIND, **condition)
    except (ConditionFailed, ExpectationFailed):
        return
    raise AssertionError("a condition that does not hold was taken for fulfilled")


@dataclass(frozen=True, slots=True)
class Gone:
    """Payloads of these numbers that a compaction took out: no file of the journal has them."""

    numbers: Sequence[int]

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Look at the segments' bytes as the cut left them, then at all that recovery left."""
        if not promised:
            return
        left = {n: data for n, data in judged.after.tree().items() if n.startswith(JOURNAL + "/")}
        for name, data in (*segments_of(judged.before).items(), *left.items()):
            for number in self.numbers:
                assert secret_of(number) not in data, f"{name} has an erased payload again"


@dataclass(frozen=True, slots=True)
class Copied:
    """A snapshot, restore or fork: under its name it is whole or not there.

    A restored journal is made of a snapshot, a fork of the journal itself.
    """

    kind: Literal["snapshot", "restore", "resume", "fork"]
    path: str
    source: str = JOURNAL

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Use it as the cut left it; where nothing is there, make it once more."""
        state = judged.before
        is_there = state.find(self.path) is not None
        if not is_there:
            assert not promised, f"the {self.kind} was reported as made and is not there"
            if state.find(self.path + ".tmp") is None:
                return
            self._unfinished(state)
            # What is left of the first try is not in the way of a second one.
            disk = Disk(judged.after)
            self._make(disk, options)
            state = disk.state()
            assert state.find(self.path + ".tmp") is None, "the place to build in stays"
        count = self._use(state, judged, options)
        # Made only now it has this process's events, too.
        if is_there and self.source == JOURNAL:
            assert count <= judged.recovered, "a copy has more than its journal"

    def _make(self, disk: Disk, options: dict[str, Any]) -> None:
        if self.kind in ("restore", "resume"):
            restore(disk, self.source, self.path, resume=self.kind == "resume")
            return
        with opened(MemoryFiles(disk), options) as store:
            if self.kind == "snapshot":
                store.snapshot(self.path)
            else:
                store.fork(self.path)

    def _use(self, state: State, judged: Judged, options: dict[str, Any]) -> int:
        """Open it and compare; how many events it shares with what it was made of."""
        disk, path = Disk(state), self.path
        if self.kind == "snapshot":
            path = RESTORED
            try:
                restore(disk, self.path, path)
            except BatpakError as error:
                raise AssertionError(f"a snapshot of that name is not whole: {error!r}") from error
        with opened(MemoryFiles(disk), options, path) as store:
            shown = [fingerprint(event) for event in store]
            [told] = [e for e in store if e.kind == SYSTEM_RESTORED][-1:]
            report = store.verify("full")
            assert report.ok, report.findings
        facts: Any = told.value
        count: int = facts["at"]
        for copied, own in zip(shown[:count], judged.shown, strict=False):
            # Erased in the journal since, or in both.
            assert copied[:3] == own[:3], "a copy has other events"
            assert copied[3] == own[3] or own[3] is None, "a copy has another payload"
        return count

    def _unfinished(self, state: State) -> None:
        """What is being built is no journal and no snapshot yet, unless all of it is there."""
        whole = f"{self.path}.tmp/whole"
        if self.kind != "snapshot" or state.find(whole) is None:
            return
        try:
            restore(Disk(state), whole, AGAIN)
        except (NotASnapshot, SnapshotDamaged):
            return


def restore(disk: Disk, snapshot: str, path: str, *, resume: bool = False) -> None:
    """Make a journal of a snapshot on this disk, in a process of its own."""
    files = MemoryFiles(disk)
    try:
        Store.restore(snapshot, path, files=files, resume=resume)
    finally:
        files.bury()


@dataclass(frozen=True, slots=True)
class Imported:
    """Events of another journal: each is here at most once, and once after one more import."""

    source: str

    def check(self, judged: Judged, options: dict[str, Any], *, promised: bool) -> None:
        """Import again, twice."""
        there = check_ids(judged.shown)
        files = MemoryFiles(Disk(judged.after))
        with opened(files, options) as store:
            with Store.open(self.source, mode="r", files=files) as reader:
                wanted = [event.event_id.bytes for event in reader if is_users(event)]
                found = [each in there for each in wanted]
                assert found == sorted(found, reverse=True), "an import has a gap"
                assert all(found) or not promised, "an import that returned is not there"
                report = store.import_events(reader)
                assert report.imported == found.count(False), report
                assert report.known == 0, "an import has forgotten how far it came"
                assert store.import_events(reader).imported == 0
            brought = [e.event_id.bytes for e in store if e.event_id.bytes in set(wanted)]
            assert brought == wanted, "an event was imported twice, or not"
