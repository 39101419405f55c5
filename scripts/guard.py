"""Delete machines of yours whose run is over, or that outlive their limits by a minute: for a machine that always stays on.

just guard                  look every 60 seconds until Ctrl-C; `just guard 20` every 20
just guard --until-none     until nothing of yours bills any more; start it after the launch
just guard --once           one look, for cron
just guard --unit           print a systemd user unit that runs it, and how to install that
just guard --hf-job --dry-run    as a job at Hugging Face for a cent an hour: what would be sent
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.manage.guard import Event
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings

PATIENCE_S = 10.0  # with the Hub, per look
SLACK_HERE_S, SETTLE_HERE_S = 5.0, 1.0  # on loopback, in place of minutes


@click.command(cls=KeyValueCommand)
@click.argument("seconds", metavar="[SECONDS]", type=click.IntRange(1, 3600), default=60)
@click.option("--once", is_flag=True, help="one look, and what follows from it")
@click.option(
    "--until-none", is_flag=True, help="end when for two minutes nothing was there to be guarded"
)
@click.option(
    "--owner",
    metavar="ID",
    help="whose machines: an owner id, as just orphans shows it  [this laptop's]",
)
@click.option(
    "--any-owner", is_flag=True, help="every machine of the account that is tagged as nanolan's"
)
@click.option("--json", "as_json", is_flag=True, help="a JSON object per change")
@click.option("--unit", is_flag=True, help="print a systemd user unit, and end")
@click.option(
    "--hf-job",
    is_flag=True,
    help="start it as a Hugging Face Job, with the newest run's code and until its date",
)
@click.option("--dry-run", is_flag=True, help="with --hf-job: show the job, start nothing")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def guard(
    seconds: int,
    once: bool,
    until_none: bool,
    owner: str | None,
    any_owner: bool,
    as_json: bool,
    unit: bool,
    hf_job: bool,
    dry_run: bool,
    **flags: Any,
) -> int:
    """Look at the machines of one owner, and see that none bills for nothing. It needs the Shadeform key, and HF_REPO to read."""
    from nanolan.run.ledger import Ledger, nanolan_home

    if any_owner and (owner or unit or hf_job) or dry_run and not hf_job or unit and hf_job:
        raise click.UsageError(
            "--any-owner goes without --owner, --unit and --hf-job; --dry-run with --hf-job"
        )
    ledger, s = Ledger(nanolan_home()), settings_from(flags, strict=False)
    whose = checked(owner) if owner else ledger.owner
    if unit:
        return show_unit(s, whose)
    s.need("shadeform_api_key", "hf_token", "hf_repo")
    if hf_job:
        return start_job(s, ledger, whose, dry_run, as_json)
    return patrol(s, ledger, None if any_owner else whose, seconds, once, until_none, as_json)


def checked(owner: str) -> str:
    import re

    from nanolan.run.find import ID

    if not re.fullmatch(ID, owner):
        raise click.UsageError(
            f"{owner[:40]!r} is not an owner id: 8 hex digits, as just orphans shows them"
        )
    return owner


def patrol(
    s: Settings,
    ledger: Ledger,
    owner: str | None,
    seconds: int,
    once: bool,
    until_none: bool,
    as_json: bool,
) -> int:
    """Rounds, until they end or Ctrl-C."""
    from nanolan.cost.overdue import SLACK_S
    from nanolan.errors import MayBeBilling
    from nanolan.hub.client import Hub
    from nanolan.manage.guard import SETTLE_S, Guard, knowledge, note_in, run_forever
    from nanolan.run.find import RunSearch
    from nanolan.settings.settings import is_loopback
    from nanolan.shadeform.client import Shadeform

    api, here = Shadeform(s.shadeform_api_key, s.shadeform_api), is_loopback(s.shadeform_api)
    there = RunSearch(s, Hub(s.hf_endpoint, s.hf_token, patience_s=PATIENCE_S), api.instances)
    note = note_in(ledger, lambda text: click.echo(text, err=True))
    rounds = Guard(
        api,
        knowledge(there, ledger, owner, api.info),
        shown(as_json),
        gone=note,
        slack_s=SLACK_HERE_S if here else SLACK_S,
        entries=lambda: mine_of(ledger, owner),
    )
    every_s = min(seconds, SETTLE_HERE_S) if here else seconds
    every = "one look" if once else f"a look every {every_s:.0f} s"
    click.echo(f"guard of {f'owner {owner}' if owner else 'every owner'}: {every}", err=True)
    try:
        run_forever(
            rounds,
            every_s,
            once=once,
            until_none_s=(SETTLE_HERE_S if here else SETTLE_S) if until_none else None,
        )
    except KeyboardInterrupt as e:  # its own words are of a deletion that it came into
        raise KeyboardInterrupt(str(e) or rounds.unguarded) from None
    if rounds.failed:
        raise MayBeBilling(f"{'; '.join(rounds.failed)}. Look: just orphans")
    return 0


def mine_of(ledger: Ledger, owner: str | None) -> list[Entry]:
    """The ledger's runs of that owner, on this account."""
    return [e for e in ledger.readable()[0] if owner in (None, e.plan.owner)]


