"""The child that gets killed: appends for ever, and prints what was acknowledged.

Usage: python -m batpak_cli.demo.writer JOURNAL ROUND

One line for each receipt, "sequence id number", written only when `append` has returned.
Durability is SYNC, the default: by then the event is on the disk.
"""

from __future__ import annotations

import itertools
import sys

from batpak.coordinate import Coordinate
from batpak.kinds import DATA
from batpak.store import Store

__all__ = ["WHERE", "main"]

WHERE = Coordinate("writer:child", "demo")


def main(journal: str, attempt: str) -> None:
    """Append until somebody puts an end to it."""
    with Store.open(journal) as store:
        for number in itertools.count():
            value = {"round": int(attempt), "number": number}
            receipt = store.append(WHERE, value, kind=DATA, depth=int(attempt))
            sys.stdout.write(f"{receipt.sequence} {receipt.event_id} {number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
