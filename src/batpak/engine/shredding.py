"""Which keys are shredded: fold the events that say so, and choose what a new one names.

A shredding is an event and a deed: the event is durable first, then the keyring destroys
the key, and every open for writing does that again, so a crash between the two leaves
nothing alive for long. Ciphertext stays where it is. Source: docs/format.md, "Shredding".
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from batpak.config import Keyring
from batpak.coordinate import Region
from batpak.encryption import KEY_ID_SIZE
from batpak.engine.erasing import is_own, sequences_of, system_sequences
from batpak.engine.reading import LogReader
from batpak.engine.system import shredded_by
from batpak.errors import (
    CanonicalError,
    KeyNotDestroyed,
    KeyringRefused,
    NotShreddable,
    PayloadDamaged,
)
from batpak.event import CODEC_ENCRYPTED
from batpak.index.query import Query
from batpak.index.runs import Runs
from batpak.journal.telling import told
from batpak.kinds import SYSTEM_KEY_SHREDDED
from batpak.receipt import AppendReceipt

__all__ = [
    "KEYS_IN_A_COMMIT",
    "CoveredKey",
    "ShredReport",
    "check_held",
    "check_keyring",
    "destroy_keys",
    "fold_shredded",
    "plan_shredding",
]

logger = logging.getLogger("batpak.journal")

KEYS_IN_A_COMMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class CoveredKey:
    """A key, and what it covers."""

    key_id: bytes
    asked: int
    """Events that were asked for and are encrypted with it."""
    events: int
    """All events of the journal that are."""


@dataclass(frozen=True, slots=True)
class ShredReport:
    """What a shredding destroys, and what it leaves alone."""

    keys: tuple[CoveredKey, ...]
    """Keys that are shredded by it."""
    before: tuple[CoveredKey, ...]
    """Keys of events asked for that had been shredded before: they are destroyed again."""
    events: int
    """Events asked for that can't be read afterwards, and could before."""
    others: int
    """Events that were not asked for and share their keys."""
    unencrypted: int
    """Events asked for whose payload no key protects, and stays: erase it."""
    gone: int
    """Encrypted events asked for whose payload compaction has taken out."""
    system: int
    """Events of the journal itself inside the region: they are kept."""
    receipts: tuple[AppendReceipt, ...] = field(default=())
    """Of the events that say so; none where nothing was to be done, or only planned."""
    missing: tuple[bytes, ...] = field(default=())
    """Ids of `keys` that the keyring did not have, so that nothing was destroyed; other
    keyrings may have them."""

    def check_no_others(self) -> None:
        """Raises NotShreddable where a key covers events that were not asked for."""
        for key in self.keys:
            if key.events > key.asked:
                raise NotShreddable(
                    f"the key {key.key_id.hex()} covers {key.events - key.asked} events that "
                    "were not named",
                    field="what",
                    reason="covers-more",
                    advice="look first: plan_shredding(), or --dry-run; to shred them too: "
                    "also_others=True, or --also-others",
                )


# --- what was shredded ------------------------------------------------------------


def fold_shredded(reader: LogReader, low: int, high: int) -> None:
    """Have `reader` refuse what is encrypted with keys that events in [low, high) shredded.

    An event that can't be read shreds nothing; that is logged, and `verify` names it. Raises
    JournalCorrupt, StorageFailed.
    """
    found: list[bytes] = []
    for sequence in reader.index.of_kind(SYSTEM_KEY_SHREDDED.raw, low, high):
        try:
            event = reader.stored(sequence)
            if is_own(event, SYSTEM_KEY_SHREDDED):
                found.append(shredded_by(event.raw))
        except (PayloadDamaged, CanonicalError) as error:
            told(partial(_unreadable, sequence, str(error)))
    if found:
        reader.vault.shred(found)


def _unreadable(sequence: int, reason: str) -> None:
    logger.warning(
        "the event %d can't be read, so it shreds nothing: %s", sequence, reason,
        extra={"code": "shredding-unreadable", "sequence": sequence, "error": reason},
    )  # fmt: skip


# --- what to shred ----------------------------------------------------------------


def plan_shredding(reader: LogReader, what: object, bound: int) -> ShredReport:
    """What a shredding of `what` would do, below `bound`.

    Raises InvalidInput, EventNotFound, NotShreddable; JournalCorrupt, PayloadDamaged.
    """
    system = 0
    own = Runs.of(system_sequences(reader, 0, bound))
    if isinstance(what, Region):
        asked, key_ids = Runs.of(reader.sequences(Query.of(what), 0, bound)), frozenset[bytes]()
        system = asked.count - (asked - own).count
        asked = asked - own
    else:
        asked, key_ids = _asked(reader, what, bound)
        if asked.count > (asked - own).count:
            first = next(n for first, end in asked for n in range(first, end) if n in own)
            raise NotShreddable(
                f"event {first} is the journal's own: such events are never encrypted",
                field="what",
                sequence=first,
                reason="system",
                advice="leave it out, or shred by Region, which leaves such events alone",
            )
    named: Counter[bytes] = Counter()
    total: Counter[bytes] = Counter()
    encrypted = gone = 0
    for sequence in encrypted_sequences(reader, 0, bound):
        is_asked = sequence in asked
        key_id = _key_of(reader, sequence, whole=is_asked)
        encrypted += is_asked
        if not key_id:
            gone += is_asked
            continue
        total[key_id] += 1
        named[key_id] += is_asked or key_id in key_ids
    if not isinstance(what, Region) and encrypted < asked.count:
        _refuse_unencrypted(reader, asked)
    shredded = reader.vault.shredded
    for key_id in key_ids:
        if not total[key_id] and key_id not in shredded:
            raise NotShreddable(
                f"nothing in the journal is encrypted with the key {key_id.hex()}",
                field="what",
                reason="unknown-key",
                advice="name events instead: their keys are found by themselves",
            )
    covered = [
        CoveredKey(key_id, named[key_id], total[key_id])
        for key_id in sorted({each for each, number in named.items() if number} | key_ids)
    ]
    fresh = tuple([key for key in covered if key.key_id not in shredded])
    return ShredReport(
        fresh,
        tuple([key for key in covered if key.key_id in shredded]),
        sum(key.asked for key in fresh),
        sum(key.events - key.asked for key in fresh),
        asked.count - encrypted,
        gone,
        system,
    )


