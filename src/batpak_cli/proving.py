"""Commands around proof: keys, checkpoint, prove, and a witness for other people's logs.

Private keys are files that only their owner may read; nothing here prints one. What a
command reads from a file or from standard input is bounded and believed to be hostile.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

import batpak
from batpak.errors import InvalidInput, KeyNotInForce
from batpak_cli import shapes, streams, terminal
from batpak_cli.arguments import (
    SEQUENCE_DIGITS,
    Journal,
    JsonOption,
    WitnessOption,
    open_to_write,
    parse_event,
    read_text,
)

if TYPE_CHECKING:
    from batpak.engine.checkpoints import StoredCheckpoint
    from batpak.proof.notes import Key
    from batpak.signing import SigningKey

__all__ = [
    "checkpoint",
    "keys_add",
    "keys_list",
    "keys_new",
    "keys_retire",
    "keys_show",
    "prove",
    "witness_cosign",
    "witness_request",
]

_MAX_NOTE: Final = 64 << 10
_MAX_KEY: Final = 4 << 10
_MAX_REQUEST: Final = 256 << 10
_PRIVATE: Final = "PRIVATE KEY"
"""Stands in the first line of every private key in PEM."""

NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose notes it signs: a journal's origin, or a witness."),
]
Field = Literal["public-key", "key-id", "log-key", "witness-key"]
KeyFileOption = Annotated[
    str, typer.Option("--key", metavar="FILE", help="The private key's file.", show_default=False)
]
OutOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write to this new file.", show_default="standard output"),
]


def parse_key(text: str, option: str) -> Key:
    """A verifier key from a command line, or from the file that it names. Raises BadParameter.

    Never shows what it was given: it may be a private key.
    """
    from batpak.errors import ProofInvalid
    from batpak.proof.notes import Key

    if "+" not in text and _PRIVATE not in text:
        # Every verifier key has one, so this is a file, as `keys show` fills it.
        text = read_text(text, _MAX_KEY).strip()
    try:
        return Key.parse(text)
    except ProofInvalid as error:
        what = "this is a private key" if _PRIVATE in text else "this is no verifier key"
        field = "witness-key" if option == "--witness" else "log-key"
        raise typer.BadParameter(
            f"{what}; give what this prints: batpak keys show FILE --name NAME --field {field}",
            param_hint=option,
        ) from error


def _named(name: str, key: SigningKey) -> Key:
    """The verifier key of a name's notes. Raises BadParameter for what is no name."""
    from batpak.errors import ProofInvalid
    from batpak.proof.notes import Key

    try:
        return Key.parse(str(Key(name, key.public_key)))
    except (ProofInvalid, UnicodeEncodeError) as error:
        raise typer.BadParameter(
            "a name is text without spaces and without +, as example.org/journal",
            param_hint="--name",
        ) from error


def _load(path: str) -> SigningKey:
    from batpak.signing import SigningKey

    return SigningKey.load(path)


def _check_out(out: str | None, json: bool = False) -> None:
    """Before anything is changed: whether what comes of it can be given away.

    Raises InvalidInput, BadParameter.
    """
    if out is None:
        return
    if json:
        raise typer.BadParameter("--out and --json exclude each other")
    if os.path.lexists(out):
        raise _out_taken(out)
    if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise InvalidInput(
            "there is no such directory", field="out", value=out, advice="make it, or name another"
        )


def _out_taken(out: str) -> InvalidInput:
    return InvalidInput(
        "there is a file of this name already", field="out", value=out, advice="name a new file"
    )


def _write(text: str, out: str | None) -> None:
    """To a new file, whole or not at all, or to standard output.

    Raises InvalidInput where there is a file already, StorageFailed, NoSpace.
    """
    if out is None:
        streams.document(text)
        return
    from batpak.files import REAL, refusal, write_new

    try:
        write_new(REAL, os.path.abspath(out), text.encode(), 0o666)
    except FileExistsError as error:
        raise _out_taken(out) from error
    except OSError as error:
        raise refusal(error, "can't write the file", out) from error


# --- keys ------------------------------------------------------------------------


