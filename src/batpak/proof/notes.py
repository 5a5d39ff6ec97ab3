"""C2SP signed notes, checkpoints, cosignatures: text and keys in, facts out; docs/proofs.md.

Unknown keys and algorithms are ignored; one bad signature of a known key condemns a note.
`str()` and `parse` of a form are inverse, and every other way of writing is refused.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from batpak.errors import ProofInvalid
from batpak.proof.merkle import MAX_SIZE

__all__ = ["Checkpoint", "Key", "Note", "Policy", "Signature", "cosigned_message"]

ED25519: Final = 1
COSIGNATURE: Final = 4
MAX_NOTE_LENGTH: Final = 512 * 1024
MAX_SIGNATURES: Final = 64
_KEY: Final = re.compile(r"([^\s+\x00-\x1f\ud800-\udfff]+)\+[0-9a-f]{8}\+(\S+)")
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) (\S+)")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature (64 bytes) is that of this key (32 bytes) over the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def cosigned_message(text: str, time: int) -> bytes:
    """What a cosignature of this time, in seconds since 1970, signs."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


class Key(NamedTuple):
    """A verifier key, as text `name+key id+base64`."""

    name: str
    public_key: bytes
    algorithm: int = ED25519

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before its signatures."""
        typed = bytes([self.algorithm]) + self.public_key
        return sha256(f"{self.name}\n".encode() + typed).digest()[:4]

    def __str__(self) -> str:
        typed = bytes([self.algorithm]) + self.public_key
        return f"{self.name}+{self.key_id.hex()}+{b64encode(typed).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A key for Ed25519 signatures (1) or cosignatures (4). Raises ProofInvalid."""
        match = _KEY.fullmatch(text)
        raw = _unbase64(match[2]) if match else b""
        if match and len(raw) == 33 and raw[0] in (ED25519, COSIGNATURE):
            key = cls(match[1], raw[1:], raw[0])
            if str(key) == text:
                return key
        raise ProofInvalid("not a verifier key for Ed25519", reason="key")

    def signed_at(self, text: str, signature: bytes) -> int | None:
        """Seconds since 1970 that a cosignature carries, else 0; None: the signature is wrong."""
        if self.algorithm == ED25519:
            return 0 if verify_ed25519(self.public_key, signature, text.encode()) else None
        time = int.from_bytes(signature[:8], "big")
        message = cosigned_message(text, time)
        good = time < MAX_SIZE and verify_ed25519(self.public_key, signature[8:], message)
        return time if good else None


class Signature(NamedTuple):
    """One signature line of a note."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"— {self.name} {b64encode(self.key_id + self.signature).decode()}\n"


class Note(NamedTuple):
    """A text that ends in a newline, and its signature lines."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    @classmethod
    def parse(cls, note: str) -> Self:
        """Read a note; nothing is verified. Raises ProofInvalid."""
        text, blank, tail = note[: MAX_NOTE_LENGTH + 1].rpartition("\n\n")
        lines = tail.split("\n")
        if len(note) <= MAX_NOTE_LENGTH and blank and not lines.pop() and not _CONTROL.search(note):
            signatures = [
                Signature(match[1], raw[:4], raw[4:])
                for match in map(_SIGNATURE.fullmatch, lines[: MAX_SIGNATURES + 1])
                if match and len(raw := _unbase64(match[2])) > 4
            ]
            if 0 < len(signatures) == len(lines) <= MAX_SIGNATURES:
                return cls(f"{text}\n", tuple(signatures))
        raise ProofInvalid("not a text, an empty line and 1 to 64 signatures", reason="note")

    def verified(self, keys: Iterable[Key]) -> dict[Key, int]:
        """Which keys signed, each with the seconds of `signed_at`. Raises ProofInvalid."""
        known = {(key.name, key.key_id): key for key in keys}
        signed: dict[Key, int] = {}
        for line in self.signatures:
            if key := known.get((line.name, line.key_id)):
                if (time := key.signed_at(self.text, line.signature)) is None:
                    raise ProofInvalid(f"the signature of {key.name} is wrong", reason="signature")
                signed[key] = max(time, signed.get(key, 0))
        return signed


class Checkpoint(NamedTuple):
    """Size and root of a log, as the text of a note."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __str__(self) -> str:
        root = b64encode(self.root).decode()
        return "".join(f"{x}\n" for x in (self.origin, self.size, root, *self.extensions))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a note. Raises ProofInvalid."""
        lines = text.split("\n")
        if len(lines) > 3 and all(lines[:-1]) and _NUMBER.fullmatch(lines[1]):
            root = _unbase64(lines[2])
            checkpoint = cls(lines[0], int(lines[1]), root, tuple(lines[3:-1]))
            if len(root) == 32 and checkpoint.size <= MAX_SIZE and str(checkpoint) == text:
                return checkpoint
        raise ProofInvalid("not the text of a checkpoint", reason="checkpoint")


class Policy(NamedTuple):
    """Whom to believe: the log's key, and `threshold` of these witnesses."""

    log: Key
    witnesses: tuple[Key, ...] = ()
    threshold: int = 0
    origin: str | None = None  # the name of the log's key

    def open(self, note: str) -> tuple[Checkpoint, dict[Key, int]]:
        """A checkpoint that this log signed, and the witnesses that did. Raises ProofInvalid."""
        if self.threshold < 0:
            raise ProofInvalid("a policy asks for 0 witnesses or more", reason="policy")
        opened = Note.parse(note)
        signed = opened.verified((self.log, *self.witnesses))
        checkpoint = Checkpoint.parse(opened.text)
        origin = self.origin or self.log.name
        if signed.pop(self.log, None) is None or checkpoint.origin != origin:
            raise ProofInvalid("not a checkpoint that this log signed", reason="unknown-log")
        return checkpoint, signed


def _unbase64(text: str) -> bytes:
    """The bytes of standard base64 in its one form; none for any other text."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        return b""
    return raw if b64encode(raw).decode() == text else b""
