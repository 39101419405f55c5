"""Big files to and from the Hub, each in a child process that is killed and tried again when it makes no progress.

Xet, the Hub's transfer engine, ignores HTTP time-outs, and a stalled upload would wait for ever; a child
can be ended from outside. The job goes to the child on stdin, so that the token is in no argument list.

    python -m nanolan.hub.transfer < job.json        (started by `run_transfer` only)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nanolan.errors import NanolanError, Unreachable
from nanolan.redact import Secret, cursor_allowed, short

if TYPE_CHECKING:
    from nanolan.hub.client import Hub

PATIENCE_S = 3600.0  # how long a Hub that refuses or fails is waited for
STALL_S = 120.0  # no work done for this long: kill
STEP_BYTES, STEP_CPU_S = 64 << 10, 0.5  # what counts as work: an answer that drips is none
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
POLL_S = 0.1
ERROR_CHARS = 400
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Job(msgspec.Struct, frozen=True):
    """One commit of local files to `repo`, or downloads of `files` (repo paths) into `folder`."""

    kind: str  # "upload" or "download"
    endpoint: str
    repo: str
    repo_kind: str
    revision: str
    folder: str  # local
    files: tuple[str, ...]  # upload: names in folder; download: paths in the repo
    target: str = ""  # upload: folder in the repo
    message: str = ""
    keep: bool = False  # upload: keep the files of older steps in `target`
    token: str = ""
    bars: bool = False  # show the client's progress bars, as they come, on stderr


def run_transfer(
    job: Job,
    token: Secret,
    *,
    give_up: Callable[[], str],
    say: Callable[[str], None],
    on_trouble: Callable[[str], object] = lambda error: None,
    stall_s: float = STALL_S,
    patience_s: float = PATIENCE_S,
    attempt: Callable[..., str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run the job until it succeeds; Unreachable once `give_up()` has a reason, or `patience_s` after the first failure."""
    wait, failing_since, what = FIRST_WAIT_S, 0.0, f"{job.kind} of {job.target or job.repo}"
    while error := (attempt or _attempt)(
        msgspec.structs.replace(job, token=token.reveal()), give_up, stall_s
    ):
        failing_since = failing_since or clock()
        if not give_up():
            on_trouble(error)
        late = clock() - failing_since > patience_s
        reason = give_up() or (f"it has failed for {patience_s / 60:.0f} minutes" if late else "")
        if not reason:
            say(f"{what} failed: {error}; trying again in {wait:.1f} s")
        end = clock() + wait
        while not reason and clock() < end:
            sleep(POLL_S)
            reason = give_up()
        if reason:
            raise Unreachable(
                f"{what} given up ({reason}){'' if error == reason else ': ' + error}"
            )
        wait = min(wait * 2, LONGEST_WAIT_S)


def _attempt(job: Job, give_up: Callable[[], str], stall_s: float) -> str:
    """ "" on success, else the child's last words."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "nanolan.hub.transfer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | (bars() if job.bars else NO_BARS),
        )
    except (OSError, MemoryError) as e:  # no memory for another process: there may be, later
        return f"no process could be started: {type(e).__name__}: {e}"
    assert child.stdin and child.stderr  # noqa: S101
    try:
        child.stdin.write(msgspec.json.encode(job))
        child.stdin.close()
        os.set_blocking(child.stderr.fileno(), False)
        words, moved_at = b"", time.monotonic()
        done = 0.0
        while child.poll() is None:
            new = child.stderr.read() or b""
            words = (words + new)[-20_000:]
            if job.bars:
                bar = cursor_allowed(sys.stderr)
                bar.write(new.decode(errors="replace"))
                bar.flush()
            now = _progress(child.pid)
            if now >= done + 1:
                done, moved_at = now, time.monotonic()
            if time.monotonic() - moved_at > stall_s:
                return f"no progress for {stall_s:.0f} s"
            if reason := give_up():
                return reason
            time.sleep(POLL_S)
        words += child.stderr.read() or b""
    except BrokenPipeError:
        words = b"the child ended before it read its job"
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
    lines = words.decode(errors="replace").strip().splitlines() or [f"exit code {child.returncode}"]
    return "" if child.returncode == 0 else short(lines[-1], ERROR_CHARS)


def bars() -> dict[str, str]:
    """The Hub client draws its bars although its stderr is a pipe, as wide as our terminal."""
    return {
        "TQDM_POSITION": "-1",
        "COLUMNS": str(shutil.get_terminal_size().columns),
        "LINES": "24",
    }


def _progress(pid: int) -> float:
    """Steps of work that the child has done so far, by its CPU time and the bytes it has read and written."""
    import psutil

    try:
        p = psutil.Process(pid)
        cpu, io = p.cpu_times(), p.io_counters() if hasattr(p, "io_counters") else None
    except psutil.Error:
        return 0.0
    cpu_s = cpu.user + cpu.system
    return (io.read_chars + io.write_chars) / STEP_BYTES + cpu_s / STEP_CPU_S if io else 10 * cpu_s


# ------------------------------------------------------------------ the child
def main() -> None:
    """Do one transfer; the exit code is the result, the last line on stderr the reason."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        _upload(job) if job.kind == "upload" else _download(job)
    except NanolanError as e:
        sys.exit(" ".join(str(e).split()))
    except Exception as e:
        sys.exit(f"{type(e).__name__}: {' '.join(str(e).split())}")


def _upload(job: Job) -> None:
    from huggingface_hub import constants

    from nanolan.hub.client import Hub

    hub = Hub(job.endpoint, Secret(job.token), patience_s=0)
    try:
        commit_step(job, hub)
    except RuntimeError as e:  # Xet's own, such as a cache on a disk that takes nothing
        print(f"without Xet: {e}", file=sys.stderr)
        constants.HF_HUB_DISABLE_XET = True
        commit_step(job, hub)


def commit_step(job: Job, hub: Hub) -> None:
    """One commit: the files of `folder` under `target`, older steps' files removed unless `keep`."""
    old = set() if job.keep else set(hub.tree(job.repo).under(job.target))
    new: dict[str, bytes | Path] = {
        f"{job.target}/{name}".lstrip("/"): Path(job.folder) / name for name in job.files
    }
    stale = {
        p for p in old - set(new) if p.rsplit("/", 1)[-1].startswith(("model_", "meta_", "optim_"))
    }
    hub.commit(job.repo, new, job.message, delete=sorted(stale))


def _download(job: Job) -> None:
    """Each file to folder/<path in the repo>; files that are there already are checked by the caller."""
    from nanolan.hub.client import Hub

    hub = Hub(job.endpoint, Secret(job.token) if job.token else None, patience_s=0)
    for path in job.files:
        hub.download(job.repo, path, Path(job.folder), kind=job.repo_kind, revision=job.revision)


if __name__ == "__main__":
    main()
