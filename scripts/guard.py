"""Delete instances of yours whose run is over, or that outlive their limits by a minute. Run it on a machine that stays on.

just guard                  poll every 60 seconds until Ctrl-C; `just guard 20` every 20
just guard --until-none     until no instance of yours bills; start it after the launch
just guard --once           one poll, for cron
just guard --unit           print a systemd user unit that runs it, and how to install it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.cli.run import ACCOUNT, open_ledger, open_shadeform, say

if TYPE_CHECKING:
    from nanolan.manage.guard import Event
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings

PATIENCE_S = 10.0  # for the Hub, per poll
# On loopback, instead of minutes
SLACK_LOCAL_S = 5.0
SETTLE_LOCAL_S = 1.0


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
@setting_options(*ACCOUNT)
def guard(
    seconds: int,
    once: bool,
    until_none: bool,
    owner: str | None,
    any_owner: bool,
    as_json: bool,
    unit: bool,
    **flags: Any,
) -> int:
    """Poll the instances of one owner and delete those that bill for nothing. Needs the Shadeform key, and HF_REPO to read."""
    if any_owner and (owner or unit):
        raise click.UsageError("--any-owner goes without --owner and --unit")
    ledger = open_ledger()
    s = settings_from(flags, strict=False)
    whose = checked_owner(owner) if owner else ledger.owner
    if unit:
        return show_unit(s, whose)
    s.need("shadeform_api_key", "hf_token", "hf_repo")
    return guard_until_end(
        s, ledger, None if any_owner else whose, seconds, once, until_none, as_json
    )


def checked_owner(owner: str) -> str:
    """`owner`; UsageError unless it is an owner id."""
    import re

    from nanolan.run.find import ID

    if not re.fullmatch(ID, owner):
        raise click.UsageError(
            f"{owner[:40]!r} is not an owner id: 8 hex digits, as just orphans shows them"
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
) -> int:
    """Poll and delete until done or Ctrl-C."""
    from nanolan.cost.overdue import SLACK_S
    from nanolan.errors import MayBeBilling
    from nanolan.hub.client import Hub
    from nanolan.manage.guard import SETTLE_S, Guard, deletion_recorder, facts_reader, run_forever
    from nanolan.run.find import RunSearch
    from nanolan.settings.settings import is_loopback

    api = open_shadeform(s)
    local = is_loopback(s.shadeform_api)
    search = RunSearch(s, Hub(s.hf_endpoint, s.hf_token, patience_s=PATIENCE_S), api.instances)
    guarding = Guard(
        api,
        facts_reader(search, ledger, owner, api.info),
        printer(as_json),
        gone=deletion_recorder(ledger, say),
        slack_s=SLACK_LOCAL_S if local else SLACK_S,
        entries=lambda: entries_of(ledger, owner),
    )
    every_s = min(seconds, SETTLE_LOCAL_S) if local else seconds
    every = "one poll" if once else f"a poll every {every_s:.0f} s"
    whose = f"owner {owner}" if owner else "every owner"
    say(f"guard of {whose}: {every}")
    settle_s = SETTLE_LOCAL_S if local else SETTLE_S
    try:
        run_forever(guarding, every_s, once=once, until_none_s=settle_s if until_none else None)
    except KeyboardInterrupt as e:  # has a text if it came during a deletion
        raise KeyboardInterrupt(str(e) or guarding.unguarded) from None
    if guarding.failed:
        raise MayBeBilling(f"{'; '.join(guarding.failed)}. Look: just orphans")
    return 0


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


def show_unit(s: Settings, owner: str) -> int:
    """The unit on stdout, notes on missing settings on stderr."""
    from nanolan.cli.command import env_file
    from nanolan.manage.guard_service import KEPT, UNIT, holds_password, unit
    from nanolan.settings.settings import ROOT

    click.echo(unit(ROOT, owner, os.environ), nl=False)
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
