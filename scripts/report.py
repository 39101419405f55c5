"""Write a run's report as one HTML page that needs no network: verdict, money, curves, scores, answers. Works for running runs.

just report                 the newest run, to reports/<id>.html
just report 1a2b            by id (or a unique prefix) or run name
just report 1a2b --to run.html
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from pathlib import Path
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, owner_option, say


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option(
    "--to",
    "output",
    type=TypedPath(path_type=Path, dir_okay=False),
    help="file to write  [reports/<id>.html]",
)
@owner_option
@setting_options(*ACCOUNT)
def report(which: str | None, output: Path | None, owner: str | None, **flags: Any) -> int:
    """Write the report of RUN (the newest if none is named) and print where it is."""
    from nanolan.report.from_laptop import report_data_from_laptop
    from nanolan.report.page import render_page, write_page
    from nanolan.settings.paths import typed
    from nanolan.status.status import look

    account = open_account(flags, "hf_token")
    entry = account.find(which, owner)
    hub = account.hub(entry)
    seen = look(account.ledger, [entry], account.api, lambda _: hub)
    data = report_data_from_laptop(seen.runs[0], hub, seen.problems)
    path = output or typed("reports") / f"{entry.plan.run_id}.html"
    click.echo(str(write_page(render_page(data), path)))
    for problem in data.problems:
        say(f"unavailable: {problem}")
    return 1 if data.problems else 0


if __name__ == "__main__":
    run(report)
