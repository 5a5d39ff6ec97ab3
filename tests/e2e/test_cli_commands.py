"""The command line as a shell sees it: output, exit codes, and what stands in the journal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batpak import Coordinate, Durability, EventId, EventKind, Item, Prior, Region, Store
from batpak.receipt import AppendReceipt
from batpak_cli.app import app
from batpak_cli.shapes import SHAPES

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "batpak_cli"]
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT / "src"),
    "LC_ALL": "C.UTF-8",
    "COLUMNS": "120",
}
KIND = EventKind(0xF, 1)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def program(*arguments: object, stdin: bytes = b"", code: int = 0, **environment: str) -> Done:
    """Run the program in a process of its own; it must exit with `code`."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=ENVIRONMENT | environment,
        input=stdin,
        capture_output=True,
        check=False,
    )
    result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert result.code == code, f"exit {result.code}\n{result.out}{result.err}"
    return result


def batpak(*arguments: object, stdin: bytes = b"", code: int = 0, **environment: str) -> Done:
    """The same without a process, for the many cases of a command that `program` also runs."""
    done = CliRunner().invoke(
        app, [*map(str, arguments)], input=stdin, env={"COLUMNS": "120"} | environment
    )
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    assert done.exit_code == code, f"exit {done.exit_code}\n{done.stdout}{done.stderr}"
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed journal of ten players' moves, an odd payload of each kind; only read."""
    path = tmp_path_factory.mktemp("cli") / "journal"
    with Store.open(path, durability=Durability.OS) as store:
        for number in range(10):
            name = f"player:{'alice' if number % 2 else 'bob'}"
            store.append(Coordinate(name, "room:1"), {"n": number}, kind=KIND)
        odd = {"b": b"\0\xff", "f": [float("nan"), float("-inf"), 0.5], "$m": {1: "one"}}
        store.append(Coordinate("odd", "room:2"), odd, kind=EventKind(0xE, 9))
        store.append_raw(Coordinate("odd", "room:2"), EventKind(0xE, 10), b"\xc1 not msgpack")
        first = Item(Coordinate("evil", "room:2"), "\x1b[31mred\u202e [bold]x", kind=KIND)
        second = Item(
            Coordinate("evil", "room:2"), 1, kind=KIND, causation=Prior(0),
            extensions={"acme.trace": b"\x01\x02"},
        )  # fmt: skip
        store.append_many([first, second])
    return path


