"""The offers that can be rented now, cheapest first, and what the run would cost there. Rents nothing.

just offers gpu=H100 phase=sft          with eight H100
just offers --all-configs --sort total  any number of GPUs, the cheapest run first
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import shlex
from typing import Any

import click
from market import clients, expected_on, find_offers, heading, spot_note

from nanolan.cli.command import KeyValueCommand, profile_option, run, setting_options, settings_from
from nanolan.cli.run import open_ledger
from nanolan.cli.words import typed


@click.command(cls=KeyValueCommand)
@profile_option
@setting_options(
    "phase",
    "gpu",
    "num_gpus",
    "cloud",
    "region",
    "instance_type",
    "max_price",
    "max_total",
    "spot",
    "model_tag",
    "eval",
    "shadeform_api_key",
    "shadeform_api",
)
@click.option("--all-configs", is_flag=True, help="any number of GPUs (1x, 2x, 4x, 8x)")
@click.option(
    "--sort",
    type=click.Choice(["price", "hour", "total"]),
    default="price",
    help="by price per hour, or by the run's total",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
def offers(all_configs: bool, sort: str, as_json: bool, **flags: Any) -> int:
    """Show available offers."""
    from nanolan.shadeform.offer_table import table

    s = settings_from(flags)
    cents_of = expected_on(s, open_ledger())
    found = find_offers(s, clients(s)[0], all_configs, sort, cents_of)
    if as_json:
        rows = [
            vars(o) | {"expected_usd": None if (c := cents_of(o)) is None else f"{c / 100:.2f}"}
            for o in found
        ]
        click.echo(json.dumps({"schema_version": 1, "phase": s.phase, "offers": rows}, indent=2))
    else:
        click.echo(f"=== {heading(s, sort)} ===\n")
        click.echo("\n".join(table(found, cents_of)))
        click.echo(f"\nRun: expected dollars for phase={s.phase}; * is the cheapest.")
        for line in spot_note(found):
            click.echo(line)
        click.echo(f"Rent one: just launch {shlex.join(typed(flags, all_configs, sort))}".rstrip())
    return 0


if __name__ == "__main__":
    run(offers)
