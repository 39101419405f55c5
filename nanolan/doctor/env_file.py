"""Checks of .env: present, private, known names only, no placeholders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nanolan.checklist import Check
from nanolan.code.git import is_tracked
from nanolan.doctor.context import DoctorContext
from nanolan.errors import PreflightFailed, UsageProblem
from nanolan.settings.env_lines import read_env
from nanolan.settings.settings import FIELDS

NAMES = set(FIELDS)
PLACEHOLDER = re.compile(
    r"(?i)^your\b|\byour[_-]|^you/|^owner/|x{6,}|change.?me|placeholder|^<.*>$|\.\.\."
)


def check_env(context: DoctorContext) -> list[Check]:
    """The file, then its lines."""
    path = context.env_file
    if not os.path.lexists(path) or str(path) == os.devnull:
        enough = (
            context.settings.shadeform_api_key
            and context.settings.hf_token
            and context.settings.hf_repo
        )
        return [
            Check(
                ".env",
                None if enough else False,
                f"no file at {path}",
                "just init; or by hand: cp .env.example .env && chmod 600 .env",
            )
        ]
    try:
        file = read_env(path, NAMES)
        private = path.stat().st_mode & 0o077 == 0
    except (UsageProblem, OSError) as e:
        return [Check(".env", False, str(e), "rewrite it from .env.example")]
    found = [
        Check(".env", True, f"{path}, readable by you only")
        if private
        else Check(".env", None, f"others on this machine can read {path}", f"chmod 600 {path}")
    ]
    found += _check_tracked(path)
    return (
        found
        + [Check(".env", False, text, "correct that line") for text in file.problems]
        + _check_names(file.values)
    )


def _check_names(values: Mapping[str, str | None]) -> list[Check]:
    found = []
    for name, value in values.items():
        if name not in NAMES:
            found.append(
                Check(
                    ".env",
                    None,
                    f"{name[:40]} is not a setting and is ignored",
                    f"remove it, or: export {name[:40]}=...",
                )
            )
        elif value and PLACEHOLDER.search(value):
            found.append(
                Check(
                    ".env",
                    False,
                    f"{name} still holds a placeholder",
                    f"put the real {name} into .env",
                )
            )
    if empty := [
        name for name, value in values.items() if name in NAMES and not (value or "").strip()
    ]:
        found.append(Check(".env", None, f"without a value: {', '.join(empty)}"))
    return found


def check_settings(context: DoctorContext) -> list[Check]:
    """Whether every setting is valid; lines of .env are checked by another row."""
    if errors := [
        text for text in context.setting_errors if not text.startswith(str(context.env_file))
    ]:
        return [
            Check("settings", False, text, f"correct {text.partition(':')[0]}") for text in errors
        ]
    s = context.settings
    return [
        Check(
            "settings",
            True,
            f"phase={s.phase} gpu={s.gpu}:{s.num_gpus} spend-limit={s.spend_limit / 100:.0f} "
            f"model-tag={s.model_tag}",
        )
    ]


def _check_tracked(path: Path) -> list[Check]:
    try:
        if not is_tracked(path):
            return []
    except PreflightFailed as e:
        return [
            Check(
                ".env",
                False,
                f"could not check whether git tracks it: {e}",
                "see what is wrong: git status",
            )
        ]
    return [
        Check(
            ".env",
            False,
            "git tracks it: every push and clone contains its keys",
            f"git rm --cached {path.name}, then make new keys if it was ever pushed",
        )
    ]
