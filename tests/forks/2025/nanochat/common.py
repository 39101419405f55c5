"""Folders, device, process group, output. Kept: RANK alone means distributed, print0 does not flush, logs are coloured."""

import logging
import os
from pathlib import Path

import torch
import torch.distributed as dist

COLOURS = {"INFO": "\033[32m", "WARNING": "\033[33m", "ERROR": "\033[31m"}
RESET, BOLD = "\033[0m", "\033[1m"
PEAK_FLOPS = 989e12  # of every GPU


class Coloured(logging.Formatter):
    """Log lines with ANSI colours, also when stderr is a file."""

    def format(self, record):
        level = f"{COLOURS.get(record.levelname, '')}{BOLD}{record.levelname}{RESET}"
        return f"{self.formatTime(record)} - {record.name} - {level} - {record.getMessage()}"


handler = logging.StreamHandler()
handler.setFormatter(Coloured())
logging.basicConfig(level=logging.INFO, handlers=[handler])
logger = logging.getLogger(__name__)


def get_base_dir():
    """The folder of all artifacts, made when missing."""
    base = Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat")
    base.mkdir(parents=True, exist_ok=True)
    return base


def print0(text="", **kwargs):
    """Print on rank 0."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(text, **kwargs)


def get_dist_info():
    """(distributed, rank, local rank, world size) as torchrun sets them."""
    if "RANK" not in os.environ:
        return False, 0, 0, 1
    rank, local_rank, world = (int(os.environ[k]) for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return True, rank, local_rank, world


def autodetect_device_type():
    """cuda where there is a GPU, else cpu."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    print0(f"Autodetected device type: {found}")
    return found


def compute_init(device_type="cuda"):
    """Seed, choose the device and start the process group: nccl on CUDA, gloo on the CPU."""
    assert device_type in ("cuda", "cpu"), f"unknown device type {device_type!r}"
    assert device_type == "cpu" or torch.cuda.is_available(), "CUDA is asked for, not available"
    torch.manual_seed(42)
    distributed, rank, local_rank, world = get_dist_info()
    device = torch.device(device_type)
    if device_type == "cuda":
        torch.cuda.manual_seed(42)
        torch.set_float32_matmul_precision("high")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if distributed:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    if rank == 0:
        logger.info(f"Distributed world size: {world}")
    return distributed, rank, local_rank, world, device


def compute_cleanup():
    """End the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values, device):
    """The sums over all ranks of a list of numbers."""
    total = torch.tensor(values, dtype=torch.float64 if device.type == "cpu" else torch.float32)
    total = total.to(device)
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.tolist()


def peak_mib():
    """The most GPU memory that was in use, 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
