"""A run as a Hugging Face Job: its flavor by the Hub's own list of machines and prices, its time limit, its command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanolan.errors import BadAnswer, UsageProblem
from nanolan.hub.client import Hub
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.jobs import job_name
from nanolan.shadeform.gpu_types import normalized
from nanolan.times import parse_time

IMAGE = "python:3.12"  # Debian with git and a compiler; PyTorch brings its CUDA libraries
UNITS = {"minute": 60, "hour": 1}  # of a price -> units an hour


@dataclass(frozen=True)
class Flavor:
    """A machine of Hugging Face Jobs."""

    name: str
    gpu: str
    num_gpus: int
    vram_gb: int  # of one GPU; 0 if the list does not tell
    hourly_cents: int

    def text(self) -> str:
        """For a list: "h200x8 (8x H200, $40.00/h)"."""
        return f"{self.name} ({self.num_gpus}x {self.gpu}, {dollars(self.hourly_cents)}/h)"


def flavors(hub: Hub) -> list[Flavor]:
    """Every machine with GPUs, cheapest first; BadAnswer when the list cannot be read."""
    try:
        found = [_flavor(h) for h in hub.jobs_hardware() if h.accelerator]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise BadAnswer(
            f"the Hub's list of machines cannot be read ({type(e).__name__}: {e}); nothing was exported"
        ) from None
    return sorted((f for f in found if f), key=lambda f: f.hourly_cents)


def _flavor(hardware: Any) -> Flavor | None:
    """A machine of the Hub's list; None for one without Nvidia GPUs, or with a price in another unit."""
    accelerator, unit = hardware.accelerator, UNITS.get(hardware.unit_label)
    if accelerator.type != "gpu" or accelerator.manufacturer.lower() != "nvidia" or not unit:
        return None
    count = int(accelerator.quantity)
    cents = math.ceil(int(hardware.unit_cost_micro_usd) * unit / 10_000)
    if count < 1 or cents < 1:
        raise ValueError(f"{hardware.name} has {count} GPUs for {cents} cents")
    total = "".join(c for c in accelerator.vram.partition(" ")[0] if c.isdigit())
    return Flavor(hardware.name, accelerator.model, count, int(total or 0) // count, cents)


def choose(known: Sequence[Flavor], gpu: str, num_gpus: int) -> Flavor:
    """The cheapest flavor with these GPUs; UsageProblem with the list if there is none."""
    name = normalized(gpu.partition("_")[0])
    for flavor in known:
        if (normalized(flavor.gpu), flavor.num_gpus) == (name, num_gpus):
            return flavor
    listed = ", ".join(f.text() for f in known) or "none with GPUs"
    raise UsageProblem(
        f"Hugging Face Jobs has no machine with {num_gpus}x {gpu}; nothing was exported. It has: {listed}"
    )


def arguments(plan: Plan, command: str, secrets: Sequence[str]) -> dict[str, Any]:
    """The arguments of huggingface_hub.run_job, but for the values of the secrets."""
    return {
        "image": IMAGE,
        "command": ["bash", "-c", command],
        "flavor": plan.offer.instance_type,
        "timeout": timeout_s(plan),
        "name": job_name(plan),
        "secrets": list(secrets),
    }


def timeout_s(plan: Plan) -> int:
    """After how many seconds Hugging Face ends the job: the life of the run's machine."""
    return int((parse_time(plan.deadline) - parse_time(plan.created_at)).total_seconds())


def to_script(plan: Plan, given: dict[str, Any]) -> str:
    """A shell script that submits the job with the `hf` command. The secrets are named: `hf` reads them from its environment."""
    secrets = [word for name in given["secrets"] for word in ("--secrets", name)]
    words = ["hf", "jobs", "run", "--detach", "--name", given["name"], "--flavor", given["flavor"]]
    words += ["--timeout", f"{given['timeout']}s", *secrets, given["image"], *given["command"]]
    head = (
        f"# nanolan run {plan.run_id}: {'+'.join(plan.phases)} of {plan.hf_repo} {plan.model_tag}, at most "
        f"{dollars(plan.limit_cents)} at {dollars(plan.offer.hourly_cents)}/h\n"
    )
    return f"#!/bin/sh\n{head}exec {shlex.join(words)}\n"
