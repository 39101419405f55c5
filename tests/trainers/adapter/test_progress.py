"""The box's view of a fork: the keeper's beat and the fork's own output are signs of life, and times are those of whole steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanolan.phases import Phase
from nanolan.trainers.adapter import progress as progress_module
from nanolan.trainers.adapter.progress import ForkProgress
from nanolan.trainers.fork_job import ForkFacts, ForkJob

SFT = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", module="scripts.chat_sft")
COMMAND = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", command="bash train.sh")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 1000.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.s)
        monkeypatch.setattr(progress_module.time, "time", lambda: self.s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make(folder: Path, phase: Phase = SFT, before: int = 0, **places: str) -> ForkProgress:
    known = {n: str(folder / n) for n in ("init_dir", "tokenizer_dir", "data_dir", "out_dir")}
    known |= {n: str(folder / n) for n in ("metrics", "heartbeat")} | places
    facts = ForkFacts("checkout", "python", phase, 1, False)
    job = ForkJob(phase="sft", run_id="ab12cd34", model_tag="d20", fork=facts, **known)
    return ForkProgress(job, before)


def beat_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "heartbeat").read_text()))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics").read_text().splitlines()]


def keep(folder: Path, text: str) -> None:
    (folder / "kept").mkdir(exist_ok=True)
    (folder / "kept/beat.json").write_text(text)


def test_the_keepers_beat_is_passed_on_with_the_steps_before(tmp_path: Path, clock: Clock) -> None:
    progress = make(tmp_path, before=100)
    keep(tmp_path, '{"step": 0, "stage": "load", "t": 1.0, "dt_s": null}')
    progress.look(tmp_path / "kept")
    assert (beat_of(tmp_path)["step"], beat_of(tmp_path)["stage"]) == (0, "load")
    progress.hear("step 00007 (50.00%) | loss: 2.0 | dt: 100.00ms")
    keep(tmp_path, '{"step": 7, "stage": "train", "t": 2.0, "dt_s": 0.1}')
    progress.look(tmp_path / "kept")
    want = {"phase": "sft", "step": 107, "steps": 114, "stage": "train", "t": clock.s}
    assert beat_of(tmp_path) == want


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": "x"}', '{"step": 1}', "\0" * 100_000])
def test_a_beat_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    progress = make(tmp_path)
    keep(tmp_path, text)
    progress.look(tmp_path / "kept")
    progress.look(tmp_path / "nowhere")
    assert not (tmp_path / "heartbeat").exists()


def test_output_between_two_steps_is_a_sign_of_life(tmp_path: Path, clock: Clock) -> None:
    """An evaluation within the loop may take half an hour, and is no hang while it says something."""
    progress = make(tmp_path)
    keep(tmp_path, '{"step": 7, "stage": "train"}')
    progress.look(tmp_path / "kept")
    for second in range(3):
        clock.s += 600
        progress.look(tmp_path / "kept")
        progress.hear(f"Rank 0 | {second}/10 (3/100)")
        beat = beat_of(tmp_path)
        assert (beat["step"], beat["stage"], beat["t"]) == (7, "train", clock.s)


def test_a_flood_of_output_writes_one_heartbeat_a_second(tmp_path: Path, clock: Clock) -> None:
    progress = make(tmp_path, COMMAND)
    progress.hear("a")
    first = beat_of(tmp_path)["t"]
    for _ in range(100):
        clock.s += 0.009
        progress.hear("step 3/9 | loss: 2.0")
    assert beat_of(tmp_path) | {"t": 0} == {
        "phase": "sft", "step": 0, "steps": 0, "stage": "command", "t": 0
    } and beat_of(tmp_path)["t"] == first  # fmt: skip
    clock.s += 1
    progress.hear("a")
    assert (beat_of(tmp_path)["step"], beat_of(tmp_path)["steps"]) == (3, 9)


def test_several_lines_of_one_step_count_as_one_step(tmp_path: Path, clock: Clock) -> None:
    """rl prints a line for each question; what is left is counted in steps."""
    progress = make(tmp_path)
    for step in range(4):
        for question in range(16):
            clock.s += 1
            progress.hear(f"Step {step}/100 | Example step {question} | Pass 0 | loss: 0.5")
    assert rows_of(tmp_path)[-1]["left_s"] == pytest.approx(97 * 13, rel=0.3)


def test_speed_comes_from_the_clock_where_the_line_has_none(tmp_path: Path, clock: Clock) -> None:
    progress = make(tmp_path)
    for step in range(3):
        clock.s += 2
        progress.hear(f"Step {step:05d}/00010 | Training loss: 2.0| lrm: 1.0| num_tokens: 1,000")
    row = rows_of(tmp_path)[-1]
    assert (row["tok_per_s"], row["dt_s"], row["left_s"]) == (500, 2, 16)


def test_a_full_disk_costs_rows_and_heartbeats_alone(tmp_path: Path) -> None:
    progress = make(tmp_path, metrics="/dev/full", heartbeat="/nowhere/heartbeat")
    progress.beat("load")
    progress.hear("step 00007 (50.00%) | loss: 2.0")
    assert progress.said.losses == [2.0]
