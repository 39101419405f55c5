"""(Plan, secrets) -> the startup script and the create request. Pure; the only place that puts values into bash."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import shlex
import tokenize
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolan.errors import PreflightFailed
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.settings.settings import Settings
from nanolan.shadeform.models import SPOT, attempt_tag, owner_tag, run_tag
from nanolan.times import parse_time

CLOUD = Path(__file__).resolve().parents[2] / "cloud"
MAX_SCRIPT_BYTES = 12_000  # before base64; the limit is undocumented, some clouds take 16 KB
# What the rescue program needs to delete the instance and report it; the full plan comes from the run folder
FACTS = (
    "run_id",
    "attempt",
    "phases",
    "created_at",
    "shadeform_api",
    "hf_endpoint",
    "runs_repo",
    "public",
)
# unpack TEXT: reverses pack(). Keeps secrets out of command lines
UNPACK = (
    'unpack() { printf %s "$1" | python3 -c \'import sys, zlib, base64; '
    "sys.stdout.buffer.write(zlib.decompress(base64.b85decode(sys.stdin.read())))'; }"
)
ALERT_PERCENT = 60


def box_key(settings: Settings) -> Secret | None:
    """The Shadeform key that goes to the box, or None."""
    return (
        settings.shadeform_api_key_box or settings.shadeform_api_key
        if settings.self_delete
        else None
    )


def box_secrets(settings: Settings) -> dict[str, str]:
    """The secrets that the box needs to upload, delete itself and send notifications."""
    named = {
        "SHADEFORM_API_KEY": box_key(settings),
        "HF_TOKEN": settings.hf_token,
        "WANDB_API_KEY": settings.wandb_api_key,
        "NOTIFY_URL": settings.notify_url,
    }
    return {name: secret.reveal() for name, secret in named.items() if secret}


def startup_script(plan: Plan, secrets: dict[str, str], run_revision: str) -> str:
    """boot.sh, packed, after its values; every value is quoted here."""
    values = script_values(plan) | {
        "RUN_URL": run_url(plan, run_revision),
        "DEADLINE": str(int(parse_time(plan.deadline).timestamp())),
        "SECRETS": pack(json.dumps(secrets).encode()),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    script = "\n".join(
        ["#!/bin/bash", *lines, UNPACK, 'BOOT=$(unpack "$BOOT") || exit 1', 'eval "$BOOT"', ""]
    )
    if (size := len(script.encode())) > MAX_SCRIPT_BYTES:
        raise PreflightFailed(
            f"the startup script would have {size:,} bytes, more than the {MAX_SCRIPT_BYTES:,} that every cloud "
            "accepts; nothing was rented. Shorten NOTIFY_URL or the other keys and names"
        )
    return script


@lru_cache(maxsize=3)  # a checkout may change while a launch waits; the code that it sends does not
def cloud_file(name: str) -> str:
    return (CLOUD / name).read_text()


def script_values(plan: Plan) -> dict[str, str]:
    """The values of boot.sh that come from the plan alone, and boot.sh itself."""
    return {
        "RUN_ID": plan.run_id,
        "SETUP": plan.setup,
        "DEVICE": plan.device,
        "MIN_FREE_GB": str(plan.min_free_gb),
        "CODE_SHA256": plan.code.sha256,
        "PLAN_SHA256": hashlib.sha256(plan.to_json()).hexdigest(),
        "FACTS": pack(facts(plan)),
        "RESCUE": pack(minify_python(cloud_file("rescue.py")).encode()),
        "BOOT": pack(minify_shell(cloud_file("boot.sh")).encode()),
    }


def run_url(plan: Plan, revision: str) -> str:
    """Where the files of the run folder are downloaded from."""
    return f"{plan.hf_endpoint}/{plan.runs_repo}/resolve/{revision}/{plan.folder}"


def facts(plan: Plan) -> bytes:
    """The part of the plan that the box needs before the Hub answers, as JSON."""
    return json.dumps({name: getattr(plan, name) for name in FACTS}).encode()


def pack(data: bytes) -> str:
    """Compressed text that fits in single quotes in bash."""
    return base64.b85encode(zlib.compress(data, 9)).decode()


def unpack(text: str) -> bytes:
    """Reverse `pack`."""
    return zlib.decompress(base64.b85decode(text))


@lru_cache(maxsize=1)  # one program, the same for every attempt
def minify_python(source: str) -> str:
    """A program without comments, docstrings and empty lines; all other lines are unchanged."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node)
            and len(node.body) > 1
        ):
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [""] * (
                (first.end_lineno or first.lineno) - first.lineno + 1
            )
    return "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"


def minify_shell(source: str) -> str:
    """A shell script without empty lines and comments, which begin a line or follow two spaces."""
    lines = [re.sub(r"(^|\s{2,})#\s.*", "", line) for line in source.splitlines()]
    return "\n".join(line for line in lines if line.strip()) + "\n"


def create_body(plan: Plan, script: str, ssh_key_id: str | None = None) -> dict[str, Any]:
    """The create request: both limits, the run in name and tags, the script; without a key id, Shadeform's default key."""
    offer = plan.offer
    return {
        "cloud": offer.cloud,
        "region": offer.region,
        "shade_instance_type": offer.instance_type,
        "shade_cloud": True,
        **({"rental_type": SPOT} if offer.spot else {}),
        "name": plan.instance_name,
        "os": offer.os,
        "launch_configuration": {
            "type": "script",
            "script_configuration": {"base64_script": _b64(script.encode())},
        },
        "auto_delete": provider_limits(plan),
        "alert": {"spend_threshold": _dollars(plan.limit_cents * ALERT_PERCENT // 100)},
        "tags": [
            "nanolan",
            run_tag(plan.run_id),
            attempt_tag(plan.attempt),
            owner_tag(plan.owner),
            *output_tags(plan),
        ],
        **({"ssh_key_id": ssh_key_id} if ssh_key_id else {}),
    }


def provider_limits(plan: Plan) -> dict[str, str]:
    """The limits at which the provider deletes the instance: a bill and a date."""
    return {"spend_threshold": _dollars(plan.limit_cents), "date_threshold": plan.deadline}


def output_tags(plan: Plan) -> list[str]:
    """One tag per output folder, so that another laptop detects a conflict."""
    return [f"nanolan-out={plan.hf_repo}/{plan.result_folder(p)}" for p in plan.phases]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
