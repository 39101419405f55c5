"""The state of every run, what it costs, and what is proven on the Hub.

just status                 all live runs and the newest one
just status 1a2b            one run, by id (or a unique prefix) or run name
just watch                  again every 60 seconds until the run ends; exits with its verdict
just watch 30 1a2b          the same for one run, every 30 seconds
just watch --guard          also deletes its instance if it outlives its own limits by a minute
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, owner_option, say

if TYPE_CHECKING:
    from nanolan.cli.run import Account
    from nanolan.cost.overdue import OverdueTimer
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.live import JsonLines, Plain, Redrawn
    from nanolan.status.view import Overview, RunView


STEP_S = 5.0  # between two looks at the newest step over SSH


@click.command(cls=KeyValueCommand)
@click.argument("words", nargs=-1, metavar="[SECONDS] [RUN]")
@click.option(
    "--watch",
    is_flag=True,
    help="poll every SECONDS (60) until the run ends; Ctrl-C only stops watching",
)
@click.option(
    "--guard",
    is_flag=True,
    help="with --watch: delete an instance that outlives its limit or deadline, or without a key "
    "its run, by a minute",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@owner_option
@setting_options("ssh_public_key", *ACCOUNT)
def status(
    words: tuple[str, ...], watch: bool, guard: bool, as_json: bool, owner: str | None, **flags: Any
) -> int:
    """Show runs (state, money, instance, SSH line, what is proven on the Hub) and every other instance that bills."""
    if guard and not watch:
        raise click.UsageError("--guard is for just watch")
    seconds, which = read_words(words, watch)
    account = open_account(flags, strict=False)
    entries = [] if which else unfinished_and_newest(account.ledger)
    if not which and not entries and account.settings.shadeform_api_key is None:
        from nanolan.status.view import Overview

        show(Overview((), (), (), ()), as_json)
        return 0
    jobs = bool(entries) and all(e.plan.is_job for e in entries)
    needed = () if which or jobs else ("shadeform_api_key",)
    account.settings.need(*needed, *(("hf_token",) if which or entries else ()))
    if which:
        entries = [account.find(which, owner)]
    if not watch:
        overview = look_once(account, entries)
        show(overview, as_json)
        if unresolved := overview.unresolved():
            raise unresolved
        return 1 if overview.problems or any(v.problems for v in overview.runs) else 0
    if not entries:
        click.echo(
            "No run to watch. Start one: just launch phase=sft   (or, for nothing: just rehearse)"
        )
        return 0
    timer = None
    if guard:
        from nanolan.cost.overdue import OverdueTimer
        from nanolan.run.find import check_owner

        check_owner(account.ledger, entries[0])
        timer = OverdueTimer()
    return follow(account, entries[0], seconds, as_json, timer)


def read_words(words: tuple[str, ...], watch: bool) -> tuple[float, str | None]:
    """(seconds, run) of the free words; a number of at most 4 digits is seconds when watching."""
    numbers = [w for w in words if watch and w.isascii() and w.isdigit() and len(w) <= 4]
    names = [w for w in words if w not in numbers]
    if zero := [n for n in numbers if not int(n)]:
        raise click.UsageError(
            f"{zero[0]} seconds between two polls: give 1 or more, such as just watch 30"
        )
    if len(numbers) > 1 or len(names) > 1:
        raise click.UsageError(
            f"one number of seconds and one run at most, not {' '.join(words)[:60]}"
        )
    return float(numbers[0]) if numbers else 60.0, names[0] if names else None


def unfinished_and_newest(ledger: Ledger) -> list[Entry]:
    """Every run that is not known to be over, or that waits for an offer, and the newest one."""
    entries = ledger.entries()
    return [
        e
        for i, e in enumerate(entries)
        if i == 0 or not e.gone or e.waiting and ledger.is_launching(e.plan.run_id)
    ]


def look_once(account: Account, entries: list[Entry]) -> Overview:
    """The runs as they are now. Stores the SSH key of each running instance."""
    from nanolan.shadeform.ssh_key import key_folder, save_managed_key
    from nanolan.status.status import look

    overview = look(account.ledger, entries, account.api, account.hub)
    for v in overview.runs:
        has_address = v.instance and v.instance.ip and v.instance.billing
        if v.instance and has_address and not account.settings.ssh_public_key:
            name = v.entry.plan.instance_name
            save_managed_key(account.api, v.instance, name, key_folder(os.environ))
    return overview


def show(overview: Overview, as_json: bool) -> None:
    from nanolan.status.as_json import to_dict
    from nanolan.status.text import render

    click.echo(json.dumps(to_dict(overview), indent=2) if as_json else "\n".join(render(overview)))


def follow(
    account: Account,
    entry: Entry,
    seconds: float,
    as_json: bool,
    guard: OverdueTimer | None = None,
) -> int:
    """Poll until the run has ended; a failed poll is shown as such, and the next one follows."""
    from nanolan.status.live import display

    run_id = entry.plan.run_id
    cut_off = ""
    with_newest_step = closeup(account)
    try:
        with display(as_json, sys.stdout.isatty(), click.echo) as screen:
            while True:
                overview = look_once(account, [account.reread(entry)])
                view = with_newest_step(overview.runs[0])
                screen.show(replace(overview, runs=(view,)))
                done = enforce(account.ledger, view, account.api, guard) if guard else ""
                cut_off = cut_off or done
                # An instance in error may still bill
                guarded = guard is not None and view.instance is not None and view.instance.billing
                if view.ended and not overview.problems and not guarded:
                    break
                if not done:
                    wait_with_newest_step(screen, overview, view, with_newest_step, seconds)
    except KeyboardInterrupt as e:
        if str(e):  # during a deletion
            raise
        say(f"\nno longer watching; run {run_id} goes on. Stop it: just stop {run_id}")
        return 130
    return verdict(view, cut_off)


def wait_with_newest_step(
    screen: Redrawn | Plain | JsonLines,
    overview: Overview,
    view: RunView,
    with_newest_step: Callable[[RunView], RunView],
    seconds: float,
) -> None:
    """Wait for the next poll; on a terminal, read the newest step of a reachable instance every few seconds meanwhile."""
    from nanolan.status.live import Redrawn

    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP_S))
        if isinstance(screen, Redrawn) and left > STEP_S:
            view = with_newest_step(view)
            screen.show(replace(overview, runs=(view,)))


def closeup(account: Account) -> Callable[[RunView], RunView]:
    """Adds the newest step of the instance's own log, read over SSH; a local Shadeform's instances have no SSH."""
    from ssh import argv_of

    from nanolan.errors import NanolanError
    from nanolan.settings.settings import is_loopback
    from nanolan.status.closeup import Closeup

    def reach(v: RunView) -> list[str] | None:
        if v.instance is None or not v.instance.billing or not v.instance.ip:
            return None
        if is_loopback(account.api.base) or not account.ledger.has(v.entry.plan.run_id):
            return None
        try:
            return argv_of(account, v.entry, v.instance, batch=True, connect_s=5)
        except NanolanError:
            return None

    return Closeup(reach)


def enforce(ledger: Ledger, view: RunView, api: Shadeform, guard: OverdueTimer) -> str:
    """Delete an instance that has outlived its limits, or its run without a key, and confirm it; says what was done, or ""."""
    from msgspec import structs

    from nanolan.cost.overdue import over_limit, over_provider_limit, waiting_for_deletion
    from nanolan.shadeform.lifecycle import delete_and_confirm
    from nanolan.times import SERVICE_CLOCK

    instance = view.instance
    plan = view.entry.plan
    now = SERVICE_CLOCK.agreed()
    over = ""
    if instance:
        late = now and (over_limit(plan, instance, now) or over_provider_limit(instance, now))
        over = late or waiting_for_deletion(plan, instance, view.receipt)
    if instance is None or not guard.due(instance, over):
        return ""
    say(f"GUARD: run {plan.run_id}: {over}. DELETING instance {instance.id} now")
    gone = delete_and_confirm(api, instance)
    done = f"deleted by just watch --guard: {over}"
    spent = instance.cost_now_cents()
    entry = structs.replace(
        view.entry, instance_id=instance.id, gone=True, note=done, spent_cents=spent
    )
    ledger.note(entry, say)
    say(f"GUARD: instance {instance.id} is gone: {gone.seen}. What is not on the Hub is lost")
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
