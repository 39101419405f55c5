"""Confines the trainer on a rented machine: a user of its own, and one folder that it may write.

    work/            owned by root: code, inputs, job files
    work/trainer/    owned by the trainer: out/, metrics.jsonl, heartbeat.json, evaluations; its home

The trainer reads foreign checkpoints and data and may run code that a model wrote, so it must neither be root nor read
the secrets. Where that is not possible it runs as the box program's user, and the log says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UID = (
    71_717  # between the ranges that distributions, systemd and containers give out; it has no name
)
METADATA = "169.254.169.254"  # where a cloud shows every process of a machine its startup script
PROBE_S = 60.0
# What CUDA opens. nvidia-caps, nvidia-nvswitch and nvidia-nvlink belong to root by default, and CUDA works without them
NODES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm")
# Run as the trainer's user: can it start, read its inputs, write its folder and use the GPUs? The last line says what fails.
PROBE = """
import os, sys
import nanolan
home, *rest = sys.argv[1:]
nodes = rest[rest.index("--") + 1:]
for path in rest[:rest.index("--")]:
    for folder, _, names in os.walk(path, onerror=lambda e: sys.exit(str(e))):
        for name in names:
            open(os.path.join(folder, name), "rb").close()
for path in [home, *nodes]:
    if not os.access(path, os.R_OK | os.W_OK):
        sys.exit(path + " cannot be written")
"""


@dataclass(frozen=True)
class TrainerUser:
    """The operating system user that a trainer runs as."""

    uid: int
    home: Path
    groups: tuple[int, ...] = ()  # those of the GPUs' device nodes

    @property
    def popen(self) -> dict[str, Any]:
        """For subprocess.Popen."""
        return {
            "user": self.uid,
            "group": self.uid,
            "extra_groups": list(self.groups),
            "umask": 0o077,
        }

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "USER": "trainer", "LOGNAME": "trainer"}


def trainer_folder(work: Path) -> Path:
    """The folder that a trainer writes."""
    return work / "trainer"


def confine(
    work: Path, *, uid: int = UID, dev: Path = Path("/dev"), python: str = sys.executable
) -> tuple[TrainerUser | None, str]:
    """(the trainer's user, "") or (None, why the trainer runs as this program's user)."""
    trainer_folder(work).mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return None, "the box program is not root"
    nodes = [p for pattern in NODES for p in sorted(dev.glob(pattern)) if p.is_char_device()]
    account = TrainerUser(
        uid, trainer_folder(work), tuple(sorted({p.stat().st_gid for p in nodes} - {0}))
    )
    try:
        chown_tree(trainer_folder(work), uid)
        done = subprocess.run(
            [
                python,
                "-c",
                PROBE,
                trainer_folder(work),
                work / "model",
                work / "data",
                "--",
                *nodes,
            ],
            cwd=Path.cwd(),
            env={"PATH": os.environ.get("PATH", os.defpath)} | account.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=PROBE_S,
            **account.popen,
        )
    except (OSError, subprocess.SubprocessError) as e:
        return None, f"{type(e).__name__}: {e}"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][
            :200
        ]
    return account, ""


def chown_tree(folder: Path, uid: int) -> None:
    """Make `uid` the owner of everything in a folder, except links and files with a second name: these may be files elsewhere."""
    for place, folders, files in os.walk(folder):
        for path in [Path(place), *(Path(place, name) for name in folders + files)]:
            facts = path.lstat()
            if (
                facts.st_uid != uid
                and not path.is_symlink()
                and (path.is_dir() or facts.st_nlink == 1)
            ):
                os.chown(path, uid, uid, follow_symlinks=False)


def block_metadata_service(uid: int = UID) -> str:
    """Reject the trainer's TCP connections to the cloud's metadata service; "" or why that failed. UDP stays open: the name server
    may have the same address."""
    rule = [
        "OUTPUT",
        "-p",
        "tcp",
        "-d",
        METADATA,
        "-m",
        "owner",
        "--uid-owner",
        str(uid),
        "-j",
        "REJECT",
    ]

    def iptables(act: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["iptables", "-w", "10", act, *rule],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_S,
        )

    try:
        if iptables("-C").returncode == 0:  # from an earlier start
            return ""
        done = iptables("-I")
    except (OSError, subprocess.SubprocessError) as e:
        return f"{type(e).__name__}: {e}"
    return (
        ""
        if done.returncode == 0
        else (done.stderr.strip().splitlines() or [f"iptables: exit code {done.returncode}"])[0][
            :200
        ]
    )
