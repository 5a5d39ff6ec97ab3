"""Erasing payloads: refused at once and everywhere, gone after compaction, proof unchanged."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from batpak import (
    AppendReceipt,
    Coordinate,
    Durability,
    Event,
    EventId,
    EventKind,
    Item,
    PayloadState,
    ReadOnlyStore,
    Region,
    Store,
    Unless,
)
from batpak.engine.system import MAX_RUNS, erased_by, erasure_event
from batpak.errors import (
    CanonicalError,
    ConditionFailed,
    EventNotFound,
    IdempotencyConflict,
    InvalidInput,
    JournalPoisoned,
    NotErasable,
    PayloadErased,
    StoreClosed,
)
from batpak.index.runs import Runs
from batpak.journal.commits import Prepared
from tests.support.faulty_files import DISK, Fault, FaultyFiles, RecordingFiles, UnsyncedFiles
from tools import read_segment

KIND = EventKind(0xF, 1)
SMALL = {"segment_max_bytes": 4096, "preallocate": 0}
SECRET = b"what nobody may read any more"


def fill(store: Store, number: int = 30) -> list[AppendReceipt]:
    """Events of three entities in several segments, some in batches, one with a key."""
    receipts: list[AppendReceipt] = []
    for i in range(number):
        where = Coordinate(f"player:{i % 3}", "room")
        secret = {"n": i, "secret": SECRET + b"%d" % i, "pad": bytes(150)}
        if i % 5 == 0:
            items = [Item(where, secret, kind=KIND), Item(where, {"n": -i}, kind=KIND)]
            receipts += store.append_many(items)
        else:
            receipts.append(store.append(where, secret, kind=KIND))
    return receipts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, files=DISK, **SMALL) as opened:
        fill(opened)
        yield opened


def hashes(store: Store | ReadOnlyStore) -> list[tuple[int, bytes, bytes, bytes]]:
    return [(e.sequence, e.event_id.bytes, e.event_hash, e.prev_hash) for e in store]


def erased(store: Store | ReadOnlyStore) -> list[int]:
    return [e.sequence for e in store if e.payload_state is PayloadState.ERASED]


def log_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.glob("segments/*.seg")))


EVERY_WAY: dict[str, Callable[[Store | ReadOnlyStore, Event], Event]] = {
    "at": lambda s, e: s.at(e.sequence),
    "get": lambda s, e: s.get(e.event_id),
    "item": lambda s, e: s[e.sequence],
    "query": lambda s, e: next(
        s.query(Region(entity=e.coordinate.entity, clock=(e.clock, e.clock)))
    ),
    "iteration": lambda s, e: list(s)[e.sequence],
    "page": lambda s, e: s.page(Region.all(), after=e.sequence - 1, limit=1).events[0],
    "entity": lambda s, e: list(s.entity(e.coordinate.entity))[e.clock],
    "ancestors": lambda s, e: s.ancestors(e.event_id, limit=1).events[0],
}


@pytest.mark.proves("INV-ERASED-IS-REFUSED")
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("compacted", [False, True], ids=["marked", "compacted"])
def test_an_erased_payload_is_refused_in_every_way_to_read(
    store: Store, path: Path, way: str, compacted: bool
) -> None:
    victim = store.at(7)
    store.erase(victim.sequence, reason="request 1")
    if compacted:
        assert store.compact().outcome == "performed"
    with Store.open(path, mode="r", files=DISK) as reader:
        for opened in (store, reader):
            found = EVERY_WAY[way](opened, victim)
            assert found == victim
            assert found.event_hash == victim.event_hash
            assert found.payload_state is PayloadState.ERASED
            assert (found.envelope, found.content_hash) == (None, bytes(32))
            for ask in ("raw", "value", "payload"):
                with pytest.raises(PayloadErased) as caught:
                    getattr(found, ask)
                assert caught.value.sequence == 7
            other = EVERY_WAY[way](opened, opened.at(8))
            assert other.payload_state is PayloadState.PRESENT


def test_the_newest_event_of_an_entity_is_refused_too(store: Store) -> None:
    last = store.latest("player:1")
    assert last is not None
    store.erase(last.event_id, reason="request 1")
    found = store.latest("player:1")
    assert found is not None
    assert found.payload_state is PayloadState.ERASED


@pytest.mark.proves("INV-ERASED-IS-REFUSED")
def test_a_reader_under_way_is_refused_what_was_erased_since(store: Store) -> None:
    reading = iter(store)
    assert next(reading).sequence == 0
    store.erase([1, 2], reason="request 1")
    assert [next(reading).payload_state for _ in range(3)] == [
        PayloadState.ERASED, PayloadState.ERASED, PayloadState.PRESENT,
    ]  # fmt: skip


@pytest.mark.proves("INV-PROOF-SURVIVES-ERASURE")
def test_every_hash_and_receipt_is_the_same_after_erasure_and_compaction(path: Path) -> None:
    with Store.open(path, files=DISK, **SMALL) as store:
        receipts = fill(store)
        before = hashes(store)
        store.erase(Region(entity="player:1"), reason="request 1")
        store.erase([r.event_id for r in receipts[3:9]], reason="request 2")
        report = store.compact()
        assert report.outcome == "performed"
        assert len(report.segments) > 3
        assert hashes(store)[: len(before)] == before
        assert store.verify("full").ok
    with Store.open(path, files=DISK) as store:
        assert store.open_report.rebuilt == 0, "each rewritten segment has a sidecar"
        assert hashes(store)[: len(before)] == before
        for receipt in receipts:
            event = store.get(receipt.event_id)
            assert (event.sequence, event.event_hash, event.commitment, event.prev_hash) == (
                receipt.sequence, receipt.event_hash, receipt.commitment, receipt.prev_hash,
            )  # fmt: skip
        assert store.verify("full").ok
        ends = {store.ancestors(r.event_id).end.value for r in receipts}
        assert ends == {"genesis"}
    # A reader that shares no code with the library agrees.
    stranger = read_segment.read_journal(path)
    assert stranger.findings == []
    assert stranger.erased == len(erased_of(path)) > 10


def erased_of(path: Path) -> list[int]:
    with Store.open(path, mode="r", files=DISK) as reader:
        return erased(reader)


def test_a_segment_of_many_mebibytes_is_rewritten_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Store.open(path, files=DISK, segment_max_bytes=5 << 20) as store:
        for n in range(20):
            store.append(Coordinate("file:1", "room"), bytes([n]) * 300_000, kind=KIND)
        assert store.stats().segments == 2
        store.erase([store.at(3).event_id], reason="asked for")
        assert [segment.payloads for segment in store.compact().segments] == [1]
        assert not store.verify("full").findings
    stranger = read_segment.read_journal(path)
    assert not stranger.findings
    with Store.open(path, mode="r") as reader:
        values = [None if e.sequence == 3 else e.value for e in reader.query(Region(kind=KIND))]
    assert values == [None if n == 2 else bytes([n]) * 300_000 for n in range(20)]


def test_the_bytes_are_gone_after_compaction_and_only_those(store: Store, path: Path) -> None:
    victims = [e.sequence for e in store.query(Region(entity="player:2"))]
    kept = [e.raw for e in store if e.sequence not in victims]
    gone = [store.at(n).raw for n in victims if len(store.at(n).raw) > 60]
    store.erase(victims, reason="request 1")
    assert all(payload in log_bytes(path) for payload in gone)
    before = len(log_bytes(path))
    report = store.compact()
    left = log_bytes(path)
    assert not any(payload in left for payload in gone)
    assert all(payload in left for payload in kept)
    assert report.payloads == len(victims)
    # A new segment was begun; the event that says so stands in it.
    event = store.latest("batpak:store")
    assert event is not None
    head = 64 + 176 + len(event.metadata_bytes)
    grown = 128 + head + -head % 8 + len(event.raw) + -len(event.raw) % 8
    assert len(left) - before == grown - report.bytes_reclaimed
    assert report.bytes_reclaimed > 0
    assert report.receipt is not None
    assert store.at(report.receipt.sequence).value == {
        "segments": [[s.base, 1] for s in report.segments],
        "payloads": report.payloads,
        "bytes": sum(segment.bytes for segment in report.segments),
    }


def test_erasing_twice_writes_nothing_the_second_time(store: Store) -> None:
    first = store.erase([3, 4], reason="request 1")
    assert (first.events, first.already, first.sequences) == (2, 0, ((3, 4),))
    length = len(store)
    again = store.erase([4, 3], reason="request 2")
    assert (again.events, again.already, again.receipts) == (0, 2, ())
    assert len(store) == length
    partly = store.erase([4, 5], reason="request 3")
    assert (partly.events, partly.already, partly.sequences) == (1, 1, ((5, 5),))


def test_what_an_erasure_says_is_in_its_event(store: Store) -> None:
    report = store.erase([2, 5, 6, 7], reason="request 17")
    (receipt,) = report.receipts
    event = store.at(receipt.sequence)
    assert event.value == {"sequences": [2, 1, 2, 3], "reason": "request 17"}
    assert event.coordinate == Coordinate("batpak:store", "batpak:lifecycle")
    assert (event.kind.raw, event.row.codec) == (0x0012, 0)


def test_a_region_leaves_the_journals_own_events_alone(store: Store) -> None:
    users = [e.sequence for e in store if e.coordinate.entity != "batpak:store"]
    report = store.erase(Region.all(), reason="all")
    assert (report.events, report.system) == (len(users), 1)
    assert erased(store) == users
    assert store.erase(Region.all(), reason="all").events == 0
    store.compact()
    assert store.verify("full").ok
    assert store.at(0).value["epoch"] == 1


def test_a_region_can_be_narrowed_by_what_events_say(store: Store) -> None:
    report = store.erase(
        Region(entity="player"), where=lambda e: e.value["n"] < 0, reason="request 1"
    )
    assert report.events == 5
    with pytest.raises(InvalidInput, match="where="):
        store.erase([1], where=lambda e: True, reason="request 1")


def test_the_journals_own_events_are_refused_by_name(store: Store) -> None:
    length = len(store)
    with pytest.raises(NotErasable) as caught:
        store.erase([1, 0], reason="request 1")
    assert (caught.value.sequence, caught.value.exit_code) == (0, 5)
    assert len(store) == length
    assert erased(store) == []


@pytest.mark.parametrize(
    "what", [10_000, 37, [3, -1], [2**70], EventId.from_bytes(bytes(range(16)))], ids=str
)
def test_events_that_are_not_there_are_refused_and_nothing_is_written(
    store: Store, what: object
) -> None:
    length = len(store)
    assert length == 37, "which is the first sequence that no event has"
    with pytest.raises(EventNotFound) as caught:
        store.erase(what, reason="request 1")  # type: ignore[arg-type]  # also ill-typed values
    assert caught.value.field == "what"
    assert (len(store), erased(store)) == (length, [])


@pytest.mark.parametrize("what", ["player", b"player", {1: 2}, 1.5, [True], ["1"], None])
def test_what_names_no_event_is_refused(store: Store, what: object) -> None:
    with pytest.raises(InvalidInput, match="takes a Region") as refused:
        store.erase(what, reason="request 1")  # type: ignore[arg-type]  # ill-typed on purpose
    assert refused.value.field == "what"


def test_a_condition_is_a_function(store: Store) -> None:
    length = len(store)
    for ask in (store.plan_erasure, partial(store.erase, reason="request 1")):
        with pytest.raises(InvalidInput, match="where= takes a function") as refused:
            ask(Region.all(), where=1)  # type: ignore[arg-type]  # ill-typed on purpose
        assert refused.value.field == "where"
    assert len(store) == length


@pytest.mark.parametrize("reason", ["", "x" * 1025, "é" * 513, b"why", None, "\ud800"])
def test_an_erasure_needs_a_reason_that_fits(store: Store, reason: object) -> None:
    with pytest.raises(InvalidInput, match="reason"):
        store.erase([1], reason=reason)  # type: ignore[arg-type]  # ill-typed on purpose


def test_a_plan_writes_nothing(store: Store, path: Path) -> None:
    store.erase([1], reason="request 1")
    before = log_bytes(path)
    with Store.open(path, mode="r", files=DISK) as reader:
        plan = reader.plan_erasure([1, 2])
        assert (plan.events, plan.already, plan.receipts) == (1, 1, ())
        compaction = reader.plan_compaction()
        assert (len(compaction.segments), compaction.payloads) == (1, 1)
    assert log_bytes(path) == before
    assert store.compact().segments[0].payloads == 1


def test_an_erased_keyed_event_still_answers_its_key(path: Path) -> None:
    key = EventId.from_bytes(bytes(range(1, 17)))
    where = Coordinate("player:1", "room")
    with Store.open(path, files=DISK, **SMALL) as store:
        first = store.append(where, {"n": 1}, kind=KIND, key=key)
        fill(store, 10)
        store.erase(key, reason="request 1")
        for _ in range(2):
            # Its payload can't be compared any more: coordinate and kind are.
            again = store.append(where, {"n": 2}, kind=KIND, key=key)
            assert (again, again.replayed) == (first, True)
            for other, kind in ((Coordinate("player:2", "room"), KIND), (where, EventKind(0xF, 2))):
                with pytest.raises(IdempotencyConflict):
                    store.append(other, {"n": 1}, kind=kind, key=key)
            store.compact()


def test_a_clock_range_and_a_condition_hold_after_compaction(store: Store) -> None:
    """Both look into segments, at places that the compaction has moved."""
    region = Region(entity="player:1", clock=(2, 4))
    before = [e.sequence for e in store.query(region)]
    store.erase(Region(entity="player:0"), reason="request 1")
    store.compact()
    assert [e.sequence for e in store.query(region)] == before
    assert store.count(region) == 3
    with pytest.raises(ConditionFailed):
        store.append(Coordinate("player:1", "room"), {}, kind=KIND, unless=Unless(region))


def test_a_reading_that_was_begun_before_a_compaction_ends_well(store: Store) -> None:
    expected = hashes(store)
    region = Region(entity="player", clock=(0, 3))
    wanted = [e.sequence for e in store.query(region)]
    reading, asking = iter(store), store.query(region)
    begun = [next(reading)]
    asked = [next(asking)]
    store.erase(Region(entity="player:0"), reason="request 1")
    assert len(store.compact().segments) > 3
    begun += reading
    asked += asking
    assert [(e.sequence, e.event_id.bytes, e.event_hash, e.prev_hash) for e in begun] == expected
    assert [e.sequence for e in asked] == wanted


def test_readers_in_threads_never_meet_a_wrong_event(store: Store) -> None:
    expected = hashes(store)
    problems: list[Exception] = []
    over = threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                for sequence in range(0, len(expected), 7):
                    event = store.at(sequence)
                    assert event.event_hash == expected[sequence][2]
                assert hashes(store)[: len(expected)] == expected
        except Exception as error:  # noqa: BLE001  # raised again below, in the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(12):
        store.erase(number + 1, reason=f"request {number}")
        assert store.compact().outcome == "performed"
    over.set()
    for thread in threads:
        thread.join()
    assert problems == []


# --- followers ----------------------------------------------------------------


@pytest.mark.proves("INV-ERASED-IS-REFUSED")
def test_a_follower_refuses_once_it_has_seen_the_erasure(store: Store, path: Path) -> None:
    with Store.open(path, mode="r", files=DISK) as reader:
        assert reader.at(5).payload_state is PayloadState.PRESENT
        store.erase(5, reason="request 1")
        reader.refresh()
        assert reader.at(5).payload_state is PayloadState.ERASED
        assert erased(reader) == [5]


def test_a_follower_reads_on_through_compactions(store: Store, path: Path) -> None:
    expected = hashes(store)
    with Store.open(path, mode="r", files=DISK, max_open_files=4) as reader:
        reading = iter(reader)
        begun = [next(reading)]
        for number in range(3):
            store.erase(Region(entity=f"player:{number}"), reason="request")
            assert store.compact().outcome == "performed"
            assert hashes(reader)[: len(expected)] == expected
            assert reader.verify("full").ok, "also where it has not seen the erasure yet"
            reader.refresh()
            assert reader.verify("full").ok
        begun += reading
        assert [e.event_hash for e in begun] == [row[2] for row in expected]


@pytest.mark.parametrize("seen", [1, 2, 5])
def test_a_follower_that_lags_goes_on_in_the_rewritten_segment(path: Path, seen: int) -> None:
    where = Coordinate("player:1", "room")
    with Store.open(path, files=DISK, **SMALL) as store:
        for number in range(seen - 1):
            store.append(where, {"n": number, "pad": bytes(100)}, kind=KIND)
        with Store.open(path, mode="r", files=DISK) as reader:
            assert len(reader) == seen
            fill(store, 12)
            expected = hashes(store)
            store.erase([n for n in range(1, len(store)) if n % 2], reason="request 1")
            assert store.compact().outcome == "performed"
            reader.refresh()
            assert len(reader) == len(store)
            assert hashes(reader)[: len(expected)] == expected
            assert erased(reader) == erased(store)
            assert reader.verify("full").ok
            store.append(where, {"n": 99}, kind=KIND)
            reader.refresh()
            assert hashes(reader) == hashes(store)


def test_a_segment_that_was_exchanged_for_another_history_is_still_a_rewind(
    path: Path, tmp_path: Path
) -> None:
    from batpak.errors import JournalRewound

    with Store.open(path, files=DISK) as store:
        fill(store, 3)
        shutil.copytree(path, tmp_path / "other")
        fill(store, 3)
        with Store.open(path, mode="r", files=DISK) as reader:
            (name,) = (n for n in os.listdir(path / "segments") if n.endswith(".seg"))
            os.replace(tmp_path / "other" / "segments" / name, path / "segments" / name)
            with pytest.raises(JournalRewound):
                reader.refresh()


# --- compaction -----------------------------------------------------------------


def test_there_may_be_nothing_to_do(store: Store) -> None:
    assert store.compact().outcome == "skipped"
    store.erase([3], reason="request 1")
    length = len(store)
    skipped = store.compact(min_bytes=100_000)
    assert (skipped.outcome, skipped.segments, len(store)) == ("skipped", (), length)
    assert skipped.reason is not None
    assert "bytes would go" in skipped.reason
    assert store.compact(min_bytes=10).outcome == "performed"
    assert store.compact().outcome == "skipped"


@pytest.mark.parametrize("bound", [-1, True, 1.5, "1"])
def test_a_threshold_is_a_number_of_bytes(store: Store, bound: object) -> None:
    with pytest.raises(InvalidInput, match="min_bytes"):
        store.compact(min_bytes=bound)  # type: ignore[arg-type]  # ill-typed on purpose


def test_a_segment_can_be_rewritten_again_and_again(store: Store, path: Path) -> None:
    expected = hashes(store)
    for number in range(1, 6):
        store.erase(number, reason="request")
        (done,) = store.compact().segments
        assert (done.base, done.generation, done.payloads) == (0, number, 1)
    assert hashes(store)[: len(expected)] == expected
    assert store.verify("full").ok
    assert erased(store) == [1, 2, 3, 4, 5]
    assert read_segment.read_journal(path).findings == []


@pytest.mark.parametrize("codec", ["plain", "salted"])
@pytest.mark.parametrize(
    "durability",
    [Durability.OS, Durability.SYNC, Durability.EVERY(ms=5)],
    ids=["os", "sync", "every"],
)
def test_each_codec_and_mode_can_be_compacted(
    path: Path, codec: str, durability: Durability
) -> None:
    where = Coordinate("player:1", "room")
    with Store.open(path, files=DISK, codec=codec, durability=durability, **SMALL) as store:
        # Of an empty plain payload nothing can be left out; it is refused all the same.
        store.append_raw(where, KIND, b"")
        fill(store, 12)
        store.erase(Region(entity="player:1"), reason="request 1")
        assert store.compact().outcome == "performed"
        assert store.at(1).payload_state is PayloadState.ERASED
        assert store.compact().outcome == "skipped"
        assert store.verify("full").ok
        states = erased(store)
    with Store.open(path, files=DISK) as store:
        assert erased(store) == states
    assert read_segment.read_journal(path).findings == []


def test_erasure_outlives_the_loss_of_every_sidecar(store: Store, path: Path) -> None:
    store.erase([2, 3], reason="request 1")
    store.compact()
    store.erase([5], reason="request 2")
    expected, states = hashes(store), erased(store)
    store.close()
    for file in path.glob("segments/*.idx"):
        file.unlink()
    with Store.open(path, files=DISK) as again:
        assert hashes(again)[: len(expected)] == expected
        assert erased(again) == states == [2, 3, 5]


def test_copies_that_may_remain_are_named(store: Store, path: Path, tmp_path: Path) -> None:
    first = path / "segments" / f"{0:020}.seg"
    os.link(first, tmp_path / "snapshot.seg")
    (path / "quarantine").mkdir()
    (path / "quarantine" / "tail.bin").write_bytes(b"torn")
    (path / "quarantine" / "tail.json").write_bytes(b"{}")
    secret = store.at(1).raw
    store.erase(1, reason="request 1")
    report = store.compact()
    assert [(c.kind, os.path.basename(c.file), c.links) for c in report.copies] == [
        ("hard-link", first.name, 1), ("quarantine", "tail.bin", 0),
    ]  # fmt: skip
    assert secret in (tmp_path / "snapshot.seg").read_bytes(), "a snapshot is nobody's to change"
    assert secret not in first.read_bytes()


class FullDisk(UnsyncedFiles):
    """Has no room for copies of segments while `is_full`; a new segment's header still fits."""

    def __init__(self) -> None:
        self.is_full = False
        self._copies: set[int] = set()

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        fd = super().open(path, flags, mode)
        (self._copies.add if path.endswith(".seg.tmp") else self._copies.discard)(fd)
        return fd

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:  # type: ignore[override]  # a method where the real one is a function
        if self.is_full and fd in self._copies and len(data) > 128:
            raise OSError(errno.ENOSPC, "no room")
        return os.pwrite(fd, data, offset)


