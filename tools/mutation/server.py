"""Run pytest again and again in children of one process, which has its imports done.

Usage: python -m tools.mutation.server PLUGIN-ARGUMENTS …     (in the copy, by `trial`)

Each line on the standard input is JSON: the tests, and the environment's additions. The
answer is one line: the child's exit status, or null where it was ended from outside. Of
what is mutated nothing is imported here, so each child sees the file of its moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import blake3 as _blake3
import cryptography.hazmat.primitives.asymmetric.ed25519 as _ed25519
import hypothesis.stateful as _stateful
import msgspec as _msgspec
import numpy as _numpy
import pytest

_loaded = (_blake3, _ed25519, _stateful, _msgspec, _numpy)


def child(arguments: list[str], environment: dict[str, str]) -> None:
    """Run the tests; never returns."""
    os.setsid()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    status = 70
    try:
        status = int(pytest.main(arguments))
    finally:
        # Not sys.exit: threads that a mutant left must not keep the process.
        os._exit(status)


def main(arguments: list[str]) -> int:
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child([*arguments, *asked["tests"]], asked["environment"])
        # Whoever ends it from outside needs its group; it has one once setsid was called.
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        try:
            os.killpg(pid, signal.SIGKILL)  # what its tests left running
        except ProcessLookupError:
            pass
        ended = os.waitstatus_to_exitcode(status)
        print(json.dumps({"status": ended if ended >= 0 else None}), flush=True)
    assert "batpak" not in sys.modules, "it would be the same in every child"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
