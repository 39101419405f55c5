"""Rent an instance that trains, uploads, proves and deletes itself.

just launch phase=sft                         asks which offer, then whether to rent
just launch phase=mid+sft gpu=H100 -y         takes the cheapest, asks nothing
just dry-run phase=sft                        shows what would happen and cost
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from typing import TYPE_CHECKING, Any

import click
from market import checks_of, clients, expected_on
from renting import Asked, Options, launch_now, launch_when_offered, wait_option, wait_seconds

from nanolan.cli.command import KeyValueCommand, profile_option, run, setting_options, settings_from
from nanolan.cli.run import open_ledger
from nanolan.cli.trainer import rehearsal_of, trainer_of
from nanolan.cli.words import typed

if TYPE_CHECKING:
    from nanolan.launch.prepare import Prepared
    from nanolan.shadeform.offers import Offer


@click.command(
    cls=KeyValueCommand,
    epilog="Words work too: phase=sft gpu=H100:8 spend-limit=100. A trailing `just watch` follows the run.",
)
@setting_options()
@profile_option
@click.option(
    "--dry-run", is_flag=True, help="show what would happen and cost; rents nothing, asks nothing"
)
@click.option("-y", "--yes", is_flag=True, help="rent without asking: the cheapest offer that fits")
@click.option("--all-configs", is_flag=True, help="offers with any number of GPUs (1x, 2x, 4x, 8x)")
@click.option(
    "--sort",
    type=click.Choice(["price", "hour", "total"]),
    default="price",
    help="order of the offers: by price per hour, or by the run's total",
)
@click.option(
    "--yes-really",
    is_flag=True,
    help="accept limits that the forecast advises against, and spend limits above $1,000",
)
@click.option("--keep-old", is_flag=True, help="keep older steps in the output folder on the Hub")
@click.option(
    "--no-wait",
    is_flag=True,
    help="return once it is rented, without waiting for probation; "
    "a bad instance is then not replaced by the next offer",
)
@wait_option
@click.option("--json", "as_json", is_flag=True, help="the result as JSON on stdout")
def launch(
    dry_run: bool,
    yes: bool,
    all_configs: bool,
    sort: str,
    yes_really: bool,
    keep_old: bool,
    no_wait: bool,
    wait_text: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Launch a training run: offer, checks, worst-case bill, consent, rent, and wait until training has begun."""
    from nanolan.launch.preflight import check_hub
    from nanolan.launch.prepare import prepare

    s = settings_from(flags)
    seconds = wait_seconds(wait_text)
    if not dry_run:
        s.need("shadeform_api_key", "hf_token", "hf_repo")
    rehearsal = rehearsal_of(s)
    s, chosen = trainer_of(s, rehearsal)
    api, hub = clients(s)
    ledger = open_ledger()
    ledger.check_writable()  # a dry-run writes nothing, but its launch will
    found = check_hub(hub, s) if hub else None  # with the model's size, which the table needs
    expected = expected_on(s, ledger, found, rehearsal)

    def prepare_on(offer: Offer) -> Prepared:
        return prepare(
            s,
            offer,
            ledger.owner if not dry_run else "0" * 8,
            hub,
            api.instances if api else None,
            rehearsal=rehearsal,
            keep_old=keep_old,
            earlier=ledger.entries(),
            gpu_checks=checks_of(ledger),
            yes_really=yes_really,
            chosen=chosen,
            found=found,
        )

    words = typed(flags, all_configs, sort, keep_old, yes_really)
    asked = Asked(s, ledger, api, hub, expected, prepare_on, words, all_configs, sort)
    options = Options(dry_run, yes, not no_wait, as_json)
    if wait_text:
        return launch_when_offered(asked, options, seconds, [*words, f"wait={wait_text}"])
    return launch_now(asked, options)


if __name__ == "__main__":
    run(launch, insist=True)
