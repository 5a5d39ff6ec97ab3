"""Importers: every line and commit once, whatever interrupts; bad input named, not written."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, EventId, EventKind, Item, Region, Store
from batpak.errors import ImportSourceError, InvalidInput
from batpak_cli.importers.git import FileChanged, GitCommit, import_git
from batpak_cli.importers.jsonl import JsonlMapping, import_jsonl
from batpak_cli.importers.report import ImportReport
from tests.support.importing import content, imported, killed_everywhere, opened, values

KIND = EventKind(0xF, 1)
ByName = JsonlMapping(entity="user", entity_field="user", scope="app", kind=KIND)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "app.jsonl"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "journal") as store:
        yield store


# --- JSON lines --------------------------------------------------------------


def test_every_object_becomes_a_payload_in_order(store: Store, lines: Path) -> None:
    objects: list[Any] = [
        {"most": 2**64 - 1, "least": -(2**63), "pi": 3.14159, "text": "Zürich ☂", "no": None},
        {},
        {"b": 1, "a": [True, {"deep": []}]},
    ]
    lines.write_text("".join(json.dumps(each) + "\n" for each in objects))
    report = import_jsonl(store, lines)
    assert (report.events, report.read, report.batches, report.resumed) == (3, 3, 1, False)
    assert values(store) == objects
    assert list(values(store)[2]) == ["b", "a"]
    where = imported(store)[0].coordinate
    assert (where.entity, where.scope) == ("jsonl:app.jsonl", "import")


@pytest.mark.parametrize(
    ("mapping", "entity"),
    [
        (JsonlMapping(entity="log"), "log"),
        (JsonlMapping(entity_field="user"), "alice:7"),
        (JsonlMapping(entity="user", entity_field="user"), "user:alice:7"),
        (JsonlMapping(entity_field="id"), "42"),
    ],
)
def test_the_mapping_says_where_events_go(
    store: Store, lines: Path, mapping: JsonlMapping, entity: str
) -> None:
    lines.write_text('{"user": "alice:7", "id": 42}\n')
    import_jsonl(store, lines, mapping=mapping)
    [event] = imported(store)
    assert event.coordinate.entity == entity


@pytest.mark.proves("INV-IMPORT-ONCE")
@pytest.mark.parametrize("batch_events", [1, 2, 1000])
def test_running_again_adds_only_what_is_new(
    tmp_path: Path, lines: Path, batch_events: int
) -> None:
    def run() -> ImportReport:
        with opened(tmp_path / "journal") as store:
            return import_jsonl(store, lines, batch_events=batch_events)

    lines.write_text("".join(f'{{"n": {n}}}\n' for n in range(5)))
    assert run().events == 5
    again = run()
    assert (again.events, again.read, again.resumed) == (0, 0, True)
    with lines.open("a") as file:
        file.write('\n{"n": 5}\n{"n": 6}\n')
    assert run().events == 2
    assert [value["n"] for *_, value, _ in content(tmp_path / "journal")] == list(range(7))


BAD = {
    "no JSON": (b'{"a": 1', "not JSON"),
    "text after the object": (b'{"a": 1} x', "Extra data"),
    "an array": (b"[1]", "not an object"),
    "a number": (b"7", "not an object"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8 text: byte 0xFF at 7"),
    "a control byte": (b'{"a": "\x01"}', "not JSON"),
    "NUL bytes": (b"\0\0\0\0", "not JSON"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "minus infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "a float over the range": (b'{"a": 1e999}', "1e999 is too large"),
    "an integer over 64 bits": (
        b'{"a": {"b": 18446744073709551616}}',
        "is above 2^64 - 1 at $['a']['b']",
    ),
    "thousands of digits": (b'{"a": ' + b"9" * 5000 + b"}", "digits does not fit into 64 bits"),
    "half a surrogate pair": (rb'{"a": "\ud800"}', "surrogate"),
    "nested too deep": (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "deep"),
    "nested beyond Python": (b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "deep"),
    "no entity": (b'{"a": 1, "user": null}', "'user', which names the entity, is missing"),
    "no name": (b'{"user": [1]}', "neither text nor a whole number"),
    "a name that can't be": (b'{"user": "a/b"}', "'/'"),
    "too long": (b'{"user": "' + b"x" * 200_000 + b'"}', "longer than 150000 bytes"),
}
NEEDS_NAME = {"no entity", "no name", "a name that can't be"}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_and_nothing_of_its_batch_written(
    store: Store, lines: Path, case: str
) -> None:
    data, reason = BAD[case]
    good = b'{"user": "a", "n": %d}\n'
    lines.write_bytes(good % 1 + good % 2 + good % 3 + data + b"\n" + good % 5)
    mapping = ByName if case in NEEDS_NAME else JsonlMapping()
    options = {"mapping": mapping, "batch_events": 2, "max_line_bytes": 150_000}
    with pytest.raises(ImportSourceError) as caught:
        import_jsonl(store, lines, **options)
    assert (caught.value.line, caught.value.file) == (4, str(lines))
    assert reason in caught.value.what
    assert [value["n"] for value in values(store)] == [1, 2]

    report = import_jsonl(store, lines, skip_bad=True, **options)
    assert [value["n"] for value in values(store)] == [1, 2, 3, 5]
    assert (report.skipped, report.bad[0].line, report.events) == (1, 4, 2)
    assert reason in report.bad[0].reason


def test_a_mended_line_lets_the_import_go_on(store: Store, lines: Path) -> None:
    lines.write_text('{"n": 1}\n{"n": }\n{"n": 3}\n')
    with pytest.raises(ImportSourceError):
        import_jsonl(store, lines, batch_events=1)
    lines.write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    import_jsonl(store, lines)
    assert [value["n"] for value in values(store)] == [1, 2, 3]


def test_a_payload_over_the_journals_limit_names_its_line(tmp_path: Path, lines: Path) -> None:
    lines.write_text('{"n": 1}\n{"n": "%s"}\n{"n": 3}\n' % ("x" * 100))
    with Store.open(tmp_path / "journal", payload_max_bytes=50) as store:
        with pytest.raises(ImportSourceError, match="line 2") as caught:
            import_jsonl(store, lines)
        assert caught.value.line == 2
        assert values(store) == []
        assert import_jsonl(store, lines, skip_bad=True).skipped == 1
        assert [value["n"] for value in values(store)] == [1, 3]


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n", b"\xef\xbb\xbf", b'{"n": 1'])
def test_where_nothing_is_to_import_nothing_is_written(
    store: Store, lines: Path, data: bytes
) -> None:
    lines.write_bytes(data)
    before = len(store)
    report = import_jsonl(store, lines)
    assert (report.events, report.read, len(store)) == (0, 0, before)
    assert report.incomplete == (data == b'{"n": 1')


def test_a_file_of_another_kind_is_not_waited_for(store: Store, lines: Path) -> None:
    # Without a line end, so only its content tells it from an unfinished object.
    lines.write_bytes(b"\x89PNG\r\x1a" + bytes(range(256)).replace(b"\n", b""))
    before = len(store)
    with pytest.raises(ImportSourceError, match="line 1"):
        import_jsonl(store, lines)
    assert len(store) == before


def test_windows_line_ends_and_a_byte_order_mark_are_no_harm(store: Store, lines: Path) -> None:
    lines.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n{"n": 2}\r\n')
    import_jsonl(store, lines)
    assert values(store) == [{"n": 1}, {"n": 2}]


def test_a_file_may_be_cut_at_any_byte_and_grow_again(tmp_path: Path, lines: Path) -> None:
    # Objects that hold braces, line ends in escapes and characters of several bytes.
    whole = '{"n":"}☂"}\n\n {"n":{"é":"\\n"}} \r\n{"n":3}'.encode()
    expected: list[Any] = [{"n": "}☂"}, {"n": {"é": "\n"}}, {"n": 3}]
    with opened(tmp_path / "journal") as store:
        for cut in range(len(whole) + 1):
            before = len(store)
            lines.write_bytes(whole[:cut])
            import_jsonl(store, lines, source=f"cut {cut}")
            lines.write_bytes(whole)
            import_jsonl(store, lines, source=f"cut {cut}")
            lines.write_bytes(whole + b'\n{"n":4}\n')
            report = import_jsonl(store, lines, source=f"cut {cut}")
            added = [event.value for event in store.query(Region.all(), after=before - 1)]
            assert added == [*expected, {"n": 4}], cut
            assert not report.incomplete


def test_what_follows_an_imported_object_on_its_line_is_bad(store: Store, lines: Path) -> None:
    lines.write_text('{"n": 1}\n{"n": 2}')
    assert import_jsonl(store, lines).events == 2
    with lines.open("a") as file:
        file.write(' {"n": "2b"}\n{"n": 3}\n')
    with pytest.raises(ImportSourceError, match=r"line 2 .*follows the object") as caught:
        import_jsonl(store, lines)
    assert caught.value.line == 2
    import_jsonl(store, lines, skip_bad=True)
    assert [value["n"] for value in values(store)] == [1, 2, 3]


def test_lines_added_during_an_import_are_for_the_next(store: Store, lines: Path) -> None:
    lines.write_text("".join(f'{{"n": {n}}}\n' for n in range(4)))

    def grow(done: int, total: int) -> None:
        with lines.open("a") as file:
            file.write('{"n": 4}\n' if done == total else "")

    assert import_jsonl(store, lines, batch_events=3, progress=grow).events == 4
    assert import_jsonl(store, lines).events == 1
    assert [value["n"] for value in values(store)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"1", b"7"),  # the same length
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: b'{"n": 0}\n' + data,
    ],
    ids=["rewritten", "cut", "emptied", "shifted"],
)
def test_a_file_that_is_another_one_now_is_refused(
    store: Store, lines: Path, change: Callable[[bytes], bytes]
) -> None:
    data = b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    lines.write_bytes(data)
    import_jsonl(store, lines)
    lines.write_bytes(change(data))
    before = len(store)
    with pytest.raises(ImportSourceError, match="not the file that was imported") as caught:
        import_jsonl(store, lines)
    assert "--source" in caught.value.advice
    assert len(store) == before
    import_jsonl(store, lines, source="again")
    assert store.import_position("again") is not None or not change(data)


def test_a_position_of_another_importer_is_refused(store: Store, lines: Path) -> None:
    lines.write_text('{"n": 1}\n')
    store.append_imported("x", {"page": 3}, [Item(Coordinate("a", "b"), 1, kind=KIND)])
    with pytest.raises(ImportSourceError, match="not a JSONL import's"):
        import_jsonl(store, lines, source="x")


def test_what_is_no_file_is_refused(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none", "can't be read"), (".", "regular"), ("pipe", "regular")):
        with pytest.raises(ImportSourceError, match=reason):
            import_jsonl(store, tmp_path / name)
    with pytest.raises(InvalidInput):
        import_jsonl(store, tmp_path / "none", batch_events=0)


def test_a_file_is_streamed(tmp_path: Path, lines: Path) -> None:
    with lines.open("w") as file:
        for number in range(300):
            file.write(json.dumps({"n": number, "text": "x" * 100_000}) + "\n")
    with opened(tmp_path / "journal") as store:
        tracemalloc.start()
        try:
            import_jsonl(store, lines)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert store.count(Region(kind=EventKind.from_raw(0x1000))) == 300
    assert peak < lines.stat().st_size * 2 // 3


# --- git ---------------------------------------------------------------------


class Repo:
    """A repository made with the real git."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.seconds = 1_700_000_000
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        identity = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (
                ("NAME", "Ann Ö"),
                ("EMAIL", "ann@example.org"),
                ("DATE", f"{self.seconds} +0200"),
            )
        }
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.path), **identity},
            capture_output=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout.decode("utf-8", "replace").strip()

    def write(self, name: str | bytes, text: str = "text\n") -> None:
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def commit(self, message: str, *options: str) -> str:
        self.seconds += 1
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message, *options)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "work")


