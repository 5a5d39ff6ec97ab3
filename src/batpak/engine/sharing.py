"""Put a file's bytes under another name: by reference where that is safe, else as a copy.

A file that is replaced by rename only may be shared; one that is written to may not.
Each file is hashed on the way, so that a manifest says what stands in the copy. Knows
files, nothing of journals.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from blake3 import blake3

from batpak.files import Files, closing, write_all

__all__ = ["Kept", "Sharer", "Way", "digest_of"]

_STEP: Final = 1 << 22
_PLAIN: Final[int] = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_IMPOSSIBLE: Final = frozenset(
    {
        errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EINVAL,
        errno.ENOSYS, errno.EMLINK,
    }
)  # fmt: skip
"""How systems say that two files can't share their bytes. All else is a failure."""


class Way(enum.Enum):
    """How a file came to its new name."""

    CLONED = "cloned"
    """By reference to the same blocks, until one of the two is written to."""
    LINKED = "linked"
    """The same file under a second name."""
    COPIED = "copied"


class Kept(NamedTuple):
    """What stands under the new name."""

    size: int
    digest: bytes
    """BLAKE3 of its bytes: 32."""
    way: Way


class Sharer:
    """Brings files to new names, and remembers what the two file systems can't do.

    `progress` is told the number of bytes that are done since the last call.
    """

    def __init__(
        self, files: Files, *, may_link: bool, progress: Callable[[int], None] | None = None
    ) -> None:
        self._files = files
        self._may_link = may_link
        self._may_clone = True
        self._progress = progress

    def share(self, source: str, target: str) -> Kept:
        """The whole of a file that nobody writes to in place. Raises OSError."""
        if self._may_clone and self._cloned(source, target):
            return self._hashed(target, Way.CLONED)
        if self._may_link and self._linked(source, target):
            return self._hashed(target, Way.LINKED)
        return self.copy(source, target)

    def copy(self, source: str, target: str, length: int | None = None) -> Kept:
        """The first `length` bytes of a file, fewer where it has fewer, or all; synced.

        Raises OSError.
        """
        files = self._files
        hasher, position = blake3(), 0
        with closing(files, _open_plain(files, source)) as old, closing(
            files, files.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        ) as new:  # fmt: skip
            while length is None or position < length:
                step = _STEP if length is None else min(_STEP, length - position)
                data = files.pread(old, step, position)
                if not data:
                    break
                hasher.update(data)
                write_all(files, new, data, position)
                position += len(data)
                self._tell(len(data))
            files.sync_file(new)
        return Kept(position, hasher.digest(), Way.COPIED)

    def _cloned(self, source: str, target: str) -> bool:
        files = self._files
        with closing(files, _open_plain(files, source)) as old:
            with closing(files, files.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) as new:
                try:
                    files.clone(old, new)
                    files.sync_file(new)
                    return True
                except OSError as error:
                    if error.errno not in _IMPOSSIBLE:
                        raise
            files.unlink(target)
        self._may_clone = False
        return False

    def _linked(self, source: str, target: str) -> bool:
        try:
            self._files.link(source, target)
        except OSError as error:
            if error.errno not in _IMPOSSIBLE:
                raise
            self._may_link = False
            return False
        return True

    def _hashed(self, target: str, way: Way) -> Kept:
        size, digest = digest_of(self._files, target, self._progress)
        return Kept(size, digest, way)

    def _tell(self, number: int) -> None:
        if self._progress is not None:
            self._progress(number)


def digest_of(
    files: Files, path: str, progress: Callable[[int], None] | None = None
) -> tuple[int, bytes]:
    """Length and BLAKE3 of a plain file, read through. Raises OSError."""
    hasher, position = blake3(), 0
    with closing(files, _open_plain(files, path)) as fd:
        while data := files.pread(fd, _STEP, position):
            hasher.update(data)
            position += len(data)
            if progress is not None:
                progress(len(data))
    return position, hasher.digest()


def _open_plain(files: Files, path: str) -> int:
    """A descriptor for reading; refuses what is no plain file, and never waits for one.

    A link could lead to anything, a key for instance.
    """
    fd = files.open(path, os.O_RDONLY | _PLAIN)
    try:
        if not stat.S_ISREG(files.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "this is no plain file", path)
    except BaseException:
        files.close(fd)
        raise
    return fd
