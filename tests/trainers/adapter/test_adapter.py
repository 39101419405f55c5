"""The whole adapter as the box starts it, with both miniature forks: results, states, evaluation, failures, secrets."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from nanolan.checkpoint.architecture import read_meta
from tests.support.adapter_jobs import LONG, NewRun


@pytest.mark.parametrize("generation", ["2025", "2026"])
def test_a_phase_leaves_its_result_heartbeats_and_metrics(generation: str, new_run: NewRun) -> None:
    run = new_run(generation).start()
    assert run.end() == 0, run.log()
    manifest = run.saved(final=True)
    assert manifest and manifest.run_id == "ab12cd34"
    names = {f"model_{manifest.step:06d}.pt", f"meta_{manifest.step:06d}.json"}
    assert {f.path for f in manifest.files} == names
    assert manifest.extra["loss_start"] > 0 and manifest.extra["loss_end"] > 0
    assert ("val_bpb" if generation == "2026" else "val_loss") in manifest.extra
    assert run.stages()[0] == "load" and run.stages()[-1] in ("train", "save")
    assert run.step() > 0 and [b["step"] for b in run.beats] == sorted(b["step"] for b in run.beats)
    rows = run.rows()
    assert len(rows) >= 3 and all(r["phase"] == "sft" and r["loss"] > 0 for r in rows)
    assert all(r["tok_per_s"] > 0 and r["dt_s"] > 0 and r["left_s"] >= 0 for r in rows)
    assert rows[-1]["steps"] >= rows[-1]["step"] > rows[0]["step"]


def test_rl_leaves_one_row_a_step_line_and_its_last_save(new_run: NewRun) -> None:
    run = new_run("2026", "rl", "--save-every=1", "--eval-examples=2")
    assert run.start().end() == 0, run.log()
    manifest = run.saved(final=True)
    assert manifest and manifest.step == 1 and "pass@1" in manifest.extra
    rewards = [r for r in run.rows() if "answer_tokens" in r]
    assert [r["step"] for r in rewards] == [0, 1]


@pytest.mark.parametrize("generation", ["2025", "2026"])
def test_a_stop_leaves_a_state_from_which_a_second_start_counts_on(
    generation: str, new_run: NewRun
) -> None:
    run = new_run(generation, "sft", LONG[generation]).start().until(lambda r: r.step() >= 3)
    began = time.monotonic()
    assert run.stop().end() == 0, run.log()
    assert time.monotonic() - began < TORCHRUN_KILLS_S
    state = run.saved(final=False)
    assert state and state.step >= 3 and run.saved(final=True) is None
    assert state.extra == {"keeps": "weights"}
    folder = Path(run.job.out_dir) / f"step-{state.step:06d}"
    meta = f"meta_{state.step:06d}.json"
    assert read_meta((folder / meta).read_bytes(), meta, state.step)["stopped_early"] == "SIGTERM"

    run.start().until(lambda r: r.step() >= state.step + 3)
    assert f"starts again from the weights kept at step {state.step}" in run.log()
    assert run.stop().end() == 0
    later = run.saved(final=False)
    assert later and later.step >= state.step + 3
    rows = [r["step"] for r in run.rows()]
    assert max(rows) <= later.step and rows.count(state.step + 1) == 1


TORCHRUN_KILLS_S = 30  # after SIGTERM; the save itself takes 1 to 2 s on an idle machine


@pytest.mark.parametrize("generation", [pytest.param("2025", marks=pytest.mark.slow), "2026"])
def test_two_ranks_save_before_torchrun_would_kill_them(generation: str, new_run: NewRun) -> None:
    run = new_run(generation, "sft", LONG[generation]).change(processes=2).start()
    run.until(lambda r: r.step() >= 3, limit_s=90)
    began = time.monotonic()
    assert run.stop().end() == 0, run.log()
    assert time.monotonic() - began < TORCHRUN_KILLS_S
    state = run.saved(final=False)
    assert state and state.step >= 3 and run.saved(final=True) is None


def test_an_intermediate_save_is_not_the_result_of_a_stopped_phase(new_run: NewRun) -> None:
    run = new_run("2026", "rl", "--save-every=1", "--num-epochs=500", "--eval-every=1000")
    run.start()
    saved = run.folder / "nanochat-rl/chatrl_checkpoints"
    run.until(lambda r: list(saved.glob("*/meta_*.json")) and r.step() >= 2)
    assert run.stop().end() == 0, run.log()
    assert run.saved(final=True) is None and run.saved(final=False)


def test_ranks_that_somebody_else_stops_leave_no_result(new_run: NewRun) -> None:
    """A machine that shuts down sends SIGTERM to all."""
    run = new_run("2026", "rl", "--save-every=1", "--num-epochs=500", "--eval-every=1000")
    run.start()
    saved = run.folder / "nanochat-rl/chatrl_checkpoints"
    run.until(lambda r: list(saved.glob("*/meta_*.json")) and r.step() >= 2)
    assert run.process
    for p in psutil.Process(run.process.pid).children():
        p.terminate()
    assert run.end() == 1 and run.saved(final=True) is None and run.saved(final=False)
    assert run.last_line().startswith("nanolan.train: scripts.chat_rl: it ended with exit code 0")


def test_a_stop_before_the_first_step_leaves_nothing_and_says_so(new_run: NewRun) -> None:
    run = new_run("2026")
    run.edit("nanochat/gpt.py", "import time; print('at load', flush=True); time.sleep(60)")
    run.start().until(lambda r: "at load" in r.log()).stop()
    assert run.end() == 1, run.log()
    assert run.saved(final=True) is None and run.saved(final=False) is None
    assert "SIGTERM before the first optimizer step: nothing to save" in run.last_line()


def test_states_are_saved_from_time_to_time(new_run: NewRun) -> None:
    run = new_run("2026", "sft", LONG["2026"]).change(save_minutes=0.005).start()
    run.until(lambda r: len(list(Path(r.job.out_dir).glob("step-*"))) == 2)
    first = run.saved(final=False)
    assert first
    run.until(lambda r: (r.saved(final=False) or first).step > first.step)
    assert run.stop().end() == 0 and len(list(Path(run.job.out_dir).glob("step-*"))) <= 2


# ---- evaluation


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_evaluation_leaves_scores_of_our_names(processes: int, new_run: NewRun) -> None:
    run = new_run("2026")
    assert run.start().end() == 0, run.log()
    results = run.folder / "evaluation.json"
    run.change(evaluate="quick", results=str(results), processes=processes).start()
    assert run.end() == 0, run.log()
    found = json.loads(results.read_text())
    final = run.saved(final=True)
    assert final and (found.pop("scope"), found.pop("step")) == ("quick", final.step)
    assert set(found) == {"arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc", "chatcore"}
    assert all(-1 <= score <= 1 for score in found.values())
    assert set(run.stages()) == {"evaluate"}


def test_an_evaluation_that_fails_leaves_no_results(new_run: NewRun) -> None:
    run = new_run("2026")
    results = run.folder / "evaluation.json"
    run.change(evaluate="quick", results=str(results))
    assert run.start().end() == 1
    assert run.last_line() == "nanolan.train: refused: there is no final checkpoint"
    run.change(evaluate=None).start()
    assert run.end() == 0
    run.change(evaluate="quick", evaluation_arguments=("--task=ARC-Easy|None", "--device-type=cpu"))
    assert run.start().end() == 1 and not results.exists()
    assert run.last_line().startswith("nanolan.train: scripts.chat_eval: ")
