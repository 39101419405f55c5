"""A whole spot run whose instance is taken away twice: three attempts, one at a time, within the limit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nanolan.run.ledger import Ledger
from nanolan.sim.rehearsal import rehearse
from nanolan.sim.scenarios import SCENARIOS
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.world import World

LIMIT = 150


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_preempted_twice_succeeds_as_three_attempts_within_its_limit(
    tmp_path: Path, seed_cache: Path
) -> None:
    with World(tmp_path / "world", cache=seed_cache, delays=Delays()) as world:
        lines = list[str]()
        scenario = SCENARIOS["preempted"]
        outcome = rehearse(world, [], scenario, lines.append, time.monotonic(), quiet=True)
        (entry,) = Ledger(world.root / "nanolan-home").entries()
        boxes = sorted(world.cloud.instances, key=lambda i: i.created_at)
    assert (outcome.verdict, outcome.exit_code, outcome.played) == ("succeeded", 0, 2)
    assert outcome.left_running == 0 and outcome.saved == "sft whole"
    assert entry.plan.attempt == 3 == len(boxes) and len(entry.earlier) == 2
    assert [b.spec.get("rental_type") for b in boxes] == ["spot"] * 3
    assert all(a.ends_at <= b.created_at for a, b in zip(boxes, boxes[1:], strict=False))
    paid = outcome.paid_dollars
    before = [a.spent_cents or 0 for a in entry.earlier]
    assert all(before) and sum(before) + entry.plan.limit_cents <= 100 * LIMIT
    assert paid <= LIMIT
