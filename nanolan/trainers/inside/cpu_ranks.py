"""Ranks without GPUs, for rehearsals: nanochat starts its process group only for CUDA. Loaded by keeper.py.

Starts gloo, and emulates the collectives that nanochat's optimizers use and gloo lacks: the mean, results as
futures, and collectives on whole tensors. Needs only torch.

Tensors are viewed as on a GPU, too: nanochat of February 2026 slices its batches and flattens them later, which works only
where the copy to the GPU has made them contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Done:
    """A collective that is over, with the interface of one under way."""

    def __init__(self, result: Any) -> None:
        self._future: Any = torch.futures.Future()
        self._future.set_result([result])

    def get_future(self) -> Any:
        return self._future

    def wait(self, timeout: object = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def start() -> None:
    """Start gloo and replace the collectives; nothing with a GPU."""
    if torch.cuda.is_available() or dist.is_initialized():
        return
    dist.init_process_group("gloo")
    emulate(dist)
    view_all(torch.Tensor)
    # a script that starts a group itself finds this one
    dist.init_process_group = lambda *args, **kwargs: None


def view_all(tensor: Any) -> None:
    """Let Tensor.view copy what is not contiguous."""
    view = tensor.view

    def lenient(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(self, *args, **kwargs)
        except RuntimeError as e:
            if "view size is not compatible" not in str(e):
                raise
            return self.reshape(*args, **kwargs)

    tensor.view = lenient


def emulate(module: Any) -> None:
    """Replace five collectives of torch.distributed by ones that gloo can do."""
    gloo_reduce, gloo_gather = module.all_reduce, module.all_gather
    SUM, AVG = dist.ReduceOp.SUM, dist.ReduceOp.AVG

    def all_reduce(tensor: Any, op: Any = SUM, group: Any = None, async_op: bool = False) -> Any:
        gloo_reduce(tensor, op=SUM if op == AVG else op, group=group)
        if op == AVG:
            tensor.div_(dist.get_world_size(group))
        return Done(tensor) if async_op else None

    def all_gather(tensor_list: Any, tensor: Any, group: Any = None, async_op: bool = False) -> Any:
        # buffers of its own: gloo refuses outputs that overlap the input
        parts = [torch.empty_like(part) for part in tensor_list]
        gloo_gather(parts, tensor.contiguous(), group=group)
        for target, part in zip(tensor_list, parts, strict=True):
            target.copy_(part)
        return Done(tensor_list) if async_op else None

    def all_gather_into_tensor(
        output_tensor: Any, input_tensor: Any, group: Any = None, async_op: bool = False
    ) -> Any:
        parts = [torch.empty_like(input_tensor) for _ in range(dist.get_world_size(group))]
        gloo_gather(parts, input_tensor.contiguous(), group=group)
        output_tensor.copy_(torch.stack(parts).view_as(output_tensor))
        return Done(output_tensor) if async_op else None

    def reduce_scatter(
        output: Any, input_list: Any, op: Any = SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        whole = torch.stack(list(input_list))
        all_reduce(whole, op, group)
        output.copy_(whole[dist.get_rank(group)])
        return Done(output) if async_op else None

    def reduce_scatter_tensor(
        output: Any, input: Any, op: Any = SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        whole = input.clone()
        all_reduce(whole, op, group)
        part = whole.view(dist.get_world_size(group), -1)[dist.get_rank(group)]
        output.copy_(part.view_as(output))
        return Done(output) if async_op else None

    for replacement in (
        all_reduce,
        all_gather,
        all_gather_into_tensor,
        reduce_scatter,
        reduce_scatter_tensor,
    ):
        setattr(module, replacement.__name__, replacement)
