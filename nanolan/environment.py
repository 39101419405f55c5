"""What a run was made with: Python, packages, driver, GPUs; read on the machine, kept in its run folder."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from nanolan.gpus import query_gpus
from nanolan.plan import UNREADABLE

PACKAGES = (
    "torch",
    "numpy",
    "tiktoken",
    "pyarrow",
    "safetensors",
    "huggingface_hub",
    "msgspec",
    "wandb",
)


class Environment(msgspec.Struct, frozen=True):
    """environment.json."""

    python: str
    system: str
    cpus: int | None
    packages: dict[str, str]
    driver: str = ""
    gpus: tuple[str, ...] = ()


@cache
def environment_here() -> Environment:
    """This machine's, asked once; what it does not tell is left out."""
    drivers = query_gpus("driver_version")
    return Environment(
        platform.python_version(),
        platform.platform(),
        os.cpu_count(),
        _packages(),
        drivers[0].strip() if drivers else "",
        tuple(name.strip() for name in query_gpus("name")),
    )


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_environment(data: bytes) -> Environment | None:
    """An environment.json; None for one that cannot be read."""
    try:
        return msgspec.json.decode(data, type=Environment)
    except UNREADABLE:
        return None
