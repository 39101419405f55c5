"""Causes of a failed trainer, from its last lines."""

from __future__ import annotations

import pytest

from nanolan.run.causes import (
    BY_NAME,
    CAUSES,
    LINES,
    cause_of,
    describe,
    explain,
    first_sentence,
    where,
    xid,
)


@pytest.mark.parametrize(
    "lines, reason, said",
    [
        (
            "nanolan.train: CUDA is out of memory at 1 row(s) a micro-batch; try a smaller --batch",
            "oom",
            "CUDA is out of memory at 1 row(s)",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "oom", ""),
        (
            "nanolan.train: the loss is nan at step 4 of 9: stopped, nothing saved",
            "nan",
            "the loss is nan at step 4",
        ),
        (
            "nanolan.train: the gradient's norm is inf at step 4 of 9: stopped",
            "nan",
            "the gradient's norm is inf",
        ),
        (
            "nanolan.train: the loss was over 3 for 10 steps, up to step 40 of 90",
            "nan",
            "the loss was over",
        ),
        (
            "RuntimeError: [enforce fail at inline_container.cc] . PytorchStreamWriter failed: No space left on device",
            "disk_full",
            "",
        ),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "gpu_error", ""),
        (
            "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:2006",
            "nccl",
            "",
        ),
        (
            "nanolan.train: refused: data set openai/gsm8k is missing: no main/train-*.parquet",
            "bad_data",
            "data set openai/gsm8k is missing",
        ),
        (
            "  exitcode  : -9 (pid: 1234)\n  traceback : Signal 9 (SIGKILL) received by PID 1234",
            "killed",
            "",
        ),
        ("", "trainer_failed", ""),
        ("all is well", "trainer_failed", ""),
    ],
)
def test_the_last_log_lines_give_the_cause(lines: str, reason: str, said: str) -> None:
    found = cause_of("sft step 1/9 | loss 2.0\n" + lines)
    assert found[0] == reason and found[1].startswith(said) and bool(found[1]) == bool(said)


def test_the_more_specific_cause_wins() -> None:
    assert cause_of("CUDA out of memory\n exitcode : -9")[0] == "oom"


def test_old_lines_do_not_count() -> None:
    assert cause_of("the loss is nan\n" + "step\n" * LINES)[0] == "trainer_failed"


def test_a_halved_micro_batch_is_not_a_cause() -> None:
    assert (
        cause_of("CUDA is out of memory: going on with 4 row(s) a micro-batch\nNCCL error in: x")[0]
        == "nccl"
    )


OOM_KILLER = (
    "[Tue] python3 invoked oom-killer",
    "[Tue] Out of memory: Killed process 4711 (python3)",
)
BUS = ("[Tue] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.",)


