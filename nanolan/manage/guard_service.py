"""The systemd user unit that runs a guard on a machine that stays on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nanolan.errors import UsageProblem

UNIT = "nanolan-guard"
KEPT = (
    "NANOLAN_ENV_FILE",
    "NANOLAN_HOME",
    "HF_HOME",
    "HTTPS_PROXY",
    "REQUESTS_CA_BUNDLE",
)  # paths and addresses, no secrets


def unit(root: Path, owner: str, environ: Mapping[str, str], options: Sequence[str] = ()) -> str:
    """The text of the unit. It contains no secret: the guard reads .env of the checkout."""
    words = f"{root}/.venv/bin/python", f"{root}/scripts/guard.py", "--owner", owner, *options
    start = " ".join(
        quoted(word).replace("$", "$$") for word in words
    )  # systemd expands variables only in this line
    kept = [
        f"Environment={quoted(f'{name}={environ[name]}')}"
        for name in KEPT
        if environ.get(name) and not holds_password(environ[name])
    ]
    return "\n".join(
        [
            "# The guard of nanolan's instances. It contains no secret: it reads .env in the checkout. To install it:",
            f"#   just guard --unit > ~/.config/systemd/user/{UNIT}.service",
            f"#   systemctl --user daemon-reload && systemctl --user enable --now {UNIT}",
            "# and once, so that it runs while nobody is logged in:  loginctl enable-linger",
            f"# Its log: journalctl --user -u {UNIT} -f",
            "[Unit]",
            "Description=nanolan guard: deletes rented instances whose run is over or that outlive their limits",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            f"WorkingDirectory={specified(str(root))}",
            *kept,
            f"ExecStart={start}",
            "Restart=always",
            "RestartSec=60",
            "NoNewPrivileges=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def holds_password(address: str) -> bool:
    """Whether a proxy's address may contain credentials: the unit is readable by everyone, so it must not have them."""
    return "://" in address and "@" in address


def quoted(word: str) -> str:
    """A quoted word of a line of the unit; UsageProblem for characters that a unit cannot hold."""
    return '"' + specified(word).replace("\\", "\\\\").replace('"', '\\"') + '"'


def specified(text: str) -> str:
    """A text with systemd's % specifiers escaped."""
    if not text.isprintable():
        raise UsageProblem(
            f"{text[:60]!r} cannot be in a systemd unit: it holds a control character"
        )
    return text.replace("%", "%%")
