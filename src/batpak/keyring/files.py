"""Keys in a directory of files: the keyring of an embedded journal.

    keyring.json     format, policy, and how keys are kept
    <key id>.key     one key each; readable by its owner only, else refused
    <label>.for      the id of the key that a group of events shares now

A key is destroyed by writing zeros over it, syncing, and unlinking it; so a crash leaves
the whole key, zeros, or nothing. What the disk or a backup kept of it is not seen from
here. Knows files, and of journals only where they are. Source: docs/format.md, "Keyring files".
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct
from typing import Any, ClassVar, Final, Self, cast

from batpak.encryption import KEY_ID_SIZE, check_key
from batpak.errors import KeyringRefused
from batpak.files import (
    REAL,
    TEMPORARY_SUFFIX,
    Files,
    closing,
    path_text,
    read_small,
    refusal,
    wall_us,
    write_all,
    write_new,
)
from batpak.journal.layout import Layout
from batpak.keyring.policies import KeyringBase, Policy

__all__ = [
    "MAX_KEPT",
    "FileKeyring",
    "check_outside_journals",
    "decode_key_file",
    "encode_key_file",
]

_MAGIC: Final = b"BATPKY\x01\n"
_HEADER: Final = Struct("<8s16sQII")
"""Magic, key id, time of creation in µs, length of what follows, crc32 of all but itself."""
MAX_KEPT: Final = 4096
"""Most bytes that a key takes in its file: 64, or what a key service made of them."""
_MAX_FILE: Final = _HEADER.size + MAX_KEPT
_CONFIG: Final = "keyring.json"
_MAX_CONFIG: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_outside_journals(path: str, files: Files) -> None:
    """Raises KeyringRefused for a path inside a journal's directory, before keys stand there."""
    inner = os.path.realpath(path)
    while (folder := os.path.dirname(inner)) != inner:
        try:
            files.stat(Layout(folder).segments)
            files.stat(Layout(folder).identity)
        except OSError:
            inner = folder
            continue
        raise _refused(
            "keys can't stand inside a journal: every copy of it would take them along", path,
            "inside-journal", "keep them elsewhere, and out of the journal's backups",
        )  # fmt: skip


def encode_key_file(key_id: bytes, kept: bytes, created_us: int) -> bytes:
    """The bytes of a key's file: `kept` is the key, or what was made of it."""
    fixed = _HEADER.pack(_MAGIC, key_id, created_us, len(kept), 0)[:-4]
    return fixed + zlib.crc32(fixed + kept).to_bytes(4, "little") + kept


def decode_key_file(data: bytes, key_id: bytes) -> bytes | None:
    """What `encode_key_file` was given to keep; None for anything but a right file of this key."""
    if not _HEADER.size <= len(data) <= _MAX_FILE:
        return None
    magic, found, _, length, crc = _HEADER.unpack_from(data)
    kept = data[_HEADER.size :]
    if (magic, found, length) != (_MAGIC, key_id, len(kept)):
        return None
    return kept if zlib.crc32(data[: _HEADER.size - 4] + kept) == crc else None


