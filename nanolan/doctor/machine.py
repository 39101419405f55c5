"""Checks of this machine: programs, disk, code, clock."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from nanolan.checklist import Check
from nanolan.code.check import of_snapshot
from nanolan.code.git import run_git
from nanolan.code.snapshot import check_code_of
from nanolan.doctor.context import DoctorContext
from nanolan.errors import PreflightFailed
from nanolan.net.errors import HUB, SHADEFORM, of_exception
from nanolan.net.session import open_session

LEAST_GB = 0.2  # for a launch
ENOUGH_GB = 5.0  # for a d20 and the data sets of a phase on this machine
CLOCK_NOTE_S, CLOCK_WRONG_S = 60, 300
SYNC = "set the clock: sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"
NETWORK = "check the network, then: just doctor"
ANSWER_S = 5


def check_tools(context: DoctorContext) -> list[Check]:
    """python, git, ssh, uv."""
    uv = context.root / ".venv/bin/uv"
    rows = [
        (
            "git",
            shutil.which("git"),
            False,
            "install git: a launch sends the code as a git bundle",
        ),
        (
            "ssh",
            shutil.which("ssh"),
            None,
            "install an ssh client, to log in to a running instance",
        ),
        (
            "uv",
            str(uv) if uv.is_file() else shutil.which("uv"),
            None,
            "rm -r .venv; the next command creates it again",
        ),
    ]
    python = Check(
        "python",
        sys.version_info >= (3, 10),
        f"{platform.python_version()} at {sys.executable}",
        "" if sys.version_info >= (3, 10) else "install Python 3.10 or newer",
    )
    return [
        python,
        *(
            Check(
                name,
                True if path else ok_if_missing,
                _version(path) if path else "not found",
                "" if path else fix,
            )
            for name, path, ok_if_missing, fix in rows
        ),
    ]


def _version(path: str) -> str:
    """The first line of a program's version output (ssh only has -V)."""
    done = subprocess.run(
        [path, "-V" if path.endswith("ssh") else "--version"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        return f"found at {path}"
    version = (done.stdout or done.stderr).strip().splitlines()[0][:60]
    return f"{version} at {path}"


def check_disk(context: DoctorContext) -> list[Check]:
    """Free disk space at the checkout."""
    free = shutil.disk_usage(context.root).free / 1e9
    if free >= ENOUGH_GB:
        return [Check("disk", True, f"{free:,.0f} GB free")]
    return [
        Check(
            "disk",
            False if free < LEAST_GB else None,
            f"{free:,.1f} GB free; a d20 takes 1.1 GB, PyTorch up to 6 GB",
            "free some space, or work in a folder on another disk",
        )
    ]


def check_code(context: DoctorContext) -> list[Check]:
    """The checkout, which a launch sends as a git bundle: no remote is needed."""
    if shutil.which("git") is None:
        return [Check("code", False, "cannot be checked without git", "install git")]
    try:
        snapshot = check_code_of(context.root)
    except PreflightFailed as e:
        return [Check("code", False, str(e), fix_of(str(e)))]
    head, remote = snapshot.checkout.head[:8], _remote(context.root)
    where = f"origin {_without_user(remote)}" if remote else "no remote (none is needed)"
    if snapshot.dirty:
        changed = len(run_git(context.root, "status", "--porcelain").splitlines())
        text = f"commit {head} and {changed} uncommitted changes, which a launch sends too; {where}"
        return [Check("code", None, text), *of_snapshot(snapshot)]
    return [
        Check("code", True, f"commit {head}, no uncommitted changes; {where}"),
        *of_snapshot(snapshot),
    ]


def fix_of(error: str) -> str:
    """The fix for a checkout that cannot be sent; cloning again is needed only without a git repository."""
    if "not a git repository" in error or "unknown revision" in error:
        return "clone nanolan with git, or: git init && git add . && git commit -m start"
    return "fix what the message names; then: just doctor"


def _remote(root: Path) -> str:
    try:
        return run_git(root, "remote", "get-url", "origin").decode(errors="replace").strip()
    except PreflightFailed:
        return ""


def _without_user(url: str) -> str:
    """`url` without a user name or token."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if slashes else url


def check_clock(context: DoctorContext) -> list[Check]:
    """This clock against those of both services: the deadline sent to the provider is computed from it."""
    found = []
    for service, url in (
        (SHADEFORM, f"{context.settings.shadeform_api}/instances"),
        (HUB, f"{context.settings.hf_endpoint}/api/whoami-v2"),
    ):
        try:
            found.append(compare_clock(service.name, url, context.now))
        except OSError as e:  # requests' own errors are OSErrors
            trouble = of_exception(e, service, url.rpartition("/api/")[0] or url)
            found.append(
                Check(
                    "clock",
                    False,
                    f"could not be compared: {trouble.text}",
                    NETWORK,
                )
            )
        except (KeyError, ValueError, TypeError):
            found.append(Check("clock", None, f"{service.name} does not report its time"))
    return found


def compare_clock(name: str, url: str, now: Callable[[], datetime]) -> Check:
    """This clock against that of one service, which may refuse the request.

    Raises requests' errors, or KeyError or ValueError without a usable Date header.
    """
    with open_session(url) as session:
        before = now()
        with session.get(url, timeout=ANSWER_S, stream=True, allow_redirects=False) as answer:
            service_time = parsedate_to_datetime(answer.headers["Date"])
        ahead_s = (before + (now() - before) / 2 - service_time).total_seconds()
    text = f"{abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {name}"
    if abs(ahead_s) <= CLOCK_NOTE_S:
        return Check("clock", True, f"agrees with {name}")
    return Check("clock", False if abs(ahead_s) > CLOCK_WRONG_S else None, text, SYNC)
