"""Train a phase on this machine's own GPUs: no cloud, no bill; same trainer, checkpoints and metrics.

    just train-here phase=sft               from NANOCHAT_BASE_DIR (~/.cache/nanochat) and back into it
    just train-here phase=mid --device cpu  for tiny models only

Ctrl-C saves the state; the same command continues from it.
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import os
import signal
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.cli.run import say
from nanolan.errors import quoted


@click.command(cls=KeyValueCommand)
@setting_options(
    "phase",
    "run_name",
    "model_tag",
    "output_tag",
    "batch",
    "eval",
    "humaneval",
    "no_identity",
    "save_minutes",
    "hf_token",
    "hf_endpoint",
    "wandb_project",
    "wandb_base_url",
    "wandb_api_key",
)
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    help="[cuda; cpu must be named]",
)
@click.option("--processes", type=click.IntRange(1, 64), help="[one per GPU; 1 on a CPU]")
@click.option(
    "--recipe", default="{}", help='changes to the recipe as JSON, such as {"max_steps": 20}'
)
@click.option(
    "--model-only",
    is_flag=True,
    help="take only the weights of a saved state with another process count or recipe",
)
def train_here(
    device: str | None, processes: int | None, recipe: str, model_only: bool, **flags: Any
) -> int:
    """Train on this machine."""
    from nanolan.box.machine_check import usable_cuda_devices
    from nanolan.errors import UsageProblem
    from nanolan.hub.client import Hub
    from nanolan.hub.pull import base_dir
    from nanolan.run.record import StopReason
    from nanolan.train_here import LocalRun
    from nanolan.train_here import train_here as train

    s = settings_from(flags)
    gpus = usable_cuda_devices() if device != "cpu" else 0
    if device != "cpu" and not gpus:
        raise UsageProblem(
            "torch finds no usable CUDA GPU. A tiny model trains on the CPU: --device cpu; a d20 would take weeks"
        )
    try:
        changes = dict(json.loads(recipe))
    except (ValueError, TypeError):
        raise UsageProblem(f"--recipe {quoted(recipe, 60)} is not a JSON object") from None
    asked: list[StopReason] = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(StopReason("user", "Ctrl-C")))
    local = LocalRun(
        base_dir(os.environ),
        device or "cuda",
        processes or max(gpus, 1),
        os.environ,
        lambda: asked[0] if asked else None,
        say,
        changes,
        model_only,
    )
    for folder in train(s, local, Hub(s.hf_endpoint, s.hf_token)):
        click.echo(str(folder))
    return 0


if __name__ == "__main__":
    run(train_here)
