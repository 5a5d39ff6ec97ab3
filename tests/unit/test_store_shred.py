"""Shredding: the journal says it durably, the keyring does it, and no open forgets it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batpak import (
    Coordinate,
    Durability,
    EventId,
    EventKind,
    Item,
    PayloadState,
    Region,
    SigningKey,
    Store,
)
from batpak.engine.shredding import KEYS_IN_A_COMMIT
from batpak.engine.system import key_shredded_event, shredded_by
from batpak.errors import (
    CanonicalError,
    EventNotFound,
    IdempotencyConflict,
    InvalidInput,
    KeyNotDestroyed,
    KeyringRefused,
    KeyShredded,
    NoSpace,
    NotShreddable,
    PayloadDamaged,
    PayloadErased,
    PayloadShredded,
    StoreClosed,
)
from batpak.journal.commits import Prepared
from batpak.keyring import FileKeyring, Policy
from batpak.kinds import SYSTEM_KEY_SHREDDED
from batpak.proof.bundle import verify_bundle
from batpak.proof.notes import Key as NoteKey
from batpak.proof.notes import Policy as NotePolicy
from tests.support.faulty_files import DISK, FullDisk, RecordingFiles
from tests.unit.test_store_encrypted import EVERY_READ, stored_bytes
from tools import read_segment

KIND = EventKind(0xF, 1)
SECRET = b"what is to be forgotten"
ANN, BOB = Coordinate("user:ann", "room"), Coordinate("user:bob", "room")


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyring:
    return FileKeyring.create(tmp_path / "keys", files=DISK)


@pytest.fixture
def store(tmp_path: Path, ring: FileKeyring) -> Iterator[Store]:
    """1, 3, 5: Ann's; 2, 4, 6: Bob's."""
    with Store.open(
        tmp_path / "journal", codec="encrypted", keyring=ring, files=DISK, segment_max_bytes=4096
    ) as opened:
        for n in range(3):
            opened.append(ANN, {"n": n, "secret": SECRET}, kind=KIND)
            opened.append(BOB, {"n": n}, kind=KIND)
        yield opened


def key_id(store: Store, sequence: int) -> bytes:
    return (store._reader.stored(sequence).envelope or b"")[:16]


def shredded(store: Store) -> list[int]:
    return [event.sequence for event in store if event.payload_state is PayloadState.SHREDDED]


def keys_in(ring: FileKeyring) -> int:
    return len(list(Path(ring.path).glob("*.key")))


class Late(FileKeyring):
    """Names once more the key that it named before, as to a thread that asked just before."""

    stale: bytes | None = None

    def key_for(self, coordinate: Coordinate, kind: int, key: bytes | None) -> bytes:
        stale, self.stale = self.stale, None
        return stale or super().key_for(coordinate, kind, key)


class Overtaken(FileKeyring):
    """Lets another thread do something just before a key is loaded."""

    meanwhile: Callable[[], object] | None = None

    def load(self, key_id: bytes) -> bytes | None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()
        return super().load(key_id)


def test_whose_key_is_destroyed_before_it_is_loaded_gets_another_one(tmp_path: Path) -> None:
    FileKeyring.create(tmp_path / "keys", files=DISK)
    ring = Overtaken(tmp_path / "keys", files=DISK)
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring, files=DISK) as store:
        store.append(ANN, {"secret": SECRET}, kind=KIND)
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring, files=DISK) as store:
        old = key_id(store, 1)
        ring.meanwhile = lambda: store.shred(Region(entity="user:ann"))
        after = store.append(ANN, {"n": 2}, kind=KIND)
        assert ring.load(old) is None
        assert key_id(store, after.sequence) != old
        assert store.at(after.sequence).value == {"n": 2}
        assert shredded(store) == [1]


def test_who_asked_for_a_key_just_before_it_was_shredded_gets_another_one(tmp_path: Path) -> None:
    FileKeyring.create(tmp_path / "keys", files=DISK)
    ring = Late(tmp_path / "keys", files=DISK)
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring, files=DISK) as store:
        store.append(ANN, {"secret": SECRET}, kind=KIND)
        old = key_id(store, 1)
        store.shred(Region(entity="user:ann"))
        ring.stale = old
        after = store.append(ANN, {"n": 2}, kind=KIND)
        assert key_id(store, after.sequence) != old
        assert store.at(after.sequence).value == {"n": 2}
        assert shredded(store) == [1]


@pytest.mark.proves("INV-SHREDDED-IS-REFUSED")
@pytest.mark.parametrize("way", EVERY_READ)
def test_a_shredded_payload_is_refused_in_every_way_to_read(
    store: Store, ring: FileKeyring, way: str
) -> None:
    victim = store.at(3)
    assert victim.value["secret"] == SECRET
    report = store.shred(Region(entity="user:ann"))
    assert [(key.key_id, key.asked, key.events) for key in report.keys] == [
        ((victim.envelope or b"")[:16], 3, 3)
    ]
    assert (report.events, report.others, report.unencrypted, report.system) == (3, 0, 0, 0)
    assert len(report.receipts) == 1
    # The same key in another place: a copy of the keyring that was made before.
    with Store.open(store.path, mode="r", keyring=ring, files=DISK) as reader:
        for opened in (store, reader):
            found = EVERY_READ[way](opened, victim)
            assert found == victim
            assert found.payload_state is PayloadState.SHREDDED
            assert (found.content_hash, found.envelope) == (bytes(32), victim.envelope)
            for ask in ("raw", "value", "payload"):
                with pytest.raises(PayloadShredded) as caught:
                    getattr(found, ask)
                assert caught.value.sequence == 3
            assert EVERY_READ[way](opened, opened.at(4)).value == {"n": 1}
    # What was read before and not opened yet is refused as well.
    with pytest.raises(PayloadShredded):
        _ = victim.raw
    assert ring.load((victim.envelope or b"")[:16]) is None
    assert keys_in(ring) == 1


@pytest.mark.proves("INV-SHREDDED-PROOF")
def test_shredding_changes_no_hash_no_receipt_and_no_proof(store: Store, ring: FileKeyring) -> None:
    path = store.path
    before = [(e.sequence, e.event_id, e.event_hash, e.commitment) for e in store]
    store.close()
    key, signer = SigningKey.generate(), SigningKey.generate()
    with Store.open(
        path, codec="encrypted", keyring=ring, checkpoint_key=key, signing_keys=(signer,),
        files=DISK,
    ) as again:  # fmt: skip
        receipt = again.sign(again.append(ANN, {"secret": SECRET}, kind=KIND))
        note = again.checkpoint()
        policy = NotePolicy(NoteKey(note.origin, key.public_key))
        older = again.prove(receipt.event_id)
        again.shred(Region(entity="user:ann"))
        assert [(e.sequence, e.event_id, e.event_hash, e.commitment) for e in again][
            : len(before)
        ] == before
        bundle = again.prove(receipt.event_id)
        assert bundle.events[0].payload_state == "shredded"
        for each in (older, bundle):
            verdict = verify_bundle(each.to_json(), [], policy)
            assert verdict.ok
            assert all(check.held for check in verdict.checks if check.name == "content")
        assert type(again.verify_receipt(receipt)).__name__ == "Signed"
        report = again.verify("full", keys=[NoteKey(note.origin, key.public_key)])
        assert report.ok, report.findings
        assert report.closed == {"shredded": 4}
    assert read_segment.read_journal(Path(path)).findings == []


@pytest.mark.proves("INV-SHREDDED-STAYS-DESTROYED")
def test_opening_destroys_again_what_came_back(store: Store, ring: FileKeyring) -> None:
    path, name = store.path, f"{key_id(store, 1).hex()}.key"
    backup = Path(ring.path, name).read_bytes()
    store.shred(1, also_others=True)
    store.close()
    for _ in range(2):
        Path(ring.path, name).write_bytes(backup)
        Path(ring.path, name).chmod(0o600)
        with (
            Store.open(path, keyring=ring, mode="r", files=DISK) as reader,
            pytest.raises(PayloadShredded),
        ):
            _ = reader.at(1).raw
        assert Path(ring.path, name).exists(), "a reader destroys nothing"
        with Store.open(path, keyring=FileKeyring(ring.path, files=DISK), files=DISK) as again:
            assert shredded(again) == [1, 3, 5]
        assert not Path(ring.path, name).exists()


def test_after_shredding_the_next_event_gets_another_key(store: Store) -> None:
    old = key_id(store, 1)
    store.shred(Region(entity="user:ann"))
    receipt = store.append(ANN, {"n": 9}, kind=KIND)
    assert store.get(receipt.event_id).value == {"n": 9}
    assert key_id(store, receipt.sequence) != old
    assert shredded(store) == [1, 3, 5]


def test_shredding_twice_writes_nothing_and_destroys_again(store: Store, ring: FileKeyring) -> None:
    name = Path(ring.path, f"{key_id(store, 1).hex()}.key")
    backup = name.read_bytes()
    first = store.shred([1, 3, 5])
    name.write_bytes(backup)
    written = len(store)
    again = store.shred([1, 3, 5])
    assert (again.keys, again.events, again.receipts) == ((), 0, ())
    assert [key.key_id for key in again.before] == [key.key_id for key in first.keys]
    assert len(store) == written
    assert not name.exists()


def test_what_a_key_covers_beside_what_was_named_is_not_taken_along_unasked(
    store: Store, ring: FileKeyring
) -> None:
    written = len(store)
    with pytest.raises(NotShreddable) as caught:
        store.shred([1, 3])
    assert caught.value.reason == "covers-more"
    plan = store.plan_shredding([1, 3])
    assert (plan.events, plan.others, plan.receipts) == (2, 1, ())
    assert (len(store), shredded(store), keys_in(ring)) == (written, [], 2)
    report = store.shred([1, 3], also_others=True)
    assert (report.events, report.others) == (2, 1)
    assert shredded(store) == [1, 3, 5]


def test_a_key_can_be_named_itself(store: Store) -> None:
    named = key_id(store, 2)
    assert store.plan_shredding(named).events == 3
    report = store.shred([named, 1, 3, 5])
    assert report.events == 6
    assert shredded(store) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        (0, NotShreddable, "system"),
        ([1, 3, 5, 0], NotShreddable, "system"),
        (99, EventNotFound, None),
        (-1, EventNotFound, None),
        (EventId.from_bytes(b"x" * 16), EventNotFound, None),
        (b"x" * 16, NotShreddable, "unknown-key"),
        (b"x" * 15, NotShreddable, "unknown-key"),
        ("user:ann", InvalidInput, None),
        ([None], InvalidInput, None),
        (True, InvalidInput, None),
        (7, NotShreddable, "not-encrypted"),
    ],
)
def test_what_can_not_be_shredded_is_refused_and_nothing_is_written(
    store: Store, ring: FileKeyring, what: object, error: type[InvalidInput], reason: str | None
) -> None:
    path = store.path
    store.close()
    with Store.open(path, keyring=ring, files=DISK) as plain:
        # 7 is the close event, 8 the open event.
        salted = plain.append(ANN, 1, kind=KIND).sequence
        written = len(plain)
        for ask in (plain.shred, plain.plan_shredding):
            with pytest.raises(error) as caught:
                ask(salted if what == 7 else what)
            assert getattr(caught.value, "reason", None) == reason
        assert (len(plain), shredded(plain), keys_in(ring)) == (written, [], 2)


def test_a_region_leaves_alone_what_no_key_protects(store: Store, ring: FileKeyring) -> None:
    path = store.path
    store.close()
    with Store.open(path, keyring=ring, files=DISK) as plain:
        receipt = plain.append(ANN, "salted", kind=KIND)
        report = plain.shred(Region.all())
        assert (report.events, report.unencrypted, report.system) == (6, 1, 3)
        assert plain.get(receipt.event_id).value == "salted"
        assert keys_in(ring) == 0
        assert plain.shred(Region(entity="nobody")).events == 0


def test_without_a_keyring_nothing_is_shredded(store: Store) -> None:
    path = store.path
    store.close()
    with Store.open(path, files=DISK) as plain:
        written = len(plain)
        with pytest.raises(KeyringRefused) as caught:
            plain.shred(Region.all())
        assert caught.value.reason == "missing"
        assert len(plain) == written
    with pytest.raises(StoreClosed):
        store.shred(Region.all())


@pytest.mark.proves("INV-SHREDDED-STAYS-DESTROYED")
def test_the_journal_says_it_durably_before_the_key_goes(tmp_path: Path) -> None:
    files = RecordingFiles()
    ring = FileKeyring.create(tmp_path / "keys", files=files)
    with Store.open(
        tmp_path / "journal", codec="encrypted", keyring=ring, durability=Durability.OS,
        files=files,
    ) as store:  # fmt: skip
        store.append(ANN, SECRET, kind=KIND)
        before = len(files.operations)
        store.shred(1)
        done = files.operations[before:]
    # The last one: it is looked for before, and only read then.
    first = max(i for i, o in enumerate(done) if o.name == "open" and o.path.endswith(".key"))
    said = [i for i, o in enumerate(done) if o.name == "pwrite" and o.path.endswith(".seg")]
    synced = [i for i, o in enumerate(done) if o.name == "sync_data" and o.path.endswith(".seg")]
    assert min(said) < min(synced) < first
    names = [o.name for o in done[first:] if o.path.endswith(".key") or o.path == ring.path]
    assert [n for n in names if n != "fstat"][:6] == [
        "open", "pwrite", "sync_file", "close", "unlink", "sync_directory",
    ]  # fmt: skip


@pytest.fixture
def other_ring(tmp_path: Path) -> FileKeyring:
    """A right keyring, but not that of the journal."""
    return FileKeyring.create(tmp_path / "other-keys", files=DISK)


@pytest.mark.proves("INV-SHREDDED-STAYS-DESTROYED")
def test_a_keyring_without_the_keys_is_refused_before_anything_is_written(
    store: Store, ring: FileKeyring, other_ring: FileKeyring
) -> None:
    path = store.path
    store.close()
    with Store.open(path, keyring=other_ring, files=DISK) as plain:
        written = len(plain)
        for what in (Region(entity="user:ann"), [1, 3, 5], key_id(plain, 1)):
            with pytest.raises(NotShreddable) as caught:
                plain.shred(what, also_others=True)
            assert caught.value.reason == "missing-key"
            assert key_id(plain, 1).hex() in caught.value.what
            assert "keyring" in caught.value.advice
        assert (len(plain), shredded(plain), keys_in(ring)) == (written, [], 2)
    with Store.open(path, keyring=ring, files=DISK) as again:
        assert again.at(1).value["secret"] == SECRET
        assert again.shred(Region(entity="user:ann")).missing == ()
        assert keys_in(ring) == 1


def test_one_key_that_is_missing_keeps_the_others_from_being_shredded(
    store: Store, ring: FileKeyring
) -> None:
    lost = key_id(store, 1)
    Path(ring.path, f"{lost.hex()}.key").unlink()
    written = len(store)
    with pytest.raises(NotShreddable) as caught:
        store.shred(Region.all())
    assert lost.hex() in caught.value.what
    assert (len(store), shredded(store), keys_in(ring)) == (written, [], 1)
    assert store.shred(Region(entity="user:bob")).missing == ()


def test_a_lost_key_is_shredded_when_asked_for_and_goes_if_it_comes_back(
    store: Store, ring: FileKeyring
) -> None:
    path, lost = store.path, key_id(store, 1)
    name = Path(ring.path, f"{lost.hex()}.key")
    backup = name.read_bytes()
    name.unlink()
    report = store.shred(Region.all(), also_missing=True)
    assert (report.missing, len(report.keys), len(report.receipts)) == ((lost,), 2, 2)
    assert shredded(store) == [1, 2, 3, 4, 5, 6]
    # Shredded before: nothing is missing that has to be there.
    assert store.shred(Region.all()).missing == ()
    store.close()
    name.write_bytes(backup)
    name.chmod(0o600)
    with Store.open(path, keyring=ring, files=DISK):
        assert not name.exists()


def test_a_key_that_can_not_be_read_is_destroyed_all_the_same(
    store: Store, ring: FileKeyring
) -> None:
    Path(ring.path, f"{key_id(store, 1).hex()}.key").chmod(0o644)
    assert store.shred(Region(entity="user:ann")).missing == ()
    assert keys_in(ring) == 1


class Stubborn(FileKeyring):
    """A keyring that can't destroy, for now."""

    broken = True

    def _remove(self, key_id: bytes) -> bool:
        if self.broken:
            raise OSError(errno.EIO, "the device is gone")
        return super()._remove(key_id)


