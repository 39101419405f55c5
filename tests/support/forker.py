"""Trainers by fork: imports once, then starts the ranks of every job named on stdin, so that a run costs no start.

For each line "N JOB.json": prints the pids of N processes that train it, writing to out.txt beside the job; at the
next line (empty) waits for their ends and prints how they ended.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch

from nanolan.train.__main__ import main


def fork(job: Path, rank: int, size: int, port: int) -> int:
    """A rank in a process of its own; its pid."""
    if pid := os.fork():
        return pid
    out = os.open(job.with_name("out.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os._exit(main([str(job)]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        size, _, path = line.strip().partition(" ")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        pids = [fork(Path(path), rank, int(size), port) for rank in range(int(size))]
        print(*pids, flush=True)
        sys.stdin.readline()
        print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)
