"""Import a git history: each commit an event, each changed file an event that it caused.

Reads with git's own plumbing, never writes to the repository and never looks above
the folder that was named. Commits come in topological order, oldest first, all
parents included; a merge has no file events, since its changes came in with its
parents. Guide: docs/guide/import.md.

The position names a range `base..tip` that is being imported and how many of its
commits are done. A range's order never changes, whatever the branch does meanwhile;
once it is done, the next one is `tip..` the branch. So a branch with merges can be
resumed anywhere, which a single commit's name would not allow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple

from batpak.coordinate import Coordinate, Region, name_from_path
from batpak.errors import BatchTooLarge, ImportSourceError, InvalidInput
from batpak.ids import EventId
from batpak.items import Item, Prior
from batpak.payloads import payload
from batpak.store import Store
from batpak_cli.importers.report import ImportReport, Progress

__all__ = ["FileChanged", "GitCommit", "import_git"]

_CHUNK = 100
"""Commits that git is asked about at a time."""
_INT64 = 1 << 63


@payload(category=0xE, type_id=0x001)
class GitCommit:
    """A commit. Times are in seconds since the epoch; None where git's text is broken."""

    hash: str
    parents: list[str]
    author: str
    email: str | None
    """None unless it was asked for: it names a person for ever."""
    authored_s: int | None
    committed_s: int | None
    subject: str
    body: str


@payload(category=0xE, type_id=0x002)
class FileChanged:
    """A file that a commit changed; `status` is git's letter: A, M, D, R, C or T."""

    commit: str
    status: str
    path: str
    old_path: str | None = None
    """Where a renamed or copied file came from."""
    similarity: int | None = None
    """Percent of the content that a rename or copy kept."""
    percent_encoded: bool = False
    """Whether the paths are not UTF-8 and so have %XX for such bytes and for "%"."""


class _Change(NamedTuple):
    status: str
    path: bytes
    old_path: bytes | None
    similarity: int | None


class _Range(NamedTuple):
    """Commits of `tip` that are not in `base`; the first `done` are imported."""

    base: str | None
    tip: str
    done: int = 0
    last: str | None = None
    """The hash of the last commit that is imported, to know the order again by."""
    begun: int = 0
    """Events that are imported of the commit after `last`: its own, then its files'."""

    def after(self, commit: str) -> _Range:
        return _Range(self.base, self.tip, self.done + 1, commit)


def import_git(
    store: Store,
    repo: str | os.PathLike[str],
    *,
    branch: str | None = None,
    name: str | None = None,
    scope: str | None = None,
    with_email: bool = False,
    batch_events: int = 1000,
    progress: Progress | None = None,
) -> ImportReport:
    """Append what `branch` of `repo` has and the journal has not; all of it or resumable.

    `branch` is a branch or tag, by default what is checked out. `name` is the
    repository's, by default its folder's. Commits go to entity `repo:<name>:<branch>`,
    files to `file:<path>`, both in `scope`, by default `repo:<name>`. A batch has
    about `batch_events` events and holds whole commits, but for larger ones.

    Raises ImportSourceError: no git repository, no commits, no such branch, a branch
    whose imported commits are gone. Raises as `Store.append_many`.
    """
    began = time.perf_counter()
    if batch_events < 1:
        raise InvalidInput("a batch has at least one event", field="batch_events")
    git = _Git(repo)
    tip, branch = git.tip(branch)
    title = name or git.title
    report = ImportReport(name_from_path(f"{title}/{branch}", prefix="repo:"))
    entity = Coordinate(report.source, scope or name_from_path(title, prefix="repo:"))
    work = _Work(store, git, entity, batch_events, with_email, report, progress)
    for part in _ranges(store, git, report, tip):
        work.run(part)
    report.seconds = time.perf_counter() - began
    return report


def _ranges(store: Store, git: _Git, report: ImportReport, tip: str) -> Iterator[_Range]:
    """What is left to import: the rest of the last range, then what is new."""
    stored = store.import_position(report.source)
    if stored is None:
        yield _Range(None, tip)
        return
    report.resumed = True
    begun = _range_of(stored, git.path)
    if not git.is_ancestor(begun.tip, tip):
        raise git.error(
            f"commit {begun.tip[:12]}, imported before, is not in the history of "
            f"{report.source} any more",
            "the branch was rewritten, or is of another repository: "
            "import it under another name with --name",
        )
    yield begun
    yield _Range(begun.tip, tip)


