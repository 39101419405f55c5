"""The software and hardware of a run: Python, packages, driver, GPUs; written by the box into the run folder."""

from __future__ import annotations

import msgspec

from nanolan.plan import UNREADABLE


class Environment(msgspec.Struct, frozen=True):
    """environment.json."""

    python: str
    system: str
    cpus: int | None
    packages: dict[str, str]
    driver: str = ""
    gpus: tuple[str, ...] = ()


def read_environment(data: bytes) -> Environment | None:
    """Decode an environment.json; None if it is unreadable."""
    try:
        return msgspec.json.decode(data, type=Environment)
    except UNREADABLE:
        return None