class FileKeyring(KeyringBase):
    """Keys in files of one directory, which is made by `create` only."""

    _KEPT_AS: ClassVar[str] = "plain"

    def __init__(self, path: str | os.PathLike[str], *, files: Files = REAL) -> None:
        """Open a keyring. Raises KeyringRefused (missing, no keyring …), StorageFailed."""
        self.path: Final[str] = os.path.abspath(path_text(path, "path"))
        self._files = files
        super().__init__(self._read_config())

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        policy: Policy = Policy.ENTITY,
        files: Files = REAL,
        **more: Any,
    ) -> Self:
        """Make a keyring in a directory that is new or empty, and open it.

        Raises KeyringRefused when something is there, or inside a journal, StorageFailed, NoSpace.
        """
        if not isinstance(policy, Policy):
            raise _refused("policy= is a Policy", "", "policy", "write policy=Policy.ENTITY")
        name: str = os.path.abspath(path_text(path, "path"))
        check_outside_journals(name, files)
        config = {"format": 1, "policy": policy.value, "keys": cls._KEPT_AS}
        try:
            with suppress(FileExistsError):
                files.mkdir(name)
            if files.listdir(name):
                raise _refused(
                    "something is there already, and a keyring is never written over", name,
                    "exists", "name a new directory, or open what is there",
                )  # fmt: skip
            # First the directory, which the next try takes as it is, while it is empty.
            files.sync_directory(os.path.dirname(name))
            data = json.dumps(config).encode() + b"\n"
            write_new(files, os.path.join(name, _CONFIG), data, 0o600, sync_name=True)
        except OSError as error:
            raise refusal(error, "can't make the keyring", name) from error
        return cls(name, files=files, **more)

    def _read_config(self) -> Policy:
        try:
            status = self._files.stat(self.path)
            data = read_small(self._files, os.path.join(self.path, _CONFIG), _MAX_CONFIG)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _refused(
                "there is no keyring here", self.path, "missing",
                "check the path, or make one with: batpak keyring new DIR",
            ) from error  # fmt: skip
        except OSError as error:
            raise refusal(error, "can't read the keyring", self.path) from error
        if os.name == "posix" and status.st_mode & _OTHERS_WRITE:
            raise _refused(
                "others may write to the keyring, and put their own keys there", self.path,
                "writable-by-others", f"run: chmod go-w {self.path}",
            )  # fmt: skip
        try:
            found: object = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        config = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        if config.get("format") != 1 or config.get("policy") not in _POLICIES:
            raise _refused(
                "this is no keyring of a version that is known here", self.path, "format",
                "check the path; install a newer version if it made this",
            )  # fmt: skip
        if config.get("keys") != self._KEPT_AS:
            raise _refused(
                f"the keys of this keyring are kept as {config.get('keys')!r}, "
                f"not as {self._KEPT_AS!r}", self.path, "kept-otherwise",
                "open it with the class that made it",
            )  # fmt: skip
        return Policy(config["policy"])

    @property
    def places(self) -> Sequence[str]:
        return (self.path,)

    # --- keys ------------------------------------------------------------------

    def load(self, key_id: bytes) -> bytes | None:
        """The 64 bytes of a key; None when it is not there.

        Raises KeyringRefused for a key that others may read, that is damaged or all zeros,
        and StorageFailed.
        """
        kept = self._read(self._key_path(key_id), key_id)
        return None if kept is None else check_key(self._opened(kept, key_id), key_id)

    def _read(self, path: str, key_id: bytes) -> bytes | None:
        files = self._files
        try:
            with closing(files, files.open(path, os.O_RDONLY)) as fd:
                status = files.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise _refused("a key is a regular file", path, "not-a-file", "")
                # Windows has no such bits; who may read a file is not seen from here.
                if os.name == "posix" and status.st_mode & _OTHERS:
                    raise _refused(
                        f"others may read the key: its mode is {stat.S_IMODE(status.st_mode):04o}",
                        path, "readable-by-others",
                        f"run: chmod 600 {path}; if others may have read it, shred it",
                    )  # fmt: skip
                data = files.pread(fd, _MAX_FILE + 1, 0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, "can't read a key", path) from error
        if not any(data):
            # Nothing, or zeros: a key that was being made, or destroyed.
            return None
        kept = decode_key_file(data, key_id)
        if kept is None:
            raise _refused(
                "the key's file is damaged", path, "format",
                "restore it from a copy of the keyring",
            )  # fmt: skip
        return kept

    def _keep(self, key_id: bytes, key: bytes) -> None:
        path = self._key_path(key_id)
        data = encode_key_file(key_id, self._closed(key, key_id), wall_us())
        try:
            # Crash from here on: a file that no label and no record names.
            write_new(self._files, path, data, 0o600)
        except OSError as error:
            raise refusal(error, "can't keep a new key", path) from error

    def _name(self, label: bytes | None, key_id: bytes) -> None:
        try:
            if label is not None:
                path = self._label_path(label)
                temporary = path + TEMPORARY_SUFFIX
                with suppress(FileNotFoundError):
                    self._files.unlink(temporary)
                write_new(self._files, temporary, key_id.hex().encode(), 0o600)
                self._files.rename(temporary, path)
            # The names of key and label at once.
            self._files.sync_directory(self.path)
        except OSError as error:
            raise refusal(error, "can't keep a new key", self.path) from error

    def _named(self, label: bytes) -> bytes | None:
        path = self._label_path(label)
        try:
            text = read_small(self._files, path, 4 * KEY_ID_SIZE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, "can't read the keyring", path) from error
        try:
            key_id = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            key_id = b""
        # Anything else is as good as nothing: a new key is made, the old ones stay.
        return key_id if len(key_id) == KEY_ID_SIZE else None

    def _remove(self, key_id: bytes) -> bool:
        path, files = self._key_path(key_id), self._files
        try:
            try:
                fd = files.open(path, os.O_RDWR)
            except FileNotFoundError:
                return False
            with closing(files, fd):
                length = min(files.fstat(fd).st_size, _MAX_FILE)
                write_all(files, fd, bytes(length), 0)
                # Crash before this: the key, or zeros in part, which is no key.
                files.sync_file(fd)
            files.unlink(path)
            files.sync_directory(self.path)
        except OSError as error:
            raise refusal(error, "can't destroy a key", path) from error
        return True

    def _closed(self, key: bytes, key_id: bytes) -> bytes:
        """What is kept of a key in its file."""
        return key

    def _opened(self, kept: bytes, key_id: bytes) -> bytes:
        """The key of what is kept."""
        return kept

    def _key_path(self, key_id: bytes) -> str:
        return os.path.join(self.path, f"{key_id.hex()}.key")

    def _label_path(self, label: bytes) -> str:
        return os.path.join(self.path, f"{label.hex()}.for")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}, a key for each {self.policy.value}>"


_POLICIES: Final = frozenset(policy.value for policy in Policy)


def _refused(what: str, file: str, reason: str, advice: str) -> KeyringRefused:
    return KeyringRefused(what, field="keyring", file=file, reason=reason, advice=advice)