def test_a_full_disk_leaves_the_old_segments(path: Path) -> None:
    files = FullDisk()
    with Store.open(path, files=files, **SMALL) as store:
        fill(store, 20)
        expected = hashes(store)
        store.erase(Region(entity="player"), reason="request 1")
        before = {f.name: f.read_bytes() for f in path.glob("segments/*.seg")}
        files.is_full = True
        report = store.compact()
        assert (report.outcome, report.segments, report.receipt) == ("failed", (), None)
        assert report.reason is not None
        assert "No space" in report.reason
        after = {f.name: f.read_bytes() for f in path.glob("segments/*.seg")}
        assert {name: after[name] for name in before} == before
        files.is_full = False
        assert hashes(store)[: len(expected)] == expected
        assert store.compact().outcome == "performed", "there is room again"
        assert not list(path.glob("segments/*.tmp"))
        assert store.verify("full").ok


def test_a_damaged_segment_stays_and_the_others_are_done(store: Store, path: Path) -> None:
    store.erase(Region(entity="player:1"), reason="request 1")
    names = sorted(path.glob("segments/*.seg"))
    data = bytearray(names[1].read_bytes())
    data[128 + 64 + 20] ^= 1  # in the first row: the head's checksum is wrong now
    names[1].write_bytes(data)
    report = store.compact()
    assert report.outcome == "failed"
    assert report.reason is not None
    assert names[1].name in report.reason
    assert len(report.segments) > 2
    assert names[1].read_bytes() == bytes(data)


