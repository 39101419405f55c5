"""The error that ended a script is found among those of all ranks and of torchrun, and its cause has a name."""

from __future__ import annotations

import pytest

from nanolan.run.causes import cause_of
from nanolan.trainers.adapter.output import Said, parts_of, read_part

FRAME = '  File "/data/fork/scripts/chat_sft.py", line 7, in <module>\n    train()\n    ^^^^^^^\n'
START = "Traceback (most recent call last):\n" + FRAME
ELASTIC = "torch.distributed.elastic.multiprocessing"
FAILED = f"""W0801 13:23:17.366000 32974 torch/distributed/{"elastic"}/multiprocessing/api.py:900] Sending process 33051 closing signal SIGTERM
E0801 13:23:20.000000 32974 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: 1) local_rank: 3 (pid: 33054) of binary: /venv/bin/python3
{START}{ELASTIC}.errors.ChildFailedError:\x20
============================================================
keeper.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-08-01_13:23:17
  rank      : 3 (local_rank: 3)
  exitcode  : {{code}} (pid: 33054)
  error_file: <N/A>
  traceback : {{traceback}}
============================================================
"""
HELP = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
PEER = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:40155"
GONE = (
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2027, remote process "
    "exited or there was a network error, NCCL version 2.21.5"
)
WATCHDOG = (
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, "
    "Timeout(ms)=600000) ran for 600060 milliseconds before timing out."
)


def traceback(error: str, rank: int | None = None) -> str:
    text = f"{START}{error}\n"
    if rank is None:
        return text
    return "".join(f"[rank{rank}]: {line}\n" for line in text.splitlines())


def torchrun(code: int = 1, traceback: str = HELP) -> str:
    return FAILED.format(code=code, traceback=traceback)


STEP = "step 00040 (25.00%) | loss: 1.5 | tok/sec: 1,000\n"
DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
WORKER = "RuntimeError: DataLoader worker (pid 9382) is killed by signal: Killed. "
KEYS = "RuntimeError: Error(s) in loading state_dict for GPT:"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB"

