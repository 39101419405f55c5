"""What the runs of this laptop cost: by run, month and phase. Reads the ledger alone.

just costs                 as a table
just costs --json          for scripts
"""

from __future__ import annotations

import json

import click

from nanolan.cli.command import KeyValueCommand, run


@click.command(cls=KeyValueCommand)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
def costs(as_json: bool) -> int:
    """Sum up what was spent, every machine of every run included."""
    from nanolan.cost.spending import render, to_dict
    from nanolan.run.ledger import Ledger, nanolan_home

    ledger = Ledger(nanolan_home())
    entries = ledger.entries()
    gaps = [gap for gap in [ledger.gap()] if gap]
    for gap in gaps:
        click.echo(f"note: {gap}", err=True)
    click.echo(
        json.dumps(to_dict(entries) | {"unreadable": gaps}, indent=2)
        if as_json
        else "\n".join(render(entries))
    )
    return 0


if __name__ == "__main__":
    run(costs)
