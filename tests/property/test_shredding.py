"""Any history of encrypted appends, shreddings, erasures and reopenings, beside a plain model.

The model knows for each event its payload and its group; a shredding takes all payloads
that its groups have so far, an erasure single ones. Every reader is held to it, with the
keyring, with a copy of it from the beginning of each shredding, and without.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, Durability, EventKind, Item, PayloadState, Store
from batpak.errors import KeyUnavailable, NotShreddable, PayloadErased, PayloadShredded
from batpak.keyring import FileKeyring, Policy
from tests.support.faulty_files import DISK
from tools import read_segment

NAMES = st.sampled_from(["user:a", "user:b", "user:c"])
KINDS = st.sampled_from([EventKind(0xF, 1), EventKind(0xF, 2), EventKind(0xE, 1)])
EVENTS = st.tuples(NAMES, KINDS)
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(EVENTS, min_size=1, max_size=4)),
    st.tuples(st.just("keyed"), EVENTS),
    st.tuples(st.just("shred"), st.lists(st.integers(0, 30), min_size=1, max_size=4)),
    st.tuples(st.just("erase"), st.integers(0, 30)),
    st.tuples(st.just("reopen"), st.sampled_from(["encrypted", "salted"])),
    st.tuples(st.just("compact"), st.none()),
)


class Model:
    """What should be readable: by sequence the payload, or the state that took it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.payloads: dict[int, object] = {}
        self.groups: dict[int, object] = {}
        """Of encrypted events; a group that was shredded is another one from then on."""
        self.erased: set[int] = set()
        self.gone: set[int] = set()
        """Of the erased: those that compaction took out, whose key nobody can see any more."""
        self.shredded: set[object] = set()
        self.number = 0

    def group_of(self, name: str, kind: EventKind, key: object) -> object:
        plain = {
            Policy.ENTITY: name, Policy.KIND: kind, Policy.CATEGORY: kind.category,
            Policy.EVENT: key,
        }[self.policy]  # fmt: skip
        again = 0
        while (plain, again) in self.shredded:
            again += 1
        return plain, again

    def covered(self, sequences: set[int]) -> set[int]:
        groups = {self.groups[n] for n in sequences}
        return {n for n, group in self.groups.items() if group in groups}

    def check(self, store: Any, *, has_keys: bool) -> None:
        closed = 0
        for event in store:
            if event.sequence not in self.payloads:
                continue
            group = self.groups.get(event.sequence)
            try:
                found = event.value
            except PayloadErased:
                assert event.sequence in self.erased
            except PayloadShredded:
                assert group in self.shredded
                assert event.payload_state is PayloadState.SHREDDED
            except KeyUnavailable:
                closed += 1
                assert not has_keys
                assert group is not None
            else:
                assert found == self.payloads[event.sequence]
                assert event.sequence not in self.erased
                assert group not in self.shredded
        if has_keys:
            assert closed == 0
        report = store.verify()
        assert report.ok, report.findings
        assert report.encrypted == len(self.groups)


@given(st.sampled_from(Policy), st.lists(STEPS, max_size=14))
def test_what_is_shredded_is_gone_and_nothing_else_is(
    policy: Policy, steps: list[tuple[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), policy, steps)


def chosen(among: dict[int, object], number: int) -> int:
    return sorted(among)[number % len(among)]


def run(place: Path, policy: Policy, steps: list[tuple[str, Any]]) -> None:
    path, model = place / "journal", Model(policy)
    FileKeyring.create(place / "keys", policy=policy, files=DISK)
    backup = place / "backup"

    def opened(codec: str) -> Store:
        return Store.open(
            path, codec=codec, keyring=FileKeyring(place / "keys", files=DISK), files=DISK,
            durability=Durability.OS, segment_max_bytes=4096, preallocate=0,
        )  # fmt: skip

    def note(sequence: int, value: object, group: object) -> None:
        model.payloads[sequence] = value
        if codec == "encrypted":
            model.groups[sequence] = group

    codec = "encrypted"
    store = opened(codec)
    first = ("append", [("user:a", EventKind(0xF, 1)), ("user:b", EventKind(0xE, 1))])
    for step, what in [first, *steps]:
        if step == "append":
            items: list[Item] = []
            groups: list[object] = []
            for name, kind in what:
                model.number += 1
                items.append(Item(Coordinate(name, "r"), [model.number, "x" * 60], kind=kind))
                groups.append(model.group_of(name, kind, ("event", model.number)))
            for receipt, item, group in zip(store.append_many(items), items, groups, strict=True):
                note(receipt.sequence, item.payload, group)
        elif step == "keyed":
            name, kind = what
            model.number += 1
            key = model.number.to_bytes(16, "big")
            value = [model.number, "keyed"]
            for _ in range(2):
                receipt = store.append(Coordinate(name, "r"), value, kind=kind, key=key)
            note(receipt.sequence, value, model.group_of(name, kind, key))
        elif step == "shred":
            asked = {chosen(model.groups, n) for n in what} - model.erased
            if not asked:
                continue
            fresh = {n for n in asked if model.groups[n] not in model.shredded}
            others = model.covered(fresh) - asked - model.gone
            shutil.rmtree(backup, ignore_errors=True)
            shutil.copytree(place / "keys", backup)
            if others:
                with pytest.raises(NotShreddable, match="covers"):
                    store.shred(asked)
            report = store.shred(asked, also_others=True)
            groups_here = {model.groups[n] for n in fresh}
            assert len(report.keys) == len(report.receipts) == len(groups_here)
            assert report.events == len(fresh)
            model.shredded |= groups_here
        elif step == "erase":
            victim = chosen(model.payloads, what)
            store.erase(victim, reason="x")
            model.erased.add(victim)
        elif step == "compact":
            store.compact()
            model.gone = set(model.erased)
        else:
            store.close()
            codec = what
            store = opened(codec)
        model.check(store, has_keys=True)
    store.close()
    with Store.open(path, mode="r", files=DISK) as stranger:
        model.check(stranger, has_keys=False)
    if backup.exists():
        # A copy of the keyring from before the last shredding opens nothing that was shredded.
        ring = FileKeyring(backup, files=DISK)
        with Store.open(path, mode="r", keyring=ring, files=DISK) as reader:
            model.check(reader, has_keys=False)
        Store.open(path, keyring=ring, files=DISK).close()
        with Store.open(path, mode="r", files=DISK) as stranger:
            told = [e.value["key_id"] for e in stranger if e.kind.raw == 0x17]
        assert all(ring.load(key_id) is None for key_id in told)
    assert read_segment.read_journal(path).findings == []
