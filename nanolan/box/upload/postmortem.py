"""The black box: what a run that ended short leaves behind about its end, in runs/<id>/postmortem.json.

Cause, last lines, exception, stacks, and what the machine shows of itself. Every probe is a row with a name; one that fails
or hangs is noted as such and keeps none of the others away. All of it is masked.
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
from nanolan.net.deadline import begin
from nanolan.plan import Plan
from nanolan.redact import Mask
from nanolan.run.causes import explain, sentence
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

Probe = Callable[[Path], "str | dict[str, Any]"]  # looks at the machine, given its work folder


def write_up(
    plan: Plan,
    receipt: Receipt,
    work: Path,
    log: str,
    mask: Mask,
    probes: Mapping[str, Probe],
    most_s: float = PROBES_S,
) -> Postmortem:
    """The black box of a run whose verdict is `receipt`; `log` is masked already. Takes `most_s` at most."""
    seen, not_seen = examine(work, probes, mask, most_s)
    lines, beat = cut(log), read_trainer_beat(trainer_folder(work) / "heartbeat.json")
    kernel = seen.get("kernel", [])
    stage, step, phase = (beat.stage, beat.step, beat.phase) if beat else ("", None, "")
    found = explain(receipt.reason, receipt.message, kernel)
    return Postmortem(
        plan.run_id,
        found.name,
        sentence(found, receipt.message, stage, step, kernel),
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


def to_bytes(box: Postmortem, mask: Mask) -> bytes:
    """As JSON, masked once more as a whole."""
    return mask.hide(msgspec.json.format(msgspec.json.encode(box)).decode()).encode() + b"\n"


def headlines(box: Postmortem) -> list[str]:
    """What of it belongs into the log, the cause last."""
    values = [
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in value.items())
        for name, value in box.seen.items()
        if isinstance(value, dict)
    ]
    told = [
        "; ".join(
            [
                *values,
                *(
                    f"{name}: not seen, {why.partition(':')[0]}"
                    for name, why in box.not_seen.items()
                ),
            ]
        )
    ]
    told += [f"kernel: {line}" for line in box.kernel[-3:]]
    return [
        *filter(None, told),
        *(line[:300] for line in box.exception[-1:]),
        f"cause: {box.cause}",
    ]


# ------------------------------------------------------------------ the machine
def examine(
    work: Path, probes: Mapping[str, Probe], mask: Mask, most_s: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """(what the probes saw, why some did not), all at once, within `most_s`: nvidia-smi hangs for ever on a GPU that is gone."""
    end = time.monotonic() + most_s
    answers = {name: begin(partial(look, work)) for name, look in probes.items()}
    seen, not_seen = dict[str, Any](), dict[str, str]()
    for name, answer in answers.items():
        try:
            told = answer.result(max(0.0, end - time.monotonic()))
            seen[name] = cut(mask.hide(told)) if isinstance(told, str) else told
        except FutureTimeout:
            not_seen[name] = f"no answer within {most_s:.0f} s"
        except Exception as e:  # whatever it is, the others count
            not_seen[name] = mask.hide(f"{type(e).__name__}: {e}")[:LINE_CHARS]
    return seen, not_seen


def command(name: str, *words: str) -> str:
    """What a program of the machine says (in a rehearsal, of the rehearsed one); raises when it fails."""
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
    """The kernel's lines about memory that ran out, GPUs and broken hardware."""
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
