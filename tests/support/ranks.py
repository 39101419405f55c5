"""Ranks by fork: `python -m tests.support.ranks N MODULE:FUNCTION ARGUMENT...` calls FUNCTION(world, ARGUMENT...) in N processes over
gloo; exit code 0 if all of them end well. Imports torch once."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import traceback

import torch

from nanolan.train.processes import join_world
from tests.support.tiny_world import REPO


def run_ranks(size: int, function: str, *arguments: object) -> str:
    """What the ranks print; AssertionError unless all end well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ranks", str(size), function, *map(str, arguments)],
        cwd=REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def rank_main(rank: int, size: int, port: int, function: str, arguments: list[str]) -> int:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(join_world("cpu"), *arguments)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    n, called, *given = sys.argv[1:]
    importlib.import_module(called.partition(":")[0])
    pids = []
    for number in range(int(n)):
        if not (pid := os.fork()):
            code = rank_main(number, int(n), free, called, given)
            sys.stdout.flush()
            os._exit(code)
        pids.append(pid)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids))
