"""Commands that judge: verify and repair a journal, doctor its surroundings too.

None of them changes a byte of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import batpak
from batpak.errors import InvalidInput
from batpak_cli import shapes, terminal
from batpak_cli.arguments import (
    Journal,
    JsonOption,
    KeyringOption,
    WitnessOption,
    keyring_at,
    read_text,
)

if TYPE_CHECKING:
    from batpak.engine.doctor import Examination
    from batpak.proof.notes import Key
    from batpak.receipt import ReceiptKey

__all__ = ["doctor", "repair", "verify"]

Level = Literal["chain", "full"]


def verify(
    ctx: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A journal's directory, or a bundle's file, or - for input."
        ),
    ],
    level: Annotated[
        Level | None,
        typer.Option(
            help="full: every payload too. chain: rows, links and checksums only.",
            show_default="full",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="The log's key, or a file with it: who signs checkpoints; for a journal "
            "whose key changed, repeatable.",
        ),
    ] = None,
    receipt_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEX",
            help="A public key for a bundle's receipts; repeatable.",
            show_default="those that the bundle shows",
        ),
    ] = None,
    witness: WitnessOption = None,
    quorum: Annotated[
        int,
        typer.Option(
            min=0, max=64, metavar="K", help="How many of the witnesses must have signed."
        ),
    ] = 0,
    keyring: KeyringOption = None,
    json: JsonOption = False,
) -> None:
    """Check a journal or a bundle; exit 1 when something is wrong.

    A journal: recomputes every hash and link, and the Merkle root under each checkpoint.
    Whoever can rewrite all of it can also make new hashes and, with the key, checkpoints:
    compare with what witnesses signed, or with a note that you kept elsewhere. Encrypted
    payloads are checked without their keys; with --keyring they are opened as well. With
    --key each checkpoint has to be signed by one of the keys given: give the old one too,
    where the checkpoint key changed.

    A bundle: needs no journal, only keys that you trust, and lists what was checked. Not
    shown is not failed: read what is not shown.

    In Python: Store.verify; batpak.proof.bundle.verify_bundle. With --json: the shape
    "verify", or for a bundle "verdict".

    \b
    Example:
      batpak verify journal
      batpak keys show checkpoints.pem --journal journal --field log-key > log.key
      batpak verify bundle.json --key log.key
    """
    from batpak_cli.proving import parse_key

    logs = tuple(parse_key(text, "--key") for text in key or ())
    witnesses = tuple(parse_key(text, "--witness") for text in witness or ())
    if quorum > len(witnesses):
        raise typer.BadParameter(f"{quorum} of {len(witnesses)} witnesses can't sign")
    # Not only files: a bundle may come through a pipe.
    if path == "-" or (os.path.exists(path) and not os.path.isdir(path)):
        source = ctx.get_parameter_source("keyring")
        if level is not None or (source is not None and source.name == "COMMANDLINE"):
            raise typer.BadParameter("--level and --keyring are for journals")
        _verify_bundle(path, logs, _receipt_keys(receipt_key), witnesses, quorum, json)
        return
    if receipt_key or witnesses:
        raise typer.BadParameter("--receipt-key and --witness are for bundles")
    with (
        batpak.Store.open(path, mode="r", keyring=keyring_at(keyring)) as store,
        terminal.Bar("verify", unit="bytes", quiet=json) as bar,
    ):
        report = store.verify(level or "full", progress=bar, keys=logs)
    if json:
        terminal.emit(shapes.verified(report))
    else:
        for found in report.findings:
            terminal.say_finding(found)
        root = "" if report.root is None else f", root {report.root.hex()}"
        judged = "ok" if report.ok else terminal.counted(len(report.findings), "finding")
        print(
            f"{judged}: {terminal.counted(report.events, 'event')} "
            f"in {terminal.counted(report.segments, 'segment')}, "
            f"level {report.level}, {report.seconds:.2f} s{root}"
        )
        if report.unopened:
            why = ", ".join(f"{number} {reason}" for reason, number in report.closed.items())
            terminal.note(f"encrypted payloads: {report.encrypted}; not opened: {why}")
    if not report.ok:
        raise typer.Exit(1)


def _receipt_keys(texts: list[str] | None) -> list[ReceiptKey]:
    from batpak.receipt import ReceiptKey

    keys: list[ReceiptKey] = []
    for text in texts or ():
        try:
            public_key = bytes.fromhex(text)
        except ValueError:
            public_key = b""
        if len(public_key) != 32:
            raise typer.BadParameter("a public key is 64 hex digits", param_hint="--receipt-key")
        keys.append(ReceiptKey(public_key))
    return keys


def _verify_bundle(
    path: str,
    logs: tuple[Key, ...],
    receipt_keys: list[ReceiptKey],
    witnesses: tuple[Key, ...],
    quorum: int,
    json: bool,
) -> None:
    from batpak.bundle import MAX_BUNDLE_LENGTH
    from batpak.proof.bundle import verify_bundle
    from batpak.proof.notes import Policy

    if len(logs) != 1:
        raise typer.BadParameter(
            "a bundle is checked with one --key, the log's key: get it from somebody other than "
            "whoever gave you the bundle"
        )
    text = read_text(path, MAX_BUNDLE_LENGTH)
    verdict = verify_bundle(text, receipt_keys, Policy(logs[0], witnesses, quorum))
    if json:
        terminal.emit(shapes.judged(verdict))
    else:
        for check in verdict.checks:
            event = "" if check.sequence is None else f" of event {check.sequence}"
            detail = f": {check.detail}" if check.detail else ""
            print(terminal.safe(f"{shapes.ANSWERS[check.held]:9} {check.name}{event}{detail}"))
        print("ok: no check failed" if verdict.ok else "not proven: a check failed")
    if not verdict.ok:
        raise typer.Exit(1)


def repair(
    journal: Journal,
    into: Annotated[
        str | None,
        typer.Option(metavar="DEST", help="Make a repaired copy here, a new directory."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Explain damage; with --into, accept a loss on a copy.

    Says whether the journal opens, what in it is damaged, and what can be done. The journal
    itself is never changed. Exit 0: nothing to repair. 1: an unfinished tail
    that the next writer cuts by itself. 3: durable events are damaged or missing.

    A journal that opens although some events are damaged ("usable") can be gone on with as it
    is: --into is for one that does not open.

    The copy keeps every event before the damage, has the rest in quarantine/, and says
    in an event what was lost. DEST appears when all of it is durable, and never over something.

    With --json: the shape "diagnosis", and with --into the shape "repair".

    \b
    Example:
      batpak repair journal
    """
    from batpak.engine.opening import check_place
    from batpak.engine.repair import diagnose, repair_into
    from batpak.files import REAL
    from batpak.journal.layout import Layout

    layout = Layout(journal)
    check_place(REAL, layout, batpak.StoreConfig(allow_network_filesystem=True))
    if into is not None:
        folder = os.path.dirname(os.path.abspath(into))
        if not os.path.isdir(folder):
            raise InvalidInput(
                f"there is no directory {folder}",
                field="into",
                value=into,
                advice="create it first, or name another place",
            )
        with terminal.Bar("repair", unit="bytes", quiet=json) as bar:
            done = repair_into(REAL, layout, into, progress=bar)
        if json:
            plain = {name: getattr(done, name) for name in shapes.SHAPES["repair"]}
            terminal.emit(plain | {"quarantined": list(done.quarantined)})
            return
        print(
            terminal.safe(
                f"repaired into {done.destination}: {terminal.counted(done.kept, 'event')} kept, "
                f"events {done.lost_from} to {done.lost_until - 1} lost"
            )
        )
        for file in done.quarantined:
            print(terminal.safe(f"set aside: {file}"))
        return
    with terminal.Bar("repair", unit="bytes", quiet=json) as bar:
        found = diagnose(REAL, layout, progress=bar)
    if json:
        terminal.emit(shapes.diagnosis(found))
    else:
        print(terminal.safe(f"{found.state}: {found.explanation}"))
        for choice in found.choices:
            print(terminal.safe(f"  - {choice}"))
    if found.state != "healthy":
        raise typer.Exit(1 if found.state == "torn" else 3)


