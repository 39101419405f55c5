"""Tests of nanolan/train/evaluation/job.py: the evaluation as a job of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.evaluation import beside, gather
from nanolan.train.__main__ import main
from tests.support.tiny_world import REPO, metrics, write_job

SMALL = {"exam_problems": 4, "exam_new_tokens": 16}


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which mid has been trained, so well that no answer hangs by a rounding."""
    job = write_job(
        tiny, tmp_path_factory.mktemp("trained"), "mid", {"max_steps": 30, "val_rows": 0}
    )
    assert main([str(job)]) == 0
    return job.parent


def exam(
    tiny: Path, trained: Path, folder: Path, recipe: dict[str, Any] = SMALL, **more: Any
) -> Path:
    return write_job(
        tiny,
        folder,
        "mid",
        recipe,
        **{
            "evaluate": "quick",
            "results": str(folder / "results.json"),
            "out_dir": str(trained / "out"),
        }
        | more,
    )


def test_a_saved_checkpoint_is_judged_and_its_files_stay_as_they_are(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    before = {p: p.read_bytes() for p in (trained / "out").rglob("*") if p.is_file()}
    job = exam(tiny, trained, tmp_path)
    assert main([str(job)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 30 and results["scope"] == "quick" and results["chatcore_tasks"] == 5
    assert {"arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc", "spellingbee_acc"} <= set(
        results
    )
    assert "only on request" in results["not_measured"]["HumanEval"]
    assert metrics(job)[-1]["chatcore"] == results["chatcore"]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["stage"] == "evaluate"
    assert before == {p: p.read_bytes() for p in (trained / "out").rglob("*") if p.is_file()}


def test_some_answers_lie_beside_the_results(tiny: Path, trained: Path, tmp_path: Path) -> None:
    assert main([str(exam(tiny, trained, tmp_path))]) == 0
    [found] = gather([beside(tmp_path / "results.json")])
    assert (found.phase, found.step) == ("mid", 30) and len(found.samples) > 3


def test_answers_that_cannot_be_made_leave_the_results(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.samples.json.tmp").mkdir()
    assert main([str(exam(tiny, trained, tmp_path))]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 30


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tiny: Path, trained: Path, tmp_path: Path) -> None:
    assert main([str(exam(tiny, trained, tmp_path / "one"))]) == 0
    two = exam(tiny, trained, tmp_path / "two")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "nanolan.train",
            str(two),
        ],
        cwd=REPO,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "one/results.json").read_text() == (
        tmp_path / "two/results.json"
    ).read_text()


def test_without_a_whole_checkpoint_there_are_no_results(
    tiny: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(exam(tiny, trained, tmp_path, out_dir=str(tmp_path / "nothing")))]) == 1
    assert (
        "no whole checkpoint of mid" in capsys.readouterr().err
        and not (tmp_path / "results.json").exists()
    )


@pytest.mark.slow
def test_sigterm_in_the_middle_ends_it_without_results(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    job = exam(tiny, trained, tmp_path, {"exam_new_tokens": 500}, evaluate="full")
    child = subprocess.Popen(
        [sys.executable, "-m", "nanolan.train", str(job)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while (
        not (tmp_path / "heartbeat.json").exists()
        or "evaluate" not in (tmp_path / "heartbeat.json").read_text()
    ):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1 and "stopped during the evaluation" in err, (out, err)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"evaluate": "some"}, "evaluate is 'some'"),
        ({"results": None}, "belong together"),
        ({"evaluate": None}, "belong together"),
    ],
)
def test_a_job_that_asks_for_nonsense_is_refused(
    tiny: Path,
    trained: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(exam(tiny, trained, tmp_path, **changes))]) == 1
    assert complaint in capsys.readouterr().err
