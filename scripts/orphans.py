"""What bills on the account without being looked after: compares it with the ledger. Exit code 8 if any of it is ours.

just orphans                        all there is, and the command that ends each
just orphans --owner 0badcafe       takes the runs of that owner (you, on another laptop) into this ledger first
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.models import Instance
    from nanolan.status.orphans import Orphan


@click.command(cls=KeyValueCommand)
@click.option(
    "--owner",
    help="adopt the runs of this owner (8 hex digits, as shown) into this laptop's ledger",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def orphans(owner: str | None, as_json: bool, **flags: Any) -> int:
    """Show machines that are not in the ledger, were believed gone, are one too many or past their limits."""
    from nanolan.errors import ApiProblem, AuthProblem
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.run.presence import billing_error, unresolved
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.records import gap_of
    from nanolan.status.orphans import compare, table, to_dict
    from nanolan.times import now_utc

    ledger, s = Ledger(nanolan_home()), settings_from(flags, strict=False)
    s.need("shadeform_api_key", *(("hf_token", "hf_repo") if owner else ()))
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    try:
        instances = api.instances()
    except (ApiProblem, AuthProblem) as e:
        raise billing_error(e, ledger.readable()[0]) from None
    if owner:
        adopt(ledger, api, s, owner, instances)
    found = compare(ledger.entries(), instances, ledger.owner, now_utc())
    gaps = [gap for gap in (gap_of(instances), ledger.gap()) if gap]
    cared_for = sum(i.billing for i in instances) - len(found)
    if as_json:
        click.echo(json.dumps(to_dict(found) | {"unreadable": gaps}, indent=2))
    else:
        click.echo("\n".join(table(found)) if found else "nothing bills that is not looked after")
        for gap in gaps:
            click.echo(f"note: {gap}")
        click.echo(
            f"{cared_for} machine{'s' * (cared_for != 1)} of runs in the ledger, within their limits"
        )
    return refuse(
        [o for o in found if o.ours], unresolved(ledger.readable()[0], instances, now_utc())
    )


def adopt(
    ledger: Ledger, api: Shadeform, s: Settings, owner: str, instances: list[Instance]
) -> None:
    """Take every billing run of that owner into the ledger, as its run folder on the Hub tells of it."""
    from nanolan.errors import BadAnswer, NotFound, UsageProblem
    from nanolan.run.find import add_to_ledger, rebuild, run_search

    runs = sorted(
        {
            i.run_id
            for i in instances
            if i.billing and i.owner == owner and i.run_id and not ledger.has(i.run_id)
        }
    )
    if not runs:
        raise UsageProblem(
            f"no machine of owner {owner[:40]!r} bills outside this ledger. The owners are shown by: just orphans"
        )
    for run_id in runs:
        try:
            add_to_ledger(ledger, rebuild(run_search(s, api), run_id, instances), instances, owner)
        except (
            BadAnswer,
            NotFound,
        ) as e:  # the others are still to be adopted; this one stays in the table
            click.echo(f"not adopted: {e}", err=True)
            continue
        click.echo(
            f"run {run_id} is {'now' if ledger.has(run_id) else 'NOT'} in the ledger", err=True
        )


def refuse(ours: list[Orphan], unclear: list[Entry]) -> int:
    """MayBeBilling for each of ours that bills, or may, with its price and the command."""
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