def test_a_payload_that_had_rotted_is_no_obstacle_and_stays_a_finding(
    store: Store, path: Path
) -> None:
    first = path / "segments" / f"{0:020}.seg"
    rotten, erasable = store.at(2), store.at(3)
    data = first.read_bytes()
    assert rotten.envelope is not None
    changed = data.replace(rotten.envelope, bytes([rotten.envelope[0] ^ 1]) + rotten.envelope[1:])
    assert changed != data
    first.write_bytes(changed)
    store.erase(erasable.sequence, reason="request 1")
    assert store.compact().outcome == "performed"
    assert [(f.code, f.sequence) for f in store.verify("full").findings] == [("content-hash", 2)]


def test_a_rotted_record_that_was_thinned_before_stays_as_it_is(path: Path) -> None:
    """Whether its table or a payload rotted is not known: nothing is cut by such a table."""
    with Store.open(path, files=DISK, **SMALL) as store:
        batch = [Item(Coordinate("player:1", "room"), {"n": n}, kind=KIND) for n in range(3)]
        first, second, third = store.append_many(batch)
        fill(store)
        store.erase(first.sequence, reason="request 1")
        assert store.compact().outcome == "performed"
        segment = path / "segments" / f"{0:020}.seg"
        envelope = store.at(third.sequence).envelope
        assert envelope is not None
        rotten = segment.read_bytes().replace(envelope, bytes(len(envelope)))
        segment.write_bytes(rotten)
        store.erase(second.sequence, reason="request 2")
        report = store.compact()
        assert report.outcome == "failed"
        assert report.reason is not None
        assert segment.name in report.reason
        assert segment.read_bytes() == rotten


