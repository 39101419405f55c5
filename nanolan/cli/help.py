"""The format of --help: examples to copy first, then the options; of a command with many only those that most runs need,
and with --help-all the rest by subject.

The examples come from the top of the script: `just ...`, two spaces or more, what it does. Imports only click,
the version and the name that the user types.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable

import click

from nanolan.settings.invoked import JUST, invoked
from nanolan.version import VERSION

DEEP = 8  # spaces: a line indented deeper continues the example above
MANY = 8  # more options than this get headings
TOO_MANY = 20  # more than this: --help shows the ESSENTIAL ones, --help-all every one
SHOW_ALL = "nanolan.help_all"  # in the context
# The guide's ten, and the three that most runs need
ESSENTIAL = (
    "phase",
    "gpu",
    "num_gpus",
    "spend_limit",
    "run_name",
    "model_tag",
    "max_duration",
    "cloud",
    "region",
    "instance_type",
    "all_configs",
    "dry_run",
    "yes",
)
# Options of single commands that few runs need
RARE = (
    "sort",
    "keep_old",
    "yes_really",
    "no_wait",
    "as_json",
    "owner",
    "profile",
    "trainer",
    "train_options",
    "init",
)
GROUPS = {
    "Model and training": (
        "phase",
        "run_name",
        "model_tag",
        "output_tag",
        "batch",
        "eval",
        "humaneval",
        "no_identity",
        "gate",
        "save_minutes",
        "upload_minutes",
        "recipe",
        "keep_old",
    ),
    "Instance": (
        "gpu",
        "num_gpus",
        "cloud",
        "region",
        "instance_type",
        "all_configs",
        "sort",
        "max_price",
        "max_total",
        "spot",
        "failover",
        "wait_text",
    ),
    "Limits": ("spend_limit", "max_duration", "probation_usd", "yes_really"),
    "Accounts and addresses": (
        "hf_repo",
        "runs_repo",
        "ssh_public_key",
        "wandb_project",
        "wandb_base_url",
        "self_delete",
        "shadeform_api_key",
        "shadeform_api_key_box",
        "hf_token",
        "wandb_api_key",
        "notify_url",
        "shadeform_api",
        "hf_endpoint",
    ),
}


def show_version(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    """Print the version and end, if asked for it."""
    if given and not ctx.resilient_parsing:
        click.echo(f"nanolan {VERSION}")
        ctx.exit()


def shows(flag: str, callback: Callable[..., None], help: str) -> click.Option:
    """A flag that shows something and ends the command, whatever else was typed."""
    return click.Option(
        [flag], is_flag=True, is_eager=True, expose_value=False, callback=callback, help=help
    )


VERSION_OPTION = shows("--version", show_version, "show the version and exit")


class GroupedHelp(click.Command):
    """A command whose help has groups and examples, with --version."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), VERSION_OPTION]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every option under its heading."""
        if found := examples_of(self):
            with formatter.section("Examples"):
                formatter.write_dl([(command, what or " ") for command, what in found])
        if len(self.params) > TOO_MANY and SHOW_ALL not in ctx.meta:
            self._format_essential(ctx, formatter)
            return
        rows = [*self._rows(ctx).items()]
        heading = (
            {name: group for group, names in GROUPS.items() for name in names}
            if len(rows) > MANY
            else {}
        )
        for group in ("Options", *GROUPS):
            if some := [row for name, row in rows if heading.get(name or "", "Options") == group]:
                with formatter.section(group):
                    formatter.write_dl(some)

    def defaults(self, ctx: click.Context) -> dict[str, str]:
        """Option -> the value to show in brackets in place of the setting's default."""
        return {}

    def _rows(self, ctx: click.Context) -> dict[str, tuple[str, str]]:
        """Option -> how it is typed and what it does."""
        defaults = self.defaults(ctx)
        rows = {}
        for p in self.get_params(ctx):
            row = p.get_help_record(ctx) if isinstance(p, click.Option) else None
            if row and p.name in defaults:
                row = row[0], f"{re.sub(r'  [[].*[]]$', '', row[1])}  [{defaults[p.name]}]"
            if row and p.name:
                rows[p.name] = row
        return rows

    def _format_essential(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that most runs need, in the guide's order, and this command's own."""
        rows = self._rows(ctx)
        grouped = {name for names in GROUPS.values() for name in names} | {*RARE}
        own = [name for name in rows if name not in grouped and name not in ESSENTIAL]
        with formatter.section("Options"):
            formatter.write_dl([rows[name] for name in (*ESSENTIAL, *own) if name in rows])


def examples_of(command: click.Command) -> list[tuple[str, str]]:
    """(what to type, what it does) for each example at the top of the command's script."""
    module = sys.modules.get(command.callback.__module__) if command.callback else None
    found: list[tuple[str, str]] = []
    # Python 3.13 removes the indentation as cleandoc does, so the indentation of an example has no meaning
    for line in inspect.cleandoc((module and module.__doc__) or "").splitlines()[1:]:
        text = line.strip()
        words = re.split(r"\s{2,}", text, maxsplit=1)
        if text.startswith(f"{JUST} "):
            typed = f"{invoked()}{words[0].removeprefix(JUST)}"
            found.append((typed, words[1] if len(words) > 1 else ""))
        elif found and len(line) - len(text) > DEEP:  # continues the description above
            found[-1] = found[-1][0], f"{found[-1][1]} {text}".strip()
    return found


def show_all(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    """Print the whole help and end, if asked for it."""
    if given and not ctx.resilient_parsing:
        ctx.meta[SHOW_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


HELP_ALL_OPTION = shows("--help-all", show_all, "show every option and exit")
