"""The request to stop: a small file in the run folder, which the box polls for; and waiting until the instance is deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from nanolan.errors import LedgerProblem, MayBeBilling
from nanolan.hub.client import Hub
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.ledger import CREATE_WAIT_S, Ledger
from nanolan.run.presence import name_of
from nanolan.run.record import SILENT_S, to_json
from nanolan.run.requests import STOP_FILE, StopRequest
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc, parse_time

LOOK_EVERY_S = 5.0
LAUNCH_LOOK_S = 0.2


def ask_to_stop(hub: Hub, plan: Plan, now: datetime | None = None) -> None:
    """Write the request to the run folder."""
    request = StopRequest(plan.attempt, iso(now or now_utc()))
    hub.commit(
        plan.runs_repo,
        {f"{plan.folder}/{STOP_FILE}": to_json(request)},
        f"run {plan.run_id}: asked to stop",
    )


def why_not_listening(view: RunView, now: datetime) -> str:
    """Why the box would not read a request, or "" (also for a box that has ended and deletes itself)."""
    if view.instance and view.instance.status == "error":
        return f"the provider says: {view.instance.details or 'error'}"
    if view.receipt:
        return ""
    if view.progress is None:  # a booting box reads it when it comes up
        return f"it has not reported yet: {view.problems[0]}" if view.problems else ""
    silent_s = (now - parse_time(view.progress.updated)).total_seconds()
    return f"it has not reported for {silent_s / 60:.0f} minutes" if silent_s > SILENT_S else ""


def stop_launch(
    ledger: Ledger,
    run_id: str,
    say: Callable[[str], None],
    *,
    wait_s: float = CREATE_WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Prevent the launch of a run from renting another instance: it reads the stop mark before every create.

    Waits for a create that is in progress, so that the ledger knows its instance."""
    entry = ledger.find(run_id)
    try:
        ledger.ask_to_stop(run_id)
    except LedgerProblem as e:
        raise MayBeBilling(
            f"the launch of run {run_id} could not be notified ({e}); end it with Ctrl-C. It may rent: "
            f"{name_of(entry)}"
        ) from None
    end, said = clock() + wait_s, False
    while ledger.is_creating(run_id):
        if not said:
            say("its launch is creating an instance right now; waiting for the answer")
            said = True
        if clock() >= end:
            raise MayBeBilling(
                f"the create of run {run_id} was not answered within {wait_s / 60:.0f} minutes. It may bill: "
                f"{name_of(entry)}"
            )
        sleep(LAUNCH_LOOK_S)


def still_billing_error(view: RunView, why: str) -> MayBeBilling:
    """The error of a stop whose instance is not confirmed deleted."""
    plan, i = view.entry.plan, view.instance
    price = (i.hourly_cents if i else None) or plan.offer.hourly_cents
    return MayBeBilling(
        f"{why}; instance {i.id if i else view.entry.instance_id} ({dollars(price)}/h) may continue to bill, up to "
        f"{dollars(plan.limit_cents)} or {plan.deadline} at most. Delete it at once, with what is not on the Hub "
        f"yet: just stop {plan.run_id} --now"
    )


def wait_until_gone(
    look: Callable[[], Overview],
    say: Callable[[str], None],
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> RunView:
    """Report every stage of a run's end until its deletion is confirmed; MayBeBilling after `timeout_s`."""
    end, said = clock() + timeout_s, ""
    while True:
        seen = look()
        view = seen.runs[0]
        if (
            not seen.problems and not view.unknown and not (view.instance and view.instance.billing)
        ):  # an unreadable account does not count as "gone"
            return view
        stage = (
            f"{view.state}{': ' + view.reason if view.reason else ''}"
            if not seen.problems
            else seen.problems[0]
        )
        if stage != said:
            say(f"  {stage} ({dollars(view.spent_cents)} spent)")
            said = stage
        if clock() >= end:
            raise still_billing_error(
                view,
                f"the deletion of run {view.entry.plan.run_id} was not confirmed within {timeout_s / 60:.0f} minutes "
                f"({stage})",
            )
        sleep(min(LOOK_EVERY_S, max(0.0, end - clock())))
