"""Commands that take payloads away: erase and compact. They need the journal's lock.

Nothing is taken without --yes; without it, and with --dry-run, they only look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import batpak
from batpak.errors import InvalidInput
from batpak_cli import shapes, terminal
from batpak_cli.arguments import (
    CategoryOption,
    ClockOption,
    EntityOption,
    Journal,
    JsonOption,
    KindOption,
    ScopeOption,
    open_to_write,
    parse_id,
    parse_region,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batpak.engine.compacting import RemainingCopy

__all__ = ["compact", "erase"]

_SEQUENCE_DIGITS = 19

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it: there is no way back.")]


def erase(
    journal: Journal,
    events: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EVENT]...", help="Sequences, or ids: event:<32 hex digits>."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why; it stays for ever, so name no person."),
    ] = None,
    entity: EntityOption = None,
    scope: ScopeOption = None,
    kind: KindOption = None,
    category: CategoryOption = None,
    clock: ClockOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Erase the payloads of some events; the events stay.

    From then on no reader is given the payloads; the bytes go with batpak compact.
    Hashes, receipts and proofs stay valid. Entities, scopes and extensions can never be
    erased. Events of the journal itself are refused by name, and left alone by options.

    Exit 5 without --yes: nothing is written then.

    In Python: Store.erase and Store.plan_erasure. With --json: the shape "erase".

    \b
    Example:
      batpak erase journal --entity player:alice --reason "request 17" --yes
    """
    chosen = parse_region(entity, scope, kind, category, clock)
    if bool(events) == (chosen != batpak.Region.all()):
        raise typer.BadParameter("name events, or choose them by options such as --entity")
    what = [_parse_event(text) for text in events] if events else chosen
    if dry_run:
        with batpak.Store.open(journal, mode="r") as reader:
            found = reader.plan_erasure(what)
    else:
        if reason is None:
            raise typer.BadParameter("say why", param_hint="--reason")
        _want_yes(yes)
        with open_to_write(journal) as store:
            found = store.erase(what, reason=reason)
    if json:
        terminal.emit(shapes.erased(found, dry_run=dry_run))
        return
    would = "would erase" if dry_run else "erased"
    print(f"{would} {terminal.counted(found.events, 'payload')}, erased before: {found.already}")
    if found.system:
        terminal.note(f"left alone: {terminal.counted(found.system, 'event')} of the journal's own")
    if found.receipts:
        terminal.note("the bytes are still in the segments; run: batpak compact JOURNAL --yes")


def compact(
    journal: Journal,
    min_bytes: Annotated[
        int, typer.Option(min=0, metavar="N", help="Do nothing while less than this would go.")
    ] = 0,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Rewrite the segments that hold erased payloads, without them.

    Names copies that may remain: other names of the replaced files, as a snapshot has, and
    what recovery set aside. Nothing here deletes those.

    Exit 0: done, or nothing to do. 5: without --yes, or a segment could not be rewritten
    and stands as it was.

    In Python: Store.compact and Store.plan_compaction. With --json: the shape "compact".

    \b
    Example:
      batpak compact journal --yes
    """
    if dry_run:
        with batpak.Store.open(journal, mode="r") as reader:
            plan = reader.plan_compaction()
        if json:
            terminal.emit(shapes.would_compact(plan))
            return
        print(
            f"would leave out {terminal.counted(plan.payloads, 'payload')}, {plan.bytes:,} bytes, "
            f"in {terminal.counted(len(plan.segments), 'segment')}"
        )
        _tell_copies(plan.copies)
        return
    _want_yes(yes)
    with open_to_write(journal) as store:
        done = store.compact(min_bytes=min_bytes)
    if json:
        terminal.emit(shapes.compacted(done))
    else:
        why = "" if done.reason is None else f": {done.reason}"
        print(
            terminal.safe(
                f"{done.outcome}{why}; {terminal.counted(done.payloads, 'payload')} left out of "
                f"{terminal.counted(len(done.segments), 'segment')}, "
                f"{done.bytes_reclaimed:,} bytes less"
            )
        )
        _tell_copies(done.copies)
    if done.outcome == "failed":
        raise typer.Exit(5)


def _parse_event(text: str) -> batpak.EventId | int:
    if text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS:
        return int(text)
    return batpak.EventId.from_bytes(parse_id(text))


def _want_yes(yes: bool) -> None:
    if not yes:
        raise InvalidInput(
            "payloads that are gone can't be brought back",
            field="yes",
            advice="look with --dry-run, then repeat the command with --yes",
        )


def _tell_copies(copies: Iterable[RemainingCopy]) -> None:
    for copy in copies:
        if copy.kind == "hard-link":
            links = terminal.counted(copy.links, "other name")
            terminal.note(terminal.safe(f"may remain: {links} of the old {copy.file}"))
        else:
            terminal.note(terminal.safe(f"may remain: {copy.file}"))
