"""Why a run ended, or that nothing is wrong: cause, money, what was saved and lost, what to do next.

just why                    the newest run
just why 1a2b               one run, by id (or a unique prefix), run name or instance id
"""

from __future__ import annotations

import json
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from


@click.command(cls=KeyValueCommand)
@click.argument("which", metavar="[RUN]", required=False)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint"
)
def why(which: str | None, as_json: bool, owner: str | None, **flags: Any) -> int:
    """Say why RUN (the newest if none is named) ended as it did, and what to do next."""
    from nanolan.hub.client import Hub
    from nanolan.run.find import find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.shadeform.client import Shadeform
    from nanolan.status.status import look
    from nanolan.status.why import look_into, render, to_dict

    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key", "hf_token")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    entry = find(ledger, which, run_search(s, api), owner)
    hub = Hub(entry.plan.hf_endpoint, s.hf_token)
    seen = look(ledger, [entry], api, lambda e: hub)
    found = look_into(hub, seen.runs[0], seen.problems)
    click.echo(json.dumps(to_dict(found), indent=2) if as_json else "\n".join(render(found)))
    return 1 if found.problems else 0


if __name__ == "__main__":
    run(why)
