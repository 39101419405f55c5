"""Trouble of a machine, made for real: a disk that is full, a machine without memory for another process, an output that is gone.

with small_disk(folder, megabytes) as disk: ... disk.fill()
subprocess.Popen([sys.executable, trouble.__file__, "no-fork", *command])
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# x86_64 and aarch64: (AUDIT_ARCH, clone, clone3, [fork, vfork])
CALLS = {"x86_64": (0xC000003E, 56, 435, [57, 58]), "aarch64": (0xC00000B7, 220, 435, [])}
THREAD = 0x00010000  # CLONE_THREAD
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    folder: Path

    def fill(self) -> None:
        """Not one byte more goes onto it."""
        with open(self.folder / "filler", "ab", buffering=0) as f:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        f.write(b"\0" * size)
                except OSError as e:
                    assert e.errno == errno.ENOSPC

    def read_only(self) -> None:
        """Nothing is written any more."""
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A tmpfs of so many megabytes in `folder`; the test is skipped where that may not be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def no_fork() -> None:
    """From now on this process and what it becomes can start no other (threads, it can): EAGAIN, as without memory for one."""
    arch, clone, clone3, forks = CALLS[os.uname().machine]

    def line(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equal, is_set, end = 0x20, 0x15, 0x45, 0x06
    program = [
        line(load, 0, 0, 4),
        line(equal, 1, 0, arch),
        line(end, 0, 0, ALLOW),
        line(load, 0, 0, 0),
    ]
    program += [
        part
        for number in forks
        for part in (line(equal, 0, 1, number), line(end, 0, 0, REFUSE | errno.EAGAIN))
    ]
    program += [
        line(equal, 0, 1, clone3),
        line(end, 0, 0, REFUSE | errno.ENOSYS),  # glibc then takes clone
        line(equal, 1, 0, clone),
        line(end, 0, 0, ALLOW),
        line(load, 0, 0, 16),
        line(is_set, 0, 1, THREAD),
        line(end, 0, 0, ALLOW),
        line(end, 0, 0, REFUSE | errno.EAGAIN),
    ]
    code = b"".join(program)
    kept = ctypes.create_string_buffer(code, len(code))
    filters = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(kept))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filters), 0, 0):
        sys.exit(f"no filter can be set here: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    assert sys.argv[1] == "no-fork"
    no_fork()
    os.execvp(sys.argv[2], sys.argv[2:])