def shown(as_json: bool) -> Callable[[Event], None]:
    """How a change is told: a line with its time, or JSON."""
    from nanolan.times import iso, now_utc

    def tell(event: Event) -> None:
        click.echo(
            json.dumps(event.to_dict(now_utc()))
            if as_json
            else f"{iso(now_utc())} guard: {event.text}"
        )

    return tell


def show_unit(s: Settings, owner: str) -> int:
    """The unit on stdout; what it would lack, on stderr."""
    from nanolan.cli.command import env_file
    from nanolan.manage.guard_service import KEPT, UNIT, holds_password, unit
    from nanolan.settings.settings import ROOT

    click.echo(unit(ROOT, owner, os.environ), nl=False)
    for name in ("shadeform_api_key", "hf_token", "hf_repo"):
        if s.sources[name] not in (".env", "hf auth login"):
            click.echo(
                f"note: the unit reads {env_file()}, where {name.upper()} is not set", err=True
            )
    for name in (n for n in KEPT if holds_password(os.environ.get(n, ""))):
        click.echo(
            f"note: {name} may hold a password, so it is not in the unit; add it: systemctl --user edit {UNIT}",
            err=True,
        )
    return 0


def start_job(s: Settings, ledger: Ledger, owner: str, dry_run: bool, as_json: bool) -> int:
    """Start the guard as a job; a dry run shows all of it but the values of its secrets."""
    from nanolan.hub.client import Hub
    from nanolan.manage.guard_service import guard_job
    from nanolan.money import dollars
    from nanolan.times import now_utc

    plan = ledger.find(None).plan
    revision = Hub(plan.hf_endpoint, s.hf_token).tree(plan.runs_repo).revision
    job = guard_job(s, plan, owner, revision, now_utc())
    if dry_run:
        click.echo(json.dumps(job.to_dict(), indent=2))
        click.echo("DRY RUN: nothing was started.", err=True)
        return 0
    secrets = {
        name: value.reveal()
        for name, value in (("HF_TOKEN", s.hf_token), ("SHADEFORM_API_KEY", s.shadeform_api_key))
    }
    job_id, url = Hub(s.hf_endpoint, s.hf_token, patience_s=0).start_job(job, secrets)
    click.echo(
        json.dumps(job.to_dict() | {"id": job_id, "url": url}, indent=2)
        if as_json
        else f"job {job_id} guards owner "
        f"{owner} for at most {job.timeout_s / 3600:.1f} h ({dollars(job.most_cents)} at most): {url}"
    )
    return 0


if __name__ == "__main__":
    run(guard, insist=True)
