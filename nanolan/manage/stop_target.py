"""Which run and which instances `just stop` means, by run id, run name or instance id."""

from __future__ import annotations

from collections.abc import Callable

from nanolan.errors import ApiProblem, AuthProblem, NanolanError, UsageProblem
from nanolan.run.find import check_owner, find, run_search
from nanolan.run.ledger import Entry, Ledger, matching
from nanolan.run.presence import NOT_SHOWN, Presence, presence
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import find_run
from nanolan.times import now_utc, parse_time

YOUNG_S = 600.0  # age of a plan up to which an instance that no listing shows is looked for again


def meant(ledger: Ledger, which: str | None) -> list[Entry]:
    """The runs that `which` can mean by the ledger alone; the newest when nothing is said."""
    if not which and not ledger.entries():
        return []
    return matching(ledger.entries(), which) if which else [ledger.find(None)]


def find_target(
    ledger: Ledger,
    api: Shadeform,
    s: Settings,
    which: str | None,
    owner: str | None,
    say: Callable[[str], None],
) -> tuple[Entry | None, Presence]:
    """The run that is meant and its machines; no run for a machine of ours that is in no ledger and was meant by its own id."""
    try:
        instances = api.instances()
    except (ApiProblem, AuthProblem) as e:
        return unlisted(ledger, api, which, e, say)
    one = next((i for i in instances if i.id == which), None)
    known = meant(ledger, (one.run_id or one.id) if one else which or "")
    if one and not known:
        if one.owner not in (ledger.owner, owner) or one.owner is None:
            raise UsageProblem(
                f"{one.id} ({one.name}) was not started from here; if it is yours: just orphans, or Shadeform's "
                "dashboard"
            )
        return None, Presence((one,))
    try:
        entry = known[0] if one else find(ledger, which, run_search(s, api), owner)
    except (
        NanolanError
    ):  # the run's file, or its folder on the Hub, cannot be read: its tags say whose it is
        if mine := [
            i
            for i in instances
            if which and i.run_id == which and i.owner == ledger.owner and i.billing
        ]:
            return None, Presence(tuple(mine))
        raise
    check_owner(ledger, entry)
    return entry, Presence((one,)) if one else looked_for(
        api, entry, presence(api.info, entry, instances, now_utc()), say
    )


def unlisted(
    ledger: Ledger,
    api: Shadeform,
    which: str | None,
    problem: NanolanError,
    say: Callable[[str], None],
) -> tuple[Entry | None, Presence]:
    """The same while the account's listing cannot be read: the ledger knows the machine's id."""
    known = meant(ledger, which)
    there = presence(api.info, known[0], None, now_utc()) if len(known) == 1 else None
    if there is None or not there.billing:
        raise problem
    say(f"{problem}. Going by the ledger: {there.billing[0].id}")
    return known[0], there


def looked_for(
    api: Shadeform, entry: Entry, there: Presence, say: Callable[[str], None]
) -> Presence:
    """Of a run that is young, a machine that no listing shows yet is looked for a while longer."""
    young = (now_utc() - parse_time(entry.plan.created_at)).total_seconds() < YOUNG_S
    if there.unknown != NOT_SHOWN or there.billing or not young:
        return there
    say("not listed (yet): looking again, for up to a minute")
    found = find_run(api, entry.plan.run_id, attempt=entry.plan.attempt)
    return Presence((found, *there.machines)) if found else there
