"""A witness: keeps the last checkpoint that it saw of one log, and cosigns what grew out of it.

The state is kept durably before a cosignature is given away, and under a lock, so that
neither a crash nor a second process makes it vouch for two histories. What is judged:
batpak.tlog.signing. The request's form: the body of add-checkpoint in C2SP's tlog-witness.
"""

from __future__ import annotations

import os
import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

from batpak.errors import Conflict, Damaged, InvalidInput, ProofInvalid, StorageFailed
from batpak.files import REAL, Files, closing, read_small, refusal, replace_file
from batpak.proof.notes import (
    MAX_NOTE_LENGTH,
    MAX_SIGNATURES,
    Checkpoint,
    Key,
    Note,
    Policy,
)
from batpak.tlog.signing import cosign

if TYPE_CHECKING:
    from batpak.signing import SigningKey

__all__ = ["Cosigned", "Witness", "parse_request"]

_MAX_STATE: Final = 64 << 10
_MAX_HASHES: Final = 63
"""A consistency proof in a tree of 2^63 leaves has no more."""


_ASK_ANEW: Final = "make the request anew with: batpak witness request JOURNAL"
_AGAINST_IT: Final = "keep the request: what the log signed here is proof against it"
_ADVICE: Final = {
    "rollback": _AGAINST_IT,
    "fork": _AGAINST_IT,
    "not-consistent": f"{_ASK_ANEW}; a log that can't prove it now has another past",
    "unknown-log": "check --log, the log's key, and --state: each log has a file of its own",
}
"""What to do about a refusal, by its reason."""


class Cosigned(NamedTuple):
    """What a witness gives back."""

    origin: str
    size: int
    time: int
    """Seconds since 1970."""
    line: str
    note: str


def parse_request(text: str) -> tuple[int, list[bytes], str]:
    """The old size, the consistency proof and the note of a request. Raises InvalidInput."""
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    word, _, number = first.partition(" ")
    is_number = number.isascii() and number.isdigit() and len(number) <= 19
    if not blank or word != "old" or not is_number or str(int(number)) != number:
        raise _no_request("its first line is not `old` and a size")
    if len(lines) > _MAX_HASHES:
        raise _no_request(f"it has more than {_MAX_HASHES} hashes")
    try:
        hashes = [b64decode(line, validate=True) for line in lines]
    except ValueError as error:
        raise _no_request("a hash is not base64") from error
    if any(len(each) != 32 for each in hashes):
        raise _no_request("a hash has not 32 bytes")
    if [b64encode(each).decode() for each in hashes] != lines:
        raise _no_request("a hash is not base64 in its one form")
    return int(number), hashes, note


def _no_request(why: str) -> InvalidInput:
    return InvalidInput(
        f"not a request to a witness: {why}",
        field="request",
        advice="make one with: batpak witness request JOURNAL",
    )


def _other_start(old_size: int, last: int) -> Conflict:
    seen = f"is over {last} events" if last else "is none"
    return Conflict(
        f"the last checkpoint seen {seen}, and the request asks from {old_size} on",
        advice=f"ask again with: batpak witness request JOURNAL --old {last}",
    )


class Witness:
    """One witness for one log. `state` is a file of its own; `state`.lock is held meanwhile."""

    def __init__(
        self, log: Key, name: str, key: SigningKey, state: str, files: Files = REAL
    ) -> None:
        self._policy = Policy(log)
        self._name = name
        self._key = key
        self._state = os.path.abspath(state)
        self._files = files

    def cosign(self, request: str, *, now: int | None = None) -> Cosigned:
        """Judge a request, remember its checkpoint, and cosign it.

        `now`: seconds since 1970, else the system's. Raises InvalidInput; Conflict with the
        reason for a log that went back on what it showed, or for a request that does not
        begin at what was seen last; Damaged for a bad state file.
        """
        old_size, hashes, note = parse_request(request)
        try:
            lock = self._files.open(self._state + ".lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise refusal(error, "can't open the state's lock", self._state) from error
        with closing(self._files, lock):
            if not self._files.lock(lock):
                raise StorageFailed(
                    "another process is this witness now", file=self._state, advice="try again"
                )
            return self._cosign(old_size, hashes, note, int(time.time()) if now is None else now)

    def _cosign(self, old_size: int, hashes: list[bytes], note: str, now: int) -> Cosigned:
        seen = self._seen()
        last = 0 if seen is None else seen.size
        try:
            checkpoint, line = cosign(
                note, self._policy, seen, hashes, self._name, self._key.private, now
            )
            parsed = Note.parse(note)
        except ProofInvalid as error:
            if error.reason == "not-consistent" and old_size != last:
                raise _other_start(old_size, last) from error
            reason = str(error.reason)
            raise Conflict(
                f"not cosigned ({reason}): {error.what}", advice=_ADVICE.get(reason, _ASK_ANEW)
            ) from error
        # What the log says of itself came first: a rollback is told as one, however it asks.
        if old_size > checkpoint.size:
            raise _no_request(f"it asks from {old_size} on, and its checkpoint ends before")
        if old_size != last:
            raise _other_start(old_size, last)
        if hashes and seen is None:
            raise _no_request("a proof that begins at 0 has no hashes")
        # One line for a witness: of several, whoever counts takes the newest.
        own = (line.name, line.key_id)
        others = (each for each in parsed.signatures if (each.name, each.key_id) != own)
        whole = Note(parsed.text, (*others, line))
        if len(whole.signatures) > MAX_SIGNATURES or len(str(whole)) > MAX_NOTE_LENGTH:
            raise InvalidInput(
                f"with one more signature the note is none: it may have {MAX_SIGNATURES}, "
                f"in {MAX_NOTE_LENGTH} characters",
                field="request",
                advice="ask with the log's own signature alone: a witness needs no other",
            )
        # Crash before this: nothing was given away. After it: the same request is refused, with
        # the size to ask from, and the next one gives the cosignature again.
        self._keep(checkpoint)
        text = str(line).rstrip("\n")
        return Cosigned(checkpoint.origin, checkpoint.size, now, text, str(whole))

    def _seen(self) -> Checkpoint | None:
        try:
            return Checkpoint.parse(read_small(self._files, self._state, _MAX_STATE).decode())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, "can't read the witness's state", self._state) from error
        except (ProofInvalid, UnicodeDecodeError) as error:
            raise Damaged(
                "the witness's state is not a checkpoint",
                file=self._state,
                advice="restore it; a witness without memory vouches for nothing",
            ) from error

    def _keep(self, checkpoint: Checkpoint) -> None:
        try:
            replace_file(self._files, self._state, str(checkpoint).encode())
        except OSError as error:
            raise refusal(error, "can't keep what was seen: not cosigned", self._state) from error
