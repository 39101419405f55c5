"""The trainer as it is run: phases learn, ranks agree, signals save, nothing trains on alone."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nanolan.checkpoint.manifest import newest_whole
from nanolan.model.checkpoint import load
from nanolan.run.causes import cause_of
from nanolan.train.__main__ import main
from tests.support.tiny_world import REPO, losses, metrics, start, write_job

LONG = {"max_steps": 1_000_000, "val_rows": 0}


def result(job: Path) -> tuple[Path, Any]:
    found = newest_whole(job.parent / "out")
    assert found
    return found


def wait_for(true: Callable[[], object], limit_s: float, what: str) -> None:
    t0 = time.monotonic()
    while not true():
        assert time.monotonic() - t0 < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


def steps_written(job: Path, n: int) -> bool:
    path = job.parent / "metrics.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= n


@pytest.fixture
def end() -> Any:
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
        p.wait()
        if p.stdout:
            p.stdout.close()


def test_mid_learns_and_sft_learns_on_from_it(tiny: Path, tmp_path: Path) -> None:
    mid = write_job(tiny, tmp_path / "mid", "mid", {"max_steps": 25})
    assert main([str(mid)]) == 0
    folder, manifest = result(mid)
    assert (manifest.run_id, manifest.phase, manifest.step, manifest.final) == (
        "ab12cd34",
        "mid",
        25,
        True,
    )
    assert manifest.extra["loss_start"] > 4
    assert manifest.extra["loss_end"] < 2
    assert manifest.extra["val_bpb"] < 2

    # the recipe's own rates, which are meant for hundreds of updates, are raised for a dozen
    sft = write_job(
        tiny, tmp_path / "sft", "sft", {"max_steps": 15, "init_lr_frac": 0.3}, init_dir=str(folder)
    )
    assert main([str(sft)]) == 0
    folder, manifest = result(sft)
    assert manifest.phase == "sft"
    assert manifest.extra["loss_end"] < 0.7 * manifest.extra["loss_start"]
    assert load(folder).meta["val_loss"] == manifest.extra["val_loss"]
    assert not list((tmp_path / "sft" / "out").glob(".*")), "scratch files are left"


def test_metrics_heartbeat_and_progress_tell_of_every_step(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", {"max_steps": 5})
    assert main([str(job)]) == 0
    rows = [row for row in metrics(job) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all({"phase", "steps", "lr", "tok_per_s", "dt_s", "t"} <= set(row) for row in rows)
    assert metrics(job)[-1]["val_bpb"] > 0
    beat = json.loads((job.parent / "heartbeat.json").read_text())
    assert (beat["stage"], beat["step"], beat["steps"]) == ("save", 5, 5)
    assert sum(line.startswith("mid step ") for line in capsys.readouterr().out.splitlines()) == 5


def test_an_epoch_of_sft_is_a_step_for_every_32_conversations(tiny: Path, tmp_path: Path) -> None:
    job = write_job(
        tiny,
        tmp_path / "run",
        "sft",
        {
            "max_steps": None,
            "tokens_per_step": None,
            "examples_per_step": 32,
            "sequence_len": 128,
            "val_rows": 0,
            "spelling_rows": 0,
        },
    )
    assert main([str(job)]) == 0
    assert len(losses(job)) == result(job)[1].step == pytest.approx((4 * 40 + 5) / 32, abs=1)


@pytest.mark.slow
def test_a_run_on_the_cpu_never_loads_the_compiler(tiny: Path, tmp_path: Path) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", {"max_steps": 1})
    code = (
        "import sys; from nanolan.train.__main__ import main; main(sys.argv[1:]); "
        "print('loaded:', sorted({'torch._dynamo', 'sympy', 'wandb', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(job)], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "loaded: []"  # three seconds of imports


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny: Path, tmp_path: Path, end: Any) -> None:
    # 9 rows a step: uneven for two ranks, so the weighting by tokens is what makes them agree
    recipe = {"max_steps": 10, "tokens_per_step": 9 * 64, "init_lr_frac": 0.1}
    one, two = (write_job(tiny, tmp_path / name, "sft", recipe) for name in ("one", "two"))
    assert main([str(one)]) == 0
    p = start(two, processes=2)
    end(p)
    out, _ = p.communicate(timeout=90)
    assert p.returncode == 0, out
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert out.count("sft step 10/10") == 1, "more than one rank printed"
    (_, a), (_, b) = result(one), result(two)
    assert a.extra["val_loss"] == pytest.approx(b.extra["val_loss"], abs=1e-4)


def test_sigterm_saves_what_was_trained_and_exits_0(tiny: Path, tmp_path: Path, end: Any) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", LONG)
    p = start(job)
    end(p)
    wait_for(lambda: steps_written(job, 3), 60, "three steps")
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=20)
    assert p.returncode == 0, out
    folder, manifest = result(job)
    assert manifest.final is False
    assert manifest.step == len(losses(job))
    assert load(folder).step == manifest.step


@pytest.mark.slow  # tests/train/test_state.py has two processes in the quick set
def test_sigterm_to_torchrun_saves_one_step_that_all_ranks_agreed_on(
    tiny: Path, tmp_path: Path, end: Any
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", LONG)
    p = start(job, processes=2)
    end(p)
    wait_for(lambda: steps_written(job, 3), 90, "three steps")
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(
        timeout=25
    )  # its exit code says nothing: torchrun returns 1 after a clean save
    folder, manifest = result(job)
    assert manifest.step == len(losses(job)), out
    assert manifest.final is False
    load(folder)


@pytest.mark.slow
def test_a_killed_torchrun_leaves_no_rank_behind(tiny: Path, tmp_path: Path, end: Any) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", LONG)
    p = start(job, processes=2)
    end(p)
    wait_for(lambda: steps_written(job, 1), 90, "one step")
    ranks = psutil.Process(p.pid).children(recursive=True)
    assert len(ranks) >= 2
    try:
        p.kill()
        p.wait()
        wait_for(
            lambda: not any(r.is_running() and r.status() != psutil.STATUS_ZOMBIE for r in ranks),
            3,
            "ranks gone",
        )
    finally:
        for rank in ranks:
            if rank.is_running():
                rank.kill()


def fail(job: Path, how: str, processes: int) -> subprocess.Popen[str]:
    """Ranks of which the second fails after some steps."""
    return start(job, processes=processes, module="tests.support.failing_ranks", NANOLAN_FAILS=how)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "processes", "reason", "said"),
    [
        ("memory", 4, "oom", "CUDA is out of memory at 1 row(s) a micro-batch"),
        ("error", 2, "trainer_failed", "ZeroDivisionError: of rank 1"),
        ("kill", 3, "killed", ""),
    ],
)
def test_the_failure_of_one_rank_is_the_cause_and_the_others_end_with_a_line(
    how: str, processes: int, reason: str, said: str, tiny: Path, tmp_path: Path, end: Any
) -> None:
    job = write_job(tiny, tmp_path / "run", "mid", LONG)
    p = fail(job, how, processes)
    end(p)
    out, _ = p.communicate(timeout=200)
    assert p.returncode == 1
    assert cause_of(out) == (reason, said)
    of_ranks = out[: out.index("torch/distributed/elastic")]
    assert of_ranks.count("Traceback") == (how == "error")
    lost = [line for line in out.splitlines() if "another rank is gone" in line]
    assert all(re.match(r"rank \d: stopped: ", line) for line in lost)


def spoil_head(base: Path) -> None:
    state = torch.load(base / "model_000010.pt", weights_only=True)
    state["lm_head.weight"][3, 3] = float("nan")
    torch.save(state, base / "model_000010.pt")


def spoil_file(base: Path) -> None:
    (base / "model_000010.pt").write_bytes(b"x")


def nothing(base: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "change", "says"),
    [
        (spoil_head, {}, "refused: a weight is not a number in the checkpoint"),
        (spoil_file, {}, "model_000010.pt: cut off, or not a file of torch.save"),
        (nothing, {"data_dir": "/nowhere"}, "data set HuggingFaceTB/smol-smoltalk is missing"),
        (nothing, {"tokenizer_dir": "/nowhere"}, "tokenizer.pkl: cannot be read"),
        (
            nothing,
            {"recipe": {"sequence_len": 4096}},
            "rows of 4096 tokens, but the model's positions end at 1280",
        ),
        (nothing, {"recipe": {"sequense_len": 64}}, "did you mean sequence_len"),
        (nothing, {"phase": "base"}, "phase is 'base'"),
        pytest.param(
            nothing,
            {"device": "cuda"},
            'device "cuda".* finds 0',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA"),
        ),
    ],
)
def test_what_cannot_be_trained_exits_1_with_the_reason_last_and_saves_nothing(
    spoil: Callable[[Path], None],
    change: dict[str, Any],
    says: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = Path(shutil.copytree(tiny / "base_checkpoints" / "d20", tmp_path / "base"))
    spoil(base)
    job = write_job(tiny, tmp_path / "run", init_dir=str(base))
    job.write_text(json.dumps(json.loads(job.read_text()) | change))
    assert main([str(job)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(says, last), last
    assert newest_whole(tmp_path / "run" / "out") is None


def test_a_tokenizer_larger_than_the_model_is_refused(
    tiny: Path, tmp_path: Path, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tiny, tmp_path / "run", tokenizer_dir=str(fixtures / "tiny" / "tokenizer"))
    assert main([str(job)]) == 1
    assert "a vocabulary of 304, the tokenizer has 512 tokens" in capsys.readouterr().err


def test_missing_test_splits_cost_the_validation_not_the_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(tiny / "data", tmp_path / "data"))
    for path in data.rglob("test-*.parquet"):
        path.unlink()
    job = write_job(tiny, tmp_path / "run", "mid", {"max_steps": 2}, data_dir=str(data))
    assert main([str(job)]) == 0
    assert "warning: no validation" in capsys.readouterr().err
    assert load(result(job)[0]).meta["val_bpb"] is None
