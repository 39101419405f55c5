"""The processes of a run: rank, size, device, and the few collectives they use.

One process needs no process group. Numbers on the host always travel over gloo, tensors over the
device's backend (nccl or gloo); all_reduce(SUM) and all_gather are used, which both have, and reduce_scatter where there is one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from nanolan.errors import NanolanError, UsageProblem

TIMEOUT = timedelta(minutes=20)  # how much longer a rank may compile or read data than another

# In the text of what gloo raises when a peer is gone; NCCL has an exception of its own
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Timed out wait")


class PeerLost(NanolanError):
    """Another rank has ended or hangs; that rank's own message says why."""


@contextlib.contextmanager
def among_peers() -> Iterator[None]:
    """Raises PeerLost for what a collective raises when another rank is gone; other errors are this rank's own."""
    try:
        yield
    except RuntimeError as e:
        text = " ".join(str(e).split())
        if not isinstance(e, dist.DistError) and not any(sign in text for sign in LOST):
            raise
        raise PeerLost(f"another rank is gone ({type(e).__name__}: {text[:160]})") from None


# torch 2.13 has renamed it, and warns of the old name
reduce_scatter: Callable[[torch.Tensor, torch.Tensor], object] = (
    getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
)


@dataclass(frozen=True)
class Processes:
    """This process's place among all."""

    rank: int
    size: int
    device: torch.device
    scatters: bool = field(
        default=False, kw_only=True
    )  # the backend of the device has reduce_scatter

    @property
    def first(self) -> bool:
        """True on rank 0, which writes and prints."""
        return self.rank == 0

    def totals(self, *values: float) -> list[float]:
        """Each value summed over all ranks, in float64; every rank gets the same bits."""
        t = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            with among_peers():
                dist.all_reduce(t)
        return t.tolist()

    def sum_(self, tensor: torch.Tensor) -> None:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            with among_peers():
                dist.all_reduce(tensor)

    def sum_slice(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's slice of a tensor (size * n, ...), summed over all ranks: (n, ...). May overwrite the tensor.

        Half of what `sum_` sends, where the backend has reduce_scatter.
        """
        n = len(tensor) // self.size
        if self.size > 1 and self.scatters:
            mine = torch.empty_like(tensor[:n])
            with among_peers():
                reduce_scatter(mine, tensor)
            return mine
        self.sum_(tensor)
        return tensor[self.rank * n :][:n]

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """Parts of equal shape from all ranks, in rank order, joined along dimension 0."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with among_peers():
            dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def meet(self) -> None:
        """Barrier: wait for every rank."""
        self.totals(0)

    def close(self) -> None:
        """Leave the process group; no collectives are possible afterwards."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_world(device: str) -> Processes:
    """This process's World from torchrun's environment (none: a world of one).

    UsageProblem when "cuda" is asked for and this rank has no CUDA device: never the CPU instead.
    """
    rank, size, local = (
        int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if device == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if local >= found:
            raise UsageProblem(
                f'the job asks for device "cuda", rank {rank} needs CUDA device {local}, '
                f"but torch {torch.__version__} finds {found}"
            )
        torch.cuda.set_device(local)
        torch.set_float32_matmul_precision("high")
    here = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    if size == 1:
        return Processes(rank, size, here)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    return Processes(rank, size, here, scatters=has_reduce_scatter(size, here))


def has_reduce_scatter(size: int, device: torch.device) -> bool:
    """Whether the backend for tensors on `device` has reduce_scatter: gloo has it in newer versions of torch only."""
    try:
        reduce_scatter(torch.empty(1, device=device), torch.ones(size, device=device))
    except (RuntimeError, NotImplementedError) as e:
        if isinstance(e, dist.DistError):
            raise
        return False
    return True
