"""Write identity_conversations.jsonl: conversations in which your model says who it is.

just identity name=Lanbot creator="Gleb"                          from templates, offline
just identity name=Lanbot creator="Gleb" model=openai/gpt-4o-mini --dry-run
                                                                  the price of asking an OpenAI-compatible endpoint
just identity --from FILE                                         your own: ShareGPT, Alpaca, prompts and answers
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run

if TYPE_CHECKING:
    from nanolan.checkpoint.conversations import Message
    from nanolan.identity import Identity

Conversations = Iterator[list["Message"]]


@click.command(cls=KeyValueCommand)
@click.option("--name", help="the model's name")
@click.option("--creator", help="who made it")
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
    "--from",
    "source",
    type=TypedPath(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="convert this file instead: ShareGPT, Alpaca, prompts and answers, or messages",
)
@click.option(
    "--to",
    "out",
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
    name: str | None,
    creator: str | None,
    personality: str,
    count: int,
    seed: int,
    source: Path | None,
    out: Path | None,
    model: str | None,
    endpoint: str,
    price_per_million: float | None,
    dry_run: bool,
) -> int:
    """Write a checked identity_conversations.jsonl."""
    from nanolan import identity as made

    if source:
        if name or creator or model:
            raise click.UsageError("--from converts a file: leave out name=, creator= and model=")
        found = made.from_file(source, say)
        return show(found) if dry_run else write(out, found)
    if not (name and creator):
        raise click.UsageError("give name= and creator=, or a file to convert: --from FILE")
    who = made.Identity(name, creator, personality)
    if dry_run:
        price = made.estimate(count, price_per_million) if model else ""
        click.echo(price or f"{count} conversations from templates: free, offline")
        example(made.from_templates(who, 1, seed)[0])
        return 0
    if model:
        return write(out, asked(who, count, model, endpoint, seed))
    return write(out, iter(made.from_templates(who, count, seed)))


def say(text: str) -> None:
    click.echo(text, err=True)


def example(messages: list[Message]) -> None:
    click.echo("For example: " + json.dumps(messages, ensure_ascii=False))


def show(found: Conversations) -> int:
    """The first of the conversations, and how many there are."""
    first = next(found)
    click.echo(f"{1 + sum(1 for _ in found):,} conversations can be converted; nothing was written")
    example(first)
    return 0


def asked(who: Identity, count: int, model: str, endpoint: str, seed: int) -> Conversations:
    """Conversations of an endpoint; AuthProblem without its key."""
    from nanolan import identity as made
    from nanolan.errors import AuthProblem
    from nanolan.redact import Secret
    from nanolan.settings.settings import TABLE

    key = os.environ.get("OPENROUTER_API_KEY", "").strip()
    if not key:
        raise AuthProblem(
            "OPENROUTER_API_KEY is not set. Get one: https://openrouter.ai/keys; or use the templates: leave out model="
        )
    address = TABLE["shadeform_api"]["parse"](endpoint)  # https, or this machine
    yield from (
        made.check(m)
        for m in made.from_endpoint(
            who, count, made.Endpoint(address, model, Secret(key)), seed, say
        )
    )


def write(out: Path | None, found: Conversations) -> int:
    """Write the conversations one a line; an existing file stays, and a half-written one is removed."""
    from nanolan.errors import UsageProblem
    from nanolan.phases import IDENTITY_FILE

    out = out or Path(IDENTITY_FILE).absolute()
    if not out.parent.is_dir():
        raise UsageProblem(f"to: there is no folder {out.parent}; create it first")
    if out.exists():
        raise UsageProblem(f"{out} exists already; move it away or choose another file: --to FILE")
    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temp, "w", encoding="utf-8") as f:
            for count, messages in enumerate(found, 1):  # noqa: B007  # how many there were
                f.write(json.dumps(messages, ensure_ascii=False) + "\n")
        temp.replace(out)
    finally:
        temp.unlink(missing_ok=True)
    click.echo(f"{out}: {count:,} conversations. Upload it: just upload data {out}")
    return 0


if __name__ == "__main__":
    run(identity)