def test_a_keyring_that_fails_is_told_and_the_next_try_finishes(tmp_path: Path) -> None:
    ring = Stubborn.create(tmp_path / "keys", files=DISK)
    path = tmp_path / "journal"
    with Store.open(path, codec="encrypted", keyring=ring, files=DISK) as store:
        store.append(ANN, SECRET, kind=KIND)
        with pytest.raises(KeyNotDestroyed) as caught:
            store.shred(1)
        assert caught.value.key_ids == (key_id(store, 1).hex(),)
        assert caught.value.retryable
        assert shredded(store) == [1]
        # Nothing more is encrypted with a key that is to go.
        with pytest.raises(KeyShredded):
            store.append(ANN, 2, kind=KIND)
        assert keys_in(ring) == 1
    with pytest.raises(KeyNotDestroyed):
        Store.open(path, codec="encrypted", keyring=ring, files=DISK)
    ring.broken = False
    with Store.open(path, codec="encrypted", keyring=ring, files=DISK) as store:
        assert (shredded(store), keys_in(ring)) == ([1], 0)
        assert store.append(ANN, 2, kind=KIND).sequence


def test_what_was_staged_before_gets_another_key(store: Store) -> None:
    outbox = store.outbox()
    outbox.stage(ANN, "staged", kind=KIND)
    with store.fence() as fence:
        ticket = fence.append(ANN, "fenced", kind=KIND)
        store.shred(Region(entity="user:ann"))
    receipts = [*outbox.flush(), ticket.result()]
    assert [store.get(each.event_id).value for each in receipts] == ["staged", "fenced"]


