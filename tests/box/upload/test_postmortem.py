"""The black box: every probe for itself, masked, within its time, and the cause in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nanolan.box.upload.postmortem import (
    LINES,
    PROBES,
    Probe,
    command,
    examine,
    headlines,
    to_bytes,
    write_up,
)
from nanolan.errors import BadAnswer
from nanolan.redact import Mask, Secret
from nanolan.run.postmortem import exception_of, read_postmortem, stacks_of
from nanolan.run.record import Receipt
from tests.support.box_fixtures import TOKEN, make_plan

MASK = Mask([Secret(TOKEN)])
PLAN = make_plan("http://h", "http://s", run_id="ab12cd34")
TRACE = [
    "Traceback (most recent call last):",
    '  File "a.py", line 1, in f',
    "    x()",
    "ValueError: no",
]
RANK = [
    "[rank0]: Traceback (most recent call last):",
    '[rank0]:   File "a.py", line 1, in f',
    "[rank0]: RuntimeError: CUDA",
]
ELASTIC = [
    "Traceback (most recent call last):",
    '  File "run.py", line 1',
    "torch.distributed.elastic.ChildFailedError: x",
]


def receipt(reason: str, message: str = "") -> Receipt:
    return Receipt("ab12cd34", "failed", reason, message, log="logs/error-x.log")


def beat(work: Path, stage: str, step: int) -> None:
    (work / "trainer").mkdir(exist_ok=True)
    (work / "trainer/heartbeat.json").write_text(
        json.dumps({"phase": "sft", "step": step, "steps": 1000, "stage": stage})
    )


def tool(root: Path, name: str, script: str) -> None:
    """A program of the rehearsed machine."""
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    return tmp_path


def test_it_tells_cause_place_exception_machine_and_the_last_lines(root: Path) -> None:
    tool(root, "nvidia-smi", "echo NVIDIA-SMI 570")
    tool(
        root,
        "dmesg",
        "echo all is well; echo '[Tue] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus'",
    )
    beat(root, "evaluate", 900)
    log = "\n".join([*(f"old line {i}" for i in range(600)), *RANK, *ELASTIC])
    box = write_up(PLAN, receipt("gpu_error", "phase sft: no"), root, log, MASK, PROBES)
    assert (
        box.cause
        == "a GPU failed (Xid 79: the GPU has fallen off the bus) in evaluation at step 900"
    )
    assert (box.run_id, box.phase, box.stage, box.step, box.reason) == (
        "ab12cd34",
        "sft",
        "evaluate",
        900,
        "gpu_error",
    )
    assert box.exception == tuple(RANK) and len(box.log) == LINES and box.log[-1] == ELASTIC[-1]
    assert box.seen["gpus"] == ["NVIDIA-SMI 570"] and len(box.seen["kernel"]) == 1
    assert (
        box.seen["disk"]["free_gb"] > 0
        and box.seen["memory"]["total_gb"] > 0
        and "python" in box.seen["versions"]
    )
    assert box.plan["code"]["commit"] == PLAN.code.commit and not box.not_seen
    again = read_postmortem(to_bytes(box, MASK))
    assert (again.cause, again.seen, again.log, again.exception) == (
        box.cause,
        box.seen,
        box.log,
        box.exception,
    )
    assert headlines(box)[-1] == f"cause: {box.cause}" and any(
        "Xid" in line for line in headlines(box)
    )


def test_a_probe_that_fails_or_hangs_keeps_none_of_the_others_away(root: Path) -> None:
    def broken(work: Path) -> str:
        raise KeyError(f"with {TOKEN}")

    def hanging(work: Path) -> str:
        time.sleep(3)
        return ""

    probes: dict[str, Probe] = {
        "broken": broken,
        "hanging": hanging,
        "good": lambda work: "a line",
        "none": lambda work: command("none"),
    }
    started = time.monotonic()
    seen, not_seen = examine(root, probes, MASK, 0.3)
    assert time.monotonic() - started < 2 and seen == {"good": ["a line"]}
    assert "KeyError" in not_seen["broken"] and TOKEN not in not_seen["broken"]
    assert not_seen["hanging"].startswith("no answer") and "FileNotFoundError" in not_seen["none"]


def test_a_program_that_fails_says_why(root: Path) -> None:
    tool(root, "nvidia-smi", "echo Unable to determine the device handle >&2; exit 9")
    assert (
        "exit code 9: Unable to determine"
        in examine(root, {"gpus": PROBES["gpus"]}, MASK, 5)[1]["gpus"]
    )


@pytest.mark.shows(
    "*", "*test_no_secret_is_in_it*", "programs that tell a secret are the input here"
)
def test_no_secret_is_in_it_in_any_form(root: Path) -> None:
    tool(root, "nvidia-smi", f"echo {TOKEN}")
    tool(root, "dmesg", f"echo NVRM {'x' * 1995}{TOKEN}")  # at the cut of a long line
    box = write_up(
        PLAN,
        receipt("error", "words"),
        root,
        f"line {TOKEN}".replace(TOKEN, "***"),
        MASK,
        PROBES | {"values": lambda work: {"a": TOKEN}},
    )
    data = to_bytes(box, MASK).decode()
    assert (
        TOKEN not in data
        and TOKEN[:10] not in data
        and json.loads(data)["seen"]["values"] == {"a": "***"}
    )


def test_without_a_heartbeat_no_place_is_made_up(root: Path) -> None:
    box = write_up(PLAN, receipt("oom"), root, "", MASK, {})
    assert (
        box.cause == "CUDA out of memory"
        and box.step is None
        and box.exception == ()
        and box.log == ()
    )


def test_the_stacks_are_those_of_a_trainer_that_hung(root: Path) -> None:
    lines = [
        "Thread 0x01 (most recent call first):",
        '  File "a.py", line 3 in wait',
        "step 4",
        "Current thread 0x02 (most recent",
        '  File "b.py", line 5 in reduce',
        "",
    ]
    assert stacks_of(lines) == (lines[0], lines[1], lines[3], lines[4])
    assert write_up(PLAN, receipt("hang"), root, "\n".join(lines), MASK, {}).stacks
    assert not write_up(PLAN, receipt("oom"), root, "\n".join(lines), MASK, {}).stacks


@pytest.mark.parametrize(
    "lines, want",
    [
        ([], []),
        (["all is well"], []),
        (TRACE, TRACE),
        ([*RANK, *ELASTIC], RANK),
        ([*TRACE, "a line", *RANK], RANK),
        (["x", *TRACE[:2]], TRACE[:2]),
        (ELASTIC, []),
        (
            [
                RANK[0],
                "W1124 09:46:19.406000 21040 api.py:1028] Sending process 2",
                RANK[1],
                "[rank1]: Traceback (most recent call last):",
                "sft step 4/9",
                RANK[2],
                '[rank1]:   File "b.py", line 1',
                "[rank1]: EOFError: gone",
            ],
            [
                "[rank1]: Traceback (most recent call last):",
                '[rank1]:   File "b.py", line 1',
                "[rank1]: EOFError: gone",
            ],
        ),
    ],
    ids=["none", "well", "one", "torchrun", "two", "cut off", "torchrun alone", "interleaved"],
)
def test_the_newest_telling_exception_is_found(lines: list[str], want: list[str]) -> None:
    assert list(exception_of(lines)) == want


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"run_id": 3}'])
def test_nonsense_is_no_postmortem(data: bytes) -> None:
    with pytest.raises(BadAnswer, match="postmortem.json"):
        read_postmortem(data)


def test_nothing_of_this_machine_is_taken_for_a_rehearsed_ones(root: Path) -> None:
    assert Path("/usr/bin/env").exists()
    with pytest.raises(FileNotFoundError):
        command("env")
