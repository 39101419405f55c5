"""Check everything that a launch needs, with a fix for each failure. Changes nothing, costs nothing.

just doctor                     for a run of phase=sft, or the phase in .env
just doctor phase=mid           for another run
just doctor --json              for scripts: every check, and the first fix
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import json
import os
import sys
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, env_file, profile_option, run, setting_options
from nanolan.cli.marks import say_checks

PATIENCE_S = 8.0  # for a service that does not answer


@click.command(cls=KeyValueCommand)
@profile_option
@setting_options(
    "phase",
    "trainer",
    "gpu",
    "num_gpus",
    "model_tag",
    "eval",
    "humaneval",
    "no_identity",
    "hf_repo",
    "runs_repo",
    "self_delete",
    "shadeform_api_key",
    "shadeform_api_key_box",
    "hf_token",
    "shadeform_api",
    "hf_endpoint",
)
@click.option("--json", "as_json", is_flag=True, help="as JSON on stdout")
def doctor(as_json: bool, **flags: Any) -> int:
    """Check every requirement. Exit code 0 when a launch can work, 4 when a check failed."""
    from nanolan.cli.command import cached_token
    from nanolan.doctor.context import open_context, trainer_read
    from nanolan.doctor.doctor import exit_code, render, run_checks, to_dict
    from nanolan.settings.credentials import note_credentials
    from nanolan.settings.library_variables import untold
    from nanolan.settings.load import usable_settings
    from nanolan.settings.paths import nanolan_home, typed
    from nanolan.settings.settings import ROOT
    from nanolan.shadeform.ssh_key import key_folder

    note_credentials(os.environ)
    settings, errors = usable_settings(flags, os.environ, env_file(), cached_token)
    settings, wrong = trainer_read(settings, typed(""))
    errors = (*untold(), *errors, *wrong)
    found = run_checks(
        open_context(
            settings,
            errors,
            os.environ,
            env_file(),
            ROOT,
            nanolan_home(),
            key_folder(os.environ),
            PATIENCE_S,
        )
    )
    if as_json:
        click.echo(json.dumps(to_dict(found), indent=2))
    else:
        say_checks("\n".join(render(found)), sys.stdout)
    return exit_code(found)


if __name__ == "__main__":
    run(doctor)
