"""Reports: metrics first, a heartbeat that is never half, and a wandb that cannot hurt."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nanolan.train.job import Job, read_job
from nanolan.train.progress import ProgressWriter
from tests.support.tiny_world import write_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return read_job(
        write_job(tmp_path, tmp_path / "run", wandb={"project": "p", "name": "n", "group": "g"})
    )


def test_a_step_writes_a_line_a_row_and_a_heartbeat(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ProgressWriter(job)
    report.steps = 10
    report.step(3, 2.5, 0.02, 1000, 0.5)
    line = capsys.readouterr().out
    assert "mid step 3/10 | loss 2.5000 | lr 0.02 | 2,000 tok/s | 500 ms | " in line
    row, beat = json.loads(job.metrics.read_text()), json.loads(job.heartbeat.read_text())
    assert {k: row[k] for k in ("phase", "step", "steps", "loss", "lr", "tok_per_s", "dt_s")} == {
        "phase": "mid",
        "step": 3,
        "steps": 10,
        "loss": 2.5,
        "lr": 0.02,
        "tok_per_s": 2000,
        "dt_s": 0.5,
    }
    assert {k: beat[k] for k in ("phase", "step", "steps", "stage")} == {
        "phase": "mid",
        "step": 3,
        "steps": 10,
        "stage": "train",
    }
    assert abs(beat["t"] - time.time()) < 60
    assert abs(row["t"] - time.time()) < 60


def test_norm_utilisation_memory_and_time_left_are_in_the_line_and_the_row(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ProgressWriter(job)
    report.steps, report.mfu_per_token = 100, 2e-4
    report.step(40, 2.5, 0.02, 1000, 0.5, norm=0.25)
    assert " | norm 0.25 | 40.0% MFU | " in (line := capsys.readouterr().out)
    assert line.endswith(" GiB | 0.5 min left\n")
    row = json.loads(job.metrics.read_text())
    assert (row["norm"], row["mfu"], row["left_s"]) == (0.25, 0.4, 30)
    assert row["peak_gib"] > 0


def test_the_time_left_is_by_the_latest_steps_without_the_first_which_compiles(job: Job) -> None:
    report = ProgressWriter(job)
    report.steps = 10
    for step, dt_s in enumerate((100.0, 1.0, 3.0), 1):
        report.step(step, 1.0, 0.1, 1, dt_s)
    assert [json.loads(line)["left_s"] for line in job.metrics.read_text().splitlines()] == [
        900,
        8,
        14,
    ]


def test_metrics_are_appended(job: Job) -> None:
    for _ in range(2):
        ProgressWriter(job).step(1, 1.0, 0.1, 1, 1.0)
    assert len(job.metrics.read_text().splitlines()) == 2


def test_a_reader_never_sees_half_a_heartbeat(job: Job) -> None:
    report, stop, seen = ProgressWriter(job), threading.Event(), []
    report.beat("load")

    def read() -> None:
        while not stop.is_set():
            seen.append(json.loads(job.heartbeat.read_text())["stage"])

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(300):
        report.beat("train", step)
    stop.set()
    reader.join()
    assert set(seen) <= {"load", "train"}
    assert seen


def test_other_ranks_say_and_write_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    report = ProgressWriter(job, speaks=False)
    report.step(1, 1.0, 0.1, 1, 1.0)
    report.say("hello")
    report.beat("load")
    report.open_wandb({})
    assert capsys.readouterr().out == ""
    assert not job.metrics.exists()
    assert not job.heartbeat.exists()


def test_loss_start_and_end_are_means_of_a_tenth(job: Job) -> None:
    report = ProgressWriter(job, speaks=False)
    assert report.loss_span() == {"loss_start": None, "loss_end": None}
    for loss in range(20):
        report.step(loss + 1, float(loss), 0.1, 1, 1.0)
    assert report.loss_span() == {"loss_start": 0.5, "loss_end": 18.5}


def test_wandb_is_not_touched_by_a_job_without_it_nor_by_other_ranks(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)  # importing it would raise
    ProgressWriter(replace(job, wandb=None)).open_wandb({})
    ProgressWriter(job, speaks=False).open_wandb({})
    assert capsys.readouterr().err == ""


def test_a_wandb_that_is_not_there_is_a_warning(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    report = ProgressWriter(job)
    report.open_wandb({})
    report.step(1, 1.0, 0.1, 1, 1.0)
    report.close()
    assert "warning: continuing without wandb" in capsys.readouterr().err
