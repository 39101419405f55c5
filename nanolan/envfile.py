""".env as `just doctor` sees it: found, private, every name known, nothing left to fill in."""
from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from nanolan.checkout import is_tracked
from nanolan.config import TABLE, Settings, load_settings, read_env_file
from nanolan.errors import PreflightFailed, UsageProblem
from nanolan.patient import Patient
from nanolan.preflight import Check

NAMES = {meta["env"] for meta in TABLE.values()}
PLACEHOLDER = re.compile(r"(?i)^your\b|\byour[_-]|^you/|^owner/|x{6,}|change.?me|placeholder|^<.*>$|\.\.\.")


def usable_settings(flags: Mapping[str, str | None], environ: Mapping[str, str], env_file: Path,
                    cached_token: Callable[[], str | None]) -> tuple[Settings, tuple[str, ...]]:
    """The settings without those that cannot be used, and what is wrong with each of these; a wrong flag is raised."""
    wrong: list[str] = []
    try:
        file = read_env_file(env_file)
    except UsageProblem as e:
        file, wrong = {}, [str(e)]
    values = {k: v for layer in (file, environ) for k, v in layer.items() if k in NAMES and v and v.strip()}
    while True:
        try:
            return load_settings(flags, values, cached_token=cached_token), tuple(wrong)
        except UsageProblem as e:
            name = str(e).partition(":")[0]
            if name not in values or name in {TABLE[k]["env"] for k, v in flags.items() if k in TABLE and v}:
                raise
            wrong.append(str(e))
            del values[name]


def look_at_env(p: Patient) -> list[Check]:
    """The file itself, then what is in it."""
    path = p.env_file
    if not path.is_file():
        enough = p.s.shadeform_api_key and p.s.hf_token and p.s.hf_repo
        return [Check(".env", None if enough else False, f"none at {path}", "cp .env.example .env && chmod 600 .env")]
    private = path.stat().st_mode & 0o077 == 0
    found = [Check(".env", True, f"{path}, for your eyes alone") if private else
             Check(".env", None, f"others on this machine can read {path}", f"chmod 600 {path}")]
    found += _tracked(path)
    try:
        return found + _names(read_env_file(path))
    except UsageProblem as e:
        return [*found, Check(".env", False, str(e), "write it anew from .env.example")]


def _names(values: Mapping[str, str | None]) -> list[Check]:
    found = []
    for name, value in values.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name.upper(), NAMES, 1)
            text = f"{name[:40]} is no setting, so it is not read" + (f"; did you mean {near[0]}?" if near else "")
            found.append(Check(".env", None, text, f"{near[0]}=... instead" if near else f"remove it, or: export {name[:40]}=..."))
        elif value and PLACEHOLDER.search(value):
            found.append(Check(".env", False, f"{name} still holds a placeholder", f"put the real {name} into .env"))
    if empty := [n for n, v in values.items() if n in NAMES and not (v or "").strip()]:
        found.append(Check(".env", None, f"without a value: {', '.join(empty)}"))
    return found


def look_at_settings(p: Patient) -> list[Check]:
    """Whether every setting can be used."""
    if p.wrong:
        return [Check("settings", False, text, f"correct {text.partition(':')[0]}, in .env or where it is exported")
                for text in p.wrong]
    s = p.s
    return [Check("settings", True, f"phase={s.phase} gpu={s.gpu}:{s.num_gpus} spend-limit={s.spend_limit / 100:.0f} "
                                    f"model-tag={s.model_tag}")]


def _tracked(path: Path) -> list[Check]:
    try:
        if not is_tracked(path):
            return []
    except PreflightFailed as e:
        return [Check(".env", False, f"whether git tracks it cannot be seen: {e}", "see what git says: git status")]
    return [Check(".env", False, "git tracks it: its keys go wherever the repo goes",
                  f"git rm --cached {path.name}, then make new keys if it was ever pushed")]
