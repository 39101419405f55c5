"""The fake nvidia-smi of a local box: a /bin/sh script that prints fixed rows, one per GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# gpu_type (and interconnect, where the card differs) -> name, memory in MiB, compute capability
CARDS: dict[str, tuple[str, int, str]] = {
    "B300": ("NVIDIA B300 SXM6 AC", 275040, "10.3"),
    "B200": ("NVIDIA B200", 183359, "10.0"),
    "GH200": ("NVIDIA GH200 480GB", 97871, "9.0"),
    "H200": ("NVIDIA H200", 143771, "9.0"),
    "H100": ("NVIDIA H100 80GB HBM3", 81559, "9.0"),
    "H100 pcie": ("NVIDIA H100 PCIe", 81559, "9.0"),
    "H100_nvl": ("NVIDIA H100 NVL", 95830, "9.0"),
    "A100": ("NVIDIA A100-SXM4-40GB", 40960, "8.0"),
    "A100_80G": ("NVIDIA A100-SXM4-80GB", 81920, "8.0"),
    "A100_80G pcie": ("NVIDIA A100 80GB PCIe", 81920, "8.0"),
    "L40S": ("NVIDIA L40S", 46068, "8.9"),
    "A6000": ("NVIDIA RTX A6000", 49140, "8.6"),
}
# CUDA version in the image name -> the driver of such images
DRIVERS = {
    "cuda12.2": "535.183.06",
    "cuda12.4": "550.163.01",
    "cuda12.6": "560.35.05",
    "cuda12.8": "570.195.03",
    "cuda13.0": "580.95.05",
}

SCRIPT = r"""#!/bin/sh
# A stand-in for nvidia-smi: this machine is a simulated one with @COUNT@ x @NAME@.
count=@COUNT@ name='@NAME@' memory=@MEMORY@ driver=@DRIVER@ capability=@CAPABILITY@ box='@BOX@'

if [ "$count" -eq 0 ]; then echo "No devices were found"; exit 6; fi

query= unit=' MiB' percent=' %' header=yes
for word in "$@"; do
    case $word in
        -L | --list-gpus) query=list ;;
        --query-gpu=*) query=${word#*=} ;;
        --query-compute-apps=*) exit 0 ;;
        --format=*)
            case ,${word#*=}, in *,nounits,*) unit= percent= ;; esac
            case ,${word#*=}, in *,noheader,*) header= ;; esac ;;
        *) echo "this stand-in for nvidia-smi does not know $word" >&2; exit 2 ;;
    esac
done

uuid() { printf 'GPU-%s-%012d' "$box" "$1"; }

cell() {   # field, GPU number
    case $1 in
        index) printf '%s' "$2" ;;
        name | gpu_name) printf '%s' "$name" ;;
        uuid | gpu_uuid) uuid "$2" ;;
        count) printf '%s' "$count" ;;
        driver_version) printf '%s' "$driver" ;;
        compute_cap) printf '%s' "$capability" ;;
        memory.total | memory.free) printf '%s' "$memory$unit" ;;
        memory.used) printf '%s' "0$unit" ;;
        utilization.gpu) printf '%s' "0$percent" ;;
        *) return 1 ;;
    esac
}

if [ -z "$query" ]; then echo "NVIDIA-SMI $driver  $count x $name"; exit 0; fi
if [ "$query" = list ]; then
    i=0
    while [ "$i" -lt "$count" ]; do echo "GPU $i: $name (UUID: $(uuid "$i"))"; i=$((i + 1)); done
    exit 0
fi

fields=$(printf '%s' "$query" | tr ',' ' ')
for field in $fields; do
    cell "$field" 0 >/dev/null || { echo "Field \"$field\" is not a valid field to query."; exit 2; }
done
if [ -n "$header" ]; then printf '%s' "$query" | sed 's/, */, /g'; echo; fi
i=0
while [ "$i" -lt "$count" ]; do
    row=
    for field in $fields; do row="$row${row:+, }$(cell "$field" "$i")"; done
    echo "$row"
    i=$((i + 1))
done
"""


@dataclass(frozen=True)
class Gpus:
    """What nvidia-smi shows on a box; `memory_mib` is of one GPU."""

    count: int
    name: str
    memory_mib: int
    capability: str
    driver: str


def gpus_of(configuration: Mapping[str, Any], image: str, count: int | None = None) -> Gpus | None:
    """The GPUs of a machine type under an image; None if there is no nvidia-smi (no NVIDIA card, a plain image)."""
    driver = next((d for cuda, d in DRIVERS.items() if cuda in image), None)
    if configuration["gpu_manufacturer"] != "nvidia" or driver is None:
        return None
    kind = configuration["gpu_type"]
    guess = (f"NVIDIA {kind}", configuration["vram_per_gpu_in_gb"] * 1000, "8.0")
    name, memory, capability = (
        CARDS.get(f"{kind} {configuration['interconnect']}") or CARDS.get(kind) or guess
    )
    return Gpus(
        configuration["num_gpus"] if count is None else count, name, memory, capability, driver
    )


def nvidia_smi(gpus: Gpus, box_id: str) -> str:
    """The script for a box."""
    values = {
        "COUNT": gpus.count,
        "NAME": gpus.name,
        "MEMORY": gpus.memory_mib,
        "DRIVER": gpus.driver,
        "CAPABILITY": gpus.capability,
        "BOX": box_id[:23],
    }
    text = SCRIPT
    for word, value in values.items():
        text = text.replace(f"@{word}@", str(value))
    return text
