"""The argument list of `ssh` to a rented machine: our own known_hosts, a name per instance, the key that it was made with.

Addresses are used again by providers, so the host key is kept under the instance's id: another machine is no alarm.
"""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

from nanolan.errors import BadAnswer
from nanolan.shadeform.models import Instance

CONNECT_S = 10
MOST_BYTES = 64 << 20  # of a machine's answer
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,252})")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def ssh_argv(
    i: Instance,
    key: Path | None,
    folder: Path,
    words: tuple[str, ...] = (),
    *,
    batch: bool = False,
    connect_s: int = CONNECT_S,
) -> list[str]:
    """`ssh` and its arguments; `key` None: what the agent and ssh's own settings offer. `batch`: never asks anything.

    BadAnswer when the API's user or address is none: it must not become an option.
    """
    if not has_address(i):
        raise BadAnswer(
            f"instance {i.id} has no usable address: {i.ssh_user!r} at {i.ip!r}. Look: just status"
        )
    assert i.ip  # noqa: S101
    options = {
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": quoted(folder / "known_hosts"),
        "HostKeyAlias": f"nanolan-{i.id}",
        "ConnectTimeout": str(connect_s),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        **({"IdentitiesOnly": "yes"} if key else {}),
        **({"BatchMode": "yes"} if batch else {}),
    }
    return [
        "ssh",
        *(["-i", str(key)] if key else []),
        *(w for k, v in options.items() for w in ("-o", f"{k}={v}")),
        "-p",
        str(i.ssh_port),
        "-l",
        i.ssh_user,
        "--",
        i.ip,
        *words,
    ]


def run_bounded(
    argv: list[str], *, timeout: float, **_: object
) -> subprocess.CompletedProcess[bytes]:
    """As subprocess.run with captured output, of which no more is taken than MOST_BYTES: the machine sends what it likes."""
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        late = threading.Timer(timeout, child.kill)
        late.start()
        try:
            assert child.stdout and child.stderr  # noqa: S101
            out = child.stdout.read(MOST_BYTES + 1)
            if len(out) > MOST_BYTES:
                raise subprocess.TimeoutExpired(argv, timeout)  # it would go on and on
            return subprocess.CompletedProcess(
                argv, child.wait(), out, child.stderr.read(MOST_BYTES)
            )
        finally:
            late.cancel()
            child.kill()


def has_address(i: Instance) -> bool:
    """Whether the API's user, address and id are such: none may become an option of ssh, or a second setting."""
    return bool(
        i.ip
        and HOST.fullmatch(i.ip)
        and USER.fullmatch(i.ssh_user)
        and re.fullmatch(r"[\w-]{1,64}", i.id, re.ASCII)
        and 0 < i.ssh_port < 65536
    )


def quoted(path: Path) -> str:
    """A path as ssh's settings want it: a blank would begin a second one, a % is its own sign."""
    return '"' + str(path).replace("%", "%%") + '"'
