"""HumanEval: runs functions that the model writes against their tests. Off by default.

To judge the answers their code has to run. It runs in a process of its own: a session that is killed at the end, an
empty folder that is removed, an empty environment, no standard streams, and limits on time, memory, file size and
open files. That keeps clumsy code from doing harm. It is no wall against code that means harm: nothing here stops it
from using the network, from reading what this user can read, or, run as root, from starting processes that
outlive it. So it is never part of an evaluation that did not ask for it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanolan.errors import BadAnswer
from nanolan.model.conversation import conversation, render_prompt
from nanolan.model.tokenizer import Tokenizer
from nanolan.phases import DATASETS
from nanolan.train.data.mixtures import text

HUMANEVAL = DATASETS["humaneval"]
TIMEOUT_S = 10.0
FENCE = re.compile(r"```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL)

# What the process runs: limits, then the program from stdin, then the text that proves that it reached its end.
JAIL = """
import os, resource, sys
word, program = sys.argv.pop(), sys.stdin.read()
limits = {"CPU": 5, "AS": 1 << 30, "FSIZE": 1 << 20, "NOFILE": 32, "CORE": 0, "NPROC": 0}
for name, most in limits.items():
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
    except (ValueError, OSError):
        pass    # macOS refuses some
told, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(null, stream)
exec(compile(program, "answer", "exec"), {"__name__": "__main__"})
os.write(told, word.encode())
"""


@dataclass(frozen=True)
class Problem:
    """A function's head, its tests (which define check(function)) and its name."""

    head: str
    test: str
    name: str


def read_humaneval(data_dir: Path, limit: int | None = None) -> list[Problem]:
    """The problems, or the first `limit`; BadAnswer when they are missing or damaged."""
    paths = sorted((data_dir / HUMANEVAL.repo).glob(HUMANEVAL.test))
    if not paths:
        raise BadAnswer(
            f"data set {HUMANEVAL.repo} is missing: no {HUMANEVAL.test} in {data_dir / HUMANEVAL.repo}"
        )
    try:
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()][:limit]
        return [
            Problem(*(text(row[name], name) for name in ("prompt", "test", "entry_point")))
            for row in rows
        ]
    except (OSError, ValueError, pa.ArrowException, KeyError) as e:
        raise BadAnswer(f"{paths[0]}: not HumanEval ({type(e).__name__}: {e})") from None


def prompt_of(problem: Problem, tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    """Ids of the question, up to the start of the answer."""
    return render_prompt(conversation(problem.head, ""), tokenizer, max_tokens)


def program_of(problem: Problem, answer: str) -> str:
    """The answer's first code block (or all of it), after the imports of the head, before the tests."""
    found = FENCE.search(answer)
    imports = [line for line in problem.head.splitlines() if line.startswith(("import ", "from "))]
    return "\n".join(
        [*imports, found[1] if found else answer, problem.test, f"check({problem.name})", ""]
    )


def passes(program: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a program runs to its end without an error, in time and within the limits. Executes it: see above."""
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        p = subprocess.Popen(
            [sys.executable, "-I", "-c", JAIL, word],
            cwd=folder,
            env={},
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            told, _ = p.communicate(program, timeout_s)
        except subprocess.TimeoutExpired:
            told = ""
        finally:
            _end(p)
    return told == word


def _end(p: subprocess.Popen[str]) -> None:
    try:
        os.killpg(p.pid, signal.SIGKILL)  # also the processes that it started
    except (ProcessLookupError, PermissionError):
        pass  # all have ended; macOS raises the second error
    p.communicate()


def run_all(programs: Sequence[str]) -> list[bool]:
    """`passes` of each, in parallel on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(passes, programs))
