"""What `--json` prints, as plain values of JSON; each shape's fields are documented here.

JSON knows neither bytes nor maps with other keys than text, so plain payloads get five
marks, each an object with a single key: see `MARKS`. Nothing else is changed: numbers
keep all their digits, also those that a reader with 64-bit floats would round.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal, cast

from batpak.errors import BatpakError, CanonicalError, KeyUnavailable

if TYPE_CHECKING:
    from batpak import (
        CompactionPlan,
        CompactionReport,
        ErasureReport,
        Event,
        Finding,
        ShredReport,
        Stats,
        VerifyReport,
    )
    from batpak.engine.checkpoints import StoredCheckpoint
    from batpak.engine.doctor import Examination
    from batpak.engine.forking import ForkReport
    from batpak.engine.keys import KeySpan
    from batpak.engine.repair import Diagnosis
    from batpak.engine.restoring import RestoreReport
    from batpak.engine.snapshot import SnapshotReport
    from batpak.proof.bundle import Verdict
    from batpak_cli.importers.report import ImportReport

__all__ = [
    "ANSWERS",
    "EVENT_FIELDS",
    "MARKS",
    "SHAPES",
    "as_json",
    "checkpoint",
    "compacted",
    "diagnosis",
    "erased",
    "error",
    "event",
    "examined",
    "finding",
    "imported",
    "judged",
    "kept",
    "key_span",
    "line",
    "shredded",
    "stats",
    "verified",
    "would_compact",
]

MARKS = {
    '{"$bytes": "00ff"}': "bytes, as hex",
    '{"$float": "nan"}': "a float that JSON can't write: `nan`, `inf` or `-inf`",
    '{"$map": [[key, value], …]}': "a map with keys that are not text, or begin with `$`",
    '{"$raw": "00ff"}': "a whole payload that is not canonical MessagePack, as hex",
    '{"$sealed": "00ff"}': "an encrypted payload whose key is not at hand: its envelope, as hex",
}

EVENT_FIELDS = {
    "sequence": "place in the journal, from 0",
    "event_id": "`event:` and 32 hex digits",
    "entity": "whose event it is",
    "scope": "where it happened",
    "kind": "`0x` and 4 hex digits",
    "time": "when it was appended, UTC, to the microsecond",
    "timestamp_us": "the same, in microseconds since 1970",
    "hlc": "hybrid logical clock, strictly increasing",
    "clock": "place in the entity's stream, from 0",
    "lane": "the caller's label",
    "depth": "the caller's label",
    "flags": "bits; 0x100: the id is an idempotency key",
    "correlation_id": "shared by a conversation",
    "causation_id": "the event that caused this one, or null",
    "payload_version": "version of the payload's class, 0 for untyped",
    "payload_state": "`present`, `erased`, `shredded` or `detached`",
    "payload": "the plain value, with the marks below; null when it is not present",
    "extensions": "name to bytes as hex",
    "commitment": "hash of the stored envelope, hex",
    "prev_hash": "hash of the entity's event before, hex; zeros for its first",
    "event_hash": "the event's hash, hex",
}

ANSWERS = {True: "held", False: "failed", None: "not shown"}
"""What a check of a bundle came to, in words."""

FINDING_FIELDS = {
    "code": "what is wrong, kebab-case, stable",
    "file": "the file, or the empty text",
    "offset": "byte in the file, or null",
    "sequence": "event, or null",
    "message": "what, where, what to do",
    "expected": "what should be there, or null",
    "found": "what is there, or null",
}

SHAPES = {
    "event": EVENT_FIELDS,
    "finding": FINDING_FIELDS,
    "init": {
        "path": "the journal's directory",
        "journal_id": "its UUID",
        "origin": "its name in checkpoints",
        "created": "false when it was there already",
    },
    "import": {
        "source": "the name that the journal knows the source by",
        "resumed": "whether an earlier run had imported from it",
        "read": "lines, rows or commits read by this run",
        "events": "events added by this run",
        "batches": "commits to the journal",
        "skipped": "bad lines left out",
        "incomplete": "whether an unfinished last line was left for the next run",
        "bad": "the first 20 bad lines: `line` and `reason`",
        "seconds": "how long it took",
        "events_per_second": "how fast",
    },
    "verify": {
        "ok": "whether nothing was found",
        "level": "`chain` or `full`",
        "events": "events checked",
        "records": "commits checked",
        "segments": "files checked",
        "bytes": "bytes of log checked",
        "seconds": "how long it took",
        "root": "Merkle root over the event hashes, hex; null for `chain`, and with events missing",
        "encrypted": "events with an encrypted payload; 0 for `chain`",
        "closed": "of these, how many payloads were not opened, by reason: `no-keyring`, "
        "`unknown-key`, `shredded`, `gone` and others",
        "findings": "a list of findings",
    },
    "verdict": {
        "ok": "whether no check failed",
        "checks": "a list of `name`, `answer` (`held`, `failed`, `not shown`), `detail`, "
        "`sequence` or null; docs/proofs.md says what each one means",
    },
    "key": {
        "file": "where the private key is",
        "public_key": "32 bytes, hex: verifies receipts",
        "key_id": "its BLAKE3, hex: what receipts call it",
        "log_key": "verifies this name's checkpoints; null without a name",
        "witness_key": "verifies this name's cosignatures; null without a name",
    },
    "key-span": {
        "key_id": "hex",
        "public_key": "hex",
        "since": "the event that introduced it: it counts from there on",
        "until": "the event that retired it, from which on it does not; null: in force",
    },
    "checkpoint": {
        "origin": "the journal's name",
        "size": "how many events it covers, from the first",
        "root": "Merkle root over their hashes, hex",
        "note": "the signed note",
        "is_new": "false when nothing but checkpoints was new",
    },
    "witness-request": {
        "old_size": "what the witness has seen",
        "old_root": "the root that it must have seen then, hex",
        "size": "events that the checkpoint covers",
        "root": "its root, hex",
        "hashes": "the consistency proof, hex",
        "note": "the signed checkpoint",
    },
    "cosigned": {
        "origin": "the log's name",
        "size": "events that the checkpoint covers",
        "time": "seconds since 1970 in the cosignature",
        "line": "the cosignature's line",
        "note": "the note with that line added",
    },
    "stats": {
        "path": "the journal's directory",
        "journal_id": "its UUID",
        "origin": "its name in checkpoints",
        "events": "how many",
        "segments": "files of log",
        "segment_bytes": "their bytes, without space reserved ahead",
        "entities": "how many",
        "scopes": "how many",
        "kinds": "kind to number of events",
        "keyed_events": "events under an idempotency key, imported ones among them",
        "first_time": "UTC, or null",
        "last_time": "UTC, or null",
    },
    "export": {
        "events": "lines written",
        "file": "where to; null for standard output",
        "seconds": "how long it took",
    },
    "erase": {
        "dry_run": "whether nothing was written",
        "events": "events whose payloads are erased by this",
        "sequences": "the same as pairs of a first and a last sequence",
        "already": "events that were asked for and had been erased before",
        "system": "events of the journal itself that were left alone",
        "receipts": "ids of the events that say so",
    },
    "shred": {
        "dry_run": "whether nothing was written",
        "keys": "keys that are destroyed: `key_id`, `asked` (events that were asked for), "
        "`events` (all that it covers)",
        "before": "the same for keys that had been shredded before",
        "events": "events that were asked for and can't be read any more",
        "others": "events that were not, and share their keys",
        "unencrypted": "events asked for that no key protects: erase them",
        "gone": "encrypted events asked for whose payload compaction had taken out",
        "system": "events of the journal itself that were left alone",
        "receipts": "ids of the events that say so",
        "missing": "ids of keys that the keyring had lost, so that nothing was destroyed",
    },
    "keyring": {
        "path": "the keyring's directory",
        "policy": "which events share a key: `entity`, `category`, `kind` or `event`",
    },
    "compact": {
        "outcome": "`performed`, `skipped`, `failed`, or `planned` after --dry-run",
        "reason": "why it was skipped or failed, or null",
        "payloads": "payloads left out",
        "bytes": "length of these payloads as they were stored",
        "shorter": "by how much the files became shorter; less than 0 where the tables of "
        "records that lack a payload take more; 0 when planned",
        "segments": "a list: `base`, `generation`, `payloads`, `bytes`, `shorter`",
        "copies": "where these payloads may still stand: `kind` (`hard-link`, `quarantine`), "
        "`file`, `links` (its other names), `bytes`",
        "seconds": "how long it took, or null",
    },
    "diagnosis": {
        "state": "`healthy`, `torn` (the next writer cuts a tail that was never durable), "
        "`usable` (it opens and can be written to, and some events are damaged) "
        "or `damaged` (it does not open for writing)",
        "events": "events before what keeps it from opening; all of them, when nothing does",
        "file": "where the first damage begins, or the log's end",
        "offset": "byte in that file",
        "reason": "why the bytes there are no record",
        "lost_until": "exclusive bound of what was durable; `events` when nothing is lost",
        "witness": "what knows of that bound",
        "bytes_behind": "bytes from there on that are not zero",
        "explanation": "the same, for people",
        "choices": "what can be done",
    },
    "doctor": {
        "path": "what was asked about",
        "verdict": "`good`, `risky` or `damaged`",
        "host": "the machine: `system`, `release`, `machine`, `python`, `packages`",
        "place": "the directory and its file system, each capability with `state` (`seen`, "
        "`refused`, `unknown`) and `how`: the fields of `diagnostics().place`",
        "clock": "the fields of `diagnostics().clock`",
        "lock": "`state` (`held`, `free`, `unknown`), `pid` of the holder, `named`: last writer",
        "journal": "`journal_id`, `origin`, `events`, `durable`, `segments`, `without_sidecar`, "
        "`hint_durable`, `bytes_behind`, `quarantined`, `quarantined_bytes`, `findings`; or null",
        "problem": "why no journal can be read, or none written: `code`, `what`, `advice`, "
        "`is_damage`; or null",
        "would_get": "what a journal there gets with the options' defaults, in words",
        "risks": "a list, the worst first: `code`, `severity` (`refused`, `damaged`, `unsafe`, "
        "`notice`), `what`, `advice`",
    },
    "repair": {
        "destination": "the repaired copy",
        "kept": "events that it has from the source",
        "lost_from": "first sequence that it accepts as lost",
        "lost_until": "the bound behind the last one",
        "quarantined": "files of the copy that hold what was set aside",
    },
    "snapshot": {
        "destination": "the snapshot",
        "journal_id": "UUID of the journal that it is of",
        "events": "exclusive bound: it has the events below it",
        "last_hash": "event hash of the last of them, hex",
        "files": "how many the manifest names",
        "bytes": "of all of them",
        "cloned": "bytes that share their blocks with the journal's, until one is written to",
        "linked": "bytes in files that the journal has under another name",
        "copied": "bytes that were written anew",
        "digest": "BLAKE3 of manifest.json, hex: note it elsewhere",
        "seconds": "how long it took",
    },
    "restore": {
        "destination": "the new journal",
        "journal_id": "its UUID",
        "origin": "its name in checkpoints",
        "from_journal": "UUID of the journal that the snapshot is of",
        "events": "exclusive bound of the events that come from the snapshot",
        "resumed": "whether it is the same journal, and no fork",
        "files": "how many were compared",
        "bytes": "of all of them",
        "seconds": "how long it took",
    },
    "fork": {
        "destination": "the new journal",
        "journal_id": "its UUID",
        "origin": "its name in checkpoints",
        "from_journal": "UUID of the journal that it has its past from",
        "events": "exclusive bound of that past",
        "bytes": "of all files of that past",
        "cloned": "as in a snapshot",
        "linked": "as in a snapshot",
        "copied": "as in a snapshot",
        "seconds": "how long it took",
    },
    "error": {
        "code": "kebab-case, stable",
        "what": "what happened",
        "advice": "what to do, or the empty text",
        "retryable": "whether the same command may succeed later",
        "exit_code": "the command's exit code",
        "facts": "the error's own fields, such as `file`, `offset`, `line`",
    },
}


def line(value: Any) -> str:
    """One line of JSON. What is no UTF-8 (a file name, perhaps) is written as escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def as_json(value: Any) -> Any:
    """A plain payload as JSON, with the marks of `MARKS`."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, list):
        return [as_json(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        if all(isinstance(key, str) and not key.startswith("$") for key in entries):
            return {key: as_json(item) for key, item in entries.items()}
        return {"$map": [[as_json(key), as_json(item)] for key, item in entries.items()]}
    return value


def _payload(stored: Event) -> Any:
    if stored.payload_state.value != "present":
        return None
    try:
        return as_json(stored.value)
    except KeyUnavailable:
        return {"$sealed": (stored.envelope or b"").hex()}
    except CanonicalError:
        # Bytes as given to append_raw need not be MessagePack.
        return {"$raw": stored.raw.hex()}


def event(stored: Event) -> dict[str, Any]:
    """The fields of EVENT_FIELDS."""
    where = stored.coordinate
    cause = stored.causation_id
    return {
        "sequence": stored.sequence,
        "event_id": str(stored.event_id),
        "entity": where.entity,
        "scope": where.scope,
        "kind": str(stored.kind),
        "time": stored.time.isoformat(timespec="microseconds"),
        "timestamp_us": stored.timestamp_us,
        "hlc": stored.hlc,
        "clock": stored.clock,
        "lane": stored.lane,
        "depth": stored.depth,
        "flags": stored.flags,
        "correlation_id": str(stored.correlation_id),
        "causation_id": None if cause is None else str(cause),
        "payload_version": stored.payload_version,
        "payload_state": stored.payload_state.value,
        "payload": _payload(stored),
        "extensions": {name: bytes(data).hex() for name, data in stored.extensions.items()},
        "commitment": stored.commitment.hex(),
        "prev_hash": stored.prev_hash.hex(),
        "event_hash": stored.event_hash.hex(),
    }


def finding(found: Finding) -> dict[str, Any]:
    """The fields of FINDING_FIELDS."""
    return {
        "code": found.code,
        "file": found.file,
        "offset": found.offset,
        "sequence": found.sequence,
        "message": found.message,
        "expected": _fact(found.expected),
        "found": _fact(found.found),
    }


def verified(report: VerifyReport) -> dict[str, Any]:
    """The shape "verify"."""
    return {
        "ok": report.ok,
        "level": report.level,
        "events": report.events,
        "records": report.records,
        "segments": report.segments,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 6),
        "root": None if report.root is None else report.root.hex(),
        "encrypted": report.encrypted,
        "closed": dict(report.closed),
        "findings": [finding(found) for found in report.findings],
    }


def judged(verdict: Verdict) -> dict[str, Any]:
    """The shape "verdict"."""
    return {
        "ok": verdict.ok,
        "checks": [
            {
                "name": check.name,
                "answer": ANSWERS[check.held],
                "detail": check.detail,
                "sequence": check.sequence,
            }
            for check in verdict.checks
        ],
    }


def key_span(span: KeySpan) -> dict[str, Any]:
    """The shape "key-span"."""
    return {
        "key_id": span.key_id.hex(),
        "public_key": span.public_key.hex(),
        "since": span.since,
        "until": span.until,
    }


def checkpoint(made: StoredCheckpoint) -> dict[str, Any]:
    """The shape "checkpoint"."""
    return {
        "origin": made.origin,
        "size": made.size,
        "root": made.root.hex(),
        "note": made.note,
        "is_new": made.is_new,
    }


def stats(path: str, journal_id: object, origin: str, numbers: Stats) -> dict[str, Any]:
    """The shape "stats"."""
    first, last = numbers.first_time, numbers.last_time
    return {
        "path": path,
        "journal_id": str(journal_id),
        "origin": origin,
        "events": numbers.events,
        "segments": numbers.segments,
        "segment_bytes": numbers.segment_bytes,
        "entities": numbers.entities,
        "scopes": numbers.scopes,
        "kinds": {str(kind): number for kind, number in numbers.kinds.items()},
        "keyed_events": numbers.keyed_events,
        "first_time": None if first is None else first.isoformat(timespec="microseconds"),
        "last_time": None if last is None else last.isoformat(timespec="microseconds"),
    }


def imported(report: ImportReport) -> dict[str, Any]:
    """The shape "import"."""
    return {
        "source": report.source,
        "resumed": report.resumed,
        "read": report.read,
        "events": report.events,
        "batches": report.batches,
        "skipped": report.skipped,
        "incomplete": report.incomplete,
        "bad": [{"line": bad.line, "reason": bad.reason} for bad in report.bad],
        "seconds": round(report.seconds, 6),
        "events_per_second": round(report.per_second, 1),
    }


def erased(report: ErasureReport, *, dry_run: bool) -> dict[str, Any]:
    """The shape "erase"."""
    return {
        "dry_run": dry_run,
        "events": report.events,
        "sequences": [list(run) for run in report.sequences],
        "already": report.already,
        "system": report.system,
        "receipts": [str(receipt.event_id) for receipt in report.receipts],
    }


def shredded(report: ShredReport, *, dry_run: bool) -> dict[str, Any]:
    """The shape "shred"."""
    from batpak.engine.report import plain

    fields = {name: plain(getattr(report, name)) for name in SHAPES["shred"] if name != "dry_run"}
    receipts = [str(receipt.event_id) for receipt in report.receipts]
    return {"dry_run": dry_run, **fields, "receipts": receipts}


def would_compact(plan: CompactionPlan) -> dict[str, Any]:
    """The shape "compact", of what would be done."""
    return _compaction("planned", None, plan.payloads, 0, plan, None)


def compacted(report: CompactionReport) -> dict[str, Any]:
    """The shape "compact"."""
    seconds = round(report.seconds, 6)
    return _compaction(
        report.outcome, report.reason, report.payloads, report.bytes_reclaimed, report, seconds
    )


def _compaction(
    outcome: str,
    reason: str | None,
    payloads: int,
    shorter: int,
    found: CompactionPlan | CompactionReport,
    seconds: float | None,
) -> dict[str, Any]:
    from batpak.engine.report import plain

    return {
        "outcome": outcome,
        "reason": reason,
        "payloads": payloads,
        "bytes": sum(each.bytes for each in found.segments),
        "shorter": shorter,
        "segments": plain(found.segments),
        "copies": plain(found.copies),
        "seconds": seconds,
    }


def diagnosis(found: Diagnosis) -> dict[str, Any]:
    """The shape "diagnosis"."""
    plain = {name: _fact(getattr(found, name)) for name in SHAPES["diagnosis"]}
    return plain | {"choices": list(found.choices)}


def kept(
    shape: Literal["snapshot", "restore", "fork"],
    report: SnapshotReport | RestoreReport | ForkReport,
) -> dict[str, Any]:
    """The shapes "snapshot", "restore" and "fork"."""
    fields = {name: _fact(getattr(report, name)) for name in SHAPES[shape]}
    return fields | {"seconds": round(report.seconds, 6)}


def examined(found: Examination) -> dict[str, Any]:
    """The shape "doctor"."""
    from batpak.engine.report import plain

    return plain(found)


def error(failure: BatpakError) -> dict[str, Any]:
    """The shape "error"."""
    return {
        "code": failure.code,
        "what": failure.what,
        "advice": failure.advice,
        "retryable": failure.retryable,
        "exit_code": failure.exit_code,
        "facts": {key: _fact(value) for key, value in failure.facts.items() if value is not None},
    }


def _fact(value: Any) -> Any:
    """A field of an error or report; what JSON has no form for as text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_fact(item) for item in cast("tuple[Any, ...]", value)]
    return str(value)
