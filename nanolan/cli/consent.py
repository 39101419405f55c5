"""What launch and resume share between the offers and the rent: the checks on the screen, the question, what was agreed to."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nanolan.cli.run import say

if TYPE_CHECKING:
    from nanolan.launch.failover import FailoverPolicy
    from nanolan.launch.prepare import Prepared
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.offers import Offer

NOT_AGREED = "not agreed to; nothing was rented"
PLACE = ("cloud=", "region=", "instance-type=", "spot=")
WIDTH = 80


def say_wrapped(start: str, text: str) -> None:
    """A line of progress: at a terminal wrapped behind `start`, elsewhere whole, so that programs find it."""
    if not sys.stderr.isatty():
        say(start + text)
        return
    for line in textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ):
        say(line)


def show_prepared(prepared: Prepared) -> None:
    """The checklist and the bill."""
    for check in prepared.checks:
        start, _, text = check.line().partition(f"{check.name}: ")
        say_wrapped(f"{start}{check.name}: ", text)
    say_wrapped("Bill: ", f"{prepared.bill()}.")


def refuse_failed(prepared: Prepared) -> None:
    """PreflightFailed if a check failed."""
    from nanolan.errors import PreflightFailed

    if prepared.failed:
        raise PreflightFailed(
            f"{len(prepared.failed)} of {len(prepared.checks)} checks failed (see above); nothing was rented"
        )


def check_one_answer(agreed: bool, dry_run: bool, offers: Sequence[Offer], gpu: str) -> None:
    """UsageProblem if nobody will be asked which of several GPU types to rent."""
    from nanolan.shadeform.offers import check_one_type

    if agreed and not dry_run:
        check_one_type(offers, gpu)


def consent(given: bool, prepared: Prepared) -> None:
    """Ask for a yes unless it was given on the command line."""
    from nanolan.errors import NanolanError, UsageProblem

    if given:
        return
    if not sys.stdin.isatty():
        raise UsageProblem("this is not a terminal, so there is no prompt: pass --yes")
    if not click.confirm(question(prepared), default=False, err=True):
        raise NanolanError(NOT_AGREED)


def question(prepared: Prepared) -> str:
    """What would be bought, for which run, and what it should and may cost."""
    plan, offer = prepared.plan, prepared.offer
    return (
        f"Rent {offer.num_gpus}x {offer.gpu} ({_place(offer)}) for {'+'.join(plan.phases)} of "
        f"{plan.hf_repo} {plan.model_tag}: {_costs(prepared)}?"
    )


def ask_dearer(prepared: Prepared) -> bool:
    """Ask whether an offer above the agreed price may be rented instead."""
    offer = prepared.offer
    return click.confirm(
        f"Rent {offer.num_gpus}x {offer.gpu} ({_place(offer)}) instead, "
        f"${offer.hourly_cents / 100:.2f}/h: {_costs(prepared)}?",
        default=False,
        err=True,
    )


def _place(offer: Offer) -> str:
    """The provider, and that it may take the instance away."""
    return f"{offer.cloud}, spot: it may be taken away at any time" if offer.spot else offer.cloud


def _costs(prepared: Prepared) -> str:
    from nanolan.money import about

    expected = prepared.expected
    likely = f"likely {about(expected.likely_cents)}" if expected else "no forecast"
    return f"{likely}, at most {about(prepared.worst_cents, up=True)}"


def failover_policy(
    prepared: Prepared,
    s: Settings,
    yes: bool,
    agreed: bool,
    wait: bool,
    words: list[str],
    command: str = "just launch",
) -> FailoverPolicy:
    """What a launch may do without asking when its offer fails."""
    from nanolan.launch.failover import FailoverPolicy

    agreed_price = prepared.offer.hourly_cents
    price = max(agreed_price, s.max_price or 0) if yes else agreed_price
    # The question named the worst case
    bill = prepared.plan.limit_cents if agreed else prepared.worst_cents
    ask = ask_dearer if sys.stdin.isatty() and not yes else None
    return FailoverPolicy(
        s.failover,
        price,
        bill,
        ask,
        wait,
        command,
        typed=tuple(w for w in words if not w.startswith(PLACE)),
    )
