"""`nanolan.train` with a second rank that fails after three steps, as a module for torchrun: NANOLAN_FAILS is memory, error or kill."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from nanolan.errors import RunFailed
from nanolan.files import Log
from nanolan.train.__main__ import main


def fail(number: int, frame: FrameType | None) -> None:
    """What the main thread does at SIGUSR2, wherever it is."""
    how = os.environ["NANOLAN_FAILS"]
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        raise RunFailed("CUDA is out of memory at 1 row(s) a micro-batch")
    raise ZeroDivisionError("of rank 1")


def after_three_steps(metrics: Path) -> None:
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 3:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGUSR2)


if __name__ == "__main__":
    sys.stdout, sys.stderr = Log(1), Log(2)
    if os.environ["RANK"] == "1":
        metrics = Path(json.loads(Path(sys.argv[1]).read_bytes())["metrics"])
        signal.signal(signal.SIGUSR2, fail)
        threading.Thread(target=after_three_steps, args=(metrics,), daemon=True).start()
    sys.exit(main(sys.argv[1:]))