def _asked(reader: LogReader, what: object, bound: int) -> tuple[Runs, frozenset[bytes]]:
    """Sequences and ids of keys that are named one by one. Raises InvalidInput, EventNotFound."""
    if isinstance(what, bytes):
        what = (what,)
    if isinstance(what, (str, dict)) or not isinstance(what, Iterable):
        return Runs.of(sequences_of(reader, cast("object", what), bound, verb="shred")), frozenset()
    each = list(cast("Iterable[Any]", what))
    key_ids = [one for one in each if isinstance(one, bytes)]
    for key_id in key_ids:
        if len(key_id) != KEY_ID_SIZE:
            raise NotShreddable(
                "a key's id has 16 bytes", field="what", value=key_id.hex(), reason="unknown-key"
            )
    rest = [one for one in each if not isinstance(one, bytes)]
    return Runs.of(sequences_of(reader, rest, bound, verb="shred")), frozenset(key_ids)


def _refuse_unencrypted(reader: LogReader, asked: Runs) -> None:
    for first, end in asked:
        for sequence in range(first, end):
            if reader.summary(sequence).row.codec != CODEC_ENCRYPTED:
                raise NotShreddable(
                    f"the payload of event {sequence} is not encrypted",
                    field="what",
                    sequence=sequence,
                    reason="not-encrypted",
                    advice="erase it instead, or leave it out",
                )


def _key_of(reader: LogReader, sequence: int, *, whole: bool) -> bytes:
    """The id of the key that an encrypted event was sealed with; empty where that is gone.

    `whole`: from an envelope whose hash is right, so that nobody can have another key
    destroyed by changing a few bytes.
    """
    if whole:
        return (reader.stored(sequence).envelope or b"")[:KEY_ID_SIZE]
    slot, segment = reader.pair(sequence)
    envelope_at = slot.part.locate(sequence - slot.first)[3]
    return segment.read(envelope_at, KEY_ID_SIZE) if envelope_at else b""


def encrypted_sequences(reader: LogReader, low: int, high: int) -> Iterator[int]:
    """Sequences in [low, high) of events of codec 2, ascending; rows are looked at, no more."""
    return reader.of_codec(CODEC_ENCRYPTED, low, high)


# --- the keyring ------------------------------------------------------------------


def check_keyring(keyring: Keyring, root: str) -> None:
    """Raises KeyringRefused where the keyring stands inside the journal's directory.

    A copy of the journal would take the keys along, and shredding would destroy nothing.
    """
    journal = os.path.realpath(root)
    for place in keyring.places:
        if os.path.commonpath([journal, os.path.realpath(place)]) == journal:
            raise KeyringRefused(
                "a keyring can't stand inside the journal: every copy would take the keys along",
                field="keyring",
                file=place,
                reason="inside-journal",
                advice="keep it elsewhere, and out of the journal's backups",
            )


def check_held(keyring: Keyring, key_ids: Sequence[bytes]) -> None:
    """Raises NotShreddable where the keyring has not one of these keys."""
    missing = [key_id for key_id in key_ids if not _holds(keyring, key_id)]
    if missing:
        where = "".join(f" {place}" for place in keyring.places[:1])
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise NotShreddable(
            f"the keyring{where} has not the key {missing[0].hex()}{more}, so it can destroy "
            "nothing of it",
            field="what",
            reason="missing-key",
            advice="open the store with the keyring that the events were encrypted with; if the "
            "key is lost, say so: also_missing=True, or --also-missing",
        )


def _holds(keyring: Keyring, key_id: bytes) -> bool:
    try:
        return keyring.load(key_id) is not None
    except Exception:  # noqa: BLE001  # a keyring may be anybody's code
        # A key that can't be opened, as without its service, can be destroyed; a keyring that
        # can't do that either tells it then.
        return True


def destroy_keys(keyring: Keyring, key_ids: Iterable[bytes]) -> frozenset[bytes]:
    """Destroy keys, as many as can be; those that were not there. Raises KeyNotDestroyed."""
    missing: set[bytes] = set()
    left: list[str] = []
    cause: Exception | None = None
    for key_id in key_ids:
        try:
            is_new = keyring.destroy(key_id)
        except Exception as error:  # noqa: BLE001  # a keyring may be anybody's code; it is told
            left.append(key_id.hex())
            cause = cause or error
        else:
            if is_new:
                told(partial(_destroyed, key_id.hex()))
            else:
                missing.add(key_id)
    if cause is not None:
        raise KeyNotDestroyed(
            f"{len(left)} keys are shredded in the journal, and the keyring could not destroy "
            f"them: {cause}",
            key_ids=tuple(left),
            advice="see to the keyring, then shred them again or open the journal again",
        ) from cause
    return frozenset(missing)


def _destroyed(key_id: str) -> None:
    logger.info(
        "destroyed the key %s", key_id, extra={"code": "key-destroyed", "key_id": key_id}
    )  # fmt: skip
