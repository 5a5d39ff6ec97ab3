"""Notes, checkpoints, keys and witnesses: what is accepted, passed over, and refused."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import InvalidInput, ProofInvalid
from batpak.proof import merkle
from batpak.proof.notes import (
    COSIGNATURE,
    MAX_NOTE_LENGTH,
    Checkpoint,
    Key,
    Note,
    Policy,
    Signature,
)
from batpak.signing import SigningKey
from batpak.tlog.signing import cosign, sign_note
from batpak.tlog.trees import consistency_proof, subtrees_of
from tests.support.small_log import (
    COSIGNED_AT,
    LOG,
    LOG_KEY,
    ORIGIN,
    POLICY,
    WITNESS_KEYS,
    WITNESSES,
    example,
    public,
)

OTHER = SigningKey.from_seed(bytes([0x77] * 32)).private
TEXT = "a text\n\nof several lines\n"
LOG_OF = example()
NOTE = LOG_OF.checkpoint(14, "w1.example", "w3.example")


def refusal(call: Callable[[], object]) -> str | None:
    with pytest.raises(ProofInvalid) as caught:
        call()
    assert caught.value.code == "proof-invalid"
    return caught.value.reason


# --- keys -------------------------------------------------------------------------------------


def test_a_key_is_read_as_it_is_written() -> None:
    for key in (LOG_KEY, *WITNESS_KEYS):
        assert Key.parse(str(key)) == key
    name, key_id, encoded = str(WITNESS_KEYS[0]).split("+", 2)
    assert (name, key_id) == ("w1.example", WITNESS_KEYS[0].key_id.hex())
    assert base64.b64decode(encoded) == b"\x04" + WITNESS_KEYS[0].public_key


def test_the_id_of_a_key_depends_on_name_and_use() -> None:
    key = public(LOG)
    ids = {Key("a", key).key_id, Key("b", key).key_id, Key("a", key, COSIGNATURE).key_id}
    assert len(ids) == 3


def test_a_key_with_another_character_is_refused() -> None:
    text = str(LOG_KEY)
    for at, old in enumerate(text):
        for letter in "Aa0+ =\n".replace(old, ""):
            changed = text[:at] + letter + text[at + 1 :]
            assert refusal(lambda c=changed: Key.parse(c)) == "key"


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name+00000000", "+00000000+AQ==", "na me+00000000+AQ==",
        "\ud800+00000000+AQ==",
        str(Key("a", public(LOG), 2)), str(Key("a", public(LOG)[:31])), "x" * 100_000,
        str(Key("a\u00a0b", public(LOG))), str(Key("", public(LOG))),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(text: str) -> None:
    assert refusal(lambda: Key.parse(text)) == "key"


def test_an_error_about_a_key_does_not_show_it() -> None:
    private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n"
    with pytest.raises(ProofInvalid) as caught:
        Key.parse(private)
    assert "MC4C" not in f"{caught.value!s} {caught.value.facts}"


# --- notes ------------------------------------------------------------------------------------


def test_a_note_is_read_as_it_is_written() -> None:
    note = Note.parse(NOTE)
    assert str(note) == NOTE
    assert [line.name for line in note.signatures] == [ORIGIN, "w1.example", "w3.example"]
    assert note.verified((LOG_KEY, *WITNESS_KEYS)) == {
        LOG_KEY: 0,
        WITNESS_KEYS[0]: COSIGNED_AT,
        WITNESS_KEYS[2]: COSIGNED_AT,
    }


def test_the_last_empty_line_divides_a_note() -> None:
    line = sign_note(TEXT, ORIGIN, LOG)
    note = Note.parse(f"{TEXT}\n{line}")
    assert note == (TEXT, (line,))
    assert note.verified([LOG_KEY]) == {LOG_KEY: 0}


_lines = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))),
    max_size=20,
)


@given(st.lists(_lines, min_size=1))
def test_every_text_can_be_signed(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    note = Note(text, (sign_note(text, ORIGIN, LOG), sign_note(text, "w1.example", OTHER, 7)))
    assert Note.parse(str(note)) == note
    assert set(note.verified([LOG_KEY])) == {LOG_KEY}


@pytest.mark.proves("INV-PROOF-NOTES")
def test_each_other_character_of_a_note_is_noticed_or_passed_over() -> None:
    """Passed over: a line that is no longer that of a key that was given."""
    everyone = (LOG_KEY, *WITNESS_KEYS)
    lost = 0
    for at, letter in enumerate(NOTE):
        changed = NOTE[:at] + ("B" if letter == "A" else "A") + NOTE[at + 1 :]
        try:
            signed = Note.parse(changed).verified(everyone)
        except ProofInvalid:
            continue
        assert len(signed) == 2, changed
        lost += 1
    # Names and key ids of three lines can be spoilt without spoiling the line.
    assert 0 < lost <= sum(len(key.name) + 6 for key in everyone)


def test_a_note_that_was_cut_is_no_longer_signed_by_all() -> None:
    whole_lines = 0
    for end in range(len(NOTE)):
        try:
            signed = Note.parse(NOTE[:end]).verified((LOG_KEY, *WITNESS_KEYS))
        except ProofInvalid:
            continue
        assert len(signed) < 3
        whole_lines += 1
    assert whole_lines == 2


LINE = str(sign_note(TEXT, ORIGIN, LOG))


@pytest.mark.parametrize(
    "note",
    [
        "", "\n", "\n\n", TEXT, f"{TEXT}\n", f"{TEXT}{LINE}", f"{TEXT}\n{LINE}x",
        f"{TEXT}\n{LINE[:-1]}",
        f"{TEXT}\r\n{LINE}", f"{TEXT}\t\n{LINE}", f"\x00{TEXT}\n{LINE}", f"\ud800{TEXT}\n{LINE}",
        f"{TEXT}\n{LINE.replace('—', '-')}", f"{TEXT}\n{LINE.replace(' ', '  ')}",
        f"{TEXT}\n— a+b AAAAAAA=\n", f"{TEXT}\n— name AAAA\n", f"{TEXT}\n— name AAAAAAB=\n",
        f"{TEXT}\n— name AAAA AAA=\n", f"{TEXT}\n— name \n", f"{TEXT}\n{LINE * 65}",
        f"{'x' * MAX_NOTE_LENGTH}\n\n{LINE}",
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(note: str) -> None:
    assert refusal(lambda: Note.parse(note)) == "note"


def test_a_note_may_have_64_signatures() -> None:
    assert len(Note.parse(f"{TEXT}\n{LINE * 64}").signatures) == 64


def test_unknown_keys_and_algorithms_are_passed_over() -> None:
    same_name = sign_note(TEXT, ORIGIN, OTHER)
    same_id = Signature("elsewhere", LOG_KEY.key_id, bytes(64))
    longer = Signature("pq.example", b"\x01\x02\x03\x04", bytes(2420))
    note = Note(TEXT, (same_name, same_id, longer, sign_note(TEXT, ORIGIN, LOG)))
    assert Note.parse(str(note)).verified([LOG_KEY]) == {LOG_KEY: 0}


def test_a_wrong_signature_of_a_known_key_condemns_the_note() -> None:
    good = sign_note(TEXT, ORIGIN, LOG)
    for bad in (
        good._replace(signature=bytes(64)),
        good._replace(signature=good.signature[:-1]),
        good._replace(signature=good.signature + b"\0"),
        sign_note("another text\n", ORIGIN, LOG),
    ):
        note = Note(TEXT, (good, bad))
        assert refusal(lambda n=note: n.verified([LOG_KEY])) == "signature"


def test_a_note_signature_is_no_cosignature_and_neither_the_other() -> None:
    plain, timed = sign_note(TEXT, "w", LOG), sign_note(TEXT, "w", LOG, COSIGNED_AT)
    as_plain, as_timed = Key("w", public(LOG)), Key("w", public(LOG), COSIGNATURE)
    assert Note(TEXT, (plain, timed)).verified([as_plain, as_timed]) == {
        as_plain: 0,
        as_timed: COSIGNED_AT,
    }
    swapped = Note(TEXT, (timed._replace(key_id=as_plain.key_id),))
    assert refusal(lambda: swapped.verified([as_plain])) == "signature"
    early = COSIGNED_AT.to_bytes(8, "big") + plain.signature
    forged = Note(TEXT, (Signature("w", as_timed.key_id, early),))
    assert refusal(lambda: forged.verified([as_timed])) == "signature"


def test_the_time_of_a_cosignature_is_signed_and_the_latest_counts() -> None:
    key = WITNESS_KEYS[0]
    lines = [sign_note(TEXT, "w1.example", WITNESSES["w1.example"], at) for at in (9, 4)]
    assert Note(TEXT, tuple(lines)).verified([key]) == {key: 9}
    later = lines[0]._replace(signature=(10).to_bytes(8, "big") + lines[0].signature[8:])
    assert refusal(lambda: Note(TEXT, (later,)).verified([key])) == "signature"


@pytest.mark.parametrize("time", [-1, 2**63])
def test_a_time_beyond_the_format_is_not_signed(time: int) -> None:
    with pytest.raises(InvalidInput):
        sign_note(TEXT, "w1.example", OTHER, time)


# --- checkpoints ------------------------------------------------------------------------------


@given(
    st.from_regex(r"[^\x00-\x1f\ud800-\udfff]+", fullmatch=True),
    st.integers(0, 2**63),
    st.binary(min_size=32, max_size=32),
    st.lists(st.from_regex(r"[^\x00-\x1f\ud800-\udfff]+", fullmatch=True), max_size=3),
)
def test_a_checkpoint_is_read_as_it_is_written(
    origin: str, size: int, root: bytes, more: list[str]
) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(more))
    assert Checkpoint.parse(str(checkpoint)) == checkpoint


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", f"o\n1\n{ROOT}", f"\n1\n{ROOT}\n", f"o\n01\n{ROOT}\n", f"o\n-1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n", f"o\n\n{ROOT}\n", f"o\n١\n{ROOT}\n", f"o\n{2**63 + 1}\n{ROOT}\n",
        f"o\n{10**30}\n{ROOT}\n", "o\n1\n\n", "o\n1\nAAAA\n", f"o\n1\n{ROOT[:-2]}B=\n",
        f"o\n1\n{ROOT}\n\n", f"o\n1\n{ROOT}\n\nmore\n", f"o\n1\n{ROOT}x\n", f"o\n1_0\n{ROOT}\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    assert refusal(lambda: Checkpoint.parse(text)) == "checkpoint"


def test_a_checkpoint_counts_only_for_its_log() -> None:
    checkpoint, witnesses = POLICY.open(NOTE)
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 14)
    assert set(witnesses) == {WITNESS_KEYS[0], WITNESS_KEYS[2]}
    elsewhere = Policy(LOG_KEY, origin="example.com/another")
    assert refusal(lambda: elsewhere.open(NOTE)) == "unknown-log"
    assert refusal(lambda: Policy(Key(ORIGIN, public(OTHER))).open(NOTE)) == "unknown-log"
    only_a_witness = str(Note(str(checkpoint), Note.parse(NOTE).signatures[1:]))
    assert refusal(lambda: POLICY.open(only_a_witness)) == "unknown-log"
    named = LOG_OF.checkpoint(14, origin="example.com/journal")
    assert Policy(LOG_KEY, origin=ORIGIN).open(named)[0] == checkpoint


# --- witnesses --------------------------------------------------------------------------------


def shown(size: int, seen: Checkpoint | None, note: str | None = None) -> Checkpoint:
    """What a witness does that saw `seen` last; its cosignature must verify."""
    note = LOG_OF.checkpoint(size) if note is None else note
    start = 0 if seen is None else min(seen.size, size)
    proof = consistency_proof(subtrees_of(LOG_OF.leaves), start, size)
    checkpoint, line = cosign(
        note, Policy(LOG_KEY), seen, proof, "w1.example", WITNESSES["w1.example"], COSIGNED_AT
    )
    both = Note(str(checkpoint), (*Note.parse(note).signatures, line))
    assert POLICY.open(str(both))[1] == {WITNESS_KEYS[0]: COSIGNED_AT}
    return checkpoint


def at_size(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, LOG_OF.root(size))


@pytest.mark.proves("INV-WITNESS-NO-ROLLBACK")
def test_a_witness_follows_a_log_that_grows() -> None:
    seen = None
    for size in (0, 1, 1, 5, 14):
        seen = shown(size, seen)
        assert seen == at_size(size)


@pytest.mark.proves("INV-WITNESS-NO-ROLLBACK")
def test_a_witness_refuses_by_name() -> None:
    assert refusal(lambda: shown(5, at_size(14))) == "rollback"
    forged = Checkpoint(ORIGIN, 5, bytes(32))
    assert refusal(lambda: shown(5, forged)) == "fork"
    assert refusal(lambda: shown(14, forged)) == "not-consistent"
    assert refusal(lambda: shown(5, Checkpoint("elsewhere", 1, bytes(32)))) == "unknown-log"
    text = str(at_size(5))
    stranger = str(Note(text, (sign_note(text, ORIGIN, OTHER),)))
    assert refusal(lambda: shown(5, None, stranger)) == "unknown-log"
    other = Checkpoint("example.com/x", 5, LOG_OF.root(5))
    foreign = str(Note(str(other), (sign_note(str(other), ORIGIN, LOG),)))
    assert refusal(lambda: shown(5, None, foreign)) == "unknown-log"
    spoilt = Note(text, (sign_note("another\n", ORIGIN, LOG),))
    assert refusal(lambda: shown(5, None, str(spoilt))) == "signature"
    assert refusal(lambda: shown(5, None, "no note")) == "note"
    seen_empty = Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)
    assert shown(5, seen_empty) == at_size(5)
