"""Write identity_conversations.jsonl: conversations in which your model says who it is.

just identity name=Lanbot creator="Gleb"                          from templates, offline
just identity name=Lanbot creator="Gleb" model=openai/gpt-4o-mini --dry-run
                                                                  the price of asking an OpenAI-compatible endpoint
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run


@click.command(cls=KeyValueCommand)
@click.option("--name", required=True, help="the model's name")
@click.option("--creator", required=True, help="who made it")
@click.option(
    "--personality",
    default="friendly, curious and brief",
    show_default=True,
    help="its character, in a few words",
)
@click.option(
    "--count", type=click.IntRange(1, 100_000), default=500, show_default=True, help="conversations"
)
@click.option(
    "--seed",
    type=int,
    default=42,
    show_default=True,
    help="the same seed gives the same file (templates)",
)
@click.option(
    "--out",
    type=TypedPath(path_type=Path, dir_okay=False),
    help="the file to write  [identity_conversations.jsonl in the checkout]",
)
@click.option(
    "--model",
    help="ask this model of the endpoint instead of using templates; needs OPENROUTER_API_KEY",
)
@click.option(
    "--endpoint",
    default="https://openrouter.ai/api/v1",
    show_default=True,
    help="an OpenAI-compatible endpoint",
)
@click.option(
    "--price-per-million",
    type=click.FloatRange(0),
    help="dollars per million tokens of the model, for the estimate",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="show the price and one example; sends nothing, writes nothing",
)
def identity(
    name: str,
    creator: str,
    personality: str,
    count: int,
    seed: int,
    out: Path | None,
    model: str | None,
    endpoint: str,
    price_per_million: float | None,
    dry_run: bool,
) -> int:
    """Write a checked identity_conversations.jsonl."""
    from nanolan import identity as made
    from nanolan.errors import AuthProblem, UsageProblem
    from nanolan.phases import IDENTITY_FILE
    from nanolan.redact import Secret
    from nanolan.settings.settings import TABLE

    who = made.Identity(name, creator, personality)
    if dry_run:
        click.echo(
            made.estimate(count, price_per_million)
            if model
            else f"{count} conversations from templates: free, offline"
        )
        click.echo(
            "For example: " + json.dumps(made.from_templates(who, 1, seed)[0], ensure_ascii=False)
        )
        return 0
    out = out or Path(IDENTITY_FILE).absolute()
    if not out.parent.is_dir():
        raise UsageProblem(f"out: there is no folder {out.parent}; create it first")
    if out.exists():
        raise UsageProblem(f"{out} exists already; move it away or choose another out=")
    if model:
        key = os.environ.get("OPENROUTER_API_KEY", "").strip()
        if not key:
            raise AuthProblem(
                "OPENROUTER_API_KEY is not set. Get one: https://openrouter.ai/keys; or use the templates: leave out model="
            )
        address = TABLE["shadeform_api"]["parse"](endpoint)  # https, or this machine
        asked = made.Endpoint(address, model, Secret(key))
        lines = list(
            made.from_endpoint(who, count, asked, seed, lambda text: click.echo(text, err=True))
        )
    else:
        lines = made.from_templates(who, count, seed)
    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temp.write_text("".join(json.dumps(made.check(m), ensure_ascii=False) + "\n" for m in lines))
    temp.replace(out)
    click.echo(f"{out}: {len(lines)} conversations. Upload it: just upload data {out}")
    return 0


if __name__ == "__main__":
    run(identity)
