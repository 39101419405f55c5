"""Runs one training phase as a process tree of its own: start, watch, stop, kill what is left.

The trainer's environment holds neither cloud key nor Hub token. A phase is judged by the checkpoint it saved,
not by an exit code: torchrun returns 1 after a clean save on SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from nanolan.box.sandbox import UID, TrainerUser, trainer_folder
from nanolan.files import write_atomic
from nanolan.plan import Plan
from nanolan.run.record import StopReason
from nanolan.trainers.fork_job import fork_facts

MARK = "NANOLAN_TRAINER"  # in the environment of every process of a phase: workers may leave the process group and the session
GRACE_S = 40.0  # from SIGTERM to SIGKILL, at least; a state of a d20 took 26 to 39 s
HUNG_GRACE_S = 10.0  # a trainer that hangs will hardly save
STACKS_S = 1.0  # for the ranks to print their stacks
POLL_S, RESCAN_S = 0.2, 0.02
KEPT = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TMPDIR|LD_LIBRARY_PATH|BOX_ROOT|(CUDA|NVIDIA|NCCL|NANOLAN|UV|SSL)_?\w*"
)


def trainer_environment(
    plan: Plan,
    host: Mapping[str, str],
    netrc: Path | None = None,
    account: TrainerUser | None = None,
) -> dict[str, str]:
    """The trainer's environment: what KEPT matches of `host`, and its own settings; wandb's key is in the file `netrc`."""
    kept = {k: v for k, v in host.items() if KEPT.fullmatch(k)}
    wandb = (
        {"NETRC": str(netrc), "WANDB_BASE_URL": plan.wandb_base_url}
        if netrc
        else {"WANDB_MODE": "disabled"}
    )
    threads = max(1, (os.cpu_count() or 1) // plan.processes)
    return kept | {
        MARK: plan.run_id,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "PYTHONUNBUFFERED": "1",
        # cuDNN's attention builds a plan per shape (0.4 s on a B200), and decoding has a new shape each step
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
        **wandb,
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        **(account.environment if account else {}),
    }


def make_job(
    plan: Plan, phase: str, work: Path, init: Path, out: Path, wandb: bool
) -> dict[str, Any]:
    """The trainer's job (nanolan/train/job.py): start from the checkpoint in `init`, save to `out`."""
    group = {
        "project": plan.wandb_project,
        "name": f"{plan.run_name}-{phase}",
        "group": plan.run_name,
        "id": f"{plan.run_id}-{phase}",
    }  # a resumed phase continues this wandb run
    return {
        "phase": phase,
        "run_id": plan.run_id,
        "run_name": plan.run_name,
        "model_tag": plan.model_tag,
        "device": plan.device,
        "init_dir": str(init),
        "tokenizer_dir": str(work / "model" / "tokenizer"),
        "data_dir": str(work / "data"),
        "out_dir": str(out),
        "metrics": str(trainer_folder(work) / "metrics.jsonl"),
        "heartbeat": str(trainer_folder(work) / "heartbeat.json"),
        "batch": plan.batch,
        "recipe": plan.recipe,
        "identity": plan.identity,
        "save_minutes": plan.save_minutes,
        "model_only": plan.model_only,
        "wandb": group if wandb else None,
        **({"fork": fork_facts(plan, phase, trainer_folder(work))} if plan.fork else {}),
    }


def evaluation_of(job: dict[str, Any], plan: Plan, results: Path) -> dict[str, Any]:
    """The job that evaluates the checkpoint of `job`."""
    return job | {"evaluate": plan.evaluate, "humaneval": plan.humaneval, "results": str(results)}


def uses_torchrun(plan: Plan) -> bool:
    """Whether the box starts the ranks itself; the adapter of a foreign trainer does that on its own."""
    return plan.trainer == "nanolan.train"


def trainer_command(plan: Plan, job: Path) -> list[str]:
    """torchrun, also for one process; a stand-in trainer runs without it."""
    if not uses_torchrun(plan):
        return [sys.executable, "-m", plan.trainer, str(job)]
    return torchrun(plan.processes, plan.trainer, str(job))


def torchrun(processes: int, module: str, *words: str) -> list[str]:
    """A command that runs a module in so many ranks.

    The ranks connect to 127.0.0.1: the host name may not resolve, and then torchrun waits for ever.
    """
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={processes}",
        "-m",
        module,
        *words,
    ]


