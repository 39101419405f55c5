"""Write a nanochat checkpoint as files for transformers' NanoChatForCausalLM: safetensors, config and tokenizer.

just export-hf CHECKPOINT_FOLDER TOKENIZER_FOLDER exported           to a new folder
just export-hf CHECKPOINT_FOLDER TOKENIZER_FOLDER --to exported      the same
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from pathlib import Path

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run

FOLDER = TypedPath(path_type=Path, file_okay=False)


@click.command("export-hf", cls=KeyValueCommand)
@click.argument("checkpoint", type=FOLDER, metavar="CHECKPOINT_FOLDER")
@click.argument("tokenizer", type=FOLDER, metavar="TOKENIZER_FOLDER")
@click.argument("folder", type=FOLDER, metavar="[TARGET_FOLDER]", required=False)
@click.option("--to", "target", type=FOLDER, help="the new folder, in place of TARGET_FOLDER")
def export_hf(checkpoint: Path, tokenizer: Path, folder: Path | None, target: Path | None) -> int:
    """Write CHECKPOINT_FOLDER and its tokenizer to a new folder that transformers can load."""
    if (to := target or folder) is None or (target and folder):
        raise click.UsageError("name one folder to write to: TARGET_FOLDER or --to FOLDER")
    from nanolan.model.export_hf import export

    export(checkpoint, tokenizer, to)
    files = sorted(p for p in to.iterdir() if p.is_file())
    size = sum(p.stat().st_size for p in files)
    click.echo(f"{to}: {', '.join(p.name for p in files)} ({size / 1e6:,.1f} MB)")
    return 0


if __name__ == "__main__":
    run(export_hf)
