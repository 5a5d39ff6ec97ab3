"""Errors: stable codes, five groups, facts in fields and text; the guide names them all."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from batpak import AppendReceipt, Coordinate, Denial, EventKind, Item, Store, errors
from batpak.errors import (
    BatpakError,
    Conflict,
    Damaged,
    EventNotFound,
    Indeterminate,
    InvalidInput,
    JournalCorrupt,
    JournalPoisoned,
    Unavailable,
)

HERE = Coordinate("player:alice", "room")
NOTE = EventKind(1, 1)
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "errors.md"
GROUPS = (InvalidInput, Conflict, Unavailable, Indeterminate, Damaged)
CLASSES = [getattr(errors, name) for name in errors.__all__]

# Name, code, group, retryable, exit code: what programs out there rely on.
TABLE = """
Backpressure            backpressure            Unavailable    yes  5
BatchTooLarge           batch-too-large         InvalidInput   no   5
BatpakError             batpak-error            -              no   3
Cancelled               cancelled               Unavailable    yes  5
CanonicalError          canonical               InvalidInput   no   5
ConditionFailed         condition-failed        Conflict       no   5
Conflict                conflict                Conflict       no   5
CoordinateError         coordinate              InvalidInput   no   5
Damaged                 damaged                 Damaged        no   3
DecodeError             decode                  Conflict       no   5
DecodeFailed            decode-failed           Conflict       no   5
DestinationTaken        destination-taken       InvalidInput   no   5
EntityClockOverflow     entity-clock-overflow   Conflict       no   5
EventNotFound           event-not-found         InvalidInput   no   5
ExpectationFailed       expectation-failed      Conflict       no   5
ExtensionError          extension               InvalidInput   no   5
FenceEnded              fence-ended             Conflict       no   5
FenceOpen               fence-open              InvalidInput   no   5
FenceTooLarge           fence-too-large         InvalidInput   no   5
FutureFormat            future-format           Damaged        no   3
FutureVersion           future-version          Conflict       no   5
GateDenied              gate-denied             Conflict       no   5
GatePassError           gate-pass               InvalidInput   no   5
IdError                 id                      InvalidInput   no   5
IdempotencyConflict     idempotency-conflict    Conflict       no   5
ImportSourceError       import-source           InvalidInput   no   5
Indeterminate           indeterminate           Indeterminate  yes  3
InvalidClock            invalid-clock           InvalidInput   no   5
InvalidInput            invalid-input           InvalidInput   no   5
JournalCorrupt          journal-corrupt         Damaged        no   3
JournalLocked           journal-locked          Unavailable    yes  4
JournalPoisoned         journal-poisoned        Damaged        no   3
JournalRewound          journal-rewound         Damaged        no   3
KeyFileRefused          key-file-refused        InvalidInput   no   5
KeyInvalid              key                     InvalidInput   no   5
KeyNotDestroyed         key-not-destroyed       Unavailable    yes  5
KeyNotInForce           key-not-in-force        Conflict       no   5
KeyShredded             key-shredded            Unavailable    yes  5
KeyUnavailable          key-unavailable         Conflict       no   5
KeyringFailed           keyring-failed          Unavailable    yes  5
KeyringRefused          keyring-refused         InvalidInput   no   5
KindCollision           kind-collision          InvalidInput   no   5
KindError               kind                    InvalidInput   no   5
KindMismatch            kind-mismatch           Conflict       no   5
NetworkFilesystem       network-filesystem      InvalidInput   no   5
NoSpace                 no-space                Unavailable    yes  5
NotAJournal             not-a-journal           InvalidInput   no   5
NotASnapshot            not-a-snapshot          InvalidInput   no   5
NotCheckpointed         not-checkpointed        Conflict       no   5
NotErasable             not-erasable            InvalidInput   no   5
NotShreddable           not-shreddable          InvalidInput   no   5
OutcomeFailed           outcome-failed          Conflict       no   5
OutcomeUnavailable      outcome-unavailable     Unavailable    yes  5
PayloadDamaged          payload-damaged         Damaged        no   3
PayloadDefinitionError  payload-definition      InvalidInput   no   5
PayloadDetached         payload-detached        Conflict       no   5
PayloadErased           payload-erased          Conflict       no   5
PayloadShredded         payload-shredded        Conflict       no   5
PayloadTooLarge         payload-too-large       InvalidInput   no   5
PayloadUnreadable       payload-unreadable      Conflict       no   5
PlatformUnsupported     platform-unsupported    InvalidInput   no   5
ProofInvalid            proof-invalid           InvalidInput   no   5
ReentrantCall           reentrant-call          InvalidInput   no   5
ReservedKind            reserved-kind           InvalidInput   no   5
ReservedName            reserved-name           InvalidInput   no   5
SnapshotDamaged         snapshot-damaged        Damaged        no   3
StorageFailed           storage-failed          Unavailable    yes  5
StoreClosed             store-closed            InvalidInput   no   5
StoreForked             store-forked            InvalidInput   no   5
TransitionRefused       transition-refused      Conflict       no   5
Unavailable             unavailable             Unavailable    yes  5
UnregisteredPayload     unregistered-payload    InvalidInput   no   5
UnsupportedFeature      unsupported-feature     Damaged        no   3
UpcastError             upcast                  Conflict       no   5
UpcastGap               upcast-gap              InvalidInput   no   5
WaitTimeout             wait-timeout            Unavailable    yes  5
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def group_of(cls: type[BatpakError]) -> str:
    found = [group.__name__ for group in GROUPS if issubclass(cls, group)]
    assert len(found) <= 1, f"{cls.__name__} is in {found}"
    return found[0] if found else "-"


