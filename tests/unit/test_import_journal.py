"""Events of one journal in another: each once, as it was, with its origin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batpak import (
    CausationId,
    Coordinate,
    CorrelationId,
    EventId,
    EventKind,
    Item,
    PayloadState,
    Prior,
    Region,
    Store,
    canonical,
)
from batpak.engine.system import LIFECYCLE
from batpak.errors import (
    Damaged,
    IdempotencyConflict,
    ImportSourceError,
    InvalidInput,
    PayloadErased,
    PayloadTooLarge,
    StoreClosed,
)
from batpak.event import CODEC_PLAIN, Event
from batpak.gates import Denial
from batpak.journal.commits import Prepared
from batpak.keyring import FileKeyring
from batpak.kinds import SYSTEM_DENIAL
from batpak.receipt import encode_extensions
from tests.support.faulty_files import DISK
from tests.unit.test_golden import REWRITTEN, journal_of

KIND = EventKind(0xF, 1)
OPTIONS: dict[str, Any] = {"files": DISK, "preallocate": 4096}
ALICE, BOB = Coordinate("player:alice", "room"), Coordinate("player:bob", "hall")


def open_at(path: Path, **options: Any) -> Store:
    return Store.open(path, **OPTIONS | options)


def ours(store: Store) -> list[Event]:
    return [event for event in store if not event.coordinate.entity.startswith("batpak:")]


def said(event: Event) -> tuple[Any, ...]:
    """Everything of an event that an import keeps."""
    return (
        event.event_id.bytes, event.correlation_id.bytes, event.row.causation_id,
        event.coordinate, event.kind, event.payload_version, event.lane, event.depth,
        event.flags & 0xFF, event.raw,
    )  # fmt: skip


def fill(store: Store) -> None:
    """Every kind of thing that an event can carry."""
    first = store.append(ALICE, {"n": 1}, kind=KIND)
    store.append(
        BOB, {"n": 2}, kind=KIND, causation=CausationId.from_bytes(first.event_id.bytes),
        correlation=CorrelationId.from_bytes(bytes(range(16))), lane=3, depth=4, flags=5,
        extensions={"acme.trace": b"\x01"},
    )  # fmt: skip
    store.append(ALICE, {"n": 3}, kind=EventKind(1, 7), key=UUID(int=77))
    store.append_many(
        [Item(ALICE, {"n": 4}, kind=KIND), Item(BOB, b"", kind=KIND, causation=Prior(0))]
    )
    store.append_raw(BOB, KIND, b"\xff\xff not MessagePack")
    store.deny(ALICE, KIND, Denial("gate", "no"))


def test_an_imported_event_is_what_it_was_and_says_whence(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        fill(source)
        report = target.import_events(source, namespace="north")
        assert (report.read, report.imported, report.lifecycle) == (8, 7, 1)
        assert (report.denials, report.known, report.without_payload) == (1, 0, 0)
        assert [said(event) for event in ours(target)] == [said(e) for e in ours(source)]
        for event, old in zip(ours(target), ours(source), strict=True):
            found = dict(event.extensions)
            assert found.pop("origin.journal_id") == source.journal_id.bytes
            assert canonical.decode(found.pop("origin.sequence")) == old.sequence
            assert found.pop("origin.event_hash") == old.event_hash
            assert canonical.decode(found.pop("origin.timestamp_us")) == old.timestamp_us
            assert found.pop("origin.namespace") == b"north"
            found.pop("origin.source", None)
            found.pop("origin.position", None)
            assert found == dict(old.extensions)
            assert target.get(EventId.from_bytes(old.event_id.bytes)) == event
        assert [e.kind for e in ours(target)].count(SYSTEM_DENIAL) == 1
        assert target.verify().ok


def test_a_second_run_adds_only_what_is_new(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source:
        fill(source)
        with open_at(tmp_path / "b") as target:
            target.import_events(source)
        source.append(BOB, {"n": 9}, kind=KIND)
        with open_at(tmp_path / "b") as target:
            report = target.import_events(source)
            assert (report.read, report.imported, report.known) == (1, 1, 0)
            assert report.began_after == 7
            before = len(target)
            assert target.import_events(source).imported == 0
            # Another region has a position of its own, and finds what is here by its id.
            report = target.import_events(source, Region(entity="player:bob"))
            assert (report.imported, report.known) == (0, 4)
            assert len(target) == before
            assert [said(event) for event in ours(target)] == [said(e) for e in ours(source)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 7), st.sampled_from(["a:1", "a:2", "b"])),
        st.tuples(st.just("import"), st.sampled_from([None, "a", "b"]), st.integers(1, 4)),
        st.tuples(st.just("reopen"), st.none(), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_imports_in_any_order_equal_a_set_of_ids(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """The model: an import adds, in order, what its region selects and is not there."""
    place = tmp_path_factory.mktemp("model")
    source, target = open_at(place / "a"), open_at(place / "b")
    model: list[tuple[Any, ...]] = []
    number = 0
    for what, one, two in steps:
        if what == "write":
            for _ in range(one):
                number += 1
                source.append(Coordinate(two, "room"), {"n": number}, kind=KIND)
        elif what == "import":
            region = Region.all() if one is None else Region(entity=one)
            here = {entry[0] for entry in model}
            selected = [e for e in ours(source) if region.matches(e)]
            fresh = [said(e) for e in selected if e.event_id.bytes not in here]
            target.close()
            target = open_at(place / "b", batch_max_events=two)
            assert target.import_events(source, region).imported == len(fresh)
            model += fresh
        else:
            target.close()
            target = open_at(place / "b")
        assert [said(event) for event in ours(target)] == model
    assert target.verify().ok
    target.close()
    source.close()
    shutil.rmtree(place)


def test_journals_that_import_each_other_come_to_rest(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as a, open_at(tmp_path / "b") as b:
        fill(a)
        b.append(BOB, {"only": "b"}, kind=KIND)
        assert b.import_events(a).imported == 7
        report = a.import_events(b)
        assert (report.imported, report.known) == (1, 7)
        assert b.import_events(a).imported == 0
        assert a.import_events(b).imported == 0


def test_a_fork_brings_home_only_its_own_events(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as home:
        fill(home)
        home.fork(tmp_path / "fork")
        with open_at(tmp_path / "fork") as fork:
            fork.append(ALICE, {"n": "from the fork"}, kind=KIND)
            report = home.import_events(fork)
            assert (report.imported, report.known) == (1, 7)
            assert home.latest("player:alice") is not None
            assert ours(home)[-1].value == {"n": "from the fork"}


JOURNALS = ("a", "b", "c")
LOSSES = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(JOURNALS), st.sampled_from(["u:1", "u:2"])),
        st.tuples(
            st.just("import"), st.permutations(JOURNALS), st.sampled_from([None, "north", "south"])
        ),
        st.tuples(
            st.sampled_from(["erase", "shred", "compact"]),
            st.sampled_from(JOURNALS),
            st.sampled_from(["u:1", "u:2"]),
        ),
        st.tuples(st.just("restore"), st.sampled_from(JOURNALS), st.none()),
    ),
    min_size=4,
    max_size=14,
)


def payload_or_loss(event: Event) -> object:
    """What can be read of an event; None where it says that its payload is gone."""
    gone = event.payload_state is not PayloadState.PRESENT or "origin.payload" in event.extensions
    return None if gone else event.value


@settings(max_examples=40, deadline=None)
@given(steps=LOSSES)
def test_an_event_is_known_however_it_came_and_wherever_its_payload_was_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """Three journals that import each other's events, erase and shred them, and are restored."""
    place = tmp_path_factory.mktemp("losses")
    rings = {name: FileKeyring.create(place / f"{name}.keys", files=DISK) for name in JOURNALS}

    def opened(name: str, where: Path) -> Store:
        return open_at(where, codec="encrypted", keyring=rings[name])

    stores = {name: opened(name, place / name) for name in JOURNALS}
    written: dict[bytes, int] = {}
    for number, (what, which, more) in enumerate(steps):
        if what == "append":
            receipt = stores[which].append(Coordinate(more, "room"), number, kind=KIND)
            written[receipt.event_id.bytes] = number
        elif what == "import":
            stores[which[0]].import_events(stores[which[1]], namespace=more)
        elif what == "erase":
            stores[which].erase(Region(entity=more), reason="asked for")
        elif what == "shred":
            stores[which].shred(Region(entity=more))
        elif what == "compact":
            stores[which].compact()
        else:
            stores[which].snapshot(place / f"snapshot{number}")
            stores[which].close()
            Store.restore(place / f"snapshot{number}", place / f"again{number}")
            stores[which] = opened(which, place / f"again{number}")
    pairs = [(one, other) for one in JOURNALS for other in JOURNALS if one != other]
    for one, other in pairs * 2:
        stores[one].import_events(stores[other])
    for one, other in pairs:
        report = stores[one].import_events(stores[other], namespace="all over again")
        assert report.imported == 0
    for store in stores.values():
        assert {event.event_id.bytes for event in ours(store)} == written.keys()
        for event in ours(store):
            assert payload_or_loss(event) in (None, written[event.event_id.bytes])
        assert store.verify().ok
        store.close()
    shutil.rmtree(place)


