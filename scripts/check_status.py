"""Where every run is, what it costs, and what is proven on the Hub.

just status                 all live runs and the newest one
just status 1a2b            one run, by id (or a unique prefix) or run name
just watch                  again every 60 seconds until the run ends; exits with its verdict
just watch 30 1a2b          the same for one run, every 30 seconds
just watch --guard          and deletes its machine if it outlives its own limits by a minute
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.cost.overdue import OverdueTimer
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.view import Overview, RunView


@click.command(cls=KeyValueCommand)
@click.argument("words", nargs=-1, metavar="[SECONDS] [RUN]")
@click.option(
    "--watch",
    is_flag=True,
    help="look again every SECONDS (60) until the run ends; Ctrl-C only stops looking",
)
@click.option(
    "--guard",
    is_flag=True,
    help="with --watch: delete a machine that outlives its limit or deadline, or without a key "
    "its run, by a minute",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "ssh_public_key",
    "shadeform_api_key",
    "hf_token",
    "hf_repo",
    "runs_repo",
    "shadeform_api",
    "hf_endpoint",
)
def status(
    words: tuple[str, ...], watch: bool, guard: bool, as_json: bool, owner: str | None, **flags: Any
) -> int:
    """Show runs (state, money, machine, SSH line, what is proven on the Hub) and every other machine that bills."""
    from nanolan.run.ledger import Ledger, nanolan_home

    if guard and not watch:
        raise click.UsageError("--guard is for just watch")
    ledger = Ledger(nanolan_home())
    seconds, which = read_words(words, watch)
    entries, s = [] if which else shown(ledger), settings_from(flags)
    if not which and not entries and s.shadeform_api_key is None:
        from nanolan.status.view import Overview

        show(Overview((), (), (), ()), as_json)
        return 0
    s.need("shadeform_api_key", *(("hf_token",) if which or entries else ()))
    from nanolan.run.find import find, run_search
    from nanolan.shadeform.client import Shadeform

    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    if which:
        entries = [find(ledger, which, run_search(s, api), owner)]
    if not watch:
        overview = look_once(ledger, entries, api, s)
        show(overview, as_json)
        if unresolved := overview.unresolved():
            raise unresolved
        return 1 if overview.problems or any(v.problems for v in overview.runs) else 0
    if not entries:
        click.echo(
            "No run to watch. Start one: just launch phase=sft   (or, for nothing: just rehearse)"
        )
        return 0
    if guard:
        from nanolan.cost.overdue import OverdueTimer
        from nanolan.run.find import check_owner

        check_owner(ledger, entries[0])
        return follow(ledger, entries[0], api, s, seconds, as_json, OverdueTimer())
    return follow(ledger, entries[0], api, s, seconds, as_json)


def read_words(words: tuple[str, ...], watch: bool) -> tuple[float, str | None]:
    """(seconds, run) of the free words; a number of at most 4 digits is seconds when watching."""
    numbers = [w for w in words if watch and w.isascii() and w.isdigit() and len(w) <= 4]
    names = [w for w in words if w not in numbers]
    if len(numbers) > 1 or len(names) > 1 or "0" in numbers:
        raise click.UsageError("give at most one number of seconds (1 or more) and one run")
    return float(numbers[0]) if numbers else 60.0, names[0] if names else None


def shown(ledger: Ledger) -> list[Entry]:
    """Every run that is not known to be over, and the newest one."""
    entries = ledger.entries()
    return [e for i, e in enumerate(entries) if i == 0 or not e.gone]


def look_once(ledger: Ledger, entries: list[Entry], api: Shadeform, s: Any) -> Overview:
    from nanolan.hub.client import Hub
    from nanolan.shadeform.ssh_key import keep_key, key_folder
    from nanolan.status.status import look

    overview = look(ledger, entries, api, lambda e: Hub(e.plan.hf_endpoint, s.hf_token))
    for v in overview.runs:
        if v.instance and v.instance.ip and v.instance.billing and not s.ssh_public_key:
            keep_key(api, v.instance, v.entry.plan.instance_name, key_folder(os.environ))
    return overview


def show(overview: Overview, as_json: bool) -> None:
    from nanolan.status.as_json import to_dict
    from nanolan.status.text import render

    click.echo(json.dumps(to_dict(overview), indent=2) if as_json else "\n".join(render(overview)))


def follow(
    ledger: Ledger,
    entry: Entry,
    api: Shadeform,
    s: Any,
    seconds: float,
    as_json: bool,
    guard: OverdueTimer | None = None,
) -> int:
    """Look until the run has ended; a look that fails is shown as such, and the next one follows."""
    from nanolan.status.live import display

    run_id, cut_off, closer = entry.plan.run_id, "", closeup(ledger, api, s)
    try:
        with display(as_json, sys.stdout.isatty(), click.echo) as screen:
            while True:
                now = (
                    ledger.find(run_id) if ledger.has(run_id) else entry
                )  # read again: launch or stop may have written it
                overview = look_once(ledger, [now], api, s)
                view = closer(overview.runs[0])
                screen.show(replace(overview, runs=(view,)))
                done = enforce(ledger, view, api, guard) if guard else ""
                cut_off = cut_off or done
                guarded = (
                    guard is not None and view.instance is not None and view.instance.billing
                )  # one in error may bill on
                if view.ended and not overview.problems and not guarded:
                    break
                time.sleep(0 if done else seconds)
    except KeyboardInterrupt as e:
        if str(e):  # in the middle of a deletion
            raise
        click.echo(
            f"\nno longer watching; run {run_id} goes on. Stop it: just stop {run_id}", err=True
        )
        return 130
    return verdict(view, cut_off)


def closeup(ledger: Ledger, api: Shadeform, s: Any) -> Callable[[RunView], RunView]:
    """What adds the machine's own newest step, over SSH; for a local Shadeform's machines, which have no SSH, nothing."""
    from ssh import argv_of

    from nanolan.errors import NanolanError
    from nanolan.settings.settings import is_loopback
    from nanolan.status.closeup import Closeup

    def reach(v: RunView) -> list[str] | None:
        up = v.instance is not None and v.instance.billing and v.instance.ip
        if (
            v.instance is None
            or not up
            or is_loopback(api.base)
            or not ledger.has(v.entry.plan.run_id)
        ):
            return None
        try:
            return argv_of(api, s, v.entry, v.instance, batch=True, connect_s=5)
        except NanolanError:
            return None

    return Closeup(reach)


def enforce(ledger: Ledger, view: RunView, api: Shadeform, guard: OverdueTimer) -> str:
    """Delete a machine that has outlived its limits, or its run without a key, and see that it is gone; what was done, or ""."""
    from msgspec import structs

    from nanolan.cost.overdue import over_limit, over_stored, waits
    from nanolan.shadeform.lifecycle import delete_and_confirm
    from nanolan.times import SERVICE_CLOCK

    i, plan, now = view.instance, view.entry.plan, SERVICE_CLOCK.agreed()
    over = (
        (now and (over_limit(plan, i, now) or over_stored(i, now))) or waits(plan, i, view.receipt)
        if i
        else ""
    )
    if i is None or not guard.due(i, over):
        return ""
    click.echo(f"GUARD: run {plan.run_id}: {over}. DELETING instance {i.id} now", err=True)
    gone = delete_and_confirm(api, i)
    done = f"deleted by just watch --guard: {over}"
    ledger.note(
        structs.replace(
            view.entry, instance_id=i.id, gone=True, note=done, spent_cents=i.cost_now_cents()
        ),
        lambda text: click.echo(text, err=True),
    )
    click.echo(
        f"GUARD: instance {i.id} is gone: {gone.seen}. What is not on the Hub is lost", err=True
    )
    return done


def verdict(view: RunView, cut_off: str) -> int:
    """The run's exit code: 0, or its error is raised."""
    from nanolan.errors import LimitHitLost

    error = view.verdict()
    if cut_off and view.receipt is None:
        error = LimitHitLost(f"run {view.entry.plan.run_id} {cut_off}")
    if error:
        raise error
    return 0


if __name__ == "__main__":
    run(status, insist="--guard" in sys.argv)
