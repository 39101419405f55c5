"""The two-stage limit. Soft: training stops while there is money and time to save, upload, prove and delete. Hard: the
provider's own limit, a backstop that should never fire. Pure.

    soft = limit - 2 x rate x (checkpoint + upload + delete + poll)        and the same with time in place of money
"""

from __future__ import annotations

from dataclasses import dataclass

from nanolan.money import MOST_DOLLARS, cost_cents

SAFETY = 2  # times the measured margin
ASK_AGAIN_CENTS = 1_000_00  # a limit above this is more often a typo than a wish


@dataclass(frozen=True)
class Margin:
    """Seconds from "stop training" to "the machine is gone"; measured on the machine as soon as there is something to measure."""

    checkpoint_s: float
    upload_s: float
    delete_s: float
    poll_s: float

    @property
    def total_s(self) -> float:
        return self.checkpoint_s + self.upload_s + self.delete_s + self.poll_s

    @property
    def leave_s(self) -> float:
        """What deleting alone takes."""
        return self.delete_s + self.poll_s


# Before anything was measured; "cpu" is a rehearsal, where everything is small and near
ASSUMED = {"cuda": Margin(120, 600, 60, 60), "cpu": Margin(2.0, 1.0, 1.5, 0.5)}
MARGIN_S = ASSUMED["cuda"].total_s


def soft_limit_cents(limit_cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int:
    """The bill at which training stops, so that all that follows fits below the limit; can be negative: then nothing fits."""
    return limit_cents - SAFETY * cost_cents(hourly_cents, margin_s)


def limit_for(cents: int, hourly_cents: int, margin_s: float = MARGIN_S) -> int | None:
    """The least limit in whole dollars whose soft limit is above `cents`; None when nobody may type that much."""
    least = (cents + SAFETY * cost_cents(hourly_cents, margin_s)) // 100 + 1
    return least if least <= MOST_DOLLARS else None


def soft_life_s(life_s: float, margin_s: float = MARGIN_S) -> float:
    """The age at which training stops, for an instance that is deleted at the age `life_s`."""
    return life_s - SAFETY * margin_s


def give_up_cents(limit_cents: int, hourly_cents: int, margin: Margin) -> int:
    """The bill at which even an upload is given up: what is left is for deleting."""
    return limit_cents - cost_cents(hourly_cents, margin.leave_s)


KEYLESS_SPARE_S = 15 * 60  # above the high estimate and what is kept for saving


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
    """The same for a machine that cannot delete itself: just past the high estimate and what saving takes, since an idle
    machine may bill until then. Without an estimate, as for any other."""
    most = life_s(limit_cents, hourly_cents, high_hours, max_duration_s)
    if high_hours is None or max_duration_s is not None:
        return most
    return min(most, int(high_hours * 3600 + SAFETY * MARGIN_S + KEYLESS_SPARE_S))


def worst_case_cents(limit_cents: int, hourly_cents: int, seconds: int) -> int:
    """The most that can be billed when the provider keeps its limits, in cents."""
    return min(limit_cents, cost_cents(hourly_cents, seconds))