def test_no_event_follows_a_shredding_that_was_sealed_with_its_key(store: Store) -> None:
    event = store._preparer.one(ANN, "late", KIND, None, None, 0, 0, 0, None)
    keyed = store._preparer.one(ANN, "late", KIND, None, None, 0, 0, 0, None, b"k" * 16)
    store.shred(Region(entity="user:ann"))
    written = len(store)
    for events in ((event,), (keyed,), (event, event)):
        with pytest.raises(KeyShredded) as caught:
            store._writer.commit(events)
        assert caught.value.retryable
    assert len(store) == written
    assert store.verify().ok


def test_appends_and_shreddings_at_once_lose_no_event(store: Store) -> None:
    stop = threading.Event()
    told: list[int] = []
    failures: list[BaseException] = []

    def append() -> None:
        try:
            while not stop.is_set():
                try:
                    told.append(store.append(ANN, len(told), kind=KIND).sequence)
                except KeyShredded:
                    continue
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    reports = [store.shred(Region(entity="user:ann"), also_others=True) for _ in range(15)]
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    # Whoever was written before the word is shredded by it, and nobody after it.
    words = [(r.sequence, {k.key_id for k in report.keys}) for report in reports
             for r in report.receipts[-1:]]  # fmt: skip
    for sequence in told:
        used = key_id(store, sequence)
        for said, ids in words:
            assert used not in ids or sequence < said
    assert store.verify().ok


