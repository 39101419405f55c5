"""A shell on the machine of a run, or one command there. Only this program's own known_hosts and keys are used (.ssh_keys/).

just ssh                            the newest run
just ssh 1a2b                       one run, by id (or a unique prefix), run name or instance id
just ssh 1a2b nvidia-smi            one command; the exit code is its own
just ssh 1a2b tail -f /var/log/lanbot-training.log
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import run, setting_options, settings_from
from nanolan.cli.help import GroupedHelp

if TYPE_CHECKING:
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.models import Instance


@click.command(
    cls=GroupedHelp, context_settings={"allow_interspersed_args": False}
)  # what follows RUN is the command's
@click.option("--owner", help="the owner id of a run that was started from another laptop")
@setting_options(
    "ssh_public_key",
    "shadeform_api_key",
    "hf_token",
    "hf_repo",
    "runs_repo",
    "shadeform_api",
    "hf_endpoint",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN] [COMMAND...]")
def ssh(words: tuple[str, ...], owner: str | None, **flags: Any) -> int:
    """Open a shell on the machine of RUN (the newest if none is named), or run COMMAND there."""
    from nanolan.errors import NanolanError
    from nanolan.run.find import check_owner, find, run_search
    from nanolan.run.ledger import Ledger, nanolan_home
    from nanolan.shadeform.client import Shadeform

    ledger, s = Ledger(nanolan_home()), settings_from(flags)
    s.need("shadeform_api_key")
    api = Shadeform(s.shadeform_api_key, s.shadeform_api)
    which, command = split(ledger, words)
    entry = find(ledger, which, run_search(s, api), owner)
    check_owner(ledger, entry)
    argv = argv_of(api, s, entry, machine_of(api, entry), command)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # an argument list, and no shell of ours
    except OSError as e:
        raise NanolanError(
            f"ssh cannot be started ({e.strerror}): install OpenSSH's client (openssh-client)"
        ) from None


def split(ledger: Ledger, words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """(run or None, command): the first word is a run if the ledger knows it or it can be nothing but an id."""
    from nanolan.run.ledger import matching

    first = words[0] if words else ""
    if first and (
        matching(ledger.entries(), first)
        or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{8}-[0-9a-f-]{27}", first)
    ):
        return first, words[1:]
    return None, words


def machine_of(api: Shadeform, entry: Entry) -> Instance:
    """The run's machine, with an address; an error says why there is none, and what to look at instead."""
    from nanolan.errors import NanolanError

    plan = entry.plan
    mine = [
        i
        for i in api.instances()
        if (i.id == entry.instance_id or i.is_run(plan.run_id)) and i.billing
    ]
    if not mine:
        raise NanolanError(
            f"run {plan.run_id} has no machine (any more). Its log: just logs {plan.run_id}"
        )
    newest = max(mine, key=lambda i: (i.attempt, str(i.created_at)))
    if not newest.ip:
        raise NanolanError(
            f"the machine of run {plan.run_id} has no address yet ({newest.details or newest.status}). "
            "Try again in a minute; watch it: just watch"
        )
    return newest


def argv_of(
    api: Shadeform,
    s: Settings,
    entry: Entry,
    i: Instance,
    command: tuple[str, ...] = (),
    **how: Any,
) -> list[str]:
    """`ssh` and its arguments, with the key that the machine was made with."""
    from nanolan.shadeform.ssh import ssh_argv
    from nanolan.shadeform.ssh_key import key_folder, key_for, own_key

    folder = key_folder(os.environ)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = own_key(s.ssh_public_key) if s.ssh_public_key else None
    key = key_for(api, api.info(i.id), entry.plan.instance_name, folder, own)
    return ssh_argv(i, key, folder, command, **how)


if __name__ == "__main__":
    run(ssh)
