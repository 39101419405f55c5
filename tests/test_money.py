"""Money: integer cents, invalid amounts refused, unknown never zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.errors import BadAnswer, UsageProblem
from nanolan.money import (
    MOST_DOLLARS,
    about,
    cents_from_dollars,
    cost_cents,
    dollars,
    parse_limit,
    usd,
)


@pytest.mark.parametrize(
    "text, cents",
    [
        ("150", 15_000),
        ("99.50", 9_950),
        ("0.01", 1),
        ("$20", 2_000),
        (" 7.5 ", 750),
        ("007", 700),
        (str(MOST_DOLLARS), MOST_DOLLARS * 100),
    ],
)
def test_a_spend_limit_is_read_to_the_cent(text: str, cents: int) -> None:
    assert parse_limit(text) == cents


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0.00",
        "-1",
        "-0",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "1e9",
        "1e2",
        "10,5",
        "1,000",
        "10.555",
        "1_000",
        "0x10",
        "10001",
        "999999999",
        "9" * 400,
        "１５０",
        "٣",
        "²",
        "150 USD",
        "$",
        "$$5",
        "5$",
        "150\n1",
        "150\x00",
        "$(id)",
        "+5",
        ".5",
        "5.",
    ],
)
def test_an_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="dollars"):
        parse_limit(text)


@pytest.mark.parametrize(
    "text, cents",
    [
        ("103.4", 10_340),
        ("0.0006106021", 1),
        ("0", 0),
        ("36", 3600),
        ("26.76", 2676),
        ("1.001", 101),
        ("$15.00", 1500),
        (12, 1200),
        ("1E+2", 10_000),
    ],
)
def test_the_apis_dollar_strings_become_cents_rounded_up(text: object, cents: int) -> None:
    assert cents_from_dollars(text, "cost_estimate") == cents


@pytest.mark.parametrize("text", ["", "nan", "inf", "-0.01", "free", None, [], {}, "1,5", "0x1"])
def test_an_unreadable_amount_is_named_and_never_zero(text: object) -> None:
    with pytest.raises(BadAnswer, match="cost_estimate"):
        cents_from_dollars(text, "cost_estimate")


@given(st.integers(0, 10**9))
def test_any_amount_shown_reads_back_the_same(cents: int) -> None:
    assert cents_from_dollars(dollars(cents).replace(",", ""), "x") == cents


def test_unknown_is_a_question_mark_and_not_free() -> None:
    assert dollars(None) == "?" and dollars(0) == "$0.00" and dollars(123456) == "$1,234.56"


@given(st.integers(1, 10**6), st.floats(0, 10**6))
def test_a_cost_is_never_rounded_down(rate: int, seconds: float) -> None:
    cents = cost_cents(rate, seconds)
    assert cents >= rate * seconds / 3600 > cents - 1 or cents == 0 == seconds


def test_money_in_json_is_text_and_unknown_is_null() -> None:
    assert (usd(3360), usd(0), usd(1_234_567), usd(None)) == ("33.60", "0.00", "12345.67", None)


@pytest.mark.parametrize(
    "cents, likely, at_most",
    [
        (0, "$0.00", "$0.00"),
        (274, "$2.74", "$2.74"),
        (999, "$9.99", "$9.99"),
        (1001, "$10", "$11"),
        (2210, "$22", "$23"),
        (13_400, "$134", "$134"),
        (150_001, "$1,500", "$1,501"),
    ],
)
def test_an_amount_in_a_question_is_short_and_a_most_is_never_too_low(
    cents: int, likely: str, at_most: str
) -> None:
    assert (about(cents), about(cents, up=True)) == (likely, at_most)
