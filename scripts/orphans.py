"""Unattended instances that bill: compares the account with the ledger. Exit code 8 if one belongs to this laptop.

just orphans                        all of them, with the command that ends each
just orphans --owner 0badcafe       first adds the runs of that owner (you, on another laptop) to this ledger
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, say
from nanolan.errors import quoted

if TYPE_CHECKING:
    from nanolan.cli.run import Account
    from nanolan.run.ledger import Entry
    from nanolan.shadeform.models import Instance
    from nanolan.status.orphans import Orphan


@click.command(cls=KeyValueCommand)
@click.option(
    "--owner",
    help="add the runs of this owner (8 hex digits, as shown) to this laptop's ledger",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@setting_options(*ACCOUNT)
def orphans(owner: str | None, as_json: bool, **flags: Any) -> int:
    """Show instances that are not in the ledger, believed deleted, duplicate or past their limits."""
    from nanolan.errors import ApiProblem, AuthProblem
    from nanolan.run.presence import billing_error, unresolved
    from nanolan.shadeform.records import gap_of
    from nanolan.status.orphans import compare, table, to_dict
    from nanolan.times import now_utc

    needed = ("shadeform_api_key", *(("hf_token", "hf_repo") if owner else ()))
    account = open_account(flags, *needed, strict=False)
    ledger = account.ledger
    try:
        instances = account.api.instances()
    except (ApiProblem, AuthProblem) as e:
        raise billing_error(e, ledger.readable()[0]) from None
    if owner:
        adopt(account, owner, instances)
    found = compare(ledger.entries(), instances, ledger.owner, now_utc())
    gaps = [gap for gap in (gap_of(instances), ledger.gap()) if gap]
    attended = sum(i.billing for i in instances) - len(found)
    if as_json:
        click.echo(json.dumps(to_dict(found) | {"unreadable": gaps}, indent=2))
    else:
        click.echo("\n".join(table(found)) if found else "no unattended instances are billing")
        for gap in gaps:
            click.echo(f"note: {gap}")
        click.echo(
            f"{attended} instance{'s' * (attended != 1)} of runs in the ledger, within their limits"
        )
    return refuse(
        [o for o in found if o.ours], unresolved(ledger.readable()[0], instances, now_utc())
    )


def adopt(account: Account, owner: str, instances: list[Instance]) -> None:
    """Add every billing run of that owner to the ledger, from its run folder on the Hub."""
    from nanolan.errors import BadAnswer, NotFound, UsageProblem
    from nanolan.run.find import add_to_ledger, rebuild, run_search

    ledger = account.ledger
    theirs = {i.run_id for i in instances if i.billing and i.owner == owner and i.run_id}
    runs = sorted(run_id for run_id in theirs if not ledger.has(run_id))
    if not runs:
        raise UsageProblem(
            f"no instance of owner {quoted(owner, 40)} bills outside this ledger. See the owners: just orphans"
        )
    for run_id in runs:
        try:
            entry = rebuild(run_search(account.settings, account.api), run_id, instances)
            add_to_ledger(ledger, entry, instances, owner)
        except (BadAnswer, NotFound) as e:  # this one stays in the table; the others follow
            say(f"not adopted: {e}")
            continue
        say(f"run {run_id} is {'now' if ledger.has(run_id) else 'NOT'} in the ledger")


def refuse(ours: list[Orphan], unclear: list[Entry]) -> int:
    """MayBeBilling for each of this laptop's instances that bills, or may, with its price and the command."""
    from nanolan.errors import MayBeBilling
    from nanolan.money import dollars
    from nanolan.run.presence import unknown_text

    words = [
        f"{o.instance.id} ({dollars(o.instance.hourly_cents)}/h) bills: {o.command}" for o in ours
    ]
    words += [f"run {e.plan.run_id}: {unknown_text(e)}" for e in unclear]
    if words:
        raise MayBeBilling("; ".join(words))
    return 0


if __name__ == "__main__":
    run(orphans, insist=True)
