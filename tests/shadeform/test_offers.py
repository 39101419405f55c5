"""Offers: filtered, ranked and shown as the guide's table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from nanolan.cost.forecast import Work, forecast
from nanolan.errors import NoOffer, UsageProblem
from nanolan.money import dollars
from nanolan.settings.load import load_settings
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offer_table import table
from nanolan.shadeform.offers import (
    Offer,
    Wanted,
    choose,
    newest_cuda_image,
    no_offer_error,
    unusable,
    wanted_from,
)
from nanolan.sim.shadeform.sample_offers import SAMPLE


def expected(o: Offer, *phases: str) -> int | None:
    found = forecast(Work(phases or ("sft",)), o, {})
    return found.likely_cents if found else None


CUDA = ("ubuntu22.04_cuda12.8_shade_os",)
ALL = [o for entry in SAMPLE for o in offers_of(entry)]
USABLE, _ = choose(ALL, Wanted())


def offer(**changes: Any) -> Offer:
    given: dict[str, Any] = {
        "cloud": "c",
        "region": "r",
        "instance_type": "t",
        "gpu": "H100",
        "num_gpus": 8,
        "vram_gb": 80,
        "hourly_cents": 2000,
        "os_options": CUDA,
        "nvlink": True,
    }
    return Offer(**(given | changes))


# ---- the image


@pytest.mark.parametrize(
    "options, newest",
    [
        (
            [
                "ubuntu22.04_cuda12.6_shade_os",
                "ubuntu24.04_cuda13.0_shade_os",
                "ubuntu22.04_cuda12.8_shade_os",
            ],
            "ubuntu24.04_cuda13.0_shade_os",
        ),
        (
            ["ubuntu22.04_cuda12.8_shade_os", "ubuntu22.04_cuda12.10_shade_os"],
            "ubuntu22.04_cuda12.10_shade_os",
        ),
        # no decimal fractions
        (
            ["ubuntu22.04_cuda12.4_shade_os", "ubuntu24.04_cuda12.4_shade_os"],
            "ubuntu24.04_cuda12.4_shade_os",
        ),
        (["ubuntu22.04", "ubuntu22.04_cuda12.2_shade_os"], "ubuntu22.04_cuda12.2_shade_os"),
        (["ubuntu20.04_cuda12.8_shade_os"], None),
        (["ubuntu22.04_cuda11.8_shade_os"], None),
        (["ubuntu22.04", "debian12"], None),
        ([], None),
        (["ubuntu22.04_cuda12.8_shade_os; rm", "_shade_os", "ubuntu_cuda_shade_os"], None),
    ],
    ids=str,
)
def test_the_newest_cuda_image_with_a_driver_is_chosen(
    options: list[str], newest: str | None
) -> None:
    assert newest_cuda_image(options) == newest


# ---- limits on prices


def by_the_hour(o: Offer) -> int | None:
    """An hour and a fifth on H100s, half of it on B200s; no figure for anything else."""
    return {"H100": o.hourly_cents * 6 // 5, "B200": o.hourly_cents * 3 // 5}.get(o.gpu)


def priced(*cents: int, **changes: Any) -> list[Offer]:
    return [offer(hourly_cents=c, region=f"r{c}", **changes) for c in cents]


@pytest.mark.parametrize(
    "limits, left, why",
    [
        ({"max_price": 2500}, [2000, 2500], "above max-price ($25.00/h)"),
        ({"max_price": 2499}, [2000], "above max-price"),
        ({"max_total": 3000}, [2000, 2500], "the run's total is above max-total ($30.00)"),
        ({"max_total": 9999}, [2000, 2500, 3000], None),
        ({"max_price": 2500, "max_total": 2400}, [2000], "above max-price"),
        ({}, [2000, 2500, 3000], None),
    ],
    ids=str,
)
def test_an_offer_above_a_limit_is_dropped_with_a_counted_reason(
    limits: dict[str, int], left: list[int], why: str | None
) -> None:
    found, dropped = choose(priced(3000, 2000, 2500), Wanted(**limits), expected=by_the_hour)
    assert [o.hourly_cents for o in found] == left and sum(dropped.values()) == 3 - len(left)
    assert not why or any(why in reason for reason in dropped)


def test_a_total_that_nobody_can_foretell_keeps_no_limit() -> None:
    found, dropped = choose(
        priced(100, gpu="RTX4090"), Wanted(max_total=10**6), expected=by_the_hour
    )
    assert found == [] and list(dropped) == [
        "the run's total is unknown there, so max-total cannot be kept"
    ]
    assert choose(priced(100, gpu="RTX4090"), Wanted(max_price=100))[0]


@pytest.mark.parametrize(
    "limits, cheapest",
    [
        ({"max_price": 100}, "r2000 for $20.00/h, the run about $"),
        ({"max_total": 100}, "r2100 for $21.00/h, the run about $"),
    ],
    ids=str,
)
def test_when_a_limit_drops_all_the_cheapest_is_named_with_its_price(
    limits: dict[str, int], cheapest: str
) -> None:
    listed = [
        *priced(3000, 2000),
        *priced(2100, gpu="B200"),
        *priced(10, num_gpus=0),
    ]  # B200: less in all
    wanted = Wanted(**limits)
    error = no_offer_error(
        wanted, listed, choose(listed, wanted, expected=by_the_hour)[1], by_the_hour
    )
    assert (
        isinstance(error, NoOffer)
        and f"The cheapest of them: 8x {'B200' if 'r21' in cheapest else 'H100'} at c/{cheapest}"
        in str(error)
    )


def test_without_a_limit_no_cheapest_is_named() -> None:
    assert "The cheapest" not in str(no_offer_error(Wanted("V100"), priced(100), Counter()))


def test_the_settings_limits_are_looked_for() -> None:
    s = load_settings({"max_price": "30", "max_total": "99.50"}, {})
    assert (wanted_from(s).max_price, wanted_from(s).max_total) == (3000, 9950)


# ---- filters


@pytest.mark.parametrize(
    "gpu, found",
    [
        ("H100", {"H100"}),
        ("h100", {"H100"}),
        ("h-100", {"H100"}),
        ("h10", {"H100", "H100_nvl"}),
        ("nvl", {"H100_nvl"}),
        ("A100", {"A100_80G"}),
        ("a100 80g", {"A100_80G"}),
        ("H100_nvl", {"H100_nvl"}),
        ("B200", {"B200"}),
        ("", set()),
    ],
)
def test_the_gpu_matches_partially_and_in_any_case(gpu: str, found: set[str]) -> None:
    assert {o.gpu for o in choose(ALL, Wanted(gpu))[0]} == (found or {o.gpu for o in USABLE})


def test_count_cloud_region_and_type_match_exactly() -> None:
    assert {o.num_gpus for o in choose(ALL, Wanted("H100", 2))[0]} == {2}
    assert [o.region for o in choose(ALL, Wanted(cloud="scaleway", region="paris-2"))[0]] == [
        "paris-2"
    ]
    assert [o.cloud for o in choose(ALL, Wanted(instance_type="H100_sxm5x8"))[0]] == ["crusoe"]
    assert choose(ALL, Wanted(cloud="scale"))[0] == [] == choose(ALL, Wanted(region="paris"))[0]


def test_trap_9_pcie_and_sxm_share_a_gpu_type_and_a_wrong_interconnect_hides_nothing() -> None:
    found, _ = choose(ALL, Wanted("H100", 8))
    assert {o.interconnect for o in found} == {"pcie", "sxm5"}
    crusoe = choose(ALL, Wanted("A100", 8))[0]
    assert [(o.instance_type, o.interconnect) for o in crusoe] == [
        ("A100_80G_sxm4x8", "pcie")
    ]  # as listed, wrongly


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"num_gpus": 0, "gpu": "CPU"}, "no GPU"),
        ({"gpu": "MI300X"}, "NVIDIA"),
        ({"gpu": "GAUDI2"}, "NVIDIA"),
        ({"gpu": "GH200"}, "ARM"),
        ({"gpu": "GB200"}, "ARM"),
        ({"os_options": ("ubuntu22.04",)}, "no image"),
        ({"os_options": ()}, "no image"),
        ({}, None),
    ],
    ids=str,
)
def test_what_no_run_can_use_is_dropped_with_the_reason(
    changes: dict[str, Any], why: str | None
) -> None:
    reason = unusable(offer(**changes))
    assert reason is None if why is None else reason and why in reason
    usable, dropped = choose([offer(**changes)], Wanted())
    assert (len(usable), list(dropped)) == ((0, [reason]) if reason else (1, []))


def test_offers_come_cheapest_first_and_by_total_on_request() -> None:
    prices = [o.hourly_cents for o in USABLE]
    assert prices == sorted(prices)
    by_total, _ = choose(ALL, Wanted(), order="total", expected=expected)
    totals = [expected(o) or 10**9 for o in by_total]
    assert totals == sorted(totals) and [o.hourly_cents for o in by_total] != prices


def test_an_offer_without_a_figure_comes_last_by_total_and_is_never_free() -> None:
    odd = offer(gpu="RTX4090", hourly_cents=1)
    assert choose([odd, offer()], Wanted(), order="total", expected=expected)[0][-1] == odd
    assert expected(odd) is None and "?" in table([odd], expected)[2]


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ({}, Wanted("B200", 8)),
        ({"gpu": "H100:4"}, Wanted("H100", 4)),
        ({"instance_type": "T"}, Wanted("", None, instance_type="T")),
        ({"instance_type": "T", "gpu": "H100"}, Wanted("H100", None, instance_type="T")),
        ({"instance_type": "T", "num_gpus": "4"}, Wanted("", 4, instance_type="T")),
        ({"cloud": "c", "region": "r"}, Wanted("B200", 8, "c", "r")),
        ({"gpu": "any"}, Wanted("", None)),
        ({"gpu": "ANY", "num_gpus": "4"}, Wanted("", 4)),
        ({"gpu": "any:2"}, Wanted("", 2)),
    ],
    ids=str,
)
def test_a_named_instance_type_overrides_the_default_gpu_and_count(
    flags: dict[str, str], wanted: Wanted
) -> None:
    assert wanted_from(load_settings(flags, {})) == wanted


def test_all_configs_means_any_number_of_gpus() -> None:
    assert wanted_from(load_settings({"gpu": "H100"}, {}), all_configs=True) == Wanted("H100", None)


# ---- nothing found


@pytest.mark.parametrize(
    "typo, meant",
    [
        ("H10O", "H100"),
        ("B20O", "B200"),
        ("H1000", "H100"),
        ("A100_8OG", "A100_80G"),
        ("RTX409O", "RTX4090"),
    ],
)
def test_a_mistyped_gpu_gets_a_suggestion(typo: str, meant: str) -> None:
    error = no_offer_error(Wanted(typo, 8), ALL, Counter())
    assert (
        isinstance(error, UsageProblem)
        and f"unknown GPU '{typo}'" in str(error)
        and f"Did you mean gpu={meant}?" in str(error)
    )


def test_a_gpu_like_no_other_gets_the_list() -> None:
    error = no_offer_error(Wanted("banana", 8), ALL, Counter())
    assert isinstance(error, UsageProblem) and "H100, " in str(error)


@pytest.mark.parametrize("gpu", ["V100", "RTX5090", "MI300X", "H100", "L4"])
def test_a_gpu_that_exists_but_is_not_for_rent_is_no_offer(gpu: str) -> None:
    error = no_offer_error(Wanted(gpu, 3), ALL, Counter())
    assert (
        isinstance(error, NoOffer) and error.exit_code == 3 and "nothing was rented" in str(error)
    )


def test_no_offer_names_what_was_dropped_and_what_is_available() -> None:
    text = str(no_offer_error(Wanted("B200", 4), ALL, Counter({"an ARM machine": 2})))
    assert (
        "4x B200" in text
        and "2 dropped: an ARM machine" in text
        and "Available now: 1x B200, 8x B200." in text
    )
    assert "Nothing at all" in str(no_offer_error(Wanted("B200"), [], Counter()))


# ---- the table


@pytest.mark.parametrize(
    "wanted",
    [Wanted(), Wanted("H100"), Wanted("B200", 8), Wanted("A100"), Wanted("H100_nvl")],
    ids=str,
)
def test_every_line_of_the_table_fits_80_columns_and_is_aligned(wanted: Wanted) -> None:
    check_table(choose(ALL, wanted)[0])


def test_names_and_prices_of_any_length_fit_too() -> None:
    long = offer(
        cloud="a-cloud-with-a-very-long-name",
        region="a-region-with-a-very-long-name",
        gpu="RTXPro6000Blackwell",
        hourly_cents=1_065_600,
    )
    check_table([long, *USABLE] * 6)


def check_table(offers: list[Offer]) -> None:
    lines = table(offers, lambda o: expected(o, "mid", "sft"))
    assert len(lines) == len(offers) + 2 and max(map(len, lines)) <= 80
    bars = [i for i, c in enumerate(lines[1]) if c == "+"]
    assert len(bars) == 8 and all(
        [i for i, c in enumerate(line) if c == "|"] == bars for line in (lines[0], *lines[2:])
    )


def test_the_table_has_the_guides_columns_and_the_expected_dollars() -> None:
    head, _, first, *_ = table(choose(ALL, Wanted("B200", 8))[0], expected)
    assert [c.strip() for c in head.split("|")] == [
        "#",
        "Provider",
        "Region",
        "GPU",
        "GPUs",
        "VRAM",
        "Price/hr",
        "Run",
        "NVLink",
    ]
    assert [c.strip() for c in first.split("|")] == [
        "1",
        "hyperstack",
        "canada-1",
        "B200",
        "8x",
        "192GB",
        "$33.60",
        "$23.95*",
        "Yes",
    ]


def test_every_row_names_its_gpu() -> None:
    lines = table(choose(ALL, Wanted("H10"))[0], expected)
    assert [line.split("|")[3].strip() for line in lines[2:4]] == ["H100", "H100_nvl"]


def test_the_star_is_on_the_cheapest_total_and_not_on_the_cheapest_hour() -> None:
    offers, _ = choose(ALL, Wanted("H100"))
    lines = table(offers, expected)[2:]
    totals = [expected(o) or 10**9 for o in offers]
    starred = [i for i, line in enumerate(lines) if "*" in line]
    assert starred == [totals.index(min(totals))]
    assert dollars(min(totals)) + "*" in lines[starred[0]]
    dearer_an_hour = [offer(hourly_cents=100, num_gpus=1), offer(hourly_cents=200, num_gpus=8)]
    assert ["*" in line for line in table(dearer_an_hour, expected)[2:]] == [False, True]
