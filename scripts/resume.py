"""Continue a run that ended short, on a new instance: from its newest proven phase or saved state, with the remaining money.

just resume                        the newest run
just resume 1a2b gpu=H100          on other GPUs; other settings stay the run's
just resume 1a2b spend-limit=60    the limit of the whole run, including what it has spent
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import sys
from typing import TYPE_CHECKING, Any

import click
from market import checks_of, expected_on
from renting import Asked, Options, launch_now, launch_when_offered, wait_option, wait_seconds

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import Account, open_account, owner_option
from nanolan.cli.trainer import rehearsal_of
from nanolan.cli.words import typed

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.launch.preflight import Findings
    from nanolan.launch.prepare import Prepared
    from nanolan.manage.resume import NextAttempt
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.offers import Offer
    from nanolan.status.view import RunView

NEW = (
    "run_name",
    "gpu",
    "num_gpus",
    "spend_limit",
    "max_duration",
    "output_tag",
    "cloud",
    "region",
    "instance_type",
    "batch",
    "eval",
    "save_minutes",
    "upload_minutes",
    "gate",
    "failover",
    "max_price",
    "max_total",
    "spot",
    "probation_usd",
    "hf_repo",
    "runs_repo",
    "ssh_public_key",
    "wandb_project",
    "self_delete",
    "shadeform_api_key",
    "shadeform_api_key_box",
    "hf_token",
    "wandb_api_key",
    "notify_url",
    "shadeform_api",
    "hf_endpoint",
)


class ResumeCommand(KeyValueCommand):
    """Shows the run's own settings in brackets."""

    def defaults(self, ctx: click.Context) -> dict[str, str]:
        from nanolan.cli.run_defaults import settings_of_run

        return settings_of_run([w for w in sys.argv[1:] if w[:1] != "-" and "=" not in w])


@click.command(
    cls=ResumeCommand,
    epilog="Settings are the run's (in brackets) unless given; --spend-limit counts the whole run, including "
    "what it has spent. Words work too: gpu=H100:8.",
)
@click.argument("which", metavar="[RUN]", required=False)
@setting_options(*NEW)
@click.option(
    "--code",
    type=click.Choice(["run", "here"]),
    default="run",
    help="the run's own code, or this checkout's  [run]",
)
@click.option(
    "--dry-run", is_flag=True, help="show what would happen and cost; rents nothing, asks nothing"
)
@click.option("-y", "--yes", is_flag=True, help="rent without asking: the cheapest offer that fits")
@click.option("--all-configs", is_flag=True, help="offers with any number of GPUs (1x, 2x, 4x, 8x)")
@click.option(
    "--sort",
    type=click.Choice(["price", "total"]),
    default="price",
    help="order of the offers: per hour or the run",
)
@owner_option
@click.option(
    "--no-wait",
    is_flag=True,
    help="return once it is rented, without waiting for probation; "
    "a bad instance is then not replaced by the next offer",
)
@wait_option
@click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")
def resume(
    which: str | None,
    code: str,
    dry_run: bool,
    yes: bool,
    all_configs: bool,
    sort: str,
    owner: str | None,
    no_wait: bool,
    wait_text: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Rent an instance that continues RUN (the newest if none is named) where it ended."""
    from nanolan.launch.preflight import check_hub
    from nanolan.manage.resume import settings_of, upcoming
    from nanolan.manage.run_budget import attempts
    from nanolan.times import now_utc

    seconds = wait_seconds(wait_text)
    account = open_account(flags, "shadeform_api_key", "hf_token")
    hub, view, stop_marks = resumable_run(account, which, owner)
    past = attempts(view, now_utc())
    whole_cents = account.settings.spend_limit if flags["spend_limit"] else None
    new = upcoming(hub, view, past, whole_cents, account.settings, flags, code)
    if new is None:
        return nothing_left(view)
    s = settings_of(account.settings, flags, new.plan, new.remaining, new.budget)
    found = check_hub(hub, s)
    words = [*typed(flags, all_configs, sort), *(["code=here"] if code == "here" else [])]
    asked = Asked(
        s,
        account.ledger,
        account.api,
        hub,
        expected_on(s, account.ledger, found, rehearsal_of(s)),
        lambda offer: prepare_next(account, hub, new, s, offer, found),
        words,
        all_configs,
        sort,
        f"just resume {new.plan.run_id}",
        past,
        *stop_marks,
    )
    options = Options(dry_run, yes, not no_wait, as_json)
    if wait_text:
        return launch_when_offered(asked, options, seconds, [*words, f"wait={wait_text}"])
    return launch_now(asked, options)


def prepare_next(
    account: Account, hub: Hub, new: NextAttempt, s: Settings, offer: Offer, found: Findings
) -> Prepared:
    """The next attempt on this offer, with its checks."""
    from nanolan.launch.prepare import prepare

    ready = prepare(
        s,
        offer,
        account.ledger.owner,
        hub,
        account.api.instances,
        rehearsal=rehearsal_of(s),
        keep_old=new.plan.keep_old,
        earlier=account.ledger.entries(),
        gpu_checks=checks_of(account.ledger),
        found=found,
        code_of=new.code_of,
    )
    return new.apply(ready)


def nothing_left(view: RunView) -> int:
    """Say that the run is complete."""
    run_id = view.entry.plan.run_id
    click.echo(f"run {run_id} is complete: every phase is proven on the Hub; nothing to do")
    return 0


def resumable_run(
    account: Account, which: str | None, owner: str | None
) -> tuple[Hub, RunView, tuple[int | None, str]]:
    """The run's Hub, its view, and the marks of an earlier `just stop` here and on the Hub; an error unless the run is in
    the ledger, could be read completely, and is over."""
    from nanolan.launch.claim import stop_mark
    from nanolan.manage.resume import check_addresses, check_ended
    from nanolan.status.status import look

    entry = account.find(which, owner, ours=True)
    check_addresses(account.settings, entry.plan)
    hub = account.hub(entry)
    here = account.ledger.stop_mark(entry.plan.run_id)
    seen = look(account.ledger, [entry], account.api, lambda _: hub)
    check_ended(seen)
    return hub, seen.runs[0], (here, stop_mark(hub.tree(entry.plan.runs_repo), entry.plan))


if __name__ == "__main__":
    run(resume, insist=True)