def run_trainer(
    plan: Plan,
    job: dict[str, Any],
    job_file: Path,
    cwd: Path,
    *,
    host: Mapping[str, str],
    wandb_key: str | None,
    stop: Callable[[], StopReason | None],
    account: TrainerUser | None = None,
    grace_s: Callable[[], float] = lambda: GRACE_S,
) -> tuple[int, StopReason | None]:
    """Run a phase to its end or until `stop()` gives a reason; (exit code, reason). Kills every process of it before returning.

    Without an `account` it runs as this program's user.
    """
    write_atomic(job_file, json.dumps(job, indent=2).encode())
    server = urlsplit(plan.wandb_base_url).netloc  # with its port, as wandb looks it up
    netrc = (
        write_netrc(trainer_folder(job_file.parent), wandb_key, account, server)
        if wandb_key
        else None
    )
    child = subprocess.Popen(
        trainer_command(plan, job_file),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=trainer_environment(plan, host, netrc, account),
        **(account.popen if account else {}),
    )
    reason = None
    try:
        while child.poll() is None and not reason:
            reason = stop()
            time.sleep(POLL_S)
        if child.poll() is None:
            hung = reason is not None and reason.reason == "hang"
            if hung:
                show_stacks(plan.run_id)
            asked = ranks_of(child) if uses_torchrun(plan) else [psutil.Process(child.pid)]
            terminate(child, HUNG_GRACE_S if hung else grace_s(), asked)
    finally:
        kill_trainers(plan.run_id)
        child.wait()
        if netrc:
            netrc.unlink(missing_ok=True)
    return child.returncode, reason


def write_netrc(folder: Path, wandb_key: str, account: TrainerUser | None, host: str) -> Path:
    """wandb's key where wandb looks for it, mode 0600, owned by the trainer, while the trainer runs. Not in the environment:
    child processes inherit it, and /proc shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".netrc"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as f:
        f.write(f"machine {host} login user password {wandb_key}\n")
        if account:
            os.fchown(f.fileno(), account.uid, account.uid)
    return path


def show_stacks(run_id: str) -> None:
    """Make every rank print its stack into the log by SIGUSR1 (nanolan/train/processes.py)."""
    for p in _marked(run_id):
        try:
            if catches(p.pid, signal.SIGUSR1):
                p.send_signal(signal.SIGUSR1)
        except (psutil.Error, OSError):
            continue
    time.sleep(STACKS_S)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which kills it otherwise. False where /proc cannot be read."""
    try:
        caught = re.search(
            r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.M
        )
    except OSError:
        return False
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def terminate(
    child: subprocess.Popen[Any], grace_s: float, asked: Sequence[psutil.Process] = ()
) -> None:
    """Send SIGTERM to the ranks, so that they save, and wait `grace_s` for them; SIGKILL is for the caller.

    torchrun itself gets no signal: it would kill its ranks 30 s later, in the middle of a long save. It ends with them.
    """
    for p in asked or ranks_of(child):
        try:
            p.terminate()
        except psutil.Error:
            continue
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        pass  # kill_trainers comes next


def ranks_of(child: subprocess.Popen[Any]) -> list[psutil.Process]:
    """The processes that torchrun has started; the child itself when it is no torchrun, or has not started any yet."""
    try:
        torchrun = psutil.Process(child.pid)
        return [p for p in torchrun.children() if _is_rank(p)] or [torchrun]
    except psutil.Error:
        return []


def _is_rank(p: psutil.Process) -> bool:
    try:
        return "LOCAL_RANK" in p.environ()
    except psutil.AccessDenied:  # runs as another user: torchrun has no other children that matter
        return True
    except psutil.Error:
        return False


def kill_trainers(run_id: str) -> int:
    """Kill every process that carries this run's mark (an earlier box program's too); returns their number."""
    killed: set[int] = set()
    empty = 0
    while empty < 2:  # twice: a process in the middle of fork or exec can be missed once
        found = _marked(run_id)
        empty = 0 if found else empty + 1
        for p in found:
            try:
                p.kill()
                killed.add(p.pid)
            except psutil.NoSuchProcess:
                continue
        time.sleep(RESCAN_S)
    return len(killed)


def _marked(run_id: str) -> list[psutil.Process]:
    found = []
    for p in psutil.process_iter():
        try:
            if (
                p.pid != os.getpid()
                and p.status() != psutil.STATUS_ZOMBIE
                and _belongs_to(p, run_id)
            ):
                found.append(p)
        except (psutil.Error, OSError):
            continue
    return found


def _belongs_to(p: psutil.Process, run_id: str) -> bool:
    """By the mark in its environment; by its user id where root may not read environments (in some containers)."""
    try:
        return p.environ().get(MARK) == run_id
    except psutil.AccessDenied:
        return os.geteuid() == 0 and p.uids().real == UID
