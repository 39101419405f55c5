"""Prepares a foreign trainer: fetches its code, installs it, and tries it before it trains.

All of it happens in the trainer's folder, as the trainer's user: installing a checkout runs its code. The trial loads the input
checkpoint with the fork's own loader, so that a checkpoint of another generation ends the run in seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanolan.box.context import BoxRun, RunStopped, say
from nanolan.box.phase import init_dir
from nanolan.box.phase_runner import MARK, trainer_environment
from nanolan.box.sandbox import chown_tree, trainer_folder
from nanolan.errors import BadAnswer, NanolanError
from nanolan.files import read_regular, write_atomic
from nanolan.hub.download import fetch
from nanolan.plan import Fork, Pinned, PinnedFile
from nanolan.trainers.adapter.base_folder import lay_out, remove
from nanolan.trainers.fork_job import FORK_BUNDLE, python_of
from nanolan.trainers.source import pyproject_of

TRIAL = Path(__file__).parents[1] / "trainers" / "inside" / "trial.py"
INSTALL_S = 1800.0
TRIAL_S = 900.0
GIT_S = 600.0
REST_S = 5.0  # for the output that is left when a command has ended
PROBLEM = re.compile(r"\s*(error|fatal): |\s*\N{MULTIPLICATION SIGN} ")
REF = "refs/nanolan/fork/nanolan"  # in the bundle
POLL_S = 0.5
# Folder of checkpoints -> what nanochat's loader calls it
SOURCES = {
    "base_checkpoints": "base",
    "mid_checkpoints": "mid",
    "chatsft_checkpoints": "sft",
    "chatrl_checkpoints": "rl",
}


def prepare_fork(box: BoxRun, fork: Fork) -> None:
    """Fetch, install and try the fork; RunStopped says what does not work."""
    folder = trainer_folder(box.work)
    checkout = folder / "fork"
    fetch_fork(box, fork, checkout)
    if not fork.python:
        _install(box, checkout, folder / "fork-ready")
    _try(box, fork)


def fetch_fork(box: BoxRun, fork: Fork, checkout: Path) -> None:
    """The fork's files from the bundle in the run folder, which is checked by its hash."""
    ready = checkout.with_name("fork-code")
    if not fork.code or _read(ready) == fork.code.sha256:
        return
    path = f"{box.plan.folder}/{FORK_BUNDLE}"
    pinned = Pinned(
        box.plan.runs_repo,
        "model",
        "main",
        (PinnedFile(path, fork.code.size, fork.code.sha256, ""),),
    )
    fetch(
        pinned,
        box.work / "fork-bundle",
        box.plan.hf_endpoint,
        box.token,
        give_up=box.meter.give_up,
        say=say,
        transfer=box.deps.transfer,
    )
    _unpack(box, box.work / "fork-bundle" / path, checkout)
    write_atomic(ready, fork.code.sha256.encode())
    say(f"trainer: {fork.row} {fork.source} at {fork.commit[:8]}")


def _unpack(box: BoxRun, bundle: Path, checkout: Path) -> None:
    """The files of a bundle, written by the trainer's user: in its folder a link may lead anywhere."""
    remove(checkout)
    for words in (
        ["init", "--quiet", str(checkout)],
        ["-C", str(checkout), "fetch", "--quiet", str(bundle), REF],
        ["-C", str(checkout), "checkout", "--quiet", "FETCH_HEAD"],
    ):
        code, last = _run(box, ["git", *words], checkout.parent, GIT_S)
        if code:
            raise BadAnswer(f"the fork's bundle cannot be unpacked: {last}")


def _install(box: BoxRun, checkout: Path, ready: Path) -> None:
    """Install what the fork's own lock file says, for this machine's GPUs."""
    if ready.exists():
        return
    box.timeline.enter("install")
    for command in install_commands(checkout, box.plan.device, uv_for(box.work)):
        say(f"trainer: {' '.join(command)}")
        code, last = _run(box, command, checkout, INSTALL_S)
        if code:
            raise RunStopped("trainer_failed", f"the trainer cannot be installed: {last}")
    write_atomic(ready, b"1")


def uv_for(work: Path) -> str:
    """A uv that the trainer's user can run: ours, or a copy of this machine's, which may lie in root's home."""
    own = Path(sys.executable).with_name("uv")
    found = shutil.which("uv")
    if own.is_file() or not found:
        return str(own)
    copy = work / "uv"
    shutil.copyfile(found, copy)
    copy.chmod(0o755)
    return str(copy)


def install_commands(checkout: Path, device: str, uv: str) -> list[list[str]]:
    """uv's commands for a checkout. The project itself stays where it is, for its modules are run from its folder."""
    frozen = ["--frozen"] if (checkout / "uv.lock").is_file() else []
    extra = _extra(checkout, "gpu" if device == "cuda" else "cpu")
    commands = [[uv, "sync", *frozen, "--no-install-project", "--no-dev", *extra]]
    if (
        checkout / "rustbpe"
    ).is_dir():  # built in the tree until 2026-01-03; the same code is on PyPI
        commands.append([uv, "pip", "install", "--python", "../fork-venv/bin/python", "rustbpe"])
    return commands


