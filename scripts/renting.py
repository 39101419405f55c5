"""What launch and resume share once the run is known: pick an offer or wait for one, checks, consent, rent, follow."""

from __future__ import annotations

import outside_venv  # noqa: F401

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
from follow import follow_log, follow_spot
from market import find_offers, market_now, offers_to_show, pick_offer

from nanolan.cli.consent import (
    check_one_answer,
    consent,
    failover_policy,
    names_one_offer,
    refuse_failed,
    show_dry_run,
    show_launched,
    show_prepared,
)
from nanolan.cli.run import Account, say

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.launch.policy import FailoverPolicy
    from nanolan.launch.prepare import Prepared
    from nanolan.run.ledger import Attempt, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.offers import Expected, Offer

wait_option = click.option(
    "--wait",
    "wait_text",
    metavar="TIME",
    help="wait this long for an offer that fits (12h), then rent it; max-price= and max-total= say how dear it may be",
)


@dataclass(frozen=True)
class Asked:
    """The run that was asked for: settings, clients, and its cost on an offer; `prepare_on` runs the checks on one.

    `before` are the run's attempts so far, `command` is what launches it again."""

    settings: Settings
    ledger: Ledger
    api: Shadeform | None
    hub: Hub | None
    expected: Expected
    prepare_on: Callable[[Offer], Prepared]
    words: list[str]
    all_configs: bool
    sort: str
    command: str = "just launch"
    before: tuple[Attempt, ...] = ()
    stop_mark: int | None = None  # of an earlier `just stop`, which the user's yes revokes
    stops_seen: str | None = None  # the same of a request on the Hub


@dataclass(frozen=True)
class Options:
    """How to launch; `wait`: until it trains."""

    dry_run: bool
    yes: bool
    wait: bool
    as_json: bool


def launch_now(asked: Asked, options: Options) -> int:
    """Rent one of the offers that are in stock."""
    s, api, hub = asked.settings, asked.api, asked.hub
    agreed = options.yes or names_one_offer(s)
    find = (s, api, asked.all_configs, asked.sort, asked.expected)
    offers, failed_check = offers_to_show(*find) if options.dry_run else (find_offers(*find), None)
    check_one_answer(agreed, options.dry_run, offers, s.gpu)
    picked = options.dry_run or agreed
    offer = offers[0] if picked else pick_offer(offers, s, asked.sort, asked.expected)
    if offer is None:
        return 0
    say(f"Offer: {offer.where}, {offer.instance_type}, ${offer.hourly_cents / 100:.2f}/h\nChecks:")
    prepared = asked.prepare_on(offer)
    prepared.checks[:0] = [failed_check] if failed_check else []
    show_prepared(prepared)
    if options.dry_run:
        return show_dry_run(prepared, s, asked.words, options.as_json, asked.command)
    refuse_failed(prepared)
    consent(agreed, prepared)
    asked.ledger.allow(prepared.plan.run_id, asked.stop_mark)
    assert api and hub  # noqa: S101  # `need` has checked it
    policy = failover_policy(
        prepared, s, options.yes, agreed, options.wait, asked.words, asked.command
    )
    policy = replace(policy, stops_seen=asked.stops_seen)
    account = Account(asked.ledger, s, api)
    return rent_and_follow(prepared, offers, account, hub, policy, options.as_json, asked.before)


def launch_when_offered(asked: Asked, options: Options, seconds: int, words: list[str]) -> int:
    """Agree to a rule, wait for an offer that fulfils it, and rent that."""
    import logs  # noqa: F401  # now: the checkout may be another one when the wait is over

    from nanolan.cli.waiting import WaitRequest, agree_to_wait, wait_policy

    s, api, hub = asked.settings, asked.api, asked.hub
    market, failed_check = market_now(api, s.spot, options.dry_run)
    how = (asked.all_configs, asked.sort)
    request = WaitRequest(s, seconds, *how, market, asked.expected, asked.prepare_on)
    rule, prepared = request.show()
    prepared.checks[:0] = [failed_check] if failed_check else []
    if options.dry_run:
        say("The offer in the request is an example; the real one is known when it is rented.")
        return show_dry_run(prepared, s, words, options.as_json, asked.command)
    refuse_failed(prepared)
    agree_to_wait(options.yes or names_one_offer(s))
    asked.ledger.allow(prepared.plan.run_id, asked.stop_mark)
    assert api and hub  # noqa: S101  # `need` has checked it
    policy = wait_policy(
        rule,
        prepared,
        s,
        api,
        hub,
        asked.ledger,
        asked.expected,
        wait=options.wait,
        words=words,
        command=asked.command,
    )
    policy = replace(policy, stops_seen=asked.stops_seen)
    account = Account(asked.ledger, s, api)
    return rent_and_follow(prepared, [], account, hub, policy, options.as_json, asked.before)


def wait_seconds(text: str | None) -> int:
    """The time of --wait; UsageProblem if it is none."""
    from nanolan.errors import UsageProblem
    from nanolan.settings.settings import duration

    try:
        return duration(text) if text is not None else 0
    except UsageProblem as e:
        raise UsageProblem(f"wait: {e}") from None


def rent_and_follow(
    prepared: Prepared,
    offers: list[Offer],
    account: Account,
    hub: Hub,
    policy: FailoverPolicy,
    as_json: bool,
    before: tuple[Attempt, ...] = (),
) -> int:
    """Rent, and at a terminal show one live line until it trains, then its log. A spot run is followed to its end."""
    from nanolan.cli.live_line import live_line
    from nanolan.launch.failover import rent_with_failover
    from nanolan.launch.policy import spent_cents

    line = None if as_json else live_line()
    try:
        launched = rent_with_failover(
            prepared,
            offers,
            account.settings,
            account.api,
            hub,
            account.ledger,
            line.say if line else say,
            replace(policy, now=line.now) if line else policy,
            before=before,
        )
    finally:
        if line:
            line.clear()
    code = show_launched(launched, as_json)
    follows = line is not None and policy.wait and sys.stdout.isatty()
    run_id, offer = launched.prepared.plan.run_id, launched.prepared.offer
    if policy.wait and offer.spot:
        from nanolan.manage.run_budget import Agreed  # here: a launch needs no wing

        price = max(policy.hourly_cents, offer.hourly_cents)
        agreed = Agreed(price, policy.bill_cents + spent_cents(before))
        return follow_spot(account, hub, run_id, agreed, follows)
    return follow_log(account, run_id) if follows else code
