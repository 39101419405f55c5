"""Wait until a run has ended, print one line and exit with its verdict. Can be repeated, also for old runs.

just wait 1a2b && just pull     fetch the checkpoint when it is there
just wait --timeout 2h          the newest run; exit code 1 if it has not ended by then
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import time
from typing import TYPE_CHECKING, Any

import click
from check_status import verdict

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, owner_option

if TYPE_CHECKING:
    from nanolan.status.view import Overview

POLL_S = 20.0


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--timeout", help="give up waiting after this time: 90m, 2h; the run goes on")
@owner_option
@setting_options(*ACCOUNT)
def wait(which: str | None, timeout: str | None, owner: str | None, **flags: Any) -> int:
    """Wait for RUN (the newest if none is named). Exit code: the run's verdict; 1 when it has not ended in time,
    8 when it is unknown whether it bills."""
    from nanolan.errors import MayBeBilling, NanolanError
    from nanolan.money import dollars
    from nanolan.run.presence import name_of
    from nanolan.settings.settings import duration
    from nanolan.status.status import look

    end = time.monotonic() + duration(timeout) if timeout else float("inf")
    account = open_account(flags, "hf_token", strict=False)
    entry = account.find(which, owner)
    run_id = entry.plan.run_id
    while True:
        entry = account.reread(entry)
        seen = look(account.ledger, [entry], account.api, account.hub)
        view = seen.runs[0]
        if view.ended and not seen.problems:
            break
        if time.monotonic() >= end:
            if view.unknown:
                raise MayBeBilling(
                    f"run {run_id} has no confirmed end within {timeout} ({state(seen)}). It may bill: "
                    f"{name_of(entry)}"
                )
            raise NanolanError(
                f"run {run_id} has not ended within {timeout}; it goes on ({state(seen)}). Wait again: "
                f"just wait {run_id}; stop it: just stop {run_id}"
            )
        time.sleep(min(POLL_S, max(0.0, end - time.monotonic())))
    code = verdict(view, "")
    click.echo(f"run {run_id} {view.state}, {dollars(view.spent_cents)}")
    return code


def state(seen: Overview) -> str:
    """The run's state, or why it is unavailable."""
    view = seen.runs[0]
    return "; ".join((view.state, *seen.problems, *view.problems))


if __name__ == "__main__":
    run(wait)