def test_compaction_refuses_when_the_lock_is_somebody_elses(store: Store, path: Path) -> None:
    store.erase(1, reason="request 1")
    first = path / "segments" / f"{0:020}.seg"
    before = first.read_bytes()
    os.replace(shutil.copy(path / "journal.lock", path / "copy"), path / "journal.lock")
    assert store.compact().outcome == "failed"
    assert first.read_bytes() == before
    for call in (store.compact, store.close):
        with pytest.raises(JournalPoisoned):
            call()


def test_a_closed_store_neither_erases_nor_compacts(path: Path) -> None:
    store = Store.open(path, files=DISK)
    store.close()
    with pytest.raises(StoreClosed):
        store.erase([0], reason="request 1")
    with pytest.raises(StoreClosed):
        store.compact()


@pytest.mark.proves("INV-ERASURE-DURABLE-FIRST")
@pytest.mark.parametrize("durability", [Durability.OS, Durability.SYNC], ids=["os", "sync"])
def test_no_segment_is_replaced_before_every_erasure_is_durable(
    path: Path, durability: Durability
) -> None:
    """Only older segments are affected, so that no rotation syncs the log by itself."""
    files = RecordingFiles()
    with Store.open(path, files=files, durability=durability, **SMALL) as store:
        fill(store)
        files.operations.clear()
        newest = f"{store._writer.log.segment.header.base_sequence:020}.seg"
        store.erase([1, 2], reason="request 1")
        assert store.compact().outcome == "performed"
        unsynced = False
        replaced = 0
        for operation in files.operations:
            if operation.path.endswith(newest):
                if operation.name == "pwrite":
                    unsynced = True
                elif operation.name in ("sync_data", "sync_file"):
                    unsynced = False
            if operation.name == "rename" and operation.target.endswith(".seg"):
                replaced += 1
                assert not unsynced, "the erasure is not durable yet"
        assert replaced == 1


