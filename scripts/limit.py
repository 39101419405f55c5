"""Another spend limit for a run that is going: the provider's, the machine's own and the ledger's.

just limit 200              the newest run may cost $200 in all
just limit 1a2b 200         a run by id (or a unique prefix) or run name
just limit 1a2b 60 --max-duration 3h
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.plan import Plan
    from nanolan.run.ledger import Entry
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.models import Instance


@click.command(cls=KeyValueCommand)
@click.argument("words", nargs=-1, metavar="[RUN] DOLLARS")
@click.option(
    "--max-duration",
    help="also: delete it at this age, such as 90m or 5h, counted from its creation",
)
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def limit(
    words: tuple[str, ...], max_duration: str | None, yes: bool, owner: str | None, **flags: Any
) -> int:
    """Let RUN (the newest run if none is named) cost DOLLARS in all, from its creation on."""
    from nanolan.hub.client import Hub
    from nanolan.manage.limit import change, with_limit
    from nanolan.run.find import check_owner, find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.settings.settings import duration
    from nanolan.shadeform.client import Shadeform
    from nanolan.times import now_utc

    which, cents = read_words(words)
    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key", "hf_token")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entry = find(ledger, which, run_search(s, api), owner)
    check_owner(ledger, entry)
    machine = the_machine(api, entry)
    plan = with_limit(
        entry.plan,
        cents,
        duration(max_duration) if max_duration else None,
        machine.cost_now_cents(),
        now_utc(),
    )
    agree(yes, entry.plan, plan)
    hub = Hub(entry.plan.hf_endpoint, s.hf_token)

    def say(text: str) -> None:
        click.echo(text, err=True)

    ledger.note(change(api, hub, entry, machine, plan, say), say)
    click.echo(f"run {plan.run_id}: limit ${plan.limit_cents / 100:.2f}, deadline {plan.deadline}")
    return 0


def read_words(words: tuple[str, ...]) -> tuple[str | None, int]:
    """(run, cents): the amount comes last."""
    from nanolan.money import parse_limit

    if not 1 <= len(words) <= 2:
        raise click.UsageError("say how much it may cost in all: just limit [RUN] DOLLARS")
    return (words[0] if len(words) == 2 else None), parse_limit(words[-1])


def the_machine(api: Shadeform, entry: Entry) -> Instance:
    """The run's machine; UsageProblem when none bills any more."""
    from nanolan.errors import MayBeBilling, UsageProblem
    from nanolan.run.presence import of_attempt, presence, unknown_text
    from nanolan.times import now_utc

    plan = entry.plan
    there = presence(api.info, entry, api.instances(), now_utc())
    mine = [i for i in there.billing if of_attempt(entry, i)]
    if not mine and there.unknown:
        raise MayBeBilling(f"run {plan.run_id}: {unknown_text(entry)}; its limit was not changed")
    if not mine:
        raise UsageProblem(
            f"run {plan.run_id} has no machine (any more), so its limit cannot be changed. To go on with it: "
            f"just resume {plan.run_id} spend-limit=DOLLARS"
        )
    return mine[0]


def agree(yes: bool, old: Plan, new: Plan) -> None:
    from nanolan.errors import UsageProblem
    from nanolan.money import dollars

    question = (
        f"Let run {old.run_id} cost up to {dollars(new.limit_cents)} instead of {dollars(old.limit_cents)}, "
        f"until {new.deadline} instead of {old.deadline}?"
    )
    if not yes and not (sys.stdin.isatty() and click.confirm(question, err=True)):
        raise UsageProblem("not agreed to: pass --yes; nothing was changed")


if __name__ == "__main__":
    run(limit)
