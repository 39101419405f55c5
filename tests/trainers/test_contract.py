"""The same promises to the box, kept by nanolan's own trainer and by both generations of forks behind the adapter."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanolan.box.watch.metrics import ROW, last_row
from nanolan.box.watch.progress import read_trainer_beat
from nanolan.checkpoint.architecture import read_meta
from nanolan.checkpoint.evaluation import read_results, score_numbers
from nanolan.checkpoint.manifest import newest_whole
from nanolan.report.curves import read_metrics
from nanolan.run.causes import cause_of
from tests.support.adapter_jobs import LONG, NewRun, Run, Worlds

pytestmark = (
    pytest.mark.slow
)  # minutes of two busy cores; test_adapter.py has the promises in short

TRAINERS = ("nanolan", "2025", "2026")
OWN_SMALL = {"sequence_len": 64, "tokens_per_step": 512}
SCORES = {"arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc", "chatcore"}


@pytest.fixture(params=TRAINERS)
def trainer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def own_values(run: Run, steps: int) -> dict[str, Any]:
    """JOB.json of nanolan's own trainer, with the places of a fork's job."""
    job = msgspec.to_builtins(run.job)
    del job["fork"]
    recipe = OWN_SMALL | {"max_steps": steps}
    return job | {"run_name": "test", "device": "cpu", "recipe": recipe}


@pytest.fixture
def start(trainer: str, new_run: NewRun, worlds: Worlds) -> Any:
    """Makes the sft of a trainer, short or long; its start is the test's."""

    def make(*, long: bool = False) -> Run:
        if trainer != "nanolan":
            return new_run(trainer, "sft", *([LONG[trainer]] if long else []))
        run = new_run("2025")
        run.program = (str(worlds.python), "-m", "nanolan.train")
        run.values = lambda: own_values(run, 100_000 if long else 6)  # type: ignore[method-assign]
        return run

    return make


def test_a_phase_is_seen_measured_and_saved_whole(start: Any) -> None:
    run = start().start()
    assert run.end() == 0, run.log()
    # the heartbeat appears and advances
    steps = [b["step"] for b in run.beats]
    assert steps == sorted(steps) and steps[-1] > 0
    assert run.stages()[0] == "load" and "train" in run.stages()
    times = [b["t"] for b in run.beats]
    assert times == sorted(times) and abs(times[-1] - time.time()) < 60
    beat = read_trainer_beat(Path(run.job.heartbeat))
    assert beat and beat.phase == "sft" and 0 < beat.step <= max(beat.steps, beat.step)
    # each row can be read by the box and by the report
    data = Path(run.job.metrics).read_bytes()
    rows = [ROW.decode(line) for line in data.splitlines()]
    assert len(rows) >= 3 and read_metrics(data).damaged == 0
    row = last_row(Path(run.job.metrics))
    assert row.phase == "sft" and row.loss and row.tok_per_s and row.left_s is not None
    assert row.step and row.steps and row.steps >= row.step
    # the result is whole, and its meta belongs to it
    found = newest_whole(Path(run.job.out_dir), "sft", final=True)
    assert found and found[1].run_id == run.job.run_id and found[1].step > 0
    meta = f"meta_{found[1].step:06d}.json"
    assert {f"model_{found[1].step:06d}.pt", meta} <= {f.path for f in found[1].files}
    assert read_meta((found[0] / meta).read_bytes(), meta, found[1].step)
    assert found[1].extra["loss_start"] > 0 and found[1].extra["loss_end"] > 0


def test_a_stop_leaves_a_state_within_5_seconds_and_the_next_start_counts_on(start: Any) -> None:
    run = start(long=True).start().until(lambda r: r.step() >= 3)
    began = time.monotonic()
    assert run.stop().end() == 0, run.log()
    assert time.monotonic() - began < 5
    found = newest_whole(Path(run.job.out_dir), "sft", final=False)
    assert found and found[1].step >= 3 and run.saved(final=True) is None
    meta = f"meta_{found[1].step:06d}.json"
    assert read_meta((found[0] / meta).read_bytes(), meta, found[1].step)

    run.start().until(lambda r: r.step() > found[1].step)
    assert run.stop().end() == 0, run.log()
    later = run.saved(final=False)
    assert later and later.step > found[1].step
    assert len(list(Path(run.job.out_dir).glob("step-*"))) <= 2


@pytest.mark.parametrize("spoil", ["input", "tokenizer"])
def test_a_failure_ends_with_one_line_that_says_why(spoil: str, start: Any) -> None:
    run = start()
    if spoil == "input":
        run.change(init_dir=str(run.folder / "nowhere"))
    else:
        run.change(tokenizer_dir=str(run.folder / "nowhere"))
    assert run.start().end() == 1
    assert run.last_line().startswith("nanolan.train: "), run.log()
    reason, said = cause_of(run.log())
    assert reason in ("bad_data", "trainer_failed") and said
    assert run.saved(final=True) is None and run.saved(final=False) is None


def test_the_evaluation_leaves_scores_of_the_same_names(start: Any) -> None:
    run = start().start()
    assert run.end() == 0, run.log()
    results = run.folder / "evaluation.json"
    run.change(evaluate="quick", results=str(results))
    assert run.start().end() == 0, run.log()
    found = read_results(results)
    final = run.saved(final=True)
    assert final and (found["scope"], found["step"]) == ("quick", final.step)
    scores = score_numbers(found)
    assert scores.keys() >= SCORES and all(-1 <= x <= 1 for k, x in scores.items() if k in SCORES)
    assert "evaluate" in run.stages()
    assert json.loads(results.read_text()) == found
