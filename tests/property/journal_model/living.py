"""Rules of the model that end a store: closing, death, going back to a snapshot, lost files."""

from __future__ import annotations

import shutil
from itertools import pairwise

import hypothesis.strategies as st
from hypothesis.stateful import precondition, rule

from batpak import Store
from batpak.kinds import SYSTEM_CLOSE_COMPLETED, SYSTEM_OPEN_COMPLETED, SYSTEM_RESTORED
from tests.property.journal_model.base import Base
from tests.property.journal_model.book import Commit, Kept
from tests.property.journal_model.drawn import DRAWN, Drawn
from tests.property.journal_model.writing import Writing
from tests.support.faulty_files import DISK, Fault, Killed, die

LOST = st.sets(st.sampled_from(("segments/*.idx", "index/*", "tail.hint", "tlog/**/*")))
"""Files that can be made again, or that are witnesses only; most openings miss none."""


class Living(Base):
    """What a journal has to survive."""

    def end_what_is_open(self) -> None:
        """The store closed: fences are cancelled, whatever was staged is gone."""
        if self.fence is not None:
            Writing.are_cancelled(self.fence)
        self.fence = self.outbox = None

    def lose(self, patterns: set[str]) -> None:
        for pattern in patterns:
            for file in self.path.glob(pattern):
                if file.is_file():
                    file.unlink()

    def close(self) -> None:
        """The queue runs empty, the fence is cancelled, and one more event says so."""
        self.foresee()
        self.store.close()
        self.settle()
        self.book.keep_own(SYSTEM_CLOSE_COMPLETED)
        self.end_what_is_open()

    def length_after_death(self) -> int:
        """How many events the next writer will find, found out without being one."""
        copy = self.new_place("copy")
        shutil.copytree(self.path, copy)
        with Store.open(copy, files=DISK, preallocate=0) as store:
            length = len(store) - 1
        shutil.rmtree(copy)
        return length

    def forget(self, written: list[Kept], length: int) -> None:
        """What a death may have cut off: all of a commit, or nothing."""
        first = written[0].sequence
        assert length in (first, len(self.book)), "a part of a commit is there"
        if length == first:
            for kept in written:
                self.book.clocks[kept.coordinate.entity] -= 1
            del self.book.events[first:]

    def come_back(self, lost: set[str]) -> None:
        self.lose(lost)
        self.open_store()
        self.sure = len(self.book)

    @rule(lost=st.just(set[str]()) | LOST)
    def reopen(self, lost: set[str]) -> None:
        self.close()
        self.come_back(lost)
        assert self.store.open_report.cut is None
        assert len(self.store) == len(self.book)

    @rule(
        drawn=st.lists(DRAWN, min_size=1, max_size=4),
        place=st.integers(0, 9),
        fault=st.sampled_from((Fault.KILL, Fault.KILL_AFTER, Fault.KILL_TORN)),
        lost=st.just(set[str]()) | LOST,
    )
    def die(self, drawn: list[Drawn], place: int, fault: Fault, lost: set[str]) -> None:
        """Killed in the middle of a commit or after it: it is there wholly or not at all."""
        self.settle()
        if self.fence is not None:
            # Its tickets are not told of anything: who waited for them is dead too.
            self.fence = None
        commit = Commit(self.resolve(drawn))
        written: list[Kept] = []
        self.files.arm(place, fault)
        try:
            receipts = self.store.append_many(self.items(commit))
        except Killed:
            written = self.book.commit(commit).written
            is_told = False
        else:
            outcome = self.book.commit(commit)
            self.told(outcome.written, receipts)
            is_told = True
        die(self.store, self.files)
        self.outbox = None
        if not is_told:
            # Nobody heard of it, so both is right; which of the two it is, the journal says.
            self.lose(lost)
            self.forget(written, self.length_after_death())
        self.come_back(lost)
        assert len(self.store) == len(self.book)

    @precondition(lambda self: self.snapshots)
    @rule(pick=st.integers(0, 3), lost=LOST)
    def go_back(self, pick: int, lost: set[str]) -> None:
        """The journal is lost, and goes on from a snapshot under its own id."""
        source, book = self.snapshots[pick % len(self.snapshots)]
        journal_id = self.store.journal_id
        self.close()
        for follower in self.followers:
            follower.reader.close()
        self.followers = []
        shutil.rmtree(self.path)
        self.path = self.new_place("restored")
        report = Store.restore(source, self.path, resume=True, files=DISK)
        assert (report.events, report.journal_id) == (len(book), journal_id)
        # What comes after it is another history: no later snapshot is of this one.
        self.snapshots = [(source, book)]
        self.book = book.copy()
        for kind in (SYSTEM_OPEN_COMPLETED, SYSTEM_RESTORED, SYSTEM_CLOSE_COMPLETED):
            self.book.keep_own(kind)
        self.come_back(lost)
        sizes = self.store.checkpoint_sizes()
        assert list(sizes) == sorted(self.book.checkpoints)
        assert all(a < b for a, b in pairwise(sizes))
