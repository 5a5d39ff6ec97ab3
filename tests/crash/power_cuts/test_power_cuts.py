"""No power cut loses what was promised, and none is taken for damage: the short form.

`make crash` is the long one. How many states were judged stands in the run's summary.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.power_cuts.campaign import KINDS, Tally, run_until
from tests.crash.power_cuts.workloads import HEAVY, WORKLOADS
from tests.support.effort import EXHAUSTIVE, SEED

SHARE = 1150 if EXHAUSTIVE else 115
SHARES = {name: max(SHARE * HEAVY.get(name, 250) // 250, 40) for name in WORKLOADS}
"""States of each workload; fewer where each takes longer."""

Property = Callable[[str, object], None]


def test_the_short_form_judges_three_thousand_states() -> None:
    assert sum(SHARES.values()) >= 3000


@pytest.mark.parametrize("workload", WORKLOADS)
def test_nothing_promised_is_lost_in_a_power_cut(workload: str, record_property: Property) -> None:
    tally = Tally()
    run_until(workload, SEED, SHARES[workload], tally)
    for kind in KINDS:
        record_property(f"power cuts: {kind}", tally.counts[kind])
    print(f"seed {SEED}, {workload}: {tally}")
    assert tally.states == SHARES[workload]
    assert tally.counts["second crashes"] >= tally.states
    assert tally.counts["damage refused"] + tally.counts["damage named"] > 0
    assert tally.counts["on the real file system"] > 0
    assert tally.counts["power cuts refused"] == 0
