"""Causes of a failed trainer, from its last lines."""
from __future__ import annotations

import pytest

from nanolan.causes import LINES, cause_of


@pytest.mark.parametrize("lines, reason, said", [
    ("nanolan.train: CUDA is out of memory at 1 row(s) a micro-batch; try a smaller --batch", "oom", "CUDA is out of memory at 1 row(s)"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "oom", ""),
    ("nanolan.train: the loss is nan at step 4 of 9: stopped, nothing saved", "nan", "the loss is nan at step 4"),
    ("nanolan.train: the gradient's norm is inf at step 4 of 9: stopped", "nan", "the gradient's norm is inf"),
    ("nanolan.train: the loss was over 3 for 10 steps, up to step 40 of 90", "nan", "the loss was over"),
    ("RuntimeError: [enforce fail at inline_container.cc] . PytorchStreamWriter failed: No space left on device", "disk_full", ""),
    ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "gpu_error", ""),
    ("torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:2006", "nccl", ""),
    ("nanolan.train: data set openai/gsm8k is missing: no main/train-*.parquet", "bad_data", "data set openai/gsm8k is missing"),
    ("  exitcode  : -9 (pid: 1234)\n  traceback : Signal 9 (SIGKILL) received by PID 1234", "killed", ""),
    ("", "trainer_failed", ""), ("all is well", "trainer_failed", "")])
def test_what_was_said_last_names_the_cause(lines: str, reason: str, said: str) -> None:
    found = cause_of("sft step 1/9 | loss 2.0\n" + lines)
    assert found[0] == reason and found[1].startswith(said) and bool(found[1]) == bool(said)


def test_the_more_telling_cause_counts() -> None:
    assert cause_of("CUDA out of memory\n exitcode : -9")[0] == "oom"


def test_old_lines_do_not_count() -> None:
    assert cause_of("the loss is nan\n" + "step\n" * LINES)[0] == "trainer_failed"