def test_a_retry_after_shredding_gets_the_first_receipt(store: Store) -> None:
    first = store.append(ANN, {"n": 7}, kind=KIND, key=b"k" * 16)
    store.shred(Region(entity="user:ann"))
    assert store.append(ANN, {"n": 8}, kind=KIND, key=b"k" * 16) == first
    with pytest.raises(IdempotencyConflict):
        store.append(BOB, {"n": 7}, kind=KIND, key=b"k" * 16)


def test_a_full_disk_shreds_nothing(tmp_path: Path) -> None:
    files = FullDisk()
    ring = FileKeyring.create(tmp_path / "keys", files=DISK)
    with Store.open(
        tmp_path / "journal", codec="encrypted", keyring=ring, files=files, preallocate=0
    ) as store:
        store.append(ANN, SECRET, kind=KIND)
        files.room = 0
        with pytest.raises(NoSpace):
            store.shred(1)
        assert (shredded(store), keys_in(ring)) == ([], 1)
        assert store.at(1).value == SECRET
        files.room = None
        store.append(ANN, "goes on with the same key", kind=KIND)
        assert keys_in(ring) == 1
        store.shred([1, 2])
        assert shredded(store) == [1, 2]


def test_many_keys_are_shredded_commit_by_commit(tmp_path: Path) -> None:
    ring = FileKeyring.create(tmp_path / "keys", policy=Policy.EVENT, files=DISK)
    with Store.open(
        tmp_path / "journal", codec="encrypted", keyring=ring, durability=Durability.OS, files=DISK
    ) as store:
        number = KEYS_IN_A_COMMIT + 5
        store.append_many([Item(ANN, n, kind=KIND) for n in range(number)])
        assert keys_in(ring) == number
        report = store.shred(Region(entity="user:ann"))
        assert (report.events, len(report.receipts), keys_in(ring)) == (number, number, 0)
        assert len(shredded(store)) == number
    with Store.open(tmp_path / "journal", mode="r", keyring=ring, files=DISK) as reader:
        assert reader.verify().closed == {"shredded": number}