def of_commits(store: Store) -> list[GitCommit]:
    return [event.payload for event in store.query(Region(kind=GitCommit))]


def test_commits_and_files_become_events(store: Store, repo: Repo) -> None:
    repo.write("src/one.py")
    repo.write("src/deep/two.py")
    repo.write("README", "read me\n")
    first = repo.commit("Begin\n\nWith a body\nof two lines.")
    repo.git("mv", "src/one.py", "src/uno.py")
    os.unlink(repo.path / "README")
    second = repo.commit("Go on")
    report = import_git(store, repo.path)
    assert (report.source, report.read, report.events) == ("repo:work:main", 2, 7)

    begin, go_on = of_commits(store)
    assert begin == GitCommit(
        hash=first,
        parents=[],
        author="Ann Ö",
        email=None,
        authored_s=1_700_000_001,
        committed_s=1_700_000_001,
        subject="Begin",
        body="With a body\nof two lines.",
    )
    assert (go_on.hash, go_on.parents, go_on.body) == (second, [first], "")

    folder = [event.payload for event in store.query(Region(entity="file:src"))]
    assert folder == [
        FileChanged(commit=first, status="A", path="src/deep/two.py"),
        FileChanged(commit=first, status="A", path="src/one.py"),
        FileChanged(
            commit=second, status="R", path="src/uno.py", old_path="src/one.py", similarity=100
        ),
    ]
    assert [event.payload.status for event in store.entity("file:README")] == ["A", "D"]
    for event in store.query(Region(kind=FileChanged)):
        assert event.causation_id is not None
        cause = store.get(EventId.from_bytes(event.causation_id.bytes))
        assert cause.payload.hash == event.payload.commit
    assert {event.coordinate.scope for event in imported(store)} == {"repo:work"}


