"""Estimates the GPU memory of training: rows of a micro-batch by model size and GPU. Pure; shared by laptop and trainer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.errors import UsageProblem

MAX_ROWS = 32  # more rows a micro-batch do not use a GPU better
CPU_POSITIONS = 8192  # positions of a micro-batch on the CPU: bounds its memory
USABLE = 0.92  # share of the GPU's memory; the rest is fragmentation and other processes

# Memory of a CUDA rank, counted operation by operation (a whole step in fake tensors, divided into forward and backward as
# inductor does it) and compared with the allocator under a compiled step; tests/checkpoint/test_model_size.py has the figures.
# Per parameter: fp32 weight, gradient and two fp32 moments; the matrices have one moment and the embedding is bf16.
BYTES_PER_PARAM = 16
# The CUDA context (0.6), NCCL's buffers (up to 2), a chunk of logits with its gradient, the stacked Muon update
FIXED_GIB = 4.5
# Activations of a row of d20 at T=2048: 19 bf16 values a token, layer and channel
D20_ROW_GIB = 1.87
D20_ROW = 20 * 1280 * 2048  # layers x channels x positions
# rl's step is not compiled: about four fp32 copies of a chunk of logits (1 GiB) live at once
EAGER_LOSS_GIB = 4.0


def micro_batch(
    size: ModelSize, sequence_len: int, gpu_gib: float | None, *, eager: bool = False
) -> int:
    """Rows of a micro-batch that fit a GPU of `gpu_gib` (None: the CPU), a power of two up to 32.

    `eager`: the step is not compiled, as in rl. UsageProblem if not even one row fits.
    """
    if gpu_gib is None:
        fits = max(1.0, CPU_POSITIONS / sequence_len)
    else:
        fixed_gib = FIXED_GIB + BYTES_PER_PARAM * size.n_params / 2**30 + EAGER_LOSS_GIB * eager
        row_gib = D20_ROW_GIB * size.n_layer * size.n_embd * sequence_len / D20_ROW
        fits = (USABLE * gpu_gib - fixed_gib) / row_gib
        if fits < 1:
            need_gib = (fixed_gib + row_gib) / USABLE
            raise UsageProblem(
                f"a model of {size.n_params / 1e6:.0f}M parameters at {sequence_len} tokens a row "
                f"needs {need_gib:.0f} GiB of GPU memory, this one has {gpu_gib:.0f}"
            )
    return min(MAX_ROWS, 1 << (int(fits).bit_length() - 1))


D20 = 560_988_160  # parameters of the model that the guide's times and dollars refer to
VOCABULARY = 65_536


@dataclass(frozen=True)
class ModelSize:
    """The part of a model's configuration that determines its size."""

    vocab_size: int
    n_layer: int
    n_embd: int
    kv_share: float = 1.0  # n_kv_head / n_head

    @property
    def n_params(self) -> int:
        """2 V C + L (10 C C + 2 C C kv_share): embedding, head, and per layer q, o, MLP and k, v."""
        C = self.n_embd
        return 2 * self.vocab_size * C + round(self.n_layer * (10 + 2 * self.kv_share) * C * C)


def size_of(config: GPTConfig) -> ModelSize:
    """The size of a model of this config."""
    return ModelSize(
        config.vocab_size, config.n_layer, config.n_embd, config.n_kv_head / config.n_head
    )


def parameters_of_tag(tag: str) -> int:
    """Parameters of nanochat's model with a tag such as d32 or d20-exp1 (width 64 x depth); those of d20 for any other tag."""
    m = re.match(r"d([1-9][0-9]{0,2})(?![0-9])", tag)
    return ModelSize(VOCABULARY, int(m[1]), 64 * int(m[1])).n_params if m else D20
