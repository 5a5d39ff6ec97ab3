"""The form of a proof bundle: one JSON text that carries events and what proves them.

Plain data, to JSON and back; judges nothing but its own form. Bytes are lower-case hex, so
that each value has one way to be written. Verifying: batpak.proof. Source: docs/proofs.md,
"Bundles".
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from batpak.errors import InvalidInput, ProofInvalid
from batpak.event import ROW_SIZE, ROW_VERSION, Event
from batpak.receipt import AppendReceipt, encode_extensions

__all__ = ["FORMAT", "MAX_BUNDLE_LENGTH", "Bundle", "KeyEvent", "ShownEvent", "event_of"]

FORMAT: Final = "batpak/bundle/v1"
MAX_BUNDLE_LENGTH: Final = 64 * 1024 * 1024
"""Characters or bytes of the text."""

_Hex = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{2})*\Z")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_State = Literal["present", "withheld", "erased", "shredded", "detached"]


def event_of(row: bytes, metadata: bytes, envelope: bytes | None = None) -> Event:
    """An event from bytes of any origin. Raises ProofInvalid unless it can be one.

    The envelope is not compared with the row's content hash.
    """
    event = Event(row, metadata, envelope)
    try:
        if len(row) == ROW_SIZE and len(metadata) == event.row.metadata_len:
            form = (event.row.row_version, event.row.reserved, event.sequence < 1 << 63)
            more = encode_extensions(event.extensions, reserved_allowed=True)
            written = len(more) == event.row.extensions_len and metadata.endswith(more)
            if form == (ROW_VERSION, 0, True) and written and event.coordinate.entity:
                return event
    except InvalidInput as error:
        raise ProofInvalid(f"the names of an event: {error}", reason="event") from error
    raise ProofInvalid("this is not the row of an event, with its names", reason="event")


class ShownEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event, its envelope where the payload is shown, its receipt where there is one."""

    row: _Hex
    entity: str
    scope: str
    extensions: _Hex
    payload_state: _State
    envelope: _Hex | None
    receipt: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        event: Event,
        receipt: AppendReceipt | None = None,
        *,
        withhold: bool = False,
        **more: Any,
    ) -> Any:
        """Show an event, with its payload unless that is gone or to be withheld."""
        row, metadata = event.row, event.metadata_bytes
        scope_at, extensions_at = row.entity_len, row.entity_len + row.scope_len
        envelope = None if withhold else event.envelope
        return cls(
            row=event.row_bytes.hex(),
            entity=metadata[:scope_at].decode(),
            scope=metadata[scope_at:extensions_at].decode(),
            extensions=metadata[extensions_at:].hex(),
            payload_state="withheld" if withhold else event.payload_state.value,
            envelope=None if envelope is None else envelope.hex(),
            receipt=None if receipt is None else json.loads(receipt.to_json()),
            **more,
        )

    def open(self) -> Event:
        """The event. Raises ProofInvalid unless row, names and envelope can belong together."""
        try:
            entity, scope = self.entity.encode(), self.scope.encode()
        except UnicodeEncodeError as error:
            raise ProofInvalid("half of a surrogate pair in a name", reason="event") from error
        envelope = None if self.envelope is None else bytes.fromhex(self.envelope)
        metadata = entity + scope + bytes.fromhex(self.extensions)
        event = event_of(bytes.fromhex(self.row), metadata, envelope)
        if (event.row.entity_len, event.row.scope_len) != (len(entity), len(scope)):
            raise ProofInvalid("entity and scope have other lengths", reason="event")
        # The ciphertext of a shredded payload may be shown or not; the others leave no choice.
        is_present = self.payload_state == "present"
        if self.payload_state != "shredded" and is_present != (envelope is not None):
            raise ProofInvalid(
                f"a payload that is {self.payload_state} can't be shown like this",
                reason="payload-state",
            )
        return event

    def open_receipt(self) -> AppendReceipt | None:
        """The receipt. Raises ProofInvalid unless it is what `AppendReceipt.to_json` writes."""
        if self.receipt is None:
            return None
        try:
            return AppendReceipt.from_json(json.dumps(self.receipt))
        except (InvalidInput, RecursionError) as error:
            raise ProofInvalid(f"no receipt: {error}", reason="receipt") from error


class KeyEvent(ShownEvent, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A system event that shows which receipt keys were in force, with its inclusion proof."""

    inclusion: list[_Hash]


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Events whose sequences follow each other, and what proves them.

    `inclusion` is one proof for all of them. `consistency` leads from the checkpoint
    `earlier` to `checkpoint`. Key events are in the order of their sequences.
    """

    format: Literal["batpak/bundle/v1"] = FORMAT
    events: list[ShownEvent]
    inclusion: list[_Hash]
    checkpoint: str
    earlier: str | None = None
    consistency: list[_Hash] = []
    key_events: list[KeyEvent] = []

    @classmethod
    def parse(cls, text: str | bytes) -> Bundle:
        """Read a bundle; nothing is verified. Raises ProofInvalid."""
        try:
            if len(text) > MAX_BUNDLE_LENGTH:
                raise ValueError(f"its text is longer than {MAX_BUNDLE_LENGTH}")
            plain = json.loads(
                text if isinstance(text, str) else str(text, "utf-8"),
                object_pairs_hook=_unique,
                parse_int=_small_int,
                parse_float=_no_number,
                parse_constant=_no_number,
            )
            bundle = msgspec.convert(plain, cls)
            if "format" not in plain or not bundle.events:
                raise ValueError("it names no format, or shows no event")
            if bundle.earlier is None and bundle.consistency:
                raise ValueError("a consistency proof is from an earlier checkpoint")
            for shown in bundle.key_events:
                shown.open_receipt()  # Nobody judges it, so nobody else would look at its form.
        except (ValueError, RecursionError) as error:
            raise ProofInvalid(f"not a bundle: {error}", reason="bundle") from error
        return bundle

    def to_json(self) -> str:
        """The bundle as one line of JSON."""
        return msgspec.json.encode(self).decode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _small_int(text: str) -> int:
    # JSON's -0 is 0 as well, and bytes of a bundle have one way to be written.
    number = int(text) if len(text) <= 20 and text[0] != "-" else -1
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{text[:21]} is beyond 64 bits, or below 0")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no integer")
