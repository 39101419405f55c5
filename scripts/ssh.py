"""A shell on the instance of a run, or one command there. Uses only this program's own known_hosts and keys (.ssh_keys/).

just ssh                            the newest run
just ssh 1a2b                       one run, by id (or a unique prefix), run name or instance id
just ssh 1a2b nvidia-smi            one command; exits with its exit code
just ssh 1a2b tail -f /var/log/lanbot-training.log
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import difflib
import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import run, setting_options
from nanolan.cli.help import GroupedHelp
from nanolan.cli.run import ACCOUNT, open_account, owner_option, say
from nanolan.errors import quoted

if TYPE_CHECKING:
    from nanolan.cli.run import Account
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.shadeform.client import Shadeform
    from nanolan.shadeform.models import Instance


# Programs of an instance that a laptop may lack
REMOTE = (
    "nvidia-smi nvtop htop top free df du ps ls cat tail head less grep tmux screen bash sh sudo kill pkill "
    "journalctl systemctl dmesg lscpu lsblk uptime who uname env echo python python3 pip vi vim nano"
)


# The words after RUN belong to COMMAND, options included
@click.command(cls=GroupedHelp, context_settings={"allow_interspersed_args": False})
@owner_option
@setting_options("ssh_public_key", *ACCOUNT)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN] [COMMAND...]")
def ssh(words: tuple[str, ...], owner: str | None, **flags: Any) -> int:
    """Open a shell on the instance of RUN (the newest if none is named), or run COMMAND there."""
    from nanolan.errors import NanolanError
    from nanolan.run.jobs import machines_of
    from nanolan.shadeform.ssh import FAILED, run_at_terminal

    account = open_account(flags, strict=False)
    which, command = split(account.ledger, words)
    entry = account.find(which, owner, ours=True)
    if entry.plan.is_job:
        raise NanolanError(f"nanolan has no key of that machine: {machines_of(entry.plan)}")
    instance = reachable_instance(account.api, entry)
    argv = argv_of(account, entry, instance, command)
    try:
        code, messages = run_at_terminal(argv)
    except FileNotFoundError as e:
        raise NanolanError(
            f"ssh cannot be started ({e.strerror}): install OpenSSH's client (openssh-client)"
        ) from None
    if messages:
        say(failure(entry, instance, messages) if code == FAILED else messages)
    return code


def failure(entry: Entry, instance: Instance, messages: str) -> str:
    """Why ssh failed, what that means for the run, and what to type, in a line; other messages of ssh as they are."""
    from nanolan.shadeform.ssh import failure_text

    run_id = entry.plan.run_id
    if not (why := failure_text(messages)):
        return messages
    return (
        f"error: {why}. Shadeform showed it as {instance.status}; the run goes on without ssh. Its state: "
        f"just status {run_id}; its log, from the Hub: just logs {run_id}; another try: just ssh {run_id}"
    )


def split(ledger: Ledger, words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """(run or None, command): the first word is a run if it is in the ledger or has the form of an id.

    A single word that is neither a run nor clearly a command may be a misspelt run: it is refused, not run on the newest instance.
    """
    from nanolan.run.ledger import matching

    first = words[0] if words else ""
    entries = ledger.entries()
    if first and (
        matching(entries, first) or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{8}-[0-9a-f-]{27}", first)
    ):
        return first, words[1:]
    names = list(dict.fromkeys(n for e in entries for n in (e.plan.run_id, e.plan.run_name)))
    if first and not is_command(first) and entries:
        near = difflib.get_close_matches(first, names, 3, 0.5) or names[:3]
        raise click.UsageError(
            f"{quoted(first, 60)} is no run: {', '.join(near)}? If it is a command: "
            f"just ssh {entries[0].plan.run_id} {shlex.join(words)[:80]}"
        )
    return None, words


def is_command(word: str) -> bool:
    """Whether a word can only be meant for the instance's shell: a path, several words, or a program that is known."""
    return (
        bool(re.search(r"[^\w.-]", word))
        or word in REMOTE.split()
        or shutil.which(word) is not None
    )


def reachable_instance(api: Shadeform, entry: Entry) -> Instance:
    """The run's newest instance that has an address; NanolanError names the reason and the next command."""
    from nanolan.errors import NanolanError
    from nanolan.run.presence import of_run

    plan = entry.plan
    mine = [i for i in api.instances() if of_run(entry, i) and i.billing]
    if not mine:
        raise NanolanError(
            f"run {plan.run_id} has no instance (any more). Its log: just logs {plan.run_id}"
        )
    newest = max(mine, key=lambda i: (i.attempt, str(i.created_at)))
    if not newest.ip:
        raise NanolanError(
            f"the instance of run {plan.run_id} has no address yet ({newest.details or newest.status}). "
            "Try again in a minute; watch it: just watch"
        )
    return newest


def argv_of(
    account: Account,
    entry: Entry,
    instance: Instance,
    command: tuple[str, ...] = (),
    **options: Any,
) -> list[str]:
    """`ssh` and its arguments, with the key that the instance was created with."""
    from nanolan.shadeform.ssh import ssh_argv
    from nanolan.shadeform.ssh_key import key_folder, load_own_key, private_key_file

    folder = key_folder(os.environ)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    public = account.settings.ssh_public_key
    own = load_own_key(public) if public else None
    info = account.api.info(instance.id)
    key = private_key_file(account.api, info, entry.plan.instance_name, folder, own)
    return ssh_argv(instance, key, folder, command, **options)


if __name__ == "__main__":
    run(ssh)