def keys_new(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to keep the private key.")],
    name: NameOption = None,
    json: JsonOption = False,
) -> None:
    """Make a private key in a new file that only you may read, and print its public parts.

    Use one key for one purpose: receipts, checkpoints, or cosignatures.

    In Python: batpak.signing.SigningKey. With --json: the shape "key".

    \b
    Example:
      batpak keys new receipts.pem
      batpak keys new witness.pem --name example.net/witness
    """
    from batpak.signing import SigningKey

    key = SigningKey.generate()
    told = _public(key, file, name)
    key.save(file)
    _tell_key(told, json)


def keys_show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The private key's file.")],
    name: NameOption = None,
    journal: Annotated[
        str | None,
        typer.Option(metavar="JOURNAL", help="Take the name from this journal: its origin."),
    ] = None,
    field: Annotated[
        Field | None,
        typer.Option(
            metavar="FIELD", help="Print only public-key, key-id, log-key or witness-key."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print what others need to check a key's signatures; never the key itself.

    The public key is for receipts. With a name: the key of a log's checkpoints, and that
    of a witness's cosignatures.

    In Python: batpak.proof.notes.Key. With --json: the shape "key".

    \b
    Example:
      batpak keys show checkpoints.pem --journal journal
    """
    if name is not None and journal is not None:
        raise typer.BadParameter("--name and --journal exclude each other")
    if journal is not None:
        with batpak.Store.open(journal, mode="r") as store:
            name = store.origin
    told = _public(_load(file), file, name)
    if field is None:
        _tell_key(told, json)
        return
    value = told[field.replace("-", "_")]
    if value is None:
        raise typer.BadParameter("give --name or --journal as well", param_hint="--field")
    print(value)


def _public(key: SigningKey, file: str, name: str | None) -> dict[str, Any]:
    """The shape "key"."""
    from batpak.proof.notes import COSIGNATURE

    log = None if name is None else _named(name, key)
    return {
        "file": file,
        "public_key": key.public_key.hex(),
        "key_id": key.key_id.hex(),
        "log_key": None if log is None else str(log),
        "witness_key": None if log is None else str(log._replace(algorithm=COSIGNATURE)),
    }


def _tell_key(told: dict[str, Any], json: bool) -> None:
    if json:
        terminal.emit(told)
        return
    for label, value in told.items():
        if value is not None:
            # One line each, however long: keys are copied.
            print(terminal.safe(f"{label.replace('_', ' '):12} {value}"))


def keys_add(
    journal: Journal,
    key: KeyFileOption,
    json: JsonOption = False,
) -> None:
    """Introduce a receipt key to a journal: its signatures count from now on.

    Opening a store with signing_keys= does the same. A key that is there already changes
    nothing; one that was retired is refused.

    In Python: Store.open(signing_keys=...). With --json: the shape "key-span".

    \b
    Example:
      batpak keys add journal --key receipts.pem
    """
    signing = _load(key)
    with open_to_write(journal, signing_keys=(signing,)) as store:
        spans = [span for span in store.signing_keys() if span.key_id == signing.key_id]
    for span in spans:
        _tell_span(shapes.key_span(span), json)


def keys_list(journal: Journal, json: JsonOption = False) -> None:
    """List a journal's receipt keys, and the events that each one's signatures count for.

    In Python: Store.signing_keys. With --json: a line of the shape "key-span" for each.

    \b
    Example:
      batpak keys list journal
    """
    with batpak.Store.open(journal, mode="r") as store:
        spans = store.signing_keys()
    for span in spans:
        _tell_span(shapes.key_span(span), json)
    if not spans and not json:
        print("no receipt keys: nothing was signed")


def _tell_span(span: dict[str, Any], json: bool) -> None:
    if json:
        terminal.emit(span)
        return
    until = "in force" if span["until"] is None else f"retired by event {span['until']}"
    print(f"{span['key_id']}  from event {span['since']}, {until}")


def keys_retire(
    journal: Journal,
    key_id: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it, or its beginning.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    json: JsonOption = False,
) -> None:
    """Retire a receipt key: its signatures count for no event from now on.

    What it signed for earlier events stays good. There is no way back.

    In Python: Store.retire_key. With --json: the shape "key-span".

    \b
    Example:
      batpak keys retire journal \\
        "$(batpak keys list journal | grep -m 1 'in force' | cut -c1-16)" --reason "new laptop"
    """
    with open_to_write(journal) as store:
        wanted = [s for s in store.signing_keys() if s.key_id.hex().startswith(key_id.lower())]
        if len(wanted) != 1 or len(key_id) < 8:
            raise InvalidInput(
                "a key is named by its id, or by 8 or more of its first digits",
                field="key_id",
                value=key_id,
                advice=f"run: batpak keys list {journal}",
            )
        store.retire_key(wanted[0].key_id, reason=reason)
        span = next(s for s in store.signing_keys() if s.key_id == wanted[0].key_id)
    _tell_span(shapes.key_span(span), json)


# --- checkpoints -------------------------------------------------------------------


def checkpoint(
    journal: Journal,
    key: Annotated[
        str | None, typer.Option("--key", metavar="FILE", help="The checkpoint key's file.")
    ] = None,
    cosigned: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Keep a witness's cosignature instead: a note, or - for input."
        ),
    ] = None,
    witness: WitnessOption = None,
    json: JsonOption = False,
) -> None:
    """Sign the journal's size and Merkle root, and print the note.

    The note stands in checkpoints/ and in an event. tlog/ then holds what any static web
    server can publish. With --cosigned, adds what the given witnesses signed to the
    stored note of that size.

    In Python: Store.checkpoint and Store.add_cosignatures. With --json: the shape
    "checkpoint".

    \b
    Example:
      batpak keys new checkpoints.pem
      batpak checkpoint journal --key checkpoints.pem
    """
    if (key is None) == (cosigned is None):
        raise typer.BadParameter("give --key to sign, or --cosigned to keep a cosignature")
    if (cosigned is None) != (not witness):
        raise typer.BadParameter("--cosigned keeps what the witnesses of --witness signed")
    if cosigned is None:
        assert key is not None, "one of them is given"
        with (
            open_to_write(journal, checkpoint_key=_load(key)) as store,
            terminal.Bar("checkpoint", unit="events", quiet=json) as bar,
        ):
            made = store.checkpoint(progress=bar)
    else:
        witnesses = [parse_key(text, "--witness") for text in witness or ()]
        note = read_text(cosigned, _MAX_NOTE)
        with open_to_write(journal) as store:
            made = store.add_cosignatures(note, witnesses)
    _tell_checkpoint(made, json)


def _tell_checkpoint(made: StoredCheckpoint, json: bool) -> None:
    if json:
        terminal.emit(shapes.checkpoint(made))
        return
    streams.document(made.note)
    terminal.note(f"covers {terminal.counted(made.size, 'event')}")


# --- bundles -----------------------------------------------------------------------


def prove(
    journal: Journal,
    event: Annotated[
        str,
        typer.Argument(
            metavar="EVENT", help="A sequence, an id, or A:B for the events from A up to B."
        ),
    ],
    withhold_payload: Annotated[
        bool,
        typer.Option("--withhold-payload", help="Prove that the event is there, not what it says."),
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="A page for people to read, instead of the file itself.")
    ] = False,
    since: Annotated[
        int | None,
        typer.Option(min=0, metavar="SIZE", help="Also prove that the journal grew from here."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=0, metavar="SIZE", help="Use this checkpoint.", show_default="the newest"),
    ] = None,
    signing_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Sign the receipt with this key of the journal; needs the lock."
        ),
    ] = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Prove an event to somebody who has not the journal.

    Prints a bundle, one JSON file: the event, its receipt, its inclusion proof, and the
    signed checkpoint that it is in. `batpak verify` checks it with public keys alone.

    In Python: Store.prove and Store.prove_range. With --json: the bundle, as without it.

    \b
    Example:
      batpak prove journal 1 --out bundle.json
      batpak prove journal 1 --withhold-payload --html --out event.html
    """
    if html and json:
        raise typer.BadParameter("--html and --json exclude each other")
    _check_out(out)
    with (
        _to_prove(journal, signing_key, event) as store,
        terminal.Bar("prove", unit="events", quiet=json) as bar,
    ):
        first, end = _range(store, event)
        bundle = store.prove_range(
            first, end, withhold_payload=withhold_payload, since=since, size=size, progress=bar
        )
    if html:
        from batpak_cli.page import bundle_page

        _write(bundle_page(bundle), out)
    else:
        _write(bundle.to_json() + "\n", out)


def _to_prove(
    journal: str, signing_key: str | None, event: str
) -> batpak.Store | batpak.ReadOnlyStore:
    if signing_key is None:
        return batpak.Store.open(journal, mode="r")
    key = _load(signing_key)
    # Opening with a key introduces it, for ever, and only for what comes after.
    with batpak.Store.open(journal, mode="r") as reader:
        _check_in_force(reader, key, _range(reader, event)[0])
    return open_to_write(journal, signing_keys=(key,))


def _range(store: batpak.Store | batpak.ReadOnlyStore, text: str) -> tuple[int, int]:
    """The first event of EVENT, and the one after its last. Raises as parse_event."""
    first, colon, end = text.partition(":")
    if not colon or (first and not first.isdigit()):
        sequence = parse_event(store, text).sequence
        return sequence, sequence + 1
    if not all(n.isascii() and n.isdigit() and len(n) <= SEQUENCE_DIGITS for n in (first, end)):
        raise typer.BadParameter(
            f"{text!r} is not a range; write 2:5 for the events 2, 3 and 4", param_hint="EVENT"
        )
    return int(first), int(end)


def _check_in_force(store: batpak.ReadOnlyStore, key: SigningKey, sequence: int) -> None:
    """Raises KeyNotInForce unless the key can sign for this event and for later ones."""
    span = next((each for each in store.signing_keys() if each.key_id == key.key_id), None)
    advice = "leave --signing-key out, or name the file of another key of: batpak keys list JOURNAL"
    if span is None:
        what = "the journal does not know this key, so it can sign for none of its events"
        advice += "; for later events: batpak keys add JOURNAL --key FILE"
    elif span.until is not None:
        what = f"event {span.until} retired this key, and a retired key never signs again"
    elif sequence < span.since:
        what = f"the key counts from event {span.since} on, not for event {sequence}"
    else:
        return
    raise KeyNotInForce(what, sequence=sequence, key_id=key.key_id.hex(), advice=advice)


# --- witnesses ---------------------------------------------------------------------


def witness_request(
    journal: Journal,
    old: Annotated[
        int, typer.Option(min=0, metavar="SIZE", help="What the witness has seen last; 0: nothing.")
    ] = 0,
    size: Annotated[
        int | None,
        typer.Option(min=0, metavar="SIZE", help="Use this checkpoint.", show_default="the newest"),
    ] = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Write what a witness is asked with: the old size, a consistency proof, the checkpoint.

    The form is that of the body of add-checkpoint in the witness protocol of C2SP.

    In Python: Store.prove_consistency. With --json: the shape "witness-request".

    \b
    Example:
      batpak witness request journal --out request.txt
    """
    _check_out(out, json)
    with (
        batpak.Store.open(journal, mode="r") as store,
        terminal.Bar("witness", unit="events", quiet=json) as bar,
    ):
        proof = store.prove_consistency(old, size, progress=bar)
    if not json:
        _write(proof.request(), out)
        return
    terminal.emit(
        {
            "old_size": proof.old_size,
            "old_root": proof.old_root.hex(),
            "size": proof.checkpoint.size,
            "root": proof.checkpoint.root.hex(),
            "hashes": [each.hex() for each in proof.hashes],
            "note": proof.checkpoint.note,
        }
    )


def witness_cosign(
    log: Annotated[str, typer.Option(metavar="KEY", help="The log's key, or a file with it.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="This witness's own name.")],
    key: KeyFileOption,
    state: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Keeps the last checkpoint seen; made by the first request."
        ),
    ],
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="A file, or - for standard input.")
    ] = "-",
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Be a witness: cosign a checkpoint, if the log did not go back on what it showed before.

    Prints the note with the cosignature added. Refuses by name: another log, a smaller
    size (rollback), another root of the same size (fork), a proof that does not lead from
    the checkpoint seen last to this one. Refuses, too, a request whose old size is not that
    of the checkpoint seen last, or 0 for the first one, and says which it is. One state file
    is for one log; lose it, and the witness believes any history.

    In Python: batpak.tlog.signing.cosign. With --json: the shape "cosigned".

    \b
    Example:
      batpak keys show checkpoints.pem --journal journal --field log-key > log.key
      batpak witness cosign request.txt --log log.key --name example.net/witness \\
        --key witness.pem --state seen.txt
    """
    from batpak_cli.witness import Witness

    _check_out(out, json)
    signing = _load(key)
    witness = Witness(parse_key(log, "--log"), _named(name, signing).name, signing, state)
    cosigned = witness.cosign(read_text(request, _MAX_REQUEST))
    if json:
        terminal.emit(cosigned._asdict())
        return
    _write(cosigned.note, out)
