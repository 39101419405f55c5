"""How the checks say what part of a limit is kept for saving. Pure."""

from __future__ import annotations

from nanolan.money import dollars


def money_text(limit_cents: int, kept_cents: int) -> str:
    """A spend limit and the part of it in which nothing is trained."""
    if kept_cents >= limit_cents:
        return f"{dollars(limit_cents)} is less than the {dollars(kept_cents)} kept for saving"
    return f"{dollars(limit_cents)}, {dollars(kept_cents)} of it kept for saving"


def time_text(limit_s: int, kept_s: float) -> str:
    """The same for a duration in seconds."""
    span = f"{limit_s} seconds" if limit_s < 120 else f"{limit_s / 60:.0f} minutes"
    kept = f"{kept_s / 60:.0f}"
    if kept_s >= limit_s:
        return f"{span} is less than the {kept} minutes kept for saving"
    return f"{span}, {kept} of them kept for saving"
