"""The peak memory of a rank's step on the fake device, with the trunk divided as torch's compiler divides it.

The compiler decides what the forward pass keeps for the backward pass (min-cut partition); its own kernels are not made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table

from nanolan.model.gpt import GPT, LEAST_LOGITS
from nanolan.train.data.packing import Batch
from nanolan.train.optim import make_optimizer
from nanolan.train.recipe import micro_batch
from nanolan.train.reduction import Reduction
from nanolan.train.step import Stepper, autocast
from tests.train.fake_cuda.device import CUDA, GIB, fake_device, fake_ranks
from tests.train.fake_cuda.shapes import config_of
from tests.train.fake_cuda.steps import fake_model

ROW = 2048  # tokens
STEPS = 2  # the first makes the optimizer's moments
RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


def peak(depth: int, gib: float, size: int) -> dict[str, Any]:
    """GiB of tensors at the worst moment of two steps of two micro-batches, at the table's micro-batch."""
    micro = micro_batch(config_of(depth), ROW, gib)
    compiling = patch("torch.compiler.is_compiling", lambda: True)  # the model asks it
    with compiling, fake_device(gib, kept=1.0) as gpu, fake_ranks(size) as world:
        model = fake_model(depth)
        divide_trunk(model, micro)
        optimizer = make_optimizer(model, world, **RATES)
        stepper = Stepper(model.loss_sum, list(model.parameters()), micro, CUDA)
        if size > 1:
            stepper.reduction = Reduction(optimizer, world)
        gpu.reset()
        for _ in range(STEPS):
            ids = torch.zeros((2 * micro, ROW), dtype=torch.long)
            stepper.gradients(Batch(ids, ids.clone(), None), 1.0)
            optimizer.step(1.0, 0.95, stepper.reduction)
        return {"micro": micro, "peak_gib": gpu.peak / GIB}


def divide_trunk(model: GPT, micro: int) -> None:
    """Replace the model's trunk by its forward and backward graphs."""
    named = {
        k: p for k, p in [*model.named_parameters(), *model.named_buffers()] if "lm_head" not in k
    }

    def trunk(*values: Tensor) -> Tensor:
        with autocast(CUDA):
            given = {f"model.{k}": v for k, v in zip(named, values[:-1], strict=True)}
            return torch.func.functional_call(Trunk(model), given, (values[-1],))

    graphs: Callable[..., Tensor] = aot_function(
        trunk,
        as_it_is,
        as_it_is,
        partition_fn=lambda *a, **k: min_cut_rematerialization_partition(
            *a, compiler="inductor", **k
        ),
        decompositions=select_decomp_table(),
    )
    model.least_logits = LEAST_LOGITS
    model.trunk = lambda ids, positions=None, mask=None: graphs(*named.values(), ids)
    model.trunk(torch.zeros((micro, ROW), dtype=torch.long, device=CUDA))  # traces


def as_it_is(graph: Any, inputs: Any) -> Any:
    """A compiler that compiles nothing."""
    return make_boxed_func(lambda *values: graph(*values))


class Trunk(torch.nn.Module):
    """The model's trunk as a module, for functional_call."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return GPT.trunk(self.model, ids)
