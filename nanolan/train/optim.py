"""Muon for the matrices of the blocks, AdamW for embedding and head, over 1..N processes.

Gradients are summed over the ranks (the loss is already divided by the global token count). The matrices
of one shape are stacked and dealt to the ranks in equal slices; each rank gets the sum of its slice and
orthogonalises it, then all gather the updates. Every rank applies the same bits, so the models stay equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanolan.errors import BadAnswer
from nanolan.model.gpt import GPT
from nanolan.train.processes import Processes

QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # Newton-Schulz coefficients: fast convergence to about 1, not exact
NS_STEPS = 5
SLIM = 2  # above this ratio of columns to rows, steps on x x' are cheaper
BETAS = (0.8, 0.95)
EPS = 1e-10
OF_A_PART = re.compile(r"\d+\.")  # begins the keys of a part in a saved state
WIDTH = 768  # the AdamW learning rates are meant for this n_embd


def orthogonalise(g: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrices of g (K, r, c) with their singular values brought near 1; computed in `dtype`."""
    x = g.to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    slim = dtype == torch.float32 and x.size(-1) >= SLIM * x.size(-2)
    x = by_gram(x) if slim else by_steps(x)
    return x.mT if tall else x


def by_steps(x: Tensor) -> Tensor:
    """Newton-Schulz as defined: x <- a x + b (x x') x + c (x x')^2 x."""
    a, b, c = QUINTIC
    for _ in range(NS_STEPS):
        xx = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(xx, xx, xx, beta=b, alpha=c), x, beta=a)
    return x


def by_gram(x: Tensor) -> Tensor:
    """The same for x with many more columns than rows: all steps on x x' alone, their product applied to x once.

    x x' squares the singular values: fp32 has the digits for that, bf16 has not.
    """
    a, b, c = QUINTIC
    one = a * torch.eye(x.size(-2), device=x.device)

    def factor_of(xx: Tensor) -> Tensor:
        return torch.baddbmm(one, xx, xx, alpha=c).add_(xx, alpha=b)

    xx = x @ x.mT
    product = factor = factor_of(xx)
    for _ in range(NS_STEPS - 1):
        xx = factor @ (factor @ xx)  # they all commute
        factor = factor_of(xx)
        product = factor @ product
    return product @ x


