"""The trainer: one phase, from a folder with a checkpoint to a folder with a checkpoint.

    torchrun --standalone --nproc-per-node N -m nanolan.train JOB.json     (or python -m, for one process)

With "evaluate" in the job, the phase's saved checkpoint is judged instead.

Exit 0: the result is saved whole (after SIGTERM: a state to go on from, unless it came before the first step);
1: it is not, a line that begins with "nanolan.train: " says why. Ranks that end because of another one say "rank N: ".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault(
    "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
)  # read when CUDA starts

from nanolan.errors import BadAnswer, NanolanError, UsageProblem  # noqa: E402
from nanolan.files import Log  # noqa: E402
from nanolan.train.job import Job, read_job  # noqa: E402
from nanolan.train.processes import PeerLost, Processes, join_world  # noqa: E402
from nanolan.train.stop import follow_parent, tell_stacks  # noqa: E402
from nanolan.train.supervised import train_supervised  # noqa: E402


def main(argv: list[str]) -> int:
    """Run the job in the file argv[0]; the exit code."""
    if len(argv) != 1:
        print("usage: python -m nanolan.train JOB.json", file=sys.stderr)
        return 1
    follow_parent()
    tell_stacks()
    try:
        job = read_job(Path(argv[0]))
        train(job, join_world(job.device))
    except PeerLost as e:  # not the cause, which the other rank tells
        tell(f"rank {os.environ.get('RANK', 0)}: stopped: {e}")
        return 1
    except (BadAnswer, UsageProblem) as e:  # a retry with the same inputs would fail too
        tell(f"nanolan.train: refused: {e}")
        return 1
    except NanolanError as e:
        tell(f"nanolan.train: {e}")
        return 1
    except Exception as e:  # the traceback follows
        tell(f"nanolan.train: {type(e).__name__}: {' '.join(str(e).split())[:300]}")
        raise
    return 0


def tell(line: str) -> None:
    """One line on stderr, in one write: other ranks write to the same log."""
    print(f"{line}\n", end="", file=sys.stderr, flush=True)


def train(job: Job, world: Processes) -> None:
    """Train the job's phase and save it, or evaluate its checkpoint; NanolanError if there is no result."""
    if job.evaluate:
        from nanolan.train.evaluation.job import judge

        judge(job, world)
    elif job.phase == "rl":
        from nanolan.train.rl import train_rl

        train_rl(job, world)
    else:
        train_supervised(job, world)


if __name__ == "__main__":
    sys.stdout, sys.stderr = (
        Log(1),
        Log(2),
    )  # the log's disk may be full while the checkpoints' disk is not
    sys.exit(main(sys.argv[1:]))
