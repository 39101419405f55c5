"""Actions on the boxes, for the rows in nanolan/sim/scenarios.py."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from nanolan.sim.scenarios_cloud import Act
from nanolan.sim.scenarios_hub import DOWN_S

if TYPE_CHECKING:
    from nanolan.sim.box import Machine
    from nanolan.sim.world import World

KILL, PAUSE = signal.SIGKILL, signal.SIGSTOP


def box(world: World) -> Machine:
    """The newest box that is switched on."""
    return next(i.machine for i in reversed(world.cloud.instances) if i.machine and i.machine.on)


def processes(world: World, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The living processes of the box for which `wanted` holds; skips those that end meanwhile."""
    found = []
    for p in box(world).processes():
        try:
            if wanted(p):
                found.append(p)
        except (psutil.Error, OSError):
            continue
    return found


def is_rank(p: psutil.Process) -> bool:
    return "LOCAL_RANK" in p.environ() and any(
        word == "nanolan.train" or word.endswith("inside/keeper.py") for word in p.cmdline()
    )


def is_torchrun(p: psutil.Process) -> bool:
    return "torch.distributed.run" in p.cmdline()


def is_box_program(p: psutil.Process) -> bool:
    return any(word.endswith("cloud/train.py") for word in p.cmdline())


def send(number: signal.Signals, wanted: Callable[[psutil.Process], bool]) -> Act:
    """Send the signal to one such process."""

    def act(world: World) -> None:
        for p in processes(world, wanted)[:1]:
            p.send_signal(number)

    return act


def reboot(world: World) -> None:
    """Kill every process at once, then run boot.sh again."""
    box(world).reboot()


def disk_full(world: World) -> None:
    """Let every write of the box fail, as on a full disk."""
    box(world).limit_file_size()


def no_process(world: World) -> None:
    """Keep the box from starting Python for a while, as without memory for another process."""
    python = box(world).folder / "nanolan/code/.venv/bin/python"
    aside = python.with_name("python.aside")
    python.rename(aside)
    timer = threading.Timer(DOWN_S, aside.rename, [python])
    timer.daemon = True
    timer.start()
