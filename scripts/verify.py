"""Check checkpoints on the Hub against their manifests; or write a manifest for one that was uploaded by hand.

    just verify                                   every checkpoint folder of the model tag
    just verify chatsft_checkpoints/d20           one folder
    just verify --adopt base_checkpoints/d20      from now on it counts as proven
"""
from __future__ import annotations

from typing import Any

import click

from nanolan.cli import Words, run, setting_options, settings_from


@click.command(cls=Words)
@click.argument("folder", required=False)
@click.option("--adopt", "adopting", is_flag=True, help="write the manifest of FOLDER's newest step as it is now")
@setting_options("hf_repo", "hf_token", "hf_endpoint", "model_tag")
def verify(folder: str | None, adopting: bool, **flags: Any) -> int:
    """Compare sizes and hashes on the Hub with the manifests. Exit code 4 if a folder is not whole."""
    from nanolan import adopt
    from nanolan.errors import NanolanError
    from nanolan.hub import Hub
    s = settings_from(flags)
    s.need("hf_token", "hf_repo")
    hub = Hub(s.hf_endpoint, s.hf_token)
    if adopting and not folder:
        raise click.UsageError("--adopt needs a folder, such as base_checkpoints/d20")
    tree = hub.tree(s.hf_repo)
    folders = [folder.strip("/")] if folder else [f"{d}/{s.model_tag}" for d in adopt.FOLDERS if tree.under(f"{d}/{s.model_tag}")]
    if not folders:
        click.echo(f"{s.hf_repo} has no checkpoint of {s.model_tag} yet. Upload one: "
                   f"just hf upload {s.hf_repo} LOCAL_FOLDER base_checkpoints/{s.model_tag}")
    bad = 0
    for f in folders:
        try:
            proof = (adopt.adopt if adopting else adopt.verify)(hub, s.hf_repo, f)
            m = proof.manifest
            click.echo(f"proven    {f}  step {m.step}, {m.size / 1e6:,.1f} MB, run {m.run_id}")
        except NanolanError as e:
            bad += 1
            click.echo(f"UNPROVEN  {f}  {e}")
    return 4 if bad else 0


if __name__ == "__main__":
    run(verify)
