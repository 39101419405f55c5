"""The miniature forks of nanochat: a copy to run in, its data, and its scripts as subprocesses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from nanolan.phases import DATASETS
from tests.support.forked_python import TRAINER, Program, forked

REPO = Path(__file__).resolve().parents[2]
CACHES = shutil.ignore_patterns("__pycache__", ".venv")
# (data set, split of nanolan/phases.py) -> subset/split of the own downloader of 2026
TASK_DATA = {
    ("smol-smoltalk", "train"): "default/train",
    ("smol-smoltalk", "test"): "default/test",
    ("mmlu-all", "train"): "all/auxiliary_train",
    ("mmlu", "test"): "all/test",
    ("gsm8k", "train"): "main/train",
    ("gsm8k", "test"): "main/test",
    ("arc-easy", "train"): "ARC-Easy/train",
    ("arc-easy", "test"): "ARC-Easy/test",
    ("arc-challenge", "train"): "ARC-Challenge/train",
    ("arc-challenge", "test"): "ARC-Challenge/test",
}


def copy_fork(generation: str, to: Path) -> Path:
    """A copy of the fork "2025" or "2026" in the folder `to`; returns it."""
    shutil.copytree(REPO / "tests" / "forks" / generation, to, ignore=CACHES)
    return to


def commit_all(folder: Path) -> Path:
    """Make a git repository of one commit of everything in a folder; returns it."""
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def lay_task_data(data: Path, base: Path) -> None:
    """Copy the data sets below `data` (<owner>/<repo>/<path on the Hub>) to task_data in `base`."""
    for (name, split), place in TASK_DATA.items():
        found = DATASETS[name]
        to = base / "task_data" / found.repo.replace("/", "--") / place
        to.mkdir(parents=True, exist_ok=True)
        files = sorted((data / found.repo).glob(getattr(found, split)))
        for i, path in enumerate(files):
            shutil.copy(path, to / f"{i:05d}.parquet")
        names = [f"{i:05d}.parquet" for i in range(len(files))]
        (to / "manifest.json").write_text(json.dumps(names))


def command(module: str, *options: str, ranks: int | None = None) -> list[str]:
    """The command line of a script, plain or under torchrun."""
    if ranks is None:
        return [sys.executable, "-m", module, *options]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    return [sys.executable, *torchrun, f"--nproc-per-node={ranks}", "-m", module, "--", *options]


def environment(base: Path, **more: str) -> dict[str, str]:
    """The environment of a script: `base` as its folder, one thread, no way out of this machine."""
    kept = {k: v for k, v in os.environ.items() if not re.match("RANK|WORLD_SIZE|TORCHELASTIC", k)}
    return kept | {
        "NANOCHAT_BASE_DIR": str(base),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
        **more,
    }


def run_script(
    fork: Path, base: Path, module: str, *options: str, ranks: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of the fork to its end; stderr is in stdout, carriage returns as they are."""
    done = subprocess.run(
        command(module, *options, ranks=ranks),
        cwd=fork,
        env=environment(base, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode())


def run_forked(
    fork: Path, base: Path, module: str, *options: str, ranks: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """As `run_script`, without the time of imports; the exit code is the worst of the ranks. One that fails ends the others."""
    python, words, variables = forked(TRAINER), ["-m", module, *options], environment(base, **env)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.txt")
        if ranks is None:
            codes = [python.start(words, fork, variables, out).wait(120)]
        else:
            codes = ends_of(python.ranks(ranks, words, fork, variables, out))
        assert None not in codes, out.read_bytes().decode()
        return subprocess.CompletedProcess(words, max(map(int, codes)), out.read_bytes().decode())


def ends_of(ranks: list[Program]) -> list[int | None]:
    """The exit codes of ranks; the others are killed when one fails."""
    codes: dict[int, int | None] = {}
    while len(codes) < len(ranks):
        for rank in ranks:
            if rank.pid not in codes and (code := rank.wait(0.02)) is not None:
                codes[rank.pid] = code
                for other in ranks if code > 0 else ():
                    if other.pid not in codes:
                        os.kill(other.pid, signal.SIGKILL)
    return list(codes.values())
