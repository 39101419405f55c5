"""What a launch that waits checks, shows and is agreed to, before it waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanolan.checklist import Check
from nanolan.cli.waiting import WaitRequest, check_rule, stand_in
from nanolan.errors import UsageProblem
from nanolan.launch.looks import Rule
from nanolan.launch.prepare import OfferEstimate, Prepared
from nanolan.settings.load import load_settings
from nanolan.shadeform.offers import Market, Offer, Wanted
from nanolan.times import now_utc
from tests.support.core_fixtures import a_plan
from tests.support.failover_fixtures import FIRST, SECOND

OTHER = replace(FIRST, gpu="B200_x")
OF_RUN, OF_OFFER = Check("code", True, "a bundle"), Check("spend limit", True, "enough")


def rule(**wanted: int | str | None) -> Rule:
    return Rule(Wanted(**{"gpu": "B200", "num_gpus": 8} | wanted), "price", 15_000, now_utc())


def unknown(offer: Offer) -> int | None:
    return None


def known(offer: Offer) -> int | None:
    return 2000


# ---- rules that no offer can fulfil
@pytest.mark.parametrize(
    "wanted, listed, expected, said",
    [
        ({"gpu": "B2OO"}, [FIRST], known, "Did you mean gpu=B200?"),
        ({"gpu": "B20"}, [FIRST, OTHER], known, "fits several types: B200, B200_x"),
        ({"gpu": ""}, [FIRST, OTHER], known, "fits several types"),
        ({"cloud": "hyperstak"}, [FIRST], known, "no cloud 'hyperstak' is listed; there are hyper"),
        ({"max_total": 3000}, [FIRST], unknown, "no figures for a run on B200"),
        ({"max_total": 3000, "gpu": "a4000"}, [], unknown, "no figures for a run on A4000"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict | str) else "",
)
def test_a_rule_that_nothing_can_fulfil_is_refused(
    wanted: dict[str, int | str], listed: list[Offer], expected: object, said: str
) -> None:
    with pytest.raises(UsageProblem, match=said.replace("?", r"\?")):
        check_rule(rule(**wanted), Market([], listed), expected, str(wanted.get("gpu", "any")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wanted, listed, expected",
    [
        ({}, [FIRST, OTHER], known),  # an exact type
        ({}, [], known),  # nothing like it is listed today
        ({"cloud": "hyperstack"}, [], known),
        ({"region": "elsewhere-9", "instance_type": "B200x9"}, [FIRST], known),
        ({"max_price": 1}, [FIRST], known),  # prices change
        ({"max_total": 1}, [FIRST], known),
        ({}, [FIRST], unknown),
    ],
    ids=lambda v: str(v) if isinstance(v, dict | str) else "",
)
def test_a_rule_that_some_offer_may_fulfil_later_is_waited_for(
    wanted: dict[str, int | str], listed: list[Offer], expected: object
) -> None:
    check_rule(rule(**wanted), Market([], listed), expected, "B200")  # type: ignore[arg-type]


# ---- the example, on which the checks are made
def request(listed: list[Offer], good: set[Offer]) -> tuple[WaitRequest, list[Offer]]:
    """A request whose checks pass on the offers in `good`; and the offers on which they were all made."""
    prepared: list[Offer] = []

    def estimate(offer: Offer, limit_cents: int) -> OfferEstimate:
        return OfferEstimate(checks=(replace(OF_OFFER, ok=offer in good),))

    def prepare(offer: Offer) -> Prepared:
        prepared.append(offer)
        of_offer = estimate(offer, 0)
        checks = [*of_offer.checks, OF_RUN]
        return Prepared(a_plan(), offer, checks, b"", False, of_offer, estimate)

    s = load_settings({}, {})
    return WaitRequest(s, 60, False, "price", Market([], listed), known, prepare), prepared


def test_the_example_is_the_cheapest_that_is_listed_and_passes_sold_out_or_not() -> None:
    asked, prepared = request([SECOND, FIRST], {SECOND})
    example = asked.example(rule())
    assert example.offer == SECOND and example.failed == [] and OF_RUN in example.checks
    assert prepared == [FIRST], "the run itself is checked once"


def test_if_none_passes_the_failed_checks_are_those_of_the_cheapest() -> None:
    asked, _ = request([SECOND, FIRST], set())
    example = asked.example(rule())
    assert example.offer == FIRST and [c.name for c in example.failed] == ["spend limit"]


def test_if_none_is_within_the_limits_only_the_run_is_checked() -> None:
    asked, _ = request([SECOND, FIRST], set())
    example = asked.example(rule(max_price=1))
    assert example.checks == [OF_RUN] and example.estimate == OfferEstimate()


@pytest.mark.parametrize(
    "wanted, gpu, count, price",
    [
        ({}, "B200", 8, 15_000),
        ({"gpu": "b200", "max_price": 3000}, "B200", 8, 3000),
        ({"gpu": "", "num_gpus": None}, "any", 1, 15_000),
        ({"gpu": "Z9"}, "Z9", 8, 15_000),
    ],
    ids=str,
)
def test_an_offer_for_the_plan_of_a_run_for_which_none_is_listed(
    wanted: dict[str, int | str | None], gpu: str, count: int, price: int
) -> None:
    offer = stand_in(rule(**wanted))
    assert (offer.gpu, offer.num_gpus, offer.hourly_cents) == (gpu, count, price)
    assert offer.cloud == offer.region == offer.instance_type == "none"
