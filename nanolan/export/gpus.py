"""The GPU types of an export: SkyPilot's names for them and their memory."""

from __future__ import annotations

from nanolan.errors import UsageProblem, quoted
from nanolan.shadeform.gpu_types import normalized

# nanolan's name -> SkyPilot's names, which differ by cloud, and GB of a GPU
SKYPILOT_GPUS: dict[str, tuple[tuple[str, ...], int]] = {
    "A10": (("A10",), 24),
    "A10G": (("A10G",), 24),
    "A100": (("A100",), 40),
    "A100_80G": (("A100-80GB", "A100-80GB-SXM"), 80),
    "A40": (("A40",), 48),
    "A6000": (("A6000", "RTXA6000"), 48),
    "B200": (("B200",), 180),
    "B300": (("B300",), 270),
    "GH200": (("GH200",), 96),
    "H100": (("H100", "H100-SXM"), 80),
    "H100_nvl": (("H100-NVL",), 94),
    "H200": (("H200", "H200-SXM"), 141),
    "L4": (("L4",), 24),
    "L40": (("L40",), 48),
    "L40S": (("L40S",), 48),
    "RTX4090": (("RTX4090",), 24),
    "RTX5090": (("RTX5090",), 32),
    "RTX6000Ada": (("RTX6000-Ada",), 48),
    "V100": (("V100",), 16),
    "V100_32G": (("V100-32GB",), 32),
}


def find_gpu(wanted: str) -> str:
    """nanolan's name of the GPU that `wanted` means, in any spelling; UsageProblem with the list if there is none."""
    name = normalized(wanted)
    for gpu, (theirs, _) in SKYPILOT_GPUS.items():
        if name in (normalized(gpu), *map(normalized, theirs)):
            return gpu
    raise UsageProblem(
        f"no name of SkyPilot's is known for GPU {quoted(wanted)}; nothing was exported. Known are: {', '.join(SKYPILOT_GPUS)}"
    )


def skypilot_names(gpu: str) -> tuple[str, ...]:
    """What SkyPilot calls this type."""
    return SKYPILOT_GPUS[gpu][0]


def memory_gb(gpu: str) -> int:
    """GB of one GPU."""
    return SKYPILOT_GPUS[gpu][1]
