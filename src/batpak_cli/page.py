"""A bundle as one page of HTML for people who judge by reading: an auditor, a court.

Self-contained: no script, no address to fetch from, prints well. Every text of the bundle
is escaped, and shown as what it is. Judges nothing: it says what the bundle claims, and how
whoever doubts it checks it without us. The bundle itself stands at the page's end.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Final

from batpak.errors import BatpakError, ProofInvalid
from batpak.event import CODEC_ENCRYPTED
from batpak.proof.notes import Checkpoint, Note
from batpak_cli import shapes, terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batpak import Event
    from batpak.bundle import Bundle, ShownEvent

__all__ = ["bundle_page"]

_STYLE: Final = """
body { font: 16px/1.5 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em;
  color: #111; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: normal; color: #555; width: 11em; }
th, td { border-bottom: 1px solid #ddd; padding: .3em .6em .3em 0; vertical-align: top; }
td, pre { overflow-wrap: anywhere; }
code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; background: #f6f6f4; padding: .8em; }
.note { color: #555; }
"""
_STATES: Final = {
    "withheld": "withheld by whoever made this page: shown is that it is there, not what it says",
    "erased": "erased from the journal; that the event happened is proven all the same",
    "shredded": "its key was destroyed; that the event happened is proven all the same",
    "detached": "kept elsewhere",
}


def bundle_page(bundle: Bundle) -> str:
    """The page. Raises ProofInvalid for a bundle whose events or notes can't be read."""
    events = [shown.open() for shown in bundle.events]
    note = Note.parse(bundle.checkpoint)
    checkpoint = Checkpoint.parse(note.text)
    first, last = events[0].sequence, events[-1].sequence
    named = f"Event {first}" if first == last else f"Events {first} to {last}"
    parts = [
        f"<h1>{named} of the journal <code>{_text(checkpoint.origin)}</code></h1>",
        _summary(events, checkpoint),
    ]
    for shown, event in zip(bundle.events, events, strict=True):
        parts.append(_event(shown, event))
    parts.append(_checkpoint(note, checkpoint, bundle))
    parts.append(_checking(bundle))
    title = _text(f"{named} of {checkpoint.origin}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Should a mistake ever let something through, the page still runs and loads nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    """Text that a browser shows as it is, and that hides nothing from its reader."""
    return escape(terminal.safe(str(value)), quote=True)


def _visible(text: str) -> str:
    """JSON that says the same, with everything escaped that a browser might obey or hide."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>\n" for name, value in rows
    )
    return f"<table>\n{cells}</table>"


def _summary(events: list[Event], checkpoint: Checkpoint) -> str:
    one = len(events) == 1
    return (
        f"<p>This page says that {'this event stands' if one else 'these events stand'} in a "
        f"journal of at least {checkpoint.size:,} events, at exactly "
        f"{'this place' if one else 'these places'}, and that nothing of "
        f"{'it' if one else 'them'} was changed since the journal's keeper signed for its first "
        f"{checkpoint.size:,} events. The page alone proves nothing: the section "
        "&ldquo;How to check this&rdquo; says how to find out.</p>"
    )


def _event(shown: ShownEvent, event: Event) -> str:
    rows: list[tuple[str, object]] = [
        ("place in the journal", event.sequence),
        ("time, as its writer's clock said", f"{event.time.isoformat(timespec='microseconds')}"),
        ("about", event.coordinate.entity),
        ("where", event.coordinate.scope),
        ("place among its events", event.clock),
        ("kind", event.kind),
        ("id", event.event_id),
    ]
    cause = event.causation_id
    if cause is not None:
        rows.append(("caused by", cause))
    rows += [(f"extension {name}", bytes(data).hex()) for name, data in event.extensions.items()]
    rows.append(("event hash", event.event_hash.hex()))
    parts = [f"<h2>Event {event.sequence}</h2>", _table(rows), "<h3>What it says</h3>"]
    if shown.payload_state == "present":
        parts.append(f"<pre>{_text(_payload(event))}</pre>")
    else:
        parts.append(f"<p>{_text(_STATES[shown.payload_state])}</p>")
    receipt = shown.open_receipt()
    if receipt is None or receipt.signature is None or receipt.key_id is None:
        parts.append('<p class="note">No signed receipt is shown.</p>')
    else:
        signed: list[tuple[str, object]] = [
            ("signed with the key", receipt.key_id.hex()),
            ("signature", receipt.signature.hex()),
        ]
        parts.append("<h3>Receipt</h3>" + _table(signed))
    return "\n".join(parts)


def _payload(event: Event) -> str:
    if event.row.codec == CODEC_ENCRYPTED:
        return "It is encrypted, for those who have its key. The ciphertext is proven."
    try:
        return shapes.line(shapes.as_json(event.value))
    except BatpakError:
        # Bytes that somebody appended as they were need not be MessagePack.
        try:
            return event.raw.hex()
        except BatpakError as error:
            raise ProofInvalid(f"the payload can't be shown: {error}", reason="payload") from error


def _checkpoint(note: Note, checkpoint: Checkpoint, bundle: Bundle) -> str:
    rows: list[tuple[str, object]] = [
        ("journal", checkpoint.origin),
        ("covers the events before", checkpoint.size),
        ("root", checkpoint.root.hex()),
        ("signed by", ", ".join(line.name for line in note.signatures)),
        ("hashes in the inclusion proof", len(bundle.inclusion)),
    ]
    if bundle.earlier is not None:
        older = Checkpoint.parse(Note.parse(bundle.earlier).text)
        rows.append(("grew out of the checkpoint over", f"{older.size} events"))
    lines = "\n".join(terminal.safe(line) for line in bundle.checkpoint.split("\n"))
    return (
        f"<h2>The signed checkpoint</h2>\n{_table(rows)}\n"
        f"<p>The note, as it was signed:</p>\n<pre>{escape(lines)}</pre>"
    )


def _checking(bundle: Bundle) -> str:
    command = "batpak verify bundle.json --key THE-KEY"
    text = escape(_visible(bundle.to_json()))
    return (
        "<h2>How to check this</h2>\n"
        "<p>Save the text in the last box as <code>bundle.json</code>. Get the journal's key "
        "from somebody other than whoever gave you this page, and the keys of its witnesses "
        f"from them. Then run <code>{command}</code>, on any computer, with no connection; "
        "<code>docs/proofs.md</code> of batpak describes every byte for those who would rather "
        "write the check themselves.</p>\n"
        f"<h2>The bundle</h2>\n<pre>{text}</pre>"
    )
