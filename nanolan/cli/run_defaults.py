"""The settings of a run as `just resume --help` shows them: read from the ledger's files, by the standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nanolan.errors import UsageProblem
from nanolan.settings.paths import nanolan_home

# Field of the plan -> setting
SHOWN = {
    "run_name": "run_name",
    "output_tag": "output_tag",
    "batch": "batch",
    "evaluate": "eval",
    "gate": "gate",
    "save_minutes": "save_minutes",
    "upload_minutes": "upload_minutes",
    "hf_repo": "hf_repo",
    "runs_repo": "runs_repo",
    "wandb_project": "wandb_project",
}


def settings_of_run(
    words: Sequence[str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Setting -> value of the run that one of `words` names, or of the newest one; {} if there is none."""
    plans = sorted(_plans(environ), key=lambda plan: str(plan.get("created_at")), reverse=True)
    named = [p for p in plans for word in words if _is_named(p, word)]
    if not plans or (words and not named):
        return {}
    plan = (named or plans)[0]
    offer = plan.get("offer") or {}
    found = {name: plan.get(field) for field, name in SHOWN.items()}
    found |= {"gpu": offer.get("gpu"), "num_gpus": offer.get("num_gpus")}
    limits = plan.get("limits") or {}
    found |= {name: limits.get(name) for name in ("cloud", "region")}
    for name, cents in (
        ("spend_limit", plan.get("limit_cents")),
        *((name, limits.get(name)) for name in ("max_price", "max_total")),
    ):
        if isinstance(cents, int):
            found[name] = f"{cents / 100:g}"
    if isinstance(seconds := limits.get("max_duration"), int):
        found["max_duration"] = f"{seconds}s"
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _is_named(plan: Mapping[str, Any], word: str) -> bool:
    return str(plan.get("run_id")).startswith(word) or plan.get("run_name") == word


def _plans(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The plans in the ledger; what cannot be read is left out: this is only help."""
    found = []
    try:
        for path in (nanolan_home(environ) / "runs").iterdir():
            if path.suffix == ".json":
                found.append({**json.loads(path.read_bytes())["plan"]})
    except (OSError, ValueError, KeyError, TypeError, UsageProblem):
        pass
    return found
