"""How fast the trainer is, beside the plain path in the same run: ratios are what counts.

    just bench train   or   python -m nanolan.train.bench [cpu-tiny|d20] [PHASE ...]

"ours" is what a phase runs: packed rows, one loss for all their tokens, the answers to all questions at once. "plain"
is plain.py: all logits at once; mid as one stream of tokens, sft a few conversations at a time padded to the longest,
rl one question at a time in calls of a few answers, all of which are trained. Both have the same weights, optimizer,
conversations and questions. Each case has a process of its own, so that its memory can be told, and they take turns.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nanolan.errors import NanolanError, UsageProblem
from nanolan.train import plain
from nanolan.train.attention import flex_works
from nanolan.train.engine import Completion, Engine
from nanolan.train.hardware import mfu_per_token, peak_gib
from nanolan.train.model import GPT
from nanolan.train.optim import make_optimizer
from nanolan.train.rl import rows_that_fit
from nanolan.train.rollouts import Rollout, policy_batch, policy_loss
from nanolan.train.sampling import Sampling
from nanolan.train.step import Stepper, autocast, even_micro_batch
from nanolan.train.workload import SHAPES, WORKS, Shape, made_tokenizer, questions, rewarded
from nanolan.train.world import World

PLAIN_ROWS = 8           # answers of a call, and of an update, in the plain path's rl
WARM_UP = 2              # steps that are not timed
RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


@dataclass(frozen=True)
class Tally:
    """What a step went through: positions, those that are not padding, those trained, tokens generated."""

    positions: int
    real: int
    trained: int
    generated: int = 0


# ------------------------------------------------------------------ cases
def train_ours(shape: Shape, phase: str, model: GPT, world: World) -> Iterator[Tally]:
    """mid and sft as the trainer does them."""
    config = shape.config
    optimizer = make_optimizer(model, world, **RATES)
    if shape.device == "cuda":
        heads = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        model.compile_parts(phase == "sft" and flex_works(*heads, config.sequence_len, world.device))
    for [w] in WORKS[phase, "ours"](shape, phase):
        micro = even_micro_batch(len(w.batch.ids), shape.micro)
        Stepper(model.loss_sum, list(model.parameters()), micro, world.device).gradients(w.batch, w.trained)
        optimizer.step(1e-3, 0.95)
        yield Tally(w.batch.ids.numel(), w.real, w.trained)


def train_plain(shape: Shape, phase: str, model: GPT, world: World) -> Iterator[Tally]:
    """mid and sft the plain way."""
    optimizer = plain.PlainOptimizer(model, **RATES)
    for works in WORKS[phase, "plain"](shape, phase):
        trained = sum(w.trained for w in works)
        for w in works:
            with autocast(world.device):
                loss = plain.loss_sum(model, w.batch.to(world.device))
            (loss / trained).backward()
        optimizer.step(1e-3, 0.95)
        yield Tally(sum(w.batch.ids.numel() for w in works), sum(w.real for w in works), trained)


def rl_ours(shape: Shape, phase: str, model: GPT, world: World) -> Iterator[Tally]:
    """rl as the trainer does it."""
    engine, optimizer = Engine(model, made_tokenizer(shape)), make_optimizer(model, world, **RATES)
    micro = rows_that_fit(model, shape.config.sequence_len // 2 + shape.new_tokens, world)
    stepper = Stepper(lambda ids, weights: policy_loss(model, ids, weights), list(model.parameters()), micro, world.device)
    for asked in questions(shape):
        engine.refresh()
        tries = engine.complete([q.prompt for q in asked], Sampling(shape.new_tokens), shape.samples)
        rollouts = [rewarded(q, i, t) for i, (q, t) in enumerate(zip(asked, tries, strict=True))]
        batch = policy_batch(rollouts, engine.tokenizer.bos)
        assert batch  # noqa: S101
        stepper.gradients(batch, generated(rollouts))
        optimizer.step(1e-3, 0.95)
        teaching = [r for r in rollouts if r.teaches]
        yield Tally(batch.ids.numel(), real(teaching), generated(teaching), generated(rollouts))


def rl_plain(shape: Shape, phase: str, model: GPT, world: World) -> Iterator[Tally]:
    """rl the plain way: every try is trained, whatever it teaches."""
    tokenizer, optimizer = made_tokenizer(shape), plain.PlainOptimizer(model, **RATES)
    ends = (tokenizer.bos, tokenizer.special("assistant_end"))
    for asked in questions(shape):
        rollouts, positions = [], 0
        for i, q in enumerate(asked):
            with autocast(world.device):
                calls = [plain.generate(model, q.prompt, PLAIN_ROWS, Sampling(shape.new_tokens), ends)
                         for _ in range(shape.samples // PLAIN_ROWS)]
            rollouts.append(rewarded(q, i, [Completion(ids, [1] * len(ids), True) for call in calls for ids in call]))
        for r in rollouts:
            for at in range(0, shape.samples, PLAIN_ROWS):
                few = slice(at, at + PLAIN_ROWS)
                batch = plain.policy_batch(r.question.prompt, [c.ids for c in r.tries[few]], r.advantages[few], tokenizer.bos)
                with autocast(world.device):
                    loss = plain.policy_loss(model, batch.to(world.device))
                (loss / generated(rollouts)).backward()
                positions += batch.ids.numel()
        optimizer.step(1e-3, 0.95)
        yield Tally(positions, real(rollouts), generated(rollouts), generated(rollouts))


def generated(rollouts: list[Rollout]) -> int:
    """Tokens of all tries."""
    return sum(len(c.ids) for r in rollouts for c in r.tries)


def real(rollouts: list[Rollout]) -> int:
    """Tokens of all tries with their questions."""
    return generated(rollouts) + sum(len(r.question.prompt) * len(r.tries) for r in rollouts)


CASES: dict[tuple[str, str], Callable[[Shape, str, GPT, World], Iterator[Tally]]] = {
    ("mid", "plain"): train_plain, ("mid", "ours"): train_ours, ("sft", "plain"): train_plain, ("sft", "ours"): train_ours,
    ("rl", "plain"): rl_plain, ("rl", "ours"): rl_ours}
PHASES = tuple(dict.fromkeys(phase for phase, _ in CASES))
COUNTS = {"mid": "real_per_s", "sft": "real_per_s", "rl": "generated_per_s"}      # what the ratio is of


# ------------------------------------------------------------------ measuring
def measure(shape: Shape, phase: str, path: str) -> dict[str, float | None]:
    """Figures of one case, in this process."""
    world = World(0, 1, torch.device(shape.device))
    model = GPT.from_state(shape.config, GPT.fresh(shape.config).state_dict(), world.device)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    steps = CASES[phase, path](shape, phase, model, world)
    n = shape.rl_steps if phase == "rl" else shape.steps
    times, busy, tallies = [], [], []
    for _ in range(WARM_UP + n):
        start, start_busy = time.perf_counter(), time.process_time()
        tallies.append(next(steps))
        if shape.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    step_s, tallies = statistics.median(times[WARM_UP:]), tallies[WARM_UP:]
    tok, real, trained, new = (sum(getattr(t, name) for t in tallies) / n / step_s
                               for name in ("positions", "real", "trained", "generated"))
    mfu = mfu_per_token(shape.config, shape.config.sequence_len, world.device, 1)
    if mfu is not None:
        mfu *= real + new / 3                    # a token that is only generated takes a third of the work
    return {"tok_per_s": tok, "real_per_s": real, "trained_per_s": trained, "generated_per_s": new, "step_s": step_s,
            "cpu_s": statistics.median(busy[WARM_UP:]), "peak_gib": peak_gib(shape.device), "mfu": mfu}


def line(name: str, f: dict[str, float]) -> str:
    """A case's figures as text."""
    new = f"  {f['generated_per_s']:>7,.0f} generated" if f["generated_per_s"] else ""
    mfu = f"  {f['mfu']:6.1%} MFU" if f["mfu"] else ""
    return (f"{name:<9} {f['tok_per_s']:>9,.0f} tok/s  {f['real_per_s']:>9,.0f} real  {f['trained_per_s']:>9,.0f} trained"
            f"{new}  {f['step_s']:7.3f} s/step ({f['cpu_s']:.3f} CPU)  {f['peak_gib']:6.2f} GiB{mfu}")


