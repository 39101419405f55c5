"""Stop a run: its instance saves, uploads, proves and deletes itself; waits until the deletion is confirmed.

just stop                   the newest run
just stop 1a2b3c4d          a run id (or a unique prefix), a run name, or an instance id
just stop 1a2b --now        delete the instance at once; what is not on the Hub yet is lost
just stop 1a2b --cancelled  of a run of just export: you cancelled its job at SkyPilot or Hugging Face
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, agree, job_named, open_account, owner_option, say


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--now", is_flag=True, help="delete at once: what is not on the Hub yet is lost")
@click.option(
    "--cancelled",
    is_flag=True,
    help="of a run of just export: record that you cancelled its job",
)
@click.option(
    "--timeout",
    default="15m",
    help="how long to wait for the end of a run that saves itself  [15m]",
)
@click.option("-y", "--yes", is_flag=True, help="do not ask")
@owner_option
@setting_options(*ACCOUNT)
def stop(
    which: str | None,
    now: bool,
    cancelled: bool,
    timeout: str,
    yes: bool,
    owner: str | None,
    **flags: Any,
) -> int:
    """Stop RUN (the newest run if none is named); returns once its instance is confirmed deleted."""
    from nanolan.manage.stop import Stop
    from nanolan.settings.settings import duration

    timeout_s = duration(timeout)
    account = open_account(flags, strict=False)
    if job := job_named(account, which, owner):
        from nanolan.manage.job import ManagedJob, stop_job

        managed = ManagedJob.of(account, job, click.echo, lambda text: agree(yes, text, "stopped"))
        return stop_job(managed, now=now, cancelled=cancelled, timeout_s=timeout_s)
    if cancelled:
        raise click.UsageError("--cancelled is for runs of just export; a run at Shadeform: --now")
    account.settings.need("shadeform_api_key")
    stopping = Stop(
        account.ledger,
        account.api,
        account.settings,
        say,
        click.echo,
        lambda question: agree(yes, question, "stopped"),
    )
    return stopping.run(which, owner, now, timeout_s)


if __name__ == "__main__":
    run(stop, insist=True)
