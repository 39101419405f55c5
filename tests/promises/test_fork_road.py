"""A foreign trainer takes the whole road, also with a fault on the way: launch, box, the fork's own scripts, Hub, deletion."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from nanolan.launch.make_plan import Rehearsal
from nanolan.settings.load import load_settings
from nanolan.sim.fork_seed import seed_data, seed_fork
from nanolan.sim.rehearsal import Outcome, rehearse
from nanolan.sim.scenarios import SCENARIOS
from nanolan.sim.world import REPO, World
from nanolan.trainers.choose import with_trainer
from tests.support.core_fixtures import QUICK
from tests.support.forks import commit_all, copy_fork

CUSTOM = """
[tool.nanolan.phases.own]
command = "python -m scripts.own"
input = "base_checkpoints"
output = "own_checkpoints"
"""
OWN = """
import json, os, shutil, time
from pathlib import Path

base = Path(os.environ["NANOCHAT_BASE_DIR"])
print("GPUs:", os.environ["NANOLAN_GPUS"], flush=True)
time.sleep(1)
target = base / "own_checkpoints" / "any"
shutil.copytree(base / "base_checkpoints" / "d20", target)
"""


def play(tmp_path: Path, cache: Path, checkout: Path, fault: str, *words: str) -> Outcome:
    scenario = SCENARIOS[fault] if fault else None
    said = [*words, f"trainer={checkout}"]
    with World(tmp_path / "world", cache=cache, delays=QUICK) as world:
        flags = dict(word.split("=", 1) for word in said)
        small = Rehearsal(**world.rehearsal).fork_options
        s, chosen = with_trainer(load_settings(flags, {}), Path("/"), rehearsed=small, python="-")
        assert chosen
        seed_data(world.hub)
        seed_fork(world.hub, REPO, chosen.fork, s.input_folder, checkout)
        lines: list[str] = []
        outcome = rehearse(world, said, scenario, lines.append, time.monotonic())
        print("\n".join(lines))
        return outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("generation", "fault", "verdict", "lost"),
    [
        ("2025", "", "succeeded", 0),
        ("2026", "", "succeeded", 0),
        ("2025", "limit", "stopped", 2),
        ("2026", "limit", "stopped", 2),
        ("2026", "hang", "succeeded", 60),
        ("2026", "oom", "succeeded", 60),
        ("2026", "reboot", "succeeded", 60),
        ("2026", "vanish", "succeeded", 120),
    ],
)
def test_a_fork_loses_nothing_but_what_the_launch_said(
    tmp_path: Path, seed_cache: Path, generation: str, fault: str, verdict: str, lost: int
) -> None:
    checkout = commit_all(copy_fork(generation, tmp_path / "my-nanochat"))
    outcome = play(tmp_path, seed_cache, checkout, fault, "phase=sft", "run-name=fork")
    assert outcome.view and outcome.verdict == verdict
    assert outcome.left_running == 0 and outcome.lost_steps <= lost
    assert outcome.saved.startswith("sft "), "the result, or the weights at the stop"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_declared_command_takes_the_road(tmp_path: Path, seed_cache: Path) -> None:
    checkout = copy_fork("2026", tmp_path / "my-nanochat")
    with (checkout / "pyproject.toml").open("a") as f:
        f.write(CUSTOM)
    (checkout / "scripts" / "own.py").write_text(OWN)
    shutil.rmtree(checkout / "__pycache__", ignore_errors=True)
    outcome = play(tmp_path, seed_cache, commit_all(checkout), "", "phase=own")
    assert outcome.verdict == "succeeded" and outcome.saved == "own whole"
