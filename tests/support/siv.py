"""AES-SIV written from RFC 5297 alone, of AES in counter mode and CMAC: a second opinion.

Shares nothing with `batpak.encryption` but the block cipher; slow, and for tests only.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

__all__ = ["siv_decrypt", "siv_encrypt"]

_MASK = (1 << 128) - 1 ^ (1 << 63) ^ (1 << 31)


def _cmac(key: bytes, data: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def _double(block: bytes) -> bytes:
    number = int.from_bytes(block, "big") << 1
    if number >> 128:
        number = (number & ((1 << 128) - 1)) ^ 0x87
    return number.to_bytes(16, "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _s2v(key: bytes, associated: list[bytes], plain: bytes) -> bytes:
    block = _cmac(key, bytes(16))
    for each in associated:
        block = _xor(_double(block), _cmac(key, each))
    if len(plain) >= 16:
        return _cmac(key, plain[:-16] + _xor(plain[-16:], block))
    padded = plain + b"\x80" + bytes(15 - len(plain))
    return _cmac(key, _xor(_double(block), padded))


def _counter(key: bytes, iv: bytes, data: bytes) -> bytes:
    start = (int.from_bytes(iv, "big") & _MASK).to_bytes(16, "big")
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(data)


def siv_encrypt(key: bytes, associated: list[bytes], plain: bytes) -> bytes:
    """Synthetic IV, then ciphertext."""
    half = len(key) // 2
    iv = _s2v(key[:half], associated, plain)
    return iv + _counter(key[half:], iv, plain)


def siv_decrypt(key: bytes, associated: list[bytes], sealed: bytes) -> bytes:
    """The plaintext. Raises ValueError where the IV is not that of what comes out."""
    half = len(key) // 2
    iv, data = sealed[:16], sealed[16:]
    plain = _counter(key[half:], iv, data)
    if _s2v(key[:half], associated, plain) != iv:
        raise ValueError("not what was sealed")
    return plain
