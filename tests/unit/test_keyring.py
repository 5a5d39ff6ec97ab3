"""Keyrings: three that keep keys, and every way in which one is not to be trusted."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from batpak import Coordinate, EventKind, PayloadState, Region, Store
from batpak.config import Keyring
from batpak.encryption import KEY_SIZE
from batpak.errors import KeyringFailed, KeyringRefused, NoSpace, StorageFailed
from batpak.keyring import EnvelopeKeyring, FileKeyring, LocalProvider, Policy, SystemKeyring
from batpak.keyring.files import decode_key_file, encode_key_file
from tests.support.faulty_files import DISK, FullDisk
from tests.watched_files import WatchedFiles

KIND = EventKind(0xF, 1)
HERE = Coordinate("user:1", "room")


class FolderBackend(KeyringBackend):
    """A backend of the library `keyring` that keeps passwords in a file."""

    priority = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__()

    def _read(self) -> dict[str, str]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.path.write_text(json.dumps(self._read() | {f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        entries = self._read()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("not there")
        self.path.write_text(json.dumps(entries))


def files(place: Path, policy: Policy) -> FileKeyring:
    if not (place / "keys").exists():
        FileKeyring.create(place / "keys", policy=policy, files=DISK)
    return FileKeyring(place / "keys", files=DISK)


def system(place: Path, policy: Policy) -> SystemKeyring:
    return SystemKeyring("batpak-test", policy=policy, backend=FolderBackend(place / "system.json"))


def envelopes(place: Path, policy: Policy) -> EnvelopeKeyring:
    master = place / "master"
    if not master.exists():
        provider = LocalProvider.create(master, files=DISK)
        EnvelopeKeyring.create(place / "keys", provider, policy=policy, files=DISK)
    return EnvelopeKeyring(place / "keys", LocalProvider(master, files=DISK), files=DISK)


Make = Callable[[Path, Policy], FileKeyring | SystemKeyring]
ALL = pytest.mark.parametrize("make", [files, system, envelopes])


@ALL
def test_a_keyring_does_what_the_protocol_says(tmp_path: Path, make: Make) -> None:
    ring = make(tmp_path, Policy.ENTITY)
    assert isinstance(ring, Keyring)
    first = ring.key_for(HERE, KIND, None)
    other = ring.key_for(Coordinate("user:2", "room"), KIND, None)
    key = ring.load(first)
    assert key is not None
    assert len(key) == KEY_SIZE
    assert ring.load(other) not in (None, key)
    # Found again, here and by the next process.
    for again in (ring, make(tmp_path, Policy.ENTITY)):
        assert again.key_for(HERE, KIND, None) == first
        assert again.load(first) == key
        assert again.load(b"x" * 16) is None
    assert ring.destroy(first)
    assert ring.destroy(first) is False
    assert not ring.destroy(b"x" * 16)
    for again in (ring, make(tmp_path, Policy.ENTITY)):
        assert again.load(first) is None
        assert again.load(other) is not None
        # An id is never given twice.
        assert again.key_for(HERE, KIND, None) != first
    assert key.hex() not in repr(ring)


@ALL
@pytest.mark.parametrize("policy", Policy)
def test_a_journal_lives_with_each_of_them(tmp_path: Path, make: Make, policy: Policy) -> None:
    path = tmp_path / "journal"
    with Store.open(path, codec="encrypted", keyring=make(tmp_path, policy), files=DISK) as store:
        receipts = [store.append(Coordinate(f"user:{n % 2}", "r"), n, kind=KIND) for n in range(4)]
    with Store.open(path, keyring=make(tmp_path, policy), files=DISK) as store:
        assert [store.get(receipt.event_id).value for receipt in receipts] == [0, 1, 2, 3]
        report = store.shred(Region(entity="user:0"), also_others=True)
        assert report.others == {Policy.CATEGORY: 2, Policy.KIND: 2}.get(policy, 0)
    with Store.open(path, keyring=make(tmp_path, policy), mode="r", files=DISK) as store:
        gone = [e.sequence for e in store if e.payload_state is PayloadState.SHREDDED]
        assert len(gone) == 2 + report.others
        assert store.verify().closed == {"shredded": len(gone)}


@ALL
def test_threads_that_want_the_same_key_get_the_same(tmp_path: Path, make: Make) -> None:
    ring = make(tmp_path, Policy.ENTITY)
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(ring.key_for(HERE, KIND, None))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


# --- files ---------------------------------------------------------------------


def only(place: Path, pattern: str) -> Path:
    found = list((place / "keys").glob(pattern))
    assert len(found) == 1
    return found[0]


def reason_of(call: Callable[[], object]) -> str | None:
    with pytest.raises(KeyringRefused) as caught:
        call()
    assert caught.value.field in ("keyring", "provider")
    assert caught.value.advice or caught.value.reason in ("policy", "provider", "not-a-file")
    return caught.value.reason


def test_what_is_no_keyring_is_refused_by_name(tmp_path: Path) -> None:
    assert reason_of(lambda: FileKeyring(tmp_path / "none")) == "missing"
    assert reason_of(lambda: FileKeyring(tmp_path)) == "missing"
    (tmp_path / "file").touch()
    assert reason_of(lambda: FileKeyring(tmp_path / "file")) == "missing"
    assert not (tmp_path / "none").exists(), "opening makes nothing"
    for text in ("", "{", "[]", '{"format": 2, "policy": "entity"}', '{"format": 1}', "[" * 4000):
        (tmp_path / "keyring.json").write_text(text)
        assert reason_of(lambda: FileKeyring(tmp_path)) == "format"
    (tmp_path / "keyring.json").write_text("x" * 5000)
    with pytest.raises(StorageFailed):
        FileKeyring(tmp_path)
    assert reason_of(lambda: FileKeyring.create(tmp_path)) == "exists"
    assert reason_of(lambda: FileKeyring.create(tmp_path / "a", policy="entity")) == "policy"
    with pytest.raises(StorageFailed):
        FileKeyring.create(tmp_path / "no" / "parent")
    assert not (tmp_path / "a").exists()


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    ring = files(tmp_path, Policy.ENTITY)
    key_id = ring.key_for(HERE, KIND, None)
    file = only(tmp_path, "*.key")
    for each in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o660, 0o644):
        file.chmod(mode)
        assert reason_of(lambda: ring.load(key_id)) == "readable-by-others"
    file.chmod(0o400)
    assert ring.load(key_id) is not None
    (tmp_path / "keys").chmod(0o777)
    assert reason_of(lambda: files(tmp_path, Policy.ENTITY)) == "writable-by-others"


def test_a_key_file_that_is_not_right_is_refused(tmp_path: Path) -> None:
    ring = files(tmp_path, Policy.ENTITY)
    key_id = ring.key_for(HERE, KIND, None)
    file = only(tmp_path, "*.key")
    right = file.read_bytes()
    for at in range(len(right)):
        file.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        # The time of creation is under the checksum as all else is.
        assert reason_of(lambda: ring.load(key_id)) == "format"
    for bad in (right[:-1], right + b"x", right[:39], right * 50):
        file.write_bytes(bad)
        assert reason_of(lambda: ring.load(key_id)) == "format"
    file.write_bytes(encode_key_file(key_id, bytes(64), 1))
    assert reason_of(lambda: ring.load(key_id)) == "zero-key"
    file.write_bytes(encode_key_file(key_id, b"short", 1))
    assert reason_of(lambda: ring.load(key_id)) == "key-size"
    # Another key's file under this name.
    file.write_bytes(encode_key_file(b"x" * 16, b"k" * 64, 1))
    assert reason_of(lambda: ring.load(key_id)) == "format"
    for none in (b"", bytes(len(right)), bytes(10)):
        file.write_bytes(none)
        assert ring.load(key_id) is None, "unfinished, or destroyed"
    file.unlink()
    file.mkdir()
    with pytest.raises((KeyringRefused, StorageFailed)):
        ring.load(key_id)


def test_a_label_that_is_damaged_costs_a_new_key_and_no_old_one(tmp_path: Path) -> None:
    first = files(tmp_path, Policy.ENTITY).key_for(HERE, KIND, None)
    for text in (b"", b"zz", b"00", b"\xff" * 32, b"00" * 16):
        only(tmp_path, "*.for").write_bytes(text)
        assert files(tmp_path, Policy.ENTITY).key_for(HERE, KIND, None) != first
    assert files(tmp_path, Policy.ENTITY).load(first) is not None


def test_a_full_disk_makes_no_key(tmp_path: Path) -> None:
    disk = FullDisk()
    ring = FileKeyring.create(tmp_path / "keys", files=disk)
    disk.room = 0
    with (
        Store.open(tmp_path / "journal", codec="encrypted", keyring=ring, files=DISK) as store,
    ):
        with pytest.raises(NoSpace):
            store.append(HERE, 1, kind=KIND)
        assert len(store) == 1
        disk.room = None
        assert store.at(store.append(HERE, 1, kind=KIND).sequence).value == 1


@pytest.mark.parametrize("operation", ["rename", "sync_directory"])
def test_a_key_that_gets_no_name_is_told_and_encrypts_nothing(
    tmp_path: Path, operation: str
) -> None:
    FileKeyring.create(tmp_path / "keys", files=DISK)
    disk = WatchedFiles()
    ring = FileKeyring(tmp_path / "keys", files=disk)
    disk.refuse(operation, "*", errno.EIO)
    with Store.open(tmp_path / "journal", codec="encrypted", keyring=ring, files=DISK) as store:
        with pytest.raises(StorageFailed, match="can't keep a new key") as caught:
            store.append(HERE, 1, kind=KIND)
        assert caught.value.file == ring.path
        assert len(store) == 1
        disk.refused.clear()
        assert store.at(store.append(HERE, 1, kind=KIND).sequence).value == 1


def test_a_destroyed_key_is_overwritten_before_its_name_goes(tmp_path: Path) -> None:
    ring = files(tmp_path, Policy.ENTITY)
    key_id = ring.key_for(HERE, KIND, None)
    link = tmp_path / "held"
    os.link(only(tmp_path, "*.key"), link)
    length = link.stat().st_size
    assert ring.destroy(key_id)
    assert link.read_bytes() == bytes(length)


@pytest.mark.parametrize("length", [1, 64, 200, 4096])
def test_key_files_round_trip(length: int) -> None:
    kept = os.urandom(length)
    data = encode_key_file(b"i" * 16, kept, 7)
    assert decode_key_file(data, b"i" * 16) == kept
    assert decode_key_file(data, b"j" * 16) is None


# --- a key service -----------------------------------------------------------------


def test_a_wrapped_key_opens_with_its_master_key_and_id_only(tmp_path: Path) -> None:
    ring = envelopes(tmp_path, Policy.ENTITY)
    first = ring.key_for(HERE, KIND, None)
    other = ring.key_for(Coordinate("user:2", "r"), KIND, None)
    key = ring.load(first)
    assert key is not None
    paths = [tmp_path / "keys" / f"{each.hex()}.key" for each in (first, other)]
    assert key not in paths[0].read_bytes()
    kept = decode_key_file(paths[1].read_bytes(), other)
    assert kept is not None
    paths[0].write_bytes(encode_key_file(first, kept, 1))
    assert reason_of(lambda: ring.load(first)) == "wrapped"
    stranger = LocalProvider.create(tmp_path / "another", files=DISK)
    assert reason_of(lambda: EnvelopeKeyring(ring.path, stranger).load(other)) == "wrapped"
    assert reason_of(lambda: FileKeyring(ring.path)) == "kept-otherwise"
    plain = FileKeyring.create(tmp_path / "plain", files=DISK)
    assert reason_of(lambda: EnvelopeKeyring(plain.path, stranger)) == "kept-otherwise"
    assert ring.places == (str(tmp_path / "keys"), str(tmp_path / "master"))


def test_a_master_key_is_judged_like_a_key(tmp_path: Path) -> None:
    path = tmp_path / "master"
    assert reason_of(lambda: LocalProvider(path)) == "missing"
    LocalProvider.create(path, files=DISK)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert reason_of(lambda: LocalProvider.create(path)) == "exists"
    path.chmod(0o640)
    assert reason_of(lambda: LocalProvider(path)) == "readable-by-others"
    path.chmod(0o600)
    path.write_bytes(b"short")
    assert reason_of(lambda: LocalProvider(path)) == "key-size"
    path.write_bytes(bytes(32))
    assert reason_of(lambda: LocalProvider(path)) == "zero-key"


def test_a_master_key_inside_the_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Store.open(path, files=DISK).close()
    for inside in (path / "master", path / "segments" / "master"):
        assert reason_of(lambda at=inside: LocalProvider.create(at, files=DISK)) == "inside-journal"
        assert not inside.exists()
    LocalProvider.create(tmp_path / "master", files=DISK)
    (tmp_path / "master").rename(path / "master")
    provider = LocalProvider(path / "master", files=DISK)
    ring = EnvelopeKeyring.create(tmp_path / "keys", provider, files=DISK)
    assert reason_of(lambda: Store.open(path, keyring=ring)) == "inside-journal"


class Service:
    """A key service that can be away, or wrong."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.answer: object = None
        self.kept: dict[bytes, bytes] = {}

    def wrap(self, key: bytes, context: bytes) -> bytes:
        if self.fails is not None:
            raise self.fails
        if self.answer is not None:
            return self.answer
        self.kept[b"ref:" + context] = key
        return b"ref:" + context

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        if self.fails is not None:
            raise self.fails
        return self.kept[wrapped]