# --- hostile erasures ---------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        [], [1], [0, 0], [3, 1, 0, 1], [3, 0], [98, 3], [2**63, 1], [1, 2**63], [True, 1],
        ["1", 1], [1.0, 1], [-1, 1], [1, -1], "ab", None, {"a": 1}, [1, 1, 1],
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_erasure_is_refused(steps: object) -> None:
    from batpak import canonical

    with pytest.raises(CanonicalError):
        erased_by(canonical.encode({"sequences": steps, "reason": "x"}), 100)
    assert list(erased_by(canonical.encode({"sequences": [98, 2]}), 100)) == [(98, 100)]


def test_an_erasure_with_too_many_runs_is_refused() -> None:
    runs = [(2 * n + 1, 2 * n + 2) for n in range(MAX_RUNS)]
    assert len(erased_by(erasure_event(runs, "x").envelope, 1 << 20)) == MAX_RUNS
    more = [*runs, (1 << 18, (1 << 18) + 1)]
    with pytest.raises(CanonicalError):
        erased_by(erasure_event(more, "x").envelope, 1 << 20)


def commit(store: Store, event: Prepared) -> int:
    """Write an event that no public call would write."""
    return store._writer.commit([event])[0][0]


def test_an_erasure_of_the_journals_own_events_has_no_effect(store: Store, path: Path) -> None:
    at = commit(store, erasure_event([(0, 2)], "forged"))
    commit(store, erasure_event([(at, at + 1)], "forged"))
    store.close()
    with Store.open(path, files=DISK, **SMALL) as again:
        assert erased(again) == [1]
        assert again.at(0).value["epoch"] == 1
        assert again.at(at).value["reason"] == "forged"
        assert again.compact().payloads == 1
        assert again.at(0).value["epoch"] == 1
        assert again.verify("full").ok


