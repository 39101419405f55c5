"""Python with torch loaded, that forks the ranks of every job named on stdin, so that a script costs no start.

A line in is a job as JSON: module, options, cwd, env, out (a file for stdout and stderr), ranks (null: without torchrun's
variables). A line out is the list of the ranks' exit codes; when one fails, the others are killed.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from typing import Any

import pyarrow.parquet  # noqa: F401
import tiktoken  # noqa: F401
import torch  # noqa: F401


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def ranks_of(job: dict[str, Any]) -> list[dict[str, str]]:
    """The variables that torchrun would set, per rank."""
    if job["ranks"] is None:
        return [{}]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(job["ranks"]),
    }
    return [shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(job["ranks"])]


def start(job: dict[str, Any], variables: dict[str, str]) -> int:
    """The pid of a rank."""
    if pid := os.fork():
        return pid
    out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"] | variables)
    sys.path[0] = job["cwd"]
    sys.argv = [job["module"], *job["options"]]
    code = run(job["module"])
    sys.stdout.flush()
    os._exit(code)


def run(module: str) -> int:
    """Run a module as the main program; its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait(pids: list[int]) -> list[int]:
    """The exit codes in the order of the pids."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] > 0:
            for other in set(pids) - codes.keys():
                os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    for line in sys.stdin:
        job = json.loads(line)
        pids = [start(job, variables) for variables in ranks_of(job)]
        print(json.dumps(wait(pids)), flush=True)
