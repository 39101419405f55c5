"""The training log of a run, from the first second of its boot: live over SSH, in parts on the Hub, complete after its end.

just logs                   the last 100 lines of the newest run
just logs 1a2b -n all       every line of one run
just logs -f                follows until the run ends; Ctrl-C only stops following
just logs --since 10m       by the timestamps in the log; lines without one belong to the one before
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from ssh import argv_of

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, owner_option, say
from nanolan.errors import quoted

if TYPE_CHECKING:
    from nanolan.cli.run import Account
    from nanolan.run.ledger import Entry
    from nanolan.status.logs import Reader
    from nanolan.status.view import RunView

LAST = 100


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option(
    "-f", "--follow", is_flag=True, help="show new lines as they are written, until the run ends"
)
@click.option(
    "-n",
    "--lines",
    "last",
    metavar="N",
    help=f"only the last N lines, or all  [{LAST}; all with --since]",
)
@click.option("--since", help="only lines of the last 10m, 2h")
@owner_option
@setting_options("ssh_public_key", *ACCOUNT)
def logs(
    which: str | None,
    follow: bool,
    last: str | None,
    since: str | None,
    owner: str | None,
    **flags: Any,
) -> int:
    """Show the log of RUN (the newest if none is named)."""
    from nanolan.errors import NotFound
    from nanolan.settings.settings import duration
    from nanolan.status.logs import chosen
    from nanolan.times import now_utc

    most = count(last, since)
    moment = now_utc() - timedelta(seconds=duration(since)) if since else None
    account = open_account(flags, "hf_token", strict=False)
    entry = account.find(which, owner)
    run_id = entry.plan.run_id
    reader = reader_of(account, entry)
    mask = account.settings.mask()
    try:
        try:
            lines = reader.lines()
        except NotFound as e:
            if not follow or reader.view is None:
                raise NotFound(f"{e}. Where it is: just status {run_id}") from None
            lines = []
        show(chosen(lines, most, moment), mask)
        for line in reader.onward(len(lines)) if follow else ():
            show([line], mask)
    except KeyboardInterrupt:
        say(f"\nno longer looking; run {run_id} goes on. Stop it: just stop {run_id}")
        return 130
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if follow and reader.view:
        say(f"run {run_id} {reader.view.state}; how it went: just why {run_id}")
    return 0


def count(last: str | None, since: str | None) -> int | None:
    """How many lines at most; None for all."""
    if last is None:
        return None if since else LAST
    if last == "all":
        return None
    if not last.isascii() or not last.isdigit() or len(last) > 9:
        raise click.UsageError(f"-n {quoted(last, 20)}: give a number of lines, or all")
    return int(last)


def reader_of(account: Account, entry: Entry) -> Reader:
    """The reader of the run's log."""
    from nanolan.errors import NanolanError
    from nanolan.status.logs import HubLog, Reader
    from nanolan.status.status import look

    hub = account.hub(entry)

    def look_once() -> RunView:
        return look(account.ledger, [account.reread(entry)], account.api, lambda _: hub).runs[0]

    def reach(view: RunView) -> list[str] | None:
        instance = view.instance
        if not instance or not instance.billing or not instance.ip:
            return None
        if not account.ledger.has(entry.plan.run_id):
            return None
        try:
            return argv_of(account, view.entry, instance, batch=True, connect_s=5)
        except NanolanError:
            return None  # the Hub has it too

    return Reader(look_once, HubLog(hub), reach, say, time.sleep)


def show(lines: list[str], mask: Any) -> None:
    """Print lines without terminal control codes and secrets."""
    from nanolan.status.logs import shown

    for line in lines:
        click.echo(shown(mask.hide(line)))


if __name__ == "__main__":
    run(logs, verbatim=True)
