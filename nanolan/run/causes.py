"""Why a run ended early and what to do about it, as one table. A new cause is a new row.

A row is matched by the trainer's first message of the attempt or its last lines, by the kernel's log, by the message of the
receipt or the note of the ledger, or by its name, if that is the reason of the receipt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LINES = 400  # last lines of an attempt to search where the trainer named no cause: eight ranks and torchrun write 250
PLACES = {
    "load": "loading",
    "compile": "compilation",
    "train": "training",
    "save": "saving",
    "validate": "validation",
    "evaluate": "evaluation",
}
# Reasons that the kernel's log may explain
EXPLAINED_BY_KERNEL = ("killed", "trainer_failed", "gpu_error", "nccl", "hang", "oom", "error")


@dataclass(frozen=True)
class Cause:
    """One cause. If `what` is "", the message of the receipt or ledger is shown instead."""

    name: str
    what: str
    advice: str
    words: str = ""  # options to add to the next command
    command: str = (
        "resume"  # launch: if the pinned inputs are at fault; offers: if the instance type is
    )
    log: re.Pattern[str] | None = None  # matches the trainer's last lines
    kernel: re.Pattern[str] | None = None  # matches dmesg
    message: re.Pattern[str] | None = (
        None  # matches the message of a receipt or the note of the ledger
    )
    place: str = (
        "stage"  # appended: "stage": "in training at step 12"; "step": "at step 12"; "": nothing
    )


def _re(text: str) -> re.Pattern[str]:
    return re.compile(text, re.I)


def _by_message(name: str, what: str, advice: str, pattern: str, command: str = "resume") -> Cause:
    return Cause(name, what, advice, command=command, message=_re(pattern), place="")


AGAIN = "Likely a bad host; another instance should work"
FEWER = (
    "Fewer rows per GPU (the recipe does not change), or a GPU with more memory, such as gpu=H200"
)
HOST = "An instance with more memory, or fewer rows per GPU"
ROOM = "An instance with a larger disk: just offers shows others"
TOKENS = "https://huggingface.co/settings/tokens"
# The first match wins; specific rows come first.
CAUSES = (
    # ---- matched in the kernel's or the trainer's log
    Cause(
        "host_oom",
        "the machine's own memory was full and the kernel killed a process",
        HOST,
        "batch=4",
        kernel=_re(
            r"Out of memory: Killed process|oom-kill:|oom_reaper|Memory cgroup out of memory"
        ),
    ),
    Cause(
        "oom",
        "CUDA out of memory",
        FEWER,
        "batch=4",
        log=_re(
            r"out of memory(?!: going on)|OutOfMemoryError|Cannot allocate memory|_STATUS_ALLOC_FAILED"
        ),
    ),
    Cause(
        "nan",
        "",
        "The same data and rates give the same result: correct the data, or return to the last settings that worked",
        place="",
        command="launch",
        log=_re(r"(loss|norm) is (nan|-?inf)|a weight is not a number|the loss was over"),
    ),
    Cause(
        "disk_full",
        "the disk was full",
        ROOM,
        command="offers",
        log=_re(
            r"No space left on device|Disk quota exceeded|Read-only file system|File too large"
        ),
    ),
    Cause(
        "gpu_error",
        "a GPU failed",
        AGAIN,
        kernel=_re(r"NVRM: Xid"),
        log=_re(r"\bXid\b|CUDA error|uncorrectable ECC|NVLink error|device-side assert"),
    ),
    Cause(
        "killed",
        "a process of the trainer was killed",
        f"Often the machine's memory was full. {HOST}",
        "batch=4",
        # torchrun kills ranks that hang because of another one: where it names the first failure, that one counts
        log=_re(
            r"(?s)Root Cause \(first observed failure\):.{0,300}exitcode\s*:\s*-9\b|"
            r"\A(?!.*Root Cause \(first).*(exitcode\s*:\s*-9\b|Signal 9|SIGKILL|killed by signal: Killed)"
        ),
    ),
    Cause(
        "nccl",
        "the GPUs lost each other (NCCL)",
        AGAIN,
        log=_re(r"NCCL error|ncclSystemError|Watchdog caught collective"),
    ),
    Cause(
        "bad_data",
        "",
        "Correct or replace the named input, then launch again",
        command="launch",
        place="",
        log=re.compile(r"nanolan\.train: refused: "),
    ),  # BadAnswer and UsageProblem of the trainer: the same inputs would fail again
    # ---- matched in the message of the receipt or the ledger
    _by_message(
        "hub_down",
        "",
        "Check https://status.huggingface.co, then resume",
        r"the Hub (did not answer|is down|cannot be reached|is busy)",
    ),
    _by_message(
        "hub_refused",
        "",
        f"Create a token with write access to the repo: {TOKENS}",
        r"the Hub refused HF_TOKEN",
    ),
    _by_message(
        "wallet",
        "",
        "Add money: https://platform.shadeform.ai/settings/billing",
        r"wallet is too low|INSUFFICIENT_FUNDS",
    ),
    _by_message(
        "key",
        "Shadeform refused the key",
        "Get one: https://platform.shadeform.ai/settings/api",
        r"refused SHADEFORM_API_KEY",
    ),
    _by_message(
        "small_gpu", "", "A GPU with more memory", r"of GPU memory, this one has", "offers"
    ),
    _by_message(
        "no_capacity", "the offer was sold out", "Others have GPUs: just offers", r"sold out"
    ),
    _by_message(
        "wrong_gpus",
        "",
        AGAIN,
        r"GPUs (of \d+ GB )?were rented|CUDA devices are needed|compute on the GPUs",
    ),
    _by_message("small_disk", "", ROOM, r"of disk are free|GB of free disk", "offers"),
    _by_message("slow", "", AGAIN, r"the machine is slow"),
    _by_message(
        "setup",
        "",
        "The log shows what failed; it failed twice, so a retry will fail too",
        r"gave up: (install|fetch)",
    ),
    _by_message("other_machine", "", AGAIN, r"was not what was agreed"),
    _by_message("never_booted", "the instance never booted", AGAIN, r"did not come up"),
    _by_message("refused", "", "Nothing was rented", r"create refused", "offers"),
    _by_message(
        "never_rented", "nothing was rented", "Nothing was lost", r"no instance was ever seen"
    ),
    _by_message(
        "preempted",
        "the provider took the spot instance away",
        "What was uploaded to the Hub is still there: resume goes on from it",
        r"^preempted\b",
    ),
    _by_message(
        "vanished",
        "the instance is gone and left no receipt: taken by its provider, ended by a limit, or deleted by hand",
        "What was uploaded to the Hub is still there",
        r"left no receipt|preempted",
    ),
    # ---- reasons of a receipt
    Cause(
        "hang",
        "the trainer made no progress",
        "The stacks in the log show where; another instance often works",
    ),
    Cause(
        "spend_limit",
        "the spend limit was reached",
        "Resume with a higher limit, which counts for the whole run",
        "spend-limit={limit}",
        place="step",
    ),
    Cause(
        "max_duration",
        "the time limit was reached",
        "Resume with a longer time limit",
        "max-duration={hours}h",
        place="step",
    ),
    Cause(
        "limit_lost",
        "a limit was reached before everything was saved",
        "Resume with a higher limit",
        "spend-limit={limit}",
        place="step",
    ),
    Cause(
        "gate", "", "To continue all the same, resume with another gate=, or gate=none", place=""
    ),
    Cause("user", "it was stopped by just stop", "Resume at any time", place="step"),
    Cause(
        "upload_failed",
        "",
        "Check the Hub, HF_TOKEN and the repo's storage, then resume",
        place="",
    ),
    Cause("boot_failed", "", AGAIN, place=""),
    Cause(
        "no_offer",
        "",
        "A longer wait, a higher max-price or max-total, or other GPUs: just offers --all-configs",
        "wait=12h",
        "launch",
        place="",
    ),
    Cause("trainer_failed", "the trainer failed", "The end of its log: just logs {run}"),
    Cause("error", "", "The log before it: just logs {run}", place=""),
)
BY_NAME = {c.name: c for c in CAUSES}
# The row for limit_lost if the limit was the time
TIME_LOST = Cause(
    "limit_lost",
    "the time limit was reached before everything was saved",
    "Resume with a longer time limit",
    "max-duration={hours}h",
    place="step",
)
TRAINER_ERROR = re.compile(r"^nanolan\.train: (?:refused: )?(.*)$", re.M)
# A line of the box when it starts a trainer, and one of the trainer for each step
ATTEMPT = re.compile(r"box: phase \w+: (?:training \(attempt \d+\)|evaluation \()")
STEP = re.compile(r"^\w+ step \d+/\d+ ", re.M)
XID = re.compile(r"NVRM: Xid \(.*?\): (\d+)", re.I)
# Meaning of NVIDIA's error numbers that end a run
XIDS = {
    13: "a kernel went out of bounds",
    31: "a page fault in GPU memory",
    48: "an uncorrectable memory error",
    62: "the GPU's controller halted",
    63: "GPU memory was retired",
    64: "GPU memory could not be retired",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many memory errors",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "the GPU's system processor hangs",
    120: "the GPU's system processor failed",
}


def cause_of(log: str) -> tuple[str, str]:
    """(reason, the trainer's error message or "") of a trainer that failed; ("trainer_failed", "") if the cause is unknown.

    `log` ends with the whole log of the attempt. One rank fails first and names the cause; the others fail because of it,
    and torchrun adds its own lines. So the first message of the attempt counts, then the lines after the last steps.
    """
    attempt = log[max((m.end() for m in ATTEMPT.finditer(log)), default=0) :]
    error = TRAINER_ERROR.search(attempt)
    texts = [error[0] if error else "", last_part(attempt)]
    reason = next(
        (c.name for text in texts for c in CAUSES if c.log and c.log.search(text)), "trainer_failed"
    )
    return reason, error[1].strip()[:300] if error else ""


def last_part(log: str) -> str:
    """The last lines of a log, from the last two steps on: a rank may fail while another still tells of its step."""
    tail = "\n".join(log.splitlines()[-LINES:])
    steps = [m.start() for m in STEP.finditer(tail)]
    return tail[steps[-2] :] if len(steps) > 1 else tail


def by_reason(reason: str, message: str) -> Cause:
    """The row named like a receipt's reason; for limit_lost, the message says which limit it was."""
    if reason == "limit_lost" and OF_TIME in message:
        return TIME_LOST
    return BY_NAME.get(reason, BY_NAME["error"])


def explain(reason: str, message: str, kernel: Sequence[str] = ()) -> Cause:
    """The row that explains a receipt: by the kernel's log, by its message, or by its reason."""
    found = [c for c in CAUSES if c.kernel and any(c.kernel.search(line) for line in kernel)]
    if found and reason in EXPLAINED_BY_KERNEL:
        return found[0]
    if reason not in BY_NAME or not BY_NAME[reason].what:
        found = [c for c in CAUSES if c.message and c.message.search(message)]
        if found:
            return found[0]
    return by_reason(reason, message)


def describe(
    cause: Cause, message: str, stage: str = "", step: int | None = None, kernel: Sequence[str] = ()
) -> str:
    """The cause in one line: "CUDA out of memory in evaluation at step 900"."""
    what = cause.what or first_sentence(message) or cause.name.replace("_", " ")
    if cause.name == "gpu_error" and (number := xid(kernel)):
        meaning = f": {XIDS[number]}" if number in XIDS else ""
        what += f" (Xid {number}{meaning})"
    found = {"stage": where(stage, step), "step": where("", step)}.get(cause.place, "")
    return f"{what} {found}".strip()


def where(stage: str, step: int | None) -> str:
    """The stage and step as text, or "" if unknown."""
    at = f" at step {step}" if step else ""
    return f"in {PLACES.get(stage, stage)}{at}" if stage else f"{at.strip()}"


def first_sentence(message: str) -> str:
    """The first sentence of a message, without a leading phase name and without what was saved."""
    text = re.sub(r"^(phase \w+|the machine gave up): ", "", message.strip())
    return (
        re.split(r"\. (?:Saved|NOT saved|Go on|It is deleted|Next):? ", text)[0].strip().rstrip(".")
    )


def xid(kernel: Sequence[str]) -> int | None:
    """The first of NVIDIA's error numbers in the kernel's log."""
    return next((int(m[1]) for line in kernel if (m := XID.search(line))), None)


OF_TIME = "of max-duration"  # in the message of a stop for the time limit
