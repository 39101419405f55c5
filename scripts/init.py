"""Ask for the keys and the repo of a launch, try each, and write them to .env (0600). Rents nothing, costs nothing.

just init                       Enter keeps what is set; Ctrl-C writes nothing
just init hf-repo=me/lanbot     the repo's name without a question
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, env_file, run, setting_options

PATIENCE_S = 8.0  # for a service that does not answer


@click.command(cls=KeyValueCommand)
@setting_options("hf_repo", "shadeform_api", "hf_endpoint")
def init(**flags: Any) -> int:
    """Write the settings of a first launch, then check everything with doctor."""
    from nanolan.cli.command import settings_from
    from nanolan.doctor.first_settings import ask_all
    from nanolan.errors import UsageProblem
    from nanolan.settings.env_write import write_values
    from nanolan.settings.settings import ROOT

    if not sys.stdin.isatty():
        raise UsageProblem(
            "this is not a terminal: copy .env.example to .env, fill it in, and run: chmod 600 .env"
        )
    with _echo(on=False):
        answers = ask_all(settings_from(flags, strict=False), _ask, click.echo, PATIENCE_S)
    if answers:
        write_values(env_file(), answers, ROOT / ".env.example")
        click.echo(f"\nwritten to {env_file()} (0600): {', '.join(answers)}\n")
    doctor = Path(__file__).with_name("doctor.py")
    return subprocess.run([sys.executable, doctor], check=False).returncode


def _ask(text: str, hidden: bool) -> str:
    shown = f"{text}, not shown" if hidden else text
    with _echo(on=not hidden):
        return str(click.prompt(shown, hide_input=hidden, default="", show_default=False, err=True))


@contextmanager
def _echo(on: bool) -> Iterator[None]:
    """Whether the terminal shows what is typed: between two questions it must not, a key may be pasted too early."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    flags = before[3] | termios.ECHO if on else before[3] & ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, [*before[:3], flags, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    run(init)
