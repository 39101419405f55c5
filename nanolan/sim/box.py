"""A rented instance as real processes on this computer, in its own folder.

The startup script runs as the provider runs it: from cwd /, with almost no environment, no stdin. Every process
of a box has NANOLAN_BOX=<id> in its environment; a box is killed by this marker, since torchrun's
workers leave the process group and the session. A `Guard` process ends the boxes if this process dies, even by kill -9.

Limits: a process that clears its environment *and* leaves its parents is not found; where the system hides the
environment of its own programs (macOS: /bin/bash), these are found as descendants of the script only.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import psutil

from nanolan.sim.nvidia_smi import Gpus, nvidia_smi

MARK = "NANOLAN_BOX"
HOST_PROPERTIES = re.compile(r"PIP_\w+|UV|UV_\w+|SSL_\w+")  # the host's package sources
RESTARTS = 5
RESTART_S = 1.0
RESCAN_S = 0.02
KILL_GIVE_UP_S = 30.0


def box_environment(box_id: str, folder: Path, host: Mapping[str, str]) -> dict[str, str]:
    """The environment of a startup script: the documented names, and the package settings of the host."""
    kept = {k: v for k, v in host.items() if HOST_PROPERTIES.fullmatch(k)}
    return kept | {"PATH": "/usr/bin:/bin", "BOX_ROOT": str(folder), MARK: box_id}


def marked(box_ids: Collection[str]) -> list[psutil.Process]:
    """The living processes of this user with the marker of one of these boxes."""
    found = []
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            if process.uids().real == os.getuid() and process.environ().get(MARK) in box_ids:
                found.append(process)
        except psutil.Error:
            continue  # ended, a zombie, or not readable: not a process of a box
    return found


def kill_until_none(find: Callable[[], list[psutil.Process]]) -> None:
    """SIGKILL the processes of `find` until it finds none twice in a row; RuntimeError if they survive."""
    give_up = time.monotonic() + KILL_GIVE_UP_S
    empty = 0
    while empty < 2:  # twice: a process during fork or exec can be missed once
        alive = find()
        empty = 0 if alive else empty + 1
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass  # already ended
        if alive and time.monotonic() > give_up:
            raise RuntimeError(f"processes of a box do not die: {[p.pid for p in alive]}")
        time.sleep(RESCAN_S)


class Machine:
    """One box. `start` runs its script, `kill` ends all its processes for good; the folder stays for the logs."""

    def __init__(
        self,
        box_id: str,
        folder: Path,
        script: bytes,
        gpus: Gpus | None = None,
        *,
        restarts: int = RESTARTS,
        restart_s: float = RESTART_S,
        host: Mapping[str, str] = os.environ,
        before: Sequence[str] = (),
    ) -> None:
        self.box_id, self.folder, self.restarts, self.restart_s = (
            box_id,
            folder,
            restarts,
            restart_s,
        )
        self.before = before  # prefix of the command that runs the script
        self.console = folder / "console.log"
        self.exit_codes: list[int] = []  # one per end of the script; negative: a signal
        self._environment = box_environment(box_id, folder, host)
        self._script = folder / "init-script"
        self._lock, self._off = threading.Lock(), threading.Event()
        self._main: psutil.Process | None = None
        self._thread: threading.Thread | None = None
        _write(self._script, script, 0o700)  # the script holds secrets
        if gpus is not None:
            _write(folder / "usr/bin/nvidia-smi", nvidia_smi(gpus, box_id).encode(), 0o755)

    @property
    def on(self) -> bool:
        """Whether the box is switched on; its script may have ended."""
        return self._thread is not None and not self._off.is_set()

    @property
    def pid(self) -> int | None:
        """The process id of the script, the newest one if it was restarted."""
        return self._main.pid if self._main else None

    def block(self, path: str) -> None:
        """Put a file where a folder should be, so that not even root can write there."""
        _write(self.folder / path, b"", 0o600)

    def limit_file_size(self, most: int = 0) -> None:
        """Stop files of the box from growing beyond `most` bytes: a full disk without mounting one."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                process.rlimit(psutil.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def start(self) -> None:
        """Run the script, and restart it after each failure, at most `restarts` times."""
        self._off.clear()
        self._thread = threading.Thread(
            target=self._supervise, name=f"box {self.box_id}", daemon=True
        )
        self._thread.start()

    def kill(self) -> None:
        """Kill every process of the box; nothing restarts."""
        with self._lock:  # waits for a start in progress
            self._off.set()
        kill_until_none(self.processes)
        if self._thread:
            self._thread.join(KILL_GIVE_UP_S)

    def reboot(self) -> None:
        """Kill every process, then run the script again with a new restart count."""
        self.kill()
        self.start()

    def processes(self) -> list[psutil.Process]:
        """Every living process of the box: those with its marker and the descendants of its script."""
        found = {p.pid: p for p in marked({self.box_id})}
        return [*found.values(), *(p for p in self._family() if p.pid not in found)]

    def _family(self) -> list[psutil.Process]:
        try:
            family = [self._main, *self._main.children(recursive=True)] if self._main else []
            return [p for p in family if p.status() != psutil.STATUS_ZOMBIE]
        except psutil.Error:
            return []  # it ended meanwhile; the marker still finds its children

    def _supervise(self) -> None:
        for _ in range(1 + self.restarts):
            main = self._run()
            if main is None:
                return
            self.exit_codes.append(main.wait())
            # Children of the ended script stay alive, unlike under systemd, so nothing may rely on their end.
            if self.exit_codes[-1] == 0 or self._off.wait(self.restart_s):
                return

    def _run(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._off.is_set():
                return None
            with self.console.open("ab") as log:
                main = subprocess.Popen(
                    [*self.before, "/bin/bash", self._script],
                    env=self._environment,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._main = psutil.Process(
                main.pid
            )  # includes the start time: a reused pid is not mistaken for it
            return main


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode)
    path.write_bytes(data)


class Guard:
    """A process in its own session that kills the watched boxes when this process ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from nanolan.sim.box import guard; guard()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
        )  # so that Ctrl-C does not reach it

    def watch(self, box_id: str) -> None:
        """Also kill this box; call before it starts."""
        if self._process.stdin:
            self._process.stdin.write(f"{box_id}\n".encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """Let it kill the remaining boxes, if any, and wait for its end."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(KILL_GIVE_UP_S)


def guard() -> None:
    """The guard's main: read box ids until the pipe closes, then kill their processes."""
    box_ids = set(sys.stdin.read().split())
    kill_until_none(lambda: marked(box_ids))
