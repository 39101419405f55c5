"""Upload your checkpoints, tokenizer and identity data to the Hub: checked, private, proven. Skips files already there.

just upload base                                   from NANOCHAT_BASE_DIR (~/.cache/nanochat)
just upload base my-checkpoints/base_checkpoints/d20        from that folder
just upload base tokenizer data my-checkpoints     several at once, from a folder laid out like it
just upload sft chatsft_checkpoints/d20 output-tag=d20-exp1     to another folder
just upload base trainer=~/my-nanochat             a model of another architecture, for your own nanochat
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.cli.run import say

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.hub.upload_set import UploadSet
    from nanolan.plan import Fork


@click.command(cls=KeyValueCommand)
@click.argument("words", nargs=-1, metavar="base|mid|sft|rl|tokenizer|data... [PATH]")
@click.option("--repo", metavar="OWNER/NAME", help="the repo, if not HF_REPO")
@click.option(
    "--replace",
    is_flag=True,
    help="replace different content in the same place; the Hub's history keeps the old version",
)
@click.option("--optim", is_flag=True, help="also send a checkpoint's optimizer; no phase reads it")
@setting_options("model_tag", "output_tag", "trainer", "hf_repo", "hf_token", "hf_endpoint")
def upload(
    words: tuple[str, ...], repo: str | None, replace: bool, optim: bool, **flags: Any
) -> int:
    """Upload what a first run needs. The repo is created, private, if it is missing."""
    from nanolan.hub.client import Hub
    from nanolan.hub.upload import repo_to_write, tokenizer_mismatch
    from nanolan.hub.upload_set import check_together, collect
    from nanolan.settings.paths import typed
    from nanolan.trainers.choose import layout_of

    s = settings_from(flags | ({"hf_repo": repo} if repo else {}))
    fork = layout_of(s, typed(""))
    sources = sources_of(words, s.model_tag, fork)
    s.need("hf_token", "hf_repo")
    sets = []
    for kind, path in sources:  # check all of them before sending anything
        say(f"{kind}: checking {path}")
        sets.append((collect(kind, path, s.output_tag or s.model_tag, optim, fork), path))
    check_together(upload_set for upload_set, _ in sets)
    hub = Hub(s.hf_endpoint, s.hf_token)
    tree = repo_to_write(hub, s.hf_repo, say)
    if text := tokenizer_mismatch(hub, tree, [upload_set for upload_set, _ in sets]):
        say(f"note: {text}")
    for upload_set, path in sets:
        tree = send_unless_there(hub, tree, upload_set, path, replace)
    if s.sources["hf_repo"] == "flag":
        say(f"To use it in the other commands: HF_REPO={s.hf_repo} in .env")
    say("Next: just verify shows what is there, just doctor what is missing.")
    return 0


def sources_of(words: tuple[str, ...], tag: str, fork: Fork | None) -> list[tuple[str, Path]]:
    """(kind, path) of each upload: one kind with its own path, or several with the folder that contains them."""
    from nanolan.hub.pull import base_dir
    from nanolan.hub.upload_set import OTHERS, checkpoints_of, default_path
    from nanolan.phases import IDENTITY_FILE
    from nanolan.settings.paths import typed
    from nanolan.settings.settings import ROOT

    known = (*checkpoints_of(fork), *OTHERS)
    kinds = list(dict.fromkeys(w for w in words if w in known))
    paths = [w for w in words if w not in known]
    if not kinds or len(paths) > 1:
        hint = "" if fork else "; the phases of a checkout of yours, too, with trainer="
        raise click.UsageError(
            f"say what to upload ({', '.join(known)}{hint}) and at most one path"
            + (f", not {', '.join(paths)[:60]}" if paths else "")
        )
    if len(kinds) == 1 and paths:
        return [(kinds[0], typed(paths[0]))]
    base = typed(paths[0]) if paths else base_dir(os.environ)
    found = [(kind, default_path(kind, base, tag, fork)) for kind in kinds]
    written = ROOT / IDENTITY_FILE  # where `just identity` puts it
    return [
        (k, written if k == "data" and not p.exists() and written.is_file() and not paths else p)
        for k, p in found
    ]


def send_unless_there(hub: Hub, tree: Any, upload_set: UploadSet, path: Path, replace: bool) -> Any:
    """Send one upload unless it is there; Ctrl-C reports what is there and how to continue."""
    from nanolan.hub.layout import size_text
    from nanolan.hub.upload import is_uploaded, send

    where = f"{tree.repo}/{upload_set.target or upload_set.entries[0].path}"
    size = size_text(upload_set.size)
    if is_uploaded(hub, tree, upload_set):
        click.echo(f"already there  {where}  {upload_set.text}, {size}")
        return tree
    say(f"{upload_set.kind}: sending {size} to {where} ({upload_set.text})")
    if upload_set.left:
        say(
            f"  {size_text(upload_set.left)} of optimizer are not sent: no phase reads them (--optim sends them)"
        )
    try:
        after = send(hub, tree, upload_set, path, replace=replace, say=say)
    except KeyboardInterrupt:
        now = state_now(hub, upload_set, tree.repo)
        say(f"\nstopped: {now}. The same command continues; what has arrived is not sent again")
        return sys.exit(130)
    click.echo(
        f"{'proven' if upload_set.manifest else 'uploaded':<14} {where}  {upload_set.text}, {size}"
    )
    return after


def state_now(hub: Hub, upload_set: UploadSet, repo: str) -> str:
    """Whether the commit was made before Ctrl-C."""
    from nanolan.errors import NanolanError
    from nanolan.hub.upload import is_uploaded

    try:
        there = is_uploaded(hub, hub.tree(repo), upload_set)
    except NanolanError:
        return f"whether {upload_set.kind} is there is unknown"
    return (
        f"{upload_set.kind} is there, complete"
        if there
        else f"{upload_set.kind} is not there yet, and nothing on the Hub was changed"
    )


if __name__ == "__main__":
    run(upload)
