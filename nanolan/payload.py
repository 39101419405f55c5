"""(Plan, secrets) -> the startup script and the create request. Pure; the one place where values meet bash."""
from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from typing import Any

from nanolan.config import Settings
from nanolan.errors import PreflightFailed
from nanolan.instance import attempt_tag, owner_tag, run_tag
from nanolan.plan import Plan, parse_time
from nanolan.secret import Secret

CLOUD = Path(__file__).resolve().parent.parent / "cloud"
MOST_SCRIPT_BYTES = 60_000   # the limit is not documented; clouds with one start at 64 KB
ALERT_PERCENT = 60


def box_key(settings: Settings) -> Secret | None:
    """The Shadeform key that goes to the machine, if any does."""
    return settings.shadeform_api_key_box or settings.shadeform_api_key if settings.self_delete else None


def box_secrets(settings: Settings) -> dict[str, str]:
    """What the box needs to upload, to delete itself and to tell of it."""
    named = {"SHADEFORM_API_KEY": box_key(settings), "HF_TOKEN": settings.hf_token,
             "WANDB_API_KEY": settings.wandb_api_key, "NOTIFY_URL": settings.notify_url}
    return {name: s.reveal() for name, s in named.items() if s}


def startup_script(plan: Plan, secrets: dict[str, str], run_revision: str) -> str:
    """boot.sh with its values in front; every value is quoted here and nowhere else."""
    values = {
        "RUN_ID": plan.run_id,
        "SETUP": plan.setup,
        "MIN_FREE_GB": str(plan.min_free_gb),
        "DEADLINE": str(int(parse_time(plan.deadline).timestamp())),
        "CODE_URL": f"{plan.hf_endpoint}/{plan.runs_repo}/resolve/{run_revision}/{plan.folder}/code.bundle",
        "CODE_SHA256": plan.code.sha256,
        "PLAN_B64": _b64(plan.to_json()),
        "SECRETS_B64": _b64(json.dumps(secrets).encode()),
        "RESCUE_B64": _b64((CLOUD / "rescue.py").read_bytes()),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    script = "\n".join(["#!/bin/bash", *lines, (CLOUD / "boot.sh").read_text()])
    if (size := len(script.encode())) > MOST_SCRIPT_BYTES:
        raise PreflightFailed(f"the startup script would have {size} bytes, more than {MOST_SCRIPT_BYTES}: "
                              "too many input files; nothing was rented")
    return script


def create_body(plan: Plan, script: str, ssh_key_id: str | None = None) -> dict[str, Any]:
    """The create request: both limits, the run in name and tags, the script; no key: Shadeform's default one."""
    o = plan.offer
    return {
        "cloud": o.cloud, "region": o.region, "shade_instance_type": o.instance_type, "shade_cloud": True,
        "name": plan.instance_name, "os": o.os,
        "launch_configuration": {"type": "script", "script_configuration": {"base64_script": _b64(script.encode())}},
        "auto_delete": limits(plan),
        "alert": {"spend_threshold": _dollars(plan.limit_cents * ALERT_PERCENT // 100)},
        "tags": ["nanolan", run_tag(plan.run_id), attempt_tag(plan.attempt), owner_tag(plan.owner), *output_tags(plan)],
        **({"ssh_key_id": ssh_key_id} if ssh_key_id else {}),
    }


def limits(plan: Plan) -> dict[str, str]:
    """The provider's own limits: it deletes the instance at this bill, or at this date."""
    return {"spend_threshold": _dollars(plan.limit_cents), "date_threshold": plan.deadline}


def output_tags(plan: Plan) -> list[str]:
    """One tag per folder that the run will write, so that another laptop sees the clash."""
    from nanolan.phases import PHASES
    return [f"nanolan-out={plan.hf_repo}/{PHASES[p].output_dir}/{plan.output_tag}" for p in plan.phases]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
