"""Receipts, judged by an event's row and public keys alone: docs/proofs.md, "Receipts"."""

from collections.abc import Iterable
from operator import attrgetter

from batpak import kinds
from batpak.bundle import event_of
from batpak.errors import ProofInvalid
from batpak.proof.notes import verify_ed25519
from batpak.receipt import AppendReceipt, Invalid, Reason, ReceiptKey, Signed, UnsignedAccepted

__all__ = ["verify_receipt"]

_other_fields = attrgetter("event_hash", "coordinate", "kind", "hlc", "clock", "prev_hash")


def verify_receipt(
    receipt: AppendReceipt,
    row: bytes | None,
    metadata: bytes,
    keys: Iterable[ReceiptKey],
    *,
    denial: bool = False,
) -> Signed | UnsignedAccepted | Invalid:
    """Judge a receipt by the event at its sequence: 176 bytes; entity, scope and extensions.

    `row` None: there is no such event. `denial`, or a DenialReceipt: it has to be a denial.
    Without keys an unsigned receipt is accepted.
    """
    if row is None:
        return Invalid(Reason.MISSING)
    try:
        event = event_of(row, metadata)
    except ProofInvalid:
        return Invalid(Reason.ROW)
    is_right_kind = event.kind == kinds.SYSTEM_DENIAL or not (denial or receipt.is_denial)
    for reason, good in (
        (Reason.DENIAL_KIND, is_right_kind),
        (Reason.EVENT_ID, receipt.event_id == event.event_id),
        (Reason.SEQUENCE, receipt.sequence == event.sequence),
        (Reason.CONTENT_HASH, receipt.commitment == event.commitment),
        (Reason.EXTENSIONS, receipt.extensions == event.extensions),
        (Reason.EVENT, _other_fields(receipt) == _other_fields(event)),
    ):
        if not good:
            return Invalid(reason)
    known = list(keys)
    has_key = any(receipt.key_id or b"")
    if receipt.signature is None and not has_key:
        return Invalid(Reason.UNSIGNED) if known else UnsignedAccepted()
    if receipt.signature is None or not has_key:
        return Invalid(Reason.NO_SIGNATURE if has_key else Reason.NO_KEY)
    spans = [key for key in known if key.key_id == receipt.key_id]
    if not spans:
        return Invalid(Reason.UNKNOWN_KEY)
    if not verify_ed25519(spans[0].public_key, receipt.signature, receipt.signed_message):
        return Invalid(Reason.SIGNATURE)
    if not any(span.since <= event.sequence < span.until for span in spans):
        return Invalid(Reason.NOT_IN_FORCE)
    return Signed(spans[0].key_id)