@pytest.mark.proves("INV-STORE-ERROR-TAXONOMY")
def test_codes_groups_and_exit_codes_are_what_programs_rely_on() -> None:
    found = [
        [
            cls.__name__,
            cls.code,
            group_of(cls),
            "yes" if cls.retryable else "no",
            str(cls.exit_code),
        ]
        for cls in CLASSES
    ]
    assert found == ROWS


@pytest.mark.proves("INV-STORE-ERROR-TAXONOMY")
def test_codes_are_unique_and_kebab_case() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_every_error_of_the_module_is_offered() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BatpakError)
    }
    assert defined == set(errors.__all__)


def test_each_class_says_its_own_code_and_meaning() -> None:
    for cls in CLASSES:
        assert "code" in vars(cls), f"{cls.__name__} would share its parent's code"
        assert cls.__doc__
        assert cls.__doc__ not in {base.__doc__ for base in cls.__mro__[1:]}


def fields_of(cls: type[BatpakError]) -> set[str]:
    """What the class and its bases declare, found without the class's own help."""
    declared: set[str] = set()
    for base in cls.__mro__:
        if base is not BatpakError and issubclass(base, BatpakError):
            declared |= set(inspect.get_annotations(base))
    return declared - {"code", "retryable", "exit_code"}


@pytest.mark.parametrize("cls", CLASSES)
def test_facts_are_fields_and_stand_in_the_text(cls: type[BatpakError]) -> None:
    facts: dict[str, Any] = {name: f"the {name}" for name in sorted(fields_of(cls))}
    if cls is Indeterminate:
        facts["receipts"] = ("a receipt",)
    error = cls("it happened", advice="do this", **facts)
    assert {name: getattr(error, name) for name in facts} == facts
    assert error.what == "it happened"
    assert error.advice == "do this"
    assert error.facts == facts
    text = str(error)
    assert text.startswith("it happened")
    assert text.endswith("; do this")
    for name, value in facts.items():
        assert f"{name}={value}" in text
    # Nothing known: every field is there, and the text is the sentence alone.
    bare = cls("it happened")
    assert {getattr(bare, name) for name in facts} <= {None}
    assert str(bare) == "it happened"
    with pytest.raises(TypeError, match="no_such_fact"):
        cls("it happened", no_such_fact=1)


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_travel_between_processes_whole(cls: type[BatpakError]) -> None:
    facts: dict[str, Any] = {name: n for n, name in enumerate(sorted(fields_of(cls)))}
    error = cls("it happened", advice="do this", **facts)
    error.add_note("on the way")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.facts == facts
    assert again.advice == "do this"


class Returning(Exception):
    """Can be pickled, and not be made again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("gone")


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.append(HERE, 1, kind=NOTE, gates=[lambda context: None]),
        lambda store: store.append(HERE, 1, kind=NOTE, unless=lambda: 0),
        lambda store: store.append(HERE, 1, kind=lambda: 0),
        lambda store: store.deny(HERE, NOTE, store),
    ],
)
def test_a_value_that_can_not_travel_goes_as_its_text(
    tmp_path: Path, call: Callable[[Store], Any]
) -> None:
    with Store.open(tmp_path / "journal") as store:
        with pytest.raises(InvalidInput) as raised:
            call(store)
        error = raised.value
        again = pickle.loads(pickle.dumps(error))
        assert again.facts == {**error.facts, "value": repr(error.value)}
        assert (again.what, again.advice, again.field) == (error.what, error.advice, error.field)


def test_a_cause_that_can_not_be_made_again_goes_as_its_text() -> None:
    error = JournalPoisoned("no", cause=Returning(1, 2), file="0.seg")
    outer = Indeterminate("perhaps", receipts=(), cause=error)
    again: Indeterminate = pickle.loads(pickle.dumps(outer))
    assert isinstance(again.cause, JournalPoisoned)
    assert again.cause.facts == {"cause": "Returning('gone')", "file": "0.seg"}


def test_an_indeterminate_travels_with_its_receipts(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        receipts = tuple(
            store.append(Coordinate("a", "b"), n, kind=EventKind(1, 1)) for n in range(2)
        )
    cause = JournalPoisoned("no", cause=OSError(5, "broken"))
    error = Indeterminate("perhaps", receipts=receipts, cause=cause)
    assert error.receipt == receipts[1]
    again: Indeterminate = pickle.loads(pickle.dumps(error))
    assert again.receipts == receipts
    assert isinstance(again.receipt, AppendReceipt)
    assert isinstance(again.cause, JournalPoisoned)
    assert isinstance(again.cause.cause, OSError)
    assert Indeterminate("perhaps", receipts=()).receipt is None


def test_errors_are_also_what_python_programs_expect() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(EventNotFound, KeyError)
    assert issubclass(errors.PayloadDefinitionError, TypeError)
    # A KeyError would quote its text.
    assert str(EventNotFound("no event", sequence=3)) == "no event (sequence=3)"
    assert not issubclass(Damaged, ValueError)
    assert not issubclass(BatpakError, OSError)


def test_unknown_facts_are_left_out_of_the_text() -> None:
    error = JournalCorrupt("bad", file="/j/0.seg", offset=0, witness=None, first=3)
    assert str(error) == "bad (file=/j/0.seg, offset=0, first=3)"


# --- the guide -------------------------------------------------------------------


def sections() -> dict[str, list[list[str]]]:
    """Heading to the rows of its tables, each a list of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in GUIDE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(heading, []).append([c.strip() for c in line.strip("|").split("|")])
    return found