@dataclass
class Muon:
    """Matrices of one shape; `momentum_buffer` (ceil(K/size), r, c) is this rank's slice of them."""

    params: list[Tensor]
    lr: float
    world: Processes
    momentum_buffer: Tensor | None = None

    @property
    def per_rank(self) -> int:
        """Matrices that a rank updates; the last ranks may have fewer."""
        return -(-len(self.params) // self.world.size)

    def summed(self) -> Tensor:
        """This rank's slice of the sum of all ranks' gradients, which it consumes."""
        grads = self.none(self.per_rank * self.world.size)
        for i, p in enumerate(self.params):
            if p.grad is not None:
                grads[i].copy_(p.grad)
            p.grad = None
        return self.world.sum_slice(grads)

    def none(self, matrices: int | None = None) -> Tensor:
        """The gradient of no matrix at all: what a rank has whose slice is empty."""
        n = self.per_rank if matrices is None else matrices
        return self.params[0].new_zeros((n, *self.params[0].shape))

    @torch.no_grad()
    def step(self, g: Tensor, factor: float, mu: float) -> Tensor:
        """One update from this rank's slice of the summed gradients; the squared norm of that slice."""
        rows, cols = self.params[0].shape
        squares = torch.linalg.vector_norm(g, dtype=torch.float32).square()
        if self.momentum_buffer is None:
            self.momentum_buffer = torch.zeros_like(g)
        self.momentum_buffer.lerp_(g, 1 - mu)
        # bf16 on tensor cores; CPUs without bf16 units are 11-26 times slower in it
        u = orthogonalise(
            g.lerp(self.momentum_buffer, mu), torch.bfloat16 if g.is_cuda else torch.float32
        )
        scale = factor * self.lr * max(1.0, rows / cols) ** 0.5
        for p, update in zip(
            self.params, self.world.gather(u), strict=False
        ):  # the last slice may be padded
            p.add_(update.to(p.dtype), alpha=-scale)
        return squares

    def state(self) -> dict[str, Tensor]:
        """This rank's optimizer state."""
        return {} if self.momentum_buffer is None else {"momentum_buffer": self.momentum_buffer}

    def form(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a `state` once a step is made."""
        return {"momentum_buffer": (self.per_rank, *self.params[0].shape)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`."""
        self.momentum_buffer = state["momentum_buffer"].to(self.params[0])


@dataclass
class AdamW:
    """One embedding-like matrix, no weight decay; the moments are fp32 whatever the weight is."""

    param: Tensor
    lr: float
    world: Processes
    t: int = 0
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None

    def summed(self) -> Tensor:
        """The sum of all ranks' gradients, which it consumes."""
        grad = self.none() if self.param.grad is None else self.param.grad
        self.param.grad = None
        self.world.sum_(grad)
        return grad

    def none(self) -> Tensor:
        """The gradient when there is none."""
        return torch.zeros_like(self.param)

    @torch.no_grad()
    def step(self, grad: Tensor, factor: float, mu: float) -> Tensor:
        """One update from the summed gradient; its squared norm. `mu` is Muon's."""
        g = grad.float()
        if self.exp_avg is None or self.exp_avg_sq is None:
            self.exp_avg, self.exp_avg_sq = torch.zeros_like(g), torch.zeros_like(g)
        self.t += 1
        self.exp_avg.lerp_(g, 1 - BETAS[0])
        self.exp_avg_sq.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
        denominator = (self.exp_avg_sq / (1 - BETAS[1] ** self.t)).sqrt_().add_(EPS)
        size = factor * self.lr / (1 - BETAS[0] ** self.t)
        self.param.sub_((self.exp_avg / denominator).mul_(size).to(self.param.dtype))
        return torch.linalg.vector_norm(g).square()

    def state(self) -> dict[str, Tensor]:
        """The optimizer state; the same on every rank."""
        if self.exp_avg is None or self.exp_avg_sq is None:
            return {}
        return {"t": torch.tensor(self.t), "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def form(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a `state` once a step is made."""
        shape = tuple(self.param.shape)
        return {"t": (), "exp_avg": shape, "exp_avg_sq": shape}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`."""
        self.t = int(state["t"])
        self.exp_avg, self.exp_avg_sq = (
            state[k].to(self.param.device) for k in ("exp_avg", "exp_avg_sq")
        )


class Sums(Protocol):
    """Gradients that are being summed over the ranks."""

    @property
    def order(self) -> Sequence[int]:
        """The parts of the optimizer, by number, as their sums arrive."""

    def take(self, part: int) -> Tensor | None:
        """What this rank needs of one part's sum; None if it updates nothing there."""


@dataclass
class Optimizer:
    """All parts of the model's optimizer."""

    parts: list[Muon | AdamW]
    world: Processes

    def step(self, factor: float, mu: float, sums: Sums | None = None) -> float:
        """Update every parameter: learning rates times `factor`, Muon's momentum `mu`; gradients become None.

        `sums` if they are computed beside the backward pass (reduction.py). The norm of the gradient over all parameters
        and ranks: not finite when any of it is not.
        """
        squares = {
            i: self.parts[i].step(self._sum_of(i, sums), factor, mu)
            for i in (sums.order if sums else range(len(self.parts)))
        }
        shared = [squares[i] for i, part in enumerate(self.parts) if isinstance(part, AdamW)]
        slices = [squares[i] for i, part in enumerate(self.parts) if isinstance(part, Muon)]
        whole, mine = torch.stack([torch.stack(shared).sum(), torch.stack(slices).sum()]).tolist()
        return math.sqrt(whole + self.world.totals(mine)[0])

    def _sum_of(self, number: int, sums: Sums | None) -> Tensor:
        part = self.parts[number]
        if sums is None:
            return part.summed()
        found = sums.take(number)
        return part.none() if found is None else found

    def state(self, rank: int) -> dict[str, Tensor]:
        """The state that `rank` saves: its slices of Muon's momentum; rank 0 also the state that is equal on all ranks."""
        return {
            f"{i}.{key}": t
            for i, part in enumerate(self.parts)
            if rank == 0 or isinstance(part, Muon)
            for key, t in part.state().items()
        }

    def dealt(self) -> dict[str, int]:
        """The key of each slice in a `state` -> the number of matrices that are dealt to the ranks."""
        return {
            f"{i}.momentum_buffer": len(part.params)
            for i, part in enumerate(self.parts)
            if isinstance(part, Muon)
        }

    def check(self, state: Mapping[str, Tensor]) -> None:
        """BadAnswer unless `load` can restore `state`: all parts or none, their shapes, finite numbers."""
        found = {key: t for key, t in state.items() if OF_A_PART.match(key)}
        wanted = {f"{i}.{k}": s for i, p in enumerate(self.parts) for k, s in p.form().items()}
        if not found:
            return
        if different := sorted(found.keys() ^ wanted.keys()):
            raise BadAnswer(
                f"not an optimizer of this model: {different[0]} is in one of them only"
            )
        for key, shape in wanted.items():
            if tuple(found[key].shape) != shape:
                raise BadAnswer(
                    f"not an optimizer of this model: {key} is {tuple(found[key].shape)}, not {shape}"
                )
            if not found[key].isfinite().all():
                raise BadAnswer(f"a number of the optimizer's {key} is not finite")

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of rank 0 and this rank, in one mapping; KeyError when a part is missing.

        Nothing at all is the state of an optimizer that has made no step: rl may save before any question has taught.
        """
        if not any(OF_A_PART.match(key) for key in state):
            return
        for i, part in enumerate(self.parts):
            part.load(
                {
                    key.removeprefix(f"{i}."): t
                    for key, t in state.items()
                    if key.startswith(f"{i}.")
                }
            )


def make_optimizer(
    model: GPT, world: Processes, *, unembedding_lr: float, embedding_lr: float, matrix_lr: float
) -> Optimizer:
    """A fresh optimizer; the AdamW rates are scaled by (n_embd / 768) ** -0.5."""
    scale = (model.config.n_embd / WIDTH) ** -0.5
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for p in model.transformer["h"].parameters():
        shapes.setdefault(tuple(p.shape), []).append(p)
    wte, head = model.get_parameter("transformer.wte.weight"), model.lm_head.weight
    return Optimizer(
        [
            AdamW(head, unembedding_lr * scale, world),
            AdamW(wte, embedding_lr * scale, world),
            *(Muon(shapes[s], matrix_lr, world) for s in sorted(shapes)),
        ],
        world,
    )
