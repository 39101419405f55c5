"""Every run of this laptop in a line: when, what, how it ended, what it cost. Reads only the ledger.

just runs                   as a table, newest first
just runs --json            for scripts
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json

import click

from nanolan.cli.command import KeyValueCommand, run
from nanolan.cli.run import open_ledger, say


@click.command(cls=KeyValueCommand)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
def runs(as_json: bool) -> int:
    """List the runs with verdict, cost and date. What runs now, as the account has it: just status."""
    from nanolan.status.run_list import render, to_dict

    ledger = open_ledger()
    entries = ledger.entries()
    launching = {e.plan.run_id for e in entries if e.waiting and ledger.is_launching(e.plan.run_id)}
    if gap := ledger.gap():
        say(f"note: {gap}")
    click.echo(
        json.dumps(to_dict(entries, launching), indent=2)
        if as_json
        else "\n".join(render(entries, launching))
    )
    return 0


if __name__ == "__main__":
    run(runs)
