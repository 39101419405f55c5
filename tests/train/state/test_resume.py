"""Which state is loaded, and what can go wrong with one."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.manifest import whole_steps
from nanolan.errors import RunFailed, UsageProblem
from nanolan.model.checkpoint import load
from nanolan.train.__main__ import main
from nanolan.train.job import read_job
from nanolan.train.phase import finish
from nanolan.train.progress import ProgressWriter
from nanolan.train.state.resume import Resume, how_to_resume
from nanolan.train.stop import StopFlag
from nanolan.train.supervised import loop, prepare
from tests.support.state_fixtures import (
    ALONE,
    After,
    Forker,
    forker,  # noqa: F401  # a fixture
    found,
    same,
    states,
    train,
    weights,
)
from tests.support.tiny_world import losses, write_job
from tests.train.test_main import wait_for


# ---- which state, and whether it fits
def test_states_are_saved_by_the_clock_and_the_newest_two_kept_until_the_result_is_there(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    train(job, 7)
    assert states(job) == [7, 6]
    assert capsys.readouterr().out.count("state saved at step") == 7, (
        "the one of the stop was there already"
    )
    train(job)
    assert states(job) == []
    assert [m.step for _, m in whole_steps(tmp_path / "run" / "out")] == [12]

    other = write_job(tiny, tmp_path / "seldom", save_minutes=10)
    train(other, 7)
    assert states(other) == [7]


def test_a_damaged_newest_state_is_passed_over_for_the_one_before(
    tiny: Path, tmp_path: Path
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    train(job, 5)
    with open(tmp_path / "run/out/step-000005/optim_000005_rank0.pt", "r+b") as f:
        f.truncate(1000)
    newest = found(job)
    assert newest and newest.name == "step-000004"


def test_what_a_killed_process_left_half_is_removed(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tiny, tmp_path / "run")
    for name in (".saving-000003-77", ".shards-000003", ".gone-step-000001"):
        (tmp_path / "run" / "out" / name).mkdir(parents=True)
    train(job, 1)
    assert [p.name for p in (tmp_path / "run" / "out").iterdir()] == ["step-000001"]


@pytest.mark.parametrize(
    "change", [{"run_id": "ffffffff"}, {"phase": "sft"}, {"resume": False}], ids=str
)
def test_a_state_of_another_run_or_phase_or_an_unwanted_one_is_not_gone_on_from(
    change: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    job = read_job(write_job(tiny, tmp_path / "run"))
    train(job, 3)
    assert found(job)
    assert found(replace(job, **change)) is None


def test_states_of_another_run_in_the_same_folder_are_left_alone(
    tiny: Path, tmp_path: Path
) -> None:
    job = read_job(write_job(tiny, tmp_path / "run"))
    train(job, 3)
    train(replace(job, run_id="ffffffff"))
    assert found(job)


NOW = {"processes": 2, "data": "ab", "rows_per_step": 8, "steps": 100, "matrix_lr": 0.02}


@pytest.mark.parametrize(
    ("saved", "model_only", "want"),
    [
        ({}, False, Resume(40, True)),
        ({}, True, Resume(40, True)),
        ({"processes": 8}, False, Resume(40, True)),
        ({"processes": 8}, True, Resume(40, True)),
        ({"matrix_lr": 0.1}, True, Resume(40, False)),
        ({"data": "cd"}, True, Resume(0, False)),
        ({"steps": 50, "processes": 1}, True, Resume(0, False)),
    ],
    ids=str,
)
def test_a_state_is_taken_whole_or_its_weights_alone(
    saved: dict[str, Any], model_only: bool, want: Resume
) -> None:
    assert how_to_resume(NOW | saved, NOW, 40, model_only) == want


def test_another_recipe_is_refused_with_both_values() -> None:
    with pytest.raises(UsageProblem) as e:
        how_to_resume(NOW | {"steps": 50, "matrix_lr": 0.1}, NOW, 40, False)
    assert "steps was 50 and is 100, matrix_lr was 0.1 and is 0.02" in str(e.value)
    assert "model_only" in str(e.value)


def test_a_changed_recipe_exits_1_and_leaves_the_state(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid")
    train(job, 3)
    changed = write_job(tiny, tmp_path / "run", "mid", {"matrix_lr": 0.01})
    assert main([str(changed)]) == 1
    assert "matrix_lr was 0.02 and is 0.01" in capsys.readouterr().err
    assert states(job) == [3]


def test_weights_alone_begin_anew_under_another_recipe_and_replace_the_old_states(
    tiny: Path, tmp_path: Path
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    train(job, 9)
    learnt = losses(job)[-1]
    job = write_job(tiny, tmp_path / "run", recipe={"max_steps": 5}, model_only=True)
    t = train(job, 2)
    assert t.done == 2
    assert states(job) == [2], "the states of the old recipe would be taken for newer ones"
    assert losses(job)[9] < 2 * learnt < losses(job)[0], "it began with what the state had learnt"
    assert train(job).done == 5, "now the state fits: gone on from as a whole"


# ---- what can go wrong
def test_a_disk_that_does_not_take_a_state_costs_a_warning(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    (tmp_path / "run" / "out").mkdir(parents=True)
    (tmp_path / "run" / "out" / ".shards-000003").write_text("in the way")
    t = train(job)
    assert t.done == 12
    said = capsys.readouterr()
    assert said.err.count("warning: the state of step 3 could not be saved") == 1
    assert "state saved at step 4" in said.out


def test_a_state_with_a_weight_that_is_no_number_is_never_saved(tiny: Path, tmp_path: Path) -> None:
    job = read_job(write_job(tiny, tmp_path / "run", save_minutes=0))
    t = prepare(job, ALONE, ProgressWriter(job))
    loop(t, After(t, 3))  # type: ignore[arg-type]
    t.done += 1
    with torch.no_grad():
        t.model.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(
        RunFailed,
        match="a weight is not a number after step 4: stopped, the state in step-000003 is kept",
    ):
        finish(t, StopFlag())
    assert found(job) == tmp_path / "run" / "out" / "step-000003"


def newest_said(job: Path) -> int:
    """The newest step of which the trainer has said that it is saved."""
    out = job.with_name("out.txt")
    said = re.findall(r"state saved at step (\d+) in", out.read_text()) if out.exists() else []
    return max(map(int, said), default=0)


@pytest.mark.parametrize(
    "kills", [8, pytest.param(20, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]
)
def test_a_kill_at_any_moment_leaves_the_last_whole_state(
    kills: int, tiny: Path, tmp_path: Path, forker: Forker
) -> None:
    recipe, dice, told = {"max_steps": 5000, "val_rows": 0}, random.Random(kills), 0
    job = write_job(tiny, tmp_path / "run", "mid", recipe, save_minutes=0)
    for _ in range(kills):
        [pid] = forker.start(job)
        if (
            dice.random() < 0.7
        ):  # among the steps and saves, however busy the machine is; else while it loads
            wait_for(lambda before=told: newest_said(job) > before, 60, "a state saved")
        time.sleep(dice.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        assert forker.end() == [-signal.SIGKILL], job.with_name("out.txt").read_text()[-2000:]
        told = newest_said(job)
        assert max(states(job), default=0) >= told, "a step that was said to be saved is lost"
    last = max(states(job))
    assert last >= kills / 2
    assert len(states(job)) <= 3, (
        "at most one more than is kept, of a kill between saving and removing"
    )

    # what was trained through all the kills is what one undisturbed run trains
    train(write_job(tiny, tmp_path / "whole", "mid", recipe), last)
    a, b = (
        load(tmp_path / name / f"out/step-{last:06d}").model.state_dict()
        for name in ("run", "whole")
    )
    assert same(a, b)


def test_sigterm_between_two_micro_batches_voids_the_step(tiny: Path, tmp_path: Path) -> None:
    """The flag set in the middle of a step: the state is that of the step before."""
    job = read_job(write_job(tiny, tmp_path / "run", batch=2))

    class Middle:
        calls = 0

        @property
        def requested(self) -> bool:
            self.calls += 1
            return (
                self.calls > 2 * (4 + 1) + 2
            )  # in the third step: four micro-batches and the agreement each

    t = prepare(job, ALONE, ProgressWriter(job))
    loop(t, Middle())  # type: ignore[arg-type]
    finish(t, StopFlag())
    assert t.done == 2
    assert all(p.grad is None for p in t.model.parameters())
    assert json.loads((tmp_path / "run/out/step-000002/meta_000002.json").read_text())["step"] == 2
    whole = read_job(write_job(tiny, tmp_path / "whole", batch=2))
    train(whole)
    train(job)
    assert same(weights(tmp_path / "run/JOB.json"), weights(tmp_path / "whole/JOB.json"))


def test_a_final_checkpoint_holds_no_optimizer(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", {"max_steps": 2})
    train(job)
    assert {p.name for p in (tmp_path / "run/out/step-000002").iterdir()} == {
        "manifest.json",
        "meta_000002.json",
        "model_000002.pt",
    }
    shutil.rmtree(tmp_path / "run" / "out")
