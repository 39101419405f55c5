"""postmortem.json of a run that failed or was stopped: cause, last log lines, exception, stacks, and the machine's state.

Every probe of the machine is a named row; one that fails or hangs is noted and does not keep the others away. Secrets are
masked.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from nanolan.box.machine_check import query_gpus
from nanolan.box.sandbox import trainer_folder
from nanolan.box.watch.progress import read_trainer_beat
from nanolan.net.deadline import start_thread
from nanolan.plan import Plan
from nanolan.redact import Mask
from nanolan.run.causes import describe, explain
from nanolan.run.postmortem import Postmortem, exception_of, stacks_of
from nanolan.run.record import Receipt
from nanolan.times import iso, now_utc

PROBES_S = 10.0  # for all of them together
COMMAND_S = 8.0
LINES, LINE_CHARS = 500, 2000
KERNEL = re.compile(
    r"out of memory|\boom\b|oom-kill|Killed process|NVRM|Xid|nvidia|Hardware Error|I/O error|segfault",
    re.I,
)
LIBRARIES = ("torch", "numpy", "huggingface_hub", "wandb")

Probe = Callable[
    [Path], "str | dict[str, Any]"
]  # reads something of the machine, given its work folder


def write_up(
    plan: Plan,
    receipt: Receipt,
    work: Path,
    log: str,
    mask: Mask,
    probes: Mapping[str, Probe],
    most_s: float = PROBES_S,
) -> Postmortem:
    """The postmortem of the run of `receipt`; `log` is masked already. Takes `most_s` seconds at most."""
    seen, not_seen = examine(work, probes, mask, most_s)
    lines, beat = cut(log), read_trainer_beat(trainer_folder(work) / "heartbeat.json")
    kernel = seen.get("kernel", [])
    stage, step, phase = (beat.stage, beat.step, beat.phase) if beat else ("", None, "")
    found = explain(receipt.reason, receipt.message, kernel)
    return Postmortem(
        plan.run_id,
        found.name,
        describe(found, receipt.message, stage, step, kernel),
        plan.attempt,
        iso(now_utc()),
        receipt.verdict,
        receipt.message,
        phase,
        stage,
        step,
        exception_of(lines),
        stacks_of(lines) if receipt.reason == "hang" else (),
        seen,
        not_seen,
        tuple(lines),
        msgspec.to_builtins(plan),
    )


def to_bytes(found: Postmortem, mask: Mask) -> bytes:
    """As JSON, masked once more as a whole."""
    return mask.hide(msgspec.json.format(msgspec.json.encode(found)).decode()).encode() + b"\n"


def headlines(found: Postmortem) -> list[str]:
    """Its summary for the log, the cause last."""
    values = [
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in value.items())
        for name, value in found.seen.items()
        if isinstance(value, dict)
    ]
    failures = {name: why.partition(":")[0] for name, why in found.not_seen.items()}
    missing = [f"{name}: not seen, {why}" for name, why in failures.items()]
    machine = "; ".join([*values, *missing])
    return [
        *([machine] if machine else []),
        *(f"kernel: {line}" for line in found.kernel[-3:]),
        *(line[:300] for line in found.exception[-1:]),
        f"cause: {found.cause}",
    ]


# ------------------------------------------------------------------ the machine
def examine(
    work: Path, probes: Mapping[str, Probe], mask: Mask, most_s: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """({probe: answer}, {probe: why it has none}); all probes run at once, for `most_s` seconds at most: nvidia-smi hangs for ever
    on a GPU that fell off the bus."""
    end = time.monotonic() + most_s
    answers = {name: start_thread(partial(look, work)) for name, look in probes.items()}
    seen, not_seen = dict[str, Any](), dict[str, str]()
    for name, answer in answers.items():
        try:
            value = answer.result(max(0.0, end - time.monotonic()))
            seen[name] = cut(mask.hide(value)) if isinstance(value, str) else value
        except FutureTimeout:
            not_seen[name] = f"no answer within {most_s:.0f} s"
        except Exception as e:  # whatever it is, the others count
            not_seen[name] = mask.hide(f"{type(e).__name__}: {e}")[:LINE_CHARS]
    return seen, not_seen


def command(name: str, *words: str) -> str:
    """The output of a program of the machine (in a rehearsal, of its stand-in); OSError when it fails."""
    path = f"{os.environ.get('BOX_ROOT', '')}/usr/bin/{name}"
    done = subprocess.run(
        [path, *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_S,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise OSError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def kernel(work: Path) -> str:
    """The kernel's lines about exhausted memory, GPUs and hardware errors."""
    return "\n".join(line for line in command("dmesg", "-T").splitlines() if KERNEL.search(line))


def disk(work: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(work)
    return {
        "folder": str(work),
        "total_gb": round(usage.total / 1e9, 1),
        "free_gb": round(usage.free / 1e9, 1),
    }


def memory(work: Path) -> dict[str, Any]:
    """From /proc/meminfo, in GB."""
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.M))
    names = {
        "MemTotal": "total_gb",
        "MemAvailable": "available_gb",
        "SwapFree": "swap_free_gb",
        "Shmem": "shared_gb",
    }
    return {shown: round(int(rows[name]) / 1e6, 1) for name, shown in names.items() if name in rows}


def versions(work: Path) -> dict[str, Any]:
    driver = next(iter(query_gpus("driver_version")), "?")
    found = {"python": sys.version.split()[0], "system": platform.platform(), "driver": driver}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


PROBES: dict[str, Probe] = {
    "gpus": lambda work: command("nvidia-smi"),
    "kernel": kernel,
    "disk": disk,
    "memory": memory,
    "versions": versions,
}


# ------------------------------------------------------------------ the log
def cut(text: str) -> list[str]:
    """The last lines of a masked text."""
    return [line[:LINE_CHARS] for line in text.splitlines()[-LINES:]]
