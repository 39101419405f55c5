"""The trainer's confinement on a rented machine: a user of its own, and the one folder that it may write.

    work/            root's: code, inputs, job files
    work/trainer/    the trainer's desk: out/, metrics.jsonl, heartbeat.json, what it measured; and its home

The trainer reads what strangers made (checkpoints, data) and may run what a model wrote, so it gets neither root's rights nor a
way to the secrets, which root alone can read. Where that cannot be done it runs as the box program does, and the log says why.
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
METADATA = "169.254.169.254"  # where clouds show a machine its own startup script, to whoever asks from there
PROBE_S = 60.0
# What CUDA opens. nvidia-caps, nvidia-nvswitch and nvidia-nvlink are root's alone by default, and it does without them
NODES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm")
# As the trainer's user: can it start, read its inputs, write its desk and use the GPUs? The last line says what it cannot.
PROBE = """
import os, sys
import nanolan
desk, *rest = sys.argv[1:]
nodes = rest[rest.index("--") + 1:]
for path in rest[:rest.index("--")]:
    for folder, _, names in os.walk(path, onerror=lambda e: sys.exit(str(e))):
        for name in names:
            open(os.path.join(folder, name), "rb").close()
for path in [desk, *nodes]:
    if not os.access(path, os.R_OK | os.W_OK):
        sys.exit(path + " cannot be written")
"""


@dataclass(frozen=True)
class TrainerUser:
    """Whom a trainer runs as."""

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
    """(the account that the trainer gets, "") or (None, why it runs as this program's own user)."""
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
    """Give all of a desk to its trainer: what root has put there, or an earlier life. Nothing is followed: neither a link nor a
    second name, by which a file elsewhere would be given away."""
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
    """Keep the trainer from the cloud's metadata service (TCP alone: its name server may have the same address); "" or why not."""
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
        if iptables("-C").returncode == 0:  # of an earlier life
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