def test_an_erasure_that_makes_no_sense_is_a_finding_and_erases_nothing(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = commit(store, erasure_event([(5, 1 << 40)], "forged"))
    store.close()
    with Store.open(path, files=DISK) as again:
        assert erased(again) == []
        assert [(f.code, f.sequence) for f in again.verify("full").findings] == [("erasure", at)]
    assert "erasure-unreadable" in [getattr(r, "code", "") for r in caplog.records]
    assert [f.sequence for f in read_segment.read_journal(path).findings] == [at]


def test_a_missing_payload_that_no_erasure_names_is_a_finding(store: Store, path: Path) -> None:
    """Rewritten as compaction does it, but nobody had erased anything."""
    from batpak.journal.reading import SegmentReader
    from batpak.journal.rewriting import rewrite_segment

    store.close()
    first = path / "segments" / f"{0:020}.seg"
    base = int(sorted(path.glob("segments/*.seg"))[1].name[:20])
    reader = SegmentReader(DISK, str(first), may_map=False)
    copy = str(first) + ".copy"
    rewrite_segment(DISK, reader, copy, base, lambda row, metadata: row.sequence in (0, 3))
    reader.close()
    os.replace(copy, first)
    with Store.open(path, files=DISK) as again:
        assert erased(again) == [0, 3]
        found = [(f.code, f.sequence) for f in again.verify("full").findings]
        assert sorted(found) == [("payload-missing", 0), ("payload-missing", 3)]
        again.erase([3], reason="request 1")
        assert [f.sequence for f in again.verify("full").findings] == [0]


def test_erasures_in_many_events_are_one_set() -> None:
    assert list(Runs([(5, 7), (1, 2), (7, 9), (2, 2)])) == [(1, 2), (5, 9)]


def erasing(path: Path) -> tuple[Store, FaultyFiles]:
    files = FaultyFiles()
    store = Store.open(path, files=files, durability=Durability.OS, preallocate=0)
    fill(store, 5)
    return store, files


def test_an_interrupted_erasure_counts_if_it_was_written(tmp_path: Path) -> None:
    """Ctrl-C upon the return of any operation; upon that of the write, the event stands."""
    store, files = erasing(tmp_path / "undisturbed")
    before = len(files.operations)
    store.erase([2], reason="request 1")
    names = [operation.name for operation in files.operations[before:]]
    store.close()
    assert names.count("pwrite") == 1
    for at, name in enumerate(names):
        path = tmp_path / str(at)
        store, files = erasing(path)
        files.arm(at, Fault.INTERRUPT)
        with pytest.raises(KeyboardInterrupt):
            store.erase([2], reason="request 1")
        fill(store, 1)
        store.erase([4], reason="request 2")
        assert erased(store) == ([2, 4] if name == "pwrite" else [4])
        store.close()
        with Store.open(path, files=DISK) as again:
            assert erased(again) == ([2, 4] if name == "pwrite" else [4])


def test_a_table_may_take_more_than_a_small_payload_gave(path: Path) -> None:
    with Store.open(path, files=DISK, preallocate=0) as store:
        store.append_many(Item(Coordinate("a", "b"), n, kind=KIND) for n in range(100))
        store.erase(5, reason="request 1")
        report = store.compact()
        assert (report.payloads, report.segments[0].bytes) == (1, 17)
        # 400 bytes of table for 17 bytes of salt and payload, padded.
        assert report.bytes_reclaimed == -384
        assert store.verify("full").ok


@pytest.mark.parametrize("gone", range(4))
def test_its_neighbours_in_a_batch_are_read_whichever_payload_is_gone(
    tmp_path: Path, gone: int
) -> None:
    """Rows end with the last payload that is there, not with the last row's."""
    path = tmp_path / "journal"
    with Store.open(path, files=DISK, durability=Durability.OS) as store:
        receipts = store.append_many(
            [Item(Coordinate("player:1", "room"), {"n": n}, kind=KIND) for n in range(4)]
        )
        store.erase([receipts[gone].sequence], reason="asked for")
        store.compact()
        store.append(Coordinate("player:2", "room"), {"n": 4}, kind=KIND)
        expected = [n for n in range(4) if n != gone]
        for reader in (store, Store.open(path, mode="r")):
            found = list(reader.query(Region("player:1")))
            assert [e.value["n"] for e in found if e.envelope is not None] == expected
            assert [e.sequence for e in reader.query(Region("player:1"), payload=False)] == [
                receipt.sequence for receipt in receipts
            ]
