"""How fast the trainer is, beside the plain path in the same run: ratios are what counts.

    just bench train   or   python -m tests.bench.trainer [cpu-tiny|d20] [PHASE ...] [--against CHECKOUT [--as-is]]

"ours" is what a phase runs; "plain" is plain.py. Both have the same weights, optimizer, conversations and questions
(see cases.py). Each case has a process of its own, so that its memory can be told. On the CPU the two take turns step
by step, and the ratio is the median of those of step and step: other work on the machine slows both.

With --against the scripts of a nanochat checkout take the plain path's place (against.py), on the CPU. Their
Newton-Schulz is computed in fp32, as ours is there, unless --as-is is given: in bf16, which most CPUs lack, it takes 11 to
26 times as long, and would be most of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from types import TracebackType
from typing import Any

import torch

from nanolan.errors import NanolanError, UsageProblem
from nanolan.model.gpt import GPT
from nanolan.train.processes import Processes
from nanolan.train.progress import mfu_per_token, peak_gib
from tests.bench.against import (
    Checkout,
    checkout_at,
    environment,
    guest_command,
    lay_out_phase,
    missing,
)
from tests.bench.cases import CASES, Tally
from tests.bench.workload import SHAPES, Shape

CPU = "cpu-tiny"  # the shape of the CPU
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

    def __init__(self, title: str, command: list[str], **how: Any) -> None:
        self.title, self.errors = title, tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,
            **how,
        )

    def step(self) -> Step:
        """The next step; UsageProblem when the case has failed."""
        said = self.answer()
        return Step(**said | {"tally": Tally(**said["tally"])})

    def answer(self) -> dict[str, Any]:
        """What the case says of its next step."""
        assert self.child.stdin and self.child.stdout  # noqa: S101
        try:
            print(file=self.child.stdin, flush=True)
        except BrokenPipeError:
            pass  # its last words say why
        while text := self.child.stdout.readline():
            if text.startswith("{"):
                return dict(json.loads(text))
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
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)  # a compiler's processes, too
        self.child.communicate()
        self.errors.close()


class GuestCase(Case):
    """A script of a checkout; see guest.py."""

    def __init__(self, checkout: Checkout, shape: Shape, phase: str) -> None:
        self.phase, self.shape, self.fp32 = phase, shape, False
        self.folder = tempfile.TemporaryDirectory(prefix="nanolan-bench-")
        job = lay_out_phase(checkout, shape, phase, Path(self.folder.name))
        env = environment(Path(self.folder.name) / "base", os.environ)
        command = guest_command(job)
        super().__init__(f"{phase} {checkout.name}", command, cwd=checkout.root, env=env)

    def step(self) -> Step:
        said = self.answer()
        self.fp32 = said["fp32"]
        real = said["rendered"]
        if self.phase == "mid":  # a stream of tokens without padding
            real = self.shape.mid_rows * self.shape.config.sequence_len
        tally = Tally(real, real, said["trained"], said["generated"])
        return Step(tally, said["wall_s"], said["cpu_s"], said["peak_gib"], None)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.folder.cleanup()


def own_case(name: str, phase: str, path: str) -> Case:
    command = [sys.executable, "-m", "tests.bench.trainer", name, "--case", phase, path]
    # threads that wait busily take the other case's cores
    return Case(f"{phase} {path}", command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})


def answer(shape: Shape, phase: str, path: str) -> None:
    """The other side of a Case: a step as JSON for every line."""
    steps = measure(shape, phase, path)
    for _ in sys.stdin:
        print(json.dumps(asdict(next(steps))), flush=True)


def run(name: str, phase: str) -> dict[str, list[Step]]:
    """The counted steps of both paths."""
    shape = SHAPES[name]
    steps: dict[str, list[Step]] = {}
    # a GPU has no room for both
    for group in [PATHS] if shape.device == "cpu" else [(path,) for path in PATHS]:
        with ExitStack() as stack:
            cases = {path: stack.enter_context(own_case(name, phase, path)) for path in group}
            steps |= counted(cases, shape, phase)
    return steps


def counted(cases: Mapping[str, Case], shape: Shape, phase: str) -> dict[str, list[Step]]:
    """The steps of cases that take turns, after the warm-up."""
    n = WARM_UP + (shape.rl_steps if phase == "rl" else shape.steps)
    steps: dict[str, list[Step]] = {title: [] for title in cases}
    for _ in range(n):
        for title, case in cases.items():
            steps[title].append(case.step())
    return {title: made[WARM_UP:] for title, made in steps.items()}


def run_against(checkout: Checkout, shape: Shape, phase: str) -> Iterator[str]:
    """The lines of one phase: ours, the checkout's, their ratio."""
    if why := missing(checkout, phase):
        yield f"{phase} {checkout.name}: {why}"
        return
    with GuestCase(checkout, shape, phase) as guest, own_case(CPU, phase, "ours") as ours:
        steps = counted({"theirs": guest, "ours": ours}, shape, phase)
        fp32 = " (Newton-Schulz in fp32)" if guest.fp32 else ""
    theirs = evened(steps["theirs"])
    yield told(f"{phase} {checkout.name}{fp32}", phase, theirs)
    yield told(f"{phase} ours", phase, steps["ours"])
    yield ratios(phase, steps["ours"], theirs, checkout.name)


