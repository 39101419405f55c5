"""rl as it is run: rewards rise, ranks agree, a stop is resumed to the bit, nothing learned is nothing changed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import RunFailed
from nanolan.model.checkpoint import load
from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.__main__ import main
from nanolan.train.data.rollouts import policy_batch, policy_loss, read_questions, roll_out
from nanolan.train.job import read_job
from nanolan.train.phase import finish
from nanolan.train.progress import ProgressWriter
from nanolan.train.rl import loop, prepare
from nanolan.train.stop import StopFlag
from tests.support.state_fixtures import ALONE
from tests.support.tiny_world import losses, metrics, start, write_job, write_parquet
from tests.support.toy_world import RL, SFT, sums, write_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of small sums, read only."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def taught(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of sft that gets some sums right; read only."""
    job = write_job(toy, tmp_path_factory.mktemp("sft"), "sft", SFT)
    assert main([str(job)]) == 0
    return result(job)[0]


def result(job: Path) -> tuple[Path, Any]:
    found = newest_whole(job.parent / "out")
    assert found
    return found


def rl_job(world: Path, out: Path, init: Path, **recipe: Any) -> Path:
    return write_job(world, out, "rl", RL | {"eval_questions": 0} | recipe, init_dir=str(init))


def rewards(job: Path) -> list[float]:
    return [row["reward"] for row in metrics(job) if "reward" in row]


def same_weights(a: Path, b: Path) -> bool:
    one, two = load(a).model.state_dict(), load(b).model.state_dict()
    return all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def end() -> Iterator[Any]:
    """Ends what a test started, children too, however the test ends."""
    started: list[subprocess.Popen[str]] = []
    yield started.append
    for p in started:
        try:
            family = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            member.kill()
        p.communicate()


@pytest.mark.slow  # a real training of half a minute; a rehearsal of all three phases shows it too
def test_rewards_rise(toy: Path, taught: Path, tmp_path: Path) -> None:
    job = rl_job(toy, tmp_path / "rl", taught, eval_questions=40)
    assert main([str(job)]) == 0
    folder, manifest = result(job)
    assert (manifest.phase, manifest.step, manifest.final) == ("rl", 60, True)
    seen = rewards(job)
    assert 0 < sum(seen[:10]) / 10 < 0.5
    assert sum(seen[-20:]) / 20 > sum(seen[:10]) / 10 + 0.06
    assert manifest.extra["reward_end"] > manifest.extra["reward_start"]
    assert manifest.extra["pass_at_1_end"] > manifest.extra["pass_at_1_start"]
    loaded = load(folder)
    assert (loaded.step, len(loaded.meta["pass_at_k"])) == (60, 4)
    assert loaded.meta["pass_at_k"] == sorted(loaded.meta["pass_at_k"])
    assert {"step", "pass_at_k", "user_config", "model_config"} == set(loaded.meta)