@pytest.fixture
def own(history: Path, tmp_path: Path) -> Path:
    """A copy of `history` that a test may change."""
    return Path(shutil.copytree(history, tmp_path / "own"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A new journal with its open and close events."""
    path = tmp_path / "journal"
    Store.open(path).close()
    return path


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0xFF
    file.write_bytes(data)


def segment(journal: Path) -> Path:
    [found] = (journal / "segments").glob("*.seg")
    return found


# --- init, append ------------------------------------------------------------


def test_init_makes_a_journal_once(tmp_path: Path) -> None:
    made = program("init", tmp_path / "j", "--origin", "shop", "--json").json
    assert made.keys() == SHAPES["init"].keys()
    assert (made["created"], made["origin"]) == (True, "shop")
    size = segment(tmp_path / "j").read_bytes()
    again = batpak("init", tmp_path / "j", "--json").json
    assert again == made | {"created": False}
    assert segment(tmp_path / "j").read_bytes() == size
    assert "already there" in batpak("init", tmp_path / "j").out
    assert "can't be changed" in batpak("init", tmp_path / "j", "--origin", "x", code=5).err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    assert "letter" in batpak("init", tmp_path / "full", code=5).err


def test_append_prints_a_receipt(journal: Path) -> None:
    done = program(
        "append", journal, "player:alice", "room:1", "--kind", "0xF001",
        "--json-payload", '{"x": 10}', "--json",
    )  # fmt: skip
    receipt = AppendReceipt.from_json(done.out)
    assert receipt.durable
    with Store.open(journal, mode="r") as store:
        event = store.get(receipt.event_id)
        assert (event.value, event.kind, str(event.coordinate)) == (
            {"x": 10}, KIND, "player:alice@room:1",
        )  # fmt: skip
        assert event.event_hash == receipt.event_hash


def test_append_reads_its_payload_from_a_pipe(journal: Path) -> None:
    done = program("append", journal, "a", "b", stdin=b' [1, "\xc3\xa9"]\n')
    first = re.fullmatch(r"(event:[0-9a-f]{32}) at (\d+), durable\n", done.out)
    assert first
    batpak("append", journal, "a", "b", "--raw", "--causation", first[1], stdin=b"\0raw")
    with Store.open(journal, mode="r") as store:
        one, two = (event for event in store if not event.kind.is_system)
        assert (one.value, one.sequence, two.raw) == ([1, "é"], int(first[2]), b"\0raw")
        assert two.caused_by(EventId.parse(first[1]))


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (("a", "b", "--json-payload", "{"), b"", 5, "not JSON"),
        (("a", "b", "--json-payload", '{"a": 1, "a": 2}'), b"", 5, "stands twice"),
        (("a", "b", "--json-payload", "[NaN]"), b"", 5, "NaN is not JSON"),
        (("a", "b", "--json-payload", "[18446744073709551616]"), b"", 5, "65 bits"),
        (("a", "b"), b"", 5, "not JSON"),
        (("a", "b"), b"\xff", 5, "not UTF-8"),
        (("", "b", "--json-payload", "1"), b"", 5, "the entity is empty"),
        (("a/b", "b", "--json-payload", "1"), b"", 5, "'/'"),
        (("batpak:x", "b", "--json-payload", "1"), b"", 5, "belong to the journal"),
        (("a", "b", "--json-payload", "1", "--kind", "0x0001"), b"", 5, "belongs to the system"),
        (("a", "b", "--json-payload", "1", "--kind", "seven"), b"", 2, "not a number"),
        (("a", "b", "--json-payload", "1", "--kind", "65536"), b"", 2, "not a kind"),
        (("a", "b", "--json-payload", "1", "--raw"), b"", 2, "exclude each other"),
        (("a", "b", "--json-payload", "1", "--causation", "x"), b"", 5, "start with 'event:'"),
        (("a",), b"", 2, "SCOPE"),
    ],
)
def test_what_append_refuses_it_does_not_write(
    journal: Path, arguments: tuple[str, ...], stdin: bytes, code: int, said: str
) -> None:
    assert said in batpak("append", journal, *arguments, stdin=stdin, code=code).err
    with Store.open(journal, mode="r") as store:
        assert all(event.kind.is_system for event in store)


@pytest.mark.parametrize("arguments", [("append", "a", "b"), ("import jsonl", "x"), ("log",)])
def test_a_mistyped_path_makes_no_journal(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    name, *rest = arguments
    done = batpak(*name.split(), tmp_path / "nope", *rest, stdin=b"1", code=5)
    assert "batpak init" in done.err
    assert not (tmp_path / "nope").exists()


# --- reading -----------------------------------------------------------------


def test_log_shows_the_newest_as_a_table(history: Path) -> None:
    done = program("log", history, "-n", "3")
    rows = [line.split() for line in done.out.splitlines() if line.strip()]
    assert rows[0] == ["sequence", "time", "(UTC)", "entity", "scope", "kind", "clock", "payload"]
    assert [row[0] for row in rows[2:]] == ["13", "14", "15"]
    assert "batpak:store" in rows[-1]
    assert max(map(len, done.out.splitlines())) <= 120
    narrow = batpak("log", history, "-n", "3", COLUMNS="80").out
    assert "scope" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_an_event_for_programs_has_the_documented_fields(history: Path) -> None:
    *_, raw, evil, caused, _ = batpak("log", history, "-n", "100", "--json").lines
    assert all(event.keys() == SHAPES["event"].keys() for event in (raw, evil, caused))
    assert raw["payload"] == {"$raw": b"\xc1 not msgpack".hex()}
    assert caused["causation_id"].split(":")[1] == evil["event_id"].split(":")[1]
    assert caused["prev_hash"] == evil["event_hash"]
    assert caused["extensions"] == {"acme.trace": "0102"}
    [odd] = batpak("query", history, "--kind", "0xE009", "--json").lines
    assert odd["payload"] == {
        "$map": [
            ["b", {"$bytes": "00ff"}],
            ["f", [{"$float": "nan"}, {"$float": "-inf"}, 0.5]],
            ["$m", {"$map": [[1, "one"]]}],
        ]
    }


@pytest.mark.parametrize("number", [99, 2**64 - 1, 10**23])
def test_a_sequence_that_is_not_there_is_not_found(history: Path, number: int) -> None:
    refused = batpak("show", history, number, code=5).err
    assert refused.startswith(f"not found: no event has the sequence {number}")


def test_what_is_wrong_with_an_option_is_said_in_words_of_its_own(history: Path) -> None:
    refused = batpak("verify", history, "--level", "bogus", code=2).err
    assert "Invalid value for '--level': 'bogus' is not one of 'chain', 'full'." in refused
    refused = batpak("log", history, "-n", "0", code=2).err
    assert "'--number' / '-n': it has to be greater than or equal to 1" in refused


def test_show_finds_an_event_by_sequence_and_by_id(history: Path) -> None:
    with Store.open(history, mode="r") as store:
        event = store.at(3)
    by_sequence = program("show", history, 3, "--json")
    assert by_sequence == batpak("show", history, event.event_id, "--json")
    assert by_sequence.json["payload"] == {"n": 2}
    assert by_sequence.json["event_hash"] == event.event_hash.hex()
    text = batpak("show", history, 3).out
    assert event.event_hash.hex() in text
    assert '{"n": 2}' in text
    missing = batpak("show", history, 10**6, "--json", code=5)
    assert json.loads(missing.err)["error"]["code"] == "event-not-found"
    assert batpak("show", history, event.event_id.nil(), code=5).err.startswith("not found: ")
    cause = f"causation:{event.event_id.bytes.hex()}"
    assert batpak("show", history, cause, "--json") == by_sequence


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--entity", "player"), list(range(10))),
        (("--entity", "player:bob"), [0, 2, 4, 6, 8]),
        (("--entity", "play"), []),
        (("--scope", "room:1", "--kind", "0xF001"), list(range(10))),
        (("--scope", "room:1", "--category", "0xE"), []),
        (("--entity", "player", "--category", "15", "--clock", "3:"), [6, 7, 8, 9]),
        (("--entity", "player:alice", "--clock", "1:2"), [3, 5]),
        (("--entity", "player:alice", "--clock", "4"), [9]),
        (("--entity", "player", "--after", "5"), [5, 6, 7, 8, 9]),
        (("--entity", "player", "--limit", "3"), [0, 1, 2]),
        (("--entity", "player", "--after", "3", "--limit", "2"), [3, 4]),
    ],
)
def test_query_selects_on_every_axis(
    history: Path, options: tuple[str, ...], expected: list[int]
) -> None:
    run = program if len(options) == 6 else batpak
    found = run("query", history, *options, "--json")
    assert [event["payload"]["n"] for event in found.lines] == expected
    more = "--limit" in options
    assert (f"--after {expected[-1] + 1}" in found.err if expected else False) == more


@pytest.mark.parametrize(
    "options",
    [
        ("--kind", "x"),
        ("--category", "16"),
        ("--clock", "a:b"),
        ("--clock=-1:3",),
        ("--clock", "4294967296"),
        ("--kind", "1", "--category", "1"),
        ("--after", "-1"),
        ("--limit", "x"),
        ("--unknown",),
    ],
)
def test_a_query_that_makes_no_sense_is_a_usage_error(
    history: Path, options: tuple[str, ...]
) -> None:
    done = batpak("query", history, *options, code=2)
    assert "Usage: " in done.err
    assert not done.out


def test_a_limit_has_no_limit(history: Path) -> None:
    everything = batpak("query", history, "--json").out
    assert batpak("query", history, "--limit", "9" * 23, "--json").out == everything
    assert batpak("log", history, "-n", "9" * 23, "--json").out == everything
    assert batpak("query", history, "--after", "9" * 23, "--json").out == ""


def test_stats_counts(history: Path) -> None:
    numbers = program("stats", history, "--json").json
    assert numbers.keys() == SHAPES["stats"].keys()
    assert (numbers["events"], numbers["entities"], numbers["scopes"]) == (16, 5, 3)
    assert numbers["kinds"] == {"0x0008": 1, "0x0009": 1, "0xE009": 1, "0xE00A": 1, "0xF001": 12}
    assert re.search(r"events +16\b", batpak("stats", history).out)


def test_export_writes_what_the_journal_holds(history: Path, tmp_path: Path) -> None:
    piped = program("export", history, "--entity", "player")
    out = tmp_path / "events.jsonl"
    done = batpak("export", history, "--out", out, "--entity", "player", "--json")
    assert out.read_text() == piped.out
    assert json.loads(done.err).keys() == SHAPES["export"].keys()
    assert json.loads(done.err)["events"] == 10
    with Store.open(history, mode="r") as store:
        for line, event in zip(piped.lines, store.query(Region(entity="player")), strict=True):
            assert line["payload"] == event.value
            assert EventId.parse(line["event_id"]) == event.event_id
            assert line["event_hash"] == event.event_hash.hex()
    assert sorted(tmp_path.iterdir()) == [out]


def test_an_export_that_fails_leaves_no_file(tmp_path: Path, history: Path) -> None:
    done = batpak("export", history, "--out", tmp_path / "no" / "f", code=5)
    assert f"refused: there is no directory {tmp_path / 'no'}; create it" in done.err
    assert "names no file" in batpak("export", history, "--out", "", code=5).err
    assert "is a directory" in batpak("export", history, "--out", tmp_path, code=5).err
    broken = tmp_path / "journal"
    shutil.copytree(history, broken)
    with Store.open(history, mode="r") as store:
        raw = store.at(5).envelope
    assert raw
    data = segment(broken).read_bytes()
    flip(segment(broken), data.index(raw))
    assert "damaged: " in batpak("export", broken, "--out", tmp_path / "out", code=3).err
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_an_export_replaces_a_file_and_nothing_else(own: Path, tmp_path: Path) -> None:
    text = batpak("export", own).out
    out = tmp_path / "out.jsonl"
    out.write_text("older")
    out.chmod(0o600)
    other = tmp_path / "out.jsonl.tmp"
    other.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(out)
    batpak("export", own, "--out", link)
    assert link.is_symlink()
    assert (out.read_text(), other.read_text()) == (text, "mine")
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [link, out, other, own]

    files = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    inside = tmp_path / "inside"
    inside.symlink_to(own)
    for place in (own / "journal.json", own / "segments" / "new", inside / "tail.hint"):
        refused = batpak("export", own, "--out", place, code=5).err
        assert "is inside of the journal; name a file outside" in refused
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == files

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, "/dev/null"):
        refused = batpak("export", own, "--out", place, code=5).err
        assert "not a file of its own; leave --out away and redirect" in refused
    assert pipe.is_fifo()


def test_an_export_does_not_replace_the_file_that_its_output_goes_to(
    history: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("kept\n")
    for place in (log, "/dev/stdout"):
        with log.open("ab") as output:
            done = subprocess.run(
                [*COMMAND, "export", str(history), "--out", str(place)],
                env=ENVIRONMENT,
                stdout=output,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (done.returncode, log.read_text()) == (5, "kept\n")
        assert b"leave --out away" in done.stderr


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j", durability=Durability.OS) as store:
        items = [Item(Coordinate("a", "b"), {"text": "x" * 500}, kind=KIND)] * 1000
        store.append_many(items)
    with subprocess.Popen(
        [*COMMAND, "export", str(tmp_path / "j")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def shell(script: str, *arguments: object, **environment: str) -> tuple[int, str]:
    """The exit code of a script that runs the program as "$@", and what it wrote."""
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *map(str, arguments)],
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("command", [("--help",), ("log",), ("stats", "--json"), ("export",)])
def test_output_that_cannot_be_written_is_told(history: Path, command: tuple[str, ...]) -> None:
    arguments = command if "--help" in command else (command[0], history, *command[1:])
    code, said = shell('"$@" 2>&1 >/dev/full', *arguments)
    assert code == 5
    assert "the output can't be written: No space left on device" in said
    assert "Traceback" not in said
    assert said.count("\n") == 1
    # What nobody reads any more is no failure, whatever writes it.
    assert shell('{ "$@"; echo $? >&2; } | true', *arguments) == (0, "141\n")


def test_findings_that_cannot_be_written_are_no_findings(damaged: Path) -> None:
    code, said = shell('"$@" 2>&1 >/dev/full', "verify", damaged)
    assert (code, "can't be written" in said) == (5, True)


def test_a_stream_that_is_closed_is_told_before_anything_is_done(journal: Path) -> None:
    before = segment(journal).read_bytes()
    append = ("append", journal, "a", "s", "--json-payload", "1")
    code, said = shell('"$@" 2>&1 >&-', *append)
    assert (code, "standard output is closed; " in said) == (5, True)
    assert shell('"$@" >&- 2>&- <&-', *append) == (5, "")
    assert segment(journal).read_bytes() == before
    code, said = shell('"$@" 2>&1 <&-', "append", journal, "a", "s")
    assert (code, "the payload can't be kept" in said) == (5, True)


@pytest.mark.parametrize("nowhere", ["2>/dev/full", "2>&-"])
def test_what_is_said_beside_a_result_is_not_part_of_it(
    history: Path, tmp_path: Path, nowhere: str
) -> None:
    assert shell(f'"$@" {nowhere}', "log", tmp_path / "nope") == (5, "")
    assert shell(f'"$@" {nowhere}', "export", history) == (0, program("export", history).out)


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_every_text_can_be_written_in_every_encoding(
    journal: Path, encoding: dict[str, str]
) -> None:
    batpak("append", journal, "é:1", "s", "--json-payload", '"😀"')
    for command in ("log", "tail"):
        code, shown = shell('"$@"', command, journal, **encoding)
        assert (code, shown.isascii(), r"\u00e9:1" in shown) == (0, True, True)
        assert "é:1" in batpak(command, journal).out
    code, lines = shell('"$@" 2>/dev/null', "export", journal, **encoding)
    assert (code, lines.isascii()) == (0, True)
    assert [json.loads(line) for line in lines.splitlines()] == batpak("export", journal).lines
    batpak("keys", "new", journal.parent / "key", "--name", "a.example")
    code, note = shell(
        '"$@" 2>/dev/null', "checkpoint", journal, "--key", journal.parent / "key", **encoding
    )
    [kept] = (journal / "checkpoints").glob("*.note")
    # A note is what was signed, byte for byte.
    assert (code, note) == (0, kept.read_text())


# --- tail --------------------------------------------------------------------


def test_tail_shows_the_newest_one_a_line(history: Path) -> None:
    out = program("tail", history, "-n", "2").out.splitlines()
    assert [line.split()[0] for line in out] == ["14", "15"]
    assert batpak("tail", history, "-n", "0").out == ""


@contextlib.contextmanager
def following(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_tail_follows_a_live_writer_until_interrupted(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j", segment_max_bytes=4096, preallocate=0) as store:
        store.append(Coordinate("a", "b"), {"n": 0}, kind=KIND)
        with following("tail", tmp_path / "j", "-f", "-n", 1, "--json") as process:
            assert process.stdout
            seen = [json.loads(process.stdout.readline())["payload"]["n"]]
            for number in range(1, 40):
                store.append(Coordinate("a", "b"), {"n": number}, kind=KIND)
            seen += [json.loads(process.stdout.readline())["payload"]["n"] for _ in range(39)]
            assert seen == list(range(40))
            process.send_signal(signal.SIGINT)
            assert process.wait() == 0
            assert process.stdout.read() == ""


def test_a_tail_of_a_journal_that_was_rewound_says_so(tmp_path: Path) -> None:
    with Store.open(tmp_path / "j") as store:
        store.append(Coordinate("a", "b"), 1, kind=KIND)
        shutil.copytree(tmp_path / "j", tmp_path / "old")
        store.append(Coordinate("a", "b"), 2, kind=KIND)
        with following("tail", tmp_path / "j", "-f", "--json") as process:
            assert process.stdout
            for _ in range(3):
                process.stdout.readline()
            old = segment(tmp_path / "old").read_bytes()
            segment(tmp_path / "j").write_bytes(old)
            assert process.wait() == 3


# --- verify, repair, damage --------------------------------------------------


def test_verify_says_that_all_is_well(history: Path) -> None:
    report = program("verify", history, "--json").json
    assert report.keys() == SHAPES["verify"].keys()
    assert (report["ok"], report["events"], report["findings"]) == (True, 16, [])
    assert batpak("verify", history, "--level", "chain").out.startswith(
        "ok: 16 events in 1 segment"
    )
    assert "Usage" in batpak("verify", history, "--level", "quick", code=2).err


@pytest.fixture
def damaged(history: Path, tmp_path: Path) -> Path:
    """The history with a flipped byte in the payload of event 5."""
    path = tmp_path / "damaged"
    shutil.copytree(history, path)
    with Store.open(path, mode="r") as store:
        envelope = store.at(5).envelope
    assert envelope
    flip(segment(path), segment(path).read_bytes().index(envelope) + 1)
    return path


def test_verify_exits_1_with_findings(damaged: Path) -> None:
    report = program("verify", damaged, "--json", code=1).json
    assert not report["ok"]
    finding = report["findings"][0]
    assert finding.keys() == SHAPES["finding"].keys()
    assert finding["file"] == str(segment(damaged))
    text = batpak("verify", damaged, code=1).out
    assert text.startswith(f"finding: {finding['code']}: {segment(damaged)} at ")


def test_a_damaged_journal_is_told_with_its_place_and_exit_3(damaged: Path) -> None:
    done = program("show", damaged, 5, code=3)
    assert re.fullmatch(
        rf"damaged: {re.escape(str(segment(damaged)))} at \d+: .*\(exit 3\)\n", done.err
    )
    failure = json.loads(batpak("show", damaged, 5, "--json", code=3).err)["error"]
    assert failure.keys() == SHAPES["error"].keys()
    assert failure["facts"]["sequence"] == 5


def cut_short(source: Path, target: Path) -> None:
    """A copy whose last durable events are damaged: all records from event 8 on."""
    shutil.copytree(source, target)
    with Store.open(target, mode="r") as store:
        row = store.at(8).row_bytes
    flip(segment(target), segment(target).read_bytes().index(row))


def test_what_precedes_damage_is_shown_and_the_rest_told(history: Path, tmp_path: Path) -> None:
    cut_short(history, tmp_path / "j")
    for index in (tmp_path / "j" / "segments").glob("*.idx"):
        index.unlink()
    done = batpak("log", tmp_path / "j", "-n", "3", code=3)
    assert [row.split()[0] for row in done.out.splitlines()[3:6]] == ["5", "6", "7"]
    assert "damaged: " in done.err
    assert "batpak repair" in done.err
    report = batpak("verify", tmp_path / "j", "--json", code=1).json
    assert report["findings"][0]["sequence"] == 8


def test_verify_sees_a_segment_that_another_history_wrote(tmp_path: Path) -> None:
    # Opening stops before it; verify must not stop there and call the rest good.
    ours, other = tmp_path / "ours", tmp_path / "other"
    Store.open(ours).close()
    shutil.copytree(ours, other)
    for number, path in enumerate((ours, other)):
        with Store.open(path, segment_max_bytes=4096) as store:
            for _ in range(30):
                store.append(Coordinate("a", "b"), number, kind=KIND)
    *_, middle, _ = sorted((ours / "segments").glob("*.seg"))
    shutil.copy(other / "segments" / middle.name, middle)
    for index in (ours / "segments").glob("*.idx"):
        index.unlink()
    report = batpak("verify", ours, "--json", code=1).json
    assert report["findings"][0]["file"] == str(middle)


def test_repair_explains_and_accepts_a_loss_on_a_copy(history: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "j", tmp_path / "mended"
    assert batpak("repair", history).out.startswith("healthy: ")
    cut_short(history, source)
    for index in (source / "segments").glob("*.idx"):
        index.unlink()
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert "damaged: " in batpak("append", source, "a", "b", "--json-payload", "1", code=3).err

    found = program("repair", source, "--json", code=3).json
    assert found.keys() == SHAPES["diagnosis"].keys()
    assert (found["state"], found["events"], found["lost_until"]) == ("damaged", 8, 16)
    assert "  - accept the loss on a copy" in batpak("repair", source, code=3).out
    done = program("repair", source, "--into", target, "--json").json
    assert done.keys() == SHAPES["repair"].keys()
    assert (done["kept"], done["lost_from"], done["lost_until"]) == (8, 8, 16)
    after = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    after.pop(source / "journal.lock")
    before.pop(source / "journal.lock")
    assert after == before

    batpak("append", target, "a", "b", "--json-payload", "1")
    assert batpak("verify", target, "--json").json["ok"]
    assert "refused: " in batpak("repair", source, "--into", target, code=5).err
    refused = batpak("repair", history, "--into", tmp_path / "n", code=5).err
    assert "refused: " in refused
    assert "; go on with the journal as it is" in refused
    refused = batpak("repair", source, "--into", tmp_path / "no" / "n", code=5).err
    assert f"refused: there is no directory {tmp_path / 'no'}; create it" in refused


def test_repair_says_of_a_journal_that_opens_what_is_damaged_and_to_go_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j"
    with Store.open(path, segment_max_bytes=4096) as store:
        for _ in range(60):
            store.append(Coordinate("a", "b"), 1, kind=KIND)
    first, second, *_ = sorted((path / "segments").glob("*.seg"))
    data = bytearray(second.read_bytes())
    damaged = int(second.stem) + 1
    data[600] ^= 1
    second.write_bytes(data)
    batpak("append", path, "a", "b", "--json-payload", "1")

    found = program("repair", path, "--json", code=3).json
    assert (found["state"], found["file"]) == ("usable", str(second))
    assert found["lost_until"] == found["events"] > damaged
    assert f"event {damaged} (head-crc" in found["explanation"]
    shown = batpak("repair", path, code=3).out
    assert "usable: the journal opens, for reading and for writing." in shown
    assert "  - go on with the journal as it is" in shown
    assert "--into" not in shown
    refused = batpak("repair", path, "--into", tmp_path / "copy", code=5).err
    assert "there is no loss to accept: the journal opens" in refused
    assert not (tmp_path / "copy").exists()

    # With a segment missing as well, what precedes that is served, and no more is promised.
    first.unlink()
    found = program("repair", path, "--json", code=3).json
    assert (found["state"], found["events"]) == ("damaged", 0)


@pytest.mark.parametrize("words", ["log", "query", "tail", "stats", "export"])
def test_a_reader_of_a_journal_whose_segments_are_gone_is_told(
    history: Path, tmp_path: Path, words: str
) -> None:
    path = tmp_path / "j"
    shutil.copytree(history, path)
    shutil.rmtree(path / "segments")
    assert "all segments are gone" in batpak(words, path, code=3).err


def test_verify_checks_what_stands_behind_a_missing_first_segment(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Store.open(path, segment_max_bytes=4096) as store:
        for _ in range(60):
            store.append(Coordinate("a", "b"), 1, kind=KIND)
        events = len(store)
    first, second, *_ = sorted((path / "segments").glob("*.seg"))
    first.unlink()
    report = batpak("verify", path, "--json", code=1).json
    assert report["events"] == events + 1 - int(second.stem), "the close event, too"
    assert [found["code"] for found in report["findings"]] == ["missing-events"]
    assert f"batpak repair {path}" in report["findings"][0]["message"]
    assert "the journal's first segment is missing" in batpak("log", path, code=3).err


def test_erase_and_compact_forget_and_say_so(own: Path) -> None:
    before = [line["event_hash"] for line in batpak("export", own).lines]
    users = [
        line["sequence"]
        for line in batpak("export", own).lines
        if not line["entity"].startswith("batpak:")
    ]
    first = users[0]
    size = len(before)
    planned = batpak("erase", own, first, "--dry-run", "--json").json
    assert planned.keys() == SHAPES["erase"].keys()
    assert (planned["events"], planned["receipts"], planned["dry_run"]) == (1, [], True)
    refused = batpak("erase", own, first, "--reason", "request 1", "--json", code=5)
    assert json.loads(refused.err)["error"]["facts"]["field"] == "yes"
    assert len(batpak("export", own).lines) == size, "nothing was written"
    done = batpak("erase", own, first, "--reason", "request 1", "--yes", "--json").json
    assert done.keys() == SHAPES["erase"].keys()
    assert (done["sequences"], len(done["receipts"])) == ([[first, first]], 1)
    shown = batpak("show", own, first, "--json").json
    assert (shown["payload_state"], shown["payload"]) == ("erased", None)
    again = batpak("erase", own, first, "--reason", "request 1", "--yes")
    assert again.out == "erased 0 payloads, erased before: 1\n"
    planned = batpak("compact", own, "--dry-run", "--json").json
    assert planned.keys() == SHAPES["compact"].keys()
    assert (planned["outcome"], planned["payloads"]) == ("planned", 1)
    assert "would leave out 1 payload" in batpak("compact", own, "--dry-run").out
    assert "--yes" in batpak("compact", own, code=5).err
    missing = batpak("compact", own / "not-here", code=5).err
    assert "no journal here" in missing
    assert "--yes" not in missing
    done = batpak("compact", own, "--yes", "--json").json
    assert done.keys() == SHAPES["compact"].keys()
    assert (done["outcome"], done["payloads"], len(done["segments"])) == ("performed", 1, 1)
    assert batpak("compact", own, "--yes").out.startswith("skipped: nothing to do")
    events = batpak("export", own).lines
    assert [event["event_hash"] for event in events][:size] == before
    assert [e["sequence"] for e in events if e["payload_state"] == "erased"] == [first]
    assert batpak("verify", own, "--json").json["ok"]


def test_what_to_erase_is_said_in_one_way(own: Path) -> None:
    for arguments in ((), ("1", "--entity", "player")):
        batpak("erase", own, *arguments, "--reason", "x", "--yes", code=2)
    batpak("erase", own, "1", "--yes", code=2)
    batpak("erase", own, "0", "--reason", "x", "--yes", code=5)
    batpak("erase", own, "99999", "--reason", "x", "--yes", code=5)
    done = batpak("erase", own, "--category", "0xF", "--reason", "x", "--yes", "--json").json
    assert done["events"] > 0
    system = batpak("erase", own, "--category", "0", "--reason", "x", "--yes", "--json").json
    assert (system["events"], system["system"] > 0) == (0, True)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_imports_encrypt_under_a_keyring_as_append_does(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    keys = tmp_path / "keys"
    batpak("keyring", "new", keys)
    (tmp_path / "some.jsonl").write_text('{"said": "the secret"}\n')
    (tmp_path / "some.csv").write_text("said\nthe secret\n")
    under: tuple[object, ...] = ("--keyring", keys)
    if how == "environment":
        monkeypatch.setenv("BATPAK_KEYRING", str(keys))
        under = ()
    for kind in ("jsonl", "csv"):
        batpak("import", kind, own, tmp_path / f"some.{kind}", *under)
    monkeypatch.delenv("BATPAK_KEYRING", raising=False)
    assert b"the secret" not in b"".join(p.read_bytes() for p in (own / "segments").glob("*"))
    assert "the secret" not in batpak("export", own).out
    assert batpak("export", own, "--keyring", keys).out.count("the secret") == 2


def test_payloads_are_encrypted_read_and_shredded_from_the_command_line(
    own: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    made = batpak("keyring", "new", keys, "--json").json
    assert made.keys() == SHAPES["keyring"].keys()
    assert made["policy"] == "entity"
    batpak("keyring", "new", keys, code=5)
    secret = ("--json-payload", '"the secret"', "--keyring", keys, "--json")
    first = batpak("append", own, "user:1", "room", *secret).json["sequence"]
    second = batpak("append", own, "user:1", "room", *secret).json["sequence"]
    third = batpak("append", own, "user:2", "room", *secret).json["sequence"]
    assert batpak("show", own, first, "--keyring", keys, "--json").json["payload"] == "the secret"
    sealed = batpak("show", own, first, "--json").json["payload"]
    assert bytes.fromhex(sealed["$sealed"])[16:]
    for command in (("log",), ("tail",), ("query", "--entity", "user")):
        words = (command[0], own, *command[1:])
        assert batpak(*words).out.count("(encrypted)") == 3
        assert batpak(*words, "--keyring", keys).out.count("the secret") == 3
    assert "the secret" not in batpak("export", own).out
    assert batpak("export", own, "--keyring", keys).out.count("the secret") == 3
    report = batpak("verify", own, "--json").json
    assert (report["ok"], report["encrypted"], report["closed"]) == (True, 3, {"no-keyring": 3})
    assert "encrypted payloads: 3; not opened: 3 no-keyring" in batpak("verify", own).err
    assert batpak("verify", own, "--keyring", keys, "--json").json["closed"] == {}

    planned = batpak("shred", own, first, "--dry-run", "--json").json
    assert planned.keys() == SHAPES["shred"].keys()
    assert (planned["events"], planned["others"], planned["receipts"]) == (1, 1, [])
    told = batpak("shred", own, first, second, "--keyring", keys, "--json", code=5)
    assert json.loads(told.err)["error"]["facts"]["field"] == "yes"
    told = batpak("shred", own, first, "--keyring", keys, "--yes", "--json", code=5)
    assert json.loads(told.err)["error"]["facts"]["reason"] == "covers-more"
    told = batpak("shred", own, first, second, "--yes", "--json", code=5)
    assert "--keyring" in json.loads(told.err)["error"]["advice"]
    assert json.loads(told.err)["error"]["code"] == "keyring-refused"
    batpak("shred", own, "--keyring", keys, "--yes", code=2)
    batpak("shred", own, "--key", "zz", "--keyring", keys, "--yes", code=2)
    batpak("shred", own, "--key", "00" * 16, "--keyring", keys, "--yes", code=5)
    batpak("shred", own, "0", "--keyring", keys, "--yes", code=5)
    wrong = tmp_path / "wrong-keys"
    batpak("keyring", "new", wrong)
    told = batpak("shred", own, first, second, "--keyring", wrong, "--yes", "--json", code=5)
    assert json.loads(told.err)["error"]["facts"]["reason"] == "missing-key"
    assert batpak("show", own, first, "--keyring", keys, "--json").json["payload"] == "the secret"
    done = batpak("shred", own, first, second, "--keyring", keys, "--yes", "--json").json
    assert done.keys() == SHAPES["shred"].keys()
    assert (done["events"], len(done["receipts"]), len(done["keys"])) == (2, 1, 1)
    again = batpak("shred", own, first, second, "--keyring", keys, "--yes")
    assert again.out.endswith("shredded before: 1 key\n")
    shown = batpak("show", own, first, "--keyring", keys, "--json").json
    assert (shown["payload_state"], shown["payload"]) == ("shredded", None)
    assert batpak("show", own, third, "--keyring", keys, "--json").json["payload"] == "the secret"
    key_id = batpak("show", own, third, "--json").json["payload"]["$sealed"][:32]
    (keys / f"{key_id}.key").unlink()
    last = batpak("shred", own, "--key", key_id, "--keyring", keys, "--also-missing", "--yes")
    assert last.out.startswith("shredded 1 key: 1 event asked for, 0 others")
    assert "not in the keyring, so not destroyed: 1 key" in last.err
    assert batpak("verify", own, "--json").json["closed"] == {"shredded": 3}
    missing = batpak("log", own, "--keyring", tmp_path / "none", "--json", code=5)
    assert json.loads(missing.err)["error"]["facts"]["reason"] == "missing"


def test_compact_names_the_copies_that_may_remain(own: Path, tmp_path: Path) -> None:
    os.link(segment(own), tmp_path / "copy.seg")
    batpak("erase", own, "--entity", "player", "--reason", "x", "--yes")
    # The old file gets a name of its own when a writer opens it: so it is a sealed one here.
    done = batpak("compact", own, "--yes", "--json").json
    assert done["outcome"] == "performed"
    (own / "quarantine").mkdir()
    (own / "quarantine" / "tail.bin").write_bytes(b"torn")
    batpak("erase", own, "--entity", "odd", "--reason", "x", "--yes")
    done = batpak("compact", own, "--yes")
    assert f"may remain: {own / 'quarantine' / 'tail.bin'}" in " ".join(done.err.split("\n"))


def test_a_snapshot_is_taken_restored_and_forked_from_the_command_line(
    history: Path, tmp_path: Path
) -> None:
    copy, new, same, other = (tmp_path / name for name in ("copy", "new", "same", "other"))
    # A live writer is in nobody's way.
    with Store.open(history):
        taken = program("snapshot", history, copy, "--json").json
        assert taken.keys() == SHAPES["snapshot"].keys()
        assert taken["events"] == 17
        forked = program("fork", history, other, "--json", "--origin", "example.org/b").json
        assert forked.keys() == SHAPES["fork"].keys()
        assert (forked["events"], forked["origin"]) == (17, "example.org/b")
    restored = program("restore", copy, new, "--json").json
    assert restored.keys() == SHAPES["restore"].keys()
    assert restored["journal_id"] != restored["from_journal"] == taken["journal_id"]
    assert batpak("restore", copy, same, "--resume", "--json").json["resumed"] is True
    for path in (copy, new, same, other):
        assert batpak("verify", path, "--json").json["ok"]
    assert batpak("snapshot", new, tmp_path / "next").out.startswith("snapshot ")
    assert batpak("restore", tmp_path / "next", tmp_path / "last").out.startswith("restored ")
    assert batpak("fork", new, tmp_path / "branch").out.startswith("fork ")

    taken_place = batpak("snapshot", history, copy, "--json", code=5)
    assert json.loads(taken_place.err)["error"]["code"] == "destination-taken"
    assert "refused: " in batpak("restore", history, tmp_path / "n", code=5).err
    (copy / "tail.hint").unlink()
    failed = batpak("restore", copy, tmp_path / "n", "--json", code=3)
    told = json.loads(failed.err)["error"]
    assert told["code"] == "snapshot-damaged"
    assert told["facts"]["findings"] == ["tail.hint: it is missing"]
    assert not (tmp_path / "n").exists()


def test_a_held_lock_is_exit_4_and_names_the_holder(journal: Path) -> None:
    with Store.open(journal):
        done = program("append", journal, "a", "b", "--json-payload", "1", code=4)
        assert done.err.startswith("locked: ")
        assert f"process {os.getpid()}" in done.err
        assert "reading works meanwhile" in done.err
        assert batpak("log", journal, "--json").lines


@pytest.mark.parametrize("name", ["file", "folder", "file/below"])
def test_what_is_no_journal_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter").touch()
    for command in ("log", "verify", "stats", "repair", "append"):
        rest = ("a", "b", "--json-payload", "1") if command == "append" else ()
        if (command, name) == ("verify", "file"):
            # A file is taken for a bundle, which is judged by a key or not at all.
            assert "--key" in batpak(command, tmp_path / name, code=2).err
            continue
        refused = batpak(command, tmp_path / name, *rest, code=5).err
        assert refused.startswith("refused: ")
        # No journal can be made where a file is.
        assert name == "folder" or "batpak init" not in refused
    assert (tmp_path / "file").read_text() == "text"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["letter"]


def test_a_path_that_cannot_be_looked_at_is_not_said_to_be_empty(tmp_path: Path) -> None:
    # A permission would do as well, but root needs none.
    path = tmp_path / ("x" * 300)
    for rest in (("log", path), ("append", path, "a", "b", "--json-payload", "1")):
        told = batpak(*rest, code=5).err
        assert told.startswith("unavailable: ")
        assert "File name too long" in told


# --- import ------------------------------------------------------------------


def test_import_jsonl_counts_and_goes_on(journal: Path, tmp_path: Path) -> None:
    log = tmp_path / "app.jsonl"
    log.write_text('{"id": 7}\n{"id": 8}\n')
    options = ("--entity", "user", "--entity-field", "id", "--kind", "0xF001", "--scope", "app")
    first = program("import", "jsonl", journal, log, *options, "--json").json
    assert first.keys() == SHAPES["import"].keys()
    assert (first["events"], first["resumed"], first["source"]) == (2, False, "jsonl:app.jsonl")
    assert batpak("import", "jsonl", journal, log, *options).out == "jsonl:app.jsonl: nothing new\n"
    with log.open("a") as file:
        file.write('bad\n{"id": 9}\n{"id": 1')
    done = batpak("import", "jsonl", journal, log, *options, code=5)
    assert done.err.startswith(f"refused: {log}: line 3 ")
    failure = json.loads(batpak("import", "jsonl", journal, log, "--json", code=5).err)["error"]
    assert (failure["code"], failure["facts"]["line"]) == ("import-source", 3)
    done = batpak("import", "jsonl", journal, log, *options, "--skip-bad")
    assert re.fullmatch(
        r"jsonl:app\.jsonl: 1 event from 2 lines in [\d.]+ s, [\d,]+ events/s\n", done.out
    )
    assert "left out: line 3: not JSON" in done.err
    assert "unfinished" in done.err
    users = batpak("query", journal, "--entity", "user", "--kind", "0xF001", "--json").lines
    assert [event["entity"] for event in users] == ["user:7", "user:8", "user:9"]
    refused = batpak("import", "jsonl", journal, log, "--kind", "0x0001", "--json", code=5)
    assert json.loads(refused.err)["error"]["code"] == "reserved-kind"


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--entity", "a/b", "refused: the entity holds '/' or '..'"),
        ("--entity", "", "refused: the entity is empty"),
        ("--scope", "", "refused: the scope is empty"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_no_line_is_blamed_for_a_name_that_an_option_gives(
    journal: Path, tmp_path: Path, form: str, option: str, name: str, said: str
) -> None:
    file = tmp_path / "file"
    file.write_text('{"id": 7}\n')
    done = batpak("import", form, journal, file, option, name, "--skip-bad", code=5)
    assert done.err.startswith(said)
    assert "line" not in done.err


def test_a_number_of_thousands_of_digits_is_a_bad_line(journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f'{{"id": {"7" * 5000}}}\n')
    told = batpak("import", "jsonl", journal, file, code=5).err
    assert "line 1 can't be imported: a whole number of thousands of digits does not fit" in told
    assert "sys." not in told


def test_import_csv_counts_and_goes_on(journal: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id\tsize\n7\t1.5\n")
    options = (
        "--entity",
        "disk",
        "--entity-column",
        "id",
        "--delimiter",
        "\\t",
        "--kind",
        "0xF001",
    )
    typed = (*options, "--types", "size:float?", "--scope", "shop", "--batch", "1")
    first = program("import", "csv", journal, table, *typed, "--json").json
    assert first.keys() == SHAPES["import"].keys()
    assert (first["events"], first["resumed"], first["source"]) == (1, False, "csv:t.csv")
    assert batpak("import", "csv", journal, table, *typed).out == "csv:t.csv: nothing new\n"
    assert "system" in batpak("import", "csv", journal, table, "--kind", "0x000F", code=5).err
    with table.open("a") as file:
        file.write("8\tbig\n9\t\n1")
    done = batpak("import", "csv", journal, table, *typed, code=5)
    assert done.err.startswith(f"refused: {table}: line 3 ")
    failure = json.loads(batpak("import", "csv", journal, table, *typed, "--json", code=5).err)
    assert (failure["error"]["code"], failure["error"]["facts"]["line"]) == ("import-source", 3)
    done = batpak("import", "csv", journal, table, *typed, "--skip-bad")
    assert re.fullmatch(r"csv:t\.csv: 1 event from 2 rows in [\d.]+ s, [\d,]+ events/s\n", done.out)
    assert "left out: line 3: column 'size': 'big' is not a number" in done.err
    assert "unfinished" in done.err
    disks = batpak("query", journal, "--entity", "disk", "--kind", "0xF001", "--json").lines
    assert [(event["entity"], event["payload"]["size"]) for event in disks] == [
        ("disk:7", 1.5),
        ("disk:9", None),
    ]
    for wrong in (("--kind", "x"), ("--delimiter", ",,"), ("--types", "size"), ("--batch", "0")):
        assert wrong[0] in batpak("import", "csv", journal, table, *wrong, code=2).err


def test_import_git_of_an_empty_repository_is_refused(journal: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main", str(tmp_path / "repo")], check=True)
    done = program("import", "git", journal, tmp_path / "repo", code=5)
    assert done.err.startswith(f"refused: {tmp_path / 'repo'}: main has no commits; ")
    assert "not a git repository" in batpak("import", "git", journal, tmp_path, code=5).err
    with Store.open(journal, mode="r") as store:
        assert all(event.kind.is_system for event in store)


# --- what people see ---------------------------------------------------------


def on_a_terminal(
    *arguments: object, command: Sequence[str] = COMMAND, **environment: str
) -> bytes:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        env=ENVIRONMENT | {"TERM": "xterm-256color"} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        # A terminal whose last writer is gone reads as an error.
        with contextlib.suppress(OSError):
            while select.select([ours], [], []) and (piece := os.read(ours, 65536)):
                shown += piece
        os.close(ours)
        assert process.wait() == 0
    return shown


def test_colour_is_for_terminals_and_never_with_no_color(history: Path) -> None:
    assert b"\x1b[" in on_a_terminal("log", history)
    # NO_COLOR leaves bold and dim, which are no colours.
    assert not re.search(
        rb"\x1b\[[\d;]*(3[0-7]|9[0-7]|38)", on_a_terminal("log", history, NO_COLOR="1")
    )
    assert "\x1b" not in batpak("log", history).out


def test_a_bar_appears_on_a_terminal_and_nowhere_else(
    history: Path, journal: Path, tmp_path: Path
) -> None:
    # As if every command had lasted long enough already.
    (tmp_path / "sitecustomize.py").write_text(
        "import batpak_cli.terminal as terminal\nterminal._BAR_AFTER = 0\n"
    )
    path = f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    (tmp_path / "lines").write_text('{"n": 1}\n')
    batpak("keys", "new", tmp_path / "key")
    cut_short(history, tmp_path / "damaged")
    for index in (tmp_path / "damaged" / "segments").glob("*.idx"):
        index.unlink()
    for command in (
        ("verify", history),
        ("export", history, "--out", tmp_path / "out"),
        ("import", "jsonl", journal, tmp_path / "lines"),
        ("snapshot", journal, tmp_path / "taken"),
        ("restore", tmp_path / "taken", tmp_path / "restored"),
        ("fork", journal, tmp_path / "forked"),
        ("checkpoint", journal, "--key", tmp_path / "key"),
        ("prove", journal, "1"),
        ("witness", "request", journal),
        ("compact", journal, "--yes"),
        ("repair", journal),
        ("repair", tmp_path / "damaged", "--into", tmp_path / "repaired"),
    ):
        assert "━".encode() in on_a_terminal(*command, PYTHONPATH=path)
    assert "━" not in program("verify", history, PYTHONPATH=path).err
    assert "━".encode() not in on_a_terminal("verify", history, "--json", PYTHONPATH=path)


def test_a_bar_waits_until_the_work_has_lasted_a_second() -> None:
    script = (
        "import types, batpak_cli.terminal as terminal\n"
        "clock = iter([10.0, 10.9, 11.0])\n"
        "terminal.time = types.SimpleNamespace(monotonic=clock.__next__)\n"
        "with terminal.Bar('working', unit='events') as bar:\n"
        "    bar(1, 4)\n"
        "    print('nine tenths', flush=True)\n"
        "    bar(2, 4)\n"
        "print('the end', flush=True)\n"
    )
    shown = on_a_terminal(command=[sys.executable, "-c", script])
    before, said, after = shown.partition(b"nine tenths")
    bar, _, rest = after.partition(b"the end")
    assert (bool(said), b"working" in before, b"working" in rest) == (True, False, False)
    assert b"working" in bar
    assert "━".encode() in bar


def test_text_from_a_journal_commands_no_terminal(history: Path) -> None:
    for shown in (batpak("log", history).out, batpak("tail", history).out):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert r"\u001b[31mred" in shown
        assert "[bold]" in shown


def test_help_is_quick_to_load_and_names_every_exit_code() -> None:
    check = (
        "import sys, batpak_cli.app\n"
        "heavy = {'numpy', 'rich', 'msgspec', 'pydantic', 'batpak.store'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, check=True)
    shown = program("--help").out
    for code in (0, 1, 2, 3, 4, 5, 70, 130, 141):
        assert re.search(rf"^ +{code}  \w", shown, re.MULTILINE)
    assert batpak().out == shown
    assert re.fullmatch(r"batpak \d+\.\d+\.\d+\n", batpak("--version").out)


def test_a_fault_of_the_program_is_no_finding(history: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import batpak_cli.shapes as shapes\n"
        "def broken(*_): raise ZeroDivisionError('a fault')\n"
        "shapes.stats = broken\n"
    )
    path = f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    done = program("stats", history, code=70, PYTHONPATH=path)
    assert "ZeroDivisionError: a fault" in done.err


def test_the_distribution_installs_this_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"batpak": "batpak_cli.app:main"}