def _extra(checkout: Path, name: str) -> list[str]:
    """uv's words for an optional group of dependencies, if the checkout has it."""
    try:
        found = pyproject_of(checkout).get("project", {}).get("optional-dependencies", {})
        return ["--extra", name] if name in {key.lower() for key in found} else []
    except (OSError, NanolanError, AttributeError):  # uv says what is wrong with it
        return []


def _try(box: BoxRun, fork: Fork) -> None:
    """Import the fork's modules, count the GPUs that its PyTorch sees, and load the input with its own loader."""
    folder = trainer_folder(box.work)
    phase = box.plan.phase(box.plan.phases[0])
    modules = [p.module for p in map(box.plan.phase, box.plan.phases) if p.module]
    if not modules:
        return
    base = box.work / "fork-trial"  # in root's folder: in the trainer's a link may lead anywhere
    start = init_dir(box, phase.name)
    lay_out(
        base,
        phase,
        box.plan.model_tag,
        start,
        box.work / "model" / "tokenizer",
        box.work / "data",
        task_data=False,
    )
    if box.account:
        chown_tree(base, box.account.uid)
    count = str(box.plan.offer.num_gpus if box.plan.device == "cuda" else 0)
    source = SOURCES.get(phase.input_dir, "")
    command = [python_of(fork, folder), str(TRIAL), count, source, *modules]
    code, last = _run(box, command, folder / "fork", TRIAL_S, base)
    shutil.rmtree(base, ignore_errors=True)
    if code:
        raise RunStopped("trainer_failed", f"the trainer does not work here: {last}")
    say(f"trainer: {last}")


def _run(
    box: BoxRun, command: Sequence[str], folder: Path, limit_s: float, base: Path | None = None
) -> tuple[int, str]:
    """Run a command of the fork as the trainer's user; (exit code, its last line). RunStopped when the run must stop meanwhile."""
    home = trainer_folder(box.work)
    environment = trainer_environment(box.plan, os.environ, None, box.account) | {
        MARK: box.plan.run_id,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home / "hf"),  # where the fork looks later, without a network
        "HF_ENDPOINT": box.plan.hf_endpoint,
        "UV_PYTHON_INSTALL_DIR": str(home / "uv/python"),
        "UV_CACHE_DIR": str(home / "uv/cache"),
        "UV_PROJECT_ENVIRONMENT": str(home / "fork-venv"),
        **({"NANOCHAT_BASE_DIR": str(base)} if base else {}),
    }
    try:
        child = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env=environment,
            **(box.account.popen if box.account else {}),
        )
    except OSError as e:
        return 127, f"{command[0]} cannot be run: {e.strerror}"
    return _follow(box, child, limit_s)


def _follow(box: BoxRun, child: subprocess.Popen[str], limit_s: float) -> tuple[int, str]:
    """Wait for a command, within its time and the run's money; its output goes to the log."""
    said = Said()
    reader = threading.Thread(target=_echo, args=(child, said), daemon=True)
    reader.start()
    end = time.monotonic() + limit_s
    stop = None
    while not _ended(child) and time.monotonic() < end and not stop:
        stop = box.stop()
    late = child.returncode is None and not stop
    if child.returncode is None:
        os.killpg(child.pid, signal.SIGKILL)
    box.deps.kill(box.plan.run_id)  # what it started in sessions of its own
    code = child.wait()
    reader.join(REST_S)
    if stop:
        raise RunStopped(stop.reason, f"{stop.text}, before anything was trained")
    return code, _last(said.text, code, limit_s if late else None)


def _ended(child: subprocess.Popen[str]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        child.wait(POLL_S)
    return child.returncode is not None


def _last(line: str, code: int, late_s: float | None) -> str:
    """The last line of a command, and how it ended if it did not end by itself."""
    if late_s is not None:
        return f"it did not end within {late_s:g} s: {line[:300]}".rstrip(": ")
    if code < 0:
        return f"killed by signal {-code}: {line[:300]}".rstrip(": ")
    return line[:300] or f"exit code {code}"


@dataclass
class Said:
    """What a command has printed, as far as it is of use."""

    last: str = ""
    problem: str = ""  # uv and git name it in a line of its own, and add hints

    @property
    def text(self) -> str:
        problem = self.problem and f"{self.problem[:200]}; "
        return f"{problem if self.problem != self.last else ''}{self.last}"


def _echo(child: subprocess.Popen[str], said: Said) -> None:
    for line in child.stdout or ():
        print(line, end="", flush=True)
        said.last = line.strip() or said.last
        if PROBLEM.match(line):
            said.problem = line.strip()


def _read(path: Path) -> str:
    try:
        return read_regular(path, 1000).decode(errors="replace")
    except OSError:
        return ""
