"""Proof bundles, judged by public keys and a policy alone.

Says of each question whether it held, failed, or is not shown; raises for no text whatever.
The form is batpak.bundle's. What each check means: docs/proofs.md, "Checks".
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from batpak.bundle import Bundle
from batpak.errors import BatpakError, ProofInvalid
from batpak.event import Event, content_hash
from batpak.proof.merkle import leaf_hash, verify_consistency, verify_range
from batpak.proof.notes import Checkpoint, Policy
from batpak.proof.receipts import verify_receipt
from batpak.receipt import AppendReceipt, Invalid, Reason, ReceiptKey, Signed, keys_in_force

__all__ = ["Check", "Verdict", "verify_bundle", "verify_chain"]

Keys = Sequence[ReceiptKey]


class Check(NamedTuple):
    """A question and its answer: held (True), failed (False), not shown (None)."""

    name: str
    held: bool | None
    detail: str = ""
    sequence: int | None = None


class Verdict(NamedTuple):
    """Every check that was made, in order."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed. What is not shown may still be too little for you."""
        return all(check.held is not False for check in self.checks)


def verify_chain(events: Iterable[Event]) -> bool | None:
    """Whether events, none left out between them, link entity by entity; None: no two do."""
    newest: dict[str, Event] = {}
    links: list[bool] = []
    for event in events:
        entity = event.coordinate.entity
        if before := newest.get(entity):
            links.append((event.prev_hash, event.clock) == (before.event_hash, before.clock + 1))
        newest[entity] = event
    return all(links) if links else None


def verify_bundle(text: str | bytes, keys: Iterable[ReceiptKey], policy: Policy) -> Verdict:
    """Judge a bundle by receipt keys (none: those that its key events show) and a policy."""
    try:
        bundle = Bundle.parse(text)
        events = [shown.open() for shown in bundle.events]
        receipts = [shown.open_receipt() for shown in bundle.events]
        system = [shown.open() for shown in bundle.key_events]
        spans = keys_in_force(system)
    except BatpakError as error:
        return Verdict((Check("form", False, error.what),))
    checks = [Check("form", True)]
    tree = Checkpoint("", 0, b"")  # No proof leads to it.
    try:
        tree, witnesses = policy.open(bundle.checkpoint)
        checks.append(Check("checkpoint", True, f"{tree.size} events of {tree.origin}"))
        count = len({witness.public_key for witness in witnesses})
        enough = count >= policy.threshold if policy.threshold else None
        checks.append(Check("witnesses", enough, f"{count} signed, {policy.threshold} asked for"))
    except ProofInvalid as error:
        checks.append(Check("checkpoint", False, error.what))
    checks.append(_consistency(bundle, tree, policy))
    good = _are_included(events, bundle.inclusion, tree)
    checks.append(Check("inclusion", good, f"{len(events)} from {events[0].sequence} on"))
    checks.append(Check("chain", verify_chain(events)))
    for event, shown in zip(system, bundle.key_events, strict=True):
        good = event.coordinate.entity == "batpak:store" and _has_content(event) is True
        good = good and _are_included([event], shown.inclusion, tree)
        checks.append(Check("key-event", good, sequence=event.sequence))
    known = list(keys)
    for event, shown, receipt in zip(events, bundle.events, receipts, strict=True):
        checks.append(Check("content", _has_content(event), shown.payload_state, event.sequence))
        checks += _receipt(event, receipt, known, spans, system)
    return Verdict(tuple(checks))


def _consistency(bundle: Bundle, tree: Checkpoint, policy: Policy) -> Check:
    if bundle.earlier is None:
        return Check("consistency", None, "no earlier checkpoint is shown")
    try:
        old, _ = policy.open(bundle.earlier)
    except ProofInvalid as error:
        return Check("consistency", False, error.what)
    proof = [bytes.fromhex(digest) for digest in bundle.consistency]
    good = verify_consistency(old.size, old.root, tree.size, tree.root, proof)
    return Check("consistency", good, f"since {old.size} events")


def _are_included(events: Sequence[Event], inclusion: list[str], tree: Checkpoint) -> bool:
    leaves = [leaf_hash(event.event_hash) for event in events]
    proof = [bytes.fromhex(digest) for digest in inclusion]
    steps = {after.sequence - before.sequence for before, after in pairwise(events)}
    return steps <= {1} and verify_range(leaves, events[0].sequence, tree.size, proof, tree.root)


def _has_content(event: Event) -> bool | None:
    if event.envelope is None:
        return None
    said = (event.row.envelope_len, event.commitment)
    return said == (len(event.envelope), content_hash(event.row.codec, event.envelope))


def _receipt(
    event: Event, receipt: AppendReceipt | None, known: Keys, spans: Keys, system: list[Event]
) -> Iterator[Check]:
    """The checks of one event's receipt; the key events themselves are judged elsewhere."""
    at = event.sequence
    if receipt is None:
        yield Check("receipt", None, "there is none", at)
        return
    keys = known or (spans if receipt.signature else [])
    verdict = verify_receipt(receipt, event.row_bytes, event.metadata_bytes, keys)
    if isinstance(verdict, Invalid):
        nobody_asked = verdict.reason is Reason.UNKNOWN_KEY and not keys
        yield Check("receipt", None if nobody_asked else False, verdict.reason.value, at)
    elif not isinstance(verdict, Signed):
        yield Check("receipt", None, "it is not signed", at)
    else:
        yield Check("receipt", True, f"key {verdict.key_id.hex()}", at)
        own = [span for span in spans if span.key_id == verdict.key_id]
        since = next((span.since for span in own if span.since <= at < span.until), None)
        yield Check("key-added", since is not None or (False if own else None), "", at)
        # The clock counts the events of the system: none of them can be left out unnoticed.
        later = [other for other in system if since is not None and other.sequence >= since]
        steps = {b.clock - a.clock for a, b in pairwise(later) if a.sequence <= at}
        gapless = steps == {1} and later[-1].sequence > at
        yield Check("key-not-retired", gapless or None, "", at)
