"""A trainer that trains nothing: python -m tests.support.standin_trainer JOB.json

Standard library only. Behaves towards the box program as nanolan.train does: a checkpoint in nanochat's layout,
metrics, heartbeat, SIGTERM saves what there is. The numbers of job["recipe"] say what goes well and what does not:

    steps 5, seconds 0.2, kb 64      how many steps, how long in all, size of the model file
    save_at N, save_every N          a state saved on the way, at step N or every N steps; the newest two are kept
    exit_code N                      ends with N after the last step and saves nothing more
    no_save 1                        saves nothing at its end, which is exit 0, nor at SIGTERM
    hang N                           stands still at step N
    ignore_term 1                    SIGTERM does nothing
    fork 1                           leaves a child behind, in a session of its own
    die 1                            kills itself by SIGKILL at the last step, the first time only
    say_nan N                        ends at step N as the trainer does whose loss is no number; with once 1 the first time only
    once 1                           hang and say_nan happen the first time only

Goes on from the newest state that it finds. A job with "evaluate" writes results: chatcore 0.25, or as the recipe says:

    exam_fails 1, exam_seconds 0     no results, exit 1; how long it takes
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanolan.checkpoint.manifest import newest_whole, save_whole
from nanolan.files import Log

stop = False


def main() -> int:
    """Run the job in the file argv[1]; the exit code."""
    job = json.loads(Path(sys.argv[1]).read_bytes())
    recipe = {"steps": 5, "seconds": 0.2, "kb": 64} | job["recipe"]
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if recipe.get("ignore_term") else ask_to_stop)
    if (
        not list(Path(job["init_dir"]).glob("model_*.pt"))
        or not Path(job["tokenizer_dir"], "tokenizer.pkl").is_file()
    ):
        print("no checkpoint or no tokenizer to start from")
        return 3
    if job.get("evaluate"):
        return evaluate(job, recipe)
    if recipe.get("fork"):
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
    print(f"{job['run_name']}: {job['phase']} from {job['init_dir']}")
    return train(job, recipe)


def train(job: dict[str, Any], recipe: dict[str, Any]) -> int:
    """All steps, then the end that the recipe asks for."""
    steps, state = (
        int(recipe["steps"]),
        newest_whole(Path(job["out_dir"]), job["phase"], final=False),
    )
    if state:
        print(f"{job['phase']} goes on from {state[0]}")
    for step in range(state[1].step + 1 if state else 1, steps + 1):
        tell(job, step, steps)
        if (
            step == recipe.get("save_at")
            or step % recipe.get("save_every", steps) == 0
            and step < steps
        ):
            save(job, recipe, step, final=False)
            for old in sorted(Path(job["out_dir"]).glob("step-*"))[:-2]:
                shutil.rmtree(old)
        if step in (recipe.get("hang"), recipe.get("say_nan")) and not (
            recipe.get("once") and marked(job, "hurt")
        ):
            if recipe.get("say_nan"):
                print(
                    f"nanolan.train: the loss is nan at step {step} of {steps}: stopped, the state is kept",
                    flush=True,
                )
                return 1
            while not stop:
                time.sleep(0.05)
        time.sleep(recipe["seconds"] / steps)
        if stop:
            if not recipe.get("no_save"):
                save(job, recipe, step, final=False)
            return 1  # as torchrun after a clean save
    if recipe.get("die") and not marked(job, "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    if not recipe.get("exit_code") and not recipe.get("no_save"):
        save(job, recipe, steps, final=True)
    return int(recipe.get("exit_code", 0))


def marked(job: dict[str, Any], name: str) -> bool:
    """Whether this was asked before; the next time it was."""
    mark = Path(job["metrics"]).with_name(name)
    return mark.exists() or mark.touch()  # type: ignore[func-returns-value]


def evaluate(job: dict[str, Any], recipe: dict[str, Any]) -> int:
    """Results out of nothing, unless they shall fail."""
    beat(job, 0, 0, "evaluate")
    end = time.monotonic() + recipe.get("exam_seconds", 0)
    while time.monotonic() < end and not stop:
        time.sleep(0.05)
    if stop or recipe.get("exam_fails"):
        print("nanolan.train: the evaluation failed")
        return 1
    Path(job["results"]).write_text(
        json.dumps(
            {
                "step": 5,
                "scope": job["evaluate"],
                "mmlu_acc": 0.5,
                "chatcore": 0.25,
                "not_measured": {"HumanEval": "only on request"},
            }
        )
    )
    return 0


def beat(job: dict[str, Any], step: int, steps: int, stage: str) -> None:
    """A heartbeat."""
    temp = Path(job["heartbeat"] + ".tmp")
    temp.write_text(
        json.dumps(
            {"phase": job["phase"], "step": step, "steps": steps, "stage": stage, "t": time.time()}
        )
    )
    temp.replace(job["heartbeat"])


def tell(job: dict[str, Any], step: int, steps: int) -> None:
    """One line, one row of metrics, one heartbeat."""
    row = {
        "phase": job["phase"],
        "step": step,
        "steps": steps,
        "loss": 3.0 - step / steps,
        "lr": 0.01,
        "tok_per_s": 1.0,
        "dt_s": 0.1,
        "t": time.time(),
    }
    print(f"{job['phase']} step {step}/{steps} loss {row['loss']:.3f}", flush=True)
    with open(job["metrics"], "a") as f:
        f.write(json.dumps(row) + "\n")
    beat(job, step, steps, "train")


def save(job: dict[str, Any], recipe: dict[str, Any], step: int, final: bool) -> None:
    """A whole step in nanochat's layout; the same bytes for the same run, phase and step."""

    def write(folder: Path) -> None:
        numbers = random.Random(f"{job['run_id']} {job['phase']} {step}")
        (folder / f"model_{step:06d}.pt").write_bytes(numbers.randbytes(1024 * int(recipe["kb"])))
        (folder / f"meta_{step:06d}.json").write_text(
            json.dumps({"step": step, "mmlu_acc": None, "model_config": {}})
        )

    save_whole(
        Path(job["out_dir"]),
        step,
        write,
        run_id=job["run_id"],
        phase=job["phase"],
        final=final,
        extra={"loss_start": 2.8, "loss_end": 2.0, "val_bpb": 0.4},
    )


def ask_to_stop(*_: object) -> None:
    """SIGTERM: save at the next step."""
    global stop
    stop = True


if __name__ == "__main__":
    sys.stdout, sys.stderr = Log(1), Log(2)  # as nanolan.train does
    sys.exit(main())
