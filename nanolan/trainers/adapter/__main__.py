"""A foreign trainer behind JOB.json, started by the box in place of nanolan.train:

    python -m nanolan.trainers.adapter JOB.json

It makes a fresh base folder, starts the fork's own script under the keeper, and keeps the box informed as nanolan's trainer
does: heartbeat, metrics, states and the final checkpoint with their manifests, results. The fork's files stay as they are.

Exit 0: the result is saved whole (after SIGTERM: its weights, if there was a step); 1: it is not, the last line says why.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import NanolanError
from nanolan.files import Log, write_atomic
from nanolan.trainers.adapter.base_folder import lay_out, write_words
from nanolan.trainers.adapter.child import Child
from nanolan.trainers.adapter.failures import MOST_TEXT
from nanolan.trainers.adapter.kept import Kept, save_final
from nanolan.trainers.adapter.output import Said, is_lost, loss_span, read_part
from nanolan.trainers.adapter.progress import ForkProgress
from nanolan.trainers.fork_job import ForkJob, read_fork_job

POLL_S = 0.2
KEEPER = Path(__file__).parents[1] / "inside" / "keeper.py"
NEVER_PASSED_ON = ("HF_TOKEN", "SHADEFORM_API_KEY")


def main(argv: Sequence[str]) -> int:
    """Run the job in the file argv[0]; the exit code."""
    if len(argv) != 1:
        print("usage: python -m nanolan.trainers.adapter JOB.json", file=sys.stderr)
        return 1
    try:
        job = read_fork_job(Path(argv[0]))
        return evaluate(job) if job.evaluate else train(job)
    except NanolanError as e:
        return _failed(f"refused: {e}")
    except OSError as e:  # a full disk
        return _failed(f"{type(e).__name__}: {e}")


def _failed(why: str) -> int:
    """The last line of a job without a result."""
    print(f"nanolan.train: {why}", file=sys.stderr, flush=True)
    return 1


def train(job: ForkJob) -> int:
    """One phase: from the newest state in out_dir, or from init_dir, to a final checkpoint in out_dir."""
    out = Path(job.out_dir)
    out.mkdir(parents=True, exist_ok=True)  # what is wrong with it is better known now
    state = newest_whole(out, job.phase, final=False)
    start, before = (state[0], state[1].step) if state else (Path(job.init_dir), 0)
    if state:
        print(f"the phase starts again from the weights kept at step {before}", flush=True)
    base = job.folder / f"nanochat-{job.phase}"
    progress = ForkProgress(job, before)
    progress.beat("load")
    lay_out(
        base,
        job.fork.phase,
        job.model_tag,
        start,
        Path(job.tokenizer_dir),
        Path(job.data_dir),
        task_data=job.fork.task_data,
    )
    if job.fork.rehearsal and not job.fork.task_data:
        write_words(base)
    kept = Kept(job, base / "kept", before)
    child = Child(
        train_command(job), Path(job.fork.checkout), environment(job, base), progress.hear
    )
    signal.signal(signal.SIGTERM, lambda number, frame: child.stop())
    while child.running:
        progress.look(base / "kept")
        if kept.lost or job.fork.phase.command and is_lost(progress.said.losses):
            child.kill()
            child.end()
            return _failed(f"{job.fork.phase.module or 'the command'}: the loss is nan")
        kept.take()
        time.sleep(POLL_S)
    code = child.end()
    kept.take()
    if _is_complete(job, code, stopped=child.stopping, finished=kept.finished):
        save_final(job, base, progress.said.measured | loss_span(progress.said.losses))
        return 0
    if child.stopping and kept.step:
        return 0
    return _failed(failure(job, code, progress.said))


def _is_complete(job: ForkJob, code: int, *, stopped: bool, finished: bool) -> bool:
    """Whether the script came to its own end: the checkpoint that is there is the phase's result, and no intermediate save.

    The keeper knows it, whatever the exit code: ranks may crash when they leave. A command has no keeper.
    """
    if job.fork.phase.command:
        return code == 0 and not stopped
    return finished


def failure(job: ForkJob, code: int, said: Said) -> str:
    """Why a phase left no result: the fork's own error where it printed one, else its last line."""
    what = job.fork.phase.module or "the command"
    if said.error:
        return f"{what}: {said.error}"
    last = f"; its last line: {said.last[:MOST_TEXT]}" if said.last else ""
    return f"{what}: {ended(code)} and left no checkpoint{last}"


