"""Talk to your model on this machine: on its GPU if it has one, else on the CPU.

just chat                       the latest phase that is here (just pull)
just chat source=sft            that phase's checkpoint
just chat -p "What is 12*34?"   one answer
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.settings.settings import ROOT


@click.command(cls=KeyValueCommand)
@click.option(
    "--source",
    type=click.Choice(["base", "mid", "sft", "rl"]),
    help="whose checkpoint  [the latest one here]",
)
@click.option("-p", "--prompt", help="answer this and exit")
@click.option("--device", type=click.Choice(["cuda", "mps", "cpu"]), help="[the best available]")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.6,
    show_default=True,
    help="0: always the likeliest token; higher: more varied",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 2048),
    default=256,
    show_default=True,
    help="longest answer",
)
@click.option(
    "--seed", type=int, default=42, show_default=True, help="the same seed gives the same answer"
)
@setting_options("model_tag", "output_tag")
def chat(
    source: str | None,
    prompt: str | None,
    device: str | None,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    **flags: Any,
) -> int:
    """Talk to a checkpoint in NANOCHAT_BASE_DIR."""
    from nanolan.hub.pull import base_dir

    s = settings_from(flags)
    base = base_dir(os.environ)
    folder = checkpoint_of(base, s.output_tag or s.model_tag, source)
    options = [
        f"--temperature={temperature}",
        f"--max-new-tokens={max_new_tokens}",
        f"--seed={seed}",
    ]
    options += [f"--device={device}"] * bool(device) + [f"--prompt={prompt}"] * (prompt is not None)
    command = [
        sys.executable,
        "-m",
        "nanolan.model.chat",
        str(folder),
        str(base / "tokenizer"),
        *options,
    ]
    try:
        return subprocess.run(command, cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


def checkpoint_of(base: Path, tag: str, source: str | None) -> Path:
    """The folder of `source`'s checkpoint, or of the latest phase found."""
    from nanolan.errors import UsageProblem
    from nanolan.phases import PHASES

    places = {"base": "base_checkpoints", **{p.name: p.output_dir for p in PHASES.values()}}
    wanted = [source] if source else list(reversed(places))
    for name in wanted:
        if list((base / places[name] / tag).glob("model_*.pt")):
            return base / places[name] / tag
    wanted_phase = f" from {source}" if source else ""
    command = f"just pull {source}" if source else "just pull"
    raise UsageProblem(
        f"{base} holds no checkpoint of {tag}{wanted_phase}. Download one: {command}"
    )


if __name__ == "__main__":
    run(chat)