def test_a_follower_refuses_once_it_has_seen_the_word(store: Store, ring: FileKeyring) -> None:
    own = FileKeyring(ring.path, files=DISK)
    with Store.open(store.path, mode="r", keyring=own, files=DISK) as reader:
        reading = reader.query(Region(entity="user:ann"))
        early = next(reading)
        assert early.value["n"] == 0
        store.shred(Region(entity="user:ann"))
        reader.refresh()
        late = next(reading)
        assert late.payload_state is PayloadState.SHREDDED
        for event in (early, late):
            with pytest.raises(PayloadShredded):
                _ = event.raw


def test_erased_payloads_are_shredded_too_and_compacted_ones_are_gone(store: Store) -> None:
    path = Path(store.path)
    store.erase([1, 3], reason="request")
    plan = store.plan_shredding(Region(entity="user:ann"))
    assert (plan.events, plan.gone) == (3, 0)
    assert store.compact().outcome == "performed"
    plan = store.plan_shredding(Region(entity="user:ann"))
    assert (plan.events, plan.gone) == (1, 2)
    store.shred(Region(entity="user:ann"))
    assert SECRET not in stored_bytes(path)
    for sequence, error in ((1, PayloadErased), (5, PayloadShredded)):
        with pytest.raises(error):
            _ = store.at(sequence).raw
    assert store.verify().ok