def test_an_address_is_kept_only_on_request(store: Store, repo: Repo) -> None:
    repo.commit("x")
    import_git(store, repo.path)
    import_git(store, repo.path, name="with", with_email=True)
    assert [commit.email for commit in of_commits(store)] == [None, "ann@example.org"]


def test_any_file_name_and_any_encoding_come_in(store: Store, repo: Repo) -> None:
    for name in (b"caf\xe9 100%.txt", "a|b=c:d", "tab\there\nand line", "..x..", "é/☂"):
        repo.write(name)
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    message = repo.path.parent / "message"
    message.write_bytes("Grüße".encode("latin-1"))
    repo.git("add", "--all")
    repo.git("commit", "--quiet", "--file", str(message))
    import_git(store, repo.path)
    [commit] = of_commits(store)
    assert commit.subject == "Grüße"
    found = {e.coordinate.entity: e.payload for e in store.query(Region(kind=FileChanged))}
    assert found.keys() == {
        "file:caf%E9 100%25.txt",
        "file:a%7Cb%3Dc%3Ad",
        "file:tab%09here%0Aand line",
        "file:.%2Ex.%2E",
        "file:é:☂",
    }
    odd = found["file:caf%E9 100%25.txt"]
    assert (odd.path, odd.percent_encoded) == ("caf%E9 100%25.txt", True)
    assert found["file:tab%09here%0Aand line"].path == "tab\there\nand line"


