"""Money: integer cents in the program, dollars with two decimals in text. Unknown is None, never 0."""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation

from nanolan.errors import BadAnswer, UsageProblem, quoted

MOST_DOLLARS = 10_000


def parse_limit(text: str) -> int:
    """Cents of a spend limit in dollars ("150", "99.50"); UsageProblem says what is wrong with it."""
    if not re.fullmatch(r"\$?[0-9]{1,9}(\.[0-9]{1,2})?", text.strip()):
        raise UsageProblem(f"{quoted(text, 40)} is not an amount in dollars, such as 150 or 99.50")
    cents = int(Decimal(text.strip().lstrip("$")) * 100)
    if not 0 < cents <= MOST_DOLLARS * 100:
        raise UsageProblem(
            f"{quoted(text, 40)}: give more than 0 and at most {MOST_DOLLARS} dollars"
        )
    return cents


def cents_from_dollars(text: object, where: str) -> int:
    """Cents of an API's decimal dollar string ("0.0006", "$15.00"), rounded up; BadAnswer names `where`."""
    try:
        value = Decimal(str(text).strip().lstrip("$"))
        if not value.is_finite() or value < 0:
            raise InvalidOperation
        return int((value * 100).to_integral_value(ROUND_CEILING))
    except (InvalidOperation, ValueError):
        raise BadAnswer(f"{where}: {str(text)[:40]!r} is not an amount in dollars") from None


def dollars(cents: int | None) -> str:
    """ "$33.60", or "?" when unknown."""
    return "?" if cents is None else f"${cents / 100:,.2f}"


def about(cents: int, *, up: bool = False) -> str:
    """An amount for a question: cents below $10, whole dollars above; `up` never rounds down."""
    if cents < 10_00:
        return dollars(cents)
    return f"${math.ceil(cents / 100) if up else round(cents / 100):,}"


def usd(cents: int | None) -> str | None:
    """ "33.60" for JSON, or None when unknown."""
    return None if cents is None else f"{cents / 100:.2f}"


def cost_cents(hourly_cents: int, seconds: float) -> int:
    """The cost of `seconds` at `hourly_cents`, rounded up."""
    return math.ceil(hourly_cents * seconds / 3600)
