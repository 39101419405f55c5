"""Files that somebody less trusted may have put there: read without following a link, and never more than so many bytes.

The box program is root and sends what it reads to the Hub; the trainer's folder is the trainer's. A link there must not
lead to the keys, a pipe must not hold it up, and a file of any size must not fill the memory.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

UNSAID_CHARS = 200_000
SHORT = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
)  # the machine lacks something for a while; no file is damaged


def entries_of(folder: Path, pattern: str) -> list[Path]:
    """The entries of `folder` whose names match, by name; none if there is no such folder. OSError if it cannot be read:
    `Path.glob` answers with nothing then (Python 3.12 and newer), and what is there would count as lost."""
    try:
        return sorted(p for p in folder.iterdir() if fnmatch.fnmatch(p.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_plain(path: Path) -> BinaryIO:
    """An ordinary file, to be read; OSError for a link, a pipe, a folder or a device."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(fd, "rb")


def read_plain(path: Path, most: int) -> bytes:
    """All of an ordinary file; OSError when it has more than `most` bytes."""
    with open_plain(path) as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data


def last_lines(path: Path, most: int) -> bytes:
    """The last whole lines of an ordinary file, `most` bytes of them at most."""
    with open_plain(path) as f:
        if f.seek(0, os.SEEK_END) <= most:
            f.seek(0)
            return f.read(most)
        f.seek(-most - 1, os.SEEK_END)
        return f.read(most + 1).partition(b"\n")[2]


def write_plain(path: Path, data: bytes) -> None:
    """Whole or not at all, in place of whatever is there: never through a link."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb"
        ) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())  # else a crash may leave the new name with nothing in it
        temp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def note_plain(path: Path, data: bytes) -> bool:
    """The same for what only helps a later life of this program; False where the disk does not take it."""
    try:
        write_plain(path, data)
    except OSError:
        return False
    return True


class Log(io.TextIOWrapper):
    """The log of a program that must go on: what file number `fd` does not take (a full disk, a pipe without a reader) is kept
    in memory, the newest of it, and nothing waits in a buffer for the program's end."""

    def __init__(self, fd: int) -> None:
        try:
            place = io.FileIO(fd, "w", closefd=False)
        except OSError:  # it is closed
            place = io.FileIO(os.devnull, "w")
        super().__init__(place, encoding="utf-8", errors="replace", write_through=True)
        self.unsaid = ""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            self.unsaid = (self.unsaid + text)[-UNSAID_CHARS:]
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()
