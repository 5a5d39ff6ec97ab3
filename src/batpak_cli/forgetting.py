"""Commands that take payloads away: erase, compact, shred. They need the journal's lock.

Nothing is taken without --yes; without it, and with --dry-run, they only look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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
    KeyringOption,
    KindOption,
    ScopeOption,
    keyring_at,
    open_to_write,
    parse_id,
    parse_region,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batpak.engine.compacting import RemainingCopy

__all__ = ["compact", "erase", "keyring_new", "shred"]

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
        _want_yes(journal, yes)
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
    _want_yes(journal, yes)
    with (
        open_to_write(journal) as store,
        terminal.Bar("compact", unit="bytes", quiet=json) as bar,
    ):
        done = store.compact(min_bytes=min_bytes, progress=bar)
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


def shred(
    journal: Journal,
    events: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EVENT]...", help="Sequences, or ids: event:<32 hex digits>."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="HEX", help="A key by its id, 32 hex digits; repeatable."),
    ] = None,
    entity: EntityOption = None,
    scope: ScopeOption = None,
    kind: KindOption = None,
    category: CategoryOption = None,
    clock: ClockOption = None,
    keyring: KeyringOption = None,
    also_others: Annotated[
        bool, typer.Option("--also-others", help="Also what else these keys cover.")
    ] = False,
    also_missing: Annotated[
        bool, typer.Option("--also-missing", help="Also keys that the keyring has lost.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Destroy the keys of some encrypted payloads; the events stay.

    First the journal says so, durably; then the keyring destroys the keys. In every copy of
    the journal these payloads are gone. Hashes, receipts and proofs stay valid. A key that
    covers more than what was named is refused without --also-others; --dry-run counts. A key
    that the keyring has not is refused without --also-missing: it may be the wrong keyring.

    Exit 5 where it is refused, and without --yes: nothing is written then.

    In Python: Store.shred and Store.plan_shredding. With --json: the shape "shred".

    \b
    Example:
      batpak keyring new keys
      batpak append journal user:8f3a room --json-payload '"secret"' --keyring keys
      batpak shred journal --entity user:8f3a --keyring keys --yes
    """
    chosen = parse_region(entity, scope, kind, category, clock)
    named = [*(events or ()), *(key or ())]
    if bool(named) == (chosen != batpak.Region.all()):
        raise typer.BadParameter("name events or keys, or choose by options such as --entity")
    keys = [_parse_key_id(text) for text in key or ()]
    what = [*(_parse_event(text) for text in events or ()), *keys] if named else chosen
    if dry_run:
        with batpak.Store.open(journal, mode="r") as reader:
            found = reader.plan_shredding(what)
    else:
        _want_yes(journal, yes)
        with open_to_write(journal, keyring=keyring_at(keyring)) as store:
            found = store.shred(what, also_others=also_others, also_missing=also_missing)
    if json:
        terminal.emit(shapes.shredded(found, dry_run=dry_run))
        return
    verb = "would shred" if dry_run else "shredded"
    print(
        f"{verb} {terminal.counted(len(found.keys), 'key')}: "
        f"{terminal.counted(found.events, 'event')} asked for, {found.others} others; "
        f"shredded before: {terminal.counted(len(found.before), 'key')}"
    )
    if found.missing:
        terminal.note(
            f"not in the keyring, so not destroyed: {terminal.counted(len(found.missing), 'key')}"
        )
    if found.unencrypted:
        terminal.note(
            f"not encrypted, so they stay: {terminal.counted(found.unencrypted, 'event')}; "
            "run: batpak erase"
        )
    if found.system:
        terminal.note(f"left alone: {terminal.counted(found.system, 'event')} of the journal's own")


def keyring_new(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A directory that is new or empty.")
    ],
    policy: Annotated[
        Literal["entity", "category", "kind", "event"],
        typer.Option(
            metavar="WHICH", help="Events that share a key: by entity, category, kind or event."
        ),
    ] = "entity",
    json: JsonOption = False,
) -> None:
    """Make a keyring: a directory of keys that only you may read.

    Keep it outside of the journal and of the journal's backups, and back it up: what it
    loses is shredded.

    In Python: batpak.keyring.FileKeyring.create. With --json: the shape "keyring".

    \b
    Example:
      batpak keyring new other-keys --policy kind
    """
    from batpak.keyring import FileKeyring, Policy

    made = FileKeyring.create(directory, policy=Policy(policy))
    if json:
        terminal.emit({"path": made.path, "policy": made.policy.value})
        return
    print(terminal.safe(f"created: {made.path}, a key for each {made.policy.value}"))


def _parse_key_id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not hex", param_hint="--key") from error


def _parse_event(text: str) -> batpak.EventId | int:
    if text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS:
        return int(text)
    return batpak.EventId.from_bytes(parse_id(text))


def _want_yes(journal: Journal, yes: bool) -> None:
    if not yes:
        # Whoever mistyped the path is told that, and not to repeat it.
        batpak.Store.open(journal, mode="r").close()
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
