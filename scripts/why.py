"""Why a run ended, or that nothing is wrong: cause, money, what was saved and lost, next step.

just why                    the newest run
just why 1a2b               one run, by id (or a unique prefix), run name or instance id
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options
from nanolan.cli.run import ACCOUNT, open_account, owner_option


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@owner_option
@setting_options(*ACCOUNT)
def why(which: str | None, as_json: bool, owner: str | None, **flags: Any) -> int:
    """Say why RUN (the newest if none is named) ended as it did, and what to do next."""
    from nanolan.status.status import look
    from nanolan.status.why import look_into, render, to_dict

    account = open_account(flags, "hf_token", strict=False)
    entry = account.find(which, owner)
    hub = account.hub(entry)
    seen = look(account.ledger, [entry], account.api, lambda _: hub)
    found = look_into(hub, seen.runs[0], seen.problems)
    click.echo(json.dumps(to_dict(found), indent=2) if as_json else "\n".join(render(found)))
    return 1 if found.problems else 0


if __name__ == "__main__":
    run(why)
