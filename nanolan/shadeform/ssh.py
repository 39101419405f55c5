"""The argument list of `ssh` to an instance: nanolan's own known_hosts, a host alias per instance, the instance's key.

Providers reuse addresses, so the host key is stored under the instance's id: a reused address raises no alarm.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from nanolan.errors import BadAnswer
from nanolan.redact import short
from nanolan.shadeform.models import Instance

CONNECT_S = 10
CHANGED_KEY = "the instance shows another host key than at the first connection, as somebody in between would; nothing was sent"
MOST_BYTES = 64 << 20  # of output
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,252})")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
FAILED = 255  # exit code of ssh, unless the command ended with it
MEANINGS = (
    (r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed", CHANGED_KEY),
    (r"Permission denied[^\n]*", "the instance does not accept the key ({})"),
    (r"(closed by remote host|Broken pipe|not responding)", "the connection was lost ({})"),
    (
        r"(Connection (refused|timed out|reset|closed)|No route to host|Network is unreachable|Could not resolve)[^\n]*",
        "the instance cannot be reached ({})",
    ),
)


def ssh_argv(
    instance: Instance,
    key: Path | None,
    folder: Path,
    command: tuple[str, ...] = (),
    *,
    batch: bool = False,
    connect_s: int = CONNECT_S,
) -> list[str]:
    """`ssh` and its arguments; `key` None: the agent and ssh's own settings provide one. `batch`: no prompts.

    BadAnswer if the API's user or address is invalid: it must not become an option.
    """
    if not has_address(instance):
        raise BadAnswer(
            f"instance {instance.id} has no usable address: {instance.ssh_user!r} at {instance.ip!r}. Look: just status"
        )
    assert instance.ip  # noqa: S101
    options = {
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": quoted_path(folder / "known_hosts"),
        "HostKeyAlias": f"nanolan-{instance.id}",
        "ConnectTimeout": str(connect_s),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
        **({"IdentitiesOnly": "yes"} if key else {}),
        **({"BatchMode": "yes"} if batch else {}),
    }
    return [
        "ssh",
        *(["-i", str(key)] if key else []),
        *(w for k, v in options.items() for w in ("-o", f"{k}={v}")),
        "-p",
        str(instance.ssh_port),
        "-l",
        instance.ssh_user,
        "--",
        instance.ip,
        *command,
    ]


def run_at_terminal(argv: list[str]) -> tuple[int, str]:
    """Run `ssh` on this terminal: its exit code, and its own error messages, which it does not print.

    255 with messages is a failure of ssh; without, the exit code of the command on the instance."""
    with tempfile.TemporaryDirectory(prefix="nanolan-ssh-") as folder:
        log = Path(folder) / "log"
        # Ctrl-C is for ssh, which has it from the terminal
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            with subprocess.Popen([argv[0], "-E", str(log), *argv[1:]]) as child:
                try:
                    code = child.wait()
                finally:
                    child.terminate()
        finally:
            signal.signal(signal.SIGINT, before)
        text = log.read_text(errors="replace") if log.exists() else ""
    return (code if code >= 0 else 128 - code), "\n".join(text.split("\r\n")).strip()


def failure_text(messages: str) -> str:
    """What messages of ssh mean, in one sentence without an end; "" if they are not about the connection."""
    for pattern, text in MEANINGS:
        if found := re.search(pattern, messages):
            return text.format(short(found[0], 100))
    return ""


def run_bounded(
    argv: list[str], *, timeout: float, **_: object
) -> subprocess.CompletedProcess[bytes]:
    """subprocess.run with captured output of at most MOST_BYTES, since the box controls the output."""
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        late = threading.Timer(timeout, child.kill)
        late.start()
        try:
            assert child.stdout and child.stderr  # noqa: S101
            out = child.stdout.read(MOST_BYTES + 1)
            if len(out) > MOST_BYTES:
                raise subprocess.TimeoutExpired(argv, timeout)
            return subprocess.CompletedProcess(
                argv, child.wait(), out, child.stderr.read(MOST_BYTES)
            )
        finally:
            late.cancel()
            child.kill()


def has_address(instance: Instance) -> bool:
    """Whether the API's user, address, port and id are valid: none may become an option of ssh, or a second setting."""
    return bool(
        instance.ip
        and HOST.fullmatch(instance.ip)
        and USER.fullmatch(instance.ssh_user)
        and re.fullmatch(r"[\w-]{1,64}", instance.id, re.ASCII)
        and 0 < instance.ssh_port < 65536
    )


def quoted_path(path: Path) -> str:
    """A path quoted for an ssh option: a blank separates paths, and % starts a token."""
    return '"' + str(path).replace("%", "%%") + '"'
