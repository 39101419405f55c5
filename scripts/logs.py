"""The training log of a run, from the first second of its boot: live over SSH, in parts on the Hub, whole after its end.

just logs                   the last 100 lines of the newest run
just logs 1a2b -n all       every line of one run
just logs -f                goes on until the run ends; Ctrl-C only stops looking
just logs --since 10m       by the stamps in the log; lines without one belong to the stamp before them
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from ssh import argv_of

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.logs import Reader
    from nanolan.status.view import RunView

LAST = 100


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("-f", "--follow", is_flag=True, help="go on as lines are written, until the run ends")
@click.option(
    "-n",
    "--lines",
    "last",
    metavar="N",
    help=f"only the last N lines, or all  [{LAST}; all with --since]",
)
@click.option("--since", help="only lines of the last 10m, 2h")
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
    from nanolan.run.find import find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.settings.settings import duration
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.logs import chosen
    from nanolan.times import now_utc

    most, moment = (
        count(last, since),
        now_utc() - timedelta(seconds=duration(since)) if since else None,
    )
    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key", "hf_token")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entry = find(ledger, which, run_search(s, api), owner)
    reader, run_id, mask = reader_of(ledger, entry, api, s), entry.plan.run_id, s.mask()
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
        click.echo(
            f"\nno longer looking; run {run_id} goes on. Stop it: just stop {run_id}", err=True
        )
        return 130
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if follow and reader.view:
        click.echo(f"run {run_id} {reader.view.state}; how it went: just why {run_id}", err=True)
    return 0


def count(last: str | None, since: str | None) -> int | None:
    """How many lines at most; None for all."""
    if last is None:
        return None if since else LAST
    if last == "all":
        return None
    if not last.isascii() or not last.isdigit() or len(last) > 9:
        raise click.UsageError(f"-n {last[:20]!r}: give a number of lines, or all")
    return int(last)


def reader_of(ledger: Ledger, entry: Entry, api: Shadeform, s: Settings) -> Reader:
    """What reads the run's log."""
    from nanolan.errors import NanolanError
    from nanolan.hub.client import Hub
    from nanolan.status.logs import HubLog, Reader
    from nanolan.status.status import look

    plan, hub = entry.plan, Hub(entry.plan.hf_endpoint, s.hf_token)

    def look_once() -> RunView:
        now = (
            ledger.find(plan.run_id) if ledger.has(plan.run_id) else entry
        )  # another attempt may have begun
        return look(ledger, [now], api, lambda _: hub).runs[0]

    def reach(view: RunView) -> list[str] | None:
        i = view.instance
        if not i or not i.billing or not i.ip or not ledger.has(plan.run_id):
            return None
        try:
            return argv_of(api, s, view.entry, i, batch=True, connect_s=5)
        except NanolanError:
            return None  # the Hub has it too

    return Reader(
        look_once, HubLog(hub), reach, lambda text: click.echo(text, err=True), time.sleep
    )


def show(lines: list[str], mask: Any) -> None:
    """On stdout, with nothing in it that drives a terminal, and no secret."""
    from nanolan.status.logs import shown

    for line in lines:
        click.echo(shown(mask.hide(line)))


if __name__ == "__main__":
    run(logs)
