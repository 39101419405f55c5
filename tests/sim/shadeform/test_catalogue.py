"""The sample offers: real shapes, and every trap that a parser of offers must handle."""

from __future__ import annotations

from copy import deepcopy

import pytest

from nanolan.sim.shadeform.catalogue import entry_for, find, select
from nanolan.sim.shadeform.refusal import Refusal
from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.sim.openapi import check_schema, needs_openapi


@needs_openapi
@pytest.mark.parametrize("offer", SAMPLE, ids=lambda o: f"{o['cloud']}/{o['shade_instance_type']}")
def test_every_offer_matches_the_api_schema(offer):
    check_schema("InstanceType", offer)


def test_no_offer_is_listed_twice():
    keys = [(o["cloud"], o["shade_instance_type"]) for o in SAMPLE]
    assert len(set(keys)) == len(keys) > 20


def test_eight_b200_on_demand_give_the_table_of_the_guide():
    rows = [
        o
        for o in select(
            SAMPLE, {"gpu_type": "B200", "num_gpus": "8", "available": "true", "sort": "price"}
        )
        if any(e.get("rental_type", "on_demand") == "on_demand" for e in o["availability"])
    ]
    assert [
        (
            o["cloud"],
            o["availability"][0]["region"],
            o["hourly_price"],
            o["configuration"]["vram_per_gpu_in_gb"],
            o["configuration"]["nvlink"],
        )
        for o in rows
    ] == [
        ("hyperstack", "canada-1", 3360, 192, True),
        ("datacrunch", "FIN-01", 3584, 192, True),
        ("tensordock", "us-east", 3840, 192, False),
    ]
    assert (
        rows[0]["shade_instance_type"] == "8x_b200_pcie_192gb"
    )  # the guide's example without questions


TRAPS = {
    "no availability at all": lambda o: o["availability"] == [],
    "one region twice, on demand and spot": lambda o: (
        len({e["region"] for e in o["availability"]}) == 1 < len(o["availability"])
    ),
    "on demand sold out, spot there": lambda o: (
        [e["available"] for e in o["availability"]] == [False, True]
    ),
    "rental_type absent": lambda o: any("rental_type" not in e for e in o["availability"]),
    "display_name absent": lambda o: any("display_name" not in e for e in o["availability"]),
    "boot_time absent": lambda o: "boot_time" not in o,
    "boot_time half there": lambda o: len(o.get("boot_time", {})) == 1,
    "no top-level copies": lambda o: "gpu_type" not in o,
    "top-level copies": lambda o: o.get("gpu_type") == o["configuration"]["gpu_type"],
    "nvlink absent": lambda o: "nvlink" not in o["configuration"],
    "a plain image only": lambda o: o["configuration"]["os_options"] == ["ubuntu22.04"],
    "CUDA 12.8": lambda o: "ubuntu22.04_cuda12.8_shade_os" in o["configuration"]["os_options"],
    "CUDA 13 only": lambda o: o["configuration"]["os_options"] == ["ubuntu24.04_cuda13.0_shade_os"],
    "another maker": lambda o: o["configuration"]["gpu_manufacturer"] == "amd",
    "an arm64 machine": lambda o: o["configuration"]["gpu_type"] == "GH200",
    "no GPU": lambda o: o["configuration"]["num_gpus"] == 0,
    "an SXM card called pcie": lambda o: (
        "sxm" in o["shade_instance_type"] and o["configuration"]["interconnect"] == "pcie"
    ),
    "an hour to boot": lambda o: o.get("boot_time", {}).get("max_boot_in_sec", 0) >= 3600,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_sample_has_the_trap(trap):
    assert any(TRAPS[trap](o) for o in SAMPLE)


@pytest.mark.parametrize(
    "query, kinds",
    [
        ({"cloud": "hyperstack", "gpu_type": "H100"}, ["H100", "H100x2", "H100x4"]),
        ({"gpu_type": "h100"}, []),  # exact and strict
        ({"shade_instance_type": "H100", "region": "warsaw-2"}, ["H100"]),
        ({"cloud": "verda"}, ["B200x8"]),  # an empty availability is listed ...
        ({"cloud": "verda", "available": "True"}, []),  # ... until available ones are asked for
        ({"cloud": "nebius", "available": "false"}, ["H100_sxm5x8"]),
        ({"num_gpus": "2"}, ["H100x2", "A100_80Gx2"]),
    ],
)
def test_filters_are_exact(query, kinds):
    assert [o["shade_instance_type"] for o in select(SAMPLE, query)] == kinds


def test_available_filters_the_entries_of_a_type():
    (offer,) = select(
        SAMPLE, {"cloud": "lambdalabs", "shade_instance_type": "B200x8", "available": "true"}
    )
    assert [e["rental_type"] for e in offer["availability"]] == ["spot"]


def test_sorted_by_price_only_when_asked():
    prices = [o["hourly_price"] for o in select(SAMPLE, {"sort": "price"})]
    assert prices == sorted(prices) != [o["hourly_price"] for o in select(SAMPLE, {})]


@pytest.mark.parametrize(
    "query", [{"sort": "total"}, {"sort": ""}, {"available": "null"}, {"available": ""}], ids=str
)
def test_another_order_and_another_stock_are_refused(query):
    with pytest.raises(Refusal, match="400"):
        select(SAMPLE, query)


def test_an_empty_filter_is_none():
    assert select(SAMPLE, {"gpu_type": "", "region": ""}) == SAMPLE


def test_a_selection_is_a_copy():
    before = deepcopy(SAMPLE)
    select(SAMPLE, {})[0]["availability"].clear()
    assert before == SAMPLE


def test_an_entry_without_rental_type_is_on_demand():
    offer = find(SAMPLE, "tensordock", "B200x8")
    assert (
        offer
        and entry_for(offer, "us-east", "on_demand")
        and entry_for(offer, "us-east", "spot") is None
    )
    assert find(SAMPLE, "tensordock", "B200x9") is None