def evened(steps: list[Step]) -> list[Step]:
    """The steps with their mean number of tokens: a script may read its conversations for several steps at once."""
    means = {
        kind: round(mean(getattr(s.tally, kind) for s in steps)) for kind in ("real", "generated")
    }
    return [replace(s, tally=replace(s.tally, **means)) for s in steps]


def told(title: str, phase: str, steps: list[Step]) -> str:
    """What is compared of a case, as text."""
    what = COUNTED[phase]
    return (
        f"{title}: {per_s(steps, what):,.0f} {what} tok/s, {median(s.wall_s for s in steps):.3f} s/step "
        f"({median(s.cpu_s for s in steps):.3f} CPU), {steps[-1].peak_gib:.2f} GiB"
    )


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


def ratios(phase: str, ours: list[Step], plain: list[Step], name: str = "plain") -> str:
    """How many times the other path's tokens ours makes in the same time, as text."""
    what = COUNTED[phase]
    each = [
        getattr(o.tally, what) / getattr(p.tally, what) for o, p in zip(ours, plain, strict=True)
    ]
    wall = median(n * p.wall_s / o.wall_s for n, o, p in zip(each, ours, plain, strict=True))
    cpu = median(n * p.cpu_s / o.cpu_s for n, o, p in zip(each, ours, plain, strict=True))
    return (
        f"{phase} ours / {name}: {wall:.2f}x {what} tokens/s ({cpu:.2f}x by CPU time) "
        f"at {ours[-1].peak_gib / plain[-1].peak_gib:.2f}x memory"
    )


def lines(name: str, phases: Sequence[str], against: Checkout | None) -> Iterator[str]:
    """The figures of all phases."""
    for phase in phases:
        if against:
            yield from run_against(against, SHAPES[name], phase)
            continue
        steps = run(name, phase)
        yield from (line(f"{phase} {path}", steps[path]) for path in PATHS)
        yield ratios(phase, steps["ours"], steps["plain"])


def checked(args: argparse.Namespace) -> list[str]:
    """The phases; UsageProblem for a shape or phase that there is not, or that cannot run here."""
    if args.shape not in SHAPES:
        raise UsageProblem(f"no shape {args.shape!r}; there are {', '.join(SHAPES)}")
    device = SHAPES[args.shape].device
    if args.against and device != "cpu":
        raise UsageProblem("--against compares on the CPU: the shape is cpu-tiny")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageProblem(f"{args.shape} needs a CUDA device, and torch finds none")
    if unknown := [phase for phase in args.phases if phase not in PHASES]:
        raise UsageProblem(f"no phase {unknown[0]!r}; there are {', '.join(PHASES)}")
    return args.phases or list(PHASES)


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.bench.trainer")
    parser.add_argument("shape", nargs="?", default=CPU)
    parser.add_argument("phases", nargs="*")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--as-is", action="store_true")
    parser.add_argument("--case", nargs=2)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Print all cases and their ratios; the exit code."""
    args = parsed(argv)
    try:
        if args.case:
            answer(SHAPES[args.shape], *args.case)
            return 0
        phases = checked(args)
        against = checkout_at(args.against, fp32=not args.as_is) if args.against else None
        for text in lines(args.shape, phases, against):
            print(text, flush=True)
    except NanolanError as e:
        print(f"tests.bench.trainer: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
