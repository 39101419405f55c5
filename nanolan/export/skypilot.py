"""The task YAML of a SkyPilot managed job. It holds no secret: SkyPilot takes those from `--secret NAME`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from nanolan.errors import UsageProblem, quoted
from nanolan.export.gpus import skypilot_names
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.redact import printable
from nanolan.run.jobs import job_name

DISK_GB = 256
IDLE_MINUTES = 10  # after which SkyPilot takes down a cluster whose controller is gone, or that `sky launch` started
INFRA = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def infra_of(cloud: str | None, region: str | None) -> str:
    """SkyPilot's `infra` of the settings cloud= and region=: "aws", "aws/us-east-1", or "" for any."""
    if region and not cloud:
        raise UsageProblem("region= needs cloud=, such as cloud=aws region=us-east-1")
    parts = [p for p in (cloud, region) if p]
    if wrong := [p for p in parts if not re.fullmatch(INFRA, p)]:
        raise UsageProblem(
            f"{quoted(wrong[0], 60)} is not a cloud or region of SkyPilot, such as aws"
        )
    return "/".join(parts)


def task(plan: Plan, run: str, secrets: Sequence[str], infra: str = "") -> dict[str, Any]:
    """The task as SkyPilot reads it. A verdict of the run is final, so errors start no other machine; a preemption does."""
    gpus = [f"{name}:{plan.offer.num_gpus}" for name in skypilot_names(plan.offer.gpu)]
    return {
        "name": job_name(plan),
        "resources": {
            **({"infra": infra} if infra else {}),
            "accelerators": gpus[0] if len(gpus) == 1 else gpus,
            "disk_size": DISK_GB,
            "max_hourly_cost": plan.offer.hourly_cents / 100,
            "use_spot": plan.offer.spot,
            "job_recovery": {"max_restarts_on_errors": 0},
            "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
        },
        "secrets": dict.fromkeys(secrets),
        "run": run,
    }


class _Text(str):
    """A text that is written as it is, over several lines."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Text` in YAML's literal style."""


_Dumper.add_representer(
    _Text, lambda d, text: d.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def to_yaml(plan: Plan, task: dict[str, Any], file: str) -> str:
    """The task as a file, with the commands that start and end it."""
    head = [
        f"nanolan run {plan.run_id}: {'+'.join(plan.phases)} of {plan.hf_repo} {plan.model_tag}, at most "
        f"{dollars(plan.limit_cents)} at {dollars(plan.offer.hourly_cents)}/h",
        f"start it:  {launch_command(plan, tuple(task['secrets']), file)}",
        f"follow it: just watch 60 {plan.run_id}",
        f"stop it:   just stop {plan.run_id} (it saves first)",
    ]
    written = task | {"run": _Text(task["run"])}
    body = yaml.dump(written, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return "".join(f"# {printable(' '.join(line.split()))}\n" for line in head) + body


def launch_command(plan: Plan, secrets: Sequence[str], file: str) -> str:
    """What starts the job. The secrets are named: SkyPilot reads them from the environment of the command."""
    names = [word for name in secrets for word in ("--secret", name)]
    return shlex.join(["sky", "jobs", "launch", "-n", job_name(plan), *names, file])
