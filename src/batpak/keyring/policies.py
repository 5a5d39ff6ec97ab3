"""Which events share a key, and the look-up of the key that they share.

The smaller the group, the less is lost with its key, and the more keys there are to keep.
Knows labels and ids, not where keys are kept.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from enum import Enum
from typing import Final

from blake3 import blake3

from batpak.coordinate import Coordinate
from batpak.encryption import KEY_ID_SIZE, KEY_SIZE
from batpak.journal.reentry import owns, reentered

__all__ = ["LABEL_SIZE", "KeyringBase", "Policy"]

LABEL_SIZE: Final = 16
_LABEL_PREFIX: Final = b"batpak/label/v1\0"
_MOST_LABELS: Final = 1 << 16
"""Groups whose key is remembered; for others the keyring is looked into again."""


class Policy(Enum):
    """Which events are encrypted with one key, and so are shredded together."""

    ENTITY = "entity"
    """Those of one entity: for forgetting a person."""
    CATEGORY = "category"
    """Those whose kinds are of one category."""
    KIND = "kind"
    """Those of one kind."""
    EVENT = "event"
    """Each event for itself: a key has to be made durable for every append."""


class KeyringBase:
    """Finds the key of a group of events and makes it where there is none.

    A subclass says how keys and the ids that labels stand for are kept. A label is 16
    bytes, a hash of the group's name.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy: Final[Policy] = policy
        # An enumeration's members are slow to look up.
        self._by_entity: Final = policy is Policy.ENTITY
        self._kind_mask: Final = {Policy.KIND: 0xFFFF, Policy.CATEGORY: 0xF000}.get(policy, 0)
        self._making = threading.RLock()
        # guarded by _making, but for single look-ups
        self._known: dict[bytes | int, bytes] = {}

    # --- what a subclass does --------------------------------------------------

    def load(self, key_id: bytes) -> bytes | None:
        """The 64 bytes of a key; None when it is not there."""
        raise NotImplementedError

    def _named(self, label: bytes) -> bytes | None:
        """The id that `_name` kept for a label."""
        raise NotImplementedError

    def _keep(self, key_id: bytes, key: bytes) -> None:
        """Keep a new key durably; where a label follows, `_name` may finish that."""
        raise NotImplementedError

    def _name(self, label: bytes | None, key_id: bytes) -> None:
        """Keep durably what a label stands for now; None: there is no label to keep."""
        raise NotImplementedError

    def _remove(self, key_id: bytes) -> bool:
        """Destroy a key durably; whether it was there."""
        raise NotImplementedError

    # --- what all do -----------------------------------------------------------

    def key_for(self, coordinate: Coordinate, kind: int, key: bytes | None) -> bytes:
        """The id of the key for a new event of a raw kind; `key` is its idempotency key.

        Raises KeyringRefused, KeyringFailed, StorageFailed, NoSpace.
        """
        group: bytes | int | None
        if self._by_entity:
            group = coordinate.entity_bytes
        elif self._kind_mask:
            group = kind & self._kind_mask
        else:
            group = key
            if group is None:
                return self._make(None)
        known = self._known.get(group)
        return self._find(group) if known is None else known

    def _find(self, group: bytes | int) -> bytes:
        text = group if isinstance(group, bytes) else b"%d" % group
        prefix = _LABEL_PREFIX + self.policy.value.encode() + b"\0"
        label = blake3(prefix + text).digest()[:LABEL_SIZE]
        self._check_entry()
        with self._making:
            known = self._known.get(group)
            if known is not None:
                return known
            key_id = self._named(label)
            # What the label stands for may be destroyed, or cut off by a crash.
            if key_id is None or self.load(key_id) is None:
                key_id = self._make(label)
            if len(self._known) >= _MOST_LABELS:
                self._known = {}
            if self.policy is not Policy.EVENT:
                self._known[group] = key_id
            return key_id

    def _check_entry(self) -> None:
        if owns(self._making):
            # What stands on the disk now is half of what this call would look at.
            raise reentered("keyring")

    def _make(self, label: bytes | None) -> bytes:
        key_id, key = os.urandom(KEY_ID_SIZE), os.urandom(KEY_SIZE)
        self._keep(key_id, key)
        # Crash before this: a key that nothing was encrypted with.
        self._name(label, key_id)
        return key_id

    def destroy(self, key_id: bytes) -> bool:
        """Destroy a key durably; whether it was there. Raises where it may still be there."""
        self._check_entry()
        with self._making:
            was_there = self._remove(key_id)
            self._known = {group: known for group, known in self._known.items() if known != key_id}
        return was_there

    @property
    def places(self) -> Sequence[str]:
        """Files and directories that hold what it knows."""
        return ()
