"""The loss of the soft-capped logits, in chunks, each computed together with its gradient.

A chunk's logits live only while it is worked on: nothing of them waits for the backward pass, and nothing is computed
twice. N positions, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTCAP = 15.0
IGNORE = -1  # a target that is not trained
CHUNK_LOGITS = (
    1 << 28
)  # logits in memory at once: 4,096 positions of a 65,536 vocabulary, 1 GiB in fp32

Chunk = Callable[..., tuple[Tensor, Tensor, Tensor]]


def softcap(logits: Tensor) -> Tensor:
    """Logits soft-capped to (-15, 15), in their own dtype (bf16 under autocast)."""
    return SOFTCAP * torch.tanh(logits / SOFTCAP)


def chunk_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy of hidden (N, C) against targets (N,), summed with `weights` (N,), and its gradients with respect to
    hidden and head (V, C). Without weights those of all targets but IGNORE are 1."""
    bent = F.linear(hidden, head).div_(SOFTCAP).tanh_()
    if weights is None:
        weights = (targets != IGNORE).float()
    weight, target = weights[:, None], targets.clamp(min=0)[:, None]
    p = (SOFTCAP * bent).float().exp_()  # logits within (-15, 15) need no max subtraction
    total = p.sum(-1, keepdim=True)
    loss = (weight * (total.log() - SOFTCAP * bent.gather(1, target))).sum()
    p.mul_(weight / total)
    if torch.compiler.is_compiling():  # a scatter would break the fusion that keeps p out of memory
        p = torch.where(torch.arange(p.size(1), device=p.device) == target, p - weight, p)
    else:
        p.scatter_add_(1, target, -weight)
    grad = p.addcmul_(p, bent.float().square_(), value=-1).to(bent.dtype)
    return loss, grad @ head, grad.mT @ hidden


def chunk_nats(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The same loss without gradients, by its definition."""
    nats = F.cross_entropy(
        softcap(F.linear(hidden, head)).float(), targets, ignore_index=IGNORE, reduction="none"
    )
    return (nats if weights is None else weights * nats).sum()


class LossSum(torch.autograd.Function):
    """The sum of the losses of all chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        size: int,
        chunk: Chunk,
    ) -> Tensor:
        parts = [t.split(size) for t in (hidden, targets, weights) if t is not None]
        half = head.to(hidden.dtype)  # once, not in every chunk
        grads, grad_head, loss = (
            [],
            torch.zeros_like(head),
            hidden.new_zeros((), dtype=torch.float32),
        )
        for h, t, *w in zip(*parts, strict=True):
            part, grad, more = chunk(h, half, t, *w)
            loss += part
            grads.append(grad)
            grad_head += more
        ctx.save_for_backward(torch.cat(grads), grad_head)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden.mul_(grad), grad_head.mul_(grad), None, None, None, None


def summed_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    size: int = 1 << 62,
    chunk: Chunk = chunk_loss,
) -> Tensor:
    """The loss by chunks of at most `size` positions. One backward pass can follow, unless gradients are off."""
    if torch.is_grad_enabled():
        return LossSum.apply(hidden, head, targets, weights, size, chunk)
    parts = zip(*(t.split(size) for t in (hidden, targets, weights) if t is not None), strict=True)
    return torch.stack([chunk_nats(h, head, *rest) for h, *rest in parts]).sum()
