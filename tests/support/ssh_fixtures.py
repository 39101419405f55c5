"""A stand-in for ssh on PATH: it notes its arguments and plays a log; and a desk with a run whose machine it reaches."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.status_fixtures import Desk

# `cat` prints the log, `tail -n +N -F` prints it from line N on until the file "gone" is there, all else is echoed
STANDIN = r"""#!/bin/sh
dir=@DIR@
for word in "$@"; do printf '%s\0' "$word"; done >>"$dir/argv"; printf '\n' >>"$dir/argv"
[ "$1" = -E ] && { [ -e "$dir/messages" ] && cat "$dir/messages" >"$2"; shift 2; }
[ -e "$dir/unreachable" ] && { echo "ssh: connect to host: Connection timed out" >&2; exit 255; }
for last in "$@"; do :; done
case $last in
    "cat "*) exec cat "$dir/log" ;;
    "tail -n +"*)
        from=${last#tail -n +}; from=${from%% *}
        tail -n "+$from" -f "$dir/log" & child=$!
        trap 'kill $child' TERM EXIT
        while [ ! -e "$dir/gone" ]; do sleep 0.1; done
        sleep 0.3; exit 255 ;;
    *) echo "ran: $last"; exit "$(cat "$dir/code" 2>/dev/null || echo 0)" ;;
esac
"""


class Ssh:
    """The stand-in, in a folder for PATH."""

    def __init__(self, root: Path) -> None:
        self.dir = root / "ssh-standin"
        self.dir.mkdir()
        (self.dir / "ssh").write_text(STANDIN.replace("@DIR@", str(self.dir)))
        (self.dir / "ssh").chmod(0o755)

    def set(self, **files: str) -> None:
        for name, text in files.items():
            (self.dir / name).write_text(text)

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call."""
        path = self.dir / "argv"
        return (
            [line.split("\0") for line in path.read_text().split("\0\n") if line]
            if path.exists()
            else []
        )


def environment(desk: Desk, ssh: Ssh | None = None, **more: str) -> dict[str, str]:
    """A laptop's environment, with the stand-in before all else."""
    path = os.environ["PATH"]
    return {
        "PATH": f"{ssh.dir}:{path}" if ssh else path,
        "HOME": str(desk.ledger.home),
        "NANOLAN_HOME": str(desk.ledger.home),
        "NANOLAN_SSH_KEYS": str(desk.ledger.home / "keys"),
        "NANOLAN_ENV_FILE": os.devnull,
        "HF_HOME": str(desk.ledger.home / "hf"),
        "HF_ENDPOINT": desk.hub.url,
        "HF_TOKEN": TOKEN,
        "HF_REPO": REPO,
        "SHADEFORM_API": desk.cloud.url,
        "SHADEFORM_API_KEY": KEY,
        **more,
    }
