"""What `verify` does with encrypted payloads: count them, and open those whose key is at hand.

Their hashes are checked with all others, and need no key. Here a key is tried: a payload
that its own key does not open was forged by somebody who could write to the segment, or the
keyring was tampered with. Source: docs/format.md, "Verifying".
"""

from __future__ import annotations

from batpak.engine.erasing import is_own
from batpak.engine.reading import LogReader
from batpak.engine.report import Finding, VerifyReport
from batpak.engine.system import shredded_by
from batpak.errors import (
    BatpakError,
    CanonicalError,
    Damaged,
    JournalCorrupt,
    KeyUnavailable,
    PayloadDamaged,
    PayloadShredded,
)
from batpak.event import CODEC_ENCRYPTED, SEALED_OVERHEAD
from batpak.kinds import SYSTEM_KEY_SHREDDED

__all__ = ["check_encrypted"]


def check_encrypted(
    reader: LogReader, bound: int, report: VerifyReport, *, has_encrypted: bool
) -> None:
    """Open what can be opened below `bound`, if there is anything; tell the report.

    What is damaged is named elsewhere, and passed over here.
    """
    bound = min(bound, reader.index.end)
    try:
        for sequence in reader.index.of_kind(SYSTEM_KEY_SHREDDED.raw, 0, bound):
            _check_shredding(reader, sequence, report)
        if not has_encrypted:
            return
        for sequence in reader.of_codec(CODEC_ENCRYPTED, 0, bound):
            report.encrypted += 1
            reason = _opened(reader, sequence, report)
            if reason is not None:
                report.closed[reason] = report.closed.get(reason, 0) + 1
    except Damaged:
        # The segments were judged without the index, and better: it is damaged, or behind a
        # rewrite that this reader has not seen.
        report.closed["not-looked-at"] = 1


def _check_shredding(reader: LogReader, sequence: int, report: VerifyReport) -> None:
    try:
        event = reader.stored(sequence)
        if is_own(event, SYSTEM_KEY_SHREDDED):
            shredded_by(event.raw)
    except CanonicalError as error:
        what = f"the event {sequence} shreds nothing: {error.what}"
        _add(reader, report, "shredding", sequence, what)
    except (JournalCorrupt, PayloadDamaged):
        return


def _opened(reader: LogReader, sequence: int, report: VerifyReport) -> str | None:
    """Why the payload was not opened; None when it was."""
    try:
        event = reader.stored(sequence)
        if event.envelope is None:
            return "gone"
        if len(event.envelope) < SEALED_OVERHEAD:
            what = f"the envelope of event {sequence} is shorter than its codec allows"
            _add(reader, report, "envelope-length", sequence, what)
            return "damaged"
        _ = event.raw
    except PayloadShredded:
        return "shredded"
    except KeyUnavailable as error:
        if error.reason == "wrong-key":
            _add(reader, report, "wrong-key", sequence, f"event {sequence}: {error.what}")
        return str(error.reason)
    except PayloadDamaged as error:
        if error.reason == "seal":
            _add(reader, report, "seal", sequence, error.what)
        return "damaged"
    except JournalCorrupt:
        return "damaged"
    except BatpakError as error:
        # The keyring can't be asked, or refuses: the journal is not to blame.
        return error.code
    return None


def _add(reader: LogReader, report: VerifyReport, code: str, sequence: int, what: str) -> None:
    slot = reader.index.slot_of(sequence)
    file = reader.pool.path(slot.segment_base)
    offset = slot.part.locate(sequence - slot.first)[1]
    message = f"{what}; restore keyring or event from a copy"
    report.findings.append(Finding(code, file, offset, sequence, message))
