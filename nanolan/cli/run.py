"""Shared by the run commands: opening the account, finding the run, progress on stderr, the yes/no question.

Heavy modules are imported inside the functions, so that `--help` stays fast.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import settings_from

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.settings.settings import Settings
    from nanolan.shadeform.client import Shadeform

# The settings that a command needs to look at a run
ACCOUNT = ("shadeform_api_key", "hf_token", "hf_repo", "runs_repo", "shadeform_api", "hf_endpoint")

owner_option = click.option(
    "--owner", help="the owner id of a run that was started from another laptop"
)


@dataclass(frozen=True)
class Account:
    """The laptop's ledger, the settings and the Shadeform client of one command."""

    ledger: Ledger
    settings: Settings
    api: Shadeform

    def find(self, which: str | None, owner: str | None = None, *, ours: bool = False) -> Entry:
        """The run that `which` names (None: the newest). With `ours`, UsageProblem for a run of another owner; AuthProblem
        without a Shadeform key, unless the run is a job, which has no machine there."""
        from nanolan.run.find import check_owner, find, run_search

        entry = find(self.ledger, which, run_search(self.settings, self.api), owner)
        if not entry.plan.is_job:
            self.settings.need("shadeform_api_key")
        if ours:
            check_owner(self.ledger, entry)
        return entry

    def reread(self, entry: Entry) -> Entry:
        """The run's entry as the ledger holds it now: launch, stop or resume may have written it."""
        run_id = entry.plan.run_id
        return self.ledger.find(run_id) if self.ledger.has(run_id) else entry

    def hub(self, entry: Entry) -> Hub:
        """The client of the run's Hub."""
        from nanolan.hub.client import Hub

        return Hub(entry.plan.hf_endpoint, self.settings.hf_token)


def open_ledger() -> Ledger:
    """The ledger in NANOLAN_HOME."""
    from nanolan.run.ledger import Ledger
    from nanolan.settings.paths import nanolan_home

    return Ledger(nanolan_home())


def open_shadeform(settings: Settings) -> Shadeform:
    """The Shadeform client of the settings."""
    from nanolan.shadeform.client import Shadeform

    return Shadeform(settings.shadeform_api_key, settings.shadeform_api)


def open_account(flags: dict[str, Any], *needed: str, strict: bool = True) -> Account:
    """Ledger, settings and client for a command's options; UsageProblem unless each setting in `needed` is set.

    Without `strict`, wrong settings are reported and left out: used by commands that end spending or show it.
    """
    ledger = open_ledger()
    settings = settings_from(flags, strict=strict)
    settings.need(*needed)
    return Account(ledger, settings, open_shadeform(settings))


def job_named(account: Account, which: str | None, owner: str | None) -> Entry | None:
    """The run that `which` names if SkyPilot or Hugging Face rents its machines; None for any other, and for none."""
    from nanolan.errors import UsageProblem
    from nanolan.run.ledger import matching

    entries = account.ledger.entries()
    known = matching(entries, which) if which else entries[:1]
    if not known and which and account.settings.hf_token and not account.api.has_key:
        try:
            known = [account.find(which, owner, ours=True)]
        except UsageProblem:
            return None
    return known[0] if len(known) == 1 and known[0].plan.is_job else None


def say(text: str) -> None:
    """Progress goes to stderr; stdout is the result."""
    click.echo(text, err=True)


def agree(yes: bool, question: str, action: str) -> None:
    """Ask unless `yes`; UsageProblem for a no and without a terminal. `action` is what was not done, such as "stopped"."""
    from nanolan.errors import UsageProblem

    if not yes and not (sys.stdin.isatty() and click.confirm(question, err=True)):
        raise UsageProblem(f"not agreed to: pass --yes; nothing was {action}")
