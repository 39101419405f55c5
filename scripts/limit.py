"""Change the spend limit of a running run: at the provider, on the box and in the ledger.

just limit 200              the newest run may cost $200 in all
just limit 1a2b 200         a run by id (or a unique prefix) or run name
just limit 1a2b 60 --max-duration 3h
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, agree, open_account, owner_option, say

if TYPE_CHECKING:
    from nanolan.cli.run import Account
    from nanolan.plan import Plan
    from nanolan.run.ledger import Entry
    from nanolan.shadeform.models import Instance


@click.command(cls=KeyValueCommand)
@click.argument("words", nargs=-1, metavar="[RUN] DOLLARS")
@click.option(
    "--max-duration",
    help="also delete it at this age, such as 90m or 5h, counted from its creation",
)
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@owner_option
@setting_options(*ACCOUNT)
def limit(
    words: tuple[str, ...], max_duration: str | None, yes: bool, owner: str | None, **flags: Any
) -> int:
    """Let RUN (the newest run if none is named) cost DOLLARS in all, from its creation on."""
    from nanolan.manage.limit import apply_limit, left_for_attempt, refuse_newer, with_limit
    from nanolan.settings.settings import duration
    from nanolan.times import now_utc

    which, cents = read_words(words)
    account = open_account(flags, "hf_token", strict=False)
    entry = account.find(which, owner, ours=True)
    if entry.plan.is_job:
        from nanolan.manage.job import ManagedJob, limit_job

        job = ManagedJob.of(account, entry, click.echo, lambda text: agree(yes, text, "changed"))
        return limit_job(job, cents, duration(max_duration) if max_duration else None)
    instance = billing_instance(account, entry)
    earlier = sum(a.spent_cents or 0 for a in entry.earlier)
    plan = with_limit(
        entry.plan,
        left_for_attempt(entry.plan, cents, earlier),
        duration(max_duration) if max_duration else None,
        instance.cost_now_cents(),
        now_utc(),
    )
    agree(yes, question(entry.plan, plan, earlier), "changed")
    refuse_newer(account.ledger.find(entry.plan.run_id).plan, entry.plan)
    hub = account.hub(entry)
    account.ledger.note(apply_limit(account.api, hub, entry, instance, plan, say), say)
    of_run = f" (${cents / 100:.2f} for all attempts)" if earlier else ""
    click.echo(
        f"run {plan.run_id}: limit ${plan.limit_cents / 100:.2f}{of_run}, deadline {plan.deadline}"
    )
    return 0


def read_words(words: tuple[str, ...]) -> tuple[str | None, int]:
    """(run, cents): the amount comes last."""
    from nanolan.money import parse_limit

    if not 1 <= len(words) <= 2:
        raise click.UsageError("say how much it may cost in all: just limit [RUN] DOLLARS")
    return (words[0] if len(words) == 2 else None), parse_limit(words[-1])


def billing_instance(account: Account, entry: Entry) -> Instance:
    """The run's instance; UsageProblem when none bills any more, MayBeBilling when that is unknown."""
    from nanolan.errors import MayBeBilling, UsageProblem
    from nanolan.run.presence import of_attempt, presence, unknown_text
    from nanolan.status.status import look
    from nanolan.times import now_utc

    plan, api = entry.plan, account.api
    there = presence(api.info, entry, api.instances(), now_utc())
    mine = [i for i in there.billing if of_attempt(entry, i)]
    if not mine:  # its box may report nevertheless
        view = look(account.ledger, [entry], api, lambda _: account.hub(entry)).runs[0]
        if unknown := view.unknown or there.unknown:
            text = unknown_text(entry, unknown)
            raise MayBeBilling(f"run {plan.run_id}: {text}; its limit was not changed")
        raise UsageProblem(
            f"run {plan.run_id} has no instance (any more), so its limit cannot be changed. To continue it: "
            f"just resume {plan.run_id} spend-limit=DOLLARS"
        )
    return mine[0]


def question(old: Plan, new: Plan, earlier_cents: int = 0) -> str:
    """What the user agrees to."""
    from nanolan.money import dollars

    before = f" (with {dollars(earlier_cents)} of its earlier attempts: {dollars(new.limit_cents + earlier_cents)})"
    return (
        f"Let run {old.run_id} cost up to {dollars(new.limit_cents)}{before if earlier_cents else ''} "
        f"instead of {dollars(old.limit_cents)}, "
        f"until {new.deadline} instead of {old.deadline}?"
    )


if __name__ == "__main__":
    run(limit)
