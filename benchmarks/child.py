"""One job from the argument, its result as JSON on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benchmarks.work import WORKS, Job


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(WORKS[job.work](job))))


if __name__ == "__main__":
    main()
