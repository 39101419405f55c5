"""A scenario's moment: as often as it says, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from nanolan.sim.scenarios import Player, Scenario
from nanolan.sim.scenarios_cloud import multiply_prices


@pytest.mark.parametrize(
    "moment, times, acts", [("step 40/", 1, 1), ("step (4|8)0/", 2, 2), ("", 1, 0), ("never", 1, 0)]
)
def test_it_acts_at_its_moment_and_not_more_often(moment: str, times: int, acts: int) -> None:
    done: list[Any] = []
    player = Player(Scenario("it", moment=moment, times=times, then=done.append), "world")  # type: ignore[arg-type]
    for line in (
        "sft step 20/150",
        "sft step 40/150",
        "sft step 40/150",
        "sft step 80/150",
        "sft step 80/150",
    ):
        player.hear(line)
    assert len(done) == player.played == acts and set(done) <= {"world"}


def test_dear_offers_cost_so_many_times_more() -> None:
    class Cloud:
        class account:
            catalogue = [{"hourly_price": 100}, {"hourly_price": 250}]

    class World:
        cloud = Cloud

    multiply_prices(3)(World)  # type: ignore[arg-type]
    assert [o["hourly_price"] for o in Cloud.account.catalogue] == [300, 750]
