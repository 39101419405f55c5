"""Spot offers: read, shown, requested and read back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nanolan.errors import BadAnswer, MachineFailed
from nanolan.launch.request import create_body
from nanolan.plan import Plan, read_plan
from nanolan.shadeform.keyless import instance_in_plan
from nanolan.shadeform.models import Instance, instance_of, offers_of
from nanolan.shadeform.offer_table import table
from nanolan.shadeform.offers import Wanted, choose
from nanolan.shadeform.terms import price_differs, rental_differs
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.shadeform.server import ShadeformServer
from tests.shadeform.test_lifecycle_delete import gone, read_back
from tests.shadeform.test_models import PENDING, TYPE
from tests.support.core_fixtures import INFO, a_plan, client
from tests.support.lifecycle_fixtures import (
    cloud,  # noqa: F401  # a fixture
    plan,  # noqa: F401  # a fixture
    rented,
)

NOW = {"region": "us-west-1", "available": True}
SPOT = NOW | {"rental_type": "spot", "hourly_price": "18.5"}
BOTH = [NOW | {"rental_type": "on_demand"}, SPOT]


def read(entries: list[Any], spot: str) -> list[tuple[bool, int]]:
    return [
        (o.spot, o.hourly_cents) for o in offers_of(TYPE | {"availability": entries}, spot=spot)
    ]


def on_spot(plan: Plan, cents: int = 3360) -> Plan:
    return replace(plan, offer=replace(plan.offer, spot=True, hourly_cents=cents))


# ---- the list of offers


@pytest.mark.parametrize(
    "spot, offers",
    [("no", [(False, 3600)]), ("yes", [(False, 3600), (True, 1850)]), ("only", [(True, 1850)])],
)
def test_a_region_with_both_kinds_has_an_offer_for_each_kind_that_is_wanted(
    spot: str, offers: list[tuple[bool, int]]
) -> None:
    assert read(BOTH, spot) == offers


@pytest.mark.parametrize(
    "price, cents",
    [
        ("36", 3600),
        ("26.76", 2676),
        ("$15.00", 1500),
        (" 9.5 ", 950),
        ("0.0006", 1),  # rounded up, never free
        (18.5, 1850),
        (1.1, 110),  # no binary fraction
        (18, 1800),  # dollars; if it were cents, the offer would look dearer than it is
        ("10", 1000),
        ("3.9", 390),  # numbers, not texts: cheaper than "10"
    ],
    ids=str,
)
def test_the_price_of_a_spot_entry_is_in_dollars(price: Any, cents: int) -> None:
    assert read([SPOT | {"hourly_price": price}], "only") == [(True, cents)]


@pytest.mark.parametrize(
    "price",
    [
        None,
        "null",
        "",
        "0",
        0,
        "-1.50",
        -1.5,
        "1,850.00",
        "18.50/h",
        "NaN",
        float("nan"),
        float("inf"),
        True,
        [],
        {"usd": 18},
        "9" * 400,
        10**12,
        "1e2",
    ],
    ids=str,
)
def test_a_spot_entry_without_a_usable_price_is_unreadable_and_never_free(price: Any) -> None:
    """An unknown price that counts as 0 would be the cheapest (ai-gateway#126), and it is not the price on demand
    (eks-node-viewer#64)."""
    entry = TYPE | {"availability": [BOTH[0], SPOT | {"hourly_price": price}]}
    found = offers_of(entry, "yes")
    assert [(o.spot, o.hourly_cents) for o in found] == [(False, 3600)] and found.unreadable == 1
    assert offers_of(entry).unreadable == 0  # who asks for none is told nothing
    missing = {k: v for k, v in SPOT.items() if k != "hourly_price"}
    assert offers_of(TYPE | {"availability": [missing]}, "only").unreadable == 1


@pytest.mark.parametrize(
    "entry",
    [
        SPOT | {"available": False},
        SPOT | {"available": "yes"},
        SPOT | {"rental_type": "commitment"},
        SPOT | {"rental_type": ["spot"]},
        SPOT | {"rental_type": None},
        SPOT | {"region": None},
        SPOT | {"region": ""},
        None,
        "spot",
        [],
    ],
    ids=str,
)
def test_an_entry_that_is_not_a_spot_offer_now_is_left_out(entry: Any) -> None:
    assert read([entry], "only") == []


def test_a_type_without_a_readable_price_is_refused_for_spot_too() -> None:
    with pytest.raises(BadAnswer):
        offers_of(TYPE | {"hourly_price": None, "availability": BOTH}, "only")


def test_without_spot_everything_is_as_before_and_the_client_counts_what_it_could_not_read(
    cloud: ShadeformServer,
) -> None:
    api = client(cloud)
    assert all(not o.spot for o in api.offers()[0])
    assert {o.spot for o in api.offers("yes")[0]} == {True, False}
    cloud.account.catalogue[0]["availability"].append(SPOT | {"hourly_price": "null"})
    assert (api.offers()[1], api.offers("yes")[1], api.offers("only")[1]) == (0, 1, 1)


def test_spot_offers_are_marked_and_the_table_without_them_is_unchanged() -> None:
    def shown(spot: str) -> list[str]:
        offers, _ = choose([o for e in SAMPLE for o in offers_of(e, spot)], Wanted("B200", 8))
        return table(offers, lambda o: 100)

    assert "Kind" not in "".join(shown("no"))
    both = shown("yes")
    assert [line.rsplit("|", 1)[1].strip() for line in (both[0], *both[2:])] == [
        "Kind",
        "spot",
        "on demand",
        "on demand",
        "on demand",
    ]
    assert max(map(len, both)) <= 80
    offer = offers_of(TYPE | {"availability": [SPOT]}, "only")[0]
    assert offer.where == "8x B300 at excesssupply/us-west-1 (spot)"


# ---- plan and request


def test_only_the_request_for_a_spot_offer_names_the_rental_type() -> None:
    assert "rental_type" not in create_body(a_plan(), "x")
    assert create_body(on_spot(a_plan()), "x")["rental_type"] == "spot"


def test_a_plan_of_before_there_was_spot_loads_and_one_without_spot_is_written_as_before() -> None:
    assert not read_plan(a_plan().to_json()).offer.spot
    assert "spot" not in msgspec.json.decode(a_plan().to_json())["offer"]
    assert read_plan(on_spot(a_plan()).to_json()).offer.spot


# ---- read back


def instance(terms: Any, cents: Any = 3360) -> Instance:
    return instance_of(PENDING | {"rental_terms": terms, "hourly_price": cents})


@pytest.mark.parametrize(
    "terms, agreed, differs",
    [
        ({"rental_type": "spot"}, True, ""),
        ({"rental_type": "on_demand"}, True, "rented as on demand instead of spot"),
        ({"rental_type": "On-Demand "}, True, "rented as on demand instead of spot"),
        ({"rental_type": "on_demand"}, False, ""),
        ({"rental_type": "spot"}, False, "rented as spot instead of on demand"),
        # unknown is no contradiction
        ({"rental_type": "commitment"}, True, ""),
        ({"rental_type": None}, True, ""),
        ({"rental_type": 1}, True, ""),
        ({}, True, ""),
        (None, True, ""),
        ("spot", True, ""),
        (None, False, ""),
    ],
    ids=str,
)
def test_a_known_rental_type_must_be_the_agreed_one(terms: Any, agreed: bool, differs: str) -> None:
    plan = on_spot(a_plan()) if agreed else a_plan()
    found = rental_differs(instance(terms), plan)
    assert (differs in found) if differs else found == ""


@pytest.mark.parametrize(
    "terms, cents, seen",
    [
        ({"rental_type": "spot", "hourly_price": "18.5"}, 2392, 1850),
        ({"rental_type": "spot", "hourly_price": "99"}, 1850, 9900),
        ({"rental_type": "spot", "hourly_price": None}, 2392, 2392),
        ({"rental_type": "spot", "hourly_price": "-1"}, 2392, 2392),
        ({"rental_type": "spot", "hourly_price": "0"}, 2392, 2392),
        ({"rental_type": "spot"}, None, None),
        ({"rental_type": "on_demand", "hourly_price": "1.00"}, 2392, 2392),
        ({"hourly_price": "1.00"}, 2392, 2392),
    ],
    ids=str,
)
def test_the_price_of_a_spot_instance_is_that_of_its_terms(
    terms: Any, cents: Any, seen: int | None
) -> None:
    assert instance(terms, cents).hourly_cents == seen


def test_a_spot_instance_that_costs_more_than_was_agreed_differs() -> None:
    plan = on_spot(a_plan(), 1850)
    assert "$23.92/h instead of $18.50/h" in price_differs(instance({}, 2392), plan)
    assert not price_differs(instance({"rental_type": "spot", "hourly_price": "18.5"}, 2392), plan)


def rent_spot(cloud: ShadeformServer, plan: Plan, **terms: Any) -> tuple[str, Plan]:
    """A spot instance, of which the answers show these terms."""
    cloud.account.catalogue[0]["availability"].append(
        SPOT | {"region": plan.offer.region, "hourly_price": "33.60"}
    )
    plan = on_spot(plan)
    box = rented(client(cloud), plan)[0]
    if terms:
        cloud.fault(INFO, "edit", times=None, change=lambda body: body.update(terms))
    return box, plan


def test_a_spot_instance_is_requested_as_such_and_read_back(
    cloud: ShadeformServer, plan: Plan
) -> None:
    box, spot = rent_spot(cloud, plan)
    now, said = read_back(cloud, box, spot)
    assert (now.rental, now.hourly_cents) == ("spot", 3360)
    assert said[0].startswith("read back: $33.60/h, spot, limit $150.00")


@pytest.mark.parametrize(
    "terms, why",
    [
        ({"rental_type": "on_demand", "hourly_price": "33.60"}, "on demand instead of spot"),
        ({"rental_type": "spot", "hourly_price": "53.52"}, "[$]53.52/h instead of [$]33.60/h"),
    ],
    ids=str,
)
def test_an_instance_that_is_billed_otherwise_than_agreed_is_deleted(
    cloud: ShadeformServer, plan: Plan, terms: dict[str, str], why: str
) -> None:
    """Asked for spot, billed on demand (vast-cli#403)."""
    box, spot = rent_spot(cloud, plan, rental_terms=terms)
    with pytest.raises(MachineFailed, match=why):
        read_back(cloud, box, spot)
    assert gone(cloud)


def test_terms_that_are_not_shown_are_waited_for_and_then_reported(
    cloud: ShadeformServer, plan: Plan
) -> None:
    box, spot = rent_spot(cloud, plan, rental_terms=None)
    _, said = read_back(cloud, box, spot)
    assert "(it does not show whether this is spot)" in said[0] and not gone(cloud)
    assert sum(r.path.endswith("/info") for r in cloud.requests) > 5


def test_a_box_without_a_key_knows_from_its_plan_how_it_is_rented() -> None:
    assert instance_in_plan(on_spot(a_plan())).rental == "spot"
    assert instance_in_plan(a_plan()).rental == "on_demand"
