"""Sample offers, in the shapes that `GET /instances/types` really has, traps included.

Nothing here is for rent: it is the stock of the local Shadeform, and what a launch without a key shows.
Prices are those of 2026, whole machine: integer cents per hour on a type, a string of dollars on a spot entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

Offer = dict[str, Any]

CUDA_12_6 = "ubuntu22.04_cuda12.6_shade_os"
CUDA_12_8 = "ubuntu22.04_cuda12.8_shade_os"
CUDA_13_0 = "ubuntu24.04_cuda13.0_shade_os"
PLAIN = "ubuntu22.04"  # no driver, no Docker
QUICK = {"min_boot_in_sec": 1, "max_boot_in_sec": 5}  # the sim's machines boot in a second
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
    cloud: str,
    kind: str,
    own_kind: str,
    cents: int,
    gpu: str,
    gpus: int,
    vram: int,
    link: str,
    entries: list[dict[str, Any]],
    *,
    size: tuple[int, int, int],
    nvlink: bool | None = None,
    images: tuple[str, ...] = (CUDA_12_8,),
    maker: str = "nvidia",
    copies: bool = True,
    boot: Mapping[str, int] | None = QUICK,
) -> Offer:
    """One instance type; `size` is (RAM GB, disk GB, vCPUs), `copies` adds the undocumented top-level copies."""
    memory, storage, vcpus = size
    machine: dict[str, Any] = {
        "memory_in_gb": memory,
        "storage_in_gb": storage,
        "vcpus": vcpus,
        "num_gpus": gpus,
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
        "shade_instance_type": kind,
        "cloud_instance_type": own_kind,
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
        "hyperstack",
        "8x_b200_pcie_192gb",
        "n3-B200x8",
        3360,
        "B200",
        8,
        192,
        "pcie",
        [_entry("canada-1", name="CA, Montreal")],
        size=(1800, 6400, 224),
        nvlink=True,
        images=(CUDA_12_8, CUDA_13_0),
    ),
    _offer(
        "datacrunch",
        "B200_sxm6x8",
        "8B200.248V",
        3584,
        "B200",
        8,
        192,
        "sxm6",
        [_entry("FIN-01", name="FI, Helsinki")],
        size=(1472, 2000, 248),
        nvlink=True,
        images=(CUDA_12_6, CUDA_13_0),
    ),
    _offer(
        "tensordock",
        "B200x8",
        "b200-sxm-8x",
        3840,
        "B200",
        8,
        192,
        "pcie",
        [_entry("us-east", rental=None)],
        size=(1440, 4000, 192),
        nvlink=False,
        copies=False,
    ),
    # Listed, but on demand there is none: only spot, or nothing at all.
    _offer(
        "lambdalabs",
        "B200x8",
        "gpu_8x_b200_sxm6",
        5352,
        "B200",
        8,
        180,
        "sxm6",
        [
            _entry("us-west-1", False, name="US, California"),
            _entry("us-west-1", True, "spot", name="US, California", dollars="26.76"),
        ],
        size=(2900, 22000, 208),
    ),
    _offer(
        "excesssupply",
        "B300_sxm6x8",
        "8x-b300-sxm6-ac",
        3600,
        "B300",
        8,
        288,
        "sxm6",
        [_entry("us-west-1", False), _entry("us-west-1", True, "spot", dollars="36")],
        size=(2790, 27997, 120),
        images=(CUDA_13_0,),
        boot={"max_boot_in_sec": 5},
    ),
    _offer(
        "verda",
        "B200x8",
        "8B200.240V",
        4392,
        "B200",
        8,
        180,
        "sxm6",
        [],
        size=(1450, 1000, 240),
        nvlink=True,
    ),
    _offer(
        "lambdalabs",
        "B200x1",
        "gpu_1x_b200_sxm6",
        699,
        "B200",
        1,
        180,
        "sxm6",
        [_entry("us-west-1", name="US, California")],
        size=(360, 2800, 26),
    ),
    # H100: one gpu_type for PCIe and SXM.
    _offer(
        "hyperstack",
        "H100",
        "n3-H100x1",
        250,
        "H100",
        1,
        80,
        "pcie",
        [
            _entry("montreal-canada-2", name="CA, Montreal"),
            _entry("houston-usa-1", False, name="US, Houston, TX"),
        ],
        size=(180, 850, 28),
        nvlink=False,
        images=(CUDA_12_6, CUDA_12_8),
    ),
    _offer(
        "hyperstack",
        "H100x2",
        "n3-H100x2",
        500,
        "H100",
        2,
        80,
        "pcie",
        [_entry("montreal-canada-2", name="CA, Montreal")],
        size=(360, 1700, 60),
        nvlink=True,
    ),
    _offer(
        "hyperstack",
        "H100x4",
        "n3-H100x4",
        1000,
        "H100",
        4,
        80,
        "pcie",
        [_entry("montreal-canada-2", name="CA, Montreal")],
        size=(720, 3300, 124),
        nvlink=True,
    ),
    _offer(
        "scaleway",
        "H100",
        "H100-1-80G",
        273,
        "H100",
        1,
        80,
        "pcie",
        [_entry("paris-2"), _entry("warsaw-2")],
        size=(240, 200, 24),
        boot={"min_boot_in_sec": 1},
    ),
    _offer(
        "massedcompute",
        "H100x8",
        "gpu_8x_h100_pcie",
        2392,
        "H100",
        8,
        80,
        "pcie",
        [
            _entry("desmoines-usa-1", name="US, Des Moines, IA"),
            _entry("desmoines-usa-1", True, "spot", name="US, Des Moines, IA", dollars="18.5"),
        ],
        size=(1024, 10000, 252),
        nvlink=False,
        images=(CUDA_12_8, PLAIN),
    ),
    _offer(
        "crusoe",
        "H100_sxm5x8",
        "h100-80gb-sxm-ib.8x",
        2780,
        "H100",
        8,
        80,
        "sxm5",
        [_entry("us-east1-a")],
        size=(960, 27000, 176),
        nvlink=True,
        copies=False,
        boot=None,
    ),
    _offer(
        "nebius",
        "H100_sxm5x8",
        "gpu-h100-sxm_8gpu-128vcpu-1600gb",
        2360,
        "H100",
        8,
        80,
        "sxm5",
        [_entry("eu-north1", False)],
        size=(1600, 1000, 128),
        nvlink=True,
        images=(CUDA_13_0,),
    ),
    _offer(
        "denvr",
        "H100_nvl",
        "H100_94GB_NVL_1x",
        265,
        "H100_nvl",
        1,
        94,
        "pcie",
        [_entry("houston-usa-1", name="US, Houston, TX")],
        size=(120, 1500, 16),
    ),
    # H200 and GH200 (arm64, which no field says).
    _offer(
        "digitalocean",
        "H200",
        "gpu-h200x1-141gb",
        344,
        "H200",
        1,
        141,
        "sxm5",
        [_entry("nyc2", name="US, New York")],
        size=(240, 720, 24),
    ),
    _offer(
        "nebius",
        "H200x8",
        "gpu-h200-sxm_8gpu-128vcpu-1600gb",
        2800,
        "H200",
        8,
        141,
        "sxm5",
        [_entry("eu-north1"), _entry("us-central-1", True, "spot", dollars="15.20")],
        size=(1600, 1000, 128),
        nvlink=True,
        images=(CUDA_12_8, CUDA_13_0),
    ),
    _offer(
        "lambdalabs",
        "GH200",
        "gpu_1x_gh200",
        149,
        "GH200",
        1,
        96,
        "pcie",
        [_entry("us-east-3")],
        size=(432, 4000, 64),
    ),
    # A100: 40 and 80 GB; crusoe's are SXM, whatever their interconnect says.
    _offer(
        "hyperstack",
        "A100_80G",
        "n3-A100x1",
        135,
        "A100_80G",
        1,
        80,
        "pcie",
        [_entry("montreal-canada-2", name="CA, Montreal")],
        size=(120, 850, 28),
        nvlink=False,
    ),
    _offer(
        "denvr",
        "A100_sxm4_80G",
        "A100_80GB_SXM_1x",
        150,
        "A100_80G",
        1,
        80,
        "sxm4",
        [_entry("houston-usa-1")],
        size=(115, 1700, 14),
        images=(CUDA_12_6,),
    ),
    _offer(
        "latitude",
        "A100_80Gx2",
        "g3-a100-medium",
        260,
        "A100_80G",
        2,
        80,
        "pcie",
        [_entry("dallas-usa-2")],
        size=(250, 1900, 32),
        images=(PLAIN,),
    ),
    _offer(
        "crusoe",
        "A100_80G_sxm4x8",
        "a100-80gb-sxm-ib.8x",
        1840,
        "A100_80G",
        8,
        80,
        "pcie",
        [_entry("us-east1-a"), _entry("us-southcentral1-a", False)],
        size=(960, 7600, 96),
        boot=None,
    ),
    _offer(
        "lambdalabs",
        "A100x8",
        "gpu_8x_a100",
        1032,
        "A100",
        8,
        40,
        "sxm4",
        [_entry("us-east-1", False)],
        size=(1800, 5800, 124),
        nvlink=True,
    ),
    # Not for this work: too small, too slow to boot, another maker, no GPU.
    _offer(
        "massedcompute",
        "L40S",
        "gpu_1x_l40s",
        88,
        "L40S",
        1,
        48,
        "pcie",
        [_entry("wilmington-usa-1")],
        size=(128, 625, 26),
        boot={"min_boot_in_sec": 1200, "max_boot_in_sec": 3600},
    ),
    _offer(
        "massedcompute",
        "A6000",
        "gpu_1x_a6000",
        57,
        "A6000",
        1,
        48,
        "pcie",
        [_entry("desmoines-usa-1")],
        size=(48, 256, 6),
        images=(CUDA_12_8, PLAIN),
    ),
    _offer(
        "hotaisle",
        "MI300X",
        "1x-mi300x",
        199,
        "MI300X",
        1,
        192,
        "",
        [_entry("us-michigan-1")],
        size=(224, 12000, 13),
        images=(PLAIN,),
        maker="amd",
        copies=False,
    ),
    _offer(
        "digitalocean",
        "cpu_small",
        "s-2vcpu-4gb",
        4,
        "CPU",
        0,
        0,
        "",
        [_entry("nyc2")],
        size=(4, 80, 2),
        images=(PLAIN,),
        maker="",
    ),
]


def select(catalogue: list[Offer], query: Mapping[str, str]) -> list[Offer]:
    """The types that `query` asks for, as copies: exact filters, region and available filter the entries."""
    chosen = []
    for row in deepcopy([row for row in catalogue if _type_fits(row, query)]):
        row["availability"] = [e for e in row["availability"] if _entry_fits(e, query)]
        if row["availability"] or not {"region", "available"} & query.keys():
            chosen.append(row)
    return (
        sorted(chosen, key=lambda row: row["hourly_price"])
        if query.get("sort") == "price"
        else chosen
    )


def _type_fits(row: Offer, query: Mapping[str, str]) -> bool:
    flat = row["configuration"] | {k: row[k] for k in ("cloud", "shade_instance_type")}
    return all(
        str(flat[k]) == query[k]
        for k in ("cloud", "shade_instance_type", "num_gpus", "gpu_type")
        if k in query
    )


def _entry_fits(entry: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    wanted = query.get("available", "").lower()  # "True" is in use too
    return entry["region"] == query.get("region", entry["region"]) and wanted in (
        "",
        str(entry["available"]).lower(),
    )


def find(catalogue: list[Offer], cloud: str, kind: str) -> Offer | None:
    """The type of that cloud and shade_instance_type, or None."""
    return next(
        (r for r in catalogue if (r["cloud"], r["shade_instance_type"]) == (cloud, kind)), None
    )


def entry_for(offer: Offer, region: str, rental: str) -> dict[str, Any] | None:
    """The availability entry of a region and rental type (absent counts as on_demand), or None."""
    return next(
        (
            e
            for e in offer["availability"]
            if (e["region"], e.get("rental_type", "on_demand")) == (region, rental)
        ),
        None,
    )