def branched(repo: Repo) -> None:
    """A history whose order by time, by name and by parents all differ, with two merges."""
    repo.write("base")
    repo.commit("base")
    for side in ("left", "right"):
        repo.git("checkout", "--quiet", "-b", side, "main")
        # A wrong clock: these commits are older than their parent.
        repo.seconds -= 1000 if side == "left" else -2000
        for number in range(3):
            repo.write(f"{side}/{number}")
            repo.write("churn/" + side, str(number))
            repo.commit(f"{side} {number}")
    repo.git("checkout", "--quiet", "main")
    repo.write("many/a")
    for number in range(9):
        repo.write(f"many/{number}")
    repo.commit("many files")
    for side in ("left", "right"):
        repo.seconds += 1
        repo.git("merge", "--quiet", "--no-ff", "-m", f"merge {side}", side)
    repo.write("last")
    repo.commit("last")


def clean_import(tmp_path: Path, repo: Repo) -> list[Any]:
    with opened(tmp_path / "clean") as store:
        import_git(store, repo.path)
    return content(tmp_path / "clean")


def test_merges_have_no_files_and_parents_come_first(tmp_path: Path, repo: Repo) -> None:
    branched(repo)
    clean_import(tmp_path, repo)
    with Store.open(tmp_path / "clean", mode="r") as store:
        commits = [event.payload for event in store.query(Region(kind=GitCommit))]
        files = [event.payload for event in store.query(Region(kind=FileChanged))]
    assert len(commits) == int(repo.git("rev-list", "--count", "HEAD")) == 11
    place = {commit.hash: number for number, commit in enumerate(commits)}
    assert all(place[p] < place[c.hash] for c in commits for p in c.parents)
    merges = {commit.hash for commit in commits if len(commit.parents) > 1}
    assert len(merges) == 2
    assert merges.isdisjoint(change.commit for change in files)


