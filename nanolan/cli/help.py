"""The format of --help: the command's own options first, then the settings by subject, then examples to copy.

The examples come from the top of the script: `just ...`, two spaces or more, what it does. Imports only click
and the version.
"""

from __future__ import annotations

import inspect
import re
import sys

import click

from nanolan.version import VERSION

DEEP = 8  # spaces: a line indented deeper continues the example above
MANY = 8  # more options than this get headings
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
        "failover",
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


VERSION_OPTION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="show the version and exit",
)


class GroupedHelp(click.Command):
    """A command whose help has groups and examples, with --version."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), VERSION_OPTION]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every option under its heading."""
        rows = [
            (p.name, row)
            for p in self.get_params(ctx)
            if isinstance(p, click.Option) and (row := p.get_help_record(ctx))
        ]
        heading = (
            {name: group for group, names in GROUPS.items() for name in names}
            if len(rows) > MANY
            else {}
        )
        for group in ("Options", *GROUPS):
            if some := [row for name, row in rows if heading.get(name or "", "Options") == group]:
                with formatter.section(group):
                    formatter.write_dl(some)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the command's epilog."""
        if found := examples_of(self):
            with formatter.section("Examples"):
                formatter.write_dl([(command, what or " ") for command, what in found])
        super().format_epilog(ctx, formatter)


def examples_of(command: click.Command) -> list[tuple[str, str]]:
    """(what to type, what it does) for each example at the top of the command's script."""
    module = sys.modules.get(command.callback.__module__) if command.callback else None
    found: list[tuple[str, str]] = []
    # Python 3.13 removes the indentation as cleandoc does, so the indentation of an example has no meaning
    for line in inspect.cleandoc((module and module.__doc__) or "").splitlines()[1:]:
        text = line.strip()
        words = re.split(r"\s{2,}", text, maxsplit=1)
        if text.startswith("just "):
            found.append((words[0], words[1] if len(words) > 1 else ""))
        elif found and len(line) - len(text) > DEEP:  # continues the description above
            found[-1] = found[-1][0], f"{found[-1][1]} {text}".strip()
    return found
