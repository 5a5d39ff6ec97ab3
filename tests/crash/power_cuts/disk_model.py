"""What a disk may hold after a power cut: every legal state, from the list of changes.

`Survivors` goes through the changes in order and keeps, for everything that no sync has
settled, the versions that may be on the disk. `draw` makes one state of them: each open
question is put to `pick(n)`, which answers with a number below n; the last answer is
always "the newest". The rules (docs/decisions/0020):

    pages       each page of a file, 4 KiB or a sector of 512 bytes, holds any version it
                had since it was last synced, whatever its neighbours hold
    lengths     a file has any length that it had since it was last synced; changes of
                length get to the disk in their order. What a shrinking cut off is not
                seen again once the shrinking is on the disk, and what was written there
                later is not seen before it is
    names       changes to one name get to the disk in their order; a rename changes both
                its names at once; changes to unrelated names in any order. Syncing a
                directory settles the names in it, and nothing else does
    failed sync any pages may be on the disk; those that are not stay away from later
                syncs until they are written again, as the page cache does it

Knows nothing of journals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash.power_cuts.memory_files import ROOT, Change, State

__all__ = ["PAGE", "SECTOR", "Pick", "Survivors"]

PAGE: Final = 4096
SECTOR: Final = 512
_ALWAYS: Final = 1 << 60

Pick = Callable[[int], int]


@dataclass(slots=True)
class _Version:
    """Bytes of one page, on the disk only when between `low` and `high` lengths are."""

    data: bytes
    low: int = 0
    high: int = _ALWAYS


@dataclass(slots=True)
class _File:
    """One file: what the page cache shows, what is settled, and what is open.

    `lengths` are those since the last sync, the settled one first. `pages` has the
    versions of each page whose content is not settled; all others are as in `settled`.
    """

    unit: int
    current: bytearray
    settled: bytes
    lengths: list[int]
    pages: dict[int, list[_Version]] = field(default_factory=dict[int, list[_Version]])
    dirty: set[int] = field(default_factory=set[int])
    wiped: dict[int, int] = field(default_factory=dict[int, int])

    @classmethod
    def of(cls, data: bytes, unit: int) -> _File:
        return cls(unit, bytearray(data), data, [len(data)])

    def _page(self, data: bytes | bytearray, page: int) -> bytes:
        return bytes(data[page * self.unit : (page + 1) * self.unit]).rstrip(b"\0")

    def _versions(self, page: int) -> list[_Version]:
        found = self.pages.get(page)
        if found is None:
            found = self.pages[page] = [_Version(self._page(self.settled, page))]
        self.dirty.add(page)
        return found

    def write(self, offset: int, data: bytes) -> None:
        before = len(self.current)
        if offset > before:
            self.current.extend(bytes(offset - before))
        touched = range(offset // self.unit, (offset + len(data) - 1) // self.unit + 1)
        known = [self._versions(page) for page in touched]
        self.current[offset : offset + len(data)] = data
        if len(self.current) != before:
            self.lengths.append(len(self.current))
        for page, versions in zip(touched, known, strict=True):
            new = self._page(self.current, page)
            low = self.wiped.get(page, 0)
            if not any(v.data == new and v.low <= low and v.high == _ALWAYS for v in versions):
                versions.append(_Version(new, low))

    def resize(self, length: int) -> None:
        before = len(self.current)
        self.lengths.append(length)
        if length >= before:
            self.current.extend(bytes(length - before))
            return
        at = len(self.lengths) - 1
        for page in range(length // self.unit, (before - 1) // self.unit + 1):
            kept = max(0, length - page * self.unit)
            versions = self._versions(page)
            masked: list[_Version] = []
            for version in versions:
                if version.high == _ALWAYS:
                    version.high = at - 1
                    data = version.data[:kept].rstrip(b"\0")
                    if not any(m.data == data for m in masked):
                        masked.append(_Version(data, at))
            if kept:
                # The zeros behind the new end may be written before the length is.
                newest = versions[-1]
                data = newest.data[:kept].rstrip(b"\0")
                if data != newest.data:
                    versions.append(_Version(data, newest.low, at - 1))
            versions += masked
            self.wiped[page] = at
        del self.current[length:]

    def sync(self) -> None:
        now = len(self.lengths) - 1
        settled = bytearray(self.settled[: len(self.current)])
        settled.extend(bytes(len(self.current) - len(settled)))
        for page, versions in list(self.pages.items()):
            if page in self.dirty:
                kept = [_Version(self._page(self.current, page))]
            else:
                # An earlier sync failed: this page is clean, and may not be on the disk.
                kept = [_Version(v.data) for v in versions if v.low <= now <= v.high]
            if len(kept) == 1:
                del self.pages[page]
            else:
                self.pages[page] = kept
            _put(settled, page * self.unit, kept[-1].data, self.unit)
        self.settled = bytes(settled)
        self.lengths = [len(self.current)]
        self.dirty.clear()
        self.wiped.clear()

    def fail(self) -> None:
        self.dirty.clear()

    def draw(self, pick: Pick) -> bytes:
        persisted = pick(len(self.lengths)) if len(self.lengths) > 1 else 0
        length = self.lengths[persisted]
        if not self.pages and length == len(self.settled):
            return self.settled
        data = bytearray(self.settled[:length])
        data.extend(bytes(length - len(data)))
        for page, versions in self.pages.items():
            if page * self.unit >= length:
                continue
            legal = [v for v in versions if v.low <= persisted <= v.high]
            chosen = legal[pick(len(legal)) if len(legal) > 1 else 0]
            _put(data, page * self.unit, chosen.data, self.unit)
        return bytes(data)


def _put(data: bytearray, offset: int, page: bytes, unit: int) -> None:
    """Overwrite one page, without making `data` longer."""
    room = min(unit, len(data) - offset)
    if room > 0:
        data[offset : offset + room] = page[:room].ljust(room, b"\0")


_Key = tuple[int, str]


class Survivors:
    """What may have survived of the changes so far."""

    def __init__(self, start: State, unit: int = PAGE) -> None:
        self.unit = unit
        self._files = {number: _File.of(data, unit) for number, data in start.files.items()}
        self._names = {number: dict(names) for number, names in start.directories.items()}
        self._open: list[Change] = []
        """Changes of names that no sync has settled, oldest first."""
        self._grouped: list[list[Change]] | None = None

    def advance(self, change: Change) -> None:
        """Take one more change into account."""
        name, number = change.name, change.inode
        if name == "write":
            self._files[number].write(change.at, change.data)
        elif name == "resize":
            self._files[number].resize(change.at)
        elif name == "sync":
            self._files[number].sync()
        elif name == "failed-sync":
            self._files[number].fail()
        elif name == "sync-directory":
            self._settle(number)
        else:
            if name == "create":
                self._files[number] = _File.of(b"", self.unit)
            elif name == "mkdir":
                self._names[number] = {}
            self._open.append(change)
            self._grouped = None

    def _settle(self, directory: int) -> None:
        left: list[Change] = []
        for group in self._groups():
            reach = max(
                (i for i, c in enumerate(group) if directory in (c.place[0], c.target[0])),
                default=-1,
            )
            for change in group[: reach + 1]:
                _apply(self._names, change)
            left += group[reach + 1 :]
        self._open = [change for change in self._open if any(change is kept for kept in left)]
        self._grouped = None

    def _groups(self) -> list[list[Change]]:
        if self._grouped is None:
            self._grouped = _groups(self._open)
        return self._grouped

    def draw(self, pick: Pick) -> State:
        """One legal state."""
        names = self._names
        if self._open:
            names = {number: dict(entries) for number, entries in names.items()}
            # Groups share no name, so they may be applied one after the other.
            for group in self._groups():
                for change in group[: pick(len(group) + 1)]:
                    _apply(names, change)
        directories: dict[int, dict[str, int]] = {}
        files: dict[int, bytes] = {}
        left = [ROOT]
        while left:
            number = left.pop()
            if number in names:
                directories[number] = dict(names[number])
                left += sorted(names[number].values(), reverse=True)
            elif number not in files:
                files[number] = self._files[number].draw(pick)
        return State(directories, files)


def _apply(names: dict[int, dict[str, int]], change: Change) -> None:
    folder, name = change.place
    if change.name in ("create", "mkdir", "link"):
        names[folder][name] = change.inode
        return
    del names[folder][name]
    if change.name == "rename":
        to, new = change.target
        names[to][new] = change.inode


def _groups(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes that share names, however indirectly, oldest first in each group."""
    owner: dict[_Key, list[Change]] = {}
    for change in changes:
        keys = [change.place] if change.name != "rename" else [change.place, change.target]
        merged: list[Change] = []
        for group in {id(owner[key]): owner[key] for key in keys if key in owner}.values():
            merged += group
        merged.append(change)
        for member in merged:
            owner[member.place] = merged
            if member.name == "rename":
                owner[member.target] = merged
    order = {id(change): place for place, change in enumerate(changes)}
    groups = {id(group): group for group in owner.values()}.values()
    return [sorted(group, key=lambda change: order[id(change)]) for group in groups]