WAYS: dict[str, tuple[str, ...]] = {
    "straight": ("a<b",),
    "there and back": ("b<a", "a<b"),
    "siblings": ("b<a", "c<a", "c<b", "b<c"),
    "through a third": ("b<a", "c<b", "a<c", "c<a"),
    "around": ("b<a", "c<b", "b<c", "a<b", "c<a"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", ["erase", "shred"])
@pytest.mark.parametrize("where", JOURNALS)
@pytest.mark.parametrize("namespace", [None, "north"])
def test_a_lost_payload_blocks_no_import(
    tmp_path: Path, way: str, loss: str, where: str, namespace: str | None
) -> None:
    """The loss comes before, between and after the imports of each way."""
    steps = WAYS[way]
    for at in range(len(steps) + 1):
        ring = FileKeyring.create(tmp_path / f"{at}.keys", files=DISK)
        stores = {
            name: open_at(tmp_path / f"{at}.{name}", codec="encrypted", keyring=ring)
            for name in JOURNALS
        }
        stores["a"].append(ALICE, {"n": 1}, kind=KIND)
        for number, step in enumerate([*steps, *steps]):
            if number == at and loss == "erase":
                stores[where].erase(Region.all(), reason="asked for")
            if number == at and loss == "shred":
                stores[where].shred(Region.all())
            one, other = step.split("<")
            stores[one].import_events(stores[other], namespace=namespace)
            stores[one].import_events(stores[other], Region(entity="player"))
            assert len(ours(stores[one])) <= 1
        for store in stores.values():
            store.close()


def test_what_is_known_only_by_its_payload_conflicts_once_that_is_erased(tmp_path: Path) -> None:
    """Two journals gave one id to two events: nothing but their payloads can be compared."""
    with open_at(tmp_path / "a") as a, open_at(tmp_path / "b") as b:
        a.append(ALICE, {"n": 1}, kind=KIND, key=UUID(int=5))
        b.append(ALICE, {"n": 1}, kind=KIND, key=UUID(int=5))
        assert a.import_events(b).known == 1
        b.erase(Region.all(), reason="asked for")
        with pytest.raises(IdempotencyConflict, match="the id of another event here") as refused:
            a.import_events(b)
        assert "erased" in (refused.value.advice or "")
        with open_at(tmp_path / "c") as c, open_at(tmp_path / "d") as d:
            # Two stand-ins for payloads that are gone are no equal payloads.
            c.import_events(b)
            a.erase(Region.all(), reason="asked for")
            d.import_events(a)
            with pytest.raises(IdempotencyConflict):
                d.import_events(c)


def test_a_mark_of_a_lost_payload_goes_on_with_the_event(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as a, open_at(tmp_path / "b") as b, open_at(tmp_path / "c") as c:
        a.append(ALICE, {"n": 1}, kind=KIND)
        a.erase(Region.all(), reason="asked for")
        assert b.import_events(a).without_payload == 1
        assert c.import_events(b).without_payload == 1
        (event,) = ours(c)
        assert event.extensions["origin.payload"] == b"erased"


def test_the_whole_way_of_an_event_is_kept(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as a, open_at(tmp_path / "b") as b, open_at(tmp_path / "c") as c:
        a.append(ALICE, {"n": 1}, kind=KIND)
        b.import_events(a, namespace="first")
        c.import_events(b, namespace="second")
        (event,) = ours(c)
        (middle,) = ours(b)
        assert event.extensions["origin.journal_id"] == b.journal_id.bytes
        assert event.extensions["origin.event_hash"] == middle.event_hash
        earlier = canonical.decode(event.extensions["origin.earlier"])
        assert earlier["journal_id"] == a.journal_id.bytes
        assert earlier["namespace"] == b"first"
        assert not {"source", "position"} & earlier.keys()


def test_an_erased_payload_comes_with_a_mark(tmp_path: Path) -> None:
    """The stored journal has an erased and a detached payload."""
    path = journal_of(tmp_path / "a", REWRITTEN)
    with Store.open(path, mode="r") as source, open_at(tmp_path / "b") as target:
        erased = [e for e in source if e.payload_state is not PayloadState.PRESENT]
        with pytest.raises(PayloadErased):
            _ = erased[0].raw
        report = target.import_events(source)
        assert report.without_payload == len(erased) == 2
        for old in erased:
            event = target.get(old.event_id)
            assert event.extensions["origin.payload"] == old.payload_state.value.encode()
            assert (event.raw, event.kind) == (b"", old.kind)
        present = [e for e in ours(target) if "origin.payload" not in e.extensions]
        assert len(present) == report.imported - 2
        assert target.import_events(source, namespace="again").known == report.imported


def test_an_id_that_names_something_else_here_is_a_conflict(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        source.append(ALICE, {"n": 1}, kind=KIND)
        source.append(ALICE, {"n": 2}, kind=KIND, key=UUID(int=5))
        target.append(ALICE, {"n": 3}, kind=KIND, key=UUID(int=5))
        before = len(target)
        with pytest.raises(IdempotencyConflict) as refused:
            target.import_events(source)
        assert refused.value.reason == "different-content"
        assert len(target) == before, "the commit that it is in wrote nothing"
        # The same content under the same key is the same event.
        source2 = open_at(tmp_path / "c")
        source2.append(ALICE, {"n": 3}, kind=KIND, key=UUID(int=5))
        report = target.import_events(source2)
        assert (report.imported, report.known) == (0, 1)
        source2.close()


def test_a_source_that_lost_what_was_imported_is_refused(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        source.append(ALICE, {"n": 1}, kind=KIND)
        source.snapshot(tmp_path / "copy")
        source.append(ALICE, {"n": 2}, kind=KIND)
        source.append(ALICE, {"n": 3}, kind=KIND)
        target.import_events(source)
        Store.restore(tmp_path / "copy", tmp_path / "again", resume=True)
        with open_at(tmp_path / "again") as resumed:
            before = len(target)
            with pytest.raises(ImportSourceError):
                target.import_events(resumed)
            assert len(target) == before
            resumed.append(ALICE, {"n": "else"}, kind=KIND)
            assert target.import_events(resumed, namespace="resumed").imported == 1


def test_a_source_can_not_speak_for_the_journal_that_imports(tmp_path: Path) -> None:
    """Nothing at the journal's own entities comes in, whatever its kind says."""
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        # No public call writes such events; a file that somebody made may have them.
        for kind in (KIND, SYSTEM_DENIAL):
            forged = Prepared.of(LIFECYCLE, kind.raw, 1, CODEC_PLAIN, canonical.encode({"n": 1}))
            source._writer.commit([forged])  # see above
        source.sync()
        before = len(target)
        report = target.import_events(source)
        assert (report.read, report.lifecycle, report.imported) == (3, 3, 0)
        assert len(target) == before


def test_an_origin_that_nobody_imported_counts_for_nothing(tmp_path: Path) -> None:
    """A file that somebody made may say anything of where its events stood before."""
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        key = UUID(int=5)
        target.append(ALICE, {"n": 1}, kind=KIND, key=key)
        claims = {"origin.event_hash": bytes(32), "origin.earlier": b"\xc1 not canonical"}
        forged = Prepared.of(
            ALICE, KIND.raw, 1, CODEC_PLAIN, canonical.encode({"n": 2}), key=key.bytes,
            extensions=encode_extensions(claims, reserved_allowed=True),
        )  # fmt: skip
        source._writer.commit([forged])  # no public call writes such events
        source.sync()
        with pytest.raises(IdempotencyConflict):
            target.import_events(source)


def test_a_source_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    """What keeps the last position from being looked up is no other history."""
    with open_at(tmp_path / "b") as target:
        source = open_at(tmp_path / "a")
        source.append(ALICE, {"n": 1}, kind=KIND)
        target.import_events(source)
        source.close()
        with pytest.raises(StoreClosed):
            target.import_events(source)
        (segment,) = (tmp_path / "a").glob("segments/*.seg")
        content = segment.read_bytes()
        at = content.index(b"player:alice")
        with open_at(tmp_path / "a", mode="r") as source:
            segment.write_bytes(content[:at] + b"q" + content[at + 1 :])
            with pytest.raises(Damaged):
                target.import_events(source)


def test_progress_is_told_at_the_end_too(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b") as target:
        source.append_many([Item(ALICE, {"n": n}, kind=KIND) for n in range(1200)])
        told: list[int] = []
        target.import_events(source, progress=told.append)
        assert told == [1000, 1201]
        before = len(target)
        with pytest.raises(InvalidInput) as refused:
            target.import_events(source, progress=5)  # type: ignore[arg-type]  # what a caller without a checker may pass
        assert refused.value.field == "progress"
        assert len(target) == before


def test_what_can_not_be_imported_is_refused(tmp_path: Path) -> None:
    with open_at(tmp_path / "a") as source, open_at(tmp_path / "b", payload_max_bytes=64) as target:
        source.append(ALICE, {"n": "x" * 100}, kind=KIND)
        before = len(target)
        for bad in (None, str(tmp_path / "a"), 7):
            with pytest.raises(InvalidInput):
                target.import_events(bad)  # type: ignore[arg-type]  # what a caller without a checker may pass
        with pytest.raises(InvalidInput):
            target.import_events(target)
        for namespace in ("", "a\nb", "x" * 256, "\udc80", 7, b"n"):
            with pytest.raises(InvalidInput):
                target.import_events(source, namespace=namespace)  # type: ignore[arg-type]  # what a caller without a checker may pass
        with pytest.raises(InvalidInput):
            target.import_events(source, "player")  # type: ignore[arg-type]  # what a caller without a checker may pass
        with pytest.raises(PayloadTooLarge):
            target.import_events(source)
        assert len(target) == before
