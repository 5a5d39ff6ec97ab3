"""Keyrings: what holds the keys of encrypted payloads, outside of the journal.

`FileKeyring` keeps them in files, `SystemKeyring` in the operating system's keyring,
`EnvelopeKeyring` in files that only a key service can open. What they have to do:
`batpak.config.Keyring`. Which events share a key: `Policy`. Source: docs/guide/shred.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batpak.keyring.envelopes import EnvelopeKeyring as EnvelopeKeyring
    from batpak.keyring.envelopes import KeyProvider as KeyProvider
    from batpak.keyring.envelopes import LocalProvider as LocalProvider
    from batpak.keyring.files import FileKeyring as FileKeyring
    from batpak.keyring.policies import Policy as Policy
    from batpak.keyring.system import SystemKeyring as SystemKeyring

_HOME_OF = {
    "EnvelopeKeyring": "envelopes",
    "FileKeyring": "files",
    "KeyProvider": "envelopes",
    "LocalProvider": "envelopes",
    "Policy": "policies",
    "SystemKeyring": "system",
}

__all__ = [
    "EnvelopeKeyring",
    "FileKeyring",
    "KeyProvider",
    "LocalProvider",
    "Policy",
    "SystemKeyring",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'batpak.keyring' has no attribute {name!r}")
    value = getattr(import_module(f"batpak.keyring.{home}"), name)
    globals()[name] = value
    return value
