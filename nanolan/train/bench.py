"""How fast the trainer is, beside the plain path in the same run: ratios are what counts.

    python -m nanolan.train.bench [cpu-tiny|d20] [PHASE ...]

Made conversations, lengths spread like a chat data set's. "ours": packed rows, one loss for all their tokens. "plain":
eager, all logits at once; mid as one stream of tokens, sft a few conversations at a time padded to the longest. Both
have the same model, optimizer and conversations. Each case has a process of its own, so that its memory can be told.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanolan.errors import NanolanError, UsageProblem
from nanolan.train.attention import flex_works
from nanolan.train.hardware import mfu_per_token, peak_gib
from nanolan.train.model import GPT, IGNORE, GPTConfig
from nanolan.train.optim import make_optimizer
from nanolan.train.pack import pack
from nanolan.train.recipe import RECIPES, rows_per_step
from nanolan.train.rows import Batch, Rows
from nanolan.train.step import Stepper, even_micro_batch
from nanolan.train.store import Store
from nanolan.train.world import World

EXAMPLES = 32            # of an sft step
PLAIN_EXAMPLES = 4       # that the plain path pads at a time
WARM_UP = 2
ROUNDS = 2               # of each case, taking turns; the better one counts, for other work on the machine only slows


@dataclass(frozen=True)
class Shape:
    """Fixed shapes, so that figures can be compared."""

    device: str
    config: GPTConfig
    mid_rows: int        # of a step
    micro: int
    usual: int           # tokens of the median conversation
    steps: int


SHAPES = {
    "cpu-tiny": Shape("cpu", GPTConfig(256, 4096, 4, 2, 2, 256), mid_rows=8, micro=4, usual=100, steps=6),
    "d20": Shape("cuda", GPTConfig(2048, 65_536, 20, 10, 10, 1280), mid_rows=256, micro=32, usual=350, steps=10),
}


@dataclass(frozen=True)
class Work:
    """A micro-batch, and how many of its positions are real and trained."""

    batch: Batch
    real: int
    trained: int


def conversations(shape: Shape, n: int) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """Signed tokens of `n` conversations (as in Store): the later 60 % are trained, at most a row's length."""
    dice = np.random.default_rng(0)
    lengths = np.clip(dice.lognormal(np.log(shape.usual), 0.8, n).astype(int), 8, shape.config.sequence_len + 1)
    made = []
    for length in lengths:
        tokens = dice.integers(0, shape.config.vocab_size - 9, length, dtype=np.int32)
        tokens[:max(1, int(0.4 * length))] = ~tokens[:max(1, int(0.4 * length))]
        made.append(tokens)
    return made


def packed(shape: Shape, phase: str, n: int = 2000) -> Rows:
    """The conversations in rows."""
    made, recipe = conversations(shape, n), replace(RECIPES[phase], sequence_len=shape.config.sequence_len)
    length = np.array([len(c) for c in made])
    store = Store([np.concatenate(made)], np.zeros(n, np.int64), np.cumsum(length) - length, length,
                  np.array([(c >= 0).sum() for c in made]), [0, n])
    return Rows(store, pack(length.tolist(), recipe.sequence_len + 1), recipe.sequence_len, recipe.train_all_tokens,
                recipe.own_attention, shape.config.vocab_size - 9)


