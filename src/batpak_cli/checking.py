"""Commands that judge a journal: verify, repair. Neither changes a byte of it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

import batpak
from batpak_cli import shapes, terminal
from batpak_cli.arguments import Journal, JsonOption

__all__ = ["repair", "verify"]

Level = Literal["chain", "full"]


def verify(
    journal: Journal,
    level: Annotated[
        Level,
        typer.Option(help="full: every payload too. chain: rows, links and checksums only."),
    ] = "full",
    json: JsonOption = False,
) -> None:
    """Recompute every hash and link; exit 1 when one is wrong.

    Whoever can rewrite the whole journal can also make new hashes: compare the root, or
    the last event's hash, with one that you noted elsewhere.

    In Python: Store.verify. With --json: the shape "verify".

    \b
    Example:
      batpak verify journal
    """
    with (
        batpak.Store.open(journal, mode="r") as store,
        terminal.Bar("verify", unit="bytes", quiet=json) as bar,
    ):
        report = store.verify(level, progress=bar)
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
    if not report.ok:
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

    Says what keeps the journal from opening, and what can be done. The journal itself is
    never changed. Exit 0: nothing to repair. 1: an unfinished tail
    that the next writer cuts by itself. 3: durable events are damaged or missing.

    The copy keeps every event before the damage, has the rest in quarantine/, and says
    in an event what was lost.

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
        done = repair_into(REAL, layout, into)
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
    found = diagnose(REAL, layout)
    if json:
        terminal.emit(shapes.diagnosis(found))
    else:
        print(terminal.safe(f"{found.state}: {found.explanation}"))
        for choice in found.choices:
            print(terminal.safe(f"  - {choice}"))
    if found.state != "healthy":
        raise typer.Exit(1 if found.state == "torn" else 3)
