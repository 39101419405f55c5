"""What the runs of this laptop cost, by run, month and phase. Reads only the ledger.

just costs                 as a table
just costs --json          for scripts
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json

import click

from nanolan.cli.command import KeyValueCommand, run
from nanolan.cli.run import open_ledger, say


@click.command(cls=KeyValueCommand)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
def costs(as_json: bool) -> int:
    """Add up what was spent, including every instance of every run."""
    from nanolan.cost.spending import render, to_dict

    ledger = open_ledger()
    entries = ledger.entries()
    gaps = [gap for gap in [ledger.gap()] if gap]
    for gap in gaps:
        say(f"note: {gap}")
    click.echo(
        json.dumps(to_dict(entries) | {"unreadable": gaps}, indent=2)
        if as_json
        else "\n".join(render(entries))
    )
    return 0


if __name__ == "__main__":
    run(costs)
