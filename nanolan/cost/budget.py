"""The spend limit ("budget") in two stages. Soft: training stops while money and time remain to save, upload, prove and delete.
Hard: the provider's own limit, a backstop that should never be reached. Pure.

    soft = limit - 2 x rate x (checkpoint + upload + delete + poll)        and the same with time in place of money
"""

from __future__ import annotations

from dataclasses import dataclass

from nanolan.money import MOST_DOLLARS, cost_cents

SAFETY = 2  # times the measured margin
ASK_AGAIN_CENTS = 1_000_00  # a limit above this may be a typo, so it must be confirmed


@dataclass(frozen=True)
class Margin:
    """Seconds from the end of training to the deletion; measured on the box once figures exist."""

    checkpoint_s: float
    upload_s: float
    delete_s: float
    poll_s: float

    @property
    def total_s(self) -> float:
        return self.checkpoint_s + self.upload_s + self.delete_s + self.poll_s

    @property
    def leave_s(self) -> float:
        """The time for the deletion alone."""
        return self.delete_s + self.poll_s


# Before anything is measured; "cpu" is a rehearsal, with small files and local services
ASSUMED = {"cuda": Margin(120, 600, 60, 60), "cpu": Margin(2.0, 1.0, 1.5, 0.5)}
MARGIN_S = ASSUMED["cuda"].total_s


def soft_limit_cents(limit_cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int:
    """The bill at which training stops, so that saving and deleting fit below the limit; if negative, nothing fits."""
    return limit_cents - SAFETY * cost_cents(hourly_cents, margin_s)


def limit_for(cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int | None:
    """The least limit in whole dollars whose soft limit is above `cents`; None if that exceeds the largest allowed limit."""
    least = (cents + SAFETY * cost_cents(hourly_cents, margin_s)) // 100 + 1
    return least if least <= MOST_DOLLARS else None


def soft_life_s(life_s: float, margin_s: float = MARGIN_S) -> float:
    """The age at which training stops, for an instance that is deleted at age `life_s`."""
    return life_s - SAFETY * margin_s


def give_up_cents(limit_cents: int, hourly_cents: int, margin: Margin) -> int:
    """The bill at which even uploads are given up; the rest is reserved for the deletion."""
    return limit_cents - cost_cents(hourly_cents, margin.leave_s)


LOSS_CENTS = 500  # training that may be lost with an instance


def upload_minutes(hourly_cents: int) -> float:
    """Minutes between uploads of a state, so that losing the instance costs at most $5 of training; at least one minute."""
    return max(1.0, round(60 * LOSS_CENTS / max(hourly_cents, 1), 1))


KEYLESS_SPARE_S = 15 * 60  # on top of the high estimate and the time for saving


def life_s(
    limit_cents: int, hourly_cents: int, high_hours: float | None, max_duration_s: int | None
) -> int:
    """Seconds until the provider deletes the instance: min(limit/rate, 3 x the high estimate + 1 h), or --max-duration."""
    until_limit = limit_cents * 3600 // max(hourly_cents, 1)
    if max_duration_s is not None:
        return min(until_limit, max_duration_s)
    return (
        until_limit if high_hours is None else min(until_limit, int(3 * high_hours * 3600) + 3600)
    )


def keyless_life_s(
    limit_cents: int, hourly_cents: int, high_hours: float | None, max_duration_s: int | None
) -> int:
    """The same for an instance that cannot delete itself and may bill while idle: at most the high estimate, the time for saving
    and a spare. Without an estimate, the same as `life_s`."""
    most = life_s(limit_cents, hourly_cents, high_hours, max_duration_s)
    if high_hours is None or max_duration_s is not None:
        return most
    return min(most, int(high_hours * 3600 + SAFETY * MARGIN_S + KEYLESS_SPARE_S))


def worst_case_cents(limit_cents: int, hourly_cents: int, seconds: int) -> int:
    """The largest possible bill in cents if the provider enforces its limits."""
    return min(limit_cents, cost_cents(hourly_cents, seconds))
