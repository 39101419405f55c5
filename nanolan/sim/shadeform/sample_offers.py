"""Sample offers in the real shapes of `GET /instances/types`, including its traps.

No real offers: the local Shadeform lists them, and a launch without a key shows them.
Prices are those of 2026 for the whole instance: integer cents per hour on a type, a string of dollars on a spot entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanolan.sim.shadeform.catalogue import Offer

CUDA_12_6 = "ubuntu22.04_cuda12.6_shade_os"
CUDA_12_8 = "ubuntu22.04_cuda12.8_shade_os"
CUDA_13_0 = "ubuntu24.04_cuda13.0_shade_os"
PLAIN = "ubuntu22.04"  # no driver, no Docker
QUICK = {"min_boot_in_sec": 1, "max_boot_in_sec": 5}  # the sim's instances boot in a second
COPIED = (
    "memory_in_gb",
    "storage_in_gb",
    "vcpus",
    "num_gpus",
    "gpu_type",
    "interconnect",
    "nvlink",
)


def _entry(
    region: str,
    available: bool = True,
    rental: str | None = "on_demand",
    *,
    name: str = "",
    dollars: str = "",
) -> dict[str, Any]:
    """One availability entry; older answers have neither display_name nor rental_type."""
    entry: dict[str, Any] = {"region": region, "available": available}
    return (
        entry
        | ({"display_name": name} if name else {})
        | ({"rental_type": rental} if rental else {})
        | ({"hourly_price": dollars} if dollars else {})
    )


def _offer(
    kind: tuple[str, str, str, int],
    gpus: tuple[int, str, int, str],
    size: tuple[int, int, int],
    entries: list[dict[str, Any]],
    *,
    nvlink: bool | None = None,
    images: tuple[str, ...] = (CUDA_12_8,),
    maker: str = "nvidia",
    copies: bool = True,
    boot: Mapping[str, int] | None = QUICK,
) -> Offer:
    """One instance type.

    `kind` is (cloud, shade_instance_type, cloud_instance_type, cents per hour), `gpus` (number, gpu_type, GB of memory
    each, interconnect), `size` (RAM GB, disk GB, vCPUs); `copies` adds the undocumented top-level copies.
    """
    cloud, instance_type, cloud_type, cents = kind
    count, gpu, vram, link = gpus
    memory, storage, vcpus = size
    machine: dict[str, Any] = {
        "memory_in_gb": memory,
        "storage_in_gb": storage,
        "vcpus": vcpus,
        "num_gpus": count,
        "gpu_type": gpu,
        "interconnect": link,
        "os_options": list(images),
        "vram_per_gpu_in_gb": vram,
        "gpu_manufacturer": maker,
    }
    if nvlink is not None:
        machine["nvlink"] = nvlink
    row: Offer = {
        "cloud": cloud,
        "shade_instance_type": instance_type,
        "cloud_instance_type": cloud_type,
        "configuration": machine,
        "hourly_price": cents,
        "deployment_type": "vm",
        "availability": entries,
    }
    if boot is not None:
        row["boot_time"] = dict(boot)
    return row | ({k: machine[k] for k in COPIED if k in machine} if copies else {})


SAMPLE: list[Offer] = [
    # The guide's three: 8x B200, by price.
    _offer(
        ("hyperstack", "8x_b200_pcie_192gb", "n3-B200x8", 3360),
        (8, "B200", 192, "pcie"),
        (1800, 6400, 224),
        [_entry("canada-1", name="CA, Montreal")],
        nvlink=True,
        images=(CUDA_12_8, CUDA_13_0),
    ),
    _offer(
        ("datacrunch", "B200_sxm6x8", "8B200.248V", 3584),
        (8, "B200", 192, "sxm6"),
        (1472, 2000, 248),
        [_entry("FIN-01", name="FI, Helsinki")],
        nvlink=True,
        images=(CUDA_12_6, CUDA_13_0),
    ),
    _offer(
        ("tensordock", "B200x8", "b200-sxm-8x", 3840),
        (8, "B200", 192, "pcie"),
        (1440, 4000, 192),
        [_entry("us-east", rental=None)],
        nvlink=False,
        copies=False,
    ),
    # Listed, but not available on demand: only spot, or nothing.
    _offer(
        ("lambdalabs", "B200x8", "gpu_8x_b200_sxm6", 5352),
        (8, "B200", 180, "sxm6"),
        (2900, 22000, 208),
        [
            _entry("us-west-1", False, name="US, California"),
            _entry("us-west-1", True, "spot", name="US, California", dollars="26.76"),
        ],
    ),
    _offer(
        ("excesssupply", "B300_sxm6x8", "8x-b300-sxm6-ac", 3600),
        (8, "B300", 288, "sxm6"),
        (2790, 27997, 120),
        [_entry("us-west-1", False), _entry("us-west-1", True, "spot", dollars="36")],
        images=(CUDA_13_0,),
        boot={"max_boot_in_sec": 5},
    ),
    _offer(
        ("verda", "B200x8", "8B200.240V", 4392),
        (8, "B200", 180, "sxm6"),
        (1450, 1000, 240),
        [],
        nvlink=True,
    ),
    _offer(
        ("lambdalabs", "B200x1", "gpu_1x_b200_sxm6", 699),
        (1, "B200", 180, "sxm6"),
        (360, 2800, 26),
        [_entry("us-west-1", name="US, California")],
    ),
    # H100: one gpu_type for PCIe and SXM.
    _offer(
        ("hyperstack", "H100", "n3-H100x1", 250),
        (1, "H100", 80, "pcie"),
        (180, 850, 28),
        [
            _entry("montreal-canada-2", name="CA, Montreal"),
            _entry("houston-usa-1", False, name="US, Houston, TX"),
        ],
        nvlink=False,
        images=(CUDA_12_6, CUDA_12_8),
    ),
    _offer(
        ("hyperstack", "H100x2", "n3-H100x2", 500),
        (2, "H100", 80, "pcie"),
        (360, 1700, 60),
        [_entry("montreal-canada-2", name="CA, Montreal")],
        nvlink=True,
    ),
    _offer(
        ("hyperstack", "H100x4", "n3-H100x4", 1000),
        (4, "H100", 80, "pcie"),
        (720, 3300, 124),
        [_entry("montreal-canada-2", name="CA, Montreal")],
        nvlink=True,
    ),
    _offer(
        ("scaleway", "H100", "H100-1-80G", 273),
        (1, "H100", 80, "pcie"),
        (240, 200, 24),
        [_entry("paris-2"), _entry("warsaw-2")],
        boot={"min_boot_in_sec": 1},
    ),
    _offer(
        ("massedcompute", "H100x8", "gpu_8x_h100_pcie", 2392),
        (8, "H100", 80, "pcie"),
        (1024, 10000, 252),
        [
            _entry("desmoines-usa-1", name="US, Des Moines, IA"),
            _entry("desmoines-usa-1", True, "spot", name="US, Des Moines, IA", dollars="18.5"),
        ],
        nvlink=False,
        images=(CUDA_12_8, PLAIN),
    ),
    _offer(
        ("crusoe", "H100_sxm5x8", "h100-80gb-sxm-ib.8x", 2780),
        (8, "H100", 80, "sxm5"),
        (960, 27000, 176),
        [_entry("us-east1-a")],
        nvlink=True,
        copies=False,
        boot=None,
    ),
    _offer(
        ("nebius", "H100_sxm5x8", "gpu-h100-sxm_8gpu-128vcpu-1600gb", 2360),
        (8, "H100", 80, "sxm5"),
        (1600, 1000, 128),
        [_entry("eu-north1", False)],
        nvlink=True,
        images=(CUDA_13_0,),
    ),
    _offer(
        ("denvr", "H100_nvl", "H100_94GB_NVL_1x", 265),
        (1, "H100_nvl", 94, "pcie"),
        (120, 1500, 16),
        [_entry("houston-usa-1", name="US, Houston, TX")],
    ),
    # H200 and GH200 (arm64, which no field says).
    _offer(
        ("digitalocean", "H200", "gpu-h200x1-141gb", 344),
        (1, "H200", 141, "sxm5"),
        (240, 720, 24),
        [_entry("nyc2", name="US, New York")],
    ),
    _offer(
        ("nebius", "H200x8", "gpu-h200-sxm_8gpu-128vcpu-1600gb", 2800),
        (8, "H200", 141, "sxm5"),
        (1600, 1000, 128),
        [_entry("eu-north1"), _entry("us-central-1", True, "spot", dollars="15.20")],
        nvlink=True,
        images=(CUDA_12_8, CUDA_13_0),
    ),
    _offer(
        ("lambdalabs", "GH200", "gpu_1x_gh200", 149),
        (1, "GH200", 96, "pcie"),
        (432, 4000, 64),
        [_entry("us-east-3")],
    ),
    # A100: 40 and 80 GB; crusoe's are SXM, whatever their interconnect field says.
    _offer(
        ("hyperstack", "A100_80G", "n3-A100x1", 135),
        (1, "A100_80G", 80, "pcie"),
        (120, 850, 28),
        [_entry("montreal-canada-2", name="CA, Montreal")],
        nvlink=False,
    ),
    _offer(
        ("denvr", "A100_sxm4_80G", "A100_80GB_SXM_1x", 150),
        (1, "A100_80G", 80, "sxm4"),
        (115, 1700, 14),
        [_entry("houston-usa-1")],
        images=(CUDA_12_6,),
    ),
    _offer(
        ("latitude", "A100_80Gx2", "g3-a100-medium", 260),
        (2, "A100_80G", 80, "pcie"),
        (250, 1900, 32),
        [_entry("dallas-usa-2")],
        images=(PLAIN,),
    ),
    _offer(
        ("crusoe", "A100_80G_sxm4x8", "a100-80gb-sxm-ib.8x", 1840),
        (8, "A100_80G", 80, "pcie"),
        (960, 7600, 96),
        [_entry("us-east1-a"), _entry("us-southcentral1-a", False)],
        boot=None,
    ),
    _offer(
        ("lambdalabs", "A100x8", "gpu_8x_a100", 1032),
        (8, "A100", 40, "sxm4"),
        (1800, 5800, 124),
        [_entry("us-east-1", False)],
        nvlink=True,
    ),
    # Unsuitable: too small, too slow to boot, another GPU maker, no GPU.
    _offer(
        ("massedcompute", "L40S", "gpu_1x_l40s", 88),
        (1, "L40S", 48, "pcie"),
        (128, 625, 26),
        [_entry("wilmington-usa-1")],
        boot={"min_boot_in_sec": 1200, "max_boot_in_sec": 3600},
    ),
    _offer(
        ("massedcompute", "A6000", "gpu_1x_a6000", 57),
        (1, "A6000", 48, "pcie"),
        (48, 256, 6),
        [_entry("desmoines-usa-1")],
        images=(CUDA_12_8, PLAIN),
    ),
    _offer(
        ("hotaisle", "MI300X", "1x-mi300x", 199),
        (1, "MI300X", 192, ""),
        (224, 12000, 13),
        [_entry("us-michigan-1")],
        images=(PLAIN,),
        maker="amd",
        copies=False,
    ),
    _offer(
        ("digitalocean", "cpu_small", "s-2vcpu-4gb", 4),
        (0, "CPU", 0, ""),
        (4, 80, 2),
        [_entry("nyc2")],
        images=(PLAIN,),
        maker="",
    ),
]
