"""Arguments that several commands share, and how their texts become values.

A text that can't be read is a usage error (exit 2); a value that the journal refuses
is the journal's own error.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

import batpak
from batpak.errors import InvalidInput, JournalCorrupt, KindError, NotAJournal
from batpak.kinds import Category, EventKind

if TYPE_CHECKING:
    from batpak import Event, ReadOnlyStore, Region, Store
    from batpak.config import Keyring

__all__ = [
    "SEQUENCE_DIGITS",
    "WANTS_JSON",
    "AfterOption",
    "CategoryOption",
    "ClockOption",
    "EntityOption",
    "Journal",
    "JsonOption",
    "KeyringOption",
    "KindOption",
    "ScopeOption",
    "WitnessOption",
    "keyring_at",
    "open_to_write",
    "parse_event",
    "parse_id",
    "parse_kind",
    "parse_region",
    "read_text",
]

WANTS_JSON = "batpak.json"
"""Key of the context's `meta` that says in which form errors are told."""

Journal = Annotated[
    str, typer.Argument(metavar="JOURNAL", help="The journal's directory.", show_default=False)
]


def _remember(ctx: typer.Context, value: bool) -> bool:
    # Errors are told far from here, and in the same form as results.
    ctx.meta[WANTS_JSON] = value
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", callback=_remember, help="Print JSON for programs instead of text for people."
    ),
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness", metavar="KEY", help="A witness's key, or a file with it; repeatable."
    ),
]
EntityOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="This entity and all below it (NAME:…).")
]
ScopeOption = Annotated[str | None, typer.Option(metavar="NAME", help="Exactly this scope.")]
KindOption = Annotated[
    str | None, typer.Option(metavar="KIND", help="Exactly this kind, such as 0xF001.")
]
CategoryOption = Annotated[
    str | None, typer.Option(metavar="N", help="All kinds of this category, 0x0 to 0xF.")
]
ClockOption = Annotated[
    str | None,
    typer.Option(
        metavar="A:B", help="Places A to B in each entity's stream, both included; A: and :B too."
    ),
]
KeyringOption = Annotated[
    str | None,
    typer.Option(
        "--keyring", metavar="KEYS", envvar="BATPAK_KEYRING",
        help="Where the keys of encrypted payloads are: a directory, or system:NAME.",
    ),
]  # fmt: skip
AfterOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Only events after sequence N.")
]

_MAX_CLOCK = (1 << 32) - 1
SEQUENCE_DIGITS = 19
"""No sequence has more."""
_MAX_DIGITS = 4000
"""Python makes no number of more."""


def _number(option: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text[:80]!r} is not a number; write 0xF001 or 61441", param_hint=option
        ) from error


def parse_kind(text: str, option: str = "--kind") -> EventKind:
    """A kind from hex or decimal digits, reserved ones too. Raises BadParameter."""
    try:
        return EventKind.from_raw(_number(option, text))
    except KindError as error:
        raise typer.BadParameter(f"{error.what}; {error.advice}", param_hint=option) from error


def parse_id(text: str) -> bytes:
    """The 16 bytes of an id in any of its texts: event:…, causation:…, correlation:….

    An event is named by the same bytes wherever it appears. Raises IdError.
    """
    from batpak.ids import CausationId, CorrelationId, EventId

    kinds = {"causation": CausationId, "correlation": CorrelationId}
    return kinds.get(text.partition(":")[0], EventId).parse(text).bytes


def parse_event(store: Store | ReadOnlyStore, text: str) -> Event:
    """The event of a sequence or an id. Raises IdError, EventNotFound, Damaged."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return store.at(int(text))
    return store.get(batpak.EventId.from_bytes(parse_id(text)))


def keyring_at(place: str | None) -> Keyring | None:
    """The keyring of a directory, or of the system under a name. Raises KeyringRefused."""
    from batpak.keyring import FileKeyring, SystemKeyring

    if place is None:
        return None
    kind, colon, name = place.partition(":")
    return SystemKeyring(name) if colon and kind == "system" else FileKeyring(place)


def read_text(path: str, limit: int) -> str:
    """A file's text, or that of standard input for `-`: UTF-8, at most `limit` bytes.

    Raises InvalidInput, StorageFailed.
    """
    from batpak.files import refusal

    try:
        if path == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise refusal(error, "can't read the file", path) from error
    if len(data) > limit:
        raise InvalidInput(f"more than {limit} bytes, which is too long", field="file", value=path)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("this is not UTF-8 text", field="file", value=path) from error


def parse_region(
    entity: str | None, scope: str | None, kind: str | None, category: str | None, clock: str | None
) -> Region:
    """The region of these options. Raises BadParameter, InvalidInput."""
    chosen: EventKind | Category | None = None
    if kind is not None and category is not None:
        raise typer.BadParameter("--kind and --category exclude each other")
    if kind is not None:
        chosen = parse_kind(kind)
    elif category is not None:
        try:
            chosen = Category(_number("--category", category))
        except KindError as error:
            raise typer.BadParameter(
                f"{error.what}; {error.advice}", param_hint="--category"
            ) from error
    return batpak.Region(
        entity=entity, scope=scope, kind=chosen, clock=None if clock is None else _clocks(clock)
    )


def _clocks(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    try:
        clocks = (int(first or 0), int(last or _MAX_CLOCK)) if colon else (int(first), int(first))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text[:80]!r} is not a range; write 10:20", param_hint="--clock"
        ) from error
    if not all(0 <= clock <= _MAX_CLOCK for clock in clocks):
        raise typer.BadParameter(
            f"{text[:80]!r} is not a range of clocks, which are 0 to {_MAX_CLOCK}",
            param_hint="--clock",
        )
    return clocks


def _is_there(path: str) -> bool:
    """Whether a name is taken. Raises StorageFailed where that can't be found out."""
    from batpak.files import refusal

    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refusal(error, "can't look at the journal", path) from error
    return True


def open_to_write(path: str, **options: Any) -> Store:
    """Open an existing journal for writing. Raises as `Store.open`, and NotAJournal.

    Store.open would make a journal; a command that is given a mistyped path must not.
    """
    from batpak.config import StoreConfig
    from batpak.engine.opening import check_place
    from batpak.files import REAL
    from batpak.journal.layout import Layout

    layout = Layout(path)
    # Store.open asks again, and for the file system too: here, a file is not taken for nothing.
    check_place(REAL, layout, StoreConfig(allow_network_filesystem=True))
    if not _is_there(layout.identity):
        if os.path.isdir(layout.segments) and os.listdir(layout.segments):
            raise JournalCorrupt(
                "segments without journal.json: whose they are is not known",
                file=layout.identity,
                reason="no-identity",
                advice="restore journal.json from a snapshot",
            )
        raise NotAJournal(
            "there is no journal here",
            file=layout.root,
            advice=f"check the path, or create one with: batpak init {path}",
        )
    return batpak.Store.open(path, "rw", **options)