# output -> the cause
CAUSES = {
    "one process": (traceback("ValueError: bad rows") + "x\n", "ValueError: bad rows"),
    "no message": (traceback("AssertionError"), "AssertionError"),
    "the first rank, then its partners": (
        traceback("ValueError: bad", 3) + traceback(f"RuntimeError: {PEER}", 0) + torchrun(),
        "ValueError: bad",
    ),
    "the partners print first": (
        traceback(GONE, 0) + traceback(GONE, 1) + traceback("KeyError: 'q'", 3) + torchrun(),
        "KeyError: 'q'",
    ),
    "the same error on each rank": (
        "".join(traceback(f"ValueError: of {r}", r) for r in (2, 0, 1)) + torchrun(),
        "ValueError: of 2",
    ),
    "ranks without names": (
        traceback("ValueError: bad") + traceback(f"RuntimeError: {PEER}") + torchrun(),
        "ValueError: bad",
    ),
    "lines of two ranks in turns": (
        f"[rank0]: {START}[rank1]: {START}[rank1]: IndexError: 5\n[rank0]: {GONE}\n",
        "IndexError: 5",
    ),
    "a stop of torchrun": (
        traceback("KeyError: 1") + traceback(f"{ELASTIC}.api.SignalException: Process 8 got 15"),
        "KeyError: 1",
    ),
    "nothing but consequences": (
        traceback(f"RuntimeError: {PEER}", 1) + torchrun(),
        f"RuntimeError: {PEER}",
    ),
    "only torchrun": (torchrun(), f"{ELASTIC}.errors.ChildFailedError"),
    "a killed rank": (
        torchrun(-9, "Signal 9 (SIGKILL) received by PID 33054"),
        "Signal 9 (SIGKILL) received by PID 33054",
    ),
    "an error, and ranks that torchrun ends": (
        traceback("KeyError: 1", 0) + torchrun(-15, "Signal 15 (SIGTERM) received by PID 2"),
        "KeyError: 1",
    ),
    "NCCL's watchdog": (
        f"[rank0]:[E321 02:07:08.4 ProcessGroupNCCL.cpp:607] [Rank 0] {WATCHDOG}\n"
        + torchrun(-6, "Signal 6 (SIGABRT) received by PID 33054"),
        WATCHDOG,
    ),
    "a cause": (
        traceback(WORKER, 0)
        + f"[rank0]: {DIRECT.strip()}\n"
        + traceback("RuntimeError: DataLoader worker (pid(s) 9382) exited unexpectedly", 0),
        "RuntimeError: DataLoader worker (pid(s) 9382) exited unexpectedly (after "
        f"{WORKER.strip()})",
    ),
    "an error while handling one": (
        traceback("KeyError: 1") + DURING + traceback("ValueError: no data"),
        "ValueError: no data",
    ),
    "caught, then trained": (
        traceback("OSError: no kernel") + STEP + torchrun(-9, "Signal 9 (SIGKILL) received"),
        "Signal 9 (SIGKILL) received",
    ),
    "caught, then failed": (
        traceback("huggingface_hub.errors.LocalEntryNotFoundError: offline")
        + traceback("ValueError: no kernel"),
        "ValueError: no kernel",
    ),
    "a message of several lines": (
        f'{START}{KEYS}\n\tMissing key(s) in state_dict: "backout_lambda". \n\tsize mismatch\n',
        f'{KEYS} Missing key(s) in state_dict: "backout_lambda".',
    ),
    "a class of another name": (
        traceback("pyarrow.lib.ArrowInvalid: no"),
        "pyarrow.lib.ArrowInvalid: no",
    ),
    "rich": (
        "╭── Traceback ──╮\n│ x │\n╰──╯\nException: expected value\n",
        "Exception: expected value",
    ),
    "options": (
        "usage: keeper.py [-h]\nkeeper.py: error: unrecognized arguments: --foo\n" + torchrun(2),
        "keeper.py: error: unrecognized arguments: --foo",
    ),
    "on a progress line": (
        "\rRank 1 | 3/4 (75.00%)" + traceback("ValueError: x"),
        "ValueError: x",
    ),
    "warnings and words": (
        "Warning: slow\nDone\nInfo: Vocab size: 5\nvalue: 3\nmodel.py:3: UserWarning: x\n",
        "",
    ),
    "a word amid a traceback": (
        f"{START}Done\nLoading\nValueError: x\nSaved: y\n",
        "ValueError: x",
    ),
    "a long message": (traceback("ValueError: " + "x" * 9999), "ValueError: " + "x" * 288),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_found(name: str) -> None:
    text, cause = CAUSES[name]
    said = Said()
    for line in text.split("\n"):
        for part in parts_of(line):
            read_part(part, said)
    assert said.error == cause


# last line of the adapter -> reason of the receipt
REASONS = {
    OOM: "oom",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": "oom",
    "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 79 GiB)": "oom",
    "RuntimeError: CUDA error: out of memory": "oom",
    "torch.AcceleratorError: CUDA error: out of memory": "oom",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "oom",
    "torch._inductor.exc.InductorError: OutOfMemoryError: CUDA out of memory": "oom",
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB": "oom",
    "OSError: [Errno 12] Cannot allocate memory": "oom",
    "RuntimeError: DataLoader worker (pid 9382) is killed by signal: Killed.": "killed",
    "Signal 9 (SIGKILL) received by PID 33054": "killed",
    "it was killed by signal 9 (SIGKILL) and left no checkpoint": "killed",
    "OSError: [Errno 28] No space left on device: 'x'": "disk_full",
    "RuntimeError: CUDA error: device-side assert triggered": "gpu_error",
    "torch.AcceleratorError: CUDA error: an illegal memory access was encountered": "gpu_error",
    WATCHDOG: "nccl",
    GONE: "nccl",
    "ValueError: bad rows": "trainer_failed",
}


@pytest.mark.parametrize("error", REASONS)
def test_the_last_line_gives_the_run_its_reason(error: str) -> None:
    log = "\n".join(["x"] * 100 + [f"nanolan.train: scripts.chat_sft: {error}"])
    assert cause_of(log) == (REASONS[error], f"scripts.chat_sft: {error}")
