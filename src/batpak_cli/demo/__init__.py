"""`batpak demo`: the main job on real input, and what it proved.

`run` is all that the command line needs. The forger and what it is caught by are also
used by the tests. Importing this package loads nothing.
"""

from __future__ import annotations

__all__ = ["run"]


def run(keep: str | None = None) -> int:
    """Run the demo and return its exit code: 0 when each proof held, else 1.

    With `keep`, a new or empty directory, everything made stays there. Raises
    InvalidInput when that directory holds something already.
    """
    from batpak_cli.demo.story import tell

    return tell(keep)
