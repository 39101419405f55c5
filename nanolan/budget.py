"""What may be spent before a run must save and stop. Pure."""
from __future__ import annotations

from nanolan.money import MOST_DOLLARS, cost_cents

MARGIN_S = 14 * 60           # one checkpoint, its upload, the deletion, and the pause between two looks at the bill
TWICE = 2                    # each of these may take twice as long
ASK_AGAIN_CENTS = 1_000_00   # a limit above this is more often a typo than a wish


def soft_limit_cents(limit_cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int:
    """The bill at which training stops so that saving ends below the limit; 0 or less: the limit is too low for anything."""
    return limit_cents - TWICE * cost_cents(hourly_cents, margin_s)


def soft_life_s(life_s: float, margin_s: float = MARGIN_S) -> float:
    """The same of the time until the provider deletes the machine."""
    return life_s - TWICE * margin_s


def limit_for(cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int | None:
    """The least limit in whole dollars whose soft limit is above `cents`; None when nobody may type that much."""
    least = (cents + TWICE * cost_cents(hourly_cents, margin_s)) // 100 + 1
    return least if least <= MOST_DOLLARS else None
