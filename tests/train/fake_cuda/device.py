"""The fake device: what a GPU would have been asked to do, counted, on tensors that have no contents.

    with fake_device(gib=79.1) as gpu:
        ...                 # tensors on "cuda" have shape, dtype and device, and no memory
        gpu.launches, gpu.syncs, gpu.copies, gpu.attention, gpu.peak

Needs guard.load() before the first import of torch. Changes torch for the whole process.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanolan.train.processes import Processes

aten = torch.ops.aten
GIB = 1 << 30
BLOCK = 512  # bytes: the caching allocator rounds up to these
CUDA = torch.device("cuda", 0)
ATTENTION = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
}
NO_KERNEL = ("empty", "aten.lift_fresh.", "aten.detach.", "aten._unsafe_view.", "prim.device.")


class Device(TorchDispatchMode):
    """Counts kernels, waits of the host, copies, attention shapes and bytes; answers what the host asks of a tensor."""

    def __init__(self, gib: float = 79.1, kept: float = 0.5) -> None:
        """A GPU of `gib` GiB; `kept` is the share of a boolean mask that is said to be true."""
        super().__init__()
        self.gib, self.kept = gib, kept
        self.number: Callable[[torch.dtype], Any] = default_number
        self.lists: Callable[[Tensor], Any] = self._ones  # what tolist() reads
        self.live = 0  # bytes
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        self.reset()

    def reset(self) -> None:
        """Begin counting anew; the peak from what is alive now."""
        self.launches = Counter[str]()  # operator -> kernels, about
        self.syncs = Counter[str]()  # file:line -> times that the host waited
        self.copies = Counter[str]()  # file:line -> copies from the host
        self.attention = Counter[tuple[Any, ...]]()  # (queries' shape, keys' shape, dtype) -> calls
        self.recorded = Counter[str]()  # what is in a graph: kernels, and what no graph can have
        self.peak = self.live

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """A graph of `step`: its kernels are launched once for all by each replay. For graphs.Recorder."""
        outside = self.launches, self.syncs, self.copies
        self.launches, self.syncs, self.copies = Counter(), Counter(), Counter()
        step()
        self.recorded["graphs"] += 1
        self.recorded["kernels"] = max(self.recorded["kernels"], self.launches.total())
        self.recorded["forbidden"] += self.syncs.total() + self.copies.total()
        self.launches, self.syncs, self.copies = outside
        return lambda: self.launches.update(["graph"])

    # ------------------------------------------------------------------ what torch calls
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            self._wait(args[0])
            return self.number(args[0].dtype)
        if func is aten.nonzero.default:
            self._wait(args[0])
            return self._found(args[0], args[0].dim())
        if func is aten.index.Tensor:
            args = (args[0], self._without_masks(args[1], args[0].device))
        if torch.is_inference_mode_enabled() and is_composite(func):
            with self:
                done = func.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        for t in outputs:
            self.note(t)
        kinds = {
            t.device.type for t in (*outputs, *tree_leaves((args, kwargs))) if isinstance(t, Tensor)
        }
        if "cuda" not in kinds:
            return
        if kinds == {"cpu", "cuda"} and func in (aten._to_copy.default, aten.copy_.default):
            (self.copies if outputs[0].is_cuda else self.syncs)[place()] += 1
        if func in ATTENTION:
            q, k = args[0], args[1]
            self.attention[tuple(q.shape), tuple(k.shape), str(q.dtype)] += 1
        if launches(func):
            self.launches[str(func)] += 1

    def note(self, t: Tensor) -> None:
        """Count the memory of a tensor until it is freed."""
        if t.device.type != "cuda":
            return
        storage = t.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._storages[key] = weakref.ref(storage, lambda _: self._freed(key)), size
            self.live += size
            self.peak = max(self.peak, self.live)

    def _freed(self, key: int) -> None:
        self.live -= self._storages.pop(key)[1]

    # ------------------------------------------------------------------ what the host asks
    def _wait(self, t: Tensor) -> None:
        if t.device.type == "cuda":
            self.syncs[place()] += 1

    def _found(self, mask: Tensor, columns: int) -> Tensor:
        n = int(mask.numel() * self.kept)
        return torch.empty((n, columns), dtype=torch.long, device=mask.device)

    def _without_masks(self, indices: Sequence[Tensor | None], device: torch.device) -> list[Any]:
        """Boolean indices as numbers: their count depends on the contents, which there are none of."""
        plain: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                self._wait(index)
                self.launches["aten.nonzero.default"] += index.is_cuda
                plain += self._found(index, index.dim()).to(device).unbind(1)
            else:
                plain.append(index)
        return plain

    def read(self, t: Tensor) -> Any:
        """tolist() of a fake tensor: one wait, whatever its size."""
        self._wait(t)
        return self.lists(t)

    def _ones(self, t: Tensor) -> Any:
        if t.dim() == 0:
            return self.number(t.dtype)
        return [self._ones(t[i]) if t.dim() > 1 else self.number(t.dtype) for i in range(len(t))]


def default_number(dtype: torch.dtype) -> Any:
    """What item() answers."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def place() -> str:
    """file:line of the innermost of nanolan's frames."""
    frame = sys._getframe(1)
    while frame.f_back and "/nanolan/" not in frame.f_code.co_filename:
        frame = frame.f_back
    name = frame.f_code.co_filename.rpartition("/nanolan/")[2]
    return f"nanolan/{name}:{frame.f_lineno}"


