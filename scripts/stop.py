"""Delete a run's instance and confirm that it is gone. What was not uploaded yet is lost.

    just stop 1a2b3c4d          a run id (or a unique prefix), a run name, or an instance id
"""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli import Words, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.instance import Instance
    from nanolan.ledger import Entry
    from nanolan.shadeform import Shadeform


@click.command(cls=Words)
@click.argument("which", metavar="RUN")
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@setting_options("shadeform_api_key", "shadeform_api")
def stop(which: str, yes: bool, **flags: Any) -> int:
    """Delete the instance of RUN at once; ends when it is seen to be gone."""
    from msgspec import structs

    from nanolan.errors import UsageProblem
    from nanolan.instance import owner_tag
    from nanolan.ledger import STOPPED_BY_USER, Ledger, nanolan_home
    from nanolan.money import dollars
    from nanolan.rent import delete_and_confirm
    from nanolan.shadeform import Shadeform
    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entries, instances = ledger.entries(), api.instances()
    entry = next((e for e in entries if which in (e.plan.run_id, e.instance_id)), None)
    if entry is None and not any(i.id == which for i in instances):
        entry = ledger.find(which)
    mine = [i for i in instances if (entry and (i.is_run(entry.plan.run_id) or i.id == entry.instance_id)) or i.id == which]
    if entry and not any(i.billing for i in mine):   # what is listed may be what is left of an earlier attempt
        mine += unlisted(api, entry)
    mine = [i for i in mine if i.billing] or mine[-1:]
    if not mine:
        click.echo(f"{which} has no instance on this account (any more); nothing to stop")
        return 0
    ours = {a.instance_id for e in entries for a in e.earlier}
    for i in mine:
        if entry is None and owner_tag(ledger.owner) not in i.tags and i.id not in ours:
            raise UsageProblem(f"{i.id} ({i.name}) was not started from here; delete it in Shadeform's dashboard if it is yours")
        if not yes and not (sys.stdin.isatty() and click.confirm(
                f"Delete {i.name} ({i.id}, {dollars(i.hourly_cents)}/h)? What is not on the Hub yet is lost.", err=True)):
            raise UsageProblem("not agreed to: pass --yes; nothing was deleted")
        if entry:   # noted first: a launch that waits for it must not rent another one
            newest = i.id if i.attempt == entry.plan.attempt else entry.instance_id
            entry = structs.replace(entry, instance_id=newest, note=STOPPED_BY_USER)
            ledger.put(entry)
        gone = delete_and_confirm(api, i)
        click.echo(f"{i.name} ({i.id}) is gone: {gone.seen}. It cost about {dollars(i.cost_now_cents())}")
    if entry:
        ledger.put(structs.replace(entry, gone=True))
    return 0


def unlisted(api: Shadeform, entry: Entry) -> list[Instance]:
    """The instance of a run that the listing does not show: one that was just created may be missing there for a minute."""
    from nanolan.errors import NotFound
    from nanolan.plan import now_utc, parse_time
    from nanolan.rent import find_run
    from nanolan.status import SETTLE_S
    try:
        if entry.instance_id:
            return [api.info(entry.instance_id)]
    except NotFound:
        return []
    if entry.gone or (now_utc() - parse_time(entry.plan.created_at)).total_seconds() > SETTLE_S:
        return []
    click.echo("not listed (yet): looking again, for up to a minute", err=True)
    found = find_run(api, entry.plan.run_id, attempt=entry.plan.attempt)
    return [found] if found else []


if __name__ == "__main__":
    run(stop)
