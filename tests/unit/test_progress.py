"""How far long works say they are, and what becomes of them when whoever is told misbehaves."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, Durability, EventKind, Item, Region, Store
from batpak.engine.repair import diagnose, repair_into
from batpak.errors import InvalidInput, JournalCorrupt, NoSpace, NotCheckpointed, ProofInvalid
from batpak.files import REAL
from batpak.journal.layout import Layout
from tests.support.proofs import all_tiles, open_signed, published

KIND = EventKind(0xF, 1)
WHERE = Coordinate("player:1", "room")
SECRET = b"what nobody may read any more"
SMALL: dict[str, Any] = {
    "segment_max_bytes": 4096,
    "preallocate": 0,
    "durability": Durability.OS,
}
Progress = Callable[[int, int], None]


class Steps(list[tuple[int, int]]):
    """Notes what it is told, and who tells it; then does what else it was made for."""

    def __init__(self, further: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self._further = further

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))
        self.threads.add(threading.get_ident())
        if self._further is not None:
            self._further(len(self) - 1)

    def check(self) -> None:
        """It was told here, ever more of one total, which was reached once: at the end."""
        done = [each for each, _ in self]
        assert done == sorted(set(done))
        assert {total for _, total in self} == {done[-1]}
        assert self.threads == {threading.get_ident()}


# --- works ------------------------------------------------------------------------------------


@dataclass
class Work:
    """Something that takes long, on a journal that is open."""

    run: Callable[[Progress | None], Any]
    store: Store | None
    """Open for writing, where the work allows one."""
    check: Callable[[Any], object]
    """Judges what `run` returned, and what is there once it has ended well."""


def fill(store: Store, number: int) -> None:
    store.append_many([Item(WHERE, {"n": n}, kind=KIND) for n in range(number)])


@contextmanager
def compacting(path: Path) -> Generator[Work]:
    def check(report: Any) -> None:
        assert report.outcome in ("performed", "skipped")
        store.sync()
        log = b"".join(file.read_bytes() for file in path.glob("segments/*.seg"))
        assert SECRET not in log
        assert b"what all may read" in log
        rewritten = {
            base
            for event in store
            if event.kind.raw == 0x0014
            for base, _ in event.value["segments"]  # type: ignore[index]  # as docs/format.md says
        }
        assert rewritten == bases, "each segment is said to be rewritten"

    with Store.open(path, **SMALL) as store:
        for n in range(60):
            secret = {"n": n, "pad": bytes(150), "text": SECRET}
            store.append(WHERE, secret, kind=KIND)
            store.append(Coordinate("game:1", "room"), {"text": b"what all may read"}, kind=KIND)
        store.erase(Region(entity="player:1"), reason="request 1")
        bases = {each.base for each in store.plan_compaction().segments}
        assert len(bases) > 5
        yield Work(lambda progress: store.compact(progress=progress), store, check)


@contextmanager
def checkpointing(path: Path) -> Generator[Work]:
    with open_signed(path) as store:
        fill(store, 1500)
        size = len(store)

        def check(made: Any) -> None:
            assert made.size >= size
            assert store.stored_checkpoint().note == made.note == published(path).note

        yield Work(lambda progress: store.checkpoint(progress=progress), store, check)


@contextmanager
def in_segments(path: Path) -> Generator[Store]:
    with Store.open(path, **SMALL) as store:
        for n in range(40):
            store.append(WHERE, {"n": n, "pad": bytes(500)}, kind=KIND)
        yield store


@contextmanager
def verifying(path: Path) -> Generator[Work]:
    def check(report: Any) -> None:
        assert report.ok
        assert report.events >= count

    with in_segments(path) as store:
        count = len(store)
        yield Work(lambda progress: store.verify(progress=progress), store, check)


def copying(
    path: Path, copy: Callable[[Store, Path, Progress | None], Any]
) -> AbstractContextManager[Work]:
    """A copy that goes to another place each time: one that was made stays, whole."""
    places = (path.parent / f"copy-{number}" for number in itertools.count())

    @contextmanager
    def work() -> Generator[Work]:
        with in_segments(path) as store:
            hashes = [event.event_hash for event in store]
            store.snapshot(path.parent / "snapshot")

            def check(made: Any) -> None:
                with Store.open(made.destination, mode="r") as reader:
                    assert reader.verify("full").ok
                    assert [e.event_hash for e in reader][: len(hashes)] == hashes

            yield Work(lambda progress: copy(store, next(places), progress), store, check)
            for made in path.parent.glob("copy-*"):
                with Store.open(made, mode="r") as reader:
                    assert reader.verify("full").ok

    return work()


def snapshot(store: Store, to: Path, progress: Progress | None) -> Any:
    return store.snapshot(to, progress=progress)


def fork(store: Store, to: Path, progress: Progress | None) -> Any:
    return store.fork(to, progress=progress)


def restore(_: Store, to: Path, progress: Progress | None) -> Any:
    return Store.restore(to.parent / "snapshot", to, progress=progress)


def proving(
    path: Path, prove: Callable[[Any, Progress | None], Any], *, mode: str
) -> AbstractContextManager[Work]:
    """Proofs where the tiles are gone, by the writer or by a reader beside it."""

    @contextmanager
    def work() -> Generator[Work]:
        with open_signed(path) as store:
            fill(store, 1500)
            store.checkpoint()
            expected = prove(store, None)
        shutil.rmtree(path / "tlog")

        def check(made: Any) -> None:
            assert made == expected

        with open_signed(path) as store:
            if mode == "rw":
                yield Work(lambda progress: prove(store, progress), store, check)
                return
            with Store.open(path, mode="r") as reader:
                yield Work(lambda progress: prove(reader, progress), store, check)

    return work()


def prove(store: Any, progress: Progress | None) -> Any:
    shown = store.prove(store.at(7).event_id, progress=progress)
    return shown.inclusion, shown.checkpoint


def prove_range(store: Any, progress: Progress | None) -> Any:
    shown = store.prove_range(300, 310, since=store.checkpoint_sizes()[0], progress=progress)
    return shown.inclusion, shown.consistency


def prove_consistency(store: Any, progress: Progress | None) -> Any:
    return store.prove_consistency(1400, progress=progress)


def damaged(path: Path) -> None:
    """A journal of segments with a record changed in the middle, which no sidecar covers."""
    with Store.open(path, **SMALL) as store:
        for n in range(60):
            store.append(WHERE, {"n": n, "pad": bytes(150)}, kind=KIND)
    for index in path.glob("segments/*.idx"):
        index.unlink()
    files = sorted(path.glob("segments/*.seg"))
    middle = files[len(files) // 2]
    data = bytearray(middle.read_bytes())
    data[600] ^= 1
    middle.write_bytes(data)


@contextmanager
def diagnosing(path: Path) -> Generator[Work]:
    damaged(path)

    def check(found: Any) -> None:
        assert found.state == "damaged"

    yield Work(lambda progress: diagnose(REAL, Layout(path), progress=progress), None, check)


@contextmanager
def repairing(path: Path) -> Generator[Work]:
    damaged(path)
    made = path.parent / "repaired"
    before = tree(path)

    def run(progress: Progress | None) -> Any:
        shutil.rmtree(made, ignore_errors=True)
        try:
            return repair_into(REAL, Layout(path), str(made), progress=progress)
        finally:
            assert tree(path) == before, "the source is only read"

    def check(done: Any) -> None:
        assert done.destination == str(made)
        assert done.quarantined
        assert all(Path(file).is_file() for file in done.quarantined)
        assert not list(path.parent.glob("*.tmp"))
        with Store.open(made, **SMALL) as store:
            assert len(store) > done.kept > 10
            assert store.verify("full").ok

    yield Work(run, None, check)


WORKS: dict[str, Callable[[Path], AbstractContextManager[Work]]] = {
    "compact": compacting,
    "checkpoint": checkpointing,
    "prove": lambda path: proving(path, prove, mode="rw"),
    "prove, reading": lambda path: proving(path, prove, mode="r"),
    "prove_range": lambda path: proving(path, prove_range, mode="rw"),
    "prove_range, reading": lambda path: proving(path, prove_range, mode="r"),
    "prove_consistency": lambda path: proving(path, prove_consistency, mode="rw"),
    "prove_consistency, reading": lambda path: proving(path, prove_consistency, mode="r"),
    "diagnose": diagnosing,
    "repair": repairing,
    "verify": verifying,
    "snapshot": lambda path: copying(path, snapshot),
    "fork": lambda path: copying(path, fork),
    "restore": lambda path: copying(path, restore),
}


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def is_whole(path: Path) -> None:
    """Nothing of what was under way is left, and the journal opens and verifies."""
    assert not list(path.rglob("*.tmp"))
    with Store.open(path, **SMALL) as store:
        assert store.verify("full").ok


# --- what is told -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKS)
def test_progress_ascends_to_the_total_and_reaches_it_once(name: str, tmp_path: Path) -> None:
    steps = Steps()
    with WORKS[name](tmp_path / "j") as work:
        work.check(work.run(steps))
    steps.check()
    assert len(steps) > 5


def test_a_long_work_tells_a_thousand_steps_and_no_more(tmp_path: Path) -> None:
    steps = Steps()
    with Store.open(tmp_path / "j", preallocate=0, durability=Durability.OS) as store:
        for n in range(2000):
            store.append(WHERE, n, kind=KIND)
        store.erase(1, reason="request 1")
        size = (tmp_path / "j" / "segments" / f"{0:020}.seg").stat().st_size
        assert store.compact(progress=steps).outcome == "performed"
    steps.check()
    assert 500 < len(steps) <= 1001
    assert steps[-1] == (2 * size, 2 * size), "copied, and read back"


def test_what_has_nothing_to_do_tells_the_end_only(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        fill(store, 600)
        skipped = Steps()
        assert store.compact(progress=skipped).outcome == "skipped"
        assert skipped == [(0, 0)]
        size = store.checkpoint().size
        for work in (
            lambda steps: store.checkpoint(progress=steps),
            lambda steps: store.prove(store.at(5).event_id, progress=steps),
            lambda steps: store.prove_range(5, 9, progress=steps),
            lambda steps: store.prove_consistency(5, progress=steps),
        ):
            steps = Steps()
            work(steps)
            assert steps == [(size, size)]


def test_a_tree_that_grows_begins_where_it_was(tmp_path: Path) -> None:
    with open_signed(tmp_path / "j") as store:
        fill(store, 900)
        old = store.checkpoint().size
        fill(store, 900)
        steps = Steps()
        new = store.checkpoint(progress=steps).size
        steps.check()
        assert old < steps[0][0] < steps[-1][0] == new
        # Tiles that turn out bad are made anew, and what was told is not taken back.
        for tile in all_tiles(tmp_path / "j"):
            tile.write_bytes(tile.read_bytes()[:-1])
        fill(store, 900)
        steps = Steps()
        newer = store.checkpoint(progress=steps).size
        steps.check()
        assert steps[-1][0] == newer
        assert published(tmp_path / "j").size == newer


def test_a_diagnosis_that_looks_twice_has_twice_as_much_to_do(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Store.open(path, **SMALL) as store:
        for n in range(60):
            store.append(WHERE, {"n": n, "pad": bytes(150)}, kind=KIND)
    second = sorted(path.glob("segments/*.seg"))[1]
    data = bytearray(second.read_bytes())
    data[600] ^= 1
    second.write_bytes(data)
    size = sum(file.stat().st_size for file in path.glob("segments/*.seg"))
    steps = Steps()
    assert diagnose(REAL, Layout(path), progress=steps).state == "usable"
    done = [each for each, _ in steps]
    assert done == sorted(set(done))
    assert {total for each, total in steps if each < size // 2} == {size}
    assert {total for each, total in steps if each > size} == {2 * size}
    assert any(size < each < 2 * size for each in done)
    assert steps[-1] == (2 * size, 2 * size)
    refused = Steps()
    with pytest.raises(InvalidInput, match="no loss to accept"):
        repair_into(REAL, Layout(path), str(tmp_path / "copy"), progress=refused)
    assert all(done < total for done, total in refused), "what was refused never ends"
    assert not (tmp_path / "copy").exists()


def test_a_diagnosis_is_told_record_by_record_and_a_repair_file_by_file(tmp_path: Path) -> None:
    path = tmp_path / "j"
    damaged(path)
    with Store.open(tmp_path / "whole", **SMALL) as store:
        for n in range(60):
            store.append(WHERE, {"n": n, "pad": bytes(150)}, kind=KIND)
        events = len(store)
    steps = Steps()
    assert diagnose(REAL, Layout(tmp_path / "whole"), progress=steps).state == "healthy"
    steps.check()
    log = sum(file.stat().st_size for file in (tmp_path / "whole" / "segments").glob("*.seg"))
    # Each event is a record of its own, and the close event is the last one.
    assert len(steps) > events
    assert steps[-1][0] == log
    sizes = [len(data) for name, data in tree(path).items() if name != "journal.lock" and data]
    log = sum(file.stat().st_size for file in path.glob("segments/*.seg"))
    steps = Steps()
    repair_into(REAL, Layout(path), str(tmp_path / "repaired"), progress=steps)
    steps.check()
    assert steps[-1][0] == log + sum(sizes)
    assert len([done for done, _ in steps if done > log]) == len(sizes)


def test_a_proof_out_of_the_log_alone_is_that_out_of_tiles(tmp_path: Path) -> None:
    # So many that hashes of large subtrees are kept, and there is more beside them.
    with open_signed(tmp_path / "j") as store:
        fill(store, 9000)
        store.checkpoint()
        expected = [store.prove_consistency(old) for old in (1, 4096, 5000, 8192, 9001)]
    shutil.rmtree(tmp_path / "j" / "tlog")
    with Store.open(tmp_path / "j", mode="r") as reader:
        for each in expected:
            steps = Steps()
            assert reader.prove_consistency(each.old_size, progress=steps) == each
            steps.check()


# --- what is no function ----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [5, "yes", (1, 2)], ids=repr)
@pytest.mark.parametrize("name", WORKS)
def test_what_is_no_function_is_refused_before_anything_is_done(
    name: str, wrong: Any, tmp_path: Path
) -> None:
    with WORKS[name](tmp_path / "j") as work:
        before = tree(tmp_path)
        with pytest.raises(InvalidInput) as refused:
            work.run(wrong)
        assert tree(tmp_path) == before
    assert (refused.value.field, refused.value.value) == ("progress", wrong)


# --- a function that raises -------------------------------------------------------------------

ERRORS: dict[str, Callable[[], BaseException]] = {
    # What the works themselves make something of, where it is theirs.
    "of the system": lambda: BrokenPipeError("the terminal is gone"),
    "of a full disk": lambda: NoSpace("another journal's"),
    "of a damaged journal": lambda: JournalCorrupt("another journal's"),
    "of a proof": lambda: ProofInvalid("another proof", reason="note"),
    "of its own": lambda: ZeroDivisionError("its own"),
    "Ctrl-C": KeyboardInterrupt,
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", WORKS)
def test_what_the_function_raises_comes_out_and_loses_nothing(
    name: str, error: str, tmp_path: Path
) -> None:
    path = tmp_path / "j"
    with WORKS[name](path) as work:
        before = [] if work.store is None else [event.event_hash for event in work.store]
        for is_due in (
            lambda steps: len(steps) == 1,
            lambda steps: len(steps) == 3,
            # The work is done then, and holds nothing.
            lambda steps: steps[-1][0] == steps[-1][1],
        ):
            raised = ERRORS[error]()
            steps = Steps()

            def stop(done: int, total: int) -> None:
                steps(done, total)  # noqa: B023  # it is called in this turn only
                if is_due(steps):  # noqa: B023  # as above
                    raise raised  # noqa: B023  # as above

            with pytest.raises(type(raised)) as caught:
                work.run(stop)
            assert caught.value is raised
            assert raised.__context__ is None
            if work.store is not None:
                assert [e.event_hash for e in work.store][: len(before)] == before
                assert work.store.verify("full").ok
            assert not list(tmp_path.rglob("*.tmp")), "nothing unfinished stays"
        work.check(work.run(Steps()))
    if work.store is not None:
        is_whole(path)


def test_a_compaction_that_was_stopped_keeps_each_segment_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with compacting(path) as work:
        assert work.store is not None
        before = {file.name: file.read_bytes() for file in path.glob("segments/*.seg")}
        planned = [each.base for each in work.store.plan_compaction().segments]

        def stop(place: int) -> None:
            done, total = steps[place]
            if 2 * done > total:
                raise ZeroDivisionError

        steps = Steps(stop)
        with pytest.raises(ZeroDivisionError):
            work.run(steps)
        left = [each.base for each in work.store.plan_compaction().segments]
        assert 0 < len(left) < len(planned)
        assert left == planned[-len(left) :]
        # Those that were rewritten are said to be, at once.
        told = work.store.at(len(work.store) - 1).value
        assert [base for base, _ in told["segments"]] == planned[: -len(left)]  # type: ignore[index]  # as docs/format.md says
        for base in left:
            name = f"{base:020}.seg"
            assert (path / "segments" / name).read_bytes()[: len(before[name])] == before[name]
        steps = Steps()
        work.check(work.run(steps))
        steps.check()


def test_a_checkpoint_that_was_stopped_is_none(tmp_path: Path) -> None:
    with checkpointing(tmp_path / "j") as work:
        assert work.store is not None
        events = len(work.store)

        def stop(place: int) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work.run(Steps(stop))
        assert len(work.store) == events
        with pytest.raises(NotCheckpointed):
            work.store.stored_checkpoint()
        work.check(work.run(None))


def test_a_repair_that_was_stopped_leaves_nothing_of_that_name(tmp_path: Path) -> None:
    damaged(tmp_path / "j")
    made = tmp_path / "repaired"
    count = Steps()
    repair_into(REAL, Layout(tmp_path / "j"), str(made), progress=count)
    shutil.rmtree(made)
    for at in range(len(count) - 1):

        def stop(place: int, *, at: int = at) -> None:
            if place == at:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            repair_into(REAL, Layout(tmp_path / "j"), str(made), progress=Steps(stop))
        assert [each.name for each in tmp_path.iterdir()] == ["j"]


# --- a function that uses the store -----------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in WORKS if name not in ("diagnose", "repair")])
def test_the_function_may_append(name: str, tmp_path: Path) -> None:
    path = tmp_path / "j"
    with WORKS[name](path) as work, ThreadPoolExecutor(1) as other:
        store = work.store
        assert store is not None
        receipts: list[Any] = []

        def write(place: int) -> None:
            if place < 30:
                said = {"place": place, "pad": bytes(700)}
                where = Coordinate("meanwhile", "room")
                receipts.append(store.append(where, said, kind=KIND, durable=True))
                # Others are not held up, either.
                receipts.append(other.submit(store.append, where, said, kind=KIND).result())

        steps = Steps(write)
        work.check(work.run(steps))
        steps.check()
        assert len(receipts) == 2 * min(len(steps), 30)
    with Store.open(path, **SMALL) as store:
        assert [store.at(each.sequence).event_id for each in receipts] == [
            each.event_id for each in receipts
        ]
        assert store.verify("full").ok


def test_a_compaction_is_not_begun_or_cut_short_by_whom_it_tells(tmp_path: Path) -> None:
    refused: list[InvalidInput] = []
    with compacting(tmp_path / "j") as work:
        store = work.store
        assert store is not None

        def meddle(place: int) -> None:
            if place == 2:
                for call in (store.compact, store.close):
                    with pytest.raises(InvalidInput) as caught:
                        call()
                    refused.append(caught.value)

        work.check(work.run(Steps(meddle)))
        assert [each.field for each in refused] == ["progress", "progress"]
        # Afterwards, and by whom the end is told, it may be.
        done = Steps(lambda _: store.compact())
        work.run(done)
        assert done == [(0, 0)]
        assert store.verify("full").ok


def test_a_checkpoint_is_not_made_by_whom_another_one_tells(tmp_path: Path) -> None:
    refused: list[InvalidInput] = []
    with open_signed(tmp_path / "j") as store:
        fill(store, 600)
        first = store.checkpoint()
    shutil.rmtree(tmp_path / "j" / "tlog")
    with open_signed(tmp_path / "j") as store:
        fill(store, 1500)
        event = store.at(5).event_id

        def meddle(place: int) -> None:
            if place == 2:
                for call in (
                    store.checkpoint,
                    lambda: store.add_cosignatures(first.note, ()),
                    # The tiles that it needs are those that are being made.
                    lambda: store.prove(event),
                ):
                    with pytest.raises(InvalidInput) as caught:
                        call()
                    refused.append(caught.value)

        steps = Steps(meddle)
        made = store.checkpoint(progress=steps)
        steps.check()
        assert [each.field for each in refused] == ["progress"] * 3
        assert published(tmp_path / "j").size == made.size
        assert store.prove(event).checkpoint == made.note