def ended(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was killed by signal {-code} ({signal.Signals(-code).name})"


def train_command(job: ForkJob) -> list[str]:
    """The fork's module under the keeper, by torchrun for several processes; or the declared command."""
    phase = job.fork.phase
    if phase.command:
        # bash waits for the program that runs, which may save, and starts no other one
        return ["bash", "-c", f"trap 'exit 143' TERM\n{phase.command}"]
    program = [str(KEEPER), phase.module, "--", *phase.arguments]
    return [*launcher(job), *program]


def launcher(job: ForkJob) -> list[str]:
    """What starts a Python file or, with -m, a module in the fork's interpreter."""
    python, n = job.fork.python, job.fork.processes
    if n == 1:
        return [python]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    return [python, *torchrun, f"--nproc-per-node={n}"]


def environment(job: ForkJob, base: Path) -> dict[str, str]:
    """The fork's environment: ours, and where its files and data are."""
    fork = job.fork
    own = {k: v for k, v in os.environ.items() if k not in NEVER_PASSED_ON}
    offline = "1" if fork.task_data and not fork.downloads else "0"
    rehearsal = {"TORCHDYNAMO_DISABLE": "1", "NANOLAN_CPU_RANKS": "1"} if fork.rehearsal else {}
    return own | {
        "PATH": f"{Path(fork.python).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "NANOCHAT_BASE_DIR": str(base),
        "NANOLAN_KEEP": str(base / "kept"),
        "NANOLAN_SAVE_MINUTES": str(job.save_minutes),
        "NANOLAN_GPUS": str(fork.processes),
        "HF_HOME": str(job.folder / "hf"),
        "HF_HUB_OFFLINE": offline,
        "HF_DATASETS_OFFLINE": offline,
        "HF_ENDPOINT": fork.endpoint,
        "PYTHONPATH": "",
        **rehearsal,
    }


# ------------------------------------------------------------------ evaluation
def evaluate(job: ForkJob) -> int:
    """Judge the phase's final checkpoint by the fork's own evaluation; its scores go to the job's results file."""
    found = newest_whole(Path(job.out_dir), job.phase, final=True)
    if found is None or not job.fork.evaluation:
        why = "it has no evaluation" if found else "there is no final checkpoint"
        return _failed(f"refused: {why}")
    base = job.folder / f"nanochat-{job.phase}-evaluation"
    progress = ForkProgress(job, 0)
    progress.beat("evaluate")
    phase = job.fork.phase
    lay_out(
        base,
        replace(phase, input_dir=phase.output_dir),
        job.model_tag,
        found[0],
        Path(job.tokenizer_dir),
        Path(job.data_dir),
        task_data=job.fork.task_data,
    )

    def hear(text: str) -> None:
        read_part(text, progress.said)
        progress.beat_sometimes("evaluate")

    child = Child(evaluation_command(job), Path(job.fork.checkout), environment(job, base), hear)
    signal.signal(signal.SIGTERM, lambda number, frame: child.stop())
    code = child.end()
    if code or not progress.said.scores:
        why = progress.said.error or f"{ended(code)}, with {len(progress.said.scores)} scores"
        return _failed(f"{job.fork.evaluation}: {why}")
    results: dict[str, Any] = {"scope": job.evaluate, "step": found[1].step}
    write_atomic(
        Path(job.results or ""), json.dumps(results | progress.said.scores, indent=2).encode()
    )
    return 0


def evaluation_command(job: ForkJob) -> list[str]:
    fork = job.fork
    # on a CPU nanochat starts no process group, and nothing stands in for it here
    program = [fork.python] if fork.rehearsal else launcher(job)
    return [*program, "-m", fork.evaluation, "-i", job.phase, *fork.evaluation_arguments]


if __name__ == "__main__":
    sys.stdout, sys.stderr = Log(1), Log(2)  # the log's disk may be full
    sys.exit(main(sys.argv[1:]))
