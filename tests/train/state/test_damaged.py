"""A state that cannot be loaded is passed over for the one before, on all ranks alike; the job says what follows when none is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.manifest import MANIFEST, save_whole
from nanolan.model.checkpoint import read_state
from nanolan.train.job import read_job
from nanolan.train.progress import ProgressWriter
from nanolan.train.supervised import prepare
from tests.support.state_fixtures import ALONE, Forker, forker, states, train  # noqa: F401
from tests.support.tiny_world import losses, write_job
from tests.train.test_main import steps_written, wait_for

RECIPE = {"max_steps": 6, "val_rows": 0}
Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has saved its states of the steps 3 and 4; read only."""
    job = write_job(tiny, tmp_path_factory.mktemp("trained") / "run", "mid", RECIPE, save_minutes=0)
    train(job, 4)
    return job.parent


@pytest.fixture
def job(trained: Path, tiny: Path, tmp_path: Path) -> Path:
    """The same run in a folder of the test's own."""
    shutil.copytree(trained, tmp_path / "run")
    return write_job(tiny, tmp_path / "run", "mid", RECIPE, save_minutes=0)


def rewritten(folder: Path, change: Callable[[Path], object]) -> None:
    """The same state after a change, with a manifest that agrees with it."""
    kept = folder.with_name("kept")
    folder.replace(kept)
    change(kept)

    def write(target: Path) -> None:
        for path in kept.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, target / path.name)

    step = int(folder.name.removeprefix("step-"))
    save_whole(folder.parent, step, write, run_id="ab12cd34", phase="mid", final=False)
    shutil.rmtree(kept)


def of_tensors(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        state = read_state(folder / name)
        change(state)
        torch.save(state, folder / name)

    return lambda folder: rewritten(folder, spoil)


def of_meta(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "meta_000004.json"
        meta = json.loads(path.read_text())
        change(meta)
        path.write_text(json.dumps(meta))

    return lambda folder: rewritten(folder, spoil)


def cut(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


def flip(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return spoil


MODEL, OPTIMIZER, META = "model_000004.pt", "optim_000004_rank0.pt", "meta_000004.json"
NAN = float("nan")
DAMAGES: dict[str, Spoil] = {
    # the disk's: the manifest does not agree
    "a torn model": cut(MODEL),
    "a torn optimizer": cut(OPTIMIZER),
    "a flipped bit": flip(OPTIMIZER),
    "half a manifest": cut(MANIFEST),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "an optimizer that is gone": lambda f: (f / OPTIMIZER).unlink(),
    # whole, but not a state of this model
    "saved torn": lambda f: rewritten(f, cut(OPTIMIZER)),
    "saved without an optimizer": lambda f: rewritten(f, lambda g: (g / OPTIMIZER).unlink()),
    "an optimizer without its first part": of_tensors(OPTIMIZER, lambda s: s.pop("0.exp_avg")),
    "an optimizer without its count": of_tensors(OPTIMIZER, lambda s: s.pop("1.t")),
    "an optimizer with a part more": of_tensors(
        OPTIMIZER, lambda s: s.update({"9.momentum_buffer": torch.zeros(1)})
    ),
    "an optimizer of another model": of_tensors(
        OPTIMIZER, lambda s: s.update({"2.momentum_buffer": torch.zeros(1, 8, 8)})
    ),
    "a moment that is no number": of_tensors(OPTIMIZER, lambda s: s["0.exp_avg"].fill_(NAN)),
    "no random numbers": of_tensors(OPTIMIZER, lambda s: s.pop("rng.cpu")),
    "random numbers of another kind": of_tensors(
        OPTIMIZER, lambda s: s.update({"rng.cpu": torch.zeros(3)})
    ),
    "no losses": of_tensors(OPTIMIZER, lambda s: s.pop("losses")),
    "a weight that is no number": of_tensors(MODEL, lambda s: s["lm_head.weight"].fill_(NAN)),
    "a weight too few": of_tensors(MODEL, lambda s: s.pop("lm_head.weight")),
    "an optimizer as the model": lambda f: rewritten(
        f, lambda g: shutil.copyfile(g / OPTIMIZER, g / MODEL)
    ),
    "a meta that is not JSON": lambda f: rewritten(f, lambda g: (g / META).write_text("{")),
    "a meta of a final checkpoint": of_meta(lambda m: m.pop("resume")),
    "a meta with a list": of_meta(lambda m: m.update(resume=[1])),
    "a meta without what must agree": of_meta(lambda m: m["resume"].pop("agreed")),
    **{
        f"a meta of {n!r} processes": of_meta(
            lambda m, n=n: m["resume"]["agreed"].update(processes=n)
        )
        for n in (0, -1, 2, 10**9, True, 1.0, "1", None, [1])
    },
    "a meta of a larger model": of_meta(lambda m: m["model_config"].update(n_layer=9)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_cannot_be_loaded_is_passed_over_for_the_one_before(
    damage: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](job.parent / "out" / "step-000004")
    t = prepare(read_job(job), ALONE, ProgressWriter(read_job(job)))
    assert t.done == 3
    assert len(t.report.losses) == 3, "its optimizer, losses and random numbers are those of step 3"
    said = capsys.readouterr()
    assert [line[:58] for line in said.err.splitlines()] == [
        "warning: step-000004 cannot be loaded and is passed over ("
    ]
    assert "continues from" in said.out and "weights alone" not in said.out


@pytest.mark.parametrize(
    ("model_only", "done", "says"),
    [
        (False, 0, "no saved state of mid can be loaded: it starts from the beginning"),
        (True, 4, "step-000004 at step 4, the weights alone"),
    ],
)
def test_without_any_whole_state_the_job_says_whether_the_weights_alone_are_used(
    model_only: bool,
    done: int,
    says: str,
    job: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGES["an optimizer without its count"](job.parent / "out" / "step-000004")
    shutil.rmtree(job.parent / "out" / "step-000003")
    job = write_job(tiny, job.parent, "mid", RECIPE, model_only=model_only)
    t = prepare(read_job(job), ALONE, ProgressWriter(read_job(job)))
    assert t.done == done
    said = capsys.readouterr()
    assert says in said.out + said.err
    t = train(job)
    assert t.done == 6 and states(job) == []


@pytest.mark.parametrize("gone", ["rng.cpu", "2.momentum_buffer"])
def test_all_ranks_pass_over_a_state_that_one_of_them_cannot_load(
    gone: str, tiny: Path, tmp_path: Path, forker: Forker
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", RECIPE | {"max_steps": 12}, save_minutes=0)
    pids = forker.start(job, 2)
    wait_for(lambda: steps_written(job, 2), 60, "two steps")
    os.kill(pids[1], signal.SIGTERM)
    assert forker.end() == [0, 0]
    newest, before = states(job)
    spoil = of_tensors(f"optim_{newest:06d}_rank1.pt", lambda s: s.pop(gone))
    spoil(tmp_path / "run" / "out" / f"step-{newest:06d}")
    forker.start(job, 2)
    assert forker.end() == [0, 0]
    said = job.with_name("out.txt").read_text()
    assert said.count(f"step-{newest:06d} cannot be loaded and is passed over") == 1
    assert f"step-{before:06d} at step {before}\n" in said
    assert len(losses(job)) == 12 + newest - before