def test_metrics_heartbeat_and_progress_tell_of_every_step(
    toy: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = rl_job(toy, tmp_path / "rl", taught, max_steps=3, eval_questions=10, eval_samples=2)
    assert main([str(job)]) == 0
    rows = metrics(job)
    for row in (rows[0], rows[-1]):
        assert sorted(k for k in row if k.startswith("pass")) == ["pass_at_1", "pass_at_2"]
    steps = [row for row in rows if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert {
            "phase",
            "steps",
            "loss",
            "lr",
            "tok_per_s",
            "dt_s",
            "t",
            "norm",
            "generated_s",
        } <= set(row)
        assert 0 <= row["skipped"] <= 8
        assert 0 < row["answer_tokens"] <= 24
    assert [row["lr"] for row in steps] == pytest.approx(
        [0.3 * 0.02 * (3 - i) / 3 for i in range(3)]
    )
    beat = json.loads((job.parent / "heartbeat.json").read_text())
    assert (beat["phase"], beat["stage"], beat["step"], beat["steps"]) == ("rl", "save", 3, 3)
    assert sum(line.startswith("rl step ") for line in capsys.readouterr().out.splitlines()) == 3


def test_where_no_try_is_right_the_steps_count_and_change_nothing(
    toy: Path, tmp_path: Path
) -> None:
    base = toy / "base_checkpoints" / "d20"  # untrained: never right
    job = rl_job(toy, tmp_path / "rl", base, max_steps=2)
    assert main([str(job)]) == 0
    assert [(row["reward"], row["skipped"], row["loss"]) for row in metrics(job)] == [(0, 8, 0)] * 2
    assert result(job)[1].step == 2
    assert same_weights(result(job)[0], base)


def test_a_step_is_the_policy_gradient_by_the_token(
    toy: Path, taught: Path, tmp_path: Path
) -> None:
    job = rl_job(toy, tmp_path / "rl", taught, max_steps=1, temperature=1.5, top_k=30, seed=5)
    assert main([str(job)]) == 0
    [row] = metrics(job)
    tokenizer, model = load_tokenizer(toy / "tokenizer"), load(taught).model
    questions = read_questions(toy / "data", "train", tokenizer, 128)[:8]
    rollouts = roll_out(Engine(model, tokenizer), questions, range(8), 8, Sampling(24, 1.5, 30, 5))
    batch = policy_batch(rollouts, tokenizer.bos)
    assert batch is not None, "nothing was learned: nothing was compared"
    loss = policy_loss(model, batch.ids, batch.targets) / sum(
        sum(c.mask) for r in rollouts for c in r.tries
    )
    loss.backward()
    assert row["reward"] == sum(sum(r.rewards) for r in rollouts) / 64
    assert row["skipped"] == sum(not r.teaches for r in rollouts)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["norm"] == pytest.approx(
        sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5, rel=1e-3
    )


def test_a_step_without_a_lesson_changes_nothing_even_by_momentum(
    toy: Path, taught: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(toy / "data", tmp_path / "data"))
    write_parquet(
        data, "gsm8k", "train", [sums(1, 1)[0], {"question": "How many?", "answer": "#### 99"}]
    )
    jobs = [
        rl_job(toy, tmp_path / str(n), taught, max_steps=n, questions_per_step=1, samples=32)
        for n in (1, 2)
    ]
    for job in jobs:
        job.write_text(json.dumps(json.loads(job.read_text()) | {"data_dir": str(data)}))
        assert main([str(job)]) == 0
    first, second = metrics(jobs[1])
    assert (first["skipped"], second["skipped"], second["norm"]) == (0, 1, 0)
    assert same_weights(result(jobs[0])[0], result(jobs[1])[0])


@pytest.mark.slow
def test_two_processes_ask_and_learn_as_one_does(
    toy: Path, taught: Path, tmp_path: Path, end: Any
) -> None:
    # 5 questions a step: uneven for two ranks
    one, two = (
        rl_job(toy, tmp_path / name, taught, max_steps=4, questions_per_step=5, eval_questions=9)
        for name in ("one", "two")
    )
    assert main([str(one)]) == 0
    p = start(two, processes=2)
    end(p)
    out, _ = p.communicate(timeout=90)
    assert p.returncode == 0, out
    assert any(losses(one)), "nothing was learned: nothing was compared"
    assert rewards(two) == pytest.approx(rewards(one), abs=1e-6)
    assert [row["skipped"] for row in metrics(two)[1:-1]] == [
        row["skipped"] for row in metrics(one)[1:-1]
    ]
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    (_, a), (_, b) = result(one), result(two)
    assert a.extra["pass_at_1_start"] == b.extra["pass_at_1_start"]
    assert out.count("rl step 4/4") == 1, "more than one rank printed"


@pytest.mark.slow
def test_sigterm_saves_a_state_from_which_the_run_goes_on_to_the_bit(
    toy: Path, taught: Path, tmp_path: Path, end: Any
) -> None:
    whole = rl_job(toy, tmp_path / "whole", taught, max_steps=25)
    assert main([str(whole)]) == 0
    job = rl_job(toy, tmp_path / "halves", taught, max_steps=25)
    p = start(job)
    end(p)
    t0 = time.monotonic()
    while not (job.parent / "metrics.jsonl").exists() or len(metrics(job)) < 5:
        assert time.monotonic() - t0 < 60
        time.sleep(0.02)
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=20)
    assert p.returncode == 0, out
    assert result(job)[1].final is False
    assert 5 <= result(job)[1].step < 25
    assert main([str(job)]) == 0
    assert (result(job)[1].step, result(job)[1].final) == (25, True)
    assert rewards(job) == rewards(whole)
    assert same_weights(result(job)[0], result(whole)[0])
    ours, theirs = (
        result(j)[1].extra | {"tokens": None} for j in (job, whole)
    )  # counted since each process began
    assert ours == theirs


def test_a_weight_that_is_no_number_is_never_saved(toy: Path, taught: Path, tmp_path: Path) -> None:
    job = read_job(rl_job(toy, tmp_path / "rl", taught, max_steps=2))
    t = prepare(job, ALONE, ProgressWriter(job))
    with torch.no_grad():
        t.model.lm_head.weight[3, 3] = float("nan")
    with (
        StopFlag() as stop,
        pytest.raises(RunFailed, match="a weight is not a number after step 2: nothing saved"),
    ):
        loop(t, stop)
        finish(t, stop)
    assert newest_whole(tmp_path / "rl" / "out") is None


def test_missing_test_questions_cost_the_examination_not_the_run(
    toy: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(toy / "data", tmp_path / "data"))
    next(data.rglob("main/test-*.parquet")).unlink()
    job = rl_job(toy, tmp_path / "rl", taught, max_steps=1, eval_questions=5)
    job.write_text(json.dumps(json.loads(job.read_text()) | {"data_dir": str(data)}))
    assert main([str(job)]) == 0
    assert "warning: no pass@k: data set openai/gsm8k is missing" in capsys.readouterr().err
    assert load(result(job)[0]).meta["pass_at_k"] is None


def test_answers_that_leave_no_room_for_a_question_are_refused(
    toy: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(rl_job(toy, tmp_path / "rl", taught, max_new_tokens=1279))]) == 1
    assert "answers of 1279 tokens leave no room" in capsys.readouterr().err
