"""Find code that nothing uses, with vulture; part of `make lint`.

Usage: python -m tools.dead_code      exit 1 and a line for each finding

All of our Python is read, tests too, since a public call is used by its tests; findings
in tests are left to ruff, because pytest and hypothesis call tests by their names.
tools/dead_code.toml names what is used in a way that cannot be seen, each with the
reason. An entry that no finding needs any more is an error, as is one without a reason.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
JUDGED = ("src", "tools", "benchmarks")
READ = (*JUDGED, "tests")
REASONS = ROOT / "tools" / "dead_code.toml"


def unused(root: Path = ROOT) -> dict[str, str]:
    """`file:name` of what is not used, to a line about it."""
    search = Vulture()
    search.scavenge([str(root / room) for room in READ if (root / room).is_dir()])
    found: dict[str, str] = {}
    for item in search.get_unused_code():
        path = Path(item.filename).resolve().relative_to(root)
        if path.parts[0] in JUDGED:
            key = f"{path.as_posix()}:{item.name}"
            found[key] = f"{path.as_posix()}:{item.first_lineno}: {item.message}"
    return found


def reasons(path: Path = REASONS) -> dict[str, str]:
    """`file:name` to the reason why it stays."""
    return {
        f"{file}:{name}": reason
        for file, names in tomllib.loads(path.read_text("utf-8")).items()
        for name, reason in names.items()
    }


def complaints(found: Mapping[str, str], explained: Mapping[str, str]) -> Iterable[str]:
    """What is to be changed, in the code or in the list of reasons."""
    for key, line in found.items():
        if key not in explained:
            yield f"{line}: remove it, or name it in tools/dead_code.toml with a reason"
    for key, reason in explained.items():
        if key not in found:
            yield f"tools/dead_code.toml: {key} is used, or gone: remove the entry"
        elif len(reason.split()) < 2:
            yield f"tools/dead_code.toml: {key} needs a reason, in words"


def main() -> int:
    lines = list(complaints(unused(), reasons()))
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
