"""Download a trained, proven checkpoint and the tokenizer to where nanochat's own tools find them.

just pull                   the latest phase that was trained
just pull sft               that phase's checkpoint
just pull base              the checkpoint that you uploaded with: just upload base
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import difflib
import os
from pathlib import Path
from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run, setting_options, settings_from
from nanolan.cli.run import say
from nanolan.errors import quoted


@click.command(cls=KeyValueCommand)
@click.argument("phase", metavar="[base|mid|sft|rl]", required=False)
@click.option(
    "--to",
    "target",
    type=TypedPath(path_type=Path, file_okay=False),
    help="folder  [NANOCHAT_BASE_DIR, ~/.cache/nanochat]",
)
@setting_options("hf_repo", "hf_token", "hf_endpoint", "model_tag", "output_tag")
def pull(phase: str | None, target: Path | None, **flags: Any) -> int:
    """Download a proven checkpoint and the tokenizer."""
    from nanolan.errors import UsageProblem
    from nanolan.hub import pull as pulling
    from nanolan.hub.client import Hub
    from nanolan.hub.pull import BASE, base_dir
    from nanolan.phases import PHASES

    s = settings_from(flags)
    s.need("hf_token", "hf_repo")
    if phase is not None and phase not in (names := (BASE, *PHASES)):
        near = difflib.get_close_matches(phase, names, 1)
        hint = f"did you mean just pull {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UsageProblem(f"no checkpoint is called {quoted(phase, 40)}; {hint}")
    hub, tag = Hub(s.hf_endpoint, s.hf_token), s.output_tag or s.model_tag
    tag = s.model_tag if phase == BASE else tag
    phase = phase or pulling.newest_phase(hub.tree(s.hf_repo), tag)
    base = target or base_dir(os.environ)
    click.echo(str(pulling.pull(hub, s.hf_repo, phase, tag, base, say)))
    say("Next: just chat talks to it")
    return 0


if __name__ == "__main__":
    run(pull)
