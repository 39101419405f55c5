"""Reads and writes files in folders that a less trusted user can write: follows no links and limits sizes.

The box program is root and uploads what it reads; the trainer owns its folder. A link there must not lead to the keys, a
pipe must not block the program, and a huge file must not fill the memory.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

UNSAID_CHARS = 200_000
# a resource is short for a while; no file is damaged
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def entries_of(folder: Path, pattern: str) -> list[Path]:
    """The entries of `folder` whose names match, sorted; none if the folder does not exist. OSError if it cannot be read:
    `Path.glob` returns nothing then (Python 3.12 and newer), and existing files would count as lost."""
    try:
        return sorted(p for p in folder.iterdir() if fnmatch.fnmatch(p.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; OSError for a link, a pipe, a folder or a device."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file; OSError if it has more than `most`."""
    with open_regular(path) as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data


def last_lines(path: Path, most: int) -> bytes:
    """The last whole lines of a regular file, at most `most` bytes."""
    with open_regular(path) as f:
        if f.seek(0, os.SEEK_END) <= most:
            f.seek(0)
            return f.read(most)
        f.seek(-most - 1, os.SEEK_END)
        return f.read(most + 1).partition(b"\n")[2]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically; replaces what is there, without following a link."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb"
        ) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())  # else a crash may leave an empty file
        temp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def try_write_atomic(path: Path, data: bytes) -> bool:
    """`write_atomic`, best effort, for files that only help after a restart; False if the write failed."""
    try:
        write_atomic(path, data)
    except OSError:
        return False
    return True


class Log(io.TextIOWrapper):
    """A log that never raises: text that file descriptor `fd` does not accept (a full disk, a pipe without a
    reader) is kept in memory, up to a limit, the newest part.

    Lines are written whole, each in one piece, so that several processes can write to one file; flush() also writes
    a line that has no end yet.
    """

    def __init__(self, fd: int) -> None:
        try:
            place = io.FileIO(fd, "w", closefd=False)
        except OSError:  # it is closed
            place = io.FileIO(os.devnull, "w")
        super().__init__(place, encoding="utf-8", errors="replace", write_through=True)
        self.unsaid = ""
        self._begun = ""  # of a line
        self._lock = threading.RLock()  # a signal handler may print, too

    def write(self, text: str) -> int:
        with self._lock:
            lines, end, rest = (self._begun + text).rpartition("\n")
            self._begun = rest[-UNSAID_CHARS:]
            if end:
                self._put(lines + end)
        return len(text)

    def _put(self, text: str) -> None:
        try:
            super().write(text)
        except (OSError, ValueError):
            self.unsaid = (self.unsaid + text)[-UNSAID_CHARS:]

    def flush(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, ""
            if begun:
                self._put(begun)
        with contextlib.suppress(OSError, ValueError):
            super().flush()
