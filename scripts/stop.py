"""Stop a run: its machine saves, uploads, proves and deletes itself; waits until it is seen to be gone.

just stop                   the newest run
just stop 1a2b3c4d          a run id (or a unique prefix), a run name, or an instance id
just stop 1a2b --now        delete the machine at once; what is not on the Hub yet is lost
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

YOUNG_S = 600.0  # how long after its plan a machine that is not listed is looked for a while longer

if TYPE_CHECKING:
    from nanolan.errors import NanolanError
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.run.presence import Presence
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.models import Instance
    from nanolan.status.status import Overview, RunView


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--now", is_flag=True, help="delete at once: what is not on the Hub yet is lost")
@click.option(
    "--timeout",
    default="15m",
    help="how long to wait for the end of a run that saves itself  [15m]",
)
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def stop(
    which: str | None, now: bool, timeout: str, yes: bool, owner: str | None, **flags: Any
) -> int:
    """Stop RUN (the newest run if none is named); ends when its machine is seen to be gone."""
    from nanolan.errors import ApiProblem, AuthProblem
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.run.presence import blind
    from nanolan.settings.settings import duration
    from nanolan.shadeform.client import Shadeform

    timeout_s, ledger, s = (
        duration(timeout),
        Ledger(nanolan_home()),
        settings_from(flags, strict=False),
    )
    s.need("shadeform_api_key")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    try:
        return stop_it(ledger, api, s, which, owner, now, yes, timeout_s)
    except (ApiProblem, AuthProblem) as e:
        raise blind(e, meant(ledger, which)) from None


def stop_it(
    ledger: Ledger,
    api: Shadeform,
    s: Settings,
    which: str | None,
    owner: str | None,
    now: bool,
    yes: bool,
    timeout_s: float,
) -> int:
    """Tell a launch that is under way, look, and stop what is there."""
    from nanolan.manage.stop import tell_launch

    known = meant(ledger, which)
    told = len(known) == 1 and ledger.is_launching(known[0].plan.run_id)
    if told:  # between two attempts there is no machine to be seen
        agree(
            yes,
            f"Stop run {known[0].plan.run_id}? Its launch, which is under way, then rents no other machine.",
        )
        tell_launch(ledger, known[0].plan.run_id, tell)
    entry, there = target(ledger, api, s, which, owner)
    machines = list(there.billing or there.machines[:1])
    if entry and not machines:
        return nothing_there(ledger, api, s, entry, there, told)
    if now or entry is None:
        return delete(ledger, api, entry, machines, yes or told)
    refuse_one_of_two(api, entry, machines[0])
    return ask(ledger, api, s, entry, machines, yes or told, timeout_s)


def meant(ledger: Ledger, which: str | None) -> list[Entry]:
    """The runs that `which` can mean by the ledger alone; the newest when nothing is said."""
    from nanolan.run.ledger import matching

    if not which and not ledger.entries():
        return []
    return matching(ledger.entries(), which) if which else [ledger.find(None)]


def target(
    ledger: Ledger, api: Shadeform, s: Settings, which: str | None, owner: str | None
) -> tuple[Entry | None, Presence]:
    """The run that is meant and its machines; no run for a machine of ours that is in no ledger and was meant by its own id."""
    from nanolan.errors import ApiProblem, AuthProblem, NanolanError, UsageProblem
    from nanolan.run.find import check_ours, find, run_search
    from nanolan.run.presence import Presence, presence
    from nanolan.times import now_utc

    try:
        instances = api.instances()
    except (ApiProblem, AuthProblem) as e:
        return unlisted(ledger, api, which, e)
    one = next((i for i in instances if i.id == which), None)
    known = meant(ledger, (one.run_id or one.id) if one else which or "")
    if one and not known:
        if one.owner not in (ledger.owner, owner) or one.owner is None:
            raise UsageProblem(
                f"{one.id} ({one.name}) was not started from here; if it is yours: just orphans, or Shadeform's "
                "dashboard"
            )
        return None, Presence((one,))
    try:
        entry = known[0] if one else find(ledger, which, run_search(s, api), owner)
    except (
        NanolanError
    ):  # the run's file, or its folder on the Hub, cannot be read: its tags say whose it is
        if mine := [
            i
            for i in instances
            if which and i.run_id == which and i.owner == ledger.owner and i.billing
        ]:
            return None, Presence(tuple(mine))
        raise
    check_ours(ledger, entry)
    return entry, Presence((one,)) if one else looked_for(
        api, entry, presence(api.info, entry, instances, now_utc())
    )


def unlisted(
    ledger: Ledger, api: Shadeform, which: str | None, problem: NanolanError
) -> tuple[Entry | None, Presence]:
    """The same while the account's listing cannot be read: the ledger knows the machine's id."""
    from nanolan.run.presence import presence
    from nanolan.times import now_utc

    known = meant(ledger, which)
    there = presence(api.info, known[0], None, now_utc()) if len(known) == 1 else None
    if there is None or not there.billing:
        raise problem
    tell(f"{problem}. Going by the ledger: {there.billing[0].id}")
    return known[0], there


def looked_for(api: Shadeform, entry: Entry, there: Presence) -> Presence:
    """Of a run that is young, a machine that no listing shows yet is looked for a while longer."""
    from nanolan.run.presence import NOT_SHOWN, Presence
    from nanolan.shadeform.lifecycle import find_run
    from nanolan.times import now_utc, parse_time

    young = (now_utc() - parse_time(entry.plan.created_at)).total_seconds() < YOUNG_S
    if there.unknown != NOT_SHOWN or there.billing or not young:
        return there
    tell("not listed (yet): looking again, for up to a minute")
    found = find_run(api, entry.plan.run_id, attempt=entry.plan.attempt)
    return Presence((found, *there.machines)) if found else there


def nothing_there(
    ledger: Ledger, api: Shadeform, s: Settings, entry: Entry, there: Presence, told: bool
) -> int:
    """What is true of a run without a machine that can be seen: that there is none, or that nobody knows."""
    from contextlib import suppress

    from nanolan.errors import LedgerProblem, MayBeBilling, NanolanError
    from nanolan.hub.client import Hub
    from nanolan.manage.stop import ask_to_stop
    from nanolan.run.presence import unknown_words
    from nanolan.status.status import look

    run_id, hub = entry.plan.run_id, Hub(entry.plan.hf_endpoint, s.hf_token) if s.hf_token else None
    over = (
        there.unknown and hub and look(ledger, [entry], api, lambda _: hub).runs[0].ended
    )  # its receipt may be there
    with suppress(LedgerProblem):  # also for a resume that just waits for its user's yes
        ledger.ask_to_stop(run_id)
    if not there.unknown or over:
        click.echo(
            f"run {run_id} has no machine now; its launch was told, and rents no other"
            if told
            else f"run {run_id} has no machine on this account (any more); nothing to stop"
        )
        return 0
    asked = "no machine of it hears a request without HF_TOKEN"
    if hub:
        try:
            ask_to_stop(hub, entry.plan)
            asked = "if it comes up, it finds the request to stop, and ends by itself"
        except NanolanError as e:
            asked = f"no request could be left for it ({e})"
    raise MayBeBilling(
        f"run {run_id}: {unknown_words(entry)}; {asked}. Look again: just status {run_id}"
    )


def refuse_one_of_two(api: Shadeform, entry: Entry, machine: Instance) -> None:
    """A request is heard by every machine of the run."""
    from nanolan.errors import UsageProblem

    run_id = entry.plan.run_id
    if sum(i.is_run(run_id) and i.billing for i in api.instances()) > 1:
        raise UsageProblem(
            f"run {run_id} has several machines, and all would hear it: just stop {machine.id} --now deletes this "
            f"one, just stop {run_id} --now all of them; nothing was stopped"
        )


def ask(
    ledger: Ledger,
    api: Shadeform,
    s: Settings,
    entry: Entry,
    machines: list[Instance],
    yes: bool,
    timeout_s: float,
) -> int:
    """Ask the machine to save and delete itself, and watch it do so; Ctrl-C only stops watching."""
    from msgspec import structs

    from nanolan.errors import NanolanError
    from nanolan.hub.client import Hub
    from nanolan.manage.stop import ask_to_stop, not_listening, still_bills, wait_until_gone
    from nanolan.run.ledger import STOPPED_BY_USER
    from nanolan.status.status import RunView, look
    from nanolan.times import now_utc

    plan = entry.plan
    if s.hf_token is None:
        raise still_bills(
            RunView(entry, "", instance=machines[0]),
            "without HF_TOKEN the machine cannot be asked to stop",
        )
    hub = Hub(plan.hf_endpoint, s.hf_token)
    view = look(ledger, [entry], api, lambda _: hub).runs[0]
    if why := not_listening(view, now_utc()):
        raise still_bills(view, f"run {plan.run_id} cannot be asked to stop: {why}")
    agree(
        yes,
        f"Stop run {plan.run_id} ({machines[0].name})? It saves what it has, uploads it and "
        f"{'deletes itself' if plan.self_delete else 'is deleted then'}.",
    )
    try:
        ask_to_stop(hub, plan)
    except NanolanError as e:
        raise still_bills(view, f"the machine could not be asked to stop ({e})") from None
    ledger.note(
        structs.replace(entry, note=STOPPED_BY_USER), tell
    )  # a launch that waits for it must not rent another one
    when = (
        "it looks every minute or so"
        if view.progress
        else (
            f"it has not reported yet, and finds the request when it comes up; to delete it at once: just stop {plan.run_id} --now"
        )
    )
    click.echo(f"run {plan.run_id} is asked to stop; {when}. Ctrl-C only stops waiting.", err=True)

    def seen() -> Overview:
        overview = look(ledger, [entry], api, lambda _: hub)
        delete_if_over(api, overview.runs[0])
        return overview

    try:
        view = wait_until_gone(seen, tell, timeout_s=timeout_s)
    except KeyboardInterrupt as e:
        if str(e):  # in the middle of a deletion
            raise
        tell(
            f"\nno longer waiting; run {plan.run_id} goes on stopping by itself. Look: just status {plan.run_id}; "
            f"delete it at once: just stop {plan.run_id} --now"
        )
        return 130
    ledger.note(
        structs.replace(entry, instance_id=machines[0].id, gone=True, note=STOPPED_BY_USER), tell
    )
    return summary(view)


def delete_if_over(api: Shadeform, view: RunView) -> None:
    """A machine without a key cannot delete itself: that is done from here, a minute after its receipt."""
    from nanolan.cost.overdue import InstanceFacts, overdue
    from nanolan.shadeform.lifecycle import delete_and_confirm
    from nanolan.times import SERVICE_CLOCK

    plan, machine, now = view.entry.plan, view.instance, SERVICE_CLOCK.agreed()
    if (
        now
        and machine
        and not plan.self_delete
        and (why := overdue(InstanceFacts(machine, plan, view.receipt), now))
    ):
        tell(f"  {why}: its machine is deleted from here")
        delete_and_confirm(api, machine)


def summary(view: RunView) -> int:
    """What is left of the run, and where."""
    from nanolan.status.text import render_run

    click.echo("\n".join(render_run(view)))
    if view.receipt is None:
        tell("it left no receipt: what was not on the Hub before is lost")
    return 0


def delete(
    ledger: Ledger, api: Shadeform, entry: Entry | None, machines: list[Instance], yes: bool
) -> int:
    """Delete the machines at once, each until it is seen to be gone."""
    from msgspec import structs

    from nanolan.money import dollars
    from nanolan.run.ledger import STOPPED_BY_USER
    from nanolan.shadeform.lifecycle import delete_and_confirm

    for i in machines:
        agree(
            yes,
            f"Delete {i.name} ({i.id}, {dollars(i.hourly_cents)}/h)? What is not on the Hub yet is lost.",
        )
        newest = (
            entry
            and i.attempt == entry.plan.attempt
            and (entry.instance_id in (None, i.id) or len(machines) > 1)
        )
        if (
            entry and newest
        ):  # not for a second machine alone; noted first: a launch that waits for it must not rent another
            entry = structs.replace(entry, instance_id=i.id, note=STOPPED_BY_USER)
            ledger.note(entry, tell)
        gone = delete_and_confirm(api, i)
        if entry and newest:
            ledger.note(structs.replace(entry, gone=True, spent_cents=i.cost_now_cents()), tell)
        click.echo(
            f"{i.name} ({i.id}) is gone: {gone.seen}. It cost about {dollars(i.cost_now_cents())}"
        )
    return 0


def agree(yes: bool, question: str) -> None:
    from nanolan.errors import UsageProblem

    if not yes and not (sys.stdin.isatty() and click.confirm(question, err=True)):
        raise UsageProblem("not agreed to: pass --yes; nothing was stopped")


def tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    run(stop, insist=True)
