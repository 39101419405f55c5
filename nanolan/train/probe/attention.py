"""Each implementation of attention: its first call at a new shape, its steady time, its error to fp32.

Decoding has a longer cache at each step; an implementation that prepares something per shape shows in `decode_first_ms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanolan.model.attention import block_mask, causal, within
from nanolan.train.probe.timing import seconds, usual_seconds
from nanolan.train.processes import Processes

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
STEADY = 5
NEW_SHAPES = 6


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """By implementation: {"first_ms", "ms", "error", "decode_first_ms", "decode_ms"}, or {"none": why}.

    first_ms and ms are forward and backward of (batch, heads, T, D) in bf16; error is the largest of the output, relative.
    """
    found: dict[str, Any] = {}
    for name, backend in BACKENDS.items():

        def attend(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return causal(q, k, v)

        found[name] = _tried(lambda attend=attend: _training(setup, world, attend)) | _tried(  # type: ignore[misc]
            lambda backend=backend: _decoding(setup, world, backend)  # type: ignore[misc]
        )
    if setup.get("flex"):
        found["flex"] = _tried(lambda: _training(setup, world, _flex(setup, world)))
    return found


def _tried(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except Exception as e:  # an implementation that does not serve here; torch raises many kinds
        return {"none": " ".join(f"{type(e).__name__}: {e}".split())[:60]}


def _inputs(setup: dict[str, Any], world: Processes, length: int) -> list[Tensor]:
    generator = torch.Generator(world.device).manual_seed(0)
    shape = (setup["batch"], setup["heads"], length, setup["head_dim"])
    return [
        torch.randn(
            shape,
            device=world.device,
            dtype=torch.bfloat16,
            generator=generator,
            requires_grad=True,
        )
        for _ in range(3)
    ]


def _training(
    setup: dict[str, Any], world: Processes, attend: Callable[..., Tensor]
) -> dict[str, Any]:
    q, k, v = _inputs(setup, world, setup["length"])

    def step() -> Tensor:
        y = attend(q, k, v)
        torch.autograd.grad(y.float().square().sum(), (q, k, v))
        return y

    first_s = seconds(step, world.device)
    usual_s = usual_seconds(step, world.device, STEADY)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        exact = causal(q.float(), k.float(), v.float())
        error = float((attend(q, k, v).float() - exact).abs().max() / exact.abs().max())
    return {
        "first_ms": round(1000 * first_s, 2),
        "ms": round(1000 * usual_s, 3),
        "error": float(f"{error:.2g}"),
    }


def _decoding(setup: dict[str, Any], world: Processes, backend: SDPBackend) -> dict[str, Any]:
    """One query a row against a masked cache that grows by one."""
    rows, length = setup["rows"], setup["length"] // 8
    slots = length + NEW_SHAPES + STEADY
    k, v = (
        t.detach().repeat(rows, 1, 1, 1) for t in _inputs(setup | {"batch": 1}, world, slots)[1:]
    )
    q = k[:, :, :1].contiguous()
    mask = torch.ones(rows, 1, 1, slots, dtype=torch.bool, device=world.device)

    def step(n: int) -> Tensor:
        with torch.no_grad(), sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                q, k[:, :, :n], v[:, :, :n], attn_mask=mask[..., :n]
            )

    step(length)
    firsts = sorted(seconds(lambda n=n: step(n), world.device)  # type: ignore[misc]
                    for n in range(length + 1, length + 1 + NEW_SHAPES))  # fmt: skip
    usual_s = usual_seconds(lambda: step(length), world.device, STEADY)
    return {
        "decode_first_ms": round(1000 * firsts[len(firsts) // 2], 3),
        "decode_ms": round(1000 * usual_s, 3),
    }


def _flex(setup: dict[str, Any], world: Processes) -> Callable[..., Tensor]:
    """flex_attention over one conversation a row, compiled; its first call compiles."""
    positions = torch.arange(setup["length"], device=world.device)[None]
    positions = positions.expand(setup["batch"], -1)
    return torch.compile(within(block_mask(positions)), dynamic=False)
