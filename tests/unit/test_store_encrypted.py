"""Encrypted payloads: every way to write and read them, with the key, with another, without."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from batpak import (
    AppendReceipt,
    Coordinate,
    Denial,
    Durability,
    Event,
    EventKind,
    GateContext,
    Item,
    PayloadState,
    ReadOnlyStore,
    Region,
    SigningKey,
    Store,
    StoreConfig,
    gate,
)
from batpak.errors import (
    IdempotencyConflict,
    InvalidInput,
    KeyringRefused,
    KeyUnavailable,
    PayloadDamaged,
    PayloadUnreadable,
)
from batpak.event import CODEC_ENCRYPTED, content_hash, open_envelope
from batpak.keyring import FileKeyring, Policy
from batpak.keyring.files import decode_key_file, encode_key_file
from batpak.proof.bundle import verify_bundle
from batpak.proof.notes import Key as NoteKey
from batpak.proof.notes import Policy as NotePolicy
from tests.support.faulty_files import DISK, RecordingFiles
from tests.support.siv import siv_decrypt, siv_encrypt
from tools import read_segment

KIND = EventKind(0xF, 1)
OTHER = EventKind(0xE, 2)
SECRET = b"what only the key's holder may read"
HERE = Coordinate("user:1", "room")
SMALL = {"segment_max_bytes": 4096, "preallocate": 0}


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyring:
    return FileKeyring.create(tmp_path / "keys", files=DISK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def store(path: Path, ring: FileKeyring) -> Iterator[Store]:
    with Store.open(path, codec="encrypted", keyring=ring, files=DISK, **SMALL) as opened:
        yield opened


def stored_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def key_of(ring: FileKeyring, event: Event) -> bytes:
    assert event.envelope is not None
    key = ring.load(event.envelope[:16])
    assert key is not None
    return key


def queued(store: Store) -> AppendReceipt:
    return store.submit(HERE, {"x": SECRET}, kind=KIND).result()


def fenced(store: Store) -> AppendReceipt:
    with store.fence() as fence:
        fence.append(HERE, {"x": SECRET}, kind=KIND)
    return fence.receipts[0]


def boxed(store: Store) -> AppendReceipt:
    outbox = store.outbox()
    outbox.stage(HERE, {"x": SECRET}, kind=KIND)
    return outbox.flush()[0]


EVERY_WAY: dict[str, Callable[[Store], AppendReceipt]] = {
    "append": lambda s: s.append(HERE, {"x": SECRET}, kind=KIND),
    "raw": lambda s: s.append_raw(HERE, KIND, b"\x81\xa1x\xc4\x23" + SECRET),
    "keyed": lambda s: s.append(HERE, {"x": SECRET}, kind=KIND, key=b"k" * 16),
    "batch": lambda s: s.append_many(
        [Item(HERE, {"x": SECRET}, kind=KIND), Item(HERE, 2, kind=KIND)]
    )[0],
    "submit": queued,
    "fence": fenced,
    "outbox": boxed,
    "imported": lambda s: s.append_imported("it", 1, [Item(HERE, {"x": SECRET}, kind=KIND)])[0],
    "deny": lambda s: s.deny(HERE, KIND, Denial("gate", SECRET.decode())),
}


@pytest.mark.proves("INV-ENCRYPTED-AT-REST")
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("mode", [Durability.SYNC, Durability.OS], ids=["sync", "os"])
def test_every_way_to_write_seals_the_payload_for_its_event(
    path: Path, ring: FileKeyring, way: str, mode: Durability
) -> None:
    with Store.open(path, codec="encrypted", keyring=ring, durability=mode, files=DISK) as store:
        receipt = EVERY_WAY[way](store)
        event = store.get(receipt.event_id)
        assert SECRET in event.raw
        envelope = event.envelope
        assert envelope is not None
        row = event.row
        assert row.codec == CODEC_ENCRYPTED
        assert row.envelope_len == len(envelope) == len(event.raw) + 48
        assert event.commitment == receipt.commitment == content_hash(2, envelope)
        assert event.event_hash == receipt.event_hash
        # What docs/format.md says, by another implementation of the cipher.
        key = key_of(ring, event)
        names = row.event_id + row.kind.to_bytes(2, "little")
        names += row.payload_version.to_bytes(2, "little") + row.entity_len.to_bytes(2, "little")
        names += event.metadata_bytes[: row.entity_len + row.scope_len]
        commitment = blake3(b"batpak/key/v1\0" + key).digest()[:16]
        assert envelope[16:] == commitment + siv_encrypt(key, [names], event.raw)
        assert siv_decrypt(key, [names], envelope[32:]) == event.raw
        assert event.content_hash == blake3(event.raw).digest()
        assert store.verify().ok
    assert SECRET not in stored_bytes(path)
    assert read_segment.read_journal(path).findings == []


def test_the_second_opinion_is_that_of_the_rfc() -> None:
    # RFC 5297, A.1 and A.2.
    key = bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    names = [bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")]
    plain = bytes.fromhex("112233445566778899aabbccddee")
    sealed = bytes.fromhex("85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c")
    assert siv_encrypt(key, names, plain) == sealed
    assert siv_decrypt(key, names, sealed) == plain
    key = bytes.fromhex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f")
    names = [
        bytes.fromhex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa9988")
        + bytes.fromhex("7766554433221100"),
        bytes.fromhex("102030405060708090a0"),
        bytes.fromhex("09f911029d74e35bd84156c5635688c0"),
    ]
    plain = b"this is some plaintext to encrypt using SIV-AES"
    sealed = bytes.fromhex(
        "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17"
        "dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"
    )
    assert siv_encrypt(key, names, plain) == sealed


EVERY_READ: dict[str, Callable[[Store | ReadOnlyStore, Event], Event]] = {
    "at": lambda s, e: s.at(e.sequence),
    "get": lambda s, e: s.get(e.event_id),
    "query": lambda s, e: next(s.query(Region(kind=e.kind), after=e.sequence - 1)),
    "iteration": lambda s, e: list(s)[e.sequence],
    "page": lambda s, e: s.page(Region.all(), after=e.sequence - 1, limit=1).events[0],
    "entity": lambda s, e: list(s.entity(e.coordinate.entity))[e.clock],
    "ancestors": lambda s, e: s.ancestors(e.event_id, limit=1).events[0],
}


@pytest.mark.parametrize("way", EVERY_READ)
def test_every_way_to_read_opens_with_the_key_and_says_why_not_without(
    store: Store, path: Path, ring: FileKeyring, way: str
) -> None:
    for n in range(40):
        store.append(HERE, {"n": n, "pad": bytes(100)}, kind=KIND)
    event = store.at(20)
    with (
        Store.open(path, mode="r", keyring=ring, files=DISK) as reader,
        Store.open(path, mode="r", files=DISK) as stranger,
    ):
        for opened in (store, reader):
            found = EVERY_READ[way](opened, event)
            assert found == event
            assert found.value == {"n": 19, "pad": bytes(100)}
        found = EVERY_READ[way](stranger, event)
        assert found == event
        assert (found.event_hash, found.envelope) == (event.event_hash, event.envelope)
        assert found.payload_state is PayloadState.PRESENT
        for ask in ("raw", "value", "payload", "content_hash"):
            with pytest.raises(KeyUnavailable) as caught:
                getattr(found, ask)
            assert (caught.value.reason, caught.value.sequence) == ("no-keyring", 20)
            assert caught.value.key_id == (event.envelope or b"")[:16].hex()


@pytest.mark.proves("INV-ENCRYPTED-AT-REST")
def test_a_journal_without_its_keys_verifies_in_all_but_the_payload(
    store: Store, path: Path, ring: FileKeyring, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    store.append(HERE, {"x": 1}, kind=KIND)
    store.close()
    with Store.open(
        path, codec="encrypted", keyring=ring, checkpoint_key=key,
        signing_keys=(SigningKey.generate(),), files=DISK,
    ) as signing:  # fmt: skip
        receipt = signing.sign(signing.append(HERE, {"x": 2}, kind=KIND))
        note = signing.checkpoint()
        bundle = signing.prove(receipt.event_id)
    shutil.rmtree(ring.path)
    with Store.open(path, mode="r", files=DISK) as reader:
        report = reader.verify("full", keys=[NoteKey(note.origin, key.public_key)])
        assert report.ok, report.findings
        assert (report.encrypted, report.unopened) == (2, 2)
        assert reader.verify("chain").ok
        assert type(reader.verify_receipt(receipt, require_signed=True)).__name__ == "Signed"
        assert len(reader.ancestors(receipt.event_id).events) == 2
    policy = NotePolicy(NoteKey(note.origin, key.public_key))
    assert verify_bundle(bundle.to_json(), [], policy).ok
    assert bundle.events[0].payload_state == "present"


def test_verify_with_the_keyring_opens_every_payload(store: Store, ring: FileKeyring) -> None:
    for n in range(5):
        store.append(Coordinate(f"user:{n}", "room"), n, kind=KIND)
    report = store.verify()
    assert (report.ok, report.encrypted, report.unopened) == (True, 5, 0)
    event = store.at(2)
    ring.destroy((event.envelope or b"")[:16])
    with Store.open(store.path, mode="r", keyring=ring, files=DISK) as reader:
        report = reader.verify()
        assert (report.ok, report.encrypted, report.unopened) == (True, 5, 1)
        assert reader.verify("chain").encrypted == 0, "which reads no payload"
        with pytest.raises(KeyUnavailable) as caught:
            _ = reader.at(2).raw
        assert caught.value.reason == "unknown-key"


def test_a_key_put_in_anothers_place_opens_nothing(store: Store, ring: FileKeyring) -> None:
    store.append(HERE, {"x": 1}, kind=KIND)
    event = store.at(1)
    key_id = (event.envelope or b"")[:16]
    file = Path(ring.path, f"{key_id.hex()}.key")
    file.write_bytes(encode_key_file(key_id, b"another key's bytes, 64 of them " * 2, 0))
    with Store.open(store.path, mode="r", keyring=ring, files=DISK) as reader:
        with pytest.raises(KeyUnavailable) as caught:
            _ = reader.at(1).raw
        assert caught.value.reason == "wrong-key"
        report = reader.verify()
        assert [finding.code for finding in report.findings] == ["wrong-key"]
        assert report.findings[0].sequence == 1


def test_a_ciphertext_is_good_for_its_own_event_only(store: Store) -> None:
    first = store.append(HERE, {"x": 1}, kind=KIND)
    second = store.append(HERE, {"x": 2}, kind=KIND)
    one, two = store.get(first.event_id), store.get(second.event_id)
    vault = store._reader.vault
    moved = Event(two.row_bytes, two.metadata_bytes, one.envelope, PayloadState.PRESENT, vault)
    with pytest.raises(PayloadDamaged) as caught:
        _ = moved.raw
    assert (caught.value.reason, caught.value.sequence) == ("seal", two.sequence)
    short = Event(one.row_bytes, one.metadata_bytes, bytes(47), PayloadState.PRESENT, vault)
    with pytest.raises(PayloadUnreadable) as other:
        _ = short.raw
    assert type(other.value) is PayloadUnreadable, "whatever keys there are"
    assert other.value.codec == 2
    with pytest.raises(KeyUnavailable) as closed:
        open_envelope(2, one.envelope or b"")
    assert (closed.value.reason, closed.value.codec) == ("no-keyring", 2)
    assert closed.value.key_id == (one.envelope or b"")[:16].hex()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Event:
    place = tmp_path_factory.mktemp("sealed")
    ring = FileKeyring.create(place / "keys", files=DISK)
    with Store.open(place / "journal", codec="encrypted", keyring=ring, files=DISK) as store:
        store.append_raw(HERE, KIND, b"the payload")
        return store.at(1)


def test_every_byte_that_is_bound_keeps_the_payload_closed_when_it_changes(sealed: Event) -> None:
    row, names = sealed.row_bytes, sealed.metadata_bytes
    envelope = sealed.envelope or b""
    whole = row + names + envelope
    # Event id, kind, payload version, length of the entity, the names, the envelope.
    for at in (*range(8, 24), *range(88, 92), 94, 95, *range(176, len(whole))):
        data = bytearray(whole)
        data[at] ^= 1
        parts = data[:176], data[176 : 176 + len(names)], data[176 + len(names) :]
        changed = Event(*map(bytes, parts), PayloadState.PRESENT, sealed._vault)
        with pytest.raises((PayloadDamaged, KeyUnavailable)):
            _ = changed.raw
    same = Event(row, names, envelope, PayloadState.PRESENT, sealed._vault)
    assert same.raw == b"the payload"


@pytest.mark.proves("INV-ENCRYPTED-RETRY")
def test_retries_give_identical_bytes(tmp_path: Path, ring: FileKeyring) -> None:
    envelopes: list[bytes | None] = []
    receipts: list[AppendReceipt] = []
    for name in ("one", "two"):
        with Store.open(tmp_path / name, codec="encrypted", keyring=ring, files=DISK) as store:
            first = store.append(HERE, {"x": 1}, kind=KIND, key=b"k" * 16)
            again = store.append(HERE, {"x": 1}, kind=KIND, key=b"k" * 16)
            assert again == first
            assert again.replayed
            with pytest.raises(IdempotencyConflict) as caught:
                store.append(HERE, {"x": 2}, kind=KIND, key=b"k" * 16)
            assert caught.value.reason == "payload"
            envelopes.append(store.get(first.event_id).envelope)
            receipts.append(first)
    assert envelopes[0] == envelopes[1]
    assert receipts[0].commitment == receipts[1].commitment


def test_a_retry_whose_key_is_gone_is_compared_by_coordinate_and_kind(
    store: Store, ring: FileKeyring
) -> None:
    receipt = store.append(HERE, {"x": 1}, kind=KIND, key=b"k" * 16)
    path = store.path
    store.close()
    with Store.open(path, files=DISK) as plain:
        assert plain.append(HERE, {"x": "other"}, kind=KIND, key=b"k" * 16) == receipt
        with pytest.raises(IdempotencyConflict) as caught:
            plain.append(HERE, {"x": 1}, kind=OTHER, key=b"k" * 16)
        assert caught.value.reason == "kind"


def test_codecs_may_change_from_open_to_open(path: Path, ring: FileKeyring) -> None:
    for codec in ("plain", "encrypted", "salted", "encrypted"):
        with Store.open(path, codec=codec, keyring=ring, files=DISK) as store:
            store.append(HERE, {"codec": codec}, kind=KIND)
    with Store.open(path, mode="r", keyring=ring, files=DISK) as reader:
        events = list(reader.query(Region(kind=KIND)))
        assert [event.row.codec for event in events] == [0, 2, 1, 2]
        assert [event.value["codec"] for event in events] == [
            "plain", "encrypted", "salted", "encrypted",
        ]  # fmt: skip
        report = reader.verify()
        assert (report.ok, report.encrypted, report.unopened) == (True, 2, 0)


def test_the_journals_own_events_are_never_encrypted(store: Store) -> None:
    store.append(HERE, 1, kind=KIND)
    store.erase(1, reason="request")
    own = [event for event in store if event.coordinate.entity == "batpak:store"]
    assert [event.row.codec for event in own] == [0] * len(own)
    assert len(own) == 2


def test_import_opens_with_one_keyring_and_seals_with_another(store: Store, tmp_path: Path) -> None:
    receipt = store.append(HERE, {"x": SECRET}, kind=KIND)
    other = FileKeyring.create(tmp_path / "other", files=DISK)
    with Store.open(tmp_path / "copy", codec="encrypted", keyring=other, files=DISK) as copy:
        copy.import_events(store)
        found = copy.get(receipt.event_id)
        assert found.value == {"x": SECRET}
        assert (found.envelope or b"")[:16] != (store.get(receipt.event_id).envelope or b"")[:16]
        assert copy.import_events(store).imported == 0
    assert SECRET not in stored_bytes(tmp_path / "copy")
    with (
        Store.open(store.path, mode="r", files=DISK) as stranger,
        Store.open(tmp_path / "blind", files=DISK) as blind,
        pytest.raises(KeyUnavailable),
    ):
        blind.import_events(stranger)


def test_snapshots_forks_and_restores_never_hold_a_key(
    store: Store, ring: FileKeyring, tmp_path: Path
) -> None:
    receipt = store.append(HERE, {"x": SECRET}, kind=KIND)
    key = key_of(ring, store.get(receipt.event_id))
    store.snapshot(tmp_path / "snapshot")
    store.fork(tmp_path / "fork")
    Store.restore(tmp_path / "snapshot", tmp_path / "restored", files=DISK)
    for name in ("snapshot", "fork", "restored", "journal"):
        held = stored_bytes(tmp_path / name)
        assert key not in held
        assert SECRET not in held
    for name in ("fork", "restored"):
        with Store.open(tmp_path / name, keyring=ring, mode="r", files=DISK) as copy:
            assert copy.get(receipt.event_id).value == {"x": SECRET}


def test_erasing_and_compacting_leave_out_the_ciphertext(store: Store, path: Path) -> None:
    for n in range(30):
        store.append(HERE, {"n": n, "pad": bytes(200)}, kind=KIND)
    envelope = store.at(3).envelope or b""
    store.erase(3, reason="request")
    assert store.at(3).payload_state is PayloadState.ERASED
    assert store.compact().outcome == "performed"
    assert envelope not in stored_bytes(path)
    report = store.verify()
    assert (report.ok, report.encrypted, report.unopened) == (True, 30, 1)
    assert store.at(4).value["n"] == 3


def test_a_follower_reads_what_comes_with_new_keys(store: Store, ring: FileKeyring) -> None:
    own = FileKeyring(ring.path, files=DISK)
    with Store.open(store.path, mode="r", keyring=own, files=DISK) as reader:
        for n in range(3):
            receipt = store.append(Coordinate(f"user:{n}", "room"), n, kind=KIND)
            reader.refresh()
            assert reader.get(receipt.event_id).value == n


def test_a_batch_and_its_prior_references_are_bound_to_their_own_ids(store: Store) -> None:
    receipts = store.append_many(
        [Item(Coordinate(f"user:{n % 3}", "room"), n, kind=KIND) for n in range(9)]
    )
    assert [store.get(receipt.event_id).value for receipt in receipts] == list(range(9))


def test_a_staged_event_that_is_written_twice_is_sealed_for_each_id(store: Store) -> None:
    outbox = store.outbox(expect={"user:1": 5})
    outbox.stage(HERE, {"x": 1}, kind=KIND)
    for _ in range(2):
        with pytest.raises(Exception, match="user:1"):
            outbox.flush()
    for n in range(6):
        store.append(HERE, n, kind=KIND)
    receipt = outbox.flush()[0]
    assert store.get(receipt.event_id).value == {"x": 1}


def test_an_event_can_be_pickled_and_takes_no_key_along(store: Store, ring: FileKeyring) -> None:
    store.append(HERE, {"x": SECRET}, kind=KIND)
    event = store.at(1)
    assert event.value == {"x": SECRET}
    data = pickle.dumps(event)
    assert key_of(ring, event) not in data
    found = pickle.loads(data)
    assert found == event
    with pytest.raises(KeyUnavailable):
        _ = found.raw


def test_gates_are_asked_about_the_plaintext(store: Store) -> None:
    seen: list[object] = []

    @gate("looks", "sees what is proposed")
    def looks(context: GateContext) -> None:
        seen.append(context.payload)

    store.append(HERE, {"x": 1}, kind=KIND, gates=[looks])
    assert seen == [{"x": 1}]


def test_no_cipher_is_made_twice_for_a_key(store: Store, ring: FileKeyring, path: Path) -> None:
    files = RecordingFiles()
    counted = FileKeyring(ring.path, files=files)
    store.close()
    with Store.open(path, codec="encrypted", keyring=counted, files=DISK) as again:
        for n in range(50):
            again.append(Coordinate(f"user:{n % 2}", "room"), n, kind=KIND)
        assert len([event.value for event in again.query(Region(kind=KIND))]) == 50
    assert len(files.of("create", path=".key")) == 2
    assert len(files.of("open", path=".key")) == 2


def test_a_new_key_is_durable_before_the_first_record_that_uses_it(
    path: Path, tmp_path: Path
) -> None:
    files = RecordingFiles()
    ring = FileKeyring.create(tmp_path / "keys", files=files)
    with Store.open(path, codec="encrypted", keyring=ring, files=files) as store:
        before = len(files.operations)
        store.append(HERE, {"x": 1}, kind=KIND)
        names = [(o.name, Path(o.path).suffix) for o in files.operations[before:]]
    written = names.index(("pwrite", ".seg"))
    assert names.index(("sync_file", ".key")) < written
    assert names.index(("sync_directory", "")) < written
    assert names.index(("sync_file", ".key")) < names.index(("sync_directory", ""))


def test_bad_options_write_nothing(path: Path, ring: FileKeyring) -> None:
    with pytest.raises(InvalidInput) as caught:
        Store.open(path, codec="encrypted")
    assert caught.value.field == "codec"
    assert "keyring=" in str(caught.value)
    with pytest.raises(InvalidInput):
        Store.open(path, codec="encrypted", keyring=object())
    assert not path.exists()
    assert replace(StoreConfig(), keyring=ring).keyring is ring


@pytest.mark.parametrize("inside", ["keys", "segments/keys", "."])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_keyring_inside_the_journal_is_refused(path: Path, inside: str, mode: str) -> None:
    with Store.open(path, files=DISK) as store:
        store.append(HERE, 1, kind=KIND)
    place = path / inside
    keys = path.parent / "keys"
    FileKeyring.create(keys, files=DISK)
    if inside == ".":
        place = keys
        link = path / "link"
        shutil.move(place, link)
        place.symlink_to(link)
    else:
        with pytest.raises(KeyringRefused) as caught:
            FileKeyring.create(place, files=DISK)
        assert caught.value.reason == "inside-journal"
        assert not place.exists()
        shutil.move(keys, place)
    ring = FileKeyring(place, files=DISK)
    before = sorted(path.rglob("*"))
    with pytest.raises(KeyringRefused) as caught:
        Store.open(path, mode=mode, keyring=ring)
    assert caught.value.reason == "inside-journal"
    assert caught.value.file == str(place)
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("policy", Policy)
def test_a_policy_says_which_events_share_a_key(path: Path, tmp_path: Path, policy: Policy) -> None:
    ring = FileKeyring.create(tmp_path / "keys", policy=policy, files=DISK)
    with Store.open(path, codec="encrypted", keyring=ring, files=DISK) as store:
        places = [(e, k) for e in ("user:1", "user:2") for k in (KIND, EventKind(0xF, 2), OTHER)]
        for entity, kind in places * 2:
            store.append(Coordinate(entity, "room"), 1, kind=kind)
        used: dict[object, set[bytes]] = {}
        for event in store.query(Region(entity="user")):
            group = {
                Policy.ENTITY: event.coordinate.entity,
                Policy.KIND: event.kind,
                Policy.CATEGORY: event.kind.category,
                Policy.EVENT: event.event_id,
            }[policy]
            used.setdefault(group, set()).add((event.envelope or b"")[:16])
            assert event.value == 1
    assert all(len(ids) == 1 for ids in used.values())
    assert len(set.union(*used.values())) == len(used)
    # Another process finds the same keys.
    again = FileKeyring(ring.path, files=DISK)
    assert again.policy is policy
    if policy is not Policy.EVENT:
        assert again.key_for(HERE, KIND, None) in set.union(*used.values())


def test_a_keyed_event_finds_its_own_key_again(tmp_path: Path) -> None:
    ring = FileKeyring.create(tmp_path / "keys", policy=Policy.EVENT, files=DISK)
    first = ring.key_for(HERE, KIND, b"k" * 16)
    assert ring.key_for(HERE, KIND, b"k" * 16) == first
    assert ring.key_for(HERE, KIND, b"l" * 16) != first
    assert ring.key_for(HERE, KIND, None) != ring.key_for(HERE, KIND, None)


def test_a_key_file_is_what_the_docs_say(store: Store, ring: FileKeyring) -> None:
    store.append(HERE, 1, kind=KIND)
    key_id = (store.at(1).envelope or b"")[:16]
    data = Path(ring.path, f"{key_id.hex()}.key").read_bytes()
    assert decode_key_file(data, key_id) == ring.load(key_id) == data[40:]
    assert (data[:8], data[8:24], len(data)) == (b"BATPKY\x01\n", key_id, 104)
