"""What a look at the market means to a launch that waits: what may be rented, the line to show, when to look again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nanolan.money import dollars
from nanolan.net.backoff import backoff_s
from nanolan.redact import printable, short
from nanolan.shadeform.offers import (
    Expected,
    Market,
    Offer,
    Wanted,
    above_price_limit,
    choose,
    fitting,
    unusable,
)

JITTER = 0.1  # share by which a delay may be shorter or longer
SPOT_TEXTS = {
    "no": "",
    "yes": ", on demand or spot (which may be taken away at any time)",
    "only": ", spot only (which may be taken away at any time)",
}
MOST_CHARS = 400  # of a line
SAME_LOOKS = 30  # looks in a row that show the same, before the next ones are further apart


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks, and for which a refused offer is left alone; each first and at most."""

    look_s: float = 60.0
    longest_look_s: float = 180.0
    longest_failed_s: float = 600.0
    rest_s: float = 300.0
    longest_rest_s: float = 3600.0


POLITE = Pace()
LOCAL = Pace(1.0, 3.0, 4.0, 2.0, 8.0)  # of a local Shadeform: nobody is disturbed


@dataclass(frozen=True)
class Rule:
    """What was agreed to: which offers, in which order, with which spend limit, until when."""

    wanted: Wanted
    order: str
    limit_cents: int
    until: datetime
    spot: str = "no"  # the setting

    def text(self) -> str:
        """The offers that may be rented."""
        w = self.wanted
        gpus = f"{w.num_gpus}x " if w.num_gpus else ""
        place = [p for p in (w.cloud, w.region, w.instance_type) if p]
        return "".join(
            (
                f"{gpus}{w.gpu or 'any GPU'}",
                f" ({', '.join(place)})" if place else "",
                f" for at most {dollars(w.max_price)}/h"
                if w.max_price
                else " at any price an hour",
                f", the run for about {dollars(w.max_total)} at most" if w.max_total else "",
                SPOT_TEXTS[self.spot],
            )
        )


@dataclass(frozen=True)
class Look:
    """The result of a look: a line, and the offers that may be rented now, best first."""

    line: str
    offers: tuple[Offer, ...] = ()
    failed: bool = False  # there was no answer, so nothing is known
    retry_after_s: float = 0.0  # as the service asked


def one_line(look: Look) -> Look:
    """The look with its text on one line, without control characters: names come from the service."""
    return replace(look, line=printable(short(look.line, MOST_CHARS)))


def judge(market: Market, rule: Rule, expected: Expected, against: Callable[[Offer], str]) -> Look:
    """Choose as a launch that does not wait; `against` says why an offer that fits is not rented all the same, or ""."""
    usable, _ = choose(market.in_stock, rule.wanted, order=rule.order, expected=expected)
    good = [o for o in usable if not against(o)]
    if len(types := sorted({o.gpu for o in good})) > 1:
        return Look(
            f"several GPU types fit ({', '.join(types)}): none is rented unless gpu= names it"
        )
    if good:
        many = f"{len(good)} offers fit, first" if len(good) > 1 else "1 offer fits:"
        return Look(f"{many} {described(good[0], expected)}", tuple(good))

    def why_not(offer: Offer) -> str:
        return unusable(offer) or above_price_limit(offer, rule.wanted, expected) or against(offer)

    if in_stock := _relevant(market.in_stock, rule.wanted):
        first = in_stock[0]
        return Look(
            f"{len(in_stock)} in stock, none fits; {described(first, expected)}: {why_not(first)}"
        )
    unread = f" ({market.unreadable} entries of the list could not be read)"
    return Look(_sold_out(market, rule, expected) + unread * bool(market.unreadable))


def _sold_out(market: Market, rule: Rule, expected: Expected) -> str:
    """The line when nothing that is wanted is in stock: the cheapest that is listed, and whether its price would do."""
    listed = _relevant(market.listed, rule.wanted)
    if not listed:
        return "no stock: nothing like it is listed at the moment"
    why = unusable(listed[0]) or above_price_limit(listed[0], rule.wanted, expected)
    return f"no stock: {len(listed)} listed, all sold out; {described(listed[0], expected)}" + (
        f": {why}" if why else ""
    )


def _relevant(offers: Sequence[Offer], wanted: Wanted) -> list[Offer]:
    """The wanted offers, the cheapest first; those that could not run a training only if there are no others."""
    fit = fitting(offers, wanted)
    found = [o for o in fit if not unusable(o)] or fit
    return sorted(found, key=lambda o: (o.hourly_cents, o.cloud, o.region))


def described(offer: Offer, expected: Expected) -> str:
    """An offer with its price per hour and the expected cost of the run there."""
    total = expected(offer)
    run = "" if total is None else f", the run about {dollars(total)}"
    return f"{offer.where} for {dollars(offer.hourly_cents)}/h{run}"


def delay_s(pace: Pace, same: int, failed: int, retry_after_s: float, jitter: float) -> float:
    """Seconds until the next look, after `same` looks in a row that showed the same, or `failed` ones; `jitter` is 0 to 1.

    Stock comes and goes within minutes, so the delay grows little while the answers are good; it doubles with each failure.
    """
    seconds = min(pace.look_s * (1 + same // SAME_LOOKS), pace.longest_look_s)
    if failed:
        seconds = backoff_s(failed, pace.look_s, pace.longest_failed_s)
    return max(seconds * (1 - JITTER + 2 * JITTER * jitter), retry_after_s)


def is_due(now: datetime, since: datetime, delay: float) -> bool:
    """Whether to look again, `delay` seconds after `since`; also when the clock was set back."""
    return not since <= now < since + timedelta(seconds=delay)


class Rests:
    """Offers that refused a create, and until when they are left alone: a list may show stock for hours that is not there."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._refused: dict[tuple[str, ...], tuple[int, datetime]] = {}

    def refused(self, offer: Offer | None, now: datetime) -> None:
        """Leave this offer alone, each time for twice as long; None: every offer, since a service failed, for less long."""
        p = self._pace
        first, most = (p.rest_s, p.longest_rest_s) if offer else (p.look_s, p.longest_failed_s)
        times = self._refused.get(_key(offer), (0, now))[0] + 1
        end = now + timedelta(seconds=backoff_s(times, first, most))
        self._refused[_key(offer)] = (times, end)

    def until(self, offer: Offer, now: datetime) -> datetime | None:
        """When the offer may be tried again; None: now."""
        ends = [self._refused[key][1] for key in (_key(offer), ()) if key in self._refused]
        return max((end for end in ends if now < end), default=None)


def _key(offer: Offer | None) -> tuple[str, ...]:
    return (offer.cloud, offer.region, offer.instance_type, str(offer.spot)) if offer else ()
