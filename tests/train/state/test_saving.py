"""Stop and go on: N + N steps are 2N steps to the last bit, and no kill -9 leaves less than the last whole state."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from nanolan.checkpoint.manifest import newest_whole
from nanolan.model.checkpoint import load, read_state
from tests.support.state_fixtures import (
    Forker,
    forker,  # noqa: F401  # a fixture
    same,
    states,
    train,
    weights,
)
from tests.support.tiny_world import losses, write_job
from tests.train.test_main import steps_written, wait_for


@pytest.mark.parametrize("phase", ["mid", "sft"])
def test_n_and_n_steps_are_two_n_steps_to_the_last_bit(
    phase: str, tiny: Path, tmp_path: Path
) -> None:
    whole, parts = (write_job(tiny, tmp_path / name, phase) for name in ("whole", "parts"))
    train(whole)
    for stop_after in (4, 9):
        train(parts, stop_after)
        assert states(parts)[0] == stop_after
    t = train(parts)
    assert losses(parts) == losses(whole)
    assert same(weights(parts), weights(whole))
    a, b = (newest_whole(job.parent / "out", final=True) for job in (whole, parts))
    assert a and b
    assert a[1].extra | {"tokens": 0} == b[1].extra | {"tokens": 0}, (
        "loss_start, loss_end and validation are those of the whole run"
    )
    assert t.settings["init_step"] == 10, "the step of the base checkpoint, not of the state"
    assert load(a[0]).meta == load(b[0]).meta


def test_a_run_of_two_processes_goes_on_to_the_last_bit(
    tiny: Path, tmp_path: Path, forker: Forker
) -> None:
    recipe = {"max_steps": 60, "val_rows": 0, "tokens_per_step": 9 * 64}
    whole, parts = (write_job(tiny, tmp_path / name, "mid", recipe) for name in ("whole", "parts"))
    forker.start(whole, 2)
    assert forker.end() == [0, 0]
    pids = forker.start(parts, 2)
    wait_for(lambda: steps_written(parts, 3), 60, "three steps")
    os.kill(pids[1], signal.SIGTERM)  # one of them: both must agree
    assert forker.end() == [0, 0]
    [step] = states(parts)
    assert 3 <= step < 60
    names = {path.name for path in (tmp_path / f"parts/out/step-{step:06d}").iterdir()}
    assert {f"optim_{step:06d}_rank0.pt", f"optim_{step:06d}_rank1.pt"} <= names
    forker.start(parts, 2)
    assert forker.end() == [0, 0]
    assert losses(parts) == losses(whole)
    assert same(weights(parts), weights(whole))


def test_another_number_of_processes_goes_on_with_the_whole_optimizer(
    tiny: Path, tmp_path: Path, forker: Forker
) -> None:
    recipe = {"max_steps": 40, "val_rows": 0, "tokens_per_step": 6 * 64}
    whole, parts = (write_job(tiny, tmp_path / name, "mid", recipe) for name in ("whole", "parts"))
    train(whole)
    train(parts, 3)
    pids = forker.start(parts, 3)
    wait_for(lambda: steps_written(parts, 6), 60, "six steps")
    os.kill(pids[1], signal.SIGTERM)
    assert forker.end() == [0, 0, 0]
    forker.start(parts, 2)
    assert forker.end() == [0, 0]
    assert "weights alone" not in parts.with_name("out.txt").read_text()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


def test_a_state_holds_each_ranks_own_momentum_once(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tiny, tmp_path / "run")
    t = train(job, 2)
    rank0, rank1 = t.optimizer.state(0), t.optimizer.state(1)
    assert set(rank1) < set(rank0)
    assert all(key.endswith("momentum_buffer") for key in rank1)
    folder = tmp_path / "run" / "out" / "step-000002"
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json",
        "meta_000002.json",
        "model_000002.pt",
        "optim_000002_rank0.pt",
    }
    assert set(rank0) < set(read_state(folder / "optim_000002_rank0.pt"))


def test_the_random_numbers_go_on_where_they_were(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tiny, tmp_path / "run")
    torch.manual_seed(7)
    train(job, 2)
    want = torch.rand(3)
    torch.manual_seed(8)
    train(job, 4)
    assert torch.equal(torch.rand(3), want)
