"""JOB.json: read whole, or refused by the name of the key that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import UsageProblem
from nanolan.train.job import read_job
from tests.support.tiny_world import write_job


def test_a_job_is_read_with_paths_and_defaults(tmp_path: Path) -> None:
    job = read_job(write_job(tmp_path, tmp_path / "run", recipe={"max_steps": 3}))
    assert job.init_dir == tmp_path / "base_checkpoints" / "d20"
    assert job.recipe["max_steps"] == 3
    assert job.batch is None
    assert job.wandb is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phase": "base"}, "phase is 'base', expected mid or sft or rl"),
        ({"resume": 1}, "resume is 1"),
        ({"save_minutes": -1}, "save_minutes is -1"),
        ({"save_minutes": True}, "save_minutes is True"),
        ({"device": "mps"}, "device is 'mps'"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": "8"}, "batch is '8'"),
        ({"batch": True}, "batch is True"),
        ({"init_dir": None}, "init_dir is None, expected a path"),
        ({"recipe": [1]}, "recipe is"),
        ({"wandb": "yes"}, "wandb is 'yes'"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"run_id": 5}, "run_id is 5"),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write_job(tmp_path, tmp_path / "run")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageProblem, match=says):
        read_job(path)


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_file_that_is_no_job_is_named(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "JOB.json").write_text(text)
    with pytest.raises(UsageProblem, match="JOB.json"):
        read_job(tmp_path / "JOB.json")
