"""Add up JUnit reports into one closing line: "N passed, N failed, N skipped".

Usage: python -m tools.test_summary REPORT.xml ...
A report that is missing or unreadable counts as one failure: a part that never ran its
tests must not look like a part without failures. Exit code 1 if anything failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def count(report: Path) -> tuple[int, int, int]:
    """Passed, failed (errors included) and skipped test cases of one report."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            failed += 1
        elif "skipped" in tags:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main(names: list[str]) -> int:
    """Print the line; return the exit code."""
    total = [0, 0, 0]
    for name in names:
        try:
            counts = count(Path(name))
        except (OSError, ElementTree.ParseError) as error:
            print(f"{name}: {error}: the part that writes it did not get to its tests")
            counts = (0, 1, 0)
        total = [before + more for before, more in zip(total, counts, strict=True)]
    passed, failed, skipped = total
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
