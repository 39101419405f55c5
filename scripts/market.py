"""The offers as the commands show them: clients, list, and the question which one to rent."""

from __future__ import annotations

import outside_venv  # noqa: F401

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.run import say

if TYPE_CHECKING:
    from nanolan.checklist import Check
    from nanolan.cost.gpu_check import GpuCheck
    from nanolan.launch.make_plan import Rehearsal
    from nanolan.launch.preflight import Findings
    from nanolan.run.ledger import Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.offers import Expected, Market, Offer


SAMPLES = "SAMPLE offers, not today's market. Get a key: https://platform.shadeform.ai/settings/api"


def clients(s: Settings) -> tuple[Shadeform | None, Any]:
    """The Shadeform and Hub clients; None for the one whose key is not set (dry runs only)."""
    from nanolan.hub.client import Hub
    from nanolan.shadeform.client import Shadeform

    api = Shadeform(s.shadeform_api_key, s.shadeform_api) if s.shadeform_api_key else None
    return api, Hub(s.hf_endpoint, s.hf_token) if s.hf_token and s.hf_repo else None


def offers_to_show(
    s: Settings, api: Shadeform | None, all_configs: bool, sort: str, expected: Expected
) -> tuple[list[Offer], Check | None]:
    """The offers of a dry run, which never fails early: when Shadeform cannot be read, samples and the failed check."""
    from nanolan.checklist import Check
    from nanolan.errors import ApiProblem, AuthProblem

    try:
        return find_offers(s, api, all_configs, sort, expected), None
    except (ApiProblem, AuthProblem) as e:
        why = "Shadeform's offers are unavailable"
        samples = find_offers(s, None, all_configs, sort, expected, why)
        return samples, Check("offers", False, str(e))


def market_now(api: Shadeform | None, spot: str, dry_run: bool) -> tuple[Market, Check | None]:
    """What is listed now, in stock or not. In a dry run, which never fails early, samples and perhaps a failed check instead."""
    from nanolan.checklist import Check
    from nanolan.errors import ApiProblem, AuthProblem
    from nanolan.shadeform.client import TRIES
    from nanolan.shadeform.offers import Market

    try:
        if api:
            return api.market(spot, TRIES), None
        failed = None
        say(f"SHADEFORM_API_KEY is not set: {SAMPLES}")
    except (ApiProblem, AuthProblem) as e:
        if not dry_run:
            raise
        failed = Check("offers", False, str(e))
        say(f"Shadeform's offers are unavailable: {SAMPLES}")
    return Market(sample_offers(spot), sample_offers(spot)), failed


def find_offers(
    s: Settings,
    api: Shadeform | None,
    all_configs: bool,
    sort: str,
    expected: Expected,
    why_samples: str = "SHADEFORM_API_KEY is not set",
) -> list[Offer]:
    """The offers that fit, cheapest first; without a key built-in samples, labelled as such."""
    from nanolan.shadeform.offers import choose, no_offer_error, wanted_from

    wanted = wanted_from(s, all_configs)
    if api:
        listed, unreadable = api.offers(s.spot)
    else:
        say(f"{why_samples}: {SAMPLES}")
        listed, unreadable = sample_offers(s.spot), 0
    offers, dropped = choose(listed, wanted, order=sort, expected=expected)
    for why, count in dropped.items():
        say(f"{count} offer{'s' * (count > 1)} dropped: {why}")
    if unreadable:
        entries = "1 entry" if unreadable == 1 else f"{unreadable} entries"
        say(f"not readable, so left out: {entries} of Shadeform's list")
    if not offers:
        raise no_offer_error(wanted, listed, dropped, expected)
    return offers


def expected_on(
    s: Settings, ledger: Ledger, found: Findings | None = None, rehearsal: Rehearsal | None = None
) -> Expected:
    """Estimates the run's cost on an offer, in cents: the same figure that the checks show for the chosen one."""
    from nanolan.launch.prepare import forecast_of

    forecast = forecast_of(s, found, ledger.entries(), rehearsal, checks_of(ledger))
    return lambda offer: cost.likely_cents if (cost := forecast(offer)) else None


def checks_of(ledger: Ledger) -> list[GpuCheck]:
    """What `just gpu-check` measured on GPUs, if its files were put beside the ledger."""
    from nanolan.cost.gpu_check import read_checks

    return read_checks(ledger.home)


def heading(s: Settings, sort: str) -> str:
    """The title of the table."""
    gpu = "" if s.gpu.lower() == "any" else f"{s.gpu} "
    return f"Available {gpu}instances (sorted by {sort})"


def sample_offers(spot: str) -> list[Offer]:
    """Offers of the local Shadeform's catalogue."""
    from nanolan.shadeform.models import offers_of
    from nanolan.sim.shadeform.sample_offers import SAMPLE

    return [o for entry in SAMPLE for o in offers_of(entry, spot)]


def spot_note(offers: list[Offer]) -> list[str]:
    """What the expected total of a spot offer assumes, below a table that has some."""
    from nanolan.cost.spot import NOTE

    return textwrap.wrap(NOTE, 80) if any(o.spot for o in offers) else []


def pick_offer(offers: list[Offer], s: Settings, sort: str, expected: Expected) -> Offer | None:
    """The offer that the user picks from the table; None for none of them."""
    from nanolan.errors import UsageProblem
    from nanolan.shadeform.offer_table import table

    if not sys.stdin.isatty():
        raise UsageProblem(
            "this is not a terminal, so there is no prompt: pass --yes (the cheapest offer), or "
            "cloud=, region= and instance-type="
        )
    say(f"\n=== {heading(s, sort)} ===\n")
    say("\n".join([*table(offers, expected), *spot_note(offers)]) + "\n")
    question = f"Select instance [1-{len(offers)}] or 'q' to quit"
    while True:
        answer = click.prompt(question, err=True).strip().lower()
        if answer in ("q", "quit", "exit"):
            say("Nothing was rented.")
            return None
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(offers):
            return offers[int(answer) - 1]
