"""Transfers large files to and from the Hub in a child process, which is killed and retried when it makes no progress.

Xet, the Hub's transfer engine, ignores HTTP time-outs: a stalled upload would wait for ever, but a child process can be
killed. The child gets the job on stdin, so that the token is not in an argument list.

    python -m nanolan.hub.transfer < job.json        (started by `run_transfer` only)
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from nanolan.errors import NanolanError, Unreachable
from nanolan.net.backoff import backoff_s
from nanolan.redact import Secret, short

if TYPE_CHECKING:
    from nanolan.hub.client import Hub

PATIENCE_S = 3600.0  # how long to retry while the Hub refuses or fails
STALL_S = 120.0  # kill the child after this long without progress
STEP_BYTES = 64 << 10  # one step of progress; a trickle of bytes is none
STEP_CPU_S = 0.5  # also one step of progress
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
POLL_S = 0.1
AT_ONCE = 8  # files that a download has under way, as the Hub's own client
ERROR_CHARS = 400
COUNT_S = 0.5  # between two numbers that the child prints


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
    count: bool = False  # upload: the child prints how many bytes it has sent so far


def run_transfer(
    job: Job,
    token: Secret,
    *,
    give_up: Callable[[], str],
    say: Callable[[str], None],
    on_trouble: Callable[[str], object] = lambda error: None,
    on_sent: Callable[[int], object] | None = None,
    stall_s: float = STALL_S,
    patience_s: float = PATIENCE_S,
    attempt: Callable[..., str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Retry the job until it succeeds; Unreachable once `give_up()` returns a reason, or `patience_s` after the first failure.

    `on_sent` is called with the bytes that an upload has sent so far; another try begins anew."""
    failing_since, failures = 0.0, 0
    what = f"{job.kind} of {job.target or job.repo}"
    job = msgspec.structs.replace(job, token=token.reveal(), count=on_sent is not None)
    once = attempt or partial(_attempt, on_sent=on_sent)
    while error := once(job, give_up, stall_s):
        failing_since, failures = failing_since or clock(), failures + 1
        wait = backoff_s(failures, FIRST_WAIT_S, LONGEST_WAIT_S)
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


def _attempt(
    job: Job,
    give_up: Callable[[], str],
    stall_s: float,
    on_sent: Callable[[int], object] | None = None,
) -> str:
    """Run the job once in a child process; "" on success, else the last line of the child's stderr."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "nanolan.hub.transfer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "0" if job.count else "1"},
        )
    except (OSError, MemoryError) as e:  # such as no memory for another process now
        return f"no process could be started: {type(e).__name__}: {e}"
    assert child.stdin and child.stdout and child.stderr  # noqa: S101
    try:
        child.stdin.write(msgspec.json.encode(job))
        child.stdin.close()
        os.set_blocking(child.stderr.fileno(), False)
        os.set_blocking(child.stdout.fileno(), False)
        stderr = b""
        moved_at = time.monotonic()
        done = 0.0
        while child.poll() is None:
            stderr = (stderr + (child.stderr.read() or b""))[-20_000:]
            _pass_on(child.stdout, on_sent)
            now = _progress(child.pid)
            if now >= done + 1:
                done = now
                moved_at = time.monotonic()
            if time.monotonic() - moved_at > stall_s:
                return f"no progress for {stall_s:.0f} s"
            if reason := give_up():
                return reason
            time.sleep(POLL_S)
        stderr += child.stderr.read() or b""
    except BrokenPipeError:
        stderr = b"the child process ended before it read its job"
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
        child.stdout.close()
    lines = stderr.decode(errors="replace").strip().splitlines()
    lines = lines or [f"exit code {child.returncode}"]
    return "" if child.returncode == 0 else short(lines[-1], ERROR_CHARS)


def _pass_on(stdout: IO[bytes], on_sent: Callable[[int], object] | None) -> None:
    """Empty the child's stdout; the newest whole number of bytes goes to `on_sent`."""
    numbers = [line for line in (stdout.read() or b"").splitlines() if line.isdigit()]
    if on_sent and numbers:
        on_sent(int(numbers[-1]))


def _progress(pid: int) -> float:
    """Steps of progress of the child so far, by its CPU time and the bytes that it has read and written."""
    import psutil

    try:
        process = psutil.Process(pid)
        cpu = process.cpu_times()
        io = process.io_counters() if hasattr(process, "io_counters") else None
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

    hub = Hub(job.endpoint, Secret(job.token), patience_s=0, bars=job.count)
    if job.count:
        print_sent_bytes()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the client's bars
            commit_step(job, hub)
    except RuntimeError as e:  # of Xet, for example when its cache disk is full
        print(f"without Xet: {e}", file=sys.stderr)
        constants.HF_HUB_DISABLE_XET = True
        commit_step(job, hub)


def print_sent_bytes() -> None:
    """From now on print how many bytes the Hub's client has read and sent: it tells its progress bars, and nobody else."""
    from huggingface_hub.utils import tqdm

    sent = [0]
    draw = tqdm.update

    def update(bar: Any, n: float | None = 1) -> bool | None:
        # of Xet's two bars the other one counts the same bytes once more, without those that the Hub has already
        if bar.unit == "B" and "New Data" not in bar.desc:
            sent[0] += int(n or 0)
        return draw(bar, n)

    def print_news() -> None:
        printed = 0
        while True:
            time.sleep(COUNT_S)
            if sent[0] != printed:
                printed = sent[0]
                os.write(1, f"{printed}\n".encode())  # takes no lock, which the end may find held

    tqdm.update = update
    threading.Thread(target=print_news, daemon=True).start()


def commit_step(job: Job, hub: Hub) -> None:
    """One commit: add the files of `folder` under `target`, and remove files of older steps unless `keep`."""
    old = set() if job.keep else set(hub.tree(job.repo).under(job.target))
    new: dict[str, bytes | Path] = {
        f"{job.target}/{name}".lstrip("/"): Path(job.folder) / name for name in job.files
    }
    stale = {
        p for p in old - set(new) if p.rsplit("/", 1)[-1].startswith(("model_", "meta_", "optim_"))
    }
    hub.commit(job.repo, new, job.message, delete=sorted(stale))


def _download(job: Job) -> None:
    """Download each file to folder/<path in the repo>, several at a time; the caller has checked existing files.

    Not by snapshot_download: it lists the whole repo, and ends without an error when the Hub refuses the list.
    """
    from concurrent.futures import ThreadPoolExecutor

    from nanolan.hub.client import Hub

    hub = Hub(job.endpoint, Secret(job.token) if job.token else None, patience_s=0)

    def download(path: str) -> None:
        hub.download(job.repo, path, Path(job.folder), kind=job.repo_kind, revision=job.revision)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for _ in pool.map(download, job.files):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
