"""Locks between the processes of this laptop. A lock ends with its process, also if that is killed.

Uses flock where the file system supports it; on an NFS without a lock daemon (ENOLCK) a lock file with the process id.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP}  # filelock itself handles ENOSYS


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def hold(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of that path; Busy if another process still holds it after `wait_s`, OSError if it cannot be created."""
    lock = _acquired(path, wait_s)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether another process (or thread) holds the lock; OSError if that is unknown."""
    if not path.parent.is_dir():
        return False
    try:
        with hold(path):
            return False
    except Busy:
        return True


def _acquired(path: Path, wait_s: float) -> BaseFileLock:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _wait(FileLock(path, mode=0o600), wait_s)
    except OSError as e:
        if e.errno not in NO_FLOCK:
            raise
        return _wait(SoftFileLock(path.with_name(f"{path.name}.pid"), mode=0o600), wait_s)


def _wait(lock: BaseFileLock, wait_s: float) -> BaseFileLock:
    try:
        lock.acquire(timeout=wait_s, poll_interval=0.05)
    except Timeout:
        raise Busy(str(lock.lock_file)) from None
    return lock
