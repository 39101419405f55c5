"""Print a shell script that completes nanolan's recipes, their options and the ids of your runs.

just completions bash                            print it
just completions bash >> ~/.bashrc               install it; likewise zsh >> ~/.zshrc
just completions fish > ~/.config/fish/completions/just.fish     fish reads it from there
"""

from __future__ import annotations

import importlib

import click

from nanolan.cli.command import KeyValueCommand, run

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=KeyValueCommand)
@click.argument("shell", type=click.Choice(SHELLS))
def completions(shell: str) -> int:
    """Print the completion of SHELL."""
    from nanolan.cli import menu
    from nanolan.hub.upload_set import KINDS
    from nanolan.phases import PHASES, SEQUENCES
    from nanolan.settings.settings import ROOT

    listed = menu.recipes((ROOT / "justfile").read_text())
    first = {
        "upload": KINDS,
        "pull": tuple(PHASES),
        "completions": SHELLS,
    }  # words without a name
    words = {
        r.name: [*first.get(r.name, ()), *(words_of(command_of(r.script)) if r.script else ())]
        for r in listed
    }
    values = {
        "phase": list(SEQUENCES),
        "eval": ["none", "quick", "full"],
        "sort": ["price", "total"],
    }
    click.echo(
        menu.fish(words, values, listed)
        if shell == "fish"
        else getattr(menu, shell)(words, values),
        nl=False,
    )
    return 0


def command_of(script: str) -> click.Command:
    """The click command that a script defines."""
    module = importlib.import_module(script)
    return next(
        c
        for c in vars(module).values()
        if isinstance(c, click.Command) and c.callback and c.callback.__module__ == script
    )


def words_of(command: click.Command) -> list[str]:
    """Every option as a user types it: name= for one with a value, --name for a flag."""
    flags = [p for p in command.params if isinstance(p, click.Option)]
    names = [(o.lstrip("-"), p) for p in flags for o in p.opts if o.startswith("--")]
    return [f"--{n}" if p.is_flag or p.flag_value == "yes" else f"{n}=" for n, p in names] + [
        "--help"
    ]


if __name__ == "__main__":
    run(completions)
