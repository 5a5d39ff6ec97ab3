"""The disk model makes every legal state and no other: small cases by hand, large by rule."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crash.power_cuts.campaign import enumerated, newest, oldest
from tests.crash.power_cuts.disk_model import Survivors
from tests.crash.power_cuts.memory_files import Change, Disk, MemoryFiles, State

UNIT = 4
"""Bytes of a page, so that states can be written down."""
CREATE = os.O_CREAT | os.O_RDWR


def world(content: dict[str, bytes]) -> MemoryFiles:
    """Files in "/", all of it synced."""
    disk = Disk()
    files = MemoryFiles(disk)
    for path, data in content.items():
        files.pwrite(files.open(path, CREATE), data, 0)
    return MemoryFiles(Disk(disk.state()))


def after(files: MemoryFiles, changes: list[Change] | None = None) -> Survivors:
    survivors = Survivors(files.disk.start, UNIT)
    for change in files.disk.log if changes is None else changes:
        survivors.advance(change)
    return survivors


def trees(files: MemoryFiles) -> list[dict[str, bytes]]:
    """Every different state that may be left, as paths and bytes."""
    found = enumerated(after(files), 10_000)
    assert found is not None
    different: list[dict[str, bytes]] = []
    for state in found:
        if state.tree() not in different:
            different.append(state.tree())
    return different


def contents(files: MemoryFiles, path: str = "/f") -> set[bytes | None]:
    return {tree.get(path) for tree in trees(files)}


def test_pages_that_are_not_synced_survive_one_by_one() -> None:
    files = world({"/f": b"aaaabbbbcc"})
    fd = files.open("/f", os.O_RDWR)
    files.pwrite(fd, b"AAAABB", 0)
    assert contents(files) == {b"aaaabbbbcc", b"AAAAbbbbcc", b"aaaaBBbbcc", b"AAAABBbbcc"}
    files.sync_data(fd)
    assert contents(files) == {b"AAAABBbbcc"}


def test_a_page_holds_any_version_since_the_last_sync() -> None:
    files = world({"/f": b"0"})
    fd = files.open("/f", os.O_RDWR)
    for version in (b"1", b"2", b"3"):
        files.pwrite(fd, version, 0)
    assert contents(files) == {b"0", b"1", b"2", b"3"}


def test_a_file_that_grew_has_any_of_its_lengths_and_zeros_for_missing_pages() -> None:
    files = world({"/f": b"aa"})
    fd = files.open("/f", os.O_RDWR)
    files.pwrite(fd, b"bbbbbb", 2)
    assert contents(files) == {
        b"aa", b"aabbbbbb", b"aa\0\0bbbb", b"aabb\0\0\0\0", b"aa\0\0\0\0\0\0",
    }  # fmt: skip


def test_reserved_space_is_a_length_of_zeros() -> None:
    files = world({"/f": b"aa"})
    fd = files.open("/f", os.O_RDWR)
    files.allocate(fd, 2, 6)
    assert contents(files) == {b"aa", b"aa" + bytes(6)}
    files.pwrite(fd, b"bb", 2)
    assert contents(files) == {b"aa", b"aa" + bytes(6), b"aabb" + bytes(4)}


def test_what_a_shrinking_cut_off_does_not_come_back_behind_it() -> None:
    files = world({"/f": b"aaaabbbbcccc"})
    fd = files.open("/f", os.O_RDWR)
    files.truncate(fd, 6)
    files.pwrite(fd, b"dddd", 8)
    # Zeros behind the new end may be there before the length is; `dddd` may not.
    old = {b"aaaabbbbcccc", b"aaaabb\0\0cccc"}
    # The new length is on the disk: nothing of `bb` and `cccc` behind it is seen again.
    new = {b"aaaabb", b"aaaabb\0\0dddd", b"aaaabb\0\0\0\0\0\0"}
    assert contents(files) == old | new
    files.sync_file(fd)
    assert contents(files) == {b"aaaabb\0\0dddd"}


def test_names_survive_in_their_order_and_syncing_the_file_settles_none() -> None:
    files = world({"/f": b"old"})
    fd = files.open("/f.tmp", CREATE)
    files.pwrite(fd, b"new", 0)
    files.sync_file(fd)
    files.rename("/f.tmp", "/f")
    assert sorted(map(sorted, trees(files))) == [["/f"], ["/f"], ["/f", "/f.tmp"]]
    assert contents(files) == {b"old", b"new"}
    files.sync_directory("/")
    assert trees(files) == [{"/f": b"new"}]


def test_a_rename_may_get_to_the_disk_before_the_content() -> None:
    files = world({"/f": b"old"})
    fd = files.open("/f.tmp", CREATE)
    files.pwrite(fd, b"new", 0)
    files.rename("/f.tmp", "/f")
    assert contents(files) == {b"old", b"new", b"", b"\0\0\0"}


def test_unrelated_names_survive_in_any_order() -> None:
    files = world({})
    files.mkdir("/d")
    files.close(files.open("/x", CREATE))
    files.close(files.open("/d/y", CREATE))
    found = {tuple(sorted(path for path, _ in state.walk())) for state in every(files)}
    assert found == {
        ("",), ("", "/d"), ("", "/x"), ("", "/d", "/x"),
        ("", "/d", "/d/y"), ("", "/d", "/d/y", "/x"),
    }  # fmt: skip
    files.sync_directory("/d")
    found = {tuple(sorted(path for path, _ in state.walk())) for state in every(files)}
    assert ("", "/d") not in found, "what was synced in a directory is there if it is"
    assert ("", "/x") in found, "but its own name is not settled by that"


def test_an_unlinked_file_may_be_back() -> None:
    files = world({"/f": b"x", "/g": b"y"})
    files.unlink("/f")
    assert contents(files) == {b"x", None}
    files.sync_directory("/")
    assert trees(files) == [{"/g": b"y"}]


def test_a_name_moved_between_directories_is_settled_by_either() -> None:
    for settling in ("/d", "/"):
        files = world({"/f": b"x"})
        files.mkdir("/d")
        files.sync_directory("/")
        files.rename("/f", "/d/f")
        assert {tuple(sorted(tree)) for tree in trees(files)} == {("/f",), ("/d/f",)}
        files.sync_directory(settling)
        assert trees(files) == [{"/d/f": b"x"}]


def test_pages_of_a_failed_sync_stay_away_until_they_are_written_again() -> None:
    files = world({"/f": b"aaaabbbb"})
    fd = files.open("/f", os.O_RDWR)
    files.pwrite(fd, b"AAAA", 0)
    files.fail_sync = "/f"
    with pytest.raises(OSError, match="Input/output"):
        files.sync_file(fd)
    files.pwrite(fd, b"BBBB", 4)
    files.sync_file(fd)
    assert contents(files) == {b"aaaaBBBB", b"AAAABBBB"}
    files.pwrite(fd, b"AAAA", 0)
    files.sync_file(fd)
    assert contents(files) == {b"AAAABBBB"}


def every(files: MemoryFiles) -> list[State]:
    found = enumerated(after(files), 10_000)
    assert found is not None
    return found


# --- by rule -------------------------------------------------------------------------

Step = Callable[[MemoryFiles], None]
PATHS = ("/a", "/b", "/d/a")


def _writes(path: str, data: bytes, offset: int) -> Step:
    return lambda files: _with(files, path, lambda fd: files.pwrite(fd, data, offset))


def _with(files: MemoryFiles, path: str, work: Callable[[int], object]) -> None:
    fd = files.open(path, CREATE)
    work(fd)
    files.close(fd)


def _renames(source: str, target: str) -> Step:
    def step(files: MemoryFiles) -> None:
        try:
            files.rename(source, target)
        except FileNotFoundError:
            pass

    return step


def _unlinks(path: str) -> Step:
    def step(files: MemoryFiles) -> None:
        try:
            files.unlink(path)
        except FileNotFoundError:
            pass

    return step


names = st.sampled_from(PATHS)
steps = st.lists(
    st.one_of(
        st.builds(_writes, names, st.binary(min_size=1, max_size=9), st.integers(0, 14)),
        st.builds(
            lambda path, length: lambda f: _with(f, path, lambda fd: f.truncate(fd, length)),
            names, st.integers(0, 20),
        ),
        st.builds(lambda path: lambda f: _with(f, path, f.sync_file), names),
        st.sampled_from(("/", "/d")).map(lambda path: lambda f: f.sync_directory(path)),
        st.builds(_renames, names, names),
        st.builds(_unlinks, names),
    ),
    max_size=14,
)  # fmt: skip


def lived(life: list[Step]) -> MemoryFiles:
    files = world({"/a": b"start"})
    files.mkdir("/d")
    files.sync_directory("/")
    for step in life:
        step(files)
    return files


@given(steps)
def test_the_newest_state_is_what_the_process_saw(life: list[Step]) -> None:
    files = lived(life)
    assert after(files).draw(newest).digest() == files.disk.state().digest()


@given(steps)
def test_syncing_everything_leaves_one_state(life: list[Step]) -> None:
    files = lived(life)
    for path in PATHS:
        if files.disk.state().find(path) is not None:
            _with(files, path, files.sync_file)
    files.sync_directory("/d")
    files.sync_directory("/")
    survivors = after(files)
    assert survivors.draw(oldest).digest() == files.disk.state().digest()
    left = enumerated(survivors, 1)
    assert left is not None
    assert len(left) == 1, "something is open although all is synced"


@given(steps, st.integers(0, 1 << 32))
def test_no_page_and_no_length_is_invented(life: list[Step], seed: int) -> None:
    """Each page was once in that file at that place, whole or cut by an end of it."""
    files = lived(life)
    seen: dict[int, list[bytes]] = {n: [data] for n, data in files.disk.start.files.items()}
    replay: dict[int, bytearray] = {n: bytearray(d) for n, d in files.disk.start.files.items()}
    for change in files.disk.log:
        if change.name == "create":
            replay[change.inode], seen[change.inode] = bytearray(), [b""]
        elif change.name in ("write", "resize"):
            held = replay[change.inode]
            held.extend(bytes(max(0, change.at + len(change.data) - len(held))))
            if change.name == "write":
                held[change.at : change.at + len(change.data)] = change.data
            else:
                del held[change.at :]
            seen[change.inode].append(bytes(held))
        elif change.name == "sync":
            seen[change.inode] = [bytes(replay[change.inode])]
    state = after(files).draw(random.Random(seed).randrange)
    for number, data in state.files.items():
        past = seen[number]
        lengths = {len(version) for version in past}
        assert len(data) in lengths
        for at in range(0, len(data), UNIT):
            page = data[at : at + UNIT]
            cuts = {len(page), *(length - at for length in lengths if at < length < at + UNIT)}
            possible = {
                version[at : at + UNIT][:cut].ljust(len(page), b"\0")[: len(page)]
                for version in past
                for cut in cuts
            }
            assert page in possible | {bytes(len(page))}
