"""Why a trainer failed, from what it said: a table from words in its last lines to the design's reasons. A new cause is a row."""
from __future__ import annotations

import re

LINES = 60               # of the log's end that are looked at

# The first row that is found counts; the more telling ones come first.
CAUSES = (
    ("oom", re.compile(r"out of memory|OutOfMemoryError|Cannot allocate memory", re.I)),
    ("nan", re.compile(r"(loss|norm) is (nan|-?inf)|a weight is not a number|the loss was over", re.I)),
    ("disk_full", re.compile(r"No space left on device|Disk quota exceeded", re.I)),
    ("gpu_error", re.compile(r"\bXid\b|CUDA error|uncorrectable ECC|NVLink error|device-side assert", re.I)),
    ("nccl", re.compile(r"NCCL error|ncclSystemError|Watchdog caught collective", re.I)),
    ("bad_data", re.compile(r"nanolan\.train: .*(missing|damaged|not a row|does not|no conversation|not a readable job)")),
    ("killed", re.compile(r"exitcode\s*:\s*-9|Signal 9|SIGKILL", re.I)),
)
SAID = re.compile(r"^nanolan\.train: (.*)$", re.M)


def cause_of(log_tail: str) -> tuple[str, str]:
    """(reason, the trainer's own words or "") of a failed trainer; ("trainer_failed", "") when nothing is known."""
    tail = "\n".join(log_tail.splitlines()[-LINES:])
    said = SAID.findall(tail)
    reason = next((name for name, pattern in CAUSES if pattern.search(tail)), "trainer_failed")
    return reason, said[0].strip()[:300] if said else ""
