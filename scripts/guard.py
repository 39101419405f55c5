"""Delete instances of yours whose run is over, or that outlive their limits by a minute. Run it on a machine that stays on.

just guard                  poll every 60 seconds until Ctrl-C; `just guard 20` every 20
just guard --until-none     until no instance of yours bills; start it after the launch
just guard --once           one poll, for cron
just guard --unit           print a systemd user unit that runs it, and how to install it
just guard --failover       also rents: spot runs are taken up again when their instance is taken away
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.cli.run import ACCOUNT, open_ledger, open_shadeform, say
from nanolan.errors import quoted

if TYPE_CHECKING:
    from nanolan.manage.guard import Event
    from nanolan.manage.guard_failover import Failover
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform

PATIENCE_S = 10.0  # for the Hub, per poll
# On loopback, instead of minutes
SLACK_LOCAL_S = 5.0
SETTLE_LOCAL_S = 1.0
ONCE_WAIT_S = 120.0  # for an offer, in a guard of one poll


@click.command(cls=KeyValueCommand)
@click.argument("seconds", metavar="[SECONDS]", type=click.IntRange(1, 3600), default=60)
@click.option("--once", is_flag=True, help="poll and act once")
@click.option(
    "--until-none", is_flag=True, help="end when there was nothing to guard for two minutes"
)
@click.option(
    "--owner",
    metavar="ID",
    help="whose instances: an owner id, as just orphans shows it  [this laptop's]",
)
@click.option(
    "--any-owner", is_flag=True, help="every instance of the account that has nanolan's tags"
)
@click.option("--json", "as_json", is_flag=True, help="a JSON object per change")
@click.option("--unit", is_flag=True, help="print a systemd user unit, and end")
@click.option(
    "--failover",
    is_flag=True,
    help="take spot runs up again when their instance is taken away: rents, within each run's own price and limit",
)
@click.option("-y", "--yes", is_flag=True, help="with --failover: rent without asking at the start")
@setting_options(*ACCOUNT)
def guard(
    seconds: int,
    once: bool,
    until_none: bool,
    owner: str | None,
    any_owner: bool,
    as_json: bool,
    unit: bool,
    failover: bool,
    yes: bool,
    **flags: Any,
) -> int:
    """Poll the instances of one owner and delete those that bill for nothing. Needs the Shadeform key, and HF_REPO to read."""
    if any_owner and (owner or unit or failover):
        raise click.UsageError("--any-owner goes without --owner, --unit and --failover")
    if yes and not failover:
        raise click.UsageError("--yes is for --failover: a guard alone rents nothing")
    ledger = open_ledger()
    s = settings_from(flags, strict=False)
    whose = checked_owner(owner) if owner else ledger.owner
    if failover:
        agree_to_rent(ledger, whose, yes)
    if unit:
        return show_unit(s, whose, ["--failover", "--yes"] if failover else [])
    s.need("shadeform_api_key", "hf_token", "hf_repo")
    return guard_until_end(
        s, ledger, None if any_owner else whose, seconds, once, until_none, as_json, failover
    )


def agree_to_rent(ledger: Ledger, owner: str, yes: bool) -> None:
    """Ask once whether the guard may rent, with what it may cost; UsageProblem without a yes."""
    from nanolan.cli.run import agree
    from nanolan.manage.guard_failover import rule_text

    text = rule_text(entries_of(ledger, owner))
    say(f"With --failover this guard also rents. {text}")
    agree(yes, "Allow it to rent?", "rented")


def checked_owner(owner: str) -> str:
    """`owner`; UsageError unless it is an owner id."""
    import re

    from nanolan.run.find import ID

    if not re.fullmatch(ID, owner):
        raise click.UsageError(
            f"{quoted(owner, 40)} is not an owner id: 8 hex digits, as just orphans shows them"
        )
    return owner


def guard_until_end(
    s: Settings,
    ledger: Ledger,
    owner: str | None,
    seconds: int,
    once: bool,
    until_none: bool,
    as_json: bool,
    with_failover: bool = False,
) -> int:
    """Poll and delete until done or Ctrl-C."""
    from nanolan.cost.overdue import SLACK_S
    from nanolan.errors import MayBeBilling
    from nanolan.hub.client import Hub
    from nanolan.manage.guard import (
        CONFIRM_S,
        SETTLE_S,
        Guard,
        deletion_recorder,
        facts_reader,
        run_forever,
    )
    from nanolan.manage.guard_failover import GuardWithFailover
    from nanolan.run.find import RunSearch
    from nanolan.settings.settings import is_loopback

    api = open_shadeform(s)
    local = is_loopback(s.shadeform_api)
    search = RunSearch(s, Hub(s.hf_endpoint, s.hf_token, patience_s=PATIENCE_S), api.instances)
    report = printer(as_json)
    failover = failover_of(s, ledger, api, owner, report, once) if with_failover and owner else None
    facts_of = facts_reader(search, ledger, owner, api.info)
    guarding = Guard(
        api,
        failover.watching(facts_of) if failover else facts_of,
        report,
        gone=deletion_recorder(ledger, say),
        slack_s=SLACK_LOCAL_S if local else SLACK_S,
        entries=lambda: entries_of(ledger, owner),
        confirm_s=0.0 if local else CONFIRM_S,
    )
    every_s = min(seconds, SETTLE_LOCAL_S) if local else seconds
    every = "one poll" if once else f"a poll every {every_s:.0f} s"
    whose = f"owner {owner}" if owner else "every owner"
    say(f"guard of {whose}: {every}")
    settle_s = SETTLE_LOCAL_S if local else SETTLE_S
    try:
        rounds = GuardWithFailover(guarding, failover) if failover else guarding
        run_forever(rounds, every_s, once=once, until_none_s=settle_s if until_none else None)
        while failover and failover.active:  # the one poll of --once has started something
            time.sleep(SETTLE_LOCAL_S)
    except KeyboardInterrupt as e:  # has a text if it came during a deletion
        if failover and failover.active:
            raise MayBeBilling(
                f"the guard has ended, and {failover.unfinished}; {guarding.unguarded}".rstrip("; ")
            ) from None
        raise KeyboardInterrupt(str(e) or guarding.unguarded) from None
    if guarding.failed:
        raise MayBeBilling(f"{'; '.join(guarding.failed)}. Look: just orphans")
    return 0


def failover_of(
    s: Settings,
    ledger: Ledger,
    api: Shadeform,
    owner: str,
    report: Callable[[Event], None],
    once: bool,
) -> Failover:
    """What takes runs up beside the guard; a guard of one poll does not wait for an offer."""
    from nanolan.cli.trainer import rehearsal_of
    from nanolan.hub.client import Hub
    from nanolan.launch.looks import LOCAL, POLITE
    from nanolan.manage.guard_failover import Failover
    from nanolan.manage.takeover import WAIT_S, TakeOver
    from nanolan.settings.settings import is_loopback
    from nanolan.status.status import look

    def hub_of(entry: Entry) -> Hub:
        return Hub(entry.plan.hf_endpoint, s.hf_token)

    def take_over_of(entry: Entry) -> TakeOver:
        return TakeOver(
            ledger,
            s,
            api,
            hub_of(entry),
            say,
            rehearsal_of(s),
            pace=LOCAL if is_loopback(api.base) else POLITE,
            wait_s=ONCE_WAIT_S if once else WAIT_S,
        )

    return Failover(
        ledger,
        owner,
        take_over_of,
        lambda entry: look(ledger, [entry], api, hub_of).runs[0],
        report,
    )


def entries_of(ledger: Ledger, owner: str | None) -> list[Entry]:
    """The ledger's runs of that owner, on this account."""
    return [e for e in ledger.readable()[0] if owner in (None, e.plan.owner)]


def printer(as_json: bool) -> Callable[[Event], None]:
    """Prints each change as a line with its time, or as JSON."""
    from nanolan.times import iso, now_utc

    def show(event: Event) -> None:
        click.echo(
            json.dumps(event.to_dict(now_utc()))
            if as_json
            else f"{iso(now_utc())} guard: {event.text}"
        )

    return show


def show_unit(s: Settings, owner: str, options: Sequence[str]) -> int:
    """The unit on stdout, notes on missing settings on stderr."""
    from nanolan.cli.command import env_file
    from nanolan.manage.guard_service import KEPT, UNIT, holds_password, unit
    from nanolan.settings.settings import ROOT

    click.echo(unit(ROOT, owner, os.environ, options), nl=False)
    for name in ("shadeform_api_key", "hf_token", "hf_repo"):
        if s.sources[name] not in (".env", "hf auth login"):
            say(f"note: the unit reads {env_file()}, where {name.upper()} is not set")
    for name in (n for n in KEPT if holds_password(os.environ.get(n, ""))):
        say(
            f"note: {name} may contain a password, so it is not in the unit; add it: systemctl --user edit {UNIT}"
        )
    return 0


if __name__ == "__main__":
    run(guard, insist=True)