@pytest.mark.parametrize("batch_events", [1, 2, 3, 4, 7])
def test_an_interrupted_history_goes_on_anywhere(
    tmp_path: Path, repo: Repo, batch_events: int
) -> None:
    # Also inside of a commit with more files than a batch has room for.
    branched(repo)
    expected = clean_import(tmp_path, repo)

    class Enough(Exception):
        pass

    def stop(*_: int) -> None:
        raise Enough

    runs = 0
    with opened(tmp_path / "journal") as store:
        while runs <= 2 * len(expected):
            try:
                import_git(store, repo.path, batch_events=batch_events, progress=stop)
                break
            except Enough:
                runs += 1
    assert content(tmp_path / "journal") == expected
    assert runs >= len(expected) // max(batch_events, 2)


def test_a_branch_that_goes_on_while_its_import_is_interrupted(tmp_path: Path, repo: Repo) -> None:
    branched(repo)
    stopped = False

    def stop(*_: int) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    with opened(tmp_path / "journal") as store:
        with pytest.raises(KeyboardInterrupt):
            import_git(store, repo.path, batch_events=4, progress=stop)
        # An older branch comes in by a merge: by date it belongs before what was imported.
        repo.git("checkout", "--quiet", "-b", "old", "main~3")
        repo.seconds -= 1000
        repo.write("old")
        repo.commit("old")
        repo.git("checkout", "--quiet", "main")
        repo.git("merge", "--quiet", "--no-ff", "-m", "merge old", "old")
        import_git(store, repo.path)
        assert import_git(store, repo.path).events == 0
    assert stopped
    found = content(tmp_path / "journal")
    expected = clean_import(tmp_path, repo)
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_a_rewritten_branch_is_refused(store: Store, repo: Repo) -> None:
    repo.commit("one")
    repo.commit("two")
    import_git(store, repo.path)
    repo.commit("deux", "--amend")
    before = len(store)
    with pytest.raises(ImportSourceError, match="not in the history") as caught:
        import_git(store, repo.path)
    assert "--name" in caught.value.advice
    assert len(store) == before
    assert import_git(store, repo.path, name="other").events == 2


