"""Why a run ended short and what to do about it, as one table. A new cause is a new row.

A row is found by the trainer's last lines, by the kernel's log, by what the machine or the laptop told of the end, or by its
name, which is then a reason of the receipt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LINES = 60  # of the log's end that are looked at
PLACES = {
    "load": "loading",
    "compile": "compilation",
    "train": "training",
    "save": "saving",
    "validate": "validation",
    "evaluate": "evaluation",
}
# Reasons that the kernel's log may explain
BY_THE_MACHINE = ("killed", "trainer_failed", "gpu_error", "nccl", "hang", "oom", "error")


@dataclass(frozen=True)
class Cause:
    """One cause. `what` "": show the message of the receipt or ledger instead."""

    name: str
    what: str
    advice: str
    words: str = ""  # options that help the next command
    command: str = "resume"  # launch: what was pinned is what went wrong; offers: the machine
    said: re.Pattern[str] | None = None  # in the trainer's last lines
    kernel: re.Pattern[str] | None = None  # in dmesg
    told: re.Pattern[str] | None = None  # in the message of a receipt or the note of the ledger
    place: str = "stage"  # "in training at step 12" says more; "step": "at step 12"; "": neither


def _re(text: str) -> re.Pattern[str]:
    return re.compile(text, re.I)


def _told(name: str, what: str, advice: str, pattern: str, command: str = "resume") -> Cause:
    return Cause(name, what, advice, command=command, told=_re(pattern), place="")


AGAIN = "Likely a bad host; another machine should work"
FEWER = "Fewer rows a GPU (the recipe does not change), or a GPU with more memory, such as gpu=H200"
HOST = "A machine with more memory, or fewer rows a GPU"
ROOM = "A machine with a larger disk: just offers shows others"
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
        said=_re(r"out of memory(?!: going on)|OutOfMemoryError|Cannot allocate memory"),
    ),
    Cause(
        "nan",
        "",
        "The same data and rates give the same result: correct the data, or return to the last settings that worked",
        place="",
        command="launch",
        said=_re(r"(loss|norm) is (nan|-?inf)|a weight is not a number|the loss was over"),
    ),
    Cause(
        "disk_full",
        "the disk was full",
        ROOM,
        command="offers",
        said=_re(
            r"No space left on device|Disk quota exceeded|Read-only file system|File too large"
        ),
    ),
    Cause(
        "gpu_error",
        "a GPU failed",
        AGAIN,
        kernel=_re(r"NVRM: Xid"),
        said=_re(r"\bXid\b|CUDA error|uncorrectable ECC|NVLink error|device-side assert"),
    ),
    Cause(
        "nccl",
        "the GPUs lost each other (NCCL)",
        AGAIN,
        said=_re(r"NCCL error|ncclSystemError|Watchdog caught collective"),
    ),
    Cause(
        "bad_data",
        "",
        "Correct or replace what is named, then launch again",
        command="launch",
        place="",
        said=re.compile(r"nanolan\.train: refused: "),
    ),  # its BadAnswer and UsageProblem: the same inputs, the same end
    Cause(
        "killed",
        "a process of the trainer was killed",
        f"Often the machine's memory was full. {HOST}",
        "batch=4",
        said=_re(r"exitcode\s*:\s*-9|Signal 9|SIGKILL"),
    ),
    # ---- matched in the message of the receipt or the ledger
    _told(
        "hub_down",
        "",
        "Look at https://status.huggingface.co, then go on",
        r"the Hub (did not answer|is down|cannot be reached|is busy)",
    ),
    _told(
        "hub_refused",
        "",
        f"Make a token that may write the repo: {TOKENS}",
        r"the Hub refused HF_TOKEN",
    ),
    _told(
        "wallet",
        "",
        "Add money: https://platform.shadeform.ai/settings/billing",
        r"wallet is too low|INSUFFICIENT_FUNDS",
    ),
    _told(
        "key",
        "Shadeform refused the key",
        "Get one: https://platform.shadeform.ai/settings/api",
        r"refused SHADEFORM_API_KEY",
    ),
    _told("small_gpu", "", "A GPU with more memory", r"of GPU memory, this one has", "offers"),
    _told("no_capacity", "the offer was sold out", "Others have GPUs: just offers", r"sold out"),
    _told(
        "wrong_gpus",
        "",
        AGAIN,
        r"GPUs (of \d+ GB )?were rented|CUDA devices are needed|compute on the GPUs",
    ),
    _told("small_disk", "", ROOM, r"of disk are free|GB of free disk", "offers"),
    _told("slow", "", AGAIN, r"the machine is slow"),
    _told(
        "setup",
        "",
        "The log shows what failed; it failed twice, so a retry will fail too",
        r"gave up: (install|fetch)",
    ),
    _told("other_machine", "", AGAIN, r"was not what was agreed"),
    _told("never_booted", "the machine never booted", AGAIN, r"did not come up"),
    _told("refused", "", "Nothing was rented", r"create refused", "offers"),
    _told("never_rented", "nothing was rented", "Nothing was lost", r"no instance was ever seen"),
    _told(
        "vanished",
        "the machine is gone and left no receipt: taken by its provider, ended by a limit, or deleted by hand",
        "What was on the Hub is there",
        r"left no receipt|preempted",
    ),
    # ---- reasons of a receipt
    Cause(
        "hang",
        "the trainer made no progress",
        "The stacks in the log show where; another machine often works",
    ),
    Cause(
        "spend_limit",
        "the spend limit was reached",
        "A higher limit, for the whole run",
        "spend-limit={limit}",
        place="step",
    ),
    Cause(
        "max_duration",
        "the time limit was reached",
        "A longer one",
        "max-duration={hours}h",
        place="step",
    ),
    Cause(
        "limit_lost",
        "a limit was reached before everything was saved",
        "A higher limit",
        "spend-limit={limit}",
        place="step",
    ),
    Cause("gate", "", "To continue all the same, resume with another gate=", place=""),
    Cause("user", "it was stopped by just stop", "Resume at any time", place="step"),
    Cause(
        "upload_failed",
        "",
        "Look at the Hub, HF_TOKEN and the repo's storage, then go on",
        place="",
    ),
    Cause("boot_failed", "", AGAIN, place=""),
    Cause("trainer_failed", "the trainer failed", "The end of its log: just logs {run}"),
    Cause("error", "", "The log before it: just logs {run}", place=""),
)
BY_NAME = {c.name: c for c in CAUSES}
# The same reason of a receipt, when the limit that was hit was the time
TIME_LOST = Cause(
    "limit_lost",
    "the time limit was reached before everything was saved",
    "A longer one",
    "max-duration={hours}h",
    place="step",
)
SAID = re.compile(r"^nanolan\.train: (?:refused: )?(.*)$", re.M)
XID = re.compile(r"NVRM: Xid \(.*?\): (\d+)", re.I)
# What NVIDIA's numbers mean, for those that end a run
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


def cause_of(log_tail: str) -> tuple[str, str]:
    """(reason, the trainer's own words or "") of a failed trainer; ("trainer_failed", "") when nothing is known."""
    tail = "\n".join(log_tail.splitlines()[-LINES:])
    said = SAID.findall(tail)
    reason = next((c.name for c in CAUSES if c.said and c.said.search(tail)), "trainer_failed")
    return reason, said[0].strip()[:300] if said else ""


def by_reason(reason: str, told: str) -> Cause:
    """The row of a receipt's reason by its name; of two limits, the one that was hit by what was told."""
    if reason == "limit_lost" and OF_TIME in told:
        return TIME_LOST
    return BY_NAME.get(reason, BY_NAME["error"])


def explain(reason: str, told: str, kernel: Sequence[str] = ()) -> Cause:
    """The row behind a receipt's reason: what the kernel saw, what was told of the end, or the reason's own."""
    found = [c for c in CAUSES if c.kernel and any(c.kernel.search(line) for line in kernel)]
    if found and reason in BY_THE_MACHINE:
        return found[0]
    if reason not in BY_NAME or not BY_NAME[reason].what:
        found = [c for c in CAUSES if c.told and c.told.search(told)]
        if found:
            return found[0]
    return by_reason(reason, told)


def sentence(
    cause: Cause, told: str, stage: str = "", step: int | None = None, kernel: Sequence[str] = ()
) -> str:
    """The cause in one line: "CUDA out of memory in evaluation at step 900"."""
    what = cause.what or clause(told) or cause.name.replace("_", " ")
    if cause.name == "gpu_error" and (number := xid(kernel)):
        what += f" (Xid {number}{': ' + XIDS[number] if number in XIDS else ''})"
    found = {"stage": where(stage, step), "step": where("", step)}.get(cause.place, "")
    return f"{what} {found}".strip()


def where(stage: str, step: int | None) -> str:
    """Stage and step, or "" if unknown."""
    at = f" at step {step}" if step else ""
    return f"in {PLACES.get(stage, stage)}{at}" if stage else f"{at.strip()}"


def clause(told: str) -> str:
    """The first sentence of what was told, without the phase it names and what was saved after it."""
    text = re.sub(r"^(phase \w+|the machine gave up): ", "", told.strip())
    return (
        re.split(r"\. (?:Saved|NOT saved|Go on|It is deleted|Next):? ", text)[0].strip().rstrip(".")
    )


def xid(kernel: Sequence[str]) -> int | None:
    """The first of NVIDIA's error numbers in the kernel's log."""
    return next((int(m[1]) for line in kernel if (m := XID.search(line))), None)


OF_TIME = "of max-duration"  # in the text of a stop for the time limit
