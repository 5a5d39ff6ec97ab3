"""Commands that keep: snapshot a journal, restore it, fork it.

Each makes a new directory, or nothing; none changes what it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import batpak
from batpak_cli import shapes, terminal
from batpak_cli.arguments import Journal, JsonOption

if TYPE_CHECKING:
    from batpak.engine.forking import ForkReport
    from batpak.engine.snapshot import SnapshotReport

__all__ = ["fork", "restore", "snapshot"]

Destination = Annotated[
    str, typer.Argument(metavar="DEST", help="A new directory.", show_default=False)
]
OriginOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The new journal's name in checkpoints, no ancestor's; fixed for ever.",
        show_default="batpak/ and its id",
    ),
]


def snapshot(journal: Journal, dest: Destination, json: JsonOption = False) -> None:
    """Copy what is durable, with a manifest that proves it.

    Works beside a live writer. Old segments are shared by reference or hard link where
    the file system can, so this takes little time and room; copy the snapshot to another
    disk to be safe from the loss of this one. DEST appears when all of it is durable, and
    never over something.

    In Python: Store.snapshot. With --json: the shape "snapshot".

    \b
    Example:
      batpak snapshot journal monday
    """
    with (
        batpak.Store.open(journal, mode="r") as store,
        terminal.Bar("snapshot", unit="bytes", quiet=json) as bar,
    ):
        report = store.snapshot(dest, progress=bar)
    if json:
        terminal.emit(shapes.kept("snapshot", report))
        return
    print(
        terminal.safe(
            f"snapshot {report.destination}: {terminal.counted(report.events, 'event')} in "
            f"{terminal.counted(report.files, 'file')}, {_shared(report)}, {report.seconds:.2f} s"
        )
    )
    print(f"manifest {report.digest.hex()}")


def restore(
    snapshot: Annotated[
        str, typer.Argument(metavar="SNAPSHOT", help="A snapshot's directory.", show_default=False)
    ],
    dest: Destination,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the journal's id: the original is gone for ever. Two journals of one id "
            "are two histories under one name.",
        ),
    ] = False,
    origin: OriginOption = None,
    json: JsonOption = False,
) -> None:
    """Make a journal from a snapshot, after every byte was compared.

    The result is a fork with a new id, unless --resume is given. A snapshot with damaged,
    missing or extra files is refused, each of them named (exit 3). Nothing is ever
    overwritten, and the snapshot stays as it is.

    In Python: Store.restore. With --json: the shape "restore".

    \b
    Example:
      batpak restore monday restored
    """
    with terminal.Bar("restore", unit="bytes", quiet=json) as bar:
        report = batpak.Store.restore(snapshot, dest, resume=resume, origin=origin, progress=bar)
    if json:
        terminal.emit(shapes.kept("restore", report))
        return
    how = "the same journal" if report.resumed else f"a fork of {report.from_journal}"
    print(
        terminal.safe(
            f"restored {report.destination}: {terminal.counted(report.events, 'event')}, "
            f"{how}, {report.seconds:.2f} s"
        )
    )
    print(terminal.safe(f"journal {report.journal_id}, origin {report.origin}"))


def fork(
    journal: Journal, dest: Destination, origin: OriginOption = None, json: JsonOption = False
) -> None:
    """Begin another journal with the same past and an id of its own.

    Works beside a live writer. Old segments are shared where the file system can; neither
    journal ever writes to a file that the other one has.

    In Python: Store.fork. With --json: the shape "fork".

    \b
    Example:
      batpak fork journal experiment
    """
    with (
        batpak.Store.open(journal, mode="r") as store,
        terminal.Bar("fork", unit="bytes", quiet=json) as bar,
    ):
        report = store.fork(dest, origin=origin, progress=bar)
    if json:
        terminal.emit(shapes.kept("fork", report))
        return
    print(
        terminal.safe(
            f"fork {report.destination}: {terminal.counted(report.events, 'event')} shared with "
            f"{report.from_journal}, {_shared(report)}, {report.seconds:.2f} s"
        )
    )
    print(terminal.safe(f"journal {report.journal_id}, origin {report.origin}"))


def _shared(report: SnapshotReport | ForkReport) -> str:
    """How much of it takes no room of its own."""
    parts: list[tuple[str, Any]] = [
        ("shared", report.cloned), ("linked", report.linked), ("copied", report.copied),
    ]  # fmt: skip
    return ", ".join(f"{number:,} bytes {how}" for how, number in parts if number)
