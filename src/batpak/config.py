"""Options of a store: one frozen value, each option with its bounds and meaning here once.

Judges values, touches nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

from batpak.clock import Clock, as_clock
from batpak.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.coordinate import Coordinate

__all__ = ["Durability", "Every", "Keyring", "Signer", "StoreConfig", "Watermark"]

MIB = 1 << 20

_EXPLAINED: Final = {
    "platform_profile": "there are no profiles to compare with: Store.diagnostics() says what "
    "was seen of this machine, and `batpak doctor PATH` what is risky there",
}
"""Options that were decided against, and what to use instead (docs/decisions/0036)."""


class Watermark(enum.Enum):
    """How far an event has come."""

    ACCEPTED = "accepted"
    WRITTEN = "written"
    DURABLE = "durable"
    VISIBLE = "visible"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Every:
    """Sync when `ms` milliseconds have passed or `events` events are waiting.

    Made by `Durability.EVERY(ms=…, events=…)`.
    """

    ms: int = 100
    events: int = 1000

    def __post_init__(self) -> None:
        for name, value, most in (("ms", self.ms, 3_600_000), ("events", self.events, 1 << 31)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InvalidInput(
                    f"Durability.EVERY: {name} is a whole number from 1 to {most}",
                    field=name,
                    value=value,
                )


class Durability(enum.Enum):
    """What an acknowledged append survives.

    SYNC: power loss (group commit; the default). `Durability.EVERY(ms=, events=)`:
    process death, and power loss except for the last interval. OS: process death.
    """

    SYNC = "sync"
    OS = "os"

    @staticmethod
    def EVERY(*, ms: int = 100, events: int = 1000) -> Every:  # noqa: N802  # stands beside SYNC and OS
        """Sync in intervals. Raises InvalidInput."""
        return Every(ms, events)


@runtime_checkable
class Signer(Protocol):
    """What signs for a store: a `batpak.signing.SigningKey`, or a device that holds a key."""

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        ...


@runtime_checkable
class Keyring(Protocol):
    """What holds the keys that payloads are encrypted with: one of `batpak.keyring`, or yours.

    A key has 64 random bytes, and an id of 16 random bytes that is never used again. Which
    events share a key is the keyring's business. Threads may call any method at once.
    """

    @property
    def places(self) -> Sequence[str]:
        """Files and directories that hold what it knows; none may be inside a journal."""
        ...

    def key_for(self, coordinate: Coordinate, kind: int, key: bytes | None) -> bytes:
        """The id of the key for a new event of a raw kind; `key` is its idempotency key.

        A key that is made for it is durable before its id is returned. An id that
        `destroy` was given is never returned again.
        """
        ...

    def load(self, key_id: bytes) -> bytes | None:
        """The 64 bytes of a key; None when it is not there."""
        ...

    def destroy(self, key_id: bytes) -> bool:
        """Destroy a key durably; whether it was there. Raises where it may still be there."""
        ...


def _option(default: Any, meaning: str, bounds: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Every option of `Store.open`. Raises InvalidInput naming the option."""

    durability: Durability | Every = _option(
        Durability.SYNC, "what an acknowledged append survives", "SYNC, EVERY(ms=, events=), OS"
    )
    segment_max_bytes: int = _option(
        64 * MIB, "a new segment is begun once the newest has this length", "4 KiB … 2 GiB"
    )
    preallocate: int = _option(
        4 * MIB, "bytes of space reserved ahead of the log's end; 0 turns it off", "0 … 1 GiB"
    )
    payload_max_bytes: int = _option(16 * MIB, "largest payload", "1 … 256 MiB")
    batch_max_events: int = _option(65_536, "most events in one commit", "1 … 1 048 576")
    codec: str = _option("salted", "how payloads are stored", '"salted", "plain", "encrypted"')
    keyring: Keyring | None = _option(
        None, "the keys of encrypted payloads, to read and to write them", "a Keyring"
    )
    origin: str | None = _option(
        None,
        "the journal's name in checkpoints; fixed at creation",
        "1 … 255 printable bytes, no space, no +",
    )
    signing_keys: tuple[Signer, ...] = _option(
        (), "keys for receipts: all verify, the last one signs", "SigningKeys, each once"
    )
    require_signing: bool = _option(
        False, "refuse to open without signing keys, and receipts without a signature", "bool"
    )
    checkpoint_key: Signer | None = _option(
        None, "the key that signs checkpoints", "a SigningKey that signs no receipts"
    )
    verify: str = _option(
        "always",
        "what get() and at() check: all hashes, or the content's only",
        '"always", "content"',
    )
    clock: Clock | None = _option(None, "where time comes from", "a Clock, or a callable giving µs")
    submit_capacity: int = _option(
        4096, "most events that wait in the queue of `submit`", "1 … 1 048 576"
    )
    submit_threshold: float = _option(
        0.75, "share of submit_capacity from which on `try_submit` refuses", "> 0 … 1"
    )
    max_open_files: int = _option(64, "sealed segments kept mapped at once", "4 … 65 536")
    sync_mode: str = _option(
        "data",
        "how the log is synced: its bytes and length (fdatasync), or all that is known of the file",
        '"data", "full"',
    )
    sync_warning: float = _option(1.0, "seconds after which a slow sync is logged", "> 0")
    on_kind_collision: str = _option(
        "refuse", "when two payload classes claim one kind", '"refuse", "warn", "ignore"'
    )
    allow_network_filesystem: bool = _option(
        False, "open on a network file system, whose locks and syncs can't be trusted", "bool"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.durability, (Durability, Every)):
            raise _refused("durability", self.durability, "SYNC, EVERY(ms=, events=) or OS")
        for name, least, most in (
            ("segment_max_bytes", 4096, 1 << 31),
            ("preallocate", 0, 1 << 30),
            ("payload_max_bytes", 1, 256 * MIB),
            ("batch_max_events", 1, 1 << 20),
            ("submit_capacity", 1, 1 << 20),
            ("max_open_files", 4, 65_536),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise _refused(name, value, f"a whole number from {least} to {most}")
        for name, allowed in (
            ("codec", ("salted", "plain", "encrypted")),
            ("verify", ("always", "content")),
            ("sync_mode", ("data", "full")),
            ("on_kind_collision", ("refuse", "warn", "ignore")),
        ):
            if getattr(self, name) not in allowed:
                raise _refused(name, getattr(self, name), " or ".join(map(repr, allowed)))
        for name in ("allow_network_filesystem", "require_signing"):
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "a bool")
        self._check_keys()
        if self.keyring is not None and not isinstance(cast("object", self.keyring), Keyring):
            raise _refused("keyring", self.keyring, "a Keyring of batpak.keyring")
        if self.codec == "encrypted" and self.keyring is None:
            raise _refused("codec", "encrypted", '"salted" or "plain", unless keyring= is given')
        share = self.submit_threshold
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise _refused("submit_threshold", share, "a share above 0, at most 1")
        slow = self.sync_warning
        if isinstance(slow, bool) or not isinstance(slow, (int, float)) or not slow > 0:
            raise _refused("sync_warning", slow, "seconds above 0")
        origin = self.origin
        if origin is not None and (
            not isinstance(origin, str)
            or not 1 <= len(origin.encode("utf-8", "surrogatepass")) <= 255
            or not origin.isprintable()
            or any(mark in origin for mark in " +")
        ):
            raise _refused("origin", origin, "1 to 255 bytes of printable text, no space, no +")
        if self.clock is not None:
            object.__setattr__(self, "clock", as_clock(self.clock))

    def _check_keys(self) -> None:
        given: object = self.signing_keys
        if not isinstance(given, (tuple, list)):
            raise _refused("signing_keys", type(given).__name__, "a tuple of SigningKeys")
        if not all(map(_is_signer, cast("tuple[object, ...]", given))):
            raise _refused("signing_keys", "something else", "a tuple of SigningKeys")
        keys = cast("tuple[Signer, ...]", tuple(cast("list[object]", given)))
        object.__setattr__(self, "signing_keys", keys)
        public = [key.public_key for key in keys]
        if len(set(public)) < len(public):
            raise _refused("signing_keys", "a key twice", "keys, each once")
        if self.require_signing and not keys:
            raise _refused("signing_keys", "()", "given, since require_signing is on")
        if self.checkpoint_key is None:
            return
        if not _is_signer(self.checkpoint_key):
            raise _refused("checkpoint_key", "something else", "a SigningKey")
        if self.checkpoint_key.public_key in public:
            # Whoever checks must be able to tell what a signature was made for.
            raise _refused("checkpoint_key", "a receipt key", "a key that signs no receipts")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> StoreConfig:
        """A config from keywords of `open`. Raises InvalidInput for an unknown one."""
        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                raise InvalidInput(
                    f"Store.open has no option {name!r}",
                    field=name,
                    advice=_EXPLAINED.get(name, f"known options: {', '.join(sorted(known))}"),
                )
        return cls(**options)


def _is_signer(key: object) -> bool:
    return (
        isinstance(key, Signer) and isinstance(key.public_key, bytes) and len(key.public_key) == 32
    )


def _refused(name: str, value: object, bounds: str) -> InvalidInput:
    return InvalidInput(f"option {name} must be {bounds}", field=name, value=value)
