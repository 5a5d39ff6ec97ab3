"""keys, checkpoint, prove, verify of bundles, and witness, as a shell sees them."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from batpak import Store
from batpak.bundle import Bundle
from batpak.proof.notes import MAX_SIGNATURES, Note
from batpak.signing import SigningKey
from batpak.tlog.signing import sign_note
from batpak_cli.app import app
from batpak_cli.shapes import SHAPES
from tests.support.proofs import LATER, LOG, ORIGIN, RECEIPTS, WITNESS, open_signed, published, say

NAME = "example.net/witness"
EVIL = '<script>alert("x")</script>&\u202e'


def batpak(*arguments: object, code: int = 0, stdin: str | None = None) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


@pytest.fixture(name="place")
def place_with_keys_and_a_checkpoint(tmp_path: Path) -> Path:
    for key, file in ((RECEIPTS, "receipts"), (LATER, "later"), (LOG, "log"), (WITNESS, "witness")):
        key.save(tmp_path / f"{file}.pem")
    with open_signed(tmp_path / "journal") as store:
        say(store, 4)
        store.append_raw(*_evil())
        store.checkpoint()
    for file, name, field in (("log", ORIGIN, "log-key"), ("witness", NAME, "witness-key")):
        done = batpak("keys", "show", tmp_path / f"{file}.pem", "--name", name, "--field", field)
        (tmp_path / f"{file}.key").write_text(done.output)
    return tmp_path


def _evil() -> tuple:
    from batpak import Coordinate, EventKind, canonical

    return (
        Coordinate("<b>bob<b>\u202e\u200b", "\U000e0001"),
        EventKind(0xF, 2),
        canonical.encode({"note": EVIL}),
    )


def test_a_journal_whose_checkpoint_key_changed_is_verified_with_both_keys(place: Path) -> None:
    journal = place / "journal"
    batpak("append", journal, "user:1", "room", "--json-payload", "1")
    batpak("checkpoint", journal, "--key", place / "later.pem")
    done = batpak("keys", "show", place / "later.pem", "--name", ORIGIN, "--field", "log-key")
    (place / "later.key").write_text(done.output)
    for name in ("log.key", "later.key"):
        batpak("verify", journal, "--key", place / name, code=1)
    for names in (("log.key", "later.key"), ("later.key", "log.key")):
        named = [word for name in names for word in ("--key", place / name)]
        assert json.loads(batpak("verify", journal, *named, "--json").output)["ok"]


def test_a_new_key_is_private_and_its_public_parts_are_printed(tmp_path: Path) -> None:
    told = json.loads(batpak("keys", "new", tmp_path / "k", "--name", NAME, "--json").output)
    assert told.keys() == SHAPES["key"].keys()
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    shown = json.loads(batpak("keys", "show", tmp_path / "k", "--name", NAME, "--json").output)
    assert shown == told
    secret = (tmp_path / "k").read_text().split("\n")[1]
    assert secret not in json.dumps(told)
    again = batpak("keys", "new", tmp_path / "k", "--json", code=5)
    assert json.loads(again.stderr)["error"]["code"] == "key-file-refused"
    batpak("keys", "new", tmp_path / "l", "--name", "a b", code=2)
    assert not (tmp_path / "l").exists()
    batpak("keys", "show", tmp_path / "k", "--field", "log-key", code=2)
    (tmp_path / "k").chmod(0o644)
    refused = batpak("keys", "show", tmp_path / "k", code=5)
    assert "chmod 600" in refused.stderr


def test_keys_are_added_listed_and_retired(place: Path) -> None:
    journal = place / "journal"
    added = json.loads(
        batpak("keys", "add", journal, "--key", place / "later.pem", "--json").output
    )
    assert added.keys() == SHAPES["key-span"].keys()
    lines = [
        json.loads(line) for line in batpak("keys", "list", journal, "--json").output.splitlines()
    ]
    assert [line["key_id"] for line in lines] == [RECEIPTS.key_id.hex(), LATER.key_id.hex()]
    batpak("keys", "retire", journal, LATER.key_id.hex()[:7], code=5)
    batpak("keys", "retire", journal, "0" * 16, code=5)
    done = batpak("keys", "retire", journal, LATER.key_id.hex()[:8], "--reason", "lost", "--json")
    assert json.loads(done.output)["until"] > added["since"]
    batpak("keys", "add", journal, "--key", place / "later.pem", code=5)
    assert "retired by event" in batpak("keys", "list", journal).output


def test_a_bundle_is_proven_and_checked_by_commands_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, out = place / "journal", place / "bundle.json"
    batpak("prove", journal, 3, "--signing-key", place / "receipts.pem", "--out", out)
    done = batpak("verify", out, "--key", place / "log.key", "--json")
    told = json.loads(done.output)
    assert told["ok"]
    answers = {check["name"]: check["answer"] for check in told["checks"]}
    assert answers["receipt"] == answers["inclusion"] == answers["content"] == "held"
    wrong = batpak("verify", out, "--key", place / "log.key", "--receipt-key", "00" * 32, code=1)
    assert "failed    receipt" in wrong.output
    right = RECEIPTS.public_key.hex()
    batpak("verify", out, "--key", place / "log.key", "--receipt-key", right)
    # From input and through a pipe; and a keyring that is only in the environment is no mistake.
    batpak("verify", "-", "--key", place / "log.key", stdin=out.read_text())
    pipe = place / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        written = pool.submit(pipe.write_text, out.read_text())
        batpak("verify", pipe, "--key", place / "log.key")
        written.result()
    monkeypatch.setenv("BATPAK_KEYRING", "somewhere")
    batpak("verify", out, "--key", place / "log.key")
    for arguments in (
        ("verify", out),
        ("verify", out, "--key", "x+y+z"),
        ("verify", out, "--key", place / "log.key", "--key", place / "witness.key"),
        ("verify", out, "--key", place / "log.key", "--receipt-key", "xyz"),
        ("verify", out, "--key", place / "log.key", "--quorum", "1"),
        ("verify", journal, "--receipt-key", right),
        ("prove", journal, 3, "--html", "--json"),
        ("verify", out, "--key", place / "log.key", "--level", "full"),
        ("verify", out, "--key", place / "log.key", "--keyring", place / "keys"),
    ):
        batpak(*arguments, code=2)
    batpak("prove", journal, 3, "--out", out, code=5)
    text = out.read_text()
    out.write_text(text.replace('"sequence":3', '"sequence":4'))
    assert "not proven" in batpak("verify", out, "--key", place / "log.key", code=1).output
    out.write_text("no bundle")
    assert "failed    form" in batpak("verify", out, "--key", place / "log.key", code=1).output


def test_a_private_key_in_the_place_of_a_public_one_is_refused_and_not_shown(place: Path) -> None:
    journal, bundle, request = place / "journal", place / "bundle.json", place / "request"
    batpak("prove", journal, 3, "--out", bundle)
    batpak("witness", "request", journal, "--out", request)
    (place / "seed.txt").write_text("a seed of 32 characters, as text")
    pem = (place / "log.pem").read_text()
    witness = ("--name", NAME, "--key", place / "witness.pem", "--state", place / "seen")
    for private in (place / "log.pem", place / "seed.txt", pem, pem.replace("+", "-")):
        for arguments in (
            ("verify", journal, "--key", private),
            ("verify", bundle, "--key", private),
            ("verify", bundle, "--key", place / "log.key", "--witness", private),
            ("checkpoint", journal, "--cosigned", request, "--witness", private),
            ("witness", "cosign", request, "--log", private, *witness),
        ):
            done = batpak(*arguments, code=2)
            assert "key; give what this prints: batpak keys show" in done.stderr
            assert pem.split("\n")[1] not in done.stderr + done.output
            assert "as text" not in done.stderr + done.output
    assert "this is a private key" in batpak("verify", bundle, "--key", pem, code=2).stderr


def test_a_key_that_is_not_in_force_for_the_event_signs_nothing_and_is_not_introduced(
    place: Path,
) -> None:
    journal = place / "journal"
    with Store.open(journal, mode="r") as reader:
        before = reader.signing_keys()
        written = len(list(reader))
    sign = ("prove", journal, 3, "--signing-key")
    for key in ("later", "log"):
        refused = json.loads(batpak(*sign, place / f"{key}.pem", "--json", code=5).stderr)
        assert refused["error"]["code"] == "key-not-in-force"
        assert "keys add" in refused["error"]["advice"]
    (place / "taken").touch()
    batpak(*sign, place / "receipts.pem", "--out", place / "taken", code=5)
    with Store.open(journal, mode="r") as reader:
        assert reader.signing_keys() == before
        assert len(list(reader)) == written
    batpak("keys", "add", journal, "--key", place / "later.pem")
    assert "counts from event" in batpak(*sign, place / "later.pem", code=5).stderr
    batpak("keys", "retire", journal, LATER.key_id.hex())
    assert "retired" in batpak(*sign, place / "later.pem", code=5).stderr
    signed = Bundle.parse(batpak(*sign, place / "receipts.pem").output)
    assert signed.events[0].receipt is not None
    assert signed.events[0].receipt["signature"] is not None


def test_a_journal_is_verified_with_the_logs_key(place: Path) -> None:
    batpak("verify", place / "journal", "--key", place / "log.key")
    done = batpak("verify", place / "journal", "--key", place / "witness.key", "--json", code=1)
    assert {f["code"] for f in json.loads(done.output)["findings"]} == {"checkpoint-signature"}


def test_a_checkpoint_is_made_and_cosigned_by_a_witness_that_remembers(place: Path) -> None:
    journal, seen = place / "journal", place / "seen"
    witness = (
        "witness", "cosign", "--log", place / "log.key", "--name", NAME,
        "--key", place / "witness.pem", "--state", seen,
    )  # fmt: skip
    made = json.loads(batpak("checkpoint", journal, "--key", place / "log.pem", "--json").output)
    assert made.keys() == SHAPES["checkpoint"].keys()
    request = batpak("witness", "request", journal).output
    asked = json.loads(batpak("witness", "request", journal, "--json").output)
    assert asked.keys() == SHAPES["witness-request"].keys()
    cosigned = json.loads(batpak(*witness, "--json", stdin=request).output)
    assert cosigned.keys() == SHAPES["cosigned"].keys()
    assert cosigned["note"] == made["note"] + cosigned["line"] + "\n"
    (place / "cosigned").write_text(cosigned["note"])
    kept = batpak(
        "checkpoint", journal, "--cosigned", place / "cosigned", "--witness", place / "witness.key"
    )
    assert kept.output.startswith(cosigned["note"])
    assert published(journal).note == cosigned["note"]
    batpak("prove", journal, 3, "--out", place / "b.json")
    policy = ("--key", place / "log.key", "--witness", place / "witness.key", "--quorum", 1)
    batpak("verify", place / "b.json", *policy)
    batpak("prove", journal, 3, "--size", asked["size"], "--out", place / "c.json")
    # A later checkpoint, from what the witness has seen; another start is told apart.
    batpak("checkpoint", journal, "--key", place / "log.pem")
    late = batpak(*witness, code=5, stdin=batpak("witness", "request", journal).output)
    assert f"--old {made['size']}" in late.stderr
    good = batpak("witness", "request", journal, "--old", made["size"]).output
    batpak(*witness, stdin=good)
    # The first request is now a rollback.
    assert "rollback" in batpak(*witness, code=5, stdin=request).stderr
    before = seen.read_bytes()
    for bad in (
        "",
        "old x\n\nnote",
        "old 01\n\nn",
        "old 1\nAAAA\n\nn",
        "x" * (1 << 19),
        "old 1\n" * 99,
    ):
        assert batpak(*witness, code=5, stdin=bad).stderr
    assert seen.read_bytes() == before
    seen.write_text("no checkpoint")
    batpak(*witness, code=3, stdin=good)
    batpak("checkpoint", journal, code=2)
    batpak("checkpoint", journal, "--cosigned", place / "cosigned", code=2)
    own = ("--witness", place / "log.key")
    batpak("checkpoint", journal, "--key", place / "log.pem", *own, code=2)
    done = batpak("checkpoint", journal, "--cosigned", place / "cosigned", *own, code=5)
    assert "--field witness-key" in done.stderr


def test_a_witness_asks_for_a_request_from_what_it_saw_last(place: Path) -> None:
    journal, seen = place / "journal", place / "seen"
    witness = (
        "witness", "cosign", "--log", place / "log.key", "--name", NAME,
        "--key", place / "witness.pem", "--state", seen,
    )  # fmt: skip
    first = batpak("witness", "request", journal).output
    size = published(journal).size
    # C2SP, add-checkpoint: whoever has seen nothing is asked from 0 on, with no proof.
    part = batpak("witness", "request", journal, "--old", 3).output
    assert "is none" in batpak(*witness, code=5, stdin=part).stderr
    beyond = first.replace("old 0", f"old {size + 1}")
    assert "ends before" in batpak(*witness, code=5, stdin=beyond).stderr
    hashes = part.replace("old 3", "old 0")
    assert "has no hashes" in batpak(*witness, code=5, stdin=hashes).stderr
    # What can't be given away is refused before anything is remembered.
    (place / "taken").touch()
    batpak(*witness, "--out", place / "taken", code=5, stdin=first)
    batpak(*witness, "--out", place / "nowhere" / "file", code=5, stdin=first)
    batpak(*witness, "--out", place / "new", "--json", code=2, stdin=first)
    bad_name = [each if each != NAME else "no name" for each in witness]
    assert "a name is" in batpak(*bad_name, code=2, stdin=first).stderr
    assert not seen.exists()
    batpak(*witness, stdin=first)
    kept = seen.read_bytes()
    # Nothing new, and asked from elsewhere: the answer says where from.
    for again in (first, part, beyond):
        assert batpak(*witness, code=5, stdin=again).stderr
    assert f"--old {size}" in batpak(*witness, code=5, stdin=first).stderr
    batpak(*witness, stdin=batpak("witness", "request", journal, "--old", size).output)
    assert seen.read_bytes() == kept
    # Another log's request is no proof against this one.
    other = batpak(*witness, code=5, stdin=first.replace(ORIGIN, "example.org/other"))
    assert "unknown-log" in other.stderr
    assert "check --log" in other.stderr


def test_a_witness_gives_no_note_away_that_nobody_can_read(place: Path) -> None:
    journal, seen = place / "journal", place / "seen"
    witness = (
        "witness", "cosign", "--log", place / "log.key", "--name", NAME,
        "--key", place / "witness.pem", "--state", seen,
    )  # fmt: skip
    request = batpak("witness", "request", journal).output
    key = SigningKey.load(place / "witness.pem")
    text = Note.parse(published(journal).note).text

    def signed(count: int, name: str = "example.net/{}") -> str:
        lines = (sign_note(text, name.format(n), key.private, n) for n in range(count))
        return request + "".join(map(str, lines))

    full = batpak(*witness, code=5, stdin=signed(MAX_SIGNATURES - 1))
    assert "the log's own signature alone" in full.stderr
    assert not seen.exists()
    given = batpak(*witness, stdin=signed(MAX_SIGNATURES - 2)).output
    assert len(Note.parse(given).signatures) == MAX_SIGNATURES
    # Its own line of another time gives way to the new one.
    seen.unlink()
    again = batpak(*witness, stdin=signed(MAX_SIGNATURES - 1, NAME)).output
    assert [line.name for line in Note.parse(again).signatures] == [ORIGIN, NAME]


def test_a_witness_reads_base64_in_its_one_form_only(place: Path) -> None:
    journal, seen = place / "journal", place / "seen"
    witness = (
        "witness", "cosign", "--log", place / "log.key", "--name", NAME,
        "--key", place / "witness.pem", "--state", seen,
    )  # fmt: skip
    batpak(*witness, stdin=batpak("witness", "request", journal).output)
    size = published(journal).size
    batpak("append", journal, "agent:1", "approvals", "--json-payload", "{}")
    batpak("checkpoint", journal, "--key", place / "log.pem")
    good = batpak("witness", "request", journal, "--old", size).output
    head, _, note = good.partition("\n\n")
    first, *hashes = head.split("\n")
    # The last letter of 32 bytes carries two bits that are none of theirs.
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    other = f"{hashes[0][:-2]}{letters[letters.index(hashes[0][-2]) + 1]}="
    assert b64decode(other) == b64decode(hashes[0])
    before = seen.read_bytes()
    bad = "\n".join([first, other, *hashes[1:]]) + f"\n\n{note}"
    assert "one form" in batpak(*witness, code=5, stdin=bad).stderr
    assert seen.read_bytes() == before
    batpak(*witness, stdin=good)


class Reading(HTMLParser):
    """What a browser would make of a page: its tags, their attributes, its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.shown: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_the_page_of_a_bundle_runs_nothing_fetches_nothing_and_shows_everything(
    place: Path,
) -> None:
    with Store.open(place / "journal", mode="r") as reader:
        evil = next(e.sequence for e in reader if e.coordinate.entity.startswith("<b>"))
    text = batpak("prove", place / "journal", evil, "--html").output
    page = Reading()
    page.feed(text)
    assert not page.tags & {"script", "img", "link", "iframe", "a", "b", "form", "object"}
    names = {name for name, _ in page.attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href")]
    assert not re.search(r"url\(|@import|https?:", text)
    shown = "".join(page.shown)
    # Nothing that a browser obeys or hides: not in the words, nor in the bundle to copy.
    assert "\u202e" in batpak("prove", place / "journal", evil).output
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    assert "<b>bob<b>" in shown
    assert 'alert(\\"x\\")' in shown
    # The bundle stands in the page, to be copied out, and checks.
    bundle = Bundle.parse(next(each for each in page.shown if each.startswith('{"format"')))
    assert bundle == Bundle.parse(batpak("prove", place / "journal", evil).output)
    (place / "copied.json").write_text(
        next(each for each in page.shown if each.startswith('{"format"'))
    )
    batpak("verify", place / "copied.json", "--key", place / "log.key")
    withheld = batpak("prove", place / "journal", evil, "--html", "--withhold-payload").output
    assert "alert" not in withheld
    assert "withheld" in withheld


def test_a_range_grows_out_of_an_older_checkpoint(place: Path) -> None:
    journal = place / "journal"
    old = json.loads(batpak("witness", "request", journal, "--json").output)["size"]
    batpak("checkpoint", journal, "--key", place / "log.pem")
    done = batpak("prove", journal, "2:5", "--since", old, "--out", place / "range.json")
    assert done.output == ""
    told = json.loads(
        batpak("verify", place / "range.json", "--key", place / "log.key", "--json").output
    )
    answers = {check["name"]: check["answer"] for check in told["checks"]}
    assert answers["consistency"] == answers["chain"] == "held"
    assert len(Bundle.parse((place / "range.json").read_text()).events) == 3
    batpak("prove", journal, "5:2", code=5)
    batpak("prove", journal, "99999", code=5)
    for text in ("4:", ":4", ":", "2:x", "2:5:7", "\u00b2:5", "1:" + "9" * 5000):
        assert "write 2:5" in batpak("prove", journal, text, code=2).stderr
    unknown = batpak("prove", journal, 3, "--size", 4, code=5)
    assert f"there are those over {old}, " in unknown.stderr
    assert "below 2^63" in batpak("prove", journal, 3, "--size", 10**24, code=5).stderr
    beyond = batpak("witness", "request", journal, "--old", 99, code=5)
    assert "give a size from 0 to" in beyond.stderr


ELSEWHERE = """
import os, sys
from pydantic import Field, TypeAdapter  # typer loads it late, with the real os
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("pread", "pwrite", "fdatasync", "posix_fallocate", "register_at_fork", "statvfs",
             "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "getuid", "geteuid"):
    delattr(os, name)
from batpak import Store
from batpak.errors import PlatformUnsupported
for make in (lambda: Store.open("new"), lambda: Store.open("journal"),
             lambda: Store.open("journal", mode="r").snapshot("copy")):
    try:
        make()
    except PlatformUnsupported as error:
        print(error.code)
with Store.open("journal", mode="r") as store:
    assert store.verify().ok
from batpak_cli.app import main
main()
"""


def test_a_bundle_is_checked_where_nothing_can_be_written(place: Path) -> None:
    """Windows has no pwrite, no locks and no forks: journals and bundles are read there."""
    (place / "bundle.json").write_text(batpak("prove", place / "journal", 1).output)
    before = sorted(each.name for each in place.iterdir())
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "verify", "bundle.json", "--key", "log.key"],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("platform-unsupported\n" * 3)
    assert sorted(each.name for each in place.iterdir()) == before
