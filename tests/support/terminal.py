"""A script as a user at a terminal runs it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping

from nanolan.settings.settings import ROOT


def at_terminal(
    script: str, *words: str, env: Mapping[str, str], stdout: bool = False
) -> tuple[int, bytes, bytes]:
    """(exit code, what the terminal shows, stdout): stderr is the terminal, and with `stdout` stdout, too. No input."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, str(ROOT / f"scripts/{script}.py"), *words],
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:  # Linux: the other side is closed
        pass
    os.close(ours)
    out, _ = child.communicate(timeout=60)
    return child.returncode, seen, out or b""
