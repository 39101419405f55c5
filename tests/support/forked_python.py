"""An interpreter that needs no time for imports: a process that has done them forks for every program.

`ForkedPython(folder, modules).path` is a program that takes an interpreter's words, passes signals on and ends as its program
does. torchrun is run by the real interpreter, with this one for its ranks. `start` starts a program without one between: its pid is
the program's own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
# What a trainer imports
TRAINER = ("pyarrow.parquet", "tiktoken", "torch")
# What the commands of the laptop and the box program import, huggingface_hub above all; nothing of nanolan, which may read its environment then
LAPTOP = (
    "click",
    "huggingface_hub.hf_api",
    "huggingface_hub.utils",
    "huggingface_hub.repocard",
    "msgspec.json",
    "psutil",
    "requests",
    "rich.live",
    "rich.progress",
    "rich.table",
)
# Modules that they start, and that are forked, too; any other is run by the real interpreter
CHILDREN = ("nanolan.hub.transfer", "nanolan.report")
UTF8 = re.compile(r"^(C|POSIX|)$|UTF-?8$", re.IGNORECASE)  # Python takes C as UTF-8, too
POLL_S = 0.02
Job = tuple[list[str], str, dict[str, str]]  # an interpreter's words, folder, environment
SHIM = """#!{python} -S
import array, json, os, signal, socket, sys
words = sys.argv[1:]
if words[:2] == ["-m", "torch.distributed.run"]:
    os.environ["PYTHON_EXEC"] = {path!r}
    os.execv({python!r}, [{python!r}, *words])
if {children!r} and words[0][0] == "-" and not (words[0] == "-m" and words[1] in {children!r}):
    os.execv({python!r}, [{python!r}, *words])
s = socket.socket(socket.AF_UNIX)
s.connect({socket!r})
job = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
s.sendmsg([len(job).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
s.sendall(job)
pid = int.from_bytes(s.recv(8), "big")
for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(n, lambda n, frame: os.kill(pid, n))
end = json.loads(s.recv(64) or "1")
if end < 0:
    signal.signal(-end, signal.SIG_DFL) if -end != 9 else None
    os.kill(os.getpid(), -end)
os._exit(end)
"""


class Program:
    """A program that runs; killed when this is no longer held."""

    def __init__(self, address: str, job: Job, out: Path) -> None:
        self._code: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        with open(os.devnull) as nothing, open(out, "ab") as log:
            data = json.dumps(job).encode()
            fds = [nothing.fileno(), log.fileno(), log.fileno()]
            socket.send_fds(self._socket, [len(data).to_bytes(8, "big")], fds)
        self._socket.sendall(data)
        self.pid = int.from_bytes(self._socket.recv(8), "big")  # sent at once, so it comes whole

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.wait(0) is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, limit_s: float = 60) -> int | None:
        """The exit code, -signal for a signal; None if it still runs after `limit_s`."""
        if self._code is None and select.select([self._socket], [], [], limit_s)[0]:
            with self._socket:
                self._code = int(self._socket.recv(64))
        return self._code


class ForkedPython:
    """Starts the process that forks; ends it, and every program that runs, when it is left."""

    def __init__(self, folder: Path, modules: tuple[str, ...]) -> None:
        self.path = folder / "python"
        self._address = str(folder / "s")
        self.path.write_text(
            SHIM.format(
                python=sys.executable,
                path=str(self.path),
                socket=self._address,
                children=CHILDREN if modules == LAPTOP else (),
            )
        )
        self.path.chmod(0o755)
        beside = Path(sys.executable).parent
        for tool in beside.iterdir():  # such as hf: a command looks for it beside its interpreter
            if not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._address, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> ForkedPython:
        assert self._process.stdout and self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.communicate()

    def start(self, words: list[str], cwd: Path, env: Mapping[str, str], out: Path) -> Program:
        """Start the program that an interpreter would run for these words; it writes to `out`."""
        return Program(self._address, (words, str(cwd), dict(env)), out)

    def ranks(
        self, number: int, words: list[str], cwd: Path, env: Mapping[str, str], out: Path
    ) -> list[Program]:
        """Start a program once per rank, with the variables that torchrun sets."""
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(number),
        }
        places = [shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(number)]
        return [self.start(words, cwd, {**env, **place}, out) for place in places]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


OPENED = ExitStack()  # closed when the tests end


@functools.cache
def forked(modules: tuple[str, ...]) -> ForkedPython:
    """The one of this process's tests with these modules."""
    # not in the tests' own tmp: the path of a socket has to be short
    folder = OPENED.enter_context(tempfile.TemporaryDirectory(prefix="forked-"))
    return OPENED.enter_context(ForkedPython(Path(folder), modules))


def forkable(environment: Mapping[str, str]) -> bool:
    """Whether nothing in this environment has to be known when an interpreter starts: no other than UTF-8, no PYTHON*."""
    languages = [v for n, v in environment.items() if n.startswith(("LANG", "LC_"))]
    python = [v for n, v in environment.items() if n.startswith("PYTHON")]
    return not any(python) and all(UTF8.search(v) for v in languages)


def receive(connection: socket.socket) -> tuple[Job, list[int]]:
    """A job and the descriptors of its input and output."""
    size, fds, *_ = socket.recv_fds(connection, 8, 3)
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        data += connection.recv(1 << 16)
    return json.loads(data), fds


def serve(address: str) -> tuple[Job, list[int]] | None:
    """Answer until stdin is closed; returns in a child that is to become a program."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(20)
    print("ready", flush=True)
    running: dict[int, socket.socket] = {}
    while True:
        wait_s = POLL_S if running else None
        ready = select.select([server, sys.stdin, *running.values()], [], [], wait_s)[0]
        if sys.stdin in ready:
            break
        if server in ready:
            connection, _ = server.accept()
            job, fds = receive(connection)
            if not (pid := os.fork()):
                return job, fds
            for fd in fds:
                os.close(fd)
            running[pid] = connection
            connection.sendall(pid.to_bytes(8, "big"))
        for pid, connection in list(running.items()):
            if connection in ready:  # closed: its client was killed
                os.kill(pid, signal.SIGKILL)
            answer_end(pid, running)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def answer_end(pid: int, running: dict[int, socket.socket]) -> None:
    """Tell the client the exit code of a program that has ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        return
    connection = running.pop(pid)
    try:
        connection.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    except OSError:
        pass  # it was killed
    connection.close()


def become(words: list[str], cwd: str, environment: dict[str, str], fds: list[int]) -> int:
    """Run a program as an interpreter would; its exit code."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    read_environment()
    words = [w for w in words if w != "-u"]
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], cwd
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def read_environment() -> None:
    """What was read from the environment while importing is read again."""
    time.tzset()
    tempfile.tempdir = None
    if constants := sys.modules.get("huggingface_hub.constants"):
        importlib.reload(constants)
        bars = sys.modules["huggingface_hub.utils.tqdm"]
        bars.HF_HUB_DISABLE_PROGRESS_BARS = constants.HF_HUB_DISABLE_PROGRESS_BARS  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.path[0] = ROOT
    for module in sys.argv[2:]:
        importlib.import_module(module)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    gc.freeze()  # else the first collection in a child copies the memory of all modules
    if job := serve(sys.argv[1]):
        if "torch" not in sys.modules:  # what a command or the box starts forks, too
            sys.executable = str(Path(sys.argv[1]).with_name("python"))
        code = become(*job[0], job[1])
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
