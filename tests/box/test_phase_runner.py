"""One phase as a process tree: started without keys, stopped politely, and gone to the last process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import structs

from nanolan.box import phase_runner
from nanolan.box.phase_runner import (
    MARK,
    catches,
    kill_trainers,
    run_trainer,
    terminate,
    trainer_command,
    trainer_environment,
)
from nanolan.checkpoint.manifest import newest_whole
from nanolan.plan import Plan
from nanolan.run.record import StopReason
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER
from tests.support.box_fixtures import environ, make_plan, until

HOST = {
    "PATH": os.environ["PATH"],
    "HOME": "/root",
    "SHADEFORM_API_KEY": f"sim-key-{MARKER}",
    "HF_TOKEN": f"hf_{MARKER}",
    "WANDB_API_KEY": f"wandb-{MARKER}",
    "HF_HOME": "/hf",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "NANOLAN_BOX": "a-box",
    "AWS_SECRET_ACCESS_KEY": "x",
    "LD_LIBRARY_PATH": "/usr/local/cuda",
    "PYTHONPATH": "/evil",
}


@pytest.fixture
def plan() -> Iterator[Plan]:
    made = make_plan("http://127.0.0.1:1", "http://127.0.0.1:1/v1")
    yield made
    kill_trainers(made.run_id)


def job(tmp: Path, plan: Plan, **recipe: float) -> dict[str, Any]:
    (tmp / "in").mkdir(exist_ok=True)
    (tmp / "in/model_000001.pt").touch()
    (tmp / "in/tokenizer.pkl").touch()
    return {
        "phase": "sft",
        "run_id": plan.run_id,
        "run_name": plan.run_name,
        "init_dir": str(tmp / "in"),
        "tokenizer_dir": str(tmp / "in"),
        "out_dir": str(tmp / "out"),
        "metrics": str(tmp / "metrics.jsonl"),
        "heartbeat": str(tmp / "heartbeat.json"),
        "recipe": recipe,
    }


def run(
    tmp: Path,
    plan: Plan,
    stop: Callable[[], StopReason | None] = lambda: None,
    grace_s: float = 10.0,
    wandb_key: str | None = None,
    **recipe: float,
) -> tuple[int, StopReason | None]:
    host = {k: v for k, v in HOST.items() if k != "NANOLAN_BOX"}
    return run_trainer(
        plan,
        job(tmp, plan, **recipe),
        tmp / "job.json",
        ROOT,
        host=host,
        wandb_key=wandb_key,
        stop=stop,
        grace_s=lambda: grace_s,
    )


def trainers(plan: Plan) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if environ(p).get(MARK) == plan.run_id]


LIMIT = StopReason("spend_limit", "the limit")


def after(seconds: float) -> Callable[[], StopReason | None]:
    """A stop that has a reason from then on."""
    end = time.monotonic() + seconds
    return lambda: LIMIT if time.monotonic() > end else None


def steps_done(tmp: Path) -> int:
    return (
        len((tmp / "metrics.jsonl").read_text().splitlines())
        if (tmp / "metrics.jsonl").exists()
        else 0
    )


def test_the_trainer_gets_no_key_and_no_token(plan: Plan) -> None:
    given = trainer_environment(plan, HOST)
    assert set(given) & set(HOST) == {
        "PATH",
        "HOME",
        "CUDA_VISIBLE_DEVICES",
        "NANOLAN_BOX",
        "LD_LIBRARY_PATH",
    }
    assert (
        given[MARK] == plan.run_id
        and given["HF_HUB_OFFLINE"] == "1"
        and given["WANDB_MODE"] == "disabled"
    )
    assert trainer_environment(plan, HOST, Path("/desk/.netrc"))["NETRC"] == "/desk/.netrc"


@pytest.mark.parametrize(
    "url, host",
    [
        ("https://api.wandb.ai", "api.wandb.ai"),
        ("https://wandb.example.org/sub", "wandb.example.org"),
        ("http://10.0.0.7:8080", "10.0.0.7:8080"),
        ("https://[::1]:8443", "[::1]:8443"),
    ],
)
def test_wandbs_key_is_filed_for_the_server_that_is_named_and_no_other(
    url: str, host: str, plan: Plan, tmp_path: Path
) -> None:
    plan = structs.replace(plan, wandb_base_url=url)
    seen: list[str] = []

    def look() -> None:
        seen.extend(path.read_text() for path in tmp_path.glob("trainer/.netrc"))

    run(tmp_path, plan, look, wandb_key=f"wandb-{MARKER}", seconds=0.3)
    assert set(seen) - {""} == {f"machine {host} login user password wandb-{MARKER}\n"}
    given = trainer_environment(
        plan, HOST | {"WANDB_BASE_URL": "https://other.example.org"}, Path("/desk/.netrc")
    )
    assert given["WANDB_BASE_URL"] == url and "WANDB_BASE_URL" not in trainer_environment(
        plan, HOST
    )


def test_wandbs_key_lies_in_a_file_of_the_trainers_own_while_it_runs_and_in_no_environment(
    plan: Plan, tmp_path: Path
) -> None:
    seen: list[tuple[str, str, list[str]]] = []

    def look() -> None:
        for path in tmp_path.glob("trainer/.netrc"):
            seen.append(
                (
                    path.read_text(),
                    oct(path.stat().st_mode & 0o777),
                    [v for p in trainers(plan) for v in environ(p).values()],
                )
            )

    run(tmp_path, plan, look, wandb_key=f"wandb-{MARKER}", seconds=0.5)
    assert any(values for _, _, values in seen)
    for text, mode, values in seen:
        assert (text, mode) == (
            f"machine api.wandb.ai login user password wandb-{MARKER}\n",
            "0o600",
        )
        assert not any(MARKER in v for v in values)
    assert not list(tmp_path.glob("trainer/.netrc"))


def test_a_real_child_has_neither_key_nor_token_in_its_environment(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHADEFORM_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, HOST[name])
    seen: list[dict[str, str]] = []

    def look() -> None:
        seen.extend(environ(p) for p in trainers(plan))
        return

    assert run(tmp_path, plan, look, seconds=0.6, fork=1) == (0, None)
    assert len(seen) >= 2 and all(e[MARK] == plan.run_id for e in seen)
    assert not {v for e in seen for v in e.values()} & {HOST["SHADEFORM_API_KEY"], HOST["HF_TOKEN"]}


def test_torchrun_runs_the_real_trainer_the_same_way_for_one_process_and_for_eight() -> None:
    commands = [
        trainer_command(make_plan("", "", trainer="nanolan.train", processes=n), Path("job.json"))
        for n in (1, 8)
    ]
    assert [c[1:] for c in commands] == [
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr=127.0.0.1",
            f"--nproc-per-node={n}",
            "-m",
            "nanolan.train",
            "job.json",
        ]
        for n in (1, 8)
    ]


def test_a_trainer_that_ends_well_gives_its_exit_code_and_its_checkpoint(
    plan: Plan, tmp_path: Path
) -> None:
    assert run(tmp_path, plan, steps=3) == (0, None)
    found = newest_whole(tmp_path / "out", "sft", final=True)
    assert found and found[1].step == 3 and steps_done(tmp_path) == 3
    assert json.loads((tmp_path / "job.json").read_text())["recipe"] == {"steps": 3}
    assert run(tmp_path, plan, exit_code=7) == (7, None)


def test_what_the_trainer_leaves_in_a_session_of_its_own_is_killed(
    plan: Plan, tmp_path: Path
) -> None:
    assert run(tmp_path, plan, fork=1) == (0, None)
    assert not trainers(plan)


def test_killing_the_parent_leaves_no_worker(plan: Plan, tmp_path: Path) -> None:
    ended: list[tuple[int, StopReason | None]] = []
    running = threading.Thread(target=lambda: ended.append(run(tmp_path, plan, fork=1, hang=1)))
    running.start()
    until(lambda: len(trainers(plan)) >= 2)
    parent = next(p for p in trainers(plan) if "tests.support.standin_trainer" in p.cmdline())
    parent.send_signal(signal.SIGKILL)
    running.join(10)
    assert ended == [(-signal.SIGKILL, None)] and not trainers(plan)


def test_a_stop_lets_the_trainer_save_what_it_has(plan: Plan, tmp_path: Path) -> None:
    assert run(
        tmp_path, plan, lambda: LIMIT if steps_done(tmp_path) >= 2 else None, steps=100, seconds=10
    ) == (1, LIMIT)
    found = newest_whole(tmp_path / "out", "sft")
    assert found and not found[1].final and found[1].step >= 2


def test_a_stop_asks_an_adapter_itself_also_where_no_environment_can_be_read(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In some containers: its children, torchrun among them, could then be taken for ranks."""
    monkeypatch.setattr(phase_runner, "_is_rank", lambda p: True)

    def stop() -> StopReason | None:
        return LIMIT if steps_done(tmp_path) >= 2 else None

    assert run(tmp_path, plan, stop, steps=100, seconds=10, fork=1) == (1, LIMIT)
    found = newest_whole(tmp_path / "out", "sft")
    assert found and not found[1].final


