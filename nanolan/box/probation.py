"""One sum over all GPUs before anything is downloaded: a machine whose fabric is broken would hang in its first step.

A collective that hangs cannot be ended from within, so it runs as a process tree of its own, as the trainer's user, with a
time limit. `just gpu-check` runs its parts the same way.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nanolan.box.phase_runner import kill_trainers, torchrun, trainer_environment
from nanolan.box.sandbox import TrainerUser, trainer_folder
from nanolan.files import write_atomic
from nanolan.plan import Plan
from nanolan.run.postmortem import exception_of

COLLECTIVE_S = (
    120.0  # eight ranks load PyTorch, start CUDA and NCCL: 20 to 40 s expected; never run on a GPU
)
LEAST_S = 60.0  # where the probation's money is for less
TOLD = "nanolan.train: "  # begins the trainer's own last line
EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")  # in torchrun's report
MOST_BYTES = 1 << 20  # of a program's output: its end


class Ended(NamedTuple):
    """How a program ended; `code` is None when its time was up."""

    code: int | None
    output: str


class Trouble(NamedTuple):
    """What is wrong with the GPUs, or "" ; and whether it was only found by waiting."""

    text: str
    hung: bool = False


def run_limited(
    command: Sequence[str],
    run_id: str,
    limit_s: float,
    *,
    cwd: Path,
    env: Mapping[str, str],
    account: TrainerUser | None = None,
) -> Ended:
    """Run a program for at most `limit_s` seconds; every process that carries the run's mark is killed before it returns.

    `env` holds the mark (phase_runner.MARK). The output goes to a file: a survivor could hold a pipe open.
    """
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(account.popen if account else {}),
        )
        code: int | None = None
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_trainers(run_id)
            child.wait()
        out.seek(max(0, out.seek(0, 2) - MOST_BYTES))
        return Ended(code, out.read().decode(errors="replace"))


def check_collective(
    plan: Plan,
    work: Path,
    account: TrainerUser | None,
    *,
    host: Mapping[str, str],
    cwd: Path,
    limit_s: float | None = None,
    module: str = "nanolan.train.probe",
) -> Trouble:
    """One collective over all GPUs of the plan, as the trainer's user; Trouble("") when it is right."""
    limit_s = seconds_for(plan) if limit_s is None else limit_s
    setup = work / "collective.json"
    write_atomic(setup, json.dumps({"device": plan.device}).encode())
    result = trainer_folder(work) / "collective.json"
    env = trainer_environment(plan, host, None, account)
    command = torchrun(plan.processes, module, "collective", str(setup), str(result))
    ended = run_limited(command, plan.run_id, limit_s, cwd=cwd, env=env, account=account)
    if ended.code is None:
        return Trouble(
            f"the {plan.processes} GPUs do not reach each other: a sum over all of them was not done "
            f"after {limit_s:.0f} s",
            hung=True,
        )
    if ended.code:
        return Trouble(f"the {plan.processes} GPUs do not work together: {reason_of(ended)}")
    return Trouble("")


def seconds_for(plan: Plan) -> float:
    """The time limit: what the probation's money pays for, between LEAST_S and COLLECTIVE_S."""
    paid_s = 3600 * plan.probation_cents / max(plan.offer.hourly_cents, 1)
    return min(COLLECTIVE_S, max(LEAST_S, paid_s))


def try_gpus(
    check: Callable[..., Trouble], plan: Plan, work: Path, account: TrainerUser | None, **how: Any
) -> tuple[str, str]:
    """(what is wrong with the GPUs, why the trainer's user cannot use them), each "" if nothing.

    What fails at once as the trainer's user is tried again as this program's: a run as root is better than none.
    """
    trouble = check(plan, work, account, **how)
    if not trouble.text or trouble.hung or account is None:
        return trouble.text, ""
    again = check(plan, work, None, **how)
    return again.text, "" if again.text else trouble.text


def reason_of(ended: Ended) -> str:
    """The line of a failed program's output that says most: a rank's own last word, an exception, the exit code of a rank."""
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    own = [line[line.index(TOLD) + len(TOLD) :] for line in lines if TOLD in line]
    killed = [f"a rank ended with exit code {m[1]}" for m in EXIT_CODE.finditer(ended.output)]
    found = (
        own[:1] or list(exception_of(ended.output.splitlines()))[-1:] or killed[:1] or lines[-1:]
    )
    return found[0][:300] if found else f"exit code {ended.code}"
