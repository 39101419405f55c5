"""HumanEval: an answer passes if its code comes to its end; code that does not behave ends with its process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanolan.errors import BadAnswer
from nanolan.train.evaluation.humaneval import (
    HUMANEVAL,
    Problem,
    passes,
    program_of,
    read_humaneval,
)

HEAD = (
    'from typing import List\nimport math\n\ndef total(xs: List[int]) -> int:\n    """The sum."""\n'
)
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
PROBLEM = Problem(HEAD, TEST, "total")
GOOD = "def total(xs: List[int]) -> int:\n    return sum(xs)"


def write_humaneval(data: Path, rows: list[dict[str, Any]]) -> None:
    path = data / HUMANEVAL.repo / HUMANEVAL.test.replace("*", "00000-of-00001")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (GOOD, True),
        (f"Here it is:\n```python\n{GOOD}\n```\nGood luck!", True),
        (f"```\n{GOOD}\n```", True),
        (f"```python\n{GOOD}", True),
        (f"```python\n{GOOD}\n```\n```python\ntotal = None\n```", True),
        (GOOD.replace("sum", "max"), False),
        ("", False),
        ("I do not know.", False),
        ("def total(xs", False),
    ],
)
def test_an_answer_passes_if_its_first_code_block_meets_the_tests(answer: str, right: bool) -> None:
    assert passes(program_of(PROBLEM, answer)) is right


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "1/0",
        "x = [0] * (1 << 33)",
        "def f(): f()\nf()",
        "open('big', 'wb').write(b'x' * (1 << 22))",
        "files = [open('f%d' % i, 'w') for i in range(99)]",
        "import sys\nsys.stdin.read()\nraise ValueError",
        "\x00",
        "\ud800",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    ],
    ids=lambda p: p[:30],
)
def test_what_does_not_come_to_its_end_does_not_pass(program: str) -> None:
    assert passes(program) is False


@pytest.mark.parametrize(
    "program",
    [
        "print('x' * 10 ** 7)",
        "import os\nassert not os.listdir('.')",
        "import os\nassert 'CANARY' not in os.environ",
        "input = 1",
    ],
)
def test_what_is_harmless_passes(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    assert passes(program)


@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(99)"])
def test_time_is_limited(program: str) -> None:
    t0 = time.monotonic()
    assert not passes(program, timeout_s=1.0)
    assert time.monotonic() - t0 < 3


def test_no_process_is_left_behind() -> None:
    mark = "nanolan-left-behind"
    passes(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])"
    )
    left = [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(left, timeout=2)  # a killed process takes a moment to go
    alive = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    for p in alive:
        p.kill()
    assert not alive


def test_problems_are_read_by_their_columns(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": HEAD,
        "canonical_solution": "",
        "test": TEST,
        "entry_point": "total",
    }
    write_humaneval(tmp_path, [row, row, row])
    assert read_humaneval(tmp_path) == [PROBLEM] * 3
    assert len(read_humaneval(tmp_path, 2)) == 2


def test_missing_or_foreign_problems_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="openai/openai_humaneval is missing"):
        read_humaneval(tmp_path)
    write_humaneval(tmp_path, [{"question": "?"}])
    with pytest.raises(BadAnswer, match="not HumanEval"):
        read_humaneval(tmp_path)
