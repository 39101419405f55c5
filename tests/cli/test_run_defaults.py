"""`just resume --help` shows the settings of the run, not those of a launch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from nanolan.cli.run_defaults import settings_of_run
from nanolan.plan import Limits
from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import PLAN


def home(tmp_path: Path) -> Path:
    """A ledger with an old run, a newer one, and a file that is no run."""
    ledger = Ledger(tmp_path)
    for run_id, moment, cents, name in (
        ("aa000001", "2026-11-20T10:00:00Z", 2550, "first"),
        ("bb000002", "2026-11-21T10:00:00Z", 8000, "second"),
    ):
        plan = msgspec.structs.replace(
            PLAN, run_id=run_id, created_at=moment, limit_cents=cents, run_name=name
        )
        ledger.put(Entry(plan, "i"))
    return tmp_path


def test_the_newest_run_or_the_named_one_is_shown(tmp_path: Path) -> None:
    env = {"NANOLAN_HOME": str(home(tmp_path))}
    newest = settings_of_run([], env)
    assert (newest["spend_limit"], newest["run_name"], newest["gpu"]) == (
        "80",
        "second",
        PLAN.offer.gpu,
    )
    assert (
        settings_of_run(["aa"], env)["spend_limit"]
        == "25.5"
        == settings_of_run(["first"], env)["spend_limit"]
    )
    assert settings_of_run(["zz"], env) == {}


def test_the_limits_of_the_launch_are_shown_as_they_are_typed(tmp_path: Path) -> None:
    limits = Limits(3000, 4050, 7200, "lambda", None)
    Ledger(tmp_path).put(Entry(msgspec.structs.replace(PLAN, limits=limits), "i"))
    shown = settings_of_run([], {"NANOLAN_HOME": str(tmp_path)})
    limits_shown = {name: shown.get(name) for name in Limits.__struct_fields__}
    assert limits_shown == {
        "max_price": "30",
        "max_total": "40.5",
        "max_duration": "7200s",
        "cloud": "lambda",
        "region": None,
    }


def test_a_ledger_that_is_missing_or_damaged_shows_a_launchs_defaults(tmp_path: Path) -> None:
    assert settings_of_run([], {"NANOLAN_HOME": str(tmp_path / "none")}) == {}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/x.json").write_text("{")
    assert settings_of_run([], {"NANOLAN_HOME": str(tmp_path)}) == {}


def test_resumes_help_has_them_in_brackets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/resume.py"), "aa", "--help"],
        capture_output=True,
        text=True,
        env={"NANOLAN_HOME": str(home(tmp_path)), "COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert (
        "this bill, in dollars  [25.5]" in done.stdout and "logs and wandb  [first]" in done.stdout
    )
