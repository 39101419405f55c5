"""Changes the limit of a running run: at the provider, on the box and in the ledger, in a safe order.

Raised: the provider first, so that the box never assumes more than the provider allows. Lowered: the box first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from msgspec import structs

from nanolan.cost.budget import life_s
from nanolan.errors import NanolanError, UnclearAnswer, UsageProblem
from nanolan.hub.client import Hub
from nanolan.launch.request import provider_limits
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.ledger import Entry
from nanolan.run.record import to_json
from nanolan.run.requests import LIMIT_FILE, LimitRequest
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import difference_from_plan
from nanolan.shadeform.models import Instance
from nanolan.times import iso, now_utc, parse_time

READ_BACK_S, READ_BACK_WAIT_S = 60.0, 2.0


def left_for_attempt(plan: Plan, cents: int, earlier_cents: int) -> int:
    """What a limit of the whole run leaves for its newest attempt; UsageProblem if the attempts before have used it up."""
    if cents <= earlier_cents:
        raise UsageProblem(
            f"the earlier attempts of run {plan.run_id} have cost {dollars(earlier_cents)} already; nothing was changed. "
            f"To end it: just stop {plan.run_id}"
        )
    return cents - earlier_cents


def refuse_newer(now: Plan, agreed: Plan) -> None:
    """UsageProblem if the run has another attempt, or another limit, than the one that the user was asked about."""
    if (now.attempt, now.limit_cents) != (agreed.attempt, agreed.limit_cents):
        raise UsageProblem(
            f"run {now.run_id} has changed while you were asked (attempt {now.attempt}); nothing was changed. "
            "The same command tries again"
        )


def with_limit(
    plan: Plan, limit_cents: int, max_duration_s: int | None, spent_cents: int | None, now: datetime
) -> Plan:
    """The plan with that limit and a deadline that fits it; UsageProblem if the limit is already used up."""
    if spent_cents is not None and limit_cents <= spent_cents:
        raise UsageProblem(
            f"{dollars(spent_cents)} is already spent; nothing was changed. To end the run: just stop {plan.run_id}"
        )
    born = parse_time(plan.created_at)
    deadline = born + timedelta(
        seconds=life_s(limit_cents, plan.offer.hourly_cents, None, max_duration_s)
    )
    if limit_cents < plan.limit_cents and max_duration_s is None:
        deadline = min(deadline, parse_time(plan.deadline))
    if deadline <= now:
        raise UsageProblem(
            f"the run is {(now - born).total_seconds() / 60:.0f} minutes old; nothing was changed. "
            f"To end it: just stop {plan.run_id}"
        )
    limits = plan.limits
    if limits and max_duration_s is not None:  # of the attempts that follow, too
        limits = structs.replace(limits, max_duration=max_duration_s)
    return structs.replace(plan, limit_cents=limit_cents, deadline=iso(deadline), limits=limits)


def apply_limit(
    api: Shadeform,
    hub: Hub,
    entry: Entry,
    instance: Instance,
    plan: Plan,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Entry:
    """Apply `plan`'s limits everywhere and return the entry for the ledger. An error names the limit that holds."""

    def provider() -> None:
        _provider(api, instance.id, plan, clock)
        say(
            f"the provider deletes it at {dollars(plan.limit_cents)} or at {plan.deadline}, read back"
        )

    def box() -> None:
        hub.commit(
            plan.runs_repo,
            request_of(plan),
            f"run {plan.run_id}: limit {dollars(plan.limit_cents)}",
        )
        say("sent to the box, which checks about once a minute")

    old = entry.plan
    raised = plan.limit_cents >= old.limit_cents
    for number, step in enumerate((provider, box) if raised else (box, provider)):
        try:
            step()
        except NanolanError as e:
            lower = min(plan.limit_cents, old.limit_cents)
            holds = (
                f"the lower limit of {dollars(lower)} holds" if number else "nothing was changed"
            )
            raise NanolanError(
                f"the limit was not {'raised' if raised else 'lowered'}: {e}; {holds}. "
                "The same command tries again"
            ) from e
    return structs.replace(entry, plan=plan)


def request_of(plan: Plan) -> dict[str, bytes | Path]:
    """The files in the run folder that tell the box its new limit."""
    epoch = int(parse_time(plan.deadline).timestamp())
    request = LimitRequest(plan.attempt, plan.limit_cents, plan.deadline, epoch, iso(now_utc()))
    return {
        f"{plan.folder}/{LIMIT_FILE}": to_json(request),
        f"{plan.folder}/plan.json": plan.to_json(),
    }


def _provider(api: Shadeform, instance_id: str, plan: Plan, clock: Callable[[], float]) -> None:
    """Send the limits and wait until they are read back."""
    end = clock() + READ_BACK_S
    try:
        api.update(instance_id, {"auto_delete": provider_limits(plan)})
    except UnclearAnswer:
        pass  # the read-back decides
    while True:
        stored = api.info(instance_id)
        known = (
            stored.limits is not None
            and stored.limits.spend_cents is not None
            and stored.limits.date is not None
        )
        wrong = difference_from_plan(stored, plan) if known else "the provider shows no limit"
        if not wrong:
            return
        if clock() >= end:
            raise NanolanError(f"{wrong} after {READ_BACK_S:.0f} s")
        api.sleep(READ_BACK_WAIT_S)
