"""The local services on loopback: a Shadeform, a Hub seeded for a run, and the environment to reach them.

The real environment is excluded: no .env, no keys, no cached logins, no proxies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from nanolan.errors import UsageProblem
from nanolan.settings.settings import ROOT, is_loopback
from nanolan.sim.hub.server import HubServer
from nanolan.sim.seed import seed
from nanolan.sim.shadeform.faults import ACTIONS, AFTER_EFFECT, SWITCHES
from nanolan.sim.shadeform.server import ShadeformServer

REPO = "me/lanbot-checkpoints"
KEPT = re.compile(r"PATH|HOME|LANG|LC_\w+|TERM|TMPDIR|COLUMNS|(PIP|UV|SSL)_?\w*|REQUESTS_CA_BUNDLE")
# A model of two layers on a few hundred rows: seconds on two cores, and the loss falls visibly
RECIPE = {
    "sequence_len": 128,
    "tokens_per_step": 2048,
    "max_steps": 24,
    "val_rows": 16,
    "init_lr_frac": 0.5,
    "spelling_rows": 100,
    "exam_problems": 8,
    "exam_new_tokens": 24,
    "rl": {
        "max_steps": 40,
        "questions_per_step": 8,
        "samples": 8,
        "max_new_tokens": 32,
        "eval_questions": 16,
        "eval_samples": 4,
        "init_lr_frac": 0.3,
    },
}

# The same for the scripts of a foreign trainer, where they have such options
FORK_OPTIONS = {
    "device_type": "cpu",
    "device_batch_size": 2,
    "max_seq_len": 128,
    "total_batch_size": 1024,
    "target_examples_per_step": 8,
    "num_iterations": 120,
    "eval_every": 20,
    "eval_tokens": 1024,
    "eval_steps": 2,
    "eval_metrics_every": 1000,
    "eval_metrics_max_problems": 4,
    "chatcore_every": -1,
    "examples_per_step": 4,
    "num_samples": 4,
    "eval_examples": 4,
    "max_problems": 8,
    "max_new_tokens": 16,
    "batch_size": 2,
}


def restore_environment(before: Mapping[str, str | None]) -> None:
    """Set each variable to its value of `before`; None: it was not set."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class World:
    """Both servers in `root`, started and stopped together."""

    def __init__(
        self,
        root: Path,
        *,
        tag: str = "d20",
        cache: Path | None = None,
        xet: bool = True,
        trainer: str = "nanolan.train",
        setup: str = "train",
        recipe: dict[str, Any] | None = None,
        **cloud: Any,
    ) -> None:
        self.root, self._tag, self._cache = root, tag, cache
        self.rehearsal: dict[str, Any] = {
            "recipe": RECIPE if recipe is None else recipe,
            "trainer": trainer,
            "setup": setup,
            "fork_options": FORK_OPTIONS,
        }
        self.hub = HubServer(root / "hub", xet=xet)
        self.cloud = ShadeformServer(root / "cloud", **cloud)
        self._servers = ExitStack()

    def __enter__(self) -> World:
        # boxes get the host's package settings, but no network
        packages = offline_packages(os.environ)
        before = {name: os.environ.get(name) for name in packages}
        os.environ.update(packages)
        self._servers.callback(restore_environment, before)
        self._servers.enter_context(self.hub)
        self._servers.enter_context(self.cloud)
        seed(self.hub, REPO, self._tag, self._cache)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._servers.close()

    def switch(self, fault: str) -> None:
        """Turn on one of the cloud's faults, with @N for the first N instances only: "delete-ignored:2", "goes-to-error@1",
        "gpu-count-wrong:7@1", "create-out-of-stock@2"; UsageProblem for an unknown one."""
        m = re.fullmatch(r"([a-z_]+)(?::(\d+(?:\.\d+)?))?(?:@(\d+))?", fault.replace("-", "_"))
        name, value, times = (
            (m[1], m[2] or "", int(m[3]) if m[3] else None) if m else ("", "", None)
        )
        action = name.removeprefix("create_")
        if name in SWITCHES:
            self.cloud.switch(
                name, float(value) if "." in value else int(value) if value else True, times
            )
        elif action != name and action.removesuffix(AFTER_EFFECT) in ACTIONS.keys() - {
            "edit",
            "stall",
        }:
            self.cloud.fault("POST /v1/instances/create", action, times)
        else:
            raise UsageProblem(f"no fault {fault[:40]!r}; see: just sim --list-faults")

    def env(self) -> dict[str, str]:
        """The complete environment of a command in this world; raises unless both addresses are loopback."""
        if not (is_loopback(self.cloud.url) and is_loopback(self.hub.url)):
            raise RuntimeError("a rehearsal must stay on this machine")
        kept = {k: v for k, v in os.environ.items() if KEPT.fullmatch(k)}
        return (
            kept
            | self.hub.env(self.root / "hf-home")
            | {
                "SHADEFORM_API": self.cloud.url,
                "SHADEFORM_API_KEY": self.cloud.key,
                "HF_REPO": REPO,
                "NANOLAN_HOME": str(self.root / "nanolan-home"),
                "NANOLAN_SSH_KEYS": str(self.root / "ssh-keys"),
                "NANOLAN_ENV_FILE": os.devnull,
                "NANOLAN_REHEARSAL": json.dumps(self.rehearsal),
            }
        )


def offline_packages(environ: Mapping[str, str]) -> dict[str, str]:
    """UV_* settings with which scripts/setup.sh installs only from this machine's package cache; {} without uv."""
    uv = environ.get("UV") or shutil.which(
        "uv", path=f"{ROOT / '.venv/bin'}{os.pathsep}{environ.get('PATH', '')}"
    )
    if not uv:
        return {}  # then scripts/setup.sh uses pip, as on a bare machine
    cache = (
        environ.get("UV_CACHE_DIR")
        or subprocess.run([uv, "cache", "dir"], capture_output=True, text=True).stdout.strip()
    )
    return {"UV": uv, "UV_OFFLINE": "1", "UV_CACHE_DIR": cache}
