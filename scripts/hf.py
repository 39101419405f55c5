"""The Hub's own command line, as installed here, with HF_TOKEN and HF_ENDPOINT of .env.

just hf auth whoami                 who the token belongs to
just hf download YOU/lanbot-checkpoints --include "logs/*.log" --local-dir logs
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import os
import sys
from pathlib import Path

import click

from nanolan.cli.command import env_file, run, say_not_used


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def hf(words: tuple[str, ...]) -> int:
    """Run `hf` with WORDS; its options, help and exit code are its own."""
    from nanolan.settings.library_variables import untold

    program = Path(sys.executable).with_name("hf")
    for text in untold():  # now: exec ends this program
        say_not_used(text)
    environ = dict(os.environ)
    if words[:1] not in ((), ("--help",), ("-h",), ("--version",)):
        environ |= account_of(environ)
    sys.stdout.flush()
    os.chdir(os.environ.get("NANOLAN_CALLED_FROM") or ".")
    os.execve(program, [str(program), *words], environ)  # noqa: S606  # an argument list, no shell


def account_of(environ: dict[str, str]) -> dict[str, str]:
    """HF_TOKEN and HF_ENDPOINT as the other commands use them; a login of `hf auth login` stays where it is."""
    from nanolan.settings.load import usable_settings
    from nanolan.settings.settings import TABLE

    s, wrong = usable_settings({}, environ, env_file(), lambda: None)
    for text in wrong:
        say_not_used(text)
    values = {"hf_token": s.hf_token and s.hf_token.reveal(), "hf_endpoint": s.hf_endpoint}
    return {TABLE[n]["env"]: v for n, v in values.items() if v and s.sources[n] != "default"}


if __name__ == "__main__":
    run(hf)
