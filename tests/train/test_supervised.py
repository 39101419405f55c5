"""mid and sft from inside: what stops them, what they leave, and a user's own data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.manifest import whole_steps
from nanolan.errors import RunFailed
from nanolan.phases import IDENTITY_FILE
from nanolan.run.causes import cause_of
from nanolan.train.__main__ import main
from nanolan.train.job import read_job
from nanolan.train.phase import finish
from nanolan.train.progress import ProgressWriter
from nanolan.train.stop import StopFlag
from nanolan.train.supervised import Training, loop, prepare
from tests.support.state_fixtures import ALONE, After, Forker, forker  # noqa: F401
from tests.support.tiny_world import losses, metrics, write_job, write_parquet

NEVER = 1_000_000


def begun(job: Path, steps: int) -> Training:
    """A phase after some steps, in this process."""
    t = prepare(read_job(job), ALONE, ProgressWriter(read_job(job)))
    loop(t, After(t, steps))  # type: ignore[arg-type]
    return t


def saved(job: Path) -> list[tuple[int, bool]]:
    return [(m.step, m.final) for _, m in whole_steps(job.parent / "out")]


# ------------------------------------------------------------------ health
def test_a_weight_that_becomes_no_number_stops_the_phase_and_the_last_good_state_is_kept(
    tiny: Path, tmp_path: Path
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    t = begun(job, 4)
    with torch.no_grad():
        t.model.get_parameter("transformer.h.0.mlp.c_fc.weight")[0, 0] = float("nan")
    with pytest.raises(
        RunFailed,
        match="the loss is nan at step 5 of 12: stopped, the state in step-000004 is kept",
    ):
        loop(t, After(t, NEVER))  # type: ignore[arg-type]
    assert saved(job) == [(4, False), (3, False)]


def test_a_gradient_that_is_no_number_stops_the_phase_before_anything_is_saved(
    tiny: Path, tmp_path: Path
) -> None:
    job = write_job(tiny, tmp_path / "run", save_minutes=0)
    t = begun(job, 4)
    t.model.lm_head.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(RunFailed, match=r"the gradient's norm is (nan|inf) at step 5 of 12"):
        loop(t, After(t, NEVER))  # type: ignore[arg-type]
    assert saved(job) == [(4, False), (3, False)]


def test_an_exploding_loss_stops_the_phase_and_none_of_its_states_is_saved(
    tiny: Path, tmp_path: Path
) -> None:
    job = write_job(tiny, tmp_path / "run", recipe={"max_steps": 200}, save_minutes=0)
    t = begun(job, 30)
    with torch.no_grad():
        t.model.lm_head.weight.normal_(std=100, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        RunFailed,
        match="over .* for 10 steps, up to step 40 of 200: stopped, the state in step-000030",
    ):
        loop(t, After(t, NEVER))  # type: ignore[arg-type]
    assert saved(job) == [(30, False), (29, False)]


def test_a_stop_while_the_loss_is_high_keeps_the_state_before(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", recipe={"max_steps": 200}, save_minutes=0)
    t = begun(job, 30)
    with torch.no_grad():
        t.model.lm_head.weight.normal_(std=100, generator=torch.Generator().manual_seed(0))
    loop(t, After(t, 33))  # type: ignore[arg-type]
    finish(t, StopFlag())
    assert "the loss has been high for 3 steps: step 33 is not saved" in capsys.readouterr().out
    assert saved(job)[0] == (30, False)


def test_every_step_tells_norm_memory_and_time_left(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", recipe={"max_steps": 3, "val_rows": 0})
    assert main([str(job)]) == 0
    rows = metrics(job)
    assert all(row["norm"] > 0 and row["peak_gib"] > 0 for row in rows)
    assert rows[-1]["left_s"] == 0 < rows[0]["left_s"]
    assert all("mfu" not in row for row in rows), "on the CPU there is none"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mid step")]
    assert all("norm" in line and "GiB" in line and "min left" in line for line in lines)


# ------------------------------------------------------------------ a user's own data
U, A = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "lanbot"}


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny / "data", tmp_path / "data"))


@pytest.mark.parametrize(
    ("phase", "change", "code", "says"),
    [
        (
            "mid",
            {"identity": True},
            1,
            "no identity_conversations.jsonl in .*: mid would not learn its identity",
        ),
        ("mid", {}, 0, "warning: no identity file"),
        ("sft", {"identity": True}, 0, "warning: no identity file"),
        ("mid", {"identity": False}, 0, ""),
    ],
    ids=str,
)
def test_a_missing_identity_file(
    phase: str,
    change: dict[str, Any],
    code: int,
    says: str,
    data: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (data / IDENTITY_FILE).unlink()
    job = write_job(
        tiny, tmp_path / "run", phase, {"max_steps": 1, "val_rows": 0}, data_dir=str(data), **change
    )
    assert main([str(job)]) == code
    err = capsys.readouterr().err
    assert re.search(says, err)
    assert says or not err, "it was said to be left out"


def test_identity_false_leaves_the_file_out(data: Path, tiny: Path, tmp_path: Path) -> None:
    recipe = {"max_steps": 1, "val_rows": 0, "spelling_rows": 0}
    with_it, without = (
        prepare(j, ALONE, ProgressWriter(j)).rows.n_conversations
        for j in (
            read_job(write_job(tiny, tmp_path / str(i), "mid", recipe, data_dir=str(data), **more))
            for i, more in enumerate([{"identity": True}, {"identity": False}])
        )
    )
    assert with_it - without == 10


def test_a_wrong_line_of_identity_data_ends_the_run_as_bad_data(
    data: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / IDENTITY_FILE).write_text(json.dumps([U, A]) + "\nx\ny\n")
    assert main([str(write_job(tiny, tmp_path / "run", "mid", data_dir=str(data)))]) == 1
    said = capsys.readouterr().err
    assert (
        "identity_conversations.jsonl, line 2: not JSON" in said.splitlines()[-1]
        and cause_of(said)[0] == "bad_data"
    )


def test_a_first_step_that_contradicts_the_meta_ends_the_run_before_its_second(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with the tokenizer of another model of the same size: the tiny base guesses, its meta says that it is trained."""
    base = Path(shutil.copytree(tiny / "base_checkpoints/d20", tmp_path / "base"))
    meta = base / "meta_000010.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"val_bpb": 0.9}))
    job = write_job(tiny, tmp_path / "run", "mid", init_dir=str(base))
    assert main([str(job)]) == 1
    assert (
        "its meta says that it was trained to about" in (said := capsys.readouterr().err)
        and cause_of(said)[0] == "bad_data"
    )
    assert saved(job) == []


