"""Starts Python programs that need torch in 20 ms each: a process that has imported it forks for every start.

One request a line on stdin, one answer a line on stdout. `start` names a program, its words, folder, environment
and output file; `wait` waits for its exit code. Run as a program; `Starter` is its client.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Starter:
    """The client's side; kills at its end whatever it started."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *problem: object) -> None:
        self._server.communicate()

    def ask(self, **request: Any) -> Any:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, words: list[str], cwd: Path, out: Path, **env: str) -> int:
        return self.ask(do="start", words=words, cwd=str(cwd), out=str(out), env=env)

    def wait(self, pid: int, limit_s: float = 15) -> int | None:
        """The exit code; None if it still runs after `limit_s`."""
        return self.ask(do="wait", pid=pid, limit_s=limit_s)


def _wait(pid: int, limit_s: float) -> int | None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def serve() -> dict[str, Any]:
    """Answer requests; returns in a child that is to become a program."""
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            if (answer := os.fork()) == 0:
                return request
            running.add(answer)
        elif (answer := _wait(request["pid"], request["limit_s"])) is not None:
            running.discard(request["pid"])
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def become(request: dict[str, Any]) -> str:
    """Set up this process for a program; returns its path."""
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    out = os.open(request["out"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = request["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    return sys.argv[0]


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    runpy.run_path(become(serve()), run_name="__main__")
