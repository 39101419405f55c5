"""Rent an instance that trains, uploads, proves and deletes itself.

just launch phase=sft                         asks which offer, then whether to rent
just launch phase=mid+sft gpu=H100 -y         takes the cheapest, asks nothing
just dry-run phase=sft                        shows what would happen and cost
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from follow import follow_log, follow_spot
from market import (
    checks_of,
    clients,
    expected_on,
    find_offers,
    market_now,
    offers_to_show,
    pick_offer,
)

from nanolan.cli.command import KeyValueCommand, profile_option, run, setting_options, settings_from
from nanolan.cli.consent import (
    check_one_answer,
    consent,
    failover_policy,
    refuse_failed,
    show_dry_run,
    show_launched,
    show_prepared,
)
from nanolan.cli.run import Account, open_ledger, say
from nanolan.cli.trainer import rehearsal_of, trainer_of
from nanolan.cli.words import typed

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.launch.policy import FailoverPolicy
    from nanolan.launch.prepare import Prepared
    from nanolan.run.ledger import Attempt, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.offers import Expected, Offer


@click.command(
    cls=KeyValueCommand,
    epilog="Words work too: phase=sft gpu=H100:8 spend-limit=100. A trailing `just watch` follows the run.",
)
@setting_options()
@profile_option
@click.option(
    "--dry-run", is_flag=True, help="show what would happen and cost; rents nothing, asks nothing"
)
@click.option("-y", "--yes", is_flag=True, help="rent without asking: the cheapest offer that fits")
@click.option("--all-configs", is_flag=True, help="offers with any number of GPUs (1x, 2x, 4x, 8x)")
@click.option(
    "--sort",
    type=click.Choice(["price", "hour", "total"]),
    default="price",
    help="order of the offers: by price per hour, or by the run's total",
)
@click.option(
    "--yes-really",
    is_flag=True,
    help="accept limits that the forecast advises against, and spend limits above $1,000",
)
@click.option("--keep-old", is_flag=True, help="keep older steps in the output folder on the Hub")
@click.option(
    "--no-wait",
    is_flag=True,
    help="return once it is rented, without waiting for probation; "
    "a bad instance is then not replaced by the next offer",
)
@click.option(
    "--wait",
    "wait_text",
    metavar="TIME",
    help="wait this long for an offer that fits (12h), then rent it; max-price= and max-total= say how dear it may be",
)
@click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")
def launch(
    dry_run: bool,
    yes: bool,
    all_configs: bool,
    sort: str,
    yes_really: bool,
    keep_old: bool,
    no_wait: bool,
    wait_text: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Launch a training run: offer, checks, worst-case bill, consent, rent, and wait until training has begun."""
    from nanolan.launch.preflight import check_hub
    from nanolan.launch.prepare import prepare

    s = settings_from(flags)
    seconds = wait_seconds(wait_text)
    if not dry_run:
        s.need("shadeform_api_key", "hf_token", "hf_repo")
    rehearsal = rehearsal_of(s)
    s, chosen = trainer_of(s, rehearsal)
    api, hub = clients(s)
    ledger = open_ledger()
    found = check_hub(hub, s) if hub else None  # with the model's size, which the table needs
    expected = expected_on(s, ledger, found, rehearsal)

    def prepare_on(offer: Offer) -> Prepared:
        return prepare(
            s,
            offer,
            ledger.owner if not dry_run else "0" * 8,
            hub,
            api.instances if api else None,
            rehearsal=rehearsal,
            keep_old=keep_old,
            earlier=ledger.entries(),
            gpu_checks=checks_of(ledger),
            yes_really=yes_really,
            chosen=chosen,
            found=found,
        )

    words = typed(flags, all_configs, sort, keep_old, yes_really)
    asked = Asked(s, ledger, api, hub, expected, prepare_on, words, all_configs, sort)
    options = Options(dry_run, yes, not no_wait, as_json)
    if wait_text:
        return launch_when_offered(asked, options, seconds, [*words, f"wait={wait_text}"])
    return launch_now(asked, options)


@dataclass(frozen=True)
class Asked:
    """The run that was asked for: settings, clients, and its cost on an offer; `prepare_on` runs the checks on one."""

    settings: Settings
    ledger: Ledger
    api: Shadeform | None
    hub: Hub | None
    expected: Expected
    prepare_on: Callable[[Offer], Prepared]
    words: list[str]
    all_configs: bool
    sort: str


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
    agreed = options.yes or all((s.cloud, s.region, s.instance_type))
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
        return show_dry_run(prepared, s, asked.words, options.as_json)
    refuse_failed(prepared)
    consent(agreed, prepared)
    assert api and hub  # noqa: S101  # `need` has checked it
    policy = failover_policy(prepared, s, options.yes, agreed, options.wait, asked.words)
    account = Account(asked.ledger, s, api)
    return rent_and_follow(prepared, offers, account, hub, policy, options.as_json)


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
        return show_dry_run(prepared, s, words, options.as_json)
    refuse_failed(prepared)
    agree_to_wait(options.yes or all((s.cloud, s.region, s.instance_type)))
    assert api and hub  # noqa: S101  # `need` has checked it
    policy = wait_policy(
        rule, prepared, s, api, hub, asked.ledger, asked.expected, wait=options.wait, words=words
    )
    account = Account(asked.ledger, s, api)
    return rent_and_follow(prepared, [], account, hub, policy, options.as_json)


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
    from dataclasses import replace

    from nanolan.cli.live_line import live_line
    from nanolan.launch.failover import rent_with_failover
    from nanolan.launch.policy import spent_cents
    from nanolan.manage.takeover import Agreed

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
        price = max(policy.hourly_cents, offer.hourly_cents)
        agreed = Agreed(price, policy.bill_cents + spent_cents(before))
        return follow_spot(account, hub, run_id, agreed, follows)
    return follow_log(account, run_id) if follows else code


if __name__ == "__main__":
    run(launch, insist=True)