def test_validation_whose_every_conversation_is_too_long_is_left_out_with_a_warning(
    data: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [{"messages": [{"role": "user", "content": "why? " * 500}, A]}]
    write_parquet(data, "smol-smoltalk", "test", long * 20)
    job = write_job(
        tiny,
        tmp_path / "run",
        "sft",
        {"max_steps": 2, "examples_per_step": 4, "tokens_per_step": None},
        data_dir=str(data),
    )
    assert main([str(job)]) == 0
    assert "warning: no validation: no conversation to train" in capsys.readouterr().err
    assert saved(job) == [(2, True)]


def test_a_weight_that_is_no_number_is_refused_before_anything_is_trained(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(tiny / "base_checkpoints/d20", tmp_path / "base"))
    state = torch.load(base / "model_000010.pt", weights_only=True)
    state["lm_head.weight"][0, 0] = float("nan")
    torch.save(state, base / "model_000010.pt")
    assert main([str(write_job(tiny, tmp_path / "run", "mid", init_dir=str(base)))]) == 1
    assert (
        "refused: a weight is not a number" in (said := capsys.readouterr().err)
        and cause_of(said)[0] == "nan"
    )


def test_more_ranks_than_rows_train_as_one_does(
    tiny: Path,
    tmp_path: Path,
    forker: Forker,  # noqa: F811
) -> None:
    recipe = {"max_steps": 5, "tokens_per_step": 2 * 64, "init_lr_frac": 0.1, "val_rows": 0}
    one, three = (write_job(tiny, tmp_path / name, "sft", recipe) for name in ("one", "three"))
    assert main([str(one)]) == 0
    forker.start(three, 3)
    assert forker.end() == [0, 0, 0], three.with_name("out.txt").read_text()
    assert losses(three) == pytest.approx(losses(one), abs=1e-4)
