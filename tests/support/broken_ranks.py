"""`nanolan.train.probe` with a rank that fails, as a module for torchrun: NANOLAN_FAILS is "hang 1", "crash 0", "kill 1" or "wrong 1"."""

from __future__ import annotations

import os
import signal
import sys
import time

from nanolan.train.probe.__main__ import main


def fail(how: str) -> None:
    """What a broken GPU does to its rank."""
    if how == "hang":
        time.sleep(600)
    if how == "crash":
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "wrong":
        os.environ["RANK"] = "0"  # two ranks of that number never meet


if __name__ == "__main__":
    how, rank = os.environ.get("NANOLAN_FAILS", "none -1").split()
    if os.environ["RANK"] == rank:
        fail(how)
    sys.exit(main(sys.argv[1:]))
