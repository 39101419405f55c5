"""The newest step from the machine itself: newer than the heartbeat, and never in the way."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.run.record import Progress
from nanolan.status.closeup import AGAIN_S, COMMAND, STEP, Closeup, newer
from nanolan.status.view import RunView
from nanolan.times import parse_time
from nanolan.train.job import read_job
from nanolan.train.progress import ProgressWriter
from tests.status.test_status import LIVE, machine
from tests.support.status_fixtures import RUN, TRAINING
from tests.support.tiny_world import write_job

TOLD = Progress(
    RUN,
    "training",
    {},
    "2026-01-28T20:53:39Z",
    phase="sft",
    step=3,
    steps=90,
    loss=3.5,
    tok_per_s=10.0,
    left_s=700.0,
    phase_left_s=600.0,
    stage="compile",
)
LINE = "sft step 41/90 | loss 1.5000 | lr 0.02 | 1,234,567 tok/s | 500 ms | norm 0.25 | 40.0% MFU | 12.5 GiB | 2.5 min left"
VIEW = RunView(LIVE, "training", instance=machine("active"), progress=TOLD)


class Ssh:
    """Answers each call with the log, or fails as it is told to."""

    def __init__(self, log: str = LINE, fails: Any = 0) -> None:
        self.log, self.fails, self.calls = log, fails, list[list[str]]()

    def __call__(self, argv: list[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        self.calls.append(argv)
        if isinstance(self.fails, Exception):
            raise self.fails
        return subprocess.CompletedProcess(argv, self.fails, self.log.encode())


def test_the_machines_own_step_is_newer_and_what_follows_the_phase_stays_foretold() -> None:
    got = Closeup(
        lambda v: ["ssh", "host"],
        run=Ssh(f"words\n{LINE.replace('41', '40')}\n{LINE}\nbox: words\n"),
    )(VIEW).progress
    assert got and (got.phase, got.step, got.steps, got.loss, got.tok_per_s, got.stage) == (
        "sft",
        41,
        90,
        1.5,
        1_234_567,
        "train",
    )
    assert (got.phase_left_s, got.left_s) == (150.0, 250.0) and parse_time(
        got.updated
    ) > parse_time(TOLD.updated)


def test_in_a_phase_that_the_heartbeat_does_not_know_yet_the_end_is_not_guessed() -> None:
    assert newer(structs.replace(TOLD, phase="mid"), LINE).left_s == 700.0
    assert newer(structs.replace(TOLD, left_s=None), LINE).left_s is None


@pytest.mark.parametrize(
    "log", ["", "no step", "sft step 1/2 | loss nan |", "x" * 50_000, "\x00\x1b[2J"]
)
def test_a_log_without_a_step_changes_nothing(log: str) -> None:
    assert newer(TOLD, log) == TOLD


@pytest.mark.parametrize("fails", [255, OSError("no ssh"), subprocess.TimeoutExpired("ssh", 15)])
def test_a_machine_that_is_not_reached_is_left_alone_for_a_while(fails: Any) -> None:
    now = [1000.0]
    ssh = Ssh(fails=fails)
    closer = Closeup(lambda v: ["ssh"], run=ssh, clock=lambda: now[0])
    assert closer(VIEW) is VIEW and closer(VIEW) is VIEW and ssh.calls == [["ssh", COMMAND]]
    now[0] += AGAIN_S
    ssh.fails = 0
    got = closer(VIEW).progress
    assert got and got.step == 41 and len(ssh.calls) == 2


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, state="uploading"),
        replace(VIEW, progress=None),
        replace(VIEW, progress=TRAINING),
    ],
)
def test_only_a_run_that_trains_is_asked_and_only_where_it_can_be(view: RunView) -> None:
    ssh = Ssh()
    closer = Closeup(lambda v: None, run=ssh)
    assert closer(view) is view and ssh.calls == []


def test_the_trainers_own_lines_are_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ProgressWriter(read_job(write_job(tmp_path, tmp_path / "run")))
    report.steps, report.mfu_per_token = 90, 2e-4
    report.step(41, 2.5, 0.02, 100_000, 0.5, norm=0.25)
    assert STEP.findall(capsys.readouterr().out) == [
        ("mid", "41", "90", "2.5000", "200,000", "0.4")
    ]