def is_composite(func: Any) -> bool:
    """Whether an operator consists of others, which inference mode does not split by itself."""
    return (
        func.namespace == "aten"
        and func._can_decompose()
        and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    )


def launches(func: Any) -> bool:
    """Whether an operator launches a kernel: views and fresh memory do not."""
    views = any(
        r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
    )
    return not views and not any(word in str(func) for word in NO_KERNEL)


@contextmanager
def fake_device(gib: float = 79.1, kept: float = 0.5) -> Iterator[Device]:
    """Tensors are without contents, and "cuda" is a GPU of `gib` GiB, of which this is the record."""
    gpu = Device(gib, kept)
    install(gpu)
    with FakeTensorMode(allow_non_fake_inputs=True), gpu:
        yield gpu


# ------------------------------------------------------------------ what CUDA has and the CPU wheel lacks
def install(gpu: Device) -> None:
    """Give torch the answers and the fused kernels of a GPU."""
    size = int(gpu.gib * GIB)
    torch.cuda.mem_get_info = lambda device=None: (size, size)
    torch.cuda.get_device_name = lambda device=None: "NVIDIA H100 80GB HBM3"
    torch.cuda.empty_cache = lambda: None
    torch.cuda.max_memory_reserved = lambda device=None: 0
    torch.cuda.is_bf16_supported = lambda *args, **kwargs: True
    importlib.import_module("torch.cuda.amp.common").amp_definitely_not_available = lambda: False
    FakeTensor.tolist = lambda t: gpu.read(t)  # a bound method would take no tensor
    F.rms_norm = fused_norm
    F.scaled_dot_product_attention = fused_attention


class FusedNorm(torch.autograd.Function):
    """The fused RMS norm's memory and launches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.mul(x, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.mul(grad, ctx.saved_tensors[0])


def fused_norm(x: Tensor, shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    """F.rms_norm as on CUDA, where autocast has it in fp32."""
    return FusedNorm.apply(x.float() if torch.is_autocast_enabled("cuda") else x)


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """F.scaled_dot_product_attention as on CUDA without cuDNN: flash, or memory-efficient where there is a mask."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    bias = attn_mask
    if bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(bias, -1.0)
    if (n := bias.size(-1)) % 8:
        bias = F.pad(bias, (0, 8 - n % 8))[..., :n]
    bias = bias.expand(q.size(0), q.size(1), q.size(2), k.size(2))
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, q.requires_grad)[0]


class FakeProcesses(Processes):
    """Rank 0 of `size`: tensors go through torch's fake process group, numbers on the host stay what they are."""

    def totals(self, *values: float) -> list[float]:
        return [float(value) for value in values]


@contextmanager
def fake_ranks(size: int) -> Iterator[FakeProcesses]:
    """Rank 0 of so many."""
    if size > 1:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    world = FakeProcesses(0, size, CUDA)
    yield world
    world.close()