def ours(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of packed rows."""
    rows = packed(shape, phase)
    recipe = replace(RECIPES[phase], sequence_len=shape.config.sequence_len)
    per_step = shape.mid_rows if phase == "mid" else rows_per_step(recipe, len(rows), rows.n_conversations)
    step = 0
    while True:
        numbers = range(step * per_step, (step + 1) * per_step)
        batch = rows.batch(numbers)
        lengths = (sum(len(rows.store[c]) for c in rows.packed[n % len(rows)]) for n in numbers)
        real = sum(min(length, recipe.sequence_len) for length in lengths)
        yield [Work(batch, real, int((batch.targets >= 0).sum()))]
        step += 1


def stream(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of a stream of conversations cut into rows, as mid was first done."""
    tokens = torch.from_numpy(np.concatenate(conversations(shape, 2000))).long()
    tokens = torch.where(tokens >= 0, tokens, ~tokens)
    B, T = shape.micro, shape.config.sequence_len
    at = 0
    while True:
        works = []
        for _ in range(shape.mid_rows // B):
            part = tokens[at:at + B * T + 1]
            works.append(Work(Batch(part[:-1].view(B, T), part[1:].view(B, T), None), B * T, B * T))
            at = (at + B * T) % (len(tokens) - B * T - 1)
        yield works


def padded(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of conversations, a few at a time, padded to the longest of them."""
    made, at = conversations(shape, 2000), 0
    while True:
        works = []
        for _ in range(EXAMPLES // PLAIN_EXAMPLES):
            few = [torch.from_numpy(made[(at + i) % len(made)]).long() for i in range(PLAIN_EXAMPLES)]
            at += PLAIN_EXAMPLES
            x = torch.nn.utils.rnn.pad_sequence(few, batch_first=True, padding_value=-1)
            targets = torch.where(x[:, 1:] >= 0, x[:, 1:], IGNORE)
            batch = Batch(torch.where(x >= 0, x, ~x)[:, :-1], targets, None)
            works.append(Work(batch, sum(len(c) - 1 for c in few), int((targets >= 0).sum())))
        yield works


def all_logits(model: GPT) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss by way of all logits."""
    def loss_sum(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss_sum


# (phase, path) -> its steps
CASES = {("mid", "ours"): ours, ("mid", "plain"): stream, ("sft", "ours"): ours, ("sft", "plain"): padded}


def measure(shape: Shape, phase: str, path: str) -> dict[str, float | None]:
    """Figures of one case, in this process."""
    world = World(0, 1, torch.device(shape.device))
    model = GPT.from_state(shape.config, GPT.fresh(shape.config).state_dict(), world.device)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    optimizer = make_optimizer(model, world, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02)
    config = shape.config
    if path == "ours" and shape.device == "cuda":
        heads = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        model.compile_parts(phase == "sft" and flex_works(*heads, config.sequence_len, world.device))
    loss_sum = model.loss_sum if path == "ours" else all_logits(model)
    steps = CASES[phase, path](shape, phase)
    times, sums = [], np.zeros(3)
    for i in range(WARM_UP + shape.steps):
        start = time.perf_counter()
        works = next(steps)
        n_trained = sum(w.trained for w in works)
        for w in works:
            micro = even_micro_batch(len(w.batch.ids), shape.micro)
            Stepper(loss_sum, list(model.parameters()), micro, world.device).gradients(w.batch, n_trained)
        optimizer.step(1e-3, 0.95)
        if i >= WARM_UP:
            times.append(time.perf_counter() - start)
            sums += [sum(w.batch.ids.numel() for w in works), sum(w.real for w in works), n_trained]
    step_s = statistics.median(times)
    tok, real, trained = sums / shape.steps / step_s
    mfu = mfu_per_token(config, config.sequence_len, world.device, 1)
    return {"tok_per_s": tok, "real_per_s": real, "trained_per_s": trained, "step_s": step_s,
            "peak_gib": peak_gib(shape.device), "mfu": mfu and mfu * tok}


def line(name: str, f: dict[str, float]) -> str:
    """A case's figures as text."""
    mfu = f" {f['mfu']:6.1%} MFU" if f["mfu"] else ""
    return (f"{name:<11} {f['tok_per_s']:>9,.0f} tok/s  {f['real_per_s']:>9,.0f} real  "
            f"{f['trained_per_s']:>9,.0f} trained  {f['step_s']:7.3f} s/step  {f['peak_gib']:6.2f} GiB{mfu}")


def alone(name: str, phase: str, path: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}      # two busy-waiting threads on two shared cores are slower
    done = subprocess.run([sys.executable, "-m", "nanolan.train.bench", name, "--case", phase, path], env=env,
                          capture_output=True, text=True)
    if done.returncode:
        raise UsageProblem(f"{phase} {path}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
        phases = list(dict.fromkeys(phase for phase, _ in CASES))
        if unknown := [phase for phase in rest if phase not in phases]:
            raise UsageProblem(f"no phase {unknown[0]!r}; there are {', '.join(phases)}")
        for phase in rest or phases:
            runs = [(path, alone(name, phase, path)) for _ in range(ROUNDS) for path in ("plain", "ours")]
            figures = {path: max((f for p, f in runs if p == path), key=lambda f: f["tok_per_s"])
                       for path in ("plain", "ours")}
            for path, f in figures.items():
                print(line(f"{phase} {path}", f), flush=True)
            ratio = {k: figures["ours"][k] / figures["plain"][k] for k in ("real_per_s", "peak_gib")}
            print(f"{phase} ours / plain: {ratio['real_per_s']:.2f}x real tokens/s at {ratio['peak_gib']:.2f}x memory")
    except NanolanError as e:
        print(f"nanolan.train.bench: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