def _range_of(stored: Any, path: str) -> _Range:
    try:
        return _Range(**stored)
    except TypeError as error:
        raise ImportSourceError(
            "the journal's note of how far this source was read is not a git import's",
            file=path,
            advice="import under another name with --name",
        ) from error


class _Work:
    """One run: fills batches and commits them, each with the position behind it."""

    def __init__(
        self,
        store: Store,
        git: _Git,
        entity: Coordinate,
        batch_events: int,
        with_email: bool,
        report: ImportReport,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._git = git
        self._entity = entity
        self._batch_events = batch_events
        self._with_email = with_email
        self._report = report
        self._progress = progress
        self._total = 0
        self._batch: list[Item] = []
        self._owners: list[str] = []
        """The commit that each item of the batch is about."""

    def run(self, part: _Range) -> None:
        """Import what is left of a range."""
        left = self._git.count(part) - part.done
        if left < 0:
            raise self._other_order()
        self._total += left
        hashes = self._git.commits(part)
        if part.done and next(islice(hashes, part.done - 1, None), None) != part.last:
            raise self._other_order()
        while chunk := list(islice(hashes, _CHUNK)):
            changes = self._git.changes(chunk)
            for raw in self._git.read_commits(chunk):
                part = self._add(part, raw, changes.get(raw.hash, []))
        self._flush(part)

    def _other_order(self) -> ImportSourceError:
        return self._git.error(
            "git lists the commits of an unfinished import in another order than before",
            "was the history made shallow or deeper meanwhile? "
            "Undo that, or import under another name with --name",
        )

    def _add(self, part: _Range, commit: GitCommit, changes: list[_Change]) -> _Range:
        if self._batch and len(self._batch) + 1 + len(changes) > self._batch_events:
            self._flush(part)
        owner: EventId | Prior
        if part.begun:
            owner = self._event_of(commit.hash)
        else:
            owner = Prior(len(self._batch))
            if not self._with_email:
                commit = _without_email(commit)
            self._take(Item(self._entity, commit), commit.hash)
        first = max(part.begun - 1, 0)
        for number, change in enumerate(changes[first:], first):
            if len(self._batch) >= self._batch_events:
                self._flush(part._replace(begun=number + 1))
                if isinstance(owner, Prior):
                    owner = self._event_of(commit.hash)
            self._take(self._file_event(commit.hash, change, owner), commit.hash)
        self._report.read += 1
        return part.after(commit.hash)

    def _take(self, item: Item, commit: str) -> None:
        self._batch.append(item)
        self._owners.append(commit)

    def _file_event(self, commit: str, change: _Change, owner: EventId | Prior) -> Item:
        path, old_path, encoded = _texts(change)
        event = FileChanged(
            commit=commit,
            status=change.status,
            path=path,
            old_path=old_path,
            similarity=change.similarity,
            percent_encoded=encoded,
        )
        where = Coordinate(name_from_path(change.path, prefix="file:"), self._entity.scope)
        return Item(where, event, causation=owner)

    def _event_of(self, commit: str) -> EventId:
        """The event of a commit whose file events did not fit its batch."""
        latest = self._store.latest(self._entity.entity)
        if latest is not None and _is_of(latest, commit):
            return latest.event_id
        for event in self._store.query(Region(entity=self._entity.entity, kind=GitCommit)):
            if _is_of(event, commit):
                return event.event_id
        raise self._git.error(
            f"the event of commit {commit[:12]}, whose files are being imported, is missing",
            "run: batpak verify JOURNAL",
        )

    def _flush(self, position: _Range) -> None:
        if not self._batch:
            return
        try:
            self._store.append_imported(self._report.source, position._asdict(), self._batch)
        except BatchTooLarge:
            raise
        except InvalidInput as error:
            if error.index is None:
                raise
            raise ImportSourceError(
                f"commit {self._owners[error.index]} can't be kept: {error.what}",
                file=self._git.path,
                advice=error.advice,
            ) from error
        self._report.events += len(self._batch)
        self._report.batches += 1
        self._batch, self._owners = [], []
        if self._progress is not None:
            self._progress(self._report.read, self._total)


def _is_of(event: Any, commit: str) -> bool:
    found = event.route(GitCommit)
    return found is not None and found.hash == commit


def _without_email(commit: GitCommit) -> GitCommit:
    return GitCommit(
        hash=commit.hash,
        parents=commit.parents,
        author=commit.author,
        email=None,
        authored_s=commit.authored_s,
        committed_s=commit.committed_s,
        subject=commit.subject,
        body=commit.body,
    )


def _texts(change: _Change) -> tuple[str, str | None, bool]:
    """Path, old path and whether they had to be percent-encoded."""
    try:
        old = None if change.old_path is None else change.old_path.decode()
        return change.path.decode(), old, False
    except UnicodeDecodeError:
        old = None if change.old_path is None else _percent(change.old_path)
        return _percent(change.path), old, True


def _percent(path: bytes) -> str:
    text = path.decode("utf-8", "surrogateescape").replace("%", "%25")
    return re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", text)


# --- git ---------------------------------------------------------------------

_HASH = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_PERSON = re.compile(rb"(?P<name>.*?) ?<(?P<email>.*)> (?P<time>-?[0-9]{1,20})(?: [+-][0-9]+)?\Z")


class _Git:
    """Questions to one repository. Every failure is an ImportSourceError."""

    def __init__(self, repo: str | os.PathLike[str]) -> None:
        self.path: str = os.path.realpath(os.fspath(repo))
        program = shutil.which("git")
        if program is None:
            raise self.error("git is not installed", "install git, which reads the history")
        if not os.path.isdir(self.path):
            raise self.error("no such folder", "name the folder of a git repository")
        self._command = [program, "--no-pager", "-C", self.path]
        # GIT_DIR and its like, set inside of hooks, would lead to another repository.
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("GIT_") or key.startswith(("GIT_CONFIG_", "GIT_EXEC_PATH"))
        } | {
            "LC_ALL": "C",
            "GIT_CEILING_DIRECTORIES": os.path.dirname(self.path),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }
        code, _, said = self._try("rev-parse", "--git-dir")
        if code:
            known = "not a git repository" in said
            raise self.error(
                "not a git repository" if known else f"git can't read this folder: {said}",
                "name the top folder of a repository, or a bare one",
            )
        self.title = self._title()

    def error(self, what: str, advice: str) -> ImportSourceError:
        return ImportSourceError(what, file=self.path, advice=advice)

    def _try(self, *arguments: str) -> tuple[int, bytes, str]:
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace").strip()

    def _ask(self, *arguments: str) -> str:
        code, out, said = self._try(*arguments)
        if code:
            raise self._failed(arguments[0], said)
        return os.fsdecode(out).removesuffix("\n")

    def _failed(self, what: str, said: str) -> ImportSourceError:
        return self.error(f"git {what} failed: {said}", "run: git fsck")

    def _title(self) -> str:
        folder = self.path
        if os.path.basename(folder) == ".git":
            folder = os.path.dirname(folder)
        return os.path.basename(folder).removesuffix(".git") or "root"

    def tip(self, branch: str | None) -> tuple[str, str]:
        """Hash of the newest commit of a branch, and the branch's name."""
        if branch is None:
            code, out, _ = self._try("symbolic-ref", "--quiet", "--short", "HEAD")
            branch = "HEAD" if code else os.fsdecode(out).removesuffix("\n")
            code, out, _ = self._try("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
            if code:
                raise self.error(
                    f"{branch} has no commits", "commit something, or name another with --branch"
                )
            return out.decode().strip(), branch
        for space in ("heads", "remotes", "tags"):
            reference = f"refs/{space}/{branch}^{{commit}}"
            code, out, _ = self._try("rev-parse", "--verify", "--quiet", reference)
            if not code:
                return out.decode().strip(), branch
        raise self.error(f"no branch or tag is named {branch}", "run: git branch --all")

    def is_ancestor(self, old: str, new: str) -> bool:
        # 1 says no, 128 that a commit is not there: both times the history is another.
        return self._try("merge-base", "--is-ancestor", old, new)[0] == 0

    @staticmethod
    def _selection(part: _Range) -> list[str]:
        return [part.tip] if part.base is None else [part.tip, f"^{part.base}"]

    def count(self, part: _Range) -> int:
        return int(self._ask("rev-list", "--count", *self._selection(part)))

    def commits(self, part: _Range) -> Iterator[str]:
        """Hashes of a range, parents before children, in an order that never changes."""
        with tempfile.TemporaryFile() as listing:
            self._into(listing, ["rev-list", "--topo-order", "--reverse", *self._selection(part)])
            for line in listing:
                yield line.decode().strip()

    def read_commits(self, hashes: Sequence[str]) -> Iterator[GitCommit]:
        """The commit objects, in the order asked for."""
        with tempfile.TemporaryFile() as answer:
            self._into(answer, ["cat-file", "--batch"], hashes)
            for wanted in hashes:
                name, _, rest = answer.readline().partition(b" ")
                kind, _, size = rest.partition(b" ")
                if name.decode() != wanted or kind != b"commit":
                    raise self.error(f"commit {wanted} can't be read", "run: git fsck")
                yield _parse_commit(wanted, answer.read(int(size)))
                answer.read(1)

    def changes(self, hashes: Sequence[str]) -> dict[str, list[_Change]]:
        """Changed files by commit, compared with its parent; merges have none."""
        command = [
            "diff-tree", "--stdin", "-r", "-z", "--root", "--name-status", "--find-renames=50%",
            "-l400", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none",
        ]  # fmt: skip
        found: dict[str, list[_Change]] = {}
        files: list[_Change] = []
        with tempfile.TemporaryFile() as answer:
            self._into(answer, command, hashes)
            tokens = _tokens(answer)
            for token in tokens:
                if _HASH.match(token):
                    files = found.setdefault(token.decode(), [])
                    continue
                status, score = token[:1].decode(), token[1:]
                path, old = next(tokens), None
                if status in ("R", "C"):
                    path, old = next(tokens), path
                files.append(_Change(status, path, old, int(score) if score else None))
        return found

    def _into(self, out: IO[bytes], arguments: list[str], lines: Iterable[str] = ()) -> None:
        """Run git with these lines as its input and its output in a file, rewound.

        Files on both sides: with pipes, each side could wait for the other.
        """
        with tempfile.TemporaryFile() as source:
            source.writelines(f"{line}\n".encode() for line in lines)
            source.seek(0)
            done = subprocess.run(
                [*self._command, *arguments],
                env=self._environment,
                stdin=source,
                stdout=out,
                stderr=subprocess.PIPE,
                check=False,
            )
        if done.returncode:
            raise self._failed(arguments[0], done.stderr.decode("utf-8", "replace").strip())
        out.seek(0)


def _tokens(answer: IO[bytes]) -> Iterator[bytes]:
    """What stands between NULs, read in pieces."""
    rest = b""
    while piece := answer.read(1 << 16):
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _parse_commit(name: str, raw: bytes) -> GitCommit:
    """A commit object's bytes as a payload, the address included."""
    head, _, message = raw.partition(b"\n\n")
    fields: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\n"):
        # Lines that begin with a space continue a signature.
        key, _, value = line.partition(b" ")
        if key:
            fields.setdefault(key, []).append(value)
    encoding = fields.get(b"encoding", [b"utf-8"])[0].decode("ascii", "replace")

    def text(data: bytes) -> str:
        try:
            return data.decode(encoding, "replace")
        except (LookupError, UnicodeError):
            return data.decode("utf-8", "replace")

    author, email, authored = _person(fields.get(b"author", [b""])[0])
    committed = _person(fields.get(b"committer", [b""])[0])[2]
    subject, _, body = text(message).strip("\n").partition("\n")
    return GitCommit(
        hash=name,
        parents=[parent.decode() for parent in fields.get(b"parent", [])],
        author=text(author),
        email=None if email is None else text(email),
        authored_s=authored,
        committed_s=committed,
        subject=subject,
        body=body.strip("\n"),
    )


def _person(line: bytes) -> tuple[bytes, bytes | None, int | None]:
    """Name, address and seconds since the epoch."""
    found = _PERSON.match(line)
    if found is None:
        return line, None, None
    seconds = int(found["time"])
    return found["name"], found["email"], seconds if abs(seconds) < _INT64 else None