@pytest.mark.parametrize(
    "reason, told, kernel, name, line",
    [
        (
            "oom",
            "phase sft: CUDA is out of memory at 1 row(s)",
            (),
            "oom",
            "CUDA out of memory in evaluation at step 900",
        ),
        (
            "killed",
            "phase sft: exit code 1",
            OOM_KILLER,
            "host_oom",
            "the machine's own memory was full and the kernel killed a process in",
        ),
        (
            "killed",
            "phase sft: exit code 1",
            (),
            "killed",
            "a process of the trainer was killed in evaluation at step 900",
        ),
        (
            "trainer_failed",
            "phase sft: exit code 1",
            BUS,
            "gpu_error",
            "a GPU failed (Xid 79: the GPU has fallen off the bus) in evaluation",
        ),
        (
            "spend_limit",
            "$9 of the limit of $10 used",
            BUS,
            "spend_limit",
            "the spend limit was reached at step 900",
        ),
        (
            "nan",
            "phase sft: the loss is nan at step 4 of 9: stopped. Go on: just resume x",
            (),
            "nan",
            "the loss is nan at step 4 of 9: stopped",
        ),
        (
            "boot_failed",
            "8 GPUs were rented, nvidia-smi shows 7",
            (),
            "wrong_gpus",
            "8 GPUs were rented, nvidia-smi shows 7",
        ),
        (
            "boot_failed",
            "the machine gave up: install the 'train' set",
            (),
            "setup",
            "install the 'train' set",
        ),
        ("boot_failed", "the machine gave up: something new", (), "boot_failed", "something new"),
        (
            "boot_failed",
            "the machine is slow: 5 tok/s in sft",
            (),
            "slow",
            "the machine is slow: 5 tok/s in sft",
        ),
        (
            "boot_failed",
            "1.0 GB of disk are free, 9 GB are needed",
            (),
            "small_disk",
            "1.0 GB of disk are free, 9 GB are needed",
        ),
        (
            "upload_failed",
            "the Hub did not answer (HTTP 503) for x, tried for 60 s. NOT saved: sft step 9",
            (),
            "hub_down",
            "the Hub did not answer (HTTP 503) for x, tried for 60 s",
        ),
        (
            "error",
            "the Hub refused HF_TOKEN (HTTP 403) for x",
            (),
            "hub_refused",
            "the Hub refused HF_TOKEN",
        ),
        ("error", "KeyError: 3", (), "error", "KeyError: 3"),
        ("a_new_reason", "words", (), "error", "words"),
        ("a_new_reason", "", (), "error", "error"),
        (
            "error",
            "create refused: Shadeform's wallet is too low: x",
            (),
            "wallet",
            "create refused: Shadeform's wallet is too low: x",
        ),
        (
            "error",
            "create refused: just sold out; nothing was rented",
            (),
            "no_capacity",
            "the offer was sold out",
        ),
        (
            "error",
            "instance i did not come up: no heartbeat. It is deleted (gone)",
            (),
            "never_booted",
            "the instance never booted",
        ),
        (
            "error",
            "the instance is gone and left no receipt: a limit",
            (),
            "vanished",
            "the instance is gone and left no receipt",
        ),
        (
            "limit_lost",
            "9 minutes used of max-duration, the instance deletes itself at x. NOT saved: sft",
            (),
            "limit_lost",
            "the time limit was reached before everything was saved",
        ),
        (
            "limit_lost",
            "$9 of the limit of $10 used. NOT saved: sft",
            (),
            "limit_lost",
            "a limit was reached before everything was saved",
        ),
        (
            "bad_data",
            "phase sft: a model of 43M at 2048 tokens a row needs 43 GiB of GPU memory, this one has 40",
            (),
            "small_gpu",
            "a model of",
        ),
        (
            "hang",
            "no progress for 600 s in stage evaluate at step 900",
            (),
            "hang",
            "the trainer made no progress in evaluation at step 900",
        ),
        ("user", "just stop was asked for", (), "user", "it was stopped by just stop at step 900"),
    ],
)
def test_reason_message_and_kernel_log_give_the_cause(
    reason: str, told: str, kernel: tuple[str, ...], name: str, line: str
) -> None:
    found = explain(reason, told, kernel)
    assert found.name == name
    assert describe(found, told, "evaluate", 900, kernel).startswith(line)


def test_every_cause_has_a_unique_name_and_says_what_to_do() -> None:
    assert len(BY_NAME) == len(CAUSES)
    assert all(c.advice for c in CAUSES)


@pytest.mark.parametrize(
    "stage, step, want",
    [
        ("", None, ""),
        ("", 0, ""),
        ("", 3, "at step 3"),
        ("train", None, "in training"),
        ("train", 0, "in training"),
        ("a_new_stage", 2, "in a_new_stage at step 2"),
    ],
)
def test_the_place_names_only_a_known_stage_and_step(
    stage: str, step: int | None, want: str
) -> None:
    assert where(stage, step) == want


def test_the_cause_does_not_mention_what_was_saved() -> None:
    assert (
        first_sentence("phase mid: it broke. Saved: runs/x step 3. Go on: just resume x")
        == "it broke"
    )
    assert xid(("nothing", "NVRM: Xid (0000:03:00): 31, Ch 1", *BUS)) == 31 and xid(()) is None
