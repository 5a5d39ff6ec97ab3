"""Write docs/guide/options.md from the fields of StoreConfig: one home for each option.

Usage: python -m tools.options_table            writes the page
       python -m tools.options_table --check    exit 1 when the page is not up to date

Bounds and meaning come from the fields' metadata, defaults from the fields; the rest of
the page is the text below.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from batpak.config import StoreConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "options.md"

_HEAD = """\
<!-- Written by `python -m tools.options_table`; change src/batpak/config.py instead. -->
# Options of a store

Keywords of `Store.open`, or the fields of a `StoreConfig` that is passed as `config=`.
A value out of bounds is refused as `InvalidInput` before anything is touched. Each open
chooses anew; the journal keeps `origin` only, and the public halves of `signing_keys`, as
events.

```python
from batpak import Durability, Store, StoreConfig

with Store.open("journal", durability=Durability.OS, segment_max_bytes=1 << 20):
    pass
config = StoreConfig(durability=Durability.EVERY(ms=50, events=500), codec="plain")
with Store.open("journal", config=config) as store:
    print(store.open_report.epoch)
```

```output
2
```

| Option | Default | Allowed | Meaning |
| --- | --- | --- | --- |
"""

_TAIL = """
## Durability

What an acknowledged append survives, and when the disk is waited for:

* `Durability.SYNC` (default): power loss. Before each append returns; threads that wait
  at the same time share one sync.
* `Durability.EVERY(ms=, events=)`: the end of the process, and power loss but for the last
  interval. When `events` events wait, or `ms` milliseconds after the first of them.
* `Durability.OS`: the end of the process. At `sync()`, at the end of a segment, at close.

In `SYNC`, an event becomes visible when it is durable; in the other modes when it is
written. `append(..., durable=True)` waits for the disk in any mode.
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{each.name}` | {_default(each.default)} | {_cell(each.metadata['bounds'])} "
        f"| {_cell(each.metadata['meaning'])} |\n"
        for each in fields(StoreConfig)
    ]
    return _HEAD + "".join(rows) + _TAIL


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"`{value}`"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20:
        return f"{value >> 20} MiB"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", " ")
    return "none" if value is None else f"`{value!r}`".replace("'", '"')


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str], path: Path = PAGE) -> int:
    """Write or check the page; the process's exit code."""
    wanted = page()
    if "--check" in arguments:
        found = path.read_text("utf-8") if path.exists() else ""
        if found != wanted:
            print(f"{path.name} is not up to date: run python -m tools.options_table")
            return 1
        return 0
    path.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
