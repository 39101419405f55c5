"""A cloud or region that nobody has: the one that was probably meant is named."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from nanolan.shadeform.offers import Wanted, near_places, no_offer_error
from tests.shadeform.test_offers import offer

LISTED = [
    offer(cloud="hyperstack", region="canada-1"),
    offer(cloud="lambdalabs", region="us-east-1"),
    offer(cloud="hyperstack", region="norway-1"),
]


@pytest.mark.parametrize(
    "wanted, meant",
    [
        ({"cloud": "HyperStack"}, "cloud=hyperstack?"),
        ({"cloud": "hyperstak"}, "cloud=hyperstack?"),
        ({"cloud": "lambda"}, "cloud=lambdalabs?"),
        ({"region": "canada"}, "region=canada-1?"),
        ({"region": "US-East-1"}, "region=us-east-1?"),
        ({"cloud": "hyperstack"}, ""),
        ({"region": "mars"}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_place_that_was_meant_is_named(wanted: dict[str, Any], meant: str) -> None:
    text = near_places(Wanted("H100", 8, **wanted), LISTED)
    assert text.endswith(meant) and bool(text) == bool(meant)
    assert text in str(no_offer_error(Wanted("H100", 8, **wanted), LISTED, Counter()))
