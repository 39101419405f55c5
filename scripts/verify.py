"""Check what HF_REPO holds, checkpoints against their manifests; or write a manifest for one uploaded manually.

just verify                                   the whole expected structure: sizes and proof
just verify chatsft_checkpoints/d20           one folder
just verify --adopt base_checkpoints/d20      writes its manifest, so that it counts as proven
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.plan import Fork


@click.command(cls=KeyValueCommand)
@click.argument("folder", required=False)
@click.option(
    "--adopt",
    "adopting",
    is_flag=True,
    help="write a manifest of FOLDER's newest step as it is now",
)
@setting_options("hf_repo", "hf_token", "hf_endpoint", "model_tag", "trainer")
def verify(folder: str | None, adopting: bool, **flags: Any) -> int:
    """Compare sizes and hashes on the Hub with the manifests. Exit code 4 if a folder is incomplete."""
    from nanolan.errors import NanolanError
    from nanolan.hub import layout
    from nanolan.hub.client import Hub
    from nanolan.settings.paths import typed
    from nanolan.trainers.choose import layout_of

    s = settings_from(flags)
    s.need("hf_token", "hf_repo")
    fork = layout_of(s, typed(""))
    hub = Hub(s.hf_endpoint, s.hf_token)
    if adopting and not folder:
        raise click.UsageError("--adopt needs a folder, such as base_checkpoints/d20")
    if not folder:
        return show_structure(hub, s.hf_repo, s.model_tag, fork)
    folder = folder.strip("/")
    try:
        prove = layout.adopt if adopting else layout.verify
        m = prove(hub, s.hf_repo, folder, own=fork is None).manifest
    except NanolanError as e:
        click.echo(f"UNPROVEN  {folder}  {e}")
        return 4
    click.echo(f"proven    {folder}  step {m.step}, {m.size / 1e6:,.1f} MB, run {m.run_id}")
    return 0


def show_structure(hub: Hub, repo: str, tag: str, fork: Fork | None) -> int:
    """Every piece that the repo should hold; 4 when a checkpoint is unproven or incomplete."""
    from nanolan.hub.layout import look

    tree = hub.tree(repo)
    click.echo(f"{repo} at {tree.revision[:8]}, {'private' if tree.private else 'PUBLIC'}")
    pieces = look(hub, tree, tag, fork)
    for piece in pieces:
        click.echo("\n".join(piece.lines()))
    return 4 if {p.state for p in pieces} & {"unproven", "NOT WHOLE"} else 0


if __name__ == "__main__":
    run(verify)