def test_the_guide_lists_every_error_in_its_group() -> None:
    listed = {
        (heading, row[0].strip("`"), row[1].strip("`"))
        for heading, rows in sections().items()
        if heading in {group.__name__ for group in GROUPS}
        for row in rows[1:]
        if all(row[2:4])
    }
    assert listed == {(group, name, code) for name, code, group, *_ in ROWS if group != "-"}


def test_the_guide_names_the_facts_of_each_group() -> None:
    rows = {row[0].strip("`"): row[2] for row in sections()["The five groups"][1:]}
    for group in GROUPS:
        named = set(re.findall(r"`(\w+)`", rows[group.__name__]))
        assert named - {"receipt"} == fields_of(group)


def test_the_guide_tells_when_exit_codes_and_retries_differ() -> None:
    text = GUIDE.read_text("utf-8")
    for group in GROUPS:
        section = text.split(f"\n## {group.__name__}\n")[1].split("\n## ")[0]
        intro = section.split("\n| ")[0]
        assert f"xit code {group.exit_code}" in intro
        assert ("Not retryable" not in intro) == group.retryable
        odd = {cls for cls in CLASSES if issubclass(cls, group)}
        odd = {cls for cls in odd if cls.exit_code != group.exit_code}
        for cls in odd:
            assert f"`{cls.__name__}`, which has {cls.exit_code}" in " ".join(intro.split())


def test_the_mapping_from_the_rust_system_names_classes_that_exist() -> None:
    rows = sections()["For those who know the Rust system"][1:]
    variants = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert len(variants) == len(set(variants)) == 50
    for row in rows:
        for name in re.findall(r"`([A-Z]\w+)`", row[1]):
            assert name in errors.__all__, row


# --- odd values --------------------------------------------------------------------


class Shy:
    """Can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not me")

    def __or__(self, other: object) -> Shy:
        raise RuntimeError("nor that")

    __ror__ = __or__


class Wide:
    """Is neither true nor false, as an array of several."""

    def __or__(self, other: object) -> Wide:
        return self

    __ror__ = __or__

    def __eq__(self, other: object) -> Wide:  # type: ignore[override]  # as an array does
        return self

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


ODD: dict[str, dict[str, Any]] = {
    "more digits than Python shows": {"lane": 10**5000},
    "what has no repr": {"lane": Shy()},
    "bytes": {"key": b"short"},
    "a megabyte": {"key": b"x" * 10**6},
    "empty sets": {"lane": set(), "depth": set(), "flags": set()},
    "what is neither true nor false": {"flags": Wide()},
    "an answer that is neither": {"on_replay": Wide()},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_argument_is_refused_with_a_text_that_can_be_shown(tmp_path: Path, odd: str) -> None:
    with Store.open(tmp_path / "journal") as store:
        before = len(store)
        with pytest.raises(InvalidInput) as raised:
            store.append(HERE, 1, kind=NOTE, **ODD[odd])
        assert len(store) == before
    text = str(raised.value)
    assert text.encode()
    assert len(text) < 1000
    assert str(pickle.loads(pickle.dumps(raised.value)))


def test_a_name_that_has_no_utf_8_form_stands_in_a_text_that_has_one(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store, pytest.raises(BatpakError) as raised:
        store.append_many([Item(HERE, 1, kind=NOTE)], expect={"\ud800": 1})
    assert "\\ud800" in str(raised.value).encode().decode()


def test_a_text_of_bytes_needs_no_text_of_theirs() -> None:
    call = "from batpak.errors import KeyInvalid; print(KeyInvalid('no', value=b'short'))"
    done = subprocess.run(
        [sys.executable, "-bb", "-c", call], capture_output=True, text=True, check=True
    )
    assert done.stdout == "no (value=b'short')\n"


def test_a_denial_s_number_may_not_have_more_digits_than_can_be_written() -> None:
    with pytest.raises(InvalidInput) as raised:
        Denial("g", "m", context={"a": 10**5000})
    assert raised.value.field == "context"


def test_a_fence_names_what_is_no_list_of_items(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store, store.fence() as fence:
        with pytest.raises(InvalidInput) as raised:
            fence.append_many(cast("Any", True))
        assert raised.value.field == "items"