def test_a_service_that_is_away_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    service = Service()
    ring = EnvelopeKeyring.create(tmp_path / "keys", service, files=DISK)
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring, files=DISK) as store:
        store.append(HERE, 1, kind=KIND)
    service.fails = TimeoutError("no answer")
    with Store.open(tmp_path / "j", codec="encrypted", keyring=ring, files=DISK) as store:
        written = len(store)
        other = Coordinate("user:2", "r")
        for call in (lambda: store.append(other, 1, kind=KIND), lambda: store.at(1).raw):
            with pytest.raises(KeyringFailed) as caught:
                call()
            assert caught.value.retryable
            assert isinstance(caught.value.__cause__, TimeoutError)
        assert len(store) == written
        report = store.verify()
        assert (report.ok, report.closed) == (True, {"keyring-failed": 1})
        service.fails = None
        assert store.at(1).value == 1
        service.answer = "text"
        assert reason_of(lambda: store.append(other, 1, kind=KIND)) == "wrapped"
        service.answer = bytes(5000)
        assert reason_of(lambda: store.append(other, 1, kind=KIND)) == "wrapped"
    assert reason_of(lambda: EnvelopeKeyring(ring.path, object())) == "provider"


# --- the system's keyring ---------------------------------------------------------


class Locked(FolderBackend):
    """A keyring that the user has not unlocked, or that forgets."""

    locked = True
    forgets = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("no")
        return None if self.forgets else super().get_password(service, username)

    def delete_password(self, service: str, username: str) -> None:
        """Says that it did, and did nothing."""


