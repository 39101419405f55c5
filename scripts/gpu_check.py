"""Check this machine's GPUs in ten minutes: do they work, and how fast do they train? Rents nothing, sends nothing.

    just gpu-check                        every part; writes gpu-check.json, prints a table
    just gpu-check part=nccl,mid          some parts
    just gpu-check --device cpu          rehearse every part on the CPU at a toy size

A part that fails or hangs is a row with its reason; the others go on. Exit code 0 when no part failed, else 4.
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from pathlib import Path

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run

RANKS = 2  # of a rehearsal


@click.command("gpu-check", cls=KeyValueCommand)
@click.option("--part", default="", metavar="NAMES", help="only these, separated by commas")
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    help="cpu rehearses each part at a toy size  [cuda]",
)
@click.option("--seconds", type=click.IntRange(20, 3600), default=600, help="for all parts  [600]")
@click.option(
    "--out",
    type=TypedPath(path_type=Path, dir_okay=False),
    default="gpu-check.json",
    help="[gpu-check.json]",
)
@click.option(
    "--folder",
    type=TypedPath(path_type=Path, file_okay=False),
    help="a disk with 20 GB for a model and its states  [the system's temporary folder]",
)
def gpu_check(part: str, device: str, seconds: int, out: Path, folder: Path | None) -> int:
    """Check the GPUs of this machine."""
    from nanolan.box.machine_check import query_gpus
    from nanolan.errors import PreflightFailed
    from nanolan.gpu_check.check import check_machine
    from nanolan.gpu_check.runner import chosen_parts
    from nanolan.gpu_check.table import part_lines, render

    names = chosen_parts([*filter(None, part.split(","))])
    gpus = query_gpus("name") if device == "cuda" else []
    if device == "cuda" and not gpus:
        raise PreflightFailed("nvidia-smi shows no GPU here; --device cpu rehearses the check")
    found = check_machine(
        device,
        gpus[0] if gpus else "",
        len(gpus) or RANKS,
        names,
        seconds,
        out,
        folder,
        lambda part: click.echo("\n".join(part_lines(part)), err=True),
    )
    click.echo("\n".join(render(found)))
    click.echo(f"\n{out}")
    return 0 if found.good else PreflightFailed.exit_code


if __name__ == "__main__":
    run(gpu_check)
