"""Attention within each conversation of a packed row: masks made from positions.

`positions` (B, T) is each token's place in its own conversation: it is 0 where one begins. Two forms of the same
mask: booleans for torch's plain attention (the CPU, short looks without compilation), and blocks for
flex_attention, whose compiled kernel passes over blocks that are masked whole (CUDA).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D)
Mask = Any  # (B, 1, T, T) booleans, or a BlockMask

TOLERANCE = 0.05  # between bf16 kernels that sum in different orders, for values of about 1


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention within a row."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.size(1) < q.size(1))


def within(mask: Mask) -> Attend:
    """Attention under a mask of either form."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = k.size(1) < q.size(1)
        if isinstance(mask, Tensor):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        from torch.nn.attention.flex_attention import (
            flex_attention,
        )  # imported here: it loads torch's compiler, 3 s

        return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped)

    return attend


def plain_mask(positions: Tensor) -> Tensor:
    """(B, 1, T, T) booleans: true where query and key are of one conversation and the key is not later."""
    conversation = (positions == 0).cumsum(1)
    same = conversation[:, :, None] == conversation[:, None, :]
    return same.tril()[:, None]


def block_mask(positions: Tensor) -> Mask:
    """The same mask as a BlockMask."""
    from torch.nn.attention.flex_attention import create_block_mask

    conversation = (positions == 0).cumsum(1)

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (conversation[b, q] == conversation[b, k]) & (q >= k)

    B, T = positions.shape
    return create_block_mask(seen, B, None, T, T, device=str(positions.device))


def flex_works(
    n_head: int, n_kv_head: int, head_dim: int, sequence_len: int, device: torch.device
) -> bool:
    """Whether compiled flex_attention runs here, forwards and backwards, and agrees with the plain mask; if not, a
    warning says why and the plain mask is used: equal results, more time and memory."""
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(
            1,
            heads,
            sequence_len,
            head_dim,
            device=device,
            dtype=torch.bfloat16,
            generator=generator,
            requires_grad=True,
        )
        for heads in (n_head, n_kv_head, n_kv_head)
    )
    positions = (torch.arange(sequence_len, device=device) % max(1, sequence_len // 3))[None]
    try:
        flex = torch.compile(within(block_mask(positions)), dynamic=False)
        worst = furthest(flex, within(plain_mask(positions)), (q, k, v))
        if worst < TOLERANCE:
            return True
        why = f"it differs by {worst:.2g}"
    except Exception as e:  # torch's compiler raises many kinds
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    print(
        f"warning: flex_attention does not serve here ({why}): using plain masks",
        file=sys.stderr,
        flush=True,
    )
    return False


def furthest(one: Attend, other: Attend, qkv: tuple[Tensor, Tensor, Tensor]) -> float:
    """How far two attentions are apart, in their results and in the gradients of q, k and v: the largest difference of a
    tensor, as a share of its largest value."""
    results = []
    for attend in (one, other):
        y = attend(*qkv)
        gradients = torch.autograd.grad(y.float().square().sum(), qkv)
        results.append([y.detach(), *gradients])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))
