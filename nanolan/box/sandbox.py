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
# What CUDA opens; dxg is the GPU of WSL2. All other nodes may be root's alone: nvidia-caps, nvidia-nvswitch and
# nvidia-nvlink are so by default, and CUDA works without them. A MIG slice's own caps are for everybody to read
NODES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "dxg")
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


def gpu_nodes(dev: Path) -> list[Path]:
    """The device nodes that the trainer's user must be able to open."""
    return [p for pattern in NODES for p in sorted(dev.glob(pattern)) if p.is_char_device()]


def confine(
    work: Path, *, uid: int = UID, dev: Path = Path("/dev"), python: str = sys.executable
) -> tuple[TrainerUser | None, str]:
    """(the trainer's user, "") or (None, why the trainer runs as this program's user)."""
    trainer_folder(work).mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return None, "the box program is not root"
    nodes = gpu_nodes(dev)
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


def fence(account: TrainerUser | None) -> str:
    """Keep the trainer from the cloud's metadata service, whatever user it runs as; "" or why that failed.

    Without an account the trainer is started as this program's user. Then this program takes the trainer's group, and what
    it starts from now on has it, too: nothing of it asks the service, and the machine's other programs of root still can.
    """
    why = block_metadata_service()
    if account is None and not why:
        try:
            os.setgid(UID)
        except OSError as e:  # a container may have no such group
            return f"{type(e).__name__}: {e}"
    return why


def block_metadata_service(trainer: int = UID) -> str:
    """Reject TCP connections to the cloud's metadata service by the user, and by the group, of this number; "" or why that
    failed. UDP stays open: the name server may have the same address."""
    return next(filter(None, (_block(f"--{kind}-owner", trainer) for kind in ("uid", "gid"))), "")


def _block(match: str, number: int) -> str:
    """Add one rule, unless an earlier start has; "" or why that failed."""
    rule = ["OUTPUT", "-p", "tcp", "-d", METADATA, "-m", "owner", match, str(number)]
    try:
        if _iptables("-C", rule).returncode == 0:
            return ""
        done = _iptables("-I", rule)
    except (OSError, subprocess.SubprocessError) as e:
        return f"{type(e).__name__}: {e}"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"iptables: exit code {done.returncode}"])[0][:200]


def _iptables(act: str, rule: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["iptables", "-w", "10", act, *rule, "-j", "REJECT"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PROBE_S,
    )
