"""Shared by tests/doctor/test_doctor*.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanolan.doctor.context import DoctorContext, open_context
from nanolan.settings.load import load_settings
from tests.support.core_fixtures import script

MID = "mid_checkpoints/d20"


def doctor(env: dict[str, str], *words: str) -> tuple[int, dict[str, Any]]:
    done = script("doctor", "--json", *words, env=env)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def texts(report: dict[str, Any], name: str, state: str = "") -> str:
    return "\n".join(
        f"{c['state']} {c['text']} -> {c['fix']}"
        for c in report["checks"]
        if c["name"] == name and state in ("", c["state"])
    )


def doctor_context(tmp_path: Path, **env: str) -> DoctorContext:
    settings = load_settings({}, env)
    return open_context(
        settings, (), env, tmp_path / ".env", tmp_path, tmp_path / "home", tmp_path / "keys", 0.3
    )
