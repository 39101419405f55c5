"""What the machine can do and what is used of it: peak speed by GPU name, the work of a token, peak memory."""

from __future__ import annotations

import re
import resource
import sys

import torch

from nanolan.checkpoint.architecture import GPTConfig

# Dense bf16 with fp32 sums, in Tflop/s, from the makers' data sheets. The first name that occurs counts: the more
# specific one comes first.
PEAK_TFLOPS = (
    ("GB300", 2500),
    ("GB200", 2500),
    ("B300", 2250),
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H20", 148),
    ("H800 PCIe", 756),
    ("H800", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("A100", 312),
    ("A800", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("RTX A6000", 154.8),
    ("RTX 6000 Ada", 364.2),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
)


def peak_flops(gpu: str) -> float | None:
    """Peak bf16 flop/s of a GPU by the name that CUDA gives it; None for one that is not in the table."""
    for name, tflops in PEAK_TFLOPS:
        if re.search(rf"\b{name}\b", gpu):
            return tflops * 1e12
    return None


def flops_per_token(config: GPTConfig, sequence_len: int) -> float:
    """Forward and backward pass: 6 a matrix weight, 12 L C T for attention as if it saw the whole row."""
    matrices = config.n_params - config.vocab_size * config.n_embd
    return 6.0 * matrices + 12.0 * config.n_layer * config.n_embd * sequence_len


def mfu_per_token(
    config: GPTConfig, sequence_len: int, device: torch.device, gpus: int
) -> float | None:
    """Model flops utilisation at one token a second on `gpus` GPUs; None on the CPU and on an unknown GPU."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return flops_per_token(config, sequence_len) / (peak * gpus) if peak else None


def peak_gib(device: str) -> float:
    """Most memory this process has held so far: on the GPU, or of the machine for the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
