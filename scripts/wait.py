"""Wait until a run has ended, and exit with its verdict; one line at the end, as often as you like, also for old runs.

just wait 1a2b && just pull     fetch the checkpoint once it is there
just wait --timeout 2h          the newest run; exit code 1 if it still goes on then
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from check_status import verdict

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.status.view import Overview

LOOK_EVERY_S = 20.0


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--timeout", help="give up waiting after this time: 90m, 2h; the run goes on")
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def wait(which: str | None, timeout: str | None, owner: str | None, **flags: Any) -> int:
    """Wait for RUN (the newest if none is named). Exit code: the run's verdict; 1 when it has not ended in time,
    8 when nobody could see whether it bills."""
    from nanolan.errors import MayBeBilling, NanolanError
    from nanolan.hub.client import Hub
    from nanolan.money import dollars
    from nanolan.run.find import find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.run.presence import name_of
    from nanolan.settings.settings import duration
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.status import look

    end = time.monotonic() + duration(timeout) if timeout else float("inf")
    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key", "hf_token")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entry = find(ledger, which, run_search(s, api), owner)
    run_id = entry.plan.run_id
    while True:
        entry = (
            ledger.find(run_id) if ledger.has(run_id) else entry
        )  # read again: stop or resume may have written it
        seen = look(ledger, [entry], api, lambda e: Hub(e.plan.hf_endpoint, s.hf_token))
        view = seen.runs[0]
        if view.ended and not seen.problems:
            break
        if time.monotonic() >= end:
            if view.unknown:
                raise MayBeBilling(
                    f"run {run_id} was not seen to end within {timeout} ({state(seen)}). It may bill: "
                    f"{name_of(entry)}"
                )
            raise NanolanError(
                f"run {run_id} has not ended within {timeout}; it goes on ({state(seen)}). Wait again: "
                f"just wait {run_id}; stop it: just stop {run_id}"
            )
        time.sleep(min(LOOK_EVERY_S, max(0.0, end - time.monotonic())))
    code = verdict(view, "")
    click.echo(f"run {run_id} {view.state}, {dollars(view.spent_cents)}")
    return code


def state(seen: Overview) -> str:
    """Where the run is, or why that could not be seen."""
    view = seen.runs[0]
    return "; ".join((view.state, *seen.problems, *view.problems))


if __name__ == "__main__":
    run(wait)