def doctor(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A journal, or where one is to be.")
    ] = ".",
    json: JsonOption = False,
) -> None:
    """Say what machine and disk offer a journal, and what is risky.

    Looks at the file system, its locks and syncs, the room, the clock; in a journal also
    at who writes to it, its witnesses, index files and quarantine. Reads and probes, and
    writes nothing; what can't be known that way is unknown. PATH may be missing: then the
    directory above it counts.

    Exit 0: nothing is risky. 1: something is. 3: the journal there is damaged.

    In Python: Store.diagnostics. With --json: the shape "doctor".

    \b
    Example:
      batpak doctor journal
    """
    from batpak.engine.doctor import examine
    from batpak.files import REAL
    from batpak.journal.layout import Layout

    found = examine(REAL, Layout(path))
    if json:
        terminal.emit(shapes.examined(found))
    else:
        terminal.pairs(_examined(found))
        for risk in found.risks:
            # "damaged" is both, and said once.
            name = ": ".join(dict.fromkeys((risk.severity, risk.code)))
            print(terminal.safe(f"{name}: {risk.what}; {risk.advice}"))
        number = len(found.risks)
        print(f"{found.verdict}: {terminal.counted(number, 'risk') if number else 'no risk seen'}")
    if found.verdict != "good":
        raise typer.Exit(3 if found.verdict == "damaged" else 1)


def _examined(found: Examination) -> Iterator[tuple[str, object]]:
    """The rows of doctor's table."""
    host, place, clock, lock = found.host, found.place, found.clock, found.lock
    yield "machine", f"{host.system} {host.release}, {host.machine}, {host.python}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in host.packages.items())
    missing = "" if place.status == "directory" else f", looked at for {place.path}"
    yield "directory", f"{place.directory}{missing}"
    yield "file system", place.filesystem or "unknown"
    if place.space is not None:
        free, total = place.space.free >> 20, place.space.total >> 20
        yield "room", f"{free:,} MiB free of {total:,} MiB"
    yield "making files", place.writing
    yield "directory sync", place.directory_sync
    yield "file lock", place.file_lock
    yield "reserving space", place.reserving
    yield "mapping files", place.mapping
    yield "hard links", place.hard_links
    yield "reflinks", place.reflinks
    yield "clock resolution", f"{clock.wall_resolution} s, monotonic {clock.monotonic_resolution} s"
    for name, value in found.would_get.items():
        yield name.replace("_", " "), value
    journal = found.journal
    if journal is None:
        yield "journal", "none that can be read" if found.problem else "none yet"
        return
    yield "journal", f"{journal.origin}, {journal.journal_id}"
    writer = {"held": f"process {lock.pid}", "free": "nobody"}.get(lock.state, "unknown")
    if lock.state != "held" and lock.named is not None:
        writer += f"; the last one was process {lock.named}"
    yield "writer", writer
    yield "events", journal.events
    yield "known to be durable", journal.durable
    yield "segments", journal.segments
    yield "without an index file", journal.without_sidecar
    yield "in quarantine", journal.quarantined
