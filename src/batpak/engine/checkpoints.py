"""Checkpoints of a journal: signed statements of its size and Merkle root, kept and published.

`checkpoints/` is authority: cosignatures of witnesses can't be made again. `tlog/checkpoint`
is a copy of the newest, for whoever serves the folder. What a crash leaves at each step is
said at the step. Reads bounded files and trusts nothing in them beyond what it names. What a
note is: batpak.proof.notes; where the hashes come from: `Tree`. Source: docs/format.md,
"Checkpoints".
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from batpak import canonical
from batpak.config import Signer
from batpak.engine.progress import Meter
from batpak.engine.reading import LogReader
from batpak.engine.survey import MAX_NOTE_BYTES, checkpoint_sizes
from batpak.engine.system import LIFECYCLE, checkpoint_event
from batpak.engine.tree import Tree
from batpak.errors import (
    BatpakError,
    CanonicalError,
    Damaged,
    InvalidInput,
    JournalCorrupt,
    NotCheckpointed,
    ProofInvalid,
)
from batpak.files import Files, read_small, refusal, replace_file
from batpak.index.query import Query
from batpak.journal.commits import Prepared
from batpak.journal.layout import Layout
from batpak.journal.quarantine import set_aside
from batpak.journal.telling import told
from batpak.kinds import SYSTEM_LOG_CHECKPOINT
from batpak.proof.notes import MAX_SIGNATURES, Checkpoint, Key, Note, Signature
from batpak.tlog.trees import tree_root

__all__ = [
    "CheckpointMaker",
    "StoredCheckpoint",
    "checkpoint_signed_with",
    "checkpoints_of",
    "load_checkpoint",
]

logger = logging.getLogger("batpak.journal")

_SIZES_TOLD: Final = 5
_WITNESS_KEY: Final = (
    "give the key of the witness: batpak keys show FILE --name NAME --field witness-key prints it"
)
_KIND: Final = Query(
    entity=LIFECYCLE.entity_bytes,
    kinds=(SYSTEM_LOG_CHECKPOINT.raw, SYSTEM_LOG_CHECKPOINT.raw),
    exact=True,
)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it is kept: what it states, and the note with its signatures."""

    origin: str
    size: int
    """Events [0, size) are covered."""
    root: bytes
    """RFC 9162 root over their event hashes, 32 bytes."""
    note: str
    """The signed note, cosignatures included."""
    is_new: bool = False
    """Whether this very call made it."""

    @classmethod
    def parse(cls, data: bytes) -> StoredCheckpoint:
        """Read a note; no signature is verified. Raises ProofInvalid."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ProofInvalid("a note is UTF-8", reason="note") from error
        said = Checkpoint.parse(Note.parse(text).text)
        return cls(said.origin, said.size, said.root, text)


def load_checkpoint(
    files: Files, layout: Layout, origin: str, size: int, shared: int = 0
) -> StoredCheckpoint:
    """The stored checkpoint over `size` events.

    In a fork, one of an ancestor counts as well, if it is over no more than the first
    `shared` events. Raises NotCheckpointed, StorageFailed, Damaged for a file that is none.
    """
    path = layout.checkpoint(size)
    try:
        stored = StoredCheckpoint.parse(read_small(files, path, MAX_NOTE_BYTES))
    except FileNotFoundError as error:
        raise NotCheckpointed(
            f"there is no checkpoint over {size} events",
            size=size,
            advice=_those_there(files, layout),
        ) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _damaged("it is too long for a checkpoint", path) from error
        raise refusal(error, "can't read a checkpoint", path) from error
    except ProofInvalid as error:
        raise _damaged(f"this is no checkpoint: {error.what}", path) from error
    if stored.size != size or (stored.origin != origin and size > shared):
        raise _damaged("this is the checkpoint of another size or journal", path)
    return stored


def _those_there(files: Files, layout: Layout) -> str:
    sizes = checkpoint_sizes(files, layout)
    if not sizes:
        return f"there is none at all; make one with: batpak checkpoint {layout.root} --key FILE"
    more = "…, " if len(sizes) > _SIZES_TOLD else ""
    return f"there are those over {more}{', '.join(map(str, sizes[-_SIZES_TOLD:]))}"


def _damaged(what: str, path: str) -> Damaged:
    return Damaged(
        what,
        file=path,
        advice="restore it from a copy, or make a checkpoint: where this is the newest one, it is "
        "set aside in quarantine/ and written anew, without what witnesses signed; an older one "
        "move away",
    )


def checkpoints_of(
    files: Files,
    layout: Layout,
    origin: str,
    *,
    shared: int = 0,
    damaged: Callable[[int, str], None] | None = None,
) -> list[StoredCheckpoint]:
    """All stored checkpoints of this origin and, over `shared` events, of ancestors; by size.

    `damaged` hears of those that are none.
    """
    found: list[StoredCheckpoint] = []
    for size in checkpoint_sizes(files, layout):
        try:
            found.append(load_checkpoint(files, layout, origin, size, shared))
        except BatpakError as error:
            if damaged is not None:
                damaged(size, error.what)
    return found


class CheckpointMaker:
    """Makes, completes and publishes the checkpoints of a journal open for writing."""

    def __init__(
        self,
        files: Files,
        layout: Layout,
        origin: str,
        reader: LogReader,
        tree: Tree,
        sync: Callable[[], int],
        append: Callable[[Prepared], object],
        shared: int = 0,
    ) -> None:
        """`sync` makes all durable and gives the bound; `append` writes one event durably.

        `shared`: so many events, from the first, are also an ancestor's.
        """
        self._files = files
        self._layout = layout
        self._origin = origin
        self._reader = reader
        self._tree = tree
        self._sync = sync
        self._append = append
        self._shared = shared
        self._lock = threading.RLock()
        # guarded by _lock
        self._is_making = False

    def make(self, key: Signer, meter: Meter) -> StoredCheckpoint:
        """Sign what is durable now; the newest one again where only checkpoints are new.

        `meter` is told events of the tree; what it raises leaves no checkpoint. Raises what
        appends raise, JournalCorrupt where the log is not the one that an earlier checkpoint
        was signed over, StorageFailed, NoSpace; InvalidInput where `meter` calls it.
        """
        with self._lock:
            self._check_not_making()
            self._is_making = True
            try:
                return self._make(key, meter)
            finally:
                self._is_making = False

    def _check_not_making(self) -> None:
        """Raises InvalidInput in the thread that makes a checkpoint; `_lock` is held."""
        if self._is_making:
            raise InvalidInput(
                "a checkpoint is being made: what is told of it can't make or change one",
                field="progress",
                advice="do it when checkpoint() has returned",
            )

    def _make(self, key: Signer, meter: Meter) -> StoredCheckpoint:
        size = self._sync()
        latest = self._publish_missing(size)
        if latest is not None and not _is_signed_with(latest, key.public_key):
            told(partial(_key_changed, latest.size))
        if latest is not None and self._has_nothing_new(latest.size, size):
            self._grow(latest, latest.size, meter)
            self._publish(latest, is_stored=True)
            return latest
        root = self._grow(latest, size, meter)
        text = str(Checkpoint(self._origin, size, root))
        name = Key(self._origin, key.public_key)
        line = Signature(self._origin, name.key_id, key.sign(text.encode()))
        note = str(Note(text, (line,)))
        # Crash before this: no checkpoint; tiles beyond the last one lie there unused.
        self._append(checkpoint_event(size=size, root=root, note=note.encode()))
        # Crash before this: the event stands, and the next call publishes its note.
        made = StoredCheckpoint(self._origin, size, root, note, is_new=True)
        self._publish(made)
        return made

    def _has_nothing_new(self, since: int, size: int) -> bool:
        return self._reader.count(_KIND, since, size) == size - since

    def _grow(self, latest: StoredCheckpoint | None, size: int, meter: Meter) -> bytes:
        """The tiles up to `size`, grown from those of the latest checkpoint where they are good."""
        tree, meter.total = self._tree, size
        if not tree.has_edge() or latest is None or not tree.trust(latest.size, latest.root):
            tree.forget()
        try:
            root = tree.grow(size, meter.tell)
        except ProofInvalid:
            # A tile went bad since it was looked at.
            tree.forget()
            root = tree.grow(size, meter.tell)
        if latest is not None and tree_root(tree.subtrees(), latest.size) != latest.root:
            tree.forget()
            raise _other_history(self._layout, latest)
        return root

    def _publish_missing(self, size: int) -> StoredCheckpoint | None:
        """The newest checkpoint, once the notes of all events that tell of one are published."""
        latest = self._newest_stored()
        low = 0 if latest is None else latest.size
        for event in self._reader.scan(_KIND, low, size):
            told = _told_by(event.raw)
            if told is None or told.origin != self._origin or told.size > event.sequence:
                continue
            if latest is None or told.size > latest.size:
                latest = self._published(told)
            elif told.size == latest.size:
                latest = self._healed(latest, told)
        return latest

    def _newest_stored(self) -> StoredCheckpoint | None:
        """The newest of this origin that is whole; what else stands there, verify names."""
        for size in reversed(checkpoint_sizes(self._files, self._layout)):
            try:
                stored = load_checkpoint(
                    self._files, self._layout, self._origin, size, self._shared
                )
            except Damaged:
                continue
            if stored.origin == self._origin:
                return stored
        return None

    def _published(self, told: StoredCheckpoint) -> StoredCheckpoint:
        """The note that an event tells of, as it stands or else as the event has it.

        One that stands may have cosignatures, and be no news but to a listing that failed.
        """
        try:
            stored = load_checkpoint(
                self._files, self._layout, self._origin, told.size, self._shared
            )
        except (NotCheckpointed, Damaged):
            self._publish(told)
            return told
        return self._healed(stored, told)

    def _healed(self, stored: StoredCheckpoint, told: StoredCheckpoint) -> StoredCheckpoint:
        """The stored checkpoint with the log's signature that its event has.

        A text that is not the event's stays: which of them is wrong, its root shows.
        """
        kept, first = Note.parse(stored.note), Note.parse(told.note)
        if kept.text != first.text or set(first.signatures) <= set(kept.signatures):
            return stored
        # Damage in the key's id makes it look like another key's; the name is the log's alone.
        others = (line for line in kept.signatures if line.name != told.origin)
        lines = (*first.signatures, *others)[:MAX_SIGNATURES]
        healed = StoredCheckpoint(told.origin, told.size, told.root, str(Note(kept.text, lines)))
        self._publish(healed, reason="the log's signature is not the one that its event has")
        return healed

    def _publish(
        self,
        checkpoint: StoredCheckpoint,
        *,
        is_stored: bool = False,
        reason: str = "this is no checkpoint of this journal",
    ) -> None:
        """`reason`: what is wrong with a file that stands in its place and is set aside."""
        data = checkpoint.note.encode()
        path = self._layout.checkpoint(checkpoint.size)
        try:
            if not is_stored:
                self._make_folder(self._layout.checkpoints)
                # Witnesses may have signed what stands there, which nobody can make again.
                self._set_aside(path, reason)
                # Crash before this: as if it had never been published.
                replace_file(self._files, path, data)
            # Crash before this: `tlog/checkpoint` is the one before, a true one as well.
            self._make_folder(self._layout.tlog)
            replace_file(self._files, os.path.join(self._layout.tlog, "checkpoint"), data)
        except OSError as error:
            raise refusal(error, "can't publish the checkpoint", path) from error

    def _set_aside(self, path: str, reason: str) -> None:
        moved = set_aside(self._files, self._layout, path, reason)
        if moved is not None:
            told(partial(_was_set_aside, path, moved, reason))

    def _make_folder(self, path: str) -> None:
        try:
            self._files.mkdir(path)
        except FileExistsError:
            return
        self._files.sync_directory(self._layout.root)

    def add_cosignatures(self, note: str, witnesses: Iterable[Key]) -> StoredCheckpoint:
        """Add what these witnesses signed to the stored checkpoint that they signed.

        Of each witness the newest signature is kept, since that is the one that counts; lines
        by anybody else are left out. Raises InvalidInput, NotCheckpointed, Damaged.
        """
        trusted = tuple(witnesses)
        with self._lock:
            self._check_not_making()
            try:
                given = Note.parse(note)
                signed = given.verified(trusted)
                size = Checkpoint.parse(given.text).size
            except ProofInvalid as error:
                raise InvalidInput(
                    error.what, field="note", advice="give the whole note that the witness gave"
                ) from error
            stored = load_checkpoint(self._files, self._layout, self._origin, size, self._shared)
            if any(_is_own(key, stored) for key in trusted):
                raise InvalidInput(
                    "this is the log's own key, or has its name: no log is its own witness",
                    field="witnesses",
                    advice=_WITNESS_KEY,
                )
            kept = Note.parse(stored.note)
            if kept.text != given.text:
                raise InvalidInput(
                    f"the note is of another checkpoint over {size} events than the stored one",
                    field="note",
                    advice="keep both: one of them is of a fork of this journal",
                )
            if not signed:
                raise InvalidInput(
                    "none of these witnesses signed the note", field="note", advice=_WITNESS_KEY
                )
            lines = _with_newest(kept, given, signed)
            whole = str(Note(kept.text, lines))
            if len(lines) > MAX_SIGNATURES or len(whole.encode()) > MAX_NOTE_BYTES:
                raise InvalidInput(
                    "the checkpoint would have more signatures than a note may have: "
                    f"{MAX_SIGNATURES}, in {MAX_NOTE_BYTES} bytes",
                    field="note",
                    advice="make a new checkpoint and have that cosigned",
                )
            cosigned = StoredCheckpoint(stored.origin, size, stored.root, whole)
            newest = self._newest_stored()
            try:
                replace_file(self._files, self._layout.checkpoint(size), whole.encode())
            except OSError as error:
                path = self._layout.checkpoint(size)
                raise refusal(error, "can't keep the cosignatures", path) from error
            # An ancestor's is of another log than the one that `tlog/` shows.
            if newest is not None and newest.note == stored.note:
                self._publish(cosigned, is_stored=True)
            return cosigned


def _is_own(key: Key, stored: StoredCheckpoint) -> bool:
    """Whether a witness's key has the log's name, or is the one that signed as the log."""
    return key.name == stored.origin or _is_signed_with(stored, key.public_key)


def _with_newest(kept: Note, given: Note, signed: Iterable[Key]) -> tuple[Signature, ...]:
    """The lines of `kept`, those of these keys replaced by the newest of both notes."""
    lines = list(kept.signatures)
    for key in signed:
        theirs = [
            line
            for line in dict.fromkeys((*kept.signatures, *given.signatures))
            if (line.name, line.key_id) == (key.name, key.key_id)
        ]
        best = max(theirs, key=lambda line: _signed_at(key, kept.text, line))
        at = next((n for n, line in enumerate(lines) if line in theirs), len(lines))
        others = [line for line in lines if line not in theirs]
        lines = [*others[:at], best, *others[at:]]
    return tuple(lines)


def _signed_at(key: Key, text: str, line: Signature) -> int:
    """The time of a line; before all others where the signature is wrong."""
    time = key.signed_at(text, line.signature)
    return -1 if time is None else time


def checkpoint_signed_with(
    reader: LogReader, public_key: bytes, bound: int
) -> StoredCheckpoint | None:
    """The first checkpoint below `bound`, as its event tells of it, that this key signed."""
    for event in reader.scan(_KIND, 0, bound):
        told = _told_by(event.raw)
        if told is not None and _is_signed_with(told, public_key):
            return told
    return None


def _is_signed_with(checkpoint: StoredCheckpoint, public_key: bytes) -> bool:
    try:
        return bool(Note.parse(checkpoint.note).verified([Key(checkpoint.origin, public_key)]))
    except ProofInvalid:
        return False


def _told_by(payload: bytes) -> StoredCheckpoint | None:
    """The checkpoint that an event tells of; None for one that this version can't read."""
    try:
        told: Any = canonical.decode(payload)
        note = cast("dict[str, Any]", told)["note"]
        return StoredCheckpoint.parse(bytes(note))
    except (CanonicalError, ProofInvalid, KeyError, TypeError, ValueError):
        return None


def _other_history(layout: Layout, latest: StoredCheckpoint) -> JournalCorrupt:
    return JournalCorrupt(
        f"the first {latest.size} events are not those that their checkpoint was signed over; "
        "nothing new is signed",
        file=layout.checkpoint(latest.size),
        reason="checkpoint-root",
        first=0,
        last=latest.size - 1,
        witness=f"checkpoints/{os.path.basename(layout.checkpoint(latest.size))}",
        advice="the journal was rewritten: restore it from a snapshot; "
        f"run: batpak verify {layout.root}",
    )


def _was_set_aside(path: str, moved: str, reason: str) -> None:
    logger.warning(
        "%s is set aside in quarantine/: %s", path, reason,
        extra={
            "code": "checkpoint-set-aside", "file": path, "quarantine": moved, "reason": reason,
        },
    )  # fmt: skip


def _key_changed(size: int) -> None:
    logger.warning(
        "the checkpoint over %d events was signed with another key: whoever checks needs both",
        size, extra={"code": "checkpoint-key-changed", "size": size},
    )  # fmt: skip