def test_copies_are_shredded_with_the_original(
    store: Store, ring: FileKeyring, tmp_path: Path
) -> None:
    store.snapshot(tmp_path / "snapshot")
    store.fork(tmp_path / "fork")
    Store.restore(tmp_path / "snapshot", tmp_path / "restored", files=DISK)
    store.shred(Region(entity="user:ann"))
    for name in ("fork", "restored"):
        with Store.open(tmp_path / name, mode="r", keyring=ring, files=DISK) as copy:
            with pytest.raises(Exception, match="a key that the keyring has not"):
                _ = copy.at(1).raw
            assert copy.at(2).value == {"n": 0}
            assert copy.verify().ok


def test_an_import_says_what_was_shredded(store: Store, tmp_path: Path) -> None:
    store.shred(Region(entity="user:ann"))
    with Store.open(tmp_path / "copy", files=DISK) as copy:
        report = copy.import_events(store)
        assert (report.imported, report.without_payload) == (6, 3)
        marks = [e.extensions.get("origin.payload") for e in copy.entity("user:ann")]
        assert marks == [b"shredded"] * 3


def test_a_damaged_envelope_can_not_turn_the_shredding_on_another_key(
    store: Store, ring: FileKeyring
) -> None:
    path, target = store.path, key_id(store, 2)
    segment = next(iter(sorted(Path(path, "segments").glob("*.seg"))))
    own = key_id(store, 1)
    store.close()
    data = segment.read_bytes()
    place = data.index(own)
    segment.write_bytes(data[:place] + target + data[place + 16 :])
    with Store.open(path, keyring=ring, files=DISK) as again:
        with pytest.raises(PayloadDamaged):
            again.shred(Region(entity="user:ann"), also_others=True)
        assert (len(list(again.query(Region(kind=SYSTEM_KEY_SHREDDED)))), keys_in(ring)) == (0, 2)


@pytest.mark.parametrize("payload", [{}, {"key_id": b"short"}, {"key_id": "x" * 16}, [1], None])
def test_an_event_that_names_no_key_shreds_nothing_and_is_a_finding(
    store: Store, ring: FileKeyring, payload: object
) -> None:
    from batpak import canonical

    made = key_shredded_event(key_id=b"k" * 16)
    data = canonical.encode(payload)
    forged = Prepared.of(made.coordinate, made.kind, 1, 0, data)
    with pytest.raises(CanonicalError):
        shredded_by(data)
    store._writer.commit([forged])
    store._writer.sync()
    assert [finding.code for finding in store.verify().findings] == ["shredding"]
    path = store.path
    store.close()
    with Store.open(path, keyring=ring, files=DISK) as again:
        assert shredded(again) == []


def test_somebody_elses_event_of_that_kind_shreds_nothing(store: Store) -> None:
    from batpak import canonical

    named = canonical.encode({"key_id": key_id(store, 1)})
    store._writer.commit([Prepared.of(ANN, SYSTEM_KEY_SHREDDED.raw, 1, 0, named)])
    store._writer.sync()
    path = store.path
    with Store.open(path, mode="r", keyring=store._config.keyring, files=DISK) as reader:
        assert reader.at(1).value["n"] == 0


def test_an_open_without_shreddings_asks_the_keyring_nothing(tmp_path: Path) -> None:
    files = RecordingFiles()
    ring = FileKeyring.create(tmp_path / "keys", files=files)
    before = len(files.operations)
    with Store.open(tmp_path / "journal", keyring=ring, files=DISK) as store:
        store.append(ANN, 1, kind=KIND)
    assert files.operations[before:] == []
    assert os.listdir(ring.path) == ["keyring.json"]
