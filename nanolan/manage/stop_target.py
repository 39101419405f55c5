"""Which run and which instances `just stop` means, by run id, run name or instance id."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nanolan.errors import ApiProblem, AuthProblem, NanolanError, UsageProblem
from nanolan.run.find import check_owner, find, later_attempt, run_search
from nanolan.run.ledger import Entry, Ledger, matching
from nanolan.run.presence import NOT_SHOWN, Presence, presence
from nanolan.settings.settings import Settings, is_loopback
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import FIND_TRIES, find_run
from nanolan.shadeform.models import Instance
from nanolan.times import now_utc, parse_time

LOCAL_TRIES = 3  # on loopback, instead of a minute
YOUNG_S = 600.0  # up to this age of a plan, an unlisted instance is searched for again


def candidates(ledger: Ledger, which: str | None) -> list[Entry]:
    """The runs of the ledger that `which` can mean; without `which` the newest."""
    if not which and not ledger.entries():
        return []
    return matching(ledger.entries(), which) if which else [ledger.find(None)]


def find_target(
    ledger: Ledger,
    api: Shadeform,
    settings: Settings,
    which: str | None,
    owner: str | None,
    say: Callable[[str], None],
) -> tuple[Entry | None, Presence]:
    """The run that `which` means, and its instances; no run if it is the id of our instance without a ledger entry."""
    try:
        instances = api.instances()
    except (ApiProblem, AuthProblem) as e:
        return find_by_ledger(ledger, api, which, e, say)
    instance = next((i for i in instances if i.id == which), None)
    known = candidates(ledger, (instance.run_id or instance.id) if instance else which or "")
    if instance and not known:
        if instance.owner not in (ledger.owner, owner) or instance.owner is None:
            raise UsageProblem(
                f"{instance.id} ({instance.name}) was not started from here; if it is yours: just orphans, or Shadeform's "
                "dashboard"
            )
        return None, Presence((instance,))
    try:
        entry = known[0] if instance else find(ledger, which, run_search(settings, api), owner)
    except (
        NanolanError
    ):  # the run's ledger file or run folder is unreadable: its tags name the owner
        if mine := [
            i
            for i in instances
            if which and i.run_id == which and i.owner == ledger.owner and i.billing
        ]:
            return None, Presence(tuple(mine))
        raise
    check_owner(ledger, entry)
    entry = launched_elsewhere(settings, api, entry, instances, say)
    return entry, Presence((instance,)) if instance else search_again(
        api, entry, presence(api.info, entry, instances, now_utc()), say
    )


def launched_elsewhere(
    settings: Settings,
    api: Shadeform,
    entry: Entry,
    instances: Iterable[Instance],
    say: Callable[[str], None],
) -> Entry:
    """The entry, or that of a later attempt that another laptop has launched: a request to stop must name that one."""
    hub = run_search(settings, api).hub
    try:
        return later_attempt(hub, entry, instances) if hub else entry
    except NanolanError as e:
        say(f"a later attempt of the run bills, and its plan is unavailable ({e})")
        return entry


def find_by_ledger(
    ledger: Ledger,
    api: Shadeform,
    which: str | None,
    problem: NanolanError,
    say: Callable[[str], None],
) -> tuple[Entry | None, Presence]:
    """find_target without a readable listing: by the instance id in the ledger."""
    known = candidates(ledger, which)
    present = presence(api.info, known[0], None, now_utc()) if len(known) == 1 else None
    if present is None or not present.billing:
        raise problem
    say(f"{problem}. Using the ledger: {present.billing[0].id}")
    return known[0], present


def search_again(
    api: Shadeform, entry: Entry, present: Presence, say: Callable[[str], None]
) -> Presence:
    """For a young run, search longer for an instance that no listing shows yet."""
    young = (now_utc() - parse_time(entry.plan.created_at)).total_seconds() < YOUNG_S
    if present.unknown != NOT_SHOWN or present.billing or not young:
        return present
    say("not listed (yet): checking again, for up to a minute")
    tries = LOCAL_TRIES if is_loopback(api.base) else FIND_TRIES
    found = find_run(api, entry.plan.run_id, tries, attempt=entry.plan.attempt)
    return Presence((found, *present.machines)) if found else present
