"""The cause of one rank's failure, among the lines of the ranks that fail because of it and of torchrun."""

from __future__ import annotations

import pytest

from nanolan.run.causes import LINES, cause_of, last_part

GONE = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:17843. This is "
    "typically caused by a remote worker crashing."
)
TRACEBACK = [
    "Traceback (most recent call last):",
    *(f'  File "nanolan/train/{name}.py", line 90, in f\n    f(x)' for name in "abcdefghi"),
    f"RuntimeError: {GONE}",
]


def steps(last: int) -> list[str]:
    return [f"mid step {n}/809 | loss 1.5 | lr 0.02 | 9 tok/s" for n in range(1, last + 1)]


def torchrun(first: int, exit_code: str, others: str = "-15 (pid: 7102)  (SIGTERM)") -> list[str]:
    """What torchrun writes at the end of a run of eight ranks, recorded with torch 2.13."""

    def entry(n: int, rank: int, code: str) -> list[str]:
        return [
            f"[{n}]:",
            "  time      : 2026-11-27_16:21:50",
            "  host      : localhost",
            f"  rank      : {rank} (local_rank: {rank})",
            f"  exitcode  : {code}",
            "  error_file: <N/A>",
            "  traceback : Signal 15 (SIGTERM) received by PID 7102",
        ]

    api = "torch/distributed/elastic/multiprocessing/api.py"
    rest = [rank for rank in range(8) if rank != first]
    return [
        *(f"W1127 16:21:50.8 6711 {api}:1028] Sending process 71{r} closing signal" for r in rest),
        f"E1127 16:21:50.9 6711 {api}:1002] failed (exitcode: 1) local_rank: {first} of binary: python",
        "Traceback (most recent call last):",
        *('  File "torch/distributed/run.py", line 1032, in main\n    main()' for _ in range(9)),
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "nanolan.train FAILED",
        "Failures:",
        *(line for n, rank in enumerate(rest, 1) for line in entry(n, rank, others)),
        "Root Cause (first observed failure):",
        *entry(0, first, exit_code),
        "=" * 60,
    ]


LOST = [f"rank {r}: stopped: another rank is gone (RuntimeError: {GONE})" for r in range(7)]
NCCL_LOST = [
    f"rank {r}: stopped: another rank is gone (DistBackendError: NCCL error in: x.cpp:9)"
    for r in range(7)
]
TORN = [f"[rank{r}]: {line}" for r in range(7) for line in TRACEBACK]
MEMORY = "nanolan.train: CUDA is out of memory at 1 row(s) a micro-batch; try a smaller --batch"
WARNED = "warning: the state of step 4 could not be saved (OSError: No space left on device)"
BOX = "2026-11-27T16:00:00Z box: phase mid: training (attempt {})"
FAILED = torchrun(3, "1 (pid: 7103)")
KILLED = torchrun(3, "-9 (pid: 7103)  (SIGKILL)")
HUNG = torchrun(3, "1 (pid: 7103)", others="-9 (pid: 7102)  (SIGKILL)")


@pytest.mark.parametrize(
    ("lines", "reason", "said"),
    [
        ([MEMORY, *LOST, *FAILED], "oom", "CUDA is out of memory at 1 row(s)"),
        ([*LOST[:2], MEMORY, *LOST[2:], *FAILED], "oom", "CUDA is out of memory at 1 row(s)"),
        ([MEMORY, *TORN, *FAILED], "oom", "CUDA is out of memory at 1 row(s)"),
        ([MEMORY, *NCCL_LOST, *FAILED], "oom", "CUDA is out of memory at 1 row(s)"),
        ([MEMORY, *LOST, *HUNG], "oom", "CUDA is out of memory at 1 row(s)"),
        ([*LOST, *KILLED], "killed", ""),
        ([*NCCL_LOST, *KILLED], "killed", ""),
        ([*NCCL_LOST, *HUNG], "nccl", ""),
        (
            ["nanolan.train: OutOfMemoryError: CUDA out of memory. Tried", *TORN, *FAILED],
            "oom",
            "OutOfMemoryError: CUDA out of memory.",
        ),
        (
            ["nanolan.train: refused: data set x is missing"] * 8 + FAILED,
            "bad_data",
            "data set x is missing",
        ),
        (
            ["nanolan.train: the loss is nan at step 9 of 9: stopped", MEMORY, *FAILED],
            "nan",
            "the loss is nan at step 9",
        ),
        (
            [WARNED, "nanolan.train: stopped at step 4, which could not be saved", *FAILED],
            "disk_full",
            "stopped at step 4",
        ),
        (
            [*TORN, "[rank3]: RuntimeError: CUDA error: device-side assert", *FAILED],
            "gpu_error",
            "",
        ),
    ],
)
def test_the_first_failure_of_eight_ranks_is_the_cause(
    lines: list[str], reason: str, said: str
) -> None:
    log = "\n".join([BOX.format(1), *steps(300), *lines])
    found = cause_of(log)
    assert found[0] == reason and found[1].startswith(said) and bool(found[1]) == bool(said)


def test_the_message_counts_however_much_is_written_after_it() -> None:
    log = "\n".join([BOX.format(1), *steps(3), MEMORY, *TORN * 9, *FAILED])
    assert len(log.splitlines()) > 2 * LINES
    assert cause_of(log)[0] == "oom"


@pytest.mark.parametrize(
    "begin", [BOX.format(2), "2026-11-27T16:00:00Z box: phase mid: evaluation (quick)"]
)
def test_the_message_of_an_attempt_before_does_not_count(begin: str) -> None:
    log = "\n".join([BOX.format(1), MEMORY, *FAILED, begin, *steps(2), *LOST, *KILLED])
    assert cause_of(log) == ("killed", "")


def test_a_warning_of_an_earlier_step_is_no_cause() -> None:
    log = "\n".join([*steps(3), WARNED, *steps(9), *LOST, *FAILED])
    assert cause_of(log) == ("trainer_failed", "")
    assert WARNED not in last_part(log) and last_part("a\nb") == "a\nb"
