"""`just launch --wait` and `just resume --wait`: what is checked, shown and agreed to, once, before a launch waits for an offer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import click

from nanolan.cli.consent import NOT_AGREED, PLACE, refuse_failed, say_wrapped, show_checks
from nanolan.cli.run import say
from nanolan.errors import NanolanError, UsageProblem, quoted
from nanolan.hub.client import Hub
from nanolan.launch.looks import LOCAL, POLITE, Rule, judge, one_line
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.prepare import OfferEstimate, Prepared, on_offer
from nanolan.launch.request import box_secrets, startup_script
from nanolan.launch.wait import OfferWait
from nanolan.money import dollars
from nanolan.notify import Notifier
from nanolan.run.ledger import Ledger
from nanolan.settings.settings import Settings, is_loopback
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.gpu_types import GPUS, is_known, normalized, unknown_gpu_text
from nanolan.shadeform.offers import (
    Expected,
    Market,
    Offer,
    check_one_type,
    choose,
    fitting,
    unusable,
    wanted_from,
)
from nanolan.times import local_text, now_utc


@dataclass(frozen=True)
class WaitRequest:
    """A launch that waits `seconds` for an offer; `market` is what is listed now, `prepare_on` runs the checks of a launch."""

    settings: Settings
    seconds: int
    all_configs: bool
    sort: str
    market: Market
    expected: Expected
    prepare_on: Callable[[Offer], Prepared]

    def show(self) -> tuple[Rule, Prepared]:
        """Show the checks and the rule. UsageProblem for a rule that no offer can ever fulfil."""
        s, market, expected = self.settings, self.market, self.expected
        rule = Rule(wanted_from(s, self.all_configs), self.sort, s.spend_limit, now_utc(), s.spot)
        check_rule(rule, market, expected, s.gpu)
        prepared = self.example(rule)
        until = now_utc() + timedelta(seconds=self.seconds)  # the checks took their time
        rule = replace(rule, until=until)
        listed = prepared.estimate != OfferEstimate()
        say(f"Checks, with {prepared.offer.where} as the example:" if listed else "Checks:")
        show_checks(prepared)
        say_wrapped(
            "Wait: ",
            f"until {local_text(until)} for {rule.text()}; the first offer that passes these checks is rented without "
            f"asking again, the cheapest first. {_bill(prepared)}",
        )
        say_wrapped(
            "Run: ",
            "code, inputs and data are those of this moment; what is edited or uploaded during the wait does not change it",
        )
        look = judge(market, rule, expected, lambda offer: "")
        say_wrapped("Now: ", one_line(look).line)
        return rule, prepared

    def example(self, rule: Rule) -> Prepared:
        """The run on the best offer that is listed and passes the checks, sold out or not. If none is within the price limits,
        the checks of an offer are left out."""
        s = self.settings
        listed, _ = choose(
            self.market.listed, rule.wanted, order=rule.order, expected=self.expected
        )
        if not listed:
            blank = self.prepare_on(stand_in(rule))
            checks = [c for c in blank.checks if c not in blank.estimate.checks]
            return replace(blank, checks=checks, estimate=OfferEstimate())
        prepared = self.prepare_on(listed[0])
        passing = (
            o
            for o in listed
            if not any(c.ok is False for c in prepared.estimate_on(o, s.spend_limit).checks)
        )
        best = next(passing, listed[0])
        return prepared if best == listed[0] else on_offer(prepared, s, best, s.spend_limit)


def check_rule(rule: Rule, market: Market, expected: Expected, gpu: str) -> None:
    """UsageProblem for an unknown GPU or cloud, several types, or a total that is unknown on every such offer.

    A region or type may be missing from the list while it is sold out, so these are not checked."""
    names = [o.gpu for o in market.listed]
    if not is_known(rule.wanted.gpu, names):
        raise UsageProblem(unknown_gpu_text(rule.wanted.gpu, names))
    clouds = sorted({o.cloud for o in market.listed})
    if rule.wanted.cloud and clouds and rule.wanted.cloud not in clouds:
        raise UsageProblem(
            f"no cloud {quoted(rule.wanted.cloud, 40)} is listed; there are {', '.join(clouds)}"
        )
    usable = [o for o in fitting(market.listed, rule.wanted) if not unusable(o)]
    check_one_type(usable, gpu)
    offers = usable or [stand_in(rule)]
    if rule.wanted.max_total and all(expected(o) is None for o in offers):
        raise UsageProblem(
            f"max-total cannot be kept: there are no figures for a run on {offers[0].gpu}, so its total is unknown; "
            "nothing was rented. Use max-price="
        )


def stand_in(rule: Rule) -> Offer:
    """An offer for the plan of a run for which none is listed; it is never sent."""
    w = rule.wanted
    gpu = next((g for g in GPUS if normalized(g) == normalized(w.gpu)), w.gpu or "any")
    price = w.max_price or rule.limit_cents
    return Offer("none", "none", "none", gpu, w.num_gpus or 1, 0, price, ())


def _bill(prepared: Prepared) -> str:
    """The forecast on the example, and the most that it can cost on any offer."""
    expected = prepared.expected
    likely = f"likely {dollars(expected.likely_cents)} there, " if expected else ""
    text = f"Bill: {likely}at most {dollars(prepared.plan.limit_cents)}, the spend limit."
    if prepared.plan.self_delete:
        return text
    return f"{text} It cannot delete itself: WITHOUT A GUARD IT BILLS until its date. Start one: just guard"


def agree_to_wait(given: bool) -> None:
    """Ask for a yes unless it was given on the command line."""
    if given:
        return
    if not sys.stdin.isatty():
        raise UsageProblem("this is not a terminal, so there is no prompt: pass --yes")
    if not click.confirm("Wait, and rent the first offer that fits?", default=False, err=True):
        raise NanolanError(NOT_AGREED)


def wait_policy(
    rule: Rule,
    prepared: Prepared,
    settings: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    expected: Expected,
    *,
    wait: bool,
    words: Sequence[str],
    command: str,
) -> FailoverPolicy:
    """What a launch that waits may do without asking. PreflightFailed for what would fail only at the create."""
    refuse_failed(prepared)
    startup_script(prepared.plan, box_secrets(settings), "0" * 40)  # also reads the files in cloud/
    return FailoverPolicy(
        settings.failover,
        settings.max_price or 0,  # the price of the offer that is found is added
        prepared.plan.limit_cents,
        wait=wait,
        command=command,
        typed=tuple(w for w in words if not w.startswith(PLACE)),
        offer_wait=OfferWait(
            rule,
            settings,
            api,
            hub,
            ledger,
            expected,
            again=f"{command} {shlex.join(words)}",
            pace=LOCAL if is_loopback(api.base) else POLITE,
            notifier=Notifier(
                settings.notify_url, f"{settings.run_name} {'+'.join(settings.phases)}", say=say
            ),
        ),
    )
