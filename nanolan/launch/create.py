"""Creates a run's instance: last check, intent in the ledger, create, id. One create at a time on this laptop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    CheckUnavailable,
    MayBeBilling,
    NanolanError,
    NotFound,
    PreflightFailed,
)
from nanolan.hub.client import Hub
from nanolan.launch.claim import LaunchedElsewhere, stopped_error
from nanolan.launch.preflight import check_outputs
from nanolan.launch.request import output_tags
from nanolan.money import dollars
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, Entry, Ledger
from nanolan.run.presence import name_of, presence
from nanolan.run.record import to_json
from nanolan.run.requests import STOP_FILE, StopRequest
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import create_once
from nanolan.times import iso, now_utc


def create(
    api: Shadeform, body: dict[str, Any], entry: Entry, ledger: Ledger, say: Callable[[str], None]
) -> tuple[Entry, bool]:
    """(the entry with its instance, whether Ctrl-C was pressed). Nothing is rented unless the ledger has stored the intent."""
    ledger.put(entry)
    try:
        instance_id, interrupted = create_once(api, body, entry.plan, say=say)
    except MayBeBilling:  # unknown, so the entry stays open
        raise
    except NanolanError as e:
        ledger.note(structs.replace(entry, gone=True, note=f"{REFUSED}: {e}"), say)
        raise
    entry = structs.replace(entry, instance_id=instance_id)
    ledger.note(entry, say)
    return entry, interrupted


def stop_asked_on_hub(hub: Hub, plan: Plan, first_attempt: int) -> bool:
    """Whether `just stop`, typed on any laptop, asked an attempt of this launch (from `first_attempt` on) to stop.

    CheckUnavailable when the Hub does not answer."""
    try:
        request = msgspec.json.decode(
            hub.read(plan.runs_repo, f"{plan.folder}/{STOP_FILE}"), type=StopRequest
        )
    except NotFound:
        return False
    except UNREADABLE:
        where = f"{plan.folder}/{STOP_FILE} in {plan.runs_repo}"
        raise CheckUnavailable(
            f"{where} cannot be read: it may be a request to stop; nothing was rented. Remove it if it is none"
        ) from None
    except (ApiProblem, AuthProblem) as e:
        raise _unavailable(e)(
            f"cannot check whether the run was stopped on another laptop ({e}); nothing was rented"
        ) from None
    return first_attempt <= request.attempt <= plan.attempt


def pass_stop_on(hub: Hub, plan: Plan, first_attempt: int) -> None:
    """Repeat a request to stop for this attempt that came after the last check before its create and names an earlier one: the
    box reads only its own. Best effort."""
    with suppress(NanolanError):
        if stop_asked_on_hub(hub, plan, first_attempt):
            request = StopRequest(plan.attempt, iso(now_utc()))
            hub.commit(
                plan.runs_repo,
                {f"{plan.folder}/{STOP_FILE}": to_json(request)},
                f"run {plan.run_id}: asked to stop",
            )


def _unavailable(e: NanolanError) -> type[PreflightFailed]:
    """The kind of error for a check that could not be made: only a service that does not answer may do so later."""
    return PreflightFailed if isinstance(e, AuthProblem) else CheckUnavailable


def check_before_create(
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    plan: Plan,
    first_attempt: int,
    say: Callable[[str], None],
) -> None:
    """Raise unless the run was not stopped and no other run, listed or not, writes its folders.

    Called under the create lock, so no other launch on this laptop creates meanwhile."""
    if ledger.stop_asked(plan.run_id) or stop_asked_on_hub(hub, plan, first_attempt):
        for entry in (
            e for e in ledger.readable()[0] if e.plan.run_id == plan.run_id
        ):  # the previous attempt
            ledger.note(structs.replace(entry, note=STOPPED_BY_USER), say)
        raise stopped_error(plan)
    try:
        listed = api.instances()
    except (ApiProblem, AuthProblem) as e:
        raise _unavailable(e)(
            f"cannot check whether another run writes the same folder ({e}); nothing was rented"
        ) from None
    if mine := [i for i in listed if i.is_run(plan.run_id) and i.billing]:
        raise MayBeBilling(
            f"run {plan.run_id} has an instance already: {mine[0].name} ({mine[0].id}, {dollars(mine[0].hourly_cents)}/h); "
            f"no other one was rented. Look: just status {plan.run_id}; end it: just stop {plan.run_id} --now"
        )
    check = check_outputs(listed, output_tags(plan))
    if check.ok is False:
        raise PreflightFailed(f"{check.text}; nothing was rented")
    for other in ledger.readable()[0]:
        same = (
            ""
            if other.gone or other.plan.run_id == plan.run_id
            else _shared_folder(other.plan, plan)
        )
        if same and not presence(api.info, other, listed, now_utc()).gone:
            raise PreflightFailed(
                f"{same} may be written by run {other.plan.run_id}: {name_of(other)}. Wait, stop it, or use "
                "another folder: output-tag=NAME; nothing was rented"
            )


def refuse_superseded(ledger: Ledger, plan: Plan) -> None:
    """LaunchedElsewhere if another command of this laptop has launched this attempt since it was prepared."""
    for entry in ledger.readable()[0]:
        if entry.plan.run_id == plan.run_id and entry.plan.attempt >= plan.attempt:
            raise LaunchedElsewhere(
                f"attempt {entry.plan.attempt} of run {plan.run_id} was launched by another command; nothing was rented. "
                f"Look: just status {plan.run_id}"
            )


def _shared_folder(one: Plan, other: Plan) -> str:
    """A Hub folder that both runs write, or ""."""
    if one.hf_endpoint != other.hf_endpoint:
        return ""
    theirs = {t.lower() for t in output_tags(one)}
    return next((t.partition("=")[2] for t in output_tags(other) if t.lower() in theirs), "")
