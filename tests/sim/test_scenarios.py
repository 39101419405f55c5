"""Actions of scenarios on the local Shadeform."""

from __future__ import annotations

from nanolan.sim.scenarios_cloud import multiply_prices


def test_dear_offers_cost_so_many_times_more() -> None:
    class Cloud:
        class account:
            catalogue = [{"hourly_price": 100}, {"hourly_price": 250}]

    class World:
        cloud = Cloud

    multiply_prices(3)(World)  # type: ignore[arg-type]
    assert [o["hourly_price"] for o in Cloud.account.catalogue] == [300, 750]
