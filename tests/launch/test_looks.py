"""What a look at the market means to a launch that waits: a line, offers, and the time of the next look."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from nanolan.launch.looks import POLITE, SAME_LOOKS, Look, Rests, Rule, delay_s, is_due, judge
from nanolan.shadeform.offers import Market, Offer, Wanted
from tests.support.failover_fixtures import FIRST, SECOND, THIRD

NOW = datetime(2026, 11, 27, 14, 0, tzinfo=timezone.utc)
SMALL = replace(FIRST, num_gpus=1, instance_type="1x", hourly_cents=420)
PLAIN = replace(FIRST, region="bare-1", hourly_cents=100, os_options=("ubuntu22.04",))
VARIANT = replace(FIRST, gpu="B200_x")
OTHER_VARIANT = replace(FIRST, gpu="B200_y")


def rule(**wanted: int | str | None) -> Rule:
    return Rule(Wanted(**{"gpu": "B200", "num_gpus": 8} | wanted), "price", 15_000, NOW)


def total(offer: Offer) -> int | None:
    """The run takes an hour; on one GPU there are no figures."""
    return offer.hourly_cents if offer.num_gpus > 1 else None


def never(offer: Offer) -> str:
    return ""


def resting(offer: Offer) -> str:
    return "it rests" if offer == FIRST else ""


# ---- a look
@pytest.mark.parametrize(
    "in_stock, listed, wanted, against, offers, line",
    [
        # what is rented: the order of a launch that does not wait
        ([SECOND, FIRST], [], {}, never, [FIRST, SECOND], "2 offers fit, first 8x B200 at hyper"),
        (
            [SECOND],
            [FIRST],
            {},
            never,
            [SECOND],
            "1 offer fits: 8x B200 at datacrunch/FIN-01 for $35",
        ),
        (
            [FIRST, SMALL],
            [],
            {"num_gpus": None},
            never,
            [SMALL, FIRST],
            "2 offers fit, first 1x B200",
        ),
        ([FIRST, SECOND], [], {}, resting, [SECOND], "1 offer fits: 8x B200 at datacrunch"),
        # no stock
        ([], [], {}, never, [], "no stock: nothing like it is listed at the moment"),
        ([SMALL], [SMALL], {}, never, [], "no stock: nothing like it is listed"),
        (
            [],
            [SECOND, FIRST],
            {},
            never,
            [],
            "no stock: 2 listed, all sold out; 8x B200 at hyperstack/canada-1 for $33.60/h, the run about $33.60",
        ),
        ([], [FIRST], {"max_price": 3000}, never, [], "$33.60: above max-price ($30.00/h)"),
        (
            [],
            [PLAIN, FIRST],
            {},
            never,
            [],
            "no stock: 1 listed, all sold out; 8x B200 at hyperstack",
        ),
        # in stock, and too dear
        (
            [SECOND, FIRST],
            [],
            {"max_price": 3000},
            never,
            [],
            "2 in stock, none fits; 8x B200 at hyperstack/canada-1 for $33.60/h, the run about $33.60: "
            "above max-price ($30.00/h)",
        ),
        (
            [FIRST],
            [],
            {"max_total": 3000},
            never,
            [],
            "the run's total is above max-total ($30.00)",
        ),
        (
            [SMALL],
            [],
            {"max_total": 99_000, "num_gpus": 1},
            never,
            [],
            "for $4.20/h: the run's total is unknown there, so max-total cannot be kept",
        ),
        ([FIRST, SECOND], [], {"max_total": 3400}, never, [FIRST], "1 offer fits"),
        # in stock, and not usable
        ([PLAIN], [FIRST], {}, never, [], "1 in stock, none fits; 8x B200 at hyperstack/bare-1"),
        ([FIRST], [], {}, resting, [], "1 in stock, none fits; 8x B200 at hyperstack"),
        ([FIRST], [], {}, resting, [], ": it rests"),
        # which of two types is a question that nobody is there to answer
        (
            [VARIANT, OTHER_VARIANT],
            [],
            {},
            never,
            [],
            "several GPU types fit (B200_x, B200_y): none is rented unless gpu= names it",
        ),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else "",
)
def test_a_look_has_the_offers_to_rent_and_a_line_that_says_why_not(
    in_stock: list[Offer],
    listed: list[Offer],
    wanted: dict[str, int],
    against: object,
    offers: list[Offer],
    line: str,
) -> None:
    market = Market(in_stock, [*listed, *in_stock])
    look = judge(market, rule(**wanted), total, against)  # type: ignore[arg-type]
    assert list(look.offers) == offers and line in look.line and "\n" not in look.line


def test_unreadable_entries_are_never_taken_for_no_stock_without_saying_so() -> None:
    assert (
        "(3 entries of the list could not be read)"
        in judge(Market([], [], 3), rule(), total, never).line
    )


def test_the_cheapest_run_comes_first_if_offers_are_ordered_by_total() -> None:
    by_total = replace(rule(), order="total")
    look = judge(Market([FIRST, SECOND], []), by_total, lambda o: 1 if o == SECOND else 2, never)
    assert look.offers == (SECOND, FIRST)


@pytest.mark.parametrize(
    "wanted, text",
    [
        ({}, "8x B200 at any price an hour"),
        ({"max_price": 3000}, "8x B200 for at most $30.00/h"),
        (
            {"max_price": 3000, "max_total": 4000},
            "8x B200 for at most $30.00/h, the run for about $40.00 at most",
        ),
        ({"num_gpus": None, "cloud": "verda"}, "B200 (verda) at any price an hour"),
        ({"gpu": "", "num_gpus": None, "instance_type": "x8"}, "any GPU (x8) at any price an hour"),
    ],
)
def test_the_rule_is_one_sentence(wanted: dict[str, int | str | None], text: str) -> None:
    assert rule(**wanted).text() == text


# ---- the next look
@pytest.mark.parametrize(
    "same, failed, asked, jitter, seconds",
    [
        (0, 0, 0, 0.5, 60),
        (0, 0, 0, 0.0, 54),
        (0, 0, 0, 1.0, 66),
        # stock comes and goes: without failures the delay never grows exponentially
        (SAME_LOOKS - 1, 0, 0, 0.5, 60),
        (SAME_LOOKS, 0, 0, 0.5, 120),
        (2 * SAME_LOOKS, 0, 0, 0.5, 180),
        (700, 0, 0, 0.5, 180),
        # failures double it
        (0, 1, 0, 0.5, 60),
        (700, 1, 0, 0.5, 60),
        (0, 2, 0, 0.5, 120),
        (0, 4, 0, 0.5, 480),
        (0, 5, 0, 0.5, 600),
        (0, 10_000, 0, 0.5, 600),
        # what the service asks for is the least
        (0, 1, 7, 0.5, 60),
        (0, 1, 900, 0.5, 900),
        (0, 9, 3600, 0.0, 3600),
    ],
)
def test_the_delay_until_the_next_look(
    same: int, failed: int, asked: float, jitter: float, seconds: float
) -> None:
    assert delay_s(POLITE, same, failed, asked, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "passed_s, due",
    [(0, False), (59.9, False), (60, True), (8 * 3600, True), (-1, True), (-7200, True)],
)
def test_a_look_is_due_after_the_delay_after_a_sleep_and_when_the_clock_was_set_back(
    passed_s: float, due: bool
) -> None:
    assert is_due(NOW + timedelta(seconds=passed_s), NOW, 60.0) is due


# ---- offers that refused
def test_a_refused_offer_is_left_alone_twice_as_long_each_time_and_for_an_hour_at_most() -> None:
    rests, now, pauses = Rests(POLITE), NOW, list[float]()
    while len(pauses) < 7:
        rests.refused(FIRST, now)
        end = rests.until(FIRST, now)
        assert end and rests.until(SECOND, now) is None and rests.until(FIRST, end) is None
        pauses.append((end - now).total_seconds() / 60)
        now = end
    assert pauses == [5, 10, 20, 40, 60, 60, 60]


def test_a_cheaper_price_does_not_end_the_rest_of_an_offer() -> None:
    rests = Rests(POLITE)
    rests.refused(FIRST, NOW)
    assert rests.until(replace(FIRST, hourly_cents=1), NOW)


def test_a_service_that_failed_gives_every_offer_a_short_rest() -> None:
    rests = Rests(POLITE)
    rests.refused(None, NOW)
    assert rests.until(FIRST, NOW) == rests.until(THIRD, NOW) == NOW + timedelta(seconds=60)
    rests.refused(FIRST, NOW)
    assert rests.until(FIRST, NOW) == NOW + timedelta(seconds=300)


def test_a_look_without_an_answer_has_no_offers() -> None:
    assert Look("no answer", failed=True).offers == ()
