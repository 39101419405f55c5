"""What launch and resume show and ask: the checks, the question, what was agreed to, what was rented."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.marks import say_checks
from nanolan.cli.run import say

if TYPE_CHECKING:
    from nanolan.launch.failover import Launched
    from nanolan.launch.policy import FailoverPolicy
    from nanolan.launch.prepare import Prepared
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.offers import Offer

NOT_AGREED = "not agreed to; nothing was rented"
PLACE = ("cloud=", "region=", "instance-type=", "spot=")
WIDTH = 80


def say_wrapped(start: str, text: str) -> None:
    """A line of progress: at a terminal wrapped behind `start`, elsewhere whole, so that programs find it."""
    if not sys.stderr.isatty():
        say_checks(start + text)
        return
    for line in textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ):
        say_checks(line)


def show_prepared(prepared: Prepared) -> None:
    """The checklist and the bill."""
    show_checks(prepared)
    say_wrapped("Bill: ", f"{prepared.bill()}.")


def show_checks(prepared: Prepared) -> None:
    """The checklist."""
    for check in prepared.checks:
        start, _, text = check.line().partition(f"{check.name}: ")
        say_wrapped(f"{start}{check.name}: ", text)


def refuse_failed(prepared: Prepared) -> None:
    """PreflightFailed if a check failed."""
    from nanolan.errors import PreflightFailed

    if prepared.failed:
        raise PreflightFailed(
            f"{len(prepared.failed)} of {len(prepared.checks)} checks failed (see above); nothing was rented"
        )


def names_one_offer(settings: Settings) -> bool:
    """Whether cloud, region and instance type together are consent. A place that is kept from an earlier launch is none."""
    from nanolan.settings.settings import OF_THE_RUN

    names = ("cloud", "region", "instance_type")
    given = all(getattr(settings, name) for name in names)
    return given and not any(settings.sources.get(name) == OF_THE_RUN for name in names)


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
    from nanolan.launch.policy import FailoverPolicy

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


def show_dry_run(
    prepared: Prepared, s: Settings, words: list[str], as_json: bool, command: str = "just launch"
) -> int:
    """The request that would be sent, without secrets; exit code 4 when a check failed."""
    from nanolan.launch.request import box_secrets, create_body, startup_script

    script = startup_script(prepared.plan, box_secrets(s), "REVISION")
    body = create_body(
        prepared.plan, script, "(the id of your SSH_PUBLIC_KEY)" if s.ssh_public_key else None
    )
    count = len(box_secrets(s))
    body["launch_configuration"]["script_configuration"]["base64_script"] = (
        f"*** ({len(script):,} bytes, {(len(script) + 2) // 3 * 4:,} in base64: boot.sh, rescue.py, the values of the plan, "
        f"{count} secret{'s' * (count != 1)})"
    )
    if as_json:
        click.echo(
            json.dumps(
                summary(prepared) | {"checks": [vars(c) for c in prepared.checks], "request": body},
                indent=2,
            )
        )
    else:
        say(f"The request that `{command}` would send (DRY RUN: nothing was sent or uploaded):")
        click.echo(json.dumps(body, indent=2))
        again = f"{command} {shlex.join(words)}".rstrip()
        if prepared.failed:
            failed = f"{len(prepared.failed)} of {len(prepared.checks)} checks failed"
            say(f"{failed} (see above). Mend that, then: {again} --dry-run")
        else:
            say(f"To rent it: {again}")
    return 4 if prepared.failed else 0


def show_launched(launched: Launched, as_json: bool) -> int:
    """The id, the dashboard and the next commands."""
    from nanolan.shadeform.client import DASHBOARD

    prepared, instance = launched.prepared, launched.instance
    if as_json:
        earlier = [
            {
                "attempt": a.number,
                "instance_id": a.instance_id,
                "note": a.note,
                "spent_usd": None if a.spent_cents is None else f"{a.spent_cents / 100:.2f}",
            }
            for a in launched.earlier
        ]
        click.echo(
            json.dumps(
                summary(prepared)
                | {
                    "instance_id": instance.id,
                    "attempt": prepared.plan.attempt,
                    "earlier_attempts": earlier,
                },
                indent=2,
            )
        )
        return 0
    run_id = prepared.plan.run_id
    click.echo(f"run {run_id} on instance {instance.id}")
    lines = ["The run continues by itself: you may close this laptop."]
    if not prepared.plan.self_delete:
        lines += [
            f"It holds no Shadeform key: without a guard it bills until {prepared.plan.deadline}.",
            "  guard it:    just guard",
        ]
    lines += [
        "  follow it:   just watch",
        f"  stop it:     just stop {run_id}",
        f"  dashboard:   {DASHBOARD}",
    ]
    say("\n".join(lines))
    return 0


def summary(prepared: Prepared) -> dict[str, Any]:
    """The fields of both --json outputs; money in dollars as text, null if unknown."""
    cost = {
        name: f"{getattr(prepared.expected, f'{name}_cents') / 100:.2f}"
        if prepared.expected
        else None
        for name in ("low", "likely", "high")
    }
    return {
        "schema_version": 1,
        "run_id": prepared.plan.run_id,
        "name": prepared.plan.instance_name,
        "phases": list(prepared.plan.phases),
        "offer": vars(prepared.offer),
        "limit_usd": f"{prepared.plan.limit_cents / 100:.2f}",
        "worst_case_usd": f"{prepared.worst_cents / 100:.2f}",
        "expected_usd": cost["likely"],
        "expected_range_usd": [cost["low"], cost["high"]],
        "deadline": prepared.plan.deadline,
        "run_folder": f"{prepared.plan.runs_repo}/{prepared.plan.folder}",
    }
