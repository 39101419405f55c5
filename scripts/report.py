"""A run's report as one page of HTML that needs no network: verdict, money, curves, scores, answers. Also of a run that still goes.

just report                 the newest run, to reports/<id>.html
just report 1a2b            by id (or a unique prefix) or run name
just report 1a2b --output run.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run, setting_options, settings_from


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option(
    "--output",
    type=TypedPath(path_type=Path, dir_okay=False),
    help="file to write  [reports/<id>.html]",
)
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def report(which: str | None, output: Path | None, owner: str | None, **flags: Any) -> int:
    """Write the report of RUN (the newest if none is named) and print where it is."""
    from nanolan.hub.client import Hub
    from nanolan.report.from_laptop import report_data_from_laptop
    from nanolan.report.page import render_page, write_page
    from nanolan.run.find import find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.status import look

    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key", "hf_token")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entry = find(ledger, which, run_search(s, api), owner)
    hub = Hub(entry.plan.hf_endpoint, s.hf_token)
    seen = look(ledger, [entry], api, lambda _: hub)
    story = report_data_from_laptop(seen.runs[0], hub, seen.problems)
    click.echo(
        str(write_page(render_page(story), output or Path("reports") / f"{entry.plan.run_id}.html"))
    )
    for problem in story.problems:
        click.echo(f"unavailable: {problem}", err=True)
    return 1 if story.problems else 0


if __name__ == "__main__":
    run(report)
