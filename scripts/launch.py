"""Rent an instance that trains, uploads, proves and deletes itself.

just launch phase=sft                         asks which offer, then whether to rent
just launch phase=mid+sft gpu=H100 -y         takes the cheapest, asks nothing
just dry-run phase=sft                        shows what would happen and cost
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from market import checks_of, clients, expected_on, find_offers, offers_to_show, pick_offer

from nanolan.cli.command import KeyValueCommand, profile_option, run, setting_options, settings_from
from nanolan.cli.consent import (
    check_one_answer,
    consent,
    failover_policy,
    refuse_failed,
    show_prepared,
)
from nanolan.cli.run import Account, open_ledger, say

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.launch.failover import FailoverPolicy, Launched
    from nanolan.launch.make_plan import Rehearsal
    from nanolan.launch.prepare import Prepared
    from nanolan.run.ledger import Attempt
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.offers import Offer
    from nanolan.trainers.choose import Chosen


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
@click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")
def launch(
    dry_run: bool,
    yes: bool,
    all_configs: bool,
    sort: str,
    yes_really: bool,
    keep_old: bool,
    no_wait: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Launch a training run: offer, checks, worst-case bill, consent, rent, and wait until training has begun."""
    from nanolan.launch.preflight import check_hub
    from nanolan.launch.prepare import prepare

    s = settings_from(flags)
    if not dry_run:
        s.need("shadeform_api_key", "hf_token", "hf_repo")
    rehearsal = rehearsal_of(s)
    s, chosen = trainer_of(s, rehearsal)
    api, hub = clients(s)
    ledger = open_ledger()
    agreed = yes or all((s.cloud, s.region, s.instance_type))
    found = check_hub(hub, s) if hub else None  # with the model's size, which the table needs
    expected = expected_on(s, ledger, found, rehearsal)
    offers, failed_check = (
        offers_to_show(s, api, all_configs, sort, expected)
        if dry_run
        else (find_offers(s, api, all_configs, sort, expected), None)
    )
    check_one_answer(agreed, dry_run, offers, s.gpu)
    offer = offers[0] if dry_run or agreed else pick_offer(offers, s, sort, expected)
    if offer is None:
        return 0
    say(f"Offer: {offer.where}, {offer.instance_type}, ${offer.hourly_cents / 100:.2f}/h\nChecks:")
    prepared = prepare(
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
    prepared.checks[:0] = [failed_check] if failed_check else []
    words = typed(flags, all_configs, sort, keep_old, yes_really)
    show_prepared(prepared)
    if dry_run:
        return show_dry_run(prepared, s, words, as_json)
    refuse_failed(prepared)
    consent(agreed, prepared)
    assert api and hub  # noqa: S101  # `need` has checked it
    policy = failover_policy(prepared, s, yes, agreed, not no_wait, words)
    return rent_and_follow(prepared, offers, Account(ledger, s, api), hub, policy, as_json)


def rent_and_follow(
    prepared: Prepared,
    offers: list[Offer],
    account: Account,
    hub: Hub,
    policy: FailoverPolicy,
    as_json: bool,
    before: tuple[Attempt, ...] = (),
) -> int:
    """Rent, and at a terminal show one live line until it trains, then its log."""
    from dataclasses import replace

    from nanolan.cli.live_line import live_line
    from nanolan.launch.failover import rent_with_failover

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
    follows = line and policy.wait and sys.stdout.isatty()
    return follow_log(account, launched.prepared.plan.run_id) if follows else code


def follow_log(account: Account, run_id: str) -> int:
    """Print the run's log as it is written. Ctrl-C detaches; at the run's end its verdict is the exit code."""
    from logs import reader_of, show

    from nanolan.errors import ApiProblem, AuthProblem

    reader, mask = reader_of(account, account.ledger.find(run_id)), account.settings.mask()
    try:
        say("Its log follows. Ctrl-C detaches: the run goes on.\n")
        for text in reader.onward(0):
            show([text], mask)
    except KeyboardInterrupt:
        say(f"\ndetached; run {run_id} goes on. Follow it: just watch; stop it: just stop {run_id}")
        return 0
    except (ApiProblem, AuthProblem) as e:
        say(f"the log cannot be read ({e}); run {run_id} goes on. Follow it: just watch")
        return 0
    if reader.view and (error := reader.view.verdict()):
        raise error
    say(f"run {run_id} succeeded. Next: just pull; just chat; just report {run_id}")
    return 0


def trainer_of(s: Settings, rehearsal: Rehearsal | None) -> tuple[Settings, Chosen | None]:
    """The settings with the phases of their trainer, and a checkout that trains in place of nanolan."""
    from nanolan.plan import OWN_PYTHON
    from nanolan.settings.paths import typed as path_of
    from nanolan.trainers.choose import with_trainer

    if rehearsal is None:
        return with_trainer(s, path_of(""))
    installed = path_of(s.trainer) / ".venv/bin/python"  # by the checkout's owner
    python = str(installed) if installed.is_file() else OWN_PYTHON
    return with_trainer(s, path_of(""), rehearsed=rehearsal.fork_options, python=python)


def show_dry_run(
    prepared: Prepared, s: Settings, words: list[str], as_json: bool, command: str = "just launch"
) -> int:
    """The request that would be sent, without secrets; exit code 4 when a check failed."""
    import json
    import shlex

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
    import json

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


def typed(
    flags: dict[str, Any],
    all_configs: bool,
    sort: str,
    keep_old: bool = False,
    yes_really: bool = False,
) -> list[str]:
    """The options of this command as words for the next command; never a secret."""
    import shlex

    from nanolan.settings.settings import TABLE

    words = [
        f"{k.replace('_', '-')}={v}"
        for k, v in flags.items()
        if v is not None and not TABLE[k]["secret"] and k != "train_options"
    ]
    options = shlex.split(flags.get("train_options") or "")
    return (
        words
        + [f"train.{w.removeprefix('train.')}" for w in options]
        + ["--all-configs"] * all_configs
        + ["--sort=total"] * (sort == "total")
        + ["--keep-old"] * keep_old
        + ["--yes-really"] * yes_really
    )


def rehearsal_of(s: Settings) -> Rehearsal | None:
    """NANOLAN_REHEARSAL (set by rehearse.py and tests): JSON; loopback addresses only."""
    import json
    import os

    text = os.environ.get("NANOLAN_REHEARSAL")
    if not text:
        return None
    from nanolan.launch.make_plan import Rehearsal

    return Rehearsal(**json.loads(text))


if __name__ == "__main__":
    run(launch, insist=True)
