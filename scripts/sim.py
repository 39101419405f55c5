"""Start a local Shadeform and a local Hub until Ctrl-C. Prints the environment to export.

just sim                    then, in another terminal: export what it prints, and  just launch phase=sft --yes
just sim gpu-count-wrong:7  with a fault: see --list-faults; gpu-count-wrong:7@1 is for the first instance only
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import shlex
import tempfile
import time
from pathlib import Path

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, run


@click.command(cls=KeyValueCommand)
@click.argument("faults", nargs=-1, metavar="[FAULT[:VALUE][@MACHINES]]...")
@click.option("--list-faults", is_flag=True, help="list the faults that instances can have")
@click.option(
    "--folder", type=TypedPath(path_type=Path), help="where all files go  [a temporary folder]"
)
def sim(faults: tuple[str, ...], list_faults: bool, folder: Path | None) -> int:
    """Start both servers; every instance is a set of local processes in the folder."""
    from nanolan.sim.shadeform.faults import ACTIONS, SWITCHES
    from nanolan.sim.world import World

    if list_faults:
        for name, meaning in SWITCHES.items():
            click.echo(f"{name.replace('_', '-'):<26} {meaning}")
        answers = ", ".join(
            f"create-{name.replace('_', '-')}"
            for name in sorted(ACTIONS.keys() - {"edit", "stall"})
        )
        click.echo(
            f"\nand answers to a create: {answers}; with -after-effect the instance is created all the same"
        )
        return 0
    root = folder or Path(tempfile.mkdtemp(prefix="nanolan-sim-"))
    with World(root) as world:
        for fault in faults:
            world.switch(fault)
        for key, value in world.env().items():
            if key.startswith(("SHADEFORM", "HF_", "NANOLAN", "NO_PROXY")):
                click.echo(f"export {key}={shlex.quote(value)}")
        click.echo(f"\nBoth run until Ctrl-C; all files are in {root}", err=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    run(sim)