def test_a_system_keyring_that_fails_is_told(tmp_path: Path) -> None:
    backend = Locked(tmp_path / "system.json")
    ring = SystemKeyring("batpak-test", backend=backend)
    with pytest.raises(KeyringFailed) as caught:
        ring.key_for(HERE, KIND, None)
    assert isinstance(caught.value.__cause__, KeyringLocked)
    backend.locked = False
    key_id = ring.key_for(HERE, KIND, None)
    with pytest.raises(KeyringFailed):
        ring.destroy(key_id)
    backend.forgets = True
    assert ring.load(key_id) is None
    with pytest.raises(KeyringFailed):
        ring.key_for(Coordinate("user:2", "r"), KIND, None)


def test_entries_that_are_no_keys_are_refused(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path / "system.json")
    ring = SystemKeyring("batpak-test", backend=backend)
    for text in ("", "not base64!", "AAAA", "ü"):
        backend.set_password("batpak-test", (b"x" * 16).hex(), text)
        assert reason_of(lambda: ring.load(b"x" * 16)) == "key-size"
    backend.set_password("batpak-test", (b"x" * 16).hex(), "A" * 86 + "==")
    assert reason_of(lambda: ring.load(b"x" * 16)) == "zero-key"


def test_options_of_the_system_keyring_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("", "a\nb", "x" * 256, None):
        with pytest.raises(KeyringRefused) as caught:
            SystemKeyring(service, backend=object())
        assert caught.value.reason == "service"
    with pytest.raises(KeyringRefused):
        SystemKeyring("batpak", policy="entity", backend=object())
    # The library's own way to choose a backend.
    before = keyring.get_keyring()
    try:
        keyring.set_keyring(FolderBackend(tmp_path / "system.json"))
        ring = SystemKeyring("batpak-test")
        assert ring.load(ring.key_for(HERE, KIND, None)) is not None
        from keyring.backends.fail import Keyring as NoKeyring

        keyring.set_keyring(NoKeyring())
        assert reason_of(lambda: SystemKeyring("batpak-test")) == "no-backend"
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert reason_of(lambda: SystemKeyring("batpak-test")) == "no-library"


def test_nothing_of_this_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, tempfile; from batpak import Store\n"
        "with tempfile.TemporaryDirectory() as place, Store.open(place + '/j') as store: pass\n"
        "from batpak.keyring import FileKeyring, Policy\n"
        "seen = [n for n in ('keyring', 'cryptography.hazmat.primitives.ciphers', "
        "'batpak.keyring.system') "
        "if n in sys.modules]\n"
        "sys.exit(repr(seen) if seen else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
