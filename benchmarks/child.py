"""One job from the argument, its result as JSON on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benchmarks.work import WORKS, Job


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    works = WORKS
    if job.work.startswith("growth-"):
        # Only then: it imports batpak, which no peer's process should.
        from benchmarks import growth_work

        works = growth_work.WORKS
    print(json.dumps(asdict(works[job.work](job))))


if __name__ == "__main__":
    main()
