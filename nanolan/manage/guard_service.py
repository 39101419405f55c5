"""Two ways to run a guard: a systemd user unit on a machine that stays on, or a Hugging Face Job for a cent an hour. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nanolan.errors import PreflightFailed, UsageProblem
from nanolan.money import usd
from nanolan.plan import Plan
from nanolan.settings.settings import Settings
from nanolan.times import parse_time

UNIT = "nanolan-guard"
KEPT = (
    "NANOLAN_ENV_FILE",
    "NANOLAN_HOME",
    "HF_HOME",
    "HTTPS_PROXY",
    "REQUESTS_CA_BUNDLE",
)  # paths and addresses, no secrets
# A job's image must have git, python3 and venv; the cheapest flavor suffices
IMAGE, FLAVOR, CENTS_PER_HOUR = "python:3.12", "cpu-basic", 1
AFTER_S = 30 * 60  # a job ends this long after the run's deadline, to confirm the deletion
# Runs in the job. All values come from its environment, including the secrets HF_TOKEN and SHADEFORM_API_KEY
JOB = """set -eu
cd "$(mktemp -d)"
python3 - <<'END'
import os, urllib.request
ask = urllib.request.Request(os.environ["CODE_URL"])
ask.add_unredirected_header("Authorization", "Bearer " + os.environ["HF_TOKEN"])
open("code.bundle", "wb").write(urllib.request.urlopen(ask, timeout=60).read())
END
echo "$CODE_SHA256  code.bundle" | sha256sum -c -
git init --quiet code
git -C code fetch --quiet ../code.bundle "refs/nanolan/$RUN_ID/nanolan"
git -C code checkout --quiet FETCH_HEAD
cd code
sh scripts/setup.sh light
exec .venv/bin/python scripts/guard.py --owner "$OWNER" --until-none
"""


def unit(root: Path, owner: str, environ: Mapping[str, str]) -> str:
    """The text of the unit. It contains no secret: the guard reads .env of the checkout."""
    words = f"{root}/.venv/bin/python", f"{root}/scripts/guard.py", "--owner", owner
    start = " ".join(
        quoted(word).replace("$", "$$") for word in words
    )  # systemd expands variables only in this line
    kept = [
        f"Environment={quoted(f'{name}={environ[name]}')}"
        for name in KEPT
        if environ.get(name) and not holds_password(environ[name])
    ]
    return "\n".join(
        [
            "# The guard of nanolan's instances. It contains no secret: it reads .env in the checkout. To install it:",
            f"#   just guard --unit > ~/.config/systemd/user/{UNIT}.service",
            f"#   systemctl --user daemon-reload && systemctl --user enable --now {UNIT}",
            "# and once, so that it runs while nobody is logged in:  loginctl enable-linger",
            f"# Its log: journalctl --user -u {UNIT} -f",
            "[Unit]",
            "Description=nanolan guard: deletes rented instances whose run is over or that outlive their limits",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            f"WorkingDirectory={specified(str(root))}",
            *kept,
            f"ExecStart={start}",
            "Restart=always",
            "RestartSec=60",
            "NoNewPrivileges=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def holds_password(address: str) -> bool:
    """Whether a proxy's address may contain credentials: the unit is readable by everyone, so it must not have them."""
    return "://" in address and "@" in address


def quoted(word: str) -> str:
    """A quoted word of a line of the unit; UsageProblem for characters that a unit cannot hold."""
    return '"' + specified(word).replace("\\", "\\\\").replace('"', '\\"') + '"'


def specified(text: str) -> str:
    """A text with systemd's % specifiers escaped."""
    if not text.isprintable():
        raise UsageProblem(
            f"{text[:60]!r} cannot be in a systemd unit: it holds a control character"
        )
    return text.replace("%", "%%")


@dataclass(frozen=True)
class GuardJob:
    """A job to submit; only the names of its secrets are ever shown. It may restart after a failure: a guard is stateless."""

    env: dict[str, str]
    timeout_s: int
    name: str
    command: tuple[str, ...] = ("bash", "-c", JOB)
    image: str = IMAGE
    flavor: str = FLAVOR
    attempts: int = 3
    secrets: tuple[str, ...] = ("HF_TOKEN", "SHADEFORM_API_KEY")

    @property
    def most_cents(self) -> int:
        """The cost until its time limit; billed by the minute."""
        return max(1, -(-self.timeout_s * CENTS_PER_HOUR // 3600))

    def to_dict(self) -> dict[str, Any]:
        """For --dry-run and --json."""
        return {
            "schema_version": 1,
            "name": self.name,
            "image": self.image,
            "flavor": self.flavor,
            "timeout_s": self.timeout_s,
            "usd_per_hour": usd(CENTS_PER_HOUR),
            "most_usd": usd(self.most_cents),
            "secrets": list(self.secrets),
            "env": self.env,
            "command": list(self.command),
        }


def guard_job(s: Settings, plan: Plan, owner: str, revision: str, now: datetime) -> GuardJob:
    """The job that guards `owner`'s instances with the code of the run `plan` at `revision` of its repo."""
    left_s = int((parse_time(plan.deadline) - now).total_seconds())
    if left_s <= 0:
        raise PreflightFailed(
            f"run {plan.run_id} is past its date ({plan.deadline}), so a job for it has no use. Launch first; "
            "or list what bills: just orphans"
        )
    runs = {"RUNS_REPO": s.runs_repo} if s.runs_repo else {}
    env = {
        "OWNER": owner,
        "RUN_ID": plan.run_id,
        "CODE_SHA256": plan.code.sha256,
        "HF_REPO": s.hf_repo,
        **runs,
        "CODE_URL": f"{plan.hf_endpoint}/{plan.runs_repo}/resolve/{revision}/{plan.folder}/code.bundle",
        "HF_ENDPOINT": s.hf_endpoint,
        "SHADEFORM_API": s.shadeform_api,
    }
    return GuardJob(env, left_s + AFTER_S, f"{UNIT}-{plan.run_id}")