def alone(name: str, phase: str, path: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}      # two busy-waiting threads on two shared cores are slower
    done = subprocess.run([sys.executable, "-m", "nanolan.train.bench", name, "--case", phase, path], env=env,
                          capture_output=True, text=True)
    if done.returncode:
        raise UsageProblem(f"{phase} {path}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(name: str, phase: str) -> Iterator[str]:
    """A line for each path of a phase, and one for their ratio."""
    count = COUNTS[phase]
    runs = [(path, alone(name, phase, path)) for _ in range(SHAPES[name].rounds) for path in ("plain", "ours")]
    figures = {path: max((f for p, f in runs if p == path), key=lambda f: f[count]) for path in ("plain", "ours")}
    for path, f in figures.items():
        yield line(f"{phase} {path}", f)
    ratio = {k: figures["ours"][k] / figures["plain"][k] for k in (count, "peak_gib")}
    what = count.removesuffix("_per_s")
    yield f"{phase} ours / plain: {ratio[count]:.2f}x {what} tokens/s at {ratio['peak_gib']:.2f}x memory"


def main(argv: list[str]) -> int:
    """Print all cases and their ratios; the exit code."""
    name, *rest = argv or ["cpu-tiny"]
    try:
        if name not in SHAPES:
            raise UsageProblem(f"no shape {name!r}; there are {', '.join(SHAPES)}")
        if SHAPES[name].device == "cuda" and not torch.cuda.is_available():
            raise UsageProblem(f"{name} needs a CUDA device, and torch finds none")
        if rest[:1] == ["--case"]:
            print(json.dumps(measure(SHAPES[name], *rest[1:])))
            return 0
        if unknown := [phase for phase in rest if phase not in PHASES]:
            raise UsageProblem(f"no phase {unknown[0]!r}; there are {', '.join(PHASES)}")
        for phase in rest or PHASES:
            for text in compare(name, phase):
                print(text, flush=True)
    except NanolanError as e:
        print(f"nanolan.train.bench: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