def test_branches_are_sources_of_their_own(store: Store, repo: Repo) -> None:
    repo.commit("one")
    repo.git("checkout", "--quiet", "-b", "feature/x")
    repo.commit("two")
    assert import_git(store, repo.path, branch="main").events == 1
    assert import_git(store, repo.path).source == "repo:work:feature:x"
    repo.git("checkout", "--quiet", "--detach")
    assert import_git(store, repo.path).source == "repo:work:HEAD"
    with pytest.raises(ImportSourceError, match="no branch or tag is named --all"):
        import_git(store, repo.path, branch="--all")


def test_a_bare_clone_and_its_work_tree_are_one_source(store: Store, repo: Repo) -> None:
    repo.commit("one")
    bare = repo.path.parent / "bare" / "work.git"
    repo.git("clone", "--quiet", "--bare", str(repo.path), str(bare))
    assert import_git(store, repo.path).events == 1
    assert import_git(store, bare).events == 0
    assert import_git(store, repo.path / ".git").events == 0


def test_a_shallow_clone_counts_its_first_commit_as_new(store: Store, repo: Repo) -> None:
    repo.write("a")
    repo.commit("one")
    repo.write("b")
    repo.commit("two")
    shallow = repo.path.parent / "shallow"
    repo.git("clone", "--quiet", "--depth=1", f"file://{repo.path}", str(shallow))
    import_git(store, shallow)
    assert [commit.subject for commit in of_commits(store)] == ["two"]
    changed = [event.payload for event in store.query(Region(kind=FileChanged))]
    assert [(change.status, change.path) for change in changed] == [("A", "a"), ("A", "b")]


def test_a_repository_without_commits_is_refused(store: Store, repo: Repo) -> None:
    before = len(store)
    with pytest.raises(ImportSourceError, match="main has no commits"):
        import_git(store, repo.path)
    assert len(store) == before


def test_what_is_no_repository_is_refused(store: Store, repo: Repo, tmp_path: Path) -> None:
    repo.write("folder/file")
    repo.commit("one")
    before = len(store)
    for place in (tmp_path, repo.path / "folder"):
        with pytest.raises(ImportSourceError, match="not a git repository") as caught:
            import_git(store, place)
        assert caught.value.file == str(place)
    with pytest.raises(ImportSourceError, match="no such folder"):
        import_git(store, tmp_path / "none")
    assert len(store) == before


def test_git_in_the_environment_leads_nowhere_else(
    store: Store, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit("mine")
    other = Repo(tmp_path / "other")
    other.commit("other")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    import_git(store, repo.path)
    assert [commit.subject for commit in of_commits(store)] == ["mine"]


def test_without_git_an_import_says_so(
    store: Store, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repo.path))
    with pytest.raises(ImportSourceError, match="git is not installed"):
        import_git(store, repo.path)


# --- killed ------------------------------------------------------------------


@pytest.mark.proves("INV-IMPORT-ONCE")
def test_a_killed_jsonl_import_loses_nothing_and_doubles_nothing(
    tmp_path: Path, lines: Path
) -> None:
    lines.write_text("".join(f'{{"n": {n}}}\n' for n in range(23)))
    journals = killed_everywhere("jsonl", lines, tmp_path / "killed", 5)
    begun = 0
    for path in journals:
        with opened(path) as store:
            begun += 0 < len(imported(store)) < 23
            import_jsonl(store, lines, batch_events=5)
        assert [value["n"] for *_, value, _ in content(path)] == list(range(23)), path
    assert begun >= 4, "every batch was once the last"


@pytest.mark.proves("INV-IMPORT-ONCE")
def test_a_killed_git_import_loses_nothing_and_doubles_nothing(tmp_path: Path, repo: Repo) -> None:
    branched(repo)
    expected = clean_import(tmp_path, repo)
    journals = killed_everywhere("git", repo.path, tmp_path / "killed", 8)
    begun = 0
    for path in journals:
        with opened(path) as store:
            begun += 0 < len(imported(store)) < len(expected)
            import_git(store, repo.path)
        assert content(path) == expected, path
    assert begun >= 4, "every batch was once the last"
