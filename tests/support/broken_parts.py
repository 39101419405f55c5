"""`nanolan.gpu_check` with parts that fail, as a module of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from nanolan.errors import RunFailed
from nanolan.gpu_check.__main__ import main
from nanolan.gpu_check.machine import Machine
from nanolan.gpu_check.parts import PartKind


def hang(machine: Machine) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    time.sleep(600)
    return {}


def crash(machine: Machine) -> dict[str, Any]:
    raise ZeroDivisionError("a bug")


def killed(machine: Machine) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refused(machine: Machine) -> dict[str, Any]:
    print("noise")
    raise RunFailed("the GPUs do not agree")


def good(machine: Machine) -> dict[str, Any]:
    return {"limit_s": machine.limit_s, "list": [1, 2]}


PARTS = {
    name: PartKind(name, 15.0 if name != "hang" else 10.0, measure)
    for name, measure in {
        "good": good,
        "hang": hang,
        "crash": crash,
        "killed": killed,
        "refused": refused,
        "last": good,
    }.items()
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], PARTS))
