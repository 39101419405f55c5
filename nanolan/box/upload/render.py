"""Renders the report and the model card in a child process, with a time limit, so that a failure there does not end this program.

The child gets no secrets. The caller masks its output all the same: names and answers come from elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from nanolan.errors import RunFailed

KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH")


def render(what: str, files: Mapping[str, str], most_s: float) -> str:
    """`python -m nanolan.report page|card` with {name: content} on its stdin: the page or the card.

    RunFailed when it ends with an error, subprocess.TimeoutExpired (and the child is dead) after `most_s` seconds.
    """
    done = subprocess.run(
        [sys.executable, "-m", "nanolan.report", what],
        input=json.dumps(files).encode(),
        capture_output=True,
        timeout=most_s,
        env={name: os.environ[name] for name in KEPT if name in os.environ},
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RunFailed(f"the {what} could not be made: {last[:300]}")
    return done.stdout.decode()
