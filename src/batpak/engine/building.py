"""A directory that appears under its name whole, or not at all.

Snapshots, restores and forks are built in `<destination>.tmp/whole` and renamed when
every byte and name in it is durable. `<destination>.tmp/unfinished` is locked by whoever
builds, so what a killed builder left is known from what somebody else put there. Knows
directories, nothing of what is built.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager

from batpak.engine.opening import settle_ancestors
from batpak.errors import DestinationTaken, JournalLocked
from batpak.files import TEMPORARY_SUFFIX, Files, refusal, tell_not_closed

__all__ = ["building", "check_destination", "is_folder", "publish", "sync_tree"]

logger = logging.getLogger("batpak.keep")

_MARKER = "unfinished"
_WHOLE = "whole"


def is_folder(files: Files, path: str) -> bool:
    """Whether a directory stands there. Raises OSError where that can't be found out."""
    try:
        return stat.S_ISDIR(files.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_destination(files: Files, destination: str, source: str) -> None:
    """Raises DestinationTaken unless nothing, or an empty directory, is there.

    A place inside of `source` is refused too, however it is reached.
    """
    try:
        what = _obstacle(files, destination, source)
    except OSError as error:
        raise refusal(error, "can't look at the destination", destination) from error
    if what:
        raise DestinationTaken(
            what,
            field="destination",
            value=destination,
            advice="name a path that does not exist yet, in a directory that does",
        )


def _obstacle(files: Files, destination: str, source: str) -> str:
    """Why nothing can be made there; empty where something can."""
    if os.path.islink(destination):
        return "a link is no place for a copy: name the directory that it leads to"
    if _is_inside(destination, source):
        return "a copy can't stand inside of what it is a copy of"
    if os.path.lexists(destination):
        if not is_folder(files, destination) or files.listdir(destination):
            return "something is there already"
    elif not is_folder(files, os.path.dirname(destination)):
        return "the directory above it does not exist"
    return ""


def _is_inside(path: str, root: str) -> bool:
    path, root = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([path, root]) == root


@contextmanager
def building(files: Files, destination: str, source: str) -> Generator[str]:
    """The path of an empty directory to build in; `publish` gives it its name.

    Whatever goes wrong before that, it is removed again. Raises DestinationTaken,
    JournalLocked, Unavailable.
    """
    destination = os.path.abspath(destination)
    check_destination(files, destination, source)
    staging = destination + TEMPORARY_SUFFIX
    marker, whole = os.path.join(staging, _MARKER), os.path.join(staging, _WHOLE)
    claim = _Claim()
    try:
        _claim(files, staging, marker, claim)
        # Crash from here on: the next builder for this destination clears it.
        if is_folder(files, whole):
            _remove_tree(files, whole)
        files.mkdir(whole)
        yield whole
    except OSError as error:
        raise refusal(error, "the copy was not made", destination) from error
    finally:
        # Twice: Ctrl-C can cut it and cut that again, and a lock that stays held would keep
        # this process from ever building here.
        try:
            if claim.is_ours:
                _leave(files, staging, marker, whole)
            elif claim.is_made:
                _unmake(files, staging, marker, claim)
        finally:
            try:
                _let_go_of(files, claim)
            finally:
                _let_go_of(files, claim)


class _Claim:
    """The open marker of a place to build in, and whether it is locked by us."""

    def __init__(self) -> None:
        self.fd = -1
        self.is_ours = False
        self.is_made = False
        """Whether the place was made by us, and nobody else is known to build in it."""


def _let_go_of(files: Files, claim: _Claim) -> None:
    """Close the marker, which frees its lock; may be called again."""
    # No call between the taking and the closing, so Ctrl-C can't part them.
    fd, claim.fd = claim.fd, -1
    if fd >= 0:
        try:
            files.close(fd)
        except OSError as error:
            tell_not_closed(error)


def _claim(files: Files, staging: str, marker: str, claim: _Claim) -> None:
    """Lock the marker of the directory to build in, which is made if need be."""
    try:
        files.mkdir(staging)
        claim.is_made = True
    except FileExistsError:
        left = [] if os.path.islink(staging) else files.listdir(staging)
        if os.path.islink(staging) or (left and _MARKER not in left):
            raise DestinationTaken(
                "the place to build in is taken by something else",
                field="destination",
                value=staging,
                advice="move it away, or name another destination",
            ) from None
    fd = claim.fd = files.open(marker, os.O_CREAT | os.O_RDWR)
    is_ours = files.lock(fd)
    if is_ours:
        try:
            named = files.stat(marker)
        except FileNotFoundError:
            # Its builder has just finished.
            is_ours = False
        else:
            is_ours = named.st_ino == files.fstat(fd).st_ino
    if not is_ours:
        claim.is_made = False
        raise JournalLocked(
            "another process builds a copy of this name",
            file=staging,
            pid=None,
            advice="wait for it to end, or name another destination",
        )
    claim.is_ours = True
    # Before anything stands beside it: what a power cut leaves must be known as ours.
    files.sync_directory(staging)


def _unmake(files: Files, staging: str, marker: str, claim: _Claim) -> None:
    """Remove a place that was made and not claimed, unless somebody else builds in it by now."""
    try:
        if claim.fd >= 0:
            files.unlink(marker)
        files.rmdir(staging)
    except OSError as error:
        _tell_stays(staging, error)


def _leave(files: Files, staging: str, marker: str, whole: str) -> None:
    """Remove what is left of the building place. What can't be removed is only untidy."""
    try:
        if is_folder(files, whole):
            _remove_tree(files, whole)
            # The marker goes last on the disk, too.
            files.sync_directory(staging)
        files.unlink(marker)
        files.rmdir(staging)
    except OSError as error:
        _tell_stays(staging, error)


def _tell_stays(staging: str, error: OSError) -> None:
    logger.warning(
        "%s stays: %s", staging, str(error),
        extra={"code": "building-place-stays", "file": staging, "error": str(error)},
    )  # fmt: skip


def publish(files: Files, whole: str, destination: str) -> None:
    """Give what was built in `whole` its name, durably. Raises OSError.

    Everything in it has been synced by `sync_tree`.
    """
    destination = os.path.abspath(destination)
    # An empty directory may have this name; anything else makes the system refuse.
    files.rename(whole, destination)
    # Crash before this: nothing of that name, or all of it.
    files.sync_directory(os.path.dirname(destination))
    settle_ancestors(files, destination, {os.path.dirname(destination)})


def sync_tree(files: Files, path: str) -> None:
    """Make every name below `path` durable. Raises OSError."""
    for name in files.listdir(path):
        inner = os.path.join(path, name)
        if is_folder(files, inner):
            sync_tree(files, inner)
    files.sync_directory(path)


def _remove_tree(files: Files, path: str) -> None:
    for name in files.listdir(path):
        inner = os.path.join(path, name)
        if is_folder(files, inner) and not os.path.islink(inner):
            _remove_tree(files, inner)
        else:
            files.unlink(inner)
    files.rmdir(path)
