"""A machine whose GPUs do not work together is found out before anything is downloaded, also when it hangs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from nanolan.box.context import BoxRun, RunStopped
from nanolan.box.main import prepare
from nanolan.box.phase_runner import MARK, trainer_environment
from nanolan.box.probation import (
    COLLECTIVE_S,
    LEAST_S,
    Ended,
    Trouble,
    check_collective,
    reason_of,
    run_limited,
    seconds_for,
    try_gpus,
)
from nanolan.box.sandbox import TrainerUser
from nanolan.plan import Plan
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import environ, make_plan
from tests.support.saver_fixtures import machine

PLAN = replace(make_plan("", ""), processes=2)
USER = TrainerUser(71_717, Path("/nowhere"))


def alive(plan: Plan) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if environ(p).get(MARK) == plan.run_id]


def check(work: Path, fails: str, limit_s: float = 120.0) -> Trouble:
    (work / "trainer").mkdir(parents=True)
    host = {"PATH": os.environ["PATH"], "NANOLAN_FAILS": fails}
    return check_collective(
        PLAN, work, None, host=host, cwd=ROOT, limit_s=limit_s, module="tests.support.broken_ranks"
    )


@pytest.mark.slow  # PyTorch is loaded three times
@pytest.mark.parametrize(
    "fails, says",
    [
        ("none -1", ""),
        ("crash 1", "the 2 GPUs do not work together: RuntimeError: CUDA error: uncorrectable ECC"),
        ("kill 1", "the 2 GPUs do not work together: a rank ended with exit code -9"),
    ],
)
def test_two_ranks_that_sum_up_pass_and_one_that_dies_is_the_reason(
    tmp_path: Path, fails: str, says: str
) -> None:
    trouble = check(tmp_path, fails)
    assert trouble.text.startswith(says) and bool(trouble.text) == bool(says) and not trouble.hung
    assert not alive(PLAN)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_check_in_time_and_nothing_is_left(tmp_path: Path) -> None:
    began = time.monotonic()
    trouble = check(tmp_path, "hang 1", limit_s=25.0)
    assert time.monotonic() - began < 40 and not alive(PLAN)
    assert trouble == Trouble(
        "the 2 GPUs do not reach each other: a sum over all of them was not done after 25 s", True
    )


def test_a_program_that_leaves_its_session_and_ignores_signals_is_gone_all_the_same(
    tmp_path: Path,
) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('started', flush=True); time.sleep(600)"
    )
    env = trainer_environment(PLAN, os.environ)
    ended = run_limited([sys.executable, "-c", code], PLAN.run_id, 2.0, cwd=tmp_path, env=env)
    assert ended == Ended(None, "started\n") and not alive(PLAN)


@pytest.mark.parametrize(
    "hourly_cents, cents, seconds",
    [
        (100, 200, COLLECTIVE_S),
        (3360, 200, COLLECTIVE_S),
        (10_000, 200, 72.0),
        (36_000, 1, LEAST_S),
    ],
)
def test_the_time_limit_follows_the_probations_money(
    hourly_cents: int, cents: int, seconds: float
) -> None:
    offer = replace(PLAN.offer, hourly_cents=hourly_cents)
    assert seconds_for(replace(PLAN, offer=offer, probation_cents=cents)) == seconds


@pytest.mark.parametrize(
    "output, says",
    [
        (
            "noise\n[rank1] nanolan.train: rank 1: a sum is 3, not 4\ntorchrun failed",
            "rank 1: a sum is 3",
        ),
        ("  exitcode  : -11 (pid: 7)\n", "a rank ended with exit code -11"),
        ("No module named torch\n\n", "No module named torch"),
        ("", "exit code 1"),
    ],
)
def test_the_reason_is_the_line_that_says_most(output: str, says: str) -> None:
    assert reason_of(Ended(1, output)).startswith(says)


def scripted(*answers: Trouble) -> Any:
    """A check with these answers; it notes as whom it ran."""
    left = list(answers)

    def check(plan: Plan, work: Path, account: TrainerUser | None, **how: Any) -> Trouble:
        check.asked.append(account)  # type: ignore[attr-defined]
        return left.pop(0)

    check.asked = []  # type: ignore[attr-defined]
    return check


GOOD, BAD, HUNG = Trouble(""), Trouble("broken"), Trouble("hangs", True)


@pytest.mark.parametrize(
    "answers, account, found, asked",
    [
        ([GOOD], USER, ("", ""), [USER]),
        ([GOOD], None, ("", ""), [None]),
        ([BAD], None, ("broken", ""), [None]),
        ([HUNG], USER, ("hangs", ""), [USER]),
        ([BAD, GOOD], USER, ("", "broken"), [USER, None]),
        ([BAD, Trouble("worse")], USER, ("worse", ""), [USER, None]),
    ],
)
def test_what_only_the_trainers_user_cannot_do_is_done_as_root(
    answers: list[Trouble], account: TrainerUser | None, found: tuple[str, str], asked: list[Any]
) -> None:
    check = scripted(*answers)
    assert try_gpus(check, PLAN, Path(), account) == found and check.asked == asked


# ---- the box program


def prepared(root: Path, answers: list[Trouble], **fields: Any) -> tuple[BoxRun, Any, str]:
    """A box after prepare(), its check, and why it stopped; the download is a stop of its own."""
    check = scripted(*answers)

    def download(*args: Any, **how: Any) -> None:
        raise RunStopped("download", "it begins")

    deps = {
        "collective": check,
        "inspect": lambda *a, **k: "",
        "confine": lambda work: (USER, ""),
        "transfer": download,
    }
    more = {"device": "cuda", "trainer": "nanolan.train", **fields}
    box = machine(root, deps=deps, **more)
    box.timeline = SimpleNamespace(enter=lambda stage: None)  # type: ignore[assignment]
    box.meter.hourly_cents = 100  # type: ignore[misc]
    with pytest.raises(RunStopped) as stopped:
        prepare(box)
    return box, check, f"{stopped.value.reason}: {stopped.value}"


def test_a_fabric_that_hangs_gives_the_machine_back_before_anything_is_downloaded(
    tmp_path: Path,
) -> None:
    _, check, why = prepared(tmp_path, [HUNG])
    assert why == "boot_failed: hangs" and check.asked == [USER]


def test_gpus_that_work_together_let_the_download_begin(tmp_path: Path) -> None:
    box, _, why = prepared(tmp_path, [GOOD])
    assert why == "download: it begins" and box.unconfined == ""
    box, _, why = prepared(tmp_path, [BAD, GOOD])
    assert why == "download: it begins" and box.unconfined == "broken"


@pytest.mark.parametrize("fields", [{"device": "cpu"}, {"trainer": "nanolan.trainers.adapter"}])
def test_a_rehearsal_and_a_fork_have_no_such_sum(tmp_path: Path, fields: dict[str, str]) -> None:
    _, check, why = prepared(tmp_path, [], **fields)
    assert why == "download: it begins" and check.asked == []
