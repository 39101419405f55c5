"""How fast the trainer is, beside the plain path in the same run: ratios are what counts.

    just bench train   or   python -m tests.bench.trainer [cpu-tiny|d20] [PHASE ...]

"ours" is what a phase runs; "plain" is plain.py. Both have the same weights, optimizer, conversations and questions
(see cases.py). Each case has a process of its own, so that its memory can be told. On the CPU the two take turns step
by step, and the ratio is the median of those of step and step: other work on the machine slows both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from types import TracebackType

import torch

from nanolan.errors import NanolanError, UsageProblem
from nanolan.model.gpt import GPT
from nanolan.train.processes import Processes
from nanolan.train.progress import mfu_per_token, peak_gib
from tests.bench.cases import CASES, Tally
from tests.bench.workload import SHAPES, Shape

WARM_UP = 2  # steps that are not counted
PATHS = ("plain", "ours")
PHASES = tuple(dict.fromkeys(phase for phase, _ in CASES))
COUNTED = {"mid": "real", "sft": "real", "rl": "generated"}  # the tokens that the ratio is of


@dataclass(frozen=True)
class Step:
    """A step of a case, measured."""

    tally: Tally
    wall_s: float
    cpu_s: float  # of all threads
    peak_gib: float  # of the process so far
    mfu_per_token: float | None  # at one trained token a second


def measure(shape: Shape, phase: str, path: str) -> Iterator[Step]:
    """The steps of one case, in this process."""
    world = Processes(0, 1, torch.device(shape.device))
    model = GPT.from_state(shape.config, GPT.fresh(shape.config).state_dict(), world.device)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    mfu = mfu_per_token(shape.config, shape.config.sequence_len, world.device, 1)
    steps = CASES[phase, path](shape, phase, model, world)
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        tally = next(steps)
        if shape.device == "cuda":
            torch.cuda.synchronize()
        yield Step(
            tally,
            time.perf_counter() - wall,
            time.process_time() - cpu,
            peak_gib(shape.device),
            mfu,
        )


class Case:
    """A case in a process of its own, which makes a step when asked."""

    def __init__(self, name: str, phase: str, path: str) -> None:
        self.title, self.errors = f"{phase} {path}", tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        env = os.environ | {
            "OMP_WAIT_POLICY": "PASSIVE"
        }  # threads that wait busily take the other case's cores
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.trainer", name, "--case", phase, path],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def step(self) -> Step:
        """The next step; UsageProblem when the case has failed."""
        assert self.child.stdin and self.child.stdout  # noqa: S101
        try:
            print(file=self.child.stdin, flush=True)
        except BrokenPipeError:
            pass  # its last words say why
        while text := self.child.stdout.readline():
            if text.startswith("{"):
                said = json.loads(text)
                return Step(**said | {"tally": Tally(**said["tally"])})
        self.errors.seek(0)
        words = self.errors.read().strip().splitlines()
        raise UsageProblem(
            f"{self.title}: {words[-1] if words else f'ended with exit code {self.child.wait()}'}"
        )

    def __enter__(self) -> Case:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.communicate()
        self.errors.close()


def answer(shape: Shape, phase: str, path: str) -> None:
    """The other side of a Case: a step as JSON for every line."""
    steps = measure(shape, phase, path)
    for _ in sys.stdin:
        print(json.dumps(asdict(next(steps))), flush=True)


def run(name: str, phase: str) -> dict[str, list[Step]]:
    """The counted steps of both paths."""
    shape = SHAPES[name]
    n = WARM_UP + (shape.rl_steps if phase == "rl" else shape.steps)
    steps: dict[str, list[Step]] = {path: [] for path in PATHS}
    for group in (
        [PATHS] if shape.device == "cpu" else [(path,) for path in PATHS]
    ):  # a GPU has no room for both
        with ExitStack() as stack:
            cases = {path: stack.enter_context(Case(name, phase, path)) for path in group}
            for _ in range(n):
                for path, case in cases.items():
                    steps[path].append(case.step())
    return {path: made[WARM_UP:] for path, made in steps.items()}


def per_s(steps: list[Step], what: str) -> float:
    """Tokens a second of one kind."""
    return float(median(getattr(s.tally, what) / s.wall_s for s in steps))


def line(title: str, steps: list[Step]) -> str:
    """A case's figures as text."""
    positions, real, trained, new = (
        per_s(steps, what) for what in ("positions", "real", "trained", "generated")
    )
    last = steps[-1]
    mfu = last.mfu_per_token and last.mfu_per_token * (
        real + new / 3
    )  # to generate is a third of the work
    return (
        f"{title:<9} {positions:>9,.0f} tok/s  {real:>9,.0f} real  {trained:>9,.0f} trained"
        + (f"  {new:>7,.0f} generated" if new else "")
        + f"  {median(s.wall_s for s in steps):7.3f} s/step ({median(s.cpu_s for s in steps):.3f} CPU)"
        + f"  {last.peak_gib:6.2f} GiB"
        + (f"  {mfu:6.1%} MFU" if mfu else "")
    )


def ratios(phase: str, ours: list[Step], plain: list[Step]) -> str:
    """How many times the plain path's tokens ours makes in the same time, as text."""
    what = COUNTED[phase]
    each = [
        getattr(o.tally, what) / getattr(p.tally, what) for o, p in zip(ours, plain, strict=True)
    ]
    wall = median(n * p.wall_s / o.wall_s for n, o, p in zip(each, ours, plain, strict=True))
    cpu = median(n * p.cpu_s / o.cpu_s for n, o, p in zip(each, ours, plain, strict=True))
    return (
        f"{phase} ours / plain: {wall:.2f}x {what} tokens/s ({cpu:.2f}x by CPU time) "
        f"at {ours[-1].peak_gib / plain[-1].peak_gib:.2f}x memory"
    )


def main(argv: list[str]) -> int:
    """Print all cases and their ratios; the exit code."""
    name, *rest = argv or ["cpu-tiny"]
    try:
        if name not in SHAPES:
            raise UsageProblem(f"no shape {name!r}; there are {', '.join(SHAPES)}")
        if SHAPES[name].device == "cuda" and not torch.cuda.is_available():
            raise UsageProblem(f"{name} needs a CUDA device, and torch finds none")
        if rest[:1] == ["--case"]:
            answer(SHAPES[name], *rest[1:])
            return 0
        if unknown := [phase for phase in rest if phase not in PHASES]:
            raise UsageProblem(f"no phase {unknown[0]!r}; there are {', '.join(PHASES)}")
        for phase in rest or PHASES:
            steps = run(name, phase)
            for path in PATHS:
                print(line(f"{phase} {path}", steps[path]), flush=True)
            print(ratios(phase, steps["ours"], steps["plain"]), flush=True)
    except NanolanError as e:
        print(f"tests.bench.trainer: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