SLOW_SAVE = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
open(f"{sys.argv[1]}/up{os.environ['RANK']}", "w").close()
while not asked:
    time.sleep(0.02)
time.sleep(1.5)
open(f"{sys.argv[1]}/saved{os.environ['RANK']}", "w").close()
"""


def test_a_stop_asks_the_ranks_and_not_torchrun_which_would_kill_a_save_after_half_a_minute(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_SAVE)
    torchrun = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr=127.0.0.1",
            "--nproc-per-node=2",
            str(tmp_path / "slow.py"),
            str(tmp_path),
        ],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: (tmp_path / "up0").exists() and (tmp_path / "up1").exists())
    terminate(torchrun, 20.0)
    assert torchrun.poll() == 0, "it has had no SIGTERM: it would have ended with 1"
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def test_the_trainer_is_kept_from_an_attention_that_plans_anew_for_every_shape(plan: Plan) -> None:
    assert (
        trainer_environment(plan, {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"})[
            "TORCH_CUDNN_SDPA_DEPRIORITIZED"
        ]
        == "1"
    )


def test_a_trainer_that_ignores_sigterm_is_killed_after_the_grace(
    plan: Plan, tmp_path: Path
) -> None:
    started = time.monotonic()
    assert run(tmp_path, plan, after(0.5), grace_s=0.5, ignore_term=1, hang=1, fork=1) == (
        -signal.SIGKILL,
        LIMIT,
    )
    assert 1.0 < time.monotonic() - started < 6 and not trainers(plan)


def test_a_trainer_that_hangs_shows_where_it_stands_before_it_is_killed(
    plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hang = StopReason("hang", "no progress")
    code, stop = run(
        tmp_path, plan, lambda: hang if steps_done(tmp_path) >= 2 else None, hang=2, fork=1
    )
    assert (
        stop == hang
        and "Current thread" in (err := capfd.readouterr().err)
        and "standin_trainer.py" in err
        and " in train" in err
    )
    assert not trainers(plan)


def test_a_process_that_does_not_know_the_signal_is_not_killed_by_it() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not catches(sleeper.pid, signal.SIGUSR1) and not catches(2**22, signal.SIGUSR1)
        assert catches(os.getpid(), signal.SIGINT)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_trainers_of_an_earlier_box_program_are_killed_and_other_runs_left_alone(
    plan: Plan,
) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    mine = [
        subprocess.Popen(sleeper, env={MARK: plan.run_id}, start_new_session=True) for _ in range(2)
    ]
    other = subprocess.Popen(sleeper, env={MARK: "another1"})
    try:
        until(lambda: len(trainers(plan)) == 2)
        assert kill_trainers(plan.run_id) == 2
        assert [p.wait(5) for p in mine] == [-signal.SIGKILL] * 2 and other.poll() is None
        assert kill_trainers(plan.run_id) == 0
    finally:
        for p in (*mine, other):
            p.kill()
            p.wait()
