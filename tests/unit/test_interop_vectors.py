"""What Go's libraries made, kept as a file, verifies here without Go.

`make test-system` runs the program that made it, and verifies the other way round too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import interop

MADE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "interop" / "go.json").read_text("utf-8")
)


@pytest.mark.proves("INV-PROOF-INTEROPERATES")
def test_all_that_go_made_verifies_here() -> None:
    assert interop.verify_theirs(MADE) == {
        "notes": 8,
        "checkpoints": 5,
        "cosignatures": 10,
        "cosignatures of ours": 2,
        "inclusion": len(MADE["inclusion"]),
        "consistency": len(MADE["consistency"]),
        "tiles": 261,
    }
    assert (len(MADE["inclusion"]), len(MADE["consistency"])) > (100, 100)


def test_our_witness_follows_and_cosigns_a_log_of_go() -> None:
    cosigned = interop.cosign_theirs(MADE)
    assert [shown["size"] for shown in cosigned] == [0, 1, 5, 40, 66_000]
    for shown in cosigned:
        _, witnesses = interop.policy_of(shown).open(shown["note"])
        assert {key.name: time for key, time in witnesses.items()} == shown["times"]
        assert len(witnesses) == 3
